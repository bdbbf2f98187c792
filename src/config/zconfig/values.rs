//! Values as ZConfig's types read them: booleans, numbers, addresses, levels of logs.
//!
//! The source of each is `ZConfig/datatypes.py`, and `components/logger/datatypes.py` for levels.

use std::path::{Path, PathBuf};

use crate::config::LogLevel;

/// An address to listen on or to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Socket {
    /// `host` is empty where only a port is said.
    Tcp {
        host: String,
        port: u16,
    },
    Unix(PathBuf),
}

pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text.to_lowercase().as_str() {
        "yes" | "true" | "on" => Ok(true),
        "no" | "false" | "off" => Ok(false),
        _ => Err(format!(
            "`{text}` is neither yes nor no; write true or false"
        )),
    }
}

pub(super) fn integer(text: &str) -> Result<i64, String> {
    let wrong = || format!("`{text}` is no whole number; write one like 100");
    // Python allows `_` between digits, and a sign.
    let digits = text.trim();
    if digits.starts_with('_') || digits.ends_with('_') || digits.contains("__") {
        return Err(wrong());
    }
    digits.replace('_', "").parse().map_err(|_| wrong())
}

/// Seconds.
pub(super) fn float(text: &str) -> Result<f64, String> {
    let value: Result<f64, _> = text.trim().parse();
    value
        .ok()
        .filter(|value| value.is_finite())
        .ok_or_else(|| format!("`{text}` is no number; write one like 3600"))
}

/// `8100`, `host:8100`, `[::1]:8100`, or a path, which has a `/`.
pub(super) fn socket(text: &str) -> Result<Socket, String> {
    if text.contains('/') {
        return Ok(Socket::Unix(Path::new(text).to_owned()));
    }
    let port = |text: &str| {
        text.parse::<u16>()
            .map_err(|_| format!("`{text}` is no port; a number from 1 to 65535"))
    };
    let Some((host, number)) = text.rsplit_once(':') else {
        let port = port(text).map_err(|_| format!("`{text}` has no port; write `{text}:8100`"))?;
        let host = String::new();
        return Ok(Socket::Tcp { host, port });
    };
    let host = match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        Some(host) => host,
        None if host.contains(':') => {
            // ZConfig takes all of it for a host.
            let mend = if number.is_empty() || number.len() > 5 || port(number).is_err() {
                format!("[{text}]:8100")
            } else {
                format!("[{host}]:{number}")
            };
            return Err(format!("`{text}` has no port for ZConfig; write `{mend}`"));
        }
        None => host,
    };
    Ok(Socket::Tcp {
        host: host.to_lowercase(),
        port: port(number)?,
    })
}

/// The nearest of our levels. Nothing is `notset`: everything.
pub(super) fn level(text: &str) -> Result<LogLevel, String> {
    let number = match text.to_lowercase().as_str() {
        "critical" | "fatal" => 50,
        "error" => 40,
        "warn" | "warning" => 30,
        "info" => 20,
        "blather" => 15,
        "debug" => 10,
        "trace" => 5,
        "all" => 1,
        "notset" => 0,
        other => integer(other)
            .ok()
            .filter(|number| (0..=50).contains(number))
            .ok_or_else(|| format!("`{text}` is no level; write info, warn or debug"))?,
    };
    Ok(match number {
        31.. => LogLevel::Error,
        21..=30 => LogLevel::Warn,
        16..=20 => LogLevel::Info,
        6..=15 => LogLevel::Debug,
        _ => LogLevel::Trace,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_the_forms_that_zconfig_knows() {
        let tcp = |host: &str, port| {
            let host = host.to_owned();
            Ok(Socket::Tcp { host, port })
        };
        assert_eq!(socket("8100"), tcp("", 8100));
        assert_eq!(socket(":8100"), tcp("", 8100));
        assert_eq!(socket("DB1.example.org:8100"), tcp("db1.example.org", 8100));
        assert_eq!(socket("[::1]:8100"), tcp("::1", 8100));
        assert_eq!(
            socket("/run/zeo.sock"),
            Ok(Socket::Unix("/run/zeo.sock".into()))
        );
        for text in ["", "localhost", "::1", "host:", "host:x", "host:70000"] {
            assert!(socket(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_are_read_as_zconfig_reads_them() {
        assert_eq!(integer("1_000"), Ok(1000));
        assert_eq!(boolean("On"), Ok(true));
        assert!(boolean("1").is_err());
        assert_eq!(float("3600"), Ok(3600.0));
        assert!(float("nan").is_err());
    }

    #[test]
    fn every_level_has_one_of_ours() {
        for (text, expected) in [
            ("CRITICAL", LogLevel::Error),
            ("warning", LogLevel::Warn),
            ("info", LogLevel::Info),
            ("blather", LogLevel::Debug),
            ("debug", LogLevel::Debug),
            ("all", LogLevel::Trace),
            ("25", LogLevel::Warn),
        ] {
            assert_eq!(level(text), Ok(expected), "{text}");
        }
        assert!(level("51").is_err() && level("loud").is_err());
    }
}
