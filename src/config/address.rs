//! Addresses: how they are written, and when two of them are one.

use std::path::Path;

use super::model::Address;
use super::read::Place;
use super::section::{Findings, resolve};

/// Longer than this no path of a Unix socket may be: 107 bytes on Linux, less a few for the name under
/// which it is made.
const LONGEST_SOCKET: usize = 100;

/// What is wrong, and the mend.
pub(super) type Wrong = (String, String);

/// `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`.
pub(super) fn address(text: &str, instance: &Path) -> Result<Address, Wrong> {
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
pub(super) fn host_port(text: &str) -> Result<(String, u16), String> {
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

pub(super) fn is_loopback(host: &str) -> bool {
    let address = host.parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

pub(super) fn show_host_port(host: &str, port: u16) -> String {
    let host = host.to_owned();
    Address::Tcp { host, port }.to_string()
}

/// Whether not both can be listened on.
pub(super) fn collide(one: &Address, other: &Address) -> bool {
    let (Address::Tcp { host: a, port: p }, Address::Tcp { host: b, port: q }) = (one, other)
    else {
        return one == other;
    };
    // `0.0.0.0` and `[::]` are separate unless the system maps IPv4 into IPv6, which we turn off.
    let v6 = |host: &str| host.contains(':');
    let any = |host: &str| host == "0.0.0.0" || host == "::";
    p == q && *p != 0 && (a == b || ((any(a) || any(b)) && v6(a) == v6(b)))
}

pub(super) fn socket_length(path: &Path, key: &str, place: Place, found: &mut Findings) {
    let length = path.as_os_str().len();
    if length > LONGEST_SOCKET {
        found.mistake(
            place,
            format!("{key}: the path of a Unix socket may have {LONGEST_SOCKET} bytes, this has {length}"),
            "use a shorter path, like /run/zeoraid.sock",
        );
    }
}
