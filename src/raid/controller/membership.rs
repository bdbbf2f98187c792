//! Members come and go: opened, lost, disabled, added, removed; and whether clients are served.

use std::time::Duration;

use super::{
    Asked, Changes, CommitState, Configured, Controller, Effect, Fault, Kind, Link, Member,
    MemberId, Notice, Now, Out, Phase, Refused, Serving, State,
};
use crate::counted::counted;
use crate::raid::FailMode;
use crate::storage::Extent;
use crate::zodb::Tid;

impl Controller {
    pub(super) fn add_member(
        &mut self,
        configured: Configured,
        standing: State,
        now: Now,
    ) -> MemberId {
        let id = MemberId(self.next_member);
        self.next_member += 1;
        // By force even a copy that waits for an operator may be what the array starts from.
        let shut = !self.rules.force
            && matches!(
                &standing,
                State::Degraded(Out {
                    needs_operator: true,
                    ..
                })
            );
        let member = Member {
            name: configured.name,
            fingerprint: configured.fingerprint,
            adopted: configured.adopted,
            description: configured.description,
            standing,
            link: if shut {
                Link::Shut
            } else {
                Link::Opening { failed: None }
            },
            since: now.wall,
            lacks: None,
            failures: 0,
            retry_at: None,
        };
        self.members.insert(id, member);
        self.emit(Effect::Added(id));
        if !shut {
            self.emit(Effect::Open(id));
        }
        id
    }

    pub(super) fn member_opened(&mut self, id: MemberId, link: Link, now: Now) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        if member.link == Link::Shut {
            // It was shut while it was being opened.
            self.emit(Effect::Close(id));
            return;
        }
        // MODEL: Open
        member.link = link;
        let name = member.name.clone();
        self.blocked = None;
        self.notice(Notice::MemberOpened { member: name });
        if let Phase::Opening {
            first_open: first_open @ None,
        } = &mut self.phase
        {
            *first_open = Some(now.monotonic);
        }
        self.start_if_possible(now);
        self.recover_by_itself(now);
        self.start_next_recovery(now);
    }

    pub(super) fn open_failed(&mut self, id: MemberId, fault: &Fault, now: Now) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        if matches!(member.link, Link::Opening { .. }) {
            let text = fault.to_string();
            if let State::Degraded(out) = &mut member.standing
                && !out.needs_operator
            {
                out.reason.clone_from(&text);
            }
            member.link = Link::Opening { failed: Some(text) };
            self.start_if_possible(now);
        }
    }

    /// A member failed, answered wrongly, or is disabled.
    ///
    /// INVARIANT 7: commits in hand go on with the others. The last member of the in-sync set stays
    /// in it (INVARIANT 4: a record that names nobody could never be started from); the array then
    /// starts anew from it. In `coop` mode it does so where a majority would not remain.
    pub(super) fn lose(&mut self, id: MemberId, mut out: Out, now: Now) {
        // MODEL: Lose
        let is_target = self.joining_target() == Some(id);
        let Some(member) = self.members.get(&id) else {
            return;
        };
        let in_sync = member.is_in_sync();
        if self.hinges_on(id) {
            // The target's entry is not durable: it must not be what is left.
            self.join_failed("its source failed", now);
        }
        // Nor is it what the array hinges on.
        let last = in_sync && !is_target && self.in_sync_count() <= self.least();
        let undecided = matches!(self.phase, Phase::Opening { .. } | Phase::Assembling);
        // Whether a transaction in hand has reached it, nobody knows.
        out.unacknowledged_tail |= in_sync
            && self.finishing.iter().any(|commit| {
                self.commits
                    .get(commit)
                    .is_some_and(|commit| commit.participants.contains(&id))
            });
        out.unacknowledged_tail |= in_sync && self.holds_unacknowledged(id);
        self.forget_reports(id);
        let stopping = self.phase == Phase::Stopping;
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        member.link = if out.needs_operator && !last && !(in_sync && undecided) {
            Link::Shut
        } else {
            Link::Opening {
                failed: Some(out.reason.clone()),
            }
        };
        let reopen = member.link != Link::Shut && !stopping;
        let name = member.name.clone();
        match member.standing.clone() {
            State::InSync if undecided => {
                // The start goes by what the record says, and waits for it again.
                self.close_and_reopen(id, reopen);
                self.say_what_is_waited_for();
                return;
            }
            State::InSync if last => {
                self.notice(Notice::NotServing {
                    reason: format!("{name}, the last optimal member, failed: {}", out.reason),
                });
                self.close_and_reopen(id, reopen);
                self.start_anew(id, now);
                return;
            }
            State::InSync => {
                member.stand(State::Degraded(out.clone()), now.wall);
                member.lacks = Some(Extent::default());
                self.change_membership(now);
                if is_target {
                    self.join_failed(&out.reason, now);
                    self.emit(Effect::CancelRecovery);
                }
                let epoch = self.epoch;
                // That a target is let in is said once that is durable; until then it is its recovery that fails.
                if !is_target {
                    self.notice(Notice::MemberDegraded {
                        member: name,
                        reason: out.reason,
                        epoch,
                    });
                }
                self.emit(Effect::Publish);
            }
            State::Recovering(before) => {
                // That the recovery failed is said when it ends.
                member.stand(State::Degraded(out.and(&before)), now.wall);
                self.emit(Effect::CancelRecovery);
            }
            State::Degraded(before) => {
                // What it was first taken out for says more, unless an operator speaks.
                if out.needs_operator || !before.needs_operator {
                    member.standing = State::Degraded(out.and(&before));
                }
            }
        }
        self.close_and_reopen(id, reopen);
        self.drop_participant(id, now);
        self.serve_or_not(now);
    }

    /// INVARIANT 4: a member of the in-sync set holds every acknowledged transaction, so that what is
    /// opened for it is never a new, empty copy. Nor by force: then it starts from others that are there.
    /// Before the first start the configuration says who holds something.
    pub(in crate::raid) fn must_be_there(&self, id: MemberId) -> bool {
        self.is_in_sync(id)
            || (self.never_started() && self.members.get(&id).is_some_and(|it| it.adopted))
    }

    /// No start is on record, nor has this one led to anything yet.
    pub(super) fn never_started(&self) -> bool {
        self.recorded.is_none() && matches!(self.phase, Phase::Opening { .. } | Phase::Assembling)
    }

    pub(in crate::raid) fn is_in_sync(&self, id: MemberId) -> bool {
        self.members.get(&id).is_some_and(Member::is_in_sync)
    }

    /// Whether the array would start anew without this member.
    pub(in crate::raid) fn hinges_on(&self, id: MemberId) -> bool {
        let in_sync = self.members.get(&id).is_some_and(Member::is_in_sync);
        in_sync && self.joining_target() != Some(id) && self.durably_in_sync_count() <= self.least()
    }

    fn close_and_reopen(&mut self, id: MemberId, reopen: bool) {
        self.emit(Effect::Close(id));
        if reopen {
            self.emit(Effect::Open(id));
        }
    }

    /// Members of the in-sync set without one whose entry is not durable.
    pub(super) fn durably_in_sync_count(&self) -> usize {
        self.in_sync_count() - usize::from(self.joining_target().is_some())
    }

    /// Commits in hand go on without this member. The in-sync set has changed before: what is
    /// acknowledged from here on waits for the record of that.
    fn drop_participant(&mut self, id: MemberId, now: Now) {
        // MODEL: DropParticipant
        for commit in self.commits.values_mut() {
            commit.participants.remove(&id);
            commit.votes.remove(&id);
            commit.line.retain(|waiting| *waiting != id);
            if let CommitState::Voting { waits } | CommitState::Finishing { waits } =
                &mut commit.state
            {
                waits.remove(&id);
            }
        }
        self.settle_votes(now);
        self.settle_finishing(now);
        self.settle_foreign(now);
    }

    /// No member of the in-sync set is left open: what was begun is given up, and the array starts
    /// again from the set as it is, unless it is stopping.
    pub(super) fn start_anew(&mut self, lost: MemberId, now: Now) {
        // MODEL: StartAnew
        let membership = self.membership(now);
        self.recorded = Some(membership);
        self.forget_all_foreign();
        if self.phase != Phase::Stopping {
            let others_open = self.members.values().any(Member::is_open);
            let first_open = others_open.then_some(now.monotonic);
            self.phase = Phase::Opening { first_open };
        }
        if self.is_coop() {
            // What reached fewer than a majority may not be what the others go on from.
            for commit in self.commits.values_mut() {
                match &mut commit.state {
                    CommitState::Finishing { waits } => {
                        waits.clear();
                        commit.participants.clear();
                    }
                    CommitState::AwaitsAck { .. } => commit.participants.clear(),
                    _ => {}
                }
            }
        }
        self.drop_participant(lost, now);
        let finishing: Vec<_> = self.finishing.iter().copied().collect();
        let begun: Vec<_> = self
            .commits
            .keys()
            .copied()
            .filter(|id| !finishing.contains(id))
            .collect();
        for id in begun {
            let Some(commit) = self.commits.get(&id) else {
                continue;
            };
            let fault = Fault::NotServing("no optimal member is left".into());
            match commit.state {
                CommitState::AwaitsRecord { .. } => self.fail_before_finish(id, fault),
                // The client waits for nothing; it hears of it when it asks.
                CommitState::Voted { .. } | CommitState::Resolving { .. } => {
                    self.forget(id);
                    self.emit(Effect::Abort { commit: id });
                }
                _ => {
                    self.emit(Effect::Abort { commit: id });
                    self.refuse(id, fault);
                }
            }
        }
        if self.recovery.is_some() {
            self.emit(Effect::CancelRecovery);
        }
        self.emit(Effect::Publish);
        self.serve_or_not(now);
    }

    /// That the membership record cannot be written, and what this means, where it is so.
    pub(crate) fn trouble_with_record(&self) -> Option<String> {
        let why = self.record_trouble.as_ref()?;
        // INVARIANT 4: what is acknowledged is held by everybody in sync by the record.
        let what = if self.durable_epoch < self.epoch {
            "nothing is committed until it can be"
        } else {
            "nothing more would be committed after another member failed"
        };
        Some(format!(
            "the membership record cannot be written, and {what}: {why}"
        ))
    }

    /// Says whether clients are served, where that has changed.
    pub(super) fn serve_or_not(&mut self, now: Now) {
        let (have, needed) = (self.durably_in_sync_count(), self.needed());
        let next = match &self.phase {
            Phase::Opening { .. } | Phase::Assembling => {
                let waits_for = self.what_is_waited_for();
                if self.head == Tid::ZERO
                    && !matches!(self.serving, Serving::Yes | Serving::No { .. })
                {
                    Serving::Starting { waits_for }
                } else {
                    Serving::No { reason: waits_for }
                }
            }
            Phase::Stopping => Serving::No {
                reason: "the daemon is shutting down".into(),
            },
            Phase::Running if self.durable_epoch < self.start_epoch => {
                let waits_for = match &self.record_trouble {
                    None => "the membership record to be written".to_owned(),
                    Some(why) => format!("the membership record, which cannot be written: {why}"),
                };
                match &self.serving {
                    Serving::Starting { .. } => Serving::Starting { waits_for },
                    _ => Serving::No { reason: waits_for },
                }
            }
            Phase::Running if have >= needed => Serving::Yes,
            Phase::Running => {
                let all = counted(self.members.len() as u64, "member");
                let are = |number| if number == 1 { "is" } else { "are" };
                let reason = format!(
                    "{have} of {all} {} optimal, {needed} {} needed",
                    are(have),
                    are(needed)
                );
                match self.rules.fail_mode {
                    // INVARIANT 5: what fewer than a majority hold, another daemon may go on without.
                    FailMode::ReadOnly if have >= self.least() => Serving::ReadOnly { reason },
                    FailMode::Close | FailMode::ReadOnly => Serving::No { reason },
                }
            }
        };
        if next == self.serving {
            return;
        }
        if let Serving::No { reason } | Serving::ReadOnly { reason } = &next
            && self.has_started_and_runs()
        {
            self.notice(Notice::NotServing {
                reason: reason.clone(),
            });
        }
        if next == Serving::Yes {
            let joining = self.joining_target();
            let members = self
                .in_sync()
                .filter(|(id, _)| joining != Some(*id))
                .map(|(_, member)| member.name.clone())
                .collect();
            self.notice(Notice::Serving {
                members,
                head: self.head,
            });
        } else {
            let waiting: Vec<_> = self
                .queue
                .iter()
                .copied()
                .filter(|id| {
                    self.commits
                        .get(id)
                        .is_some_and(|commit| commit.kind == Kind::Client)
                })
                .collect();
            for id in waiting {
                self.refuse(id, Fault::NotServing("too few members are optimal".into()));
            }
        }
        self.serving = next.clone();
        self.emit(Effect::Serving(next));
        self.grant_lock(now);
    }

    pub(super) fn disable_asked(&mut self, name: &str, now: Now) -> Asked {
        let id = self.id_of(name)?;
        let member = &self.members[&id];
        let last =
            self.joining_target() != Some(id) && self.durably_in_sync_count() <= self.least();
        if self.phase != Phase::Running && self.in_sync_count() == 0 {
            // The first start needs everybody, and there is no record yet to keep the word in.
            return Err(Refused::NotServing {
                reason: format!("it waits for {}", self.what_is_waited_for()),
            });
        }
        if member.is_in_sync() && (self.phase != Phase::Running || last) {
            let (array, member) = (self.rules.array.clone(), name.to_owned());
            return Err(Refused::LastOptimal { array, member });
        }
        // MODEL: Disable
        self.recovery_queue.retain(|wanted| wanted.member != id);
        let in_sync = member.is_in_sync();
        self.lose(id, Out::by_operator("disabled by an operator"), now);
        if !in_sync {
            // The in-sync set is the same; that an operator's word is needed must be kept too.
            self.record_membership(now);
        }
        Ok(Changes::default())
    }

    pub(super) fn members_asked(
        &mut self,
        wanted: Vec<Configured>,
        dry_run: bool,
        now: Now,
    ) -> Asked {
        let stays = |member: &Member| {
            wanted
                .iter()
                .any(|w| w.name == member.name && w.fingerprint == member.fingerprint)
        };
        let leaving: Vec<MemberId> = self
            .members
            .iter()
            .filter(|(_, member)| !stays(member))
            .map(|(id, _)| *id)
            .collect();
        let present = |name: &str| {
            self.members
                .values()
                .any(|member| member.name == name && stays(member))
        };
        let joining: Vec<Configured> = wanted
            .iter()
            .filter(|wanted| !present(&wanted.name))
            .cloned()
            .collect();
        let changes = Changes {
            added: joining.iter().map(|wanted| wanted.name.clone()).collect(),
            removed: leaving.iter().map(|id| self.name(*id)).collect(),
        };
        if self.phase == Phase::Stopping {
            return Err(Refused::ShuttingDown);
        }
        // The entry of a target that joins may still fail.
        let joining_target = self.joining_target();
        let remain = self
            .in_sync()
            .filter(|(id, _)| !leaving.contains(id) && Some(*id) != joining_target)
            .count();
        // Before the first start nobody is in sync, and a wrong configuration must be mendable.
        let never_started = self.recorded.is_none() && matches!(self.phase, Phase::Opening { .. });
        let enough = remain > 0 || (never_started && !wanted.is_empty());
        if !enough && !leaving.is_empty() {
            let (array, removed) = (self.rules.array.clone(), changes.removed);
            return Err(Refused::NoneWouldRemain { array, removed });
        }
        let least = if self.is_coop() {
            wanted.len() / 2 + 1
        } else {
            1
        };
        let needed = self.rules.min_optimal.max(least);
        let changes_something = !(leaving.is_empty() && joining.is_empty());
        if changes_something && self.serving == Serving::Yes && remain < needed {
            let array = self.rules.array.clone();
            return Err(Refused::TooFewWouldRemain {
                array,
                have: remain,
                needed,
            });
        }
        if dry_run || !changes_something {
            return Ok(changes);
        }
        for id in &leaving {
            self.remove_member(*id, now);
        }
        for configured in joining {
            let name = configured.name.clone();
            // Before the array runs it is what the record says, as if it had been configured at the start: it may
            // be the one that is waited for.
            let mut standing = match self.phase {
                Phase::Opening { .. } if self.recorded.is_some() => self.standing_at_start(&name),
                _ => State::Degraded(Out::because("added; not recovered yet")),
            };
            if let State::Degraded(out) = &mut standing {
                out.damaged |= self.removed_damaged.remove(&name);
            }
            self.add_member(configured, standing, now);
            self.notice(Notice::MemberAdded { member: name });
        }
        self.blocked = None;
        self.change_membership(now);
        for id in leaving {
            self.drop_participant(id, now);
        }
        self.emit(Effect::Publish);
        self.serve_or_not(now);
        self.start_if_possible(now);
        Ok(changes)
    }

    fn remove_member(&mut self, id: MemberId, now: Now) {
        if self
            .recovery
            .as_ref()
            .is_some_and(|running| running.member == id)
        {
            self.join_failed("it was removed", now);
            self.emit(Effect::CancelRecovery);
        }
        self.recovery_queue.retain(|wanted| wanted.member != id);
        self.forget_reports(id);
        if let Some(member) = self.members.remove(&id) {
            if member.out().is_some_and(|out| out.damaged) {
                self.removed_damaged.insert(member.name.clone());
            }
            self.notice(Notice::MemberRemoved {
                member: member.name,
            });
        }
        self.emit(Effect::Remove(id));
    }

    /// A member may be recovered without an operator at this moment.
    pub(super) fn recovers_by_itself(&self, member: &Member, now: Now) -> bool {
        self.rules.auto_recover
            && member.is_open()
            && matches!(&member.standing, State::Degraded(out) if !out.needs_operator)
            && member.retry_at.is_none_or(|at| at <= now.monotonic)
    }

    /// How long after so many failures a recovery is tried again.
    pub(super) fn retry_delay(failures: u32) -> Duration {
        Duration::from_secs(1 << failures.min(8))
    }
}
