//! The limits that a client can pass, and how often that has happened.
//!
//! Each is a setting; the words that its client is told name it. Who passes one is told, and nobody else is.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A limit, by the name that it has below `limits:` in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    Connections,
    ConnectionsByAddress,
    Handshake,
    Register,
    Frame,
    Iterators,
    UnreadTimeout,
    Memory,
    Transaction,
    Transactions,
    KeepFree,
    Undos,
}

impl Limit {
    pub const ALL: [Limit; 12] = [
        Limit::Connections,
        Limit::ConnectionsByAddress,
        Limit::Handshake,
        Limit::Register,
        Limit::Frame,
        Limit::Iterators,
        Limit::UnreadTimeout,
        Limit::Memory,
        Limit::Transaction,
        Limit::Transactions,
        Limit::KeepFree,
        Limit::Undos,
    ];

    /// The setting's name below `limits`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Limit::Connections => "connections",
            Limit::ConnectionsByAddress => "connections_by_address",
            Limit::Handshake => "handshake",
            Limit::Register => "register",
            Limit::Frame => "frame",
            Limit::Iterators => "iterators",
            Limit::UnreadTimeout => "unread_timeout",
            Limit::Memory => "memory",
            Limit::Transaction => "transaction",
            Limit::Transactions => "transactions",
            Limit::KeepFree => "keep_free",
            Limit::Undos => "undos",
        }
    }
}

/// `limits.frame`, as the configuration says it.
impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "limits.{}", self.name())
    }
}

/// A limit that a client has passed, in words for it and for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} ({limit})")]
pub(super) struct Passed {
    pub(super) limit: Limit,
    pub(super) what: String,
}

impl Passed {
    pub(super) fn new(limit: Limit, what: impl Into<String>) -> Self {
        let what = what.into();
        Passed { limit, what }
    }
}

/// How often each was passed since the start.
#[derive(Debug, Default)]
pub(super) struct Refusals([AtomicU64; Limit::ALL.len()]);

impl Refusals {
    pub(super) fn count(&self, limit: Limit) {
        self.0[limit as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn counts(&self) -> impl Iterator<Item = (Limit, u64)> {
        let counts = Limit::ALL.iter().zip(&self.0);
        counts.map(|(limit, count)| (*limit, count.load(Relaxed)))
    }
}

/// A size as people write it: `512MiB`.
pub(super) fn size(bytes: u64) -> String {
    let units = [
        (1 << 40, "TiB"),
        (1 << 30, "GiB"),
        (1 << 20, "MiB"),
        (1 << 10, "KiB"),
    ];
    let unit = units
        .into_iter()
        .find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit));
    match unit {
        Some((unit, name)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_place_and_its_own_name() {
        let refusals = Refusals::default();
        for (at, limit) in Limit::ALL.into_iter().enumerate() {
            assert_eq!(limit as usize, at);
            for _ in 0..at {
                refusals.count(limit);
            }
        }
        let counts: Vec<u64> = refusals.counts().map(|(_, count)| count).collect();
        assert_eq!(counts, (0..Limit::ALL.len() as u64).collect::<Vec<_>>());
        let names: std::collections::BTreeSet<_> =
            Limit::ALL.iter().map(|limit| limit.name()).collect();
        assert_eq!(names.len(), Limit::ALL.len());
        let passed = Passed::new(Limit::Frame, "too long");
        assert_eq!(passed.to_string(), "too long (limits.frame)");
    }

    #[test]
    fn sizes_are_said_as_they_are_written() {
        for (bytes, said) in [
            (512 << 20, "512MiB"),
            (1 << 40, "1TiB"),
            (1536, "1536B"),
            (3 << 10, "3KiB"),
            (0, "0B"),
        ] {
            assert_eq!(size(bytes), said);
        }
    }
}
