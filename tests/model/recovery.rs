//! Recoveries: `controller/recover.rs` and `recovery/`.

use crate::bounds::Bug;
use crate::commit::Acting;
use crate::names::{T, take};
use crate::state::{Phase, Recovery, Tid, Work, bit, each, has, last, of, up_to};

impl Acting<'_> {
    /// An operator asks: what stands against it may be cut.
    pub(crate) fn recover(&mut self, target: usize) {
        take(T::Recover);
        let may_cut = self.model.is_file();
        let me = self.me();
        me.needs_operator &= !of(target);
        me.disabled &= !of(target);
        if may_cut {
            me.tail |= of(target);
        }
    }

    pub(crate) fn may_recover(&self, target: usize) -> bool {
        let me = self.see();
        me.phase == Phase::Running
            && me.recovery.is_none()
            && has(me.open & !me.in_sync & !me.needs_operator, target)
    }

    pub(crate) fn start_recovery(&mut self, target: usize) {
        take(T::StartRecovery);
        self.me().recovery = Some(Recovery {
            target: target as u8,
            work: Work::Analyse,
        });
    }

    fn work(&mut self, work: Work) {
        if let Some(recovery) = &mut self.me().recovery {
            recovery.work = work;
        }
    }

    pub(crate) fn sources(&self) -> impl Iterator<Item = usize> + use<> {
        each(self.see().readable() & !self.see().broken)
    }

    pub(crate) fn analyse(&mut self, target: usize, source: usize) {
        take(T::Analyse);
        let ours = self.world.disks[source].written;
        let theirs = self.world.disks[target].written;
        let ends = last(theirs);
        let common = if bit(ends) & ours == bit(ends) {
            ends
        } else {
            last(theirs & ours)
        };
        let copy = Work::Copy {
            source: source as u8,
            at: common,
        };
        if common == ends || self.model.is(Bug::KeepTheTail) {
            return self.work(copy);
        }
        if self.model.coop && common == last(ours) {
            // Others will have it too, or go on without it.
            return self.end_recovery();
        }
        let may_cut = self.model.is_file() && has(self.see().tail, target);
        if may_cut {
            take(T::Rewind);
            let disk = &mut self.world.disks[target];
            disk.written &= up_to(common);
            disk.durable = disk.written;
            return self.work(copy);
        }
        if self.acknowledged() < self.see().head {
            // Which of the two is right only more members can tell.
            self.end_recovery();
            return self.start_anew(target);
        }
        self.me().needs_operator |= of(target);
        self.me().disabled &= !of(target);
        self.end_recovery();
        self.record_membership();
    }

    /// What is copied next, where there is something: of what is acknowledged, the first that comes after
    /// what the target holds in common.
    pub(crate) fn next_to_copy(&self, source: u8, at: Tid) -> Option<Tid> {
        let ours = self.world.disks[usize::from(source)].written & up_to(self.see().head);
        let rest = ours & !up_to(at);
        (rest != 0).then(|| rest.trailing_zeros() as Tid + 1)
    }

    /// Where the target ends by now: others may write to it. None where what it holds is not the source's.
    fn end_of(&self, target: usize, source: u8, at: Tid) -> Option<Tid> {
        let theirs = self.world.disks[target].written;
        let ends = last(theirs);
        if ends <= at || self.model.is(Bug::KeepTheTail) {
            return Some(at);
        }
        let ours = self.world.disks[usize::from(source)].written;
        if ours & bit(ends) != 0 {
            return Some(ends);
        }
        self.model.is(Bug::CopyOnTopOfOthers).then_some(at)
    }

    pub(crate) fn may_restore(&self, target: usize) -> bool {
        self.see().is_usable(target)
            && (self.model.is_file() || self.world.disks[target].lock.is_none())
    }

    /// Copies one transaction, with or without the commit lock.
    pub(crate) fn copy(&mut self, target: usize, work: Work) {
        let (Work::Copy { source, at } | Work::CatchUp { source, at }) = work else {
            return;
        };
        let Some(at) = self.end_of(target, source, at) else {
            take(T::Overtaken);
            return self.work(Work::Analyse);
        };
        let at = match self.next_to_copy(source, at) {
            None => at,
            Some(tid) if tid <= last(self.world.disks[target].written) => {
                take(T::Overtaken);
                return self.work(Work::Analyse);
            }
            Some(tid) => {
                take(T::Copy);
                let disk = &mut self.world.disks[target];
                disk.written |= bit(tid);
                disk.durable = disk.written;
                let me = self.me();
                me.told[target] |= bit(tid);
                me.ends[target] = me.ends[target].max(tid);
                tid
            }
        };
        self.work(match work {
            Work::Copy { .. } => Work::Copy { source, at },
            _ => Work::CatchUp { source, at },
        });
    }

    pub(crate) fn may_catch_up(&self) -> bool {
        let free = self.lock_is_free() && self.see().commits[0].is_none();
        free || self.model.is(Bug::CatchUpWithoutLock)
    }

    pub(crate) fn grant_catch_up(&mut self, source: u8, at: Tid) {
        take(T::GrantCatchUp);
        self.work(Work::CatchUp { source, at });
    }

    pub(crate) fn end_catch_up(&mut self, source: u8, at: Tid) {
        take(T::EndCatchUp);
        self.work(Work::Copy { source, at });
        self.settle_foreign();
    }

    /// The target says that it holds everything.
    pub(crate) fn target_level(&mut self, target: usize, source: u8, at: Tid) {
        let lacks_the_last = self.model.is(Bug::RecoverWithoutTheLast);
        // What it ends with is asked for, and that nothing else came to it.
        let ends = last(self.world.disks[target].written);
        let head = self.see().head;
        let is_level = ends == head || self.model.coop && ends > head || lacks_the_last;
        if self.end_of(target, source, at).is_none() || !is_level {
            take(T::Overtaken);
            self.work(Work::Analyse);
            return self.settle_foreign();
        }
        take(T::LetIn);
        let me = self.me();
        me.ends[target] = me.ends[target].max(ends);
        me.in_sync |= of(target);
        self.work(Work::Joining);
        self.change_membership();
    }

    pub(crate) fn end_recovery(&mut self) {
        take(T::EndRecovery);
        self.me().recovery = None;
        self.settle_foreign();
    }
}
