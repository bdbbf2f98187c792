//! A server in memory that several daemons write to, as they would to a ZEO server.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

use crate::storage::memory::MemoryStorage;
use crate::storage::{
    Capabilities, Committed, CurrentRecord, Description, Extent, Fault, Finishing, History,
    Invalidations, Loaded, Opener, Publisher, Result, Revision, SetAside, Size, Storage,
    Transaction, TxnToken, Vote, Voted, is_blob_record,
};
use crate::zodb::{HistoryTxn, Oid, Op, Tid, TidRange, TxnMeta};

/// The server.
pub(super) struct Server {
    inner: Mutex<MemoryStorage>,
    name: String,
    commit_lock: Arc<tokio::sync::Mutex<()>>,
    connections: Mutex<Vec<Weak<Connection>>>,
    /// Rises when the server is restarted; connections of before are dead.
    generation: AtomicU64,
    pub(super) is_down: AtomicBool,
}

/// Who writes: a daemon. Dead, it does nothing any more, wherever it was.
#[derive(Clone, Default)]
pub(super) struct Writer {
    pub(super) is_dead: Arc<AtomicBool>,
    /// It takes a while until it hears what a server's last transaction is.
    pub(super) is_slow: Arc<AtomicBool>,
}

impl Writer {
    pub(super) async fn dies(&self) {
        while !self.is_dead.load(Ordering::SeqCst) {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }
}

/// One daemon's connection to the server.
struct Connection {
    server: Arc<Server>,
    writer: Writer,
    generation: u64,
    publisher: Publisher,
}

struct Handle(Arc<Connection>);

/// Connects a daemon to a server.
pub(super) struct Door {
    pub(super) server: Arc<Server>,
    pub(super) writer: Writer,
}

impl Server {
    pub(super) fn new(name: &str) -> Arc<Server> {
        Arc::new(Server {
            inner: Mutex::new(MemoryStorage::new(name)),
            name: name.to_owned(),
            commit_lock: Arc::default(),
            connections: Mutex::default(),
            generation: AtomicU64::new(0),
            is_down: AtomicBool::new(false),
        })
    }

    pub(super) fn inner(&self) -> MemoryStorage {
        self.inner.lock().clone()
    }

    /// What its operator does with a copy that cannot be recovered.
    pub(super) fn empty(&self) {
        self.kill();
        *self.inner.lock() = MemoryStorage::new(&self.name);
        self.revive();
    }

    /// Ends every connection; what was voted on them is aborted.
    pub(super) fn kill(&self) {
        self.is_down.store(true, Ordering::SeqCst);
        self.generation.fetch_add(1, Ordering::SeqCst);
        for connection in self.connections.lock().drain(..) {
            if let Some(connection) = connection.upgrade() {
                connection.publisher.cut_off();
            }
        }
    }

    pub(super) fn revive(&self) {
        self.is_down.store(false, Ordering::SeqCst);
    }

    /// Tells every connection but the writer's own that it is somebody else's.
    fn announce(&self, tid: Tid, oids: &[Oid], by: Option<TxnToken>, from: &Arc<Connection>) {
        let mut connections = self.connections.lock();
        connections.retain(|connection| connection.strong_count() > 0);
        for connection in connections.iter().filter_map(Weak::upgrade) {
            let own = Arc::ptr_eq(&connection, from);
            if !own || by.is_some() {
                connection.publisher.publish(&Committed {
                    tid,
                    oids: oids.into(),
                    by: by.filter(|_| own),
                });
            }
        }
    }
}

impl Connection {
    fn usable(&self) -> Result<()> {
        if self.writer.is_dead.load(Ordering::SeqCst)
            || self.server.is_down.load(Ordering::SeqCst)
            || self.server.generation.load(Ordering::SeqCst) != self.generation
        {
            return Err(Fault::Closed("the connection ended".into()).into());
        }
        Ok(())
    }
}

#[async_trait]
impl Opener for Door {
    fn describe(&self) -> Description {
        self.server.inner().describe()
    }

    async fn open(&self) -> Result<Arc<dyn Storage>, Fault> {
        if self.server.is_down.load(Ordering::SeqCst) {
            return Err(Fault::Unreachable("connection refused".into()));
        }
        let connection = Arc::new(Connection {
            generation: self.server.generation.load(Ordering::SeqCst),
            server: Arc::clone(&self.server),
            writer: self.writer.clone(),
            publisher: Publisher::new(),
        });
        let connections = &self.server.connections;
        connections.lock().push(Arc::downgrade(&connection));
        Ok(Arc::new(Handle(connection)))
    }

    async fn set_aside(&self) -> Result<SetAside, Fault> {
        Err(Fault::InUse("only its operator can".into()))
    }
}

/// Some other task may run here.
async fn elsewhere() {
    for _ in 0..fastrand::u8(0..4) {
        tokio::task::yield_now().await;
    }
    if fastrand::u8(..8) == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(fastrand::u64(1..40))).await;
    }
}

#[async_trait]
impl Storage for Handle {
    fn describe(&self) -> Description {
        self.0.server.inner().describe()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            pipelined: false,
            rewind: false,
            shared: true,
            ..self.0.server.inner().capabilities()
        }
    }

    fn size(&self) -> Size {
        self.0.server.inner().size()
    }

    async fn last_tid(&self) -> Result<Tid> {
        elsewhere().await;
        if self.0.writer.is_slow.load(Ordering::SeqCst) {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        self.0.usable()?;
        self.0.server.inner().last_tid().await
    }

    async fn load_before(&self, oid: Oid, before: Tid) -> Result<Option<Loaded>> {
        elsewhere().await;
        self.0.usable()?;
        self.0.server.inner().load_before(oid, before).await
    }

    async fn load_serial(&self, oid: Oid, serial: Tid) -> Result<Bytes> {
        self.0.usable()?;
        self.0.server.inner().load_serial(oid, serial).await
    }

    async fn current_tid(&self, oid: Oid) -> Result<Tid> {
        self.0.usable()?;
        self.0.server.inner().current_tid(oid).await
    }

    async fn new_oids(&self, count: usize, after: Oid) -> Result<Vec<Oid>> {
        self.0.usable()?;
        self.0.server.inner().new_oids(count, after).await
    }

    async fn history(&self, oid: Oid, count: usize) -> Result<Vec<Revision>> {
        self.0.usable()?;
        self.0.server.inner().history(oid, count).await
    }

    async fn record_from(&self, from: Oid) -> Result<Option<CurrentRecord>> {
        self.0.usable()?;
        self.0.server.inner().record_from(from).await
    }

    async fn iterate(&self, range: TidRange) -> Result<Box<dyn History>> {
        elsewhere().await;
        self.0.usable()?;
        self.0.server.inner().iterate(range).await
    }

    async fn tids_before(&self, before: Tid, count: usize) -> Result<Vec<Tid>> {
        self.0.usable()?;
        self.0.server.inner().tids_before(before, count).await
    }

    async fn measure_after(&self, after: Tid) -> Result<Extent> {
        self.0.usable()?;
        self.0.server.inner().measure_after(after).await
    }

    async fn invalidations_since(&self, since: Tid) -> Result<(Tid, Option<Vec<Oid>>)> {
        self.0.usable()?;
        self.0.server.inner().invalidations_since(since).await
    }

    fn subscribe(&self) -> Invalidations {
        self.0.publisher.subscribe()
    }

    async fn begin(&self, meta: TxnMeta, tid: Option<Tid>) -> Result<Box<dyn Transaction>> {
        self.0.usable()?;
        let inner = self.0.server.inner().begin(meta, tid).await?;
        Ok(Box::new(Begun {
            connection: Arc::clone(&self.0),
            inner,
            oids: Vec::new(),
        }))
    }

    async fn restore(&self, batch: Vec<HistoryTxn>) -> Result<()> {
        for transaction in batch {
            elsewhere().await;
            let lock = Arc::clone(&self.0.server.commit_lock);
            let _locked = lock.lock_owned().await;
            elsewhere().await;
            self.0.usable()?;
            let tid = transaction.tid;
            // Blobs are stored and not restored, and told of.
            let blobs = transaction.records.iter().filter(|record| {
                let data = record.data.payload().and_then(|data| data.in_memory());
                data.is_some_and(|data| is_blob_record(data))
            });
            let told: Vec<Oid> = blobs.map(|record| record.oid).collect();
            self.0.server.inner().restore(vec![transaction]).await?;
            self.0.server.announce(tid, &told, None, &self.0);
        }
        Ok(())
    }

    async fn rewind(&self, _: Option<Tid>) -> Result<SetAside> {
        Err(crate::storage::Answer::Unsupported("rewinding").into())
    }

    async fn close(&self) {
        self.0.publisher.cut_off();
    }
}

struct Begun {
    connection: Arc<Connection>,
    inner: Box<dyn Transaction>,
    oids: Vec<Oid>,
}

#[async_trait]
impl Transaction for Begun {
    fn token(&self) -> TxnToken {
        self.inner.token()
    }

    async fn store(&mut self, op: Op) -> Result<()> {
        self.oids.extend(op.writes());
        self.inner.store(op).await
    }

    async fn vote(self: Box<Self>) -> Result<Vote> {
        elsewhere().await;
        let lock = Arc::clone(&self.connection.server.commit_lock);
        let locked = lock.lock_owned().await;
        elsewhere().await;
        self.connection.usable()?;
        let token = self.inner.token();
        let after = self.connection.server.inner().last_tid().await?;
        match self.inner.vote().await? {
            Vote::Ready(inner) => Ok(Vote::Ready(Box::new(Ready {
                connection: self.connection,
                inner,
                token,
                oids: self.oids,
                after,
                locked,
            }))),
            // A ZEO server lets go of its lock; the fake's inner transaction must, too.
            Vote::Conflicts(_, conflicts) => {
                let first = conflicts.into_iter().next().expect("there is one");
                Err(crate::storage::Answer::Conflict(first).into())
            }
        }
    }
}

struct Ready {
    connection: Arc<Connection>,
    inner: Box<dyn Voted>,
    token: TxnToken,
    oids: Vec<Oid>,
    after: Tid,
    locked: OwnedMutexGuard<()>,
}

impl Voted for Ready {
    fn tid(&self) -> Option<Tid> {
        self.inner.tid()
    }

    fn resolved(&self) -> &[Oid] {
        &[]
    }

    fn after(&self) -> Option<Tid> {
        Some(self.after)
    }

    fn finish(self: Box<Self>) -> Finishing {
        Box::pin(async move {
            let Ready {
                connection,
                inner,
                token,
                oids,
                locked,
                ..
            } = *self;
            elsewhere().await;
            connection.usable()?;
            let tid = inner.finish().await?;
            connection
                .server
                .announce(tid, &oids, Some(token), &connection);
            drop(locked);
            elsewhere().await;
            // It is finished; whether the daemon hears of it is another question.
            connection.usable()?;
            Ok(tid)
        })
    }
}
