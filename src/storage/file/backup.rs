//! A copy of an open file in another folder, as of one moment, while transactions go on.
//!
//! 1. [`Place`] looks at the folder and makes another one beside it, in which everything is written.
//! 2. *copy*: what is finished does not change, so the bytes up to the end of the last transaction that
//!    is wanted are the file as it was then.
//! 3. *verify*: the copy is read from its beginning to its end, every transaction and record, as it
//!    would be to open it without an index. That makes the index, and tells which records are blobs'.
//! 4. *blobs*: their files get a second name in the copy where that is on the same disk, since the file
//!    of a revision is never written to again; else they are copied.
//! 5. All that is made durable; only then does the folder get its name. What is broken off is removed,
//!    and what a killed process leaves is never taken for a backup.
//!
//! Packing would take away files of blobs meanwhile; the array does not let it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::runtime::Handle;

use super::disk::{Disk, FileDisk};
use super::engine::{Engine, beside};
use super::format::{FIRST, MAGIC, RecordHeader};
use super::history::Walk;
use super::index::Index;
use super::index_file::Image;
use super::on_a_thread;
use super::origin::Origin;
use super::scan::{Scan, Stop};
use crate::durable::step;
use crate::job::{Amount, Work};
use crate::storage::{
    BackedUp, Backup, BackupError, BackupOrder, BlobDirectory, Fault, StorageError, is_blob_record,
};
use crate::zodb::{Oid, Tid};

mod place;

use place::Place;
pub(super) use place::{BLOBS, DATA};

/// How much is read and written at once.
const STEP: usize = 1 << 20;
/// The blob's class is named in its first bytes.
const BLOB_RECORD: usize = 512;

/// A backup that can begin.
pub(super) struct FileBackup {
    engine: Arc<Engine>,
    /// The file as it was when this was asked for.
    walk: Walk,
    /// Where what is copied ends.
    end: u64,
    blobs: Option<Arc<BlobDirectory>>,
    order: BackupOrder,
    place: Place,
}

impl FileBackup {
    /// Blocks the thread.
    pub(super) fn prepare(engine: &Arc<Engine>, order: BackupOrder) -> Result<Self, BackupError> {
        let walk = Walk::new(engine).map_err(|error| BackupError::Source(as_fault(error)))?;
        let end = match order.through {
            Tid::MAX => walk.end,
            through => walk
                .position_of(through.next())
                .map_err(BackupError::Source)?,
        };
        let blobs = engine.blobs.clone().or_else(|| order.blobs.clone());
        let place = Place::prepare(&order.into, order.replace)?;
        Ok(FileBackup {
            engine: Arc::clone(engine),
            walk,
            end,
            blobs,
            order,
            place,
        })
    }
}

#[async_trait]
impl Backup for FileBackup {
    async fn run(self: Box<Self>, work: Work) -> Result<BackedUp, BackupError> {
        let runtime = Handle::current();
        let run = move || Running { runtime, work }.back_up(*self);
        on_a_thread(run).await.map_err(BackupError::Source)?
    }
}

/// The thread that copies, and what it tells of itself.
struct Running {
    runtime: Handle,
    work: Work,
}

/// What was found in the copy.
#[derive(Default)]
struct Contents {
    index: Index,
    last: Tid,
    transactions: u64,
    blobs: Vec<(Oid, Tid)>,
}

impl Running {
    fn back_up(mut self, backup: FileBackup) -> Result<BackedUp, BackupError> {
        let folder = backup.place.folder().to_owned();
        let data = folder.join(DATA);
        self.copy(&backup, &data)?;
        let contents = self.verify(&backup, &data)?;
        let index = beside(&data, ".index");
        Image::of(&contents.index, backup.end)
            .save(&index, || Some(()))
            .map_err(|error| BackupError::target(format!("writing {}", index.display()), error))?;
        let mut done = BackedUp {
            folder: backup.order.into.clone(),
            last: contents.last,
            transactions: contents.transactions,
            objects: contents.index.len() as u64,
            bytes: backup.end,
            blobs: 0,
            blob_bytes: 0,
            blobs_missing: 0,
        };
        if let Some(source) = &backup.blobs {
            self.copy_blobs(source, &contents.blobs, &folder.join(BLOBS), &mut done)?;
        }
        self.work.check()?;
        self.work.note("making it durable");
        backup.place.finish(&backup.order.array, &done)
    }

    /// Half a second's worth of the rate, so that a slow backup goes on evenly.
    fn step(&self) -> u64 {
        let rate = self.work.rate().bytes_per_second;
        rate.map_or(STEP as u64, |rate| (rate / 2).clamp(4096, STEP as u64))
    }

    /// Waits where the rate wants it.
    fn allow(&self, bytes: u64) -> Result<(), BackupError> {
        let allowed = self.work.allow(amount(bytes));
        Ok(self.runtime.block_on(allowed)?)
    }

    fn copy(&mut self, backup: &FileBackup, data: &Path) -> Result<(), BackupError> {
        let engine = &backup.engine;
        self.work.begin("copy", amount(backup.end));
        let write = |error| BackupError::target(format!("writing {}", data.display()), error);
        let copy = FileDisk::create(data).map_err(write)?;
        // Who may read the original may read the copy.
        let mode = fs::metadata(&engine.paths.data).map(|meta| meta.permissions());
        if let Ok(mode) = mode {
            fs::set_permissions(data, mode).map_err(write)?;
        }
        if backup.end == FIRST {
            copy.write_at(&MAGIC, 0).map_err(write)?;
        }
        let mut piece = vec![0; STEP];
        let mut at = 0;
        while at < backup.end && backup.end > FIRST {
            let want = self.step().min(backup.end - at) as usize;
            self.allow(want as u64)?;
            let read = backup.walk.disk.read_at(&mut piece[..want], at);
            let read = read.map_err(|error| BackupError::Source(engine.fault("reading", error)))?;
            // Closed, its end may have been taken back by who has opened it since.
            engine.usable().map_err(BackupError::Source)?;
            if backup.walk.was_taken_back() {
                let why = "the end of the history was taken back meanwhile".to_owned();
                return Err(BackupError::Source(Fault::Closed(why)));
            }
            if read < want {
                let what = format_args!("the file ends at {}", at + read as u64);
                return Err(BackupError::Source(engine.damaged(what)));
            }
            copy.write_at(&piece[..want], at).map_err(write)?;
            at += want as u64;
            self.work.did(amount(want as u64));
        }
        if step::mistake!(data, BackupNotSynced) {
            return Ok(());
        }
        copy.sync().map_err(write)
    }

    /// Reads the copy. What is wrong with it is so in the original, or the disk below the copy is bad.
    fn verify(&mut self, backup: &FileBackup, data: &Path) -> Result<Contents, BackupError> {
        self.work.begin("verify", amount(backup.end));
        let read = |error| BackupError::target(format!("reading {}", data.display()), error);
        let copy = FileDisk::open(data).map_err(read)?;
        let damaged = |what: String| {
            let original = &backup.engine.paths.data;
            BackupError::Source(Fault::Damaged(format!(
                "what was copied from {} cannot be read: {what}",
                original.display()
            )))
        };
        let mut contents = Contents::default();
        let mut scan = Scan::new(&copy, FIRST, backup.end, Tid::ZERO);
        let mut records = Vec::new();
        let origin = Origin {
            disk: &copy,
            path: data,
        };
        while scan.at < backup.end {
            self.work.check()?;
            let begin = scan.at;
            let header = match scan.transaction(&mut records) {
                Ok(header) => header,
                Err(Stop::Io(error)) => return Err(read(error)),
                Err(Stop::Unfinished(why) | Stop::Torn(why) | Stop::Damaged(why)) => {
                    return Err(damaged(format!("{why} at {begin}")));
                }
            };
            for (at, record) in &records {
                contents.index.insert(record.oid, *at);
                if backup.blobs.is_some()
                    && is_blob(&origin, *at, record).map_err(|fault| damaged(fault.to_string()))?
                {
                    contents.blobs.push((record.oid, header.tid));
                }
            }
            contents.transactions += 1;
            self.work.did(Amount {
                transactions: 1,
                bytes: scan.at - begin,
            });
        }
        contents.last = scan.last;
        if contents.last != backup.order.through && backup.order.through != Tid::MAX {
            // Packing can remove the last transaction, where all that it wrote is garbage.
            tracing::debug!(last = %contents.last, through = %backup.order.through, "the last transaction is not in the file");
        }
        // ZEO clients store a blob's record twice in a transaction.
        contents.blobs.dedup();
        Ok(contents)
    }

    fn copy_blobs(
        &mut self,
        source: &BlobDirectory,
        blobs: &[(Oid, Tid)],
        into: &Path,
        done: &mut BackedUp,
    ) -> Result<(), BackupError> {
        let write = |error| BackupError::target(format!("writing {}", into.display()), error);
        let target = BlobDirectory::open(into).map_err(write)?;
        let size = |(oid, tid): &(Oid, Tid)| {
            let meta = fs::metadata(source.file(*oid, *tid));
            meta.map_or(0, |meta| meta.len())
        };
        let total = Amount {
            transactions: 0,
            bytes: blobs.iter().map(size).sum(),
        };
        self.work.begin("blobs", total);
        let mut linking = true;
        for (oid, tid) in blobs {
            self.work.check()?;
            let found = source.find(*oid, *tid).map_err(|error| {
                let what = format!("opening the blob of {oid} in {tid}");
                BackupError::Source(Fault::io(what, error))
            })?;
            let Some(blob) = found else {
                done.blobs_missing += 1;
                continue;
            };
            linking = linking && target.link(*oid, *tid, &blob).map_err(write)?;
            if !linking {
                self.allow(blob.len())?;
                target.place(*oid, *tid, &blob).map_err(write)?;
            }
            done.blobs += 1;
            done.blob_bytes += blob.len();
            self.work.did(amount(blob.len()));
        }
        target.sync_everything().map_err(write)
    }
}

/// Whether a record is that of a blob, also where it points to the data of an earlier one: undoing gives
/// a blob's revision a file of its own.
pub(super) fn is_blob(origin: &Origin<'_>, at: u64, record: &RecordHeader) -> Result<bool, Fault> {
    let (data_at, len) = if record.data_len > 0 {
        (at, record.data_len)
    } else {
        match origin.source(record.oid, at)? {
            Some((source, at)) => (at, source.data_len),
            None => return Ok(false),
        }
    };
    let mut first = [0; BLOB_RECORD];
    let first = &mut first[..len.min(BLOB_RECORD as u64) as usize];
    let read = origin
        .disk
        .read_at(first, data_at + RecordHeader::LEN as u64);
    let read = read.map_err(|error| Fault::io("reading a record", error))?;
    Ok(is_blob_record(&first[..read]))
}

fn amount(bytes: u64) -> Amount {
    Amount {
        transactions: 0,
        bytes,
    }
}

fn as_fault(error: StorageError) -> Fault {
    match error {
        StorageError::Fault(fault) => fault,
        StorageError::Answer(answer) => Fault::Closed(answer.to_string()),
    }
}

/// A path beside another one: its name and a suffix.
fn sibling(path: &Path, suffix: &str) -> PathBuf {
    beside(path, suffix)
}
