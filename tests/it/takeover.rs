//! An existing site's `Data.fs` is taken over where it lies, extended, and given back.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::Instance;
use crate::harness::instance::Run;
use crate::harness::python::{self, Workers, program};

const OBJECTS: &str = "100000";

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// An instance whose first member is a file that Python wrote.
fn adopted(objects: &str) -> (Instance, PathBuf) {
    let instance = Instance::new();
    let site = instance.beside("site");
    fs::create_dir(&site).expect("a folder for the site");
    let file = site.join("Data.fs");
    python::run("makedb.py", &[text(&file), objects]).ok();
    instance.init(&[&format!("adopt={}", file.display())]).ok();
    (instance, file)
}

/// ZODB's own tools are content with the file.
fn judge(file: &Path, objects: &str) {
    python::run("tools.py", &[text(file), "--objects", objects]).ok();
}

fn repozo(repository: &Path, args: &[&str]) -> Run {
    fs::create_dir_all(repository).expect("a folder for the backups");
    let mut command = program("repozo");
    command.args(["-v", "-r", text(repository)]).args(args);
    Run::of(command).ok()
}

#[test]
fn a_file_of_a_site_is_taken_over_extended_and_given_back() {
    let (instance, file) = adopted(OBJECTS);
    let before = instance.beside("before.fs");
    fs::copy(&file, &before).expect("a copy for comparison");
    let backups = instance.beside("backups");
    repozo(&backups, &["-B", "-F", "-f", text(&file)]);

    // The other member is empty: it is filled from the one that was adopted.
    instance.start().ok();
    instance.wait_optimal();
    let mut workers = Workers::start(&instance.address, &instance.beside(""), false);
    workers.wait_for_more(20);
    // A backup of a file that grows, as sites make them every night.
    repozo(&backups, &["-B", "-Q", "-f", text(&file)]);
    workers.wait_for_more(5);
    workers.end();
    let members = instance.given_back();
    assert_eq!(members[0], file, "it is used where it lies");

    let found = python::verify(&members, &workers.logs());
    assert!(
        found["committed"].as_u64().is_some_and(|count| count > 80),
        "{found}"
    );
    // What was there is there, to the byte.
    let (old, new) = (
        fs::read(&before).expect("a file"),
        fs::read(&file).expect("a file"),
    );
    assert!(
        new.len() > old.len() && new[..old.len()] == old[..],
        "what Python wrote has changed"
    );
    for member in &members {
        python::run("index.py", &[text(member)]).ok();
        judge(member, OBJECTS);
    }

    let more = repozo(&backups, &["-B", "-f", text(&file)]);
    assert!(
        more.stderr.contains("incremental"),
        "the backup goes on from the one before: {more}"
    );
    repozo(&backups, &["-V"]);
    let restored = instance.beside("restored.fs");
    repozo(&backups, &["-R", "-o", text(&restored)]);
    assert!(
        fs::read(&restored).expect("a file") == fs::read(&file).expect("a file"),
        "what is restored is what was backed up"
    );
}

/// A site whose disk is not mounted, or whose path is mistyped, is not begun anew.
#[test]
fn a_first_start_waits_for_the_file_that_is_taken_over_and_makes_none() {
    let (instance, file) = adopted("100");
    let away = file.with_extension("away");
    fs::rename(&file, &away).expect("it can be moved");

    let check = instance.run(&["check-config"]).ended(1);
    check.prints("Data.fs is not there");
    let run = instance.run(&["start", "--timeout", "1s"]).ended(1);
    assert!(
        run.stderr.contains("is its disk mounted, or was it moved?"),
        "{run}"
    );
    assert!(run.stderr.contains("bring back copy1"), "{run}");
    assert!(!file.exists(), "a new one was made");

    fs::rename(&away, &file).expect("it can be moved back");
    instance.wait_optimal();
    let objects = instance.details()["objects"].as_u64();
    assert!(objects.is_some_and(|objects| objects > 100), "{objects:?}");
    instance.given_back();
}

#[test]
fn what_is_no_data_fs_is_not_taken_over() {
    let instance = Instance::new();
    let file = instance.beside("backup.tar.gz");
    fs::write(&file, b"\x1f\x8b\x08\0 and more").expect("a file");
    let setting = format!("adopt={}", file.display());
    let run = instance.init(&[&setting]);
    assert_eq!(run.code, 1, "{run}");
    assert!(
        run.stderr.contains("is not a Data.fs: it begins with"),
        "{run}"
    );
    assert!(!instance.root().exists(), "something was made of it");

    fs::write(&file, b"").expect("a file");
    let run = instance.init(&[&setting]);
    assert!(run.stderr.contains("holds nothing"), "{run}");
}

/// Python writes to the file that was given back, and the daemon takes it again: with Python's index,
/// without any, and with one that is damaged or of another state.
#[test]
fn a_file_goes_back_and_forth_between_python_and_the_daemon() {
    let (instance, _) = adopted("2000");
    let index = instance.beside("site").join("Data.fs.index");
    instance.start().ok();
    instance.wait_optimal();
    let stale = fs::read(&index).ok();
    for turn in ["python's", "none", "damaged", "stale"] {
        let mut workers = Workers::start(&instance.address, &instance.beside(""), false);
        workers.wait_for_more(2);
        workers.end();
        let members = instance.given_back();
        python::run("index.py", &[text(&members[0])]).ok();
        for log in workers.logs() {
            fs::remove_file(log).expect("the log is there");
        }
        // Both members get the same transaction, so that they stay the same history.
        python::run("append.py", &[text(&members[0]), text(&members[1]), turn]).ok();
        match turn {
            "none" => fs::remove_file(&index).expect("Python wrote one"),
            "damaged" => {
                let mut bytes = fs::read(&index).expect("Python wrote one");
                let middle = bytes.len() / 2;
                bytes[middle..middle + 20].fill(0xff);
                fs::write(&index, bytes).expect("writing the index");
            }
            "stale" => match &stale {
                Some(stale) => fs::write(&index, stale).expect("writing the index"),
                None => fs::write(&index, b"").expect("writing the index"),
            },
            _ => {}
        }
        instance.start().ok();
        instance.wait_optimal();
        let seen = python::run("append.py", &["--read", &instance.address]).ok();
        assert_eq!(seen.stdout.trim(), turn);
    }
    let members = instance.given_back();
    python::verify(&members, &[]);
    for member in &members {
        judge(member, "2000");
    }
}
