//! `Data.fs.index`: the index as ZODB saves it, so that opening a large file is quick for both.
//!
//! A row of pickles, one after the other: the position up to which the index is right, then for each
//! 65536 neighbouring oids that has any a pair of their six-byte prefix and a string of all two-byte
//! suffixes followed by all six-byte positions, then `None`. Source: ZODB, `fsIndex.py`,
//! `fsIndex.save`; `BTrees`, `_fsBTree.c`, `bucket_toString`.
//!
//! Nothing but that is read: of the pickle machine there are only the few opcodes that Python 2 and 3
//! write here. Whatever else a file holds makes it no index, and the index is made anew from the data.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

use crate::durable::step::{self, Writing};
use crate::storage::file::index::{Builder, Index};
use crate::zodb::Oid;

/// An index and the position in the data file up to which it is right.
#[derive(Debug)]
pub(super) struct Saved {
    pub(super) index: Index,
    pub(super) position: u64,
}

/// What is written to the file: made while nobody may change the index, written when others may.
pub(super) struct Image(Vec<u8>);

impl Image {
    pub(super) fn of(index: &Index, position: u64) -> Self {
        let mut out = Vec::with_capacity(index.len() * 8 + 64);
        pickle_number(&mut out, position);
        let mut bucket: Option<(u64, Vec<u8>, Vec<u8>)> = None;
        for (oid, at) in index.iter_from(Oid(0)) {
            let prefix = oid.0 >> 16;
            match &mut bucket {
                Some((same, ..)) if *same == prefix => (),
                other => {
                    if let Some((prefix, keys, values)) = other.take() {
                        pickle_bucket(&mut out, prefix, &keys, &values);
                    }
                    *other = Some((prefix, Vec::new(), Vec::new()));
                }
            }
            if let Some((_, keys, values)) = &mut bucket {
                keys.extend_from_slice(&oid.to_bytes()[6..]);
                values.extend_from_slice(&at.to_be_bytes()[2..]);
            }
        }
        if let Some((prefix, keys, values)) = bucket {
            pickle_bucket(&mut out, prefix, &keys, &values);
        }
        out.extend_from_slice(b"\x80\x03N.");
        Image(out)
    }

    /// Writes it beside, syncs it and renames it, so that there is always a whole one. Where `right`
    /// gives nothing by then, it is left as it was; what it gives is held while it is renamed.
    pub(super) fn save<G>(&self, path: &Path, right: impl FnOnce() -> Option<G>) -> io::Result<()> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".index_tmp");
        let beside = Path::new(&beside);
        let mut file = BufWriter::with_capacity(1 << 20, Writing::new(step::create(beside)?));
        file.write_all(&self.0)?;
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        step::sync_all(file.file())?;
        match right() {
            Some(_held) => step::rename(beside, path)?,
            None => step::remove_file(beside)?,
        }
        step::sync_folder_of(path)
    }
}

fn pickle_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(b"\x80\x03");
    if let Ok(number) = i32::try_from(number) {
        out.push(b'J');
        out.extend_from_slice(&number.to_le_bytes());
    } else {
        // Two's complement of eight bytes: positions have six, so the sign is right.
        out.extend_from_slice(&[0x8a, 8]);
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.push(b'.');
}

fn pickle_bucket(out: &mut Vec<u8>, prefix: u64, keys: &[u8], values: &[u8]) {
    let prefix = &prefix.to_be_bytes()[2..];
    let len = keys.len() + values.len();
    out.extend_from_slice(b"\x80\x03C\x06");
    out.extend_from_slice(prefix);
    out.push(b'B');
    out.extend_from_slice(&(len as u32).to_le_bytes());
    out.extend_from_slice(keys);
    out.extend_from_slice(values);
    out.extend_from_slice(b"\x86.");
}

/// Reads an index file. None where there is none.
///
/// # Errors
/// What reading gives, and `InvalidData` for whatever is not such a file.
pub(super) fn load(path: &Path) -> io::Result<Option<Saved>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut input = BufReader::with_capacity(1 << 20, file);
    let Value::Number(position) = unpickle(&mut input)? else {
        return Err(invalid("it does not begin with a position"));
    };
    let mut index = Builder::default();
    loop {
        let (prefix, bucket) = match unpickle(&mut input)? {
            Value::None => break,
            Value::Pair(prefix, bucket) => (prefix, bucket),
            _ => return Err(invalid("something else than a bucket")),
        };
        let prefix: [u8; 6] = prefix
            .try_into()
            .map_err(|_| invalid("a prefix that is not of six bytes"))?;
        if bucket.len() % 8 != 0 {
            return Err(invalid("a bucket of a broken length"));
        }
        let (keys, values) = bucket.split_at(bucket.len() / 4);
        for (key, value) in keys.chunks_exact(2).zip(values.chunks_exact(6)) {
            let mut oid = [0; 8];
            oid[..6].copy_from_slice(&prefix);
            oid[6..].copy_from_slice(key);
            let oid = Oid::from_bytes(oid);
            let mut at = [0; 8];
            at[2..].copy_from_slice(value);
            let at = u64::from_be_bytes(at);
            if at < super::format::FIRST || at >= position {
                return Err(invalid("a position outside of the file"));
            }
            if !index.push(oid, at) {
                return Err(invalid("objects that are not in order"));
            }
        }
    }
    let index = index.finish();
    Ok(Some(Saved { index, position }))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// What a pickle of this file can be.
enum Value {
    None,
    Number(u64),
    Bytes(Vec<u8>),
    Pair(Vec<u8>, Vec<u8>),
    Mark,
}

/// No string of an index file is longer: 65536 entries of eight bytes.
const LONGEST: usize = 65_536 * 8;

fn unpickle(input: &mut impl Read) -> io::Result<Value> {
    let mut stack: Vec<Value> = Vec::new();
    loop {
        if stack.len() > 8 {
            return Err(invalid("a pickle that is no index's"));
        }
        let [opcode] = take(input)?;
        match opcode {
            // PROTO; BINPUT, LONG_BINPUT: nothing is ever taken from the memo here.
            0x80 | b'q' => drop(take::<1>(input)?),
            b'r' => drop(take::<4>(input)?),
            b'N' => stack.push(Value::None),
            b'K' => stack.push(Value::Number(take::<1>(input)?[0].into())),
            b'M' => {
                let number = u16::from_le_bytes(take(input)?);
                stack.push(Value::Number(number.into()));
            }
            b'J' => {
                let number = i32::from_le_bytes(take(input)?);
                let number = u64::try_from(number).map_err(|_| invalid("a negative position"))?;
                stack.push(Value::Number(number));
            }
            // LONG1
            0x8a => {
                let len = usize::from(take::<1>(input)?[0]);
                let bytes = string(input, len)?;
                let (low, high) = bytes.split_at(len.min(8));
                let mut number = [0; 8];
                number[..low.len()].copy_from_slice(low);
                if bytes.last().is_some_and(|last| *last >= 0x80) || high.iter().any(|one| *one > 0)
                {
                    return Err(invalid("a position that no file has"));
                }
                stack.push(Value::Number(u64::from_le_bytes(number)));
            }
            // INT, LONG: decimal digits.
            b'I' | b'L' => stack.push(Value::Number(decimal(input)?)),
            // SHORT_BINBYTES, SHORT_BINSTRING
            b'C' | b'U' => {
                let len = usize::from(take::<1>(input)?[0]);
                stack.push(Value::Bytes(string(input, len)?));
            }
            // BINBYTES, BINSTRING
            b'B' | b'T' => {
                let len = u32::from_le_bytes(take(input)?);
                stack.push(Value::Bytes(string(input, len as usize)?));
            }
            b'(' => stack.push(Value::Mark),
            // TUPLE2, TUPLE
            0x86 | b't' => {
                let (Some(Value::Bytes(second)), Some(Value::Bytes(first))) =
                    (stack.pop(), stack.pop())
                else {
                    return Err(invalid("a pair of something else than strings"));
                };
                if opcode == b't' && !matches!(stack.pop(), Some(Value::Mark)) {
                    return Err(invalid("a tuple that is no pair"));
                }
                stack.push(Value::Pair(first, second));
            }
            b'.' => {
                return match (stack.pop(), stack.is_empty()) {
                    (Some(value), true) => Ok(value),
                    _ => Err(invalid("a pickle that is no index's")),
                };
            }
            _ => return Err(invalid("a pickle that is no index's")),
        }
    }
}

fn take<const N: usize>(input: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn string(input: &mut impl Read, len: usize) -> io::Result<Vec<u8>> {
    if len > LONGEST {
        return Err(invalid("a string that is too long"));
    }
    let mut bytes = vec![0; len];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn decimal(input: &mut impl Read) -> io::Result<u64> {
    let mut number = 0u64;
    for _ in 0..24 {
        match take(input)? {
            [digit @ b'0'..=b'9'] => {
                let digit = u64::from(digit - b'0');
                number = number
                    .checked_mul(10)
                    .and_then(|number| number.checked_add(digit))
                    .ok_or_else(|| invalid("a position that no file has"))?;
            }
            [b'L'] => (),
            [b'\n'] => return Ok(number),
            _ => break,
        }
    }
    Err(invalid("a number that is none"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Index {
        let mut index = Index::default();
        for oid in (0..3000).chain([70_000, 1 << 40, u64::MAX]) {
            index.insert(Oid(oid), 4 + oid % 100_000);
        }
        index
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("Data.fs.index");
        assert!(load(&path).unwrap().is_none());
        for position in [200_000, 0x7fff_ffff, 0x8000_0000, (1 << 48) - 1] {
            Image::of(&sample(), position)
                .save(&path, || Some(()))
                .unwrap();
            let saved = load(&path).unwrap().unwrap();
            assert_eq!(saved.position, position);
            let pairs = |index: &Index| index.iter_from(Oid(0)).collect::<Vec<_>>();
            assert_eq!(pairs(&saved.index), pairs(&sample()));
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_python_saves_is_loaded() {
        // fsIndex({p64(1): 4, p64(2): 104, p64(65537): 204}).save(300, path), Python 3.
        let python3 = b"\x80\x03M\x2c\x01.\
            \x80\x03C\x06\0\0\0\0\0\0C\x10\0\x01\0\x02\0\0\0\0\0\x04\0\0\0\0\0\x68\x86.\
            \x80\x03C\x06\0\0\0\0\0\x01C\x08\0\x01\0\0\0\0\0\xcc\x86.\x80\x03N.";
        // The same as Python 2 writes it.
        let python2 = b"\x80\x02M\x2c\x01.\
            \x80\x02U\x06\0\0\0\0\0\0q\x01U\x10\0\x01\0\x02\0\0\0\0\0\x04\0\0\0\0\0\x68q\x02\x86q\x03.\
            (U\x06\0\0\0\0\0\x01U\x08\0\x01\0\0\0\0\0\xcct.N.";
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("Data.fs.index");
        for bytes in [&python3[..], python2] {
            std::fs::write(&path, bytes).unwrap();
            let saved = load(&path).unwrap().unwrap();
            assert_eq!(saved.position, 300);
            let pairs: Vec<_> = saved.index.iter_from(Oid(0)).collect();
            assert_eq!(pairs, [(Oid(1), 4), (Oid(2), 104), (Oid(65_537), 204)]);
        }
    }

    proptest! {
        #[test]
        fn damage_is_an_error_and_no_panic(at in 0usize..26_000, byte: u8, cut in 0usize..26_000) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("Data.fs.index");
            let Image(mut bytes) = Image::of(&sample(), 200_000);
            let at = at % bytes.len();
            bytes[at] = byte;
            std::fs::write(&path, &bytes).unwrap();
            drop(load(&path));
            bytes.truncate(cut % bytes.len());
            std::fs::write(&path, &bytes).unwrap();
            prop_assert!(load(&path).is_err());
        }
    }
}
