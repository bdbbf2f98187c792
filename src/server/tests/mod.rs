//! The front end over storages in memory, with clients that speak the protocol through `wire`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::timeout;

use super::session;
use super::start::{Served, Serving, Shared};
use super::{Counters, ServerOptions};
use crate::pickle::Value;
use crate::storage::Storage;
use crate::wire::connection::{Reader, Writer};
use crate::wire::{
    Call, Dialect, Expected, FromServer, LoadedRecord, MessageId, Push, Reply, Request, TxnId,
    handshake,
};
use crate::zodb::{Oid, Tid, TxnMeta};

mod addresses;
mod blobs;
mod extension;
mod full;
mod iterating;
mod late;
mod limits;
mod manners;
mod order;
mod transactions;
mod undo;

/// How long anything may take that is expected to happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server without listeners: its connections are pipes.
struct House {
    shared: Arc<Shared>,
    serving: watch::Sender<Serving>,
    pipe: usize,
}

impl House {
    fn of(storage: impl Storage) -> Self {
        House::with(storage, ServerOptions::default())
    }

    fn with(storage: impl Storage, options: ServerOptions) -> Self {
        House::changed(storage, options, |served| served)
    }

    fn changed(
        storage: impl Storage,
        options: ServerOptions,
        change: impl FnOnce(Served) -> Served,
    ) -> Self {
        let (serving, watched) = watch::channel(Serving::Yes);
        let served = change(Served::new("main", Arc::new(storage), watched));
        House {
            shared: Arc::new(Shared::new(options, vec![served])),
            serving,
            pipe: 64 << 10,
        }
    }

    fn counters(&self) -> Counters {
        self.shared.served["main"].stats.counters()
    }

    fn storage(&self) -> &dyn Storage {
        &*self.shared.served["main"].storage
    }

    /// A connection that has said nothing yet.
    fn pipe(&self) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(self.pipe);
        let (read, write) = tokio::io::split(theirs);
        let session = session::run(
            read,
            write,
            "test".to_owned(),
            tokio::time::Instant::now(),
            Arc::clone(&self.shared),
        );
        self.shared.sessions.spawn("test", session);
        ours
    }

    /// A client that has chosen an encoding.
    async fn connect(&self, dialect: Dialect) -> Client {
        let (read, write) = tokio::io::split(self.pipe());
        let (mut reader, mut writer) = (Reader::new(read, 1 << 30), Writer::new(write));
        let choosing = handshake::connect(&mut reader, &mut writer, Some(dialect));
        choosing.await.expect("the handshake succeeds");
        Client {
            reader,
            writer,
            next: 0,
            asked: VecDeque::new(),
        }
    }

    /// A client that may write.
    async fn client(&self) -> Client {
        let mut client = self.connect(Dialect::Pickle).await;
        let reply = client.register("main", false).await;
        assert!(matches!(reply, Reply::Tid(_)), "{reply:?}");
        client
    }
}

/// What a client hears.
#[derive(Debug, PartialEq)]
enum Said {
    Reply(MessageId, Reply),
    Push(Push),
    /// The server has closed the connection.
    End,
}

struct Client {
    reader: Reader<ReadHalf<DuplexStream>>,
    writer: Writer<WriteHalf<DuplexStream>>,
    next: i64,
    asked: VecDeque<(MessageId, Expected)>,
}

impl Client {
    /// Sends a call and does not wait for its reply.
    async fn ask(&mut self, call: Call) -> MessageId {
        self.next += 1;
        let id = MessageId::Int(self.next);
        self.asked.push_back((id.clone(), Expected::of(&call)));
        self.send(id.clone(), false, call).await;
        id
    }

    /// Sends a call that is not answered.
    async fn tell(&mut self, call: Call) {
        self.send(MessageId::Int(0), true, call).await;
    }

    async fn send(&mut self, id: MessageId, one_way: bool, call: Call) {
        let request = Request { id, one_way, call };
        self.writer.request(&request).expect("it can be said");
        // Where the server has closed, the next thing heard says so.
        drop(self.writer.flush().await);
    }

    /// Sends bytes as they are.
    async fn raw(&mut self, bytes: &[u8]) {
        self.writer.output().put(bytes);
        drop(self.writer.flush().await);
    }

    /// The next thing that the server says.
    async fn hear(&mut self) -> Said {
        loop {
            let heard = timeout(PATIENCE, self.reader.next_from_server()).await;
            match heard.expect("the server says something") {
                Ok(Some(FromServer::Heartbeat)) => {}
                Ok(Some(FromServer::Push(push))) => return Said::Push(push),
                Ok(Some(FromServer::Reply(reply))) => {
                    let place = self.asked.iter().position(|(id, _)| *id == reply.id);
                    let place = place.unwrap_or_else(|| panic!("nobody asked {:?}", reply.id));
                    let (id, expected) = self.asked.remove(place).expect("it was found");
                    return Said::Reply(id, reply.expect(expected).expect("a reply of its kind"));
                }
                Ok(None) | Err(_) => return Said::End,
            }
        }
    }

    /// Hears until the reply to `id`, and what was said before it.
    async fn hear_until(&mut self, id: &MessageId) -> (Vec<Said>, Reply) {
        let mut before = Vec::new();
        loop {
            match self.hear().await {
                Said::Reply(of, reply) if of == *id => return (before, reply),
                Said::End => panic!("closed before the reply to {id:?}, after {before:?}"),
                said => before.push(said),
            }
        }
    }

    /// A call and its reply; what is said in between is passed over.
    async fn call(&mut self, call: Call) -> Reply {
        let id = self.ask(call).await;
        self.hear_until(&id).await.1
    }

    async fn register(&mut self, storage: &str, read_only: bool) -> Reply {
        let storage = storage.to_owned();
        self.call(Call::Register { storage, read_only }).await
    }

    async fn load(&mut self, oid: u64) -> LoadedRecord {
        match self.call(load(oid)).await {
            Reply::Loaded(Some(record)) => record,
            other => panic!("not a record: {other:?}"),
        }
    }

    async fn begin(&mut self, txn: i64) {
        self.tell(begin(txn)).await;
    }

    async fn store(&mut self, txn: i64, oid: u64, serial: Tid, data: &'static [u8]) {
        self.tell(store(txn, oid, serial, data)).await;
    }

    /// Commits one object.
    async fn commit(&mut self, oid: u64, serial: Tid, data: &'static [u8]) -> Tid {
        self.begin(1).await;
        self.store(1, oid, serial, data).await;
        assert_eq!(self.call(vote(1)).await, Reply::Voted(vec![]));
        match self.call(finish(1)).await {
            Reply::Tid(tid) => tid,
            other => panic!("not finished: {other:?}"),
        }
    }

    /// Asserts that the server closes, and says nothing but invalidations before.
    async fn is_closed(&mut self) {
        loop {
            match self.hear().await {
                Said::End => return,
                Said::Push(_) => {}
                said @ Said::Reply(..) => panic!("not closed: {said:?}"),
            }
        }
    }

    async fn leave(mut self) {
        self.writer.close().await.expect("it can be closed");
    }
}

fn txn(id: i64) -> TxnId {
    TxnId(Value::Int(id))
}

fn load(oid: u64) -> Call {
    Call::LoadBefore {
        oid: Oid(oid),
        before: Tid::MAX,
    }
}

fn begin(id: i64) -> Call {
    Call::TpcBegin {
        txn: txn(id),
        meta: TxnMeta::default(),
        tid: None,
    }
}

fn store(id: i64, oid: u64, serial: Tid, data: &'static [u8]) -> Call {
    Call::Storea {
        oid: Oid(oid),
        serial,
        data: Bytes::from_static(data),
        txn: txn(id),
    }
}

fn vote(id: i64) -> Call {
    Call::Vote { txn: txn(id) }
}

fn finish(id: i64) -> Call {
    Call::TpcFinish { txn: txn(id) }
}

fn abort(id: i64) -> Call {
    Call::TpcAbort { txn: txn(id) }
}

fn invalidated(tid: Tid, oids: &[u64]) -> Said {
    Said::Push(Push::InvalidateTransaction {
        tid,
        oids: oids.iter().copied().map(Oid).collect(),
    })
}

/// Waits until something is so.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    let waited = timeout(PATIENCE, waiting).await;
    assert!(waited.is_ok(), "never happened: {what}");
}
