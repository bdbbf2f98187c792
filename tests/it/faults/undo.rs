//! Undos of undos, copied from server to server.
//!
//! Before ZODB 6.0.1 a server that restores what points back to a transaction in which the same object was
//! undone twice makes another state of it, without a word (`storage/zeo/back_pointers.rs`).

use crate::harness::python::{self, Python};
use crate::harness::{Lab, LabSetup};

fn are_recovered(python: Python) {
    let setup = LabSetup {
        python,
        ..LabSetup::TWO
    };
    let mut lab = Lab::started(setup);
    // Some of what is undone is in what the target has, and some is copied at once with its undo.
    python::run("undo_features.py", &["undo_chains", &lab.instance.address]).ok();
    for target in ["zeo1", "zeo2"] {
        lab.instance.run(&["disable", target, "--yes"]).ok();
        let address = lab.instance.address.as_str();
        python::run("undo_features.py", &["undo_chains_check", address]).ok();
        python::run("undo_features.py", &["undo_chains", address]).ok();
        lab.instance.run(&["recover", target]).ok();
        lab.instance.wait_optimal();
    }
    // The second was recovered from what the first was made.
    lab.compare_data();
}

#[test]
fn chains_of_undos_are_recovered_as_they_are() {
    are_recovered(Python::Zeo6);
}

#[test]
fn chains_of_undos_are_recovered_as_they_are_by_servers_of_zeo_5() {
    are_recovered(Python::Zeo5);
}
