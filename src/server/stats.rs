//! What is counted of each storage that is served.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use crate::wire::ServerStatus;
use crate::zodb::Tid;

/// The live figures of one storage.
#[derive(Debug)]
pub(super) struct Stats {
    start: String,
    pub(super) clients: Gauge,
    pub(super) loads: AtomicU64,
    pub(super) stores: AtomicU64,
    pub(super) commits: AtomicU64,
    pub(super) aborts: AtomicU64,
    pub(super) conflicts: AtomicU64,
    /// Transactions that have begun.
    pub(super) active: Gauge,
    /// Votes that wait for their answer.
    pub(super) waiting: Gauge,
    /// Transactions that were granted their vote and are not finished.
    voted: AtomicU64,
    /// When the last vote was granted, in milliseconds since 1970.
    voted_at: AtomicI64,
}

/// The figures of one storage at a moment. Counters are since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections that are registered now.
    pub clients: u64,
    pub loads: u64,
    pub stores: u64,
    pub commits: u64,
    pub aborts: u64,
    pub conflicts: u64,
    /// Transactions that have begun and are not finished.
    pub active_transactions: u64,
    /// Votes that wait for their answer.
    pub waiting: u64,
}

impl Stats {
    pub(super) fn new() -> Self {
        Stats {
            start: ctime(&Zoned::now()),
            clients: Gauge::default(),
            loads: AtomicU64::new(0),
            stores: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            aborts: AtomicU64::new(0),
            conflicts: AtomicU64::new(0),
            active: Gauge::default(),
            waiting: Gauge::default(),
            voted: AtomicU64::new(0),
            voted_at: AtomicI64::new(0),
        }
    }

    pub(super) fn counters(&self) -> Counters {
        Counters {
            clients: self.clients.get(),
            loads: self.loads.load(Relaxed),
            stores: self.stores.load(Relaxed),
            commits: self.commits.load(Relaxed),
            aborts: self.aborts.load(Relaxed),
            conflicts: self.conflicts.load(Relaxed),
            active_transactions: self.active.get(),
            waiting: self.waiting.get(),
        }
    }

    /// What `server_status` answers.
    pub(super) fn status(&self, last_transaction: Tid) -> ServerStatus {
        let counters = self.counters();
        let lock_time = (self.voted.load(Relaxed) > 0).then(|| {
            let at = Timestamp::from_millisecond(self.voted_at.load(Relaxed));
            at.unwrap_or_default()
                .duration_since(Timestamp::UNIX_EPOCH)
                .as_secs_f64()
        });
        ServerStatus {
            loads: counters.loads,
            stores: counters.stores,
            commits: counters.commits,
            aborts: counters.aborts,
            active_txns: counters.active_transactions,
            conflicts: counters.conflicts,
            conflicts_resolved: 0,
            verifying_clients: 0,
            connections: counters.clients,
            waiting: counters.waiting,
            lock_time,
            start: self.start.clone(),
            last_transaction,
            timeout_thread_is_alive: true,
        }
    }

    /// Counts a vote that was granted, until the guard is dropped.
    pub(super) fn vote_granted(self: &Arc<Self>) -> Granted {
        let now = crate::clock::now().as_millisecond();
        self.voted_at.store(now, Relaxed);
        self.voted.fetch_add(1, Relaxed);
        Granted(Arc::clone(self))
    }
}

/// A granted vote, while it lives.
#[derive(Debug)]
pub(super) struct Granted(Arc<Stats>);

impl Drop for Granted {
    fn drop(&mut self) {
        self.0.voted.fetch_sub(1, Relaxed);
    }
}

/// How many of something there are now.
#[derive(Debug, Clone, Default)]
pub(super) struct Gauge(Arc<AtomicU64>);

impl Gauge {
    /// Counts one more, until the guard is dropped.
    pub(super) fn count(&self) -> Counted {
        self.0.fetch_add(1, Relaxed);
        Counted(Arc::clone(&self.0))
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// One of a [`Gauge`], while it lives.
#[derive(Debug)]
pub(super) struct Counted(Arc<AtomicU64>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A time as C's `ctime` writes it: that is what `server_status` has.
fn ctime(time: &Zoned) -> String {
    let time = time.with_time_zone(TimeZone::system());
    time.strftime("%a %b %e %H:%M:%S %Y").to_string()
}
