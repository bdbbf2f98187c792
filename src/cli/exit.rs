//! Exit codes, chosen in this one place.
//!
//! | code | meaning |
//! | --- | --- |
//! | 0 | done |
//! | 1 | could not be done; the message says what, and what next |
//! | 2 | wrong usage; of what starts a daemon, also a configuration that is missing or has mistakes |
//!
//! `status` and `details` answer with the codes of the Nagios plugin protocol instead: 0 optimal,
//! 1 recovering, or optimal and something has to be looked at, 2 degraded or failed, 3 unknown.

use std::process::ExitCode;

use crate::admin::api::ArrayState;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done,
    Failed,
    Usage,
    /// Of `status` and `details`.
    State(ArrayState),
    /// Of `status` and `details`: the state is well, and an operator should look at something.
    Attention,
    /// Of `status` and `details` where nobody could be asked.
    Unknown,
}

impl Exit {
    pub fn code(self) -> u8 {
        match self {
            Exit::Done | Exit::State(ArrayState::Optimal) => 0,
            Exit::Failed | Exit::Attention | Exit::State(ArrayState::Recovering) => 1,
            Exit::Usage | Exit::State(ArrayState::Degraded | ArrayState::Failed) => 2,
            Exit::Unknown => 3,
        }
    }

    /// As [`Self::of_states`], of arrays of which some should be looked at.
    pub fn of_arrays(arrays: impl IntoIterator<Item = (ArrayState, bool)>) -> Exit {
        let (mut states, mut attention) = (Vec::new(), false);
        for (state, look) in arrays {
            states.push(state);
            attention |= look;
        }
        match Exit::of_states(states) {
            Exit::State(ArrayState::Optimal) if attention => Exit::Attention,
            exit => exit,
        }
    }

    /// Of several arrays, the worst counts.
    pub fn of_states(states: impl IntoIterator<Item = ArrayState>) -> Exit {
        let severity = |state: &ArrayState| match state {
            ArrayState::Optimal => 0,
            ArrayState::Recovering => 1,
            ArrayState::Degraded => 2,
            ArrayState::Failed => 3,
        };
        match states.into_iter().max_by_key(severity) {
            Some(worst) => Exit::State(worst),
            None => Exit::Unknown,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_array_decides() {
        use ArrayState::{Degraded, Failed, Optimal, Recovering};

        let code = |states: &[ArrayState]| Exit::of_states(states.iter().copied()).code();
        assert_eq!(code(&[Optimal]), 0);
        assert_eq!(code(&[Optimal, Recovering]), 1);
        assert_eq!(code(&[Degraded, Recovering]), 2);
        assert_eq!(code(&[Failed, Optimal]), 2);
        assert_eq!(code(&[]), 3);
        let code = |arrays: &[(ArrayState, bool)]| Exit::of_arrays(arrays.iter().copied()).code();
        assert_eq!(code(&[(Optimal, false)]), 0);
        assert_eq!(code(&[(Optimal, true), (Optimal, false)]), 1);
        assert_eq!(code(&[(Optimal, true), (Degraded, false)]), 2);
        assert_eq!(code(&[]), 3);
    }
}
