//! From the tree of the old file to our configuration.
//!
//! The sections are read as `runzeo` reads them (ZEO's `schema.xml` and `server.xml`, ZODB's and
//! gocept.zeoraid's `component.xml`, `zdaemon`'s); each is a file here. What is the same is written with
//! its place beside it; what is another thing, or nothing, here becomes a note.

mod array;
mod file;
mod logs;
mod member;
mod package;
mod paths;
mod runner;
mod server;
mod zeo;

use std::path::{Path, PathBuf};

use super::document::{Map, Node, one_line, render};
use super::notes::{Findings, Note, NoteKind};
use super::reader::Reader;
use super::tree::{Key, Place, Section, Tree};
use super::{Import, document};
use crate::config::{ClusterMode, Mistake};
use array::{ArrayDraft, Container};
use paths::Paths;

pub(super) struct Converted {
    pub(super) text: String,
    pub(super) listen: Vec<String>,
    pub(super) arrays: Vec<ImportedArray>,
    pub(super) notes: Vec<Note>,
}

/// An array as it was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedArray {
    pub name: String,
    pub aliases: Vec<String>,
    pub cluster_mode: ClusterMode,
    pub members: Vec<ImportedMember>,
}

impl ImportedArray {
    /// With places named as in that folder.
    fn within(mut self, folder: &Path) -> Self {
        for member in &mut self.members {
            member.from = member.from.within(folder);
        }
        self
    }
}

/// A member as it was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedMember {
    pub name: String,
    /// `file` or `zeo`.
    pub kind: &'static str,
    /// A path, or an address.
    pub at: String,
    /// By which name a ZEO server knows it.
    pub storage: Option<String>,
    pub blob_dir: Option<String>,
    pub from: Place,
}

/// How wide comments are.
const WIDTH: usize = 100;

/// What is being put together.
#[derive(Default)]
struct Draft {
    zeo: Option<Place>,
    listen: Vec<document::Item>,
    /// The addresses alone.
    addresses: Vec<String>,
    /// `encoding`, `read_only`, `transaction_timeout`.
    serving: Map,
    /// What ZEO says of a server and we of an array.
    of_arrays: Vec<(&'static str, String, Place)>,
    arrays: Vec<ArrayDraft>,
    log: Map,
    pid_file: Option<(String, Place)>,
    /// `effective_user` and `umask`.
    process: Map,
    /// Where it says, or does not say, that the server resolves conflicts.
    resolves: Option<(Place, &'static str)>,
    found: Findings,
}

/// Makes the configuration.
///
/// # Errors
/// With every mistake.
pub(super) fn convert(
    trees: &[(Tree, PathBuf)],
    what: &Import<'_>,
) -> Result<Converted, Vec<Mistake>> {
    let mut draft = Draft::default();
    for (tree, base) in trees {
        let paths = Paths::new(base, what);
        for import in &tree.imports {
            package::note(import, &mut draft.found);
        }
        draft.file(&tree.root, &paths, what.cluster_mode);
    }
    let places = trees.iter().map(|(tree, _)| &tree.root.place);
    draft.finish(places.collect())
}

impl Draft {
    /// What stands outside of all sections of a file.
    fn file(&mut self, root: &Section, paths: &Paths<'_>, mode: Option<ClusterMode>) {
        let mut top = Reader::new(root);
        if let Some(section) = top.one_section("zeo", &mut self.found) {
            zeo::zeo(section, paths, self);
        }
        if let Some(section) = top.one_section("runner", &mut self.found) {
            runner::runner(section, &mut self.process, &mut self.found);
        }
        if let Some(section) = top.one_section("eventlog", &mut self.found) {
            self.log = logs::eventlog(section, paths, &mut self.found);
        }
        for section in &root.sections {
            match section.kind.as_str() {
                "zeo" | "runner" | "eventlog" => {}
                "zodb" | "zodb_db" => self.database(section, paths, mode),
                kind if member::is_storage(kind) => {
                    let name = section.name.clone().unwrap_or_else(|| "1".into());
                    let array = array::array(
                        section,
                        &name,
                        Container::Server,
                        paths,
                        mode,
                        &mut self.found,
                    );
                    self.add(array);
                }
                _ => self.found.unknown(&section.place, section.title()),
            }
        }
        self.keys_of_zope(root);
    }

    /// A database that Zope opens itself.
    fn database(&mut self, section: &Section, paths: &Paths<'_>, mode: Option<ClusterMode>) {
        for storage in &section.sections {
            let name = storage.name.as_ref().or(section.name.as_ref());
            let name = name.cloned().unwrap_or_else(|| "main".into());
            let array = array::array(
                storage,
                &name,
                Container::Database,
                paths,
                mode,
                &mut self.found,
            );
            let known = array.is_some();
            self.add(array);
            if known {
                self.found.must_do(
                    &storage.place,
                    format!("{} in {}", storage.title(), section.title()),
                    format!(
                        "the daemon opens it now: put a <zeoclient> with `storage {name}` and a line `server` \
                         for the daemon in its place there (the rest of {} stays as it is)",
                        section.title()
                    ),
                );
            }
        }
    }

    /// In a `zope.conf` there are many; none is about how storages are served.
    fn keys_of_zope(&mut self, root: &Section) {
        let mut named: Vec<&str> = Vec::new();
        for key in &root.keys {
            if !named.contains(&key.name.as_str()) {
                named.push(&key.name);
            }
        }
        let Some(first) = root.keys.first() else {
            return;
        };
        self.found.known(
            &first.place,
            format!("`{}` outside of all sections", named.join("`, `")),
            "nothing of a storage server: it stays where it is",
        );
    }

    fn add(&mut self, array: Option<ArrayDraft>) {
        let Some(array) = array else { return };
        let same =
            |other: &&ArrayDraft| other.asked_as == array.asked_as || other.name == array.name;
        if let Some(other) = self.arrays.iter().find(same) {
            self.found.mistake(
                &array.place,
                format!(
                    "a second storage `{}`; the first is in {}",
                    array.asked_as, other.place
                ),
                "give each a name of its own (one without a name is `1`)",
            );
        }
        self.arrays.push(array);
    }

    fn finish(mut self, files: Vec<&Place>) -> Result<Converted, Vec<Mistake>> {
        let nowhere = files.first().copied();
        if let (Some(place), true) = (
            nowhere,
            self.arrays.is_empty() && self.found.mistakes.is_empty(),
        ) {
            // What is in the way was said with its reason.
            let refused = self
                .found
                .notes
                .iter()
                .filter(|note| note.what.ends_with(member::REFUSAL));
            let refused: Vec<String> = refused
                .map(|note| format!("{}: {}", note.what, note.mend))
                .collect();
            let what = if refused.is_empty() {
                "there is no storage in it".to_owned()
            } else {
                format!(
                    "there is no storage in it that can be taken over: {}",
                    refused.join("; ")
                )
            };
            self.found.mistake(
                place,
                what,
                "a <filestorage>, <zeoclient>, <clientstorage> or <raidstorage> is expected",
            );
        }
        let mistakes = self.found.all_mistakes();
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        if let (Some(place), None) = (nowhere, &self.zeo) {
            // Not where a member is: the old samples have their servers at ZEO's usual port.
            let taken = |port: &u16| self.arrays.iter().any(|array| array.has_member_at(*port));
            let port = (8100..u16::MAX)
                .step_by(100)
                .find(|port| !taken(port))
                .unwrap_or(8100);
            let address = format!("127.0.0.1:{port}");
            self.found.must_do(
                place,
                "there is no <zeo>, which would say where clients connect",
                format!("{address} is taken; change `listen` where they are elsewhere"),
            );
            self.listen.push(document::Item {
                node: Node::text(&address),
                from: Vec::new(),
            });
            self.addresses.push(address);
        }
        array::notes_of_all(&self.arrays, self.resolves.as_ref(), &mut self.found);
        let only = self.arrays.len() == 1;
        let folder = nowhere
            .and_then(|place| place.file.parent())
            .map(Path::to_owned)
            .unwrap_or_default();
        let mut shown = Vec::new();
        let mut arrays = Map::default();
        for draft in self.arrays {
            let from = [draft.place.clone()];
            let (name, imported, node) = draft.written(only, &self.of_arrays);
            arrays.put(&name, node, &from);
            shown.push(imported.within(&folder));
        }
        let mut notes = self.found.notes;
        notes.sort_by(|a, b| (a.kind, &a.places).cmp(&(b.kind, &b.places)));
        for place in notes.iter_mut().flat_map(|note| &mut note.places) {
            *place = place.within(&folder);
        }
        let mut map = Map::default();
        if !self.listen.is_empty() {
            map.put("listen", Node::List(self.listen), &[]);
        }
        map.extend(self.serving);
        map.put("arrays", arrays.node(), &[]);
        if !self.log.is_empty() {
            map.put("log", self.log.node(), &[]);
        }
        if let Some((path, place)) = &self.pid_file {
            map.text("pid_file", path, place);
        }
        map.extend(self.process);
        Ok(Converted {
            text: render(&head(&files, &notes), map, &|place| {
                place.within(&folder).to_string()
            }),
            listen: self.addresses,
            arrays: shown,
            notes,
        })
    }
}

/// What stands above the configuration: what it is, and what is still to be done.
fn head(files: &[&Place], notes: &[Note]) -> Vec<String> {
    let names: Vec<String> = files
        .iter()
        .map(|place| one_line(&place.file.display().to_string()))
        .collect();
    let mut head = vec![
        format!("Made by `zeoraidctl import` from {}.", names.join(" and ")),
        "Behind each value is where it came from; what is not here is the default, and `zeoraidctl show`".into(),
        "lists everything.".into(),
    ];
    let to_do = notes.iter().filter(|note| note.kind == NoteKind::ToDo);
    for (index, note) in to_do.enumerate() {
        if index == 0 {
            head.push(String::new());
            head.push("What was not carried over, or has to be looked at:".into());
        }
        let places: Vec<String> = note.places.iter().map(Place::to_string).collect();
        wrapped(
            "- ",
            &format!("{}: {}", places.join(", "), note.what),
            &mut head,
        );
        wrapped("    ", &note.mend, &mut head);
    }
    head
}

/// A sentence in lines that can be read; those after the first are indented as far as the first.
fn wrapped(start: &str, text: &str, lines: &mut Vec<String>) {
    let mut line = start.to_owned();
    for word in one_line(text).split(' ') {
        if line.len() + word.len() > WIDTH && line.len() > start.len() {
            lines.push(line.trim_end().to_owned());
            line = " ".repeat(start.len());
        }
        line.push_str(word);
        line.push(' ');
    }
    lines.push(line.trim_end().to_owned());
}

/// `key value`, for messages.
fn said(key: &Key) -> String {
    format!("`{} {}`", key.name, key.value)
}
