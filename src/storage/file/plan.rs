//! Writing what a transaction asks: one record after the other, each knowing where it is.
//!
//! A transaction may have any number of records, so none of them is kept: of each only its place is
//! remembered. (Where the transaction undoes others, also where its data is: undoing looks at what the
//! same transaction wrote before.)

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

use super::append::{Appender, Body, Failure, PlannedRecord, Unfolding};
use super::blobs::blob_fault;
use super::commit::{foreseen, newest_position, not_empty};
use super::disk::Disk;
use super::engine::{Engine, Place, Places};
use super::format::{self, LARGEST_FILE};
use super::located::Located;
use super::origin::Origin;
use crate::storage::blobs::{Placed, Staged};
use crate::storage::{Answer, Fault, Operations, Result};
use crate::zodb::{Oid, Op, Tid, TxnMeta, TxnStatus};

/// The files that belong to operations, by the operations' numbers.
pub(super) type Files = HashMap<u64, Staged>;

/// A transaction that is being written. On the thread that writes, with the slot.
pub(super) struct Plan<'e> {
    pub(super) engine: &'e Arc<Engine>,
    pub(super) disk: &'e dyn Disk,
    pub(super) tid: Tid,
    appender: Appender<'e>,
    txn: Unfolding,
    visible: bool,
    places: Vec<Place>,
    /// The last record of each object, and where it is; of a transaction that undoes others.
    newest: Option<HashMap<Oid, (Body, u64)>>,
    pub(super) blobs: Vec<(Oid, Staged)>,
    /// Where those are that it undoes.
    pub(super) located: Option<Arc<Located>>,
    undone: Vec<Oid>,
    is_undone: HashSet<Oid>,
}

/// What was written.
pub(super) struct Ready {
    /// Where the next transaction begins.
    pub(super) end: u64,
    pub(super) places: Places,
    pub(super) blobs: Vec<(Oid, Staged)>,
    pub(super) undone: Vec<Oid>,
}

impl<'e> Plan<'e> {
    pub(super) fn new(
        engine: &'e Arc<Engine>,
        disk: &'e dyn Disk,
        tid: Tid,
        meta: &TxnMeta,
        begin: u64,
        ops: &Operations,
    ) -> Result<Self, Answer> {
        let header = format::head_of(meta, tid, 0).ok_or_else(|| format::too_long(meta))?;
        let mut appender = Appender::new(disk, begin);
        Ok(Plan {
            engine,
            disk,
            tid,
            txn: appender.begin(header, meta),
            appender,
            visible: meta.status != TxnStatus::Undone,
            places: Vec::with_capacity(usize::try_from(ops.count()).unwrap_or(0)),
            newest: ops.undo().then(HashMap::new),
            blobs: Vec::new(),
            located: None,
            undone: Vec::new(),
            is_undone: HashSet::new(),
        })
    }

    /// With what was found before of those that it undoes.
    pub(super) fn undoing(mut self, located: Option<Arc<Located>>) -> Self {
        self.located = located;
        self
    }

    /// Writes all of it.
    pub(super) fn write(mut self, ops: &Operations, mut files: Files) -> Result<Ready> {
        let mut walk = ops.walk();
        if self.newest.is_none() {
            walk = walk.with_data();
        }
        while let Some((number, op)) = walk.next_op().map_err(unreadable)? {
            self.add(op, files.remove(&number))?;
        }
        let end = self.appender.end(self.txn);
        Ok(Ready {
            end: end.map_err(|failure| failure.fault(&self.engine.paths.data))?,
            places: Places::of(self.places),
            blobs: self.blobs,
            undone: self.undone,
        })
    }

    /// Writes what an operation asks.
    fn add(&mut self, op: Op, staged: Option<Staged>) -> Result<()> {
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
        let previous = newest_position(self.engine, oid);
        self.push(PlannedRecord {
            oid,
            previous,
            body,
        })
    }

    pub(super) fn push(&mut self, record: PlannedRecord) -> Result<()> {
        let position = self.appender.position();
        if position.saturating_add(record.body.data_len()) >= LARGEST_FILE {
            let full = "the file would become larger than 2^48 bytes";
            return Err(Answer::Invalid(full.to_owned()).into());
        }
        let written = self.appender.add(&self.txn, &record);
        written.map_err(|failure: Failure| failure.fault(&self.engine.paths.data))?;
        let PlannedRecord { oid, body, .. } = record;
        if self.visible {
            let gone = matches!(body, Body::Back(0));
            self.places.push(Place::new(oid, position, gone));
        }
        if let Some(newest) = &mut self.newest {
            newest.insert(oid, (body, position));
        }
        Ok(())
    }

    /// Notes that an object has another state although the client did not store it.
    pub(super) fn note_undone(&mut self, oid: Oid) {
        if self.is_undone.insert(oid) {
            self.undone.push(oid);
        }
    }

    /// The last record of an object in this transaction, and where it is.
    pub(super) fn newest(&self, oid: Oid) -> Option<(&Body, u64)> {
        let (body, at) = self.newest.as_ref()?.get(&oid)?;
        Some((body, *at))
    }

    pub(super) fn origin(&self) -> Origin<'_> {
        Origin {
            disk: self.disk,
            path: &self.engine.paths.data,
        }
    }
}

/// What is asked cannot be read from where it was collected.
pub(super) fn unreadable(error: io::Error) -> Fault {
    Fault::here("reading a record to be written", error)
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
pub(super) fn stage(engine: &Engine, ops: &Operations, files: &mut Files) -> Result<()> {
    let mut walk = ops.walk();
    while let Some((number, op)) = walk.next_op().map_err(unreadable)? {
        if let Op::StoreBlob { oid, blob, .. } = &op
            && !files.contains_key(&number)
        {
            let staged = engine.blob_directory()?.stage(blob);
            let what = || format!("writing the blob of {oid}");
            let staged = staged.map_err(|error| Fault::io(what(), error))?;
            files.insert(number, staged);
        }
    }
    Ok(())
}

/// Drops the first of two records of a blob that are the same: a ZEO client sends it with the object
/// and again with the file. Nobody who reads the database can tell.
pub(super) fn drop_repeated(ops: &mut Arc<Operations>) -> Result<(), io::Error> {
    let mut blobs = HashMap::new();
    let mut walk = ops.walk();
    while let Some((number, op)) = walk.next_op()? {
        if let Op::StoreBlob {
            oid, serial, data, ..
        } = op
        {
            blobs.insert(oid, (number, serial, data));
        }
    }
    let mut repeated = Vec::new();
    let mut walk = ops.walk();
    while let Some((number, op)) = walk.next_op()? {
        let (Op::Store { oid, serial, data }
        | Op::StoreBlob {
            oid, serial, data, ..
        }) = &op
        else {
            continue;
        };
        if let Some((last, same_serial, same_data)) = blobs.get(oid)
            && number < *last
            && serial == same_serial
            && data.same_as(same_data)?
        {
            repeated.push(number);
        }
    }
    if !repeated.is_empty() {
        Arc::make_mut(ops).drop_ops(repeated);
    }
    Ok(())
}
