//! A client's iterators over transactions and their records.
//!
//! An iterator is read by one call at a time, in the order of the calls; calls of different iterators
//! go past each other. Ids are given from one counter for both kinds, as Python's server does. Of each
//! transaction iterator the last transaction is kept, for an iterator over its records; what is in memory of all that
//! are kept is counted, and where it is much, no iterator but that one goes on.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::Mutex;

use super::lane::in_memory;
use super::limits::{Limit, Passed, size};
use super::reads::{Done, error};
use crate::pickle::Value;
use crate::storage::{History, Storage};
use crate::wire::{IteratedRecord, Reply, WireError};
use crate::zodb::{HistoryRecord, HistoryTxn, Payload, RecordData, Tid, TidRange};

/// What a client's other iterators may keep where one goes on, in bytes: more than one transaction has in memory, so that
/// who iterates over one range at a time never meets it.
const KEPT: usize = 64 << 20;

/// The iterators of one client.
pub(super) struct Iterators {
    /// What all of them keep, in bytes.
    kept: Arc<AtomicUsize>,
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
    last: Option<Arc<Kept>>,
}

struct Records {
    transaction: Arc<Kept>,
    next: usize,
}

/// A transaction that iterators keep, counted for as long as one does.
struct Kept {
    transaction: HistoryTxn,
    bytes: usize,
    all: Arc<AtomicUsize>,
}

impl Kept {
    fn new(transaction: HistoryTxn, all: &Arc<AtomicUsize>) -> Arc<Self> {
        let data = |record: &HistoryRecord| {
            let data = record.data.payload();
            data.and_then(Payload::in_memory).map_or(0, Bytes::len)
        };
        let records = transaction.records.iter();
        let bytes = records
            .map(|it| size_of::<HistoryRecord>() + data(it))
            .sum();
        all.fetch_add(bytes, Ordering::Relaxed);
        let all = Arc::clone(all);
        Arc::new(Kept {
            transaction,
            bytes,
            all,
        })
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// An iterator that was made and has no id yet.
pub(super) struct Made(Iterator);

impl Iterators {
    /// At most `most` at a time.
    pub(super) fn new(most: usize) -> Self {
        Iterators {
            kept: Arc::default(),
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
        let kept = Arc::clone(&self.kept);
        Box::pin(async move {
            let mut iterator = iterator.lock().await;
            let own = iterator.last.as_ref().map_or(0, |last| last.bytes);
            if kept.load(Ordering::Relaxed) - own > KEPT {
                let what = format!(
                    "the transactions that other iterators are at take more than {} in memory; iterate to their \
                     ends, or drop them",
                    size(KEPT as u64)
                );
                return Done::Passed(Passed::new(Limit::Iterators, what));
            }
            match iterator.history.next().await {
                Ok(Some(transaction)) => {
                    let head = (transaction.tid, transaction.meta.clone());
                    iterator.last = Some(Kept::new(transaction, &kept));
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
                Some(kept) if kept.transaction.tid == tid => {
                    let records = Records {
                        transaction: kept,
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
            let kept = Arc::clone(&iterator.transaction);
            let transaction = &kept.transaction;
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

    fn transaction(tid: u64, bytes: usize) -> HistoryTxn {
        let data = Bytes::from(vec![b'x'; bytes]);
        HistoryTxn {
            tid: Tid(tid),
            meta: TxnMeta::default(),
            records: vec![HistoryRecord {
                oid: crate::zodb::Oid(1),
                data: RecordData::Data(data.into()),
                blob: None,
            }],
        }
    }

    fn made() -> Made {
        let records = Records {
            transaction: Kept::new(transaction(1, 1), &Arc::default()),
            next: 0,
        };
        Made(Iterator::Records(Arc::new(Mutex::new(records))))
    }

    /// Transactions of 20 MiB, without end.
    struct Large(u64);

    #[async_trait::async_trait]
    impl History for Large {
        async fn next(&mut self) -> crate::storage::Result<Option<HistoryTxn>> {
            self.0 += 1;
            Ok(Some(transaction(self.0, 20 << 20)))
        }
    }

    #[tokio::test]
    async fn no_other_iterator_goes_on_where_they_keep_much() {
        let mut iterators = Iterators::new(100);
        for _ in 0..10 {
            let transactions = Transactions {
                history: Box::new(Large(0)),
                last: None,
            };
            let transactions = Arc::new(Mutex::new(transactions));
            iterators
                .add(Made(Iterator::Transactions(transactions)))
                .unwrap();
        }
        let goes_on = async |iterators: &Iterators, id| match iterators.transaction(id).await {
            Done::Reply(Reply::Transaction(Some(_))) => true,
            Done::Passed(passed) => {
                assert_eq!(passed.limit, Limit::Iterators);
                false
            }
            _ => panic!("neither a transaction nor an error"),
        };
        for id in 0..4 {
            assert!(goes_on(&iterators, id).await, "{id}");
        }
        // What one is at is given up where it goes on.
        assert!(goes_on(&iterators, 3).await);
        assert!(!goes_on(&iterators, 4).await);
        // The records of a transaction keep it.
        let Done::Iterator(records) = iterators.start_records(0, Tid(1)).await else {
            panic!("no iterator over records");
        };
        let Ok(Reply::Iterator(records)) = iterators.add(records) else {
            panic!("no room");
        };
        iterators.forget(&[0]);
        assert!(!goes_on(&iterators, 4).await);
        iterators.forget(&[records]);
        assert!(goes_on(&iterators, 4).await);
        iterators.forget(&[1, 2, 3, 4]);
        assert_eq!(iterators.kept.load(Ordering::Relaxed), 0);
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
