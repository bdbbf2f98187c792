//! Folders beside, with files of blobs that belong to a data file which is not in force any more: what
//! packing kept, and what was set aside.
//!
//! After packing, `blobs.old` has the files that were taken away, and a second name for each that was not.
//! Source: ZODB, `FileStorage.py`, `_remove_blob_files_tagged_for_removal_during_pack`.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{BlobDirectory, copy, layout};
use crate::durable::step;
use crate::zodb::{Blob, Oid, Tid};

impl BlobDirectory {
    fn old(&self) -> PathBuf {
        self.beside(".old")
    }

    /// A folder beside this one, on the same disk: its name and a suffix; within it, where it is a disk
    /// of its own.
    fn beside(&self, suffix: &str) -> PathBuf {
        let above = self.root.join("..");
        let disk = |path: &Path| fs::metadata(path).map(|meta| meta.dev()).ok();
        if disk(&self.root) != disk(&above) {
            return self.root.join(suffix);
        }
        let mut beside = self.root.as_os_str().to_owned();
        beside.push(suffix);
        beside.into()
    }

    /// Removes the folder beside.
    pub(in crate::storage) fn remove_old(&self) -> io::Result<()> {
        match step::remove_folders(&self.old()) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes the folder beside. It may be there from an interrupted attempt.
    pub(in crate::storage) fn begin_old(&self) -> io::Result<PathBuf> {
        let old = self.old();
        step::make_folders(&old)?;
        layout::mark(&old, self.layout)?;
        Ok(old)
    }

    /// Removes the file of a revision, or moves it.
    pub(in crate::storage) fn retire(
        &self,
        oid: Oid,
        tid: Tid,
        to: Option<&Path>,
    ) -> io::Result<()> {
        let _names = self.names.lock();
        let file = self.file(oid, tid);
        if let Some(to) = to {
            match file.symlink_metadata() {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                _ => self.second_name_below(&file, to)?,
            }
        }
        self.remove_file(oid, tid)
    }

    /// The same for all revisions of an object.
    pub(in crate::storage) fn retire_object(&self, oid: Oid, to: Option<&Path>) -> io::Result<()> {
        let entries = match fs::read_dir(self.folder(oid)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let name = entry?.file_name();
            if let Some(tid) = name.to_str().and_then(layout::tid_of) {
                self.retire(oid, tid, to)?;
            }
        }
        Ok(())
    }

    /// Gives every file a second name in the folder beside.
    pub(in crate::storage) fn share_with_old(&self, old: &Path) -> io::Result<()> {
        let mut folders = vec![self.root.clone()];
        while let Some(folder) = folders.pop() {
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                // Removed meanwhile, with what was in it.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for entry in entries {
                let entry = entry?;
                let path = entry.path();
                if entry.file_type()?.is_dir() {
                    let hidden = entry.file_name().to_string_lossy().starts_with('.');
                    if path != self.tmp && !hidden {
                        folders.push(path);
                    }
                } else if entry
                    .file_name()
                    .to_str()
                    .and_then(layout::tid_of)
                    .is_some()
                {
                    match self.second_name_below(&path, old) {
                        Err(error) if error.kind() == ErrorKind::NotFound => {}
                        named => named?,
                    }
                }
            }
        }
        Ok(())
    }

    /// Gives the files of these revisions, where they have any, second names in a folder of blobs of
    /// their own, durably.
    pub(in crate::storage) fn share(
        &self,
        suffix: &str,
        revisions: &[(Oid, Tid)],
    ) -> io::Result<()> {
        let to = &self.beside(suffix);
        let mut shared = false;
        for (oid, tid) in revisions {
            let file = self.file(*oid, *tid);
            if !file.is_file() {
                continue;
            }
            if !shared {
                step::make_folders(to)?;
                layout::mark(to, self.layout)?;
                shared = true;
            }
            self.second_name_below(&file, to)?;
        }
        if shared {
            step::sync_disk(to)?;
        }
        Ok(())
    }

    /// Moves all blobs into a folder of their own, as they are.
    pub(in crate::storage) fn set_aside(&self, suffix: &str) -> io::Result<()> {
        let to = &self.beside(suffix);
        let _names = self.names.lock();
        let mut moved = false;
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let name = entry.file_name();
            if !name.to_string_lossy().starts_with("0x") {
                continue;
            }
            if !moved {
                step::make_folders(to)?;
                layout::mark(to, self.layout)?;
                moved = true;
            }
            step::rename(&entry.path(), &to.join(name))?;
        }
        if moved {
            step::sync_disk(to)?;
        }
        Ok(())
    }

    /// Where the folder beside is on another disk, it gets a copy.
    fn second_name_below(&self, file: &Path, old: &Path) -> io::Result<()> {
        let below = file.strip_prefix(&self.root).map_err(io::Error::other)?;
        let to = old.join(below);
        if let Some(folder) = to.parent() {
            step::make_folders(folder)?;
        }
        match step::hard_link(file, &to) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(error) if error.kind() == ErrorKind::CrossesDevices => {
                copy::copy(&Blob::kept(file)?, &step::create(&to)?)
            }
            linked => linked,
        }
    }
}
