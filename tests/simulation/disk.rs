//! The file engine where time is simulated: no threads, and a disk that loses what was not synced.
//!
//! What the engine's threads do is done by two tasks, a moment later than it was asked: the order of
//! writes and syncs is the same, and between a write and its sync there is time for a crash.
//!
//! A [`SimulatedDisk`] writes to a real file at once, as a page cache does: a process that dies loses
//! nothing. Of every write the disk's [`Drive`] remembers what was there before until the file is synced. When
//! its power goes, each write that was not synced is kept, lost or torn, whatever its order. Files that
//! do not go through [`Disk`] (indexes, blobs, what is set aside) are durable at once here.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::FileStorage;
use super::commit::{FileTransaction, Round};
use super::disk::Disk;
use super::engine::{Engine, Job};
use crate::simulation::{self, Drive, Life};
use crate::storage::{Result, Transaction, TxnToken};
use crate::zodb::{Payload, Tid, TxnMeta};

/// What is queued for the tasks that stand for the threads.
pub(super) struct Inline {
    jobs: Mutex<VecDeque<Job>>,
    job_came: Notify,
    sync_wanted: Notify,
    /// The sync that is under way.
    round: Mutex<Option<Round>>,
    open: AtomicBool,
    engine: OnceLock<Weak<Engine>>,
}

impl Inline {
    pub(super) fn where_simulated() -> Option<Self> {
        simulation::is_on().then(|| Inline {
            jobs: Mutex::default(),
            job_came: Notify::new(),
            sync_wanted: Notify::new(),
            round: Mutex::new(None),
            open: AtomicBool::new(true),
            engine: OnceLock::new(),
        })
    }

    pub(super) fn queue(&self, job: Job) -> bool {
        // What the dead still ask while they are dropped is not done.
        let dead = simulation::current().is_none_or(|life| life.is_dead());
        if dead || !self.open.load(Ordering::SeqCst) {
            return false;
        }
        self.jobs.lock().push_back(job);
        self.job_came.notify_one();
        true
    }

    pub(super) fn wake_syncer(&self) {
        self.sync_wanted.notify_one();
    }

    fn run_next(&self, engine: &Arc<Engine>) -> bool {
        let job = self.jobs.lock().pop_front();
        let found = job.is_some();
        if let Some(job) = job {
            job(engine);
        }
        found
    }

    /// Ends the sync that is under way, and syncs until nothing is being finished.
    pub(super) fn settle(&self) {
        let Some(engine) = self.engine.get().and_then(Weak::upgrade) else {
            return;
        };
        loop {
            let under_way = self.round.lock().take();
            let round = if let Some(round) = under_way {
                round
            } else {
                let mut tail = engine.tail.lock();
                tail.syncing = false;
                if !tail.has_finishing() {
                    return;
                }
                let round = Round::begin(&mut tail, &engine.paths.data);
                drop(tail);
                if let Err(fault) = engine.make_final(&round) {
                    engine.end_round(round, Err(fault));
                    return;
                }
                round
            };
            if !engine.end_round(round, engine.sync()) {
                return;
            }
        }
    }

    /// Whether it was open.
    pub(super) fn close(&self) -> bool {
        let first = self.open.swap(false, Ordering::SeqCst);
        self.settle();
        if let Some(engine) = self.engine.get().and_then(Weak::upgrade) {
            while self.run_next(&engine) {}
        }
        self.abandon();
        first
    }

    pub(super) fn abandon(&self) {
        self.open.store(false, Ordering::SeqCst);
        if simulation::current().is_none_or(|life| life.is_dead()) {
            // They may hold the engine.
            let jobs = std::mem::take(&mut *self.jobs.lock());
            drop(jobs);
        }
        self.job_came.notify_one();
        self.sync_wanted.notify_one();
    }
}

/// Starts the tasks that stand for the threads.
pub(super) fn start(engine: &Arc<Engine>) {
    let inline = engine.inline.as_ref().expect("it is simulated");
    inline.engine.set(Arc::downgrade(engine)).ok();
    drop(simulation::spawn(write(Arc::clone(engine))));
    drop(simulation::spawn(sync(Arc::clone(engine))));
}

async fn write(engine: Arc<Engine>) {
    let drive = simulation::life().machine.drive_of(&engine.paths.data);
    let inline = engine.inline.as_ref().expect("it is simulated");
    loop {
        let more = !inline.jobs.lock().is_empty();
        if more {
            drive.short_pause().await;
            inline.run_next(&engine);
        } else if inline.open.load(Ordering::SeqCst) {
            inline.job_came.notified().await;
        } else {
            return;
        }
    }
}

async fn sync(engine: Arc<Engine>) {
    let drive = simulation::life().machine.drive_of(&engine.paths.data);
    let inline = engine.inline.as_ref().expect("it is simulated");
    loop {
        let round = {
            let mut tail = engine.tail.lock();
            tail.syncing = false;
            if tail.has_to_be_synced() && (!tail.stop || tail.has_finishing()) {
                Some(Round::begin(&mut tail, &engine.paths.data))
            } else if tail.stop {
                return;
            } else {
                None
            }
        };
        let Some(round) = round else {
            inline.sync_wanted.notified().await;
            continue;
        };
        if let Err(fault) = engine.make_final(&round) {
            engine.end_round(round, Err(fault));
            return;
        }
        *inline.round.lock() = Some(round);
        drive.sync_pause().await;
        // Whoever could not wait has ended it.
        let round = inline.round.lock().take();
        if let Some(round) = round
            && !engine.end_round(round, engine.sync())
        {
            return;
        }
    }
}

/// Begins a transaction that its subscribers know by this token.
pub(crate) fn begin_as(
    token: TxnToken,
    storage: &FileStorage,
    meta: TxnMeta,
    tid: Option<Tid>,
) -> Result<Box<dyn Transaction>> {
    let begun = FileTransaction::begin(&storage.0, meta, tid)?;
    Ok(Box::new(begun.known_as(token)))
}

/// What is not durable of a file.
#[derive(Debug)]
pub(crate) struct Unsynced {
    file: File,
    changes: Mutex<Vec<Change>>,
}

#[derive(Debug)]
struct Change {
    at: u64,
    /// What was written; none where the file was cut or grown to `at`.
    new: Option<Vec<u8>>,
    /// What was there.
    old: Vec<u8>,
    /// How long the file was.
    len: u64,
}

const SECTOR: usize = 512;

impl Unsynced {
    /// The power goes: each change is kept, lost or torn.
    pub(crate) fn lose(&self) -> io::Result<usize> {
        let changes = std::mem::take(&mut *self.changes.lock());
        for change in changes.iter().rev() {
            self.file.write_all_at(&change.old, change.at)?;
            self.file.set_len(change.len)?;
        }
        let all = fastrand::u8(..4) == 0;
        let mut lost = 0;
        for change in &changes {
            let fate = if all { 3 } else { fastrand::u8(..4) };
            match (fate, &change.new) {
                (0, _) => lost += 1,
                (1 | 2, Some(new)) => {
                    lost += 1;
                    self.tear(new, change.at)?;
                }
                (_, Some(new)) => self.file.write_all_at(new, change.at)?,
                (_, None) => self.file.set_len(change.at)?,
            }
        }
        Ok(lost)
    }

    /// Some sectors of a write.
    fn tear(&self, new: &[u8], at: u64) -> io::Result<()> {
        let mut from = 0;
        while from < new.len() {
            let begin = at as usize + from;
            let to = new.len().min(from + (begin / SECTOR + 1) * SECTOR - begin);
            if fastrand::bool() {
                self.file.write_all_at(&new[from..to], at + from as u64)?;
            }
            from = to;
        }
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.changes.lock().is_empty()
    }

    /// Whether anything from here on is not durable.
    pub(crate) fn touches(&self, begin: u64, end: u64) -> bool {
        self.changes.lock().iter().any(|change| {
            let to = change.at
                + change
                    .new
                    .as_ref()
                    .map_or(u64::MAX / 2, |new| new.len() as u64);
            change.at < end && to > begin
        })
    }
}

/// A file on a disk of a machine that can lose its power.
struct SimulatedDisk {
    unsynced: Arc<Unsynced>,
    drive: Arc<Drive>,
    /// Whose descriptor it is: dead, it writes nothing.
    life: Arc<Life>,
}

pub(super) fn open_disk(path: &Path) -> io::Result<Arc<dyn Disk>> {
    let file = File::options().read(true).write(true).open(path)?;
    let life = simulation::life();
    let drive = life.machine.drive_of(path);
    let inode = file.metadata()?.ino();
    let unsynced = drive.unsynced_of(inode, || Unsynced {
        file,
        changes: Mutex::default(),
    });
    Ok(Arc::new(SimulatedDisk {
        unsynced,
        drive,
        life,
    }))
}

impl SimulatedDisk {
    fn alive(&self) -> io::Result<()> {
        if self.life.is_dead() {
            return Err(io::Error::other("the process is dead"));
        }
        Ok(())
    }

    fn read_up_to(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < into.len() {
            match self
                .unsynced
                .file
                .read_at(&mut into[done..], at + done as u64)?
            {
                0 => break,
                more => done += more,
            }
        }
        Ok(done)
    }
}

impl Disk for SimulatedDisk {
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        self.read_up_to(into, at)
    }

    fn read_now(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        // Sometimes the page cache does not have it.
        if fastrand::u8(..16) == 0 {
            return Ok(0);
        }
        self.read_up_to(into, at)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.alive()?;
        let len = self.len()?;
        if at + bytes.len() as u64 > len {
            self.drive.has_room()?;
        }
        let mut old = vec![0; bytes.len()];
        let there = self.read_up_to(&mut old, at)?;
        old.truncate(there);
        self.unsynced.file.write_all_at(bytes, at)?;
        self.unsynced.changes.lock().push(Change {
            at,
            new: Some(bytes.to_vec()),
            old,
            len,
        });
        Ok(())
    }

    fn set_len(&self, new_len: u64) -> io::Result<()> {
        self.alive()?;
        let len = self.len()?;
        let mut old = vec![0; usize::try_from(len.saturating_sub(new_len)).unwrap_or(0)];
        self.read_up_to(&mut old, new_len)?;
        self.unsynced.file.set_len(new_len)?;
        self.unsynced.changes.lock().push(Change {
            at: new_len,
            new: None,
            old,
            len,
        });
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.unsynced.file.metadata()?.len())
    }

    fn sync(&self) -> io::Result<()> {
        self.alive()?;
        self.drive.sync_works()?;
        self.unsynced.changes.lock().clear();
        Ok(())
    }

    fn piece(&self, at: u64, len: usize) -> io::Result<Payload> {
        let file = self.unsynced.file.try_clone()?;
        Ok(Payload::piece(Arc::new(file), at, len))
    }
}
