//! Undo, and packing.

use std::sync::atomic::Ordering::Relaxed;

use super::full::{FINAL, Full, UNDONE};
use super::late::Late;
use super::*;
use crate::pickle::extension;
use crate::server::limits::Limit;
use crate::storage::Undoable;
use crate::wire::{UndoLine, WireError};
use crate::zodb::Answer;

fn undo(id: i64, tid: Tid) -> Call {
    let txn = txn(id);
    Call::Undoa { tid, txn }
}

#[tokio::test]
async fn an_undo_is_done_in_its_place_and_the_vote_names_what_it_touched() {
    let house = House::of(Full::new());
    let mut client = house.client().await;
    client.begin(1).await;
    client.store(1, 1, Tid::ZERO, b"data").await;
    client.tell(undo(1, Tid(5))).await;
    assert_eq!(client.call(vote(1)).await, Reply::Voted(vec![UNDONE]));
    assert!(matches!(client.call(finish(1)).await, Reply::Tid(_)));
    client.begin(1).await;
    client.tell(undo(1, FINAL)).await;
    assert_eq!(
        client.call(vote(1)).await,
        Reply::Error(WireError::Answer(Answer::MultipleUndo(vec![(
            UNDONE,
            "changed".to_owned()
        )])))
    );
}

/// What it writes is not in the call, and would not be counted.
#[tokio::test]
async fn nothing_is_undone_twice_in_one_transaction() {
    let house = House::of(Full::new());
    let mut client = house.client().await;
    client.begin(1).await;
    client.tell(undo(1, Tid(5))).await;
    client.tell(undo(1, Tid(5))).await;
    let reply = client.call(vote(1)).await;
    assert!(
        matches!(
            &reply,
            Reply::Error(WireError::Answer(Answer::Undo { reason, .. })) if reason.contains("already")
        ),
        "{reply:?}"
    );
    client.begin(2).await;
    client.tell(undo(2, Tid(5))).await;
    assert_eq!(client.call(vote(2)).await, Reply::Voted(vec![UNDONE]));
}

#[tokio::test]
async fn what_is_undone_counts_as_what_is_stored() {
    let options = ServerOptions {
        max_transaction_bytes: 10_000,
        ..ServerOptions::default()
    };
    let storage = Full::new();
    storage.undone_bytes.store(4000, Relaxed);
    let house = House::with(storage, options);
    let (mut client, mut other) = (house.client().await, house.client().await);
    client.begin(1).await;
    for tid in [5, 6, 7] {
        client.tell(undo(1, Tid(tid))).await;
    }
    let reply = client.call(vote(1)).await;
    let Reply::Error(WireError::Storage(text)) = reply else {
        panic!("{reply:?}");
    };
    assert!(
        text.contains("larger than 10000B (limits.transaction)"),
        "{text}"
    );
    for client in [&mut client, &mut other] {
        client.begin(2).await;
        for tid in [5, 6] {
            client.tell(undo(2, Tid(tid))).await;
        }
        let voted = client.call(vote(2)).await;
        assert!(matches!(voted, Reply::Voted(_)), "{voted:?}");
        assert!(matches!(client.call(finish(2)).await, Reply::Tid(_)));
    }
    // What was counted once is not counted again after a conflict.
    let first = client.commit(1, Tid::ZERO, b"first").await;
    let second = client.commit(1, first, b"second").await;
    client.begin(3).await;
    for tid in [5, 6] {
        client.tell(undo(3, Tid(tid))).await;
    }
    client.store(3, 1, first, b"mine").await;
    let told = client.call(vote(3)).await;
    assert!(matches!(told, Reply::Conflicts(_)), "{told:?}");
    client.store(3, 1, second, b"resolved").await;
    let voted = client.call(vote(3)).await;
    assert!(matches!(voted, Reply::Voted(_)), "{voted:?}");
}

#[tokio::test]
async fn how_many_are_undone_in_one_transaction_is_bounded() {
    let options = ServerOptions {
        undos: 3,
        ..ServerOptions::default()
    };
    let house = House::with(Full::new(), options);
    let mut client = house.client().await;
    for (id, count) in [(1, 4), (2, 3)] {
        client.begin(id).await;
        for tid in 0..count {
            client.tell(undo(id, Tid(100 + tid))).await;
        }
        let reply = client.call(vote(id)).await;
        let is_refused = matches!(
            &reply,
            Reply::Error(WireError::Answer(Answer::Undo { reason, .. })) if reason.contains("more than 3 others (limits.undos)")
        );
        assert_eq!(is_refused, count > 3, "{reply:?}");
    }
    assert_eq!(house.passed(Limit::Undos), 1);
}

#[tokio::test]
async fn how_far_back_an_undo_log_begins_is_bounded() {
    let storage = Full::new();
    let house = House::of(storage.clone());
    let mut client = house.client().await;
    let (first, last) = (1_000_000_000, -1);
    let reply = client.call(Call::UndoLog { first, last }).await;
    assert!(
        matches!(
            &reply,
            Reply::Error(WireError::Value(text)) if text.contains("at most")
        ),
        "{reply:?}"
    );
    assert!(storage.asked.lock().is_empty());
}

#[tokio::test]
async fn an_undo_and_a_conflict_in_one_transaction_are_both_there_after_the_second_vote() {
    let house = House::of(Full::new());
    let mut client = house.client().await;
    let first = client.commit(1, Tid::ZERO, b"first").await;
    let second = client.commit(1, first, b"second").await;
    client.begin(1).await;
    client.tell(undo(1, Tid(5))).await;
    client.store(1, 1, first, b"mine").await;
    let Reply::Conflicts(conflicts) = client.call(vote(1)).await else {
        panic!("no conflict");
    };
    assert_eq!(conflicts[0].oid, Oid(1));
    client.store(1, 1, second, b"resolved").await;
    assert_eq!(client.call(vote(1)).await, Reply::Voted(vec![UNDONE]));
    assert!(matches!(client.call(finish(1)).await, Reply::Tid(_)));
    assert_eq!(client.load(1).await.data.as_ref(), b"resolved");
}

#[tokio::test]
async fn an_id_that_is_none_of_the_undo_log_is_told_by_the_vote() {
    let house = House::of(Full::new());
    let mut client = house.client().await;
    client.begin(1).await;
    // `(0, True, 'undoa', (b'?', 1))`
    let call = b"\x80\x03(K\x00\x88X\x05\0\0\0undoaC\x01?K\x01\x86t.";
    let mut frame = (call.len() as u32).to_be_bytes().to_vec();
    frame.extend_from_slice(call);
    client.raw(&frame).await;
    let reply = client.call(vote(1)).await;
    assert!(
        matches!(
            &reply,
            Reply::Error(WireError::Answer(Answer::Undo { reason, .. })) if reason.contains("Invalid transaction id")
        ),
        "{reply:?}"
    );
}

#[tokio::test]
async fn the_undo_log_is_told_as_the_storage_has_it() {
    let storage = Full::new();
    let tid = Tid::from_time("2026-11-20T09:16:41Z".parse().unwrap());
    let text = |text: &str| Value::Text(text.to_owned());
    let undoable = Undoable {
        tid,
        user: Bytes::from_static(b"/ user"),
        description: Bytes::from_static(b"/path"),
        extension: extension::pickled(&[(text("request_type"), text("x"))]),
        size: Some(120),
    };
    storage.log.lock().push(undoable.clone());
    let expected = Reply::UndoLog(vec![UndoLine {
        tid,
        time: 1_795_166_201.0,
        user: undoable.user,
        description: undoable.description,
        extension: undoable.extension,
        size: undoable.size,
    }]);
    let house = House::of(storage.clone());
    let specification = Value::Dict(vec![(text("user_name"), text("/ user"))]);
    for dialect in [Dialect::Pickle, Dialect::Msgpack] {
        let mut client = house.connect(dialect).await;
        client.register("main", true).await;
        let asked = Call::UndoLog {
            first: 0,
            last: -20,
        };
        assert_near(client.call(asked).await, &expected);
        let asked = Call::UndoInfo {
            first: 3,
            last: i64::MAX,
            specification: specification.clone(),
        };
        assert_near(client.call(asked).await, &expected);
        let asked = std::mem::take(&mut *storage.asked.lock());
        // Nobody gets all of a long log at once.
        let second = (3, 100_003, specification.clone());
        assert_eq!(asked, [(0, -20, Value::None), second]);
    }
}

/// The same but for the last digits of the time.
fn assert_near(reply: Reply, expected: &Reply) {
    let (Reply::UndoLog(mut lines), Reply::UndoLog(expected)) = (reply, expected) else {
        panic!("no undo log");
    };
    for (line, expected) in lines.iter_mut().zip(expected) {
        assert!((line.time - expected.time).abs() < 1e-6, "{line:?}");
        line.time = expected.time;
    }
    assert_eq!(lines, *expected);
}

#[tokio::test]
async fn what_a_storage_can_do_is_told_in_its_interfaces() {
    let check = async |house: House, undo: bool, blobs: bool| {
        let mut client = house.client().await;
        let Reply::Info(info) = client.call(Call::GetInfo).await else {
            panic!("no info");
        };
        let has = |name| info.interfaces.contains(&("ZODB.interfaces", name));
        assert!(has("IStorageIteration") && has("IStorageRestoreable") && has("IExternalGC"));
        assert_eq!(
            (
                has("IStorageUndoable"),
                info.supports_undo,
                has("IBlobStorage")
            ),
            (undo, undo, blobs)
        );
    };
    check(House::of(Full::new()), true, true).await;
    check(House::of(Late::new()), false, false).await;
}

fn pack(time: f64, wait: bool) -> Call {
    Call::Pack { time, wait }
}

fn is_info(said: &Said) -> bool {
    matches!(said, Said::Push(Push::Info { .. }))
}

#[tokio::test]
async fn who_waits_for_a_pack_is_answered_when_it_has_ended_and_everybody_hears_the_size() {
    let storage = Full::new();
    let house = House::of(storage.clone());
    let mut client = house.client().await;
    let mut other = house.client().await;
    storage.held.send_replace(true);
    let packed = client.ask(pack(12.5, true)).await;
    until("it has begun", || storage.packs.borrow().len() == 1).await;
    assert_eq!(*storage.packs.borrow(), [12.5]);
    // All else goes on; another pack is refused.
    client.commit(1, Tid::ZERO, b"data").await;
    let reply = other.call(pack(13.0, true)).await;
    assert!(
        matches!(&reply, Reply::Error(WireError::Answer(Answer::Other { text, .. })) if text.contains("Already packing")),
        "{reply:?}"
    );
    storage.held.send_replace(false);
    let (before, reply) = client.hear_until(&packed).await;
    assert_eq!(reply, Reply::None);
    assert!(before.last().is_some_and(is_info), "{before:?}");
    while !is_info(&other.hear().await) {}
    // It failed: who waits hears why.
    let reply = client.call(pack(-1.0, true)).await;
    assert!(matches!(reply, Reply::Error(_)), "{reply:?}");
}

#[tokio::test]
async fn a_pack_that_nobody_waits_for_goes_on_without_its_client() {
    let storage = Full::new();
    let house = House::of(storage.clone());
    let mut client = house.client().await;
    let mut other = house.client().await;
    storage.held.send_replace(true);
    assert_eq!(client.call(pack(1.0, false)).await, Reply::None);
    until("it has begun", || storage.packs.borrow().len() == 1).await;
    client.leave().await;
    until("the client is gone", || house.shared.sessions.len() == 1).await;
    storage.held.send_replace(false);
    assert!(is_info(&other.hear().await));
    until("the task has ended", || house.shared.packs.is_empty()).await;
    // One that would take for ever ends with the server.
    storage.held.send_replace(true);
    assert_eq!(other.call(pack(1.0, false)).await, Reply::None);
    until("it has begun", || storage.packs.borrow().len() == 2).await;
    house
        .shared
        .packs
        .shutdown(PATIENCE)
        .await
        .expect("it ends");
}
