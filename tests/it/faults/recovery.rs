//! What goes wrong while a member is being recovered: with the one that is written, and with the one
//! that is read.

use std::sync::Arc;
use std::time::Duration;

use crate::harness::instance::PATIENCE;
use crate::harness::proxy::{Deed, Moment};
use crate::harness::{Lab, LabSetup, until, until_ok};

use Moment::{Asked, Passed};

const THREE: LabSetup = LabSetup {
    servers: 3,
    files: 0,
    files_first: false,
    msgpack: false,
    blobs: true,
    settings: "auto_recover: true",
};

/// A recovery of this member that is struck, with the servers whose proxies are to strike; then another that
/// ends well.
fn strike(setup: LabSetup, target: &str, struck: &[usize], deed: Deed, stages: &[(&str, Moment)]) {
    let lab = Lab::started(setup);
    let mut workers = lab.workers(2);
    workers.wait_for_more(2);
    for (words, moment) in stages {
        eprintln!("{deed:?} {words}");
        lab.instance.run(&["disable", target, "--yes"]).ok();
        workers.wait_for_more(8);
        // One of them: the recovery goes on with the other at once.
        let only_one = Arc::default();
        for index in struck {
            lab.proxies[*index].set_trap_of(*moment, deed, &only_one);
        }
        lab.instance.run(&["recover", target, "--detach"]).ok();
        let any = || struck.iter().any(|index| lab.proxies[*index].has_sprung());
        until(&format!("{moment:?}"), Duration::from_secs(90), any);
        // Those that it did not strike are left alone.
        for index in struck {
            if !lab.proxies[*index].has_sprung() {
                lab.proxies[*index].mend();
            }
        }
        workers.wait_for_more(2);
        for index in struck {
            lab.proxies[*index].mend();
        }
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
    strike(THREE, "zeo1", &[0], Deed::Cut, TARGET);
}

#[test]
fn a_recovery_whose_target_stops_answering_is_continued() {
    strike(THREE, "zeo1", &[0], Deed::Stall, TARGET);
}

#[test]
fn a_recovery_whose_source_hangs_up_goes_on_with_another() {
    strike(THREE, "zeo1", &[1, 2], Deed::Cut, SOURCE);
}

#[test]
fn a_recovery_whose_source_stops_answering_goes_on_with_another() {
    strike(THREE, "zeo1", &[1, 2], Deed::Stall, SOURCE);
}

#[test]
fn a_recovery_of_the_only_server_beside_a_file_is_continued() {
    let setup = LabSetup {
        servers: 1,
        files: 1,
        ..THREE
    };
    strike(setup, "zeo1", &[0], Deed::Stall, &TARGET[1..]);
}

#[test]
fn a_recovery_of_a_file_whose_source_hangs_up_goes_on_with_another() {
    let setup = LabSetup {
        servers: 2,
        files: 1,
        ..THREE
    };
    strike(setup, "file1", &[0, 1], Deed::Cut, &SOURCE[1..]);
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
