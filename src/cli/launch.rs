//! The daemon as a process: running it here, running it in the background, seeing whether it runs.

use std::process::Child;

use super::error::CliError;
use super::exit::Exit;
use crate::config::Config;

/// Runs the daemon in this process.
pub(super) fn run(config: Config, force: bool) -> Result<Exit, CliError> {
    let _ = (config, force);
    Err(CliError::new("the daemon is not merged yet"))
}

/// Runs the daemon in the background.
pub(super) fn spawn(config: &Config, force: bool) -> Result<Child, CliError> {
    let _ = (config, force);
    Err(CliError::new("the daemon is not merged yet"))
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
