//! Giving blobs their files within a transaction that may still be aborted.
//!
//! 1. [`BlobDirectory::stage`] makes the content durable, under a temporary name. It may take long, and
//!    is done before anything is locked.
//! 2. [`Staged::place`] gives it the name of a revision. The temporary name now says which revision that
//!    is, and stays until the transaction is final.
//! 3. [`Placed::keep`] removes the temporary name. Dropped before, it takes the file back.
//!
//! What is left after a crash with such a temporary name is [`BlobDirectory::unsettled`]: whoever knows
//! which transactions there are says whether the file stays.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;

use super::{BlobDirectory, protect, same_file};
use crate::durable::step::{self, Temporary};
use crate::zodb::{Blob, Oid, Tid};

/// What the names of files begin with that may have been placed for nothing.
pub(super) const UNSETTLED: &str = "zeoraid-placing-";

/// A file in the folder that has no name yet. Dropping it removes it. Not an open file: a transaction may have
/// more of these than files may be open.
#[derive(Debug)]
pub(crate) struct Staged {
    directory: Arc<BlobDirectory>,
    path: Temporary,
}

/// A file that has the name of a revision.
#[derive(Debug)]
pub(crate) struct Placed {
    directory: Arc<BlobDirectory>,
    oid: Oid,
    tid: Tid,
    /// The temporary name: while it is there, no other file can be taken for this one. Not an open file, since
    /// a recovery has as many of these as it makes transactions durable at once.
    mark: Option<Temporary>,
    /// Nobody knows yet whether the transaction is final.
    entrusted: bool,
}

/// A file that was placed in a transaction of which nobody here knows what became of it.
#[derive(Debug)]
pub(crate) struct Unsettled {
    pub(crate) oid: Oid,
    pub(crate) tid: Tid,
    mark: PathBuf,
}

impl BlobDirectory {
    /// Makes a blob's content durable in this folder. Blocks, for as long as that takes.
    ///
    /// # Errors
    /// As [`BlobDirectory::place`].
    pub(crate) fn stage(self: &Arc<Self>, blob: &Blob) -> io::Result<Staged> {
        let (_, path) = self.own_file(blob)?;
        Ok(Staged {
            directory: Arc::clone(self),
            path,
        })
    }

    /// A revision's file, to be placed as another revision too (undo). The two share it: nothing is
    /// ever written into the file of a revision. None where there is none.
    ///
    /// # Errors
    /// What copying gives, where it cannot be shared.
    pub(crate) fn stage_again(self: &Arc<Self>, oid: Oid, tid: Tid) -> io::Result<Option<Staged>> {
        let Some(path) = self.second_name(&self.file(oid, tid)) else {
            let blob = self.find(oid, tid)?;
            return blob.map(|blob| self.stage(&blob)).transpose();
        };
        Ok(Some(Staged {
            directory: Arc::clone(self),
            path,
        }))
    }

    /// What was placed and never kept or taken back.
    ///
    /// # Errors
    /// What reading the folder gives.
    pub(crate) fn unsettled(&self) -> io::Result<Vec<Unsettled>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.tmp)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some((oid, tid)) = name.to_str().and_then(parse_mark) else {
                continue;
            };
            let mark = entry.path();
            all.push(Unsettled { oid, tid, mark });
        }
        Ok(all)
    }

    /// Keeps a file that was placed, or takes it back.
    ///
    /// # Errors
    /// What removing a file gives.
    pub(crate) fn settle(&self, unsettled: Unsettled, keep: bool) -> io::Result<()> {
        let Unsettled { oid, tid, mark } = unsettled;
        if !keep {
            self.take_back(oid, tid, &File::open(&mark)?)?;
        }
        match step::remove_file(&mark) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Keeps all that was placed, durably: the transactions are about to be where nobody looks for them,
    /// and their files are not to be taken for those of aborted ones. Nobody may be placing any.
    ///
    /// # Errors
    /// What reading the folder, removing a name and syncing give.
    pub(crate) fn keep_unsettled(&self) -> io::Result<()> {
        for unsettled in self.unsettled()? {
            self.settle(unsettled, true)?;
        }
        step::sync_folder(&self.tmp)
    }

    /// Removes the file of a revision where it is this one.
    fn take_back(&self, oid: Oid, tid: Tid, file: &File) -> io::Result<()> {
        let _names = self.names.lock();
        match fs::symlink_metadata(self.file(oid, tid)) {
            Ok(meta) if same_file(&meta, &file.metadata()?) => self.remove_file(oid, tid),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Staged {
    /// Gives it the name of a revision, durably. A file that is there is replaced.
    ///
    /// # Errors
    /// What making folders and names gives.
    pub(crate) fn place(self, oid: Oid, tid: Tid) -> io::Result<Placed> {
        let directory = &self.directory;
        let target = directory.file(oid, tid);
        let mark = directory.tmp.join(mark(oid, tid));
        self.path.rename(&mark)?;
        let mark = Temporary::new(mark);
        {
            let _names = directory.names.lock();
            let folder = directory.make_folder(oid)?;
            protect(&File::open(mark.path())?, &folder)?;
            match step::hard_link(mark.path(), &target) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    step::remove_file(&target)?;
                    step::hard_link(mark.path(), &target)?;
                }
                linked => linked?,
            }
        }
        let placed = Placed {
            directory: Arc::clone(directory),
            oid,
            tid,
            mark: Some(mark),
            entrusted: false,
        };
        // The temporary name is older: where the new one survives a crash, so does the old. Where the
        // disk sees that differently, a file is left that no record names.
        if !step::mistake!(&placed.directory.root, BlobNameNotSynced) {
            step::sync_folder(&placed.directory.folder(oid))?;
        }
        Ok(placed)
    }
}

impl Placed {
    /// From now on dropping it leaves everything as it is: the transaction may become final.
    pub(crate) fn entrust(&mut self) {
        self.entrusted = true;
    }

    /// The transaction is final.
    pub(crate) fn keep(mut self) {
        self.entrusted = true;
        // Where it cannot be removed, it is when the folder is opened again.
        drop(self.mark.take());
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        if self.entrusted {
            if let Some(mark) = self.mark.take() {
                // It tells the next opening to look which transactions there are.
                mark.keep();
            }
            return;
        }
        let Some(mark) = self.mark.take() else {
            return;
        };
        let taken_back = File::open(mark.path())
            .and_then(|file| self.directory.take_back(self.oid, self.tid, &file));
        if let Err(error) = taken_back {
            let file = self.directory.file(self.oid, self.tid);
            tracing::warn!(file = %file.display(), %error, "file of an aborted blob was not removed");
            mark.keep();
        }
    }
}

fn mark(oid: Oid, tid: Tid) -> String {
    format!("{UNSETTLED}{:016x}-{:016x}.tmp", oid.0, tid.0)
}

fn parse_mark(name: &str) -> Option<(Oid, Tid)> {
    let (oid, tid) = name
        .strip_prefix(UNSETTLED)?
        .strip_suffix(".tmp")?
        .split_once('-')?;
    let number = |digits| u64::from_str_radix(digits, 16).ok();
    Some((Oid(number(oid)?), Tid(number(tid)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OID: Oid = Oid(7);
    const TID: Tid = Tid(0x0401_0203_0000_0011);

    fn open(folder: &tempfile::TempDir) -> Arc<BlobDirectory> {
        Arc::new(BlobDirectory::open(folder.path()).unwrap())
    }

    fn placed(directory: &Arc<BlobDirectory>, content: &str) -> Placed {
        let (_, path) = directory.temporary().unwrap();
        fs::write(&path, content).unwrap();
        let staged = directory.stage(&Blob::temporary(path).unwrap()).unwrap();
        staged.place(OID, TID).unwrap()
    }

    fn content(directory: &BlobDirectory) -> Option<String> {
        fs::read_to_string(directory.file(OID, TID)).ok()
    }

    fn temporaries(directory: &BlobDirectory) -> usize {
        fs::read_dir(directory.tmp()).unwrap().count()
    }

    #[test]
    fn what_is_staged_and_placed_is_no_open_file() {
        let folder = tempfile::tempdir().unwrap();
        let directory = open(&folder);
        let placed = placed(&directory, "content");
        let (_, path) = directory.temporary().unwrap();
        let blob = Blob::temporary(path).unwrap();
        let staged = directory.stage(&blob).unwrap();
        let root = folder.path().canonicalize().unwrap();
        // Where there is no such folder, nothing can be told.
        for entry in fs::read_dir("/proc/self/fd").into_iter().flatten() {
            let file = fs::read_link(entry.unwrap().path()).unwrap_or_default();
            assert!(!file.starts_with(&root), "{}", file.display());
        }
        drop((placed, staged, blob));
        assert_eq!(content(&directory), None);
        assert_eq!(temporaries(&directory), 0);
    }

    #[test]
    fn what_is_kept_stays_and_what_is_dropped_goes() {
        let folder = tempfile::tempdir().unwrap();
        let directory = open(&folder);
        drop(placed(&directory, "aborted"));
        assert_eq!(content(&directory), None);
        assert!(!directory.folder(OID).exists());
        placed(&directory, "kept").keep();
        assert_eq!(content(&directory).unwrap(), "kept");
        assert_eq!(temporaries(&directory), 0);
    }

    #[test]
    fn what_nobody_knows_is_settled_after_opening_again() {
        for keep in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let directory = open(&folder);
            let mut unknown = placed(&directory, "unknown");
            unknown.entrust();
            drop(unknown);
            let directory = open(&folder);
            let mut left = directory.unsettled().unwrap();
            let one = left.pop().unwrap();
            assert!(left.is_empty());
            assert_eq!((one.oid, one.tid), (OID, TID));
            directory.settle(one, keep).unwrap();
            assert_eq!(content(&directory).is_some(), keep);
            assert_eq!(temporaries(&directory), 0);
        }
    }

    #[test]
    fn a_late_abort_does_not_take_the_file_of_another() {
        let folder = tempfile::tempdir().unwrap();
        let directory = open(&folder);
        let late = placed(&directory, "first");
        placed(&directory, "second").keep();
        drop(late);
        assert_eq!(content(&directory).unwrap(), "second");
        assert_eq!(temporaries(&directory), 0);
    }

    #[test]
    fn a_revision_can_be_placed_as_another() {
        let folder = tempfile::tempdir().unwrap();
        let directory = open(&folder);
        placed(&directory, "content").keep();
        let later = Tid(TID.0 + 1);
        assert!(directory.stage_again(OID, later).unwrap().is_none());
        let staged = directory.stage_again(OID, TID).unwrap().unwrap();
        staged.place(OID, later).unwrap().keep();
        directory.remove(OID, TID).unwrap();
        let blob = directory.find(OID, later).unwrap().unwrap();
        assert_eq!(fs::read(blob.path()).unwrap(), b"content");
        assert_eq!(temporaries(&directory), 0);
    }
}
