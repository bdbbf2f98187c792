//! What everything that works on one open file shares.
//!
//! Two parts, each with its own lock, taken in this order where both are:
//!
//! 1. [`Tail`]: the end of the file where transactions are written that nobody sees yet, and those of
//!    them that are being finished. Its condition variable wakes the thread that syncs.
//! 2. [`State`]: what is finished. A load takes it for a moment, to look up a position, and reads the
//!    file without any lock: what is finished does not change.
//!
//! Writing to the end of the file is for one at a time: who has the permit of `slot`. It is fair, and
//! is held from a vote to its finish or its end.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;

use arc_swap::ArcSwapOption;
use parking_lot::{Condvar, Mutex, RwLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::disk::Disk;
use super::far::Looks;
use super::index::Index;
use super::located::Located;
use super::lock::LockFile;
use super::recent::Recent;
use super::turns::Turns;
use super::{FileOptions, Paths};
use crate::storage::blobs::Placed;
use crate::storage::{BlobDirectory, Fault, Publisher, Result, StorageError, TxnToken};
use crate::zodb::{Oid, Tid};

/// Work for the thread that writes.
pub(super) type Job = Box<dyn FnOnce(&Arc<Engine>) + Send>;

#[cfg(test)]
pub(super) type AtStep = Box<dyn FnMut(&'static str) + Send>;

/// An open file.
pub(super) struct Engine {
    pub(super) paths: Paths,
    pub(super) options: FileOptions,
    pub(super) state: RwLock<State>,
    /// Where the files of blobs are, where there are any.
    pub(super) blobs: Option<Arc<BlobDirectory>>,
    /// Rises when what was finished is taken back or packed: positions from before mean nothing then.
    pub(super) generation: AtomicU64,
    /// Rises when what was finished is taken back: the file from before is not there any more. (Packing
    /// leaves it as it was to who has it open.)
    pub(super) rewinds: AtomicU64,
    /// Held while the index file is replaced, or the data file that it is of.
    pub(super) index_file: Mutex<()>,
    /// Somebody packs.
    pub(super) packing: AtomicBool,
    /// Held by the thread that packs while it works.
    pub(super) packer: Mutex<()>,
    /// What was looked for last to be undone.
    pub(super) located: Mutex<Option<Arc<Located>>>,
    /// How often the file was walked through for what is undone.
    #[cfg(test)]
    pub(super) searches: AtomicU64,
    /// Told of every step of packing that a crash could come after.
    #[cfg(test)]
    pub(super) at_step: Mutex<Option<AtStep>>,
    pub(super) tail: Mutex<Tail>,
    /// Something is there to be synced, or nothing will be any more.
    pub(super) to_sync: Condvar,
    /// The last transaction that was being finished is, or will never be.
    pub(super) settled: Condvar,
    pub(super) slot: Arc<Semaphore>,
    /// How many transactions may be between their vote and the end of their finish.
    pub(super) in_hand: Arc<Semaphore>,
    pub(super) publisher: Publisher,
    /// The last oid that was given out or stored.
    pub(super) last_oid: Mutex<Oid>,
    /// Why everything is refused.
    refuses: ArcSwapOption<Fault>,
    jobs: Mutex<Option<SyncSender<Job>>>,
    /// What is there instead of threads where time is simulated.
    #[cfg(test)]
    pub(super) inline: Option<super::simulated::Inline>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    pub(super) large_reads: Turns,
    pub(super) looks: Arc<Looks>,
    lock: Mutex<Option<LockFile>>,
    /// The end of the file when the index was saved last.
    pub(super) saved_at: AtomicU64,
}

/// What is finished.
pub(super) struct State {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) index: Index,
    /// The last transaction.
    pub(super) last: Tid,
    /// Where the next one begins.
    pub(super) end: u64,
    pub(super) recent: Recent,
}

/// What is written and not finished.
#[derive(Default)]
pub(super) struct Tail {
    /// Where the next vote writes: after all that is being finished.
    pub(super) end: u64,
    /// The last TID, with those that are being finished.
    pub(super) last: Tid,
    /// The newest record of each object that is being finished, without those of large transactions.
    pub(super) foreseen: HashMap<Oid, Foreseen>,
    /// The large transactions that are being finished.
    pub(super) large: Vec<(Tid, Arc<Places>)>,
    /// In the order of the finishes.
    pub(super) finishing: VecDeque<Pending>,
    /// How many votes were written, and how many of them are durable.
    pub(super) written: u64,
    pub(super) durable: u64,
    /// The thread that syncs works on finishes that it took.
    pub(super) syncing: bool,
    pub(super) stop: bool,
}

impl Tail {
    /// From so many objects on, a transaction is looked through instead of being put into a map, which
    /// would take four times as much.
    const LARGE: usize = 1024;

    #[cfg(test)]
    pub(super) fn has_finishing(&self) -> bool {
        !self.finishing.is_empty()
    }

    pub(super) fn has_to_be_synced(&self) -> bool {
        self.written != self.durable || !self.finishing.is_empty()
    }

    /// A transaction is being finished.
    pub(super) fn foresee(&mut self, tid: Tid, places: &Arc<Places>) {
        if places.len() >= Self::LARGE {
            self.large.push((tid, Arc::clone(places)));
        } else {
            let places = places.iter();
            let foreseen = places.map(|place| (place.oid, place.foreseen(tid)));
            self.foreseen.extend(foreseen);
        }
    }

    /// It is finished, and in the index.
    pub(super) fn forget(&mut self, tid: Tid, places: &Places) {
        if places.len() >= Self::LARGE {
            self.large.retain(|(large, _)| *large != tid);
            return;
        }
        for Place { oid, .. } in places.iter() {
            if self.foreseen.get(oid).is_some_and(|one| one.tid == tid) {
                self.foreseen.remove(oid);
            }
        }
    }

    /// The newest record of an object in what is being finished.
    pub(super) fn newest(&self, oid: Oid) -> Option<Foreseen> {
        let mut newest = self.foreseen.get(&oid).copied();
        for (tid, places) in &self.large {
            if newest.is_none_or(|newest| newest.tid < *tid)
                && let Some(place) = places.get(oid)
            {
                newest = Some(place.foreseen(*tid));
            }
        }
        newest
    }
}

/// Where a transaction's records are: each object once, with its last record, in the order of the oids.
#[derive(Debug, Default)]
pub(super) struct Places(Vec<Place>);

/// Where a record is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) oid: Oid,
    /// With [`Place::GONE`] where it says that there is no object.
    at: u64,
}

impl Place {
    const GONE: u64 = 1 << 63;

    pub(super) fn new(oid: Oid, position: u64, gone: bool) -> Self {
        let gone = if gone { Self::GONE } else { 0 };
        Place {
            oid,
            at: position | gone,
        }
    }

    pub(super) fn position(self) -> u64 {
        self.at & !Self::GONE
    }

    fn foreseen(self, tid: Tid) -> Foreseen {
        Foreseen {
            position: self.position(),
            tid,
            gone: self.at & Self::GONE != 0,
        }
    }
}

impl Places {
    /// Of all records of a transaction.
    pub(super) fn of(mut all: Vec<Place>) -> Self {
        all.sort_unstable_by_key(|place| (place.oid, place.position()));
        all.dedup_by(|later, earlier| {
            let same = later.oid == earlier.oid;
            if same {
                *earlier = *later;
            }
            same
        });
        all.shrink_to_fit();
        Places(all)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, Place> {
        self.0.iter()
    }

    fn get(&self, oid: Oid) -> Option<Place> {
        let found = self.0.binary_search_by_key(&oid, |place| place.oid);
        found.ok().map(|index| self.0[index])
    }
}

/// The newest record of an object in what is being finished.
#[derive(Debug, Clone, Copy)]
pub(super) struct Foreseen {
    pub(super) position: u64,
    pub(super) tid: Tid,
    pub(super) gone: bool,
}

/// A transaction that is being finished.
pub(super) struct Pending {
    pub(super) tid: Tid,
    pub(super) token: TxnToken,
    pub(super) begin: u64,
    /// Where the next one begins.
    pub(super) end: u64,
    pub(super) status: u8,
    pub(super) places: Arc<Places>,
    pub(super) blobs: Vec<Placed>,
    /// Which of the votes it was.
    pub(super) number: u64,
    pub(super) done: oneshot::Sender<Result<Tid>>,
    pub(super) _in_hand: OwnedSemaphorePermit,
}

impl Engine {
    /// At most so many transactions are between their vote and the end of their finish.
    const IN_HAND: usize = 1024;

    pub(super) fn new(
        paths: Paths,
        options: FileOptions,
        state: State,
        blobs: Option<Arc<BlobDirectory>>,
        lock: Option<LockFile>,
        saved_at: u64,
    ) -> Self {
        let tail = Tail {
            end: state.end,
            last: state.last,
            ..Tail::default()
        };
        Engine {
            last_oid: Mutex::new(state.index.last_oid().unwrap_or_default()),
            tail: Mutex::new(tail),
            state: RwLock::new(state),
            blobs,
            paths,
            options,
            generation: AtomicU64::new(0),
            rewinds: AtomicU64::new(0),
            index_file: Mutex::new(()),
            packing: AtomicBool::new(false),
            packer: Mutex::new(()),
            located: Mutex::new(None),
            #[cfg(test)]
            searches: AtomicU64::new(0),
            #[cfg(test)]
            at_step: Mutex::new(None),
            to_sync: Condvar::new(),
            settled: Condvar::new(),
            slot: Arc::new(Semaphore::new(1)),
            in_hand: Arc::new(Semaphore::new(Self::IN_HAND)),
            publisher: Publisher::new(),
            refuses: ArcSwapOption::empty(),
            jobs: Mutex::new(None),
            #[cfg(test)]
            inline: super::simulated::Inline::where_simulated(),
            threads: Mutex::new(Vec::new()),
            large_reads: Turns::default(),
            looks: Looks::new(),
            lock: Mutex::new(lock),
            saved_at: AtomicU64::new(saved_at),
        }
    }

    /// Starts the two threads: one writes, one syncs.
    pub(super) fn start(self: &Arc<Self>) -> Result<(), Fault> {
        #[cfg(test)]
        if self.inline.is_some() {
            super::simulated::start(self);
            return Ok(());
        }
        // Only who holds the slot asks for something, and gives it up with an abort at most.
        let (jobs, work) = std::sync::mpsc::sync_channel::<Job>(4);
        *self.jobs.lock() = Some(jobs);
        let writer = Arc::clone(self);
        self.spawn("file-writer", move || {
            for job in work {
                job(&writer);
            }
        })?;
        let syncer = Arc::clone(self);
        self.spawn("file-syncer", move || syncer.sync_until_stopped())
    }

    fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), Fault> {
        #[cfg(test)]
        if self.inline.is_some() {
            run();
            return Ok(());
        }
        let thread = std::thread::Builder::new().name(name.to_owned());
        let thread = thread
            .spawn(run)
            .map_err(|error| self.fault("starting a thread for", error))?;
        self.threads.lock().push(thread);
        Ok(())
    }

    /// Gives the thread that writes something to do. Whether it will.
    pub(super) fn run(&self, job: Job) -> bool {
        #[cfg(test)]
        if let Some(inline) = &self.inline {
            return inline.queue(job);
        }
        let jobs = self.jobs.lock().clone();
        jobs.is_some_and(|jobs| jobs.send(job).is_ok())
    }

    /// Has the thread that writes do something, and gives what comes of it.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Engine>) -> T + Send + 'static,
    ) -> Result<T> {
        let (done, answer) = oneshot::channel();
        let sent = self.run(Box::new(move |engine| {
            // What nobody waits for any more is dropped, and so aborted where it is a vote.
            drop(done.send(work(engine)));
        }));
        match (sent, answer.await) {
            (true, Ok(answer)) => Ok(answer),
            _ => Err(self.refusal().into()),
        }
    }

    pub(super) fn usable(&self) -> Result<(), Fault> {
        match &*self.refuses.load() {
            None => Ok(()),
            Some(fault) => Err(Fault::clone(fault)),
        }
    }

    /// Why it does not work any more.
    pub(super) fn refusal(&self) -> Fault {
        self.usable().err().unwrap_or_else(|| self.closed())
    }

    pub(super) fn closed(&self) -> Fault {
        Fault::Closed(format!("{} was closed", self.paths.data.display()))
    }

    /// What the operating system refused, doing `what` to the file.
    pub(super) fn fault(&self, what: &str, error: io::Error) -> Fault {
        Fault::io(format!("{what} {}", self.paths.data.display()), error)
    }

    pub(super) fn damaged(&self, what: impl std::fmt::Display) -> Fault {
        damaged(&self.paths.data, what)
    }

    /// The permit to write to the end of the file.
    pub(super) async fn slot(&self) -> Result<OwnedSemaphorePermit> {
        self.usable()?;
        let slot = Arc::clone(&self.slot).acquire_owned().await;
        let slot = slot.map_err(|_| StorageError::Fault(self.refusal()))?;
        self.usable()?;
        Ok(slot)
    }

    /// Waits, on the thread that writes, until nothing is being finished.
    pub(super) fn wait_until_settled(&self) -> Result<(), Fault> {
        #[cfg(test)]
        if let Some(inline) = &self.inline {
            inline.settle();
            return self.usable();
        }
        let mut tail = self.tail.lock();
        while tail.syncing || !tail.finishing.is_empty() {
            self.settled.wait(&mut tail);
        }
        drop(tail);
        self.usable()
    }

    /// Refuses everything from now on: nobody knows what is on the disk. What was being finished is
    /// told so.
    pub(super) fn poison(&self, fault: &Fault) {
        let poisoned = Fault::Poisoned(fault.to_string());
        tracing::error!(file = %self.paths.data.display(), reason = %fault, "file refuses everything until it is opened again");
        self.refuse(poisoned);
    }

    /// Tells the thread that syncs that there is something to do.
    pub(super) fn wake_syncer(&self) {
        self.to_sync.notify_all();
        #[cfg(test)]
        if let Some(inline) = &self.inline {
            inline.wake_syncer();
        }
    }

    fn refuse(&self, fault: Fault) {
        let mut tail = self.tail.lock();
        if self.refuses.load().is_none() {
            self.refuses.store(Some(Arc::new(fault.clone())));
        }
        for pending in tail.finishing.drain(..) {
            drop(pending.done.send(Err(fault.clone().into())));
        }
        tail.stop = true;
        drop(tail);
        self.slot.close();
        self.in_hand.close();
        self.wake_syncer();
        self.settled.notify_all();
        self.publisher.cut_off();
    }

    /// Finishes what is being finished, aborts the rest, saves the index, and lets go of everything.
    /// Blocks the thread.
    pub(super) fn close(&self) {
        // Held to the end, so that who closes at the same time returns when it is closed.
        let mut lock = self.lock.lock();
        {
            // From here on nothing new is finished.
            let mut tail = self.tail.lock();
            tail.stop = true;
        }
        self.wake_syncer();
        // The thread that syncs ends when nothing is being finished, the other one with its queue.
        let threads = std::mem::take(&mut *self.threads.lock());
        drop(self.jobs.lock().take());
        let first = !threads.is_empty();
        #[cfg(test)]
        let first = first
            || self
                .inline
                .as_ref()
                .is_some_and(super::simulated::Inline::close);
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!(file = %self.paths.data.display(), "a thread of the file panicked");
            }
        }
        // The thread that packs looks now and then whether it should stop.
        drop(self.packer.lock());
        let healthy = self.usable().is_ok();
        self.refuse(self.closed());
        if first && healthy {
            self.cut_unfinished();
            self.save_index();
        }
        drop(lock.take());
    }

    /// Whether the path still leads to what is open. Blocks the thread.
    pub(super) fn in_place(&self) -> Result<(), Fault> {
        // A pack or a rewind puts another file there, and shows it a moment later.
        let Some(_nobody_replaces_it) = self.index_file.try_lock() else {
            return Ok(());
        };
        let disk = Arc::clone(&self.state.read().disk);
        let path = &self.paths.data;
        match disk.is_at(path) {
            Ok(false) => Err(Fault::Unreachable(format!(
                "{} was removed or replaced while it was in use",
                path.display()
            ))),
            Ok(true) => Ok(()),
            Err(error) => {
                tracing::debug!(file = %path.display(), %error, "could not look whether it is in place");
                Ok(())
            }
        }
    }

    /// Tells the threads to end, without waiting for them.
    pub(super) fn abandon(&self) {
        self.tail.lock().stop = true;
        self.wake_syncer();
        drop(self.jobs.lock().take());
        #[cfg(test)]
        if let Some(inline) = &self.inline {
            inline.abandon();
        }
    }

    /// Takes what was voted and not finished from the end of the file.
    fn cut_unfinished(&self) {
        let state = self.state.read();
        let cut = match state.disk.len() {
            Ok(len) if len > state.end => state.disk.set_len(state.end),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = cut {
            // It is cut when the file is opened.
            let fault = self.fault("cutting an unfinished transaction from", error);
            tracing::warn!(reason = %fault, "file keeps an unfinished transaction at its end");
        }
    }

    /// Saves the index beside the data. That it cannot be saved only makes the next opening slower.
    pub(super) fn save_index(&self) {
        let path = &self.paths.index;
        let (image, end, generation) = {
            let state = self.state.read();
            let image = super::index_file::Image::of(&state.index, state.end);
            (image, state.end, self.generation.load(Ordering::Acquire))
        };
        let still_right = || {
            let index_file = self.index_file.lock();
            let same = self.generation.load(Ordering::Acquire) == generation;
            same.then_some(index_file)
        };
        match image.save(path, still_right) {
            Ok(()) => self.saved_at.store(end, Ordering::Relaxed),
            Err(error) => {
                let fault = Fault::io(format!("writing {}", path.display()), error);
                tracing::warn!(reason = %fault, "index was not saved");
            }
        }
    }

    /// Saves the index where much was written since the last time, on a thread of its own.
    pub(super) fn save_index_when_due(self: &Arc<Self>) {
        let end = self.state.read().end;
        let saved = self.saved_at.load(Ordering::Relaxed);
        if end.saturating_sub(saved) < self.options.save_index_every {
            return;
        }
        // Nobody else starts one before as much is written again.
        self.saved_at.store(end, Ordering::Relaxed);
        let engine = Arc::clone(self);
        // Not being able to start it is as good as not being able to save it.
        drop(self.spawn("file-index", move || engine.save_index()));
    }
}

pub(super) fn damaged(path: &Path, what: impl std::fmt::Display) -> Fault {
    Fault::Damaged(format!("{}: {what}", path.display()))
}

/// A path beside the data file: its name and a suffix.
pub(super) fn beside(data: &Path, suffix: &str) -> PathBuf {
    let mut path = data.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}
