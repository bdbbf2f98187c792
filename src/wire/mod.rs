//! ZEO 5 as bytes and as typed messages, in both dialects, for both roles.
//!
//! [`connection`] moves frames and queues messages, [`handshake`] is the first exchange on it,
//! [`Dialect`] turns frames into messages and back. What a message means is not known here.

pub mod connection;
#[cfg(test)]
mod connection_tests;
mod dialect;
mod exception;
pub mod frame;
pub mod handshake;
mod items;
mod message;
mod output;
mod push;
mod reply;
mod request;
mod sink;
mod undo_id;

pub use dialect::{DecodeError, Dialect, FromClient, FromServer, MsgpackError};
pub use message::*;
pub use output::{FrameOverflow, Output};
pub use push::PUSHES;
pub use reply::{Expected, RawReply};
pub use request::METHODS;
pub use sink::EncodeError;
pub use undo_id::{parse_undo_id, undo_id};
