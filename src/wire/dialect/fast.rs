//! Walks along a message of an expected form, and stops at the first byte that is otherwise.

use std::ops::Range;

pub(super) struct Scan<'a> {
    input: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    pub(super) fn new(input: &'a [u8]) -> Self {
        Scan { input, at: 0 }
    }

    /// Passes these bytes; stays, where others stand there.
    pub(super) fn expect(&mut self, bytes: &[u8]) -> Option<()> {
        self.input.get(self.at..)?.strip_prefix(bytes)?;
        self.at += bytes.len();
        Some(())
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        let byte = *self.input.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let array = *self.input.get(self.at..)?.first_chunk::<N>()?;
        self.at += N;
        Some(array)
    }

    /// Where the next `length` bytes are.
    pub(super) fn range(&mut self, length: usize) -> Option<Range<usize>> {
        let end = self.at.checked_add(length)?;
        if end > self.input.len() {
            return None;
        }
        let range = self.at..end;
        self.at = end;
        Some(range)
    }

    /// Nothing may be left.
    pub(super) fn end(&self) -> Option<()> {
        (self.at == self.input.len()).then_some(())
    }

    /// An integer of a pickle, up to 63 bits.
    pub(super) fn pickled_int(&mut self) -> Option<i64> {
        let start = self.at;
        let int = match self.byte()? {
            b'K' => self.byte()?.into(),
            b'M' => u16::from_le_bytes(self.array()?).into(),
            b'J' => i32::from_le_bytes(self.array()?).into(),
            0x8a => {
                let length = usize::from(self.byte()?);
                // Seven bytes and no sign: the `id()` of an object is that.
                let bytes = self.range(length)?;
                let bytes = &self.input[bytes];
                if length > 7 || bytes.last()? & 0x80 != 0 {
                    return None;
                }
                let mut all = [0; 8];
                all[..length].copy_from_slice(bytes);
                i64::from_le_bytes(all)
            }
            _ => {
                self.at = start;
                return None;
            }
        };
        Some(int)
    }

    /// An integer of msgpack that is not negative and below 64 bits.
    pub(super) fn packed_int(&mut self) -> Option<i64> {
        let start = self.at;
        let int = match self.byte()? {
            small @ 0..=0x7f => small.into(),
            0xcc => self.byte()?.into(),
            0xcd => u16::from_be_bytes(self.array()?).into(),
            0xce => u32::from_be_bytes(self.array()?).into(),
            0xcf => i64::try_from(u64::from_be_bytes(self.array()?)).ok()?,
            _ => {
                self.at = start;
                return None;
            }
        };
        Some(int)
    }
}
