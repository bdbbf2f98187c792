//! Telling subscribers of finished transactions, in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::zodb::{Oid, Tid};

/// Tells one transaction of this process from all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TxnToken(u64);

impl TxnToken {
    /// A token that was never given before.
    #[must_use]
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        TxnToken(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl Default for TxnToken {
    fn default() -> Self {
        TxnToken::new()
    }
}

/// A finished transaction, as subscribers hear of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    pub tid: Tid,
    /// What it wrote.
    pub oids: Arc<[Oid]>,
    /// Which of this process's transactions it was; none for a foreign one.
    pub by: Option<TxnToken>,
}

/// A subscriber's end of the queue of finished transactions.
///
/// INVARIANT 6: a transaction is in every queue before any load answers as of it and before its
/// [`finish`](super::Voted::finish) returns; queues are in TID order. So who empties the queue before
/// it passes on an answer never passes on an answer that is newer than the invalidations it has
/// passed on.
///
/// The queue is bounded. A subscriber that lets it fill up is cut off: [`Invalidations::next`] gives
/// what was queued and then [`CutOff`].
#[derive(Debug)]
pub struct Invalidations(mpsc::Receiver<Committed>);

/// The subscriber did not keep up, or the storage is closed: transactions may have been missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the queue of invalidations was cut off")]
pub struct CutOff;

impl Invalidations {
    /// The next transaction. Cancel safe.
    ///
    /// # Errors
    /// [`CutOff`] after the last that was queued.
    pub async fn next(&mut self) -> Result<Committed, CutOff> {
        self.0.recv().await.ok_or(CutOff)
    }

    /// The next transaction, where one is queued. Costs an atomic read where none is.
    ///
    /// # Errors
    /// [`CutOff`] after the last that was queued.
    pub fn try_next(&mut self) -> Result<Option<Committed>, CutOff> {
        match self.0.try_recv() {
            Ok(committed) => Ok(Some(committed)),
            Err(mpsc::error::TryRecvError::Empty) => Ok(None),
            Err(mpsc::error::TryRecvError::Disconnected) => Err(CutOff),
        }
    }
}

/// A storage's end of all its subscribers' queues.
#[derive(Debug, Default)]
pub struct Publisher {
    subscribers: Mutex<Vec<mpsc::Sender<Committed>>>,
}

impl Publisher {
    /// How many transactions a subscriber may lag behind before it is cut off.
    const QUEUE: usize = 4096;

    #[must_use]
    pub fn new() -> Self {
        Publisher::default()
    }

    /// A queue of all that is published from now on.
    #[must_use]
    pub fn subscribe(&self) -> Invalidations {
        let (sender, receiver) = mpsc::channel(Self::QUEUE);
        self.subscribers.lock().push(sender);
        Invalidations(receiver)
    }

    /// Puts a transaction into every queue. The caller keeps TID order.
    pub fn publish(&self, committed: &Committed) {
        self.subscribers
            .lock()
            .retain(|queue| queue.try_send(committed.clone()).is_ok());
    }

    /// Ends every queue: subscribers hear [`CutOff`].
    pub fn cut_off(&self) {
        self.subscribers.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed(tid: u64) -> Committed {
        Committed {
            tid: Tid(tid),
            oids: Arc::new([Oid(1)]),
            by: None,
        }
    }

    #[tokio::test]
    async fn who_does_not_keep_up_is_cut_off_after_what_was_queued() {
        let publisher = Publisher::new();
        let mut lazy = publisher.subscribe();
        let mut diligent = publisher.subscribe();
        for tid in 0..=Publisher::QUEUE as u64 {
            publisher.publish(&committed(tid));
            assert_eq!(diligent.try_next(), Ok(Some(committed(tid))));
        }
        for tid in 0..Publisher::QUEUE as u64 {
            assert_eq!(lazy.next().await, Ok(committed(tid)));
        }
        assert_eq!(lazy.next().await, Err(CutOff));
        assert_eq!(lazy.try_next(), Err(CutOff));
        assert_eq!(diligent.try_next(), Ok(None));
    }
}
