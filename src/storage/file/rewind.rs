//! Taking back the end of a history, and setting whole files aside. Nothing is deleted: what is taken
//! back becomes a file beside, which is a `Data.fs` by itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Paths;
use super::disk::{self, Disk, FileDisk};
use super::engine::{Engine, State, beside};
use super::format::{FIRST, MAGIC};
use super::history::Walk;
use super::index::Index;
use super::open::keep_mode;
use super::origin::Origin;
use super::recent::Recent;
use super::restore::Copier;
use super::scan::{Scan, Stop};
use super::window::Window;
use crate::durable::step::{self, sync_folder_of};
use crate::storage::{BlobDirectory, Extent, Fault, Result, SetAside, is_blob_record};
use crate::zodb::{HistoryTxn, Oid, Tid, TxnStatus};

impl Engine {
    /// Sets aside what is later than `keep`. On the thread that writes, with the slot.
    pub(super) fn rewind(self: &Arc<Self>, keep: Option<Tid>) -> Result<SetAside> {
        self.wait_until_settled()?;
        let walk = Walk::new(self)?;
        if walk.end == FIRST {
            return Ok(SetAside::default());
        }
        let cut = match keep {
            Some(keep) => walk.position_of(keep.next())?,
            None => FIRST,
        };
        if cut == walk.end || keep == Some(Tid::MAX) {
            return Ok(SetAside::default());
        }
        let (extent, unread) = if let Some(keep) = keep {
            (walk.measure_after(keep)?, false)
        } else {
            all_of(&walk)
        };
        // An index that knows of what is gone would be believed if the same length came again.
        let _index_file = self.index_file.lock();
        if !step::mistake!(&self.paths.data, IndexKeptOverRewind) {
            self.remove_index()?;
        }
        let file = if cut == FIRST {
            self.begin_anew(&walk)?
        } else {
            self.cut_back(&walk, cut)?
        };
        if bug!(KeepNothingAside) {
            drop(std::fs::remove_file(&file));
        }
        tracing::warn!(
            file = %self.paths.data.display(),
            aside = %file.display(),
            transactions = (!unread).then_some(extent.transactions),
            whole = cut == FIRST,
            "history was set aside"
        );
        Ok(SetAside {
            file: Some(file),
            extent,
            unread,
        })
    }

    /// Copies what is from `cut` on into a file beside, and cuts it off.
    fn cut_back(self: &Arc<Self>, walk: &Walk, cut: u64) -> Result<PathBuf> {
        let mut first = None;
        let mut blobs = Vec::new();
        let aside = Aside::create(self)?;
        {
            let origin = Origin {
                disk: &aside.disk,
                path: &aside.path,
            };
            let mut copier = Copier::new(origin, FIRST);
            let mut at = cut;
            while at < walk.end {
                let (transactions, next) = walk.read(at, Tid::MAX)?;
                for txn in transactions {
                    first.get_or_insert(txn.tid);
                    if self.blobs.is_some() {
                        note_blobs(&txn, &mut blobs)?;
                    }
                    copier.copy(txn, false, |_| None)?;
                }
                at = next;
            }
            copier.flush()?;
        }
        let last = self.state.read().last;
        let file = aside.keep(self, first.unwrap_or(last), last)?;
        if let Some(directory) = &self.blobs {
            let io = |error| Fault::io(format!("setting aside blobs of {}", file.display()), error);
            directory
                .share(&suffix(&self.paths.data, &file), &blobs)
                .map_err(io)?;
        }

        let (index, last) = self.index_before(walk, cut)?;
        let disk = Arc::clone(&walk.disk);
        let cut_off = disk.set_len(cut).and_then(|()| disk.sync());
        if let Err(error) = cut_off {
            self.poison(&self.fault("cutting the end from", error));
            return Err(self.refusal().into());
        }
        self.take_back(|state| {
            state.index = index;
            state.last = last;
            state.end = cut;
        });
        self.remember_recent()?;
        if let Some(directory) = &self.blobs {
            for (oid, tid) in blobs {
                // It has a second name beside; where the first stays, it is in nobody's way.
                if let Err(error) = directory.remove(oid, tid) {
                    tracing::warn!(%oid, %tid, %error, "file of a blob was not set aside");
                }
            }
        }
        Ok(file)
    }

    /// The index as it was before the transactions from `cut` on, and the last TID before them.
    fn index_before(&self, walk: &Walk, cut: u64) -> Result<(Index, Tid)> {
        let last = match walk.up_to(cut).backwards().next() {
            Some(step) => step?.1.tid,
            None => Tid::ZERO,
        };
        let mut window = Window::new(&*walk.disk, 4 * 1024, walk.end);
        let first = walk.txn_at(&mut window, cut)?;
        if first.txn_status() == Some(TxnStatus::Packed) {
            return Ok((self.index_of(walk, cut)?, last));
        }
        let mut index = self.state.read().index.clone();
        let origin = Origin {
            disk: &*walk.disk,
            path: &self.paths.data,
        };
        let later: Vec<(Oid, u64)> = index
            .iter_from(Oid(0))
            .filter(|(_, position)| *position >= cut)
            .collect();
        for (oid, newest) in later {
            let mut at = newest;
            while at >= cut {
                let found = origin.record(oid, at)?;
                let earlier = found.map(|(header, _)| header.previous);
                at = earlier.filter(|earlier| *earlier < at).ok_or_else(|| {
                    self.damaged(format_args!("there is no record of {oid} at {at}"))
                })?;
            }
            if at == 0 {
                index.remove(oid);
            } else {
                index.insert(oid, at);
            }
        }
        Ok((index, last))
    }

    /// The index of what is before `cut`, read anew: packing leaves no record a pointer to the one before it, although
    /// it may have kept that, too, for a later undo that points there.
    fn index_of(&self, walk: &Walk, cut: u64) -> Result<Index> {
        let mut scan = Scan::new(&*walk.disk, FIRST, cut, Tid::ZERO);
        let (mut index, mut found) = (Index::default(), Vec::new());
        while scan.at < cut {
            match scan.transaction(&mut found) {
                Ok(_) => {
                    for (at, record) in &found {
                        index.insert(record.oid, *at);
                    }
                }
                Err(Stop::Io(error)) => return Err(self.fault("reading", error).into()),
                Err(Stop::Unfinished(what) | Stop::Torn(what) | Stop::Damaged(what)) => {
                    return Err(self.damaged(format_args!("at {}: {what}", scan.at)).into());
                }
            }
        }
        Ok(index)
    }

    /// Renames the file and begins an empty one.
    fn begin_anew(self: &Arc<Self>, walk: &Walk) -> Result<PathBuf> {
        let last = self.state.read().last;
        // As far back as it can be read.
        let oldest = walk.backwards().map_while(Result::ok).last();
        let oldest = oldest.map_or(last, |(_, header)| header.tid);
        let file = free_name(&self.paths.data, oldest, last);
        let io = |error| self.fault("setting aside", error);
        if let Some(directory) = &self.blobs {
            // A temporary name that a crash brings back would say that its blob's transaction is not there.
            directory.keep_unsettled().map_err(io)?;
        }
        step::rename(&self.paths.data, &file).map_err(io)?;
        if let Some(directory) = &self.blobs {
            // What stays behind is in nobody's way: it is replaced by what comes under its name.
            if let Err(error) = directory.set_aside(&suffix(&self.paths.data, &file)) {
                tracing::warn!(folder = %directory.root().display(), %error, "blobs were not set aside");
            }
        }
        let made = disk::create(&self.paths.data).and_then(|disk| {
            keep_mode(&file, &self.paths.data)?;
            disk.write_at(&MAGIC, 0)?;
            disk.sync()?;
            sync_folder_of(&self.paths.data)?;
            Ok(disk)
        });
        let disk = match made {
            Ok(disk) => disk,
            Err(error) => {
                self.poison(&self.fault("making", error));
                return Err(self.refusal().into());
            }
        };
        self.take_back(|state| {
            *state = State {
                disk,
                index: Index::default(),
                last: Tid::ZERO,
                end: FIRST,
                recent: Recent::new(state.recent.most(), Tid::ZERO),
            };
        });
        Ok(file)
    }

    fn take_back(&self, change: impl FnOnce(&mut State)) {
        self.rewinds.fetch_add(1, Ordering::Release);
        self.replace(change);
    }

    /// Shows another past. Loads that are under way begin again.
    pub(super) fn replace(&self, change: impl FnOnce(&mut State)) {
        let (end, last) = {
            let mut state = self.state.write();
            change(&mut state);
            self.generation.fetch_add(1, Ordering::Release);
            (state.end, state.last)
        };
        let mut tail = self.tail.lock();
        tail.end = end;
        tail.last = last;
        drop(tail);
        self.saved_at.store(end, Ordering::Relaxed);
    }

    pub(super) fn remove_index(&self) -> Result<(), Fault> {
        let index = &self.paths.index;
        match step::remove_file(index) {
            Ok(()) => sync_folder_of(index),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
        .map_err(|error| Fault::io(format!("removing {}", index.display()), error))
    }
}

/// All that is there, and whether there may be more: a file that is kept as it is need not be readable.
fn all_of(walk: &Walk) -> (Extent, bool) {
    let (mut transactions, mut unread) = (0, false);
    for step in walk.backwards() {
        unread = step.is_err();
        if unread {
            break;
        }
        transactions += 1;
    }
    let bytes = walk.end - FIRST;
    (
        Extent {
            transactions,
            bytes,
        },
        unread,
    )
}

/// Which records of a transaction are those of blobs.
fn note_blobs(txn: &HistoryTxn, blobs: &mut Vec<(Oid, Tid)>) -> Result<(), Fault> {
    for record in &txn.records {
        if let Some(data) = record.data.payload() {
            let mut first = [0; 512];
            let first = &mut first[..data.len().min(512)];
            data.read_at(0, first)
                .map_err(|error| Fault::io("reading a record", error))?;
            if is_blob_record(first) {
                blobs.push((record.oid, txn.tid));
            }
        }
    }
    Ok(())
}

/// A file beside that is being written. Removed when dropped before it is kept.
struct Aside {
    path: PathBuf,
    disk: FileDisk,
    kept: bool,
}

impl Aside {
    fn create(engine: &Engine) -> Result<Self, Fault> {
        let path = beside(&engine.paths.data, ".aside_tmp");
        let io = |error| Fault::io(format!("writing {}", path.display()), error);
        // From a rewind that did not come to its end: all of it is still in the data file.
        match step::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
            _ => (),
        }
        let disk = FileDisk::create(&path).map_err(io)?;
        keep_mode(&engine.paths.data, &path).map_err(io)?;
        disk.write_at(&MAGIC, 0).map_err(io)?;
        Ok(Aside {
            path: path.clone(),
            disk,
            kept: false,
        })
    }

    fn keep(mut self, engine: &Engine, first: Tid, last: Tid) -> Result<PathBuf, Fault> {
        let file = free_name(&engine.paths.data, first, last);
        let synced = if step::mistake!(&self.path, AsideNotSynced) {
            Ok(())
        } else {
            self.disk.sync()
        };
        let kept = synced
            .and_then(|()| step::rename(&self.path, &file))
            .and_then(|()| sync_folder_of(&file));
        kept.map_err(|error| Fault::io(format!("writing {}", file.display()), error))?;
        self.kept = true;
        Ok(file)
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if !self.kept {
            // The next rewind removes it where this does not.
            drop(step::remove_file(&self.path));
        }
    }
}

/// A name beside the data file that nothing has yet.
fn free_name(data: &Path, first: Tid, last: Tid) -> PathBuf {
    free(data, &format!(".aside-{:016x}-{:016x}", first.0, last.0))
}

/// What the name of a file beside has more than that of the data file.
fn suffix(data: &Path, file: &Path) -> String {
    let name = |path: &Path| {
        path.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let more = name(file).split_off(name(data).len());
    // A hidden folder, where it is within another one.
    format!(".{}", more.trim_start_matches('.'))
}

fn free(data: &Path, suffix: &str) -> PathBuf {
    let mut path = beside(data, suffix);
    let mut number = 1;
    while path.symlink_metadata().is_ok() {
        path = beside(data, &format!("{suffix}.{number}"));
        number += 1;
    }
    path
}

/// Renames a file that is not open, and its index, out of the way; and its blobs, where it has any.
pub(super) fn set_file_aside(paths: &Paths, blob_dir: Option<&Path>) -> Result<SetAside, Fault> {
    let Paths { data, index } = paths;
    let io = |error| Fault::io(format!("setting aside {}", data.display()), error);
    let bytes = match std::fs::metadata(data) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(SetAside::default());
        }
        Err(error) => return Err(io(error)),
    };
    let now = crate::clock::now().strftime("%Y%m%dT%H%M%SZ");
    let file = free(data, &format!(".aside-{now}"));
    let blobs = |error| {
        let folder = blob_dir.unwrap_or(data).display();
        Fault::io(format!("setting aside {folder}"), error)
    };
    let directory = match blob_dir.filter(|folder| folder.is_dir()) {
        Some(folder) => Some(BlobDirectory::open(folder).map_err(blobs)?),
        None => None,
    };
    if let Some(directory) = &directory {
        // Before the data is gone: who opens the folder then would take them for those of aborted ones.
        directory.keep_unsettled().map_err(blobs)?;
    }
    match step::rename(index, &beside(&file, ".index")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
        _ => (),
    }
    step::rename(data, &file).map_err(io)?;
    sync_folder_of(data).map_err(io)?;
    if let Some(directory) = directory {
        directory.set_aside(&suffix(data, &file)).map_err(blobs)?;
    }
    Ok(SetAside {
        file: Some(file),
        // Nobody has read it: how many transactions it has is not known.
        extent: Extent {
            transactions: 0,
            bytes,
        },
        unread: true,
    })
}
