//! The name that the undo log gives a transaction: its TID in Base64. Source: ZODB
//! `FileStorage/FileStorage.py`, `undo` and `UndoSearch`.

use crate::zodb::Tid;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The `id` of a transaction in the undo log.
#[must_use]
pub fn undo_id(tid: Tid) -> [u8; 12] {
    // Eight bytes and one of nothing are twelve groups of six bits; the last stands for nothing.
    let bits = u128::from(tid.0) << 8;
    let mut id = [b'='; 12];
    for (index, character) in id[..11].iter_mut().enumerate() {
        *character = ALPHABET[(bits >> (66 - 6 * index)) as usize & 63];
    }
    id
}

/// The transaction that an `id` of the undo log names. A TID as it is is taken, too.
#[must_use]
pub fn parse_undo_id(id: &[u8]) -> Option<Tid> {
    if let Ok(bytes) = <[u8; 8]>::try_from(id) {
        return Some(Tid::from_bytes(bytes));
    }
    let characters = id.trim_ascii().strip_suffix(b"=")?;
    if characters.len() != 11 {
        return None;
    }
    let mut bits = 0u128;
    for character in characters {
        let group = ALPHABET.iter().position(|it| it == character)?;
        bits = bits << 6 | group as u128;
    }
    // Eleven groups are 66 bits; the last two are padding.
    bits.is_multiple_of(4).then_some(Tid((bits >> 2) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_file_storage() {
        // base64.encodebytes(bytes.fromhex('040d23ccb0000001')).rstrip()
        let tid = Tid(0x040d_23cc_b000_0001);
        assert_eq!(&undo_id(tid), b"BA0jzLAAAAE=");
        assert_eq!(parse_undo_id(b"BA0jzLAAAAE="), Some(tid));
        assert_eq!(parse_undo_id(&tid.to_bytes()), Some(tid));
        for tid in [Tid::ZERO, Tid::MAX, Tid(1), Tid(1 << 63)] {
            assert_eq!(parse_undo_id(&undo_id(tid)), Some(tid));
        }
        for wrong in [&b""[..], b"BA0jzLAAAAE", b"BA0jzLAAAAF=", b"!A0jzLAAAAE="] {
            assert_eq!(parse_undo_id(wrong), None);
        }
    }
}
