//! A storage that is a member, and those that cannot be one.

use super::ImportedMember;
use super::file::{self, OfFile};
use super::paths::Paths;
use super::server::{self, ClientBlobs};
use crate::config::zconfig::document::Map;
use crate::config::zconfig::notes::Findings;
use crate::config::zconfig::reader::Reader;
use crate::config::zconfig::tree::Section;

/// Storages that cannot be members, and why.
const REFUSED: &[(&str, &str)] = &[
    (
        "mappingstorage",
        "it keeps nothing: it is in memory. Leave it out, or make a member of a file",
    ),
    (
        "temporarystorage",
        "it keeps nothing: it is in memory. Let Zope open it itself",
    ),
    (
        "demostorage",
        "it lays changes over another storage: serve that storage instead",
    ),
    (
        "fullstorage",
        "Berkeley databases have been gone since ZODB 3.4: copy it into a `Data.fs` with its own tools",
    ),
    (
        "minimalstorage",
        "Berkeley databases have been gone since ZODB 3.4: copy it into a `Data.fs` with its own tools",
    ),
    (
        "relstorage",
        "a relational database is no member: convert it with `zodbconvert`, or leave it as it is",
    ),
    (
        "before",
        "it shows the past of another storage: serve that storage instead",
    ),
];

/// How it is said of them.
pub(super) const REFUSAL: &str = "cannot be a member";

/// Storages that are understood.
const KNOWN: &[&str] = &[
    "filestorage",
    "blobstorage",
    "zlibstorage",
    "serverzlibstorage",
    "zeoclient",
    "clientstorage",
    "raidstorage",
];

pub(super) fn is_storage(kind: &str) -> bool {
    KNOWN.contains(&kind) || REFUSED.iter().any(|(refused, _)| *refused == kind)
}

pub(super) struct MemberDraft {
    pub(super) map: Map,
    pub(super) shown: ImportedMember,
    /// None of a ZEO server.
    pub(super) file: Option<OfFile>,
    pub(super) client_blobs: Option<ClientBlobs>,
}

/// A storage that is a member.
pub(super) fn member(
    section: &Section,
    paths: &Paths<'_>,
    found: &mut Findings,
) -> Option<MemberDraft> {
    match section.kind.as_str() {
        "filestorage" => file::member(section, paths, found),
        "zeoclient" | "clientstorage" => server::member(section, paths, found),
        "blobstorage" => {
            let mut reader = Reader::new(section);
            let folder = reader.one("blob-dir", found);
            let folder = folder.map(|key| (paths.absolute(key, found), key.place.clone()));
            reader.end_of_keys(found);
            let inner = inner(section, paths, found);
            file::with_blobs(section, inner, folder, found)
        }
        "zlibstorage" | "serverzlibstorage" => {
            found.must_do(
                &section.place,
                format!("{} compressed what it stored", section.title()),
                "the daemon serves records as they are: every client must have <zlibstorage> of zc.zlibstorage around \
                 its <zeoclient> to read them",
            );
            inner(section, paths, found)
        }
        kind => {
            let refused = REFUSED.iter().find(|(refused, _)| *refused == kind);
            let why = refused.map_or(
                "no such storage is known here; it is left out",
                |(_, why)| why,
            );
            let title = section.title();
            let what = if kind == "raidstorage" {
                format!("{title} inside of another")
            } else {
                format!("{title} {REFUSAL}")
            };
            found.must_do(&section.place, what, why);
            None
        }
    }
}

/// The one storage inside of another.
fn inner(section: &Section, paths: &Paths<'_>, found: &mut Findings) -> Option<MemberDraft> {
    match section.sections.as_slice() {
        [inner] => member(inner, paths, found),
        all => {
            found.mistake(
                &section.place,
                format!("{} has {} storages inside", section.title(), all.len()),
                "one is expected",
            );
            None
        }
    }
}
