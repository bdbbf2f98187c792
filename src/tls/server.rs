//! A listening end: what it shows its clients, and which of them it lets in.

use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::server::NoServerSessionStorage;

use super::clients::Clients;
use super::files::{self, TlsError, Trusted};

/// The files of a listening end, as ZEO's `<ssl>` section of a server names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    /// What is shown: the server's certificate, and those between it and its authority.
    pub certificate: PathBuf,
    /// Its key; none where it is in the same file.
    pub key: Option<PathBuf>,
    pub authenticate: Authenticate,
}

/// Which clients are let in. Of ZEO clients there is always a certificate asked for, as by ZEO's servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authenticate {
    /// Those whose certificate is in this file, or in the files of this folder, or is signed by an
    /// authority's that is.
    Listed(PathBuf),
    /// Those whose certificate is signed by an authority that the system trusts.
    System,
    /// Everybody, and no certificate is asked for: who it is is asked otherwise.
    Anyone,
}

/// Files that were read, ready to be spoken by.
#[derive(Debug, Clone)]
pub struct Speaks {
    pub config: Arc<ServerConfig>,
    /// Of everything that was read: the same files give the same.
    pub digest: [u8; 32],
}

impl ServerTls {
    /// Reads all files. Blocks.
    ///
    /// # Errors
    /// Names the file that cannot be used, and why.
    pub fn read(&self) -> Result<Speaks, TlsError> {
        let chain = files::certificates(&self.certificate)?;
        let key_file = self.key.as_ref().unwrap_or(&self.certificate);
        files::is_private(key_file)?;
        let key = files::private_key(key_file)?;
        let trusted = match &self.authenticate {
            Authenticate::Listed(path) => Some(Trusted::listed(path)?),
            Authenticate::System => Some(Trusted::system()),
            Authenticate::Anyone => None,
        };

        let mut digest = Sha256::new();
        let of_clients = trusted.iter().flat_map(|trusted| &trusted.certificates);
        let certificates = chain.iter().chain(of_clients).map(AsRef::as_ref);
        let lists = trusted.iter().flat_map(|trusted| &trusted.revoked);
        let lists = lists.map(AsRef::as_ref);
        for part in certificates.chain(lists).chain([key.secret_der()]) {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }

        let provider = Arc::new(ring::default_provider());
        let clients = trusted.map(|trusted| Clients::new(trusted, Arc::clone(&provider)));
        let clients = clients.transpose().map_err(|why| TlsError::Useless {
            path: match &self.authenticate {
                Authenticate::Listed(path) => path.clone(),
                Authenticate::System | Authenticate::Anyone => PathBuf::from("the system's store"),
            },
            why,
        })?;
        let builder = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Library)?;
        let builder = match clients {
            Some(clients) => builder.with_client_cert_verifier(Arc::new(clients)),
            None => builder.with_no_client_auth(),
        };
        let mut config =
            builder
                .with_single_cert(chain, key)
                .map_err(|why| TlsError::Mismatch {
                    key: key_file.clone(),
                    certificate: self.certificate.clone(),
                    why,
                })?;
        // Connections of ZEO last: nobody takes an old one up, and a certificate is judged each time.
        // Of TLS 1.3 by tickets, of 1.2 by what we would keep.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Speaks {
            config: Arc::new(config),
            digest: digest.finalize().into(),
        })
    }
}
