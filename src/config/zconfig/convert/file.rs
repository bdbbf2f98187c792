//! `<filestorage>`, and what is put around it: `<blobstorage>`, `<zlibstorage>`. ZODB's `component.xml`.

use std::path::Path;

use super::ImportedMember;
use super::member::MemberDraft;
use super::paths::Paths;
use crate::config::zconfig::document::Map;
use crate::config::zconfig::notes::Findings;
use crate::config::zconfig::reader::{Fate, Left, Reader};
use crate::config::zconfig::tree::{Place, Section};
use crate::config::zconfig::values::boolean;

const LEFT: &[Left] = &[
    (
        "quota",
        Fate::ToDo,
        "there is no limit for a file: let whatever watches the disk do it (`/metrics` has the size)",
    ),
    ("packer", Fate::ToDo, "the daemon packs files itself"),
];

/// What is said of a file and we say of its array.
#[derive(Debug, Clone, Default)]
pub(super) struct OfFile {
    pub(super) read_only: Option<(bool, Place)>,
    pub(super) pack_gc: Option<(bool, Place)>,
    pub(super) pack_keep_old: Option<(bool, Place)>,
}

pub(super) fn member(
    section: &Section,
    paths: &Paths<'_>,
    found: &mut Findings,
) -> Option<MemberDraft> {
    let mut reader = Reader::new(section);
    let mut map = Map::default();
    let path = reader
        .one("path", found)
        .map(|key| (paths.absolute(key, found), key));
    if path.is_none() {
        found.mistake(
            &section.place,
            format!("{} has no `path`", section.title()),
            "add `path FILE`",
        );
    }
    if let Some((path, key)) = &path {
        map.text("file", path, &key.place);
        if takes_over(path, &key.place, found) {
            // A first start waits for it, should it be away then.
            map.plain("adopted", true, &key.place);
        }
    }
    let blobs = reader
        .one("blob-dir", found)
        .map(|key| (paths.absolute(key, found), key));
    if let Some((folder, key)) = &blobs {
        map.text("blob_dir", folder, &key.place);
    }
    match reader.value("create", boolean, found) {
        Some((true, place)) => found.must_do(
            place,
            format!("`create true` in {}", section.title()),
            "emptied the file at every start; that is not done here: the data stays",
        ),
        Some((false, place)) => {
            found.known(place, "`create false`", "that is how it always is here");
        }
        None => {}
    }
    let owned = |value: Option<(bool, &Place)>| value.map(|(yes, place)| (yes, place.clone()));
    let of_file = OfFile {
        read_only: owned(reader.value("read-only", boolean, found)),
        pack_gc: owned(reader.value("pack-gc", boolean, found)),
        pack_keep_old: owned(reader.value("pack-keep-old", boolean, found)),
    };
    reader.left(LEFT, found);
    reader.end(found);
    let (at, _) = path?;
    Some(MemberDraft {
        map,
        shown: ImportedMember {
            name: String::new(),
            kind: "file",
            at,
            storage: None,
            blob_dir: blobs.map(|(folder, _)| folder),
            from: section.place.clone(),
        },
        file: Some(of_file),
        client_blobs: None,
    })
}

/// Two that write to one file destroy it, and an empty one in its place looks like a loss. Whether it is there.
fn takes_over(path: &str, place: &Place, found: &mut Findings) -> bool {
    let is_there = Path::new(path).exists();
    if is_there {
        found.must_do(
            place,
            format!("{path} is the old server's file as long as that runs, and so is its address"),
            "stop the old server, and whatever starts it, before `zeoraidctl start`",
        );
    } else {
        found.must_do(
            place,
            format!("{path} does not exist on this machine"),
            "copy it here while the old server is stopped, or mend the path: `start` would make a new, empty database",
        );
    }
    is_there
}

/// Blobs beside whatever storage is inside.
pub(super) fn with_blobs(
    section: &Section,
    inner: Option<MemberDraft>,
    folder: Option<(String, Place)>,
    found: &mut Findings,
) -> Option<MemberDraft> {
    let Some((folder, place)) = folder else {
        found.mistake(
            &section.place,
            format!("{} has no `blob-dir`", section.title()),
            "add `blob-dir FOLDER`",
        );
        return inner;
    };
    let mut inner = inner?;
    if inner.file.is_none() {
        found.must_do(
            &place,
            format!("`blob-dir {folder}` in {}", section.title()),
            "a ZEO server keeps its blobs itself: set `blob-dir` in its own zeo.conf, and move the folder there",
        );
    } else if inner.shown.blob_dir.is_some() {
        found.mistake(
            &place,
            "a second `blob-dir` for one file",
            "remove <blobstorage> or the inner one",
        );
    } else {
        inner.map.text("blob_dir", &folder, &place);
        inner.shown.blob_dir = Some(folder);
    }
    Some(inner)
}
