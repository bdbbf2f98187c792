//! The tools that ZODB ships, on members' files.

use crate::harness::Instance;
use crate::harness::python::{self, Workers};

/// They say of a member's file what they say of one that Python's `FileStorage` has written.
#[test]
fn the_tools_of_zodb_cannot_tell_a_member_from_pythons_file() {
    let instance = Instance::started(&[]);
    let folder = instance.beside("");
    let mut workers = Workers::start_with(&instance.address, &folder, 2, &["--mix", "undo"]);
    workers.wait_for_more(10);
    workers.end();
    // Packed while others go on (who do not undo, which is refused meanwhile): some of it is what a pack has
    // copied, the rest was written after it.
    let mut workers = Workers::join(&instance.address, &folder, 2, 1, &[]);
    workers.wait_for_more(5);
    instance.run(&["pack", "--days", "0"]).ok();
    workers.wait_for_more(5);
    workers.end();
    let mut workers = Workers::join(&instance.address, &folder, 3, 1, &["--mix", "undo"]);
    workers.wait_for_more(20);
    workers.end();
    let members = instance.given_back();
    python::verify(&members, &[]);
    let judged = python::run(
        "tools.py",
        &[members[1].to_str().expect("a plain path"), "--again"],
    );
    let judged = judged.ok();
    // Of those that ZODB ships, `fsstats` trips over its own diagrams where there is more than a little.
    let all = "analyze checkbtrees fsdump fsoids fsrefs fstail fstest netspace space";
    for tool in all.split(' ') {
        judged.clone().prints(&format!(" {tool}"));
    }
}
