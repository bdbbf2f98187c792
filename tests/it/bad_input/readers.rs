//! Clients that ask and do not read, and those that ask for more than is answered: what they get takes no more
//! memory than the limits say, and they are let go of.

use std::time::Instant;

use super::limits::{PATIENCE, ask, begin, hostile, load, passed, start_with, started, store};
use crate::harness::instance::Instance;
use crate::harness::python::{self, Workers};
use crate::harness::raw::{Raw, Say};
use crate::harness::resources::resident_kib;
use crate::harness::{Lab, LabSetup, until_ok};

/// The record of 24 MiB that `features.py large` writes.
const LARGE: [u8; 8] = [0, 0, 0, 0, 0, 0, 0, 1];

/// A client that asks for a lot and reads nothing is let go of, when it has had its time; until then it does not
/// take the daemon's memory.
#[test]
fn a_client_that_does_not_read_is_hung_up_on() {
    let instance = Instance::started(&[]);
    // Who reads such a record may be slow, too: it is written before there is little time.
    python::run("features.py", &["large", &instance.address]).ok();
    instance.stop().ok();
    start_with(&instance, "limits: {unread_timeout: 2s}");
    let pid = instance.pid().expect("a daemon runs");
    let before = resident_kib(pid);
    let mut lazy = Raw::registered(&instance.address);
    // 300 times that record is more memory than there is.
    for id in 0..300 {
        load(&mut lazy, 1000 + id, LARGE);
    }
    let mut most = 0;
    python::run("features.py", &["plain_visit", &instance.address]).ok();
    until_ok("it to be let go of", PATIENCE, || {
        most = most.max(resident_kib(pid));
        match passed(&instance, "unread_timeout") {
            0 => Err("not yet"),
            _ => Ok(()),
        }
    });
    eprintln!("{most} KiB at most, {before} KiB before");
    assert!(
        most < before + 300 * 1024,
        "{most} KiB, {before} KiB before"
    );
    // What it has of the first record is not all of it.
    lazy.must_be_hung_up_on();
    let said =
        "limit=limits.unread_timeout what=\"the client did not read what waits for it within 2 s\"";
    assert!(instance.log().contains(said), "{}", instance.log());
    python::run("features.py", &["plain_visit", &instance.address]).ok();
    instance.run(&["status"]).ok().prints("optimal");
}

/// Many ask for many records, none of which is large. Of each client 16 MiB may wait (`limits.unread`): together
/// that would be 600 MiB.
#[test]
fn what_many_do_not_read_takes_no_more_memory_than_all_may_have() {
    let instance = Instance::made(&[]);
    // Else all are given the same bytes, which are in memory once.
    instance.configure("main:", "    cache: 0B");
    start_with(&instance, "limits: {frame: 1MiB, memory: 32MiB}");
    let mut workers = Workers::start(&instance.address, &instance.beside(""), false);
    let mut raw = hostile(&instance);
    begin(&mut raw, 1);
    for oid in 0..20 {
        store(&mut raw, 1, oid, &vec![oid; 900 << 10]);
    }
    assert_eq!(raw.call("vote", vec![Say::Int(1)]).error(), None);
    assert_eq!(raw.call("tpc_finish", vec![Say::Int(1)]).error(), None);
    workers.wait_for_more(1);
    let pid = instance.pid().expect("a daemon runs");
    let before = resident_kib(pid);
    let mut most = 0;
    let mut lazy: Vec<Raw> = (0..40).map(|_| hostile(&instance)).collect();
    for raw in &mut lazy {
        for oid in 0..20 {
            ask(raw, 1000 + i64::from(oid), oid);
        }
        most = most.max(resident_kib(pid));
    }
    until_ok("some of them to be let go of", PATIENCE, || {
        most = most.max(resident_kib(pid));
        match passed(&instance, "memory") {
            gone @ 0..5 => Err(format!("{gone} are gone")),
            _ => Ok(()),
        }
    });
    eprintln!("{most} KiB at most, {before} KiB before");
    // The limit, what is everybody's own (256 KiB each), and what is being read at the moment.
    assert!(
        most < before + 200 * 1024,
        "{most} KiB, {before} KiB before"
    );
    workers.wait_for_more(1);
    drop((lazy, raw));
    let totals = workers.end();
    assert_eq!(totals.errors, 0, "{totals:?}");
    instance.run(&["status"]).ok().prints("optimal");
    python::verify(&instance.given_back(), &workers.logs());
}

/// A record of 24 MiB, asked for by many who do not read it: they would have a gigabyte.
#[test]
fn slow_readers_of_large_records_stay_within_the_limit_of_memory() {
    let instance = started("limits: {frame: 64MiB, memory: 96MiB}");
    python::run("features.py", &["large", &instance.address]).ok();
    let pid = instance.pid().expect("a daemon runs");
    let before = resident_kib(pid);
    let mut lazy: Vec<Raw> = (0..40).map(|_| hostile(&instance)).collect();
    let mut most = 0;
    for raw in &mut lazy {
        for id in 0..6 {
            load(raw, id, LARGE);
        }
        most = most.max(resident_kib(pid));
    }
    until_ok("slow readers to be let go of", PATIENCE, || {
        most = most.max(resident_kib(pid));
        let gone = passed(&instance, "memory");
        if gone >= 5 {
            Ok(())
        } else {
            Err(format!("{gone} are gone"))
        }
    });
    let started = Instant::now();
    python::run("features.py", &["plain_visit", &instance.address]).ok();
    eprintln!(
        "{most} KiB at most, {before} KiB before; a visit took {:?}",
        started.elapsed()
    );
    // The limit, and what is being read at the moment.
    assert!(
        most < before + 400 * 1024,
        "{most} KiB, {before} KiB before"
    );
    drop(lazy);
    instance.run(&["status"]).ok().prints("optimal");
}

/// Where a member does not answer, so many calls of one client wait for it (`limits.calls`); the others are not
/// even read. All are answered when it does.
#[test]
fn no_more_calls_of_one_client_are_asked_than_may_be() {
    let lab = Lab::new(LabSetup {
        servers: 1,
        // It may be silent for as long as it likes.
        settings: "member_timeout: 10m",
        ..LabSetup::default()
    });
    let instance = &lab.instance;
    start_with(instance, "limits: {calls: 16}");
    instance.wait_optimal();
    python::run("features.py", &["plain_visit", &instance.address]).ok();
    let mut eager = Raw::registered(&instance.address);
    let mut other = Raw::registered(&instance.address);
    let loads = || {
        let metrics = instance.ask("/metrics");
        let name = "zeoraid_loads_total{array=\"main\"} ";
        let count = metrics.lines().find_map(|line| line.strip_prefix(name));
        let count = count.unwrap_or_else(|| panic!("no loads in\n{metrics}"));
        count.trim().parse::<u64>().expect("a count")
    };
    lab.servers[0].freeze();
    let before = loads();
    for oid in 0..100 {
        ask(&mut eager, i64::from(oid), oid);
    }
    until_ok("loads to be asked for", PATIENCE, || {
        match loads() - before {
            few @ 0..16 => Err(format!("{few} are")),
            _ => Ok(()),
        }
    });
    // Another client's calls are taken all the same, after which those of the first would be, too.
    for oid in 0..10 {
        ask(&mut other, i64::from(oid), oid);
    }
    until_ok("another's loads to be asked for", PATIENCE, || {
        match loads() - before {
            few @ 0..26 => Err(format!("{few} are")),
            _ => Ok(()),
        }
    });
    assert_eq!(loads() - before, 26);
    lab.servers[0].thaw();
    for _ in 0..100 {
        // There is no such object, says the server.
        let answer = eager.next_reply();
        let error = answer.error();
        assert_eq!(
            error.as_deref(),
            Some("ZODB.POSException.POSKeyError"),
            "{answer:?}"
        );
    }
    instance.run(&["status"]).ok().prints("optimal");
}
