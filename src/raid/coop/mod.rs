//! Several daemons over the same members: what they see of each other, and random histories of two of
//! them in which both die and servers come and go. `SEED=7 cargo test --lib raid::coop` runs that one
//! history, `HISTORIES=500` more of them.

mod server;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use parking_lot::Mutex;

use super::*;
use crate::job::Rate;
use crate::storage::suite::BLOB_RECORD;
use crate::storage::{Answer, Fault, Opener as _, Storage, StorageError, Vote};
use crate::zodb::{HistoryRecord, HistoryTxn, Oid, Op, RecordData, Tid, TidRange, TxnMeta};
use server::{Door, Server, Writer};

const NAMES: [&str; 3] = ["a", "b", "c"];
const OBJECTS: u64 = 3;

thread_local! {
    /// What daemons said in this history, each line with the number of the daemon.
    static TRACE: std::cell::RefCell<Vec<String>> = const { std::cell::RefCell::new(Vec::new()) };
}

fn note(line: String) {
    TRACE.with_borrow_mut(|trace| trace.push(line));
}

/// One daemon.
struct Daemon {
    array: Array,
    writer: Writer,
    folder: Arc<tempfile::TempDir>,
}

fn options(folder: &tempfile::TempDir, mode: ClusterMode) -> ArrayOptions {
    ArrayOptions {
        cluster_mode: mode,
        cache_bytes: 1 << 16,
        ..ArrayOptions::of_a_test(folder.path())
    }
}

impl Daemon {
    async fn start(
        servers: &[Arc<Server>],
        folder: &Arc<tempfile::TempDir>,
        mode: ClusterMode,
    ) -> Daemon {
        let writer = Writer::default();
        let spec = |(name, server): (&&str, &Arc<Server>)| MemberSpec {
            name: (*name).to_owned(),
            opener: Arc::new(Door {
                server: Arc::clone(server),
                writer: writer.clone(),
            }),
            fingerprint: String::new(),
            adopted: false,
        };
        let members = NAMES.iter().zip(servers).map(spec).collect();
        let record = Arc::new(FileRecord::new(folder.path().join("membership.json")));
        let (number, since) = (fastrand::u16(..), tokio::time::Instant::now());
        let sink: NoticeSink = Arc::new(move |notice| {
            let line = format!("{number} {:?} {notice}", since.elapsed());
            TRACE.with_borrow_mut(|trace| trace.push(line));
        });
        let array = Array::start(options(folder, mode), members, record, sink)
            .await
            .unwrap();
        Daemon {
            array,
            writer,
            folder: Arc::clone(folder),
        }
    }

    /// Dies where it stands, and starts again.
    async fn replace(&self, servers: &[Arc<Server>]) -> Daemon {
        self.writer.is_dead.store(true, Ordering::SeqCst);
        drop(self.array.shutdown(Duration::ZERO).await);
        Daemon::start(servers, &self.folder, ClusterMode::Coop).await
    }

    async fn serves(&self) {
        let mut serving = self.array.serving();
        let waited = serving.wait_for(|serving| *serving == Serving::Yes);
        let waited = tokio::time::timeout(Duration::from_mins(5), waited).await;
        assert!(
            waited.is_ok(),
            "it does not serve: {:#?}",
            self.array.report()
        );
    }

    /// Becomes optimal, with an operator who empties the servers that hold what was never acknowledged.
    async fn becomes_optimal(&self, servers: &[Arc<Server>]) {
        let deadline = tokio::time::Instant::now() + Duration::from_mins(10);
        while self.array.report().state != ArrayState::Optimal {
            for (member, server) in self.array.report().members.iter().zip(servers) {
                if member.needs_operator {
                    let reason = member.reason.as_deref().unwrap_or_default();
                    if reason.contains("diverged") {
                        note(format!("{} is emptied: {reason}", member.name));
                        server.empty();
                    }
                    drop(self.array.recover(&member.name, Strategy::Missing, None));
                }
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "it does not become optimal: {:#?}",
                self.array.report()
            );
            // What was left on one member alone stands against the next transaction.
            add_one(&self.array, Oid(OBJECTS + 1)).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

fn three() -> Vec<Arc<Server>> {
    NAMES.iter().map(|name| Server::new(name)).collect()
}

fn folder() -> Arc<tempfile::TempDir> {
    Arc::new(tempfile::tempdir().unwrap())
}

async fn two_daemons(servers: &[Arc<Server>]) -> (Daemon, Daemon) {
    let one = Daemon::start(servers, &folder(), ClusterMode::Coop).await;
    let other = Daemon::start(servers, &folder(), ClusterMode::Coop).await;
    one.serves().await;
    other.serves().await;
    (one, other)
}

/// How an attempt to add one to a counter ended.
#[derive(Debug, PartialEq)]
enum Added {
    Yes(Tid),
    /// Certainly not.
    No,
    Unknown,
}

/// The present value of a counter, and its serial.
async fn value(storage: &dyn Storage, oid: Oid) -> Result<(u64, Tid), StorageError> {
    match storage.load_before(oid, Tid::MAX).await {
        Ok(Some(loaded)) => {
            let text = String::from_utf8(loaded.data.to_vec()).unwrap();
            Ok((text.parse().unwrap(), loaded.tid))
        }
        Ok(None) | Err(StorageError::Answer(Answer::NoSuchObject(_))) => Ok((0, Tid::ZERO)),
        Err(error) => Err(error),
    }
}

async fn add_one(storage: &dyn Storage, oid: Oid) -> Added {
    let Ok((value, serial)) = value(storage, oid).await else {
        return Added::No;
    };
    let Ok(mut transaction) = storage.begin(TxnMeta::default(), None).await else {
        return Added::No;
    };
    let op = Op::Store {
        oid,
        serial,
        data: Bytes::from((value + 1).to_string()).into(),
    };
    if transaction.store(op).await.is_err() {
        return Added::No;
    }
    match transaction.vote().await {
        Ok(Vote::Ready(voted)) => match voted.finish().await {
            Ok(tid) => Added::Yes(tid),
            Err(_) => Added::Unknown,
        },
        _ => Added::No,
    }
}

async fn add_until_done(array: &Array, oid: Oid) -> Tid {
    for _ in 0..1000 {
        let added = tokio::time::timeout(Duration::from_mins(3), add_one(array, oid)).await;
        let added = added.unwrap_or_else(|_| panic!("no answer: {:#?}", array.report()));
        if let Added::Yes(tid) = added {
            return tid;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("nothing could be added");
}

async fn history(server: &Server) -> Vec<String> {
    let mut history = server.inner().iterate(TidRange::ALL).await.unwrap();
    let mut all = Vec::new();
    while let Some(transaction) = history.next().await.unwrap() {
        all.push(crate::storage::suite::text(&transaction));
    }
    all
}

#[tokio::test(start_paused = true)]
async fn what_one_daemon_commits_the_other_tells_its_clients_once_and_serves() {
    let servers = three();
    let (one, other) = two_daemons(&servers).await;
    let mut heard = other.array.subscribe();
    let tid = add_until_done(&one.array, Oid(1)).await;
    let told = heard.next().await.unwrap();
    assert_eq!((told.tid, &*told.oids, told.by), (tid, &[Oid(1)][..], None));
    assert_eq!(value(&other.array, Oid(1)).await.unwrap(), (1, tid));
    let later = add_until_done(&other.array, Oid(1)).await;
    assert!(later > tid);
    let told = heard.next().await.unwrap();
    assert_eq!(told.tid, later);
    assert!(told.by.is_some());
    assert_eq!(one.array.newest_tid().await.unwrap(), later);
    assert_eq!(value(&one.array, Oid(1)).await.unwrap(), (2, later));
    let (since, oids) = one.array.invalidations_since(tid).await.unwrap();
    assert_eq!((since, oids), (later, Some(vec![Oid(1)])));
}

#[tokio::test(start_paused = true)]
async fn no_oid_is_given_by_two_daemons() {
    let servers = three();
    let (one, other) = two_daemons(&servers).await;
    // Neighbours are read from one server, those of the next page from another. Each server counts by itself.
    let page = 1 << 12;
    let mut given = std::collections::BTreeSet::new();
    for (daemon, after) in [(&one, page - 10), (&other, page), (&one, page), (&other, 0)] {
        for oid in daemon.array.new_oids(100, Oid(after)).await.unwrap() {
            assert!(given.insert(oid), "{oid} is given twice");
        }
    }
    // Where the one that counts is lost, another one does.
    servers[0].kill();
    one.array.new_oids(10, Oid(page)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_a_daemon_left_half_finished_is_finished_by_the_other() {
    let servers = three();
    let (one, other) = two_daemons(&servers).await;
    let first = add_until_done(&one.array, Oid(1)).await;
    // Members tell of it when they like; who asks for the newest waits for it.
    assert_eq!(other.array.newest_tid().await.unwrap(), first);
    // The first daemon dies after the first of three members has finished: as if it had written there
    // alone.
    let half = Daemon::start(&servers[..1], &folder(), ClusterMode::Single).await;
    half.serves().await;
    let tid = add_until_done(&half.array, Oid(2)).await;
    drop(half.array.shutdown(Duration::from_secs(1)).await);
    let mut heard = other.array.subscribe();
    let next = add_until_done(&other.array, Oid(1)).await;
    assert!(
        first < tid && tid < next,
        "{first} {tid} {next} {:#?}",
        other.array.report()
    );
    assert_eq!(
        tokio::time::timeout(Duration::from_mins(1), heard.next())
            .await
            .expect("soon")
            .unwrap()
            .tid,
        tid
    );
    assert_eq!(heard.next().await.unwrap().tid, next);
    assert_eq!(other.array.report().state, ArrayState::Optimal);
    let histories = [history(&servers[0]).await, history(&servers[1]).await];
    assert_eq!(histories[0], histories[1]);
    assert_eq!(histories[0], history(&servers[2]).await);
    assert_eq!(one.array.newest_tid().await.unwrap(), next);
}

/// What that finishes may be seen on the target before it is on the source, which is no divergence; and while
/// the end is copied under the lock the head stands still, and the target is past it.
#[tokio::test(start_paused = true)]
async fn a_member_that_the_other_daemon_goes_on_writing_to_is_let_in() {
    let servers = three();
    let (one, other) = two_daemons(&servers).await;
    add_until_done(&one.array, Oid(1)).await;
    for daemon in [&one, &other] {
        daemon.array.disable("c").unwrap();
    }
    add_until_done(&one.array, Oid(1)).await;
    let optimal = async |daemon: &Daemon| {
        while daemon.array.report().state != ArrayState::Optimal {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    one.array.recover("c", Strategy::Missing, None).unwrap();
    optimal(&one).await;
    other.writer.is_slow.store(true, Ordering::SeqCst);
    other.array.recover("c", Strategy::Missing, None).unwrap();
    let writes = async {
        loop {
            add_until_done(&one.array, Oid(1)).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let joins = tokio::time::timeout(Duration::from_mins(1), optimal(&other));
    let joined = tokio::select! {
        () = writes => unreachable!("it writes for ever"),
        joined = joins => joined,
    };
    assert!(joined.is_ok(), "{:#?}", other.array.report());
}

/// A server tells of the blobs of a restored transaction, and of nothing else that it wrote.
#[tokio::test(start_paused = true)]
async fn of_a_restored_transaction_with_a_blob_clients_are_told_all() {
    let servers = three();
    let (one, other) = two_daemons(&servers).await;
    let tid = add_until_done(&one.array, Oid(1)).await;
    assert_eq!(other.array.newest_tid().await.unwrap(), tid);
    assert_eq!(value(&other.array, Oid(1)).await.unwrap(), (1, tid));
    let mut heard = other.array.subscribe();
    let record = |oid: u64, data: &'static [u8]| HistoryRecord {
        oid: Oid(oid),
        data: RecordData::Data(Bytes::from_static(data).into()),
        blob: None,
    };
    let restored = HistoryTxn {
        tid: tid.next(),
        meta: TxnMeta::default(),
        records: vec![record(7, BLOB_RECORD), record(1, b"restored")],
    };
    for server in &servers {
        let door = Door {
            server: Arc::clone(server),
            writer: Writer::default(),
        };
        let member = door.open().await.unwrap();
        member.restore(vec![restored.clone()]).await.unwrap();
    }
    let told = tokio::time::timeout(Duration::from_mins(1), heard.next());
    let told = told.await.expect("soon").unwrap();
    assert_eq!((told.tid, &*told.oids), (tid.next(), &[Oid(1), Oid(7)][..]));
    let loaded = other.array.load_before(Oid(1), Tid::MAX).await.unwrap();
    assert_eq!(loaded.unwrap().data, "restored");
}

/// What a server finishes late, or a daemon has left on it alone; nobody is told.
async fn left_alone(server: &Server, tid: Tid) {
    let record = HistoryRecord {
        oid: Oid(OBJECTS + 2),
        data: RecordData::Data(Bytes::from_static(b"left").into()),
        blob: None,
    };
    let transaction = HistoryTxn {
        tid,
        meta: TxnMeta::default(),
        records: vec![record],
    };
    server.inner().restore(vec![transaction]).await.unwrap();
}

/// The reason why a member is out, once it is.
async fn goes_out(daemon: &Daemon, member: usize) -> String {
    let out = async {
        loop {
            let report = daemon.array.report();
            if let Some(reason) = &report.members[member].reason {
                return reason.clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let out = tokio::time::timeout(Duration::from_mins(1), out).await;
    out.unwrap_or_else(|_| panic!("it stays in: {:#?}", daemon.array.report()))
}

#[tokio::test(start_paused = true)]
async fn a_member_that_holds_what_others_went_on_without_is_not_made_level_on_top_of_it() {
    let servers = three();
    let other = Daemon::start(&servers, &folder(), ClusterMode::Coop).await;
    other.serves().await;
    let first = add_until_done(&other.array, Oid(1)).await;
    let left = first.next();
    left_alone(&servers[2], left).await;
    let two = Daemon::start(&servers[..2], &folder(), ClusterMode::Coop).await;
    two.serves().await;
    let next = add_until_done(&two.array, Oid(2)).await;
    assert!(left < next);
    let reason = goes_out(&other, 2).await;
    let is_told = reason.contains("differs") || reason.contains("diverged");
    assert!(is_told, "{reason}");
    assert_eq!(other.array.newest_tid().await.unwrap(), next);
    assert_eq!(value(&other.array, Oid(2)).await.unwrap(), (1, next));
    let report = other.array.report();
    assert!(
        report.members[..2].iter().all(|it| it.reason.is_none()),
        "{report:#?}"
    );
}

/// The others are right, because they are more; and no client hears of it.
#[tokio::test(start_paused = true)]
async fn who_tells_of_what_the_others_went_on_without_is_taken_out() {
    let servers = three();
    let other = Daemon::start(&servers, &folder(), ClusterMode::Coop).await;
    other.serves().await;
    let first = add_until_done(&other.array, Oid(1)).await;
    let two = Daemon::start(&servers[..2], &folder(), ClusterMode::Coop).await;
    two.serves().await;
    let next = add_until_done(&two.array, Oid(2)).await;
    let door = Door {
        server: Arc::clone(&servers[2]),
        writer: Writer::default(),
    };
    let left = HistoryTxn {
        tid: first.next(),
        meta: TxnMeta::default(),
        records: Vec::new(),
    };
    let written = door.open().await.unwrap().restore(vec![left]).await;
    written.expect("it is still earlier than what the others have");
    let reason = goes_out(&other, 2).await;
    let is_told = reason.contains("differs") || reason.contains("diverged");
    assert!(is_told, "{reason}");
    assert_eq!(other.array.newest_tid().await.unwrap(), next);
    let report = other.array.report();
    assert!(
        report.members[..2].iter().all(|it| it.reason.is_none()),
        "{report:#?}"
    );
    assert_eq!(*other.array.serving().borrow(), Serving::Yes);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_copied_on_top_of_what_a_server_finished_late() {
    let servers = three();
    let daemon = Daemon::start(&servers, &folder(), ClusterMode::Single).await;
    daemon.serves().await;
    let last = add_until_done(&daemon.array, Oid(1)).await;
    daemon.array.disable("c").unwrap();
    // More than is copied in one go at the end.
    for _ in 0..40 {
        add_until_done(&daemon.array, Oid(1)).await;
    }
    let slow = Rate {
        transactions_per_second: Some(1),
        ..Rate::default()
    };
    let before = history(&servers[2]).await.len();
    daemon
        .array
        .recover("c", Strategy::Missing, Some(slow))
        .unwrap();
    // Between two transactions that it copies.
    while history(&servers[2]).await.len() == before {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let copied = servers[2].inner().last_tid().await.unwrap();
    assert!(last < copied);
    left_alone(&servers[2], copied.next()).await;
    let ends = async {
        while !daemon.array.report().members[2].needs_operator {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_mins(2), ends).await;
    let report = daemon.array.report();
    assert!(ended.is_ok(), "it was let in: {report:#?}");
    let reason = report.members[2].reason.clone().unwrap_or_default();
    assert!(reason.contains("diverged"), "{reason}");
}

/// Emptied, it would be lost to a daemon that is only behind.
#[tokio::test(start_paused = true)]
async fn nobody_is_told_to_empty_a_copy_that_may_be_ahead() {
    let servers = three();
    let daemon = Daemon::start(&servers, &folder(), ClusterMode::Coop).await;
    daemon.serves().await;
    let last = add_until_done(&daemon.array, Oid(1)).await;
    daemon.array.disable("c").unwrap();
    left_alone(&servers[2], last.next()).await;
    match daemon.array.analyse("c").await {
        Err(refused @ Refused::Undecided { .. }) => {
            let told = refused.to_string();
            assert!(told.contains("waiting for the others"), "{told}");
            let next = refused.next().unwrap_or_default();
            assert!(next.contains("details"), "{next}");
        }
        told => panic!("{told:?}"),
    }
    // A later one on the others stands against it.
    add_until_done(&daemon.array, Oid(1)).await;
    let report = daemon.array.analyse("c").await.unwrap();
    assert!(
        matches!(report.finding, Finding::Diverged { common: Some(common), .. } if common == last),
        "{report:?}"
    );
    assert!(report.next.is_some_and(|next| next.contains("empty")));
}

/// A server may finish late what a daemon has asked it for that is dead by then.
#[tokio::test(start_paused = true)]
async fn who_goes_on_after_it_was_opened_is_the_newest_of_the_start() {
    use super::controller::Compared;

    let servers = three();
    let daemon = Daemon::start(&servers, &folder(), ClusterMode::Single).await;
    daemon.serves().await;
    let last = add_until_done(&daemon.array, Oid(1)).await;
    let readers = daemon.array.0.view();
    let opened = readers.readers.iter();
    let opened: Vec<_> = opened
        .map(|it| (it.member, Arc::clone(&it.storage)))
        .collect();
    let ids: Vec<_> = opened.iter().map(|(id, _)| *id).collect();
    left_alone(&servers[1], last.next()).await;
    let (found, head) = super::recovery::assemble(&daemon.array.0, opened).await;
    assert_eq!(head, Some(last.next()));
    let expected = vec![
        (ids[1], Compared::Level),
        (ids[0], Compared::Behind),
        (ids[2], Compared::Behind),
    ];
    assert_eq!(found, expected);
}

#[tokio::test(start_paused = true)]
async fn alone_a_daemon_takes_a_member_out_that_somebody_else_writes_to() {
    let servers = three();
    let daemon = Daemon::start(&servers, &folder(), ClusterMode::Single).await;
    daemon.serves().await;
    add_until_done(&daemon.array, Oid(1)).await;
    let intruder = Daemon::start(&servers[..1], &folder(), ClusterMode::Single).await;
    intruder.serves().await;
    add_until_done(&intruder.array, Oid(2)).await;
    add_until_done(&daemon.array, Oid(1)).await;
    let report = daemon.array.report();
    assert_eq!(report.state, ArrayState::Degraded);
    let reason = report.members[0].reason.clone().unwrap_or_default();
    assert!(reason.contains("somebody else wrote"), "{reason}");
    assert!(report.members[0].needs_operator);
}

#[tokio::test(start_paused = true)]
async fn who_cannot_follow_the_other_daemon_tells_nobody_an_older_end() {
    let servers = three();
    let (one, other) = two_daemons(&servers).await;
    let before = add_until_done(&one.array, Oid(1)).await;
    // Its record can be written no more, which a change of the members waits for.
    std::fs::remove_dir_all(one.folder.path()).unwrap();
    servers[2].kill();
    let tid = add_until_done(&other.array, Oid(1)).await;
    assert!(tid > before);
    match one.array.newest_tid().await {
        Err(StorageError::Fault(Fault::NotServing(why))) => {
            assert!(why.contains(&tid.to_string()), "{why}");
        }
        told => panic!("{told:?}, and {tid} was acknowledged elsewhere"),
    }
    // It goes on for those that know no better.
    assert_eq!(value(&one.array, Oid(1)).await.unwrap(), (1, before));
    std::fs::create_dir(one.folder.path()).unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(one.array.newest_tid().await.unwrap(), tid);
}

#[tokio::test(start_paused = true)]
async fn less_than_a_majority_does_not_serve() {
    let servers = three();
    let (one, _other) = two_daemons(&servers).await;
    add_until_done(&one.array, Oid(1)).await;
    servers[0].kill();
    add_until_done(&one.array, Oid(1)).await;
    servers[1].kill();
    let mut serving = one.array.serving();
    serving
        .wait_for(|serving| matches!(serving, Serving::No { .. }))
        .await
        .unwrap();
    assert_eq!(add_one(&one.array, Oid(1)).await, Added::No);
    servers[0].revive();
    servers[1].revive();
    one.serves().await;
    add_until_done(&one.array, Oid(1)).await;
    assert_eq!(value(&one.array, Oid(1)).await.unwrap().0, 3);
}

/// Adds to counters through whichever daemon serves.
async fn client(world: Arc<World>, mut rng: Rng) {
    while !*world.over.lock() {
        tokio::time::sleep(Duration::from_millis(rng.u64(1..400))).await;
        let (array, writer) = {
            let daemon = &world.daemons.lock()[rng.usize(..2)];
            (daemon.array.clone(), daemon.writer.clone())
        };
        let oid = Oid(rng.u64(1..=OBJECTS));
        let limit = Duration::from_mins(3);
        let added = async {
            tokio::select! {
                added = add_one(&array, oid) => added,
                // Its connection ends with the daemon.
                () = writer.dies() => Added::Unknown,
            }
        };
        let added = tokio::time::timeout(limit, added).await;
        let mut sums = world.sums.lock();
        let (least, most) = sums.entry(oid).or_default();
        match added.expect("no call takes for ever") {
            Added::Yes(tid) => {
                *least += 1;
                *most += 1;
                world.acknowledged.lock().push((tid, oid));
            }
            Added::Unknown => *most += 1,
            Added::No => {}
        }
    }
}

struct World {
    daemons: Mutex<Vec<Daemon>>,
    sums: Mutex<BTreeMap<Oid, (u64, u64)>>,
    acknowledged: Mutex<Vec<(Tid, Oid)>>,
    over: Mutex<bool>,
}

async fn random_history(seed: u64) -> usize {
    let mut rng = Rng::with_seed(seed);
    fastrand::seed(seed);
    let servers = three();
    let (one, other) = two_daemons(&servers).await;
    let world = Arc::new(World {
        daemons: Mutex::new(vec![one, other]),
        sums: Mutex::default(),
        acknowledged: Mutex::default(),
        over: Mutex::new(false),
    });
    let tasks = crate::task::Tasks::new("clients");
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (over, ended) = tokio::sync::oneshot::channel();
            let client = client(Arc::clone(&world), rng.fork());
            tasks.spawn("client", async move {
                client.await;
                over.send(()).ok();
            });
            ended
        })
        .collect();
    for _ in 0..rng.u32(3..12) {
        tokio::time::sleep(Duration::from_millis(rng.u64(1..5000))).await;
        match rng.u32(..4) {
            0 | 1 => {
                let server = &servers[rng.usize(..3)];
                server.kill();
                note("a server is killed".into());
                tokio::time::sleep(Duration::from_millis(rng.u64(1..8000))).await;
                server.revive();
                note("it is back".into());
            }
            2 => {
                let which = rng.usize(..2);
                let dying = {
                    let daemons = world.daemons.lock();
                    let dying = &daemons[which];
                    Daemon {
                        array: dying.array.clone(),
                        writer: dying.writer.clone(),
                        folder: Arc::clone(&dying.folder),
                    }
                };
                let next = dying.replace(&servers).await;
                world.daemons.lock()[which] = next;
            }
            _ => {}
        }
    }
    *world.over.lock() = true;
    for client in clients {
        client.await.expect("no client fails");
    }
    let daemons = std::mem::take(&mut *world.daemons.lock());
    for daemon in &daemons {
        daemon.serves().await;
        daemon.becomes_optimal(&servers).await;
    }
    // An emptied server was lost to the first again.
    for daemon in &daemons {
        daemon.becomes_optimal(&servers).await;
    }
    for daemon in &daemons {
        // As a client does that comes to it: what the others finished last may not be told yet.
        daemon.array.newest_tid().await.unwrap();
        let sums = world.sums.lock().clone();
        for (oid, (least, most)) in &sums {
            let (value, serial) = value(&daemon.array, *oid).await.unwrap();
            let mut there = Vec::new();
            for server in &servers {
                there.push(self::value(&server.inner(), *oid).await.unwrap());
            }
            note(format!(
                "{oid} is {value} of {serial}; the servers have {there:?}"
            ));
            assert!(
                (*least..=*most).contains(&value),
                "{oid} is {value}, and {least} to {most} were added"
            );
        }
    }
    let first = history(&servers[0]).await;
    for server in &servers[1..] {
        assert_eq!(first, history(server).await);
    }
    let all = first.join("\n");
    for (tid, _) in &*world.acknowledged.lock() {
        assert!(all.contains(&tid.to_string()), "{tid} was acknowledged");
    }
    for daemon in daemons {
        drop(daemon.array.shutdown(Duration::from_secs(10)).await);
    }
    first.len()
}

#[test]
fn two_daemons_keep_one_history_whatever_dies() {
    let wanted = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let (first, count) = match wanted("SEED") {
        Some(seed) => (seed, 1),
        None => (fastrand::u64(..1 << 40), wanted("HISTORIES").unwrap_or(20)),
    };
    for seed in first..first + count {
        eprintln!("SEED={seed}");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        TRACE.take();
        let outcome = std::panic::catch_unwind(|| {
            runtime.block_on(async {
                let history = random_history(seed);
                let limit = Duration::from_mins(40);
                let ended = tokio::time::timeout(limit, history).await;
                ended.expect("a history ends")
            })
        });
        let transactions = outcome.unwrap_or_else(|_| {
            panic!("SEED={seed}: {}", TRACE.take().join("\n"));
        });
        assert!(transactions > 3, "nothing happened");
    }
}
