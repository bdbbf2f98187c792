//! `recover`: what was found, how far it is, how it ended.

use super::*;
use crate::admin::api::{Analysis, Finding, Lag, RateLimit, Strategy};
use crate::cli::testing::transaction;

const LACKS: Lag = Lag {
    transactions: 1402,
    bytes: 31 << 20,
};

/// Of each kind; with the line that the daemon says.
fn findings() -> Vec<(&'static str, Analysis)> {
    let of = |finding, line: &str, advice| Analysis {
        member: "copy2".into(),
        source: "copy1".into(),
        finding,
        line: line.into(),
        advice,
    };
    let only_here = |count: u64| Finding::Diverged {
        common: (count < 1000).then(|| transaction("0x040d23c81c000000", "09:12:06")),
        lag: Lag {
            transactions: if count == 1 { 0 } else { 12 },
            bytes: 4096,
        },
        only_here: (0..count.min(20))
            .map(|_| crate::admin::api::Transaction {
                user: Some("/Plone/acl_users admin".into()),
                description: Some("/Plone/front-page/edit, the text of which says a lot".into()),
                ..transaction("0x040d23c820000000", "09:12:07")
            })
            .collect(),
        only_here_count: count,
    };
    vec![
        (
            "up-to-date",
            of(Finding::UpToDate, "holds everything", Strategy::Missing),
        ),
        ("behind", behind("copy2")),
        (
            "empty",
            of(
                Finding::Empty { lag: LACKS },
                "empty; lacks 1 402 transactions (31 MiB)",
                Strategy::Missing,
            ),
        ),
        ("diverged-by-one", of(only_here(1), "", Strategy::Rebuild)),
        ("diverged-by-many", of(only_here(12), "", Strategy::Rebuild)),
        (
            "nothing-in-common",
            of(only_here(12_345), "", Strategy::Rebuild),
        ),
        (
            "damaged",
            of(
                Finding::Damaged {
                    reason: "damaged at 4711: the record's length leads behind the end".into(),
                },
                "cannot be used: damaged at 4711: the record's length leads behind the end",
                Strategy::Rebuild,
            ),
        ),
    ]
}

fn ended(state: RecoveryState) -> Recovery {
    Recovery {
        state,
        ended: Some(at("09:16:44")),
        ..copying("copy2")
    }
}

#[test]
fn every_finding_is_shown_before_the_question() {
    for (name, found) in findings() {
        let answers = [
            Answer::Choose(vec![0]),
            Answer::Default,
            Answer::Default,
            Answer::Type("copy2"),
        ];
        for terminal in [false, true] {
            let mut bench = Bench::new(degraded()).answering(answers.clone());
            bench.terminal = terminal;
            bench
                .daemon
                .analyses
                .lock()
                .insert("copy2".into(), found.clone());
            let done = (ended(RecoveryState::Done), Some(optimal().remove(0)));
            *bench.daemon.recoveries.lock() = [done].into();
            let shown = bench.run("recover --interactive") + "-- questions\n" + &bench.questions();
            if !terminal {
                insta::assert_snapshot!(name, shown);
                continue;
            }
            // At a terminal the same, wrapped.
            for line in shown.lines() {
                assert!(console::measure_text_width(line) <= 80, "{name}: {line}");
            }
        }
    }
}

/// One that cannot be reached is no reason to leave another as it is.
#[test]
fn who_cannot_be_looked_at_is_left_out() {
    let out = || {
        vec![array(vec![
            member("copy1"),
            refused("copy2"),
            refused("copy3"),
        ])]
    };
    let answers = [Answer::Choose(vec![0]), Answer::Default, Answer::Default];
    let bench = Bench::new(out()).answering(answers);
    *bench.daemon.analyses.lock() = [("copy3".to_owned(), behind("copy3"))].into();
    let shown = bench.run("recover --interactive --detach");
    assert!(
        shown.contains("warning: copy2 is left out: copy2 could not be opened"),
        "{shown}"
    );
    assert!(shown.contains("copy3 is being recovered"), "{shown}");
    assert!(bench.questions().contains("[x] copy3  behind"), "{shown}");
    let bench = Bench::new(out());
    let shown = bench.run("recover --interactive");
    assert!(
        shown.contains("error: copy2 could not be opened"),
        "{shown}"
    );
}

/// What each look sees, and the lines where there is no terminal.
#[test]
fn progress_is_a_line_for_each_phase() {
    let step = |phase: &str, note: Option<&str>| Recovery {
        note: note.map(str::to_owned),
        ..recovery("copy2", phase)
    };
    let tx = |phase: &str| Recovery {
        done: Lag {
            transactions: 953,
            bytes: 0,
        },
        total: Lag {
            transactions: 1402,
            bytes: 0,
        },
        time_left_s: Some(7300),
        ..recovery("copy2", phase)
    };
    let paused = Recovery {
        rate: RateLimit {
            paused: true,
            ..RateLimit::default()
        },
        ..copying("copy2")
    };
    let bench = Bench::new(degraded());
    *bench.daemon.recoveries.lock() = [
        (
            step("queued", Some("waits for the recovery of copy3")),
            None,
        ),
        (
            step("analyse", Some("compares the last transactions")),
            None,
        ),
        (copying("copy2"), None),
        (step("catch-up", Some("commits wait")), None),
        (tx("verify"), None),
        (ended(RecoveryState::Done), Some(optimal().remove(0))),
    ]
    .into();
    let mut shown = bench.run("recover");
    let bench = Bench::new(degraded());
    *bench.daemon.recoveries.lock() = [
        (paused, None),
        (ended(RecoveryState::Done), Some(optimal().remove(0))),
    ]
    .into();
    shown += &bench.run("recover --quiet");
    let mut alone = recovering();
    alone.members.remove(1);
    shown += &Bench::new(vec![alone]).run("recover");
    insta::assert_snapshot!("phases", shown);
}

#[test]
fn every_end_is_told_to_people_and_to_programs() {
    let failed = Recovery {
        problem: Some(
            Problem::failed("copy2: [Errno 28] No space left on device")
                .with_next("make room on its disk, then: zeoraidctl recover copy2"),
        ),
        ..ended(RecoveryState::Failed)
    };
    let set_aside = Recovery {
        set_aside: vec!["var/copy2/Data.fs.cut-0x040d23c81c000000".into()],
        ..ended(RecoveryState::Done)
    };
    for (name, last, after) in [
        ("done", ended(RecoveryState::Done), optimal()),
        ("set-aside", set_aside, optimal()),
        ("cancelled", ended(RecoveryState::Cancelled), degraded()),
        ("failed", failed, degraded()),
    ] {
        let shown = [
            "recover copy2",
            "recover copy2 -o json",
            "recover copy2 -o yaml -q",
        ]
        .map(|line| {
            let bench = Bench::new(degraded());
            *bench.daemon.recoveries.lock() = [(last.clone(), Some(after[0].clone()))].into();
            session(&bench, &[line])
        });
        insta::assert_snapshot!(format!("ended-{name}"), shown.concat());
    }
}

#[test]
fn a_recovery_that_runs_is_changed_and_says_so() {
    let bench = Bench::new(vec![recovering()]);
    *bench.daemon.recoveries.lock() = [(copying("copy3"), None)].into();
    let commands = [
        "recover --pause",
        "recover --resume -o json",
        "recover --cancel",
        "recover --cancel -o json",
        "recover copy2 --detach",
        "recover copy2 --detach -o json",
    ];
    insta::assert_snapshot!("changed", session(&bench, &commands));
}

#[test]
fn the_recovery_that_runs_may_be_named_and_another_one_is_not_taken_for_it() {
    let bench = || {
        let bench = Bench::new(vec![recovering()]);
        let ended = Recovery {
            state: RecoveryState::Done,
            ..copying("copy3")
        };
        *bench.daemon.recoveries.lock() = [(ended, None)].into();
        bench
    };
    for (line, expected) in [
        ("--cancel", "the recovery of copy3 is cancelled"),
        ("--pause", "the recovery of copy3 is paused"),
        ("--resume", "the recovery of copy3 goes on"),
    ] {
        let shown = bench().run(&format!("recover copy3 {line}"));
        assert!(shown.starts_with("exit 0"), "{line}: {shown}");
        assert!(shown.contains(expected), "{line}: {shown}");
        let bench = bench();
        let shown = bench.run(&format!("recover copy2 {line}"));
        let refused = "exit 1\n-- stderr\nerror: copy2 is not being recovered, and waits for it: copy3 is\n\
                       Next: zeoraidctl details";
        assert_eq!(shown.trim_end(), refused, "{line}");
        let asked = bench.daemon.asked.lock().clone();
        let changed = |asked: &String| asked.starts_with('c');
        assert!(!asked.iter().any(changed), "{line}: {asked:?}");
    }
    let other = bench().run("recover copy1 --attach");
    assert!(
        other.contains("copy1 is not being recovered: copy3 is"),
        "{other}"
    );
    let unknown = bench().run("recover copy9 --cancel");
    assert!(unknown.contains("there is no member copy9"), "{unknown}");
}

/// A rebuild cuts what differs, and finds some of it only while it compares.
#[test]
fn a_rebuild_asks_whatever_was_found() {
    for (name, found) in findings() {
        let bench = |answers: Vec<Answer>| {
            let bench = Bench::new(degraded()).answering(answers);
            let mut analyses = bench.daemon.analyses.lock();
            analyses.insert("copy2".into(), found.clone());
            drop(analyses);
            bench
        };
        let begun = |bench: &Bench| {
            bench
                .asked()
                .iter()
                .any(|asked| asked.starts_with("recover"))
        };
        let unasked = bench(vec![]);
        let shown = unasked.run("recover copy2 --rebuild --detach");
        assert!(shown.starts_with("exit 2"), "{name}: {shown}");
        assert!(shown.contains("warning: copy2 "), "{name}: {shown}");
        assert!(shown.contains("answer it with `--yes`"), "{name}: {shown}");
        assert!(!begun(&unasked), "{name}");
        let typed = bench(vec![Answer::Type("copy2")]);
        typed.run("recover copy2 --rebuild --detach");
        assert!(begun(&typed), "{name}");
        let yes = bench(vec![]);
        yes.run("recover copy2 --rebuild --detach --yes");
        assert!(begun(&yes), "{name}");
    }
}

/// Nothing is asked about a copy that nothing will be done to.
#[test]
fn a_member_that_is_optimal_is_named_before_anything_is_asked() {
    for (flags, next) in [
        ("", "recover --verify copy2"),
        (" --interactive", "recover --verify copy2"),
        (" --rebuild", "recover --rebuild copy2"),
    ] {
        let bench = Bench::new(optimal());
        let shown = bench.run(&format!("recover copy2{flags}"));
        assert!(shown.contains("error: copy2 is optimal already"), "{shown}");
        let next = format!("zeoraidctl disable copy2, then: zeoraidctl {next}");
        assert!(shown.contains(&next), "{shown}");
        let mut asked = bench.asked().into_iter();
        assert!(!asked.any(|it| it.starts_with("recover") || it.starts_with("analyse")));
    }
}
