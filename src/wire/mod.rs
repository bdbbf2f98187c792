//! ZEO 5 as bytes and as typed messages, in both dialects, for both roles.
//!
//! [`connection`] moves frames and queues messages, [`handshake`] is the first exchange on it,
//! [`Dialect`] turns frames into messages and back. What a message means is not known here.

pub mod connection;
mod dialect;
pub mod frame;
pub mod handshake;
mod message;
mod output;

pub use dialect::{DecodeError, Dialect, Expected, FromClient, FromServer, RawReply};
pub use message::*;
pub use output::{FrameOverflow, Output};
