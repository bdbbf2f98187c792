//! Telling subscribers of finished transactions, in order.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use crate::zodb::{Oid, Tid};

/// Tells one transaction of this process from all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TxnToken(u64);

impl TxnToken {
    /// A token that was never given before.
    #[must_use]
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        #[cfg(test)]
        if let Some(number) = crate::simulation::next_number() {
            return TxnToken(number);
        }
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
/// INVARIANT 6: a transaction comes out of the queues at the moment at which the head is raised to it,
/// which is one write to one atomic number. So who takes what is due before it passes on an answer
/// never passes on an answer that is newer than the invalidations it has passed on; and who was told
/// of a transaction never gets an answer as of a time before it.
///
/// The queue is bounded. A subscriber that lets it fill up is cut off: [`Invalidations::next`] gives
/// what was queued and then [`CutOff`].
#[derive(Debug)]
pub struct Invalidations {
    queue: mpsc::Receiver<Committed>,
    /// How many objects the transactions in the queue wrote.
    queued_oids: Arc<AtomicUsize>,
    /// Taken from the queue, and later than the head when that was looked at.
    early: Option<Committed>,
    head: Arc<Head>,
    /// What is told of these transactions instead of what they wrote.
    #[cfg(test)]
    told: Told,
}

/// The last transaction that may be seen, and who waits for a later one.
#[derive(Debug, Default)]
struct Head {
    tid: AtomicU64,
    raised: Notify,
}

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
        let head = Arc::clone(&self.head);
        loop {
            let mut raised = pin!(head.raised.notified());
            // From here on nothing that is published is missed.
            raised.as_mut().enable();
            if let Some(committed) = self.try_next()? {
                return Ok(committed);
            }
            raised.await;
        }
    }

    /// The next transaction, where one is due. Costs an atomic read where none is.
    ///
    /// # Errors
    /// [`CutOff`] after the last that was queued.
    pub fn try_next(&mut self) -> Result<Option<Committed>, CutOff> {
        let next = match self.early.take() {
            Some(early) => early,
            None => match self.queue.try_recv() {
                Ok(committed) => {
                    self.queued_oids
                        .fetch_sub(committed.oids.len(), Ordering::Relaxed);
                    committed
                }
                Err(mpsc::error::TryRecvError::Empty) => return Ok(None),
                Err(mpsc::error::TryRecvError::Disconnected) => return Err(CutOff),
            },
        };
        if next.tid.0 <= self.head.tid.load(Ordering::Acquire) {
            #[cfg(test)]
            if let Some(oids) = self.told.lock().get(&next.tid) {
                let oids = Arc::clone(oids);
                return Ok(Some(Committed { oids, ..next }));
            }
            return Ok(Some(next));
        }
        self.early = Some(next);
        Ok(None)
    }
}

/// The objects of some transactions.
#[cfg(test)]
type Told = Arc<Mutex<std::collections::BTreeMap<Tid, Arc<[Oid]>>>>;

#[cfg(test)]
impl Invalidations {
    /// Tells of transactions that are in here what is there, not what they wrote: for a storage that keeps
    /// something to itself.
    pub(crate) fn telling(mut self, told: &Told) -> Self {
        self.told = Arc::clone(told);
        self
    }
}

/// A storage's end of all its subscribers' queues, and its head.
#[derive(Debug, Default)]
pub struct Publisher {
    subscribers: Mutex<Vec<Subscriber>>,
    head: Arc<Head>,
}

#[derive(Debug)]
struct Subscriber {
    queue: mpsc::Sender<Committed>,
    queued_oids: Arc<AtomicUsize>,
}

impl Subscriber {
    /// Queues a transaction; false where the queue is full or its other end is gone.
    fn tell(&self, committed: &Committed) -> bool {
        let queued = self.queued_oids.load(Ordering::Relaxed);
        // However large one is, it is told of.
        if queued > 0 && queued + committed.oids.len() > Publisher::QUEUED_OIDS {
            return false;
        }
        // First: whoever takes it out counts it down.
        self.queued_oids
            .fetch_add(committed.oids.len(), Ordering::Relaxed);
        self.queue.try_send(committed.clone()).is_ok()
    }
}

impl Publisher {
    /// How many transactions a subscriber may lag behind before it is cut off, and how many objects these may
    /// have written together: a list of objects is kept as long as one subscriber has it in its queue.
    const QUEUE: usize = 4096;
    const QUEUED_OIDS: usize = 8 << 20;

    #[must_use]
    pub fn new() -> Self {
        Publisher::default()
    }

    /// The last transaction that subscribers may have been told of.
    #[must_use]
    pub fn head(&self) -> Tid {
        Tid(self.head.tid.load(Ordering::Acquire))
    }

    /// Starts from this head, of which nobody is told.
    pub fn set_head(&self, head: Tid) {
        self.head.tid.store(head.0, Ordering::Release);
    }

    /// A queue of all that is published from now on: everything later than [`Self::head`] is in it
    /// when that is asked afterwards.
    #[must_use]
    pub fn subscribe(&self) -> Invalidations {
        let (sender, queue) = mpsc::channel(Self::QUEUE);
        let queued_oids: Arc<AtomicUsize> = Arc::default();
        let mut subscribers = self.subscribers.lock();
        // Where nothing is published, nobody else notices who has left.
        subscribers.retain(|subscriber| !subscriber.queue.is_closed());
        subscribers.push(Subscriber {
            queue: sender,
            queued_oids: Arc::clone(&queued_oids),
        });
        drop(subscribers);
        Invalidations {
            queue,
            queued_oids,
            early: None,
            head: Arc::clone(&self.head),
            #[cfg(test)]
            told: Arc::default(),
        }
    }

    /// How many queues there are.
    #[cfg(test)]
    pub(crate) fn subscribers(&self) -> usize {
        self.subscribers.lock().len()
    }

    /// Puts a transaction into every queue and raises the head to it. The caller keeps TID order.
    pub fn publish(&self, committed: &Committed) {
        let mut subscribers = self.subscribers.lock();
        subscribers.retain(|subscriber| subscriber.tell(committed));
        // Never lowered: who has seen a head is answered as of it.
        self.head.tid.fetch_max(committed.tid.0, Ordering::AcqRel);
        // Who subscribes now must find the new head.
        drop(subscribers);
        self.head.raised.notify_waiters();
    }

    /// Ends every queue: subscribers hear [`CutOff`].
    pub fn cut_off(&self) {
        self.subscribers.lock().clear();
        self.head.raised.notify_waiters();
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.cut_off();
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

    #[tokio::test]
    async fn who_lags_behind_by_many_objects_is_cut_off_however_few_the_transactions() {
        let publisher = Publisher::new();
        let (mut lazy, mut diligent) = (publisher.subscribe(), publisher.subscribe());
        let large = |tid: u64, count: usize| Committed {
            oids: (0..count as u64).map(Oid).collect(),
            ..committed(tid)
        };
        let most = Publisher::QUEUED_OIDS;
        for (tid, count) in [(1, most / 2), (2, most / 2), (3, 1)] {
            publisher.publish(&large(tid, count));
            assert_eq!(diligent.try_next().unwrap().unwrap().oids.len(), count);
        }
        for tid in [1, 2] {
            assert_eq!(lazy.next().await.unwrap().tid, Tid(tid));
        }
        assert_eq!(lazy.next().await, Err(CutOff));
        // One that is too large alone is told of, and what follows when it was taken.
        for tid in [4, 5] {
            publisher.publish(&large(tid, most + 1));
            assert_eq!(diligent.try_next().unwrap().unwrap().tid, Tid(tid));
        }
    }

    #[tokio::test]
    async fn who_has_left_takes_no_room_where_nothing_is_published() {
        let publisher = Publisher::new();
        let mut stays = publisher.subscribe();
        for _ in 0..100 {
            drop(publisher.subscribe());
        }
        let kept = publisher.subscribers.lock().len();
        assert!(kept <= 2, "{kept}");
        publisher.publish(&committed(1));
        assert_eq!(stays.try_next(), Ok(Some(committed(1))));
    }

    #[tokio::test]
    async fn the_head_is_never_lowered() {
        let publisher = Publisher::new();
        let mut subscriber = publisher.subscribe();
        publisher.set_head(Tid(7));
        publisher.publish(&committed(5));
        assert_eq!(publisher.head(), Tid(7));
        assert_eq!(subscriber.try_next(), Ok(Some(committed(5))));
    }

    #[tokio::test]
    async fn a_transaction_comes_out_when_the_head_is_raised_to_it_and_not_before() {
        let publisher = Publisher::new();
        let mut subscriber = publisher.subscribe();
        // As if the publishing thread were stopped between the queues and the head.
        assert!(publisher.subscribers.lock()[0].tell(&committed(5)));
        assert_eq!(subscriber.try_next(), Ok(None));
        publisher.set_head(Tid(5));
        assert_eq!(subscriber.try_next(), Ok(Some(committed(5))));
        assert_eq!(publisher.head(), Tid(5));
        let waiting = subscriber.next();
        let publishing = async { publisher.publish(&committed(6)) };
        let (heard, ()) = tokio::join!(waiting, publishing);
        assert_eq!(heard, Ok(committed(6)));
        drop(publisher);
        assert_eq!(subscriber.next().await, Err(CutOff));
    }
}
