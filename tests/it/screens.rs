//! What a person at a terminal sees: the guided recovery, bars, Ctrl-C, colours.

use crate::harness::Instance;
use crate::harness::instance::PATIENCE;
use crate::harness::python::{self, Workers};
use crate::harness::terminal::{CTRL_C, DOWN, ENTER, SPACE, Terminal};
use crate::harness::{until, until_ok};

/// An array of which `copy2` was disabled and lacks 12 MB (a recovery copies a last MiB without regard
/// to the rate, since clients wait for it), and clients at work.
fn behind() -> (Instance, Workers) {
    let instance = Instance::started(&[]);
    let mut workers = Workers::start(&instance.address, &instance.beside(""), false);
    workers.wait_for_more(3);
    instance.run(&["disable", "copy2", "--yes"]).ok();
    python::run("features.py", &["bulk", &instance.address]).ok();
    workers.wait_for_more(3);
    (instance, workers)
}

/// The recovery that is being followed, at half a MiB a second: it cannot end by chance.
fn slowly(instance: &Instance) -> Terminal {
    let mut terminal = Terminal::run(instance, 90, &["recover", "copy2", "--rate", "512KiB/s"]);
    terminal.wait("copy");
    instance.wait_member("copy2", "recovering");
    terminal.wait("%");
    terminal
}

#[test]
fn the_guided_recovery_asks_recovers_and_says_how_it_ended() {
    let (instance, mut workers) = behind();
    workers.end();
    let mut terminal = Terminal::run(&instance, 120, &["recover", "--interactive"]);
    terminal.wait("Which members?");
    snapshot!(terminal.text(), @r#"
    looking at copy2 …
    ? Which members? (space chooses, enter goes on) ›
    ✔ copy2  behind by [n] transactions ([bytes])
    "#);
    terminal.press(ENTER);
    terminal.wait("How?");
    snapshot!(terminal.text(), @r#"
    looking at copy2 …
    ✔ Which members? (space chooses, enter goes on) · copy2  behind by [n] transactions ([bytes])
    times are estimates, at [bytes]/s
    ? How? ›
    ❯ copy what is missing   ([n] tx, [bytes]; about 1 s)
      copy and compare everything   (reads both copies: [bytes]; about 1 s)
      cut back or start afresh   (cuts if needed; [n] tx, [bytes]; about 1 s)
    "#);
    terminal.press(DOWN);
    terminal.press(ENTER);
    terminal.wait("Limit the rate?");
    terminal.press(ENTER);
    assert_eq!(terminal.end(), 0, "{}", terminal.text());
    // How many phases were seen depends on the machine; the last line does not.
    terminal.wait("copy2 is optimal");
    let text = terminal.text();
    let last = text.lines().last().expect("it says how it ended");
    snapshot!(last, @"✔ copy2 is optimal. The array is optimal.");
    assert!(terminal.shows_cursor());
    instance.run(&["status"]).ok().prints("optimal");
}

#[test]
fn the_guided_recovery_works_while_clients_commit() {
    let (instance, mut workers) = behind();
    let mut terminal = Terminal::run(&instance, 90, &["recover", "--interactive"]);
    for question in ["Which members?", "How?", "Limit the rate?"] {
        terminal.wait(question);
        terminal.press(ENTER);
    }
    assert_eq!(terminal.end(), 0, "{}", terminal.text());
    workers.wait_for_more(3);
    assert_eq!(workers.end().errors, 0);
    python::verify(&instance.given_back(), &workers.logs());
}

#[test]
fn whoever_chooses_no_member_changes_nothing() {
    let (instance, _workers) = behind();
    let mut terminal = Terminal::run(&instance, 90, &["recover", "--interactive"]);
    terminal.wait("Which members?");
    terminal.press(SPACE);
    terminal.press(ENTER);
    assert_eq!(terminal.end(), 0, "{}", terminal.text());
    terminal.wait("nothing was changed");
    assert_eq!(instance.member("copy2")["state"], "degraded");
}

#[test]
fn ctrl_c_at_a_question_changes_nothing_and_shows_the_cursor() {
    let (instance, _workers) = behind();
    let mut terminal = Terminal::run(&instance, 90, &["recover", "--interactive"]);
    terminal.wait("Which members?");
    terminal.press(CTRL_C);
    assert_ne!(terminal.end(), 0, "{}", terminal.text());
    until(
        "the cursor to be back",
        std::time::Duration::from_secs(5),
        || terminal.shows_cursor(),
    );
    assert_eq!(instance.member("copy2")["state"], "degraded");
}

#[test]
fn ctrl_c_while_it_recovers_leaves_it_running_when_told_so() {
    let (instance, _workers) = behind();
    let mut terminal = slowly(&instance);
    terminal.press(CTRL_C);
    terminal.wait("What about the recovery?");
    terminal.wait("leave it running");
    terminal.press(ENTER);
    assert_eq!(terminal.end(), 0, "{}", terminal.text());
    terminal.wait("recover --attach");
    assert_eq!(instance.member("copy2")["state"], "recovering");
    // And back to it, faster.
    let mut terminal = Terminal::run(&instance, 90, &["recover", "--attach", "--rate", "none"]);
    assert_eq!(terminal.end(), 0, "{}", terminal.text());
    terminal.wait("copy2 is optimal");
    instance.wait_optimal();
}

#[test]
fn ctrl_c_while_it_recovers_cancels_when_told_so_and_the_next_goes_on() {
    let (instance, _workers) = behind();
    let mut terminal = slowly(&instance);
    terminal.press(CTRL_C);
    terminal.wait("What about the recovery?");
    terminal.press(DOWN);
    terminal.press(ENTER);
    assert_eq!(terminal.end(), 1, "{}", terminal.text());
    terminal.wait("cancelled");
    instance.wait_member("copy2", "degraded");
    instance.run(&["recover", "copy2"]).ok();
    instance.wait_optimal();
}

/// What the daemon says of its recovery.
fn recovery(instance: &Instance) -> serde_json::Value {
    instance.details()["recovery"].clone()
}

#[test]
fn keys_pause_change_the_rate_and_let_it_end() {
    let (instance, _workers) = behind();
    let mut terminal = slowly(&instance);
    terminal.wait("p pause or go on   r rate   d detach   c cancel");
    terminal.press("p");
    terminal.wait("paused");
    assert_eq!(recovery(&instance)["rate"]["paused"], true);
    let done = recovery(&instance)["done"]["bytes"].clone();
    // Another key means nothing, and what is typed is not shown.
    terminal.press("x");
    terminal.press("p");
    until("it to go on", PATIENCE, || {
        recovery(&instance)["done"]["bytes"].as_u64() > done.as_u64()
    });
    assert_eq!(recovery(&instance)["rate"]["paused"], false);
    assert_eq!(recovery(&instance)["rate"]["bytes_per_second"], 512 << 10);
    terminal.press("r");
    terminal.wait("Limit the rate?");
    terminal.press("none");
    terminal.press(ENTER);
    assert_eq!(terminal.end(), 0, "{}", terminal.text());
    terminal.wait("copy2 is optimal");
    assert!(
        !terminal.text().contains("pause or go on"),
        "{}",
        terminal.text()
    );
    instance.wait_optimal();
}

#[test]
fn keys_detach_and_cancel_and_flags_do_the_same() {
    let (instance, _workers) = behind();
    let mut terminal = slowly(&instance);
    terminal.press("d");
    assert_eq!(terminal.end(), 0, "{}", terminal.text());
    terminal.wait("recover --attach");
    assert_eq!(instance.member("copy2")["state"], "recovering");
    instance.run(&["recover", "--pause"]).ok().says("is paused");
    assert_eq!(recovery(&instance)["rate"]["paused"], true);
    instance.run(&["recover", "--resume"]).ok().says("goes on");
    assert_eq!(recovery(&instance)["rate"]["paused"], false);

    let mut terminal = Terminal::run(&instance, 90, &["recover", "--attach"]);
    terminal.wait("c cancel");
    terminal.wait("%");
    terminal.press("c");
    assert_eq!(terminal.end(), 1, "{}", terminal.text());
    terminal.wait("cancelled");
    instance.wait_member("copy2", "degraded");
}

/// The rows in which a bar stands.
fn bars(terminal: &Terminal) -> Vec<String> {
    let text = terminal.text();
    let bars = text.lines().filter(|line| line.contains(" % "));
    bars.map(str::to_owned).collect()
}

#[test]
fn bars_follow_a_window_that_is_resized() {
    let (instance, _workers) = behind();
    let mut terminal = slowly(&instance);
    for columns in [200, 60, 80] {
        terminal.resize(columns);
        // A bar fills the width, but for what stands behind it.
        until_ok("a bar of the new width", PATIENCE, || {
            let shown = bars(&terminal);
            let width = shown.last().map_or(0, |bar| bar.chars().count());
            let fits = width <= usize::from(columns) && width + 30 > usize::from(columns);
            if shown.len() == 1 && fits {
                Ok(())
            } else {
                Err(format!("{columns} columns show:\n{}", terminal.text()))
            }
        });
        terminal.wait("c cancel");
    }
    terminal.press(CTRL_C);
    terminal.wait("What about the recovery?");
    terminal.press(DOWN);
    terminal.press(ENTER);
    assert_eq!(terminal.end(), 1, "{}", terminal.text());
}

#[test]
fn a_recovery_is_followed_on_any_terminal() {
    for (columns, variables, lines) in [
        (60, vec![], false),
        (200, vec![("NO_COLOR", "1")], false),
        (80, vec![("TERM", "dumb")], true),
    ] {
        let (instance, _workers) = behind();
        let args = ["recover", "copy2", "--rate", "4MiB/s"];
        let mut terminal = Terminal::run_with(&instance, columns, &args, &variables);
        terminal.wait("copy");
        if lines {
            terminal.wait("copy2: ");
        } else {
            terminal.wait("%");
        }
        assert_eq!(terminal.end(), 0, "{}", terminal.text());
        terminal.wait("copy2 is optimal");
        let text = terminal.text();
        assert!(
            text.lines()
                .all(|line| line.chars().count() <= usize::from(columns)),
            "{text}"
        );
        if !variables.is_empty() {
            assert!(!terminal.has_colour(), "{variables:?}: {text}");
        }
        assert!(terminal.shows_cursor());
    }
}

#[test]
fn a_terminal_has_colours_unless_it_is_told_otherwise() {
    let instance = Instance::started(&[]);
    for (variables, args, colour) in [
        (vec![], vec!["details"], true),
        (vec![("NO_COLOR", "1")], vec!["details"], false),
        (vec![], vec!["details", "--color", "never"], false),
        (
            vec![("NO_COLOR", "1")],
            vec!["details", "--color", "always"],
            true,
        ),
        (vec![("TERM", "dumb")], vec!["details"], false),
    ] {
        let mut terminal = Terminal::run_with(&instance, 80, &args, &variables);
        assert_eq!(terminal.end(), 0);
        terminal.wait("copy2");
        assert_eq!(terminal.has_colour(), colour, "{variables:?} {args:?}");
    }
}

#[test]
fn details_fit_eighty_columns_and_a_terminal_shows_what_a_pipe_does() {
    let instance = Instance::started(&[]);
    let piped = instance.run(&["details"]).ok().stdout;
    let mut terminal = Terminal::run(&instance, 80, &["details"]);
    assert_eq!(terminal.end(), 0);
    terminal.wait("copy2");
    let shown = terminal.text();
    snapshot!(shown, @r#"
    Array main  ● optimal   serving [address]   since [since]
      no transaction yet   [n] objects   [bytes]
      [n] clients   [n] loads/s   [n] commits/s   commit lock free   membership no. 1

      MEMBER  STATE      TYPE  WHERE  LATENCY  LAG
      copy1   ● optimal  file  var/copy1/Data.fs  [latency]  -
      copy2   ● optimal  file  var/copy2/Data.fs  [latency]  -

    Note: copy1 and copy2 are on the same disk: when it fails, both are lost.
    "#);
    assert!(
        piped.lines().all(|line| line.chars().count() <= 80),
        "{piped}"
    );
    assert!(!piped.contains('\x1b'), "{piped}");
}

#[test]
fn details_watch_shows_a_change_as_it_happens_and_ends_with_ctrl_c() {
    let instance = Instance::started(&[]);
    let mut terminal = Terminal::run(&instance, 80, &["details", "--watch"]);
    terminal.wait("optimal");
    instance.run(&["disable", "copy2", "--yes"]).ok();
    terminal.wait("degraded");
    terminal.press(CTRL_C);
    terminal.end();
    until(
        "the cursor to be back",
        std::time::Duration::from_secs(5),
        || terminal.shows_cursor(),
    );
}

/// A stopped process takes connections and says nothing.
#[test]
fn details_watch_says_that_nobody_answers_and_ends_with_ctrl_c() {
    let instance = Instance::started(&[]);
    let mut terminal = Terminal::run(&instance, 80, &["details", "--watch"]);
    terminal.wait("optimal");
    instance.freeze();
    terminal.wait("no answer from the daemon");
    terminal.press(CTRL_C);
    assert_eq!(terminal.end(), 3, "{}", terminal.text());

    let mut terminal = Terminal::run(&instance, 80, &["details", "--watch"]);
    terminal.wait("no answer from the daemon");
    terminal.press(CTRL_C);
    assert_eq!(terminal.end(), 3, "{}", terminal.text());
    // Nor is an answer waited for that does not come.
    let mut terminal = Terminal::run(&instance, 80, &["details", "--watch"]);
    terminal.press(CTRL_C);
    terminal.end();
}

#[test]
fn disabling_the_last_but_one_asks() {
    let instance = Instance::started(&[]);
    let mut terminal = Terminal::run(&instance, 90, &["disable", "copy2"]);
    terminal.wait("?");
    snapshot!(terminal.text(), @"? Only copy1 will hold every transaction. Take out copy2? (y/n) › no");
    terminal.press(CTRL_C);
    assert_ne!(terminal.end(), 0);
    assert_eq!(instance.member("copy2")["state"], "optimal");
}

#[test]
fn a_backup_is_left_with_ctrl_c_found_again_and_cancelled() {
    let instance = Instance::started(&[]);
    let mut workers = Workers::start(&instance.address, &instance.beside(""), false);
    workers.wait_for_more(10);
    workers.end();
    let folder = instance.beside("monday");
    let folder = folder.to_str().expect("a plain path");
    let args = ["backup", folder, "--rate", "10B/s"];
    let mut terminal = Terminal::run(&instance, 80, &args);
    terminal.wait("main     copy");
    terminal.press(CTRL_C);
    terminal.wait("What about the backup?");
    terminal.press(ENTER);
    assert_eq!(terminal.end(), 0, "{}", terminal.text());
    assert!(terminal.text().contains("zeoraidctl backup --attach"));
    assert!(terminal.shows_cursor());
    let mut terminal = Terminal::run(&instance, 80, &["backup", "--attach"]);
    terminal.wait("main     copy");
    terminal.press(CTRL_C);
    terminal.wait("What about the backup?");
    terminal.press(DOWN);
    terminal.press(ENTER);
    assert_eq!(terminal.end(), 1, "{}", terminal.text());
    assert!(
        terminal.text().contains("is cancelled"),
        "{}",
        terminal.text()
    );
    assert!(!instance.beside("monday").exists());
}
