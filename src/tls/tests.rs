//! Who is let in, and what is said of files that cannot be used.

use std::path::Path;

use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateRevocationListDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::danger::ClientCertVerifier as _;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, HandshakeKind};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::clients::Clients;
use super::files::Trusted;
use super::testing::{Authority, Flaw, Made, client, impostor, put};
use super::*;

/// A server whose clients are judged by these texts, each in a file of a folder.
struct House {
    folder: tempfile::TempDir,
    server: Made,
    tls: ServerTls,
}

fn house(listed: &[&str]) -> House {
    let folder = tempfile::tempdir().unwrap();
    let server = Made::plain("zeo.example", Flaw::None);
    let at = folder.path();
    let clients = at.join("clients");
    std::fs::create_dir(&clients).unwrap();
    for (number, text) in listed.iter().enumerate() {
        put(&clients, &format!("{number}.pem"), text);
    }
    let tls = ServerTls {
        certificate: put(at, "server.pem", &server.certificate),
        key: Some(put(at, "server.key", &server.key)),
        authenticate: Authenticate::Listed(clients),
    };
    House {
        folder,
        server,
        tls,
    }
}

impl House {
    /// A handshake; what the server finds wrong with the client.
    async fn comes(&self, shows: Option<&Made>) -> Result<(), String> {
        self.comes_as(client(&self.server, shows)).await
    }

    async fn comes_as(&self, client: Arc<ClientConfig>) -> Result<(), String> {
        let speaks = self.tls.read().map_err(|error| error.to_string())?;
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let connector = TlsConnector::from(client);
        let name = ServerName::try_from("zeo.example").unwrap();
        let acceptor = TlsAcceptor::from(speaks.config);
        // A client of TLS 1.3 is done before it is judged.
        let (came, _) = tokio::join!(acceptor.accept(ours), connector.connect(name, theirs));
        came.map(drop).map_err(|error| {
            let found = error.get_ref().expect("not of the system's");
            why_refused(found.downcast_ref().expect("an error of TLS"))
        })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

#[tokio::test]
async fn who_is_listed_or_signed_by_who_is_comes_in_and_nobody_else() {
    let (openssl, plain) = (
        Made::by_openssl("one", Flaw::None),
        Made::plain("two", Flaw::None),
    );
    let (late, late_plain) = (
        Made::by_openssl("three", Flaw::Expired),
        Made::plain("four", Flaw::Expired),
    );
    let (for_servers, for_servers_plain) = (
        Made::by_openssl("eight", Flaw::ForServers),
        Made::plain("nine", Flaw::ForServers),
    );
    let for_clients = Made::by_openssl("ten", Flaw::ForClients);
    let authority = Authority::new("an authority");
    let listed = [
        openssl.certificate.as_str(),
        &plain.certificate,
        &late.certificate,
        &late_plain.certificate,
        &for_servers.certificate,
        &for_servers_plain.certificate,
        &for_clients.certificate,
        &authority.certificate(),
        "this is no certificate",
    ];
    let house = house(&listed);
    let issued = authority.issue("five", 5, Flaw::None);
    for good in [&openssl, &plain, &for_clients, &issued] {
        assert_eq!(house.comes(Some(good)).await, Ok(()));
    }

    let stranger = Made::by_openssl("one", Flaw::None);
    let plain_stranger = Made::plain("somebody", Flaw::None);
    let of_another = Authority::new("an authority").issue("five", 5, Flaw::None);
    for (shows, expected) in [
        (None, "it shows no certificate"),
        (Some(&stranger), "an authority's, is not listed itself"),
        (Some(&plain_stranger), "nor signed by one that is"),
        (Some(&of_another), "signature"),
        (Some(&late), "expired"),
        (Some(&late_plain), "expired"),
        (Some(&for_servers), "extended key usage"),
        (Some(&for_servers_plain), "extended key usage"),
        (Some(&authority.issue("six", 6, Flaw::Expired)), "expired"),
        (
            Some(&authority.issue("seven", 7, Flaw::ForServers)),
            "extended key usage",
        ),
    ] {
        let refused = house.comes(shows).await.expect_err(expected);
        let has = refused.to_lowercase().contains(&expected.to_lowercase());
        assert!(has, "{refused}\nnot: {expected}");
    }
}

#[tokio::test]
async fn who_has_copied_a_listed_certificate_does_not_come_in_without_its_key() {
    let (own, plain) = (
        Made::by_openssl("one", Flaw::None),
        Made::plain("two", Flaw::None),
    );
    let authority = Authority::new("an authority");
    let issued = authority.issue("three", 3, Flaw::None);
    let house = house(&[
        &own.certificate,
        &plain.certificate,
        &authority.certificate(),
    ]);
    let thief = Made::plain("four", Flaw::None);
    for version in [&TLS12, &TLS13] {
        for known in [&own, &plain, &issued] {
            let itself = impostor(&house.server, version, known, known);
            assert_eq!(house.comes_as(itself).await, Ok(()));
            let copied = impostor(&house.server, version, known, &thief);
            let refused = house.comes_as(copied).await.unwrap_err();
            assert!(refused.to_lowercase().contains("signature"), "{refused}");
        }
    }
}

#[tokio::test]
async fn who_is_listed_lets_nobody_else_in_unless_it_is_an_authority_in_force() {
    for signs in [
        Authority::presumed("alice", Flaw::None),
        Authority::presumed("alice", Flaw::Expired),
        Authority::with("alice", Flaw::Expired),
    ] {
        let house = house(&[&signs.certificate()]);
        let mallory = signs.issue("mallory", 1, Flaw::None);
        let refused = house.comes(Some(&mallory)).await.unwrap_err();
        assert!(
            refused.contains("of an authority and in force"),
            "{refused}"
        );
        // Until it is listed itself.
        put(
            &house.path().join("clients"),
            "mallory.pem",
            &mallory.certificate,
        );
        assert_eq!(house.comes(Some(&mallory)).await, Ok(()));
    }
}

#[test]
fn authorities_are_judged_again_at_each_handshake() {
    let authority = Authority::with("an authority", Flaw::UntilLater);
    let own = Made::by_openssl("own", Flaw::UntilLater);
    let folder = tempfile::tempdir().unwrap();
    let both = format!("{}{}", authority.certificate(), own.certificate);
    let trusted = Trusted::listed(&put(folder.path(), "both.pem", &both)).unwrap();
    let clients = Clients::new(trusted, Arc::new(ring::default_provider())).unwrap();
    let issued = authority.issue("one", 1, Flaw::None);
    let at = |shows: &Made, year: u64| {
        let time = UnixTime::since_unix_epoch(Duration::from_hours((year - 1970) * 8766));
        let judged = clients.verify_client_cert(&shows.der(), &[], time);
        judged.map(drop).map_err(|error| why_refused(&error))
    };
    for client in [&issued, &own] {
        assert_eq!(at(client, 2080), Ok(()));
    }
    let late = at(&issued, 2095).unwrap_err();
    assert!(late.contains("of an authority and in force"), "{late}");
    assert_eq!(
        at(&own, 2095),
        Err("its certificate has expired".to_owned())
    );
    // A clock may be put right.
    assert_eq!(at(&issued, 2080), Ok(()));
}

#[tokio::test]
async fn no_session_is_taken_up_again_without_judging_its_client() {
    let own = Made::by_openssl("own", Flaw::None);
    let house = house(&[&own.certificate]);
    let speaks = house.tls.read().unwrap();
    for version in [&TLS12, &TLS13] {
        let client = impostor(&house.server, version, &own, &own);
        for _ in 0..2 {
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            let connector = TlsConnector::from(Arc::clone(&client));
            let name = ServerName::try_from("zeo.example").unwrap();
            let acceptor = TlsAcceptor::from(Arc::clone(&speaks.config));
            let (came, went) = tokio::join!(acceptor.accept(ours), connector.connect(name, theirs));
            let kind = came.unwrap().get_ref().1.handshake_kind();
            assert_eq!(kind, Some(HandshakeKind::Full), "{version:?}");
            drop(went.unwrap());
        }
    }
}

#[tokio::test]
async fn what_an_authority_has_taken_back_does_not_come_in() {
    let authority = Authority::new("an authority");
    let (good, bad) = (
        authority.issue("good", 1, Flaw::None),
        authority.issue("bad", 2, Flaw::None),
    );
    let own = Made::by_openssl("own", Flaw::None);
    let certificate = authority.certificate();
    let before = house(&[&certificate, &own.certificate]);
    for client in [&good, &bad, &own] {
        assert_eq!(before.comes(Some(client)).await, Ok(()));
    }
    let list = authority.takes_back(2);
    let after = house(&[&certificate, &own.certificate, &list]);
    // That it is listed itself does not help who was taken back.
    let listed = house(&[&certificate, &good.certificate, &bad.certificate, &list]);
    // The list may be in the file of the authority as well, and then there is one file.
    let both = format!("{certificate}{list}");
    let mut in_one = house(&[]);
    let file = put(in_one.path(), "both.pem", &both);
    in_one.tls.authenticate = Authenticate::Listed(file);
    for house in [&after, &listed, &in_one] {
        assert_eq!(house.comes(Some(&good)).await, Ok(()));
        let refused = house.comes(Some(&bad)).await.unwrap_err();
        assert!(refused.to_lowercase().contains("revoked"), "{refused}");
        // Where there are lists, everyone must be found in one, as OpenSSL has it.
        house.comes(Some(&own)).await.unwrap_err();
    }
}

#[test]
fn the_same_files_give_the_same_and_others_do_not() {
    let one = Made::plain("one", Flaw::None);
    let house = house(&[&one.certificate]);
    let first = house.tls.read().unwrap().digest;
    assert_eq!(house.tls.read().unwrap().digest, first);
    let clients = house.path().join("clients");
    put(
        &clients,
        "2.pem",
        &Made::plain("two", Flaw::None).certificate,
    );
    assert_ne!(house.tls.read().unwrap().digest, first);
}

#[test]
fn files_that_cannot_be_used_are_named_with_what_is_wrong() {
    let one = Made::plain("one", Flaw::None);
    let house = house(&[&one.certificate]);
    let at = house.path();
    let good = &house.tls;
    let both = format!("{}{}", house.server.certificate, house.server.key);
    let both = put(at, "both.pem", &both);
    let in_one = ServerTls {
        certificate: both,
        key: None,
        ..good.clone()
    };
    in_one.read().unwrap();

    let empty = at.join("empty");
    std::fs::create_dir(&empty).unwrap();
    put(&empty, "README", "nothing here");
    // Folders of which one file would be left out.
    let beside = |folder: &str, name: &str, make: &dyn Fn(&Path)| {
        let folder = at.join(folder);
        std::fs::create_dir(&folder).unwrap();
        put(&folder, "good.pem", &one.certificate);
        put(&folder, "README", "Who may come in.");
        std::fs::create_dir(folder.join("old")).unwrap();
        let tls = ServerTls {
            authenticate: Authenticate::Listed(folder.clone()),
            ..good.clone()
        };
        tls.read().unwrap();
        make(&folder.join(name));
        tls
    };
    let der = beside("der", "list.crl", &|path| {
        let authority = Authority::new("an authority");
        let list = authority.takes_back(1);
        let list = CertificateRevocationListDer::from_pem_slice(list.as_bytes()).unwrap();
        std::fs::write(path, list.as_ref()).unwrap();
    });
    // Even who may read every file cannot read this one, at its beginning.
    let unreadable = beside("unreadable", "crl.pem", &|path| {
        std::os::unix::fs::symlink("/proc/self/mem", path).unwrap();
    });
    let nowhere = beside("nowhere", "crl.pem", &|path| {
        std::os::unix::fs::symlink("gone", path).unwrap();
    });
    let halves = beside("halves", "half.pem", &|path| {
        std::fs::write(path, "-----BEGIN CERTIFICATE-----\nAAAA\n").unwrap();
    });
    let certificate = |name: &str, text: &str| ServerTls {
        certificate: put(at, name, text),
        ..good.clone()
    };
    let key = |name: &str, text: &str| ServerTls {
        key: Some(put(at, name, text)),
        ..good.clone()
    };
    let listed = |path| ServerTls {
        authenticate: Authenticate::Listed(path),
        ..good.clone()
    };
    let open = key("open.key", &house.server.key);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(open.key.as_ref().unwrap(), mode).unwrap();
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let older = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES\n\nAAAA\n\
                 -----END RSA PRIVATE KEY-----\n";
    let without_key = ServerTls {
        key: None,
        ..good.clone()
    };
    for (tls, path, expected) in [
        (
            certificate("none.pem", "x"),
            "none.pem",
            "`BEGIN CERTIFICATE` (PEM) is expected",
        ),
        (
            certificate("half.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n"),
            "half.pem",
            "cannot be read",
        ),
        (without_key, "server.pem", "name its file with `key`"),
        (key("none.key", "x"), "none.key", "there is no private key"),
        (
            key("password.key", encrypted),
            "password.key",
            "has a password",
        ),
        (key("older.key", older), "older.key", "openssl pkey -in"),
        (
            key("other.key", &one.key),
            "other.key",
            "does not go with the certificate",
        ),
        (
            open,
            "open.key",
            "is open to everybody on this machine (mode 0644); `chmod o-rwx",
        ),
        (der, "der/list.crl", "openssl crl"),
        (unreadable, "unreadable/crl.pem", "could not read"),
        (nowhere, "nowhere/crl.pem", "could not read"),
        (halves, "halves/half.pem", "cannot be read"),
        (listed(empty), "empty", "no certificate in the files of"),
        (listed(at.join("gone.pem")), "gone.pem", "could not read"),
    ] {
        let error = tls.read().expect_err(expected);
        let text = error.to_string();
        assert!(text.contains(expected), "{text}\nnot: {expected}");
        assert_eq!(error.path(), Some(at.join(path).as_path()), "{text}");
    }
}
