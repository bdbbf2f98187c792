//! The storage's calls, one by one, as calls of ZEO.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use super::errors::{is_closed, unexpected};
use super::link::{Link, closed};
use super::{Inner, ZeoStorage, commit, describe, iterate, measure, restore};
use crate::pickle::{Value, extension};
use crate::storage::undo_search::UndoSearch;
use crate::storage::{
    Answer, Capabilities, CurrentRecord, Description, Extent, Fault, History, Invalidations,
    Loaded, Result, Revision, SetAside, Size, Storage, StorageError, Transaction, Undoable,
};
use crate::wire::{Call, Expected, Reply, WireError, parse_undo_id};
use crate::zodb::{Blob, HistoryTxn, Oid, Tid, TidRange, TxnMeta};

/// Data up to this size is copied out of the message it came in: it may be kept for long, and messages
/// share memory with their neighbours.
const COPIED: usize = 256 << 10;

/// A server gives at most so many identifiers at once.
const OIDS: usize = 100;

/// How often a server is asked for more of them to get beyond what others have given.
const OIDS_ROUNDS: usize = 20;

/// How many lines of the undo log are asked for at first.
const FIRST_LINES: usize = 128;

/// About how many bytes of it are asked for at once, and what a line has beside its texts.
const LINES_BYTES: usize = 4 << 20;
const LINE_BYTES: usize = 128;

/// How far back it is searched: each piece costs the server all that are newer. What lies further back is
/// not found.
const MOST_LINES: usize = 200_000;

/// How long closing waits for a finish in hand, and for the tasks.
const CLOSING: Duration = Duration::from_secs(5);

impl Inner {
    /// Reads over the least busy connection; over the main one where that one ended meanwhile.
    pub(super) async fn read(&self, call: Call) -> Result<Reply> {
        self.heard.alive()?;
        if let Some(link) = self.readers.pick() {
            match link.call(call.clone()).await {
                Err(StorageError::Fault(Fault::Closed(_))) if self.heard.alive().is_ok() => {}
                done => return done,
            }
        }
        self.main.call(call).await
    }

    /// Asks over a connection for what stays on it, or takes long; and once more over another one where it
    /// ended meanwhile. One that was not used for long may end between being picked and being asked, and
    /// the server is well.
    ///
    /// What must not be asked twice says whether it was asked, and waits for the answer elsewhere.
    pub(super) async fn over_reader<T, F>(&self, ask: impl Fn(Arc<Link>) -> F + Send) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send,
        T: Send,
    {
        match ask(self.reader().await?).await {
            Err(StorageError::Fault(Fault::Closed(_))) if self.heard.alive().is_ok() => {
                ask(self.reader().await?).await
            }
            done => done,
        }
    }

    /// The main connection only where there is no other to be had: what goes wrong on that one costs the
    /// server's commit lock.
    async fn reader(&self) -> Result<Arc<Link>, Fault> {
        self.heard.alive()?;
        let link = self.readers.get().await;
        self.heard.alive()?;
        Ok(link.unwrap_or_else(|| Arc::clone(&self.main)))
    }

    /// A piece of the undo log, of everything; and about how much it is in bytes. The server is never told
    /// what is looked for: see [`UndoSearch`].
    async fn undo_log(&self, first: usize, lines: usize) -> Result<(Vec<Undoable>, usize)> {
        let number = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let call = Call::UndoInfo {
            first: number(first),
            last: number(first + lines),
            specification: Value::None,
        };
        // As long as it takes, because the server goes through all that come before: the connection's pulse
        // tells whether it is there.
        let reply = self.over_reader(|link| {
            let call = call.clone();
            async move {
                let answer = link.ask(call, Expected::Value).await?;
                Ok(answer
                    .await
                    .unwrap_or_else(|_| Err(closed("it has ended")))?)
            }
        });
        let page = match reply.await? {
            Reply::Value(Value::List(page) | Value::Tuple(page)) => page,
            Reply::Value(Value::None) => Vec::new(),
            other => return Err(unexpected(other, "`undoInfo`")),
        };
        let page: Vec<Undoable> = page.iter().map(undoable).collect::<Result<_>>()?;
        let bytes = page
            .iter()
            .map(|txn| LINE_BYTES + txn.user.len() + txn.description.len() + txn.extension.len());
        let bytes = bytes.sum();
        Ok((page, bytes))
    }

    /// Nobody reads a transaction before he may have been told of it.
    async fn told(&self, tid: Tid) -> Result<(), Fault> {
        if tid <= self.heard.ledger.last() {
            return Ok(());
        }
        let patience = self.options.call_timeout;
        self.heard.ledger.reach(tid, patience).await
    }
}

pub(super) fn own(data: Bytes) -> Bytes {
    if data.len() <= COPIED {
        Bytes::copy_from_slice(&data)
    } else {
        data
    }
}

#[async_trait]
impl Storage for ZeoStorage {
    fn describe(&self) -> Description {
        describe(&self.0.options)
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities
    }

    fn size(&self) -> Size {
        self.0.heard.ledger.size()
    }

    fn deadline(&self, since: Instant, patience: Duration) -> Instant {
        self.0.heard.occupation.deadline(since, patience)
    }

    async fn last_tid(&self) -> Result<Tid> {
        self.0.heard.alive()?;
        // In order with the announcements.
        match self.0.main.call(Call::LastTransaction).await? {
            Reply::Tid(said) => {
                let tid = self.0.believed(said).await?;
                self.0.told(tid).await?;
                Ok(tid)
            }
            Reply::None => Ok(Tid::ZERO),
            other => Err(unexpected(other, "`lastTransaction`")),
        }
    }

    async fn load_before(&self, oid: Oid, before: Tid) -> Result<Option<Loaded>> {
        // The answer is made after this.
        let as_of = self.0.heard.ledger.last();
        match self.0.read(Call::LoadBefore { oid, before }).await? {
            Reply::Loaded(None) => Ok(None),
            Reply::Loaded(Some(record)) => {
                let known = record.end.unwrap_or(record.tid);
                self.0.told(known).await?;
                Ok(Some(Loaded {
                    data: own(record.data),
                    tid: record.tid,
                    end: record.end,
                    as_of: as_of.max(known),
                }))
            }
            other => Err(unexpected(other, "`loadBefore`")),
        }
    }

    async fn load_serial(&self, oid: Oid, serial: Tid) -> Result<Bytes> {
        match self.0.read(Call::LoadSerial { oid, serial }).await? {
            Reply::Data(data) => Ok(own(data)),
            other => Err(unexpected(other, "`loadSerial`")),
        }
    }

    async fn current_tid(&self, oid: Oid) -> Result<Tid> {
        match self.0.read(Call::GetTid { oid }).await? {
            Reply::Tid(tid) => {
                self.0.told(tid).await?;
                Ok(tid)
            }
            other => Err(unexpected(other, "`getTid`")),
        }
    }

    /// The server's own, as far as they are beyond `after`; where the server is too far behind, those
    /// after `after`, which the server then has not given to anybody. It may give them out later to
    /// clients of its own: who shares it with others passes on what all have given.
    async fn new_oids(&self, count: usize, after: Oid) -> Result<Vec<Oid>> {
        let none_left = || Answer::Invalid("there are no object identifiers left".to_owned());
        let mut given = Vec::with_capacity(count);
        let mut largest = after.max(*self.0.oids.lock());
        let mut behind = false;
        for _ in 0..OIDS_ROUNDS + count / OIDS {
            if given.len() >= count || largest.0 == u64::MAX {
                break;
            }
            // As many as are wanted; where the server is behind, the most that it gives.
            let missing = (count - given.len()).min(OIDS);
            let count = if behind { OIDS } else { missing };
            match self.0.main.call(Call::NewOids { count }).await? {
                Reply::Oids(oids) if oids.is_empty() => break,
                Reply::Oids(oids) => {
                    let last = oids.iter().max().copied().unwrap_or_default();
                    behind = last <= largest;
                    given.extend(oids.into_iter().filter(|oid| *oid > largest));
                    if largest.0.saturating_sub(last.0) > (OIDS * OIDS_ROUNDS) as u64 {
                        break;
                    }
                }
                other => return Err(unexpected(other, "`new_oids`")),
            }
        }
        if given.len() < count {
            let mut counted = self.0.oids.lock();
            largest = largest.max(*counted);
            largest = given.iter().copied().fold(largest, Oid::max);
            let missing = (count - given.len()) as u64;
            let last = largest.0.checked_add(missing).ok_or_else(none_left)?;
            given.extend((largest.0 + 1..=last).map(Oid));
            *counted = Oid(last);
        }
        given.truncate(count);
        Ok(given)
    }

    async fn history(&self, oid: Oid, count: usize) -> Result<Vec<Revision>> {
        // As much as Python can take as a size.
        let count = count.min(i32::MAX as usize);
        match self.0.read(Call::History { oid, count }).await? {
            Reply::History(lines) => Ok(lines
                .into_iter()
                .map(|line| Revision {
                    tid: line.tid,
                    user: line.user,
                    description: line.description,
                    extension: line.extension,
                    size: line.size,
                })
                .collect()),
            other => Err(unexpected(other, "`history`")),
        }
    }

    async fn record_from(&self, from: Oid) -> Result<Option<CurrentRecord>> {
        let mut next = Some(from);
        loop {
            match self.0.read(Call::RecordIternext { next }).await? {
                Reply::CurrentRecord {
                    oid,
                    tid,
                    data,
                    next,
                } => {
                    self.0.told(tid).await?;
                    let data = own(data);
                    return Ok(Some(CurrentRecord {
                        oid,
                        tid,
                        data,
                        next,
                    }));
                }
                // Python's index has nothing from there on.
                Reply::Error(WireError::Value(text)) if !is_closed(&text) => return Ok(None),
                // An object whose creation was undone, or that was deleted. Python stumbles over it.
                Reply::Error(WireError::Answer(Answer::NoSuchObject(gone)))
                    if gone.0 >= next.map_or(0, |next| next.0) && gone.0 < u64::MAX =>
                {
                    next = Some(Oid(gone.0 + 1));
                }
                other => return Err(unexpected(other, "`record_iternext`")),
            }
        }
    }

    async fn iterate(&self, range: TidRange) -> Result<Box<dyn History>> {
        let last = range.last.min(self.0.heard.ledger.last());
        let range = TidRange { last, ..range };
        Ok(Box::new(iterate::Iteration::begin(&self.0, range).await?))
    }

    async fn tids_before(&self, before: Tid, count: usize) -> Result<Vec<Tid>> {
        measure::tids_before(&self.0, before, count).await
    }

    async fn measure_after(&self, after: Tid) -> Result<Extent> {
        measure::measure_after(&self.0, after).await
    }

    async fn invalidations_since(&self, since: Tid) -> Result<(Tid, Option<Vec<Oid>>)> {
        let last = self.last_tid().await?;
        if since >= last {
            return Ok((last, Some(Vec::new())));
        }
        // The server's own list lacks what was restored and what was deleted.
        if self.0.heard.ledger.tells_all_since(since) {
            match self.0.main.call(Call::GetInvalidations { since }).await? {
                Reply::Invalidations(Some((said, oids))) => {
                    let tid = self.0.believed(said).await?;
                    self.0.told(tid).await?;
                    return Ok((tid, Some(oids)));
                }
                Reply::Invalidations(None) => {}
                other => return Err(unexpected(other, "`getInvalidations`")),
            }
        }
        let oids = measure::written_after(&self.0, since, last).await?;
        Ok((last, oids))
    }

    async fn load_blob(&self, oid: Oid, serial: Tid) -> Result<Blob> {
        self.0.heard.alive()?;
        if !self.0.capabilities.blobs {
            return Err(Answer::Unsupported("blobs").into());
        }
        self.0.blobs.fetch(oid, serial).await
    }

    async fn undo_info(
        &self,
        first: i64,
        last: i64,
        specification: &Value,
    ) -> Result<Vec<Undoable>> {
        if !self.0.capabilities.undo {
            return Err(Answer::Unsupported("undo").into());
        }
        let mut search = UndoSearch::new(first, last, specification);
        // Numbers count from the newest on: what is committed meanwhile moves the rest, and is met twice.
        let (mut next, mut before) = (0, Tid::MAX);
        let (mut lines, mut most) = (FIRST_LINES, MOST_LINES);
        while search.missing() > 0 && next < MOST_LINES {
            if search.takes_all() {
                lines = lines.min(search.missing());
            }
            lines = lines.min(MOST_LINES - next);
            let (page, bytes) = match self.0.undo_log(next, lines).await {
                // Older lines may be longer: too many for one message end their connection, which is not
                // the main one.
                Err(StorageError::Fault(Fault::Damaged(_)))
                    if lines > FIRST_LINES && self.0.heard.alive().is_ok() =>
                {
                    most = (lines / 4).max(FIRST_LINES);
                    lines = most;
                    continue;
                }
                page => page?,
            };
            let got = page.len();
            for txn in page {
                if txn.tid < before {
                    before = txn.tid;
                    search.meet(txn);
                }
            }
            if got < lines {
                break;
            }
            next += got;
            let fit = LINES_BYTES * got / bytes.max(1);
            lines = (lines * 2).min(fit).clamp(FIRST_LINES, most);
        }
        Ok(search.found()?)
    }

    async fn pack(&self, time: f64) -> Result<()> {
        // Asked again only where it was not sent: a server that has it refuses a second one, and the first
        // goes on without us.
        let asked = self.0.over_reader(|link| async move {
            let call = Call::Pack { time, wait: true };
            link.ask(call, Expected::None).await
        });
        // As long as it takes: the connection's pulse tells whether the server is there.
        let answer = asked.await?;
        match answer.await {
            Ok(Ok(Reply::None)) => Ok(()),
            Ok(Ok(other)) => Err(unexpected(other, "`pack`")),
            Ok(Err(fault)) => Err(fault.into()),
            Err(_) => Err(closed("it has ended").into()),
        }
    }

    fn subscribe(&self) -> Invalidations {
        let invalidations = self.0.heard.ledger.subscribe();
        if self.0.heard.alive().is_err() {
            self.0.heard.ledger.cut_off();
        }
        invalidations
    }

    async fn begin(&self, meta: TxnMeta, tid: Option<Tid>) -> Result<Box<dyn Transaction>> {
        commit::begin(&self.0, meta, tid)
    }

    async fn restore(&self, batch: Vec<HistoryTxn>) -> Result<()> {
        restore::restore(&self.0, batch).await
    }

    async fn rewind(&self, _keep: Option<Tid>) -> Result<SetAside> {
        Err(Answer::Unsupported("being cut back over ZEO").into())
    }

    async fn close(&self) {
        // No new vote; a finish in hand ends and gives its place back.
        let slot = self.0.slot.acquire();
        let finished = if self.0.finishing() {
            tokio::time::timeout(CLOSING, slot).await.is_ok()
        } else {
            true
        };
        self.0.slot.close();
        if !finished {
            tracing::warn!(server = %self.0.options.address, "closed in the middle of a finish");
        }
        self.0.end(closed("by its owner"));
        if let Err(error) = self.0.tasks.shutdown(CLOSING).await {
            tracing::warn!(%error, "connections did not end");
        }
    }
}

/// One line of `undoInfo`: a dictionary. What stands in it beside the usual is the extension.
fn undoable(line: &Value) -> Result<Undoable> {
    const NAMES: [&str; 5] = ["id", "time", "user_name", "description", "size"];
    let malformed = |what: &str| -> StorageError {
        Fault::Damaged(format!("the server said {what} in `undoInfo`")).into()
    };
    let octets = |name: &str| {
        let octets = line.get(name).and_then(Value::as_octets);
        Bytes::copy_from_slice(octets.unwrap_or_default())
    };
    let Value::Dict(entries) = line else {
        return Err(malformed("something that is no dictionary"));
    };
    let id = line.get("id").and_then(Value::as_octets);
    let mut rest = entries.clone();
    rest.retain(|(key, _)| !key.as_text().is_some_and(|key| NAMES.contains(&key)));
    Ok(Undoable {
        tid: id
            .and_then(parse_undo_id)
            .ok_or_else(|| malformed("an id that is none"))?,
        user: octets("user_name"),
        description: octets("description"),
        extension: extension::pickled(&rest),
        size: line
            .get("size")
            .and_then(Value::as_int)
            .and_then(|size| size.try_into().ok()),
    })
}
