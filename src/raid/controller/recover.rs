//! Recoveries: one at a time, the others in line. The copying is ordinary code in `raid::recovery`;
//! here are the three moments that must be decided: the start, the lock for the last part, and the
//! target's entry into the in-sync set.

use super::{
    Asked, Changes, CommitId, CommitState, Controller, Effect, Ended, Kind, Link, MemberId, Notice,
    Now, Out, Phase, Rate, Refused, Running, State, Strategy, Wanted,
};
use crate::zodb::Tid;

impl Controller {
    pub(super) fn recover_asked(
        &mut self,
        name: &str,
        strategy: Strategy,
        rate: Option<Rate>,
        now: Now,
    ) -> Asked {
        let id = self.id_of(name)?;
        if self.phase == Phase::Stopping {
            return Err(Refused::ShuttingDown);
        }
        if self.phase != Phase::Running {
            let wanted = Wanted {
                member: id,
                strategy,
                rate,
            };
            return self.may_be_compared(wanted);
        }
        if self.packing {
            let array = self.rules.array.clone();
            return Err(Refused::Packing { array });
        }
        let member = name.to_owned();
        let queued = self.recovery_queue.iter().any(|wanted| wanted.member == id);
        match &mut self.members.get_mut(&id).expect("id_of found it").standing {
            State::InSync => return Err(Refused::AlreadyOptimal { member }),
            State::Recovering(_) => return Err(Refused::AlreadyRecovering { member }),
            State::Degraded(_) if queued => return Err(Refused::AlreadyRecovering { member }),
            // MODEL: Recover
            State::Degraded(out) => {
                out.needs_operator = false;
                // Whoever asks for it doubts the copy: however the daemon ends meanwhile, it does not come back uncompared.
                out.damaged |= strategy != Strategy::Missing;
            }
        }
        if let Some(member) = self.members.get_mut(&id) {
            member.failures = 0;
        }
        self.again.remove(&id);
        self.queue_recovery(Wanted {
            member: id,
            strategy,
            rate,
        });
        self.start_next_recovery(now);
        Ok(Changes::default())
    }

    /// The start has to compare more members than it may without an operator's word, and here it is. Whom an operator
    /// took out is compared then, as if it had been away, and recovered afterwards where it lacks something: that
    /// loses nothing, which cannot be said of a start by force.
    fn may_be_compared(&mut self, wanted: Wanted) -> Asked {
        // By the record alone nobody else can serve.
        let waits = matches!(self.phase, Phase::Opening { .. }) && !self.goes_by_record();
        let reason = self.what_is_waited_for();
        let member = self.members.get_mut(&wanted.member);
        match member {
            Some(member)
                if waits
                    && wanted.strategy == Strategy::Missing
                    && member.may_be_compared_if_asked() =>
            {
                // MODEL: Recover
                if let State::Degraded(out) = &mut member.standing {
                    out.needs_operator = false;
                }
                self.queue_recovery(wanted);
                self.emit(Effect::Publish);
                Ok(Changes::default())
            }
            _ => Err(Refused::NotServing { reason }),
        }
    }

    fn queue_recovery(&mut self, wanted: Wanted) {
        if let Some(member) = self.members.get_mut(&wanted.member) {
            member.retry_at = None;
            if member.link == Link::Shut {
                member.link = Link::Opening { failed: None };
                self.emit(Effect::Open(wanted.member));
            }
        }
        self.recovery_queue.push_back(wanted);
    }

    /// Queues the members that come back from a lack of contact.
    pub(super) fn recover_by_itself(&mut self, now: Now) {
        // What comes back while members are packed waits until that is over.
        if self.phase != Phase::Running || self.packing {
            return;
        }
        let due: Vec<MemberId> = self
            .members
            .iter()
            .filter(|(_, member)| self.recovers_by_itself(member, now))
            .map(|(id, _)| *id)
            .filter(|id| {
                !self
                    .recovery_queue
                    .iter()
                    .any(|wanted| wanted.member == *id)
            })
            .collect();
        for member in due {
            // One that failed is tried again as it was asked for.
            let (strategy, rate) = self.again.remove(&member).unwrap_or_default();
            self.queue_recovery(Wanted {
                member,
                strategy,
                rate,
            });
        }
    }

    pub(super) fn start_next_recovery(&mut self, now: Now) {
        while self.recovery.is_none() && self.phase == Phase::Running && !self.packing {
            let Some(wanted) = self.recovery_queue.pop_front() else {
                return;
            };
            let Some(member) = self.members.get_mut(&wanted.member) else {
                continue;
            };
            let State::Degraded(out) = member.standing.clone() else {
                continue;
            };
            let may_cut = wanted.strategy == Strategy::Rebuild || out.unacknowledged_tail;
            let strategy = match wanted.strategy {
                // It would be found level, and fail again at the same place.
                Strategy::Missing if out.damaged => Strategy::Verify,
                strategy => strategy,
            };
            // MODEL: StartRecovery
            member.stand(State::Recovering(out), now.wall);
            self.recovery = Some(Running {
                member: wanted.member,
                strategy: wanted.strategy,
                rate: wanted.rate,
                joining: None,
                cancelled: false,
            });
            self.emit(Effect::StartRecovery {
                member: wanted.member,
                strategy,
                rate: wanted.rate,
                may_cut,
            });
        }
    }

    pub(super) fn cancel_asked(&mut self, now: Now) -> Asked {
        if self.recovery.is_none() && self.recovery_queue.is_empty() {
            return Err(Refused::NoRecovery);
        }
        for wanted in std::mem::take(&mut self.recovery_queue) {
            self.hold_back(wanted.member);
        }
        self.record_membership(now);
        if let Some(running) = &mut self.recovery {
            running.cancelled = true;
            self.emit(Effect::CancelRecovery);
        }
        Ok(Changes::default())
    }

    /// After an operator's cancel, only an operator starts it again.
    fn hold_back(&mut self, id: MemberId) {
        let member = self.members.get_mut(&id);
        if let Some(State::Degraded(out)) = member.map(|member| &mut member.standing) {
            out.needs_operator = true;
            out.reason = "its recovery was cancelled by an operator".into();
        }
    }

    pub(super) fn catch_up_asked(&mut self, id: CommitId, now: Now) {
        if self.recovery.is_none() || self.phase != Phase::Running {
            let reason = "the array does not serve".into();
            self.emit(Effect::CatchUpRefused { commit: id, reason });
            return;
        }
        self.enqueue(id, Kind::CatchUp, None, 0);
        self.grant_lock(now);
    }

    /// The lock is the recovery's once everything before it is finished.
    pub(super) fn let_catch_up(&mut self, now: Now) {
        let (Some(id), true) = (self.lock, self.finishing.is_empty()) else {
            return;
        };
        let until = now.monotonic + self.rules.catch_up_limit;
        let Some(commit) = self.commits.get_mut(&id) else {
            return;
        };
        if matches!(commit.state, CommitState::CatchUpWaits { .. }) {
            // MODEL: GrantCatchUp
            commit.state = CommitState::CatchingUp { until };
            let head = self.head;
            self.emit(Effect::CatchUpGranted {
                commit: id,
                head,
                until,
            });
        }
    }

    pub(super) fn catch_up_ended(&mut self, id: CommitId, now: Now) {
        let joining = self.recovery.as_ref().and_then(|running| running.joining);
        if joining.is_some_and(|(commit, _)| commit == id) {
            return;
        }
        if self
            .commits
            .get(&id)
            .is_some_and(|commit| commit.kind == Kind::CatchUp)
        {
            self.forget(id);
            // MODEL: EndCatchUp
            let reason = "it took too long".into();
            self.emit(Effect::CatchUpRefused { commit: id, reason });
            self.grant_lock(now);
        }
    }

    /// The target holds everything up to `last_tid`. Under the lock that is the head, or it is not
    /// let in.
    pub(super) fn target_level(
        &mut self,
        id: CommitId,
        member: MemberId,
        last_tid: Tid,
        packed: Tid,
        now: Now,
    ) {
        let has_lock = self.lock == Some(id)
            && self
                .commits
                .get(&id)
                .is_some_and(|commit| matches!(commit.state, CommitState::CatchingUp { .. }));
        let is_target = self
            .recovery
            .as_ref()
            .is_some_and(|running| running.member == member);
        let (head, coop) = (self.head, self.is_coop());
        let target = self.members.get_mut(&member).filter(|member| {
            is_target && member.is_open() && matches!(member.standing, State::Recovering(_))
        });
        // What it holds beyond the head others have finished; it is not acknowledged here yet.
        let is_level = last_tid == head || (coop && last_tid > head);
        let Some(target) = target.filter(|_| has_lock && is_level) else {
            let reason = "the target is not level with the array".into();
            if has_lock {
                self.forget(id);
            }
            self.emit(Effect::CatchUpRefused { commit: id, reason });
            self.grant_lock(now);
            return;
        };
        if let Link::Open {
            last_tid: known, ..
        } = &mut target.link
        {
            *known = last_tid.max(*known);
        }
        // MODEL: LetIn
        target.stand(State::InSync, now.wall);
        // INVARIANT 5: in the record before the target is read.
        self.packed = packed.max(self.packed);
        self.change_membership(now);
        let epoch = self.epoch;
        if let Some(running) = &mut self.recovery {
            running.joining = Some((id, epoch));
        }
    }

    /// The record that lets the target in is durable.
    pub(super) fn joined_durably(&mut self, now: Now) {
        let Some(running) = &mut self.recovery else {
            return;
        };
        let Some((commit, _)) = running.joining.take() else {
            return;
        };
        // MODEL: Joined
        let id = running.member;
        self.forget(commit);
        self.again.remove(&id);
        if let Some(member) = self.members.get_mut(&id) {
            debug_assert!(
                member.is_in_sync(),
                "who is lost while joining has failed to join"
            );
            member.lacks = None;
            member.failures = 0;
            let name = member.name.clone();
            let epoch = self.epoch;
            self.notice(Notice::MemberOptimal {
                member: name,
                epoch,
            });
        }
        self.emit(Effect::Publish);
        self.emit(Effect::Joined { commit });
        self.serve_or_not(now);
        self.grant_lock(now);
    }

    /// The target stays out: the record that lets it in cannot be written, or a member was lost.
    pub(super) fn join_failed(&mut self, reason: &str, now: Now) {
        let Some(running) = &mut self.recovery else {
            return;
        };
        let Some((commit, _)) = running.joining.take() else {
            return;
        };
        // MODEL: JoinFailed
        let id = running.member;
        self.forget(commit);
        if let Some(member) = self.members.get_mut(&id)
            && member.is_in_sync()
        {
            // It holds no more than the head, so whatever comes of the record, nothing is lost.
            member.stand(State::Degraded(Out::because("not let in")), now.wall);
            self.change_membership(now);
        }
        let reason = reason.to_owned();
        self.emit(Effect::CatchUpRefused { commit, reason });
        self.grant_lock(now);
    }

    pub(super) fn recovery_ended(&mut self, id: MemberId, ended: Ended, now: Now) {
        let Some(running) = self.recovery.take_if(|running| running.member == id) else {
            return;
        };
        let Some(member) = self.members.get_mut(&id) else {
            return self.start_next_recovery(now);
        };
        // MODEL: EndRecovery
        let name = member.name.clone();
        let (reason, needs_operator) = match &ended {
            Ended::Done => (None, false),
            Ended::Cancelled if running.cancelled => (
                Some("its recovery was cancelled by an operator".into()),
                true,
            ),
            Ended::Cancelled => (Some("its recovery was interrupted".into()), false),
            Ended::Failed { reason } | Ended::Undecided { reason } => (Some(reason.clone()), false),
            Ended::Stuck { reason, .. } => (Some(reason.clone()), true),
        };
        if reason.is_some() && !needs_operator {
            self.again.insert(id, (running.strategy, running.rate));
        }
        let differs = matches!(ended, Ended::Stuck { differs: true, .. });
        let is_wrong = matches!(ended, Ended::Stuck { is_wrong: true, .. });
        let is_undecided = matches!(ended, Ended::Undecided { .. });
        if let Some(reason) = reason {
            member.failures += 1;
            member.retry_at = Some(now.monotonic + Self::retry_delay(member.failures));
            // Where it was lost or disabled meanwhile, that is its reason.
            if let State::Recovering(out) = member.standing.clone() {
                member.stand(
                    State::Degraded(Out {
                        reason,
                        needs_operator,
                        is_wrong: out.is_wrong || is_wrong,
                        damaged: out.damaged || differs,
                        ..out
                    }),
                    now.wall,
                );
            }
            self.record_membership(now);
        }
        match ended {
            Ended::Done => {}
            Ended::Cancelled if !running.cancelled => {}
            Ended::Cancelled => self.notice(Notice::RecoveryCancelled { member: name }),
            Ended::Failed { reason }
            | Ended::Undecided { reason }
            | Ended::Stuck { reason, .. } => {
                self.notice(Notice::RecoveryFailed {
                    member: name,
                    reason,
                });
            }
        }
        if is_undecided && self.phase == Phase::Running && self.may_be_wrong() {
            self.start_anew(id, now);
        }
        self.start_next_recovery(now);
    }
}
