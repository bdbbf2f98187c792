//! What is served: `<raidstorage>`, or any other storage as an array of one member.
//! gocept.zeoraid's `component.xml`.

use super::ImportedArray;
use super::file::OfFile;
use super::member::{MemberDraft, member};
use super::paths::Paths;
use super::server::ClientBlobs;
use crate::config::ClusterMode;
use crate::config::zconfig::document::{Item, Map, Node};
use crate::config::zconfig::notes::Findings;
use crate::config::zconfig::reader::Reader;
use crate::config::zconfig::tree::{Place, Section};
use crate::config::zconfig::values::boolean;

/// Where a storage stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Container {
    /// A server's file.
    Server,
    /// A database of Zope's.
    Database,
}

pub(super) struct ArrayDraft {
    pub(super) name: String,
    /// By which clients ask for it.
    pub(super) asked_as: String,
    pub(super) place: Place,
    members: Vec<MemberDraft>,
    settings: Map,
    mode: ClusterMode,
}

/// Reads one storage. None where it cannot be taken over, which was said.
pub(super) fn array(
    section: &Section,
    asked_as: &str,
    container: Container,
    paths: &Paths<'_>,
    mode: Option<ClusterMode>,
    found: &mut Findings,
) -> Option<ArrayDraft> {
    let mut draft = ArrayDraft {
        name: plain_name(asked_as),
        asked_as: asked_as.to_owned(),
        place: section.place.clone(),
        members: Vec::new(),
        settings: Map::default(),
        mode: ClusterMode::Single,
    };
    if section.kind == "raidstorage" {
        raid(section, &mut draft, paths, mode, found);
    } else {
        let mut member = member(section, paths, found)?;
        member.shown.name = if member.file.is_some() {
            "copy1"
        } else {
            "zeo1"
        }
        .into();
        if let Some(blobs) = &member.client_blobs {
            blobs_of_client(blobs, found);
        }
        if container == Container::Server {
            found.known(
                &section.place,
                format!("{} is one copy", section.title()),
                "with a second one a failed disk is no loss: add a member, then `zeoraidctl reload` and `zeoraidctl recover`",
            );
        }
        draft.members.push(member);
    }
    of_files(&mut draft, found);
    (!draft.members.is_empty()).then_some(draft)
}

fn raid(
    section: &Section,
    draft: &mut ArrayDraft,
    paths: &Paths<'_>,
    mode: Option<ClusterMode>,
    found: &mut Findings,
) {
    let mut reader = Reader::new(section);
    for inner in &section.sections {
        let Some(mut member) = member(inner, paths, found) else {
            continue;
        };
        let name = inner.name.as_deref().map(plain_name);
        let number = draft.members.len() + 1;
        let own = if member.file.is_some() { "copy" } else { "zeo" };
        let name = name.unwrap_or_else(|| format!("{own}{number}"));
        if let Some(other) = draft.members.iter().find(|other| other.shown.name == name) {
            found.mistake(
                &inner.place,
                format!(
                    "a second member {name}; the first is in line {}",
                    other.shown.from.line
                ),
                "give each a name of its own",
            );
        }
        member.shown.name = name;
        draft.members.push(member);
    }
    if section.sections.is_empty() {
        found.mistake(
            &section.place,
            format!("{} has no storages", section.title()),
            "add a <zeoclient> for each server",
        );
    }
    cluster_mode(&mut reader, draft, mode, found);
    let fail_mode = |text: &str| match text {
        "close" | "read-only" => Ok(text.to_owned()),
        other => Err(format!("`{other}` is not known; write close or read-only")),
    };
    if let Some((mode, place)) = reader.value("fail-mode", fail_mode, found) {
        draft.settings.plain("fail_mode", mode, place);
    }
    if let Some((yes, place)) = reader.value("read-only", boolean, found) {
        draft.settings.plain("read_only", yes, place);
    }
    blobs(&mut reader, draft, paths, found);
    reader.end_of_keys(found);
}

fn cluster_mode(
    reader: &mut Reader<'_>,
    draft: &mut ArrayDraft,
    chosen: Option<ClusterMode>,
    found: &mut Findings,
) {
    let section = reader.section;
    let word = |text: &str| match text {
        "single" => Ok(ClusterMode::Single),
        "coop" => Ok(ClusterMode::Coop),
        other => Err(format!("`{other}` is not known; write single or coop")),
    };
    let written = reader.value("cluster-mode", word, found);
    let place = written.map_or(&section.place, |(_, place)| place).clone();
    let has_file = draft.members.iter().any(|member| member.file.is_some());
    let old = written.map_or(ClusterMode::Coop, |(mode, _)| mode);
    draft.mode = chosen.unwrap_or(old);
    if chosen.is_none() && old == ClusterMode::Coop {
        let what = if written.is_some() {
            "`cluster-mode coop`"
        } else {
            "`cluster-mode coop`, its default"
        };
        if has_file {
            draft.mode = ClusterMode::Single;
            found.must_do(
                &place,
                format!("{what}, of {}", section.title()),
                "a file belongs to one daemon: `single` is taken, and no other daemon may use these members",
            );
        } else {
            found.must_do(
                &place,
                format!("{what}, of {}: other daemons may write to the same servers", section.title()),
                "import the file of each other daemon into an instance of its own, and let no old one go on beside them. \
                 Where there is only one daemon, `--cluster-mode single`: it needs no majority of the members",
            );
        }
    }
    draft
        .settings
        .plain("cluster_mode", draft.mode.word(), &place);
}

/// The arrangements of the original's `doc/BLOBS.txt`.
fn blobs(reader: &mut Reader<'_>, draft: &mut ArrayDraft, paths: &Paths<'_>, found: &mut Findings) {
    let folder = reader
        .one("blob-dir", found)
        .map(|key| (paths.absolute(key, found), key));
    let shared = reader.value("shared-blob-dir", boolean, found);
    if let Some((true, place)) = shared {
        let Some((folder, key)) = folder else {
            found.mistake(
                place,
                "`shared-blob-dir true` without a `blob-dir`",
                "add `blob-dir FOLDER`",
            );
            return;
        };
        draft.settings.text("shared_blob_dir", &folder, &key.place);
        draft
            .settings
            .plain("blobs_shared_with", "everything", place);
        for member in &draft.members {
            let is_same = member
                .client_blobs
                .as_ref()
                .is_some_and(|blobs| blobs.is_shared && blobs.folder == folder);
            if member.file.is_none() && !is_same {
                found.must_do(
                    &member.shown.from,
                    format!("{} does not say that it shares {folder}", member.shown.name),
                    "its server must have this very folder as its `blob-dir`; where servers have folders of their own, \
                     remove `blobs_shared_with` (then clients share it with the daemon alone)",
                );
            }
        }
        return;
    }
    if let Some((folder, key)) = folder {
        found.must_do(
            &key.place,
            format!("`blob-dir {folder}` in {}", reader.section.title()),
            format!(
                "not needed where blobs go over the protocol; where clients share this folder (their `shared-blob-dir \
                 true`), add `shared_blob_dir: {folder}` to the array"
            ),
        );
    }
    for member in &draft.members {
        if let Some(blobs) = &member.client_blobs {
            blobs_of_client(blobs, found);
        }
    }
}

/// A client's folder that no array shares.
fn blobs_of_client(blobs: &ClientBlobs, found: &mut Findings) {
    let what = format!("`blob-dir {}` of a member", blobs.folder);
    if blobs.is_shared {
        found.must_do(
            &blobs.place,
            format!("{what}, shared with its server"),
            "blobs go to a member over the protocol: that server keeps its `blob-dir`, this daemon needs none",
        );
    } else {
        found.known(
            &blobs.place,
            what,
            "it was a cache, and the daemon needs none",
        );
    }
}

/// What is said of files and we say once for the array.
fn of_files(draft: &mut ArrayDraft, found: &mut Findings) {
    type Of = fn(&OfFile) -> &Option<(bool, Place)>;
    let settings: [(&str, &str, Of); 3] = [
        ("read_only", "read-only", |file| &file.read_only),
        ("pack_gc", "pack-gc", |file| &file.pack_gc),
        ("pack_keep_old", "pack-keep-old", |file| &file.pack_keep_old),
    ];
    for (ours, theirs, of) in settings {
        let said = draft
            .members
            .iter()
            .filter_map(|member| member.file.as_ref())
            .filter_map(|file| of(file).clone());
        let said: Vec<(bool, Place)> = said.collect();
        let Some((value, place)) = said.first().cloned() else {
            continue;
        };
        if draft.settings.has(ours) {
            found.must_do(
                &place,
                format!("`{theirs} {value}` of a member"),
                "the array has its own word for it, which is taken",
            );
            continue;
        }
        for (other, place) in &said[1..] {
            if *other != value {
                found.must_do(
                    place,
                    format!("`{theirs} {other}`, where another member has {value}"),
                    "there is one word for all members of an array: the first is taken",
                );
            }
        }
        draft.settings.plain(ours, value, &place);
    }
}

/// What concerns all that is imported.
pub(super) fn notes_of_all(
    arrays: &[ArrayDraft],
    resolves: Option<&(Place, &'static str)>,
    found: &mut Findings,
) {
    let members = || arrays.iter().flat_map(|array| &array.members);
    for member in members().filter(|member| member.file.is_none()) {
        found.must_do(
            &member.shown.from,
            "members that are ZEO servers",
            "look into the zeo.conf of each: no `transaction-timeout` (ZEO keeps its lock when that strikes), a \
             `blob-dir` where there are blobs; and nobody else may write to them, the old daemon included: stop it first",
        );
    }
    if let Some((place, what)) = resolves
        && members().any(|member| member.file.is_some())
    {
        found.known(
            place,
            format!("{what}: the old server resolved conflicts itself, with the classes it had"),
            "clients resolve them now, who have the classes anyway",
        );
    }
}

impl ArrayDraft {
    pub(super) fn has_member_at(&self, port: u16) -> bool {
        let end = format!(":{port}");
        self.members
            .iter()
            .any(|member| member.shown.at.ends_with(&end))
    }

    /// The array as it is written. The `only` one answers to `1` without being told.
    pub(super) fn written(
        self,
        only: bool,
        of_arrays: &[(&'static str, String, Place)],
    ) -> (String, ImportedArray, Node) {
        let mut map = Map::default();
        let aliases: Vec<String> = if self.name == self.asked_as {
            Vec::new()
        } else {
            vec![self.asked_as.clone()]
        };
        if !aliases.is_empty() {
            let items = aliases.iter().map(|alias| Item {
                node: Node::text(alias),
                from: vec![self.place.clone()],
            });
            map.put("aliases", Node::List(items.collect()), &[]);
        }
        let mut members = Map::default();
        let mut shown = Vec::new();
        for member in self.members {
            members.put(
                &member.shown.name,
                member.map.node(),
                std::slice::from_ref(&member.shown.from),
            );
            shown.push(member.shown);
        }
        map.put("members", members.node(), &[]);
        map.extend(self.settings);
        for (key, value, place) in of_arrays {
            map.plain(key, value, place);
        }
        let mut answers_to = aliases;
        if only && self.name != "1" && answers_to.is_empty() {
            answers_to.push("1".into());
        }
        let imported = ImportedArray {
            name: self.name.clone(),
            aliases: answers_to,
            cluster_mode: self.mode,
            members: shown,
        };
        (self.name, imported, map.node())
    }
}

/// A name as ours may be: part of paths, of URLs and of commands.
fn plain_name(name: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') {
            c
        } else {
            '-'
        }
    };
    let text: String = name.chars().map(plain).take(64).collect();
    let text = text.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    if text.is_empty() {
        "main".to_owned()
    } else {
        text.to_owned()
    }
}
