//! A server whose disk is full: it says so in its answer to the vote, and that is its own failure, not
//! the transaction's.

use crate::harness::disk::SmallDisk;
use crate::harness::instance::PATIENCE;
use crate::harness::{Instance, Lab, LabSetup, until_ok};

#[test]
fn a_server_without_room_is_taken_out_and_recovered_when_it_has_some() {
    let instance = Instance::new();
    let test = "a_server_without_room_is_taken_out_and_recovered_when_it_has_some";
    let Some(disk) = SmallDisk::mount(&instance.beside("zeo1"), 1024, test) else {
        return;
    };
    let setup = LabSetup {
        blobs: false,
        ..LabSetup::default()
    };
    let mut lab = Lab::on(instance, setup);
    lab.instance.start().ok();
    lab.instance.wait_optimal();
    let mut workers = lab.workers(3);
    let member = until_ok("the disk to be full", PATIENCE * 2, || {
        workers.check_alive();
        let member = lab.instance.member("zeo1");
        if member["state"] == "degraded" {
            Ok(member)
        } else {
            Err("there is room")
        }
    });
    let reason = member["reason"].as_str().unwrap_or_default();
    assert!(
        reason.contains("no space left"),
        "the reason names it: {member:#}"
    );
    workers.wait_for_more(3);
    disk.resize(64 * 1024);
    // What the failed vote has left at the end of the file keeps ZODB's own iterator from finding its
    // start; opened anew, the server cuts it.
    lab.servers[0].stop();
    lab.servers[0].start();
    lab.hurry("zeo1");
    lab.instance.wait_optimal();
    workers.wait_for_more(2);
    lab.finish(workers);
}
