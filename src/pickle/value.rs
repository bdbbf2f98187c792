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
    /// A copy that shares no memory with the message that it came in; none where it would take more than
    /// about `most` bytes. Whatever is kept of a stranger's message is copied so.
    #[must_use]
    pub fn small_copy(&self, most: usize) -> Option<Value> {
        let mut left = most;
        self.copy_within(&mut left)
    }

    fn copy_within(&self, left: &mut usize) -> Option<Value> {
        let octets = match self {
            Value::Bytes(bytes) | Value::BigInt(bytes) => bytes.len(),
            Value::Text(text) => text.len(),
            Value::Object { module, name, .. } | Value::Global { module, name } => {
                module.len() + name.len()
            }
            _ => 0,
        };
        *left = left.checked_sub(size_of::<Value>() + octets)?;
        let mut all = |items: &[Value]| -> Option<Vec<Value>> {
            items.iter().map(|item| item.copy_within(left)).collect()
        };
        Some(match self {
            Value::Bytes(bytes) => Value::Bytes(Bytes::copy_from_slice(bytes)),
            Value::BigInt(bytes) => Value::BigInt(Bytes::copy_from_slice(bytes)),
            Value::Tuple(items) => Value::Tuple(all(items)?),
            Value::List(items) => Value::List(all(items)?),
            Value::Set(items) => Value::Set(all(items)?),
            Value::Dict(entries) => {
                let copied = entries
                    .iter()
                    .map(|(key, value)| Some((key.copy_within(left)?, value.copy_within(left)?)));
                Value::Dict(copied.collect::<Option<_>>()?)
            }
            Value::Object {
                module,
                name,
                arguments,
                state,
            } => Value::Object {
                module: module.clone(),
                name: name.clone(),
                arguments: all(arguments)?,
                state: match state {
                    Some(state) => Some(Box::new(state.copy_within(left)?)),
                    None => None,
                },
            },
            plain => plain.clone(),
        })
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_copy_is_the_same_in_memory_of_its_own_and_a_large_one_is_none() {
        let frame = Bytes::from(vec![7; 1 << 20]);
        let part = Value::Bytes(frame.slice(10..20));
        let value = Value::Tuple(vec![
            part.clone(),
            Value::Dict(vec![(
                Value::Text("key".to_owned()),
                Value::List(vec![part]),
            )]),
            Value::Object {
                module: "m".to_owned(),
                name: "n".to_owned(),
                arguments: vec![Value::Int(1)],
                state: Some(Box::new(Value::BigInt(frame.slice(..12)))),
            },
        ]);
        let copy = value.small_copy(4096).expect("it is small");
        assert_eq!(copy, value);
        drop(value);
        assert!(frame.is_unique(), "nothing of the message is kept");
        assert_eq!(copy.small_copy(300), None);
        let long = Value::Text("x".repeat(5000));
        assert_eq!(long.small_copy(4096), None);
        let many = Value::List(vec![Value::None; 1000]);
        assert_eq!(many.small_copy(4096), None);
    }
}
