//! Others who write to the members.
//!
//! A member that is a server of its own can be written to by others as well; it tells of what they
//! finish ([`Capabilities::shared`](crate::storage::Capabilities)). In `single` mode that must not be:
//! the member is taken out. In `coop` mode it is another daemon with the same members, and its
//! transactions become ours:
//!
//! 1. Each member reports a foreign transaction, in its own order. When every member of the in-sync set
//!    holds it, the head is raised to it and clients are told, once.
//! 2. One that some members hold and others lack after a moment was left half finished: the other
//!    daemon died, or has lost these members. It is copied to them (`Effect::Level`), so that it happened
//!    or did not happen, on all of them. Who cannot be levelled is taken out.
//! 3. Our own commits take the members' locks one after the other, in one order that is the same for
//!    every daemon (by name), so that two daemons cannot wait for each other, even where they differ
//!    about who is in sync. With its vote a member says what its last transaction was when we got its
//!    lock. Where that is not earlier than our TID, the TID is chosen anew; where members differ in it,
//!    the locks are given back until the members are level. Where only our head is behind, they are kept until
//!    it is not.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{
    Ballot, CommitId, CommitState, Controller, Effect, Generation, Link, MemberId, Now, Out, Phase,
    VoteReply,
};
use crate::raid::ClusterMode;
use crate::storage::Fault;
use crate::zodb::{Oid, Tid};

/// How long the members may differ about a foreign transaction before it is copied to those that lack
/// it. Its writer finishes it on all members at the same time.
const GRACE: Duration = Duration::from_millis(200);

/// How often a commit chooses another TID because others were faster.
const TRIES: u32 = 32;

/// How often it votes after that while its members are made level, where it can do without none of them.
const LAST_VOTES: u32 = 3;

/// A transaction of somebody else that is not acknowledged to our clients yet.
#[derive(Debug, Clone)]
pub(super) struct Foreign {
    oids: BTreeSet<Oid>,
    /// Whether these are its objects. A server tells of a restored transaction without those that were
    /// restored, and with those that were stored in it because they are blobs, which cannot be restored;
    /// and a cache that is not told of an object is wrong for ever. So whoever told, somebody looks.
    is_known: bool,
    /// A member was asked for them, and for those of all transactions since the head.
    is_inquired: bool,
    /// A member is being asked for them.
    asked: Option<(MemberId, Generation)>,
    /// When a member of the in-sync set was the first to tell of it.
    since: Instant,
}

/// Members that are being made level.
#[derive(Debug, Clone)]
pub(super) struct Levelling {
    source: MemberId,
    targets: Vec<MemberId>,
    /// The last of the transactions that are copied.
    through: Tid,
    until: Instant,
}

impl Controller {
    pub(super) fn is_coop(&self) -> bool {
        self.rules.cluster_mode == ClusterMode::Coop
    }

    /// Somebody else finished a transaction on a member.
    pub(super) fn foreign(
        &mut self,
        id: MemberId,
        generation: Generation,
        tid: Tid,
        oids: &[Oid],
        now: Now,
    ) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        if member.generation() != Some(generation) {
            return;
        }
        // MODEL: Foreign
        let assembling = self.phase == Phase::Assembling;
        if !member.is_in_sync() && !assembling || matches!(self.phase, Phase::Opening { .. }) {
            // The start compares, and a recovery looks for itself what its target holds.
            if let Link::Open { last_tid, .. } = &mut member.link {
                *last_tid = tid.max(*last_tid);
            }
            return;
        }
        if self.rules.cluster_mode == ClusterMode::Single {
            if !assembling && tid <= self.head {
                // The start has compared it: a daemon before this one had asked for it.
                return;
            }
            let reason = format!(
                "somebody else wrote transaction {tid} to it (several daemons over the same servers need \
                 `cluster_mode: coop`)"
            );
            let out = Out::wrong(reason);
            return self.lose(id, out, now);
        }
        let foreign = self.foreign.entry(tid).or_insert_with(|| Foreign {
            oids: BTreeSet::new(),
            is_known: false,
            is_inquired: false,
            asked: None,
            since: now.monotonic,
        });
        foreign.oids.extend(oids);
        self.reported.entry(id).or_default().insert(tid);
        self.settle_foreign(now);
    }

    /// Whether a transaction of our own came true although nobody waits for it any more: it is then to
    /// be treated like one of somebody else.
    pub(crate) fn is_disowned(&self, tid: Tid) -> bool {
        let is_ours = |id: &CommitId| self.commits.get(id).is_some_and(|commit| commit.tid == tid);
        self.is_coop() && tid > self.head && !self.finishing.iter().any(is_ours)
    }

    /// A member has finished a transaction of ours, whether or not its answer is still waited for.
    pub(crate) fn has_finished(&mut self, id: MemberId, generation: Generation, tid: Tid) {
        if self.members.get(&id).and_then(super::Member::generation) == Some(generation) {
            self.is_known_to_hold(id, tid);
        }
    }

    /// Whether a member of the in-sync set holds this foreign transaction. It does when it has told of
    /// it, or when it ended with it when it was opened or last written to. A later end says nothing: the
    /// member may have gone on without it. Then it is made level, which looks.
    fn holds(&self, id: MemberId, tid: Tid) -> bool {
        let reported = self.reported.get(&id);
        reported.is_some_and(|tids| tids.contains(&tid))
            || self
                .members
                .get(&id)
                .and_then(super::Member::last_tid)
                .is_some_and(|last| last == tid)
    }

    /// Acknowledges what every member of the in-sync set holds, in TID order.
    ///
    /// INVARIANTS 5, 6: our own transactions of before come first; and while a recovery catches up the
    /// head stands still, or its target could never be level with it.
    pub(super) fn settle_foreign(&mut self, now: Now) {
        if self.phase != Phase::Running {
            return;
        }
        while let Some((&tid, _)) = self.foreign.first_key_value() {
            let in_sync: Vec<MemberId> = self.in_sync().map(|(id, _)| id).collect();
            if tid <= self.head || !in_sync.iter().any(|id| self.holds(*id, tid)) {
                // It was part of what the start found; or who held it is lost, and with it this.
                self.forget_foreign(tid);
                continue;
            }
            let ours_before = self
                .finishing
                .front()
                .is_some_and(|id| self.commits.get(id).is_some_and(|commit| commit.tid < tid));
            let all = in_sync.iter().all(|id| self.holds(*id, tid));
            if ours_before || self.is_catching_up() || !all || self.durable_epoch < self.epoch {
                break;
            }
            if !self.is_known(tid) {
                break;
            }
            // MODEL: AcknowledgeForeign
            let foreign = self.foreign.remove(&tid);
            self.head = tid;
            self.last_given = tid.max(self.last_given);
            for id in in_sync {
                if let Some(Link::Open { last_tid, .. }) =
                    self.members.get_mut(&id).map(|member| &mut member.link)
                {
                    *last_tid = tid.max(*last_tid);
                }
            }
            self.forget_foreign(tid);
            self.count_as_lacking(0);
            let oids: Arc<[Oid]> = foreign.into_iter().flat_map(|it| it.oids).collect();
            self.emit(Effect::Foreign { tid, oids });
        }
        self.vote_again_if_level(now);
    }

    /// A transaction that is there although nobody has told of it, or not of all its objects.
    fn expect(&mut self, tid: Tid, now: Now) {
        self.foreign.entry(tid).or_insert_with(|| Foreign {
            oids: BTreeSet::new(),
            is_known: false,
            is_inquired: false,
            asked: None,
            since: now.monotonic,
        });
    }

    pub(super) fn is_known_to_hold(&mut self, id: MemberId, tid: Tid) {
        if let Some(Link::Open { last_tid, .. }) =
            self.members.get_mut(&id).map(|member| &mut member.link)
        {
            *last_tid = tid.max(*last_tid);
        }
    }

    /// Whether the objects of this transaction are known; where not, a member is asked. After a start,
    /// a loss or a levelling there may be transactions before it that nobody has told of: a cache that
    /// is not told of an object is wrong for ever, so everything since the head is asked for then.
    fn is_known(&mut self, tid: Tid) -> bool {
        let asked = self.foreign.get(&tid).and_then(|foreign| foreign.asked);
        let still = asked.is_some_and(|(id, generation)| {
            self.members.get(&id).and_then(super::Member::generation) == Some(generation)
        });
        let holder = self.in_sync().find_map(|(id, member)| {
            Some((id, member.generation()?)).filter(|(id, _)| self.holds(*id, tid))
        });
        let Some(foreign) = self.foreign.get_mut(&tid) else {
            return false;
        };
        let is_known = foreign.is_known && (!self.gaps || foreign.is_inquired);
        if is_known || still {
            return is_known;
        }
        if let Some((member, generation)) = holder {
            foreign.asked = Some((member, generation));
            let told = (!self.gaps && !foreign.oids.is_empty())
                .then(|| foreign.oids.iter().copied().collect());
            let after = self.head;
            self.emit(Effect::Inquire {
                tid,
                member,
                after,
                told,
            });
        }
        false
    }

    /// What was told of a foreign transaction is all that it wrote.
    pub(super) fn told_whole(&mut self, tid: Tid, now: Now) {
        if let Some(foreign) = self.foreign.get_mut(&tid) {
            foreign.is_known = true;
            foreign.asked = None;
            self.settle_foreign(now);
        }
    }

    /// A member was asked which objects a foreign transaction wrote.
    pub(super) fn inquired(&mut self, tid: Tid, oids: &[Oid], now: Now) {
        // MODEL: Inquired
        if let Some(foreign) = self.foreign.get_mut(&tid) {
            foreign.oids.extend(oids);
            foreign.is_known = true;
            foreign.is_inquired = true;
            foreign.asked = None;
            self.settle_foreign(now);
        }
    }

    fn forget_foreign(&mut self, tid: Tid) {
        self.foreign.remove(&tid);
        for tids in self.reported.values_mut() {
            tids.remove(&tid);
        }
    }

    /// What was told before a new start counts for nothing: the start compares.
    pub(super) fn forget_all_foreign(&mut self) {
        self.foreign.clear();
        self.reported.clear();
        self.levelling = None;
    }

    /// A member that is closed takes its word with it; and where it was the source of what others lack,
    /// another one is needed.
    pub(super) fn forget_reports(&mut self, id: MemberId) {
        self.reported.remove(&id);
        self.gaps = true;
        self.levelling.take_if(|levelling| levelling.source == id);
    }

    /// Whether this member holds foreign transactions that are not acknowledged.
    pub(super) fn holds_unacknowledged(&self, id: MemberId) -> bool {
        self.foreign.keys().any(|tid| self.holds(id, *tid))
    }

    fn is_catching_up(&self) -> bool {
        let holder = self.lock.and_then(|id| self.commits.get(&id));
        holder.is_some_and(|commit| matches!(commit.state, CommitState::CatchingUp { .. }))
    }

    /// Where a member ends, as far as anybody has told.
    fn known_end(&self, id: MemberId) -> Option<Tid> {
        let told = self.reported.get(&id).and_then(|tids| tids.last().copied());
        let known = self.members.get(&id).and_then(super::Member::last_tid);
        told.max(known)
    }

    /// Looks after transactions that were left half finished.
    pub(super) fn level_members(&mut self, at_once: bool, now: Now) {
        if let Some(levelling) = &self.levelling {
            if levelling.until > now.monotonic {
                return;
            }
            let levelling = levelling.clone();
            self.levelling = None;
            for id in levelling.targets {
                let lacks = self
                    .foreign
                    .keys()
                    .any(|tid| *tid <= levelling.through && !self.holds(id, *tid));
                if lacks && self.members.get(&id).is_some_and(super::Member::is_in_sync) {
                    let reason = format!(
                        "lacks transaction {} that another daemon finished, and could not be made level",
                        levelling.through
                    );
                    self.lose(id, Out::because(reason), now);
                }
            }
        }
        if self.phase != Phase::Running || self.is_catching_up() || !self.finishing.is_empty() {
            return;
        }
        let Some((&tid, foreign)) = self.foreign.first_key_value() else {
            return;
        };
        if !at_once && foreign.since + GRACE > now.monotonic {
            return;
        }
        let in_sync: Vec<MemberId> = self.in_sync().map(|(id, _)| id).collect();
        let (holders, others): (Vec<_>, Vec<_>) =
            in_sync.into_iter().partition(|id| self.holds(*id, tid));
        let (beyond, lacking): (Vec<_>, Vec<_>) = others
            .iter()
            .partition(|id| self.known_end(**id) > Some(tid));
        let (source, targets, through) = if beyond.len() * 2 > self.members.len() {
            // They go on after it, and nobody knows whether with it. Where it was without, more than half of
            // the members are right, and whoever holds it is not.
            let source = beyond[0];
            let targets = holders.into_iter().chain(lacking).collect();
            (source, targets, self.known_end(source).unwrap_or(tid))
        } else {
            let Some(source) = holders.first().copied().filter(|_| !others.is_empty()) else {
                return;
            };
            // As far as the source goes.
            let mut held = self.foreign.keys().rev();
            let through = held.find(|tid| self.holds(source, **tid));
            (source, others, through.copied().unwrap_or(tid))
        };
        self.levelling = Some(Levelling {
            source,
            targets: targets.clone(),
            through,
            until: now.monotonic + self.rules.level_limit,
        });
        // Before they are made level: that would wait for these locks.
        let holder = self.lock.and_then(|id| self.commits.get(&id));
        if holder.is_some_and(|commit| targets.iter().any(|id| commit.votes.contains_key(id))) {
            self.give_locks_back(now);
        }
        self.emit(Effect::Level {
            source,
            targets,
            after: self.head,
            through,
        });
    }

    /// A member holds what it lacked.
    pub(super) fn levelled(&mut self, id: MemberId, generation: Generation, tid: Tid, now: Now) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        if member.generation() != Some(generation) || !member.is_in_sync() {
            return;
        }
        // Also where what it was for is forgotten by now: it is there, and nobody else tells of it.
        self.is_known_to_hold(id, tid);
        self.gaps = true;
        if tid > self.head {
            self.expect(tid, now);
            // It was compared with its source since the head.
            let held: Vec<Tid> = self.foreign.range(..=tid).map(|(tid, _)| *tid).collect();
            let source = self.levelling.as_ref().filter(|it| it.through == tid);
            for id in source.map(|it| it.source).into_iter().chain([id]) {
                self.reported.entry(id).or_default().extend(&held);
            }
        }
        if let Some(levelling) = &mut self.levelling {
            levelling.targets.retain(|target| *target != id);
            if levelling.targets.is_empty() {
                self.levelling = None;
            }
        }
        self.settle_foreign(now);
    }

    /// The members in the order in which every daemon takes their locks, the next to be asked last.
    pub(super) fn in_canonical_order(&self, members: &BTreeSet<MemberId>) -> Vec<MemberId> {
        let mut line: Vec<MemberId> = members.iter().copied().collect();
        line.sort_by_key(|id| std::cmp::Reverse(self.name(*id)));
        line
    }

    /// A member has voted that is not the last in line, or the last: what its lock has shown.
    ///
    /// Gives false where the votes begin anew, or wait.
    pub(super) fn lock_taken(
        &mut self,
        id: CommitId,
        member: MemberId,
        after: Option<Tid>,
        now: Now,
    ) -> bool {
        let Some(commit) = self.commits.get_mut(&id) else {
            return false;
        };
        let Some(after) = after else { return true };
        commit.after.insert(member, after);
        if after < commit.tid {
            return true;
        }
        // Somebody chose a later TID than ours while we waited for the lock.
        // MODEL: ChooseAnew
        commit.tries += 1;
        let (tries, wanted) = (commit.tries, commit.wanted);
        self.emit(Effect::Abort { commit: id });
        if wanted.is_some() || tries > TRIES {
            let text = format!("the transaction would not be later than {after}");
            let reply = VoteReply::No(crate::storage::Answer::Invalid(text));
            self.decline(id, reply);
            self.grant_lock(now);
            return false;
        }
        // The further ahead the others' clocks are, the further it jumps, or it would be late again.
        let jump = Duration::from_millis(1 << tries.min(10));
        let later = now.wall.checked_add(jump).unwrap_or(now.wall);
        let tid = Tid::for_commit(later, after.max(self.last_given));
        let ahead = after.time().and_then(|time| time.checked_add(jump).ok());
        let margin = Tid::for_commit(ahead.unwrap_or(later), after);
        if let Some(commit) = self.commits.get_mut(&id) {
            commit.tid = if tries > 1 { tid.max(margin) } else { tid };
        }
        self.ask_for_votes(id);
        self.settle_votes(now);
        false
    }

    /// All locks are ours and all votes are in. Whether the members are level with each other and with
    /// the head; where not, the locks are given back until they are.
    pub(super) fn members_are_level(&mut self, id: CommitId, now: Now) -> bool {
        let Some(commit) = self.commits.get(&id) else {
            return false;
        };
        // Who said no gave its lock back, and did not say after what. Where members answer differently while
        // something is half finished, or others have committed since the first was asked, that is why.
        let mut ballots = commit.votes.values();
        // Nor does it change any more that some have packed what is undone.
        let agree = ballots.next().is_none_or(|first| {
            ballots.all(|ballot| {
                ballot.agrees_with(first) || ballot.has_packed_what_is_undone(first).is_some()
            })
        });
        let (first, last) = (commit.after.values().min(), commit.after.values().max());
        let is_level = first == last;
        let is_at_head = is_level && last.is_none_or(|last| *last == self.head);
        let is_ready = |ballot: &Ballot| matches!(ballot, Ballot::Ready { .. });
        let are_ready = commit.votes.values().all(is_ready);
        // What all refuse changes nothing, and stays refused: it need not be the last moment of which they say so. It
        // is told once all that they refuse it for is acknowledged.
        let is_refused = agree && !are_ready && is_level && last.is_some_and(|at| *at <= self.head);
        let later = commit.votes.iter().filter_map(|(member, ballot)| {
            let named = ballot.names().filter(|tid| *tid > self.head)?;
            Some((*member, named))
        });
        let later: Vec<(MemberId, Tid)> = later.filter(|_| !agree).collect();
        let later_at = later.clone();
        let of_one_moment =
            self.foreign.is_empty() && later.is_empty() && commit.asked_as_of == self.head;
        if is_at_head && (agree || of_one_moment) || is_refused {
            // Nothing is between the head and this transaction.
            self.gaps &= first.is_none() || !is_at_head;
            return true;
        }
        // All refuse for a conflict and differ in how far they are: what one of them refuses for is acknowledged.
        let kind = |ballot: &Ballot| ballot.names().map(|_| std::mem::discriminant(ballot));
        let mut kinds = commit.votes.values().map(kind);
        let one_kind = kinds.next().flatten();
        let all_conflict = one_kind.is_some() && kinds.all(|other| other == one_kind);
        let is_known = |ballot: &&Ballot| ballot.names() <= Some(self.head);
        let told = commit.votes.values().find(is_known).cloned();
        if let Some(told) = told.filter(|_| all_conflict && !agree) {
            for ballot in self
                .commits
                .get_mut(&id)
                .into_iter()
                .flat_map(|it| it.votes.values_mut())
            {
                *ballot = told.clone();
            }
            return true;
        }
        let keeps = is_level && agree;
        let holds = are_ready && commit.last_votes > 0 && !commit.has_held;
        for (member, after) in commit.after.clone().into_iter().chain(later) {
            self.is_known_to_hold(member, after);
            if after > self.head {
                self.reported.entry(member).or_default().insert(after);
            }
            if after > self.head && !self.foreign.contains_key(&after) {
                // Nobody has told of it, and it is there.
                self.gaps = true;
                self.expect(after, now);
            }
        }
        let level_limit = self.rules.level_limit;
        let limit = now.monotonic + level_limit * 2;
        if let Some(commit) = self.commits.get_mut(&id) {
            if keeps {
                // MODEL: KeepLocks
                // Only the head is behind, and it takes a moment to ask for the objects of what it lacks. Whoever
                // gave the locks back for that, or asked again who has refused and holds none, would be overtaken
                // again by another daemon that commits all the time.
                let until = now.monotonic + level_limit;
                commit.level_until.get_or_insert(limit);
                commit.state = CommitState::AwaitsHead { until };
                self.settle_foreign(now);
                return false;
            }
            if holds {
                return self.hold_furthest(id, now);
            }
            // MODEL: WaitForLevel
            // Who refused because of what the others lack is as far as that.
            commit.after.extend(later_at);
            // From the first time on: where another daemon commits all the time, whoever gives its locks back for
            // it is overtaken again, dozens of times in a second.
            let until = *commit.level_until.get_or_insert(limit);
            commit.state = CommitState::Levelling { until };
        }
        // It was tried to hold the others, or to wait where some refuse, who hold nothing.
        let is_over = self.commits.get_mut(&id).is_some_and(|it| {
            it.last_votes > 0 && (are_ready || std::mem::replace(&mut it.has_waited, true))
        });
        // Nobody is finishing anything at this moment, so who lacks something lacks it for good.
        self.emit(Effect::Abort { commit: id });
        if is_over {
            self.cannot_be_made_level(id, now);
            return false;
        }
        self.level_members(true, now);
        self.vote_again_if_level(now);
        false
    }

    /// Another daemon is lacking members that we have, and the other way round: what one of them commits the other
    /// one has to make level each time, and whoever gives all locks back for that is overtaken again and again. So
    /// the locks are kept of those that are furthest, where nobody can go on then, and given back only to those
    /// that are to be made level.
    ///
    /// They are asked again out of order: two daemons could wait for each other, for as long as the locks are held.
    fn hold_furthest(&mut self, id: CommitId, now: Now) -> bool {
        let until = now.monotonic + self.rules.level_limit / 2;
        let Some(commit) = self.commits.get_mut(&id) else {
            return false;
        };
        // MODEL: HoldFurthest
        let furthest = commit.after.values().max().copied();
        let behind = commit
            .after
            .iter()
            .filter(|(_, end)| Some(**end) != furthest);
        let behind: BTreeSet<MemberId> = behind.map(|(member, _)| *member).collect();
        commit.votes.retain(|member, _| !behind.contains(member));
        commit.after.retain(|member, _| !behind.contains(member));
        commit.has_held = true;
        commit.state = CommitState::AwaitsHead { until };
        let line = self.in_canonical_order(&behind);
        if let Some(commit) = self.commits.get_mut(&id) {
            commit.line = line;
        }
        for member in behind {
            self.emit(Effect::GiveBack { commit: id, member });
        }
        self.level_members(true, now);
        self.vote_again_if_level(now);
        false
    }

    /// Whoever makes members level needs their locks, and so do the other daemons.
    pub(super) fn give_locks_back(&mut self, now: Now) {
        let Some(id) = self.lock else { return };
        let until = now.monotonic + self.rules.level_limit * 2;
        let Some(commit) = self.commits.get_mut(&id) else {
            return;
        };
        if !matches!(commit.state, CommitState::AwaitsHead { .. }) {
            return;
        }
        // MODEL: GiveLocksBack
        let until = *commit.level_until.get_or_insert(until);
        commit.state = CommitState::Levelling { until };
        commit.line.clear();
        self.emit(Effect::Abort { commit: id });
    }

    /// The holder of the lock goes on, or votes again, once nothing foreign is left.
    pub(super) fn vote_again_if_level(&mut self, now: Now) {
        let Some(id) = self.lock else { return };
        let (head, is_level) = (self.head, self.foreign.is_empty());
        let Some(commit) = self.commits.get_mut(&id) else {
            return;
        };
        // A last vote is one at once: waiting was tried before it.
        let is_last_vote = commit.last_votes > 0
            && !commit.has_waited
            && matches!(commit.state, CommitState::Levelling { .. });
        if !is_level && !is_last_vote {
            return;
        }
        if matches!(commit.state, CommitState::AwaitsHead { .. }) {
            let waits = BTreeSet::new();
            commit.state = CommitState::Voting { waits };
            return self.settle_votes(now);
        }
        if !matches!(commit.state, CommitState::Levelling { .. }) {
            return;
        }
        if commit
            .level_until
            .is_some_and(|until| now.monotonic >= until)
        {
            return self.cannot_be_made_level(id, now);
        }
        // MODEL: VoteAgain
        if commit.wanted.is_none() && commit.tid <= head {
            commit.tid = Tid::for_commit(now.wall, head);
        }
        self.ask_for_votes(id);
        self.settle_votes(now);
    }

    /// The holder of the lock has waited long enough for its members to be level.
    ///
    /// INVARIANT 7: where another daemon goes on without some of them, since it has lost them or its operator has
    /// disabled them there, they are behind again whenever they are made level. Most hold what it commits: the
    /// others are taken out here as well, and the transaction goes on. Where all are as far, it votes some times more,
    /// and holds then those that are furthest.
    pub(super) fn cannot_be_made_level(&mut self, id: CommitId, now: Now) {
        let Some(commit) = self.commits.get_mut(&id) else {
            return;
        };
        let mut ends = std::mem::take(&mut commit.after);
        let last_votes = std::mem::take(&mut commit.last_votes);
        commit.level_until = None;
        // Who refuses may not say where it ends. What others wrote it has told before it voted.
        let voters: BTreeSet<MemberId> = commit.votes.keys().chain(ends.keys()).copied().collect();
        for id in voters {
            // Who was behind when it voted may have been made level since.
            if let Some(end) = self.known_end(id).max(ends.get(&id).copied()) {
                ends.insert(id, end);
            }
        }
        // As far as more than half of the members are, or further.
        let mut furthest: Vec<Tid> = ends.values().copied().collect();
        furthest.sort_unstable_by_key(|end| std::cmp::Reverse(*end));
        let most = furthest.get(self.members.len() / 2).copied();
        let behind: Vec<_> = ends
            .into_iter()
            .filter(|(_, end)| most.is_some_and(|most| *end < most))
            .collect();
        if behind.is_empty() && last_votes >= LAST_VOTES {
            let fault = Fault::NotServing("the members cannot be made level".into());
            self.refuse(id, fault);
            return self.grant_lock(now);
        }
        let last_votes = if behind.is_empty() { last_votes + 1 } else { 0 };
        for (member, after) in behind {
            let reason = format!(
                "ends at {after}, and another daemon goes on without it: it cannot be made level with the others \
                 (is it disabled there?)"
            );
            self.lose(member, Out::because(reason), now);
        }
        if let Some(commit) = self.commits.get_mut(&id)
            && let CommitState::Levelling { until } = &mut commit.state
        {
            // What the others hold may have to be told of first.
            *until = now.monotonic + self.rules.level_limit * 2;
            commit.level_until = Some(*until);
            commit.last_votes = last_votes;
            (commit.has_held, commit.has_waited) = (false, false);
        }
        self.vote_again_if_level(now);
    }
}
