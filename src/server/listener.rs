//! Listening: TCP and Unix sockets, and taking connections from them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::Mode;
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixSocket, UnixStream};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::admission::{Place, Source};
use super::limits::Passed;
use super::options::ListenAddress;
use super::start::Shared;
use super::tls::{self, Carrier};
use super::{session, turned_away};
use crate::task::{Backoff, Tasks};
use crate::tls::{Spoken, TlsError};

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1024;

/// A peer that is gone without a word is noticed after about this long. Python's clients say
/// something every minute.
const KEEPALIVE: Duration = Duration::from_mins(1);

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("could not find the host of {address}: {source}")]
    Host { address: String, source: io::Error },
    #[error("{address} is in use by another process")]
    InUse { address: String },
    #[error("{path} exists and is no socket; it is left alone", path = .path.display())]
    NoSocket { path: PathBuf },
    #[error("could not listen on {address}: {source}")]
    Io { address: String, source: io::Error },
    #[error("no TLS on {address}: {source}")]
    Tls { address: String, source: TlsError },
}

impl ListenError {
    fn io(address: &impl ToString, source: io::Error) -> Self {
        let address = address.to_string();
        if source.kind() == io::ErrorKind::AddrInUse {
            return ListenError::InUse { address };
        }
        ListenError::Io { address, source }
    }
}

/// An address that is listened on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listening {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl std::fmt::Display for Listening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Listening::Tcp(address) => address.fmt(f),
            Listening::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A bound socket that nobody is served from yet.
pub(super) struct Bound {
    listening: Listening,
    listener: Listener,
}

enum Listener {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        /// Removed when it is dropped.
        _file: SocketFile,
    },
    #[cfg(test)]
    Simulated(tokio::sync::Mutex<crate::simulation::Door>),
}

/// Binds an address: a host name may have several.
pub(super) async fn bind(address: &ListenAddress) -> Result<Vec<Bound>, ListenError> {
    #[cfg(test)]
    if crate::simulation::is_on() {
        return Ok(vec![bind_simulated(address)]);
    }
    match address {
        ListenAddress::Tcp { host, port } => bind_tcp(address, host, *port).await,
        ListenAddress::Unix { path, mode } => Ok(vec![bind_unix(address, path, *mode).await?]),
    }
}

#[cfg(test)]
fn bind_simulated(address: &ListenAddress) -> Bound {
    let door = crate::simulation::listen(&address.to_string());
    Bound {
        listening: Listening::Unix(address.to_string().into()),
        listener: Listener::Simulated(tokio::sync::Mutex::new(door)),
    }
}

async fn bind_tcp(shown: &ListenAddress, host: &str, port: u16) -> Result<Vec<Bound>, ListenError> {
    let mut bound: Vec<Bound> = Vec::new();
    // Where any port will do, all addresses of the host get the one that the first was given.
    let mut port = port;
    for ip in addresses(shown, host).await? {
        let address = SocketAddr::new(ip, port);
        let listener = match listen(address) {
            Ok(listener) => listener,
            // A machine without IPv6 still serves all its addresses.
            Err(error)
                if host.is_empty()
                    && ip.is_ipv6()
                    && error.kind() != io::ErrorKind::AddrInUse
                    && !bound.is_empty() =>
            {
                debug!(%address, %error, "no IPv6 here");
                continue;
            }
            Err(error) => return Err(ListenError::io(&address, error)),
        };
        let real = listener.local_addr();
        let real = real.map_err(|error| ListenError::io(&address, error))?;
        port = real.port();
        bound.push(Bound {
            listening: Listening::Tcp(real),
            listener: Listener::Tcp(listener),
        });
    }
    Ok(bound)
}

/// The addresses of a host, each once. No host means all addresses of this machine.
async fn addresses(shown: &ListenAddress, host: &str) -> Result<Vec<IpAddr>, ListenError> {
    if host.is_empty() {
        return Ok(vec![
            Ipv4Addr::UNSPECIFIED.into(),
            Ipv6Addr::UNSPECIFIED.into(),
        ]);
    }
    let found = tokio::net::lookup_host((host, 0)).await;
    let found = found.map_err(|source| ListenError::Host {
        address: shown.to_string(),
        source,
    })?;
    let mut addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    addresses.sort();
    addresses.dedup();
    Ok(addresses)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv6() {
        let socket = TcpSocket::new_v6()?;
        // IPv4 has a socket of its own.
        sockopt::set_ipv6_v6only(&socket, true)?;
        socket
    } else {
        TcpSocket::new_v4()?
    };
    // Connections of an earlier run that are still closing do not keep the port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn bind_unix(
    shown: &ListenAddress,
    path: &Path,
    mode: Option<u32>,
) -> Result<Bound, ListenError> {
    let failed = |error| ListenError::io(shown, error);
    if let Ok(found) = std::fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            let path = path.to_owned();
            return Err(ListenError::NoSocket { path });
        }
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                info!(path = %path.display(), "a socket that nobody listens on is replaced");
                std::fs::remove_file(path).map_err(failed)?;
            }
            // Somebody listens, or may do so: a queue that is full, a socket that is not ours.
            Ok(_) | Err(_) => {
                let address = shown.to_string();
                return Err(ListenError::InUse { address });
            }
        }
    }
    let listener = bind_socket(path, mode).map_err(failed)?;
    let file = SocketFile::of(path.to_owned()).map_err(failed)?;
    Ok(Bound {
        listening: Listening::Unix(path.to_owned()),
        listener: Listener::Unix {
            listener,
            _file: file,
        },
    })
}

fn bind_socket(path: &Path, mode: Option<u32>) -> io::Result<UnixListener> {
    let socket = UnixSocket::new_stream()?;
    if let Some(mode) = mode {
        // On Linux the file gets no more than this from the first moment on; between `bind` and `chmod`
        // anybody could connect. Where a system does not know it, `chmod` is what there is.
        if let Err(error) = rustix::fs::fchmod(&socket, Mode::from_raw_mode(mode)) {
            debug!(path = %path.display(), %error, "the mode is set after binding");
        }
    }
    socket.bind(path)?;
    if let Some(mode) = mode {
        // What the process's umask has taken away.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    socket.listen(BACKLOG)
}

/// The file of a Unix socket, removed with it, unless another has taken its place.
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: PathBuf) -> io::Result<Self> {
        let identity = identity(&path)?;
        Ok(SocketFile { path, identity })
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            warn!(path = %self.path.display(), %error, "could not remove the socket");
        }
    }
}

impl Bound {
    /// Takes connections until the listeners are stopped, in a task of its own.
    pub(super) fn serve(
        self,
        tls: Option<Arc<Spoken>>,
        listeners: &Tasks,
        shared: &Arc<Shared>,
    ) -> Listening {
        let Bound {
            listening,
            listener,
        } = self;
        let shared = Arc::clone(shared);
        let stop = listeners.stop().clone();
        info!(address = %listening, tls = tls.is_some(), "listening");
        let name = listening.to_string();
        let address = listening.clone();
        listeners.spawn(name, async move {
            crate::task::select! {
                // A connection that is dropped while it is accepted was not served yet.
                () = accept_all(&listener, &address, tls.as_ref(), &shared) => {}
                () = stop.requested() => {}
            }
        });
        listening
    }
}

/// Takes connections. Where the system has none to give, for lack of descriptors mostly, it waits:
/// others may end meanwhile.
async fn accept_all(
    listener: &Listener,
    listening: &Listening,
    tls: Option<&Arc<Spoken>>,
    shared: &Arc<Shared>,
) {
    let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(2));
    loop {
        match accept(listener, listening, tls, shared).await {
            Ok(()) => backoff.reset(),
            Err(error) if is_of_the_connection(&error) => debug!(%error, "not accepted"),
            Err(error) => {
                let delay = backoff.delay();
                warn!(address = %listening, %error, wait_ms = delay.as_millis(), "could not accept");
                tokio::time::sleep(delay).await;
            }
        }
    }
}

/// Whether only the one connection has failed that was about to be accepted.
fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

async fn accept(
    listener: &Listener,
    listening: &Listening,
    tls: Option<&Arc<Spoken>>,
    shared: &Arc<Shared>,
) -> io::Result<()> {
    match listener {
        Listener::Tcp(listener) => {
            let (stream, peer) = listener.accept().await?;
            let source = Source::of(peer.ip());
            let peer = peer.to_string();
            let Some(admitted) = admit(shared, source, &peer) else {
                return Ok(());
            };
            if let Err(error) = prepare(&stream) {
                debug!(%peer, %error, "could not set socket options");
            }
            if let Some(tls) = tls {
                secured(Carrier::Tcp(stream), tls, admitted, peer, shared);
                return Ok(());
            }
            let (read, write) = stream.into_split();
            plain(read, write, admitted, peer, shared);
        }
        Listener::Unix { listener, .. } => {
            let (stream, _) = listener.accept().await?;
            let cred = stream.peer_cred().ok();
            let source = cred.map_or(Source::Unknown, |cred| Source::User(cred.uid()));
            let process = cred.and_then(|cred| cred.pid());
            let peer = match process {
                Some(process) => format!("{listening} (process {process})"),
                None => listening.to_string(),
            };
            let Some(admitted) = admit(shared, source, &peer) else {
                return Ok(());
            };
            if let Some(tls) = tls {
                secured(Carrier::Unix(stream), tls, admitted, peer, shared);
                return Ok(());
            }
            let (read, write) = stream.into_split();
            plain(read, write, admitted, peer, shared);
        }
        #[cfg(test)]
        Listener::Simulated(door) => {
            let (read, write, peer) = door.lock().await.accept().await;
            if let Some(admitted) = admit(shared, Source::Unknown, &peer) {
                plain(read, write, admitted, peer, shared);
            }
        }
    }
    Ok(())
}

/// A connection that has a place: for a session, or for being told why it is not let in.
pub(super) struct Admitted {
    pub(super) place: Place,
    pub(super) turned_away: Option<Passed>,
    pub(super) at: Instant,
}

/// Gives a connection its place; none where it is merely hung up on.
fn admit(shared: &Shared, source: Source, peer: &str) -> Option<Admitted> {
    let (place, turned_away) = match shared.admission.enter(source) {
        Ok(place) => (place, None),
        Err(passed) => {
            shared.tell_passed(peer, "", &passed);
            (shared.admission.to_be_told()?, Some(passed))
        }
    };
    Some(Admitted {
        place,
        turned_away,
        at: Instant::now(),
    })
}

/// Serves a connection in a task of its own, or tells it why not.
fn plain<R, W>(read: R, write: W, admitted: Admitted, peer: String, shared: &Arc<Shared>)
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let session = admitted.serve(read, write, peer.clone(), Arc::clone(shared));
    shared.sessions.spawn(peer, session);
}

fn secured(
    carrier: Carrier,
    tls: &Arc<Spoken>,
    admitted: Admitted,
    peer: String,
    shared: &Arc<Shared>,
) {
    let (tls, all) = (Arc::clone(tls), Arc::clone(shared));
    let session = tls::serve(carrier, tls, admitted, peer.clone(), all);
    shared.sessions.spawn(peer, session);
}

impl Admitted {
    /// Serves a connection, or tells it why not. The place is kept until it ends.
    pub(super) async fn serve<R, W>(self, read: R, write: W, peer: String, shared: Arc<Shared>)
    where
        R: AsyncRead + Unpin + Send,
        W: AsyncWrite + Unpin + Send,
    {
        match self.turned_away {
            None => session::run(read, write, peer, self.at, shared).await,
            Some(passed) => turned_away::run(read, write, passed, peer, shared).await,
        }
        drop(self.place);
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE)?;
    Ok(sockopt::set_tcp_keepintvl(stream, KEEPALIVE / 4)?)
}
