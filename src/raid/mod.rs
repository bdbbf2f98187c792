//! The array: one ZODB storage made of complete copies.
//!
//! What it promises is in nine invariants; where each is kept is listed in [`controller`].
//! [`Array`] is the handle: it implements [`Storage`](crate::storage::Storage), so that the front end
//! serves it as it would serve any other, and it takes the operator's commands.
//!
//! The room knows members only as [`Opener`](crate::storage::Opener)s: not files, not sockets, not
//! the configuration, not HTTP.

mod array;
mod backup;
mod blobs;
mod buffer;
mod cache;
mod controller;
#[cfg(test)]
mod coop;
mod details;
mod foreign;
mod history;
mod member;
mod notice;
mod oids;
mod options;
mod pack;
mod read;
mod record;
mod recovery;
mod report;
mod runner;
mod scrub;
#[cfg(test)]
mod simulation;
mod storage;
#[cfg(test)]
mod tests;
mod transaction;
mod view;

pub use array::{Array, StartError};
pub use blobs::SharedBlobsError;
pub use notice::{Notice, NoticeSink, PACK_DONE, Severity};
pub use options::{
    ArrayOptions, ClusterMode, FailMode, MemberSpec, SharedBlobs, Spool, StartPolicy,
};
pub use record::{FileRecord, Membership, RecordError, RecordStore, Standing};
pub use report::{
    AnalysisReport, ArrayReport, ArrayState, BackupReport, Difference, Differs, Finding, Hindrance,
    LeftOut, LockReport, MemberReport, MemberState, PackOutcome, PackReport, PackedMember,
    RecoveryOutcome, RecoveryReport, Refused, ScrubReport, ScrubbedMember, Serving, StartLacks,
    Strategy, TxnSummary, Unreadable,
};
pub use scrub::Scrubbed;
