//! Takes an input apart: numbers, pieces, and what a client or server of the protocol would name.

use bytes::Bytes;

use crate::zodb::{Oid, Tid};

/// The transactions that storages have before anything is asked of them. In the future, so that a storage
/// that goes by the clock gives the next TIDs, whenever that is.
pub(super) const FIRST: Tid = Tid(0x0f00_0000_0000_0001);
pub(super) const SECOND: Tid = Tid(0x0f00_0000_0000_0010);

/// What is left of an input. At its end there are only zeros.
pub(super) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Input(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A length in one byte, and that many.
    pub(super) fn short(&mut self) -> Bytes {
        let length = usize::from(self.byte());
        Bytes::copy_from_slice(self.take(length))
    }

    /// A length in two bytes, little-endian, and that many.
    pub(super) fn long(&mut self) -> Bytes {
        let length = usize::from(u16::from_le_bytes([self.byte(), self.byte()]));
        Bytes::copy_from_slice(self.take(length))
    }

    pub(super) fn number(&mut self) -> u64 {
        let mut bytes = [0; 8];
        for (byte, taken) in bytes.iter_mut().zip(self.take(8)) {
            *byte = *taken;
        }
        u64::from_le_bytes(bytes)
    }

    /// Mostly one of few.
    pub(super) fn oid(&mut self) -> Oid {
        match self.byte() {
            small @ 0..0xf0 => Oid(u64::from(small) & 3),
            _ => Oid(self.number()),
        }
    }

    /// Mostly one that means something. `heard` is the last that the other side has named.
    pub(super) fn tid(&mut self, heard: Tid) -> Tid {
        match self.byte() {
            0 => Tid::ZERO,
            1 => FIRST,
            2 => SECOND,
            3 => Tid::MAX,
            4 => Tid(heard.0.wrapping_add(u64::from(self.byte()))),
            5..0xf0 => heard,
            _ => Tid(self.number()),
        }
    }

    pub(super) fn some_tid(&mut self, heard: Tid) -> Option<Tid> {
        (self.byte() & 1 == 1).then(|| self.tid(heard))
    }
}
