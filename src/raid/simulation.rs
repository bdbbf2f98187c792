//! Random histories of a whole array over members in memory: real tasks and timeouts, in paused time.
//!
//! Clients commit, some of them blobs, undo, and read what they have committed, a subscriber listens, and
//! meanwhile members fail and hang at any moment, the record cannot be written, operators interfere and
//! pack, and the array is restarted. Some members behave as ZEO servers do. Every call has to end in time;
//! what was acknowledged is never lost; nobody sees time go back; and when all faults are over, all members
//! hold the same, up to what packing removed.
//!
//! `SEED=7 cargo test --lib raid::simulation` runs that one history, `HISTORIES=9999` more of them. The order of tasks is not part of
//! the seed, so a failure may need a few tries.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use futures_util::future::join_all;
use parking_lot::Mutex;

use super::*;
use crate::storage::memory::{Gate, MemoryOpener, Moment};
use crate::storage::{Answer, Fault, Storage, StorageError, Vote};
use crate::zodb::{Blob, Oid, Op, Tid, TxnMeta, TxnStatus};

const NAMES: [&str; 3] = ["a", "b", "c"];
const MOMENTS: [Moment; 12] = [
    Moment::Open,
    Moment::Load,
    Moment::Ask,
    Moment::Begin,
    Moment::Vote,
    Moment::Finish,
    Moment::Finished,
    Moment::Iterate,
    Moment::Restore,
    Moment::Close,
    Moment::LoadBlob,
    Moment::Pack,
];
/// The record of a blob begins with its class; what follows is the test's.
const BLOB: &[u8] = b"\x80\x03cZODB.blob\nBlob\nq\x01.";
/// Packs whatever is there.
const FAR: f64 = 4e9;
/// No call may take longer than all timeouts together.
const LONGEST: Duration = Duration::from_mins(3);

#[derive(Default)]
struct Record {
    kept: Mutex<Option<Membership>>,
    broken: Mutex<bool>,
}

impl RecordStore for Record {
    fn load(&self) -> Result<Option<Membership>, RecordError> {
        Ok(self.kept.lock().clone())
    }

    fn save(&self, membership: &Membership) -> Result<(), RecordError> {
        if *self.broken.lock() {
            return Err(RecordError::Interrupted("simulated".into()));
        }
        *self.kept.lock() = Some(membership.clone());
        Ok(())
    }
}

struct World {
    members: Vec<MemberSpec>,
    openers: Vec<MemoryOpener>,
    record: Arc<Record>,
    folder: tempfile::TempDir,
    array: Mutex<Array>,
    /// What clients were told is committed.
    acknowledged: Mutex<BTreeMap<Tid, Bytes>>,
    over: Mutex<bool>,
    /// Which members behave as servers do.
    servers: Vec<bool>,
    packs: bool,
}

fn options(folder: &tempfile::TempDir) -> ArrayOptions {
    ArrayOptions {
        // Small, so that both overflow.
        cache_bytes: 1 << 16,
        invalidation_queue: 10,
        ..ArrayOptions::of_a_test(folder.path())
    }
}

impl World {
    async fn new(rng: &mut Rng) -> World {
        let packs = rng.bool();
        let most = if rng.bool() { 0 } else { rng.u32(1..=3) };
        let servers: Vec<bool> = NAMES.iter().map(|_| rng.u32(..3) < most).collect();
        let opener = |(name, server): (&&str, &bool)| {
            let opener = MemoryOpener::new(*name);
            if *server {
                opener.like_a_server()
            } else {
                opener
            }
        };
        let openers: Vec<_> = NAMES.iter().zip(&servers).map(opener).collect();
        let spec = |(name, opener): (&&str, &MemoryOpener)| MemberSpec {
            name: (*name).to_owned(),
            opener: Arc::new(opener.clone()),
            fingerprint: String::new(),
            adopted: false,
        };
        let members: Vec<_> = NAMES.iter().zip(&openers).map(spec).collect();
        let folder = tempfile::tempdir().unwrap();
        let record = Arc::new(Record::default());
        let array = start(&folder, &members, &record).await;
        World {
            members,
            openers,
            record,
            folder,
            array: Mutex::new(array),
            acknowledged: Mutex::default(),
            over: Mutex::new(false),
            servers,
            packs,
        }
    }

    fn array(&self) -> Array {
        self.array.lock().clone()
    }

    fn is_over(&self) -> bool {
        *self.over.lock()
    }

    /// Commits to an object of its own, undoes what it did last, and reads it back. One in two has a blob.
    async fn client(&self, number: u64, mut rng: Rng) {
        let (oid, mut serial, mut n) = (Oid(number), Tid::ZERO, 0_u64);
        // What the object may be, besides what was acknowledged last.
        let mut unknown = false;
        // Its present state, and that before it, which an undo brings back.
        let mut states: Option<(Bytes, Option<Bytes>)> = None;
        while !self.is_over() {
            tokio::time::sleep(Duration::from_millis(rng.u64(1..2000))).await;
            n += 1;
            let undone = match &states {
                Some((_, Some(before))) if rng.u32(..4) == 0 => Some(before.clone()),
                _ => None,
            };
            let undoes = undone.is_some();
            let (text, ops) = match undone {
                Some(before) => (before, vec![Op::Undo { tid: serial }]),
                None => self.change(number, n, serial),
            };
            let leaves = rng.u32(..10) == 0;
            let patience = if leaves {
                Duration::from_millis(10)
            } else {
                LONGEST
            };
            let array = self.array();
            let committing = commit(&array, ops);
            match tokio::time::timeout(patience, committing).await {
                Ok(Ok(tid)) => {
                    let last = self.acknowledged.lock().insert(tid, text.clone());
                    assert_eq!(last, None, "a TID is given once");
                    (serial, unknown) = (tid, false);
                    let before = states.take().map(|(now, _)| now);
                    states = Some((text.clone(), before));
                }
                Ok(Err(StorageError::Answer(answer))) => {
                    // It may be packed, or that is being done.
                    let undo = matches!(answer, Answer::Undo { .. } | Answer::MultipleUndo(_));
                    let expected =
                        unknown || matches!(answer, Answer::Other { .. }) || (undoes && undo);
                    assert!(expected, "{number} is answered: {answer}");
                }
                Ok(Err(StorageError::Fault(_))) => unknown = true,
                Err(_) => {
                    assert!(leaves, "client {number} waits for ever");
                    unknown = true;
                }
            }
            let array = self.array();
            let loaded = tokio::time::timeout(LONGEST, array.load_before(oid, Tid::MAX)).await;
            let Ok(Some(loaded)) = loaded.expect("a load waits for ever") else {
                continue;
            };
            assert!(
                loaded.tid >= serial,
                "{number} reads {} after {serial}",
                loaded.tid
            );
            assert!(unknown || loaded.tid == serial, "nobody else writes it");
            if loaded.tid != serial {
                // What came true is known now; whether it was an undo is not.
                states = Some((loaded.data.clone(), None));
            }
            serial = loaded.tid;
            if let Some(text) = loaded.data.strip_prefix(BLOB) {
                let asked = array.load_blob(oid, loaded.tid);
                let answer = tokio::time::timeout(LONGEST, asked).await;
                match answer.expect("a blob waits for ever") {
                    Ok(blob) => assert_eq!(content(&blob), text, "the file of {serial}"),
                    Err(StorageError::Answer(answer)) => {
                        assert!(unknown, "{number} asks for its blob: {answer}");
                    }
                    Err(StorageError::Fault(_)) => {}
                }
            }
        }
    }

    /// A new state, and what a client sends of it.
    fn change(&self, number: u64, n: u64, serial: Tid) -> (Bytes, Vec<Op>) {
        let (oid, text) = (Oid(number), format!("{number}/{n}"));
        if number.is_multiple_of(2) {
            let state = Bytes::from(text);
            let data = state.clone().into();
            return (state, vec![Op::Store { oid, serial, data }]);
        }
        let mut file = tempfile::NamedTempFile::new_in(self.folder.path()).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let blob = Blob::temporary(file.into_temp_path()).unwrap();
        let state = Bytes::from([BLOB, text.as_bytes()].concat());
        let record = Op::Store {
            oid,
            serial,
            data: state.clone().into(),
        };
        let with_file = Op::StoreBlob {
            oid,
            serial,
            data: state.clone().into(),
            blob,
        };
        (state, vec![record, with_file])
    }

    /// Hears of transactions in their order, and sees the head.
    async fn subscriber(&self) {
        let mut seen = Tid::ZERO;
        while !self.is_over() {
            let array = self.array();
            let mut heard = array.subscribe();
            let mut last = Tid::ZERO;
            loop {
                let next = tokio::time::timeout(Duration::from_secs(5), heard.next()).await;
                if let Ok(head) = array.last_tid().await {
                    assert!(head >= seen, "the head goes back from {seen} to {head}");
                    seen = head;
                }
                match next {
                    Ok(Ok(committed)) => {
                        assert!(committed.tid > last, "invalidations in order");
                        last = committed.tid;
                    }
                    Ok(Err(_)) => break,
                    Err(_) if self.is_over() => return,
                    Err(_) => {}
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn chaos(&self, mut rng: Rng) {
        let mut gates: Vec<Gate> = Vec::new();
        for _ in 0..rng.u32(5..40) {
            tokio::time::sleep(Duration::from_millis(rng.u64(1..4000))).await;
            let member = rng.usize(..3);
            let (name, faults) = (NAMES[member], self.openers[member].faults());
            let moment = MOMENTS[rng.usize(..MOMENTS.len())];
            let array = self.array();
            match rng.u32(..18) {
                0..=4 => faults.fail_once(moment, fault(&mut rng)),
                5 => faults.fail_after(rng.usize(..5), moment, fault(&mut rng)),
                6 => faults.fail(moment, fault(&mut rng)),
                7 | 8 => gates.push(faults.hold(moment)),
                9 | 10 => {
                    gates.clear();
                    faults.clear();
                }
                11 => drop(array.disable(name)),
                12 => drop(array.recover(name, Strategy::Rebuild, None)),
                13 => drop(array.cancel_recovery()),
                14 => *self.record.broken.lock() = rng.bool(),
                15 | 16 if self.packs => drop(array.start_pack(FAR)),
                15 | 16 => {}
                _ => {
                    gates.clear();
                    self.all_is_well();
                    array
                        .shutdown(Duration::from_mins(2))
                        .await
                        .expect("a shutdown ends");
                    let new = start(&self.folder, &self.members, &self.record).await;
                    *self.array.lock() = new;
                }
            }
        }
        drop(gates);
        self.all_is_well();
        self.recover_all().await;
        *self.over.lock() = true;
    }

    fn all_is_well(&self) {
        *self.record.broken.lock() = false;
        for opener in &self.openers {
            opener.faults().clear();
        }
    }

    async fn recover_all(&self) {
        let array = self.array();
        for _ in 0..5000 {
            let report = array.report();
            if report.state == ArrayState::Optimal {
                return;
            }
            for member in report.members.iter().filter(|member| member.needs_operator) {
                self.empty_where_only_an_operator_can(&report, &member.name);
                drop(array.recover(&member.name, Strategy::Rebuild, None));
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        panic!("it does not come right: {:#?}", array.report());
    }
}

impl World {
    /// Does what a recovery has said that is to be done.
    fn empty_where_only_an_operator_can(&self, report: &ArrayReport, name: &str) {
        let Some(recovery) = report.recovery.as_ref().filter(|one| one.member == name) else {
            return;
        };
        let RecoveryOutcome::Failed {
            next: Some(next), ..
        } = &recovery.outcome
        else {
            return;
        };
        if next.starts_with("empty the memory storage") {
            let number = NAMES.iter().position(|one| *one == name).unwrap();
            assert!(self.servers[number], "{next}");
            self.openers[number].tamper(Vec::clear);
        }
    }
}

async fn start(folder: &tempfile::TempDir, members: &[MemberSpec], record: &Arc<Record>) -> Array {
    let store: Arc<dyn RecordStore> = Arc::clone(record) as _;
    let sink: NoticeSink = Arc::new(|_| ());
    Array::start(options(folder), members.to_vec(), store, sink)
        .await
        .unwrap()
}

fn fault(rng: &mut Rng) -> Fault {
    let what = "simulated".to_owned();
    match rng.u32(..4) {
        0 => Fault::DiskFull { what },
        1 => Fault::Unreachable(what),
        2 => Fault::Damaged(what),
        _ => Fault::Closed(what),
    }
}

async fn commit(array: &Array, ops: Vec<Op>) -> Result<Tid, StorageError> {
    let mut transaction = array.begin(TxnMeta::default(), None).await?;
    for op in ops {
        transaction.store(op).await?;
    }
    match transaction.vote().await? {
        Vote::Ready(voted) => voted.finish().await,
        Vote::Conflicts(_, conflicts) => {
            let text = format!("{} conflicts", conflicts.len());
            Err(Answer::Invalid(text).into())
        }
    }
}

async fn history(seed: u64) -> usize {
    let mut rng = Rng::with_seed(seed);
    fastrand::seed(seed);
    let world = World::new(&mut rng).await;
    let clients = (1..=3).map(|number| world.client(number, rng.fork()));
    let clients: Vec<_> = clients.collect();
    tokio::join!(join_all(clients), world.subscriber(), world.chaos(rng));
    let array = world.array();
    array.shutdown(Duration::from_mins(2)).await.unwrap();
    let held: Vec<Held> = world.openers.iter().map(Held::by).collect();
    // Up to there one or another has packed.
    let floor = held.iter().map(|held| held.packed).max().unwrap();
    for (name, held_by) in NAMES.iter().zip(&held) {
        assert_eq!(held_by.current, held[0].current, "{name} differs");
        assert_eq!(held_by.after(floor), held[0].after(floor), "{name} differs");
    }
    let kept = held[0].after(floor);
    let acknowledged = world.acknowledged.lock();
    for (tid, text) in acknowledged.iter().filter(|(tid, _)| **tid > floor) {
        let found = kept.get(tid).map(|records| records.as_slice());
        let found = found.and_then(|records| records.first()).map(|one| &one.1);
        assert_eq!(found, Some(text), "{tid} is lost");
    }
    // Nobody else has written: what was acknowledged last, or something later of unknown outcome.
    for (oid, (tid, _)) in &held[0].current {
        let last = acknowledged.iter().rev().find(|(_, text)| of(*oid, text));
        assert!(last.is_none_or(|(last, _)| last <= tid), "{oid} went back");
    }
    acknowledged.len()
}

fn of(oid: Oid, state: &Bytes) -> bool {
    let text = state.strip_prefix(BLOB).unwrap_or(state);
    text.starts_with(format!("{}/", oid.0).as_bytes())
}

/// An object, its state, and its file.
type Plain = (Oid, Bytes, Option<Vec<u8>>);

/// What a member holds in the end.
struct Held {
    history: BTreeMap<Tid, Vec<Plain>>,
    current: BTreeMap<Oid, (Tid, Plain)>,
    /// The last transaction that was packed.
    packed: Tid,
}

impl Held {
    fn by(opener: &MemoryOpener) -> Held {
        let mut held = Held {
            history: BTreeMap::new(),
            current: BTreeMap::new(),
            packed: Tid::ZERO,
        };
        for txn in opener.transactions() {
            let plain = txn.records.iter().map(|record| {
                let payload = record.data.payload();
                let data = payload.map_or_else(Bytes::new, |data| data.read().unwrap());
                assert_eq!(data.starts_with(BLOB), record.blob.is_some(), "{}", txn.tid);
                (record.oid, data, record.blob.as_ref().map(content))
            });
            let plain: Vec<Plain> = plain.collect();
            for record in &plain {
                held.current.insert(record.0, (txn.tid, record.clone()));
            }
            if txn.meta.status == TxnStatus::Packed {
                held.packed = txn.tid;
            }
            held.history.insert(txn.tid, plain);
        }
        held
    }

    fn after(&self, floor: Tid) -> BTreeMap<Tid, &Vec<Plain>> {
        let later = self.history.range(floor.next()..);
        later.map(|(tid, records)| (*tid, records)).collect()
    }
}

fn content(blob: &Blob) -> Vec<u8> {
    let mut content = vec![0; blob.len() as usize];
    blob.open().unwrap().read_exact_at(&mut content, 0).unwrap();
    content
}

struct Story(u64);

impl Drop for Story {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("SEED={}", self.0);
        }
    }
}

#[test]
fn an_array_keeps_its_promises_whatever_happens() {
    let given = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let one = given("SEED");
    let histories = given("HISTORIES").unwrap_or(200);
    let seeds = one.map_or(0..histories, |seed| seed..seed + 1);
    let mut acknowledged = 0;
    for seed in seeds {
        let _story = Story(seed);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        acknowledged += runtime.block_on(history(seed));
    }
    assert!(one.is_some() || acknowledged > 1000, "only {acknowledged}");
}
