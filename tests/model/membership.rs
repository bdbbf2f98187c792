//! Members come and go, and the start: `controller/membership.rs`, `controller/start.rs`.

use crate::bounds::{Bug, Policy};
use crate::commit::{Acting, NOBODY, without_source};
use crate::names::{T, take};
use crate::state::{Mask, Phase, Wrong, bit, count, each, has, last, of, up_to};

/// How a history relates to the newest.
#[derive(PartialEq)]
enum Compared {
    Level,
    Behind,
    Diverged,
}

fn compare(newest: Mask, other: Mask) -> Compared {
    let ends = last(other);
    if other == newest {
        Compared::Level
    } else if ends == 0 || bit(ends) & newest != 0 {
        // Both hold the last one: what is before is the same.
        if ends >= last(newest) {
            Compared::Level
        } else {
            Compared::Behind
        }
    } else {
        Compared::Diverged
    }
}

impl Acting<'_> {
    pub(crate) fn may_open(&self, member: usize) -> bool {
        let me = self.see();
        let disk = &self.world.disks[member];
        // A file is closed before it is opened again.
        let closed = !self.model.is_file() || disk.hand == 0;
        !has(me.open | me.needs_operator, member) && closed
    }

    pub(crate) fn open(&mut self, member: usize) {
        take(T::Open);
        let syncs = !self.model.is(Bug::OpenWithoutSync);
        let disk = &mut self.world.disks[member];
        if syncs {
            disk.durable = disk.written;
        }
        let written = disk.written;
        let shared = !self.model.is_file();
        let me = self.me();
        me.open |= of(member);
        me.broken &= !of(member);
        me.ends[member] = last(written);
        if shared {
            me.told[member] = written;
        }
        me.is_blocked = false;
    }

    fn hinges_on(&self, member: usize) -> bool {
        let me = self.see();
        let is_counted = has(me.in_sync, member) && me.joining() != Some(member);
        is_counted && self.durably_in_sync() <= self.model.least()
    }

    fn close(&mut self, member: usize) {
        let daemon = self.daemon as u8;
        let me = self.me();
        me.open &= !of(member);
        me.broken &= !of(member);
        me.told[member] = 0;
        me.ends[member] = 0;
        me.reported[member] = 0;
        let lock = &mut self.world.disks[member].lock;
        if let Some(lock) = lock.as_mut().filter(|lock| lock.daemon == daemon) {
            lock.is_orphan = true;
        }
    }

    /// A member failed, answered wrongly, or is disabled.
    pub(crate) fn lose(&mut self, member: usize, needs_operator: bool) {
        take(T::Lose);
        let is_target = self.see().joining() == Some(member);
        let in_sync = has(self.see().in_sync, member);
        if self.hinges_on(member) {
            self.join_failed();
        }
        let least = self.model.least();
        let last_one =
            in_sync && count(self.see().in_sync) <= least && !self.model.is(Bug::RemoveTheLast);
        let undecided = self.see().phase != Phase::Running;
        let is_asked = {
            let mut commits = self.see().commits();
            commits.any(|it| it.is_finishing() && has(it.participants, member))
        };
        let tail = in_sync && (is_asked || self.holds_unacknowledged(member));
        self.close(member);
        if let Phase::Assembling { still, .. } = &mut self.me().phase {
            *still &= !of(member);
        }
        if in_sync && undecided {
            return;
        }
        if last_one {
            return self.start_anew(member);
        }
        let me = self.me();
        if needs_operator {
            me.disabled &= !of(member);
            me.needs_operator |= of(member);
        }
        if in_sync {
            me.in_sync &= !of(member);
            me.tail = me.tail & !of(member) | if tail { of(member) } else { 0 };
            self.change_membership();
            if is_target {
                self.join_failed();
                self.me().recovery = None;
            }
        } else if me
            .recovery
            .is_some_and(|it| usize::from(it.target) == member)
        {
            me.recovery = None;
        }
        without_source(self.me(), member);
        self.drop_participant(member);
    }

    fn drop_participant(&mut self, member: usize) {
        take(T::DropParticipant);
        for commit in self.me().commits_mut() {
            commit.participants &= !of(member);
            commit.waits &= !of(member);
        }
        self.settle_votes();
        self.settle_finishing();
        self.settle_foreign();
    }

    /// No member is left that more could be taken from: the array starts again from the set as it is.
    pub(crate) fn start_anew(&mut self, lost: usize) {
        take(T::StartAnew);
        let coop = self.model.coop;
        let known = self.acknowledged();
        let me = self.me();
        me.known = known;
        me.recorded = true;
        me.foreign = 0;
        me.inquired = 0;
        me.reported = NOBODY;
        me.phase = Phase::Opening;
        me.is_started = false;
        if coop {
            for commit in me.commits_mut().filter(|it| it.is_finishing()) {
                commit.waits = 0;
                commit.participants = 0;
            }
        }
        self.drop_participant(lost);
        while let Some(commit) = self.me().holder().copied() {
            self.give_up(commit.tid);
        }
        self.me().recovery = None;
    }

    pub(crate) fn may_disable(&self, member: usize) -> bool {
        let me = self.see();
        if me.phase != Phase::Running && me.in_sync == 0 {
            return false;
        }
        let last = me.joining() != Some(member) && self.durably_in_sync() <= self.model.least();
        !(has(me.in_sync, member) && (me.phase != Phase::Running || last))
            && !has(me.needs_operator, member)
    }

    pub(crate) fn disable(&mut self, member: usize) {
        take(T::Disable);
        self.world.left.disables -= 1;
        let in_sync = has(self.see().in_sync, member);
        self.lose(member, true);
        self.me().disabled |= of(member) & self.see().needs_operator;
        if !in_sync {
            self.record_membership();
        }
    }

    fn goes_by_record(&self) -> bool {
        let by_record = self.see().recorded && self.model.policy == Policy::InSync;
        by_record && !self.model.coop
    }

    fn candidates(&self) -> Mask {
        let me = self.see();
        if self.goes_by_record() && !self.model.is(Bug::StartFromAnybody) {
            return me.in_sync;
        }
        let suspects = if self.model.coop && !me.needs_suspects {
            me.tail
        } else {
            0
        };
        self.model.all() & !me.needs_operator & !suspects
    }

    pub(crate) fn may_start(&self) -> bool {
        let me = self.see();
        if me.phase != Phase::Opening || me.is_blocked {
            return false;
        }
        let open = count(self.candidates() & me.open);
        let all = self.model.members as u32;
        let whole_set = me.in_sync != 0 && me.in_sync & !me.open == 0;
        if self.model.coop && !self.model.is(Bug::ServeBelowMajority) {
            return open * 2 > all;
        }
        if me.recorded && whole_set {
            return true;
        }
        match self.model.policy {
            Policy::InSync if self.goes_by_record() => open > 0,
            Policy::InSync if self.model.is(Bug::ServeBelowMajority) => open > 0,
            Policy::InSync => open == all,
            Policy::Majority => open * 2 > all,
            Policy::Newest => open > 0,
        }
    }

    pub(crate) fn start(&mut self) {
        take(T::Start);
        let asked = self.candidates() & self.see().open;
        self.me().phase = Phase::Assembling {
            asked,
            still: asked,
        };
    }

    /// Which may be taken for the newest of those that are compared.
    pub(crate) fn newest_of(&self, asked: Mask) -> Mask {
        let ends = |member: &usize| self.see().ends[*member];
        let newest = each(asked).map(|member| ends(&member)).max();
        let ends_last = each(asked).filter(|member| Some(ends(member)) == newest);
        ends_last.map(of).fold(0, |all, one| all | one)
    }

    pub(crate) fn assembled(&mut self, newest: usize) {
        let Phase::Assembling { asked, still } = self.see().phase else {
            return;
        };
        take(T::Assembled);
        self.me().phase = Phase::Opening;
        let disks = self.world.disks;
        let written = |member: usize| disks[member].written;
        let answers = still & !self.see().broken;
        let known = self.acknowledged();
        // Who goes on after what was acknowledged, without holding it, is another database.
        let trusts = self.model.is(Bug::StartTrustsOldCopy);
        let holds = |member: usize| known == 0 || bit(known) & written(member) != 0;
        let any_holds = each(answers).any(holds);
        let swapped =
            each(answers).filter(|it| any_holds && !holds(*it) && last(written(*it)) > known);
        let swapped = swapped
            .map(of)
            .fold(0, |all, one| if trusts { all } else { all | one });
        let compared = asked & !swapped;
        let newest = if has(compared, newest) {
            newest
        } else {
            match each(self.newest_of(compared)).next() {
                Some(newest) => newest,
                None => return,
            }
        };
        if !has(answers, newest) || (asked & !answers != 0 && !self.see().recorded) {
            // Who does not answer is opened again.
            for member in each(asked & !answers & self.see().open) {
                self.close(member);
            }
            return;
        }
        let mut newest = newest;
        if !self.model.is(Bug::NewestAsItWasOpened) {
            // Who has gone on since it was opened is the newest.
            let ahead = |other: usize| {
                let ends = last(written(newest));
                last(written(other)) > ends && written(other) & up_to(ends) == written(newest)
            };
            let further = each(compared & answers).filter(|other| ahead(*other));
            newest = further
                .max_by_key(|other| last(written(*other)))
                .unwrap_or(newest);
        }
        let head = last(written(newest));
        if head < known && !trusts {
            return self.block();
        }
        let how = |member: usize| compare(written(newest), written(member));
        let among = |what: Compared| {
            let those = each(compared & answers).filter(|member| how(*member) == what);
            those.map(of).fold(0, |all, one| all | one)
        };
        let (level, behind) = (among(Compared::Level), among(Compared::Behind));
        let diverged = among(Compared::Diverged);
        let by_record = self.goes_by_record() && has(self.see().in_sync, newest);
        if diverged != 0 && (!self.see().recorded || self.goes_by_record()) {
            let is_set = self.goes_by_record() && !self.model.is(Bug::StartFromAnybody);
            if is_set && disks.iter().all(|disk| !disk.is_old) {
                self.world.wrong = Some(Wrong::SetDisagrees);
            }
            return self.block();
        }
        if self.model.coop
            && !self.model.is(Bug::NewestWinsAlone)
            && !self.majority_agrees(newest, compared, diverged, answers)
        {
            return;
        }
        self.warn_of_the_absent(answers, newest);
        self.excuse(newest, answers, known);
        self.me().needs_suspects = false;
        let all = self.model.all();
        take(T::TakePlaces);
        let takes_all = self.model.is(Bug::StartTakesWhoIsBehind);
        let me = self.me();
        let before = me.in_sync;
        let unknown = compared & !answers;
        let absent = before & !compared & !swapped | unknown & before;
        me.in_sync = level;
        if takes_all {
            me.in_sync |= behind & before;
        }
        me.needs_operator |= diverged | swapped;
        me.disabled &= !(diverged | swapped);
        me.tail &= !(behind | diverged | swapped | level | absent);
        if by_record {
            me.tail |= absent;
        }
        me.head = head;
        me.known = known;
        me.last_given = me.last_given.max(head);
        me.phase = Phase::Running;
        for member in each(level) {
            me.ends[member] = me.ends[member].max(head);
        }
        for member in each((diverged | swapped) & all) {
            self.close(member);
        }
        for member in each(unknown & self.see().open) {
            self.close(member);
        }
        let me = self.me();
        let same = before == me.in_sync;
        me.recorded = false;
        if !same {
            self.change_membership();
        }
        self.me().known = self.acknowledged();
        let durable = self.see().is_durable;
        self.me().is_started = durable;
        self.settle_foreign();
    }

    fn block(&mut self) {
        take(T::Block);
        let me = self.me();
        // Who came meanwhile may be what is missing.
        me.is_blocked = true;
    }

    /// In `coop` mode what more than half of the members hold is right.
    fn majority_agrees(
        &mut self,
        newest: usize,
        compared: Mask,
        diverged: Mask,
        answers: Mask,
    ) -> bool {
        let agree = count(compared & answers & !diverged);
        let all = self.model.members as u32;
        if diverged == 0 || agree * 2 > all {
            return true;
        }
        let rest = compared & !of(newest);
        if rest & !self.see().open == 0 && count(rest) * 2 > all {
            take(T::PassOver);
            self.me().phase = Phase::Assembling {
                asked: rest,
                still: rest,
            };
            return false;
        }
        if self.see().needs_suspects {
            self.block();
        } else {
            self.me().needs_suspects = true;
        }
        false
    }

    /// Other policies than `in-sync` may start without what was acknowledged, and say so.
    fn warn_of_the_absent(&mut self, answers: Mask, newest: usize) {
        let holds_everything = self.see().recorded && has(self.see().in_sync, newest);
        if self.model.policy == Policy::InSync || self.model.coop || holds_everything {
            return;
        }
        if self.model.all() & !answers & !self.see().needs_operator != 0 {
            self.forget_what_is_lost(newest);
            self.me().has_warned = true;
        }
    }

    /// An old copy serves where nobody can know: no other copy was there, and the record is older.
    fn excuse(&mut self, newest: usize, answers: Mask, known: u8) {
        let disks = &self.world.disks;
        let newest_disk = disks[newest];
        let missing = self.world.acknowledged & !newest_disk.written;
        if missing == 0 || self.model.policy != Policy::InSync {
            return;
        }
        let knows_better = missing & up_to(known) != 0
            || each(answers & self.see().in_sync).any(|it| disks[it].written & missing != 0);
        if knows_better && newest_disk.is_old {
            self.world.wrong = Some(Wrong::OldCopyServes);
        } else if newest_disk.is_old {
            self.forget_what_is_lost(newest);
        }
    }

    /// The documented loss: it is not asked for any more.
    fn forget_what_is_lost(&mut self, newest: usize) {
        let written = self.world.disks[newest].written;
        self.world.acknowledged &= written;
        for member in each(self.model.all()) {
            let disk = &mut self.world.disks[member];
            disk.is_old |= disk.written & !written != 0;
        }
    }

    pub(crate) fn crash(&mut self, power: bool) {
        self.world.left.daemon_crashes -= 1;
        let is_file = self.model.is_file();
        let daemon = self.daemon as u8;
        for disk in &mut self.world.disks {
            if is_file {
                disk.hand = 0;
                if power {
                    disk.written = disk.durable;
                }
            }
            if let Some(lock) = disk.lock.as_mut().filter(|lock| lock.daemon == daemon) {
                lock.is_orphan = true;
            }
        }
        let me = self.me();
        let unfinished = me.commits().filter(|it| !it.is_finishing());
        let unfinished = unfinished.fold(0, |all, one| all | bit(one.tid));
        let record = me.record;
        *me = crate::state::Daemon {
            record,
            is_durable: true,
            ..Default::default()
        };
        if let Some(record) = record {
            me.recorded = true;
            me.known = record.head;
            me.in_sync = record.in_sync;
            me.needs_operator = record.needs_operator;
            me.tail = record.tail;
        }
        // They were asked of nobody; their clients try again.
        self.world.aborted |= unfinished;
    }
}
