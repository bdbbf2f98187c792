//! Who uses which address, file, folder and server: what two places of a configuration must not share.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::address::{collide, socket_length};
use super::model::Address;
use super::read::Place;
use super::section::{Findings, shown};

#[derive(Default)]
pub(super) struct Claims {
    addresses: Vec<(Address, String, Place)>,
    files: HashMap<PathBuf, (String, Place)>,
    folders: Vec<(PathBuf, String, Place)>,
    servers: Vec<Server>,
}

/// A storage of a ZEO server that is a member.
struct Server {
    address: Address,
    storage: String,
    key: String,
    place: Place,
}

impl Claims {
    /// An address that is listened on.
    pub(super) fn address(
        &mut self,
        address: &Address,
        key: &str,
        place: Place,
        found: &mut Findings,
    ) {
        if let Address::Unix(path) = address {
            socket_length(path, key, place, found);
            self.file(path, key, place, found);
            return;
        }
        let clash = self
            .addresses
            .iter()
            .find(|(other, ..)| collide(other, address));
        if let Some((other, other_key, other_place)) = clash {
            let line = line_of(*other_place);
            let what = if other == address {
                format!("{key}: {address} is there twice, first as {other_key}{line}")
            } else {
                format!("{key}: {address} collides with {other} ({other_key}{line})")
            };
            found.mistake(place, what, "use another port");
        }
        self.addresses
            .push((address.clone(), key.to_owned(), place));
    }

    /// A file that is written; false where another has it.
    pub(super) fn file(
        &mut self,
        path: &Path,
        key: &str,
        place: Place,
        found: &mut Findings,
    ) -> bool {
        let real = real(path);
        let taken = self
            .files
            .get(&real)
            .map(|(key, place)| (key.clone(), *place));
        let Some((other, other_place)) = taken else {
            self.files.insert(real, (key.to_owned(), place));
            return true;
        };
        let path = shown(&found.instance, path);
        let line = line_of(other_place);
        found.mistake(
            place,
            format!("{key}: {path} is already used by {other}{line}"),
            "each needs a file of its own",
        );
        false
    }

    /// A folder of blobs: two databases in one, or one within another's, overwrite each other's files.
    pub(super) fn folder(&mut self, path: &Path, key: &str, place: Place, found: &mut Findings) {
        let real = real(path);
        let within = |other: &Path| real.starts_with(other) || other.starts_with(&real);
        let clash = self.folders.iter().find(|(other, ..)| within(other));
        if let Some((_, other, other_place)) = clash {
            let path = shown(&found.instance, path);
            let line = line_of(*other_place);
            found.mistake(
                place,
                format!(
                    "{key}: {path} is the folder of {other}{line}, or within it or around it: \
                     blobs of one would overwrite the other's"
                ),
                "each needs a folder of its own",
            );
        } else {
            self.file(path, key, place, found);
        }
        self.folders.push((real, key.to_owned(), place));
    }

    /// A ZEO server that is a member.
    pub(super) fn server(
        &mut self,
        address: &Address,
        storage: &str,
        key: &str,
        place: Place,
        found: &mut Findings,
    ) {
        if let Some((listened, line)) = self.listened(address) {
            found.mistake(
                place,
                format!("{key}: {address} is this daemon's own address ({listened}{line}): it would wait for itself"),
                "write the address of a ZEO server",
            );
        }
        let same = |server: &&Server| one_server(&server.address, address);
        if let Some(first) = self.servers.iter().find(same) {
            let (other, line) = (&first.key, line_of(first.place));
            if first.storage == storage {
                found.mistake(
                    place,
                    format!("{key}: the storage {storage} of {address} is already a member, {other}{line}"),
                    "one copy is no RAID; write the address of another server",
                );
            } else {
                let what = format!(
                    "{key}: {address} is also the server of {other}{line}; where it fails, both are gone"
                );
                found.warning(place, what, "keep each copy on a server of its own");
            }
        }
        self.servers.push(Server {
            address: address.clone(),
            storage: storage.to_owned(),
            key: key.to_owned(),
            place,
        });
    }

    /// The setting by which this daemon listens on an address itself.
    fn listened(&self, address: &Address) -> Option<(String, String)> {
        if let Address::Unix(path) = address {
            let (key, place) = self.files.get(&real(path))?;
            return Some((key.clone(), line_of(*place)));
        }
        let address = plain(address);
        let clash = |other: &Address| {
            let everywhere =
                matches!(other, Address::Tcp { host, .. } if host == "0.0.0.0" || host == "::");
            let here =
                matches!(&address, Address::Tcp { host, .. } if super::address::is_loopback(host));
            // `0.0.0.0` is every address of this machine, and only of loopback is it known to be one.
            plain(other) == address || (everywhere && here && collide(other, &address))
        };
        let found = self.addresses.iter().find(|(other, ..)| clash(other))?;
        Some((found.1.clone(), line_of(found.2)))
    }
}

fn one_server(one: &Address, other: &Address) -> bool {
    match (one, other) {
        (Address::Unix(one), Address::Unix(other)) => real(one) == real(other),
        (one, other) => plain(one) == plain(other),
    }
}

/// Two names of this machine are one.
fn plain(address: &Address) -> Address {
    match address {
        Address::Tcp { host, port } if host == "localhost" => Address::Tcp {
            host: "127.0.0.1".into(),
            port: *port,
        },
        Address::Tcp { host, port } => Address::Tcp {
            host: host.to_ascii_lowercase(),
            port: *port,
        },
        Address::Unix(path) => Address::Unix(path.clone()),
    }
}

/// Two names of one file are one file, where that can be seen.
fn real(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// ` in line 12`, to be put after a key.
pub(super) fn line_of(place: Place) -> String {
    match place {
        Place::At { line: 0, .. } => String::new(),
        Place::At { line, .. } => format!(" in line {line}"),
        Place::Environment(variable) => format!(" in ${variable}"),
    }
}
