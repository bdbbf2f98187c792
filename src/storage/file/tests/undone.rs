//! Where what is undone is found.

use std::sync::atomic::Ordering::Relaxed;

use super::super::history::Walk;
use super::*;
use crate::storage::suite::{commit, commit_ops, referring};
use crate::zodb::Op;

async fn open_in(folder: &std::path::Path) -> FileStorage {
    open_file(&folder.join("Data.fs"), FileOptions::default()).await
}

/// How often something was looked for in the file.
fn searches(storage: &FileStorage) -> u64 {
    storage.0.searches.load(Relaxed)
}

/// A root, and objects that are changed `times` each, one after the other. The transactions of the last change.
async fn changed(storage: &FileStorage, objects: u64, times: u64) -> Vec<Tid> {
    let all: Vec<u64> = (1..=objects).collect();
    commit(storage, &[(0, Tid::ZERO, &referring(&all, "root"))]).await;
    let mut serials = vec![Tid::ZERO; all.len()];
    for time in 0..times {
        for (oid, serial) in all.iter().zip(&mut serials) {
            let state = referring(&[], &time.to_string());
            *serial = commit(storage, &[(*oid, *serial, &state)]).await;
        }
    }
    serials
}

fn undo(tids: &[Tid]) -> Vec<Op> {
    tids.iter().map(|tid| Op::Undo { tid: *tid }).collect()
}

async fn is_at(storage: &FileStorage, objects: u64, time: &str) {
    for oid in 1..=objects {
        let loaded = storage.load_before(Oid(oid), Tid::MAX).await.unwrap();
        assert_eq!(loaded.unwrap().data, referring(&[], time));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_a_transaction_undoes_is_looked_for_once_and_undoing_writes_no_more_than_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open_in(folder.path()).await;
    let mut tids = changed(&storage, 50, 2).await;
    let measured = storage.measure_undone(tids.clone().into()).await.unwrap();
    assert_eq!(searches(&storage), 1);
    let before = storage.size().bytes;
    tids.reverse();
    commit_ops(&storage, undo(&tids)).await;
    assert_eq!(searches(&storage), 1, "it was looked for already");
    let written = storage.size().bytes - before;
    assert!(written <= measured.unwrap(), "{written} {measured:?}");
    is_at(&storage, 50, "0").await;

    // The oldest are looked for from the beginning, and nobody has asked before.
    let first = storage.tids_before(Tid::MAX, 1000).await.unwrap();
    let first: Vec<Tid> = first.into_iter().rev().skip(1).take(10).collect();
    storage.0.searches.store(0, Relaxed);
    commit_ops(&storage, undo(&first)).await;
    assert_eq!(searches(&storage), 1);
    for oid in 1..=10 {
        let gone = storage.load_before(Oid(oid), Tid::MAX).await;
        assert!(gone.is_err(), "{gone:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_found_counts_until_the_file_is_another() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open_in(folder.path()).await;
    let tids = changed(&storage, 5, 3).await;
    let asked: Arc<[Tid]> = [tids[0], tids[1], Tid(tids[2].0 + 1), Tid::MAX].into();
    let located = storage.0.locate(&asked).unwrap();
    let walk = || Walk::new(&storage.0).unwrap();
    for tid in [tids[0], tids[1]] {
        let at = walk().position_of(tid).unwrap();
        assert_eq!(located.position_of(&walk(), tid), Some(at));
    }
    assert_eq!(located.position_of(&walk(), asked[2]), Some(walk().end));
    // Nobody has asked for it, and it may come yet.
    assert_eq!(located.position_of(&walk(), tids[3]), None);
    assert_eq!(located.position_of(&walk(), Tid::MAX), None);

    storage.measure_undone(tids.clone().into()).await.unwrap();
    // Packed to before the last change.
    storage.pack(tids[0].seconds() - 1e-6).await.unwrap();
    assert_eq!(located.position_of(&walk(), tids[0]), None);
    commit_ops(&storage, undo(&tids)).await;
    is_at(&storage, 5, "1").await;

    let asked: Arc<[Tid]> = [tids[0]].into();
    let located = storage.0.locate(&asked).unwrap();
    storage.rewind(Some(tids[4])).await.unwrap();
    assert_eq!(located.position_of(&walk(), tids[0]), None);
}
