//! Certificates as operators make them, in files.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rcgen::KeyUsagePurpose::{CrlSign, DigitalSignature, KeyCertSign};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![DigitalSignature];
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![DigitalSignature, KeyCertSign, CrlSign];
    params
}

/// Signed by itself, as `openssl req -x509` makes one: `NAME.pem` and `NAME.key`.
pub(crate) fn self_signed(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    signed_itself(folder, name, authority_params(name))
}

/// The same, of years ago.
pub(crate) fn expired(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let mut params = authority_params(name);
    params.not_before = date_time_ymd(2001, 1, 1);
    params.not_after = date_time_ymd(2002, 1, 1);
    signed_itself(folder, name, params)
}

fn signed_itself(folder: &Path, name: &str, params: CertificateParams) -> (PathBuf, PathBuf) {
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    write(folder, name, &certificate.pem(), &key)
}

fn write(folder: &Path, name: &str, certificate: &str, key: &KeyPair) -> (PathBuf, PathBuf) {
    let at = |ending: &str| folder.join(format!("{name}.{ending}"));
    fs::write(at("pem"), certificate).expect("writing a certificate");
    fs::write(at("key"), key.serialize_pem()).expect("writing a key");
    let private = fs::Permissions::from_mode(0o600);
    fs::set_permissions(at("key"), private).expect("the key is ours");
    (at("pem"), at("key"))
}

/// Who signs others' certificates; its own is `NAME.pem`.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let authority = CertifiedIssuer::self_signed(authority_params(name), key);
        let authority = authority.expect("a certificate");
        fs::write(folder.join(format!("{name}.pem")), authority.pem()).expect("writing it");
        Authority(authority)
    }

    pub(crate) fn issue(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().expect("a key");
        let certificate = params(name).signed_by(&key, &self.0);
        let certificate = certificate.expect("a certificate");
        write(folder, name, &certificate.pem(), &key)
    }
}
