//! A ZEO server for members: our front end over our file engine, made to behave as Python's where the
//! two differ and a daemon can tell.
//!
//! As Python's: one lock for the whole storage from a vote to the end of its finish; who votes meanwhile
//! waits; a TID that a client chose is looked at by nobody before its finish; of what `restorea` wrote other
//! clients are told that there is a transaction, and no objects. What is left that differs: nobody answers later
//! because somebody else votes; the lock is never lost; conflicts are left to the client, as Python's
//! does only where it is told to; a client that lost a conflict has a place in line.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedMutexGuard, watch};

use crate::pickle::Value;
use crate::server::{Listen, ListenAddress, Served, Server, ServerOptions, Serving};
use crate::storage::file::{FileOptions, FileStorage, begin_as};
use crate::storage::{
    Answer, Capabilities, CurrentRecord, Description, Extent, Fault, Finishing, History,
    Invalidations, Loaded, Result, Revision, SetAside, Size, Storage, StorageError, Transaction,
    TxnToken, Undoable, Vote, Voted,
};
use crate::wire::Dialect;
use crate::zodb::{Blob, HistoryTxn, Oid, Op, Tid, TidRange, TxnMeta};

use super::trace;

/// Where a server keeps what it keeps.
pub(super) fn data_fs(folder: &std::path::Path) -> PathBuf {
    folder.join("Data.fs")
}

pub(super) fn options(folder: &std::path::Path) -> FileOptions {
    FileOptions {
        invalidation_queue: 50,
        blob_dir: Some(folder.join("blobs")),
        pack_gc: false,
        pack_keep_old: false,
        ..FileOptions::default()
    }
}

/// Serves until it is dropped.
pub(super) async fn start(
    folder: PathBuf,
    host: &str,
    offer: Dialect,
) -> std::result::Result<(Server, watch::Sender<Serving>, Arc<dyn Storage>), Fault> {
    let storage = FileStorage::open(&data_fs(&folder), options(&folder)).await?;
    let storage: Arc<dyn Storage> = Arc::new(LikePython {
        inner: Arc::new(storage),
        lock: Arc::default(),
        told: Arc::default(),
    });
    let (serving, watched) = watch::channel(Serving::Yes);
    let served =
        Served::new("1", Arc::clone(&storage), watched).with_uploads(folder.join("uploads"));
    let options = ServerOptions {
        offer,
        ..ServerOptions::default()
    };
    let address = ListenAddress::Tcp {
        host: host.to_owned(),
        port: 8100,
    };
    let server = Server::start(options, vec![Listen { address, tls: None }], vec![served])
        .await
        .map_err(|error| Fault::Unreachable(error.to_string()))?;
    Ok((server, serving, storage))
}

/// The objects that are told of transactions with restored records: those that were stored.
type Told = Arc<Mutex<BTreeMap<Tid, Arc<[Oid]>>>>;

struct LikePython {
    inner: Arc<FileStorage>,
    lock: Arc<tokio::sync::Mutex<()>>,
    told: Told,
}

#[async_trait]
impl Storage for LikePython {
    fn describe(&self) -> Description {
        self.inner.describe()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            pipelined: false,
            ..self.inner.capabilities()
        }
    }

    fn size(&self) -> Size {
        self.inner.size()
    }

    async fn last_tid(&self) -> Result<Tid> {
        self.inner.last_tid().await
    }

    async fn load_before(&self, oid: Oid, before: Tid) -> Result<Option<Loaded>> {
        self.inner.load_before(oid, before).await
    }

    async fn load_serial(&self, oid: Oid, serial: Tid) -> Result<Bytes> {
        self.inner.load_serial(oid, serial).await
    }

    async fn current_tid(&self, oid: Oid) -> Result<Tid> {
        self.inner.current_tid(oid).await
    }

    async fn new_oids(&self, count: usize, after: Oid) -> Result<Vec<Oid>> {
        self.inner.new_oids(count, after).await
    }

    async fn history(&self, oid: Oid, count: usize) -> Result<Vec<Revision>> {
        self.inner.history(oid, count).await
    }

    async fn record_from(&self, from: Oid) -> Result<Option<CurrentRecord>> {
        self.inner.record_from(from).await
    }

    async fn iterate(&self, range: TidRange) -> Result<Box<dyn History>> {
        self.inner.iterate(range).await
    }

    async fn tids_before(&self, before: Tid, count: usize) -> Result<Vec<Tid>> {
        self.inner.tids_before(before, count).await
    }

    async fn measure_after(&self, after: Tid) -> Result<Extent> {
        self.inner.measure_after(after).await
    }

    async fn invalidations_since(&self, since: Tid) -> Result<(Tid, Option<Vec<Oid>>)> {
        let (last, oids) = self.inner.invalidations_since(since).await?;
        let after = since.next();
        if oids.is_none() || self.told.lock().range(after..).next().is_none() {
            return Ok((last, oids));
        }
        let mut said = BTreeSet::new();
        let mut walk = self.inner.iterate(TidRange::after(since)).await?;
        while let Some(txn) = walk.next().await? {
            match self.told.lock().get(&txn.tid) {
                Some(told) => said.extend(told.iter().copied()),
                None => said.extend(txn.records.iter().map(|record| record.oid)),
            }
        }
        Ok((last, Some(said.into_iter().collect())))
    }

    async fn load_blob(&self, oid: Oid, serial: Tid) -> Result<Blob> {
        self.inner.load_blob(oid, serial).await
    }

    async fn undo_info(&self, first: i64, last: i64, what: &Value) -> Result<Vec<Undoable>> {
        self.inner.undo_info(first, last, what).await
    }

    async fn pack(&self, time: f64) -> Result<()> {
        self.inner.pack(time).await
    }

    fn subscribe(&self) -> Invalidations {
        self.inner.subscribe().telling(&self.told)
    }

    async fn begin(&self, meta: TxnMeta, tid: Option<Tid>) -> Result<Box<dyn Transaction>> {
        Ok(Box::new(Begun {
            token: TxnToken::new(),
            storage: Arc::clone(&self.inner),
            lock: Arc::clone(&self.lock),
            told: Arc::clone(&self.told),
            meta,
            tid,
            ops: Vec::new(),
        }))
    }

    async fn restore(&self, batch: Vec<HistoryTxn>) -> Result<()> {
        self.inner.restore(batch).await
    }

    async fn rewind(&self, _keep: Option<Tid>) -> Result<SetAside> {
        Err(Answer::Unsupported("being cut back").into())
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

struct Begun {
    token: TxnToken,
    storage: Arc<FileStorage>,
    lock: Arc<tokio::sync::Mutex<()>>,
    told: Told,
    meta: TxnMeta,
    tid: Option<Tid>,
    ops: Vec<Op>,
}

#[async_trait]
impl Transaction for Begun {
    fn token(&self) -> TxnToken {
        self.token
    }

    async fn store(&mut self, op: Op) -> Result<()> {
        self.ops.push(op);
        Ok(())
    }

    async fn vote(self: Box<Self>) -> Result<Vote> {
        let locked = Arc::clone(&self.lock).lock_owned().await;
        let last = self.storage.last_tid().await?;
        let chosen = self.tid.filter(|tid| *tid > last);
        let stale = self.tid.filter(|tid| *tid <= last);
        let begun = begin_as(self.token, &self.storage, self.meta.clone(), chosen);
        let mut inner = begun.map_err(as_python)?;
        for op in &self.ops {
            inner.store(op.clone()).await?;
        }
        match inner.vote().await.map_err(as_python)? {
            Vote::Ready(inner) => {
                let restores = |op: &Op| matches!(op, Op::Restore { .. });
                let stored = || {
                    let stored = self.ops.iter().filter(|op| !restores(op));
                    stored.filter_map(Op::writes).collect()
                };
                let tells = self.ops.iter().any(restores).then(stored);
                let tells = tells.map(|oids| (self.told, oids));
                Ok(Vote::Ready(Box::new(Ready {
                    inner,
                    stale,
                    tells,
                    locked,
                })))
            }
            Vote::Conflicts(txn, conflicts) => {
                // It lets go of its lock, and all is checked again at the next vote.
                drop(txn);
                let lost: Vec<Oid> = conflicts.iter().map(|conflict| conflict.oid).collect();
                let mut this = self;
                this.ops
                    .retain(|op| op.writes().is_none_or(|oid| !lost.contains(&oid)));
                Ok(Vote::Conflicts(this, conflicts))
            }
        }
    }
}

/// A disk that takes nothing is an exception as any other.
fn as_python(error: StorageError) -> StorageError {
    match error {
        StorageError::Fault(Fault::DiskFull { .. }) => Answer::Other {
            class: "builtins.OSError".to_owned(),
            text: "28, No space left on device".to_owned(),
        }
        .into(),
        error => error,
    }
}

struct Ready {
    inner: Box<dyn Voted>,
    /// A TID that nobody may finish with.
    stale: Option<Tid>,
    /// What others are told of it, where that is not what it writes.
    tells: Option<(Told, Arc<[Oid]>)>,
    locked: OwnedMutexGuard<()>,
}

impl Voted for Ready {
    fn tid(&self) -> Option<Tid> {
        self.inner.tid()
    }

    fn resolved(&self) -> &[Oid] {
        self.inner.resolved()
    }

    fn finish(self: Box<Self>) -> Finishing {
        if let Some(tid) = self.stale {
            trace::fail(format!(
                "{tid} is finished, which is not later than the last"
            ));
        }
        let Ready {
            inner,
            tells,
            locked,
            ..
        } = *self;
        if let (Some((told, oids)), Some(tid)) = (tells, inner.tid()) {
            told.lock().insert(tid, oids);
        }
        let finishing = inner.finish();
        Box::pin(async move {
            let finished = finishing.await;
            drop(locked);
            finished
        })
    }
}
