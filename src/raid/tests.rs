//! The array as a whole, over members in memory: the suite that every storage passes, and what only
//! an array does.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tempfile::TempDir;

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
    ArrayOptions {
        name: "main".into(),
        start_policy: StartPolicy::InSync,
        force: false,
        min_optimal: 1,
        fail_mode: FailMode::Close,
        member_timeout: Duration::from_secs(5),
        open_timeout: Duration::from_secs(5),
        transaction_timeout: Duration::from_secs(10),
        auto_recover: true,
        recovery_rate: Rate::UNLIMITED,
        catch_up_limit: Duration::from_secs(2),
        cache_bytes: 1 << 20,
        spool: Spool {
            folder: folder.path().to_owned(),
            memory_bytes: 1 << 20,
        },
        invalidation_queue: 100,
        shared_blobs: None,
    }
}

fn specs(members: &[MemoryOpener]) -> Vec<MemberSpec> {
    let spec = |(name, opener): (&&str, &MemoryOpener)| MemberSpec {
        name: (*name).to_owned(),
        opener: Arc::new(opener.clone()),
        fingerprint: String::new(),
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
        let folder = tempfile::tempdir().unwrap();
        let members: Vec<_> = NAMES.iter().map(|name| MemoryOpener::new(*name)).collect();
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
    let mut transaction = array.begin(TxnMeta::default(), None).await?;
    let data = Bytes::copy_from_slice(text.as_bytes()).into();
    transaction
        .store(Op::Store {
            oid: Oid(oid),
            serial,
            data,
        })
        .await?;
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

#[tokio::test]
async fn a_member_that_fails_in_a_vote_is_taken_out_and_the_client_sees_nothing() {
    let rig = Rig::new().await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    rig.members[1].faults().fail_once(
        Moment::Vote,
        Fault::DiskFull {
            what: "test".into(),
        },
    );
    let second = commit(&rig.array, 1, first, "two").await.unwrap();
    assert!(second > first);
    assert!(
        rig.notices
            .lock()
            .iter()
            .any(|notice| notice.kind() == "member-degraded")
    );
    rig.optimal().await;
    rig.same_histories();
    assert_eq!(
        load(&rig.array, 1).await,
        (Bytes::from_static(b"two"), second)
    );
}

#[tokio::test]
async fn a_member_that_fails_in_a_finish_is_taken_out_whatever_it_did() {
    for moment in [Moment::Finish, Moment::Finished] {
        let rig = Rig::new().await;
        let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
        rig.members[2]
            .faults()
            .fail_once(moment, Fault::Closed("test".into()));
        let second = commit(&rig.array, 1, first, "two").await.unwrap();
        rig.until("c is out", |report| {
            report.epoch > 1 || report.state != ArrayState::Optimal
        })
        .await;
        commit(&rig.array, 1, second, "three").await.unwrap();
        rig.optimal().await;
        rig.same_histories();
    }
}

#[tokio::test]
async fn a_member_that_hangs_holds_a_client_up_for_its_timeout_once() {
    let rig = Rig::with(|options| options.member_timeout = Duration::from_millis(300)).await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    let gate = rig.members[0].faults().hold(Moment::Finish);
    let second = commit(&rig.array, 1, first, "two").await.unwrap();
    assert_eq!(rig.member("a").state, MemberState::Degraded);
    let reason = rig.member("a").reason.unwrap();
    assert!(
        reason.contains("no answer to tpc_finish within 0.3 s"),
        "{reason}"
    );
    commit(&rig.array, 1, second, "three").await.unwrap();
    rig.members[0].faults().clear();
    gate.release();
    rig.optimal().await;
    rig.same_histories();
}

#[tokio::test]
async fn a_read_that_fails_on_one_member_is_answered_by_another() {
    let rig = Rig::with(|options| options.cache_bytes = 0).await;
    for oid in 0..3u64 {
        commit(&rig.array, oid << 12, Tid::ZERO, "data")
            .await
            .unwrap();
    }
    rig.members[1]
        .faults()
        .fail(Moment::Load, Fault::Damaged("test".into()));
    for oid in 0..3u64 {
        assert_eq!(load(&rig.array, oid << 12).await.0, "data");
    }
    assert_eq!(rig.member("b").state, MemberState::Degraded);
    assert!(rig.member("b").reason.unwrap().contains("damaged: test"));
}

#[tokio::test]
async fn the_last_optimal_member_cannot_be_disabled() {
    let rig = Rig::new().await;
    rig.array.disable("a").unwrap();
    rig.array.disable("b").unwrap();
    let refused = rig.array.disable("c").unwrap_err();
    assert_eq!(refused.to_string(), "c is the last optimal member of main");
    let refused = rig.array.disable("zeo7").unwrap_err();
    assert_eq!(
        refused.to_string(),
        "array main has no member zeo7; it has a, b, c"
    );
    assert_eq!(rig.array.report().state, ArrayState::Degraded);
}

#[tokio::test]
async fn a_disabled_member_waits_for_an_operator_also_over_a_restart() {
    let mut rig = Rig::new().await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    rig.array.disable("b").unwrap();
    commit(&rig.array, 1, first, "two").await.unwrap();
    rig.restart().await;
    rig.until("it serves", |report| report.serving == Serving::Yes)
        .await;
    let b = rig.member("b");
    assert_eq!((b.state, b.needs_operator), (MemberState::Degraded, true));
    assert_eq!(b.reason.as_deref(), Some("disabled by an operator"));
    rig.array.recover("b", Strategy::Missing, None).unwrap();
    rig.optimal().await;
    rig.same_histories();
}

#[tokio::test]
async fn after_a_restart_only_the_in_sync_set_is_served_from() {
    let mut rig = Rig::new().await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    rig.array.disable("b").unwrap();
    rig.array.disable("c").unwrap();
    let second = commit(&rig.array, 1, first, "two").await.unwrap();
    // Only stale copies are there.
    rig.members[0]
        .faults()
        .fail(Moment::Open, Fault::Unreachable("power is off".into()));
    rig.restart().await;
    rig.until("it says why not", |report| {
        report.line.contains("power is off")
    })
    .await;
    assert!(load_error(&rig.array).await.contains("power is off"));
    rig.members[0].faults().clear();
    rig.until("it serves", |report| report.serving == Serving::Yes)
        .await;
    assert_eq!(
        load(&rig.array, 1).await,
        (Bytes::from_static(b"two"), second)
    );
}

async fn load_error(array: &Array) -> String {
    array
        .load_before(Oid(1), Tid::MAX)
        .await
        .unwrap_err()
        .to_string()
}

#[tokio::test]
async fn a_member_that_lacks_the_end_is_recovered_at_the_start() {
    let mut rig = Rig::new().await;
    let mut serial = Tid::ZERO;
    for n in 0..5 {
        serial = commit(&rig.array, 1, serial, &n.to_string()).await.unwrap();
    }
    rig.array.shutdown(Duration::from_secs(5)).await.unwrap();
    rig.members[1].tamper(|history| history.truncate(3));
    rig.restart().await;
    rig.optimal().await;
    rig.same_histories();
    assert_eq!(load(&rig.array, 1).await.1, serial);
}

#[tokio::test]
async fn with_no_record_copies_that_disagree_are_not_served() {
    let folder = tempfile::tempdir().unwrap();
    let members: Vec<_> = NAMES.iter().map(|name| MemoryOpener::new(*name)).collect();
    for (n, member) in members.iter().enumerate().take(2) {
        let opened = crate::storage::Opener::open(member).await.unwrap();
        let mut transaction = opened
            .begin(TxnMeta::default(), Some(Tid(100)))
            .await
            .unwrap();
        let data = Bytes::from(vec![n as u8; 10]).into();
        transaction
            .store(Op::Store {
                oid: Oid(1),
                serial: Tid::ZERO,
                data,
            })
            .await
            .unwrap();
        let Vote::Ready(voted) = transaction.vote().await.unwrap() else {
            panic!("a conflict")
        };
        voted.finish().await.unwrap();
        opened.close().await;
    }
    let (array, notices) = start(options(&folder), &members, &folder).await;
    let rig = Rig {
        folder,
        members,
        array,
        notices,
        record_is_broken: Arc::default(),
    };
    rig.until("it says why not", |report| {
        report.line.contains("no common history")
    })
    .await;
    assert_eq!(rig.array.report().state, ArrayState::Failed);
}

#[tokio::test]
async fn a_copy_with_transactions_of_its_own_is_rebuilt_only_when_asked() {
    let rig = Rig::new().await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    rig.array.disable("b").unwrap();
    commit(&rig.array, 1, first, "two").await.unwrap();
    rig.members[1].tamper(|history| {
        let mut own = history.last().unwrap().clone();
        own.tid = Tid(own.tid.0 + 1);
        own.meta.description = Bytes::from_static(b"nobody knows me");
        history.push(own);
    });
    let found = rig.array.analyse("b").await.unwrap().finding;
    let Finding::Diverged {
        common,
        only_here,
        only_here_count,
        ..
    } = found
    else {
        panic!("{found:?}")
    };
    assert_eq!((common, only_here_count), (Some(first), 1));
    assert_eq!(only_here[0].description, "nobody knows me");
    rig.array.recover("b", Strategy::Missing, None).unwrap();
    rig.until("it fails", |report| {
        matches!(&report.recovery, Some(RecoveryReport { outcome: RecoveryOutcome::Failed { reason, .. }, .. })
            if reason.contains("it has to be rebuilt"))
    })
    .await;
    rig.until("b waits", |_| rig.member("b").needs_operator)
        .await;
    rig.array.recover("b", Strategy::Rebuild, None).unwrap();
    rig.optimal().await;
    rig.same_histories();
}

#[tokio::test]
async fn a_recovery_runs_beside_commits_and_ends_level() {
    let rig = Rig::new().await;
    let mut serial = commit(&rig.array, 1, Tid::ZERO, "0").await.unwrap();
    rig.array.disable("c").unwrap();
    for n in 0..200 {
        serial = commit(&rig.array, 1, serial, &n.to_string()).await.unwrap();
    }
    rig.array.recover("c", Strategy::Verify, None).unwrap();
    while rig.array.report().state != ArrayState::Optimal {
        serial = commit(&rig.array, 1, serial, "meanwhile").await.unwrap();
    }
    rig.same_histories();
    rig.until("the recovery has ended", |report| {
        report
            .recovery
            .as_ref()
            .is_some_and(|recovery| recovery.outcome == RecoveryOutcome::Done)
    })
    .await;
}

#[tokio::test]
async fn a_recovery_can_be_slowed_and_cancelled_and_goes_on_where_it_was() {
    let rig = Rig::new().await;
    let mut serial = Tid::ZERO;
    rig.array.disable("c").unwrap();
    let big = "x".repeat(400_000);
    for _ in 0..60 {
        serial = commit(&rig.array, 1, serial, &big).await.unwrap();
    }
    let slow = Rate {
        bytes_per_second: Some(1),
        ..Rate::UNLIMITED
    };
    rig.array
        .recover("c", Strategy::Missing, Some(slow))
        .unwrap();
    rig.until("it copies", |report| {
        report
            .recovery
            .as_ref()
            .is_some_and(|recovery| recovery.progress.done.bytes > 0)
    })
    .await;
    rig.array.cancel_recovery().unwrap();
    rig.until("it is cancelled", |report| {
        report
            .recovery
            .as_ref()
            .is_some_and(|r| r.outcome == RecoveryOutcome::Cancelled)
    })
    .await;
    assert!(rig.member("c").needs_operator, "an operator's word is kept");
    let copied = rig.members[2].transactions().len();
    assert!(0 < copied && copied < 60, "{copied} copied");
    rig.array
        .recover("c", Strategy::Missing, Some(slow))
        .unwrap();
    rig.until("it runs", |report| {
        report
            .recovery
            .as_ref()
            .is_some_and(|r| r.progress.phase == "copy")
    })
    .await;
    rig.array.set_recovery_rate(Rate::UNLIMITED).unwrap();
    rig.optimal().await;
    rig.same_histories();
}

#[tokio::test]
async fn members_come_and_go_while_it_serves() {
    let rig = Rig::new().await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    let two = specs(&rig.members)[..2].to_vec();
    let (added, removed) = rig.array.set_members(two.clone(), true).unwrap();
    assert_eq!((added, removed), (vec![], vec!["c".to_owned()]));
    assert_eq!(
        rig.array.report().members.len(),
        3,
        "a dry run changes nothing"
    );
    rig.array.set_members(two, false).unwrap();
    assert_eq!(rig.array.report().members.len(), 2);
    let second = commit(&rig.array, 1, first, "two").await.unwrap();
    rig.array.set_members(specs(&rig.members), false).unwrap();
    rig.until("c is back", |report| {
        report.state == ArrayState::Optimal && report.members.len() == 3
    })
    .await;
    commit(&rig.array, 1, second, "three").await.unwrap();
    rig.same_histories();
    let refused = rig.array.set_members(Vec::new(), false).unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("no optimal member of main would remain"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_client_that_holds_the_lock_too_long_loses_it() {
    let rig = Rig::with(|options| options.transaction_timeout = Duration::from_millis(100)).await;
    let mut transaction = rig.array.begin(TxnMeta::default(), None).await.unwrap();
    let data = Bytes::from_static(b"slow").into();
    transaction
        .store(Op::Store {
            oid: Oid(1),
            serial: Tid::ZERO,
            data,
        })
        .await
        .unwrap();
    let Vote::Ready(voted) = transaction.vote().await.unwrap() else {
        panic!("a conflict")
    };
    let quick = commit(&rig.array, 1, Tid::ZERO, "quick").await.unwrap();
    let error = voted.finish().await.unwrap_err();
    assert!(error.to_string().contains("too late"), "{error}");
    assert_eq!(
        load(&rig.array, 1).await,
        (Bytes::from_static(b"quick"), quick)
    );
    rig.same_histories();
}

#[tokio::test]
async fn when_the_last_member_fails_it_is_said_and_service_goes_on_when_it_is_back() {
    let rig = Rig::new().await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    rig.array.disable("b").unwrap();
    rig.array.disable("c").unwrap();
    let down = Fault::Unreachable("cable cut".into());
    rig.members[0].faults().fail(Moment::Vote, down.clone());
    rig.members[0].faults().fail(Moment::Open, down);
    let error = commit(&rig.array, 1, first, "two").await.unwrap_err();
    assert!(error.to_string().contains("cannot serve"), "{error}");
    assert_eq!(rig.array.report().state, ArrayState::Failed);
    rig.members[0].faults().clear();
    rig.until("it serves", |report| report.serving == Serving::Yes)
        .await;
    commit(&rig.array, 1, first, "two").await.unwrap();
}

#[tokio::test]
async fn below_the_minimum_clients_may_only_read_where_that_is_wanted() {
    let rig = Rig::with(|options| {
        options.min_optimal = 3;
        options.fail_mode = FailMode::ReadOnly;
    })
    .await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    rig.array.disable("b").unwrap();
    assert!(matches!(
        rig.array.report().serving,
        Serving::ReadOnly { .. }
    ));
    assert_eq!(load(&rig.array, 1).await.1, first);
    let error = commit(&rig.array, 1, first, "two").await.unwrap_err();
    assert_eq!(error.to_string(), "the storage is read-only");
    rig.array.recover("b", Strategy::Missing, None).unwrap();
    rig.until("it serves", |report| report.serving == Serving::Yes)
        .await;
    commit(&rig.array, 1, first, "two").await.unwrap();
}

#[tokio::test]
async fn no_transaction_is_acknowledged_before_the_record_of_a_loss_is_durable() {
    let rig = Rig::new().await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    // The record cannot be replaced any more.
    let record = rig.folder.path().join("membership.json");
    std::fs::remove_file(&record).unwrap();
    std::fs::create_dir(&record).unwrap();
    rig.members[1]
        .faults()
        .fail(Moment::Vote, Fault::Closed("test".into()));
    let error = commit(&rig.array, 1, first, "two").await.unwrap_err();
    assert!(error.to_string().contains("membership record"), "{error}");
    assert_eq!(load(&rig.array, 1).await.1, first);
    assert_eq!(rig.members[0].transactions().len(), 1, "a clean abort");
    std::fs::remove_dir(&record).unwrap();
    rig.members[1].faults().clear();
    rig.optimal().await;
    commit(&rig.array, 1, first, "two").await.unwrap();
    rig.same_histories();
}

#[tokio::test]
async fn a_transaction_of_unknown_outcome_that_comes_true_is_told_to_everybody() {
    let rig = Rig::with(|options| options.transaction_timeout = Duration::from_millis(300)).await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    assert_eq!(load(&rig.array, 1).await.1, first, "it is in the cache now");
    let mut heard = rig.array.subscribe();
    rig.break_record(true);
    rig.members[1]
        .faults()
        .fail_once(Moment::Finish, Fault::Closed("test".into()));
    let error = commit(&rig.array, 1, first, "two").await.unwrap_err();
    assert!(error.to_string().contains("outcome is unknown"), "{error}");
    assert_eq!(load(&rig.array, 1).await.1, first, "not acknowledged yet");
    assert_eq!(rig.heard("record-failed"), 1, "said once");
    rig.break_record(false);
    rig.until("it came true", |report| report.head > first)
        .await;
    assert_eq!(load(&rig.array, 1).await.0, "two");
    assert_eq!(&*heard.next().await.unwrap().oids, [Oid(1)]);
    assert!(rig.array.0.look(|core| core.live.is_empty()));
}

#[tokio::test]
async fn clients_that_leave_leave_nothing_behind() {
    let rig = Rig::new().await;
    let gate = rig.members[0].faults().hold(Moment::Vote);
    for _ in 0..5 {
        let waiting = commit(&rig.array, 1, Tid::ZERO, "nobody waits for it");
        let left = tokio::time::timeout(Duration::from_millis(5), waiting).await;
        assert!(left.is_err());
    }
    rig.members[0].faults().clear();
    gate.release();
    commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    assert!(rig.array.0.look(|core| core.live.is_empty()));
}

#[tokio::test]
async fn nobody_is_served_before_the_record_of_the_start_is_durable() {
    let mut rig = Rig::new().await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    rig.array.shutdown(Duration::from_secs(5)).await.unwrap();
    rig.members[2]
        .faults()
        .fail(Moment::Open, Fault::Unreachable("power is off".into()));
    rig.break_record(true);
    let options = options(&rig.folder);
    (rig.array, rig.notices) =
        start_with(options, &rig.members, &rig.folder, &rig.record_is_broken).await;
    rig.until("it says why not", |report| {
        report
            .line
            .contains("the membership record, which cannot be written")
    })
    .await;
    assert!(rig.array.last_tid().await.is_err());
    rig.break_record(false);
    rig.until("it serves", |report| report.serving == Serving::Yes)
        .await;
    assert_eq!(load(&rig.array, 1).await.1, first);
}

#[tokio::test]
async fn a_copy_from_a_backup_is_not_served_where_the_record_knows_better() {
    let mut rig = Rig::new().await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    let second = commit(&rig.array, 1, first, "two").await.unwrap();
    rig.array.shutdown(Duration::from_secs(5)).await.unwrap();
    rig.members[0].tamper(|history| history.truncate(1));
    let off = Fault::Unreachable("power is off".into());
    for member in &rig.members[1..] {
        member.faults().fail(Moment::Open, off.clone());
    }
    let options = options(&rig.folder);
    (rig.array, rig.notices) = start(options, &rig.members, &rig.folder).await;
    rig.until("it says why not", |report| {
        report.line.contains("a ends at") || report.line.contains("that is open, a, ends at")
    })
    .await;
    for member in &rig.members[1..] {
        member.faults().clear();
    }
    rig.optimal().await;
    assert_eq!(load(&rig.array, 1).await.1, second);
    rig.same_histories();
}

#[tokio::test]
async fn what_one_member_has_packed_away_is_asked_of_the_others() {
    let rig = Rig::with(|options| options.cache_bytes = 0).await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    let second = commit(&rig.array, 1, first, "two").await.unwrap();
    rig.members[0].tamper(|history| drop(history.remove(0)));
    for _ in 0..3 {
        let old = rig.array.load_before(Oid(1), second).await.unwrap();
        assert_eq!(old.map(|old| old.tid), Some(first));
        assert_eq!(rig.array.load_serial(Oid(1), first).await.unwrap(), "one");
    }
    let missing = rig.array.load_before(Oid(99), Tid::MAX).await.unwrap_err();
    assert!(missing.to_string().contains("no object"), "{missing}");
    assert_eq!(rig.array.report().state, ArrayState::Optimal);
}

#[tokio::test]
async fn one_bad_record_of_the_last_copy_takes_nothing_else_away() {
    let rig = Rig::with(|options| options.cache_bytes = 0).await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    rig.array.disable("b").unwrap();
    rig.array.disable("c").unwrap();
    rig.members[0]
        .faults()
        .fail_once(Moment::Load, Fault::Damaged("test".into()));
    assert!(load_error(&rig.array).await.contains("damaged"));
    assert_eq!(load(&rig.array, 1).await.1, first);
    assert_eq!(rig.array.report().serving, Serving::Yes);
}

#[tokio::test]
async fn a_recovery_goes_on_from_another_source_where_one_fails() {
    let rig = Rig::new().await;
    let mut serial = Tid::ZERO;
    rig.array.disable("c").unwrap();
    for n in 0..5 {
        serial = commit(&rig.array, 1, serial, &n.to_string()).await.unwrap();
    }
    rig.members[0]
        .faults()
        .fail_after(3, Moment::Iterate, Fault::Closed("test".into()));
    rig.array.recover("c", Strategy::Missing, None).unwrap();
    rig.optimal().await;
    rig.same_histories();
    assert!(rig.heard("member-degraded") >= 2, "a was taken out");
    assert_eq!(rig.heard("recovery-failed"), 0);
}

#[tokio::test]
async fn a_target_that_fails_is_opened_again_and_recovered_later() {
    let rig = Rig::new().await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    rig.array.disable("c").unwrap();
    commit(&rig.array, 1, first, "two").await.unwrap();
    rig.members[2].faults().fail_once(
        Moment::Restore,
        Fault::DiskFull {
            what: "test".into(),
        },
    );
    rig.array.recover("c", Strategy::Missing, None).unwrap();
    rig.until("it fails", |_| rig.heard("recovery-failed") == 1)
        .await;
    rig.optimal().await;
    rig.same_histories();
    assert!(rig.member("c").faults > 0);
}

#[tokio::test]
async fn a_copy_that_could_not_be_read_in_one_place_is_compared_and_mended() {
    let rig = Rig::with(|options| options.cache_bytes = 0).await;
    let mut serial = Tid::ZERO;
    for n in 0..5 {
        serial = commit(&rig.array, 1, serial, &n.to_string()).await.unwrap();
    }
    rig.members[0].tamper(|history| {
        history[2].records[0].data = crate::zodb::RecordData::Gone;
    });
    rig.members[0]
        .faults()
        .fail_once(Moment::Load, Fault::Damaged("test".into()));
    assert_eq!(load(&rig.array, 1).await.1, serial);
    rig.until("it is verified", |report| {
        report.recovery.as_ref().is_some_and(|recovery| {
            recovery.strategy == Strategy::Verify && recovery.outcome == RecoveryOutcome::Done
        })
    })
    .await;
    rig.optimal().await;
    rig.same_histories();
}

#[tokio::test]
async fn what_was_never_acknowledged_is_cut_without_an_operator() {
    let rig = Rig::new().await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    rig.array.disable("c").unwrap();
    // Both fail in the same finish: a keeps the transaction, b, the last, does not.
    let closed = || Fault::Closed("test".into());
    rig.members[0]
        .faults()
        .fail_once(Moment::Finished, closed());
    let gate = rig.members[1].faults().hold(Moment::Finish);
    rig.members[1].faults().fail_once(Moment::Finish, closed());
    let committing = commit(&rig.array, 1, first, "two");
    let released = async {
        rig.until("a is out", |_| {
            rig.member("a").state == MemberState::Degraded
        })
        .await;
        gate.release();
    };
    let (outcome, ()) = tokio::join!(committing, released);
    outcome.unwrap_err();
    rig.until("it serves", |report| report.serving == Serving::Yes)
        .await;
    let other = commit(&rig.array, 1, first, "another two").await.unwrap();
    rig.until("a is back", |_| {
        rig.member("a").state == MemberState::Optimal
    })
    .await;
    assert_eq!(load(&rig.array, 1).await.1, other);
    assert_eq!(
        plain(&rig.members[0].transactions()),
        plain(&rig.members[1].transactions())
    );
}

#[tokio::test]
async fn a_shutdown_waits_for_a_finish_in_hand() {
    let mut rig = Rig::new().await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    let gate = rig.members[0].faults().hold(Moment::Finish);
    let array = rig.array.clone();
    let committing = commit(&array, 1, first, "two");
    let stopping = async {
        gate.reached().await;
        let released = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            gate.release();
        };
        let (stopped, ()) = tokio::join!(rig.array.shutdown(Duration::from_secs(5)), released);
        stopped.unwrap();
    };
    let (second, ()) = tokio::join!(committing, stopping);
    let second = second.unwrap();
    rig.same_histories();
    let record = FileRecord::new(rig.folder.path().join("membership.json"));
    assert_eq!(record.load().unwrap().unwrap().head, second);
    let options = options(&rig.folder);
    (rig.array, rig.notices) = start(options, &rig.members, &rig.folder).await;
    rig.optimal().await;
    assert_eq!(load(&rig.array, 1).await.1, second);
}

#[tokio::test]
async fn a_shutdown_closes_the_members_although_a_client_never_finishes() {
    let rig = Rig::new().await;
    let mut transaction = rig.array.begin(TxnMeta::default(), None).await.unwrap();
    let data = Bytes::from_static(b"never").into();
    let (oid, serial) = (Oid(1), Tid::ZERO);
    transaction
        .store(Op::Store { oid, serial, data })
        .await
        .unwrap();
    let Vote::Ready(voted) = transaction.vote().await.unwrap() else {
        panic!("a conflict")
    };
    rig.array
        .shutdown(Duration::from_millis(600))
        .await
        .unwrap();
    drop(voted);
    assert!(rig.members[0].transactions().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_member_that_opens_and_does_not_answer_is_tried_again() {
    let mut rig = Rig::new().await;
    rig.array.shutdown(Duration::from_secs(5)).await.unwrap();
    let fault = Fault::Closed("test".into());
    rig.members[1].faults().fail_once(Moment::Ask, fault);
    let options = options(&rig.folder);
    (rig.array, rig.notices) = start(options, &rig.members, &rig.folder).await;
    rig.optimal().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_told_of_a_transaction_never_reads_from_before_it() {
    let rig = Rig::new().await;
    let mut told = rig.array.subscribe();
    let reader = rig.array.clone();
    let reading = async move {
        while let Ok(committed) = told.next().await {
            let loaded = reader.load_before(Oid(1), committed.tid.next()).await;
            assert_eq!(loaded.unwrap().unwrap().tid, committed.tid);
        }
    };
    let reads = rig.array.clone();
    let writing = async move {
        let mut serial = Tid::ZERO;
        for n in 0..300 {
            serial = commit(&reads, 1, serial, &n.to_string()).await.unwrap();
        }
        reads.shutdown(Duration::from_secs(5)).await.unwrap();
    };
    let tasks = crate::task::Tasks::new("test");
    let (done, ended) = tokio::sync::oneshot::channel();
    tasks.spawn("reader", async move {
        reading.await;
        done.send(()).unwrap();
    });
    writing.await;
    ended.await.expect("the reader met no old revision");
}
