//! `pack`, `scrub` and `backup`: while they run, and at each end.

use super::*;
use crate::admin::api::JobKind;

const KINDS: [(&str, &str); 3] = [
    ("pack", "pack"),
    ("scrub", "scrub"),
    ("backup", "backup /backup/monday"),
];

fn job(kind: &str, state: JobState) -> Job {
    let job = match kind {
        "pack" => {
            let (first, second) = match state {
                JobState::Running => (JobMemberState::Running, JobMemberState::Waiting),
                JobState::Done => (JobMemberState::Done, JobMemberState::Done),
                JobState::Failed => (JobMemberState::Failed, JobMemberState::Skipped),
                JobState::Cancelled => (JobMemberState::Done, JobMemberState::Waiting),
            };
            packing(state, [("copy1", first), ("copy2", second)])
        }
        "scrub" => scrubbing(0),
        _ => backing_up(state),
    };
    Job {
        state,
        scrub: job.scrub.filter(|_| state == JobState::Done),
        ..job
    }
}

fn run(jobs: impl IntoIterator<Item = Job>, lines: &[&str]) -> String {
    let jobs: Vec<Job> = jobs.into_iter().collect();
    let shown = lines.iter().map(|line| {
        let bench = Bench::new(optimal());
        *bench.daemon.jobs.lock() = jobs.clone().into();
        session(&bench, &[line])
    });
    shown.collect()
}

#[test]
fn each_job_is_begun_left_and_cancelled() {
    for (kind, command) in KINDS {
        let lines = [
            format!("{command} --detach"),
            format!("{command} --detach -o json"),
            format!("{kind} --cancel"),
            format!("{kind} --cancel -o json"),
        ];
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let mut shown = run([job(kind, JobState::Running)], &lines);
        for (press, answers) in [
            ("# Ctrl-C, nobody to ask\n", vec![]),
            ("# Ctrl-C, cancel it\n", vec![Answer::Select(1)]),
        ] {
            let mut bench = Bench::new(optimal()).answering(answers);
            bench.presses = vec![Duration::from_secs(3)];
            *bench.daemon.jobs.lock() = [job(kind, JobState::Running)].into();
            shown += press;
            shown += &session(&bench, &[command]);
        }
        insta::assert_snapshot!(format!("{kind}-running"), shown);
    }
}

#[test]
fn each_job_says_how_it_ended() {
    for (kind, command) in KINDS {
        let why = "no member was packed (copy1: [Errno 28] No space left on device)";
        let failed = Job {
            problem: Some(Problem::failed(why)),
            backup: None,
            ..job(kind, JobState::Failed)
        };
        let cancelled = Job {
            backup: None,
            ..job(kind, JobState::Cancelled)
        };
        let json = format!("{command} -o json");
        let lines = [command, json.as_str()];
        let shown = format!(
            "# done\n{}# failed\n{}# cancelled\n{}",
            run([job(kind, JobState::Done)], &lines),
            run([failed], &lines),
            run([cancelled], &lines),
        );
        insta::assert_snapshot!(format!("{kind}-ended"), shown);
    }
}

#[test]
fn what_is_not_as_it_should_be_is_said() {
    let long = "it cannot be read after 0x040d23c81c000000: damaged at 4711: the length of the record \
                leads behind the end of the file";
    let mut unread = scrubbing(0);
    unread.members[1].state = JobMemberState::Failed;
    unread.members[1].reason = Some(long.into());
    let mut differing = scrubbing(3);
    if let Some(found) = &mut differing.scrub {
        let two = found.listed[0].clone();
        let groups = vec![
            vec!["the-copy-in-the-first-data-centre".into(), "copy3".into()],
            vec!["the-copy-in-the-second-data-centre".into()],
        ];
        found.listed.push(crate::admin::api::ScrubDifference {
            oid: None,
            what: crate::admin::api::ScrubWhat::Missing,
            groups,
            majority: false,
            ..two
        });
    }
    let mut without_blobs = backing_up(JobState::Done);
    if let Some(done) = &mut without_blobs.backup {
        done.blobs_missing = 2;
    }
    let skipped = packing(
        JobState::Done,
        [
            ("copy1", JobMemberState::Done),
            ("copy2", JobMemberState::Skipped),
        ],
    );
    let shown = run([unread], &["scrub"])
        + &run([differing.clone()], &["scrub", "scrub -o json"])
        + &run([without_blobs], &["backup /backup/monday"])
        + &run([skipped], &["pack", "pack -o json"]);
    let mut narrow = Bench::new(optimal());
    narrow.width = 40;
    *narrow.daemon.jobs.lock() = [differing].into();
    let shown = shown + "# 40 columns\n" + &session(&narrow, &["scrub"]);
    insta::assert_snapshot!("found-wanting", shown);
}

#[test]
fn what_does_not_run_cannot_be_come_back_to() {
    let shown = KINDS.map(|(kind, _)| {
        let bench = Bench::new(optimal());
        *bench.daemon.jobs.lock() = [Job {
            kind: JobKind::Recovery,
            ..job("pack", JobState::Done)
        }]
        .into();
        session(
            &bench,
            &[&format!("{kind} --attach"), &format!("{kind} --cancel")],
        )
    });
    insta::assert_snapshot!("not-running-jobs", shown.concat());
}
