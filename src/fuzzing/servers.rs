//! What a ZEO server may say to us, when we are its client.
//!
//! The first byte says the dialect, then come what our side does, one byte each, to a zero; then the
//! server's answers, in the order of the calls. A server that has come to its end answers as an honest
//! one for a while, and then hangs up.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::net::{UnixListener, UnixStream, unix};

use super::input::{FIRST, Input, SECOND};
use super::{ends, in_folder, run};
use crate::pickle::Value;
use crate::storage::zeo::{ZeoAddress, ZeoOptions, ZeoStorage};
use crate::storage::{Invalidations, Storage, Vote};
use crate::wire::connection::{Reader, Writer};
use crate::wire::{
    Call, Dialect, FromClient, Info, IteratedRecord, LoadedRecord, MessageId, Push, Reply, Request,
    WireError, handshake,
};
use crate::zodb::{Answer, HistoryRecord, HistoryTxn, Oid, Op, RecordData, Tid, TidRange, TxnMeta};

/// Honest answers after the last of the input's.
const AFTERWARDS: usize = 64;

/// Calls of a client before a server that says what the input says.
pub(super) fn zeo(data: &[u8]) {
    in_folder(|folder| run(whole(data, folder)));
}

async fn whole(data: &[u8], folder: &Path) {
    let mut input = Input::new(data);
    let dialect = match input.byte() & 1 {
        0 => Dialect::Pickle,
        _ => Dialect::Msgpack,
    };
    let mut deeds = Vec::new();
    loop {
        match input.byte() {
            0 => break,
            deed => deeds.push(deed),
        }
    }
    let path = folder.join("s");
    let listener = UnixListener::bind(&path).expect("a socket can be made");
    let answers = Rc::new(RefCell::new(Answers {
        input,
        last: SECOND,
        begun: None,
        honest: 0,
    }));
    let options = ZeoOptions {
        blob_folder: folder.to_owned(),
        max_frame_bytes: 1 << 20,
        ..ZeoOptions::new(ZeoAddress::Unix(path), "1")
    };
    let serving = serve(&listener, dialect, &answers);
    let using = async {
        if let Ok(storage) = ZeoStorage::open(options).await {
            let mut heard = storage.subscribe();
            for deed in deeds {
                ends(act(&storage, deed, &mut heard)).await;
            }
            drop(storage);
        }
    };
    tokio::select! {
        () = serving => {}
        () = ends(using) => {}
    }
}

/// One deed; what it comes to is the server's affair.
async fn act(storage: &ZeoStorage, deed: u8, heard: &mut Invalidations) {
    let (oid, tid) = (Oid(1), FIRST);
    match deed % 22 {
        0 => drop(storage.last_tid().await),
        1 => drop(storage.newest_tid().await),
        2 => drop(storage.load_before(oid, Tid::MAX).await),
        3 => drop(storage.load_serial(oid, tid).await),
        4 => drop(storage.current_tid(oid).await),
        5 => {
            if let Ok(oids) = storage.new_oids(10, Oid(100)).await {
                assert!(oids.iter().all(|oid| *oid > Oid(100)), "{oids:?}");
            }
        }
        6 => drop(storage.history(oid, 10).await),
        7 => drop(storage.record_from(oid).await),
        8 => {
            let all = TidRange {
                first: Tid::ZERO,
                last: Tid::MAX,
            };
            let Ok(mut history) = storage.iterate(all).await else {
                return;
            };
            let mut last = Tid::ZERO;
            while let Ok(Some(transaction)) = history.next().await {
                assert!(transaction.tid > last, "a history goes on");
                last = transaction.tid;
            }
        }
        9 => drop(storage.tids_before(SECOND, 10).await),
        10 => drop(storage.measure_after(tid).await),
        11 => drop(storage.invalidations_since(tid).await),
        12 => drop(storage.load_blob(oid, tid).await),
        13 => drop(storage.undo_info(0, -20, &Value::None).await),
        14 => drop(storage.pack(1.0e9).await),
        15..=18 => commit(storage, deed).await,
        19 => drop(storage.restore(vec![copied()]).await),
        20 => drop(heard.try_next()),
        _ => tokio::time::sleep(Duration::from_secs(3)).await,
    }
}

/// To the vote, to the finish, or given up before it; by our TID or by the server's.
async fn commit(storage: &ZeoStorage, deed: u8) {
    let tid = (deed & 32 == 0).then_some(Tid(SECOND.0 + 1000));
    let Ok(mut transaction) = storage.begin(TxnMeta::default(), tid).await else {
        return;
    };
    let op = match deed % 22 {
        15 => Op::Undo { tid: FIRST },
        16 => Op::Delete {
            oid: Oid(1),
            serial: SECOND,
        },
        _ => Op::Store {
            oid: Oid(1),
            serial: SECOND,
            data: Bytes::from_static(b"data").into(),
        },
    };
    if transaction.store(op).await.is_err() {
        return;
    }
    let mut vote = transaction.vote().await;
    // Who is told of conflicts votes again.
    for _ in 0..2 {
        vote = match vote {
            Ok(Vote::Conflicts(transaction, _)) => transaction.vote().await,
            other => other,
        };
    }
    if let Ok(Vote::Ready(voted)) = vote
        && deed & 64 == 0
    {
        drop(voted.finish().await);
    }
}

fn copied() -> HistoryTxn {
    HistoryTxn {
        tid: Tid(SECOND.0 + 500),
        meta: TxnMeta::default(),
        records: vec![HistoryRecord {
            oid: Oid(1),
            data: RecordData::Data(Bytes::from_static(b"copied").into()),
            blob: None,
        }],
    }
}

/// What the server says, and has said.
struct Answers<'a> {
    input: Input<'a>,
    last: Tid,
    begun: Option<Tid>,
    /// Honest answers after the end of the input.
    honest: usize,
}

type Shared<'a> = Rc<RefCell<Answers<'a>>>;

/// Accepts connections, and talks on all of them at once.
async fn serve(listener: &UnixListener, dialect: Dialect, answers: &Shared<'_>) {
    let mut talks = futures_util::stream::FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.expect("it can be accepted");
                talks.push(talk(stream, dialect, Rc::clone(answers)));
            }
            Some(()) = futures_util::StreamExt::next(&mut talks) => {}
        }
    }
}

async fn talk(stream: UnixStream, dialect: Dialect, answers: Shared<'_>) {
    let (read, write) = stream.into_split();
    let mut reader = Reader::new(read, 1 << 20);
    let mut writer = Writer::new(write);
    let accepted = handshake::accept(&mut reader, &mut writer, dialect).await;
    if accepted.is_err() {
        return;
    }
    // What is said after a part of a frame goes into it.
    let mut is_heard = true;
    while let Ok(Some(said)) = reader.next_from_client().await {
        let FromClient::Request(request) = said else {
            continue;
        };
        let is_blob = matches!(request.call, Call::SendBlob { .. });
        let answered = answers.borrow_mut().answer(&request, &mut writer);
        if writer.flush().await.is_err() || answered == Answered::HangUp {
            return;
        }
        is_heard &= answered != Answered::Unframed;
        // A thread waits for the pieces, for which the clock stands still: silence would have no end.
        if is_blob && (answered == Answered::Oddly || !is_heard) {
            return;
        }
    }
}

#[derive(PartialEq)]
enum Answered {
    Honestly,
    Oddly,
    Unframed,
    HangUp,
}

impl Answers<'_> {
    fn answer(&mut self, request: &Request, writer: &mut Writer<unix::OwnedWriteHalf>) -> Answered {
        let usual = self.usual(&request.call);
        let honest = |writer: &mut Writer<_>| {
            if !request.one_way {
                writer.reply(&request.id, &usual);
            }
        };
        if self.input.is_empty() {
            self.honest += 1;
            honest(writer);
            return if self.honest < AFTERWARDS {
                Answered::Honestly
            } else {
                Answered::HangUp
            };
        }
        // Who is not answered has nothing of an answer.
        if request.one_way {
            return Answered::Honestly;
        }
        match self.input.byte() {
            // Bytes as the value of the answer.
            kind @ 1..=2 => {
                let value = self.input.long();
                writer.raw(&reply(writer.dialect(), &request.id, kind - 1, &value));
            }
            // Bytes as a message.
            3 => writer.raw(&self.input.long()),
            // Bytes.
            4 => {
                writer.output().put(&self.input.long());
                return Answered::Unframed;
            }
            5 => return Answered::HangUp,
            // It says nothing.
            6 => {}
            7 => {
                let push = Push::InvalidateTransaction {
                    tid: self.input.tid(self.last),
                    oids: Arc::new([self.input.oid()]),
                };
                writer.push(&push);
                honest(writer);
            }
            8 => {
                honest(writer);
                let push = Push::Info {
                    objects: self.input.number(),
                    bytes: self.input.number(),
                };
                writer.push(&push);
            }
            9 => {
                let other = self.other();
                writer.reply(&request.id, &other);
            }
            // Twice.
            10 => {
                honest(writer);
                honest(writer);
            }
            11 => {
                let (oid, serial) = (self.input.oid(), self.input.tid(self.last));
                match self.input.byte() & 3 {
                    0 => writer.push(&Push::ReceiveBlobStart { oid, serial }),
                    1 => {
                        let chunk = self.input.short();
                        writer.push(&Push::ReceiveBlobChunk { oid, serial, chunk });
                    }
                    2 => writer.push(&Push::ReceiveBlobStop { oid, serial }),
                    _ => {
                        writer.push(&Push::ReceiveBlobStart { oid, serial });
                        let chunk = self.input.short();
                        writer.push(&Push::ReceiveBlobChunk { oid, serial, chunk });
                        writer.push(&Push::ReceiveBlobStop { oid, serial });
                    }
                }
                honest(writer);
            }
            // An answer to another call.
            12 => {
                let id = MessageId::Int(i64::from(self.input.byte()));
                writer.reply(&id, &usual);
            }
            _ => {
                honest(writer);
                return Answered::Honestly;
            }
        }
        Answered::Oddly
    }

    /// A well-formed answer that may be none to the call.
    fn other(&mut self) -> Reply {
        let tid = self.input.tid(self.last);
        let oid = self.input.oid();
        match self.input.byte() % 11 {
            0 => Reply::None,
            1 => Reply::Tid(tid),
            2 => Reply::Data(self.input.short()),
            3 => Reply::Loaded(Some(LoadedRecord {
                data: self.input.short(),
                tid,
                end: self.input.some_tid(self.last),
            })),
            4 => Reply::Oids(vec![oid, self.input.oid()]),
            5 => Reply::Transaction(Some((tid, TxnMeta::default()))),
            6 => Reply::Record(Some(IteratedRecord {
                oid,
                tid,
                data: (self.input.byte() & 1 == 1).then(|| self.input.short()),
                data_txn: self.input.some_tid(self.last),
            })),
            7 => Reply::Iterator(self.input.number().cast_signed()),
            8 => Reply::Invalidations(Some((tid, vec![oid]))),
            9 => Reply::Error(WireError::Answer(Answer::NoSuchObject(oid))),
            _ => Reply::CurrentRecord {
                oid,
                tid,
                data: self.input.short(),
                next: Some(self.input.oid()),
            },
        }
    }

    /// What an honest server answers.
    fn usual(&mut self, call: &Call) -> Reply {
        match call {
            Call::Register { .. } | Call::LastTransaction | Call::GetTid { .. } => {
                Reply::Tid(self.last)
            }
            Call::GetInfo => Reply::Info(Info {
                name: "a server".to_owned(),
                objects: 2,
                bytes: 200,
                supports_undo: true,
                supports_record_iternext: true,
                interfaces: vec![("ZODB.interfaces", "IBlobStorage")],
            }),
            Call::LoadBefore { .. } => Reply::Loaded(Some(LoadedRecord {
                data: Bytes::from_static(b"data"),
                tid: self.last,
                end: None,
            })),
            Call::NewOids { .. } => Reply::Oids(vec![Oid(101), Oid(102)]),
            Call::IteratorStart { .. } | Call::IteratorRecordStart { .. } => Reply::Iterator(1),
            Call::TpcBegin { tid, .. } => {
                self.begun = *tid;
                Reply::None
            }
            Call::Vote { .. } => Reply::Voted(Vec::new()),
            Call::TpcFinish { .. } => {
                self.last = self.begun.unwrap_or(Tid(self.last.0 + 10));
                Reply::Tid(self.last)
            }
            _ => Reply::None,
        }
    }
}

/// A reply with this value, or with this exception, as bytes that need be none.
fn reply(dialect: Dialect, id: &MessageId, is_error: u8, value: &[u8]) -> Bytes {
    let id = match id {
        MessageId::Int(id) => u32::try_from(*id).unwrap_or_default(),
        _ => 0,
    };
    let mut said = BytesMut::new();
    match dialect {
        Dialect::Pickle => {
            said.put_slice(b"\x80\x03(J");
            said.put_u32_le(id);
            said.put_slice(&[b'K', is_error]);
            said.put_slice(b"X\x06\0\0\0.reply");
            said.put_slice(value);
            said.put_slice(b"t.");
        }
        Dialect::Msgpack => {
            said.put_slice(b"\x94\xce");
            said.put_u32(id);
            said.put_slice(&[is_error]);
            said.put_slice(b"\xa6.reply");
            said.put_slice(value);
        }
    }
    said.freeze()
}
