//! A transaction: what is asked of a storage in it, and what a storage has kept of it.

use bytes::Bytes;

use super::blob::Blob;
use super::ids::{Oid, Tid};
use super::payload::Payload;

/// What a transaction says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TxnMeta {
    /// The user's name, as the application gave it (UTF-8 by custom).
    pub user: Bytes,
    /// The description, as the application gave it (UTF-8 by custom).
    pub description: Bytes,
    /// The extension: a pickled dictionary, or nothing at all for an empty one.
    pub extension: Bytes,
    pub status: TxnStatus,
}

/// The status of a finished transaction, as `Data.fs` and ZEO's iterators give it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TxnStatus {
    /// `' '`: an ordinary transaction.
    #[default]
    Normal,
    /// `'u'`: undone, by a ZODB older than 3.3.
    Undone,
    /// `'p'`: packed; it can no longer be undone.
    Packed,
}

impl TxnStatus {
    #[must_use]
    pub const fn to_byte(self) -> u8 {
        match self {
            TxnStatus::Normal => b' ',
            TxnStatus::Undone => b'u',
            TxnStatus::Packed => b'p',
        }
    }

    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b' ' => Some(TxnStatus::Normal),
            b'u' => Some(TxnStatus::Undone),
            b'p' => Some(TxnStatus::Packed),
            _ => None,
        }
    }
}

/// One thing a client asks within a transaction.
///
/// `Clone` is cheap: what is large is shared.
#[derive(Debug, Clone)]
pub enum Op {
    /// A new revision of an object. `serial` is the revision that the client changed, or
    /// [`Tid::ZERO`] for a new object; where it is not the current one, that is a conflict.
    Store {
        oid: Oid,
        serial: Tid,
        data: Payload,
    },
    /// A record as another copy of the database holds it, without a check for conflicts. No `data`
    /// is the undo of a creation; `previous` names the transaction whose record of the same object
    /// has the same data (a back-pointer of an undo).
    Restore {
        oid: Oid,
        serial: Tid,
        data: Option<Payload>,
        previous: Option<Tid>,
    },
    /// A new revision of an object that is a blob, as [`Op::Store`]. Its record and its file belong
    /// together: a storage makes both durable, or neither.
    StoreBlob {
        oid: Oid,
        serial: Tid,
        data: Payload,
        blob: Blob,
    },
    /// Removes an object (external garbage collection).
    Delete { oid: Oid, serial: Tid },
    /// Fails the vote unless `serial` is the current revision of the object.
    CheckCurrent { oid: Oid, serial: Tid },
    /// Undoes what a transaction did.
    Undo { tid: Tid },
}

impl Op {
    /// The object that this operation writes, where it is known before the vote.
    #[must_use]
    pub fn writes(&self) -> Option<Oid> {
        match self {
            Op::Store { oid, .. }
            | Op::StoreBlob { oid, .. }
            | Op::Restore { oid, .. }
            | Op::Delete { oid, .. } => Some(*oid),
            Op::CheckCurrent { .. } | Op::Undo { .. } => None,
        }
    }

    /// The size of the record that it carries, in bytes, without the file of a blob.
    #[must_use]
    pub fn size(&self) -> usize {
        match self {
            Op::Store { data, .. }
            | Op::StoreBlob { data, .. }
            | Op::Restore {
                data: Some(data), ..
            } => data.len(),
            _ => 0,
        }
    }
}

/// A finished transaction with all its records, as a storage gives it in an iteration and takes it
/// in a recovery.
#[derive(Debug, Clone)]
pub struct HistoryTxn {
    pub tid: Tid,
    pub meta: TxnMeta,
    /// In the order in which the storage holds them.
    pub records: Vec<HistoryRecord>,
}

impl HistoryTxn {
    /// The size of the data of all records, and of those files of blobs that are there, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        let blob = |record: &HistoryRecord| record.blob.as_ref().map_or(0, Blob::len);
        let size = |record: &HistoryRecord| record.data.size() + blob(record);
        self.records.iter().map(size).sum()
    }
}

/// One record of a finished transaction. Its TID is the transaction's.
#[derive(Debug, Clone)]
pub struct HistoryRecord {
    pub oid: Oid,
    pub data: RecordData,
    /// The file, where the record is that of a blob and whoever copies it has fetched the file. An
    /// iteration does not.
    pub blob: Option<Blob>,
}

/// What a record of a finished transaction holds.
#[derive(Debug, Clone)]
pub enum RecordData {
    /// The object's state.
    Data(Payload),
    /// The state that the object had in an earlier transaction (undo): the back-pointer, and the
    /// state itself.
    Back { tid: Tid, data: Payload },
    /// Nothing: the object's creation was undone, or the object was deleted.
    Gone,
}

impl RecordData {
    /// The state, where there is one.
    #[must_use]
    pub fn payload(&self) -> Option<&Payload> {
        match self {
            RecordData::Data(data) | RecordData::Back { data, .. } => Some(data),
            RecordData::Gone => None,
        }
    }

    /// The bytes that a copy of this record carries.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.payload().map_or(0, |data| data.len() as u64)
    }
}

/// Transactions from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TidRange {
    pub first: Tid,
    pub last: Tid,
}

impl TidRange {
    pub const ALL: TidRange = TidRange {
        first: Tid::ZERO,
        last: Tid::MAX,
    };

    /// Everything later than `tid`.
    #[must_use]
    pub const fn after(tid: Tid) -> Self {
        TidRange {
            first: tid.next(),
            last: Tid::MAX,
        }
    }

    /// Only this transaction.
    #[must_use]
    pub const fn only(tid: Tid) -> Self {
        TidRange {
            first: tid,
            last: tid,
        }
    }

    #[must_use]
    pub fn contains(self, tid: Tid) -> bool {
        self.first <= tid && tid <= self.last
    }
}
