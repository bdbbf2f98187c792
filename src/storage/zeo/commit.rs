//! A transaction: collected here, sent to the server at its vote, finished.
//!
//! A server takes one transaction at a time on a connection, and its commit lock is taken at the vote.
//! So operations are kept until the vote (what is large in them is shared, or in files), votes queue for
//! the main connection, first come first served, and then everything leaves together.
//!
//! Where the server leaves conflicts to clients, it has let go of its lock when it reports them. The
//! transaction is aborted there and sent anew, without what conflicted, at the next vote: a server that
//! is asked to go on with it has lost the files of its blobs. The main connection stays with it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::timeout;

use super::errors::failed;
use super::link::closed;
use super::occupation::Occupied;
use super::sending::{Granted, Sending, must_be_later, not_empty};
use super::{Inner, back_pointers};
use crate::storage::{
    Answer, Committed, Fault, Finishing, Operations, Result, Transaction, TxnToken, Vote, Voted,
    store_each,
};
use crate::wire::Reply;
use crate::zodb::{Conflict, Oid, Op, Tid, TxnMeta};

pub(super) fn begin(
    inner: &Arc<Inner>,
    meta: TxnMeta,
    tid: Option<Tid>,
) -> Result<Box<dyn Transaction>> {
    inner.heard.alive()?;
    if let Some(tid) = tid {
        must_be_later(tid, inner.heard.ledger.last())?;
    }
    Ok(Box::new(ZeoTransaction {
        inner: Arc::clone(inner),
        token: TxnToken::new(),
        meta,
        tid,
        ops: Arc::default(),
        place: None,
    }))
}

struct ZeoTransaction {
    inner: Arc<Inner>,
    token: TxnToken,
    meta: TxnMeta,
    tid: Option<Tid>,
    ops: Arc<Operations>,
    /// Kept while a client resolves conflicts.
    place: Option<OwnedSemaphorePermit>,
}

#[async_trait]
impl Transaction for ZeoTransaction {
    fn token(&self) -> TxnToken {
        self.token
    }

    async fn store(&mut self, op: Op) -> Result<()> {
        self.inner.heard.alive()?;
        Arc::make_mut(&mut self.ops).push(op);
        Ok(())
    }

    async fn store_all(&mut self, ops: &Arc<Operations>) -> Result<()> {
        if self.ops.count() > 0 {
            return store_each(self, ops).await;
        }
        self.inner.heard.alive()?;
        self.ops = Arc::clone(ops);
        Ok(())
    }

    async fn vote(mut self: Box<Self>) -> Result<Vote> {
        let place = match self.place.take() {
            Some(place) => place,
            None => self.inner.place().await?,
        };
        let written = self.check().await?;
        let inner = Arc::clone(&self.inner);
        let uncertain = back_pointers::uncertain_of(&inner, &self.ops).await?;
        let id = inner.txn_ids.fetch_add(1, Ordering::Relaxed);
        let mut sending = Sending::begin(&inner.main, id, self.meta.clone(), self.tid)?;
        sending.send_all(&self.ops, &uncertain).await?;
        let asked = sending.vote()?;
        match sending.granted(asked, inner.options.lock_timeout).await? {
            Granted::Conflicts(found) => {
                drop(sending);
                let conflicts = self.drop_conflicts(found).await?;
                self.place = Some(place);
                Ok(Vote::Conflicts(self, conflicts))
            }
            Granted::Ready { resolved, after } => {
                let after = inner.believed(after).await?;
                // Others' transactions are told before ours is voted.
                let patience = inner.options.call_timeout;
                inner.heard.ledger.reach(after, patience).await?;
                if let Some(tid) = self.tid {
                    must_be_later(tid, after)?;
                }
                Ok(Vote::Ready(Box::new(ZeoVoted {
                    oids: all_of(written, &resolved),
                    token: self.token,
                    tid: self.tid,
                    inner,
                    sending,
                    resolved,
                    after,
                    place,
                })))
            }
        }
    }
}

impl ZeoTransaction {
    /// What the server must not be asked, because it would hang up or take it. Gives what the transaction
    /// writes.
    async fn check(&self) -> Result<Vec<Oid>> {
        let can = self.inner.capabilities;
        if can.read_only {
            return Err(Answer::ReadOnly.into());
        }
        let mut written = Vec::new();
        let mut from = 0;
        while from < self.ops.count() {
            let (some, next) = self.ops.some(from).await?;
            for (_, op) in some {
                match &op {
                    Op::StoreBlob { .. } if !can.blobs => {
                        return Err(Answer::Unsupported("blobs").into());
                    }
                    Op::Store { oid, data, .. }
                    | Op::StoreBlob { oid, data, .. }
                    | Op::Restore {
                        oid,
                        data: Some(data),
                        ..
                    } => not_empty(*oid, data)?,
                    Op::Undo { .. } if !can.undo => return Err(Answer::Unsupported("undo").into()),
                    _ => {}
                }
                written.extend(op.writes());
            }
            from = next;
        }
        Ok(written)
    }

    /// Takes out what a client is to resolve, and gives it its data.
    async fn drop_conflicts(&mut self, found: Vec<Conflict>) -> Result<Vec<Conflict>> {
        let mut conflicts = found;
        let places: HashMap<Oid, usize> = conflicts.iter().map(|one| one.oid).zip(0..).collect();
        let mut dropped = Vec::new();
        let mut from = 0;
        while from < self.ops.count() {
            let (some, next) = self.ops.some(from).await?;
            for (number, op) in some {
                if let Op::Store { oid, data, .. } | Op::StoreBlob { oid, data, .. } = op
                    && let Some(place) = places.get(&oid)
                {
                    // What the client gave, rather than a part of the message that it came in.
                    conflicts[*place].data = Some(data.detached());
                    dropped.push(number);
                }
            }
            from = next;
        }
        Arc::make_mut(&mut self.ops).drop_ops(dropped);
        Ok(conflicts)
    }
}

/// What a transaction writes, for subscribers.
fn all_of(mut written: Vec<Oid>, resolved: &[Oid]) -> Arc<[Oid]> {
    written.extend(resolved);
    written.sort_unstable();
    written.dedup();
    written.into()
}

impl Inner {
    /// The place of the one transaction on the main connection.
    pub(super) async fn place(&self) -> Result<OwnedSemaphorePermit, Fault> {
        self.heard.alive()?;
        // No deadline: those before have theirs.
        let place = crate::task::select! {
            place = Arc::clone(&self.slot).acquire_owned() => place.ok(),
            () = self.heard.stop.requested() => None,
        };
        self.heard.alive()?;
        place.ok_or_else(|| closed("by its owner"))
    }

    /// Whether a finish is in hand.
    pub(super) fn finishing(&self) -> bool {
        self.finishes.load(Ordering::Acquire) > 0
    }
}

struct ZeoVoted {
    inner: Arc<Inner>,
    sending: Sending,
    token: TxnToken,
    tid: Option<Tid>,
    oids: Arc<[Oid]>,
    resolved: Vec<Oid>,
    after: Tid,
    place: OwnedSemaphorePermit,
}

impl Voted for ZeoVoted {
    fn tid(&self) -> Option<Tid> {
        self.tid
    }

    fn resolved(&self) -> &[Oid] {
        &self.resolved
    }

    fn after(&self) -> Option<Tid> {
        Some(self.after)
    }

    fn finish(self: Box<Self>) -> Finishing {
        let ZeoVoted {
            inner,
            mut sending,
            token,
            tid,
            oids,
            place,
            ..
        } = *self;
        let (done, answer) = oneshot::channel();
        // The server's disk may need as long for it again as the vote did.
        let limit = inner.options.call_timeout + sending.grace();
        let settle = Settle {
            inner: Arc::clone(&inner),
            _occupied: sending.occupy(),
            _finishing: InHand::new(&inner),
            _place: place,
            token,
            tid,
            oids,
        };
        // Done by the reader, in the order of the frames, whether or not anybody waits.
        let queued = sending.finish(Box::new(move |reply| {
            drop(done.send(settle.settle(reply)));
        }));
        Box::pin(async move {
            queued?;
            let fault = match timeout(limit, answer).await {
                Ok(Ok(settled)) => return Ok(settled?),
                Ok(Err(_)) => closed("in the middle of a finish"),
                Err(_) => Fault::Timeout {
                    what: "`tpc_finish`",
                    after: limit,
                },
            };
            // Whether it is there nobody knows: everything is asked anew.
            inner.end(fault.clone());
            Err(fault.into())
        })
    }
}

/// Counts a finish while it is in hand.
struct InHand(Arc<AtomicUsize>);

impl InHand {
    fn new(inner: &Inner) -> Self {
        inner.finishes.fetch_add(1, Ordering::AcqRel);
        InHand(Arc::clone(&inner.finishes))
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What is done when the reply to a finish has come.
struct Settle {
    inner: Arc<Inner>,
    token: TxnToken,
    tid: Option<Tid>,
    oids: Arc<[Oid]>,
    _occupied: Occupied,
    _place: OwnedSemaphorePermit,
    _finishing: InHand,
}

impl Settle {
    fn settle(self, reply: Result<Reply, Fault>) -> Result<Tid, Fault> {
        let settled = self.judge(reply);
        if let Err(fault) = &settled {
            self.inner.end(fault.clone());
        }
        settled
    }

    fn judge(&self, reply: Result<Reply, Fault>) -> Result<Tid, Fault> {
        let tid = match reply? {
            Reply::Tid(tid) => tid,
            Reply::Error(error) => return Err(failed(error, "`tpc_finish`")),
            _ => {
                return Err(Fault::Damaged(
                    "the server has lost a transaction between its vote and its finish".to_owned(),
                ));
            }
        };
        if let Some(given) = self.tid
            && given != tid
        {
            return Err(Fault::Damaged(format!(
                "the server made transaction {tid} of {given}"
            )));
        }
        let committed = Committed {
            tid,
            oids: Arc::clone(&self.oids),
            by: Some(self.token),
        };
        // INVARIANT 6: told before the reply is passed on, and before the next frame is looked at.
        self.inner.heard.ledger.finished(&committed)?;
        Ok(tid)
    }
}
