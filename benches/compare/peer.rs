//! A client of our own, over `wire`: it costs far less than a Python client, so that it is the server
//! that is measured.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, bail};
use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use zeoraidctl::pickle::Value;
use zeoraidctl::wire::connection::{Reader, Writer};
use zeoraidctl::wire::{Call, Dialect, Expected, FromServer, MessageId, Reply, Request, TxnId};
use zeoraidctl::wire::{frame, handshake};
use zeoraidctl::zodb::{HistoryTxn, Oid, Tid, TxnMeta};

use crate::measure::since;

/// A registered connection.
pub(crate) struct Peer {
    pub(crate) reader: Reader<OwnedReadHalf>,
    pub(crate) writer: Writer<OwnedWriteHalf>,
    pub(crate) next: i64,
}

/// Later than every transaction that Python's servers can make; this is what ZODB itself asks with.
pub(crate) const NOW: Tid = Tid(0x7fff_ffff_ffff_ffff);

/// How many transactions are fed before the first is answered.
const FEED_AHEAD: usize = 64;

/// The ids of all votes and of all finishes that are fed.
const VOTE: MessageId = MessageId::Int(1_000_001);
const FINISH: MessageId = MessageId::Int(1_000_002);

impl Peer {
    pub(crate) async fn connect(address: SocketAddr) -> anyhow::Result<Peer> {
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("could not connect to {address}"))?;
        stream.set_nodelay(true)?;
        let (read, write) = stream.into_split();
        let mut reader = Reader::new(read, frame::DEFAULT_LIMIT);
        let mut writer = Writer::new(write);
        handshake::connect(&mut reader, &mut writer, Some(Dialect::Pickle)).await?;
        let mut peer = Peer {
            reader,
            writer,
            next: 0,
        };
        let register = Call::Register {
            storage: "1".to_owned(),
            read_only: false,
        };
        match peer.call(register).await? {
            Reply::Tid(_) => Ok(peer),
            reply => bail!("could not register: {reply:?}"),
        }
    }

    /// Queues a load.
    pub(crate) fn load(&mut self, oid: Oid) -> anyhow::Result<()> {
        let request = Request {
            // As Python's clients do.
            id: MessageId::Load(oid, NOW),
            one_way: false,
            call: Call::LoadBefore { oid, before: NOW },
        };
        Ok(self.writer.request(&request)?)
    }

    /// A call and its reply; what is said in between is passed over.
    pub(crate) async fn call(&mut self, call: Call) -> anyhow::Result<Reply> {
        self.next += 1;
        let id = MessageId::Int(self.next);
        let expected = Expected::of(&call);
        let request = Request {
            id: id.clone(),
            one_way: false,
            call,
        };
        self.writer.request(&request)?;
        self.writer.flush().await?;
        loop {
            match self.reader.next_from_server().await? {
                Some(FromServer::Reply(reply)) if reply.id == id => {
                    return Ok(reply.expect(expected)?);
                }
                Some(_) => {}
                None => bail!("the server has closed the connection"),
            }
        }
    }

    pub(crate) fn tell(&mut self, call: Call) -> anyhow::Result<()> {
        let request = Request {
            id: MessageId::Int(0),
            one_way: true,
            call,
        };
        Ok(self.writer.request(&request)?)
    }

    /// Commits new revisions of objects, as a Python client does: all stores and the vote are sent at
    /// once, then the finish.
    pub(crate) async fn commit(
        &mut self,
        objects: &[Oid],
        serial: Tid,
        data: &Bytes,
    ) -> anyhow::Result<Tid> {
        // Python's ids are addresses.
        let txn = || TxnId(Value::Int(0x7f12_3456_7890));
        self.tell(Call::TpcBegin {
            txn: txn(),
            meta: TxnMeta {
                user: Bytes::from_static(b"bench"),
                description: Bytes::from_static(b"/bench/commit"),
                ..TxnMeta::default()
            },
            tid: None,
        })?;
        for oid in objects {
            self.tell(Call::Storea {
                oid: *oid,
                serial,
                data: data.clone(),
                txn: txn(),
            })?;
        }
        match self.call(Call::Vote { txn: txn() }).await? {
            Reply::Voted(resolved) if resolved.is_empty() => {}
            reply => bail!("not voted: {reply:?}"),
        }
        match self.call(Call::TpcFinish { txn: txn() }).await? {
            Reply::Tid(tid) => Ok(tid),
            reply => bail!("not finished: {reply:?}"),
        }
    }

    /// Copies transactions to the server flat out, as nobody should: the finish of each leaves before
    /// its vote is answered. Gives how long each took from its first call to its last reply.
    pub(crate) async fn feed(&mut self, history: &[HistoryTxn]) -> anyhow::Result<Vec<u32>> {
        let mut asked = VecDeque::new();
        let mut latencies = Vec::new();
        let mut rest = history.iter();
        loop {
            let before = asked.len();
            while asked.len() < FEED_AHEAD {
                let Some(txn) = rest.next() else { break };
                asked.push_back(Instant::now());
                self.queue_whole(txn)?;
            }
            if asked.is_empty() {
                return Ok(latencies);
            }
            if asked.len() > before {
                self.writer.flush().await?;
            }
            // Half of them are waited for: many leave together.
            while asked.len() > FEED_AHEAD / 2 || (rest.len() == 0 && !asked.is_empty()) {
                match self.reader.next_from_server().await? {
                    Some(FromServer::Reply(reply)) if reply.id == FINISH => {
                        let Reply::Tid(_) = reply.expect(Expected::Tid)? else {
                            bail!("not finished");
                        };
                        latencies.push(since(asked.pop_front().context("a reply too many")?));
                    }
                    Some(FromServer::Reply(reply)) => {
                        let Reply::Voted(_) = reply.expect(Expected::Vote)? else {
                            bail!("not voted");
                        };
                    }
                    Some(_) => {}
                    None => bail!("the server has closed the connection"),
                }
            }
        }
    }

    fn queue_whole(&mut self, txn: &HistoryTxn) -> anyhow::Result<()> {
        let id = || TxnId(Value::Int(0x7f12_3456_7890));
        self.tell(Call::TpcBegin {
            txn: id(),
            meta: txn.meta.clone(),
            tid: Some(txn.tid),
        })?;
        for record in &txn.records {
            let data = record.data.payload().and_then(|data| data.in_memory());
            self.tell(Call::Restorea {
                oid: record.oid,
                serial: txn.tid,
                data: data.cloned(),
                previous: None,
                txn: id(),
            })?;
        }
        for (id, call) in [
            (VOTE, Call::Vote { txn: id() }),
            (FINISH, Call::TpcFinish { txn: id() }),
        ] {
            let request = Request {
                id,
                one_way: false,
                call,
            };
            self.writer.request(&request)?;
        }
        Ok(())
    }

    /// New object identifiers.
    pub(crate) async fn oids(&mut self, count: usize) -> anyhow::Result<Vec<Oid>> {
        let mut oids = Vec::new();
        while oids.len() < count {
            match self.call(Call::NewOids { count: 100 }).await? {
                Reply::Oids(more) => oids.extend(more),
                reply => bail!("no oids: {reply:?}"),
            }
        }
        oids.truncate(count);
        Ok(oids)
    }
}

/// Data of a record that Python can unpickle, and of this size: an instance of `persistent.mapping`
/// whose only value is a string of random bytes, so that nothing compresses it on the way.
pub(crate) fn record(size: usize, random: &mut fastrand::Rng) -> Bytes {
    let mut data = Vec::with_capacity(size + 64);
    data.extend_from_slice(b"\x80\x03cpersistent.mapping\nPersistentMapping\nq\x01.");
    data.extend_from_slice(b"\x80\x03}q\x02X\x04\x00\x00\x00dataq\x03}q\x04K\x01B");
    let rest = size.saturating_sub(data.len() + 7);
    data.extend_from_slice(&u32::try_from(rest).expect("sizes are small").to_le_bytes());
    data.extend((0..rest).map(|_| random.u8(..)));
    data.extend_from_slice(b"ss.");
    data.into()
}
