//! `inspect`: says of a file what Python says of it, finds mistakes where they are, and writes nothing.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use serde_json::Value;

use crate::harness::Instance;
use crate::harness::instance::{Run, command};
use crate::harness::python::{self, Workers};

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

fn inspect(args: &[&str]) -> Run {
    let mut command = command();
    command.arg("inspect").args(args);
    Run::of(command)
}

fn json(args: &[&str]) -> Value {
    let mut all = args.to_vec();
    all.extend(["-o", "json"]);
    let run = inspect(&all);
    serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{run}"))
}

/// A file that Python wrote, with several revisions.
fn made(instance: &Instance) -> std::path::PathBuf {
    let data = instance.beside("Data.fs");
    python::run("makedb.py", &[text(&data), "300"]).ok();
    data
}

/// What is beside the instance, and when it was changed.
fn everything(instance: &Instance) -> Vec<(std::path::PathBuf, std::time::SystemTime)> {
    let entries = fs::read_dir(instance.beside("")).expect("the folder is there");
    let mut found: Vec<_> = entries
        .map(|entry| {
            let entry = entry.expect("it can be read");
            let changed = entry.metadata().and_then(|meta| meta.modified());
            (entry.path(), changed.expect("it has a time"))
        })
        .collect();
    found.sort();
    found
}

#[test]
fn it_says_what_python_says_and_writes_nothing() {
    let instance = Instance::new();
    let data = made(&instance);
    let before = everything(&instance);
    let expected = python::run("inspect_facts.py", &[text(&data)]).ok().stdout;
    let expected: Value = serde_json::from_str(&expected).expect("JSON");
    for check in [None, Some("--check")] {
        let args: Vec<&str> = std::iter::once(text(&data)).chain(check).collect();
        let found = json(&args);
        for key in ["transactions", "records", "objects", "bytes"] {
            assert_eq!(found[key], expected[key], "{key}: {found:#}");
        }
        assert_eq!(found["first"]["tid"], expected["first"]);
        assert_eq!(found["last"]["tid"], expected["last"]);
        assert_eq!(found["end"]["position"], expected["bytes"]);
        assert_eq!(found["index"]["state"], "valid", "{found:#}");
    }
    let check = json(&[text(&data), "--check"])["check"].clone();
    assert_eq!(check["mistake_count"], 0, "{check:#}");
    let mut listed = json(&[text(&data), "--transactions", "5"]);
    for one in listed.as_array_mut().expect("a list") {
        let time = one.as_object_mut().and_then(|one| one.remove("time"));
        assert!(time.is_some_and(|time| time.is_string()));
    }
    assert_eq!(listed, expected["last_five"]);
    let run = inspect(&[text(&data)]).ok();
    assert!(run.stdout.contains("complete"), "{run}");
    assert_eq!(everything(&instance), before, "nothing is written");
}

#[test]
fn it_looks_into_a_file_that_a_daemon_writes() {
    let instance = Instance::started(&[]);
    let mut workers = Workers::start(&instance.address, &instance.beside(""), false);
    workers.wait_for_more(5);
    let data = instance.copy(1);
    for _ in 0..5 {
        let run = inspect(&[text(&data), "--check"]).ok();
        assert!(run.stdout.contains("no mistakes"), "{run}");
        workers.wait_for_more(1);
    }
    let listed = json(&[text(&data), "-t", "3"]);
    assert_eq!(listed.as_array().map(Vec::len), Some(3), "{listed:#}");
    workers.end();
}

#[test]
fn mistakes_are_told_with_their_places_and_what_is_behind_the_end_is_no_mistake() {
    let instance = Instance::new();
    let data = made(&instance);
    let listed = json(&[text(&data), "--transactions", "1000000"]);
    let listed = listed.as_array().expect("a list");
    let places: Vec<u64> = listed
        .iter()
        .map(|one| one["position"].as_u64().expect("a place"))
        .collect();
    let whole = fs::read(&data).expect("the file");
    let third = places[2] as usize;
    let check = |bytes: &[u8]| {
        fs::write(&data, bytes).expect("it can be written");
        let found = json(&[text(&data), "--check"]);
        let code = inspect(&[text(&data), "--check"]).code;
        (code, found)
    };
    // The status byte of the third transaction, and the length of the one after.
    let mut bytes = whole.clone();
    bytes[third + 16] = b'?';
    let (code, found) = check(&bytes);
    assert_eq!((code, &found["check"]["mistake_count"]), (1, &1.into()));
    assert_eq!(found["check"]["mistakes"][0]["position"], places[2]);
    let what = found["check"]["mistakes"][0]["what"].as_str();
    assert!(what.is_some_and(|what| what.contains("0x3f")), "{found:#}");
    assert_eq!(found["transactions"], listed.len() - 1);
    // Without a check it says that there is something, and how to know more.
    let run = inspect(&[text(&data)]);
    assert_eq!(run.code, 1, "{run}");
    assert!(run.stderr.contains("--check"), "{run}");
    // A record's pointer to the one before.
    let mut bytes = whole.clone();
    let len = |at: usize| usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
    let texts = len(third + 17) + len(third + 19) + len(third + 21);
    let record = third + 23 + texts;
    bytes[record + 16..record + 24].copy_from_slice(&5u64.to_be_bytes());
    let (code, found) = check(&bytes);
    assert_eq!((code, &found["check"]["mistake_count"]), (1, &1.into()));
    assert_eq!(found["check"]["mistakes"][0]["position"], record);

    // The beginning of a transaction that was never written to its end.
    let (code, found) = check(&whole[..whole.len() - 3]);
    assert_eq!(code, 0, "{found:#}");
    assert_eq!(found["end"]["position"], *places.last().expect("one"));
    assert_eq!(found["transactions"], listed.len() - 1);
    // One that waits for its second phase.
    let mut bytes = whole.clone();
    bytes[*places.last().expect("one") as usize + 16] = b'c';
    let (code, found) = check(&bytes);
    assert_eq!(code, 0, "{found:#}");
    let reason = found["end"]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("was not finished"), "{found:#}");

    // What is no Data.fs, and what is not there.
    fs::write(&data, b"PK\x03\x04 and so on").expect("it can be written");
    let run = inspect(&[text(&data)]);
    assert_eq!(run.code, 1, "{run}");
    assert!(run.stderr.contains("not a Data.fs"), "{run}");
    let run = inspect(&[text(&instance.beside("none.fs"))]);
    assert!(run.stderr.contains("No such file"), "{run}");
}

#[test]
fn an_index_that_lies_is_found() {
    let instance = Instance::new();
    let data = made(&instance);
    let index = data.with_extension("fs.index");
    let state = |args: &[&str]| json(args)["index"]["state"].clone();
    assert_eq!(state(&[text(&data)]), "valid");
    // Two objects' positions are exchanged, in the middle of a bucket of values: an opening believes it.
    let bytes = fs::read(&index).expect("Python wrote one");
    let file = fs::File::options()
        .write(true)
        .open(&index)
        .expect("a file");
    let at = bytes.len() - 400;
    let mut swapped = bytes[at + 6..at + 12].to_vec();
    swapped.extend_from_slice(&bytes[at..at + 6]);
    file.write_all_at(&swapped, at as u64)
        .expect("it can be written");
    assert_eq!(state(&[text(&data), "--check"]), "unusable");
    fs::write(&index, b"no pickle").expect("it can be written");
    assert_eq!(state(&[text(&data)]), "unusable");
    fs::remove_file(&index).expect("it can be removed");
    assert_eq!(state(&[text(&data)]), "missing");
}
