//! Why a storage could not say.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::zodb::Answer;

/// Why a call of a storage failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StorageError {
    /// What a healthy storage says when it says no. It is the client's.
    #[error(transparent)]
    Answer(#[from] Answer),
    /// The storage could not say. It is the operator's.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// How a reason ends that only the operator of a ZEO server can take away, by starting it anew.
pub const RESTART_SERVER: &str = "restart that server";

/// Why a storage could not say. The text is the reason that `details` shows.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// It did not answer in time.
    #[error("no answer to {what} within {}", seconds(*.after))]
    Timeout { what: &'static str, after: Duration },
    /// A ZEO server did not grant its commit lock.
    #[error(
        "its commit lock was not granted within {}: another client of that server holds it, or the \
         server has lost track of it, as ZEO does when it closes a connection in the middle of a \
         transaction; {RESTART_SERVER}",
        seconds(*.after)
    )]
    LockHeld { after: Duration },
    /// It was closed, by us or by its other end.
    #[error("closed: {0}")]
    Closed(String),
    /// It could not be reached or opened.
    #[error("{0}")]
    Unreachable(String),
    /// Another process uses it.
    #[error("in use: {0}")]
    InUse(String),
    /// There is no room left on its disk.
    #[error("no space left on the disk ({what})")]
    DiskFull { what: String },
    /// The operating system refused.
    #[error("{what}: {source}")]
    Io {
        what: String,
        source: Arc<io::Error>,
    },
    /// It is well, as far as anybody knows: what failed is a file of the daemon that it was to be sent, or
    /// that its answer was to be put into.
    #[error("on the daemon's side, {what}: {source}")]
    Here {
        what: String,
        source: Arc<io::Error>,
    },
    /// What it holds, or what it said, makes no sense.
    #[error("damaged: {0}")]
    Damaged(String),
    /// An earlier write or sync failed, so that nobody knows what is on the disk. It must be opened
    /// again.
    #[error("refuses everything since a failed write: {0}")]
    Poisoned(String),
    /// No member of the array can serve.
    #[error("the array cannot serve: {0}")]
    NotServing(String),
}

impl Fault {
    /// A fault from an error of the operating system, met when doing `what` (a phrase like
    /// `writing /srv/Data.fs`).
    #[must_use]
    pub fn io(what: impl Into<String>, source: io::Error) -> Self {
        let what = what.into();
        if source.kind() == io::ErrorKind::StorageFull
            || source.kind() == io::ErrorKind::QuotaExceeded
        {
            return Fault::DiskFull { what };
        }
        Fault::Io {
            what,
            source: Arc::new(source),
        }
    }

    /// A fault from an error of the operating system that is not the storage's: see [`Fault::Here`].
    #[must_use]
    pub fn here(what: impl Into<String>, source: io::Error) -> Self {
        Fault::Here {
            what: what.into(),
            source: Arc::new(source),
        }
    }
}

impl StorageError {
    /// The fault, where it is one.
    #[must_use]
    pub fn fault(&self) -> Option<&Fault> {
        match self {
            StorageError::Fault(fault) => Some(fault),
            StorageError::Answer(_) => None,
        }
    }
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}
