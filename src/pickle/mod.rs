//! Pickles as plain values.
//!
//! What ZEO clients send, and the dictionaries that transactions carry, are pickles. They are read
//! by a small machine that builds [`Value`]s and nothing else: no code is called, globals that are
//! not expected are refused, depth and memory are bounded.

mod value;

pub use value::Value;
