//! Which back-pointers a server may be told.
//!
//! A record that an undo made points back to an earlier transaction, and `restorea` names that. What Python's
//! `FileStorage` makes of it depends on its release:
//!
//! - A transaction that it does not have (it was packed away) makes it refuse the vote, although its own
//!   comment calls the name a hint.
//! - Before ZODB 6.0.1 it takes the *first* record that the transaction holds of the object, does not look
//!   at it where that is a back-pointer itself, and forgets the data that it was sent. Where the object was
//!   undone twice in one transaction (`undoMultiple`) the copy then has another state. Where the
//!   transaction holds no record of the object it reads on past its end.
//!
//! No server says which release it is: ZEO 5 and 6 over ZODB 5 and 6 introduce themselves alike. So every
//! server is told a back-pointer only where that can mean nothing but the record's data. Any other record
//! is sent as its data, which is always right; an undo of it compares data where there is no pointer.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::Inner;
use super::iterate::Iteration;
use crate::storage::{Fault, History, Operations, Result};
use crate::zodb::{HistoryTxn, Oid, Op, Payload, RecordData, Tid, TidRange};

/// Takes those that are not certain out of a batch, of which nothing was sent yet.
pub(super) async fn keep_certain(inner: &Arc<Inner>, batch: &mut [HistoryTxn]) -> Result<()> {
    let places: HashMap<Tid, usize> = batch.iter().map(|txn| txn.tid).zip(0..).collect();
    let (mut elsewhere, mut uncertain) = (Questions::new(), Vec::new());
    for (at, txn) in batch.iter().enumerate() {
        for (number, record) in txn.records.iter().enumerate() {
            let RecordData::Back { tid, data } = &record.data else {
                continue;
            };
            let question = Question {
                place: (at, number),
                oid: record.oid,
                data: data.clone(),
            };
            match places.get(tid) {
                Some(earlier) if question.is_certain(&batch[*earlier])? => {}
                Some(_) => uncertain.push(question.place),
                None => elsewhere.entry(*tid).or_default().push(question),
            }
        }
    }
    uncertain.extend(answered(inner, elsewhere).await?);
    for (at, number) in uncertain {
        let record = &mut batch[at].records[number];
        if let Some(data) = record.data.payload().cloned() {
            record.data = RecordData::Data(data);
        }
    }
    Ok(())
}

/// Of a client's transaction, the numbers of those that are not certain.
pub(super) async fn uncertain_of(
    inner: &Arc<Inner>,
    ops: &Arc<Operations>,
) -> Result<HashSet<u64>> {
    let mut questions = Questions::new();
    let mut from = 0;
    while from < ops.count() {
        let (some, next) = ops.some(from).await?;
        for (number, op) in some {
            if let Op::Restore {
                oid,
                data: Some(data),
                previous: Some(tid),
                ..
            } = op
            {
                questions.entry(tid).or_default().push(Question {
                    place: (usize::try_from(number).unwrap_or(usize::MAX), 0),
                    oid,
                    data: data.detached(),
                });
            }
        }
        from = next;
    }
    let uncertain = answered(inner, questions).await?;
    Ok(uncertain.into_iter().map(|(at, _)| at as u64).collect())
}

/// Of a transaction that the server may hold.
type Questions = BTreeMap<Tid, Vec<Question>>;

/// Whether a record is the same as what an object became in an earlier transaction.
struct Question {
    place: (usize, usize),
    oid: Oid,
    data: Payload,
}

impl Question {
    /// Whether all that the transaction holds of the object is this data. Blocks for records that are pieces
    /// of files; they are rare and large.
    fn is_certain(&self, txn: &HistoryTxn) -> Result<bool> {
        let mut found = false;
        for record in txn.records.iter().filter(|record| record.oid == self.oid) {
            let Some(held) = record.data.payload() else {
                return Ok(false);
            };
            let same = held.same_as(&self.data);
            if !same.map_err(|error| Fault::here("comparing records", error))? {
                return Ok(false);
            }
            found = true;
        }
        Ok(found)
    }
}

/// Asks the server. Gives the places of those to which the answer is no.
async fn answered(inner: &Arc<Inner>, questions: Questions) -> Result<Vec<(usize, usize)>> {
    let mut uncertain = Vec::new();
    for (tid, questions) in questions {
        let mut held = Iteration::begin(inner, TidRange::only(tid)).await?;
        let held = held.next().await?;
        for question in questions {
            if !matches!(&held, Some(held) if question.is_certain(held)?) {
                uncertain.push(question.place);
            }
        }
    }
    Ok(uncertain)
}
