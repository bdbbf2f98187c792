//! Others who write to the members: `controller/coop.rs` and `foreign.rs`.

use crate::bounds::Bug;
use crate::commit::Acting;
use crate::names::{T, take};
use crate::state::{Mask, Phase, Stage, Tid, Work, bit, count, each, has, last, of, up_to};

impl Acting<'_> {
    /// What the connection to this member has not told yet. Of its own the daemon hears by the answers.
    fn news(&self, member: usize) -> Mask {
        let me = self.see();
        if self.model.is_file() || !me.is_usable(member) {
            return 0;
        }
        let own = me.commits().filter(|it| it.stage == Stage::Finishing);
        let own = own.filter(|it| has(it.waits, member));
        let own = own.fold(0, |all, one| all | bit(one.tid));
        self.world.disks[member].written & !me.told[member] & !own
    }

    pub(crate) fn has_news(&self, member: usize) -> bool {
        self.news(member) != 0
    }

    /// A member tells of a transaction of somebody else.
    pub(crate) fn foreign(&mut self, member: usize) {
        let news = self.news(member);
        if news == 0 {
            return;
        }
        take(T::Foreign);
        let tid = news.trailing_zeros() as Tid + 1;
        let me = self.me();
        me.told[member] |= bit(tid);
        let assembling = matches!(me.phase, Phase::Assembling { .. });
        if !has(me.in_sync, member) && !assembling || me.phase == Phase::Opening {
            me.ends[member] = me.ends[member].max(tid);
            return;
        }
        if !self.model.coop {
            if tid > self.see().head {
                self.lose(member, true);
            }
            return;
        }
        let me = self.me();
        me.foreign |= bit(tid);
        me.reported[member] |= bit(tid);
        self.settle_foreign();
    }

    /// It is known what foreign transactions wrote.
    pub(crate) fn inquired(&mut self) {
        take(T::Inquired);
        let me = self.me();
        me.inquired = me.foreign;
        self.settle_foreign();
    }

    fn holds(&self, member: usize, tid: Tid) -> bool {
        let me = self.see();
        let ends = me.ends[member];
        // A later end says nothing of what is before it: the member may have gone on without it.
        me.reported[member] & bit(tid) != 0
            || ends == tid
            || ends > tid && self.model.is(Bug::EndsProveWhatIsBefore)
    }

    /// Where a member ends, as far as anybody has told.
    fn end(&self, member: usize) -> Tid {
        let me = self.see();
        me.ends[member].max(last(me.reported[member]))
    }

    fn forget_foreign(&mut self, tid: Tid) {
        let me = self.me();
        me.foreign &= !bit(tid);
        me.inquired &= !bit(tid);
        for reported in &mut me.reported {
            *reported &= !bit(tid);
        }
    }

    pub(crate) fn holds_unacknowledged(&self, member: usize) -> bool {
        let foreign = self.see().foreign;
        (1..=8).any(|tid| foreign & bit(tid) != 0 && self.holds(member, tid))
    }

    /// Acknowledges what every member of the in-sync set holds, in TID order.
    pub(crate) fn settle_foreign(&mut self) {
        if !self.model.coop || self.see().phase != Phase::Running {
            return;
        }
        while self.see().foreign != 0 {
            let tid = self.see().foreign.trailing_zeros() as Tid + 1;
            let in_sync = self.see().in_sync;
            let any = each(in_sync).any(|member| self.holds(member, tid));
            if tid <= self.see().head || !any {
                self.forget_foreign(tid);
                continue;
            }
            let ours_before = {
                let mut commits = self.see().commits();
                commits.any(|it| it.is_finishing() && it.tid < tid)
            };
            let all = each(in_sync).all(|member| self.holds(member, tid))
                || self.model.is(Bug::AcknowledgeForeignEarly);
            let catching_up = matches!(
                self.see().recovery.map(|it| it.work),
                Some(Work::CatchUp { .. } | Work::Joining)
            );
            let is_known = self.see().inquired & bit(tid) != 0;
            if ours_before || catching_up || !all || !is_known || !self.see().is_durable {
                break;
            }
            take(T::AcknowledgeForeign);
            let me = self.me();
            me.head = tid;
            me.last_given = me.last_given.max(tid);
            for member in each(in_sync) {
                me.ends[member] = me.ends[member].max(tid);
            }
            self.forget_foreign(tid);
        }
        self.vote_again_if_level();
    }

    /// Who lacks the first of them, and from whom it may be copied.
    pub(crate) fn to_level(&self) -> Option<(usize, Mask)> {
        let me = self.see();
        let catching_up = matches!(me.recovery.map(|it| it.work), Some(Work::CatchUp { .. }));
        if me.phase != Phase::Running || catching_up || me.has_finishing() || me.foreign == 0 {
            return None;
        }
        let tid = me.foreign.trailing_zeros() as Tid + 1;
        let those = |wanted: &dyn Fn(usize) -> bool| {
            let members = each(me.in_sync).filter(|member| wanted(*member));
            members.fold(0, |all, one| all | of(one))
        };
        let lack = those(&|member| !self.holds(member, tid));
        let beyond = those(&|member| !self.holds(member, tid) && self.end(member) > tid);
        let (sources, targets) = if count(beyond) as usize * 2 > self.model.members {
            // Whether these have it nobody knows; where not, whoever has it is wrong.
            (beyond, me.in_sync & !beyond)
        } else {
            (me.in_sync & !lack, lack)
        };
        let source = each(sources).next()?;
        (targets != 0 && me.is_usable(source)).then_some((source, targets))
    }

    pub(crate) fn level(&mut self, source: usize, target: usize) {
        take(T::Level);
        let is_free = self.see().commits().all(|it| has(it.waits, target));
        if !is_free {
            self.give_locks_back();
        }
        let (foreign, end) = (self.see().foreign, self.end(source));
        let first = foreign.trailing_zeros() as Tid + 1;
        let held = (1..=8).filter(|tid| foreign & bit(*tid) != 0 && self.holds(source, *tid));
        let through = if self.holds(source, first) {
            held.max().unwrap_or_default()
        } else {
            end
        };
        let ours = self.world.disks[source].written & up_to(through);
        if ours & bit(through) == 0 {
            // It does not give what it told of.
            return self.lose(source, false);
        }
        let ends = last(self.world.disks[target].written);
        // What it has got since the head must be the source's, as far as both go.
        let range = up_to(ends.min(through)) & !up_to(self.see().head);
        let theirs = self.world.disks[target].written;
        if (ours ^ theirs) & range != 0 && !self.model.is(Bug::LevelOnTopOfOthers) {
            return self.lose(target, false);
        }
        let disk = &mut self.world.disks[target];
        if ends < through {
            disk.written |= ours & !up_to(ends);
            disk.durable = disk.written;
        }
        let me = self.me();
        me.told[target] |= ours;
        me.ends[target] = me.ends[target].max(through);
        if through > me.head {
            me.foreign |= bit(through);
            // Both were compared since the head.
            for member in [source, target] {
                me.reported[member] |= me.foreign & up_to(through);
            }
        }
        self.settle_foreign();
    }

    /// Somebody chose a later TID while the lock was waited for.
    pub(crate) fn choose_anew(&mut self, after: Tid) {
        take(T::ChooseAnew);
        let Some(old) = self.me().holder().map(|commit| commit.tid) else {
            return;
        };
        self.abort(old);
        let later = self.free_tids().find(|tid| *tid > after);
        let Some(later) = later else {
            return self.give_up(old);
        };
        self.world.given |= bit(later);
        if let Some(commit) = self.me().holder() {
            commit.tid = later;
        }
        self.ask_for_votes();
    }

    /// All locks are taken: whether the members are level with each other and with the head.
    pub(crate) fn members_are_level(&mut self) -> bool {
        let Some(commit) = self.me().holder().copied() else {
            return false;
        };
        let ends = |member: usize| last(self.world.disks[member].written);
        let (first, end) = (
            each(commit.participants).map(ends).min(),
            each(commit.participants).map(ends).max(),
        );
        if first.is_none() || first == end && end == Some(self.see().head) {
            return true;
        }
        // No others can commit until they are told of what there is.
        let keeps = first == end;
        take(if keeps { T::KeepLocks } else { T::WaitForLevel });
        for member in each(commit.participants) {
            let ends = last(self.world.disks[member].written);
            let me = self.me();
            me.ends[member] = me.ends[member].max(ends);
            if ends > me.head {
                me.foreign |= bit(ends);
                me.reported[member] |= bit(ends);
            }
        }
        // Where nothing is to be told of, who is behind is not what it was, which its next vote shows.
        let waits = self.see().foreign != 0;
        if !waits {
            self.abort(commit.tid);
        }
        if let Some(commit) = self.me().holder() {
            commit.stage = if waits {
                Stage::AwaitsHead
            } else {
                Stage::Levelling
            };
        }
        self.settle_foreign();
        false
    }

    /// Whose locks are ours and who ends before others of them.
    pub(crate) fn behind(&self) -> Mask {
        let Some(commit) = self
            .see()
            .commits()
            .find(|it| it.stage == Stage::AwaitsHead)
        else {
            return 0;
        };
        let ends = |member: usize| last(self.world.disks[member].written);
        let held = commit.participants & !commit.waits;
        let end = each(held).map(ends).max();
        let behind = each(held).filter(|member| Some(ends(*member)) != end);
        behind.fold(0, |all, one| all | of(one))
    }

    /// The locks of those that are behind are given back, and asked for again when they are level.
    pub(crate) fn hold_furthest(&mut self) {
        take(T::HoldFurthest);
        let behind = self.behind();
        let Some(commit) = self.me().holder() else {
            return;
        };
        commit.waits |= behind;
        let tid = commit.tid;
        for member in each(behind) {
            let lock = &mut self.world.disks[member].lock;
            lock.take_if(|lock| lock.tid == tid && !lock.is_orphan);
        }
    }

    /// Whoever makes members level needs their locks, and so do the other daemons.
    pub(crate) fn give_locks_back(&mut self) {
        let Some(commit) = self.me().holder().copied() else {
            return;
        };
        if commit.stage != Stage::AwaitsHead {
            return;
        }
        take(T::GiveLocksBack);
        self.abort(commit.tid);
        if let Some(commit) = self.me().holder() {
            commit.stage = Stage::Levelling;
            commit.waits = 0;
        }
        self.vote_again_if_level();
    }

    fn vote_again_if_level(&mut self) {
        if self.see().foreign != 0 {
            return;
        }
        let head = self.see().head;
        let Some(commit) = self.me().holder().copied() else {
            return;
        };
        if commit.stage == Stage::AwaitsHead {
            if let Some(commit) = self.me().holder() {
                commit.stage = Stage::Voting;
            }
            return self.settle_votes();
        }
        if commit.stage != Stage::Levelling {
            return;
        }
        take(T::VoteAgain);
        if commit.tid > head {
            return self.ask_for_votes();
        }
        let Some(tid) = self.free_tids().next() else {
            return self.give_up(commit.tid);
        };
        self.world.given |= bit(tid);
        if let Some(commit) = self.me().holder() {
            commit.tid = tid;
        }
        self.ask_for_votes();
    }
}
