//! The main job, end to end: an array serves real ZODB clients, loses a copy while they work, gets it
//! back, and gives both copies back to Python, which finds everything in them.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::harness::instance::PATIENCE;
use crate::harness::python::{self, Workers};
use crate::harness::{Instance, until};

/// What happens to the file of the copy that is out.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Damage {
    /// Nothing: it is only behind.
    None,
    Header,
    Middle,
    /// Torn in the middle of a transaction.
    Tail,
    /// Bytes that were never written as a transaction.
    Garbage,
    Deleted,
    /// Swapped for an empty file.
    Emptied,
}

impl Damage {
    pub(crate) fn is_done_to(self, path: &Path) {
        let size = fs::metadata(path).expect("the copy is there").len();
        match self {
            Damage::None => {}
            Damage::Header => overwrite(path, 0, b"XXXX"),
            Damage::Middle => overwrite(path, size / 2, &[0xa5; 4096]),
            Damage::Tail => {
                let file = OpenOptions::new()
                    .write(true)
                    .open(path)
                    .expect("the copy is there");
                file.set_len(size - 37).expect("cutting it short");
            }
            Damage::Garbage => overwrite(path, size, &[0x5a; 777]),
            Damage::Deleted => fs::remove_file(path).expect("the copy is there"),
            Damage::Emptied => drop(File::create(path).expect("the copy is there")),
        }
    }
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    let mut file = OpenOptions::new()
        .write(true)
        .open(path)
        .expect("the copy is there");
    file.seek(SeekFrom::Start(at))
        .expect("a file can be sought");
    file.write_all(bytes).expect("a small write");
}

/// `init --yes --start`, four clients, a member lost and recovered while they go on, and the verdict.
fn lose_and_recover(encoding: &str, damage: Damage, recover: &[&str]) {
    let instance = Instance::started(&[&format!("encoding={encoding}")]);
    let mut workers = Workers::start(&instance.address, &instance.beside(""), false);
    workers.wait_for_more(15);

    instance.run(&["disable", "copy2", "--yes"]).ok();
    let member = instance.wait_member("copy2", "degraded");
    assert!(
        member["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("disabled")),
        "{member}"
    );
    instance.run(&["status"]).ended(2).prints("degraded");
    workers.wait_for_more(10);
    damage.is_done_to(&instance.copy(2));
    workers.wait_for_more(10);

    let mut command = vec!["recover", "copy2"];
    command.extend(recover);
    instance.run(&command).ok();
    instance.run(&["status"]).ok().prints("optimal");
    workers.wait_for_more(15);
    let totals = workers.end();
    assert_eq!(totals.errors, 0, "a client noticed: {totals:?}");
    assert!(
        totals.resolved > 0,
        "the clients never got in each other's way: {totals:?}"
    );
    assert!(
        totals.conflicts > 0,
        "the clients never got in each other's way: {totals:?}"
    );

    let members = instance.given_back();
    assert_eq!(members, [instance.copy(1), instance.copy(2)]);
    let found = python::verify(&members, &workers.logs());
    assert_eq!(found["committed"], totals.commits, "{found}");
    assert_eq!(found["acknowledged"], totals.commits, "{found}");
}

#[test]
fn clients_of_z5_work_on_while_a_copy_is_out_and_recovered() {
    lose_and_recover("Z5", Damage::None, &[]);
}

#[test]
fn clients_of_m5_work_on_while_a_copy_is_deleted_and_recovered() {
    lose_and_recover("M5", Damage::Deleted, &[]);
}

#[test]
fn a_copy_with_a_torn_tail_is_recovered() {
    lose_and_recover("Z5", Damage::Tail, &["--verify"]);
}

#[test]
fn a_copy_with_garbage_at_its_end_is_recovered() {
    lose_and_recover("M5", Damage::Garbage, &["--rebuild", "--yes"]);
}

#[test]
fn a_copy_without_a_header_is_started_afresh() {
    lose_and_recover("Z5", Damage::Header, &["--rebuild", "--yes"]);
}

#[test]
fn a_copy_damaged_in_its_middle_is_rebuilt() {
    lose_and_recover("M5", Damage::Middle, &["--rebuild", "--yes"]);
}

#[test]
fn a_copy_that_was_emptied_is_filled_again() {
    lose_and_recover("Z5", Damage::Emptied, &[]);
}

/// The daemon had no chance to say how far it was: the record names who held everything, and nothing else
/// keeps it from an empty database.
#[test]
fn after_a_kill_it_never_serves_from_copies_that_are_not_there() {
    let instance = Instance::started(&[]);
    let mut workers = Workers::start(&instance.address, &instance.beside(""), true);
    workers.wait_for_more(5);
    instance.kill9();
    let away = |number: usize| instance.beside(&format!("away{number}"));
    for number in [1, 2] {
        fs::rename(instance.copy(number), away(number)).expect("the copy is there");
    }
    instance
        .run(&["start", "--timeout", "2s"])
        .ended(1)
        .says("is its disk mounted, or was it moved?");
    for number in [1, 2] {
        assert!(!instance.copy(number).exists(), "a new one was made");
    }
    // One that is back is enough; the other one is begun anew and filled.
    fs::rename(away(2), instance.copy(2)).expect("moving it back");
    instance.wait_optimal();
    workers.wait_for_more(3);
    let totals = workers.end();
    let found = python::verify(&instance.given_back(), &workers.logs());
    totals.assert_exact(&found);
}

/// Nor by force: there may be another copy, and an older one is better than none.
#[test]
fn by_force_it_serves_from_a_copy_that_is_there() {
    for disabled in [false, true] {
        let instance = Instance::started(&[]);
        let mut workers = Workers::start(&instance.address, &instance.beside(""), false);
        workers.wait_for_more(5);
        let away = |number: usize| instance.beside(&format!("away{number}"));
        if disabled {
            instance.run(&["disable", "copy2", "--yes"]).ok();
        } else {
            fs::rename(instance.copy(2), away(2)).expect("the copy is there");
            fs::create_dir(instance.copy(2)).expect("nothing is there");
            instance.wait_member("copy2", "degraded");
        }
        workers.wait_for_more(5);
        workers.end();
        instance.stop().ok();
        fs::rename(instance.copy(1), away(1)).expect("the copy is there");
        if !disabled {
            fs::remove_dir(instance.copy(2)).expect("it is empty");
            fs::rename(away(2), instance.copy(2)).expect("moving it back");
        }
        let held = fs::read(instance.copy(2)).expect("the copy is there");
        assert!(held.len() > 1000, "it has transactions");
        instance.run(&["start", "--force", "--yes"]).ok();
        let member = instance.wait_member("copy2", "optimal");
        let now = fs::read(instance.copy(2)).expect("the copy is there");
        assert_eq!(now, held, "{member:#}");
        // Without any there is nothing to serve, however much it is wanted.
        instance.run(&["disable", "copy1", "--yes"]).ok();
        instance.stop().ok();
        fs::rename(instance.copy(2), away(2)).expect("the copy is there");
        drop(fs::remove_file(instance.copy(1)));
        instance
            .run(&["start", "--force", "--yes", "--timeout", "2s"])
            .ended(1);
        assert!(!instance.copy(2).exists(), "a new one was made");
    }
}

/// The daemon holds the file open, and whatever it writes there would be gone with it.
#[test]
fn a_copy_that_is_deleted_while_it_serves_is_noticed_and_filled_again() {
    let instance = Instance::started(&[]);
    let mut workers = Workers::start(&instance.address, &instance.beside(""), false);
    workers.wait_for_more(5);
    Damage::Deleted.is_done_to(&instance.copy(2));
    until("the copy to be there again", PATIENCE, || {
        instance.copy(2).exists()
    });
    instance.wait_optimal();
    assert!(
        instance
            .log()
            .contains("was removed or replaced while it was in use"),
        "{}",
        instance.log()
    );
    // The last optimal one is not let go of: it is said, and it serves on.
    instance.run(&["disable", "copy2", "--yes"]).ok();
    let away = instance.beside("away");
    fs::rename(instance.copy(1), &away).expect("the copy is there");
    until("the log to say so", PATIENCE, || {
        instance
            .log()
            .contains("serves from what is gone when the daemon ends")
    });
    let run = instance.run(&["details"]).ended(2);
    assert!(run.stdout.contains("gone when the daemon ends"), "{run}");
    assert!(
        run.stdout.contains("Next: zeoraidctl recover copy2"),
        "{run}"
    );
    workers.wait_for_more(5);
    instance.run(&["recover", "copy2"]).ok();
    until("copy1 to be taken out, and filled", PATIENCE, || {
        instance.copy(1).exists()
    });
    instance.wait_optimal();
    workers.wait_for_more(3);
    let totals = workers.end();
    assert_eq!(totals.errors, 0, "a client noticed: {totals:?}");
    let found = python::verify(&instance.given_back(), &workers.logs());
    assert_eq!(found["acknowledged"], totals.commits, "{found}");
}

#[test]
fn nothing_of_a_damaged_copy_is_thrown_away() {
    let instance = Instance::started(&[]);
    let mut workers = Workers::start(&instance.address, &instance.beside(""), false);
    workers.wait_for_more(5);
    instance.run(&["disable", "copy2", "--yes"]).ok();
    instance.wait_member("copy2", "degraded");
    Damage::Header.is_done_to(&instance.copy(2));
    let damaged = fs::read(instance.copy(2)).expect("the copy is there");
    instance
        .run(&["recover", "copy2", "--rebuild", "--yes"])
        .ok();
    workers.end();
    let folder = instance
        .copy(2)
        .parent()
        .expect("it lies in a folder")
        .to_owned();
    let kept = fs::read_dir(&folder)
        .expect("the folder is there")
        .any(|entry| {
            let mut bytes = Vec::new();
            let path = entry.expect("the folder can be read").path();
            if let Ok(mut file) = File::open(path) {
                drop(file.read_to_end(&mut bytes));
            }
            bytes == damaged
        });
    assert!(
        kept,
        "the damaged file was not set aside in {}",
        folder.display()
    );
    python::verify(&instance.given_back(), &workers.logs());
}

#[test]
fn two_arrays_of_one_file_each_serve_as_plain_zeo_servers_do() {
    let instance = Instance::started(&["recipe=single-server"]);
    let mut workers = Workers::start(&instance.address, &instance.beside(""), false);
    workers.wait_for_more(10);
    let totals = workers.end();
    let found = python::verify(&instance.given_back(), &workers.logs());
    assert_eq!(found["committed"], totals.commits, "{found}");
}
