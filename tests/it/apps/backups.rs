//! `repozo` of a member's file while clients commit.

use std::path::Path;

use crate::harness::Instance;
use crate::harness::python::{self, Workers};

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

#[test]
fn a_live_member_is_backed_up_and_restored_before_and_after_a_pack() {
    let instance = Instance::started(&[]);
    let mut workers = Workers::start_with(
        &instance.address,
        &instance.beside(""),
        2,
        &["--pause", "0.02"],
    );
    workers.wait_for_more(5);
    let (file, repository) = (instance.copy(1), instance.beside("repository"));
    let args = [instance.address.as_str(), text(&file), text(&repository)];
    python::run("backup.py", &args).ok();
    instance.run(&["pack", "--days", "0"]).ok();
    workers.wait_for_more(1);
    let mut packed = args.to_vec();
    packed.push("--packed");
    python::run("backup.py", &packed).ok();
    workers.end();
    let found = python::verify(&instance.given_back(), &[]);
    assert!(found["transactions"].as_u64() > Some(1), "{found}");
}
