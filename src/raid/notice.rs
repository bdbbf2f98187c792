//! What matters to an operator, said once: as a log line, and to whoever listens.

use std::fmt;
use std::sync::Arc;

use crate::counted::counted;
use crate::zodb::Tid;

/// The kind of [`Notice::PackDone`], for whoever goes by it.
pub const PACK_DONE: &str = "pack-done";

/// Something that an operator may want to know. [`Display`](fmt::Display) is the sentence for people.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Notice {
    /// The array serves, from these members.
    Serving {
        members: Vec<String>,
        head: Tid,
    },
    /// Too few members remain, or it cannot start yet.
    NotServing {
        reason: String,
    },
    MemberOpened {
        member: String,
    },
    /// It was taken out of the in-sync set.
    MemberDegraded {
        member: String,
        reason: String,
        epoch: u64,
    },
    /// It joined the in-sync set.
    MemberOptimal {
        member: String,
        epoch: u64,
    },
    MemberAdded {
        member: String,
    },
    MemberRemoved {
        member: String,
    },
    RecoveryStarted {
        member: String,
        source: String,
    },
    RecoveryDone {
        member: String,
        transactions: u64,
        bytes: u64,
    },
    RecoveryCancelled {
        member: String,
    },
    RecoveryFailed {
        member: String,
        reason: String,
    },
    PackStarted {
        members: Vec<String>,
    },
    PackDone {
        packed: Vec<String>,
        /// Each with the reason.
        left_out: Vec<String>,
    },
    BackupStarted {
        member: String,
        folder: String,
    },
    BackupDone {
        folder: String,
        last: Tid,
    },
    BackupFailed {
        folder: String,
        reason: String,
    },
    ScrubStarted {
        members: Vec<String>,
    },
    /// Of how many members, and in how much they differ.
    ScrubDone {
        members: Vec<String>,
        transactions: u64,
        differences: u64,
        /// Whom the others contradict, or who cannot read what they hold.
        suspects: Vec<String>,
        /// Each with the reason.
        left_out: Vec<String>,
    },
    /// What the last scrub found of a member is no more; whether it found more.
    ScrubMended {
        member: String,
        more: bool,
    },
    /// The files of blobs that no member could give any more were left out of a copy.
    BlobsMissing {
        member: String,
        count: u64,
        first: String,
    },
    /// What had to be cut from a diverged copy was saved here.
    SetAside {
        member: String,
        file: String,
        /// None where it was set aside as a whole, and cannot be read through.
        transactions: Option<u64>,
    },
    /// In-sync members gave different answers.
    Disagreement {
        what: String,
        members: Vec<String>,
    },
    /// A client held the commit lock too long.
    TransactionTimedOut {
        held_ms: u64,
    },
    /// The membership record could not be written.
    RecordFailed {
        reason: String,
    },
    /// What the last optimal member writes to is not what lies at its path any more.
    Displaced {
        member: String,
        reason: String,
    },
    /// The start was forced past the start policy.
    Forced {
        reason: String,
    },
    /// The start policy was met without these, and what they hold may be newer.
    StartedWithout {
        policy: &'static str,
        members: Vec<String>,
    },
}

/// Where notices go besides the log. It must be quick and must not ask the array anything: it is called
/// while the array decides.
pub type NoticeSink = Arc<dyn Fn(Notice) + Send + Sync>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    Info,
    Warning,
    Error,
}

impl Notice {
    /// A stable word for it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Notice::Serving { .. } => "serving",
            Notice::NotServing { .. } => "not-serving",
            Notice::MemberOpened { .. } => "member-opened",
            Notice::MemberDegraded { .. } => "member-degraded",
            Notice::MemberOptimal { .. } => "member-optimal",
            Notice::MemberAdded { .. } => "member-added",
            Notice::MemberRemoved { .. } => "member-removed",
            Notice::RecoveryStarted { .. } => "recovery-started",
            Notice::RecoveryDone { .. } => "recovery-done",
            Notice::RecoveryCancelled { .. } => "recovery-cancelled",
            Notice::RecoveryFailed { .. } => "recovery-failed",
            Notice::PackStarted { .. } => "pack-started",
            Notice::PackDone { .. } => PACK_DONE,
            Notice::BackupStarted { .. } => "backup-started",
            Notice::BackupDone { .. } => "backup-done",
            Notice::BackupFailed { .. } => "backup-failed",
            Notice::ScrubStarted { .. } => "scrub-started",
            Notice::ScrubDone { .. } => "scrub-done",
            Notice::ScrubMended { .. } => "scrub-mended",
            Notice::BlobsMissing { .. } => "blobs-missing",
            Notice::SetAside { .. } => "set-aside",
            Notice::Disagreement { .. } => "disagreement",
            Notice::TransactionTimedOut { .. } => "transaction-timed-out",
            Notice::RecordFailed { .. } => "record-failed",
            Notice::Displaced { .. } => "displaced",
            Notice::Forced { .. } => "forced",
            Notice::StartedWithout { .. } => "started-without",
        }
    }

    /// The member that it is about.
    #[must_use]
    pub fn member(&self) -> Option<&str> {
        match self {
            Notice::MemberOpened { member }
            | Notice::MemberDegraded { member, .. }
            | Notice::MemberOptimal { member, .. }
            | Notice::MemberAdded { member }
            | Notice::MemberRemoved { member }
            | Notice::RecoveryStarted { member, .. }
            | Notice::RecoveryDone { member, .. }
            | Notice::RecoveryCancelled { member }
            | Notice::RecoveryFailed { member, .. }
            | Notice::BlobsMissing { member, .. }
            | Notice::SetAside { member, .. }
            | Notice::ScrubMended { member, .. }
            | Notice::Displaced { member, .. } => Some(member),
            _ => None,
        }
    }

    #[must_use]
    pub fn severity(&self) -> Severity {
        match self {
            Notice::NotServing { .. }
            | Notice::RecoveryFailed { .. }
            | Notice::Disagreement { .. }
            | Notice::Displaced { .. }
            | Notice::BackupFailed { .. }
            | Notice::RecordFailed { .. } => Severity::Error,
            Notice::ScrubDone { differences, .. } if *differences > 0 => Severity::Error,
            Notice::MemberDegraded { .. }
            | Notice::SetAside { .. }
            | Notice::BlobsMissing { .. }
            | Notice::TransactionTimedOut { .. }
            | Notice::Forced { .. }
            | Notice::StartedWithout { .. } => Severity::Warning,
            Notice::PackDone { left_out, .. } | Notice::ScrubDone { left_out, .. }
                if !left_out.is_empty() =>
            {
                Severity::Warning
            }
            _ => Severity::Info,
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Serving { members, head } => {
                write!(f, "serving from {} as of {head}", members.join(", "))
            }
            Notice::NotServing { reason } => write!(f, "not serving: {reason}"),
            Notice::MemberOpened { member } => write!(f, "{member} is open"),
            Notice::MemberDegraded {
                member,
                reason,
                epoch,
            } => {
                write!(
                    f,
                    "{member} was taken out (membership no. {epoch}): {reason}"
                )
            }
            Notice::MemberOptimal { member, epoch } => {
                write!(f, "{member} is optimal (membership no. {epoch})")
            }
            Notice::MemberAdded { member } => write!(f, "{member} was added"),
            Notice::MemberRemoved { member } => write!(f, "{member} was removed"),
            Notice::RecoveryStarted { member, source } => {
                write!(f, "recovering {member} from {source}")
            }
            Notice::RecoveryDone {
                member,
                transactions,
                bytes,
            } => {
                write!(
                    f,
                    "recovered {member}: {}, {} copied",
                    counted(*transactions, "transaction"),
                    counted(*bytes, "byte")
                )
            }
            Notice::RecoveryCancelled { member } => {
                write!(f, "the recovery of {member} was cancelled")
            }
            Notice::RecoveryFailed { member, reason } => {
                write!(f, "the recovery of {member} failed: {reason}")
            }
            Notice::PackStarted { members } => write!(f, "packing {}", members.join(", ")),
            Notice::PackDone { packed, left_out } => {
                let packed = match packed.as_slice() {
                    [] => "no member".to_owned(),
                    packed => packed.join(", "),
                };
                write!(f, "packed {packed}")?;
                if left_out.is_empty() {
                    return Ok(());
                }
                write!(f, "; not packed: {}", left_out.join("; "))
            }
            Notice::BackupStarted { member, folder } => {
                write!(f, "backing up {member} into {folder}")
            }
            Notice::BackupDone { folder, last } if last.is_zero() => {
                write!(f, "backed up in {folder}; it is empty")
            }
            Notice::BackupDone { folder, last } => write!(f, "backed up to {last} in {folder}"),
            Notice::BackupFailed { folder, reason } => {
                write!(f, "the backup into {folder} failed: {reason}")
            }
            Notice::ScrubStarted { members } => write!(f, "comparing {}", members.join(", ")),
            Notice::ScrubDone {
                members,
                transactions,
                differences,
                suspects,
                left_out,
            } => {
                let found = match differences {
                    0 => "no differences".to_owned(),
                    many => counted(*many, "difference"),
                };
                let compared = counted(*transactions, "transaction");
                write!(f, "compared {compared} of {}: {found}", members.join(", "))?;
                if !suspects.is_empty() {
                    write!(f, "; wrong: {}", suspects.join(", "))?;
                }
                if left_out.is_empty() {
                    return Ok(());
                }
                write!(f, "; not read as a whole: {}", left_out.join("; "))
            }
            Notice::ScrubMended { member, more } => {
                let rest = if *more {
                    "; there is more that it found"
                } else {
                    ""
                };
                write!(f, "what the last scrub found of {member} is mended{rest}")
            }
            Notice::BlobsMissing {
                member,
                count,
                first,
            } => {
                let have = if *count == 1 { "has" } else { "have" };
                write!(
                    f,
                    "{} {have} no file on any optimal member and none on {member} now; \
                     the first is {first}",
                    counted(*count, "blob")
                )
            }
            Notice::SetAside {
                member,
                file,
                transactions,
            } => {
                let Some(transactions) = transactions else {
                    return write!(
                        f,
                        "all of {member} was set aside in {file}; it cannot be read to its end, and what is in \
                         it was not counted"
                    );
                };
                let were = if *transactions == 1 { "was" } else { "were" };
                let counted = counted(*transactions, "transaction");
                write!(f, "{counted} of {member} {were} set aside in {file}")
            }
            Notice::Disagreement { what, members } => {
                write!(f, "members disagree on {what}: {}", members.join("; "))
            }
            Notice::TransactionTimedOut { held_ms } => {
                write!(
                    f,
                    "a client held the commit lock for {held_ms} ms and was disconnected"
                )
            }
            Notice::Displaced { member, reason } => {
                write!(
                    f,
                    "{member}, the last optimal member, serves from what is gone when the daemon ends: \
                     {reason}; take a backup, or recover another member, before you stop it"
                )
            }
            Notice::RecordFailed { reason } => {
                write!(f, "the membership record could not be written: {reason}")
            }
            Notice::Forced { reason } => write!(f, "started by force although {reason}"),
            Notice::StartedWithout { policy, members } => {
                write!(
                    f,
                    "started by the policy `{policy}` without {}: transactions that only they hold are \
                     missing, and what is committed from now on makes them diverge",
                    members.join(", ")
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_aside_is_counted_where_it_could_be() {
        let told = |transactions| {
            let member = "b".to_owned();
            let file = "Data.fs.aside".to_owned();
            Notice::SetAside {
                member,
                file,
                transactions,
            }
            .to_string()
        };
        assert_eq!(
            told(Some(1)),
            "1 transaction of b was set aside in Data.fs.aside"
        );
        assert_eq!(
            told(Some(1402)),
            "1 402 transactions of b were set aside in Data.fs.aside"
        );
        assert_eq!(
            told(None),
            "all of b was set aside in Data.fs.aside; it cannot be read to its end, and what is in it was not counted"
        );
    }
}
