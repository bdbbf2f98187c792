//! A transaction on its way to a server: begun, stored, voted, and ended whatever happens.
//!
//! [`Sending`] knows what a server has been sent of a transaction and what must follow. Dropping it
//! ends an upload that was begun and aborts; the connection is then as before. What may fail at the
//! server and is not in its log yet (`tpc_begin`, the parts of blobs) is sent as calls and not one-way:
//! an exception is then an answer, where a one-way call would make the server hang up.
//!
//! What is sent waits for the vote, unless there is much of it: a small transaction is one packet.
//!
//! Python's server writes what it logged in order, and then the blobs, the last first. So blobs are
//! sent last, and in reverse.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::errors::{meant, unexpected};
use super::link::{Asked, Flight, Handler, Link, closed};
use super::occupation::{Occupied, grace};
use crate::pickle::Value;
use crate::storage::{Answer, Fault, Operations, Result, effort};
use crate::wire::{Call, Expected, Reply, TxnId, WireError};
use crate::zodb::{Blob, Conflict, Oid, Op, Payload, Tid, TxnMeta};

/// The size of a blob's pieces; Python's.
const CHUNK: usize = 59_000;

/// How many pieces are read at a time.
const CHUNKS: usize = 16;

/// A transaction on its way. At most one at a time on a connection.
pub(super) struct Sending {
    link: Arc<Link>,
    txn: TxnId,
    /// The server has it, or will.
    open: bool,
    /// An upload that was begun and not ended.
    upload: Option<Tid>,
    /// The call of a vote that is not answered.
    vote: Option<i64>,
    /// While the server votes.
    occupied: Option<Occupied>,
    /// What a call of the transaction failed with first.
    problem: Arc<Mutex<Option<WireError>>>,
    bytes: u64,
}

/// Where the answers to a vote will be.
pub(super) struct VoteAsked {
    vote: Asked,
    last: oneshot::Receiver<(Result<Reply, Fault>, bool)>,
}

/// What a server said to a vote.
pub(super) enum Granted {
    /// It holds its commit lock: the objects it resolved or undid, and its last transaction.
    Ready { resolved: Vec<Oid>, after: Tid },
    /// It has let go of it; the transaction is still there.
    Conflicts(Vec<Conflict>),
}

impl Sending {
    /// Queues the beginning, quietly.
    pub(super) fn begin(
        link: &Arc<Link>,
        txn: i64,
        meta: TxnMeta,
        tid: Option<Tid>,
    ) -> Result<Self> {
        let txn = TxnId(Value::Int(txn));
        let mut sending = Sending {
            link: Arc::clone(link),
            txn: txn.clone(),
            open: false,
            upload: None,
            vote: None,
            occupied: None,
            problem: Arc::default(),
            bytes: 0,
        };
        let call = Call::TpcBegin { txn, meta, tid };
        sending.checked(&mut link.quiet_flight()?, call)?;
        sending.open = true;
        Ok(sending)
    }

    /// Queues a call whose failure is found at the vote.
    fn checked(&self, flight: &mut Flight<'_>, call: Call) -> Result<()> {
        let problem = Arc::clone(&self.problem);
        let handler: Handler = Box::new(move |reply| {
            if let Ok(Reply::Error(error)) = reply {
                problem.lock().get_or_insert(error);
            }
        });
        flight.hand(call, Expected::None, handler)?;
        Ok(())
    }

    /// Sends operations. Waits while much is queued; what is in files is read on other threads.
    pub(super) async fn send(&mut self, ops: &[Op]) -> Result<()> {
        for op in ops {
            if !matches!(op, Op::StoreBlob { .. }) {
                self.op(op).await?;
            }
        }
        for op in ops.iter().rev() {
            if let Op::StoreBlob {
                oid,
                serial,
                data,
                blob,
            } = op
            {
                self.blob(*oid, *serial, data, blob).await?;
            }
        }
        Ok(())
    }

    /// The same of a whole transaction, which may be in files. The back-pointers of these are not told.
    pub(super) async fn send_all(
        &mut self,
        ops: &Arc<Operations>,
        uncertain: &HashSet<u64>,
    ) -> Result<()> {
        let (mut blobs, mut from) = (Vec::new(), 0);
        while from < ops.count() {
            let (some, next) = ops.some(from).await?;
            for (number, mut op) in some {
                match &mut op {
                    Op::StoreBlob { data, .. } => {
                        *data = data.detached();
                        blobs.push(op);
                        continue;
                    }
                    Op::Restore { previous, .. } if uncertain.contains(&number) => *previous = None,
                    _ => {}
                }
                self.op(&op).await?;
            }
            from = next;
        }
        self.send(&blobs).await
    }

    async fn op(&mut self, op: &Op) -> Result<()> {
        self.link.room().await?;
        self.bytes += effort(op);
        let txn = self.txn.clone();
        let call = match op {
            Op::Store { oid, serial, data } => Call::Storea {
                oid: *oid,
                serial: *serial,
                data: self.read(data).await?,
                txn,
            },
            Op::Restore {
                oid,
                serial,
                data,
                previous,
            } => Call::Restorea {
                oid: *oid,
                serial: *serial,
                data: match data {
                    Some(data) => Some(self.read(data).await?),
                    None => None,
                },
                previous: *previous,
                txn,
            },
            Op::Delete { oid, serial } => Call::DeleteObject {
                oid: *oid,
                serial: *serial,
                txn,
            },
            Op::CheckCurrent { oid, serial } => Call::CheckCurrent {
                oid: *oid,
                serial: *serial,
                txn,
            },
            Op::Undo { tid } => Call::Undoa { tid: *tid, txn },
            Op::StoreBlob { .. } => return Ok(()),
        };
        self.link.quiet_flight()?.say(call)
    }

    /// A record must be in memory as a whole, because a message is one.
    async fn read(&self, data: &Payload) -> Result<Bytes> {
        if let Some(bytes) = data.in_memory() {
            return Ok(bytes.clone());
        }
        self.link.hurry();
        let data = data.clone();
        let read = crate::task::blocking(move || data.read()).await;
        let read = read.map_err(|_| closed("while a record was read"))?;
        Ok(read.map_err(|error| Fault::here("reading the data of a record", error))?)
    }

    /// Uploads a blob with its record.
    pub(super) async fn blob(
        &mut self,
        oid: Oid,
        serial: Tid,
        data: &Payload,
        blob: &Blob,
    ) -> Result<()> {
        let data = self.read(data).await?;
        self.bytes += data.len() as u64 + blob.len();
        self.checked(&mut self.link.quiet_flight()?, Call::StoreBlobStart)?;
        self.upload = Some(serial);
        let mut at = 0;
        while at < blob.len() {
            self.link.hurry();
            let pieces = pieces(blob.clone(), at).await?;
            for chunk in pieces {
                at += chunk.len() as u64;
                self.link.room().await?;
                self.checked(
                    &mut self.link.quiet_flight()?,
                    Call::StoreBlobChunk { chunk },
                )?;
            }
        }
        let txn = self.txn.clone();
        let end = Call::StoreBlobEnd {
            oid,
            serial,
            data,
            txn,
        };
        self.checked(&mut self.link.quiet_flight()?, end)?;
        self.upload = None;
        Ok(())
    }

    /// Queues the vote, and a question for the last transaction behind it.
    pub(super) fn vote(&mut self) -> Result<VoteAsked> {
        let voted = Arc::new(AtomicBool::new(false));
        let (vote_sender, vote) = oneshot::channel();
        let (last_sender, last) = oneshot::channel();
        let txn = self.txn.clone();
        let answered = Arc::clone(&voted);
        let mut flight = self.link.flight()?;
        let id = flight.hand(
            Call::Vote { txn },
            Expected::Vote,
            Box::new(move |reply| {
                answered.store(true, Ordering::Release);
                drop(vote_sender.send(reply));
            }),
        )?;
        self.vote = Some(id);
        flight.hand(
            Call::LastTransaction,
            Expected::Tid,
            Box::new(move |reply| {
                drop(last_sender.send((reply, voted.load(Ordering::Acquire))));
            }),
        )?;
        drop(flight);
        self.occupied = Some(self.occupy());
        Ok(VoteAsked { vote, last })
    }

    /// How much longer than a small one this transaction may take, at its vote and at its finish.
    pub(super) fn grace(&self) -> Duration {
        grace(self.bytes)
    }

    /// The server is given something to do with the whole transaction.
    pub(super) fn occupy(&self) -> Occupied {
        self.link.occupation.begin(self.grace())
    }

    /// Waits for the vote's outcome: for the commit lock no longer than `lock_timeout`.
    pub(super) async fn granted(
        &mut self,
        mut asked: VoteAsked,
        lock_timeout: Duration,
    ) -> Result<Granted> {
        let patience = lock_timeout + self.grace();
        let Ok(answer) = timeout(patience, asked.vote).await else {
            let after = lock_timeout;
            // The question behind the vote is answered at once, whoever holds the lock.
            let fault = match asked.last.try_recv() {
                Ok(_) => Fault::LockHeld { after },
                Err(_) => Fault::Timeout {
                    what: "`vote`",
                    after,
                },
            };
            return Err(fault.into());
        };
        self.vote = None;
        self.occupied = None;
        let reply = answer.unwrap_or_else(|_| Err(closed("it has ended")))?;
        if let Some(error) = self.problem.lock().take() {
            return Err(meant(error, "a transaction"));
        }
        let resolved = match reply {
            Reply::Voted(resolved) => resolved,
            Reply::Conflicts(conflicts) => return Ok(Granted::Conflicts(conflicts)),
            other => return Err(unexpected(other, "`vote`")),
        };
        let (last, voted) = asked
            .last
            .await
            .unwrap_or_else(|_| (Err(closed("it has ended")), false));
        let last = last?;
        // Where the vote had to wait for the lock, the question was answered before it was granted.
        let last = if voted {
            last
        } else {
            self.link.call(Call::LastTransaction).await?
        };
        let after = match last {
            Reply::Tid(after) => after,
            Reply::None => Tid::ZERO,
            other => return Err(unexpected(other, "`lastTransaction`")),
        };
        Ok(Granted::Ready { resolved, after })
    }

    /// Queues the finish. From here on nothing is aborted any more.
    pub(super) fn finish(&mut self, handler: Handler) -> Result<()> {
        self.finish_with(self.link.flight()?, handler)?;
        self.open = false;
        Ok(())
    }

    /// Queues the finish quietly: another transaction follows at once.
    pub(super) fn finish_quietly(&mut self, handler: Handler) -> Result<()> {
        self.finish_with(self.link.quiet_flight()?, handler)?;
        self.open = false;
        Ok(())
    }

    fn finish_with(&self, mut flight: Flight<'_>, handler: Handler) -> Result<()> {
        let txn = self.txn.clone();
        flight.hand(Call::TpcFinish { txn }, Expected::Tid, handler)?;
        Ok(())
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        // Where the connection has ended, the server aborts on its own.
        let Ok(mut flight) = self.link.flight() else {
            return;
        };
        let ignored = || -> Handler { Box::new(|_| {}) };
        let mut last_words = Vec::new();
        if let Some(serial) = self.upload.take() {
            last_words.push(Call::StoreBlobEnd {
                oid: Oid(0),
                serial,
                data: Bytes::new(),
                txn: self.txn.clone(),
            });
        }
        last_words.push(Call::TpcAbort {
            txn: self.txn.clone(),
        });
        for call in last_words {
            if let Err(error) = flight.hand(call, Expected::None, ignored()) {
                tracing::warn!(%error, "a transaction could not be aborted");
            }
        }
        // The server answers a vote that waits for its lock no more.
        if let Some(vote) = self.vote.take() {
            flight.forget(vote);
        }
    }
}

/// The next pieces of a blob.
async fn pieces(blob: Blob, from: u64) -> Result<Vec<Bytes>> {
    use std::os::unix::fs::FileExt;

    let path = blob.path().to_owned();
    let read = crate::task::blocking(move || {
        let (file, mut at, mut pieces) = (blob.open()?, from, Vec::new());
        while at < blob.len() && pieces.len() < CHUNKS {
            let size = (blob.len() - at).min(CHUNK as u64);
            let mut piece = vec![0; size as usize];
            file.read_exact_at(&mut piece, at)?;
            at += size;
            pieces.push(Bytes::from(piece));
        }
        drop(file);
        Ok(pieces)
    });
    let read = read.await.map_err(|_| closed("while a blob was read"))?;
    let what = || format!("reading the blob {}", path.display());
    Ok(read.map_err(|error| Fault::here(what(), error))?)
}

/// A `Data.fs` cannot hold an empty state: it would mean that there is no object. Python's server takes
/// it, and has lost the object then.
pub(super) fn not_empty(oid: Oid, data: &Payload) -> Result<(), Answer> {
    if data.is_empty() {
        return Err(Answer::Invalid(format!("the state of {oid} is empty")));
    }
    Ok(())
}

pub(super) fn must_be_later(tid: Tid, last: Tid) -> Result<(), Answer> {
    if tid > last {
        return Ok(());
    }
    Err(Answer::Invalid(format!(
        "transaction {tid} is not later than the last one, {last}"
    )))
}
