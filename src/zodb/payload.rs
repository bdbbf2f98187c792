//! The data of one record: in memory, or a piece of a file where there is too much of it.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;

/// The data of one record. `Clone` shares it.
///
/// A transaction that is larger than memory should hold is spooled to a temporary file by whoever
/// collects it, and a storage gives a large record as a piece of its own file; both are copied from
/// there in pieces by whoever writes them, so that nothing large is ever in memory as a whole.
#[derive(Clone)]
pub struct Payload(Inner);

#[derive(Clone)]
enum Inner {
    Memory(Bytes),
    Piece {
        file: Arc<File>,
        offset: u64,
        len: usize,
    },
}

impl Payload {
    /// `len` bytes of `file` from `offset` on. They must not change while the payload lives.
    #[must_use]
    pub fn piece(file: Arc<File>, offset: u64, len: usize) -> Self {
        Payload(Inner::Piece { file, offset, len })
    }

    /// The same for who keeps it: what is small is copied, as it may be a part of something much larger that
    /// would be kept with it.
    #[must_use]
    pub fn detached(&self) -> Self {
        const SMALL: usize = 64 << 10;
        match &self.0 {
            Inner::Memory(bytes) if bytes.len() <= SMALL => Bytes::copy_from_slice(bytes).into(),
            _ => self.clone(),
        }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Inner::Memory(bytes) => bytes.len(),
            Inner::Piece { len, .. } => *len,
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The data, where it is in memory.
    #[must_use]
    pub fn in_memory(&self) -> Option<&Bytes> {
        match &self.0 {
            Inner::Memory(bytes) => Some(bytes),
            Inner::Piece { .. } => None,
        }
    }

    /// The whole data. Blocks the thread where it has to be read from a file.
    ///
    /// # Errors
    /// What reading the file gives.
    pub fn read(&self) -> io::Result<Bytes> {
        match &self.0 {
            Inner::Memory(bytes) => Ok(bytes.clone()),
            Inner::Piece { file, offset, len } => {
                let mut bytes = vec![0; *len];
                file.read_exact_at(&mut bytes, *offset)?;
                Ok(bytes.into())
            }
        }
    }

    /// Reads `into.len()` bytes from `at` on. Blocks the thread where it has to be read from a file.
    ///
    /// # Errors
    /// What reading the file gives; `UnexpectedEof` past the end of the data.
    pub fn read_at(&self, at: usize, into: &mut [u8]) -> io::Result<()> {
        let end = at.checked_add(into.len()).filter(|end| *end <= self.len());
        let Some(end) = end else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        match &self.0 {
            Inner::Memory(bytes) => {
                into.copy_from_slice(&bytes[at..end]);
                Ok(())
            }
            Inner::Piece { file, offset, .. } => file.read_exact_at(into, offset + at as u64),
        }
    }

    /// Whether two payloads hold the same bytes. Blocks the thread where one is in a file.
    ///
    /// # Errors
    /// What reading a file gives.
    pub fn same_as(&self, other: &Payload) -> io::Result<bool> {
        const STEP: usize = 64 * 1024;
        if self.len() != other.len() {
            return Ok(false);
        }
        if let (Some(mine), Some(theirs)) = (self.in_memory(), other.in_memory()) {
            return Ok(mine == theirs);
        }
        let (mut mine, mut theirs) = (vec![0; STEP], vec![0; STEP]);
        let mut at = 0;
        while at < self.len() {
            let step = STEP.min(self.len() - at);
            self.read_at(at, &mut mine[..step])?;
            other.read_at(at, &mut theirs[..step])?;
            if mine[..step] != theirs[..step] {
                return Ok(false);
            }
            at += step;
        }
        Ok(true)
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Payload(Inner::Memory(bytes))
    }
}

impl From<&'static [u8]> for Payload {
    fn from(bytes: &'static [u8]) -> Self {
        Bytes::from_static(bytes).into()
    }
}

/// Says where and how much, never what: record data does not belong into logs.
impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Inner::Memory(bytes) => write!(f, "Payload({} bytes)", bytes.len()),
            Inner::Piece { offset, len, .. } => write!(f, "Payload({len} bytes at {offset})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_keeps_a_small_part_does_not_keep_the_whole() {
        let whole = Bytes::from(vec![7; 1 << 20]);
        let small = Payload::from(whole.slice(100..200));
        let kept = small.detached();
        assert!(kept.same_as(&small).unwrap());
        drop(small);
        assert!(whole.is_unique(), "nobody else holds the buffer");

        // What is large is not copied.
        let large = Payload::from(whole.slice(..1 << 19));
        let kept = large.detached();
        drop(large);
        assert!(!whole.is_unique());
        assert_eq!(kept.len(), 1 << 19);
    }
}
