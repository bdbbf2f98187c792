//! What the last scrub found, in the admin protocol's words, and what an operator can do about it.

use super::report::transaction;
use crate::admin::api::LastScrub;
use crate::raid::{ArrayReport, ArrayState, MemberReport, MemberState, Scrubbed};

/// Of members of which as many say one thing as another.
pub(super) const DECIDE: &str = "where as many say one thing as another it cannot be told who is right: `zeoraidctl \
    inspect FILE --check` finds a broken file, and not data that has changed; for that open each file with Python's \
    `FileStorage(FILE, read_only=True)` and look at the objects. Then disable the wrong one, and `zeoraidctl recover \
    --rebuild` it";

/// How a member is mended that the others contradict, or that cannot read what it holds.
pub(super) fn mend(name: &str, kind: &str) -> String {
    match kind {
        "zeo" => format!(
            "zeoraidctl disable {name}; `zeoraidctl recover --verify {name}` then says what its server's \
             operator has to do"
        ),
        _ => format!("zeoraidctl disable {name}; then zeoraidctl recover --rebuild {name}"),
    }
}

pub(super) fn last(scrubbed: &Scrubbed, report: &ArrayReport) -> LastScrub {
    LastScrub {
        ended: scrubbed.ended,
        head: transaction(scrubbed.head),
        transactions: scrubbed.transactions,
        blobs: scrubbed.blobs,
        differences: scrubbed.differences,
        members: scrubbed.members.clone(),
        left_out: scrubbed.left_out.clone(),
        suspects: scrubbed.suspects.clone(),
        undecided: scrubbed.undecided.clone(),
        mended: scrubbed.mended.clone(),
        advice: advice(scrubbed, report),
    }
}

/// The members that are wrong, as they are now.
fn suspects<'a>(
    scrubbed: &'a Scrubbed,
    report: &'a ArrayReport,
) -> impl Iterator<Item = &'a MemberReport> {
    let members = report.members.iter();
    members.filter(|member| scrubbed.suspects.contains(&member.name))
}

/// Whether there is a member to copy from that nothing is wrong with.
fn is_mendable(scrubbed: &Scrubbed, report: &ArrayReport) -> bool {
    report.members.iter().any(|member| {
        member.state == MemberState::Optimal && !scrubbed.suspects.contains(&member.name)
    })
}

pub(super) fn advice(scrubbed: &Scrubbed, report: &ArrayReport) -> Vec<String> {
    let mut advice = Vec::new();
    if scrubbed.suspects.is_empty() {
        // Nothing is wrong that is known to be.
    } else if is_mendable(scrubbed, report) {
        advice.extend(suspects(scrubbed, report).map(|member| {
            if member.state == MemberState::Optimal {
                mend(&member.name, member.description.kind)
            } else {
                repair(member)
            }
        }));
    } else {
        advice.push(
            "no optimal member is right in everything, so that none can be made anew from another: save the \
             objects that differ anew in the application (`zeoraidctl scrub` lists them), then `zeoraidctl \
             pack` and scrub again"
                .to_owned(),
        );
    }
    if scrubbed.undecided.len() > 1 {
        advice.push(DECIDE.to_owned());
    }
    advice
}

/// How a member is recovered that is out.
fn repair(member: &MemberReport) -> String {
    match member.description.kind {
        "zeo" => format!("zeoraidctl recover --verify {}", member.name),
        _ => format!("zeoraidctl recover --rebuild {}", member.name),
    }
}

/// The command that comes first; `array` chooses it where there are several.
pub(super) fn next(report: &ArrayReport, array: &str) -> Option<String> {
    let scrubbed = report
        .scrubbed
        .as_ref()
        .filter(|one| one.needs_attention())?;
    let out = suspects(scrubbed, report).find(|member| member.state == MemberState::Degraded);
    let first = suspects(scrubbed, report).next();
    let with_array =
        |command: String| command.replacen("zeoraidctl", &format!("zeoraidctl{array}"), 1);
    match (report.state, out, first) {
        (ArrayState::Degraded, Some(member), _) if is_mendable(scrubbed, report) => {
            Some(with_array(repair(member)))
        }
        (ArrayState::Optimal, None, Some(member)) if is_mendable(scrubbed, report) => {
            Some(format!(
                "zeoraidctl{array} disable {} && {}",
                member.name,
                with_array(repair(member))
            ))
        }
        // What differs is listed as long as the daemon runs; then it has to be found again.
        (ArrayState::Optimal, ..) => Some(format!("zeoraidctl{array} scrub --attach")),
        _ => None,
    }
}
