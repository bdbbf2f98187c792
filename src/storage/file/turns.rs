//! Threads that read something large take turns: what all of them have in memory while they read is bounded,
//! however many are asked at the same time.

use parking_lot::{Condvar, Mutex};

/// From this size on a read is a large one, in bytes.
pub(super) const LARGE: usize = 1 << 20;

/// How many are under way at the same time. A disk is not faster with more.
const AT_ONCE: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Turns {
    taken: Mutex<usize>,
    given_back: Condvar,
}

/// A turn, while it lives.
pub(super) struct Turn<'a>(&'a Turns);

impl Turns {
    /// Blocks the thread until it is its turn.
    pub(super) fn take(&self) -> Turn<'_> {
        let mut taken = self.taken.lock();
        while *taken >= AT_ONCE {
            self.given_back.wait(&mut taken);
        }
        *taken += 1;
        Turn(self)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.taken.lock() -= 1;
        self.0.given_back.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    #[test]
    fn no_more_than_some_are_under_way_and_all_come_to_their_turn() {
        let (turns, now, most) = (Turns::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 * AT_ONCE {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let turn = turns.take();
                        most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                        std::thread::yield_now();
                        now.fetch_sub(1, SeqCst);
                        drop(turn);
                    }
                });
            }
        });
        assert!(most.load(SeqCst) <= AT_ONCE);
        assert_eq!(*turns.taken.lock(), 0);
    }
}
