//! Reading certificates and private keys, in PEM, as OpenSSL's tools write them; and what a certificate says
//! of itself.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime,
};
use tokio_rustls::rustls::{CertificateError, Error, OtherError, RootCertStore};
use tracing::warn;
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Why certificates or a key cannot be used. Each names the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("could not read {}: {source}", .path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("there is no certificate in {}; a file with `BEGIN CERTIFICATE` (PEM) is expected", .path.display())]
    NoCertificate { path: PathBuf },
    #[error("the certificates in {} cannot be read: {why}", .path.display())]
    BadCertificates { path: PathBuf, why: String },
    #[error(
        "{0} is not in PEM, and would not be looked at; write it anew: `openssl x509 -inform der -in {0} -out \
         NEW`, or `openssl crl` for a revocation list",
        .path.display()
    )]
    NotPem { path: PathBuf },
    #[error(
        "there is no certificate in the files of {}; put those of the other end, or of its authority, there",
        .path.display()
    )]
    EmptyFolder { path: PathBuf },
    #[error("there is no private key in {}; name its file with `key`", .path.display())]
    NoKey { path: PathBuf },
    #[error("the private key in {} cannot be read: {why}", .path.display())]
    BadKey { path: PathBuf, why: String },
    #[error(
        "the private key in {0} has a password, and nobody is there to give it; write it without one into \
         a file that only the daemon may read: `openssl pkey -in {0} -out NEW`",
        .path.display()
    )]
    KeyWithPassword { path: PathBuf },
    #[error(
        "the private key in {0} is open to everybody on this machine (mode {mode:04o}); `chmod o-rwx {0}`",
        .path.display()
    )]
    KeyForEverybody { path: PathBuf, mode: u32 },
    #[error("the key in {} does not go with the certificate in {}: {why}", .key.display(), .certificate.display())]
    Mismatch {
        key: PathBuf,
        certificate: PathBuf,
        why: Error,
    },
    #[error("nobody can be judged by the certificates in {}: {why}", .path.display())]
    Useless { path: PathBuf, why: String },
    #[error("cannot speak TLS: {0}")]
    Library(#[source] Error),
}

impl TlsError {
    /// The file, or the folder, that has to be mended.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            TlsError::Unreadable { path, .. }
            | TlsError::NoCertificate { path }
            | TlsError::BadCertificates { path, .. }
            | TlsError::NotPem { path }
            | TlsError::EmptyFolder { path }
            | TlsError::NoKey { path }
            | TlsError::BadKey { path, .. }
            | TlsError::KeyWithPassword { path }
            | TlsError::KeyForEverybody { path, .. }
            | TlsError::Useless { path, .. }
            | TlsError::Mismatch { key: path, .. } => Some(path),
            TlsError::Library(_) => None,
        }
    }
}

/// What the other end's certificate is judged by.
#[derive(Debug, Default)]
pub struct Trusted {
    pub certificates: Vec<CertificateDer<'static>>,
    /// What their authorities have taken back.
    pub revoked: Vec<CertificateRevocationListDer<'static>>,
}

impl Trusted {
    /// What the system trusts.
    #[must_use]
    pub fn system() -> Self {
        Trusted {
            certificates: rustls_native_certs::load_native_certs().certs,
            revoked: Vec::new(),
        }
    }

    /// A file of certificates, or a folder of such files, as of OpenSSL's authorities.
    ///
    /// # Errors
    /// Where there is none.
    pub fn listed(path: &Path) -> Result<Self, TlsError> {
        if path.is_dir() {
            return Self::in_folder(path);
        }
        let bytes = read(path)?;
        Ok(Trusted {
            certificates: certificates_in(path, &bytes)?,
            revoked: revoked_in(path, &bytes)?,
        })
    }

    fn in_folder(folder: &Path) -> Result<Self, TlsError> {
        let unreadable = |source| TlsError::Unreadable {
            path: folder.to_owned(),
            source,
        };
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(unreadable)? {
            paths.push(entry.map_err(unreadable)?.path());
        }
        // The same folder is always read the same way.
        paths.sort();
        let mut all = Trusted::default();
        for path in &paths {
            // Whom an authority has taken back must not come in because a list could not be read.
            if !is_file(path)? {
                continue;
            }
            let bytes = read(path)?;
            let certificates = match certificates_in(path, &bytes) {
                // Folders hold other things too.
                Err(TlsError::NoCertificate { .. }) => Vec::new(),
                certificates => certificates?,
            };
            let revoked = revoked_in(path, &bytes)?;
            if certificates.is_empty() && revoked.is_empty() {
                if is_der(&bytes) {
                    let path = path.clone();
                    return Err(TlsError::NotPem { path });
                }
                let path = path.display();
                warn!(%path, "neither a certificate nor a revocation list is in this file");
            }
            all.certificates.extend(certificates);
            all.revoked.extend(revoked);
        }
        if all.certificates.is_empty() {
            let path = folder.to_owned();
            return Err(TlsError::EmptyFolder { path });
        }
        Ok(all)
    }

    /// Which of the certificates are those of authorities, and valid at a time. Neither does `webpki` ask of
    /// what it is told to trust: without this, whoever is listed could let others in, and nothing would end.
    #[must_use]
    pub fn in_force(&self, now: UnixTime) -> Vec<bool> {
        let is_authority = |certificate| {
            let says = says(certificate, Purpose::Client, now);
            matches!(says, Ok(Says::Authority))
        };
        self.certificates.iter().map(is_authority).collect()
    }

    /// The authorities that are in force.
    #[must_use]
    pub fn roots(&self, in_force: &[bool]) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        let with_force = self.certificates.iter().zip(in_force);
        let authorities = with_force.filter(|(_, in_force)| **in_force);
        roots.add_parsable_certificates(authorities.map(|(certificate, _)| certificate.clone()));
        roots
    }

    /// Whether this very certificate is among them, and nobody has to be asked whether it was taken back.
    #[must_use]
    pub fn vouches_for(&self, certificate: &CertificateDer<'_>) -> bool {
        self.revoked.is_empty() && self.lists(certificate)
    }

    #[must_use]
    pub fn lists(&self, certificate: &CertificateDer<'_>) -> bool {
        self.certificates.iter().any(|listed| listed == certificate)
    }
}

/// What a certificate is shown for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Client,
    Server,
}

/// Whose a certificate is, by what it says of itself.
enum Says {
    Authority,
    OtherEnd,
}

/// What a certificate says of itself; an error where it is not valid at this time, or, the other end's own,
/// not good for this.
fn says(certificate: &CertificateDer<'_>, purpose: Purpose, now: UnixTime) -> Result<Says, Error> {
    let unclear = |error| CertificateError::Other(OtherError(Arc::new(error)));
    let wrong = |why| Err(Error::InvalidCertificate(why));
    let parsed = match EndEntityCert::try_from(certificate) {
        Ok(parsed) => parsed,
        Err(error) => return wrong(unclear(error)),
    };
    let usage = match purpose {
        Purpose::Client => KeyUsage::client_auth(),
        Purpose::Server => KeyUsage::server_auth(),
    };
    // Where no authority is trusted nothing is good, and what is wrong is found in an order: first the
    // dates, then that it is an authority's, then what it is for, and at last that nobody has signed it.
    let Err(found) = parsed.verify_for_usage(&[], &[], &[], now, usage, None, None) else {
        return wrong(CertificateError::UnknownIssuer);
    };
    match found {
        webpki::Error::CaUsedAsEndEntity => Ok(Says::Authority),
        webpki::Error::UnknownIssuer => Ok(Says::OtherEnd),
        webpki::Error::CertExpired { .. } => wrong(CertificateError::Expired),
        webpki::Error::CertNotValidYet { .. } => wrong(CertificateError::NotValidYet),
        webpki::Error::RequiredEkuNotFoundContext(_) => wrong(CertificateError::InvalidPurpose),
        other => wrong(unclear(other)),
    }
}

/// Whether a certificate that is listed itself is good now for what it is shown for.
///
/// # Errors
/// Why it is not.
pub fn is_good(
    certificate: &CertificateDer<'_>,
    purpose: Purpose,
    now: UnixTime,
) -> Result<(), Error> {
    match says(certificate, purpose, now)? {
        // Said before it was asked what it is for.
        Says::Authority if !is_for(certificate, purpose) => {
            Err(Error::InvalidCertificate(CertificateError::InvalidPurpose))
        }
        Says::Authority | Says::OtherEnd => Ok(()),
    }
}

/// Whether a certificate's extended key usage, where it has one, allows this.
fn is_for(certificate: &CertificateDer<'_>, purpose: Purpose) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return false;
    };
    match (parsed.extended_key_usage(), purpose) {
        (Ok(None), _) => true,
        (Ok(Some(usage)), Purpose::Client) => usage.value.client_auth,
        (Ok(Some(usage)), Purpose::Server) => usage.value.server_auth,
        (Err(_), _) => false,
    }
}

fn is_file(path: &Path) -> Result<bool, TlsError> {
    let metadata = std::fs::metadata(path).map_err(|source| TlsError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    Ok(metadata.is_file())
}

/// Whether a file begins as certificates and revocation lists in DER do: a sequence of more than 127 bytes.
/// No text begins so.
fn is_der(bytes: &[u8]) -> bool {
    matches!(bytes, [0x30, 0x81..=0x84, ..])
}

/// The certificates of a file, in its order.
///
/// # Errors
/// Where there is none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    certificates_in(path, &read(path)?)
}

fn certificates_in(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let path = path.to_owned();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(TlsError::NoCertificate { path }),
        Err(error) => Err(TlsError::BadCertificates {
            path,
            why: error.to_string(),
        }),
    }
}

fn revoked_in(
    path: &Path,
    bytes: &[u8],
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let all: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(bytes).collect();
    all.map_err(|error| TlsError::BadCertificates {
        path: path.to_owned(),
        why: error.to_string(),
    })
}

/// The private key of a file.
///
/// # Errors
/// Where there is none without a password.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = read(path)?;
    let path = path.to_owned();
    // PKCS #8, and the older form of a line below the first.
    let has_password = [
        &b"BEGIN ENCRYPTED PRIVATE KEY"[..],
        b"Proc-Type: 4,ENCRYPTED",
    ]
    .iter()
    .any(|mark| bytes.windows(mark.len()).any(|part| part == *mark));
    if has_password {
        return Err(TlsError::KeyWithPassword { path });
    }
    match PrivateKeyDer::pem_slice_iter(&bytes).next() {
        Some(Ok(key)) => Ok(key),
        Some(Err(error)) => Err(TlsError::BadKey {
            path,
            why: error.to_string(),
        }),
        None => Err(TlsError::NoKey { path }),
    }
}

/// A bearer token that is shorter is none: in characters.
pub const SHORTEST_TOKEN: usize = 16;

/// That a private key is not open to everybody. To its group it may be: a system has groups for that.
///
/// # Errors
/// Where it is.
pub fn is_private(path: &Path) -> Result<(), TlsError> {
    let metadata = std::fs::metadata(path).map_err(|source| TlsError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let mode = metadata.permissions().mode() & 0o7777;
    let of_others = mode & 0o007;
    if of_others == 0 {
        return Ok(());
    }
    Err(TlsError::KeyForEverybody {
        path: path.to_owned(),
        mode,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Unreadable {
        path: path.to_owned(),
        source,
    })
}
