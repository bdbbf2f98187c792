//! Two daemons over three servers: whatever is killed, the counters are exact.

use std::time::{Duration, Instant};

use crate::harness::instance::PATIENCE;
use crate::harness::python::{self, Script, Workers};
use crate::harness::{Instance, Lab, LabSetup, until, until_ok, wait};

const COOP: LabSetup = LabSetup {
    servers: 3,
    files: 0,
    files_first: false,
    msgpack: false,
    blobs: false,
    settings: "cluster_mode: coop\nlock_timeout: 15s",
};

/// Two daemons with the same members.
fn two() -> (Lab, Instance) {
    two_with(COOP)
}

fn two_with(setup: LabSetup) -> (Lab, Instance) {
    let lab = Lab::new(setup);
    let other = Instance::new();
    lab.configure(&other, &[0, 1, 2]);
    lab.instance.start().ok();
    lab.instance.wait_optimal();
    other.start().ok();
    other.wait_optimal();
    (lab, other)
}

fn both(lab: &Lab, other: &Instance) -> String {
    format!("{},{}", lab.instance.address, other.address)
}

/// Ends everything, and compares.
fn end(mut lab: Lab, other: &Instance, mut workers: Workers) {
    lab.instance.wait_optimal();
    other.wait_optimal();
    workers.end();
    other.stop().ok();
    lab.compare(&workers.logs());
}

#[test]
fn two_daemons_write_to_the_same_servers() {
    let (lab, other) = two();
    // Half of the clients at each.
    let folder = lab.instance.beside("");
    let mut here = Workers::start_with(&lab.instance.address, &folder, 2, &["--mix", "undo,cold"]);
    let mut there = Workers::join(&other.address, &folder, 2, 2, &["--mix", "undo,cold"]);
    here.wait_for_more(10);
    there.wait_for_more(10);
    let totals = there.end();
    assert_eq!(totals.errors, 0, "{totals:?}");
    let totals = here.end();
    assert_eq!(totals.errors, 0, "{totals:?}");
    let mut logs = here.logs();
    logs.extend(there.logs());
    lab.instance.wait_optimal();
    other.wait_optimal();
    other.stop().ok();
    let mut lab = lab;
    lab.compare(&logs);
}

#[test]
fn a_client_goes_to_the_other_daemon_and_verifies_its_cache() {
    let (lab, other) = two();
    let cache = lab.instance.beside("cache.zec");
    let cache = cache.to_str().expect("a plain path");
    python::run("features.py", &["cache_fill", &lab.instance.address, cache]).ok();
    // What was cached is changed through the other daemon while the client is away.
    python::run("features.py", &["cache_change", &other.address]).ok();
    lab.instance.kill9();
    python::run("features.py", &["cache_check", &other.address, cache]).ok();
    lab.instance.start().ok();
    lab.instance.wait_optimal();
    let mut lab = lab;
    other.stop().ok();
    lab.compare(&[]);
}

/// What README says of it: its locks stay until it is gone, and the others cannot do without them.
#[test]
fn a_daemon_that_is_stopped_within_a_commit_stops_the_others_until_it_is_killed() {
    let (mut lab, other) = two_with(LabSetup {
        settings: "cluster_mode: coop\nlock_timeout: 3s",
        ..COOP
    });
    let mut holder = Script::spawn("features.py", &["vote_and_hold", &other.address]);
    holder.wait_printed("voted");
    other.freeze();
    let _waits = Script::spawn("features.py", &["plain_visit", &lab.instance.address]);
    until_ok("the locks to be given up", PATIENCE, || {
        let details = lab.instance.try_details()?;
        if details["serving"] == false {
            Ok(())
        } else {
            Err(format!("{details:#}"))
        }
    });
    other.kill9();
    lab.instance.wait_optimal();
    python::run("features.py", &["plain_visit", &lab.instance.address]).ok();
    other.start().ok();
    other.wait_optimal();
    other.stop().ok();
    lab.compare(&[]);
}

/// What is killed in a round.
#[derive(Debug, Clone, Copy)]
enum Victim {
    /// The first daemon.
    Here,
    /// The second.
    There,
    Server(usize),
}

/// Kills daemons and servers in random order under a load of counters that conflict. A short run; a
/// longer one with `ZEORAID_LAB_SECONDS=300`, the same again with `ZEORAID_SEED=`.
#[test]
fn daemons_and_servers_are_killed_at_random_and_the_counters_are_exact() {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().expect("a number"))
    };
    let seed = number("ZEORAID_SEED").unwrap_or_else(|| fastrand::u64(..));
    let seconds = number("ZEORAID_LAB_SECONDS").unwrap_or(30);
    eprintln!("ZEORAID_SEED={seed} ZEORAID_LAB_SECONDS={seconds}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut lab, other) = two();
    let folder = lab.instance.beside("");
    let more = &["--mix", "undo,cold", "--pause", "0.05", "--tolerant"];
    let mut workers = Workers::start_with(&both(&lab, &other), &folder, 4, more);
    workers.wait_for_more(3);
    let end_at = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end_at {
        let moment = Instant::now() + Duration::from_millis(random.u64(0..1500));
        while Instant::now() < moment {
            wait::pause();
        }
        let mut victims = vec![match random.u8(0..5) {
            0 => Victim::Here,
            1 => Victim::There,
            server => Victim::Server(usize::from(server) - 2),
        }];
        // Sometimes two at once: a daemon and a server.
        if random.u8(0..3) == 0 {
            victims.push(match victims[0] {
                Victim::Here | Victim::There => Victim::Server(random.usize(0..3)),
                Victim::Server(_) => Victim::There,
            });
        }
        eprintln!("killing {victims:?}");
        for victim in &victims {
            match victim {
                Victim::Here => lab.instance.kill9(),
                Victim::There => other.kill9(),
                Victim::Server(index) => lab.servers[*index].kill9(),
            }
        }
        if random.bool() {
            let before: usize = workers.acknowledged().iter().sum();
            until("a client to go on without them", PATIENCE, || {
                workers.check_alive();
                workers.acknowledged().iter().sum::<usize>() > before
            });
        }
        for victim in &victims {
            match victim {
                Victim::Here => drop(lab.instance.run(&["start", "--no-wait"])),
                Victim::There => drop(other.run(&["start", "--no-wait"])),
                Victim::Server(index) => lab.servers[*index].start(),
            }
        }
        for instance in [&lab.instance, &other] {
            until_ok("all members to be back", PATIENCE * 3, || {
                let details = instance.try_details()?;
                if details["state"] == "optimal" && details["serving"] == true {
                    return Ok(());
                }
                Err(format!("{details:#}"))
            });
        }
        workers.wait_for_more(1);
    }
    end(lab, &other, workers);
}
