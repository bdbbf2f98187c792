//! Somebody else is there already: at the port, in the instance, at the files.

use std::fs;
use std::net::TcpListener;

use crate::harness::instance::{PATIENCE, Run};
use crate::harness::python::{self, Script, Workers};
use crate::harness::{Instance, until_ok};

#[test]
fn a_port_in_use_is_told_and_nothing_is_left_behind() {
    let instance = Instance::made(&[]);
    let listener = TcpListener::bind(&instance.address).expect("the port is free");
    let run = instance.start().ended(1);
    assert!(run.stderr.contains(&instance.address), "{run}");
    assert!(run.stderr.to_lowercase().contains("in use"), "{run}");
    assert!(instance.pid().is_none(), "it does not run");
    drop(listener);
    instance.start().ok();
    python::run("features.py", &["plain_visit", &instance.address]).ok();
}

#[test]
fn a_second_daemon_of_an_instance_does_not_start() {
    let instance = Instance::started(&[]);
    let pid = instance.pid().expect("a daemon runs");
    instance.start().ok().says("runs already");
    let run = instance.run(&["fg"]).ended(1);
    assert!(
        run.stderr.contains(&pid.to_string()),
        "it names the one that runs: {run}"
    );
    assert_eq!(
        instance.pid(),
        Some(pid),
        "the first one is still the daemon"
    );
    python::run("features.py", &["plain_visit", &instance.address]).ok();
    instance.run(&["status"]).ok().prints("optimal");
}

/// Another instance whose members are our files: it must not open them.
#[test]
fn a_second_daemon_on_the_same_files_does_not_serve() {
    let instance = Instance::started(&[]);
    let mut workers = Workers::start(&instance.address, &instance.beside(""), false);
    workers.wait_for_more(3);
    let paths = format!(
        "paths={},{}",
        instance.copy(1).display(),
        instance.copy(2).display()
    );
    let other = Instance::made(&[&paths]);
    let run = other.run(&["start", "--timeout", "3s"]).ended(1);
    assert!(run.stderr.contains("in use"), "{run}");
    let details = other.run(&["details"]).ended(2);
    assert!(details.stdout.contains("in use"), "{details}");
    other.stop().ok();
    workers.wait_for_more(3);
    let totals = workers.end();
    assert_eq!(totals.errors, 0);
    python::verify(&instance.given_back(), &workers.logs());
}

/// Python has one of the copies open: the array serves from the other, and takes this one back when
/// Python leaves.
#[test]
fn a_copy_that_python_has_open_waits_until_it_is_free() {
    let instance = Instance::started(&[]);
    python::run("features.py", &["plain_visit", &instance.address]).ok();
    instance.stop().ok();
    let data = instance.copy(2);
    let mut holder = Script::spawn("hold.py", &[data.to_str().expect("a plain path")]);
    holder.wait_printed("open");
    instance.start().ok();
    let member = instance.wait_member("copy2", "degraded");
    let reason = member["reason"].as_str().expect("a reason");
    assert!(reason.contains("in use"), "{reason}");
    python::run("features.py", &["plain_visit", &instance.address]).ok();
    holder.end(std::time::Duration::from_secs(30)).ok();
    instance.wait_optimal();
    python::verify(&instance.given_back(), &[]);
}

/// And the other way round: Python does not open what the daemon has.
#[test]
fn python_does_not_open_what_the_daemon_has() {
    let instance = Instance::started(&[]);
    let data = instance.copy(1);
    let run = python::run("hold.py", &[data.to_str().expect("a plain path")]);
    assert_ne!(run.code, 0, "{run}");
    assert!(run.stderr.contains("LockError"), "{run}");
    python::run("features.py", &["plain_visit", &instance.address]).ok();
}

#[test]
fn a_folder_that_cannot_be_written_is_told() {
    let instance = Instance::made(&[]);
    fs::remove_dir_all(instance.path("var")).expect("init made it");
    fs::write(instance.path("var"), "a file, not a folder").expect("writing");
    let run = instance.start().ended(1);
    assert!(run.stderr.contains("var"), "{run}");
}

#[test]
fn a_start_beside_a_daemon_that_does_not_serve_says_which_array_and_why() {
    let instance = Instance::started(&[]);
    instance.wait_optimal();
    instance.stop().ok();
    let copies = [instance.copy(1), instance.copy(2)];
    for copy in &copies {
        fs::rename(copy, copy.with_extension("away")).expect("it can be moved");
    }
    instance.run(&["start", "--no-wait"]).ok();
    until_ok("the start to say what it waits for", PATIENCE, || {
        let details = instance.try_details()?;
        let line = details["line"].as_str().unwrap_or_default();
        let both = copies
            .iter()
            .all(|copy| line.contains(&copy.display().to_string()));
        if both {
            Ok(())
        } else {
            Err(format!("{details:#}"))
        }
    });
    let told = |run: &Run| {
        let said = &run.stderr;
        assert!(said.contains("the daemon runs already; pid="), "{run}");
        assert!(
            said.contains("and does not serve: main: failed: starting, waits for copy1"),
            "{run}"
        );
        assert!(
            said.contains("is its disk mounted, or was it moved?"),
            "{run}"
        );
        assert!(said.contains("Next: bring back copy1 or copy2"), "{run}");
    };
    told(&instance.run(&["start", "--no-wait"]).ok());
    told(&instance.run(&["start"]).ended(1));
    let forced = instance
        .run(&["start", "--no-wait", "--force", "--yes"])
        .ended(1);
    assert!(forced.stderr.contains("nothing was forced"), "{forced}");
    for copy in &copies {
        fs::rename(copy.with_extension("away"), copy).expect("it can be moved back");
    }
    instance.wait_optimal();
    instance.start().ok().says("runs already");
}
