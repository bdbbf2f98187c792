//! A connecting end: whom it takes for the server that is meant, and what it shows.
//!
//! It is ZEO's custom to list the server's own, self-signed certificate in `authenticate`, and OpenSSL
//! accepts that. So the [`Verifier`] accepts a certificate that is listed byte by byte while its dates and
//! its purpose are good, and of all others asks for a chain to a listed one that is an authority's and in force. Where there
//! are revocation lists, all need a chain, as with our own clients ([`clients`](super::clients)).

use std::path::PathBuf;
use std::sync::Arc;

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
    CertificateError, ClientConfig, DigitallySignedStruct, Error, InvalidMessage, RootCertStore,
    SignatureScheme,
};

use super::files::{self, Purpose, TlsError, Trusted};

/// The files of a connecting end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// Whom the server's certificate must be signed by: a file of certificates, or a folder of such
    /// files. A certificate in it is trusted as such too, as where a server's own is listed. Without
    /// it, whom the system trusts.
    pub authenticate: Option<PathBuf>,
    /// Our certificate, and those between it and its authority.
    pub certificate: Option<PathBuf>,
    /// Its key; none where it is in the same file.
    pub key: Option<PathBuf>,
    /// Whether the certificate must be for the name by which the server was reached.
    pub check_hostname: bool,
}

/// Whether a connection failed because the other end does not speak TLS: what it sent begins like nothing of it.
#[must_use]
pub fn is_not_spoken(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) =
            error.downcast_ref::<Error>()
        {
            return true;
        }
        // What an IO error was made of is not among its sources.
        let within = error.downcast_ref::<std::io::Error>();
        cause = match within.and_then(std::io::Error::get_ref) {
            Some(within) => Some(within),
            None => error.source(),
        };
    }
    false
}

/// Reads all files for one connection. Blocks.
///
/// # Errors
/// Names the file that cannot be used, and why.
pub fn config(wanted: &ClientTls) -> Result<ClientConfig, TlsError> {
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
    files::is_private(key_file)?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|why| TlsError::Mismatch {
            key: key_file.clone(),
            certificate: certificate.clone(),
            why,
        })
}

/// For connections that are never to speak TLS: no server is the one that is meant.
///
/// # Errors
/// What the library gives.
pub fn nobody() -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions();
    let builder = builder.map_err(TlsError::Library)?;
    Ok(builder
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth())
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
