//! Transactions that store more than they may, in records or in blobs: their vote is told which limit it was,
//! nothing of them stays, and others commit meanwhile.

use std::fs;
use std::path::{Path, PathBuf};

use super::limits::{begin, hostile, names, passed, started, store};
use crate::harness::Instance;
use crate::harness::python::{self, Workers};
use crate::harness::raw::{Raw, Say};

const LITTLE: &str =
    "limits: {frame: 1MiB, connections: 60, transaction: 4MiB, transactions: 12MiB, keep_free: 0B}";

/// What a blob's record is to Python: its class, and no state.
const BLOB: &[u8] = b"cZODB.blob\nBlob\n.N.";

/// How a client brings what it stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Means {
    Records,
    Blob,
}

use Means::{Blob, Records};

impl Means {
    /// Stores so many pieces of 900 KiB; does not wait.
    fn store(self, raw: &mut Raw, txn: i64, pieces: u8) {
        let piece = vec![7; 900 << 10];
        match self {
            Records => {
                for oid in 0..pieces {
                    store(raw, txn, oid, &piece);
                }
            }
            Blob => {
                raw.send_async("storeBlobStart", vec![]);
                for _ in 0..pieces {
                    raw.send_async("storeBlobChunk", vec![Say::Bytes(&piece)]);
                }
                let args = vec![
                    Say::Bytes(&[0x31, 0, 0, 0, 0, 0, 0, 0]),
                    Say::Bytes(&[0; 8]),
                    Say::Bytes(BLOB),
                    Say::Int(txn),
                ];
                raw.send_async("storeBlobEnd", args);
            }
        }
    }
}

/// The files of transactions that are not finished, in whatever folder.
fn unfinished(instance: &Instance) -> Vec<PathBuf> {
    fn gather(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("it is there") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                gather(&path, files);
            } else {
                files.push(path);
            }
        }
    }
    let mut files = Vec::new();
    gather(&instance.path("var/tmp"), &mut files);
    files
}

#[test]
fn a_transaction_that_is_too_large_is_refused_and_nothing_of_it_stays() {
    let instance = started(LITTLE);
    for (means, times) in [(Records, 1), (Blob, 2)] {
        let mut raw = hostile(&instance);
        begin(&mut raw, 1);
        means.store(&mut raw, 1, 5);
        names(&raw.call("vote", vec![Say::Int(1)]), "transaction");
        assert_eq!(passed(&instance, "transaction"), times, "{means:?}");
        assert_eq!(unfinished(&instance), Vec::<PathBuf>::new(), "{means:?}");
        // And one that is not, from the same client.
        begin(&mut raw, 2);
        means.store(&mut raw, 2, 4);
        let answer = raw.call("vote", vec![Say::Int(2)]);
        assert_eq!(answer.error(), None, "{means:?}: {answer:?}");
        let answer = raw.call("tpc_finish", vec![Say::Int(2)]);
        assert_eq!(answer.error(), None, "{means:?}: {answer:?}");
    }
    instance.run(&["status"]).ok().prints("optimal");
    let found = python::verify_with(&instance.given_back(), &[], &["--blobs"]);
    assert_eq!(found["blobs"], 1, "{found}");
}

/// Four clients want 3.5 MiB each, where all together may have 12.
#[test]
fn transactions_that_are_too_large_together_are_refused_and_small_ones_are_not() {
    let instance = started(LITTLE);
    let mut workers = Workers::start(&instance.address, &instance.beside(""), false);
    for means in [Records, Blob] {
        let before = passed(&instance, "transactions");
        let mut open: Vec<Raw> = (0..4).map(|_| hostile(&instance)).collect();
        for raw in &mut open {
            begin(raw, 3);
            means.store(raw, 3, 4);
        }
        // Each has its answer, and those that may vote have what they have until then.
        workers.wait_for_more(1);
        let mut refused = 0;
        for raw in &mut open {
            let answer = raw.call("vote", vec![Say::Int(3)]);
            if answer.error().is_some() {
                names(&answer, "transactions");
                refused += 1;
            }
            raw.send_async("tpc_abort", vec![Say::Int(3)]);
        }
        assert!((1..4).contains(&refused), "{means:?}: {refused}");
        assert_eq!(passed(&instance, "transactions") - before, refused);
        // What they had is there again.
        let raw = &mut open[0];
        begin(raw, 4);
        means.store(raw, 4, 4);
        let answer = raw.call("vote", vec![Say::Int(4)]);
        assert_eq!(answer.error(), None, "{means:?}: {answer:?}");
    }
    workers.wait_for_more(1);
    let totals = workers.end();
    assert_eq!(totals.errors, 0, "{totals:?}");
    instance.run(&["status"]).ok().prints("optimal");
    python::verify(&instance.given_back(), &workers.logs());
}

#[test]
fn what_would_fill_the_disk_is_refused_and_what_is_small_is_not() {
    let instance = started("limits: {keep_free: 100TiB}");
    python::run("features.py", &["plain_visit", &instance.address]).ok();
    for means in [Records, Blob] {
        let mut raw = hostile(&instance);
        begin(&mut raw, 1);
        means.store(&mut raw, 1, 40);
        names(&raw.call("vote", vec![Say::Int(1)]), "keep_free");
        // Nothing of it is left.
        assert_eq!(unfinished(&instance), Vec::<PathBuf>::new(), "{means:?}");
    }
    python::run("features.py", &["plain_visit", &instance.address]).ok();
}
