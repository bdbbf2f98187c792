//! Telling a blob's record from others.
//!
//! A record begins with a pickle that says the class. That of a blob is the class `ZODB.blob.Blob`
//! alone. Source: `ZODB/blob.py`, `is_blob_record`.

const MODULE: &[u8] = b"ZODB.blob";
const CLASS: &[u8] = b"Blob";

/// Whether a record is that of a blob.
#[must_use]
pub fn is_blob_record(data: &[u8]) -> bool {
    first_is_blob(data).unwrap_or(false)
}

/// What is on the stack: the class has been named, or texts wait for `STACK_GLOBAL`.
enum Top {
    Empty,
    Module,
    ModuleAndClass,
    Class,
}

/// Follows the opcodes that can lead to the class and nothing else; none where another comes, or the
/// record ends.
fn first_is_blob(mut rest: &[u8]) -> Option<bool> {
    let mut top = Top::Empty;
    loop {
        let opcode = take(&mut rest, 1)?[0];
        match opcode {
            // PROTO, BINPUT, FRAME, LONG_BINPUT, PUT, MEMOIZE: what is remembered is not asked for
            // again.
            0x80 | b'q' => drop(take(&mut rest, 1)?),
            0x95 => drop(take(&mut rest, 8)?),
            b'r' => drop(take(&mut rest, 4)?),
            0x94 => {}
            b'p' => drop(line(&mut rest)?),
            b'c' => {
                let (module, class) = (line(&mut rest)?, line(&mut rest)?);
                match top {
                    Top::Empty if module == MODULE && class == CLASS => top = Top::Class,
                    _ => return None,
                }
            }
            // SHORT_BINUNICODE, BINUNICODE, BINUNICODE8, UNICODE
            0x8c | b'X' | 0x8d | b'V' => {
                let text = match opcode {
                    0x8c => counted(&mut rest, 1)?,
                    b'X' => counted(&mut rest, 4)?,
                    0x8d => counted(&mut rest, 8)?,
                    _ => line(&mut rest)?,
                };
                top = match top {
                    Top::Empty if text == MODULE => Top::Module,
                    Top::Module if text == CLASS => Top::ModuleAndClass,
                    _ => return None,
                };
            }
            // STACK_GLOBAL
            0x93 => match top {
                Top::ModuleAndClass => top = Top::Class,
                _ => return None,
            },
            b'.' => return Some(matches!(top, Top::Class)),
            _ => return None,
        }
    }
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

fn counted<'a>(rest: &mut &'a [u8], size: usize) -> Option<&'a [u8]> {
    let mut length = [0; 8];
    length[..size].copy_from_slice(take(rest, size)?);
    take(rest, usize::try_from(u64::from_le_bytes(length)).ok()?)
}

fn line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let line = take(rest, end)?;
    take(rest, 1)?;
    Some(line)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_class_named_in_any_protocol_is_found() {
        let yes: [&[u8]; 5] = [
            // As ZODB writes it: protocol 3.
            b"\x80\x03cZODB.blob\nBlob\nq\x01.\x80\x03N.",
            b"cZODB.blob\nBlob\np0\n.N.",
            b"\x80\x02cZODB.blob\nBlob\n.",
            b"\x80\x04\x95\x16\0\0\0\0\0\0\0\x8c\x09ZODB.blob\x94\x8c\x04Blob\x94\x93\x94.",
            b"\x80\x04X\x09\0\0\0ZODB.blobVBlob\n\x93r\0\0\0\0.",
        ];
        for record in yes {
            assert!(is_blob_record(record), "{record:?}");
        }
    }

    #[test]
    fn nothing_else_is_a_blob() {
        let no: [&[u8]; 7] = [
            b"",
            b"\x80\x03cZODB.blob\nBlob\nq\x01",
            b"\x80\x03cZODB.blob\nBlobFile\nq\x01.",
            b"\x80\x03cother.blob\nBlob\nq\x01.",
            // The class with arguments: ZODB does not call this a blob either.
            b"\x80\x03cZODB.blob\nBlob\nq\x01)\x86.",
            b"\x80\x03cpersistent.mapping\nPersistentMapping\nq\x01.\x80\x03U\x09ZODB.blob.",
            b"\x80\x04\x8c\x04Blob\x8c\x09ZODB.blob\x93.",
        ];
        for record in no {
            assert!(!is_blob_record(record), "{record:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(record in proptest::collection::vec(any::<u8>(), 0..60)) {
            prop_assert!(!is_blob_record(&record));
            let mut named = b"\x80\x03cZODB.blob\nBlob\n".to_vec();
            named.extend(&record);
            prop_assert!(is_blob_record(&named) || record.first() != Some(&b'.'));
        }
    }
}
