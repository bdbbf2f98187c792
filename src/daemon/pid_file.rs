//! The pid file: says which process is the daemon, and is locked as long as it lives.
//!
//! The lock is what counts; the number in the file is for people and scripts. A lock ends with its
//! process, so the file of a killed daemon stops nobody.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::error::DaemonError;

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
                return Err(DaemonError::AlreadyRunning {
                    path: path.to_owned(),
                    pid: read_pid(&mut file),
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
    fn the_file_of_a_killed_daemon_stops_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("zeoraid.pid");
        std::fs::write(&path, "4194304999999\n").unwrap();
        let _taken = PidFile::take(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
    }
}
