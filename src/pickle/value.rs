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
    /// A set or a frozenset.
    Set(Vec<Value>),
    /// An instance of one of the few allowed classes: module, name, arguments and state, unevaluated.
    Object {
        module: String,
        name: String,
        arguments: Vec<Value>,
        state: Option<Box<Value>>,
    },
}
