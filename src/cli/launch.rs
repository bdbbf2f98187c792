//! The daemon as a process: running it here, running it in the background, seeing whether it runs.

use std::process::Child;

use super::error::CliError;
use super::exit::Exit;
use crate::config::Config;
use crate::daemon::{self, DaemonError, Start};

/// Runs the daemon in this process, until it ends.
pub(super) fn run(config: Config, start: Start) -> Result<Exit, CliError> {
    daemon::run(config, start).map_err(failed)?;
    Ok(Exit::Done)
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

/// Whether this process runs. One that has ended and that nobody has asked about does not.
pub(super) fn is_running(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
    else {
        return false;
    };
    if rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH) {
        return false;
    }
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    // The state stands after the name, which is in brackets and may hold anything.
    let state = stat.ok().and_then(|stat| {
        let (_, after) = stat.rsplit_once(')')?;
        after.trim_start().chars().next()
    });
    !matches!(state, Some('Z' | 'X'))
}
