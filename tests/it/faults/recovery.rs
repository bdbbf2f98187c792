//! What goes wrong while a member is being recovered: with the one that is written, and with the one
//! that is read.

use std::sync::Arc;
use std::time::Duration;

use super::fault::Fault;
use crate::harness::instance::PATIENCE;
use crate::harness::proxy::{Deed, Moment};
use crate::harness::python::Python;
use crate::harness::{Lab, LabSetup, until, until_ok};

use Moment::{Asked, Passed};

const THREE: LabSetup = LabSetup::THREE;

type Stage = (Fault, &'static str, Moment);

/// The same fault at these stages.
fn each(fault: Fault, stages: &[(&'static str, Moment)]) -> Vec<Stage> {
    let stage = |(words, moment): &(&'static str, Moment)| (fault, *words, *moment);
    stages.iter().map(stage).collect()
}

/// A recovery of this member that is struck, with the servers whose proxies are to strike; then another that
/// ends well.
fn strike(setup: LabSetup, target: &str, struck: &[usize], stages: &[Stage]) {
    let mut lab = Lab::started(setup);
    // No client iterates: it would fall into the recovery's trap.
    let mut workers = lab.workers_of(2, "blob,undo");
    workers.wait_for_more(2);
    for (fault, words, moment) in stages {
        eprintln!("{fault:?} {words}");
        lab.instance.run(&["disable", target, "--yes"]).ok();
        workers.wait_for_more(8);
        // One of them: the recovery goes on with the other at once.
        let only_one = Arc::default();
        for index in struck {
            lab.proxies[*index].set_trap_of(*moment, fault.trap(), &only_one);
        }
        lab.instance.run(&["recover", target, "--detach"]).ok();
        let sprung = |lab: &Lab| {
            let mut sprung = struck.iter();
            sprung
                .find(|index| lab.proxies[**index].has_sprung())
                .copied()
        };
        until(&format!("{moment:?}"), Duration::from_secs(90), || {
            sprung(&lab).is_some()
        });
        let victim = sprung(&lab).expect("it has sprung");
        // Those that it did not strike are left alone.
        for index in struck.iter().filter(|index| **index != victim) {
            lab.proxies[*index].mend();
        }
        fault.after_the_trap(&mut lab, victim);
        workers.wait_for_more(2);
        fault.mend(&mut lab, victim);
        until_ok("a recovery that ends well", PATIENCE * 2, || {
            if lab.instance.member(target)["state"] == "optimal" {
                return Ok(());
            }
            let run = lab.instance.run(&["recover", target]);
            if run.code == 0 {
                Ok(())
            } else {
                Err(run.to_string())
            }
        });
        for server in &lab.servers {
            if lab.instance.member(&server.name)["state"] != "optimal" {
                lab.hurry(&server.name);
            }
        }
        lab.instance.wait_optimal();
    }
    lab.finish(workers);
}

const TARGET: &[(&str, Moment)] = &[
    ("before it is told of a record", Asked("restorea")),
    ("in a blob", Asked("storeBlobChunk")),
    ("in the vote of a transaction", Passed("vote")),
    ("in the finish of a transaction", Passed("tpc_finish")),
];

const SOURCE: &[(&str, Moment)] = &[
    ("as its history is asked for", Asked("iterator_start")),
    ("between transactions", Asked("iterator_next")),
    ("in a transaction", Asked("iterator_record_next")),
    ("as a blob is asked for", Asked("sendBlob")),
];

#[test]
fn a_recovery_whose_target_hangs_up_is_continued() {
    strike(THREE, "zeo1", &[0], &each(Fault::Link(Deed::Cut), TARGET));
}

#[test]
fn a_recovery_whose_target_stops_answering_is_continued() {
    strike(THREE, "zeo1", &[0], &each(Fault::Link(Deed::Stall), TARGET));
}

#[test]
fn a_recovery_whose_source_hangs_up_goes_on_with_another() {
    strike(
        THREE,
        "zeo1",
        &[1, 2],
        &each(Fault::Link(Deed::Cut), SOURCE),
    );
}

#[test]
fn a_recovery_whose_source_stops_answering_goes_on_with_another() {
    strike(
        THREE,
        "zeo1",
        &[1, 2],
        &each(Fault::Link(Deed::Stall), SOURCE),
    );
}

const IN_ITS_HISTORY: &str = "in its history";

#[test]
fn a_recovery_whose_target_is_killed_stopped_or_talks_nonsense_is_continued() {
    const STAGES: &[Stage] = &[
        (Fault::Killed, "in a vote", Passed("vote")),
        (Fault::Killed, "in a finish", Passed("tpc_finish")),
        (Fault::Frozen, "in a vote", Passed("vote")),
        (Fault::Link(Deed::Garbage), "in a record", Asked("restorea")),
        (
            Fault::Link(Deed::Corrupt),
            "in a finish",
            Passed("tpc_finish"),
        ),
    ];
    strike(THREE, "zeo1", &[0], STAGES);
}

#[test]
fn a_recovery_whose_source_is_killed_stopped_or_talks_nonsense_goes_on_with_another() {
    const STAGES: &[Stage] = &[
        (Fault::Killed, IN_ITS_HISTORY, Asked("iterator_next")),
        (Fault::Killed, "in a blob", Asked("sendBlob")),
        (Fault::Frozen, IN_ITS_HISTORY, Asked("iterator_record_next")),
        (
            Fault::Link(Deed::Garbage),
            IN_ITS_HISTORY,
            Asked("iterator_next"),
        ),
        (
            Fault::Link(Deed::Corrupt),
            IN_ITS_HISTORY,
            Passed("iterator_record_next"),
        ),
    ];
    strike(THREE, "zeo1", &[1, 2], STAGES);
}

/// The only source, and the only target: one recovery after the other between two servers of ZEO 5.
#[test]
fn a_recovery_between_servers_of_zeo_5_is_continued() {
    const STAGES: &[Stage] = &[
        (Fault::Killed, "in a finish", Passed("tpc_finish")),
        (Fault::Link(Deed::Cut), "in a record", Asked("restorea")),
    ];
    let setup = LabSetup {
        python: Python::Zeo5,
        ..LabSetup::TWO
    };
    strike(setup, "zeo1", &[0], STAGES);
}

#[test]
fn a_recovery_of_the_only_server_beside_a_file_is_continued() {
    let setup = LabSetup {
        servers: 1,
        files: 1,
        ..THREE
    };
    let stages = each(Fault::Link(Deed::Stall), &TARGET[1..]);
    strike(setup, "zeo1", &[0], &stages);
}

#[test]
fn a_recovery_of_a_file_whose_source_hangs_up_goes_on_with_another() {
    let setup = LabSetup {
        servers: 2,
        files: 1,
        ..THREE
    };
    let stages = each(Fault::Link(Deed::Cut), &SOURCE[1..]);
    strike(setup, "file1", &[0, 1], &stages);
}

/// The source is the only optimal member besides a file.
#[test]
fn a_server_is_recovered_from_a_file_and_the_other_way_round() {
    let setup = LabSetup {
        servers: 1,
        files: 1,
        ..THREE
    };
    let lab = Lab::started(setup);
    let mut workers = lab.workers(2);
    workers.wait_for_more(3);
    for _ in 0..2 {
        for member in ["zeo1", "file1"] {
            lab.instance.run(&["disable", member, "--yes"]).ok();
            workers.wait_for_more(6);
            lab.instance.run(&["recover", member, "--verify"]).ok();
            lab.instance.wait_optimal();
        }
    }
    lab.finish(workers);
}

/// The daemon is killed while it recovers a ZEO server, which may have a part of a transaction then.
#[test]
fn a_recovery_whose_daemon_is_killed_is_continued_by_the_next() {
    let lab = Lab::started(THREE);
    let mut workers = lab.workers_with(2, &["--tolerant"]);
    for moment in [Passed("vote"), Passed("tpc_finish"), Asked("restorea")] {
        workers.wait_for_more(2);
        lab.instance.run(&["disable", "zeo1", "--yes"]).ok();
        workers.wait_for_more(8);
        lab.proxies[0].set_trap(moment, Deed::Stall);
        lab.instance.run(&["recover", "zeo1", "--detach"]).ok();
        lab.proxies[0].wait_sprung(Duration::from_secs(90));
        lab.instance.kill9();
        lab.proxies[0].mend();
        lab.instance.start().ok();
        workers.wait_for_more(2);
        lab.hurry("zeo1");
        lab.instance.wait_optimal();
    }
    lab.finish_tolerant(workers);
}
