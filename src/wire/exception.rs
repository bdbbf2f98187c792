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

/// A server's words go to clients, logs and events: so much of them is kept of one exception, in bytes, and so
/// many of those that are in one.
const LONGEST_TEXT: usize = 4000;
const MOST_ERRORS: usize = 1000;

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
            class: cut(&class),
        })
    }))
}

fn known(class: &str, arguments: &Value) -> Option<WireError> {
    let answer = match class {
        KEY_ERROR | "exceptions.KeyError" => {
            let key = arguments.as_items()?.first().cloned();
            let key = key.and_then(|key| key.small_copy(LONGEST_TEXT));
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
            for pair in arguments.get("_errs")?.as_items()?.iter().take(MOST_ERRORS) {
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
    let text = |name: &str| arguments.get(name)?.as_text().map(cut);
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
    let reason = cut(entries.get("_reason")?.as_text()?);
    let oid = eight(entries.get("_oid")?, "oid").ok().map(Oid::from_bytes);
    Some((reason, oid))
}

/// The arguments of an exception in words, as many as anybody reads.
fn describe(arguments: &Value) -> String {
    let mut words = Words::default();
    match arguments {
        Value::Tuple(items) | Value::List(items) => words.list(items),
        Value::Dict(_) => match arguments.get("message").and_then(Value::as_text) {
            Some(message) => words.put(message),
            None => words.one(arguments),
        },
        other => words.one(other),
    }
    words.0
}

/// The beginning of a text, where it is longer than anybody reads.
fn cut(text: &str) -> String {
    let mut words = Words::default();
    words.put(text);
    words.0
}

/// A text that ends where it has become too long.
#[derive(Default)]
struct Words(String);

impl Words {
    fn is_full(&self) -> bool {
        self.0.len() >= LONGEST_TEXT
    }

    fn put(&mut self, text: &str) {
        if self.is_full() {
            return;
        }
        let room = LONGEST_TEXT - self.0.len();
        if text.len() <= room {
            self.0.push_str(text);
        } else {
            self.0.push_str(&text[..text.floor_char_boundary(room)]);
            // What is full stays so.
            self.0.push_str(" …");
            while !self.is_full() {
                self.0.push('.');
            }
        }
    }

    fn list(&mut self, items: &[Value]) {
        for (at, item) in items.iter().enumerate() {
            if self.is_full() {
                return;
            }
            if at > 0 {
                self.put(", ");
            }
            self.one(item);
        }
    }

    fn one(&mut self, value: &Value) {
        match value {
            Value::None => self.put("None"),
            Value::Bool(bool) => self.put(&bool.to_string()),
            Value::Int(int) => self.put(&int.to_string()),
            Value::Float(float) => self.put(&float.to_string()),
            Value::Text(text) => self.put(text),
            Value::Bytes(bytes) => {
                if let Ok(eight) = <[u8; 8]>::try_from(bytes.as_ref()) {
                    self.put(&Oid::from_bytes(eight).to_string());
                } else {
                    let some = &bytes[..bytes.len().min(LONGEST_TEXT + 1)];
                    self.put(&some.escape_ascii().to_string());
                }
            }
            Value::Tuple(items) | Value::List(items) | Value::Set(items) => {
                self.put("(");
                self.list(items);
                self.put(")");
            }
            Value::Dict(entries) => {
                self.put("{");
                for (at, (key, value)) in entries.iter().enumerate() {
                    if self.is_full() {
                        return;
                    }
                    if at > 0 {
                        self.put(", ");
                    }
                    self.one(key);
                    self.put(": ");
                    self.one(value);
                }
                self.put("}");
            }
            Value::BigInt(_) => self.put("a large integer"),
            Value::Object { module, name, .. } => {
                self.put("a ");
                self.put(module);
                self.put(".");
                self.put(name);
            }
            Value::Global { module, name } => {
                self.put(module);
                self.put(".");
                self.put(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exception_is_as_long_as_it_is_of_use() {
        let error = |class: &str, arguments: Value| {
            let class = Value::Text(class.to_owned());
            decode(Value::Tuple(vec![class, arguments])).expect("a pair")
        };
        let text = |error: WireError| match error {
            WireError::Answer(Answer::Other { class, text }) => (class, text),
            WireError::Value(text) | WireError::Storage(text) => (String::new(), text),
            other => panic!("{other:?}"),
        };
        let short = Value::Tuple(vec![Value::Int(28), Value::Text("no space".to_owned())]);
        assert_eq!(
            text(error("builtins.OSError", short)),
            ("builtins.OSError".to_owned(), "28, no space".to_owned())
        );
        let long = |of: &str| Value::Text(of.repeat(10 << 20));
        let nested = Value::List(vec![Value::List(vec![long("é")]), long("b"), long("c")]);
        let wide = Value::List(vec![Value::Tuple(vec![Value::Int(1); 9]); 1 << 20]);
        let dict = Value::Dict(vec![(long("k"), long("v")); 10]);
        let bytes = Value::Tuple(vec![Value::Bytes(vec![0; 10 << 20].into())]);
        for arguments in [nested, wide, dict, bytes] {
            for class in [
                "builtins.OSError",
                STORAGE,
                VALUE_ERROR,
                &"x".repeat(1 << 20),
            ] {
                let (class, text) = text(error(class, arguments.clone()));
                assert!(text.len() < 5000, "{}", text.len());
                assert!(class.len() < 5000, "{}", class.len());
            }
        }
    }
}
