//! TLS with clients: the handshake, and what it is spoken by.
//!
//! A connection without TLS does not come by here. One with TLS does its handshake in its own task,
//! within the time that a client has for it and for choosing an encoding, and is a session as any other after
//! that.
//! What certificates are read anew takes effect for who connects from then on.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::rustls::server::Acceptor;
use tokio_rustls::rustls::{Error, ServerConfig};
use tokio_rustls::server::TlsStream;
use tracing::{debug, warn};

use super::limits::Limit;
use super::listener::Admitted;
use super::start::Shared;
use super::turned_away;
use crate::tls::{Spoken, why_refused};

/// What TLS is spoken over. One type for both kinds, so that there is one session with TLS.
pub(super) enum Carrier {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Serves one connection until it ends.
pub(super) async fn serve(
    carrier: Carrier,
    tls: Arc<Spoken>,
    admitted: Admitted,
    peer: String,
    shared: Arc<Shared>,
) {
    let config = tls.config();
    let stop = shared.sessions.stop().clone();
    let limit = shared.options.handshake_timeout;
    let limit = match admitted.turned_away {
        None => limit,
        Some(_) => limit.min(turned_away::PATIENCE),
    };
    let shaken = crate::task::select! {
        // Nothing has happened yet that dropping it could lose.
        shaken = shake(carrier, config, admitted.at, limit) => shaken,
        () = stop.requested() => return,
    };
    match shaken {
        Ok(stream) => {
            let (read, write) = tokio::io::split(stream);
            admitted.serve(read, write, peer, shared).await;
        }
        Err(Some(reason)) => {
            if admitted.at.elapsed() >= limit {
                shared.refusals.count(Limit::Handshake);
            }
            tell_refused(&shared, &peer, &reason);
        }
        Err(None) => debug!(%peer, "left before the TLS handshake"),
    }
}

/// A server of ZEO speaks first, one of TLS does not.
const SILENT: &str = "it did not speak TLS; a client without `ssl` waits like this";

/// Python's client leaves without a word then.
const LEFT: &str = "it left in the middle of the handshake; does it take this server's certificate, and the name \
                    in it?";

/// Who leaves later than this has waited for something; whoever only looks whether somebody listens does not.
const WAITED: Duration = Duration::from_secs(1);

/// The handshake. Where there is none: why, unless it was nobody who wanted one.
async fn shake(
    carrier: Carrier,
    config: Arc<ServerConfig>,
    begun: Instant,
    limit: Duration,
) -> Result<TlsStream<Carrier>, Option<String>> {
    let deadline = begun + limit;
    let greeting = LazyConfigAcceptor::new(Acceptor::default(), carrier);
    let greeted = match timeout_at(deadline, greeting).await {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(error)) if refusal(&error).is_some() => return Err(refusal(&error)),
        Ok(Err(_)) if begun.elapsed() < WAITED => return Err(None),
        Ok(Err(_)) | Err(_) => return Err(Some(SILENT.to_owned())),
    };
    match timeout_at(deadline, greeted.into_stream(config)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(Some(refusal(&error).unwrap_or_else(|| LEFT.to_owned()))),
        Err(_) => Err(Some(format!(
            "it did not end the handshake in time ({})",
            Limit::Handshake
        ))),
    }
}

/// Says that there is no TLS with a client, or that there should be none. It will try again and again.
pub(super) fn tell_refused(shared: &Shared, peer: &str, reason: &str) {
    if let Some(unsaid) = shared.refused.tell(peer, reason, Instant::now()) {
        warn!(%peer, reason, unsaid, "no TLS with a client");
    } else {
        debug!(%peer, reason, "no TLS with a client");
    }
}

/// Why there is no TLS, for an operator; none where the client has left.
fn refusal(error: &io::Error) -> Option<String> {
    let found = error.get_ref()?.downcast_ref::<Error>()?;
    Some(why_refused(found))
}

impl AsyncRead for Carrier {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Carrier::Tcp(stream) => Pin::new(stream).poll_read(context, into),
            Carrier::Unix(stream) => Pin::new(stream).poll_read(context, into),
        }
    }
}

impl AsyncWrite for Carrier {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Carrier::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Carrier::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Carrier::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Carrier::Unix(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Carrier::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Carrier::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Carrier::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Carrier::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
