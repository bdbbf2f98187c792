//! Undo through the array.

use super::*;
use crate::storage::{Answer, StorageError, Value};

#[tokio::test]
async fn an_undo_is_made_by_all_and_told_to_everybody() {
    let rig = Rig::new().await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    let second = commit(&rig.array, 1, first, "two").await.unwrap();
    assert_eq!(
        load(&rig.array, 1).await.1,
        second,
        "it is in the cache now"
    );
    let mut heard = rig.array.subscribe();
    let undo = vec![Op::Undo { tid: second }];
    let undone = commit_ops(&rig.array, undo).await.unwrap();
    assert_eq!(
        load(&rig.array, 1).await,
        (Bytes::from_static(b"one"), undone)
    );
    assert_eq!(&*heard.next().await.unwrap().oids, [Oid(1)]);
    rig.same_histories();
    let undo = vec![Op::Undo { tid: first }, Op::Undo { tid: Tid(7) }];
    let error = commit_ops(&rig.array, undo).await.unwrap_err();
    assert!(matches!(
        error,
        StorageError::Answer(Answer::Undo { .. } | Answer::MultipleUndo(_))
    ));
    assert_eq!(rig.array.report().state, ArrayState::Optimal);
}

/// What it undoes is all that it carries.
#[tokio::test]
async fn an_undo_of_much_is_waited_for_longer() {
    let rig = Rig::with(|options| options.member_timeout = Duration::from_millis(50)).await;
    let large = "x".repeat(16 << 20);
    let tid = commit(&rig.array, 1, Tid::ZERO, &large).await.unwrap();
    let measured = rig.array.measure_undone([tid].into()).await.unwrap();
    assert_eq!(measured, Some(16 << 20));
    // Who cannot say how much it is votes all the same.
    let closed = Fault::Closed("test".into());
    for member in &rig.members[..2] {
        member.faults().fail_once(Moment::Iterate, closed.clone());
    }
    let gate = rig.members[0].faults().hold(Moment::Vote);
    let released = async {
        gate.reached().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        gate.release();
    };
    let undone = commit_ops(&rig.array, vec![Op::Undo { tid }]);
    let (undone, ()) = tokio::join!(undone, released);
    undone.unwrap();
    assert_eq!(rig.array.report().state, ArrayState::Optimal);
}

#[tokio::test]
async fn an_undo_is_recovered_with_its_back_pointer() {
    let rig = Rig::new().await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    rig.array.disable("c").unwrap();
    let second = commit(&rig.array, 1, first, "two").await.unwrap();
    for undone in [second, first] {
        let undo = vec![Op::Undo { tid: undone }];
        commit_ops(&rig.array, undo).await.unwrap();
    }
    rig.array.recover("c", Strategy::Verify, None).unwrap();
    rig.optimal().await;
    let texts = |member: &MemoryOpener| {
        let history = member.transactions();
        let texts = history.iter().map(crate::storage::suite::text);
        texts.collect::<Vec<_>>()
    };
    assert_eq!(texts(&rig.members[2]), texts(&rig.members[0]));
}

#[tokio::test]
async fn the_undo_log_ends_at_the_head_and_numbers_what_may_be_seen() {
    let rig = Rig::new().await;
    let mut tids = Vec::new();
    let mut serial = Tid::ZERO;
    for n in 0..5 {
        serial = commit(&rig.array, 1, serial, &n.to_string()).await.unwrap();
        tids.insert(0, serial);
    }
    let log = async |first, last| {
        let found = rig
            .array
            .undo_info(first, last, &Value::None)
            .await
            .unwrap();
        found.iter().map(|one| one.tid).collect::<Vec<_>>()
    };
    // All but one hold them already, and many of them.
    let gate = rig.members[1].faults().hold(Moment::Finish);
    let mut pending = Vec::new();
    for oid in 2..30u64 {
        let mut transaction = rig.array.begin(TxnMeta::default(), None).await.unwrap();
        let (oid, serial, data) = (Oid(oid), Tid::ZERO, Bytes::from_static(b"later").into());
        let store = Op::Store { oid, serial, data };
        transaction.store(store).await.unwrap();
        let Vote::Ready(voted) = transaction.vote().await.unwrap() else {
            panic!("a conflict")
        };
        pending.push(voted.finish());
    }
    rig.until("the others hold them", |_| {
        rig.members[0].transactions().len() == 33 && rig.members[2].transactions().len() == 33
    })
    .await;
    assert_eq!(log(0, -20).await, tids);
    assert_eq!(log(1, 3).await, tids[1..3]);
    assert_eq!(log(3, -1).await, tids[3..4]);
    assert_eq!(log(4, 2).await, []);
    assert_eq!(rig.array.history(Oid(1), 2).await.unwrap().len(), 2);
    gate.release();
    for finishing in pending {
        finishing.await.unwrap();
    }
    assert_eq!(log(0, -20).await.len(), 20);
    rig.same_histories();
}
