//! What is explored: how many of everything, and which deliberate bug.

use crate::state::{Left, MEMBERS, Mask, Phase, Record, World};
use crate::steps::Step;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A file in the daemon's own process: it can be cut back, finishes pile up, and it ends with the
    /// daemon.
    File,
    /// A server: it has a commit lock of its own, cannot be cut back, and may do what it was asked for
    /// after the daemon has given it up.
    Server,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    InSync,
    Majority,
    Newest,
}

/// One line of the code (or two) that is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    AcknowledgeBeforeRecord,
    FinishBeforeRecord,
    AcknowledgeBeforeSync,
    AcknowledgeWithoutMember,
    StartFromAnybody,
    StartTakesWhoIsBehind,
    StartTrustsOldCopy,
    RecoverWithoutTheLast,
    CatchUpWithoutLock,
    KeepTheTail,
    RemoveTheLast,
    RecordForgets,
    ServeBeforeRecord,
    OpenWithoutSync,
    CopyOnTopOfOthers,
    ServeBelowMajority,
    ReadBelowMajority,
    TidNotCompared,
    MembersNotCompared,
    AcknowledgeForeignEarly,
    LocksInAnyOrder,
    LevelOnTopOfOthers,
    EndsProveWhatIsBefore,
    NewestWinsAlone,
    NewestAsItWasOpened,
    HeadOfFewIsAcknowledged,
}

/// The model of an array.
#[derive(Debug, Clone)]
pub(crate) struct Array {
    pub members: usize,
    pub daemons: usize,
    pub kind: Kind,
    pub coop: bool,
    pub policy: Policy,
    pub min_optimal: u32,
    /// `fail_mode: read-only`.
    pub read_only: bool,
    pub transactions: u8,
    pub may_fail: Left,
    pub bug: Option<Bug>,
    /// What has happened already: a deep place is found sooner.
    pub after: &'static [Step],
}

impl Array {
    /// One daemon and its files; nothing fails.
    pub(crate) fn files(members: usize) -> Array {
        Array {
            members,
            daemons: 1,
            kind: Kind::File,
            coop: false,
            policy: Policy::InSync,
            min_optimal: 1,
            read_only: false,
            transactions: 2,
            may_fail: Left::default(),
            bug: None,
            after: &[],
        }
    }

    pub(crate) fn servers(members: usize) -> Array {
        Array {
            kind: Kind::Server,
            ..Array::files(members)
        }
    }

    pub(crate) fn coop(members: usize) -> Array {
        Array {
            daemons: 2,
            coop: true,
            ..Array::servers(members)
        }
    }

    pub(crate) fn is(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    pub(crate) fn all(&self) -> Mask {
        Mask::MAX >> (Mask::BITS as usize - self.members)
    }

    pub(crate) fn least(&self) -> u32 {
        if self.coop {
            self.members as u32 / 2 + 1
        } else {
            1
        }
    }

    pub(crate) fn needed(&self) -> u32 {
        self.least().max(self.min_optimal)
    }

    pub(crate) fn is_file(&self) -> bool {
        self.kind == Kind::File
    }

    /// Everybody is empty, and nothing was ever started.
    pub(crate) fn beginning(&self) -> World {
        assert!(self.members <= MEMBERS && self.transactions < 8);
        let mut world = World {
            left: self.may_fail,
            ..World::default()
        };
        for daemon in &mut world.daemons[..self.daemons] {
            daemon.is_durable = true;
            if self.coop {
                // Started and level; starts come after crashes.
                let record = Record {
                    in_sync: self.all(),
                    ..Record::default()
                };
                daemon.record = Some(record);
                daemon.in_sync = record.in_sync;
                daemon.open = record.in_sync;
                daemon.phase = Phase::Running;
                daemon.is_started = true;
            }
        }
        world
    }
}
