//! TLS to a ZEO server, as Python's clients and servers use it.
//!
//! It is ZEO's custom to list the server's own, self-signed certificate in `authenticate`, and OpenSSL
//! accepts that. So the [`Verifier`] accepts a certificate that is listed byte by byte while its dates and
//! its purpose are good, and of all others asks for a chain to a listed one that is an authority's and in force. Where there
//! are revocation lists, all need a chain, as with our own clients (`tls::clients`).

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::client::{WebPkiServerVerifier, verify_server_name};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
};

use super::options::{ZeoAddress, ZeoTls};
use crate::storage::Fault;
use crate::tls::files::{self, Purpose, TlsError, Trusted};

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
    // Read for one connection: what is in force now is in force when the server shows its certificate.
    let roots = trusted.roots(&trusted.in_force(UnixTime::now()));
    let chains = if roots.is_empty() {
        None
    } else {
        let chains =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .with_crls(trusted.revoked.iter().cloned())
                .only_check_end_entity_revocation()
                .enforce_revocation_expiration()
                .build();
        Some(chains.map_err(|error| TlsError::Useless {
            path: match &wanted.authenticate {
                Some(path) => path.clone(),
                None => "the system's store".into(),
            },
            why: error.to_string(),
        })?)
    };
    let verifier = Verifier {
        trusted,
        chains,
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
    trusted: Trusted,
    /// None where no authority is in force.
    chains: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
    check_hostname: bool,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Verifier({} certificates)",
            self.trusted.certificates.len()
        )
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.trusted.vouches_for(certificate) {
            files::is_good(certificate, Purpose::Server, now)?;
            if self.check_hostname {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        let Some(chains) = &self.chains else {
            return Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        };
        match chains.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            // The name is looked at last, when all else was found good.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.check_hostname => Ok(ServerCertVerified::assertion()),
            judged => judged,
        }
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
