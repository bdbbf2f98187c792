//! `scrub`: finds what differs, says who is contradicted, and finds nothing where nothing is.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::instance::{PATIENCE, Run};
use crate::harness::lab::{Lab, LabSetup};
use crate::harness::{Instance, until};

/// Changes a byte of a pickle in the first transaction of a file, below the daemon that has it open.
fn damage(data: &Path) {
    let bytes = fs::read(data).expect("the file");
    let class = b"PersistentMapping";
    let at = bytes.windows(class.len()).position(|some| some == class);
    let at = at.expect("the root is one") as u64;
    let file = fs::File::options().write(true).open(data).expect("a file");
    file.write_all_at(b"Q", at).expect("it can be written");
}

fn scrub(instance: &Instance) -> (Run, Value) {
    let run = instance.run(&["scrub", "-o", "json"]);
    let job: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{run}"));
    (run, job)
}

fn a_blob(folder: &Path) -> Option<PathBuf> {
    for entry in fs::read_dir(folder).ok()?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if let Some(found) = a_blob(&path) {
                return Some(found);
            }
        } else if path.extension().is_some_and(|kind| kind == "blob")
            && entry.metadata().is_ok_and(|meta| meta.len() > 0)
        {
            return Some(path);
        }
    }
    None
}

#[test]
fn of_two_files_that_differ_nobody_can_tell_which_is_right() {
    let lab = Lab::started(LabSetup {
        servers: 0,
        files: 2,
        ..LabSetup::TWO
    });
    // Nothing can be undone while members are packed, which would be told to who tries.
    let mut workers = lab.workers_of(4, "blob");
    workers.wait_for_more(10);
    let run = lab.instance.run(&["scrub"]).ok();
    assert!(run.stdout.contains("file1, file2: no differences"), "{run}");
    // What packing has taken from one is no difference.
    lab.instance.run(&["pack"]).ok();
    workers.wait_for_more(5);
    let (run, job) = scrub(&lab.instance);
    run.ok();
    assert!(job["scrub"]["transactions"].as_u64() > Some(0), "{job:#}");
    let last = job["scrub"]["head"]["tid"].clone();
    workers.wait_for_more(5);
    workers.end();
    damage(&lab.file(2));
    let (run, job) = scrub(&lab.instance);
    assert_eq!(run.code, 1, "{run}");
    let found = &job["scrub"];
    assert!(found["head"]["tid"].as_str() > last.as_str(), "{job:#}");
    assert_eq!(found["differences"], 1, "{job:#}");
    let one = &found["listed"][0];
    assert_eq!(
        (&one["what"], &one["majority"]),
        (&"record".into(), &false.into())
    );
    assert!(one["oid"].is_string(), "{job:#}");
    assert_eq!(found["suspects"], serde_json::json!([]));
    let run = lab.instance.run(&["scrub"]);
    assert!(run.stdout.contains("file1 | file2"), "{run}");
    assert!(run.stdout.contains("cannot be told"), "{run}");
    assert_eq!(lab.instance.details()["state"], "optimal");
}

#[test]
fn of_three_files_the_one_that_differs_is_named_and_is_right_after_a_rebuild() {
    let lab = Lab::started(LabSetup {
        servers: 0,
        files: 3,
        ..LabSetup::TWO
    });
    let mut workers = lab.workers_of(2, "blob");
    workers.wait_for_more(10);
    let blobs = lab.file(3).with_file_name("blobs");
    until("a blob to be written", PATIENCE, || {
        a_blob(&blobs).is_some()
    });
    damage(&lab.file(2));
    let blob = a_blob(&blobs).expect("it was there");
    let content = fs::read(&blob).expect("a blob");
    fs::remove_file(&blob).expect("it can be removed");
    fs::write(&blob, vec![b'!'; content.len()]).expect("it can be written");
    let (run, job) = scrub(&lab.instance);
    assert_eq!(run.code, 1, "{run}");
    let found = &job["scrub"];
    assert_eq!(found["suspects"], serde_json::json!(["file2", "file3"]));
    let whats: Vec<_> = found["listed"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| (one["what"].as_str(), one["groups"][1][0].as_str()))
        .collect();
    let expected = [
        (Some("record"), Some("file2")),
        (Some("blob"), Some("file3")),
    ];
    assert_eq!(whats, expected, "{job:#}");
    for member in ["file2", "file3"] {
        let next =
            format!("zeoraidctl disable {member}; then zeoraidctl recover --rebuild {member}");
        assert!(run.stdout.contains(&next), "{run}");
        lab.instance.run(&["disable", member, "--yes"]).ok();
        lab.instance
            .run(&["recover", "--rebuild", member, "--yes"])
            .ok();
    }
    lab.instance.wait_optimal();
    let run = lab.instance.run(&["scrub"]).ok();
    assert!(run.stdout.contains("no differences"), "{run}");
    lab.finish(workers);
}

#[test]
fn servers_are_compared_while_clients_commit_and_are_backed_up_elsewhere() {
    let lab = Lab::started(LabSetup::TWO);
    let mut workers = lab.workers_of(2, "blob,undo");
    workers.wait_for_more(10);
    let run = lab.instance.run(&["scrub"]).ok();
    assert!(run.stdout.contains("zeo1, zeo2: no differences"), "{run}");
    let refused = lab.instance.run(&["backup", "monday"]);
    assert_eq!(refused.code, 1, "{refused}");
    assert!(refused.stderr.contains("repozo"), "{refused}");
    workers.wait_for_more(5);
    workers.end();
}
