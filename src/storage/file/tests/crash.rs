//! Power failures at every moment.
//!
//! The engine works on a disk that remembers which writes were synced. A workload is run again and
//! again, and stopped at its first, second, third … write or sync; then a storage is opened on what
//! the disk could hold: what was synced, and of the rest nothing, everything, or any sectors.

use std::io;

use parking_lot::Mutex;

use super::super::disk::Disk;
use super::super::open::open_on;
use super::*;
use crate::storage::suite::{
    BLOB_RECORD, begin, blob, commit, payload, ready, store, store_blob, text, transactions,
};
use crate::storage::{Fault, Voted};
use crate::zodb::{HistoryRecord, HistoryTxn, Op, Payload, RecordData, Tid, TxnMeta};

const SECTOR: usize = 512;

/// A disk that can lose its power.
#[derive(Debug, Default)]
struct FragileDisk(Mutex<Images>);

#[derive(Debug, Default, Clone)]
struct Images {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// What is not durable, in order.
    unsynced: Vec<Change>,
    /// How many changes and syncs there were, and at which one the power goes.
    steps: usize,
    stop_at: Option<usize>,
}

#[derive(Debug, Clone)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    SetLen(usize),
}

impl Change {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Change::Write { at, bytes } => {
                if image.len() < at + bytes.len() {
                    image.resize(at + bytes.len(), 0);
                }
                image[*at..at + bytes.len()].copy_from_slice(bytes);
            }
            Change::SetLen(len) => image.resize(*len, 0),
        }
    }

    /// Only some sectors of a write, and the file as long as if there were all.
    fn apply_torn(&self, image: &mut Vec<u8>, random: &mut fastrand::Rng) {
        let Change::Write { at, bytes } = self else {
            return self.apply(image);
        };
        if random.bool() && image.len() < at + bytes.len() {
            image.resize(at + bytes.len(), 0);
        }
        let mut from = 0;
        while from < bytes.len() {
            let to = bytes.len().min((at + from) / SECTOR * SECTOR + SECTOR - at);
            if random.bool() {
                let part = Change::Write {
                    at: at + from,
                    bytes: bytes[from..to].to_vec(),
                };
                part.apply(image);
            }
            from = to;
        }
    }
}

impl Images {
    fn step(&mut self) -> io::Result<()> {
        self.steps += 1;
        if self.stop_at.is_some_and(|at| self.steps > at) {
            return Err(io::Error::other("the power is gone"));
        }
        Ok(())
    }

    fn change(&mut self, change: Change) -> io::Result<()> {
        let on = self.step();
        if on.is_ok() {
            change.apply(&mut self.live);
        }
        if on.is_ok() || self.stop_at.is_some_and(|at| self.steps == at + 1) {
            // The one that the power went at may be there in part.
            self.unsynced.push(change);
        }
        on
    }

    /// What the disk could hold after the power has gone.
    fn survivors(&self) -> Vec<Vec<u8>> {
        let mut images = vec![self.durable.clone()];
        let mut all = self.durable.clone();
        for change in &self.unsynced {
            change.apply(&mut all);
        }
        images.push(all);
        for seed in 0..6 {
            let mut random = fastrand::Rng::with_seed(seed * 1000 + self.steps as u64);
            let mut some = self.durable.clone();
            for change in &self.unsynced {
                match random.u8(0..4) {
                    0 => (),
                    1 => change.apply(&mut some),
                    _ => change.apply_torn(&mut some, &mut random),
                }
            }
            images.push(some);
        }
        images
    }
}

impl FragileDisk {
    fn of(image: Vec<u8>, stop_at: Option<usize>) -> Arc<Self> {
        Arc::new(FragileDisk(Mutex::new(Images {
            live: image.clone(),
            durable: image,
            stop_at,
            ..Images::default()
        })))
    }

    fn images(&self) -> Images {
        self.0.lock().clone()
    }
}

impl Disk for FragileDisk {
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        let images = self.0.lock();
        let rest = images.live.get(at as usize..).unwrap_or_default();
        let len = rest.len().min(into.len());
        into[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn read_now(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        self.read_at(into, at)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.0.lock().change(Change::Write {
            at: at as usize,
            bytes: bytes.to_vec(),
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().change(Change::SetLen(len as usize))
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().live.len() as u64)
    }

    fn sync(&self) -> io::Result<()> {
        let mut images = self.0.lock();
        images.step()?;
        images.durable = images.live.clone();
        images.unsynced.clear();
        Ok(())
    }

    fn piece(&self, at: u64, len: usize) -> io::Result<Payload> {
        let mut bytes = vec![0; len];
        let read = self.read_at(&mut bytes, at)?;
        bytes.truncate(read);
        Ok(Bytes::from(bytes).into())
    }
}

async fn on(disk: &Arc<FragileDisk>, folder: &tempfile::TempDir) -> Result<FileStorage, Fault> {
    let disk = Arc::clone(disk);
    let paths = Paths::of(&data_fs(folder));
    let opened = on_a_thread(move || open_on(disk, paths, FileOptions::default(), None)).await?;
    opened.map(FileStorage)
}

/// What a workload did: the transactions in the order of their finishes, and how many of them were
/// acknowledged.
#[derive(Default)]
struct Done {
    finished: Vec<(Tid, String)>,
    acknowledged: usize,
}

fn expected(tid: Tid, meta: TxnMeta, records: Vec<(u64, Vec<u8>)>) -> (Tid, String) {
    let records = records.into_iter().map(|(oid, data)| HistoryRecord {
        oid: Oid(oid),
        data: RecordData::Data(Bytes::from(data).into()),
        blob: None,
    });
    let txn = HistoryTxn {
        tid,
        meta,
        records: records.collect(),
    };
    (tid, text(&txn))
}

/// Commits, several at a time, with aborts between, until an error comes or all is done.
async fn work(storage: &FileStorage, done: &mut Done) -> Result<()> {
    for round in 0..4u8 {
        let mut finishes = Vec::new();
        for number in 0..3u8 {
            let data = vec![round * 16 + number; 100 + 700 * usize::from(number)];
            let oid = u64::from(round) * 10 + u64::from(number);
            let mut txn = storage.begin(TxnMeta::default(), None).await?;
            txn.store(store(oid, Tid::ZERO, &data)).await?;
            txn.store(store(1000 + oid, Tid::ZERO, b"small")).await?;
            let voted = ready(txn.vote().await?);
            if (round + number) % 4 == 3 {
                drop(voted);
                continue;
            }
            let tid = voted.tid().expect("it is known");
            let records = vec![(oid, data), (1000 + oid, b"small".to_vec())];
            finishes.push(voted.finish());
            done.finished
                .push(expected(tid, TxnMeta::default(), records));
        }
        for finish in finishes {
            finish.await?;
            done.acknowledged += 1;
        }
    }
    Ok(())
}

async fn check(disk: Vec<u8>, done: &Done, what: &str) {
    let folder = tempfile::tempdir().unwrap();
    let disk = FragileDisk::of(disk, None);
    let storage = on(&disk, &folder).await.unwrap_or_else(|fault| {
        panic!("{what}: it is not opened: {fault}");
    });
    let there = transactions(&storage, TidRange::ALL).await;
    let there: Vec<String> = there.iter().map(text).collect();
    let finished: Vec<&String> = done.finished.iter().map(|(_, text)| text).collect();
    assert!(
        there.len() >= done.acknowledged,
        "{what}: {} of {} acknowledged transactions are there",
        there.len(),
        done.acknowledged
    );
    assert!(there.len() <= finished.len(), "{what}: too many");
    for (there, finished) in there.iter().zip(finished) {
        assert_eq!(there, finished, "{what}");
    }
    let last = there
        .len()
        .checked_sub(1)
        .map_or(Tid::ZERO, |last| done.finished[last].0);
    assert_eq!(storage.last_tid().await.unwrap(), last, "{what}");
    // It goes on, and nothing is in the way of the next opening.
    let oid = 5_000;
    let tid = commit(&storage, &[(oid, Tid::ZERO, b"new")]).await;
    storage.close().await;
    let again = on(&disk, &folder).await.expect("it is opened again");
    assert_eq!(again.current_tid(Oid(oid)).await.unwrap(), tid, "{what}");
    let now = transactions(&again, TidRange::ALL).await;
    assert_eq!(now.len(), there.len() + 1, "{what}");
    again.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_transaction_survives_and_nothing_half_does() {
    let mut stop_at = 0;
    loop {
        let folder = tempfile::tempdir().unwrap();
        let disk = FragileDisk::of(b"FS30".to_vec(), Some(stop_at));
        let storage = on(&disk, &folder).await.expect("nothing is written yet");
        let mut done = Done::default();
        let outcome = work(&storage, &mut done).await;
        let images = disk.images();
        storage.close().await;
        for (number, image) in images.survivors().into_iter().enumerate() {
            check(image, &done, &format!("step {stop_at}, image {number}")).await;
        }
        if outcome.is_ok() {
            assert_eq!(done.acknowledged, done.finished.len());
            assert!(done.acknowledged >= 9 && stop_at > 20);
            break;
        }
        stop_at += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_batch_is_there_as_a_whole_or_not_at_all() {
    let txn = |tid: u64, oid: u64| {
        let data: RecordData = RecordData::Data(Bytes::from(vec![tid as u8; 900]).into());
        HistoryTxn {
            tid: Tid(tid),
            meta: TxnMeta::default(),
            records: vec![HistoryRecord {
                oid: Oid(oid),
                data,
                blob: None,
            }],
        }
    };
    let batches = [
        vec![txn(10, 1), txn(20, 2), txn(30, 1)],
        vec![txn(40, 3)],
        vec![txn(50, 1), txn(60, 4)],
    ];
    let mut stop_at = 0;
    loop {
        let folder = tempfile::tempdir().unwrap();
        let disk = FragileDisk::of(b"FS30".to_vec(), Some(stop_at));
        let storage = on(&disk, &folder).await.expect("nothing is written yet");
        let mut done = Done::default();
        let mut boundaries = vec![0];
        let mut failed = false;
        for batch in &batches {
            done.finished
                .extend(batch.iter().map(|txn| (txn.tid, text(txn))));
            boundaries.push(done.finished.len());
            if storage.restore(batch.clone()).await.is_err() {
                failed = true;
                break;
            }
            done.acknowledged = done.finished.len();
        }
        for (number, image) in disk.images().survivors().into_iter().enumerate() {
            let what = format!("step {stop_at}, image {number}");
            let folder = tempfile::tempdir().unwrap();
            let copy = FragileDisk::of(image.clone(), None);
            let opened = on(&copy, &folder).await.expect("it is opened");
            let there = transactions(&opened, TidRange::ALL).await.len();
            assert!(boundaries.contains(&there), "{what}: {there}");
            drop(opened);
            check(image, &done, &what).await;
        }
        if !failed {
            break;
        }
        stop_at += 1;
    }
    assert!(stop_at >= 9);
}

/// The same, with a folder of blobs, which is on a disk of its own and keeps everything.
async fn on_with_blobs(
    disk: &Arc<FragileDisk>,
    folder: &tempfile::TempDir,
) -> Result<FileStorage, Fault> {
    let disk = Arc::clone(disk);
    let paths = Paths::of(&data_fs(folder));
    let options = FileOptions {
        blob_dir: Some(folder.path().join("blobs")),
        ..FileOptions::default()
    };
    let opened = on_a_thread(move || open_on(disk, paths, options, None)).await?;
    opened.map(FileStorage)
}

/// Commits and aborts blobs, restores one and undoes one. What was acknowledged.
async fn work_with_blobs(
    storage: &FileStorage,
    acknowledged: &mut Vec<(Tid, String)>,
) -> Result<()> {
    let mut serial = Tid::ZERO;
    for round in 0..3 {
        let content = format!("content {round}");
        let mut txn = storage.begin(TxnMeta::default(), None).await?;
        txn.store(store_blob(1, serial, content.as_bytes())).await?;
        drop(ready(txn.vote().await?));
        let mut txn = storage.begin(TxnMeta::default(), None).await?;
        txn.store(store_blob(1, serial, content.as_bytes())).await?;
        serial = ready(txn.vote().await?).finish().await?;
        acknowledged.push((serial, content));
    }
    let mut txn = storage.begin(TxnMeta::default(), None).await?;
    txn.store(Op::Undo { tid: serial }).await?;
    let undone = ready(txn.vote().await?).finish().await?;
    acknowledged.push((undone, "content 1".to_owned()));
    let restored = |tid: Tid, content: &str| HistoryTxn {
        tid,
        meta: TxnMeta::default(),
        records: vec![HistoryRecord {
            oid: Oid(1),
            data: RecordData::Data(payload(BLOB_RECORD)),
            blob: Some(blob(content.as_bytes())),
        }],
    };
    let (first, second) = (undone.next(), undone.next().next());
    let batch = vec![restored(first, "restored"), restored(second, "as well")];
    storage.restore(batch).await?;
    acknowledged.push((first, "restored".to_owned()));
    acknowledged.push((second, "as well".to_owned()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_blob_has_its_file_and_no_other_has_one() {
    let mut stop_at = 0;
    loop {
        let folder = tempfile::tempdir().unwrap();
        let disk = FragileDisk::of(b"FS30".to_vec(), Some(stop_at));
        let storage = on_with_blobs(&disk, &folder).await.unwrap();
        let mut acknowledged = Vec::new();
        let outcome = work_with_blobs(&storage, &mut acknowledged).await;
        // A crash leaves the folder as it was at one moment, and a copy is not made at one. So the last
        // abort, which the thread that writes may still be busy with, is awaited.
        storage.0.ask(|_| ()).await.unwrap();
        let images = disk.images();
        // As after a crash: nothing is settled on closing.
        let crashed = tempfile::tempdir().unwrap();
        copy_folder(&folder.path().join("blobs"), &crashed.path().join("blobs"));
        storage.close().await;
        for (number, image) in images.survivors().into_iter().enumerate() {
            let what = format!("step {stop_at}, image {number}");
            let folder = tempfile::tempdir().unwrap();
            let copy = folder.path().join("blobs");
            copy_folder(&crashed.path().join("blobs"), &copy);
            let disk = FragileDisk::of(image, None);
            let storage = on_with_blobs(&disk, &folder).await.expect("it is opened");
            for (tid, content) in &acknowledged {
                let blob = storage.load_blob(Oid(1), *tid).await;
                let blob = blob.unwrap_or_else(|error| panic!("{what}: {tid}: {error}"));
                assert_eq!(&std::fs::read_to_string(blob.path()).unwrap(), content);
            }
            let there = transactions(&storage, TidRange::ALL).await;
            assert_eq!(oracle::blobs(&copy).len(), there.len(), "{what}");
            assert!(there.len() >= acknowledged.len(), "{what}");
            assert_eq!(std::fs::read_dir(copy.join("tmp")).unwrap().count(), 0);
            storage.close().await;
        }
        if outcome.is_ok() {
            assert!(stop_at > 15);
            break;
        }
        stop_at += 1;
    }
}

/// Copies a folder in which nothing changes meanwhile; files with two names have two names there as well.
pub(super) fn copy_folder(from: &Path, to: &Path) {
    let mut copying = std::process::Command::new("cp");
    let copied = copying.args(["-a", "--"]).args([from, to]).output();
    let copied = copied.unwrap();
    assert!(
        copied.status.success(),
        "{}",
        String::from_utf8_lossy(&copied.stderr)
    );
}

/// A disk on which one step fails and the others do not.
async fn failing_at(step: usize) -> (FileStorage, Arc<FragileDisk>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let disk = FragileDisk::of(b"FS30".to_vec(), None);
    let storage = on(&disk, &folder).await.unwrap();
    disk.0.lock().stop_at = Some(step);
    (storage, disk, folder)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failed_sync_everything_is_refused_until_it_is_opened_again() {
    // The vote writes, and the sync of it is the second step.
    let (storage, disk, folder) = failing_at(1).await;
    let voted = ready(
        begin(&storage, vec![store(1, Tid::ZERO, b"a")])
            .await
            .vote()
            .await
            .unwrap(),
    );
    let mut heard = storage.subscribe();
    assert!(voted.finish().await.is_err());
    let refused = storage.last_tid().await;
    assert!(matches!(
        refused.as_ref().err().and_then(|error| error.fault()),
        Some(Fault::Poisoned(_))
    ));
    assert!(storage.begin(TxnMeta::default(), None).await.is_err());
    assert!(heard.next().await.is_err());
    storage.close().await;
    disk.0.lock().stop_at = None;
    let again = on(&disk, &folder).await.unwrap();
    assert_eq!(again.last_tid().await.unwrap(), Tid::ZERO);
    commit(&again, &[(1, Tid::ZERO, b"a")]).await;
}

/// A disk that is full for writes that would make it longer than `room`.
#[derive(Debug)]
struct SmallDisk {
    disk: Arc<FragileDisk>,
    room: Mutex<u64>,
}

impl Disk for SmallDisk {
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        self.disk.read_at(into, at)
    }
    fn read_now(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        self.disk.read_at(into, at)
    }
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let room = *self.room.lock();
        if at + bytes.len() as u64 > room {
            // As the system does it: what has room is written.
            let fits = room.saturating_sub(at) as usize;
            self.disk.write_at(&bytes[..fits], at)?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.disk.write_at(bytes, at)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.set_len(len)
    }
    fn len(&self) -> io::Result<u64> {
        self.disk.len()
    }
    fn sync(&self) -> io::Result<()> {
        self.disk.sync()
    }
    fn piece(&self, at: u64, len: usize) -> io::Result<Payload> {
        self.disk.piece(at, len)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_fails_the_vote_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(SmallDisk {
        disk: FragileDisk::of(b"FS30".to_vec(), None),
        room: Mutex::new(1000),
    });
    let paths = Paths::of(&data_fs(&folder));
    let engine = open_on(Arc::clone(&disk) as _, paths, FileOptions::default(), None);
    let storage = FileStorage(engine.unwrap());
    let first = commit(&storage, &[(1, Tid::ZERO, b"a")]).await;
    let large = begin(&storage, vec![store(2, Tid::ZERO, &[b'x'; 2000])]).await;
    let refused = large.vote().await.err().expect("there is no room");
    assert!(matches!(refused.fault(), Some(Fault::DiskFull { .. })));
    let batch = vec![HistoryTxn {
        tid: first.next(),
        meta: TxnMeta::default(),
        records: vec![HistoryRecord {
            oid: Oid(2),
            data: RecordData::Data(Bytes::from(vec![b'x'; 2000]).into()),
            blob: None,
        }],
    }];
    let refused = storage.restore(batch.clone()).await.err();
    let refused = refused.expect("there is no room");
    assert!(matches!(refused.fault(), Some(Fault::DiskFull { .. })));
    // What cannot be read is not the fault of this disk.
    let shorter = Arc::new(tempfile::tempfile().unwrap());
    let unreadable = Op::Store {
        oid: Oid(2),
        serial: Tid::ZERO,
        data: Payload::piece(shorter, 0, 10),
    };
    let refused = begin(&storage, vec![unreadable]).await.vote().await.err();
    let refused = refused.expect("it cannot be read");
    assert!(matches!(refused.fault(), Some(Fault::Here { .. })));
    // What has room goes on, and more does when there is.
    let second = commit(&storage, &[(1, first, b"b")]).await;
    assert_eq!(disk.len().unwrap(), storage.size().bytes);
    *disk.room.lock() = 100_000;
    commit_large(&storage, second).await;
    assert_eq!(transactions(&storage, TidRange::ALL).await.len(), 3);
}

async fn commit_large(storage: &FileStorage, serial: Tid) {
    commit(storage, &[(1, serial, &[b'y'; 5000])]).await;
    let ops: Vec<Op> = vec![store(9, Tid::ZERO, b"dropped")];
    let voted: Box<dyn Voted> = ready(begin(storage, ops).await.vote().await.unwrap());
    drop(voted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_process_has_not_synced_is_durable_before_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let disk = FragileDisk::of(b"FS30".to_vec(), None);
    let storage = on(&disk, &folder).await.unwrap();
    let first = commit(&storage, &[(1, Tid::ZERO, b"first")]).await;
    let synced = disk.images().durable;
    let second = commit(&storage, &[(1, first, b"second")]).await;
    storage.close().await;
    // Killed after the write and before the sync: the system still has it.
    let killed = FragileDisk::of(disk.images().live, None);
    killed.0.lock().durable = synced;
    let folder = tempfile::tempdir().unwrap();
    let storage = on(&killed, &folder).await.unwrap();
    assert_eq!(storage.last_tid().await.unwrap(), second);
    // The power goes.
    let left = FragileDisk::of(killed.images().durable, None);
    storage.close().await;
    let folder = tempfile::tempdir().unwrap();
    let storage = on(&left, &folder).await.unwrap();
    assert_eq!(storage.last_tid().await.unwrap(), second, "it was read");
    storage.close().await;
}
