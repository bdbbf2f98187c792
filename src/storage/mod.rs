//! What a copy of a ZODB database can be asked, whoever keeps it.
//!
//! One trait, [`Storage`], is all that the array and the ZEO front end know of each other and of what
//! is below: a file storage, a ZEO server, a storage in memory, and the array itself, which is made of
//! others. Every implementation passes the same tests, [`suite`].
//!
//! # A commit in types
//!
//! [`Storage::begin`] gives a [`Transaction`]; [`Transaction::vote`] consumes it and gives a
//! [`Voted`]; [`Voted::finish`] consumes that. So finishing what was not voted cannot be written.
//! Dropping either aborts it.
//!
//! # Answers and faults
//!
//! Whatever fails is one of two things ([`StorageError`]): an [`Answer`] is what a healthy storage
//! says (a conflict, an unknown object) and belongs to the client; a [`Fault`] means that the storage
//! could not say, and belongs to the operator: in an array the member is taken out. One fault is
//! nobody's but the daemon's own, and nobody is taken out for it: [`Fault::Here`].

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

pub use crate::pickle::Value;
pub use crate::zodb::Answer;
use crate::zodb::{Blob, Conflict, HistoryTxn, Oid, Op, Tid, TidRange, TxnMeta};

mod backup;
mod blobs;
mod conflicts;
mod extension;
mod fault;
pub mod file;
mod lines;
pub mod memory;
mod operations;
mod pack_time;
mod publish;
#[cfg(test)]
pub(crate) mod python;
#[cfg(test)]
pub mod suite;
mod undo_search;
pub mod zeo;

pub use backup::{BackedUp, Backup, BackupError, BackupOrder};
pub use blobs::{BlobDirectory, is_blob_record};
pub use conflicts::may_be_a_part;
pub use extension::same_extension;
pub use fault::{Fault, RESTART_SERVER, StorageError};
pub use operations::{Operations, Walk, effort};
pub(crate) use pack_time::pack_tid;
pub use publish::{Committed, CutOff, Invalidations, Publisher, TxnToken};

/// The result of most calls.
pub type Result<T, E = StorageError> = std::result::Result<T, E>;

/// A complete copy of a ZODB database, or something that behaves like one.
///
/// All calls may be made at the same time and from any task. They are cancel safe unless they say
/// otherwise: a dropped call has no effect that the next call could notice.
#[async_trait]
pub trait Storage: Send + Sync + 'static {
    /// What this is, in words for people.
    fn describe(&self) -> Description;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// How much it holds. Cheap: it is asked after every commit.
    fn size(&self) -> Size;

    /// Until when an answer may take that was asked for at `since` and usually takes no longer than
    /// `patience`. Later than `since + patience` where it has something large in hand and is known to
    /// answer nobody meanwhile; see [`in_time`].
    fn deadline(&self, since: Instant, patience: Duration) -> Instant {
        since + patience
    }

    /// The same for a call about an object (the root where it is about none), where the storage does not judge that
    /// itself: later where it is known to look through much, or to wait for its turn to, and gets on.
    fn deadline_about(&self, _about: Oid, since: Instant, patience: Duration) -> Instant {
        since + patience
    }

    /// The TID of the last finished transaction, [`Tid::ZERO`] when empty.
    async fn last_tid(&self) -> Result<Tid>;

    /// As [`Storage::last_tid`], and not before asking whoever else may have finished one. What a client
    /// is told when it comes: it refuses for good whoever is behind what it has seen elsewhere.
    async fn newest_tid(&self) -> Result<Tid> {
        self.last_tid().await
    }

    /// The revision of `oid` that was current just before `before`; none where the object did not
    /// exist yet.
    ///
    /// # Errors
    /// [`Answer::NoSuchObject`] where it never existed, or its creation was undone.
    async fn load_before(&self, oid: Oid, before: Tid) -> Result<Option<Loaded>>;

    /// The revision that `oid` got in the transaction `serial`.
    ///
    /// # Errors
    /// [`Answer::NoSuchObject`] where there is none.
    async fn load_serial(&self, oid: Oid, serial: Tid) -> Result<Bytes>;

    /// The current revision's TID.
    ///
    /// # Errors
    /// [`Answer::NoSuchObject`] where there is none.
    async fn current_tid(&self, oid: Oid) -> Result<Tid>;

    /// `count` identifiers that were never given out nor stored, each greater than `after`.
    async fn new_oids(&self, count: usize, after: Oid) -> Result<Vec<Oid>>;

    /// The last `count` revisions of an object, newest first.
    ///
    /// # Errors
    /// [`Answer::NoSuchObject`] where there is none.
    async fn history(&self, oid: Oid, count: usize) -> Result<Vec<Revision>>;

    /// The current record of the smallest oid that is at least `from`, and the oid after it; none
    /// past the last.
    async fn record_from(&self, from: Oid) -> Result<Option<CurrentRecord>>;

    /// The finished transactions of `range`, oldest first.
    async fn iterate(&self, range: TidRange) -> Result<Box<dyn History>>;

    /// The TIDs of at most `count` transactions before `before`, newest first.
    async fn tids_before(&self, before: Tid, count: usize) -> Result<Vec<Tid>>;

    /// How much the transactions after `after` are.
    async fn measure_after(&self, after: Tid) -> Result<Extent>;

    /// How much these transactions are, in bytes: what undoing them writes is no more. They are sorted. None where
    /// nobody knows. Where they are is looked for now, so that the vote which undoes them need not.
    async fn measure_undone(&self, _tids: Arc<[Tid]>) -> Result<Option<u64>> {
        Ok(None)
    }

    /// The last TID, and the oids written after `since`; no list where that is too long ago to tell.
    async fn invalidations_since(&self, since: Tid) -> Result<(Tid, Option<Vec<Oid>>)>;

    /// The file of the blob that `oid` was in the transaction `serial`.
    ///
    /// # Errors
    /// [`Answer::NoSuchObject`] where there is none, [`Answer::Unsupported`] where
    /// [`Capabilities::blobs`] says no.
    async fn load_blob(&self, _oid: Oid, _serial: Tid) -> Result<Blob> {
        Err(Answer::Unsupported("blobs").into())
    }

    /// Transactions that can be undone, newest first, as `undoInfo` of Python's storages gives them:
    /// from number `first` to before number `last`, or at most `-last` of them where that is negative.
    /// Only those count whose description agrees with `specification`, which is a dictionary whose
    /// values are text, or `ZopeUndo.Prefix` objects; or none.
    ///
    /// # Errors
    /// [`Answer::Unsupported`] where [`Capabilities::undo`] says no.
    async fn undo_info(
        &self,
        _first: i64,
        _last: i64,
        _specification: &Value,
    ) -> Result<Vec<Undoable>> {
        Err(Answer::Unsupported("undo").into())
    }

    /// Removes what is not needed to read the database as of `time` (in seconds since 1970, as ZODB's
    /// `pack` takes it) or later, and what cannot be reached from the root object. Returns when it is
    /// done, which may take hours. All other calls go on meanwhile.
    ///
    /// Not cancel safe: a dropped call may go on.
    ///
    /// # Errors
    /// [`Answer::Unsupported`] where [`Capabilities::pack`] says no, [`Answer::Other`] where it is being
    /// packed already.
    async fn pack(&self, _time: f64) -> Result<()> {
        Err(Answer::Unsupported("packing").into())
    }

    /// Prepares a copy of everything up to a transaction in a folder on this machine. What can be told
    /// beforehand is told by this; [`Backup::run`] does the work, while all other calls go on. The storage
    /// is not packed meanwhile.
    ///
    /// # Errors
    /// [`BackupError::Unsupported`] where [`Capabilities::backup`] says no.
    async fn back_up(&self, _order: BackupOrder) -> Result<Box<dyn Backup>, BackupError> {
        Err(BackupError::Unsupported)
    }

    /// Every transaction finished from now on, in TID order. See [`Invalidations`].
    fn subscribe(&self) -> Invalidations;

    /// Begins a transaction. Its TID is `tid` where one is given, else the storage's choice; it must be
    /// later than the last.
    async fn begin(&self, meta: TxnMeta, tid: Option<Tid>) -> Result<Box<dyn Transaction>>;

    /// Appends whole transactions of another copy, in order, and returns when they are durable. They
    /// are not announced to subscribers. Whatever happens, what is kept of the batch is a prefix of it.
    ///
    /// Not cancel safe: a dropped call goes on; ask [`Storage::last_tid`] afterwards.
    ///
    /// # Errors
    /// [`Answer::Invalid`] where one is not later than the last transaction.
    async fn restore(&self, batch: Vec<HistoryTxn>) -> Result<()>;

    /// Sets everything after `keep` aside (all of it, for none) and returns where it was put.
    ///
    /// # Errors
    /// [`Answer::Unsupported`] where only the operator of the storage can do this.
    async fn rewind(&self, keep: Option<Tid>) -> Result<SetAside>;

    /// Gives up files, locks and connections; every later call fails. Voted transactions are aborted,
    /// finishes in hand are finished.
    async fn close(&self);

    /// Whether what is written still lands where the next opening looks for it.
    ///
    /// # Errors
    /// [`Fault::Unreachable`] where it does not: what is open is gone when it is closed.
    async fn in_place(&self) -> Result<(), Fault> {
        Ok(())
    }
}

/// Waits for an answer of `storage` as long as that may take ([`Storage::deadline`]); none where it takes
/// longer.
pub async fn in_time<T>(
    storage: &dyn Storage,
    patience: Duration,
    call: impl Future<Output = T>,
) -> Option<T> {
    let since = Instant::now();
    until_late(|| storage.deadline(since, patience), call).await
}

/// The same for a call about an object ([`Storage::deadline_about`]).
pub async fn in_time_about<T>(
    storage: &dyn Storage,
    about: Oid,
    patience: Duration,
    call: impl Future<Output = T>,
) -> Option<T> {
    let since = Instant::now();
    until_late(|| storage.deadline_about(about, since, patience), call).await
}

async fn until_late<T>(deadline: impl Fn() -> Instant, call: impl Future<Output = T>) -> Option<T> {
    let mut until = deadline();
    let mut call = std::pin::pin!(call);
    loop {
        if let Ok(answer) = tokio::time::timeout_at(until, &mut call).await {
            return Some(answer);
        }
        // It may have been given something meanwhile, or have got on.
        let later = deadline();
        if later <= until {
            return None;
        }
        until = later;
    }
}

/// A transaction that collects what its client asks. Dropping it aborts it.
#[async_trait]
pub trait Transaction: Send {
    /// Tells this transaction's [`Committed`] from others'.
    fn token(&self) -> TxnToken;

    /// Adds an operation. Nothing is checked before the vote.
    async fn store(&mut self, op: Op) -> Result<()>;

    /// Adds operations that were collected elsewhere. Whoever can reads them from there when they are
    /// needed, so that they are not in memory once more.
    async fn store_all(&mut self, ops: &Arc<Operations>) -> Result<()> {
        store_each(self, ops).await
    }

    /// Checks and prepares everything, so that only a fault can make [`Voted::finish`] fail.
    ///
    /// # Errors
    /// An answer aborts the transaction.
    async fn vote(self: Box<Self>) -> Result<Vote>;
}

/// Adds operations one after the other.
async fn store_each<T: Transaction + ?Sized>(txn: &mut T, ops: &Arc<Operations>) -> Result<()> {
    let mut from = 0;
    while from < ops.count() {
        let (some, next) = ops.some(from).await?;
        for (_, op) in some {
            txn.store(op).await?;
        }
        from = next;
    }
    Ok(())
}

/// The outcome of a vote that did not fail.
pub enum Vote {
    /// It can be finished.
    Ready(Box<dyn Voted>),
    /// Some objects were changed meanwhile. The client may store them again, resolved, and vote again;
    /// what conflicted is dropped from the transaction, all else is still in it.
    Conflicts(Box<dyn Transaction>, Vec<Conflict>),
}

/// A transaction that waits for its second phase. Dropping it aborts it.
pub trait Voted: Send {
    /// The TID it will have, where that is known already.
    fn tid(&self) -> Option<Tid>;

    /// Objects that clients must load again although this transaction did not store them as given:
    /// resolved by the storage, or undone.
    fn resolved(&self) -> &[Oid];

    /// The last transaction before it in this storage, where others may write to it too
    /// ([`Capabilities::shared`]): nothing comes in between any more.
    fn after(&self) -> Option<Tid> {
        None
    }

    /// Makes it final. The order of the calls is the order of the transactions: the call itself takes
    /// the transaction's place in the history, the future waits until it is durable. Where
    /// [`Capabilities::pipelined`] says so, the next transaction may be voted as soon as this returns.
    ///
    /// The future must be polled to the end; dropping it does not undo the finish.
    fn finish(self: Box<Self>) -> Finishing;
}

/// Waits until a finished transaction is durable, and is in every subscriber's queue. Gives its TID.
pub type Finishing = BoxFuture<'static, Result<Tid>>;

/// An iteration over finished transactions.
#[async_trait]
pub trait History: Send {
    /// The next transaction; none at the end.
    async fn next(&mut self) -> Result<Option<HistoryTxn>>;

    /// After an error of [`next`](Self::next): whether that was damage in one place, and the next call
    /// gives what follows behind it. Who wants all or nothing asks no further.
    fn goes_on(&self) -> bool {
        false
    }

    /// Between two calls of [`next`](Self::next), which may be far apart, no more is held than it takes to go on, if
    /// that makes it slower. To be said before the first.
    fn hold_little(&mut self) {}
}

/// What a storage is, in words for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// `file`, `zeo`, `memory` or `array`.
    pub kind: &'static str,
    /// A path or an address.
    pub location: String,
}

/// What a storage can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a question of its own"
)]
pub struct Capabilities {
    /// The next transaction may be voted while earlier ones are being finished.
    pub pipelined: bool,
    /// [`Storage::rewind`] works.
    pub rewind: bool,
    /// [`Op::Undo`], and the undo log.
    pub undo: bool,
    /// [`Op::StoreBlob`] and [`Storage::load_blob`].
    pub blobs: bool,
    /// [`Storage::pack`].
    pub pack: bool,
    /// [`Storage::back_up`].
    pub backup: bool,
    /// Others may write to it as well: what they finish comes out of [`Storage::subscribe`] with no
    /// token, before any later vote of ours is answered.
    pub shared: bool,
    /// Nothing can be written.
    pub read_only: bool,
}

/// How much a storage holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    pub objects: u64,
    pub bytes: u64,
}

/// How much a piece of a history is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extent {
    pub transactions: u64,
    /// As the storage that was asked holds them.
    pub bytes: u64,
}

/// A revision of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    pub data: Bytes,
    /// The transaction that wrote it.
    pub tid: Tid,
    /// The transaction that wrote the next one; none where it is current.
    pub end: Option<Tid>,
    /// No `end` is true as of this transaction, which was the last when the answer was made.
    pub as_of: Tid,
}

/// One line of an object's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    pub tid: Tid,
    pub user: Bytes,
    pub description: Bytes,
    /// The transaction's extension, pickled as in [`TxnMeta::extension`].
    pub extension: Bytes,
    /// The size of the record's data in bytes.
    pub size: u64,
}

/// A transaction that can be undone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undoable {
    /// What [`Op::Undo`] names it by.
    pub tid: Tid,
    pub user: Bytes,
    pub description: Bytes,
    /// The transaction's extension, pickled as in [`TxnMeta::extension`].
    pub extension: Bytes,
    /// What it takes in the file, in bytes, where the storage says it.
    pub size: Option<u64>,
}

/// One step of a walk over the current records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CurrentRecord {
    pub oid: Oid,
    pub tid: Tid,
    pub data: Bytes,
    /// The oid to go on with; none at the end.
    pub next: Option<Oid>,
}

/// What [`Storage::rewind`] set aside, and where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetAside {
    /// The file that holds it now; none where there was nothing.
    pub file: Option<std::path::PathBuf>,
    pub extent: Extent,
    /// It was not, or cannot be, read through: how many transactions it holds is not known.
    pub unread: bool,
}

/// Opens a storage: a member of an array is closed and opened again many times in its life.
#[async_trait]
pub trait Opener: Send + Sync + 'static {
    /// What will be opened, for messages about a member that is not open.
    fn describe(&self) -> Description;

    /// Opens it.
    ///
    /// # Errors
    /// A fault that says why not. [`Fault::Damaged`] means that there is something which is not a
    /// usable copy; a rebuild sets it aside with [`Opener::set_aside`].
    async fn open(&self) -> Result<Arc<dyn Storage>, Fault>;

    /// Opens it where it holds everything that was acknowledged: then a copy that is not there is a disk
    /// that is not mounted, or a file that was moved, and is never begun anew.
    ///
    /// # Errors
    /// As [`open`](Opener::open), and [`Fault::Unreachable`] where there is nothing.
    async fn open_what_is_there(&self) -> Result<Arc<dyn Storage>, Fault> {
        self.open().await
    }

    /// Moves what is there out of the way without opening it, so that the next
    /// [`open`](Opener::open) finds nothing and starts empty. Nothing is deleted.
    async fn set_aside(&self) -> Result<SetAside, Fault>;
}
