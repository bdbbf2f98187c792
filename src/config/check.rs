//! From nodes to a [`Config`]: reads every section, then what must fit together.
//!
//! Nothing here stops at the first mistake. What two sections must not share (addresses, files) is
//! collected in [`Claims`] while reading.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::mistake::Mistake;
use super::model::{
    Address, Admin, ArrayConfig, Config, Encoding, FailMode, Limits, Log, LogFormat, LogLevel,
    MemberConfig, MemberStorage, Origin, Rate, Spool, StartPolicy,
};
use super::read::{Entry, Node, Place, Value};
use super::section::{Findings, Section, origin, parse_count, resolve, shown};
use super::units::{format_size, parse_size};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// Longer than this no path of a Unix socket may be: 107 bytes on Linux, less a few for the name under
/// which it is made.
const LONGEST_SOCKET: usize = 100;

/// Reads the whole configuration.
pub(super) fn check(root: &Node, instance: &Path, file: &Path) -> Result<Config, Vec<Mistake>> {
    let mut found = Findings {
        instance: instance.to_owned(),
        mistakes: Vec::new(),
        settings: Vec::new(),
    };
    let mut claims = Claims::default();
    let mut top = Section::new("", Some(root), &mut found);
    let listen = listen(&mut top, &mut claims, &mut found);
    let encoding = top.choice("encoding", Encoding::WORDS, &mut found);
    let read_only = top.flag("read_only", false, &mut found);
    let transaction_timeout = top.duration("transaction_timeout", 60 * SECOND, SECOND, &mut found);
    let limits = limits(top.section("limits", &mut found), &mut found);
    let admin = admin(top.section("admin", &mut found), &mut claims, &mut found);
    let arrays = arrays(top.section("arrays", &mut found), &mut claims, &mut found);
    let log = log(top.section("log", &mut found), &mut claims, &mut found);
    let (pid_file, place) = top.path("pid_file", "var/zeoraid.pid", &mut found);
    claims.file(&pid_file, "pid_file", place, &mut found);
    let spool = spool(top.section("spool", &mut found), &mut found);
    top.end(&mut found);
    let Findings {
        mut mistakes,
        settings,
        ..
    } = found;
    if !mistakes.is_empty() {
        mistakes.sort_by_key(|mistake| (mistake.line, mistake.column));
        return Err(mistakes);
    }
    Ok(Config {
        instance: instance.to_owned(),
        file: file.to_owned(),
        listen,
        encoding,
        read_only,
        transaction_timeout,
        limits,
        admin,
        arrays,
        log,
        pid_file,
        spool,
        settings,
    })
}

fn listen(top: &mut Section<'_>, claims: &mut Claims, found: &mut Findings) -> Vec<Address> {
    let Some(node) = top.node("listen") else {
        let default = Address::Tcp {
            host: "127.0.0.1".into(),
            port: 8100,
        };
        found.setting("listen", default.to_string(), Origin::Default);
        claims.address(&default, "listen", top.place(), found);
        return vec![default];
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
    let mut addresses = Vec::new();
    for node in nodes {
        let Value::Scalar(text) = &node.value else {
            let mend = "write an address like `127.0.0.1:8100`, or a list of them";
            found.mistake(node.place, "listen: this is no address", mend);
            continue;
        };
        match address(text, &found.instance) {
            Ok(address) => {
                claims.address(&address, "listen", node.place, found);
                addresses.push(address);
            }
            Err((what, mend)) => found.mistake(node.place, format!("listen: {what}"), mend),
        }
    }
    let texts: Vec<String> = addresses
        .iter()
        .map(|address| show_address(address, found))
        .collect();
    found.setting("listen", texts.join(", "), origin(node.place));
    addresses
}

fn show_address(address: &Address, found: &Findings) -> String {
    match address {
        Address::Unix(path) => format!("unix:{}", shown(&found.instance, path)),
        address @ Address::Tcp { .. } => address.to_string(),
    }
}

fn limits(mut section: Section<'_>, found: &mut Findings) -> Limits {
    let limits = Limits {
        connections: section.count("connections", 1000, 1, found),
        frame: section.size("frame", 512 << 20, 1 << 20, found),
    };
    section.end(found);
    limits
}

fn admin(mut section: Section<'_>, claims: &mut Claims, found: &mut Findings) -> Admin {
    let (socket, place) = section.path("socket", "var/zeoraid.sock", found);
    socket_length(&socket, "admin.socket", place, found);
    claims.file(&socket, "admin.socket", place, found);
    let show = |address: &(String, u16)| show_host_port(&address.0, address.1);
    let address = section.optional("address", host_port, show, found);
    let token_file = section.optional_path("token_file", None, found);
    if let Some(((host, port), place)) = &address {
        let tcp = Address::Tcp {
            host: host.clone(),
            port: *port,
        };
        claims.address(&tcp, "admin.address", *place, found);
        if token_file.is_none() && !is_loopback(host) {
            found.mistake(
                *place,
                format!("admin.address: {host} can be reached from elsewhere, and there is no token_file"),
                "add `token_file`, or use 127.0.0.1",
            );
        }
    }
    section.end(found);
    Admin {
        socket,
        address: address.map(|(address, _)| address),
        token_file: token_file.map(|(path, _)| path),
    }
}

fn log(mut section: Section<'_>, claims: &mut Claims, found: &mut Findings) -> Log {
    let (file, place) = section.path("file", "var/log/zeoraid.log", found);
    claims.file(&file, "log.file", place, found);
    let level = section.choice("level", LogLevel::WORDS, found);
    let format = section.choice("format", LogFormat::WORDS, found);
    section.end(found);
    Log {
        file,
        level,
        format,
    }
}

fn spool(mut section: Section<'_>, found: &mut Findings) -> Spool {
    let (folder, _) = section.path("folder", "var/tmp", found);
    let memory = section.size("memory", 16 << 20, 4096, found);
    section.end(found);
    Spool { folder, memory }
}

fn arrays(section: Section<'_>, claims: &mut Claims, found: &mut Findings) -> Vec<ArrayConfig> {
    let (place, is_broken) = (section.place(), section.is_broken());
    let entries = section.named();
    if entries.is_empty() && !is_broken {
        found.mistake(
            place,
            "there are no arrays",
            "write `arrays: {main: {members: {a: {file: var/a/Data.fs}, b: {file: var/b/Data.fs}}}}`",
        );
    }
    let only = (entries.len() == 1).then(|| entries[0].key.as_str());
    let mut aliases = Vec::new();
    let mut arrays = Vec::new();
    for entry in &entries {
        name(entry, "an array", found);
        let array = array(entry, only, &mut aliases, claims, found);
        arrays.push(array);
    }
    // A client asks by name: what one answers to, no other may.
    let names = entries.iter().map(|entry| entry.key.clone());
    let mut taken: HashMap<String, String> = names.map(|name| (name.clone(), name)).collect();
    for (alias, of, place) in aliases {
        if let Some(other) = taken.insert(alias.clone(), of) {
            found.mistake(
                place,
                format!("`{alias}` is already a name of the array {other}"),
                "every name a client can ask for must lead to one array",
            );
        }
    }
    arrays
}

fn array(
    entry: &Entry,
    only: Option<&str>,
    all_aliases: &mut Vec<(String, String, Place)>,
    claims: &mut Claims,
    found: &mut Findings,
) -> ArrayConfig {
    let name = entry.key.clone();
    let mut section = Section::new(format!("arrays.{name}"), Some(&entry.node), found);
    let aliases = aliases(&mut section, &name, only, all_aliases, found);
    let members = members(&mut section, entry.place, claims, found);
    let start_policy = section.choice("start_policy", StartPolicy::WORDS, found);
    let min_optimal = section.count("min_optimal", 1, 1, found);
    if min_optimal > members.len() && !members.is_empty() {
        let place = section
            .node("min_optimal")
            .map_or(entry.place, |node| node.place);
        let count = members.len();
        found.mistake(
            place,
            format!("arrays.{name}.min_optimal is {min_optimal}, but there are {count} members"),
            format!("at most {count}, or add members"),
        );
    }
    let fail_mode = section.choice("fail_mode", FailMode::WORDS, found);
    let member_timeout = section.duration("member_timeout", 30 * SECOND, 10 * MS, found);
    let open_timeout = section.duration("open_timeout", 30 * SECOND, 10 * MS, found);
    let auto_recover = section.flag("auto_recover", true, found);
    let recovery_rate = recovery_rate(section.section("recovery_rate", found), found);
    let catch_up_limit = section.duration("catch_up_limit", 2 * SECOND, 10 * MS, found);
    let cache = section.size("cache", 64 << 20, 0, found);
    let invalidation_queue = section.count("invalidation_queue", 1000, 1, found);
    let zeo_admin = section.flag("zeo_admin", false, found);
    let (record, place) = section.path("record", &format!("var/{name}.membership.json"), found);
    claims.file(&record, &format!("arrays.{name}.record"), place, found);
    section.end(found);
    ArrayConfig {
        name,
        aliases,
        members,
        start_policy,
        min_optimal,
        fail_mode,
        member_timeout,
        open_timeout,
        auto_recover,
        recovery_rate,
        catch_up_limit,
        cache,
        invalidation_queue,
        zeo_admin,
        record,
    }
}

/// ZEO's clients ask for the storage `1` unless told otherwise, so the only array answers to it.
fn aliases(
    section: &mut Section<'_>,
    name: &str,
    only: Option<&str>,
    all: &mut Vec<(String, String, Place)>,
    found: &mut Findings,
) -> Vec<String> {
    let key = section.key("aliases");
    let Some(node) = section.node("aliases") else {
        let default: Vec<String> = match only {
            Some(only) if only != "1" => vec!["1".into()],
            _ => Vec::new(),
        };
        let shown = if default.is_empty() {
            "-".into()
        } else {
            default.join(", ")
        };
        found.setting(key, shown, Origin::Default);
        return default;
    };
    let nodes: Vec<&Node> = match &node.value {
        Value::List(nodes) => nodes.iter().collect(),
        _ => vec![node],
    };
    let mut aliases = Vec::new();
    for node in nodes {
        match &node.value {
            Value::Scalar(text) if !text.is_empty() => {
                all.push((text.clone(), name.to_owned(), node.place));
                aliases.push(text.clone());
            }
            _ => found.mistake(
                node.place,
                format!("{key}: this is no name"),
                "write `aliases: [\"1\"]`",
            ),
        }
    }
    found.setting(
        key,
        if aliases.is_empty() {
            "-".into()
        } else {
            aliases.join(", ")
        },
        origin(node.place),
    );
    aliases
}

fn recovery_rate(mut section: Section<'_>, found: &mut Findings) -> Rate {
    let rate = Rate {
        transactions: section.rate(
            "transactions",
            parse_count,
            |value| value.to_string(),
            found,
        ),
        bytes: section.rate("bytes", parse_size, format_size, found),
    };
    section.end(found);
    rate
}

fn members(
    section: &mut Section<'_>,
    place: Place,
    claims: &mut Claims,
    found: &mut Findings,
) -> Vec<MemberConfig> {
    let node = section.node("members");
    let place = node.map_or(place, |node| node.place);
    let all = Section::new(section.key("members"), node, found);
    let is_broken = all.is_broken();
    let entries = all.named();
    if entries.is_empty() && !is_broken {
        found.mistake(
            place,
            format!(
                "{} has no members",
                section.key("members").trim_end_matches(".members")
            ),
            "write `members: {a: {file: var/a/Data.fs}, b: {file: var/b/Data.fs}}`",
        );
    }
    let mut members = Vec::new();
    for entry in entries {
        name(entry, "a member", found);
        let key = section.key(&format!("members.{}", entry.key));
        members.push(member(entry, key, claims, found));
    }
    members
}

/// A member whose file is missing keeps its place, so that counts are right while checking goes on.
fn member(entry: &Entry, key: String, claims: &mut Claims, found: &mut Findings) -> MemberConfig {
    let mut section = Section::new(key.clone(), Some(&entry.node), found);
    let is_map = matches!(entry.node.value, Value::Map(_));
    let zeo = section.node("zeo");
    if let Some(node) = zeo {
        found.mistake(
            node.place,
            format!("{key}: members that are ZEO servers are not supported yet"),
            "use `file`, with a `Data.fs` on this machine",
        );
    }
    let mut path = PathBuf::new();
    if zeo.is_none() && section.node("file").is_none() {
        if is_map || matches!(entry.node.value, Value::Nothing) {
            found.mistake(
                entry.place,
                format!("{key} does not say where its data is"),
                format!("write `{}: {{file: var/{}/Data.fs}}`", entry.key, entry.key),
            );
        }
    } else if let Some((file, place)) = section.optional_path("file", None, found) {
        claims.file(&file, &format!("{key}.file"), place, found);
        path = file;
    }
    if is_map {
        section.end(found);
    }
    MemberConfig {
        name: entry.key.clone(),
        storage: MemberStorage::File { file: path },
    }
}

/// Names are parts of paths, of URLs and of commands.
fn name(entry: &Entry, of: &str, found: &mut Findings) {
    let name = &entry.key;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let good = name.chars().all(plain)
        && name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !good {
        found.mistake(
            entry.place,
            format!("`{}` cannot be the name of {of}", name.escape_debug()),
            "letters, digits, `-`, `_` and `.`, at most 64, the first a letter or a digit",
        );
    }
}

/// Who uses which address and which file.
#[derive(Default)]
struct Claims {
    addresses: Vec<(Address, String, Place)>,
    files: HashMap<PathBuf, (String, Place)>,
}

impl Claims {
    fn address(&mut self, address: &Address, key: &str, place: Place, found: &mut Findings) {
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

    fn file(&mut self, path: &Path, key: &str, place: Place, found: &mut Findings) {
        // Two names of one file are one file, where that can be seen.
        let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let taken = self
            .files
            .get(&real)
            .map(|(key, place)| (key.clone(), *place));
        let Some((other, other_place)) = taken else {
            self.files.insert(real, (key.to_owned(), place));
            return;
        };
        let path = shown(&found.instance, path);
        let line = line_of(other_place);
        found.mistake(
            place,
            format!("{key}: {path} is already used by {other}{line}"),
            "each needs a file of its own",
        );
    }
}

fn line_of(place: Place) -> String {
    match place {
        Place::At { line: 0, .. } => String::new(),
        Place::At { line, .. } => format!(" in line {line}"),
        Place::Environment(variable) => format!(" in ${variable}"),
    }
}

fn collide(one: &Address, other: &Address) -> bool {
    let (Address::Tcp { host: a, port: p }, Address::Tcp { host: b, port: q }) = (one, other)
    else {
        return one == other;
    };
    // `0.0.0.0` and `[::]` are separate unless the system maps IPv4 into IPv6, which we turn off.
    let v6 = |host: &str| host.contains(':');
    let any = |host: &str| host == "0.0.0.0" || host == "::";
    p == q && *p != 0 && (a == b || ((any(a) || any(b)) && v6(a) == v6(b)))
}

fn socket_length(path: &Path, key: &str, place: Place, found: &mut Findings) {
    let length = path.as_os_str().len();
    if length > LONGEST_SOCKET {
        found.mistake(
            place,
            format!("{key}: the path of a Unix socket may have {LONGEST_SOCKET} bytes, this has {length}"),
            "use a shorter path, like /run/zeoraid.sock",
        );
    }
}

/// What is wrong, and the mend.
type Wrong = (String, String);

fn address(text: &str, instance: &Path) -> Result<Address, Wrong> {
    if let Some(path) = text.strip_prefix("unix:") {
        if path.is_empty() {
            return Err((
                "`unix:` without a path".into(),
                "write `unix:var/zeo.sock`".into(),
            ));
        }
        return Ok(Address::Unix(resolve(instance, path)));
    }
    if text.contains('/') {
        let mend = format!("for a Unix socket write `unix:{text}`");
        return Err((format!("`{text}` is no address"), mend));
    }
    match host_port(text) {
        Ok((host, port)) => Ok(Address::Tcp { host, port }),
        Err(wrong) => {
            let (what, mend) = wrong.split_once("; ").unwrap_or((&wrong, ""));
            Err((what.to_owned(), mend.to_owned()))
        }
    }
}

/// `host:port` or `[v6]:port`.
fn host_port(text: &str) -> Result<(String, u16), String> {
    if text.parse::<u64>().is_ok() {
        return Err(format!(
            "`{text}` is only a port; write `127.0.0.1:{text}` for clients on this machine, `0.0.0.0:{text}` for all"
        ));
    }
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest
            .split_once("]:")
            .ok_or_else(|| format!("`{text}` has no port; write `[::1]:8100`"))?;
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(format!("`{host}` is no IPv6 address; write `[::1]:8100`"));
        }
        (host, port)
    } else {
        if text.matches(':').count() > 1 {
            return Err(format!(
                "`{text}`: brackets are missing; write `[::1]:8100`"
            ));
        }
        text.split_once(':')
            .ok_or_else(|| format!("`{text}` has no port; write `{text}:8100`"))?
    };
    if !is_host(host) {
        return Err(format!(
            "`{host}` is no host; write an address like 127.0.0.1:8100"
        ));
    }
    let port = port
        .parse()
        .map_err(|_| format!("`{port}` is no port; a number from 1 to 65535"))?;
    Ok((host.to_owned(), port))
}

fn is_host(host: &str) -> bool {
    if host.parse::<std::net::IpAddr>().is_ok() {
        return true;
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    // All digits and dots, and yet no address: a typing error rather than a name.
    let digits = host.chars().all(|c| c.is_ascii_digit() || c == '.');
    !host.is_empty() && host.chars().all(plain) && !digits
}

fn is_loopback(host: &str) -> bool {
    let address = host.parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn show_host_port(host: &str, port: u16) -> String {
    let host = host.to_owned();
    Address::Tcp { host, port }.to_string()
}
