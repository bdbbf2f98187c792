//! What loads see: the head, and the members that may be read. Read without locking.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::controller::{Generation, MemberId};
use super::report::Serving;
use crate::storage::Storage;
use crate::zodb::Tid;

/// What one call goes by.
pub(super) struct View {
    /// INVARIANT 5: nothing later than this is ever answered. It is the publisher's, so that
    /// subscribers are told of a transaction at the moment at which it may be read.
    pub(super) head: Tid,
    /// Read after the head: who is in it holds everything up to the head.
    published: Arc<Published>,
}

/// Which members may be read.
pub(super) struct Published {
    pub(super) serving: Serving,
    /// The open members of the in-sync set.
    pub(super) readers: Arc<[Reader]>,
    /// Of an object that was changed up to there, what it was before counts as packed away.
    pub(super) packed: Tid,
}

impl View {
    pub(super) fn new(head: Tid, published: Arc<Published>) -> Self {
        View { head, published }
    }
}

impl std::ops::Deref for View {
    type Target = Published;

    fn deref(&self) -> &Published {
        &self.published
    }
}

/// A member that may be read.
#[derive(Clone)]
pub(super) struct Reader {
    pub member: MemberId,
    pub generation: Generation,
    pub storage: Arc<dyn Storage>,
    pub stats: Arc<MemberStats>,
}

/// What is counted of a member's calls.
#[derive(Debug, Default)]
pub(super) struct MemberStats {
    pub outstanding: AtomicUsize,
    pub reads: AtomicU64,
    pub faults: AtomicU64,
    /// A moving mean, in nanoseconds; 0 before the first call.
    latency_nanos: AtomicU64,
}

impl MemberStats {
    /// Of how many reads one is timed: reading the clock is not free.
    const TIMED: u64 = 32;

    /// Counts a read and says whether it should be timed.
    pub(super) fn count_read(&self) -> bool {
        self.reads
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(Self::TIMED)
    }

    pub(super) fn add_latency(&self, since: Instant) {
        let nanos = u64::try_from(crate::clock::since(since).as_nanos()).unwrap_or(u64::MAX);
        let mean = self.latency_nanos.load(Ordering::Relaxed);
        let next = if mean == 0 {
            nanos
        } else {
            mean - mean / 16 + nanos / 16
        };
        self.latency_nanos.store(next.max(1), Ordering::Relaxed);
    }

    pub(super) fn latency(&self) -> Option<Duration> {
        match self.latency_nanos.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }
}
