//! Which servers' certificates are taken.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;

use super::super::tls::secure;
use super::super::{ZeoAddress, ZeoTls};
use crate::tls::servers::ClientTls;
use crate::tls::testing::{Authority, Flaw, Made, put};

/// A handshake with a server that shows this, by a member to which these are listed; why it is refused.
async fn shown(folder: &Path, shows: &Made, name: Option<&str>, listed: &[&str]) -> Option<String> {
    let wanted = ZeoTls {
        files: ClientTls {
            authenticate: Some(put(folder, "listed.pem", &listed.concat())),
            check_hostname: name.is_some(),
            ..ClientTls::default()
        },
        server_name: Some(name.unwrap_or("another.example").to_owned()),
    };
    let server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![shows.der()], shows.private_key())
        .unwrap();
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let address = ZeoAddress::Unix(PathBuf::from("zeo.sock"));
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let (secured, _) = tokio::join!(secure(ours, &wanted, &address), acceptor.accept(theirs));
    secured.err().map(|fault| format!("{fault:?}"))
}

const NAME: &str = "zeo.example";

#[tokio::test]
async fn a_server_is_taken_that_is_listed_or_signed_by_an_authority_that_is() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let authority = Authority::new("an authority");
    let issued = authority.issue(NAME, 1, Flaw::None);
    let trusted = authority.certificate();
    let (own, plain) = (
        Made::by_openssl(NAME, Flaw::None),
        Made::plain(NAME, Flaw::None),
    );
    for (shows, listed) in [
        (&issued, &trusted),
        (&issued, &issued.certificate),
        (&own, &own.certificate),
        (&plain, &plain.certificate),
    ] {
        for name in [None, Some(NAME)] {
            assert_eq!(shown(at, shows, name, &[listed]).await, None);
        }
        let refused = shown(at, shows, Some("zope.example"), &[listed]).await;
        assert!(refused.unwrap().contains("not valid for name"));
    }
}

#[tokio::test]
async fn a_listed_server_is_taken_while_it_is_good_and_vouches_for_nobody() {
    let folder = tempfile::tempdir().unwrap();
    for (flaw, expected) in [
        (Flaw::Expired, "Expired"),
        (Flaw::ForClients, "InvalidPurpose"),
    ] {
        for server in [Made::by_openssl(NAME, flaw), Made::plain(NAME, flaw)] {
            let listed = [server.certificate.as_str()];
            let refused = shown(folder.path(), &server, None, &listed).await;
            let refused = refused.unwrap();
            assert!(refused.contains(expected), "{refused}");
        }
    }
    for signs in [
        Authority::presumed(NAME, Flaw::None),
        Authority::presumed(NAME, Flaw::Expired),
        Authority::with(NAME, Flaw::Expired),
    ] {
        let another = signs.issue(NAME, 1, Flaw::None);
        let listed = signs.certificate();
        let refused = shown(folder.path(), &another, None, &[&listed]).await;
        let refused = refused.unwrap();
        assert!(refused.contains("UnknownIssuer"), "{refused}");
    }
}

#[tokio::test]
async fn a_server_that_its_authority_has_taken_back_is_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let authority = Authority::new("an authority");
    let (good, bad) = (
        authority.issue(NAME, 1, Flaw::None),
        authority.issue(NAME, 2, Flaw::None),
    );
    let trusted = authority.certificate();
    let list = authority.takes_back(2);
    for name in [None, Some(NAME)] {
        assert_eq!(shown(at, &bad, name, &[&trusted]).await, None);
        assert_eq!(shown(at, &good, name, &[&trusted, &list]).await, None);
        // Whether it is listed itself or not.
        for listed in ["", bad.certificate.as_str()] {
            let refused = shown(at, &bad, name, &[&trusted, listed, &list]).await;
            let refused = refused.unwrap();
            assert!(refused.to_lowercase().contains("revoked"), "{refused}");
        }
    }
}
