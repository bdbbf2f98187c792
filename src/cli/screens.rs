//! What every command prints: exit code, standard output, standard error; as tables and as JSON, with
//! and without colours.

use std::time::Duration;

use super::prompt::script::Answer;
use super::testing::{Bench, array, at, behind, copying, diverged, member, out, recovery};
use crate::admin::api::{
    ArrayDetails, ArrayState, CommitLock, MemberDetails, MemberState, Problem, Recovery,
    RecoveryState, Reloaded,
};

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
        ..array(vec![member("copy1"), refused("copy2"), third])
    }
}

fn failed() -> ArrayDetails {
    ArrayDetails {
        state: ArrayState::Failed,
        line: "failed: waits for members: copy1".into(),
        serving: false,
        head: None,
        next: Some("zeoraidctl logtail".into()),
        ..array(vec![
            out("copy1", "No such file or directory"),
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
    insta::assert_snapshot!(Bench::new(optimal()).run("status"), @"");
    insta::assert_snapshot!(Bench::new(degraded()).run("status"), @"");
    insta::assert_snapshot!(Bench::new(vec![recovering()]).run("status"), @"");
    insta::assert_snapshot!(Bench::new(vec![failed()]).run("status --all"), @"");
    insta::assert_snapshot!(Bench::new(degraded()).run("status --nagios"), @"");
    insta::assert_snapshot!(Bench::new(degraded()).run("status -o json"), @"");
    insta::assert_snapshot!(Bench::new(optimal()).run("status -o yaml"), @"");
    insta::assert_snapshot!(Bench::new(optimal()).run("status -S other"), @"");
    let mut colored = Bench::new(degraded());
    colored.color = true;
    insta::assert_snapshot!(colored.run("status").escape_debug().to_string().replace("\\n", "\n"), @"");
}

#[test]
fn status_of_several_arrays_begins_with_the_worst() {
    let other = ArrayDetails {
        name: "other".into(),
        ..degraded().remove(0)
    };
    let bench = || Bench::new(vec![optimal().remove(0), other.clone()]);
    insta::assert_snapshot!(bench().run("status"), @"");
    insta::assert_snapshot!(bench().run("status -a"), @"");
    insta::assert_snapshot!(bench().run("status -S main"), @"");
    insta::assert_snapshot!(bench().run("disable copy1"), @"");
}

#[test]
fn a_daemon_that_does_not_run_is_a_state_of_its_own() {
    let bench = || {
        let bench = Bench::new(optimal());
        *bench.daemon.problem.lock() = Some(not_running());
        bench
    };
    insta::assert_snapshot!(bench().run("status"), @"");
    insta::assert_snapshot!(bench().run("status --nagios"), @"");
    insta::assert_snapshot!(bench().run("status -o json"), @"");
    insta::assert_snapshot!(bench().run("details"), @"");
    insta::assert_snapshot!(bench().run("disable copy1"), @"");
}

#[test]
fn details_say_what_happened_since_when_what_it_means_and_what_next() {
    insta::assert_snapshot!(Bench::new(optimal()).run("details"), @"");
    insta::assert_snapshot!(Bench::new(degraded()).run("details"), @"");
    insta::assert_snapshot!(Bench::new(vec![recovering()]).run("details"), @"");
    insta::assert_snapshot!(Bench::new(vec![failed()]).run("details"), @"");
}

#[test]
fn details_fit_60_columns_and_carry_the_same_facts_as_json() {
    let mut bench = Bench::new(degraded());
    bench.width = 60;
    insta::assert_snapshot!(bench.run("details"), @"");
    insta::assert_snapshot!(Bench::new(degraded()).run("details -o json"), @"");
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
    piped.presses = vec![Duration::from_secs(1), Duration::from_millis(1)];
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
    insta::assert_snapshot!(bench.run("recover --rate 50MiB/s"), @"");
    insta::assert_snapshot!(bench.asked().join("\n"), @"");
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
    insta::assert_snapshot!(bench.run("recover --interactive"), @"");
    insta::assert_snapshot!(bench.questions(), @"");
    insta::assert_snapshot!(bench.asked().join("\n"), @"");
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
    insta::assert_snapshot!(typed.run("recover -i"), @"");
    insta::assert_snapshot!(typed.questions(), @"");
    insta::assert_snapshot!(typed.asked().join("\n"), @"");

    let refused = bench(vec![Answer::Type("yes")]);
    insta::assert_snapshot!(refused.run("recover copy3 --rebuild"), @"");
    assert_eq!(refused.asked(), ["analyse main/copy3"]);
    insta::assert_snapshot!(bench(vec![]).run("recover copy3 --rebuild"), @"");
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
    insta::assert_snapshot!(bench().run("recover"), @"");
    insta::assert_snapshot!(bench().run("recover copy9"), @"");
    insta::assert_snapshot!(bench().run("recover copy2 --all"), @"");
    insta::assert_snapshot!(bench().run("recover --rate fast"), @"");
    insta::assert_snapshot!(Bench::new(optimal()).run("recover"), @"");
    insta::assert_snapshot!(Bench::new(optimal()).run("recover --attach"), @"");
    insta::assert_snapshot!(bench().run("recover --all --detach"), @"");
}

#[test]
fn ctrl_c_asks_whether_to_leave_a_recovery_or_to_cancel_it() {
    let bench = |answers: Vec<Answer>| {
        let mut bench = Bench::new(degraded()).answering(answers);
        bench.presses = vec![Duration::from_secs(25), Duration::from_secs(1)];
        *bench.daemon.recoveries.lock() = [(copying("copy2"), None)].into();
        bench
    };
    let left = bench(vec![]);
    insta::assert_snapshot!(left.run("recover"), @"");
    assert_eq!(left.asked(), ["recover main/copy2 Missing None None"]);
    // Goes on once, then cancels.
    let cancelled = bench(vec![Answer::Select(2), Answer::Select(1)]);
    insta::assert_snapshot!(cancelled.run("recover"), @"");
    insta::assert_snapshot!(cancelled.questions(), @"");
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
    insta::assert_snapshot!(bench.run("recover copy2"), @"");
}

#[test]
fn a_member_is_disabled_after_a_question_where_one_copy_remains() {
    let asked = Bench::new(optimal()).answering([Answer::Confirm(true)]);
    insta::assert_snapshot!(asked.run("disable copy2"), @"");
    insta::assert_snapshot!(asked.questions(), @"");
    insta::assert_snapshot!(Bench::new(optimal()).answering([Answer::Default]).run("disable copy2"), @"");
    insta::assert_snapshot!(Bench::new(optimal()).run("disable copy2"), @"");
    insta::assert_snapshot!(Bench::new(degraded()).run("disable copy1 --yes"), @"");
}

#[test]
fn a_reload_says_what_it_did_or_would_do() {
    let bench = Bench::new(optimal());
    insta::assert_snapshot!(bench.run("reload"), @"");
    *bench.daemon.reloaded.lock() = Reloaded {
        dry_run: false,
        added: vec!["main/copy3".into()],
        removed: vec!["main/copy2".into()],
        changed: vec!["arrays.main.cache: 64MiB -> 1GiB".into()],
        needs_restart: vec!["listen: 127.0.0.1:8100 -> 127.0.0.1:8200".into()],
    };
    insta::assert_snapshot!(bench.run("reload --dry-run"), @"");
    let mistakes =
        vec!["etc/zeoraid.yaml:3:1: `lisen` is not known; did you mean `listen`?".into()];
    let problem = Problem::configuration("the configuration has a mistake", mistakes);
    *bench.daemon.problem.lock() = Some(problem.with_next("zeoraidctl check-config"));
    insta::assert_snapshot!(bench.run("reload"), @"");
}

#[test]
fn small_commands() {
    let bench = Bench::new(optimal());
    insta::assert_snapshot!(bench.run("show"), @"");
    insta::assert_snapshot!(bench.run("show -o json log"), @"");
    insta::assert_snapshot!(bench.run("show nothing"), @"");
    insta::assert_snapshot!(bench.run("events --since 6"), @"");
    insta::assert_snapshot!(bench.run("events -o json"), @"");
    insta::assert_snapshot!(bench.run("reopen"), @"");
    insta::assert_snapshot!(bench.run("recipe list"), @"");
    insta::assert_snapshot!(bench.run("recipe options embedded"), @"");
    insta::assert_snapshot!(bench.run("recipe show nothing"), @"");
    insta::assert_snapshot!(bench.run("man nothing"), @"");
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
        open.extend(command.get_subcommands().cloned());
    }
}
