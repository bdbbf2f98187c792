//! Recoveries.

use super::*;
use crate::storage::Opener as _;
use crate::zodb::TxnStatus;

#[tokio::test]
async fn a_copy_with_transactions_of_its_own_is_rebuilt_only_when_asked() {
    let rig = Rig::new().await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    rig.array.disable("b").unwrap();
    commit(&rig.array, 1, first, "two").await.unwrap();
    rig.members[1].tamper(|history| {
        let mut own = history.last().unwrap().clone();
        own.tid = Tid(own.tid.0 + 1);
        own.meta.description = Bytes::from_static(b"nobody knows me");
        history.push(own);
    });
    let found = rig.array.analyse("b").await.unwrap().finding;
    let Finding::Diverged {
        common,
        only_here,
        only_here_count,
        ..
    } = found
    else {
        panic!("{found:?}")
    };
    assert_eq!((common, only_here_count), (Some(first), 1));
    assert_eq!(only_here[0].description, "nobody knows me");
    rig.array.recover("b", Strategy::Missing, None).unwrap();
    rig.until("it fails", |report| {
        matches!(&report.recovery, Some(RecoveryReport { outcome: RecoveryOutcome::Failed { reason, .. }, .. })
            if reason.contains("it has to be rebuilt"))
    })
    .await;
    rig.until("b waits", |_| rig.member("b").needs_operator)
        .await;
    rig.array.recover("b", Strategy::Rebuild, None).unwrap();
    rig.optimal().await;
    rig.same_histories();
}

#[tokio::test]
async fn a_copy_that_went_on_alone_and_was_packed_is_rebuilt_as_a_whole() {
    let rig = Rig::new().await;
    commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    commit(&rig.array, 2, Tid::ZERO, "two").await.unwrap();
    rig.array.disable("b").unwrap();
    commit(&rig.array, 3, Tid::ZERO, "three").await.unwrap();
    // It has another state of the first object, and packing has taken from it the one that all others hold.
    rig.members[1].tamper(|history| {
        let mut own = history.remove(0);
        own.tid = history[0].tid.next();
        history.push(own);
        for transaction in history {
            transaction.meta.status = TxnStatus::Packed;
        }
    });
    let found = rig.array.analyse("b").await.unwrap().finding;
    let is_common = matches!(
        found,
        Finding::Diverged {
            common: Some(_),
            ..
        }
    );
    assert!(is_common, "{found:?}");
    rig.array.recover("b", Strategy::Rebuild, None).unwrap();
    rig.optimal().await;
    rig.same_histories();
}

#[tokio::test]
async fn what_was_packed_away_while_a_member_was_out_is_not_read_from_it_as_something_older() {
    let mut rig = Rig::new().await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    let other = commit(&rig.array, 2, Tid::ZERO, "other").await.unwrap();
    rig.array.disable("c").unwrap();
    let second = commit(&rig.array, 1, first, "two").await.unwrap();
    let third = commit(&rig.array, 1, second, "three").await.unwrap();
    rig.array.pack(4e9).await.unwrap();
    let fourth = commit(&rig.array, 1, third, "four").await.unwrap();
    commit(&rig.array, 1, fourth, "five").await.unwrap();
    rig.array.recover("c", Strategy::Missing, None).unwrap();
    rig.optimal().await;
    let held = rig.members[2].transactions();
    let held: Vec<Tid> = held.iter().map(|transaction| transaction.tid).collect();
    assert!(held.contains(&first) && !held.contains(&second), "{held:?}");
    for name in ["a", "b"] {
        rig.array.disable(name).unwrap();
    }
    for round in ["at once", "after a restart"] {
        // It is not what it was before the second transaction.
        let before = rig.array.load_before(Oid(1), third).await.unwrap();
        assert!(before.is_none(), "{round}: {before:?}");
        // What packing has left is there, and what came after it.
        for (tid, before) in [(third, fourth), (fourth, Tid::MAX)] {
            let before = Tid(before.0.min(tid.0 + 1));
            let loaded = rig.array.load_before(Oid(1), before).await.unwrap();
            assert_eq!(loaded.map(|loaded| loaded.tid), Some(tid), "{round}");
        }
        let loaded = rig.array.load_before(Oid(2), third).await.unwrap();
        assert_eq!(loaded.map(|loaded| loaded.tid), Some(other), "{round}");
        assert_eq!(&load(&rig.array, 1).await.0[..], b"five", "{round}");
        rig.restart().await;
        rig.until("it serves", |report| report.serving == Serving::Yes)
            .await;
    }
}

#[tokio::test]
async fn a_recovery_runs_beside_commits_and_ends_level() {
    let rig = Rig::new().await;
    let mut serial = commit(&rig.array, 1, Tid::ZERO, "0").await.unwrap();
    rig.array.disable("c").unwrap();
    for n in 0..200 {
        serial = commit(&rig.array, 1, serial, &n.to_string()).await.unwrap();
    }
    rig.array.recover("c", Strategy::Verify, None).unwrap();
    while rig.array.report().state != ArrayState::Optimal {
        serial = commit(&rig.array, 1, serial, "meanwhile").await.unwrap();
    }
    rig.same_histories();
    rig.until("the recovery has ended", |report| {
        report
            .recovery
            .as_ref()
            .is_some_and(|recovery| recovery.outcome == RecoveryOutcome::Done)
    })
    .await;
}

#[tokio::test]
async fn a_recovery_can_be_slowed_and_cancelled_and_goes_on_where_it_was() {
    let rig = Rig::new().await;
    let mut serial = Tid::ZERO;
    rig.array.disable("c").unwrap();
    let big = "x".repeat(400_000);
    for _ in 0..60 {
        serial = commit(&rig.array, 1, serial, &big).await.unwrap();
    }
    let slow = Rate {
        bytes_per_second: Some(1),
        ..Rate::UNLIMITED
    };
    rig.array
        .recover("c", Strategy::Missing, Some(slow))
        .unwrap();
    rig.until("it copies", |report| {
        report
            .recovery
            .as_ref()
            .is_some_and(|recovery| recovery.progress.done.bytes > 0)
    })
    .await;
    rig.array.cancel_recovery().unwrap();
    rig.until("it is cancelled", |report| {
        report
            .recovery
            .as_ref()
            .is_some_and(|r| r.outcome == RecoveryOutcome::Cancelled)
    })
    .await;
    assert!(rig.member("c").needs_operator, "an operator's word is kept");
    let copied = rig.members[2].transactions().len();
    assert!(0 < copied && copied < 60, "{copied} copied");
    rig.array
        .recover("c", Strategy::Missing, Some(slow))
        .unwrap();
    rig.until("it runs", |report| {
        report
            .recovery
            .as_ref()
            .is_some_and(|r| r.progress.phase == "copy")
    })
    .await;
    rig.array.set_recovery_rate(Rate::UNLIMITED).unwrap();
    rig.optimal().await;
    rig.same_histories();
}

#[tokio::test]
async fn a_recovery_goes_on_from_another_source_where_one_fails() {
    let rig = Rig::new().await;
    let mut serial = Tid::ZERO;
    rig.array.disable("c").unwrap();
    for n in 0..5 {
        serial = commit(&rig.array, 1, serial, &n.to_string()).await.unwrap();
    }
    rig.members[0]
        .faults()
        .fail_after(3, Moment::Iterate, Fault::Closed("test".into()));
    rig.array.recover("c", Strategy::Missing, None).unwrap();
    rig.optimal().await;
    rig.same_histories();
    assert!(rig.heard("member-degraded") >= 2, "a was taken out");
    assert_eq!(rig.heard("recovery-failed"), 0);
}

#[tokio::test]
async fn a_recovery_that_fails_at_the_daemon_takes_nobody_out() {
    let rig = Rig::new().await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    let others_are_optimal = |report: &ArrayReport| {
        let mut others = report.members.iter().filter(|member| member.name != "c");
        others.all(|member| member.state == MemberState::Optimal && member.faults == 0)
    };
    rig.array.disable("c").unwrap();
    commit(&rig.array, 1, first, "two").await.unwrap();
    for (member, moment) in [(2, Moment::Restore), (0, Moment::Iterate)] {
        rig.members[member].faults().fail_once(moment, here());
    }
    rig.array.recover("c", Strategy::Missing, None).unwrap();
    rig.until("it fails", |_| rig.heard("recovery-failed") == 1)
        .await;
    assert!(others_are_optimal(&rig.array.report()));
    rig.optimal().await;
    rig.same_histories();
    assert_eq!(rig.member("c").faults, 0);
    assert!(others_are_optimal(&rig.array.report()));
}

#[tokio::test]
async fn a_target_that_fails_is_opened_again_and_recovered_later() {
    let rig = Rig::new().await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    rig.array.disable("c").unwrap();
    commit(&rig.array, 1, first, "two").await.unwrap();
    rig.members[2].faults().fail_once(
        Moment::Restore,
        Fault::DiskFull {
            what: "test".into(),
        },
    );
    rig.array.recover("c", Strategy::Missing, None).unwrap();
    rig.until("it fails", |_| rig.heard("recovery-failed") == 1)
        .await;
    rig.optimal().await;
    rig.same_histories();
    assert!(rig.member("c").faults > 0);
}

#[tokio::test]
async fn a_copy_that_could_not_be_read_in_one_place_is_compared_and_mended() {
    let rig = Rig::with(|options| options.cache_bytes = 0).await;
    let mut serial = Tid::ZERO;
    for n in 0..5 {
        serial = commit(&rig.array, 1, serial, &n.to_string()).await.unwrap();
    }
    rig.members[0].tamper(|history| {
        history[2].records[0].data = crate::zodb::RecordData::Gone;
    });
    rig.members[0]
        .faults()
        .fail_once(Moment::Load, Fault::Damaged("test".into()));
    assert_eq!(load(&rig.array, 1).await.1, serial);
    rig.until("it is verified", |report| {
        report.recovery.as_ref().is_some_and(|recovery| {
            recovery.strategy == Strategy::Verify && recovery.outcome == RecoveryOutcome::Done
        })
    })
    .await;
    rig.optimal().await;
    rig.same_histories();
}

#[tokio::test]
async fn what_was_never_acknowledged_is_cut_without_an_operator() {
    let rig = Rig::new().await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    rig.array.disable("c").unwrap();
    // Both fail in the same finish: a keeps the transaction, b, the last, does not.
    let closed = || Fault::Closed("test".into());
    rig.members[0]
        .faults()
        .fail_once(Moment::Finished, closed());
    let gate = rig.members[1].faults().hold(Moment::Finish);
    rig.members[1].faults().fail_once(Moment::Finish, closed());
    let committing = commit(&rig.array, 1, first, "two");
    let released = async {
        rig.until("a is out", |_| {
            rig.member("a").state == MemberState::Degraded
        })
        .await;
        gate.release();
    };
    let (outcome, ()) = tokio::join!(committing, released);
    outcome.unwrap_err();
    rig.until("it serves", |report| report.serving == Serving::Yes)
        .await;
    let other = commit(&rig.array, 1, first, "another two").await.unwrap();
    rig.until("a is back", |_| {
        rig.member("a").state == MemberState::Optimal
    })
    .await;
    assert_eq!(load(&rig.array, 1).await.1, other);
    assert_eq!(
        plain(&rig.members[0].transactions()),
        plain(&rig.members[1].transactions())
    );
}

#[tokio::test(start_paused = true)]
async fn a_rebuild_that_fails_is_tried_again_as_one() {
    let rig = Rig::new().await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    rig.array.disable("c").unwrap();
    commit(&rig.array, 1, first, "two").await.unwrap();
    let closed = Fault::Closed("test".into());
    rig.members[2].faults().fail_once(Moment::Restore, closed);
    rig.array.recover("c", Strategy::Rebuild, None).unwrap();
    rig.until("it fails", |_| rig.heard("recovery-failed") == 1)
        .await;
    rig.optimal().await;
    let recovery = rig.array.report().recovery.unwrap();
    assert_eq!((recovery.id, recovery.strategy), (2, Strategy::Rebuild));
}

#[tokio::test(start_paused = true)]
async fn what_a_member_lacks_is_known_after_a_restart_too() {
    let mut rig = Rig::new().await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    rig.members[2]
        .faults()
        .fail(Moment::Open, Fault::Unreachable("power is off".into()));
    rig.members[2]
        .faults()
        .fail(Moment::Vote, Fault::Unreachable("power is off".into()));
    let second = commit(&rig.array, 1, first, "two").await.unwrap();
    commit(&rig.array, 1, second, "three").await.unwrap();
    rig.array.shutdown(Duration::from_secs(5)).await.unwrap();
    rig.members[2].faults().clear();
    let mut options = options(&rig.folder);
    options.auto_recover = false;
    (rig.array, rig.notices) = start(options, &rig.members, &rig.folder).await;
    rig.until("it is measured", |_| {
        rig.member("c").lag.is_some_and(|lag| lag.transactions == 2)
    })
    .await;
}

#[tokio::test]
async fn a_source_that_cannot_be_read_is_replaced_and_the_last_that_is_left_stays() {
    let rig = Rig::with(|options| options.auto_recover = false).await;
    rig.array.disable("c").unwrap();
    commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    let bad = || Fault::Damaged("test".into());
    for member in &rig.members[..2] {
        member.faults().fail(Moment::Iterate, bad());
    }
    rig.array.recover("c", Strategy::Missing, None).unwrap();
    rig.until("it says why not", |report| {
        let outcome = report.recovery.as_ref().map(|recovery| &recovery.outcome);
        matches!(outcome, Some(RecoveryOutcome::Failed { reason, .. })
            if reason.contains("no source can be read"))
    })
    .await;
    for name in ["a", "b"] {
        assert_eq!(rig.member(name).state, MemberState::Optimal, "{name}");
    }
    rig.members[1].faults().clear();
    rig.array.recover("c", Strategy::Missing, None).unwrap();
    rig.until("it is recovered from the other", |_| {
        rig.member("c").state == MemberState::Optimal
            && rig.member("a").state == MemberState::Degraded
    })
    .await;
    assert_eq!(rig.heard("not-serving"), 0);
}

#[tokio::test]
async fn a_copy_is_rebuilt_wherever_it_turns_out_to_be_damaged() {
    let rig = Rig::new().await;
    let mut serial = commit(&rig.array, 1, Tid::ZERO, "before").await.unwrap();
    for number in 0..20 {
        rig.array.disable("c").unwrap();
        for n in 0..3 {
            serial = commit(&rig.array, 1, serial, &n.to_string()).await.unwrap();
        }
        let faults = rig.members[2].faults();
        let damaged = Fault::Damaged("a hole".into());
        faults.fail_after(number, Moment::Iterate, damaged);
        rig.array.recover("c", Strategy::Rebuild, None).unwrap();
        rig.optimal().await;
        rig.same_histories();
        assert_eq!(rig.heard("recovery-failed"), 0, "the {number}th time");
        faults.clear();
    }
}

/// A file may be read at its end, and not where it is compared.
#[tokio::test]
async fn damage_that_is_found_while_comparing_is_told_and_mended_by_a_rebuild() {
    let rig = Rig::new().await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    rig.array.disable("c").unwrap();
    commit(&rig.array, 1, first, "two").await.unwrap();
    let faults = rig.members[2].faults();
    faults.fail(Moment::Iterate, Fault::Damaged("a hole".into()));
    let found = rig.array.analyse("c").await.unwrap().finding;
    assert!(
        matches!(&found, Finding::Damaged { reason } if reason == "a hole"),
        "{found:?}"
    );
    rig.array.recover("c", Strategy::Missing, None).unwrap();
    rig.until("c waits", |_| rig.heard("recovery-failed") == 1)
        .await;
    let member = rig.member("c");
    assert!(member.needs_operator, "not tried again: {member:?}");
    let outcome = rig.array.report().recovery.unwrap().outcome;
    assert!(
        matches!(&outcome, RecoveryOutcome::Failed { next: Some(next), .. } if next.contains("--rebuild")),
        "{outcome:?}"
    );
    faults.clear();
    faults.fail_once(Moment::Iterate, Fault::Damaged("a hole".into()));
    rig.array.recover("c", Strategy::Rebuild, None).unwrap();
    rig.optimal().await;
    rig.same_histories();
}

/// What the copies hold is not in question.
#[tokio::test]
async fn a_copy_is_not_called_wrong_because_its_source_cannot_be_read() {
    let rig = Rig::new().await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    rig.array.disable("c").unwrap();
    commit(&rig.array, 1, first, "two").await.unwrap();
    for source in &rig.members[..2] {
        source
            .faults()
            .fail(Moment::Iterate, Fault::Damaged("a hole".into()));
    }
    rig.array.recover("c", Strategy::Missing, None).unwrap();
    rig.until("it has failed", |_| rig.heard("recovery-failed") > 0)
        .await;
    let member = rig.member("c");
    let reason = member.reason.clone().unwrap_or_default();
    assert!(reason.contains("no source can be read"), "{reason}");
    assert!(!member.needs_operator, "{member:?}");
    for source in &rig.members[..2] {
        source.faults().clear();
    }
    rig.optimal().await;
}

#[tokio::test]
async fn how_far_a_copy_is_packed_is_found_in_any_history() {
    let cases = [
        (0, 0),
        (1, 0),
        (1, 1),
        (15, 3),
        (16, 16),
        (17, 1),
        (300, 250),
        (300, 1),
    ];
    let large = [
        (5000, 0),
        (5000, 1),
        (5000, 4600),
        (5000, 4999),
        (5000, 5000),
        (9000, 300),
    ];
    for (all, packed) in cases.into_iter().chain(large) {
        let opener = MemoryOpener::new("a");
        opener.tamper(|history| {
            history.extend((1..=all).map(|number| HistoryTxn {
                tid: Tid(number * 7),
                meta: TxnMeta {
                    status: if number <= packed {
                        TxnStatus::Packed
                    } else {
                        TxnStatus::Normal
                    },
                    ..TxnMeta::default()
                },
                records: Vec::new(),
            }));
        });
        let storage = opener.open().await.unwrap();
        let found = crate::raid::recovery::packed_up_to(&*storage)
            .await
            .unwrap();
        assert_eq!(found, Tid(packed * 7), "{packed} of {all}");
    }
}
