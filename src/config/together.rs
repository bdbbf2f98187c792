//! What must fit together in one array: its members with the cluster mode, with each other, and with
//! where blobs are kept.
//!
//! Blobs have three arrangements. *Over the protocol*: nothing is set, every member keeps its own. *A
//! folder shared by clients and daemon* (`shared_blob_dir`): clients read and write blob files there and
//! not over the network; every member keeps its own all the same. *A folder shared by everything*
//! (`blobs_shared_with: everything`): the members' servers use that very folder, a blob is there once.
//! Mixtures lose data: whoever thinks that another keeps a blob does not keep it himself.

use std::path::{Path, PathBuf};

use super::claims::{Claims, line_of};
use super::members::Member;
use super::model::{BlobSharing, ClusterMode, MemberStorage, SharedBlobs, StartPolicy};
use super::read::Place;
use super::section::{Findings, Section, shown};

/// Whether the members can be written to by several daemons.
pub(super) fn cluster(
    section: &mut Section<'_>,
    members: &[Member],
    start_policy: StartPolicy,
    found: &mut Findings,
) -> ClusterMode {
    let mode = section.choice("cluster_mode", ClusterMode::WORDS, found);
    if mode == ClusterMode::Single {
        return mode;
    }
    let place = place(section, "cluster_mode");
    for member in members.iter().filter(|member| is_file(member)) {
        if is_unknown(member) {
            continue;
        }
        found.mistake(
            member.place,
            format!(
                "{}: a file belongs to one daemon, and in cluster_mode coop{} several write",
                member.key,
                line_of(place)
            ),
            "use ZEO servers only, or `cluster_mode: single`",
        );
    }
    if members.len() < 3 {
        found.warning(
            place,
            format!(
                "{}: with {} coop serves only while all of them are in sync: more than half must be",
                section.key("cluster_mode"),
                crate::counted::counted(members.len() as u64, "member")
            ),
            "use three members or more",
        );
    }
    if start_policy == StartPolicy::Newest {
        found.warning(
            place,
            format!(
                "{}: with start_policy newest a daemon may start from a copy that another daemon has taken out",
                section.key("cluster_mode")
            ),
            "use `start_policy: in-sync`",
        );
    }
    mode
}

/// Members of one array must answer alike.
pub(super) fn mixed(members: &[Member], found: &mut Findings) {
    let first_file = members.iter().find(|member| is_file(member));
    let Some(file) = first_file else { return };
    for member in members.iter().filter(|member| !is_file(member)) {
        found.warning(
            member.place,
            format!(
                "{} is beside a file ({}{}), where clients resolve conflicts: that server must leave it to them as well",
                member.key,
                file.config.name,
                line_of(file.place)
            ),
            "set `client-conflict-resolution true` in its zeo.conf",
        );
    }
}

/// Where blobs are kept.
pub(super) fn blobs(
    section: &mut Section<'_>,
    members: &[Member],
    claims: &mut Claims,
    found: &mut Findings,
) -> Option<SharedBlobs> {
    let folder = section.optional_path("shared_blob_dir", None, found);
    let with = section.choice("blobs_shared_with", BlobSharing::WORDS, found);
    let with_place = section.node("blobs_shared_with").map(|node| node.place);
    let Some((folder, place)) = folder else {
        if let Some(place) = with_place {
            found.mistake(
                place,
                format!(
                    "{} says with whom, and no shared_blob_dir says what",
                    section.key("blobs_shared_with")
                ),
                "add `shared_blob_dir: FOLDER`, or remove it: then blobs go over the protocol",
            );
        }
        over_the_protocol(members, found);
        return None;
    };
    claims.folder(&folder, &section.key("shared_blob_dir"), place, found);
    missing_folder(section, &folder, with, place, found);
    match with {
        BlobSharing::Clients => kept_by_every_member(section, members, place, found),
        BlobSharing::Everything => kept_once(section, members, place, found),
    }
    Some(SharedBlobs { folder, with })
}

/// Every member must keep blobs, or none.
fn over_the_protocol(members: &[Member], found: &mut Findings) {
    let keeps = members.iter().find(|member| blob_dir(member).is_some());
    let zeo = members.iter().find(|member| !is_file(member));
    for member in members.iter().filter(|member| is_file(member)) {
        if blob_dir(member).is_some() || is_unknown(member) {
            continue;
        }
        if let Some(other) = keeps {
            found.mistake(
                member.place,
                format!(
                    "{} has no blob_dir, and {}{} has one: what is recovered from {} would have lost its blobs",
                    member.key,
                    other.config.name,
                    line_of(other.place),
                    member.config.name
                ),
                format!("add `blob_dir`, or remove it from {}", other.config.name),
            );
        } else if let Some(zeo) = zeo {
            found.warning(
                member.place,
                format!(
                    "{} has no blob_dir: the array takes no blobs, also where {} could keep them",
                    member.key, zeo.config.name
                ),
                "add `blob_dir` if there are blobs",
            );
        }
    }
}

fn kept_by_every_member(
    section: &Section<'_>,
    members: &[Member],
    place: Place,
    found: &mut Findings,
) {
    for member in members.iter().filter(|member| is_file(member)) {
        if blob_dir(member).is_none() && !is_unknown(member) {
            found.mistake(
                member.place,
                format!(
                    "{} has no blob_dir: what clients put into {}{} would not be kept by it",
                    member.key,
                    section.key("shared_blob_dir"),
                    line_of(place)
                ),
                "add `blob_dir`, or `blobs_shared_with: everything` where the folder itself is safe",
            );
        }
    }
}

fn kept_once(section: &Section<'_>, members: &[Member], place: Place, found: &mut Findings) {
    for member in members {
        if let Some(folder) = blob_dir(member) {
            found.mistake(
                member.place,
                format!(
                    "{}.blob_dir ({}) would stay without blobs: with blobs_shared_with everything they are only in {}{}",
                    member.key,
                    shown(&found.instance, folder),
                    section.key("shared_blob_dir"),
                    line_of(place)
                ),
                "remove `blob_dir`, or `blobs_shared_with: clients`",
            );
        }
    }
    found.warning(
        place,
        format!(
            "{}: with blobs_shared_with everything each blob is there once; the array does not protect it",
            section.key("shared_blob_dir")
        ),
        "keep the folder on a file system that is itself redundant",
    );
}

/// A folder that is missing is a disk that is not mounted. Only clients' own, in the instance, is made.
fn missing_folder(
    section: &Section<'_>,
    folder: &Path,
    with: BlobSharing,
    place: Place,
    found: &mut Findings,
) {
    if folder.is_dir() || (with == BlobSharing::Clients && folder.starts_with(&found.instance)) {
        return;
    }
    let path = shown(&found.instance, folder);
    let what = if folder.exists() {
        format!("{}: {path} is no folder", section.key("shared_blob_dir"))
    } else {
        format!(
            "{}: {path} does not exist; is it mounted? Blobs that are written beside it are lost to the others",
            section.key("shared_blob_dir")
        )
    };
    found.mistake(place, what, "mount it, or make it, first");
}

fn place(section: &mut Section<'_>, key: &'static str) -> Place {
    let written = section.node(key).map(|node| node.place);
    written.unwrap_or_else(|| section.place())
}

fn is_file(member: &Member) -> bool {
    matches!(member.config.storage, MemberStorage::File { .. })
}

/// What it is could not be read, which was said.
fn is_unknown(member: &Member) -> bool {
    matches!(&member.config.storage, MemberStorage::File { file, .. } if file.as_os_str().is_empty())
}

fn blob_dir(member: &Member) -> Option<&PathBuf> {
    match &member.config.storage {
        MemberStorage::File { blob_dir, .. } => blob_dir.as_ref(),
        MemberStorage::Zeo(_) => None,
    }
}
