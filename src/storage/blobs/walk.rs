//! All revisions that have files in a folder of blobs.

use std::fs;
use std::io::{self, ErrorKind};
use std::ops::ControlFlow;
use std::path::Path;

use super::BlobDirectory;
use super::layout;
use crate::zodb::{Oid, Tid};

impl BlobDirectory {
    /// Tells of every revision that has a file, in no order, until it is told to stop. What comes or goes
    /// meanwhile may be told of or not. What is no blob of this layout is passed over.
    ///
    /// # Errors
    /// What reading a folder gives.
    pub(crate) fn each_revision(
        &self,
        mut tell: impl FnMut(Oid, Tid) -> ControlFlow<()>,
    ) -> io::Result<()> {
        let mut folders = vec![self.root.clone()];
        while let Some(folder) = folders.pop() {
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                // Removed meanwhile, with what was in it.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let oid = self.oid_of(&folder);
            for entry in entries {
                let entry = entry?;
                let (path, name) = (entry.path(), entry.file_name());
                if entry.file_type()?.is_dir() {
                    if path != self.tmp && !name.to_string_lossy().starts_with('.') {
                        folders.push(path);
                    }
                    continue;
                }
                let tid = name.to_str().and_then(layout::tid_of);
                if let (Some(oid), Some(tid)) = (oid, tid)
                    && tell(oid, tid).is_break()
                {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn oid_of(&self, folder: &Path) -> Option<Oid> {
        let oid = self.layout.oid_of(folder.strip_prefix(&self.root).ok()?)?;
        // Written otherwise, it would not be found again by its oid.
        (self.folder(oid) == folder).then_some(oid)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::zodb::Blob;

    #[test]
    fn every_file_is_told_once_whatever_else_lies_there() {
        for layout in ["bushy", "lawn"] {
            let folder = tempfile::tempdir().unwrap();
            let root = folder.path().join("blobs");
            fs::create_dir(&root).unwrap();
            fs::write(root.join(".layout"), layout).unwrap();
            let directory = BlobDirectory::open(&root).unwrap();
            let mut expected = BTreeSet::new();
            for (oid, tid) in [(1, 5), (1, 6), (0x1234_5678_9abc_def0, 7), (0xff00, 8)] {
                let (_, path) = directory.temporary().unwrap();
                let blob = Blob::temporary(path).unwrap();
                directory.place(Oid(oid), Tid(tid), &blob).unwrap();
                expected.insert((Oid(oid), Tid(tid)));
            }
            fs::write(root.join("tmp/0x09.blob"), "").unwrap();
            fs::write(directory.folder(Oid(1)).join("0x0a.blob.dl"), "").unwrap();
            fs::create_dir_all(root.join("0x1/0x2")).unwrap();
            fs::write(root.join("0x1/0x2/0x0b.blob"), "").unwrap();
            fs::write(root.join("0x0c.blob"), "").unwrap();
            let mut found = Vec::new();
            directory
                .each_revision(|oid, tid| {
                    found.push((oid, tid));
                    ControlFlow::Continue(())
                })
                .unwrap();
            assert_eq!(found.len(), expected.len(), "{layout}: {found:?}");
            assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
            let mut told = 0;
            directory
                .each_revision(|_, _| {
                    told += 1;
                    ControlFlow::Break(())
                })
                .unwrap();
            assert_eq!(told, 1);
        }
    }
}
