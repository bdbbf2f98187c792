//! Errors as exceptions: a class by name, and what it is made of.
//!
//! An error goes over the wire as `(class, arguments)`, where arguments are the exception's
//! `__dict__` where it has one, and else its `args`. Clients make the classes they know out of
//! certain entries and die of their absence; those are always there. Everything else becomes a
//! `ServerException` that shows class and arguments. Source: ZEO `asyncio/marshal.py`,
//! `reduce_exception`; `asyncio/client.py`, `exc_factories`; ZODB `POSException.py`.

use super::dialect::DecodeError;
use super::items::{Items, eight};
use super::message::WireError;
use super::sink::Sink;
use crate::pickle::Value;
use crate::zodb::{Answer, Conflict, Oid, Tid};

const KEY_ERROR: &str = "builtins.KeyError";
const TYPE_ERROR: &str = "builtins.TypeError";
const VALUE_ERROR: &str = "builtins.ValueError";
const NOT_IMPLEMENTED: &str = "builtins.NotImplementedError";
const POS_KEY_ERROR: &str = "ZODB.POSException.POSKeyError";
const CONFLICT: &str = "ZODB.POSException.ConflictError";
const READ_CONFLICT: &str = "ZODB.POSException.ReadConflictError";
const BTREES_CONFLICT: &str = "ZODB.POSException.BTreesConflictError";
const READ_ONLY: &str = "ZODB.POSException.ReadOnlyError";
const UNDO: &str = "ZODB.POSException.UndoError";
const MULTIPLE_UNDO: &str = "ZODB.POSException.MultipleUndoErrors";
const WRONG_TRANSACTION: &str = "ZODB.POSException.StorageTransactionError";
const STORAGE: &str = "ZODB.POSException.StorageError";
const UNSUPPORTED: &str = "ZODB.POSException.Unsupported";

/// Writes the pair of class and arguments.
pub(super) fn encode<S: Sink>(error: &WireError, sink: &mut S) {
    sink.tuple(2);
    match error {
        WireError::Answer(answer) => encode_answer(answer, sink),
        WireError::Key(key) => {
            sink.text(KEY_ERROR);
            sink.tuple(1);
            sink.value(key);
            sink.tuple_end(1);
        }
        WireError::Value(text) => with_text(sink, VALUE_ERROR, text),
        WireError::Type(text) => with_text(sink, TYPE_ERROR, text),
        WireError::NotImplemented(text) => with_text(sink, NOT_IMPLEMENTED, text),
        WireError::Storage(text) => with_text(sink, STORAGE, text),
    }
    sink.tuple_end(2);
}

fn encode_answer<S: Sink>(answer: &Answer, sink: &mut S) {
    match answer {
        Answer::NoSuchObject(oid) => {
            sink.text(POS_KEY_ERROR);
            sink.tuple(1);
            sink.oid(*oid);
            sink.tuple_end(1);
        }
        Answer::Conflict(conflict) => {
            let text = "database conflict error";
            encode_conflict(sink, CONFLICT, text, Some(conflict));
        }
        Answer::ReadConflict(conflict) => {
            let text = "database read conflict error";
            encode_conflict(sink, READ_CONFLICT, text, Some(conflict));
        }
        Answer::ReadOnly => {
            sink.text(READ_ONLY);
            sink.tuple(0);
            sink.tuple_end(0);
        }
        Answer::Undo { reason, oid } => encode_undo(sink, reason, *oid),
        Answer::MultipleUndo(errors) => encode_multiple_undo(sink, errors),
        Answer::WrongTransaction(text) => with_text(sink, WRONG_TRANSACTION, text),
        Answer::Invalid(text) => with_text(sink, VALUE_ERROR, text),
        Answer::Unsupported(what) => {
            with_text(
                sink,
                UNSUPPORTED,
                &format!("this storage does not support {what}"),
            );
        }
        Answer::Other { class, text } => match class.as_str() {
            // Clients look for entries in these. A conflict stays one, so that they try again.
            CONFLICT | BTREES_CONFLICT => encode_conflict(sink, CONFLICT, text, None),
            READ_CONFLICT => encode_conflict(sink, READ_CONFLICT, text, None),
            MULTIPLE_UNDO => encode_undo(sink, text, None),
            class => with_text(sink, class, text),
        },
    }
}

fn with_text<S: Sink>(sink: &mut S, class: &str, text: &str) {
    sink.text(class);
    sink.tuple(1);
    sink.text(text);
    sink.tuple_end(1);
}

fn encode_conflict<S: Sink>(sink: &mut S, class: &str, text: &str, conflict: Option<&Conflict>) {
    sink.text(class);
    sink.dict(4);
    let message = conflict.and_then(|conflict| conflict.message.as_deref());
    sink.text("message");
    sink.text(message.unwrap_or(text));
    sink.text("oid");
    sink.some_oid(conflict.map(|conflict| conflict.oid));
    sink.text("class_name");
    match conflict.and_then(|conflict| conflict.class_name.as_deref()) {
        Some(name) => sink.text(name),
        None => sink.none(),
    }
    sink.text("serials");
    match conflict {
        Some(conflict) => {
            sink.tuple(2);
            sink.tid(conflict.committed);
            sink.tid(conflict.read);
            sink.tuple_end(2);
        }
        None => sink.none(),
    }
    sink.dict_end(4);
}

fn encode_undo<S: Sink>(sink: &mut S, reason: &str, oid: Option<Oid>) {
    sink.text(UNDO);
    sink.dict(2);
    sink.text("_reason");
    sink.text(reason);
    sink.text("_oid");
    sink.some_oid(oid);
    sink.dict_end(2);
}

fn encode_multiple_undo<S: Sink>(sink: &mut S, errors: &[(Oid, String)]) {
    let Some((first_oid, first_reason)) = errors.first() else {
        // Python's class takes the first of them, so there must be one.
        return encode_undo(sink, "objects have changed since", None);
    };
    sink.text(MULTIPLE_UNDO);
    sink.dict(3);
    // The class passes the pair the wrong way round, and so does everyone who reads it.
    sink.text("_reason");
    sink.oid(*first_oid);
    sink.text("_oid");
    sink.undo_error(first_reason, Some(*first_oid));
    sink.text("_errs");
    sink.list(errors.len());
    for (oid, reason) in errors {
        sink.tuple(2);
        sink.oid(*oid);
        sink.undo_error(reason, Some(*oid));
        sink.tuple_end(2);
    }
    sink.list_end(errors.len());
    sink.dict_end(3);
}

/// Reads the pair of class and arguments.
pub(super) fn decode(value: Value) -> Result<WireError, DecodeError> {
    let shape = |why| DecodeError::Shape(format!("an error's {why}"));
    let mut pair = Items::of(value, "description").map_err(shape)?;
    let class = pair.text("class").map_err(shape)?;
    let arguments = pair.any("arguments").map_err(shape)?;
    Ok(known(&class, &arguments).unwrap_or_else(|| {
        WireError::Answer(Answer::Other {
            text: describe(&arguments),
            class,
        })
    }))
}

fn known(class: &str, arguments: &Value) -> Option<WireError> {
    let answer = match class {
        KEY_ERROR | "exceptions.KeyError" => {
            let key = arguments.as_items()?.first().cloned();
            return Some(WireError::Key(key.unwrap_or(Value::None)));
        }
        VALUE_ERROR | "exceptions.ValueError" => {
            return Some(WireError::Value(describe(arguments)));
        }
        TYPE_ERROR => return Some(WireError::Type(describe(arguments))),
        NOT_IMPLEMENTED => return Some(WireError::NotImplemented(describe(arguments))),
        STORAGE => return Some(WireError::Storage(describe(arguments))),
        POS_KEY_ERROR => {
            let oid = eight(arguments.as_items()?.first()?, "oid").ok()?;
            Answer::NoSuchObject(Oid::from_bytes(oid))
        }
        CONFLICT => Answer::Conflict(conflict(arguments)?),
        READ_CONFLICT => Answer::ReadConflict(conflict(arguments)?),
        READ_ONLY => Answer::ReadOnly,
        UNDO => {
            let (reason, oid) = undo(arguments)?;
            Answer::Undo { reason, oid }
        }
        MULTIPLE_UNDO => {
            let mut errors = Vec::new();
            for pair in arguments.get("_errs")?.as_items()? {
                let [oid, error] = pair.as_items()? else {
                    return None;
                };
                let oid = Oid::from_bytes(eight(oid, "oid").ok()?);
                let reason = undo(error).map_or_else(|| describe(error), |(reason, _)| reason);
                errors.push((oid, reason));
            }
            Answer::MultipleUndo(errors)
        }
        WRONG_TRANSACTION => Answer::WrongTransaction(describe(arguments)),
        _ => return None,
    };
    Some(WireError::Answer(answer))
}

fn conflict(arguments: &Value) -> Option<Conflict> {
    let oid = eight(arguments.get("oid")?, "oid").ok()?;
    let serials = arguments.get("serials").and_then(Value::as_items);
    let serial = |index: usize| {
        serials
            .and_then(|serials| eight(serials.get(index)?, "serial").ok())
            .map_or(Tid::ZERO, Tid::from_bytes)
    };
    let text = |name: &str| arguments.get(name)?.as_text().map(str::to_owned);
    Some(Conflict {
        class_name: text("class_name"),
        message: text("message"),
        ..Conflict::new(Oid::from_bytes(oid), serial(0), serial(1))
    })
}

/// Reason and oid of an undo error: its dictionary, `(class, dictionary)`, or an instance.
fn undo(error: &Value) -> Option<(String, Option<Oid>)> {
    let entries = match error {
        Value::Dict(_) => error,
        Value::Tuple(items) | Value::List(items) => items.get(1)?,
        // `_recon(class, state)`
        Value::Object { arguments, .. } => arguments.get(1)?,
        _ => return None,
    };
    let reason = entries.get("_reason")?.as_text()?.to_owned();
    let oid = eight(entries.get("_oid")?, "oid").ok().map(Oid::from_bytes);
    Some((reason, oid))
}

/// The arguments of an exception in words.
fn describe(arguments: &Value) -> String {
    match arguments {
        Value::Tuple(items) | Value::List(items) => {
            let items: Vec<String> = items.iter().map(describe_one).collect();
            items.join(", ")
        }
        Value::Dict(_) => match arguments.get("message").and_then(Value::as_text) {
            Some(message) => message.to_owned(),
            None => describe_one(arguments),
        },
        other => describe_one(other),
    }
}

fn describe_one(value: &Value) -> String {
    match value {
        Value::None => "None".to_owned(),
        Value::Bool(bool) => bool.to_string(),
        Value::Int(int) => int.to_string(),
        Value::Float(float) => float.to_string(),
        Value::Text(text) => text.clone(),
        Value::Bytes(bytes) => match <[u8; 8]>::try_from(bytes.as_ref()) {
            Ok(eight) => Oid::from_bytes(eight).to_string(),
            Err(_) => bytes.escape_ascii().to_string(),
        },
        Value::Tuple(items) | Value::List(items) | Value::Set(items) => {
            let items: Vec<String> = items.iter().map(describe_one).collect();
            format!("({})", items.join(", "))
        }
        Value::Dict(entries) => {
            let entries: Vec<String> = entries
                .iter()
                .map(|(key, value)| format!("{}: {}", describe_one(key), describe_one(value)))
                .collect();
            format!("{{{}}}", entries.join(", "))
        }
        Value::BigInt(_) => "a large integer".to_owned(),
        Value::Object { module, name, .. } => format!("a {module}.{name}"),
        Value::Global { module, name } => format!("{module}.{name}"),
    }
}
