//! Looking far back: loads of revisions that many others came after, long chains of back-pointers, histories and
//! undo logs.
//!
//! Each step is a read of its own, and how many there are is nobody's to know before. So that whoever asks for many
//! is in nobody's way, a read has three tries, of which most end with the first:
//!
//! 1. On the thread that asks, which serves others: [`NEAR`] steps, and only what is in memory.
//! 2. On a thread that may wait for the disk: [`NOT_FAR`] steps.
//! 3. Without a limit, on such a thread as well, of which a file has [`AT_ONCE`] for this. Waiting for one takes no
//!    thread. The look ends at its next step where nobody waits for it any more, because the client is gone, say.
//!
//! How long the third takes says nothing about the disk; so whoever judges the storage by its time is told since
//! when no look has got on ([`Looks::deadline`]).

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::storage::Fault;
use crate::zodb::Oid;

/// How many steps back a thread takes that serves others, at most: some 50 µs.
pub(super) const NEAR: usize = 64;

/// How many steps back are taken without a turn, at most: a millisecond in memory, and still less than a member's
/// timeout where the disk needs 8 ms for each.
pub(super) const NOT_FAR: usize = 512;

/// How many look far back at the same time: one that waits for the disk, or has much to do, and another one.
pub(super) const AT_ONCE: usize = 2;

/// How a read treats what is not in memory, and how far it goes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Patience<'l> {
    /// Does not wait, and goes back [`NEAR`] steps.
    None,
    /// Waits for the disk, and goes back [`NOT_FAR`] steps: not on a thread that has other things to do.
    Some,
    /// Waits for the disk, and goes on for as long as somebody waits for the answer.
    Far(&'l Look),
    /// Waits for the disk, and goes on to the end: for what the daemon does itself.
    Endless,
}

/// Counts the steps of one read.
#[derive(Debug)]
pub(super) struct Pace<'l> {
    pub(super) patience: Patience<'l>,
    steps: Cell<usize>,
}

impl<'l> Pace<'l> {
    pub(super) fn new(patience: Patience<'l>) -> Self {
        Pace {
            patience,
            steps: Cell::new(0),
        }
    }

    pub(super) fn endless() -> Self {
        Pace::new(Patience::Endless)
    }

    pub(super) fn waits(&self) -> bool {
        !matches!(self.patience, Patience::None)
    }

    /// To be asked before each step back.
    ///
    /// # Errors
    /// Where it is one too many, or in vain.
    pub(super) fn step(&self) -> Result<(), Fault> {
        if let Patience::Far(look) = self.patience {
            return look.step();
        }
        self.steps.set(self.steps.get() + 1);
        if self.is_too_far() {
            return Err(Fault::Closed("it is too far back".to_owned()));
        }
        Ok(())
    }

    /// Whether the read ended because it has to look further back than it may.
    pub(super) fn is_too_far(&self) -> bool {
        match self.patience {
            Patience::None => self.steps.get() > NEAR,
            Patience::Some => self.steps.get() > NOT_FAR,
            Patience::Far(_) | Patience::Endless => false,
        }
    }
}

/// All looks far back into one file.
#[derive(Debug)]
pub(super) struct Looks {
    turns: Arc<Semaphore>,
    start: Instant,
    /// When the last step was, in milliseconds after the start.
    last_step: AtomicU64,
    /// How many wait for one, of each object.
    awaited: Mutex<HashMap<Oid, usize>>,
}

impl Looks {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Looks {
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            start: Instant::now(),
            last_step: AtomicU64::new(0),
            awaited: Mutex::default(),
        })
    }

    /// Waits for a turn, which whoever looks has until it ends. Who waits for the answer keeps the other half.
    pub(super) async fn begin(self: &Arc<Self>, about: Oid) -> (Awaited, Look) {
        *self.awaited.lock().entry(about).or_default() += 1;
        let awaited = Awaited {
            looks: Arc::clone(self),
            about,
            alive: Arc::new(()),
        };
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let look = Look {
            looks: Arc::clone(self),
            awaited: Arc::downgrade(&awaited.alive),
            _turn: turn.expect("nobody closes it"),
        };
        self.note_step();
        (awaited, look)
    }

    /// See [`Storage::deadline_about`](crate::storage::Storage::deadline_about): who waits for a turn waits for those
    /// that have one, so what counts is the last step of any.
    pub(super) fn deadline(&self, about: Oid, since: Instant, patience: Duration) -> Instant {
        if !self.awaited.lock().contains_key(&about) {
            return since + patience;
        }
        let last_step = Duration::from_millis(self.last_step.load(Ordering::Acquire));
        since.max(self.start + last_step) + patience
    }

    fn note_step(&self) {
        let now = self.start.elapsed().as_millis();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        self.last_step.store(now, Ordering::Release);
    }

    /// How many look.
    #[cfg(test)]
    pub(super) fn under_way(&self) -> usize {
        AT_ONCE - self.turns.available_permits()
    }

    /// How many wait for an answer, or for their turn to look for it.
    #[cfg(test)]
    pub(super) fn awaited(&self) -> usize {
        self.awaited.lock().values().sum()
    }
}

/// Somebody waits for the answer.
#[derive(Debug)]
pub(super) struct Awaited {
    looks: Arc<Looks>,
    about: Oid,
    alive: Arc<()>,
}

impl Drop for Awaited {
    fn drop(&mut self) {
        let mut awaited = self.looks.awaited.lock();
        if let Some(count) = awaited.get_mut(&self.about) {
            *count -= 1;
            if *count == 0 {
                awaited.remove(&self.about);
            }
        }
    }
}

/// One look far back, whose turn it is.
#[derive(Debug)]
pub(super) struct Look {
    looks: Arc<Looks>,
    awaited: Weak<()>,
    _turn: OwnedSemaphorePermit,
}

impl Look {
    fn step(&self) -> Result<(), Fault> {
        if self.awaited.strong_count() == 0 {
            return Err(Fault::Closed("nobody waits for it any more".to_owned()));
        }
        self.looks.note_step();
        Ok(())
    }
}
