//! The members of an array, one by one: a file of this daemon, or a ZEO server.

use std::path::{Path, PathBuf};

use super::address::{address, is_loopback};
use super::check::name;
use super::claims::Claims;
use super::model::{Address, MemberConfig, MemberStorage, MemberTls, ZeoServer};
use super::read::{Entry, Place, Value};
use super::section::{Findings, Section, shown};

/// A member, and where it is written.
pub(super) struct Member {
    pub(super) config: MemberConfig,
    /// `arrays.main.members.a`.
    pub(super) key: String,
    pub(super) place: Place,
}

const EXAMPLE: &str = "write `members: {a: {file: var/a/Data.fs}, b: {file: var/b/Data.fs}}`";

pub(super) fn members(
    section: &mut Section<'_>,
    place: Place,
    claims: &mut Claims,
    found: &mut Findings,
) -> Vec<Member> {
    let node = section.node("members");
    let place = node.map_or(place, |node| node.place);
    let all = Section::new(section.key("members"), node, found);
    let is_broken = all.is_broken();
    let entries = all.named();
    if entries.is_empty() && !is_broken {
        let key = section.key("members");
        let array = key.trim_end_matches(".members");
        found.mistake(place, format!("{array} has no members"), EXAMPLE);
    }
    let mut members = Vec::new();
    for entry in entries {
        name(entry, "a member", found);
        let key = section.key(&format!("members.{}", entry.key));
        members.push(member(entry, key, claims, found));
    }
    members
}

/// A member whose place is missing keeps its own, so that counts are right while checking goes on.
fn member(entry: &Entry, key: String, claims: &mut Claims, found: &mut Findings) -> Member {
    let mut section = Section::new(key.clone(), Some(&entry.node), found);
    let is_map = matches!(entry.node.value, Value::Map(_));
    let (zeo, file) = (section.node("zeo"), section.node("file"));
    let (storage, adopted) = match (file, zeo) {
        (None, Some(_)) => (zeo_server(&mut section, claims, found), false),
        (Some(_), None) => {
            let storage = file_storage(&mut section, claims, found);
            (storage, adopted(&mut section, found))
        }
        (Some(_), Some(zeo)) => {
            found.mistake(
                zeo.place,
                format!("{key} is both a file and a ZEO server"),
                "remove `file` or `zeo`, or make two members of it",
            );
            return Member::unknown(entry, key);
        }
        (None, None) => {
            if is_map || matches!(entry.node.value, Value::Nothing) {
                found.mistake(
                    entry.place,
                    format!("{key} does not say where its data is"),
                    format!(
                        "write `{0}: {{file: var/{0}/Data.fs}}`, or `{0}: {{zeo: 127.0.0.1:8100}}`",
                        entry.key
                    ),
                );
                // Asked for, so that only what is really unknown is reported as that.
                for known in ["blob_dir", "adopted", "storage", "connections", "tls"] {
                    section.node(known);
                }
                section.end(found);
            }
            return Member::unknown(entry, key);
        }
    };
    if is_map {
        section.end(found);
    }
    Member {
        config: MemberConfig {
            name: entry.key.clone(),
            storage,
            adopted,
        },
        place: entry.place,
        key,
    }
}

impl Member {
    /// For the rest of the checks, where what it is could not be read.
    fn unknown(entry: &Entry, key: String) -> Self {
        let storage = MemberStorage::File {
            file: PathBuf::new(),
            blob_dir: None,
        };
        Member {
            config: MemberConfig {
                name: entry.key.clone(),
                storage,
                adopted: false,
            },
            key,
            place: entry.place,
        }
    }
}

fn file_storage(
    section: &mut Section<'_>,
    claims: &mut Claims,
    found: &mut Findings,
) -> MemberStorage {
    let mut file = PathBuf::new();
    if let Some((path, place)) = section.optional_path("file", None, found) {
        claims.file(&path, &section.key("file"), place, found);
        file = path;
    }
    let blob_dir = section.optional_path("blob_dir", None, found);
    let blob_dir = blob_dir.map(|(path, place)| {
        claims.folder(&path, &section.key("blob_dir"), place, found);
        path
    });
    for foreign in ["storage", "connections", "tls"] {
        if let Some(node) = section.node(foreign) {
            let key = section.key(foreign);
            let what = format!("{key} is for ZEO servers, and this is a file");
            found.mistake(node.place, what, "remove it");
        }
    }
    MemberStorage::File { file, blob_dir }
}

/// Most files are not: only where it is written is it one of the settings.
fn adopted(section: &mut Section<'_>, found: &mut Findings) -> bool {
    section.node("adopted").is_some() && section.flag("adopted", false, found)
}

fn zeo_server(
    section: &mut Section<'_>,
    claims: &mut Claims,
    found: &mut Findings,
) -> MemberStorage {
    let instance = found.instance.clone();
    let show = |address: &Address| match address {
        Address::Unix(path) => format!("unix:{}", shown(&instance, path)),
        address @ Address::Tcp { .. } => address.to_string(),
    };
    let parse = |text: &str| server_address(text, &instance);
    let at = section.optional("zeo", parse, show, found);
    let storage = section.text("storage", "1", found);
    let connections = section.count("connections", 2, 1, found);
    if let Some(node) = section.node("blob_dir") {
        found.mistake(
            node.place,
            format!(
                "{}: a ZEO server keeps its blobs itself",
                section.key("blob_dir")
            ),
            "remove it, and set `blob-dir` in that server's zeo.conf",
        );
    }
    if let Some(node) = section.node("adopted") {
        let key = section.key("adopted");
        let what = format!("{key} is for files, and this is a ZEO server");
        found.mistake(node.place, what, "remove it");
    }
    let (address, place) = at.unwrap_or_else(|| {
        let unknown = Address::Unix(PathBuf::new());
        (unknown, section.place())
    });
    let is_unix = matches!(address, Address::Unix(_));
    let tls = tls(section, is_unix, found);
    if address != Address::Unix(PathBuf::new()) {
        claims.server(&address, &storage, &section.key("zeo"), place, found);
        warn_of_plain_text(section, &address, tls.is_some(), place, found);
    }
    MemberStorage::Zeo(ZeoServer {
        address,
        storage,
        connections,
        tls,
    })
}

/// What leaves this machine can be read and changed by whoever is in between.
fn warn_of_plain_text(
    section: &Section<'_>,
    address: &Address,
    has_tls: bool,
    place: Place,
    found: &mut Findings,
) {
    let Address::Tcp { host, .. } = address else {
        return;
    };
    let private = host
        .parse::<std::net::IpAddr>()
        .is_ok_and(|address| match address {
            std::net::IpAddr::V4(address) => address.is_private() || address.is_link_local(),
            std::net::IpAddr::V6(address) => address.is_unique_local(),
        });
    let is_name = host.parse::<std::net::IpAddr>().is_err();
    if has_tls || is_loopback(host) || private || is_name {
        return;
    }
    found.warning(
        place,
        format!(
            "{}: {address} is a public address, and there is no `tls`",
            section.key("zeo")
        ),
        "add `tls`, or make sure that nobody else can reach it",
    );
}

/// Where to connect: what can only be listened on is no address here.
fn server_address(text: &str, instance: &Path) -> Result<Address, String> {
    let parsed = address(text, instance).map_err(|(what, mend)| format!("{what}; {mend}"))?;
    if let Address::Tcp { host, port } = &parsed {
        if host == "0.0.0.0" || host == "::" {
            return Err(format!(
                "`{host}` means every address of a machine, and nobody can connect to it; write 127.0.0.1:{port}"
            ));
        }
        if *port == 0 {
            return Err("0 is no port to connect to; the port that the server listens on".into());
        }
    }
    Ok(parsed)
}

fn tls(section: &mut Section<'_>, is_unix: bool, found: &mut Findings) -> Option<MemberTls> {
    let place = section.node("tls")?.place;
    let mut tls = section.section("tls", found);
    if tls.is_broken() {
        return None;
    }
    let authenticate = certificate(&mut tls, "authenticate", found);
    let certificate_file = certificate(&mut tls, "certificate", found);
    let key = certificate(&mut tls, "key", found);
    if let (Some((_, place)), None) = (&key, &certificate_file) {
        found.mistake(
            *place,
            format!("{}: a key without a certificate", tls.key("key")),
            "add `certificate`, or remove `key`",
        );
    }
    let server_name = tls.optional(
        "server_name",
        |text| Ok(text.to_owned()),
        String::clone,
        found,
    );
    let check_hostname = tls.flag("check_hostname", true, found);
    if is_unix && check_hostname && server_name.is_none() {
        found.mistake(
            place,
            format!(
                "{}: over a Unix socket there is no host name to check",
                section.key("tls")
            ),
            "add `server_name: NAME`, or `check_hostname: false`",
        );
    }
    tls.end(found);
    Some(MemberTls {
        authenticate: authenticate.map(|(path, _)| path),
        certificate: certificate_file.map(|(path, _)| path),
        key: key.map(|(path, _)| path),
        server_name: server_name.map(|(name, _)| name),
        check_hostname,
    })
}

fn certificate(
    section: &mut Section<'_>,
    key: &'static str,
    found: &mut Findings,
) -> Option<(PathBuf, Place)> {
    let file = section.optional_path(key, None, found)?;
    if !file.0.exists() {
        let path = shown(&found.instance, &file.0);
        let what = format!("{}: {path} does not exist", section.key(key));
        found.mistake(file.1, what, "a file in PEM form");
    }
    Some(file)
}
