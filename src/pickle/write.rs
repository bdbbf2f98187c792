//! Writes what Python's "fast" pickler of protocol 3 would: no memo, nothing shared.
//!
//! Free functions that append to a buffer, so that a reply is written without making [`Value`]s.
//! Pickles are postfix: a container's items stand before the opcode that makes it or puts them in, and
//! where there are many, after a mark. So a tuple is [`tuple_start`], the items, and
//! [`tuple_end`], and so on; both ends are told the number of items.

use bytes::{BufMut, Bytes, BytesMut};

use super::literal;
use super::value::Value;

/// The beginning of a pickle.
pub fn start(out: &mut BytesMut) {
    out.extend_from_slice(b"\x80\x03");
}

/// The end of a pickle.
pub fn stop(out: &mut BytesMut) {
    out.put_u8(b'.');
}

pub fn none(out: &mut BytesMut) {
    out.put_u8(b'N');
}

pub fn bool(out: &mut BytesMut, bool: bool) {
    out.put_u8(if bool { 0x88 } else { 0x89 });
}

pub fn int(out: &mut BytesMut, int: i64) {
    if let Ok(byte) = u8::try_from(int) {
        out.extend_from_slice(&[b'K', byte]);
    } else if let Ok(short) = u16::try_from(int) {
        let [low, high] = short.to_le_bytes();
        out.extend_from_slice(&[b'M', low, high]);
    } else if let Ok(int) = i32::try_from(int) {
        out.put_u8(b'J');
        out.put_i32_le(int);
    } else {
        big_int(out, &int.to_le_bytes());
    }
}

/// An integer as two's complement, little-endian.
pub fn big_int(out: &mut BytesMut, bytes: &[u8]) {
    let bytes = &bytes[..literal::significant(bytes)];
    if let Ok(length) = u8::try_from(bytes.len()) {
        out.extend_from_slice(&[0x8a, length]);
    } else {
        out.put_u8(0x8b);
        out.put_u32_le(length(bytes));
    }
    out.extend_from_slice(bytes);
}

pub fn float(out: &mut BytesMut, float: f64) {
    out.put_u8(b'G');
    out.put_f64(float);
}

/// What stands before `length` bytes of a byte string.
pub fn bytes_head(out: &mut BytesMut, length: usize) {
    if let Ok(length) = u8::try_from(length) {
        out.extend_from_slice(&[b'C', length]);
    } else if let Ok(length) = u32::try_from(length) {
        out.put_u8(b'B');
        out.put_u32_le(length);
    } else {
        // Protocol 4, but no frame that could carry it exists anyway.
        out.put_u8(0x8e);
        out.put_u64_le(length as u64);
    }
}

pub fn bytes(out: &mut BytesMut, bytes: &[u8]) {
    bytes_head(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Eight bytes: an oid or a TID.
pub fn eight(out: &mut BytesMut, eight: [u8; 8]) {
    let mut all = [b'C', 8, 0, 0, 0, 0, 0, 0, 0, 0];
    all[2..].copy_from_slice(&eight);
    out.extend_from_slice(&all);
}

pub fn text(out: &mut BytesMut, text: &str) {
    out.put_u8(b'X');
    out.put_u32_le(length(text.as_bytes()));
    out.extend_from_slice(text.as_bytes());
}

pub fn global(out: &mut BytesMut, module: &str, name: &str) {
    out.put_u8(b'c');
    out.extend_from_slice(module.as_bytes());
    out.put_u8(b'\n');
    out.extend_from_slice(name.as_bytes());
    out.put_u8(b'\n');
}

pub fn tuple_start(out: &mut BytesMut, items: usize) {
    if items > 3 {
        out.put_u8(b'(');
    }
}

pub fn tuple_end(out: &mut BytesMut, items: usize) {
    out.put_u8(match items {
        0 => b')',
        1 => 0x85,
        2 => 0x86,
        3 => 0x87,
        _ => b't',
    });
}

pub fn list_start(out: &mut BytesMut, items: usize) {
    out.put_u8(b']');
    if items > 1 {
        out.put_u8(b'(');
    }
}

pub fn list_end(out: &mut BytesMut, items: usize) {
    match items {
        0 => {}
        1 => out.put_u8(b'a'),
        _ => out.put_u8(b'e'),
    }
}

pub fn dict_start(out: &mut BytesMut, entries: usize) {
    out.put_u8(b'}');
    if entries > 1 {
        out.put_u8(b'(');
    }
}

pub fn dict_end(out: &mut BytesMut, entries: usize) {
    match entries {
        0 => {}
        1 => out.put_u8(b's'),
        _ => out.put_u8(b'u'),
    }
}

/// Makes an object of the class and the tuple of arguments that were written.
pub fn reduce(out: &mut BytesMut) {
    out.put_u8(b'R');
}

/// Gives the object that was written the state that was written after it.
pub fn build(out: &mut BytesMut) {
    out.put_u8(b'b');
}

/// Any value.
pub fn value(out: &mut BytesMut, value: &Value) {
    match value {
        Value::None => none(out),
        Value::Bool(it) => bool(out, *it),
        Value::Int(it) => int(out, *it),
        Value::BigInt(it) => big_int(out, it),
        Value::Float(it) => float(out, *it),
        Value::Bytes(it) => bytes(out, it),
        Value::Text(it) => text(out, it),
        Value::Tuple(items) => {
            tuple_start(out, items.len());
            values(out, items);
            tuple_end(out, items.len());
        }
        Value::List(items) => list(out, items),
        Value::Dict(entries) => {
            dict_start(out, entries.len());
            for (key, entry) in entries {
                self::value(out, key);
                self::value(out, entry);
            }
            dict_end(out, entries.len());
        }
        Value::Set(items) => {
            global(out, "builtins", "set");
            list(out, items);
            tuple_end(out, 1);
            reduce(out);
        }
        Value::Object {
            module,
            name,
            arguments,
            state,
        } => {
            let making = Making::of(module, name, arguments);
            global(out, making.module, making.name);
            tuple_start(out, making.arguments.len());
            values(out, making.arguments);
            tuple_end(out, making.arguments.len());
            out.put_u8(making.opcode);
            if let Some(state) = state {
                self::value(out, state);
                build(out);
            }
        }
        Value::Global { module, name } => global(out, module, name),
    }
}

/// How an object is made.
pub(super) struct Making<'a> {
    pub(super) module: &'a str,
    pub(super) name: &'a str,
    pub(super) arguments: &'a [Value],
    pub(super) opcode: u8,
}

impl<'a> Making<'a> {
    pub(super) fn of(module: &'a str, name: &'a str, arguments: &'a [Value]) -> Self {
        const REDUCE: u8 = b'R';
        const NEWOBJ: u8 = 0x81;
        // The reader gives NEWOBJ as a call of `__newobj__`, so that nothing is lost.
        let (module, name, arguments, opcode) = match (module, name, arguments) {
            ("copyreg", "__newobj__", [Value::Global { module, name }, arguments @ ..]) => {
                (module.as_str(), name.as_str(), arguments, NEWOBJ)
            }
            ("ZopeUndo.Prefix", "Prefix", _) => (module, name, arguments, NEWOBJ),
            _ => (module, name, arguments, REDUCE),
        };
        Making {
            module,
            name,
            arguments,
            opcode,
        }
    }
}

/// A pickle of one value.
#[must_use]
pub fn dumps(it: &Value) -> Bytes {
    let mut out = BytesMut::with_capacity(64);
    start(&mut out);
    value(&mut out, it);
    stop(&mut out);
    out.freeze()
}

fn list(out: &mut BytesMut, items: &[Value]) {
    list_start(out, items.len());
    values(out, items);
    list_end(out, items.len());
}

fn values(out: &mut BytesMut, items: &[Value]) {
    for item in items {
        value(out, item);
    }
}

/// The length of something that came in a frame, or goes out in one, and so is below 4 GiB; a longer
/// one makes the frame fail ([`crate::wire::FrameOverflow`] in its room), whatever stands here.
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}
