//! The start: from which members the array may serve.
//!
//! INVARIANT 4. With a record (policy `in-sync`) that is any member of the recorded in-sync set: each
//! of them holds every acknowledged transaction. The start waits a moment for the others of the set
//! once the first is open, because whoever has the newest transaction is the better source: a
//! transaction that was being finished when the daemon ended may be on some members and not on
//! others, and either outcome is right as long as all take the same.
//!
//! With no record, every member must be there, and each must be a prefix of the newest. The policies
//! `majority` and `newest` are weaker and say so.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::{
    Compared, Controller, Effect, Link, Member, MemberId, Notice, Now, Out, Phase, Serving,
    Standing, State,
};
use crate::raid::{Membership, StartLacks, StartPolicy};
use crate::zodb::Tid;

/// In `coop` mode another daemon may mend meanwhile what keeps this one from serving, and nothing of it is
/// heard here: so the members are compared again after this.
const COMPARED_AGAIN: Duration = Duration::from_secs(10);

/// A start that has led to nothing. Nothing is tried before something about the members changes, or until
/// then.
#[derive(Debug)]
pub(super) struct Blocked {
    why: String,
    until: Option<Instant>,
}

impl Blocked {
    fn is_over(&self, now: Now) -> bool {
        self.until.is_some_and(|until| now.monotonic >= until)
    }
}

impl Controller {
    /// How a configured member stands before anything was opened.
    pub(super) fn standing_at_start(&self, name: &str) -> State {
        let Some(record) = &self.recorded else {
            return State::Degraded(Out::because("not compared with the others yet"));
        };
        match record.members.get(name) {
            Some(Standing::InSync) => State::InSync,
            Some(Standing::Out {
                reason,
                needs_operator,
                is_wrong,
                unacknowledged_tail,
                damaged,
                ..
            }) => State::Degraded(Out {
                reason: reason.clone(),
                needs_operator: *needs_operator,
                is_wrong: *is_wrong,
                unacknowledged_tail: *unacknowledged_tail,
                damaged: *damaged,
            }),
            None => State::Degraded(Out::because("added; not recovered yet")),
        }
    }

    /// Since when a member is out, as the record has it.
    pub(super) fn out_since(&self, name: &str) -> Option<Timestamp> {
        match self.recorded.as_ref()?.members.get(name)? {
            Standing::InSync => None,
            Standing::Out { since, .. } => Some(*since),
        }
    }

    /// Whether a copy may hold what was never acknowledged, as far as this daemon knows. In `coop` mode
    /// the others are enough: more than half of the members are needed in any case.
    fn is_suspect(&self, out: &Out) -> bool {
        self.is_coop() && !self.needs_suspects && (out.unacknowledged_tail || out.damaged)
    }

    /// Whether the record alone says who may serve. In `coop` mode it does not: another daemon may have
    /// gone on with other members since.
    pub(super) fn goes_by_record(&self) -> bool {
        self.recorded.is_some() && self.rules.start_policy == StartPolicy::InSync && !self.is_coop()
    }

    /// The members that the start looks at.
    fn candidates(&self) -> Vec<(MemberId, &Member)> {
        let wanted = |member: &Member| {
            if self.goes_by_record() {
                member.is_in_sync() || bug!(StartFromAnybody)
            } else {
                // A copy that an operator disabled is no candidate under any policy, nor one that
                // is being written to.
                !matches!(member.out(), Some(out) if out.needs_operator || self.is_suspect(out))
                    && !matches!(member.standing, State::Recovering(_))
            }
        };
        let candidates: Vec<_> = self
            .members
            .iter()
            .filter(|(_, member)| wanted(member))
            .map(|(id, m)| (*id, m))
            .collect();
        let hopeless = |(_, member): &(MemberId, &Member)| {
            matches!(member.link, Link::Opening { failed: Some(_) } | Link::Shut)
        };
        if self.rules.force && candidates.iter().all(hopeless) {
            return self
                .members
                .iter()
                .map(|(id, member)| (*id, member))
                .collect();
        }
        candidates
    }

    /// What keeps the start waiting; none where it can go on. With no `now` the moment that is left
    /// for the slower members lasts for ever.
    fn start_waits(&self, now: Option<Now>) -> Option<String> {
        let candidates = self.candidates();
        let open = candidates
            .iter()
            .filter(|(_, member)| member.is_open())
            .count();
        let missing: Vec<String> = candidates
            .iter()
            .filter(|(_, member)| !member.is_open())
            .map(|(_, member)| match &member.link {
                Link::Opening { failed: Some(why) } => format!("{} ({why})", member.name),
                _ => format!("{} (being opened)", member.name),
            })
            .collect();
        let is_over = |blocked: &&Blocked| now.is_some_and(|now| blocked.is_over(now));
        if let Some(blocked) = self.blocked.as_ref().filter(|blocked| !is_over(blocked)) {
            return Some(blocked.why.clone());
        }
        if candidates.is_empty() {
            let recorded = self.recorded.iter().flat_map(Membership::in_sync);
            let recorded: Vec<_> = recorded.collect();
            let recorded = recorded.join(", ");
            return Some(if recorded.is_empty() {
                "a member: none is configured, or all wait for an operator".into()
            } else {
                format!("{recorded}: what was in the last in-sync set is not configured any more")
            });
        }
        let whole_set =
            self.in_sync_count() > 0 && self.in_sync().all(|(_, member)| member.is_open());
        let enough = match self.rules.start_policy {
            _ if self.rules.force => open > 0,
            // Copies that are new and empty would else outvote the database that was taken over.
            _ if self.adopted_and_away().next().is_some() => false,
            // Whatever another daemon acknowledged is on more than half of the members.
            _ if self.is_coop() => open * 2 > self.members.len(),
            // Everybody who holds all that was acknowledged is there, whatever the policy.
            _ if self.recorded.is_some() && whole_set => true,
            StartPolicy::InSync if self.goes_by_record() => open > 0,
            StartPolicy::InSync => open == self.members.len(),
            StartPolicy::Majority => open * 2 > self.members.len(),
            StartPolicy::Newest => open > 0,
        };
        if !enough && missing.is_empty() {
            return Some(self.who_waits_for_an_operator());
        }
        if !enough {
            return Some(missing.join(", "));
        }
        let Phase::Opening {
            first_open: Some(first_open),
        } = self.phase
        else {
            return Some(missing.join(", "));
        };
        let still_opening = candidates
            .iter()
            .any(|(_, member)| matches!(member.link, Link::Opening { failed: None }));
        let grace_is_over =
            now.is_some_and(|now| now.monotonic >= first_open + self.rules.start_grace);
        if still_opening && !grace_is_over {
            return Some(missing.join(", "));
        }
        None
    }

    /// All that may be looked at are there, and more are needed.
    fn who_waits_for_an_operator(&self) -> String {
        let waiting = self.members.values().filter_map(|member| {
            let out = member.out().filter(|out| out.needs_operator)?;
            Some(format!("{} ({})", member.name, out.reason))
        });
        let waiting: Vec<_> = waiting.collect();
        if waiting.is_empty() {
            return "those that are being recovered".to_owned();
        }
        let may_be_compared = self.members.values().any(Member::may_be_compared_if_asked);
        let next = if may_be_compared {
            "`recover` one that an operator took out, and it will be compared"
        } else {
            "start --force, and then recover it"
        };
        format!(
            "an operator: more members have to be compared than may be without a word, {}; {next}",
            waiting.join(", ")
        )
    }

    /// Those of which a first start is sure that they hold something, and that are not open.
    fn adopted_and_away(&self) -> impl Iterator<Item = &Member> {
        let never_started = self.never_started();
        let members = self.members.values();
        members.filter(move |member| never_started && member.adopted && !member.is_open())
    }

    /// Who has to come before the start can go on, and how many of them.
    pub(in crate::raid) fn start_lacks(&self) -> Option<StartLacks> {
        let candidates = self.candidates();
        if !matches!(self.phase, Phase::Opening { .. }) || self.blocked.is_some() {
            return None;
        }
        let names = |open: bool| {
            let those = candidates
                .iter()
                .filter(move |(_, it)| it.is_open() == open);
            those.map(|(_, member)| member.name.clone())
        };
        let (open, all) = (names(true).count(), self.members.len());
        let majority = all / 2 + 1;
        let needed = match self.rules.start_policy {
            _ if self.rules.force => 1,
            _ if self.is_coop() => majority,
            StartPolicy::InSync if self.goes_by_record() => 1,
            StartPolicy::InSync => all,
            StartPolicy::Majority => majority,
            StartPolicy::Newest => 1,
        };
        let adopted = self.adopted_and_away().map(|member| member.name.clone());
        let adopted: Vec<_> = adopted.filter(|_| !self.rules.force).collect();
        let needed = needed.max(open + adopted.len());
        let lacks = StartLacks {
            // Nobody else helps where those are all that is lacking.
            members: if needed - open == adopted.len() {
                adopted
            } else {
                names(false).collect()
            },
            open,
            all,
            needed,
            by_record: self.goes_by_record(),
        };
        (open < needed && !lacks.members.is_empty()).then_some(lacks)
    }

    pub(super) fn what_is_waited_for(&self) -> String {
        // Nobody wants to read of comparisons that lead to nothing again and again.
        if self.phase == Phase::Assembling && self.blocked.is_none() {
            return "the comparison of the members".into();
        }
        self.start_waits(None)
            .unwrap_or_else(|| "the comparison of the members".into())
    }

    pub(super) fn say_what_is_waited_for(&mut self) {
        let waits_for = self.what_is_waited_for();
        let next = match &self.serving {
            Serving::Starting { .. } => Serving::Starting { waits_for },
            _ => Serving::No { reason: waits_for },
        };
        if next != self.serving {
            self.serving = next.clone();
            self.emit(Effect::Serving(next));
        }
    }

    pub(super) fn start_if_possible(&mut self, now: Now) {
        if !matches!(self.phase, Phase::Opening { .. }) {
            return;
        }
        if self.start_waits(Some(now)).is_some() {
            if self.blocked.as_ref().is_some_and(|it| it.is_over(now)) {
                // Somebody has gone away since: that is what is waited for.
                self.blocked = None;
            }
            self.say_what_is_waited_for();
            return;
        }
        let mut open: Vec<(Tid, MemberId)> = self
            .candidates()
            .iter()
            .filter_map(|(id, member)| Some((member.last_tid()?, *id)))
            .collect();
        open.sort_by_key(|(last_tid, id)| (std::cmp::Reverse(*last_tid), *id));
        // MODEL: Start
        self.phase = Phase::Assembling;
        let members = open.into_iter().map(|(_, id)| id).collect();
        self.passed_over.clear();
        self.assemble(members);
        self.say_what_is_waited_for();
    }

    fn assemble(&mut self, members: Vec<MemberId>) {
        let generation = |id: &MemberId| Some((*id, self.members.get(id)?.generation()?));
        self.assembling = members.iter().filter_map(generation).collect();
        self.emit(Effect::Assemble { members });
    }

    pub(super) fn assembled(
        &mut self,
        found: Vec<(MemberId, Compared)>,
        head: Option<Tid>,
        now: Now,
    ) {
        if self.phase != Phase::Assembling {
            return;
        }
        // MODEL: Assembled
        let found = self.still_true(found);
        self.phase = Phase::Opening {
            first_open: Some(now.monotonic),
        };
        let newest = found.first().and_then(|(id, compared)| {
            // What was compared counts, also where the member has gone on since it was opened.
            let last_tid = head.or(self.members.get(id)?.last_tid())?;
            (*compared == Compared::Level).then_some(last_tid)
        });
        let first_start = self.recorded.is_none() && !self.rules.force;
        let unknown = found
            .iter()
            .any(|(_, compared)| matches!(compared, Compared::Unknown(_)));
        let Some(head) = newest.filter(|_| !(first_start && unknown)) else {
            // Who could not be compared is opened again: the newest, or with no record anybody.
            for (id, compared) in found {
                if let Compared::Unknown(why) = compared {
                    self.reopen(id, &why);
                }
            }
            self.say_what_is_waited_for();
            return;
        };
        let known = self.acknowledged();
        if head.is_zero() && !known.is_zero() {
            let text = format!(
                "a copy: {known} was acknowledged, and what is open is empty; put back the Data.fs of a member, or \
                 one from a backup and start with --force"
            );
            return self.block(text, &found, now);
        }
        // What an empty copy is the newest of may be all empty, or not: with no record nobody knows what there was.
        if head.is_zero() && self.recorded.is_none() && self.rules.force {
            let is_found = |id: &MemberId| {
                let mut compared = found.iter().filter(|(other, _)| other == id);
                compared.any(|(_, it)| !matches!(it, Compared::Unknown(_)))
            };
            let missing = self.members.iter().filter(|(id, _)| !is_found(id));
            let missing: Vec<String> = missing.map(|(_, it)| it.name.clone()).collect();
            if !missing.is_empty() {
                let text = format!(
                    "{}: what is open is empty, and no start is on record that would say what the others hold; where they \
                     hold nothing, take them out of the configuration",
                    missing.join(", ")
                );
                return self.block(text, &found, now);
            }
        }
        if head < known && !self.rules.force {
            let newest = self.name(found[0].0);
            let text = format!(
                "a copy that holds everything: the newest that is open, {newest}, ends at {head}, but \
                 {known} was acknowledged: it was restored from a backup, or is another database"
            );
            return self.block(text, &found, now);
        }
        if let Some(text) = self.disagreement(&found) {
            return self.block(text, &found, now);
        }
        if self.is_coop() && !self.rules.force && !self.majority_agrees(&found, now) {
            return;
        }
        // By force it goes on from less than what the record knows. Once that is lost the next start must not miss it.
        let has_lost = known > head;
        let by_record =
            self.goes_by_record() && self.members[&found[0].0].is_in_sync() && !has_lost;
        if self.rules.force && !by_record {
            let reason = if has_lost {
                format!("it goes on from {head}, and {known} was acknowledged")
            } else {
                "the start policy was not met".to_owned()
            };
            self.notice(Notice::Forced { reason });
        }
        if has_lost {
            self.tails_may_be_acknowledged();
        }
        self.warn_of_the_absent(&found);
        // It was asked for this start, not for those that may follow.
        let by_force = std::mem::take(&mut self.rules.force);
        self.needs_suspects = false;
        self.blocked = None;
        let before: Vec<_> = self
            .recorded
            .iter()
            .flat_map(Membership::in_sync)
            .map(str::to_owned)
            .collect();
        // MODEL: TakePlaces
        let left_out = self.take_places(&found, by_record, now);
        self.head = head;
        self.gaps = true;
        for (id, compared) in &found {
            if *compared == Compared::Level {
                self.is_known_to_hold(*id, head);
            }
        }
        self.last_given = head.max(self.last_given);
        self.phase = Phase::Running;
        let after: Vec<_> = self
            .in_sync()
            .map(|(_, member)| member.name.clone())
            .collect();
        let same_members = self
            .recorded
            .as_ref()
            .is_some_and(|record| record.members.keys().eq(self.names_in_order().iter()));
        if by_force {
            self.known = head;
        }
        self.recorded = None;
        if before != after || !same_members || has_lost {
            self.change_membership(now);
        }
        for (member, reason) in left_out {
            let epoch = self.epoch;
            self.notice(Notice::MemberDegraded {
                member,
                reason,
                epoch,
            });
        }
        self.start_epoch = self.epoch;
        self.emit(Effect::Publish);
        self.settle_foreign(now);
        self.serve_or_not(now);
        self.recover_by_itself(now);
        self.start_next_recovery(now);
    }

    /// What members hold that are away is more than what the array goes on from, and may be all that is left of what
    /// was acknowledged: nothing of it is cut without an operator's word.
    fn tails_may_be_acknowledged(&mut self) {
        for member in self.members.values_mut() {
            if let State::Degraded(out) | State::Recovering(out) = &mut member.standing {
                out.unacknowledged_tail = false;
            }
        }
    }

    fn names_in_order(&self) -> Vec<String> {
        let mut names: Vec<_> = self
            .members
            .values()
            .map(|member| member.name.clone())
            .collect();
        names.sort();
        names
    }

    /// What the comparison found, without what has changed since.
    fn still_true(&self, found: Vec<(MemberId, Compared)>) -> Vec<(MemberId, Compared)> {
        let disabled = |member: &Member| {
            !self.rules.force && member.out().is_some_and(|out| out.needs_operator)
        };
        let found = found.into_iter().filter_map(|(id, compared)| {
            let member = self.members.get(&id).filter(|member| !disabled(member))?;
            let as_it_was = self.assembling.get(&id).copied();
            let compared =
                if member.is_open() && as_it_was.is_none_or(|it| member.generation() == Some(it)) {
                    compared
                } else {
                    Compared::Unknown("was lost while it was compared".into())
                };
            Some((id, compared))
        });
        found.collect()
    }

    /// Candidates that must be prefixes of each other and are not: with no record all of them, with one
    /// the last in-sync set. No crash makes two of that set diverge: a transaction that only some of
    /// them hold is the end of their history. So one of them was swapped for another database, or
    /// written to by somebody else, and the newer TID says nothing about which.
    fn disagreement(&self, found: &[(MemberId, Compared)]) -> Option<String> {
        let by_record = self.goes_by_record();
        if self.rules.force || (self.recorded.is_some() && !by_record) {
            return None;
        }
        let newest = self.name(found.first()?.0);
        let diverged = found.iter().find_map(|(id, compared)| match compared {
            Compared::Diverged { reason } => Some(format!("{}: {reason}", self.name(*id))),
            _ => None,
        })?;
        let what = if by_record {
            "the members of the last in-sync set have diverged, so one of them was swapped or written to \
             by somebody else"
        } else {
            "the members have no common history, and no record says who is right"
        };
        Some(format!(
            "an operator: {what} ({diverged}). Take the wrong copy out of the configuration, or start \
             with --force to go on from the newest, {newest}"
        ))
    }

    /// In `coop` mode the newest TID says nothing where histories differ: it may be that of a transaction
    /// which a daemon left on one member alone, while others went on with earlier TIDs. What more than
    /// half of the members hold is right; whoever stands against that is passed over.
    ///
    /// Gives false where the comparison begins anew without the newest, or waits for others.
    fn majority_agrees(&mut self, found: &[(MemberId, Compared)], now: Now) -> bool {
        let diverged =
            |(_, compared): &&(MemberId, Compared)| matches!(compared, Compared::Diverged { .. });
        let unknown =
            |(_, compared): &&(MemberId, Compared)| matches!(compared, Compared::Unknown(_));
        let against = found.iter().filter(diverged).count();
        let agree = found.len() - against - found.iter().filter(unknown).count();
        if against == 0 || agree * 2 > self.members.len() {
            return true;
        }
        let rest: Vec<MemberId> = found.iter().skip(1).map(|(id, _)| *id).collect();
        let open = rest
            .iter()
            .filter(|id| self.members.get(id).is_some_and(Member::is_open))
            .count();
        if open == rest.len() && open * 2 > self.members.len() {
            // MODEL: PassOver
            self.passed_over.push(found[0].0);
            self.phase = Phase::Assembling;
            self.assemble(rest);
            return false;
        }
        if !self.needs_suspects {
            // Those that were left out so far may be what makes a majority.
            self.needs_suspects = true;
            self.phase = Phase::Opening {
                first_open: Some(now.monotonic),
            };
            self.say_what_is_waited_for();
            return false;
        }
        let passed_over = self.passed_over.iter();
        let all = passed_over.chain(found.iter().map(|(id, _)| id));
        let names: Vec<String> = all.map(|id| self.name(*id)).collect();
        let text = format!(
            "another member, or an operator: {} have diverged, and no majority says which is right",
            names.join(", ")
        );
        self.phase = Phase::Opening {
            first_open: Some(now.monotonic),
        };
        self.block(text, found, now);
        false
    }

    fn block(&mut self, why: String, found: &[(MemberId, Compared)], now: Now) {
        // MODEL: Block
        let compared = |id: &MemberId| {
            found.iter().any(|(other, _)| other == id) || self.passed_over.contains(id)
        };
        let came_since = self.candidates().into_iter();
        let mut came_since = came_since.filter(|(id, member)| member.is_open() && !compared(id));
        if came_since.next().is_some() {
            // They may be what is missing: the next tick compares again.
            self.blocked = None;
            return;
        }
        if self.blocked.as_ref().is_none_or(|before| before.why != why) {
            let reason = why.clone();
            self.notice(Notice::NotServing { reason });
        }
        let until = self.is_coop().then(|| now.monotonic + COMPARED_AGAIN);
        self.blocked = Some(Blocked { why, until });
        self.say_what_is_waited_for();
    }

    fn reopen(&mut self, id: MemberId, why: &str) {
        if let Some(member) = self.members.get_mut(&id)
            && member.is_open()
        {
            member.link = Link::Opening {
                failed: Some(why.to_owned()),
            };
            self.emit(Effect::Close(id));
            self.emit(Effect::Open(id));
            self.forget_reports(id);
        }
    }

    /// The policies `majority` and `newest` start from what is there. Where that is not of the last in-sync
    /// set, as far as there is a record of one, whoever is away may hold more, or is not configured any more.
    fn warn_of_the_absent(&mut self, found: &[(MemberId, Compared)]) {
        let policy = match self.rules.start_policy {
            // Every member is there, or the record says who holds everything.
            StartPolicy::InSync => return,
            StartPolicy::Majority => "majority",
            StartPolicy::Newest => "newest",
        };
        let holds_everything = self.recorded.is_some() && self.members[&found[0].0].is_in_sync();
        // By force is said otherwise; and what other daemons acknowledged more than half of the members hold.
        if self.rules.force || self.is_coop() || holds_everything {
            return;
        }
        let was_compared = |id: &MemberId| {
            let mut compared = found.iter();
            compared.any(|(other, it)| other == id && !matches!(it, Compared::Unknown(_)))
        };
        let away = self.members.iter().filter(|(id, member)| {
            // Since an operator disabled it, it was not written to.
            !was_compared(id) && !member.out().is_some_and(|out| out.needs_operator)
        });
        let away = away.map(|(_, member)| member.name.clone());
        let recorded = self.recorded.iter().flat_map(Membership::in_sync);
        let unknown = recorded.filter(|name| self.id_of(name).is_err());
        let members: Vec<String> = away.chain(unknown.map(str::to_owned)).collect();
        if !members.is_empty() {
            self.notice(Notice::StartedWithout { policy, members });
        }
    }

    /// Gives every member its standing, now that the newest is known. `by_record` says that the
    /// newest is of the last in-sync set: then it holds all that was acknowledged, and what only
    /// another member of that set holds was not.
    ///
    /// Gives those that might have served and do not, with the reasons.
    fn take_places(
        &mut self,
        found: &[(MemberId, Compared)],
        by_record: bool,
        now: Now,
    ) -> Vec<(String, String)> {
        let mut left_out = Vec::new();
        let ids: Vec<MemberId> = self.members.keys().copied().collect();
        for id in ids {
            let compared = found.iter().find(|(other, _)| *other == id).map(|(_, c)| c);
            let Some(member) = self.members.get_mut(&id) else {
                continue;
            };
            let was_in_sync = member.is_in_sync();
            let absent = |why: &str| {
                State::Degraded(Out {
                    unacknowledged_tail: by_record,
                    ..Out::because(why)
                })
            };
            let next = match compared {
                Some(Compared::Level) => {
                    self.again.remove(&id);
                    State::InSync
                }
                Some(Compared::Behind) => State::Degraded(Out::because("behind at the start")),
                Some(Compared::Diverged { reason } | Compared::Swapped { reason }) => {
                    State::Degraded(Out::wrong(reason))
                }
                Some(Compared::Unknown(why)) if was_in_sync => absent(why),
                None if was_in_sync => match &member.link {
                    Link::Opening { failed: Some(why) } => absent(why),
                    _ => absent("was not open in time at the start"),
                },
                Some(Compared::Unknown(_)) | None => continue,
            };
            if let State::Degraded(out) = &next
                && (was_in_sync || self.recorded.is_none())
            {
                left_out.push((member.name.clone(), out.reason.clone()));
            }
            if next != member.standing {
                member.stand(next, now.wall);
            }
            if let Some(Compared::Unknown(why)) = compared {
                self.reopen(id, why);
            }
        }
        left_out
    }
}
