//! Objects of 100 MiB, transactions of a hundred thousand objects, texts of 64 KiB, through Python clients:
//! they pass, in bounded memory, and what the format has no room for is refused with its limit.

use std::fs;

use serde_json::Value;

use crate::harness::python;
use crate::harness::{Instance, Lab, LabSetup};

/// However much passes through.
const MOST_MEMORY_KIB: u64 = 200 * 1024;

fn large_things_pass(instance: &Instance, mib: &str, count: &str) -> Value {
    let run = python::run("large.py", &[&instance.address, mib, count]).ok();
    let words = serde_json::from_str(&run.stdout).expect("it prints JSON");
    let pid = instance.pid().expect("a daemon runs");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.expect("its peak").trim().trim_end_matches(" kB");
    let peak: u64 = peak.parse().expect("a number");
    eprintln!("the daemon took {} MiB at most", peak / 1024);
    assert!(peak < MOST_MEMORY_KIB, "{peak} KiB");
    // Nobody was taken out for an answer.
    instance.wait_optimal();
    assert!(!instance.log().contains("was taken out"));
    words
}

#[test]
fn large_things_pass_in_bounded_memory_and_too_large_ones_are_refused_with_the_limit() {
    let instance = Instance::started(&[]);
    let words = large_things_pass(&instance, "100", "100000");
    for (what, said) in [
        (
            "user",
            "the user's name has 65536 bytes, the limit is 65535",
        ),
        (
            "description",
            "the description has 65536 bytes, the limit is 65535",
        ),
        ("extension", "the extension has 66"),
    ] {
        let found = words[what].as_str().expect("words");
        assert!(found.contains(said), "{what}: {found}");
        assert!(found.contains("the limit is 65535"), "{what}: {found}");
    }
}

/// The words are the servers'. (Python's server takes half a minute for an object of 100 MiB.)
#[test]
fn large_things_pass_before_servers_too() {
    let lab = Lab::started(LabSetup::TWO);
    let words = large_things_pass(&lab.instance, "10", "20000");
    for (what, said) in [
        ("user", "user name too long"),
        ("description", "description too long"),
        ("extension", "too much extension data"),
    ] {
        let found = words[what].as_str().expect("words");
        assert!(found.contains(said), "{what}: {found}");
    }
}
