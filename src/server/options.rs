//! Where the front end listens and what it allows.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::tls::ServerTls;
use crate::wire::{Dialect, frame};

/// An address to listen on, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    pub address: ListenAddress,
    /// Clients must speak TLS.
    pub tls: Option<ServerTls>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// A host name, an address, or nothing for all addresses of this machine; port 0 is any free port.
    Tcp { host: String, port: u16 },
    /// A Unix socket. The mode is what the process's umask leaves, where none is given.
    Unix { path: PathBuf, mode: Option<u32> },
}

impl From<ListenAddress> for Listen {
    fn from(address: ListenAddress) -> Self {
        Listen { address, tls: None }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            ListenAddress::Tcp { host, port } if host.is_empty() => write!(f, "*:{port}"),
            ListenAddress::Tcp { host, port } => write!(f, "{host}:{port}"),
            ListenAddress::Unix { path, .. } => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What the front end allows a client.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// What is announced; the client chooses.
    pub offer: Dialect,
    /// Connections beyond this are told so, and closed.
    pub max_connections: usize,
    /// The same for those from one address.
    pub max_connections_by_address: usize,
    /// The transaction that a larger message belongs to is refused; of another one the connection is closed.
    pub max_frame_bytes: usize,
    /// How long a client may take for TLS and for choosing an encoding.
    pub handshake_timeout: Duration,
    /// How long a client may take to register. Python's client verifies one connection at a time, so
    /// that an honest one may have to wait for another server.
    pub register_timeout: Duration,
    /// How long a registration waits for a storage that does not serve before it is hung up on.
    /// Python's client holds a lock meanwhile that keeps it from other servers, and comes back at
    /// once.
    pub register_wait: Duration,
    /// Where this much waits to be read by a client, none of its calls are taken. A single reply may
    /// be larger.
    pub outbox_bytes: usize,
    /// Where this much of a transaction waits for the storage, none of its client's calls are taken.
    pub transaction_bytes: usize,
    /// How many calls of one client are asked of the storage at once.
    pub calls_in_flight: usize,
    /// How many iterators one client may have open.
    pub iterators: usize,
    /// A client that reads nothing for this long, while something waits for it, is closed.
    pub write_timeout: Duration,
    /// Messages from and to all clients in memory, as far as they are more than a little of each. Beyond
    /// it, who has more waits, and who has had more for the longest is closed after some seconds.
    pub memory_bytes: usize,
    /// What a transaction may store, records and blobs. The vote of a larger one is refused.
    pub max_transaction_bytes: u64,
    /// The same of all transactions that are not finished. Beyond it only those are refused that have more than
    /// their share: this, divided by the connections there may be, and 256 KiB at least.
    pub max_transactions_bytes: u64,
    /// How many transactions one may undo.
    pub undos: usize,
    /// A large transaction that would leave less than this free on the disk of its uploads is refused.
    pub keep_free_bytes: u64,
    /// A client may take this long from its vote to its finish; then it is closed, which aborts.
    pub transaction_timeout: Duration,
    /// So long a server that stops waits for the transactions that clients have begun. (A finish in hand is
    /// waited for in any case.)
    pub stop_grace: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        ServerOptions {
            offer: Dialect::Pickle,
            max_connections: 4096,
            max_connections_by_address: 4096,
            max_frame_bytes: frame::DEFAULT_LIMIT,
            handshake_timeout: Duration::from_secs(30),
            register_timeout: Duration::from_mins(10),
            register_wait: Duration::from_secs(2),
            outbox_bytes: 16 << 20,
            transaction_bytes: 16 << 20,
            calls_in_flight: 256,
            iterators: 1000,
            write_timeout: Duration::from_mins(5),
            memory_bytes: 1 << 30,
            max_transaction_bytes: 256 << 30,
            max_transactions_bytes: 1 << 40,
            undos: 1000,
            keep_free_bytes: 256 << 20,
            transaction_timeout: Duration::from_mins(1),
            stop_grace: Duration::from_secs(5),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_as_they_are_written() {
        let tcp = |host: &str| ListenAddress::Tcp {
            host: host.to_owned(),
            port: 8100,
        };
        assert_eq!(tcp("::1").to_string(), "[::1]:8100");
        assert_eq!(tcp("localhost").to_string(), "localhost:8100");
        assert_eq!(tcp("").to_string(), "*:8100");
    }
}
