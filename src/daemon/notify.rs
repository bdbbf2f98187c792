//! What systemd is told: when the daemon is ready, how it is, that it lives.
//!
//! Without systemd (no `NOTIFY_SOCKET`) nothing of this does anything. A daemon in the background is
//! nobody's unit, and stays silent.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::task::{Stop, Tasks};

/// Tells systemd.
#[derive(Debug, Clone, Copy)]
pub(super) struct Notify {
    active: bool,
}

impl Notify {
    pub(super) fn new(active: bool) -> Self {
        Notify { active }
    }

    /// Clients are served.
    pub(super) fn ready(self, status: &str) {
        self.tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// How the arrays are, in a line.
    pub(super) fn status(self, status: &str) {
        self.tell(&[NotifyState::Status(status)]);
    }

    /// The start takes longer, and that is no failure.
    pub(super) fn still_starting(self, status: &str, more: Duration) {
        let micros = u32::try_from(more.as_micros()).unwrap_or(u32::MAX);
        self.tell(&[
            NotifyState::ExtendTimeoutUsec(micros),
            NotifyState::Status(status),
        ]);
    }

    /// A reload has begun; `ready` says that it is done.
    pub(super) fn reloading(self) {
        let mut states = vec![NotifyState::Reloading];
        states.extend(NotifyState::monotonic_usec_now().ok());
        self.tell(&states);
    }

    /// The end has begun, and may take so long.
    pub(super) fn stopping(self, at_most: Duration) {
        let micros = u32::try_from(at_most.as_micros()).unwrap_or(u32::MAX);
        self.tell(&[
            NotifyState::Stopping,
            NotifyState::ExtendTimeoutUsec(micros),
        ]);
    }

    /// Says twice in each interval of the watchdog that the runtime's tasks still run.
    pub(super) fn watch(self, tasks: &Tasks) {
        let Some(interval) = sd_notify::watchdog_enabled().filter(|_| self.active) else {
            return;
        };
        let stop = tasks.stop().clone();
        tasks.spawn("watchdog", self.alive(interval / 2, stop));
    }

    async fn alive(self, every: Duration, stop: Stop) {
        let mut ticks = tokio::time::interval(every.max(Duration::from_millis(10)));
        loop {
            // Both may be dropped: a tick that is not waited for comes again.
            crate::task::select! {
                _ = ticks.tick() => self.tell(&[NotifyState::Watchdog]),
                () = stop.requested() => return,
            }
        }
    }

    fn tell(self, states: &[NotifyState<'_>]) {
        if self.active
            && let Err(error) = sd_notify::notify(states)
        {
            tracing::debug!(%error, "could not tell systemd");
        }
    }
}
