//! Members that fail, hang, are disabled, come and go.

use super::*;

#[tokio::test]
async fn a_member_that_fails_in_a_vote_is_taken_out_and_the_client_sees_nothing() {
    let rig = Rig::new().await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    rig.members[1].faults().fail_once(
        Moment::Vote,
        Fault::DiskFull {
            what: "test".into(),
        },
    );
    let second = commit(&rig.array, 1, first, "two").await.unwrap();
    assert!(second > first);
    assert!(
        rig.notices
            .lock()
            .iter()
            .any(|notice| notice.kind() == "member-degraded")
    );
    rig.optimal().await;
    rig.same_histories();
    assert_eq!(
        load(&rig.array, 1).await,
        (Bytes::from_static(b"two"), second)
    );
}

#[tokio::test]
async fn a_member_that_fails_in_a_finish_is_taken_out_whatever_it_did() {
    for moment in [Moment::Finish, Moment::Finished] {
        let rig = Rig::new().await;
        let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
        rig.members[2]
            .faults()
            .fail_once(moment, Fault::Closed("test".into()));
        let second = commit(&rig.array, 1, first, "two").await.unwrap();
        rig.until("c is out", |report| {
            report.epoch > 1 || report.state != ArrayState::Optimal
        })
        .await;
        commit(&rig.array, 1, second, "three").await.unwrap();
        rig.optimal().await;
        rig.same_histories();
    }
}

#[tokio::test]
async fn a_member_that_hangs_holds_a_client_up_for_its_timeout_once() {
    let rig = Rig::with(|options| options.member_timeout = Duration::from_millis(300)).await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    let gate = rig.members[0].faults().hold(Moment::Finish);
    let second = commit(&rig.array, 1, first, "two").await.unwrap();
    assert_eq!(rig.member("a").state, MemberState::Degraded);
    let reason = rig.member("a").reason.unwrap();
    assert!(
        reason.contains("no answer to tpc_finish within 0.3 s"),
        "{reason}"
    );
    commit(&rig.array, 1, second, "three").await.unwrap();
    rig.members[0].faults().clear();
    gate.release();
    rig.optimal().await;
    rig.same_histories();
}

#[tokio::test]
async fn the_last_optimal_member_cannot_be_disabled() {
    let rig = Rig::new().await;
    rig.array.disable("a").unwrap();
    rig.array.disable("b").unwrap();
    let refused = rig.array.disable("c").unwrap_err();
    assert_eq!(refused.to_string(), "c is the last optimal member of main");
    let refused = rig.array.disable("zeo7").unwrap_err();
    assert_eq!(
        refused.to_string(),
        "array main has no member zeo7; it has a, b, c"
    );
    assert_eq!(rig.array.report().state, ArrayState::Degraded);
}

#[tokio::test]
async fn a_disabled_member_waits_for_an_operator_also_over_a_restart() {
    let mut rig = Rig::new().await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    rig.array.disable("b").unwrap();
    commit(&rig.array, 1, first, "two").await.unwrap();
    rig.restart().await;
    rig.until("it serves", |report| report.serving == Serving::Yes)
        .await;
    let b = rig.member("b");
    assert_eq!((b.state, b.needs_operator), (MemberState::Degraded, true));
    assert_eq!(b.reason.as_deref(), Some("disabled by an operator"));
    rig.array.recover("b", Strategy::Missing, None).unwrap();
    rig.optimal().await;
    rig.same_histories();
}

#[tokio::test]
async fn members_come_and_go_while_it_serves() {
    let rig = Rig::new().await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    let two = specs(&rig.members)[..2].to_vec();
    let (added, removed) = rig.array.set_members(two.clone(), true).unwrap();
    assert_eq!((added, removed), (vec![], vec!["c".to_owned()]));
    assert_eq!(
        rig.array.report().members.len(),
        3,
        "a dry run changes nothing"
    );
    rig.array.set_members(two, false).unwrap();
    assert_eq!(rig.array.report().members.len(), 2);
    let second = commit(&rig.array, 1, first, "two").await.unwrap();
    rig.array.set_members(specs(&rig.members), false).unwrap();
    rig.until("c is back", |report| {
        report.state == ArrayState::Optimal && report.members.len() == 3
    })
    .await;
    commit(&rig.array, 1, second, "three").await.unwrap();
    rig.same_histories();
    let refused = rig.array.set_members(Vec::new(), false).unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("no optimal member of main would remain"),
        "{refused}"
    );
}

#[tokio::test]
async fn when_the_last_member_fails_it_is_said_and_service_goes_on_when_it_is_back() {
    let rig = Rig::new().await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    rig.array.disable("b").unwrap();
    rig.array.disable("c").unwrap();
    let down = Fault::Unreachable("cable cut".into());
    rig.members[0].faults().fail(Moment::Vote, down.clone());
    rig.members[0].faults().fail(Moment::Open, down);
    let error = commit(&rig.array, 1, first, "two").await.unwrap_err();
    assert!(error.to_string().contains("cannot serve"), "{error}");
    assert_eq!(rig.array.report().state, ArrayState::Failed);
    rig.members[0].faults().clear();
    rig.until("it serves", |report| report.serving == Serving::Yes)
        .await;
    commit(&rig.array, 1, first, "two").await.unwrap();
}

#[tokio::test]
async fn below_the_minimum_clients_may_only_read_where_that_is_wanted() {
    let rig = Rig::with(|options| {
        options.min_optimal = 3;
        options.fail_mode = FailMode::ReadOnly;
    })
    .await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    rig.array.disable("b").unwrap();
    assert!(matches!(
        rig.array.report().serving,
        Serving::ReadOnly { .. }
    ));
    assert_eq!(load(&rig.array, 1).await.1, first);
    let error = commit(&rig.array, 1, first, "two").await.unwrap_err();
    assert_eq!(error.to_string(), "the storage is read-only");
    rig.array.recover("b", Strategy::Missing, None).unwrap();
    rig.until("it serves", |report| report.serving == Serving::Yes)
        .await;
    commit(&rig.array, 1, first, "two").await.unwrap();
}

#[tokio::test]
async fn what_stands_in_the_way_of_a_member_is_known() {
    let rig = Rig::new().await;
    let faults = rig.members[2].faults();
    let what = "test".to_owned();
    faults.fail(Moment::Open, Fault::DiskFull { what });
    faults.fail_once(Moment::Vote, Fault::Closed("test".into()));
    commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    rig.until("it is known", |_| {
        rig.member("c").hindered_by == Some(Hindrance::DiskFull)
    })
    .await;
    faults.clear();
    rig.optimal().await;
    assert_eq!(rig.member("c").hindered_by, None);
}
