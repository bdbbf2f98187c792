//! Packing in memory, as `FileStorage` does it: of what was before a time, each object's last revision
//! is kept, and whatever a later undo points back to.

use std::collections::{BTreeMap, BTreeSet};

use super::kept::Data;
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
    let is_kept = |oid: Oid, tid: Tid, data: &RecordData| {
        (current.get(&oid) == Some(&tid) && data.payload().is_some())
            || pointed_to.contains(&(oid, tid))
    };
    let mut kept = Vec::new();
    for txn in &data.history {
        let mut txn = txn.clone();
        if txn.tid <= stop {
            let tid = txn.tid;
            txn.records
                .retain(|record| is_kept(record.oid, tid, &record.data));
            if txn.records.is_empty() {
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
