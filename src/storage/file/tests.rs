//! The suite over files, and what only a file can do.

use std::time::Duration;

use super::*;
use crate::storage::suite::{Fixture, storage_suite};

mod backup;
mod crash;
mod damage;
mod far;
mod inspect;
mod killed;
mod model;
mod oracle;
mod packing;
mod states;
mod undone;

storage_suite!(fixture());

async fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let options = FileOptions {
        blob_dir: Some(folder.path().join("blobs")),
        ..FileOptions::default()
    };
    let opener = FileOpener::new(data_fs(&folder), options);
    let storage = opener.open().await.unwrap();
    Fixture::keeping(storage, folder)
}

fn data_fs(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("Data.fs")
}

fn opener(folder: &tempfile::TempDir) -> FileOpener {
    FileOpener::new(data_fs(folder), FileOptions::default())
}

async fn open(folder: &tempfile::TempDir) -> Arc<dyn Storage> {
    Arc::new(open_file(&data_fs(folder), FileOptions::default()).await)
}

async fn open_file(path: &std::path::Path, options: FileOptions) -> FileStorage {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        match FileStorage::open(path, options.clone()).await {
            // A process that another test starts at this moment has the lock too, until it is another
            // program.
            Err(Fault::InUse(_)) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            other => return other.unwrap(),
        }
    }
}

#[tokio::test]
async fn what_must_be_there_is_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let Err(Fault::Unreachable(why)) = opener(&folder).open_what_is_there().await else {
        panic!("a file that is not there was opened");
    };
    assert!(why.contains("Data.fs is not there"), "{why}");
    assert!(!data_fs(&folder).exists());
    open(&folder).await.close().await;
    let there = opener(&folder).open_what_is_there().await.unwrap();
    there.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_removed_or_replaced_is_found() {
    use crate::storage::suite::{commit_ops, store};

    let folder = tempfile::tempdir().unwrap();
    let options = FileOptions {
        pack_gc: false,
        ..FileOptions::default()
    };
    let opener = FileOpener::new(data_fs(&folder), options);
    let storage = opener.open().await.unwrap();
    let first = commit_ops(&*storage, vec![store(0, Tid::ZERO, b"first")]).await;
    commit_ops(&*storage, vec![store(0, first, b"second")]).await;
    storage.in_place().await.unwrap();
    // What the storage itself puts in its place is its own.
    storage.pack(f64::from(u32::MAX)).await.unwrap();
    storage.in_place().await.unwrap();
    storage.rewind(None).await.unwrap();
    storage.in_place().await.unwrap();

    let away = folder.path().join("away");
    std::fs::rename(data_fs(&folder), &away).unwrap();
    assert!(matches!(
        storage.in_place().await,
        Err(Fault::Unreachable(_))
    ));
    std::fs::copy(&away, data_fs(&folder)).unwrap();
    assert!(matches!(
        storage.in_place().await,
        Err(Fault::Unreachable(_))
    ));
    std::fs::rename(&away, data_fs(&folder)).unwrap();
    storage.in_place().await.unwrap();
    storage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blobs_are_set_aside_with_their_records() {
    use crate::storage::suite::{commit_ops, store_blob};

    let folder = tempfile::tempdir().unwrap();
    let options = FileOptions {
        blob_dir: Some(folder.path().join("blobs")),
        ..FileOptions::default()
    };
    let opener = FileOpener::new(data_fs(&folder), options);
    let storage = opener.open().await.unwrap();
    let first = commit_ops(&*storage, vec![store_blob(1, Tid::ZERO, b"first")]).await;
    let second = commit_ops(&*storage, vec![store_blob(1, first, b"second")]).await;

    // What was taken back is a storage with its blobs.
    let aside = async |file: Option<PathBuf>, tid| {
        let file = file.unwrap();
        let name = file.to_str().unwrap().to_owned();
        let suffix = name
            .strip_prefix(data_fs(&folder).to_str().unwrap())
            .unwrap();
        let options = FileOptions {
            blob_dir: Some(beside(&folder.path().join("blobs"), suffix)),
            ..FileOptions::default()
        };
        let storage = FileOpener::new(file, options).open().await.unwrap();
        let blob = storage.load_blob(Oid(1), tid).await.unwrap();
        let content = std::fs::read_to_string(blob.path()).unwrap();
        storage.close().await;
        content
    };
    let set_aside = storage.rewind(Some(first)).await.unwrap();
    assert_eq!(aside(set_aside.file, second).await, "second");
    assert!(storage.load_blob(Oid(1), second).await.is_err());
    assert!(storage.load_blob(Oid(1), first).await.is_ok());
    let set_aside = storage.rewind(None).await.unwrap();
    assert_eq!(aside(set_aside.file, first).await, "first");
    assert!(storage.load_blob(Oid(1), first).await.is_err());

    let third = commit_ops(&*storage, vec![store_blob(1, Tid::ZERO, b"third")]).await;
    storage.close().await;
    let set_aside = opener.set_aside().await.unwrap();
    assert_eq!(aside(set_aside.file, third).await, "third");
    let storage = opener.open().await.unwrap();
    assert!(storage.load_blob(Oid(1), third).await.is_err());
}

/// Whoever asks for so many lines that they would fill the memory is told to ask for fewer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_is_not_longer_than_one_answer_may_be() {
    use crate::zodb::{HistoryRecord, RecordData, TxnMeta, TxnStatus};

    const COUNT: u64 = 1200;
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let meta = TxnMeta {
        description: vec![b'x'; 60_000].into(),
        status: TxnStatus::Normal,
        ..TxnMeta::default()
    };
    for batch in (1..=COUNT).collect::<Vec<_>>().chunks(100) {
        let transaction = |tid: &u64| HistoryTxn {
            tid: Tid(*tid),
            meta: meta.clone(),
            records: vec![HistoryRecord {
                oid: Oid(1),
                data: RecordData::Data(Bytes::from_static(b"data").into()),
                blob: None,
            }],
        };
        let batch = batch.iter().map(transaction).collect();
        storage.restore(batch).await.unwrap();
    }
    let error = storage.history(Oid(1), 2000).await.unwrap_err().to_string();
    assert!(error.contains("ask for fewer"), "{error}");
    assert_eq!(storage.history(Oid(1), 1000).await.unwrap().len(), 1000);
    let error = storage.undo_info(0, 2000, &Value::None).await.unwrap_err();
    assert!(error.to_string().contains("ask for fewer"), "{error}");
    let page = storage.undo_info(1000, 1020, &Value::None).await.unwrap();
    assert_eq!(page.len(), 20);
    storage.close().await;
}
