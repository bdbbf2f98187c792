//! Where the admin protocol is served: a Unix socket in the instance, and a TCP address if wanted.
//!
//! The socket appears with its mode already set: it is bound in a folder that only we can enter and
//! then renamed to its place, because between `bind` and `chmod` anybody could connect. What a killed
//! daemon left behind is replaced; a socket at which somebody answers is not.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::secure::Carrier;
use crate::tls::Spoken;

/// The mode of the socket: the owner and its group administrate.
pub const SOCKET_MODE: u32 = 0o660;

/// Connections at the same time, at each listener: whoever fills one does not lock out the other.
const CONNECTIONS: usize = 64;

/// Could not listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("another daemon answers at {}", .0.display())]
    InUse(PathBuf),
    #[error("{} is not a socket", .0.display())]
    NotASocket(PathBuf),
    #[error("could not listen on {at}: {source}")]
    Io { at: String, source: io::Error },
}

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A process on this machine, as the kernel says.
    Process {
        uid: u32,
        pid: Option<i32>,
    },
    Network(SocketAddr),
    Unknown,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Process {
                uid,
                pid: Some(pid),
            } => write!(f, "uid {uid} (pid {pid})"),
            Peer::Process { uid, pid: None } => write!(f, "uid {uid}"),
            Peer::Network(address) => write!(f, "{address}"),
            Peer::Unknown => f.write_str("unknown"),
        }
    }
}

/// A listening Unix socket. Dropping it removes the file, where it is still ours.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    room: Arc<Semaphore>,
    _file: SocketFile,
}

#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Socket {
    /// Listens at `path`.
    ///
    /// # Errors
    /// [`ListenError::InUse`] where somebody answers there.
    pub async fn bind(path: &Path) -> Result<Socket, ListenError> {
        make_room(path).await?;
        Self::place(path).map_err(|source| ListenError::Io {
            at: format!("unix:{}", path.display()),
            source,
        })
    }

    fn place(path: &Path) -> io::Result<Socket> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let private = tempfile::Builder::new()
            .prefix(".")
            .rand_bytes(6)
            .tempdir_in(folder)?;
        let first = private.path().join("s");
        let listener = UnixListener::bind(&first)?;
        std::fs::set_permissions(&first, std::fs::Permissions::from_mode(SOCKET_MODE))?;
        let inode = std::fs::symlink_metadata(&first)?.ino();
        std::fs::rename(&first, path)?;
        Ok(Socket {
            listener,
            room: Arc::new(Semaphore::new(CONNECTIONS)),
            _file: SocketFile {
                path: path.to_owned(),
                inode,
            },
        })
    }
}

/// Refuses where a daemon answers or something else lies there. A dead socket is left: the rename
/// replaces it.
async fn make_room(path: &Path) -> Result<(), ListenError> {
    use std::os::unix::fs::FileTypeExt as _;
    match std::fs::symlink_metadata(path) {
        Err(_) => return Ok(()),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ListenError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(ListenError::InUse(path.to_owned())),
        Err(_) => Ok(()),
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|m| m.ino() == self.inode);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "could not remove the admin socket");
        }
    }
}

/// A listening TCP address, at which TLS is spoken where that was said.
#[derive(Debug)]
pub struct Tcp {
    listener: TcpListener,
    room: Arc<Semaphore>,
    tls: Option<Arc<Spoken>>,
}

impl Tcp {
    /// Listens at `host:port`.
    ///
    /// # Errors
    /// Where that fails.
    pub async fn bind(host: &str, port: u16, tls: Option<Arc<Spoken>>) -> Result<Tcp, ListenError> {
        let listener = TcpListener::bind((host, port)).await;
        let listener = listener.map_err(|source| ListenError::Io {
            at: format!("{host}:{port}"),
            source,
        })?;
        Ok(Tcp {
            listener,
            room: Arc::new(Semaphore::new(CONNECTIONS)),
            tls,
        })
    }

    /// Where it listens, for port 0.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }
}

/// A connection that gives its place back when it ends.
#[derive(Debug)]
pub struct Conn<S> {
    stream: S,
    _place: Option<OwnedSemaphorePermit>,
}

impl Listener for Socket {
    type Io = Conn<UnixStream>;
    type Addr = ();

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let place = Arc::clone(&self.room).acquire_owned().await.ok();
        let (stream, _) = Listener::accept(&mut self.listener).await;
        let conn = Conn {
            stream,
            _place: place,
        };
        (conn, ())
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Listener for Tcp {
    type Io = Conn<Carrier>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let place = Arc::clone(&self.room).acquire_owned().await.ok();
        let (stream, address) = Listener::accept(&mut self.listener).await;
        let conn = Conn {
            stream: Carrier::new(stream, self.tls.as_deref()),
            _place: place,
        };
        (conn, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connected<IncomingStream<'_, Socket>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Socket>) -> Self {
        match stream.io().stream.peer_cred() {
            Ok(cred) => Peer::Process {
                uid: cred.uid(),
                pid: cred.pid(),
            },
            Err(_) => Peer::Unknown,
        }
    }
}

impl Connected<IncomingStream<'_, Tcp>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Tcp>) -> Self {
        Peer::Network(*stream.remote_addr())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Conn<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Conn<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_has_its_mode_and_goes_with_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("zeoraid.sock");
        let socket = Socket::bind(&path).await.unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, SOCKET_MODE);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("zeoraid.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a killed daemon leaves its socket");
        let socket = Socket::bind(&path).await.unwrap();
        let error = Socket::bind(&path).await.unwrap_err();
        assert!(matches!(error, ListenError::InUse(_)), "{error}");
        drop(socket);
        std::fs::write(&path, "precious").unwrap();
        let error = Socket::bind(&path).await.unwrap_err();
        assert!(matches!(error, ListenError::NotASocket(_)), "{error}");
    }

    #[tokio::test]
    async fn the_file_of_a_successor_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("zeoraid.sock");
        let first = Socket::bind(&path).await.unwrap();
        std::fs::remove_file(&path).unwrap();
        let _second = Socket::bind(&path).await.unwrap();
        drop(first);
        assert!(path.exists());
    }
}
