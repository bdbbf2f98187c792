//! `status` and `details` in every state of an array: on a usual and a narrow screen, and as JSON.
//!
//! A state is a line of [`states`]; what is printed for it is its file under `snapshots/`.

use super::*;
use crate::admin::api::Lag;

/// What the daemon says of such arrays; see `raid::details` and `daemon::report`.
fn states() -> Vec<(&'static str, Vec<ArrayDetails>)> {
    let long = "vote: the server answered StorageTransactionError(\"Duplicate tpc_begin calls for \
                same transaction\") after the commit of 0x040d23c81c000000; restart the ZEO server";
    let operator = |name: &str, reason: &str| MemberDetails {
        outlook: Some(format!("waits for `zeoraidctl recover {name}`")),
        ..out(name, reason)
    };
    let paused = |mut recovery: Recovery| {
        recovery.rate.paused = true;
        recovery
    };
    let recovered = |recovery: Recovery| {
        let second = MemberDetails {
            state: MemberState::Recovering,
            outlook: None,
            ..out("copy2", "disabled by an operator")
        };
        ArrayDetails {
            recovery: Some(recovery),
            line: "recovering: copy2, 1 of 2 members out".into(),
            next: Some("zeoraidctl details --watch".into()),
            ..array(vec![member("copy1"), second])
        }
    };
    let long_name = "the-copy-in-the-second-data-centre-of-the-university";
    let waits = ArrayDetails {
        line: "failed: starting, waits for members: copy1".into(),
        ..failed()
    };
    let lost = ArrayDetails {
        state: ArrayState::Failed,
        line: "failed: 1 of 2 members hold everything, and min_optimal is 2".into(),
        next: Some("zeoraidctl recover --interactive".into()),
        ..degraded().remove(0)
    };
    let other = ArrayDetails {
        name: "other".into(),
        next: Some("zeoraidctl -S other recover --interactive".into()),
        ..degraded().remove(0)
    };
    let empty = ArrayDetails {
        head: None,
        objects: 0,
        bytes: 0,
        clients: 1,
        loads_per_s: 0.0,
        commits_per_s: 0.0,
        ..optimal().remove(0)
    };
    vec![
        ("optimal", optimal()),
        ("empty", vec![empty]),
        (
            "zeo-and-file",
            vec![array(vec![member("copy1"), zeo("zeo2")])],
        ),
        ("degraded", degraded()),
        (
            "degraded-several",
            vec![array(vec![
                zeo("zeo1"),
                operator("copy2", long),
                MemberDetails {
                    last: None,
                    lag: None,
                    ..operator("copy3", "[Errno 5] Input/output error: /srv/disk3/Data.fs")
                },
                zeo("zeo4"),
            ])],
        ),
        ("recovering-queued", vec![recovering()]),
        (
            "recovering-paused",
            vec![recovered(paused(copying("copy2")))],
        ),
        (
            "recovering-waits",
            vec![recovered(Recovery {
                note: Some("waits for the commits that are open".into()),
                ..recovery("copy2", "catch-up")
            })],
        ),
        ("failed", vec![failed()]),
        (
            "failed-for-lack-of-others",
            vec![ArrayDetails {
                members: vec![member("copy1"), failed().members.remove(0)],
                ..failed()
            }],
        ),
        (
            "read-only",
            vec![ArrayDetails {
                serving: true,
                ..lost.clone()
            }],
        ),
        (
            "refusing",
            vec![ArrayDetails {
                serving: false,
                ..lost
            }],
        ),
        ("starting", vec![waits]),
        (
            "long-names",
            vec![array(vec![
                MemberDetails {
                    location: "unix:/srv/zodb/plone/production/zeo/servers/first/zeo.sock".into(),
                    ..zeo("zeo1")
                },
                operator(long_name, "disabled by an operator"),
            ])],
        ),
        (
            "one-of-very-many",
            vec![array(vec![
                member("copy1"),
                MemberDetails {
                    lag: Some(Lag {
                        transactions: 123_456_789_012,
                        bytes: 9 << 40,
                    }),
                    faults: 4711,
                    ..operator("copy2", "disabled by an operator")
                },
            ])],
        ),
        ("several-arrays", vec![optimal().remove(0), other]),
        ("no-array", Vec::new()),
    ]
}

fn zeo(name: &str) -> MemberDetails {
    MemberDetails {
        kind: "zeo".into(),
        location: format!("{name}.db.example.org:8100"),
        ..member(name)
    }
}

#[test]
fn every_state_is_shown() {
    for (name, arrays) in states() {
        let wide = Bench::new(arrays.clone());
        let commands = [
            "status",
            "status --all",
            "status --nagios",
            "status -o json",
            "details",
            "details -o json",
        ];
        let mut narrow = Bench::new(arrays);
        narrow.width = 40;
        let shown =
            session(&wide, &commands) + "\n# 40 columns\n" + &session(&narrow, &["details"]);
        insta::assert_snapshot!(name, shown);
    }
}

/// Of `status` and `details` alike; the words of the state are the page's.
#[test]
fn the_exit_code_is_the_state() {
    for (name, code) in [
        ("optimal", 0),
        ("empty", 0),
        ("recovering-queued", 1),
        ("recovering-paused", 1),
        ("degraded", 2),
        ("several-arrays", 2),
        ("failed", 2),
        ("read-only", 2),
        ("starting", 2),
        ("no-array", 3),
    ] {
        let (_, arrays) = states().into_iter().find(|state| state.0 == name).unwrap();
        for command in [
            "status",
            "status -a",
            "status --nagios",
            "details",
            "details -o json",
        ] {
            let shown = Bench::new(arrays.clone()).run(command);
            let (first, _) = shown.split_once('\n').unwrap();
            assert_eq!(first, format!("exit {code}"), "{name}: {command}");
        }
    }
}

/// A word (a path, a long name) is never cut: it has a line of its own.
#[test]
fn no_state_is_wider_than_the_screen() {
    for (name, arrays) in states() {
        for width in [40, 60, 80, 200] {
            // A name of 53 letters is wider than a narrow screen, and so is its table.
            if name == "long-names" && width < 80 {
                continue;
            }
            let mut bench = Bench::new(arrays.clone());
            bench.width = width;
            for line in bench.run("details").lines() {
                // So is what comes next, to be copied.
                let is_a_word = line.split_whitespace().count() == 1 || line.starts_with("Next:");
                assert!(
                    console::measure_text_width(line) <= width || is_a_word,
                    "{name}, {width}: {line}"
                );
            }
        }
    }
}

#[test]
fn why_nobody_answers_is_said_in_the_same_places() {
    let problems = [
        ("not-running", not_running()),
        (
            "still-starting",
            Problem::unavailable(
                "starting",
                "The daemon is starting",
                "the daemon is starting",
            )
            .with_next("zeoraidctl status"),
        ),
        (
            "wrong-token",
            Problem::unauthorized("http://db:8101: the token is wrong")
                .with_next("name its file, with --token-file"),
        ),
    ];
    for (name, problem) in problems {
        let bench = Bench::new(optimal());
        *bench.daemon.problem.lock() = Some(problem);
        let commands = [
            "status",
            "status --all",
            "status --nagios",
            "status -o json",
            "details",
            "details -o json",
            "recover",
            "scrub -o json",
            "events",
            "reload",
            "reopen",
        ];
        insta::assert_snapshot!(name, session(&bench, &commands));
    }
}

/// Whoever reads the stream finds the same keys in each document.
#[test]
fn what_is_watched_stays_one_document_in_a_line() {
    let evil = out("copy2", "turned\u{202e}around");
    for problem in [None, Some(not_running())] {
        let mut bench = Bench::new(vec![array(vec![member("copy1"), evil.clone()])]);
        bench.presses = vec![Duration::from_secs(2)];
        *bench.daemon.problem.lock() = problem;
        let shown = bench.run("details --watch -o json");
        let line = shown.lines().nth(2).unwrap();
        let document: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(
            document["state"].is_string() && document["arrays"].is_array(),
            "{shown}"
        );
        assert!(!shown.contains('\u{202e}'), "{shown}");
    }
}
