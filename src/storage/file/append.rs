//! Writing transactions at the end of a file, in large steps.
//!
//! A transaction is planned first (which record refers to which, how long it becomes) and then written.
//! Nothing here decides when it is final.

use super::disk::Disk;
use super::format::{self, RecordHeader, TxnHeader};
use crate::storage::{Answer, Fault};
use crate::zodb::{Oid, Payload, Tid, TxnMeta};

/// A transaction as it will be in the file.
pub(super) struct Planned {
    pub(super) header: TxnHeader,
    pub(super) meta: TxnMeta,
    pub(super) begin: u64,
    pub(super) records: Vec<PlannedRecord>,
}

pub(super) struct PlannedRecord {
    pub(super) oid: Oid,
    /// The object's record before the transaction; 0 for none.
    pub(super) previous: u64,
    pub(super) body: Body,
}

/// What a record holds.
pub(super) enum Body {
    /// Not empty: a record without data is something else.
    Data(Payload),
    /// The position of an earlier record with the data, or 0: there is no object.
    Back(u64),
}

impl Body {
    pub(super) fn data_len(&self) -> u64 {
        match self {
            Body::Data(data) => data.len() as u64,
            Body::Back(_) => 0,
        }
    }
}

impl Planned {
    /// Lays out a transaction that begins at `begin`.
    ///
    /// # Errors
    /// [`Answer::Invalid`] where the format has no room for it.
    pub(super) fn new(
        tid: Tid,
        meta: TxnMeta,
        begin: u64,
        records: Vec<PlannedRecord>,
    ) -> Result<Self, Answer> {
        let lens = records
            .iter()
            .map(|one| format::record_len(one.body.data_len()));
        let header = format::head_of(&meta, tid, lens.sum()).ok_or_else(|| {
            Answer::Invalid(
                "the user's name, the description or the extension has more than 65535 bytes"
                    .to_owned(),
            )
        })?;
        let planned = Planned {
            header,
            meta,
            begin,
            records,
        };
        if planned.end() >= format::LARGEST_FILE {
            return Err(Answer::Invalid(
                "the file would become larger than 2^48 bytes".to_owned(),
            ));
        }
        Ok(planned)
    }

    /// Where the next transaction begins.
    pub(super) fn end(&self) -> u64 {
        self.begin + self.header.whole_len()
    }

    /// Where each record is.
    pub(super) fn positions(&self) -> impl Iterator<Item = (&PlannedRecord, u64)> {
        let mut next = self.begin + self.header.head_len();
        self.records.iter().map(move |record| {
            let at = next;
            next += format::record_len(record.body.data_len());
            (record, at)
        })
    }
}

/// Collects what is to be written into large writes.
pub(super) struct Appender<'d> {
    disk: &'d dyn Disk,
    /// Where the buffer belongs.
    at: u64,
    buffer: Vec<u8>,
}

/// Why something could not be written.
pub(super) enum Failure {
    /// The data could not be read from where it was kept.
    Source(std::io::Error),
    /// It could not be written.
    Disk(std::io::Error),
}

impl Failure {
    pub(super) fn fault(self, path: &std::path::Path) -> Fault {
        match self {
            Failure::Source(error) => Fault::here("reading a record to be written", error),
            Failure::Disk(error) => Fault::io(format!("writing {}", path.display()), error),
        }
    }
}

impl<'d> Appender<'d> {
    /// Data at least this long is not copied into the buffer.
    const LARGE: usize = 256 * 1024;
    /// A full buffer, and the step in which data from files is copied.
    const STEP: usize = 1024 * 1024;

    pub(super) fn new(disk: &'d dyn Disk, at: u64) -> Self {
        Appender {
            disk,
            at,
            buffer: Vec::new(),
        }
    }

    /// Writes a transaction with the given status byte.
    pub(super) fn write(&mut self, txn: &Planned, status: u8) -> Result<(), Failure> {
        debug_assert_eq!(txn.begin, self.at + self.buffer.len() as u64);
        let header = TxnHeader {
            status,
            ..txn.header
        };
        if self.buffer.capacity() == 0 {
            let len = usize::try_from(header.whole_len()).unwrap_or(usize::MAX);
            self.buffer.reserve(len.min(Self::STEP + Self::STEP / 4));
        }
        header.encode(&mut self.buffer);
        for part in [&txn.meta.user, &txn.meta.description, &txn.meta.extension] {
            self.buffer.extend_from_slice(part);
        }
        for record in &txn.records {
            let header = RecordHeader {
                oid: record.oid,
                tid: txn.header.tid,
                previous: record.previous,
                txn: txn.begin,
                data_len: record.body.data_len(),
            };
            header.encode(&mut self.buffer);
            match &record.body {
                Body::Back(position) => self.buffer.extend_from_slice(&position.to_be_bytes()),
                Body::Data(data) => self.data(data)?,
            }
            if self.buffer.len() >= Self::STEP {
                self.flush()?;
            }
        }
        self.buffer.extend_from_slice(&header.len.to_be_bytes());
        if self.buffer.len() >= Self::STEP {
            self.flush()?;
        }
        Ok(())
    }

    fn data(&mut self, data: &Payload) -> Result<(), Failure> {
        match data.in_memory() {
            Some(bytes) if bytes.len() < Self::LARGE => self.buffer.extend_from_slice(bytes),
            Some(bytes) => {
                self.flush()?;
                self.disk.write_at(bytes, self.at).map_err(Failure::Disk)?;
                self.at += bytes.len() as u64;
            }
            None => {
                let mut done = 0;
                while done < data.len() {
                    let step = (data.len() - done).min(Self::STEP);
                    let from = self.buffer.len();
                    self.buffer.resize(from + step, 0);
                    data.read_at(done, &mut self.buffer[from..])
                        .map_err(Failure::Source)?;
                    done += step;
                    if self.buffer.len() >= Self::STEP {
                        self.flush()?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes what is still in the buffer.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        if !self.buffer.is_empty() {
            self.disk
                .write_at(&self.buffer, self.at)
                .map_err(Failure::Disk)?;
            self.at += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(())
    }
}
