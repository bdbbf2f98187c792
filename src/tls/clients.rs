//! Whether a client's certificate is good, as ZEO's servers judge it with OpenSSL.
//!
//! It is ZEO's custom to list the clients' own certificates in `authenticate`, signed by themselves, and most
//! of those say of themselves that they are authorities, since `openssl req -x509` makes them so. OpenSSL
//! lets such a client in; `webpki` lets nobody in who shows an authority's certificate. So a certificate
//! that is listed byte by byte is good while its dates and its purpose are, and others need a chain to a listed one that is
//! an authority's, and is in force at that moment. Where authorities take certificates back, all need a
//! chain: a listed one that nobody has signed could not be looked up.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::crypto::{
    CryptoProvider, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::{
    AlertDescription, CertificateError, DigitallySignedStruct, DistinguishedName, Error,
    SignatureScheme,
};

use super::files::{self, Purpose, Trusted};

/// Judges clients.
pub(super) struct Clients {
    trusted: Trusted,
    provider: Arc<CryptoProvider>,
    /// Whom we would know, for a client that has a choice of certificates.
    subjects: Vec<DistinguishedName>,
    chains: Mutex<Chains>,
}

/// By which authorities chains were judged last.
struct Chains {
    in_force: Vec<bool>,
    /// None where no authority is in force.
    judge: Option<Arc<dyn ClientCertVerifier>>,
}

impl Chains {
    fn new(
        trusted: &Trusted,
        in_force: Vec<bool>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let roots = trusted.roots(&in_force);
        if roots.is_empty() {
            let judge = None;
            return Ok(Chains { in_force, judge });
        }
        let judge =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
                .with_crls(trusted.revoked.iter().cloned())
                .only_check_end_entity_revocation()
                .enforce_revocation_expiration()
                .build()
                .map_err(|error| error.to_string())?;
        Ok(Chains {
            in_force,
            judge: Some(judge),
        })
    }
}

impl Clients {
    pub(super) fn new(trusted: Trusted, provider: Arc<CryptoProvider>) -> Result<Self, String> {
        let subjects = trusted.roots(&vec![true; trusted.certificates.len()]);
        if subjects.is_empty() {
            return Err("none of them makes sense".to_owned());
        }
        let in_force = trusted.in_force(UnixTime::now());
        let chains = Chains::new(&trusted, in_force, &provider)?;
        Ok(Clients {
            trusted,
            provider,
            subjects: subjects.subjects(),
            chains: Mutex::new(chains),
        })
    }

    /// Who judges chains at this time. An authority may have expired since the files were read.
    fn chains(&self, now: UnixTime) -> Result<Option<Arc<dyn ClientCertVerifier>>, Error> {
        let in_force = self.trusted.in_force(now);
        let mut chains = self.chains.lock();
        if chains.in_force != in_force {
            let anew = Chains::new(&self.trusted, in_force, &self.provider);
            *chains = anew.map_err(Error::General)?;
        }
        Ok(chains.judge.clone())
    }
}

impl std::fmt::Debug for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Clients({} certificates)", self.subjects.len())
    }
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.subjects
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        // That the client has the certificate's key, it proves with a signature as everybody does.
        if self.trusted.vouches_for(certificate) {
            files::is_good(certificate, Purpose::Client, now)?;
            return Ok(ClientCertVerified::assertion());
        }
        let judged = match self.chains(now)? {
            Some(chains) => chains.verify_client_cert(certificate, intermediates, now),
            None => Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)),
        };
        match judged {
            // It is listed, and that is not enough: there are revocation lists.
            Err(error)
                if (is_authority(&error) || is_unknown(&error))
                    && self.trusted.lists(certificate) =>
            {
                Err(Error::InvalidCertificate(
                    CertificateError::UnknownRevocationStatus,
                ))
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

/// Whether nothing is wrong with a client's certificate but that it is an authority's.
fn is_authority(error: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(other)) = error else {
        return false;
    };
    let found = other.0.downcast_ref::<webpki::Error>();
    matches!(found, Some(webpki::Error::CaUsedAsEndEntity))
}

fn is_unknown(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidCertificate(CertificateError::UnknownIssuer)
    )
}

/// Why a handshake with a client has failed, for an operator.
#[must_use]
pub fn why_refused(error: &Error) -> String {
    match error {
        Error::NoCertificatesPresented => {
            "it shows no certificate, and `authenticate` asks for one".to_owned()
        }
        error if is_unknown(error) => {
            "its certificate is not listed in `authenticate`, nor signed by one that is, of an authority and \
             in force"
                .to_owned()
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
        Error::InvalidCertificate(
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. },
        ) => "its certificate is not for clients, by its extended key usage".to_owned(),
        Error::InvalidCertificate(CertificateError::UnknownRevocationStatus) => {
            "its certificate is in no revocation list's reach, and there are such lists in `authenticate`"
                .to_owned()
        }
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
