//! What the messages of all clients take in memory, together.
//!
//! A little is everybody's own. What a client has beyond that (half a message that is still coming, calls that
//! wait, answers that it does not read) is counted. Where all of it is more than the limit, memory is *scarce*:
//! those who hold something take nothing more. Whoever of them has held it for the longest has to go, when
//! that is some seconds; so it is, too, where somebody waits for room for an answer. A client that reads and writes as fast as it can is done with a message before that;
//! one that stops in the middle is not. Whoever holds nothing does not notice.
//!
//! Each session notes what it holds, and looks for itself whether it has to go; so nothing here waits or runs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::limits::{Limit, Passed, size};

/// What is everybody's own, in bytes.
pub(super) const OWN: usize = 256 << 10;

/// So long whoever holds memory is left alone while it is scarce.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often who holds something looks whether it has to go or can go on: others make memory scarce, and nobody
/// tells it.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Memory {
    most: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    total: usize,
    /// Who holds something, those who have for the longest first.
    since: BTreeSet<(Instant, u64)>,
    /// How many wait for room.
    waiting: usize,
    next: u64,
}

impl Memory {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Memory {
            most,
            held: Mutex::default(),
        })
    }

    /// What one session holds: nothing yet.
    pub(super) fn holding(self: &Arc<Self>) -> Holding {
        let mut held = self.held.lock();
        held.next += 1;
        Holding {
            id: held.next,
            memory: Arc::clone(self),
            bytes: 0,
            since: None,
            waits: false,
            look_at: None,
        }
    }

    #[cfg(test)]
    pub(super) fn total(&self) -> usize {
        self.held.lock().total
    }
}

/// What one session holds.
#[derive(Debug)]
pub(super) struct Holding {
    memory: Arc<Memory>,
    id: u64,
    /// Counted in the total.
    bytes: usize,
    since: Option<Instant>,
    waits: bool,
    /// When it looks next. Nothing that happens before moves it: a session that is woken all the time looks as
    /// often as one that is not.
    look_at: Option<Instant>,
}

impl Holding {
    /// Notes how much it is now.
    pub(super) fn set(&mut self, bytes: usize) {
        let bytes = if bytes > OWN { bytes } else { 0 };
        if bytes == self.bytes {
            return;
        }
        let mut held = self.memory.held.lock();
        held.total = held.total - self.bytes + bytes;
        self.bytes = bytes;
        if bytes == 0 {
            if let Some(since) = self.since.take() {
                held.since.remove(&(since, self.id));
            }
        } else if self.since.is_none() {
            let now = Instant::now();
            self.since = Some(now);
            held.since.insert((now, self.id));
        }
    }

    /// Whether this session may not take more.
    pub(super) fn is_scarce(&self) -> bool {
        self.since.is_some() && self.memory.held.lock().total > self.memory.most
    }

    /// Whether there is room for so much more, beyond what is its own. Where nobody holds anything there is.
    pub(super) fn has_room_for(&self, bytes: usize) -> bool {
        if bytes <= OWN {
            return true;
        }
        let total = self.memory.held.lock().total;
        total == 0 || total.saturating_add(bytes) <= self.memory.most
    }

    /// Notes whether this session waits for room.
    pub(super) fn wait(&mut self, waits: bool) {
        if waits == self.waits {
            return;
        }
        self.waits = waits;
        let mut held = self.memory.held.lock();
        if waits {
            held.waiting += 1;
        } else {
            held.waiting -= 1;
        }
    }

    /// Looks, where it is time for that, whether this session has to go. To be asked whenever the session has
    /// noted what it holds and waits for.
    pub(super) fn look(&mut self) -> Option<Passed> {
        if self.since.is_none() && !self.waits {
            self.look_at = None;
            return None;
        }
        let now = Instant::now();
        let is_due = self.look_at.is_some_and(|at| at <= now);
        if is_due || self.look_at.is_none() {
            self.look_at = Some(now + LOOK_AGAIN);
        }
        if is_due { self.must_go() } else { None }
    }

    /// When to look again whether this session has to go, or has room; none where it holds nothing and waits
    /// for nothing.
    pub(super) fn look_again(&self) -> Option<Instant> {
        self.look_at
    }

    /// The session ends, and looks no more: it wants nothing, and does not keep those behind it from going.
    /// What it holds is counted until this is dropped.
    pub(super) fn leave(&mut self) {
        self.wait(false);
        self.look_at = None;
        if let Some(since) = self.since.take() {
            self.memory.held.lock().since.remove(&(since, self.id));
        }
    }

    /// Why it has to go now, where it has.
    fn must_go(&self) -> Option<Passed> {
        let since = self.since?;
        let held = self.memory.held.lock();
        let is_first = held.since.first() == Some(&(since, self.id));
        let is_enough = held.total <= self.memory.most && held.waiting == 0;
        if is_enough || !is_first || since.elapsed() < PATIENCE {
            return None;
        }
        let what = format!(
            "messages of all clients take as much memory as they may, {}, and this client's {} bytes have been \
             there the longest, for {} s",
            size(self.memory.most as u64),
            self.bytes,
            since.elapsed().as_secs()
        );
        Some(Passed::new(Limit::Memory, what))
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.set(0);
        self.wait(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[tokio::test(start_paused = true)]
    async fn who_holds_the_longest_goes_and_whoever_holds_nothing_does_not_notice() {
        let memory = Memory::new(10 * MIB);
        let (mut first, mut second, mut small) =
            (memory.holding(), memory.holding(), memory.holding());
        first.set(6 * MIB);
        tokio::time::advance(Duration::from_secs(1)).await;
        second.set(4 * MIB);
        small.set(OWN);
        assert_eq!(memory.total(), 10 * MIB);
        assert!(!first.is_scarce() && !second.is_scarce());
        assert!(first.look().is_none() && small.look().is_none());
        assert!(first.look_again().is_some() && small.look_again().is_none());
        // Also after a long time nobody has to go who takes no more than there is.
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(first.must_go(), None);
        second.set(4 * MIB + 1);
        assert!(first.is_scarce() && second.is_scarce());
        assert!(!small.is_scarce());
        assert_eq!(second.must_go(), None);
        let passed = first.must_go().unwrap();
        assert_eq!(passed.limit, Limit::Memory);
        assert!(passed.what.contains("10MiB"), "{passed}");
        drop(first);
        assert_eq!(memory.total(), 4 * MIB + 1);
        assert!(!second.is_scarce());
        assert_eq!(second.must_go(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_done_in_between_begins_anew() {
        let memory = Memory::new(MIB);
        let (mut fast, mut slow) = (memory.holding(), memory.holding());
        fast.set(MIB);
        slow.set(MIB);
        tokio::time::advance(PATIENCE / 2).await;
        fast.set(0);
        fast.set(MIB);
        tokio::time::advance(PATIENCE / 2).await;
        assert_eq!(fast.must_go(), None);
        assert!(slow.must_go().is_some());
        drop((fast, slow));
        assert_eq!(memory.total(), 0);
        assert!(memory.held.lock().since.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_room_gets_it_from_who_has_it_the_longest() {
        let memory = Memory::new(2 * MIB);
        let (mut lazy, mut waiting) = (memory.holding(), memory.holding());
        assert!(waiting.has_room_for(3 * MIB), "nobody holds anything");
        lazy.set(2 * MIB);
        assert!(!waiting.has_room_for(MIB));
        tokio::time::advance(PATIENCE).await;
        assert_eq!(lazy.must_go(), None, "nobody wants it");
        waiting.wait(true);
        assert_eq!(waiting.look(), None);
        assert!(waiting.look_again().is_some());
        assert_eq!(waiting.must_go(), None);
        assert!(lazy.must_go().is_some());
        waiting.wait(false);
        assert_eq!(lazy.must_go(), None);
        waiting.wait(true);
        drop(waiting);
        assert_eq!(lazy.must_go(), None, "who waited is gone");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_that_happens_moves_the_next_look() {
        let memory = Memory::new(MIB);
        let mut slow = memory.holding();
        slow.set(2 * MIB);
        assert_eq!(slow.look(), None);
        let at = slow.look_again().unwrap();
        for more in 1..5 {
            tokio::time::advance(LOOK_AGAIN / 5).await;
            slow.set(2 * MIB + more);
            assert_eq!(slow.look(), None);
            assert_eq!(slow.look_again(), Some(at));
        }
        tokio::time::advance(LOOK_AGAIN / 5).await;
        assert_eq!(slow.look(), None, "it is left alone for some time");
        assert_eq!(slow.look_again(), Some(at + LOOK_AGAIN));
        tokio::time::advance(PATIENCE).await;
        assert!(slow.look().is_some());
        slow.set(0);
        assert_eq!(slow.look(), None);
        assert_eq!(slow.look_again(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_ends_protects_nobody_and_is_counted_until_it_has_ended() {
        let memory = Memory::new(MIB);
        let (mut ending, mut slow) = (memory.holding(), memory.holding());
        ending.set(MIB);
        ending.wait(true);
        slow.set(MIB);
        tokio::time::advance(PATIENCE).await;
        assert_eq!(slow.must_go(), None, "it is not its turn");
        ending.leave();
        assert_eq!(memory.total(), 2 * MIB);
        assert!(slow.must_go().is_some());
        drop(ending);
        assert_eq!(memory.total(), MIB);
        assert_eq!(slow.must_go(), None, "nobody waits, and there is enough");
    }

    #[test]
    fn a_little_is_always_there() {
        let memory = Memory::new(MIB);
        let (mut full, other) = (memory.holding(), memory.holding());
        full.set(MIB);
        assert!(other.has_room_for(OWN));
        assert!(!other.has_room_for(OWN + 1));
    }
}
