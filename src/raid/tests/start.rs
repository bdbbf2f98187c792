//! Starting and stopping.

use super::*;

#[tokio::test]
async fn after_a_restart_only_the_in_sync_set_is_served_from() {
    let mut rig = Rig::new().await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    rig.array.disable("b").unwrap();
    rig.array.disable("c").unwrap();
    let second = commit(&rig.array, 1, first, "two").await.unwrap();
    // Only stale copies are there.
    rig.members[0]
        .faults()
        .fail(Moment::Open, Fault::Unreachable("power is off".into()));
    rig.restart().await;
    rig.until("it says why not", |report| {
        report.line.contains("power is off")
    })
    .await;
    assert!(load_error(&rig.array).await.contains("power is off"));
    rig.members[0].faults().clear();
    rig.until("it serves", |report| report.serving == Serving::Yes)
        .await;
    assert_eq!(
        load(&rig.array, 1).await,
        (Bytes::from_static(b"two"), second)
    );
}

#[tokio::test]
async fn a_member_that_lacks_the_end_is_recovered_at_the_start() {
    let mut rig = Rig::new().await;
    let mut serial = Tid::ZERO;
    for n in 0..5 {
        serial = commit(&rig.array, 1, serial, &n.to_string()).await.unwrap();
    }
    rig.array.shutdown(Duration::from_secs(5)).await.unwrap();
    rig.members[1].tamper(|history| history.truncate(3));
    rig.restart().await;
    rig.optimal().await;
    rig.same_histories();
    assert_eq!(load(&rig.array, 1).await.1, serial);
}

#[tokio::test]
async fn with_no_record_copies_that_disagree_are_not_served() {
    let folder = tempfile::tempdir().unwrap();
    let members: Vec<_> = NAMES.iter().map(|name| MemoryOpener::new(*name)).collect();
    for (n, member) in members.iter().enumerate().take(2) {
        let opened = crate::storage::Opener::open(member).await.unwrap();
        let mut transaction = opened
            .begin(TxnMeta::default(), Some(Tid(100)))
            .await
            .unwrap();
        let data = Bytes::from(vec![n as u8; 10]).into();
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
        voted.finish().await.unwrap();
        opened.close().await;
    }
    let (array, notices) = start(options(&folder), &members, &folder).await;
    let rig = Rig {
        folder,
        members,
        array,
        notices,
        record_is_broken: Arc::default(),
    };
    rig.until("it says why not", |report| {
        report.line.contains("no common history")
    })
    .await;
    assert_eq!(rig.array.report().state, ArrayState::Failed);
}

#[tokio::test]
async fn nobody_is_served_before_the_record_of_the_start_is_durable() {
    let mut rig = Rig::new().await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    rig.array.shutdown(Duration::from_secs(5)).await.unwrap();
    rig.members[2]
        .faults()
        .fail(Moment::Open, Fault::Unreachable("power is off".into()));
    rig.break_record(true);
    let options = options(&rig.folder);
    (rig.array, rig.notices) =
        start_with(options, &rig.members, &rig.folder, &rig.record_is_broken).await;
    rig.until("it says why not", |report| {
        report
            .line
            .contains("the membership record, which cannot be written")
    })
    .await;
    assert!(rig.array.last_tid().await.is_err());
    rig.break_record(false);
    rig.until("it serves", |report| report.serving == Serving::Yes)
        .await;
    assert_eq!(load(&rig.array, 1).await.1, first);
}

#[tokio::test]
async fn a_copy_from_a_backup_is_not_served_where_the_record_knows_better() {
    let mut rig = Rig::new().await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    let second = commit(&rig.array, 1, first, "two").await.unwrap();
    rig.array.shutdown(Duration::from_secs(5)).await.unwrap();
    rig.members[0].tamper(|history| history.truncate(1));
    let off = Fault::Unreachable("power is off".into());
    for member in &rig.members[1..] {
        member.faults().fail(Moment::Open, off.clone());
    }
    let options = options(&rig.folder);
    (rig.array, rig.notices) = start(options, &rig.members, &rig.folder).await;
    rig.until("it says why not", |report| {
        report.line.contains("a ends at") || report.line.contains("that is open, a, ends at")
    })
    .await;
    for member in &rig.members[1..] {
        member.faults().clear();
    }
    rig.optimal().await;
    assert_eq!(load(&rig.array, 1).await.1, second);
    rig.same_histories();
}

#[tokio::test]
async fn a_shutdown_waits_for_a_finish_in_hand() {
    let mut rig = Rig::new().await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    let gate = rig.members[0].faults().hold(Moment::Finish);
    let array = rig.array.clone();
    let committing = commit(&array, 1, first, "two");
    let stopping = async {
        gate.reached().await;
        let released = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            gate.release();
        };
        let (stopped, ()) = tokio::join!(rig.array.shutdown(Duration::from_secs(5)), released);
        stopped.unwrap();
    };
    let (second, ()) = tokio::join!(committing, stopping);
    let second = second.unwrap();
    rig.same_histories();
    let record = FileRecord::new(rig.folder.path().join("membership.json"));
    assert_eq!(record.load().unwrap().unwrap().head, second);
    let options = options(&rig.folder);
    (rig.array, rig.notices) = start(options, &rig.members, &rig.folder).await;
    rig.optimal().await;
    assert_eq!(load(&rig.array, 1).await.1, second);
}

#[tokio::test]
async fn a_shutdown_closes_the_members_although_a_client_never_finishes() {
    let rig = Rig::new().await;
    let mut transaction = rig.array.begin(TxnMeta::default(), None).await.unwrap();
    let data = Bytes::from_static(b"never").into();
    let (oid, serial) = (Oid(1), Tid::ZERO);
    transaction
        .store(Op::Store { oid, serial, data })
        .await
        .unwrap();
    let Vote::Ready(voted) = transaction.vote().await.unwrap() else {
        panic!("a conflict")
    };
    rig.array
        .shutdown(Duration::from_millis(600))
        .await
        .unwrap();
    drop(voted);
    assert!(rig.members[0].transactions().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_member_that_opens_and_does_not_answer_is_tried_again() {
    let mut rig = Rig::new().await;
    rig.array.shutdown(Duration::from_secs(5)).await.unwrap();
    let fault = Fault::Closed("test".into());
    rig.members[1].faults().fail_once(Moment::Ask, fault);
    let options = options(&rig.folder);
    (rig.array, rig.notices) = start(options, &rig.members, &rig.folder).await;
    rig.optimal().await;
}
