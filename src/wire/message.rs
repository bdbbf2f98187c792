//! What is said over ZEO 5, in types, whichever dialect says it.
//!
//! A [`Call`] is what a client asks, a [`Reply`] what it is answered, a [`Push`] what a server says
//! unasked. Both roles use them: our front end reads calls and writes replies and pushes, our ZEO
//! client the other way round. Names and shapes: ZEO 6, `ZEO/StorageServer.py` (`ZEOStorage`) and
//! `ZEO/asyncio/{server,client}.py`.

use bytes::Bytes;

use crate::pickle::Value;
use crate::zodb::{Answer, Conflict, Oid, Tid, TxnMeta};

/// What an oid of a list, and a line of one beside its texts, take in memory, roughly, in bytes.
const OID: usize = 16;
const LINE: usize = 256;

/// The id of a call, echoed in its reply. Python's clients use integers for most calls and
/// `(oid, tid)` for `loadBefore`; anything else is allowed.
#[derive(Debug, Clone, PartialEq)]
pub enum MessageId {
    Int(i64),
    Load(Oid, Tid),
    Other(Value),
}

/// The id that a client gave its transaction; Python's are the `id()` of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct TxnId(pub Value);

/// A message from a client.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub id: MessageId,
    /// No reply is expected; an error closes the connection.
    pub one_way: bool,
    pub call: Call,
}

/// What a client asks.
#[derive(Debug, Clone, PartialEq)]
pub enum Call {
    /// The first, and only once: which storage, and whether only to read.
    Register {
        storage: String,
        read_only: bool,
    },
    GetInfo,
    LastTransaction,
    GetInvalidations {
        since: Tid,
    },
    LoadBefore {
        oid: Oid,
        before: Tid,
    },
    LoadSerial {
        oid: Oid,
        serial: Tid,
    },
    GetTid {
        oid: Oid,
    },
    NewOids {
        count: usize,
    },
    History {
        oid: Oid,
        count: usize,
    },
    RecordIternext {
        next: Option<Oid>,
    },
    IteratorStart {
        first: Option<Tid>,
        last: Option<Tid>,
    },
    IteratorNext {
        iterator: i64,
    },
    IteratorRecordStart {
        iterator: i64,
        tid: Tid,
    },
    IteratorRecordNext {
        iterator: i64,
    },
    IteratorGc {
        iterators: Vec<i64>,
    },
    TpcBegin {
        txn: TxnId,
        meta: TxnMeta,
        tid: Option<Tid>,
    },
    Storea {
        oid: Oid,
        serial: Tid,
        data: Bytes,
        txn: TxnId,
    },
    Restorea {
        oid: Oid,
        serial: Tid,
        data: Option<Bytes>,
        previous: Option<Tid>,
        txn: TxnId,
    },
    DeleteObject {
        oid: Oid,
        serial: Tid,
        txn: TxnId,
    },
    CheckCurrent {
        oid: Oid,
        serial: Tid,
        txn: TxnId,
    },
    Undoa {
        tid: Tid,
        txn: TxnId,
    },
    Vote {
        txn: TxnId,
    },
    TpcFinish {
        txn: TxnId,
    },
    TpcAbort {
        txn: TxnId,
    },
    StoreBlobStart,
    StoreBlobChunk {
        chunk: Bytes,
    },
    StoreBlobEnd {
        oid: Oid,
        serial: Tid,
        data: Bytes,
        txn: TxnId,
    },
    StoreBlobShared {
        oid: Oid,
        serial: Tid,
        data: Bytes,
        file: String,
        txn: TxnId,
    },
    SendBlob {
        oid: Oid,
        serial: Tid,
    },
    /// Pack to a moment, in seconds since 1970.
    Pack {
        time: f64,
        wait: bool,
    },
    UndoLog {
        first: i64,
        last: i64,
    },
    UndoInfo {
        first: i64,
        last: i64,
        specification: Value,
    },
    ServerStatus,
    SetClientLabel {
        label: String,
    },
    Ping,
    /// The original `ZEORaid`'s extension methods, by name: `raid_status` and its like.
    Raid {
        method: RaidMethod,
        arguments: Vec<Value>,
    },
    /// A method that no server has. Kept by name for the message.
    Unknown {
        method: String,
    },
    /// A known method whose arguments make no sense.
    Malformed {
        method: &'static str,
        why: String,
    },
}

/// The original `ZEORaid`'s extension methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RaidMethod {
    Status,
    Details,
    Recover,
    Disable,
    Reload,
}

/// What a call is answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    None,
    Tid(Tid),
    Data(Bytes),
    Loaded(Option<LoadedRecord>),
    Oids(Vec<Oid>),
    /// `vote`: oids that the storage resolved or undid.
    Voted(Vec<Oid>),
    /// `vote`: objects that the client must resolve and store again. Their data is in memory.
    Conflicts(Vec<Conflict>),
    /// `getInvalidations`; none where the queue does not reach back.
    Invalidations(Option<(Tid, Vec<Oid>)>),
    Info(Info),
    History(Vec<HistoryLine>),
    /// `undoLog` and `undoInfo`, newest first.
    UndoLog(Vec<UndoLine>),
    /// `record_iternext`: oid, tid, data, next.
    CurrentRecord {
        oid: Oid,
        tid: Tid,
        data: Bytes,
        next: Option<Oid>,
    },
    Iterator(i64),
    /// `iterator_next`; none at the end.
    Transaction(Option<(Tid, TxnMeta)>),
    /// `iterator_record_next`; none at the end.
    Record(Option<IteratedRecord>),
    ServerStatus(ServerStatus),
    /// Anything else: the extension methods' answers.
    Value(Value),
    Error(WireError),
}

impl Reply {
    /// What it takes in memory, roughly, where that may be much: of the answers that are as large as a record, or
    /// as a list of many lines.
    #[must_use]
    pub fn size(&self) -> usize {
        match self {
            Reply::Data(data) | Reply::CurrentRecord { data, .. } => data.len(),
            Reply::Loaded(Some(record)) => record.data.len(),
            Reply::Record(Some(record)) => record.data.as_ref().map_or(0, Bytes::len),
            Reply::Oids(oids) | Reply::Voted(oids) | Reply::Invalidations(Some((_, oids))) => {
                oids.len() * OID
            }
            Reply::History(lines) => {
                let texts =
                    |it: &HistoryLine| it.user.len() + it.description.len() + it.extension.len();
                lines.iter().map(|line| texts(line) + LINE).sum()
            }
            Reply::UndoLog(lines) => {
                let texts =
                    |it: &UndoLine| it.user.len() + it.description.len() + it.extension.len();
                lines.iter().map(|line| texts(line) + LINE).sum()
            }
            _ => 0,
        }
    }
}

/// The answer to `loadBefore`.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadedRecord {
    pub data: Bytes,
    pub tid: Tid,
    pub end: Option<Tid>,
}

/// One record of an iterated transaction.
#[derive(Debug, Clone, PartialEq)]
pub struct IteratedRecord {
    pub oid: Oid,
    pub tid: Tid,
    /// None: the creation was undone.
    pub data: Option<Bytes>,
    /// The transaction that has the same data (undo).
    pub data_txn: Option<Tid>,
}

/// The answer to `get_info`.
#[derive(Debug, Clone, PartialEq)]
pub struct Info {
    pub name: String,
    pub objects: u64,
    pub bytes: u64,
    pub supports_undo: bool,
    pub supports_record_iternext: bool,
    /// Module and name of each interface that clients look for.
    pub interfaces: Vec<(&'static str, &'static str)>,
}

/// One line of an object's history, as `history` gives it: a dictionary.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryLine {
    pub tid: Tid,
    pub user: Bytes,
    pub description: Bytes,
    /// Pickled; its entries become further keys of the dictionary.
    pub extension: Bytes,
    pub size: u64,
}

/// One transaction of the undo log, as `undoLog` and `undoInfo` give it: a dictionary.
#[derive(Debug, Clone, PartialEq)]
pub struct UndoLine {
    /// Said as [`undo_id`](super::undo_id).
    pub tid: Tid,
    /// In seconds since 1970.
    pub time: f64,
    pub user: Bytes,
    pub description: Bytes,
    /// Pickled; its entries become further keys of the dictionary, and win over the others.
    pub extension: Bytes,
    /// What the transaction takes in the file, in bytes; left out where it is not known.
    pub size: Option<u64>,
}

/// What `server_status` and `ruok` tell, with the keys that `zeo-nagios` reads.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerStatus {
    pub loads: u64,
    pub stores: u64,
    pub commits: u64,
    pub aborts: u64,
    pub active_txns: u64,
    pub conflicts: u64,
    pub conflicts_resolved: u64,
    pub verifying_clients: u64,
    pub connections: u64,
    /// Clients that wait for the commit lock.
    pub waiting: u64,
    /// When the present holder got the commit lock, in seconds since 1970.
    pub lock_time: Option<f64>,
    /// When the server started, as C's `ctime` writes it.
    pub start: String,
    pub last_transaction: Tid,
    /// Whether whatever ends transactions that hold the lock too long is at work.
    pub timeout_thread_is_alive: bool,
}

/// An error as it is said on the wire: a class that the client makes, or shows by name.
#[derive(Debug, Clone, PartialEq)]
pub enum WireError {
    /// What the storage answered; each has its exception class and arguments.
    Answer(Answer),
    /// `builtins.KeyError`.
    Key(Value),
    /// `builtins.ValueError`.
    Value(String),
    /// `builtins.TypeError`: arguments that the method does not take.
    Type(String),
    /// `builtins.NotImplementedError`: the message names the method.
    NotImplemented(String),
    /// `ZODB.POSException.StorageError`: the array could not do it.
    Storage(String),
}

/// What a server says unasked.
#[derive(Debug, Clone, PartialEq)]
pub enum Push {
    InvalidateTransaction {
        tid: Tid,
        oids: std::sync::Arc<[Oid]>,
    },
    /// `info`: the size after a commit or a pack.
    Info {
        objects: u64,
        bytes: u64,
    },
    ReceiveBlobStart {
        oid: Oid,
        serial: Tid,
    },
    ReceiveBlobChunk {
        oid: Oid,
        serial: Tid,
        chunk: Bytes,
    },
    ReceiveBlobStop {
        oid: Oid,
        serial: Tid,
    },
}
