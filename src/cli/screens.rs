//! What every command prints: exit code, standard output, standard error; as tables and as JSON, with
//! and without colours.

use std::time::Duration;

use super::prompt::script::Answer;
use super::testing::{Bench, array, at, behind, copying, diverged, member, out, recovery};
use crate::admin::api::{
    ArrayDetails, ArrayState, CommitLock, Job, JobMember, JobMemberState, JobState, MemberDetails,
    MemberState, Problem, Recovery, RecoveryState, Reloaded,
};

mod documents;
mod jobs;
mod local;
mod recovering;
mod scrubs;
mod states;

/// Commands and what they print, as a person would see them one after the other.
fn session(bench: &Bench, lines: &[&str]) -> String {
    let shown = lines
        .iter()
        .map(|line| format!("$ zeoraidctl {line}\n{}\n", bench.run(line)));
    shown.collect()
}

fn refused(name: &str) -> MemberDetails {
    MemberDetails {
        outlook: Some("next try in 8 s; recovers by itself".into()),
        ..out(name, "connection refused")
    }
}

fn optimal() -> Vec<ArrayDetails> {
    vec![array(vec![member("copy1"), member("copy2")])]
}

fn degraded() -> Vec<ArrayDetails> {
    vec![array(vec![member("copy1"), refused("copy2")])]
}

fn recovering() -> ArrayDetails {
    let queued = MemberDetails {
        outlook: Some("waits for the recovery of copy3".into()),
        ..refused("copy2")
    };
    let third = MemberDetails {
        state: MemberState::Recovering,
        ..out("copy3", "disabled by root")
    };
    ArrayDetails {
        recovery: Some(Recovery {
            queued: vec!["copy2".into()],
            ..copying("copy3")
        }),
        commit_lock: CommitLock {
            held: true,
            held_ms: Some(2100),
            waiting: 3,
        },
        ..array(vec![member("copy1"), queued, third])
    }
}

fn failed() -> ArrayDetails {
    ArrayDetails {
        state: ArrayState::Failed,
        line: "failed: waits for copy1 (No such file or directory); a member that held everything is needed"
            .into(),
        serving: false,
        head: None,
        next: Some(
            "bring back copy1; where that is impossible: zeoraidctl stop && zeoraidctl start --force".into(),
        ),
        ..array(vec![
            MemberDetails {
                reason: Some("No such file or directory".into()),
                outlook: Some("next try in 8 s".into()),
                latency_ms: None,
                ..member("copy1")
            },
            refused("copy2"),
        ])
    }
}

fn not_running() -> Problem {
    Problem::unavailable(
        crate::admin::api::NOT_RUNNING,
        "No daemon runs",
        "no daemon runs: unix:/srv/zodb/var/zeoraid.sock: there is no such socket",
    )
    .with_next("zeoraidctl start")
}

#[test]
fn status_is_a_line_and_an_exit_code() {
    insta::assert_snapshot!(Bench::new(optimal()).run("status"), @r#"
    exit 0
    -- stdout
    optimal
    "#);
    insta::assert_snapshot!(Bench::new(degraded()).run("status"), @r#"
    exit 2
    -- stdout
    degraded: 1 of 2 members out (copy2: connection refused, 4 min)
    "#);
    insta::assert_snapshot!(Bench::new(vec![recovering()]).run("status"), @r#"
    exit 1
    -- stdout
    recovering: copy2
    "#);
    insta::assert_snapshot!(Bench::new(vec![failed()]).run("status --all"), @r#"
    exit 2
    -- stdout
    main: failed: waits for copy1 (No such file or directory); a member that held everything is needed
    "#);
    insta::assert_snapshot!(Bench::new(degraded()).run("status --nagios"), @r#"
    exit 2
    -- stdout
    ZEORAID CRITICAL - degraded: 1 of 2 members out (copy2: connection refused, 4 min) | 'main_optimal_members'=1;;2:;0;2 'main_lag_transactions'=1402;;;0 'main_clients'=14;;;0 'main_loads_per_s'=212.0;;;0 'main_commits_per_s'=9.2;;;0 'main_commits_waiting'=0;;;0
    "#);
    insta::assert_snapshot!(Bench::new(degraded()).run("status -o json"), @r#"
    exit 2
    -- stdout
    {
      "state": "degraded",
      "line": "degraded: 1 of 2 members out (copy2: connection refused, 4 min)",
      "version": "0.1.0",
      "pid": 4711,
      "started": "2026-11-20T08:00:00Z",
      "uptime_s": 4601,
      "ready": true,
      "arrays": [
        {
          "name": "main",
          "state": "degraded",
          "line": "degraded: 1 of 2 members out (copy2: connection refused, 4 min)",
          "serving": true
        }
      ]
    }
    "#);
    insta::assert_snapshot!(Bench::new(optimal()).run("status -o yaml"), @r#"
    exit 0
    -- stdout
    state: optimal
    line: optimal
    version: 0.1.0
    pid: 4711
    started: 2026-11-20T08:00:00Z
    uptime_s: 4601
    ready: true
    arrays:
    - name: main
      state: optimal
      line: optimal
      serving: true
    "#);
    insta::assert_snapshot!(Bench::new(optimal()).run("status -S other"), @r#"
    exit 3
    -- stdout
    unknown: there is no array other; there are: main
    "#);
    let mut colored = Bench::new(degraded());
    colored.color = true;
    insta::assert_snapshot!(colored.run("status").escape_debug().to_string().replace("\\n", "\n"), @r#"
    exit 2
    -- stdout
    \u{1b}[31m\u{1b}[1mdegraded\u{1b}[0m: 1 of 2 members out (copy2: connection refused, 4 min)
    "#);
}

#[test]
fn status_of_several_arrays_begins_with_the_worst() {
    let other = ArrayDetails {
        name: "other".into(),
        ..degraded().remove(0)
    };
    let bench = || Bench::new(vec![optimal().remove(0), other.clone()]);
    insta::assert_snapshot!(bench().run("status"), @r#"
    exit 2
    -- stdout
    other: degraded: 1 of 2 members out (copy2: connection refused, 4 min); main: optimal
    "#);
    insta::assert_snapshot!(bench().run("status -a"), @r#"
    exit 2
    -- stdout
    main: optimal
    other: degraded: 1 of 2 members out (copy2: connection refused, 4 min)
    "#);
    insta::assert_snapshot!(bench().run("status -S main"), @r#"
    exit 0
    -- stdout
    optimal
    "#);
    insta::assert_snapshot!(bench().run("disable copy1"), @r#"
    exit 2
    -- stderr
    error: the daemon serves several arrays: main, other
    Next: name one, with `--array NAME`
    "#);
}

#[test]
fn a_daemon_that_does_not_run_is_a_state_of_its_own() {
    let bench = || {
        let bench = Bench::new(optimal());
        *bench.daemon.problem.lock() = Some(not_running());
        bench
    };
    insta::assert_snapshot!(bench().run("status"), @r#"
    exit 3
    -- stdout
    unknown: no daemon runs: unix:/srv/zodb/var/zeoraid.sock: there is no such socket
    Next: zeoraidctl start
    "#);
    insta::assert_snapshot!(bench().run("status --nagios"), @r#"
    exit 3
    -- stdout
    ZEORAID UNKNOWN - no daemon runs: unix:/srv/zodb/var/zeoraid.sock: there is no such socket
    "#);
    insta::assert_snapshot!(bench().run("status -o json"), @r#"
    exit 3
    -- stdout
    {
      "state": "unknown",
      "line": "no daemon runs: unix:/srv/zodb/var/zeoraid.sock: there is no such socket",
      "next": "zeoraidctl start",
      "arrays": []
    }
    "#);
    insta::assert_snapshot!(bench().run("details"), @r#"
    exit 3
    -- stderr
    error: no daemon runs: unix:/srv/zodb/var/zeoraid.sock: there is no such socket
    Next: zeoraidctl start
    "#);
    insta::assert_snapshot!(bench().run("disable copy1"), @r#"
    exit 1
    -- stderr
    error: no daemon runs: unix:/srv/zodb/var/zeoraid.sock: there is no such socket
    Next: zeoraidctl start
    "#);
}

#[test]
fn details_say_what_happened_since_when_what_it_means_and_what_next() {
    insta::assert_snapshot!(Bench::new(optimal()).run("details"), @r#"
    exit 0
    -- stdout
    Array main  ● optimal   serving 127.0.0.1:8100   since 09:12 (4 min)
      head 0x040d23ccb0000000  2026-11-20 09:16:41 UTC   1 204 311 objects   8.4 GiB
      14 clients   212 loads/s   9.2 commits/s   commit lock free   membership no. 7

      MEMBER  STATE      TYPE  WHERE              LATENCY  LAG
      copy1   ● optimal  file  var/copy1/Data.fs  0.4 ms   -
      copy2   ● optimal  file  var/copy2/Data.fs  0.4 ms   -
    "#);
    insta::assert_snapshot!(Bench::new(degraded()).run("details"), @r#"
    exit 2
    -- stdout
    Array main  ● degraded   serving 127.0.0.1:8100   since 09:12 (4 min)
      head 0x040d23ccb0000000  2026-11-20 09:16:41 UTC   1 204 311 objects   8.4 GiB
      14 clients   212 loads/s   9.2 commits/s   commit lock free   membership no. 7
      Clients work on. copy1 alone holds every transaction: until another member is
      recovered, losing it loses data.

      MEMBER  STATE       TYPE  WHERE              LATENCY  LAG
      copy1   ● optimal   file  var/copy1/Data.fs  0.4 ms   -
      copy2   ✖ degraded  file  var/copy2/Data.fs  -        1 402 tx, 31 MiB
              out since 09:12 (4 min): connection refused; next try in 8 s; recovers
              by itself
              last transaction 0x040d23c81c000000  2026-11-20 09:12:06 UTC
              1 fault since the daemon started

    Next: zeoraidctl recover --interactive
    "#);
    insta::assert_snapshot!(Bench::new(vec![recovering()]).run("details"), @r#"
    exit 1
    -- stdout
    Array main  ● recovering   serving 127.0.0.1:8100   since 09:12 (4 min)
      head 0x040d23ccb0000000  2026-11-20 09:16:41 UTC   1 204 311 objects   8.4 GiB
      14 clients   212 loads/s   9.2 commits/s   commit lock held for 2.1 s
      3 waiting   membership no. 7
      Clients work on. copy1 alone holds every transaction: until another member is
      recovered, losing it loses data.

      MEMBER  STATE         TYPE  WHERE              LATENCY  LAG
      copy1   ● optimal     file  var/copy1/Data.fs  0.4 ms   -
      copy2   ✖ degraded    file  var/copy2/Data.fs  -        1 402 tx, 31 MiB
              out since 09:12 (4 min): connection refused; waits for the recovery of
              copy3
              last transaction 0x040d23c81c000000  2026-11-20 09:12:06 UTC
              1 fault since the daemon started
      copy3   ⟳ recovering  file  var/copy3/Data.fs  -        1 402 tx, 31 MiB
              out since 09:12 (4 min): disabled by root
              last transaction 0x040d23c81c000000  2026-11-20 09:12:06 UTC
              copy ━━━━━━━━━━━━━━─────── 67 %  21 MiB of 31 MiB  25 MiB/s  1 s left
              1 fault since the daemon started
    "#);
    insta::assert_snapshot!(Bench::new(vec![failed()]).run("details"), @r#"
    exit 2
    -- stdout
    Array main  ✖ failed   not serving   since 09:12 (4 min)
      head unknown   1 204 311 objects   8.4 GiB
      14 clients   212 loads/s   9.2 commits/s   commit lock free   membership no. 7
      Clients are refused: waits for copy1 (No such file or directory); a member
      that held everything is needed. Every acknowledged transaction is on copy1:
      keep it.

      MEMBER  STATE       TYPE  WHERE              LATENCY  LAG
      copy1   ✖ missing   file  var/copy1/Data.fs  -        -
              No such file or directory; next try in 8 s
      copy2   ✖ degraded  file  var/copy2/Data.fs  -        1 402 tx, 31 MiB
              out since 09:12 (4 min): connection refused; next try in 8 s; recovers
              by itself
              last transaction 0x040d23c81c000000  2026-11-20 09:12:06 UTC
              1 fault since the daemon started

    Next: bring back copy1; where that is impossible: zeoraidctl stop && zeoraidctl
          start --force
    "#);
}

#[test]
fn a_size_that_nobody_knows_is_not_called_nought() {
    let bytes = |bytes| ArrayDetails {
        objects: 0,
        bytes,
        ..failed()
    };
    let head = |array| {
        let shown = Bench::new(vec![array]).run("details");
        let line = shown.lines().find(|line| line.contains("head"));
        line.expect("it says of its head").trim().to_owned()
    };
    assert_eq!(head(bytes(0)), "head unknown   size unknown");
    assert_eq!(head(bytes(4)), "head unknown   0 objects   4 B");
}

#[test]
fn details_fit_60_columns_and_carry_the_same_facts_as_json() {
    let mut bench = Bench::new(degraded());
    bench.width = 60;
    insta::assert_snapshot!(bench.run("details"), @r#"
    exit 2
    -- stdout
    Array main  ● degraded   serving 127.0.0.1:8100
      since 09:12 (4 min)
      head 0x040d23ccb0000000  2026-11-20 09:16:41 UTC
      1 204 311 objects   8.4 GiB
      14 clients   212 loads/s   9.2 commits/s
      commit lock free   membership no. 7
      Clients work on. copy1 alone holds every transaction:
      until another member is recovered, losing it loses data.

      MEMBER  STATE       TYPE  LATENCY  LAG
      copy1   ● optimal   file  0.4 ms   -
              var/copy1/Data.fs
      copy2   ✖ degraded  file  -        1 402 tx, 31 MiB
              var/copy2/Data.fs
              out since 09:12 (4 min): connection refused; next
              try in 8 s; recovers by itself
              last transaction 0x040d23c81c000000  2026-11-20
              09:12:06 UTC
              1 fault since the daemon started

    Next: zeoraidctl recover --interactive
    "#);
    insta::assert_snapshot!(Bench::new(degraded()).run("details -o json"), @r#"
    exit 2
    -- stdout
    {
      "state": "degraded",
      "arrays": [
        {
          "name": "main",
          "uuid": "00000000-0000-0000-0000-000000000007",
          "state": "degraded",
          "line": "degraded: 1 of 2 members out (copy2: connection refused, 4 min)",
          "serving": true,
          "addresses": [
            "127.0.0.1:8100"
          ],
          "epoch": 7,
          "since": "2026-11-20T09:12:07Z",
          "head": {
            "tid": "0x040d23ccb0000000",
            "time": "2026-11-20T09:16:41Z"
          },
          "objects": 1204311,
          "bytes": 9019431321,
          "clients": 14,
          "loads": 1000,
          "commits": 100,
          "loads_per_s": 212.0,
          "commits_per_s": 9.2,
          "commit_lock": {
            "held": false,
            "held_ms": null,
            "waiting": 0
          },
          "members": [
            {
              "name": "copy1",
              "state": "optimal",
              "kind": "file",
              "where": "var/copy1/Data.fs",
              "since": "2026-11-20T08:00:00Z",
              "reason": null,
              "outlook": null,
              "lag": null,
              "last": {
                "tid": "0x040d23ccb0000000",
                "time": "2026-11-20T09:16:41Z"
              },
              "latency_ms": 0.42,
              "reads": 12,
              "faults": 0
            },
            {
              "name": "copy2",
              "state": "degraded",
              "kind": "file",
              "where": "var/copy2/Data.fs",
              "since": "2026-11-20T09:12:07Z",
              "reason": "connection refused",
              "outlook": "next try in 8 s; recovers by itself",
              "lag": {
                "transactions": 1402,
                "bytes": 32505856
              },
              "last": {
                "tid": "0x040d23c81c000000",
                "time": "2026-11-20T09:12:06Z"
              },
              "latency_ms": null,
              "reads": 12,
              "faults": 1
            }
          ],
          "recovery": null,
          "next": "zeoraidctl recover --interactive"
        }
      ]
    }
    "#);
}

#[test]
fn no_line_of_details_is_wider_than_the_screen() {
    let long = MemberDetails {
        location: "/srv/a/rather/long/path/to/the/second/copy/of/the/database/Data.fs".into(),
        reason: Some("a reason that needs many words ".repeat(6)),
        ..refused("copy2")
    };
    for width in [60, 80, 200] {
        let mut bench = Bench::new(vec![array(vec![member("copy1"), long.clone()])]);
        bench.width = width;
        for line in bench.run("details").lines() {
            // A path is not cut: it has a line of its own.
            let path = line.trim_start().starts_with('/');
            assert!(
                path || console::measure_text_width(line) <= width,
                "{width}: {line}"
            );
        }
    }
}

#[test]
fn text_from_outside_does_not_reach_the_terminal_as_it_is() {
    let evil = out("copy2", "evil\u{1b}]0;title\u{7}\u{202e}\nnext line");
    let bench = Bench::new(vec![array(vec![member("copy1"), evil])]);
    for command in ["details", "status", "details -o json", "details -o yaml"] {
        let shown = bench.run(command);
        let bad = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!shown.contains(bad), "{command}: {shown:?}");
        assert!(!shown.contains("\nnext line"), "{command}: {shown}");
    }
}

#[test]
fn details_are_watched_until_ctrl_c() {
    let mut bench = Bench::new(degraded());
    bench.presses = vec![Duration::from_millis(500)];
    bench.terminal = true;
    let shown = bench.run("details --watch");
    assert!(
        shown.starts_with("exit 2\n-- stdout\n\u{1b}[2J\u{1b}[HArray main"),
        "{shown:?}"
    );
    assert!(shown.ends_with("\u{1b}[J"), "{shown:?}");

    let mut piped = Bench::new(degraded());
    piped.presses = vec![Duration::from_secs(3)];
    let shown = piped.run("details --watch -o json");
    assert_eq!(
        shown.lines().count(),
        3,
        "the same state is not printed again: {shown}"
    );
}

#[test]
fn a_member_is_recovered_with_a_line_for_each_phase() {
    let bench = Bench::new(degraded());
    let after = ArrayDetails {
        epoch: 8,
        ..optimal().remove(0)
    };
    let done = Recovery {
        state: RecoveryState::Done,
        ended: Some(at("09:16:44")),
        ..copying("copy2")
    };
    *bench.daemon.recoveries.lock() = [
        (recovery("copy2", "analyse"), None),
        (copying("copy2"), None),
        (recovery("copy2", "catch-up"), None),
        (done, Some(after)),
    ]
    .into();
    insta::assert_snapshot!(bench.run("recover --rate 50MiB/s"), @r#"
    exit 0
    -- stderr
    copy2: analyse
    copy2: copy 67 %, 21 MiB of 31 MiB  25 MiB/s  1 s left
    copy2: catch-up
    ✔ copy2 is optimal. The array is optimal.
    "#);
    insta::assert_snapshot!(bench.asked().join("\n"), @"recover main/copy2 Missing None Some(52428800)");
}

#[test]
fn members_are_chosen_from_what_the_analysis_found() {
    let members = vec![member("copy1"), refused("copy2"), out("copy3", "diverged")];
    let bench = Bench::new(vec![array(members)]).answering([
        Answer::Default,
        Answer::Default,
        Answer::Default,
    ]);
    bench
        .daemon
        .analyses
        .lock()
        .insert("copy2".into(), behind("copy2"));
    bench
        .daemon
        .analyses
        .lock()
        .insert("copy3".into(), diverged("copy3"));
    let done = Recovery {
        state: RecoveryState::Done,
        ..copying("copy2")
    };
    let after = array(vec![
        member("copy1"),
        member("copy2"),
        out("copy3", "diverged"),
    ]);
    *bench.daemon.recoveries.lock() = [(done, Some(after))].into();
    insta::assert_snapshot!(bench.run("recover --interactive"), @r#"
    exit 0
    -- stderr
    looking at copy2 …
    looking at copy3 …
    times are estimates, at 50 MiB/s
    ✔ copy2 is optimal. The array is degraded: copy3 is out.
    "#);
    insta::assert_snapshot!(bench.questions(), @r#"
    Which members?
      [x] copy2  behind by 1 402 transactions (31 MiB)
      [ ] copy3  diverged after 2026-11-20 09:12:06 UTC: 3 only here, lacks 12
    How?
      > copy what is missing   (1 402 tx, 31 MiB; about 1 s)
        copy and compare everything   (reads both copies: 8.4 GiB; about 2 min)
        cut back or start afresh   (cuts if needed; 1 402 tx, 31 MiB; about 1 s)
    Limit the rate? [no limit]
    "#);
    insta::assert_snapshot!(bench.asked().join("\n"), @r#"
    analyse main/copy2
    analyse main/copy3
    recover main/copy2 Missing None None
    "#);
}

#[test]
fn what_would_be_cut_is_named_and_confirmed_by_typing() {
    let members = || vec![member("copy1"), refused("copy2"), out("copy3", "diverged")];
    let bench = |answers: Vec<Answer>| {
        let bench = Bench::new(vec![array(members())]).answering(answers);
        bench
            .daemon
            .analyses
            .lock()
            .insert("copy2".into(), behind("copy2"));
        bench
            .daemon
            .analyses
            .lock()
            .insert("copy3".into(), diverged("copy3"));
        let done = Recovery {
            state: RecoveryState::Done,
            set_aside: vec!["var/copy3/Data.fs.cut-0x040d23c81c000000".into()],
            ..copying("copy3")
        };
        let after = array(vec![member("copy1"), member("copy2"), member("copy3")]);
        *bench.daemon.recoveries.lock() = [(done, Some(after))].into();
        bench
    };
    let typed = bench(vec![
        Answer::Choose(vec![0, 1]),
        Answer::Default,
        Answer::Type("10MiB/s"),
        Answer::Type("copy3"),
    ]);
    insta::assert_snapshot!(typed.run("recover -i"), @r#"
    exit 0
    -- stderr
    looking at copy2 …
    looking at copy3 …
    times are estimates, at 50 MiB/s
    warning: copy3 holds 3 transactions that the array does not. What only it holds will be cut from it and set aside in a file. Both agree up to 0x040d23c81c000000  2026-11-20 09:12:06 UTC
      0x040d23c820000000  2026-11-20 09:12:07 UTC  /acl admin  /front-page/edit\u{1b}[31m
      and 2 more
    ✔ copy2 is optimal
    ✔ copy3 is optimal. The array is optimal.
      what was cut is in var/copy3/Data.fs.cut-0x040d23c81c000000
    "#);
    insta::assert_snapshot!(typed.questions(), @r#"
    Which members?
      [x] copy2  behind by 1 402 transactions (31 MiB)
      [ ] copy3  diverged after 2026-11-20 09:12:06 UTC: 3 only here, lacks 12
    How?
      > what each needs   (copy2: copy; copy3: cut back)
        copy what is missing   (will not do: copy3 has diverged)
        copy and compare everything   (will not do: copy3 has diverged)
        cut back or start afresh   (cuts 3 tx; 1 414 tx, 31 MiB; about 1 s)
    Limit the rate? [no limit]
    Rebuild copy3? Type `copy3` to go on
    "#);
    insta::assert_snapshot!(typed.asked().join("\n"), @r#"
    analyse main/copy2
    analyse main/copy3
    recover main/copy2 Missing None Some(10485760)
    recover main/copy3 Rebuild None Some(10485760)
    "#);

    // What will not do is not done.
    let again = bench(vec![
        Answer::Choose(vec![1]),
        Answer::Select(1),
        Answer::Select(2),
        Answer::Default,
        Answer::Type("copy3"),
    ]);
    let shown = again.run("recover -i");
    assert!(
        shown.contains("warning: will not do: copy3 has diverged"),
        "{shown}"
    );
    assert_eq!(
        again.asked().last().map(String::as_str),
        Some("recover main/copy3 Rebuild None None")
    );

    let refused = bench(vec![Answer::Type("yes")]);
    insta::assert_snapshot!(refused.run("recover copy3 --rebuild"), @r#"
    exit 1
    -- stderr
    warning: copy3 holds 3 transactions that the array does not. What only it holds will be cut from it and set aside in a file. Both agree up to 0x040d23c81c000000  2026-11-20 09:12:06 UTC
      0x040d23c820000000  2026-11-20 09:12:07 UTC  /acl admin  /front-page/edit\u{1b}[31m
      and 2 more
    broken off; nothing was changed
    "#);
    assert_eq!(refused.asked(), ["analyse main/copy3"]);
    insta::assert_snapshot!(bench(vec![]).run("recover copy3 --rebuild"), @r#"
    exit 2
    -- stderr
    warning: copy3 holds 3 transactions that the array does not. What only it holds will be cut from it and set aside in a file. Both agree up to 0x040d23c81c000000  2026-11-20 09:12:06 UTC
      0x040d23c820000000  2026-11-20 09:12:07 UTC  /acl admin  /front-page/edit\u{1b}[31m
      and 2 more
    error: there is no terminal to ask on ("Rebuild copy3? Type `copy3` to go on"); answer it with `--yes`
    "#);
    let yes = bench(vec![]);
    yes.run("recover copy3 --rebuild --yes --detach");
    assert_eq!(
        yes.asked(),
        ["analyse main/copy3", "recover main/copy3 Rebuild None None"]
    );
}

#[test]
fn recover_says_which_members_there_are_to_choose() {
    let members = vec![member("copy1"), refused("copy2"), out("copy3", "diverged")];
    let bench = || Bench::new(vec![array(members.clone())]);
    insta::assert_snapshot!(bench().run("recover"), @r#"
    exit 2
    -- stderr
    error: 2 members are out: copy2, copy3; name those to recover
    Next: zeoraidctl recover --interactive, or: zeoraidctl recover --all
    "#);
    insta::assert_snapshot!(bench().run("recover copy9"), @r#"
    exit 1
    -- stderr
    error: there is no member copy9; main has: copy1, copy2, copy3
    Next: zeoraidctl details
    "#);
    insta::assert_snapshot!(bench().run("recover copy2 --all"), @r#"
    exit 2
    error: the argument '[MEMBERS]...' cannot be used with '--all'

    Usage: zeoraidctl recover [OPTIONS] [MEMBERS]...

    For more information, try '--help'.
    "#);
    // The wrapper of an instance says `-C`, which is no part of what was mistyped.
    let usage = "Usage: zeoraidctl recover [OPTIONS] [MEMBERS]...\n";
    let shown = bench().run("-C HERE recover copy2 --cancel --pause");
    assert!(shown.contains(usage), "{shown}");
    insta::assert_snapshot!(bench().run("recover --rate fast"), @r#"
    exit 2
    error: invalid value 'fast' for '--rate <RATE>': a rate like 50MiB/s, 1000tx/s, both with a comma between, or `none` is expected

    For more information, try '--help'.
    "#);
    insta::assert_snapshot!(Bench::new(optimal()).run("recover"), @r#"
    exit 0
    -- stderr
    ✔ every member of main is optimal
    "#);
    insta::assert_snapshot!(Bench::new(optimal()).run("recover --attach"), @r#"
    exit 1
    -- stderr
    error: no recovery runs in main
    Next: zeoraidctl details
    "#);
    insta::assert_snapshot!(bench().run("recover --all --detach"), @r#"
    exit 0
    -- stderr
    ✔ copy2, copy3 are being recovered; come back with `zeoraidctl recover --attach`
    "#);
}

#[test]
fn ctrl_c_asks_whether_to_leave_a_recovery_or_to_cancel_it() {
    let bench = |answers: Vec<Answer>| {
        let mut bench = Bench::new(degraded()).answering(answers);
        bench.presses = vec![Duration::from_secs(25), Duration::from_secs(30)];
        *bench.daemon.recoveries.lock() = [(copying("copy2"), None)].into();
        bench
    };
    let left = bench(vec![]);
    insta::assert_snapshot!(left.run("recover"), @r#"
    exit 0
    -- stderr
    copy2: copy 67 %, 21 MiB of 31 MiB  25 MiB/s  1 s left
    copy2: copy 67 %, 21 MiB of 31 MiB  25 MiB/s  1 s left
    copy2: copy 67 %, 21 MiB of 31 MiB  25 MiB/s  1 s left
    the recovery goes on in the daemon; come back with `zeoraidctl recover --attach`, end it with `zeoraidctl recover --cancel`
    "#);
    assert_eq!(left.asked(), ["recover main/copy2 Missing None None"]);
    // Goes on once, then cancels.
    let cancelled = bench(vec![Answer::Select(2), Answer::Select(1)]);
    insta::assert_snapshot!(cancelled.run("recover"), @r#"
    exit 1
    -- stderr
    copy2: copy 67 %, 21 MiB of 31 MiB  25 MiB/s  1 s left
    copy2: copy 67 %, 21 MiB of 31 MiB  25 MiB/s  1 s left
    copy2: copy 67 %, 21 MiB of 31 MiB  25 MiB/s  1 s left
    copy2: copy 67 %, 21 MiB of 31 MiB  25 MiB/s  1 s left
    ✔ the recovery of copy2 is cancelled; the next one continues from there
    "#);
    insta::assert_snapshot!(cancelled.questions(), @r#"
    What about the recovery?
      > leave it running
        cancel it
        go on watching
    What about the recovery?
      > leave it running
        cancel it
        go on watching
    "#);
    assert_eq!(
        cancelled.asked(),
        ["recover main/copy2 Missing None None", "cancel main"]
    );
}

#[test]
fn a_recovery_that_fails_says_why_and_what_next() {
    let bench = Bench::new(degraded());
    let failed = Recovery {
        state: RecoveryState::Failed,
        problem: Some(
            Problem::failed("copy2 has diverged: it holds 3 transactions that the array does not")
                .with_next("zeoraidctl recover copy2 --rebuild"),
        ),
        ..copying("copy2")
    };
    *bench.daemon.recoveries.lock() = [(failed, None)].into();
    insta::assert_snapshot!(bench.run("recover copy2"), @r#"
    exit 1
    -- stderr
    error: copy2 could not be recovered: copy2 has diverged: it holds 3 transactions that the array does not
    Next: zeoraidctl recover copy2 --rebuild
    "#);
}

#[test]
fn a_member_is_disabled_after_a_question_where_one_copy_remains() {
    let asked = Bench::new(optimal()).answering([Answer::Confirm(true)]);
    insta::assert_snapshot!(asked.run("disable copy2"), @r#"
    exit 0
    -- stderr
    ✔ copy2 is out; bring it back with `zeoraidctl recover copy2`
    "#);
    insta::assert_snapshot!(asked.questions(), @"Only copy1 will hold every transaction. Take out copy2? [y/N]");
    insta::assert_snapshot!(Bench::new(optimal()).answering([Answer::Default]).run("disable copy2"), @r#"
    exit 1
    -- stderr
    broken off; nothing was changed
    "#);
    insta::assert_snapshot!(Bench::new(optimal()).run("disable copy2"), @r#"
    exit 2
    -- stderr
    error: there is no terminal to ask on ("Only copy1 will hold every transaction. Take out copy2?"); answer it with `--yes`
    "#);
    insta::assert_snapshot!(Bench::new(degraded()).run("disable copy1 --yes"), @r#"
    exit 1
    -- stderr
    error: copy1 is the last optimal member of main
    Next: recover another member first: zeoraidctl recover --interactive
    "#);
}

#[test]
fn a_reload_says_what_it_did_or_would_do() {
    let bench = Bench::new(optimal());
    insta::assert_snapshot!(bench.run("reload"), @r#"
    exit 0
    -- stdout
    nothing has changed
    "#);
    *bench.daemon.reloaded.lock() = Reloaded {
        dry_run: false,
        added: vec!["main/copy3".into()],
        removed: vec!["main/copy2".into()],
        changed: vec!["arrays.main.cache: 64MiB -> 1GiB".into()],
        needs_restart: vec!["listen: 127.0.0.1:8100 -> 127.0.0.1:8200".into()],
        warnings: vec!["etc/zeoraid.yaml:9:5: copy3 is on the same server; use another".into()],
    };
    insta::assert_snapshot!(bench.run("reload --dry-run"), @r#"
    exit 0
    -- stdout
    + main/copy3 would be added, and recovered
    - main/copy2 would be removed
    ~ arrays.main.cache: 64MiB -> 1GiB
    ! listen: 127.0.0.1:8100 -> 127.0.0.1:8200   (after `zeoraidctl restart`)
    ! etc/zeoraid.yaml:9:5: copy3 is on the same server; use another
    "#);
    let mistakes =
        vec!["etc/zeoraid.yaml:3:1: `lisen` is not known; did you mean `listen`?".into()];
    let problem = Problem::configuration("the configuration has a mistake", mistakes);
    *bench.daemon.problem.lock() = Some(problem.with_next("zeoraidctl check-config"));
    insta::assert_snapshot!(bench.run("reload"), @r#"
    exit 1
    -- stderr
    error: the configuration has a mistake
      etc/zeoraid.yaml:3:1: `lisen` is not known; did you mean `listen`?
    Next: zeoraidctl check-config
    "#);
}

/// A pack, as each look sees it: what its members are.
fn packing(state: JobState, members: [(&str, JobMemberState); 2]) -> Job {
    let member = |(name, state): (&str, JobMemberState)| JobMember {
        name: name.to_owned(),
        state,
        reason: match state {
            JobMemberState::Skipped => Some("Already packing".to_owned()),
            JobMemberState::Failed => Some("[Errno 28] No space left on device".to_owned()),
            _ => None,
        },
    };
    Job {
        state,
        members: members.into_iter().map(member).collect(),
        ..crate::admin::fake::pack()
    }
}

#[test]
fn a_pack_goes_from_member_to_member() {
    use JobMemberState::{Done, Running, Skipped, Waiting};
    let bench = Bench::new(optimal());
    *bench.daemon.jobs.lock() = [
        packing(JobState::Running, [("copy1", Running), ("copy2", Waiting)]),
        packing(JobState::Done, [("copy1", Done), ("copy2", Done)]),
    ]
    .into();
    insta::assert_snapshot!(bench.run("pack --days 2"), @r#"
    exit 0
    -- stderr
    main: pack 0 %, a, 1 of 2
    ✔ main is packed: copy1, copy2
    "#);
    assert_eq!(
        bench.asked(),
        ["pack main 2026-11-18T09:16:41Z", "job pack-main-1"]
    );

    let bench = Bench::new(optimal());
    *bench.daemon.jobs.lock() = [packing(
        JobState::Done,
        [("copy1", Done), ("copy2", Skipped)],
    )]
    .into();
    insta::assert_snapshot!(bench.run("pack"), @r#"
    exit 1
    -- stderr
    ✔ main is packed: copy1
    warning: copy2 was not packed: Already packing
    "#);
    insta::assert_snapshot!(bench.run("pack --attach"), @r#"
    exit 1
    -- stderr
    error: main is not being packed
    Next: zeoraidctl pack
    "#);
    insta::assert_snapshot!(bench.run("pack --to tomorrow"), @r#"
    exit 2
    -- stderr
    error: `tomorrow` is no date; write it like 2026-11-01, 2026-11-01T04:30 or 2026-11-01T04:30:00Z
    "#);
    *bench.daemon.jobs.lock() = [packing(
        JobState::Running,
        [("copy1", Running), ("copy2", Waiting)],
    )]
    .into();
    insta::assert_snapshot!(bench.run("pack --detach"), @r#"
    exit 0
    -- stderr
    ✔ main is being packed; come back with `zeoraidctl pack --attach`
    "#);
    insta::assert_snapshot!(bench.run("pack --cancel"), @r#"
    exit 0
    -- stderr
    ✔ the pack of main ends after the member that is being packed
    "#);
}

#[test]
fn small_commands() {
    let bench = Bench::new(optimal());
    insta::assert_snapshot!(bench.run("show"), @r#"
    exit 0
    -- stdout
    /srv/zodb/etc/zeoraid.yaml
      SETTING    VALUE           FROM
      listen     127.0.0.1:8100  etc/zeoraid.yaml:13
      encoding   Z5              default
      log.level  debug           $ZEORAID_LOG_LEVEL
    "#);
    insta::assert_snapshot!(bench.run("show -o json log"), @r#"
    exit 0
    -- stdout
    {
      "file": "/srv/zodb/etc/zeoraid.yaml",
      "settings": [
        {
          "key": "log.level",
          "value": "debug",
          "origin": "$ZEORAID_LOG_LEVEL"
        }
      ]
    }
    "#);
    insta::assert_snapshot!(bench.run("show nothing"), @r#"
    exit 1
    -- stderr
    error: no setting begins with `nothing`
    Next: zeoraidctl show
    "#);
    insta::assert_snapshot!(bench.run("events --since 6"), @r#"
    exit 0
    -- stdout
         7  2026-11-20 09:12:07 UTC  warning  main: copy2 was taken out: connection refused
         8  2026-11-20 09:12:07 UTC  info     main: copy2 is back\u{1b}[2J
    "#);
    insta::assert_snapshot!(bench.run("events -o json"), @r#"
    exit 0
    -- stdout
    {"id":7,"time":"2026-11-20T09:12:07Z","level":"warning","kind":"member-degraded","array":"main","member":"copy2","message":"copy2 was taken out: connection refused"}
    {"id":8,"time":"2026-11-20T09:12:07Z","level":"info","kind":"member-degraded","array":"main","member":"copy2","message":"copy2 is back\u001b[2J"}
    "#);
    insta::assert_snapshot!(bench.run("reopen"), @r#"
    exit 0
    -- stderr
    ✔ the log file was opened anew
    "#);
    insta::assert_snapshot!(bench.run("recipe list"), @r#"
    exit 0
    -- stdout
      RECIPE         WHAT IT MAKES
      classic        one daemon before ZEO servers, which keep the copies
      cooperative    several daemons, all serving, before the same ZEO servers
      embedded       one daemon with complete copies of its own (Data.fs files)
      hot-spare      two daemons on two machines and a floating address (keepalived)
      single-server  a plain ZEO server replacement with one Data.fs

      ADDITION    WHAT IT ADDS (`init --with`)
      container   an image and a compose file, for Docker or Podman
      haproxy     one address before the daemons, by HAProxy; one of them serves
      logrotate   rotation of the log files, for logrotate
      monitoring  alerts for Prometheus, a dashboard for Grafana, checks for Nagios
      supervisor  a program section for supervisord
      systemd     units for systemd, hardened, and a timer that packs
      zope        snippets for zope.conf, buildout, cookiecutter and containers
    "#);
    insta::assert_snapshot!(bench.run("recipe options embedded"), @r#"
    exit 0
    -- stdout
      OPTION         VALUES                           DEFAULT
      name           word                             main
                     Name of the array. Clients name it as their storage. The only
                     array of a daemon answers to `1` as well.
      listen         address                          127.0.0.1:8100
                     Where clients connect. HOST:PORT, [IPV6]:PORT or unix:PATH.
      adopt          path                             -
                     An existing Data.fs to take over (empty for a new database). It
                     is used where it lies, as the first member; the other members
                     are filled from it.
      members        count                            2
                     How many complete copies
      paths          paths                            (made from your other answers)
                     Where the copies lie (on disks of their own, if there are).
                     Paths with commas between, as many as there are to be copies;
                     relative ones are taken from the instance.
      blob_dirs      paths                            (made from your other answers)
                     Where their blobs are kept (of an existing Data.fs, where they
                     are; empty for none). Folders with commas between, one for each
                     copy.
      admin_address  address                          -
                     Where the daemon answers over HTTP as well (empty for nowhere).
                     For Prometheus, load balancers and other machines. HOST:PORT;
                     beyond this machine it needs a token.
      encoding       Z5, M5                           Z5
                     Encoding of the protocol. Z5 is pickle, which every client of
                     ZEO 5 and 6 speaks; M5 is msgpack, for clients that have that
                     package.
      log_level      error, warn, info, debug, trace  info
                     What is logged
    "#);
    insta::assert_snapshot!(bench.run("recipe show nothing"), @r#"
    exit 1
    -- stderr
    error: there is no recipe `nothing`; there are: classic, container, cooperative, embedded, haproxy, hot-spare, logrotate, monitoring, single-server, supervisor, systemd, zope
    Next: zeoraidctl recipe list
    "#);
    insta::assert_snapshot!(bench.run("man nothing"), @r#"
    exit 2
    -- stderr
    error: there is no command `nothing`
    Next: zeoraidctl help
    "#);
}

#[test]
fn an_output_that_is_closed_ends_the_command_quietly() {
    for command in [
        "status",
        "details",
        "details --watch",
        "events",
        "show",
        "completions bash",
        "man",
    ] {
        let mut bench = Bench::new(optimal());
        bench.takes = Some(0);
        assert_eq!(bench.run(command), "exit 0\n", "{command}");
    }
}

#[test]
fn help_fits_80_columns() {
    use clap::CommandFactory as _;

    let mut command = super::args::Cli::command();
    command.build();
    let mut open = vec![command];
    while let Some(mut command) = open.pop() {
        let name = command.get_name().to_owned();
        let help = command.render_long_help().to_string();
        for line in help.lines() {
            assert!(console::measure_text_width(line) <= 80, "{name}: {line}");
        }
        // Examples as well, before they are wrapped: one in two lines cannot be typed.
        let examples = command.get_after_help();
        let examples = examples.map_or_else(String::new, ToString::to_string);
        assert!(examples.contains("Example"), "{name}: {help}");
        for line in examples.lines() {
            assert!(console::measure_text_width(line) <= 80, "{name}: {line}");
        }
        let others = command
            .get_subcommands()
            .filter(|it| it.get_name() != "help");
        open.extend(others.cloned());
    }
}

fn backing_up(state: JobState) -> Job {
    let done = crate::admin::api::BackupResult {
        folder: "/backup/monday".into(),
        last: Some(crate::admin::api::Transaction {
            tid: "0x040d23ccb0000000".into(),
            time: Some(at("09:16:40")),
            user: None,
            description: None,
        }),
        transactions: 1402,
        objects: 300,
        bytes: 31 << 20,
        blobs: 1,
        blob_bytes: 4096,
        blobs_missing: 0,
    };
    Job {
        id: "backup-main-1".into(),
        kind: crate::admin::api::JobKind::Backup,
        state,
        phase: "copy".into(),
        note: None,
        bytes_per_s: 1024.0,
        backup: (state == JobState::Done).then_some(done),
        problem: (state == JobState::Failed)
            .then(|| Problem::failed("no backup was made in /backup/monday: a full disk")),
        ..crate::admin::fake::pack()
    }
}

#[test]
fn a_backup_is_watched_to_its_end() {
    let bench = Bench::new(optimal());
    *bench.daemon.jobs.lock() = [backing_up(JobState::Running), backing_up(JobState::Done)].into();
    insta::assert_snapshot!(bench.run("backup /backup/./monday/ --rate 1KiB/s"), @r#"
    exit 0
    -- stderr
    main: copy 0 %, 0 B of 80 B  1 KiB/s
    ✔ main is backed up in /backup/monday, as of 2026-11-20 09:16:40 UTC
      1 402 transactions, 300 objects, 31 MiB; 1 blob, 4 KiB
    "#);
    assert_eq!(
        bench.asked(),
        [
            "back up main /backup/monday false Some(1024)",
            "job backup-main-1"
        ]
    );
    let bench = Bench::new(optimal());
    *bench.daemon.jobs.lock() = [backing_up(JobState::Failed)].into();
    insta::assert_snapshot!(bench.run("backup /backup/monday"), @r#"
    exit 1
    -- stderr
    error: no backup was made in /backup/monday: a full disk
    "#);
    insta::assert_snapshot!(bench.run("backup --attach"), @r#"
    exit 1
    -- stderr
    error: no backup was made in /backup/monday: a full disk
    "#);
    *bench.daemon.jobs.lock() = [crate::admin::fake::pack()].into();
    insta::assert_snapshot!(bench.run("backup --cancel"), @r#"
    exit 1
    -- stderr
    error: main is not being backed up
    Next: zeoraidctl backup DIR
    "#);
    insta::assert_snapshot!(bench.run("backup monday --admin http://db.example.org:8101"), @r#"
    exit 2
    -- stderr
    error: `monday` is a folder of this machine; the backup is made on that of the daemon at http://db.example.org:8101
    Next: name the folder there from `/` on
    "#);
    *bench.daemon.jobs.lock() = [backing_up(JobState::Running)].into();
    insta::assert_snapshot!(bench.run("backup --cancel"), @r#"
    exit 0
    -- stderr
    ✔ the backup of main is cancelled; what there was of it is removed
    "#);
}

fn scrubbing(differences: u64) -> Job {
    use crate::admin::api::{ScrubDifference, ScrubResult, ScrubWhat, Transaction};
    let transaction = |tid: &str| Transaction {
        tid: tid.into(),
        time: Some(at("09:16:40")),
        user: None,
        description: None,
    };
    let listed = ScrubDifference {
        transaction: transaction("0x040d23ccb0000000"),
        oid: Some("0x000000000000002a".into()),
        what: ScrubWhat::Record,
        groups: vec![vec!["copy1".into(), "copy3".into()], vec!["copy2".into()]],
        majority: true,
    };
    let member = |name: &str| JobMember {
        name: name.into(),
        state: JobMemberState::Done,
        reason: None,
    };
    let found = ScrubResult {
        head: transaction("0x040d23ccb0000000"),
        transactions: 1402,
        blobs: 3,
        differences,
        listed: (differences > 0).then_some(listed).into_iter().collect(),
        suspects: Vec::new(),
        next: (differences > 0)
            .then(|| "zeoraidctl disable copy2; then zeoraidctl recover --rebuild copy2".into())
            .into_iter()
            .collect(),
    };
    Job {
        id: "scrub-main-1".into(),
        kind: crate::admin::api::JobKind::Scrub,
        state: JobState::Done,
        members: ["copy1", "copy2", "copy3"].map(member).into(),
        scrub: Some(found),
        ..crate::admin::fake::pack()
    }
}

#[test]
fn a_scrub_says_what_differs_where_and_what_next() {
    let bench = Bench::new(optimal());
    *bench.daemon.jobs.lock() = [scrubbing(0)].into();
    insta::assert_snapshot!(bench.run("scrub"), @r#"
    exit 0
    -- stdout
    ✔ copy1, copy2, copy3: no differences
      1 402 transactions and 3 blobs compared, up to 2026-11-20 09:16:40 UTC
    "#);
    *bench.daemon.jobs.lock() = [scrubbing(12)].into();
    insta::assert_snapshot!(bench.run("scrub --rate none"), @r#"
    exit 1
    -- stdout
    ✖ copy1, copy2, copy3: 12 differences
      1 402 transactions and 3 blobs compared, up to 2026-11-20 09:16:40 UTC

      TRANSACTION         OBJECT              WHAT    WHO HOLDS THE SAME
      0x040d23ccb0000000  0x000000000000002a  record  copy1, copy3 | copy2
                          2026-11-20 09:16:40 UTC
      and 11 more

    Next: zeoraidctl disable copy2; then zeoraidctl recover --rebuild copy2
    "#);
    insta::assert_snapshot!(bench.run("scrub --cancel"), @r#"
    exit 1
    -- stderr
    error: main is not being scrubbed
    Next: zeoraidctl scrub
    "#);
    *bench.daemon.jobs.lock() = [scrubbing(0)].into();
    insta::assert_snapshot!(bench.run("scrub --attach"), @r#"
    exit 0
    -- stdout
    ✔ copy1, copy2, copy3: no differences
      1 402 transactions and 3 blobs compared, up to 2026-11-20 09:16:40 UTC
    "#);
}

/// What can be typed in a shell for an example: no comment, and only our own program.
fn typed(example: &str) -> Vec<Vec<String>> {
    let command = example.trim().split("  ").next().unwrap_or_default();
    let words = shell_words::split(command).unwrap();
    let between = |word: &String| matches!(word.as_str(), "|" | "&&");
    words
        .split(between)
        .map(|words| {
            let end = words.iter().position(|word| word == ">");
            words[..end.unwrap_or(words.len())].to_vec()
        })
        .filter(|words| words.first().is_some_and(|word| word == "zeoraidctl"))
        .collect()
}

#[test]
fn every_command_has_examples_that_can_be_typed() {
    use clap::CommandFactory as _;

    let mut command = super::args::Cli::command();
    command.build();
    let own = command.clone();
    let commands = command
        .get_subcommands()
        .filter(|sub| sub.get_name() != "help");
    for command in commands.chain([&own]) {
        let name = command.get_name();
        let help = command.clone().render_long_help().to_string();
        let (_, examples) = help.split_once("Example").expect(name);
        let lines = examples.lines().skip(1);
        let lines = lines.take_while(|line| !line.trim().is_empty());
        let commands: Vec<_> = lines.flat_map(typed).collect();
        assert!(!commands.is_empty(), "{name}: {help}");
        for words in commands {
            if let Err(error) = own.clone().try_get_matches_from(&words) {
                panic!("{name}: {words:?}: {error}");
            }
        }
    }
}
