//! `backup`: what it makes is opened by Python and by another array; what it refuses; what is left when it is
//! broken off.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::disk::SmallDisk;
use crate::harness::instance::PATIENCE;
use crate::harness::lab::{Lab, LabSetup};
use crate::harness::python::{self, Workers};
use crate::harness::{Instance, until};

const FILES: LabSetup = LabSetup {
    servers: 0,
    files: 2,
    ..LabSetup::TWO
};

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// What Python finds in a backup.
fn read(folder: &Path) -> Value {
    let data = folder.join("Data.fs");
    let found = python::run("backup_read.py", &[text(&data)]).ok().stdout;
    serde_json::from_str(&found).unwrap_or_else(|error| panic!("{error}: {found}"))
}

fn has_a_blob(folder: &Path) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| {
        let path = entry.path();
        let is_blob = path.extension().is_some_and(|kind| kind == "blob");
        is_blob || (path.is_dir() && has_a_blob(&path))
    })
}

/// Everything in the folder around the instance that has to do with the backup `name`.
fn left(instance: &Instance, name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(instance.beside("")).expect("the folder is there");
    let paths = entries.map(|entry| entry.expect("it can be read").path());
    let of_it = |path: &PathBuf| {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        file.starts_with(name)
    };
    paths.filter(of_it).collect()
}

#[test]
fn a_backup_is_of_one_moment_while_four_clients_commit() {
    let lab = Lab::started(FILES);
    let mut workers = lab.workers_of(4, "blob,undo");
    workers.wait_for_more(20);
    let blobs = lab.file(1).with_file_name("blobs");
    until("a blob to be written", PATIENCE, || has_a_blob(&blobs));
    let instance = &lab.instance;

    // A folder that is named from here is found by the daemon.
    let run = instance.run(&["backup", "monday"]).ok();
    let monday = instance.beside("monday");
    let said = format!("main is backed up in {}, as of", monday.display());
    assert!(run.stderr.contains(&said), "{run}");
    let first = read(&monday);
    assert!(first["committed"].as_u64() >= Some(20), "{first}");
    assert!(first["blobs"].as_u64() >= Some(1), "{first}");
    assert_eq!(left(instance, "monday").len(), 1);

    workers.wait_for_more(10);
    let refused = instance.run(&["backup", "monday"]);
    assert_eq!(refused.code, 1, "{refused}");
    assert!(
        refused.stderr.contains("holds a backup already"),
        "{refused}"
    );
    assert!(refused.stderr.contains("--replace"), "{refused}");
    let run = instance.run(&["backup", "monday", "--replace", "-o", "json"]);
    let job: Value = serde_json::from_str(&run.clone().ok().stdout).expect("JSON");
    assert_eq!(
        (&job["kind"], &job["state"]),
        (&"backup".into(), &"done".into())
    );
    let second = read(&monday);
    assert!(
        second["committed"].as_u64() > first["committed"].as_u64(),
        "{first} {second}"
    );
    assert_eq!(second["transactions"], job["backup"]["transactions"]);
    assert_eq!(second["blobs"], job["backup"]["blobs"]);
    assert_eq!(left(instance, "monday").len(), 1);

    // It makes another array.
    let other = Instance::new();
    let data = monday.join("Data.fs");
    other.init(&[&format!("adopt={}", data.display())]).ok();
    other.start().ok();
    other.wait_optimal();
    let head = other.details()["head"]["tid"].clone();
    assert_eq!(head.as_str().map(|tid| &tid[2..]), second["last"].as_str());

    lab.finish(workers);
}

#[test]
fn a_backup_of_an_empty_array_says_that_it_is_empty() {
    let instance = Instance::started(&[]);
    let run = instance.run(&["backup", "plain"]).ok();
    assert!(run.stderr.contains("it is empty"), "{run}");
    assert!(!run.stderr.contains("as of"), "{run}");
    let run = instance.run(&["backup", "said", "-o", "json"]).ok();
    let job: Value = serde_json::from_str(&run.stdout).expect("JSON");
    assert_eq!(job["backup"]["transactions"], 0, "{job}");
    assert_eq!(job["backup"]["last"], Value::Null, "{job}");
    assert!(
        instance.log().contains("; it is empty"),
        "{}",
        instance.log()
    );

    // It says so as long as it is true.
    python::run("features.py", &["plain_visit", &instance.address]).ok();
    let run = instance.run(&["backup", "full"]).ok();
    assert!(run.stderr.contains(", as of "), "{run}");
}

#[test]
fn a_backup_that_is_cancelled_leaves_nothing_and_nobody_packs_meanwhile() {
    let lab = Lab::started(FILES);
    let mut workers = lab.workers_of(2, "");
    workers.wait_for_more(20);
    let instance = &lab.instance;
    let run = instance.run(&["backup", "slow", "--rate", "10B/s", "--detach"]);
    assert!(
        run.clone().ok().stderr.contains("is being backed up"),
        "{run}"
    );
    until("the copy to be begun", PATIENCE, || {
        instance.beside("slow.partial").exists()
    });
    let refused = instance.run(&["pack"]);
    assert_eq!(refused.code, 1, "{refused}");
    assert!(
        refused.stderr.contains("main is being backed up"),
        "{refused}"
    );
    let refused = instance.run(&["backup", "other"]);
    assert!(
        refused.stderr.contains("main is being backed up"),
        "{refused}"
    );
    workers.wait_for_more(5);
    instance.run(&["backup", "--cancel"]).ok();
    until("everything to be gone", PATIENCE, || {
        left(instance, "slow").is_empty()
    });
    let attach = instance.run(&["backup", "--attach"]);
    assert_eq!(attach.code, 1, "{attach}");
    assert!(
        attach.stderr.contains("the backup of main was cancelled"),
        "{attach}"
    );
    instance.run(&["pack", "--days", "1"]).ok();
    // A daemon that is killed leaves what the next one removes.
    instance
        .run(&["backup", "slow", "--rate", "10B/s", "--detach"])
        .ok();
    until("the copy to be begun", PATIENCE, || {
        instance.beside("slow.partial/Data.fs").exists()
    });
    workers.end();
    instance.kill9();
    assert!(!instance.beside("slow").exists());
    instance.start().ok();
    instance.wait_optimal();
    instance.run(&["backup", "slow"]).ok();
    read(&instance.beside("slow"));
    assert_eq!(left(instance, "slow").len(), 1);
}

#[test]
fn what_is_no_place_for_a_backup_is_told_before_anything_is_copied() {
    let instance = Instance::started(&[]);
    let refused = |folder: &str, why: &str| {
        let run = instance.run(&["backup", folder]);
        assert_eq!(run.code, 1, "{run}");
        assert!(run.stderr.contains(why), "{why}: {run}");
        assert!(run.stderr.contains("Next:"), "{run}");
    };
    refused("none/monday", "is its disk mounted?");
    fs::create_dir(instance.beside("letters")).expect("a folder");
    fs::write(instance.beside("letters/a"), "").expect("a file");
    refused("letters", "is not empty");
    refused("letters/a", "is not a folder");
    if Path::new("/proc/self").exists() {
        refused("/proc/monday", "making /proc/monday.partial");
    }
    assert!(instance.beside("letters/a").exists());
}

/// The blobs of an array are in a folder that clients share: the backup is whole without that folder.
fn bring_the_blobs(setup: LabSetup) {
    let instance = Instance::new();
    let shared = instance.beside("shared");
    fs::create_dir(&shared).expect("a folder to share");
    let lab = Lab::on(instance, setup);
    let instance = &lab.instance;
    instance.start().ok();
    instance.wait_optimal();
    let more = &["--mix", "blob,undo", "--blob-dir", text(&shared)];
    let mut workers = Workers::start_with(&instance.address, &instance.beside(""), 2, more);
    workers.wait_for_more(6);
    until("a blob to be written", PATIENCE, || has_a_blob(&shared));
    workers.wait_for_more(1);
    let run = instance.run(&["backup", "monday", "-o", "json"]).ok();
    workers.end();
    instance.stop();
    fs::rename(&shared, instance.beside("gone")).expect("it is there");

    let job: Value = serde_json::from_str(&run.stdout).expect("JSON");
    let found = read(&instance.beside("monday"));
    assert!(found["blobs"].as_u64() >= Some(1), "{found}");
    assert_eq!(found["blobs"], job["backup"]["blobs"], "{job}");
    assert_eq!(job["backup"]["blobs_missing"], 0, "{job}");
}

#[test]
fn a_backup_brings_blobs_that_clients_share_with_the_daemon() {
    bring_the_blobs(LabSetup {
        settings: "shared_blob_dir: ../shared",
        ..FILES
    });
}

/// Members keep none of their own: the folder is the only place where they are.
#[test]
fn a_backup_brings_blobs_that_only_the_shared_folder_has() {
    bring_the_blobs(LabSetup {
        blobs: false,
        settings: "shared_blob_dir: ../shared\nblobs_shared_with: everything",
        ..FILES
    });
}

#[test]
fn a_full_disk_is_told_and_nothing_is_left() {
    let instance = Instance::started(&[]);
    let name = "a_full_disk_is_told_and_nothing_is_left";
    let folder = instance.beside("small");
    let Some(disk) = SmallDisk::mount(&folder, 64, name) else {
        return;
    };
    let mut workers = Workers::start(&instance.address, &instance.beside(""), false);
    let data = instance.copy(1);
    until("more than fits", PATIENCE, || {
        fs::metadata(&data).is_ok_and(|meta| meta.len() > 128 << 10)
    });
    let run = instance.run(&["backup", text(&folder.join("monday"))]);
    assert_eq!(run.code, 1, "{run}");
    assert!(run.stderr.contains("No space left on device"), "{run}");
    assert!(run.stderr.contains("make room"), "{run}");
    assert_eq!(fs::read_dir(&folder).expect("a folder").count(), 0);
    let run = instance.run(&["backup", text(&folder)]);
    assert!(run.stderr.contains("is where a disk is mounted"), "{run}");
    // Nobody's member has failed.
    assert_eq!(instance.details()["state"], "optimal");
    workers.end();
    drop(disk);
}
