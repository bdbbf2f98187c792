//! The folder beside, `blobs.old`, with the files of blobs that packing took away, and a second name for
//! each that it did not: what belongs to the old data file. Source: ZODB, `FileStorage.py`,
//! `_remove_blob_files_tagged_for_removal_during_pack`.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::{BlobDirectory, copy, layout};
use crate::zodb::{Blob, Oid, Tid};

impl BlobDirectory {
    fn old(&self) -> PathBuf {
        let mut old = self.root.as_os_str().to_owned();
        old.push(".old");
        old.into()
    }

    /// Removes the folder beside.
    pub(in crate::storage) fn remove_old(&self) -> io::Result<()> {
        match fs::remove_dir_all(self.old()) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes the folder beside. It may be there from an interrupted attempt.
    pub(in crate::storage) fn begin_old(&self) -> io::Result<PathBuf> {
        let old = self.old();
        fs::create_dir_all(&old)?;
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
                    if path != self.tmp {
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

    /// Where the folder beside is on another disk, it gets a copy.
    fn second_name_below(&self, file: &Path, old: &Path) -> io::Result<()> {
        let below = file.strip_prefix(&self.root).map_err(io::Error::other)?;
        let to = old.join(below);
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        match fs::hard_link(file, &to) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(error) if error.kind() == ErrorKind::CrossesDevices => {
                copy::copy(&Blob::kept(file)?, &File::create(&to)?)
            }
            linked => linked,
        }
    }
}
