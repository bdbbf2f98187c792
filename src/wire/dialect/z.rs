//! Dialect Z: pickles, written as by Python's fast pickler of protocol 3.

use std::ops::Range;

use bytes::Bytes;

use super::fast::Scan;
use crate::pickle::{Limits, PickleError, Value, extension, read, write};
use crate::wire::message::{Call, MessageId, Request, TxnId};
use crate::wire::output::Output;
use crate::wire::reply::RawReply;
use crate::wire::sink::{EncodeError, Sink};
use crate::zodb::{Oid, Tid};

/// What a client says. Server's role.
pub(super) fn from_client(frame: &Bytes) -> Result<Value, PickleError> {
    read(frame, Limits::STRANGER)
}

/// What a server says. Client's role.
pub(super) fn from_server(frame: &Bytes) -> Result<Value, PickleError> {
    read(frame, Limits::TRUSTED)
}

/// The two requests that make nine tenths of all, as Python's client writes them; none for any
/// other form, which the machine reads. Measured: 5 to 10 times as fast.
pub(super) fn usual_request(frame: &Bytes) -> Option<Request> {
    let mut scan = Scan::new(frame);
    scan.expect(b"\x80\x03(")?;
    if scan.expect(b"K\x00\x88X\x06\0\0\0storea(").is_some() {
        return usual_store(frame, scan);
    }
    let id = usual_id(&mut scan)?;
    scan.expect(b"\x89X\x0a\0\0\0loadBefore")?;
    let (oid, before) = (pickled_eight(&mut scan)?, pickled_eight(&mut scan)?);
    scan.expect(b"\x86t.")?;
    scan.end()?;
    Some(Request {
        id,
        one_way: false,
        call: Call::LoadBefore {
            oid,
            before: Tid(before.0),
        },
    })
}

fn usual_store(frame: &Bytes, mut scan: Scan<'_>) -> Option<Request> {
    let (oid, serial) = (pickled_eight(&mut scan)?, pickled_eight(&mut scan)?);
    let data = usual_data(&mut scan)?;
    let txn = scan.pickled_int()?;
    scan.expect(b"tt.")?;
    scan.end()?;
    Some(Request {
        id: MessageId::Int(0),
        one_way: true,
        call: Call::Storea {
            oid,
            serial: Tid(serial.0),
            data: frame.slice(data),
            txn: TxnId(Value::Int(txn)),
        },
    })
}

/// A record that was loaded, as Python's server and ours write it; none for any other reply.
pub(super) fn usual_reply(frame: &Bytes) -> Option<RawReply> {
    let mut scan = Scan::new(frame);
    scan.expect(b"\x80\x03(")?;
    let id = usual_id(&mut scan)?;
    scan.expect(b"K\x00X\x06\0\0\0.reply")?;
    let data = usual_data(&mut scan)?;
    scan.expect(b"C\x08")?;
    let tid = scan.range(8)?;
    let end = if scan.expect(b"N").is_some() {
        Value::None
    } else {
        scan.expect(b"C\x08")?;
        Value::Bytes(frame.slice(scan.range(8)?))
    };
    scan.expect(b"\x87t.")?;
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
    if let Some(int) = scan.pickled_int() {
        return Some(MessageId::Int(int));
    }
    let (oid, tid) = (pickled_eight(scan)?, pickled_eight(scan)?);
    scan.expect(b"\x86")?;
    Some(MessageId::Load(oid, Tid(tid.0)))
}

fn usual_data(scan: &mut Scan<'_>) -> Option<Range<usize>> {
    let length = match scan.byte()? {
        b'C' => scan.byte()?.into(),
        b'B' => u32::from_le_bytes(scan.array()?) as usize,
        _ => return None,
    };
    scan.range(length)
}

fn pickled_eight(scan: &mut Scan<'_>) -> Option<Oid> {
    scan.expect(b"C\x08")?;
    Some(Oid::from_bytes(scan.array()?))
}

/// Writes a pickle.
pub(super) struct Pickle<'a>(&'a mut Output);

impl<'a> Pickle<'a> {
    pub(super) fn start(output: &'a mut Output) -> Self {
        write::start(output.buffer());
        Pickle(output)
    }

    pub(super) fn stop(self) {
        write::stop(self.0.buffer());
    }
}

impl Sink for Pickle<'_> {
    fn none(&mut self) {
        write::none(self.0.buffer());
    }

    fn bool(&mut self, bool: bool) {
        write::bool(self.0.buffer(), bool);
    }

    fn int(&mut self, int: i64) {
        write::int(self.0.buffer(), int);
    }

    fn big_int(&mut self, bytes: &[u8]) {
        write::big_int(self.0.buffer(), bytes);
    }

    fn float(&mut self, float: f64) {
        write::float(self.0.buffer(), float);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        write::bytes(self.0.buffer(), bytes);
    }

    fn shared(&mut self, bytes: &Bytes) {
        write::bytes_head(self.0.buffer(), bytes.len());
        self.0.put_shared(bytes);
    }

    fn eight(&mut self, eight: [u8; 8]) {
        write::eight(self.0.buffer(), eight);
    }

    fn text(&mut self, text: &str) {
        write::text(self.0.buffer(), text);
    }

    fn tuple(&mut self, items: usize) {
        write::tuple_start(self.0.buffer(), items);
    }

    fn tuple_end(&mut self, items: usize) {
        write::tuple_end(self.0.buffer(), items);
    }

    fn list(&mut self, items: usize) {
        write::list_start(self.0.buffer(), items);
    }

    fn list_end(&mut self, items: usize) {
        write::list_end(self.0.buffer(), items);
    }

    fn dict(&mut self, entries: usize) {
        write::dict_start(self.0.buffer(), entries);
    }

    fn dict_end(&mut self, entries: usize) {
        write::dict_end(self.0.buffer(), entries);
    }

    fn value(&mut self, value: &Value) {
        write::value(self.0.buffer(), value);
    }

    /// The stored pickle is put in as it is: its memo disturbs nobody, as ours is not used. So even
    /// what cannot be decoded here passes through.
    fn extended(&mut self, pickled: &Bytes, names: &[&str]) -> Result<(), EncodeError> {
        match extension::body(pickled) {
            Ok(body) => self.0.put(body),
            // Of a newer protocol, which clients may not know: written again.
            Err(_) => self.value(&Value::Dict(extension::entries(pickled)?)),
        }
        if !names.is_empty() {
            self.0.put(b"(");
        }
        Ok(())
    }

    fn extended_end(&mut self, names: &[&str]) {
        if !names.is_empty() {
            self.0.put(b"u");
        }
    }

    /// An instance, as `POSError.__reduce__` describes it.
    fn undo_error(&mut self, reason: &str, oid: Option<Oid>) {
        let out = self.0.buffer();
        write::global(out, "ZODB.POSException", "_recon");
        write::global(out, "ZODB.POSException", "UndoError");
        write::dict_start(out, 3);
        write::text(out, "_reason");
        write::text(out, reason);
        write::text(out, "_oid");
        self.some_oid(oid);
        self.text("args");
        self.tuple(2);
        self.text(reason);
        self.some_oid(oid);
        self.tuple_end(2);
        self.dict_end(3);
        self.tuple_end(2);
        write::reduce(self.0.buffer());
    }
}
