//! Messages of real Python, and ours beside them: what both say must be the same bytes.

use super::*;
use crate::pickle::Value;
use crate::pickle::recorded::{REPLIES, REQUESTS, recorded};
use crate::wire::frame::LENGTH;
use crate::wire::{Call, Expected, LoadedRecord, TxnId};
use crate::zodb::{Answer, Conflict, Oid, Tid, TxnMeta, TxnStatus};

const OID: Oid = Oid(1);
const TID: Tid = Tid(2);

fn txn() -> TxnId {
    TxnId(Value::Int(140_000_000_000_000))
}

/// Dialect and name of a recorded message.
fn named(name: &str) -> (Dialect, &str) {
    match name.split_at(2) {
        ("Z-", name) => (Dialect::Pickle, name),
        ("M-", name) => (Dialect::Msgpack, name),
        _ => panic!("{name} has no dialect"),
    }
}

/// What Python's client is known to ask with each of the recorded requests.
fn expected_call(name: &str) -> Call {
    let data = Bytes::from_static(b"data");
    match name {
        "register" | "register-int" => Call::Register {
            storage: "1".to_owned(),
            read_only: name == "register-int",
        },
        "get_info" => Call::GetInfo,
        "lastTransaction" => Call::LastTransaction,
        "getInvalidations" => Call::GetInvalidations { since: TID },
        "loadBefore" | "loadBefore-int" => Call::LoadBefore {
            oid: OID,
            before: TID,
        },
        "loadSerial" => Call::LoadSerial {
            oid: OID,
            serial: TID,
        },
        "getTid" => Call::GetTid { oid: OID },
        "new_oids" => Call::NewOids { count: 100 },
        "new_oids-count" => Call::NewOids { count: 5 },
        "history" => Call::History { oid: OID, count: 3 },
        "record_iternext" => Call::RecordIternext { next: None },
        "iterator_start" => Call::IteratorStart {
            first: None,
            last: Some(TID),
        },
        "iterator_next" => Call::IteratorNext { iterator: 0 },
        "iterator_record_start" => Call::IteratorRecordStart {
            iterator: 0,
            tid: TID,
        },
        "iterator_record_next" => Call::IteratorRecordNext { iterator: 1 },
        "iterator_gc" => Call::IteratorGc {
            iterators: vec![1, 2],
        },
        "tpc_begin" => Call::TpcBegin {
            txn: txn(),
            meta: TxnMeta {
                user: Bytes::from_static(b"user"),
                description: "description é".into(),
                extension: Bytes::from_static(
                    b"\x80\x03}q\x00X\x01\0\0\0aq\x01X\x01\0\0\0bq\x02s.",
                ),
                status: TxnStatus::Normal,
            },
            tid: None,
        },
        "tpc_begin-restore" => Call::TpcBegin {
            txn: txn(),
            meta: TxnMeta {
                status: TxnStatus::Packed,
                ..TxnMeta::default()
            },
            tid: Some(TID),
        },
        "storea" | "storea-large" => Call::Storea {
            oid: OID,
            serial: TID,
            data: match name {
                "storea" => data,
                _ => b"data".repeat(100).into(),
            },
            txn: txn(),
        },
        "restorea" => Call::Restorea {
            oid: OID,
            serial: TID,
            data: None,
            previous: Some(TID),
            txn: txn(),
        },
        "deleteObject" => Call::DeleteObject {
            oid: OID,
            serial: TID,
            txn: txn(),
        },
        "checkCurrentSerialInTransaction" => Call::CheckCurrent {
            oid: OID,
            serial: TID,
            txn: txn(),
        },
        "undoa" => Call::Undoa {
            tid: TID,
            txn: txn(),
        },
        "vote" => Call::Vote { txn: txn() },
        "tpc_finish" => Call::TpcFinish { txn: txn() },
        "tpc_abort" => Call::TpcAbort { txn: txn() },
        "storeBlobStart" => Call::StoreBlobStart,
        "storeBlobChunk" => Call::StoreBlobChunk {
            chunk: Bytes::from_static(b"chunk"),
        },
        "storeBlobEnd" => Call::StoreBlobEnd {
            oid: OID,
            serial: TID,
            data,
            txn: txn(),
        },
        "storeBlobShared" => Call::StoreBlobShared {
            oid: OID,
            serial: TID,
            data,
            file: "x.tmp".to_owned(),
            txn: txn(),
        },
        "sendBlob" => Call::SendBlob {
            oid: OID,
            serial: TID,
        },
        "pack" => Call::Pack {
            time: 1.7e9,
            wait: true,
        },
        "undoLog" => Call::UndoLog {
            first: 0,
            last: -20,
        },
        "undoInfo" | "undoInfo-prefix" => Call::UndoInfo {
            first: 0,
            last: -20,
            specification: Value::Dict(vec![(
                Value::Text("user_name".to_owned()),
                match name {
                    "undoInfo" => Value::Text("x".to_owned()),
                    _ => Value::Object {
                        module: "ZopeUndo.Prefix".to_owned(),
                        name: "Prefix".to_owned(),
                        arguments: vec![],
                        state: Some(Box::new(Value::Dict(vec![
                            (
                                Value::Text("value".to_owned()),
                                Value::Text("/a".to_owned()),
                            ),
                            (Value::Text("length".to_owned()), Value::Int(2)),
                        ]))),
                    },
                },
            )]),
        },
        "server_status" => Call::ServerStatus,
        "set_client_label" => Call::SetClientLabel {
            label: "label".to_owned(),
        },
        "ping" => Call::Ping,
        name => panic!("what is {name}?"),
    }
}

#[test]
fn requests_of_pythons_client_are_understood_and_ours_are_the_same() {
    let mut count = 0;
    for (name, message) in recorded(REQUESTS) {
        count += 1;
        let (dialect, call) = named(name);
        let decoded = dialect.decode_from_client(message.clone());
        let decoded = decoded.unwrap_or_else(|why| panic!("{name}: {why}"));
        let FromClient::Request(request) = decoded else {
            assert_eq!(call, "heartbeat");
            let mut output = Output::new();
            dialect.encode_heartbeat(&mut output);
            assert_eq!(output.to_bytes()[LENGTH..], message);
            continue;
        };
        assert_eq!(request.call, expected_call(call), "{name}");
        assert_eq!(
            request.id == MessageId::Load(OID, TID),
            call == "loadBefore",
            "{name}"
        );
        // These are one and the same call in two forms.
        if ["register-int", "new_oids", "pack"].contains(&call) {
            continue;
        }
        let mut output = Output::new();
        dialect
            .encode_request(&request, &mut output)
            .expect("can be said");
        assert_eq!(
            output.to_bytes()[LENGTH..].escape_ascii().to_string(),
            message.escape_ascii().to_string(),
            "{name}"
        );
    }
    assert_eq!(count, 83);
}

#[test]
fn the_short_way_and_the_long_way_agree() {
    let mut short = 0;
    for (name, message) in recorded(REQUESTS) {
        let (dialect, call) = named(name);
        let (usual, long) = match dialect {
            Dialect::Pickle => (
                z::usual_request(&message),
                z::from_client(&message).expect("a pickle"),
            ),
            Dialect::Msgpack => (
                m::usual_request(&message),
                m::from_client(&message).expect("msgpack"),
            ),
        };
        if let Some(usual) = usual {
            short += 1;
            assert_eq!(request::decode(long), Ok(FromClient::Request(usual)));
        } else {
            assert!(!call.starts_with("loadBefore") && !call.starts_with("storea"));
        }
    }
    assert_eq!(short, 8);
    for (name, message) in recorded(REPLIES) {
        let (dialect, call) = named(name);
        let (usual, long) = match dialect {
            Dialect::Pickle => (
                z::usual_reply(&message),
                z::from_server(&message).expect("a pickle"),
            ),
            Dialect::Msgpack => (
                m::usual_reply(&message),
                m::from_server(&message).expect("msgpack"),
            ),
        };
        // In msgpack, three new oids look like a record, and give the same value.
        let short = ["loadBefore", "loadBefore-first"].contains(&call) || name == "M-new_oids";
        assert_eq!(usual.is_some(), short, "{name}");
        if let Some(usual) = usual {
            let long = Envelope::open(long).expect("a message");
            assert_eq!((usual.id, usual.outcome), (long.id, Ok(long.content)));
        }
    }
}

/// The shape of each recorded reply.
fn shape(name: &str) -> Option<Expected> {
    Some(match name {
        "register" | "getTid" | "tpc_finish-first" | "tpc_finish-second" => Expected::Tid,
        "vote-first" | "vote-second" | "vote-conflict" => Expected::Vote,
        "loadBefore" | "loadBefore-first" | "loadBefore-none" => Expected::Loaded,
        "loadSerial" => Expected::Data,
        "new_oids" => Expected::Oids,
        "getInvalidations" => Expected::Invalidations,
        "get_info" => Expected::Info,
        "history" => Expected::History,
        "record_iternext" => Expected::CurrentRecord,
        "iterator_start" => Expected::Iterator,
        "iterator_next" => Expected::Transaction,
        "iterator_record_next" => Expected::Record,
        "server_status" => Expected::ServerStatus,
        "undoLog" => Expected::UndoLog,
        _ => return None,
    })
}

#[test]
fn replies_of_pythons_server_are_understood_and_ours_are_the_same() {
    let mut replies = std::collections::BTreeMap::new();
    for (name, message) in recorded(REPLIES) {
        let (dialect, call) = named(name);
        let Some(expected) = shape(call) else {
            continue;
        };
        let decoded = dialect.decode_from_server(message.clone());
        let Ok(FromServer::Reply(raw)) = decoded else {
            panic!("{name}: {decoded:?}");
        };
        assert_eq!(raw.id, MessageId::Int(5));
        let reply = raw.expect(expected);
        let reply = reply.unwrap_or_else(|why| panic!("{name}: {why}"));
        let mut output = Output::new();
        dialect.encode_reply(&MessageId::Int(5), &reply, &mut output);
        // Python's server has more interfaces than clients look for. Floats of the time have more
        // digits than their fraction of a minute; the dictionary is compared below.
        // The stored extension has its memo.
        if !["get_info", "history", "undoLog"].contains(&call) && name != "Z-iterator_next" {
            assert_eq!(
                output.to_bytes()[LENGTH..].escape_ascii().to_string(),
                message.escape_ascii().to_string(),
                "{name}"
            );
        }
        replies.insert(name, reply);
    }
    let Reply::Tid(first) = replies["Z-tpc_finish-first"] else {
        panic!("a tid");
    };
    let Reply::Tid(second) = replies["Z-tpc_finish-second"] else {
        panic!("a tid");
    };
    for letter in ["Z", "M"] {
        let reply = |name: &str| &replies[format!("{letter}-{name}").as_str()];
        assert_eq!(*reply("register"), Reply::Tid(Tid::ZERO));
        assert_eq!(*reply("vote-first"), Reply::Voted(vec![]));
        assert_eq!(
            *reply("loadBefore-first"),
            Reply::Loaded(Some(LoadedRecord {
                data: Bytes::from_static(b"first"),
                tid: first,
                end: Some(second),
            }))
        );
        let Reply::Info(info) = reply("get_info") else {
            panic!("an info");
        };
        assert_eq!((info.objects, info.name.as_str()), (1, "Data.fs"));
        assert!(
            info.interfaces
                .contains(&("ZODB.interfaces", "IStorageIteration"))
        );
        let Reply::History(lines) = reply("history") else {
            panic!("a history");
        };
        assert_eq!(lines.len(), 2);
        assert_eq!((lines[0].tid, lines[1].tid), (second, first));
        assert_eq!(lines[0].user, "user");
        assert!(!lines[0].extension.is_empty());
        let Reply::Conflicts(conflicts) = reply("vote-conflict") else {
            panic!("conflicts");
        };
        assert_eq!((conflicts[0].oid, conflicts[0].committed), (OID, second));
        let Some(data) = conflicts[0].data.as_ref().and_then(|data| data.in_memory()) else {
            panic!("data");
        };
        assert_eq!(data, &Bytes::from_static(b"cmodule\nClass\n.N."));
    }
}

/// `history` and the undo log are Python's but for the last digits of the time, and the order in the
/// dictionaries of the undo log.
#[test]
fn our_history_and_our_undo_log_are_pythons() {
    for (name, message) in recorded(REPLIES) {
        let (dialect, expected) = match named(name) {
            (dialect, "history") => (dialect, Expected::History),
            (dialect, "undoLog") => (dialect, Expected::UndoLog),
            _ => continue,
        };
        let Ok(FromServer::Reply(raw)) = dialect.decode_from_server(message) else {
            panic!("a reply");
        };
        let theirs = raw.outcome.clone().expect("a value");
        let reply = raw.expect(expected).expect("a sequence of lines");
        let mut output = Output::new();
        dialect.encode_reply(&MessageId::Int(5), &reply, &mut output);
        let ours = output.to_bytes().slice(LENGTH..);
        let Ok(FromServer::Reply(raw)) = dialect.decode_from_server(ours) else {
            panic!("a reply");
        };
        let ours = raw.outcome.expect("a value");
        let lines = |value: &Value| value.as_items().expect("lines").to_vec();
        for (ours, theirs) in lines(&ours).into_iter().zip(lines(&theirs)) {
            let (Value::Dict(mut ours), Value::Dict(mut theirs)) = (ours, theirs) else {
                panic!("dictionaries");
            };
            assert_eq!(ours.len(), theirs.len());
            if expected == Expected::UndoLog {
                let name = |(key, _): &(Value, Value)| key.as_text().map(str::to_owned);
                ours.sort_by_key(name);
                theirs.sort_by_key(name);
            }
            for ((our_key, ours), (their_key, theirs)) in ours.into_iter().zip(theirs) {
                assert_eq!(our_key, their_key);
                match (ours, theirs) {
                    (Value::Float(ours), Value::Float(theirs)) => {
                        assert!((ours - theirs).abs() < 1e-6);
                    }
                    (ours, theirs) => assert_eq!(ours, theirs),
                }
            }
        }
    }
}

#[test]
fn errors_of_pythons_server_are_understood_and_ours_are_the_same() {
    let conflict = || Conflict::new(OID, TID, Tid(1));
    let other = |class: &str, text: &str| Answer::Other {
        class: class.to_owned(),
        text: text.to_owned(),
    };
    let cases = [
        (
            "POSKeyError",
            WireError::Answer(Answer::NoSuchObject(OID)),
            true,
        ),
        (
            "ConflictError",
            WireError::Answer(Answer::Conflict(conflict())),
            true,
        ),
        (
            "ReadConflictError",
            WireError::Answer(Answer::ReadConflict(conflict())),
            true,
        ),
        (
            "BTreesConflictError",
            WireError::Answer(other(
                "ZODB.POSException.BTreesConflictError",
                "{p1: 1, p2: 2, p3: 3, reason: 4}",
            )),
            false,
        ),
        ("ReadOnlyError", WireError::Answer(Answer::ReadOnly), true),
        (
            "StorageTransactionError",
            WireError::Answer(Answer::WrongTransaction("None, 5".to_owned())),
            false,
        ),
        (
            "UndoError",
            WireError::Answer(Answer::Undo {
                reason: "some reason".to_owned(),
                oid: Some(OID),
            }),
            true,
        ),
        (
            "MultipleUndoErrors",
            WireError::Answer(Answer::MultipleUndo(vec![
                (OID, "one".to_owned()),
                (Oid(2), "two".to_owned()),
            ])),
            // The second has no oid there, and in msgpack ours has the reason alone.
            false,
        ),
        ("KeyError", WireError::Key(Value::Int(7)), true),
        (
            "ValueError",
            WireError::Value("unknown storage: 2".to_owned()),
            true,
        ),
        (
            "OSError",
            WireError::Answer(other("builtins.OSError", "28, No space left on device")),
            false,
        ),
    ];
    for (name, message) in recorded(REPLIES) {
        let (dialect, class) = named(name);
        let Some((_, expected, same)) = cases.iter().find(|(case, ..)| *case == class) else {
            continue;
        };
        let decoded = dialect.decode_from_server(message.clone());
        let Ok(FromServer::Reply(raw)) = decoded else {
            panic!("{name}: {decoded:?}");
        };
        assert_eq!(raw.outcome, Err(expected.clone()), "{name}");
        let mut output = Output::new();
        let reply = Reply::Error(expected.clone());
        dialect.encode_reply(&MessageId::Int(5), &reply, &mut output);
        if *same {
            assert_eq!(
                output.to_bytes()[LENGTH..].escape_ascii().to_string(),
                message.escape_ascii().to_string(),
                "{name}"
            );
        }
    }
}

#[test]
fn pushes_of_pythons_server_are_understood_and_ours_are_the_same() {
    let cases = [
        (
            "invalidateTransaction",
            Push::InvalidateTransaction {
                tid: TID,
                oids: vec![OID].into(),
            },
        ),
        (
            "info",
            Push::Info {
                objects: 1,
                bytes: 2,
            },
        ),
        (
            "receiveBlobStart",
            Push::ReceiveBlobStart {
                oid: OID,
                serial: TID,
            },
        ),
        (
            "receiveBlobChunk",
            Push::ReceiveBlobChunk {
                oid: OID,
                serial: TID,
                chunk: Bytes::from_static(b"chunk"),
            },
        ),
        (
            "receiveBlobStop",
            Push::ReceiveBlobStop {
                oid: OID,
                serial: TID,
            },
        ),
    ];
    let mut seen = 0;
    for (name, message) in recorded(REPLIES) {
        let (dialect, method) = named(name);
        let Some((_, push)) = cases.iter().find(|(case, _)| *case == method) else {
            continue;
        };
        seen += 1;
        let decoded = dialect.decode_from_server(message.clone());
        assert_eq!(decoded, Ok(FromServer::Push(push.clone())));
        let mut output = Output::new();
        dialect.encode_push(push, &mut output);
        assert_eq!(output.to_bytes()[LENGTH..], message);
    }
    assert_eq!(seen, 10);
}

#[test]
fn calls_that_make_no_sense_are_named() {
    let call = |name: &str, arguments: Vec<Value>| {
        let message = Value::Tuple(vec![
            Value::Int(1),
            Value::Bool(false),
            Value::Text(name.to_owned()),
            Value::Tuple(arguments),
        ]);
        match request::decode(message) {
            Ok(FromClient::Request(request)) => request.call,
            other => panic!("{other:?}"),
        }
    };
    let malformed = |call: Call| match call {
        Call::Malformed { method, why } => format!("{method}: {why}"),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        call("eval", vec![]),
        Call::Unknown {
            method: "eval".to_owned()
        }
    );
    let bytes = |bytes: &'static [u8]| Value::Bytes(Bytes::from_static(bytes));
    assert_eq!(
        malformed(call("loadBefore", vec![bytes(b"short")])),
        "loadBefore: the oid has 5 bytes, not 8"
    );
    assert_eq!(
        malformed(call("loadBefore", vec![bytes(b"12345678")])),
        "loadBefore: the tid is missing"
    );
    assert_eq!(
        malformed(call("ping", vec![Value::None])),
        "ping: there are 1 arguments too many"
    );
    assert_eq!(
        malformed(call(
            "register",
            vec![Value::Text("1".to_owned()), Value::Int(2)]
        )),
        "register: read_only is not a truth value"
    );
    assert_eq!(
        malformed(call("undoa", vec![bytes(b"?"), Value::Int(1)])),
        "undoa: the transaction's id is not one of the undo log"
    );
    // Every method is known by name, so that its mistakes can be told.
    for (name, _) in recorded(REQUESTS) {
        let (_, method) = named(name);
        let method = method.split('-').next().expect("a name");
        if method == "heartbeat" {
            continue;
        }
        let too_many = vec![Value::Float(0.5); 9];
        assert!(
            matches!(call(method, too_many), Call::Malformed { .. }),
            "{method}"
        );
    }
}

#[test]
fn frames_that_are_no_messages_are_refused() {
    let cases: [(Dialect, &[u8]); 8] = [
        (Dialect::Pickle, b""),
        (Dialect::Pickle, b"\x80\x03N."),
        (Dialect::Pickle, b"\x80\x03K\x01K\x00X\x04\0\0\0ping\x87."),
        (Dialect::Pickle, b"\x80\x03(K\x01K\x00K\x05)t."),
        (
            Dialect::Pickle,
            b"\x80\x03(K\x01X\x01\0\0\0xX\x04\0\0\0ping)t.",
        ),
        (Dialect::Msgpack, b"\xc1"),
        (Dialect::Msgpack, b"\x94\x01\xc2\xa4ping"),
        (Dialect::Msgpack, b"\xdd\xff\xff\xff\xff"),
    ];
    for (dialect, frame) in cases {
        let frame = Bytes::from_static(frame);
        assert!(dialect.decode_from_client(frame.clone()).is_err());
        assert!(dialect.decode_from_server(frame).is_err());
    }
}

#[test]
fn deep_and_large_msgpack_is_refused() {
    let deep = Bytes::from(vec![0x91; 10_000]);
    assert_eq!(m::from_client(&deep), Err(MsgpackError::TooDeep));
    let mut many = vec![0xdd, 0, 3, 0xd0, 0x90];
    many.extend(vec![0xc0; 250_000]);
    assert_eq!(m::from_client(&many.into()), Err(MsgpackError::TooMany));
    for ext in [&b"\xd4\x01\x00"[..], b"\xc7\x01\x01\x00", b"\xc1"] {
        let refused = m::from_client(&Bytes::from_static(ext));
        assert!(matches!(
            refused,
            Err(MsgpackError::Unsupported { offset: 0, .. })
        ));
    }
}

#[test]
fn a_reply_that_cannot_be_said_becomes_an_error() {
    for dialect in [Dialect::Pickle, Dialect::Msgpack] {
        let meta = TxnMeta {
            extension: Bytes::from_static(b"damaged"),
            ..TxnMeta::default()
        };
        let mut output = Output::new();
        let reply = Reply::Transaction(Some((TID, meta)));
        dialect.encode_reply(&MessageId::Int(5), &reply, &mut output);
        let frame = output.to_bytes().slice(LENGTH..);
        let Ok(FromServer::Reply(raw)) = dialect.decode_from_server(frame) else {
            panic!("a reply");
        };
        assert!(matches!(raw.outcome, Err(WireError::Storage(_))));
    }
}
