//! ZODB's own storage suites, and ZEO's, from the installed packages, through ZEO's client against the daemon.
//!
//! A test for each shape of array and each encoding; `tests/python/suites.py` runs the suites, and which there
//! are, with what cannot apply and why, stands in `tests/python/suites_selection.py`. Nearly all run over one
//! file in both encodings; over the other shapes runs what members can make different. With
//! `ZEORAID_SUITES=all` everything runs everywhere, which takes half an hour.

use std::collections::BTreeSet;
use std::time::Duration;

use zeoraidctl::wire::{METHODS, PUSHES};

use crate::harness::instance::ZEORAIDCTL;
use crate::harness::python::{self, Script};

/// For one shape. The slowest takes a few minutes on two cores when nothing else runs.
const PATIENCE: Duration = Duration::from_mins(45);

/// How much of the suites runs.
#[derive(Clone, Copy)]
enum Part {
    Every,
    Members,
}

fn run(shape: &str, encoding: &str, part: Part) {
    let everything = std::env::var("ZEORAID_SUITES").is_ok_and(|said| said == "all");
    let part = match part {
        _ if everything => "all",
        Part::Every => "every",
        Part::Members => "members",
    };
    let mut script = Script::spawn("suites.py", &[ZEORAIDCTL, shape, encoding, part]);
    let run = script.end(PATIENCE).ok();
    eprintln!("{}", run.stdout);
}

macro_rules! shapes {
    ($($test:ident = $shape:literal $encoding:literal $part:ident;)*) => {
        $(
            #[test]
            fn $test() {
                run($shape, $encoding, Part::$part);
            }
        )*
    };
}

shapes! {
    suites_over_one_file_in_pickles = "one_file" "Z5" Every;
    suites_over_one_file_in_msgpack = "one_file" "M5" Every;
    suites_over_two_files_in_pickles = "two_files" "Z5" Members;
    suites_over_two_files_in_msgpack = "two_files" "M5" Members;
    suites_over_two_servers_in_pickles = "two_servers" "Z5" Members;
    suites_over_two_servers_in_msgpack = "two_servers" "M5" Members;
    suites_over_a_file_and_a_server_in_pickles = "mixed" "Z5" Members;
    suites_over_a_file_and_a_server_in_msgpack = "mixed" "M5" Members;
}

#[test]
fn the_judge_of_the_suites_passes_nothing_over() {
    python::run("suites_check.py", &[]).ok();
}

/// The names of methods, as the installed ZEO has them.
fn installed(expression: &str) -> BTreeSet<String> {
    let run = python::run("methods.py", &[expression]).ok();
    let names: BTreeSet<String> = run.stdout.lines().map(str::to_owned).collect();
    assert!(!names.is_empty(), "{run}");
    names
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn every_method_of_zeos_server_is_known() {
    // ZEO lists it, and has no method of that name.
    let mut known = names(&["new_oid"]);
    known.extend(names(&METHODS));
    let missing: Vec<String> = installed("server").difference(&known).cloned().collect();
    assert!(missing.is_empty(), "ZEO's server has {missing:?}");
    assert_eq!(installed("client"), names(&PUSHES));
}
