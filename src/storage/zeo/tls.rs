//! TLS to a ZEO server, as Python's clients and servers use it.
//!
//! Certificates that are listed by `authenticate` are authorities, and are also trusted as such: it is
//! ZEO's custom to list the server's own, self-signed certificate there, and OpenSSL accepts that. So
//! the [`Verifier`] accepts a certificate that is listed byte by byte, and of all others asks for a
//! chain to one that is listed. Of a listed one the dates are not looked at: its operator put it there.

use std::path::{Path, PathBuf};
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
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use super::options::{ZeoAddress, ZeoTls};
use crate::storage::Fault;

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
    let config = config.map_err(|_| Fault::Unreachable("reading certificates failed".into()))??;
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

fn config(wanted: &ZeoTls) -> Result<ClientConfig, Fault> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Verifier {
        listed: listed(wanted.authenticate.as_deref())?,
        provider: Arc::clone(&provider),
        check_hostname: wanted.check_hostname,
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Fault::Unreachable(format!("cannot speak TLS: {error}")))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let Some(certificate) = &wanted.certificate else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(certificate)?;
    let key_file = wanted.key.as_ref().unwrap_or(certificate);
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| {
        Fault::Unreachable(format!(
            "there is no private key without a password in {}: {error}; name its file with `key`",
            key_file.display()
        ))
    })?;
    builder.with_client_auth_cert(chain, key).map_err(|error| {
        Fault::Unreachable(format!(
            "the key in {} does not go with the certificate in {}: {error}",
            key_file.display(),
            certificate.display()
        ))
    })
}

/// The certificates that are trusted.
struct Listed {
    certificates: Vec<CertificateDer<'static>>,
    roots: RootCertStore,
}

fn listed(authenticate: Option<&Path>) -> Result<Listed, Fault> {
    let certificates = match authenticate {
        None => rustls_native_certs::load_native_certs().certs,
        Some(folder) if folder.is_dir() => in_folder(folder)?,
        Some(file) => certificates(file)?,
    };
    let mut roots = RootCertStore::empty();
    // One that webpki cannot take as an authority may still be the server's own.
    roots.add_parsable_certificates(certificates.iter().cloned());
    Ok(Listed {
        certificates,
        roots,
    })
}

/// All certificates of a folder's files, as of OpenSSL's folders of authorities.
fn in_folder(folder: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let unreadable =
        |error: std::io::Error| Fault::io(format!("reading {}", folder.display()), error);
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path: PathBuf = entry.map_err(unreadable)?.path();
        // Folders hold other things too.
        if path.is_file() {
            all.extend(certificates(&path).unwrap_or_default());
        }
    }
    if all.is_empty() {
        return Err(Fault::Unreachable(format!(
            "there is no certificate in the files of {}; put the server's, or its authority's, there",
            folder.display()
        )));
    }
    Ok(all)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let bytes = std::fs::read(file)
        .map_err(|error| Fault::io(format!("reading the certificate {}", file.display()), error))?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(Fault::Unreachable(format!(
            "there is no certificate in {}; a file with `BEGIN CERTIFICATE` (PEM) is expected",
            file.display()
        ))),
        Err(error) => Err(Fault::Unreachable(format!(
            "the certificates in {} cannot be read: {error}",
            file.display()
        ))),
    }
}

/// Decides whether a server is the one that is meant.
struct Verifier {
    listed: Listed,
    provider: Arc<CryptoProvider>,
    check_hostname: bool,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let listed = self.listed.certificates.len();
        write!(f, "Verifier({listed} certificates)")
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
        if !self
            .listed
            .certificates
            .iter()
            .any(|one| one == certificate)
        {
            verify_server_cert_signed_by_trust_anchor(
                &parsed,
                &self.listed.roots,
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
