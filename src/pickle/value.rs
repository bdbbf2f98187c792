//! What a pickle or a msgpack message can be here.

use bytes::Bytes;

/// A plain Python value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// An integer beyond 64 bits: two's complement, little-endian, as pickle's `LONG1` has it.
    BigInt(Bytes),
    Float(f64),
    Bytes(Bytes),
    Text(String),
    Tuple(Vec<Value>),
    List(Vec<Value>),
    /// In the order of the source; keys need not be unique.
    Dict(Vec<(Value, Value)>),
    /// A set. (A frozenset is an [`Value::Object`], so that it stays one when it is written.)
    Set(Vec<Value>),
    /// An instance, unevaluated: module and name of what makes it, its arguments, and its state.
    Object {
        module: String,
        name: String,
        arguments: Vec<Value>,
        state: Option<Box<Value>>,
    },
    /// A class or function by name, uncalled.
    Global {
        module: String,
        name: String,
    },
}

impl Value {
    /// The integer, where it is one; `True` and `False` count as in Python.
    #[must_use]
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Value::Int(int) => Some(*int),
            Value::Bool(bool) => Some(i64::from(*bool)),
            _ => None,
        }
    }

    /// The bytes of a byte string or, in UTF-8, of a text.
    #[must_use]
    pub fn as_octets(&self) -> Option<&[u8]> {
        match self {
            Value::Bytes(bytes) => Some(bytes),
            Value::Text(text) => Some(text.as_bytes()),
            _ => None,
        }
    }

    /// The text of a text or, where it is UTF-8, of a byte string (Python 2 does not tell them
    /// apart).
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            Value::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The items of a tuple or a list.
    #[must_use]
    pub fn as_items(&self) -> Option<&[Value]> {
        match self {
            Value::Tuple(items) | Value::List(items) => Some(items),
            _ => None,
        }
    }

    /// What a dictionary has under a name; the last, where there are several.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        let Value::Dict(entries) = self else {
            return None;
        };
        let entry = entries
            .iter()
            .rfind(|(key, _)| key.as_octets() == Some(name.as_bytes()))?;
        Some(&entry.1)
    }
}
