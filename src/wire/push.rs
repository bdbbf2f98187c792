//! What a server says unasked: one-way messages with id 0. Source: ZEO `asyncio/client.py`,
//! `Protocol.client_methods`.

use super::dialect::DecodeError;
use super::items::{self, Items};
use super::message::Push;
use super::sink::Sink;
use crate::pickle::Value;

/// What a server says unasked, by name.
pub const PUSHES: [&str; 5] = [
    "invalidateTransaction",
    "info",
    "receiveBlobStart",
    "receiveBlobChunk",
    "receiveBlobStop",
];

pub(super) fn encode<S: Sink>(push: &Push, sink: &mut S) {
    sink.tuple(4);
    sink.int(0);
    sink.bool(true);
    match push {
        Push::InvalidateTransaction { tid, oids } => {
            sink.text("invalidateTransaction");
            sink.tuple(2);
            sink.tid(*tid);
            sink.oids(oids);
            sink.tuple_end(2);
        }
        Push::Info { objects, bytes } => {
            sink.text("info");
            sink.tuple(1);
            sink.dict(2);
            sink.text("length");
            sink.count(*objects);
            sink.text("size");
            sink.count(*bytes);
            sink.dict_end(2);
            sink.tuple_end(1);
        }
        Push::ReceiveBlobStart { oid, serial } => {
            sink.text("receiveBlobStart");
            sink.tuple(2);
            sink.oid(*oid);
            sink.tid(*serial);
            sink.tuple_end(2);
        }
        Push::ReceiveBlobChunk { oid, serial, chunk } => {
            sink.text("receiveBlobChunk");
            sink.tuple(3);
            sink.oid(*oid);
            sink.tid(*serial);
            sink.shared(chunk);
            sink.tuple_end(3);
        }
        Push::ReceiveBlobStop { oid, serial } => {
            sink.text("receiveBlobStop");
            sink.tuple(2);
            sink.oid(*oid);
            sink.tid(*serial);
            sink.tuple_end(2);
        }
    }
    sink.tuple_end(4);
}

pub(super) fn decode(method: &str, arguments: Value) -> Result<Push, DecodeError> {
    let parsed = Items::of(arguments, "the argument list").and_then(|mut take| {
        let push = parse(method, &mut take)?;
        take.end()?;
        Ok(push)
    });
    parsed.map_err(|why| DecodeError::Shape(format!("in {method:?} {why}")))
}

fn parse(method: &str, take: &mut Items) -> items::Result<Push> {
    Ok(match method {
        "invalidateTransaction" => Push::InvalidateTransaction {
            tid: take.tid("the tid")?,
            oids: items::oids(take.any("the oids")?, "an oid")?.into(),
        },
        "info" => {
            let info = take.any("the dictionary")?;
            let count = |name| {
                let count = info.get(name).and_then(Value::as_int);
                count
                    .and_then(|count| u64::try_from(count).ok())
                    .ok_or_else(|| format!("{name} is not a count"))
            };
            Push::Info {
                objects: count("length")?,
                bytes: count("size")?,
            }
        }
        "receiveBlobStart" => Push::ReceiveBlobStart {
            oid: take.oid("the oid")?,
            serial: take.tid("the serial")?,
        },
        "receiveBlobChunk" => Push::ReceiveBlobChunk {
            oid: take.oid("the oid")?,
            serial: take.tid("the serial")?,
            chunk: take.bytes("the chunk")?,
        },
        "receiveBlobStop" => Push::ReceiveBlobStop {
            oid: take.oid("the oid")?,
            serial: take.tid("the serial")?,
        },
        _ => return Err("there is no such method".to_owned()),
    })
}
