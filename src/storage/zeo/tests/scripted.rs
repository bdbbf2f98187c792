//! With a peer that says what a test tells it to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::net::tcp::OwnedReadHalf;
use tokio::time::timeout;

use crate::pickle::Value;
use crate::storage::suite::{begin, commit, ready, soon, store, voted};
use crate::storage::zeo::{ZeoAddress, ZeoOpener, ZeoOptions, ZeoStorage};
use crate::storage::{Answer, Committed, Fault, Opener, Storage, StorageError};
use crate::task::Tasks;
use crate::wire::connection::{Reader, Writer};
use crate::wire::{
    Call, Dialect, Expected, FromClient, Info, IteratedRecord, LoadedRecord, Push, Reply, Request,
    UndoLine, WireError, handshake,
};
use crate::zodb::{
    Blob, HistoryRecord, HistoryTxn, Oid, Op, Payload, RecordData, Tid, TidRange, TxnMeta,
};

/// What the peer does at a call.
enum Does {
    Usual,
    UsualAndHangsUp,
    Answers(Reply),
    /// Says these, in this order, after so long.
    Says(Duration, Vec<Say>),
    Nothing,
    /// Sends these bytes, and ends the connection where told to.
    Raw(&'static [u8], bool),
    HangsUp,
    /// Reads no more for so long.
    Sleeps(Duration),
}

enum Say {
    Push(Push),
    Answer,
    Reply(Reply),
}

type Script = dyn FnMut(usize, &Call) -> Does + Send;

/// A server at loopback: connection by connection, and its transactions, it does the usual unless the
/// script says otherwise.
struct Peer {
    options: ZeoOptions,
    calls: Arc<Mutex<Vec<Call>>>,
    tasks: Tasks,
}

impl Peer {
    /// The script is asked at every call, with the number of the connection.
    async fn start(script: impl FnMut(usize, &Call) -> Does + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = ZeoAddress::Tcp {
            host: "127.0.0.1".to_owned(),
            port: listener.local_addr().unwrap().port(),
        };
        let calls: Arc<Mutex<Vec<Call>>> = Arc::default();
        let tasks = Tasks::new("test peers");
        let script: Arc<Mutex<Box<Script>>> = Arc::new(Mutex::new(Box::new(script)));
        let last = Arc::new(Mutex::new(Tid::ZERO));
        let (group, noted, stop) = (tasks.clone(), Arc::clone(&calls), tasks.stop().clone());
        tasks.spawn("listener", async move {
            for number in 0.. {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap().0,
                    () = stop.requested() => return,
                };
                let (read, write) = stream.into_split();
                let connection = Connection {
                    number,
                    reader: Reader::new(BufReader::new(read), 1 << 30),
                    writer: Writer::new(write),
                    script: Arc::clone(&script),
                    calls: Arc::clone(&noted),
                    last: Arc::clone(&last),
                    tid: None,
                };
                let stop = stop.clone();
                group.spawn("connection", async move {
                    tokio::select! {
                        () = connection.serve() => {}
                        () = stop.requested() => {}
                    }
                });
            }
        });
        let options = ZeoOptions {
            call_timeout: Duration::from_millis(500),
            lock_timeout: Duration::from_millis(800),
            heartbeat: Duration::from_millis(100),
            read_connections: 0,
            ..ZeoOptions::new(address, "1")
        };
        Peer {
            options,
            calls,
            tasks,
        }
    }

    async fn open(&self) -> ZeoStorage {
        ZeoStorage::open(self.options.clone()).await.unwrap()
    }

    /// Waits until the peer has got such a call.
    async fn got(&self, wanted: impl Fn(&Call) -> bool) {
        let got = async {
            while !self.calls.lock().iter().any(&wanted) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(20), got)
            .await
            .expect("the call comes");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.tasks.stop().request();
    }
}

struct Connection {
    number: usize,
    reader: Reader<BufReader<OwnedReadHalf>>,
    writer: Writer<tokio::net::tcp::OwnedWriteHalf>,
    script: Arc<Mutex<Box<Script>>>,
    calls: Arc<Mutex<Vec<Call>>>,
    last: Arc<Mutex<Tid>>,
    tid: Option<Tid>,
}

impl Connection {
    async fn serve(mut self) {
        let offered = handshake::accept(&mut self.reader, &mut self.writer, Dialect::Pickle);
        offered.await.unwrap();
        while let Ok(Some(message)) = self.reader.next_from_client().await {
            let FromClient::Request(Request { id, one_way, call }) = message else {
                continue;
            };
            self.calls.lock().push(call.clone());
            let does = (self.script.lock())(self.number, &call);
            let usual = self.usual(&call);
            match does {
                Does::Usual if one_way => {}
                Does::Usual => self.writer.reply(&id, &usual),
                Does::UsualAndHangsUp => {
                    self.writer.reply(&id, &usual);
                    drop(self.writer.flush().await);
                    return;
                }
                Does::Answers(reply) => self.writer.reply(&id, &reply),
                Does::Says(after, said) => {
                    tokio::time::sleep(after).await;
                    for say in said {
                        match say {
                            Say::Push(push) => self.writer.push(&push),
                            Say::Answer => self.writer.reply(&id, &usual),
                            Say::Reply(reply) => self.writer.reply(&id, &reply),
                        }
                    }
                }
                Does::Nothing => {}
                Does::Raw(bytes, end) => {
                    let mut io = self.writer.into_inner();
                    io.write_all(bytes).await.unwrap();
                    if !end {
                        std::future::pending::<()>().await;
                    }
                    return;
                }
                Does::HangsUp => return,
                Does::Sleeps(long) => tokio::time::sleep(long).await,
            }
            if self.writer.flush().await.is_err() {
                return;
            }
        }
    }

    /// What a server with one object, at whatever its last transaction is, answers.
    fn usual(&mut self, call: &Call) -> Reply {
        let last = *self.last.lock();
        match call {
            Call::Register { .. } | Call::LastTransaction => Reply::Tid(last),
            Call::GetInfo => Reply::Info(Info {
                name: "a peer".to_owned(),
                objects: 1,
                bytes: 100,
                supports_undo: true,
                supports_record_iternext: true,
                interfaces: vec![("ZODB.interfaces", "IBlobStorage")],
            }),
            Call::LoadBefore { .. } => Reply::Loaded(Some(LoadedRecord {
                data: Bytes::from_static(b"data"),
                tid: last,
                end: None,
            })),
            Call::TpcBegin { tid, .. } => {
                self.tid = *tid;
                Reply::None
            }
            Call::Vote { .. } => Reply::Voted(vec![]),
            Call::TpcFinish { .. } => {
                let tid = self.tid.unwrap_or(Tid(last.0 + 10));
                *self.last.lock() = tid;
                Reply::Tid(tid)
            }
            _ => Reply::None,
        }
    }
}

fn fault<T>(done: Result<T, StorageError>) -> Fault {
    match done {
        Err(StorageError::Fault(fault)) => fault,
        Err(StorageError::Answer(answer)) => panic!("a fault is expected, not {answer}"),
        Ok(_) => panic!("a fault is expected"),
    }
}

/// Does this at the first load, and the usual otherwise.
fn at_load(mut does: Option<Does>) -> impl FnMut(usize, &Call) -> Does + Send {
    move |_, call| match call {
        Call::LoadBefore { .. } => does.take().unwrap_or(Does::Usual),
        _ => Does::Usual,
    }
}

#[tokio::test]
async fn the_usual_is_enough_for_a_commit() {
    let peer = Peer::start(|_, _| Does::Usual).await;
    let storage = peer.open().await;
    let tid = commit(&storage, &[(1, Tid::ZERO, b"a")]).await;
    assert_eq!(storage.last_tid().await.unwrap(), tid);
    assert_eq!(storage.size().bytes, 100);
    storage.close().await;
}

#[tokio::test]
async fn what_makes_no_sense_ends_the_connection_with_the_reason() {
    let text = || Reply::Value(Value::Text("what?".to_owned()));
    for (does, expected) in [
        (Does::Answers(text()), "the record is not a sequence"),
        (Does::Raw(&[0xff; 4], false), "a frame of 4294967295 bytes"),
        (Does::Raw(b"\0\0\0\x05hello", false), "not a message"),
        (
            Does::Raw(
                b"\0\0\0\x1c\x80\x03(K\x63K\0X\x06\0\0\0.replyC\x06abcdeft.",
                false,
            ),
            "never made",
        ),
    ] {
        let peer = Peer::start(at_load(Some(does))).await;
        let storage = peer.open().await;
        let mut heard = storage.subscribe();
        let fault = fault(soon(storage.load_before(Oid(1), Tid::MAX)).await);
        assert!(matches!(fault, Fault::Damaged(_)), "{fault}");
        assert!(fault.to_string().contains(expected), "{fault}");
        assert!(soon(heard.next()).await.is_err());
        assert!(storage.last_tid().await.is_err(), "it is dead");
    }
}

#[tokio::test]
async fn a_connection_that_ends_ends_the_storage() {
    for (does, expected) in [
        (Does::HangsUp, "closed: by the server"),
        (
            Does::Raw(&[0, 0, 1], true),
            "closed: by the server in the middle of a message",
        ),
    ] {
        let peer = Peer::start(at_load(Some(does))).await;
        let storage = peer.open().await;
        let mut heard = storage.subscribe();
        let fault = fault(soon(storage.load_before(Oid(1), Tid::MAX)).await);
        assert_eq!(fault.to_string(), expected);
        assert!(soon(heard.next()).await.is_err());
        assert!(storage.subscribe().next().await.is_err());
        let refused = storage.begin(TxnMeta::default(), None).await;
        assert!(refused.is_err());
    }
}

#[tokio::test]
async fn a_call_that_is_not_answered_fails_alone() {
    let peer = Peer::start(at_load(Some(Does::Nothing))).await;
    let storage = peer.open().await;
    let fault = fault(soon(storage.load_before(Oid(1), Tid::MAX)).await);
    assert_eq!(fault.to_string(), "no answer to `loadBefore` within 0.5 s");
    // It answered the heartbeats.
    assert!(storage.load_before(Oid(1), Tid::MAX).await.is_ok());
}

#[tokio::test]
async fn who_says_nothing_any_more_is_dead() {
    let mut left = 3;
    let peer = Peer::start(move |_, _| {
        left -= 1;
        if left > 0 {
            Does::Usual
        } else {
            Does::Sleeps(Duration::from_mins(5))
        }
    })
    .await;
    let storage = peer.open().await;
    let mut heard = storage.subscribe();
    assert!(soon(heard.next()).await.is_err());
    let fault = fault(storage.last_tid().await);
    assert!(
        matches!(
            fault,
            Fault::Timeout {
                what: "a heartbeat",
                ..
            }
        ),
        "{fault}"
    );
}

/// As Python's server is, which answers nobody while it replays a large vote or syncs a large finish.
#[tokio::test]
async fn a_large_transaction_has_its_time_and_so_has_who_waits_behind_it() {
    let peer = Peer::start(|_, call| match call {
        Call::Vote { .. } | Call::TpcFinish { .. } => {
            Does::Says(Duration::from_millis(1500), vec![Say::Answer])
        }
        _ => Does::Usual,
    })
    .await;
    let storage = peer.open().await;
    let large = vec![b'x'; 3 << 20];
    let txn = begin(&storage, vec![store(1, Tid::ZERO, &large)]).await;
    let load_behind = async |wanted: fn(&Call) -> bool| {
        peer.got(wanted).await;
        storage.load_before(Oid(1), Tid::MAX).await
    };
    let loading = load_behind(|call| matches!(call, Call::Vote { .. }));
    let (vote, loaded) = tokio::join!(txn.vote(), loading);
    loaded.expect("the load is answered after the vote");
    let voted = ready(vote.expect("the vote has its time"));
    let loading = load_behind(|call| matches!(call, Call::TpcFinish { .. }));
    let (finished, loaded) = tokio::join!(voted.finish(), loading);
    finished.expect("the finish has its time");
    loaded.expect("the load is answered after the finish");
    // What is done excuses nothing that comes later.
    assert!(storage.last_tid().await.is_ok());
}

#[tokio::test]
async fn an_idle_connection_is_kept_alive_by_heartbeats() {
    let peer = Peer::start(|_, _| Does::Usual).await;
    let storage = peer.open().await;
    // A dozen heartbeats, without a call of ours.
    let many = async {
        loop {
            let asked = peer.calls.lock().clone();
            if asked
                .iter()
                .filter(|call| **call == Call::LastTransaction)
                .count()
                > 12
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(20), many)
        .await
        .expect("heartbeats");
    assert!(storage.last_tid().await.is_ok());
}

#[tokio::test]
async fn who_does_not_speak_zeo_is_named() {
    for (said, expected) in [
        (
            &b"\0\0\0\x04Z309"[..],
            "speaks \"Z309\", which is not protocol 5",
        ),
        (
            b"HTTP/1.1 400 Bad Request",
            "is no ZEO server, or one that wants TLS",
        ),
        (b"", "the connection ended before"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = ZeoAddress::Tcp {
            host: "127.0.0.1".to_owned(),
            port: listener.local_addr().unwrap().port(),
        };
        let opener = ZeoOpener::new(ZeoOptions::new(address, "1"));
        let answering = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(said).await.unwrap();
            stream
        };
        let (outcome, _stream) = tokio::join!(
            async {
                if said.is_empty() {
                    // Ends at once.
                    drop(tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await);
                }
                soon(opener.open()).await
            },
            async {
                let stream = answering.await;
                if said.is_empty() {
                    let (stream, _) = listener.accept().await.unwrap();
                    drop(stream);
                }
                stream
            }
        );
        let Err(fault) = outcome else {
            panic!("that is no ZEO server");
        };
        assert!(fault.to_string().contains(expected), "{fault}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_does_not_open_for_ever() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = ZeoAddress::Tcp {
        host: "127.0.0.1".to_owned(),
        port: listener.local_addr().unwrap().port(),
    };
    let options = ZeoOptions {
        call_timeout: Duration::from_millis(100),
        ..ZeoOptions::new(address, "1")
    };
    let Err(fault) = soon(ZeoStorage::open(options)).await else {
        panic!("nobody answers");
    };
    assert_eq!(
        fault.to_string(),
        "no answer to being connected within 0.1 s"
    );
}

#[tokio::test]
async fn a_lost_reading_connection_is_replaced() {
    let mut lost = 0;
    let peer = Peer::start(move |number, call| match call {
        Call::LoadBefore { .. } if number > 0 && lost < 3 => {
            lost += 1;
            Does::HangsUp
        }
        _ => Does::Usual,
    })
    .await;
    let options = ZeoOptions {
        read_connections: 1,
        ..peer.options.clone()
    };
    let storage = ZeoStorage::open(options).await.unwrap();
    let registered = |count: usize| {
        let peer = &peer;
        async move {
            let enough = async {
                loop {
                    let calls = peer.calls.lock().clone();
                    let registered = calls
                        .iter()
                        .filter(|call| matches!(call, Call::Register { .. }));
                    if registered.count() >= count {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(Duration::from_secs(20), enough)
                .await
                .expect("it is opened");
        }
    };
    for count in 2..=5 {
        while storage.load_before(Oid(1), Tid::MAX).await.is_ok() {
            if peer
                .calls
                .lock()
                .iter()
                .filter(|call| matches!(call, Call::Register { .. }))
                .count()
                >= count
            {
                break;
            }
            tokio::task::yield_now().await;
        }
        registered(count).await;
    }
    assert!(storage.load_before(Oid(1), Tid::MAX).await.is_ok());
}

#[tokio::test]
async fn a_vote_that_gets_no_lock_is_given_up_and_the_next_is_good() {
    let mut first = true;
    let peer = Peer::start(move |_, call| match call {
        Call::Vote { .. } if std::mem::take(&mut first) => Does::Nothing,
        _ => Does::Usual,
    })
    .await;
    let storage = peer.open().await;
    let txn = begin(&storage, vec![store(1, Tid::ZERO, b"a")]).await;
    let fault = fault(soon(txn.vote()).await);
    assert!(matches!(fault, Fault::LockHeld { .. }), "{fault}");
    peer.got(|call| matches!(call, Call::TpcAbort { .. })).await;
    soon(commit(&storage, &[(1, Tid::ZERO, b"a")])).await;
}

/// Who does not answer the question behind the vote either is told otherwise: the lock is not what is wrong.
#[tokio::test]
async fn a_vote_to_a_server_that_says_nothing_at_all_is_not_told_as_a_held_lock() {
    let mut voted = false;
    let peer = Peer::start(move |_, call| {
        voted |= matches!(call, Call::Vote { .. });
        if voted { Does::Nothing } else { Does::Usual }
    })
    .await;
    let storage = peer.open().await;
    let txn = begin(&storage, vec![store(1, Tid::ZERO, b"a")]).await;
    let fault = fault(soon(txn.vote()).await);
    assert!(matches!(fault, Fault::Timeout { .. }), "{fault}");
}

#[tokio::test]
async fn a_vote_waits_for_the_announcement_of_what_the_server_has() {
    let foreign = || Push::InvalidateTransaction {
        tid: Tid(700),
        oids: Arc::new([Oid(5)]),
    };
    let mut voted_once = false;
    let peer = Peer::start(move |_, call| match call {
        Call::Vote { .. } => {
            voted_once = true;
            Does::Usual
        }
        // As if the server had taken another's finish in the same round: the announcement is late.
        Call::LastTransaction if std::mem::take(&mut voted_once) => {
            Does::Answers(Reply::Tid(Tid(700)))
        }
        Call::LastTransaction => {
            Does::Says(Duration::ZERO, vec![Say::Push(foreign()), Say::Answer])
        }
        _ => Does::Usual,
    })
    .await;
    let options = ZeoOptions {
        // The next question, with which the announcement comes.
        heartbeat: Duration::from_millis(200),
        ..peer.options.clone()
    };
    let storage = ZeoStorage::open(options).await.unwrap();
    let mut heard = storage.subscribe();
    let voted = voted(&storage, vec![store(1, Tid::ZERO, b"a")]).await;
    assert_eq!(voted.after(), Some(Tid(700)));
    let expected = Committed {
        tid: Tid(700),
        oids: Arc::new([Oid(5)]),
        by: None,
    };
    assert_eq!(heard.try_next(), Ok(Some(expected)));
}

#[tokio::test]
async fn a_finish_that_makes_another_transaction_is_a_fault() {
    let peer = Peer::start(|_, call| match call {
        Call::TpcFinish { .. } => Does::Answers(Reply::Tid(Tid(999))),
        _ => Does::Usual,
    })
    .await;
    let storage = peer.open().await;
    let txn = storage
        .begin(TxnMeta::default(), Some(Tid(50)))
        .await
        .unwrap();
    let voted = ready(txn.vote().await.unwrap());
    let fault = fault(soon(voted.finish()).await);
    assert!(matches!(fault, Fault::Damaged(_)), "{fault}");
    assert!(
        storage.last_tid().await.is_err(),
        "nobody knows what it holds"
    );
}

#[tokio::test]
async fn a_finish_that_fails_or_is_not_answered_is_a_fault() {
    let error = WireError::Storage("the disk is gone".to_owned());
    for does in [
        Some(Does::Answers(Reply::Error(error))),
        Some(Does::Nothing),
        None,
    ] {
        let mut does = does;
        let peer = Peer::start(move |_, call| match call {
            Call::TpcFinish { .. } => does.take().unwrap_or(Does::Answers(Reply::None)),
            _ => Does::Usual,
        })
        .await;
        let storage = peer.open().await;
        let mut heard = storage.subscribe();
        let voted = voted(&storage, vec![store(1, Tid::ZERO, b"a")]).await;
        fault(soon(voted.finish()).await);
        assert!(
            soon(heard.next()).await.is_err(),
            "told of nothing, and cut off"
        );
        assert!(storage.last_tid().await.is_err());
    }
}

#[tokio::test]
async fn a_full_disk_at_the_vote_is_a_fault_and_the_storage_goes_on() {
    let mut full = true;
    let peer = Peer::start(move |_, call| match call {
        Call::Vote { .. } if std::mem::take(&mut full) => {
            Does::Answers(Reply::Error(WireError::Answer(Answer::Other {
                class: "builtins.OSError".to_owned(),
                text: "28, No space left on device".to_owned(),
            })))
        }
        _ => Does::Usual,
    })
    .await;
    let storage = peer.open().await;
    let txn = begin(&storage, vec![store(1, Tid::ZERO, b"a")]).await;
    let fault = fault(txn.vote().await);
    assert!(matches!(fault, Fault::DiskFull { .. }), "{fault}");
    soon(commit(&storage, &[(1, Tid::ZERO, b"a")])).await;
}

#[tokio::test]
async fn a_part_of_a_blob_that_failed_fails_the_vote() {
    let peer = Peer::start(|_, call| match call {
        Call::StoreBlobChunk { .. } => {
            Does::Answers(Reply::Error(WireError::Answer(Answer::Other {
                class: "builtins.OSError".to_owned(),
                text: "28, No space left on device".to_owned(),
            })))
        }
        _ => Does::Usual,
    })
    .await;
    let storage = peer.open().await;
    let txn = begin(&storage, vec![store_blob(100_000)]).await;
    let fault = fault(txn.vote().await);
    assert!(matches!(fault, Fault::DiskFull { .. }), "{fault}");
    peer.got(|call| matches!(call, Call::TpcAbort { .. })).await;
}

fn store_blob(size: usize) -> Op {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![7; size]).unwrap();
    Op::StoreBlob {
        oid: Oid(1),
        serial: Tid::ZERO,
        data: Bytes::from_static(b"a blob").into(),
        blob: Blob::temporary(file.into_temp_path()).unwrap(),
    }
}

#[tokio::test]
async fn what_cannot_be_read_here_is_no_fault_of_the_server() {
    let peer = Peer::start(|_, _| Does::Usual).await;
    let storage = peer.open().await;
    let shorter = Arc::new(tempfile::tempfile().unwrap());
    let record = Op::Store {
        oid: Oid(1),
        serial: Tid::ZERO,
        data: Payload::piece(shorter, 0, 10),
    };
    let cut = store_blob(100_000);
    if let Op::StoreBlob { blob, .. } = &cut {
        let file = std::fs::OpenOptions::new().write(true).open(blob.path());
        file.unwrap().set_len(70_000).unwrap();
    }
    for op in [record, cut] {
        let txn = begin(&storage, vec![op]).await;
        let fault = fault(soon(txn.vote()).await);
        assert!(matches!(fault, Fault::Here { .. }), "{fault}");
        peer.got(|call| matches!(call, Call::TpcAbort { .. })).await;
        peer.calls.lock().clear();
    }
    soon(commit(&storage, &[(1, Tid::ZERO, b"a")])).await;
}

#[tokio::test]
async fn an_upload_that_is_dropped_in_the_middle_is_ended_before_it_is_aborted() {
    let mut first = true;
    let peer = Peer::start(move |_, call| match call {
        Call::StoreBlobStart if std::mem::take(&mut first) => {
            Does::Sleeps(Duration::from_millis(400))
        }
        _ => Does::Usual,
    })
    .await;
    let storage = peer.open().await;
    let txn = begin(&storage, vec![store_blob(40 << 20)]).await;
    // The peer does not read, so it cannot come to its end.
    let vote = timeout(Duration::from_millis(200), txn.vote()).await;
    assert!(vote.is_err());
    soon(commit(&storage, &[(2, Tid::ZERO, b"a")])).await;
    let calls = peer.calls.lock().clone();
    let at = |wanted: fn(&Call) -> bool| calls.iter().position(wanted).expect("it was called");
    let end = at(|call| matches!(call, Call::StoreBlobEnd { .. }));
    let abort = at(|call| matches!(call, Call::TpcAbort { .. }));
    let vote = at(|call| matches!(call, Call::Vote { .. }));
    assert!(end + 1 == abort && abort < vote);
    let chunks = |call: &&Call| matches!(call, Call::StoreBlobChunk { .. });
    let sent = calls.iter().filter(chunks).count();
    assert!(
        sent < (40 << 20) / 59_000,
        "all of it was sent: {sent} pieces"
    );
}

#[tokio::test]
async fn read_only_fallback_registers_again() {
    let peer = Peer::start(|_, call| match call {
        Call::Register {
            read_only: false, ..
        } => Does::Answers(Reply::Error(WireError::Answer(Answer::ReadOnly))),
        _ => Does::Usual,
    })
    .await;
    let storage = peer.open().await;
    assert!(storage.capabilities().read_only);
}

#[tokio::test]
async fn a_blob_that_was_not_asked_for_is_refused() {
    let peer = Peer::start(|_, call| match call {
        Call::SendBlob { serial, .. } => Does::Says(
            Duration::ZERO,
            vec![
                Say::Push(Push::ReceiveBlobChunk {
                    oid: Oid(77),
                    serial: *serial,
                    chunk: Bytes::from_static(b"x"),
                }),
                Say::Answer,
            ],
        ),
        _ => Does::Usual,
    })
    .await;
    let storage = peer.open().await;
    let fault = fault(soon(storage.load_blob(Oid(1), Tid(1))).await);
    assert!(matches!(fault, Fault::Damaged(_)), "{fault}");
    // A blob without its end.
    let peer = Peer::start(|_, _| Does::Usual).await;
    let storage = peer.open().await;
    let fault = self::fault(soon(storage.load_blob(Oid(1), Tid(1))).await);
    assert!(fault.to_string().contains("to its end"), "{fault}");
}

#[tokio::test]
async fn a_load_of_what_was_not_announced_yet_waits_for_the_announcement() {
    let mut loaded = false;
    let peer = Peer::start(move |_, call| match call {
        Call::LoadBefore { .. } => {
            loaded = true;
            Does::Answers(Reply::Loaded(Some(LoadedRecord {
                data: Bytes::from_static(b"new"),
                tid: Tid(700),
                end: None,
            })))
        }
        Call::LastTransaction if loaded => Does::Says(
            Duration::ZERO,
            vec![
                Say::Push(Push::InvalidateTransaction {
                    tid: Tid(700),
                    oids: Arc::new([Oid(1)]),
                }),
                Say::Answer,
            ],
        ),
        _ => Does::Usual,
    })
    .await;
    let storage = peer.open().await;
    let mut heard = storage.subscribe();
    let record = soon(storage.load_before(Oid(1), Tid::MAX))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((record.tid, record.as_of), (Tid(700), Tid(700)));
    assert_eq!(heard.try_next().unwrap().unwrap().tid, Tid(700));
}

/// Transactions 10, 20, … of another copy.
fn copied(count: u64) -> Vec<HistoryTxn> {
    let txn = |number| HistoryTxn {
        tid: Tid(number * 10),
        meta: TxnMeta::default(),
        records: vec![HistoryRecord {
            oid: Oid(1),
            data: RecordData::Data(Bytes::from_static(b"data").into()),
            blob: None,
        }],
    };
    (1..=count).map(txn).collect()
}

impl Peer {
    fn count(&self, wanted: impl Fn(&Call) -> bool) -> usize {
        self.calls.lock().iter().filter(|call| wanted(call)).count()
    }
}

fn is_finish(call: &Call) -> bool {
    matches!(call, Call::TpcFinish { .. })
}

#[tokio::test]
async fn nothing_is_finished_after_a_finish_that_failed() {
    let failed = || WireError::Answer(Answer::Invalid("no".to_owned()));
    for said in [Reply::Error(failed()), Reply::None, Reply::Tid(Tid(7))] {
        let mut left = 3;
        let peer = Peer::start(move |_, call| match call {
            Call::TpcFinish { .. } => {
                left -= 1;
                if left == 0 {
                    Does::Answers(said.clone())
                } else {
                    Does::Usual
                }
            }
            _ => Does::Usual,
        })
        .await;
        let storage = peer.open().await;
        fault(soon(storage.restore(copied(6))).await);
        assert_eq!(peer.count(is_finish), 3);
        assert!(
            storage.last_tid().await.is_err(),
            "everything is asked anew"
        );
    }
}

#[tokio::test]
async fn a_finish_waits_for_the_reply_to_the_one_before() {
    let mut finishes = 0;
    let peer = Peer::start(move |_, call| match call {
        Call::TpcFinish { .. } => {
            finishes += 1;
            // The vote behind it is answered all the same.
            if finishes == 2 {
                Does::Nothing
            } else {
                Does::Usual
            }
        }
        _ => Does::Usual,
    })
    .await;
    let storage = peer.open().await;
    let fault = fault(soon(storage.restore(copied(6))).await);
    assert!(
        matches!(
            fault,
            Fault::Timeout {
                what: "`tpc_finish`",
                ..
            }
        ),
        "{fault}"
    );
    assert_eq!(peer.count(|call| matches!(call, Call::Vote { .. })), 3);
    assert_eq!(peer.count(is_finish), 2);
}

#[tokio::test]
async fn a_restore_ends_where_somebody_else_has_put_something_in_between() {
    let (mut votes, mut in_between) = (0, true);
    let peer = Peer::start(move |_, call| match call {
        Call::Vote { .. } => {
            votes += 1;
            Does::Usual
        }
        Call::LastTransaction if votes == 3 && std::mem::take(&mut in_between) => Does::Says(
            Duration::ZERO,
            vec![
                Say::Push(Push::InvalidateTransaction {
                    tid: Tid(25),
                    oids: Arc::new([Oid(1)]),
                }),
                Say::Reply(Reply::Tid(Tid(25))),
            ],
        ),
        _ => Does::Usual,
    })
    .await;
    let storage = peer.open().await;
    let mut heard = storage.subscribe();
    let refused = soon(storage.restore(copied(6))).await.unwrap_err();
    assert!(
        matches!(&refused, StorageError::Answer(Answer::Invalid(why)) if why.contains("instead of")),
        "{refused}"
    );
    assert_eq!(soon(heard.next()).await.unwrap().tid, Tid(25));
    peer.got(|call| matches!(call, Call::TpcAbort { .. })).await;
    assert_eq!(peer.count(is_finish), 2);
}

#[tokio::test]
async fn a_restore_that_has_to_wait_for_the_lock_says_nothing_and_gives_up() {
    let mut votes = 0;
    let peer = Peer::start(move |_, call| match call {
        Call::Vote { .. } => {
            votes += 1;
            if votes == 3 {
                Does::Nothing
            } else {
                Does::Usual
            }
        }
        _ => Does::Usual,
    })
    .await;
    let storage = peer.open().await;
    let fault = fault(soon(storage.restore(copied(6))).await);
    assert!(matches!(fault, Fault::LockHeld { .. }), "{fault}");
    // What was finished is a prefix, and the third is aborted; the storage goes on.
    assert_eq!(storage.last_tid().await.unwrap(), Tid(20));
    let calls = peer.calls.lock().clone();
    let vote = |call: &Call| matches!(call, Call::Vote { .. });
    let third = calls.iter().rposition(vote).unwrap();
    let behind = calls[third + 1..].iter();
    let said = behind.filter(|call| !matches!(call, Call::LastTransaction));
    assert!(
        matches!(said.collect::<Vec<_>>()[..], [Call::TpcAbort { .. }]),
        "{calls:?}"
    );
    soon(storage.restore(copied(3).split_off(2))).await.unwrap();
    assert_eq!(storage.last_tid().await.unwrap(), Tid(30));
}

/// The undo log of a peer with so many transactions, `user_name` of every hundredth being `wanted`; and
/// what of it was asked on which connection.
struct UndoPeer {
    peer: Peer,
    asked: Arc<Mutex<Vec<(usize, i64, i64)>>>,
}

impl UndoPeer {
    /// `at` may do something else at the number of a question.
    async fn start(count: i64, mut at: impl FnMut(usize) -> Option<Does> + Send + 'static) -> Self {
        let asked: Arc<Mutex<Vec<(usize, i64, i64)>>> = Arc::default();
        let noted = Arc::clone(&asked);
        let peer = Peer::start(move |number, call| {
            let Call::UndoInfo {
                first,
                last,
                specification,
            } = call
            else {
                return Does::Usual;
            };
            assert_eq!(*specification, Value::None, "a stranger's value");
            noted.lock().push((number, *first, *last));
            if let Some(does) = at(noted.lock().len()) {
                return does;
            }
            let lines = (*first..(*last).min(count)).map(|number| UndoLine {
                tid: Tid((count - number).unsigned_abs() << 32),
                time: 0.0,
                user: Bytes::from_static(if number % 100 == 99 {
                    b"wanted"
                } else {
                    b"another"
                }),
                description: Bytes::from_static(b"/a/b somebody"),
                extension: Bytes::new(),
                size: Some(100),
            });
            Does::Answers(Reply::UndoLog(lines.collect()))
        })
        .await;
        UndoPeer { peer, asked }
    }

    async fn open(&self) -> ZeoStorage {
        let options = ZeoOptions {
            read_connections: 1,
            ..self.peer.options.clone()
        };
        ZeoStorage::open(options).await.unwrap()
    }
}

fn named(user: &str) -> Value {
    let text = |text: &str| Value::Text(text.to_owned());
    Value::Dict(vec![(text("user_name"), text(user))])
}

#[tokio::test]
async fn what_is_looked_for_in_the_undo_log_is_told_to_no_server() {
    let undo = UndoPeer::start(1000, |_| None).await;
    let storage = undo.open().await;
    let found = storage.undo_info(1, -3, &named("wanted")).await.unwrap();
    let tids: Vec<_> = found.iter().map(|txn| txn.tid.0 >> 32).collect();
    assert_eq!(tids, [801, 701, 601]);
    let asked = std::mem::take(&mut *undo.asked.lock());
    assert_eq!(asked, [(1, 0, 128), (1, 128, 384), (1, 384, 896)]);
    // Where everything counts no more is asked for than is wanted.
    let found = storage.undo_info(2, 5, &Value::None).await.unwrap();
    let tids: Vec<_> = found.iter().map(|txn| txn.tid.0 >> 32).collect();
    assert_eq!(tids, [998, 997, 996]);
    assert_eq!(*undo.asked.lock(), [(1, 0, 5)]);
    // All of it, and no further.
    let unhashable = Value::Dict(vec![(Value::List(Vec::new()), Value::Bool(true))]);
    assert_eq!(storage.undo_info(0, -1, &unhashable).await.unwrap(), []);
    assert_eq!(undo.asked.lock().last(), Some(&(1, 896, 1920)));
    assert!(storage.last_tid().await.is_ok());
}

#[tokio::test]
async fn too_much_of_the_undo_log_for_one_message_is_asked_for_in_smaller_pieces() {
    let undo = UndoPeer::start(1000, |question| {
        (question == 3).then_some(Does::Raw(&[0xff; 4], false))
    })
    .await;
    let storage = undo.open().await;
    let found = storage.undo_info(0, -10, &named("wanted")).await.unwrap();
    assert_eq!(found.len(), 10);
    let asked = undo.asked.lock();
    assert_eq!(asked[2], (1, 384, 896));
    assert_eq!(asked[3], (2, 384, 512));
}

#[tokio::test]
async fn what_is_committed_while_the_undo_log_is_read_hides_nothing_and_shows_nothing_twice() {
    let peer = Peer::start(|_, call| match call {
        Call::UndoInfo { first, last, .. } => {
            // One more has come before every later piece.
            let end = if *first == 0 { 300 } else { 301 };
            let lines = (*first..(*last).min(end)).map(|number| UndoLine {
                tid: Tid((end - number).unsigned_abs()),
                time: 0.0,
                user: Bytes::from_static(b"wanted"),
                description: Bytes::new(),
                extension: Bytes::new(),
                size: Some(100),
            });
            Does::Answers(Reply::UndoLog(lines.collect()))
        }
        _ => Does::Usual,
    })
    .await;
    let storage = peer.open().await;
    let found = storage.undo_info(0, 1000, &named("wanted")).await.unwrap();
    let tids: Vec<_> = found.iter().map(|txn| txn.tid.0).collect();
    assert_eq!(tids, (1..=300).rev().collect::<Vec<_>>());
}

#[tokio::test]
async fn a_server_whose_file_is_closed_is_the_operators() {
    for said in ["closed", "I/O operation on closed file"] {
        let peer = Peer::start(move |_, call| match call {
            Call::LoadBefore { .. } | Call::RecordIternext { .. } | Call::Vote { .. } => {
                Does::Answers(Reply::Error(WireError::Value(said.to_owned())))
            }
            _ => Does::Usual,
        })
        .await;
        let storage = peer.open().await;
        let loaded = fault(soon(storage.load_before(Oid(1), Tid::MAX)).await);
        assert!(matches!(loaded, Fault::Poisoned(_)), "{loaded}");
        // It is not the end of the walk.
        let walked = fault(soon(storage.record_from(Oid(0))).await);
        assert!(matches!(walked, Fault::Poisoned(_)), "{walked}");
        let txn = begin(&storage, vec![store(1, Tid::ZERO, b"a")]).await;
        let voted = fault(soon(txn.vote()).await);
        assert!(matches!(voted, Fault::Poisoned(_)), "{voted}");
    }
}

/// Hangs up once at such a call on a connection for reading.
async fn hangs_up_once(at: fn(&Call) -> bool) -> (Peer, ZeoStorage) {
    let mut left = 1;
    let peer = Peer::start(move |number, call| {
        if at(call) && number > 0 && left > 0 {
            left -= 1;
            return Does::HangsUp;
        }
        match call {
            Call::UndoInfo { .. } => Does::Answers(Reply::UndoLog(vec![])),
            Call::IteratorStart { .. } => Does::Answers(Reply::Iterator(1)),
            Call::IteratorNext { .. } => Does::Answers(Reply::Transaction(None)),
            _ => Does::Usual,
        }
    })
    .await;
    let options = ZeoOptions {
        read_connections: 1,
        ..peer.options.clone()
    };
    let storage = ZeoStorage::open(options).await.unwrap();
    commit(&storage, &[(1, Tid::ZERO, b"a")]).await;
    (peer, storage)
}

#[tokio::test]
async fn a_connection_for_reading_that_ends_is_no_failure_of_the_server() {
    let start = |call: &Call| matches!(call, Call::IteratorStart { .. });
    let undo = |call: &Call| matches!(call, Call::UndoInfo { .. });
    let (peer, storage) = hangs_up_once(undo).await;
    assert_eq!(
        soon(storage.undo_info(0, -1, &Value::None)).await.unwrap(),
        []
    );
    assert_eq!(peer.count(undo), 2);
    let (_peer, storage) = hangs_up_once(start).await;
    let mut history = soon(storage.iterate(TidRange::ALL)).await.unwrap();
    assert!(soon(history.next()).await.unwrap().is_none());
    let (_peer, storage) = hangs_up_once(start).await;
    assert_eq!(
        soon(storage.tids_before(Tid::MAX, 3)).await.unwrap(),
        vec![]
    );
    let (_peer, storage) = hangs_up_once(|call| matches!(call, Call::IteratorNext { .. })).await;
    assert_eq!(
        soon(storage.measure_after(Tid::ZERO))
            .await
            .unwrap()
            .transactions,
        0
    );
    assert!(storage.last_tid().await.is_ok());
}

#[tokio::test]
async fn a_pack_is_asked_again_only_where_it_was_not_sent() {
    let pack = |call: &Call| matches!(call, Call::Pack { .. });
    let (peer, storage) = hangs_up_once(pack).await;
    // It may be going on.
    let fault = fault(soon(storage.pack(1.0)).await);
    assert!(matches!(fault, Fault::Closed(_)), "{fault}");
    assert_eq!(peer.count(pack), 1);
    assert!(storage.last_tid().await.is_ok());
    // One that was idle for long ends between being picked and being asked.
    let idle = std::sync::atomic::AtomicBool::new(true);
    let asked = storage.0.over_reader(|link| {
        if idle.swap(false, std::sync::atomic::Ordering::Relaxed) {
            link.fail(Fault::Closed("it was not used for long".to_owned()));
        }
        async move {
            let call = Call::Pack {
                time: 1.0,
                wait: true,
            };
            link.ask(call, Expected::None).await
        }
    });
    let answer = soon(asked).await.unwrap();
    assert_eq!(soon(answer).await.unwrap().unwrap(), Reply::None);
    assert_eq!(peer.count(pack), 2);
}

#[tokio::test]
async fn a_blob_is_fetched_again_where_its_connection_ends() {
    let mut left = 1;
    let peer = Peer::start(move |_, call| match call {
        Call::SendBlob { .. } if left > 0 => {
            left -= 1;
            Does::HangsUp
        }
        Call::SendBlob { oid, serial } => {
            let (oid, serial) = (*oid, *serial);
            let chunk = Bytes::from_static(b"x");
            Does::Says(
                Duration::ZERO,
                vec![
                    Say::Push(Push::ReceiveBlobStart { oid, serial }),
                    Say::Push(Push::ReceiveBlobChunk { oid, serial, chunk }),
                    Say::Push(Push::ReceiveBlobStop { oid, serial }),
                    Say::Answer,
                ],
            )
        }
        _ => Does::Usual,
    })
    .await;
    let storage = peer.open().await;
    let blob = soon(storage.load_blob(Oid(1), Tid(1))).await.unwrap();
    assert_eq!(blob.len(), 1);
}

/// The registration is answered and the connection closed at once, so that it ends before the blob is asked for.
#[tokio::test]
async fn no_writer_waits_for_a_blob_that_cannot_be_asked_for() {
    let peer = Peer::start(|number, call| match call {
        Call::Register { .. } if number > 0 => Does::UsualAndHangsUp,
        _ => Does::Usual,
    })
    .await;
    let storage = peer.open().await;
    for _ in 0..20 {
        let fault = fault(soon(storage.load_blob(Oid(1), Tid(1))).await);
        assert!(matches!(fault, Fault::Closed(_)), "{fault}");
        assert!(!storage.0.blobs.awaits_pieces().await);
    }
    storage.close().await;
}

/// What a server knows of its iterators.
#[derive(Default)]
struct Iterators {
    last: i64,
    /// What comes next of each that is open: a transaction, or a record of one.
    open: BTreeMap<i64, (Tid, usize)>,
    /// How often one was asked for that is not, over transactions and over records.
    in_vain: (usize, usize),
}

impl Iterators {
    fn make(&mut self, at: Tid) -> Does {
        self.last += 1;
        self.open.insert(self.last, (at, 0));
        Does::Answers(Reply::Iterator(self.last))
    }

    fn next(&mut self, iterator: i64) -> Option<(Tid, usize)> {
        let (tid, record) = self.open.get_mut(&iterator)?;
        let at = (*tid, *record);
        *record += 1;
        Some(at)
    }
}

/// A server with transactions from 1 to `last`, of so many records each. It says that the records of `bad` are of
/// another transaction.
async fn with_history(
    last: Tid,
    records: fn(Tid) -> usize,
    bad: Tid,
) -> (Peer, Arc<Mutex<Iterators>>) {
    let iterators: Arc<Mutex<Iterators>> = Arc::default();
    let known = Arc::clone(&iterators);
    let peer = Peer::start(move |_, call| {
        let mut known = known.lock();
        let unknown = |iterator: i64| {
            let error = WireError::Key(Value::Int(iterator));
            Does::Answers(Reply::Error(error))
        };
        match call {
            Call::Register { .. } => Does::Answers(Reply::Tid(last)),
            Call::IteratorStart { first, .. } => known.make(first.unwrap_or(Tid(1)).max(Tid(1))),
            Call::IteratorNext { iterator } => {
                let Some((first, given)) = known.next(*iterator) else {
                    known.in_vain.0 += 1;
                    return unknown(*iterator);
                };
                let tid = Tid(first.0 + given as u64);
                let txn = (tid <= last).then(|| (tid, TxnMeta::default()));
                if txn.is_none() {
                    known.open.remove(iterator);
                }
                Does::Answers(Reply::Transaction(txn))
            }
            Call::IteratorRecordStart { tid, .. } => known.make(*tid),
            Call::IteratorRecordNext { iterator } => {
                let Some((tid, given)) = known.next(*iterator) else {
                    known.in_vain.1 += 1;
                    return unknown(*iterator);
                };
                let record = (given < records(tid)).then(|| IteratedRecord {
                    oid: Oid(given as u64),
                    tid: if tid == bad { Tid(tid.0 + 1) } else { tid },
                    data: Some(Bytes::from_static(b"data")),
                    data_txn: None,
                });
                if record.is_none() {
                    known.open.remove(iterator);
                }
                Does::Answers(Reply::Record(record))
            }
            Call::IteratorGc { iterators } => {
                for iterator in iterators {
                    known.open.remove(iterator);
                }
                Does::Answers(Reply::None)
            }
            _ => Does::Usual,
        }
    })
    .await;
    (peer, iterators)
}

/// An iteration reads ahead: it may be dropped before the server has made what was asked for.
#[tokio::test]
async fn every_iterator_that_is_not_at_its_end_is_given_back() {
    let (peer, iterators) = with_history(Tid(1000), |_| 1, Tid::ZERO).await;
    let storage = peer.open().await;
    for (count, has_come) in [0, 1, 2, 33, 40, 70, 130, 200, 1000]
        .into_iter()
        .flat_map(|count| [(count, false), (count, true)])
    {
        let mut history = soon(storage.iterate(TidRange::ALL)).await.unwrap();
        for tid in 1..=count {
            assert_eq!(soon(history.next()).await.unwrap().unwrap().tid, Tid(tid));
        }
        if has_come {
            // What was asked for before is answered before.
            soon(storage.undo_info(0, -1, &Value::None)).await.unwrap();
        }
        drop(history);
        let all_back = async {
            while !iterators.lock().open.is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let back = timeout(Duration::from_secs(20), all_back).await;
        let open = &iterators.lock().open;
        assert!(back.is_ok(), "after {count}: {open:?} are open");
    }
}

/// Python's server writes a traceback into its log for each.
#[tokio::test]
async fn little_is_asked_for_behind_an_end() {
    fn of_few(tid: Tid) -> usize {
        1 + (tid.0 % 16) as usize
    }
    fn of_many(tid: Tid) -> usize {
        [1, 100, 1000][tid.0 as usize % 3]
    }
    for (last, records, most_in_vain) in [
        (200, of_few as fn(Tid) -> usize, 0),
        (6, of_many, 2200 / 16),
    ] {
        let (peer, iterators) = with_history(Tid(last), records, Tid::ZERO).await;
        let storage = peer.open().await;
        for range in [
            TidRange::ALL,
            TidRange {
                first: Tid(1),
                last: Tid(last),
            },
        ] {
            iterators.lock().in_vain = (0, 0);
            let mut history = soon(storage.iterate(range)).await.unwrap();
            for tid in (1..=last).map(Tid) {
                let txn = soon(history.next()).await.unwrap().unwrap();
                assert_eq!((txn.tid, txn.records.len()), (tid, records(tid)));
                let oids = txn.records.iter().map(|record| record.oid.0);
                assert!(oids.eq(0..records(tid) as u64), "{tid}");
            }
            assert!(soon(history.next()).await.unwrap().is_none());
            // What was asked for before is answered before.
            soon(storage.undo_info(0, -1, &Value::None)).await.unwrap();
            let (transactions, of_them) = iterators.lock().in_vain;
            // As many as had come, and no more than are asked for ahead.
            assert!(transactions <= last.min(127) as usize, "{transactions}");
            assert!(of_them <= most_in_vain, "{of_them}");
        }
    }
    let (peer, iterators) = with_history(Tid(500), of_few, Tid::ZERO).await;
    let storage = peer.open().await;
    iterators.lock().in_vain = (0, 0);
    let found = soon(storage.tids_before(Tid::MAX, 1)).await.unwrap();
    assert_eq!(found, [Tid(500)]);
    let extent = soon(storage.measure_after(Tid(499))).await.unwrap();
    assert_eq!(extent.transactions, 1);
    // The first looked at all that is not older than ten seconds, which is all; the other one at the last.
    let in_vain = iterators.lock().in_vain;
    assert!(in_vain.0 <= 127 && in_vain.1 == 0, "{in_vain:?}");
}

/// Records of many transactions are asked for side by side; what is wrong with one is told in its turn.
#[tokio::test]
async fn what_comes_before_a_bad_record_is_given() {
    let (peer, _iterators) = with_history(Tid(50), |_| 3, Tid(20)).await;
    let storage = peer.open().await;
    let mut history = soon(storage.iterate(TidRange::ALL)).await.unwrap();
    for tid in 1..20 {
        assert_eq!(soon(history.next()).await.unwrap().unwrap().tid, Tid(tid));
    }
    let fault = fault(soon(history.next()).await);
    assert!(fault.to_string().contains("says that it is of"), "{fault}");
}

/// A server that gives the same transaction again and again does not keep anybody for ever.
#[tokio::test]
async fn an_iterator_that_goes_round_is_damage() {
    let peer = Peer::start(|_, call| match call {
        Call::Register { .. } => Does::Answers(Reply::Tid(Tid(99))),
        Call::IteratorStart { .. } => Does::Answers(Reply::Iterator(1)),
        Call::IteratorRecordStart { .. } => Does::Answers(Reply::Iterator(2)),
        Call::IteratorRecordNext { .. } => Does::Answers(Reply::Record(None)),
        Call::IteratorNext { .. } => {
            Does::Answers(Reply::Transaction(Some((Tid(9), TxnMeta::default()))))
        }
        _ => Does::Usual,
    })
    .await;
    let storage = ZeoStorage::open(peer.options.clone()).await;
    let fault = match storage {
        // Opening looks for the last transaction already.
        Err(fault) => fault,
        Ok(storage) => match soon(storage.measure_after(Tid(1))).await {
            Err(StorageError::Fault(fault)) => fault,
            other => panic!("it was counted: {other:?}"),
        },
    };
    assert!(
        fault.to_string().contains("had to come") && matches!(fault, Fault::Damaged(_)),
        "{fault}"
    );
}

#[tokio::test]
async fn a_server_that_hangs_up_on_every_connection_for_reading_is_not_called_without_a_pause() {
    let peer = Peer::start(|number, _| match number {
        0 => Does::Usual,
        _ => Does::UsualAndHangsUp,
    })
    .await;
    let options = ZeoOptions {
        read_connections: 1,
        // Longer than `soon` waits.
        call_timeout: Duration::from_hours(1),
        ..peer.options.clone()
    };
    let storage = ZeoStorage::open(options).await.unwrap();
    // What is asked goes over the main connection meanwhile.
    soon(async { while storage.0.readers.get().await.is_some() {} }).await;
    assert!(storage.last_tid().await.is_ok());
}
