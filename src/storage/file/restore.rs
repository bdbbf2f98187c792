//! Appending whole transactions of another copy: what a recovery does.
//!
//! A batch is written in large steps. Only its first transaction has the status byte `'c'`, and has it
//! until everything of the batch is durable: a crash before leaves an unfinished transaction, and all
//! of the batch is behind it. For that this one byte has to be durable before the others are written:
//! a disk writes in any order, and finished transactions behind a hole would be damage.

use std::sync::Arc;

use super::append::{Appender, Planned, PlannedRecord};
use super::blobs::blob_fault;
use super::commit::must_be_later;
use super::disk::Disk;
use super::engine::Engine;
use super::format::{STATUS_AT, TxnHeader, UNFINISHED};
use super::index::Index;
use super::origin::Origin;
use crate::durable::step;
use crate::storage::blobs::Placed;
use crate::storage::{Fault, Result};
use crate::zodb::{HistoryTxn, Oid, RecordData, Tid, TxnStatus};

/// After how many bytes of a batch the thread that syncs is told to begin with them.
const SYNC_BEHIND: u64 = 2 << 20;

/// Copies transactions to the end of a file.
pub(super) struct Copier<'d> {
    origin: Origin<'d>,
    appender: Appender<'d>,
    /// What was copied.
    pub(super) index: Index,
    pub(super) end: u64,
}

impl<'d> Copier<'d> {
    pub(super) fn new(origin: Origin<'d>, end: u64) -> Self {
        Copier {
            appender: Appender::new(origin.disk, end),
            origin,
            index: Index::default(),
            end,
        }
    }

    /// Copies one. `before` says where the newest record of an object is that was not copied here.
    pub(super) fn copy(
        &mut self,
        txn: HistoryTxn,
        unfinished: bool,
        before: impl Fn(Oid) -> Option<u64>,
    ) -> Result<()> {
        let mut records = Vec::with_capacity(txn.records.len());
        for record in txn.records {
            let oid = record.oid;
            let newest = self.index.get(oid).or_else(|| before(oid));
            let (data, previous) = match record.data {
                RecordData::Data(data) => (Some(data), None),
                RecordData::Back { tid, data } => {
                    // What it points to may not be written yet.
                    self.flush()?;
                    (Some(data), Some(tid))
                }
                RecordData::Gone => (None, None),
            };
            records.push(PlannedRecord {
                oid,
                previous: newest.unwrap_or(0),
                body: self.origin.body(oid, data, previous, newest)?,
            });
        }
        if bug!(CopyOneRecordLess) && records.len() > 1 && txn.tid.0.is_multiple_of(4) {
            records.pop();
        }
        let visible = txn.meta.status != TxnStatus::Undone;
        let planned = Planned::new(txn.tid, txn.meta, self.end, records)?;
        let status = if unfinished {
            UNFINISHED
        } else {
            planned.header.status
        };
        let path = self.origin.path;
        let written = self.appender.write(&planned, status);
        written.map_err(|failure| failure.fault(path))?;
        if visible {
            for (record, position) in planned.positions() {
                self.index.insert(record.oid, position);
            }
        }
        self.end = planned.end();
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<(), Fault> {
        let flushed = self.appender.flush();
        flushed.map_err(|failure| failure.fault(self.origin.path))
    }
}

impl Engine {
    /// Appends a batch. On the thread that writes, with the slot.
    pub(super) fn restore(self: &Arc<Self>, batch: Vec<HistoryTxn>) -> Result<()> {
        self.wait_until_settled()?;
        let (begin, mut last) = {
            let tail = self.tail.lock();
            (tail.end, tail.last)
        };
        for txn in &batch {
            must_be_later(txn.tid, last)?;
            last = txn.tid;
        }
        let Some(first) = batch.first() else {
            return Ok(());
        };
        let status = first.meta.status.to_byte();
        let barrier = (batch.len() > 1).then_some(TxnHeader {
            tid: first.tid,
            len: TxnHeader::LEN as u64,
            status: UNFINISHED,
            user: 0,
            description: 0,
            extension: 0,
        });
        let tids: Vec<(Tid, Arc<[Oid]>)> = batch
            .iter()
            .map(|txn| (txn.tid, txn.records.iter().map(|one| one.oid).collect()))
            .collect();
        let disk = Arc::clone(&self.state.read().disk);
        let copied = self
            .begin_batch(&*disk, barrier, begin)
            .and_then(|()| self.place_blobs(&batch))
            .and_then(|blobs| Ok((blobs, self.copy(&*disk, batch, begin)?)));
        let (mut blobs, (index, end)) = match copied {
            Ok(copied) => copied,
            Err(error) => {
                // Nothing of it is final: what is there can be cut as well.
                if let Err(cut) = disk.set_len(begin) {
                    self.poison(&self.fault("cutting an unfinished transaction from", cut));
                }
                return Err(error);
            }
        };
        for blob in &mut blobs {
            // Where the disk fails from here on, nobody knows until the file is opened again.
            blob.entrust();
        }
        self.make_batch_final(&*disk, begin, status)?;
        for blob in blobs {
            blob.keep();
        }
        {
            let mut state = self.state.write();
            for (oid, position) in index.iter_from(Oid(0)) {
                state.index.insert(oid, position);
            }
            for (tid, oids) in tids {
                state.recent.push(tid, oids);
            }
            state.last = last;
            state.end = end;
        }
        if let Some(oid) = index.last_oid() {
            let mut last_oid = self.last_oid.lock();
            *last_oid = oid.max(*last_oid);
        }
        {
            let mut tail = self.tail.lock();
            tail.end = end;
            tail.last = last;
        }
        self.save_index_when_due();
        Ok(())
    }

    /// Makes durable that an unfinished transaction begins here.
    fn begin_batch(&self, disk: &dyn Disk, barrier: Option<TxnHeader>, begin: u64) -> Result<()> {
        let Some(barrier) = barrier else {
            return Ok(());
        };
        if step::mistake!(&self.paths.data, RestoreWithoutBarrier) {
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(TxnHeader::LEN);
        barrier.encode(&mut bytes);
        let written = disk.write_at(&bytes, begin);
        written.map_err(|error| self.fault("writing", error))?;
        if let Err(error) = disk.sync() {
            self.poison(&self.fault("syncing", error));
            return Err(self.refusal().into());
        }
        Ok(())
    }

    /// Gives the batch's blobs their files.
    fn place_blobs(&self, batch: &[HistoryTxn]) -> Result<Vec<Placed>> {
        let mut placed = Vec::new();
        for txn in batch {
            for record in &txn.records {
                let (oid, tid) = (record.oid, txn.tid);
                if let Some(blob) = &record.blob {
                    let staged = self.blob_directory()?.stage(blob);
                    let one = staged.and_then(|staged| staged.place(oid, tid));
                    placed.push(one.map_err(|error| blob_fault("placing", oid, tid, error))?);
                }
            }
        }
        Ok(placed)
    }

    fn make_batch_final(&self, disk: &dyn Disk, begin: u64, status: u8) -> Result<(), Fault> {
        let synced = |error| {
            self.poison(&self.fault("syncing", error));
            self.refusal()
        };
        disk.sync().map_err(synced)?;
        // The system tells of a failed write once: if the other thread was told, it has poisoned the
        // file, and this one was told that all is well.
        self.wait_until_settled()?;
        let status = disk.write_at(&[status], begin + STATUS_AT);
        status.and_then(|()| disk.sync()).map_err(synced)?;
        self.usable()
    }

    fn copy(&self, disk: &dyn Disk, batch: Vec<HistoryTxn>, begin: u64) -> Result<(Index, u64)> {
        let origin = Origin {
            disk,
            path: &self.paths.data,
        };
        let mut copier = Copier::new(origin, begin);
        let mut syncing_to = begin;
        for (number, txn) in batch.into_iter().enumerate() {
            copier.copy(txn, number == 0, |oid| self.state.read().index.get(oid))?;
            if copier.end - syncing_to > SYNC_BEHIND {
                // The disk need not wait for the whole batch.
                syncing_to = copier.end;
                self.tail.lock().written += 1;
                self.wake_syncer();
            }
        }
        copier.flush()?;
        Ok((copier.index, copier.end))
    }
}
