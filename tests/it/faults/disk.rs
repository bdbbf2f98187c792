//! A server whose disk is full: it says so in its answer to the vote, and that is its own failure, not
//! the transaction's.
//!
//! `FileStorage` then cuts off what it has begun to write, where the system lets it: mostly it runs out of room
//! in its temporary file and nothing was written. Where it was the file itself, Python still has the rest
//! in a buffer, cannot cut before that is written, and leaves half a transaction at the end, by which
//! its own iterators lose their way until the server is started anew. And ZEO's server does not look how much
//! of a piece of a blob was written: it may keep a part of one and say that all is well, which the next recovery
//! finds.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::harness::disk::SmallDisk;
use crate::harness::instance::PATIENCE;
use crate::harness::proxy::{Deed, Exception, Moment};
use crate::harness::python::{self, Workers};
use crate::harness::{Instance, Lab, LabSetup, until_ok};

const FULL: &str = "no space left";
const RESTART: &str = "restart that server";
const PART_OF_A_BLOB: &str = "in the file of blob";
/// What it says then, and when all of it is compared because of that.
const DIFFERS: &str = "it differs from the array";

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

/// What the operator of a server has to do before it comes back.
#[derive(Debug)]
enum Mend {
    Nothing,
    Restart,
    Empty,
}

/// There is room again: `zeo1` comes back by itself, or says what its operator has to do first, who does it.
fn comes_back(lab: &mut Lab) -> Mend {
    lab.hurry("zeo1");
    let mend = until_ok("it to come back, or to say why not", PATIENCE, || {
        let member = lab.instance.member("zeo1");
        let reason = member["reason"].as_str().unwrap_or_default();
        match member["state"].as_str() {
            Some("optimal") => Ok(Mend::Nothing),
            Some("degraded") if reason.ends_with(RESTART) => Ok(Mend::Restart),
            Some("degraded") if reason.starts_with(DIFFERS) => Ok(Mend::Empty),
            _ => Err(format!("{member:#}")),
        }
    });
    match &mend {
        Mend::Nothing => {}
        Mend::Restart => {
            eprintln!("it has left half a transaction");
            lab.servers[0].stop();
            lab.servers[0].start();
            lab.hurry("zeo1");
        }
        Mend::Empty => {
            eprintln!("it has left a part of a blob");
            lab.servers[0].stop();
            empty(&lab.servers[0].data());
            lab.servers[0].start();
            lab.instance.run(&["recover", "zeo1"]).ok();
        }
    }
    lab.instance.wait_optimal();
    mend
}

/// Moves a server's file, its index and its blobs away.
fn empty(data: &Path) {
    let folder = data.parent().expect("a file is in a folder");
    let aside = folder.join("aside");
    fs::create_dir(&aside).expect("a folder");
    for name in ["Data.fs", "Data.fs.index", "blobs"] {
        let path = folder.join(name);
        if path.exists() {
            fs::rename(&path, aside.join(name)).expect("moving it aside");
        }
    }
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
fn a_server_that_kept_part_of_its_last_blob_is_told_by_its_recovery() {
    let mut lab = Lab::started(LabSetup::TWO);
    let mut workers = lab.workers_of(2, "blob");
    // They choose by chance what they write.
    until_ok("a blob that is not empty", PATIENCE, || {
        workers.check_alive();
        let newest = newest_blob(&lab.servers[0].blobs());
        newest.ok_or("none is in its folder")
    });
    workers.wait_for_more(2);
    lab.instance.run(&["disable", "zeo1", "--yes"]).ok();
    workers.wait_for_more(2);
    let newest = newest_blob(&lab.servers[0].blobs());
    let (_, newest) = newest.expect("a blob was committed");
    // A server keeps them read-only.
    let folder = newest.parent().expect("a file is in a folder");
    let text = fs::read(&newest).expect("a blob");
    let part = folder.join("part");
    fs::write(&part, &text[..text.len() / 2]).expect("a part of it");
    fs::rename(&part, &newest).expect("the part in its place");
    lab.instance
        .run(&["recover", "zeo1"])
        .ended(1)
        .says(PART_OF_A_BLOB)
        .says("move its Data.fs, Data.fs.index and blobs away");
    let mend = comes_back(&mut lab);
    assert!(matches!(mend, Mend::Empty), "{mend:?}");
    workers.wait_for_more(2);
    lab.finish(workers);
}

/// The file that was written last, and when.
fn newest_blob(folder: &Path) -> Option<(SystemTime, PathBuf)> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    let newest = entries.filter_map(|entry| {
        let (path, about) = (entry.path(), entry.metadata().ok()?);
        if about.is_dir() {
            newest_blob(&path)
        } else {
            let is_blob = path.extension().is_some_and(|kind| kind == "blob") && about.len() > 0;
            is_blob.then(|| Some((about.modified().ok()?, path)))?
        }
    });
    newest.max()
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
