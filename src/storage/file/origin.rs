//! Back-pointers of restored records.
//!
//! A copy says of a record that it has the data of an earlier transaction's. Where that transaction
//! has a record of the object here too, with the same data, a pointer to it is written, as in the
//! original; else (it was packed away, say) the data is. Source: ZODB, `FileStorage.restore`.

use std::io;
use std::path::Path;

use super::append::Body;
use super::commit::not_empty;
use super::disk::Disk;
use super::far::Pace;
use super::format::{FIRST, RecordHeader, head, u64_at};
use crate::storage::{Fault, Result};
use crate::zodb::{Oid, Payload, Tid};

/// The file in which earlier records are looked for. Waits for the disk.
pub(super) struct Origin<'d> {
    pub(super) disk: &'d dyn Disk,
    pub(super) path: &'d Path,
}

impl Origin<'_> {
    /// What a record holds that has this data, or the data of the transaction `previous`. `newest` is
    /// where the newest record of the object is.
    pub(super) fn body(
        &self,
        oid: Oid,
        data: Option<Payload>,
        previous: Option<Tid>,
        newest: Option<u64>,
    ) -> Result<Body> {
        if let (Some(previous), Some(newest)) = (previous, newest)
            && let Some(position) = self.written_in(oid, previous, newest)?
            && let Some(there) = self.state(oid, position)?
        {
            let same = match &data {
                Some(data) => data
                    .same_as(&there)
                    .map_err(|error| Fault::io("comparing a record with its origin", error))?,
                None => true,
            };
            if same {
                return Ok(Body::Back(position));
            }
        }
        match data {
            Some(data) => Ok(Body::Data(not_empty(oid, data)?)),
            None => Ok(Body::Back(0)),
        }
    }

    /// Where the record is that the object got in a transaction.
    fn written_in(&self, oid: Oid, tid: Tid, newest: u64) -> Result<Option<u64>, Fault> {
        let mut at = newest;
        loop {
            let Some((header, _)) = self.record(oid, at)? else {
                return Ok(None);
            };
            if header.tid == tid {
                return Ok(Some(at));
            }
            if header.tid < tid || header.previous == 0 || header.previous >= at {
                return Ok(None);
            }
            at = header.previous;
        }
    }

    /// The data that a record has or points to.
    pub(super) fn state(&self, oid: Oid, position: u64) -> Result<Option<Payload>, Fault> {
        self.state_at_pace(oid, position, &Pace::endless())
    }

    pub(super) fn state_at_pace(
        &self,
        oid: Oid,
        position: u64,
        pace: &Pace<'_>,
    ) -> Result<Option<Payload>, Fault> {
        let Some((header, at)) = self.source_at_pace(oid, position, pace)? else {
            return Ok(None);
        };
        let len = usize::try_from(header.data_len).unwrap_or(usize::MAX);
        let piece = self.disk.piece(at + RecordHeader::LEN as u64, len);
        piece.map(Some).map_err(|error| self.fault(error))
    }

    /// The record that has the data of the one at a position, and where that is; none where there is no
    /// data.
    pub(super) fn source(
        &self,
        oid: Oid,
        position: u64,
    ) -> Result<Option<(RecordHeader, u64)>, Fault> {
        self.source_at_pace(oid, position, &Pace::endless())
    }

    fn source_at_pace(
        &self,
        oid: Oid,
        position: u64,
        pace: &Pace<'_>,
    ) -> Result<Option<(RecordHeader, u64)>, Fault> {
        let mut at = position;
        loop {
            let Some((header, back)) = self.record(oid, at)? else {
                return Ok(None);
            };
            if header.data_len > 0 {
                return Ok(Some((header, at)));
            }
            if back == 0 || back >= at {
                return Ok(None);
            }
            at = back;
            pace.step()?;
        }
    }

    /// The record of the object at a position, and the position that it has instead of data. None
    /// where something else is there.
    pub(super) fn record(&self, oid: Oid, at: u64) -> Result<Option<(RecordHeader, u64)>, Fault> {
        let mut bytes = [0; RecordHeader::LEAST];
        if at < FIRST {
            return Ok(None);
        }
        let filled = self
            .disk
            .read_at(&mut bytes, at)
            .map_err(|error| self.fault(error))?;
        if filled < RecordHeader::LEAST {
            return Ok(None);
        }
        let header = RecordHeader::decode(head(&bytes)).filter(|header| header.oid == oid);
        Ok(header.map(|header| (header, u64_at(&bytes, RecordHeader::LEN))))
    }

    fn fault(&self, error: io::Error) -> Fault {
        Fault::io(format!("reading {}", self.path.display()), error)
    }
}
