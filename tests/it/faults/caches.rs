//! A client's cache on disk, and a daemon that knows nothing of what the client has seen: it starts only
//! after the cache was made stale by another, and judges by the history that it reads from the members.

use crate::harness::python::{self, Workers};
use crate::harness::{Instance, Lab, LabSetup};

const COOP: LabSetup = LabSetup {
    blobs: false,
    settings: "cluster_mode: coop",
    ..LabSetup::THREE
};

/// So many changes are made while the client is away.
fn fail_over(setup: LabSetup, changes: &str, dropped: &str) {
    let mut lab = Lab::new(setup);
    let other = Instance::new();
    lab.configure(&other, &[0, 1, 2]);
    lab.instance.start().ok();
    lab.instance.wait_optimal();
    let both = format!("{},{}", lab.instance.address, other.address);
    let folder = lab.instance.beside("");
    let cache = lab.instance.beside("cache.zec").display().to_string();
    python::run("features.py", &["cache_fill", &both, &cache]).ok();
    // A worker sees whenever what it reads is not of one moment.
    let kept = folder.join("{}.zec").display().to_string();
    let more = &["--mix", "undo", "--cache", &kept];
    let mut cached = Workers::start_with(&both, &folder, 1, more);
    cached.wait_for_more(5);
    cached.end();
    let mut others = Workers::join(&lab.instance.address, &folder, 1, 1, &["--mix", "undo"]);
    others.wait_for_more(2);
    others.end();
    python::run(
        "features.py",
        &["cache_change", &lab.instance.address, changes],
    )
    .ok();
    lab.instance.kill9();
    other.start().ok();
    other.wait_optimal();
    python::run("features.py", &["cache_check", &both, &cache, dropped]).ok();
    cached.restart(0);
    cached.wait_for_more(3);
    lab.instance.start().ok();
    lab.instance.wait_optimal();
    let mut all = cached.and(others);
    let totals = all.end();
    assert_eq!(totals.errors, 0, "{totals:?}");
    other.stop().ok();
    totals.assert_exact(&lab.compare(&all.logs()));
}

#[test]
fn a_cache_that_another_daemon_made_stale_is_verified() {
    fail_over(COOP, "10", "no");
}

#[test]
fn a_cache_older_than_the_other_daemon_remembers_is_dropped() {
    let setup = LabSetup {
        settings: "cluster_mode: coop\ninvalidation_queue: 5",
        ..COOP
    };
    fail_over(setup, "10", "yes");
}
