//! Where blobs are: over the protocol on both sides (as in all other tests), in a folder that clients
//! share with the daemon, and in one that the members' servers share as well.

use std::fs;

use crate::harness::python::Workers;
use crate::harness::{Instance, Lab, LabSetup};

/// Clients that write blobs into the shared folder by themselves.
fn sharing_workers(lab: &Lab, count: u64) -> Workers {
    let shared = lab.instance.beside("shared");
    let shared = shared.to_str().expect("a plain path");
    let more = &["--mix", "blob,undo,cold", "--blob-dir", shared];
    Workers::start_with(&lab.instance.address, &lab.instance.beside(""), count, more)
}

/// A member fails and comes back while clients write blobs.
fn lose_one(mut lab: Lab) {
    lab.instance.start().ok();
    lab.instance.wait_optimal();
    let mut workers = sharing_workers(&lab, 2);
    workers.wait_for_more(6);
    lab.servers[0].kill9();
    workers.wait_for_more(6);
    lab.servers[0].start();
    lab.hurry("zeo1");
    lab.instance.wait_optimal();
    workers.wait_for_more(4);
    let found = lab.finish(workers);
    assert!(
        found["blobs"].as_u64().is_some_and(|blobs| blobs > 3),
        "{found}"
    );
}

#[test]
fn blobs_in_a_folder_of_clients_and_daemon_are_kept_by_every_member() {
    let setup = LabSetup {
        files: 1,
        settings: "shared_blob_dir: ../shared",
        ..LabSetup::default()
    };
    let instance = Instance::new();
    fs::create_dir(instance.beside("shared")).expect("a folder to share");
    lose_one(Lab::on(instance, setup));
}

#[test]
fn blobs_in_a_folder_of_everything_are_there_once_for_all() {
    let setup = LabSetup {
        settings: "shared_blob_dir: ../shared\nblobs_shared_with: everything",
        ..LabSetup::default()
    };
    let instance = Instance::new();
    fs::create_dir(instance.beside("shared")).expect("a folder to share");
    lose_one(Lab::on(instance, setup));
}

/// What would lose blobs does not start, and says why.
#[test]
fn a_mixture_that_would_lose_blobs_does_not_start() {
    let setup = LabSetup {
        files: 1,
        settings: "shared_blob_dir: ../not-there\nblobs_shared_with: everything",
        ..LabSetup::default()
    };
    let lab = Lab::new(setup);
    let run = lab.instance.run(&["check-config"]).ended(1);
    assert!(
        run.stdout.contains("does not exist; is it mounted?"),
        "{run}"
    );
    assert!(run.stdout.contains("would stay without blobs"), "{run}");
    let run = lab.instance.start().ended(2);
    assert!(run.stderr.contains("2 mistakes"), "{run}");
}
