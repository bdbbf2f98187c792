//! A transaction in memory: collected, voted, finished.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::faults::Moment;
use super::undo::undo;
use super::{Inner, Pending, must_be_later, not_empty, slot};
use crate::storage::{Answer, Fault, Finishing, Result, Transaction, TxnToken, Vote, Voted};
use crate::zodb::{Conflict, HistoryRecord, HistoryTxn, Oid, Op, RecordData, Tid, TxnMeta};

pub(super) struct MemoryTransaction {
    pub(super) storage: Arc<Inner>,
    pub(super) token: TxnToken,
    pub(super) meta: TxnMeta,
    pub(super) tid: Option<Tid>,
    pub(super) ops: Vec<Op>,
    /// Kept while a client resolves conflicts, so that others cannot make new ones meanwhile.
    pub(super) slot: Option<OwnedSemaphorePermit>,
}

#[async_trait]
impl Transaction for MemoryTransaction {
    fn token(&self) -> TxnToken {
        self.token
    }

    async fn store(&mut self, op: Op) -> Result<()> {
        self.storage.usable()?;
        self.ops.push(op);
        Ok(())
    }

    async fn vote(mut self: Box<Self>) -> Result<Vote> {
        let slot = match self.slot.take() {
            Some(slot) => slot,
            None => slot(&self.storage).await?,
        };
        self.storage.reach(Moment::Vote).await?;
        let last = self.storage.last_tid();
        let tid = match self.tid {
            Some(tid) => tid,
            None => Tid::for_commit(crate::clock::now(), last),
        };
        must_be_later(tid, last)?;
        let conflicts = self.drop_conflicts()?;
        if !conflicts.is_empty() {
            self.slot = Some(slot);
            return Ok(Vote::Conflicts(self, conflicts));
        }
        let (mut records, mut undone) = (Vec::new(), Vec::new());
        for op in &self.ops {
            if let Op::Undo { tid } = op {
                // All before this transaction has to be where it is looked for.
                self.storage.settled().await;
                let again = undo(&self.storage.data.lock(), *tid, &records)?;
                undone.extend(again.iter().map(|record| record.oid));
                records.extend(again);
            } else {
                records.extend(self.record(op, tid)?);
            }
        }
        undone.sort_unstable();
        undone.dedup();
        let txn = HistoryTxn {
            tid,
            meta: self.meta,
            records,
        };
        Ok(Vote::Ready(Box::new(MemoryVoted {
            after: self.storage.server.then_some(last),
            storage: self.storage,
            token: self.token,
            txn,
            undone,
            slot,
        })))
    }
}

impl MemoryTransaction {
    /// Takes out what a client may store again, resolved. Any other disagreement is the answer.
    fn drop_conflicts(&mut self) -> Result<Vec<Conflict>, Answer> {
        let mut conflicts = Vec::new();
        let mut kept = Vec::with_capacity(self.ops.len());
        for op in self.ops.drain(..) {
            let conflict = |oid, read, committed, data| Conflict {
                data,
                ..Conflict::new(oid, committed, read)
            };
            match &op {
                Op::Store { oid, serial, data }
                | Op::StoreBlob {
                    oid, serial, data, ..
                } => match self.storage.foreseen(*oid) {
                    Some((committed, _)) if committed != *serial => {
                        let data = Some(data.clone());
                        conflicts.push(conflict(*oid, *serial, committed, data));
                        continue;
                    }
                    _ => (),
                },
                Op::Delete { oid, serial } => match self.storage.foreseen(*oid) {
                    None => return Err(Answer::NoSuchObject(*oid)),
                    Some((committed, _)) if committed != *serial => {
                        return Err(Answer::Conflict(conflict(*oid, *serial, committed, None)));
                    }
                    Some(_) => (),
                },
                Op::CheckCurrent { oid, serial } => match self.storage.foreseen(*oid) {
                    None | Some((_, false)) => return Err(Answer::NoSuchObject(*oid)),
                    Some((committed, true)) if committed != *serial => {
                        let conflict = conflict(*oid, *serial, committed, None);
                        return Err(Answer::ReadConflict(conflict));
                    }
                    Some((_, true)) => (),
                },
                Op::Restore { .. } | Op::Undo { .. } => (),
            }
            if matches!(op, Op::StoreBlob { .. }) && !self.storage.blobs {
                return Err(Answer::Unsupported("blobs"));
            }
            kept.push(op);
        }
        self.ops = kept;
        Ok(conflicts)
    }

    /// The record that an operation writes, where it writes one.
    fn record(&self, op: &Op, tid: Tid) -> Result<Option<HistoryRecord>> {
        let (oid, data, blob) = match op {
            Op::Store { oid, data, .. } => {
                not_empty(*oid, data)?;
                (*oid, RecordData::Data(data.clone()), None)
            }
            Op::StoreBlob {
                oid, data, blob, ..
            } => {
                not_empty(*oid, data)?;
                (*oid, RecordData::Data(data.clone()), Some(blob.clone()))
            }
            Op::Delete { oid, .. } => (*oid, RecordData::Gone, None),
            Op::Restore {
                oid,
                serial,
                data,
                previous,
            } => {
                if *serial != tid {
                    return Err(Answer::Invalid(format!(
                        "the record of {oid} belongs to transaction {serial}, not to {tid}"
                    ))
                    .into());
                }
                if let Some(data) = data {
                    not_empty(*oid, data)?;
                }
                let data = self.storage.restored(*oid, data.clone(), *previous)?;
                (*oid, data, None)
            }
            Op::CheckCurrent { .. } | Op::Undo { .. } => return Ok(None),
        };
        Ok(Some(HistoryRecord { oid, data, blob }))
    }
}

struct MemoryVoted {
    storage: Arc<Inner>,
    token: TxnToken,
    txn: HistoryTxn,
    undone: Vec<Oid>,
    after: Option<Tid>,
    slot: OwnedSemaphorePermit,
}

impl Voted for MemoryVoted {
    fn tid(&self) -> Option<Tid> {
        Some(self.txn.tid)
    }

    fn resolved(&self) -> &[Oid] {
        &self.undone
    }

    fn after(&self) -> Option<Tid> {
        self.after
    }

    fn finish(self: Box<Self>) -> Finishing {
        let MemoryVoted {
            storage,
            token,
            txn,
            slot,
            ..
        } = *self;
        let tid = txn.tid;
        let (done, answer) = oneshot::channel();
        {
            let mut session = storage.session.lock();
            if let Some(fault) = session.refuses.clone() {
                return Box::pin(async move { Err(fault.into()) });
            }
            session.finishing.push_back(Pending {
                txn,
                token,
                ready: false,
                done,
            });
        }
        // A server's clients wait until the transaction before theirs is finished.
        let slot = storage.server.then_some(slot);
        let undecided = Undecided { storage, tid };
        Box::pin(async move {
            let storage = Arc::clone(&undecided.storage);
            if let Err(fault) = storage.faults.reach(Moment::Finish).await {
                storage.refuse(Fault::Poisoned(fault.to_string()));
                return Err(fault.into());
            }
            drop(undecided);
            drop(slot);
            let tid = answer.await.unwrap_or_else(|_| {
                Err(Fault::Closed("the storage was closed".to_owned()).into())
            })?;
            storage.faults.reach(Moment::Finished).await?;
            Ok(tid)
        })
    }
}

/// Finishes the transaction when dropped, with the future or by it: dropping the future does not undo
/// the finish. Where it failed nothing is being finished any more, and this does nothing.
struct Undecided {
    storage: Arc<Inner>,
    tid: Tid,
}

impl Drop for Undecided {
    fn drop(&mut self) {
        self.storage.finish(self.tid);
    }
}
