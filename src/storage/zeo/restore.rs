//! Writing whole transactions of another copy to a server.
//!
//! There must never be a hole: transaction k+1 is finished only when the finish of k is known to be
//! good. Still the server must not be kept waiting. So several connections take turns, each with one
//! transaction at a time:
//!
//! 1. What comes next is sent to the connections that are free, up to the vote: the server writes it to
//!    its logs whenever it has nothing else to do.
//! 2. k is voted, and holds the server's commit lock. Then the finish of k and the vote of k+1 leave at
//!    the same moment, each on its connection; the vote gets the lock when the finish has let go of it.
//! 3. Both replies are awaited. Under the lock of k+1 the server said what its last transaction is: one
//!    that is not earlier ends the batch. Then 2 again.
//!
//! So a transaction costs one round trip, during which the server writes logs. Two on one connection
//! would save it, but a second `tpc_begin` behind a vote that waits makes the server hang up, and keep
//! its commit lock for ever.
//!
//! There is no restoring of blobs over ZEO: such a record is stored as a client does it, on top of the
//! revision that is current then. It loses its back-pointer, where it has one, not its data.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;

use super::errors::{failed, unexpected};
use super::iterate::Headers;
use super::ledger::Ledger;
use super::link::{Link, closed};
use super::sending::{Granted, Sending, must_be_later, not_empty};
use super::{Inner, OnOther, Way};
use crate::storage::{Answer, Fault, Result, StorageError};
use crate::wire::{Call, Reply};
use crate::zodb::{Blob, HistoryRecord, HistoryTxn, Oid, Op, RecordData, Tid, TidRange};

/// How many connections take turns.
const LINKS: usize = 4;

/// The connections that take turns; opened for the first batch.
pub(super) struct Restorers {
    way: Way,
    links: Vec<Arc<Link>>,
}

impl Restorers {
    pub(super) fn new(way: Way) -> Self {
        Restorers {
            way,
            links: Vec::new(),
        }
    }

    async fn ready(&mut self, count: usize) -> Result<Vec<Arc<Link>>, Fault> {
        self.links.retain(|link| link.ended().is_none());
        while self.links.len() < count.min(LINKS) {
            let listener = Arc::new(OnOther(Arc::clone(&self.way.heard)));
            self.links.push(self.way.open("restoring", listener).await?);
        }
        Ok(self.links.clone())
    }

    /// Nobody knows what they hold.
    fn give_up(&mut self, fault: &Fault) {
        for link in self.links.drain(..) {
            link.fail(fault.clone());
        }
    }
}

impl Inner {
    /// Whether the server holds this transaction, or a later one.
    async fn holds_any(&self, from: Tid) -> Result<bool> {
        let link = self.reader()?;
        let range = TidRange {
            first: from,
            last: Tid::MAX,
        };
        let mut headers = Headers::begin(&link, range).await?;
        Ok(headers.next(1).await?.is_some())
    }

    pub(super) async fn restore(&self, batch: Vec<HistoryTxn>) -> Result<()> {
        self.heard.alive()?;
        if self.capabilities.read_only {
            return Err(Answer::ReadOnly.into());
        }
        let (Some(first), last) = (batch.first(), self.heard.ledger.last()) else {
            return Ok(());
        };
        // A server that cut a damaged tail at its start goes on telling the TID of what it has cut.
        let untrue = (first.tid <= last && !self.holds_any(first.tid).await?).then_some(last);
        check(&batch, if untrue.is_some() { Tid::ZERO } else { last })?;
        let mut restorers = self.restorers.lock().await;
        let free = restorers.ready(batch.len()).await?;
        let turns = Turns {
            inner: self,
            untrue,
            rest: batch.into(),
            free,
            ready: VecDeque::new(),
            written: BTreeMap::new(),
            sent: BTreeSet::new(),
        };
        let done = turns.run().await;
        if let Err(StorageError::Fault(fault)) = &done {
            restorers.give_up(fault);
        }
        done
    }
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
struct Turns<'a> {
    inner: &'a Inner,
    /// What the server says is its last transaction, and does not hold.
    untrue: Option<Tid>,
    rest: VecDeque<HistoryTxn>,
    /// Connections without a transaction.
    free: Vec<Arc<Link>>,
    /// Sent up to the vote, in order.
    ready: VecDeque<Sent>,
    /// Which transaction of the batch wrote an object last; for blobs.
    written: BTreeMap<Oid, Tid>,
    /// The transactions of the batch that were sent.
    sent: BTreeSet<Tid>,
}

struct Sent {
    sending: Sending,
    tid: Tid,
}

impl Turns<'_> {
    async fn run(mut self) -> Result<()> {
        let lock_timeout = self.inner.options.lock_timeout;
        let mut voted: Option<Sent> = None;
        self.send_next().await?;
        while let Some(mut next) = self.ready.pop_front() {
            let finishing = match voted.take() {
                Some(voted) => Some(self.finish(voted)?),
                None => None,
            };
            let asked = next.sending.vote()?;
            // The server is busy meanwhile; what it gets now it writes when it has time.
            self.send_next().await?;
            if let Some(finishing) = finishing {
                let link = finishing.done(self.inner.options.call_timeout).await?;
                self.free.push(link);
                self.send_next().await?;
            }
            match next.sending.granted(asked, lock_timeout).await? {
                Granted::Ready { after, .. } if Some(after) == self.untrue => {}
                Granted::Ready { after, .. } => must_be_later(next.tid, after)?,
                Granted::Conflicts(conflicts) => {
                    let what = conflicts.first().map(|conflict| conflict.oid);
                    return Err(written_by_others(next.tid, what).into());
                }
            }
            voted = Some(next);
        }
        if let Some(voted) = voted {
            let finishing = self.finish(voted)?;
            finishing.done(self.inner.options.call_timeout).await?;
        }
        Ok(())
    }

    /// Sends what comes next to the connections that are free.
    async fn send_next(&mut self) -> Result<()> {
        while !self.free.is_empty() {
            let Some(txn) = self.rest.pop_front() else {
                return Ok(());
            };
            let Some(link) = self.free.pop() else {
                return Ok(());
            };
            let id = self.inner.txn_ids.fetch_add(1, Ordering::Relaxed);
            let (tid, records) = (txn.tid, txn.records);
            let mut sending = Sending::begin(&link, id, txn.meta, Some(tid))?;
            let mut ops = Vec::with_capacity(records.len());
            for (at, record) in records.iter().enumerate() {
                let again = records[at + 1..]
                    .iter()
                    .any(|later| later.oid == record.oid);
                match (&record.blob, record.data.payload()) {
                    // The last record of an object is its revision.
                    (Some(blob), Some(data)) if !again => ops.push(Op::StoreBlob {
                        oid: record.oid,
                        serial: self.serial_below(&link, record.oid).await?,
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
            self.ready.push_back(Sent { sending, tid });
        }
        Ok(())
    }

    /// The revision of an object that will be current when the transaction that is being sent is voted.
    async fn serial_below(&self, link: &Link, oid: Oid) -> Result<Tid> {
        if let Some(tid) = self.written.get(&oid) {
            return Ok(*tid);
        }
        match link.call(Call::GetTid { oid }).await? {
            Reply::Tid(tid) => return Ok(tid),
            Reply::Error(crate::wire::WireError::Answer(Answer::NoSuchObject(_))) => {}
            other => return Err(unexpected(other, "`getTid`")),
        }
        // It never was, or it is gone; then the record that says so counts.
        match link.call(Call::History { oid, count: 1 }).await? {
            Reply::History(lines) => Ok(lines.first().map_or(Tid::ZERO, |line| line.tid)),
            Reply::Error(crate::wire::WireError::Answer(Answer::NoSuchObject(_))) => Ok(Tid::ZERO),
            other => Err(unexpected(other, "`history`")),
        }
    }

    /// Queues a finish.
    fn finish(&self, mut voted: Sent) -> Result<BeingFinished> {
        let (done, answer) = oneshot::channel();
        let ledger = Arc::clone(&self.inner.heard);
        let tid = voted.tid;
        ledger.ledger.restoring(tid);
        // Done by the reader, whether or not anybody waits.
        voted.sending.finish(Box::new(move |reply| {
            drop(done.send(settle(&ledger.ledger, tid, reply)));
        }))?;
        Ok(BeingFinished {
            link: Arc::clone(voted.sending.link()),
            answer,
        })
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

struct BeingFinished {
    link: Arc<Link>,
    answer: oneshot::Receiver<Result<(), Fault>>,
}

impl BeingFinished {
    /// Waits, and gives the connection back.
    async fn done(self, patience: Duration) -> Result<Arc<Link>, Fault> {
        match tokio::time::timeout(patience, self.answer).await {
            Ok(Ok(done)) => done.map(|()| self.link),
            Ok(Err(_)) => Err(closed("in the middle of a finish")),
            Err(_) => Err(Fault::Timeout {
                what: "`tpc_finish`",
                after: patience,
            }),
        }
    }
}

fn written_by_others(tid: Tid, oid: Option<Oid>) -> Answer {
    let what = oid.map_or_else(|| "an object".to_owned(), |oid| oid.to_string());
    Answer::Invalid(format!(
        "{what} was written by somebody else while transaction {tid} was being restored"
    ))
}
