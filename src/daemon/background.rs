//! The parent's half of `start`: runs this binary again with `fg --background`.
//!
//! Nothing forks here, because a process with threads must not. The child leaves the terminal's session
//! itself, first of all ([`leave_session`]); its standard error is the log file from the beginning, so
//! that nothing it says is lost, not even when it dies before it can log.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::io::Errno;
use rustix::process::{Pid, Signal};
#[cfg(target_os = "linux")]
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};

use super::error::DaemonError;
use super::logging::append;
use super::{pid_file, user};
use crate::config::Config;

/// Whether this user may start the daemon.
///
/// # Errors
/// Where the configuration names another, and only root could become that one.
pub fn check_user(config: &Config) -> Result<(), DaemonError> {
    user::check(config)
}

/// Starts the daemon in the background. Whoever has the child can wait for the admin socket to answer,
/// or for the child's end; then the log file's last lines say why.
///
/// # Errors
/// Where the log file or this binary cannot be opened.
pub fn spawn(config: &Config, force: bool) -> Result<Child, DaemonError> {
    // The log, too, is the daemon's user's.
    let log = user::as_effective(config, || {
        make_parent(&config.log.file)?;
        append(&config.log.file).map_err(DaemonError::io("open the log file", &config.log.file))
    })?;
    let mut command = this_binary(config, force)?;
    command
        .arg("--background")
        .current_dir(&config.instance)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    command
        .spawn()
        .map_err(DaemonError::system("start this program again"))
}

/// This binary with `fg`, about this instance.
///
/// # Errors
/// Where the binary cannot be found.
pub fn this_binary(config: &Config, force: bool) -> Result<Command, DaemonError> {
    let binary = std::env::current_exe().map_err(DaemonError::system("find this program"))?;
    let mut command = Command::new(binary);
    command.arg("--instance").arg(&config.instance).arg("fg");
    if force {
        command.args(["--force", "--yes"]);
    }
    Ok(command)
}

/// Sends a signal to the daemon of an instance; the number of its process, or none where none runs.
///
/// # Errors
/// Where it cannot be found out, or this user may not.
pub fn send(config: &Config, signal: Signal) -> Result<Option<u32>, DaemonError> {
    let path = &config.pid_file;
    let Some(pid) = pid_file::holder(path)? else {
        return Ok(None);
    };
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let Some(process) = number else {
        return Ok(None);
    };
    let sent = || -> rustix::io::Result<bool> {
        #[cfg(target_os = "linux")]
        {
            // The process that has this number now, and none that may get it later: where the lock is still
            // its, it was the daemon all the time.
            let handle = pidfd_open(process, PidfdFlags::empty())?;
            if pid_file::holder(path).ok().flatten() != Some(pid) {
                return Ok(false);
            }
            pidfd_send_signal(handle, signal)?;
        }
        #[cfg(not(target_os = "linux"))]
        rustix::process::kill_process(process, signal)?;
        Ok(true)
    };
    match sent() {
        Ok(true) => Ok(Some(pid)),
        Ok(false) | Err(Errno::SRCH) => Ok(None),
        Err(error) => Err(DaemonError::System {
            what: "send the signal",
            source: error.into(),
        }),
    }
}

/// Leaves the session of the terminal that it was started from, so that it outlives it.
pub(super) fn leave_session() {
    // It fails where the process leads a group, which one that was spawned by `spawn` does not; and
    // then only the terminal's end would reach it.
    if let Err(error) = rustix::process::setsid() {
        tracing::debug!(%error, "could not begin a session");
    }
}

/// Makes the folder that a file will be in.
pub(super) fn make_parent(file: &Path) -> Result<(), DaemonError> {
    match file.parent() {
        Some(folder) => make_folder(folder),
        None => Ok(()),
    }
}

pub(super) fn make_folder(folder: &Path) -> Result<(), DaemonError> {
    std::fs::create_dir_all(folder).map_err(DaemonError::io("make the folder", folder))
}
