//! A full disk: the member on it is taken out, clients go on; and where every member is full, clients are
//! told, nothing acknowledged is lost, and it goes on when there is room.

use std::fs;

use crate::harness::disk::SmallDisk;
use crate::harness::instance::PATIENCE;
use crate::harness::python::{self, Workers};
use crate::harness::{Instance, until};

#[test]
fn a_member_on_a_full_disk_is_taken_out_and_comes_back_when_there_is_room() {
    let instance = Instance::made(&[]);
    let folder = instance.copy(2).parent().expect("in a folder").to_owned();
    let name = "a_member_on_a_full_disk_is_taken_out_and_comes_back_when_there_is_room";
    let Some(disk) = SmallDisk::mount(&folder, 512, name) else {
        return;
    };
    instance.start().ok();
    let mut workers = Workers::start(&instance.address, &instance.beside(""), false);
    let member = instance.wait_member("copy2", "degraded");
    let reason = member["reason"].as_str().expect("a reason");
    assert!(reason.contains("no space left"), "{reason}");
    workers.wait_for_more(5);
    disk.resize(64 * 1024);
    // Its disk failed it: it comes back by itself, or when it is asked to.
    if instance.member("copy2")["outlook"].is_null() {
        // Refused where it has come back in the meantime; that it is back is asked next.
        drop(instance.run(&["recover", "copy2"]));
    }
    instance.wait_optimal();
    workers.wait_for_more(5);
    let totals = workers.end();
    assert_eq!(totals.errors, 0, "a client noticed: {totals:?}");
    python::verify(&instance.given_back(), &workers.logs());
    drop(disk);
}

#[test]
fn with_every_disk_full_clients_are_told_and_nothing_is_lost() {
    let instance = Instance::made(&[]);
    let name = "with_every_disk_full_clients_are_told_and_nothing_is_lost";
    let copies = instance.beside("disk");
    let Some(disk) = SmallDisk::mount(&copies, 2048, name) else {
        return;
    };
    for copy in ["copy1", "copy2"] {
        fs::create_dir(copies.join(copy)).expect("room for a folder");
    }
    let text = fs::read_to_string(instance.config()).expect("init wrote it");
    let text = text.replace("var/copy", &format!("{}/copy", copies.display()));
    fs::write(instance.config(), text).expect("writing the configuration");
    instance.start().ok();
    let mut workers = Workers::start(&instance.address, &instance.beside(""), true);
    until("the disk to be full", PATIENCE, || {
        workers.check_alive();
        instance.log().contains("no space left")
    });
    let state = instance.details();
    assert_ne!(state["state"], "optimal", "{state:#}");
    disk.resize(128 * 1024);
    // Clients go on when the array does.
    until("the array to serve again", PATIENCE, || {
        instance.details()["serving"] == true
    });
    workers.wait_for_more(3);
    if instance.details()["state"] == "degraded" {
        instance.run(&["recover", "--all"]);
    }
    instance.wait_optimal();
    workers.end();
    python::verify(&instance.given_back(), &workers.logs());
    drop(disk);
}
