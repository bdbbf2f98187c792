//! `<zeoclient>` and `<clientstorage>`: a member that is a storage of a ZEO server. ZODB's and ZEO's
//! `component.xml`.

use super::ImportedMember;
use super::member::MemberDraft;
use super::paths::Paths;
use crate::config::Address;
use crate::config::zconfig::document::Map;
use crate::config::zconfig::notes::Findings;
use crate::config::zconfig::reader::{Fate, Left, Reader};
use crate::config::zconfig::tree::{Key, Place, Section};
use crate::config::zconfig::values::{Socket, boolean, socket};

pub(super) const PASSWORD_FUNCTION: Left = (
    "password-function",
    Fate::ToDo,
    "functions of Python cannot be called here: write the key without a password into a file that only the daemon may \
     read (`openssl pkey -in KEY -out NEW`)",
);

const CACHE: &str =
    "the daemon keeps no cache on disk for a member; records in memory are `cache` of the array";
const POLL: &str = "the daemon tries again by itself, more and more rarely";
const PASSWORD: &str = "passwords have been gone since ZEO 5: use TLS (`tls` of the member)";

const LEFT: &[Left] = &[
    ("cache-size", Fate::Known, CACHE),
    ("cache-path", Fate::Known, CACHE),
    ("client", Fate::Known, CACHE),
    ("var", Fate::Known, CACHE),
    (
        "name",
        Fate::Known,
        "members have the names of their sections",
    ),
    ("min-disconnect-poll", Fate::Known, POLL),
    ("max-disconnect-poll", Fate::Known, POLL),
    (
        "wait",
        Fate::Known,
        "the daemon starts without a member that does not answer, where others suffice",
    ),
    (
        "wait-timeout",
        Fate::Known,
        "how long the daemon waits for a member is `open_timeout` of the array",
    ),
    (
        "drop-cache-rather-verify",
        Fate::Known,
        "there is no cache of a member to verify",
    ),
    (
        "server-sync",
        Fate::Known,
        "the daemon hears of every transaction",
    ),
    (
        "client-label",
        Fate::Known,
        "a server's log names the address instead",
    ),
    (
        "blob-cache-size",
        Fate::Known,
        "the daemon keeps no cache of blobs",
    ),
    (
        "blob-cache-size-check",
        Fate::Known,
        "the daemon keeps no cache of blobs",
    ),
    ("username", Fate::ToDo, PASSWORD),
    ("password", Fate::ToDo, PASSWORD),
    ("realm", Fate::ToDo, PASSWORD),
];

/// What a client says of blobs.
#[derive(Debug, Clone)]
pub(super) struct ClientBlobs {
    pub(super) folder: String,
    pub(super) is_shared: bool,
    pub(super) place: Place,
}

pub(super) fn member(
    section: &Section,
    paths: &Paths<'_>,
    found: &mut Findings,
) -> Option<MemberDraft> {
    let mut reader = Reader::new(section);
    let mut map = Map::default();
    let address = address(&mut reader, paths, found);
    if let Some((address, place)) = &address {
        map.text("zeo", address, place);
    }
    let storage = reader.one("storage", found);
    if let Some(key) = storage {
        map.text("storage", &key.value, &key.place);
    }
    if let Some(ssl) = reader.one_section("ssl", found) {
        map.put(
            "tls",
            client_tls(ssl, paths, found).node(),
            std::slice::from_ref(&ssl.place),
        );
    }
    if let Some((true, place)) = reader.value("read-only", boolean, found) {
        found.must_do(
            place,
            format!("`read-only true` in {}", section.title()),
            "a member is written to; for clients that only read, set `read_only: true` of the array",
        );
    }
    if let Some((true, place)) = reader.value("read-only-fallback", boolean, found) {
        found.must_do(
            place,
            format!("`read-only-fallback true` in {}", section.title()),
            "a member is written to: it must not be a server that only reads",
        );
    }
    let folder = reader.one("blob-dir", found);
    let shared = reader.value("shared-blob-dir", boolean, found);
    let blobs = folder.map(|key| ClientBlobs {
        folder: paths.absolute(key, found),
        is_shared: shared.is_some_and(|(yes, _)| yes),
        place: key.place.clone(),
    });
    reader.left(LEFT, found);
    reader.end(found);
    let (at, _) = address?;
    Some(MemberDraft {
        map,
        shown: ImportedMember {
            name: String::new(),
            kind: "zeo",
            at,
            storage: Some(storage.map_or("1", |key| &key.value).to_owned()),
            blob_dir: None,
            from: section.place.clone(),
        },
        file: None,
        client_blobs: blobs,
    })
}

/// The first address; a member has one.
fn address(
    reader: &mut Reader<'_>,
    paths: &Paths<'_>,
    found: &mut Findings,
) -> Option<(String, Place)> {
    let section = reader.section;
    let mut keys = reader.all("server");
    // ZODB knows no such key, and yet it is written like that in old examples.
    let misnamed = reader.all("address");
    if keys.is_empty() && !misnamed.is_empty() {
        let first: &Key = misnamed[0];
        found.known(
            &first.place,
            format!("`address {}` in <{}>", first.value, section.kind),
            "ZODB calls it `server`, and that is what it is taken for",
        );
        keys = misnamed;
    }
    let [first, others @ ..] = keys.as_slice() else {
        found.mistake(
            &section.place,
            format!("{} has no `server`", section.title()),
            "add `server HOST:PORT`",
        );
        return None;
    };
    for other in others {
        found.must_do(
            &other.place,
            format!("`server {}`, a further one in {}", other.value, section.title()),
            format!(
                "a member is one server: {} is taken. Where this is another copy of the database, make it a member of \
                 its own",
                first.value
            ),
        );
    }
    match socket(&first.value) {
        Ok(Socket::Unix(_)) => {
            let address = Address::Unix(paths.absolute(first, found).into());
            Some((address.to_string(), first.place.clone()))
        }
        Ok(Socket::Tcp { host, port }) => {
            let host = if host.is_empty() {
                "127.0.0.1".to_owned()
            } else {
                host
            };
            Some((Address::Tcp { host, port }.to_string(), first.place.clone()))
        }
        Err(what) => {
            let (what, mend) = what.split_once("; ").unwrap_or((&what, ""));
            found.mistake(&first.place, format!("server: {what}"), mend);
            None
        }
    }
}

fn client_tls(section: &Section, paths: &Paths<'_>, found: &mut Findings) -> Map {
    let mut reader = Reader::new(section);
    let mut map = Map::default();
    for name in ["authenticate", "certificate", "key"] {
        let Some(key) = reader.one(name, found) else {
            continue;
        };
        // ZEO's client has a word for what is our default: whom the system trusts.
        if name == "authenticate" && matches!(key.value.as_str(), "SIGNED" | "DYNAMIC") {
            continue;
        }
        map.text(name, &paths.absolute(key, found), &key.place);
    }
    if let Some(key) = reader.one("server-hostname", found) {
        map.text("server_name", &key.value, &key.place);
    }
    if let Some((yes, place)) = reader.value("check-hostname", boolean, found) {
        map.plain("check_hostname", yes, place);
    }
    reader.left(&[PASSWORD_FUNCTION], found);
    reader.end(found);
    map
}
