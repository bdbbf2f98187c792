//! What `zeoraid-json(5)` says is printed, key by key.

use super::*;
use crate::cli::manual::answers::DOCUMENTS;

/// A document of each kind, as a command prints it.
fn printed() -> Vec<(&'static str, serde_json::Value)> {
    let of = |bench: &Bench, line: &str| -> serde_json::Value {
        let shown = bench.run(line);
        let (_, document) = shown.split_once("-- stdout\n").expect(&shown);
        let document = document.split("-- stderr").next().unwrap();
        let first = serde_json::Deserializer::from_str(document)
            .into_iter()
            .next();
        first.unwrap().expect(&shown)
    };
    let bench = Bench::new(vec![scrubs::found_by_scrub(recovering())]);
    let down = Bench::new(optimal());
    *down.daemon.problem.lock() = Some(not_running());
    let jobs = Bench::new(optimal());
    *jobs.daemon.jobs.lock() = [packing(
        JobState::Done,
        [
            ("copy1", JobMemberState::Done),
            ("copy2", JobMemberState::Done),
        ],
    )]
    .into();
    let ended = Bench::new(degraded());
    let done = Recovery {
        state: RecoveryState::Done,
        ..copying("copy2")
    };
    *ended.daemon.recoveries.lock() = [(done, None)].into();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("Data.fs");
    std::fs::write(&data, b"FS21").unwrap();
    let etc = folder.path().join("etc");
    std::fs::create_dir(&etc).unwrap();
    std::fs::write(etc.join("zeoraid.yaml"), "listen: 127.0.0.1:8100\n").unwrap();
    let details = of(&bench, "details -o json");
    let array = details["arrays"][0].clone();
    vec![
        ("STATUS", of(&bench, "status -o json")),
        ("UNKNOWN", of(&down, "details -o json")),
        ("UNKNOWN", of(&down, "status -o json")),
        ("MEMBER", array["members"][0].clone()),
        ("RECOVERY", array["recovery"].clone()),
        ("ARRAY", array),
        ("DETAILS", details),
        ("RECOVERED", of(&ended, "recover copy2 -o json")),
        ("JOB", of(&jobs, "pack -o json")),
        ("EVENT", of(&bench, "events -o json")),
        ("SETTINGS", of(&bench, "show -o json")),
        ("RELOADED", of(&bench, "reload -o json")),
        (
            "CHECKED",
            of(
                &bench,
                &format!("check-config -o json -C {}", folder.path().display()),
            ),
        ),
        (
            "FILE",
            of(&bench, &format!("inspect -o json {}", data.display())),
        ),
    ]
}

#[test]
fn every_key_is_in_the_manual_and_every_key_of_the_manual_is_printed() {
    let printed = printed();
    for document in DOCUMENTS {
        let mut found = printed
            .iter()
            .filter(|(name, _)| *name == document.name)
            .peekable();
        assert!(found.peek().is_some(), "nothing prints {}", document.name);
        let listed: Vec<&str> = document.keys.iter().map(|key| key.name).collect();
        for (_, value) in found {
            let keys = value.as_object().expect(document.name).keys();
            let mut keys: Vec<&str> = keys.map(String::as_str).collect();
            let mut listed = listed.clone();
            // The order is that of the snapshots.
            keys.sort_unstable();
            listed.sort_unstable();
            assert_eq!(keys, listed, "{}", document.name);
        }
    }
}
