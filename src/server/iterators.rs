//! A client's iterators over transactions and their records.
//!
//! An iterator is read by one call at a time, in the order of the calls; calls of different iterators
//! go past each other. Ids are given from one counter for both kinds, as Python's server does. Of each
//! transaction iterator the last transaction is kept, for an iterator over its records.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::Mutex;

use super::lane::in_memory;
use super::limits::{Limit, Passed};
use super::reads::{Done, error};
use crate::pickle::Value;
use crate::storage::{History, Storage};
use crate::wire::{IteratedRecord, Reply, WireError};
use crate::zodb::{HistoryTxn, RecordData, Tid, TidRange};

/// The iterators of one client.
pub(super) struct Iterators {
    open: HashMap<i64, Iterator>,
    next: i64,
    most: usize,
}

#[derive(Clone)]
enum Iterator {
    /// The lock is fair: calls have it in their order.
    Transactions(Arc<Mutex<Transactions>>),
    Records(Arc<Mutex<Records>>),
}

struct Transactions {
    history: Box<dyn History>,
    last: Option<Arc<HistoryTxn>>,
}

struct Records {
    transaction: Arc<HistoryTxn>,
    next: usize,
}

/// An iterator that was made and has no id yet.
pub(super) struct Made(Iterator);

impl Iterators {
    /// At most `most` at a time.
    pub(super) fn new(most: usize) -> Self {
        Iterators {
            open: HashMap::new(),
            next: 0,
            most,
        }
    }

    /// `iterator_start`.
    pub(super) fn start<'a>(
        &self,
        storage: &'a dyn Storage,
        first: Option<Tid>,
        last: Option<Tid>,
    ) -> BoxFuture<'a, Done> {
        if let Err(passed) = self.room() {
            return too_many(passed);
        }
        let range = TidRange {
            first: first.unwrap_or(Tid::ZERO),
            last: last.unwrap_or(Tid::MAX),
        };
        Box::pin(async move {
            match storage.iterate(range).await {
                Ok(history) => {
                    let transactions = Transactions {
                        history,
                        last: None,
                    };
                    let iterator = Arc::new(Mutex::new(transactions));
                    Done::Iterator(Made(Iterator::Transactions(iterator)))
                }
                Err(failed) => error(failed),
            }
        })
    }

    /// Gives an iterator its id.
    ///
    /// # Errors
    /// Where there are too many.
    pub(super) fn add(&mut self, made: Made) -> Result<Reply, Passed> {
        self.room()?;
        let id = self.next;
        self.next += 1;
        self.open.insert(id, made.0);
        Ok(Reply::Iterator(id))
    }

    /// Forgets an iterator that has come to its end.
    pub(super) fn remove(&mut self, id: i64) {
        self.open.remove(&id);
    }

    /// `iterator_gc`. Unknown ids are none of anybody's concern.
    pub(super) fn forget(&mut self, ids: &[i64]) {
        for id in ids {
            self.open.remove(id);
        }
    }

    /// `iterator_next`.
    pub(super) fn transaction(&self, id: i64) -> BoxFuture<'static, Done> {
        let Some(Iterator::Transactions(iterator)) = self.open.get(&id).cloned() else {
            return unknown(id);
        };
        Box::pin(async move {
            let mut iterator = iterator.lock().await;
            match iterator.history.next().await {
                Ok(Some(transaction)) => {
                    let head = (transaction.tid, transaction.meta.clone());
                    iterator.last = Some(Arc::new(transaction));
                    Done::Reply(Reply::Transaction(Some(head)))
                }
                Ok(None) => Done::IteratorEnded(id, Reply::Transaction(None)),
                Err(failed) => error(failed),
            }
        })
    }

    /// `iterator_record_start`: over the records of the last transaction of the iterator `id`.
    pub(super) fn start_records(&self, id: i64, tid: Tid) -> BoxFuture<'static, Done> {
        if let Err(passed) = self.room() {
            return too_many(passed);
        }
        let Some(Iterator::Transactions(iterator)) = self.open.get(&id).cloned() else {
            return unknown(id);
        };
        Box::pin(async move {
            let last = iterator.lock().await.last.clone();
            match last {
                Some(transaction) if transaction.tid == tid => {
                    let records = Records {
                        transaction,
                        next: 0,
                    };
                    let iterator = Arc::new(Mutex::new(records));
                    Done::Iterator(Made(Iterator::Records(iterator)))
                }
                Some(_) => Done::Reply(Reply::Error(WireError::Value(format!(
                    "the records of {tid} were asked for, which is not the iterator's last transaction"
                )))),
                None => Done::Reply(Reply::Error(WireError::Key(Value::Int(id)))),
            }
        })
    }

    /// `iterator_record_next`.
    pub(super) fn record(&self, id: i64) -> BoxFuture<'static, Done> {
        let Some(Iterator::Records(iterator)) = self.open.get(&id).cloned() else {
            return unknown(id);
        };
        Box::pin(async move {
            let mut iterator = iterator.lock().await;
            let transaction = Arc::clone(&iterator.transaction);
            let Some(record) = transaction.records.get(iterator.next) else {
                return Done::IteratorEnded(id, Reply::Record(None));
            };
            let data = match record.data.payload() {
                None => None,
                Some(payload) => match in_memory(payload.clone()).await {
                    Ok(data) => Some(data),
                    Err(error) => return Done::Reply(Reply::Error(error)),
                },
            };
            iterator.next += 1;
            let data_txn = match &record.data {
                RecordData::Back { tid, .. } => Some(*tid),
                RecordData::Data(_) | RecordData::Gone => None,
            };
            Done::Reply(Reply::Record(Some(IteratedRecord {
                oid: record.oid,
                tid: transaction.tid,
                data,
                data_txn,
            })))
        })
    }

    /// The last answer of an iterator over records was let go of: the next call gives it again. No other call of
    /// that iterator may be under way.
    pub(super) fn step_back(&self, id: i64) {
        if let Some(Iterator::Records(iterator)) = self.open.get(&id)
            && let Ok(mut iterator) = iterator.try_lock()
        {
            iterator.next = iterator.next.saturating_sub(1);
        }
    }

    fn room(&self) -> Result<(), Passed> {
        if self.open.len() < self.most {
            return Ok(());
        }
        let what = format!(
            "{} iterators are open; iterate to their ends, or drop them",
            self.most
        );
        Err(Passed::new(Limit::Iterators, what))
    }
}

fn too_many(passed: Passed) -> BoxFuture<'static, Done> {
    Box::pin(std::future::ready(Done::Passed(passed)))
}

/// Clients rely on its being a `KeyError`.
fn unknown(id: i64) -> BoxFuture<'static, Done> {
    let error = WireError::Key(Value::Int(id));
    Box::pin(std::future::ready(Done::Reply(Reply::Error(error))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zodb::TxnMeta;

    fn made() -> Made {
        let transaction = Arc::new(HistoryTxn {
            tid: Tid(1),
            meta: TxnMeta::default(),
            records: Vec::new(),
        });
        let records = Records {
            transaction,
            next: 0,
        };
        Made(Iterator::Records(Arc::new(Mutex::new(records))))
    }

    /// Several may be on their way while there was room for one.
    #[test]
    fn one_that_was_made_while_others_were_is_refused_where_it_is_too_much() {
        let mut iterators = Iterators::new(1);
        assert_eq!(iterators.add(made()), Ok(Reply::Iterator(0)));
        let passed = iterators.add(made()).expect_err("there is no room");
        assert_eq!(passed.limit, Limit::Iterators);
        iterators.remove(0);
        assert_eq!(iterators.add(made()), Ok(Reply::Iterator(1)));
    }
}
