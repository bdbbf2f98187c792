//! Two ends of a connection in memory.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};

use super::connection::{ReadError, Reader, ReceiveError, Writer};
use super::handshake::{self, Choice, HandshakeError};
use super::{
    Call, Dialect, Expected, FromClient, FromServer, LoadedRecord, MessageId, Push, RawReply,
    Reply, Request, ServerStatus,
};
use crate::zodb::{Oid, Tid};

const LIMIT: usize = 1 << 20;

type End = (
    Reader<ReadHalf<DuplexStream>>,
    Writer<WriteHalf<DuplexStream>>,
);

fn ends(capacity: usize) -> (End, End) {
    let end = |stream| {
        let (read, write) = split(stream);
        (Reader::new(read, LIMIT), Writer::new(write))
    };
    let (server, client) = duplex(capacity);
    (end(server), end(client))
}

fn load(oid: u64) -> Request {
    Request {
        id: MessageId::Load(Oid(oid), Tid::MAX),
        one_way: false,
        call: Call::LoadBefore {
            oid: Oid(oid),
            before: Tid::MAX,
        },
    }
}

#[tokio::test]
async fn the_clients_choice_decides_the_dialect() {
    for offer in [Dialect::Pickle, Dialect::Msgpack] {
        for choice in [None, Some(Dialect::Pickle), Some(Dialect::Msgpack)] {
            let ((mut reader, mut writer), (mut client_reader, mut client_writer)) = ends(100);
            let (server, client) = tokio::join!(
                handshake::accept(&mut reader, &mut writer, offer),
                handshake::connect(&mut client_reader, &mut client_writer, choice),
            );
            let agreed = choice.unwrap_or(offer);
            assert_eq!(server.expect("agreed"), Choice::Dialect(agreed));
            assert_eq!(client.expect("agreed"), agreed);
            assert_eq!((reader.dialect(), writer.dialect()), (agreed, agreed));
            assert_eq!(reader.limit(), LIMIT);
        }
    }
}

#[tokio::test]
async fn whoever_asks_for_the_status_is_told_in_json() {
    let ((mut reader, mut writer), (mut client_reader, mut client_writer)) = ends(4096);
    let status = ServerStatus {
        loads: 1,
        stores: 2,
        commits: 3,
        aborts: 4,
        active_txns: 5,
        conflicts: 6,
        conflicts_resolved: 7,
        verifying_clients: 0,
        connections: 8,
        waiting: 9,
        lock_time: None,
        start: "Fri Nov 20 09:16:41 2026".to_owned(),
        last_transaction: Tid::ZERO,
        timeout_thread_is_alive: true,
    };
    let server = async {
        let choice = handshake::accept(&mut reader, &mut writer, Dialect::Pickle).await;
        assert_eq!(choice.expect("a choice"), Choice::Status);
        writer.raw(&handshake::status_json([("größe", &status)]));
        writer.close().await.expect("open");
    };
    let client = handshake::ask_status(&mut client_reader, &mut client_writer);
    let ((), answer) = tokio::join!(server, client);
    let answer = answer.expect("an answer");
    assert!(answer.is_ascii(), "zeo-nagios wants ASCII");
    let json: serde_json::Value = serde_json::from_slice(&answer).expect("JSON");
    let storage = &json["größe"];
    assert_eq!(storage["last-transaction"], "0000000000000000");
    assert_eq!(storage["connections"], 8);
    assert_eq!(storage["lock_time"], serde_json::Value::Null);
    for name in [
        "active_txns",
        "waiting",
        "aborts",
        "commits",
        "conflicts",
        "loads",
        "stores",
    ] {
        assert!(storage[name].is_u64(), "{name}");
    }
}

#[tokio::test]
async fn strangers_are_told_apart() {
    // Another version, an old one, HTTP, nonsense, a frame that nobody needs now, and silence.
    let cases: [(&[u8], &str); 6] = [
        (
            b"\0\0\0\x02Z4",
            "not a protocol that is spoken here: \"Z4\"",
        ),
        (
            b"\0\0\0\x04Z310",
            "not a protocol that is spoken here: \"Z310\", which is that of ZEO 4 and older; ZEO 5 or 6 \
             is needed",
        ),
        (
            b"GET / HTTP/1.1\r\n",
            "the other side speaks HTTP, which is not spoken at this address",
        ),
        (
            b"nonsense",
            "a frame of 1852796531 bytes was announced, the limit is 64",
        ),
        (
            b"\0\0\0\x41",
            "a frame of 65 bytes was announced, the limit is 64",
        ),
        (
            b"",
            "the connection ended before both sides had chosen an encoding",
        ),
    ];
    for (bytes, expected) in cases {
        let (server, mut client) = duplex(1000);
        let (read, write) = split(server);
        let (mut reader, mut writer) = (Reader::new(read, LIMIT), Writer::new(write));
        client.write_all(bytes).await.expect("room");
        client.shutdown().await.expect("open");
        let choice = handshake::accept(&mut reader, &mut writer, Dialect::Pickle).await;
        assert_eq!(choice.expect_err("refused").to_string(), expected);
    }
    let ((mut reader, mut writer), (_, mut client)) = ends(1000);
    client.raw(b"X5");
    client.flush().await.expect("room");
    let offer = handshake::connect(&mut reader, &mut writer, None).await;
    assert!(matches!(offer, Err(HandshakeError::Unknown(_))));
}

#[tokio::test]
async fn all_that_has_arrived_is_taken_without_waiting() {
    let ((mut reader, _), (_, mut client)) = ends(1 << 16);
    for oid in 0..100 {
        client.request(&load(oid)).expect("can be said");
    }
    client.flush().await.expect("room");
    let first = reader.next_frame().await.expect("open").expect("a frame");
    let mut frames = vec![first];
    while let Some(frame) = reader.buffered().expect("frames") {
        frames.push(frame);
    }
    assert_eq!(frames.len(), 100);
    for (oid, frame) in frames.into_iter().enumerate() {
        assert_eq!(
            reader.dialect().decode_from_client(frame),
            Ok(FromClient::Request(load(oid as u64)))
        );
    }
}

#[tokio::test]
async fn calls_are_answered_in_both_dialects_over_narrow_pipes() {
    for dialect in [Dialect::Pickle, Dialect::Msgpack] {
        // A pipe of 1000 bytes, and records that are queued by reference.
        let ((mut reader, mut writer), (mut client_reader, mut client_writer)) = ends(1000);
        for end in [&mut reader, &mut client_reader] {
            end.set_dialect(dialect);
        }
        writer.set_dialect(dialect);
        client_writer.set_dialect(dialect);
        let record = |oid: Oid| LoadedRecord {
            data: Bytes::from(vec![oid.0 as u8; 10_000 * oid.0 as usize]),
            tid: Tid(oid.0),
            end: None,
        };
        let server = async {
            while let Some(message) = reader.next_from_client().await.expect("a message") {
                let FromClient::Request(request) = message else {
                    continue;
                };
                let Call::LoadBefore { oid, .. } = request.call else {
                    panic!("a load");
                };
                writer.push(&Push::InvalidateTransaction {
                    tid: Tid(oid.0),
                    oids: vec![oid].into(),
                });
                writer.reply(&request.id, &Reply::Loaded(Some(record(oid))));
                assert!(writer.pending() > 10_000 * oid.0 as usize);
                writer.flush().await.expect("open");
                assert_eq!(writer.pending(), 0);
            }
        };
        let client = async {
            for oid in 0..5 {
                client_writer.heartbeat();
                client_writer.request(&load(oid)).expect("can be said");
                client_writer.flush().await.expect("open");
                let push = client_reader.next_from_server().await.expect("a message");
                assert!(matches!(push, Some(FromServer::Push(_))));
                let reply = client_reader.next_from_server().await.expect("a message");
                let Some(FromServer::Reply(raw)) = reply else {
                    panic!("a reply");
                };
                let RawReply { id, .. } = &raw;
                assert_eq!(*id, MessageId::Load(Oid(oid), Tid::MAX));
                assert_eq!(
                    raw.expect(Expected::Loaded),
                    Ok(Reply::Loaded(Some(record(Oid(oid)))))
                );
            }
            client_writer.close().await.expect("open");
        };
        tokio::join!(server, client);
    }
}

#[tokio::test]
async fn a_connection_may_end_between_messages_but_not_within_one() {
    for (bytes, clean) in [
        (&b"\0\0\0\x01x"[..], true),
        (b"\0\0\0\x02x", false),
        (b"\0", false),
    ] {
        let (server, mut client) = duplex(1000);
        let mut reader = Reader::new(server, LIMIT);
        client.write_all(bytes).await.expect("room");
        drop(client);
        let mut last = reader.next_frame().await;
        if clean {
            assert_eq!(last.expect("a frame"), Some(Bytes::from_static(b"x")));
            last = reader.next_frame().await;
            assert!(matches!(last, Ok(None)));
        } else {
            assert!(matches!(last, Err(ReadError::Truncated)));
        }
    }
}

#[tokio::test]
async fn what_is_too_large_or_no_message_ends_the_reading() {
    let ((mut reader, _), (_, mut client)) = ends(1 << 16);
    client.raw(b"not a pickle");
    client.flush().await.expect("room");
    let message = reader.next_from_client().await;
    assert!(matches!(message, Err(ReceiveError::Decode(_))));

    let (server, mut client) = duplex(1000);
    let mut reader = Reader::new(server, LIMIT);
    client.write_all(&[0xff; 4]).await.expect("room");
    let message = reader.next_from_client().await;
    assert!(matches!(
        message,
        Err(ReceiveError::Read(ReadError::TooLarge(_)))
    ));
}

/// Takes three bytes at every second call.
struct Slow {
    taken: Vec<u8>,
    ready: bool,
}

impl AsyncWrite for Slow {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.ready = !self.ready;
        if !self.ready {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let count = bytes.len().min(3);
        self.taken.extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_flush_that_is_dropped_tears_no_message() {
    let mut io = Slow {
        taken: Vec::new(),
        ready: false,
    };
    let mut expected = Vec::new();
    {
        let mut writer = Writer::new(&mut io);
        for number in 0..20u8 {
            writer.raw(&[number; 20]);
            expected.extend_from_slice(&[0, 0, 0, 20]);
            expected.extend_from_slice(&[number; 20]);
            // Polled once or twice, then dropped: something else was ready first.
            for _ in 0..2 {
                tokio::select! {
                    biased;
                    flushed = writer.flush() => flushed.expect("it writes"),
                    () = std::future::ready(()) => {}
                }
            }
        }
        assert!(writer.pending() > 0);
        writer.flush().await.expect("it writes");
        assert_eq!(writer.pending(), 0);
    }
    assert_eq!(io.taken, expected);
}

/// Takes everything at once, as TLS does, and has it on its way only when it was flushed to the end.
struct Keeping {
    kept: usize,
    flushed: bool,
}

impl AsyncWrite for Keeping {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.kept += bytes.len();
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.flushed {
            return Poll::Pending;
        }
        self.kept = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn what_was_taken_and_not_flushed_is_not_forgotten() {
    let mut io = Keeping {
        kept: 0,
        flushed: false,
    };
    let mut writer = Writer::new(&mut io);
    writer.raw(b"hello");
    assert_eq!(writer.pending(), 9);
    // Dropped in the middle, as by a session that something else has come to.
    let mut context = Context::from_waker(std::task::Waker::noop());
    assert!(
        Box::pin(writer.flush())
            .as_mut()
            .poll(&mut context)
            .is_pending()
    );
    assert_eq!(writer.pending(), 1, "something is left to do");
    let mut io = writer.into_inner();
    io.flushed = true;
    assert_eq!(io.kept, 9);
    let mut writer = Writer::new(&mut io);
    writer.raw(b"hello");
    writer.flush().await.expect("it is flushed");
    assert_eq!(writer.pending(), 0);
    assert_eq!(io.kept, 0);
}

#[tokio::test]
async fn who_speaks_tls_is_told_apart_from_who_speaks_nonsense() {
    for (said, is_tls) in [
        (&b"\x16\x03\x01\x02\x00\x01"[..], true),
        (b"\x16\x03\x03\x00\xff", true),
        (b"GET / HTTP/1.1\r\n", false),
    ] {
        let ((mut reader, mut writer), (_client_reader, client_writer)) = ends(100);
        client_writer
            .into_inner()
            .write_all(said)
            .await
            .expect("there is room");
        let choice = handshake::accept(&mut reader, &mut writer, Dialect::Pickle).await;
        let found = matches!(choice, Err(HandshakeError::Tls));
        assert_eq!(found, is_tls, "{choice:?}");
    }
}
