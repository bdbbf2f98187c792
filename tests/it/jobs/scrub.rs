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

/// Changes a number in a pickle, so that it is another one, as valid as the first: of the first transaction that
/// has such a number, an old one.
fn say_something_else(data: &Path) {
    let bytes = fs::read(data).expect("the file");
    let name = b"value";
    let places = bytes.windows(name.len()).enumerate();
    let mut places = places.filter(|(_, some)| some == name);
    // BININT1 is a `K` and a byte; between them may be where the name is remembered.
    let number = |(at, _)| {
        let after = at + name.len();
        let small = bytes[after..]
            .iter()
            .take(4)
            .position(|byte| *byte == b'K')?;
        Some(after + small + 1)
    };
    let at = places.find_map(number);
    let at = at.expect("workers count what they commit");
    let file = fs::File::options().write(true).open(data).expect("a file");
    let other = [bytes[at] ^ 0x40];
    file.write_all_at(&other, at as u64)
        .expect("it can be written");
}

/// Makes the first record of the second transaction one of no transaction, and gives that one's TID.
fn damage_a_header(data: &Path) -> String {
    let bytes = fs::read(data).expect("the file");
    let number = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let length = |at: usize| usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
    let second = 4 + usize::try_from(number(4 + 8)).expect("a length") + 8;
    let head = 23 + length(second + 17) + length(second + 19) + length(second + 21);
    let file = fs::File::options().write(true).open(data).expect("a file");
    let at = second + head + 8;
    file.write_all_at(&[bytes[at] ^ 1], at as u64)
        .expect("it can be written");
    format!("{:#018x}", number(second))
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
    let details = lab.instance.details();
    assert_eq!(details["state"], "optimal");
    assert_eq!(details["next"], "zeoraidctl scrub --attach", "{details:#}");
    let status = lab.instance.run(&["status", "--nagios"]).ended(1);
    let says = "ZEORAID WARNING - optimal; the last scrub found that file1, file2 differ";
    assert!(status.stdout.starts_with(says), "{status}");
    // An operator decides. The daemon that mends it is another one, which knows of it.
    lab.instance.stop().ok();
    lab.instance.start().ok();
    lab.instance.wait_optimal();
    let run = lab.instance.run(&["details"]).ended(1);
    assert!(run.stdout.contains("cannot be told who is right"), "{run}");
    lab.instance.run(&["disable", "file2", "--yes"]).ok();
    lab.instance
        .run(&["recover", "--rebuild", "file2", "--yes"])
        .ok();
    lab.instance.wait_optimal();
    lab.instance.run(&["status"]).ok().prints("optimal\n");
    lab.instance.run(&["scrub"]).ok();
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
fn what_a_scrub_found_is_told_until_it_is_mended_and_clients_go_on() {
    let lab = Lab::started(LabSetup {
        servers: 0,
        files: 3,
        ..LabSetup::TWO
    });
    let mut workers = lab.workers_of(2, "blob");
    workers.wait_for_more(10);
    lab.instance.run(&["scrub"]).ok();
    assert_eq!(lab.instance.details()["last_scrub"]["differences"], 0);
    lab.instance.run(&["status"]).ok().prints("optimal\n");
    damage(&lab.file(2));
    say_something_else(&lab.file(3));
    let (run, job) = scrub(&lab.instance);
    assert_eq!(run.code, 1, "{run}");
    let found = &job["scrub"];
    assert_eq!(found["suspects"], serde_json::json!(["file2", "file3"]));
    let listed = found["listed"].as_array().expect("a list");
    assert_eq!(listed.len(), 2, "{job:#}");
    for (one, bad) in listed.iter().zip(["file2", "file3"]) {
        assert_eq!(one["what"], "record", "{job:#}");
        assert_eq!(one["majority"], true, "{job:#}");
        assert_eq!(one["groups"][1], serde_json::json!([bad]), "{job:#}");
        let named = |text: &Value| text.as_str().is_some_and(|text| text.starts_with("0x"));
        assert!(
            named(&one["oid"]) && named(&one["transaction"]["tid"]),
            "{job:#}"
        );
    }
    let status = lab.instance.run(&["status", "--nagios"]).ended(1);
    let says = "ZEORAID WARNING - optimal; the last scrub found that file2, file3 are wrong";
    assert!(status.stdout.starts_with(says), "{status}");
    let run = lab.instance.run(&["details"]).ended(1);
    for bad in ["file2", "file3"] {
        let advice = format!("- zeoraidctl disable {bad}; then zeoraidctl recover --rebuild {bad}");
        assert!(run.stdout.contains(&advice), "{run}");
    }
    for (bad, left) in [
        (
            "file2",
            "optimal; the last scrub found that file3 is wrong\n",
        ),
        ("file3", "optimal\n"),
    ] {
        let next = lab.instance.details()["next"].clone();
        let expected = format!("zeoraidctl disable {bad} && zeoraidctl recover --rebuild {bad}");
        assert_eq!(next, expected.as_str());
        lab.instance.run(&["disable", bad, "--yes"]).ok();
        lab.instance
            .run(&["recover", "--rebuild", bad, "--yes"])
            .ok();
        lab.instance.wait_optimal();
        let status = lab.instance.run(&["status"]);
        assert_eq!(status.stdout, left, "{status}");
        // What is mended by now need not be mended again.
        let attached = lab.instance.run(&["scrub", "--attach"]).ended(1);
        let advice = |member: &str| format!("zeoraidctl disable {member};");
        assert!(!attached.stdout.contains(&advice(bad)), "{attached}");
        let is_left = left.contains("file3");
        assert_eq!(
            attached.stdout.contains(&advice("file3")),
            is_left,
            "{attached}"
        );
        workers.wait_for_more(3);
    }
    let details = lab.instance.details();
    let mended = &details["last_scrub"]["mended"];
    assert_eq!(
        *mended,
        serde_json::json!(["file2", "file3"]),
        "{details:#}"
    );
    let run = lab.instance.run(&["scrub"]).ok();
    assert!(run.stdout.contains("no differences"), "{run}");
    let details = lab.instance.details();
    assert_eq!(details["last_scrub"]["mended"], serde_json::json!([]));
    lab.finish(workers);
}

#[test]
fn damage_at_the_beginning_does_not_end_a_scrub_and_is_told_by_transaction_and_object() {
    let lab = Lab::started(LabSetup {
        servers: 0,
        files: 3,
        ..LabSetup::TWO
    });
    let mut workers = lab.workers_of(2, "blob");
    workers.wait_for_more(10);
    let whole = scrub(&lab.instance).1["scrub"]["transactions"].as_u64();
    let tid = damage_a_header(&lab.file(2));
    let (run, job) = scrub(&lab.instance);
    assert_eq!(run.code, 1, "{run}");
    let found = &job["scrub"];
    assert!(found["transactions"].as_u64() >= whole, "{job:#}");
    let listed = found["listed"].as_array().expect("a list");
    assert_eq!(listed.len(), 1, "{job:#}");
    let one = &listed[0];
    assert_eq!(one["what"], "unreadable", "{job:#}");
    assert_eq!(one["transaction"]["tid"], tid.as_str(), "{job:#}");
    assert!(one["oid"].is_string(), "{job:#}");
    let groups = serde_json::json!([["file1", "file3"], ["file2"]]);
    assert_eq!(one["groups"], groups, "{job:#}");
    assert_eq!(found["suspects"], serde_json::json!(["file2"]), "{job:#}");
    let why = job["members"][1]["reason"].as_str().expect("a reason");
    assert!(why.contains("cannot be read in one place"), "{why}");
    assert!(why.contains("file2/Data.fs"), "{why}");
    lab.instance.run(&["status"]).ended(1);
    workers.wait_for_more(3);
    lab.instance.run(&["disable", "file2", "--yes"]).ok();
    lab.instance
        .run(&["recover", "--rebuild", "file2", "--yes"])
        .ok();
    lab.instance.wait_optimal();
    lab.instance.run(&["status"]).ok().prints("optimal\n");
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
