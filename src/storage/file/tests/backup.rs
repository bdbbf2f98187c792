//! A copy of a file that goes on being written to.

use super::*;
use crate::job::{Rate, Work};
use crate::storage::BackupOrder;
use crate::storage::suite::{commit_ops, store_blob};
use crate::task::Stop;
use crate::zodb::Op;

fn with_blobs(folder: &Path) -> FileOpener {
    let options = FileOptions {
        blob_dir: Some(folder.join("blobs")),
        ..FileOptions::default()
    };
    FileOpener::new(folder.join("Data.fs"), options)
}

fn order(into: &Path, through: Tid) -> BackupOrder {
    BackupOrder {
        into: into.to_owned(),
        replace: false,
        through,
        array: "main".to_owned(),
        blobs: None,
    }
}

fn work() -> (Work, crate::job::JobHandle) {
    Work::new("copy", Rate::UNLIMITED, &Stop::new())
}

async fn content(storage: &dyn Storage, tid: Tid) -> Option<String> {
    let blob = storage.load_blob(Oid(1), tid).await.ok()?;
    Some(std::fs::read_to_string(blob.path()).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_has_what_was_wanted_and_no_more_and_blobs_that_were_undone_to() {
    let folder = tempfile::tempdir().unwrap();
    let storage = with_blobs(folder.path()).open().await.unwrap();
    let first = commit_ops(&*storage, vec![store_blob(1, Tid::ZERO, b"first")]).await;
    let second = commit_ops(&*storage, vec![store_blob(1, first, b"second")]).await;
    let undone = commit_ops(&*storage, vec![Op::Undo { tid: second }]).await;
    let into = folder.path().join("copy");
    let backup = storage.back_up(order(&into, undone)).await.unwrap();
    // What comes after it was asked for is not in it.
    let later = commit_ops(&*storage, vec![store_blob(1, undone, b"later")]).await;
    let done = backup.run(work().0).await.unwrap();
    assert_eq!((done.last, done.transactions, done.objects), (undone, 3, 1));
    assert_eq!((done.blobs, done.blobs_missing), (3, 0));
    let earlier = folder.path().join("earlier");
    let backup = storage.back_up(order(&earlier, first)).await.unwrap();
    assert_eq!(backup.run(work().0).await.unwrap().last, first);
    storage.close().await;

    let copy = with_blobs(&into).open().await.unwrap();
    assert_eq!(copy.last_tid().await.unwrap(), undone);
    for (tid, expected) in [(first, "first"), (second, "second"), (undone, "first")] {
        let found = content(&*copy, tid).await;
        assert_eq!(found.as_deref(), Some(expected), "{tid}");
    }
    assert_eq!(content(&*copy, later).await, None);
    // Writing to the copy changes nothing in the original, whose blobs it shares.
    commit_ops(&*copy, vec![store_blob(1, undone, b"elsewhere")]).await;
    copy.close().await;
    let copy = with_blobs(&earlier).open().await.unwrap();
    assert_eq!(content(&*copy, first).await.as_deref(), Some("first"));
    assert_eq!(content(&*copy, second).await, None);
    copy.close().await;
    let storage = with_blobs(folder.path()).open().await.unwrap();
    assert_eq!(storage.last_tid().await.unwrap(), later);
    assert_eq!(content(&*storage, later).await.as_deref(), Some("later"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blobs_of_a_folder_that_is_nobodys_are_copied_and_lost_ones_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let storage = with_blobs(folder.path()).open().await.unwrap();
    let first = commit_ops(&*storage, vec![store_blob(1, Tid::ZERO, b"first")]).await;
    let second = commit_ops(&*storage, vec![store_blob(1, first, b"second")]).await;
    storage.close().await;
    let blobs = crate::storage::BlobDirectory::open(folder.path().join("blobs")).unwrap();
    blobs.remove(Oid(1), first).unwrap();
    // A member whose server finds the files in a folder that is shared by everything.
    let storage = opener(&folder).open().await.unwrap();
    let into = folder.path().join("copy");
    let order = BackupOrder {
        blobs: Some(Arc::new(blobs)),
        ..order(&into, second)
    };
    let done = storage.back_up(order).await.unwrap().run(work().0).await;
    let done = done.unwrap();
    assert_eq!((done.blobs, done.blobs_missing), (1, 1));
    let copy = with_blobs(&into).open().await.unwrap();
    assert_eq!(content(&*copy, second).await.as_deref(), Some("second"));
    copy.close().await;
    storage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_file_is_backed_up_and_what_fails_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let place = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let into = place.path().join("copy");
    let backup = storage.back_up(order(&into, Tid::ZERO)).await.unwrap();
    let done = backup.run(work().0).await.unwrap();
    assert_eq!((done.transactions, done.bytes), (0, 4));
    let copy = FileOpener::new(into.join("Data.fs"), FileOptions::default());
    copy.open().await.unwrap().close().await;
    std::fs::remove_dir_all(&into).unwrap();

    // Cancelled before it has begun, and while its member is closed.
    let (work_, handle) = work();
    handle.cancel();
    commit_ops(&*storage, vec![store_plain()]).await;
    let last = storage.last_tid().await.unwrap();
    let backup = storage.back_up(order(&into, last)).await.unwrap();
    let ended = backup.run(work_).await.unwrap_err();
    assert!(matches!(ended, BackupError::Cancelled), "{ended}");
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    let backup = storage.back_up(order(&into, last)).await.unwrap();
    storage.close().await;
    let ended = backup.run(work().0).await.unwrap_err();
    assert!(matches!(ended, BackupError::Source(_)), "{ended}");
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
}

fn store_plain() -> Op {
    Op::Store {
        oid: Oid(7),
        serial: Tid::ZERO,
        data: Bytes::from_static(b"plain").into(),
    }
}
