//! From a log to what is on the disk at some moment, and what of it is durable.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::log::{Change, Content, Entry, FileId, FolderId, Log, Name, Names, Node, Synced};

pub(super) const SECTOR: usize = 512;

/// The disk after so many entries of a log.
pub(super) struct Disk<'l> {
    log: &'l Log,
    /// How many.
    pub(super) at: usize,
    pub(super) names: Names,
    pub(super) files: BTreeMap<FileId, OnDisk>,
    /// The entries with names that are not durable.
    pub(super) pending: Vec<usize>,
    /// Up to here a file system that keeps their order has all names durable.
    pub(super) in_order: usize,
}

/// The content of a file.
#[derive(Clone, Default)]
pub(super) struct OnDisk {
    pub(super) durable: Content,
    /// The entries with changes that are not.
    pub(super) pending: Vec<usize>,
}

/// What becomes of a change of a file that is not durable.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum Fate {
    Lost,
    Done,
    /// These sectors of it are written, and whether the file is as long as if all were.
    Torn {
        sectors: Vec<bool>,
        long: bool,
    },
}

/// What a folder holds.
pub(crate) struct State {
    pub(super) names: BTreeMap<PathBuf, Node>,
    pub(super) contents: BTreeMap<FileId, Content>,
}

impl<'l> Disk<'l> {
    pub(super) fn new(log: &'l Log) -> Self {
        let files = log.contents.iter().map(|(file, content)| {
            let durable = content.clone();
            let pending = Vec::new();
            (*file, OnDisk { durable, pending })
        });
        Disk {
            log,
            at: 0,
            names: log.names.clone(),
            files: files.collect(),
            pending: Vec::new(),
            in_order: 0,
        }
    }

    pub(super) fn after(log: &'l Log, entries: usize) -> Self {
        let mut disk = Disk::new(log);
        while disk.at < entries {
            disk.step();
        }
        disk
    }

    /// Goes on by one entry.
    pub(super) fn step(&mut self) {
        let at = self.at;
        self.at += 1;
        match &self.log.entries[at] {
            Entry::Names { .. } => self.pending.push(at),
            Entry::Content { file, .. } => self.files.entry(*file).or_default().pending.push(at),
            Entry::SyncBegins { .. } => (),
            Entry::SyncEnds { begun } => {
                let Entry::SyncBegins { what } = self.log.entries[*begun] else {
                    panic!("a sync that was never begun");
                };
                self.synced(what, *begun);
            }
        }
    }

    fn synced(&mut self, what: Synced, begun: usize) {
        if let Synced::File(file) = what {
            self.content_synced(file, begun);
            return;
        }
        if what == Synced::Everything {
            let all: Vec<FileId> = self.files.keys().copied().collect();
            for file in all {
                self.content_synced(file, begun);
            }
        }
        let touched = |entry: &usize| {
            *entry < begun
                && match what {
                    Synced::Folder(folder) => {
                        let mut names = set_by(self.log, *entry).iter();
                        names.any(|(name, _)| name.folder == folder)
                    }
                    _ => true,
                }
        };
        let mut durable: BTreeSet<usize> = self.pending.iter().copied().filter(touched).collect();
        if let Some(last) = durable.last() {
            self.in_order = self.in_order.max(last + 1);
        }
        // What came before on the same names is durable with it.
        for (position, entry) in self.pending.iter().enumerate().rev() {
            if !durable.contains(entry) {
                let later = &self.pending[position + 1..];
                let needed = later
                    .iter()
                    .any(|later| durable.contains(later) && needs(self.log, *later, *entry));
                if needed {
                    durable.insert(*entry);
                }
            }
        }
        for entry in &durable {
            set(&mut self.names, set_by(self.log, *entry));
        }
        self.pending.retain(|entry| !durable.contains(entry));
    }

    fn content_synced(&mut self, file: FileId, begun: usize) {
        let on_disk = self.files.entry(file).or_default();
        let before = on_disk.pending.partition_point(|entry| *entry < begun);
        if before == 0 {
            return;
        }
        let mut content = on_disk.durable.bytes().to_vec();
        for entry in on_disk.pending.drain(..before) {
            apply(&mut content, change(self.log, entry), &Fate::Done);
        }
        on_disk.durable = Content::of(content);
    }

    /// The names with these of the pending entries.
    pub(super) fn names_with(&self, kept: &[bool]) -> Names {
        let mut names = self.names.clone();
        for (entry, kept) in self.pending.iter().zip(kept) {
            if *kept {
                set(&mut names, set_by(self.log, *entry));
            }
        }
        names
    }

    /// A file with a fate for each of its pending changes.
    pub(super) fn content_with<'f>(
        &self,
        file: FileId,
        fates: impl IntoIterator<Item = &'f Fate>,
    ) -> Content {
        let Some(on_disk) = self.files.get(&file) else {
            return Content::default();
        };
        if on_disk.pending.is_empty() {
            return on_disk.durable.clone();
        }
        let mut content = on_disk.durable.bytes().to_vec();
        for (entry, fate) in on_disk.pending.iter().zip(fates) {
            apply(&mut content, change(self.log, *entry), fate);
        }
        Content::of(content)
    }
}

pub(super) fn set_by(log: &Log, entry: usize) -> &[(Name, Option<Node>)] {
    match &log.entries[entry] {
        Entry::Names { set, .. } => set,
        _ => &[],
    }
}

pub(super) fn change(log: &Log, entry: usize) -> &Change {
    match &log.entries[entry] {
        Entry::Content { change, .. } => change,
        _ => unreachable!("only changes are pending in a file"),
    }
}

/// Whether one cannot be done without the other before it: they touch the same name, or that one makes
/// the folder in which this one does something.
pub(super) fn needs(log: &Log, later: usize, earlier: usize) -> bool {
    let earlier = set_by(log, earlier);
    set_by(log, later).iter().any(|(name, _)| {
        let folder = Some(Node::Folder(name.folder));
        earlier
            .iter()
            .any(|(same, node)| same == name || *node == folder)
    })
}

fn set(names: &mut Names, set: &[(Name, Option<Node>)]) {
    for (name, node) in set {
        match node {
            Some(node) => names.insert(name.clone(), *node),
            None => names.remove(name),
        };
    }
}

fn apply(content: &mut Vec<u8>, change: &Change, fate: &Fate) {
    let (at, bytes) = match (change, fate) {
        (_, Fate::Lost) => return,
        (Change::SetLen(len), _) => {
            content.resize(*len as usize, 0);
            return;
        }
        (Change::Write { at, bytes }, _) => (*at as usize, bytes.bytes()),
    };
    let end = at + bytes.len();
    let mut longer = |to: usize| {
        if content.len() < to {
            content.resize(to, 0);
        }
    };
    let Fate::Torn { sectors, long } = fate else {
        longer(end);
        content[at..end].copy_from_slice(bytes);
        return;
    };
    if *long {
        longer(end);
    }
    for (number, written) in sectors.iter().enumerate() {
        let sector = (at / SECTOR + number) * SECTOR;
        let (from, to) = (sector.max(at), (sector + SECTOR).min(end));
        if *written {
            if content.len() < to {
                content.resize(to, 0);
            }
            content[from..to].copy_from_slice(&bytes[from - at..to - at]);
        }
    }
}

/// How many sectors a write touches.
pub(super) fn sectors(at: u64, len: usize) -> usize {
    let at = at as usize;
    (at + len).div_ceil(SECTOR) - at / SECTOR
}

/// Every path that can be reached from the root, and what it leads to.
pub(super) fn paths(names: &Names) -> BTreeMap<PathBuf, Node> {
    let mut paths = BTreeMap::new();
    let mut folders = vec![(FolderId::ROOT, PathBuf::new())];
    while let Some((folder, path)) = folders.pop() {
        let first = Name {
            folder,
            name: String::new(),
        };
        for (name, node) in names.range(first..) {
            if name.folder != folder {
                break;
            }
            let path = path.join(&name.name);
            if let Node::Folder(below) = node {
                folders.push((*below, path.clone()));
            }
            paths.insert(path, *node);
        }
    }
    paths
}

impl State {
    /// Makes it: a folder that is there and empty gets everything.
    pub(crate) fn make(&self, root: &Path) {
        let mut made: BTreeMap<FileId, &Path> = BTreeMap::new();
        for (path, node) in &self.names {
            let to = root.join(path);
            match node {
                Node::Folder(_) => fs::create_dir(&to).expect("a new folder"),
                Node::File(file) => {
                    if let Some(first) = made.get(file) {
                        fs::hard_link(root.join(first), &to).expect("a second name");
                    } else {
                        fs::write(&to, self.contents[file].bytes()).expect("a new file");
                        made.insert(*file, path);
                    }
                }
            }
        }
    }
}
