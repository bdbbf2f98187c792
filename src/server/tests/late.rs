//! A storage whose loads are answered at once and told late, or as of an earlier transaction.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use crate::storage::memory::MemoryStorage;
use crate::storage::{
    Capabilities, CurrentRecord, Description, Extent, History, Invalidations, Loaded, Result,
    Revision, SetAside, Size, Storage, Transaction,
};
use crate::zodb::{HistoryTxn, Oid, Tid, TidRange, TxnMeta};

/// Every load takes its answer when it is asked, and gives it when nothing is held any more.
#[derive(Clone)]
pub(super) struct Late {
    pub(super) storage: MemoryStorage,
    held: watch::Sender<bool>,
    /// How many loads have taken their answer.
    taken: watch::Sender<usize>,
    /// Nothing later is answered, as by an array whose members have a transaction in hand that it has
    /// not shown yet.
    head: watch::Sender<Tid>,
    /// Of answers to `loadSerial`, in bytes.
    alive: Arc<AtomicUsize>,
}

/// An answer that is counted as long as it is there.
struct Weighed {
    data: Bytes,
    alive: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Weighed {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Weighed {
    fn drop(&mut self) {
        self.alive.fetch_sub(self.data.len(), SeqCst);
    }
}

impl Late {
    pub(super) fn new() -> Self {
        Late {
            storage: MemoryStorage::new("late"),
            held: watch::Sender::new(false),
            taken: watch::Sender::new(0),
            head: watch::Sender::new(Tid::MAX),
            alive: Arc::default(),
        }
    }

    pub(super) fn hold(&self) {
        self.held.send_replace(true);
    }

    pub(super) fn release(&self) {
        self.held.send_replace(false);
    }

    /// Answers nothing later than this.
    pub(super) fn cap(&self, head: Tid) {
        self.head.send_replace(head);
    }

    /// How much there is of answers to `loadSerial`, in bytes, wherever.
    pub(super) fn alive(&self) -> usize {
        self.alive.load(SeqCst)
    }

    /// How many loads have taken their answer.
    pub(super) fn count(&self) -> usize {
        *self.taken.borrow()
    }

    /// Waits until this many loads have taken their answer.
    pub(super) async fn taken(&self, count: usize) {
        let mut taken = self.taken.subscribe();
        taken
            .wait_for(|taken| *taken >= count)
            .await
            .expect("it is held by self");
    }
}

#[async_trait]
impl Storage for Late {
    async fn load_before(&self, oid: Oid, before: Tid) -> Result<Option<Loaded>> {
        let head = *self.head.borrow();
        let answer = self.storage.load_before(oid, before.min(head.next())).await;
        let answer = answer.map(|loaded| {
            loaded.map(|loaded| Loaded {
                end: loaded.end.filter(|end| *end <= head),
                as_of: loaded.as_of.min(head),
                ..loaded
            })
        });
        self.taken.send_modify(|taken| *taken += 1);
        let mut waiting = self.held.subscribe();
        waiting
            .wait_for(|held| !held)
            .await
            .expect("it is held by self");
        answer
    }

    fn describe(&self) -> Description {
        self.storage.describe()
    }

    /// No more than loads and commits.
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            undo: false,
            blobs: false,
            pack: false,
            ..self.storage.capabilities()
        }
    }

    fn size(&self) -> Size {
        self.storage.size()
    }

    async fn last_tid(&self) -> Result<Tid> {
        let head = *self.head.borrow();
        Ok(self.storage.last_tid().await?.min(head))
    }

    async fn load_serial(&self, oid: Oid, serial: Tid) -> Result<Bytes> {
        let data = self.storage.load_serial(oid, serial).await?;
        self.taken.send_modify(|taken| *taken += 1);
        let alive = Arc::clone(&self.alive);
        // As by a thread, which answers whether or not anybody looks for the answer.
        let answer = crate::task::blocking(move || {
            alive.fetch_add(data.len(), SeqCst);
            Bytes::from_owner(Weighed { data, alive })
        });
        Ok(answer.await.expect("it does not panic"))
    }

    async fn current_tid(&self, oid: Oid) -> Result<Tid> {
        self.storage.current_tid(oid).await
    }

    async fn new_oids(&self, count: usize, after: Oid) -> Result<Vec<Oid>> {
        self.storage.new_oids(count, after).await
    }

    async fn history(&self, oid: Oid, count: usize) -> Result<Vec<Revision>> {
        self.storage.history(oid, count).await
    }

    async fn record_from(&self, from: Oid) -> Result<Option<CurrentRecord>> {
        self.storage.record_from(from).await
    }

    async fn iterate(&self, range: TidRange) -> Result<Box<dyn History>> {
        self.storage.iterate(range).await
    }

    async fn tids_before(&self, before: Tid, count: usize) -> Result<Vec<Tid>> {
        self.storage.tids_before(before, count).await
    }

    async fn measure_after(&self, after: Tid) -> Result<Extent> {
        self.storage.measure_after(after).await
    }

    async fn invalidations_since(&self, since: Tid) -> Result<(Tid, Option<Vec<Oid>>)> {
        self.storage.invalidations_since(since).await
    }

    fn subscribe(&self) -> Invalidations {
        self.storage.subscribe()
    }

    async fn begin(&self, meta: TxnMeta, tid: Option<Tid>) -> Result<Box<dyn Transaction>> {
        self.storage.begin(meta, tid).await
    }

    async fn restore(&self, batch: Vec<HistoryTxn>) -> Result<()> {
        self.storage.restore(batch).await
    }

    async fn rewind(&self, keep: Option<Tid>) -> Result<SetAside> {
        self.storage.rewind(keep).await
    }

    async fn close(&self) {
        self.storage.close().await;
    }
}
