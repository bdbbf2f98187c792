//! A transaction's extension: the dictionary that ZODB keeps, pickled, with each transaction.
//!
//! It comes as a dictionary inside of a message and is kept as a pickle of its own. [`pickled`]
//! writes that pickle byte by byte as ZODB does (`zodbpickle.dumps(extension, 3)`, with the memo of
//! an ordinary pickler), so that copies of a database made by different servers are equal.
//!
//! Python memoizes objects, not values: two equal texts that came in a message are two objects, but
//! texts of one Latin-1 character and byte strings of at most one byte exist once in a process, and
//! so do classes. Those alone refer back to the memo here.

use std::collections::HashMap;

use bytes::{BufMut, Bytes, BytesMut};

use super::read::{Limits, PickleError, Problem, Strings, check, read};
use super::value::Value;
use super::write;

/// How many items Python's pickler puts at a time.
const BATCH: usize = 1000;

/// The pickle of an extension; nothing at all for an empty one.
#[must_use]
pub fn pickled(extension: &[(Value, Value)]) -> Bytes {
    if extension.is_empty() {
        return Bytes::new();
    }
    let mut pickler = Pickler::default();
    write::start(&mut pickler.out);
    pickler.dict(extension);
    write::stop(&mut pickler.out);
    pickler.out.freeze()
}

/// The entries of a pickled extension. Python 2's byte strings become text where they are UTF-8.
///
/// # Errors
/// It is no pickle of a dictionary, or of things that no [`Value`] can say.
pub fn entries(pickled: &Bytes) -> Result<Vec<(Value, Value)>, PickleError> {
    if pickled.is_empty() {
        return Ok(Vec::new());
    }
    let limits = Limits {
        strings: Strings::Text,
        ..Limits::TRUSTED
    };
    match read(pickled, limits)? {
        Value::Dict(entries) => Ok(entries),
        _ => Err(not_a_dict()),
    }
}

/// What stands in a pickled extension between its beginning and its end, to be put into another
/// pickle, where it makes the dictionary. Works even for objects that no [`Value`] can say.
///
/// The memo of the outer pickle is overwritten: it must not be used across.
///
/// # Errors
/// It is no pickle of a dictionary, or one of a protocol that ZEO's clients cannot read.
pub fn body(pickled: &Bytes) -> Result<&[u8], PickleError> {
    if pickled.is_empty() {
        return Ok(b"}");
    }
    if !check(pickled, Limits::TRUSTED)? {
        return Err(not_a_dict());
    }
    let whole = pickled.as_ref();
    let after_protocol = match whole {
        [0x80, 0..=3, rest @ ..] => rest,
        [0x80, protocol, ..] => {
            return Err(PickleError {
                offset: 0,
                problem: Problem::Protocol(*protocol),
            });
        }
        _ => whole,
    };
    // `check` has seen the STOP, and nothing after it.
    Ok(after_protocol.strip_suffix(b".").unwrap_or(after_protocol))
}

/// The pickle of an extension that a stranger gives: a dictionary, or the pickle of one, which is written
/// anew. A server that takes such a pickle as it is keeps what others may not be able to read.
///
/// # Errors
/// It is no dictionary, or one that not every server can read: see [`portable`].
pub fn of_stranger(value: &Value) -> Result<Bytes, PickleError> {
    let read_again;
    let entries = match value {
        Value::None => return Ok(Bytes::new()),
        Value::Dict(entries) => entries,
        Value::Bytes(pickled) if pickled.is_empty() => return Ok(Bytes::new()),
        Value::Bytes(pickled) => {
            let limits = Limits {
                strings: Strings::Text,
                ..Limits::STRANGER
            };
            match read(pickled, limits)? {
                Value::Dict(entries) => read_again = entries,
                _ => return Err(not_a_dict()),
            }
            &read_again
        }
        _ => return Err(not_a_dict()),
    };
    check_portable(entries)?;
    Ok(self::pickled(entries))
}

/// The entries of a pickled extension, where every ZEO server can read them in a message: plain values, and
/// sets. Servers refuse classes, those of the application and nearly all others, and what Python cannot
/// hash as a key. They hang up over it, and ZEO 6.2 keeps its commit lock when it hangs up inside of a
/// transaction. Source: ZEO `asyncio/marshal.py`, `pickle_server_decode` and `server_find_global`.
///
/// # Errors
/// It is no such pickle.
pub fn portable(pickled: &Bytes) -> Result<Vec<(Value, Value)>, PickleError> {
    let entries = entries(pickled)?;
    check_portable(&entries)?;
    Ok(entries)
}

fn check_portable(entries: &[(Value, Value)]) -> Result<(), PickleError> {
    let portable = entries.iter().try_for_each(portable_entry);
    portable.map_err(|problem| PickleError { offset: 0, problem })
}

fn portable_entry((key, value): &(Value, Value)) -> Result<(), Problem> {
    portable_key(key)?;
    portable_value(value)
}

/// A key of a dictionary, or an item of a set.
fn portable_key(value: &Value) -> Result<(), Problem> {
    match value {
        Value::Tuple(items) => items.iter().try_for_each(portable_key),
        Value::List(_) | Value::Dict(_) | Value::Set(_) => Err(Problem::Unhashable),
        value => portable_value(value),
    }
}

fn portable_value(value: &Value) -> Result<(), Problem> {
    match value {
        Value::Tuple(items) | Value::List(items) => items.iter().try_for_each(portable_value),
        Value::Dict(entries) => entries.iter().try_for_each(portable_entry),
        Value::Set(items) => items.iter().try_for_each(portable_key),
        Value::Object {
            module,
            name,
            arguments,
            state,
        } => match (module.as_str(), name.as_str(), &arguments[..], state) {
            ("builtins", "frozenset", [Value::List(items)], None) => {
                items.iter().try_for_each(portable_key)
            }
            // What the reader says of an instance that was made by its class.
            ("copyreg", "__newobj__", [Value::Global { module, name }, ..], _) => {
                Err(not_allowed(module, name))
            }
            (module, name, ..) => Err(not_allowed(module, name)),
        },
        Value::Global { module, name } => Err(not_allowed(module, name)),
        Value::None
        | Value::Bool(_)
        | Value::Int(_)
        | Value::BigInt(_)
        | Value::Float(_)
        | Value::Bytes(_)
        | Value::Text(_) => Ok(()),
    }
}

fn not_allowed(module: &str, name: &str) -> Problem {
    Problem::Global {
        module: module.to_owned(),
        name: name.to_owned(),
    }
}

fn not_a_dict() -> PickleError {
    PickleError {
        offset: 0,
        problem: Problem::Unsupported("an extension that is no dictionary"),
    }
}

/// The ordinary pickler: what it writes gets a place in the memo.
#[derive(Default)]
struct Pickler {
    out: BytesMut,
    next: u32,
    texts: HashMap<char, u32>,
    empty_text: Option<u32>,
    bytes: HashMap<Option<u8>, u32>,
    globals: HashMap<(String, String), u32>,
}

impl Pickler {
    fn value(&mut self, value: &Value) {
        match value {
            Value::Bytes(bytes) => self.bytes(bytes),
            Value::Text(text) => self.text(text),
            Value::Tuple(items) => {
                write::tuple_start(&mut self.out, items.len());
                self.values(items);
                write::tuple_end(&mut self.out, items.len());
                // The empty tuple has an opcode of its own.
                if !items.is_empty() {
                    self.put();
                }
            }
            Value::List(items) => self.list(items),
            Value::Dict(entries) => self.dict(entries),
            Value::Set(items) => {
                self.global("builtins", "set");
                self.list(items);
                write::tuple_end(&mut self.out, 1);
                self.put();
                write::reduce(&mut self.out);
                self.put();
            }
            Value::Object {
                module,
                name,
                arguments,
                state,
            } => self.object(module, name, arguments, state.as_deref()),
            Value::Global { module, name } => self.global(module, name),
            Value::None | Value::Bool(_) | Value::Int(_) | Value::BigInt(_) | Value::Float(_) => {
                write::value(&mut self.out, value);
            }
        }
    }

    fn values(&mut self, items: &[Value]) {
        for item in items {
            self.value(item);
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let single = match bytes {
            [] => Some(None),
            [byte] => Some(Some(*byte)),
            _ => None,
        };
        if let Some(index) = single.and_then(|single| self.bytes.get(&single)) {
            return self.get(*index);
        }
        write::bytes(&mut self.out, bytes);
        let index = self.put();
        if let Some(single) = single {
            self.bytes.insert(single, index);
        }
    }

    fn text(&mut self, text: &str) {
        let mut characters = text.chars();
        let single = match (characters.next(), characters.next()) {
            (Some(character), None) if u32::from(character) < 256 => Some(character),
            _ => None,
        };
        let known = match single {
            Some(character) => self.texts.get(&character).copied(),
            None if text.is_empty() => self.empty_text,
            None => None,
        };
        if let Some(index) = known {
            return self.get(index);
        }
        write::text(&mut self.out, text);
        let index = self.put();
        if let Some(character) = single {
            self.texts.insert(character, index);
        } else if text.is_empty() {
            self.empty_text = Some(index);
        }
    }

    fn list(&mut self, items: &[Value]) {
        self.out.put_u8(b']');
        self.put();
        if let [item] = items {
            self.value(item);
            self.out.put_u8(b'a');
            return;
        }
        for batch in items.chunks(BATCH) {
            self.out.put_u8(b'(');
            self.values(batch);
            self.out.put_u8(b'e');
        }
    }

    fn dict(&mut self, entries: &[(Value, Value)]) {
        self.out.put_u8(b'}');
        self.put();
        if let [(key, value)] = entries {
            self.value(key);
            self.value(value);
            self.out.put_u8(b's');
            return;
        }
        for batch in entries.chunks(BATCH) {
            self.out.put_u8(b'(');
            for (key, value) in batch {
                self.value(key);
                self.value(value);
            }
            self.out.put_u8(b'u');
        }
    }

    fn object(&mut self, module: &str, name: &str, arguments: &[Value], state: Option<&Value>) {
        let making = write::Making::of(module, name, arguments);
        self.global(making.module, making.name);
        write::tuple_start(&mut self.out, making.arguments.len());
        self.values(making.arguments);
        write::tuple_end(&mut self.out, making.arguments.len());
        if !making.arguments.is_empty() {
            self.put();
        }
        self.out.put_u8(making.opcode);
        self.put();
        if let Some(state) = state {
            self.value(state);
            write::build(&mut self.out);
        }
    }

    fn global(&mut self, module: &str, name: &str) {
        let class = (module.to_owned(), name.to_owned());
        if let Some(index) = self.globals.get(&class) {
            return self.get(*index);
        }
        write::global(&mut self.out, module, name);
        let index = self.put();
        self.globals.insert(class, index);
    }

    /// Memoizes what was written last.
    fn put(&mut self) -> u32 {
        let index = self.next;
        self.next += 1;
        if let Ok(byte) = u8::try_from(index) {
            self.out.extend_from_slice(&[b'q', byte]);
        } else {
            self.out.put_u8(b'r');
            self.out.put_u32_le(index);
        }
        index
    }

    fn get(&mut self, index: u32) {
        if let Ok(byte) = u8::try_from(index) {
            self.out.extend_from_slice(&[b'h', byte]);
        } else {
            self.out.put_u8(b'j');
            self.out.put_u32_le(index);
        }
    }
}
