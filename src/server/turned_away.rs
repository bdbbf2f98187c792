//! Who is not let in: told why, in the words of the protocol, and hung up on.
//!
//! A client that is merely hung up on comes back at once, and nobody knows why it does not get in. Python's
//! client logs what it is told and waits for some seconds. Whoever asks for the status is answered as ever, so
//! that a server can be watched which has no room.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tracing::debug;

use super::ended::Ended;
use super::limits::Passed;
use super::start::Shared;
use super::welcome::{REGISTER_FRAME, tell_status};
use crate::wire::connection::{Reader, Writer};
use crate::wire::handshake::{self, Choice};
use crate::wire::{Call, FromClient, Reply, WireError};

/// So long it may take to be told.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Tells one connection, and ends it.
pub(super) async fn run<R, W>(read: R, write: W, passed: Passed, peer: String, shared: Arc<Shared>)
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    let telling = timeout(PATIENCE, tell(read, write, &passed, &shared));
    let stop = shared.sessions.stop().clone();
    let told = tokio::select! {
        // It may be dropped: nothing else depends on it.
        told = telling => told,
        () = stop.requested() => return,
    };
    debug!(%peer, ?told, "turned away");
}

async fn tell<R, W>(read: R, write: W, passed: &Passed, shared: &Shared) -> Result<(), Ended>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut reader = Reader::new(read, REGISTER_FRAME);
    let mut writer = Writer::new(write);
    if let Choice::Status =
        handshake::accept(&mut reader, &mut writer, shared.options.offer).await?
    {
        return tell_status(&mut writer, shared).await;
    }
    while let Some(frame) = reader.next_frame().await? {
        let FromClient::Request(request) = reader.dialect().decode_from_client(frame)? else {
            continue;
        };
        if !matches!(request.call, Call::Register { .. }) {
            return Err(Ended::Unregistered(request.call.method()));
        }
        let why = WireError::Storage(format!("this server does not let you in: {passed}"));
        writer.reply(&request.id, &Reply::Error(why));
        return writer.close().await.map_err(Ended::Write);
    }
    Err(Ended::ClientLeft)
}
