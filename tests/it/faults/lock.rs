//! A server that has lost track of its commit lock: ZEO closes the connection of a client that takes too long
//! between vote and finish (`transaction-timeout`), and keeps the lock for ever. Nothing helps but to start
//! that server anew, and that is what must be said.

use crate::harness::instance::PATIENCE;
use crate::harness::lab::assert_unnoticed;
use crate::harness::python::{Script, Workers};
use crate::harness::{Lab, LabSetup, until_ok};

#[test]
fn a_server_that_leaks_its_commit_lock_is_to_be_restarted() {
    let setup = LabSetup {
        // It is told that soon.
        settings: "lock_timeout: 2s",
        ..LabSetup::TWO
    };
    let mut lab = Lab::new(setup);
    lab.servers[0].stop();
    lab.servers[0].configure("  transaction-timeout 2\n");
    lab.servers[0].start();
    lab.instance.start().ok();
    lab.instance.wait_optimal();
    let mut workers = lab.workers(2);
    workers.wait_for_more(2);
    let mut holder = Script::spawn("features.py", &["vote_and_hold", &lab.instance.address]);
    holder.wait_printed("voted");
    lab.instance.wait_member("zeo1", "degraded");
    holder.end(PATIENCE).ok();
    // Those waited for the holder, which is no fault; from here on nobody waits.
    assert_eq!(workers.end().errors, 0);
    let folder = lab.instance.beside("");
    let more = &["--mix", "blob,undo,cold", "--pause", "0.05"];
    let mut clients = Workers::join(&lab.instance.address, &folder, 2, 2, more);
    clients.wait_for_more(2);

    let member = until_ok("the lock to be told as lost", PATIENCE, || {
        let member = lab.instance.member("zeo1");
        let reason = member["reason"].as_str().unwrap_or_default();
        if member["state"] == "degraded" && reason.contains("commit lock was not granted") {
            return Ok(member);
        }
        if member["state"] == "degraded" {
            lab.hurry("zeo1");
        }
        Err(format!("{member:#}"))
    });
    let said = |name: &str| member[name].as_str().unwrap_or_default().to_owned();
    assert!(
        said("reason").ends_with("restart that server"),
        "{member:#}"
    );
    assert!(
        said("outlook").ends_with("recovers by itself after that"),
        "{member:#}"
    );
    clients.wait_for_more(2);
    lab.servers[0].stop();
    lab.servers[0].start();
    lab.hurry("zeo1");
    lab.instance.wait_optimal();
    clients.wait_for_more(2);
    let totals = clients.end();
    assert_unnoticed(&totals);
    let mut logs = workers.logs();
    logs.extend(clients.logs());
    lab.compare(&logs);
}
