//! Which steps are possible, and what each does.

use stateright::{Model, Property};

use crate::bounds::{Array, Bug};
use crate::commit::Acting;
use crate::properties;
use crate::state::{
    Disk, MEMBERS, Phase, Stage, Tid, Work, World, Wrong, bit, each, has, last, of, up_to,
};

/// A step. Daemons and members are numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    /// One of the daemons does something.
    Daemon(usize, Does),
    /// A member does what it was asked for, in order.
    Write(usize),
    Sync(usize),
    /// It drops it: its connection is closed, or it notices that the connection is gone.
    Drop(usize),
    CrashMember(usize),
    /// An operator puts back a copy of before the last transaction.
    PutOldCopyBack(usize),
    /// An operator empties a copy that waits for him.
    Empty(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Does {
    Crash {
        power: bool,
    },
    Open(usize),
    Start,
    Assembled {
        newest: usize,
    },
    VoteAsked(Tid),
    MemberVoted(usize),
    FinishAsked,
    Gone,
    /// What a foreign transaction wrote is known.
    Inquired,
    /// Who is behind is made level while nobody can go on with the others.
    HoldFurthest,
    /// It took too long until the head was as far as the members are.
    GiveLocksBack,
    MemberFinished(usize),
    /// A call to a member that was restarted fails.
    FindBroken(usize),
    /// A call to a member fails, for whatever reason; it may happen there all the same.
    Cut(usize),
    Disable(usize),
    WriteRecord,
    Recorded,
    RecordFailed {
        is_there: bool,
    },
    Recover(usize),
    StartRecovery(usize),
    Analyse {
        source: usize,
    },
    Copy,
    GrantCatchUp,
    EndCatchUp,
    TargetLevel,
    CutRecovery,
    Foreign(usize),
    Level(usize),
}

impl Model for Array {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let mut world = self.beginning();
        for step in self.after {
            let mut steps = Vec::new();
            self.actions(&world, &mut steps);
            assert!(steps.contains(step), "{step:?} is none of {steps:?}");
            world = self.next_state(&world, *step).unwrap_or(world);
        }
        vec![world]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        if world.wrong.is_some() {
            return;
        }
        for daemon in 0..self.daemons {
            let acting = Acting {
                model: self,
                world: *world,
                daemon,
            };
            acting.steps(|does| steps.push(Step::Daemon(daemon, does)));
        }
        self.steps_of_members(world, steps);
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut world = *world;
        match step {
            Step::Daemon(daemon, does) => {
                let mut acting = Acting {
                    model: self,
                    world,
                    daemon,
                };
                acting.act(does);
                acting.publish();
                world = acting.world;
            }
            Step::Write(member) => {
                let is_file = self.is_file();
                let disk = &mut world.disks[member];
                let tid = disk.hand.trailing_zeros() as Tid + 1;
                disk.hand &= !bit(tid);
                if tid <= last(disk.written) {
                    world.wrong = Some(Wrong::OutOfOrder);
                    return Some(world);
                }
                disk.written |= bit(tid);
                if !is_file {
                    disk.durable = disk.written;
                    disk.lock = None;
                }
            }
            Step::Sync(member) => world.disks[member].durable = world.disks[member].written,
            Step::Drop(member) => {
                let disk = &mut world.disks[member];
                disk.hand = 0;
                disk.lock = None;
            }
            Step::CrashMember(member) => {
                world.left.member_crashes -= 1;
                let disk = &mut world.disks[member];
                disk.written = disk.durable;
                self.restart(&mut world, member);
            }
            Step::PutOldCopyBack(member) => {
                world.left.old_copies -= 1;
                let disk = &mut world.disks[member];
                disk.written &= up_to(last(disk.written) - 1);
                disk.durable = disk.written;
                disk.is_old = true;
                self.restart(&mut world, member);
            }
            Step::Empty(member) => {
                world.disks[member] = Disk {
                    is_old: world.disks[member].is_old,
                    ..Disk::default()
                };
                self.restart(&mut world, member);
            }
        }
        Some(if self.coop {
            world.with_daemons_in_order()
        } else {
            world.normal(self.members)
        })
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all(self)
    }
}

impl Array {
    fn restart(&self, world: &mut World, member: usize) {
        let disk = &mut world.disks[member];
        disk.hand = 0;
        disk.lock = None;
        for daemon in &mut world.daemons[..self.daemons] {
            daemon.broken |= daemon.open & of(member);
        }
    }

    fn steps_of_members(&self, world: &World, steps: &mut Vec<Step>) {
        for (member, disk) in world.disks[..self.members].iter().enumerate() {
            let is_open = |daemon: usize| has(world.daemons[daemon].open, member);
            if disk.hand != 0 {
                steps.push(Step::Write(member));
            }
            if self.is_file() && disk.written != disk.durable && is_open(0) {
                steps.push(Step::Sync(member));
            }
            let is_left = disk.lock.is_some_and(|lock| lock.is_orphan);
            if is_left || self.is_file() && disk.hand != 0 && !is_open(0) {
                steps.push(Step::Drop(member));
            }
            if world.left.member_crashes > 0 && !self.is_file() {
                steps.push(Step::CrashMember(member));
            }
            let nobody_has_it = (0..self.daemons).all(|daemon| !is_open(daemon));
            if world.left.old_copies > 0
                && disk.written != 0
                && disk.hand == 0
                && (nobody_has_it || !self.is_file())
            {
                steps.push(Step::PutOldCopyBack(member));
            }
            let mut daemons = world.daemons[..self.daemons].iter();
            let waits = daemons.clone().any(|it| has(it.needs_operator, member));
            let is_out = daemons.all(|it| {
                let recorded = it.record.map_or(0, |record| record.in_sync);
                !has(it.in_sync | recorded, member)
            });
            if waits && is_out && disk.written != 0 && !self.is_file() {
                steps.push(Step::Empty(member));
            }
        }
    }
}

impl Acting<'_> {
    fn steps(&self, mut may: impl FnMut(Does)) {
        let (me, left) = (self.see(), &self.world.left);
        if left.daemon_crashes > 0 {
            may(Does::Crash { power: false });
            if self.model.is_file() {
                may(Does::Crash { power: true });
            }
        }
        if me.pending.is_some() && me.unreported.is_none() {
            may(Does::WriteRecord);
            if left.record_faults > 0 {
                may(Does::RecordFailed { is_there: false });
                may(Does::RecordFailed { is_there: true });
            }
        }
        if me.unreported.is_some() {
            may(Does::Recorded);
        }
        for member in 0..self.model.members {
            self.steps_with(member, &mut may);
        }
        if self.may_start() {
            may(Does::Start);
        }
        if let Phase::Assembling { asked, .. } = me.phase {
            for newest in each(self.newest_of(asked)) {
                may(Does::Assembled { newest });
            }
        }
        if self.is_serving() && self.lock_is_free() {
            for tid in self.free_tids() {
                may(Does::VoteAsked(tid));
            }
        }
        if me.foreign & !me.inquired != 0 {
            may(Does::Inquired);
        }
        for commit in me.commits() {
            match commit.stage {
                Stage::Voted => {
                    may(Does::FinishAsked);
                    may(Does::Gone);
                }
                Stage::AwaitsHead => {
                    if self.behind() != 0 {
                        may(Does::HoldFurthest);
                    }
                    may(Does::GiveLocksBack);
                    may(Does::Gone);
                }
                Stage::AwaitsRecord | Stage::Levelling => may(Does::Gone),
                _ => {}
            }
        }
        self.steps_of_recovery(&mut may);
    }

    fn steps_with(&self, member: usize, may: &mut impl FnMut(Does)) {
        let (me, left) = (self.see(), &self.world.left);
        if self.may_open(member) {
            may(Does::Open(member));
        }
        if self.may_vote(member) {
            may(Does::MemberVoted(member));
        }
        if self.answered(member).is_some() {
            may(Does::MemberFinished(member));
        }
        if has(me.open & me.broken, member) {
            may(Does::FindBroken(member));
        } else if has(me.open, member) && left.cuts > 0 {
            may(Does::Cut(member));
        }
        if left.disables > 0 && self.may_disable(member) {
            may(Does::Disable(member));
        }
        // Before a start that is for whom an operator has disabled.
        let may_ask = match me.phase {
            Phase::Running => me.needs_operator,
            Phase::Opening => me.disabled,
            Phase::Assembling { .. } => 0,
        };
        if has(may_ask, member) && me.recovery.is_none() {
            may(Does::Recover(member));
        }
        if self.may_recover(member) {
            may(Does::StartRecovery(member));
        }
        if self.has_news(member) {
            may(Does::Foreign(member));
        }
        if let Some((_, lack)) = self.to_level()
            && has(lack, member)
            && self.may_restore(member)
        {
            may(Does::Level(member));
        }
    }

    fn steps_of_recovery(&self, may: &mut impl FnMut(Does)) {
        let Some(recovery) = self.see().recovery else {
            return;
        };
        let target = usize::from(recovery.target);
        if recovery.work != Work::Joining && self.world.left.cuts > 0 {
            may(Does::CutRecovery);
        }
        match recovery.work {
            Work::Joining => {}
            Work::Analyse => {
                if self.see().is_usable(target) {
                    for source in self.sources() {
                        may(Does::Analyse { source });
                    }
                }
            }
            Work::Copy { source, at } => {
                if !self.see().is_usable(source.into()) || !self.may_restore(target) {
                    return;
                }
                if self.next_to_copy(source, at).is_some() {
                    may(Does::Copy);
                }
                if self.may_catch_up() {
                    may(Does::GrantCatchUp);
                }
            }
            Work::CatchUp { source, at } => {
                may(Does::EndCatchUp);
                if !self.see().is_usable(source.into()) || !self.may_restore(target) {
                    return;
                }
                if self.next_to_copy(source, at).is_some() {
                    may(Does::Copy);
                    if self.model.is(Bug::RecoverWithoutTheLast) {
                        may(Does::TargetLevel);
                    }
                } else {
                    may(Does::TargetLevel);
                }
            }
        }
    }

    fn act(&mut self, does: Does) {
        let recovery = self.see().recovery;
        let target = recovery.map_or(MEMBERS, |it| usize::from(it.target));
        let work = recovery.map_or(Work::Joining, |it| it.work);
        match (does, work) {
            (Does::Crash { power }, _) => self.crash(power),
            (Does::Open(member), _) => self.open(member),
            (Does::Start, _) => self.start(),
            (Does::Assembled { newest }, _) => self.assembled(newest),
            (Does::VoteAsked(tid), _) => self.vote_asked(tid),
            (Does::MemberVoted(member), _) => self.member_voted(member),
            (Does::FinishAsked, _) => self.finish_asked(),
            (Does::Gone, _) => self.gone(),
            (Does::Inquired, _) => self.inquired(),
            (Does::HoldFurthest, _) => self.hold_furthest(),
            (Does::GiveLocksBack, _) => self.give_locks_back(),
            (Does::MemberFinished(member), _) => self.member_finished(member),
            (Does::FindBroken(member), _) => self.lose(member, false),
            (Does::Cut(member), _) => {
                self.world.left.cuts -= 1;
                self.lose(member, false);
            }
            (Does::Disable(member), _) => self.disable(member),
            (Does::WriteRecord, _) => self.write_record(),
            (Does::Recorded, _) => self.recorded(),
            (Does::RecordFailed { is_there }, _) => self.record_failed(is_there),
            (Does::Recover(member), _) => self.recover(member),
            (Does::StartRecovery(member), _) => self.start_recovery(member),
            (Does::Analyse { source }, _) => self.analyse(target, source),
            (Does::Copy, work) => self.copy(target, work),
            (Does::GrantCatchUp, Work::Copy { source, at }) => self.grant_catch_up(source, at),
            (Does::EndCatchUp, Work::CatchUp { source, at }) => self.end_catch_up(source, at),
            (Does::TargetLevel, Work::CatchUp { source, at }) => {
                self.target_level(target, source, at);
            }
            (Does::CutRecovery, _) => {
                self.world.left.cuts -= 1;
                self.end_recovery();
            }
            (Does::Foreign(member), _) => self.foreign(member),
            (Does::Level(member), _) => {
                if let Some((source, _)) = self.to_level() {
                    self.level(source, member);
                }
            }
            (Does::GrantCatchUp | Does::EndCatchUp | Does::TargetLevel, _) => {}
        }
    }
}
