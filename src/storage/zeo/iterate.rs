//! An iteration, read ahead so that the server is the limit and not the round trip.
//!
//! ZEO's iterators are asked step by step: the next transaction, an iterator over its records, each
//! record. The iterator over records can only be asked for by the TID of the transaction that was given
//! last, so one has to wait for each transaction before asking on. Two iterators over the same range
//! get around that. The *scout* is asked for transactions only, many at once. So the TIDs are known
//! before the *body* is asked, and it is asked for the next transaction and for its records in one
//! breath, many transactions at once. How many records there are is guessed; what was asked for in vain
//! is an unknown iterator to the server, a `KeyError`, and nobody looks at the answer.
//!
//! The server forgets iterators that came to their end. Others are given back when the iteration is
//! dropped: also those that the server makes only then, because they were asked for ahead. A server keeps
//! them as long as the connection lasts, and ours lets nobody have more than a thousand.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::blobs::leave_free;
use super::errors::{meant, unexpected};
use super::link::{Asked, Flight, Handler, Link, closed};
use super::{Inner, ZeoOptions};
use crate::storage::{Answer, Fault, History, RESTART_SERVER, Result, StorageError};
use crate::wire::{Call, Expected, IteratedRecord, Reply, WireError};
use crate::zodb::{HistoryRecord, HistoryTxn, Payload, RecordData, Tid, TidRange, TxnMeta};

/// How many transactions are asked for ahead.
const AHEAD: usize = 64;

/// How many records are asked for ahead at most, and at least.
const MOST_RECORDS: usize = 512;
const LEAST_RECORDS: usize = 4;

/// About how many bytes are asked for ahead.
const BYTES: u64 = 8 << 20;

/// The same of an iteration that is to hold little.
const LITTLE_AHEAD: usize = 4;
const LITTLE_BYTES: u64 = 256 << 10;

/// What of one transaction is in memory before it goes into a file, and how many records it may have: more than
/// any has, and what a server sends without end must end somewhere.
const IN_MEMORY: usize = 16 << 20;
const RECORDS_OF_ONE: usize = 50_000_000;

/// How often an iteration begins anew where its two iterators disagree, or its connection is lost.
const TRIES: usize = 3;

/// How often, and after which pause, an iteration is begun anew that met a transaction being written.
const UNLUCKY_STARTS: usize = 20;
const UNLUCKY_PAUSE: Duration = Duration::from_millis(25);

/// Transactions without their records.
pub(super) struct Headers {
    link: Arc<Link>,
    iterator: i64,
    /// What may come.
    rest: TidRange,
    asked: VecDeque<Asked>,
    ended: bool,
}

impl Headers {
    pub(super) async fn begin(link: &Arc<Link>, range: TidRange) -> Result<Self> {
        let iterator = start(link, range).await?;
        Ok(Headers {
            link: Arc::clone(link),
            iterator,
            rest: range,
            asked: VecDeque::new(),
            ended: false,
        })
    }

    /// Asks for more, as long as fewer than `ahead` are asked for.
    async fn ask(&mut self, ahead: usize) -> Result<()> {
        while !self.ended && self.asked.len() < ahead {
            let iterator = self.iterator;
            let call = Call::IteratorNext { iterator };
            let asked = self.link.ask(call, Expected::Transaction).await?;
            self.asked.push_back(asked);
        }
        Ok(())
    }

    /// The next; none at the end.
    pub(super) async fn next(&mut self, ahead: usize) -> Result<Option<(Tid, TxnMeta)>> {
        // Not one by one: half a window at a time makes fewer and larger packets.
        if self.asked.len() <= ahead / 2 {
            self.ask(ahead).await?;
        }
        let Some(asked) = self.asked.pop_front() else {
            return Ok(None);
        };
        match self.link.within("`iterator_next`", asked).await? {
            Reply::Transaction(Some((tid, meta))) => {
                // So it ends: one that goes round would go on for ever.
                if !(self.rest.first..=self.rest.last).contains(&tid) {
                    let TidRange { first, last } = self.rest;
                    let text = format!(
                        "the server gave transaction {tid} where one from {first} to {last} had to come"
                    );
                    return Err(Fault::Damaged(text).into());
                }
                self.rest.first = tid.next();
                Ok(Some((tid, meta)))
            }
            Reply::Transaction(None) => {
                self.ended = true;
                self.asked.clear();
                Ok(None)
            }
            other => Err(unexpected(other, "`iterator_next`")),
        }
    }
}

impl Drop for Headers {
    fn drop(&mut self) {
        if !self.ended {
            give_back(&self.link, vec![self.iterator]);
        }
    }
}

async fn start(link: &Arc<Link>, range: TidRange) -> Result<i64> {
    let start = async || -> Result<Reply> {
        let call = Call::IteratorStart {
            first: (!range.first.is_zero()).then_some(range.first),
            last: (range.last != Tid::MAX).then_some(range.last),
        };
        let permit = link.turn().await?;
        let asked = ask_for_iterator(link, &mut link.flight()?, call, permit)?;
        Ok(link.within("`iterator_start`", asked).await?)
    };
    for _ in 0..UNLUCKY_STARTS {
        match start().await? {
            Reply::Iterator(iterator) => return Ok(iterator),
            Reply::Error(error) if is_unlucky(&error) => {
                tokio::time::sleep(UNLUCKY_PAUSE).await;
            }
            other => return Err(unexpected(other, "`iterator_start`")),
        }
    }
    match start().await? {
        Reply::Iterator(iterator) => Ok(iterator),
        // What nobody is writing is what somebody has left: the server cuts it off when it is started.
        Reply::Error(error) if is_unlucky(&error) => Err(Fault::Unreachable(format!(
            "the end of the server's file cannot be read, as where its disk was full in the middle of a \
             transaction; {RESTART_SERVER}"
        ))
        .into()),
        other => Err(unexpected(other, "`iterator_start`")),
    }
}

/// Whether Python's `FileIterator` has met the end of the file while a transaction was being written to
/// it. It finds its start by looking at the last transaction first; what it does where it cannot read that
/// fails as well, in small files by a slip in the name of a method (ZODB `FileStorage.py`,
/// `FileIterator._skip_to_start`).
fn is_unlucky(error: &WireError) -> bool {
    match error {
        WireError::Answer(Answer::Other { class, text }) => {
            class == "builtins.AttributeError" && text.contains("_scan_foreward")
        }
        WireError::Value(text) => {
            text.contains("find last transaction") || text.contains("unpack requires a buffer")
        }
        _ => false,
    }
}

/// Asks for an iterator, which goes back at once where nobody waits for it any more when it comes.
fn ask_for_iterator(
    link: &Arc<Link>,
    flight: &mut Flight<'_>,
    call: Call,
    permit: OwnedSemaphorePermit,
) -> Result<Asked> {
    let (sender, answer) = oneshot::channel();
    let asked_on = Arc::downgrade(link);
    let handler: Handler = Box::new(move |reply| {
        drop(permit);
        if let Err(Ok(Reply::Iterator(iterator))) = sender.send(reply)
            && let Some(link) = asked_on.upgrade()
        {
            give_back(&link, vec![iterator]);
        }
    });
    flight.hand(call, Expected::Iterator, handler)?;
    Ok(answer)
}

/// Tells the server to forget iterators.
fn give_back(link: &Link, iterators: Vec<i64>) {
    let ignored: Handler = Box::new(|_| {});
    if let Ok(mut flight) = link.flight() {
        let call = Call::IteratorGc { iterators };
        if let Err(error) = flight.hand(call, Expected::None, ignored) {
            tracing::debug!(%error, "iterators could not be given back");
        }
    }
}

/// Whole transactions.
pub(super) struct Iteration {
    inner: Arc<Inner>,
    /// What was not given yet.
    rest: TidRange,
    /// None at the end.
    run: Option<Run>,
    tries: usize,
    holds_little: bool,
}

impl Iteration {
    pub(super) async fn begin(inner: &Arc<Inner>, range: TidRange) -> Result<Self> {
        inner.heard.alive()?;
        let run = if range.first > range.last || range.last.is_zero() {
            None
        } else {
            let run = inner.over_reader(|link| Run::begin(link, range, &inner.options));
            Some(run.await?)
        };
        Ok(Iteration {
            inner: Arc::clone(inner),
            rest: range,
            run,
            tries: TRIES,
            holds_little: false,
        })
    }
}

#[async_trait]
impl History for Iteration {
    async fn next(&mut self) -> Result<Option<HistoryTxn>> {
        loop {
            self.inner.heard.alive()?;
            let Some(run) = &mut self.run else {
                return Ok(None);
            };
            match run.next().await {
                Ok(Some(txn)) => {
                    self.rest.first = txn.tid.next();
                    self.tries = TRIES;
                    return Ok(Some(txn));
                }
                Ok(None) => {
                    self.run = None;
                    return Ok(None);
                }
                Err(Stumble::Fault(error)) => return Err(error),
                Err(Stumble::Again(fault)) => {
                    if self.tries == 0 {
                        return Err(fault.into());
                    }
                    self.tries -= 1;
                    self.inner.heard.alive()?;
                    let rest = self.rest;
                    let options = &self.inner.options;
                    let run = self
                        .inner
                        .over_reader(|link| Run::begin(link, rest, options));
                    self.run = Some(run.await?);
                    if self.holds_little {
                        self.hold_little();
                    }
                }
            }
        }
    }

    fn hold_little(&mut self) {
        self.holds_little = true;
        if let Some(run) = &mut self.run {
            run.transactions_ahead = LITTLE_AHEAD;
            run.bytes_ahead = LITTLE_BYTES;
        }
    }
}

/// Why an iteration cannot go on.
enum Stumble {
    Fault(StorageError),
    /// With new iterators it may.
    Again(Fault),
}

impl From<StorageError> for Stumble {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Fault(fault @ Fault::Closed(_)) => Stumble::Again(fault),
            error => Stumble::Fault(error),
        }
    }
}

impl From<Fault> for Stumble {
    fn from(fault: Fault) -> Self {
        StorageError::from(fault).into()
    }
}

/// A pair of iterators on one connection.
struct Run {
    link: Arc<Link>,
    scout: Headers,
    body: i64,
    /// The iterator over the records that are being read.
    reading: Option<i64>,
    /// In order; those of which the records are being asked for first.
    ahead: VecDeque<Body>,
    /// How many records are asked for and not answered.
    asked: usize,
    /// How much is asked for ahead.
    transactions_ahead: usize,
    bytes_ahead: u64,
    /// Averages: of a record's size, and of the records in a transaction.
    bytes: f64,
    records: f64,
    /// Where a large transaction lies meanwhile, and what is left free there.
    folder: PathBuf,
    keep_free: u64,
}

/// A transaction on its way.
struct Body {
    tid: Tid,
    meta: TxnMeta,
    next: Option<Asked>,
    start: Option<Asked>,
    iterator: Option<i64>,
    asked: VecDeque<Asked>,
    /// How many records are asked for next.
    step: usize,
    records: Vec<HistoryRecord>,
    /// Bytes of the records that are not in the file.
    in_memory: usize,
    file: Option<Arc<File>>,
    /// So many of the records are in it.
    spooled: usize,
    ended: bool,
}

impl Run {
    async fn begin(link: Arc<Link>, range: TidRange, options: &ZeoOptions) -> Result<Self> {
        let scout = Headers::begin(&link, range).await?;
        let body = start(&link, range).await?;
        Ok(Run {
            link,
            scout,
            body,
            reading: None,
            ahead: VecDeque::new(),
            asked: 0,
            transactions_ahead: AHEAD,
            bytes_ahead: BYTES,
            bytes: 1000.0,
            records: 2.0,
            folder: options.blob_folder.clone(),
            keep_free: options.keep_free_bytes,
        })
    }

    async fn next(&mut self) -> Result<Option<HistoryTxn>, Stumble> {
        self.look_ahead().await?;
        let Some(mut body) = self.ahead.pop_front() else {
            return Ok(None);
        };
        self.open(&mut body).await?;
        self.reading = body.iterator;
        while !body.ended {
            if body.asked.is_empty() {
                self.ask_records(&mut body).await?;
            }
            // More than one transaction's worth is on its way while this one is waited for.
            self.ask_of_opened().await?;
            let Some(asked) = body.asked.pop_front() else {
                continue;
            };
            self.asked -= 1;
            match self.link.within("`iterator_record_next`", asked).await? {
                Reply::Record(Some(record)) => {
                    self.take(&mut body, record)?;
                    if body.in_memory > IN_MEMORY {
                        body.spool(&self.folder, self.keep_free).await?;
                    }
                }
                Reply::Record(None) => body.ended = true,
                other => return Err(unexpected(other, "`iterator_record_next`").into()),
            }
        }
        self.reading = None;
        // What was asked in vain.
        self.asked -= body.asked.len();
        self.records += (body.records.len() as f64 - self.records) / 16.0;
        Ok(Some(HistoryTxn {
            tid: body.tid,
            meta: body.meta,
            records: body.records,
        }))
    }

    /// Asks for transactions, and for the iterators over the records of those whose TID is known.
    async fn look_ahead(&mut self) -> Result<(), Stumble> {
        let most = self.transactions_ahead;
        if self.ahead.len() > most / 2 {
            return Ok(());
        }
        while self.ahead.len() < most {
            let known = !self.ahead.is_empty();
            // Once there is something to go on with, only what has come is taken.
            if known && !self.scout.has_next() {
                break;
            }
            let Some((tid, meta)) = self.scout.next(most).await? else {
                break;
            };
            let (next_permit, start_permit) = (self.link.turn().await?, self.link.turn().await?);
            let body = self.body;
            let mut flight = self.link.flight()?;
            let call = Call::IteratorNext { iterator: body };
            let next = flight.ask(call, Expected::Transaction, next_permit)?;
            let call = Call::IteratorRecordStart {
                iterator: body,
                tid,
            };
            let start = ask_for_iterator(&self.link, &mut flight, call, start_permit)?;
            drop(flight);
            self.ahead.push_back(Body {
                tid,
                meta,
                next: Some(next),
                start: Some(start),
                iterator: None,
                asked: VecDeque::new(),
                step: 0,
                records: Vec::new(),
                in_memory: 0,
                file: None,
                spooled: 0,
                ended: false,
            });
        }
        Ok(())
    }

    /// Waits for the iterator over a transaction's records.
    async fn open(&self, body: &mut Body) -> Result<(), Stumble> {
        if let (Some(next), Some(start)) = (body.next.take(), body.start.take()) {
            let next = self.link.within("`iterator_next`", next).await?;
            let start = self.link.within("`iterator_record_start`", start).await?;
            body.opened(next, start)?;
        }
        Ok(())
    }

    /// Asks for records of the transactions after the first, as far as their iterators are known.
    async fn ask_of_opened(&mut self) -> Result<(), Stumble> {
        let budget = self.budget();
        for at in 0..self.ahead.len() {
            if self.asked >= budget {
                break;
            }
            let body = &mut self.ahead[at];
            if body.iterator.is_none() {
                // Both answers or none: the second comes right after the first.
                let Some(start) = body.start.as_mut() else {
                    break;
                };
                let Ok(start) = start.try_recv() else { break };
                body.start = None;
                let next = body.next.take().ok_or_else(|| closed("it has ended"))?;
                let next = next.await.map_err(|_| closed("it has ended"))??;
                body.opened(next, start?)?;
            }
            if body.asked.is_empty() && !body.ended && body.records.is_empty() {
                let mut body = std::mem::replace(body, Body::nothing());
                let asked = self.ask_records(&mut body).await;
                self.ahead[at] = body;
                asked?;
            }
        }
        Ok(())
    }

    async fn ask_records(&mut self, body: &mut Body) -> Result<(), Stumble> {
        let Some(iterator) = body.iterator else {
            return Ok(());
        };
        // One more than there are: the last answer says that it was the last.
        let guess = (self.records.ceil() as usize).clamp(1, MOST_RECORDS / 4) + 1;
        body.step = match body.step {
            0 => guess,
            step => (step * 2).min(self.budget()),
        };
        for _ in 0..body.step {
            let call = Call::IteratorRecordNext { iterator };
            body.asked
                .push_back(self.link.ask(call, Expected::Record).await?);
            self.asked += 1;
        }
        Ok(())
    }

    fn budget(&self) -> usize {
        let fit = self.bytes_ahead as f64 / self.bytes.max(1.0);
        (fit as usize).clamp(LEAST_RECORDS, MOST_RECORDS)
    }

    fn take(&mut self, body: &mut Body, record: IteratedRecord) -> Result<(), Stumble> {
        if record.tid != body.tid {
            let text = format!(
                "a record of {} in transaction {} says that it is of {}",
                record.oid, body.tid, record.tid
            );
            return Err(Fault::Damaged(text).into());
        }
        let size = record.data.as_ref().map_or(0, bytes::Bytes::len);
        self.bytes += (size as f64 - self.bytes) / 16.0;
        body.in_memory += size;
        if body.records.len() >= RECORDS_OF_ONE {
            let text = format!("transaction {} has no end of records", body.tid);
            return Err(Fault::Damaged(text).into());
        }
        body.records.push(HistoryRecord {
            oid: record.oid,
            data: match (record.data, record.data_txn) {
                (None, _) => RecordData::Gone,
                (Some(data), None) => RecordData::Data(data.into()),
                (Some(data), Some(tid)) => RecordData::Back {
                    tid,
                    data: data.into(),
                },
            },
            blob: None,
        });
        Ok(())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let mut iterators = vec![self.body];
        iterators.extend(self.reading);
        for body in &mut self.ahead {
            // It may have come, and nobody has looked yet.
            let come = body.start.as_mut().map(Asked::try_recv);
            if let Some(Ok(Ok(Reply::Iterator(iterator)))) = come {
                iterators.push(iterator);
            }
            iterators.extend(body.iterator);
        }
        give_back(&self.link, iterators);
    }
}

impl Headers {
    /// Whether the next has come.
    fn has_next(&mut self) -> bool {
        // A receiver does not tell without taking; so what was taken is put back as a new one.
        let Some(asked) = self.asked.front_mut() else {
            return !self.ended;
        };
        match asked.try_recv() {
            Ok(reply) => {
                let (sender, again) = tokio::sync::oneshot::channel();
                drop(sender.send(reply));
                *asked = again;
                true
            }
            Err(tokio::sync::oneshot::error::TryRecvError::Empty) => false,
            Err(tokio::sync::oneshot::error::TryRecvError::Closed) => true,
        }
    }
}

impl Body {
    fn nothing() -> Self {
        Body {
            tid: Tid::ZERO,
            meta: TxnMeta::default(),
            next: None,
            start: None,
            iterator: None,
            asked: VecDeque::new(),
            step: 0,
            records: Vec::new(),
            in_memory: 0,
            file: None,
            spooled: 0,
            ended: true,
        }
    }

    /// Moves the data that is in memory into a file, which has no name and goes with the records.
    async fn spool(&mut self, folder: &Path, keep_free: u64) -> Result<()> {
        let (folder, mut records) = (folder.to_owned(), std::mem::take(&mut self.records));
        let (mut file, spooled) = (self.file.take(), self.spooled);
        let work = move || -> std::io::Result<_> {
            leave_free(&folder, keep_free)?;
            let to = match file.take() {
                Some(file) => file,
                None => Arc::new(tempfile::tempfile_in(&folder)?),
            };
            let mut end = to.metadata()?.len();
            let mut writer = BufWriter::new(&*to);
            for record in &mut records[spooled..] {
                let data = match &mut record.data {
                    RecordData::Data(data) | RecordData::Back { data, .. } => data,
                    RecordData::Gone => continue,
                };
                let Some(bytes) = data.in_memory().cloned() else {
                    continue;
                };
                writer.write_all(&bytes)?;
                *data = Payload::piece(Arc::clone(&to), end, bytes.len());
                end += bytes.len() as u64;
            }
            writer.flush()?;
            drop(writer);
            Ok((records, to))
        };
        let done = crate::task::blocking(work).await;
        let done = done.unwrap_or_else(|ended| Err(std::io::Error::other(ended)));
        let (records, file) =
            done.map_err(|error| Fault::here("keeping a large transaction in a file", error))?;
        self.spooled = records.len();
        self.records = records;
        self.file = Some(file);
        self.in_memory = 0;
        Ok(())
    }

    /// Both iterators must be at the same transaction: the file may have been packed between them.
    fn opened(&mut self, next: Reply, start: Reply) -> Result<(), Stumble> {
        let again = |why: String| Err(Stumble::Again(Fault::Damaged(why)));
        match next {
            Reply::Transaction(Some((tid, _))) if tid == self.tid => {}
            Reply::Transaction(at) => {
                let at = at.map_or_else(|| "the end".to_owned(), |(tid, _)| tid.to_string());
                return again(format!("two iterations differ: {} and {at}", self.tid));
            }
            // After the end.
            Reply::Error(WireError::Key(_)) => {
                return again(format!("an iteration ended before {}", self.tid));
            }
            other => return Err(unexpected(other, "`iterator_next`").into()),
        }
        match start {
            Reply::Iterator(iterator) => self.iterator = Some(iterator),
            Reply::Error(error) => {
                return again(meant(error, "`iterator_record_start`").to_string());
            }
            other => return Err(unexpected(other, "`iterator_record_start`").into()),
        }
        Ok(())
    }
}
