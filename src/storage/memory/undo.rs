//! Undo in memory, as `FileStorage` does it: the state before a transaction is the state again, where
//! nothing else has changed the object since. Source: ZODB, `FileStorage._txn_undo_write` and
//! `_transactionalUndoRecord`, whose words the reasons are.

use std::collections::BTreeSet;

use super::kept::Data;
use crate::storage::undo_search::UndoSearch;
use crate::storage::{Answer, Result, Undoable, Value};
use crate::zodb::{HistoryRecord, HistoryTxn, Oid, RecordData, Tid, TxnStatus};

/// The records that undo a transaction, within one that has written `newer` already.
pub(super) fn undo(data: &Data, tid: Tid, newer: &[HistoryRecord]) -> Result<Vec<HistoryRecord>> {
    let refused = |reason: &str| Answer::Undo {
        reason: reason.to_owned(),
        oid: None,
    };
    let mut newest_first = data.history.iter().rev();
    let packed = |txn: &&HistoryTxn| txn.meta.status == TxnStatus::Packed;
    let found = newest_first.find(|txn| txn.tid == tid || packed(txn));
    let txn = found.filter(|txn| txn.tid == tid);
    let txn = txn.ok_or_else(|| refused("Invalid transaction id"))?;
    if txn.meta.status != TxnStatus::Normal {
        return Err(refused("non-undoable transaction").into());
    }
    let oids: BTreeSet<Oid> = txn.records.iter().map(|record| record.oid).collect();
    let (mut records, mut failures) = (Vec::new(), Vec::new());
    for oid in oids {
        match undo_object(data, oid, tid, newer)? {
            Ok(record) => records.push(record),
            Err(reason) => failures.push((oid, reason.to_owned())),
        }
    }
    if !failures.is_empty() {
        return Err(Answer::MultipleUndo(failures).into());
    }
    Ok(records)
}

fn undo_object(
    data: &Data,
    oid: Oid,
    tid: Tid,
    newer: &[HistoryRecord],
) -> Result<Result<HistoryRecord, &'static str>> {
    const NO_ORIGIN: &str = "_loadBack() failed";
    let before = data.before(oid, tid);
    let undone = data.written(oid, tid).ok_or(Answer::NoSuchObject(oid))?;
    let planned = newer.iter().rev().find(|record| record.oid == oid);
    let current = match planned {
        None => data.current(oid).filter(|(current, _)| *current != tid),
        Some(planned) => Some((Tid::MAX, &planned.data)),
    };
    // It was changed since.
    if let Some((_, current)) = current
        && !matches!(current, RecordData::Back { tid: back, .. } if *back == tid)
    {
        let (Some(then), Some(now)) = (undone.data.payload(), current.payload()) else {
            return Ok(Err(NO_ORIGIN));
        };
        if !then.same_as(now).map_err(super::reading)? {
            return Ok(Err(match before {
                None => "Can't undo an add transaction followed by conflicting transactions.",
                Some(_) => "Some data were modified by a later transaction",
            }));
        }
    }
    let (data, blob) = match before {
        Some((tid, before)) => match before.data.payload() {
            Some(data) => {
                let data = data.clone();
                (RecordData::Back { tid, data }, before.blob.clone())
            }
            None => (RecordData::Gone, None),
        },
        None => (RecordData::Gone, None),
    };
    Ok(Ok(HistoryRecord { oid, data, blob }))
}

/// As [`crate::storage::Storage::undo_info`].
pub(super) fn undo_info(
    data: &Data,
    first: i64,
    last: i64,
    specification: &Value,
) -> Result<Vec<Undoable>> {
    let mut search = UndoSearch::new(first, last, specification);
    let newest_first = data.history.iter().rev();
    let undoable = newest_first
        .take_while(|txn| txn.meta.status != TxnStatus::Packed)
        .filter(|txn| txn.meta.status == TxnStatus::Normal);
    for txn in undoable {
        search.meet(Undoable {
            tid: txn.tid,
            user: txn.meta.user.clone(),
            description: txn.meta.description.clone(),
            extension: txn.meta.extension.clone(),
            size: Some(txn.size()),
        });
    }
    Ok(search.found()?)
}
