//! Loads.
//!
//! A load looks its object up in the index and reads the file: the record's header and, as a guess,
//! four KiB of data at once. It is tried first without waiting for the disk, on the thread that asks;
//! only where something is not in memory it is done again on a thread that may wait.
//!
//! Older revisions and back-pointers are found by following positions, which only ever point backwards:
//! a damaged file cannot make a load go round. How far is bounded as [`super::far`] says.

use std::cell::RefCell;
use std::io;

use bytes::Bytes;

use super::disk::Disk;
use super::engine::Engine;
use super::far::{Pace, Patience};
use super::format::{FIRST, RecordHeader, TxnHeader, head, u64_at};
use super::turns::LARGE;
use crate::storage::lines::Lines;
use crate::storage::{Answer, CurrentRecord, Fault, Loaded, Result, Revision, StorageError};
use crate::zodb::{Oid, Tid};

/// Why a read gave nothing.
#[derive(Debug)]
pub(super) enum Miss {
    /// Nor near enough for a read that does not wait.
    NotInMemory,
    Failed(StorageError),
}

impl<E: Into<StorageError>> From<E> for Miss {
    fn from(error: E) -> Self {
        Miss::Failed(error.into())
    }
}

type Tried<T> = Result<T, Miss>;

/// A record as it is in the file.
pub(super) struct Raw {
    pub(super) header: RecordHeader,
    /// Where there is no data: the position that is there instead.
    pub(super) back: u64,
    /// The data, where it was wanted.
    pub(super) data: Option<Bytes>,
}

impl Raw {
    pub(super) fn is_gone(&self) -> bool {
        self.header.data_len == 0 && self.back == 0
    }
}

/// The header of a record and four KiB.
const GUESS: usize = RecordHeader::LEN + 4096;

thread_local! {
    /// What a guess is read into: records are copied out of it at their exact size, which costs less
    /// than a new, zeroed and too large buffer for each.
    static SCRATCH: RefCell<Box<[u8; GUESS]>> = RefCell::new(Box::new([0; GUESS]));
}

/// A file as it was when something was looked up in the index.
pub(super) struct Reader<'e> {
    pub(super) engine: &'e Engine,
    pub(super) disk: &'e dyn Disk,
    /// Nothing from here on is read.
    pub(super) end: u64,
    pub(super) pace: &'e Pace<'e>,
}

impl Reader<'_> {
    fn read(&self, into: &mut [u8], at: u64, least: usize) -> Tried<usize> {
        let waits = self.pace.waits();
        let done = if waits {
            self.disk.read_at(into, at)
        } else {
            self.disk.read_now(into, at)
        };
        let done = done.map_err(|error| self.engine.fault("reading", error))?;
        if done >= least {
            Ok(done)
        } else if waits {
            let end = io::ErrorKind::UnexpectedEof.into();
            Err(self.engine.fault("reading past the end of", end).into())
        } else {
            Err(Miss::NotInMemory)
        }
    }

    /// One step further back.
    fn step(&self) -> Tried<()> {
        self.pace.step().map_err(|fault| {
            if self.pace.waits() {
                Miss::from(fault)
            } else {
                Miss::NotInMemory
            }
        })
    }

    /// The record of `oid` at a position, with its data where `wanted` says so.
    pub(super) fn record(
        &self,
        oid: Oid,
        at: u64,
        wanted: impl FnOnce(&RecordHeader) -> bool,
    ) -> Tried<Raw> {
        let broken = || {
            let what = format_args!("there is no record of {oid} at {at}");
            Miss::from(self.engine.damaged(what))
        };
        if at < FIRST || at >= self.end {
            return Err(broken());
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let guess = (self.end - at).min(GUESS as u64) as usize;
            let least = RecordHeader::LEAST.min(guess);
            let filled = self.read(&mut scratch[..guess], at, least)?;
            if filled < RecordHeader::LEN {
                return Err(broken());
            }
            let header = RecordHeader::decode(head(&scratch[..]))
                .filter(|header| header.oid == oid && header.previous < at)
                .filter(|header| header.whole_len() <= self.end - at)
                .ok_or_else(broken)?;
            let body = RecordHeader::LEN;
            if header.data_len == 0 {
                let back = u64_at(&scratch[..], body);
                if back >= at {
                    return Err(broken());
                }
                return Ok(Raw {
                    header,
                    back,
                    data: None,
                });
            }
            let len = usize::try_from(header.data_len).map_err(|_| broken())?;
            let data = if !wanted(&header) {
                None
            } else if let Some(data) = scratch[..filled].get(body..body + len) {
                Some(Bytes::copy_from_slice(data))
            } else {
                let is_large = len >= LARGE && self.pace.waits();
                let _turn = is_large.then(|| self.engine.large_reads.take());
                let mut data = vec![0; len];
                let there = filled - body;
                data[..there].copy_from_slice(&scratch[body..filled]);
                let rest = at + filled as u64;
                self.read(&mut data[there..], rest, len - there)?;
                Some(data.into())
            };
            Ok(Raw {
                header,
                back: 0,
                data,
            })
        })
    }

    /// The data of a record: its own, or what it points back to; none where there is no object.
    fn state(&self, oid: Oid, mut raw: Raw) -> Tried<Option<Bytes>> {
        loop {
            if raw.data.is_some() {
                return Ok(raw.data);
            }
            if raw.back == 0 {
                return Ok(None);
            }
            // Each one points further back: `record` has made sure of that.
            self.step()?;
            raw = self.record(oid, raw.back, |_| true)?;
        }
    }

    /// The newest record at or before `at` of which `right` says so, with its data, and the TID of the
    /// next newer one.
    fn revision(
        &self,
        oid: Oid,
        mut at: u64,
        right: impl Fn(Tid) -> bool,
    ) -> Tried<Option<(Raw, Option<Tid>)>> {
        let mut newer = None;
        loop {
            let raw = self.record(oid, at, |header| right(header.tid))?;
            if right(raw.header.tid) {
                return Ok(Some((raw, newer)));
            }
            newer = Some(raw.header.tid);
            at = raw.header.previous;
            if at == 0 {
                return Ok(None);
            }
            self.step()?;
        }
    }
}

impl Engine {
    /// Looks up an object and reads, again where meanwhile something was taken back that was finished.
    fn look<T>(
        &self,
        oid: Oid,
        pace: &Pace<'_>,
        read: impl Fn(&Reader<'_>, u64, Tid) -> Tried<T>,
    ) -> Tried<T> {
        use std::sync::atomic::Ordering::Acquire;
        loop {
            self.usable()?;
            let (disk, position, last, end, generation) = {
                let state = self.state.read();
                let position = state.index.get(oid).ok_or(Answer::NoSuchObject(oid))?;
                let disk = std::sync::Arc::clone(&state.disk);
                // Changed only by who may write to the state.
                let generation = self.generation.load(Acquire);
                (disk, position, state.last, state.end, generation)
            };
            let reader = Reader {
                engine: self,
                disk: &*disk,
                end,
                pace,
            };
            let outcome = read(&reader, position, last);
            if self.generation.load(Acquire) == generation {
                return outcome;
            }
        }
    }

    pub(super) fn load_before(
        &self,
        oid: Oid,
        before: Tid,
        pace: &Pace<'_>,
    ) -> Tried<Option<Loaded>> {
        self.look(oid, pace, |reader, position, last| {
            let Some((raw, end)) = reader.revision(oid, position, |tid| tid < before)? else {
                return Ok(None);
            };
            let tid = raw.header.tid;
            let data = reader.state(oid, raw)?.ok_or(Answer::NoSuchObject(oid))?;
            Ok(Some(Loaded {
                data,
                tid,
                end,
                as_of: last,
            }))
        })
    }

    pub(super) fn load_serial(&self, oid: Oid, serial: Tid, pace: &Pace<'_>) -> Tried<Bytes> {
        self.look(oid, pace, |reader, position, _| {
            let found = reader.revision(oid, position, |tid| tid <= serial)?;
            let Some((raw, _)) = found.filter(|(raw, _)| raw.header.tid == serial) else {
                return Err(Answer::NoSuchObject(oid).into());
            };
            let data = reader.state(oid, raw)?;
            Ok(data.ok_or(Answer::NoSuchObject(oid))?)
        })
    }

    /// Whether an object got a revision in a transaction.
    pub(super) fn written_in(&self, oid: Oid, serial: Tid, pace: &Pace<'_>) -> Tried<bool> {
        self.look(oid, pace, |reader, position, _| {
            let mut at = position;
            while at != 0 {
                let header = reader.record(oid, at, |_| false)?.header;
                if header.tid <= serial {
                    return Ok(header.tid == serial);
                }
                at = header.previous;
                reader.step()?;
            }
            Ok(false)
        })
    }

    pub(super) fn current_tid(&self, oid: Oid, pace: &Pace<'_>) -> Tried<Tid> {
        self.look(oid, pace, |reader, position, _| {
            let raw = reader.record(oid, position, |_| false)?;
            if raw.is_gone() {
                return Err(Answer::NoSuchObject(oid).into());
            }
            Ok(raw.header.tid)
        })
    }

    /// The current record of the first object from `from` on that has one.
    pub(super) fn record_from(&self, from: Oid, pace: &Pace<'_>) -> Tried<Option<CurrentRecord>> {
        let mut next = Some(from);
        while let Some(from) = next {
            let found = {
                let state = self.state.read();
                let mut there = state.index.iter_from(from).map(|(oid, _)| oid);
                there.next().map(|oid| (oid, there.next()))
            };
            self.usable()?;
            let Some((oid, after)) = found else {
                return Ok(None);
            };
            next = after;
            match self.load_before(oid, Tid::MAX, pace) {
                Ok(Some(loaded)) => {
                    return Ok(Some(CurrentRecord {
                        oid,
                        tid: loaded.tid,
                        data: loaded.data,
                        next,
                    }));
                }
                // It was deleted, or its creation was undone.
                Ok(None) | Err(Miss::Failed(StorageError::Answer(Answer::NoSuchObject(_)))) => (),
                Err(miss) => return Err(miss),
            }
            // So may very many be.
            match pace.step() {
                Err(_) if !pace.waits() => return Err(Miss::NotInMemory),
                step => step?,
            }
        }
        Ok(None)
    }

    /// The last revisions of an object. Waits for the disk.
    pub(super) fn revisions(
        &self,
        oid: Oid,
        count: usize,
        pace: &Pace<'_>,
    ) -> Tried<Vec<Revision>> {
        self.look(oid, pace, |reader, position, _| {
            let (mut revisions, mut lines) = (Vec::new(), Lines::default());
            let mut at = position;
            while at != 0 && revisions.len() < count && !lines.are_too_many() {
                let raw = reader.record(oid, at, |_| false)?;
                let line = reader.revision_line(&raw.header)?;
                lines.add([&line.user, &line.description, &line.extension]);
                revisions.push(line);
                at = raw.header.previous;
                reader.step()?;
            }
            lines.check()?;
            Ok(revisions)
        })
    }

    /// The error of a read that was allowed to wait.
    pub(super) fn waited(&self, miss: Miss) -> StorageError {
        match miss {
            Miss::Failed(error) => error,
            Miss::NotInMemory => {
                let error = io::ErrorKind::WouldBlock.into();
                self.fault("reading", error).into()
            }
        }
    }
}

impl Reader<'_> {
    fn revision_line(&self, record: &RecordHeader) -> Tried<Revision> {
        let mut bytes = [0; TxnHeader::LEN];
        self.read(&mut bytes, record.txn, TxnHeader::LEN)?;
        let header = TxnHeader::decode(&bytes);
        if header.tid != record.tid {
            let what = format_args!("there is no transaction {} at {}", record.tid, record.txn);
            return Err(self.engine.damaged(what).into());
        }
        let mut head = vec![0; header.head_len() as usize - TxnHeader::LEN];
        let len = head.len();
        self.read(&mut head, record.txn + TxnHeader::LEN as u64, len)?;
        let mut head = Bytes::from(head);
        Ok(Revision {
            tid: record.tid,
            user: head.split_to(header.user.into()),
            description: head.split_to(header.description.into()),
            extension: head,
            size: record.data_len,
        })
    }
}

/// What a vote has to know of an object's current record. Waits for the disk.
pub(super) struct Current {
    pub(super) tid: Tid,
    pub(super) gone: bool,
}

impl Engine {
    /// What is at a position that the index or the tail gave. Only for who may write: nothing can be
    /// taken back meanwhile.
    pub(super) fn current_at(&self, oid: Oid, position: u64) -> Result<Current, Fault> {
        let disk = std::sync::Arc::clone(&self.state.read().disk);
        let reader = Reader {
            engine: self,
            disk: &*disk,
            end: super::format::LARGEST_FILE,
            pace: &Pace::new(Patience::Some),
        };
        match reader.record(oid, position, |_| false) {
            Ok(raw) => Ok(Current {
                tid: raw.header.tid,
                gone: raw.is_gone(),
            }),
            Err(miss) => match self.waited(miss) {
                StorageError::Fault(fault) => Err(fault),
                StorageError::Answer(answer) => Err(self.damaged(answer)),
            },
        }
    }
}
