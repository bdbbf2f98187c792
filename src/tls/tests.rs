//! Who is let in, and what is said of files that cannot be used.

use std::path::Path;

use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::testing::{Authority, Flaw, Made, client, put};
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
        let speaks = self.tls.read().map_err(|error| error.to_string())?;
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let connector = TlsConnector::from(client(&self.server, shows));
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
    let authority = Authority::new("an authority");
    let listed = [
        openssl.certificate.as_str(),
        &plain.certificate,
        &late.certificate,
        &late_plain.certificate,
        &authority.certificate(),
        "this is no certificate",
    ];
    let house = house(&listed);
    let issued = authority.issue("five", 5, Flaw::None);
    for good in [&openssl, &plain, &issued] {
        assert_eq!(house.comes(Some(good)).await, Ok(()));
    }

    let stranger = Made::by_openssl("one", Flaw::None);
    let plain_stranger = Made::plain("somebody", Flaw::None);
    let stolen = Made {
        certificate: openssl.certificate.clone(),
        key: stranger.key.clone(),
    };
    let of_another = Authority::new("an authority").issue("five", 5, Flaw::None);
    for (shows, expected) in [
        (None, "it shows no certificate"),
        (Some(&stranger), "an authority's, is not listed itself"),
        (Some(&plain_stranger), "nor signed by one that is"),
        (Some(&of_another), "signature"),
        (Some(&late), "expired"),
        (Some(&late_plain), "expired"),
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
    // Who has copied a listed certificate has not its key: its own end refuses already, and so would we.
    assert!(std::panic::catch_unwind(|| client(&house.server, Some(&stolen))).is_err());
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
    // The list may be in the file of the authority as well, and then there is one file.
    let both = format!("{certificate}{list}");
    let mut in_one = house(&[]);
    let file = put(in_one.path(), "both.pem", &both);
    in_one.tls.authenticate = Authenticate::Listed(file);
    for house in [&after, &in_one] {
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
        (listed(empty), "empty", "no certificate in the files of"),
        (listed(at.join("gone.pem")), "gone.pem", "could not read"),
    ] {
        let error = tls.read().expect_err(expected);
        let text = error.to_string();
        assert!(text.contains(expected), "{text}\nnot: {expected}");
        assert_eq!(error.path(), Some(at.join(path).as_path()), "{text}");
    }
}
