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

/// The lock, held until dropped.
#[derive(Debug)]
pub(super) struct LockFile(#[expect(dead_code, reason = "closing it lets go of the lock")] File);

impl LockFile {
    pub(super) fn take(path: &Path) -> Result<Self, Fault> {
        let fault = |error: io::Error| Fault::io(format!("locking {}", path.display()), error);
        let mut file = step::open_or_create(path).map_err(fault)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => (),
            Err(Errno::WOULDBLOCK) => return Err(Fault::InUse(held_by(path, &mut file))),
            Err(error) => return Err(fault(error.into())),
        }
        let write = || {
            step::set_len(&file, 0)?;
            step::write_at(&file, format!(" {}\n", std::process::id()).as_bytes(), 0)
        };
        write().map_err(fault)?;
        Ok(LockFile(file))
    }
}

fn held_by(path: &Path, file: &mut File) -> String {
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
}
