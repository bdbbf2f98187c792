//! Replies as values: what each method's answer looks like.
//!
//! A reply does not say which call it answers, except by its id. So it is decoded in two steps: a
//! [`RawReply`] has the id and a plain value, and [`RawReply::expect`] gives it the shape that the
//! call's maker has kept as [`Expected`]. Source: ZEO `StorageServer.py`, ZODB
//! `FileStorage/FileStorage.py` (`history`, `record_iternext`, `UndoSearch`), ZEO `monitor.py` (`StorageStats`).

use super::dialect::DecodeError;
use super::exception;
use super::items::{self, Items, eight, oids};
use super::message::{
    Call, HistoryLine, Info, IteratedRecord, LoadedRecord, MessageId, Reply, ServerStatus,
    UndoLine, WireError,
};
use super::request::{encode_id, status, status_text};
use super::sink::{EncodeError, Sink};
use super::undo_id::{parse_undo_id, undo_id};
use crate::pickle::{Value, extension};
use crate::zodb::{Conflict, Oid, Tid, TxnMeta};

/// A reply whose shape is known only to who made the call.
#[derive(Debug, Clone, PartialEq)]
pub struct RawReply {
    pub id: MessageId,
    pub outcome: Result<Value, WireError>,
}

/// The shape of the reply to a call; small, to be kept while the call is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    None,
    /// A TID; none is [`Reply::None`] (`tpc_finish` of a transaction that is not there).
    Tid,
    Data,
    Loaded,
    Oids,
    Vote,
    Invalidations,
    Info,
    History,
    UndoLog,
    CurrentRecord,
    Iterator,
    Transaction,
    Record,
    ServerStatus,
    Value,
}

impl Expected {
    /// What a call is answered.
    #[must_use]
    pub fn of(call: &Call) -> Self {
        match call {
            Call::Register { .. }
            | Call::LastTransaction
            | Call::GetTid { .. }
            | Call::TpcFinish { .. } => Expected::Tid,
            Call::GetInfo => Expected::Info,
            Call::GetInvalidations { .. } => Expected::Invalidations,
            Call::LoadBefore { .. } => Expected::Loaded,
            Call::LoadSerial { .. } => Expected::Data,
            Call::NewOids { .. } => Expected::Oids,
            Call::History { .. } => Expected::History,
            Call::RecordIternext { .. } => Expected::CurrentRecord,
            Call::IteratorStart { .. } | Call::IteratorRecordStart { .. } => Expected::Iterator,
            Call::IteratorNext { .. } => Expected::Transaction,
            Call::IteratorRecordNext { .. } => Expected::Record,
            Call::Vote { .. } => Expected::Vote,
            Call::ServerStatus => Expected::ServerStatus,
            Call::IteratorGc { .. }
            | Call::TpcBegin { .. }
            | Call::Storea { .. }
            | Call::Restorea { .. }
            | Call::DeleteObject { .. }
            | Call::CheckCurrent { .. }
            | Call::Undoa { .. }
            | Call::TpcAbort { .. }
            | Call::StoreBlobStart
            | Call::StoreBlobChunk { .. }
            | Call::StoreBlobEnd { .. }
            | Call::StoreBlobShared { .. }
            | Call::SendBlob { .. }
            | Call::Pack { .. }
            | Call::SetClientLabel { .. }
            | Call::Ping => Expected::None,
            Call::UndoLog { .. } | Call::UndoInfo { .. } => Expected::UndoLog,
            Call::Raid { .. } | Call::Unknown { .. } | Call::Malformed { .. } => Expected::Value,
        }
    }
}

impl RawReply {
    /// The reply in the shape that its call expects. An error becomes [`Reply::Error`].
    ///
    /// # Errors
    /// It has another shape.
    pub fn expect(self, expected: Expected) -> Result<Reply, DecodeError> {
        match self.outcome {
            Ok(value) => shaped(value, expected)
                .map_err(|why| DecodeError::Shape(format!("in the reply {why}"))),
            Err(error) => Ok(Reply::Error(error)),
        }
    }
}

fn shaped(value: Value, expected: Expected) -> items::Result<Reply> {
    let none = value == Value::None;
    Ok(match expected {
        // Whatever it is: some answer `True`, some what the storage returned.
        Expected::None => Reply::None,
        Expected::Tid if none => Reply::None,
        Expected::Tid => Reply::Tid(Tid::from_bytes(eight(&value, "the tid")?)),
        Expected::Data => match value {
            Value::Bytes(data) => Reply::Data(data),
            _ => return Err("the data is not bytes".to_owned()),
        },
        Expected::Loaded if none => Reply::Loaded(None),
        Expected::Loaded => {
            let mut take = Items::of(value, "the record")?;
            Reply::Loaded(Some(LoadedRecord {
                data: take.bytes("the data")?,
                tid: take.tid("the tid")?,
                end: take.some_tid("the end")?,
            }))
        }
        Expected::Oids => Reply::Oids(oids(value, "an oid")?),
        Expected::Vote => vote(value)?,
        Expected::Invalidations if none => Reply::Invalidations(None),
        Expected::Invalidations => {
            let mut take = Items::of(value, "the answer")?;
            let tid = take.tid("the tid")?;
            let oids = oids(take.any("the list")?, "an oid")?;
            Reply::Invalidations(Some((tid, oids)))
        }
        Expected::Info => Reply::Info(info(&value)?),
        Expected::History => match value {
            Value::List(lines) | Value::Tuple(lines) => {
                let lines = lines.into_iter().map(history_line);
                Reply::History(lines.collect::<Result<_, _>>()?)
            }
            _ => return Err("the history is not a sequence".to_owned()),
        },
        Expected::UndoLog => match value {
            Value::List(lines) | Value::Tuple(lines) => {
                let lines = lines.into_iter().map(undo_line);
                Reply::UndoLog(lines.collect::<Result<_, _>>()?)
            }
            _ => return Err("the undo log is not a sequence".to_owned()),
        },
        Expected::CurrentRecord => {
            let mut take = Items::of(value, "the record")?;
            Reply::CurrentRecord {
                oid: take.oid("the oid")?,
                tid: take.tid("the tid")?,
                data: take.bytes("the data")?,
                next: take.some_oid("the next oid")?,
            }
        }
        Expected::Iterator => match value {
            Value::Int(iterator) => Reply::Iterator(iterator),
            _ => return Err("the iterator is not an integer".to_owned()),
        },
        Expected::Transaction if none => Reply::Transaction(None),
        Expected::Transaction => Reply::Transaction(Some(transaction(value)?)),
        Expected::Record if none => Reply::Record(None),
        Expected::Record => {
            let mut take = Items::of(value, "the record")?;
            Reply::Record(Some(IteratedRecord {
                oid: take.oid("the oid")?,
                tid: take.tid("the tid")?,
                data: take.some_bytes("the data")?,
                data_txn: take.some_tid("the transaction of the data")?,
            }))
        }
        Expected::ServerStatus => Reply::ServerStatus(server_status(&value)?),
        Expected::Value => Reply::Value(value),
    })
}

fn vote(value: Value) -> items::Result<Reply> {
    let conflicts = value
        .as_items()
        .is_some_and(|items| items.iter().any(|item| matches!(item, Value::Dict(_))));
    if !conflicts {
        return Ok(Reply::Voted(oids(value, "an oid")?));
    }
    let mut conflicts = Vec::new();
    for item in value.as_items().unwrap_or_default() {
        let get = |name: &str| item.get(name).ok_or_else(|| format!("{name} is missing"));
        let serials = get("serials")?.as_items().unwrap_or_default();
        let [committed, read] = serials else {
            return Err("serials is not a pair".to_owned());
        };
        let oid = Oid::from_bytes(eight(get("oid")?, "oid")?);
        let committed = Tid::from_bytes(eight(committed, "a serial")?);
        let read = Tid::from_bytes(eight(read, "a serial")?);
        conflicts.push(Conflict {
            data: match get("data")? {
                Value::Bytes(data) => Some(data.clone().into()),
                _ => None,
            },
            ..Conflict::new(oid, committed, read)
        });
    }
    Ok(Reply::Conflicts(conflicts))
}

fn transaction(value: Value) -> items::Result<(Tid, TxnMeta)> {
    let mut take = Items::of(value, "the transaction")?;
    let tid = take.tid("the tid")?;
    let status = status(&take.octets("the status")?).ok_or("the status is unknown")?;
    let user = take.octets("the user")?;
    let description = take.octets("the description")?;
    let extension = match take.any("the extension")? {
        Value::None => bytes::Bytes::new(),
        Value::Dict(entries) => extension::pickled(&entries),
        _ => return Err("the extension is not a dictionary".to_owned()),
    };
    Ok((
        tid,
        TxnMeta {
            user,
            description,
            extension,
            status,
        },
    ))
}

/// The names that `history` gives; all others are the extension's.
const HISTORY_NAMES: [&str; 5] = ["time", "user_name", "description", "tid", "size"];

fn history_line(value: Value) -> items::Result<HistoryLine> {
    let get = |name: &str| value.get(name).cloned().ok_or(format!("{name} is missing"));
    let octets = |name: &str| {
        let value = get(name)?;
        let octets = value.as_octets().map(bytes::Bytes::copy_from_slice);
        octets.ok_or_else(|| format!("{name} is not bytes"))
    };
    let (user, description) = (octets("user_name")?, octets("description")?);
    let tid = Tid::from_bytes(eight(&get("tid")?, "the tid")?);
    let size = get("size")?.as_int().and_then(|size| size.try_into().ok());
    let Value::Dict(mut entries) = value else {
        return Err("a line is not a dictionary".to_owned());
    };
    entries.retain(|(key, _)| !is_one_of(key, &HISTORY_NAMES));
    Ok(HistoryLine {
        tid,
        user,
        description,
        extension: extension::pickled(&entries),
        size: size.ok_or("the size is not a number")?,
    })
}

/// The names that the undo log gives, in Python's order; all others are the extension's.
const UNDO_NAMES: [&str; 5] = ["id", "time", "user_name", "size", "description"];

fn undo_line(value: Value) -> items::Result<UndoLine> {
    let get = |name: &str| value.get(name).ok_or(format!("{name} is missing"));
    let octets = |name: &str| {
        let octets = get(name)?.as_octets().map(bytes::Bytes::copy_from_slice);
        octets.ok_or_else(|| format!("{name} is not bytes"))
    };
    let (user, description) = (octets("user_name")?, octets("description")?);
    let tid = parse_undo_id(&octets("id")?).ok_or("the id is not one of an undo log")?;
    let time = match get("time")? {
        Value::Float(time) => *time,
        _ => return Err("the time is not a number".to_owned()),
    };
    let size = value.get("size").and_then(Value::as_int);
    let Value::Dict(mut entries) = value else {
        return Err("a line is not a dictionary".to_owned());
    };
    entries.retain(|(key, _)| !is_one_of(key, &UNDO_NAMES));
    Ok(UndoLine {
        tid,
        time,
        user,
        description,
        extension: extension::pickled(&entries),
        size: size.and_then(|size| size.try_into().ok()),
    })
}

fn is_one_of(key: &Value, names: &[&str]) -> bool {
    key.as_text().is_some_and(|key| names.contains(&key))
}

fn info(value: &Value) -> items::Result<Info> {
    let count = |name: &str| {
        let count = value.get(name).and_then(Value::as_int).unwrap_or(0);
        u64::try_from(count).map_err(|_| format!("{name} is negative"))
    };
    let truth = |name: &str| {
        let truth = value.get(name).and_then(Value::as_int);
        truth.is_some_and(|truth| truth != 0)
    };
    let interfaces = value
        .get("interfaces")
        .and_then(Value::as_items)
        .unwrap_or_default();
    Ok(Info {
        name: value
            .get("name")
            .and_then(Value::as_text)
            .unwrap_or_default()
            .to_owned(),
        objects: count("length")?,
        bytes: count("size")?,
        supports_undo: truth("supportsUndo"),
        supports_record_iternext: truth("supports_record_iternext"),
        interfaces: interfaces.iter().filter_map(known_interface).collect(),
    })
}

/// The interfaces that clients look for; a server has many more, which nobody asks for.
const INTERFACES: [&str; 9] = [
    "IStorage",
    "IStorageRestoreable",
    "IStorageIteration",
    "IStorageUndoable",
    "IStorageCurrentRecordIteration",
    "IBlobStorage",
    "IBlobStorageRestoreable",
    "IExternalGC",
    "IStorageLoadBeforeEx",
];

fn known_interface(pair: &Value) -> Option<(&'static str, &'static str)> {
    let [module, name] = pair.as_items()? else {
        return None;
    };
    if module.as_text()? != "ZODB.interfaces" {
        return None;
    }
    let name = name.as_text()?;
    let name = INTERFACES.iter().find(|known| **known == name)?;
    Some(("ZODB.interfaces", name))
}

fn server_status(value: &Value) -> items::Result<ServerStatus> {
    let count = |name: &str| {
        let count = value.get(name).and_then(Value::as_int).unwrap_or(0);
        u64::try_from(count).map_err(|_| format!("{name} is negative"))
    };
    let text = |name: &str| value.get(name).and_then(Value::as_text);
    Ok(ServerStatus {
        loads: count("loads")?,
        stores: count("stores")?,
        commits: count("commits")?,
        aborts: count("aborts")?,
        active_txns: count("active_txns")?,
        conflicts: count("conflicts")?,
        conflicts_resolved: count("conflicts_resolved")?,
        verifying_clients: count("verifying_clients")?,
        connections: count("connections")?,
        waiting: count("waiting")?,
        lock_time: match value.get("lock_time") {
            Some(Value::Float(time)) => Some(*time),
            _ => None,
        },
        start: text("start").unwrap_or_default().to_owned(),
        last_transaction: text("last-transaction")
            .and_then(|tid| tid.parse().ok())
            .ok_or("last-transaction is not a tid")?,
        // Where there is no timeout, Python's server says `'stub'` here.
        timeout_thread_is_alive: value.get("timeout-thread-is-alive") == Some(&Value::Bool(true)),
    })
}

/// Writes a reply (server's role).
pub(super) fn encode<S: Sink>(
    id: &MessageId,
    reply: &Reply,
    sink: &mut S,
) -> Result<(), EncodeError> {
    sink.tuple(4);
    encode_id(id, sink);
    sink.int(if matches!(reply, Reply::Error(_)) {
        2
    } else {
        0
    });
    sink.text(".reply");
    encode_result(reply, sink)?;
    sink.tuple_end(4);
    Ok(())
}

fn encode_result<S: Sink>(reply: &Reply, sink: &mut S) -> Result<(), EncodeError> {
    match reply {
        Reply::Loaded(Some(record)) => {
            sink.tuple(3);
            sink.shared(&record.data);
            sink.tid(record.tid);
            sink.some_tid(record.end);
            sink.tuple_end(3);
        }
        Reply::None
        | Reply::Loaded(None)
        | Reply::Invalidations(None)
        | Reply::Transaction(None)
        | Reply::Record(None) => sink.none(),
        Reply::Tid(tid) => sink.tid(*tid),
        Reply::Data(data) => sink.shared(data),
        Reply::Oids(oids) | Reply::Voted(oids) => sink.oids(oids),
        Reply::Conflicts(conflicts) => {
            sink.list(conflicts.len());
            for conflict in conflicts {
                encode_conflict(conflict, sink)?;
            }
            sink.list_end(conflicts.len());
        }
        Reply::Invalidations(Some((tid, oids))) => {
            sink.tuple(2);
            sink.tid(*tid);
            sink.oids(oids);
            sink.tuple_end(2);
        }
        Reply::Info(info) => encode_info(info, sink),
        Reply::History(lines) => {
            sink.list(lines.len());
            for line in lines {
                encode_history_line(line, sink)?;
            }
            sink.list_end(lines.len());
        }
        Reply::UndoLog(lines) => {
            sink.list(lines.len());
            for line in lines {
                encode_undo_line(line, sink)?;
            }
            sink.list_end(lines.len());
        }
        Reply::CurrentRecord {
            oid,
            tid,
            data,
            next,
        } => {
            sink.tuple(4);
            sink.oid(*oid);
            sink.tid(*tid);
            sink.shared(data);
            sink.some_oid(*next);
            sink.tuple_end(4);
        }
        Reply::Iterator(iterator) => sink.int(*iterator),
        Reply::Transaction(Some((tid, meta))) => {
            sink.tuple(5);
            sink.tid(*tid);
            sink.text(status_text(meta.status));
            sink.bytes(&meta.user);
            sink.bytes(&meta.description);
            sink.extended(&meta.extension, &[])?;
            sink.extended_end(&[]);
            sink.tuple_end(5);
        }
        Reply::Record(Some(record)) => {
            sink.tuple(4);
            sink.oid(record.oid);
            sink.tid(record.tid);
            match &record.data {
                Some(data) => sink.shared(data),
                None => sink.none(),
            }
            sink.some_tid(record.data_txn);
            sink.tuple_end(4);
        }
        Reply::ServerStatus(status) => encode_status(status, sink),
        Reply::Value(value) => sink.value(value),
        Reply::Error(error) => exception::encode(error, sink),
    }
    Ok(())
}

fn encode_conflict<S: Sink>(conflict: &Conflict, sink: &mut S) -> Result<(), EncodeError> {
    sink.dict(3);
    sink.text("oid");
    sink.oid(conflict.oid);
    sink.text("serials");
    sink.tuple(2);
    sink.tid(conflict.committed);
    sink.tid(conflict.read);
    sink.tuple_end(2);
    sink.text("data");
    match &conflict.data {
        // Conflicts that a client resolves have their data in memory; else it is read here.
        Some(data) => sink.shared(&data.read()?),
        None => sink.none(),
    }
    sink.dict_end(3);
    Ok(())
}

fn encode_info<S: Sink>(info: &Info, sink: &mut S) {
    sink.dict(6);
    sink.text("length");
    sink.count(info.objects);
    sink.text("size");
    sink.count(info.bytes);
    sink.text("name");
    sink.text(&info.name);
    sink.text("supportsUndo");
    sink.bool(info.supports_undo);
    sink.text("supports_record_iternext");
    sink.bool(info.supports_record_iternext);
    sink.text("interfaces");
    // Tuples, because clients look for tuples in it.
    sink.tuple(info.interfaces.len());
    for (module, name) in &info.interfaces {
        sink.tuple(2);
        sink.text(module);
        sink.text(name);
        sink.tuple_end(2);
    }
    sink.tuple_end(info.interfaces.len());
    sink.dict_end(6);
}

fn encode_history_line<S: Sink>(line: &HistoryLine, sink: &mut S) -> Result<(), EncodeError> {
    sink.extended(&line.extension, &HISTORY_NAMES)?;
    sink.text("time");
    sink.float(line.tid.seconds());
    sink.text("user_name");
    sink.bytes(&line.user);
    sink.text("description");
    sink.bytes(&line.description);
    sink.text("tid");
    sink.tid(line.tid);
    sink.text("size");
    sink.count(line.size);
    sink.extended_end(&HISTORY_NAMES);
    Ok(())
}

/// Python puts the extension's entries over the others, and does without an extension that it cannot
/// read.
fn encode_undo_line<S: Sink>(line: &UndoLine, sink: &mut S) -> Result<(), EncodeError> {
    let none = bytes::Bytes::new();
    let (extension, entries) = match extension::entries(&line.extension) {
        Ok(entries) => (&line.extension, entries),
        Err(_) => (&none, Vec::new()),
    };
    let is_ours = |name: &&str| {
        let known = *name != "size" || line.size.is_some();
        known && !entries.iter().any(|(key, _)| is_one_of(key, &[name]))
    };
    let names: Vec<&str> = UNDO_NAMES.into_iter().filter(is_ours).collect();
    sink.extended(extension, &names)?;
    for name in &names {
        sink.text(name);
        match *name {
            "id" => sink.bytes(&undo_id(line.tid)),
            "time" => sink.float(line.time),
            "user_name" => sink.bytes(&line.user),
            "size" => sink.count(line.size.unwrap_or_default()),
            _ => sink.bytes(&line.description),
        }
    }
    sink.extended_end(&names);
    Ok(())
}

/// In the order of Python's dictionary, which nobody needs; but so messages can be compared.
fn encode_status<S: Sink>(status: &ServerStatus, sink: &mut S) {
    let before = [
        ("connections", status.connections),
        ("loads", status.loads),
        ("stores", status.stores),
        ("commits", status.commits),
        ("aborts", status.aborts),
        ("active_txns", status.active_txns),
    ];
    let after = [
        ("conflicts", status.conflicts),
        ("conflicts_resolved", status.conflicts_resolved),
    ];
    sink.dict(13);
    for (name, count) in before {
        sink.text(name);
        sink.count(count);
    }
    sink.text("lock_time");
    match status.lock_time {
        Some(time) => sink.float(time),
        None => sink.none(),
    }
    for (name, count) in after {
        sink.text(name);
        sink.count(count);
    }
    sink.text("start");
    sink.text(&status.start);
    sink.text("waiting");
    sink.count(status.waiting);
    sink.text("timeout-thread-is-alive");
    sink.bool(status.timeout_thread_is_alive);
    sink.text("last-transaction");
    sink.text(&format!("{:016x}", status.last_transaction.0));
    sink.dict_end(13);
}
