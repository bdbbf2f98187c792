//! Packing in memory, as `FileStorage` does it: of what was before a time, each object's last revision
//! is kept, and whatever a later undo points back to; and of those, what the root object or later
//! records reach. Where states are no pickles, as in many tests, everything is reached. The last
//! transaction before the time stays, also where nothing of what it wrote does.

use std::collections::{BTreeMap, BTreeSet};

use super::kept::Data;
use crate::storage::file::references::References;
use crate::zodb::{HistoryTxn, Oid, RecordData, Tid, TxnStatus};

/// What is left of a history that is packed to `stop`.
pub(super) fn packed(data: &Data, stop: Tid) -> Vec<HistoryTxn> {
    let (mut current, mut pointed_to) = (BTreeMap::new(), BTreeSet::new());
    for txn in &data.history {
        for record in &txn.records {
            if txn.tid <= stop {
                current.insert(record.oid, txn.tid);
            } else if let RecordData::Back { tid, .. } = &record.data {
                pointed_to.insert((record.oid, *tid));
            }
        }
    }
    let reached = reached(data, stop);
    let is_reached = |oid| {
        reached
            .as_ref()
            .is_none_or(|reached| reached.contains(&oid))
    };
    let is_kept = |oid: Oid, tid: Tid, data: &RecordData| {
        (current.get(&oid) == Some(&tid) && data.payload().is_some() && is_reached(oid))
            || pointed_to.contains(&(oid, tid))
    };
    let before = data.history.iter().filter(|txn| txn.tid <= stop);
    let last = before.last().map(|txn| txn.tid);
    let mut kept = Vec::new();
    for txn in &data.history {
        let mut txn = txn.clone();
        if txn.tid <= stop {
            let tid = txn.tid;
            txn.records
                .retain(|record| is_kept(record.oid, tid, &record.data));
            if txn.records.is_empty() && Some(tid) != last {
                continue;
            }
            txn.meta.status = TxnStatus::Packed;
            for record in &mut txn.records {
                // What it pointed to may be gone now.
                if let RecordData::Back { data, .. } = &record.data {
                    record.data = RecordData::Data(data.clone());
                }
            }
        }
        kept.push(txn);
    }
    kept
}

/// What can be reached as of `stop`, from the root object and from what was written later; none where a
/// state that counts is no pickle.
fn reached(data: &Data, stop: Tid) -> Option<BTreeSet<Oid>> {
    let mut states = BTreeMap::new();
    let mut references = References::default();
    let (mut found, mut reached) = (vec![Oid::ROOT], BTreeSet::new());
    for txn in &data.history {
        for record in &txn.records {
            if txn.tid <= stop {
                states.insert(record.oid, record.data.payload());
            } else if let Some(state) = record.data.payload() {
                let state = state.read().ok()?;
                references.of(&state, |oid| found.push(oid)).ok()?;
            }
        }
    }
    while let Some(oid) = found.pop() {
        if reached.insert(oid)
            && let Some(Some(state)) = states.get(&oid)
        {
            let state = state.read().ok()?;
            references.of(&state, |oid| found.push(oid)).ok()?;
        }
    }
    // Without a root nothing would be left.
    states.contains_key(&Oid::ROOT).then_some(reached)
}
