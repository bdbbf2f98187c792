//! What the model's world consists of. Everything is small: members and transactions are bits.

/// Members, or transactions: bit `n` is member `n`, or the transaction with the TID `n + 1`. A history is
/// a set of transactions, because every history is in TID order.
pub(crate) type Mask = u8;
/// 0 is none.
pub(crate) type Tid = u8;

pub(crate) const MEMBERS: usize = 3;
pub(crate) const DAEMONS: usize = 2;

pub(crate) fn bit(tid: Tid) -> Mask {
    if tid == 0 { 0 } else { 1 << (tid - 1) }
}

/// The last transaction of a history.
pub(crate) fn last(history: Mask) -> Tid {
    (Mask::BITS - history.leading_zeros()) as Tid
}

/// All transactions up to this one.
pub(crate) fn up_to(tid: Tid) -> Mask {
    if tid == 0 {
        0
    } else {
        Mask::MAX >> (Mask::BITS - u32::from(tid))
    }
}

pub(crate) fn of(member: usize) -> Mask {
    1 << member
}

pub(crate) fn has(mask: Mask, member: usize) -> bool {
    mask & of(member) != 0
}

pub(crate) fn count(mask: Mask) -> u32 {
    mask.count_ones()
}

pub(crate) fn each(mask: Mask) -> impl Iterator<Item = usize> {
    (0..MEMBERS).filter(move |member| has(mask, *member))
}

/// One member's copy. It outlives daemons.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Disk {
    /// What a reader of the copy finds.
    pub written: Mask,
    /// What survives a loss of power; the rest of `written` is its end.
    pub durable: Mask,
    /// Finishes that were asked for and have not taken effect, in TID order.
    pub hand: Mask,
    /// A server's commit lock.
    pub lock: Option<Lock>,
    /// An operator has put an old copy in its place.
    pub is_old: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Lock {
    pub daemon: u8,
    pub tid: Tid,
    /// The connection is gone, and the server has not noticed.
    pub is_orphan: bool,
}

/// What a daemon writes down about membership.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Record {
    pub in_sync: Mask,
    pub needs_operator: Mask,
    /// May hold, past the others' end, what was never acknowledged.
    pub tail: Mask,
    pub head: Tid,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Phase {
    #[default]
    Opening,
    /// Compares these; `still` are those that were not lost since.
    Assembling {
        asked: Mask,
        still: Mask,
    },
    Running,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Stage {
    Voting,
    /// All have voted and are level with each other; what they hold more than the head is acknowledged first.
    AwaitsHead,
    Levelling,
    Voted,
    AwaitsRecord,
    Finishing,
    AwaitsAck,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Commit {
    pub tid: Tid,
    pub stage: Stage,
    pub participants: Mask,
    pub waits: Mask,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "they are asked through iterators"
)]
impl Commit {
    pub(crate) fn is_finishing(&self) -> bool {
        matches!(self.stage, Stage::Finishing | Stage::AwaitsAck)
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.is_finishing() && self.waits == 0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Work {
    Analyse,
    /// The target is a prefix of the source up to `at`.
    Copy {
        source: u8,
        at: Tid,
    },
    /// Likewise, under the commit lock.
    CatchUp {
        source: u8,
        at: Tid,
    },
    /// Waits for the record that lets the target in.
    Joining,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Recovery {
    pub target: u8,
    pub work: Work,
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a question of its own, as in the controller"
)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Daemon {
    /// On its disk.
    pub record: Option<Record>,

    // All else is forgotten when it dies.
    pub phase: Phase,
    pub is_blocked: bool,
    /// There is a record that this start goes by.
    pub recorded: bool,
    /// The head as that record knew it.
    pub known: Tid,
    pub open: Mask,
    /// Open, but the member was restarted since: the next call fails.
    pub broken: Mask,
    pub in_sync: Mask,
    pub needs_operator: Mask,
    /// These because they were disabled, since this daemon has been started.
    pub disabled: Mask,
    pub tail: Mask,
    /// The newest epoch is durable.
    pub is_durable: bool,
    /// What was found at the start is durable.
    pub is_started: bool,
    /// What is to be written, and what was written and is not reported yet: whether that is the newest.
    pub pending: Option<Record>,
    pub unreported: Option<bool>,
    pub head: Tid,
    pub last_given: Tid,
    /// In TID order; only the last one may not be finishing yet.
    pub commits: [Option<Commit>; 2],
    pub recovery: Option<Recovery>,
    /// A start has warned that who is away may hold more.
    pub has_warned: bool,
    /// What each connection has told of, and where each member ended as far as is known.
    pub told: [Mask; MEMBERS],
    pub ends: [Tid; MEMBERS],
    /// Transactions of others that are not acknowledged here, and who told of them.
    pub foreign: Mask,
    /// Of these it is known what they wrote: a member was asked.
    pub inquired: Mask,
    pub reported: [Mask; MEMBERS],
    pub needs_suspects: bool,
}

/// What may still go wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Left {
    pub daemon_crashes: u8,
    pub member_crashes: u8,
    pub cuts: u8,
    pub record_faults: u8,
    pub disables: u8,
    pub old_copies: u8,
}

/// What no state shows: a step that must not be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Wrong {
    /// A member was told to keep a transaction before one that it holds.
    OutOfOrder,
    /// The members of the last in-sync set have no common history, and nobody has swapped one.
    SetDisagrees,
    /// A start took what it was told is old.
    OldCopyServes,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub disks: [Disk; MEMBERS],
    pub daemons: [Daemon; DAEMONS],
    /// TIDs that were ever given.
    pub given: Mask,
    /// Clients were told, or have read it.
    pub acknowledged: Mask,
    /// Clients were told that it did not happen.
    pub aborted: Mask,
    pub left: Left,
    pub wrong: Option<Wrong>,
}

impl Daemon {
    pub(crate) fn joining(&self) -> Option<usize> {
        self.recovery
            .filter(|it| it.work == Work::Joining)
            .map(|it| usize::from(it.target))
    }

    /// The members that may be read.
    pub(crate) fn readable(&self) -> Mask {
        let joining = self.joining().map_or(0, of);
        if self.phase == Phase::Running {
            self.in_sync & self.open & !joining
        } else {
            0
        }
    }

    pub(crate) fn is_usable(&self, member: usize) -> bool {
        has(self.open & !self.broken, member)
    }

    pub(crate) fn commits(&self) -> impl Iterator<Item = &Commit> {
        self.commits.iter().flatten()
    }

    pub(crate) fn commits_mut(&mut self) -> impl Iterator<Item = &mut Commit> {
        self.commits.iter_mut().flatten()
    }

    pub(crate) fn holder(&mut self) -> Option<&mut Commit> {
        self.commits_mut().find(|commit| !commit.is_finishing())
    }

    pub(crate) fn has_finishing(&self) -> bool {
        self.commits().any(Commit::is_finishing)
    }

    /// Removes a commit.
    pub(crate) fn forget(&mut self, tid: Tid) {
        for commit in &mut self.commits {
            commit.take_if(|commit| commit.tid == tid);
        }
        if self.commits[0].is_none() {
            self.commits.swap(0, 1);
        }
    }

    pub(crate) fn is_catching_up(&self) -> bool {
        matches!(
            self.recovery,
            Some(Recovery {
                work: Work::CatchUp { .. } | Work::Joining,
                ..
            })
        )
    }
}

impl World {
    /// Which daemon is which does not matter.
    pub(crate) fn with_daemons_in_order(mut self) -> World {
        let who = |daemon: u8| {
            let mut locks = self.disks.iter().filter_map(|disk| disk.lock);
            locks.any(|lock| lock.daemon == daemon)
        };
        let keys = [0, 1].map(|daemon| (self.daemons[daemon], who(daemon as u8)));
        if keys[0] > keys[1] {
            self.daemons.swap(0, 1);
            for disk in &mut self.disks {
                if let Some(lock) = &mut disk.lock {
                    lock.daemon = 1 - lock.daemon;
                }
            }
        }
        self
    }

    /// Renames members so that worlds which differ in nothing but names are the same. Where two members
    /// look alike it does not matter which is which.
    pub(crate) fn normal(self, members: usize) -> World {
        let mut order = [0, 1, 2];
        let keys: [u128; MEMBERS] = std::array::from_fn(|member| self.key(member));
        order[..members].sort_by_key(|member| keys[*member]);
        if order == [0, 1, 2] {
            return self;
        }
        self.renamed(&order)
    }

    fn key(&self, member: usize) -> u128 {
        let disk = &self.disks[member];
        let mut key = u128::from(disk.written);
        let mut add = |value: u8, bits: u32| key = (key << bits) | u128::from(value);
        add(disk.durable, 8);
        add(disk.hand, 8);
        let lock = disk
            .lock
            .map_or(0, |lock| 1 + (lock.tid << 1) + u8::from(lock.is_orphan));
        add(lock, 5);
        add(disk.is_old.into(), 1);
        let daemon = &self.daemons[0];
        let asked = match daemon.phase {
            Phase::Assembling { asked, still } => [asked, still],
            _ => [0, 0],
        };
        let records = [daemon.record, daemon.pending].map(Option::unwrap_or_default);
        let commits = daemon.commits.iter().flatten();
        let masks = [
            daemon.open,
            daemon.broken,
            daemon.in_sync,
            daemon.needs_operator,
            daemon.disabled,
            daemon.tail,
        ];
        let masks = masks.into_iter().chain(asked);
        let masks = masks.chain(
            records
                .iter()
                .flat_map(|it| [it.in_sync, it.needs_operator, it.tail]),
        );
        let masks = masks.chain(commits.flat_map(|it| [it.participants, it.waits]));
        for mask in masks {
            add(has(mask, member).into(), 1);
        }
        if let Some(Recovery { target, work }) = daemon.recovery {
            let source = match work {
                Work::Copy { source, .. } | Work::CatchUp { source, .. } => Some(source),
                _ => None,
            };
            add((usize::from(target) == member).into(), 1);
            add((source.map(usize::from) == Some(member)).into(), 1);
        }
        add(daemon.told[member], 8);
        add(daemon.ends[member], 4);
        key
    }

    fn renamed(&self, order: &[usize; MEMBERS]) -> World {
        let mask = |old: Mask| {
            let bits = order.iter().enumerate();
            bits.fold(0, |new, (to, from)| new | (old >> from & 1) << to)
        };
        let index = |old: u8| {
            let place = order.iter().position(|from| *from == usize::from(old));
            place.expect("every member is in the order") as u8
        };
        let record = |old: Record| Record {
            in_sync: mask(old.in_sync),
            needs_operator: mask(old.needs_operator),
            tail: mask(old.tail),
            ..old
        };
        let mut new = *self;
        for (to, from) in order.iter().enumerate() {
            new.disks[to] = self.disks[*from];
        }
        let old = &self.daemons[0];
        let daemon = &mut new.daemons[0];
        for (to, from) in order.iter().enumerate() {
            daemon.told[to] = old.told[*from];
            daemon.ends[to] = old.ends[*from];
            daemon.reported[to] = old.reported[*from];
        }
        daemon.record = old.record.map(record);
        daemon.pending = old.pending.map(record);
        daemon.open = mask(old.open);
        daemon.broken = mask(old.broken);
        daemon.in_sync = mask(old.in_sync);
        daemon.needs_operator = mask(old.needs_operator);
        daemon.disabled = mask(old.disabled);
        daemon.tail = mask(old.tail);
        if let Phase::Assembling { asked, still } = &mut daemon.phase {
            (*asked, *still) = (mask(*asked), mask(*still));
        }
        for commit in daemon.commits_mut() {
            commit.participants = mask(commit.participants);
            commit.waits = mask(commit.waits);
        }
        if let Some(Recovery { target, work }) = &mut daemon.recovery {
            *target = index(*target);
            if let Work::Copy { source, .. } | Work::CatchUp { source, .. } = work {
                *source = index(*source);
            }
        }
        new
    }
}
