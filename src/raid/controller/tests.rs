//! The controller, fed event by event. States are reached only by legal steps.

mod coop;

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
        adopted: false,
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

    fn recover(&mut self, member: &str, strategy: Strategy) -> Asked {
        self.feed(Event::RecoverAsked {
            member: member.into(),
            strategy,
            rate: None,
        })
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
        fed.recover("c", Strategy::Missing).unwrap();
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
        assert!(
            fed.notices.iter().any(|it| it.contains("was acknowledged")),
            "{:?}",
            fed.notices
        );
        if in_sync.len() > 1 {
            // It may hold the rest: nobody cuts that without an operator's word.
            let out = fed.controller.members[&B].out().expect("it is out");
            assert!(!out.unacknowledged_tail);
        }
        let record = fed.record.expect("it is recorded");
        assert_eq!(record.head, Tid(5), "{in_sync:?}");
    }
}

#[test]
fn by_force_no_empty_copy_is_served_while_others_were_never_looked_at() {
    let forced = Rules {
        force: true,
        ..rules()
    };
    let mut fed = Fed::of(&["a", "b"], forced, None);
    fed.open(A, Tid::ZERO);
    let (member, fault) = (B, closed());
    fed.feed(Event::OpenFailed { member, fault }).ok();
    fed.later(10);
    let level = vec![(A, Compared::Level)];
    let (found, head) = (level, Some(Tid::ZERO));
    fed.feed(Event::Assembled { found, head }).ok();
    fed.recorded();
    let Serving::Starting { waits_for } = &fed.controller.serving else {
        panic!("{:?}", fed.controller.serving);
    };
    assert!(
        waits_for.contains("b: what is open is empty"),
        "{waits_for}"
    );
    // Once it is there it is what the array goes on from.
    fed.open(B, Tid(5));
    fed.later(10);
    let found = vec![(B, Compared::Level), (A, Compared::Behind)];
    fed.feed(Event::Assembled { found, head: None }).ok();
    fed.recorded();
    assert_eq!(fed.controller.serving, Serving::Yes);
    assert_eq!(fed.controller.head, Tid(5));
}

#[test]
fn whoever_is_to_be_compared_as_a_whole_does_not_come_back_without() {
    for strategy in [Strategy::Verify, Strategy::Rebuild] {
        let mut fed = Fed::serving_from(
            &["a", "b", "c"],
            Rules {
                auto_recover: true,
                ..rules()
            },
        );
        fed.feed(Event::DisableAsked { member: "c".into() })
            .unwrap();
        fed.recorded();
        fed.recover("c", strategy).unwrap();
        fed.open(C, Tid(5));
        // The daemon ends while it compares.
        let (member, ended) = (C, Ended::Cancelled);
        fed.feed(Event::StopAsked).ok();
        fed.feed(Event::RecoveryEnded { member, ended }).ok();
        let record = fed.record.expect("it is recorded");
        assert!(
            matches!(
                record.members["c"],
                crate::raid::record::Standing::Out {
                    needs_operator: false,
                    damaged: true,
                    ..
                }
            ),
            "{record:?}"
        );
    }
}

#[test]
fn a_member_is_out_since_it_went_out() {
    let mut fed = Fed::serving();
    let later = |fed: &mut Fed, seconds: u64| {
        fed.now.wall += Duration::from_secs(seconds);
        fed.later(seconds);
    };
    later(&mut fed, 10);
    fed.feed(Event::DisableAsked { member: "c".into() })
        .unwrap();
    fed.recorded();
    let since = fed.now.wall;
    for _ in 0..2 {
        later(&mut fed, 10);
        fed.recover("c", Strategy::Missing).unwrap();
        fed.open(C, Tid(5));
        later(&mut fed, 10);
        let reason = "test".to_owned();
        let (member, ended) = (C, Ended::Failed { reason });
        fed.feed(Event::RecoveryEnded { member, ended }).ok();
        assert_eq!(fed.controller.members[&C].since, since);
        assert_eq!(fed.controller.since, since, "the array is degraded since");
    }
    // Also after the daemon has ended.
    let record = fed.record.expect("it is recorded");
    let fed = Fed::of(&["a", "b", "c"], rules(), Some(record));
    assert_eq!(fed.controller.members[&C].since, since);
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

#[test]
fn a_first_start_waits_for_the_copy_that_was_taken_over() {
    for start_policy in [
        StartPolicy::InSync,
        StartPolicy::Majority,
        StartPolicy::Newest,
    ] {
        let rules = Rules {
            start_policy,
            ..rules()
        };
        let mut fed = Fed::new(rules, None);
        fed.controller.members.get_mut(&A).unwrap().adopted = true;
        assert!(fed.controller.must_be_there(A) && !fed.controller.must_be_there(B));
        for member in [B, C] {
            fed.open(member, Tid::ZERO);
        }
        let fault = Fault::Unreachable("the file is not there".into());
        fed.feed(Event::OpenFailed { member: A, fault }).ok();
        let waits_for = "a (the file is not there)".to_owned();
        assert_eq!(fed.controller.serving, Serving::Starting { waits_for });
        let lacks = fed.controller.start_lacks().unwrap();
        assert_eq!(
            (lacks.open, lacks.needed, lacks.whom().as_str()),
            (2, 3, "a")
        );
        fed.open(A, Tid(5));
        assert_eq!(fed.controller.phase, Phase::Assembling);
        assert_eq!(fed.controller.start_lacks(), None);
    }
    // Once somebody has served, it is a copy like the others.
    let mut fed = Fed::serving();
    fed.controller.members.get_mut(&B).unwrap().adopted = true;
    fed.lose(B);
    assert!(!fed.controller.must_be_there(B));
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
