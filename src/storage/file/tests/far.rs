//! Looking far back: it is done, ends when nobody waits, and is in nobody's way.

use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};

use futures_util::future::join_all;
use futures_util::poll;
use parking_lot::{Condvar, Mutex};

use super::*;
use crate::storage::StorageError;
use crate::storage::file::disk::Disk;
use crate::storage::file::far::{AT_ONCE, NEAR, NOT_FAR};
use crate::zodb::{HistoryRecord, Payload, RecordData};

/// How many revisions there are: of what is asked for, many are too far back to be looked at without a turn.
const MANY: u64 = 4 * NOT_FAR as u64;

/// A disk of which a part can be made to hang, and that counts what is read.
struct Held {
    disk: Arc<dyn Disk>,
    /// What begins here waits.
    part: Mutex<Range<u64>>,
    released: Condvar,
    waiting: AtomicUsize,
    /// How many reads there were since it was released.
    since: AtomicUsize,
    bytes: AtomicU64,
    /// Those that do not wait.
    now: AtomicUsize,
}

impl Held {
    /// Puts itself in the place of a storage's disk.
    fn of(storage: &FileStorage) -> Arc<Held> {
        let mut state = storage.0.state.write();
        let held = Arc::new(Held {
            disk: Arc::clone(&state.disk),
            part: Mutex::new(0..0),
            released: Condvar::new(),
            waiting: AtomicUsize::new(0),
            since: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
            now: AtomicUsize::new(0),
        });
        state.disk = Arc::clone(&held) as Arc<dyn Disk>;
        held
    }

    fn hold(&self, part: Range<u64>) {
        *self.part.lock() = part;
    }

    fn release(&self) {
        self.since.store(0, SeqCst);
        *self.part.lock() = 0..0;
        self.released.notify_all();
    }
}

impl Disk for Held {
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        let mut part = self.part.lock();
        while part.contains(&at) {
            // Only who waits: a read that comes through is still a step.
            self.waiting.fetch_add(1, SeqCst);
            let late = self.released.wait_until(&mut part, deadline);
            self.waiting.fetch_sub(1, SeqCst);
            assert!(!late.timed_out(), "it was not released");
        }
        drop(part);
        self.since.fetch_add(1, SeqCst);
        self.bytes.fetch_add(into.len() as u64, SeqCst);
        self.disk.read_at(into, at)
    }

    fn read_now(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        self.now.fetch_add(1, SeqCst);
        self.disk.read_now(into, at)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
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

/// The transaction of the n-th revision.
fn nth(n: u64) -> Tid {
    Tid((1 + n) << 16)
}

fn text(n: u64) -> Bytes {
    Bytes::from(format!("revision {n:60}"))
}

/// A file in which one object has [`MANY`] revisions.
async fn many(
    folder: &tempfile::TempDir,
    revision: impl Fn(u64) -> RecordData,
) -> (FileStorage, Arc<Held>) {
    let path = data_fs(folder);
    let storage = FileStorage::open(&path, FileOptions::default());
    let storage = storage.await.unwrap();
    let transaction = |n| HistoryTxn {
        tid: nth(n),
        meta: TxnMeta::default(),
        records: vec![HistoryRecord {
            oid: Oid(1),
            data: revision(n),
            blob: None,
        }],
    };
    storage
        .restore((0..MANY).map(transaction).collect())
        .await
        .unwrap();
    let held = Held::of(&storage);
    (storage, held)
}

async fn many_revisions(folder: &tempfile::TempDir) -> (FileStorage, Arc<Held>) {
    many(folder, |n| RecordData::Data(text(n).into())).await
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "not in time: {what}"
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

type Loading<'a> = Pin<Box<dyn Future<Output = Result<Option<Loaded>>> + Send + 'a>>;

/// The first revision, again and again. All of these have begun to be looked for, or wait for their turn, at what is
/// in the first half of the file and does not come.
async fn held_up<'a>(storage: &'a FileStorage, held: &Held, count: usize) -> Vec<Loading<'a>> {
    let half = storage.0.state.read().end / 2;
    held.hold(0..half);
    let mut loads: Vec<_> = (0..count)
        .map(|_| storage.load_before(Oid(1), nth(1)))
        .collect();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    let looks = &storage.0.looks;
    while looks.awaited() < count || held.waiting.load(SeqCst) < AT_ONCE {
        assert!(tokio::time::Instant::now() < deadline);
        for load in &mut loads {
            assert!(poll!(&mut *load).is_pending());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    loads
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_revision_is_found_however_far_back() {
    let folder = tempfile::tempdir().unwrap();
    let (storage, held) = many_revisions(&folder).await;
    let near = MANY - NEAR as u64;
    let not_far = MANY - NOT_FAR as u64;
    for n in [
        0,
        1,
        not_far - 2,
        not_far - 1,
        not_far,
        near - 2,
        near - 1,
        near,
        MANY - 1,
    ] {
        let loaded = storage.load_before(Oid(1), nth(n + 1)).await.unwrap();
        let loaded = loaded.unwrap();
        let end = (n + 1 < MANY).then_some(nth(n + 1));
        assert_eq!((loaded.tid, loaded.end), (nth(n), end));
        assert_eq!(loaded.data, text(n));
        assert_eq!(storage.load_serial(Oid(1), nth(n)).await.unwrap(), text(n));
    }
    assert!(storage.load_before(Oid(1), nth(0)).await.unwrap().is_none());
    let history = storage.history(Oid(1), usize::MAX).await.unwrap();
    assert_eq!(history.len() as u64, MANY);
    let last = i64::try_from(MANY).unwrap();
    let undoable = storage.undo_info(0, last + 1, &Value::None).await.unwrap();
    assert_eq!(undoable.last().unwrap().tid, nth(0));
    assert_eq!(storage.0.looks.awaited(), 0);
    until("all turns are given back", || {
        storage.0.looks.under_way() == 0
    })
    .await;
    drop(held);
    storage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thread_that_serves_others_takes_few_steps() {
    let folder = tempfile::tempdir().unwrap();
    let (storage, held) = many_revisions(&folder).await;
    // Another thread comes to nothing meanwhile.
    held.hold(0..u64::MAX);
    let mut load = storage.load_before(Oid(1), nth(1));
    assert!(poll!(&mut load).is_pending());
    assert!(held.now.load(SeqCst) <= NEAR + 1);
    held.release();
    assert_eq!(load.await.unwrap().unwrap().tid, nth(0));
    drop(held);
    storage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn back_pointers_are_steps_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let (storage, held) = many(&folder, |n| {
        if n == 0 {
            return RecordData::Data(text(0).into());
        }
        RecordData::Back {
            tid: nth(n - 1),
            data: text(0).into(),
        }
    })
    .await;
    held.hold(0..u64::MAX);
    let mut load = storage.load_before(Oid(1), Tid::MAX);
    assert!(poll!(&mut load).is_pending());
    assert!(held.now.load(SeqCst) <= NEAR + 1);
    held.release();
    assert_eq!(load.await.unwrap().unwrap().data, text(0));
    let record = storage.record_from(Oid(0)).await.unwrap().unwrap();
    assert_eq!(record.data, text(0));
    drop(held);
    storage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn few_look_far_back_at_once_and_are_in_nobodys_way() {
    let folder = tempfile::tempdir().unwrap();
    let (storage, held) = many_revisions(&folder).await;
    let loads = held_up(&storage, &held, 12).await;
    assert_eq!(storage.0.looks.under_way(), AT_ONCE);
    assert_eq!(
        held.waiting.load(SeqCst),
        AT_ONCE,
        "the others have no thread"
    );
    for n in [MANY - 1, MANY - NEAR as u64, MANY - NOT_FAR as u64] {
        let loaded = storage.load_before(Oid(1), nth(n).next()).await.unwrap();
        assert_eq!(loaded.unwrap().tid, nth(n));
    }
    held.release();
    for loaded in join_all(loads).await {
        assert_eq!(loaded.unwrap().unwrap().tid, nth(0));
    }
    storage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_ends_soon_after_nobody_waits_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let (storage, held) = many_revisions(&folder).await;
    let loads = held_up(&storage, &held, 12).await;
    drop(loads);
    assert_eq!(storage.0.looks.awaited(), 0);
    held.release();
    let looks = &storage.0.looks;
    until("all looks have ended", || looks.under_way() == 0).await;
    // What each of those under way had asked for already.
    assert!(held.since.load(SeqCst) <= AT_ONCE);
    storage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_judges_by_the_time_is_told_since_when_no_look_has_got_on() {
    const PATIENCE: Duration = Duration::from_secs(5);
    let since = Instant::now();
    let folder = tempfile::tempdir().unwrap();
    let (storage, held) = many_revisions(&folder).await;
    let deadline = |oid| storage.deadline_about(Oid(oid), since, PATIENCE);
    assert_eq!(deadline(1), since + PATIENCE);
    let loads = held_up(&storage, &held, AT_ONCE + 1).await;
    // They have come to where the disk hangs.
    let hangs = deadline(1);
    assert!(hangs > since + PATIENCE);
    assert!(hangs <= Instant::now() + PATIENCE);
    // A load of something else is judged by its own time.
    assert_eq!(deadline(2), since + PATIENCE);
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(deadline(1), hangs, "nothing gets on");
    held.release();
    for loaded in join_all(loads).await {
        assert_eq!(loaded.unwrap().unwrap().tid, nth(0));
    }
    assert_eq!(deadline(1), since + PATIENCE);
    storage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_iteration_that_is_to_hold_little_does_and_gives_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let (storage, held) = many_revisions(&folder).await;
    assert!(storage.0.state.read().end > 3 * (64 << 10));
    for first in [0, MANY / 2 - 1, MANY - 2] {
        let range = TidRange {
            first: nth(first),
            last: nth(MANY - 2),
        };
        let mut all = storage.iterate(range).await.unwrap();
        let mut little = storage.iterate(range).await.unwrap();
        little.hold_little();
        for n in first..MANY - 1 {
            let one = little.next().await.unwrap().unwrap();
            assert_eq!(one.tid, nth(n));
            let same = all.next().await.unwrap().unwrap();
            assert_eq!(
                crate::storage::suite::text(&one),
                crate::storage::suite::text(&same)
            );
        }
        assert!(all.next().await.unwrap().is_none());
        assert!(little.next().await.unwrap().is_none());
    }
    held.bytes.store(0, SeqCst);
    let mut little = storage.iterate(TidRange::ALL).await.unwrap();
    little.hold_little();
    assert_eq!(little.next().await.unwrap().unwrap().tid, nth(0));
    assert!(held.bytes.load(SeqCst) <= 64 << 10);
    storage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_iteration_that_nobody_waits_for_looks_no_further_for_its_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let (storage, held) = many_revisions(&folder).await;
    // Nearer to the end, so it is looked for from there.
    let range = TidRange {
        first: nth(MANY / 2 + 1),
        last: Tid::MAX,
    };
    let mut little = storage.iterate(range).await.unwrap();
    little.hold_little();
    let looks = &storage.0.looks;
    {
        let mut next = little.next();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        // Where only who has a turn comes to, a little behind where it begins.
        let end = storage.0.state.read().end;
        held.hold(end / 2..end / 16 * 11);
        while looks.under_way() < 1 || held.waiting.load(SeqCst) < 1 {
            assert!(tokio::time::Instant::now() < deadline);
            assert!(poll!(&mut next).is_pending());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    held.release();
    until("the look has ended", || looks.under_way() == 0).await;
    assert!(held.since.load(SeqCst) <= 1);
    // And it can be gone on with.
    assert_eq!(little.next().await.unwrap().unwrap().tid, nth(MANY / 2 + 1));
    storage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_is_said_from_far_back_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let (storage, held) = many_revisions(&folder).await;
    let missing = storage.load_serial(Oid(1), nth(0).next()).await;
    let missing = missing.unwrap_err();
    let is_answer = matches!(missing, StorageError::Answer(Answer::NoSuchObject(Oid(1))));
    assert!(is_answer, "{missing}");
    drop(held);
    storage.close().await;
}
