//! What a TCP connection of the admin protocol is carried by: the socket, or TLS on it.
//!
//! The handshake is done by whoever first reads or writes, so that accepting connections never waits for
//! a client. One that does not end it in time is closed.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};

use crate::tls::Spoken;

/// So long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A connection.
pub(super) enum Carrier {
    Plain(TcpStream),
    /// Boxed, as it is much larger and soon over.
    Shaking(Box<Shaking>),
    Secure(Box<TlsStream<TcpStream>>),
    /// There was no handshake.
    Refused,
}

/// A handshake that is under way.
pub(super) struct Shaking {
    accept: Accept<TcpStream>,
    deadline: Pin<Box<Sleep>>,
}

impl Carrier {
    pub(super) fn new(stream: TcpStream, tls: Option<&Spoken>) -> Self {
        let Some(tls) = tls else {
            return Carrier::Plain(stream);
        };
        Carrier::Shaking(Box::new(Shaking {
            accept: TlsAcceptor::from(tls.config()).accept(stream),
            deadline: Box::pin(tokio::time::sleep(HANDSHAKE)),
        }))
    }

    /// The handshake, where there is to be one.
    fn poll_shake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Carrier::Shaking(shaking) = self else {
            return Poll::Ready(Ok(()));
        };
        let shaken = match Pin::new(&mut shaking.accept).poll(cx) {
            Poll::Ready(shaken) => shaken,
            Poll::Pending => {
                ready!(shaking.deadline.as_mut().poll(cx));
                Err(io::ErrorKind::TimedOut.into())
            }
        };
        match shaken {
            Ok(stream) => {
                *self = Carrier::Secure(Box::new(stream));
                Poll::Ready(Ok(()))
            }
            Err(error) => {
                tracing::debug!(%error, "no TLS with a client of the admin protocol");
                *self = Carrier::Refused;
                Poll::Ready(Err(error))
            }
        }
    }
}

/// Does the handshake first, and then what is asked of the stream.
macro_rules! carried {
    ($self:ident, $cx:ident, $stream:ident => $call:expr) => {{
        let this = $self.get_mut();
        ready!(this.poll_shake($cx))?;
        match this {
            Carrier::Plain($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
            Carrier::Secure($stream) => {
                let $stream = Pin::new(&mut **$stream);
                $call
            }
            Carrier::Shaking(_) | Carrier::Refused => {
                Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
            }
        }
    }};
}

impl AsyncRead for Carrier {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        carried!(self, cx, stream => stream.poll_read(cx, into))
    }
}

impl AsyncWrite for Carrier {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        carried!(self, cx, stream => stream.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        carried!(self, cx, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if matches!(*self, Carrier::Shaking(_) | Carrier::Refused) {
            return Poll::Ready(Ok(()));
        }
        carried!(self, cx, stream => stream.poll_shutdown(cx))
    }
}
