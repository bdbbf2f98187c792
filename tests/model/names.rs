//! The names of the model's transitions, which comments in the code repeat: `// MODEL: Acknowledge`.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! transitions {
    ($($name:ident,)*) => {
        /// What a daemon does. Each is a place in `src/raid` with a comment that names it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) enum T { $($name,)* }

        pub(crate) const ALL: &[(T, &str)] = &[$((T::$name, stringify!($name)),)*];
    };
}

transitions! {
    // The start.
    Open,
    Start,
    Assembled,
    TakePlaces,
    Block,
    PassOver,
    // A commit.
    AskForVotes,
    MemberVoted,
    CountBallots,
    FinishAsked,
    AskToFinish,
    MemberFinished,
    AwaitRecord,
    Acknowledge,
    GiveUp,
    Gone,
    // Members.
    Lose,
    StartAnew,
    DropParticipant,
    Disable,
    // The record.
    ChangeMembership,
    WriteRecord,
    Recorded,
    RecordFailed,
    // A recovery.
    Recover,
    StartRecovery,
    Analyse,
    Rewind,
    Copy,
    Overtaken,
    GrantCatchUp,
    EndCatchUp,
    LetIn,
    Joined,
    JoinFailed,
    EndRecovery,
    // Others who write.
    Foreign,
    Inquired,
    AcknowledgeForeign,
    Level,
    ChooseAnew,
    KeepLocks,
    HoldFurthest,
    GiveLocksBack,
    WaitForLevel,
    VoteAgain,
}

static TAKEN: AtomicU64 = AtomicU64::new(0);

/// Notes that a transition was taken.
pub(crate) fn take(transition: T) {
    let flag = 1 << transition as u32;
    if TAKEN.load(Ordering::Relaxed) & flag == 0 {
        TAKEN.fetch_or(flag, Ordering::Relaxed);
    }
}

/// Which were never taken by any exploration of this process.
pub(crate) fn never_taken() -> Vec<&'static str> {
    let taken = TAKEN.load(Ordering::Relaxed);
    let missing = ALL.iter().filter(|(it, _)| taken & (1 << *it as u32) == 0);
    missing.map(|(_, name)| *name).collect()
}
