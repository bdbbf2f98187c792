//! What a ZODB client may rely on, where the members are ZEO servers: the lists of `zeo.rs`, through servers
//! of ZEO 6 that speak `Z5`, and of ZEO 5 that speak `M5`. One laboratory for each list.

use crate::harness::python::{self, Python};
use crate::harness::{Lab, LabSetup};

/// Every feature is a name and arguments. One that fails keeps nobody from the others.
fn through(python: Python, script: &str, features: &[&[&str]]) {
    let setup = LabSetup {
        python,
        msgpack: if python == Python::Zeo5 { 2 } else { 0 },
        // What is large takes its time, and that is no fault here.
        settings: "member_timeout: 30s\nzeo_admin: true\nrecovery_rate: {transactions: 20}",
        ..LabSetup::TWO
    };
    let mut lab = Lab::started(setup);
    let mut failed = String::new();
    for feature in features {
        let mut args = vec![feature[0], lab.instance.address.as_str()];
        args.extend(&feature[1..]);
        let run = python::run(script, &args);
        if run.code != 0 {
            failed += &format!("{}: {run}\n", feature[0]);
        }
    }
    assert!(failed.is_empty(), "{failed}");
    lab.instance.run(&["status"]).ok().prints("optimal");
    lab.compare(&[]);
}

const FEATURES: &[&[&str]] = &[
    // Counts all objects.
    &["record_iternext"],
    &["history"],
    &["iteration"],
    &["revisions"],
    &["read_only"],
    &["read_current"],
    &["read_current_beside_conflicts"],
    &["conflicts"],
    &["order"],
    &["metadata"],
    &["large"],
    &["vote_then_leave"],
    &["waiting_client_is_served"],
    &["small_talk"],
    &["hammer_reads"],
    &["cache_verified"],
];

const UNDO: &[&[&str]] = &[
    &["undo"],
    &["undo_conflicts"],
    &["undo_log"],
    &["undo_chains"],
    &["delete_object"],
    &["raid_methods", "yes", "zeo1", "zeo2"],
    &["pack"],
    // Leaves the last transaction in the future.
    &["given_tids"],
];

const BLOBS: &[&[&str]] = &[
    &["blobs"],
    &["blob_aborts"],
    &["blob_conflicts"],
    &["half_uploads"],
    &["blobs_beside_loads"],
    &["blob_undo"],
];

macro_rules! lists {
    ($($test:ident = $python:ident $script:literal $list:ident;)*) => {
        $(
            #[test]
            fn $test() {
                through(Python::$python, $script, $list);
            }
        )*
    };
}

lists! {
    servers_have_all_features = Zeo6 "features.py" FEATURES;
    servers_undo_pack_and_delete = Zeo6 "undo_features.py" UNDO;
    servers_keep_blobs = Zeo6 "blob_features.py" BLOBS;
    servers_of_zeo_5_have_all_features = Zeo5 "features.py" FEATURES;
    servers_of_zeo_5_undo_pack_and_delete = Zeo5 "undo_features.py" UNDO;
    servers_of_zeo_5_keep_blobs = Zeo5 "blob_features.py" BLOBS;
}

/// A file and servers that leave conflicts to the clients: what a client resolves goes to both kinds, with its blobs.
#[test]
fn a_file_and_servers_keep_blobs_beside_what_clients_resolve() {
    let mut lab = Lab::started(LabSetup {
        files: 1,
        ..LabSetup::TWO
    });
    let address = lab.instance.address.clone();
    python::run("blob_features.py", &["blob_conflicts", &address]).ok();
    python::run("features.py", &["read_current_beside_conflicts", &address]).ok();
    lab.instance.run(&["status"]).ok().prints("optimal");
    for member in ["zeo1", "file1"] {
        lab.instance.run(&["disable", member, "--yes"]).ok();
        let args = ["recover", member, "--verify", "--yes"];
        lab.instance.run(&args).ok();
        lab.instance.wait_optimal();
    }
    lab.compare_in_any_order();
}

/// A client's cache is judged by a queue that a daemon which has just started fills from the members' history.
fn verified_across_restarts(python: Python) {
    let mut lab = Lab::started(LabSetup {
        python,
        ..LabSetup::TWO
    });
    let cache = lab.instance.beside("cache.zec");
    let cache = cache.to_str().expect("a plain path");
    python::run("features.py", &["cache_fill", &lab.instance.address, cache]).ok();
    lab.instance.run(&["restart"]).ok();
    python::run("features.py", &["cache_change", &lab.instance.address]).ok();
    lab.instance.run(&["restart"]).ok();
    python::run(
        "features.py",
        &["cache_check", &lab.instance.address, cache],
    )
    .ok();
    lab.compare(&[]);
}

#[test]
fn a_cache_is_verified_by_the_history_of_servers() {
    verified_across_restarts(Python::Zeo6);
}

#[test]
fn a_cache_is_verified_by_the_history_of_servers_of_zeo_5() {
    verified_across_restarts(Python::Zeo5);
}

/// Over msgpack a list becomes a tuple before a server keeps it. That is no divergence.
#[test]
fn servers_of_both_encodings_hold_the_same() {
    let mut lab = Lab::started(LabSetup {
        msgpack: 1,
        ..LabSetup::TWO
    });
    let address = lab.instance.address.clone();
    python::run("features.py", &["metadata", &address]).ok();
    lab.instance.run(&["restart"]).ok();
    lab.instance.wait_optimal();
    for member in ["zeo1", "zeo2"] {
        lab.instance.run(&["disable", member, "--yes"]).ok();
        python::run("features.py", &["metadata", &address]).ok();
        lab.instance.run(&["recover", member, "--verify"]).ok();
        lab.instance.wait_optimal();
    }
    lab.compare(&[]);
}
