//! Deliberate mistakes, each in one line of the product, and that each is found.
//!
//! `tests/run --bugs` makes one after the other and says by which seed it was found, and by what; `BUG=SkipSync`
//! makes only that one. They begin at the first seed of the short run, or at `SEED=`.

use std::cell::Cell;

use super::history_with;

/// A mistake that can be made. Where: `grep -rn 'bug!(' src`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// Before the record of who was lost is durable.
    AcknowledgeBeforeRecord,
    /// One member has not finished yet.
    WaitForAllButOne,
    /// Clients are not told of every fourth transaction of others.
    LoseInvalidations,
    /// Of those that a client is told of at the same time, the last comes first.
    ReorderInvalidations,
    /// TIDs go back where the clock does.
    GoBackInTime,
    /// Also from who is not in the in-sync set.
    StartFromAnybody,
    /// What was not acknowledged is read.
    ReadPastHead,
    /// The record cache is not told of commits.
    KeepStaleRecords,
    SkipSync,
    LoseConflictCheck,
    /// A member joins the in-sync set without what was committed last.
    RecoverWithoutLast,
    /// A client that comes back is not told of one object that has changed.
    ForgetOneInvalidation,
    /// What one member cannot read no other one is asked.
    AskNobodyElse,
    /// Nobody is told that a member was taken out.
    DegradeSilently,
    /// What is cut from a copy is kept nowhere.
    KeepNothingAside,
    /// An iteration leaves out every sixteenth transaction.
    IterateOverLess,
    /// What a transaction depends on may have changed.
    LoseCurrentCheck,
    /// Each member stores another user.
    StoreAnotherUser,
    /// Of some transactions of several records, a recovery copies all but the last one.
    CopyOneRecordLess,
    /// The history of an object lacks its second revision.
    LoseARevision,
    /// The undo log lacks its second line.
    LoseAnUndoable,
    /// Two daemons ask different servers for new oids.
    AskAnybodyForOids,
}

const ALL: [Bug; 22] = [
    Bug::AcknowledgeBeforeRecord,
    Bug::WaitForAllButOne,
    Bug::LoseInvalidations,
    Bug::ReorderInvalidations,
    Bug::GoBackInTime,
    Bug::StartFromAnybody,
    Bug::ReadPastHead,
    Bug::KeepStaleRecords,
    Bug::SkipSync,
    Bug::LoseConflictCheck,
    Bug::RecoverWithoutLast,
    Bug::ForgetOneInvalidation,
    Bug::AskNobodyElse,
    Bug::DegradeSilently,
    Bug::KeepNothingAside,
    Bug::IterateOverLess,
    Bug::LoseCurrentCheck,
    Bug::StoreAnotherUser,
    Bug::CopyOneRecordLess,
    Bug::LoseARevision,
    Bug::LoseAnUndoable,
    Bug::AskAnybodyForOids,
];

/// Each is found within so many seeds.
const MOST: u64 = 200;

thread_local! {
    static MADE: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Whether this mistake is to be made on this thread.
pub(crate) fn is_made(bug: Bug) -> bool {
    MADE.get() == Some(bug)
}

pub(super) fn make(bug: Option<Bug>) {
    MADE.set(bug);
}

#[test]
#[ignore = "it takes minutes: tests/run --bugs"]
fn every_deliberate_mistake_is_found() {
    let first = super::given("SEED").unwrap_or(super::SHORT.start);
    let mut missed = Vec::new();
    let only = std::env::var("BUG").ok();
    let wanted = |bug: &Bug| only.as_ref().is_none_or(|only| *only == format!("{bug:?}"));
    let wanted: Vec<Bug> = ALL.into_iter().filter(wanted).collect();
    assert!(!wanted.is_empty(), "there is no mistake {only:?}");
    for bug in wanted {
        let found = (0..MOST).find_map(|number| {
            let seed = first + number;
            let outcome = history_with(seed, Some(bug));
            Some((seed, outcome.failure?))
        });
        if let Some((seed, by)) = found {
            let number = seed - first + 1;
            eprintln!("{bug:?}: found by SEED={seed}, the {number}. of them: {by}");
        } else {
            eprintln!("{bug:?}: NOT FOUND");
            missed.push(bug);
        }
    }
    assert!(
        missed.is_empty(),
        "not found within {MOST} seeds: {missed:?}"
    );
}
