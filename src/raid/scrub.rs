//! A scrub: all optimal members' histories are read side by side and compared, while clients go on.
//!
//! Every transaction up to the head of the beginning: what it says of itself, which objects it wrote, the
//! data of each, and the files of blobs. Members may differ in what packing removed, which is judged as
//! in a recovery: a transaction or a record that a member lacks is packed away where what follows there
//! is marked as packed, and every object of it has a later revision there or is gone.
//!
//! Nothing is changed and nobody is taken out. What more than half of the members agree on is taken for
//! right; between two nobody can tell, unless one of them cannot read what it holds. Damage in one place
//! does not end it: what that member cannot give of what the others hold is a difference, too.
//! Memory: a transaction of each member at a time.
//!
//! What the last one found is kept until it is mended ([`kept`]).

mod kept;
mod lane;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::future::join_all;

use super::Notice;
use super::backup::Held;
use super::controller::Reading;
use super::recovery::{
    by_object, digest, is_blob, is_emptied, is_packed_away, same, same_meta, same_record,
};
use super::report::{Difference, Differs, Refused, ScrubReport};
use super::runner::Runner;
use crate::job::{Amount, Cancelled, JobHandle, Rate, Work};
use crate::storage::{Answer, Fault, StorageError};
use crate::zodb::{HistoryRecord, HistoryTxn, Oid, Tid, TxnStatus};
pub use kept::Scrubbed;
pub(super) use kept::keep_scrubbed;
use lane::{Lane, Read};

/// How many differences are listed.
const LISTED: usize = 100;
/// A transaction with more records is told of as a whole where it cannot be read: each would be asked for
/// by itself.
const ASKED: usize = 10_000;

/// The scrub that runs, or ended last.
pub(super) struct LastScrub {
    report: ScrubReport,
    handle: JobHandle,
    /// Who was compared with whom, or made anew from it, while it runs: what it found before counts no more.
    recovered: Vec<(String, String)>,
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
        let lanes = view.readers.iter().map(|reader| {
            let name = core.controller.name(reader.member);
            Lane::new(name, reader.clone())
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
            recovered: Vec::new(),
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
        undecided: BTreeSet::new(),
        complete: false,
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
    /// Those of which as many say one thing as another.
    undecided: BTreeSet<usize>,
    /// Two at least were compared to the end.
    complete: bool,
}

impl Job {
    async fn run(mut self, held: Held) {
        let cancelled = self.compare().await.is_err();
        let mut suspects = Vec::new();
        let mut found = (!cancelled).then(|| self.found());
        let mut report = |core: &mut super::runner::Core, job: &Job| {
            if let Some(scrub) = &mut core.scrub {
                let recovered = std::mem::take(&mut scrub.recovered);
                if let Some(mut found) = found.take() {
                    for (member, source) in &recovered {
                        found.mend(member, source);
                    }
                    suspects.clone_from(&found.suspects);
                    let kept =
                        |kept: &mut Option<Scrubbed>| *kept = Some(found.after(kept.as_ref()));
                    job.runner.scrubbed.send_modify(kept);
                }
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
        let why = |lane: &Lane| Some(format!("{}: {}", lane.name, lane.trouble()?));
        self.runner.notice(Notice::ScrubDone {
            members: self.lanes.iter().map(|lane| lane.name.clone()).collect(),
            transactions: self.transactions,
            differences: self.count,
            suspects,
            left_out: self.lanes.iter().filter_map(why).collect(),
        });
    }

    /// What is kept of it.
    fn found(&self) -> Scrubbed {
        let is_compared = |lane: &&Lane| self.complete && lane.is_compared();
        let named = |lanes: Vec<&Lane>| lanes.iter().map(|lane| lane.name.clone()).collect();
        let (members, left_out) = self.lanes.iter().partition(is_compared);
        let suspects = self.lanes.iter().filter(|lane| lane.report().is_suspect());
        let undecided = self.undecided.iter().map(|index| &self.lanes[*index]);
        Scrubbed {
            ended: crate::clock::now(),
            head: self.head,
            transactions: self.transactions,
            blobs: self.blobs,
            differences: self.count,
            members: named(members),
            left_out: named(left_out),
            suspects: named(suspects.collect()),
            undecided: named(undecided.collect()),
            mended: Vec::new(),
        }
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
                self.complete = true;
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

    /// Those that do not have the transaction, and not because it was packed away; and those that have it in
    /// what they cannot read.
    async fn who_lacks_it(&mut self, tid: Tid, held: &[(usize, HistoryTxn)]) {
        let Some((_, example)) = held.first() else {
            return;
        };
        let runner = Arc::clone(&self.runner);
        let emptied = held.iter().any(|(_, txn)| is_emptied(txn));
        let written = held.iter().flat_map(|(_, txn)| &txn.records);
        let written: BTreeSet<Oid> = written.map(|record| record.oid).collect();
        let (mut lacking, mut unreadable) = (Vec::new(), Vec::new());
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            if !lane.is_compared() || held.iter().any(|(holder, _)| *holder == index) {
                continue;
            }
            let mut rightly = lane.is_within_packed() || (emptied && lane.is_behind_packed());
            for oid in &written {
                rightly = rightly && lane.may_lack(&runner, *oid, tid).await;
            }
            if rightly || !lane.is_compared() {
                continue;
            }
            if lane.is_within_gap() {
                unreadable.push(index);
            } else {
                lacking.push(index);
            }
        }
        let holders: Vec<usize> = held.iter().map(|(index, _)| *index).collect();
        if !lacking.is_empty() {
            self.differs(tid, None, Differs::Missing, vec![holders.clone(), lacking]);
        }
        self.ask_one_by_one(tid, example, &holders, &unreadable)
            .await;
    }

    /// Which records of a transaction are wrong that some cannot give as a whole.
    async fn ask_one_by_one(
        &mut self,
        tid: Tid,
        example: &HistoryTxn,
        holders: &[usize],
        unreadable: &[usize],
    ) {
        let runner = Arc::clone(&self.runner);
        let mut named: BTreeSet<usize> = BTreeSet::new();
        let records = by_object(example);
        for (oid, record) in records.iter().filter(|_| records.len() <= ASKED) {
            let (mut other, mut not) = (Vec::new(), Vec::new());
            for index in unreadable {
                match self.lanes[*index].read(&runner, tid, record).await {
                    Read::Same => {}
                    Read::Other => other.push(*index),
                    Read::Not => not.push(*index),
                }
            }
            named.extend(other.iter().chain(&not));
            for (what, of) in [(Differs::Record, other), (Differs::Unreadable, not)] {
                if !of.is_empty() {
                    self.differs(tid, Some(*oid), what, vec![holders.to_vec(), of]);
                }
            }
        }
        // What is around their records is wrong.
        let is_left = |index: &usize| !named.contains(index) && self.lanes[*index].is_compared();
        let as_a_whole: Vec<usize> = unreadable.iter().copied().filter(is_left).collect();
        if !as_a_whole.is_empty() {
            let groups = vec![holders.to_vec(), as_a_whole];
            self.differs(tid, None, Differs::Unreadable, groups);
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
            let mut unreadable = Vec::new();
            for (index, packed, map) in &maps {
                let record = map.get(&oid).copied();
                let lane = &mut self.lanes[*index];
                if record.is_none() && *packed && lane.may_lack(&runner, oid, tid).await {
                    continue;
                }
                if let Some(Err(fault)) = record.map(is_readable) {
                    if lane.cannot_read(fault.into()) {
                        unreadable.push(*index);
                    }
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
            let groups: Vec<_> = groups.into_iter().map(|(_, group)| group).collect();
            self.cannot_read(tid, oid, &groups, unreadable);
            if groups.len() > 1 {
                self.differs(tid, Some(oid), Differs::Record, groups);
            }
        }
    }

    /// Notes who cannot read what the groups hold.
    fn cannot_read(&mut self, tid: Tid, oid: Oid, groups: &[Vec<usize>], unreadable: Vec<usize>) {
        if !unreadable.is_empty() {
            let groups = vec![groups.concat(), unreadable];
            self.differs(tid, Some(oid), Differs::Unreadable, groups);
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
            let mut unreadable = Vec::new();
            for index in holders {
                if !self.lanes[index].is_compared() {
                    continue;
                }
                let Some(content) = self.content(index, oid, tid).await? else {
                    unreadable.extend(self.lanes[index].is_compared().then_some(index));
                    continue;
                };
                if content.is_none() && self.was_packed_since(index, oid, tid).await? {
                    continue;
                }
                match groups.iter_mut().find(|(one, _)| *one == content) {
                    Some((_, group)) => group.push(index),
                    None => groups.push((content, vec![index])),
                }
            }
            self.blobs += 1;
            let groups: Vec<_> = groups.into_iter().map(|(_, group)| group).collect();
            self.cannot_read(tid, oid, &groups, unreadable);
            if groups.len() > 1 {
                self.differs(tid, Some(oid), Differs::Blob, groups);
            }
        }
        Ok(())
    }

    /// Whether a member has packed the record of a blob away since it was read.
    async fn was_packed_since(
        &mut self,
        index: usize,
        oid: Oid,
        tid: Tid,
    ) -> Result<bool, Cancelled> {
        let storage = &*self.lanes[index].reader.storage;
        let asked = is_packed_away(storage, oid, tid);
        let packed = crate::task::select! {
            () = self.work.stop().requested() => return Err(Cancelled),
            packed = self.runner.while_it_answers(storage, "loadSerial", asked) => packed,
        };
        // Who cannot be asked fails at the next transaction.
        Ok(packed.unwrap_or(false))
    }

    /// The content of a member's file; none where it cannot be read, or could not be asked: then the member
    /// is not compared any further.
    async fn content(
        &mut self,
        index: usize,
        oid: Oid,
        tid: Tid,
    ) -> Result<Option<Content>, Cancelled> {
        let lane = &mut self.lanes[index];
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
                lane.cannot_read(error);
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
                lane.cannot_read(fault.into());
                Ok(None)
            }
        }
    }

    /// Notes a difference. The groups are of members that hold the same; the last one of those that cannot
    /// read it, where that is the difference.
    fn differs(&mut self, tid: Tid, oid: Option<Oid>, what: Differs, mut groups: Vec<Vec<usize>>) {
        if what != Differs::Unreadable {
            // The largest first; of two that are as large the one that was first.
            groups.sort_by_key(|group| std::cmp::Reverse(group.len()));
        }
        let all: usize = groups.iter().map(Vec::len).sum();
        let majority = groups[0].len() * 2 > all;
        if majority || what == Differs::Unreadable {
            for index in groups[1..].iter().flatten() {
                self.lanes[*index].contradicted += 1;
            }
        } else {
            self.undecided.extend(groups.iter().flatten());
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
            let (oid, what) = (oid.map(tracing::field::display), difference.what);
            let members = difference.members();
            tracing::error!(%tid, oid, %what, members, "members differ");
            self.differences.push(difference);
        }
    }
}

/// A member was compared with another one, or made anew from it: what the last scrub found of it is mended.
pub(super) fn mended(runner: &Runner, member: &str, source: &str) {
    let mut mended = None;
    runner.update(|core| {
        if let Some(scrub) = &mut core.scrub
            && scrub.report.ended.is_none()
        {
            let recovered = (member.to_owned(), source.to_owned());
            scrub.recovered.push(recovered);
        }
        runner.scrubbed.send_if_modified(|kept| {
            let Some(kept) = kept else { return false };
            let changed = kept.mend(member, source);
            mended = (changed && kept.mended.iter().any(|name| name == member))
                .then(|| kept.needs_attention());
            changed
        });
    });
    if let Some(more) = mended {
        let member = member.to_owned();
        runner.notice(Notice::ScrubMended { member, more });
    }
}

/// Of members that may be copied, those that the last scrub found nothing wrong with come first.
pub(super) fn is_suspect(runner: &Runner, member: &str) -> bool {
    let kept = runner.scrubbed.borrow();
    let mut suspects = kept.iter().flat_map(|kept| &kept.suspects);
    suspects.any(|name| name == member)
}

/// Whether the last scrub found something wrong with a member, or could not tell.
pub(super) fn is_doubted(runner: &Runner, member: &str) -> bool {
    let kept = runner.scrubbed.borrow();
    kept.as_ref().is_some_and(|kept| kept.doubts(member))
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
