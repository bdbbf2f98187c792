//! Takes typed items out of a sequence of values: the arguments of a call, a tuple of a reply.

use bytes::Bytes;

use crate::pickle::Value;
use crate::zodb::{Oid, Tid};

/// A sequence of which one takes items from the front, each with its name for messages.
pub(super) struct Items(std::vec::IntoIter<Value>);

/// What is wrong, in words that follow a method's name.
pub(super) type Result<T> = std::result::Result<T, String>;

impl Items {
    pub(super) fn new(items: Vec<Value>) -> Self {
        Items(items.into_iter())
    }

    /// The items of a tuple or a list.
    pub(super) fn of(value: Value, what: &str) -> Result<Self> {
        match value {
            Value::Tuple(items) | Value::List(items) => Ok(Items::new(items)),
            _ => Err(format!("{what} is not a sequence")),
        }
    }

    /// Nothing may be left.
    pub(super) fn end(&self) -> Result<()> {
        match self.0.len() {
            0 => Ok(()),
            left => Err(format!("there are {left} arguments too many")),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.len() == 0
    }

    pub(super) fn any(&mut self, what: &str) -> Result<Value> {
        self.0.next().ok_or_else(|| format!("{what} is missing"))
    }

    pub(super) fn oid(&mut self, what: &str) -> Result<Oid> {
        eight(&self.any(what)?, what).map(Oid::from_bytes)
    }

    pub(super) fn tid(&mut self, what: &str) -> Result<Tid> {
        eight(&self.any(what)?, what).map(Tid::from_bytes)
    }

    /// None where there is no such item, or it is `None`.
    pub(super) fn some_oid(&mut self, what: &str) -> Result<Option<Oid>> {
        match self.0.next() {
            None | Some(Value::None) => Ok(None),
            Some(value) => Ok(Some(Oid::from_bytes(eight(&value, what)?))),
        }
    }

    /// None where there is no such item, or it is `None`.
    pub(super) fn some_tid(&mut self, what: &str) -> Result<Option<Tid>> {
        match self.0.next() {
            None | Some(Value::None) => Ok(None),
            Some(value) => Ok(Some(Tid::from_bytes(eight(&value, what)?))),
        }
    }

    pub(super) fn bytes(&mut self, what: &str) -> Result<Bytes> {
        match self.any(what)? {
            Value::Bytes(bytes) => Ok(bytes),
            _ => Err(format!("{what} is not bytes")),
        }
    }

    pub(super) fn some_bytes(&mut self, what: &str) -> Result<Option<Bytes>> {
        match self.any(what)? {
            Value::None => Ok(None),
            Value::Bytes(bytes) => Ok(Some(bytes)),
            _ => Err(format!("{what} is neither bytes nor None")),
        }
    }

    /// Bytes, or a text's UTF-8.
    pub(super) fn octets(&mut self, what: &str) -> Result<Bytes> {
        match self.any(what)? {
            Value::Bytes(bytes) => Ok(bytes),
            Value::Text(text) => Ok(text.into()),
            Value::None => Ok(Bytes::new()),
            _ => Err(format!("{what} is neither bytes nor text")),
        }
    }

    pub(super) fn text(&mut self, what: &str) -> Result<String> {
        match self.any(what)? {
            Value::Text(text) => Ok(text),
            Value::Bytes(bytes) => {
                String::from_utf8(bytes.into()).map_err(|_| format!("{what} is not UTF-8"))
            }
            _ => Err(format!("{what} is not text")),
        }
    }

    pub(super) fn int(&mut self, what: &str) -> Result<i64> {
        self.any(what)?
            .as_int()
            .ok_or_else(|| format!("{what} is not an integer"))
    }

    /// An integer, or `default` where there is no such item.
    pub(super) fn int_or(&mut self, default: i64, what: &str) -> Result<i64> {
        if self.is_empty() {
            return Ok(default);
        }
        self.int(what)
    }

    /// A truth value: a boolean, or the integers 0 and 1 that some clients send instead.
    pub(super) fn bool(&mut self, what: &str) -> Result<bool> {
        match self.any(what)? {
            Value::Bool(bool) => Ok(bool),
            Value::Int(int @ 0..=1) => Ok(int == 1),
            Value::None => Ok(false),
            _ => Err(format!("{what} is not a truth value")),
        }
    }
}

/// The eight bytes of an oid or a TID.
pub(super) fn eight(value: &Value, what: &str) -> Result<[u8; 8]> {
    match value {
        Value::Bytes(bytes) => bytes
            .as_ref()
            .try_into()
            .map_err(|_| format!("{what} has {} bytes, not 8", bytes.len())),
        _ => Err(format!("{what} is not bytes")),
    }
}

/// A list of oids; none is an empty one.
pub(super) fn oids(value: Value, what: &str) -> Result<Vec<Oid>> {
    match value {
        Value::None => Ok(Vec::new()),
        Value::Tuple(items) | Value::List(items) | Value::Set(items) => items
            .iter()
            .map(|item| eight(item, what).map(Oid::from_bytes))
            .collect(),
        _ => Err(format!("{what} is not a sequence")),
    }
}
