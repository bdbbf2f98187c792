//! A folder of blobs, as ZODB lays it out.
//!
//! Beside a `Data.fs` whose objects include blobs stands a folder with a file for each revision of each
//! of them: in the *bushy* layout `0x00/0x00/…/0x2a/0x<tid>.blob`, a folder for each byte of the oid; in
//! the older *lawn* layout `0x2a/0x<tid>.blob`. The file `.layout` says which it is. `tmp` is for files that
//! are not in place yet. Source: `ZODB/blob.py`, `FilesystemHelper`.
//!
//! A file is complete and durable before it gets its name, and its name is durable before
//! [`BlobDirectory::place`] returns. All calls block.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use parking_lot::Mutex;
use tempfile::TempPath;

use crate::durable::step::{self, Temporary};
use crate::zodb::{Blob, Oid, Tid};

mod aside;
mod copy;
mod layout;
mod place;
mod record;
#[cfg(test)]
mod tests;
mod walk;

use layout::Layout;
pub(super) use place::{Placed, Staged};
pub use record::is_blob_record;

/// What the names of our temporary files begin with. Others put theirs into the same folder.
const OURS: &str = "zeoraid-";

/// An open folder of blobs.
#[derive(Debug)]
pub struct BlobDirectory {
    root: PathBuf,
    tmp: PathBuf,
    layout: Layout,
    /// Held while folders are made or removed and while a file gets its name, so that nobody relies on
    /// a folder that is not durable yet or is just going away.
    names: Mutex<()>,
}

impl BlobDirectory {
    /// Opens a folder, and makes it where it is not there.
    ///
    /// # Errors
    /// What making or reading it gives; `InvalidData` where it is something else than a folder of blobs.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        let existed = match fs::metadata(&root) {
            Ok(meta) if meta.is_dir() => true,
            Ok(_) => {
                let text = format!("{} is not a folder", root.display());
                return Err(io::Error::new(ErrorKind::InvalidData, text));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        if !existed {
            make_durably(&root)?;
        }
        let layout = layout::detect(&root)?;
        // Before `tmp`: a folder that has something in it and no marker is taken for the old layout.
        layout::mark(&root, layout)?;
        let tmp = root.join("tmp");
        make_durably(&tmp)?;
        if existed {
            // What a process made that did not live to sync it is relied on from now on.
            step::sync_disk(&root)?;
        }
        let directory = BlobDirectory {
            root,
            tmp,
            layout,
            names: Mutex::new(()),
        };
        directory.clear_temporaries()?;
        Ok(directory)
    }

    /// Opens a folder that is there to look into it. Nothing is made, and nothing removed.
    ///
    /// # Errors
    /// What reading it gives.
    pub fn open_to_read(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        let layout = layout::detect(&root)?;
        Ok(BlobDirectory {
            tmp: root.join("tmp"),
            root,
            layout,
            names: Mutex::new(()),
        })
    }

    /// The folder that was opened.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder for files that will be placed: it is on the same disk.
    #[must_use]
    pub fn tmp(&self) -> &Path {
        &self.tmp
    }

    /// A new temporary file in [`tmp`](Self::tmp). What a killed process leaves of these is removed when
    /// the folder is opened again.
    ///
    /// # Errors
    /// What making a file gives.
    pub fn temporary(&self) -> io::Result<(File, TempPath)> {
        let file = Self::names_of_temporaries().make_in(&self.tmp, step::create_private)?;
        Ok(file.into_parts())
    }

    fn names_of_temporaries() -> tempfile::Builder<'static, 'static> {
        static PREFIX: OnceLock<String> = OnceLock::new();
        let prefix = PREFIX.get_or_init(|| format!("{OURS}{}-", process_mark()));
        let mut builder = tempfile::Builder::new();
        builder.prefix(prefix).suffix(".tmp");
        builder
    }

    /// The folder of all revisions of a blob.
    #[must_use]
    pub fn folder(&self, oid: Oid) -> PathBuf {
        self.root.join(self.layout.folder(oid))
    }

    /// The file of one revision.
    #[must_use]
    pub fn file(&self, oid: Oid, tid: Tid) -> PathBuf {
        self.folder(oid).join(layout::file_name(tid))
    }

    /// Gives a revision its file. A temporary file of this disk gets a second name, of anything else a
    /// copy is made. Returns when both content and name are durable. A file that is there is replaced.
    ///
    /// # Errors
    /// What linking, copying or syncing gives; `UnexpectedEof` where the source is shorter than it was.
    pub fn place(&self, oid: Oid, tid: Tid, blob: &Blob) -> io::Result<()> {
        self.place_minding(oid, tid, blob, || {})
    }

    /// As [`Self::place`]; calls `made` each time when the folder is made.
    fn place_minding(
        &self,
        oid: Oid,
        tid: Tid,
        blob: &Blob,
        mut made: impl FnMut(),
    ) -> io::Result<()> {
        let (file, path) = self.own_file(blob)?;
        // The temporary name goes with `path`, if it is still there.
        let mut name = || {
            let _names = self.names.lock();
            let folder = self.make_folder(oid)?;
            made();
            protect(&file, &folder)?;
            // Not `persist`, which would take the temporary name with it where this fails.
            step::rename(path.path(), &self.file(oid, tid))
        };
        match name() {
            // Another process that shares the folder has just removed it, since it was empty. It
            // would not do so again at once.
            Err(error) if error.kind() == ErrorKind::NotFound => name(),
            named => named,
        }?;
        step::sync_folder(&self.folder(oid))
    }

    /// A file in `tmp` with the content of a blob, durable and nobody else's: the blob's own under a
    /// second name, or a copy.
    fn own_file(&self, blob: &Blob) -> io::Result<(File, Temporary)> {
        if blob.is_temporary()
            && let Some(path) = self.second_name(blob.path())
        {
            let file = File::open(path.path())?;
            let meta = file.metadata()?;
            // Another member may have taken this file for its own copy, whose bytes on disk must not be
            // ours, and somebody may have moved it.
            if meta.nlink() == 2 && same_file(&meta, &blob.open()?.metadata()?) {
                sync_content(&file, &self.root)?;
                return Ok((file, path));
            }
        }
        let (file, path) = self.temporary()?;
        let path = Temporary::new(path.keep().map_err(|error| error.error)?);
        copy::copy(blob, &file)?;
        sync_content(&file, &self.root)?;
        Ok((file, path))
    }

    /// A name in `tmp` for a file that has one already; none where that cannot be: it is on another
    /// disk, or that knows no second names, or it is gone.
    fn second_name(&self, path: &Path) -> Option<Temporary> {
        let link = Self::names_of_temporaries();
        let link = link.make_in(&self.tmp, |name| step::hard_link(path, name));
        let link = link.ok()?.into_temp_path().keep();
        Some(Temporary::new(link.ok()?))
    }

    /// Gives a revision a file that is kept elsewhere, by a second name of it, and says whether that can be:
    /// not where that is on another disk, or on one that knows no second names. The name is durable after
    /// [`Self::sync_everything`].
    ///
    /// # Errors
    /// What making the folder gives.
    pub fn link(&self, oid: Oid, tid: Tid, blob: &Blob) -> io::Result<bool> {
        let _names = self.names.lock();
        step::make_folders(&self.folder(oid))?;
        Ok(step::hard_link(blob.path(), &self.file(oid, tid)).is_ok())
    }

    /// Makes everything in the folder durable.
    ///
    /// # Errors
    /// What syncing gives.
    pub fn sync_everything(&self) -> io::Result<()> {
        step::sync_disk(&self.root)
    }

    /// The file of a revision; none where there is none.
    ///
    /// # Errors
    /// What opening it gives.
    pub fn find(&self, oid: Oid, tid: Tid) -> io::Result<Option<Blob>> {
        match Blob::kept(self.file(oid, tid)) {
            Ok(blob) => Ok(Some(blob)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes the file of a revision, and the folders that are empty then. It may be gone already.
    /// Nobody else may write into this folder meanwhile.
    ///
    /// # Errors
    /// What removing the file gives.
    pub fn remove(&self, oid: Oid, tid: Tid) -> io::Result<()> {
        let _names = self.names.lock();
        self.remove_file(oid, tid)
    }

    /// As [`Self::remove`], where other processes write into the folder too: of the folders, at most
    /// the blob's own is removed. Those above are other blobs' as well, and somebody may have seen
    /// one a moment ago and be about to make something in it.
    ///
    /// # Errors
    /// What removing the file gives.
    pub fn remove_among_others(&self, oid: Oid, tid: Tid) -> io::Result<()> {
        let _names = self.names.lock();
        if self.unlink(oid, tid)? {
            // Not where another revision is in it; nothing depends on its being removed.
            step::remove_folder(&self.folder(oid)).ok();
        }
        Ok(())
    }

    /// To be called with `names` held.
    fn remove_file(&self, oid: Oid, tid: Tid) -> io::Result<()> {
        if !self.unlink(oid, tid)? {
            return Ok(());
        }
        let folder = self.folder(oid);
        for folder in folder.ancestors() {
            // The first that is not empty ends it; nothing depends on its being removed.
            if folder == self.root || step::remove_folder(folder).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Removes a file, and says whether it was there.
    fn unlink(&self, oid: Oid, tid: Tid) -> io::Result<bool> {
        match step::remove_file(&self.file(oid, tid)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes the folder of a blob, durably. To be called with `names` held.
    fn make_folder(&self, oid: Oid) -> io::Result<PathBuf> {
        let folder = self.folder(oid);
        make_durably(&folder)?;
        Ok(folder)
    }

    /// Removes temporary files that another process of ours has left.
    fn clear_temporaries(&self) -> io::Result<()> {
        let own = format!("{OURS}{}-", process_mark());
        for entry in fs::read_dir(&self.tmp)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let unsettled = name.starts_with(place::UNSETTLED);
            if name.starts_with(OURS) && !name.starts_with(&own) && !unsettled {
                match step::remove_file(&entry.path()) {
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// Tells this process's temporary files from those of a killed one. (Process numbers do not: in a
/// container they are the same each time.)
fn process_mark() -> &'static str {
    static MARK: OnceLock<String> = OnceLock::new();
    MARK.get_or_init(|| format!("{:016x}", uuid::Uuid::new_v4().as_u64_pair().0))
}

/// Makes a folder and what is missing above it, and syncs the folder above each that was made.
fn make_durably(folder: &Path) -> io::Result<()> {
    let mut missing = Vec::new();
    for folder in folder.ancestors() {
        if folder.as_os_str().is_empty() || folder.is_dir() {
            break;
        }
        missing.push(folder);
    }
    for folder in missing.into_iter().rev() {
        match step::make_folder(folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        step::sync_folder_of(folder)?;
    }
    Ok(())
}

/// Makes a file durable that is in this folder.
fn sync_content(file: &File, root: &Path) -> io::Result<()> {
    if step::mistake!(root, BlobNotSynced) {
        return Ok(());
    }
    step::sync_all(file)
}

fn same_file(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// The permissions of a committed blob: nobody may write, and whoever may read the folder may read it.
fn protect(file: &File, folder: &Path) -> io::Result<()> {
    let mode = file.metadata()?.mode() & 0o7777;
    let readers = fs::symlink_metadata(folder)?.mode() & 0o444;
    file.set_permissions(Permissions::from_mode((mode & !0o222) | readers))
}
