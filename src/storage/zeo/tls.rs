//! TLS to a ZEO server, as Python's clients and servers use it.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

use super::options::{ZeoAddress, ZeoTls};
use crate::storage::Fault;
use crate::tls::servers::config;

/// Speaks TLS on a connection.
pub(super) async fn secure<S>(
    stream: S,
    wanted: &ZeoTls,
    address: &ZeoAddress,
) -> Result<TlsStream<S>, Fault>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let of = wanted.files.clone();
    let config = crate::task::blocking(move || config(&of)).await;
    let config = config.map_err(|_| Fault::Unreachable("reading certificates failed".into()))?;
    let config = config.map_err(|error| Fault::Unreachable(error.to_string()))?;
    let name = server_name(wanted, address)?;
    let connector = TlsConnector::from(Arc::new(config));
    connector
        .connect(name, stream)
        .await
        .map_err(|error| Fault::Unreachable(format!("cannot speak TLS with {address}: {error}")))
}

fn server_name(wanted: &ZeoTls, address: &ZeoAddress) -> Result<ServerName<'static>, Fault> {
    let name = match (&wanted.server_name, address) {
        (Some(name), _) => name.as_str(),
        (None, ZeoAddress::Tcp { host, .. }) => host,
        (None, ZeoAddress::Unix(_)) => "localhost",
    };
    ServerName::try_from(name.to_owned())
        .map_err(|_| Fault::Unreachable(format!("`{name}` cannot be the name of a TLS server")))
}
