//! Whole sessions of clients, before a storage in memory.
//!
//! The first byte says how the client behaves, see [`Manner`]. Then come its messages: a byte for the
//! kind of a call ([`super::calls`]), or for bytes of the input as they are. After the last it hangs up, or
//! says nothing any more.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::calls::call;
use super::input::{FIRST, Input, SECOND};
use super::{ends, in_folder, run};
use crate::admin::fake::Fake;
use crate::server::{Served, Server, ServerOptions, Serving};
use crate::storage::Opener;
use crate::storage::memory::MemoryOpener;
use crate::wire::connection::{Reader, Writer};
use crate::wire::{
    Call, Dialect, Expected, FromServer, MessageId, Push, Reply, Request, handshake,
};
use crate::zodb::{HistoryRecord, HistoryTxn, Oid, RecordData, Tid, TxnMeta};

/// How long a thread may take to remove a file.
const PATIENCE: Duration = Duration::from_mins(1);

/// How a client behaves.
#[expect(clippy::struct_excessive_bools, reason = "each is a bit of the input")]
struct Manner {
    dialect: Dialect,
    /// What it says is bytes of the input, from the first on.
    raw: bool,
    /// The connection takes a few bytes at a time.
    narrow: bool,
    registers: bool,
    /// It never hangs up, and leaves when the server stops.
    stays: bool,
    read_only: bool,
    /// It reads nothing until it has said everything.
    deaf: bool,
    /// It makes one call after the other.
    patient: bool,
}

impl Manner {
    fn of(byte: u8) -> Self {
        let is_set = |bit: u8| byte >> bit & 1 == 1;
        Manner {
            dialect: if is_set(0) {
                Dialect::Msgpack
            } else {
                Dialect::Pickle
            },
            raw: is_set(1),
            narrow: is_set(2),
            registers: !is_set(3),
            stays: is_set(4),
            read_only: is_set(5),
            deaf: is_set(6),
            patient: is_set(7),
        }
    }
}

/// A client's session, from the first byte to its end.
pub(super) fn session(data: &[u8]) {
    in_folder(|folder| run(whole(data, folder)));
}

async fn whole(data: &[u8], folder: &Path) {
    let mut input = Input::new(data);
    let manner = Manner::of(input.byte());
    let opener = MemoryOpener::new("fuzzed");
    opener.tamper(|history| history.extend(history_of_two()));
    let storage = opener.open().await.expect("it is in memory");
    let (serving, watched) = watch::channel(Serving::Yes);
    let served = Served::new("1", storage, watched);
    let served = served.with_uploads(folder).with_zeo_admin(true);
    let started = Server::start(options(), Vec::new(), vec![served]).await;
    let house = started.expect("it listens nowhere");
    house.set_admin(Arc::new(Fake::default()));
    let pipe = if manner.narrow { 13 } else { 64 << 10 };
    let (ours, theirs) = tokio::io::duplex(pipe);
    house.serve(theirs, "the fuzzer");
    let mut talking = std::pin::pin!(converse(&manner, &mut input, ours));
    let talked = timeout(Duration::from_hours(1), &mut talking).await;
    if talked.is_ok() {
        ends(async {
            while house.connections() > 0 {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        })
        .await;
    }
    assert!(talked.is_ok() || manner.stays, "who hangs up is let go");
    let (ended, ()) = tokio::join!(house.shutdown(Duration::from_hours(1)), async {
        if talked.is_err() {
            talking.await;
        }
    });
    ended.expect("every session ends");
    drop(serving);
    let transactions = opener.transactions();
    assert!(
        transactions.is_sorted_by(|one, next| one.tid < next.tid),
        "a history goes on"
    );
    drop((house, opener, transactions));
    // A thread that was told to make one may still be about to remove it.
    let since = std::time::Instant::now();
    while std::fs::read_dir(folder)
        .expect("the folder is there")
        .count()
        > 0
    {
        assert!(since.elapsed() < PATIENCE, "an upload is left behind");
        tokio::task::yield_now().await;
    }
}

/// Small, so that a small input reaches them.
fn options() -> ServerOptions {
    ServerOptions {
        max_frame_bytes: 1 << 20,
        outbox_bytes: 64 << 10,
        transaction_bytes: 16 << 10,
        calls_in_flight: 8,
        iterators: 4,
        ..ServerOptions::default()
    }
}

/// Objects 0 and 1 of one transaction, and 1 once more of the next.
fn history_of_two() -> [HistoryTxn; 2] {
    let record = |oid, data: &'static [u8]| HistoryRecord {
        oid: Oid(oid),
        data: RecordData::Data(bytes::Bytes::from_static(data).into()),
        blob: None,
    };
    let transaction = |tid, records| HistoryTxn {
        tid,
        meta: TxnMeta {
            user: "user".into(),
            description: "description".into(),
            ..TxnMeta::default()
        },
        records,
    };
    [
        transaction(FIRST, vec![record(0, b"root"), record(1, b"one")]),
        transaction(SECOND, vec![record(1, b"once more")]),
    ]
}

/// What both halves of the client know.
struct Talk {
    asked: RefCell<HashMap<i64, Expected>>,
    /// Only calls were made: every reply is of one.
    plain: Cell<bool>,
    heard: Cell<Tid>,
    news: Notify,
}

async fn converse(manner: &Manner, input: &mut Input<'_>, stream: DuplexStream) {
    let talk = Talk {
        asked: RefCell::default(),
        plain: Cell::new(!manner.raw),
        heard: Cell::new(SECOND),
        news: Notify::new(),
    };
    let (mut read, mut write) = tokio::io::split(stream);
    if manner.raw {
        let say = async {
            // The server closes where it has heard enough.
            drop(write.write_all(input.rest()).await);
            if !manner.stays {
                drop(write.shutdown().await);
            }
        };
        let hear = async {
            let mut heard = [0; 1024];
            while let Ok(1..) = read.read(&mut heard).await {}
        };
        tokio::join!(say, hear);
        return;
    }
    let mut reader = Reader::new(read, 64 << 20);
    let mut writer = Writer::new(write);
    let chosen = handshake::connect(&mut reader, &mut writer, Some(manner.dialect)).await;
    chosen.expect("the server offers a dialect");
    if manner.deaf {
        // What is not read is not waited for without end either.
        say(manner, input, &mut writer, &talk).await;
        hear(&mut reader, &talk).await;
    } else {
        tokio::join!(
            say(manner, input, &mut writer, &talk),
            hear(&mut reader, &talk)
        );
    }
}

async fn say(
    manner: &Manner,
    input: &mut Input<'_>,
    writer: &mut Writer<WriteHalf<DuplexStream>>,
    talk: &Talk,
) {
    let mut id = 0;
    if manner.registers {
        let register = Call::Register {
            storage: "1".to_owned(),
            read_only: manner.read_only,
        };
        ask(writer, talk, &mut id, false, register);
    }
    while !input.is_empty() {
        match input.byte() {
            // A frame of the input.
            255 => {
                talk.plain.set(false);
                writer.raw(&input.long());
            }
            // Bytes of the input, which may be no frame.
            254 => {
                talk.plain.set(false);
                writer.output().put(&input.long());
            }
            253 => tokio::time::sleep(Duration::from_secs(1)).await,
            kind => {
                let one_way = kind >= 128;
                let call = call(kind & 127, input, talk.heard.get());
                ask(writer, talk, &mut id, one_way, call);
            }
        }
        if writer.flush().await.is_err() {
            break;
        }
        if manner.patient && !manner.deaf {
            let answered = talk.news.notified();
            drop(timeout(Duration::from_millis(1), answered).await);
        }
    }
    if !manner.stays {
        drop(writer.close().await);
    }
}

fn ask(
    writer: &mut Writer<WriteHalf<DuplexStream>>,
    talk: &Talk,
    id: &mut i64,
    one_way: bool,
    call: Call,
) {
    *id += 1;
    if !one_way {
        talk.asked.borrow_mut().insert(*id, Expected::of(&call));
    }
    let request = Request {
        id: MessageId::Int(*id),
        one_way,
        call,
    };
    writer.request(&request).expect("the call can be said");
}

/// Hears until the server hangs up. Whatever it says, our own client understands.
async fn hear(reader: &mut Reader<ReadHalf<DuplexStream>>, talk: &Talk) {
    let mut last = SECOND;
    loop {
        // Closed in the middle of a message where the client was too slow.
        let Ok(frame) = reader.next_frame().await else {
            return;
        };
        let Some(frame) = frame else { return };
        let said = reader.dialect().decode_from_server(frame);
        match said.unwrap_or_else(|error| panic!("the server says what is {error}")) {
            FromServer::Push(Push::InvalidateTransaction { tid, .. }) => {
                assert!(tid > last, "{tid} is told of after {last}");
                last = tid;
            }
            FromServer::Heartbeat | FromServer::Push(_) => {}
            FromServer::Reply(reply) => {
                let expected = match reply.id {
                    MessageId::Int(id) => talk.asked.borrow_mut().remove(&id),
                    _ => None,
                };
                if talk.plain.get() {
                    let expected = expected.expect("what is answered was asked");
                    let reply = reply.expect(expected);
                    let reply = reply.unwrap_or_else(|error| panic!("{expected:?}: {error}"));
                    if let Reply::Tid(tid) = reply {
                        talk.heard.set(tid);
                    }
                }
                talk.news.notify_one();
            }
        }
    }
}
