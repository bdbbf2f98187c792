//! A session: one connection of a client, from the handshake to its end, in one task.
//!
//! The task owns everything: reading, the calls in flight, the transaction, the invalidations and what
//! waits to be written. So their order is what this code says it is, and nothing is locked. Its loop:
//!
//! 1. take all calls that have arrived. A read is begun and polled once where it stands, since most
//!    answer at once from memory; only what does not is kept among the calls in flight;
//! 2. go on with the transaction;
//! 3. write, or wait for whatever comes first: room to write, an answer, an invalidation, a call.
//!
//! Nothing is taken from a client while too much waits to be written to it, or too many of its calls
//! are in flight; it is closed when that lasts too long.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use super::iterators::Iterators;
use super::lane::{Lane, LaneCall, LaneEvent, Surroundings, What};
use super::outbox::{Outbox, Sent};
use super::reads::{self, About, Answered, Done, Load, LoadDone, Read, Work};
use super::start::{Served, Serving, Shared};
use crate::storage::{CutOff, Invalidations};
use crate::wire::connection::{ReadError, Reader, Writer};
use crate::wire::handshake::{self, Choice, HandshakeError};
use crate::wire::{Call, DecodeError, FromClient, MessageId, Reply, Request, WireError};
use crate::zodb::{Answer, Oid, Op, Payload, Tid};

/// What has collected when it is written although more calls wait to be taken.
const WRITE_AT: usize = 256 << 10;

/// Data from this size on keeps the buffer that it was read into; smaller data is copied out of it, so
/// that a short record does not hold a long buffer until its transaction ends.
const KEEP_BUFFER: usize = 16 << 10;

/// How often a load is asked again whose answer was too old.
const LOAD_TRIES: u32 = 10;

/// How long a client that is being closed may take to read what waits for it.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Why a session has ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("the client left")]
    ClientLeft,
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error("it was asked for the status")]
    StatusAsked,
    #[error("the client did not {what} within {} s", .after.as_secs_f64())]
    TooSlow { what: &'static str, after: Duration },
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("could not write: {0}")]
    Write(std::io::Error),
    #[error(transparent)]
    Garbage(#[from] DecodeError),
    #[error("a call before `register`")]
    Unregistered,
    #[error("there is no method {0:?}")]
    UnknownMethod(String),
    #[error("`register` was called twice")]
    RegisteredTwice,
    /// Nobody would hear of it otherwise.
    #[error("a one-way call failed, {method}: {error:?}")]
    OneWay {
        method: &'static str,
        error: WireError,
    },
    #[error("the client did not keep up with the invalidations")]
    CutOff(#[from] CutOff),
    #[error("the storage does not serve: {0}")]
    NotServing(String),
    #[error("the server stops")]
    Stopping,
}

impl Ended {
    /// Whether the client did something that an operator may want to know of.
    fn is_remarkable(&self) -> bool {
        match self {
            Ended::ClientLeft
            | Ended::StatusAsked
            | Ended::Stopping
            | Ended::Read(ReadError::Io(_))
            | Ended::Write(_)
            | Ended::Handshake(_) => false,
            Ended::Read(_)
            | Ended::TooSlow { .. }
            | Ended::Garbage(_)
            | Ended::Unregistered
            | Ended::UnknownMethod(_)
            | Ended::RegisteredTwice
            | Ended::OneWay { .. }
            | Ended::CutOff(_)
            | Ended::NotServing(_) => true,
        }
    }
}

/// Serves one connection until it ends.
pub(super) async fn run<R, W>(read: R, write: W, peer: String, shared: Arc<Shared>)
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    let mut reader = Reader::new(read, shared.options.max_frame_bytes);
    let writer = Writer::new(write);
    let mut label = peer.clone();
    let stop = shared.sessions.stop().clone();
    let started = tokio::select! {
        // Nothing has happened yet that dropping it could lose.
        started = start(&mut reader, writer, &peer, &shared) => started,
        () = stop.requested() => Err(Ended::Stopping),
    };
    let ended = match started {
        Err(ended) => ended,
        Ok(registered) => {
            let clients = registered.served.stats.clients.count();
            let storage = registered.served.name.as_str();
            info!(%peer, storage, read_only = registered.read_only, "client registered");
            let session = Session::new(&shared, registered);
            let ended = session.serve(&mut reader, &mut label).await;
            drop(clients);
            ended
        }
    };
    if ended.is_remarkable() {
        warn!(%peer, %label, reason = %ended, "client disconnected by the server");
    } else if label == peer {
        debug!(%peer, reason = %ended, "connection ended");
    } else {
        debug!(%peer, %label, reason = %ended, "connection ended");
    }
}

/// A client that has registered.
struct Registered<'a, W> {
    writer: Writer<W>,
    served: &'a Served,
    invalidations: Invalidations,
    last: Tid,
    read_only: bool,
}

/// From the handshake to the registration.
async fn start<'a, R, W>(
    reader: &mut Reader<R>,
    mut writer: Writer<W>,
    peer: &str,
    shared: &'a Shared,
) -> Result<Registered<'a, W>, Ended>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let options = &shared.options;
    let choosing = handshake::accept(reader, &mut writer, options.offer);
    let choice = within("choose an encoding", options.handshake_timeout, choosing).await??;
    match choice {
        Choice::Dialect(dialect) => debug!(%peer, ?dialect, "encoding chosen"),
        Choice::Status => {
            tell_status(&mut writer, shared).await?;
            return Err(Ended::StatusAsked);
        }
    }
    let registering = register(reader, writer, shared);
    within("register", options.register_timeout, registering).await?
}

/// The answer to `ruok`. A storage that does not answer counts as empty rather than as no storage: who
/// watches the server gets the other figures.
async fn tell_status<W: AsyncWrite + Unpin>(
    writer: &mut Writer<W>,
    shared: &Shared,
) -> Result<(), Ended> {
    let mut statuses = Vec::new();
    for served in shared.served.values() {
        let last = timeout(LAST_WORDS, served.storage.last_tid()).await;
        let last = last.ok().and_then(Result::ok).unwrap_or(Tid::ZERO);
        statuses.push((served.name.as_str(), served.stats.status(last)));
    }
    let statuses = statuses.iter().map(|(name, status)| (*name, status));
    writer.raw(&handshake::status_json(statuses));
    writer.close().await.map_err(Ended::Write)
}

/// Reads until the client has registered. What can be mended by another registration is answered with
/// an error, and the connection lives on.
async fn register<'a, R, W>(
    reader: &mut Reader<R>,
    mut writer: Writer<W>,
    shared: &'a Shared,
) -> Result<Registered<'a, W>, Ended>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    loop {
        let Some(frame) = reader.next_frame().await? else {
            return Err(Ended::ClientLeft);
        };
        let FromClient::Request(request) = reader.dialect().decode_from_client(frame)? else {
            continue;
        };
        let Request { id, one_way, call } = request;
        let error = match call {
            Call::Register { storage, read_only } => {
                match admit(shared, &storage, read_only).await? {
                    Ok((served, invalidations, last)) => {
                        if !one_way {
                            writer.reply(&id, &Reply::Tid(last));
                        }
                        return Ok(Registered {
                            writer,
                            served,
                            invalidations,
                            last,
                            read_only,
                        });
                    }
                    Err(error) => error,
                }
            }
            Call::Malformed {
                method: method @ "register",
                why,
            } => reads::malformed(method, &why),
            Call::Unknown { method } => return Err(Ended::UnknownMethod(method)),
            _ => return Err(Ended::Unregistered),
        };
        if one_way {
            let method = "register";
            return Err(Ended::OneWay { method, error });
        }
        writer.reply(&id, &Reply::Error(error));
        writer.flush().await.map_err(Ended::Write)?;
    }
}

/// Whether a client may have the storage, and from which transaction on it will be told of others.
async fn admit<'a>(
    shared: &'a Shared,
    storage: &str,
    read_only: bool,
) -> Result<Result<(&'a Served, Invalidations, Tid), WireError>, Ended> {
    let Some(served) = shared.served.get(storage) else {
        let error = WireError::Value(format!("unknown storage: {storage}"));
        return Ok(Err(error));
    };
    let mut serving = served.serving.clone();
    let waiting = serving.wait_for(|serving| serving.refusal().is_none());
    // Whether it serves or not is read below; here it is only given some time.
    drop(timeout(shared.options.register_wait, waiting).await);
    let now = served.serving.borrow().clone();
    if let Some(why) = now.refusal() {
        return Err(Ended::NotServing(why.to_owned()));
    }
    let writable = now == Serving::Yes && !served.storage.capabilities().read_only;
    if !read_only && !writable {
        return Ok(Err(WireError::Answer(Answer::ReadOnly)));
    }
    // In this order: whatever is finished after the answer is in the queue. What is in it and not
    // later than the answer is passed over by the outbox.
    let invalidations = served.storage.subscribe();
    match served.storage.last_tid().await {
        Ok(last) => Ok(Ok((served, invalidations, last))),
        Err(failed) => match reads::error(failed) {
            Done::Reply(Reply::Error(error)) => Ok(Err(error)),
            _ => Err(Ended::NotServing("it has no last transaction".to_owned())),
        },
    }
}

/// A registered client's session.
struct Session<'a, W> {
    shared: &'a Shared,
    served: &'a Served,
    outbox: Outbox<'a, W>,
    lane: Lane<'a>,
    reads: FuturesUnordered<Read<'a>>,
    iterators: Iterators,
    serving: watch::Receiver<Serving>,
    read_only: bool,
    label: Option<String>,
    /// Loads that are not counted yet.
    loads: u64,
    /// Since when the client reads nothing although something waits for it.
    stalled: Option<Instant>,
}

impl<'a, W: AsyncWrite + Unpin + Send> Session<'a, W> {
    fn new(shared: &'a Shared, registered: Registered<'a, W>) -> Self {
        let Registered {
            writer,
            served,
            invalidations,
            last,
            read_only,
        } = registered;
        let storage = &*served.storage;
        Session {
            shared,
            served,
            outbox: Outbox::new(writer, invalidations, storage, last),
            lane: Lane::new(Surroundings {
                storage,
                stats: Arc::clone(&served.stats),
                serving: served.serving.clone(),
                read_only,
            }),
            reads: FuturesUnordered::new(),
            iterators: Iterators::new(shared.options.iterators),
            serving: served.serving.clone(),
            read_only,
            label: None,
            loads: 0,
            stalled: None,
        }
    }

    /// Serves until something ends it; then ends it properly.
    async fn serve<R: AsyncRead + Unpin>(
        mut self,
        reader: &mut Reader<R>,
        label: &mut String,
    ) -> Ended {
        let ended = loop {
            if let Err(ended) = self.turn(reader).await {
                break ended;
            }
        };
        self.count_loads();
        let stats = &self.served.stats;
        if let Some(name) = self.label.take() {
            *label = name;
        }
        // The client's other calls have nobody to be answered to. A finish cannot be taken back: it is
        // waited for, and the client hears of it if it is still there.
        let Session {
            lane, mut outbox, ..
        } = self;
        if let Some(finishing) = lane.close() {
            let told = match finishing.await {
                Ok(tid) => {
                    stats.commits.fetch_add(1, Relaxed);
                    outbox.finish_ended(tid)
                }
                Err(error) => {
                    warn!(%error, "could not finish the transaction of a client that is gone");
                    Ok(())
                }
            };
            debug!(?told, "waited for a finish in hand");
        }
        let last_words = outbox.ends().0.close();
        if let Ok(Err(error)) = timeout(LAST_WORDS, last_words).await {
            debug!(%error, "the last words were not heard");
        }
        ended
    }

    /// One turn of the loop.
    async fn turn<R: AsyncRead + Unpin>(&mut self, reader: &mut Reader<R>) -> Result<(), Ended> {
        while self.may_take() && self.outbox.pending() < WRITE_AT {
            let Some(frame) = reader.buffered()? else {
                break;
            };
            self.take(reader, frame)?;
        }
        self.go_on_with_transaction()?;
        self.count_loads();

        let may_take = self.may_take();
        let room = self.outbox.pending() < self.shared.options.outbox_bytes;
        let deadline = self.deadline();
        let pending = self.outbox.pending();
        let (writer, invalidations) = self.outbox.ends();
        let lane = &mut self.lane;
        let stop = self.shared.sessions.stop();
        // Each branch may be dropped when another is taken: what was written or read of a message is
        // kept by the writer and the reader, and the others have no effect before they are ready.
        let came = tokio::select! {
            biased;
            written = writer.flush(), if pending > 0 => {
                written.map_err(Ended::Write)?;
                Came::Room
            }
            () = stop.requested() => return Err(Ended::Stopping),
            changed = self.serving.changed() => {
                if changed.is_err() {
                    return Err(Ended::NotServing("it is closed".to_owned()));
                }
                if let Some(why) = self.serving.borrow_and_update().refusal() {
                    return Err(Ended::NotServing(why.to_owned()));
                }
                Came::Room
            }
            () = until(deadline), if deadline.is_some() => Came::Deadline,
            committed = invalidations.next(), if room => Came::Committed(committed?),
            event = poll_fn(|context| lane.poll(context)), if lane.is_busy() => Came::Lane(event),
            Some(answered) = self.reads.next() => Came::Answered(answered),
            frame = reader.next_frame(), if may_take => match frame? {
                Some(frame) => Came::Frame(frame),
                None => return Err(Ended::ClientLeft),
            },
        };
        self.note_progress(pending);
        match came {
            Came::Room => Ok(()),
            Came::Deadline => self.too_late(),
            Came::Committed(committed) => {
                self.outbox.admit(committed);
                Ok(self.outbox.pass_on()?)
            }
            Came::Lane(event) => self.lane_event(event),
            Came::Answered((about, answered)) => self.answered(about, answered),
            Came::Frame(frame) => self.take(reader, frame),
        }
    }

    /// Whether another call of the client may be taken now.
    fn may_take(&self) -> bool {
        let options = &self.shared.options;
        self.outbox.pending() < options.outbox_bytes
            && self.reads.len() < options.calls_in_flight
            && self.lane.queued_bytes() < options.transaction_bytes
    }

    /// Takes a message of the client.
    fn take<R>(&mut self, reader: &Reader<R>, frame: Bytes) -> Result<(), Ended> {
        match reader.dialect().decode_from_client(frame)? {
            FromClient::Heartbeat => Ok(()),
            FromClient::Request(request) => self.call(request),
        }
    }

    /// Begins a call.
    fn call(&mut self, request: Request) -> Result<(), Ended> {
        let Request { id, one_way, call } = request;
        match call {
            Call::LoadBefore { oid, before } => {
                self.loads += 1;
                let about = About { id, one_way };
                self.load(about, oid, before, 0)
            }
            Call::Ping => self.reply(&id, one_way, &Reply::None),
            Call::GetInfo => {
                let info = reads::info(self.served);
                self.reply(&id, one_way, &Reply::Info(info))
            }
            Call::SetClientLabel { label } => {
                self.label = Some(label);
                self.reply(&id, one_way, &Reply::None)
            }
            Call::NewOids { .. } if self.read_only || !self.is_writable() => self.refuse(
                &id,
                one_way,
                "new_oids",
                WireError::Answer(Answer::ReadOnly),
            ),
            Call::IteratorStart { first, last } => {
                let future = self.iterators.start(&*self.served.storage, first, last);
                self.read(About { id, one_way }, future)
            }
            Call::IteratorNext { iterator } => {
                let future = self.iterators.transaction(iterator);
                self.read(About { id, one_way }, future)
            }
            Call::IteratorRecordStart { iterator, tid } => {
                let future = self.iterators.start_records(iterator, tid);
                self.read(About { id, one_way }, future)
            }
            Call::IteratorRecordNext { iterator } => {
                let future = self.iterators.record(iterator);
                self.read(About { id, one_way }, future)
            }
            Call::IteratorGc { iterators } => {
                self.iterators.forget(&iterators);
                self.reply(&id, one_way, &Reply::None)
            }
            Call::UndoLog { .. } | Call::UndoInfo { .. } => {
                self.reply(&id, one_way, &reads::no_undo())
            }
            Call::Pack { .. } => self.refuse(&id, one_way, "pack", reads::not_there("pack")),
            Call::SendBlob { .. } => {
                self.refuse(&id, one_way, "sendBlob", reads::not_there("sendBlob"))
            }
            Call::Register { .. } => Err(Ended::RegisteredTwice),
            Call::Unknown { method } => Err(Ended::UnknownMethod(method)),
            Call::Malformed { method, why } => {
                self.refuse(&id, one_way, method, reads::malformed(method, &why))
            }
            call => match transactional(call) {
                Ok(what) => {
                    self.lane.push(LaneCall { id, one_way, what });
                    Ok(())
                }
                Err(call) => match reads::ask(self.shared, self.served, call) {
                    Some(future) => self.read(About { id, one_way }, future),
                    None => Err(Ended::UnknownMethod("of which nothing is known".to_owned())),
                },
            },
        }
    }

    /// Asks for a revision, and takes the answer if it is there at once.
    fn load(&mut self, about: About, oid: Oid, before: Tid, tries: u32) -> Result<(), Ended> {
        let mut load = Load::ask(&*self.served.storage, oid, before, tries);
        match load.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => self.loaded(about, done),
            Poll::Pending => {
                self.reads.push(Read {
                    about: Some(about),
                    work: Work::Load(load),
                });
                Ok(())
            }
        }
    }

    fn loaded(&mut self, about: About, done: LoadDone) -> Result<(), Ended> {
        let loaded = match done.outcome {
            Ok(loaded) => loaded,
            Err(failed) => return self.done(about, reads::error(failed)),
        };
        if about.one_way {
            return Ok(());
        }
        match self.outbox.loaded(&about.id, done.oid, &loaded)? {
            Sent::Yes => Ok(()),
            Sent::AskAgain if done.tries < LOAD_TRIES => {
                self.load(about, done.oid, done.before, done.tries + 1)
            }
            Sent::AskAgain => {
                let error = "the storage answers as of a transaction long past".to_owned();
                let done = Done::Reply(Reply::Error(WireError::Storage(error)));
                self.done(about, done)
            }
        }
    }

    /// Begins a call that reads, and takes the answer if it is there at once.
    fn read(&mut self, about: About, mut future: BoxFuture<'a, Done>) -> Result<(), Ended> {
        match future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Ready(done) => self.done(about, done),
            Poll::Pending => {
                self.reads.push(Read {
                    about: Some(about),
                    work: Work::Other(future),
                });
                Ok(())
            }
        }
    }

    fn answered(&mut self, about: About, answered: Answered) -> Result<(), Ended> {
        match answered {
            Answered::Load(done) => self.loaded(about, done),
            Answered::Other(done) => self.done(about, done),
        }
    }

    fn done(&mut self, about: About, done: Done) -> Result<(), Ended> {
        let reply = match done {
            Done::Reply(reply) => reply,
            Done::Iterator(made) => self.iterators.add(made),
            Done::IteratorEnded(id, reply) => {
                self.iterators.remove(id);
                reply
            }
            Done::HangUp(ended) => return Err(ended),
        };
        match reply {
            Reply::Error(error) => self.refuse(&about.id, about.one_way, "a read", error),
            reply => self.reply(&about.id, about.one_way, &reply),
        }
    }

    fn reply(&mut self, id: &MessageId, one_way: bool, reply: &Reply) -> Result<(), Ended> {
        if !one_way {
            self.outbox.reply(id, reply)?;
        }
        Ok(())
    }

    /// Answers with an error; the failure of a one-way call ends the session.
    fn refuse(
        &mut self,
        id: &MessageId,
        one_way: bool,
        method: &'static str,
        error: WireError,
    ) -> Result<(), Ended> {
        if one_way {
            return Err(Ended::OneWay { method, error });
        }
        Ok(self.outbox.reply(id, &Reply::Error(error))?)
    }

    /// Goes on with the transaction as far as it can without waiting.
    fn go_on_with_transaction(&mut self) -> Result<(), Ended> {
        let mut context = Context::from_waker(Waker::noop());
        while self.lane.is_busy() {
            match self.lane.poll(&mut context) {
                Poll::Ready(event) => self.lane_event(event)?,
                // The loop polls it again, with its own waker.
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    fn lane_event(&mut self, event: LaneEvent) -> Result<(), Ended> {
        match event {
            LaneEvent::Reply(id, reply) => Ok(self.outbox.reply(&id, &reply)?),
            LaneEvent::FinishBegan { token, id } => {
                self.outbox.finishing(token, id);
                Ok(())
            }
            LaneEvent::Finished(Ok(tid)) => Ok(self.outbox.finish_ended(tid)?),
            LaneEvent::Finished(Err(failed)) => {
                warn!(storage = %self.served.name, error = %failed, "could not finish a transaction");
                match reads::error(failed) {
                    Done::HangUp(ended) => Err(ended),
                    Done::Reply(reply) => Ok(self.outbox.finish_failed(&reply)?),
                    Done::Iterator(_) | Done::IteratorEnded(..) => Ok(()),
                }
            }
            LaneEvent::HangUp(ended) => Err(ended),
        }
    }

    fn is_writable(&self) -> bool {
        *self.served.serving.borrow() == Serving::Yes
    }

    /// When the client will have taken too long.
    fn deadline(&self) -> Option<Instant> {
        let options = &self.shared.options;
        let transaction = self
            .lane
            .client_since()
            .map(|since| since + options.transaction_timeout);
        let reading = self.stalled.map(|since| since + options.write_timeout);
        [transaction, reading].into_iter().flatten().min()
    }

    fn too_late(&self) -> Result<(), Ended> {
        let options = &self.shared.options;
        let (what, after) = if self
            .stalled
            .is_some_and(|since| since.elapsed() >= options.write_timeout)
        {
            ("read what waits for it", options.write_timeout)
        } else {
            (
                "finish the transaction it had voted for",
                options.transaction_timeout,
            )
        };
        Err(Ended::TooSlow { what, after })
    }

    /// Notes whether the client has read something of the `before` bytes that waited for it.
    fn note_progress(&mut self, before: usize) {
        let pending = self.outbox.pending();
        if pending == 0 {
            self.stalled = None;
        } else if pending < before || self.stalled.is_none() {
            self.stalled = Some(Instant::now());
        }
    }

    fn count_loads(&mut self) {
        if self.loads > 0 {
            self.served.stats.loads.fetch_add(self.loads, Relaxed);
            self.loads = 0;
        }
    }
}

/// What a session waited for.
enum Came<'a> {
    Room,
    Deadline,
    Committed(crate::storage::Committed),
    Lane(LaneEvent),
    Answered(<Read<'a> as Future>::Output),
    Frame(Bytes),
}

/// A call that belongs to the transaction, or the call as it was.
fn transactional(call: Call) -> Result<What, Call> {
    Ok(match call {
        Call::TpcBegin { txn, meta, tid } => What::Begin { txn, meta, tid },
        Call::Storea {
            oid,
            serial,
            data,
            txn,
        } => What::Do {
            txn,
            op: Op::Store {
                oid,
                serial,
                data: kept(data),
            },
        },
        Call::Restorea {
            oid,
            serial,
            data,
            previous,
            txn,
        } => What::Do {
            txn,
            op: Op::Restore {
                oid,
                serial,
                data: data.map(kept),
                previous,
            },
        },
        Call::DeleteObject { oid, serial, txn } => What::Do {
            txn,
            op: Op::Delete { oid, serial },
        },
        Call::CheckCurrent { oid, serial, txn } => What::Do {
            txn,
            op: Op::CheckCurrent { oid, serial },
        },
        Call::Undoa { .. } => What::Refuse(reads::not_there("undoa")),
        Call::StoreBlobStart => What::Refuse(reads::not_there("storeBlobStart")),
        Call::StoreBlobChunk { .. } => What::Refuse(reads::not_there("storeBlobChunk")),
        Call::StoreBlobEnd { .. } => What::Refuse(reads::not_there("storeBlobEnd")),
        Call::StoreBlobShared { .. } => What::Refuse(reads::not_there("storeBlobShared")),
        Call::Vote { txn } => What::Vote(txn),
        Call::TpcFinish { txn } => What::Finish(txn),
        Call::TpcAbort { txn } => What::Abort(txn),
        other => return Err(other),
    })
}

fn kept(data: Bytes) -> Payload {
    if data.len() < KEEP_BUFFER {
        Bytes::copy_from_slice(&data).into()
    } else {
        data.into()
    }
}

async fn within<T>(
    what: &'static str,
    after: Duration,
    future: impl Future<Output = T>,
) -> Result<T, Ended> {
    timeout(after, future)
        .await
        .map_err(|_| Ended::TooSlow { what, after })
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
