//! The folder of a backup.
//!
//! Everything is written into `NAME.partial` beside it, which is locked while somebody writes there, and
//! renamed when it is complete and durable. A file in it says what it is; only a folder with that file
//! is ever replaced, and only when that was asked for.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;

use super::sibling;
use crate::durable;
use crate::durable::step::{self, sync_folder};
use crate::storage::file::lock::Flock;
use crate::storage::{BackedUp, BackupError};

/// The data file.
pub(in crate::storage::file) const DATA: &str = "Data.fs";
/// The folder of blobs.
pub(in crate::storage::file) const BLOBS: &str = "blobs";
/// Says what the folder is.
const MARKER: &str = "zeoraid-backup.json";

/// What stands in the marker.
#[derive(Serialize)]
struct Marker<'a> {
    version: u32,
    array: &'a str,
    made: Timestamp,
    last_transaction: String,
    transactions: u64,
    bytes: u64,
    blobs: u64,
    blobs_missing: u64,
}

/// A folder that is being filled. Removed when dropped before it is finished.
pub(super) struct Place {
    into: PathBuf,
    partial: PathBuf,
    replace: bool,
    finished: bool,
    /// Locked, so that nobody else takes it for something that was left.
    _lock: Flock,
}

impl Place {
    /// Looks whether a backup can go there, and makes the folder in which it is written.
    pub(super) fn prepare(into: &Path, replace: bool) -> Result<Self, BackupError> {
        let refuse = |reason: String, next: &str| BackupError::Place {
            reason,
            next: next.to_owned(),
        };
        if !into.is_absolute() {
            return Err(refuse(
                format!("{} is not an absolute path", into.display()),
                "name the folder from `/` on: the daemon does not know where you are",
            ));
        }
        // What a link leads to is what is filled.
        let into = fs::canonicalize(into).unwrap_or_else(|_| into.to_owned());
        let (Some(parent), Some(_)) = (into.parent(), into.file_name()) else {
            return Err(refuse(
                format!("{} is no folder for a backup", into.display()),
                "name a new folder",
            ));
        };
        if !parent.is_dir() {
            return Err(refuse(
                format!(
                    "the folder {} is not there: is its disk mounted?",
                    parent.display()
                ),
                "mount the disk, or make the folder",
            ));
        }
        judge(&into, parent, replace)?;
        let (partial, lock) = begin(&into)?;
        Ok(Place {
            into,
            partial,
            replace,
            finished: false,
            _lock: lock,
        })
    }

    /// Where everything is written.
    pub(super) fn folder(&self) -> &Path {
        &self.partial
    }

    /// Gives it its name. Everything in it is durable but the names.
    pub(super) fn finish(mut self, array: &str, done: &BackedUp) -> Result<BackedUp, BackupError> {
        let marker = Marker {
            version: 1,
            array,
            made: crate::clock::now(),
            last_transaction: done.last.to_string(),
            transactions: done.transactions,
            bytes: done.bytes,
            blobs: done.blobs,
            blobs_missing: done.blobs_missing,
        };
        let path = self.partial.join(MARKER);
        let write = |error| BackupError::target(format!("writing {}", path.display()), error);
        let text = serde_json::to_string_pretty(&marker)
            .map_err(io::Error::other)
            .map_err(write)?;
        durable::write_with_mode(&path, (text + "\n").as_bytes(), 0o644).map_err(write)?;
        let parent = self.into.parent().unwrap_or(Path::new("/")).to_owned();
        // What lies there now may have changed since the beginning.
        judge(&self.into, &parent, self.replace)?;
        let rename = |error| {
            BackupError::target(
                format!(
                    "renaming {} to {}",
                    self.partial.display(),
                    self.into.display()
                ),
                error,
            )
        };
        sync_folder(&self.partial).map_err(rename)?;
        let old = replace_by(&self.partial, &self.into).map_err(rename)?;
        self.finished = true;
        sync_folder(&parent).map_err(rename)?;
        if let Some(old) = old {
            // The new one is in force; what is left of the old one is in nobody's way.
            if let Err(error) = step::remove_folders(&old) {
                tracing::warn!(folder = %old.display(), %error, "the backup that was replaced was not removed");
            }
        }
        Ok(BackedUp {
            folder: self.into.clone(),
            ..done.clone()
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.finished
            && let Err(error) = step::remove_folders(&self.partial)
        {
            tracing::warn!(folder = %self.partial.display(), %error, "what was begun of a backup was not removed");
        }
    }
}

/// Refuses what is no place for a backup.
fn judge(into: &Path, parent: &Path, replace: bool) -> Result<(), BackupError> {
    let refuse = |reason: String, next: &str| {
        Err(BackupError::Place {
            reason,
            next: next.to_owned(),
        })
    };
    let read = |error| BackupError::target(format!("looking into {}", into.display()), error);
    let meta = match fs::metadata(into) {
        Ok(meta) => meta,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(read(error)),
    };
    if !meta.is_dir() {
        let reason = format!("{} is not a folder", into.display());
        return refuse(reason, "name a new folder");
    }
    if meta.dev() != fs::metadata(parent).map_err(read)?.dev() {
        let reason = format!("{} is where a disk is mounted", into.display());
        return refuse(reason, "name a folder in it");
    }
    let (mut is_empty, mut is_backup, mut other) = (true, false, None);
    for entry in fs::read_dir(into).map_err(read)? {
        let name = entry.map_err(read)?.file_name();
        is_empty = false;
        is_backup = is_backup || name == MARKER;
        if !is_ours(&name) {
            other = Some(name);
        }
    }
    if is_empty {
        return Ok(());
    }
    match (is_backup, other, replace) {
        (true, None, true) => Ok(()),
        (true, None, false) => refuse(
            format!("{} holds a backup already", into.display()),
            "name a new folder, or replace that backup when this one is complete: `--replace`",
        ),
        (true, Some(other), true) => refuse(
            format!(
                "{} has more in it than a backup: {}",
                into.display(),
                other.to_string_lossy().escape_debug()
            ),
            "name a new folder",
        ),
        (false, ..) | (true, Some(_), false) => refuse(
            format!("{} is not empty", into.display()),
            "name a new folder, or an empty one",
        ),
    }
}

/// What is in a backup, and what ZODB puts beside a file that it opens.
fn is_ours(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name == BLOBS || name == MARKER || name == DATA || name.starts_with("Data.fs.")
}

/// Makes the folder that is filled, in the place of what a killed process has left.
fn begin(into: &Path) -> Result<(PathBuf, Flock), BackupError> {
    let partial = sibling(into, ".partial");
    let make = |error| BackupError::target(format!("making {}", partial.display()), error);
    for _ in 0..2 {
        match step::make_folder(&partial) {
            Ok(()) => {
                let lock = lock_it(File::open(&partial).map_err(make)?, &partial)?;
                return Ok((partial, lock));
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => remove_left(&partial)?,
            Err(error) => return Err(make(error)),
        }
    }
    Err(make(ErrorKind::AlreadyExists.into()))
}

fn remove_left(partial: &Path) -> Result<(), BackupError> {
    let remove = |error| BackupError::target(format!("removing {}", partial.display()), error);
    let _lock = lock_it(File::open(partial).map_err(remove)?, partial)?;
    for entry in fs::read_dir(partial).map_err(remove)? {
        let name = entry.map_err(remove)?.file_name();
        if !is_ours(&name) && !name.to_string_lossy().starts_with(".tmp") {
            return Err(BackupError::Place {
                reason: format!("{} is in the way", partial.display()),
                next: "name another folder, or remove that one".to_owned(),
            });
        }
    }
    step::remove_folders(partial).map_err(remove)
}

fn lock_it(folder: File, partial: &Path) -> Result<Flock, BackupError> {
    let error = |error| BackupError::target(format!("locking {}", partial.display()), error);
    let taken = Flock::take(folder).map_err(error)?;
    taken.map_err(|_| BackupError::Place {
        reason: format!("another backup is being written to {}", partial.display()),
        next: "wait for its end, or name another folder".to_owned(),
    })
}

/// Puts a folder in the place of another one, of an empty one, or of none. Says where the other one is
/// now.
fn replace_by(new: &Path, old: &Path) -> io::Result<Option<PathBuf>> {
    match step::rename(new, old) {
        Ok(()) => return Ok(None),
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {}
        // Some systems say that of a folder that is not empty.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    #[cfg(target_os = "linux")]
    {
        if step::exchange(new, old).is_ok() {
            return Ok(Some(new.to_owned()));
        }
    }
    let aside = sibling(old, ".replaced");
    step::rename(old, &aside)?;
    step::rename(new, old)?;
    Ok(Some(aside))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zodb::Tid;

    fn done() -> BackedUp {
        BackedUp {
            folder: PathBuf::new(),
            last: Tid(1),
            transactions: 1,
            objects: 1,
            bytes: 1,
            blobs: 0,
            blob_bytes: 0,
            blobs_missing: 0,
        }
    }

    fn refusal(into: &Path, replace: bool) -> String {
        match Place::prepare(into, replace) {
            Ok(_) => "none".to_owned(),
            Err(error) => format!("{error}; {}", error.next().unwrap_or_default()),
        }
    }

    fn make(into: &Path, content: &str, replace: bool) {
        let place = Place::prepare(into, replace).unwrap();
        fs::write(place.folder().join(DATA), content).unwrap();
        place.finish("main", &done()).unwrap();
    }

    #[test]
    fn a_folder_gets_its_name_at_the_end_and_is_gone_where_that_does_not_come() {
        let folder = tempfile::tempdir().unwrap();
        let into = folder.path().join("monday");
        let place = Place::prepare(&into, false).unwrap();
        assert!(place.folder().is_dir() && !into.exists());
        let why = refusal(&into, false);
        assert!(why.contains("another backup is being written"), "{why}");
        drop(place);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        // An empty folder is as good as none.
        fs::create_dir(&into).unwrap();
        make(&into, "first", false);
        assert_eq!(fs::read_to_string(into.join(DATA)).unwrap(), "first");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_killed_process_has_left_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let into = folder.path().join("monday");
        fs::create_dir(folder.path().join("monday.partial")).unwrap();
        fs::write(folder.path().join("monday.partial/Data.fs"), "half").unwrap();
        make(&into, "whole", false);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        fs::create_dir(folder.path().join("tuesday.partial")).unwrap();
        fs::write(folder.path().join("tuesday.partial/letters"), "").unwrap();
        let why = refusal(&folder.path().join("tuesday"), false);
        assert!(why.contains("is in the way"), "{why}");
    }

    #[test]
    fn nothing_is_overwritten_but_a_backup_where_that_was_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let into = folder.path().join("backup");
        make(&into, "first", false);
        let why = refusal(&into, false);
        assert!(why.contains("holds a backup already"), "{why}");
        assert!(why.contains("--replace"), "{why}");
        make(&into, "second", true);
        assert_eq!(fs::read_to_string(into.join(DATA)).unwrap(), "second");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        fs::write(into.join("thesis.txt"), "").unwrap();
        let why = refusal(&into, true);
        assert!(why.contains("thesis.txt"), "{why}");
        let other = folder.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("letters"), "").unwrap();
        for replace in [false, true] {
            let why = refusal(&other, replace);
            assert!(why.contains("is not empty"), "{why}");
        }
        let why = refusal(&other.join("letters"), false);
        assert!(why.contains("is not a folder"), "{why}");
        let why = refusal(&folder.path().join("none/backup"), false);
        assert!(why.contains("is its disk mounted?"), "{why}");
        let why = refusal(Path::new("backup"), false);
        assert!(why.contains("absolute"), "{why}");
        let why = refusal(Path::new("/"), false);
        assert!(why.contains("no folder for a backup"), "{why}");
    }
}
