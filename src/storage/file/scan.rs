//! Reading a whole file to make its index, and finding where what is finished ends.
//!
//! What is not finished is at the end of the file: a transaction with the status `'c'`, and after it
//! others of the same kind; a torn transaction, or the beginning of one; what a crash of the system
//! left there. All that is cut, see [`open`](super::open). But where anything impossible is followed by
//! a finished transaction, the file was damaged, and cutting would throw away what was acknowledged:
//! then nothing is touched.

use std::io;
use std::path::Path;

use super::disk::Disk;
use super::engine::damaged;
use super::format::{FIRST, RecordHeader, TxnHeader, UNFINISHED, head, u64_at};
use super::index::Index;
use super::window::Window;
use crate::storage::Fault;
use crate::zodb::{Tid, TxnStatus};

/// Read in steps of this size.
const STEP: usize = 1 << 20;

/// What a scan found.
#[derive(Debug)]
pub(super) struct Scanned {
    /// The last finished transaction.
    pub(super) last: Tid,
    /// Where what is finished ends.
    pub(super) end: u64,
    /// Why there is more in the file, where there is.
    pub(super) rest: Option<String>,
}

/// Reads the transactions from `from` to the end of the file into the index. `last` is the one before
/// them.
pub(super) fn scan(
    disk: &dyn Disk,
    path: &Path,
    from: u64,
    last: Tid,
    index: &mut Index,
) -> Result<Scanned, Fault> {
    scan_telling(disk, path, from, last, index, &mut |_| {})
}

/// The same; `reached` is told how far it is.
pub(super) fn scan_telling(
    disk: &dyn Disk,
    path: &Path,
    from: u64,
    last: Tid,
    index: &mut Index,
    reached: &mut dyn FnMut(u64),
) -> Result<Scanned, Fault> {
    let fault = |error| Fault::io(format!("reading {}", path.display()), error);
    let len = disk.len().map_err(fault)?;
    let mut scan = Scan::new(disk, from, len, last);
    // Into the index only where the transaction proves right: a torn one is cut.
    let mut found = Vec::new();
    loop {
        reached(scan.at);
        if scan.at == len {
            return Ok(scan.found(None));
        }
        match scan.transaction(&mut found) {
            Ok(_) => {
                for (at, record) in &found {
                    index.insert(record.oid, *at);
                }
            }
            Err(Stop::Io(error)) => return Err(fault(error)),
            Err(Stop::Damaged(what)) => {
                return Err(damaged(path, what));
            }
            Err(Stop::Unfinished(why)) => {
                // What follows an unfinished transaction was never finished either.
                return Ok(scan.found(Some(why)));
            }
            Err(Stop::Torn(why)) => {
                if let Some(next) = scan.finished_after().map_err(fault)? {
                    let at = scan.at;
                    return Err(damaged(
                        path,
                        format_args!(
                            "at {at}: {why}; the next transaction that is whole begins at {next}"
                        ),
                    ));
                }
                return Ok(scan.found(Some(why)));
            }
        }
    }
}

/// Why a scan does not go on.
pub(super) enum Stop {
    Io(io::Error),
    /// The transaction was never finished.
    Unfinished(String),
    /// The transaction is not whole: the end of a file after a crash, or damage.
    Torn(String),
    /// It is whole, and wrong.
    Damaged(String),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Stop::Io(error)
    }
}

/// One transaction after the other, each judged as a whole.
pub(super) struct Scan<'d> {
    window: Window<'d>,
    /// What is from here on is not looked at.
    len: u64,
    /// Where the next transaction begins.
    pub(super) at: u64,
    /// The TID of the one before.
    pub(super) last: Tid,
}

impl<'d> Scan<'d> {
    pub(super) fn new(disk: &'d dyn Disk, from: u64, len: u64, last: Tid) -> Self {
        disk.will_be_scanned();
        Scan {
            window: Window::new(disk, STEP, len),
            len,
            at: from,
            last,
        }
    }
}

impl Scan<'_> {
    fn found(&self, rest: Option<String>) -> Scanned {
        Scanned {
            last: self.last,
            end: self.at,
            rest,
        }
    }

    /// Reads one transaction and goes on after it. Its records are put in the place of what `found` holds,
    /// each with where it begins; of one that was undone by an old ZODB there are none that count.
    pub(super) fn transaction(
        &mut self,
        found: &mut Vec<(u64, RecordHeader)>,
    ) -> Result<TxnHeader, Stop> {
        found.clear();
        let begin = self.at;
        if self.len - begin < TxnHeader::LEN as u64 + 8 {
            return Err(Stop::Torn("less than a transaction".to_owned()));
        }
        let header = self.window.txn_header(begin)?;
        if header.status == UNFINISHED {
            return Err(Stop::Unfinished(format!(
                "transaction {} was not finished",
                header.tid
            )));
        }
        let Some(status) = header.txn_status() else {
            let what = format!("transaction header with the status {:#04x}", header.status);
            return Err(Stop::Torn(what));
        };
        if header.len < header.head_len() {
            return Err(Stop::Torn(format!(
                "transaction header with the length {}",
                header.len
            )));
        }
        if header.whole_len() > self.len - begin {
            return Err(Stop::Torn(format!(
                "transaction of {} bytes in the last {}",
                header.whole_len(),
                self.len - begin
            )));
        }
        if header.tid <= self.last {
            return Err(Stop::Torn(format!(
                "transaction {} after {}",
                header.tid, self.last
            )));
        }
        let end = begin + header.len;
        let records = begin + header.head_len();
        if status == TxnStatus::Undone {
            self.ends_with(end, header.len)?;
        } else {
            self.records(begin, header.tid, records, end, found)?;
        }
        self.last = header.tid;
        self.at = end + 8;
        Ok(header)
    }

    /// The records of a transaction that was read, also of one that was undone.
    pub(super) fn records_of(
        &mut self,
        begin: u64,
        header: &TxnHeader,
        found: &mut Vec<(u64, RecordHeader)>,
    ) -> Result<(), Stop> {
        let (records, end) = (begin + header.head_len(), begin + header.len);
        self.records(begin, header.tid, records, end, found)
    }

    fn ends_with(&mut self, end: u64, len: u64) -> Result<(), Stop> {
        let again = self.window.number(end)?;
        if again != len {
            return Err(Stop::Torn(format!(
                "transaction with the lengths {len} and {again}"
            )));
        }
        Ok(())
    }

    fn records(
        &mut self,
        begin: u64,
        tid: Tid,
        records: u64,
        end: u64,
        found: &mut Vec<(u64, RecordHeader)>,
    ) -> Result<(), Stop> {
        let mut at = records;
        while at < end {
            // Eight bytes follow the records: more than the header can only be read past the end of a
            // torn file.
            let header = if end + 8 - at < RecordHeader::LEN as u64 {
                None
            } else {
                self.window.record_header(at)?
            };
            let header = header.filter(|header| {
                header.txn == begin
                    && header.tid == tid
                    && header.whole_len() <= end - at
                    && header.previous < at
            });
            let Some(header) = header else {
                return Err(self.wrong_within(begin, end, at)?);
            };
            found.push((at, header));
            at += header.whole_len();
        }
        self.ends_with(end, end - begin)
    }

    /// Where the length at the end is right, the transaction was written to its end, and what is wrong
    /// within is damage.
    fn wrong_within(&mut self, begin: u64, end: u64, at: u64) -> io::Result<Stop> {
        let what = format!("record at {at} that does not fit into the transaction at {begin}");
        Ok(if self.window.number(end)? == end - begin {
            Stop::Damaged(what)
        } else {
            Stop::Torn(what)
        })
    }

    /// Where the next finished transaction begins after something that is none. Found by what it must
    /// be: a plausible header, the length again at its end, and a first record that names it.
    pub(super) fn finished_after(&mut self) -> io::Result<Option<u64>> {
        let mut at = self.at + 1;
        while self.len.saturating_sub(at) >= TxnHeader::LEN as u64 + 8 {
            let left = usize::try_from(self.len - at).unwrap_or(usize::MAX);
            let chunk = self.window.bytes(at, left.min(STEP))?.to_vec();
            for (offset, bytes) in chunk.windows(TxnHeader::LEN).enumerate() {
                // Lengths have six bytes: a cheap test that nearly all bytes fail.
                if bytes[8] != 0 || bytes[9] != 0 || TxnStatus::from_byte(bytes[16]).is_none() {
                    continue;
                }
                let header = TxnHeader::decode(head(bytes));
                if self.is_finished(at + offset as u64, header)? {
                    return Ok(Some(at + offset as u64));
                }
            }
            at += (chunk.len() - TxnHeader::LEN + 1) as u64;
        }
        Ok(None)
    }

    fn is_finished(&self, at: u64, header: TxnHeader) -> io::Result<bool> {
        // With no record in it there would be too little to tell it by.
        let enough = header.head_len() + RecordHeader::LEAST as u64;
        if !header.is_plausible()
            || header.tid <= self.last
            || header.len + 7 < enough
            || header.whole_len() > self.len - at
        {
            return Ok(false);
        }
        // A window of its own: the caller's is in use.
        let mut small = self.window.small();
        if u64_at(small.bytes(at + header.len, 8)?, 0) != header.len {
            return Ok(false);
        }
        let record = small.record_header(at + header.head_len())?;
        Ok(record.is_some_and(|record| record.txn == at && record.tid == header.tid))
    }
}

/// Where the file ends of which an index says that it is right up to `position`: whether it can be
/// believed. The last transaction before must be there, and the index must know its records.
pub(super) fn last_before(
    disk: &dyn Disk,
    position: u64,
    index: &Index,
) -> io::Result<Option<Tid>> {
    if position == FIRST {
        return Ok(index.is_empty().then_some(Tid::ZERO));
    }
    if position < FIRST || position > disk.len()? {
        return Ok(None);
    }
    let mut window = Window::new(disk, 64 * 1024, position);
    let mut boundary = position;
    let mut last = None;
    // One that was undone long ago, or an empty one, says nothing of the index.
    for _ in 0..5 {
        let Some((begin, header)) = window.txn_before(boundary)? else {
            break;
        };
        last = last.or(Some(header.tid));
        let mut newest = std::collections::HashMap::new();
        let mut at = begin + header.head_len();
        while at < boundary - 8 {
            let record = window.record_header(at)?;
            let Some(record) = record
                .filter(|record| record.txn == begin && record.whole_len() <= boundary - 8 - at)
            else {
                return Ok(None);
            };
            newest.insert(record.oid, at);
            at += record.whole_len();
        }
        if header.txn_status() == Some(TxnStatus::Undone) || newest.is_empty() {
            if begin == FIRST {
                return Ok(last);
            }
            boundary = begin;
            continue;
        }
        let known = newest.iter().all(|(oid, at)| index.get(*oid) == Some(*at));
        return Ok(last.filter(|_| known));
    }
    Ok(None)
}
