//! Commits and the record: `controller/commit.rs`, and the runner's part of it.

use crate::bounds::{Array, Bug};
use crate::names::{T, take};
use crate::state::{
    Commit, Daemon, Lock, MEMBERS, Mask, Phase, Record, Recovery, Stage, Tid, Work, World, bit,
    count, each, has, last, of, up_to,
};

/// A daemon that does something.
pub(crate) struct Acting<'a> {
    pub model: &'a Array,
    pub world: World,
    pub daemon: usize,
}

impl Acting<'_> {
    pub(crate) fn me(&mut self) -> &mut Daemon {
        &mut self.world.daemons[self.daemon]
    }

    pub(crate) fn see(&self) -> &Daemon {
        &self.world.daemons[self.daemon]
    }

    pub(crate) fn is_serving(&self) -> bool {
        let me = self.see();
        self.can_read() && count(me.in_sync) >= self.model.needed()
    }

    pub(crate) fn can_read(&self) -> bool {
        let me = self.see();
        let started = me.is_started || self.model.is(Bug::ServeBeforeRecord);
        let enough = count(me.in_sync) >= self.model.needed()
            || self.model.read_only
                && (count(me.in_sync) >= self.model.least()
                    || self.model.is(Bug::ReadBelowMajority))
            || self.model.is(Bug::ServeBelowMajority);
        me.phase == Phase::Running && started && enough
    }

    /// Members of the in-sync set without one whose entry is not durable.
    pub(crate) fn durably_in_sync(&self) -> u32 {
        let me = self.see();
        count(me.in_sync) - u32::from(me.joining().is_some())
    }

    /// The last transaction that is known to have been acknowledged.
    pub(crate) fn acknowledged(&self) -> Tid {
        let me = self.see();
        let enough = self.durably_in_sync() >= self.model.least();
        if enough || self.model.is(Bug::HeadOfFewIsAcknowledged) {
            me.head.max(me.known)
        } else {
            me.known
        }
    }

    /// Whatever can be read counts as acknowledged.
    pub(crate) fn publish(&mut self) {
        if self.can_read()
            && let Some(member) = each(self.see().readable()).next()
        {
            let read = self.world.disks[member].written & up_to(self.see().head);
            self.world.acknowledged |= read;
        }
    }

    /// TIDs are the clock's: none is given twice, and daemons' clocks differ.
    pub(crate) fn free_tids(&self) -> impl Iterator<Item = Tid> + use<> {
        let (given, after) = (self.world.given, self.see().last_given);
        let newest = if self.model.daemons > 1 {
            after
        } else {
            last(given).max(after)
        };
        let most = if self.model.daemons > 1 { 8 } else { 1 };
        let free = (newest + 1..=self.model.transactions).filter(move |tid| given & bit(*tid) == 0);
        free.take(most)
    }

    /// Nobody waits for his votes, or for a finish where that holds the lock, and nobody catches up.
    pub(crate) fn lock_is_free(&self) -> bool {
        let me = self.see();
        let mut commits = me.commits();
        let pipelined = self.model.is_file();
        let unlocked = commits.all(|commit| pipelined && commit.is_finishing());
        unlocked && !me.is_catching_up() && me.commits[1].is_none()
    }

    pub(crate) fn vote_asked(&mut self, tid: Tid) {
        self.world.given |= bit(tid);
        let me = self.me();
        let place = usize::from(me.commits[0].is_some());
        me.commits[place] = Some(Commit {
            tid,
            stage: Stage::Voting,
            participants: 0,
            waits: 0,
        });
        self.ask_for_votes();
    }

    pub(crate) fn ask_for_votes(&mut self) {
        take(T::AskForVotes);
        let me = self.me();
        let in_sync = me.in_sync;
        if let Some(commit) = me.holder() {
            commit.stage = Stage::Voting;
            commit.participants = in_sync;
            commit.waits = in_sync;
        }
    }

    /// Who is asked for his vote now.
    pub(crate) fn may_vote(&self, member: usize) -> bool {
        let mut commits = self.see().commits();
        let Some(commit) = commits.find(|commit| commit.stage == Stage::Voting) else {
            return false;
        };
        let asked = has(commit.waits, member) && self.see().is_usable(member);
        let turn = if self.model.is(Bug::LocksInAnyOrder) && self.daemon == 1 {
            commit.waits.checked_ilog2()
        } else {
            Some(commit.waits.trailing_zeros())
        };
        // In one order that is the same for every daemon.
        let is_next = !self.model.coop || turn == Some(member as u32);
        asked && is_next && (self.model.is_file() || self.world.disks[member].lock.is_none())
    }

    pub(crate) fn member_voted(&mut self, member: usize) {
        take(T::MemberVoted);
        // What others wrote is told before the vote is.
        while self.has_news(member) {
            self.foreign(member);
            if !self.may_vote(member) {
                return;
            }
        }
        let ends = last(self.world.disks[member].written);
        let (head, daemon) = (self.see().head, self.daemon as u8);
        let Some(tid) = self.me().holder().map(|commit| commit.tid) else {
            return;
        };
        if !self.model.is_file() {
            if ends < head {
                return self.lose(member, true);
            }
            if ends >= tid && !self.model.is(Bug::TidNotCompared) {
                return self.choose_anew(ends);
            }
            self.world.disks[member].lock = Some(Lock {
                daemon,
                tid,
                is_orphan: false,
            });
        }
        let is_file = self.model.is_file();
        if let Some(commit) = self.me().holder() {
            // Nobody can tell the order of votes apart where no lock is taken.
            commit.waits &= if is_file { 0 } else { !of(member) };
        }
        self.settle_votes();
    }

    pub(crate) fn settle_votes(&mut self) {
        let Some(commit) = self.me().holder().copied() else {
            return;
        };
        if commit.stage != Stage::Voting || commit.waits != 0 {
            return;
        }
        if self.model.coop && !self.model.is(Bug::MembersNotCompared) && !self.members_are_level() {
            return;
        }
        take(T::CountBallots);
        if commit.participants == 0 {
            self.give_up(commit.tid);
            return;
        }
        if let Some(commit) = self.me().holder() {
            commit.stage = Stage::Voted;
        }
    }

    /// Members drop what they hold of a transaction that nobody was asked to finish.
    pub(crate) fn abort(&mut self, tid: Tid) {
        for disk in &mut self.world.disks {
            disk.lock.take_if(|lock| lock.tid == tid && !lock.is_orphan);
        }
    }

    /// The client is told that it did not happen.
    pub(crate) fn give_up(&mut self, tid: Tid) {
        take(T::GiveUp);
        self.abort(tid);
        self.world.aborted |= bit(tid);
        self.me().forget(tid);
    }

    pub(crate) fn gone(&mut self) {
        take(T::Gone);
        if let Some(tid) = self.me().holder().map(|commit| commit.tid) {
            self.give_up(tid);
        }
    }

    pub(crate) fn finish_asked(&mut self) {
        take(T::FinishAsked);
        if let Some(commit) = self.me().holder() {
            commit.stage = Stage::AwaitsRecord;
        }
        self.proceed_to_finish();
    }

    fn proceed_to_finish(&mut self) {
        let durable = self.see().is_durable || self.model.is(Bug::FinishBeforeRecord);
        let Some(commit) = self.me().holder().copied() else {
            return;
        };
        if commit.stage != Stage::AwaitsRecord || !durable {
            return;
        }
        if commit.participants == 0 {
            return self.give_up(commit.tid);
        }
        take(T::AskToFinish);
        for member in each(commit.participants) {
            // To who was restarted since it does not come.
            if self.see().is_usable(member) {
                self.world.disks[member].hand |= bit(commit.tid);
            }
        }
        let me = self.me();
        me.last_given = commit.tid;
        if let Some(commit) = me.holder() {
            commit.stage = Stage::Finishing;
            commit.waits = commit.participants;
        }
        self.settle_finishing();
    }

    /// The first finish of this member that is answered.
    pub(crate) fn answered(&self, member: usize) -> Option<Tid> {
        let disk = &self.world.disks[member];
        let done = if self.model.is(Bug::AcknowledgeBeforeSync) {
            disk.written
        } else {
            disk.durable
        };
        let mut commits = self.see().commits();
        let commit =
            commits.find(|commit| commit.stage == Stage::Finishing && has(commit.waits, member))?;
        (done & bit(commit.tid) != 0 && self.see().is_usable(member)).then_some(commit.tid)
    }

    pub(crate) fn member_finished(&mut self, member: usize) {
        let Some(tid) = self.answered(member) else {
            return;
        };
        take(T::MemberFinished);
        let at_once = self.model.is(Bug::AcknowledgeWithoutMember);
        let me = self.me();
        if let Some(commit) = me.commits_mut().find(|commit| commit.tid == tid) {
            commit.waits &= if at_once { 0 } else { !of(member) };
        }
        me.ends[member] = me.ends[member].max(tid);
        me.told[member] |= bit(tid);
        self.settle_finishing();
    }

    pub(crate) fn settle_finishing(&mut self) {
        while let Some(commit) = self.see().commits[0] {
            if !commit.is_finished() {
                break;
            }
            let finished = commit.participants != 0;
            let durable = self.see().is_durable || self.model.is(Bug::AcknowledgeBeforeRecord);
            if finished && !durable {
                take(T::AwaitRecord);
                for commit in self.me().commits_mut().take_while(|it| it.is_finished()) {
                    commit.stage = Stage::AwaitsAck;
                }
                break;
            }
            self.me().forget(commit.tid);
            if finished {
                take(T::Acknowledge);
                let me = self.me();
                me.head = me.head.max(commit.tid);
                self.world.acknowledged |= bit(commit.tid);
            }
        }
        if !self.see().has_finishing() {
            self.settle_foreign();
        }
    }

    pub(crate) fn membership(&self) -> Record {
        let me = self.see();
        Record {
            in_sync: me.in_sync,
            needs_operator: me.needs_operator,
            tail: me.tail,
            head: self.acknowledged(),
        }
    }

    pub(crate) fn change_membership(&mut self) {
        take(T::ChangeMembership);
        let me = self.me();
        me.is_durable = false;
        me.unreported = me.unreported.map(|_| false);
        self.record_membership();
    }

    pub(crate) fn record_membership(&mut self) {
        if self.see().in_sync == 0 && !self.model.is(Bug::RemoveTheLast) {
            return;
        }
        let mut record = self.membership();
        if self.model.is(Bug::RecordForgets) {
            record.in_sync |= self.see().record.map_or(0, |it| it.in_sync);
        }
        self.me().pending = Some(record);
    }

    /// The newest record becomes durable.
    pub(crate) fn write_record(&mut self) {
        take(T::WriteRecord);
        let me = self.me();
        me.record = me.pending.take();
        me.unreported = Some(true);
    }

    pub(crate) fn recorded(&mut self) {
        take(T::Recorded);
        let me = self.me();
        if me.unreported.take() != Some(true) {
            return;
        }
        me.is_durable = true;
        if me.phase == Phase::Running {
            me.is_started = true;
        }
        self.joined_durably();
        self.proceed_to_finish();
        self.settle_finishing();
        self.settle_foreign();
    }

    /// It was not written, as far as anybody can tell.
    pub(crate) fn record_failed(&mut self, is_there: bool) {
        take(T::RecordFailed);
        self.world.left.record_faults -= 1;
        let me = self.me();
        if is_there {
            me.record = me.pending;
        }
        let was_durable = me.is_durable;
        if !was_durable {
            if me.joining().is_some() {
                self.join_failed();
            }
            if self.model.is(Bug::FinishBeforeRecord)
                && let Some(commit) = self.see().commits[0].filter(Commit::is_finishing)
            {
                self.give_up(commit.tid);
            }
            let waiting = self.me().holder().copied();
            if let Some(commit) = waiting.filter(|it| it.stage == Stage::AwaitsRecord) {
                self.give_up(commit.tid);
            }
        }
        // It is tried again at the next tick.
        self.record_membership();
    }

    /// The record that lets the target in is durable.
    fn joined_durably(&mut self) {
        let me = self.me();
        if let Some(target) = me.joining() {
            take(T::Joined);
            me.recovery = None;
            me.tail &= !of(target);
            self.me().known = self.acknowledged();
        }
    }

    pub(crate) fn join_failed(&mut self) {
        let Some(target) = self.see().joining() else {
            return;
        };
        take(T::JoinFailed);
        let me = self.me();
        me.recovery = None;
        if has(me.in_sync, target) {
            me.in_sync &= !of(target);
            me.tail &= !of(target);
            self.change_membership();
        }
    }
}

/// A recovery that has not joined yet begins anew, with another source.
pub(crate) fn without_source(daemon: &mut Daemon, lost: usize) {
    if let Some(Recovery { work, .. }) = &mut daemon.recovery
        && let Work::Copy { source, .. } | Work::CatchUp { source, .. } = *work
        && usize::from(source) == lost
    {
        *work = Work::Analyse;
    }
}

pub(crate) const NOBODY: [Mask; MEMBERS] = [0; MEMBERS];
