//! From nodes to a [`Config`]: reads every section, then what must fit together.
//!
//! Nothing here stops at the first mistake. What two sections must not share (addresses, files) is
//! collected in [`Claims`] while reading.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use super::address::{host_port, is_loopback, show_host_port, socket_length};
use super::claims::Claims;
use super::listen::{self, listen};
use super::members::members;
use super::mistake::Mistake;
use super::model::{
    Address, Admin, ArrayConfig, ClusterMode, Config, Encoding, FailMode, Limits, Log, LogFormat,
    LogLevel, LogTarget, MemberStorage, Origin, Pack, Rate, Spool, StartPolicy,
};
use super::read::{Entry, Node, Place, Value};
use super::section::{Findings, Section, origin, parse_count};
use super::together;
use super::units::{format_duration, format_size, parse_duration, parse_size};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// Reads the whole configuration.
pub(super) fn check(root: &Node, instance: &Path, file: &Path) -> Result<Config, Vec<Mistake>> {
    let mut found = Findings {
        instance: instance.to_owned(),
        mistakes: Vec::new(),
        warnings: Vec::new(),
        settings: Vec::new(),
    };
    let mut claims = Claims::default();
    let mut top = Section::new("", Some(root), &mut found);
    let listen = listen(&mut top, &mut claims, &mut found);
    let encoding = top.choice("encoding", Encoding::WORDS, &mut found);
    let read_only = top.flag("read_only", false, &mut found);
    let transaction_timeout = top.duration("transaction_timeout", 60 * SECOND, SECOND, &mut found);
    let limits_section = top.section("limits", &mut found);
    let admin = admin(top.section("admin", &mut found), &mut claims, &mut found);
    let arrays = arrays(
        top.section("arrays", &mut found),
        transaction_timeout,
        &mut claims,
        &mut found,
    );
    let limits = limits(limits_section, &arrays, &mut found);
    let log = log(top.section("log", &mut found), &mut claims, &mut found);
    let (pid_file, place) = top.path("pid_file", "var/zeoraid.pid", &mut found);
    claims.file(&pid_file, "pid_file", place, &mut found);
    let effective_user = top.optional("effective_user", user, String::clone, &mut found);
    let umask = top.optional(
        "umask",
        parse_umask,
        |mask| format!("{mask:03o}"),
        &mut found,
    );
    let spool = spool(top.section("spool", &mut found), &mut found);
    top.end(&mut found);
    let Findings {
        mut mistakes,
        mut warnings,
        settings,
        ..
    } = found;
    warnings.sort_by_key(|warning| (warning.line, warning.column));
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
        effective_user: effective_user.map(|(user, _)| user),
        umask: umask.map(|(mask, _)| mask),
        spool,
        settings,
        warnings,
    })
}

fn limits(mut section: Section<'_>, arrays: &[ArrayConfig], found: &mut Findings) -> Limits {
    let limits = Limits {
        threads: section.count("threads", default_threads(arrays), 1, found),
        connections: section.count("connections", 1000, 1, found),
        connections_by_address: section.count("connections_by_address", 500, 1, found),
        handshake: section.duration("handshake", 30 * SECOND, 10 * MS, found),
        register: section.duration("register", 600 * SECOND, 10 * MS, found),
        frame: section.size("frame", 512 << 20, 1 << 20, found),
        calls: section.count("calls", 256, 1, found),
        iterators: section.count("iterators", 1000, 2, found),
        unread: section.size("unread", 16 << 20, 64 << 10, found),
        unread_timeout: section.duration("unread_timeout", 300 * SECOND, SECOND, found),
        memory: section.size("memory", 1 << 30, 8 << 20, found),
        transaction: section.size("transaction", 256 << 30, 1 << 20, found),
        transactions: section.size("transactions", 1 << 40, 1 << 20, found),
        undos: section.count("undos", 1000, 1, found),
        keep_free: section.size("keep_free", 256 << 20, 0, found),
        admin_connections: section.count("admin_connections", 64, 4, found),
    };
    // What waits for the rest of itself must fit.
    if limits.memory < limits.frame {
        let (memory, frame) = (format_size(limits.memory), format_size(limits.frame));
        let place = section.written("memory").or(section.written("frame"));
        found.mistake(
            place.unwrap_or(section.place()),
            format!("limits.memory is {memory}, and one message may be {frame} long"),
            "at least as much as `limits.frame`",
        );
    }
    if limits.transactions < limits.transaction {
        let (all, one) = (
            format_size(limits.transactions),
            format_size(limits.transaction),
        );
        let place = section
            .written("transactions")
            .or(section.written("transaction"));
        found.mistake(
            place.unwrap_or(section.place()),
            format!("limits.transactions is {all}, and one transaction may be {one} large"),
            "at least as much as `limits.transaction`",
        );
    }
    section.end(found);
    limits
}

/// Where all members are ZEO servers there is nothing but messages to pass on, which one thread does faster
/// than the servers can answer; several threads only wake one another, which costs more than what they do
/// (measured: 1.3 times as long for a load or a commit). A file is read by the thread that is asked.
fn default_threads(arrays: &[ArrayConfig]) -> usize {
    let members = arrays.iter().flat_map(|array| &array.members);
    let mut files = members.filter(|member| matches!(member.storage, MemberStorage::File { .. }));
    if files.next().is_none() {
        return 1;
    }
    std::thread::available_parallelism().map_or(1, usize::from)
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
    let tls = listen::tls(&mut section, listen::Clients::Anyone, found);
    if let (Some(_), None, Some(place)) = (&tls, &address, section.written("tls")) {
        found.mistake(
            place,
            "admin.tls: there is no address at which it could be spoken",
            "add `address: HOST:PORT`, or remove `tls`; the socket needs none",
        );
    }
    if let (Some(((host, _), place)), Some(_), None) = (&address, &token_file, &tls)
        && !is_loopback(host)
    {
        found.warning(
            *place,
            format!("admin.address: {host} can be reached from elsewhere, and without `tls` the token goes over the network in the clear"),
            "add `tls`, or use 127.0.0.1",
        );
    }
    section.end(found);
    Admin {
        socket,
        tls,
        address: address.map(|(address, _)| address),
        token_file: token_file.map(|(path, _)| path),
    }
}

fn log(mut section: Section<'_>, claims: &mut Claims, found: &mut Findings) -> Log {
    let target = section.choice("target", LogTarget::WORDS, found);
    let (file, place) = section.path("file", "var/log/zeoraid.log", found);
    claims.file(&file, "log.file", place, found);
    let level = section.choice("level", LogLevel::WORDS, found);
    let format = section.choice("format", LogFormat::WORDS, found);
    section.end(found);
    Log {
        target,
        file,
        level,
        format,
    }
}

/// Whether there is such a user is known only where the daemon starts.
pub(super) fn user(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '$' | '@');
    if text.is_empty() || text.starts_with('-') || !text.chars().all(plain) {
        return Err(format!(
            "`{text}` is no user; write a login name, like zope"
        ));
    }
    Ok(text.to_owned())
}

pub(super) fn parse_umask(text: &str) -> Result<u32, String> {
    let wrong = || format!("`{text}` is no umask; octal digits, like \"027\"");
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let mask = u32::from_str_radix(digits, 8).map_err(|_| wrong())?;
    if mask > 0o777 {
        return Err(wrong());
    }
    if mask & 0o700 != 0 {
        return Err(format!(
            "with `{text}` the daemon could not use its own files; \"077\" or less"
        ));
    }
    Ok(mask)
}

fn spool(mut section: Section<'_>, found: &mut Findings) -> Spool {
    let (folder, _) = section.path("folder", "var/tmp", found);
    let memory = section.size("memory", 16 << 20, 4096, found);
    section.end(found);
    Spool { folder, memory }
}

fn arrays(
    section: Section<'_>,
    transaction_timeout: Duration,
    claims: &mut Claims,
    found: &mut Findings,
) -> Vec<ArrayConfig> {
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
        let array = array(
            entry,
            only,
            transaction_timeout,
            &mut aliases,
            claims,
            found,
        );
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
    transaction_timeout: Duration,
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
        let are = if count == 1 { "is" } else { "are" };
        let there = crate::counted::counted(count as u64, "member");
        found.mistake(
            place,
            format!("arrays.{name}.min_optimal is {min_optimal}, but there {are} {there}"),
            format!("at most {count}, or add members"),
        );
    }
    let cluster_mode = together::cluster(&mut section, &members, start_policy, found);
    together::mixed(&members, found);
    let fail_mode = section.choice("fail_mode", FailMode::WORDS, found);
    let member_timeout = section.duration("member_timeout", 30 * SECOND, 10 * MS, found);
    let open_timeout = section.duration("open_timeout", 30 * SECOND, 10 * MS, found);
    // Alone, nobody else has a reason to hold a member's lock; beside others it is theirs for as long
    // as a client of theirs may hold it.
    let others = match cluster_mode {
        ClusterMode::Single => Duration::ZERO,
        ClusterMode::Coop => transaction_timeout,
    };
    let lock_timeout = section.duration("lock_timeout", member_timeout + others, 10 * MS, found);
    let auto_recover = section.flag("auto_recover", true, found);
    let recovery_rate = recovery_rate(section.section("recovery_rate", found), found);
    let catch_up_limit = section.duration("catch_up_limit", 2 * SECOND, 10 * MS, found);
    let cache = section.size("cache", 64 << 20, 0, found);
    let read_only = section.flag("read_only", false, found);
    let invalidation_queue = section.count("invalidation_queue", 1000, 1, found);
    let invalidation_age = section.optional(
        "invalidation_age",
        parse_duration,
        |age| format_duration(*age),
        found,
    );
    let pack = Pack {
        gc: section.flag("pack_gc", true, found),
        keep_old: section.flag("pack_keep_old", true, found),
    };
    not_here(&mut section, found);
    let zeo_admin = section.flag("zeo_admin", false, found);
    let (record, place) = section.path("record", &format!("var/{name}.membership.json"), found);
    claims.file(&record, &format!("arrays.{name}.record"), place, found);
    let shared_blobs = together::blobs(&mut section, &members, claims, found);
    section.end(found);
    ArrayConfig {
        name,
        aliases,
        members: members.into_iter().map(|member| member.config).collect(),
        start_policy,
        min_optimal,
        cluster_mode,
        fail_mode,
        member_timeout,
        open_timeout,
        lock_timeout,
        auto_recover,
        recovery_rate,
        catch_up_limit,
        cache,
        read_only,
        invalidation_queue,
        invalidation_age: invalidation_age.map(|(age, _)| age),
        pack,
        zeo_admin,
        record,
        shared_blobs,
    }
}

/// What is said of a ZEO server, and has no meaning here.
fn not_here(section: &mut Section<'_>, found: &mut Findings) {
    if let Some(node) = section.node("client_conflict_resolution") {
        found.mistake(
            node.place,
            format!(
                "{}: conflicts are always left to the clients, where their classes are (a ZEO server that is \
                 a member has that setting in its own zeo.conf)",
                section.key("client_conflict_resolution")
            ),
            "remove it",
        );
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

/// Names are parts of paths, of URLs and of commands.
pub(super) fn name(entry: &Entry, of: &str, found: &mut Findings) {
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
