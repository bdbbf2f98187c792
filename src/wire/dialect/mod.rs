//! The two encodings of ZEO 5, and what is said in either.
//!
//! Here a frame becomes a message and a message a frame. What messages look like is written once, in
//! `request`, `reply`, `push` and `exception`, over a [`Sink`] for writing and plain `Value`s for
//! reading; a dialect is an implementation of both. The messages that matter for speed are read by
//! shortcuts.

use bytes::Bytes;

mod fast;
mod m;
mod z;

#[cfg(test)]
mod recorded_tests;
#[cfg(test)]
mod tests;

pub use m::MsgpackError;

use super::message::{MessageId, Push, Reply, Request, WireError};
use super::output::Output;
use super::reply::RawReply;
use super::request::Envelope;
use super::sink::{EncodeError, Sink};
use super::{exception, push, reply, request};
use crate::pickle::PickleError;

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
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are requests, and boxing them would cost an allocation each"
)]
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

/// Why a frame is no message. The connection is of no further use.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DecodeError {
    #[error("not a message: {0}")]
    Pickle(#[from] PickleError),
    #[error("not a message: {0}")]
    Msgpack(#[from] MsgpackError),
    #[error("not a message of ZEO: {0}")]
    Shape(String),
}

impl Dialect {
    /// What a server announces and a client answers.
    #[must_use]
    pub const fn version(self) -> &'static [u8] {
        match self {
            Dialect::Pickle => b"Z5",
            Dialect::Msgpack => b"M5",
        }
    }

    /// Server's role. Data shares the frame's memory.
    pub fn decode_from_client(self, frame: Bytes) -> Result<FromClient, DecodeError> {
        let usual = match self {
            Dialect::Pickle => z::usual_request(&frame),
            Dialect::Msgpack => m::usual_request(&frame),
        };
        if let Some(request) = usual {
            return Ok(FromClient::Request(request));
        }
        request::decode(match self {
            Dialect::Pickle => z::from_client(&frame)?,
            Dialect::Msgpack => m::from_client(&frame)?,
        })
    }

    /// What [`decode_from_client`](Self::decode_from_client) would say without its shortcuts.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn decode_from_client_slowly(
        self,
        frame: &Bytes,
    ) -> Result<FromClient, DecodeError> {
        request::decode(match self {
            Dialect::Pickle => z::from_client(frame)?,
            Dialect::Msgpack => m::from_client(frame)?,
        })
    }

    /// Client's role. Data shares the frame's memory.
    pub fn decode_from_server(self, frame: Bytes) -> Result<FromServer, DecodeError> {
        let usual = match self {
            Dialect::Pickle => z::usual_reply(&frame),
            Dialect::Msgpack => m::usual_reply(&frame),
        };
        if let Some(reply) = usual {
            return Ok(FromServer::Reply(reply));
        }
        let envelope = Envelope::open(match self {
            Dialect::Pickle => z::from_server(&frame)?,
            Dialect::Msgpack => m::from_server(&frame)?,
        })?;
        if envelope.id == MessageId::Int(-1) {
            return Ok(FromServer::Heartbeat);
        }
        if envelope.name != ".reply" {
            return push::decode(&envelope.name, envelope.content).map(FromServer::Push);
        }
        Ok(FromServer::Reply(RawReply {
            id: envelope.id,
            outcome: match envelope.flag {
                0 => Ok(envelope.content),
                _ => Err(exception::decode(envelope.content)?),
            },
        }))
    }

    /// Server's role. Appends one frame, always: a reply that cannot be said (an extension that is
    /// damaged on disk, more than 4 GiB) becomes an error reply that says so.
    pub fn encode_reply(self, id: &MessageId, reply: &Reply, output: &mut Output) {
        if let Err(error) = self.write(&TheReply { id, reply }, output) {
            let error = Reply::Error(WireError::Storage(error.to_string()));
            let written = self.write(&TheReply { id, reply: &error }, output);
            debug_assert!(written.is_ok(), "a text can be said");
        }
    }

    /// Server's role. Appends one frame.
    pub fn encode_push(self, push: &Push, output: &mut Output) {
        let written = self.write(&ThePush(push), output);
        debug_assert!(written.is_ok(), "a push holds no extension and is small");
    }

    /// Client's role. Appends one frame, or nothing where it fails.
    pub fn encode_request(self, request: &Request, output: &mut Output) -> Result<(), EncodeError> {
        self.write(&TheRequest(request), output)
    }

    /// Either role. Appends one frame.
    pub fn encode_heartbeat(self, output: &mut Output) {
        let written = self.write(
            &TheReply {
                id: &MessageId::Int(-1),
                reply: &Reply::None,
            },
            output,
        );
        debug_assert!(written.is_ok(), "a heartbeat is small");
    }

    fn write<M: Message>(self, message: &M, output: &mut Output) -> Result<(), EncodeError> {
        let start = output.begin();
        let said = match self {
            Dialect::Pickle => {
                let mut sink = z::Pickle::start(output);
                message.say(&mut sink).map(|()| sink.stop())
            }
            Dialect::Msgpack => message.say(&mut m::Msgpack::start(output)),
        };
        match said {
            Ok(()) => Ok(output.end(start)?),
            Err(error) => {
                output.take_back(start);
                Err(error)
            }
        }
    }
}

/// Something that can be said in any dialect.
trait Message {
    fn say<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError>;
}

struct TheReply<'a> {
    id: &'a MessageId,
    reply: &'a Reply,
}

impl Message for TheReply<'_> {
    fn say<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        reply::encode(self.id, self.reply, sink)
    }
}

struct ThePush<'a>(&'a Push);

impl Message for ThePush<'_> {
    fn say<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        push::encode(self.0, sink);
        Ok(())
    }
}

struct TheRequest<'a>(&'a Request);

impl Message for TheRequest<'_> {
    fn say<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        request::encode(self.0, sink)
    }
}
