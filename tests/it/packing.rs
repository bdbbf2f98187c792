//! A file is packed while eight clients commit: how long they wait for it, and whether the outcome is
//! what Python makes of the same file.
//!
//! What is in force at the moment of the packing stays beside as `Data.fs.old`: that is the same file.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::harness::Instance;
use crate::harness::python::{self, Script};

const CLIENTS: usize = 8;
const MIB: &str = "40";

/// Longer than this nobody may wait: on a machine that does nothing else it is some tens of milliseconds.
const LONGEST: Duration = Duration::from_secs(5);

const PATIENCE: Duration = Duration::from_mins(2);

fn json(text: &str) -> Value {
    let line = text.lines().last().unwrap_or_default();
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

#[test]
fn packed_while_eight_clients_commit_it_is_what_python_makes_of_the_same_file() {
    let instance = Instance::made(&[]);
    let filled = instance.beside("filled.fs");
    python::run("packing.py", &["fill", path(&filled), MIB]).ok();
    let before = fs::metadata(&filled).expect("it was made").len();
    let members = [instance.copy(1), instance.copy(2)];
    for member in &members {
        fs::create_dir_all(member.parent().expect("a folder")).expect("a folder");
        fs::copy(&filled, member).expect("room for it");
    }
    instance.start().ok();
    instance.wait_optimal();
    let mut clients: Vec<Script> = (0..CLIENTS)
        .map(|number| {
            let name = format!("c{number}");
            Script::spawn("packing.py", &["client", &instance.address, &name])
        })
        .collect();
    for client in &mut clients {
        client.wait_printed("ready");
    }
    let packed = json(
        &python::run("packing.py", &["pack", &instance.address])
            .ok()
            .stdout,
    );
    let number = |value: &Value| value.as_f64().expect("a number");
    let during = number(&packed["began"])..number(&packed["ended"]);
    let (mut commits, mut counts) = (0, Vec::new());
    let (mut waited, mut otherwise) = (0.0, 0.0);
    for mut client in clients {
        let said = json(&client.end(PATIENCE).ok().stdout);
        commits += said["commits"].as_u64().expect("a count");
        counts.push(said["count"].as_u64().expect("a count"));
        for wait in said["waits"].as_array().expect("a list") {
            let (took, began) = (number(&wait[0]), number(&wait[1]));
            let longest: &mut f64 = if began < during.end && began + took > during.start {
                &mut waited
            } else {
                &mut otherwise
            };
            *longest = longest.max(took);
        }
    }
    eprintln!(
        "{commits} commits; a pack of two members of {} MiB took {:.1} s; the longest commit: {:.0} ms \
         meanwhile, {:.0} ms otherwise",
        before >> 20,
        during.end - during.start,
        waited * 1000.0,
        otherwise * 1000.0
    );
    assert!(commits > CLIENTS as u64 * 5, "{commits}");
    assert!(waited < LONGEST.as_secs_f64(), "a client waited {waited} s");
    for member in instance.given_back() {
        let old = member.with_file_name("Data.fs.old");
        let time = packed["time"].as_str().expect("a time");
        let expected = python::run("packing.py", &["expect", path(&old), time]).ok();
        let expected = fs::read(expected.stdout.trim()).expect("Python has packed it");
        let ours = fs::read(&member).expect("the member");
        let before = fs::metadata(&old).expect("it was kept").len() as usize;
        assert!(expected.len() < before, "there was something to be packed");
        // After it come the transactions that were committed since.
        assert!(ours.len() >= expected.len());
        let same = ours[..expected.len()] == expected;
        assert!(same, "{} is not what Python packs", member.display());
        let found = python::run("packing.py", &["counts", path(&member)])
            .ok()
            .stdout;
        let found: Vec<u64> = found
            .lines()
            .map(|line| line.parse().expect("a count"))
            .collect();
        assert_eq!(found, counts, "{}", member.display());
        assert!(!member.with_file_name("Data.fs.pack").exists());
    }
}
