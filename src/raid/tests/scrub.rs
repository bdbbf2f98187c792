//! Comparing the members of an array.

use super::*;
use crate::zodb::{RecordData, TxnStatus};

pub(super) async fn scrubbed(rig: &Rig) -> ScrubReport {
    rig.array.start_scrub(Rate::UNLIMITED).unwrap();
    ended(rig).await
}

async fn ended(rig: &Rig) -> ScrubReport {
    rig.until("the scrub has ended", |_| {
        rig.array
            .scrub_report()
            .is_some_and(|scrub| scrub.ended.is_some())
    })
    .await;
    rig.array.scrub_report().unwrap()
}

async fn three_revisions(rig: &Rig) -> [Tid; 3] {
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    let second = commit(&rig.array, 1, first, "two").await.unwrap();
    let third = commit(&rig.array, 2, Tid::ZERO, "three").await.unwrap();
    [first, second, third]
}

fn groups(difference: &Difference) -> Vec<String> {
    let groups = difference.groups.iter();
    groups.map(|group| group.join(" ")).collect()
}

#[tokio::test]
async fn members_that_hold_the_same_do_not_differ_also_where_one_is_packed() {
    let rig = Rig::new().await;
    three_revisions(&rig).await;
    let report = scrubbed(&rig).await;
    assert_eq!((report.count, report.transactions), (0, 3));
    let what = "test".into();
    rig.members[2]
        .faults()
        .fail(Moment::Pack, Fault::DiskFull { what });
    rig.array.pack(4e9).await.unwrap();
    let report = scrubbed(&rig).await;
    assert_eq!(report.count, 0, "{report:#?}");
    assert!(
        report
            .members
            .iter()
            .all(|member| member.left_out.is_none())
    );
    assert_eq!(
        (rig.heard("scrub-started"), rig.heard("scrub-done")),
        (2, 2)
    );
}

/// Another daemon packs the members one after the other, or the operator of a server does.
#[tokio::test]
async fn a_blob_that_was_packed_away_since_its_record_was_read_is_no_difference() {
    for is_packed in [true, false] {
        let rig = Rig::new().await;
        let first = super::blobs::commit_blob(&rig, 1, Tid::ZERO, "one").await;
        super::blobs::commit_blob(&rig, 1, first, "two").await;
        let gate = rig.members[1].faults().hold(Moment::LoadBlob);
        rig.array.start_scrub(Rate::UNLIMITED).unwrap();
        gate.reached().await;
        rig.members[1].tamper(|history| {
            history[0].records[0].blob = None;
            if is_packed {
                history[0].records.clear();
                history[0].meta.status = TxnStatus::Packed;
            }
        });
        gate.release();
        let report = ended(&rig).await;
        assert_eq!(report.count == 0, is_packed, "{report:#?}");
    }
}

#[tokio::test]
async fn each_kind_of_difference_is_told_with_who_is_contradicted() {
    let rig = Rig::new().await;
    let [first, second, third] = three_revisions(&rig).await;
    rig.members[0].tamper(|history| history[0].meta.user = "mallory".into());
    rig.members[1].tamper(|history| {
        let data = Bytes::from_static(b"TWO").into();
        history[1].records[0].data = RecordData::Data(data);
    });
    rig.members[2].tamper(|history| drop(history.pop()));
    let report = scrubbed(&rig).await;
    let found: Vec<_> = report
        .differences
        .iter()
        .map(|one| {
            (
                one.tid,
                one.what,
                one.oid,
                groups(one).join(" | "),
                one.majority,
            )
        })
        .collect();
    let expected = [
        (first, Differs::Metadata, None, "b c | a".to_owned(), true),
        (
            second,
            Differs::Record,
            Some(Oid(1)),
            "a c | b".to_owned(),
            true,
        ),
        (third, Differs::Missing, None, "a b | c".to_owned(), true),
    ];
    assert_eq!(found, expected);
    assert!(report.members.iter().all(|member| member.contradicted == 1));
    // They are told of, and nobody is taken out.
    assert_eq!(rig.array.report().state, ArrayState::Optimal);
}

/// The log is read by people, who look for a transaction by its number and not by how it is kept here.
#[tokio::test]
async fn a_difference_is_logged_in_words() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("log");
    let file = std::fs::File::create(&log).expect("a log");
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::ERROR)
        .with_ansi(false)
        .with_writer(std::sync::Arc::new(file))
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let rig = Rig::new().await;
    let [_, second, third] = three_revisions(&rig).await;
    rig.members[1].tamper(|history| {
        let data = Bytes::from_static(b"TWO").into();
        history[1].records[0].data = RecordData::Data(data);
    });
    rig.members[2].tamper(|history| drop(history.pop()));
    scrubbed(&rig).await;
    let said = std::fs::read_to_string(&log).expect("a log");
    let record = format!(
        "members differ tid={second} oid={} what=the record members=\"a, c | b\"",
        Oid(1)
    );
    let missing =
        format!("members differ tid={third} what=some lack the transaction members=\"a, b | c\"");
    for line in [record, missing] {
        assert!(said.contains(&line), "{line}\n{said}");
    }
}

#[tokio::test]
async fn what_is_marked_as_packed_is_not_enough_for_a_record_to_be_gone() {
    let rig = Rig::new().await;
    let [_, second, third] = three_revisions(&rig).await;
    // The second revision of the first object is current: no pack takes it out.
    rig.members[2].tamper(|history| {
        history.remove(1);
        for txn in history.iter_mut() {
            txn.meta.status = TxnStatus::Packed;
        }
    });
    let report = scrubbed(&rig).await;
    assert_eq!(report.count, 1, "{report:#?}");
    let one = &report.differences[0];
    assert_eq!((one.tid, one.what), (second, Differs::Missing));
    assert!(third > second);
}

#[tokio::test]
async fn who_cannot_be_read_is_left_out_and_the_others_are_compared() {
    let rig = Rig::new().await;
    three_revisions(&rig).await;
    let damaged = Fault::Damaged("a hole".into());
    rig.members[0].faults().fail(Moment::Iterate, damaged);
    let report = scrubbed(&rig).await;
    assert_eq!((report.count, report.transactions), (0, 3));
    assert!(
        matches!(&report.members[0].left_out, Some(LeftOut::Unreadable { reason, .. }) if reason.contains("a hole")),
        "{report:#?}"
    );
}

#[tokio::test]
async fn a_scrub_is_cancelled_excludes_packing_and_needs_two() {
    let rig = Rig::with(|options| options.auto_recover = false).await;
    three_revisions(&rig).await;
    let gate = rig.members[1].faults().hold(Moment::Iterate);
    rig.array.start_scrub(Rate::UNLIMITED).unwrap();
    gate.reached().await;
    let refused = rig.array.start_pack(4e9).unwrap_err();
    assert_eq!(refused.to_string(), "main is being scrubbed");
    let refused = rig.array.start_scrub(Rate::UNLIMITED).unwrap_err();
    assert_eq!(refused.to_string(), "main is being scrubbed");
    rig.array.cancel_scrub().unwrap();
    assert!(ended(&rig).await.cancelled);
    drop(gate);
    assert!(rig.array.cancel_scrub().is_err());
    rig.array.pack(4e9).await.unwrap();
    rig.array.disable("a").unwrap();
    rig.array.disable("b").unwrap();
    let refused = rig.array.start_scrub(Rate::UNLIMITED).unwrap_err();
    assert!(
        refused.to_string().contains("nothing to compare"),
        "{refused}"
    );
    // What was refused holds nobody up.
    rig.array.pack(4e9).await.unwrap();
    let refused = rig
        .array
        .start_backup("/backup".into(), false, Rate::UNLIMITED)
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("no optimal member"),
        "{refused}"
    );
}

fn what_and_where(report: &ScrubReport) -> Vec<(Tid, Option<Oid>, Differs, String)> {
    let found = report.differences.iter();
    found
        .map(|one| (one.tid, one.oid, one.what, groups(one).join(" | ")))
        .collect()
}

#[tokio::test]
async fn damage_in_one_place_does_not_end_it_and_is_told_by_transaction() {
    let rig = Rig::new().await;
    let [first, second, _] = three_revisions(&rig).await;
    rig.members[0].tamper(|history| history[0].meta.user = "mallory".into());
    // What is damaged comes first, and is read again from the records themselves.
    let damaged = Fault::Damaged("a hole".into());
    rig.members[1]
        .faults()
        .fail_after(2, Moment::Iterate, damaged);
    let report = scrubbed(&rig).await;
    assert_eq!(report.transactions, 3);
    let expected = [
        (first, None, Differs::Metadata, "b c | a".to_owned()),
        (second, None, Differs::Unreadable, "a c | b".to_owned()),
    ];
    assert_eq!(what_and_where(&report), expected);
    let unreadable = report.members[1].unreadable.clone().unwrap();
    assert_eq!(unreadable.places, 1);
    assert!(unreadable.first.contains("a hole"), "{unreadable:?}");
    assert!(report.members.iter().all(|one| one.left_out.is_none()));
    let suspects = report.members.iter().map(ScrubbedMember::is_suspect);
    assert_eq!(suspects.collect::<Vec<_>>(), [true, true, false]);
    // It was compared to the end: what is wrong with it is known.
    let kept = rig.array.report().scrubbed.unwrap();
    assert_eq!(kept.members, ["a", "b", "c"]);
    assert_eq!(kept.suspects, ["a", "b"]);
}

#[tokio::test]
async fn damaged_records_are_told_by_oid_and_others_of_the_transaction_are_not() {
    let rig = Rig::new().await;
    let [first, ..] = three_revisions(&rig).await;
    let damaged = || Fault::Damaged("a hole".into());
    let faults = rig.members[2].faults();
    faults.fail_after(1, Moment::Iterate, damaged());
    faults.fail(Moment::Load, damaged());
    let report = scrubbed(&rig).await;
    let expected = [(
        first,
        Some(Oid(1)),
        Differs::Unreadable,
        "a b | c".to_owned(),
    )];
    assert_eq!(what_and_where(&report), expected);
    faults.clear();
    // Between two as well it is the one that cannot be read.
    rig.array.disable("b").unwrap();
    faults.fail_after(1, Moment::Iterate, damaged());
    faults.fail(Moment::Load, damaged());
    let report = scrubbed(&rig).await;
    assert_eq!(what_and_where(&report)[0].3, "a | c");
    let kept = rig.array.report().scrubbed.unwrap();
    assert_eq!(
        (kept.suspects, kept.undecided.len()),
        (vec!["c".to_owned()], 0)
    );
}

#[tokio::test]
async fn what_a_scrub_found_is_remembered_until_it_is_mended_also_by_the_next_daemon() {
    let rig = Rig::with(|options| options.auto_recover = false).await;
    three_revisions(&rig).await;
    assert!(rig.array.report().scrubbed.is_none());
    scrubbed(&rig).await;
    let report = rig.array.report();
    assert_eq!(report.line, "optimal");
    assert_eq!(report.scrubbed.unwrap().differences, 0);
    rig.members[1].tamper(|history| {
        let data = Bytes::from_static(b"TWO").into();
        history[1].records[0].data = RecordData::Data(data);
    });
    scrubbed(&rig).await;
    let wrong = "optimal; the last scrub found that b is wrong";
    let report = rig.array.report();
    assert_eq!(
        (report.state, report.line.as_str()),
        (ArrayState::Optimal, wrong)
    );
    let file = rig.folder.path().join("membership.scrub.json");
    rig.until("it is written", |_| {
        std::fs::read_to_string(&file).is_ok_and(|text| text.contains(r#""b""#))
    })
    .await;

    // The next daemon knows.
    rig.array.shutdown(Duration::from_secs(5)).await.unwrap();
    let mut options = options(&rig.folder);
    options.auto_recover = false;
    let (array, notices) = start(options, &rig.members, &rig.folder).await;
    let rig = Rig {
        array,
        notices,
        ..rig
    };
    rig.until("it serves", |report| report.state == ArrayState::Optimal)
        .await;
    assert_eq!(rig.array.report().line, wrong);

    let recover = async |strategy| {
        rig.array.disable("b").unwrap();
        rig.array.recover("b", strategy, None).unwrap();
        rig.until("the recovery has ended", |report| {
            let recovery = report.recovery.as_ref();
            report.state == ArrayState::Optimal
                && recovery.is_some_and(|one| one.outcome == RecoveryOutcome::Done)
        })
        .await;
    };
    // It lacks nothing; what it holds is compared all the same.
    recover(Strategy::Missing).await;
    let report = rig.array.report();
    assert_eq!(report.line, "optimal");
    assert_eq!(report.scrubbed.unwrap().mended, ["b"]);
    assert_eq!(rig.heard("scrub-mended"), 1);
    assert_eq!(scrubbed(&rig).await.count, 0);
}

#[tokio::test]
async fn who_comes_back_by_itself_does_not_decide_which_of_two_copies_is_right() {
    let rig = Rig::new().await;
    let [_, second, third] = three_revisions(&rig).await;
    for (member, text) in [(1, "TWO"), (2, "Two")] {
        rig.members[member].tamper(|history| {
            let data = Bytes::from_static(text.as_bytes()).into();
            history[1].records[0].data = RecordData::Data(data);
        });
    }
    scrubbed(&rig).await;
    let undecided = |rig: &Rig| rig.array.report().scrubbed.unwrap().undecided;
    assert_eq!(undecided(&rig), ["a", "b", "c"]);
    let held = |rig: &Rig| {
        let history = rig.members[2].transactions();
        let data = history[1].records[0].data.payload().unwrap();
        data.read().unwrap()
    };
    rig.members[2]
        .faults()
        .fail_once(Moment::Finish, Fault::Closed("test".into()));
    commit(&rig.array, 2, third, "four").await.unwrap();
    rig.optimal().await;
    assert_eq!(rig.heard("recovery-done"), 1, "it was out");
    assert_eq!(held(&rig), "Two", "nobody has said that it is wrong");
    assert_eq!(undecided(&rig), ["a", "b", "c"]);
    // An operator has.
    rig.array.disable("c").unwrap();
    rig.array.recover("c", Strategy::Missing, None).unwrap();
    rig.optimal().await;
    assert_ne!(held(&rig), "Two");
    assert_eq!(undecided(&rig), ["a", "b"]);
    assert_eq!(rig.members[2].transactions()[1].tid, second);
}

#[tokio::test]
async fn nobody_is_made_anew_from_a_member_that_a_scrub_found_wrong() {
    let rig = Rig::with(|options| options.auto_recover = false).await;
    let [_, second, _] = three_revisions(&rig).await;
    // `a` is preferred otherwise: it is the first of those that have nothing to do.
    rig.members[0].tamper(|history| {
        let data = Bytes::from_static(b"TWO").into();
        history[1].records[0].data = RecordData::Data(data);
    });
    scrubbed(&rig).await;
    rig.array.disable("c").unwrap();
    rig.array.recover("c", Strategy::Rebuild, None).unwrap();
    rig.until("it is optimal", |report| {
        report.state == ArrayState::Optimal
    })
    .await;
    let source = rig.array.report().recovery.unwrap().source;
    assert_eq!(source.as_deref(), Some("b"));
    let report = scrubbed(&rig).await;
    let expected = [(second, Some(Oid(1)), Differs::Record, "b c | a".to_owned())];
    assert_eq!(what_and_where(&report), expected);
}

#[tokio::test]
async fn what_was_made_anew_while_a_scrub_ran_is_not_told_of_as_wrong_at_its_end() {
    let rig = Rig::with(|options| options.auto_recover = false).await;
    three_revisions(&rig).await;
    for number in 10..13 {
        commit(&rig.array, number, Tid::ZERO, "more").await.unwrap();
    }
    rig.members[1].tamper(|history| {
        let data = Bytes::from_static(b"ONE").into();
        history[0].records[0].data = RecordData::Data(data);
    });
    let slow = Rate {
        transactions_per_second: Some(2),
        ..Rate::UNLIMITED
    };
    rig.array.start_scrub(slow).unwrap();
    rig.until("the first is compared", |_| {
        let scrub = rig.array.scrub_report();
        scrub.is_some_and(|scrub| scrub.progress.done.transactions > 0)
    })
    .await;
    rig.array.disable("b").unwrap();
    rig.array.recover("b", Strategy::Rebuild, None).unwrap();
    let report = ended(&rig).await;
    assert_eq!(report.count, 1, "{report:?}");
    rig.until("it is mended", |report| report.line == "optimal")
        .await;
    assert_eq!(rig.array.report().scrubbed.unwrap().suspects, [""; 0]);
}
