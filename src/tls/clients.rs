//! Whether a client's certificate is good, as ZEO's servers judge it with OpenSSL.
//!
//! What `authenticate` lists are authorities. It is ZEO's custom to list the clients' own certificates
//! there, signed by themselves, and most of those say of themselves that they are authorities, since
//! `openssl req -x509` makes them so. OpenSSL lets such a client in. `webpki` lets nobody in who shows an
//! authority's certificate; so where that is all that is wrong, and the very certificate is listed, it is
//! good. Dates, purposes and signatures count for listed ones as for others.

use std::sync::Arc;

use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::{
    AlertDescription, CertificateError, DigitallySignedStruct, DistinguishedName, Error,
    SignatureScheme,
};

use super::files::Trusted;

/// Judges clients.
pub(super) struct Clients {
    listed: Vec<CertificateDer<'static>>,
    /// Authorities take certificates back: then one must be looked up, and these have nobody to ask.
    has_revoked: bool,
    chains: Arc<dyn ClientCertVerifier>,
}

impl Clients {
    pub(super) fn new(trusted: Trusted, provider: Arc<CryptoProvider>) -> Result<Self, String> {
        let roots = Arc::new(trusted.roots());
        let has_revoked = !trusted.revoked.is_empty();
        let chains = WebPkiClientVerifier::builder_with_provider(roots, provider)
            .with_crls(trusted.revoked)
            .only_check_end_entity_revocation()
            .enforce_revocation_expiration()
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Clients {
            listed: trusted.certificates,
            has_revoked,
            chains,
        })
    }

    fn is_listed(&self, certificate: &CertificateDer<'_>) -> bool {
        self.listed.iter().any(|listed| listed == certificate)
    }
}

impl std::fmt::Debug for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Clients({} certificates)", self.listed.len())
    }
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chains.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let judged = self
            .chains
            .verify_client_cert(certificate, intermediates, now);
        match judged {
            // It is said after the dates were found good. That the client has the certificate's key, it
            // proves with a signature as everybody does.
            Err(error)
                if is_authority(&error) && !self.has_revoked && self.is_listed(certificate) =>
            {
                Ok(ClientCertVerified::assertion())
            }
            judged => judged,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// Whether nothing is wrong with a client's certificate but that it is an authority's.
fn is_authority(error: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(other)) = error else {
        return false;
    };
    let found = other.0.downcast_ref::<webpki::Error>();
    matches!(found, Some(webpki::Error::CaUsedAsEndEntity))
}

/// Why a handshake with a client has failed, for an operator.
#[must_use]
pub fn why_refused(error: &Error) -> String {
    match error {
        Error::NoCertificatesPresented => {
            "it shows no certificate, and `authenticate` asks for one".to_owned()
        }
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "its certificate is not listed in `authenticate`, nor signed by one that is".to_owned()
        }
        error if is_authority(error) => {
            "its certificate, an authority's, is not listed itself in `authenticate`".to_owned()
        }
        Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => "its certificate has expired".to_owned(),
        Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => "its certificate is not valid yet; is the clock right?".to_owned(),
        Error::InvalidCertificate(why) => format!("its certificate is not good: {why}"),
        Error::AlertReceived(
            alert @ (AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnsupportedCertificate),
        ) => format!("it does not take this server's certificate ({alert:?})"),
        Error::InvalidMessage(why) => {
            format!("what it says is no TLS ({why:?}); does it lack `ssl`?")
        }
        other => other.to_string(),
    }
}
