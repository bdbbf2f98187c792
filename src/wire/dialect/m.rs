//! Dialect M: msgpack, bytes as `bin` and text as `str`.
//!
//! Lists and tuples are both arrays, and clients read both as tuples. Dictionaries have keys of text
//! or bytes only, because Python's decoder takes no others (`strict_map_key`).

use std::ops::Range;

use bytes::Bytes;
use rmp::Marker;

use super::fast::Scan;
use crate::pickle::{Value, extension};
use crate::wire::message::{Call, MessageId, Request, TxnId};
use crate::wire::output::Output;
use crate::wire::reply::RawReply;
use crate::wire::sink::{EncodeError, Sink};
use crate::zodb::{Oid, Tid};

/// How deep containers may be nested.
const DEPTH: usize = 100;
/// How many values a stranger's message may hold.
const STRANGERS_VALUES: usize = 200_000;
/// How many values a server's message may hold.
const SERVERS_VALUES: usize = 8_000_000;
/// What is allocated for a container before its items have come.
const FIRST_ITEMS: usize = 64;

/// Why bytes are no message in msgpack.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MsgpackError {
    #[error("the message ends too early")]
    Truncated,
    #[error("{0} bytes follow the end")]
    Trailing(usize),
    #[error("a text at byte {0} is not UTF-8")]
    NotText(usize),
    #[error("the type {marker:#04x} at byte {offset} is not supported")]
    Unsupported { marker: u8, offset: usize },
    #[error("it is too deeply nested")]
    TooDeep,
    #[error("it has too many values")]
    TooMany,
}

/// What a client says. Server's role.
pub(super) fn from_client(frame: &Bytes) -> Result<Value, MsgpackError> {
    read(frame, STRANGERS_VALUES)
}

/// What a server says. Client's role.
pub(super) fn from_server(frame: &Bytes) -> Result<Value, MsgpackError> {
    read(frame, SERVERS_VALUES)
}

/// The same two requests as in the other dialect.
pub(super) fn usual_request(frame: &Bytes) -> Option<Request> {
    let mut scan = Scan::new(frame);
    scan.expect(b"\x94")?;
    if scan.expect(b"\x00\xc3\xa6storea\x94").is_some() {
        return usual_store(frame, scan);
    }
    let id = usual_id(&mut scan)?;
    scan.expect(b"\xc2\xaaloadBefore\x92")?;
    let oid = Oid(packed_eight(&mut scan)?);
    let before = Tid(packed_eight(&mut scan)?);
    scan.end()?;
    Some(Request {
        id,
        one_way: false,
        call: Call::LoadBefore { oid, before },
    })
}

fn usual_store(frame: &Bytes, mut scan: Scan<'_>) -> Option<Request> {
    let oid = Oid(packed_eight(&mut scan)?);
    let serial = Tid(packed_eight(&mut scan)?);
    let data = usual_data(&mut scan)?;
    let txn = scan.packed_int()?;
    scan.end()?;
    Some(Request {
        id: MessageId::Int(0),
        one_way: true,
        call: Call::Storea {
            oid,
            serial,
            data: frame.slice(data),
            txn: TxnId(Value::Int(txn)),
        },
    })
}

/// A record that was loaded, as Python's server and ours write it; none for any other reply.
pub(super) fn usual_reply(frame: &Bytes) -> Option<RawReply> {
    let mut scan = Scan::new(frame);
    scan.expect(b"\x94")?;
    let id = usual_id(&mut scan)?;
    scan.expect(b"\x00\xa6.reply\x93")?;
    let data = usual_data(&mut scan)?;
    scan.expect(b"\xc4\x08")?;
    let tid = scan.range(8)?;
    let end = if scan.expect(b"\xc0").is_some() {
        Value::None
    } else {
        scan.expect(b"\xc4\x08")?;
        Value::Bytes(frame.slice(scan.range(8)?))
    };
    scan.end()?;
    Some(RawReply {
        id,
        outcome: Ok(Value::Tuple(vec![
            Value::Bytes(frame.slice(data)),
            Value::Bytes(frame.slice(tid)),
            end,
        ])),
    })
}

fn usual_id(scan: &mut Scan<'_>) -> Option<MessageId> {
    if let Some(int) = scan.packed_int() {
        return Some(MessageId::Int(int));
    }
    scan.expect(b"\x92")?;
    let oid = Oid(packed_eight(scan)?);
    Some(MessageId::Load(oid, Tid(packed_eight(scan)?)))
}

fn usual_data(scan: &mut Scan<'_>) -> Option<Range<usize>> {
    let length = match scan.byte()? {
        0xc4 => scan.byte()?.into(),
        0xc5 => u16::from_be_bytes(scan.array()?).into(),
        0xc6 => u32::from_be_bytes(scan.array()?) as usize,
        _ => return None,
    };
    scan.range(length)
}

fn packed_eight(scan: &mut Scan<'_>) -> Option<u64> {
    scan.expect(b"\xc4\x08")?;
    scan.array().map(u64::from_be_bytes)
}

fn read(frame: &Bytes, values: usize) -> Result<Value, MsgpackError> {
    let mut reader = Reader {
        frame,
        at: 0,
        values,
    };
    let value = reader.value(DEPTH)?;
    match frame.len() - reader.at {
        0 => Ok(value),
        left => Err(MsgpackError::Trailing(left)),
    }
}

struct Reader<'a> {
    frame: &'a Bytes,
    at: usize,
    /// Values that may still come.
    values: usize,
}

impl Reader<'_> {
    fn value(&mut self, depth: usize) -> Result<Value, MsgpackError> {
        self.values = self.values.checked_sub(1).ok_or(MsgpackError::TooMany)?;
        let offset = self.at;
        let [marker] = self.array()?;
        Ok(match Marker::from_u8(marker) {
            Marker::Null => Value::None,
            Marker::True => Value::Bool(true),
            Marker::False => Value::Bool(false),
            Marker::FixPos(int) => Value::Int(int.into()),
            Marker::FixNeg(int) => Value::Int(int.into()),
            Marker::U8 => Value::Int(u8::from_be_bytes(self.array()?).into()),
            Marker::U16 => Value::Int(u16::from_be_bytes(self.array()?).into()),
            Marker::U32 => Value::Int(u32::from_be_bytes(self.array()?).into()),
            Marker::U64 => {
                let int = u64::from_be_bytes(self.array()?);
                if let Ok(int) = i64::try_from(int) {
                    Value::Int(int)
                } else {
                    let mut bytes = int.to_le_bytes().to_vec();
                    bytes.push(0);
                    Value::BigInt(bytes.into())
                }
            }
            Marker::I8 => Value::Int(i8::from_be_bytes(self.array()?).into()),
            Marker::I16 => Value::Int(i16::from_be_bytes(self.array()?).into()),
            Marker::I32 => Value::Int(i32::from_be_bytes(self.array()?).into()),
            Marker::I64 => Value::Int(i64::from_be_bytes(self.array()?)),
            Marker::F32 => Value::Float(f32::from_be_bytes(self.array()?).into()),
            Marker::F64 => Value::Float(f64::from_be_bytes(self.array()?)),
            Marker::Bin8 | Marker::Bin16 | Marker::Bin32 => {
                let length = self.length(marker - Marker::Bin8.to_u8())?;
                Value::Bytes(self.bytes(length)?)
            }
            Marker::FixStr(length) => self.text(length.into())?,
            Marker::Str8 | Marker::Str16 | Marker::Str32 => {
                let length = self.length(marker - Marker::Str8.to_u8())?;
                self.text(length)?
            }
            Marker::FixArray(length) => self.sequence(length.into(), depth)?,
            Marker::Array16 | Marker::Array32 => {
                let length = self.length(1 + marker - Marker::Array16.to_u8())?;
                self.sequence(length, depth)?
            }
            Marker::FixMap(length) => self.dict(length.into(), depth)?,
            Marker::Map16 | Marker::Map32 => {
                let length = self.length(1 + marker - Marker::Map16.to_u8())?;
                self.dict(length, depth)?
            }
            _ => return Err(MsgpackError::Unsupported { marker, offset }),
        })
    }

    fn sequence(&mut self, length: usize, depth: usize) -> Result<Value, MsgpackError> {
        let depth = depth.checked_sub(1).ok_or(MsgpackError::TooDeep)?;
        let mut items = Vec::with_capacity(length.min(FIRST_ITEMS));
        for _ in 0..length {
            items.push(self.value(depth)?);
        }
        Ok(Value::Tuple(items))
    }

    fn dict(&mut self, length: usize, depth: usize) -> Result<Value, MsgpackError> {
        let depth = depth.checked_sub(1).ok_or(MsgpackError::TooDeep)?;
        let mut entries = Vec::with_capacity(length.min(FIRST_ITEMS));
        for _ in 0..length {
            let key = self.value(depth)?;
            entries.push((key, self.value(depth)?));
        }
        Ok(Value::Dict(entries))
    }

    fn text(&mut self, length: usize) -> Result<Value, MsgpackError> {
        let offset = self.at;
        let bytes = self.bytes(length)?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(Value::Text(text.to_owned())),
            Err(_) => Err(MsgpackError::NotText(offset)),
        }
    }

    fn bytes(&mut self, length: usize) -> Result<Bytes, MsgpackError> {
        let end = self
            .at
            .checked_add(length)
            .filter(|end| *end <= self.frame.len())
            .ok_or(MsgpackError::Truncated)?;
        let bytes = self.frame.slice(self.at..end);
        self.at = end;
        Ok(bytes)
    }

    /// A length of one, two or four bytes: 0, 1 or 2.
    fn length(&mut self, size: u8) -> Result<usize, MsgpackError> {
        Ok(match size {
            0 => u8::from_be_bytes(self.array()?).into(),
            1 => u16::from_be_bytes(self.array()?).into(),
            _ => u32::from_be_bytes(self.array()?) as usize,
        })
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], MsgpackError> {
        let array = *self.frame[self.at..]
            .first_chunk::<N>()
            .ok_or(MsgpackError::Truncated)?;
        self.at += N;
        Ok(array)
    }
}

/// Writes msgpack. Each head is put at once: `rmp`'s own writers, which go byte by byte through
/// `io::Write`, take three times as long for a reply.
pub(super) struct Msgpack<'a>(&'a mut Output);

impl<'a> Msgpack<'a> {
    pub(super) fn start(output: &'a mut Output) -> Self {
        Msgpack(output)
    }

    /// A marker and a number of `N` bytes.
    fn head<const N: usize>(&mut self, marker: Marker, number: [u8; N]) {
        let mut head = [0; 9];
        head[0] = marker.to_u8();
        head[1..=N].copy_from_slice(&number);
        self.0.put(&head[..=N]);
    }

    fn marker(&mut self, marker: Marker) {
        self.0.put(&[marker.to_u8()]);
    }

    fn uint(&mut self, int: u64) {
        if let Ok(int) = u8::try_from(int) {
            match int {
                0..=0x7f => self.marker(Marker::FixPos(int)),
                _ => self.head(Marker::U8, [int]),
            }
        } else if let Ok(int) = u16::try_from(int) {
            self.head(Marker::U16, int.to_be_bytes());
        } else if let Ok(int) = u32::try_from(int) {
            self.head(Marker::U32, int.to_be_bytes());
        } else {
            self.head(Marker::U64, int.to_be_bytes());
        }
    }

    fn bytes_head(&mut self, length: usize) {
        if let Ok(length) = u8::try_from(length) {
            self.head(Marker::Bin8, [length]);
        } else if let Ok(length) = u16::try_from(length) {
            self.head(Marker::Bin16, length.to_be_bytes());
        } else {
            self.head(Marker::Bin32, size(length).to_be_bytes());
        }
    }

    fn items(&mut self, items: &[Value]) {
        self.tuple(items.len());
        for item in items {
            self.value(item);
        }
    }

    /// Python's decoder takes text and bytes only, and fails otherwise.
    fn key(&mut self, key: &Value) {
        match key {
            Value::Text(_) | Value::Bytes(_) => self.value(key),
            Value::Int(int) => self.text(&int.to_string()),
            other => self.text(&format!("{other:?}")),
        }
    }
}

/// Lengths beyond four bytes end in a frame that is too long, which is reported there.
fn size(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

impl Sink for Msgpack<'_> {
    fn none(&mut self) {
        self.marker(Marker::Null);
    }

    fn bool(&mut self, bool: bool) {
        self.marker(if bool { Marker::True } else { Marker::False });
    }

    fn int(&mut self, int: i64) {
        if let Ok(int) = u64::try_from(int) {
            return self.uint(int);
        }
        if let Ok(int) = i8::try_from(int) {
            match int {
                -32..=-1 => self.marker(Marker::FixNeg(int)),
                _ => self.head(Marker::I8, int.to_be_bytes()),
            }
        } else if let Ok(int) = i16::try_from(int) {
            self.head(Marker::I16, int.to_be_bytes());
        } else if let Ok(int) = i32::try_from(int) {
            self.head(Marker::I32, int.to_be_bytes());
        } else {
            self.head(Marker::I64, int.to_be_bytes());
        }
    }

    /// Msgpack has no integers beyond 64 bits; such a one, which only an application's extension can
    /// have, is said in hexadecimal digits, as text.
    fn big_int(&mut self, bytes: &[u8]) {
        if let [low @ .., 0] = bytes
            && let Ok(low) = <[u8; 8]>::try_from(low)
        {
            return self.uint(u64::from_le_bytes(low));
        }
        let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
        let mut magnitude = bytes.to_vec();
        if negative {
            let mut carry = true;
            for byte in &mut magnitude {
                (*byte, carry) = (!*byte).overflowing_add(u8::from(carry));
            }
        }
        let mut text = String::from(if negative { "-0x" } else { "0x" });
        for byte in magnitude.iter().rev() {
            for digit in [byte >> 4, byte & 15] {
                text.extend(char::from_digit(digit.into(), 16));
            }
        }
        self.text(&text);
    }

    fn float(&mut self, float: f64) {
        self.head(Marker::F64, float.to_be_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.bytes_head(bytes.len());
        self.0.put(bytes);
    }

    fn shared(&mut self, bytes: &Bytes) {
        self.bytes_head(bytes.len());
        self.0.put_shared(bytes);
    }

    fn eight(&mut self, eight: [u8; 8]) {
        let mut all = [0xc4, 8, 0, 0, 0, 0, 0, 0, 0, 0];
        all[2..].copy_from_slice(&eight);
        self.0.put(&all);
    }

    fn text(&mut self, text: &str) {
        if let Ok(length) = u8::try_from(text.len()) {
            match length {
                0..32 => self.marker(Marker::FixStr(length)),
                _ => self.head(Marker::Str8, [length]),
            }
        } else if let Ok(length) = u16::try_from(text.len()) {
            self.head(Marker::Str16, length.to_be_bytes());
        } else {
            self.head(Marker::Str32, size(text.len()).to_be_bytes());
        }
        self.0.put(text.as_bytes());
    }

    fn tuple(&mut self, items: usize) {
        if let Ok(length @ 0..16) = u8::try_from(items) {
            self.marker(Marker::FixArray(length));
        } else if let Ok(length) = u16::try_from(items) {
            self.head(Marker::Array16, length.to_be_bytes());
        } else {
            self.head(Marker::Array32, size(items).to_be_bytes());
        }
    }

    fn tuple_end(&mut self, _: usize) {}

    fn list(&mut self, items: usize) {
        self.tuple(items);
    }

    fn list_end(&mut self, _: usize) {}

    fn dict(&mut self, entries: usize) {
        if let Ok(length @ 0..16) = u8::try_from(entries) {
            self.marker(Marker::FixMap(length));
        } else if let Ok(length) = u16::try_from(entries) {
            self.head(Marker::Map16, length.to_be_bytes());
        } else {
            self.head(Marker::Map32, size(entries).to_be_bytes());
        }
    }

    fn dict_end(&mut self, _: usize) {}

    /// Sets become arrays. What msgpack cannot say at all, objects and classes, becomes its name.
    fn value(&mut self, value: &Value) {
        match value {
            Value::None => self.none(),
            Value::Bool(bool) => self.bool(*bool),
            Value::Int(int) => self.int(*int),
            Value::BigInt(bytes) => self.big_int(bytes),
            Value::Float(float) => self.float(*float),
            Value::Bytes(bytes) => self.bytes(bytes),
            Value::Text(text) => self.text(text),
            Value::Tuple(items) | Value::List(items) | Value::Set(items) => self.items(items),
            Value::Dict(entries) => {
                self.dict(entries.len());
                for (key, entry) in entries {
                    self.key(key);
                    self.value(entry);
                }
            }
            Value::Object {
                module,
                name,
                arguments,
                ..
            } => match (module.as_str(), name.as_str(), &arguments[..]) {
                ("builtins", "frozenset", [Value::List(items)]) => self.items(items),
                ("copyreg", "__newobj__", [Value::Global { module, name }, ..]) => {
                    self.text(&format!("{module}.{name}"));
                }
                _ => self.text(&format!("{module}.{name}")),
            },
            Value::Global { module, name } => self.text(&format!("{module}.{name}")),
        }
    }

    fn extended(&mut self, pickled: &Bytes, names: &[&str]) -> Result<(), EncodeError> {
        let mut entries = extension::entries(pickled)?;
        entries.retain(|(key, _)| !key.as_text().is_some_and(|key| names.contains(&key)));
        self.dict(entries.len() + names.len());
        for (key, entry) in &entries {
            self.key(key);
            self.value(entry);
        }
        Ok(())
    }

    fn extended_end(&mut self, _: &[&str]) {}

    /// Python's server says a pair of class and dictionary here, and the client that shows the error
    /// fails over the pair. The reason as text is what the client wants to show.
    fn undo_error(&mut self, reason: &str, _: Option<Oid>) {
        self.text(reason);
    }
}
