//! Reading a file in large steps: a window of it in memory, moved as needed.

use std::io;

use super::disk::Disk;
use super::format::{RecordHeader, TxnHeader, head, u64_at};

/// A part of the file in memory.
pub(super) struct Window<'d> {
    disk: &'d dyn Disk,
    bytes: Vec<u8>,
    begin: u64,
    filled: usize,
    /// Nothing from here on is read.
    end: u64,
}

impl<'d> Window<'d> {
    /// A window of `size` bytes on what is before `end`.
    pub(super) fn new(disk: &'d dyn Disk, size: usize, end: u64) -> Self {
        Window {
            disk,
            bytes: vec![0; size],
            begin: 0,
            filled: 0,
            end,
        }
    }

    /// `len` bytes from `at` on, of at most the window's size. Reading goes forward: when the window
    /// moves, it begins at `at`.
    ///
    /// # Errors
    /// What reading gives; `UnexpectedEof` where the file does not reach so far.
    pub(super) fn bytes(&mut self, at: u64, len: usize) -> io::Result<&[u8]> {
        if !self.holds(at, len) {
            self.fill(at)?;
        }
        self.slice(at, len)
    }

    /// The same, for reading backwards: when the window moves, it ends after these bytes.
    pub(super) fn bytes_before(&mut self, at: u64, len: usize) -> io::Result<&[u8]> {
        if !self.holds(at, len) {
            let end = at + len as u64;
            self.fill(end.saturating_sub(self.bytes.len() as u64))?;
        }
        self.slice(at, len)
    }

    /// Another one on the same file, for single looks elsewhere.
    pub(super) fn small(&self) -> Window<'d> {
        Window::new(self.disk, 64, self.end)
    }

    fn holds(&self, at: u64, len: usize) -> bool {
        at >= self.begin && at + len as u64 <= self.begin + self.filled as u64
    }

    fn fill(&mut self, at: u64) -> io::Result<()> {
        let left = self.end.saturating_sub(at);
        let size = self
            .bytes
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        self.filled = 0;
        self.filled = self.disk.read_at(&mut self.bytes[..size], at)?;
        self.begin = at;
        Ok(())
    }

    fn slice(&self, at: u64, len: usize) -> io::Result<&[u8]> {
        if !self.holds(at, len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let from = (at - self.begin) as usize;
        Ok(&self.bytes[from..from + len])
    }

    pub(super) fn txn_header(&mut self, at: u64) -> io::Result<TxnHeader> {
        let bytes = self.bytes(at, TxnHeader::LEN)?;
        Ok(TxnHeader::decode(head(bytes)))
    }

    /// None where the bytes are no record.
    pub(super) fn record_header(&mut self, at: u64) -> io::Result<Option<RecordHeader>> {
        let bytes = self.bytes(at, RecordHeader::LEN)?;
        Ok(RecordHeader::decode(head(bytes)))
    }

    pub(super) fn number(&mut self, at: u64) -> io::Result<u64> {
        Ok(u64_at(self.bytes(at, 8)?, 0))
    }

    /// The transaction that ends where another one begins or the file ends: where it begins, and its
    /// header. None where that is no transaction.
    pub(super) fn txn_before(&mut self, boundary: u64) -> io::Result<Option<(u64, TxnHeader)>> {
        let Some(at) = boundary.checked_sub(8) else {
            return Ok(None);
        };
        let len = u64_at(self.bytes_before(at, 8)?, 0);
        let Some(begin) = at
            .checked_sub(len)
            .filter(|begin| *begin >= super::format::FIRST && len >= TxnHeader::LEN as u64)
        else {
            return Ok(None);
        };
        let bytes = self.bytes_before(begin, TxnHeader::LEN)?;
        let header = TxnHeader::decode(head(bytes));
        Ok((header.len == len && header.is_plausible()).then_some((begin, header)))
    }
}
