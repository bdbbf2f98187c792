//! The daemon as a process: running it here, running it in the background, seeing whether it runs.

use std::process::{Child, Command};

use super::error::CliError;
use super::exit::Exit;
use crate::config::Config;
pub(super) use crate::daemon::is_running;
use crate::daemon::{self, DaemonError, Start};

/// Runs the daemon in this process, until it ends.
pub(super) fn run(config: Config, start: Start) -> Result<Exit, CliError> {
    daemon::run(config, start).map_err(failed)?;
    Ok(Exit::Done)
}

/// Whether this user may start it.
pub(super) fn check_user(config: &Config) -> Result<(), CliError> {
    daemon::background::check_user(config).map_err(failed)
}

/// Runs the daemon in the background.
pub(super) fn spawn(config: &Config, force: bool) -> Result<Child, CliError> {
    daemon::background::spawn(config, force).map_err(failed)
}

fn failed(error: DaemonError) -> CliError {
    let failed = CliError::new(error.to_string());
    match error.next() {
        Some(next) => failed.with_next(next),
        None => failed,
    }
}

/// The command that runs the daemon in a process of its own, in the foreground.
pub(super) fn foreground(config: &Config, force: bool) -> Result<Command, CliError> {
    daemon::background::this_binary(config, force).map_err(failed)
}

/// Signals the daemon; its pid, or none where none runs.
pub(super) fn signal(config: &Config, signal: Signal) -> Result<Option<u32>, CliError> {
    daemon::background::send(config, signal.0).map_err(failed)
}

/// A signal, as people name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Signal(rustix::process::Signal);

/// Those that say something to a daemon; any other goes by its number.
const SIGNALS: &[(&str, rustix::process::Signal)] = {
    use rustix::process::Signal as S;
    &[
        ("HUP", S::HUP),
        ("INT", S::INT),
        ("QUIT", S::QUIT),
        ("ABRT", S::ABORT),
        ("KILL", S::KILL),
        ("USR1", S::USR1),
        ("USR2", S::USR2),
        ("TERM", S::TERM),
        ("STOP", S::STOP),
        ("CONT", S::CONT),
    ]
};

impl Signal {
    /// `TERM`, `sigterm`, `15`.
    pub(super) fn parse(text: &str) -> Result<Signal, String> {
        if let Ok(number) = text.parse() {
            return rustix::process::Signal::from_named_raw(number)
                .map(Signal)
                .ok_or_else(|| format!("there is no signal {number}"));
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let found = SIGNALS.iter().find(|(known, _)| *known == name);
        found.map(|(_, signal)| Signal(*signal)).ok_or_else(|| {
            let names: Vec<&str> = SIGNALS.iter().map(|(name, _)| *name).collect();
            format!("one of {}, or a number", names.join(", "))
        })
    }
}

impl std::fmt::Display for Signal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match SIGNALS.iter().find(|(_, signal)| *signal == self.0) {
            Some((name, _)) => write!(f, "SIG{name}"),
            None => write!(f, "signal {}", self.0.as_raw()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for text in ["TERM", "SIGTERM", "term", "sigTerm", "15"] {
            assert_eq!(
                Signal::parse(text).unwrap().to_string(),
                "SIGTERM",
                "{text}"
            );
        }
        assert_eq!(Signal::parse("7").unwrap().to_string(), "signal 7");
        for text in ["", "TERMINATE", "0", "-1", "99999"] {
            assert!(Signal::parse(text).is_err(), "{text}");
        }
    }
}
