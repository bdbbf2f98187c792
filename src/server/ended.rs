//! Why a session has ended.

use std::time::Duration;

use super::limits::Passed;
use crate::storage::CutOff;
use crate::wire::connection::ReadError;
use crate::wire::handshake::{HandshakeError, is_old};
use crate::wire::{DecodeError, WireError};

/// Why a session has ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("the client left")]
    ClientLeft,
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error("it was asked for the status")]
    StatusAsked,
    #[error("the client did not {what} within {} s", .after.as_secs_f64())]
    TooSlow { what: &'static str, after: Duration },
    #[error(transparent)]
    Limit(#[from] Passed),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("could not write: {0}")]
    Write(std::io::Error),
    #[error(transparent)]
    Garbage(#[from] DecodeError),
    #[error("{0} was called before `register`")]
    Unregistered(&'static str),
    #[error("there is no method {0:?}")]
    UnknownMethod(String),
    #[error("`register` was called twice")]
    RegisteredTwice,
    /// Nobody would hear of it otherwise.
    #[error("a one-way call failed, {method}: {error:?}")]
    OneWay {
        method: &'static str,
        error: WireError,
    },
    #[error("the client did not keep up with the invalidations")]
    CutOff(#[from] CutOff),
    #[error("the storage does not serve: {0}")]
    NotServing(String),
    #[error("the server stops")]
    Stopping,
}

impl Ended {
    /// What somebody is who spoke first of all what nobody speaks here. Whoever says nothing only looked; for
    /// TLS there are words of its own.
    pub(super) fn stranger(&self) -> Option<&'static str> {
        let Ended::Handshake(error) = self else {
            return None;
        };
        match error {
            HandshakeError::Unknown(said) if is_old(said) => Some("an old ZEO"),
            HandshakeError::Unknown(_) | HandshakeError::Read(ReadError::TooLarge(_)) => {
                Some("unknown")
            }
            HandshakeError::Http => Some("HTTP"),
            HandshakeError::Closed
            | HandshakeError::Tls
            | HandshakeError::Read(ReadError::Io(_) | ReadError::Truncated)
            | HandshakeError::Write(_) => None,
        }
    }

    /// What kind of thing the client did, where an operator may want to know of it: once in a while, as whoever is
    /// hung up on may come back at once and do it again.
    pub(super) fn remarkable(&self) -> Option<&'static str> {
        match self {
            Ended::ClientLeft
            | Ended::StatusAsked
            | Ended::Stopping
            | Ended::Read(ReadError::Io(_))
            | Ended::Write(_)
            | Ended::Handshake(_) => None,
            Ended::Limit(passed) => Some(passed.limit.name()),
            Ended::Read(_) => Some("unreadable"),
            Ended::TooSlow { .. } => Some("too slow"),
            Ended::Garbage(_) => Some("garbage"),
            Ended::Unregistered(_) => Some("unregistered"),
            Ended::UnknownMethod(_) => Some("unknown method"),
            Ended::RegisteredTwice => Some("registered twice"),
            Ended::OneWay { method, .. } => Some(method),
            Ended::CutOff(_) => Some("cut off"),
            Ended::NotServing(_) => Some("not serving"),
        }
    }
}
