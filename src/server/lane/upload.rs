//! A blob that a client uploads: a temporary file that grows chunk by chunk.
//!
//! Chunks are gathered, without copying them, and written many at a time on a thread for that. The disk
//! begins with what was written while more comes, so that little is left for it when the blob is stored. The
//! file is removed when the upload is dropped, in whatever way its client has left; when it has ended,
//! it lives as long as its [`Blob`].

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tempfile::{NamedTempFile, TempPath};
use tokio::task::JoinHandle;

use crate::storage::BlobDirectory;
use crate::zodb::{Blob, Oid};

/// How much is gathered before it is written.
const WRITE_AT: usize = 1 << 20;

/// After how many bytes the disk is told to begin with them.
const SYNC_BEHIND: usize = 8 << 20;

/// What the names of uploads begin and end with.
const PREFIX: &str = "upload-";
const SUFFIX: &str = ".tmp";

pub(super) struct Upload {
    file: Arc<File>,
    path: TempPath,
    waiting: Vec<Bytes>,
    waiting_bytes: usize,
    /// Written since the disk was told last.
    unsynced: usize,
    syncing: Option<JoinHandle<io::Result<()>>>,
}

impl Upload {
    /// Begins one in `folder`.
    pub(super) async fn start(folder: &Path) -> io::Result<Upload> {
        let folder = folder.to_owned();
        let (file, path) = on_a_thread(move || new_in(&folder)).await?.into_parts();
        Ok(Upload {
            file: Arc::new(file),
            path,
            waiting: Vec::new(),
            waiting_bytes: 0,
            unsynced: 0,
            syncing: None,
        })
    }

    /// Adds a chunk. Dropping the future loses the upload's content: drop the upload, too.
    pub(super) async fn add(&mut self, chunk: Bytes) -> io::Result<()> {
        self.waiting_bytes += chunk.len();
        self.waiting.push(chunk);
        if self.waiting_bytes < WRITE_AT {
            return Ok(());
        }
        self.unsynced += self.waiting_bytes;
        self.waiting_bytes = 0;
        let (file, chunks) = (Arc::clone(&self.file), std::mem::take(&mut self.waiting));
        on_a_thread(move || write(&file, &chunks)).await?;
        if self.unsynced >= SYNC_BEHIND && self.syncing.as_ref().is_none_or(JoinHandle::is_finished)
        {
            self.synced().await?;
            self.unsynced = 0;
            let file = Arc::clone(&self.file);
            self.syncing = Some(crate::task::blocking(move || file.sync_data()));
        }
        Ok(())
    }

    /// The system tells of a write that failed once: who was told must not forget it.
    async fn synced(&mut self) -> io::Result<()> {
        match self.syncing.take() {
            Some(syncing) => syncing.await?,
            None => Ok(()),
        }
    }

    /// Ends it: all that was added is its content.
    pub(super) async fn end(mut self) -> io::Result<Blob> {
        self.synced().await?;
        let Upload {
            file,
            path,
            waiting,
            ..
        } = self;
        on_a_thread(move || {
            write(&file, &waiting)?;
            Blob::temporary(path)
        })
        .await
    }
}

fn new_in(folder: &Path) -> io::Result<NamedTempFile> {
    tempfile::Builder::new()
        .prefix(PREFIX)
        .suffix(SUFFIX)
        .tempfile_in(folder)
}

fn write(mut file: &File, chunks: &[Bytes]) -> io::Result<()> {
    chunks.iter().try_for_each(|chunk| file.write_all(chunk))
}

/// Prepares a folder that holds uploads and nothing else: makes it, and removes what a process has left
/// that was killed.
pub(in crate::server) fn prepare(folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_upload = name
            .to_str()
            .is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX));
        if is_upload {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Whether a client may call a file so that it puts into a shared folder: no folder in it, and the end
/// that ZODB gives temporary files of blobs. Source: ZEO `StorageServer.py`, `storeBlobShared`.
pub(super) fn is_temporary_name(name: &str) -> bool {
    let mut shorter = name.chars();
    shorter.next_back();
    let ends = name.ends_with(SUFFIX) || shorter.as_str().ends_with(SUFFIX);
    ends && !name.contains(['/', '\0'])
}

/// The file that a client has put into the folder of `oid`. It is removed with the last handle.
pub(super) async fn shared(
    directory: &Arc<BlobDirectory>,
    oid: Oid,
    name: &str,
) -> io::Result<Blob> {
    let path: PathBuf = directory.folder(oid).join(name);
    on_a_thread(move || {
        // Nothing else than a file: what a link leads to is not the client's to give away.
        if !std::fs::symlink_metadata(&path)?.is_file() {
            let text = format!("{} is not a file", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Blob::lent(TempPath::try_from_path(path)?)
    })
    .await
}

async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = crate::task::blocking(work).await;
    done.unwrap_or_else(|error| Err(io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_zodbs_temporary_files_are_taken() {
        for good in ["a.tmp", "0x03abc.tmp-", "..tmp", ".tmp", "é.tmpé"] {
            assert!(is_temporary_name(good), "{good}");
        }
        for bad in [
            "",
            "a",
            "a.tmp--",
            "../a.tmp",
            "/etc/a.tmp",
            "a.blob",
            "a\0.tmp",
        ] {
            assert!(!is_temporary_name(bad), "{bad}");
        }
    }

    #[tokio::test]
    async fn an_upload_is_its_chunks_and_is_removed_when_nobody_wants_it() {
        let folder = tempfile::tempdir().unwrap();
        let files = || std::fs::read_dir(folder.path()).unwrap().count();
        let mut upload = Upload::start(folder.path()).await.unwrap();
        let mut expected = Vec::new();
        for number in 0..60_u8 {
            let chunk = vec![number; 59_000];
            expected.extend_from_slice(&chunk);
            upload.add(chunk.into()).await.unwrap();
        }
        let blob = upload.end().await.unwrap();
        assert!(std::fs::read(blob.path()).unwrap() == expected);
        assert_eq!(blob.len(), expected.len() as u64);
        drop(blob);
        assert_eq!(files(), 0);
        // An empty one, and one that is left half-way.
        let empty = Upload::start(folder.path()).await.unwrap();
        assert!(empty.end().await.unwrap().is_empty());
        let mut left = Upload::start(folder.path()).await.unwrap();
        left.add(Bytes::from_static(b"half")).await.unwrap();
        assert_eq!(files(), 1);
        drop(left);
        assert_eq!(files(), 0);
    }

    #[test]
    fn what_a_killed_process_has_left_is_removed_and_nothing_else() {
        let above = tempfile::tempdir().unwrap();
        let folder = above.path().join("uploads");
        prepare(&folder).unwrap();
        for name in ["upload-abc.tmp", "something else"] {
            std::fs::write(folder.join(name), "x").unwrap();
        }
        prepare(&folder).unwrap();
        assert!(!folder.join("upload-abc.tmp").exists());
        assert!(folder.join("something else").exists());
    }
}
