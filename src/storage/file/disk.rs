//! The one file that the engine reads and writes, as little of it as it needs.
//!
//! Everything goes through [`Disk`], so that the crash tests can put a disk below the engine that
//! forgets what was not synced. Nothing here knows what the bytes mean.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;

use crate::durable::step;
use crate::zodb::Payload;

/// A file that is read and written at positions.
pub(super) trait Disk: Send + Sync + 'static {
    /// Reads until the buffer is full or the file ends; gives how much that was.
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize>;

    /// Reads what is in memory already, without waiting for the disk; gives how much that was, which
    /// is less than asked for where the disk would be needed, and none where nothing was.
    fn read_now(&self, into: &mut [u8], at: u64) -> io::Result<usize>;

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;

    fn set_len(&self, len: u64) -> io::Result<()>;

    fn len(&self) -> io::Result<u64>;

    /// Returns when everything that was written before is durable.
    fn sync(&self) -> io::Result<()>;

    /// A part that will not change, to be read later.
    fn piece(&self, at: u64, len: usize) -> io::Result<Payload>;

    /// Says that the file will be read from its beginning to its end.
    fn will_be_scanned(&self) {}

    /// Whether this is what a path leads to.
    fn is_at(&self, _path: &Path) -> io::Result<bool> {
        Ok(true)
    }
}

/// Opens a file that is there.
pub(super) fn open(path: &Path) -> io::Result<Arc<dyn Disk>> {
    #[cfg(test)]
    if crate::simulation::is_on() {
        return super::simulated::open_disk(path);
    }
    Ok(Arc::new(FileDisk::open(path)?))
}

/// Makes a file that must not be there yet. It is durable once it and its folder are synced.
pub(super) fn create(path: &Path) -> io::Result<Arc<dyn Disk>> {
    let made = FileDisk::create(path)?;
    #[cfg(test)]
    if crate::simulation::is_on() {
        return super::simulated::open_disk(path);
    }
    Ok(Arc::new(made))
}

/// A file of the operating system.
#[derive(Debug)]
pub(super) struct FileDisk(Arc<File>);

impl FileDisk {
    /// Opens a file that is there.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        Ok(FileDisk(Arc::new(file)))
    }

    /// Opens a file that is there, and that is nobody's to write to from here.
    pub(super) fn open_to_read(path: &Path) -> io::Result<Self> {
        Ok(FileDisk(Arc::new(File::open(path)?)))
    }

    /// Makes a file that must not be there yet. It is durable once it and its folder are synced.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        Ok(FileDisk(Arc::new(step::create_new(path)?)))
    }
}

impl Disk for FileDisk {
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < into.len() {
            match self.0.read_at(&mut into[done..], at + done as u64) {
                Ok(0) => break,
                Ok(more) => done += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    #[cfg(target_os = "linux")]
    fn read_now(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        use rustix::io::{Errno, ReadWriteFlags, preadv2};
        let mut into = [io::IoSliceMut::new(into)];
        match preadv2(&*self.0, &mut into, at, ReadWriteFlags::NOWAIT) {
            Ok(done) => Ok(done),
            // The disk is needed; the file system cannot tell; the kernel is old; a signal came.
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::INTR) => {
                Ok(0)
            }
            Err(error) => Err(error.into()),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn read_now(&self, _into: &mut [u8], _at: u64) -> io::Result<usize> {
        Ok(0)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        step::write_at(&self.0, bytes, at)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        step::set_len(&self.0, len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn is_at(&self, path: &Path) -> io::Result<bool> {
        let there = match std::fs::metadata(path) {
            Ok(there) => there,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let here = self.0.metadata()?;
        Ok((there.dev(), there.ino()) == (here.dev(), here.ino()))
    }

    fn sync(&self) -> io::Result<()> {
        step::sync(&self.0)
    }

    fn piece(&self, at: u64, len: usize) -> io::Result<Payload> {
        Ok(Payload::piece(Arc::clone(&self.0), at, len))
    }

    #[cfg(target_os = "linux")]
    fn will_be_scanned(&self) {
        // Advice only: a file system that does not take it is read as well.
        let sequential = rustix::fs::Advice::Sequential;
        rustix::fs::fadvise(&*self.0, 0, None, sequential).unwrap_or_default();
    }
}
