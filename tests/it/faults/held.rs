//! Between vote and finish: a client has voted and takes its time, and meanwhile a member fails. Then the
//! client finishes.

use super::fault::Fault;
use crate::harness::lab::{LONGEST_OPERATION, MEMBER_TIMEOUT};
use crate::harness::proxy::Deed;
use crate::harness::python::Talk;
use crate::harness::{Lab, LabSetup};

/// When the client goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finish {
    /// Before the daemon may have noticed anything.
    AtOnce,
    /// When the member is out: nothing is waited for then.
    WhenNoticed,
}

use Finish::{AtOnce, WhenNoticed};

const CASES: &[(Fault, Finish)] = &[
    (Fault::Killed, AtOnce),
    (Fault::Frozen, AtOnce),
    (Fault::Frozen, WhenNoticed),
    (Fault::Link(Deed::Cut), WhenNoticed),
    (Fault::Link(Deed::Stall), AtOnce),
    (Fault::Link(Deed::Garbage), AtOnce),
];

fn strike(setup: LabSetup) {
    let mut lab = Lab::started(setup);
    let mut client = Talk::start(&lab.instance.address, LONGEST_OPERATION);
    for (fault, finish) in CASES.iter().copied() {
        eprintln!("{fault:?}, {finish:?}");
        client.does("vote");
        let mark = lab.mark();
        fault.strike(&mut lab, 0);
        if finish == WhenNoticed {
            lab.wait_taken_out("zeo1", mark, fault.reasons());
        }
        let took = client.does("finish");
        lab.wait_taken_out("zeo1", mark, fault.reasons());
        let longest = match finish {
            AtOnce => LONGEST_OPERATION,
            WhenNoticed => MEMBER_TIMEOUT,
        };
        assert!(took <= longest, "{fault:?}, {finish:?}: it took {took:?}");
        client.does("write");
        fault.mend(&mut lab, 0);
        lab.hurry("zeo1");
        lab.instance.wait_optimal();
        client.does("read");
    }
    client.end();
    let found = lab.compare(&[]);
    // What was voted is there, once each.
    let transactions = found["transactions"].as_u64().expect("a count");
    let (ground, each) = (2, 2);
    assert_eq!(transactions, ground + each * CASES.len() as u64, "{found}");
}

#[test]
fn a_member_that_fails_between_vote_and_finish_is_taken_out_and_the_finish_is_not() {
    strike(LabSetup::default());
}

#[test]
fn the_only_server_beside_a_file_fails_between_vote_and_finish() {
    strike(LabSetup {
        servers: 1,
        files: 1,
        ..LabSetup::default()
    });
}
