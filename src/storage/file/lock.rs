//! `Data.fs.lock`: who has the file open for writing.
//!
//! As the `zc.lockfile` package has it, so that Python's `FileStorage` and this one refuse each other:
//! `flock` on a file beside, which holds the process's number and stays when the lock is gone.
//! Source: `zc/lockfile/__init__.py`, `SimpleLockFile`, `LockFile`.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::durable::step;
use crate::storage::Fault;

/// The lock of a `Data.fs`, held until dropped.
#[derive(Debug)]
pub(super) struct LockFile(#[expect(dead_code, reason = "dropping it lets go of the lock")] Flock);

impl LockFile {
    pub(super) fn take(path: &Path) -> Result<Self, Fault> {
        let fault = |error: io::Error| Fault::io(format!("locking {}", path.display()), error);
        let file = step::open_or_create(path).map_err(fault)?;
        let lock = match Flock::take(file).map_err(fault)? {
            Ok(lock) => lock,
            Err(file) => return Err(Fault::InUse(held_by(path, &file))),
        };
        let write = || {
            step::set_len(&lock.0, 0)?;
            step::write_at(&lock.0, format!(" {}\n", std::process::id()).as_bytes(), 0)
        };
        write().map_err(fault)?;
        Ok(LockFile(lock))
    }
}

fn held_by(path: &Path, file: &File) -> String {
    let mut text = String::new();
    let number = match file.take(64).read_to_string(&mut text) {
        Ok(_) => text.split_whitespace().next(),
        Err(_) => None,
    };
    match number {
        Some(number) => format!("process {number} holds {}", path.display()),
        None => format!("another process holds {}", path.display()),
    }
}

/// An exclusive `flock` of a file or a folder, held until dropped.
#[derive(Debug)]
pub(super) struct Flock(File);

impl Flock {
    /// Gives the file back where somebody else has the lock. Does not wait.
    pub(super) fn take(file: File) -> io::Result<Result<Self, File>> {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Ok(Flock(file))),
            Err(Errno::WOULDBLOCK) => Ok(Err(file)),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Flock {
    /// Lets go of it by name, as `zc.lockfile` does: to close the file is not enough while a process that
    /// another thread starts is between its fork and its exec, and so has the file open as well.
    fn drop(&mut self) {
        if let Err(error) = flock(&self.0, FlockOperation::Unlock) {
            tracing::warn!(%error, "could not let go of a lock");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_is_refused_and_names_the_holder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("Data.fs.lock");
        let lock = LockFile::take(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!(" {}\n", std::process::id()));
        let Err(Fault::InUse(why)) = LockFile::take(&path) else {
            panic!("the lock is held");
        };
        assert!(why.contains(&std::process::id().to_string()), "{why}");
        drop(lock);
        LockFile::take(&path).unwrap();
    }

    #[test]
    fn a_child_that_is_being_started_does_not_keep_the_lock() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || File::open(file.path()).unwrap();
        let lock = Flock::take(open()).unwrap().expect("nobody has it");
        // What a fork does: the same open file, by another descriptor.
        let _of_the_child = lock.0.try_clone().unwrap();
        Flock::take(open()).unwrap().expect_err("it is taken");
        drop(lock);
        Flock::take(open()).unwrap().expect("nobody has it");
    }
}
