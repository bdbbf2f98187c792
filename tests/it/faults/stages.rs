//! Every fault at every stage of the conversation with a member.
//!
//! One array for each fault: stage by stage the fault strikes the same member, is mended, and the member
//! comes back, while the clients go on. So a fault also strikes a member that was recovered before. It is
//! the first member, which is also the one that is read from: a small database is read from one member
//! while that is not busy.

use std::time::Duration;

use super::fault::Fault;
use crate::harness::lab::MEMBER_TIMEOUT;
use crate::harness::proxy::{Deed, Exception, Moment};
use crate::harness::python::Python;
use crate::harness::{Lab, LabSetup, until_ok};

const PATIENCE: Duration = Duration::from_secs(90);

use Moment::{Answered, Asked, Passed};

/// The stages, each with the words for the case that it fails.
const STAGES: &[(&str, Moment)] = &[
    ("at a load", Asked("loadBefore")),
    ("while it is told of the transaction", Asked("storea")),
    ("before the vote", Asked("vote")),
    ("in the vote", Passed("vote")),
    // Between vote and finish is another matter (see `held`): behind its vote the daemon asks for the last
    // transaction, and the vote waits for both.
    ("in the vote, of which half is answered", Answered("vote")),
    ("before it hears of the finish", Asked("tpc_finish")),
    ("in the finish", Passed("tpc_finish")),
    ("after the finish", Answered("tpc_finish")),
    ("in an undo", Asked("undoa")),
    ("in a blob", Asked("storeBlobChunk")),
];

/// Those that differ most, for arrays of other makes.
const FEW: &[(&str, Moment)] = &[
    ("at a load", Asked("loadBefore")),
    ("in the vote", Passed("vote")),
    ("in the finish", Passed("tpc_finish")),
    ("in an undo", Asked("undoa")),
    ("in a blob", Asked("storeBlobChunk")),
];

/// While a client iterates: it goes on with another member.
const ITERATION: &[(&str, Moment)] = &[
    ("as an iteration begins", Asked("iterator_start")),
    ("between its transactions", Asked("iterator_next")),
    ("in one of its transactions", Asked("iterator_record_next")),
];

const SERVERS: LabSetup = LabSetup::TWO;

const SERVERS_AND_FILE: LabSetup = LabSetup {
    files: 1,
    ..SERVERS
};

const SERVER_AND_FILE: LabSetup = LabSetup {
    servers: 1,
    files: 1,
    ..SERVERS
};

/// The first member is struck, which is also the one that is read from: a small database is read from one
/// member while that is not busy.
fn strike(setup: LabSetup, fault: Fault, stages: &[(&str, Moment)]) {
    let mut lab = Lab::started(setup);
    let mut workers = lab.workers(3);
    workers.wait_for_more(2);
    for (number, (words, moment)) in stages.iter().enumerate() {
        eprintln!("{fault:?} {words}");
        let mark = lab.mark();
        lab.proxies[0].set_trap(*moment, fault.trap());
        lab.proxies[0].wait_sprung(PATIENCE);
        fault.after_the_trap(&mut lab, 0);
        workers.wait_for_more(2);
        lab.wait_taken_out("zeo1", mark, fault.reasons());
        fault.mend(&mut lab, 0);
        workers.wait_for_more(1);
        if number >= 2 || fault == Fault::Link(Deed::Error(Exception::UNKNOWN)) {
            // It comes back by itself, but who fails again and again waits longer every time; and who
            // votes differently from the others waits for an operator.
            lab.hurry("zeo1");
        }
        lab.instance.wait_optimal();
    }
    lab.finish(workers);
}

macro_rules! faults {
    ($($test:ident = $fault:expr, $setup:expr, $stages:expr;)*) => {
        $(
            #[test]
            fn $test() {
                strike($setup, $fault, $stages);
            }
        )*
    };
}

faults! {
    a_member_that_hangs_up_at_any_stage_is_taken_out_and_recovered =
        Fault::Link(Deed::Cut), SERVERS, STAGES;
    a_member_cut_off_within_a_message_is_taken_out_and_recovered =
        Fault::Link(Deed::CutInMessage), SERVERS, STAGES;
    a_member_behind_a_half_open_link_is_taken_out_and_recovered =
        Fault::Link(Deed::Stall), SERVERS, STAGES;
    a_member_that_talks_garbage_is_taken_out_and_recovered =
        Fault::Link(Deed::Garbage), SERVERS, STAGES;
    a_member_with_a_message_of_four_gigabytes_is_taken_out_and_recovered =
        Fault::Link(Deed::Oversize), SERVERS, STAGES;
    a_member_that_is_killed_at_any_stage_is_taken_out_and_recovered =
        Fault::Killed, SERVERS, STAGES;
    a_member_that_is_stopped_at_any_stage_is_taken_out_and_recovered =
        Fault::Frozen, SERVERS, STAGES;

    a_member_that_hangs_up_while_a_client_iterates_is_taken_out_and_recovered =
        Fault::Link(Deed::Cut), SERVERS, ITERATION;
    a_member_that_is_stopped_while_a_client_iterates_is_taken_out_and_recovered =
        Fault::Frozen, SERVERS, ITERATION;

    a_server_beside_a_file_is_taken_out_and_recovered_at_any_stage =
        Fault::Killed, SERVERS_AND_FILE, STAGES;
    a_server_that_talks_garbage_beside_a_file_is_taken_out_and_recovered =
        Fault::Link(Deed::Garbage), SERVERS_AND_FILE, FEW;
    the_only_server_beside_a_file_is_stopped_and_recovered = Fault::Frozen, SERVER_AND_FILE, FEW;
    the_only_server_beside_a_file_hangs_up_while_a_client_iterates =
        Fault::Link(Deed::Cut), SERVER_AND_FILE, ITERATION;
}

/// The same with servers that speak msgpack, at the stages that differ most.
#[test]
fn a_member_that_speaks_msgpack_is_taken_out_and_recovered() {
    let setup = LabSetup {
        msgpack: 2,
        ..SERVERS
    };
    strike(setup, Fault::Link(Deed::Cut), &STAGES[1..7]);
}

/// The same with servers of ZEO 5.
#[test]
fn a_server_of_zeo_5_is_taken_out_and_recovered() {
    let setup = LabSetup {
        python: Python::Zeo5,
        ..LabSetup::default()
    };
    strike(setup, Fault::Killed, &STAGES[3..]);
}

/// The only other member is a file, and there are no blobs.
#[test]
fn one_server_and_one_file_are_an_array() {
    let setup = LabSetup {
        blobs: false,
        ..SERVER_AND_FILE
    };
    strike(setup, Fault::Link(Deed::Stall), &STAGES[..8]);
}

/// Answers that cannot be understood: the message itself is damaged.
#[test]
fn a_member_whose_bytes_are_damaged_is_taken_out_and_recovered() {
    strike(
        LabSetup::default(),
        Fault::Link(Deed::Corrupt),
        &[
            ("in a load", Passed("loadBefore")),
            ("in the vote", Passed("vote")),
            ("in the finish", Passed("tpc_finish")),
        ],
    );
}

/// An exception that no ZODB has.
#[test]
fn a_member_with_exceptions_that_nobody_knows_is_taken_out_and_recovered() {
    // What one of two says is no majority, and could be the transaction's fault.
    let setup = LabSetup {
        servers: 3,
        ..LabSetup::default()
    };
    strike(
        setup,
        Fault::Link(Deed::Error(Exception::UNKNOWN)),
        &[
            ("in the vote", Asked("vote")),
            ("in the finish", Asked("tpc_finish")),
        ],
    );
}

/// A member that is slow, but within its timeout, stays.
#[test]
fn a_member_that_is_slow_stays() {
    let lab = Lab::started(LabSetup::default());
    let mut workers = lab.workers(2);
    workers.wait_for_more(2);
    let before = lab.faults("zeo1");
    lab.proxies[0].slow_down(MEMBER_TIMEOUT / 20);
    workers.wait_for_more(4);
    // What is shown is an average: it takes some reads until most of them were slow ones.
    until_ok("its latency to be shown", PATIENCE, || {
        workers.check_alive();
        let member = lab.instance.member("zeo1");
        assert_eq!(member["state"], "optimal", "{member:#}");
        let slow = member["latency_ms"].as_f64().is_some_and(|ms| ms > 10.0);
        if slow {
            Ok(())
        } else {
            Err(format!("{member:#}"))
        }
    });
    assert_eq!(lab.faults("zeo1"), before);
    lab.proxies[0].mend();
    lab.finish(workers);
}
