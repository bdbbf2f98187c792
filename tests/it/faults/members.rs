//! Members that come back as something else, or not at all, and from which an array may start.

use std::fs;
use std::time::{Duration, Instant};

use crate::harness::instance::PATIENCE;
use crate::harness::python;
use crate::harness::{Lab, LabSetup, until_ok};

const THREE: LabSetup = LabSetup::THREE;

/// What a member is when the daemon starts.
#[derive(Debug, Clone, Copy)]
enum Found {
    /// Nobody listens.
    Away,
    /// It accepts, and never answers.
    Hanging,
    /// An old copy of itself, from a backup.
    Stale,
    Empty,
    /// It was out, and has a transaction that the array does not have.
    Diverged,
    /// Another database.
    Swapped,
}

/// How it ends.
#[derive(Debug, Clone, Copy)]
enum Ends {
    /// It is recovered as soon as it is there.
    BySelf,
    /// It waits for its operator, with this in the reason.
    Waits(&'static str),
}

impl Found {
    /// Why it is out after the start: one of these.
    fn reasons(self) -> &'static [&'static str] {
        match self {
            Found::Away => &["cannot connect to "],
            Found::Hanging => &["was not open in time at the start", "no answer to "],
            Found::Stale | Found::Empty => &["behind at the start"],
            Found::Diverged => &["disabled by an operator"],
            Found::Swapped => &["it is not a copy of this array"],
        }
    }
}

/// How long the start may take with the others: it leaves a member three seconds to open, and compares the rest;
/// two cores may be busy with other tests. A member that hangs fails to open after ten.
const SERVES_WITHIN: Duration = Duration::from_secs(8);

fn start_with(found: Found, ends: Ends, settings: &'static str) {
    start_of(LabSetup { settings, ..THREE }, found, ends);
}

/// Makes an array with a history, changes its last server while nothing runs, and starts.
fn start_of(setup: LabSetup, found: Found, ends: Ends) {
    let mut lab = Lab::started(setup);
    let last = setup.servers - 1;
    let name = lab.servers[last].name.clone();
    let name = name.as_str();
    let mut workers = lab.workers(2);
    workers.wait_for_more(3);
    let old = lab.instance.beside("old");
    // As a backup is made: of a server that stands still.
    lab.instance.run(&["disable", name, "--yes"]).ok();
    lab.instance.wait_member(name, "degraded");
    lab.servers[last].stop();
    lab.servers[last].save(&old);
    lab.servers[last].start();
    lab.instance.run(&["recover", name]).ok();
    workers.wait_for_more(3);
    if matches!(found, Found::Diverged) {
        lab.instance.run(&["disable", name, "--yes"]).ok();
        workers.wait_for_more(2);
    }
    workers.end();
    lab.instance.stop().ok();
    lab.servers[last].stop();
    match found {
        Found::Away | Found::Hanging => {}
        Found::Stale => lab.servers[last].put(&old.join("Data.fs"), Some(&old.join("blobs"))),
        Found::Empty => lab.servers[last].empty(),
        Found::Diverged => {
            let data = lab.servers[last].data();
            python::run("lone.py", &["add", data.to_str().expect("a plain path")]).ok();
        }
        Found::Swapped => {
            lab.servers[last].empty();
            let data = lab.servers[last].data();
            python::run("lone.py", &["make", data.to_str().expect("a plain path")]).ok();
        }
    }
    if !matches!(found, Found::Away) {
        lab.servers[last].start();
    }
    if matches!(found, Found::Hanging) {
        lab.servers[last].freeze();
    }

    // The others serve at once.
    let mark = lab.mark();
    let began = Instant::now();
    lab.instance.start().ok();
    let took = began.elapsed();
    assert!(took <= SERVES_WITHIN, "it serves after {took:?}");
    if matches!(found, Found::Diverged) {
        // The record says so; there is nothing to find out.
        let member = lab.instance.member(name);
        assert_eq!(member["reason"], found.reasons()[0], "{member:#}");
    } else {
        lab.wait_taken_out(name, mark, found.reasons());
    }
    let mut workers = lab.workers(2);
    workers.wait_for_more(2);
    match found {
        Found::Away => lab.servers[last].start(),
        Found::Hanging => lab.servers[last].thaw(),
        _ => {}
    }
    if matches!(found, Found::Diverged) {
        lab.instance
            .run(&["recover", name])
            .ended(1)
            .says("diverged");
    }
    match ends {
        Ends::BySelf => {}
        Ends::Waits(reason) => {
            let member = until_ok("the reason", PATIENCE, || {
                let member = lab.instance.member(name);
                let said = member["reason"].as_str().unwrap_or_default();
                if member["state"] == "degraded" && said.contains(reason) {
                    Ok(member)
                } else {
                    Err(format!("{member:#}"))
                }
            });
            // What its operator must do is said.
            assert!(member["outlook"].is_string(), "{member:#}");
            workers.wait_for_more(1);
            // And done: a ZEO server is emptied by its operator.
            lab.servers[last].stop();
            lab.servers[last].empty();
            lab.servers[last].start();
            until_ok("the recovery of an emptied member", PATIENCE, || {
                let run = lab.instance.run(&["recover", name, "--yes"]);
                if run.code == 0 {
                    Ok(())
                } else {
                    Err(run.to_string())
                }
            });
        }
    }
    lab.instance.wait_optimal();
    workers.wait_for_more(1);
    let totals = workers.end();
    crate::harness::lab::assert_unnoticed(&totals);
    lab.compare(&[]);
}

#[test]
fn it_starts_without_a_member_that_is_away() {
    start_with(Found::Away, Ends::BySelf, "");
}

#[test]
fn it_starts_without_a_member_that_hangs() {
    start_with(Found::Hanging, Ends::BySelf, "");
}

#[test]
fn a_member_restored_from_a_backup_is_brought_up_to_date() {
    start_with(Found::Stale, Ends::BySelf, "");
}

#[test]
fn a_member_that_was_emptied_is_filled() {
    start_with(Found::Empty, Ends::BySelf, "");
}

#[test]
fn a_member_with_a_transaction_of_its_own_waits_for_its_operator() {
    start_with(Found::Diverged, Ends::Waits("diverged"), "");
}

#[test]
fn a_member_that_is_another_database_waits_for_its_operator() {
    start_with(Found::Swapped, Ends::Waits("not a copy of this array"), "");
}

const SERVER_AND_FILE: LabSetup = LabSetup {
    servers: 1,
    files: 1,
    ..THREE
};

#[test]
fn a_stale_server_beside_a_file_is_brought_up_to_date() {
    start_of(SERVER_AND_FILE, Found::Stale, Ends::BySelf);
}

#[test]
fn it_starts_from_a_file_while_the_only_server_hangs() {
    start_of(SERVER_AND_FILE, Found::Hanging, Ends::BySelf);
}

#[test]
fn a_swapped_server_beside_another_and_a_file_waits_for_its_operator() {
    let setup = LabSetup {
        servers: 2,
        files: 1,
        ..THREE
    };
    start_of(
        setup,
        Found::Swapped,
        Ends::Waits("not a copy of this array"),
    );
}

#[test]
fn with_the_policy_majority_two_of_three_are_enough() {
    start_with(Found::Away, Ends::BySelf, "start_policy: majority");
}

#[test]
fn with_the_policy_majority_a_stale_member_is_not_the_majority() {
    start_with(Found::Stale, Ends::BySelf, "start_policy: majority");
}

#[test]
fn with_the_policy_newest_a_stale_member_is_not_the_newest() {
    start_with(Found::Stale, Ends::BySelf, "start_policy: newest");
}

/// Only the member that was left out is there: what each policy makes of it.
fn only_the_stale_one_is_there(settings: &'static str) {
    let setup = LabSetup { settings, ..THREE };
    let mut lab = Lab::started(setup);
    let mut workers = lab.workers(2);
    workers.wait_for_more(2);
    lab.servers[2].kill9();
    lab.instance.wait_member("zeo3", "degraded");
    workers.wait_for_more(2);
    workers.end();
    lab.instance.stop().ok();
    lab.servers[0].stop();
    lab.servers[1].stop();
    lab.servers[2].start();
    let run = lab.instance.run(&["start", "--timeout", "15s"]);
    assert_ne!(run.code, 0, "it does not serve, and says so: {run}");
    let details = lab.instance.details();
    assert_eq!(details["serving"], false, "{details:#}");
    let line = details["line"].as_str().unwrap_or_default();
    assert!(
        line.contains("zeo1") || line.contains("a copy that holds everything"),
        "it says what it waits for: {line}"
    );
    lab.servers[0].start();
    lab.servers[1].start();
    lab.instance.wait_optimal();
    lab.compare(&workers.logs());
}

#[test]
fn in_sync_does_not_serve_from_a_member_that_was_left_out() {
    only_the_stale_one_is_there("");
}

#[test]
fn majority_does_not_serve_from_one_of_three() {
    only_the_stale_one_is_there("start_policy: majority");
}

/// What the record knows to be acknowledged is not given up for a policy: that takes `--force`.
#[test]
fn newest_does_not_serve_from_what_is_known_to_be_stale() {
    only_the_stale_one_is_there("start_policy: newest");
}

#[test]
fn by_force_it_serves_from_what_is_there() {
    let mut lab = Lab::started(THREE);
    let mut workers = lab.workers(2);
    workers.wait_for_more(2);
    lab.servers[2].kill9();
    lab.instance.wait_member("zeo3", "degraded");
    workers.wait_for_more(2);
    workers.end();
    lab.instance.stop().ok();
    lab.servers[0].stop();
    lab.servers[1].stop();
    lab.servers[2].start();
    lab.instance
        .run(&["start", "--force"])
        .ended(2)
        .says("--yes");
    lab.instance.run(&["start", "--force", "--yes"]).ok();
    lab.instance.wait_member("zeo3", "optimal");
    assert_eq!(lab.instance.details()["serving"], true);
}

/// The original's example: 1, 2, 3 becomes 1, 3, 4, 5 while clients work.
#[test]
fn members_come_and_go_while_clients_work() {
    let setup = LabSetup {
        servers: 5,
        ..THREE
    };
    let mut lab = Lab::new(setup);
    lab.configure(&lab.instance, &[0, 1, 2]);
    lab.instance.start().ok();
    lab.instance.wait_optimal();
    let mut workers = lab.workers(2);
    workers.wait_for_more(2);

    // What cannot be read changes nothing.
    let good = fs::read_to_string(lab.instance.config()).expect("it was written");
    fs::write(lab.instance.config(), "arrays: [\n").expect("writing the configuration");
    lab.instance.run(&["reload"]).ended(1).says("not YAML");
    fs::write(lab.instance.config(), &good).expect("writing the configuration");
    // Nor does what would leave no optimal member.
    lab.configure(&lab.instance, &[3, 4]);
    let refused = lab.instance.run(&["reload"]).ended(1);
    assert!(refused.stderr.contains("optimal"), "{refused}");
    assert_eq!(names(&lab), ["zeo1", "zeo2", "zeo3"]);
    workers.wait_for_more(1);

    lab.configure(&lab.instance, &[0, 2, 3, 4]);
    let run = lab.instance.run(&["reload", "--dry-run"]).ok();
    assert!(run.stdout.contains("main/zeo4 would be added"), "{run}");
    assert_eq!(names(&lab), ["zeo1", "zeo2", "zeo3"], "it was only asked");
    let run = lab.instance.run(&["reload"]).ok();
    assert!(run.stdout.contains("main/zeo2 removed"), "{run}");
    lab.instance.wait_optimal();
    assert_eq!(names(&lab), ["zeo1", "zeo3", "zeo4", "zeo5"]);
    workers.wait_for_more(2);
    // The one that was removed is a server like any other again: nobody is connected to it.
    lab.servers[1].stop();
    workers.wait_for_more(1);

    lab.instance.wait_optimal();
    let totals = workers.end();
    crate::harness::lab::assert_unnoticed(&totals);
    lab.instance.stop().ok();
    for server in &mut lab.servers {
        server.stop();
    }
    let copies: Vec<_> = [0, 2, 3, 4]
        .iter()
        .map(|index| lab.servers[*index].data())
        .collect();
    python::verify_with(&copies, &workers.logs(), &["--blobs"]);
}

fn names(lab: &Lab) -> Vec<String> {
    let details = lab.instance.details();
    let members = details["members"].as_array().expect("members are a list");
    members
        .iter()
        .map(|member| member["name"].as_str().unwrap_or_default().to_owned())
        .collect()
}
