//! The array as a whole, over members in memory: the suite that every storage passes, and what only
//! an array does.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tempfile::TempDir;

mod blobs;
mod commits;
mod members;
mod pack;
mod reads;
mod recovery;
mod scrub;
mod servers;
mod start;
mod undo;

use super::*;
use crate::job::Rate;
use crate::storage::memory::{MemoryOpener, Moment};
use crate::storage::suite::Fixture;
use crate::storage::{Fault, Storage, Vote};
use crate::zodb::{HistoryTxn, Oid, Op, Tid, TxnMeta};

/// An array of members in memory, with everything that it needs.
struct Rig {
    folder: TempDir,
    members: Vec<MemoryOpener>,
    array: Array,
    notices: Arc<Mutex<Vec<Notice>>>,
    record_is_broken: Arc<std::sync::atomic::AtomicBool>,
}

const NAMES: [&str; 3] = ["a", "b", "c"];

fn options(folder: &TempDir) -> ArrayOptions {
    ArrayOptions::of_a_test(folder.path())
}

fn specs(members: &[MemoryOpener]) -> Vec<MemberSpec> {
    let spec = |(name, opener): (&&str, &MemoryOpener)| MemberSpec {
        name: (*name).to_owned(),
        opener: Arc::new(opener.clone()),
        fingerprint: String::new(),
        adopted: false,
    };
    NAMES.iter().zip(members).map(spec).collect()
}

/// A record file that can be out of order.
struct TestRecord {
    file: FileRecord,
    broken: Arc<std::sync::atomic::AtomicBool>,
}

impl RecordStore for TestRecord {
    fn load(&self) -> Result<Option<Membership>, RecordError> {
        self.file.load()
    }

    fn save(&self, membership: &Membership) -> Result<(), RecordError> {
        if self.broken.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(RecordError::Interrupted("a test".into()));
        }
        self.file.save(membership)
    }

    fn load_scrubbed(&self) -> std::io::Result<Option<Scrubbed>> {
        self.file.load_scrubbed()
    }

    fn save_scrubbed(&self, scrubbed: &Scrubbed) -> std::io::Result<()> {
        self.file.save_scrubbed(scrubbed)
    }
}

async fn start(
    options: ArrayOptions,
    members: &[MemoryOpener],
    folder: &TempDir,
) -> (Array, Arc<Mutex<Vec<Notice>>>) {
    start_with(options, members, folder, &Arc::default()).await
}

async fn start_with(
    options: ArrayOptions,
    members: &[MemoryOpener],
    folder: &TempDir,
    record_is_broken: &Arc<std::sync::atomic::AtomicBool>,
) -> (Array, Arc<Mutex<Vec<Notice>>>) {
    let notices = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&notices);
    let record = Arc::new(TestRecord {
        file: FileRecord::new(folder.path().join("membership.json")),
        broken: Arc::clone(record_is_broken),
    });
    let sink: NoticeSink = Arc::new(move |notice| heard.lock().push(notice));
    let array = Array::start(options, specs(members), record, sink)
        .await
        .unwrap();
    (array, notices)
}

impl Rig {
    async fn new() -> Rig {
        Rig::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut ArrayOptions)) -> Rig {
        Rig::of(|member| member, change).await
    }

    /// Of members that are made something of.
    async fn of(
        make: impl Fn(MemoryOpener) -> MemoryOpener,
        change: impl FnOnce(&mut ArrayOptions),
    ) -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let members = NAMES.iter().map(|name| make(MemoryOpener::new(*name)));
        let members: Vec<_> = members.collect();
        let mut options = options(&folder);
        change(&mut options);
        let record_is_broken = Arc::default();
        let (array, notices) = start_with(options, &members, &folder, &record_is_broken).await;
        let rig = Rig {
            folder,
            members,
            array,
            notices,
            record_is_broken,
        };
        rig.until("it serves", |report| report.serving == Serving::Yes)
            .await;
        rig
    }

    fn break_record(&self, broken: bool) {
        self.record_is_broken
            .store(broken, std::sync::atomic::Ordering::SeqCst);
    }

    fn heard(&self, kind: &str) -> usize {
        let notices = self.notices.lock();
        notices
            .iter()
            .filter(|notice| notice.kind() == kind)
            .count()
    }

    /// Ends the daemon's array, as a clean stop does, and starts another on the same members.
    async fn restart(&mut self) {
        self.array.shutdown(Duration::from_secs(5)).await.unwrap();
        let options = options(&self.folder);
        (self.array, self.notices) = start(options, &self.members, &self.folder).await;
    }

    async fn until(&self, what: &str, done: impl Fn(&ArrayReport) -> bool) {
        let waited = tokio::time::timeout(Duration::from_secs(20), async {
            while !done(&self.array.report()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(
            waited.await.is_ok(),
            "{what}: not in time; {:#?}\n{:#?}",
            self.array.report(),
            self.notices.lock()
        );
    }

    async fn optimal(&self) {
        self.until("it is optimal", |report| {
            report.state == ArrayState::Optimal
        })
        .await;
    }

    fn member(&self, name: &str) -> MemberReport {
        self.array
            .report()
            .members
            .into_iter()
            .find(|member| member.name == name)
            .unwrap()
    }

    /// INVARIANT 3: all members hold the same.
    fn same_histories(&self) {
        let histories: Vec<_> = self
            .members
            .iter()
            .map(|member| plain(&member.transactions()))
            .collect();
        for (name, history) in NAMES.iter().zip(&histories) {
            assert_eq!(*history, histories[0], "{name} differs");
        }
    }
}

type PlainTxn = (Tid, TxnMeta, Vec<(Oid, Option<Bytes>)>);

/// A history in plain values, to compare.
fn plain(history: &[HistoryTxn]) -> Vec<PlainTxn> {
    let record = |record: &crate::zodb::HistoryRecord| {
        (
            record.oid,
            record.data.payload().map(|data| data.read().unwrap()),
        )
    };
    let transaction = |txn: &HistoryTxn| {
        (
            txn.tid,
            txn.meta.clone(),
            txn.records.iter().map(record).collect(),
        )
    };
    history.iter().map(transaction).collect()
}

/// Commits one object and says as which transaction.
async fn commit(
    array: &Array,
    oid: u64,
    serial: Tid,
    text: &str,
) -> Result<Tid, crate::storage::StorageError> {
    let data = Bytes::copy_from_slice(text.as_bytes()).into();
    let oid = Oid(oid);
    commit_ops(array, vec![Op::Store { oid, serial, data }]).await
}

async fn commit_ops(array: &Array, ops: Vec<Op>) -> Result<Tid, crate::storage::StorageError> {
    let mut transaction = array.begin(TxnMeta::default(), None).await?;
    for op in ops {
        transaction.store(op).await?;
    }
    match transaction.vote().await? {
        Vote::Ready(voted) => voted.finish().await,
        Vote::Conflicts(_, conflicts) => panic!("conflicts: {conflicts:?}"),
    }
}

async fn load(array: &Array, oid: u64) -> (Bytes, Tid) {
    let loaded = array
        .load_before(Oid(oid), Tid::MAX)
        .await
        .unwrap()
        .unwrap();
    (loaded.data, loaded.tid)
}

mod suite {
    use super::*;

    async fn array() -> Fixture {
        let rig = Rig::new().await;
        let storage = Arc::new(rig.array.clone());
        Fixture::keeping(storage, rig)
    }

    crate::storage::suite::storage_suite!(array());
}

/// What a storage says when a file of the daemon failed, and not itself.
fn here() -> Fault {
    let source = std::io::Error::other("a full disk");
    Fault::here("writing a temporary file", source)
}

async fn load_error(array: &Array) -> String {
    array
        .load_before(Oid(1), Tid::MAX)
        .await
        .unwrap_err()
        .to_string()
}
