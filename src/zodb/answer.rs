//! What a healthy storage says when it says no.
//!
//! An answer is passed to the client; it is no failure of the storage that gave it. The names follow
//! `ZODB.POSException`.

use super::ids::{Oid, Tid};
use super::payload::Payload;
use crate::counted::counted;

/// A client changed a revision that is not the current one.
#[derive(Debug, Clone)]
pub struct Conflict {
    pub oid: Oid,
    /// The current revision.
    pub committed: Tid,
    /// The revision that the client had read.
    pub read: Tid,
    /// What the client wanted to store: it resolves the conflict with it. None where nothing was
    /// stored (a check of the current serial, a deletion).
    pub data: Option<Payload>,
    /// The object's class, and what is said of the conflict, where a server that tried to resolve it has
    /// said so.
    pub class_name: Option<String>,
    pub message: Option<String>,
}

impl Conflict {
    /// A conflict of which nothing else is known.
    #[must_use]
    pub const fn new(oid: Oid, committed: Tid, read: Tid) -> Self {
        Conflict {
            oid,
            committed,
            read,
            data: None,
            class_name: None,
            message: None,
        }
    }
}

/// Conflicts are equal when they say the same of the same object; the data is the client's own, and members
/// of different makes put it into different words.
impl PartialEq for Conflict {
    fn eq(&self, other: &Self) -> bool {
        (self.oid, self.committed, self.read) == (other.oid, other.committed, other.read)
    }
}

/// What a healthy storage says when it says no.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Answer {
    /// `POSKeyError`: there is no such object, or no revision of it that was asked for.
    #[error("there is no object {0}")]
    NoSuchObject(Oid),
    /// `ConflictError`: a write of a revision that is not the current one, which the client is not
    /// asked to resolve.
    #[error("write conflict on {}: {} was changed, {} is current", .0.oid, .0.read, .0.committed)]
    Conflict(Conflict),
    /// `ReadConflictError`: an object that the transaction depends on has changed.
    #[error("read conflict on {}: {} was read, {} is current", .0.oid, .0.read, .0.committed)]
    ReadConflict(Conflict),
    /// `ReadOnlyError`.
    #[error("the storage is read-only")]
    ReadOnly,
    /// `UndoError`: the transaction cannot be undone.
    #[error("cannot undo: {reason}")]
    Undo { reason: String, oid: Option<Oid> },
    /// `MultipleUndoErrors`: the objects that stand in the way, each with the reason.
    #[error("cannot undo: {} changed since", counted(.0.len() as u64, "object"))]
    MultipleUndo(Vec<(Oid, String)>),
    /// `StorageTransactionError`: a call for a transaction that is not the present one.
    #[error("not the present transaction: {0}")]
    WrongTransaction(String),
    /// A value that the format or the protocol cannot hold, or that makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The storage cannot do this at all.
    #[error("this storage does not support {0}")]
    Unsupported(&'static str),
    /// Anything else that a server of another make said: its exception's class and text.
    #[error("{class}: {text}")]
    Other { class: String, text: String },
}
