//! Where the admin protocol is served: a Unix socket in the instance, and a TCP address if wanted.
//!
//! The socket appears with its mode already set: it is bound in a folder that only we can enter and
//! then renamed to its place, because between `bind` and `chmod` anybody could connect. What a killed
//! daemon left behind is replaced; a socket at which somebody answers is not.
//!
//! At each of the two so many connections are served at the same time ([`Room`]): whoever fills one does not lock
//! out the other. At the address no host fills it alone: the health may be asked for without a token. Who comes when
//! it is full is told so, and counted.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use super::secure::Carrier;
use crate::counted::counted;
use crate::tls::Spoken;

/// The mode of the socket: the owner and its group administrate.
pub const SOCKET_MODE: u32 = 0o660;

/// Connections at the same time, at each listener, unless it is said otherwise.
const CONNECTIONS: usize = 64;

/// So many are told at the same time that there is no room; beyond that they are hung up on.
const TOLD: usize = 16;

/// What is written to nobody for so long, although something is to be written, is not written any more.
const UNREAD: Duration = Duration::from_secs(30);

/// How many connections were turned away. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct TurnedAway(Arc<AtomicU64>);

impl TurnedAway {
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The connections that there may be at one listener.
#[derive(Debug)]
pub struct Room {
    most: usize,
    taken: Arc<Mutex<Taken>>,
    told: Arc<Semaphore>,
    turned_away: TurnedAway,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    by_host: HashMap<IpAddr, usize>,
}

/// What a connection is accepted for.
#[derive(Debug)]
pub(super) enum Place {
    /// To be served.
    Served(Seat),
    /// To be told that there is no room; none where it is to be hung up on.
    Full(Full, Option<OwnedSemaphorePermit>),
}

/// A place, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    taken: Arc<Mutex<Taken>>,
    host: Option<IpAddr>,
}

/// There is no room, in words for whoever came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full {
    connections: usize,
    of_one: bool,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most = counted(self.connections as u64, "connection");
        let from = if self.of_one {
            " from this address"
        } else {
            ""
        };
        write!(
            f,
            "the limit of {most}{from} is reached (limits.admin_connections)"
        )
    }
}

impl Room {
    /// For so many; those that are turned away are counted.
    #[must_use]
    pub fn new(most: usize, turned_away: &TurnedAway) -> Self {
        Room {
            most,
            taken: Arc::default(),
            told: Arc::new(Semaphore::new(TOLD)),
            turned_away: turned_away.clone(),
        }
    }

    /// A place for one more connection.
    pub(super) fn place(&self, peer: &Peer) -> Place {
        match self.seat(peer.host()) {
            Ok(seat) => Place::Served(seat),
            Err(full) => {
                self.turned_away.0.fetch_add(1, Relaxed);
                Place::Full(full, Arc::clone(&self.told).try_acquire_owned().ok())
            }
        }
    }

    fn seat(&self, host: Option<IpAddr>) -> Result<Seat, Full> {
        let mut taken = self.taken.lock();
        let full = |connections, of_one| Full {
            connections,
            of_one,
        };
        if taken.total >= self.most {
            return Err(full(self.most, false));
        }
        if let Some(host) = host {
            let of_host = taken.by_host.entry(host).or_default();
            // A quarter is for others.
            let most = self.most - self.most / 4;
            if *of_host >= most {
                return Err(full(most, true));
            }
            *of_host += 1;
        }
        taken.total += 1;
        let taken = Arc::clone(&self.taken);
        Ok(Seat { taken, host })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        taken.total -= 1;
        if let Some(host) = self.host
            && let Some(of_host) = taken.by_host.get_mut(&host)
        {
            *of_host -= 1;
            // What nobody comes from takes no room.
            if *of_host == 0 {
                taken.by_host.remove(&host);
            }
        }
    }
}

impl Default for Room {
    fn default() -> Self {
        Room::new(CONNECTIONS, &TurnedAway::default())
    }
}

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

impl Peer {
    /// The host of who comes over the network; of IPv6 its network, which has all its addresses.
    fn host(&self) -> Option<IpAddr> {
        let Peer::Network(address) = self else {
            return None;
        };
        Some(match address.ip().to_canonical() {
            IpAddr::V6(ip) if !ip.is_loopback() => {
                Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64)).into()
            }
            ip => ip,
        })
    }
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
    room: Room,
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

    /// The same, with room for other than [`CONNECTIONS`].
    #[must_use]
    pub fn with_room(self, room: Room) -> Self {
        Socket { room, ..self }
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
            room: Room::default(),
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
    room: Room,
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
            room: Room::default(),
            tls,
        })
    }

    /// The same, with room for other than [`CONNECTIONS`].
    #[must_use]
    pub fn with_room(self, room: Room) -> Self {
        Tcp { room, ..self }
    }

    /// Where it listens, for port 0.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }
}

/// Where connections of the admin protocol come from.
pub(super) trait Listens: Send + 'static {
    type Io: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// The next connection, and who is at its other end.
    ///
    /// # Errors
    /// What the system gives: of the one connection, or for lack of descriptors.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Io, Peer)>> + Send;

    fn room(&self) -> &Room;
}

impl Listens for Socket {
    type Io = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, Peer)> {
        let (stream, _) = self.listener.accept().await?;
        let peer = match stream.peer_cred() {
            Ok(cred) => Peer::Process {
                uid: cred.uid(),
                pid: cred.pid(),
            },
            Err(_) => Peer::Unknown,
        };
        Ok((stream, peer))
    }

    fn room(&self) -> &Room {
        &self.room
    }
}

impl Listens for Tcp {
    type Io = Carrier;

    async fn accept(&self) -> io::Result<(Carrier, Peer)> {
        let (stream, address) = self.listener.accept().await?;
        let carrier = Carrier::new(stream, self.tls.as_deref());
        Ok((carrier, Peer::Network(address)))
    }

    fn room(&self) -> &Room {
        &self.room
    }
}

/// A connection whose other end must read what is written to it.
#[derive(Debug)]
pub(super) struct Read<S> {
    stream: S,
    /// Runs while something cannot be written.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Read<S> {
    pub(super) fn new(stream: S) -> Self {
        let stalled = None;
        Read { stream, stalled }
    }

    /// What became of writing; an error where it has not gone on for too long.
    fn judged<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(UNREAD)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Read<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Read<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.judged(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.judged(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.judged(cx, shut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_fills_the_room_of_an_address_alone() {
        let turned_away = TurnedAway::default();
        let room = Room::new(8, &turned_away);
        let from = |host: &str| Peer::Network(format!("{host}:5000").parse().unwrap());
        let seats = |host: &str| -> Vec<Seat> {
            let seat = || match room.place(&from(host)) {
                Place::Served(seat) => Some(seat),
                Place::Full(..) => None,
            };
            std::iter::from_fn(seat).collect()
        };
        let first = seats("10.0.0.1");
        assert_eq!(first.len(), 6);
        // Hosts of one network of IPv6 are one.
        let second = seats("[2001:db8::1]");
        assert_eq!(second.len(), 2);
        assert!(matches!(room.place(&from("10.0.0.2")), Place::Full(full, _) if !full.of_one));
        drop(second);
        assert!(matches!(room.place(&from("10.0.0.1")), Place::Full(full, _) if full.of_one));
        assert_eq!(turned_away.count(), 4);
        drop(first);
        assert!(room.taken.lock().by_host.is_empty());
        assert_eq!(room.taken.lock().total, 0);
        // Over the socket all are of this machine, and may be of one user.
        let process = Peer::Process { uid: 0, pid: None };
        let all: Vec<Place> = (0..8).map(|_| room.place(&process)).collect();
        assert!(all.iter().all(|place| matches!(place, Place::Served(_))));
    }

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
