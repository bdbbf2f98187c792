//! Backups and scrubs as the admin protocol tells them.

use super::report::{amount, transaction};
use super::scrubs;
use crate::admin::api::{
    BackupResult, Job, JobKind, JobMember, JobMemberState, JobState, Problem, ScrubDifference,
    ScrubResult, ScrubWhat,
};
use crate::counted::counted;
use crate::job::Progress;
use crate::raid::{
    ArrayReport, BackupReport, Difference, Differs, LeftOut, ScrubReport, ScrubbedMember,
    Unreadable,
};
use crate::storage::{BackedUp, BackupError};

pub(super) fn backup(array: &str, report: &BackupReport) -> Job {
    let (state, member, reason) = match &report.ended {
        None => (JobState::Running, JobMemberState::Running, None),
        Some((_, Ok(_))) => (JobState::Done, JobMemberState::Done, None),
        Some((_, Err(BackupError::Cancelled))) => {
            (JobState::Cancelled, JobMemberState::Skipped, None)
        }
        Some((_, Err(error))) => (
            JobState::Failed,
            JobMemberState::Failed,
            Some(error.to_string()),
        ),
    };
    let problem = match &report.ended {
        Some((_, Err(error))) if state == JobState::Failed => {
            let folder = report.into.display();
            let problem = Problem::failed(format!("no backup was made in {folder}: {error}"));
            Some(match error.next() {
                Some(next) => problem.with_next(next),
                None => problem,
            })
        }
        _ => None,
    };
    let result = match &report.ended {
        Some((_, Ok(done))) => Some(backed_up(done)),
        _ => None,
    };
    Job {
        id: format!("backup-{array}-{}", report.id),
        kind: JobKind::Backup,
        array: array.to_owned(),
        state,
        members: vec![JobMember {
            name: report.member.clone(),
            state: member,
            reason,
        }],
        started: report.started,
        ended: report.ended.as_ref().map(|(when, _)| *when),
        problem,
        backup: result,
        ..progressing(&report.progress)
    }
}

fn backed_up(done: &BackedUp) -> BackupResult {
    BackupResult {
        folder: done.folder.display().to_string(),
        last: (!done.last.is_zero()).then(|| transaction(done.last)),
        transactions: done.transactions,
        objects: done.objects,
        bytes: done.bytes,
        blobs: done.blobs,
        blob_bytes: done.blob_bytes,
        blobs_missing: done.blobs_missing,
    }
}

/// `now` is how the array is by now: what a scrub found may be mended since.
pub(super) fn scrub(array: &str, report: &ScrubReport, now: &ArrayReport) -> Job {
    let state = match report.ended {
        None => JobState::Running,
        Some(_) if report.cancelled => JobState::Cancelled,
        Some(_) => JobState::Done,
    };
    let member = |member: &ScrubbedMember| {
        let (state, reason) = match (&member.left_out, &member.unreadable) {
            (Some(left_out), _) => (JobMemberState::Failed, Some(why(left_out))),
            (None, Some(unreadable)) => (JobMemberState::Failed, Some(where_not(unreadable))),
            (None, None) if report.ended.is_none() => (JobMemberState::Running, None),
            (None, None) if report.cancelled => (JobMemberState::Skipped, None),
            (None, None) => (JobMemberState::Done, None),
        };
        JobMember {
            name: member.name.clone(),
            state,
            reason,
        }
    };
    Job {
        id: format!("scrub-{array}-{}", report.id),
        kind: JobKind::Scrub,
        array: array.to_owned(),
        state,
        members: report.members.iter().map(member).collect(),
        started: report.started,
        ended: report.ended,
        scrub: (state == JobState::Done).then(|| scrubbed(report, now)),
        ..progressing(&report.progress)
    }
}

fn why(left_out: &LeftOut) -> String {
    match left_out {
        LeftOut::Unreadable { after, reason } if after.is_zero() => {
            format!("it cannot be read: {reason}")
        }
        LeftOut::Unreadable { after, reason } => {
            format!("it cannot be read after {after}: {reason}")
        }
        LeftOut::Lost { reason } => format!("it was not compared to the end: {reason}"),
    }
}

fn where_not(unreadable: &Unreadable) -> String {
    match unreadable.places {
        1 => format!("it cannot be read in one place: {}", unreadable.first),
        many => format!(
            "it cannot be read in {}, the first: {}",
            counted(many, "place"),
            unreadable.first
        ),
    }
}

fn scrubbed(report: &ScrubReport, now: &ArrayReport) -> ScrubResult {
    let suspects = report.members.iter().filter(|member| member.is_suspect());
    ScrubResult {
        head: transaction(report.head),
        transactions: report.transactions,
        blobs: report.blobs,
        differences: report.count,
        listed: report.differences.iter().map(difference).collect(),
        suspects: suspects.map(|member| member.name.clone()).collect(),
        next: next(report, now),
    }
}

/// What can be done about what is left of it.
fn next(report: &ScrubReport, now: &ArrayReport) -> Vec<String> {
    let left = now.scrubbed.as_ref();
    let mut next = left.map_or_else(Vec::new, |left| scrubs::advice(left, now));
    let lost = |member: &&ScrubbedMember| matches!(member.left_out, Some(LeftOut::Lost { .. }));
    let lost: Vec<&ScrubbedMember> = report.members.iter().filter(lost).collect();
    if !lost.is_empty() {
        let text = counted(lost.len() as u64, "member");
        next.push(format!(
            "{text} could not be asked to the end: when all are optimal again, zeoraidctl scrub"
        ));
    }
    next
}

fn difference(found: &Difference) -> ScrubDifference {
    ScrubDifference {
        transaction: transaction(found.tid),
        oid: found.oid.map(|oid| oid.to_string()),
        what: match found.what {
            Differs::Missing => ScrubWhat::Missing,
            Differs::Metadata => ScrubWhat::Metadata,
            Differs::Record => ScrubWhat::Record,
            Differs::Blob => ScrubWhat::Blob,
            Differs::Unreadable => ScrubWhat::Unreadable,
        },
        groups: found.groups.clone(),
        majority: found.majority,
    }
}

/// A job of which nothing is known but how far it is.
fn progressing(progress: &Progress) -> Job {
    Job {
        id: String::new(),
        kind: JobKind::Backup,
        array: String::new(),
        state: JobState::Running,
        phase: progress.phase.to_owned(),
        note: progress.note.clone(),
        done: amount(progress.done),
        total: amount(progress.total),
        transactions_per_s: progress.transactions_per_second,
        bytes_per_s: progress.bytes_per_second,
        time_left_s: progress.time_left().map(|left| left.as_secs()),
        members: Vec::new(),
        started: jiff::Timestamp::UNIX_EPOCH,
        ended: None,
        problem: None,
        backup: None,
        scrub: None,
    }
}
