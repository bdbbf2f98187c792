//! Damaged files at the start: the daemon serves from the copies that are whole, says what is wrong with
//! the others, and throws nothing away.

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::harness::Instance;
use crate::harness::python::{self, Workers};

/// An array with some transactions, stopped; and the logs of its clients.
fn stopped_with_content() -> (Instance, Workers) {
    let instance = Instance::started(&[]);
    let mut workers = Workers::start(&instance.address, &instance.beside(""), false);
    workers.wait_for_more(10);
    workers.end();
    instance.stop().ok();
    (instance, workers)
}

fn write_at(path: &Path, at: u64, bytes: &[u8]) {
    let mut file = OpenOptions::new()
        .write(true)
        .open(path)
        .expect("the file is there");
    file.seek(SeekFrom::Start(at))
        .expect("a file can be sought");
    file.write_all(bytes).expect("a small write");
}

fn without_index(data: &Path) {
    let index = data.with_file_name("Data.fs.index");
    if index.exists() {
        fs::remove_file(index).expect("it is there");
    }
}

/// The array serves from copy1, `details` says what is wrong with copy2, a rebuild mends it, and the
/// damaged bytes are still somewhere.
fn serves_without_copy2(damage: impl Fn(&Path)) {
    let (instance, workers) = stopped_with_content();
    damage(&instance.copy(2));
    let damaged = fs::read(instance.copy(2)).unwrap_or_default();
    instance.start().ok();
    python::run("features.py", &["plain_visit", &instance.address]).ok();
    let member = instance.wait_member("copy2", "degraded");
    let reason = member["reason"].as_str().expect("a reason");
    assert!(reason.len() > 10, "{reason}");
    instance.run(&["status"]).ended(2).prints("copy2");
    instance
        .run(&["recover", "copy2", "--rebuild", "--yes"])
        .ok();
    instance.wait_optimal();
    assert!(
        set_aside(&instance.copy(2), &damaged),
        "what was damaged is gone"
    );
    python::verify(&instance.given_back(), &workers.logs());
}

/// Whether every byte of the old file from the first difference on is in a file beside the new one.
fn set_aside(data: &Path, old: &[u8]) -> bool {
    let new = fs::read(data).expect("the copy is there");
    let same = old
        .iter()
        .zip(&new)
        .take_while(|(old, new)| old == new)
        .count();
    if same == old.len() {
        return true;
    }
    // What is cut is cut at the beginning of a transaction: its last hundred bytes are enough to know it.
    let tail = &old[old.len().saturating_sub(100).max(same)..];
    let folder = data.parent().expect("it lies in a folder");
    fs::read_dir(folder)
        .expect("the folder is there")
        .any(|entry| {
            let mut bytes = Vec::new();
            if let Ok(mut file) = fs::File::open(entry.expect("it can be read").path()) {
                drop(file.read_to_end(&mut bytes));
            }
            bytes != new && bytes.windows(tail.len()).any(|window| window == tail)
        })
}

#[test]
fn a_copy_with_a_damaged_header_is_left_out() {
    serves_without_copy2(|data| write_at(data, 0, b"FS99"));
}

#[test]
fn a_copy_that_is_no_data_fs_is_left_out() {
    serves_without_copy2(|data| {
        fs::write(data, b"#!/bin/sh\necho this is no database\n").expect("writing");
        without_index(data);
    });
}

#[test]
fn a_copy_damaged_in_its_middle_is_left_out_where_it_is_seen() {
    serves_without_copy2(|data| {
        write_at(data, transaction_in_the_middle(data), &[0xee; 500]);
        without_index(data);
    });
}

/// A number of the file, as it has them: the first byte counts most.
fn number(bytes: &[u8], at: usize, len: usize) -> usize {
    let digits = bytes[at..at + len].iter();
    digits.fold(0, |number, digit| number << 8 | usize::from(*digit))
}

/// Where the transactions begin: `tid u64, length u64, …`, and the length once more at the end.
fn transactions(bytes: &[u8]) -> Vec<usize> {
    let (mut begins, mut at) = (Vec::new(), 4);
    while at < bytes.len() {
        begins.push(at);
        at += number(bytes, at + 8, 8) + 8;
    }
    assert!(begins.len() > 8, "too few transactions: {begins:?}");
    begins
}

/// The transaction that has as many before it as after it. By their sizes it might be the last one, which
/// every start compares.
fn transaction_in_the_middle(data: &Path) -> u64 {
    let begins = transactions(&fs::read(data).expect("the file is there"));
    begins[begins.len() / 2] as u64
}

/// A byte in the pickle of a record near the middle: of the first record of a transaction, past the headers
/// and the texts. What an undo writes has no pickle.
fn pickle_in_the_middle(data: &Path) -> u64 {
    const INTO: usize = 20;
    let bytes = fs::read(data).expect("the file is there");
    let begins = transactions(&bytes);
    let from_middle = begins[..begins.len() - 1].iter().skip(begins.len() / 2);
    let pickle = from_middle.copied().find_map(|begin| {
        let texts = (17..23).step_by(2).map(|at| number(&bytes, begin + at, 2));
        let record = begin + 23 + texts.sum::<usize>();
        (number(&bytes, record + 34, 8) > INTO).then_some(record + 42)
    });
    (pickle.expect("somebody stored something") + INTO) as u64
}

/// A `Data.fs` has no checksums: flipped bits within a record are seen by comparing copies.
#[test]
fn a_flipped_bit_in_a_record_is_found_by_verify() {
    let (instance, workers) = stopped_with_content();
    let data = instance.copy(2);
    let at = pickle_in_the_middle(&data);
    let before = fs::read(&data).expect("the file is there");
    let byte = before[usize::try_from(at).expect("a small file")];
    write_at(&data, at, &[byte ^ 1]);
    instance.start().ok();
    instance.wait_optimal();
    let refused = instance.run(&["recover", "copy2", "--verify"]).ended(1);
    assert!(
        refused.stderr.contains("zeoraidctl disable copy2"),
        "{refused}"
    );
    instance.run(&["disable", "copy2", "--yes"]).ok();
    instance.run(&["recover", "copy2", "--verify"]).ok();
    assert!(instance.log().contains("differs"), "it is told");
    instance.wait_optimal();
    python::verify(&instance.given_back(), &workers.logs());
}

/// A tail that was torn off: what is missing is copied again without anybody's doing.
#[test]
fn a_copy_with_a_torn_tail_recovers() {
    let (instance, workers) = stopped_with_content();
    let data = instance.copy(2);
    let size = fs::metadata(&data).expect("it is there").len();
    let file = OpenOptions::new()
        .write(true)
        .open(&data)
        .expect("it is there");
    file.set_len(size - 300).expect("cutting it short");
    drop(file);
    instance.start().ok();
    python::run("features.py", &["plain_visit", &instance.address]).ok();
    let state = instance.member("copy2");
    if state["state"] != "optimal" && state["outlook"].is_null() {
        instance.run(&["recover", "copy2"]).ok();
    }
    instance.wait_optimal();
    python::verify(&instance.given_back(), &workers.logs());
}

/// Both copies end in a transaction that was never finished, as after a power failure: it is cut, and
/// kept.
#[test]
fn an_unfinished_transaction_at_the_end_is_cut_and_saved() {
    let (instance, workers) = stopped_with_content();
    // A transaction's header with the status `c`, voted and never finished, and some of its data.
    let data = fs::read(instance.copy(1)).expect("it is there");
    let mut unfinished = data[4..4 + 400].to_vec();
    unfinished[16] = b'c';
    for number in [1, 2] {
        let size = fs::metadata(instance.copy(number))
            .expect("it is there")
            .len();
        write_at(&instance.copy(number), size, &unfinished);
    }
    instance.start().ok();
    instance.wait_optimal();
    let visits = python::run("features.py", &["plain_visit", &instance.address]).ok();
    assert_eq!(visits.stdout, "visits 1\n");
    for number in [1, 2] {
        let folder = instance
            .copy(number)
            .parent()
            .expect("in a folder")
            .to_owned();
        let saved = fs::read_dir(folder)
            .expect("the folder is there")
            .any(|entry| {
                let bytes = fs::read(entry.expect("it can be read").path()).unwrap_or_default();
                bytes.len() < data.len() && bytes.windows(400).any(|window| window == unfinished)
            });
        assert!(saved, "the cut tail of copy{number} was not saved");
    }
    python::verify(&instance.given_back(), &workers.logs());
}

/// An index only saves time: whatever is wrong with it, the file decides.
#[test]
fn a_damaged_index_is_built_again() {
    let (instance, workers) = stopped_with_content();
    let index = |number| instance.copy(number).with_file_name("Data.fs.index");
    let good = fs::read(index(1)).expect("a stop saves the index");
    let mut flipped = good.clone();
    for at in (20..flipped.len()).step_by(17) {
        flipped[at] ^= 0x55;
    }
    let random: Vec<u8> = (0..4000).map(|_| fastrand::u8(..)).collect();
    let bad: [&[u8]; 6] = [
        b"",
        &good[..good.len() / 2],
        &flipped,
        &random,
        b"\x80\x03cos\nsystem\nX\x04\0\0\0true\x85R.",
        &[b"\x80\x03".to_vec(), b"(".repeat(100_000)].concat(),
    ];
    for bytes in bad {
        for number in [1, 2] {
            fs::write(index(number), bytes).expect("writing the index");
        }
        instance.start().ok();
        instance.wait_optimal();
        python::run("features.py", &["plain_visit", &instance.address]).ok();
        python::verify(&instance.given_back(), &workers.logs());
    }
    python::run(
        "index.py",
        &[instance.copy(1).to_str().expect("a plain path")],
    )
    .ok();
}

/// Where every copy is damaged there is nothing to serve: it says so, and touches none.
#[test]
fn with_every_copy_damaged_it_does_not_serve_and_changes_nothing() {
    let (instance, _) = stopped_with_content();
    for number in [1, 2] {
        write_at(&instance.copy(number), 0, b"XXXX");
    }
    let before: Vec<_> = [1, 2]
        .map(|n| fs::read(instance.copy(n)).expect("a file"))
        .into();
    let run = instance.run(&["start", "--timeout", "3s"]).ended(1);
    assert!(run.stderr.contains("does not serve"), "{run}");
    let details = instance.details();
    assert_eq!(details["serving"], false);
    instance.run(&["status"]).ended(2);
    instance.stop().ok();
    let after: Vec<_> = [1, 2]
        .map(|n| fs::read(instance.copy(n)).expect("a file"))
        .into();
    assert!(before == after, "a damaged copy was changed");
}

/// A copy of another database in the place of ours, with newer transactions. The record says what was
/// acknowledged last, and only ours holds it: the array goes on from there, leaves the other one alone and
/// waits for an operator, who takes it away.
#[test]
fn a_copy_of_another_database_is_not_served_from() {
    let (instance, workers) = stopped_with_content();
    let (other, _) = stopped_with_content();
    fs::copy(other.copy(1), instance.copy(2)).expect("copying");
    without_index(&instance.copy(2));
    let before = fs::read(instance.copy(2)).expect("a file");
    instance.start().ok();
    let member = instance.wait_member("copy2", "degraded");
    let reason = member["reason"].as_str().expect("a reason");
    assert!(reason.contains("not a copy of this array"), "{member:#}");
    let visits = python::run("features.py", &["plain_visit", &instance.address]).ok();
    assert_eq!(visits.stdout, "visits 1\n");
    let run = instance.run(&["recover", "copy2"]).ended(1);
    assert!(run.stderr.contains("--rebuild"), "{run}");
    instance.stop().ok();
    assert!(
        before == fs::read(instance.copy(2)).expect("a file"),
        "the copy was changed"
    );
    fs::rename(instance.copy(2), instance.beside("wrong.fs")).expect("it is there");
    without_index(&instance.copy(2));
    instance.start().ok();
    instance.run(&["recover", "copy2"]).ok();
    instance.wait_optimal();
    python::verify(&instance.given_back(), &workers.logs());
}
