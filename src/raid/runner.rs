//! The runner does what the controller decides.
//!
//! Whoever brings an event feeds it to the controller under one lock and carries out the effects
//! before letting go of it; every effect is quick (a message sent, a task started, a state
//! published), so there is no queue between deciding and doing, and effects happen in the order in
//! which they were decided. Votes and finishes run as tasks and come back as events.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::backup::LastBackup;
use super::blobs::Blobs;
use super::buffer::InMemory;
use super::cache::RecordCache;
use super::controller::{
    Asked, Ballot, CommitId, Configured, Controller, Effect, Event, Generation, MemberId, Now,
    VoteReply,
};
use super::member::{AskSetAside, Link, Want};
use super::options::{ArrayOptions, MemberSpec};
use super::pack::{LastPack, undo_is_disabled};
use super::read::not_serving;
use super::recovery::{self, LastRecovery};
use super::report::Serving;
use super::scrub::{LastScrub, Scrubbed, keep_scrubbed};
use super::view::{MemberStats, Published, Reader, View};
use super::{Membership, Notice, NoticeSink, RecordStore, Severity};
use crate::storage::{
    Answer, Committed, Fault, Invalidations, Operations, Publisher, Result, Storage, StorageError,
    TxnToken, Vote, Voted,
};
use crate::task::{Stop, Tasks};
use crate::zodb::{Oid, Tid, TxnMeta};

/// The queue that clients verify their caches with has so many objects at most, unless a single
/// transaction wrote more: 8 MiB of them.
const MOST_OBJECTS: usize = 1 << 20;

/// All that an array's tasks share.
pub(super) struct Runner {
    pub options: ArrayOptions,
    core: Mutex<Core>,
    view: ArcSwap<Published>,
    pub cache: RecordCache,
    pub publisher: Publisher,
    /// The last transactions, oldest first: clients verify their caches with them.
    recent: Mutex<VecDeque<Committed>>,
    serving: watch::Sender<Serving>,
    notices: NoticeSink,
    recorder: watch::Sender<Option<Membership>>,
    pub tasks: Tasks,
    /// Rises when a member was opened or could not be.
    links: watch::Sender<u64>,
    pub counters: Counters,
    pub oid_floor: tokio::sync::Mutex<Oid>,
    next_commit: AtomicU64,
    pub blobs: Blobs,
    /// What the last scrub found; written beside the membership record.
    pub scrubbed: watch::Sender<Option<Scrubbed>>,
    /// What transactions have in memory before their votes.
    pub in_memory: InMemory,
    /// When it was told last that members disagree on a read.
    disagreed: Mutex<Option<Instant>>,
}

/// How often it is told that members disagree on reads: each read may find it anew.
const DISAGREEMENTS: Duration = Duration::from_mins(1);

/// What is counted since the start.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub loads: AtomicU64,
    pub commits: AtomicU64,
    /// Transactions of other daemons.
    pub foreign: AtomicU64,
    /// Per second, times 1000, over the last seconds.
    pub loads_rate: AtomicU64,
    pub commits_rate: AtomicU64,
}

/// What is behind the lock.
pub(super) struct Core {
    pub controller: Controller,
    pub live: BTreeMap<CommitId, Live>,
    pub members: BTreeMap<MemberId, Handle>,
    /// The configured members, for those that the controller adds.
    specs: Vec<MemberSpec>,
    next_generation: u64,
    pub recovery: Option<LastRecovery>,
    pub recoveries: u64,
    pub pack: Option<LastPack>,
    pub backup: Option<LastBackup>,
    pub scrub: Option<LastScrub>,
    catch_ups: BTreeMap<CommitId, mpsc::Sender<CatchUp>>,
}

/// A member, on the side that does.
pub(super) struct Handle {
    pub spec: MemberSpec,
    pub stats: Arc<MemberStats>,
    pub storage: Option<(Generation, Arc<dyn Storage>)>,
    /// What others write to it, where they may; see `foreign`.
    pub told: Option<Invalidations>,
    pub last_fault: Option<Fault>,
    /// It writes to what the next opening would not find, and the array hinges on it.
    pub displaced: bool,
    pub next_try: Option<Instant>,
    retry: Arc<Notify>,
    /// Asks the member's task to set its copy aside.
    pub set_aside: mpsc::Sender<AskSetAside>,
    want: watch::Sender<Want>,
    stop: Stop,
}

/// A transaction between its vote and its end.
pub(super) struct Live {
    token: TxnToken,
    meta: TxnMeta,
    ops: Arc<Operations>,
    oids: Vec<Oid>,
    /// How long a member may take over it, in bytes that it would take in meanwhile.
    effort: u64,
    /// Ends the votes of this round; the next one follows the same owner.
    round: Stop,
    owner: Stop,
    /// In order, so that they are given back in order: in a simulation every run is the same then.
    voted: BTreeMap<MemberId, Box<dyn Voted>>,
    vote_reply: Option<oneshot::Sender<VoteReply>>,
    finish_reply: Option<oneshot::Sender<std::result::Result<Tid, Fault>>>,
}

/// What a recovery is told of the commit lock.
#[derive(Debug)]
pub(super) enum CatchUp {
    Granted { head: Tid, until: Instant },
    Refused { reason: String },
    Joined,
}

/// A transaction that asks for its vote.
pub(super) struct Ballots {
    pub commit: CommitId,
    pub token: TxnToken,
    pub meta: TxnMeta,
    pub ops: Arc<Operations>,
    pub oids: Vec<Oid>,
    pub wanted: Option<Tid>,
    pub bytes: u64,
    /// How long a member may take over it, in bytes that it would take in meanwhile.
    pub effort: u64,
}

impl Runner {
    pub(super) fn new(
        options: ArrayOptions,
        controller: Controller,
        specs: Vec<MemberSpec>,
        notices: NoticeSink,
        blobs: Blobs,
        scrubbed: Option<Scrubbed>,
    ) -> Arc<Runner> {
        let serving = controller.serving.clone();
        let view = Published {
            serving: serving.clone(),
            readers: Arc::new([]),
            packed: controller.packed,
        };
        let core = Core {
            controller,
            live: BTreeMap::new(),
            members: BTreeMap::new(),
            specs,
            next_generation: 0,
            recovery: None,
            recoveries: 0,
            pack: None,
            backup: None,
            scrub: None,
            catch_ups: BTreeMap::new(),
        };
        Arc::new(Runner {
            cache: RecordCache::new(options.cache_bytes),
            options,
            core: Mutex::new(core),
            view: ArcSwap::from_pointee(view),
            publisher: Publisher::new(),
            recent: Mutex::default(),
            serving: watch::Sender::new(serving),
            notices,
            recorder: watch::Sender::new(None),
            tasks: Tasks::new("tasks of the array"),
            links: watch::Sender::new(0),
            counters: Counters::default(),
            oid_floor: tokio::sync::Mutex::new(Oid(0)),
            next_commit: AtomicU64::new(1),
            blobs,
            scrubbed: watch::Sender::new(scrubbed),
            in_memory: InMemory::default(),
            disagreed: Mutex::default(),
        })
    }

    /// Carries out what the controller wants at the very beginning, and starts the tasks that every
    /// array has.
    pub(super) fn start(self: &Arc<Self>, record: Arc<dyn RecordStore>) {
        let recorder = Arc::clone(self);
        let pending = self.recorder.subscribe();
        let found = self.scrubbed.subscribe();
        self.tasks.spawn(
            "last scrub",
            keep_scrubbed(Arc::clone(self), Arc::clone(&record), found),
        );
        self.tasks
            .spawn("membership record", recorder.keep_record(record, pending));
        let ticker = Arc::clone(self);
        self.tasks.spawn("clock", ticker.tick());
        let mut core = self.core.lock();
        let effects = core.controller.take_effects();
        self.carry_out(&mut core, effects);
    }

    /// Tells the controller what happened, and does what it decides.
    pub(super) fn feed(self: &Arc<Self>, event: Event) -> Asked {
        let mut core = self.core.lock();
        let (asked, effects) = core.controller.apply(Now::read(), event);
        self.carry_out(&mut core, effects);
        asked
    }

    /// Tells the controller which members are wanted.
    pub(super) fn feed_members(self: &Arc<Self>, specs: Vec<MemberSpec>, dry_run: bool) -> Asked {
        let members = specs.iter().map(configured).collect();
        let mut core = self.core.lock();
        let (asked, effects) = core
            .controller
            .apply(Now::read(), Event::MembersAsked { members, dry_run });
        if asked.is_ok() && !dry_run {
            // The effects name members that only the new list has.
            core.specs = specs;
        }
        self.carry_out(&mut core, effects);
        asked
    }

    /// For those who apply several events in one go. Not to be held across an await.
    pub(super) fn lock_core(&self) -> MutexGuard<'_, Core> {
        self.core.lock()
    }

    /// Looks at the state. `look` must be quick.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Core) -> T) -> T {
        look(&self.core.lock())
    }

    pub(super) fn update<T>(&self, update: impl FnOnce(&mut Core) -> T) -> T {
        update(&mut self.core.lock())
    }

    pub(super) fn view(&self) -> View {
        // In this order: see `View`.
        let head = self.publisher.head();
        View::new(head, self.view.load_full())
    }

    pub(super) fn serving(&self) -> watch::Receiver<Serving> {
        self.serving.subscribe()
    }

    pub(super) fn links(&self) -> watch::Receiver<u64> {
        self.links.subscribe()
    }

    pub(super) fn new_commit_id(&self) -> CommitId {
        CommitId(self.next_commit.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn notice(&self, notice: Notice) {
        if bug!(DegradeSilently) && matches!(notice, Notice::MemberDegraded { .. }) {
            return;
        }
        let array = self.options.name.as_str();
        let member = notice.member().unwrap_or_default();
        let (kind, text) = (notice.kind(), notice.to_string());
        match notice.severity() {
            Severity::Info => tracing::info!(array, member, kind, "{text}"),
            Severity::Warning => tracing::warn!(array, member, kind, "{text}"),
            Severity::Error => tracing::error!(array, member, kind, "{text}"),
        }
        (self.notices)(notice);
    }

    /// Members gave different answers to a read.
    pub(super) fn disagreement(&self, what: &'static str, members: Vec<String>) {
        {
            let mut last = self.disagreed.lock();
            if last.is_some_and(|last| crate::clock::since(last) < DISAGREEMENTS) {
                tracing::debug!(what, ?members, "members disagree again");
                return;
            }
            *last = Some(crate::clock::instant());
        }
        let what = what.to_owned();
        self.notice(Notice::Disagreement { what, members });
    }

    pub(super) fn carry_out(self: &Arc<Self>, core: &mut Core, effects: Vec<Effect>) {
        for effect in effects {
            self.carry_out_one(core, effect);
        }
    }

    fn carry_out_one(self: &Arc<Self>, core: &mut Core, effect: Effect) {
        match effect {
            Effect::Added(member) => self.add_handle(core, member),
            Effect::Open(member) => {
                if let Some(handle) = core.members.get(&member) {
                    handle.want.send_modify(|want| want.open = true);
                    handle.retry.notify_waiters();
                }
            }
            Effect::Close(member) => core.close(member),
            Effect::Remove(member) => {
                core.close(member);
                if let Some(handle) = core.members.remove(&member) {
                    handle.stop.request();
                }
            }
            Effect::Assemble { members } => {
                let members = core.open_storages(&members);
                let runner = Arc::clone(self);
                self.tasks.spawn("comparison of the members", async move {
                    let (found, head) = recovery::assemble(&runner, members).await;
                    runner.feed(Event::Assembled { found, head }).ok();
                });
            }
            Effect::Record(membership) => drop(self.recorder.send_replace(Some(membership))),
            Effect::Publish => self.publish(core),
            Effect::Serving(serving) => {
                if !serving.can_read() {
                    self.publisher.cut_off();
                }
                self.publish(core);
                self.serving.send_replace(serving);
            }
            Effect::Vote {
                commit,
                member,
                tid,
            } => self.ask_vote(core, commit, member, tid),
            Effect::VoteReply { commit, reply } => core.reply_to_vote(commit, reply),
            Effect::Finish { commit, member } => self.ask_finish(core, commit, member),
            Effect::Abort { commit } => core.abort(commit),
            Effect::GiveBack { commit, member } => {
                if let Some(live) = core.live.get_mut(&commit) {
                    live.voted.remove(&member);
                }
            }
            Effect::Committed { commit, tid } => self.committed(core, commit, tid),
            Effect::FinishReply { commit, reply } => core.reply_to_finish(commit, reply),
            Effect::Foreign { tid, oids } => self.acknowledge_foreign(tid, oids),
            Effect::Inquire {
                tid,
                member,
                after,
                told,
            } => self.inquire(core, tid, member, after, told),
            Effect::Level {
                source,
                targets,
                after,
                through,
            } => self.level(core, source, targets, after, through),

            Effect::StartRecovery {
                member,
                strategy,
                rate,
                may_cut,
            } => {
                recovery::start(self, core, member, strategy, rate, may_cut);
            }
            Effect::CancelRecovery => {
                if let Some(recovery) = &core.recovery {
                    recovery.handle.cancel();
                }
            }
            Effect::CatchUpGranted {
                commit,
                head,
                until,
            } => {
                core.tell_catch_up(commit, CatchUp::Granted { head, until });
            }
            Effect::CatchUpRefused { commit, reason } => {
                core.tell_catch_up(commit, CatchUp::Refused { reason });
            }
            Effect::Joined { commit } => core.tell_catch_up(commit, CatchUp::Joined),
            Effect::Notice(notice) => self.notice(notice),
        }
    }

    fn add_handle(self: &Arc<Self>, core: &mut Core, member: MemberId) {
        let Some(name) = core
            .controller
            .members
            .get(&member)
            .map(|member| &member.name)
        else {
            return;
        };
        let Some(spec) = core.specs.iter().find(|spec| spec.name == *name).cloned() else {
            return;
        };
        let (want, wanted) = watch::channel(Want::default());
        let stop = self.tasks.stop().child();
        let retry = Arc::new(Notify::new());
        // One recovery at a time asks for it.
        let (set_aside, asked) = mpsc::channel(1);
        let link = Link {
            runner: Arc::clone(self),
            member,
            opener: Arc::clone(&spec.opener),
            want: wanted,
            retry: Arc::clone(&retry),
            set_aside: asked,
            open_timeout: self.options.open_timeout,
            stop: stop.clone(),
        };
        self.tasks
            .spawn(format!("member {}", spec.name), link.run());
        let handle = Handle {
            spec,
            stats: Arc::default(),
            storage: None,
            told: None,
            last_fault: None,
            displaced: false,
            next_try: None,
            retry,
            set_aside,
            want,
            stop,
        };
        core.members.insert(member, handle);
    }

    /// A member's task has opened it.
    ///
    /// # Errors
    /// Why it is of no use all the same; the task closes it and tries again.
    pub(super) async fn member_is_open(
        self: &Arc<Self>,
        member: MemberId,
        round: u64,
        storage: Arc<dyn Storage>,
    ) -> std::result::Result<(), Fault> {
        let capabilities = storage.capabilities();
        // Before its last transaction is asked for, so that none is missed.
        let told = capabilities
            .shared
            .then(|| (storage.subscribe(), storage.subscribe()));
        let asked = self.in_time(&*storage, "lastTransaction", storage.last_tid());
        let last_tid = asked.await?;
        if let Some(fault) = self.blobs.misfit(&storage.describe(), capabilities) {
            return Err(fault);
        }
        let pipelined = capabilities.pipelined;
        let mut core = self.core.lock();
        core.next_generation += 1;
        let generation = Generation(core.next_generation);
        let Some(handle) = core.members.get_mut(&member) else {
            return Ok(());
        };
        if handle.want.borrow().round != round {
            // Meanwhile it was closed; the task is about to notice.
            return Ok(());
        }
        handle.storage = Some((generation, Arc::clone(&storage)));
        handle.last_fault = None;
        handle.displaced = false;
        handle.next_try = None;
        if let Some((told, wake)) = told {
            handle.told = Some(told);
            let watcher = Arc::clone(self).watch(member, generation, storage, wake);
            self.tasks.spawn("watch over a member", watcher);
        }
        let event = Event::MemberOpened {
            member,
            generation,
            last_tid,
            pipelined,
        };
        let (_, effects) = core.controller.apply(Now::read(), event);
        self.carry_out(&mut core, effects);
        drop(core);
        self.links.send_modify(|count| *count += 1);
        Ok(())
    }

    /// A member's task could not open it, and tries again after a while.
    pub(super) fn member_not_open(
        self: &Arc<Self>,
        member: MemberId,
        fault: Fault,
        delay: Duration,
    ) {
        let mut core = self.core.lock();
        if let Some(handle) = core.members.get_mut(&member) {
            handle.last_fault = Some(fault.clone());
            handle.next_try = Some(crate::clock::instant() + delay);
        }
        let event = Event::OpenFailed { member, fault };
        let (_, effects) = core.controller.apply(Now::read(), event);
        self.carry_out(&mut core, effects);
        drop(core);
        self.links.send_modify(|count| *count += 1);
    }

    /// A call to a member failed.
    pub(super) fn lost(self: &Arc<Self>, member: MemberId, generation: Generation, fault: Fault) {
        if let Fault::Here { .. } = fault {
            // The daemon's own disk: taking members out for it, one after the other, would mend nothing.
            let array = self.options.name.as_str();
            tracing::error!(array, %fault, "the daemon's own disk fails");
            return;
        }
        self.look(|core| core.count_fault(member, generation));
        self.feed(Event::MemberLost {
            member,
            generation,
            fault,
        })
        .ok();
    }

    /// A member cannot read what it holds in one place, and another one can. It is taken out unless the
    /// array would start anew without it: then everything else would be taken from everybody. That is
    /// judged under the lock, because the others may have been lost since the question was asked.
    pub(super) fn cannot_read(
        self: &Arc<Self>,
        member: MemberId,
        generation: Generation,
        fault: Fault,
    ) {
        let mut core = self.core.lock();
        core.count_fault(member, generation);
        if core.controller.hinges_on(member) {
            let member = core.controller.name(member);
            drop(core);
            let array = self.options.name.as_str();
            tracing::error!(array, member, %fault, "a copy that is needed cannot be read in one place");
            return;
        }
        let event = Event::MemberLost {
            member,
            generation,
            fault,
        };
        let (_, effects) = core.controller.apply(Now::read(), event);
        self.carry_out(&mut core, effects);
    }

    /// Whether a member's copy may not be begun anew: it counts as one that holds everything.
    pub(super) fn must_be_there(&self, member: MemberId) -> bool {
        self.core.lock().controller.must_be_there(member)
    }

    /// What a member writes to is not what the next opening would find. It is taken out, opened anew and
    /// recovered, unless the array hinges on it: then closing it would lose what it holds, and it is said.
    pub(super) fn displaced(
        self: &Arc<Self>,
        member: MemberId,
        storage: &Arc<dyn Storage>,
        fault: Fault,
    ) {
        let mut core = self.core.lock();
        let open = core.members.get(&member);
        let generation = open.and_then(|handle| match &handle.storage {
            Some((generation, open)) if Arc::ptr_eq(open, storage) => Some(*generation),
            _ => None,
        });
        // Whoever is out, or being recovered, may have its file renamed by the daemon itself.
        let Some(generation) = generation.filter(|_| core.controller.is_in_sync(member)) else {
            return;
        };
        if core.controller.hinges_on(member) {
            let name = core.controller.name(member);
            let handle = core.members.get_mut(&member);
            let known = handle.is_none_or(|handle| std::mem::replace(&mut handle.displaced, true));
            drop(core);
            if !known {
                let (member, reason) = (name, fault.to_string());
                self.notice(Notice::Displaced { member, reason });
            }
            return;
        }
        core.count_fault(member, generation);
        let event = Event::MemberLost {
            member,
            generation,
            fault,
        };
        let (_, effects) = core.controller.apply(Now::read(), event);
        self.carry_out(&mut core, effects);
    }

    /// What a member writes to is what the next opening finds.
    pub(super) fn in_place(&self, member: MemberId) {
        if let Some(handle) = self.core.lock().members.get_mut(&member) {
            handle.displaced = false;
        }
    }

    pub(super) fn timeout(&self, what: &'static str) -> Fault {
        Fault::Timeout {
            what,
            after: self.options.member_timeout,
        }
    }

    /// How long a member may take for a call that carries so much: a large transaction on a slow disk
    /// is no failure.
    pub(super) fn patience(&self, bytes: u64) -> Duration {
        const SLOWEST_BYTES_PER_S: u64 = 4 << 20;
        self.options.member_timeout + Duration::from_secs(bytes / SLOWEST_BYTES_PER_S)
    }

    /// How much the transactions are that one is about to undo, as far as a member knows. Each looks for them now, before
    /// anybody waits for it. Who cannot say votes all the same, and is judged by that.
    pub(super) async fn measure_undone(&self, tids: Arc<[Tid]>) -> Option<u64> {
        let view = self.view();
        let asked = view.readers.iter().map(|reader| {
            let storage = &*reader.storage;
            let call = storage.measure_undone(Arc::clone(&tids));
            self.while_it_answers(storage, "a search for what is undone", call)
        });
        let said = futures_util::future::join_all(asked).await;
        said.into_iter()
            .filter_map(|said| said.ok().flatten())
            .max()
    }

    /// How long a vote may take on a member to which others write too. Another daemon's client may hold
    /// its lock. That the member is alive, and how long it was waited for its lock, is its storage's to
    /// say, in better words: this is longer than what that allows for sending a transaction, for the
    /// lock, for the member to write it, and for what is asked of it afterwards.
    fn lock_patience(&self, bytes: u64) -> Duration {
        self.options.lock_timeout + self.options.member_timeout * 3 + slowly(bytes) * 2
    }

    /// How long a finish may take on such a member: it, too, is its storage's to judge, and it is asked of
    /// all members at once.
    fn finish_patience(&self, bytes: u64) -> Duration {
        self.options.member_timeout * 2 + slowly(bytes) * 2
    }

    /// Publishes the present head and members to readers.
    fn publish(&self, core: &Core) {
        let readers = core.controller.readable().filter_map(|(id, _)| {
            let handle = core.members.get(&id)?;
            let (generation, storage) = handle.storage.as_ref()?;
            Some(Reader {
                member: id,
                generation: *generation,
                storage: Arc::clone(storage),
                stats: Arc::clone(&handle.stats),
            })
        });
        let serving = core.controller.serving.clone();
        if !self.view.load().serving.can_read() {
            // At the start, and after an absence. While there are readers the head is raised by
            // `committed` alone: the controller's may be ahead, by effects that are still to come.
            self.publisher.set_head(core.controller.head);
            // What was loaded before an absence may be out of date as of this head, and nobody was told
            // of what has changed.
            self.cache.start_from(core.controller.head);
        }
        self.view.store(Arc::new(Published {
            serving,
            readers: readers.collect(),
            packed: core.controller.packed,
        }));
    }

    /// INVARIANT 6: the cache learns of it before any reader sees the new head, and the subscribers at
    /// that very moment.
    fn committed(&self, core: &mut Core, commit: CommitId, tid: Tid) {
        let live = core.live.get_mut(&commit);
        let (oids, by) = live.map_or_else(Default::default, |live| {
            (std::mem::take(&mut live.oids), Some(live.token))
        });
        let oids: Arc<[Oid]> = oids.into();
        if !bug!(KeepStaleRecords) {
            self.cache.invalidate(tid, &oids);
        }
        let committed = Committed { tid, oids, by };
        self.remember(committed.clone());
        self.publisher.publish(&committed);
        self.counters.commits.fetch_add(1, Ordering::Relaxed);
        core.forget_if_over(commit);
    }

    pub(super) fn remember(&self, committed: Committed) {
        let mut recent = self.recent.lock();
        if recent.len() >= self.options.invalidation_queue.max(1) {
            recent.pop_front();
        }
        // Small ones are bounded by their number.
        if committed.oids.len() >= 1024 {
            let mut objects: usize = recent.iter().map(|one| one.oids.len()).sum();
            while objects + committed.oids.len() > MOST_OBJECTS
                && let Some(oldest) = recent.pop_front()
            {
                objects -= oldest.oids.len();
            }
        }
        recent.push_back(committed);
    }

    /// Replaces the queue that clients verify their caches with.
    pub(super) fn set_recent(&self, transactions: Vec<Committed>) {
        *self.recent.lock() = transactions.into();
    }

    /// What was written after `since`; none where the queue does not reach back to it.
    pub(super) fn written_since(&self, since: Tid, head: Tid) -> Option<Vec<Oid>> {
        if since >= head {
            return Some(Vec::new());
        }
        let recent = self.recent.lock();
        if recent.front()?.tid > since {
            return None;
        }
        let later = recent
            .iter()
            .filter(|committed| since < committed.tid && committed.tid <= head);
        let mut oids: Vec<Oid> = later
            .flat_map(|committed| committed.oids.iter().copied())
            .collect();
        oids.sort_unstable();
        oids.dedup();
        Some(oids)
    }

    /// Asks for a vote. The answer comes when all members have voted.
    pub(super) fn vote(self: &Arc<Self>, ballots: Ballots) -> oneshot::Receiver<VoteReply> {
        let (sender, receiver) = oneshot::channel();
        let Ballots {
            commit,
            token,
            meta,
            ops,
            oids,
            wanted,
            bytes,
            effort,
        } = ballots;
        let live = Live {
            token,
            meta,
            ops,
            oids,
            effort,
            round: self.tasks.stop().child(),
            owner: self.tasks.stop().clone(),
            voted: BTreeMap::new(),
            vote_reply: Some(sender),
            finish_reply: None,
        };
        let mut core = self.core.lock();
        if core.controller.is_packing() && live.undoes() {
            // Some members could undo it and some could not any more. `FileStorage` says the same.
            core.live.insert(commit, live);
            core.reply_to_vote(commit, VoteReply::No(undo_is_disabled()));
            return receiver;
        }
        core.live.insert(commit, live);
        let event = Event::VoteAsked {
            commit,
            wanted,
            bytes,
        };
        let (_, effects) = core.controller.apply(Now::read(), event);
        self.carry_out(&mut core, effects);
        receiver
    }

    /// A client aborts its transaction, or has left.
    pub(super) fn gone(self: &Arc<Self>, commit: CommitId) {
        let mut core = self.core.lock();
        let (_, effects) = core.controller.apply(Now::read(), Event::Gone { commit });
        self.carry_out(&mut core, effects);
        if !core.controller.knows(commit) {
            core.live.remove(&commit);
        }
    }

    fn ask_vote(self: &Arc<Self>, core: &mut Core, commit: CommitId, member: MemberId, tid: Tid) {
        let live = core.live.get(&commit);
        let storage = core.members.get(&member).and_then(|h| h.storage.clone());
        let (Some(live), Some((generation, storage))) = (live, storage) else {
            return self.cannot_ask(core, member);
        };
        let patience = if storage.capabilities().shared {
            self.lock_patience(live.effort)
        } else {
            self.patience(live.effort)
        };
        let (meta, ops, round) = (live.meta.clone(), Arc::clone(&live.ops), live.round.clone());
        let runner = Arc::clone(self);
        self.tasks.spawn("vote", async move {
            let voting = tokio::time::timeout(patience, vote_on(&*storage, meta, &ops, tid));
            // A vote that is dropped is aborted by its storage.
            let outcome = crate::task::select! {
                () = round.requested() => return,
                outcome = voting => outcome.unwrap_or_else(|_| Err(Fault::Timeout {
                    what: "vote",
                    after: patience,
                }.into())),
            };
            let overtaken = match &outcome {
                Err(StorageError::Answer(Answer::Invalid(_))) => {
                    runner.overtaken(&*storage, tid).await
                }
                _ => None,
            };
            runner.voted(commit, member, generation, &round, outcome, overtaken);
        });
    }

    /// The last transaction of a member to which others write as well, where that is why it did not take
    /// ours: then another TID is chosen, and no client hears of it.
    async fn overtaken(&self, storage: &dyn Storage, tid: Tid) -> Option<Tid> {
        if !storage.capabilities().shared {
            return None;
        }
        let asked = self.in_time(storage, "lastTransaction", storage.last_tid());
        let last = asked.await.ok()?;
        (last >= tid).then_some(last)
    }

    /// It is not there to be asked. The controller does not ask such a member; should it, nobody may
    /// wait for the answer.
    fn cannot_ask(self: &Arc<Self>, core: &Core, member: MemberId) {
        let known = core.controller.members.get(&member);
        let Some(generation) = known.and_then(super::controller::Member::generation) else {
            return;
        };
        let runner = Arc::clone(self);
        self.tasks.spawn("loss of a member", async move {
            let fault = Fault::Closed("it was closed before it was asked".into());
            runner.lost(member, generation, fault);
        });
    }

    /// A member has voted.
    fn voted(
        self: &Arc<Self>,
        commit: CommitId,
        member: MemberId,
        generation: Generation,
        round: &Stop,
        outcome: Result<Vote>,
        overtaken: Option<Tid>,
    ) {
        let mut core = self.core.lock();
        if round.is_requested() {
            return;
        }
        self.take_foreign(&mut core, member);
        if round.is_requested() {
            return;
        }
        let known = core.controller.members.get(&member);
        if known.and_then(super::controller::Member::generation) != Some(generation) {
            // It was lost meanwhile, and takes part no more: what it voted on is dropped.
            return;
        }
        let mut after = overtaken;
        let ballot = match outcome {
            Ok(Vote::Ready(voted)) => {
                after = voted.after();
                let resolved = voted.resolved().to_vec();
                let Some(live) = core.live.get_mut(&commit) else {
                    return;
                };
                live.voted.insert(member, voted);
                Ballot::Ready { resolved }
            }
            Ok(Vote::Conflicts(_, conflicts)) => Ballot::Conflicts(conflicts),
            Err(StorageError::Answer(answer)) => Ballot::No(answer),
            Err(StorageError::Fault(fault @ Fault::Here { .. })) => {
                return self.could_not_be_sent(&mut core, commit, fault);
            }
            Err(StorageError::Fault(fault)) => {
                core.count_fault(member, generation);
                let event = Event::MemberLost {
                    member,
                    generation,
                    fault,
                };
                let (_, effects) = core.controller.apply(Now::read(), event);
                return self.carry_out(&mut core, effects);
            }
        };
        let event = Event::MemberVoted {
            commit,
            member,
            ballot,
            after,
        };
        let (_, effects) = core.controller.apply(Now::read(), event);
        self.carry_out(&mut core, effects);
    }

    /// A transaction could not be read from where it waits for its vote. It is no ballot: others may have
    /// got it, and would be found to disagree. It ends as if its client had left, who is told why.
    fn could_not_be_sent(self: &Arc<Self>, core: &mut Core, commit: CommitId, fault: Fault) {
        tracing::error!(%fault, "a transaction could not be sent to a member");
        let (_, effects) = core.controller.apply(Now::read(), Event::Gone { commit });
        self.carry_out(core, effects);
        core.reply_to_vote(commit, VoteReply::Fault(fault));
    }

    /// Asks for the finish: takes the transaction's place in the order at once; the answer comes
    /// when it is acknowledged.
    pub(super) fn finish(
        self: &Arc<Self>,
        commit: CommitId,
    ) -> oneshot::Receiver<std::result::Result<Tid, Fault>> {
        let (sender, receiver) = oneshot::channel();
        let mut core = self.core.lock();
        let Some(live) = core.live.get_mut(&commit) else {
            let fault = if core.controller.serving.can_read() {
                Fault::Timeout {
                    what: "a vote (the finish came too late)",
                    after: self.options.transaction_timeout,
                }
            } else {
                not_serving(&self.view())
            };
            drop(sender.send(Err(fault)));
            return receiver;
        };
        live.finish_reply = Some(sender);
        let (_, effects) = core
            .controller
            .apply(Now::read(), Event::FinishAsked { commit });
        self.carry_out(&mut core, effects);
        receiver
    }

    fn ask_finish(self: &Arc<Self>, core: &mut Core, commit: CommitId, member: MemberId) {
        let voted = core
            .live
            .get_mut(&commit)
            .and_then(|live| Some((live.voted.remove(&member)?, live.effort)));
        let storage = core.members.get(&member).and_then(|h| h.storage.as_ref());
        let (Some((voted, effort)), Some((generation, storage))) = (voted, storage) else {
            return self.cannot_ask(core, member);
        };
        let generation = *generation;
        let patience = if storage.capabilities().shared {
            self.finish_patience(effort)
        } else {
            self.patience(effort)
        };
        // The call itself, under the lock, fixes the order of transactions on this member.
        let finishing = voted.finish();
        let runner = Arc::clone(self);
        self.tasks.spawn("finish", async move {
            let outcome = tokio::time::timeout(patience, finishing).await;
            let fault = match outcome {
                Ok(Ok(_)) => {
                    runner.feed(Event::MemberFinished { commit, member }).ok();
                    return;
                }
                Ok(Err(error)) => as_fault(error),
                Err(_) => Fault::Timeout {
                    what: "tpc_finish",
                    after: patience,
                },
            };
            runner.lost(member, generation, fault);
        });
    }

    /// Waits for the lock on behalf of a recovery.
    pub(super) fn ask_catch_up(self: &Arc<Self>, commit: CommitId) -> mpsc::Receiver<CatchUp> {
        // At most: granted, then joined or refused.
        let (sender, receiver) = mpsc::channel(4);
        self.core.lock().catch_ups.insert(commit, sender);
        self.feed(Event::CatchUpAsked { commit }).ok();
        receiver
    }

    pub(super) fn forget_catch_up(&self, commit: CommitId) {
        self.core.lock().catch_ups.remove(&commit);
    }

    /// Writes the membership record whenever it has changed.
    async fn keep_record(
        self: Arc<Self>,
        store: Arc<dyn RecordStore>,
        mut pending: watch::Receiver<Option<Membership>>,
    ) {
        let stop = self.tasks.stop().clone();
        let mut last: Option<Membership> = None;
        loop {
            // Nothing is lost where a branch is dropped: the channel keeps the newest record.
            tokio::select! {
                biased;
                changed = pending.changed() => if changed.is_err() { return },
                () = stop.requested() => return,
            }
            let Some(membership) = pending.borrow_and_update().clone() else {
                continue;
            };
            let epoch = membership.epoch;
            if last
                .as_ref()
                .is_some_and(|last| last.says_the_same(&membership))
            {
                self.feed(Event::Recorded { epoch }).ok();
                continue;
            }
            let (writer, record) = (Arc::clone(&store), membership.clone());
            #[cfg(test)]
            if crate::simulation::is_on() {
                // It is synced more than once.
                crate::simulation::sync_pause().await;
            }
            // MODEL: WriteRecord
            let written = crate::task::blocking(move || writer.save(&record)).await;
            let reason = match written {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(ended) => Some(ended.to_string()),
            };
            match reason {
                None => {
                    last = Some(membership);
                    self.feed(Event::Recorded { epoch }).ok();
                }
                Some(reason) => {
                    last = None;
                    self.feed(Event::RecordFailed { epoch, reason }).ok();
                }
            }
        }
    }

    /// What members lack that were out before this daemon knew them is asked once for each opening.
    fn measure_what_is_lacking(self: &Arc<Self>, measured: &mut HashSet<Generation>) {
        if self.view().readers.is_empty() {
            return;
        }
        let due = self.look(|core| {
            let members = core.controller.members.iter();
            let due =
                members.filter(|(_, member)| member.out().is_some() && member.lacks.is_none());
            let due = due.filter_map(|(id, one)| Some((*id, one.generation()?, one.last_tid()?)));
            due.collect::<Vec<_>>()
        });
        for (id, generation, last) in due {
            if measured.insert(generation) {
                let measuring = recovery::measure_lack(Arc::clone(self), id, last);
                self.tasks.spawn("measure of what is lacking", measuring);
            }
        }
    }

    /// Deadlines and rates.
    async fn tick(self: Arc<Self>) {
        const STEP: Duration = Duration::from_millis(250);
        let stop = self.tasks.stop().clone();
        let mut ticks = tokio::time::interval(STEP);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut last = (crate::clock::instant(), 0, 0);
        let mut measured = HashSet::new();
        loop {
            crate::task::select! {
                _ = ticks.tick() => {}
                () = stop.requested() => return,
            }
            self.feed(Event::Tick).ok();
            self.measure_what_is_lacking(&mut measured);
            let elapsed = crate::clock::since(last.0);
            if elapsed >= Duration::from_secs(2) {
                let loads = self.counters.loads.load(Ordering::Relaxed);
                let commits = self.counters.commits.load(Ordering::Relaxed);
                let rate = |count: u64| (count as f64 * 1000.0 / elapsed.as_secs_f64()) as u64;
                self.counters
                    .loads_rate
                    .store(rate(loads - last.1), Ordering::Relaxed);
                self.counters
                    .commits_rate
                    .store(rate(commits - last.2), Ordering::Relaxed);
                last = (crate::clock::instant(), loads, commits);
            }
        }
    }
}

impl Handle {
    /// Forgets why it could not be opened, and has it opened at once.
    pub(super) fn try_again(&mut self) {
        if self.storage.is_none() {
            self.last_fault = None;
            self.retry.notify_one();
        }
    }
}

impl Live {
    /// Whether it undoes others.
    pub(super) fn undoes(&self) -> bool {
        self.ops.undo()
    }
}

/// How long the slowest server may take over so many bytes.
fn slowly(bytes: u64) -> Duration {
    const SLOWEST_BYTES_PER_S: u64 = 1 << 20;
    Duration::from_secs(bytes / SLOWEST_BYTES_PER_S)
}

impl Core {
    /// Counted where a call fails, once for each opening: who is disabled has not failed.
    fn count_fault(&self, member: MemberId, generation: Generation) {
        let handle = self.members.get(&member);
        if let Some(handle) = handle
            && handle
                .storage
                .as_ref()
                .is_some_and(|(open, _)| *open == generation)
        {
            handle.stats.faults.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn close(&mut self, member: MemberId) {
        if let Some(handle) = self.members.get_mut(&member) {
            handle.told = None;
            handle.storage = None;
            handle.want.send_modify(|want| {
                want.open = false;
                want.round += 1;
            });
        }
    }

    fn open_storages(&self, members: &[MemberId]) -> Vec<(MemberId, Arc<dyn Storage>)> {
        let storage = |id: &MemberId| Some((*id, self.members.get(id)?.storage.clone()?.1));
        members.iter().filter_map(storage).collect()
    }

    fn reply_to_vote(&mut self, commit: CommitId, reply: VoteReply) {
        let Some(live) = self.live.get_mut(&commit) else {
            return;
        };
        let stays = matches!(reply, VoteReply::Ready { .. } | VoteReply::Conflicts(_));
        if let VoteReply::Ready { resolved, .. } = &reply {
            live.oids.extend(resolved);
        }
        if let Some(sender) = live.vote_reply.take() {
            // Where nobody waits any more, `Gone` is on its way.
            drop(sender.send(reply));
        }
        if !stays {
            self.live.remove(&commit);
        }
    }

    fn reply_to_finish(&mut self, commit: CommitId, reply: std::result::Result<Tid, Fault>) {
        let Some(live) = self.live.get_mut(&commit) else {
            return;
        };
        if let Some(sender) = live.finish_reply.take() {
            // Where nobody waits any more, it is finished all the same.
            drop(sender.send(reply));
        }
        self.forget_if_over(commit);
    }

    /// A transaction whose outcome was said to be unknown may come true later: then its objects are
    /// still to be told of (INVARIANT 6).
    fn forget_if_over(&mut self, commit: CommitId) {
        let waited_for = |live: &Live| live.vote_reply.is_some() || live.finish_reply.is_some();
        if !self.controller.knows(commit)
            && self.live.get(&commit).is_some_and(|live| !waited_for(live))
        {
            self.live.remove(&commit);
        }
    }

    /// Drops what members hold of a transaction, which aborts it there.
    fn abort(&mut self, commit: CommitId) {
        if let Some(live) = self.live.get_mut(&commit) {
            live.round.request();
            live.round = live.owner.child();
            live.voted.clear();
            self.forget_if_over(commit);
        }
    }

    fn tell_catch_up(&mut self, commit: CommitId, what: CatchUp) {
        if let Some(sender) = self.catch_ups.get(&commit) {
            // The queue has room for all that can be said of one commit.
            drop(sender.try_send(what));
        }
    }
}

/// Both phases but the second, on one member.
async fn vote_on(
    storage: &dyn Storage,
    mut meta: TxnMeta,
    ops: &Arc<Operations>,
    tid: Tid,
) -> Result<Vote> {
    if bug!(StoreAnotherUser) {
        meta.user = storage.describe().location.into();
    }
    let mut transaction = storage.begin(meta, Some(tid)).await?;
    transaction.store_all(ops).await?;
    transaction.vote().await
}

/// A member's answer where none makes sense is a fault of the member.
pub(super) fn as_fault(error: StorageError) -> Fault {
    match error {
        StorageError::Fault(fault) => fault,
        StorageError::Answer(answer) => Fault::Damaged(format!("unexpected answer: {answer}")),
    }
}

pub(super) fn configured(spec: &MemberSpec) -> Configured {
    Configured {
        name: spec.name.clone(),
        fingerprint: spec.fingerprint.clone(),
        adopted: spec.adopted,
        description: spec.opener.describe(),
    }
}
