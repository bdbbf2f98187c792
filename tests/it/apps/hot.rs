//! Sixteen clients, each a process, on one hot object: all get through.

use serde_json::Value;

use crate::harness::python;
use crate::harness::{Instance, Lab, LabSetup};

/// Of which each does so many commits, and goes on until the last has done them.
const CLIENTS: u64 = 16;
const COMMITS: u64 = 8;

/// How often any of them may have to try for any commit. Three times are usual: before its turn, at its turn with
/// what it had read before, and with what is there. (A place in line lapses on a machine that is too busy; so there is
/// some room.) Where it is left to chance, the unlucky lose to nearly every commit of the others: hundreds of times.
const MOST_TRIES: u64 = 2 * CLIENTS;

/// What came of each of these kinds, one after the other.
#[track_caller]
fn hammered(address: &str, kinds: &[&str]) -> Vec<Value> {
    let (clients, commits) = (CLIENTS.to_string(), COMMITS.to_string());
    let args = [&[address, clients.as_str(), commits.as_str()], kinds].concat();
    let run = python::run("hot.py", &args).ok();
    eprintln!("{}", run.stdout);
    let lines = run.stdout.lines();
    let found: Vec<Value> = lines
        .map(|line| serde_json::from_str(line).expect("it prints JSON"))
        .collect();
    assert_eq!(found.len(), kinds.len());
    found
}

fn number(found: &Value, name: &str) -> u64 {
    found[name].as_u64().expect("a count")
}

/// Files leave it to the clients to resolve. The commit lock is theirs meanwhile, so that nobody votes more than
/// once before and once after resolving, and nobody ever fails. Where nobody resolves, whoever loses tries again.
#[test]
fn on_a_hot_object_of_files_all_get_through() {
    let instance = Instance::started(&[]);
    let found = hammered(&instance.address, &["length", "plain", "both"]);
    assert_eq!(number(&found[0], "most_tries"), 1, "{found:?}");
    assert_eq!(number(&found[0], "most_votes"), 2, "{found:?}");
    assert!(number(&found[1], "most_tries") <= MOST_TRIES, "{found:?}");
    assert!(number(&found[2], "most_tries") <= MOST_TRIES, "{found:?}");
    python::verify(&instance.given_back(), &[]);
}

/// Servers resolve themselves.
#[test]
fn on_a_hot_object_of_servers_all_get_through() {
    let mut lab = Lab::started(LabSetup {
        blobs: false,
        ..LabSetup::TWO
    });
    let found = hammered(&lab.instance.address, &["length", "plain"]);
    assert_eq!(number(&found[0], "most_tries"), 1, "{found:?}");
    assert_eq!(number(&found[0], "most_votes"), 1, "{found:?}");
    assert!(number(&found[1], "most_tries") <= MOST_TRIES, "{found:?}");
    lab.compare(&[]);
}
