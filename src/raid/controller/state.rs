//! The states of members and commits, and which transitions are legal.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::storage::{Answer, Description, Extent, Fault};
use crate::zodb::{Conflict, Oid, Tid};

/// A member, for as long as the array has it. Never given out again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MemberId(pub u32);

/// A transaction that wants, has or had the commit lock; or a recovery that catches up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct CommitId(pub u64);

/// One opening of a member: tells answers of an old one from those of the present one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Generation(pub u64);

/// A member, as the controller sees it.
///
/// ```text
///            start, TargetLevel
///   Degraded ───────────────────▶ InSync
///    │  ▲ ▲                        │
///    │  │ └────────────────────────┘ MemberLost, Disable, a differing answer
///    ▼  │ failed, cancelled, lost
///   Recovering ──▶ InSync (TargetLevel)
/// ```
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub name: String,
    pub fingerprint: String,
    /// It was there before the array.
    pub adopted: bool,
    pub description: Description,
    pub standing: State,
    pub link: Link,
    /// Since when it is in the in-sync set, or out of it.
    pub since: Timestamp,
    /// What was committed while it was out, where that is known from the beginning.
    pub lacks: Option<Extent>,
    /// Failed recoveries since the last good one; they put off the next one.
    pub failures: u32,
    pub retry_at: Option<Instant>,
}

/// How a member stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// In the in-sync set: it holds every acknowledged transaction.
    InSync,
    Degraded(Out),
    /// Out of the in-sync set, and being copied to.
    Recovering(Out),
}

/// Why a member is out of the in-sync set.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a question of its own"
)]
pub(crate) struct Out {
    pub reason: String,
    /// An operator disabled it, or it diverged: only an operator's word recovers it.
    pub needs_operator: bool,
    /// What it holds is not what the others hold, or may not be: until it is let in again it is compared with them
    /// by an operator's word only, and no start goes by it.
    pub is_wrong: bool,
    /// It left the in-sync set while transactions were being finished, or when the daemon ended.
    /// What it holds beyond the others was never acknowledged, so a recovery may set that aside by
    /// itself. Taken back where a start by force goes on from less than may have been acknowledged.
    pub unacknowledged_tail: bool,
    /// Something that it holds could not be read: its next recovery compares everything, or it would
    /// come back with the same damage.
    pub damaged: bool,
}

impl Out {
    pub(crate) fn because(reason: impl Into<String>) -> Self {
        Out {
            reason: reason.into(),
            needs_operator: false,
            is_wrong: false,
            unacknowledged_tail: false,
            damaged: false,
        }
    }

    /// Why a member is out that waits for whoever took it out.
    pub(crate) fn by_operator(reason: &str) -> Self {
        Out {
            needs_operator: true,
            ..Out::because(reason)
        }
    }

    /// Why a member is out that holds something else than the others.
    pub(crate) fn wrong(reason: impl Into<String>) -> Self {
        Out {
            needs_operator: true,
            is_wrong: true,
            ..Out::because(reason)
        }
    }

    /// Why a member goes out that failed in this way.
    pub(crate) fn after(fault: &Fault) -> Self {
        Out {
            damaged: matches!(fault, Fault::Damaged(_) | Fault::Io { .. }),
            ..Out::because(fault.to_string())
        }
    }

    /// What was known of it before is still true.
    pub(crate) fn and(self, before: &Out) -> Self {
        Out {
            unacknowledged_tail: self.unacknowledged_tail || before.unacknowledged_tail,
            damaged: self.damaged || before.damaged,
            is_wrong: self.is_wrong || before.is_wrong,
            ..self
        }
    }
}

/// Whether the member is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Link {
    /// Being opened, or waiting for the next try; the last failure, where there was one.
    Opening { failed: Option<String> },
    /// `pipelined` as in [`crate::storage::Capabilities`].
    Open {
        generation: Generation,
        last_tid: Tid,
        pipelined: bool,
    },
    /// Not to be opened before an operator says so.
    Shut,
}

impl Member {
    pub(crate) fn is_in_sync(&self) -> bool {
        self.standing == State::InSync
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.link, Link::Open { .. })
    }

    pub(crate) fn last_tid(&self) -> Option<Tid> {
        match self.link {
            Link::Open { last_tid, .. } => Some(last_tid),
            _ => None,
        }
    }

    pub(crate) fn generation(&self) -> Option<Generation> {
        match self.link {
            Link::Open { generation, .. } => Some(generation),
            _ => None,
        }
    }

    /// Whether a start that lacks members may compare it as soon as an operator says so.
    pub(crate) fn may_be_compared_if_asked(&self) -> bool {
        let out = self.out();
        out.is_some_and(|out| out.needs_operator && !out.is_wrong && !out.damaged)
    }

    /// Why it is out, where it is.
    pub(crate) fn out(&self) -> Option<&Out> {
        match &self.standing {
            State::InSync => None,
            State::Degraded(out) | State::Recovering(out) => Some(out),
        }
    }

    /// Changes the standing.
    ///
    /// # Panics
    /// Where the transition is not a legal one: that is a bug, and going on would break a promise.
    pub(crate) fn stand(&mut self, next: State, now: Timestamp) {
        let legal = match (&self.standing, &next) {
            // Only a recovery that has caught up, or a start that has compared, lets a member in.
            (State::Degraded(_) | State::Recovering(_), State::InSync)
            | (_, State::Degraded(_))
            | (State::Degraded(_), State::Recovering(_)) => true,
            (State::InSync, State::InSync | State::Recovering(_))
            | (State::Recovering(_), State::Recovering(_)) => false,
        };
        assert!(
            legal,
            "{}: {:?} must not become {next:?}",
            self.name, self.standing
        );
        // However often its recovery is tried, it is out since it went out.
        if self.is_in_sync() != (next == State::InSync) {
            self.since = now;
        }
        self.standing = next;
    }
}

/// What the whole is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Members are being opened; nothing is decided.
    Opening { first_open: Option<Instant> },
    /// Members are being compared before they serve.
    Assembling,
    /// Clients are served, as far as enough members are in sync.
    Running,
    /// Shutting down: nothing new begins.
    Stopping,
}

/// A commit, from the request for its vote to its last reply.
#[derive(Debug, Clone)]
pub(crate) struct Commit {
    pub kind: Kind,
    pub state: CommitState,
    /// The TID that the client asked for.
    pub wanted: Option<Tid>,
    /// The data it carries.
    pub bytes: u64,
    /// Chosen when the lock is granted.
    pub tid: Tid,
    /// The members that take part and were not lost since.
    pub participants: BTreeSet<MemberId>,
    pub votes: BTreeMap<MemberId, Ballot>,
    /// Members that are asked one after the other, the next one last. See `coop`.
    pub line: Vec<MemberId>,
    /// The last transactions of the members, as their votes told it.
    pub after: BTreeMap<MemberId, Tid>,
    /// How often the votes have begun anew because of others.
    pub tries: u32,
    /// Until when it votes again where its members were not level.
    pub level_until: Option<Instant>,
    /// How often it has voted since that time is over: then the locks of those that are furthest are held.
    pub last_votes: u32,
    /// They were, at this vote.
    pub has_held: bool,
    /// Some refused at this vote, and it has waited for the members to be level.
    pub has_waited: bool,
    /// The head when its members were asked for their votes.
    pub asked_as_of: Tid,
    /// Until when its client may resolve conflicts, however many rounds that takes.
    pub resolve_until: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Client,
    /// A recovery holds the lock to copy what is left.
    CatchUp,
}

/// ```text
///  Queued ─▶ Voting ─▶ Voted ─▶ AwaitsRecord ─▶ Finishing ─▶ AwaitsAck ─▶ (gone)
///              │ ▲
///              ▼ │ votes again
///       Resolving, Levelling
/// ```
/// The lock is held from `Voting` to `AwaitsRecord`. `Finishing` and `AwaitsAck` are in TID order.
/// Every state has an end that does not depend on the client: members answer within their timeout or
/// are lost, all else has a deadline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CommitState {
    Queued,
    Voting {
        waits: BTreeSet<MemberId>,
    },
    /// All are ready. What the members hold more than the head is acknowledged while the locks are kept of those
    /// that hold it, so that nobody is faster again.
    AwaitsHead {
        until: Instant,
    },
    /// The members' locks are given back until the members are level. Then it votes again.
    Levelling {
        until: Instant,
    },
    /// The client was told of conflicts and may vote again.
    Resolving {
        until: Instant,
    },
    Voted {
        until: Instant,
    },
    /// The client asked to finish; the record of who takes part is not durable yet.
    AwaitsRecord {
        until: Instant,
    },
    /// Who of the participants has finished is no longer waited for.
    Finishing {
        waits: BTreeSet<MemberId>,
    },
    /// Every participant has finished or is lost, and so it is with those before; the newest membership
    /// record, which may say who is lost, is not durable yet.
    /// Past `until` the client is told that the outcome is unknown; the transaction stays in line.
    AwaitsAck {
        until: Option<Instant>,
    },
    /// A recovery has the lock and waits for the transactions before it.
    CatchUpWaits {
        until: Instant,
    },
    /// A recovery holds the lock.
    CatchingUp {
        until: Instant,
    },
}

/// What a member answered to a vote.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Ballot {
    Ready { resolved: Vec<Oid> },
    Conflicts(Vec<Conflict>),
    No(Answer),
}

/// Limits that the controller goes by.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub array: String,
    pub cluster_mode: super::super::ClusterMode,
    pub start_policy: super::super::StartPolicy,
    pub force: bool,
    pub min_optimal: usize,
    pub fail_mode: super::super::FailMode,
    pub transaction_timeout: Duration,
    pub catch_up_limit: Duration,
    /// How long it may take until members hold a foreign transaction that they lack.
    pub level_limit: Duration,
    pub auto_recover: bool,
    /// How long the start waits for further members once the first is open.
    pub start_grace: Duration,
}
