//! Commits, their clients, and the membership record.

use super::*;

#[tokio::test]
async fn a_client_that_holds_the_lock_too_long_loses_it() {
    let rig = Rig::with(|options| options.transaction_timeout = Duration::from_millis(100)).await;
    let mut transaction = rig.array.begin(TxnMeta::default(), None).await.unwrap();
    let data = Bytes::from_static(b"slow").into();
    transaction
        .store(Op::Store {
            oid: Oid(1),
            serial: Tid::ZERO,
            data,
        })
        .await
        .unwrap();
    let Vote::Ready(voted) = transaction.vote().await.unwrap() else {
        panic!("a conflict")
    };
    let quick = commit(&rig.array, 1, Tid::ZERO, "quick").await.unwrap();
    let error = voted.finish().await.unwrap_err();
    assert!(error.to_string().contains("too late"), "{error}");
    assert_eq!(
        load(&rig.array, 1).await,
        (Bytes::from_static(b"quick"), quick)
    );
    rig.same_histories();
}

#[tokio::test]
async fn no_transaction_is_acknowledged_before_the_record_of_a_loss_is_durable() {
    let rig = Rig::new().await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    // The record cannot be replaced any more.
    let record = rig.folder.path().join("membership.json");
    std::fs::remove_file(&record).unwrap();
    std::fs::create_dir(&record).unwrap();
    rig.members[1]
        .faults()
        .fail(Moment::Vote, Fault::Closed("test".into()));
    let error = commit(&rig.array, 1, first, "two").await.unwrap_err();
    assert!(error.to_string().contains("membership record"), "{error}");
    assert_eq!(load(&rig.array, 1).await.1, first);
    assert_eq!(rig.members[0].transactions().len(), 1, "a clean abort");
    std::fs::remove_dir(&record).unwrap();
    rig.members[1].faults().clear();
    rig.optimal().await;
    commit(&rig.array, 1, first, "two").await.unwrap();
    rig.same_histories();
}

#[tokio::test]
async fn a_transaction_of_unknown_outcome_that_comes_true_is_told_to_everybody() {
    let rig = Rig::with(|options| options.transaction_timeout = Duration::from_millis(300)).await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    assert_eq!(load(&rig.array, 1).await.1, first, "it is in the cache now");
    let mut heard = rig.array.subscribe();
    rig.break_record(true);
    rig.members[1]
        .faults()
        .fail_once(Moment::Finish, Fault::Closed("test".into()));
    let error = commit(&rig.array, 1, first, "two").await.unwrap_err();
    assert!(error.to_string().contains("outcome is unknown"), "{error}");
    assert_eq!(load(&rig.array, 1).await.1, first, "not acknowledged yet");
    assert_eq!(rig.heard("record-failed"), 1, "said once");
    let attention = rig.array.report().attention.unwrap();
    let said =
        "the membership record cannot be written, and nothing is committed until it can be: ";
    assert!(attention.starts_with(said), "{attention}");
    rig.break_record(false);
    rig.until("it came true", |report| report.head > first)
        .await;
    assert_eq!(rig.array.report().attention, None);
    assert_eq!(load(&rig.array, 1).await.0, "two");
    assert_eq!(&*heard.next().await.unwrap().oids, [Oid(1)]);
    assert!(rig.array.0.look(|core| core.live.is_empty()));
}

#[tokio::test]
async fn clients_that_leave_leave_nothing_behind() {
    let rig = Rig::new().await;
    let gate = rig.members[0].faults().hold(Moment::Vote);
    for _ in 0..5 {
        let waiting = commit(&rig.array, 1, Tid::ZERO, "nobody waits for it");
        let left = tokio::time::timeout(Duration::from_millis(5), waiting).await;
        assert!(left.is_err());
    }
    rig.members[0].faults().clear();
    gate.release();
    commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    assert!(rig.array.0.look(|core| core.live.is_empty()));
}

#[tokio::test]
async fn a_transaction_that_cannot_be_read_again_takes_nobody_out() {
    for make in [|member| member, MemoryOpener::like_a_server] {
        let rig = Rig::of(make, |_| {}).await;
        let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
        // One of them meets the error, and the others do not.
        rig.members[1].faults().fail_once(Moment::Vote, here());
        let error = commit(&rig.array, 1, first, "lost").await.unwrap_err();
        assert!(error.to_string().contains("a full disk"), "{error}");
        assert_eq!(rig.array.report().state, ArrayState::Optimal);
        commit(&rig.array, 1, first, "two").await.unwrap();
        assert_eq!(rig.heard("member-degraded") + rig.heard("disagreement"), 0);
        assert_eq!(rig.member("b").faults, 0);
        rig.same_histories();
    }
}

#[tokio::test]
async fn a_lock_is_waited_for_as_long_as_the_operator_said() {
    let rig = Rig::of(MemoryOpener::like_a_server, |options| {
        options.member_timeout = Duration::from_millis(100);
        options.transaction_timeout = Duration::from_secs(1);
        options.lock_timeout = Duration::from_mins(1);
    })
    .await;
    let gate = rig.members[1].faults().hold(Moment::Vote);
    let released = async {
        gate.reached().await;
        // Longer than a call, and a client's transaction, may take.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        gate.release();
    };
    let (done, ()) = tokio::join!(commit(&rig.array, 1, Tid::ZERO, "one"), released);
    done.unwrap();
    assert_eq!(rig.array.report().state, ArrayState::Optimal);
}

/// Who stores an object under the last identifier that there is would end the giving of new ones, for everybody.
#[tokio::test]
async fn no_identifier_is_stored_that_would_end_the_giving() {
    let rig = Rig::new().await;
    let given = |oids: Vec<Oid>| oids.into_iter().max().unwrap().0;
    let restore = |oid: u64| Op::Restore {
        oid: Oid(oid),
        serial: Tid::ZERO,
        data: Some(Bytes::from_static(b"data").into()),
        previous: None,
    };
    for far in [u64::MAX, (1 << 62) + 1, 1 << 63] {
        let error = commit(&rig.array, far, Tid::ZERO, "far").await.unwrap_err();
        assert!(error.to_string().contains("too far"), "{error}");
        let mut transaction = rig.array.begin(TxnMeta::default(), None).await.unwrap();
        let error = transaction.store(restore(far)).await.unwrap_err();
        assert!(error.to_string().contains("too far"), "{error}");
    }
    let first = given(rig.array.new_oids(1, Oid::ROOT).await.unwrap());
    assert!(first < 100, "{first}");
    // An import may have chosen its own, and from there it goes on.
    commit(&rig.array, 1 << 62, Tid::ZERO, "import")
        .await
        .unwrap();
    let next = given(rig.array.new_oids(100, Oid::ROOT).await.unwrap());
    assert!(next > 1 << 62, "{next}");
    commit(&rig.array, next + 1000, Tid::ZERO, "near")
        .await
        .unwrap();
    let error = commit(&rig.array, next + (1 << 40), Tid::ZERO, "far").await;
    assert!(error.unwrap_err().to_string().contains("too far"));
    let last = given(rig.array.new_oids(1, Oid::ROOT).await.unwrap());
    assert!(last > next + 1000, "{last}");
    assert_eq!(load(&rig.array, 1 << 62).await.0, "import");
    rig.optimal().await;
    rig.same_histories();
}
