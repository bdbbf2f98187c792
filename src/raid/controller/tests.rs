//! The controller, fed event by event. States are reached only by legal steps.

use super::*;
use crate::raid::{ArrayState, ClusterMode, FailMode, StartPolicy};
use crate::storage::Answer;
use crate::zodb::Conflict;

/// Something that happens.
type Happens = fn(&mut Fed);

const A: MemberId = MemberId(0);
const B: MemberId = MemberId(1);
const C: MemberId = MemberId(2);

struct Fed {
    controller: Controller,
    now: Now,
    generation: u64,
    /// What was decided since the last look, in a few words.
    said: Vec<String>,
    notices: Vec<String>,
    /// The last record that was to be kept.
    record: Option<Membership>,
}

fn configured(name: &str) -> Configured {
    Configured {
        name: name.to_owned(),
        fingerprint: String::new(),
        description: Description {
            kind: "test",
            location: name.to_owned(),
        },
    }
}

fn rules() -> Rules {
    Rules {
        array: "main".into(),
        cluster_mode: ClusterMode::Single,
        start_policy: StartPolicy::InSync,
        force: false,
        min_optimal: 1,
        fail_mode: FailMode::Close,
        transaction_timeout: Duration::from_secs(10),
        catch_up_limit: Duration::from_secs(2),
        level_limit: Duration::from_secs(10),
        auto_recover: false,
        start_grace: Duration::from_secs(3),
    }
}

fn closed() -> Fault {
    Fault::Closed("test".into())
}

impl Fed {
    fn new(rules: Rules, recorded: Option<Membership>) -> Fed {
        Fed::of(&["a", "b", "c"], rules, recorded)
    }

    fn of(names: &[&str], rules: Rules, recorded: Option<Membership>) -> Fed {
        let now = Now {
            monotonic: Instant::now(),
            wall: Timestamp::UNIX_EPOCH,
        };
        let members = names.iter().copied().map(configured).collect();
        let mut controller = Controller::new(rules, members, recorded, now);
        controller.take_effects();
        Fed {
            controller,
            now,
            generation: 0,
            said: Vec::new(),
            notices: Vec::new(),
            record: None,
        }
    }

    /// All members are open and level, and the record says so.
    fn serving() -> Fed {
        Fed::serving_from(&["a", "b", "c"], rules())
    }

    fn serving_from(names: &[&str], rules: Rules) -> Fed {
        let mut fed = Fed::of(names, rules, None);
        let members: Vec<_> = fed.controller.members.keys().copied().collect();
        for member in &members {
            fed.open(*member, Tid(5));
        }
        let level = |member| (member, Compared::Level);
        let found = members.into_iter().map(level).collect();
        fed.feed(Event::Assembled { found, head: None }).ok();
        assert_ne!(
            fed.controller.serving,
            Serving::Yes,
            "not before the record"
        );
        fed.recorded();
        assert_eq!(fed.controller.serving, Serving::Yes);
        fed.said.clear();
        fed
    }

    fn feed(&mut self, event: Event) -> Asked {
        let (asked, effects) = self.controller.apply(self.now, event);
        for effect in effects {
            if let Some(said) = self.in_words(effect) {
                self.said.push(said);
            }
        }
        asked
    }

    fn in_words(&mut self, effect: Effect) -> Option<String> {
        let said = match effect {
            Effect::Record(record) => {
                self.record = Some(record);
                return None;
            }
            Effect::Vote { member, .. } => format!("vote {}", member.0),
            Effect::Finish { member, .. } => format!("finish {}", member.0),
            Effect::Abort { .. } => "abort".into(),
            Effect::VoteReply { reply, .. } => match reply {
                VoteReply::Ready { .. } => "voted".into(),
                VoteReply::Conflicts(_) => "conflicts".into(),
                VoteReply::No(_) => "no".into(),
                VoteReply::Fault(_) => "vote failed".into(),
            },
            Effect::FinishReply { reply: Ok(_), .. } => "finished".into(),
            Effect::FinishReply { reply: Err(_), .. } => "finish failed".into(),
            Effect::CatchUpGranted { .. } => "granted".into(),
            Effect::CatchUpRefused { .. } => "refused".into(),
            Effect::Joined { .. } => "joined".into(),
            Effect::StartRecovery { .. } => "recovery".into(),
            Effect::CancelRecovery => "cancel".into(),
            Effect::Level {
                source, targets, ..
            } => {
                let targets = targets.iter().map(|target| target.0.to_string());
                format!("level {} from {}", targets.collect::<String>(), source.0)
            }
            Effect::Notice(notice) => {
                self.notices.push(notice.to_string());
                notice.kind().into()
            }
            _ => return None,
        };
        Some(said)
    }

    /// What was decided since the last look.
    fn said(&mut self) -> String {
        std::mem::take(&mut self.said).join(", ")
    }

    fn open(&mut self, member: MemberId, last_tid: Tid) {
        self.generation += 1;
        self.feed(Event::MemberOpened {
            member,
            generation: Generation(self.generation),
            last_tid,
            pipelined: true,
        })
        .ok();
    }

    fn lose(&mut self, member: MemberId) {
        let generation = self.controller.members[&member].generation();
        self.feed(Event::MemberLost {
            member,
            generation: generation.expect("it is open"),
            fault: closed(),
        })
        .ok();
    }

    fn recorded(&mut self) {
        let epoch = self.controller.epoch;
        self.feed(Event::Recorded { epoch }).ok();
    }

    fn record_fails(&mut self) {
        let (epoch, reason) = (self.controller.epoch, "test".to_owned());
        self.feed(Event::RecordFailed { epoch, reason }).ok();
    }

    fn later(&mut self, seconds: u64) {
        self.now.monotonic += Duration::from_secs(seconds);
        self.feed(Event::Tick).ok();
    }

    fn vote(&mut self, commit: u64) {
        self.feed(Event::VoteAsked {
            commit: CommitId(commit),
            wanted: None,
            bytes: 100,
        })
        .ok();
    }

    fn ballot(&mut self, commit: u64, member: MemberId, ballot: Ballot) {
        let commit = CommitId(commit);
        self.feed(Event::MemberVoted {
            commit,
            member,
            ballot,
            after: None,
        })
        .ok();
    }

    fn all_vote(&mut self, commit: u64, ballot: &Ballot) {
        self.vote(commit);
        for member in [A, B, C] {
            self.ballot(commit, member, ballot.clone());
        }
    }

    fn finish(&mut self, commit: u64) {
        let commit = CommitId(commit);
        self.feed(Event::FinishAsked { commit }).ok();
    }

    fn finished(&mut self, commit: u64, member: MemberId) {
        let commit = CommitId(commit);
        self.feed(Event::MemberFinished { commit, member }).ok();
    }

    /// With commit 1 in this state.
    fn at(state: &str) -> Fed {
        let mut fed = Fed::serving();
        match state {
            "queued" => {
                fed.vote(9);
                fed.vote(1);
            }
            "voting" => fed.vote(1),
            "resolving" => fed.all_vote(1, &Ballot::Conflicts(vec![conflict()])),
            "voted" => fed.all_vote(1, &ready()),
            "awaits record" => {
                fed.all_vote(1, &ready());
                fed.lose(C);
                fed.finish(1);
            }
            "finishing" => {
                fed.all_vote(1, &ready());
                fed.finish(1);
                fed.finished(1, A);
            }
            "awaits ack" => {
                fed.all_vote(1, &ready());
                fed.finish(1);
                fed.finished(1, A);
                fed.finished(1, B);
                fed.lose(C);
            }
            _ => panic!("no state {state}"),
        }
        fed.said.clear();
        fed
    }

    /// A recovery of c holds the lock and is level, but for the record.
    fn joining() -> Fed {
        let mut fed = Fed::serving();
        fed.feed(Event::DisableAsked { member: "c".into() })
            .unwrap();
        fed.recorded();
        fed.feed(Event::RecoverAsked {
            member: "c".into(),
            strategy: Strategy::Missing,
            rate: None,
        })
        .unwrap();
        fed.open(C, Tid(5));
        let commit = CommitId(7);
        fed.feed(Event::CatchUpAsked { commit }).unwrap();
        fed.feed(Event::TargetLevel {
            commit,
            member: C,
            last_tid: Tid(5),
            packed: Tid::ZERO,
        })
        .unwrap();
        assert!(fed.controller.members[&C].is_in_sync());
        fed.said.clear();
        fed
    }

    fn in_sync(&self) -> Vec<&str> {
        let in_sync = self.controller.in_sync();
        in_sync.map(|(_, member)| member.name.as_str()).collect()
    }

    fn readable(&self) -> Vec<u32> {
        self.controller.readable().map(|(id, _)| id.0).collect()
    }
}

fn ready() -> Ballot {
    Ballot::Ready {
        resolved: Vec::new(),
    }
}

fn no(text: &str) -> Ballot {
    Ballot::No(Answer::Invalid(text.into()))
}

fn conflict() -> Conflict {
    Conflict::new(Oid(1), Tid(5), Tid(4))
}

#[test]
fn ballots_are_counted() {
    let conflicts = || Ballot::Conflicts(vec![conflict()]);
    let undone = || Ballot::Ready {
        resolved: vec![Oid(1)],
    };
    let packed = || {
        Ballot::No(Answer::Undo {
            reason: "non-undoable transaction".into(),
            oid: None,
        })
    };
    let table: [([Ballot; 3], &str, usize); 10] = [
        ([ready(), ready(), ready()], "voted", 3),
        ([no("x"), no("x"), no("x")], "abort, no", 3),
        (
            [conflicts(), conflicts(), conflicts()],
            "abort, conflicts",
            3,
        ),
        (
            [ready(), no("x"), ready()],
            "disagreement, voted, member-degraded",
            2,
        ),
        (
            [no("x"), ready(), no("x")],
            "disagreement, abort, no, member-degraded",
            2,
        ),
        (
            [conflicts(), ready(), conflicts()],
            "disagreement, abort, conflicts, member-degraded",
            2,
        ),
        // Nobody has a majority: nothing is done, and nobody is taken out.
        (
            [ready(), no("x"), Ballot::No(Answer::ReadOnly)],
            "disagreement, abort, no",
            3,
        ),
        // Some have packed what others can still undo.
        ([packed(), undone(), undone()], "abort, no", 3),
        ([packed(), undone(), packed()], "abort, no", 3),
        ([packed(), undone(), no("x")], "disagreement, abort, no", 3),
    ];
    for (ballots, expected, in_sync) in table {
        let mut fed = Fed::serving();
        fed.vote(1);
        fed.said.clear();
        for (member, ballot) in [A, B, C].into_iter().zip(ballots.clone()) {
            fed.ballot(1, member, ballot);
        }
        assert_eq!(fed.said(), expected, "{ballots:?}");
        assert_eq!(fed.controller.in_sync_count(), in_sync, "{ballots:?}");
    }
}

#[test]
fn in_a_line_of_voters_the_rest_is_asked_while_it_can_change_the_outcome() {
    let check = |ballots: &[Ballot], expected: &str, in_sync: usize| {
        let rules = Rules {
            cluster_mode: ClusterMode::Coop,
            ..rules()
        };
        let mut fed = Fed::serving_from(&["a", "b", "c", "d", "e"], rules);
        fed.vote(1);
        for (member, ballot) in (0..).map(MemberId).zip(ballots) {
            assert_eq!(fed.said(), format!("vote {}", member.0), "{ballots:?}");
            fed.ballot(1, member, ballot.clone());
        }
        assert_eq!(fed.said(), expected, "{ballots:?}");
        assert_eq!(fed.controller.in_sync_count(), in_sync, "{ballots:?}");
    };
    let (yes, no) = (ready, || no("x"));
    check(
        &[yes(), no(), no(), yes(), yes()],
        "disagreement, voted, member-degraded, member-degraded",
        3,
    );
    // Three of five are enough.
    check(
        &[yes(), no(), no(), no()],
        "disagreement, abort, no, member-degraded",
        4,
    );
    check(&[no(), no(), no()], "abort, no", 5);
}

#[test]
fn whatever_happens_in_whatever_state_the_client_is_answered() {
    let lose_one: Happens = |fed| fed.lose(B);
    let lose_all: Happens = |fed| {
        for member in [C, B, A] {
            if fed.controller.members[&member].is_open() {
                fed.lose(member);
            }
        }
        // What else is said is not this table's.
        fed.said
            .retain(|said| !said.contains("degraded") && !said.contains("not-serving"));
    };
    let gone: Happens = |fed| {
        drop(fed.feed(Event::Gone {
            commit: CommitId(1),
        }));
    };
    let record_fails: Happens = Fed::record_fails;
    let late: Happens = |fed| fed.later(11);
    let stop: Happens = |fed| drop(fed.feed(Event::StopAsked));
    let table: [(&str, &str, Happens, &str); 42] = [
        ("queued", "gone", gone, "abort"),
        ("queued", "one lost", lose_one, "member-degraded"),
        (
            "queued",
            "all lost",
            lose_all,
            "abort, vote failed, abort, vote failed",
        ),
        ("queued", "record fails", record_fails, "record-failed"),
        ("queued", "late", late, ""),
        ("queued", "stop", stop, "vote failed"),
        ("voting", "gone", gone, "abort"),
        ("voting", "one lost", lose_one, "member-degraded"),
        ("voting", "all lost", lose_all, "abort, vote failed"),
        ("voting", "record fails", record_fails, "record-failed"),
        // Members answer in time, or are lost: that is the runner's.
        ("voting", "late", late, ""),
        ("voting", "stop", stop, ""),
        ("resolving", "gone", gone, "abort"),
        ("resolving", "one lost", lose_one, "member-degraded"),
        ("resolving", "all lost", lose_all, "abort"),
        ("resolving", "record fails", record_fails, "record-failed"),
        ("resolving", "late", late, "transaction-timed-out, abort"),
        ("resolving", "stop", stop, ""),
        ("voted", "gone", gone, "abort"),
        ("voted", "one lost", lose_one, "member-degraded"),
        ("voted", "all lost", lose_all, "abort"),
        ("voted", "record fails", record_fails, "record-failed"),
        ("voted", "late", late, "transaction-timed-out, abort"),
        ("voted", "stop", stop, ""),
        ("awaits record", "gone", gone, "abort"),
        ("awaits record", "one lost", lose_one, "member-degraded"),
        (
            "awaits record",
            "all lost",
            lose_all,
            "abort, finish failed",
        ),
        (
            "awaits record",
            "record fails",
            record_fails,
            "record-failed, abort, finish failed",
        ),
        (
            "awaits record",
            "late",
            late,
            "transaction-timed-out, abort, finish failed",
        ),
        ("awaits record", "stop", stop, ""),
        // It is finished whether or not its client is there to hear of it.
        ("finishing", "gone", gone, ""),
        ("finishing", "one lost", lose_one, "member-degraded"),
        ("finishing", "all lost", lose_all, "finish failed"),
        ("finishing", "record fails", record_fails, "record-failed"),
        ("finishing", "late", late, ""),
        ("finishing", "stop", stop, ""),
        ("awaits ack", "gone", gone, ""),
        ("awaits ack", "one lost", lose_one, "member-degraded"),
        ("awaits ack", "all lost", lose_all, "finish failed"),
        ("awaits ack", "record fails", record_fails, "record-failed"),
        ("awaits ack", "late", late, "finish failed"),
        ("awaits ack", "stop", stop, ""),
    ];
    for (state, what, event, expected) in table {
        let mut fed = Fed::at(state);
        event(&mut fed);
        assert_eq!(fed.said(), expected, "{state}: {what}");
    }
}

#[test]
fn the_record_of_a_loss_is_durable_before_members_are_asked_to_finish() {
    let mut fed = Fed::at("awaits record");
    assert_eq!(fed.said(), "");
    fed.recorded();
    assert_eq!(fed.said(), "finish 0, finish 1");
}

#[test]
fn the_record_of_a_loss_is_durable_before_the_transaction_is_acknowledged() {
    let mut fed = Fed::at("awaits ack");
    let head = fed.controller.head;
    fed.later(1);
    assert_eq!((fed.said(), fed.controller.head), (String::new(), head));
    fed.recorded();
    assert_eq!(fed.said(), "finished");
    assert!(fed.controller.head > head);
    let Some(Out {
        unacknowledged_tail,
        ..
    }) = fed.controller.members[&C].out()
    else {
        panic!("c is out")
    };
    assert!(unacknowledged_tail, "it may hold the transaction or not");
}

#[test]
fn what_only_a_lost_member_has_finished_is_not_acknowledged() {
    let mut fed = Fed::at("finishing");
    let head = fed.controller.head;
    fed.lose(A);
    fed.lose(B);
    fed.recorded();
    // c, the last one, fails before it has finished; a has, and is lost.
    fed.lose(C);
    assert!(fed.said().contains("finish failed"));
    fed.recorded();
    assert_eq!(fed.controller.head, head);
    assert_eq!(fed.said(), "");
}

#[test]
fn a_transaction_told_as_unknown_is_told_once_and_may_come_true() {
    let mut fed = Fed::at("awaits ack");
    let head = fed.controller.head;
    fed.later(11);
    assert_eq!(fed.said(), "finish failed");
    fed.later(11);
    fed.recorded();
    assert_eq!(fed.said(), "");
    assert!(fed.controller.head > head);
    assert!(fed.controller.is_idle());
}

#[test]
fn all_in_line_behind_a_record_that_cannot_be_written_are_answered() {
    let mut fed = Fed::at("finishing");
    fed.all_vote(2, &ready());
    fed.finish(2);
    for commit in [1, 2] {
        fed.finished(commit, A);
        fed.finished(commit, B);
    }
    fed.said.clear();
    fed.lose(C);
    fed.later(11);
    assert_eq!(fed.said(), "member-degraded, finish failed, finish failed");
    fed.recorded();
    assert!(fed.controller.is_idle());
}

#[test]
fn a_client_does_not_keep_the_lock_by_voting_again_and_again() {
    let mut fed = Fed::at("resolving");
    for _ in 0..3 {
        fed.later(3);
        fed.all_vote(1, &Ballot::Conflicts(vec![conflict()]));
    }
    fed.said.clear();
    fed.later(2);
    assert_eq!(fed.said(), "transaction-timed-out, abort");
}

#[test]
fn a_target_is_read_and_counted_upon_only_when_the_record_lets_it_in() {
    let mut fed = Fed::joining();
    assert_eq!(fed.readable(), [0, 1]);
    fed.recorded();
    assert_eq!(fed.said(), "member-optimal, joined");
    assert_eq!(fed.readable(), [0, 1, 2]);
}

#[test]
fn a_target_counts_once_the_record_lets_it_in() {
    let mut fed = Fed::joining();
    fed.controller.rules.min_optimal = 3;
    assert_eq!(fed.controller.state(), ArrayState::Failed);
    // Whatever makes the array look at it.
    fed.feed(Event::Recorded { epoch: 1 }).ok();
    assert!(!fed.controller.serving.can_read());
    fed.recorded();
    assert_eq!(fed.controller.serving, Serving::Yes);
    assert_eq!(fed.controller.state(), ArrayState::Optimal);
}

#[test]
fn a_target_that_cannot_join_leaves_everything_as_it_was() {
    let events: [(&str, Happens, &str); 4] = [
        ("lost", |fed| fed.lose(C), "refused, cancel"),
        (
            "disabled",
            |fed| drop(fed.feed(Event::DisableAsked { member: "c".into() })),
            "refused, cancel",
        ),
        ("record fails", Fed::record_fails, "record-failed, refused"),
        ("record hangs", |fed| fed.later(5), "refused"),
    ];
    for (what, event, expected) in events {
        let mut fed = Fed::joining();
        event(&mut fed);
        assert_eq!(fed.said(), expected, "{what}");
        assert_eq!(fed.readable(), [0, 1], "{what}");
        // Nobody holds the lock any more.
        fed.vote(1);
        assert_eq!(fed.said(), "vote 0, vote 1", "{what}");
        fed.recorded();
        assert!(!fed.said().contains("optimal"), "{what}");
    }
}

#[test]
fn a_target_is_never_all_that_remains() {
    let mut fed = Fed::joining();
    fed.lose(A);
    assert_eq!(fed.said(), "member-degraded");
    fed.lose(B);
    assert!(fed.said().starts_with("refused, not-serving"));
    let in_sync: Vec<_> = fed.controller.in_sync().map(|(id, _)| id).collect();
    assert_eq!(in_sync, [B], "it starts anew from b");
    fed.record_fails();
    fed.recorded();
}

#[test]
fn force_is_for_one_start() {
    let mut fed = Fed::new(
        Rules {
            force: true,
            ..rules()
        },
        None,
    );
    fed.open(A, Tid(5));
    for member in [B, C] {
        let fault = closed();
        fed.feed(Event::OpenFailed { member, fault }).ok();
    }
    let found = vec![(A, Compared::Level)];
    fed.feed(Event::Assembled { found, head: None }).ok();
    fed.recorded();
    assert_eq!(fed.controller.serving, Serving::Yes);
    fed.open(B, Tid(3));
    fed.said.clear();
    fed.lose(A);
    fed.later(60);
    assert_ne!(
        fed.controller.phase,
        Phase::Assembling,
        "not from b, which is behind"
    );
}

#[test]
fn a_start_is_over_when_it_is_recorded_although_more_has_changed_since() {
    let mut fed = Fed::new(rules(), None);
    for member in [A, B, C] {
        fed.open(member, Tid(5));
    }
    let found = [A, B, C].map(|member| (member, Compared::Level)).to_vec();
    fed.feed(Event::Assembled { found, head: None }).ok();
    let epoch = fed.controller.epoch;
    fed.lose(C);
    assert!(!fed.controller.serving.can_read());
    assert_eq!(fed.controller.state(), ArrayState::Failed);
    fed.feed(Event::Recorded { epoch }).ok();
    assert_eq!(fed.controller.serving, Serving::Yes);
    assert_eq!(fed.controller.state(), ArrayState::Degraded);
}

#[test]
fn what_a_start_by_force_has_lost_is_not_missed_by_the_next() {
    for in_sync in [&["a", "b"][..], &["a"]] {
        let record = Fed::serving_from(in_sync, rules()).record;
        let mut record = record.expect("a start is recorded");
        record.head = Tid(9);
        let forced = Rules {
            force: true,
            ..rules()
        };
        let mut fed = Fed::of(in_sync, forced, Some(record));
        fed.open(A, Tid(5));
        if in_sync.len() > 1 {
            let (member, fault) = (B, closed());
            fed.feed(Event::OpenFailed { member, fault }).ok();
        }
        fed.later(10);
        let found = vec![(A, Compared::Level)];
        fed.feed(Event::Assembled { found, head: None }).ok();
        fed.recorded();
        assert_eq!(fed.controller.serving, Serving::Yes, "{in_sync:?}");
        let record = fed.record.expect("it is recorded");
        assert_eq!(record.head, Tid(5), "{in_sync:?}");
    }
}

#[test]
fn before_the_first_start_no_record_is_written() {
    let mut fed = Fed::new(rules(), None);
    let members = ["a", "b"].map(configured).to_vec();
    let dry_run = false;
    fed.feed(Event::MembersAsked { members, dry_run }).unwrap();
    let refused = fed.feed(Event::DisableAsked { member: "a".into() });
    assert!(matches!(refused, Err(Refused::NotServing { .. })));
    fed.later(1);
    assert_eq!(fed.record, None);
}

#[test]
fn a_removed_member_is_out_of_the_record_before_anything_is_acknowledged_without_it() {
    let mut fed = Fed::at("finishing");
    fed.finished(1, B);
    let members = ["a", "b"].map(configured).to_vec();
    let dry_run = false;
    fed.feed(Event::MembersAsked { members, dry_run }).unwrap();
    assert_eq!(fed.said(), "member-removed");
    fed.recorded();
    assert_eq!(fed.said(), "finished");
}

#[test]
fn a_damaged_member_that_is_removed_and_put_back_is_still_damaged() {
    let mut fed = Fed::serving();
    let generation = fed.controller.members[&C].generation().expect("it is open");
    let fault = Fault::Damaged("a hole".into());
    fed.feed(Event::MemberLost {
        member: C,
        generation,
        fault,
    })
    .ok();
    for names in [&["a", "b"][..], &["a", "b", "c"]] {
        let members = names.iter().map(|name| configured(name)).collect();
        let dry_run = false;
        fed.feed(Event::MembersAsked { members, dry_run }).unwrap();
        fed.recorded();
    }
    let (id, member) = fed.controller.members.last_key_value().expect("three");
    assert_ne!(*id, C);
    assert!(member.out().expect("it is not recovered").damaged);
}

#[test]
fn an_array_that_stops_does_not_start_again() {
    let mut fed = Fed::at("finishing");
    fed.feed(Event::StopAsked).unwrap();
    for member in [A, B, C] {
        fed.lose(member);
    }
    assert_eq!(fed.controller.phase, Phase::Stopping);
    assert!(fed.said().contains("finish failed"));
    let commits = &fed.controller.commits;
    assert!(commits.is_empty(), "{commits:?}");
}

#[test]
fn a_record_that_cannot_be_written_is_said_once_and_written_again() {
    let mut fed = Fed::at("voted");
    fed.lose(C);
    fed.said.clear();
    for _ in 0..5 {
        fed.record = None;
        fed.record_fails();
        fed.later(1);
        assert!(fed.record.is_some());
    }
    assert_eq!(fed.said(), "record-failed");
}

#[test]
fn members_disabled_while_the_start_compares_them_stay_out() {
    let mut fed = Fed::serving();
    for member in [B, C] {
        fed.lose(member);
    }
    let recorded = fed.record.clone();
    let mut fed = Fed::new(
        Rules {
            start_policy: StartPolicy::Newest,
            ..rules()
        },
        recorded,
    );
    for member in [A, B, C] {
        fed.open(member, Tid(5));
    }
    assert_eq!(fed.controller.phase, Phase::Assembling);
    fed.feed(Event::DisableAsked { member: "b".into() })
        .unwrap();
    let found = [A, B, C].map(|member| (member, Compared::Level)).to_vec();
    fed.feed(Event::Assembled { found, head: None }).ok();
    fed.recorded();
    assert_eq!(fed.readable(), [0, 2]);
}

#[test]
fn what_is_waited_for_says_whom_and_why() {
    let mut fed = Fed::new(rules(), None);
    fed.open(A, Tid(5));
    let fault = Fault::Unreachable("no route to host".into());
    fed.feed(Event::OpenFailed { member: B, fault }).ok();
    let Serving::Starting { waits_for } = &fed.controller.serving else {
        panic!("{:?}", fed.controller.serving)
    };
    assert_eq!(waits_for, "b (no route to host), c (being opened)");
    let lacks = fed.controller.start_lacks().unwrap();
    assert_eq!((lacks.open, lacks.needed, lacks.all), (1, 3, 3));
    assert_eq!(lacks.whom(), "b and c");
    for member in [B, C] {
        fed.open(member, Tid(5));
    }
    let Serving::Starting { waits_for } = &fed.controller.serving else {
        panic!("{:?}", fed.controller.serving)
    };
    assert_eq!(waits_for, "the comparison of the members");
    assert_eq!(fed.controller.start_lacks(), None);
}

#[test]
fn what_a_start_lacks_is_as_many_as_its_policy_wants() {
    let lacks = |start_policy, recorded: Option<Membership>, open: &[MemberId]| {
        let rules = Rules {
            start_policy,
            ..rules()
        };
        let mut fed = Fed::new(rules, recorded);
        for member in open {
            fed.open(*member, Tid(5));
        }
        let lacks = fed.controller.start_lacks();
        lacks.map(|lacks| (lacks.whom(), lacks.needed, lacks.by_record))
    };
    let told = |whom: &str, needed, by_record| Some((whom.to_owned(), needed, by_record));
    assert_eq!(
        lacks(StartPolicy::Majority, None, &[]),
        told("2 of a, b, c", 2, false)
    );
    assert_eq!(
        lacks(StartPolicy::Majority, None, &[A]),
        told("b or c", 2, false)
    );
    assert_eq!(lacks(StartPolicy::Majority, None, &[A, C]), None);
    assert_eq!(
        lacks(StartPolicy::Newest, None, &[]),
        told("a or b or c", 1, false)
    );
    // Only who held everything helps.
    let mut fed = Fed::serving();
    fed.lose(B);
    let record = fed.record.clone();
    assert_eq!(
        lacks(StartPolicy::InSync, record.clone(), &[B]),
        told("a or c", 1, true)
    );
    assert_eq!(lacks(StartPolicy::InSync, record, &[C]), None);
}

/// Only b is there, and is level with itself.
fn start_from_b(start_policy: StartPolicy, recorded: Option<Membership>) -> Fed {
    let rules = Rules {
        start_policy,
        ..rules()
    };
    let mut fed = Fed::new(rules, recorded);
    fed.open(B, Tid(5));
    for member in [A, C] {
        let fault = closed();
        fed.feed(Event::OpenFailed { member, fault }).ok();
    }
    let found = vec![(B, Compared::Level)];
    fed.feed(Event::Assembled { found, head: None }).ok();
    fed
}

#[test]
fn a_start_without_everybody_warns_unless_the_record_says_who_holds_everything() {
    let mut fed = start_from_b(StartPolicy::Newest, None);
    assert!(fed.said().starts_with("member-opened, started-without"));

    let all_in_sync = Fed::serving().record;
    let mut fed = start_from_b(StartPolicy::Newest, all_in_sync);
    let said = fed.said();
    assert_eq!(said, "member-opened, member-degraded, member-degraded");

    let mut without_b = Fed::serving();
    without_b.lose(B);
    let mut fed = start_from_b(StartPolicy::Newest, without_b.record);
    assert!(fed.said().contains("started-without"));

    let mut fed = start_from_b(StartPolicy::InSync, Fed::serving().record);
    assert!(!fed.said().contains("started-without"));

    // Who held everything and is not configured any more is away, too.
    let record = Fed::serving_from(&["d", "e"], rules()).record;
    let mut fed = start_from_b(StartPolicy::Newest, record);
    let all = "started by the policy `newest` without a, c, d, e";
    assert!(
        fed.notices.iter().any(|text| text.starts_with(all)),
        "{:?}",
        fed.notices
    );
    assert!(fed.said().contains("started-without"));
}

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
}

impl Fed {
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
    let asked = Event::RecoverAsked {
        member: "b".into(),
        strategy: Strategy::Missing,
        rate: None,
    };
    fed.feed(asked).unwrap();
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
    let asked = Event::RecoverAsked {
        member: "b".into(),
        strategy: Strategy::Missing,
        rate: None,
    };
    fed.feed(asked).unwrap();
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
fn the_head_is_recorded_also_while_members_stay_as_they_are() {
    let mut fed = Fed::serving();
    let recorded = |fed: &Fed| {
        fed.record
            .as_ref()
            .map(|record| (record.epoch, record.head))
    };
    let (epoch, before) = recorded(&fed).expect("a start is recorded");
    fed.all_vote(1, &ready());
    fed.finish(1);
    for member in [A, B, C] {
        fed.finished(1, member);
    }
    let head = fed.controller.head;
    assert!(head > before);
    fed.later(0);
    fed.later(59);
    assert_eq!(recorded(&fed), Some((epoch, before)), "not at each commit");
    fed.later(1);
    assert_eq!(recorded(&fed), Some((epoch, head)));
    fed.record = None;
    fed.later(600);
    assert_eq!(recorded(&fed), None, "nothing has changed");
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
    let recover = |fed: &mut Fed, strategy| {
        let member = "b".to_owned();
        fed.feed(Event::RecoverAsked {
            member,
            strategy,
            rate: None,
        })
    };
    let refused = recover(&mut fed, Strategy::Rebuild);
    assert!(matches!(refused, Err(Refused::NotServing { .. })));
    recover(&mut fed, Strategy::Missing).unwrap();
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
        let refused = recover(&mut fed, Strategy::Missing);
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
    let (member, strategy) = ("b".to_owned(), Strategy::Missing);
    fed.feed(Event::RecoverAsked {
        member,
        strategy,
        rate: None,
    })
    .unwrap();
}

#[test]
fn what_is_known_to_differ_stays_so_whoever_takes_it_out_besides() {
    let mut fed = Fed::serving();
    fed.controller
        .lose(C, Out::wrong("voted otherwise"), fed.now);
    let disabled = fed.feed(Event::DisableAsked { member: "c".into() });
    disabled.unwrap();
    let member = &fed.controller.members[&C];
    let out = member.out().expect("it is out");
    assert_eq!(out.reason, "disabled by an operator");
    assert!(out.is_wrong && !member.may_be_compared_if_asked());
}

#[test]
fn who_is_waited_for_may_be_added_to_the_configuration() {
    let record = Fed::serving_from(&["a", "b"], rules()).record;
    let mut fed = Fed::of(&["c"], rules(), record);
    fed.open(A, Tid(5));
    fed.later(10);
    assert!(
        matches!(&fed.controller.serving, Serving::Starting { waits_for } if waits_for.contains("a, b"))
    );
    let members = ["a", "c"].map(configured).to_vec();
    let dry_run = false;
    fed.feed(Event::MembersAsked { members, dry_run }).unwrap();
    let added = MemberId(1);
    assert!(fed.controller.is_in_sync(added), "the record says so");
    fed.open(added, Tid(5));
    fed.later(10);
    let found = vec![(added, Compared::Level)];
    fed.feed(Event::Assembled { found, head: None }).ok();
    fed.recorded();
    assert_eq!(fed.controller.serving, Serving::Yes);
}
