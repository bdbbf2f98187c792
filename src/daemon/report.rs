//! What arrays say of themselves, in the admin protocol's words.
//!
//! Only conversion and wording: what happened, what it means, and what an operator can do next.

use std::time::Duration;

use super::scrubs;
use crate::admin::api::{
    Analysis, ArrayDetails, ArrayState, ArrayStatus, CommitLock, Finding, Job, JobKind, JobMember,
    JobMemberState, JobState, Lag, MemberDetails, MemberState, Problem, RateLimit, Recovery,
    RecoveryState, Strategy, Transaction,
};
use crate::counted::counted;
use crate::job::{Amount, Rate};
use crate::raid::{
    self, AnalysisReport, ArrayReport, Hindrance, MemberReport, PackOutcome, PackReport,
    PackedMember, RecoveryOutcome, RecoveryReport, Refused, Serving, StartLacks, TxnSummary,
};
use crate::storage::{Extent, RESTART_SERVER};
use crate::zodb::Tid;

/// What the array does not know of itself.
pub(super) struct Surroundings {
    pub(super) addresses: Vec<String>,
    pub(super) clients: u64,
    pub(super) auto_recover: bool,
    /// The daemon has other arrays: commands must say which.
    pub(super) one_of_many: bool,
}

pub(super) fn status(report: &ArrayReport) -> ArrayStatus {
    ArrayStatus {
        name: report.name.clone(),
        state: array_state(report.state),
        line: report.line.clone(),
        serving: report.serving.can_read(),
        attention: report.attention.clone(),
    }
}

/// An array that is not opened yet.
pub(super) fn starting(name: &str) -> ArrayStatus {
    ArrayStatus {
        name: name.to_owned(),
        state: ArrayState::Failed,
        line: "starting".to_owned(),
        serving: false,
        attention: None,
    }
}

pub(super) fn details(report: &ArrayReport, around: Surroundings) -> ArrayDetails {
    let members = report.members.iter();
    let members = members.map(|m| member(m, report, around.auto_recover));
    let running = report.recovery.as_ref();
    let running = running.filter(|recovery| recovery.outcome == RecoveryOutcome::Running);
    ArrayDetails {
        name: report.name.clone(),
        uuid: report.uuid,
        state: array_state(report.state),
        line: report.line.clone(),
        serving: report.serving.can_read(),
        epoch: report.epoch,
        since: report.since,
        head: (!report.head.is_zero()).then(|| transaction(report.head)),
        objects: report.size.objects,
        bytes: report.size.bytes,
        clients: around.clients,
        loads: report.loads,
        commits: report.commits,
        loads_per_s: report.loads_per_s,
        commits_per_s: report.commits_per_s,
        commit_lock: CommitLock {
            held: report.lock.held_for.is_some(),
            held_ms: report.lock.held_for.map(millis),
            waiting: report.lock.waiting,
        },
        members: members.collect(),
        recovery: running.map(recovery),
        next: next(report, &around),
        attention: report.attention.clone(),
        last_scrub: report
            .scrubbed
            .as_ref()
            .map(|scrubbed| scrubs::last(scrubbed, report)),
        addresses: around.addresses,
    }
}

/// The command that helps, where one does.
fn next(report: &ArrayReport, around: &Surroundings) -> Option<String> {
    let array = if around.one_of_many {
        format!(" -S {}", report.name)
    } else {
        String::new()
    };
    let waits_for_operator = report.members.iter().any(|member| {
        member.state == raid::MemberState::Degraded
            && (member.needs_operator || !around.auto_recover)
    });
    if report.members.iter().any(|member| member.displaced) {
        let mut out = report
            .members
            .iter()
            .filter(|member| member.state != raid::MemberState::Optimal);
        return Some(match out.next() {
            Some(member) => format!("zeoraidctl{array} recover {}", member.name),
            None => format!("zeoraidctl{array} backup FOLDER"),
        });
    }
    if let Some(next) = scrubs::next(report, &array) {
        return Some(next);
    }
    let mut taken_out = report.members.iter().filter(|it| it.may_be_compared);
    match (report.state, &report.serving) {
        (raid::ArrayState::Failed, _)
            if !report.lacks.as_ref().is_some_and(|lacks| lacks.by_record)
                && let Some(member) = taken_out.next() =>
        {
            let recover = format!("zeoraidctl{array} recover {}", member.name);
            Some(match &report.lacks {
                Some(lacks) => format!("bring back {}, or: {recover}", lacks.whom()),
                None => recover,
            })
        }
        (raid::ArrayState::Failed, serving) => Some(match &report.lacks {
            Some(lacks) => bring_back(report, lacks),
            // It has started, and too few are left.
            None if waits_for_operator && !matches!(serving, Serving::Starting { .. }) => {
                format!("zeoraidctl{array} recover --interactive")
            }
            None => "zeoraidctl logtail".to_owned(),
        }),
        (raid::ArrayState::Optimal, _) => None,
        (raid::ArrayState::Recovering, _) if !waits_for_operator => {
            Some(format!("zeoraidctl{array} details --watch"))
        }
        _ => Some(format!("zeoraidctl{array} recover --interactive")),
    }
}

pub(super) fn member(
    report: &MemberReport,
    array: &ArrayReport,
    auto_recover: bool,
) -> MemberDetails {
    let last = report.last_tid.filter(|tid| !tid.is_zero());
    MemberDetails {
        name: report.name.clone(),
        state: match report.state {
            raid::MemberState::Optimal => MemberState::Optimal,
            raid::MemberState::Degraded => MemberState::Degraded,
            raid::MemberState::Recovering => MemberState::Recovering,
        },
        kind: report.description.kind.to_owned(),
        location: report.description.location.clone(),
        since: report.since,
        reason: report.reason.clone().or_else(|| report.missing.clone()),
        outlook: outlook(report, array, auto_recover),
        lag: report.lag.map(lag),
        last: last.map(transaction),
        latency_ms: report.latency.map(|latency| latency.as_secs_f64() * 1000.0),
        reads: report.reads,
        faults: report.faults,
    }
}

/// What helps an array that waits for members.
fn bring_back(report: &ArrayReport, lacks: &StartLacks) -> String {
    let waited_for = |member: &&MemberReport| lacks.members.contains(&member.name);
    let mut hindered = report.members.iter().filter(waited_for);
    let cleared = hindered.find_map(|member| {
        let hindrance = member.hindered_by.as_ref()?;
        Some(clear(hindrance, &member.name, &member.description.location))
    });
    cleared.unwrap_or_else(|| without_help(&lacks.whom(), report.epoch))
}

/// How what only stands in a member's way is taken out of it: then nothing that it holds is lost.
fn clear(hindrance: &Hindrance, name: &str, location: &str) -> String {
    match hindrance {
        Hindrance::DiskFull => {
            format!("make room on the disk of {name} ({location}); it goes on by itself")
        }
        Hindrance::InUse(by) => format!("end what uses {name} ({by}); it goes on by itself"),
    }
}

/// Where nothing is on record yet, a start by force might begin with a copy that is new and empty.
fn without_help(whom: &str, epoch: u64) -> String {
    if epoch == 0 {
        return format!("bring back {whom}, or take out of the configuration what holds nothing");
    }
    format!(
        "bring back {whom}; where that is impossible: zeoraidctl stop && zeoraidctl start --force"
    )
}

/// What happens next to a member that is out.
fn outlook(report: &MemberReport, array: &ArrayReport, auto_recover: bool) -> Option<String> {
    if report.missing.is_some() {
        let wait = report.next_try?.as_secs().max(1);
        return Some(format!("next try in {wait} s"));
    }
    if report.state != raid::MemberState::Degraded {
        return None;
    }
    let queued = array.recovery.as_ref().filter(|recovery| {
        recovery.outcome == RecoveryOutcome::Running && recovery.queued.contains(&report.name)
    });
    if let Some(running) = queued {
        return Some(format!("waits for the recovery of {}", running.member));
    }
    let restart = report.reason.as_ref();
    let restart = restart.is_some_and(|reason| reason.ends_with(RESTART_SERVER));
    // What could not be opened for its damage is not opened the next time either.
    let damaged = report.description.kind == "file"
        && report.reason.as_ref().is_some_and(|reason| {
            let reason = reason.strip_prefix("it is ").unwrap_or(reason);
            reason.starts_with("damaged: ")
        });
    if damaged && (report.next_try.is_some() || report.needs_operator) {
        return Some(format!(
            "waits for `zeoraidctl recover --rebuild {}`",
            report.name
        ));
    }
    let by_whom = match (report.needs_operator || !auto_recover, restart) {
        (true, _) => format!("waits for `zeoraidctl recover {}`", report.name),
        (false, true) => "recovers by itself after that".to_owned(),
        (false, false) => "recovers by itself".to_owned(),
    };
    Some(match report.next_try {
        Some(wait) => format!("next try in {} s; {by_whom}", wait.as_secs().max(1)),
        None => by_whom,
    })
}

pub(super) fn recovery(report: &RecoveryReport) -> Recovery {
    let (state, problem) = match &report.outcome {
        RecoveryOutcome::Running => (RecoveryState::Running, None),
        RecoveryOutcome::Done => (RecoveryState::Done, None),
        RecoveryOutcome::Cancelled => (RecoveryState::Cancelled, None),
        RecoveryOutcome::Failed { reason, next } => {
            let problem = Problem::failed(reason.clone());
            let problem = match next {
                Some(next) => problem.with_next(next.clone()),
                None => problem,
            };
            (RecoveryState::Failed, Some(problem))
        }
    };
    let progress = &report.progress;
    let set_aside = report.set_aside.iter();
    Recovery {
        id: report.id,
        member: report.member.clone(),
        source: report.source.clone(),
        strategy: from_strategy(report.strategy),
        state,
        phase: progress.phase.to_owned(),
        note: progress.note.clone(),
        transaction: progress.reached.clone(),
        done: amount(progress.done),
        total: amount(progress.total),
        transactions_per_s: progress.transactions_per_second,
        bytes_per_s: progress.bytes_per_second,
        time_left_s: progress.time_left().map(|left| left.as_secs()),
        rate: limit(report.rate),
        started: report.started,
        ended: report.ended,
        set_aside: set_aside.map(|path| path.display().to_string()).collect(),
        queued: report.queued.clone(),
        problem,
    }
}

/// A pack as a job.
pub(super) fn pack(array: &str, report: &PackReport) -> Job {
    let part = |name: &str, outcome: &PackOutcome| {
        let (state, reason) = match outcome {
            PackOutcome::Waiting => (JobMemberState::Waiting, None),
            PackOutcome::Packing => (JobMemberState::Running, None),
            PackOutcome::Done => (JobMemberState::Done, None),
            PackOutcome::Skipped(reason) => (JobMemberState::Skipped, Some(reason.clone())),
            PackOutcome::Failed(reason) => (JobMemberState::Failed, Some(reason.clone())),
        };
        JobMember {
            name: name.to_owned(),
            state,
            reason,
        }
    };
    let member = |member: &PackedMember| part(&member.name, &member.outcome);
    let mut members: Vec<JobMember> = report.members.iter().map(member).collect();
    let is_done = |member: &JobMember| member.state == JobMemberState::Done;
    let state = match report.ended {
        None => JobState::Running,
        Some(_) if report.cancelled => JobState::Cancelled,
        Some(_) if members.iter().any(is_done) => JobState::Done,
        Some(_) => JobState::Failed,
    };
    let problem = (state == JobState::Failed).then(|| {
        let reasons = members.iter().filter_map(|member| {
            let reason = member.reason.as_ref()?;
            Some(format!("{}: {reason}", member.name))
        });
        let reasons: Vec<String> = reasons.collect();
        Problem::failed(format!("no member was packed ({})", reasons.join("; ")))
    });
    if let Some(outcome) = &report.shared_blobs {
        members.push(part(PackReport::SHARED_BLOBS, outcome));
    }
    let progress = &report.progress;
    Job {
        id: format!("pack-{array}-{}", report.id),
        kind: JobKind::Pack,
        array: array.to_owned(),
        state,
        phase: progress.phase.to_owned(),
        note: progress.note.clone(),
        done: amount(progress.done),
        total: amount(progress.total),
        transactions_per_s: progress.transactions_per_second,
        bytes_per_s: progress.bytes_per_second,
        // Nobody knows how far a member is.
        time_left_s: None,
        members,
        started: report.started,
        ended: report.ended,
        problem,
        backup: None,
        scrub: None,
    }
}

/// A recovery as a job.
pub(super) fn recovery_job(array: &str, report: &RecoveryReport) -> Job {
    let recovery = recovery(report);
    let member = JobMember {
        name: recovery.member,
        state: match recovery.state {
            RecoveryState::Running => JobMemberState::Running,
            RecoveryState::Done => JobMemberState::Done,
            RecoveryState::Cancelled => JobMemberState::Skipped,
            RecoveryState::Failed => JobMemberState::Failed,
        },
        reason: recovery
            .problem
            .as_ref()
            .map(|problem| problem.detail.clone()),
    };
    let waiting = recovery.queued.into_iter().map(|name| JobMember {
        name,
        state: JobMemberState::Waiting,
        reason: None,
    });
    Job {
        id: format!("recovery-{array}-{}", recovery.id),
        kind: JobKind::Recovery,
        array: array.to_owned(),
        state: recovery.state,
        phase: recovery.phase,
        note: recovery.note,
        done: recovery.done,
        total: recovery.total,
        transactions_per_s: recovery.transactions_per_s,
        bytes_per_s: recovery.bytes_per_s,
        time_left_s: recovery.time_left_s,
        members: std::iter::once(member).chain(waiting).collect(),
        started: recovery.started,
        ended: recovery.ended,
        problem: recovery.problem,
        backup: None,
        scrub: None,
    }
}

/// A recovery that was asked for and waits: for the one that runs, or for the start, which compares its member
/// first. `last` is the one that runs, or ended last.
pub(super) fn queued(last: Option<&RecoveryReport>, member: &str, asked: Strategy) -> Recovery {
    let running = last.filter(|last| last.outcome == RecoveryOutcome::Running);
    let note = match running {
        Some(running) => format!("waits for the recovery of {}", running.member),
        None => "the start compares it first".to_owned(),
    };
    let others = running.into_iter().flat_map(|running| &running.queued);
    Recovery {
        id: running.map_or_else(|| last.map_or(1, |last| last.id + 1), |running| running.id),
        member: member.to_owned(),
        source: None,
        strategy: asked,
        state: RecoveryState::Running,
        phase: "queued".to_owned(),
        note: Some(note),
        transaction: None,
        done: Lag::default(),
        total: Lag::default(),
        transactions_per_s: 0.0,
        bytes_per_s: 0.0,
        time_left_s: None,
        rate: running
            .map(|running| limit(running.rate))
            .unwrap_or_default(),
        started: running.map_or_else(crate::clock::now, |running| running.started),
        ended: None,
        set_aside: Vec::new(),
        queued: others.cloned().collect(),
        problem: None,
    }
}

pub(super) fn analysis(report: AnalysisReport) -> Analysis {
    let (finding, line, advice) = match report.finding {
        raid::Finding::UpToDate => (
            Finding::UpToDate,
            "holds everything".to_owned(),
            Strategy::Missing,
        ),
        raid::Finding::Behind { common, lacks } => (
            Finding::Behind {
                lag: lag(lacks),
                common: transaction(common),
            },
            format!("behind by {}", words(lacks)),
            Strategy::Missing,
        ),
        raid::Finding::Empty { lacks } => (
            Finding::Empty { lag: lag(lacks) },
            format!("empty; lacks {}", words(lacks)),
            Strategy::Missing,
        ),
        raid::Finding::Diverged {
            common,
            lacks,
            only_here,
            only_here_count,
        } => (
            Finding::Diverged {
                common: common.map(transaction),
                lag: lag(lacks),
                only_here: only_here.into_iter().map(summary).collect(),
                only_here_count,
            },
            format!(
                "diverged{}; {} only here, lacks {}",
                common.map_or(String::new(), |tid| format!(" after {tid}")),
                counted(only_here_count, "transaction"),
                words(lacks)
            ),
            Strategy::Rebuild,
        ),
        raid::Finding::Damaged { reason } => {
            let line = format!("cannot be used: {reason}");
            (Finding::Damaged { reason }, line, Strategy::Rebuild)
        }
    };
    let (line, advice) = match advice {
        // As the recovery would by itself.
        Strategy::Missing if report.doubted => (
            format!("{line}; the last scrub found it wrong, or could not tell"),
            Strategy::Verify,
        ),
        advice => (line, advice),
    };
    Analysis {
        member: report.member,
        source: report.source,
        finding,
        line,
        advice,
    }
}

pub(super) fn refused(refused: Refused) -> Problem {
    let detail = refused.to_string();
    let problem = match &refused {
        Refused::NoSuchMember { .. } => Problem::not_found(detail),
        Refused::Record(_) => Problem::failed(detail),
        Refused::ShuttingDown => Problem::unavailable("ending", "The daemon is ending", detail),
        _ => Problem::conflict(detail),
    };
    match refused.next() {
        Some(next) => problem.with_next(next),
        None => problem,
    }
}

pub(super) fn to_strategy(strategy: Strategy) -> raid::Strategy {
    match strategy {
        Strategy::Missing => raid::Strategy::Missing,
        Strategy::Verify => raid::Strategy::Verify,
        Strategy::Rebuild => raid::Strategy::Rebuild,
    }
}

fn from_strategy(strategy: raid::Strategy) -> Strategy {
    match strategy {
        raid::Strategy::Missing => Strategy::Missing,
        raid::Strategy::Verify => Strategy::Verify,
        raid::Strategy::Rebuild => Strategy::Rebuild,
    }
}

/// Nought is no limit.
pub(super) fn to_rate(limit: RateLimit) -> Rate {
    Rate {
        transactions_per_second: limit.transactions_per_second.filter(|most| *most > 0),
        bytes_per_second: limit.bytes_per_second.filter(|most| *most > 0),
        paused: limit.paused,
    }
}

fn limit(rate: Rate) -> RateLimit {
    RateLimit {
        transactions_per_second: rate.transactions_per_second,
        bytes_per_second: rate.bytes_per_second,
        paused: rate.paused,
    }
}

fn array_state(state: raid::ArrayState) -> ArrayState {
    match state {
        raid::ArrayState::Optimal => ArrayState::Optimal,
        raid::ArrayState::Recovering => ArrayState::Recovering,
        raid::ArrayState::Degraded => ArrayState::Degraded,
        raid::ArrayState::Failed => ArrayState::Failed,
    }
}

/// The one before the first has no time.
pub(super) fn transaction(tid: Tid) -> Transaction {
    Transaction {
        tid: tid.to_string(),
        time: tid.time().filter(|_| !tid.is_zero()),
        user: None,
        description: None,
    }
}

fn summary(txn: TxnSummary) -> Transaction {
    Transaction {
        user: Some(txn.user),
        description: Some(txn.description),
        ..transaction(txn.tid)
    }
}

fn lag(extent: Extent) -> Lag {
    Lag {
        transactions: extent.transactions,
        bytes: extent.bytes,
    }
}

pub(super) fn amount(amount: Amount) -> Lag {
    Lag {
        transactions: amount.transactions,
        bytes: amount.bytes,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// `1 402 transactions (31 MiB)`.
fn words(extent: Extent) -> String {
    if extent.transactions == 0 {
        return "nothing".to_owned();
    }
    let size = humansize::format_size(extent.bytes, humansize::BINARY.decimal_places(1));
    format!("{} ({size})", counted(extent.transactions, "transaction"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_analysis_is_one_line_with_the_sensible_way_to_mend_it() {
        let lacks = Extent {
            transactions: 1402,
            bytes: 31 << 20,
        };
        let check_of = |doubted, finding, line: &str, advice| {
            let found = analysis(AnalysisReport {
                member: "b".into(),
                source: "a".into(),
                finding,
                next: None,
                doubted,
            });
            assert_eq!((found.line.as_str(), found.advice), (line, advice));
        };
        let check = |finding, line: &str, advice| check_of(false, finding, line, advice);
        let common = Tid(1);
        check_of(
            true,
            raid::Finding::UpToDate,
            "holds everything; the last scrub found it wrong, or could not tell",
            Strategy::Verify,
        );
        check(
            raid::Finding::Behind { common, lacks },
            "behind by 1 402 transactions (31 MiB)",
            Strategy::Missing,
        );
        check(
            raid::Finding::Diverged {
                common: Some(common),
                lacks: Extent::default(),
                only_here: Vec::new(),
                only_here_count: 1,
            },
            "diverged after 0x0000000000000001; 1 transaction only here, lacks nothing",
            Strategy::Rebuild,
        );
    }

    #[test]
    fn what_only_stands_in_the_way_is_no_reason_to_start_without() {
        let room = clear(&Hindrance::DiskFull, "b", "/srv/b/Data.fs");
        assert_eq!(
            room,
            "make room on the disk of b (/srv/b/Data.fs); it goes on by itself"
        );
        let by = "process 7191 holds /srv/b/Data.fs.lock".to_owned();
        let process = clear(&Hindrance::InUse(by), "b", "/srv/b/Data.fs");
        assert_eq!(
            process,
            "end what uses b (process 7191 holds /srv/b/Data.fs.lock); it goes on by itself"
        );
        assert!(!without_help("b", 0).contains("--force"));
        assert!(without_help("b", 1).contains("--force"));
    }

    #[test]
    fn what_is_refused_says_why_and_what_next() {
        let problem = refused(Refused::LastOptimal {
            array: "main".into(),
            member: "a".into(),
        });
        assert_eq!(problem.status, 409);
        assert!(problem.next.is_some());
        let problem = refused(Refused::NoSuchMember {
            array: "main".into(),
            member: "c".into(),
            members: vec!["a".into(), "b".into()],
        });
        assert_eq!(problem.status, 404);
        assert_eq!(problem.detail, "array main has no member c; it has a, b");
    }
}
