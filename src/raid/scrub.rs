//! A scrub: all optimal members' histories are read side by side and compared, while clients go on.
//!
//! Every transaction up to the head of the beginning: what it says of itself, which objects it wrote, the
//! data of each, and the files of blobs. Members may differ in what packing removed, which is judged as
//! in a recovery: a transaction or a record that a member lacks is packed away where what follows there
//! is marked as packed, and every object of it has a later revision there or is gone.
//!
//! Nothing is changed and nobody is taken out. What more than half of the members agree on is taken for
//! right; between two nobody can tell. Memory: a transaction of each member at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::future::join_all;

use super::Notice;
use super::backup::Held;
use super::controller::Reading;
use super::recovery::{by_object, digest, is_blob, same, same_meta, same_record};
use super::report::{Difference, Differs, LeftOut, Refused, ScrubReport, ScrubbedMember};
use super::runner::{Runner, as_fault};
use super::view::Reader;
use crate::job::{Amount, Cancelled, JobHandle, Rate, Work};
use crate::storage::{Answer, Fault, History, StorageError};
use crate::zodb::{HistoryRecord, HistoryTxn, Oid, Tid, TidRange, TxnStatus};

/// How many differences are listed.
const LISTED: usize = 100;

/// The scrub that runs, or ended last.
pub(super) struct LastScrub {
    report: ScrubReport,
    handle: JobHandle,
}

/// Starts a scrub as a task.
pub(super) fn start(runner: &Arc<Runner>, rate: Rate) -> Result<(), Refused> {
    let held = Held::begin(runner, Reading::Scrub)?;
    let view = runner.view();
    if view.readers.len() < 2 {
        let array = runner.options.name.clone();
        return Err(Refused::NothingToCompare { array });
    }
    let (mut work, handle) = Work::new("scrub", rate, runner.tasks.stop());
    let sizes = view
        .readers
        .iter()
        .map(|reader| reader.storage.size().bytes);
    work.begin(
        "scrub",
        Amount {
            transactions: 0,
            bytes: sizes.max().unwrap_or_default(),
        },
    );
    let lanes: Vec<Lane> = runner.update(|core| {
        let lanes = view.readers.iter().map(|reader| Lane {
            name: core.controller.name(reader.member),
            reader: reader.clone(),
            history: None,
            next: None,
            last: Tid::ZERO,
            packed: false,
            left_out: None,
            contradicted: 0,
        });
        let lanes: Vec<Lane> = lanes.collect();
        core.scrub = Some(LastScrub {
            report: ScrubReport {
                id: core.scrub.as_ref().map_or(1, |last| last.report.id + 1),
                progress: handle.progress(),
                started: crate::clock::now(),
                ended: None,
                cancelled: false,
                head: view.head,
                members: lanes.iter().map(Lane::report).collect(),
                transactions: 0,
                blobs: 0,
                count: 0,
                differences: Vec::new(),
            },
            handle,
        });
        lanes
    });
    runner.notice(Notice::ScrubStarted {
        members: lanes.iter().map(|lane| lane.name.clone()).collect(),
    });
    let job = Job {
        runner: Arc::clone(runner),
        head: view.head,
        work,
        lanes,
        transactions: 0,
        blobs: 0,
        count: 0,
        differences: Vec::new(),
    };
    runner.tasks.spawn("scrub", job.run(held));
    Ok(())
}

pub(super) fn report(runner: &Runner) -> Option<ScrubReport> {
    runner.look(|core| {
        let scrub = core.scrub.as_ref()?;
        Some(ScrubReport {
            progress: scrub.handle.progress(),
            ..scrub.report.clone()
        })
    })
}

pub(super) fn cancel(runner: &Runner) -> Result<(), Refused> {
    runner.look(|core| match &core.scrub {
        Some(scrub) if scrub.report.ended.is_none() => {
            scrub.handle.cancel();
            Ok(())
        }
        _ => Err(Refused::NoSuchJob("scrub")),
    })
}

/// A member's history, as far as it was read.
struct Lane {
    name: String,
    reader: Reader,
    /// None before it was opened, and after its end.
    history: Option<Box<dyn History>>,
    next: Option<HistoryTxn>,
    /// The last transaction that it gave, and whether that was marked as packed.
    last: Tid,
    packed: bool,
    left_out: Option<LeftOut>,
    contradicted: u64,
}

impl Lane {
    fn report(&self) -> ScrubbedMember {
        ScrubbedMember {
            name: self.name.clone(),
            kind: self.reader.storage.describe().kind,
            left_out: self.left_out.clone(),
            contradicted: self.contradicted,
        }
    }

    fn is_compared(&self) -> bool {
        self.left_out.is_none()
    }

    fn fail(&mut self, error: StorageError) {
        let after = self.last;
        let left_out = match as_fault(error) {
            fault @ (Fault::Damaged(_) | Fault::Io { .. }) => LeftOut::Unreadable {
                after,
                reason: fault.to_string(),
            },
            fault => LeftOut::Lost {
                reason: fault.to_string(),
            },
        };
        let reason = match &left_out {
            LeftOut::Unreadable { reason, .. } | LeftOut::Lost { reason } => reason,
        };
        tracing::warn!(
            member = self.name,
            %after,
            reason,
            "a member is not scrubbed any further"
        );
        self.left_out = Some(left_out);
        self.next = None;
        self.history = None;
    }

    async fn open(&mut self, runner: &Runner, head: Tid) {
        let storage = &*self.reader.storage;
        let range = TidRange {
            first: Tid::ZERO,
            last: head,
        };
        let opened = runner.while_it_answers(storage, "an iteration", storage.iterate(range));
        match opened.await {
            Ok(history) => self.history = Some(history),
            Err(error) => self.fail(error),
        }
    }

    /// Has its next transaction ready, where there is one.
    async fn fill(&mut self, runner: &Runner) {
        let (None, Some(history)) = (&self.next, &mut self.history) else {
            return;
        };
        let storage = &*self.reader.storage;
        let next = runner.while_it_answers(storage, "an iteration", history.next());
        match next.await {
            Ok(Some(next)) => self.next = Some(next),
            Ok(None) => self.history = None,
            Err(error) => self.fail(error),
        }
    }

    fn take(&mut self) -> Option<HistoryTxn> {
        let taken = self.next.take()?;
        self.last = taken.tid;
        self.packed = taken.meta.status == TxnStatus::Packed;
        Some(taken)
    }

    /// Whether what comes next here is marked as packed, or what came last where there is no more.
    fn is_within_packed(&self) -> bool {
        match &self.next {
            Some(next) => next.meta.status == TxnStatus::Packed,
            None => self.packed,
        }
    }

    /// Whether packing can have removed a record here: there is a later one, or the object is gone.
    async fn may_lack(&mut self, runner: &Runner, oid: Oid, tid: Tid) -> bool {
        let storage = &*self.reader.storage;
        let asked = runner.while_it_answers(storage, "getTid", storage.current_tid(oid));
        match asked.await {
            Ok(current) => current > tid,
            Err(StorageError::Answer(Answer::NoSuchObject(_))) => true,
            Err(error) => {
                self.fail(error);
                // What nobody could ask is no difference.
                true
            }
        }
    }
}

/// The content of a blob: its length and digest; none where there is no file.
type Content = Option<(u64, [u8; 32])>;

struct Job {
    runner: Arc<Runner>,
    head: Tid,
    work: Work,
    lanes: Vec<Lane>,
    transactions: u64,
    blobs: u64,
    count: u64,
    differences: Vec<Difference>,
}

impl Job {
    async fn run(mut self, held: Held) {
        let cancelled = self.compare().await.is_err();
        let report = |core: &mut super::runner::Core, job: &Job| {
            if let Some(scrub) = &mut core.scrub {
                scrub.report.ended = Some(crate::clock::now());
                scrub.report.cancelled = cancelled;
                scrub.report.members = job.lanes.iter().map(Lane::report).collect();
                scrub.report.transactions = job.transactions;
                scrub.report.blobs = job.blobs;
                scrub.report.count = job.count;
                scrub.report.differences.clone_from(&job.differences);
            }
        };
        held.end(|core| report(core, &self));
        if cancelled {
            return;
        }
        let why = |lane: &Lane| match lane.left_out.as_ref()? {
            LeftOut::Unreadable { reason, .. } | LeftOut::Lost { reason } => {
                Some(format!("{}: {reason}", lane.name))
            }
        };
        self.runner.notice(Notice::ScrubDone {
            members: self.lanes.iter().map(|lane| lane.name.clone()).collect(),
            transactions: self.transactions,
            differences: self.count,
            left_out: self.lanes.iter().filter_map(why).collect(),
        });
    }

    async fn compare(&mut self) -> Result<(), Cancelled> {
        let stop = self.work.stop().clone();
        let (runner, head) = (Arc::clone(&self.runner), self.head);
        let opened = join_all(self.lanes.iter_mut().map(|lane| lane.open(&runner, head)));
        crate::task::select! {
            () = stop.requested() => return Err(Cancelled),
            _ = opened => {}
        }
        loop {
            let filled = join_all(self.lanes.iter_mut().map(|lane| lane.fill(&runner)));
            // Who is told to stop reads no more.
            crate::task::select! {
                () = stop.requested() => return Err(Cancelled),
                _ = filled => {}
            }
            let compared = self.lanes.iter().filter(|lane| lane.is_compared());
            if compared.count() < 2 {
                return Ok(());
            }
            let next = self.lanes.iter().filter_map(|lane| lane.next.as_ref());
            let Some(tid) = next.map(|next| next.tid).min() else {
                return Ok(());
            };
            self.transaction(tid).await?;
        }
    }

    async fn transaction(&mut self, tid: Tid) -> Result<(), Cancelled> {
        let mut held: Vec<(usize, HistoryTxn)> = Vec::new();
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            if lane.next.as_ref().is_some_and(|next| next.tid == tid)
                && let Some(taken) = lane.take()
            {
                held.push((index, taken));
            }
        }
        let size = held.iter().map(|(_, txn)| txn.size()).max();
        let amount = Amount {
            transactions: 1,
            bytes: size.unwrap_or_default(),
        };
        self.work.allow(amount).await?;
        self.who_lacks_it(tid, &held).await;
        self.compare_meta(tid, &held);
        let differ = held
            .windows(2)
            .any(|pair| !matches!(same(&pair[0].1, &pair[1].1), Ok(true)));
        if differ || is_partly_packed(&held) {
            self.compare_records(tid, &held).await;
        }
        self.compare_blobs(tid, &held).await?;
        self.transactions += 1;
        self.work.reached(tid.to_string());
        self.work.did(amount);
        Ok(())
    }

    /// Those that do not have the transaction, and not because it was packed away.
    async fn who_lacks_it(&mut self, tid: Tid, held: &[(usize, HistoryTxn)]) {
        let Some((_, example)) = held.first() else {
            return;
        };
        let runner = Arc::clone(&self.runner);
        let mut lacking = Vec::new();
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            if !lane.is_compared() || held.iter().any(|(holder, _)| *holder == index) {
                continue;
            }
            let mut rightly = lane.is_within_packed();
            for record in &example.records {
                rightly = rightly && lane.may_lack(&runner, record.oid, tid).await;
            }
            if !rightly && lane.is_compared() {
                lacking.push(index);
            }
        }
        if !lacking.is_empty() {
            let holders = held.iter().map(|(index, _)| *index).collect();
            self.differs(tid, None, Differs::Missing, vec![holders, lacking]);
        }
    }

    fn compare_meta(&mut self, tid: Tid, held: &[(usize, HistoryTxn)]) {
        let mut groups: Vec<(&HistoryTxn, Vec<usize>)> = Vec::new();
        for (index, txn) in held {
            match groups.iter_mut().find(|(one, _)| same_meta(one, txn)) {
                Some((_, group)) => group.push(*index),
                None => groups.push((txn, vec![*index])),
            }
        }
        if groups.len() > 1 {
            let groups = groups.into_iter().map(|(_, group)| group).collect();
            self.differs(tid, None, Differs::Metadata, groups);
        }
    }

    /// Object by object.
    async fn compare_records(&mut self, tid: Tid, held: &[(usize, HistoryTxn)]) {
        let runner = Arc::clone(&self.runner);
        let maps: Vec<_> = held
            .iter()
            .map(|(index, txn)| (*index, is_packed(txn), by_object(txn)))
            .collect();
        let oids: BTreeSet<Oid> = maps
            .iter()
            .flat_map(|(_, _, map)| map.keys().copied())
            .collect();
        for oid in oids {
            let mut groups: Vec<(Option<&HistoryRecord>, Vec<usize>)> = Vec::new();
            for (index, packed, map) in &maps {
                let record = map.get(&oid).copied();
                let lane = &mut self.lanes[*index];
                if record.is_none() && *packed && lane.may_lack(&runner, oid, tid).await {
                    continue;
                }
                if let Some(Err(fault)) = record.map(is_readable) {
                    lane.fail(fault.into());
                    continue;
                }
                let alike = |one: Option<&HistoryRecord>| match (one, record) {
                    (None, None) => true,
                    (Some(one), Some(record)) => matches!(same_record(one, record), Ok(true)),
                    _ => false,
                };
                match groups.iter_mut().find(|(one, _)| alike(*one)) {
                    Some((_, group)) => group.push(*index),
                    None => groups.push((record, vec![*index])),
                }
            }
            if groups.len() > 1 {
                let groups = groups.into_iter().map(|(_, group)| group).collect();
                self.differs(tid, Some(oid), Differs::Record, groups);
            }
        }
    }

    /// The files of blobs of those that keep them.
    async fn compare_blobs(
        &mut self,
        tid: Tid,
        held: &[(usize, HistoryTxn)],
    ) -> Result<(), Cancelled> {
        if self.runner.blobs.with_members() {
            return Ok(());
        }
        let mut blobs: BTreeMap<Oid, Vec<usize>> = BTreeMap::new();
        for (index, txn) in held {
            let keeps = self.lanes[*index].reader.storage.capabilities().blobs;
            for record in txn.records.iter().filter(|_| keeps) {
                if matches!(is_blob(record), Ok(true)) {
                    let holders = blobs.entry(record.oid).or_default();
                    // A ZEO server keeps the record of a blob twice.
                    if holders.last() != Some(index) {
                        holders.push(*index);
                    }
                }
            }
        }
        for (oid, holders) in blobs {
            let mut groups: Vec<(Content, Vec<usize>)> = Vec::new();
            for index in holders {
                let Some(content) = self.content(index, oid, tid).await? else {
                    continue;
                };
                match groups.iter_mut().find(|(one, _)| *one == content) {
                    Some((_, group)) => group.push(index),
                    None => groups.push((content, vec![index])),
                }
            }
            self.blobs += 1;
            if groups.len() > 1 {
                let groups = groups.into_iter().map(|(_, group)| group).collect();
                self.differs(tid, Some(oid), Differs::Blob, groups);
            }
        }
        Ok(())
    }

    /// The content of a member's file; none where it could not be asked.
    async fn content(
        &mut self,
        index: usize,
        oid: Oid,
        tid: Tid,
    ) -> Result<Option<Content>, Cancelled> {
        let lane = &mut self.lanes[index];
        if !lane.is_compared() {
            return Ok(None);
        }
        let storage = &*lane.reader.storage;
        let load = storage.load_blob(oid, tid);
        let loaded = crate::task::select! {
            () = self.work.stop().requested() => return Err(Cancelled),
            loaded = self.runner.while_it_answers(storage, "sendBlob", load) => loaded,
        };
        let blob = match loaded {
            Ok(blob) => blob,
            Err(StorageError::Answer(Answer::NoSuchObject(_) | Answer::Unsupported(_))) => {
                return Ok(Some(None));
            }
            Err(error) => {
                lane.fail(error);
                return Ok(None);
            }
        };
        let (transactions, bytes) = (0, blob.len());
        self.work
            .allow(Amount {
                transactions,
                bytes,
            })
            .await?;
        match digest(blob).await {
            Ok(digest) => Ok(Some(Some((bytes, digest)))),
            Err(fault) => {
                lane.fail(fault.into());
                Ok(None)
            }
        }
    }

    /// Notes a difference. The groups are of members that hold the same.
    fn differs(&mut self, tid: Tid, oid: Option<Oid>, what: Differs, mut groups: Vec<Vec<usize>>) {
        // The largest first; of two that are as large the one that was first.
        groups.sort_by_key(|group| std::cmp::Reverse(group.len()));
        let all: usize = groups.iter().map(Vec::len).sum();
        let majority = groups[0].len() * 2 > all;
        if majority {
            for index in groups[1..].iter().flatten() {
                self.lanes[*index].contradicted += 1;
            }
        }
        let named = |group: &Vec<usize>| {
            let names = group.iter().map(|index| self.lanes[*index].name.clone());
            names.collect()
        };
        let difference = Difference {
            tid,
            oid,
            what,
            groups: groups.iter().map(named).collect(),
            majority,
        };
        self.count += 1;
        if self.differences.len() < LISTED {
            tracing::error!(?difference, "members differ");
            self.differences.push(difference);
        }
    }
}

fn is_packed(txn: &HistoryTxn) -> bool {
    txn.meta.status == TxnStatus::Packed
}

/// Whether packing may have taken out records that others still have: those are no difference by
/// themselves.
fn is_partly_packed(held: &[(usize, HistoryTxn)]) -> bool {
    held.iter().any(|(_, txn)| is_packed(txn))
        && held.windows(2).any(|pair| {
            let (one, other) = (by_object(&pair[0].1), by_object(&pair[1].1));
            !one.keys().eq(other.keys())
        })
}

/// Whether a record that is a piece of a file can be read.
fn is_readable(record: &HistoryRecord) -> Result<(), Fault> {
    const STEP: usize = 1 << 20;
    let Some(data) = record.data.payload() else {
        return Ok(());
    };
    if data.in_memory().is_some() {
        return Ok(());
    }
    let mut piece = vec![0; STEP];
    let mut at = 0;
    while at < data.len() {
        let step = STEP.min(data.len() - at);
        data.read_at(at, &mut piece[..step])
            .map_err(|error| Fault::io("reading a record", error))?;
        at += step;
    }
    Ok(())
}
