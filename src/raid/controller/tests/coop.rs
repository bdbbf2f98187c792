//! Several daemons over the same members.

use super::*;

fn coop(fail_mode: FailMode) -> Rules {
    Rules {
        cluster_mode: ClusterMode::Coop,
        fail_mode,
        ..rules()
    }
}

impl Fed {
    fn foreign(&mut self, member: MemberId, tid: Tid) {
        let generation = self.controller.members[&member].generation();
        let generation = generation.expect("it is open");
        let oids = Arc::from([Oid(1)]);
        let event = Event::Foreign {
            member,
            generation,
            tid,
            oids,
        };
        self.feed(event).ok();
    }

    /// Another daemon's transaction, of which these members have told as a whole.
    fn told(&mut self, members: &[MemberId], tid: Tid) {
        for member in members {
            self.foreign(*member, tid);
        }
        self.feed(Event::ToldWhole { tid }).ok();
        let oids = Arc::from([Oid(1)]);
        self.feed(Event::Inquired { tid, oids }).ok();
    }

    /// A vote, with where the member said that it ends.
    fn ballot_after(&mut self, commit: u64, member: MemberId, ballot: Ballot, after: Tid) {
        self.feed(Event::MemberVoted {
            commit: CommitId(commit),
            member,
            ballot,
            after: Some(after),
        })
        .ok();
    }

    fn levelled(&mut self, member: MemberId, tid: Tid) {
        let generation = self.controller.members[&member].generation();
        self.feed(Event::Levelled {
            member,
            generation: generation.expect("it is open"),
            tid,
        })
        .ok();
    }
}

#[test]
fn what_fewer_than_a_majority_hold_is_not_read() {
    let mut fed = Fed::new(coop(FailMode::ReadOnly), None);
    for (member, last_tid) in [(A, Tid(7)), (B, Tid(5)), (C, Tid(5))] {
        fed.open(member, last_tid);
    }
    let found = vec![
        (A, Compared::Level),
        (B, Compared::Behind),
        (C, Compared::Behind),
    ];
    fed.feed(Event::Assembled { found, head: None }).ok();
    fed.recorded();
    assert_eq!(fed.controller.head, Tid(7));
    let serving = &fed.controller.serving;
    assert!(
        !serving.can_read(),
        "others may go on without 7: {serving:?}"
    );
}

/// A start with a record of 5 has found that `a` alone goes on to 7; `b` ends at 5, and `c` is away.
fn started_with_less_than_a_majority() -> Fed {
    let record = Fed::serving_from(&["a", "b", "c"], coop(FailMode::Close)).record;
    let mut fed = Fed::of(&["a", "b", "c"], coop(FailMode::Close), record);
    fed.open(A, Tid(7));
    fed.open(B, Tid(5));
    fed.later(5);
    assert_eq!(fed.controller.phase, Phase::Assembling);
    let found = vec![(A, Compared::Level), (B, Compared::Behind)];
    fed.feed(Event::Assembled { found, head: None }).ok();
    fed.recorded();
    assert_eq!((fed.controller.head, fed.in_sync()), (Tid(7), vec!["a"]));
    assert!(!fed.controller.serving.can_read());
    fed.said.clear();
    fed
}

#[test]
fn what_less_than_a_majority_ends_with_is_not_taken_for_acknowledged() {
    let mut fed = started_with_less_than_a_majority();
    let recorded = |fed: &Fed| fed.record.as_ref().map(|record| record.head);
    assert_eq!(recorded(&fed), Some(Tid(5)));
    // Nor after a time, or when somebody goes on from there.
    fed.told(&[A], Tid(8));
    assert_eq!(fed.controller.head, Tid(8));
    fed.record = None;
    fed.later(1);
    fed.later(120);
    assert_eq!(fed.record, None, "there is no later one to be recorded");
    fed.feed(Event::StopAsked).ok();
    assert_eq!(recorded(&fed), Some(Tid(5)));
    // The others have gone on without it. The next start of this life goes with them.
    let mut fed = started_with_less_than_a_majority();
    fed.lose(A);
    fed.open(B, Tid(6));
    fed.open(C, Tid(6));
    fed.later(5);
    assert_eq!(fed.controller.acknowledged(), Tid(5));
    let found = vec![(B, Compared::Level), (C, Compared::Level)];
    fed.feed(Event::Assembled { found, head: None }).ok();
    fed.recorded();
    assert_eq!(fed.controller.serving, Serving::Yes);
    assert_eq!(
        (fed.controller.head, recorded(&fed)),
        (Tid(6), Some(Tid(6)))
    );
}

#[test]
fn what_a_majority_ends_with_is_taken_for_acknowledged_once_it_is_one() {
    let mut fed = started_with_less_than_a_majority();
    fed.recover("b", Strategy::Missing).unwrap();
    let commit = CommitId(7);
    fed.feed(Event::CatchUpAsked { commit }).unwrap();
    let level = Event::TargetLevel {
        commit,
        member: B,
        last_tid: Tid(7),
        packed: Tid::ZERO,
    };
    fed.feed(level).unwrap();
    assert_eq!(
        fed.controller.acknowledged(),
        Tid(5),
        "not before the record"
    );
    fed.recorded();
    assert_eq!(fed.controller.serving, Serving::Yes);
    assert_eq!(fed.controller.acknowledged(), Tid(7));
    fed.later(1);
    fed.later(61);
    assert_eq!(fed.record.map(|record| record.head), Some(Tid(7)));
}

#[test]
fn what_was_acknowledged_stays_so_whoever_is_added_before_a_start() {
    let mut fed = Fed::serving_from(&["a", "b", "c"], coop(FailMode::Close));
    fed.told(&[A, B, C], Tid(7));
    fed.lose(C);
    fed.recorded();
    fed.lose(B);
    assert!(matches!(fed.controller.phase, Phase::Opening { .. }));
    let members = ["a", "b", "c", "d", "e"].map(configured).into();
    let dry_run = false;
    fed.feed(Event::MembersAsked { members, dry_run }).unwrap();
    assert_eq!(fed.in_sync(), ["a", "b"], "two of five");
    assert_eq!(fed.controller.acknowledged(), Tid(7));
    assert_eq!(fed.record.map(|record| record.head), Some(Tid(7)));
}

#[test]
fn less_than_a_majority_calls_nobody_wrong() {
    let mut fed = started_with_less_than_a_majority();
    fed.recover("b", Strategy::Missing).unwrap();
    let reason = "it has diverged".to_owned();
    let ended = Ended::Undecided { reason };
    fed.feed(Event::RecoveryEnded { member: B, ended }).ok();
    assert!(fed.said().contains("recovery-failed"));
    // All are compared again, with whoever has come meanwhile.
    fed.open(C, Tid(6));
    fed.later(5);
    assert_eq!(fed.controller.phase, Phase::Assembling);
    let why = "diverged after 5; 1 transactions are only here".to_owned();
    let diverged = Compared::Diverged { reason: why };
    let found = vec![(A, Compared::Level), (B, diverged.clone()), (C, diverged)];
    fed.feed(Event::Assembled { found, head: None }).ok();
    assert_eq!(fed.controller.phase, Phase::Assembling, "a is passed over");
    let head = Some(Tid(6));
    let found = vec![(B, Compared::Level), (C, Compared::Level)];
    fed.feed(Event::Assembled { found, head }).ok();
    fed.recorded();
    assert_eq!(fed.controller.serving, Serving::Yes);
    assert_eq!(
        (fed.controller.head, fed.in_sync()),
        (Tid(6), vec!["b", "c"])
    );
}

#[test]
fn by_force_less_than_a_majority_is_right() {
    let record = Fed::serving_from(&["a", "b", "c"], coop(FailMode::Close)).record;
    let rules = Rules {
        force: true,
        ..coop(FailMode::Close)
    };
    let mut fed = Fed::of(&["a", "b", "c"], rules, record);
    fed.open(A, Tid(7));
    fed.later(5);
    let found = vec![(A, Compared::Level)];
    fed.feed(Event::Assembled { found, head: None }).ok();
    fed.recorded();
    assert_eq!(fed.controller.acknowledged(), Tid(7));
    assert!(!fed.controller.may_be_wrong());
}

#[test]
fn what_a_member_goes_on_without_is_not_acknowledged() {
    let mut fed = Fed::serving_from(&["a", "b", "c"], coop(FailMode::Close));
    // A daemon has left 6 on one member alone, and another one has gone on with 7.
    for (member, tid) in [(A, Tid(7)), (B, Tid(7)), (C, Tid(6))] {
        fed.foreign(member, tid);
    }
    for tid in [Tid(6), Tid(7)] {
        fed.feed(Event::ToldWhole { tid }).ok();
        let oids = Arc::from([Oid(1)]);
        fed.feed(Event::Inquired { tid, oids }).ok();
    }
    assert_eq!(fed.controller.head, Tid(5), "6 is held by one of three");
    // Nor when a later end of the others is known.
    let generation = fed.controller.members[&A].generation().expect("it is open");
    fed.controller.has_finished(A, generation, Tid(7));
    fed.later(1);
    assert_eq!(fed.controller.head, Tid(5));
    assert!(
        fed.said().contains("level 2 from 0"),
        "two of three are right"
    );
    // Who holds it alone is lost, and with it this.
    fed.lose(C);
    fed.recorded();
    assert_eq!(fed.controller.head, Tid(7));
}

#[test]
fn what_the_start_has_compared_takes_nobody_out_when_it_is_told_late() {
    let mut fed = Fed::serving();
    fed.foreign(B, Tid(5));
    assert_eq!(fed.controller.in_sync_count(), 3);
    fed.foreign(B, Tid(6));
    assert_eq!(fed.controller.in_sync_count(), 2, "that is somebody else's");
}

#[test]
fn what_keeps_one_daemon_from_serving_another_may_mend_meanwhile() {
    let record = Fed::serving_from(&["a", "b"], coop(FailMode::Close)).record;
    let mut fed = Fed::of(&["a", "b"], coop(FailMode::Close), record);
    fed.open(A, Tid(7));
    fed.open(B, Tid(6));
    let since = "diverged after 4".to_owned();
    let diverged = [
        (A, Compared::Level),
        (B, Compared::Diverged { reason: since }),
    ];
    let waits_for = |fed: &Fed| match &fed.controller.serving {
        Serving::Starting { waits_for } => waits_for.clone(),
        other => panic!("{other:?}"),
    };
    for round in 0..3 {
        let mut rounds = 0;
        // Whoever was passed over is asked after all.
        while fed.controller.phase == Phase::Assembling {
            rounds += 1;
            assert!(rounds < 4, "it comes to an end");
            let found = diverged.to_vec();
            fed.feed(Event::Assembled { found, head: None }).ok();
            fed.later(0);
        }
        let waits = waits_for(&fed);
        assert!(waits.contains("no majority"), "round {round}: {waits}");
        fed.later(5);
        assert_ne!(fed.controller.phase, Phase::Assembling, "not at once");
        fed.later(5);
        assert_eq!(fed.controller.phase, Phase::Assembling);
        assert!(waits_for(&fed).contains("no majority"), "it is still so");
    }
    let said = fed.said();
    assert_eq!(said.matches("not-serving").count(), 1, "once: {said}");
    let found = vec![(A, Compared::Level), (B, Compared::Level)];
    fed.feed(Event::Assembled { found, head: None }).ok();
    fed.recorded();
    assert_eq!(fed.controller.serving, Serving::Yes);
}

#[test]
fn three_copies_that_all_differ_are_not_compared_without_a_pause() {
    let record = Fed::serving_from(&["a", "b", "c"], coop(FailMode::Close)).record;
    let mut fed = Fed::of(&["a", "b", "c"], coop(FailMode::Close), record);
    for (member, last_tid) in [(A, Tid(8)), (B, Tid(7)), (C, Tid(6))] {
        fed.open(member, last_tid);
    }
    let mut rounds = 0;
    while fed.controller.phase == Phase::Assembling {
        rounds += 1;
        assert!(rounds < 6, "it comes to an end");
        let reason = || "diverged after 4".to_owned();
        let others = fed.controller.assembling.keys().copied();
        let mut found: Vec<_> = others
            .map(|member| (member, Compared::Diverged { reason: reason() }))
            .collect();
        found[0].1 = Compared::Level;
        fed.feed(Event::Assembled { found, head: None }).ok();
        fed.later(0);
    }
    let Serving::Starting { waits_for } = fed.controller.serving.clone() else {
        panic!("{:?}", fed.controller.serving);
    };
    assert!(waits_for.contains("a, b, c have diverged"), "{waits_for}");
    assert!(fed.said().contains("not-serving"));
    // Whoever goes away is what is waited for then.
    fed.lose(B);
    fed.lose(C);
    fed.later(10);
    let Serving::Starting { waits_for } = fed.controller.serving.clone() else {
        panic!("{:?}", fed.controller.serving);
    };
    assert!(!waits_for.contains("diverged"), "{waits_for}");
}

#[test]
fn refusals_of_different_moments_are_no_disagreement() {
    let conflict = |current| Ballot::No(Answer::Conflict(Conflict::new(Oid(1), current, Tid(4))));
    // Who says no gives its lock back, and another daemon commits before the next is asked: it is told of that
    // before or after.
    for told_before in [true, false] {
        let mut fed = Fed::serving_from(&["a", "b", "c"], coop(FailMode::Close));
        let commits = |fed: &mut Fed| {
            for member in [A, B, C] {
                fed.foreign(member, Tid(6));
            }
            let tid = Tid(6);
            fed.feed(Event::ToldWhole { tid }).ok();
            let oids = Arc::from([Oid(1)]);
            fed.feed(Event::Inquired { tid, oids }).ok();
        };
        fed.vote(1);
        fed.ballot(1, A, conflict(Tid(5)));
        if told_before {
            commits(&mut fed);
        }
        fed.ballot(1, B, conflict(Tid(6)));
        fed.ballot(1, C, conflict(Tid(6)));
        if !told_before {
            commits(&mut fed);
        }
        assert_eq!(fed.controller.head, Tid(6));
        let said = fed.said();
        assert!(!said.contains("disagreement"), "{told_before}: {said}");
        for member in [A, B, C] {
            fed.ballot(1, member, conflict(Tid(6)));
        }
        let said = said + &fed.said();
        assert!(said.ends_with("no"), "{told_before}: {said}");
        assert!(fed.controller.is_in_sync(A), "{told_before}");
    }
    // Of one moment it is one.
    let mut fed = Fed::serving_from(&["a", "b", "c"], coop(FailMode::Close));
    fed.vote(1);
    for (member, current) in [(A, Tid(4)), (B, Tid(5)), (C, Tid(5))] {
        fed.ballot(1, member, conflict(current));
    }
    assert!(fed.said().contains("disagreement"), "{}", fed.said());
    assert!(!fed.controller.is_in_sync(A));
}

#[test]
fn who_says_where_it_ends_without_its_lock_may_have_gone_on_since() {
    let votes = |fed: &mut Fed, ballot: Ballot, after: u64| {
        fed.ballot_after(1, A, ballot, Tid(after));
    };
    let commits = |fed: &mut Fed, tid: Tid| {
        fed.told(&[A, B, C], tid);
        assert_eq!(fed.controller.head, tid);
    };
    let too_late = || Ballot::No(Answer::Invalid("not later".into()));
    let tid = |fed: &Fed| fed.controller.commits[&CommitId(1)].tid;

    // A has 6 when it is asked, and everybody has 7 before its answer counts.
    let mut fed = Fed::serving_from(&["a", "b", "c"], coop(FailMode::Close));
    fed.vote(1);
    let overtaken = tid(&fed);
    let next = Tid(overtaken.0 + 1);
    commits(&mut fed, overtaken);
    commits(&mut fed, next);
    votes(&mut fed, too_late(), overtaken.0);
    assert!(fed.controller.is_in_sync(A), "{}", fed.said());
    assert!(tid(&fed) > next, "{} is chosen anew", tid(&fed));

    // What it had when it was asked, it has in any case.
    votes(&mut fed, too_late(), overtaken.0);
    assert!(!fed.controller.is_in_sync(A), "it had {next}");

    // And whoever holds its lock has all that there is.
    let mut fed = Fed::serving_from(&["a", "b", "c"], coop(FailMode::Close));
    fed.vote(1);
    commits(&mut fed, Tid(6));
    votes(&mut fed, ready(), 5);
    assert!(!fed.controller.is_in_sync(A), "it had 6");
}

#[test]
fn who_is_overtaken_again_and_again_waits_for_a_time_and_not_for_a_number() {
    let mut fed = Fed::serving_from(&["a", "b", "c"], coop(FailMode::Close));
    fed.vote(1);
    // What the other daemon finishes reaches c late.
    let overtaken = |fed: &mut Fed, tid: Tid| {
        for (member, after) in [(A, tid.0), (B, tid.0), (C, tid.0 - 1)] {
            fed.ballot_after(1, member, ready(), Tid(after));
        }
        fed.told(&[A, B, C], tid);
        assert_eq!(fed.controller.head, tid);
    };
    for number in 6..106 {
        overtaken(&mut fed, Tid(number));
    }
    assert!(!fed.said().contains("vote failed"));
    fed.later(19);
    overtaken(&mut fed, Tid(106));
    assert!(!fed.said().contains("vote failed"));
    fed.later(1);
    overtaken(&mut fed, Tid(107));
    assert_eq!(fed.controller.in_sync_count(), 3, "it is level just now");
    for (member, after) in [(A, 108), (B, 108), (C, 107)] {
        fed.ballot_after(1, member, ready(), Tid(after));
    }
    // Nobody can go on while the others' locks are held.
    fed.said();
    fed.levelled(C, Tid(108));
    fed.told(&[A, B, C], Tid(108));
    assert_eq!(fed.said(), "vote 2");
    fed.ballot_after(1, C, ready(), Tid(108));
    assert_eq!(fed.said(), "voted");
    assert_eq!(fed.controller.in_sync_count(), 3);

    // Where each of two daemons lacks another member, nobody is behind a majority: the furthest is held.
    let mut fed = Fed::serving_from(&["a", "b", "c"], coop(FailMode::Close));
    fed.lose(B);
    fed.recorded();
    fed.vote(1);
    for (member, after) in [(A, 5), (C, 6)] {
        fed.ballot_after(1, member, ready(), Tid(after));
    }
    let inquired = |fed: &mut Fed, tid: Tid| {
        let oids = Arc::from([Oid(1)]);
        fed.feed(Event::Inquired { tid, oids }).ok();
        assert_eq!(fed.controller.head, tid);
    };
    // The other daemon commits faster than a is made level.
    for tid in 6..10 {
        fed.foreign(C, Tid(tid + 1));
        fed.levelled(A, Tid(tid));
        inquired(&mut fed, Tid(tid));
        fed.said();
        fed.later(5);
    }
    let said = fed.said();
    assert!(said.starts_with("vote 0"), "{said}");
    for (member, after) in [(A, 9), (C, 11)] {
        fed.ballot_after(1, member, ready(), Tid(after));
    }
    assert_eq!(fed.said(), "vote 2", "the lock of c is held");
    for tid in [10, 11] {
        fed.levelled(A, Tid(tid));
        inquired(&mut fed, Tid(tid));
    }
    assert_eq!(fed.said(), "vote 0");
    fed.ballot_after(1, A, ready(), Tid(11));
    assert_eq!(fed.said(), "voted");

    // Of two nobody can say which one the others go on with, where that does not help either.
    let mut fed = Fed::serving_from(&["a", "b"], coop(FailMode::Close));
    fed.vote(1);
    let overtaken = |fed: &mut Fed, tid: Tid| {
        for (member, after) in [(A, tid.0), (B, tid.0 - 1)] {
            fed.ballot_after(1, member, ready(), Tid(after));
        }
        fed.told(&[A, B], tid);
    };
    for number in 6..106 {
        overtaken(&mut fed, Tid(number));
    }
    fed.later(20);
    overtaken(&mut fed, Tid(106));
    let votes = |fed: &mut Fed| {
        for (member, after) in [(A, 107), (B, 106)] {
            fed.ballot_after(1, member, ready(), Tid(after));
        }
    };
    fed.said();
    for round in 1..=3 {
        votes(&mut fed);
        assert!(!fed.said().contains("vote failed"), "{round}");
        fed.later(5);
        let said = fed.said();
        assert!(
            said.starts_with("abort, vote 0"),
            "others want to commit as well: {said}"
        );
        votes(&mut fed);
        assert_eq!(fed.said().contains("vote failed"), round == 3, "{round}");
    }

    // Once all have voted level it has its time anew: its client resolves what it conflicts with, and votes again.
    let mut fed = Fed::serving_from(&["a", "b", "c"], coop(FailMode::Close));
    fed.vote(2);
    let again = |fed: &mut Fed, tid: Tid| {
        for (member, after) in [(A, tid.0), (B, tid.0), (C, tid.0 - 1)] {
            fed.ballot_after(2, member, ready(), Tid(after));
        }
        fed.told(&[A, B, C], tid);
        assert_eq!(fed.controller.head, tid);
    };
    again(&mut fed, Tid(6));
    for member in [A, B, C] {
        fed.ballot(2, member, Ballot::Conflicts(vec![conflict()]));
    }
    assert!(fed.said().contains("conflicts"));
    fed.later(25);
    fed.vote(2);
    again(&mut fed, Tid(7));
    let said = fed.said();
    assert!(!said.contains("vote failed"), "{said}");
}

#[test]
fn a_last_vote_that_is_refused_waits_until_the_members_are_level() {
    let conflict = |current| Ballot::No(Answer::Conflict(Conflict::new(Oid(1), current, Tid(4))));
    // The other daemon lacks a, and commits all the time: a is made level again and again, and too late.
    let refused = |fed: &mut Fed, last: u64| {
        fed.ballot_after(1, A, ready(), Tid(last - 1));
        fed.foreign(C, Tid(last));
        fed.ballot(1, C, conflict(Tid(last)));
    };
    let made_level = |fed: &mut Fed, tid: Tid| {
        fed.levelled(A, tid);
        let oids = Arc::from([Oid(1)]);
        fed.feed(Event::Inquired { tid, oids }).ok();
        assert_eq!(fed.controller.head, tid);
    };
    let overtaken = |fed: &mut Fed, last: u64| {
        refused(fed, last);
        let said = fed.said();
        assert!(!said.contains("vote 0"), "it waits: {said}");
        for tid in last - 1..last + 4 {
            fed.foreign(C, Tid(tid + 1));
            made_level(fed, Tid(tid));
            fed.said();
            fed.later(4);
        }
        last + 5
    };
    let started = || {
        let mut fed = Fed::serving_from(&["a", "b", "c"], coop(FailMode::Close));
        fed.lose(B);
        fed.recorded();
        fed.vote(1);
        fed.said();
        let last = overtaken(&mut fed, 6);
        let said = fed.said();
        assert!(said.contains("vote 0"), "the first of the last: {said}");
        (fed, last)
    };
    let (mut fed, last) = started();
    refused(&mut fed, last);
    made_level(&mut fed, Tid(last - 1));
    let said = fed.said();
    assert!(!said.contains("vote 0"), "it waits: {said}");
    made_level(&mut fed, Tid(last));
    assert!(fed.said().ends_with("vote 0"));
    for member in [A, C] {
        fed.ballot_after(1, member, ready(), Tid(last));
    }
    assert_eq!(fed.said(), "vote 2, voted");

    // Where they are not level in time, three times, it fails.
    let (mut fed, mut last) = started();
    for round in 1..=3 {
        last = overtaken(&mut fed, last);
        assert_eq!(fed.said().contains("vote failed"), round == 3, "{round}");
    }
}

#[test]
fn what_some_have_packed_is_refused_although_another_daemon_commits() {
    let mut fed = Fed::serving_from(&["a", "b", "c"], coop(FailMode::Close));
    fed.vote(1);
    let packed = || {
        Ballot::No(Answer::Undo {
            reason: "non-undoable transaction".into(),
            oid: None,
        })
    };
    let undone = Ballot::Ready {
        resolved: vec![Oid(1)],
    };
    fed.ballot(1, A, packed());
    fed.foreign(A, Tid(6));
    fed.ballot_after(1, B, undone, Tid(5));
    fed.ballot(1, C, packed());
    let said = fed.said();
    assert!(said.ends_with("abort, no"), "{said}");
}

#[test]
fn locks_are_kept_while_only_the_head_is_behind() {
    let voted_after = |tid: u64| {
        let mut fed = Fed::serving_from(&["a", "b", "c"], coop(FailMode::Close));
        fed.vote(1);
        for member in [A, B, C] {
            fed.ballot_after(1, member, ready(), Tid(tid));
        }
        assert_eq!(fed.controller.head, Tid(5));
        assert_eq!(fed.said(), "vote 0, vote 1, vote 2");
        fed
    };
    // What the members hold is told to clients before the transaction goes on.
    let mut fed = voted_after(6);
    fed.told(&[A, B, C], Tid(6));
    assert_eq!(fed.controller.head, Tid(6));
    assert_eq!(fed.said(), "voted");
    fed.finish(1);
    for member in [A, B, C] {
        fed.finished(1, member);
    }
    assert!(fed.said().ends_with("finished"));

    // Who is lost meanwhile is not waited for, once the record says so.
    let mut fed = voted_after(6);
    fed.lose(C);
    fed.recorded();
    fed.told(&[A, B], Tid(6));
    assert!(fed.said().ends_with("voted"));

    // Who may lack what comes before is made level, which needs its lock.
    let mut fed = voted_after(7);
    fed.told(&[A, B], Tid(6));
    fed.later(1);
    assert_eq!(fed.said(), "abort, level 2 from 0");
    fed.levelled(C, Tid(7));
    fed.told(&[A, B, C], Tid(7));
    assert_eq!(fed.said(), "vote 0");

    // Who refuse hold no locks, and others go on. It stays refused.
    let mut fed = Fed::serving_from(&["a", "b", "c"], coop(FailMode::Close));
    fed.vote(1);
    for member in [A, B] {
        fed.ballot_after(1, member, Ballot::Conflicts(vec![conflict()]), Tid(6));
    }
    assert_eq!(fed.said(), "vote 0, vote 1", "c changes nothing");
    for tid in [6, 7] {
        for member in [A, B, C] {
            fed.foreign(member, Tid(tid));
        }
    }
    for tid in [6, 7] {
        fed.told(&[A, B, C], Tid(tid));
    }
    assert_eq!(fed.controller.head, Tid(7));
    assert_eq!(fed.said(), "abort, conflicts");

    // Not for ever: others want to commit as well.
    let mut fed = voted_after(6);
    fed.later(9);
    assert_eq!(fed.said(), "");
    fed.later(1);
    assert_eq!(fed.said(), "abort");
    fed.told(&[A, B, C], Tid(6));
    assert_eq!(fed.said(), "vote 0");
    fed.feed(Event::Gone {
        commit: CommitId(1),
    })
    .ok();
    assert_eq!(fed.said(), "abort");
}

#[test]
fn who_is_behind_since_another_daemon_goes_on_without_it_is_taken_out() {
    let mut fed = Fed::serving_from(&["a", "b", "c"], coop(FailMode::Close));
    // The other daemon has disabled b, and commits all the time; b is made level each time, and is behind again.
    let votes = |fed: &mut Fed, behind: u64, last: u64| {
        for (member, after) in [(A, last), (B, behind), (C, last)] {
            fed.ballot_after(1, member, ready(), Tid(after));
        }
    };
    fed.vote(1);
    for tid in 6..26 {
        votes(&mut fed, tid - 1, tid);
        assert!(fed.said().contains("level 1 from 0"));
        fed.levelled(B, Tid(tid));
        fed.told(&[A, C], Tid(tid));
        assert_eq!(fed.controller.head, Tid(tid));
        assert!(fed.controller.is_in_sync(B));
    }
    fed.later(20);
    votes(&mut fed, 25, 26);
    fed.later(0);
    // Its loss is recorded before anything goes on.
    fed.told(&[A, C], Tid(26));
    fed.recorded();
    let said = fed.said();
    assert!(!said.contains("vote failed"), "{said}");
    assert!(!fed.controller.is_in_sync(B), "{said}");
    let out = fed.controller.members[&B].out().expect("it is out");
    assert!(!out.needs_operator && out.reason.contains("goes on without it"));
    for member in [A, C] {
        fed.ballot_after(1, member, ready(), Tid(26));
    }
    let said = fed.said();
    assert!(said.ends_with("voted"), "{said}");
}

#[test]
fn who_is_not_made_level_in_time_does_not_fail_the_transaction() {
    let mut fed = Fed::serving_from(&["a", "b", "c"], coop(FailMode::Close));
    fed.vote(1);
    for (member, after) in [(A, 6), (B, 5), (C, 6)] {
        fed.ballot_after(1, member, ready(), Tid(after));
    }
    fed.later(20);
    assert!(!fed.controller.is_in_sync(B));
    assert!(fed.controller.is_in_sync(A) && fed.controller.is_in_sync(C));
    let said = fed.said();
    assert!(!said.contains("vote failed"), "{said}");
}

#[test]
fn who_was_made_level_meanwhile_is_not_taken_out_for_what_it_lacked() {
    let mut fed = Fed::serving_from(&["a", "b", "c"], coop(FailMode::Close));
    fed.vote(1);
    for (member, after) in [(A, 6), (B, 5), (C, 6)] {
        fed.ballot_after(1, member, ready(), Tid(after));
    }
    // All hold it, and what it wrote is not known yet.
    fed.levelled(B, Tid(6));
    fed.later(20);
    assert_eq!(fed.controller.in_sync_count(), 3, "{}", fed.said());
}

#[test]
fn who_lacks_what_the_others_refuse_for_is_behind() {
    let conflict = |current| Ballot::No(Answer::Conflict(Conflict::new(Oid(1), current, Tid(4))));
    let mut fed = Fed::serving_from(&["a", "b", "c"], coop(FailMode::Close));
    fed.vote(1);
    for (member, after) in [(A, 6), (B, 5), (C, 6)] {
        fed.ballot_after(1, member, ready(), Tid(after));
    }
    fed.levelled(B, Tid(6));
    fed.told(&[A, C], Tid(6));
    assert_eq!(fed.controller.head, Tid(6));
    fed.later(20);
    // The other daemon has committed again.
    fed.ballot(1, A, conflict(Tid(7)));
    fed.ballot_after(1, B, ready(), Tid(6));
    fed.ballot(1, C, conflict(Tid(7)));
    fed.later(0);
    let said = fed.said();
    assert!(!said.contains("vote failed"), "{said}");
    assert!(!fed.controller.is_in_sync(B), "{said}");
    assert!(fed.controller.is_in_sync(A) && fed.controller.is_in_sync(C));

    // Where all refuse, and one for what is acknowledged, that is told.
    let mut fed = Fed::serving_from(&["a", "b", "c"], coop(FailMode::Close));
    fed.vote(1);
    for (member, tid) in [(A, 7), (B, 5), (C, 7)] {
        fed.foreign(member, Tid(tid.max(6)));
        fed.ballot(1, member, conflict(Tid(tid)));
    }
    let said = fed.said();
    assert!(said.ends_with("abort, no"), "{said}");
    assert_eq!(fed.controller.in_sync_count(), 3);

    // Who refuses for something else, and for less than the others, is behind although none says where it ends.
    let mut fed = Fed::serving_from(&["a", "b", "c"], coop(FailMode::Close));
    fed.vote(1);
    for (member, tid) in [(A, 7), (B, 6), (C, 7)] {
        fed.foreign(member, Tid(6));
        if tid == 7 {
            fed.foreign(member, Tid(7));
        }
        let refused = Ballot::No(Answer::NoSuchObject(Oid(1)));
        let ballot = if tid == 7 { conflict(Tid(7)) } else { refused };
        fed.ballot(1, member, ballot);
    }
    fed.told(&[A, B, C], Tid(6));
    assert_eq!(fed.controller.head, Tid(6));
    fed.later(20);
    assert!(!fed.controller.is_in_sync(B));
    assert!(fed.controller.is_in_sync(A) && fed.controller.is_in_sync(C));

    // One alone that is further than all others is what a dead daemon may have left.
    let mut fed = Fed::serving_from(&["a", "b", "c"], coop(FailMode::Close));
    fed.vote(1);
    for (member, after) in [(A, 6), (B, 5), (C, 5)] {
        fed.ballot_after(1, member, ready(), Tid(after));
    }
    fed.later(20);
    assert!(fed.said().contains("vote failed"));
}

#[test]
fn what_an_operator_has_to_say_before_a_start_is_told_and_helps() {
    let record = Fed::serving_from(&["a", "b"], coop(FailMode::Close)).record;
    let mut record = record.expect("a start is recorded");
    let standing = crate::raid::record::Standing::Out {
        reason: "its recovery was cancelled by an operator".into(),
        since: record.time,
        needs_operator: true,
        is_wrong: false,
        unacknowledged_tail: false,
        damaged: false,
    };
    record.members.insert("b".into(), standing);

    let mut fed = Fed::of(&["a", "b"], coop(FailMode::Close), Some(record.clone()));
    fed.open(A, Tid(5));
    fed.later(10);
    let Serving::Starting { waits_for } = &fed.controller.serving else {
        panic!("{:?}", fed.controller.serving);
    };
    assert!(
        waits_for.contains("b (its recovery was cancelled") && waits_for.contains("`recover` one"),
        "{waits_for}"
    );
    // Once the operator says so it is compared, and made level afterwards.
    let refused = fed.recover("b", Strategy::Rebuild);
    assert!(matches!(refused, Err(Refused::NotServing { .. })));
    fed.recover("b", Strategy::Missing).unwrap();
    fed.open(B, Tid(4));
    fed.later(10);
    let found = vec![(A, Compared::Level), (B, Compared::Behind)];
    fed.feed(Event::Assembled { found, head: None }).ok();
    fed.recorded();
    assert!(fed.said().ends_with("recovery"));
    // What is known to be damaged, or to differ, is what a start by force may go on without.
    for differs in [false, true] {
        let mut record = record.clone();
        if let Some(crate::raid::record::Standing::Out {
            is_wrong, damaged, ..
        }) = record.members.get_mut("b")
        {
            (*is_wrong, *damaged) = (differs, !differs);
        }
        let mut fed = Fed::of(&["a", "b"], coop(FailMode::Close), Some(record));
        fed.open(A, Tid(5));
        fed.later(10);
        let refused = fed.recover("b", Strategy::Missing);
        let Err(Refused::NotServing { reason }) = refused else {
            panic!("{refused:?}");
        };
        assert!(reason.contains("start --force"), "{reason}");
    }
    let forced = Rules {
        force: true,
        ..coop(FailMode::Close)
    };
    let mut fed = Fed::of(&["a", "b"], forced, Some(record));
    fed.open(A, Tid(5));
    fed.later(10);
    let found = vec![(A, Compared::Level)];
    fed.feed(Event::Assembled { found, head: None }).ok();
    fed.recorded();
    fed.recover("b", Strategy::Missing).unwrap();
}
