//! `zodbconvert`, which `RelStorage` ships: databases go into the array and out of it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::Instance;
use crate::harness::instance::Run;
use crate::harness::python::{self, Python, Workers};

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// A storage, as a section of `ZConfig`.
enum Storage<'a> {
    File(&'a Path),
    /// With blobs: in the folder `blobs` beside the file.
    FileWithBlobs(&'a Path),
    Array(&'a Instance),
    /// With a cache of blobs.
    ArrayWithBlobs(&'a Instance),
    /// `RelStorage` over `SQLite`, which keeps histories and blobs in this folder.
    Sqlite(&'a Path),
}

impl Storage<'_> {
    fn section(&self, role: &str) -> String {
        let (kind, lines) = match self {
            Storage::File(path) => ("filestorage", format!("path {}", path.display())),
            Storage::FileWithBlobs(path) => {
                let blobs = path.with_file_name("blobs");
                let lines = format!("path {}\nblob-dir {}", path.display(), blobs.display());
                ("filestorage", lines)
            }
            Storage::Array(array) => (
                "zeoclient",
                format!("server {}\nstorage main", array.address),
            ),
            Storage::ArrayWithBlobs(array) => {
                let blobs = array.beside(&format!("cache-of-{role}"));
                let server = &array.address;
                let lines = format!(
                    "server {server}\nstorage main\nblob-dir {}",
                    blobs.display()
                );
                ("zeoclient", lines)
            }
            Storage::Sqlite(folder) => {
                let (data, blobs) = (folder.join("data"), folder.join("blobs"));
                let adapter = format!("<sqlite3>\ndata-dir {}\n</sqlite3>", data.display());
                let lines = format!(
                    "blob-dir {}\nshared-blob-dir true\n{adapter}",
                    blobs.display()
                );
                ("relstorage", lines)
            }
        };
        format!("<{kind} {role}>\n{lines}\n</{kind}>\n")
    }
}

/// Runs the tool, with its configuration in this folder.
fn zodbconvert(folder: &Path, options: &[&str], from: &Storage, to: &Storage) -> Run {
    let conf = folder.join("zodbconvert.conf");
    let all = from.section("source") + &to.section("destination");
    fs::write(&conf, all).expect("writing the configuration");
    let mut command = python::program_with(Python::Tools, "zodbconvert");
    command.args(options).arg(&conf);
    Run::of(command)
}

/// A folder beside the instance, and the `Data.fs` in it that is not there yet.
fn place(instance: &Instance, name: &str) -> PathBuf {
    let folder = instance.beside(name);
    fs::create_dir(&folder).expect("a folder");
    folder.join("Data.fs")
}

/// Everything that a `Data.fs` can hold: undone and redone, created and undone, long metadata, a pack.
#[test]
fn a_file_is_converted_into_an_array_and_back() {
    let instance = Instance::started(&[]);
    let source = place(&instance, "source");
    let back = place(&instance, "back");
    let folder = instance.beside("");
    python::run("makedb.py", &[text(&source), "3000"]).ok();
    let (file, array) = (Storage::File(&source), Storage::Array(&instance));

    let dry = zodbconvert(&folder, &["--dry-run"], &file, &array).ok();
    assert!(dry.stderr.contains("Would copy"), "{dry}");
    zodbconvert(&folder, &[], &file, &array).ok();
    // It is not empty any more.
    zodbconvert(&folder, &[], &file, &array)
        .ended(1)
        .says("destination storage has data");
    // The site goes on, and the rest is brought in.
    python::run("append.py", &[text(&source), "more"]).ok();
    zodbconvert(&folder, &["--incremental"], &file, &array).ok();
    zodbconvert(&folder, &[], &array, &Storage::File(&back)).ok();

    let mut files = instance.given_back();
    files.splice(0..0, [source, back]);
    python::verify_with(&files, &[], &["--extension-bytes"]);
    for file in &files {
        python::run("tools.py", &[text(file), "--objects", "3000"]).ok();
    }
}

/// Out of the array and into a relational database; from there into a file, which becomes a member of
/// another array.
#[test]
fn histories_with_blobs_go_out_through_other_storages_and_in_again() {
    let instance = Instance::started(&[]);
    let folder = instance.beside("");
    let mix = ["--mix", "blob,undo"];
    let mut workers = Workers::start_with(&instance.address, &folder, 2, &mix);
    workers.wait_for_more(25);
    workers.end();

    let (file, round) = (place(&instance, "file"), place(&instance, "round"));
    let array = Storage::ArrayWithBlobs(&instance);
    let sqlite = instance.beside("sqlite");
    fs::create_dir(&sqlite).expect("a folder");
    zodbconvert(&folder, &[], &array, &Storage::FileWithBlobs(&file)).ok();
    zodbconvert(&folder, &[], &array, &Storage::Sqlite(&sqlite)).ok();
    zodbconvert(
        &folder,
        &[],
        &Storage::Sqlite(&sqlite),
        &Storage::FileWithBlobs(&round),
    )
    .ok();

    // With the blobs beside it.
    let adopted = Instance::started(&[&format!("adopt={}", round.display())]);
    adopted.wait_optimal();
    let mut files = instance.given_back();
    files.push(file);
    files.extend(adopted.given_back());
    // A relational database keeps neither back-pointers nor the order of records within a transaction.
    let options = ["--blobs", "--no-pointers", "--any-order"];
    let found = python::verify_with(&files, &workers.logs(), &options);
    assert!(found["blobs"].as_u64() > Some(5), "{found}");
}

/// ZEO's client has no call that restores a blob: what is converted *into* a ZEO server comes without the files.
/// The array takes it as Python's server does, and its members can be recovered all the same.
#[test]
fn blobs_that_never_came_do_not_keep_a_member_from_its_recovery() {
    let instance = Instance::started(&[]);
    let mut workers = Workers::start_with(
        &instance.address,
        &instance.beside(""),
        1,
        &["--mix", "blob"],
    );
    workers.wait_for_more(15);
    workers.end();
    let file = place(&instance, "file");
    let folder = instance.beside("");
    let array = Storage::ArrayWithBlobs(&instance);
    zodbconvert(&folder, &[], &array, &Storage::FileWithBlobs(&file)).ok();

    let other = Instance::started(&[]);
    let array = Storage::ArrayWithBlobs(&other);
    zodbconvert(&folder, &[], &Storage::FileWithBlobs(&file), &array).ok();
    other.run(&["disable", "copy2", "--yes"]).ok();
    other.run(&["recover", "copy2", "--verify", "--yes"]).ok();
    other.wait_optimal();
    other.run(&["disable", "copy1", "--yes"]).ok();
    other.run(&["recover", "copy1", "--rebuild", "--yes"]).ok();
    other.wait_optimal();
    let mut files = instance.given_back();
    files.extend(other.given_back());
    python::verify(&files, &[]);
}
