//! Files of databases: a `Data.fs` of any bytes, an index beside a good one, and packing.

use std::path::Path;
use std::sync::OnceLock;

use bytes::Bytes;

use super::input::FIRST;
use super::{in_folder, run_with_threads};
use crate::pickle::Value;
use crate::storage::file::inspect::Inspection;
use crate::storage::file::{FileOptions, FileStorage};
use crate::storage::{Fault, History, Storage, StorageError, Vote};
use crate::zodb::{HistoryTxn, Oid, Op, Tid, TidRange, TxnMeta, TxnStatus};

/// Of each kind of thing, so many are asked for.
const SOME: usize = 50;

/// Any bytes as a `Data.fs`: looked into, opened, read, and written to.
pub(super) fn data_fs(data: &[u8]) {
    in_folder(|folder| {
        let path = folder.join("Data.fs");
        put(&path, data);
        let seen = look_into(&path);
        run_with_threads(async {
            let Some(storage) = open(&path).await else {
                return;
            };
            let transactions = read_all(&storage).await;
            if seen.is_some() {
                assert_eq!(transactions, seen, "a check has overlooked something");
            }
            let committed = commit(&storage, b"data").await;
            storage.close().await;
            let again = open(&path)
                .await
                .expect("what was written to can be opened");
            let more = u64::from(committed.is_some());
            assert_eq!(count(&again).await, transactions.map(|count| count + more));
            again.close().await;
        });
    });
}

/// Any bytes as the index of a good file. Opening may believe it, and reads no worse than that.
pub(super) fn index(data: &[u8]) {
    in_folder(|folder| {
        let path = folder.join("Data.fs");
        put(&path, good());
        put(&folder.join("Data.fs.index"), data);
        look_into(&path);
        run_with_threads(async {
            let storage = open(&path).await.expect("the file is good");
            // A wrong index makes objects that are not there, and no others.
            read_all(&storage).await;
            storage.close().await;
        });
    });
}

/// Any bytes as a `Data.fs`, packed. What it held of the current objects, it holds.
pub(super) fn pack(data: &[u8]) {
    in_folder(|folder| {
        let path = folder.join("Data.fs");
        put(&path, data);
        run_with_threads(async {
            let Some(storage) = open(&path).await else {
                return;
            };
            // As of the last transaction: some before it may go.
            let last = told(storage.last_tid().await).unwrap_or(Tid::ZERO);
            let root = told(storage.load_before(Oid::ROOT, Tid::MAX).await);
            let packed = told(storage.pack(last.seconds()).await);
            if packed.is_some() {
                let now = told(storage.load_before(Oid::ROOT, Tid::MAX).await);
                let data = |loaded: Option<Option<crate::storage::Loaded>>| {
                    loaded.flatten().map(|loaded| loaded.data)
                };
                assert_eq!(data(now), data(root), "the root object has changed");
                let now = told(storage.last_tid().await);
                assert_eq!(now, Some(last), "no TID is given twice");
            }
            storage.close().await;
            if packed.is_some() {
                let again = open(&path).await.expect("what was packed can be opened");
                assert_eq!(
                    told(again.last_tid().await),
                    Some(last),
                    "the end is what it was"
                );
                again.close().await;
            }
        });
    });
}

fn put(path: &Path, data: &[u8]) {
    std::fs::write(path, data).expect("a file can be written");
}

/// What `inspect` does. The number of transactions, where nothing is wrong with them.
fn look_into(path: &Path) -> Option<u64> {
    let inspection = Inspection::open(path, None).ok()?;
    let plain = inspection.read(false, &mut |_| {});
    let checked = inspection.read(true, &mut |_| {});
    let checked = checked.expect("a check goes on after what is damaged");
    drop(inspection.last_transactions(SOME, &mut |_| {}));
    let plain = plain.ok()?;
    assert_eq!(plain.transactions, checked.transactions);
    let mistakes = checked.checked.map_or(0, |checked| checked.mistake_count);
    (mistakes == 0).then_some(plain.transactions)
}

async fn open(path: &Path) -> Option<FileStorage> {
    match FileStorage::open(path, FileOptions::default()).await {
        Ok(storage) => Some(storage),
        Err(fault) => {
            no_thread_ended(&fault);
            None
        }
    }
}

/// What was answered. A fault may be, but not that of a thread of ours.
fn told<T>(answered: Result<T, StorageError>) -> Option<T> {
    match answered {
        Ok(answer) => Some(answer),
        Err(StorageError::Answer(_)) => None,
        Err(StorageError::Fault(fault)) => {
            no_thread_ended(&fault);
            None
        }
    }
}

fn no_thread_ended(fault: &Fault) {
    let text = fault.to_string();
    assert!(!text.contains("a thread that"), "{text}");
}

async fn iterate(storage: &FileStorage) -> Option<Box<dyn History>> {
    let all = TidRange {
        first: Tid::ZERO,
        last: Tid::MAX,
    };
    told(storage.iterate(all).await)
}

/// The number of transactions; none where they cannot all be read.
async fn count(storage: &FileStorage) -> Option<u64> {
    let mut history = iterate(storage).await?;
    let mut count = 0;
    while told(history.next().await)?.is_some() {
        count += 1;
    }
    Some(count)
}

/// Asks everything that can be asked. The number of transactions; none where they cannot all be read.
async fn read_all(storage: &FileStorage) -> Option<u64> {
    let last = told(storage.last_tid().await).unwrap_or(Tid::ZERO);
    let mut transactions = Some(0);
    let mut some: Vec<HistoryTxn> = Vec::new();
    if let Some(mut history) = iterate(storage).await {
        let mut before = Tid::ZERO;
        loop {
            match told(history.next().await) {
                None => {
                    transactions = None;
                    break;
                }
                Some(None) => break,
                Some(Some(transaction)) => {
                    assert!(transaction.tid > before, "a history goes on");
                    assert!(transaction.tid <= last);
                    before = transaction.tid;
                    transactions = transactions.map(|count| count + 1);
                    if some.len() < SOME {
                        some.push(transaction);
                    }
                }
            }
        }
    }
    for transaction in &some {
        let visible = transaction.meta.status != TxnStatus::Undone;
        for record in transaction.records.iter().take(SOME) {
            ask_of(storage, record.oid, transaction.tid, visible).await;
        }
    }
    let mut from = Oid::ROOT;
    for _ in 0..SOME {
        let Some(Some(record)) = told(storage.record_from(from).await) else {
            break;
        };
        assert!(record.oid >= from);
        let Some(next) = record.next else { break };
        assert!(next > record.oid, "a walk goes on");
        from = next;
    }
    told(storage.undo_info(0, -20, &Value::None).await);
    told(storage.tids_before(Tid::MAX, SOME).await);
    told(storage.measure_after(Tid::ZERO).await);
    told(storage.invalidations_since(FIRST).await);
    told(storage.new_oids(3, Oid::ROOT).await);
    transactions
}

/// About an object that this transaction wrote. What the oldest kind of undo has marked as undone (`u`) is in the
/// history, and is no revision of any object.
async fn ask_of(storage: &FileStorage, oid: Oid, tid: Tid, visible: bool) {
    if let Some(Some(loaded)) = told(storage.load_before(oid, Tid::MAX).await) {
        assert!(loaded.end.is_none());
        assert!(visible && loaded.tid >= tid || !visible && loaded.tid != tid);
    }
    if let Some(Some(loaded)) = told(storage.load_before(oid, tid).await) {
        assert!(loaded.tid < tid && (loaded.end.is_some() || !visible));
    }
    told(storage.load_serial(oid, tid).await);
    told(storage.current_tid(oid).await);
    if let Some(revisions) = told(storage.history(oid, SOME).await) {
        assert!(revisions.is_sorted_by(|new, old| new.tid > old.tid));
    }
}

/// One more transaction with a new object.
async fn commit(storage: &FileStorage, data: &'static [u8]) -> Option<Tid> {
    let oids = told(storage.new_oids(1, Oid::ROOT).await)?;
    let mut transaction = told(storage.begin(TxnMeta::default(), None).await)?;
    let op = Op::Store {
        oid: oids[0],
        serial: Tid::ZERO,
        data: Bytes::from_static(data).into(),
    };
    told(transaction.store(op).await)?;
    match told(transaction.vote().await)? {
        Vote::Ready(voted) => told(voted.finish().await),
        Vote::Conflicts(..) => panic!("a new object is in nobody's way"),
    }
}

/// A file with a few transactions, made once.
pub(super) fn good() -> &'static [u8] {
    static GOOD: OnceLock<Vec<u8>> = OnceLock::new();
    GOOD.get_or_init(|| {
        let folder = super::folder();
        let path = folder.path().join("Data.fs");
        super::runtime(false).block_on(async {
            let storage = open(&path).await.expect("a new file can be made");
            for _ in 0..4 {
                let stored = commit(&storage, b"good data").await;
                stored.expect("it can be written to");
            }
            storage.close().await;
        });
        std::fs::read(&path).expect("it was written")
    })
}

/// Files with undone, deleted and packed transactions, each kind of metadata, and a reference.
#[cfg(test)]
pub(super) fn samples() -> Vec<Vec<u8>> {
    let folder = super::folder();
    let path = folder.path().join("Data.fs");
    let read = || std::fs::read(&path).unwrap();
    let mut files = Vec::new();
    super::runtime(false).block_on(async {
        let storage = open(&path).await.unwrap();
        let root = store(&storage, Oid::ROOT, Tid::ZERO, REFERS_TO_ONE).await;
        let one = store(
            &storage,
            Oid(1),
            Tid::ZERO,
            b"\x80\x03cm\nc\nq\0.\x80\x03}.",
        )
        .await;
        let again = store(&storage, Oid(1), one, b"again").await;
        finish(&storage, Op::Undo { tid: again }).await;
        store(&storage, Oid(7), Tid::ZERO, b"garbage").await;
        files.push(read());
        let serial = store(&storage, Oid(2), Tid::ZERO, b"to be deleted").await;
        let oid = Oid(2);
        finish(&storage, Op::Delete { oid, serial }).await;
        files.push(read());
        storage.pack(f64::from(u32::MAX)).await.unwrap();
        store(&storage, Oid::ROOT, root, REFERS_TO_ONE).await;
        storage.close().await;
        files.push(read());
    });
    files
}

/// A record with a persistent reference to object 1.
#[cfg(test)]
const REFERS_TO_ONE: &[u8] =
    b"\x80\x03cm\nc\nq\0.\x80\x03}X\x01\0\0\0aC\x08\0\0\0\0\0\0\0\x01cm\nc\n\x86Qs.";

#[cfg(test)]
async fn store(storage: &FileStorage, oid: Oid, serial: Tid, data: &'static [u8]) -> Tid {
    let data = Bytes::from_static(data).into();
    finish(storage, Op::Store { oid, serial, data }).await
}

#[cfg(test)]
async fn finish(storage: &FileStorage, op: Op) -> Tid {
    let meta = TxnMeta {
        user: "user".into(),
        description: "description".into(),
        extension: Bytes::from_static(b"\x80\x03}q\x00X\x01\0\0\0aq\x01X\x01\0\0\0bq\x02s."),
        ..TxnMeta::default()
    };
    let mut transaction = storage.begin(meta, None).await.unwrap();
    transaction.store(op).await.unwrap();
    match transaction.vote().await.unwrap() {
        Vote::Ready(voted) => voted.finish().await.unwrap(),
        Vote::Conflicts(..) => panic!("nobody else writes"),
    }
}
