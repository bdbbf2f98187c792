//! Reads pickles: bytes in, a plain value out, within limits.
//!
//! All opcodes of protocols 0 to 5 are understood except those that leave the pickle (persistent
//! ids, extension codes, out-of-band buffers), which are refused. Nothing is called: the few
//! globals that stand for plain values (`bytes`, `set`, `_codecs.encode` …) are understood, others
//! are refused or kept by name ([`Globals`]). Source: Python's `pickletools`, `opcodes`.
//!
//! Bounds: every pushed value counts ([`Limits::values`]), and so does every value of the resulting
//! tree, where the memo multiplies; depth is limited when the tree is made. The machine itself is
//! [`super::machine`], what it builds [`super::arena`].

use bytes::Bytes;

use super::machine::Machine;
use super::value::Value;

/// What a pickle may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How deep containers may be nested.
    pub depth: usize,
    /// How many values may be made, on the way or in the result.
    pub values: usize,
    pub globals: Globals,
    pub strings: Strings,
}

impl Limits {
    /// For what strangers send.
    pub const STRANGER: Limits = Limits {
        depth: 100,
        values: 200_000,
        globals: Globals::Known,
        strings: Strings::Bytes,
    };
    /// For what a server says, and for extensions of stored transactions: whoever wrote them was
    /// trusted with the database.
    pub const TRUSTED: Limits = Limits {
        depth: 100,
        values: 8_000_000,
        globals: Globals::Any,
        strings: Strings::Bytes,
    };
}

/// Which globals are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Globals {
    /// Those that stand for plain values, and `ZopeUndo.Prefix`.
    Known,
    /// Any, by name.
    Any,
}

/// What the byte strings of Python 2 become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strings {
    Bytes,
    /// Text where they are UTF-8. (Python 3 takes ASCII for text and fails at the rest.)
    Text,
}

/// Why a pickle was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}, at byte {offset} of a pickle")]
pub struct PickleError {
    /// Where the opcode begins.
    pub offset: usize,
    pub problem: Problem,
}

/// What is wrong with a pickle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("the pickle ends too early")]
    Truncated,
    #[error("{0} bytes follow the end")]
    Trailing(usize),
    #[error("opcode {0:#04x} is unknown")]
    UnknownOpcode(u8),
    #[error("protocol {0} is not supported")]
    Protocol(u8),
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    #[error("the global `{module}.{name}` is not allowed")]
    Global { module: String, name: String },
    #[error("a key of a dictionary, or an item of a set, cannot be hashed")]
    Unhashable,
    #[error("the stack holds too little, or something else than is needed")]
    Stack,
    #[error("the memo has no entry {0}")]
    Memo(u32),
    #[error("not a number")]
    NotNumber,
    #[error("not a text")]
    NotText,
    #[error("too deeply nested")]
    TooDeep,
    #[error("too many values")]
    TooMany,
    #[error("larger than 4 GiB")]
    TooLarge,
}

/// Reads a pickle. Byte strings share its memory.
pub fn read(pickle: &Bytes, limits: Limits) -> Result<Value, PickleError> {
    let mut machine = Machine::new(pickle, limits);
    let result = machine.run()?;
    machine.freeze(result)
}

/// Reads a pickle and forgets what it is: whether it can stand in the middle of another one. True
/// where it is a dictionary.
pub fn check(pickle: &Bytes, limits: Limits) -> Result<bool, PickleError> {
    let mut machine = Machine::new(pickle, limits);
    let result = machine.run()?;
    Ok(machine.is_dict(result))
}
