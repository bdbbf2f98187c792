//! Disks: how fast and how well each does what it is asked, and what of its files is not durable.
//!
//! A machine has a disk of its own, where a daemon keeps its membership record and what is being uploaded.
//! Each file member has one beside it, so that what goes wrong with a copy goes wrong with that copy alone.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::storage::file::Unsynced;

/// One disk.
#[derive(Debug)]
pub(crate) struct Drive {
    /// The machine's name, or `machine/member`.
    pub(super) name: String,
    /// How much slower it is than usual.
    pub(super) slowness: AtomicU32,
    pub(super) full: AtomicBool,
    /// The next sync fails.
    pub(super) sync_fails: AtomicBool,
    /// A sync has failed under a process that still runs.
    has_failed: AtomicBool,
    /// By inode, in the order in which they were opened: inodes are others in every run.
    unsynced: Mutex<Vec<(u64, Arc<Unsynced>)>>,
}

impl Drive {
    pub(super) fn new(name: String) -> Arc<Drive> {
        Arc::new(Drive {
            name,
            slowness: AtomicU32::new(1),
            full: AtomicBool::new(false),
            sync_fails: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
            unsynced: Mutex::default(),
        })
    }

    /// What is not durable of a file: it outlives who has the file open.
    pub(crate) fn unsynced_of(&self, inode: u64, make: impl FnOnce() -> Unsynced) -> Arc<Unsynced> {
        let mut unsynced = self.unsynced.lock();
        unsynced
            .retain(|(key, one)| *key == inode || !one.is_empty() || Arc::strong_count(one) > 1);
        if let Some((_, found)) = unsynced.iter().find(|(key, _)| *key == inode) {
            return Arc::clone(found);
        }
        let made = Arc::new(make());
        unsynced.push((inode, Arc::clone(&made)));
        made
    }

    /// What of a file is not durable.
    pub(super) fn unsynced(&self, inode: u64) -> Option<Arc<Unsynced>> {
        let unsynced = self.unsynced.lock();
        let found = unsynced.iter().find(|(key, _)| *key == inode);
        found.map(|(_, one)| Arc::clone(one))
    }

    /// The power goes. Gives how many writes were lost.
    pub(super) fn lose_power(&self) -> usize {
        let unsynced = std::mem::take(&mut *self.unsynced.lock());
        let lost = unsynced
            .iter()
            .map(|(_, one)| one.lose().expect("the test's disk works"));
        lost.sum()
    }

    pub(crate) fn has_room(&self) -> io::Result<()> {
        if self.full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    pub(crate) fn sync_works(&self) -> io::Result<()> {
        if self.sync_fails.swap(false, Ordering::SeqCst) {
            self.has_failed.store(true, Ordering::SeqCst);
            return Err(io::Error::other("the disk does not answer"));
        }
        Ok(())
    }

    /// Whether a sync has failed under the process that runs: it may refuse everything until it is
    /// started again.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::SeqCst)
    }

    /// The process that saw it fail has ended.
    pub(super) fn is_left(&self) {
        self.has_failed.store(false, Ordering::SeqCst);
    }

    pub(super) fn mend(&self) {
        self.slowness.store(1, Ordering::SeqCst);
        self.full.store(false, Ordering::SeqCst);
        self.sync_fails.store(false, Ordering::SeqCst);
    }

    /// Something else may happen first.
    pub(crate) async fn short_pause(&self) {
        let slowness = self.slowness.load(Ordering::SeqCst);
        match fastrand::u8(..16) {
            0 | 1 => {
                let most = if fastrand::u8(..8) == 0 { 100 } else { 4 };
                let most = most * u64::from(slowness);
                tokio::time::sleep(Duration::from_millis(fastrand::u64(1..=most))).await;
            }
            2..5 => tokio::task::yield_now().await,
            _ => {}
        }
    }

    /// As long as a sync takes.
    pub(crate) async fn sync_pause(&self) {
        let slowness = self.slowness.load(Ordering::SeqCst);
        let most = 6 * u64::from(slowness);
        tokio::time::sleep(Duration::from_millis(fastrand::u64(1..=most))).await;
    }
}
