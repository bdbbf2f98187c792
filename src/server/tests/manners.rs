//! Clients that misbehave, servers that do not serve, and small talk.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::pickle::write;
use crate::storage::memory::{MemoryStorage, Moment};
use crate::storage::suite::commit;
use crate::wire::WireError;
use crate::zodb::Answer;

#[tokio::test]
async fn garbage_ends_the_connection_and_nothing_else() {
    let house = House::of(MemoryStorage::new("test"));
    let mut other = house.client().await;
    let frames: [&[u8]; 5] = [
        b"\0\0\0\x04abcd",
        b"\0\0\0\0",
        b"\xff\xff\xff\xffabc",
        // A global that is none of ours.
        b"\0\0\0\x0ccos\nsystem\n.",
        // A tuple of nothing.
        b"\0\0\0\x02).",
    ];
    for dialect in [Dialect::Pickle, Dialect::Msgpack] {
        for frame in frames {
            for registered in [false, true] {
                let mut client = house.connect(dialect).await;
                if registered {
                    client.register("main", false).await;
                }
                client.raw(frame).await;
                client.is_closed().await;
            }
        }
    }
    assert_eq!(other.call(Call::Ping).await, Reply::None);
}

#[tokio::test]
async fn half_a_frame_aborts_what_was_voted() {
    let house = House::of(MemoryStorage::new("test"));
    let mut client = house.client().await;
    client.begin(1).await;
    assert_eq!(client.call(vote(1)).await, Reply::Voted(vec![]));
    client.raw(b"\0\0\0\x10half").await;
    client.leave().await;
    house.client().await.commit(1, Tid::ZERO, b"data").await;
}

#[tokio::test]
async fn a_frame_beyond_the_limit_is_refused_before_it_comes() {
    let options = ServerOptions {
        max_frame_bytes: 1000,
        ..ServerOptions::default()
    };
    let house = House::with(MemoryStorage::new("test"), options);
    let mut client = house.client().await;
    client.raw(&1001u32.to_be_bytes()).await;
    client.raw(b"x").await;
    client.is_closed().await;
}

#[tokio::test]
async fn calls_before_register_and_unknown_methods_end_the_connection() {
    let house = House::of(MemoryStorage::new("test"));
    let mut client = house.connect(Dialect::Pickle).await;
    client.tell(Call::Ping).await;
    client.is_closed().await;
    let unknown = || Call::Unknown {
        method: "nuke".to_owned(),
    };
    let mut client = house.connect(Dialect::Msgpack).await;
    client.tell(unknown()).await;
    client.is_closed().await;
    let mut client = house.client().await;
    client.tell(unknown()).await;
    client.is_closed().await;
    let mut client = house.client().await;
    client
        .tell(Call::Register {
            storage: "main".to_owned(),
            read_only: true,
        })
        .await;
    client.is_closed().await;
}

#[tokio::test]
async fn an_unknown_storage_is_an_error_and_the_connection_may_try_again() {
    let house = House::of(MemoryStorage::new("test"));
    let mut client = house.connect(Dialect::Pickle).await;
    assert_eq!(
        client.register("other", false).await,
        Reply::Error(WireError::Value("unknown storage: other".to_owned()))
    );
    assert_eq!(client.register("main", false).await, Reply::Tid(Tid::ZERO));
    assert_eq!(house.counters().clients, 1);
}

#[tokio::test]
async fn another_protocol_is_hung_up_on() {
    let house = House::of(MemoryStorage::new("test"));
    let mut pipe = house.pipe();
    pipe.write_all(b"\0\0\0\x02Z4").await.unwrap();
    let mut said = Vec::new();
    pipe.read_to_end(&mut said).await.unwrap();
    assert_eq!(said, b"\0\0\0\x02Z5");
}

/// What is logged on this thread, from a level on.
struct Logged {
    file: tempfile::NamedTempFile,
    _guard: tracing::subscriber::DefaultGuard,
}

impl Logged {
    fn from(level: tracing::Level) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_writer(Arc::new(file.reopen().unwrap()))
            .finish();
        Logged {
            file,
            _guard: tracing::subscriber::set_default(subscriber),
        }
    }

    fn read(&self) -> String {
        std::fs::read_to_string(self.file.path()).unwrap()
    }
}

#[tokio::test]
async fn who_speaks_another_protocol_is_told_of_once() {
    let log = Logged::from(tracing::Level::WARN);
    let house = House::of(MemoryStorage::new("test"));
    let cases: [(&[u8], &str); 4] = [
        (b"\0\0\0\x04Z310", "that of ZEO 4 and older"),
        (b"GET / HTTP/1.1\r\n\r\n", "speaks HTTP"),
        (b"\x93\xe1\x07\xfcnonsense", "a frame of "),
        // Whoever only looks whether somebody listens.
        (b"", "the connection ended"),
    ];
    for _ in 0..5 {
        for (said, _) in cases {
            let mut pipe = house.pipe();
            pipe.write_all(said).await.unwrap();
            pipe.shutdown().await.unwrap();
            drop(pipe.read_to_end(&mut Vec::new()).await);
        }
    }
    let told = log.read();
    for (said, words) in cases {
        let times = usize::from(!said.is_empty());
        assert_eq!(told.matches(words).count(), times, "{words}: {told}");
    }
}

/// Whatever a client does again and again, it fills no log.
#[tokio::test]
async fn what_a_client_does_in_a_loop_is_told_of_once() {
    let log = Logged::from(tracing::Level::INFO);
    let storage = super::full::Full::new();
    let house = House::of(storage.clone());
    for _ in 0..5 {
        let mut client = house.client().await;
        let pack = |wait| Call::Pack { time: 1e9, wait };
        assert_eq!(client.call(pack(true)).await, Reply::None);
        let (time, wait) = (-1.0, true);
        let failed = client.call(Call::Pack { time, wait }).await;
        assert!(matches!(failed, Reply::Error(_)), "{failed:?}");
        storage.held.send_replace(true);
        assert_eq!(client.call(pack(false)).await, Reply::None);
        for _ in 0..3 {
            assert_eq!(client.call(pack(false)).await, Reply::None);
        }
        storage.held.send_replace(false);
        until("the pack has ended", || house.shared.packs.is_empty()).await;
        client
            .tell(Call::Unknown {
                method: "nuke".to_owned(),
            })
            .await;
        client.is_closed().await;
    }
    until("all have ended", || house.shared.sessions.is_empty()).await;
    let told = log.read();
    for (words, times) in [
        ("a client asked for a pack while there is one", 1),
        (" packed", 1),
        ("could not pack", 1),
        ("disconnected by the server", 1),
    ] {
        assert_eq!(told.matches(words).count(), times, "{words}: {told}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_hung_up_on() {
    let house = House::of(MemoryStorage::new("test"));
    let mut pipe = house.pipe();
    let mut said = Vec::new();
    pipe.read_to_end(&mut said).await.unwrap();
    assert_eq!(said, b"\0\0\0\x02Z5");
    let (read, write) = tokio::io::split(house.pipe());
    let (mut reader, mut writer) = (Reader::new(read, 1 << 20), Writer::new(write));
    handshake::connect(&mut reader, &mut writer, None)
        .await
        .unwrap();
    assert!(reader.next_frame().await.unwrap().is_none());
}

#[tokio::test]
async fn a_watcher_is_told_the_status_of_every_storage_without_registering() {
    let house = House::of(MemoryStorage::new("test"));
    let (read, write) = tokio::io::split(house.pipe());
    let (mut reader, mut writer) = (Reader::new(read, 1 << 20), Writer::new(write));
    let json = handshake::ask_status(&mut reader, &mut writer)
        .await
        .unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["main"]["last-transaction"], "0000000000000000");
    assert_eq!(json["main"]["connections"], 0);
}

#[tokio::test]
async fn one_load_that_hangs_holds_up_nothing_else() {
    let storage = MemoryStorage::new("test");
    commit(&storage, &[(1, Tid::ZERO, b"data")]).await;
    let house = House::of(storage.clone());
    let mut client = house.client().await;
    let gate = storage.faults().hold(Moment::Load);
    let hanging = client.ask(load(1)).await;
    gate.reached().await;
    assert!(matches!(
        client.call(Call::LastTransaction).await,
        Reply::Tid(_)
    ));
    client.writer.heartbeat();
    assert_eq!(client.call(Call::Ping).await, Reply::None);
    gate.release();
    assert!(matches!(
        client.hear_until(&hanging).await.1,
        Reply::Loaded(Some(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_is_taken_nothing_from_and_closed_in_the_end() {
    let storage = MemoryStorage::new("test");
    let data: &'static [u8] = Box::leak(vec![7; 100_000].into_boxed_slice());
    commit(&storage, &[(1, Tid::ZERO, data)]).await;
    let options = ServerOptions {
        outbox_bytes: 1 << 20,
        ..ServerOptions::default()
    };
    let house = House::with(storage.clone(), options);
    let mut client = house.client().await;
    for _ in 0..1000 {
        let sent = timeout(Duration::from_secs(1), client.ask(load(1))).await;
        if sent.is_err() {
            break;
        }
    }
    // No more is asked of the storage than what fits, in the pipe and in the outbox.
    assert!(house.counters().loads < 40, "{:?}", house.counters());
    let start = tokio::time::Instant::now();
    while house.counters().clients > 0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(start.elapsed() >= Duration::from_secs(290));
}

#[tokio::test]
async fn a_pipelining_client_gets_every_reply() {
    let storage = MemoryStorage::new("test");
    let data: &'static [u8] = Box::leak(vec![7; 50_000].into_boxed_slice());
    commit(&storage, &[(1, Tid::ZERO, data)]).await;
    let options = ServerOptions {
        outbox_bytes: 100_000,
        ..ServerOptions::default()
    };
    let house = House::with(storage.clone(), options);
    let mut client = house.client().await;
    let mut asked = Vec::new();
    for _ in 0..200 {
        asked.push(client.ask(load(1)).await);
    }
    for id in asked {
        assert!(matches!(client.hear().await, Said::Reply(of, Reply::Loaded(Some(_))) if of == id));
    }
    assert_eq!(house.counters().loads, 200);
}

#[tokio::test(start_paused = true)]
async fn a_storage_that_does_not_serve_yet_is_waited_for_a_little() {
    let house = House::of(MemoryStorage::new("test"));
    house.serving.send_replace(Serving::Starting {
        waits_for: "its members".to_owned(),
    });
    let mut early = house.connect(Dialect::Pickle).await;
    let asked = early
        .ask(Call::Register {
            storage: "main".to_owned(),
            read_only: false,
        })
        .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    house.serving.send_replace(Serving::Yes);
    assert_eq!(early.hear_until(&asked).await.1, Reply::Tid(Tid::ZERO));
    house.serving.send_replace(Serving::No {
        reason: "no members".to_owned(),
    });
    early.is_closed().await;
    let mut late = house.connect(Dialect::Pickle).await;
    late.ask(Call::Register {
        storage: "main".to_owned(),
        read_only: true,
    })
    .await;
    late.is_closed().await;
}

#[tokio::test]
async fn what_a_storage_cannot_do_is_an_error_that_names_it() {
    let house = House::of(super::late::Late::new());
    let mut client = house.client().await;
    let pack = Call::Pack {
        time: 0.0,
        wait: true,
    };
    let blob = Call::SendBlob {
        oid: Oid(1),
        serial: Tid(1),
    };
    for (what, call) in [("packing", pack), ("blobs", blob)] {
        let reply = client.call(call).await;
        assert!(
            matches!(
                &reply,
                Reply::Error(WireError::Answer(Answer::Other { class, text }))
                    if class.ends_with("Unsupported") && text.contains(what)
            ),
            "{reply:?}"
        );
    }
    assert_eq!(client.call(Call::Ping).await, Reply::None);
}

#[tokio::test]
async fn small_talk_is_answered() {
    let storage = MemoryStorage::new("test");
    let first = commit(&storage, &[(1, Tid::ZERO, b"a"), (2, Tid::ZERO, b"b")]).await;
    let second = commit(&storage, &[(1, first, b"c")]).await;
    let house = House::of(storage.clone());
    for dialect in [Dialect::Pickle, Dialect::Msgpack] {
        let mut client = house.connect(dialect).await;
        assert_eq!(client.register("main", false).await, Reply::Tid(second));
        client
            .tell(Call::SetClientLabel {
                label: "the tests".to_owned(),
            })
            .await;
        let Reply::Info(info) = client.call(Call::GetInfo).await else {
            panic!("no info");
        };
        assert_eq!((info.name.as_str(), info.objects), ("main", 2));
        let tid = |oid| Call::GetTid { oid: Oid(oid) };
        assert_eq!(client.call(tid(1)).await, Reply::Tid(second));
        assert_eq!(
            client.call(tid(9)).await,
            Reply::Error(WireError::Answer(Answer::NoSuchObject(Oid(9))))
        );
        let serial = Call::LoadSerial {
            oid: Oid(1),
            serial: first,
        };
        assert_eq!(
            client.call(serial).await,
            Reply::Data(Bytes::from_static(b"a"))
        );
        let since = Call::GetInvalidations { since: first };
        assert_eq!(
            client.call(since).await,
            Reply::Invalidations(Some((second, vec![Oid(1)])))
        );
        let Reply::Oids(oids) = client.call(Call::NewOids { count: 1000 }).await else {
            panic!("no oids");
        };
        assert_eq!(oids.len(), 100);
        let history = Call::History {
            oid: Oid(1),
            count: 5,
        };
        let Reply::History(lines) = client.call(history).await else {
            panic!("no history");
        };
        assert_eq!(
            lines.iter().map(|line| line.tid).collect::<Vec<_>>(),
            [second, first]
        );
        let Reply::CurrentRecord { oid, next, .. } =
            client.call(Call::RecordIternext { next: None }).await
        else {
            panic!("no record");
        };
        assert_eq!((oid, next), (Oid(1), Some(Oid(2))));
    }
}

/// `tpc_begin` of a transaction with this extension, as a message.
fn begin_with(extension: Value, one_way: bool) -> Vec<u8> {
    let empty = || Value::Bytes(Bytes::new());
    let arguments = vec![
        Value::Int(1),
        empty(),
        empty(),
        extension,
        Value::None,
        Value::Text(" ".to_owned()),
    ];
    message("tpc_begin", arguments, one_way)
}

/// A call as a message; one that wants an answer has the id 7.
fn message(method: &str, arguments: Vec<Value>, one_way: bool) -> Vec<u8> {
    let message = write::dumps(&Value::Tuple(vec![
        Value::Int(if one_way { 0 } else { 7 }),
        Value::Bool(one_way),
        Value::Text(method.to_owned()),
        Value::Tuple(arguments),
    ]));
    let mut frame = (message.len() as u32).to_be_bytes().to_vec();
    frame.extend_from_slice(&message);
    frame
}

/// Python's server looks at them when it votes, and some clients rely on it.
#[tokio::test]
async fn what_makes_no_sense_in_a_transaction_is_told_by_its_vote() {
    let house = House::of(MemoryStorage::new("test"));
    let mut client = house.client().await;
    let bytes = |bytes: &'static [u8]| Value::Bytes(Bytes::from_static(bytes));
    let (oid, zeros) = (|| bytes(&[0, 0, 0, 0, 0, 0, 0, 9]), || bytes(&[0; 8]));
    let (data, txn) = (|| bytes(b"data"), || Value::Int(1));
    let nonsense = [
        ("storea", vec![bytes(b"short"), zeros(), data(), txn()]),
        ("storea", vec![oid(), Value::Int(3), data(), txn()]),
        (
            "storea",
            vec![oid(), Value::Text("\u{100}".repeat(8)), data(), txn()],
        ),
        (
            "storea",
            vec![oid(), zeros(), Value::Text("data".to_owned()), txn()],
        ),
        (
            "restorea",
            vec![oid(), zeros(), Value::Int(1), Value::None, txn()],
        ),
        ("deleteObject", vec![oid(), bytes(b"short"), txn()]),
        (
            "checkCurrentSerialInTransaction",
            vec![Value::None, zeros(), txn()],
        ),
        ("storeBlobEnd", vec![oid(), zeros(), Value::None, txn()]),
        (
            "storeBlobShared",
            vec![oid(), zeros(), data(), Value::None, txn()],
        ),
    ];
    for (method, arguments) in nonsense {
        client.begin(1).await;
        if method == "storeBlobEnd" {
            client.tell(Call::StoreBlobStart).await;
        }
        client.raw(&message(method, arguments, true)).await;
        // Whatever comes after it.
        client.store(1, 8, Tid::ZERO, b"data").await;
        if method == "storeBlobEnd" {
            client.tell(Call::StoreBlobStart).await;
        }
        let reply = client.call(vote(1)).await;
        assert!(
            matches!(&reply, Reply::Error(WireError::Type(why)) if why.starts_with(method)),
            "{method}: {reply:?}"
        );
    }
    // The same where nobody has begun: then there is no vote that could say so.
    let malformed = || message("storea", vec![Value::None, zeros(), data(), txn()], true);
    let mut stranger = house.client().await;
    stranger.raw(&malformed()).await;
    stranger.is_closed().await;
    // What only reads is answered at once.
    let id = MessageId::Int(7);
    client.asked.push_back((id.clone(), Expected::None));
    client
        .raw(&message("getTid", vec![Value::Int(1)], false))
        .await;
    let (_, reply) = client.hear_until(&id).await;
    assert!(
        matches!(&reply, Reply::Error(WireError::Type(_))),
        "{reply:?}"
    );
    client.commit(9, Tid::ZERO, b"data").await;
}

#[tokio::test]
async fn a_serial_may_be_a_text_of_bytes() {
    let house = House::of(MemoryStorage::new("test"));
    let mut client = house.client().await;
    let first = client.commit(9, Tid::ZERO, b"one").await;
    let text = |tid: Tid| Value::Text(tid.to_bytes().map(char::from).iter().collect());
    let store = |oid: u64, serial: Value| {
        let bytes = |bytes: &[u8]| Value::Bytes(Bytes::copy_from_slice(bytes));
        let arguments = vec![
            bytes(&oid.to_be_bytes()),
            serial,
            bytes(b"two"),
            Value::Int(1),
        ];
        message("storea", arguments, true)
    };
    client.begin(1).await;
    client.raw(&store(8, text(Tid::ZERO))).await;
    client.raw(&store(9, text(first))).await;
    assert_eq!(client.call(vote(1)).await, Reply::Voted(vec![]));
    assert!(matches!(client.call(finish(1)).await, Reply::Tid(_)));
    client.begin(1).await;
    client.raw(&store(9, text(first))).await;
    let Reply::Conflicts(conflicts) = client.call(vote(1)).await else {
        panic!("no conflict");
    };
    assert_eq!(conflicts[0].read, first);
}

#[tokio::test]
async fn an_extension_that_no_server_reads_goes_no_further() {
    let house = House::of(MemoryStorage::new("test"));
    let mut other = house.client().await;
    let dict = |key: Value, value: Value| Value::Dict(vec![(key, value)]);
    let text = |text: &str| Value::Text(text.to_owned());
    let encode = || Value::Global {
        module: "_codecs".to_owned(),
        name: "encode".to_owned(),
    };
    let extensions = [
        dict(Value::List(vec![]), Value::None),
        dict(text("a"), Value::Set(vec![Value::Dict(vec![])])),
        dict(text("a"), encode()),
        // The pickle of one.
        Value::Bytes(write::dumps(&dict(text("a"), encode()))),
    ];
    for extension in extensions {
        let mut client = house.client().await;
        client.raw(&begin_with(extension.clone(), true)).await;
        client.is_closed().await;
        // Whoever waits for an answer gets one.
        let mut client = house.client().await;
        let id = MessageId::Int(7);
        client.asked.push_back((id.clone(), Expected::None));
        client.raw(&begin_with(extension, false)).await;
        let (_, reply) = client.hear_until(&id).await;
        assert!(
            matches!(&reply, Reply::Error(WireError::Type(why)) if why.contains("the extension")),
            "{reply:?}"
        );
        assert_eq!(client.call(Call::Ping).await, Reply::None);
    }
    other.commit(1, Tid::ZERO, b"data").await;
}

#[tokio::test]
async fn a_read_only_storage_is_neither_written_nor_packed() {
    let storage = MemoryStorage::new("test");
    let first = commit(&storage, &[(1, Tid::ZERO, b"a")]).await;
    let house = House::changed(storage, ServerOptions::default(), |served| {
        served.with_read_only(true)
    });
    let refused = || Reply::Error(WireError::Answer(Answer::ReadOnly));
    for dialect in [Dialect::Pickle, Dialect::Msgpack] {
        let mut client = house.connect(dialect).await;
        assert_eq!(client.register("main", false).await, refused());
        // The same connection may do without writing.
        assert_eq!(client.register("main", true).await, Reply::Tid(first));
        assert_eq!(&client.load(1).await.data[..], b"a");
        assert_eq!(client.call(Call::NewOids { count: 1 }).await, refused());
        let pack = |wait| Call::Pack { time: 1e9, wait };
        assert_eq!(client.call(pack(true)).await, refused());
        assert_eq!(client.call(pack(false)).await, Reply::None);
        // `tpc_begin` is not answered; its error comes with the vote.
        client.begin(1).await;
        client.store(1, 1, first, b"b").await;
        assert_eq!(client.call(vote(1)).await, refused());
        assert_eq!(&client.load(1).await.data[..], b"a");
    }
}
