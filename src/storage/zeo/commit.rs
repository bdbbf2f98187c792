//! A transaction: collected here, sent to the server at its vote, finished.
//!
//! A server takes one transaction at a time on a connection, and its commit lock is taken at the vote.
//! So operations are kept until the vote (what is large in them is shared, or in files), votes queue for
//! the main connection, first come first served, and then everything leaves together.
//!
//! Where the server leaves conflicts to clients, it has let go of its lock when it reports them. The
//! transaction is aborted there and sent anew, without what conflicted, at the next vote: a server that
//! is asked to go on with it has lost the files of its blobs. The main connection stays with it.

use std::collections::BTreeSet;
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
    Answer, Committed, Fault, Finishing, Result, Transaction, TxnToken, Vote, Voted,
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
        ops: Vec::new(),
        place: None,
    }))
}

struct ZeoTransaction {
    inner: Arc<Inner>,
    token: TxnToken,
    meta: TxnMeta,
    tid: Option<Tid>,
    ops: Vec<Op>,
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
        self.ops.push(op);
        Ok(())
    }

    async fn vote(mut self: Box<Self>) -> Result<Vote> {
        let place = match self.place.take() {
            Some(place) => place,
            None => self.inner.place().await?,
        };
        self.check()?;
        let inner = Arc::clone(&self.inner);
        back_pointers::keep_certain_of(&inner, &mut self.ops).await?;
        let id = inner.txn_ids.fetch_add(1, Ordering::Relaxed);
        let mut sending = Sending::begin(&inner.main, id, self.meta.clone(), self.tid)?;
        sending.send(&self.ops).await?;
        let asked = sending.vote()?;
        match sending.granted(asked, inner.options.lock_timeout).await? {
            Granted::Conflicts(found) => {
                drop(sending);
                let conflicts = self.drop_conflicts(found);
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
                    oids: self.written(&resolved),
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
    /// What the server must not be asked, because it would hang up or take it.
    fn check(&self) -> Result<(), Answer> {
        let can = self.inner.capabilities;
        if can.read_only {
            return Err(Answer::ReadOnly);
        }
        for op in &self.ops {
            match op {
                Op::StoreBlob { .. } if !can.blobs => return Err(Answer::Unsupported("blobs")),
                Op::Store { oid, data, .. }
                | Op::StoreBlob { oid, data, .. }
                | Op::Restore {
                    oid,
                    data: Some(data),
                    ..
                } => not_empty(*oid, data)?,
                Op::Undo { .. } if !can.undo => return Err(Answer::Unsupported("undo")),
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes out what a client is to resolve, and gives it its data.
    fn drop_conflicts(&mut self, found: Vec<Conflict>) -> Vec<Conflict> {
        let mut conflicts = found;
        for conflict in &mut conflicts {
            self.ops.retain(|op| match op {
                Op::Store { oid, data, .. } | Op::StoreBlob { oid, data, .. }
                    if *oid == conflict.oid =>
                {
                    // What the client gave, rather than a part of the message that it came in.
                    conflict.data = Some(data.clone());
                    false
                }
                _ => true,
            });
        }
        conflicts
    }

    /// What the transaction writes, for subscribers.
    fn written(&self, resolved: &[Oid]) -> Arc<[Oid]> {
        let own = self.ops.iter().filter_map(Op::writes);
        let all: BTreeSet<Oid> = own.chain(resolved.iter().copied()).collect();
        all.into_iter().collect()
    }
}

impl Inner {
    /// The place of the one transaction on the main connection.
    pub(super) async fn place(&self) -> Result<OwnedSemaphorePermit, Fault> {
        self.heard.alive()?;
        // No deadline: those before have theirs.
        let place = tokio::select! {
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
