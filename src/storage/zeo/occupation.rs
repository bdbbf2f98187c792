//! How long a server may be silent because of what it was given to do.
//!
//! Python's server does one thing at a time. While it replays the vote of a large transaction, or waits
//! for its disk at the finish, it answers nobody, on any connection. That is no failure: all members of
//! an array are given the same, and would be lost all at once. So who waits for a server, whatever for,
//! waits as much longer as what it has in hand may take, and its usual time begins when that is done.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// How fast a server takes in at least what it is given, in bytes per second.
const SLOWEST: u64 = 1 << 20;

/// How long a server may take over so many bytes, beside what any call may take. None for what is small,
/// so that small transactions, however many, never excuse a server that hangs.
pub(super) fn grace(bytes: u64) -> Duration {
    Duration::from_secs(bytes / SLOWEST)
}

/// What one server has in hand; all its connections share it.
pub(super) struct Occupation {
    /// What the other times count from.
    start: Instant,
    /// What is in hand, as the time it may take, in milliseconds.
    grace: AtomicU64,
    /// When something that was in hand was done last, in milliseconds.
    freed: AtomicU64,
}

/// Something large that a server has in hand, until it is dropped.
pub(super) struct Occupied {
    with: Arc<Occupation>,
    grace: u64,
}

impl Occupation {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Occupation {
            start: Instant::now(),
            grace: AtomicU64::new(0),
            freed: AtomicU64::new(0),
        })
    }

    /// The server is given what may take so long.
    pub(super) fn begin(self: &Arc<Self>, grace: Duration) -> Occupied {
        let grace = millis(grace);
        self.grace.fetch_add(grace, Ordering::AcqRel);
        Occupied {
            with: Arc::clone(self),
            grace,
        }
    }

    /// Until when an answer that was asked for at `since` may take, if it usually may take `patience`.
    pub(super) fn deadline(&self, since: Instant, patience: Duration) -> Instant {
        // In this order: what is done in between is counted once at least.
        let grace = Duration::from_millis(self.grace.load(Ordering::Acquire));
        let freed = self.start + Duration::from_millis(self.freed.load(Ordering::Acquire));
        since.max(freed) + patience + grace
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        if self.grace > 0 {
            let now = millis(self.with.start.elapsed());
            self.with.freed.fetch_max(now, Ordering::AcqRel);
            self.with.grace.fetch_sub(self.grace, Ordering::AcqRel);
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX >> 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_busy_server_waits_longer_and_again_when_it_is_done() {
        let occupation = Occupation::new();
        let asked = Instant::now();
        assert_eq!(occupation.deadline(asked, PATIENCE), asked + PATIENCE);
        let vote = occupation.begin(grace(20 << 20));
        let finish = occupation.begin(grace(10 << 20));
        let both = Duration::from_secs(30);
        assert_eq!(
            occupation.deadline(asked, PATIENCE),
            asked + PATIENCE + both
        );
        tokio::time::advance(Duration::from_secs(25)).await;
        drop(vote);
        drop(finish);
        let done = asked + Duration::from_secs(25);
        assert_eq!(occupation.deadline(asked, PATIENCE), done + PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn small_transactions_excuse_nothing() {
        let occupation = Occupation::new();
        let asked = Instant::now();
        for _ in 0..100 {
            let small = occupation.begin(grace(1000));
            assert_eq!(occupation.deadline(asked, PATIENCE), asked + PATIENCE);
            tokio::time::advance(Duration::from_secs(1)).await;
            drop(small);
        }
        assert_eq!(occupation.deadline(asked, PATIENCE), asked + PATIENCE);
    }
}
