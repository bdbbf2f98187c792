//! Writing the new file.
//!
//! Up to the time to which is packed, a transaction gets the status `p` and keeps the records that
//! stay, each with its data and without pointers into the past; one that keeps none is left out, but for the
//! last of them. Later transactions are copied as they are, with their pointers moved: all of them are as long
//! as they were, so that what follows the packed part moves by the same distance. Source: ZODB, `fspack.py`,
//! `FileStoragePacker`, `PackCopier`.
//!
//! The last packed transaction keeps its header, which Python leaves out like any other. Otherwise a file whose last
//! transaction wrote nothing but garbage would end earlier than it did, as one does that was put back from
//! a backup; and whether one between the last that is marked as packed and the first that is not was packed away,
//! or was lost, nobody could tell. The next packing leaves it out.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Instant;

use super::blobs::Removed;
use super::garbage::Reach;
use super::must_go_on;
use crate::storage::file::disk::Disk;
use crate::storage::file::engine::Engine;
use crate::storage::file::format::{FIRST, RecordHeader, TxnHeader, u64_at};
use crate::storage::file::index::Index;
use crate::storage::file::origin::Origin;
use crate::storage::file::window::Window;
use crate::storage::{Answer, Fault, Result};
use crate::zodb::{Oid, Tid, TxnStatus};

/// Read and written in steps of this size.
const STEP: usize = 1 << 20;
/// The same for what is far from there.
const FAR: usize = 64 << 10;

/// A record's header and four KiB.
const GUESS: usize = RecordHeader::LEN + 4096;

/// The file that is packed, up to an end that is finished.
pub(super) struct Source {
    pub(super) engine: Arc<Engine>,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) end: u64,
    rewinds: u64,
}

impl Source {
    pub(super) fn of(engine: &Arc<Engine>) -> Result<Self, Fault> {
        engine.usable()?;
        let state = engine.state.read();
        state.disk.will_be_scanned();
        Ok(Source {
            engine: Arc::clone(engine),
            disk: Arc::clone(&state.disk),
            end: state.end,
            rewinds: engine.rewinds.load(Ordering::Acquire),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.engine.paths.data
    }

    pub(super) fn origin(&self) -> Origin<'_> {
        Origin {
            disk: &*self.disk,
            path: self.path(),
        }
    }

    pub(super) fn window(&self) -> Window<'_> {
        Window::new(&*self.disk, STEP, self.end)
    }

    fn fault(&self, error: std::io::Error) -> Fault {
        self.engine.fault("reading", error)
    }

    /// The header of the transaction that begins at a position.
    pub(super) fn transaction(&self, window: &mut Window<'_>, at: u64) -> Result<TxnHeader, Fault> {
        let header = window.txn_header(at).map_err(|error| self.fault(error))?;
        if header.is_plausible() && header.whole_len() <= self.end - at {
            return Ok(header);
        }
        let what = format_args!("there is no transaction at {at}");
        Err(self.engine.damaged(what))
    }

    /// Goes through the records of a transaction: where each is, and what it has instead of data.
    pub(super) fn records(
        &self,
        window: &mut Window<'_>,
        begin: u64,
        header: &TxnHeader,
        mut visit: impl FnMut(u64, &RecordHeader, u64) -> Result<()>,
    ) -> Result<()> {
        let end = begin + header.len;
        let mut at = begin + header.head_len();
        while at < end {
            let record = window.record_header(at);
            let record = record.map_err(|error| self.fault(error))?;
            let Some(record) = record.filter(|record| {
                record.txn == begin && record.whole_len() <= end - at && record.previous < at
            }) else {
                let what = format_args!("there is no record at {at}");
                return Err(self.engine.damaged(what).into());
            };
            let back = if record.data_len == 0 {
                let back = window.number(at + RecordHeader::LEN as u64);
                back.map_err(|error| self.fault(error))?
            } else {
                0
            };
            if back >= at {
                let what = format_args!("the record at {at} points back to {back}");
                return Err(self.engine.damaged(what).into());
            }
            visit(at, &record, back)?;
            at += record.whole_len();
        }
        let again = window.number(end).map_err(|error| self.fault(error))?;
        if again != header.len {
            let what = format_args!("the transaction at {begin} has two lengths");
            return Err(self.engine.damaged(what).into());
        }
        Ok(())
    }

    /// Whose record is at a position, and its data: its own, or what it points back to. Empty where there
    /// is no object. One read of the file is enough for most.
    pub(super) fn data(&self, position: u64, data: &mut Vec<u8>) -> Result<Oid, Fault> {
        let mut at = position;
        let mut whose = None;
        loop {
            data.resize(GUESS, 0);
            let guess = (self.end - at).min(GUESS as u64) as usize;
            self.read(&mut data[..guess], at)?;
            let header = data[..guess].first_chunk().and_then(RecordHeader::decode);
            let Some(header) = header.filter(|header| header.whole_len() <= self.end - at) else {
                let what = format_args!("there is no record at {at}");
                return Err(self.engine.damaged(what));
            };
            let oid = *whose.get_or_insert(header.oid);
            if header.data_len == 0 {
                let back = u64_at(data, RecordHeader::LEN);
                if back == 0 || back >= at {
                    data.clear();
                    return Ok(oid);
                }
                at = back;
                continue;
            }
            let len = usize::try_from(header.whole_len()).unwrap_or(usize::MAX);
            if len > guess {
                data.resize(len, 0);
                self.read(&mut data[guess..], at + guess as u64)?;
            }
            data.truncate(len);
            data.drain(..RecordHeader::LEN);
            return Ok(oid);
        }
    }

    fn read(&self, into: &mut [u8], at: u64) -> Result<(), Fault> {
        let filled = self.disk.read_at(into, at);
        if filled.map_err(|error| self.fault(error))? < into.len() {
            return Err(self.fault(std::io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(())
    }
}

/// A record, and where its data is in the old file.
struct Kept {
    oid: Oid,
    from: u64,
    data_at: u64,
    data_len: u64,
}

/// A record that does not stay.
pub(super) struct Dropped {
    pub(super) oid: Oid,
    /// Where its data is.
    pub(super) data_at: u64,
    pub(super) data_len: u64,
}

/// A new file on its way.
pub(super) struct Copy {
    source: Source,
    reach: Reach,
    out: Output,
    index: Index,
    /// Up to here the old file is copied.
    at: u64,
    /// By how much what follows the packed part has moved.
    shift: i64,
    /// Where the old file ended when it was looked at what stays.
    looked_at: u64,
}

impl Copy {
    pub(super) fn new(source: Source, reach: Reach, disk: Arc<dyn Disk>) -> Result<Self> {
        let mut magic = [0; FIRST as usize];
        source.read(&mut magic, 0)?;
        let mut out = Output::new(disk);
        out.write(&magic)?;
        Ok(Copy {
            looked_at: source.end,
            source,
            reach,
            out,
            index: Index::default(),
            at: FIRST,
            shift: 0,
        })
    }

    /// Up to where the old file is copied.
    pub(super) fn end(&self) -> u64 {
        self.at
    }

    /// How long the new file is.
    pub(super) fn new_end(&self) -> u64 {
        self.out.position()
    }

    pub(super) fn into_index(self) -> Index {
        self.index
    }

    /// Copies what stays of the part that is packed. Whether Python's packing would change anything: where all that
    /// is left out is what the last transaction wrote, that is so too.
    pub(super) fn packed(&mut self, mut removed: Removed) -> Result<bool> {
        let Copy {
            source,
            reach,
            out,
            index,
            at,
            ..
        } = self;
        let origin = source.origin();
        let mut window = source.window();
        let mut far = Window::new(&*source.disk, FAR, source.end);
        // How much is there that Python leaves out.
        let mut emptied = 0;
        while *at < reach.packed_to {
            let begin = *at;
            let header = source.transaction(&mut window, begin)?;
            let (mut kept, mut dropped) = (Vec::new(), Vec::new());
            source.records(&mut window, begin, &header, |from, record, back| {
                let stays = reach.keeps(record.oid, from);
                if !stays && !removed.is_wanted() {
                    return Ok(());
                }
                let (data_at, data_len) = if record.data_len > 0 {
                    (from + RecordHeader::LEN as u64, record.data_len)
                } else if back > 0 {
                    let data = origin.source(record.oid, back)?;
                    data.map_or((0, 0), |(there, at)| {
                        (at + RecordHeader::LEN as u64, there.data_len)
                    })
                } else {
                    (0, 0)
                };
                let oid = record.oid;
                if stays {
                    kept.push(Kept {
                        oid,
                        from,
                        data_at,
                        data_len,
                    });
                } else {
                    dropped.push(Dropped {
                        oid,
                        data_at,
                        data_len,
                    });
                }
                Ok(())
            })?;
            for one in &dropped {
                removed.look_at(source, reach, header.tid, one)?;
            }
            let is_last = begin + header.whole_len() == reach.packed_to;
            if is_last && kept.is_empty() {
                emptied = header.head_len() + 8;
            }
            if is_last || !kept.is_empty() {
                let new = TxnHeader {
                    status: TxnStatus::Packed.to_byte(),
                    len: header.head_len() + kept.iter().map(Kept::len).sum::<u64>(),
                    ..header
                };
                let txn = out.position();
                out.header(&new)?;
                let texts = header.head_len() - TxnHeader::LEN as u64;
                out.copy(&mut window, begin + TxnHeader::LEN as u64, texts, source)?;
                for one in kept {
                    let position = out.position();
                    index.insert(one.oid, position);
                    if let Some(target) = reach.target(one.from) {
                        target.copied_to = position;
                    }
                    out.record(&RecordHeader {
                        oid: one.oid,
                        tid: header.tid,
                        previous: 0,
                        txn,
                        data_len: one.data_len,
                    })?;
                    if one.data_len == 0 {
                        out.write(&[0; 8])?;
                    } else if one.data_at > one.from && one.data_at < begin + header.len {
                        out.copy(&mut window, one.data_at, one.data_len, source)?;
                    } else {
                        out.copy(&mut far, one.data_at, one.data_len, source)?;
                    }
                }
                out.write(&new.len.to_be_bytes())?;
            }
            *at += header.whole_len();
        }
        removed.finish(&source.engine)?;
        reach.forget_objects();
        // Backwards where it is more, as from Python: a record that pointed back has its data now, and
        // what it pointed to may stay.
        self.shift = self.at.cast_signed() - self.out.position().cast_signed();
        Ok(self.at != self.out.position() - emptied)
    }

    /// What is finished by now will be copied as well.
    pub(super) fn follow(&mut self, engine: &Engine) -> Result<()> {
        must_go_on(engine)?;
        let state = engine.state.read();
        if engine.rewinds.load(Ordering::Acquire) != self.source.rewinds {
            return Err(not_packed(
                "the end of the history was taken back meanwhile",
            ));
        }
        self.source.end = state.end;
        Ok(())
    }

    /// Copies what is later than the packed part, up to the end or as long as there is time.
    pub(super) fn rest(&mut self, until: Option<Instant>) -> Result<()> {
        let Copy {
            source,
            reach,
            out,
            index,
            at,
            shift,
            looked_at,
        } = self;
        let mut window = source.window();
        let mut records = Vec::new();
        while *at < source.end && until.is_none_or(|until| crate::clock::instant() < until) {
            let begin = *at;
            let header = source.transaction(&mut window, begin)?;
            records.clear();
            source.records(&mut window, begin, &header, |from, record, back| {
                let back = if back >= reach.packed_to {
                    moved(back, *shift)
                } else if back == 0 {
                    0
                } else {
                    match reach.target(back).map(|target| target.copied_to) {
                        Some(copied_to) if copied_to > 0 => copied_to,
                        _ if begin < *looked_at => 0,
                        // Of an undo that was committed meanwhile.
                        _ => out.find(source, index, record.oid, back)?.ok_or_else(|| {
                            // What the restored state refers to may be gone.
                            not_packed(
                                "something from before was brought back by an undo meanwhile",
                            )
                        })?,
                    }
                };
                records.push((from, *record, back));
                Ok(())
            })?;
            out.header(&header)?;
            let texts = header.head_len() - TxnHeader::LEN as u64;
            out.copy(&mut window, begin + TxnHeader::LEN as u64, texts, source)?;
            for (from, record, back) in &records {
                out.record(&RecordHeader {
                    previous: index.get(record.oid).unwrap_or(0),
                    txn: moved(begin, *shift),
                    ..*record
                })?;
                if record.data_len == 0 {
                    out.write(&back.to_be_bytes())?;
                } else {
                    let data_at = from + RecordHeader::LEN as u64;
                    out.copy(&mut window, data_at, record.data_len, source)?;
                }
            }
            out.write(&header.len.to_be_bytes())?;
            for (from, record, _) in &records {
                index.insert(record.oid, moved(*from, *shift));
            }
            *at += header.whole_len();
        }
        out.flush()?;
        // Where there is little time, others wait: not for the disk as well.
        if until.is_none() {
            out.synced()?;
        }
        Ok(())
    }
}

/// Where something is that was at a position and has moved towards the beginning by so much.
fn moved(position: u64, shift: i64) -> u64 {
    position.wrapping_sub_signed(shift)
}

pub(super) fn not_packed(why: &str) -> crate::storage::StorageError {
    Answer::Other {
        class: "ZODB.FileStorage.fspack.PackError".to_owned(),
        text: format!("{why}; nothing was packed, try again"),
    }
    .into()
}

impl Kept {
    fn len(&self) -> u64 {
        crate::storage::file::format::record_len(self.data_len)
    }
}

/// After how many bytes the disk is told to begin with them, so that little is left for it at the end.
const SYNC_BEHIND: u64 = 32 << 20;

/// Collects what is written into large steps.
struct Output {
    disk: Arc<dyn Disk>,
    at: u64,
    buffer: Vec<u8>,
    /// Up to here the disk was told to begin.
    told: u64,
    syncing: Option<JoinHandle<std::io::Result<()>>>,
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Err(error) = self.synced() {
            // Nothing is put in force when it is dropped.
            tracing::debug!(%error, "the packed file was not made durable");
        }
    }
}

impl Output {
    fn new(disk: Arc<dyn Disk>) -> Self {
        Output {
            disk,
            at: 0,
            buffer: Vec::with_capacity(STEP + STEP / 4),
            told: 0,
            syncing: None,
        }
    }

    /// Where the next byte will be.
    fn position(&self) -> u64 {
        self.at + self.buffer.len() as u64
    }

    fn header(&mut self, header: &TxnHeader) -> Result<()> {
        header.encode(&mut self.buffer);
        self.flush_when_full()
    }

    fn record(&mut self, header: &RecordHeader) -> Result<()> {
        header.encode(&mut self.buffer);
        self.flush_when_full()
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        self.flush_when_full()
    }

    /// Copies a part of the old file.
    fn copy(
        &mut self,
        window: &mut Window<'_>,
        mut at: u64,
        mut len: u64,
        source: &Source,
    ) -> Result<()> {
        while len > 0 {
            let step = len.min(FAR as u64);
            let bytes = window.bytes(at, step as usize);
            self.buffer
                .extend_from_slice(bytes.map_err(|error| source.fault(error))?);
            if self.buffer.len() >= STEP {
                must_go_on(&source.engine)?;
                self.flush()?;
            }
            at += step;
            len -= step;
        }
        Ok(())
    }

    /// Where the record of the old file that is at a position is in the new one; none where it did not
    /// stay.
    fn find(
        &mut self,
        source: &Source,
        index: &Index,
        oid: Oid,
        position: u64,
    ) -> Result<Option<u64>> {
        self.flush()?;
        let wanted = tid_at(source, oid, position)?;
        let origin = Origin {
            disk: &*self.disk,
            path: source.path(),
        };
        let mut next = index.get(oid);
        while let Some(at) = next {
            let Some((header, _)) = origin.record(oid, at)? else {
                break;
            };
            if Some(header.tid) == wanted {
                return Ok(Some(at));
            }
            next = (header.previous > 0).then_some(header.previous);
        }
        Ok(None)
    }

    fn flush_when_full(&mut self) -> Result<()> {
        if self.buffer.len() >= STEP {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let written = self.disk.write_at(&self.buffer, self.at);
        written.map_err(|error| Fault::io("writing the packed file", error))?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        if self.at - self.told >= SYNC_BEHIND
            && self.syncing.as_ref().is_none_or(JoinHandle::is_finished)
        {
            self.synced()?;
            self.told = self.at;
            let disk = Arc::clone(&self.disk);
            let thread = std::thread::Builder::new().name("file-pack-sync".to_owned());
            // Where it cannot be started, the disk has more to do at the end.
            self.syncing = thread.spawn(move || disk.sync()).ok();
        }
        Ok(())
    }

    /// Waits for the disk. The system tells of a write that failed once: who was told must not forget it.
    fn synced(&mut self) -> Result<(), Fault> {
        let Some(syncing) = self.syncing.take() else {
            return Ok(());
        };
        let synced = syncing.join();
        let synced = synced.unwrap_or_else(|_| Err(std::io::Error::other("a thread panicked")));
        synced.map_err(|error| Fault::io("syncing the packed file", error))
    }
}

/// Of the record that stays for an object, its transaction.
pub(super) fn tid_at(source: &Source, oid: Oid, position: u64) -> Result<Option<Tid>, Fault> {
    let found = source.origin().record(oid, position)?;
    Ok(found.map(|(header, _)| header.tid))
}
