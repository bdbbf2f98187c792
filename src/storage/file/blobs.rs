//! The files that belong to the records of blobs.
//!
//! A file is placed and durable before the status byte of its transaction is written, and taken back
//! when the transaction is aborted. What a crash leaves in between is settled when the file is opened:
//! by then it is known which transactions there are.

use std::io;
use std::sync::Arc;

use super::FileOptions;
use super::engine::Engine;
use super::far::Pace;
use super::format::FIRST;
use crate::storage::{Answer, BlobDirectory, Fault, Result, StorageError};
use crate::zodb::{Blob, Oid, Tid};

/// Opens the folder, where there is to be one.
pub(super) fn open(options: &FileOptions) -> Result<Option<Arc<BlobDirectory>>, Fault> {
    let Some(path) = &options.blob_dir else {
        return Ok(None);
    };
    match BlobDirectory::open(path) {
        Ok(directory) => Ok(Some(Arc::new(directory))),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(Fault::Damaged(error.to_string()))
        }
        Err(error) => Err(Fault::io(format!("opening {}", path.display()), error)),
    }
}

impl Engine {
    /// The folder of blobs.
    pub(super) fn blob_directory(&self) -> Result<&Arc<BlobDirectory>, Answer> {
        self.blobs.as_ref().ok_or(Answer::Unsupported("blobs"))
    }

    /// The file of a revision. Waits for the disk.
    pub(super) fn load_blob(&self, oid: Oid, serial: Tid) -> Result<Blob> {
        self.usable()?;
        let found = self.blob_directory()?.find(oid, serial);
        let found = found.map_err(|error| blob_fault("opening", oid, serial, error))?;
        // Not looked up in the index: what packing keeps for a later undo is not found there.
        Ok(found.ok_or(Answer::NoSuchObject(oid))?)
    }

    /// Whether there is anything of an object.
    pub(super) fn has_object(&self, oid: Oid) -> bool {
        self.state.read().index.get(oid).is_some()
    }

    /// Whether an object has a revision of this transaction. Waits for the disk.
    pub(super) fn has_revision(&self, oid: Oid, serial: Tid) -> Result<bool> {
        match self.written_in(oid, serial, &Pace::endless()) {
            Ok(there) => Ok(there),
            Err(miss) => match self.waited(miss) {
                StorageError::Answer(Answer::NoSuchObject(_)) => Ok(false),
                error => Err(error),
            },
        }
    }

    /// Removes files that were placed in transactions that are not there.
    pub(super) fn settle_blobs(&self) -> Result<(), Fault> {
        let Some(blobs) = &self.blobs else {
            return Ok(());
        };
        let fault = |error| Fault::io(format!("settling {}", blobs.root().display()), error);
        for unsettled in blobs.unsettled().map_err(fault)? {
            let (oid, tid) = (unsettled.oid, unsettled.tid);
            let keep = match self.has_revision(oid, tid) {
                Ok(keep) => keep,
                Err(StorageError::Fault(fault)) => return Err(fault),
                Err(StorageError::Answer(answer)) => return Err(self.damaged(answer)),
            };
            blobs.settle(unsettled, keep).map_err(fault)?;
        }
        if self.state.read().end == FIRST {
            // A list of what goes is of the file that was here, and may just be set aside: its blobs are
            // not to be taken for files that nothing refers to.
            return super::pack::forget_list(self);
        }
        match super::pack::remove_listed(self, false) {
            Err(StorageError::Answer(answer)) => Err(self.damaged(answer)),
            Err(StorageError::Fault(fault)) => Err(fault),
            Ok(()) => Ok(()),
        }
    }
}

/// What the operating system refused, doing `what` to a blob.
pub(super) fn blob_fault(what: &str, oid: Oid, tid: Tid, error: io::Error) -> Fault {
    Fault::io(format!("{what} the blob of {oid} in {tid}"), error)
}
