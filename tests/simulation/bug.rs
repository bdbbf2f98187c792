//! Deliberate mistakes, each in one line of the product, and that each is found.
//!
//! `cargo test --lib simulation::bug -- --ignored` makes one after the other and says after how many seeds
//! it was found, and by what; `BUG=SkipSync` makes only that one.

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
}

const ALL: [Bug; 17] = [
    Bug::AcknowledgeBeforeRecord,
    Bug::WaitForAllButOne,
    Bug::LoseInvalidations,
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
#[ignore = "it takes minutes"]
fn every_deliberate_mistake_is_found() {
    let first = super::given("SEED").unwrap_or(100);
    let mut missed = Vec::new();
    let only = std::env::var("BUG").ok();
    let wanted = |bug: &Bug| only.as_ref().is_none_or(|only| *only == format!("{bug:?}"));
    for bug in ALL.into_iter().filter(wanted) {
        let found = (0..MOST).find_map(|number| {
            let outcome = history_with(first + number, Some(bug));
            Some((number + 1, outcome.failure?))
        });
        match found {
            Some((seeds, by)) => eprintln!("{bug:?}: found after {seeds} seeds: {by}"),
            None => missed.push(bug),
        }
    }
    assert!(
        missed.is_empty(),
        "not found within {MOST} seeds: {missed:?}"
    );
}
