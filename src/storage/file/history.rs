//! Walking over transactions: iterations, and looking backwards from the end.
//!
//! An iteration reads some MiB at once, on a thread that may wait, and one step ahead of who takes the
//! transactions. The records are slices of what was read; large ones stay in the file. One of which there may be many,
//! because clients take their time with them, reads little at once and nothing ahead.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::task::JoinHandle;

use super::disk::Disk;
use super::engine::Engine;
use super::far::Pace;
use super::format::{FIRST, RecordHeader, TxnHeader, head, u64_at};
use super::origin::Origin;
use super::recent::Recent;
use super::scan::Scan;
use super::window::Window;
use crate::storage::{Extent, Fault, History, Result, StorageError};
use crate::zodb::{HistoryRecord, HistoryTxn, Oid, Payload, RecordData, Tid, TidRange, TxnMeta};

/// How much is read at once.
const STEP: u64 = 2 << 20;
/// The same of an iteration that is to hold little.
const SMALL_STEP: u64 = 64 << 10;
/// Data longer than this stays in the file.
const LARGE: u64 = 1 << 20;
/// The same within a transaction that is longer than a step.
const LARGE_OF_LARGE: u64 = 16 << 10;

/// What is walked over: the file as it was at a moment.
#[derive(Clone)]
pub(super) struct Walk {
    engine: Arc<Engine>,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) end: u64,
    pub(super) last: Tid,
    pub(super) rewinds: u64,
}

impl Walk {
    pub(super) fn new(engine: &Arc<Engine>) -> Result<Self> {
        engine.usable()?;
        let state = engine.state.read();
        Ok(Walk {
            engine: Arc::clone(engine),
            disk: Arc::clone(&state.disk),
            end: state.end,
            last: state.last,
            rewinds: engine.rewinds.load(std::sync::atomic::Ordering::Acquire),
        })
    }

    /// Whether the end of the history was, since this walk began.
    pub(super) fn was_taken_back(&self) -> bool {
        use std::sync::atomic::Ordering::Acquire;
        self.rewinds != self.engine.rewinds.load(Acquire)
    }

    fn fault(&self, error: std::io::Error) -> Fault {
        self.engine.fault("reading", error)
    }

    /// The same file, as far as where a transaction begins.
    pub(super) fn up_to(&self, end: u64) -> Self {
        Walk {
            end,
            ..self.clone()
        }
    }

    /// Where the first transaction from `first` on begins; the end where there is none. Looked for from
    /// whichever end is nearer in time.
    pub(super) fn position_of(&self, first: Tid) -> Result<u64, Fault> {
        self.position_at_pace(first, &Pace::endless())
    }

    fn position_at_pace(&self, first: Tid, pace: &Pace<'_>) -> Result<u64, Fault> {
        if self.end == FIRST || first > self.last {
            return Ok(self.end);
        }
        if first.is_zero() {
            return Ok(FIRST);
        }
        let mut window = Window::new(&*self.disk, 16 * 1024, self.end);
        let oldest = self.txn_at(&mut window, FIRST)?;
        if first <= oldest.tid {
            return Ok(FIRST);
        }
        if first.0 - oldest.tid.0 < self.last.0 - first.0 {
            self.position_from_begin(first, pace)
        } else {
            let mut begin = self.end;
            for step in self.backwards() {
                let (at, header) = step?;
                if header.tid < first {
                    break;
                }
                begin = at;
                pace.step()?;
            }
            Ok(begin)
        }
    }

    fn position_from_begin(&self, first: Tid, pace: &Pace<'_>) -> Result<u64, Fault> {
        let mut window = Window::new(&*self.disk, 16 * 1024, self.end);
        let mut at = FIRST;
        while at < self.end {
            let header = self.txn_at(&mut window, at)?;
            if header.tid >= first {
                return Ok(at);
            }
            at += header.whole_len();
            pace.step()?;
        }
        Ok(self.end)
    }

    /// What is no transaction is damage, and says nothing about what is not there.
    pub(super) fn txn_at(&self, window: &mut Window<'_>, at: u64) -> Result<TxnHeader, Fault> {
        let header = window.txn_header(at).map_err(|error| self.fault(error))?;
        if header.is_plausible() && header.whole_len() <= self.end - at {
            return Ok(header);
        }
        let what = format_args!("there is no transaction at {at}");
        Err(self.engine.damaged(what))
    }

    /// The transactions from the end on backwards: where each begins, and its header.
    pub(super) fn backwards(&self) -> impl Iterator<Item = Result<(u64, TxnHeader), Fault>> {
        let mut window = Window::new(&*self.disk, 4 * 1024, self.end);
        let mut boundary = self.end;
        std::iter::from_fn(move || {
            if boundary == FIRST {
                return None;
            }
            let step = match window.txn_before(boundary) {
                Ok(Some((begin, header))) => {
                    boundary = begin;
                    Ok((begin, header))
                }
                Ok(None) => Err(self.not_before(&mut boundary)),
                Err(error) => {
                    boundary = FIRST;
                    Err(self.fault(error))
                }
            };
            Some(step)
        })
    }

    fn not_before(&self, boundary: &mut u64) -> Fault {
        let what = format_args!("no transaction ends at {boundary}");
        let fault = self.engine.damaged(what);
        *boundary = FIRST;
        fault
    }

    pub(super) fn tids_before(&self, before: Tid, count: usize) -> Result<Vec<Tid>, Fault> {
        let mut tids = Vec::new();
        for step in self.backwards() {
            if tids.len() == count {
                break;
            }
            let (_, header) = step?;
            if header.tid < before {
                tids.push(header.tid);
            }
        }
        Ok(tids)
    }

    pub(super) fn measure_after(&self, after: Tid) -> Result<Extent, Fault> {
        let mut extent = Extent::default();
        for step in self.backwards() {
            let (begin, header) = step?;
            if header.tid <= after {
                break;
            }
            extent.transactions += 1;
            extent.bytes = self.end - begin;
        }
        Ok(extent)
    }

    /// The transactions from `at` on, [`STEP`] bytes of them.
    ///
    /// # Errors
    /// As [`read_at_pace`](Self::read_at_pace).
    pub(super) fn read(&self, at: u64, last: Tid) -> Result<Step> {
        self.read_at_pace(at, last, STEP, &Pace::endless())
    }

    /// The transactions from `at` on, about `size` bytes of them, and where the next one begins. None
    /// is later than `last`.
    ///
    /// # Errors
    /// Where the first one cannot be read. Before one that cannot, it ends: reading on there says why.
    fn read_at_pace(&self, at: u64, last: Tid, size: u64, pace: &Pace<'_>) -> Result<Step> {
        let mut transactions = VecDeque::new();
        if at == self.end {
            return Ok((transactions, at));
        }
        let want = size.min(self.end - at) as usize;
        let mut chunk = vec![0; want];
        let filled = self
            .disk
            .read_at(&mut chunk, at)
            .map_err(|error| self.fault(error))?;
        if self.was_taken_back() {
            return Err(Fault::Closed("the end of the history was taken back".to_owned()).into());
        }
        if filled < want {
            let what = format_args!("the file ends at {}", at + filled as u64);
            return Err(self.engine.damaged(what).into());
        }
        let chunk = Chunk {
            begin: at,
            bytes: chunk.into(),
        };
        let mut at = at;
        while at < self.end {
            let Some(bytes) = chunk.get(at, TxnHeader::LEN as u64) else {
                break;
            };
            let header = TxnHeader::decode(head(&bytes));
            if !header.is_plausible() || header.whole_len() > self.end - at {
                if !transactions.is_empty() {
                    break;
                }
                let what = format_args!("there is no transaction at {at}");
                return Err(self.engine.damaged(what).into());
            }
            if header.tid > last {
                return Ok((transactions, self.end));
            }
            let large = if chunk.get(at, header.whole_len()).is_some() {
                LARGE
            } else if transactions.is_empty() {
                // Longer than what is read at once: only the small records of it are taken into
                // memory.
                LARGE_OF_LARGE
            } else {
                break;
            };
            match self.transaction(&chunk, at, header, large, pace) {
                Ok(transaction) => transactions.push_back(transaction),
                Err(error) if transactions.is_empty() => return Err(error),
                Err(_) => break,
            }
            at += header.whole_len();
        }
        Ok((transactions, at))
    }

    fn transaction(
        &self,
        chunk: &Chunk,
        begin: u64,
        header: TxnHeader,
        large: u64,
        pace: &Pace<'_>,
    ) -> Result<HistoryTxn> {
        let mut window = Window::new(&*self.disk, 64 * 1024, self.end);
        let mut take = |at: u64, len: u64| match chunk.get(at, len) {
            Some(bytes) => Ok(bytes),
            None => self.far(&mut window, at, len),
        };
        let lens = [header.user, header.description, header.extension];
        let mut at = begin + TxnHeader::LEN as u64;
        let mut texts = [const { Bytes::new() }; 3];
        for (text, len) in texts.iter_mut().zip(lens) {
            *text = take(at, len.into())?;
            at += u64::from(len);
        }
        let [user, description, extension] = texts;
        let end = begin + header.len;
        let mut records = Vec::new();
        while at < end {
            let record = take(at, RecordHeader::LEN as u64)?;
            let record = RecordHeader::decode(head(&record))
                .filter(|record| {
                    record.txn == begin
                        && record.tid == header.tid
                        && record.whole_len() <= end - at
                })
                .ok_or_else(|| {
                    let what = format_args!("there is no record at {at}");
                    self.engine.damaged(what)
                })?;
            let body = at + RecordHeader::LEN as u64;
            let data = if record.data_len == 0 {
                let back = u64_at(&take(body, 8)?, 0);
                self.pointed_to(&record, back, pace)?
            } else if record.data_len > large {
                let len = usize::try_from(record.data_len).unwrap_or(usize::MAX);
                let piece = self.disk.piece(body, len);
                RecordData::Data(piece.map_err(|error| self.fault(error))?)
            } else {
                RecordData::Data(take(body, record.data_len)?.into())
            };
            records.push(HistoryRecord {
                oid: record.oid,
                data,
                blob: None,
            });
            at += record.whole_len();
        }
        let again = u64_at(&take(end, 8)?, 0);
        if again != header.len {
            let what = format_args!(
                "the transaction at {begin} has the lengths {} and {again}",
                header.len
            );
            return Err(self.engine.damaged(what).into());
        }
        Ok(HistoryTxn {
            tid: header.tid,
            meta: TxnMeta {
                user,
                description,
                extension,
                status: header.txn_status().unwrap_or_default(),
            },
            records,
        })
    }

    /// Where to read on after what cannot be read at `at`, behind the transaction `before`: where the damaged
    /// transaction ends, as far as it still says so at both ends, and else the next one that is whole.
    fn behind(&self, at: u64, before: Tid) -> Result<u64, Fault> {
        let fault = |error| self.fault(error);
        let mut window = Window::new(&*self.disk, 4 * 1024, self.end);
        if self.end - at > TxnHeader::LEN as u64 {
            let header = window.txn_header(at).map_err(fault)?;
            if header.is_plausible()
                && header.whole_len() <= self.end - at
                && window.number(at + header.len).map_err(fault)? == header.len
            {
                return Ok(at + header.whole_len());
            }
        }
        let mut scan = Scan::new(&*self.disk, at, self.end, before);
        Ok(scan.finished_after().map_err(fault)?.unwrap_or(self.end))
    }

    /// User, description and extension of a transaction. Waits for the disk.
    pub(super) fn texts(&self, begin: u64, header: &TxnHeader) -> Result<[Bytes; 3], Fault> {
        let len = header.head_len() as usize - TxnHeader::LEN;
        let mut bytes = vec![0; len];
        let at = begin + TxnHeader::LEN as u64;
        let filled = self.disk.read_at(&mut bytes, at);
        if filled.map_err(|error| self.fault(error))? < len {
            return Err(self.fault(std::io::ErrorKind::UnexpectedEof.into()));
        }
        let mut bytes = Bytes::from(bytes);
        let user = bytes.split_to(header.user.into());
        let description = bytes.split_to(header.description.into());
        Ok([user, description, bytes])
    }

    /// What is not in the chunk.
    fn far(&self, window: &mut Window<'_>, at: u64, len: u64) -> Result<Bytes, Fault> {
        if len <= 64 * 1024 {
            let bytes = window.bytes(at, len as usize);
            return bytes
                .map(Bytes::copy_from_slice)
                .map_err(|error| self.fault(error));
        }
        let mut bytes = vec![0; len as usize];
        let filled = self.disk.read_at(&mut bytes, at);
        if filled.map_err(|error| self.fault(error))? < bytes.len() {
            return Err(self.fault(std::io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(bytes.into())
    }

    /// What a record without data holds.
    fn pointed_to(
        &self,
        record: &RecordHeader,
        back: u64,
        pace: &Pace<'_>,
    ) -> Result<RecordData, Fault> {
        let origin = Origin {
            disk: &*self.disk,
            path: &self.engine.paths.data,
        };
        if back == 0 {
            return Ok(RecordData::Gone);
        }
        let there = origin.record(record.oid, back)?;
        let (there, _) = there.ok_or_else(|| {
            let what = format_args!("there is no record of {} at {back}", record.oid);
            self.engine.damaged(what)
        })?;
        Ok(match origin.state_at_pace(record.oid, back, pace)? {
            Some(data) => RecordData::Back {
                tid: there.tid,
                data: self.small_in_memory(data)?,
            },
            None => RecordData::Gone,
        })
    }

    fn small_in_memory(&self, data: Payload) -> Result<Payload, Fault> {
        if data.len() as u64 > LARGE_OF_LARGE {
            return Ok(data);
        }
        let bytes = data.read().map_err(|error| self.fault(error))?;
        Ok(bytes.into())
    }
}

impl Engine {
    /// Remembers what the last transactions wrote, from what is in the file.
    pub(super) fn remember_recent(self: &Arc<Self>) -> Result<(), Fault> {
        let walk = Walk::new(self).map_err(|_| self.refusal())?;
        let most = self.options.invalidation_queue;
        let mut transactions = Vec::new();
        let mut after = Tid::ZERO;
        for step in walk.backwards() {
            let (begin, header) = step?;
            if transactions.len() == most {
                after = header.tid;
                break;
            }
            transactions.push((header.tid, begin));
        }
        transactions.reverse();
        let mut state = self.state.write();
        state.recent = Recent::of(most, after, &transactions, &state.index);
        Ok(())
    }
}

/// A part of the file in memory.
struct Chunk {
    begin: u64,
    bytes: Bytes,
}

impl Chunk {
    fn get(&self, at: u64, len: u64) -> Option<Bytes> {
        let from = usize::try_from(at.checked_sub(self.begin)?).ok()?;
        let to = from.checked_add(usize::try_from(len).ok()?)?;
        (to <= self.bytes.len()).then(|| self.bytes.slice(from..to))
    }
}

type Step = (VecDeque<HistoryTxn>, u64);

/// Where an iteration reads on.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// Where the first transaction from here on begins, which is still to be looked for.
    From(Tid),
    At(u64),
    /// Behind what cannot be read, where the last transaction before it was this one.
    Behind(u64, Tid),
}

impl Walk {
    /// What is at a place, about `size` bytes, and where that was.
    fn read_place(
        &self,
        from: Place,
        last: Tid,
        size: u64,
        pace: &Pace<'_>,
    ) -> (u64, Result<Step>) {
        let at = match from {
            Place::From(first) if first > last => Ok(self.end),
            Place::From(first) => self.position_at_pace(first, pace),
            Place::At(at) => Ok(at),
            Place::Behind(at, before) => self.behind(at, before),
        };
        match at {
            Ok(at) => (at, self.read_at_pace(at, last, size, pace)),
            // Where that is cannot be told, so there is nothing to go on from.
            Err(fault) => (self.end, Err(fault.into())),
        }
    }
}

/// An iteration that reads ahead, unless it is to hold little.
pub(super) struct Iteration {
    walk: Walk,
    last: Tid,
    read: VecDeque<HistoryTxn>,
    /// The last transaction that was read.
    reached: Tid,
    /// Where the next ones are; none at the end, and while they are read ahead.
    next: Option<Place>,
    /// Where they are read ahead, and what came of it.
    ahead: Option<JoinHandle<(u64, Result<Step>)>>,
    holds_little: bool,
}

impl Iteration {
    pub(super) fn new(walk: Walk, range: TidRange) -> Self {
        Iteration {
            walk,
            last: range.last,
            read: VecDeque::new(),
            reached: Tid::ZERO,
            next: Some(Place::From(range.first)),
            ahead: None,
            holds_little: false,
        }
    }

    fn read_ahead(&mut self) {
        if let Some(from) = self.next.take() {
            let (walk, last) = (self.walk.clone(), self.last);
            self.ahead = Some(crate::task::blocking(move || {
                walk.read_place(from, last, STEP, &Pace::endless())
            }));
        }
    }

    /// What is read next; none at the end. Cancel safe.
    async fn step(&mut self) -> Result<Option<(u64, Result<Step>)>> {
        if self.holds_little && self.ahead.is_none() {
            let Some(next) = self.next else {
                return Ok(None);
            };
            let (walk, last) = (self.walk.clone(), self.last);
            let read = move |_: &Arc<Engine>, pace: &Pace<'_>| {
                let (from, step) = walk.read_place(next, last, SMALL_STEP, pace);
                match step {
                    Err(error) if pace.is_too_far() => Err(error.into()),
                    step => Ok((from, step)),
                }
            };
            let step = self.walk.engine.read_on_a_thread(Oid::ROOT, read).await?;
            self.next = None;
            return Ok(Some(step));
        }
        if self.ahead.is_none() {
            self.read_ahead();
        }
        let Some(ahead) = &mut self.ahead else {
            return Ok(None);
        };
        let step = ahead.await;
        self.ahead = None;
        let step = step.map_err(|error| {
            Fault::Closed(format!("the thread that reads ahead ended: {error}"))
        })?;
        Ok(Some(step))
    }
}

#[async_trait]
impl History for Iteration {
    async fn next(&mut self) -> Result<Option<HistoryTxn>> {
        if self.goes_on() {
            self.walk.engine.usable()?;
        }
        loop {
            if let Some(txn) = self.read.pop_front() {
                return Ok(Some(txn));
            }
            let Some((from, step)) = self.step().await? else {
                return Ok(None);
            };
            let (read, at) = match step {
                Ok(step) => step,
                Err(error) => {
                    let is_damage = matches!(error, StorageError::Fault(Fault::Damaged(_)));
                    let goes_on = is_damage && from < self.walk.end;
                    self.next = goes_on.then_some(Place::Behind(from, self.reached));
                    return Err(error);
                }
            };
            self.reached = read.back().map_or(self.reached, |last| last.tid);
            self.read = read;
            if at < self.walk.end {
                self.walk.engine.usable()?;
                self.next = Some(Place::At(at));
                if !self.holds_little {
                    self.read_ahead();
                }
            }
        }
    }

    fn goes_on(&self) -> bool {
        matches!(self.next, Some(Place::Behind(..)))
    }

    fn hold_little(&mut self) {
        self.holds_little = true;
    }
}
