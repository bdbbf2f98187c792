//! Packing the members of an array.

use super::scrub::scrubbed;
use super::*;
use crate::storage::Value;
use crate::zodb::RecordData;

const FAR: f64 = 4e9;

fn outcomes(rig: &Rig) -> Vec<PackOutcome> {
    let report = rig.array.pack_report().unwrap();
    report
        .members
        .into_iter()
        .map(|member| member.outcome)
        .collect()
}

async fn ended(rig: &Rig) -> Vec<PackOutcome> {
    rig.until("the pack has ended", |_| {
        rig.array
            .pack_report()
            .is_some_and(|pack| pack.ended.is_some())
    })
    .await;
    outcomes(rig)
}

async fn two_revisions(rig: &Rig) -> (Tid, Tid) {
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    let second = commit(&rig.array, 1, first, "two").await.unwrap();
    (first, second)
}

#[tokio::test]
async fn a_client_packs_every_member() {
    let rig = Rig::new().await;
    assert!(rig.array.capabilities().pack);
    let (first, second) = two_revisions(&rig).await;
    rig.array.pack(FAR).await.unwrap();
    assert_eq!(
        outcomes(&rig),
        [PackOutcome::Done, PackOutcome::Done, PackOutcome::Done]
    );
    assert!(rig.array.load_serial(Oid(1), first).await.is_err());
    assert_eq!(load(&rig.array, 1).await.1, second);
    commit(&rig.array, 1, second, "three").await.unwrap();
    rig.same_histories();
    assert_eq!((rig.heard("pack-started"), rig.heard("pack-done")), (1, 1));
}

#[tokio::test]
async fn packing_and_recovering_exclude_each_other() {
    let rig = Rig::new().await;
    let (_, second) = two_revisions(&rig).await;
    rig.array.disable("c").unwrap();
    let gate = rig.members[0].faults().hold(Moment::Pack);
    rig.array.start_pack(FAR).unwrap();
    gate.reached().await;
    let refused = rig.array.recover("c", Strategy::Missing, None).unwrap_err();
    assert_eq!(refused.to_string(), "main is being packed");
    let refused = rig.array.start_pack(FAR).unwrap_err();
    assert_eq!(refused.to_string(), "main is being packed");
    let third = commit(&rig.array, 1, second, "three").await.unwrap();
    // Some could undo it and some could not any more.
    let undo = vec![Op::Undo { tid: third }];
    let refused = commit_ops(&rig.array, undo).await.unwrap_err();
    assert!(
        refused.to_string().contains("undo is disabled"),
        "{refused}"
    );
    let refused = rig.array.undo_info(0, -20, &Value::None).await.unwrap_err();
    assert!(
        refused.to_string().contains("undo is disabled"),
        "{refused}"
    );
    gate.release();
    assert_eq!(ended(&rig).await, [PackOutcome::Done, PackOutcome::Done]);

    let gate = rig.members[2].faults().hold(Moment::Restore);
    rig.array.recover("c", Strategy::Rebuild, None).unwrap();
    let refused = rig.array.start_pack(FAR).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "c is being recovered, or waits for it, and nothing is packed meanwhile"
    );
    drop(gate);
    rig.optimal().await;
    // It holds what the others have packed away, and what came meanwhile nobody has packed.
    rig.array.start_pack(FAR).unwrap();
    assert_eq!(ended(&rig).await, vec![PackOutcome::Done; 3]);
    rig.same_histories();
    let undo = vec![Op::Undo { tid: third }];
    commit_ops(&rig.array, undo).await.unwrap_err();
}

#[tokio::test]
async fn a_member_may_pack_for_longer_than_any_timeout() {
    let rig = Rig::with(|options| options.member_timeout = Duration::from_millis(50)).await;
    let (_, second) = two_revisions(&rig).await;
    let gate = rig.members[1].faults().hold(Moment::Pack);
    rig.array.start_pack(FAR).unwrap();
    gate.reached().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    commit(&rig.array, 1, second, "three").await.unwrap();
    assert_eq!(rig.array.report().state, ArrayState::Optimal);
    gate.release();
    assert_eq!(ended(&rig).await, vec![PackOutcome::Done; 3]);
    assert_eq!(rig.heard("member-degraded"), 0);
}

#[tokio::test]
async fn who_is_lost_or_packs_already_is_left_out_and_the_others_are_packed() {
    let rig = Rig::with(|options| options.auto_recover = false).await;
    two_revisions(&rig).await;
    // Another daemon has asked a to pack.
    let gate = rig.members[0].faults().hold(Moment::Pack);
    let view = rig.array.0.view();
    let storage = Arc::clone(&view.readers[0].storage);
    let mut other = storage.pack(FAR);
    assert!(futures_util::poll!(&mut other).is_pending());
    let lost = Fault::Closed("cable cut".into());
    rig.members[1].faults().fail(Moment::Pack, lost.clone());
    rig.members[1].faults().fail(Moment::Ask, lost);
    rig.array.start_pack(FAR).unwrap();
    let outcomes = ended(&rig).await;
    assert!(
        matches!(&outcomes[0], PackOutcome::Skipped(why) if why.contains("Already packing")),
        "{outcomes:?}"
    );
    assert!(
        matches!(&outcomes[1], PackOutcome::Failed(why) if why.contains("cable cut")),
        "{outcomes:?}"
    );
    assert_eq!(outcomes[2], PackOutcome::Done);
    assert_eq!(rig.member("a").state, MemberState::Optimal);
    assert_eq!(rig.member("b").state, MemberState::Degraded);
    gate.release();
    other.await.unwrap();
}

#[tokio::test]
async fn a_pack_without_room_is_no_failure_of_its_member() {
    let rig = Rig::new().await;
    two_revisions(&rig).await;
    for member in &rig.members {
        let what = "test".into();
        member.faults().fail(Moment::Pack, Fault::DiskFull { what });
    }
    let error = rig.array.pack(FAR).await.unwrap_err();
    assert!(
        error.to_string().contains("no member was packed"),
        "{error}"
    );
    assert_eq!(rig.array.report().state, ArrayState::Optimal);
}

#[tokio::test]
async fn a_pack_is_cancelled_between_members() {
    let rig = Rig::new().await;
    two_revisions(&rig).await;
    let gate = rig.members[0].faults().hold(Moment::Pack);
    rig.array.start_pack(FAR).unwrap();
    gate.reached().await;
    rig.array.cancel_pack().unwrap();
    gate.release();
    let outcomes = ended(&rig).await;
    assert_eq!(outcomes[0], PackOutcome::Done);
    assert_eq!(outcomes[1..], [PackOutcome::Waiting, PackOutcome::Waiting]);
    assert!(rig.array.pack_report().unwrap().cancelled);
    assert!(rig.array.cancel_pack().is_err());
    assert!(rig.array.start_pack(f64::NAN).is_err());
    // What is packed differently is the same history.
    rig.array.disable("c").unwrap();
    rig.array.recover("c", Strategy::Verify, None).unwrap();
    rig.optimal().await;
}

#[tokio::test]
async fn who_comes_back_while_members_are_packed_is_recovered_afterwards() {
    let rig = Rig::new().await;
    let (_, second) = two_revisions(&rig).await;
    let gate = rig.members[0].faults().hold(Moment::Pack);
    rig.array.start_pack(FAR).unwrap();
    gate.reached().await;
    let closed = Fault::Closed("test".into());
    rig.members[2].faults().fail_once(Moment::Vote, closed);
    commit(&rig.array, 1, second, "three").await.unwrap();
    rig.until("c is open again", |_| {
        rig.member("c").last_tid == Some(second)
    })
    .await;
    assert_eq!(rig.member("c").state, MemberState::Degraded);
    gate.release();
    let outcomes = ended(&rig).await;
    assert!(
        matches!(outcomes[2], PackOutcome::Skipped(_)),
        "{outcomes:?}"
    );
    rig.optimal().await;
    assert_eq!(rig.heard("recovery-failed"), 0);
}

/// What a member holds alone, after it was taken out: each transaction writes one object.
fn own(rig: &Rig, member: usize, oids: &[u64]) {
    rig.members[member].tamper(|history| {
        for oid in oids {
            let mut own = history.last().unwrap().clone();
            own.tid = own.tid.next();
            own.records[0].oid = Oid(*oid);
            own.records[0].data = RecordData::Data(Bytes::from_static(b"nobody knows me").into());
            history.push(own);
        }
    });
}

fn tids(rig: &Rig, member: usize) -> Vec<Tid> {
    let history = rig.members[member].transactions();
    history.iter().map(|txn| txn.tid).collect()
}

async fn servers() -> Rig {
    Rig::of(MemoryOpener::like_a_server, |_| {}).await
}

#[tokio::test]
async fn what_was_never_committed_is_not_taken_for_what_was_packed_away() {
    for rig in [Rig::new().await, servers().await] {
        let other = commit(&rig.array, 2, Tid::ZERO, "other").await.unwrap();
        let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
        rig.array.disable("c").unwrap();
        // The last of them could have been packed away: its object was changed since.
        own(&rig, 2, &[2, 1]);
        let second = commit(&rig.array, 1, first, "two").await.unwrap();
        commit(&rig.array, 1, second, "three").await.unwrap();
        rig.array.pack(FAR).await.unwrap();
        let found = rig.array.analyse("c").await.unwrap().finding;
        assert!(
            matches!(found, Finding::Diverged { common, only_here_count: 3, .. } if common == Some(other)),
            "{found:?}"
        );
        rig.array.recover("c", Strategy::Missing, None).unwrap();
        rig.until("c waits", |_| rig.heard("recovery-failed") == 1)
            .await;
        assert_eq!(rig.member("c").state, MemberState::Degraded);
    }
}

#[tokio::test]
async fn a_server_is_not_let_in_with_an_object_that_the_array_does_not_know() {
    let rig = servers().await;
    commit(&rig.array, 2, Tid::ZERO, "other").await.unwrap();
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    rig.array.disable("c").unwrap();
    own(&rig, 2, &[9, 1]);
    let second = commit(&rig.array, 1, first, "two").await.unwrap();
    commit(&rig.array, 1, second, "three").await.unwrap();
    rig.array.pack(FAR).await.unwrap();
    let found = rig.array.analyse("c").await.unwrap().finding;
    assert!(matches!(found, Finding::Diverged { .. }), "{found:?}");
}

#[tokio::test]
async fn what_may_have_been_packed_away_is_no_reason_to_wait_for_an_operator() {
    for (rig, is_cut) in [(Rig::new().await, true), (servers().await, false)] {
        let other = commit(&rig.array, 2, Tid::ZERO, "other").await.unwrap();
        let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
        let second = commit(&rig.array, 1, first, "two").await.unwrap();
        rig.array.disable("c").unwrap();
        commit(&rig.array, 1, second, "three").await.unwrap();
        rig.array.pack(FAR).await.unwrap();
        let common = if is_cut { other } else { second };
        let found = rig.array.analyse("c").await.unwrap().finding;
        assert!(
            matches!(found, Finding::Behind { common: last, .. } if last == common),
            "{found:?}"
        );
        rig.array.recover("c", Strategy::Missing, None).unwrap();
        rig.optimal().await;
        assert_eq!(load(&rig.array, 1).await.0, "three");
        // Nobody can tell it from what was never committed; where it can be cut, it is.
        assert_eq!(tids(&rig, 2) == tids(&rig, 0), is_cut);
    }
}

#[tokio::test]
async fn who_is_not_packed_knows_what_was_never_committed() {
    for is_own in [true, false] {
        let rig = servers().await;
        commit(&rig.array, 2, Tid::ZERO, "other").await.unwrap();
        let mut last = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
        if !is_own {
            last = commit(&rig.array, 1, last, "two").await.unwrap();
        }
        rig.array.disable("c").unwrap();
        if is_own {
            own(&rig, 2, &[1]);
        }
        let next = commit(&rig.array, 1, last, "three").await.unwrap();
        commit(&rig.array, 1, next, "four").await.unwrap();
        let what = "test".into();
        rig.members[1]
            .faults()
            .fail(Moment::Pack, Fault::DiskFull { what });
        rig.array.pack(FAR).await.unwrap();
        assert!(
            tids(&rig, 0).len() < tids(&rig, 1).len(),
            "a is packed, and b is not"
        );
        let found = rig.array.analyse("c").await.unwrap();
        assert_eq!(found.source, "a");
        rig.array.recover("c", Strategy::Missing, None).unwrap();
        if is_own {
            assert!(
                matches!(found.finding, Finding::Diverged { common: Some(common), .. } if common == last),
                "{found:?}"
            );
            rig.until("c waits", |_| rig.heard("recovery-failed") == 1)
                .await;
            assert_eq!(rig.member("c").state, MemberState::Degraded);
        } else {
            assert!(
                matches!(found.finding, Finding::Behind { common, .. } if common == last),
                "{found:?}"
            );
            rig.optimal().await;
        }
    }
}

#[tokio::test]
async fn only_what_can_be_cut_is_cut_back_to_what_both_hold() {
    let rig = Rig::new().await;
    commit(&rig.array, 2, Tid::ZERO, "other").await.unwrap();
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    rig.array.disable("c").unwrap();
    own(&rig, 2, &[1, 9, 1]);
    let second = commit(&rig.array, 1, first, "two").await.unwrap();
    commit(&rig.array, 1, second, "three").await.unwrap();
    rig.array.pack(FAR).await.unwrap();
    rig.array.recover("c", Strategy::Missing, None).unwrap();
    rig.optimal().await;
    assert_eq!(tids(&rig, 2), tids(&rig, 0));
}

#[tokio::test]
async fn packing_is_no_reason_for_whatever_else_a_copy_holds_that_is_verified() {
    let rig = Rig::new().await;
    let other = commit(&rig.array, 2, Tid::ZERO, "other").await.unwrap();
    two_revisions(&rig).await;
    rig.array.disable("c").unwrap();
    rig.members[2].tamper(|history| {
        let mut own = history[0].clone();
        own.tid = other.next();
        history.insert(1, own);
    });
    rig.array.pack(FAR).await.unwrap();
    rig.array.recover("c", Strategy::Verify, None).unwrap();
    rig.optimal().await;
    assert_eq!(tids(&rig, 2), tids(&rig, 0));
}

#[tokio::test]
async fn what_only_some_can_undo_any_more_is_not_undone_and_degrades_nobody() {
    let rig = Rig::with(|options| options.auto_recover = false).await;
    let (_, second) = two_revisions(&rig).await;
    let what = "test".into();
    rig.members[2]
        .faults()
        .fail(Moment::Pack, Fault::DiskFull { what });
    rig.array.pack(FAR).await.unwrap();
    let undo = vec![Op::Undo { tid: second }];
    let refused = commit_ops(&rig.array, undo).await.unwrap_err();
    assert!(refused.to_string().contains("cannot undo"), "{refused}");
    assert_eq!(rig.array.report().state, ArrayState::Optimal);
    assert_eq!(rig.heard("disagreement"), 0, "nobody lies");
    commit(&rig.array, 1, second, "three").await.unwrap();
}

/// What is left of the last packed transaction where nothing that it wrote stays; Python's servers leave it out.
fn as_python(member: &MemoryOpener) {
    member.tamper(|history| history.retain(|txn| !txn.records.is_empty()));
}

/// Two objects, of which the last transaction removes one, packed. Gives the last two transactions.
async fn a_packed_head(rig: &Rig) -> [Tid; 2] {
    let first = commit(&rig.array, 1, Tid::ZERO, "stays").await.unwrap();
    let made = commit(&rig.array, 2, Tid::ZERO, "goes").await.unwrap();
    let delete = vec![Op::Delete {
        oid: Oid(2),
        serial: made,
    }];
    let head = commit_ops(&rig.array, delete).await.unwrap();
    rig.array.pack(4e9).await.unwrap();
    [first, head]
}

#[tokio::test]
async fn an_array_starts_again_whose_head_wrote_only_what_is_packed_away() {
    let mut rig = Rig::new().await;
    let [first, head] = a_packed_head(&rig).await;
    let left = rig.members[0].transactions();
    let left: Vec<_> = left
        .iter()
        .map(|txn| (txn.tid, txn.records.len()))
        .collect();
    assert_eq!(left, [(first, 1), (head, 0)]);
    rig.restart().await;
    rig.optimal().await;
    assert_eq!(rig.array.last_tid().await.unwrap(), head);
    rig.same_histories();
    // A server that was packed as by Python ends earlier, and is made level.
    as_python(&rig.members[2]);
    rig.restart().await;
    rig.optimal().await;
    assert_eq!(rig.array.last_tid().await.unwrap(), head);
    rig.same_histories();
}

#[tokio::test]
async fn who_leaves_out_what_nothing_is_left_of_lacks_nothing() {
    let mut rig = Rig::new().await;
    let [first, _] = a_packed_head(&rig).await;
    as_python(&rig.members[2]);
    let record = rig.folder.path().join("membership.json");
    rig.array.shutdown(Duration::from_secs(5)).await.unwrap();
    let before = std::fs::read(&record).unwrap();
    (rig.array, rig.notices) = start(options(&rig.folder), &rig.members, &rig.folder).await;
    rig.optimal().await;
    commit(&rig.array, 1, first, "changed").await.unwrap();
    as_python(&rig.members[2]);
    assert_eq!(scrubbed(&rig).await.count, 0);

    // After a crash the record knows only of what was packed.
    rig.array.shutdown(Duration::from_secs(5)).await.unwrap();
    std::fs::write(&record, before).unwrap();
    (rig.array, rig.notices) = start(options(&rig.folder), &rig.members, &rig.folder).await;
    rig.optimal().await;
    assert_eq!(rig.heard("member-degraded"), 0, "{:?}", rig.notices.lock());

    // A recovery that compares everything finds nothing to be made anew, whichever of the two lacks it.
    for lacking in [&rig.members[2..], &rig.members[..2]] {
        rig.array.disable("c").unwrap();
        let whole = rig.members[0].transactions();
        for member in &rig.members {
            member.tamper(|history| history.clone_from(&whole));
        }
        lacking.iter().for_each(as_python);
        let held = plain(&rig.members[2].transactions());
        rig.array.recover("c", Strategy::Verify, None).unwrap();
        rig.optimal().await;
        assert_eq!(plain(&rig.members[2].transactions()), held);
        for member in lacking {
            member.tamper(|history| history.clone_from(&whole));
        }
    }
}

#[tokio::test]
async fn a_copy_that_ends_with_what_nothing_is_left_of_has_not_diverged() {
    let rig = Rig::new().await;
    let [first, head] = a_packed_head(&rig).await;
    rig.array.disable("c").unwrap();
    assert_eq!(rig.members[2].transactions().last().unwrap().tid, head);
    commit(&rig.array, 1, first, "changed").await.unwrap();
    rig.members[..2].iter().for_each(as_python);
    rig.array.recover("c", Strategy::Missing, None).unwrap();
    rig.optimal().await;
}

/// Of who was not packed, the transaction is whole.
#[tokio::test]
async fn what_was_packed_away_just_before_what_is_not_packed_is_no_difference() {
    let rig = Rig::new().await;
    let what = "test".into();
    let full = Fault::DiskFull { what };
    rig.members[2].faults().fail(Moment::Pack, full);
    let [first, head] = a_packed_head(&rig).await;
    commit(&rig.array, 1, first, "changed").await.unwrap();
    let whole = plain(&rig.members[2].transactions());
    assert!(
        whole
            .iter()
            .any(|(tid, _, records)| *tid == head && records.len() == 1)
    );
    let report = scrubbed(&rig).await;
    assert_eq!(report.count, 0, "{report:#?}");
    rig.array.disable("c").unwrap();
    rig.array.recover("c", Strategy::Verify, None).unwrap();
    rig.optimal().await;
    assert_eq!(plain(&rig.members[2].transactions()), whole);
}

/// The same where something of it is left: it may have been lost.
#[tokio::test]
async fn who_lacks_what_is_not_emptied_is_told_of_behind_the_packed_part() {
    let rig = Rig::new().await;
    let [first, head] = a_packed_head(&rig).await;
    let second = commit(&rig.array, 1, first, "lost").await.unwrap();
    commit(&rig.array, 1, second, "later").await.unwrap();
    rig.members[2].tamper(|history| history.retain(|txn| txn.tid != second && txn.tid != head));
    let report = scrubbed(&rig).await;
    let found: Vec<_> = report.differences.iter().map(|one| one.tid).collect();
    assert_eq!(found, [second]);
}
