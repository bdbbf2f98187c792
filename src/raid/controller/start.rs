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

use super::{
    Compared, Controller, Effect, Link, Member, MemberId, Notice, Now, Out, Phase, Serving,
    Standing, State,
};
use crate::raid::StartPolicy;
use crate::zodb::Tid;

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
                unacknowledged_tail,
                ..
            }) => State::Degraded(Out {
                reason: reason.clone(),
                needs_operator: *needs_operator,
                unacknowledged_tail: *unacknowledged_tail,
            }),
            None => State::Degraded(Out::because("added; not recovered yet")),
        }
    }

    /// Whether the record alone says who may serve.
    fn goes_by_record(&self) -> bool {
        self.recorded.is_some() && self.rules.start_policy == StartPolicy::InSync
    }

    /// The members that the start looks at.
    fn candidates(&self) -> Vec<(MemberId, &Member)> {
        let wanted = |member: &Member| {
            if self.goes_by_record() {
                member.is_in_sync()
            } else {
                // A copy that an operator disabled is no candidate under any policy.
                !matches!(member.out(), Some(out) if out.needs_operator)
            }
        };
        let candidates: Vec<_> = self
            .members
            .iter()
            .filter(|(_, member)| wanted(member))
            .map(|(id, m)| (*id, m))
            .collect();
        if self.rules.force && !candidates.iter().any(|(_, member)| member.is_open()) {
            return self
                .members
                .iter()
                .map(|(id, member)| (*id, member))
                .collect();
        }
        candidates
    }

    /// What keeps the start waiting; none where it can go on.
    fn start_waits(&self, now: Now) -> Option<String> {
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
        if let Some(blocked) = &self.blocked {
            return Some(blocked.clone());
        }
        if candidates.is_empty() {
            return Some("no configured member is in the recorded in-sync set".into());
        }
        let enough = match self.rules.start_policy {
            _ if self.rules.force => open > 0,
            StartPolicy::InSync if self.goes_by_record() => open > 0,
            StartPolicy::InSync => open == self.members.len(),
            StartPolicy::Majority => open * 2 > self.members.len(),
            StartPolicy::Newest => open > 0,
        };
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
        if still_opening && now.monotonic < first_open + self.rules.start_grace {
            return Some(missing.join(", "));
        }
        None
    }

    pub(super) fn what_is_waited_for(&self) -> String {
        if self.phase == Phase::Assembling {
            return "the comparison of the members".into();
        }
        let never = Now {
            monotonic: std::time::Instant::now(),
            wall: self.since,
        };
        self.start_waits(never)
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
        if self.start_waits(now).is_some() {
            self.say_what_is_waited_for();
            return;
        }
        let mut open: Vec<(Tid, MemberId)> = self
            .candidates()
            .iter()
            .filter_map(|(id, member)| Some((member.last_tid()?, *id)))
            .collect();
        open.sort_by_key(|(last_tid, id)| (std::cmp::Reverse(*last_tid), *id));
        self.phase = Phase::Assembling;
        let members = open.into_iter().map(|(_, id)| id).collect();
        self.emit(Effect::Assemble { members });
    }

    pub(super) fn assembled(&mut self, found: Vec<(MemberId, Compared)>, now: Now) {
        if self.phase != Phase::Assembling {
            return;
        }
        self.phase = Phase::Opening {
            first_open: Some(now.monotonic),
        };
        let newest = found.first().and_then(|(id, compared)| {
            let last_tid = self.members.get(id)?.last_tid()?;
            (*compared == Compared::Level).then_some(last_tid)
        });
        let Some(head) = newest else {
            // The newest was lost while it was being compared; it is opened again.
            for (id, compared) in found {
                if let Compared::Unknown(why) = compared {
                    self.reopen(id, &why);
                }
            }
            self.say_what_is_waited_for();
            return;
        };
        if head < self.head && !self.rules.force {
            let text = format!(
                "the members end at {head}, but {} was acknowledged: a copy has lost its end",
                self.head
            );
            return self.block(text);
        }
        if let Some(text) = self.disagreement(&found) {
            return self.block(text);
        }
        if self.rules.force && !(self.goes_by_record() && self.members[&found[0].0].is_in_sync()) {
            let reason = "the start policy was not met".to_owned();
            self.notice(Notice::Forced { reason });
        }
        let before: Vec<_> = self
            .recorded
            .iter()
            .flat_map(super::super::record::Membership::in_sync)
            .map(str::to_owned)
            .collect();
        self.take_places(&found, now);
        self.head = head;
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
        if before != after || !same_members {
            self.change_membership(now);
        }
        self.recorded = None;
        self.emit(Effect::Publish);
        self.serve_or_not(now);
        self.recover_by_itself(now);
        self.start_next_recovery(now);
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

    /// With no record the members must agree among themselves.
    fn disagreement(&self, found: &[(MemberId, Compared)]) -> Option<String> {
        if self.recorded.is_some() || self.rules.force {
            return None;
        }
        let diverged = found.iter().find_map(|(id, compared)| match compared {
            Compared::Diverged { reason } => Some(format!("{}: {reason}", self.name(*id))),
            Compared::Unknown(why) => Some(format!("{}: {why}", self.name(*id))),
            _ => None,
        })?;
        Some(format!(
            "the members have no common history, and no record says who is right ({diverged})"
        ))
    }

    fn block(&mut self, text: String) {
        self.notice(Notice::NotServing {
            reason: text.clone(),
        });
        self.blocked = Some(text);
        self.say_what_is_waited_for();
    }

    fn reopen(&mut self, id: MemberId, why: &str) {
        if let Some(member) = self.members.get_mut(&id) {
            member.link = Link::Opening {
                failed: Some(why.to_owned()),
            };
            self.emit(Effect::Close(id));
            self.emit(Effect::Open(id));
        }
    }

    /// Gives every member its standing, now that the newest is known.
    fn take_places(&mut self, found: &[(MemberId, Compared)], now: Now) {
        let ids: Vec<MemberId> = self.members.keys().copied().collect();
        for id in ids {
            let compared = found.iter().find(|(other, _)| *other == id).map(|(_, c)| c);
            let Some(member) = self.members.get_mut(&id) else {
                continue;
            };
            let was_in_sync = member.is_in_sync();
            let next = match compared {
                Some(Compared::Level) => State::InSync,
                Some(Compared::Behind) => State::Degraded(Out::because("behind at the start")),
                Some(Compared::Diverged { reason }) => State::Degraded(Out {
                    needs_operator: true,
                    ..Out::because(reason)
                }),
                Some(Compared::Unknown(why)) => State::Degraded(Out::because(why)),
                None if was_in_sync => {
                    let why = match &member.link {
                        Link::Opening { failed: Some(why) } => why.clone(),
                        _ => "was not open in time at the start".into(),
                    };
                    State::Degraded(Out {
                        unacknowledged_tail: true,
                        ..Out::because(why)
                    })
                }
                None => continue,
            };
            if next != member.standing {
                member.stand(next, now.wall);
            }
            if let Some(Compared::Unknown(why)) = compared {
                self.reopen(id, why);
            }
        }
    }
}
