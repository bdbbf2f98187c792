//! Undoing a transaction.
//!
//! For each record of the undone transaction a new one is written that points back to the record before
//! it: the object's state of then. That can be done where the object's current state is that of the
//! undone transaction: because it is the current record, or points back to it, or has the same data.
//! What was changed since would need a merge, which only the application's classes can do; this engine
//! answers as Python does where a class cannot. Source: ZODB, `FileStorage._txn_undo_write` and
//! `_transactionalUndoRecord`; the reasons are its words, because applications look at them.

use super::append::{Body, PlannedRecord};
use super::blobs::blob_fault;
use super::format::{FIRST, RecordHeader, TxnHeader};
use super::history::Walk;
use super::plan::Plan;
use super::window::Window;
use crate::storage::{Answer, Fault, Result, is_blob_record};
use crate::zodb::{Oid, Payload, Tid, TxnStatus};

/// Python's search does not find a first transaction that ends before here: it has no record.
const FIRST_FOUND: u64 = 39;

const INVALID_ID: &str = "Invalid transaction id";
const NOT_UNDOABLE: &str = "non-undoable transaction";
const NO_ORIGIN: &str = "_loadBack() failed";
const NO_PREVIOUS: &str = "_loadBack() failed for %s";
const ADDED_AND_CHANGED: &str =
    "Can't undo an add transaction followed by conflicting transactions.";
const CHANGED_SINCE: &str = "Some data were modified by a later transaction";

/// The blob's class is named in its first bytes.
const BLOB_RECORD: usize = 512;

impl Plan<'_> {
    /// Adds the records that undo a transaction.
    pub(super) fn undo(&mut self, tid: Tid) -> Result<()> {
        // So that all before this transaction is in the file as it will stay, and in the index.
        self.engine.wait_until_settled()?;
        let (begin, header) = self.find(tid)?;
        let mut records = Vec::new();
        // An object may have several records there, of which a later one can be undone where an earlier
        // one cannot.
        let mut failures: Vec<(Oid, &'static str)> = Vec::new();
        for (at, record) in self.records_of(begin, header)? {
            let oid = record.oid;
            failures.retain(|(failed, _)| *failed != oid);
            match self.undo_record(at, &record)? {
                Ok(undone) => {
                    if let Body::Back(back) = undone.body
                        && back != 0
                    {
                        self.undo_blob(oid, back)?;
                    }
                    records.push(undone);
                }
                Err(reason) => failures.push((oid, reason)),
            }
        }
        if !failures.is_empty() {
            let failures = failures.into_iter();
            let failures = failures.map(|(oid, reason)| (oid, reason.to_owned()));
            return Err(Answer::MultipleUndo(failures.collect()).into());
        }
        for record in records {
            self.note_undone(record.oid);
            self.push(record)?;
        }
        Ok(())
    }

    fn find(&self, tid: Tid) -> Result<(u64, TxnHeader)> {
        let walk = Walk::new(self.engine)?;
        let located = self.located.as_ref();
        let located = located.and_then(|located| located.position_of(&walk, tid));
        let begin = if let Some(begin) = located {
            begin
        } else {
            // It came while this waited for the others, or the file was packed meanwhile.
            self.engine.step("one transaction looked for");
            walk.position_of(tid)?
        };
        let header = if begin < walk.end {
            let mut window = Window::new(self.disk, TxnHeader::LEN, walk.end);
            let header = window.txn_header(begin);
            Some(header.map_err(|error| self.engine.fault("reading", error))?)
        } else {
            None
        };
        let found = header.filter(|header| header.tid == tid);
        match found.filter(|header| begin + header.whole_len() > FIRST_FOUND) {
            None => Err(refused(INVALID_ID).into()),
            Some(header) if header.txn_status() != Some(TxnStatus::Normal) => {
                Err(refused(NOT_UNDOABLE).into())
            }
            Some(header) => Ok((begin, header)),
        }
    }

    fn records_of(&self, begin: u64, header: TxnHeader) -> Result<Vec<(u64, RecordHeader)>> {
        let end = begin + header.len;
        let mut window = Window::new(self.disk, 64 * 1024, end);
        let mut at = begin + header.head_len();
        let mut records = Vec::new();
        while at < end {
            let record = window.record_header(at);
            let record = record.map_err(|error| self.engine.fault("reading", error))?;
            let Some(record) = record.filter(|record| record.whole_len() <= end - at) else {
                return Err(refused(NOT_UNDOABLE).into());
            };
            records.push((at, record));
            at += record.whole_len();
        }
        Ok(records)
    }

    /// The record that undoes one, or why there is none.
    fn undo_record(
        &self,
        at: u64,
        undone: &RecordHeader,
    ) -> Result<Result<PlannedRecord, &'static str>, Fault> {
        let oid = undone.oid;
        let current = self.engine.state.read().index.get(oid).unwrap_or(0);
        let newer = self.newest(oid);
        let mut copy = true;
        if newer.as_ref().map_or(current, |(_, position)| *position) != at {
            // It was changed since: by a later transaction, or in this one.
            let (position, data) = match newer {
                Some((body, position)) => match body {
                    Body::Data(data) => (position, Some(data.clone())),
                    Body::Back(back) => (*back, None),
                },
                None => self.current(oid, current)?,
            };
            if position != at {
                let origin = self.origin();
                let Some(then) = origin.state(oid, at)? else {
                    return Ok(Err(NO_ORIGIN));
                };
                let now = match data {
                    Some(data) => Some(data),
                    None => origin.state(oid, position)?,
                };
                let Some(now) = now else {
                    return Ok(Err(NO_ORIGIN));
                };
                if !self.same(&then, &now)? {
                    copy = false;
                    if undone.previous == 0 {
                        return Ok(Err(ADDED_AND_CHANGED));
                    }
                }
            }
        }
        if !copy {
            let before = self.origin().state(oid, undone.previous)?;
            let reason = before.map_or(NO_PREVIOUS, |_| CHANGED_SINCE);
            return Ok(Err(reason));
        }
        Ok(Ok(PlannedRecord {
            oid,
            previous: current,
            // 0 where the object was made in that transaction: it is gone then.
            body: Body::Back(undone.previous),
        }))
    }

    /// Where the current record has its data: there, or where it points to.
    fn current(&self, oid: Oid, position: u64) -> Result<(u64, Option<Payload>), Fault> {
        let origin = self.origin();
        let found = (position >= FIRST).then(|| origin.record(oid, position));
        let Some((header, back)) = found.transpose()?.flatten() else {
            let what = format_args!("there is no record of {oid} at {position}");
            return Err(self.engine.damaged(what));
        };
        if header.data_len == 0 {
            return Ok((back, None));
        }
        Ok((position, origin.state(oid, position)?))
    }

    fn same(&self, one: &Payload, other: &Payload) -> Result<bool, Fault> {
        let same = one.same_as(other);
        same.map_err(|error| self.engine.fault("reading", error))
    }

    /// Gives the record the file of the one that it points back to, where that is a blob's.
    fn undo_blob(&mut self, oid: Oid, back: u64) -> Result<()> {
        let Some(directory) = &self.engine.blobs else {
            return Ok(());
        };
        let Some((header, position)) = self.origin().source(oid, back)? else {
            return Ok(());
        };
        let mut first = vec![0; BLOB_RECORD.min(header.data_len as usize)];
        let read = self
            .disk
            .read_at(&mut first, position + RecordHeader::LEN as u64);
        let read = read.map_err(|error| self.engine.fault("reading", error))?;
        if is_blob_record(&first[..read]) {
            let staged = directory.stage_again(oid, header.tid);
            let staged = staged.map_err(|error| blob_fault("copying", oid, header.tid, error))?;
            let staged = staged.ok_or(Answer::NoSuchObject(oid))?;
            self.blobs.push((oid, staged));
        }
        Ok(())
    }
}

fn refused(reason: &str) -> Answer {
    Answer::Undo {
        reason: reason.to_owned(),
        oid: None,
    }
}
