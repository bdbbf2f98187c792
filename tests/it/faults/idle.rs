//! Nobody asks anything: a member that fails is found by its heartbeats, and comes back by itself.

use super::fault::Fault;
use crate::harness::lab::MEMBER_TIMEOUT;
use crate::harness::proxy::Deed;
use crate::harness::python::Talk;
use crate::harness::{Lab, LabSetup, until_ok};

/// A different one for each server, all at the same time.
const FAULTS: [Fault; 3] = [Fault::Killed, Fault::Frozen, Fault::Link(Deed::Stall)];

/// All are noticed, told apart, and mended; no command is given.
fn strike(lab: &mut Lab) {
    let mark = lab.mark();
    for (server, fault) in FAULTS.iter().enumerate() {
        fault.strike(lab, server);
    }
    for (server, fault) in FAULTS.iter().enumerate() {
        let name = lab.servers[server].name.clone();
        lab.wait_taken_out(&name, mark, fault.reasons());
        let member = lab.instance.member(&name);
        assert_eq!(member["state"], "degraded", "{member:#}");
        assert!(member["reason"].is_string(), "{member:#}");
        let outlook = member["outlook"].as_str().unwrap_or_default();
        assert!(outlook.contains("by itself"), "{member:#}");
    }
    for (server, fault) in FAULTS.iter().enumerate() {
        fault.mend(lab, server);
    }
    lab.instance.wait_optimal();
}

#[test]
fn members_that_fail_while_nobody_asks_are_noticed_and_come_back_by_themselves() {
    let mut lab = Lab::started(LabSetup {
        servers: FAULTS.len(),
        files: 1,
        ..LabSetup::default()
    });
    let details = lab.instance.details();
    assert_eq!(details["clients"], 0, "{details:#}");
    strike(&mut lab);

    // One that is connected and does nothing.
    let mut client = Talk::start(&lab.instance.address, MEMBER_TIMEOUT);
    client.does("write");
    until_ok("the client to be counted", MEMBER_TIMEOUT, || {
        let details = lab.instance.details();
        (details["clients"] == 1).then_some(()).ok_or(details)
    });
    strike(&mut lab);
    client.does("read");
    client.does("write");
    client.end();
    lab.compare(&[]);
}
