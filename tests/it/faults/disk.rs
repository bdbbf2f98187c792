//! A server whose disk is full: it says so in its answer to the vote, and that is its own failure, not
//! the transaction's.
//!
//! `FileStorage` then cuts off what it has begun to write, where the system lets it: mostly it runs out of room
//! in its temporary file and nothing was written. Where it was the file itself, Python still has the rest
//! in a buffer, cannot cut before that is written, and leaves half a transaction at the end, by which
//! its own iterators lose their way until the server is started anew.

use std::fs::{self, File};
use std::io::Write;

use crate::harness::disk::SmallDisk;
use crate::harness::instance::PATIENCE;
use crate::harness::proxy::{Deed, Exception, Moment};
use crate::harness::python::{self, Workers};
use crate::harness::{Instance, Lab, LabSetup, until_ok};

const FULL: &str = "no space left";
const RESTART: &str = "restart that server";

const NO_BLOBS: LabSetup = LabSetup {
    blobs: false,
    ..LabSetup::TWO
};

/// A laboratory whose `zeo1` has a disk of its own, of so much.
fn with_small_disk(setup: LabSetup, kib: u64, test: &str) -> Option<(SmallDisk, Lab)> {
    let instance = Instance::new();
    let disk = SmallDisk::mount(&instance.beside("zeo1"), kib, test)?;
    let lab = Lab::on(instance, setup);
    lab.instance.start().ok();
    lab.instance.wait_optimal();
    Some((disk, lab))
}

/// The reason why `zeo1` is out, once it says one of these.
fn reason(lab: &Lab, workers: &mut Workers, any_of: &[&str]) -> String {
    until_ok("the reason", PATIENCE * 2, || {
        workers.check_alive();
        let member = lab.instance.member("zeo1");
        let reason = member["reason"].as_str().unwrap_or_default();
        if member["state"] == "degraded" && any_of.iter().any(|part| reason.contains(part)) {
            Ok(reason.to_owned())
        } else {
            Err(format!("{member:#}"))
        }
    })
}

/// There is room again: `zeo1` comes back by itself, or says that its server must be started anew.
fn comes_back(lab: &mut Lab) {
    lab.hurry("zeo1");
    let stuck = until_ok("it to come back, or to say why not", PATIENCE, || {
        let member = lab.instance.member("zeo1");
        let reason = member["reason"].as_str().unwrap_or_default();
        match member["state"].as_str() {
            Some("optimal") => Ok(false),
            Some("degraded") if reason.ends_with(RESTART) => Ok(true),
            _ => Err(format!("{member:#}")),
        }
    });
    if stuck {
        eprintln!("it has left half a transaction");
        lab.servers[0].stop();
        lab.servers[0].start();
        lab.hurry("zeo1");
    }
    lab.instance.wait_optimal();
}

fn runs_full(setup: LabSetup, test: &str) {
    let Some((disk, mut lab)) = with_small_disk(setup, 1024, test) else {
        return;
    };
    let mut workers = lab.workers(3);
    reason(&lab, &mut workers, &[FULL]);
    workers.wait_for_more(3);
    disk.resize(64 * 1024);
    comes_back(&mut lab);
    workers.wait_for_more(2);
    lab.finish(workers);
}

#[test]
fn a_server_without_room_is_taken_out_and_recovered_when_it_has_some() {
    let test = "a_server_without_room_is_taken_out_and_recovered_when_it_has_some";
    runs_full(NO_BLOBS, test);
}

#[test]
fn a_server_without_room_for_blobs_is_taken_out_and_recovered_when_it_has_some() {
    let test = "a_server_without_room_for_blobs_is_taken_out_and_recovered_when_it_has_some";
    runs_full(LabSetup::TWO, test);
}

#[test]
fn a_recovery_whose_target_has_no_room_says_so_and_goes_on_when_it_has_some() {
    let test = "a_recovery_whose_target_has_no_room_says_so_and_goes_on_when_it_has_some";
    let Some((disk, mut lab)) = with_small_disk(LabSetup::TWO, 2048, test) else {
        return;
    };
    let mut workers = lab.workers(2);
    lab.instance.run(&["disable", "zeo1", "--yes"]).ok();
    python::run("features.py", &["bulk", &lab.instance.address, "20"]).ok();
    workers.wait_for_more(2);
    lab.instance.run(&["recover", "zeo1"]).ended(1).says(FULL);
    reason(&lab, &mut workers, &[FULL, RESTART]);
    workers.wait_for_more(2);
    disk.resize(64 * 1024);
    comes_back(&mut lab);
    workers.wait_for_more(2);
    lab.finish(workers);
}

/// The same where no disk can be mounted, and at the finish: a transaction is written at its vote, but who
/// knows what a file system does when it is made durable.
#[test]
fn a_server_that_says_it_has_no_room_is_taken_out_and_recovered() {
    let lab = Lab::started(LabSetup::TWO);
    let mut workers = lab.workers(2);
    workers.wait_for_more(2);
    for method in ["vote", "tpc_finish"] {
        eprintln!("{method}");
        lab.proxies[0].set_trap(Moment::Asked(method), Deed::Error(Exception::NO_SPACE));
        lab.proxies[0].wait_sprung(PATIENCE);
        reason(&lab, &mut workers, &[FULL]);
        workers.wait_for_more(2);
        lab.proxies[0].mend();
        lab.hurry("zeo1");
        lab.instance.wait_optimal();
    }
    lab.finish(workers);
}

#[test]
fn half_a_transaction_at_the_end_of_a_servers_file_is_told_with_the_mend() {
    let mut lab = Lab::started(LabSetup::TWO);
    let mut workers = lab.workers(2);
    workers.wait_for_more(2);
    lab.instance.run(&["disable", "zeo1", "--yes"]).ok();
    workers.wait_for_more(2);
    // What it would have written next.
    let held = fs::read(lab.servers[0].data()).expect("a Data.fs");
    let theirs = fs::read(lab.servers[1].data()).expect("another Data.fs");
    assert!(theirs.starts_with(&held), "the files are alike up to here");
    let ours = File::options().append(true).open(lab.servers[0].data());
    let mut ours = ours.expect("a Data.fs");
    ours.write_all(&theirs[held.len()..held.len() + 200])
        .expect("half a transaction");
    drop(ours);
    lab.instance
        .run(&["recover", "zeo1"])
        .ended(1)
        .says(RESTART);
    let member = lab.instance.wait_member("zeo1", "degraded");
    let said = |name: &str| member[name].as_str().unwrap_or_default().to_owned();
    assert!(said("reason").ends_with(RESTART), "{member:#}");
    assert!(
        said("outlook").ends_with("recovers by itself after that"),
        "{member:#}"
    );
    lab.servers[0].stop();
    lab.servers[0].start();
    lab.instance.wait_optimal();
    lab.finish(workers);
}
