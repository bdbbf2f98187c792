//! The bytes of a `Data.fs` file.
//!
//! A file is a magic number and then transactions, one after the other, oldest first. Nothing in it
//! is ever changed but the status byte of the last transactions. All numbers are big-endian.
//! Source: ZODB, `FileStorage/format.py`.
//!
//! ```text
//! file         0  "FS21" (made by Python 2) or "FS30" (by Python 3)
//!              4  transactions
//!
//! transaction  0  tid                                              8
//!              8  length of the transaction, without its last 8    8   = L
//!             16  status: ' ', 'p', 'u'; 'c' until it is finished  1
//!             17  length of the user's name                        2   = U
//!             19  length of the description                        2   = D
//!             21  length of the extension                          2   = E
//!             23  user's name, description, extension              U + D + E
//!              …  records
//!              L  length of the transaction, once more             8
//!
//! record       0  oid                                              8
//!              8  tid, the transaction's                           8
//!             16  position of the object's previous record, or 0   8
//!             24  position of the transaction                      8
//!             32  0 (was: length of a version's name)              2
//!             34  length of the data                               8   = N
//!             42  data                                             N
//!        or, where N is 0:
//!             42  position of an earlier record of the object that 8
//!                 has the data (undo), or 0: there is no object
//! ```
//!
//! There are no checksums. What tells a whole transaction from a torn one is the status byte, which is
//! `'c'` on the disk until everything else of the transaction is there for certain.

use crate::storage::Answer;
use crate::zodb::{Oid, Tid, TxnMeta, TxnStatus};

/// Where the first transaction begins.
pub(super) const FIRST: u64 = 4;

/// What new files begin with.
pub(super) const MAGIC: [u8; 4] = *b"FS30";

/// The status of a transaction that is not finished.
pub(super) const UNFINISHED: u8 = b'c';

/// Where the status byte is, from the beginning of its transaction.
pub(super) const STATUS_AT: u64 = 16;

/// Positions are kept in six bytes: here, and by ZODB in `Data.fs.index`.
pub(super) const LARGEST_FILE: u64 = 1 << 48;

/// The beginning of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TxnHeader {
    pub(super) tid: Tid,
    /// Of the transaction, without the length that ends it.
    pub(super) len: u64,
    pub(super) status: u8,
    pub(super) user: u16,
    pub(super) description: u16,
    pub(super) extension: u16,
}

impl TxnHeader {
    pub(super) const LEN: usize = 23;

    pub(super) fn decode(bytes: &[u8; Self::LEN]) -> Self {
        TxnHeader {
            tid: Tid(u64_at(bytes, 0)),
            len: u64_at(bytes, 8),
            status: bytes[16],
            user: u16_at(bytes, 17),
            description: u16_at(bytes, 19),
            extension: u16_at(bytes, 21),
        }
    }

    pub(super) fn encode(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.tid.to_bytes());
        into.extend_from_slice(&self.len.to_be_bytes());
        into.push(self.status);
        into.extend_from_slice(&self.user.to_be_bytes());
        into.extend_from_slice(&self.description.to_be_bytes());
        into.extend_from_slice(&self.extension.to_be_bytes());
    }

    /// The length of what is before the records.
    pub(super) fn head_len(&self) -> u64 {
        Self::LEN as u64
            + u64::from(self.user)
            + u64::from(self.description)
            + u64::from(self.extension)
    }

    /// The length with all that belongs to it: where the next transaction begins.
    pub(super) fn whole_len(&self) -> u64 {
        self.len.saturating_add(8)
    }

    pub(super) fn txn_status(&self) -> Option<TxnStatus> {
        TxnStatus::from_byte(self.status)
    }

    /// Whether a finished transaction can begin so.
    pub(super) fn is_plausible(&self) -> bool {
        self.len >= self.head_len() && self.len < LARGEST_FILE && self.txn_status().is_some()
    }
}

/// The length of what is before the records of a transaction with this metadata; none where it is too
/// long for the format.
pub(super) fn head_of(meta: &TxnMeta, tid: Tid, records_len: u64) -> Option<TxnHeader> {
    let mut header = TxnHeader {
        tid,
        len: 0,
        status: meta.status.to_byte(),
        user: u16::try_from(meta.user.len()).ok()?,
        description: u16::try_from(meta.description.len()).ok()?,
        extension: u16::try_from(meta.extension.len()).ok()?,
    };
    header.len = header.head_len() + records_len;
    Some(header)
}

/// Says which part of the metadata is too long for the format.
pub(super) fn too_long(meta: &TxnMeta) -> Answer {
    let parts = [
        ("the user's name", meta.user.len()),
        ("the description", meta.description.len()),
        ("the extension", meta.extension.len()),
    ];
    let largest = usize::from(u16::MAX);
    let long: Vec<String> = parts
        .iter()
        .filter(|(_, len)| *len > largest)
        .map(|(what, len)| format!("{what} has {len} bytes"))
        .collect();
    Answer::Invalid(format!("{}, the limit is {largest}", long.join(" and ")))
}

/// The beginning of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub(super) oid: Oid,
    pub(super) tid: Tid,
    /// The object's record before the transaction; 0 for none.
    pub(super) previous: u64,
    /// Where the transaction begins.
    pub(super) txn: u64,
    /// Of the data. 0: a position follows instead.
    pub(super) data_len: u64,
}

impl RecordHeader {
    pub(super) const LEN: usize = 42;
    /// The shortest record.
    pub(super) const LEAST: usize = Self::LEN + 8;

    /// None where the bytes are no record: versions, which ZODB gave up in 2007, are not read.
    pub(super) fn decode(bytes: &[u8; Self::LEN]) -> Option<Self> {
        (u16_at(bytes, 32) == 0).then(|| RecordHeader {
            oid: Oid(u64_at(bytes, 0)),
            tid: Tid(u64_at(bytes, 8)),
            previous: u64_at(bytes, 16),
            txn: u64_at(bytes, 24),
            data_len: u64_at(bytes, 34),
        })
    }

    pub(super) fn encode(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.oid.to_bytes());
        into.extend_from_slice(&self.tid.to_bytes());
        into.extend_from_slice(&self.previous.to_be_bytes());
        into.extend_from_slice(&self.txn.to_be_bytes());
        into.extend_from_slice(&[0, 0]);
        into.extend_from_slice(&self.data_len.to_be_bytes());
    }

    /// The length of the whole record.
    pub(super) fn whole_len(&self) -> u64 {
        record_len(self.data_len)
    }
}

/// The length of a record with so much data, or with a position where that is none.
pub(super) fn record_len(data_len: u64) -> u64 {
    let body = if data_len == 0 { 8 } else { data_len };
    (RecordHeader::LEN as u64).saturating_add(body)
}

/// The number at a place of which the caller knows that eight bytes are there.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_be_bytes(number)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The first `N` bytes of a slice of which the caller knows that they are there.
pub(super) fn head<const N: usize>(bytes: &[u8]) -> &[u8; N] {
    bytes
        .first_chunk()
        .expect("the caller has read that many bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn headers_are_drawn_as_zodb_draws_them() {
        let meta = TxnMeta {
            user: "u".into(),
            description: "de".into(),
            extension: "ext".into(),
            status: TxnStatus::Packed,
        };
        let header = head_of(&meta, Tid(0x0102), record_len(3)).expect("short enough");
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        // struct.pack(">8sQcHHH", …)
        let expected = b"\0\0\0\0\0\0\x01\x02\0\0\0\0\0\0\0\x4ap\0\x01\0\x02\0\x03";
        assert_eq!(bytes, expected);
        assert_eq!(TxnHeader::decode(head(&bytes)), header);

        let record = RecordHeader {
            oid: Oid(7),
            tid: Tid(0x0102),
            previous: 4,
            txn: 99,
            data_len: 3,
        };
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        // struct.pack(">8s8sQQHQ", …)
        let expected = b"\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\x01\x02\0\0\0\0\0\0\0\x04\
            \0\0\0\0\0\0\0\x63\0\0\0\0\0\0\0\0\0\x03";
        assert_eq!(bytes, expected);
        assert_eq!(RecordHeader::decode(head(&bytes)), Some(record));
        bytes[33] = 1;
        assert_eq!(RecordHeader::decode(head(&bytes)), None);
    }

    #[test]
    fn metadata_that_is_too_long_has_no_header() {
        let long = |len: usize| TxnMeta {
            description: vec![b'd'; len].into(),
            ..TxnMeta::default()
        };
        assert!(head_of(&long(65_535), Tid(1), 0).is_some());
        assert!(head_of(&long(65_536), Tid(1), 0).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_header_or_not_and_nothing_overflows(bytes: [u8; TxnHeader::LEN], record: [u8; RecordHeader::LEN]) {
            let header = TxnHeader::decode(&bytes);
            let mut again = Vec::new();
            header.encode(&mut again);
            prop_assert_eq!(&again[..], &bytes[..]);
            header.is_plausible();
            header.whole_len();
            if let Some(header) = RecordHeader::decode(&record) {
                header.whole_len();
            }
        }
    }
}
