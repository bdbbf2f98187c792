//! Writing whole transactions of another copy to a server.
//!
//! There must never be a hole: the finish of transaction k+1 leaves only when the finish of k is known
//! to be good. Still the server must not be kept waiting. So when k is voted, everything that comes next
//! leaves in one flight on the main connection: the finish of k, the beginning of k+1, its records, its
//! vote, and the question for the last transaction under its lock. A transaction costs one round trip,
//! and nothing is announced to us. (Turns on several connections would save the round trip; but the
//! server tells each of every transaction, which costs it as much again as the transaction.)
//!
//! What makes it safe to say more before the finish of k is answered:
//!
//! - Python's server handles the messages of a connection in order, and is without a transaction when it
//!   has answered a finish: what follows is begun anew.
//! - All transactions of a batch have the same id. Where the finish of k fails, k stays, and the server
//!   takes the beginning of k+1 for a repetition of k's. With another id it would refuse the records,
//!   which are one-way, hang up, and keep its commit lock for ever. It refuses the vote, which is a call:
//!   it already holds the lock for k. We close the connection then, and it aborts.
//! - The vote of k+1 may have to wait for somebody else's lock. Nothing of the transaction is said until
//!   it is granted, or given up and aborted.
//! - Under the lock the server says what its last transaction is: any but k ends the batch, and k+1 is
//!   aborted. A later one than k+1 leaves no room for it. One in between is somebody else's, who restores
//!   too: behind k+1 there would be no room for what he has and is about to bring.
//!
//! There is no restoring of blobs over ZEO: such a record is stored as a client does it, on top of the
//! revision that is current then. It loses its back-pointer, where it has one, not its data.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::timeout;

use super::Inner;
use super::errors::{failed, unexpected};
use super::iterate::Headers;
use super::ledger::Ledger;
use super::link::{Handler, closed};
use super::sending::{Granted, Sending, VoteAsked, must_be_later, not_empty};
use crate::storage::{Answer, Fault, Result, StorageError};
use crate::wire::{Call, Reply, WireError};
use crate::zodb::{Blob, HistoryRecord, HistoryTxn, Oid, Op, RecordData, Tid, TidRange};

pub(super) async fn restore(inner: &Arc<Inner>, batch: Vec<HistoryTxn>) -> Result<()> {
    inner.heard.alive()?;
    if inner.capabilities.read_only {
        return Err(Answer::ReadOnly.into());
    }
    let (Some(first), last) = (batch.first(), inner.heard.ledger.last()) else {
        return Ok(());
    };
    // A server that cut a damaged tail at its start goes on telling the TID of what it has cut.
    let untrue = (first.tid <= last && !holds_any(inner, first.tid).await?).then_some(last);
    check(&batch, if untrue.is_some() { Tid::ZERO } else { last })?;
    let mut run = Run {
        inner,
        untrue,
        place: Arc::new(inner.place().await?),
        id: inner.txn_ids.fetch_add(1, Ordering::Relaxed),
        written: BTreeMap::new(),
        sent: BTreeSet::new(),
    };
    let (mut voted, mut last) = (None, last);
    for txn in batch {
        let tid = txn.tid;
        voted = Some(run.finish_and_vote(voted, last, txn).await?);
        last = tid;
    }
    match voted {
        Some(last) => run.settled(run.finish(last, false)?).await,
        None => Ok(()),
    }
}

/// Whether the server holds this transaction, or a later one.
async fn holds_any(inner: &Arc<Inner>, from: Tid) -> Result<bool> {
    let range = TidRange {
        first: from,
        last: Tid::MAX,
    };
    let first = inner.over_reader(|link| async move {
        let mut headers = Headers::begin(&link, range).await?;
        headers.next(1).await
    });
    Ok(first.await?.is_some())
}

/// What can be seen without asking.
fn check(batch: &[HistoryTxn], mut last: Tid) -> Result<(), Answer> {
    for txn in batch {
        must_be_later(txn.tid, last)?;
        last = txn.tid;
        for record in &txn.records {
            if let Some(data) = record.data.payload() {
                not_empty(record.oid, data)?;
            }
        }
    }
    Ok(())
}

/// One batch.
struct Run<'a> {
    inner: &'a Arc<Inner>,
    /// What the server says is its last transaction, and does not hold.
    untrue: Option<Tid>,
    /// On the main connection; kept until the last finish is answered.
    place: Arc<OwnedSemaphorePermit>,
    /// The id of all its transactions.
    id: i64,
    /// Which transaction of the batch wrote an object last; for blobs.
    written: BTreeMap<Oid, Tid>,
    /// The transactions of the batch that were sent.
    sent: BTreeSet<Tid>,
}

/// The server holds its lock for it, and can finish it.
struct Voted {
    sending: Sending,
    tid: Tid,
}

/// Where it will be said how a finish went.
type Finishing = oneshot::Receiver<Result<(), Fault>>;

impl Run<'_> {
    /// Finishes the transaction before this one, and has this one voted, on top of `last`.
    async fn finish_and_vote(
        &mut self,
        before: Option<Voted>,
        last: Tid,
        txn: HistoryTxn,
    ) -> Result<Voted> {
        let finishing = match before {
            Some(before) => Some(self.finish(before, true)?),
            None => None,
        };
        let tid = txn.tid;
        let sent = self.send(txn).await;
        // Also where this one could not be sent.
        if let Some(finishing) = finishing {
            self.inner.main.hurry();
            self.settled(finishing).await?;
        }
        let (mut sending, asked) = sent?;
        let lock_timeout = self.inner.options.lock_timeout;
        match sending.granted(asked, lock_timeout).await? {
            Granted::Ready { after, .. } if Some(after) == self.untrue => {
                Ok(Voted { sending, tid })
            }
            Granted::Ready { after, .. } => {
                // Others' transactions are told before ours is finished.
                let patience = self.inner.options.call_timeout;
                self.inner.heard.ledger.reach(after, patience).await?;
                must_be_later(tid, after)?;
                if after != last {
                    return Err(made_by_others(tid, last, after).into());
                }
                Ok(Voted { sending, tid })
            }
            Granted::Conflicts(conflicts) => {
                let what = conflicts.first().map(|conflict| conflict.oid);
                Err(written_by_others(tid, what).into())
            }
        }
    }

    /// Queues a transaction, up to its vote.
    async fn send(&mut self, txn: HistoryTxn) -> Result<(Sending, VoteAsked)> {
        let HistoryTxn { tid, meta, records } = txn;
        let sending = Sending::begin(&self.inner.main, self.id, meta, Some(tid));
        let mut sending = sending.map_err(|error| not_sayable(tid, error))?;
        let mut ops = Vec::with_capacity(records.len());
        for (at, record) in records.iter().enumerate() {
            let again = || {
                records[at + 1..]
                    .iter()
                    .any(|later| later.oid == record.oid)
            };
            match (&record.blob, record.data.payload()) {
                // The last record of an object is its revision.
                (Some(blob), Some(data)) if !again() => ops.push(Op::StoreBlob {
                    oid: record.oid,
                    serial: self.serial_below(record.oid).await?,
                    data: data.clone(),
                    blob: Blob::clone(blob),
                }),
                _ => ops.push(restored(record, tid)),
            }
        }
        sending.follows(records.iter().filter_map(|record| match record.data {
            RecordData::Back { tid, .. } if self.sent.contains(&tid) => Some(tid),
            _ => None,
        }));
        sending.send(&ops).await?;
        self.sent.insert(tid);
        for record in &records {
            self.written.insert(record.oid, tid);
        }
        let asked = sending.vote()?;
        Ok((sending, asked))
    }

    /// The revision of an object that will be current when the transaction that is being sent is voted.
    async fn serial_below(&self, oid: Oid) -> Result<Tid> {
        if let Some(tid) = self.written.get(&oid) {
            return Ok(*tid);
        }
        let link = &self.inner.main;
        match link.call(Call::GetTid { oid }).await? {
            Reply::Tid(tid) => return Ok(tid),
            Reply::Error(WireError::Answer(Answer::NoSuchObject(_))) => {}
            other => return Err(unexpected(other, "`getTid`")),
        }
        // It never was, or it is gone; then the record that says so counts.
        match link.call(Call::History { oid, count: 1 }).await? {
            Reply::History(lines) => Ok(lines.first().map_or(Tid::ZERO, |line| line.tid)),
            Reply::Error(WireError::Answer(Answer::NoSuchObject(_))) => Ok(Tid::ZERO),
            other => Err(unexpected(other, "`history`")),
        }
    }

    /// Queues a finish; quietly, where something follows.
    fn finish(&self, voted: Voted, followed: bool) -> Result<Finishing> {
        let Voted { mut sending, tid } = voted;
        let (done, finishing) = oneshot::channel();
        let (inner, place) = (Arc::clone(self.inner), Arc::clone(&self.place));
        // Done by the reader, in the order of the frames, whether or not anybody waits.
        let handler: Handler = Box::new(move |reply| {
            let settled = settle(&inner.heard.ledger, tid, reply);
            if let Err(fault) = &settled {
                inner.end(fault.clone());
            }
            drop(place);
            drop(done.send(settled));
        });
        if followed {
            sending.finish_quietly(handler)?;
        } else {
            sending.finish(handler)?;
        }
        Ok(finishing)
    }

    async fn settled(&self, finishing: Finishing) -> Result<()> {
        let after = self.inner.options.call_timeout;
        let fault = match timeout(after, finishing).await {
            Ok(Ok(settled)) => return Ok(settled?),
            Ok(Err(_)) => closed("in the middle of a finish"),
            Err(_) => Fault::Timeout {
                what: "`tpc_finish`",
                after,
            },
        };
        // Whether it is there nobody knows: everything is asked anew.
        self.inner.end(fault.clone());
        Err(fault.into())
    }
}

/// A record as it is.
fn restored(record: &HistoryRecord, tid: Tid) -> Op {
    let previous = match &record.data {
        RecordData::Back { tid, .. } => Some(*tid),
        RecordData::Data(_) | RecordData::Gone => None,
    };
    Op::Restore {
        oid: record.oid,
        serial: tid,
        data: record.data.payload().cloned(),
        previous,
    }
}

fn settle(ledger: &Ledger, tid: Tid, reply: Result<Reply, Fault>) -> Result<(), Fault> {
    match reply? {
        Reply::Tid(made) if made == tid => {
            ledger.restored(tid);
            Ok(())
        }
        Reply::Tid(made) => Err(Fault::Damaged(format!(
            "the server's last transaction is {made} after {tid} was restored; who else writes to it?"
        ))),
        Reply::Error(error) => Err(failed(error, "`tpc_finish`")),
        _ => Err(Fault::Damaged(
            "the server has lost a transaction between its vote and its finish".to_owned(),
        )),
    }
}

/// Nobody was faster: it cannot be said to a server, today or tomorrow.
fn not_sayable(tid: Tid, error: StorageError) -> StorageError {
    match error {
        StorageError::Answer(Answer::Invalid(why)) => Answer::Other {
            class: "builtins.ValueError".to_owned(),
            text: format!("transaction {tid}: {why}"),
        }
        .into(),
        error => error,
    }
}

fn made_by_others(tid: Tid, last: Tid, after: Tid) -> Answer {
    Answer::Invalid(format!(
        "the server's last transaction became {after} instead of {last} while transaction {tid} was being \
         restored"
    ))
}

fn written_by_others(tid: Tid, oid: Option<Oid>) -> Answer {
    let what = oid.map_or_else(|| "an object".to_owned(), |oid| oid.to_string());
    Answer::Invalid(format!(
        "{what} was written by somebody else while transaction {tid} was being restored"
    ))
}
