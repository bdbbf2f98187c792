//! `<zeo>`: where clients connect, and how they are served. ZEO's `server.xml`, and what older ones had.

use super::paths::Paths;
use super::{Draft, said};
use crate::config::zconfig::document::{Item, Map, Node};
use crate::config::zconfig::notes::Findings;
use crate::config::zconfig::reader::{Fate, Left, Reader};
use crate::config::zconfig::tree::{Place, Section};
use crate::config::zconfig::values::{Socket, boolean, float, integer, socket};
use crate::config::{Address, format_duration};

const LEFT: &[Left] = &[
    (
        "monitor-address",
        Fate::ToDo,
        "there is no monitor port: ask `zeoraidctl status` (also for Nagios), or set `admin.address` and let Prometheus \
         read /metrics there",
    ),
    (
        "authentication-protocol",
        Fate::ToDo,
        "passwords have been gone since ZEO 5: use TLS (`tls` of `listen`), which knows clients by their certificates",
    ),
    (
        "authentication-database",
        Fate::ToDo,
        "goes with `authentication-protocol`, which is gone",
    ),
    (
        "authentication-realm",
        Fate::ToDo,
        "goes with `authentication-protocol`, which is gone",
    ),
    (
        "auth-protocol",
        Fate::ToDo,
        "passwords have been gone since ZEO 5: use TLS (`tls` of `listen`), which knows clients by their certificates",
    ),
    (
        "drop-cache-rather-verify",
        Fate::Known,
        "how a client verifies its cache is its own setting",
    ),
];

pub(super) fn zeo(section: &Section, paths: &Paths<'_>, draft: &mut Draft) {
    if let Some(other) = &draft.zeo {
        draft.found.mistake(
            &section.place,
            format!("a second <zeo>; the first is in {other}"),
            "one server has one: import the other into an instance of its own",
        );
        return;
    }
    draft.zeo = Some(section.place.clone());
    let found = &mut draft.found;
    let mut reader = Reader::new(section);
    let tls = reader
        .one_section("ssl", found)
        .map(|section| (server_tls(section, paths, found), section.place.clone()));
    match reader.one("address", found) {
        None => found.mistake(
            &section.place,
            "<zeo> has no `address`",
            "add `address 127.0.0.1:8100`: where clients connect",
        ),
        Some(key) => match socket(&key.value) {
            Ok(Socket::Unix(_)) => {
                let address = Address::Unix(paths.absolute(key, found).into());
                draft.addresses.push(address.to_string());
                draft.listen.push(listen(&address, tls, &key.place));
            }
            Ok(Socket::Tcp { host, port }) => {
                let everywhere = host.is_empty();
                let host = if everywhere {
                    "0.0.0.0".to_owned()
                } else {
                    host
                };
                let address = Address::Tcp { host, port };
                if everywhere {
                    found.known(
                        &key.place,
                        format!("{} listens on every IPv4 address of this machine, as before", said(key)),
                        format!(
                            "ZEO knows nobody by a password: write `127.0.0.1:{port}` where all clients are on this \
                             machine; for IPv6 add `[::]:{port}`"
                        ),
                    );
                }
                draft.addresses.push(address.to_string());
                draft.listen.push(listen(&address, tls, &key.place));
            }
            Err(what) => {
                let (what, mend) = what.split_once("; ").unwrap_or((&what, ""));
                found.mistake(&key.place, format!("address: {what}"), mend);
            }
        },
    }
    serving(&mut reader, draft);
    let found = &mut draft.found;
    if let Some(key) = reader.one("pid-filename", found) {
        draft.pid_file = Some((paths.absolute(key, found), key.place.clone()));
    }
    reader.left(LEFT, found);
    reader.end(found);
}

/// How clients are served.
fn serving(reader: &mut Reader<'_>, draft: &mut Draft) {
    let found = &mut draft.found;
    if let Some((yes, place)) = reader.value("msgpack", boolean, found) {
        draft
            .serving
            .plain("encoding", if yes { "M5" } else { "Z5" }, place);
    }
    if let Some((yes, place)) = reader.value("read-only", boolean, found) {
        draft.serving.plain("read_only", yes, place);
    }
    match reader.value("transaction-timeout", integer, found) {
        Some((seconds, place)) if seconds < 1 => found.mistake(
            place,
            format!("transaction-timeout: {seconds} seconds are no time"),
            "write at least 1, or remove it",
        ),
        Some((seconds, place)) => {
            let time = std::time::Duration::from_secs(seconds.unsigned_abs());
            draft
                .serving
                .plain("transaction_timeout", format_duration(time), place);
        }
        None => found.known(
            &reader.section.place,
            "there is no `transaction-timeout`: a client could hold the commit lock for ever",
            "it loses its connection after 1m now; `transaction_timeout` says another time",
        ),
    }
    match reader.value("invalidation-queue-size", integer, found) {
        Some((size, place)) if size < 1 => found.must_do(
            place,
            format!("`invalidation-queue-size {size}`"),
            "at least 1 is kept here: the default of 1000 is taken (`invalidation_queue`)",
        ),
        Some((size, place)) => {
            let queue = ("invalidation_queue", size.to_string(), place.clone());
            draft.of_arrays.push(queue);
        }

        None => {}
    }
    if let Some((seconds, place)) = reader.value("invalidation-age", float, found) {
        if (0.0..=3e9).contains(&seconds) {
            let age = std::time::Duration::from_millis((seconds * 1000.0) as u64);
            let age = ("invalidation_age", format_duration(age), place.clone());
            draft.of_arrays.push(age);
        } else {
            let what = format!("invalidation-age: {seconds} is no age");
            found.mistake(place, what, "write seconds, like 3600");
        }
    }
    match reader.value("client-conflict-resolution", boolean, found) {
        Some((true, place)) => found.known(
            place,
            "`client-conflict-resolution true`",
            "that is how it always is here",
        ),
        Some((false, place)) => {
            draft.resolves = Some((place.clone(), "`client-conflict-resolution false`"));
        }
        None => {
            let place = reader.section.place.clone();
            draft.resolves = Some((place, "there is no `client-conflict-resolution`"));
        }
    }
}

/// An address, with its TLS where it has some.
fn listen(address: &Address, tls: Option<(Map, Place)>, place: &Place) -> Item {
    let text = Node::text(&address.to_string());
    let Some((tls, from)) = tls else {
        return Item {
            node: text,
            from: vec![place.clone()],
        };
    };
    let mut map = Map::default();
    map.put("address", text, std::slice::from_ref(place));
    map.put("tls", tls.node(), &[from]);
    Item {
        node: map.node(),
        from: Vec::new(),
    }
}

fn server_tls(section: &Section, paths: &Paths<'_>, found: &mut Findings) -> Map {
    let mut reader = Reader::new(section);
    let mut map = Map::default();
    for name in ["certificate", "key", "authenticate"] {
        let Some(key) = reader.one(name, found) else {
            if name != "key" {
                found.mistake(
                    &section.place,
                    format!("<ssl> has no `{name}`"),
                    format!("add `{name} FILE`, in PEM form"),
                );
            }
            continue;
        };
        if name == "authenticate" && matches!(key.value.as_str(), "SIGNED" | "DYNAMIC") {
            map.text(name, "SIGNED", &key.place);
        } else {
            map.text(name, &paths.absolute(key, found), &key.place);
        }
    }
    reader.left(&[super::server::PASSWORD_FUNCTION], found);
    reader.end(found);
    map
}
