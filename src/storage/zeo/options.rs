//! Where a ZEO server is, and how it is talked to.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::tls::servers::ClientTls;
use crate::wire::frame;

/// Where a ZEO server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ZeoAddress {
    /// A host name or an IP address (without brackets), and a port.
    Tcp { host: String, port: u16 },
    /// The path of a socket.
    Unix(PathBuf),
}

impl fmt::Display for ZeoAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ZeoAddress::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            ZeoAddress::Tcp { host, port } => write!(f, "{host}:{port}"),
            ZeoAddress::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// How a connection is made secret and both ends are known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ZeoTls {
    pub files: ClientTls,
    /// The name that the server's certificate must be for; the host's, where there is none.
    pub server_name: Option<String>,
}

/// A ZEO server, and how it is talked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZeoOptions {
    pub address: ZeoAddress,
    /// The storage's name at that server, `1` by ZEO's custom.
    pub storage: String,
    /// How many connections there are for reading, beside the one that carries the transactions. The
    /// server tells each of them of every commit.
    pub read_connections: usize,
    /// How long a call may take, unless something is said of it elsewhere.
    pub call_timeout: Duration,
    /// How long a vote may wait for the server's commit lock.
    pub lock_timeout: Duration,
    /// After how long without a word the server is asked whether it is there.
    pub heartbeat: Duration,
    /// The largest message that is taken.
    pub max_frame_bytes: usize,
    /// Where blobs are put that are fetched from the server, while somebody has a handle of them.
    /// Large transactions that are being read lie there, too.
    pub blob_folder: PathBuf,
    /// So much of that disk is left free, in bytes.
    pub keep_free_bytes: u64,
    pub tls: Option<ZeoTls>,
}

impl ZeoOptions {
    /// With what suits most.
    #[must_use]
    pub fn new(address: ZeoAddress, storage: impl Into<String>) -> Self {
        ZeoOptions {
            address,
            storage: storage.into(),
            read_connections: 1,
            call_timeout: Duration::from_secs(10),
            lock_timeout: Duration::from_secs(30),
            heartbeat: Duration::from_secs(5),
            max_frame_bytes: frame::DEFAULT_LIMIT,
            blob_folder: std::env::temp_dir(),
            keep_free_bytes: 0,
            tls: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_as_they_are_written() {
        let tcp = |host: &str| ZeoAddress::Tcp {
            host: host.to_owned(),
            port: 8100,
        };
        assert_eq!(tcp("localhost").to_string(), "localhost:8100");
        assert_eq!(tcp("::1").to_string(), "[::1]:8100");
        assert_eq!(
            ZeoAddress::Unix("/run/zeo.sock".into()).to_string(),
            "/run/zeo.sock"
        );
    }
}
