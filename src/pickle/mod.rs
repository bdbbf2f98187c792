//! Pickles as plain values.
//!
//! What ZEO clients send, and the dictionaries that transactions carry, are pickles. They are read
//! by a small machine that builds [`Value`]s and nothing else: no code is called, globals that are
//! not expected are refused, depth and memory are bounded.
//!
//! Two writers: [`write`] is Python's "fast" pickler of protocol 3, without a memo, for messages;
//! [`extension`] is the ordinary pickler, byte by byte as ZODB's own, for what is kept on disk.

mod arena;
pub mod extension;
mod input;
mod instance;
mod literal;
mod machine;
mod read;
#[cfg(test)]
pub(crate) mod recorded;
#[cfg(test)]
mod tests;
mod value;
pub mod write;

pub use read::{Globals, Limits, PickleError, Problem, Strings, check, read};
pub use value::Value;
