//! Calls as values: which arguments a method has, in which order and of which type.
//!
//! A method that nobody has, and arguments that make no sense, are calls too ([`Call::Unknown`],
//! [`Call::Malformed`]): what is to be done about them is not decided here. Source: ZEO
//! `StorageServer.py`, the methods of `ZEOStorage`.

use super::dialect::{DecodeError, FromClient};
use super::items::{self, Items, eight};
use super::message::{Call, MessageId, RaidMethod, Request, TxnId};
use super::sink::{EncodeError, Sink};
use super::undo_id::{parse_undo_id, undo_id};
use crate::pickle::{Value, extension};
use crate::zodb::{Oid, Tid, TxnMeta, TxnStatus};

/// How many identifiers are given out at most, and by default.
const NEW_OIDS: i64 = 100;

/// What a client may make up for the id of a call or a transaction, and for what an undo log is searched for, in
/// memory, in bytes. Python's ids are integers, and pairs of eight bytes.
const LARGEST_ID: usize = 1 << 10;
const LARGEST_ARGUMENT: usize = 64 << 10;

/// How many arguments an extension method is given at most.
const MOST_ARGUMENTS: usize = 16;

/// The four parts of every message.
pub(super) struct Envelope {
    pub(super) id: MessageId,
    pub(super) flag: i64,
    pub(super) name: String,
    pub(super) content: Value,
}

impl Envelope {
    pub(super) fn open(message: Value) -> Result<Self, DecodeError> {
        let shape = |why: &str| DecodeError::Shape(why.to_owned());
        let (Value::Tuple(parts) | Value::List(parts)) = message else {
            return Err(shape("it is not a tuple"));
        };
        let [id, flag, name, content] = <[Value; 4]>::try_from(parts)
            .map_err(|parts| DecodeError::Shape(format!("it has {} parts, not 4", parts.len())))?;
        Ok(Envelope {
            id: message_id(id).ok_or_else(|| shape("its id is too large"))?,
            flag: match flag {
                Value::None => 0,
                flag => flag
                    .as_int()
                    .ok_or_else(|| shape("its flag is no number"))?,
            },
            name: match name {
                Value::Text(name) => name,
                name => name
                    .as_text()
                    .ok_or_else(|| shape("its method is no text"))?
                    .to_owned(),
            },
            content,
        })
    }
}

/// None where it is larger than anybody's.
fn message_id(id: Value) -> Option<MessageId> {
    Some(match id {
        Value::Int(int) => MessageId::Int(int),
        Value::Tuple(pair) => {
            if let [oid, tid] = &pair[..]
                && let (Ok(oid), Ok(tid)) = (eight(oid, ""), eight(tid, ""))
            {
                let (oid, tid) = (Oid::from_bytes(oid), Tid::from_bytes(tid));
                return Some(MessageId::Load(oid, tid));
            }
            MessageId::Other(Value::Tuple(pair).small_copy(LARGEST_ID)?)
        }
        other => MessageId::Other(other.small_copy(LARGEST_ID)?),
    })
}

pub(super) fn encode_id<S: Sink>(id: &MessageId, sink: &mut S) {
    match id {
        MessageId::Int(int) => sink.int(*int),
        MessageId::Load(oid, tid) => {
            sink.tuple(2);
            sink.oid(*oid);
            sink.tid(*tid);
            sink.tuple_end(2);
        }
        MessageId::Other(value) => sink.value(value),
    }
}

/// Reads what a client says.
pub(super) fn decode(message: Value) -> Result<FromClient, DecodeError> {
    let envelope = Envelope::open(message)?;
    if envelope.id == MessageId::Int(-1) {
        return Ok(FromClient::Heartbeat);
    }
    Ok(FromClient::Request(Request {
        id: envelope.id,
        one_way: envelope.flag != 0,
        call: call(envelope.name, envelope.content),
    }))
}

fn call(method: String, arguments: Value) -> Call {
    let mut arguments = match Items::of(arguments, "the argument list") {
        Ok(arguments) => arguments,
        Err(why) => return malformed(method, why),
    };
    let parsed = parse(&method, &mut arguments);
    match parsed {
        Ok(None) => Call::Unknown { method },
        // Python's servers take any arguments for these.
        Ok(Some(call @ Call::Raid { .. })) => call,
        Ok(Some(call)) => match arguments.end() {
            Ok(()) => call,
            Err(why) => malformed(method, why),
        },
        Err(why) => malformed(method, why),
    }
}

fn malformed(method: String, why: String) -> Call {
    match METHODS.iter().find(|known| **known == method) {
        Some(method) => Call::Malformed { method, why },
        None => Call::Unknown { method },
    }
}

/// The call that a method and its first arguments make; none where there is no such method.
fn parse(method: &str, take: &mut Items) -> items::Result<Option<Call>> {
    Ok(Some(match method {
        "loadBefore" => Call::LoadBefore {
            oid: take.oid("the oid")?,
            before: take.tid("the tid")?,
        },
        "storea" => Call::Storea {
            oid: take.oid("the oid")?,
            serial: serial(take)?,
            data: take.bytes("the data")?,
            txn: txn(take)?,
        },
        "vote" => Call::Vote { txn: txn(take)? },
        "tpc_finish" => Call::TpcFinish { txn: txn(take)? },
        "tpc_abort" => Call::TpcAbort { txn: txn(take)? },
        "tpc_begin" => tpc_begin(take)?,
        "checkCurrentSerialInTransaction" => Call::CheckCurrent {
            oid: take.oid("the oid")?,
            serial: serial(take)?,
            txn: txn(take)?,
        },
        "register" => Call::Register {
            storage: take.text("the storage's name")?,
            read_only: take.bool("read_only")?,
        },
        "get_info" => Call::GetInfo,
        "lastTransaction" => Call::LastTransaction,
        "getInvalidations" => Call::GetInvalidations {
            since: take.tid("the tid")?,
        },
        "loadSerial" => Call::LoadSerial {
            oid: take.oid("the oid")?,
            serial: take.tid("the serial")?,
        },
        "getTid" => Call::GetTid {
            oid: take.oid("the oid")?,
        },
        "new_oids" => {
            let count = take.int_or(NEW_OIDS, "the count")?.clamp(1, NEW_OIDS);
            Call::NewOids {
                count: count.unsigned_abs() as usize,
            }
        }
        "history" => Call::History {
            oid: take.oid("the oid")?,
            // Nobody can hold more, and less than nothing is nothing.
            count: usize::try_from(take.int_or(1, "the size")?.max(0)).unwrap_or(usize::MAX),
        },
        "record_iternext" => Call::RecordIternext {
            next: take.some_oid("the oid")?,
        },
        "iterator_start" => Call::IteratorStart {
            first: take.some_tid("the start")?,
            last: take.some_tid("the stop")?,
        },
        "iterator_next" => Call::IteratorNext {
            iterator: take.int("the iterator")?,
        },
        "iterator_record_start" => Call::IteratorRecordStart {
            iterator: take.int("the iterator")?,
            tid: take.tid("the tid")?,
        },
        "iterator_record_next" => Call::IteratorRecordNext {
            iterator: take.int("the iterator")?,
        },
        "iterator_gc" => Call::IteratorGc {
            iterators: match take.any("the iterators")? {
                Value::List(items) | Value::Tuple(items) | Value::Set(items) => items
                    .iter()
                    .map(|item| {
                        item.as_int()
                            .ok_or("an iterator is not an integer".to_owned())
                    })
                    .collect::<Result<_, _>>()?,
                _ => return Err("the iterators are not a sequence".to_owned()),
            },
        },
        "restorea" => Call::Restorea {
            oid: take.oid("the oid")?,
            serial: serial(take)?,
            data: take.some_bytes("the data")?,
            previous: take.some_tid("the previous transaction")?,
            txn: txn(take)?,
        },
        "deleteObject" => Call::DeleteObject {
            oid: take.oid("the oid")?,
            serial: serial(take)?,
            txn: txn(take)?,
        },
        "undoa" => Call::Undoa {
            tid: {
                let id = take.octets("the transaction's id")?;
                parse_undo_id(&id).ok_or("the transaction's id is not one of the undo log")?
            },
            txn: txn(take)?,
        },
        "storeBlobStart" => Call::StoreBlobStart,
        "storeBlobChunk" => Call::StoreBlobChunk {
            chunk: take.bytes("the chunk")?,
        },
        "storeBlobEnd" => Call::StoreBlobEnd {
            oid: take.oid("the oid")?,
            serial: serial(take)?,
            data: take.bytes("the data")?,
            txn: txn(take)?,
        },
        "storeBlobShared" => Call::StoreBlobShared {
            oid: take.oid("the oid")?,
            serial: serial(take)?,
            data: take.bytes("the data")?,
            file: take.text("the file's name")?,
            txn: txn(take)?,
        },
        "sendBlob" => Call::SendBlob {
            oid: take.oid("the oid")?,
            serial: take.tid("the serial")?,
        },
        "pack" => Call::Pack {
            time: match take.any("the time")? {
                Value::Float(time) if time.is_finite() => time,
                // Seconds fit into a float's 53 bits for a hundred million years.
                #[expect(clippy::cast_precision_loss, reason = "seconds since 1970")]
                Value::Int(time) => time as f64,
                _ => return Err("the time is not a number".to_owned()),
            },
            wait: if take.is_empty() {
                true
            } else {
                take.bool("wait")?
            },
        },
        "undoLog" => Call::UndoLog {
            first: take.int_or(0, "the first")?,
            last: take.int_or(-20, "the last")?,
        },
        "undoInfo" => Call::UndoInfo {
            first: take.int_or(0, "the first")?,
            last: take.int_or(-20, "the last")?,
            specification: if take.is_empty() {
                Value::None
            } else {
                let specification = take.any("the specification")?;
                let small = specification.small_copy(LARGEST_ARGUMENT);
                small.ok_or("the specification is too large")?
            },
        },
        "server_status" => Call::ServerStatus,
        "set_client_label" => Call::SetClientLabel {
            label: take.text("the label")?,
        },
        "ping" => Call::Ping,
        "raid_status" => raid(RaidMethod::Status, take)?,
        "raid_details" => raid(RaidMethod::Details, take)?,
        "raid_recover" => raid(RaidMethod::Recover, take)?,
        "raid_disable" => raid(RaidMethod::Disable, take)?,
        "raid_reload" => raid(RaidMethod::Reload, take)?,
        _ => return Ok(None),
    }))
}

/// The methods that [`parse`] knows: those of ZEO 6 after the registration, and the original `ZEORaid`'s.
pub const METHODS: [&str; 40] = [
    "register",
    "get_info",
    "lastTransaction",
    "getInvalidations",
    "loadBefore",
    "loadSerial",
    "getTid",
    "new_oids",
    "history",
    "record_iternext",
    "iterator_start",
    "iterator_next",
    "iterator_record_start",
    "iterator_record_next",
    "iterator_gc",
    "tpc_begin",
    "storea",
    "restorea",
    "deleteObject",
    "checkCurrentSerialInTransaction",
    "undoa",
    "vote",
    "tpc_finish",
    "tpc_abort",
    "storeBlobStart",
    "storeBlobChunk",
    "storeBlobEnd",
    "storeBlobShared",
    "sendBlob",
    "pack",
    "undoLog",
    "undoInfo",
    "server_status",
    "set_client_label",
    "ping",
    "raid_status",
    "raid_details",
    "raid_recover",
    "raid_disable",
    "raid_reload",
];

impl Call {
    /// The method's name, for messages.
    #[must_use]
    pub fn method(&self) -> &'static str {
        match self {
            Call::Register { .. } => "register",
            Call::GetInfo => "get_info",
            Call::LastTransaction => "lastTransaction",
            Call::GetInvalidations { .. } => "getInvalidations",
            Call::LoadBefore { .. } => "loadBefore",
            Call::LoadSerial { .. } => "loadSerial",
            Call::GetTid { .. } => "getTid",
            Call::NewOids { .. } => "new_oids",
            Call::History { .. } => "history",
            Call::RecordIternext { .. } => "record_iternext",
            Call::IteratorStart { .. } => "iterator_start",
            Call::IteratorNext { .. } => "iterator_next",
            Call::IteratorRecordStart { .. } => "iterator_record_start",
            Call::IteratorRecordNext { .. } => "iterator_record_next",
            Call::IteratorGc { .. } => "iterator_gc",
            Call::TpcBegin { .. } => "tpc_begin",
            Call::Storea { .. } => "storea",
            Call::Restorea { .. } => "restorea",
            Call::DeleteObject { .. } => "deleteObject",
            Call::CheckCurrent { .. } => "checkCurrentSerialInTransaction",
            Call::Undoa { .. } => "undoa",
            Call::Vote { .. } => "vote",
            Call::TpcFinish { .. } => "tpc_finish",
            Call::TpcAbort { .. } => "tpc_abort",
            Call::StoreBlobStart => "storeBlobStart",
            Call::StoreBlobChunk { .. } => "storeBlobChunk",
            Call::StoreBlobEnd { .. } => "storeBlobEnd",
            Call::StoreBlobShared { .. } => "storeBlobShared",
            Call::SendBlob { .. } => "sendBlob",
            Call::Pack { .. } => "pack",
            Call::UndoLog { .. } => "undoLog",
            Call::UndoInfo { .. } => "undoInfo",
            Call::ServerStatus => "server_status",
            Call::SetClientLabel { .. } => "set_client_label",
            Call::Ping => "ping",
            Call::Raid { method, .. } => method.name(),
            Call::Malformed { method, .. } => method,
            Call::Unknown { .. } => "an unknown method",
        }
    }
}

impl RaidMethod {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            RaidMethod::Status => "raid_status",
            RaidMethod::Details => "raid_details",
            RaidMethod::Recover => "raid_recover",
            RaidMethod::Disable => "raid_disable",
            RaidMethod::Reload => "raid_reload",
        }
    }
}

/// A serial; `None` is that of a new object. Some clients say the text of eight zeros for it: a server of
/// Python's, which looks at it only where the object is known, takes that.
fn serial(take: &mut Items) -> items::Result<Tid> {
    match take.any("the serial")? {
        Value::None => Ok(Tid::ZERO),
        Value::Text(text) => {
            let bytes: Option<Vec<u8>> = text.chars().map(|each| u8::try_from(each).ok()).collect();
            let bytes = bytes.and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
            let bytes = bytes.ok_or("the serial is a text other than of eight bytes")?;
            Ok(Tid::from_bytes(bytes))
        }
        value => eight(&value, "the serial").map(Tid::from_bytes),
    }
}

fn txn(take: &mut Items) -> items::Result<TxnId> {
    let id = take.any("the transaction's id")?;
    let id = id.small_copy(LARGEST_ID);
    Ok(TxnId(id.ok_or("the transaction's id is too large")?))
}

fn raid(method: RaidMethod, take: &mut Items) -> items::Result<Call> {
    let mut arguments = Vec::new();
    while let Ok(argument) = take.any("") {
        let argument = argument.small_copy(LARGEST_ARGUMENT);
        arguments.push(argument.ok_or("an argument is too large")?);
        if arguments.len() > MOST_ARGUMENTS {
            return Err("there are too many arguments".to_owned());
        }
    }
    Ok(Call::Raid { method, arguments })
}

fn tpc_begin(take: &mut Items) -> items::Result<Call> {
    let txn = txn(take)?;
    let user = take.octets("the user")?;
    let description = take.octets("the description")?;
    // Members may be servers: what they would hang up over goes no further than this.
    let extension = extension::of_stranger(&take.any("the extension")?)
        .map_err(|error| format!("the extension: {}", error.problem))?;
    let tid = take.some_tid("the tid")?;
    let status = if take.is_empty() {
        TxnStatus::Normal
    } else {
        status(&take.octets("the status")?).ok_or("the status is unknown")?
    };
    Ok(Call::TpcBegin {
        txn,
        meta: TxnMeta {
            user,
            description,
            extension,
            status,
        },
        tid,
    })
}

pub(super) fn status(status: &[u8]) -> Option<TxnStatus> {
    match status {
        [byte] => TxnStatus::from_byte(*byte),
        _ => None,
    }
}

pub(super) fn status_text(status: TxnStatus) -> &'static str {
    match status {
        TxnStatus::Normal => " ",
        TxnStatus::Undone => "u",
        TxnStatus::Packed => "p",
    }
}

/// Writes a request (client's role).
pub(super) fn encode<S: Sink>(request: &Request, sink: &mut S) -> Result<(), EncodeError> {
    sink.tuple(4);
    encode_id(&request.id, sink);
    sink.bool(request.one_way);
    encode_call(&request.call, sink)?;
    sink.tuple_end(4);
    Ok(())
}

/// Writes the method's name and the tuple of its arguments.
fn encode_call<S: Sink>(call: &Call, sink: &mut S) -> Result<(), EncodeError> {
    let mut say = Said { sink };
    match call {
        Call::Register { storage, read_only } => say.call("register", 2, |sink| {
            sink.text(storage);
            sink.bool(*read_only);
        }),
        Call::GetInfo => say.call("get_info", 0, |_| {}),
        Call::LastTransaction => say.call("lastTransaction", 0, |_| {}),
        Call::GetInvalidations { since } => {
            say.call("getInvalidations", 1, |sink| sink.tid(*since));
        }
        Call::LoadBefore { oid, before } => say.call("loadBefore", 2, |sink| {
            sink.oid(*oid);
            sink.tid(*before);
        }),
        Call::LoadSerial { oid, serial } => say.call("loadSerial", 2, |sink| {
            sink.oid(*oid);
            sink.tid(*serial);
        }),
        Call::GetTid { oid } => say.call("getTid", 1, |sink| sink.oid(*oid)),
        Call::NewOids { count } => say.call("new_oids", 1, |sink| sink.count(*count as u64)),
        Call::History { oid, count } => say.call("history", 2, |sink| {
            sink.oid(*oid);
            sink.count(*count as u64);
        }),
        Call::RecordIternext { next } => {
            say.call("record_iternext", 1, |sink| sink.some_oid(*next));
        }
        Call::IteratorStart { first, last } => say.call("iterator_start", 2, |sink| {
            sink.some_tid(*first);
            sink.some_tid(*last);
        }),
        Call::IteratorNext { iterator } => {
            say.call("iterator_next", 1, |sink| sink.int(*iterator));
        }
        Call::IteratorRecordStart { iterator, tid } => {
            say.call("iterator_record_start", 2, |sink| {
                sink.int(*iterator);
                sink.tid(*tid);
            });
        }
        Call::IteratorRecordNext { iterator } => {
            say.call("iterator_record_next", 1, |sink| sink.int(*iterator));
        }
        Call::IteratorGc { iterators } => say.call("iterator_gc", 1, |sink| {
            sink.list(iterators.len());
            for iterator in iterators {
                sink.int(*iterator);
            }
            sink.list_end(iterators.len());
        }),
        Call::TpcBegin { txn, meta, tid } => {
            sink.text("tpc_begin");
            sink.tuple(6);
            sink.value(&txn.0);
            sink.bytes(&meta.user);
            sink.bytes(&meta.description);
            // Not as it is stored: a server does not read all that may stand in a pickle.
            sink.value(&Value::Dict(extension::portable(&meta.extension)?));
            sink.some_tid(*tid);
            sink.text(status_text(meta.status));
            sink.tuple_end(6);
        }
        Call::Storea {
            oid,
            serial,
            data,
            txn,
        } => say.call("storea", 4, |sink| {
            sink.oid(*oid);
            sink.tid(*serial);
            sink.shared(data);
            sink.value(&txn.0);
        }),
        Call::Restorea {
            oid,
            serial,
            data,
            previous,
            txn,
        } => say.call("restorea", 5, |sink| {
            sink.oid(*oid);
            sink.tid(*serial);
            match data {
                Some(data) => sink.shared(data),
                None => sink.none(),
            }
            sink.some_tid(*previous);
            sink.value(&txn.0);
        }),
        Call::DeleteObject { oid, serial, txn } => say.call("deleteObject", 3, |sink| {
            sink.oid(*oid);
            sink.tid(*serial);
            sink.value(&txn.0);
        }),
        Call::CheckCurrent { oid, serial, txn } => {
            say.call("checkCurrentSerialInTransaction", 3, |sink| {
                sink.oid(*oid);
                sink.tid(*serial);
                sink.value(&txn.0);
            });
        }
        Call::Undoa { tid, txn } => say.call("undoa", 2, |sink| {
            sink.bytes(&undo_id(*tid));
            sink.value(&txn.0);
        }),
        Call::Vote { txn } => say.call("vote", 1, |sink| sink.value(&txn.0)),
        Call::TpcFinish { txn } => say.call("tpc_finish", 1, |sink| sink.value(&txn.0)),
        Call::TpcAbort { txn } => say.call("tpc_abort", 1, |sink| sink.value(&txn.0)),
        Call::StoreBlobStart => say.call("storeBlobStart", 0, |_| {}),
        Call::StoreBlobChunk { chunk } => say.call("storeBlobChunk", 1, |sink| sink.shared(chunk)),
        Call::StoreBlobEnd {
            oid,
            serial,
            data,
            txn,
        } => say.call("storeBlobEnd", 4, |sink| {
            sink.oid(*oid);
            sink.tid(*serial);
            sink.shared(data);
            sink.value(&txn.0);
        }),
        Call::StoreBlobShared {
            oid,
            serial,
            data,
            file,
            txn,
        } => say.call("storeBlobShared", 5, |sink| {
            sink.oid(*oid);
            sink.tid(*serial);
            sink.shared(data);
            sink.text(file);
            sink.value(&txn.0);
        }),
        Call::SendBlob { oid, serial } => say.call("sendBlob", 2, |sink| {
            sink.oid(*oid);
            sink.tid(*serial);
        }),
        Call::Pack { time, wait } => say.call("pack", 2, |sink| {
            sink.float(*time);
            sink.bool(*wait);
        }),
        Call::UndoLog { first, last } => say.call("undoLog", 2, |sink| {
            sink.int(*first);
            sink.int(*last);
        }),
        Call::UndoInfo {
            first,
            last,
            specification,
        } => say.call("undoInfo", 3, |sink| {
            sink.int(*first);
            sink.int(*last);
            sink.value(specification);
        }),
        Call::ServerStatus => say.call("server_status", 0, |_| {}),
        Call::SetClientLabel { label } => {
            say.call("set_client_label", 1, |sink| sink.text(label));
        }
        Call::Ping => say.call("ping", 0, |_| {}),
        Call::Raid { method, arguments } => {
            say.call(method.name(), arguments.len(), |sink| {
                for argument in arguments {
                    sink.value(argument);
                }
            });
        }
        // They exist so that a server can answer them; a client that says them says the name.
        Call::Unknown { method } => say.call(method, 0, |_| {}),
        Call::Malformed { method, .. } => say.call(method, 0, |_| {}),
    }
    Ok(())
}

struct Said<'a, S> {
    sink: &'a mut S,
}

impl<S: Sink> Said<'_, S> {
    fn call(&mut self, method: &str, count: usize, arguments: impl FnOnce(&mut S)) {
        self.sink.text(method);
        self.sink.tuple(count);
        arguments(self.sink);
        self.sink.tuple_end(count);
    }
}
