//! Packing an array of ZEO servers, and what goes wrong meanwhile.

use std::time::Instant;

use super::fault::Fault;
use crate::harness::instance::PATIENCE;
use crate::harness::lab::{MEMBER_TIMEOUT, assert_unnoticed};
use crate::harness::proxy::{Deed, Moment};
use crate::harness::python::Workers;
use crate::harness::{Lab, LabSetup, until_ok};

const TWO: LabSetup = LabSetup::TWO;

/// To a moment before the array was: every member walks all of its objects and removes nothing, so that
/// histories can be compared.
const LONG_AGO: &[&str] = &["pack", "--days", "1"];

#[test]
fn an_array_is_packed_one_member_after_the_other() {
    let lab = Lab::started(TWO);
    // While members differ in what is packed, nothing is undone.
    let mut workers = lab.workers_of(2, "blob,iterate,cold");
    workers.wait_for_more(3);
    for _ in 0..2 {
        let run = lab.instance.run(LONG_AGO).ok();
        assert!(run.stderr.contains("main is packed: zeo1, zeo2"), "{run}");
        workers.wait_for_more(2);
    }
    lab.finish(workers);
}

/// One after the other they forget the same, and clients go on reading and writing.
#[test]
fn packed_to_now_all_members_forget_the_same() {
    let setup = LabSetup { servers: 3, ..TWO };
    let mut lab = Lab::started(setup);
    let mut workers = lab.workers_of(2, "blob,cold");
    workers.wait_for_more(5);
    workers.end();
    // Nothing is committed between the packs of the members, so that what they keep is the same.
    lab.instance.run(&["pack"]).ok();
    lab.instance.wait_optimal();
    lab.compare_current();
}

/// What is left of a packed history is copied as it is.
#[test]
fn an_emptied_member_is_filled_from_one_that_was_packed() {
    let mut lab = Lab::started(TWO);
    let mut workers = lab.workers_of(2, "blob,undo,cold");
    workers.wait_for_more(6);
    workers.end();
    lab.instance.run(&["pack"]).ok();
    let mut workers = Workers::join(
        &lab.instance.address,
        &lab.instance.beside(""),
        2,
        2,
        &["--mix", "blob,undo,cold", "--pause", "0.05"],
    );
    workers.wait_for_more(3);
    lab.servers[0].stop();
    lab.servers[0].empty();
    lab.instance.wait_member("zeo1", "degraded");
    workers.wait_for_more(3);
    lab.servers[0].start();
    lab.hurry("zeo1");
    lab.instance.wait_optimal();
    workers.wait_for_more(2);
    assert_unnoticed(&workers.end());
    lab.compare_current();
}

fn fail(setup: LabSetup, faults: &[(Fault, Moment)]) {
    let mut lab = Lab::started(setup);
    let others = if setup.files > 0 { "file1" } else { "zeo2" };
    // While members differ in what is packed, nothing is undone.
    let mut workers = lab.workers_of(2, "blob,iterate,cold");
    workers.wait_for_more(2);
    for (fault, moment) in faults.iter().copied() {
        eprintln!("{fault:?} {moment:?}");
        let mark = lab.mark();
        lab.proxies[0].set_trap(moment, fault.trap());
        let mut detached = LONG_AGO.to_vec();
        detached.push("--detach");
        lab.instance.run(&detached).ok();
        lab.proxies[0].wait_sprung(PATIENCE);
        fault.after_the_trap(&mut lab, 0);
        let packed = until_ok("the end of the pack", PATIENCE, || {
            let log = lab.instance.log();
            let line = log[mark..]
                .lines()
                .find(|line| line.contains("not packed: "));
            line.map(str::to_owned).ok_or("not yet")
        });
        let words = format!("packed {others}; not packed: zeo1: ");
        assert!(packed.contains(&words), "{packed}");
        lab.wait_taken_out("zeo1", mark, fault.reasons());
        workers.wait_for_more(2);
        fault.mend(&mut lab, 0);
        lab.hurry("zeo1");
        lab.instance.wait_optimal();
    }
    lab.finish(workers);
}

#[test]
fn a_member_that_fails_while_it_packs_does_not_hold_up_the_others() {
    let (asked, passed) = (Moment::Asked("pack"), Moment::Passed("pack"));
    let faults = [
        (Fault::Link(Deed::Cut), asked),
        (Fault::Link(Deed::Stall), asked),
        (Fault::Killed, passed),
        (Fault::Frozen, asked),
    ];
    fail(TWO, &faults);
}

#[test]
fn the_only_server_beside_a_file_fails_while_it_packs() {
    let setup = LabSetup {
        servers: 1,
        files: 1,
        ..TWO
    };
    fail(setup, &[(Fault::Killed, Moment::Passed("pack"))]);
}

/// Whoever is left out while others are packed is said at the end, and by the exit code.
#[test]
fn who_was_not_packed_is_said() {
    let lab = Lab::started(TWO);
    lab.proxies[0].set_trap(Moment::Asked("pack"), Deed::Cut);
    let run = lab.instance.run(LONG_AGO);
    assert!(lab.proxies[0].has_sprung());
    assert_eq!(run.code, 1, "one was left out: {run}");
    assert!(run.stderr.contains("main is packed: zeo2"), "{run}");
    assert!(run.stderr.contains("zeo1 was not packed: closed"), "{run}");
}

/// Packing may take longer than any timeout: who answers everything else meanwhile stays.
#[test]
fn a_member_that_packs_for_longer_than_any_timeout_stays() {
    let lab = Lab::started(TWO);
    let mut workers = lab.workers_of(2, "blob,iterate,cold");
    workers.wait_for_more(2);
    let faults = lab.faults("zeo1");
    let long = MEMBER_TIMEOUT * 3;
    lab.proxies[0].set_trap(Moment::Answered("pack"), Deed::Hold(long));
    let began = Instant::now();
    let run = lab.instance.run(LONG_AGO).ok();
    assert!(lab.proxies[0].has_sprung() && began.elapsed() >= long);
    assert!(run.stderr.contains("main is packed: zeo1, zeo2"), "{run}");
    assert_eq!(lab.faults("zeo1"), faults, "it was well all the time");
    assert!(!lab.instance.log().contains("zeo1 was taken out"));
    workers.wait_for_more(1);
    lab.finish(workers);
}

#[test]
fn nothing_is_packed_during_a_recovery_and_nothing_recovered_during_a_pack() {
    let lab = Lab::started(TWO);
    // While members differ in what is packed, nothing is undone.
    let mut workers = lab.workers_of(2, "blob,iterate,cold");
    workers.wait_for_more(2);
    lab.instance.run(&["disable", "zeo1", "--yes"]).ok();
    workers.wait_for_more(4);
    lab.proxies[0].set_trap(Moment::Asked("restorea"), Deed::Stall);
    lab.instance.run(&["recover", "zeo1", "--detach"]).ok();
    lab.proxies[0].wait_sprung(PATIENCE);
    lab.instance.run(LONG_AGO).ended(1).says("zeo1");
    lab.proxies[0].mend();
    lab.hurry("zeo1");
    lab.instance.wait_optimal();

    // Held until the proxy is mended.
    lab.proxies[0].set_trap(Moment::Answered("pack"), Deed::Hold(PATIENCE));
    lab.instance.run(&["disable", "zeo2", "--yes"]).ok();
    let mut detached = LONG_AGO.to_vec();
    detached.push("--detach");
    lab.instance.run(&detached).ok();
    lab.proxies[0].wait_sprung(PATIENCE);
    let refused = lab.instance.run(&["recover", "zeo2", "--detach"]).ended(1);
    assert!(refused.stderr.contains("main is being packed"), "{refused}");
    assert_eq!(lab.instance.member("zeo2")["state"], "degraded");
    lab.proxies[0].mend();
    until_ok("the recovery after the pack", PATIENCE, || {
        let run = lab.instance.run(&["recover", "zeo2"]);
        if run.code == 0 {
            Ok(())
        } else {
            Err(run.to_string())
        }
    });
    lab.finish(workers);
}
