//! What a transaction will write: one record after the other, each knowing where it will be.
//!
//! Nothing is written here. Undoing looks at what the same transaction wrote before, so every record's
//! position is known as soon as it is planned.

use std::collections::HashMap;
use std::sync::Arc;

use super::append::{Body, Planned, PlannedRecord};
use super::blobs::blob_fault;
use super::commit::{foreseen, not_empty};
use super::disk::Disk;
use super::engine::Engine;
use super::format;
use super::origin::Origin;
use crate::storage::blobs::{Placed, Staged};
use crate::storage::{Answer, Fault, Result};
use crate::zodb::{Oid, Op, Tid, TxnMeta};

/// An operation, and the file that belongs to it once it is durable.
pub(super) struct Asked {
    pub(super) op: Op,
    pub(super) staged: Option<Staged>,
}

/// A transaction that is being planned. On the thread that writes, with the slot.
pub(super) struct Plan<'e> {
    pub(super) engine: &'e Arc<Engine>,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) tid: Tid,
    meta: TxnMeta,
    begin: u64,
    /// Where the next record will be.
    at: u64,
    records: Vec<PlannedRecord>,
    /// The last record of each object, and where it will be.
    newest: HashMap<Oid, (usize, u64)>,
    pub(super) blobs: Vec<(Oid, Staged)>,
    pub(super) undone: Vec<Oid>,
}

/// What came of planning.
pub(super) struct Ready {
    pub(super) planned: Planned,
    pub(super) blobs: Vec<(Oid, Staged)>,
    pub(super) undone: Vec<Oid>,
}

impl<'e> Plan<'e> {
    pub(super) fn new(
        engine: &'e Arc<Engine>,
        tid: Tid,
        meta: TxnMeta,
        begin: u64,
    ) -> Result<Self, Answer> {
        // Says what is too long, where something is.
        let header = Planned::new(tid, meta.clone(), begin, Vec::new())?.header;
        Ok(Plan {
            disk: Arc::clone(&engine.state.read().disk),
            engine,
            tid,
            meta,
            begin,
            at: begin + header.head_len(),
            records: Vec::new(),
            newest: HashMap::new(),
            blobs: Vec::new(),
            undone: Vec::new(),
        })
    }

    /// Adds what an operation writes.
    pub(super) fn add(&mut self, asked: Asked) -> Result<()> {
        let Asked { op, staged } = asked;
        let (oid, body) = match op {
            Op::Store { oid, data, .. } => (oid, Body::Data(not_empty(oid, data)?)),
            Op::StoreBlob { oid, data, .. } => {
                let staged = staged.ok_or(Answer::Unsupported("blobs"))?;
                self.blobs.push((oid, staged));
                (oid, Body::Data(not_empty(oid, data)?))
            }
            Op::Delete { oid, .. } => (oid, Body::Back(0)),
            Op::Restore {
                oid,
                serial,
                data,
                previous,
            } => {
                if serial != self.tid {
                    return Err(Answer::Invalid(format!(
                        "the record of {oid} belongs to transaction {serial}, not to {}",
                        self.tid
                    ))
                    .into());
                }
                let newest = foreseen(self.engine, oid)?.map(|one| one.position);
                (oid, self.origin().body(oid, data, previous, newest)?)
            }
            Op::CheckCurrent { .. } => return Ok(()),
            Op::Undo { tid } => return self.undo(tid),
        };
        let previous = foreseen(self.engine, oid)?.map_or(0, |one| one.position);
        self.push(PlannedRecord {
            oid,
            previous,
            body,
        });
        Ok(())
    }

    pub(super) fn push(&mut self, record: PlannedRecord) {
        let at = self.at;
        self.at += format::record_len(record.body.data_len());
        self.newest.insert(record.oid, (self.records.len(), at));
        self.records.push(record);
    }

    /// The last record of an object in this transaction, and where it will be.
    pub(super) fn newest(&self, oid: Oid) -> Option<(&PlannedRecord, u64)> {
        let (index, at) = *self.newest.get(&oid)?;
        Some((&self.records[index], at))
    }

    pub(super) fn origin(&self) -> Origin<'_> {
        Origin {
            disk: &*self.disk,
            path: &self.engine.paths.data,
        }
    }

    pub(super) fn finish(self) -> Result<Ready, Answer> {
        Ok(Ready {
            planned: Planned::new(self.tid, self.meta, self.begin, self.records)?,
            blobs: self.blobs,
            undone: self.undone,
        })
    }
}

/// Gives the files of a transaction's blobs their names.
pub(super) fn place(blobs: Vec<(Oid, Staged)>, tid: Tid) -> Result<Vec<Placed>> {
    let mut placed = Vec::with_capacity(blobs.len());
    for (oid, staged) in blobs {
        let one = staged.place(oid, tid);
        placed.push(one.map_err(|error| blob_fault("placing", oid, tid, error))?);
    }
    Ok(placed)
}

/// Makes the files durable that operations bring along. Blocks, and is not for the thread that writes.
pub(super) fn stage(engine: &Engine, ops: &mut [Asked]) -> Result<()> {
    for asked in ops {
        if let Op::StoreBlob { oid, blob, .. } = &asked.op
            && asked.staged.is_none()
        {
            let staged = engine.blob_directory()?.stage(blob);
            let what = || format!("writing the blob of {oid}");
            let staged = staged.map_err(|error| Fault::io(what(), error))?;
            asked.staged = Some(staged);
        }
    }
    Ok(())
}

/// Drops the first of two records of a blob that are the same: a ZEO client sends it with the object
/// and again with the file. Nobody who reads the database can tell.
pub(super) fn drop_repeated(ops: &mut Vec<Asked>) -> Result<(), std::io::Error> {
    let mut blobs = HashMap::new();
    for (index, asked) in ops.iter().enumerate() {
        if let Op::StoreBlob {
            oid, serial, data, ..
        } = &asked.op
        {
            blobs.insert(*oid, (index, *serial, data.clone()));
        }
    }
    if blobs.is_empty() {
        return Ok(());
    }
    let mut repeated = Vec::new();
    for (index, asked) in ops.iter().enumerate() {
        let (Op::Store { oid, serial, data }
        | Op::StoreBlob {
            oid, serial, data, ..
        }) = &asked.op
        else {
            continue;
        };
        if let Some((last, same_serial, same_data)) = blobs.get(oid)
            && index < *last
            && serial == same_serial
            && data.same_as(same_data)?
        {
            repeated.push(index);
        }
    }
    let mut index = 0;
    ops.retain(|_| {
        index += 1;
        repeated.binary_search(&(index - 1)).is_err()
    });
    Ok(())
}
