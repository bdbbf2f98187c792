//! The folder as ZODB has it, and what may go wrong with it.

use std::io::Write as _;

use super::*;
use crate::storage::python;

const OID: Oid = Oid(0x0123_4567);
const TID: Tid = Tid(0x0401_0203_0000_0011);

fn open(folder: &tempfile::TempDir) -> BlobDirectory {
    BlobDirectory::open(folder.path().join("blobs")).unwrap()
}

fn temporary(directory: &BlobDirectory, content: &[u8]) -> Blob {
    let (mut file, path) = directory.temporary().unwrap();
    file.write_all(content).unwrap();
    Blob::temporary(path).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

fn content(directory: &BlobDirectory, oid: Oid, tid: Tid) -> Option<Vec<u8>> {
    let blob = directory.find(oid, tid).unwrap()?;
    Some(fs::read(blob.path()).unwrap())
}

#[test]
fn a_temporary_file_is_taken_and_another_is_copied() {
    let folder = tempfile::tempdir().unwrap();
    let directory = open(&folder);
    assert_eq!(content(&directory, OID, TID), None);

    let blob = temporary(&directory, b"first");
    directory.place(OID, TID, &blob).unwrap();
    let inode = blob.open().unwrap().metadata().unwrap().ino();
    let placed = fs::metadata(directory.file(OID, TID)).unwrap();
    assert_eq!(placed.ino(), inode);
    assert_eq!(placed.mode() & 0o222, 0);

    // The same file, for another copy of the database: bytes of its own.
    let second = BlobDirectory::open(folder.path().join("second")).unwrap();
    second.place(OID, TID, &blob).unwrap();
    let placed = fs::metadata(second.file(OID, TID)).unwrap();
    assert_ne!(placed.ino(), inode);

    // What stays where it is is copied, and replaces what is there.
    let kept = folder.path().join("kept");
    fs::write(&kept, b"kept").unwrap();
    directory
        .place(OID, TID, &Blob::kept(&kept).unwrap())
        .unwrap();
    assert_eq!(content(&directory, OID, TID).unwrap(), b"kept");
    assert_eq!(content(&second, OID, TID).unwrap(), b"first");
    let again = temporary(&directory, b"again");
    directory.place(OID, TID, &again).unwrap();
    assert_eq!(content(&directory, OID, TID).unwrap(), b"again");

    drop((blob, again));
    assert_eq!(content(&directory, OID, TID).unwrap(), b"again");
    assert_eq!(fs::read_dir(directory.tmp()).unwrap().count(), 0);
}

#[test]
fn permissions_are_those_of_the_folder_without_writing() {
    let folder = tempfile::tempdir().unwrap();
    let directory = open(&folder);
    directory
        .place(OID, TID, &temporary(&directory, b"x"))
        .unwrap();
    for (folder_mode, file_mode) in [(0o700, 0o400), (0o750, 0o440), (0o755, 0o444)] {
        fs::set_permissions(directory.folder(OID), Permissions::from_mode(folder_mode)).unwrap();
        let blob = temporary(&directory, b"x");
        directory.place(OID, TID, &blob).unwrap();
        assert_eq!(mode(&directory.file(OID, TID)), file_mode);
        let kept = Blob::kept(blob.path()).unwrap();
        directory.place(OID, TID, &kept).unwrap();
        assert_eq!(mode(&directory.file(OID, TID)), file_mode);
    }
}

#[test]
fn what_is_removed_takes_its_empty_folders_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let directory = open(&folder);
    for oid in [OID, Oid(OID.0 + 1)] {
        directory
            .place(oid, TID, &temporary(&directory, b"x"))
            .unwrap();
    }
    directory.remove(OID, TID).unwrap();
    directory.remove(OID, TID).unwrap();
    assert_eq!(content(&directory, OID, TID), None);
    assert!(!directory.folder(OID).exists());
    assert!(directory.folder(Oid(OID.0 + 1)).exists());
    directory.remove(Oid(OID.0 + 1), TID).unwrap();
    assert!(!directory.root().join("0x00").exists());
    assert!(directory.root().exists());
}

#[test]
fn among_others_the_folders_above_a_blob_stay() {
    let folder = tempfile::tempdir().unwrap();
    let directory = open(&folder);
    for tid in [TID, Tid(TID.0 + 1)] {
        directory
            .place(OID, tid, &temporary(&directory, b"x"))
            .unwrap();
    }
    directory.remove_among_others(OID, TID).unwrap();
    directory.remove_among_others(OID, TID).unwrap();
    assert_eq!(content(&directory, OID, TID), None);
    assert!(content(&directory, OID, Tid(TID.0 + 1)).is_some());
    directory.remove_among_others(OID, Tid(TID.0 + 1)).unwrap();
    assert!(!directory.folder(OID).exists());
    assert!(directory.folder(OID).parent().unwrap().is_dir());
}

#[test]
fn a_folder_that_another_process_removes_is_made_again_once() {
    let folder = tempfile::tempdir().unwrap();
    let directory = open(&folder);
    let above = directory.root().join("0x00");
    let place = |often: usize| {
        let mut left = often;
        directory.place_minding(OID, TID, &temporary(&directory, b"x"), || {
            if left > 0 {
                left -= 1;
                fs::remove_dir_all(&above).unwrap();
            }
        })
    };
    let error = place(2).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(content(&directory, OID, TID), None);
    place(1).unwrap();
    assert_eq!(content(&directory, OID, TID).unwrap(), b"x");
    assert_eq!(fs::read_dir(directory.tmp()).unwrap().count(), 0);
}

#[test]
fn the_names_are_those_of_python() {
    let lines = "
import sys
from ZODB.blob import FilesystemHelper
from ZODB.utils import p64
root = sys.argv[1]
for layout in 'bushy', 'lawn':
    helper = FilesystemHelper(f'{root}/{layout}', layout)
    helper.create()
    for oid in 0, 1, 0x2a, 256, 0x1234567, 2**64 - 1:
        for tid in 1, 0x401020300000011, 2**64 - 1:
            print(layout, oid, tid, helper.getBlobFilename(p64(oid), p64(tid)))
";
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_str().unwrap();
    let mut count = 0;
    for line in python::run(lines, &[root]).lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let directory = BlobDirectory::open(folder.path().join(words[0])).unwrap();
        let (oid, tid) = (words[1].parse().unwrap(), words[2].parse().unwrap());
        let ours = directory.file(Oid(oid), Tid(tid));
        assert_eq!(ours, Path::new(words[3]), "{line}");
        count += 1;
    }
    assert_eq!(count, 36);
}

#[test]
fn python_finds_our_folder_and_what_is_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let directory = open(&folder);
    directory
        .place(OID, TID, &temporary(&directory, b"content"))
        .unwrap();
    let lines = "
import sys
from ZODB.blob import FilesystemHelper
from ZODB.utils import p64
helper = FilesystemHelper(sys.argv[1])
helper.create()
print(helper.layout_name)
for oid, path in helper.listOIDs():
    print(oid.hex(), open(helper.getBlobFilename(oid, p64(0x401020300000011))).read())
print(helper.getOIDsForSerial(p64(0x401020300000011)) == [p64(0x1234567)])
";
    let printed = python::run(lines, &[directory.root().to_str().unwrap()]);
    assert_eq!(printed, "bushy\n0000000001234567 content\nTrue\n");
}

#[test]
fn a_folder_without_a_marker_is_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("blobs");
    fs::create_dir_all(root.join("0x2a")).unwrap();
    let directory = BlobDirectory::open(&root).unwrap();
    assert_eq!(directory.folder(Oid(0x2a)), root.join("0x2a"));
    assert_eq!(fs::read(root.join(".layout")).unwrap(), b"lawn");

    // An interrupted creation.
    let root = folder.path().join("new");
    fs::create_dir_all(root.join("tmp")).unwrap();
    BlobDirectory::open(&root).unwrap();
    assert_eq!(fs::read(root.join(".layout")).unwrap(), b"bushy");
}

#[test]
fn what_is_no_folder_of_blobs_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |root: &Path| {
        let error = BlobDirectory::open(root).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        error.to_string()
    };
    let root = folder.path().join("marked");
    fs::create_dir(&root).unwrap();
    fs::write(root.join(".layout"), "meadow").unwrap();
    assert!(refused(&root).contains("`meadow`"));

    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    assert!(refused(&file).contains("is not a folder"));

    // A bushy folder that lost its marker, and something else altogether.
    for name in ["0x00", "Data.fs"] {
        let root = folder.path().join(format!("with {name}"));
        fs::create_dir_all(root.join(name)).unwrap();
        assert!(refused(&root).contains(name));
        assert_eq!(fs::read_dir(&root).unwrap().count(), 1);
    }
}

#[test]
fn temporaries_of_a_killed_process_are_removed_and_others_left() {
    let folder = tempfile::tempdir().unwrap();
    let directory = open(&folder);
    let ours = temporary(&directory, b"x");
    let old = directory.tmp().join("zeoraid-0000000000000000-abc.tmp");
    let theirs = directory.tmp().join("BUC0123.tmp");
    fs::write(&old, "x").unwrap();
    fs::write(&theirs, "x").unwrap();
    open(&folder);
    assert!(!old.exists());
    assert!(theirs.exists() && ours.path().exists());
}

#[test]
fn many_may_place_and_remove_in_the_same_folders() {
    let folder = tempfile::tempdir().unwrap();
    let directory = open(&folder);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let directory = &directory;
            scope.spawn(move || {
                for round in 0..20u64 {
                    let oid = Oid(round % 2);
                    let tid = Tid(TID.0 + thread * 100 + round);
                    let blob = temporary(directory, b"content");
                    directory.place(oid, tid, &blob).unwrap();
                    assert_eq!(content(directory, oid, tid).unwrap(), b"content");
                    directory.remove(oid, tid).unwrap();
                }
            });
        }
    });
    assert_eq!(fs::read_dir(directory.tmp()).unwrap().count(), 0);
}
