//! The steps that change the file system: everything by which the databases, their blobs and the small
//! files beside them come to the disk is one of these.
//!
//! A crash leaves some of the steps before it and not others: what was not synced may be missing, or
//! there in part. So the tests record every step, and open what each crash may leave
//! ([`crash`](super::crash)). Without tests a step is the call of the operating system and nothing else.
//!
//! Reading goes past this: it leaves nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

#[cfg(test)]
pub(crate) use super::crash::mistake::{Mistake, is_made};
#[cfg(test)]
use super::crash::watch::{watched, watched_sync};

/// What is changed.
#[cfg_attr(not(test), expect(dead_code, reason = "tests look at it"))]
pub(super) enum Step<'a> {
    /// A file is opened, and made where it is not there.
    Open(&'a Path),
    Write {
        file: &'a File,
        bytes: &'a [u8],
        at: u64,
    },
    /// The system has copied so much into a file.
    Copied {
        file: &'a File,
        at: u64,
        len: u64,
    },
    SetLen(&'a File, u64),
    /// A name takes the place of another.
    Rename(&'a Path, &'a Path),
    Exchange(&'a Path, &'a Path),
    Link(&'a Path, &'a Path),
    Remove(&'a Path),
    MakeFolder(&'a Path),
    RemoveFolder(&'a Path),
    Sync(&'a File),
    /// The names in a folder.
    SyncFolder(&'a Path),
    /// The disk that a folder is on.
    SyncDisk(&'a Path),
}

#[cfg(not(test))]
#[inline]
fn watched<T>(_step: Step<'_>, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    act()
}

#[cfg(not(test))]
#[inline]
fn watched_sync(_step: Step<'_>, act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    act()
}

/// Makes a file that must not be there, to be read and written. It is durable once it and its folder
/// are synced.
pub(crate) fn create_new(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create_new(true);
    open(path, &options)
}

/// The same, for nobody else to read.
pub(crate) fn create_private(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create_new(true).mode(0o600);
    open(path, &options)
}

/// Opens a file to be read and written, and makes it where it is not there.
pub(crate) fn open_or_create(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    open(path, &options)
}

/// Makes a file, or empties the one that is there.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    let file = open_or_create(path)?;
    set_len(&file, 0)?;
    Ok(file)
}

fn open(path: &Path, options: &OpenOptions) -> io::Result<File> {
    watched(Step::Open(path), || options.open(path))
}

pub(crate) fn write_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    watched(Step::Write { file, bytes, at }, || {
        file.write_all_at(bytes, at)
    })
}

/// To be called after something else than [`write_at`] has written into a file.
pub(crate) fn copied(file: &File, at: u64, len: u64) -> io::Result<()> {
    watched(Step::Copied { file, at, len }, || Ok(()))
}

pub(crate) fn set_len(file: &File, len: u64) -> io::Result<()> {
    watched(Step::SetLen(file, len), || file.set_len(len))
}

/// Makes durable what was written to a file, and how long it is.
pub(crate) fn sync(file: &File) -> io::Result<()> {
    watched_sync(Step::Sync(file), || file.sync_data())
}

/// The same, with its permissions and times.
pub(crate) fn sync_all(file: &File) -> io::Result<()> {
    watched_sync(Step::Sync(file), || file.sync_all())
}

pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    watched(Step::Rename(from, to), || fs::rename(from, to))
}

/// Two names change places, at one moment. Not every file system can.
#[cfg(target_os = "linux")]
pub(crate) fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    watched(Step::Exchange(one, other), || {
        Ok(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
    })
}

/// A second name for a file.
pub(crate) fn hard_link(file: &Path, to: &Path) -> io::Result<()> {
    watched(Step::Link(file, to), || fs::hard_link(file, to))
}

pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    watched(Step::Remove(path), || fs::remove_file(path))
}

pub(crate) fn make_folder(path: &Path) -> io::Result<()> {
    watched(Step::MakeFolder(path), || fs::create_dir(path))
}

/// Makes a folder and what is missing above it. It may be there.
pub(crate) fn make_folders(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    if let Some(above) = above {
        make_folders(above)?;
    }
    match make_folder(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made,
    }
}

/// Removes an empty folder.
pub(crate) fn remove_folder(path: &Path) -> io::Result<()> {
    watched(Step::RemoveFolder(path), || fs::remove_dir(path))
}

/// Removes a folder with all that is in it.
#[cfg(not(test))]
pub(crate) fn remove_folders(path: &Path) -> io::Result<()> {
    fs::remove_dir_all(path)
}

/// The same, name by name, as the call above does it.
#[cfg(test)]
pub(crate) fn remove_folders(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_folders(&entry.path())?;
        } else {
            remove_file(&entry.path())?;
        }
    }
    remove_folder(path)
}

/// Makes the names in a folder durable: a new file, a rename, a removal.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    watched_sync(Step::SyncFolder(folder), || File::open(folder)?.sync_all())
}

/// The same for the folder that a file is in.
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    sync_folder(folder_of(path))
}

/// The folder that a file is in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

/// Makes everything durable on the disk that a folder is on.
pub(crate) fn sync_disk(folder: &Path) -> io::Result<()> {
    watched_sync(Step::SyncDisk(folder), || {
        Ok(rustix::fs::syncfs(File::open(folder)?)?)
    })
}

/// A file that is written from its beginning to its end.
#[derive(Debug)]
pub(crate) struct Writing {
    file: File,
    at: u64,
}

impl Writing {
    /// To be given a file that is empty.
    pub(crate) fn new(file: File) -> Self {
        Writing { file, at: 0 }
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }
}

impl Write for Writing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write_at(&self.file, bytes, self.at)?;
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The name of a file that is removed when this is dropped, unless it was kept or renamed.
#[derive(Debug)]
pub(crate) struct Temporary(Option<PathBuf>);

impl Temporary {
    pub(crate) fn new(path: PathBuf) -> Self {
        Temporary(Some(path))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.as_deref().unwrap_or(Path::new(""))
    }

    /// The file stays.
    pub(crate) fn keep(mut self) {
        self.0 = None;
    }

    /// Gives the file another name. Where that fails it keeps this one, and is removed with it.
    pub(crate) fn rename(mut self, to: &Path) -> io::Result<()> {
        rename(self.path(), to)?;
        self.0 = None;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            // It may be gone already; and where it cannot be removed, nothing depends on that.
            drop(remove_file(&path));
        }
    }
}

/// A mistake that a test makes on purpose, to see that it is found. Nobody makes any otherwise.
#[cfg(not(test))]
macro_rules! mistake {
    ($path:expr, $mistake:ident) => {{
        let _: &::std::path::Path = $path;
        false
    }};
}
#[cfg(test)]
macro_rules! mistake {
    ($path:expr, $mistake:ident) => {
        $crate::durable::step::is_made($path, $crate::durable::step::Mistake::$mistake)
    };
}
pub(crate) use mistake;
