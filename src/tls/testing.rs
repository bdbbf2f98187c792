//! Certificates for tests, as operators make them, and a client's end.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::KeyUsagePurpose::{CrlSign, DigitalSignature, KeyCertSign};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
    date_time_ymd,
};
use tokio_rustls::rustls::client::{ResolvesClientCert, WantsClientCert};
use tokio_rustls::rustls::crypto::ring::sign::any_supported_type;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{
    ALL_VERSIONS, ClientConfig, ConfigBuilder, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
};

/// A certificate and its key.
pub(crate) struct Made {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// How one is out of the ordinary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    Expired,
    /// Valid until 2090.
    UntilLater,
    /// Good for servers alone.
    ForServers,
    /// Good for clients alone.
    ForClients,
}

fn params(name: &str, flaw: Flaw) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![DigitalSignature];
    match flaw {
        Flaw::None => {}
        Flaw::Expired => {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        }
        Flaw::UntilLater => params.not_after = date_time_ymd(2090, 1, 1),
        Flaw::ForServers => {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        }
        Flaw::ForClients => {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        }
    }
    params
}

fn authority_params(name: &str, flaw: Flaw) -> CertificateParams {
    let mut params = params(name, flaw);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![DigitalSignature, KeyCertSign, CrlSign];
    params
}

impl Made {
    pub(crate) fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }

    /// Signed by itself, and an authority as well: what `openssl req -x509` makes.
    pub(crate) fn by_openssl(name: &str, flaw: Flaw) -> Made {
        Made::self_signed(authority_params(name, flaw))
    }

    /// Signed by itself, and no authority.
    pub(crate) fn plain(name: &str, flaw: Flaw) -> Made {
        Made::self_signed(params(name, flaw))
    }

    fn self_signed(params: CertificateParams) -> Made {
        let key = KeyPair::generate().unwrap();
        Made {
            certificate: params.self_signed(&key).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

/// Who signs others' certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new(name: &str) -> Authority {
        Authority::with(name, Flaw::None)
    }

    pub(crate) fn with(name: &str, flaw: Flaw) -> Authority {
        Authority::of(authority_params(name, flaw))
    }

    /// Who is no authority by its certificate, and signs others' nevertheless.
    pub(crate) fn presumed(name: &str, flaw: Flaw) -> Authority {
        Authority::of(params(name, flaw))
    }

    fn of(params: CertificateParams) -> Authority {
        let key = KeyPair::generate().unwrap();
        Authority(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    pub(crate) fn certificate(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn issue(&self, name: &str, serial: u64, flaw: Flaw) -> Made {
        let key = KeyPair::generate().unwrap();
        let mut params = params(name, flaw);
        params.serial_number = Some(SerialNumber::from(serial));
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Made {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    /// The list of those that it has taken back.
    pub(crate) fn takes_back(&self, serial: u64) -> String {
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: date_time_ymd(2020, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

/// Writes a file that only its owner may read.
pub(crate) fn put(folder: &Path, name: &str, text: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// A client that trusts this server, and shows that.
pub(crate) fn client(server: &Made, shows: Option<&Made>) -> Arc<ClientConfig> {
    let builder = trusts(server, ALL_VERSIONS);
    Arc::new(match shows {
        None => builder.with_no_client_auth(),
        Some(made) => builder
            .with_client_auth_cert(vec![made.der()], made.private_key())
            .unwrap(),
    })
}

/// The same of one version of TLS, which shows one's certificate and signs with another's key.
pub(crate) fn impostor(
    server: &Made,
    version: &'static SupportedProtocolVersion,
    shows: &Made,
    signs: &Made,
) -> Arc<ClientConfig> {
    let key = any_supported_type(&signs.private_key()).unwrap();
    let both = Arc::new(CertifiedKey::new(vec![shows.der()], key));
    let config = trusts(server, &[version]).with_client_cert_resolver(Arc::new(Shows(both)));
    Arc::new(config)
}

fn trusts(
    server: &Made,
    versions: &[&'static SupportedProtocolVersion],
) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let mut roots = RootCertStore::empty();
    roots.add(server.der()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
}

/// Shows what it is given, whether it goes together or not.
#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
