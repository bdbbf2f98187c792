//! What an array says of itself, put together.

use std::sync::atomic::Ordering;

use super::Array;
use super::controller::{Ended, Link, MemberId, State};
use super::report::{
    ArrayReport, ArrayState, Hindrance, LockReport, MemberReport, MemberState, RecoveryOutcome,
    RecoveryReport, Serving, StartLacks,
};
use super::runner::Core;
use super::scrub::Scrubbed;
use crate::counted::counted;
use crate::storage::Storage;

impl Array {
    /// Everything that there is to say.
    #[must_use]
    pub fn report(&self) -> ArrayReport {
        let size = self.size();
        let counters = &self.0.counters;
        let per_second = |rate: u64| rate as f64 / 1000.0;
        let scrubbed = self.0.scrubbed.borrow().clone();
        self.0.look(|core| {
            let controller = &core.controller;
            let members: Vec<MemberReport> = controller
                .members
                .keys()
                .filter_map(|id| member_report(core, *id))
                .collect();
            let state = controller.state();
            let lacks = controller.start_lacks();
            let is_member = |name: &str| members.iter().any(|member| member.name == name);
            let scrubbed = scrubbed.map(|scrubbed| scrubbed.of(is_member));
            let trouble = controller.trouble_with_record();
            let attention = attention(&members, trouble, scrubbed.as_ref());
            ArrayReport {
                name: self.0.options.name.clone(),
                uuid: controller.array,
                state,
                line: line(
                    state,
                    &controller.serving,
                    lacks.as_ref(),
                    &members,
                    attention.as_deref(),
                ),
                attention,
                serving: controller.serving.clone(),
                epoch: controller.epoch,
                since: controller.since,
                head: controller.head,
                size,
                loads: counters.loads.load(Ordering::Relaxed),
                commits: counters.commits.load(Ordering::Relaxed),
                loads_per_s: per_second(counters.loads_rate.load(Ordering::Relaxed)),
                commits_per_s: per_second(counters.commits_rate.load(Ordering::Relaxed)),
                lock: LockReport {
                    held_for: controller.lock_held_for(crate::clock::instant()),
                    waiting: controller.waiting() as u64,
                },
                members,
                lacks,
                recovery: recovery_report(core),
                scrubbed,
            }
        })
    }
}

fn member_report(core: &Core, id: MemberId) -> Option<MemberReport> {
    let member = core.controller.members.get(&id)?;
    let handle = core.members.get(&id)?;
    let out = member.out();
    Some(MemberReport {
        name: member.name.clone(),
        state: match member.standing {
            State::InSync => MemberState::Optimal,
            State::Degraded(_) => MemberState::Degraded,
            State::Recovering(_) => MemberState::Recovering,
        },
        description: member.description.clone(),
        since: member.since,
        reason: out.map(|out| out.reason.clone()),
        missing: match &member.link {
            Link::Open { .. } | Link::Shut => None,
            _ if out.is_some() => None,
            Link::Opening { failed: Some(why) } => Some(why.clone()),
            Link::Opening { failed: None } => Some("being opened".to_owned()),
        },
        hindered_by: (!member.is_open())
            .then_some(handle.last_fault.as_ref())
            .flatten()
            .and_then(Hindrance::of),
        needs_operator: out.is_some_and(|out| out.needs_operator),
        may_be_compared: member.may_be_compared_if_asked(),
        next_try: match member.link {
            Link::Opening { .. } => handle
                .next_try
                .map(|at| at.saturating_duration_since(crate::clock::instant())),
            _ => None,
        },
        last_tid: if member.is_in_sync() {
            Some(core.controller.head)
        } else {
            member.last_tid()
        },
        lag: out.and(member.lacks),
        latency: handle.stats.latency(),
        reads: handle.stats.reads.load(Ordering::Relaxed),
        faults: handle.stats.faults.load(Ordering::Relaxed),
        displaced: handle.displaced,
    })
}

fn recovery_report(core: &Core) -> Option<RecoveryReport> {
    let recovery = core.recovery.as_ref()?;
    let queued = core.controller.recovery_queue.iter().filter_map(|wanted| {
        core.controller
            .members
            .get(&wanted.member)
            .map(|member| member.name.clone())
    });
    let outcome = match &recovery.ended {
        None => RecoveryOutcome::Running,
        Some((_, Ended::Done)) => RecoveryOutcome::Done,
        Some((_, Ended::Cancelled)) => RecoveryOutcome::Cancelled,
        Some((_, Ended::Failed { reason } | Ended::Undecided { reason })) => {
            RecoveryOutcome::Failed {
                reason: reason.clone(),
                next: Some("it is tried again by itself; see: zeoraidctl details".into()),
            }
        }
        Some((_, Ended::Stuck { reason, .. })) => RecoveryOutcome::Failed {
            reason: reason.clone(),
            next: recovery.next.clone(),
        },
    };
    Some(RecoveryReport {
        id: recovery.id,
        member: recovery.name.clone(),
        source: recovery.source.clone(),
        strategy: recovery.strategy,
        outcome,
        progress: recovery.handle.progress(),
        rate: recovery.handle.rate(),
        started: recovery.started,
        ended: recovery.ended.as_ref().map(|(at, _)| *at),
        set_aside: recovery.set_aside.clone(),
        queued: queued.collect(),
    })
}

/// What an operator has to look after, whatever the state.
fn attention(
    members: &[MemberReport],
    trouble_with_record: Option<String>,
    scrubbed: Option<&Scrubbed>,
) -> Option<String> {
    let displaced = members.iter().find(|member| member.displaced);
    match displaced {
        Some(member) => Some(format!(
            "{} writes to a file that was removed or replaced, and what it holds is gone when the daemon ends",
            member.name
        )),
        None => trouble_with_record.or_else(|| scrubbed?.attention()),
    }
}

/// The state in a line for people, and what an operator has to look after.
fn line(
    state: ArrayState,
    serving: &Serving,
    lacks: Option<&StartLacks>,
    members: &[MemberReport],
    attention: Option<&str>,
) -> String {
    let line = line_of_state(state, serving, lacks, members);
    match attention {
        // There is worse where it has failed.
        Some(attention) if state != ArrayState::Failed => format!("{line}; {attention}"),
        _ => line,
    }
}

fn line_of_state(
    state: ArrayState,
    serving: &Serving,
    lacks: Option<&StartLacks>,
    members: &[MemberReport],
) -> String {
    let out: Vec<&MemberReport> = members
        .iter()
        .filter(|member| member.state != MemberState::Optimal)
        .collect();
    let named = out.iter().map(|member| {
        let reason = member.reason.as_deref().unwrap_or("out");
        format!("{}: {reason}", member.name)
    });
    let named = named.collect::<Vec<_>>().join("; ");
    match (state, serving) {
        (ArrayState::Optimal, _) => "optimal".into(),
        (ArrayState::Degraded, _) => {
            format!(
                "degraded: {} of {} out ({named})",
                out.len(),
                counted(members.len() as u64, "member")
            )
        }
        (ArrayState::Recovering, _) => {
            let who = out
                .iter()
                .find(|member| member.state == MemberState::Recovering);
            // Who has just joined is not out any more.
            let who = who.map_or(String::new(), |member| format!(" {},", member.name));
            format!(
                "recovering:{who} {} of {} out",
                out.len(),
                counted(members.len() as u64, "member")
            )
        }
        (ArrayState::Failed, Serving::Starting { waits_for }) => {
            format!("failed: starting, waits for {waits_for}{}", too_few(lacks))
        }
        (ArrayState::Failed, Serving::No { reason }) if lacks.is_some() => {
            format!("failed: waits for {reason}{}", too_few(lacks))
        }
        (ArrayState::Failed, Serving::No { reason } | Serving::ReadOnly { reason }) => {
            format!("failed: {reason}")
        }
        (ArrayState::Failed, Serving::Yes) => "failed".into(),
    }
}

/// How many can be reached, and why that does not suffice.
fn too_few(lacks: Option<&StartLacks>) -> String {
    lacks.map_or(String::new(), |lacks| {
        if lacks.by_record {
            return "; a member that held everything is needed".to_owned();
        }
        let are = if lacks.needed == 1 { "is" } else { "are" };
        format!(
            "; {} of {} can be used, {} {are} needed",
            lacks.open,
            counted(lacks.all as u64, "member"),
            lacks.needed
        )
    })
}
