//! Commits: who has the lock, what the votes come to, when a transaction is acknowledged.
//!
//! 1. `VoteAsked` queues for the commit lock, first come first served.
//! 2. Granted: a TID later than all before, and every in-sync member is asked to vote at once.
//! 3. The ballots are counted when all have answered or are lost.
//! 4. `FinishAsked`: members are asked to finish once the record of who takes part is durable
//!    (INVARIANT 2). Where the members allow it the lock passes on at this moment: what follows is
//!    bound to come after, on every member, because members take finishes and votes in the order in
//!    which they are asked. So finishes pile up and share their syncs.
//! 5. When every participant has finished or is lost, and the record of the lost is durable
//!    (INVARIANTS 1, 2), the head rises and the client is told, in TID order (INVARIANT 6).

use super::{
    Ballot, Commit, CommitId, CommitState, Controller, Effect, Kind, Link, MemberId, Notice, Now,
    Out, Phase, Serving, VoteReply,
};
use std::collections::BTreeSet;

use crate::storage::{Answer, Fault};
use crate::zodb::Tid;

impl Controller {
    pub(super) fn vote_asked(&mut self, id: CommitId, wanted: Option<Tid>, bytes: u64, now: Now) {
        if let Some(commit) = self.commits.get_mut(&id) {
            // It was told of conflicts, has resolved them, and still holds the lock.
            if matches!(commit.state, CommitState::Resolving { .. }) && self.lock == Some(id) {
                commit.bytes = bytes;
                self.ask_for_votes(id);
                self.settle_votes(now);
            }
            return;
        }
        let refusal = match &self.serving {
            Serving::Yes => None,
            Serving::ReadOnly { .. } => Some(VoteReply::No(Answer::ReadOnly)),
            Serving::Starting { waits_for: reason } | Serving::No { reason } => {
                Some(VoteReply::Fault(Fault::NotServing(reason.clone())))
            }
        };
        if let Some(reply) = refusal {
            self.emit(Effect::VoteReply { commit: id, reply });
            return;
        }
        self.enqueue(id, Kind::Client, wanted, bytes);
        self.grant_lock(now);
    }

    pub(super) fn enqueue(&mut self, id: CommitId, kind: Kind, wanted: Option<Tid>, bytes: u64) {
        let commit = Commit {
            kind,
            state: CommitState::Queued,
            wanted,
            bytes,
            tid: Tid::ZERO,
            participants: std::collections::BTreeSet::new(),
            votes: std::collections::BTreeMap::new(),
            line: Vec::new(),
            after: std::collections::BTreeMap::new(),
            tries: 0,
            level_until: None,
            last_votes: 0,
            has_held: false,
            has_waited: false,
            asked_as_of: Tid::ZERO,
            resolve_until: None,
        };
        self.commits.insert(id, commit);
        self.queue.push_back(id);
    }

    /// Gives the lock to the next in line, and again where that one cannot use it.
    pub(super) fn grant_lock(&mut self, now: Now) {
        while self.lock.is_none() && self.phase == Phase::Running {
            let Some(id) = self.queue.pop_front() else {
                return;
            };
            let (last_given, nothing_before) = (self.last_given, self.finishing.is_empty());
            let until = now.monotonic + self.rules.transaction_timeout;
            let Some(commit) = self.commits.get_mut(&id) else {
                continue;
            };
            self.lock = Some(id);
            self.lock_since = Some(now.monotonic);
            if commit.kind == Kind::CatchUp {
                commit.state = CommitState::CatchUpWaits { until };
                if nothing_before {
                    self.let_catch_up(now);
                }
                return;
            }
            commit.tid = match commit.wanted {
                None if bug!(GoBackInTime) => Tid::from_time(now.wall),
                None => Tid::for_commit(now.wall, last_given),
                Some(wanted) if wanted > last_given => wanted,
                Some(wanted) => {
                    let text = format!("the transaction {wanted} is not later than {last_given}");
                    self.decline(id, VoteReply::No(Answer::Invalid(text)));
                    continue;
                }
            };
            self.ask_for_votes(id);
            // Where nobody can be asked, that is the outcome.
            self.settle_votes(now);
        }
    }

    pub(super) fn ask_for_votes(&mut self, id: CommitId) {
        // MODEL: AskForVotes
        let participants = self.participants();
        let mut line = if self.is_coop() {
            self.in_canonical_order(&participants)
        } else {
            Vec::new()
        };
        let head = self.head;
        let Some(commit) = self.commits.get_mut(&id) else {
            return;
        };
        commit.asked_as_of = head;
        commit.votes.clear();
        commit.after.clear();
        commit.participants.clone_from(&participants);
        let first = line.pop();
        commit.line = line;
        let asked: BTreeSet<MemberId> = match first {
            Some(first) => BTreeSet::from([first]),
            None => participants,
        };
        commit.state = CommitState::Voting {
            waits: asked.clone(),
        };
        let tid = commit.tid;
        for member in asked {
            self.emit(Effect::Vote {
                commit: id,
                member,
                tid,
            });
        }
    }

    /// Asks the next member in line.
    fn ask_next(&mut self, id: CommitId, member: MemberId) {
        let Some(commit) = self.commits.get_mut(&id) else {
            return;
        };
        commit.state = CommitState::Voting {
            waits: BTreeSet::from([member]),
        };
        let tid = commit.tid;
        self.emit(Effect::Vote {
            commit: id,
            member,
            tid,
        });
    }

    pub(super) fn member_voted(
        &mut self,
        id: CommitId,
        member: MemberId,
        ballot: Ballot,
        after: Option<Tid>,
        now: Now,
    ) {
        let head = self.head;
        let Some(commit) = self.commits.get_mut(&id) else {
            return;
        };
        let CommitState::Voting { waits } = &mut commit.state else {
            return;
        };
        if !waits.contains(&member) {
            return;
        }
        // Whoever is ready holds its lock: nobody can have gone on without it since it said where it ends. Whoever
        // refuses has given it back, and was asked where it ends after that: others may have committed since.
        let known = match ballot {
            Ballot::Ready { .. } => head,
            _ => commit.asked_as_of,
        };
        if let Some(after) = after
            && after < known
        {
            let reason =
                format!("ends at {after}, but it had {known}: it is not the copy that it was");
            let out = Out::wrong(reason);
            return self.lose(member, out, now);
        }
        // MODEL: MemberVoted
        waits.remove(&member);
        if !matches!(ballot, Ballot::Ready { .. }) {
            let others = commit.votes.values();
            let same = 1 + others.filter(|it| it.agrees_with(&ballot)).count();
            let all = commit.votes.len() + 1 + commit.line.len();
            if same * 2 > all {
                // More than half of all say the same no: whatever the others would say, it stays so.
                commit.line.clear();
            }
        }
        commit.votes.insert(member, ballot);
        if self.lock_taken(id, member, after, now) {
            self.settle_votes(now);
        }
    }

    /// Counts the ballots of the holder of the lock where all are in.
    pub(super) fn settle_votes(&mut self, now: Now) {
        let Some(id) = self.lock else { return };
        let Some(commit) = self.commits.get_mut(&id) else {
            return;
        };
        if !matches!(&commit.state, CommitState::Voting { waits } if waits.is_empty()) {
            return;
        }
        if let Some(next) = commit.line.pop() {
            return self.ask_next(id, next);
        }
        if self.is_coop() && !self.members_are_level(id, now) {
            return;
        }
        let Some(commit) = self.commits.get_mut(&id) else {
            return;
        };
        let ballots = std::mem::take(&mut commit.votes);
        let ballots = ballots.into_iter().collect();
        self.count_ballots(id, ballots, now);
    }

    /// INVARIANT 8: what all say is the answer; a minority is taken out; without a majority nothing
    /// is done.
    fn count_ballots(&mut self, id: CommitId, ballots: Vec<(MemberId, Ballot)>, now: Now) {
        // MODEL: CountBallots
        if let Some(commit) = self.commits.get_mut(&id) {
            // They are level. Where a client votes again, the members have all their time again.
            commit.level_until = None;
            (commit.last_votes, commit.has_held, commit.has_waited) = (0, false, false);
        }
        let asked = ballots.len();
        let mut groups: Vec<(Ballot, Vec<MemberId>)> = Vec::new();
        for (member, ballot) in ballots {
            let agreeing = groups
                .iter()
                .position(|(other, _)| other.agrees_with(&ballot));
            match agreeing {
                Some(index) => {
                    let (said, mut members) = groups.swap_remove(index);
                    members.push(member);
                    groups.push((said.stricter(ballot), members));
                }
                None => groups.push((ballot, vec![member])),
            }
        }
        groups.sort_by_key(|(_, members)| std::cmp::Reverse(members.len()));
        let mut groups = groups.into_iter();
        let Some((ballot, majority)) = groups.next() else {
            let fault = Fault::NotServing("no member could vote".into());
            self.decline(id, VoteReply::Fault(fault));
            self.grant_lock(now);
            return;
        };
        let others: Vec<_> = groups.collect();
        let packed = match &*others {
            [(other, _)] => other.has_packed_what_is_undone(&ballot),
            _ => None,
        };
        if let Some(answer) = packed {
            self.decline(id, VoteReply::No(answer));
            self.grant_lock(now);
            return;
        }
        if !others.is_empty() {
            let said = std::iter::once((&ballot, &majority))
                .chain(others.iter().map(|(ballot, members)| (ballot, members)));
            let said = said.map(|(ballot, members)| {
                let names: Vec<_> = members.iter().map(|member| self.name(*member)).collect();
                format!("{}: {}", names.join(", "), ballot.in_words())
            });
            let members = said.collect();
            self.notice(Notice::Disagreement {
                what: "a vote".into(),
                members,
            });
            let mut others_say = others.iter().map(|(other, _)| other);
            if let Some(answer) = others_say.find_map(|other| other.undoes_otherwise(&ballot)) {
                self.decline(id, VoteReply::No(answer));
                self.grant_lock(now);
                return;
            }
            let set_up_differently = others
                .iter()
                .any(|(other, _)| other.resolves_otherwise(&ballot));
            if majority.len() * 2 <= asked || set_up_differently {
                let text = if set_up_differently {
                    "some members of the array resolve conflicts themselves and others leave that to clients: \
                     set client-conflict-resolution to true in the ZEO servers of this array"
                } else {
                    "the members of the array do not agree on this transaction"
                };
                let text = text.to_owned();
                let class = "ZODB.POSException.StorageError".into();
                self.decline(id, VoteReply::No(Answer::Other { class, text }));
                self.grant_lock(now);
                return;
            }
        }
        let until = now.monotonic + self.rules.transaction_timeout;
        let Some(commit) = self.commits.get_mut(&id) else {
            return;
        };
        let reply = match ballot {
            Ballot::Ready { resolved } => {
                commit.state = CommitState::Voted { until };
                VoteReply::Ready {
                    tid: commit.tid,
                    resolved,
                }
            }
            Ballot::Conflicts(conflicts) => {
                // The lock stays with the client: let go, it would meet a new conflict each time.
                // But not for longer than a client may hold it, however often it votes.
                let until = *commit.resolve_until.get_or_insert(until);
                commit.state = CommitState::Resolving { until };
                self.emit(Effect::Abort { commit: id });
                VoteReply::Conflicts(conflicts)
            }
            Ballot::No(answer) => {
                self.decline(id, VoteReply::No(answer));
                self.grant_lock(now);
                return self.lose_minority(others, now);
            }
        };
        self.emit(Effect::VoteReply { commit: id, reply });
        self.lose_minority(others, now);
    }

    fn lose_minority(&mut self, groups: Vec<(Ballot, Vec<MemberId>)>, now: Now) {
        for (ballot, members) in groups {
            let reason = format!("voted differently from the majority: {}", ballot.in_words());
            for member in members {
                self.lose(member, Out::wrong(&reason), now);
            }
        }
    }

    /// Ends a transaction with this answer to its vote, and gives the lock back.
    pub(super) fn decline(&mut self, id: CommitId, reply: VoteReply) {
        self.forget(id);
        self.emit(Effect::Abort { commit: id });
        self.emit(Effect::VoteReply { commit: id, reply });
    }

    /// Ends whatever waits in the queue.
    pub(super) fn refuse(&mut self, id: CommitId, fault: Fault) {
        let kind = self.commits.get(&id).map(|commit| commit.kind);
        self.forget(id);
        if kind == Some(Kind::CatchUp) {
            self.emit(Effect::CatchUpRefused {
                commit: id,
                reason: fault.to_string(),
            });
        } else {
            self.emit(Effect::VoteReply {
                commit: id,
                reply: VoteReply::Fault(fault),
            });
        }
    }

    /// Removes a commit from everywhere but the line of those that finish.
    pub(super) fn forget(&mut self, id: CommitId) {
        self.commits.remove(&id);
        self.queue.retain(|queued| *queued != id);
        if self.lock == Some(id) {
            self.lock = None;
            self.lock_since = None;
        }
    }

    pub(super) fn finish_asked(&mut self, id: CommitId, now: Now) {
        let until = now.monotonic + self.rules.transaction_timeout;
        match self.commits.get_mut(&id) {
            Some(commit) if matches!(commit.state, CommitState::Voted { .. }) => {
                // MODEL: FinishAsked
                commit.state = CommitState::AwaitsRecord { until };
                self.proceed_to_finish(id, now);
            }
            Some(_) => {}
            None => {
                let after = self.rules.transaction_timeout;
                let fault = match &self.serving {
                    Serving::Starting { waits_for: reason } | Serving::No { reason } => {
                        Fault::NotServing(reason.clone())
                    }
                    _ => Fault::Timeout {
                        what: "a vote (tpc_finish came too late)",
                        after,
                    },
                };
                let reply = Err(fault);
                self.emit(Effect::FinishReply { commit: id, reply });
            }
        }
    }

    /// INVARIANT 2: nobody is asked to finish before the record of who takes part is durable.
    fn proceed_to_finish(&mut self, id: CommitId, now: Now) {
        let durable = self.durable_epoch >= self.epoch;
        let Some(commit) = self.commits.get_mut(&id) else {
            return;
        };
        if !durable || !matches!(commit.state, CommitState::AwaitsRecord { .. }) {
            return;
        }
        if commit.participants.is_empty() {
            self.fail_before_finish(id, Fault::NotServing("no member is left".into()));
            self.grant_lock(now);
            return;
        }
        // MODEL: AskToFinish
        self.last_given = commit.tid;
        commit.state = CommitState::Finishing {
            waits: commit.participants.clone(),
        };
        let participants = commit.participants.clone();
        self.finishing.push_back(id);
        for member in &participants {
            self.emit(Effect::Finish {
                commit: id,
                member: *member,
            });
        }
        let pipelined = participants.iter().all(|member| {
            matches!(
                self.members.get(member).map(|member| &member.link),
                Some(Link::Open {
                    pipelined: true,
                    ..
                })
            )
        });
        if pipelined {
            self.release_lock(id, now);
        }
    }

    fn release_lock(&mut self, id: CommitId, now: Now) {
        if self.lock == Some(id) {
            self.lock = None;
            self.lock_since = None;
        }
        self.grant_lock(now);
    }

    /// Nothing was asked of anybody yet: a clean abort.
    pub(super) fn fail_before_finish(&mut self, id: CommitId, fault: Fault) {
        // MODEL: GiveUp
        self.forget(id);
        self.emit(Effect::Abort { commit: id });
        self.emit(Effect::FinishReply {
            commit: id,
            reply: Err(fault),
        });
    }

    pub(super) fn member_finished(&mut self, id: CommitId, member: MemberId, now: Now) {
        let Some(commit) = self.commits.get_mut(&id) else {
            return;
        };
        let CommitState::Finishing { waits } = &mut commit.state else {
            return;
        };
        // MODEL: MemberFinished
        if waits.remove(&member) {
            let tid = commit.tid;
            if let Some(Link::Open { last_tid, .. }) =
                self.members.get_mut(&member).map(|member| &mut member.link)
            {
                *last_tid = tid.max(*last_tid);
            }
            self.settle_finishing(now);
        }
    }

    /// Acknowledges what can be, from the front of the line.
    ///
    /// INVARIANT 1: the participants that remain are in the in-sync set, and each of them has
    /// finished. A member that has finished and was lost since counts for nothing: where none
    /// remains, nobody who may serve holds the transaction for certain.
    pub(super) fn settle_finishing(&mut self, now: Now) {
        while let Some(id) = self.finishing.front().copied() {
            let Some(commit) = self.commits.get(&id) else {
                self.finishing.pop_front();
                continue;
            };
            if !commit.is_finished() {
                break;
            }
            let finished = !commit.participants.is_empty();
            if finished && self.durable_epoch < self.epoch && !bug!(AcknowledgeBeforeRecord) {
                // INVARIANT 2: the record that says who may lack it comes first.
                // MODEL: AwaitRecord
                self.await_record(now);
                break;
            }
            let told = matches!(commit.state, CommitState::AwaitsAck { until: None });
            let (tid, bytes) = (commit.tid, commit.bytes);
            self.finishing.pop_front();
            self.forget(id);
            if finished {
                // MODEL: Acknowledge
                // INVARIANTS 1, 5, 6.
                self.head = tid.max(self.head);
                self.count_as_lacking(bytes);
                self.emit(Effect::Committed { commit: id, tid });
            }
            if !told {
                let fault = || Fault::NotServing("every member failed while finishing".into());
                self.emit(Effect::FinishReply {
                    commit: id,
                    reply: if finished { Ok(tid) } else { Err(fault()) },
                });
            } else if !finished {
                self.emit(Effect::Abort { commit: id });
            }
        }
        if self.finishing.is_empty() {
            self.let_catch_up(now);
            self.settle_foreign(now);
        }
        self.grant_lock(now);
    }

    /// From now on it is the record alone that these clients wait for, and not for ever.
    fn await_record(&mut self, now: Now) {
        let until = Some(now.monotonic + self.rules.transaction_timeout);
        for id in &self.finishing {
            match self.commits.get_mut(id) {
                Some(commit) if commit.is_finished() => {
                    if matches!(commit.state, CommitState::Finishing { .. }) {
                        commit.state = CommitState::AwaitsAck { until };
                    }
                }
                _ => return,
            }
        }
    }

    pub(super) fn count_as_lacking(&mut self, bytes: u64) {
        for member in self
            .members
            .values_mut()
            .filter(|member| !member.is_in_sync())
        {
            if let Some(lacks) = &mut member.lacks {
                lacks.transactions += 1;
                lacks.bytes += bytes;
            }
        }
    }

    pub(super) fn gone(&mut self, id: CommitId, now: Now) {
        let Some(commit) = self.commits.get(&id) else {
            return;
        };
        match commit.state {
            // A finish in hand is finished.
            CommitState::Finishing { .. } | CommitState::AwaitsAck { .. } => {}
            _ => {
                // MODEL: Gone
                self.forget(id);
                self.emit(Effect::Abort { commit: id });
                self.grant_lock(now);
            }
        }
    }

    pub(super) fn recorded(&mut self, epoch: u64, now: Now) {
        // MODEL: Recorded
        self.durable_epoch = self.durable_epoch.max(epoch);
        self.record_trouble = None;
        if self.durable_epoch < self.epoch {
            // What the start has found out may be durable although something has changed since.
            self.serve_or_not(now);
            return;
        }
        self.joined_durably(now);
        self.serve_or_not(now);
        if let Some(id) = self.lock {
            self.proceed_to_finish(id, now);
        }
        self.settle_finishing(now);
        self.settle_foreign(now);
    }

    pub(super) fn record_failed(&mut self, epoch: u64, reason: String, now: Now) {
        // It is tried again several times a second, and said once.
        if self.record_trouble.as_ref() != Some(&reason) {
            self.record_trouble = Some(reason.clone());
            self.notice(Notice::RecordFailed {
                reason: reason.clone(),
            });
        }
        // MODEL: RecordFailed
        self.record_again = true;
        if epoch <= self.durable_epoch {
            return;
        }
        let text = format!("the membership record could not be written: {reason}");
        if matches!(self.joining(), Some((_, joining)) if joining <= epoch) {
            self.join_failed(&text, now);
        }
        self.serve_or_not(now);
        let holder = self.lock.and_then(|id| Some((id, self.commits.get(&id)?)));
        if let Some((id, commit)) = holder
            && matches!(commit.state, CommitState::AwaitsRecord { .. })
        {
            self.fail_before_finish(id, Fault::NotServing(text));
            self.grant_lock(now);
        }
    }

    /// A client that holds up everybody for too long loses the lock.
    pub(super) fn time_out_holder(&mut self, now: Now) {
        for commit in &mut self.commits {
            let (id, CommitState::AwaitsAck { until }) = (*commit.0, &mut commit.1.state) else {
                continue;
            };
            if until.is_some_and(|until| until <= now.monotonic) {
                *until = None;
                let text = "the membership record cannot be written; the outcome is unknown";
                let reply = Err(Fault::NotServing(text.into()));
                self.effects.push(Effect::FinishReply { commit: id, reply });
            }
        }
        let Some(id) = self.lock else { return };
        let Some(commit) = self.commits.get(&id) else {
            return;
        };
        match commit.state {
            CommitState::AwaitsHead { until } if until <= now.monotonic => {
                self.give_locks_back(now);
                self.vote_again_if_level(now);
            }
            CommitState::Levelling { until } if until <= now.monotonic => {
                self.cannot_be_made_level(id, now);
            }
            CommitState::Voted { until }
            | CommitState::Resolving { until }
            | CommitState::AwaitsRecord { until, .. }
                if until <= now.monotonic =>
            {
                let held = self.lock_held_for(now.monotonic).unwrap_or_default();
                let held_ms = u64::try_from(held.as_millis()).unwrap_or(u64::MAX);
                self.notice(Notice::TransactionTimedOut { held_ms });
                let asked = matches!(
                    commit_state(self, id),
                    Some(CommitState::AwaitsRecord { .. })
                );
                if asked {
                    let text = "the membership record was not written in time".to_owned();
                    self.fail_before_finish(id, Fault::NotServing(text));
                } else {
                    self.forget(id);
                    self.emit(Effect::Abort { commit: id });
                }
                self.grant_lock(now);
            }
            CommitState::CatchUpWaits { until } if until <= now.monotonic => {
                let text = "the transactions before it are not acknowledged in time";
                self.refuse(id, Fault::NotServing(text.into()));
                self.grant_lock(now);
            }
            // The recovery keeps to its limit by itself; this is for one that hangs, or for a record
            // that is being written for too long.
            CommitState::CatchingUp { until }
                if until + self.rules.catch_up_limit <= now.monotonic =>
            {
                if matches!(self.joining(), Some((commit, _)) if commit == id) {
                    self.join_failed("the membership record was not written in time", now);
                } else {
                    self.catch_up_ended(id, now);
                }
            }
            _ => {}
        }
    }

    pub(crate) fn name(&self, member: MemberId) -> String {
        self.members
            .get(&member)
            .map(|member| member.name.clone())
            .unwrap_or_default()
    }
}

fn commit_state(controller: &Controller, id: CommitId) -> Option<&CommitState> {
    controller.commits.get(&id).map(|commit| &commit.state)
}

impl Commit {
    /// Nobody is waited for any more: who takes part has finished.
    fn is_finished(&self) -> bool {
        match &self.state {
            CommitState::Finishing { waits } if bug!(WaitForAllButOne) => waits.len() <= 1,
            CommitState::Finishing { waits } => waits.is_empty(),
            CommitState::AwaitsAck { .. } => true,
            _ => false,
        }
    }
}
