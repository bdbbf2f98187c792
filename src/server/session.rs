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
use std::path::Path;
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

use super::ended::Ended;
use super::iterators::Iterators;
use super::lane::{Lane, LaneEvent, Surroundings};
use super::outbox::{Outbox, Sent};
use super::reads::{self, About, Answered, Done, Load, LoadDone, Read, Work};
use super::sending::{Said, Sending};
use super::start::{Served, Serving, Shared};
use super::tls;
use super::welcome::{self, Registered};
use crate::storage::Committed;
use crate::wire::connection::{Reader, Writer};
use crate::wire::handshake::HandshakeError;
use crate::wire::{FromClient, MessageId, Reply, WireError};
use crate::zodb::{Oid, Tid};

/// What has collected when it is written although more calls wait to be taken.
const WRITE_AT: usize = 256 << 10;

/// Where this much waits to be written, no more is read of blobs: the client is not faster.
const BLOBS_UNTIL: usize = 1 << 20;

/// How often a load is asked again whose answer was too old.
const LOAD_TRIES: u32 = 10;

/// How long a client that is being closed may take to read what waits for it.
const LAST_WORDS: Duration = Duration::from_secs(1);

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
    let started = crate::task::select! {
        // Nothing has happened yet that dropping it could lose.
        started = welcome::start(&mut reader, writer, &peer, &shared) => started,
        () = stop.requested() => Err(Ended::Stopping),
    };
    let ended = match started {
        Err(ended) => ended,
        Ok(registered) => {
            let clients = registered.served.stats.clients.count();
            let storage = registered.served.name.as_str();
            info!(%peer, storage, read_only = registered.read_only, "client registered");
            let uploads = registered.served.uploads();
            let session = Session::new(&shared, registered, &peer, &uploads);
            let ended = session.serve(&mut reader, &mut label).await;
            drop(clients);
            ended
        }
    };
    if matches!(ended, Ended::Handshake(HandshakeError::Tls)) {
        tls::tell_refused(&shared, &peer, &ended.to_string());
    } else if ended.is_remarkable() {
        warn!(%peer, %label, reason = %ended, "client disconnected by the server");
    } else if label == peer {
        debug!(%peer, reason = %ended, "connection ended");
    } else {
        debug!(%peer, %label, reason = %ended, "connection ended");
    }
}

/// A registered client's session.
pub(super) struct Session<'a, W> {
    pub(super) shared: &'a Shared,
    pub(super) served: &'a Served,
    outbox: Outbox<'a, W>,
    pub(super) lane: Lane<'a>,
    reads: FuturesUnordered<Read<'a>>,
    pub(super) iterators: Iterators,
    pub(super) sending: Sending,
    serving: watch::Receiver<Serving>,
    /// Changes when the client is to be told how much the storage holds.
    resized: watch::Receiver<u64>,
    pub(super) read_only: bool,
    pub(super) peer: String,
    pub(super) label: Option<String>,
    /// Loads that are not counted yet.
    loads: u64,
    /// Since when the client reads nothing although something waits for it.
    stalled: Option<Instant>,
    /// The server stops: then this session ends, or as soon as its transaction has ended.
    stop_by: Option<Instant>,
}

impl<'a, W: AsyncWrite + Unpin + Send> Session<'a, W> {
    fn new(
        shared: &'a Shared,
        registered: Registered<'a, W>,
        peer: &str,
        uploads: &'a Path,
    ) -> Self {
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
                uploads,
                shared_blobs: served.shared_blobs.as_ref(),
                contender: served.contention.contender(),
            }),
            reads: FuturesUnordered::new(),
            iterators: Iterators::new(shared.options.iterators),
            sending: Sending::default(),
            serving: served.serving.clone(),
            resized: served.packing.resized(),
            read_only,
            peer: peer.to_owned(),
            label: None,
            loads: 0,
            stalled: None,
            stop_by: None,
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
        self.load_blobs()?;
        self.go_on_with_transaction()?;
        self.count_loads();
        if self.stop_by.is_some() && !self.lane.is_in_transaction() {
            return Err(Ended::Stopping);
        }

        let may_take = self.may_take();
        let room = self.outbox.pending() < self.shared.options.outbox_bytes;
        let deadline = self.deadline();
        let pending = self.outbox.pending();
        let sending_goes_on = pending < BLOBS_UNTIL && self.sending.is_busy();
        let (writer, invalidations) = self.outbox.ends();
        let (lane, sending) = (&mut self.lane, &mut self.sending);
        let stop = self.shared.sessions.stop();
        // Each branch may be dropped when another is taken: what was written or read of a message is
        // kept by the writer and the reader, and the others have no effect before they are ready.
        let came = tokio::select! {
            biased;
            written = writer.flush(), if pending > 0 => {
                written.map_err(Ended::Write)?;
                Came::Room
            }
            () = stop.requested(), if self.stop_by.is_none() => Came::Stop,
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
            // An answer is not asked to go on while there is no room for it.
            Some(answered) = self.reads.next(), if room => Came::Answered(answered),
            changed = self.resized.changed(), if room => match changed {
                Ok(()) => Came::Resized,
                Err(_) => return Err(Ended::NotServing("it is closed".to_owned())),
            },
            said = sending.next(), if sending_goes_on => Came::Blob(said),
            frame = reader.next_frame(), if may_take => match frame? {
                Some(frame) => Came::Frame(frame),
                None => return Err(Ended::ClientLeft),
            },
        };
        self.note_progress(pending);
        match came {
            Came::Room => Ok(()),
            Came::Stop => {
                self.stop_by = Some(Instant::now() + self.shared.options.stop_grace);
                Ok(())
            }
            Came::Deadline => self.too_late(),
            Came::Committed(committed) => Ok(self.outbox.came(committed)?),
            Came::Lane(event) => self.lane_event(event),
            Came::Answered((about, answered)) => self.answered(about, answered),
            Came::Resized => {
                self.outbox.size();
                Ok(())
            }
            Came::Blob(said) => self.say(said),
            Came::Frame(frame) => self.take(reader, frame),
        }
    }

    /// Whether another call of the client may be taken now.
    fn may_take(&self) -> bool {
        let options = &self.shared.options;
        self.outbox.pending() < options.outbox_bytes
            && self.reads.len() + self.sending.len() < options.calls_in_flight
            && self.lane.queued_bytes() < options.transaction_bytes
    }

    /// Takes a message of the client.
    fn take<R>(&mut self, reader: &Reader<R>, frame: Bytes) -> Result<(), Ended> {
        match reader.dialect().decode_from_client(frame)? {
            FromClient::Heartbeat => Ok(()),
            FromClient::Request(request) => self.call(request),
        }
    }

    /// `loadBefore`.
    pub(super) fn load(&mut self, about: About, oid: Oid, before: Tid) -> Result<(), Ended> {
        self.loads += 1;
        self.try_load(about, oid, before, 0)
    }

    /// Asks for a revision, and takes the answer if it is there at once.
    fn try_load(&mut self, about: About, oid: Oid, before: Tid, tries: u32) -> Result<(), Ended> {
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
        match self.outbox.loaded(&about.id, done.oid, loaded.as_ref())? {
            Sent::Yes => Ok(()),
            Sent::AskAgain if done.tries < LOAD_TRIES => {
                self.try_load(about, done.oid, done.before, done.tries + 1)
            }
            Sent::AskAgain => {
                let error = "the storage answers as of a transaction long past".to_owned();
                let done = Done::Reply(Reply::Error(WireError::Storage(error)));
                self.done(about, done)
            }
        }
    }

    /// Begins a call that reads, and takes the answer if it is there at once.
    pub(super) fn read(
        &mut self,
        about: About,
        mut future: BoxFuture<'a, Done>,
    ) -> Result<(), Ended> {
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
            Done::Blob(key, Ok(blob)) => {
                let start = self.sending.loaded(about, key, blob);
                self.outbox.push(&start);
                return Ok(());
            }
            Done::Blob(key, Err(failed)) => {
                self.sending.failed(key);
                return self.done(about, reads::error(failed));
            }
            Done::Packed => {
                // Who has waited hears of the size first, as from Python's server.
                if self.resized.has_changed().unwrap_or(false) {
                    self.resized.mark_unchanged();
                    self.outbox.size();
                }
                Reply::None
            }
            Done::HangUp(ended) => return Err(ended),
        };
        self.answer(&about, &reply)
    }

    fn answer(&mut self, about: &About, reply: &Reply) -> Result<(), Ended> {
        match reply {
            Reply::Error(error) => {
                self.refuse(&about.id, about.one_way, about.method, error.clone())
            }
            reply => self.reply(&about.id, about.one_way, reply),
        }
    }

    /// Asks the storage for the blobs whose turn it is.
    fn load_blobs(&mut self) -> Result<(), Ended> {
        while let Some((about, key)) = self.sending.next_to_load() {
            let future = reads::load_blob(&*self.served.storage, key);
            self.read(about, future)?;
        }
        Ok(())
    }

    /// Says a piece of a blob.
    fn say(&mut self, said: Said) -> Result<(), Ended> {
        for push in &said.pushes {
            self.outbox.push(push);
        }
        match said.reply {
            Some((about, reply)) => self.answer(&about, &reply),
            None => Ok(()),
        }
    }

    pub(super) fn reply(
        &mut self,
        id: &MessageId,
        one_way: bool,
        reply: &Reply,
    ) -> Result<(), Ended> {
        if !one_way {
            self.outbox.reply(id, reply)?;
        }
        Ok(())
    }

    /// Answers with an error; the failure of a one-way call ends the session.
    pub(super) fn refuse(
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
            LaneEvent::Room => Ok(()),
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
                    Done::Iterator(_) | Done::IteratorEnded(..) | Done::Blob(..) | Done::Packed => {
                        Ok(())
                    }
                }
            }
            LaneEvent::HangUp(ended) => Err(ended),
        }
    }

    /// When the client will have taken too long.
    fn deadline(&self) -> Option<Instant> {
        let options = &self.shared.options;
        let transaction = self
            .lane
            .client_since()
            .map(|since| since + options.transaction_timeout);
        let reading = self.stalled.map(|since| since + options.write_timeout);
        [transaction, reading, self.stop_by]
            .into_iter()
            .flatten()
            .min()
    }

    fn too_late(&self) -> Result<(), Ended> {
        if self.stop_by.is_some_and(|by| by <= Instant::now()) {
            return Err(Ended::Stopping);
        }
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
    /// The server is asked to stop.
    Stop,
    Deadline,
    Committed(Committed),
    Lane(LaneEvent),
    Answered(<Read<'a> as Future>::Output),
    /// The client is to be told how much the storage holds.
    Resized,
    Blob(Said),
    Frame(Bytes),
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
