//! What signals ask of the daemon.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::error::DaemonError;

/// What a signal asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// `TERM`, `INT`: end gracefully; a second time: end at once.
    End,
    /// `HUP`: read the configuration again.
    Reload,
    /// `USR2`: open the log file anew, as Zope's programs do.
    Reopen,
}

/// The signals, from now on caught.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    user2: Signal,
}

impl Signals {
    pub(super) fn catch() -> Result<Signals, DaemonError> {
        let catch = |kind| signal(kind).map_err(DaemonError::system("catch signals"));
        Ok(Signals {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
            hang_up: catch(SignalKind::hangup())?,
            user2: catch(SignalKind::user_defined2())?,
        })
    }

    /// Waits for the next. Cancel safe.
    pub(super) async fn next(&mut self) -> Asked {
        // Each may be dropped: a signal that came meanwhile is still there the next time.
        crate::task::select! {
            _ = self.terminate.recv() => Asked::End,
            _ = self.interrupt.recv() => Asked::End,
            _ = self.hang_up.recv() => Asked::Reload,
            _ = self.user2.recv() => Asked::Reopen,
        }
    }

    /// Waits for one that asks to end.
    pub(super) async fn end(&mut self) {
        while self.next().await != Asked::End {}
    }
}
