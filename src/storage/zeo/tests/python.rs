//! With Python's server: the suite in both encodings, and what only such a server can show.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

use super::server::Server;
use crate::pickle::Value;
use crate::storage::suite::{
    Fixture, begin, commit, commit_ops, payload, ready, soon, store, texts, transactions, voted,
};
use crate::storage::zeo::{ZeoOpener, ZeoOptions, ZeoStorage, ZeoTls};
use crate::storage::{Answer, Description, Fault, Opener, Storage, StorageError, Vote};
use crate::zodb::{
    Blob, HistoryRecord, HistoryTxn, Oid, Op, RecordData, Tid, TidRange, TxnMeta, TxnStatus,
};

async fn open(server: &Server) -> ZeoStorage {
    ZeoStorage::open(server.options()).await.unwrap()
}

fn txn(tid: u64, oid: u64) -> HistoryTxn {
    HistoryTxn {
        tid: Tid(tid),
        meta: TxnMeta::default(),
        records: vec![HistoryRecord {
            oid: Oid(oid),
            data: RecordData::Data(payload(format!("{tid}").as_bytes())),
            blob: None,
        }],
    }
}

async fn fixture(more: serde_json::Value) -> Fixture {
    let server = Server::start(more);
    let storage = ZeoStorage::open(server.options()).await.unwrap();
    Fixture::keeping(std::sync::Arc::new(storage), server)
}

mod z5 {
    use super::*;
    crate::storage::suite::storage_suite!(fixture(json!({})));
}

mod m5 {
    use super::*;
    crate::storage::suite::storage_suite!(fixture(json!({"msgpack": true})));
}

mod resolved_by_the_server {
    use super::*;

    crate::storage::suite::storage_suite!(fixture(json!({"resolve": true}));
        what_is_stored_is_loaded,
        a_dropped_transaction_leaves_nothing,
        a_dependency_that_changed_is_a_read_conflict,
        an_iteration_gives_what_was_committed,
    );

    fn length(value: i64) -> Vec<u8> {
        format!("cBTrees.Length\nLength\n.I{value}\n.").into_bytes()
    }

    #[tokio::test]
    async fn what_the_server_resolves_is_told_and_what_it_cannot_is_a_conflict() {
        let server = Server::start(json!({"resolve": true}));
        let storage = open(&server).await;
        let first = commit(
            &storage,
            &[(1, Tid::ZERO, &length(1)), (2, Tid::ZERO, b"x")],
        )
        .await;
        commit(&storage, &[(1, first, &length(5)), (2, first, b"y")]).await;
        let voted = voted(&storage, vec![store(1, first, &length(3))]).await;
        assert_eq!(voted.resolved(), [Oid(1)]);
        let mut heard = storage.subscribe();
        voted.finish().await.unwrap();
        let heard = heard.try_next().unwrap().unwrap();
        assert_eq!(&heard.oids[..], [Oid(1)]);
        let now = storage
            .load_before(Oid(1), Tid::MAX)
            .await
            .unwrap()
            .unwrap();
        assert!(now.data.ends_with(b"K\x07."), "1 + 4 + 2: {:?}", now.data);
        let txn = begin(&storage, vec![store(2, first, b"z")]).await;
        let answer = match txn.vote().await {
            Err(StorageError::Answer(answer)) => answer,
            other => panic!("a conflict is expected: {}", other.is_ok()),
        };
        assert!(matches!(answer, Answer::Conflict(conflict) if conflict.oid == Oid(2)));
    }
}

/// What stands in the extensions of transactions.
mod extensions {
    use super::*;
    use crate::pickle::{extension, write};

    fn meta(extension: Bytes) -> TxnMeta {
        TxnMeta {
            extension,
            ..TxnMeta::default()
        }
    }

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[tokio::test]
    async fn what_is_taken_from_clients_is_read_by_python_in_either_encoding() {
        let dict = |key: Value, value: Value| Value::Dict(vec![(key, value)]);
        let frozen = Value::Object {
            module: "builtins".to_owned(),
            name: "frozenset".to_owned(),
            arguments: vec![Value::List(vec![text("x")])],
            state: None,
        };
        let tuple = Value::Tuple(vec![Value::Int(1), Value::None]);
        let values = [
            dict(
                text("a"),
                dict(text("b"), Value::List(vec![Value::Float(0.5)])),
            ),
            dict(text("a"), dict(tuple, Value::Bool(true))),
            dict(Value::Int(7), Value::BigInt(Bytes::from_static(&[1; 20]))),
            dict(text("a"), Value::Set(vec![text("x"), frozen])),
        ];
        for msgpack in [false, true] {
            let server = Server::start(json!({ "msgpack": msgpack }));
            let storage = open(&server).await;
            for value in &values {
                let extension = extension::of_stranger(value).unwrap();
                let mut txn = storage.begin(meta(extension), None).await.unwrap();
                let serial = storage.current_tid(Oid(1)).await.unwrap_or(Tid::ZERO);
                txn.store(store(1, serial, b"a")).await.unwrap();
                let voted = ready(soon(txn.vote()).await.unwrap());
                voted.finish().await.unwrap();
            }
            let history = transactions(&storage, TidRange::ALL).await;
            assert_eq!(history.len(), values.len());
        }
    }

    #[tokio::test]
    async fn what_no_server_reads_is_refused_before_it_is_sent() {
        let server = Server::start(json!({}));
        let storage = open(&server).await;
        let unhashable = Value::Dict(vec![(Value::List(Vec::new()), Value::None)]);
        let date = Value::Global {
            module: "datetime".to_owned(),
            name: "date".to_owned(),
        };
        for extension in [unhashable, Value::Dict(vec![(text("a"), date)])] {
            let meta = meta(write::dumps(&extension));
            let mut txn = storage.begin(meta.clone(), None).await.unwrap();
            txn.store(store(1, Tid::ZERO, b"a")).await.unwrap();
            let refused = soon(txn.vote()).await.err().unwrap();
            assert!(
                matches!(refused, StorageError::Answer(Answer::Invalid(_))),
                "{refused}"
            );
            // Nobody else was faster: that is another answer.
            let copied = HistoryTxn {
                meta,
                ..super::txn(10, 1)
            };
            let refused = soon(storage.restore(vec![copied])).await.unwrap_err();
            assert!(
                matches!(&refused, StorageError::Answer(Answer::Other { text, .. }) if text.contains("transaction")),
                "{refused}"
            );
        }
        soon(commit(&storage, &[(1, Tid::ZERO, b"a")])).await;
    }
}

/// Others write to the same server.
mod shared {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn others_transactions_are_heard_before_a_vote_is_answered() {
        let server = Server::start(json!({}));
        let (one, other) = (open(&server).await, open(&server).await);
        let mut heard = one.subscribe();
        let theirs = async {
            let mut tids = Vec::new();
            for number in 0..150 {
                tids.push(commit(&other, &[(1000 + number, Tid::ZERO, b"theirs")]).await);
            }
            tids
        };
        let (mut all, mut mine, mut last) = (Vec::new(), Vec::new(), Tid::ZERO);
        let ours = async {
            for number in 0..150 {
                let txn = begin(&one, vec![store(number, Tid::ZERO, b"ours")]).await;
                let token = txn.token();
                let voted = ready(txn.vote().await.unwrap());
                while let Some(committed) = heard.try_next().unwrap() {
                    assert!(committed.tid > last, "in order");
                    assert_eq!(committed.by, None);
                    last = committed.tid;
                    all.push(last);
                }
                assert_eq!(voted.after(), Some(last), "nothing is missed");
                let tid = voted.finish().await.unwrap();
                let committed = heard.try_next().unwrap().unwrap();
                assert_eq!((committed.tid, committed.by), (tid, Some(token)));
                last = tid;
                all.push(tid);
                mine.push(tid);
            }
        };
        let (theirs, ()) = tokio::join!(theirs, ours);
        let until = theirs.iter().chain(&mine).max().copied().unwrap();
        while last < until {
            last = heard.next().await.unwrap().tid;
            all.push(last);
        }
        let mut expected = [mine, theirs].concat();
        expected.sort();
        assert_eq!(all, expected);
    }

    #[tokio::test]
    async fn what_we_restore_is_told_to_others_and_not_to_us() {
        let server = Server::start(json!({}));
        let (ours, theirs) = (open(&server).await, open(&server).await);
        let (mut our_queue, mut their_queue) = (ours.subscribe(), theirs.subscribe());
        let batch: Vec<HistoryTxn> = (1..40).map(|number| txn(number * 10, 1)).collect();
        ours.restore(batch).await.unwrap();
        for number in 1..40 {
            let told = their_queue.next().await.unwrap();
            assert_eq!((told.tid, told.oids.len()), (Tid(number * 10), 0));
        }
        let last = commit(&ours, &[(5, Tid::ZERO, b"x")]).await;
        assert_eq!(our_queue.next().await.unwrap().tid, last);
        // The server's list has no oids of what was restored; ours has.
        let (_, oids) = ours.invalidations_since(Tid(380)).await.unwrap();
        assert_eq!(oids, Some(vec![Oid(1), Oid(5)]));
    }

    #[tokio::test]
    async fn a_finish_that_fails_in_a_restore_leaves_a_prefix_and_no_lock() {
        let server = Server::start(json!({"failing_finish": 30}));
        let (ours, theirs) = (open(&server).await, open(&server).await);
        let batch: Vec<HistoryTxn> = (1..6).map(|number| txn(number * 10, 1)).collect();
        let failed = ours.restore(batch).await;
        assert!(
            matches!(failed, Err(StorageError::Fault(_))),
            "the server could not finish it"
        );
        // The server has let go of its lock, and has nothing of what came after.
        let last = soon(theirs.last_tid()).await.unwrap();
        assert_eq!(last, Tid(20));
        soon(commit(&theirs, &[(2, Tid::ZERO, b"x")])).await;
        let all = theirs.tids_before(Tid::MAX, 10).await.unwrap();
        assert_eq!(all[1..], [Tid(20), Tid(10)]);
    }

    #[tokio::test]
    async fn a_restore_waits_for_the_lock_of_others_and_is_without_holes() {
        let server = Server::start(json!({}));
        let (ours, theirs) = (open(&server).await, open(&server).await);
        // The other's transactions are far in the future: the first of them ends the batch.
        let held = voted(&theirs, vec![store(2, Tid::ZERO, b"x")]).await;
        let batch: Vec<HistoryTxn> = (1..60).map(|number| txn(number * 10, 1)).collect();
        let (restored, last) = tokio::join!(ours.restore(batch), async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            held.finish().await.unwrap()
        });
        assert!(
            matches!(restored, Err(StorageError::Answer(Answer::Invalid(_)))),
            "{restored:?}"
        );
        assert_eq!(ours.last_tid().await.unwrap(), last);
        // The lock is free.
        soon(commit(&ours, &[(3, Tid::ZERO, b"y")])).await;
    }

    #[tokio::test]
    async fn who_writes_in_between_ends_a_restore() {
        let server = Server::start(json!({}));
        let (ours, theirs) = (open(&server).await, open(&server).await);
        ours.restore(vec![txn(10, 1)]).await.unwrap();
        let last = commit(&theirs, &[(2, Tid::ZERO, b"x")]).await;
        let refused = ours.restore(vec![txn(20, 1)]).await;
        assert!(matches!(
            refused,
            Err(StorageError::Answer(Answer::Invalid(_)))
        ));
        assert_eq!(ours.last_tid().await.unwrap(), last);
    }

    #[tokio::test]
    async fn a_leaked_commit_lock_is_told_as_what_it_is() {
        // The server closes the connection of whoever holds its lock for a second, and keeps the lock.
        let server = Server::start(json!({"timeout": 1}));
        let holder = open(&server).await;
        let mut cut_off = holder.subscribe();
        let held = voted(&holder, vec![store(1, Tid::ZERO, b"x")]).await;
        assert!(cut_off.next().await.is_err());
        drop(held);
        let options = ZeoOptions {
            lock_timeout: Duration::from_millis(300),
            ..server.options()
        };
        let waiting = ZeoStorage::open(options).await.unwrap();
        for _ in 0..2 {
            let txn = begin(&waiting, vec![store(2, Tid::ZERO, b"x")]).await;
            match txn.vote().await {
                Err(StorageError::Fault(fault @ Fault::LockHeld { .. })) => {
                    assert!(
                        fault.to_string().ends_with("restart that server"),
                        "{fault}"
                    );
                }
                other => panic!("nobody has the lock: {}", other.is_ok()),
            }
        }
        // It can be read all the same.
        assert_eq!(waiting.last_tid().await.unwrap(), Tid::ZERO);
    }
}

mod life {
    use super::*;

    #[tokio::test]
    async fn a_stopped_server_is_found_by_its_silence() {
        let server = Server::start(json!({}));
        let options = ZeoOptions {
            call_timeout: Duration::from_millis(500),
            heartbeat: Duration::from_millis(200),
            ..server.options()
        };
        let storage = ZeoStorage::open(options).await.unwrap();
        let mut heard = storage.subscribe();
        rustix::process::kill_process(server.pid(), rustix::process::Signal::STOP).unwrap();
        let cut_off = tokio::time::timeout(Duration::from_secs(20), heard.next()).await;
        assert!(cut_off.expect("it is noticed").is_err());
        let fault = storage.last_tid().await.expect_err("it is dead");
        assert!(matches!(fault, StorageError::Fault(Fault::Timeout { .. })));
    }

    #[tokio::test]
    async fn a_server_that_goes_away_cuts_everybody_off() {
        let server = Server::start(json!({}));
        let opener = ZeoOpener::new(server.options());
        let storage = opener.open().await.unwrap();
        let mut heard = storage.subscribe();
        drop(server);
        assert!(heard.next().await.is_err());
        assert!(storage.load_before(Oid(0), Tid::MAX).await.is_err());
        let Err(fault) = opener.open().await else {
            panic!("nobody is there");
        };
        assert!(
            fault
                .to_string()
                .starts_with("cannot connect to 127.0.0.1:")
        );
    }

    #[tokio::test]
    async fn a_storage_that_is_not_there_is_named() {
        let server = Server::start(json!({"name": "main"}));
        let Err(fault) = ZeoStorage::open(server.options()).await else {
            panic!("there is no storage of that name");
        };
        assert!(fault.to_string().contains("has no storage `1`"), "{fault}");
    }

    #[tokio::test]
    async fn a_read_only_server_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let writable = Server::start_in(folder, json!(["127.0.0.1", 0]), json!({}));
        let tid = commit(&open(&writable).await, &[(1, Tid::ZERO, b"a")]).await;
        let file = writable.folder().join("Data.fs");
        let read_only = Server::start(json!({"file": file, "read_only": true}));
        let storage = open(&read_only).await;
        assert!(storage.capabilities().read_only);
        assert_eq!(storage.last_tid().await.unwrap(), tid);
        assert_eq!(storage.current_tid(Oid(1)).await.unwrap(), tid);
        let txn = begin(&storage, vec![store(1, tid, b"b")]).await;
        assert!(matches!(
            txn.vote().await,
            Err(StorageError::Answer(Answer::ReadOnly))
        ));
    }

    #[tokio::test]
    async fn a_unix_socket_and_ipv6_are_addresses() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("zeo.sock");
        let unix = Server::start_in(folder, json!(path), json!({}));
        let storage = open(&unix).await;
        commit(&storage, &[(1, Tid::ZERO, b"a")]).await;
        let Description { kind, location } = storage.describe();
        assert_eq!((kind, location), ("zeo", path.display().to_string()));
        if std::net::TcpListener::bind("[::1]:0").is_ok() {
            let folder = tempfile::tempdir().unwrap();
            let six = Server::start_in(folder, json!(["::1", 0]), json!({}));
            let storage = open(&six).await;
            commit(&storage, &[(1, Tid::ZERO, b"a")]).await;
            assert!(storage.describe().location.starts_with("[::1]:"));
        }
    }
}

/// A server that tells a last transaction which it has cut off: it was killed between a vote and its finish.
mod untrue {
    use super::*;
    use crate::wire::{Call, Reply};

    /// The server, its last transaction, and the one that it tells.
    async fn lying() -> (Server, Tid, Tid) {
        let server = Server::start(json!({}));
        let storage = open(&server).await;
        let first = commit(&storage, &[(1, Tid::ZERO, b"first")]).await;
        let last = commit(&storage, &[(2, Tid::ZERO, b"last")]).await;
        assert!(first < last);
        let cut = Tid(last.0 + 1000);
        let mut txn = storage.begin(TxnMeta::default(), Some(cut)).await.unwrap();
        txn.store(store(1, first, b"never")).await.unwrap();
        let voted = ready(txn.vote().await.unwrap());
        let server = server.killed_and_started();
        drop(voted);
        (server, last, cut)
    }

    async fn said(storage: &ZeoStorage) -> Reply {
        storage.0.main.call(Call::LastTransaction).await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn it_is_not_believed_and_goes_on_where_it_ends() {
        let (server, last, cut) = lying().await;
        let storage = open(&server).await;
        assert_eq!(said(&storage).await, Reply::Tid(cut), "it does tell it");
        assert_eq!(storage.last_tid().await.unwrap(), last);
        assert_eq!(storage.tids_before(Tid::MAX, 1).await.unwrap(), [last]);
        let (as_of, oids) = storage.invalidations_since(last).await.unwrap();
        assert_eq!((as_of, oids), (last, Some(vec![])));
        let txn = begin(&storage, vec![store(2, last, b"next")]).await;
        let voted = ready(txn.vote().await.unwrap());
        assert_eq!(voted.after(), Some(last));
        let next = voted.finish().await.unwrap();
        assert_eq!(storage.last_tid().await.unwrap(), next);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_it_tells_can_be_restored_and_is_true_then() {
        let (server, last, cut) = lying().await;
        let (one, other) = (open(&server).await, open(&server).await);
        other.restore(vec![txn(cut.0, 7)]).await.unwrap();
        assert_eq!(other.last_tid().await.unwrap(), cut);
        // Who was told that it is not there asks again.
        assert_eq!(one.last_tid().await.unwrap(), cut);
        let refused = other.restore(vec![txn(cut.0, 7)]).await.unwrap_err();
        assert!(matches!(refused, StorageError::Answer(Answer::Invalid(_))));
        assert!(last < cut);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_earlier_one_can_be_restored_too() {
        let (server, last, cut) = lying().await;
        let storage = open(&server).await;
        let between = last.next();
        assert!(between < cut);
        storage.restore(vec![txn(between.0, 7)]).await.unwrap();
        assert_eq!(storage.last_tid().await.unwrap(), between);
        assert_eq!(said(&storage).await, Reply::Tid(between));
    }
}

mod undo {
    use super::*;

    async fn undo(storage: &ZeoStorage, tid: Tid) -> Tid {
        commit_ops(storage, vec![Op::Undo { tid }]).await
    }

    #[tokio::test]
    async fn what_can_be_undone_is_listed_and_undone_and_copied() {
        let server = Server::start(json!({}));
        let storage = open(&server).await;
        let meta = TxnMeta {
            user: Bytes::from_static(b"somebody"),
            description: Bytes::from_static(b"something"),
            ..TxnMeta::default()
        };
        let mut txn = storage.begin(meta.clone(), None).await.unwrap();
        txn.store(store(1, Tid::ZERO, b"a")).await.unwrap();
        let first = ready(txn.vote().await.unwrap()).finish().await.unwrap();
        let second = commit(&storage, &[(1, first, b"b"), (2, Tid::ZERO, b"x")]).await;
        let listed = storage.undo_info(0, -20, &Value::None).await.unwrap();
        let tids: Vec<Tid> = listed.iter().map(|one| one.tid).collect();
        assert_eq!(tids, [second, first]);
        assert_eq!(
            (&listed[1].user, &listed[1].description),
            (&meta.user, &meta.description)
        );
        let of_somebody = vec![(
            Value::Text("user_name".to_owned()),
            Value::Bytes(Bytes::from_static(b"somebody")),
        )];
        let listed = storage.undo_info(0, -20, &Value::Dict(of_somebody)).await;
        assert_eq!(listed.unwrap().len(), 1);

        let ops = vec![Op::Undo { tid: second }];
        let undone = voted(&storage, ops).await;
        let oids: BTreeSet<Oid> = undone.resolved().iter().copied().collect();
        assert_eq!(oids, BTreeSet::from([Oid(1), Oid(2)]));
        let third = undone.finish().await.unwrap();
        let fourth = undo(&storage, third).await;
        let fifth = undo(&storage, fourth).await;
        undo(&storage, fifth).await;
        let history = transactions(&storage, TidRange::ALL).await;
        assert!(matches!(history[2].records[0].data, RecordData::Back { tid, .. } if tid == first));
        assert!(matches!(history[2].records[1].data, RecordData::Gone));
        let copy = Server::start(json!({}));
        let copy = open(&copy).await;
        copy.restore(history.clone()).await.unwrap();
        let copied = transactions(&copy, TidRange::ALL).await;
        assert_eq!(texts(&copied), texts(&history));
    }

    /// Before ZODB 6.0.1 the first record of an object counts, which is not the one that is meant.
    #[tokio::test]
    async fn what_points_back_to_one_of_several_records_is_copied_as_its_data() {
        let record = |data| HistoryRecord {
            oid: Oid(1),
            data,
            blob: None,
        };
        let data = |bytes: &[u8]| record(RecordData::Data(payload(bytes)));
        let back = |tid, bytes: &[u8]| {
            record(RecordData::Back {
                tid: Tid(tid),
                data: payload(bytes),
            })
        };
        let txn = |tid, records| HistoryTxn {
            records,
            ..txn(tid, 0)
        };
        let history = vec![
            txn(10, vec![data(b"a")]),
            txn(20, vec![data(b"b")]),
            // Undone twice, and undone twice to the same.
            txn(30, vec![back(20, b"b"), back(10, b"a")]),
            txn(40, vec![back(10, b"a"), back(10, b"a")]),
            txn(50, vec![back(30, b"a")]),
            txn(60, vec![back(40, b"a")]),
        ];
        let mut expected = history.clone();
        expected[4].records = vec![data(b"a")];
        for size in [1, 3, 6] {
            let copy = Server::start(json!({}));
            let copy = open(&copy).await;
            for batch in history.chunks(size) {
                copy.restore(batch.to_vec()).await.unwrap();
            }
            let copied = transactions(&copy, TidRange::ALL).await;
            assert_eq!(texts(&copied), texts(&expected), "{size} at once");
        }
    }

    #[tokio::test]
    async fn what_python_could_not_read_is_looked_for_all_the_same() {
        let server = Server::start(json!({}));
        let storage = open(&server).await;
        let meta = TxnMeta {
            description: Bytes::from_static(b"/a/b/c somebody"),
            ..TxnMeta::default()
        };
        let mut txn = storage.begin(meta, None).await.unwrap();
        txn.store(store(1, Tid::ZERO, b"a")).await.unwrap();
        let first = ready(txn.vote().await.unwrap()).finish().await.unwrap();
        commit(&storage, &[(1, first, b"b")]).await;
        let text = |text: &str| Value::Text(text.to_owned());
        // What Zope's undo form asks for: this server has no `ZopeUndo`.
        let elements = Value::List(vec![text(""), text("a"), text("b")]);
        let prefix = Value::Object {
            module: "ZopeUndo.Prefix".to_owned(),
            name: "Prefix".to_owned(),
            arguments: Vec::new(),
            state: Some(Box::new(Value::Dict(vec![(text("path"), elements)]))),
        };
        let below = Value::Dict(vec![(text("description"), prefix)]);
        let found = storage.undo_info(0, -20, &below).await.unwrap();
        assert_eq!(found.iter().map(|one| one.tid).collect::<Vec<_>>(), [first]);
        let unhashable = Value::Dict(vec![(Value::List(Vec::new()), text("x"))]);
        assert_eq!(storage.undo_info(0, -20, &unhashable).await.unwrap(), []);
        assert!(storage.last_tid().await.is_ok());
    }

    #[tokio::test]
    async fn what_cannot_be_undone_is_an_answer() {
        let server = Server::start(json!({}));
        let storage = open(&server).await;
        let first = commit(&storage, &[(1, Tid::ZERO, b"a")]).await;
        let second = commit(&storage, &[(1, first, b"b")]).await;
        commit(&storage, &[(1, second, b"c")]).await;
        for tid in [second, Tid(77)] {
            let txn = begin(&storage, vec![Op::Undo { tid }]).await;
            let Err(StorageError::Answer(answer)) = txn.vote().await else {
                panic!("{tid} cannot be undone");
            };
            assert!(
                matches!(answer, Answer::Undo { .. } | Answer::MultipleUndo(_)),
                "{answer:?}"
            );
        }
        soon(commit(&storage, &[(2, Tid::ZERO, b"a")])).await;
    }
}

mod packing {
    use super::*;

    const ROOT: &[u8] = b"cpersistent.mapping\nPersistentMapping\n.}.";

    #[tokio::test]
    async fn a_packed_server_has_no_past_and_can_be_copied() {
        let server = Server::start(json!({}));
        let storage = open(&server).await;
        let first = commit(&storage, &[(0, Tid::ZERO, ROOT), (1, Tid::ZERO, ROOT)]).await;
        let second = commit(&storage, &[(0, first, ROOT)]).await;
        let third = commit(&storage, &[(0, second, ROOT)]).await;
        let ops = vec![Op::Delete {
            oid: Oid(1),
            serial: first,
        }];
        commit_ops(&storage, ops).await;
        let now = crate::clock::now().as_millisecond() as f64 / 1000.0 + 1.0;
        storage.pack(now).await.unwrap();
        assert_eq!(storage.history(Oid(0), 9).await.unwrap().len(), 1);
        let packed = transactions(&storage, TidRange::ALL).await;
        assert_eq!(packed[0].tid, third);
        assert_eq!(packed[0].meta.status, TxnStatus::Packed);
        let copy = Server::start(json!({}));
        let copy = open(&copy).await;
        copy.restore(packed.clone()).await.unwrap();
        assert_eq!(
            texts(&transactions(&copy, TidRange::ALL).await),
            texts(&packed)
        );
        // A second time there is nothing to do, which is no failure.
        storage.pack(now - 1.0).await.unwrap();
    }
}

mod blobs {
    use super::*;

    fn blob(content: &[u8]) -> Blob {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        Blob::temporary(file.into_temp_path()).unwrap()
    }

    fn content(blob: &Blob) -> Vec<u8> {
        std::fs::read(blob.path()).unwrap()
    }

    fn store_blob(oid: u64, serial: Tid, content: &[u8]) -> Op {
        Op::StoreBlob {
            oid: Oid(oid),
            serial,
            data: Bytes::from_static(b"cZODB.blob\nBlob\n.N.").into(),
            blob: blob(content),
        }
    }

    fn server() -> Server {
        let folder = tempfile::tempdir().unwrap();
        let blobs = folder.path().join("blobs");
        Server::start_in(folder, json!(["127.0.0.1", 0]), json!({"blobs": blobs}))
    }

    fn large() -> Vec<u8> {
        (0..3_000_000_u32).map(|at| (at % 251) as u8).collect()
    }

    #[tokio::test]
    async fn what_is_stored_is_fetched() {
        let server = server();
        let storage = open(&server).await;
        assert!(storage.capabilities().blobs);
        let ops = vec![
            store_blob(1, Tid::ZERO, b"small"),
            store(9, Tid::ZERO, b"x"),
            store_blob(2, Tid::ZERO, b""),
            store_blob(3, Tid::ZERO, &large()),
        ];
        let first = commit_ops(&storage, ops).await;
        let second = commit_ops(&storage, vec![store_blob(1, first, b"changed")]).await;
        let get = async |oid, tid| content(&storage.load_blob(Oid(oid), tid).await.unwrap());
        assert_eq!(get(1, first).await, b"small");
        assert_eq!(get(1, second).await, b"changed");
        assert_eq!(get(2, first).await, b"");
        let (one, other, small) = tokio::join!(
            storage.load_blob(Oid(3), first),
            storage.load_blob(Oid(3), first),
            storage.load_blob(Oid(1), first),
        );
        let (one, other) = (one.unwrap(), other.unwrap());
        assert_eq!(one.path(), other.path(), "it was fetched once");
        assert!(content(&one) == large());
        assert_eq!(content(&small.unwrap()), b"small");
        let path = one.path().to_owned();
        drop((one, other));
        assert!(!path.exists());
        let missing = storage.load_blob(Oid(9), first).await;
        assert!(matches!(
            missing,
            Err(StorageError::Answer(Answer::NoSuchObject(Oid(9))))
        ));
        // Whoever goes away in the middle disturbs nobody.
        let fetch = storage.load_blob(Oid(3), first);
        drop(tokio::time::timeout(Duration::from_millis(2), fetch).await);
        assert_eq!(get(1, first).await, b"small");
        let history = transactions(&storage, TidRange::only(first)).await;
        let oids: Vec<u64> = history[0].records.iter().map(|one| one.oid.0).collect();
        assert_eq!(oids, [9, 1, 2, 3], "blobs last, in their order");
    }

    #[tokio::test]
    async fn conflicts_do_not_lose_files() {
        let server = server();
        let storage = open(&server).await;
        let first = commit(&storage, &[(1, Tid::ZERO, b"a")]).await;
        let second = commit(&storage, &[(1, first, b"b")]).await;
        let ops = vec![store_blob(2, Tid::ZERO, b"kept"), store(1, first, b"mine")];
        let txn = begin(&storage, ops).await;
        let Vote::Conflicts(mut txn, found) = txn.vote().await.unwrap() else {
            panic!("it was changed meanwhile");
        };
        assert_eq!(found[0].oid, Oid(1));
        txn.store(store(1, second, b"both")).await.unwrap();
        let third = ready(txn.vote().await.unwrap()).finish().await.unwrap();
        let kept = storage.load_blob(Oid(2), third).await.unwrap();
        assert_eq!(content(&kept), b"kept");
    }

    #[tokio::test]
    async fn restored_blobs_have_their_files_and_revisions() {
        let (source, target) = (server(), server());
        let (source, target) = (open(&source).await, open(&target).await);
        let first = commit_ops(&source, vec![store_blob(1, Tid::ZERO, b"one")]).await;
        let second = commit_ops(&source, vec![store_blob(1, first, &large())]).await;
        let third = commit_ops(&source, vec![Op::Undo { tid: second }]).await;
        let gone = vec![Op::Delete {
            oid: Oid(1),
            serial: third,
        }];
        let fourth = commit_ops(&source, gone).await;
        let fifth = commit_ops(&source, vec![store_blob(1, fourth, b"again")]).await;
        let mut history = transactions(&source, TidRange::ALL).await;
        for txn in &mut history {
            if txn.tid != fourth {
                let file = source.load_blob(Oid(1), txn.tid).await.unwrap();
                txn.records[0].blob = Some(file);
            }
        }
        // In two batches, so that a revision is asked for that only the server knows.
        let rest = history.split_off(4);
        target.restore(history).await.unwrap();
        target.restore(rest).await.unwrap();
        for (tid, expected) in [
            (first, &b"one"[..]),
            (second, &large()),
            (third, b"one"),
            (fifth, b"again"),
        ] {
            let copied = target.load_blob(Oid(1), tid).await.unwrap();
            assert!(content(&copied) == expected, "{tid}");
        }
        let tids = |history: Vec<HistoryTxn>| -> Vec<Tid> {
            history.into_iter().map(|txn| txn.tid).collect()
        };
        let copied = tids(transactions(&target, TidRange::ALL).await);
        assert_eq!(copied, [first, second, third, fourth, fifth]);
    }

    #[tokio::test]
    async fn a_server_without_blobs_is_not_sent_any() {
        let server = Server::start(json!({}));
        let storage = open(&server).await;
        let txn = begin(&storage, vec![store_blob(1, Tid::ZERO, b"x")]).await;
        assert!(matches!(
            txn.vote().await,
            Err(StorageError::Answer(Answer::Unsupported("blobs")))
        ));
        soon(commit(&storage, &[(1, Tid::ZERO, b"x")])).await;
    }
}

mod tls {
    use std::os::unix::fs::PermissionsExt as _;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    use super::*;
    use crate::tls::servers::ClientTls;

    struct Certificate {
        certificate: String,
        key: String,
    }

    /// As `openssl req -x509` makes them.
    fn self_signed(name: &str) -> Certificate {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![
            rcgen::KeyUsagePurpose::DigitalSignature,
            rcgen::KeyUsagePurpose::KeyCertSign,
            rcgen::KeyUsagePurpose::CrlSign,
        ];
        let certificate = params.self_signed(&key).unwrap();
        Certificate {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    fn put(folder: &Path, name: &str, text: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&path, private).unwrap();
        path
    }

    #[tokio::test]
    async fn both_ends_know_each_other_or_do_not_talk() {
        let folder = tempfile::tempdir().unwrap();
        let (server, client, stranger) = (
            self_signed("zeo.example"),
            self_signed("client"),
            self_signed("zeo.example"),
        );
        let at = folder.path().to_owned();
        let server_file = put(&at, "server.pem", &server.certificate);
        let server_key = put(&at, "server.key", &server.key);
        let client_file = put(&at, "client.pem", &client.certificate);
        let client_key = put(&at, "client.key", &client.key);
        let both = format!("{}{}", stranger.certificate, stranger.key);
        let stranger_file = put(&at, "stranger.pem", &both);
        let trusted = at.join("trusted");
        std::fs::create_dir(&trusted).unwrap();
        put(&trusted, "one.pem", &server.certificate);
        put(&trusted, "README", "not a certificate");
        let running = Server::start_in(
            folder,
            json!(["127.0.0.1", 0]),
            json!({"tls": {
                "certificate": server_file, "key": server_key, "authenticate": client_file,
            }}),
        );
        let with = |tls| ZeoOptions {
            tls: Some(tls),
            call_timeout: Duration::from_secs(5),
            ..running.options()
        };
        let good = ZeoTls {
            files: ClientTls {
                authenticate: Some(server_file),
                certificate: Some(client_file.clone()),
                key: Some(client_key),
                check_hostname: true,
            },
            server_name: Some("zeo.example".to_owned()),
        };
        let storage = ZeoStorage::open(with(good.clone())).await.unwrap();
        let large = vec![7; 5 << 20];
        let tid = commit(&storage, &[(1, Tid::ZERO, &large)]).await;
        let read = storage.load_serial(Oid(1), tid).await.unwrap();
        assert!(read == large);

        let other = |change: &dyn Fn(&mut ZeoTls)| {
            let mut tls = good.clone();
            change(&mut tls);
            tls
        };
        let in_a_folder = other(&|tls| tls.files.authenticate = Some(trusted.clone()));
        let unnamed = other(&|tls| {
            tls.server_name = None;
            tls.files.check_hostname = false;
        });
        for tls in [in_a_folder, unnamed] {
            ZeoStorage::open(with(tls)).await.unwrap();
        }
        let misnamed = other(&|tls| tls.server_name = Some("other.example".to_owned()));
        let distrusted = other(&|tls| tls.files.authenticate = Some(stranger_file.clone()));
        let unknown = other(&|tls| {
            tls.files.certificate = Some(stranger_file.clone());
            tls.files.key = None;
        });
        let mismatched = other(&|tls| tls.files.key = Some(stranger_file.clone()));
        let open_key = put(&at, "open.key", &client.key);
        let everybody = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(&open_key, everybody).unwrap();
        let open = other(&|tls| tls.files.key = Some(open_key.clone()));
        let keyless = other(&|tls| tls.files.key = None);
        let missing = other(&|tls| tls.files.authenticate = Some(at.join("missing.pem")));
        for (tls, expected) in [
            (misnamed, "cannot speak TLS with"),
            (distrusted, "cannot speak TLS with"),
            (unknown, "does the server trust our certificate?"),
            (mismatched, "does not go with the certificate in"),
            (open, "is open to everybody on this machine (mode 0644)"),
            (keyless, "name its file with `key`"),
            (missing, "missing.pem"),
        ] {
            let Err(fault) = ZeoStorage::open(with(tls)).await else {
                panic!("{expected}: it was let in");
            };
            assert!(fault.to_string().contains(expected), "{fault}");
        }
        let Err(fault) = ZeoStorage::open(running.options()).await else {
            panic!("without TLS nothing goes");
        };
        assert!(
            matches!(fault, Fault::Unreachable(_) | Fault::Timeout { .. }),
            "{fault}"
        );
    }

    #[tokio::test]
    async fn a_certificate_of_a_listed_authority_is_good() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().to_owned();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            rcgen::KeyUsagePurpose::KeyCertSign,
            rcgen::KeyUsagePurpose::CrlSign,
        ];
        // Else it is called like those that it signs, which then seem to be signed by themselves.
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "an authority");
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let issue = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            params.use_authority_key_identifier_extension = true;
            params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
            let certificate = params.signed_by(&key, &authority).unwrap();
            (
                put(&at, &format!("{name}.pem"), &certificate.pem()),
                put(&at, &format!("{name}.key"), &key.serialize_pem()),
            )
        };
        let (server_file, server_key) = issue("zeo.example");
        let (client_file, client_key) = issue("client");
        let authority = put(&at, "authority.pem", &authority.pem());
        let running = Server::start_in(
            folder,
            json!(["127.0.0.1", 0]),
            json!({"tls": {
                "certificate": server_file, "key": server_key, "authenticate": authority,
            }}),
        );
        let tls = ZeoTls {
            files: ClientTls {
                authenticate: Some(authority),
                certificate: Some(client_file),
                key: Some(client_key),
                check_hostname: true,
            },
            server_name: Some("zeo.example".to_owned()),
        };
        let options = |tls: &ZeoTls| ZeoOptions {
            tls: Some(tls.clone()),
            ..running.options()
        };
        let storage = ZeoStorage::open(options(&tls)).await.unwrap();
        commit(&storage, &[(1, Tid::ZERO, b"a")]).await;
        let misnamed = ZeoTls {
            server_name: Some("other.example".to_owned()),
            ..tls
        };
        assert!(ZeoStorage::open(options(&misnamed)).await.is_err());
    }
}
