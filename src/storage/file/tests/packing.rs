//! Packing interrupted, twice at once, and beside everything else.

#![expect(
    clippy::disallowed_methods,
    reason = "each task is waited for where it is started"
)]

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use super::crash::copy_folder;
use super::oracle::blobs;
use super::*;
use crate::storage::suite::{commit, commit_ops, referring, store, store_blob, text, transactions};
use crate::storage::{StorageError, Vote};

fn options(folder: &Path) -> FileOptions {
    FileOptions {
        blob_dir: Some(folder.join("blobs")),
        ..FileOptions::default()
    }
}

async fn open_in(folder: &Path) -> FileStorage {
    open_file(&folder.join("Data.fs"), options(folder)).await
}

/// Something to be packed: old revisions, garbage, an undo, blobs.
async fn fill(storage: &FileStorage) -> Tid {
    let first = commit_ops(
        storage,
        vec![
            store(0, Tid::ZERO, &referring(&[1, 2, 5], "root")),
            store(1, Tid::ZERO, &referring(&[], "a")),
            store(2, Tid::ZERO, &referring(&[3], "b")),
            store(3, Tid::ZERO, &referring(&[], "c")),
            store(4, Tid::ZERO, &referring(&[1], "garbage")),
            store_blob(5, Tid::ZERO, b"first"),
            store_blob(6, Tid::ZERO, b"garbage"),
        ],
    )
    .await;
    let second = commit_ops(
        storage,
        vec![
            store(1, first, &referring(&[], "A")),
            store_blob(5, first, b"second"),
        ],
    )
    .await;
    commit_ops(storage, vec![crate::zodb::Op::Undo { tid: second }]).await
}

fn after(tid: Tid) -> f64 {
    tid.time().unwrap().as_second() as f64 + 1.0
}

/// The current objects, and the files of their blobs.
async fn current(storage: &FileStorage) -> Vec<String> {
    let mut all = Vec::new();
    let mut next = Some(Oid(0));
    while let Some(from) = next {
        let Some(record) = storage.record_from(from).await.unwrap() else {
            break;
        };
        let blob = storage.load_blob(record.oid, record.tid).await.ok();
        let content = blob.map(|blob| std::fs::read_to_string(blob.path()).unwrap());
        let CurrentRecord { oid, tid, data, .. } = &record;
        all.push(format!("{oid} {tid} {data:?} {content:?}"));
        next = record.next;
    }
    all
}

async fn all(storage: &FileStorage) -> Vec<String> {
    let there = transactions(storage, TidRange::ALL).await;
    there.iter().map(text).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_any_step_leaves_the_old_file_or_the_new() {
    let folder = tempfile::tempdir().unwrap();
    let images = tempfile::tempdir().unwrap();
    let home = folder.path().join("home");
    std::fs::create_dir(&home).unwrap();
    let storage = open_in(&home).await;
    let last = fill(&storage).await;
    let whole = all(&storage).await;
    let (names, steps) = mpsc::channel();
    {
        let (home, images) = (home.clone(), images.path().to_owned());
        *storage.0.at_step.lock() = Some(Box::new(move |name| {
            copy_folder(&home, &images.join(name));
            names.send(name).unwrap();
        }));
    }
    storage.pack(after(last)).await.unwrap();
    *storage.0.at_step.lock() = None;
    let packed = all(&storage).await;
    assert_ne!(whole, packed);
    let objects = current(&storage).await;
    assert_eq!(objects.len(), 5);
    storage.close().await;

    let steps: Vec<&str> = steps.into_iter().collect();
    assert_eq!(steps.len(), 11, "{steps:?}");
    let mut in_force = false;
    for name in steps {
        let home = images.path().join(name);
        in_force |= name == "renamed";
        let storage = open_in(&home).await;
        let expected = if in_force { &packed } else { &whole };
        assert_eq!(&all(&storage).await, expected, "{name}");
        let there = current(&storage).await;
        let reachable = |line: &&String| objects.contains(line);
        assert_eq!(
            there.iter().filter(reachable).count(),
            objects.len(),
            "{name}"
        );
        if in_force {
            // What the interrupted one did not come to is done.
            assert_eq!(blobs(&home.join("blobs")).len(), 1, "{name}");
        } else {
            assert_eq!(blobs(&home.join("blobs")).len(), 4, "{name}");
            storage.pack(after(last)).await.unwrap();
            assert_eq!(all(&storage).await, packed, "{name}");
        }
        assert_eq!(current(&storage).await, objects, "{name}");
        for left in ["Data.fs.pack", "blobs/.removed"] {
            assert!(!home.join(left).exists(), "{left} after {name}");
        }
        // It goes on.
        let tid = commit(&storage, &[(9, Tid::ZERO, b"new")]).await;
        storage.close().await;
        let storage = open_in(&home).await;
        assert_eq!(storage.current_tid(Oid(9)).await.unwrap(), tid, "{name}");
        storage.close().await;
    }
}

/// Stops packing at a step until it is told to go on.
fn stop_at(
    storage: &FileStorage,
    step: &'static str,
) -> (mpsc::Receiver<()>, mpsc::SyncSender<()>) {
    let (reached, is_reached) = mpsc::sync_channel(1);
    let (go_on, told) = mpsc::sync_channel::<()>(1);
    *storage.0.at_step.lock() = Some(Box::new(move |name| {
        if name == step {
            reached.send(()).unwrap();
            told.recv().ok();
        }
    }));
    (is_reached, go_on)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_packs_at_a_time_and_everybody_else_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Arc::new(open_in(folder.path()).await);
    let last = fill(&storage).await;
    let (reached, go_on) = stop_at(&storage, "rest copied");
    let packing = tokio::spawn({
        let storage = Arc::clone(&storage);
        async move { storage.pack(after(last)).await }
    });
    tokio::task::block_in_place(|| reached.recv().unwrap());

    let second = storage.pack(after(last)).await;
    let said = Answer::Other {
        class: "ZODB.FileStorage.FileStorage.FileStorageError".to_owned(),
        text: "Already packing".to_owned(),
    };
    assert!(matches!(second, Err(StorageError::Answer(answer)) if answer == said));
    let mut open = storage.iterate(TidRange::ALL).await.unwrap();
    let root = storage.current_tid(Oid(0)).await.unwrap();
    let changed = commit(&*storage, &[(0, root, &referring(&[1, 2, 5], "changed"))]).await;
    let undone = commit_ops(&*storage, vec![crate::zodb::Op::Undo { tid: changed }]).await;
    let large = vec![b'x'; 2 << 20];
    commit(&*storage, &[(1000, Tid::ZERO, &large)]).await;
    let before = current(&storage).await;
    go_on.send(()).unwrap();
    packing.await.unwrap().unwrap();

    let there = all(&storage).await;
    assert_eq!(there.len(), 5);
    // An undo of what was committed meanwhile still points back.
    let history = transactions(&*storage, TidRange::only(undone)).await;
    let crate::zodb::RecordData::Back { tid, .. } = history[0].records[0].data else {
        panic!("{history:?}");
    };
    assert_eq!(tid, root);
    let now = current(&storage).await;
    assert!(now.iter().all(|line| before.contains(line)));
    assert_eq!(now.len(), before.len() - 2);
    let mut count = 0;
    while let Some(txn) = open.next().await.unwrap() {
        count += 1;
        assert!(txn.tid <= last);
    }
    assert_eq!(count, 3);
    *storage.0.at_step.lock() = None;
    storage.close().await;
}

/// Clients that commit more than is copied at once whenever there is room for it, until the place at the
/// end of the file was given back to them so many times.
fn write_ahead(storage: &Arc<FileStorage>, times: usize) -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let (there, counted) = (Arc::clone(storage), Arc::clone(&count));
    let mut given_back = 0;
    *storage.0.at_step.lock() = Some(Box::new(move |name| {
        given_back += usize::from(name == "place given back");
        if ["rest copied", "caught up", "place given back"].contains(&name) && given_back < times {
            let oid = 1000 + counted.fetch_add(1, Ordering::Relaxed) as u64;
            let data = vec![b'x'; 300 << 10];
            let runtime = tokio::runtime::Handle::current();
            tokio::task::block_in_place(|| {
                runtime.block_on(commit(&*there, &[(oid, Tid::ZERO, &data)]));
            });
        }
    }));
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_writes_much_waits_a_little_at_a_time_until_all_is_copied() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Arc::new(open_in(folder.path()).await);
    let last = fill(&storage).await;
    let written = write_ahead(&storage, 3);
    storage.pack(after(last)).await.unwrap();
    *storage.0.at_step.lock() = None;
    // Each time after all the rounds beside them.
    let written = written.load(Ordering::Relaxed);
    assert!(written > 2 * 16, "{written}");
    assert_eq!(current(&storage).await.len(), 5 + written);
    storage.close().await;
    let storage = open_in(folder.path()).await;
    assert_eq!(current(&storage).await.len(), 5 + written);
    assert!(!folder.path().join("Data.fs.pack").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clients_that_write_faster_than_is_copied_end_the_packing() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Arc::new(open_in(folder.path()).await);
    let last = fill(&storage).await;
    let written = write_ahead(&storage, usize::MAX);
    let said = storage.pack(after(last)).await.unwrap_err().to_string();
    assert!(said.contains("clients wrote faster"), "{said}");
    *storage.0.at_step.lock() = None;
    let written = written.load(Ordering::Relaxed);
    assert_eq!(current(&storage).await.len(), 7 + written);
    assert!(!folder.path().join("Data.fs.pack").exists());
    storage.pack(after(last)).await.unwrap();
    // What was written within the second until that time cannot be reached.
    let left = current(&storage).await.len();
    assert!((5..=5 + written).contains(&left), "{left}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_undo_of_what_is_going_away_stops_the_packing_and_not_the_undo() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Arc::new(open_in(folder.path()).await);
    let first = commit(
        &*storage,
        &[
            (0, Tid::ZERO, &referring(&[1], "root")),
            (1, Tid::ZERO, &referring(&[], "one")),
        ],
    )
    .await;
    let second = commit(&*storage, &[(0, first, &referring(&[], "without"))]).await;
    let (reached, go_on) = stop_at(&storage, "rest copied");
    let packing = tokio::spawn({
        let storage = Arc::clone(&storage);
        async move { storage.pack(after(second)).await }
    });
    tokio::task::block_in_place(|| reached.recv().unwrap());
    let undo = crate::zodb::Op::Undo { tid: second };
    commit_ops(&*storage, vec![undo]).await;
    go_on.send(()).unwrap();
    let said = packing.await.unwrap().unwrap_err().to_string();
    assert!(said.contains("undo"), "{said}");
    assert_eq!(current(&storage).await.len(), 2);
    assert!(!folder.path().join("Data.fs.pack").exists());
    *storage.0.at_step.lock() = None;
    storage.pack(after(second) + 10.0).await.unwrap();
    assert_eq!(current(&storage).await.len(), 2);
}

/// What is packed has no pointers into the past, and of an object that a later undo has restored two records stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_within_what_is_packed_leaves_every_object_that_is_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open_in(folder.path()).await;
    let root = referring(&[1], "root");
    let objects = [
        (0, Tid::ZERO, &root[..]),
        (1, Tid::ZERO, &referring(&[], "first")[..]),
        // Without garbage nothing is packed.
        (2, Tid::ZERO, &referring(&[], "garbage")[..]),
    ];
    let first = commit(&storage, &objects).await;
    let second = commit(&storage, &[(1, first, &referring(&[], "second"))]).await;
    commit_ops(&storage, vec![crate::zodb::Op::Undo { tid: second }]).await;
    // The undo is later by more than that: it was synced after the other.
    let time = second.time().unwrap().as_nanosecond() as f64 / 1e9 + 5e-5;
    storage.pack(time).await.unwrap();
    assert_eq!(all(&storage).await.len(), 3);
    storage.rewind(Some(first)).await.unwrap();
    let there = current(&storage).await;
    assert_eq!(there.len(), 2, "{there:?}");
    storage.close().await;
    std::fs::remove_file(folder.path().join("Data.fs.index")).unwrap();
    let storage = open_in(folder.path()).await;
    assert_eq!(current(&storage).await, there);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn closing_does_not_wait_for_the_end_of_a_packing() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Arc::new(open_in(folder.path()).await);
    let last = fill(&storage).await;
    let whole = all(&storage).await;
    let (reached, go_on) = stop_at(&storage, "created");
    let packing = tokio::spawn({
        let storage = Arc::clone(&storage);
        async move { storage.pack(after(last)).await }
    });
    tokio::task::block_in_place(|| reached.recv().unwrap());
    let closing = tokio::spawn({
        let storage = Arc::clone(&storage);
        async move { storage.close().await }
    });
    while !storage.0.tail.lock().stop {
        tokio::task::yield_now().await;
    }
    go_on.send(()).unwrap();
    assert!(matches!(
        packing.await.unwrap(),
        Err(StorageError::Fault(_))
    ));
    closing.await.unwrap();
    assert!(!folder.path().join("Data.fs.pack").exists());
    let storage = open_in(folder.path()).await;
    assert_eq!(all(&storage).await, whole);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_taken_back_meanwhile_stops_the_packing() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Arc::new(open_in(folder.path()).await);
    let last = fill(&storage).await;
    let (reached, go_on) = stop_at(&storage, "rest copied");
    let packing = tokio::spawn({
        let storage = Arc::clone(&storage);
        async move { storage.pack(after(last)).await }
    });
    tokio::task::block_in_place(|| reached.recv().unwrap());
    let tids = storage.tids_before(Tid::MAX, 10).await.unwrap();
    storage.rewind(Some(tids[1])).await.unwrap();
    go_on.send(()).unwrap();
    let said = packing.await.unwrap().unwrap_err();
    assert!(matches!(said, StorageError::Answer(_)), "{said}");
    assert_eq!(all(&storage).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_reached_goes_with_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open_in(folder.path()).await;
    let last = fill(&storage).await;
    let first = storage.tids_before(Tid::MAX, 10).await.unwrap()[2];
    storage.load_blob(Oid(6), first).await.unwrap();
    storage.pack(after(last)).await.unwrap();
    for oid in [4, 6].map(Oid) {
        let gone = storage.load_before(oid, Tid::MAX).await;
        assert!(matches!(
            gone,
            Err(StorageError::Answer(Answer::NoSuchObject(_)))
        ));
    }
    assert!(storage.load_blob(Oid(6), first).await.is_err());
    assert_eq!(storage.size().objects, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reference_to_nothing_is_said_and_nothing_is_packed() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open_in(folder.path()).await;
    let first = commit(&storage, &[(0, Tid::ZERO, &referring(&[7], "root"))]).await;
    let second = commit(&storage, &[(0, first, &referring(&[7], "again"))]).await;
    let size = storage.size();
    let said = storage.pack(after(second)).await.unwrap_err().to_string();
    assert!(
        said.contains("KeyError") && said.contains("0000000000000007"),
        "{said}"
    );
    assert_eq!(storage.size(), size);
    commit(&storage, &[(0, second, b"no pickle")]).await;
    let said = storage
        .pack(after(second) + 5.0)
        .await
        .unwrap_err()
        .to_string();
    assert!(said.contains("is no pickle"), "{said}");
    storage.close().await;
    let without = FileOptions {
        pack_gc: false,
        pack_keep_old: false,
        ..options(folder.path())
    };
    let path = folder.path().join("Data.fs");
    let storage = open_file(&path, without).await;
    storage.pack(after(second) + 5.0).await.unwrap();
    assert!(storage.size().bytes < size.bytes);
    assert!(!folder.path().join("Data.fs.old").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_pack_puts_in_its_place_is_no_strange_file() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Arc::new(open_in(folder.path()).await);
    let last = fill(&storage).await;
    let (reached, go_on) = stop_at(&storage, "renamed");
    let packing = tokio::spawn({
        let storage = Arc::clone(&storage);
        async move { storage.pack(after(last)).await }
    });
    tokio::task::block_in_place(|| reached.recv().unwrap());
    storage.in_place().await.unwrap();
    go_on.send(()).unwrap();
    packing.await.unwrap().unwrap();
    storage.in_place().await.unwrap();
}

/// Also without collecting garbage, and with what is committed meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_last_transaction_that_wrote_only_what_goes_stays_the_last() {
    for (pack_gc, meanwhile) in [(true, false), (false, false), (true, true), (false, true)] {
        let folder = tempfile::tempdir().unwrap();
        let options = || FileOptions {
            pack_gc,
            ..options(folder.path())
        };
        let path = folder.path().join("Data.fs");
        let storage = Arc::new(open_file(&path, options()).await);
        fill(&storage).await;
        let made = commit(&*storage, &[(7, Tid::ZERO, &referring(&[], "garbage"))]).await;
        let meta = TxnMeta {
            user: "jane".into(),
            description: "removes it".into(),
            ..TxnMeta::default()
        };
        let mut transaction = storage.begin(meta.clone(), None).await.unwrap();
        let delete = crate::zodb::Op::Delete {
            oid: Oid(7),
            serial: made,
        };
        transaction.store(delete).await.unwrap();
        let Vote::Ready(voted) = transaction.vote().await.unwrap() else {
            panic!("a conflict")
        };
        let last = voted.finish().await.unwrap();
        let (reached, go_on) = stop_at(&storage, "rest copied");
        let packing = tokio::spawn({
            let storage = Arc::clone(&storage);
            async move { storage.pack(after(last)).await }
        });
        tokio::task::block_in_place(|| reached.recv().unwrap());
        let mut end = last;
        if meanwhile {
            end = commit(&*storage, &[(8, Tid::ZERO, &referring(&[], "new"))]).await;
        }
        go_on.send(()).unwrap();
        packing.await.unwrap().unwrap();
        *storage.0.at_step.lock() = None;
        storage.close().await;

        for index in [true, false] {
            if !index {
                std::fs::remove_file(folder.path().join("Data.fs.index")).unwrap();
            }
            let storage = open_file(&path, options()).await;
            assert_eq!(storage.last_tid().await.unwrap(), end);
            let kept = transactions(&storage, TidRange::only(last)).await;
            assert!(kept[0].records.is_empty());
            let packed = TxnMeta {
                status: crate::zodb::TxnStatus::Packed,
                ..meta.clone()
            };
            assert_eq!(kept[0].meta, packed);
            // Nobody undoes it any more.
            let undoable = storage.undo_info(0, 100, &crate::storage::Value::None);
            let undoable = undoable.await.unwrap();
            assert!(undoable.iter().all(|one| one.tid > last));
            storage.close().await;
        }
    }
}
