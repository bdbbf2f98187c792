//! The handle of an array: a storage for clients, commands for operators.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use super::buffer::Buffer;
use super::controller::{CommitId, Controller, Ended, Event, Link, Now, Rules, State, VoteReply};
use super::options::{ArrayOptions, ClusterMode, MemberSpec};
use super::read::not_serving;
use super::recovery;
use super::report::{
    AnalysisReport, ArrayReport, ArrayState, LockReport, MemberReport, MemberState,
    RecoveryOutcome, RecoveryReport, Refused, Serving, Strategy,
};
use super::runner::{Ballots, Core, Runner, configured};
use super::{NoticeSink, RecordError, RecordStore};
use crate::job::Rate;
use crate::storage::{
    Answer, Capabilities, CurrentRecord, Description, Extent, Fault, Finishing, History,
    Invalidations, Loaded, Result, Revision, SetAside, Size, Storage, StorageError, Transaction,
    TxnToken, Vote, Voted,
};
use crate::task::StillRunning;
use crate::zodb::{HistoryTxn, Oid, Op, Tid, TidRange, TxnMeta};

/// How long the start waits for the other members of the in-sync set once one is open.
const START_GRACE: Duration = Duration::from_secs(3);

/// An array. Clones are handles of the same one.
#[derive(Clone)]
pub struct Array(pub(super) Arc<Runner>);

impl Array {
    /// Starts the array: reads the membership record and opens the members in the background. It
    /// serves when [`serving`](Self::serving) says so.
    ///
    /// # Errors
    /// Where the membership record cannot be read.
    pub async fn start(
        options: ArrayOptions,
        members: Vec<MemberSpec>,
        record: Arc<dyn RecordStore>,
        notices: NoticeSink,
    ) -> std::result::Result<Array, RecordError> {
        let store = Arc::clone(&record);
        let recorded = tokio::task::spawn_blocking(move || store.load()).await;
        let recorded = recorded.unwrap_or_else(|ended| Err(RecordError::interrupted(&ended)))?;
        let rules = Rules {
            array: options.name.clone(),
            cluster_mode: options.cluster_mode,
            start_policy: options.start_policy,
            force: options.force,
            min_optimal: options.min_optimal,
            fail_mode: options.fail_mode,
            transaction_timeout: options.transaction_timeout,
            catch_up_limit: options.catch_up_limit,
            level_limit: options.member_timeout,
            auto_recover: options.auto_recover,
            start_grace: START_GRACE,
        };
        let configured = members.iter().map(configured).collect();
        let controller = Controller::new(rules, configured, recorded, Now::read());
        let runner = Runner::new(options, controller, members, notices);
        runner.start(record);
        Ok(Array(runner))
    }

    /// Whether clients can be served, and its changes.
    #[must_use]
    pub fn serving(&self) -> watch::Receiver<Serving> {
        self.0.serving()
    }

    /// Everything that there is to say.
    #[must_use]
    pub fn report(&self) -> ArrayReport {
        let size = self.size();
        let counters = &self.0.counters;
        let per_second = |rate: u64| rate as f64 / 1000.0;
        self.0.look(|core| {
            let controller = &core.controller;
            let members: Vec<MemberReport> = controller
                .members
                .keys()
                .filter_map(|id| member_report(core, *id))
                .collect();
            let state = controller.state();
            ArrayReport {
                name: self.0.options.name.clone(),
                uuid: controller.array,
                state,
                line: line(state, &controller.serving, &members),
                serving: controller.serving.clone(),
                epoch: controller.epoch,
                since: controller.since,
                head: controller.head,
                size,
                loads: counters.loads.load(Ordering::Relaxed),
                commits: counters.commits.load(Ordering::Relaxed),
                loads_per_s: per_second(counters.loads_rate.load(Ordering::Relaxed)),
                commits_per_s: per_second(counters.commits_rate.load(Ordering::Relaxed)),
                lock: LockReport {
                    held_for: controller.lock_held_for(Instant::now()),
                    waiting: controller.waiting() as u64,
                },
                members,
                recovery: recovery_report(core),
            }
        })
    }

    /// Recovers a member, at once or after the recoveries that were asked for before.
    pub fn recover(
        &self,
        member: &str,
        strategy: Strategy,
        rate: Option<Rate>,
    ) -> std::result::Result<(), Refused> {
        let member = member.to_owned();
        self.0
            .feed(Event::RecoverAsked {
                member,
                strategy,
                rate,
            })
            .map(drop)
    }

    /// Changes the speed of the recovery that runs.
    pub fn set_recovery_rate(&self, rate: Rate) -> std::result::Result<(), Refused> {
        self.0.look(|core| match &core.recovery {
            Some(recovery) if recovery.ended.is_none() => {
                recovery.handle.set_rate(rate);
                Ok(())
            }
            _ => Err(Refused::NoRecovery),
        })
    }

    /// Cancels the recovery that runs, and those that wait.
    pub fn cancel_recovery(&self) -> std::result::Result<(), Refused> {
        self.0.feed(Event::CancelAsked).map(drop)
    }

    /// Finds out what a recovery of this member would have to do, and changes nothing.
    pub async fn analyse(&self, member: &str) -> std::result::Result<AnalysisReport, Refused> {
        recovery::analyse(&self.0, member).await
    }

    /// Takes a member out until an operator recovers it, and closes it.
    pub fn disable(&self, member: &str) -> std::result::Result<(), Refused> {
        self.0
            .feed(Event::DisableAsked {
                member: member.to_owned(),
            })
            .map(drop)
    }

    /// Adds and removes members so that they are these: new ones are degraded and recovered, those
    /// with another fingerprint are opened anew. With `dry_run` only says what it would do. Gives
    /// the names of those added and those removed.
    ///
    /// # Errors
    /// Where no optimal member would remain; then nothing is done.
    pub fn set_members(
        &self,
        members: Vec<MemberSpec>,
        dry_run: bool,
    ) -> std::result::Result<(Vec<String>, Vec<String>), Refused> {
        let changes = self.0.feed_members(members, dry_run)?;
        Ok((changes.added, changes.removed))
    }

    /// Stops: no commit begins, those in hand are finished, jobs and members are closed. Of the time
    /// until the deadline a third is kept for the closing: a client that has voted and does not
    /// finish must not be the reason why a member is not closed properly.
    pub async fn shutdown(&self, deadline: Duration) -> std::result::Result<(), StillRunning> {
        let start = tokio::time::Instant::now();
        let (in_hand, until) = (start + deadline * 2 / 3, start + deadline);
        self.0.feed(Event::StopAsked).ok();
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        while !self.0.look(|core| core.controller.is_idle())
            && tokio::time::Instant::now() < in_hand
        {
            ticks.tick().await;
        }
        // Keeps the head in the record: the next start knows by it whether a copy is what it was.
        self.0.feed(Event::StopAsked).ok();
        self.0.publisher.cut_off();
        self.0
            .tasks
            .shutdown(until.saturating_duration_since(tokio::time::Instant::now()))
            .await
    }
}

#[async_trait]
impl Storage for Array {
    fn describe(&self) -> Description {
        Description {
            kind: "array",
            location: self.0.options.name.clone(),
        }
    }

    fn capabilities(&self) -> Capabilities {
        let view = self.0.view();
        Capabilities {
            pipelined: true,
            rewind: false,
            undo: !view.readers.is_empty()
                && view
                    .readers
                    .iter()
                    .all(|reader| reader.storage.capabilities().undo),
            blobs: false,
            pack: false,
            shared: false,
            read_only: matches!(view.serving, Serving::ReadOnly { .. }),
        }
    }

    fn size(&self) -> Size {
        self.0
            .view()
            .readers
            .first()
            .map(|reader| reader.storage.size())
            .unwrap_or_default()
    }

    async fn last_tid(&self) -> Result<Tid> {
        let view = self.0.view();
        if view.serving.can_read() {
            Ok(view.head)
        } else {
            Err(not_serving(&view).into())
        }
    }

    async fn newest_tid(&self) -> Result<Tid> {
        match self.0.options.cluster_mode {
            ClusterMode::Single => self.last_tid().await,
            ClusterMode::Coop => self.0.newest().await,
        }
    }

    async fn load_before(&self, oid: Oid, before: Tid) -> Result<Option<Loaded>> {
        self.0.load_before(oid, before).await
    }

    async fn load_serial(&self, oid: Oid, serial: Tid) -> Result<Bytes> {
        let view = self.0.view();
        if serial > view.head {
            return Err(Answer::NoSuchObject(oid).into());
        }
        self.0
            .ask_all(
                &view,
                oid,
                "loadSerial",
                |_: &Bytes| false,
                move |storage| Box::pin(async move { storage.load_serial(oid, serial).await }),
            )
            .await
    }

    async fn current_tid(&self, oid: Oid) -> Result<Tid> {
        let loaded = self.load_before(oid, Tid::MAX).await?;
        loaded
            .map(|loaded| loaded.tid)
            .ok_or_else(|| Answer::NoSuchObject(oid).into())
    }

    async fn new_oids(&self, count: usize, after: Oid) -> Result<Vec<Oid>> {
        // Members count by themselves; what one gave out, no other may give out after a failure.
        let mut floor = self.0.oid_floor.lock().await;
        let after = after.max(*floor);
        let view = self.0.view();
        let oids = self
            .0
            .ask(&view, after, "new_oids", move |storage| {
                Box::pin(async move { storage.new_oids(count, after).await })
            })
            .await?;
        *floor = oids.iter().copied().max().unwrap_or(*floor).max(*floor);
        Ok(oids)
    }

    async fn history(&self, oid: Oid, count: usize) -> Result<Vec<Revision>> {
        let view = self.0.view();
        let head = view.head;
        // A member may hold a few revisions that are not acknowledged yet.
        let asked = count.saturating_add(8);
        let mut revisions = self
            .0
            .ask_all(
                &view,
                oid,
                "history",
                |_: &Vec<Revision>| false,
                move |storage| Box::pin(async move { storage.history(oid, asked).await }),
            )
            .await?;
        revisions.retain(|revision| revision.tid <= head);
        if revisions.is_empty() {
            return Err(Answer::NoSuchObject(oid).into());
        }
        revisions.truncate(count);
        Ok(revisions)
    }

    async fn record_from(&self, from: Oid) -> Result<Option<CurrentRecord>> {
        let view = self.0.view();
        let mut from = from;
        loop {
            let record = self
                .0
                .ask(&view, from, "record_iternext", move |storage| {
                    Box::pin(async move { storage.record_from(from).await })
                })
                .await?;
            let Some(mut record) = record else {
                return Ok(None);
            };
            if record.tid <= view.head {
                return Ok(Some(record));
            }
            // Not acknowledged yet: what was current as of the head, or nothing for a new object.
            if let Some(loaded) = self.load_before(record.oid, view.head.next()).await? {
                record.tid = loaded.tid;
                record.data = loaded.data;
                return Ok(Some(record));
            }
            let Some(next) = record.next else {
                return Ok(None);
            };
            from = next;
        }
    }

    async fn iterate(&self, range: TidRange) -> Result<Box<dyn History>> {
        let view = self.0.view();
        let range = TidRange {
            first: range.first,
            last: range.last.min(view.head),
        };
        let runner = Arc::clone(&self.0);
        Ok(Box::new(ArrayHistory {
            runner,
            range,
            open: None,
        }))
    }

    async fn tids_before(&self, before: Tid, count: usize) -> Result<Vec<Tid>> {
        let view = self.0.view();
        let before = before.min(view.head.next());
        self.0
            .ask(&view, Oid::ROOT, "the last transactions", move |storage| {
                Box::pin(async move { storage.tids_before(before, count).await })
            })
            .await
    }

    async fn measure_after(&self, after: Tid) -> Result<Extent> {
        let view = self.0.view();
        self.0
            .ask(
                &view,
                Oid::ROOT,
                "the extent of the history",
                move |storage| Box::pin(async move { storage.measure_after(after).await }),
            )
            .await
    }

    async fn invalidations_since(&self, since: Tid) -> Result<(Tid, Option<Vec<Oid>>)> {
        let head = self.last_tid().await?;
        Ok((head, self.0.written_since(since, head)))
    }

    fn subscribe(&self) -> Invalidations {
        self.0.publisher.subscribe()
    }

    async fn begin(&self, meta: TxnMeta, tid: Option<Tid>) -> Result<Box<dyn Transaction>> {
        let view = self.0.view();
        match &view.serving {
            Serving::Yes => {}
            Serving::ReadOnly { .. } => return Err(Answer::ReadOnly.into()),
            _ => return Err(not_serving(&view).into()),
        }
        Ok(Box::new(ArrayTransaction {
            guard: Guard::new(Arc::clone(&self.0)),
            token: TxnToken::new(),
            meta,
            wanted: tid,
            buffer: Buffer::new(self.0.options.spool.clone()),
        }))
    }

    async fn restore(&self, _: Vec<HistoryTxn>) -> Result<()> {
        Err(Answer::Unsupported("restoring whole transactions into an array").into())
    }

    async fn rewind(&self, _: Option<Tid>) -> Result<SetAside> {
        Err(Answer::Unsupported("rewinding an array").into())
    }

    async fn close(&self) {
        const PATIENCE: Duration = Duration::from_secs(30);
        if let Err(late) = self.shutdown(PATIENCE).await {
            tracing::warn!(array = self.0.options.name, "{late}");
        }
    }
}

/// Tells the controller when a transaction is dropped before its end.
struct Guard {
    runner: Arc<Runner>,
    commit: CommitId,
    /// It was asked to vote, so the controller knows it.
    known: bool,
}

impl Guard {
    fn new(runner: Arc<Runner>) -> Self {
        let commit = runner.new_commit_id();
        Guard {
            runner,
            commit,
            known: false,
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.known {
            self.runner.gone(self.commit);
        }
    }
}

struct ArrayTransaction {
    guard: Guard,
    token: TxnToken,
    meta: TxnMeta,
    wanted: Option<Tid>,
    buffer: Buffer,
}

#[async_trait]
impl Transaction for ArrayTransaction {
    fn token(&self) -> TxnToken {
        self.token
    }

    async fn store(&mut self, op: Op) -> Result<()> {
        Ok(self.buffer.push(op).await?)
    }

    async fn vote(mut self: Box<Self>) -> Result<Vote> {
        self.guard.known = true;
        let reply = self.guard.runner.vote(Ballots {
            commit: self.guard.commit,
            token: self.token,
            meta: self.meta.clone(),
            ops: self.buffer.ops().into(),
            oids: self.buffer.oids(),
            wanted: self.wanted,
            bytes: self.buffer.bytes(),
        });
        match reply.await {
            Ok(VoteReply::Ready { tid, resolved }) => Ok(Vote::Ready(Box::new(ArrayVoted {
                guard: self.guard,
                tid,
                resolved,
            }))),
            Ok(VoteReply::Conflicts(conflicts)) => {
                let oids: Vec<Oid> = conflicts.iter().map(|conflict| conflict.oid).collect();
                self.buffer.drop_stores(&oids);
                Ok(Vote::Conflicts(self, conflicts))
            }
            Ok(VoteReply::No(answer)) => Err(answer.into()),
            Ok(VoteReply::Fault(fault)) => Err(fault.into()),
            Err(_) => Err(Fault::Timeout {
                what: "the client between vote and finish",
                after: self.guard.runner.options.transaction_timeout,
            }
            .into()),
        }
    }
}

struct ArrayVoted {
    guard: Guard,
    tid: Tid,
    resolved: Vec<Oid>,
}

impl Voted for ArrayVoted {
    fn tid(&self) -> Option<Tid> {
        Some(self.tid)
    }

    fn resolved(&self) -> &[Oid] {
        &self.resolved
    }

    fn finish(mut self: Box<Self>) -> Finishing {
        // From here on it is finished, whoever goes away.
        self.guard.known = false;
        let reply = self.guard.runner.finish(self.guard.commit);
        Box::pin(async move {
            match reply.await {
                Ok(Ok(tid)) => Ok(tid),
                Ok(Err(fault)) => Err(fault.into()),
                Err(_) => Err(Fault::Closed("the daemon is shutting down".into()).into()),
            }
        })
    }
}

/// An iteration that goes on with another member where one fails.
struct ArrayHistory {
    runner: Arc<Runner>,
    /// What is still to be given.
    range: TidRange,
    open: Option<(super::view::Reader, Box<dyn History>)>,
}

#[async_trait]
impl History for ArrayHistory {
    async fn next(&mut self) -> Result<Option<HistoryTxn>> {
        loop {
            if self.range.first > self.range.last {
                return Ok(None);
            }
            let (reader, mut history) = match self.open.take() {
                Some(open) => open,
                None => open_history(&self.runner, self.range).await?,
            };
            let timeout = self.runner.options.member_timeout;
            let next = tokio::time::timeout(timeout, history.next()).await;
            let next = next.unwrap_or_else(|_| Err(self.runner.timeout("an iteration").into()));
            match next {
                Ok(Some(transaction)) => {
                    self.range.first = transaction.tid.next();
                    self.open = Some((reader, history));
                    return Ok(Some(transaction));
                }
                Err(StorageError::Fault(fault)) => {
                    self.runner.lost(reader.member, reader.generation, fault);
                }
                end => return end,
            }
        }
    }
}

async fn open_history(
    runner: &Runner,
    range: TidRange,
) -> Result<(super::view::Reader, Box<dyn History>)> {
    let view = runner.view();
    let reader = view
        .readers
        .first()
        .filter(|_| view.serving.can_read())
        .cloned();
    let reader = reader.ok_or_else(|| not_serving(&view))?;
    let history = reader.storage.iterate(range).await?;
    Ok((reader, history))
}

fn member_report(core: &Core, id: super::controller::MemberId) -> Option<MemberReport> {
    let member = core.controller.members.get(&id)?;
    let handle = core.members.get(&id)?;
    let out = member.out();
    Some(MemberReport {
        name: member.name.clone(),
        state: match member.standing {
            State::InSync => MemberState::Optimal,
            State::Degraded(_) => MemberState::Degraded,
            State::Recovering(_) => MemberState::Recovering,
        },
        description: member.description.clone(),
        since: member.since,
        reason: out.map(|out| out.reason.clone()),
        needs_operator: out.is_some_and(|out| out.needs_operator),
        next_try: match member.link {
            Link::Opening { .. } => handle
                .next_try
                .map(|at| at.saturating_duration_since(Instant::now())),
            _ => None,
        },
        last_tid: if member.is_in_sync() {
            Some(core.controller.head)
        } else {
            member.last_tid()
        },
        lag: out.and(member.lacks),
        latency: handle.stats.latency(),
        reads: handle.stats.reads.load(Ordering::Relaxed),
        faults: handle.stats.faults.load(Ordering::Relaxed),
    })
}

fn recovery_report(core: &Core) -> Option<RecoveryReport> {
    let recovery = core.recovery.as_ref()?;
    let queued = core.controller.recovery_queue.iter().filter_map(|wanted| {
        core.controller
            .members
            .get(&wanted.member)
            .map(|member| member.name.clone())
    });
    let outcome = match &recovery.ended {
        None => RecoveryOutcome::Running,
        Some((_, Ended::Done)) => RecoveryOutcome::Done,
        Some((_, Ended::Cancelled)) => RecoveryOutcome::Cancelled,
        Some((_, Ended::Failed { reason })) => RecoveryOutcome::Failed {
            reason: reason.clone(),
            next: Some("it is tried again by itself; see: zeoraidctl details".into()),
        },
        Some((_, Ended::Stuck { reason })) => RecoveryOutcome::Failed {
            reason: reason.clone(),
            next: Some(format!("zeoraidctl recover --rebuild {}", recovery.name)),
        },
    };
    Some(RecoveryReport {
        id: recovery.id,
        member: recovery.name.clone(),
        source: recovery.source.clone(),
        strategy: recovery.strategy,
        outcome,
        progress: recovery.handle.progress(),
        rate: recovery.handle.rate(),
        started: recovery.started,
        ended: recovery.ended.as_ref().map(|(at, _)| *at),
        set_aside: recovery.set_aside.clone(),
        queued: queued.collect(),
    })
}

/// The state in a line for people.
fn line(state: ArrayState, serving: &Serving, members: &[MemberReport]) -> String {
    let out: Vec<&MemberReport> = members
        .iter()
        .filter(|member| member.state != MemberState::Optimal)
        .collect();
    let named = out.iter().map(|member| {
        let reason = member.reason.as_deref().unwrap_or("out");
        format!("{}: {reason}", member.name)
    });
    let named = named.collect::<Vec<_>>().join("; ");
    match (state, serving) {
        (ArrayState::Optimal, _) => "optimal".into(),
        (ArrayState::Degraded, _) => {
            format!(
                "degraded: {} of {} members out ({named})",
                out.len(),
                members.len()
            )
        }
        (ArrayState::Recovering, _) => {
            let who = out
                .iter()
                .find(|member| member.state == MemberState::Recovering);
            let who = who.map(|member| member.name.as_str()).unwrap_or_default();
            format!(
                "recovering: {who}, {} of {} members out",
                out.len(),
                members.len()
            )
        }
        (ArrayState::Failed, Serving::Starting { waits_for }) => {
            format!("failed: starting, waits for {waits_for}")
        }
        (ArrayState::Failed, Serving::No { reason } | Serving::ReadOnly { reason }) => {
            format!("failed: {reason}")
        }
        (ArrayState::Failed, Serving::Yes) => "failed".into(),
    }
}
