//! A storage in memory that takes blobs and undoes, as far as the front end has to do with it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::pickle::Value;
use crate::storage::memory::MemoryStorage;
use crate::storage::{
    Capabilities, CurrentRecord, Description, Extent, Finishing, History, Invalidations, Loaded,
    Result, Revision, SetAside, Size, Storage, Transaction, TxnToken, Undoable, Vote, Voted,
};
use crate::zodb::{Answer, Blob, HistoryTxn, Oid, Op, Tid, TidRange, TxnMeta};

/// What undoing says that it has touched.
pub(super) const UNDONE: Oid = Oid(99);

/// A transaction that cannot be undone.
pub(super) const FINAL: Tid = Tid(13);

type BlobFiles = Arc<Mutex<HashMap<(Oid, Tid), Blob>>>;

/// A storage that can do everything.
#[derive(Clone)]
pub(super) struct Full {
    pub(super) storage: MemoryStorage,
    pub(super) blobs: BlobFiles,
    pub(super) log: Arc<Mutex<Vec<Undoable>>>,
    /// What the undo log was asked with.
    pub(super) asked: Arc<Mutex<Vec<(i64, i64, Value)>>>,
    /// How much each transaction is that is undone.
    pub(super) undone_bytes: Arc<AtomicU64>,
    /// Packs wait while it is held.
    pub(super) held: watch::Sender<bool>,
    /// The times of packs that have begun.
    pub(super) packs: watch::Sender<Vec<f64>>,
}

impl Full {
    pub(super) fn new() -> Self {
        Full {
            storage: MemoryStorage::new("full"),
            blobs: BlobFiles::default(),
            log: Arc::default(),
            asked: Arc::default(),
            undone_bytes: Arc::default(),
            held: watch::Sender::new(false),
            packs: watch::Sender::new(Vec::new()),
        }
    }
}

struct Doing {
    inner: Box<dyn Transaction>,
    files: BlobFiles,
    blobs: Vec<(Oid, Blob)>,
    undone: Vec<Oid>,
    refused: Option<Answer>,
}

struct Done {
    inner: Box<dyn Voted>,
    files: BlobFiles,
    blobs: Vec<(Oid, Blob)>,
    undone: Vec<Oid>,
}

#[async_trait]
impl Transaction for Doing {
    fn token(&self) -> TxnToken {
        self.inner.token()
    }

    async fn store(&mut self, op: Op) -> Result<()> {
        match op {
            Op::StoreBlob {
                oid,
                serial,
                data,
                blob,
            } => {
                self.blobs.push((oid, blob));
                self.inner.store(Op::Store { oid, serial, data }).await
            }
            Op::Undo { tid: FINAL } => {
                self.refused = Some(Answer::MultipleUndo(vec![(UNDONE, "changed".to_owned())]));
                Ok(())
            }
            Op::Undo { .. } => {
                self.undone.push(UNDONE);
                Ok(())
            }
            op => self.inner.store(op).await,
        }
    }

    async fn vote(mut self: Box<Self>) -> Result<Vote> {
        if let Some(answer) = self.refused {
            return Err(answer.into());
        }
        match self.inner.vote().await? {
            Vote::Ready(inner) => Ok(Vote::Ready(Box::new(Done {
                inner,
                files: self.files,
                blobs: self.blobs,
                undone: self.undone,
            }))),
            Vote::Conflicts(inner, conflicts) => {
                let is_dropped = |oid| conflicts.iter().any(|conflict| conflict.oid == oid);
                self.blobs.retain(|(oid, _)| !is_dropped(*oid));
                self.inner = inner;
                Ok(Vote::Conflicts(self, conflicts))
            }
        }
    }
}

impl Voted for Done {
    fn tid(&self) -> Option<Tid> {
        self.inner.tid()
    }

    fn resolved(&self) -> &[Oid] {
        &self.undone
    }

    fn finish(self: Box<Self>) -> Finishing {
        let finishing = self.inner.finish();
        let (files, blobs) = (self.files, self.blobs);
        Box::pin(async move {
            let tid = finishing.await?;
            files
                .lock()
                .extend(blobs.into_iter().map(|(oid, blob)| ((oid, tid), blob)));
            Ok(tid)
        })
    }
}

#[async_trait]
impl Storage for Full {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            undo: true,
            blobs: true,
            pack: true,
            ..self.storage.capabilities()
        }
    }

    async fn load_blob(&self, oid: Oid, serial: Tid) -> Result<Blob> {
        let found = self.blobs.lock().get(&(oid, serial)).cloned();
        found.ok_or_else(|| Answer::NoSuchObject(oid).into())
    }

    async fn undo_info(&self, first: i64, last: i64, spec: &Value) -> Result<Vec<Undoable>> {
        self.asked.lock().push((first, last, spec.clone()));
        Ok(self.log.lock().clone())
    }

    async fn measure_undone(&self, tids: Arc<[Tid]>) -> Result<Option<u64>> {
        Ok(Some(self.undone_bytes.load(Relaxed) * tids.len() as u64))
    }

    async fn pack(&self, time: f64) -> Result<()> {
        self.packs.send_modify(|packs| packs.push(time));
        let mut waiting = self.held.subscribe();
        waiting
            .wait_for(|held| !held)
            .await
            .expect("it is held by self");
        if time.is_sign_negative() {
            return Err(Answer::Invalid("no such time".to_owned()).into());
        }
        Ok(())
    }

    async fn begin(&self, meta: TxnMeta, tid: Option<Tid>) -> Result<Box<dyn Transaction>> {
        Ok(Box::new(Doing {
            inner: self.storage.begin(meta, tid).await?,
            files: Arc::clone(&self.blobs),
            blobs: Vec::new(),
            undone: Vec::new(),
            refused: None,
        }))
    }

    fn describe(&self) -> Description {
        self.storage.describe()
    }

    fn size(&self) -> Size {
        self.storage.size()
    }

    async fn last_tid(&self) -> Result<Tid> {
        self.storage.last_tid().await
    }

    async fn load_before(&self, oid: Oid, before: Tid) -> Result<Option<Loaded>> {
        self.storage.load_before(oid, before).await
    }

    async fn load_serial(&self, oid: Oid, serial: Tid) -> Result<Bytes> {
        self.storage.load_serial(oid, serial).await
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
