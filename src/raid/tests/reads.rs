//! Loads while members fail or differ.

use super::*;
use crate::storage::Answer;
use crate::zodb::TidRange;

#[tokio::test]
async fn a_read_that_fails_on_one_member_is_answered_by_another() {
    let rig = Rig::with(|options| options.cache_bytes = 0).await;
    for oid in 0..3u64 {
        commit(&rig.array, oid << 12, Tid::ZERO, "data")
            .await
            .unwrap();
    }
    rig.members[1]
        .faults()
        .fail(Moment::Load, Fault::Damaged("test".into()));
    for oid in 0..3u64 {
        assert_eq!(load(&rig.array, oid << 12).await.0, "data");
    }
    assert_eq!(rig.member("b").state, MemberState::Degraded);
    assert!(rig.member("b").reason.unwrap().contains("damaged: test"));
}

#[tokio::test]
async fn what_one_member_has_packed_away_is_asked_of_the_others() {
    let rig = Rig::with(|options| options.cache_bytes = 0).await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    let second = commit(&rig.array, 1, first, "two").await.unwrap();
    rig.members[0].tamper(|history| drop(history.remove(0)));
    for _ in 0..3 {
        let old = rig.array.load_before(Oid(1), second).await.unwrap();
        assert_eq!(old.map(|old| old.tid), Some(first));
        assert_eq!(rig.array.load_serial(Oid(1), first).await.unwrap(), "one");
    }
    let missing = rig.array.load_before(Oid(99), Tid::MAX).await.unwrap_err();
    assert!(missing.to_string().contains("no object"), "{missing}");
    assert_eq!(rig.array.report().state, ArrayState::Optimal);
}

#[tokio::test]
async fn one_bad_record_of_the_last_copy_takes_nothing_else_away() {
    let rig = Rig::with(|options| options.cache_bytes = 0).await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    rig.array.disable("b").unwrap();
    rig.array.disable("c").unwrap();
    rig.members[0]
        .faults()
        .fail_once(Moment::Load, Fault::Damaged("test".into()));
    assert!(load_error(&rig.array).await.contains("damaged"));
    assert_eq!(load(&rig.array, 1).await.1, first);
    assert_eq!(rig.array.report().serving, Serving::Yes);
}

#[tokio::test]
async fn a_disk_of_the_daemon_that_is_full_takes_nobody_out() {
    let rig = Rig::with(|options| options.cache_bytes = 0).await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    for member in &rig.members {
        member.faults().fail_once(Moment::Load, here());
    }
    assert!(load_error(&rig.array).await.contains("a full disk"));
    for member in &rig.members {
        member.faults().clear();
    }
    assert_eq!(load(&rig.array, 1).await.1, first);
    assert_eq!(rig.array.report().state, ArrayState::Optimal);
    assert_eq!(rig.heard("member-degraded"), 0);
}

#[tokio::test]
async fn a_server_may_take_longer_for_a_record_than_its_timeout() {
    let rig = Rig::of(MemoryOpener::like_a_server, |options| {
        options.cache_bytes = 0;
        options.member_timeout = Duration::from_millis(50);
    })
    .await;
    commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    let gates: Vec<_> = rig
        .members
        .iter()
        .map(|member| member.faults().hold(Moment::Load))
        .collect();
    let released = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(gates);
    };
    let ((data, _), ()) = tokio::join!(load(&rig.array, 1), released);
    assert_eq!(data, "one");
    assert_eq!(rig.array.report().state, ArrayState::Optimal);
}

#[tokio::test]
async fn who_looks_far_back_is_judged_by_the_time_since_it_last_got_on() {
    let rig = Rig::with(|options| {
        options.cache_bytes = 0;
        options.auto_recover = false;
        options.member_timeout = Duration::from_millis(200);
    })
    .await;
    commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    // Of the page that it is asked for first.
    let faults = rig.members[0].faults();
    faults.get_on(Moment::Load, true);
    let gate = faults.hold(Moment::Load);
    let (asked, loading) = (tokio::time::Instant::now(), load(&rig.array, 1));
    let gets_on = async {
        gate.reached().await;
        tokio::time::sleep_until(asked + Duration::from_millis(700)).await;
        assert_eq!(rig.member("a").state, MemberState::Optimal);
        faults.get_on(Moment::Load, false);
    };
    let ((data, _), ()) = tokio::join!(loading, gets_on);
    // Another one has answered.
    assert_eq!(data, "one");
    let a = rig.member("a");
    assert_eq!(a.state, MemberState::Degraded);
    assert!(a.reason.as_ref().unwrap().contains("within 0.2 s"), "{a:?}");
    drop(gate);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_told_of_a_transaction_never_reads_from_before_it() {
    let rig = Rig::new().await;
    let mut told = rig.array.subscribe();
    let reader = rig.array.clone();
    let reading = async move {
        while let Ok(committed) = told.next().await {
            let loaded = reader.load_before(Oid(1), committed.tid.next()).await;
            assert_eq!(loaded.unwrap().unwrap().tid, committed.tid);
        }
    };
    let reads = rig.array.clone();
    let writing = async move {
        let mut serial = Tid::ZERO;
        for n in 0..300 {
            serial = commit(&reads, 1, serial, &n.to_string()).await.unwrap();
        }
        reads.shutdown(Duration::from_secs(5)).await.unwrap();
    };
    let tasks = crate::task::Tasks::new("test");
    let (done, ended) = tokio::sync::oneshot::channel();
    tasks.spawn("reader", async move {
        reading.await;
        done.send(()).unwrap();
    });
    writing.await;
    ended.await.expect("the reader met no old revision");
}

#[tokio::test]
async fn a_record_that_no_copy_can_read_takes_nobody_out() {
    let rig = Rig::with(|options| options.cache_bytes = 0).await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    rig.array.disable("c").unwrap();
    for member in &rig.members[..2] {
        let faults = member.faults();
        faults.fail(Moment::Load, Fault::Damaged("test".into()));
        faults.fail(Moment::Iterate, Fault::Damaged("test".into()));
    }
    assert!(load_error(&rig.array).await.contains("damaged"));
    let range = TidRange::only(first);
    for _ in 0..2 {
        let mut history = rig.array.iterate(range).await.unwrap();
        let error = history.next().await.unwrap_err();
        assert!(error.to_string().contains("damaged"), "{error}");
    }
    for member in &rig.members[..2] {
        member.faults().clear();
    }
    assert_eq!(load(&rig.array, 1).await.1, first);
    for name in ["a", "b"] {
        assert_eq!(rig.member(name).state, MemberState::Optimal, "{name}");
    }
    assert_eq!(rig.heard("not-serving"), 0);
}

#[tokio::test]
async fn who_cannot_read_on_is_replaced_in_an_iteration() {
    let rig = Rig::new().await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    let second = commit(&rig.array, 1, first, "two").await.unwrap();
    let range = TidRange {
        first,
        last: second,
    };
    let mut history = rig.array.iterate(range).await.unwrap();
    assert_eq!(history.next().await.unwrap().unwrap().tid, first);
    rig.members[0]
        .faults()
        .fail(Moment::Iterate, Fault::Damaged("test".into()));
    assert_eq!(history.next().await.unwrap().unwrap().tid, second);
    assert!(history.next().await.unwrap().is_none());
    assert_eq!(rig.member("a").state, MemberState::Degraded);
    assert_eq!(rig.array.report().serving, Serving::Yes);
}

#[tokio::test]
async fn an_iteration_of_a_client_holds_little_and_one_that_copies_reads_ahead() {
    let rig = Rig::new().await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    let held_little = || {
        let faults = rig.members.iter().map(MemoryOpener::faults);
        faults
            .map(crate::storage::memory::Faults::held_little)
            .sum::<usize>()
    };
    assert_eq!(held_little(), 0);
    let mut history = rig.array.iterate(TidRange::only(first)).await.unwrap();
    assert_eq!(history.next().await.unwrap().unwrap().tid, first);
    let of_the_client = held_little();
    assert!(of_the_client > 0);
    rig.array.disable("b").unwrap();
    commit(&rig.array, 1, first, "two").await.unwrap();
    rig.array.recover("b", Strategy::Missing, None).unwrap();
    rig.optimal().await;
    assert_eq!(held_little(), of_the_client);
}

#[tokio::test]
async fn who_became_the_last_copy_while_it_was_asked_stays() {
    let rig = Rig::with(|options| options.cache_bytes = 0).await;
    rig.array.disable("c").unwrap();
    // Of a page of which b is asked first.
    let oid = 1 << 12;
    let first = commit(&rig.array, oid, Tid::ZERO, "one").await.unwrap();
    let faults = rig.members[1].faults();
    let gate = faults.hold(Moment::Load);
    faults.fail_once(Moment::Load, Fault::Damaged("test".into()));
    let loading = rig.array.load_before(Oid(oid), Tid::MAX);
    let alone = async {
        gate.reached().await;
        rig.array.disable("a").unwrap();
        gate.release();
    };
    let (loaded, ()) = tokio::join!(loading, alone);
    assert!(loaded.unwrap_err().to_string().contains("damaged"));
    rig.members[1].faults().clear();
    assert_eq!(load(&rig.array, oid).await.1, first);
    assert_eq!(rig.member("b").state, MemberState::Optimal);
    assert_eq!(rig.heard("not-serving"), 0);
}

#[tokio::test]
async fn one_bad_record_does_not_end_what_is_left_of_a_majority() {
    let rig = Rig::of(MemoryOpener::like_a_server, |options| {
        options.cache_bytes = 0;
        options.cluster_mode = ClusterMode::Coop;
    })
    .await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    rig.array.disable("c").unwrap();
    rig.members[0]
        .faults()
        .fail(Moment::Load, Fault::Damaged("test".into()));
    assert_eq!(load(&rig.array, 1).await.1, first);
    assert_eq!(rig.member("a").state, MemberState::Optimal);
    assert_eq!(rig.array.report().serving, Serving::Yes);
    assert_eq!(rig.heard("not-serving"), 0);
}

fn refusal(text: &str) -> Answer {
    Answer::Other {
        class: "some.Error".into(),
        text: text.into(),
    }
}

#[tokio::test]
async fn who_alone_refuses_what_the_others_answer_is_taken_out() {
    for answer in [refusal("test"), Answer::Invalid("test".into())] {
        let rig = Rig::with(|options| {
            options.cache_bytes = 0;
            options.auto_recover = false;
        })
        .await;
        let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
        rig.members[0].faults().refuse(Moment::Load, answer);
        assert_eq!(load(&rig.array, 1).await.1, first);
        let a = rig.member("a");
        assert_eq!(a.state, MemberState::Degraded);
        assert!(a.reason.as_ref().unwrap().contains("test"), "{a:?}");
        assert_eq!(rig.heard("disagreement"), 1);
    }
}

#[tokio::test]
async fn without_a_majority_who_answers_is_believed_and_nobody_is_taken_out() {
    let rig = Rig::with(|options| options.cache_bytes = 0).await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    rig.array.disable("c").unwrap();
    let faults = rig.members[0].faults();
    faults.refuse(Moment::Load, refusal("test"));
    faults.refuse(Moment::Iterate, refusal("test"));
    for _ in 0..3 {
        assert_eq!(load(&rig.array, 1).await.1, first);
        let mut history = rig.array.iterate(TidRange::ALL).await.unwrap();
        assert_eq!(history.next().await.unwrap().unwrap().tid, first);
        assert!(history.next().await.unwrap().is_none());
        // It is not there, whoever else cannot say so.
        let missing = rig.array.load_before(Oid(99), Tid::MAX).await;
        assert!(missing.unwrap_err().to_string().contains("no object"));
    }
    assert_eq!(rig.member("a").state, MemberState::Optimal);
    // Told, and not again and again.
    assert_eq!(rig.heard("disagreement"), 1);
}

#[tokio::test]
async fn what_all_refuse_is_the_clients_mistake() {
    let rig = Rig::with(|options| options.cache_bytes = 0).await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    for member in &rig.members {
        let faults = member.faults();
        faults.refuse(Moment::Load, refusal("a mistake"));
        faults.refuse(Moment::Iterate, refusal("a mistake"));
    }
    assert!(load_error(&rig.array).await.contains("a mistake"));
    let mut history = rig.array.iterate(TidRange::only(first)).await.unwrap();
    let error = history.next().await.unwrap_err().to_string();
    assert!(error.contains("a mistake"), "{error}");
    assert_eq!(rig.array.report().state, ArrayState::Optimal);
    assert_eq!(rig.heard("disagreement"), 0);
}

#[tokio::test]
async fn who_walks_through_the_objects_does_not_see_one_that_is_being_committed() {
    let rig = Rig::new().await;
    commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    let gate = rig.members[1].faults().hold(Moment::Finish);
    // Each is read from another member first.
    let oids = [1u64 << 12, 2 << 12, 3 << 12];
    let store = |oid: &u64| Op::Store {
        oid: Oid(*oid),
        serial: Tid::ZERO,
        data: Bytes::from_static(b"new").into(),
    };
    let ops: Vec<Op> = oids.iter().map(store).collect();
    let committing = commit_ops(&rig.array, ops);
    let looking = async {
        gate.reached().await;
        for oid in oids {
            let record = rig.array.record_from(Oid(oid)).await.unwrap();
            assert!(record.is_none(), "{record:?}");
        }
        gate.release();
    };
    let (committed, ()) = tokio::join!(committing, looking);
    committed.unwrap();
    let record = rig.array.record_from(Oid(oids[0])).await.unwrap();
    assert!(record.is_some());
}
