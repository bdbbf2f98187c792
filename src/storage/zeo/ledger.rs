//! What is known of a server's history: its last transaction, and who is told of which.
//!
//! Transactions become known in three ways, all on the main connection and therefore in order: ours,
//! by the reply to `tpc_finish`; others', by `invalidateTransaction`; and those that we restored, by the
//! reply to their `tpc_finish`: nobody is told of these.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::storage::{Committed, Fault, Invalidations, Publisher};
use crate::zodb::{Oid, Tid};

#[derive(Default)]
pub(super) struct Ledger {
    /// Guards the order of what is published.
    order: Mutex<()>,
    last: AtomicU64,
    /// The server's own list of what was written is complete from here on, as far as is known.
    told_from: AtomicU64,
    /// What the server says is its last transaction, and was not; zero where there is none.
    untrue: AtomicU64,
    risen: Notify,
    publisher: Publisher,
    objects: AtomicU64,
    bytes: AtomicU64,
}

impl Ledger {
    /// The last transaction that is known.
    pub(super) fn last(&self) -> Tid {
        Tid(self.last.load(Ordering::Acquire))
    }

    pub(super) fn subscribe(&self) -> Invalidations {
        self.publisher.subscribe()
    }

    pub(super) fn cut_off(&self) {
        self.publisher.cut_off();
        self.risen.notify_waiters();
    }

    /// What `register` said, as far as it is true.
    pub(super) fn begin(&self, last: Tid) {
        let _guard = self.order.lock();
        self.rise(last);
        // A transaction may have been announced before the reply to `register` was looked at.
        if last > self.publisher.head() {
            self.publisher.set_head(last);
        }
        self.told_from.fetch_max(last.0, Ordering::AcqRel);
    }

    /// The server says that this is its last transaction, and does not hold it.
    pub(super) fn disbelieve(&self, said: Tid) {
        self.untrue.store(said.0, Ordering::Release);
    }

    pub(super) fn disbelieves(&self, said: Tid) -> bool {
        !said.is_zero() && self.untrue.load(Ordering::Acquire) == said.0
    }

    /// Whether the server's list of what was written after `since` can be relied on: what was restored
    /// stands there without its oids, and of what was before our time we do not know.
    pub(super) fn tells_all_since(&self, since: Tid) -> bool {
        since.0 >= self.told_from.load(Ordering::Acquire)
    }

    /// The server told of a transaction that the main connection did not make.
    pub(super) fn announced(&self, tid: Tid, oids: std::sync::Arc<[Oid]>) -> Result<(), Fault> {
        let _guard = self.order.lock();
        if oids.is_empty() {
            self.told_from.fetch_max(tid.0, Ordering::AcqRel);
        }
        self.publish(&Committed {
            tid,
            oids,
            by: None,
        })
    }

    /// A transaction of the main connection is final.
    pub(super) fn finished(&self, committed: &Committed) -> Result<(), Fault> {
        let _guard = self.order.lock();
        self.publish(committed)
    }

    /// With the lock held: queues stay in TID order.
    fn publish(&self, committed: &Committed) -> Result<(), Fault> {
        let (tid, head) = (committed.tid, self.publisher.head());
        if tid <= head {
            return Err(Fault::Damaged(format!(
                "the server has made transaction {tid}, which is not later than {head}"
            )));
        }
        self.publisher.publish(committed);
        self.rise(tid);
        Ok(())
    }

    /// A restored transaction is final. The server's list will lack its oids.
    pub(super) fn restored(&self, tid: Tid) {
        let _guard = self.order.lock();
        self.told_from.fetch_max(tid.0, Ordering::AcqRel);
        self.rise(tid);
        if tid > self.publisher.head() {
            self.publisher.set_head(tid);
        }
    }

    /// Waits until the main connection has told of `tid`, which the server has.
    pub(super) async fn reach(&self, tid: Tid, patience: Duration) -> Result<(), Fault> {
        let reached = async {
            loop {
                let mut risen = std::pin::pin!(self.risen.notified());
                risen.as_mut().enable();
                if self.last() >= tid {
                    return;
                }
                risen.await;
            }
        };
        timeout(patience, reached)
            .await
            .map_err(|_| Fault::Timeout {
                what: "the announcement of a transaction that the server has",
                after: patience,
            })
    }

    fn rise(&self, tid: Tid) {
        if self.last.fetch_max(tid.0, Ordering::AcqRel) < tid.0 {
            self.risen.notify_waiters();
        }
    }

    pub(super) fn set_size(&self, objects: u64, bytes: u64) {
        self.objects.store(objects, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn size(&self) -> crate::storage::Size {
        crate::storage::Size {
            objects: self.objects.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}
