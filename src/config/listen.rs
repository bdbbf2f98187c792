//! Where ZEO clients connect: one address or a list of them, each as a text, or with its mode and its TLS.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::address::address;
use super::claims::Claims;
use super::mistake::Mistake;
use super::model::{Address, Config, Listen, Origin};
use super::read::{Node, Place, Value};
use super::section::{Findings, Section, origin, shown};
use crate::tls::{Authenticate, ServerTls};

const EXAMPLE: &str = "write an address like `127.0.0.1:8100`, or a list of them";

pub(super) fn listen(
    top: &mut Section<'_>,
    claims: &mut Claims,
    found: &mut Findings,
) -> Vec<Listen> {
    let Some(node) = top.node("listen") else {
        let default = Address::Tcp {
            host: "127.0.0.1".into(),
            port: 8100,
        };
        found.setting("listen", default.to_string(), Origin::Default);
        let nowhere = Place::At { line: 0, column: 0 };
        claims.address(&default, "listen", nowhere, found);
        return vec![plain(default)];
    };
    let nodes: Vec<&Node> = match &node.value {
        Value::List(nodes) => nodes.iter().collect(),
        _ => vec![node],
    };
    if nodes.is_empty() {
        found.mistake(
            node.place,
            "listen is empty: no client could connect",
            "write an address like `127.0.0.1:8100`",
        );
    }
    let mut all = Vec::new();
    for (index, node) in nodes.into_iter().enumerate() {
        let read = match &node.value {
            Value::Scalar(text) => match address(text, &found.instance) {
                Ok(address) => Some((plain(address), node.place)),
                Err((what, mend)) => {
                    found.mistake(node.place, format!("listen: {what}"), mend);
                    None
                }
            },
            Value::Map(_) => in_detail(&format!("listen.{}", index + 1), node, found),
            Value::List(_) | Value::Nothing => {
                found.mistake(node.place, "listen: this is no address", EXAMPLE);
                None
            }
        };
        if let Some((listen, place)) = read {
            claims.address(&listen.address, "listen", place, found);
            all.push(listen);
        }
    }
    let texts: Vec<String> = all.iter().map(|listen| show(listen, found)).collect();
    found.setting("listen", texts.join(", "), origin(node.place));
    all
}

fn plain(address: Address) -> Listen {
    Listen {
        address,
        mode: None,
        tls: None,
    }
}

/// What is listened on, so that every change of it is seen.
fn show(listen: &Listen, found: &Findings) -> String {
    let mut text = show_address(&listen.address, &found.instance);
    if let Some(mode) = listen.mode {
        text.push_str(&format!(" (mode {mode:04o})"));
    }
    if listen.tls.is_some() {
        text.push_str(" (TLS)");
    }
    text
}

fn show_address(address: &Address, instance: &Path) -> String {
    match address {
        Address::Unix(path) => format!("unix:{}", shown(instance, path)),
        address @ Address::Tcp { .. } => address.to_string(),
    }
}

/// `{address: …}` or `{unix: PATH}`, with `mode` and `tls`.
fn in_detail(name: &str, node: &Node, found: &mut Findings) -> Option<(Listen, Place)> {
    let mut section = Section::new(name, Some(node), found);
    let instance = found.instance.clone();
    let written = (
        section.node("address").is_some(),
        section.node("unix").map(|node| node.place),
    );
    let address = match written {
        (true, Some(place)) => {
            found.mistake(
                place,
                format!("{name} has both `address` and `unix`"),
                "remove one, or make two entries of it",
            );
            None
        }
        (false, None) => {
            found.mistake(
                node.place,
                format!("{name} has no address"),
                "write `{address: 127.0.0.1:8100, tls: …}`, or `{unix: var/zeo.sock, mode: \"0660\"}`",
            );
            None
        }
        (true, None) => {
            let parse = |text: &str| {
                address(text, &instance).map_err(|(what, mend)| format!("{what}; {mend}"))
            };
            let show = |address: &Address| show_address(address, &instance);
            section.optional("address", parse, show, found)
        }
        (false, Some(_)) => {
            let path = section.optional_path("unix", None, found);
            path.map(|(path, place)| (Address::Unix(path), place))
        }
    };
    let mode = section.optional(
        "mode",
        parse_mode,
        |mode: &u32| format!("{mode:04o}"),
        found,
    );
    if let (Some((_, place)), Some((Address::Tcp { .. }, _))) = (&mode, &address) {
        found.mistake(
            *place,
            format!("{name}.mode is for the file of a Unix socket"),
            "remove it",
        );
    }
    let tls = tls(&mut section, Clients::Listed, found);
    if let (Some(_), Some((Address::Unix(_), place))) = (&tls, &address) {
        found.warning(
            *place,
            format!("{name}: Python's ZEO client does not speak TLS over a Unix socket (it has no host name to give)"),
            "remove `tls`; `mode` says who may connect",
        );
    }
    section.end(found);
    let (address, place) = address?;
    let listen = Listen {
        address,
        mode: mode.map(|(mode, _)| mode),
        tls,
    };
    Some((listen, place))
}

/// As `chmod` takes it.
fn parse_mode(text: &str) -> Result<u32, String> {
    let wrong = || format!("`{text}` is no mode; octal digits as for `chmod`, like \"0660\"");
    let digits = text.strip_prefix("0o").unwrap_or(text);
    if !(3..=4).contains(&digits.len()) {
        return Err(wrong());
    }
    let mode = u32::from_str_radix(digits, 8).map_err(|_| wrong())?;
    if mode > 0o777 {
        return Err(wrong());
    }
    if mode & 0o600 != 0o600 {
        return Err(format!(
            "with `{text}` the owner himself could not connect; \"0600\" or more"
        ));
    }
    Ok(mode)
}

/// Whom an address with TLS lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clients {
    /// Whose certificates, or their authority's, are listed.
    Listed,
    /// Who it is is asked otherwise.
    Anyone,
}

pub(super) fn tls(
    section: &mut Section<'_>,
    clients: Clients,
    found: &mut Findings,
) -> Option<ServerTls> {
    let place = section.written("tls")?;
    let example = match clients {
        Clients::Listed => {
            "write `tls: {certificate: etc/server.pem, key: etc/server.key, authenticate: etc/clients.pem}`"
        }
        Clients::Anyone => "write `tls: {certificate: etc/admin.pem, key: etc/admin.key}`",
    };
    if section.node("tls").is_none() {
        let what = format!("{}: nothing is said of it", section.key("tls"));
        found.mistake(place, what, example);
        return None;
    }
    let mut tls = section.section("tls", found);
    if tls.is_broken() {
        return None;
    }
    let certificate = existing(&mut tls, "certificate", found);
    let key = existing(&mut tls, "key", found);
    let authenticate = match clients {
        Clients::Listed => authenticate(&mut tls, found),
        Clients::Anyone => Some(Authenticate::Anyone),
    };
    let needed = [
        (
            "certificate",
            "what the server shows, a file in PEM form; its key may be in it",
        ),
        (
            "authenticate",
            "a file with clients' certificates or those of their authority, or a folder of such files",
        ),
    ];
    let needed = needed
        .into_iter()
        .filter(|(key, _)| clients == Clients::Listed || *key != "authenticate");
    for (needed, expected) in needed {
        if tls.node(needed).is_none() {
            let what = format!("{} is missing", tls.key(needed));
            found.mistake(place, what, format!("add `{needed}`: {expected}"));
        }
    }
    for python in ["password_function", "password-function"] {
        if let Some(node) = tls.node(python) {
            found.mistake(
                node.place,
                format!("{}: functions of Python cannot be called here", tls.key(python)),
                "write the key without a password into a file that only the daemon may read: `openssl pkey \
                 -in KEY -out NEW`",
            );
        }
    }
    tls.end(found);
    Some(ServerTls {
        certificate: certificate?,
        key,
        authenticate: authenticate?,
    })
}

/// A file that should be there. Where it cannot be looked for, whoever reads it will tell.
fn existing(section: &mut Section<'_>, key: &'static str, found: &mut Findings) -> Option<PathBuf> {
    let (path, place) = section.optional_path(key, None, found)?;
    must_exist(&path, &section.key(key), place, found);
    Some(path)
}

fn must_exist(path: &Path, key: &str, place: Place, found: &mut Findings) {
    let metadata = std::fs::metadata(path);
    if metadata.is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        let path = shown(&found.instance, path);
        let what = format!("{key}: {path} does not exist");
        found.mistake(place, what, "a file in PEM form");
    }
}

fn authenticate(section: &mut Section<'_>, found: &mut Findings) -> Option<Authenticate> {
    let key = section.key("authenticate");
    // ZEO's page has the first word, its code the second.
    let is_system = |node: &Node| matches!(&node.value, Value::Scalar(text) if matches!(text.as_str(), "SIGNED" | "DYNAMIC"));
    let node = section.node("authenticate")?;
    if is_system(node) {
        found.setting(&key, "SIGNED", origin(node.place));
        found.warning(
            node.place,
            format!(
                "{key}: whoever has a certificate of any authority that the system trusts is let in"
            ),
            "list your clients' certificates, or your own authority's",
        );
        return Some(Authenticate::System);
    }
    existing(section, "authenticate", found).map(Authenticate::Listed)
}

/// What is wrong with the files, each with the line that names it.
pub(super) fn check_certificates(config: &Config) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    let of_listen = config
        .listen
        .iter()
        .enumerate()
        .filter_map(|(index, listen)| {
            Some((format!("listen.{}.tls", index + 1), listen.tls.as_ref()?))
        });
    let of_admin = config.admin.tls.iter();
    let of_admin = of_admin.map(|tls| ("admin.tls".to_owned(), tls));
    for (name, tls) in of_listen.chain(of_admin) {
        let Err(error) = tls.read() else { continue };
        let is_at = |path: &Path| error.path().is_some_and(|wrong| wrong.starts_with(path));
        let of = match (&tls.key, &tls.authenticate) {
            (Some(key), _) if is_at(key) => "key",
            (_, Authenticate::Listed(path)) if is_at(path) => "authenticate",
            _ => "certificate",
        };
        let key = format!("{name}.{of}");
        let line = config
            .explain()
            .iter()
            .find(|setting| setting.key == key)
            .and_then(|setting| match setting.origin {
                Origin::Line(line) => Some(line),
                Origin::Default | Origin::Environment(_) => None,
            });
        let text = error.to_string();
        let (what, mend) = text.split_once("; ").unwrap_or((&text, ""));
        let mut mistake = Mistake::at(line.unwrap_or(0), 1, format!("{key}: {what}"), mend);
        mistake.file = super::shown(&config.instance, &config.file);
        mistakes.push(mistake);
    }
    mistakes
}
