//! The two encodings of ZEO 5, and what is said in either.

use bytes::Bytes;

use super::message::{Call, MessageId, Push, Reply, Request, WireError};
use super::output::Output;
use crate::pickle::Value;

/// An encoding of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// `Z`: pickles.
    Pickle,
    /// `M`: msgpack.
    Msgpack,
}

/// A message from a client.
#[derive(Debug, Clone, PartialEq)]
pub enum FromClient {
    Request(Request),
    /// Nothing to do.
    Heartbeat,
}

/// A message from a server.
#[derive(Debug, Clone, PartialEq)]
pub enum FromServer {
    Reply(RawReply),
    Push(Push),
    /// Nothing to do.
    Heartbeat,
}

/// A reply whose shape is known only to who made the call.
#[derive(Debug, Clone, PartialEq)]
pub struct RawReply {
    pub id: MessageId,
    pub outcome: Result<Value, WireError>,
}

impl RawReply {
    /// The reply, as the call that was made expects it. An error becomes [`Reply::Error`].
    ///
    /// # Errors
    /// It has another shape.
    pub fn expect(self, _expected: Expected) -> Result<Reply, DecodeError> {
        todo!("in the next commit")
    }
}

/// The shape of the reply to a call; small, to be kept while the call is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    None,
    Tid,
    Data,
    Loaded,
    Oids,
    Vote,
    Invalidations,
    Info,
    History,
    CurrentRecord,
    Iterator,
    Transaction,
    Record,
    ServerStatus,
    Value,
}

impl Expected {
    #[must_use]
    pub fn of(_call: &Call) -> Self {
        todo!("in the next commit")
    }
}

/// Why a frame is no message. The connection is of no further use.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("not a message: {0}")]
pub struct DecodeError(pub String);

impl Dialect {
    /// What a server announces and a client answers.
    #[must_use]
    pub const fn version(self) -> &'static [u8] {
        match self {
            Dialect::Pickle => b"Z5",
            Dialect::Msgpack => b"M5",
        }
    }

    /// Server's role.
    pub fn decode_from_client(self, _frame: Bytes) -> Result<FromClient, DecodeError> {
        todo!("in the next commit")
    }

    /// Client's role.
    pub fn decode_from_server(self, _frame: Bytes) -> Result<FromServer, DecodeError> {
        todo!("in the next commit")
    }

    /// Server's role. Appends one frame.
    pub fn encode_reply(self, _id: &MessageId, _reply: &Reply, _output: &mut Output) {
        todo!("in the next commit")
    }

    /// Server's role. Appends one frame.
    pub fn encode_push(self, _push: &Push, _output: &mut Output) {
        todo!("in the next commit")
    }

    /// Client's role. Appends one frame.
    pub fn encode_request(self, _request: &Request, _output: &mut Output) {
        todo!("in the next commit")
    }

    /// Either role. Appends one frame.
    pub fn encode_heartbeat(self, _output: &mut Output) {
        todo!("in the next commit")
    }
}
