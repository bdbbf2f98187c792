//! A copy of a storage in a folder: what is ordered, what comes of it, and what can go wrong.
//!
//! Whoever can make one is a file on this machine; the rest of the house knows it by these words.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use super::{BlobDirectory, Fault};
use crate::job::{Cancelled, Work};
use crate::zodb::Tid;

/// What is to be copied, and where to.
#[derive(Debug, Clone)]
pub struct BackupOrder {
    /// A folder that is not there yet, or is empty. An absolute path.
    pub into: PathBuf,
    /// An earlier backup that is in it is replaced when this one is complete.
    pub replace: bool,
    /// The last transaction that is copied.
    pub through: Tid,
    /// Of what array, for whoever finds the folder later.
    pub array: String,
    /// Where the files of blobs are, where the storage itself keeps none.
    pub blobs: Option<Arc<BlobDirectory>>,
}

/// A backup that can begin. Dropping it, or a run that fails, leaves nothing behind.
#[async_trait]
pub trait Backup: Send {
    /// Copies, checks the copy, and gives it its name once all of it is durable.
    async fn run(self: Box<Self>, work: Work) -> Result<BackedUp, BackupError>;
}

/// A backup that is complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackedUp {
    pub folder: PathBuf,
    /// The last transaction in it.
    pub last: Tid,
    pub transactions: u64,
    pub objects: u64,
    /// Of the data file.
    pub bytes: u64,
    /// Files of blobs, and their bytes.
    pub blobs: u64,
    pub blob_bytes: u64,
    /// Blobs whose file is missing in the original too.
    pub blobs_missing: u64,
}

/// Why there is no backup.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BackupError {
    #[error("it cannot be backed up from here")]
    Unsupported,
    /// What is copied cannot be read, or is damaged.
    #[error(transparent)]
    Source(Fault),
    /// The copy cannot be written.
    #[error("{what}: {source}")]
    Target {
        what: String,
        source: Arc<io::Error>,
    },
    /// That is no place for a backup, and what to do about it.
    #[error("{reason}")]
    Place { reason: String, next: String },
    #[error("cancelled")]
    Cancelled,
}

impl BackupError {
    /// The copy could not be written, doing `what` (a phrase like `writing /backup/Data.fs`).
    #[must_use]
    pub fn target(what: impl Into<String>, source: io::Error) -> Self {
        BackupError::Target {
            what: what.into(),
            source: Arc::new(source),
        }
    }

    /// What the operator can do.
    #[must_use]
    pub fn next(&self) -> Option<String> {
        match self {
            BackupError::Place { next, .. } => Some(next.clone()),
            BackupError::Target { source, .. } => Some(match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    "make room on that disk, or name a folder on another one".to_owned()
                }
                _ => "name a folder in which the daemon's user may write".to_owned(),
            }),
            BackupError::Source(Fault::Damaged(_)) => {
                Some("compare the members: zeoraidctl scrub".to_owned())
            }
            _ => None,
        }
    }
}

impl From<Cancelled> for BackupError {
    fn from(_: Cancelled) -> Self {
        BackupError::Cancelled
    }
}
