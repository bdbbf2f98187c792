//! Opening a file: lock, magic number, index, end.
//!
//! 1. The lock is taken, as Python's `FileStorage` takes it.
//! 2. A file that is missing or empty becomes an empty one; its folder is synced.
//! 3. A saved index that fits the file is used, and only what is after it is scanned; else everything.
//! 4. What was never finished is cut from the end, after it was saved beside.
//! 5. What was found after the saved index is made durable: a process that was killed may have written it
//!    and not synced it, and whoever reads it here must not see it taken back by a power failure.
//! 6. Files of blobs that belong to what was never finished are removed.
//! 7. What the last transactions wrote is remembered for clients that were away.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use super::blobs;
use super::disk::{self, Disk};
use super::engine::{Engine, State, beside, damaged};
use super::format::{FIRST, MAGIC};
use super::index::Index;
use super::index_file;
use super::lock::LockFile;
use super::pack;
use super::recent::Recent;
use super::scan::{last_before, scan};
use super::{FileOptions, Paths};
use crate::durable::step::{self, sync_folder_of};
use crate::storage::Fault;
use crate::zodb::{Tid, is_data_fs};

/// What is done where there is no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absent {
    Make,
    Refuse,
}

/// Opens a file. Blocks the thread.
pub(super) fn open(
    path: &Path,
    options: FileOptions,
    absent: Absent,
) -> Result<Arc<Engine>, Fault> {
    let fault = |what: &str, error| Fault::io(format!("{what} {}", path.display()), error);
    must_have_folder(path)?;
    if let Some(blob_dir) = &options.blob_dir {
        must_have_folder(blob_dir)?;
    }
    let lock = LockFile::take(&beside(path, ".lock"))?;
    pack::clear_leftovers(path)?;
    let disk = match disk::open(path) {
        Ok(disk) => disk,
        Err(error) if error.kind() == io::ErrorKind::NotFound && absent == Absent::Refuse => {
            return Err(Fault::Unreachable(format!(
                "the file {} is not there: is its disk mounted, or was it moved?",
                path.display()
            )));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let made = disk::create(path).map_err(|error| fault("making", error))?;
            sync_folder_of(path).map_err(|error| fault("making", error))?;
            tracing::info!(file = %path.display(), "a new, empty file was made");
            made
        }
        Err(error) => return Err(fault("opening", error)),
    };
    open_on(disk, Paths::of(path), options, Some(lock))
}

/// Opens what is on a disk.
pub(super) fn open_on(
    disk: Arc<dyn Disk>,
    paths: Paths,
    options: FileOptions,
    lock: Option<LockFile>,
) -> Result<Arc<Engine>, Fault> {
    let path = &paths.data;
    let fault = |what: &str, error| Fault::io(format!("{what} {}", path.display()), error);
    check_magic(&*disk, path)?;
    let started = crate::clock::instant();
    let (mut index, from, last) = saved_index(&*disk, &paths).unwrap_or_default();
    let from = from.max(FIRST);
    let scanned = scan(&*disk, path, from, last, &mut index)?;
    tracing::debug!(
        file = %path.display(),
        objects = index.len(),
        index_bytes = index.memory(),
        scanned_bytes = scanned.end - from,
        took_ms = crate::clock::since(started).as_millis() as u64,
        "file was scanned"
    );
    if let Some(why) = scanned.rest {
        let aside = cut_rest(&*disk, path, scanned.end)
            .map_err(|error| fault("cutting what was not finished from", error))?;
        tracing::warn!(
            file = %path.display(),
            offset = scanned.end,
            reason = %why,
            aside = %aside.display(),
            "end of the file was cut"
        );
    }
    if scanned.end > from {
        disk.sync()
            .map_err(|error| fault("making durable what was found in", error))?;
    }
    let blobs = blobs::open(&options)?;
    let state = State {
        disk,
        index,
        last: scanned.last,
        end: scanned.end,
        recent: Recent::new(options.invalidation_queue, Tid::ZERO),
    };
    let engine = Arc::new(Engine::new(paths, options, state, blobs, lock, from));
    engine.settle_blobs()?;
    engine.remember_recent()?;
    engine.start()?;
    engine.save_index_when_due();
    Ok(engine)
}

fn check_magic(disk: &dyn Disk, path: &Path) -> Result<(), Fault> {
    let read = |error| Fault::io(format!("reading {}", path.display()), error);
    let made = |error| Fault::io(format!("making {}", path.display()), error);
    let mut magic = [0; 4];
    let begins = disk.read_at(&mut magic, 0).map_err(read)?;
    // A crash of the system while a file was made leaves it empty, or as long as it was to be with zeros
    // in it: then nothing was ever in it.
    let is_new = begins == 0 || (magic == [0; 4] && disk.len().map_err(read)? <= FIRST);
    match begins {
        _ if is_new => {
            disk.write_at(&MAGIC, 0).map_err(made)?;
            disk.sync().map_err(made)
        }
        4 if is_data_fs(&magic) => Ok(()),
        read => Err(damaged(
            path,
            format_args!(
                "not a Data.fs: it begins with \"{}\"",
                magic[..read].escape_ascii()
            ),
        )),
    }
}

/// The saved index, up to where it is right, and the last transaction before. None where there is none
/// that can be believed.
fn saved_index(disk: &dyn Disk, paths: &Paths) -> Option<(Index, u64, Tid)> {
    let path = &paths.index;
    let reason = match index_file::load(path) {
        Ok(None) => return None,
        Ok(Some(saved)) => match last_before(disk, saved.position, &saved.index) {
            Ok(Some(last)) => return Some((saved.index, saved.position, last)),
            Ok(None) => "it does not fit the file".to_owned(),
            Err(error) => error.to_string(),
        },
        Err(error) => error.to_string(),
    };
    tracing::warn!(index = %path.display(), %reason, "index is not used, the whole file is read");
    None
}

/// Gives what is made of a file, before it holds anything of it, to nobody who may not read that file.
pub(super) fn keep_mode(file: &Path, made: &Path) -> io::Result<()> {
    match std::fs::metadata(file) {
        Ok(metadata) => std::fs::set_permissions(made, metadata.permissions()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Saves what is after `end` beside, as ZODB does (`Data.fs.tr0`, `.tr1`, …), and cuts it off.
fn cut_rest(disk: &dyn Disk, path: &Path, end: u64) -> io::Result<std::path::PathBuf> {
    let mut number = 0;
    let (aside, mut file) = loop {
        let aside = beside(path, &format!(".tr{number}"));
        match step::create_new(&aside) {
            Ok(file) => break (aside, step::Writing::new(file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(error),
        }
    };
    keep_mode(path, &aside)?;
    let mut at = end;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let filled = disk.read_at(&mut buffer, at)?;
        if filled == 0 {
            break;
        }
        file.write_all(&buffer[..filled])?;
        at += filled as u64;
    }
    step::sync_all(file.file())?;
    sync_folder_of(&aside)?;
    disk.set_len(end)?;
    disk.sync()?;
    Ok(aside)
}

/// Without its folder there is no telling a new copy from a disk that is not mounted.
fn must_have_folder(path: &Path) -> Result<(), Fault> {
    match path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        Some(folder) if !folder.is_dir() => {
            let folder = folder.display();
            Err(Fault::Unreachable(format!(
                "the folder {folder} is not there: is its disk mounted?"
            )))
        }
        _ => Ok(()),
    }
}
