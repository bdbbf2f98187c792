//! Waiting for a condition, never for luck.

use std::time::{Duration, Instant};

/// Short enough not to slow a test, long enough not to starve what it waits for on two cores.
const PAUSE: Duration = Duration::from_millis(20);

/// The one place that sleeps: between two looks at a condition.
#[expect(
    clippy::disallowed_methods,
    reason = "the pause between two looks, inside a deadline"
)]
pub(crate) fn pause() {
    std::thread::sleep(PAUSE);
}

/// Looks until the condition holds.
///
/// # Panics
/// After the deadline, with what was waited for.
#[track_caller]
pub(crate) fn until(what: &str, deadline: Duration, mut holds: impl FnMut() -> bool) {
    until_ok(what, deadline, || {
        if holds() { Ok(()) } else { Err("not yet") }
    });
}

/// Looks until there is an answer, and returns it.
///
/// # Panics
/// After the deadline, with what was waited for and why the last look failed.
#[track_caller]
pub(crate) fn until_ok<T, E: std::fmt::Display>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> Result<T, E>,
) -> T {
    let end = Instant::now() + deadline;
    loop {
        match look() {
            Ok(answer) => return answer,
            Err(why) if Instant::now() >= end => {
                panic!("waited {deadline:?} for {what}: {why}")
            }
            Err(_) => pause(),
        }
    }
}
