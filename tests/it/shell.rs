//! The prompt, at a terminal and from a pipe.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use crate::harness::Instance;
use crate::harness::instance::command;
use crate::harness::terminal::{CTRL_C, CTRL_D, ENTER, TAB, Terminal, UP};

/// A prompt whose history lies beside the instance.
fn prompt(instance: &Instance, args: &[&str], more: &[(&str, &str)]) -> Terminal {
    let state = instance.beside("state");
    let mut variables = vec![("XDG_STATE_HOME", state.to_str().expect("a plain path"))];
    variables.extend(more);
    Terminal::run_with(instance, 80, args, &variables)
}

const OPTIMAL: &str = "zeoraid main: optimal>";
const DEGRADED: &str = "zeoraid main: degraded>";
const NOT_RUNNING: &str = "zeoraid main: not running>";

#[test]
fn the_prompt_shows_the_state_completes_and_survives_errors() {
    let instance = Instance::started(&[]);
    let mut terminal = prompt(&instance, &[], &[]);
    terminal.wait_prompt(OPTIMAL);
    terminal.press("disa");
    terminal.press(TAB);
    terminal.wait("> disable");
    terminal.press("cop");
    terminal.press(TAB);
    terminal.wait("> disable copy");
    terminal.press(TAB);
    terminal.wait("copy1  copy2");
    terminal.press("2 --y");
    terminal.press(TAB);
    terminal.wait("> disable copy2 --yes");
    terminal.press(ENTER);
    terminal.wait("copy2 is out");
    terminal.wait_prompt(DEGRADED);
    // The daemon knows better.
    terminal.enter("disable copy1 --yes");
    terminal.wait("last optimal member");
    terminal.wait_prompt(DEGRADED);
    terminal.enter("nonsense");
    terminal.wait("unrecognized subcommand");
    terminal.wait_prompt(DEGRADED);
    terminal.enter("status 'open");
    terminal.wait("a quotation mark is not closed");
    terminal.wait_prompt(DEGRADED);
    // Ctrl-C takes the line away, and nothing else.
    terminal.press("stop");
    terminal.wait("> stop");
    terminal.press(CTRL_C);
    terminal.wait_prompt(DEGRADED);
    terminal.enter("status -o json");
    terminal.wait("\"state\": \"degraded\"");
    terminal.wait_prompt(DEGRADED);
    terminal.enter("recover copy2");
    terminal.wait("The array is optimal.");
    terminal.wait_prompt(OPTIMAL);
    terminal.enter("help recover");
    // Its end, on a screen that is not long.
    terminal.wait("zeoraidctl recover --cancel");
    terminal.wait_prompt(OPTIMAL);
    terminal.press(CTRL_D);
    assert_eq!(terminal.end(), 0, "{}", terminal.text());
    instance.run(&["status"]).ok().prints("optimal");
}

#[test]
fn what_was_typed_is_there_again_in_the_next_session() {
    let instance = Instance::made(&[]);
    let mut terminal = prompt(&instance, &["shell"], &[]);
    terminal.wait_prompt(NOT_RUNNING);
    terminal.enter("check-config");
    terminal.wait("no mistakes");
    terminal.wait_prompt(NOT_RUNNING);
    terminal.press("quit");
    terminal.press(ENTER);
    assert_eq!(terminal.end(), 0, "{}", terminal.text());
    let history = instance.beside("state").join("zeoraidctl/history");
    let kept = fs::read_to_string(&history).expect("the history is kept");
    assert!(kept.contains("check-config"), "{kept}");

    let mut terminal = prompt(&instance, &["shell"], &[]);
    terminal.wait_prompt(NOT_RUNNING);
    terminal.press(UP);
    terminal.wait("> quit");
    terminal.press(UP);
    terminal.wait("> check-config");
    terminal.press(ENTER);
    terminal.wait("no mistakes");
    terminal.wait_prompt(NOT_RUNNING);
    terminal.press(CTRL_D);
    assert_eq!(terminal.end(), 0, "{}", terminal.text());
}

#[test]
fn global_options_hold_for_the_session_and_a_line_can_say_otherwise() {
    let instance = Instance::started(&[]);
    let mut terminal = prompt(&instance, &["-o", "yaml"], &[("NO_COLOR", "1")]);
    terminal.wait_prompt(OPTIMAL);
    assert!(!terminal.has_colour());
    terminal.enter("status");
    terminal.wait("state: optimal");
    terminal.wait_prompt(OPTIMAL);
    terminal.enter("status -o json");
    terminal.wait("\"state\": \"optimal\"");
    terminal.wait_prompt(OPTIMAL);
    terminal.enter("-S other");
    terminal.wait_prompt("zeoraid other>");
    terminal.enter("details");
    terminal.wait("there is no array other");
    terminal.wait_prompt("zeoraid other>");
    terminal.enter("-S main");
    terminal.wait_prompt(OPTIMAL);
    terminal.press(CTRL_D);
    assert_eq!(terminal.end(), 0, "{}", terminal.text());
}

#[test]
fn commands_that_ctrl_c_ends_come_back_to_the_prompt() {
    let instance = Instance::started(&[]);
    let mut terminal = prompt(&instance, &[], &[]);
    terminal.wait_prompt(OPTIMAL);
    terminal.enter("events -f --since 0");
    terminal.wait("serving from");
    terminal.press(CTRL_C);
    terminal.wait_prompt(OPTIMAL);
    terminal.enter("stop");
    terminal.wait("the daemon is stopped");
    terminal.wait_prompt(NOT_RUNNING);
    // The daemon in the foreground ends, and the prompt stays.
    terminal.enter("fg");
    terminal.wait("started");
    terminal.press(CTRL_C);
    terminal.wait("ended");
    terminal.wait_prompt(NOT_RUNNING);
    terminal.press(CTRL_D);
    assert_eq!(terminal.end(), 0, "{}", terminal.text());
}

#[test]
fn a_dumb_terminal_has_a_prompt_too() {
    let instance = Instance::made(&[]);
    let mut terminal = prompt(&instance, &[], &[("TERM", "dumb")]);
    terminal.wait_prompt(NOT_RUNNING);
    terminal.enter("check-config");
    terminal.wait("no mistakes");
    terminal.wait_prompt(NOT_RUNNING);
    terminal.press(CTRL_D);
    assert_eq!(terminal.end(), 0, "{}", terminal.text());
    assert!(!terminal.has_colour());
}

/// What a script of these lines prints, and its exit code.
fn script(instance: &Instance, lines: &str) -> (i32, String) {
    let mut child = command()
        .arg("-C")
        .arg(instance.root())
        .arg("shell")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin
        .write_all(lines.as_bytes())
        .expect("the program reads");
    drop(stdin);
    let output = child.wait_with_output().expect("the program ends");
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

#[test]
fn a_script_runs_line_by_line_and_ends_at_the_first_that_fails() {
    let instance = Instance::made(&[]);
    let (code, said) = script(
        &instance,
        "# what is to be done\n\ncheck-config\nrecover copy2\nshow\n",
    );
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("no mistakes"), "{said}");
    assert!(said.contains("no daemon runs"), "{said}");
    assert!(said.contains("ended at line 4"), "{said}");
    assert!(
        !said.contains("pid_file"),
        "what follows is not done: {said}"
    );

    let (code, said) = script(&instance, "check-config\nquit\nnonsense\n");
    assert_eq!(code, 0, "{said}");
    let (code, said) = script(&instance, "nonsense");
    assert_eq!(code, 2, "{said}");
    // An answer that is no good news is no failure; the last one is the exit code.
    let (code, said) = script(&instance, "status\nhelp\nstatus\n");
    assert_eq!(code, 3, "{said}");
    assert!(
        said.contains("check-config  Look for mistakes") || said.contains("check-config"),
        "{said}"
    );
}

#[test]
fn no_command_and_no_terminal_is_wrong_usage() {
    let instance = Instance::made(&[]);
    let run = instance.run(&[]).ended(2);
    assert!(run.stderr.contains("Usage: zeoraidctl"), "{run}");
}
