//! What time it is. Asked here and nowhere else, so that a simulation has a time of its own.

use std::time::{Duration, Instant};

use jiff::Timestamp;

/// The time by the system's clock. It may jump, forwards and back.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that asks the system"
)]
pub fn now() -> Timestamp {
    #[cfg(test)]
    if let Some(now) = crate::simulation::now() {
        return now;
    }
    Timestamp::now()
}

/// The time for measuring how long something takes: the one that tokio's timers go by. It never jumps.
#[must_use]
pub fn instant() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// How long it is since then.
#[must_use]
pub fn since(then: Instant) -> Duration {
    instant().saturating_duration_since(then)
}
