//! The controller decides. It is told what happened and says what is to be done: no IO, no tasks, no
//! clock but the `now` it is given, so that every decision can be tested and simulated.
//!
//! Where the invariants of the design page are kept:
//!
//! | invariant | where |
//! | --- | --- |
//! | 1 durable before acknowledged | [`commit`]: `FinishReply` only after every participant finished |
//! | 2 membership before acknowledgement | [`commit`]: `AwaitsRecord`, `AwaitsAck` |
//! | 3 one history | [`commit`]: one lock, TIDs rise; members vote and finish in that order |
//! | 4 start only from the in-sync set | [`start`] |
//! | 5 reads are capped at the head | `raid::read`; the head rises here, in `commit` |
//! | 6 order | `Effect::Committed` in TID order; `server::outbox`, `raid::cache` |
//! | 7 a member's failure is not the client's | [`membership`]: `lose`; `raid::read` asks another |
//! | 8 an error that every member gives is an answer | [`commit`]: `count_ballots` |
//! | 9 nothing is thrown away | `raid::recovery`; `Storage::rewind` sets aside |

mod ballot;
mod check;
mod commit;
mod coop;
mod membership;
mod pack;
mod recover;
#[cfg(test)]
mod simulation;
mod start;
mod state;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use uuid::Uuid;

use super::record::{Membership, Standing};
use super::report::{Serving, Strategy};
use super::{Notice, Refused};
use crate::job::Rate;
use crate::storage::{Description, Fault};
use crate::zodb::{Conflict, Oid, Tid};

pub(crate) use pack::Reading;
pub(crate) use state::{
    Ballot, Commit, CommitId, CommitState, Generation, Kind, Link, Member, MemberId, Out, Phase,
    Rules, State,
};

/// The moment at which something happened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// For deadlines.
    pub monotonic: Instant,
    /// For TIDs and for people.
    pub wall: Timestamp,
}

impl Now {
    pub(crate) fn read() -> Self {
        Now {
            // The clock of the runtime, which tests can stop.
            monotonic: crate::clock::instant(),
            wall: crate::clock::now(),
        }
    }
}

/// What happened.
#[derive(Debug)]
pub(crate) enum Event {
    MemberOpened {
        member: MemberId,
        generation: Generation,
        last_tid: Tid,
        pipelined: bool,
    },
    OpenFailed {
        member: MemberId,
        fault: Fault,
    },
    /// A call to the member failed.
    MemberLost {
        member: MemberId,
        generation: Generation,
        fault: Fault,
    },
    /// The comparison at the start has ended.
    Assembled {
        found: Vec<(MemberId, Compared)>,
        /// The last transaction of the newest when it was compared; none where it could not be asked.
        head: Option<Tid>,
    },
    Recorded {
        epoch: u64,
    },
    RecordFailed {
        epoch: u64,
        reason: String,
    },
    /// A client wants the lock and the votes. Also after it has resolved conflicts.
    VoteAsked {
        commit: CommitId,
        wanted: Option<Tid>,
        bytes: u64,
    },
    MemberVoted {
        commit: CommitId,
        member: MemberId,
        ballot: Ballot,
        /// The member's last transaction under its lock, where others write to it too.
        after: Option<Tid>,
    },
    /// Somebody else finished a transaction on a member.
    Foreign {
        member: MemberId,
        generation: Generation,
        tid: Tid,
        oids: Arc<[Oid]>,
    },
    /// Which objects a foreign transaction wrote, and all before it since the head.
    Inquired {
        tid: Tid,
        oids: Arc<[Oid]>,
    },
    /// A foreign transaction wrote no other objects than was told.
    ToldWhole {
        tid: Tid,
    },
    /// A member holds everything up to this transaction, which it lacked.
    Levelled {
        member: MemberId,
        generation: Generation,
        tid: Tid,
    },
    FinishAsked {
        commit: CommitId,
    },
    MemberFinished {
        commit: CommitId,
        member: MemberId,
    },
    /// The client aborted or left.
    Gone {
        commit: CommitId,
    },
    RecoverAsked {
        member: String,
        strategy: Strategy,
        rate: Option<Rate>,
    },
    CancelAsked,
    /// A recovery wants the lock for its last part.
    CatchUpAsked {
        commit: CommitId,
    },
    /// A recovery gives the lock back without having become level.
    CatchUpEnded {
        commit: CommitId,
    },
    /// The target holds everything up to this transaction.
    TargetLevel {
        commit: CommitId,
        member: MemberId,
        last_tid: Tid,
        /// Up to there its source is packed.
        packed: Tid,
    },
    RecoveryEnded {
        member: MemberId,
        ended: Ended,
    },
    /// An operator or a client wants the members to be packed.
    PackAsked,
    PackEnded,
    /// An operator wants the whole history to be read.
    ReadAsked(Reading),
    ReadEnded(Reading),
    DisableAsked {
        member: String,
    },
    MembersAsked {
        members: Vec<Configured>,
        dry_run: bool,
    },
    Tick,
    StopAsked,
}

/// A member as the configuration has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Configured {
    pub name: String,
    pub fingerprint: String,
    pub adopted: bool,
    pub description: Description,
}

/// What the comparison at the start found about a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Compared {
    /// It ends with the same transaction as the newest.
    Level,
    /// It is a prefix of the newest.
    Behind,
    /// It holds what the newest does not.
    Diverged { reason: String },
    /// It goes on after a transaction that was acknowledged, without holding it.
    Swapped { reason: String },
    /// It could not be asked.
    Unknown(String),
}

/// How a recovery ended.
#[derive(Debug, Clone)]
pub(crate) enum Ended {
    Done,
    Cancelled,
    /// It may be tried again later.
    Failed {
        reason: String,
    },
    /// Target and source have diverged, and only more members can tell which of the two is right: all are compared
    /// again.
    Undecided {
        reason: String,
    },
    /// It makes no sense to try again without an operator.
    Stuck {
        reason: String,
        /// The target holds something else than the others.
        is_wrong: bool,
        /// More than that: what the target holds was compared, and is wrong. Until a recovery has ended well, none
        /// goes without comparing.
        differs: bool,
    },
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Open the member, now and again until it is open.
    Open(MemberId),
    Close(MemberId),
    /// Forget the member after closing it.
    Remove(MemberId),
    Added(MemberId),
    /// Compare these at the start; the first is the newest.
    Assemble {
        members: Vec<MemberId>,
    },
    /// Make this record durable and say so.
    Record(Membership),
    /// Readers see the present head and members from now on.
    Publish,
    Serving(Serving),
    /// Ask a member for its vote.
    Vote {
        commit: CommitId,
        member: MemberId,
        tid: Tid,
    },
    VoteReply {
        commit: CommitId,
        reply: VoteReply,
    },
    /// Ask a member to finish. The order of these is the order of transactions.
    Finish {
        commit: CommitId,
        member: MemberId,
    },
    /// Drop whatever members hold of this transaction.
    Abort {
        commit: CommitId,
    },
    /// Drop what this member holds of it: it will be asked to vote again.
    GiveBack {
        commit: CommitId,
        member: MemberId,
    },
    /// It is acknowledged: caches, subscribers, the head. In TID order.
    Committed {
        commit: CommitId,
        tid: Tid,
    },
    FinishReply {
        commit: CommitId,
        reply: Result<Tid, Fault>,
    },
    /// A transaction of somebody else is acknowledged: as [`Effect::Committed`].
    Foreign {
        tid: Tid,
        oids: Arc<[Oid]>,
    },
    /// Ask a member which objects a foreign transaction wrote, and those before it since `after`.
    Inquire {
        tid: Tid,
        member: MemberId,
        /// Of all transactions after this one.
        after: Tid,
        /// What was told of it, where only it is in question.
        told: Option<Arc<[Oid]>>,
    },
    /// Copy the transactions up to `through` from one member to others that lack some of them. What those
    /// have got since `after` must be the source's: else they are no copies any more.
    Level {
        source: MemberId,
        targets: Vec<MemberId>,
        after: Tid,
        through: Tid,
    },
    StartRecovery {
        member: MemberId,
        strategy: Strategy,
        rate: Option<Rate>,
        may_cut: bool,
    },
    CancelRecovery,
    /// The recovery has the lock, until then; this is the head.
    CatchUpGranted {
        commit: CommitId,
        head: Tid,
        until: Instant,
    },
    CatchUpRefused {
        commit: CommitId,
        reason: String,
    },
    /// The target is in the in-sync set, durably.
    Joined {
        commit: CommitId,
    },
    Notice(Notice),
}

/// What a client's vote is answered.
#[derive(Debug)]
pub(crate) enum VoteReply {
    Ready {
        tid: Tid,
        resolved: Vec<Oid>,
    },
    /// The lock stays with the client until it votes again.
    Conflicts(Vec<Conflict>),
    No(crate::storage::Answer),
    Fault(Fault),
}

/// What an operator's request is answered.
pub(crate) type Asked = Result<Changes, Refused>;

/// What a change of the members did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub added: Vec<String>,
    pub removed: Vec<String>,
}

/// The state of the array. See the module's page.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a question of its own"
)]
pub(crate) struct Controller {
    pub(crate) rules: Rules,
    pub(crate) array: Uuid,
    /// The record that was found at the start.
    recorded: Option<Membership>,
    pub(crate) epoch: u64,
    durable_epoch: u64,
    pub(crate) members: BTreeMap<MemberId, Member>,
    next_member: u32,
    pub(crate) phase: Phase,
    pub(crate) serving: Serving,
    pub(crate) head: Tid,
    /// The last transaction that is known to have been acknowledged, as of the last event. See
    /// [`Self::acknowledged`].
    known: Tid,
    /// Up to there members may lack states that others have packed away ([`Membership::packed`]).
    pub(crate) packed: Tid,
    /// The last TID that was given to a commit that may still come true. Not before the head.
    last_given: Tid,
    pub(crate) lock: Option<CommitId>,
    lock_since: Option<Instant>,
    queue: VecDeque<CommitId>,
    commits: BTreeMap<CommitId, Commit>,
    /// Commits whose members have been asked to finish, in TID order.
    finishing: VecDeque<CommitId>,
    /// What others wrote and is not acknowledged yet, and which members told of it.
    foreign: BTreeMap<Tid, coop::Foreign>,
    reported: BTreeMap<MemberId, BTreeSet<Tid>>,
    levelling: Option<coop::Levelling>,
    /// At a start in `coop` mode: the others alone are no majority that agrees.
    needs_suspects: bool,
    /// The members that are being compared, as they were opened then.
    assembling: BTreeMap<MemberId, Generation>,
    /// Transactions of which nobody has told may be between the head and the next one.
    gaps: bool,
    pub(crate) recovery: Option<Running>,
    pub(crate) recovery_queue: VecDeque<Wanted>,
    /// Members are being packed: nothing is recovered meanwhile.
    packing: bool,
    /// Why whole histories are being read: nothing is packed meanwhile.
    reading: BTreeSet<Reading>,
    /// How the recoveries were asked for that failed and are tried again.
    again: BTreeMap<MemberId, (Strategy, Option<Rate>)>,
    /// Members that were damaged when they were removed: put back they are no better, although at both ends they
    /// may look so.
    removed_damaged: BTreeSet<String>,
    /// Why a comparison at the start did not lead to serving.
    blocked: Option<start::Blocked>,
    /// Who was compared in this attempt to start, and then left out of the comparison.
    passed_over: Vec<MemberId>,
    /// The epoch that has to be durable before anybody is served from this start: what was read may
    /// not be taken back by a crash (INVARIANTS 4, 5).
    start_epoch: u64,
    /// The in-sync set as it was last told to the record, and its epoch.
    recorded_set: BTreeSet<String>,
    recorded_epoch: u64,
    /// The head in it, and since when there is a later one.
    recorded_head: Tid,
    recorded_head_is_old: Option<Instant>,
    /// Why the record could not be written the last time.
    record_trouble: Option<String>,
    /// The record is to be written again at the next tick.
    record_again: bool,
    /// Since when the array's state is what it is.
    pub(crate) since: Timestamp,
    last_state: super::ArrayState,
    effects: Vec<Effect>,
}

/// The recovery that runs.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    pub member: MemberId,
    /// As it was asked for.
    pub strategy: Strategy,
    pub rate: Option<Rate>,
    /// Waits for the record of this epoch, which lets the target in. Until that is durable the
    /// target is not read, and not counted upon.
    pub joining: Option<(CommitId, u64)>,
    /// An operator has cancelled it.
    pub cancelled: bool,
}

/// A recovery that waits for its turn.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub member: MemberId,
    pub strategy: Strategy,
    pub rate: Option<Rate>,
}

/// How long the record may name an earlier head than there is. After a crash it is what tells an empty or an
/// older copy from the one that held everything; and while members stay as they are nothing else writes it.
const HEAD_IS_RECORDED_AFTER: Duration = Duration::from_mins(1);

fn recorded_head(record: Option<&Membership>) -> Tid {
    record.map_or(Tid::ZERO, |record| record.head)
}

impl Controller {
    /// An array of these members, with the record that was found. What is to be done first is to be
    /// taken with [`Self::take_effects`].
    pub(crate) fn new(
        rules: Rules,
        configured: Vec<Configured>,
        recorded: Option<Membership>,
        now: Now,
    ) -> Self {
        let array = recorded
            .as_ref()
            .map_or_else(Uuid::new_v4, |record| record.array);
        let epoch = recorded.as_ref().map_or(0, |record| record.epoch);
        let recorded_set = recorded.iter().flat_map(Membership::in_sync);
        let recorded_set = recorded_set.map(str::to_owned).collect();
        let mut controller = Controller {
            rules,
            recorded_set,
            recorded_epoch: epoch,
            recorded_head: recorded_head(recorded.as_ref()),
            known: recorded_head(recorded.as_ref()),
            packed: recorded.as_ref().map_or(Tid::ZERO, |record| record.packed),
            recorded_head_is_old: None,
            array,
            recorded,
            epoch,
            durable_epoch: epoch,
            members: BTreeMap::new(),
            next_member: 0,
            phase: Phase::Opening { first_open: None },
            serving: Serving::Starting {
                waits_for: "members".into(),
            },
            head: Tid::ZERO,
            last_given: Tid::ZERO,
            lock: None,
            lock_since: None,
            queue: VecDeque::new(),
            commits: BTreeMap::new(),
            finishing: VecDeque::new(),
            foreign: BTreeMap::new(),
            reported: BTreeMap::new(),
            levelling: None,
            needs_suspects: false,
            assembling: BTreeMap::new(),
            gaps: true,
            recovery: None,
            recovery_queue: VecDeque::new(),
            packing: false,
            reading: BTreeSet::new(),
            again: BTreeMap::new(),
            removed_damaged: BTreeSet::new(),
            blocked: None,
            passed_over: Vec::new(),
            start_epoch: 0,
            record_trouble: None,
            record_again: false,
            since: now.wall,
            last_state: super::ArrayState::Failed,
            effects: Vec::new(),
        };
        for member in configured {
            let standing = controller.standing_at_start(&member.name);
            let out_since = controller.out_since(&member.name);
            let id = controller.add_member(member, standing, now);
            if let (Some(since), Some(member)) = (out_since, controller.members.get_mut(&id)) {
                member.since = since;
            }
        }
        controller.say_what_is_waited_for();
        controller
    }

    /// Takes note of what happened; what is to be done is returned in order.
    pub(crate) fn apply(&mut self, now: Now, event: Event) -> (Asked, Vec<Effect>) {
        let asked = self.dispatch(now, event);
        self.known = self.acknowledged();
        self.note_state(now);
        self.check();
        (asked, self.take_effects())
    }

    pub(crate) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    fn dispatch(&mut self, now: Now, event: Event) -> Asked {
        match event {
            Event::MemberOpened {
                member,
                generation,
                last_tid,
                pipelined,
            } => {
                self.member_opened(
                    member,
                    Link::Open {
                        generation,
                        last_tid,
                        pipelined,
                    },
                    now,
                );
            }
            Event::OpenFailed { member, fault } => self.open_failed(member, &fault, now),
            Event::MemberLost {
                member,
                generation,
                fault,
            } => {
                if self.members.get(&member).and_then(Member::generation) == Some(generation)
                    && !self.is_closing_down()
                {
                    self.lose(member, Out::after(&fault), now);
                }
            }
            Event::Assembled { found, head } => self.assembled(found, head, now),
            Event::Recorded { epoch } => self.recorded(epoch, now),
            Event::RecordFailed { epoch, reason } => self.record_failed(epoch, reason, now),
            Event::VoteAsked {
                commit,
                wanted,
                bytes,
            } => {
                self.vote_asked(commit, wanted, bytes, now);
            }
            Event::MemberVoted {
                commit,
                member,
                ballot,
                after,
            } => {
                self.member_voted(commit, member, ballot, after, now);
            }
            Event::Foreign {
                member,
                generation,
                tid,
                oids,
            } => self.foreign(member, generation, tid, &oids, now),
            Event::Inquired { tid, oids } => self.inquired(tid, &oids, now),
            Event::ToldWhole { tid } => self.told_whole(tid, now),
            Event::Levelled {
                member,
                generation,
                tid,
            } => self.levelled(member, generation, tid, now),
            Event::FinishAsked { commit } => self.finish_asked(commit, now),
            Event::MemberFinished { commit, member } => self.member_finished(commit, member, now),
            Event::Gone { commit } => self.gone(commit, now),
            Event::RecoverAsked {
                member,
                strategy,
                rate,
            } => {
                return self.recover_asked(&member, strategy, rate, now);
            }
            Event::CancelAsked => return self.cancel_asked(now),
            Event::CatchUpAsked { commit } => self.catch_up_asked(commit, now),
            Event::CatchUpEnded { commit } => self.catch_up_ended(commit, now),
            Event::TargetLevel {
                commit,
                member,
                last_tid,
                packed,
            } => {
                self.target_level(commit, member, last_tid, packed, now);
            }
            Event::RecoveryEnded { member, ended } => self.recovery_ended(member, ended, now),
            Event::PackAsked => return self.pack_asked(),
            Event::PackEnded => self.pack_ended(now),
            Event::ReadAsked(reading) => return self.read_asked(reading),
            Event::ReadEnded(reading) => {
                self.reading.remove(&reading);
            }
            Event::DisableAsked { member } => return self.disable_asked(&member, now),
            Event::MembersAsked { members, dry_run } => {
                return self.members_asked(members, dry_run, now);
            }
            Event::Tick => self.tick(now),
            Event::StopAsked => self.stop_asked(now),
        }
        Ok(Changes::default())
    }

    fn emit(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    fn notice(&mut self, notice: Notice) {
        self.emit(Effect::Notice(notice));
    }

    /// What time brings: waiting that has been long enough.
    fn tick(&mut self, now: Now) {
        self.start_if_possible(now);
        self.time_out_holder(now);
        self.level_members(false, now);
        self.recover_by_itself(now);
        self.start_next_recovery(now);
        if self.epoch > self.durable_epoch || std::mem::take(&mut self.record_again) {
            // A record that could not be written is tried again; one that is being written is
            // written at most twice.
            self.record_membership(now);
        } else if self.phase == Phase::Running && self.acknowledged() > self.recorded_head {
            let since = *self.recorded_head_is_old.get_or_insert(now.monotonic);
            if now.monotonic >= since + HEAD_IS_RECORDED_AFTER {
                self.record_membership(now);
            }
        }
    }

    /// Whether a shutdown has begun.
    pub(in crate::raid) fn is_stopping(&self) -> bool {
        self.phase == Phase::Stopping
    }

    /// Nothing is in hand any more that would need a member, and members are being closed: that is no
    /// loss, and must not be recorded as one.
    fn is_closing_down(&self) -> bool {
        self.is_stopping() && self.commits.is_empty()
    }

    /// Asked again when everything in hand has ended, it keeps the head in the record.
    fn stop_asked(&mut self, now: Now) {
        self.phase = Phase::Stopping;
        self.recovery_queue.clear();
        self.record_membership(now);
        if self.recovery.is_some() {
            self.emit(Effect::CancelRecovery);
        }
        for commit in std::mem::take(&mut self.queue) {
            self.refuse(
                commit,
                Fault::NotServing("the daemon is shutting down".into()),
            );
        }
        self.serve_or_not(now);
    }

    /// The members of the in-sync set.
    pub(crate) fn in_sync(&self) -> impl Iterator<Item = (MemberId, &Member)> {
        self.members
            .iter()
            .filter(|(_, member)| member.is_in_sync())
            .map(|(id, member)| (*id, member))
    }

    pub(crate) fn in_sync_count(&self) -> usize {
        self.in_sync().count()
    }

    /// The members that may be read: those of the in-sync set, as far as that is durable.
    pub(crate) fn readable(&self) -> impl Iterator<Item = (MemberId, &Member)> {
        let joining = self.joining_target();
        self.in_sync()
            .filter(move |(id, member)| member.is_open() && Some(*id) != joining)
    }

    /// The commit and the epoch with which a target joins the in-sync set.
    fn joining(&self) -> Option<(CommitId, u64)> {
        self.recovery.as_ref()?.joining
    }

    /// The target whose entry into the in-sync set is not durable yet.
    fn joining_target(&self) -> Option<MemberId> {
        let running = self.recovery.as_ref()?;
        running.joining.map(|_| running.member)
    }

    /// Nothing is in hand: no commit, no recovery.
    pub(crate) fn is_idle(&self) -> bool {
        self.commits.is_empty() && self.recovery.is_none() && self.durable_epoch >= self.epoch
    }

    pub(crate) fn knows(&self, commit: CommitId) -> bool {
        self.commits.contains_key(&commit)
    }

    pub(crate) fn waiting(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn lock_held_for(&self, now: Instant) -> Option<Duration> {
        self.lock_since
            .map(|since| now.saturating_duration_since(since))
    }

    /// Whether it is known from which members the array goes on, and durable: also where it ends before it serves.
    pub(in crate::raid) fn has_started(&self) -> bool {
        let is_known = match self.phase {
            Phase::Opening { .. } | Phase::Assembling => false,
            Phase::Running => true,
            Phase::Stopping => self.start_epoch > 0,
        };
        is_known && self.durable_epoch >= self.start_epoch
    }

    fn has_started_and_runs(&self) -> bool {
        self.phase == Phase::Running && self.has_started()
    }

    /// Which of the original's four words holds.
    pub(crate) fn state(&self) -> super::ArrayState {
        let out = self.members.len() - self.in_sync_count();
        if !self.has_started_and_runs() || self.durably_in_sync_count() < self.needed() {
            super::ArrayState::Failed
        } else if self
            .members
            .values()
            // Until it is open nothing is recovered.
            .any(|member| matches!(member.standing, State::Recovering(_)) && member.is_open())
            || self
                .recovery
                .as_ref()
                .is_some_and(|running| running.joining.is_some())
        {
            super::ArrayState::Recovering
        } else if out > 0 {
            super::ArrayState::Degraded
        } else {
            super::ArrayState::Optimal
        }
    }

    /// With fewer members in sync the set means nothing any more, and the array starts anew. In `coop`
    /// mode that is so below a majority, because others may go on with the rest.
    fn least(&self) -> usize {
        if self.is_coop() {
            self.members.len() / 2 + 1
        } else {
            1
        }
    }

    /// The last transaction that is known to have been acknowledged.
    ///
    /// That is the head, but where a start has found less than a majority in `coop` mode, and makes the others level
    /// before it serves: meanwhile other daemons may go on without what these few end with. Whoever took that for
    /// acknowledged would stand against them for ever, and call their copies wrong.
    pub(in crate::raid) fn acknowledged(&self) -> Tid {
        if self.durably_in_sync_count() < self.least() {
            self.known
        } else {
            self.head.max(self.known)
        }
    }

    /// Whether others may go on without what the members of the in-sync set end with.
    pub(in crate::raid) fn may_be_wrong(&self) -> bool {
        self.acknowledged() < self.head
    }

    fn needed(&self) -> usize {
        self.rules.min_optimal.max(self.least())
    }

    fn note_state(&mut self, now: Now) {
        let state = self.state();
        let is_out = |state| {
            use super::ArrayState::{Degraded, Recovering};
            matches!(state, Degraded | Recovering)
        };
        // However often a recovery is tried, it is one outage.
        if state != self.last_state && !(is_out(state) && is_out(self.last_state)) {
            self.since = now.wall;
        }
        self.last_state = state;
    }

    pub(crate) fn id_of(&self, name: &str) -> Result<MemberId, Refused> {
        let found = self.members.iter().find(|(_, member)| member.name == name);
        found
            .map(|(id, _)| *id)
            .ok_or_else(|| Refused::NoSuchMember {
                array: self.rules.array.clone(),
                member: name.to_owned(),
                members: self
                    .members
                    .values()
                    .map(|member| member.name.clone())
                    .collect(),
            })
    }

    /// The record as it should be now.
    fn membership(&self, now: Now) -> Membership {
        let members = self.members.values().map(|member| {
            let standing = match member.out() {
                None => Standing::InSync,
                Some(out) => Standing::Out {
                    reason: out.reason.clone(),
                    since: member.since,
                    needs_operator: out.needs_operator,
                    is_wrong: out.is_wrong,
                    unacknowledged_tail: out.unacknowledged_tail,
                    damaged: out.damaged,
                },
            };
            (member.name.clone(), standing)
        });
        Membership {
            array: self.array,
            epoch: self.epoch,
            members: members.collect(),
            head: self.acknowledged(),
            packed: self.packed,
            time: now.wall,
        }
    }

    /// The in-sync set, or what is known of the others, has changed: from now on nothing is
    /// acknowledged before the record of it is durable.
    fn change_membership(&mut self, now: Now) {
        if self.in_sync_count() > 0 {
            // MODEL: ChangeMembership
            self.epoch += 1;
            self.record_membership(now);
        }
    }

    /// What the record says besides the in-sync set has changed.
    ///
    /// INVARIANT 4: a record that names nobody could never be started from, so none is written before
    /// the first start has found out who is in sync.
    fn record_membership(&mut self, now: Now) {
        if self.in_sync_count() == 0 {
            return;
        }
        let set: BTreeSet<String> = self.in_sync().map(|(_, m)| m.name.clone()).collect();
        if set != self.recorded_set && self.epoch == self.recorded_epoch {
            // Who is not configured any more has left it without a word.
            self.epoch += 1;
        }
        (self.recorded_set, self.recorded_epoch) = (set, self.epoch);
        let membership = self.membership(now);
        (self.recorded_head, self.recorded_head_is_old) = (membership.head, None);
        if self.recorded.is_some() {
            self.recorded = Some(membership.clone());
        }
        self.emit(Effect::Record(membership));
    }

    fn participants(&self) -> BTreeSet<MemberId> {
        self.in_sync().map(|(id, _)| id).collect()
    }
}
