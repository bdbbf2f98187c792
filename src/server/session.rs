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
//! are in flight; it is closed when that lasts too long. What it holds in memory is counted with that of all
//! others ([`Holding`](super::memory::Holding)). An answer to a load that comes when there is no room for it is
//! let go of, and asked for again, so that what a client asks for and does not read is nowhere. So it is with other
//! answers that may be large; of those calls one at a time is asked, as by Python's server.

use std::collections::VecDeque;
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
use super::limits::{self, Limit, Passed};
use super::memory::{self, Holding};
use super::outbox::{Outbox, Sent};
use super::reads::{self, About, Answered, Done, Large, Load, LoadDone, Read, Work};
use super::sending::{Said, Sending};
use super::start::{Served, Serving, Shared};
use super::tls;
use super::welcome::{self, Registered};
use crate::storage::Committed;
use crate::wire::connection::{Next, ReadError, Reader, Writer};
use crate::wire::frame::{self, FrameTooLarge};
use crate::wire::handshake::HandshakeError;
use crate::wire::{Call, FromClient, MessageId, Reply, WireError};
use crate::zodb::{Oid, Tid};

/// What has collected when it is written although more calls wait to be taken.
const WRITE_AT: usize = 256 << 10;

/// Where this much waits to be written, no more is read of blobs: the client is not faster.
const BLOBS_UNTIL: usize = 1 << 20;

/// How many calls of one client whose answers are small are worked on at the same time: what they answer is kept
/// until it is written. The others wait, and take no more than they came in.
const OTHERS: usize = 16;

/// So much is kept of a client's name for itself, and of why it was closed, in bytes.
const LABEL: usize = 200;
const REASON: usize = 1000;

/// How often a load is asked again whose answer was too old.
const LOAD_TRIES: u32 = 10;

/// How long a client that is being closed may take to read what waits for it.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Serves one connection until it ends.
pub(super) async fn run<R, W>(read: R, write: W, peer: String, since: Instant, shared: Arc<Shared>)
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
        started = welcome::start(&mut reader, writer, &peer, since, &shared) => started,
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
    } else if let Ended::Limit(passed) = &ended {
        shared.tell_passed(&peer, &label, passed);
    } else if let Some(kind) = ended.stranger() {
        shared.tell_stranger(&peer, kind, &ended.to_string());
    } else if let Some(kind) = ended.remarkable() {
        // Words of the client's may be in it.
        let reason = shortened(ended.to_string(), REASON);
        shared.tell_deed(&peer, kind, |unsaid| {
            warn!(%peer, %label, %reason, unsaid, "client disconnected by the server");
        });
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
    /// Loads that are under way, and what is asked for again when there is room.
    loads_asked: FuturesUnordered<Read<'a>>,
    again: VecDeque<Again>,
    /// The call under way whose answer may be large, one at most, and those that have not begun.
    large: FuturesUnordered<Read<'a>>,
    large_waiting: VecDeque<(About, Large<'a>)>,
    /// Other calls that are under way, and those that have not begun.
    others: FuturesUnordered<Read<'a>>,
    waiting: VecDeque<(About, BoxFuture<'a, Done>)>,
    holding: Holding,
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
                shared,
                peer: peer.to_owned(),
                storage,
                stats: Arc::clone(&served.stats),
                serving: served.serving.clone(),
                read_only,
                uploads,
                shared_blobs: served.shared_blobs.as_ref(),
                contender: served.contention.contender(),
            }),
            loads_asked: FuturesUnordered::new(),
            again: VecDeque::new(),
            large: FuturesUnordered::new(),
            large_waiting: VecDeque::new(),
            others: FuturesUnordered::new(),
            waiting: VecDeque::new(),
            holding: shared.memory.holding(),
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
        self.holding.leave();
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
            let taken = match reader.buffered() {
                Ok(None) => break,
                taken => taken,
            };
            self.taken(reader, taken)?;
        }
        // What was written meanwhile is room.
        self.note_held(reader);
        let waits = self.ask_again()?;
        self.begin_others()?;
        self.load_blobs()?;
        self.go_on_with_transaction()?;
        self.count_loads();
        if self.stop_by.is_some() && !self.lane.is_in_transaction() {
            return Err(Ended::Stopping);
        }

        self.note_held(reader);
        let again = self.again.front();
        let waits = waits || again.is_some_and(|again| !self.holding.has_room_for(again.size));
        self.holding.wait(waits);
        if let Some(passed) = self.holding.look() {
            return Err(passed.into());
        }
        let may_take = self.may_take();
        let room = self.has_room();
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
            Some(answered) = self.loads_asked.next() => Came::Answered(answered),
            Some(answered) = self.large.next() => Came::Answered(answered),
            // Such an answer is not asked to go on while there is no room for it.
            Some(answered) = self.others.next(), if room => Came::Answered(answered),
            changed = self.resized.changed(), if room => match changed {
                Ok(()) => Came::Resized,
                Err(_) => return Err(Ended::NotServing("it is closed".to_owned())),
            },
            said = sending.next(), if sending_goes_on => Came::Blob(said),
            next = reader.next(memory::OWN), if may_take => match next {
                Ok(Next::Frame(frame)) => Came::Frame(Ok(Some(frame))),
                // What has come is counted at the next turn.
                Ok(Next::Part) => Came::Room,
                Ok(Next::End) => return Err(Ended::ClientLeft),
                Err(error) => Came::Frame(Err(error)),
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
            Came::Frame(taken) => self.taken(reader, taken),
        }
    }

    /// Whether another call of the client may be taken now.
    fn may_take(&self) -> bool {
        let options = &self.shared.options;
        let calls = self.loads_asked.len()
            + self.large.len()
            + self.large_waiting.len()
            + self.others.len()
            + self.waiting.len();
        self.outbox.pending() < options.outbox_bytes
            && calls + self.sending.len() < options.calls_in_flight
            && self.again.is_empty()
            && self.lane.queued_bytes() < options.transaction_bytes
            && !self.holding.is_scarce()
    }

    /// Whether more may be queued for the client. Where memory is scarce because of what it sends, a little
    /// may still.
    fn has_room(&self) -> bool {
        let pending = self.outbox.pending();
        pending < self.shared.options.outbox_bytes
            && (pending < memory::OWN || !self.holding.is_scarce())
    }

    /// Takes a message of the client, or hears that one was too large.
    fn taken<R>(
        &mut self,
        reader: &Reader<R>,
        taken: Result<Option<Bytes>, ReadError>,
    ) -> Result<(), Ended> {
        let frame = match taken {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(()),
            Err(ReadError::TooLarge(frame)) => return self.too_large(&frame),
            Err(error) => return Err(error.into()),
        };
        let size = frame.len();
        match reader.dialect().decode_from_client(frame)? {
            FromClient::Heartbeat => Ok(()),
            FromClient::Request(request) => self.call(request, size),
        }
    }

    /// A message beyond the limit was passed over. Where it belonged to a transaction, its vote says so.
    fn too_large(&mut self, frame: &FrameTooLarge) -> Result<(), Ended> {
        let what = format!(
            "a message of {} bytes is larger than {}",
            frame.announced,
            limits::size(frame.limit as u64)
        );
        let passed = Passed::new(Limit::Frame, what);
        let Some(method) = method_of_transaction(&frame.head) else {
            return Err(passed.into());
        };
        self.shared.tell_passed(&self.peer, self.name(), &passed);
        let error = WireError::Storage(passed.to_string());
        self.lane.refuse(method, error);
        Ok(())
    }

    /// Says that a limit was passed, to the log and to the client.
    fn passed(&self, passed: &Passed) -> Reply {
        self.shared.tell_passed(&self.peer, self.name(), passed);
        Reply::Error(WireError::Storage(passed.to_string()))
    }

    fn name(&self) -> &str {
        self.label.as_deref().unwrap_or_default()
    }

    /// Notes what is held in memory for the client.
    fn note_held<R>(&mut self, reader: &Reader<R>) {
        let held = reader.held() + self.lane.queued_bytes() + self.outbox.pending();
        self.holding.set(held);
    }

    /// Asks again for what there was no room for, one after the other. Whether it has stopped for others, who tell
    /// nobody when there is room: it must look again then, whatever there is a moment later.
    fn ask_again(&mut self) -> Result<bool, Ended> {
        while self.loads_asked.is_empty()
            && self.large.is_empty()
            && let Some(again) = self.again.front()
        {
            if !self.fits(again.size) {
                return Ok(!self.holding.has_room_for(again.size) || self.outbox.pending() == 0);
            }
            let Some(again) = self.again.pop_front() else {
                break;
            };
            match again.what {
                What::Load { oid, before } => self.try_load(again.about, oid, before, 0)?,
                What::Large(call) => {
                    let future = self.large(call.clone());
                    self.begin_large(again.about, Large::new(call, future))?;
                }
            }
        }
        Ok(false)
    }

    /// Begins the calls whose turn it is.
    fn begin_others(&mut self) -> Result<(), Ended> {
        while self.has_room()
            && self.large.is_empty()
            && self.again.is_empty()
            && let Some((about, large)) = self.large_waiting.pop_front()
        {
            self.begin_large(about, large)?;
        }
        while self.has_room() && self.others.len() < OTHERS {
            let Some((about, future)) = self.waiting.pop_front() else {
                break;
            };
            self.begin(about, future)?;
        }
        Ok(())
    }

    pub(super) fn set_label(&mut self, label: String) {
        self.label = Some(shortened(label, LABEL));
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
                self.loads_asked.push(Read {
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
        let size = loaded.as_ref().map_or(0, |loaded| loaded.data.len());
        if !self.fits(size) {
            let what = What::Load {
                oid: done.oid,
                before: done.before,
            };
            self.again.push_back(Again { about, what, size });
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

    /// Whether an answer of this size can be queued now: beside what waits already, and beside what others
    /// have. Where nothing waits, one may be larger than what may wait otherwise.
    fn fits(&self, size: usize) -> bool {
        let (pending, most) = (self.outbox.pending(), self.shared.options.outbox_bytes);
        if size <= memory::OWN {
            return pending == 0 || pending + size <= 2 * most;
        }
        (pending == 0 || pending + size <= most) && self.holding.has_room_for(size)
    }

    /// Begins a call that reads, when it is its turn.
    pub(super) fn read(&mut self, about: About, future: BoxFuture<'a, Done>) -> Result<(), Ended> {
        if self.others.len() >= OTHERS || !self.waiting.is_empty() {
            self.waiting.push_back((about, future));
            return Ok(());
        }
        self.begin(about, future)
    }

    /// Begins a call that reads, and takes the answer if it is there at once.
    fn begin(&mut self, about: About, mut future: BoxFuture<'a, Done>) -> Result<(), Ended> {
        match future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Ready(done) => self.done(about, done),
            Poll::Pending => {
                self.others.push(Read {
                    about: Some(about),
                    work: Work::Other(future),
                });
                Ok(())
            }
        }
    }

    /// Begins a call whose answer may be large, when it is its turn.
    pub(super) fn read_large(
        &mut self,
        about: About,
        call: Call,
        future: BoxFuture<'a, Done>,
    ) -> Result<(), Ended> {
        self.large_waiting
            .push_back((about, Large::new(call, future)));
        self.begin_others()
    }

    /// Asks again for an answer that may be large.
    fn large(&self, call: Call) -> BoxFuture<'a, Done> {
        match call {
            Call::IteratorNext { iterator } => self.iterators.transaction(iterator),
            Call::IteratorRecordStart { iterator, tid } => {
                self.iterators.start_records(iterator, tid)
            }
            Call::IteratorRecordNext { iterator } => self.iterators.record(iterator),
            call => reads::ask(self.shared, self.served, call),
        }
    }

    fn begin_large(&mut self, about: About, mut large: Large<'a>) -> Result<(), Ended> {
        match large.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready((call, done)) => self.large_done(about, call, done),
            Poll::Pending => {
                self.large.push(Read {
                    about: Some(about),
                    work: Work::Large(large),
                });
                Ok(())
            }
        }
    }

    /// Takes an answer where there is room for it; else lets go of it, and remembers to ask again.
    fn large_done(&mut self, about: About, call: Call, done: Done) -> Result<(), Ended> {
        let size = match &done {
            Done::Reply(reply) if !about.one_way => reply.size(),
            _ => 0,
        };
        // What is small is sent in any case: it is one answer, and of an iterator it cannot be had again.
        if size <= memory::OWN || self.fits(size) {
            return self.done(about, done);
        }
        if let Call::IteratorRecordNext { iterator } = call {
            self.iterators.step_back(iterator);
        }
        let what = What::Large(call);
        self.again.push_back(Again { about, what, size });
        Ok(())
    }

    fn answered(&mut self, about: About, answered: Answered) -> Result<(), Ended> {
        match answered {
            Answered::Load(done) => self.loaded(about, done),
            Answered::Other(done) => self.done(about, done),
            Answered::Large(call, done) => self.large_done(about, call, done),
        }
    }

    fn done(&mut self, about: About, done: Done) -> Result<(), Ended> {
        let reply = match done {
            Done::Reply(reply) => reply,
            Done::Iterator(made) => match self.iterators.add(made) {
                Ok(reply) => reply,
                Err(passed) => self.passed(&passed),
            },
            Done::Passed(passed) => self.passed(&passed),
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
                    Done::Iterator(_)
                    | Done::IteratorEnded(..)
                    | Done::Blob(..)
                    | Done::Passed(_)
                    | Done::Packed => Ok(()),
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
        [
            transaction,
            reading,
            self.stop_by,
            self.holding.look_again(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// What the client has taken too long for. Where it is only time to look at the memory again, the next turn
    /// does.
    fn too_late(&self) -> Result<(), Ended> {
        if self.stop_by.is_some_and(|by| by <= Instant::now()) {
            return Err(Ended::Stopping);
        }
        let options = &self.shared.options;
        let is_over =
            |since: Option<Instant>, after| since.is_some_and(|since| since.elapsed() >= after);
        if is_over(self.stalled, options.write_timeout) {
            let after = options.write_timeout.as_secs_f64();
            let what = format!("the client did not read what waits for it within {after} s");
            return Err(Passed::new(Limit::UnreadTimeout, what).into());
        }
        if is_over(self.lane.client_since(), options.transaction_timeout) {
            return Err(Ended::TooSlow {
                what: "finish the transaction it had voted for",
                after: options.transaction_timeout,
            });
        }
        Ok(())
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

/// What is asked for again, because there was no room for its answer.
struct Again {
    about: About,
    what: What,
    /// Of the answer, in bytes.
    size: usize,
}

enum What {
    Load { oid: Oid, before: Tid },
    Large(Call),
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
    Frame(Result<Option<Bytes>, ReadError>),
}

/// The methods of a transaction whose messages can be large.
const LARGE: [&str; 5] = [
    "restorea",
    "storea",
    "storeBlobChunk",
    "storeBlobEnd",
    "storeBlobShared",
];

fn method_of_transaction(head: &[u8]) -> Option<&'static str> {
    let says = |method: &&str| {
        head.windows(method.len())
            .any(|part| part == method.as_bytes())
    };
    LARGE.into_iter().find(says)
}

/// Whether a message is of a transaction, by its beginning; none where that does not say yet.
pub(super) fn is_of_transaction(head: &[u8]) -> Option<bool> {
    match head.first() {
        None => None,
        // A pickle of protocol 2 or later, or a tuple of four in msgpack.
        Some(0x80 | 0x94) => match method_of_transaction(head) {
            Some(_) => Some(true),
            None if head.len() < frame::HEAD => None,
            None => Some(false),
        },
        Some(_) => Some(false),
    }
}

/// The beginning of a text, at most so many bytes of it. What would forge lines of a log, or move the cursor of who
/// reads it, is escaped.
fn shortened(mut text: String, most: usize) -> String {
    if text.contains(char::is_control) {
        let escaped = |it: char| it.escape_default();
        let written = text.chars().take(most);
        text = written.fold(String::new(), |mut text, it| {
            if it.is_control() {
                text.extend(escaped(it));
            } else {
                text.push(it);
            }
            text
        });
    }
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
        text.push('…');
        text.shrink_to_fit();
    }
    text
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::shortened;

    #[test]
    fn what_a_client_calls_itself_is_one_line_of_a_log() {
        let forged = "x\n2026-11-30 ERROR copy1 was taken out\u{1b}[31m\u{9b}2J";
        assert_eq!(
            shortened(forged.to_owned(), 200),
            "x\\n2026-11-30 ERROR copy1 was taken out\\u{1b}[31m\\u{9b}2J"
        );
        assert_eq!(shortened("caf\u{e9} 1".to_owned(), 200), "caf\u{e9} 1");
        assert_eq!(shortened("\n".repeat(9), 4), "\\n\\n…");
    }
}
