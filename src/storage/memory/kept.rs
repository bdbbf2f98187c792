//! What a storage in memory keeps: the history, and where in it the revisions of each object are.

use std::collections::BTreeMap;

use crate::storage::Answer;
use crate::zodb::{HistoryRecord, HistoryTxn, Oid, RecordData, Tid, TxnStatus};

/// What is kept.
#[derive(Debug, Default)]
pub(super) struct Data {
    pub(super) history: Vec<HistoryTxn>,
    /// Each revision of each object, oldest first.
    pub(super) objects: BTreeMap<Oid, Vec<Place>>,
    pub(super) largest_oid: Oid,
    /// The last that there was, which a pack may have taken away.
    pub(super) last: Tid,
}

/// A record: of which transaction, and which of its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) txn: usize,
    record: usize,
}

impl Data {
    pub(super) fn of(history: Vec<HistoryTxn>) -> Self {
        let mut data = Data::default();
        for txn in history {
            data.append(txn);
        }
        data
    }

    pub(super) fn append(&mut self, txn: HistoryTxn) {
        let number = self.history.len();
        for (record, HistoryRecord { oid, .. }) in txn.records.iter().enumerate() {
            if txn.meta.status == TxnStatus::Undone {
                break;
            }
            let places = self.objects.entry(*oid).or_default();
            // Of two records of one object in a transaction, the last one counts.
            places.pop_if(|last| last.txn == number);
            places.push(Place {
                txn: number,
                record,
            });
            self.largest_oid = self.largest_oid.max(*oid);
        }
        self.last = txn.tid;
        self.history.push(txn);
    }

    pub(super) fn tid(&self, place: Place) -> Tid {
        self.history[place.txn].tid
    }

    pub(super) fn whole(&self, place: Place) -> &HistoryRecord {
        &self.history[place.txn].records[place.record]
    }

    pub(super) fn record(&self, place: Place) -> &RecordData {
        &self.whole(place).data
    }

    pub(super) fn places(&self, oid: Oid) -> Result<&[Place], Answer> {
        let places = self.objects.get(&oid).ok_or(Answer::NoSuchObject(oid))?;
        Ok(places)
    }

    pub(super) fn current(&self, oid: Oid) -> Option<(Tid, &RecordData)> {
        let place = *self.objects.get(&oid)?.last()?;
        Some((self.tid(place), self.record(place)))
    }

    /// The record that an object got in a transaction.
    pub(super) fn written(&self, oid: Oid, tid: Tid) -> Option<&HistoryRecord> {
        let places = self.objects.get(&oid)?;
        let at = places.partition_point(|place| self.tid(*place) < tid);
        let place = *places.get(at)?;
        (self.tid(place) == tid).then(|| self.whole(place))
    }

    /// The record that an object had just before a transaction.
    pub(super) fn before(&self, oid: Oid, tid: Tid) -> Option<(Tid, &HistoryRecord)> {
        let places = self.objects.get(&oid)?;
        let at = places.partition_point(|place| self.tid(*place) < tid);
        let place = *places.get(at.checked_sub(1)?)?;
        Some((self.tid(place), self.whole(place)))
    }

    /// The first transaction later than `tid`.
    pub(super) fn after(&self, tid: Tid) -> usize {
        self.history.partition_point(|txn| txn.tid <= tid)
    }
}
