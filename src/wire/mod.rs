//! ZEO 5 as bytes and as typed messages, in both dialects, for both roles.

mod message;

pub use message::*;
