//! Members that behave as ZEO servers do: one transaction after the other, others write to them too, and
//! nothing is taken out of them from outside.

use super::blobs::{blob, commit_blob};
use super::*;
use crate::zodb::{HistoryRecord, RecordData};

async fn rig() -> Rig {
    Rig::of(MemoryOpener::like_a_server, |_| {}).await
}

mod suite {
    use super::*;

    async fn array() -> Fixture {
        let rig = super::rig().await;
        let storage = Arc::new(rig.array.clone());
        Fixture::keeping(storage, rig)
    }

    crate::storage::suite::storage_suite!(array());
}

/// Commits, takes c out, and commits on.
async fn c_behind(rig: &Rig) -> Tid {
    let mut serial = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    rig.array.disable("c").unwrap();
    for n in 0..5 {
        serial = commit(&rig.array, 1, serial, &n.to_string()).await.unwrap();
    }
    serial
}

#[tokio::test]
async fn a_server_that_is_behind_is_recovered() {
    let rig = rig().await;
    c_behind(&rig).await;
    rig.array.recover("c", Strategy::Verify, None).unwrap();
    rig.optimal().await;
    rig.same_histories();
}

#[tokio::test]
async fn a_server_that_diverged_is_emptied_by_its_operator() {
    let rig = rig().await;
    c_behind(&rig).await;
    rig.members[2].tamper(|history| {
        let mut own = history[0].clone();
        own.tid = Tid(own.tid.0 + 1);
        history.push(own);
    });
    let next = rig.array.analyse("c").await.unwrap().next.unwrap();
    assert!(next.contains("zeoraidctl recover c"), "{next}");
    rig.array.recover("c", Strategy::Rebuild, None).unwrap();
    rig.until("it says what to do", |report| {
        let failed = report.recovery.as_ref().map(|recovery| &recovery.outcome);
        matches!(failed, Some(RecoveryOutcome::Failed { reason, next: Some(said) })
            if reason.contains("only its own operator") && *said == next)
    })
    .await;
    rig.until("c waits", |_| rig.member("c").needs_operator)
        .await;
    rig.members[2].tamper(Vec::clear);
    rig.array.recover("c", Strategy::Missing, None).unwrap();
    rig.optimal().await;
    rig.same_histories();
}

#[tokio::test]
async fn a_server_that_was_found_to_differ_is_never_let_in_as_it_is() {
    let rig = rig().await;
    commit(&rig.array, 2, Tid::ZERO, "before").await.unwrap();
    let serial = c_behind(&rig).await;
    rig.members[2].tamper(|history| {
        let record = &mut history[0].records[0];
        record.data = RecordData::Data(Bytes::from_static(b"not what was stored").into());
    });
    let fails = async |strategy| {
        let before = rig.heard("recovery-failed");
        rig.array.recover("c", strategy, None).unwrap();
        rig.until("it fails", |_| rig.heard("recovery-failed") > before)
            .await;
        rig.until("c waits", |_| rig.member("c").needs_operator)
            .await;
        let reason = rig.member("c").reason.unwrap();
        assert!(reason.contains("it differs from the array"), "{reason}");
    };
    fails(Strategy::Verify).await;
    // It ends with what the others hold, too; that is not enough any more.
    fails(Strategy::Missing).await;
    commit(&rig.array, 1, serial, "meanwhile").await.unwrap();
    fails(Strategy::Missing).await;
    rig.members[2].tamper(Vec::clear);
    rig.array.recover("c", Strategy::Missing, None).unwrap();
    rig.optimal().await;
    rig.same_histories();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_could_not_be_read_once_is_not_said_to_differ() {
    let hole = || Fault::Damaged("a hole".into());
    let mut failed = 0;
    for number in 0..12 {
        let rig = rig().await;
        c_behind(&rig).await;
        rig.members[2]
            .faults()
            .fail_after(number, Moment::Iterate, hole());
        rig.array.recover("c", Strategy::Verify, None).unwrap();
        rig.optimal().await;
        failed += rig.heard("recovery-failed");
    }
    assert!(failed > 3, "{failed}: it failed where it was looked at");
}

#[tokio::test]
async fn a_server_that_kept_part_of_a_blob_is_not_let_in_as_it_is() {
    for (spoiled, text) in [(0, None), (0, Some("on")), (1, Some("tw"))] {
        let rig = rig().await;
        let first = commit_blob(&rig, 7, Tid::ZERO, "one").await;
        commit_blob(&rig, 7, first, "two").await;
        c_behind(&rig).await;
        let part = text.map(|text| blob(&rig.folder, text));
        rig.members[2].tamper(|history| {
            let record = history[spoiled].records.last_mut().unwrap();
            assert!(record.blob.is_some());
            record.blob = part;
        });
        rig.array.recover("c", Strategy::Missing, None).unwrap();
        rig.until("it says what to do", |report| {
            let failed = report.recovery.as_ref().map(|recovery| &recovery.outcome);
            matches!(failed, Some(RecoveryOutcome::Failed { reason, next: Some(next) })
                if reason.contains("in the file of blob 0x0000000000000007 of transaction")
                    && next.contains("zeoraidctl recover c"))
        })
        .await;
        rig.until("c waits", |_| rig.member("c").needs_operator)
            .await;
        // Its operator has emptied it.
        rig.members[2].tamper(Vec::clear);
        rig.array.recover("c", Strategy::Missing, None).unwrap();
        rig.optimal().await;
        rig.same_histories();
    }
}

#[tokio::test]
async fn what_another_daemon_restores_at_the_same_time_is_looked_at_again() {
    let rig = rig().await;
    c_behind(&rig).await;
    let gate = rig.members[2].faults().hold(Moment::Restore);
    rig.array.recover("c", Strategy::Missing, None).unwrap();
    gate.reached().await;
    let theirs = rig.members[0].transactions();
    rig.members[2].tamper(|history| history.extend(theirs[1..3].iter().cloned()));
    rig.members[2].faults().clear();
    gate.release();
    rig.optimal().await;
    rig.same_histories();
    assert_eq!(rig.heard("recovery-failed"), 0);
}

#[tokio::test]
async fn what_no_reader_can_tell_apart_is_the_same() {
    let rig = rig().await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    rig.array.disable("c").unwrap();
    rig.members[2].tamper(|history| {
        let record = history[0].records[0].clone();
        let earlier = HistoryRecord {
            data: crate::zodb::RecordData::Data(Bytes::from_static(b"before").into()),
            ..record
        };
        history[0].records.insert(0, earlier);
        history[0].meta.extension = Bytes::from_static(b"\x80\x03}q\x00.");
    });
    let found = rig.array.analyse("c").await.unwrap();
    assert_eq!(found.finding, Finding::UpToDate);
    assert_eq!(found.next, None);
    commit(&rig.array, 1, first, "two").await.unwrap();
    rig.array.recover("c", Strategy::Verify, None).unwrap();
    rig.optimal().await;
}

#[tokio::test]
async fn who_is_asked_again_and_again_how_far_it_is_keeps_nothing_of_it() {
    let rig = Rig::of(MemoryOpener::like_a_server, |options| {
        options.cluster_mode = ClusterMode::Coop;
    })
    .await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    let before = rig.array.0.publisher.subscribers();
    for _ in 0..100 {
        assert_eq!(rig.array.newest_tid().await.unwrap(), first);
    }
    assert_eq!(rig.array.0.publisher.subscribers(), before);
}
