//! Recording the steps below a folder.
//!
//! The steps are really done, so that who does them sees a file system; only the syncs are not, since
//! nobody pulls the plug of this machine. While one is done and recorded, no other is; but a sync is two
//! entries, and what is done between them is not promised by it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use super::log::{Change, Content, Entry, FileId, FolderId, Log, Name, Names, Node, Synced};
use super::mistake::Mistake;
use crate::durable::step::Step;

/// How many there are, so that who is not watched hardly notices.
static COUNT: AtomicUsize = AtomicUsize::new(0);
static ALL: RwLock<Vec<Arc<Watched>>> = RwLock::new(Vec::new());

/// Device and number of an inode.
type Inode = (u64, u64);

/// Watches a folder until it is dropped.
pub(crate) struct Watch(Arc<Watched>);

pub(crate) struct Watched {
    root: PathBuf,
    mistake: Option<Mistake>,
    now: Mutex<Now>,
}

#[derive(Default)]
struct Now {
    log: Log,
    names: Names,
    files: HashMap<Inode, FileId>,
    /// So that no inode is used again.
    open: Vec<File>,
    next: u32,
}

impl Watch {
    /// What is in the folder now is durable.
    pub(crate) fn begin(root: &Path, mistake: Option<Mistake>) -> Self {
        let root = fs::canonicalize(root).expect("the folder is there");
        let mut now = Now {
            next: 1,
            ..Now::default()
        };
        now.look_around(&root, FolderId::ROOT);
        now.log.names = now.names.clone();
        let watched = Arc::new(Watched {
            root,
            mistake,
            now: Mutex::new(now),
        });
        ALL.write().push(Arc::clone(&watched));
        COUNT.fetch_add(1, Ordering::SeqCst);
        Watch(watched)
    }

    /// How many entries there are.
    pub(crate) fn position(&self) -> usize {
        self.0.now.lock().log.entries.len()
    }

    pub(crate) fn log(&self) -> Log {
        self.0.now.lock().log.clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        ALL.write().retain(|one| !Arc::ptr_eq(one, &self.0));
        COUNT.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Watched {
    pub(super) fn mistake(&self) -> Option<Mistake> {
        self.mistake
    }
}

/// Who watches below a path.
pub(super) fn of(path: &Path) -> Option<Arc<Watched>> {
    if COUNT.load(Ordering::SeqCst) == 0 {
        return None;
    }
    let all = ALL.read();
    all.iter()
        .find(|watched| path.starts_with(&watched.root))
        .cloned()
}

fn inode_of(file: &File) -> Option<Inode> {
    let meta = file.metadata().ok()?;
    Some((meta.dev(), meta.ino()))
}

fn of_file(file: &File) -> Option<(Arc<Watched>, FileId)> {
    if COUNT.load(Ordering::SeqCst) == 0 {
        return None;
    }
    let inode = inode_of(file)?;
    let all = ALL.read();
    all.iter().find_map(|watched| {
        let id = *watched.now.lock().files.get(&inode)?;
        Some((Arc::clone(watched), id))
    })
}

/// Does a step, and records it where somebody watches and it succeeds.
pub(in crate::durable) fn watched<T>(
    step: Step<'_>,
    act: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let found = match &step {
        Step::Write { file, .. } | Step::Copied { file, .. } | Step::SetLen(file, _) => {
            of_file(file)
        }
        Step::Open(path)
        | Step::Remove(path)
        | Step::MakeFolder(path)
        | Step::RemoveFolder(path)
        | Step::Rename(_, path)
        | Step::Exchange(_, path)
        | Step::Link(_, path) => of(path).map(|watched| (watched, FileId(0))),
        Step::Sync(_) | Step::SyncFolder(_) | Step::SyncDisk(_) => {
            unreachable!("syncs have a function of their own")
        }
    };
    let Some((watched, file)) = found else {
        return act();
    };
    let mut now = watched.now.lock();
    let is_new = matches!(step, Step::Open(path) if path.symlink_metadata().is_err());
    let done = act()?;
    now.note(&watched.root, &step, file, is_new);
    Ok(done)
}

/// How long a sync takes that is not done: time for others to write meanwhile, as they have it on a disk.
const SYNC: Duration = Duration::from_micros(200);

/// The same for a sync, which is not done where somebody watches.
#[expect(
    clippy::disallowed_methods,
    reason = "it stands for a disk that takes its time; nothing depends on how long"
)]
pub(in crate::durable) fn watched_sync(
    step: Step<'_>,
    act: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    let found = match step {
        Step::Sync(file) => of_file(file).map(|(watched, file)| (watched, Synced::File(file))),
        Step::SyncDisk(path) => of(path).map(|watched| (watched, Synced::Everything)),
        Step::SyncFolder(path) => of(path).map(|watched| {
            let folder = watched.now.lock().folder(&watched.root, path);
            (watched, Synced::Folder(folder))
        }),
        _ => unreachable!("only syncs come here"),
    };
    let Some((watched, what)) = found else {
        return act();
    };
    let begun = watched.now.lock().push(Entry::SyncBegins { what });
    std::thread::sleep(SYNC);
    watched.now.lock().push(Entry::SyncEnds { begun });
    Ok(())
}

impl Now {
    fn push(&mut self, entry: Entry) -> usize {
        self.log.entries.push(entry);
        self.log.entries.len() - 1
    }

    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next - 1
    }

    /// Everything that is there before the first step.
    fn look_around(&mut self, path: &Path, folder: FolderId) {
        for entry in fs::read_dir(path).expect("a folder") {
            let path = entry.expect("its entry").path();
            let name = name_in(folder, &path);
            let node = if path.is_dir() {
                let below = FolderId(self.number());
                self.look_around(&path, below);
                Node::Folder(below)
            } else {
                let (file, is_new) = self.file(&path);
                if is_new {
                    let content = Content::of(fs::read(&path).expect("its content"));
                    self.log.contents.insert(file, content);
                }
                Node::File(file)
            };
            self.names.insert(name, node);
        }
    }

    /// Which file a path leads to, and whether it was not known.
    fn file(&mut self, path: &Path) -> (FileId, bool) {
        let open = File::open(path).expect("it is there");
        let inode = inode_of(&open).expect("it is open");
        if let Some(known) = self.files.get(&inode) {
            return (*known, false);
        }
        let file = FileId(self.number());
        self.files.insert(inode, file);
        self.open.push(open);
        let called = path.file_name().unwrap_or_default().to_string_lossy();
        self.log.called.insert(file, called.into_owned());
        (file, true)
    }

    fn folder(&self, root: &Path, path: &Path) -> FolderId {
        let mut folder = FolderId::ROOT;
        let below = path.strip_prefix(root).expect("a path below the root");
        for name in below {
            let name = Name {
                folder,
                name: name.to_string_lossy().into_owned(),
            };
            let Some(Node::Folder(next)) = self.names.get(&name) else {
                panic!("{} was made by no step", path.display());
            };
            folder = *next;
        }
        folder
    }

    fn name(&self, root: &Path, path: &Path) -> Name {
        let above = path.parent().expect("it is below the root");
        name_in(self.folder(root, above), path)
    }

    fn node(&self, name: &Name) -> Node {
        let node = self.names.get(name);
        *node.unwrap_or_else(|| panic!("{name:?} was made by no step"))
    }

    fn set(&mut self, what: String, set: Vec<(Name, Option<Node>)>) {
        for (name, node) in &set {
            match node {
                Some(node) => self.names.insert(name.clone(), *node),
                None => self.names.remove(name),
            };
        }
        self.push(Entry::Names { what, set });
    }

    fn note(&mut self, root: &Path, step: &Step<'_>, file: FileId, is_new: bool) {
        let short = |path: &Path| {
            let below = path.strip_prefix(root).unwrap_or(path);
            below.display().to_string()
        };
        match *step {
            Step::Open(path) => {
                if is_new {
                    let name = self.name(root, path);
                    let (file, _) = self.file(path);
                    let set = vec![(name, Some(Node::File(file)))];
                    self.set(format!("make {}", short(path)), set);
                }
            }
            Step::MakeFolder(path) => {
                let name = self.name(root, path);
                let folder = Node::Folder(FolderId(self.number()));
                let set = vec![(name, Some(folder))];
                self.set(format!("make folder {}", short(path)), set);
            }
            Step::Remove(path) | Step::RemoveFolder(path) => {
                let set = vec![(self.name(root, path), None)];
                self.set(format!("remove {}", short(path)), set);
            }
            Step::Rename(from, to) => {
                let what = format!("rename {} to {}", short(from), short(to));
                let (from, to) = (self.name(root, from), self.name(root, to));
                let node = self.node(&from);
                self.set(what, vec![(from, None), (to, Some(node))]);
            }
            Step::Exchange(one, other) => {
                let what = format!("exchange {} and {}", short(one), short(other));
                let (one, other) = (self.name(root, one), self.name(root, other));
                let (first, second) = (self.node(&one), self.node(&other));
                self.set(what, vec![(one, Some(second)), (other, Some(first))]);
            }
            Step::Link(from, to) => {
                let name = self.name(root, to);
                let (file, from_elsewhere) = self.file(to);
                let set = vec![(name, Some(Node::File(file)))];
                self.set(format!("link {} as {}", short(from), short(to)), set);
                if from_elsewhere {
                    // Nobody has synced it, as far as is known here.
                    let len = fs::metadata(to).map_or(0, |meta| meta.len());
                    self.wrote(file, &File::open(to).expect("it is there"), 0, len);
                }
            }
            Step::Write { bytes, at, .. } => self.change(file, at, bytes.to_vec()),
            Step::Copied {
                file: open,
                at,
                len,
            } => self.wrote(file, open, at, len),
            Step::SetLen(_, len) => {
                let change = Change::SetLen(len);
                self.push(Entry::Content { file, change });
            }
            Step::Sync(_) | Step::SyncFolder(_) | Step::SyncDisk(_) => {}
        }
    }

    fn wrote(&mut self, file: FileId, open: &File, at: u64, len: u64) {
        let mut bytes = vec![0; usize::try_from(len).expect("a small file")];
        open.read_exact_at(&mut bytes, at).expect("it was written");
        self.change(file, at, bytes);
    }

    fn change(&mut self, file: FileId, at: u64, bytes: Vec<u8>) {
        let bytes = Content::of(bytes);
        let change = Change::Write { at, bytes };
        self.push(Entry::Content { file, change });
    }
}

fn name_in(folder: FolderId, path: &Path) -> Name {
    let name = path.file_name().expect("a name");
    Name {
        folder,
        name: name.to_string_lossy().into_owned(),
    }
}
