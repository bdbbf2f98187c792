//! Writing transactions at the end of a file, in large steps.
//!
//! A transaction is planned first (which record refers to which, how long it becomes) and then written.
//! Nothing here decides when it is final.

use super::disk::Disk;
use super::format::{self, RecordHeader, TxnHeader, UNFINISHED};
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
        let header = format::head_of(&meta, tid, lens.sum());
        let header = header.ok_or_else(|| format::too_long(&meta))?;
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

/// A transaction that is being written record by record.
pub(super) struct Unfolding {
    header: TxnHeader,
    begin: u64,
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
    /// Data at least this long is not copied into the buffer. (Tests of crashes write little, and are to
    /// reach what is written only for large transactions.)
    const LARGE: usize = if cfg!(test) { 200 } else { 256 * 1024 };
    /// A full buffer, and the step in which data from files is copied.
    const STEP: usize = if cfg!(test) { 512 } else { 1024 * 1024 };

    pub(super) fn new(disk: &'d dyn Disk, at: u64) -> Self {
        Appender {
            disk,
            at,
            buffer: Vec::new(),
        }
    }

    /// Writes a transaction with the given status byte.
    pub(super) fn write(&mut self, txn: &Planned, status: u8) -> Result<(), Failure> {
        debug_assert_eq!(txn.begin, self.position());
        let header = TxnHeader {
            status,
            ..txn.header
        };
        if self.buffer.capacity() == 0 {
            let len = usize::try_from(header.whole_len()).unwrap_or(usize::MAX);
            self.buffer.reserve(len.min(Self::STEP + Self::STEP / 4));
        }
        self.head(&header, &txn.meta);
        for record in &txn.records {
            self.record(&header, txn.begin, record)?;
        }
        self.buffer.extend_from_slice(&header.len.to_be_bytes());
        self.flush_when_full()
    }

    /// Begins a transaction whose length shows when all of it is written. Until [`end`](Self::end) it is
    /// one that is not finished, whatever of it is on the disk.
    pub(super) fn begin(&mut self, header: TxnHeader, meta: &TxnMeta) -> Unfolding {
        let header = TxnHeader {
            status: UNFINISHED,
            ..header
        };
        let begin = self.position();
        self.head(&header, meta);
        Unfolding { header, begin }
    }

    /// Adds a record to it.
    pub(super) fn add(&mut self, txn: &Unfolding, record: &PlannedRecord) -> Result<(), Failure> {
        self.record(&txn.header, txn.begin, record)
    }

    /// Ends it and writes everything. Where the next one begins.
    pub(super) fn end(&mut self, txn: Unfolding) -> Result<u64, Failure> {
        let Unfolding { mut header, begin } = txn;
        header.len = self.position() - begin;
        self.buffer.extend_from_slice(&header.len.to_be_bytes());
        let mut bytes = Vec::with_capacity(TxnHeader::LEN);
        header.encode(&mut bytes);
        if begin < self.at {
            self.disk.write_at(&bytes, begin).map_err(Failure::Disk)?;
        } else {
            let from = (begin - self.at) as usize;
            self.buffer[from..from + TxnHeader::LEN].copy_from_slice(&bytes);
        }
        self.flush()?;
        Ok(self.at)
    }

    /// Where what is added next will be.
    pub(super) fn position(&self) -> u64 {
        self.at + self.buffer.len() as u64
    }

    fn head(&mut self, header: &TxnHeader, meta: &TxnMeta) {
        header.encode(&mut self.buffer);
        for part in [&meta.user, &meta.description, &meta.extension] {
            self.buffer.extend_from_slice(part);
        }
    }

    fn record(
        &mut self,
        txn: &TxnHeader,
        begin: u64,
        record: &PlannedRecord,
    ) -> Result<(), Failure> {
        let header = RecordHeader {
            oid: record.oid,
            tid: txn.tid,
            previous: record.previous,
            txn: begin,
            data_len: record.body.data_len(),
        };
        header.encode(&mut self.buffer);
        match &record.body {
            Body::Back(position) => self.buffer.extend_from_slice(&position.to_be_bytes()),
            Body::Data(data) => self.data(data)?,
        }
        self.flush_when_full()
    }

    fn flush_when_full(&mut self) -> Result<(), Failure> {
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
