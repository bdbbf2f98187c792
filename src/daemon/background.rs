//! The parent's half of `start`: runs this binary again with `fg --background`.
//!
//! Nothing forks here, because a process with threads must not. The child leaves the terminal's session
//! itself, first of all ([`leave_session`]); its standard error is the log file from the beginning, so
//! that nothing it says is lost, not even when it dies before it can log.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::error::DaemonError;
use super::logging::append;
use crate::config::Config;

/// Starts the daemon in the background. Whoever has the child can wait for the admin socket to answer,
/// or for the child's end; then the log file's last lines say why.
///
/// # Errors
/// Where the log file or this binary cannot be opened.
pub fn spawn(config: &Config, force: bool) -> Result<Child, DaemonError> {
    let binary = std::env::current_exe().map_err(DaemonError::system("find this program"))?;
    make_parent(&config.log.file)?;
    let log = append(&config.log.file);
    let log = log.map_err(DaemonError::io("open the log file", &config.log.file))?;
    let mut command = Command::new(&binary);
    command.arg("--instance").arg(&config.instance);
    command.args(["fg", "--background"]);
    if force {
        command.args(["--force", "--yes"]);
    }
    command
        .current_dir(&config.instance)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(DaemonError::io("start", binary))
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
