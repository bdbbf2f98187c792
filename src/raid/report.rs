//! What an array says of itself.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::scrub::Scrubbed;
use crate::counted::counted;
use crate::job::{Progress, Rate};
use crate::storage::{BackedUp, BackupError, Description, Extent, Fault, Size};
use crate::zodb::{Oid, Tid};

/// Whether clients can be served. Watched by the front end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Serving {
    /// Not yet: what is waited for.
    Starting {
        waits_for: String,
    },
    Yes,
    /// Too few members remain and the fail mode allows reading.
    ReadOnly {
        reason: String,
    },
    /// Too few members remain.
    No {
        reason: String,
    },
}

impl Serving {
    #[must_use]
    pub fn can_read(&self) -> bool {
        matches!(self, Serving::Yes | Serving::ReadOnly { .. })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArrayState {
    Optimal,
    Recovering,
    Degraded,
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberState {
    Optimal,
    Degraded,
    Recovering,
}

/// A snapshot of everything.
#[derive(Debug, Clone)]
pub struct ArrayReport {
    pub name: String,
    pub uuid: Uuid,
    pub state: ArrayState,
    /// One line: the state, and what is wrong.
    pub line: String,
    /// What an operator has to look after, whatever the state: a sentence without its end.
    pub attention: Option<String>,
    pub serving: Serving,
    pub epoch: u64,
    pub since: Timestamp,
    pub head: Tid,
    pub size: Size,
    /// Since the start of the daemon.
    pub loads: u64,
    pub commits: u64,
    pub loads_per_s: f64,
    pub commits_per_s: f64,
    pub lock: LockReport,
    pub members: Vec<MemberReport>,
    /// Where it has not started for lack of members.
    pub lacks: Option<StartLacks>,
    pub recovery: Option<RecoveryReport>,
    /// What the last scrub found that came to its end, and what is left of that.
    pub scrubbed: Option<Scrubbed>,
}

/// What a start waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartLacks {
    /// Those that would help and are not open.
    pub members: Vec<String>,
    /// How many of those that may count are open.
    pub open: usize,
    /// Of how many members in all.
    pub all: usize,
    /// How many have to be.
    pub needed: usize,
    /// Only those count that held everything, as the membership record says.
    pub by_record: bool,
}

impl StartLacks {
    /// `zeo1 or zeo2`, `zeo1 and zeo2`, `2 of a, b, c`.
    #[must_use]
    pub fn whom(&self) -> String {
        let more = self.needed.saturating_sub(self.open);
        match self.members.len() {
            many if more >= many => self.members.join(" and "),
            _ if more == 1 => self.members.join(" or "),
            _ => format!("{more} of {}", self.members.join(", ")),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LockReport {
    pub held_for: Option<Duration>,
    pub waiting: u64,
}

#[derive(Debug, Clone)]
pub struct MemberReport {
    pub name: String,
    pub state: MemberState,
    pub description: Description,
    pub since: Timestamp,
    pub reason: Option<String>,
    /// Why it is not open, where it is in sync: the array does not serve then, or not yet.
    pub missing: Option<String>,
    /// What keeps it from being opened, where that is known and is not the member itself.
    pub hindered_by: Option<Hindrance>,
    /// An operator disabled it, or it diverged: it waits for an operator.
    pub needs_operator: bool,
    /// A start that lacks members compares it as soon as an operator says so: it was taken out by one.
    pub may_be_compared: bool,
    /// When it is opened again.
    pub next_try: Option<Duration>,
    pub last_tid: Option<Tid>,
    pub lag: Option<Extent>,
    pub latency: Option<Duration>,
    pub reads: u64,
    pub faults: u64,
    /// It writes to a file that was removed or replaced, and the array hinges on it: what it holds is gone when
    /// the daemon ends.
    pub displaced: bool,
}

/// What an operator can take out of a member's way, which then goes on by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hindrance {
    /// There is no room on its disk.
    DiskFull,
    /// Who uses it, in words.
    InUse(String),
}

impl Hindrance {
    #[must_use]
    pub(super) fn of(fault: &Fault) -> Option<Hindrance> {
        match fault {
            Fault::DiskFull { .. } => Some(Hindrance::DiskFull),
            Fault::InUse(by) => Some(Hindrance::InUse(by.clone())),
            _ => None,
        }
    }
}

/// How to recover a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strategy {
    /// Copies what it lacks.
    #[default]
    Missing,
    /// Copies what it lacks, then compares every record.
    Verify,
    /// Sets aside what is not common, then copies.
    Rebuild,
}

/// The recovery that runs, or the last.
#[derive(Debug, Clone)]
pub struct RecoveryReport {
    pub id: u64,
    pub member: String,
    pub source: Option<String>,
    pub strategy: Strategy,
    pub outcome: RecoveryOutcome,
    pub progress: Progress,
    pub rate: Rate,
    pub started: Timestamp,
    pub ended: Option<Timestamp>,
    pub set_aside: Vec<std::path::PathBuf>,
    pub queued: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum RecoveryOutcome {
    Running,
    Done,
    Cancelled,
    /// Why, and what the operator can do.
    Failed {
        reason: String,
        next: Option<String>,
    },
}

/// The pack that runs, or the last.
#[derive(Debug, Clone)]
pub struct PackReport {
    pub id: u64,
    /// To what it packs, in seconds since 1970.
    pub time: f64,
    pub members: Vec<PackedMember>,
    /// What became of the folder of blobs that clients share, which no member owns; none where there is
    /// none.
    pub shared_blobs: Option<PackOutcome>,
    pub progress: Progress,
    pub started: Timestamp,
    pub ended: Option<Timestamp>,
    pub cancelled: bool,
}

impl PackReport {
    /// What [`Self::shared_blobs`] is called beside the names of members.
    pub const SHARED_BLOBS: &str = "the shared blob folder";
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedMember {
    pub name: String,
    pub outcome: PackOutcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PackOutcome {
    Waiting,
    Packing,
    Done,
    /// Why it was left out.
    Skipped(String),
    Failed(String),
}

/// The backup that runs, or the last.
#[derive(Debug, Clone)]
pub struct BackupReport {
    pub id: u64,
    /// As it was asked for.
    pub into: PathBuf,
    /// Which one is copied.
    pub member: String,
    pub progress: Progress,
    pub started: Timestamp,
    /// When, and what came of it.
    pub ended: Option<(Timestamp, Result<BackedUp, BackupError>)>,
}

/// The scrub that runs, or the last.
#[derive(Debug, Clone)]
pub struct ScrubReport {
    pub id: u64,
    pub progress: Progress,
    pub started: Timestamp,
    pub ended: Option<Timestamp>,
    pub cancelled: bool,
    /// Up to here is compared.
    pub head: Tid,
    pub members: Vec<ScrubbedMember>,
    /// That were compared.
    pub transactions: u64,
    pub blobs: u64,
    /// How many there are; of these the first are listed.
    pub count: u64,
    pub differences: Vec<Difference>,
}

/// A member in a scrub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrubbedMember {
    pub name: String,
    pub kind: &'static str,
    /// Why it was not compared to the end.
    pub left_out: Option<LeftOut>,
    /// What it could not read although it was compared to the end.
    pub unreadable: Option<Unreadable>,
    /// In how many differences more than half of the members agree, and it does not; and what it cannot
    /// read that others can.
    pub contradicted: u64,
}

impl ScrubbedMember {
    /// Whether others contradict it, or it cannot read all that it holds.
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        let stopped = matches!(self.left_out, Some(LeftOut::Unreadable { .. }));
        stopped || self.unreadable.is_some() || self.contradicted > 0
    }
}

/// What a member could not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// In how many places.
    pub places: u64,
    /// Why, in the first of them.
    pub first: String,
}

/// Why a member is not compared any further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeftOut {
    /// It cannot read what it holds after this transaction.
    Unreadable { after: Tid, reason: String },
    /// It could not be asked.
    Lost { reason: String },
}

/// Something in which members differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub tid: Tid,
    /// None where the whole transaction differs.
    pub oid: Option<Oid>,
    pub what: Differs,
    /// The members by what they hold, those first which are most.
    pub groups: Vec<Vec<String>>,
    /// Whether the first group is more than half of all.
    pub majority: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Differs {
    /// Some do not have the transaction, and packing is not why.
    Missing,
    /// User, description, extension or status.
    Metadata,
    /// The record, or whether there is one.
    Record,
    /// The file of the blob, or whether there is one.
    Blob,
    /// Those of the last group cannot read it.
    Unreadable,
}

impl Difference {
    /// `b, c | a`: those that hold the same beside each other.
    #[must_use]
    pub(super) fn members(&self) -> String {
        let groups = self.groups.iter().map(|group| group.join(", "));
        groups.collect::<Vec<_>>().join(" | ")
    }
}

impl fmt::Display for Differs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Differs::Missing => "some lack the transaction",
            Differs::Metadata => "the transaction's user, description, extension or status",
            Differs::Record => "the record",
            Differs::Blob => "the file of the blob",
            Differs::Unreadable => "those named last cannot read it",
        })
    }
}

/// What a member would need.
#[derive(Debug, Clone)]
pub struct AnalysisReport {
    pub member: String,
    pub source: String,
    pub finding: Finding,
    /// What an operator has to do before a recovery can succeed, where there is something.
    pub next: Option<String>,
    /// The last scrub found it wrong, or could not tell: whatever it lacks, every record has to be compared.
    pub doubted: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Finding {
    UpToDate,
    /// `common` is the last transaction that both hold.
    Behind {
        common: Tid,
        lacks: Extent,
    },
    Empty {
        lacks: Extent,
    },
    Diverged {
        common: Option<Tid>,
        lacks: Extent,
        /// The first hundred at most.
        only_here: Vec<TxnSummary>,
        only_here_count: u64,
    },
    Damaged {
        reason: String,
    },
}

/// A transaction, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnSummary {
    pub tid: Tid,
    pub user: String,
    pub description: String,
}

/// Why an array does not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    #[error("array {array} has no member {member}; it has {}", .members.join(", "))]
    NoSuchMember {
        array: String,
        member: String,
        members: Vec<String>,
    },
    #[error("{member} is the last optimal member of {array}")]
    LastOptimal { array: String, member: String },
    #[error("{member} is optimal already")]
    AlreadyOptimal { member: String },
    #[error("no recovery runs")]
    NoRecovery,
    #[error("{member} is being recovered, or waits for it")]
    AlreadyRecovering { member: String },
    #[error("{array} is being packed")]
    Packing { array: String },
    #[error("{member} is being recovered, or waits for it, and nothing is packed meanwhile")]
    RecoveryFirst { member: String },
    #[error("no optimal member of {array} can pack")]
    CannotPack { array: String },
    #[error("no pack runs")]
    NoPack,
    #[error("{array} is being {what}")]
    Reading {
        array: String,
        what: &'static str,
        /// By which it is looked at, and cancelled.
        command: &'static str,
    },
    #[error("no {0} runs")]
    NoSuchJob(&'static str),
    #[error("no optimal member of {array} is a file of this daemon's that could be copied")]
    CannotBackUp { array: String },
    #[error("{array} cannot be backed up: {error}")]
    Backup { array: String, error: BackupError },
    #[error("{array} has one optimal member, which there is nothing to compare with")]
    NothingToCompare { array: String },
    #[error("{0} is not a time that can be packed to")]
    NoTime(f64),
    #[error("the array does not serve: {reason}")]
    NotServing { reason: String },
    #[error("without {}, no optimal member of {array} would remain", .removed.join(", "))]
    NoneWouldRemain { array: String, removed: Vec<String> },
    #[error(
        "array {array} would stop: {} would remain, and at least {needed} must",
        counted(*.have as u64, "optimal member")
    )]
    TooFewWouldRemain {
        array: String,
        have: usize,
        needed: usize,
    },
    #[error("{member} could not be asked: {fault}")]
    Member { member: String, fault: Fault },
    /// It has diverged from another member, and nobody can say yet which of the two is right.
    #[error("whether {member} is right cannot be told yet: {reason}")]
    Undecided { member: String, reason: String },
    #[error("the membership record could not be written: {0}")]
    Record(String),
    #[error("the daemon is shutting down")]
    ShuttingDown,
}

impl Refused {
    /// What the operator can do.
    #[must_use]
    pub fn next(&self) -> Option<String> {
        match self {
            // There is said why a member or the array cannot be asked, and what helps.
            Refused::NoSuchMember { .. }
            | Refused::NoRecovery
            | Refused::NotServing { .. }
            | Refused::Member { .. } => Some("zeoraidctl details".into()),
            Refused::LastOptimal { .. } | Refused::NoneWouldRemain { .. } => {
                Some("recover another member first: zeoraidctl recover --interactive".into())
            }
            Refused::TooFewWouldRemain { .. } => Some(
                "change fewer members at a time, and let those that are added be recovered before others \
                 are removed; where that cannot be, change the configuration while the daemon is stopped"
                    .into(),
            ),
            Refused::AlreadyOptimal { member } => Some(format!(
                "to check it all the same: zeoraidctl disable {member}, then: zeoraidctl recover --verify {member}"
            )),
            Refused::Reading { command, .. } => Some(format!("zeoraidctl {command} --attach")),
            Refused::AlreadyRecovering { .. }
            | Refused::Packing { .. }
            | Refused::Undecided { .. }
            | Refused::RecoveryFirst { .. } => Some("zeoraidctl details --watch".into()),
            Refused::Record(_) => Some("zeoraidctl logtail".into()),
            Refused::CannotBackUp { .. } => Some(
                "back up the file of a ZEO server where that server is: repozo -B -Q -r BACKUPS -f \
                 Data.fs, and its blobs"
                    .into(),
            ),
            Refused::Backup { error, .. } => error.next(),
            Refused::NothingToCompare { .. } => Some(
                "recover another member first: zeoraidctl recover --interactive".into(),
            ),
            Refused::NoSuchJob(_)
            | Refused::ShuttingDown
            | Refused::CannotPack { .. }
            | Refused::NoPack
            | Refused::NoTime(_) => None,
        }
    }
}
