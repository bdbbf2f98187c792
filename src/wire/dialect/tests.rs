//! Everything that can be said, there and back, in both dialects.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::pickle::{Value, extension};
use crate::wire::frame::Frames;
use crate::wire::{
    Call, Expected, HistoryLine, Info, IteratedRecord, LoadedRecord, RaidMethod, ServerStatus,
    TxnId, UndoLine,
};
use crate::zodb::{Answer, Conflict, Oid, Tid, TxnMeta, TxnStatus};

fn dialect() -> impl Strategy<Value = Dialect> {
    prop_oneof![Just(Dialect::Pickle), Just(Dialect::Msgpack)]
}

fn oid() -> impl Strategy<Value = Oid> {
    any::<u64>().prop_map(Oid)
}

fn tid() -> impl Strategy<Value = Tid> {
    any::<u64>().prop_map(Tid)
}

fn bytes() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        vec(any::<u8>(), 0..400).prop_map(Bytes::from),
        // Large enough to be sent by reference.
        (16_000usize..17_000).prop_map(|size| Bytes::from(vec![b'x'; size])),
    ]
}

/// Values that are the same after a journey through either dialect.
fn value() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        ".{0,5}".prop_map(Value::Text),
        vec(any::<u8>(), 0..5).prop_map(|key| Value::Bytes(key.into())),
    ];
    let leaf = prop_oneof![
        Just(Value::None),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        (i64::MAX as u64 + 1..=u64::MAX).prop_map(|int| {
            let mut bytes = int.to_le_bytes().to_vec();
            bytes.push(0);
            Value::BigInt(bytes.into())
        }),
        (-1e9..1e9).prop_map(Value::Float),
        bytes().prop_map(Value::Bytes),
        ".{0,40}".prop_map(Value::Text),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::Tuple),
            vec((key.clone(), inner), 0..4).prop_map(Value::Dict),
        ]
    })
}

fn pickled_extension() -> impl Strategy<Value = Bytes> {
    vec(("[a-z]{1,6}".prop_map(Value::Text), value()), 0..4)
        .prop_map(|entries| extension::pickled(&entries))
}

fn meta() -> impl Strategy<Value = TxnMeta> {
    let status = prop_oneof![
        Just(TxnStatus::Normal),
        Just(TxnStatus::Packed),
        Just(TxnStatus::Undone)
    ];
    (bytes(), bytes(), pickled_extension(), status).prop_map(
        |(user, description, extension, status)| TxnMeta {
            user,
            description,
            extension,
            status,
        },
    )
}

fn txn() -> impl Strategy<Value = TxnId> {
    let small = value().prop_filter_map("ids are small", |value| value.small_copy(1 << 10));
    prop_oneof![any::<i64>().prop_map(Value::Int), small].prop_map(TxnId)
}

fn id() -> impl Strategy<Value = MessageId> {
    prop_oneof![
        (0..i64::MAX).prop_map(MessageId::Int),
        (oid(), tid()).prop_map(|(oid, tid)| MessageId::Load(oid, tid)),
        ".{0,9}".prop_map(|text| MessageId::Other(Value::Text(text))),
    ]
}

fn call() -> impl Strategy<Value = Call> {
    let reading = prop_oneof![
        (".*", any::<bool>())
            .prop_map(|(storage, read_only)| Call::Register { storage, read_only }),
        Just(Call::GetInfo),
        Just(Call::LastTransaction),
        tid().prop_map(|since| Call::GetInvalidations { since }),
        (oid(), tid()).prop_map(|(oid, before)| Call::LoadBefore { oid, before }),
        (oid(), tid()).prop_map(|(oid, serial)| Call::LoadSerial { oid, serial }),
        oid().prop_map(|oid| Call::GetTid { oid }),
        (1usize..=100).prop_map(|count| Call::NewOids { count }),
        (oid(), 0usize..1000).prop_map(|(oid, count)| Call::History { oid, count }),
        option::of(oid()).prop_map(|next| Call::RecordIternext { next }),
        (option::of(tid()), option::of(tid()))
            .prop_map(|(first, last)| Call::IteratorStart { first, last }),
        any::<i64>().prop_map(|iterator| Call::IteratorNext { iterator }),
        (any::<i64>(), tid())
            .prop_map(|(iterator, tid)| Call::IteratorRecordStart { iterator, tid }),
        any::<i64>().prop_map(|iterator| Call::IteratorRecordNext { iterator }),
        vec(any::<i64>(), 0..9).prop_map(|iterators| Call::IteratorGc { iterators }),
    ];
    let writing = prop_oneof![
        (txn(), meta(), option::of(tid())).prop_map(|(txn, meta, tid)| Call::TpcBegin {
            txn,
            meta,
            tid
        }),
        (oid(), tid(), bytes(), txn()).prop_map(|(oid, serial, data, txn)| Call::Storea {
            oid,
            serial,
            data,
            txn
        }),
        (oid(), tid(), option::of(bytes()), option::of(tid()), txn()).prop_map(
            |(oid, serial, data, previous, txn)| Call::Restorea {
                oid,
                serial,
                data,
                previous,
                txn
            }
        ),
        (oid(), tid(), txn()).prop_map(|(oid, serial, txn)| Call::DeleteObject {
            oid,
            serial,
            txn
        }),
        (oid(), tid(), txn()).prop_map(|(oid, serial, txn)| Call::CheckCurrent {
            oid,
            serial,
            txn
        }),
        (tid(), txn()).prop_map(|(tid, txn)| Call::Undoa { tid, txn }),
        txn().prop_map(|txn| Call::Vote { txn }),
        txn().prop_map(|txn| Call::TpcFinish { txn }),
        txn().prop_map(|txn| Call::TpcAbort { txn }),
        Just(Call::StoreBlobStart),
        bytes().prop_map(|chunk| Call::StoreBlobChunk { chunk }),
        (oid(), tid(), bytes(), txn()).prop_map(|(oid, serial, data, txn)| Call::StoreBlobEnd {
            oid,
            serial,
            data,
            txn
        }),
        (oid(), tid(), bytes(), ".*", txn()).prop_map(|(oid, serial, data, file, txn)| {
            Call::StoreBlobShared {
                oid,
                serial,
                data,
                file,
                txn,
            }
        }),
    ];
    let other = prop_oneof![
        (oid(), tid()).prop_map(|(oid, serial)| Call::SendBlob { oid, serial }),
        (0.0..4e9, any::<bool>()).prop_map(|(time, wait)| Call::Pack { time, wait }),
        any::<(i64, i64)>().prop_map(|(first, last)| Call::UndoLog { first, last }),
        (any::<(i64, i64)>(), value()).prop_map(|((first, last), specification)| {
            Call::UndoInfo {
                first,
                last,
                specification,
            }
        }),
        Just(Call::ServerStatus),
        ".*".prop_map(|label| Call::SetClientLabel { label }),
        Just(Call::Ping),
        vec(value(), 0..3).prop_map(|arguments| Call::Raid {
            method: RaidMethod::Recover,
            arguments
        }),
        "[A-Z]{1,9}".prop_map(|method| Call::Unknown { method }),
    ];
    prop_oneof![reading, writing, other]
}

fn reply() -> impl Strategy<Value = (Expected, Reply)> {
    let loaded = (bytes(), tid(), option::of(tid())).prop_map(|(data, tid, end)| LoadedRecord {
        data,
        tid,
        end,
    });
    let record = (oid(), tid(), option::of(bytes()), option::of(tid())).prop_map(
        |(oid, tid, data, data_txn)| IteratedRecord {
            oid,
            tid,
            data,
            data_txn,
        },
    );
    let simple = prop_oneof![
        Just((Expected::None, Reply::None)),
        tid().prop_map(|tid| (Expected::Tid, Reply::Tid(tid))),
        Just((Expected::Tid, Reply::None)),
        bytes().prop_map(|data| (Expected::Data, Reply::Data(data))),
        option::of(loaded).prop_map(|record| (Expected::Loaded, Reply::Loaded(record))),
        vec(oid(), 0..30).prop_map(|oids| (Expected::Oids, Reply::Oids(oids))),
        vec(oid(), 0..30).prop_map(|oids| (Expected::Vote, Reply::Voted(oids))),
        vec((oid(), tid(), tid(), bytes()), 1..5).prop_map(|conflicts| {
            let conflicts = conflicts.into_iter();
            let conflicts = conflicts.map(|(oid, committed, read, data)| Conflict {
                data: Some(data.into()),
                ..Conflict::new(oid, committed, read)
            });
            (Expected::Vote, Reply::Conflicts(conflicts.collect()))
        }),
        option::of((tid(), vec(oid(), 0..30)))
            .prop_map(|answer| (Expected::Invalidations, Reply::Invalidations(answer))),
        any::<i64>().prop_map(|iterator| (Expected::Iterator, Reply::Iterator(iterator))),
        option::of((tid(), meta()))
            .prop_map(|answer| (Expected::Transaction, Reply::Transaction(answer))),
        option::of(record).prop_map(|record| (Expected::Record, Reply::Record(record))),
        value().prop_map(|value| (Expected::Value, Reply::Value(value))),
    ];
    let info = (".*", 0..1u64 << 60, any::<(bool, bool)>()).prop_map(|(name, size, flags)| Info {
        name,
        objects: size / 2,
        bytes: size,
        supports_undo: flags.0,
        supports_record_iternext: flags.1,
        interfaces: vec![
            ("ZODB.interfaces", "IStorageIteration"),
            ("ZODB.interfaces", "IExternalGC"),
        ],
    });
    let line = (tid(), bytes(), bytes(), pickled_extension(), 0..1u64 << 40).prop_map(
        |(tid, user, description, extension, size)| HistoryLine {
            tid,
            user,
            description,
            extension,
            size,
        },
    );
    let undo = (
        (tid(), 0.0..4e9),
        bytes(),
        bytes(),
        // Longer names than those of the line itself.
        vec(("[a-z]{12}".prop_map(Value::Text), value()), 0..4),
        option::of(0..1u64 << 40),
    )
        .prop_map(|((tid, time), user, description, entries, size)| UndoLine {
            tid,
            time,
            user,
            description,
            extension: extension::pickled(&entries),
            size,
        });
    let current = (oid(), tid(), bytes(), option::of(oid())).prop_map(|(oid, tid, data, next)| {
        Reply::CurrentRecord {
            oid,
            tid,
            data,
            next,
        }
    });
    let status = (
        0..1u64 << 40,
        option::of(0.0..1e9),
        ".*",
        tid(),
        any::<bool>(),
    )
        .prop_map(
            |(count, lock_time, start, last_transaction, alive)| ServerStatus {
                loads: count,
                stores: count + 1,
                commits: count + 2,
                aborts: count + 3,
                active_txns: count + 4,
                conflicts: count + 5,
                conflicts_resolved: count + 6,
                // Not on the wire.
                verifying_clients: 0,
                connections: count + 7,
                waiting: count + 8,
                lock_time,
                start,
                last_transaction,
                timeout_thread_is_alive: alive,
            },
        );
    prop_oneof![
        4 => simple,
        1 => info.prop_map(|info| (Expected::Info, Reply::Info(info))),
        1 => vec(line, 0..4).prop_map(|lines| (Expected::History, Reply::History(lines))),
        1 => vec(undo, 0..4).prop_map(|lines| (Expected::UndoLog, Reply::UndoLog(lines))),
        1 => current.prop_map(|record| (Expected::CurrentRecord, record)),
        1 => status.prop_map(|status| (Expected::ServerStatus, Reply::ServerStatus(status))),
        1 => error().prop_map(|error| (Expected::Tid, Reply::Error(error))),
    ]
}

fn error() -> impl Strategy<Value = WireError> {
    let conflict = (oid(), tid(), tid())
        .prop_map(|(oid, committed, read)| Conflict::new(oid, committed, read))
        .boxed();
    let answer = prop_oneof![
        oid().prop_map(Answer::NoSuchObject),
        conflict.clone().prop_map(Answer::Conflict),
        conflict.prop_map(Answer::ReadConflict),
        Just(Answer::ReadOnly),
        (".+", option::of(oid())).prop_map(|(reason, oid)| Answer::Undo { reason, oid }),
        vec((oid(), ".+"), 1..5).prop_map(Answer::MultipleUndo),
        ".*".prop_map(Answer::WrongTransaction),
        ("[a-z]+\\.[A-Z]+", ".*").prop_map(|(class, text)| Answer::Other { class, text }),
    ];
    prop_oneof![
        4 => answer.prop_map(WireError::Answer),
        1 => value()
            .prop_filter_map("keys are small", |value| value.small_copy(4000))
            .prop_map(WireError::Key),
        1 => ".*".prop_map(WireError::Value),
        1 => ".*".prop_map(WireError::Type),
        1 => ".*".prop_map(WireError::NotImplemented),
        1 => ".*".prop_map(WireError::Storage),
    ]
}

fn push() -> impl Strategy<Value = Push> {
    prop_oneof![
        (tid(), vec(oid(), 0..20)).prop_map(|(tid, oids)| Push::InvalidateTransaction {
            tid,
            oids: Arc::from(oids)
        }),
        (0..1u64 << 60, 0..1u64 << 60).prop_map(|(objects, bytes)| Push::Info { objects, bytes }),
        (oid(), tid()).prop_map(|(oid, serial)| Push::ReceiveBlobStart { oid, serial }),
        (oid(), tid(), bytes()).prop_map(|(oid, serial, chunk)| Push::ReceiveBlobChunk {
            oid,
            serial,
            chunk
        }),
        (oid(), tid()).prop_map(|(oid, serial)| Push::ReceiveBlobStop { oid, serial }),
    ]
}

/// The one frame of an output.
fn frame(output: &Output) -> Bytes {
    let mut frames = Frames::new(1 << 30);
    frames.room().extend_from_slice(&output.to_bytes());
    let frame = frames.take().expect("within the limit").expect("whole");
    assert!(!frames.has_part(), "one frame and no more");
    frame
}

proptest! {
    #[test]
    fn a_request_arrives_as_it_was_sent(
        dialect in dialect(), id in id(), one_way: bool, call in call(),
    ) {
        let request = Request { id, one_way, call };
        let mut output = Output::new();
        dialect.encode_request(&request, &mut output).expect("can be said");
        let arrived = dialect.decode_from_client(frame(&output));
        prop_assert_eq!(arrived, Ok(FromClient::Request(request)));
    }

    #[test]
    fn a_reply_arrives_as_it_was_sent(dialect in dialect(), id in id(), reply in reply()) {
        let (expected, reply) = reply;
        let mut output = Output::new();
        dialect.encode_reply(&id, &reply, &mut output);
        let FromServer::Reply(raw) = dialect.decode_from_server(frame(&output)).expect("a message")
        else {
            panic!("a reply");
        };
        prop_assert_eq!(&raw.id, &id);
        prop_assert_eq!(raw.expect(expected), Ok(reply));
    }

    #[test]
    fn a_push_arrives_as_it_was_sent(dialect in dialect(), push in push()) {
        let mut output = Output::new();
        dialect.encode_push(&push, &mut output);
        prop_assert_eq!(dialect.decode_from_server(frame(&output)), Ok(FromServer::Push(push)));
    }

    #[test]
    fn any_bytes_are_survived(dialect in dialect(), bytes in vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        drop(dialect.decode_from_client(bytes.clone()));
        drop(dialect.decode_from_server(bytes));
    }

    #[test]
    fn damaged_messages_are_survived(
        dialect in dialect(), call in call(), reply in reply(), at: prop::sample::Index, byte: u8,
    ) {
        let request = Request { id: MessageId::Int(1), one_way: false, call };
        let mut output = Output::new();
        dialect.encode_request(&request, &mut output).expect("can be said");
        let mut message = frame(&output).to_vec();
        let index = at.index(message.len());
        message[index] = byte;
        drop(dialect.decode_from_client(message.clone().into()));
        drop(dialect.decode_from_client(Bytes::from(message).slice(..index)));

        let mut output = Output::new();
        dialect.encode_reply(&MessageId::Int(1), &reply.1, &mut output);
        let mut message = frame(&output).to_vec();
        let index = at.index(message.len());
        message[index] = byte;
        if let Ok(FromServer::Reply(raw)) = dialect.decode_from_server(message.into()) {
            drop(raw.expect(reply.0));
        }
    }
}

#[test]
fn an_extension_wins_over_the_undo_log_and_is_left_out_where_it_makes_no_sense() {
    let line = |extension| UndoLine {
        tid: Tid(7),
        time: 1.5,
        user: Bytes::from_static(b"user"),
        description: Bytes::from_static(b"given"),
        extension,
        size: Some(9),
    };
    let text = |text: &str| Value::Text(text.to_owned());
    let over = extension::pickled(&[(text("description"), text("from the extension"))]);
    let damaged = Bytes::from_static(b"no pickle");
    for dialect in [Dialect::Pickle, Dialect::Msgpack] {
        let mut output = Output::new();
        let lines = Reply::UndoLog(vec![line(over.clone()), line(damaged.clone())]);
        dialect.encode_reply(&MessageId::Int(1), &lines, &mut output);
        let FromServer::Reply(raw) = dialect
            .decode_from_server(frame(&output))
            .expect("a message")
        else {
            panic!("a reply");
        };
        let Ok(Reply::UndoLog(lines)) = raw.expect(Expected::UndoLog) else {
            panic!("an undo log");
        };
        assert_eq!(lines[0].description.as_ref(), b"from the extension");
        assert_eq!(lines[1], line(Bytes::new()));
    }
}

/// Conflicts are equal without it, but a client shows it.
#[test]
fn what_a_server_has_said_of_a_conflict_is_said_to_the_client() {
    let mut conflict = Conflict::new(Oid(1), Tid(2), Tid(1));
    conflict.class_name = Some("a.module.Class".to_owned());
    conflict.message = Some("not like this".to_owned());
    for dialect in [Dialect::Pickle, Dialect::Msgpack] {
        for conflict in [conflict.clone(), Conflict::new(Oid(1), Tid(2), Tid(1))] {
            let error = WireError::Answer(Answer::Conflict(conflict.clone()));
            let mut output = Output::new();
            dialect.encode_reply(&MessageId::Int(1), &Reply::Error(error), &mut output);
            let heard = dialect.decode_from_server(frame(&output)).unwrap();
            let FromServer::Reply(reply) = heard else {
                panic!("not a reply: {heard:?}");
            };
            let Err(WireError::Answer(Answer::Conflict(heard))) = reply.outcome else {
                panic!("not a conflict: {reply:?}");
            };
            assert_eq!(heard.class_name, conflict.class_name);
            let usual = "database conflict error".to_owned();
            assert_eq!(heard.message, Some(conflict.message.unwrap_or(usual)));
        }
    }
}

#[test]
fn heartbeats_are_no_calls() {
    for dialect in [Dialect::Pickle, Dialect::Msgpack] {
        let mut output = Output::new();
        dialect.encode_heartbeat(&mut output);
        let frame = frame(&output);
        assert_eq!(
            dialect.decode_from_client(frame.clone()),
            Ok(FromClient::Heartbeat)
        );
        assert_eq!(dialect.decode_from_server(frame), Ok(FromServer::Heartbeat));
    }
}
