//! An iteration, read ahead so that the server is the limit and not the round trip.
//!
//! ZEO's iterators are asked step by step: the next transaction, an iterator over its records, each
//! record. The iterator over records can only be asked for by the TID of the transaction that was given
//! last, so one has to wait for each transaction before asking on. Two iterators over the same range
//! get around that. The *scout* is asked for transactions only, many at once. So the TIDs are known
//! before the *body* is asked, and it is asked for the next transaction and for its records in one
//! breath, many transactions at once, whose records are asked for side by side.
//!
//! Nobody knows how many transactions and records there are. What is asked for behind an end is an unknown
//! iterator to the server, a `KeyError`: we need not look at the answer, but Python's server writes each
//! into its log, with a traceback, which takes longer than to give a record. So more is asked for
//! ahead only as more has come: of transactions as many as came before, and none where the last of the range
//! has come; of one transaction's records a small part of it, and a larger one where answers take long.
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
use tokio::time::Instant;

use super::blobs::leave_free;
use super::errors::{meant, unexpected};
use super::link::{Asked, Flight, Handler, Link, closed};
use super::{Inner, ZeoOptions};
use crate::storage::{Answer, Fault, History, RESTART_SERVER, Result, StorageError};
use crate::wire::{Call, Expected, Reply, WireError};
use crate::zodb::{HistoryRecord, HistoryTxn, Payload, RecordData, Tid, TidRange, TxnMeta};

/// How many transactions are asked for ahead.
const AHEAD: usize = 128;

/// How many records are asked for ahead at most, and at least.
const MOST_RECORDS: usize = 512;
const LEAST_RECORDS: usize = 4;

/// So many are asked for of a transaction of which nothing has come: one that it has, and its end. Then this part
/// of what has come, up to so many.
const FIRST_RECORDS: usize = 2;
const PART_AHEAD: usize = 16;
const MOST_OF_ONE: usize = 64;

/// Where an answer takes so long, somebody waits for a transaction longer than what is asked for in vain costs,
/// and the part is larger.
const SLOW: Duration = Duration::from_millis(50);
const PART_WHERE_SLOW: usize = 2;

/// About how many bytes are asked for ahead, and how many may have come.
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
    /// How many have come.
    come: usize,
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
            come: 0,
            ended: false,
        })
    }

    /// Asks for more, `ahead` at most.
    async fn ask(&mut self, ahead: usize) -> Result<()> {
        let ahead = ahead.min(1 + self.come);
        // Not one by one: half a window at a time makes fewer and larger packets.
        if self.asked.len() > ahead / 2 {
            return Ok(());
        }
        while !self.ended && self.rest.first <= self.rest.last && self.asked.len() < ahead {
            let iterator = self.iterator;
            let call = Call::IteratorNext { iterator };
            let asked = self.link.ask(call, Expected::Transaction).await?;
            self.asked.push_back(asked);
        }
        Ok(())
    }

    /// The next; none at the end.
    pub(super) async fn next(&mut self, ahead: usize) -> Result<Option<(Tid, TxnMeta)>> {
        self.ask(ahead).await?;
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
                self.come += 1;
                self.ask(ahead).await?;
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
            run.pace.bytes_ahead = LITTLE_BYTES;
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
    pace: Pace,
    scout: Headers,
    body: i64,
    /// The iterator over the records that are being read.
    reading: Option<i64>,
    /// In order; those of which the records are being asked for first.
    ahead: VecDeque<Body>,
    /// How many transactions are asked for ahead.
    transactions_ahead: usize,
    /// Where a large transaction lies meanwhile, and what is left free there.
    folder: PathBuf,
    keep_free: u64,
}

/// How much is asked for.
struct Pace {
    link: Arc<Link>,
    /// How many records are asked for and not answered.
    asked: usize,
    /// How much is asked for ahead.
    bytes_ahead: u64,
    /// The average of a record's size, in bytes.
    bytes: f64,
    /// How many bytes have come of transactions whose turn it is not.
    held: usize,
    /// Whether the last answer that was waited for took long.
    is_slow: bool,
}

/// A transaction on its way.
struct Body {
    tid: Tid,
    meta: TxnMeta,
    next: Option<Asked>,
    start: Option<Asked>,
    /// None once it has come to its end.
    iterator: Option<i64>,
    asked: VecDeque<Asked>,
    /// An answer has come that is no record, nor the end. It waits until it is this transaction's turn: those
    /// before it can be given still.
    is_bad: bool,
    records: Vec<HistoryRecord>,
    /// Bytes of the records that are not in the file.
    in_memory: usize,
    file: Option<Arc<File>>,
    /// So many of the records are in it.
    spooled: usize,
}

impl Run {
    async fn begin(link: Arc<Link>, range: TidRange, options: &ZeoOptions) -> Result<Self> {
        let scout = Headers::begin(&link, range).await?;
        let body = start(&link, range).await?;
        Ok(Run {
            pace: Pace {
                link,
                asked: 0,
                bytes_ahead: BYTES,
                bytes: 1000.0,
                held: 0,
                is_slow: false,
            },
            scout,
            body,
            reading: None,
            ahead: VecDeque::new(),
            transactions_ahead: AHEAD,
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
        self.pace.held -= body.in_memory;
        loop {
            self.pace.ask(&mut body).await?;
            // More than one transaction's worth is on its way while this one is waited for.
            self.go_on_with_others().await?;
            let Some(asked) = body.asked.pop_front() else {
                break;
            };
            self.pace.asked -= 1;
            let reply = self.pace.link.within("`iterator_record_next`", asked);
            let since = Instant::now();
            let reply = reply.await?;
            self.pace.is_slow = since.elapsed() >= SLOW;
            if !body.is_good(&reply) {
                return Err(body.refusal(reply).into());
            }
            self.pace.put(&mut body, reply);
            self.pace.take_what_has_come(&mut body);
            if body.in_memory > IN_MEMORY {
                body.spool(&self.folder, self.keep_free).await?;
            }
        }
        self.reading = None;
        let others = || self.ahead.iter();
        debug_assert_eq!(
            (self.pace.asked, self.pace.held),
            (
                others().map(|body| body.asked.len()).sum(),
                others().map(|body| body.in_memory).sum()
            )
        );
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
            let link = &self.pace.link;
            let (next_permit, start_permit) = (link.turn().await?, link.turn().await?);
            let body = self.body;
            let mut flight = link.flight()?;
            let call = Call::IteratorNext { iterator: body };
            let next = flight.ask(call, Expected::Transaction, next_permit)?;
            let call = Call::IteratorRecordStart {
                iterator: body,
                tid,
            };
            let start = ask_for_iterator(link, &mut flight, call, start_permit)?;
            drop(flight);
            self.ahead.push_back(Body {
                tid,
                meta,
                next: Some(next),
                start: Some(start),
                iterator: None,
                asked: VecDeque::new(),
                is_bad: false,
                records: Vec::new(),
                in_memory: 0,
                file: None,
                spooled: 0,
            });
        }
        Ok(())
    }

    /// Waits for the iterator over a transaction's records.
    async fn open(&self, body: &mut Body) -> Result<(), Stumble> {
        if let (Some(next), Some(start)) = (body.next.take(), body.start.take()) {
            let link = &self.pace.link;
            let next = link.within("`iterator_next`", next).await?;
            let start = link.within("`iterator_record_start`", start).await?;
            body.opened(next, start)?;
        }
        Ok(())
    }

    /// Takes what has come of the transactions after the first, and asks for more of their records, as far as
    /// their iterators are known.
    async fn go_on_with_others(&mut self) -> Result<(), Stumble> {
        for body in &mut self.ahead {
            // Both answers or none: the second comes right after the first.
            if let Some(start) = body.start.as_mut() {
                let Ok(start) = start.try_recv() else { break };
                body.start = None;
                let next = body.next.take().ok_or_else(|| closed("it has ended"))?;
                let next = next.await.map_err(|_| closed("it has ended"))??;
                body.opened(next, start?)?;
            }
            let in_memory = body.in_memory;
            self.pace.take_what_has_come(body);
            self.pace.held += body.in_memory - in_memory;
            if self.pace.has_room() {
                self.pace.ask(body).await?;
            }
        }
        Ok(())
    }
}

impl Pace {
    /// Asks for records of a transaction, if few enough are asked for.
    async fn ask(&mut self, body: &mut Body) -> Result<(), Stumble> {
        let Some(iterator) = body.iterator else {
            return Ok(());
        };
        let part = if self.is_slow {
            PART_WHERE_SLOW
        } else {
            PART_AHEAD
        };
        let most = match body.records.len() {
            0 => FIRST_RECORDS,
            come => (come / part).clamp(1, self.budget().min(MOST_OF_ONE)),
        };
        // Not one by one: half of them at a time makes fewer and larger packets.
        if body.is_bad || body.asked.len() > most / 2 {
            return Ok(());
        }
        while body.asked.len() < most {
            let call = Call::IteratorRecordNext { iterator };
            body.asked
                .push_back(self.link.ask(call, Expected::Record).await?);
            self.asked += 1;
        }
        Ok(())
    }

    /// Whether more may be asked for of a transaction whose turn it is not.
    fn has_room(&self) -> bool {
        self.asked < self.budget() && (self.held as u64) < self.bytes_ahead
    }

    fn budget(&self) -> usize {
        let fit = self.bytes_ahead as f64 / self.bytes.max(1.0);
        (fit as usize).clamp(LEAST_RECORDS, MOST_RECORDS)
    }

    /// Takes the good answers that are here.
    fn take_what_has_come(&mut self, body: &mut Body) {
        while let Some(asked) = body.asked.front_mut()
            && !body.is_bad
            && let Ok(reply) = asked.try_recv()
        {
            body.asked.pop_front();
            match reply {
                Ok(reply) if body.is_good(&reply) => {
                    self.asked -= 1;
                    self.put(body, reply);
                }
                reply => {
                    body.asked.push_front(answered(reply));
                    body.is_bad = true;
                }
            }
        }
    }

    /// Takes a good answer.
    fn put(&mut self, body: &mut Body, reply: Reply) {
        let Reply::Record(Some(record)) = reply else {
            // What was asked for in vain.
            self.asked -= body.asked.len();
            body.asked.clear();
            body.iterator = None;
            return;
        };
        let size = record.data.as_ref().map_or(0, bytes::Bytes::len);
        self.bytes += (size as f64 - self.bytes) / 16.0;
        body.in_memory += size;
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
        give_back(&self.pace.link, iterators);
    }
}

/// A receiver does not tell without taking: what was taken and shall stay is put in its place.
fn answered(reply: Result<Reply, Fault>) -> Asked {
    let (sender, asked) = oneshot::channel();
    // The receiver is here.
    drop(sender.send(reply));
    asked
}

impl Headers {
    /// Whether the next has come.
    fn has_next(&mut self) -> bool {
        let Some(asked) = self.asked.front_mut() else {
            return !self.ended;
        };
        match asked.try_recv() {
            Ok(reply) => {
                *asked = answered(reply);
                true
            }
            Err(oneshot::error::TryRecvError::Empty) => false,
            Err(oneshot::error::TryRecvError::Closed) => true,
        }
    }
}

impl Body {
    /// Whether it is one of its records, or their end.
    fn is_good(&self, reply: &Reply) -> bool {
        match reply {
            Reply::Record(Some(record)) => {
                record.tid == self.tid && self.records.len() < RECORDS_OF_ONE
            }
            Reply::Record(None) => true,
            _ => false,
        }
    }

    /// Why an answer is none.
    fn refusal(&self, reply: Reply) -> StorageError {
        let text = match reply {
            Reply::Record(Some(record)) if record.tid != self.tid => format!(
                "a record of {} in transaction {} says that it is of {}",
                record.oid, self.tid, record.tid
            ),
            Reply::Record(_) => format!("transaction {} has no end of records", self.tid),
            other => return unexpected(other, "`iterator_record_next`"),
        };
        Fault::Damaged(text).into()
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
