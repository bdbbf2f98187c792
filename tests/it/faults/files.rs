//! What goes wrong with a file beside a ZEO server while it serves: its disk is full, its folder goes away,
//! it is damaged.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};

use crate::harness::disk::SmallDisk;
use crate::harness::instance::PATIENCE;
use crate::harness::{Instance, Lab, LabSetup, until_ok};

/// Files before the server, so that they are read from; and nothing is read from a cache.
const SETUP: LabSetup = LabSetup {
    servers: 1,
    files: 2,
    files_first: true,
    settings: "cache: 0",
    ..LabSetup::TWO
};

#[test]
fn a_file_that_fails_beside_a_server_is_taken_out_and_recovered() {
    let instance = Instance::new();
    let test = "a_file_that_fails_beside_a_server_is_taken_out_and_recovered";
    let disk = SmallDisk::mount(&instance.path("var/file2"), 128 * 1024, test);
    let lab = Lab::on(instance, SETUP);
    lab.instance.start().ok();
    lab.instance.wait_optimal();
    let mut workers = lab.workers(2);
    workers.wait_for_more(3);

    if disk.is_some() {
        let mark = lab.mark();
        let filler = lab.file(2).with_file_name("filler");
        let mut file = File::create(&filler).expect("room for a file");
        while file.write_all(&[0; 4 << 10]).is_ok() {}
        lab.wait_taken_out("file2", mark, &["no space left on the disk"]);
        workers.wait_for_more(2);
        drop(file);
        fs::remove_file(&filler).expect("it was made");
        lab.hurry("file2");
        lab.instance.wait_optimal();
    }

    // What is open stays open; what is looked for by its name is not found.
    let mark = lab.mark();
    let folder = lab
        .file(1)
        .parent()
        .expect("it lies in a folder")
        .to_owned();
    let away = lab.instance.beside("away");
    fs::rename(&folder, &away).expect("moving the folder away");
    lab.wait_taken_out(
        "file1",
        mark,
        &["No such file or directory", "was removed or replaced"],
    );
    workers.wait_for_more(2);
    fs::rename(&away, &folder).expect("moving it back");
    lab.instance.wait_optimal();

    // The first transactions, among them those of the objects that every client reads.
    let mark = lab.mark();
    let mut file = File::options()
        .write(true)
        .open(lab.file(1))
        .expect("it is there");
    file.seek(SeekFrom::Start(4)).expect("a file can be sought");
    file.write_all(&[0xee; 3000]).expect("a small write");
    drop(file);
    lab.wait_taken_out("file1", mark, &["damaged"]);
    workers.wait_for_more(2);
    // It may be tried by itself at this moment.
    until_ok("the rebuilding of a damaged file", PATIENCE, || {
        let run = lab
            .instance
            .run(&["recover", "file1", "--rebuild", "--yes"]);
        (run.code == 0).then_some(()).ok_or(run)
    });
    lab.instance.wait_optimal();
    let set_aside = fs::read_dir(&folder)
        .expect("the folder is there")
        .any(|entry| {
            let path = entry.expect("it can be read").path();
            let bytes = fs::read(path).unwrap_or_default();
            bytes.get(4..3004) == Some(&[0xee; 3000])
        });
    assert!(set_aside, "the damaged copy is gone");
    workers.wait_for_more(1);
    lab.finish(workers);
    drop(disk);
}
