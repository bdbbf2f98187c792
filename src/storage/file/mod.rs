//! A `Data.fs` file as a storage: ZODB's own format, read and appended to.
//!
//! The file can be given to Python's `FileStorage` and taken back at any time it is closed: the data,
//! the index beside it and the lock are the same. What each part does:
//!
//! - [`format`]: the bytes. [`disk`]: the one place that reads and writes them.
//! - [`index`]: where the current record of each object is; [`index_file`]: the same on disk.
//! - [`engine`]: what is shared, and its locks. [`open`] and [`scan`]: how it comes to be.
//! - [`read`]: loads, with [`far`] for those that look far back. [`history`]: iterations. [`recent`]: what clients missed.
//! - [`commit`]: the two phases, with [`plan`] for what a transaction writes and [`undo`] for undoing
//!   one; [`undo_log`] lists those that can be. [`restore`]: whole transactions from another copy, with
//!   [`origin`] for the back-pointers. [`append`]: writing either. [`rewind`]: taking back.
//! - [`blobs`]: the files that belong to records.
//! - [`inspect`]: looking into a file that somebody else may have open.
//! - [`backup`]: a copy of it all in another folder.
//! - [`pack`]: a smaller file in the place of this one, with [`references`] for what keeps what alive.
//!
//! It does not know Python: conflicts are resolved by clients, and where undoing would need it, it
//! cannot be done.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use self::open::Absent;
use crate::storage::undo_search::UndoSearch;
use crate::storage::{
    Answer, Backup, BackupError, BackupOrder, Capabilities, CurrentRecord, Description, Extent,
    Fault, History, Invalidations, Loaded, Opener, Result, Revision, SetAside, Size, Storage,
    Transaction, Undoable, Value,
};
use crate::zodb::{Blob, HistoryTxn, Oid, Tid, TidRange, TxnMeta};

mod append;
mod backup;
mod blobs;
mod commit;
mod disk;
mod engine;
mod far;
mod format;
mod history;
mod index;
mod index_file;
pub mod inspect;
mod located;
mod lock;
mod open;
mod origin;
mod pack;
mod plan;
mod read;
mod recent;
pub(in crate::storage) mod references;
mod restore;
mod rewind;
mod scan;
mod turns;
mod undo;
mod undo_log;
mod window;

use commit::FileTransaction;
use engine::{Engine, beside};
use far::{Pace, Patience};
use history::{Iteration, Walk};
use lock::LockFile;
use read::Miss;

/// How a file is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileOptions {
    /// For how many transactions back a client can be told what changed.
    pub invalidation_queue: usize,
    /// After how many bytes the index is saved, beside on closing.
    pub save_index_every: u64,
    /// The folder of blobs; none where there are none.
    pub blob_dir: Option<PathBuf>,
    /// Packing removes what cannot be reached from the root object.
    pub pack_gc: bool,
    /// Packing leaves the file as it was beside, as `Data.fs.old`.
    pub pack_keep_old: bool,
}

impl Default for FileOptions {
    fn default() -> Self {
        FileOptions {
            invalidation_queue: 1000,
            save_index_every: 256 << 20,
            blob_dir: None,
            pack_gc: true,
            pack_keep_old: true,
        }
    }
}

/// Where what belongs to a storage is.
#[derive(Debug, Clone)]
struct Paths {
    data: PathBuf,
    index: PathBuf,
}

impl Paths {
    fn of(data: &Path) -> Self {
        Paths {
            data: data.to_owned(),
            index: beside(data, ".index"),
        }
    }
}

/// Opens one file again and again.
#[derive(Debug, Clone)]
pub struct FileOpener {
    path: PathBuf,
    options: FileOptions,
}

impl FileOpener {
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, options: FileOptions) -> Self {
        FileOpener {
            path: path.into(),
            options,
        }
    }
}

#[async_trait]
impl Opener for FileOpener {
    fn describe(&self) -> Description {
        describe(&self.path)
    }

    async fn open(&self) -> Result<Arc<dyn Storage>, Fault> {
        let storage = FileStorage::open(&self.path, self.options.clone()).await?;
        Ok(Arc::new(storage))
    }

    async fn open_what_is_there(&self) -> Result<Arc<dyn Storage>, Fault> {
        let storage = FileStorage::open_what_is_there(&self.path, self.options.clone()).await?;
        Ok(Arc::new(storage))
    }

    async fn set_aside(&self) -> Result<SetAside, Fault> {
        let path = self.path.clone();
        let blob_dir = self.options.blob_dir.clone();
        let set_aside = move || {
            // Nobody renames a file that somebody writes to.
            let paths = Paths::of(&path);
            let _lock = LockFile::take(&beside(&path, ".lock"))?;
            rewind::set_file_aside(&paths, blob_dir.as_deref())
        };
        on_a_thread(set_aside).await?
    }
}

/// Runs what may wait for the disk.
async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Fault> {
    crate::task::blocking(work)
        .await
        .map_err(|error| Fault::Closed(format!("a thread that reads ended: {error}")))
}

fn describe(path: &Path) -> Description {
    Description {
        kind: "file",
        location: path.display().to_string(),
    }
}

/// An open `Data.fs`. Dropping it without closing it is safe: the index is not saved then.
pub struct FileStorage(Arc<Engine>);

impl FileStorage {
    /// Opens a file, or makes a new one.
    ///
    /// # Errors
    /// [`Fault::InUse`] where another process has it, [`Fault::Damaged`] where it is no usable
    /// `Data.fs`; nothing was changed then.
    pub async fn open(path: &Path, options: FileOptions) -> Result<Self, Fault> {
        let path = path.to_owned();
        let engine = on_a_thread(move || open::open(&path, options, Absent::Make)).await??;
        Ok(FileStorage(engine))
    }

    /// Opens a file, and makes none.
    ///
    /// # Errors
    /// As [`open`](FileStorage::open), and [`Fault::Unreachable`] where there is no file.
    pub async fn open_what_is_there(path: &Path, options: FileOptions) -> Result<Self, Fault> {
        let path = path.to_owned();
        let engine = on_a_thread(move || open::open(&path, options, Absent::Refuse)).await??;
        Ok(FileStorage(engine))
    }

    /// Tries without waiting for the disk, and then again on a thread that may.
    async fn read<T: Send + 'static>(
        &self,
        about: Oid,
        read: impl Fn(&Arc<Engine>, &Pace<'_>) -> Result<T, Miss> + Send + 'static,
    ) -> Result<T> {
        let at_once = read(&self.0, &Pace::new(Patience::None));
        match at_once {
            Ok(answer) => Ok(answer),
            Err(Miss::Failed(error)) => Err(error),
            Err(Miss::NotInMemory) => self.0.read_on_a_thread(about, read).await,
        }
    }

    async fn walk<T: Send + 'static>(
        &self,
        work: impl FnOnce(Walk) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T> {
        let walk = Walk::new(&self.0)?;
        Ok(on_a_thread(move || work(walk)).await??)
    }
}

impl Engine {
    /// Reads on a thread that may wait for the disk; again, when it is its turn, where that has to look far back.
    /// `about` is what whoever waits says that it is about, the root object where it is of none.
    async fn read_on_a_thread<T: Send + 'static>(
        self: &Arc<Self>,
        about: Oid,
        read: impl Fn(&Arc<Engine>, &Pace<'_>) -> Result<T, Miss> + Send + 'static,
    ) -> Result<T> {
        let engine = Arc::clone(self);
        let not_far = move || {
            let pace = Pace::new(Patience::Some);
            let answer = read(&engine, &pace).map_err(|miss| engine.waited(miss));
            (answer, pace.is_too_far().then_some(read))
        };
        let read = match on_a_thread(not_far).await? {
            (Err(_), Some(read)) => read,
            (answer, _) => return answer,
        };
        let (awaited, look) = self.looks.begin(about).await;
        let engine = Arc::clone(self);
        let far = move || {
            let pace = Pace::new(Patience::Far(&look));
            read(&engine, &pace).map_err(|miss| engine.waited(miss))
        };
        let answer = on_a_thread(far).await?;
        drop(awaited);
        answer
    }
}

impl Drop for FileStorage {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

#[async_trait]
impl Storage for FileStorage {
    fn describe(&self) -> Description {
        describe(&self.0.paths.data)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            pipelined: true,
            rewind: true,
            undo: true,
            blobs: self.0.blobs.is_some(),
            pack: true,
            backup: true,
            shared: false,
            read_only: false,
        }
    }

    fn size(&self) -> Size {
        let state = self.0.state.read();
        Size {
            objects: state.index.len() as u64,
            bytes: state.end,
        }
    }

    fn deadline_about(&self, about: Oid, since: Instant, patience: Duration) -> Instant {
        self.0.looks.deadline(about, since, patience)
    }

    async fn last_tid(&self) -> Result<Tid> {
        self.0.usable()?;
        Ok(self.0.state.read().last)
    }

    async fn load_before(&self, oid: Oid, before: Tid) -> Result<Option<Loaded>> {
        self.read(oid, move |engine, pace| {
            engine.load_before(oid, before, pace)
        })
        .await
    }

    async fn load_serial(&self, oid: Oid, serial: Tid) -> Result<Bytes> {
        self.read(oid, move |engine, pace| {
            engine.load_serial(oid, serial, pace)
        })
        .await
    }

    async fn current_tid(&self, oid: Oid) -> Result<Tid> {
        self.read(oid, move |engine, pace| engine.current_tid(oid, pace))
            .await
    }

    async fn new_oids(&self, count: usize, after: Oid) -> Result<Vec<Oid>> {
        self.0.usable()?;
        let mut last_oid = self.0.last_oid.lock();
        let first = last_oid.max(after).0;
        let last = first
            .checked_add(count as u64)
            .ok_or_else(|| Answer::Invalid("there are no object identifiers left".to_owned()))?;
        *last_oid = Oid(last);
        Ok((first + 1..=last).map(Oid).collect())
    }

    async fn history(&self, oid: Oid, count: usize) -> Result<Vec<Revision>> {
        let read = move |engine: &Arc<Engine>, pace: &Pace<'_>| engine.revisions(oid, count, pace);
        self.0.read_on_a_thread(oid, read).await
    }

    async fn record_from(&self, from: Oid) -> Result<Option<CurrentRecord>> {
        self.read(from, move |engine, pace| engine.record_from(from, pace))
            .await
    }

    async fn iterate(&self, range: TidRange) -> Result<Box<dyn History>> {
        let walk = Walk::new(&self.0)?;
        Ok(Box::new(Iteration::new(walk, range)))
    }

    async fn tids_before(&self, before: Tid, count: usize) -> Result<Vec<Tid>> {
        self.walk(move |walk| walk.tids_before(before, count)).await
    }

    async fn measure_after(&self, after: Tid) -> Result<Extent> {
        self.walk(move |walk| walk.measure_after(after)).await
    }

    async fn measure_undone(&self, tids: Arc<[Tid]>) -> Result<Option<u64>> {
        let engine = Arc::clone(&self.0);
        let located = on_a_thread(move || engine.locate(&tids)).await??;
        Ok(Some(located.bytes()))
    }

    async fn invalidations_since(&self, since: Tid) -> Result<(Tid, Option<Vec<Oid>>)> {
        self.0.usable()?;
        let state = self.0.state.read();
        Ok((state.last, state.recent.since(since)))
    }

    async fn load_blob(&self, oid: Oid, serial: Tid) -> Result<Blob> {
        let engine = Arc::clone(&self.0);
        on_a_thread(move || engine.load_blob(oid, serial)).await?
    }

    async fn undo_info(
        &self,
        first: i64,
        last: i64,
        specification: &Value,
    ) -> Result<Vec<Undoable>> {
        let specification = specification.clone();
        let read = move |engine: &Arc<Engine>, pace: &Pace<'_>| {
            let search = UndoSearch::new(first, last, &specification);
            let search = Walk::new(engine)?.undo_info(search, pace)?;
            Ok(search.found()?)
        };
        // Of no object, but the one that it is asked for by.
        self.0.read_on_a_thread(Oid::ROOT, read).await
    }

    async fn pack(&self, time: f64) -> Result<()> {
        self.pack_to(time).await
    }

    async fn back_up(&self, order: BackupOrder) -> Result<Box<dyn Backup>, BackupError> {
        let engine = Arc::clone(&self.0);
        let prepare = move || backup::FileBackup::prepare(&engine, order);
        let prepared = on_a_thread(prepare).await.map_err(BackupError::Source)??;
        Ok(Box::new(prepared))
    }

    fn subscribe(&self) -> Invalidations {
        let invalidations = self.0.publisher.subscribe();
        if self.0.usable().is_err() {
            self.0.publisher.cut_off();
        }
        invalidations
    }

    async fn begin(&self, meta: TxnMeta, tid: Option<Tid>) -> Result<Box<dyn Transaction>> {
        Ok(Box::new(FileTransaction::begin(&self.0, meta, tid)?))
    }

    async fn restore(&self, batch: Vec<HistoryTxn>) -> Result<()> {
        let slot = self.0.slot().await?;
        let restore = move |engine: &Arc<Engine>| {
            // Held to the end, also where nobody waits for it any more.
            let _slot = slot;
            engine.restore(batch)
        };
        self.0.ask(restore).await?
    }

    async fn rewind(&self, keep: Option<Tid>) -> Result<SetAside> {
        let slot = self.0.slot().await?;
        let rewind = move |engine: &Arc<Engine>| {
            let _slot = slot;
            engine.rewind(keep)
        };
        self.0.ask(rewind).await?
    }

    async fn close(&self) {
        let engine = Arc::clone(&self.0);
        if let Err(fault) = on_a_thread(move || engine.close()).await {
            tracing::error!(reason = %fault, "file was not closed");
        }
    }

    async fn in_place(&self) -> Result<(), Fault> {
        let engine = Arc::clone(&self.0);
        on_a_thread(move || engine.in_place()).await?
    }
}

/// What the simulation of whole daemons puts in the place of threads and disks.
#[cfg(test)]
#[path = "../../../tests/simulation/disk.rs"]
mod simulated;
#[cfg(test)]
pub(crate) use simulated::{Unsynced, begin_as};

#[cfg(test)]
mod tests;
