//! TLS to a ZEO server, as Python's clients and servers use it.
//!
//! Certificates that are listed by `authenticate` are authorities, and are also trusted as such: it is
//! ZEO's custom to list the server's own, self-signed certificate there, and OpenSSL accepts that. So
//! the [`Verifier`] accepts a certificate that is listed byte by byte, and of all others asks for a
//! chain to one that is listed. Of a listed one the dates are not looked at: its operator put it there.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use super::options::{ZeoAddress, ZeoTls};
use crate::storage::Fault;
use crate::tls::files::{self, TlsError, Trusted};

/// Speaks TLS on a connection.
pub(super) async fn secure<S>(
    stream: S,
    wanted: &ZeoTls,
    address: &ZeoAddress,
) -> Result<TlsStream<S>, Fault>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let of = wanted.clone();
    let config = tokio::task::spawn_blocking(move || config(&of)).await;
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

fn config(wanted: &ZeoTls) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let trusted = match &wanted.authenticate {
        None => Trusted::system(),
        Some(path) => Trusted::listed(path)?,
    };
    let verifier = Verifier {
        roots: trusted.roots(),
        listed: trusted.certificates,
        provider: Arc::clone(&provider),
        check_hostname: wanted.check_hostname,
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Library)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let Some(certificate) = &wanted.certificate else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = files::certificates(certificate)?;
    let key_file = wanted.key.as_ref().unwrap_or(certificate);
    let key = files::private_key(key_file)?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|why| TlsError::Mismatch {
            key: key_file.clone(),
            certificate: certificate.clone(),
            why,
        })
}

/// Decides whether a server is the one that is meant.
struct Verifier {
    listed: Vec<CertificateDer<'static>>,
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
    check_hostname: bool,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Verifier({} certificates)", self.listed.len())
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        if !self.listed.iter().any(|one| one == certificate) {
            verify_server_cert_signed_by_trust_anchor(
                &parsed,
                &self.roots,
                intermediates,
                now,
                self.provider.signature_verification_algorithms.all,
            )?;
        }
        if self.check_hostname {
            verify_server_name(&parsed, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
