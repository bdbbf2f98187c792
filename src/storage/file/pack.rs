//! Packing: a new file with what is needed to read the database as of a time or later.
//!
//! 1. [`garbage`] reads the file up to that time and follows the references: which records stay.
//! 2. [`copy`] writes those beside (`Data.fs.pack`), and then all transactions that came later. Clients
//!    read and commit meanwhile. What they have committed by the end is copied, too, again and again
//!    until little is left ([`ROUNDS`] times at most).
//! 3. With the place at the end of the file, so that nobody commits, the last little is copied, made
//!    durable, and the new file is renamed over the old one: a crash leaves one or the other. Loads that
//!    are under way begin again; iterations go on in the file that they have open.
//!
//!    How long the others wait for that is bounded: where more than [`AT_ONCE`] was committed until the
//!    place was free, it is copied for [`HELD`] and the place is given back, to those who have waited
//!    for it first, and the packing goes back to copying beside them. So it gains on clients that write
//!    faster than it copies; should it not have won after [`TURNS`] times, nothing is packed.
//! 4. [`blobs`] removes the files that belonged to records which are gone.
//!
//! The result is what Python makes of the same file, byte by byte, but for the header of the last packed
//! transaction, which stays ([`copy`]). Source: ZODB, `FileStorage/fspack.py` and `FileStorage.pack`.
//!
//! Memory: twice the index (six bytes for each object where oids are dense) until the reachable objects
//! are known, with eight bytes for each object of the widest step on the way; from then on once that,
//! and once the new index, while the old one serves.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;

use super::disk::{self, Disk};
use super::engine::{Engine, beside};
use super::{FileStorage, on_a_thread};
use crate::durable::step::{self, sync_folder_of};
use crate::storage::{Answer, Fault, Result, pack_tid};
use crate::zodb::Tid;

mod blobs;
mod copy;
mod garbage;

pub(super) use blobs::{forget_list, remove_listed};
use copy::Copy;

/// How often what was committed meanwhile is copied before the others have to wait.
const ROUNDS: usize = 16;
/// So little may be left when they do. (Tests have less of everything.)
const LITTLE: u64 = if cfg!(test) { 16 << 10 } else { 256 << 10 };
/// So much is copied while they wait, in bytes.
const AT_ONCE: u64 = if cfg!(test) { 256 << 10 } else { 4 << 20 };
/// So long it is where there is more; to the end of the transaction that is being copied then.
const HELD: Duration = Duration::from_millis(200);
/// How often that is done.
const TURNS: usize = if cfg!(test) { 6 } else { 64 };

/// What a crash may have left of a packing that did not come to its end.
pub(super) fn clear_leftovers(data: &Path) -> Result<(), Fault> {
    remove(&beside(data, ".pack"))
}

fn remove(path: &Path) -> Result<(), Fault> {
    match step::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Fault::io(format!("removing {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

/// Nobody else packs while this lives.
struct Packing(Arc<Engine>);

impl Packing {
    fn begin(engine: &Arc<Engine>) -> Result<Self> {
        engine.usable()?;
        if engine.packing.swap(true, Ordering::AcqRel) {
            return Err(Answer::Other {
                class: "ZODB.FileStorage.FileStorage.FileStorageError".to_owned(),
                text: "Already packing".to_owned(),
            }
            .into());
        }
        Ok(Packing(Arc::clone(engine)))
    }
}

impl Drop for Packing {
    fn drop(&mut self) {
        self.0.packing.store(false, Ordering::Release);
    }
}

impl FileStorage {
    pub(super) async fn pack_to(&self, time: f64) -> Result<()> {
        let engine = Arc::clone(&self.0);
        let stop = pack_tid(time)?;
        let packing = Packing::begin(&engine)?;
        if engine.state.read().index.is_empty() {
            return Ok(());
        }
        let rewinds = engine.rewinds.load(Ordering::Acquire);
        let outcome = pack(&engine, packing, stop).await;
        match outcome {
            // Whatever was read then was no longer there.
            Err(_) if rewinds != engine.rewinds.load(Ordering::Acquire) => {
                engine.usable()?;
                Err(copy::not_packed(
                    "the end of the history was taken back meanwhile",
                ))
            }
            outcome => outcome,
        }
    }
}

async fn pack(engine: &Arc<Engine>, packing: Packing, stop: Tid) -> Result<()> {
    let begun = on_a_thread(move || Packer::begin(packing, stop)).await??;
    let Some(mut packer) = begun else {
        return Ok(());
    };
    for _ in 0..TURNS {
        for _ in 0..ROUNDS {
            if packer.behind() <= LITTLE {
                break;
            }
            packer = on_a_thread(move || packer.catch_up(None)).await??;
        }
        let slot = engine.slot().await?;
        let turn = move |_: &Arc<Engine>| {
            let _slot = slot;
            packer.turn()
        };
        match engine.ask(turn).await?? {
            Turn::Swapped(swapped) => return on_a_thread(move || swapped.clean_up()).await?,
            // What was copied in that moment is made durable beside the clients.
            Turn::Behind(behind) => packer = on_a_thread(move || behind.sync()).await??,
        }
        engine.step("place given back");
    }
    Err(copy::not_packed(
        "clients wrote faster than what they wrote could be copied",
    ))
}

/// What came of a moment in which nobody else wrote.
enum Turn {
    Swapped(Swapped),
    /// Too much is left.
    Behind(Box<Packer>),
}

/// A new file that is being written.
struct Packer {
    copy: Copy,
    file: NewFile,
    /// The last to be dropped: the next packing uses the same name for its file.
    packing: Packing,
}

impl Packer {
    /// Writes the new file up to what is finished now. None where nothing would change.
    fn begin(packing: Packing, stop: Tid) -> Result<Option<Self>> {
        let engine = Arc::clone(&packing.0);
        let _working = working(&engine)?;
        remove_old(&engine)?;
        let source = copy::Source::of(&engine)?;
        let Some(reach) = garbage::find(&source, stop, engine.options.pack_gc)? else {
            tracing::info!(file = %engine.paths.data.display(), "nothing is left to be packed");
            return Ok(None);
        };
        let file = NewFile::create(&engine)?;
        engine.step("created");
        let mut copy = Copy::new(source, reach, Arc::clone(&file.disk))?;
        let changed = copy.packed(blobs::Removed::begin(&engine)?)?;
        engine.step("packed part copied");
        if !changed {
            blobs::forget_list(&engine)?;
            tracing::info!(file = %engine.paths.data.display(), "nothing can be packed");
            return Ok(None);
        }
        copy.rest(None)?;
        file.sync(&engine)?;
        engine.step("rest copied");
        Ok(Some(Packer {
            copy,
            file,
            packing,
        }))
    }

    /// How many bytes were committed and are not copied.
    fn behind(&self) -> u64 {
        let end = self.packing.0.state.read().end;
        end.saturating_sub(self.copy.end())
    }

    /// Copies what was committed meanwhile: all of it, or as much as there is time for.
    fn catch_up(mut self, until: Option<Instant>) -> Result<Self> {
        let engine = Arc::clone(&self.packing.0);
        let _working = working(&engine)?;
        self.copy.follow(&engine)?;
        self.copy.rest(until)?;
        if until.is_none() {
            self.file.sync(&engine)?;
            engine.step("caught up");
        }
        Ok(self)
    }

    fn sync(self) -> Result<Self> {
        let engine = Arc::clone(&self.packing.0);
        let _working = working(&engine)?;
        self.file.sync(&engine)?;
        Ok(self)
    }

    /// Puts the new file in the place of the old one, where little enough is left to be copied. On the
    /// thread that writes, with the slot.
    fn turn(self) -> Result<Turn> {
        let engine = Arc::clone(&self.packing.0);
        engine.wait_until_settled()?;
        if self.behind() > AT_ONCE {
            let until = crate::clock::instant() + HELD;
            return Ok(Turn::Behind(Box::new(self.catch_up(Some(until))?)));
        }
        Ok(Turn::Swapped(self.swap()?))
    }

    fn swap(mut self) -> Result<Swapped> {
        let engine = Arc::clone(&self.packing.0);
        let began = crate::clock::instant();
        self.copy.follow(&engine)?;
        self.copy.rest(None)?;
        self.file.sync(&engine)?;
        engine.step("all copied");
        let index_file = engine.index_file.lock();
        engine.remove_index()?;
        engine.step("index removed");
        self.file.replace(&engine)?;
        let before = self.copy.end();
        let after = self.copy.new_end();
        let mut index = self.copy.into_index();
        engine.replace(|state| {
            state.disk = self.file.disk.clone();
            // The old one is let go of when nobody waits any more.
            std::mem::swap(&mut state.index, &mut index);
            state.end = after;
        });
        drop(index_file);
        engine.step("replaced");
        tracing::info!(
            file = %engine.paths.data.display(),
            bytes_before = before,
            bytes_after = after,
            held_ms = crate::clock::since(began).as_millis(),
            "file was packed"
        );
        Ok(Swapped {
            packing: self.packing,
        })
    }
}

/// The new file is in force.
struct Swapped {
    packing: Packing,
}

impl Swapped {
    fn clean_up(self) -> Result<()> {
        let engine = Arc::clone(&self.packing.0);
        let _working = working(&engine)?;
        engine.step("others go on");
        engine.save_index();
        engine.step("index saved");
        remove_listed(&engine, true)?;
        engine.step("blobs removed");
        Ok(())
    }
}

/// To be held by a thread while it works: who closes the file waits for it.
fn working(engine: &Engine) -> Result<MutexGuard<'_, ()>, Fault> {
    let working = engine.packer.lock();
    must_go_on(engine)?;
    Ok(working)
}

/// To be asked now and then.
fn must_go_on(engine: &Engine) -> Result<(), Fault> {
    engine.usable()?;
    if engine.tail.lock().stop {
        return Err(engine.closed());
    }
    Ok(())
}

/// Removes what the last packing kept, as Python does before it begins: the room may be needed.
fn remove_old(engine: &Engine) -> Result<(), Fault> {
    remove(&beside(&engine.paths.data, ".old"))?;
    blobs::remove_old(engine)
}

/// The file that is written. Removed when dropped before it is in force.
struct NewFile {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    in_force: bool,
}

impl NewFile {
    fn create(engine: &Engine) -> Result<Self, Fault> {
        clear_leftovers(&engine.paths.data)?;
        let path = beside(&engine.paths.data, ".pack");
        let io = |error| Fault::io(format!("writing {}", path.display()), error);
        let disk = disk::create(&path).map_err(io)?;
        let mode = std::fs::metadata(&engine.paths.data).map(|meta| meta.permissions());
        mode.and_then(|mode| std::fs::set_permissions(&path, mode))
            .map_err(io)?;
        Ok(NewFile {
            path,
            disk,
            in_force: false,
        })
    }

    fn sync(&self, engine: &Engine) -> Result<(), Fault> {
        if step::mistake!(&self.path, PackNotSynced) {
            return Ok(());
        }
        let synced = self.disk.sync();
        synced.map_err(|error| Fault::io(format!("syncing {}", self.path.display()), error))?;
        must_go_on(engine)
    }

    /// Renames it over the data file. At every moment there is one.
    fn replace(&mut self, engine: &Engine) -> Result<(), Fault> {
        let data = &engine.paths.data;
        let io = |error| Fault::io(format!("replacing {}", data.display()), error);
        if engine.options.pack_keep_old {
            remove(&beside(data, ".old"))?;
            step::hard_link(data, &beside(data, ".old")).map_err(io)?;
            engine.step("old one kept");
        }
        step::rename(&self.path, data).map_err(io)?;
        self.in_force = true;
        engine.step("renamed");
        if step::mistake!(data, PackFolderNotSynced) {
            return Ok(());
        }
        if let Err(error) = sync_folder_of(data) {
            // Nobody knows which of the two is in force after a crash: nothing may be added to either.
            engine.poison(&io(error));
            return Err(engine.refusal());
        }
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.in_force {
            // The next opening or packing removes it where this does not.
            drop(step::remove_file(&self.path));
        }
    }
}

impl Engine {
    /// A crash may come after this.
    #[cfg(test)]
    pub(super) fn step(&self, name: &'static str) {
        if let Some(at_step) = &mut *self.at_step.lock() {
            at_step(name);
        }
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "tests look here")]
    pub(super) fn step(&self, _name: &'static str) {}
}
