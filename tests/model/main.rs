//! A model of the array: membership, commit, start and recovery, with one daemon or two, explored
//! exhaustively within small bounds.
//!
//! The model says again, in a few hundred lines, what `src/raid/controller`, `runner.rs`, `recovery` and
//! `foreign.rs` decide, and puts it into a world in which anything may fail at any moment. What is tried at
//! random elsewhere (`raid/controller/simulation.rs`, `raid/coop`) is here tried in every order there is.
//!
//! | file | what |
//! | --- | --- |
//! | `state.rs` | the world: members' copies, daemons, records |
//! | `bounds.rs` | how many of everything, what may fail, and deliberate bugs |
//! | `commit.rs` `membership.rs` `recovery.rs` `coop.rs` | what a daemon does, file by file as the code |
//! | `steps.rs` | which steps are possible, and what members do by themselves |
//! | `properties.rs` `progress.rs` | what must hold always, and what must stay possible |
//! | `names.rs` | the transitions, which `// MODEL: Name` marks in the code |
//!
//! A transaction is a bit and a history a set of bits, because every history is in TID order. A member
//! crashes and is back at once: to be away is not to be opened. What is written is not durable before it is
//! synced; a server does both at once, and may finish late what it was asked for by a daemon that is dead or
//! has given it up. A record is written and reported in two steps. Clocks of two daemons differ: each may
//! choose any TID that is free and later than what it has given.
//!
//! Not in the model: objects and conflicts (members that answer differently to a vote), packing, several
//! arrays, changes of the configuration, `--force`, and time: whatever has a limit may happen at any moment
//! or never.
//!
//! `cargo test --test model` explores what is done in some seconds. `cargo test --release --test model --
//! --ignored --nocapture` explores more (ten minutes and some GB), and says what it costs. A way to a
//! state that breaks a promise is told step by step, as short as it can be; where members or daemons differ
//! in nothing but names they are renamed on the way.

#![expect(
    clippy::print_stderr,
    reason = "an exploration says what it cost, and the way to what is wrong"
)]

mod bounds;
mod commit;
mod coop;
mod membership;
mod names;
mod progress;
mod properties;
mod recovery;
mod state;
mod steps;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use stateright::{Checker as _, HasDiscoveries, Model as _};

use bounds::{Array, Bug, Policy};
use properties::SOMETIMES;
use state::{Left, World};
use steps::{Does, Step};

const NONE: Left = Left {
    daemon_crashes: 0,
    member_crashes: 0,
    cuts: 0,
    record_faults: 0,
    disables: 0,
    old_copies: 0,
};
const CRASH: Left = Left {
    daemon_crashes: 1,
    ..NONE
};
const CUT: Left = Left { cuts: 1, ..NONE };
const CRASH_AND_CUT: Left = Left { cuts: 1, ..CRASH };

/// How a promise is broken.
struct Broken {
    promise: &'static str,
    /// The shortest way there.
    steps: Vec<Step>,
    world: World,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}:", self.promise)?;
        for step in &self.steps {
            writeln!(f, "    {step:?}")?;
        }
        write!(f, "{:#?}", self.world)
    }
}

/// What breaks a promise, with the way to it. Says what the exploration cost.
fn explore(name: &str, model: &Array) -> Option<Broken> {
    let start = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let failures = HasDiscoveries::AnyFailures;
    let checker = model.clone().checker().threads(threads);
    let checker = checker.finish_when(failures).spawn_bfs().join();
    let (unique, states) = (checker.unique_state_count(), checker.state_count());
    let (depth, took) = (checker.max_depth(), start.elapsed().as_secs_f64());
    eprintln!("{name}: {unique} states, {states} steps, depth {depth}, {took:.1} s");
    let mut discoveries = checker.discoveries().into_iter();
    let broken = discoveries.find(|(property, _)| *property != SOMETIMES);
    broken.map(|(promise, path)| {
        let world = *path.last_state();
        let steps = path.into_actions();
        Broken {
            promise,
            steps,
            world,
        }
    })
}

/// Explores everything, and wants every promise kept and a good end reached.
fn holds(name: &str, model: &Array) {
    if let Some(broken) = explore(name, model) {
        panic!("{name}: {broken}");
    }
    let checker = model.clone().checker().threads(1);
    let good = HasDiscoveries::AnyOf(BTreeSet::from([SOMETIMES]));
    let checker = checker.finish_when(good).spawn_bfs().join();
    assert!(
        checker.discovery(SOMETIMES).is_some(),
        "{name}: {SOMETIMES}"
    );
}

fn with(may_fail: Left, model: Array) -> Array {
    Array { may_fail, ..model }
}

/// With a single transaction.
fn one(model: Array) -> Array {
    Array {
        transactions: 1,
        ..model
    }
}

const OLD_SERVER: &str = "2 servers, an old copy";

/// What is explored each time.
fn small() -> Vec<(&'static str, Array)> {
    let record = Left {
        record_faults: 1,
        ..CUT
    };
    let operator = Left {
        disables: 1,
        ..CRASH
    };
    let old = Left {
        old_copies: 1,
        ..CRASH
    };
    let restart = Left {
        member_crashes: 1,
        ..NONE
    };
    let by = |policy, model: Array| Array { policy, ..model };
    vec![
        ("2 files", with(CRASH_AND_CUT, Array::files(2))),
        ("2 files, the record", with(record, Array::files(2))),
        ("2 files, an operator", with(operator, Array::files(2))),
        ("2 files, an old copy", with(old, Array::files(2))),
        ("3 files, a crash", with(CRASH, Array::files(3))),
        ("3 files, a cut", with(CUT, Array::files(3))),
        (
            "3 files, majority",
            by(Policy::Majority, with(CRASH_AND_CUT, one(Array::files(3)))),
        ),
        (
            "2 files, newest",
            by(Policy::Newest, with(CRASH_AND_CUT, one(Array::files(2)))),
        ),
        ("2 servers, a crash", with(CRASH, Array::servers(2))),
        ("2 servers, a cut", with(CUT, Array::servers(2))),
        ("2 servers, a restart", with(restart, Array::servers(2))),
        (OLD_SERVER, with(old, one(Array::servers(2)))),
        ("3 servers, a cut", with(CUT, one(Array::servers(3)))),
        ("coop, 2 servers, a crash", with(CRASH, Array::coop(2))),
        ("coop, 2 servers, a cut", with(CUT, Array::coop(2))),
        ("coop, 3 servers", Array::coop(3)),
        ("coop, 3 servers, a cut", with(CUT, one(Array::coop(3)))),
        ("coop, 3 servers, a crash", with(CRASH, one(Array::coop(3)))),
    ]
}

#[test]
fn every_promise_is_kept_and_every_transition_is_taken() {
    for (name, model) in small() {
        holds(name, &model);
    }
    // What is further away than that.
    newest_is_compared().init_states();
    assert_eq!(names::never_taken(), Vec::<&str>::new());
}

#[test]
fn from_everywhere_all_members_can_be_optimal_again() {
    for (name, model) in small() {
        // Where the only copy in the set was replaced by an old one, nothing is served until an operator says that
        // what is missing may be lost (`--force`), which is not in the model.
        if name == OLD_SERVER {
            continue;
        }
        let start = Instant::now();
        match progress::explore(&model) {
            Ok(states) => eprintln!(
                "{name}: {states} states, {:.1} s",
                start.elapsed().as_secs_f64()
            ),
            Err(way) => panic!("{name}: no way out after {way:#?}"),
        }
    }
    let stuck = Array {
        bug: Some(Bug::LocksInAnyOrder),
        ..Array::coop(2)
    };
    assert!(
        progress::explore(&stuck).is_err(),
        "each waits for the other"
    );
}

/// One daemon dies while it finishes `$left` on all three members, and starts again with the first two of
/// them; the other still has all three. So what one of them keeps of it stands against what comes next.
macro_rules! half_finished {
    ($left:literal, $next:literal, $($then:expr),*) => {
        &[
            Step::Daemon(0, Does::VoteAsked($left)),
            Step::Daemon(1, Does::MemberVoted(0)),
            Step::Daemon(1, Does::MemberVoted(1)),
            Step::Daemon(1, Does::MemberVoted(2)),
            Step::Daemon(1, Does::FinishAsked),
            Step::Daemon(1, Does::Crash { power: false }),
            Step::Daemon(0, Does::Open(0)),
            Step::Daemon(0, Does::Open(1)),
            Step::Daemon(0, Does::Start),
            Step::Daemon(0, Does::Assembled { newest: 0 }),
            Step::Daemon(0, Does::WriteRecord),
            Step::Daemon(0, Does::Recorded),
            Step::Daemon(0, Does::VoteAsked($next)),
            Step::Drop(0),
            Step::Daemon(0, Does::MemberVoted(0)),
            Step::Drop(1),
            Step::Daemon(0, Does::MemberVoted(1)),
            Step::Daemon(0, Does::FinishAsked),
            $($then),*
        ]
    };
}

const HALF_FINISHED: &[Step] = half_finished!(1, 2,);
/// The one that is left has the later TID.
const NEWEST_IS_LEFT: &[Step] =
    half_finished!(2, 1, Step::Write(0), Step::Write(1), Step::Write(2));

/// The other daemon has been started anew, too, and compares all three.
const NEWEST_IS_COMPARED: &[Step] = half_finished!(
    2,
    1,
    Step::Write(0),
    Step::Write(1),
    Step::Write(2),
    Step::Daemon(1, Does::Crash { power: false }),
    Step::Daemon(1, Does::Open(0)),
    Step::Daemon(1, Does::Open(1)),
    Step::Daemon(1, Does::Open(2)),
    Step::Daemon(1, Does::Start),
    Step::Daemon(1, Does::Assembled { newest: 2 })
);

fn newest_is_compared() -> Array {
    Array {
        after: NEWEST_IS_COMPARED,
        ..newest_is_left()
    }
}

fn half_finished() -> Array {
    Array {
        after: HALF_FINISHED,
        may_fail: CRASH,
        ..Array::coop(3)
    }
}

/// Another crash is to come.
fn newest_is_left() -> Array {
    Array {
        after: NEWEST_IS_LEFT,
        may_fail: Left {
            daemon_crashes: 2,
            ..NONE
        },
        ..Array::coop(3)
    }
}

/// Each bug, and where it shows.
fn bugs() -> Vec<(Bug, Array)> {
    let crashes = Left {
        daemon_crashes: 2,
        ..NONE
    };
    let old = Left {
        old_copies: 1,
        ..CRASH_AND_CUT
    };
    let cuts = Left { cuts: 2, ..NONE };
    let record = Left {
        record_faults: 1,
        ..CUT
    };
    let files = || with(CRASH_AND_CUT, Array::files(2));
    vec![
        (Bug::AcknowledgeBeforeRecord, files()),
        (Bug::FinishBeforeRecord, with(record, Array::files(2))),
        (Bug::AcknowledgeBeforeSync, with(CRASH, Array::files(2))),
        (Bug::AcknowledgeWithoutMember, with(CRASH, Array::files(2))),
        (Bug::StartFromAnybody, files()),
        (Bug::StartTakesWhoIsBehind, with(CRASH, Array::files(2))),
        (Bug::StartTrustsOldCopy, with(old, Array::files(2))),
        (Bug::NewestAsItWasOpened, with(CRASH, Array::servers(2))),
        (Bug::RecoverWithoutTheLast, with(CUT, Array::files(2))),
        (Bug::CatchUpWithoutLock, with(CUT, Array::files(2))),
        (Bug::KeepTheTail, with(CRASH, Array::files(2))),
        (Bug::CopyOnTopOfOthers, with(CRASH, Array::servers(2))),
        (Bug::RemoveTheLast, with(cuts, Array::files(2))),
        (Bug::RecordForgets, files()),
        (Bug::ServeBeforeRecord, with(crashes, Array::files(2))),
        (Bug::OpenWithoutSync, with(crashes, Array::files(2))),
        (Bug::ServeBelowMajority, with(CRASH, Array::coop(2))),
        (
            Bug::ReadBelowMajority,
            Array {
                read_only: true,
                ..with(CRASH, one(Array::coop(3)))
            },
        ),
        (Bug::TidNotCompared, Array::coop(2)),
        (Bug::MembersNotCompared, with(CRASH, Array::coop(2))),
        (Bug::AcknowledgeForeignEarly, with(CRASH, Array::coop(2))),
        (Bug::NewestWinsAlone, newest_is_left()),
        (
            Bug::HeadOfFewIsAcknowledged,
            with(CRASH, one(Array::coop(3))),
        ),
        (Bug::LevelOnTopOfOthers, half_finished()),
        (Bug::EndsProveWhatIsBefore, half_finished()),
    ]
}

/// From the beginning, or from where a model begins instead: no bug needs more to show.
const MOST_STEPS: usize = 40;

#[test]
fn every_deliberate_bug_is_found() {
    let mut missed = Vec::new();
    for (bug, model) in bugs() {
        let name = format!("{bug:?}");
        let model = Array {
            bug: Some(bug),
            ..model
        };
        let Some(broken) = explore(&name, &model) else {
            missed.push(name);
            continue;
        };
        let steps = broken.steps.len();
        eprintln!("    {}: {steps} steps", broken.promise);
        assert!((1..=MOST_STEPS).contains(&steps), "{name}: {steps} steps");
    }
    assert_eq!(missed, Vec::<String>::new(), "these are not found");
}

/// All that takes its time. With `--release`.
#[test]
#[ignore = "takes ten minutes"]
fn every_promise_is_kept_within_larger_bounds() {
    let more = Left {
        record_faults: 1,
        ..CRASH_AND_CUT
    };
    let restart = Left {
        member_crashes: 1,
        ..NONE
    };
    let three = |model: Array| Array {
        transactions: 3,
        ..model
    };
    for (name, model) in [
        (
            "2 files",
            with(
                Left {
                    daemon_crashes: 2,
                    disables: 1,
                    ..more
                },
                Array::files(2),
            ),
        ),
        (
            "2 files, 3 transactions",
            three(with(CRASH_AND_CUT, Array::files(2))),
        ),
        ("3 files", with(more, Array::files(3))),
        (
            "3 files, 2 needed",
            Array {
                min_optimal: 2,
                ..with(CRASH_AND_CUT, Array::files(3))
            },
        ),
        (
            "2 servers",
            with(
                Left {
                    member_crashes: 1,
                    ..more
                },
                Array::servers(2),
            ),
        ),
        ("3 servers", with(CRASH_AND_CUT, Array::servers(3))),
        ("coop, 2 servers", with(CRASH_AND_CUT, Array::coop(2))),
        (
            "coop, 2 servers, 3 transactions",
            three(with(CRASH, Array::coop(2))),
        ),
        ("coop, 3 servers, a cut", with(CUT, Array::coop(3))),
        ("coop, 3 servers, a restart", with(restart, Array::coop(3))),
        ("coop, 3 servers, a crash", with(CRASH, Array::coop(3))),
        (
            "coop, 3 servers, read-only, a crash",
            Array {
                read_only: true,
                ..with(CRASH, one(Array::coop(3)))
            },
        ),
        ("coop, 3 servers, one left half finished", half_finished()),
        ("coop, 3 servers, the newest is left", newest_is_left()),
    ] {
        holds(name, &model);
    }
}

fn source_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("the folder is there");
    let mut files = Vec::new();
    for path in entries.map(|entry| entry.expect("it can be read").path()) {
        if path.is_dir() {
            files.extend(source_files(&path));
        } else if path.extension().is_some_and(|it| it == "rs") {
            files.push(path);
        }
    }
    files
}

#[test]
fn the_code_names_every_transition_and_no_other() {
    let raid = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/raid");
    let mut named = BTreeSet::new();
    for path in source_files(&raid) {
        let text = std::fs::read_to_string(&path).expect("source is text");
        let comments = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("// MODEL: "));
        named.extend(comments.map(str::to_owned));
    }
    let modelled: BTreeSet<String> = names::ALL
        .iter()
        .map(|(_, name)| (*name).to_owned())
        .collect();
    assert_eq!(named, modelled);
}
