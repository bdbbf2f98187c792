//! The pid file: says which process is the daemon, and is locked as long as it lives.
//!
//! The lock is what counts; the number in the file is for people and scripts. A lock ends with its
//! process, so the file of a killed daemon stops nobody.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use super::error::DaemonError;

/// How often a lock is tried that no living daemon seems to have.
const LOOKS: usize = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// A locked pid file. Dropping it removes the file and ends the lock.
#[derive(Debug)]
pub(super) struct PidFile {
    path: PathBuf,
    file: File,
}

impl PidFile {
    /// Takes the lock and writes this process's number.
    ///
    /// # Errors
    /// [`DaemonError::AlreadyRunning`] with the number of the process that has it.
    pub(super) fn take(path: &Path) -> Result<PidFile, DaemonError> {
        let mut looks = 0;
        loop {
            let mut file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)
                .map_err(DaemonError::io("open the pid file", path))?;
            if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
                let error = io::Error::from(error);
                if error.kind() != io::ErrorKind::WouldBlock {
                    return Err(DaemonError::io("lock the pid file", path)(error));
                }
                let pid = read_pid(&mut file);
                // Somebody who looks whether a daemon runs has the lock for a moment, and is no daemon.
                if pid.is_none_or(|pid| !is_running(pid)) && looks < LOOKS {
                    looks += 1;
                    std::thread::park_timeout(BETWEEN_LOOKS);
                    continue;
                }
                return Err(DaemonError::AlreadyRunning {
                    path: path.to_owned(),
                    pid,
                });
            }
            // Whoever had it may have removed the file between our opening and our locking it.
            if !is_at(&file, path) {
                continue;
            }
            write_pid(&mut file).map_err(DaemonError::io("write the pid file", path))?;
            return Ok(PidFile {
                path: path.to_owned(),
                file,
            });
        }
    }
}

/// The number of the process that has the lock; none where nobody has it. It takes the lock for a moment
/// to find out.
///
/// # Errors
/// Where the file cannot be read, or holds no number although it is locked.
pub(super) fn holder(path: &Path) -> Result<Option<u32>, DaemonError> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(DaemonError::io("open the pid file", path)(error)),
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => {
            // Closing the file is not enough while a child of this process has it open as well.
            let given_back = flock(&file, FlockOperation::Unlock);
            given_back
                .map_err(|error| DaemonError::io("unlock the pid file", path)(error.into()))?;
            return Ok(None);
        }
        Err(rustix::io::Errno::WOULDBLOCK) => {}
        Err(error) => return Err(DaemonError::io("lock the pid file", path)(error.into())),
    }
    if !is_at(&file, path) {
        return Ok(None);
    }
    if let Some(pid) = read_pid(&mut file) {
        return Ok(Some(pid));
    }
    let error = io::Error::new(
        io::ErrorKind::InvalidData,
        "there is no number in it yet: the daemon is just starting",
    );
    Err(DaemonError::io("read the pid file", path)(error))
}

/// Whether this process runs. One that has ended and that nobody has asked about does not.
pub fn is_running(pid: u32) -> bool {
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

impl Drop for PidFile {
    fn drop(&mut self) {
        // While it is still locked, and only where it is still ours.
        if is_at(&self.file, &self.path)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "could not remove the pid file");
        }
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(named)) => identity(open) == identity(named),
        _ => false,
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_refused_with_the_first_ones_pid() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("zeoraid.pid");
        let first = PidFile::take(&path).unwrap();
        let error = PidFile::take(&path).unwrap_err();
        let expected = format!(
            "the daemon of this instance runs already; pid={}",
            std::process::id()
        );
        assert_eq!(error.to_string(), expected);
        drop(first);
        assert!(!path.exists());
        PidFile::take(&path).unwrap();
    }

    #[test]
    fn only_who_has_the_lock_is_the_daemon() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("zeoraid.pid");
        assert_eq!(holder(&path).unwrap(), None);
        // The number of a process that lives, and is no daemon.
        std::fs::write(&path, format!("{}\n", std::process::id())).unwrap();
        assert_eq!(holder(&path).unwrap(), None);
        let taken = PidFile::take(&path).unwrap();
        assert_eq!(holder(&path).unwrap(), Some(std::process::id()));
        drop(taken);
        assert_eq!(holder(&path).unwrap(), None);
    }

    #[test]
    fn the_file_of_a_killed_daemon_stops_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("zeoraid.pid");
        std::fs::write(&path, "4194304999999\n").unwrap();
        let _taken = PidFile::take(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
    }
}
