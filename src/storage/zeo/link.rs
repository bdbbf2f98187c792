//! One connection to a ZEO server: calls go out, replies come back, matched by id.
//!
//! Three tasks belong to a connection: one reads frames, one writes what the socket does not take at once,
//! one watches that the other end is alive ([`super::pulse`]). Whoever calls encodes into the queue himself,
//! under a lock that is never held across an await, so that a call is queued when the function returns: the
//! order of the calls is the order of the messages. A short queue he also gives to the socket himself: to
//! wake a task for that takes longer than to write, and often another processor. Where the socket is full,
//! or much is queued, the writer takes over, and has the socket until the queue is empty.
//!
//! Replies and pushes are handled strictly in the order of their frames, by the reader: what a
//! [`Handler`] does at a reply has happened before the next frame is looked at. The commit relies on it.
//!
//! Bounds: at most [`CALLS`] calls are under way (more wait for their turn), and who sends much waits
//! until the queue is short ([`Link::room`]). A peer that does not read stops us from sending, not from
//! noticing it.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

use super::dial::{Dialled, ReadHalf, WriteHalf};
use super::occupation::Occupation;
use super::pulse::{Rhythm, Traffic, watch};
use crate::storage::{Answer, Fault, StorageError};
use crate::task::{Stop, Tasks};
use crate::wire::connection::{ReadError, Reader};
use crate::wire::{
    Call, Dialect, EncodeError, Expected, FromServer, MessageId, Output, Push, RawReply, Reply,
    Request,
};

/// How many calls are under way on one connection at most.
const CALLS: usize = 1024;

/// Who streams waits while more than this is queued, in bytes.
const QUEUE: usize = 1 << 20;

/// What is queued quietly is written without being asked for when there is so much of it, in bytes.
const QUIET: usize = 64 << 10;

/// As much as this is given to the socket by whoever calls, under the lock, in bytes.
const AT_ONCE: usize = 64 << 10;

/// How many pieces one system call is given.
const SLICES: usize = 64;

/// What is done with a reply; called by the reader, or with the fault by which the connection ended.
pub(super) type Handler = Box<dyn FnOnce(Result<Reply, Fault>) + Send>;

/// Who hears what a server says unasked, and how a connection ended.
#[async_trait]
pub(super) trait Listener: Send + Sync + 'static {
    /// The reader waits for it. A fault ends the connection.
    async fn pushed(&self, push: Push) -> Result<(), Fault>;

    /// Called once, after every outstanding call was told.
    fn lost(&self, fault: &Fault);

    /// Why every connection to the server ends, where it is not this one alone.
    fn why(&self) -> Option<Fault>;
}

/// One connection.
pub(super) struct Link {
    out: Mutex<Out>,
    dialect: Dialect,
    listener: Arc<dyn Listener>,
    pub(super) traffic: Traffic,
    pub(super) occupation: Arc<Occupation>,
    /// Something is queued that the writer has to write.
    queued: Notify,
    /// The queue has become short.
    written: Notify,
    calls: Arc<Semaphore>,
    stop: Stop,
    /// How long a call may take.
    patience: Duration,
}

struct Out {
    queue: Output,
    /// With the writer while it writes. INVARIANT: what is in the queue comes after what the writer has.
    io: Option<WriteHalf>,
    /// The socket (TLS has a buffer of its own) has taken all, and has yet to pass it on.
    unflushed: bool,
    /// What the socket said to somebody else than the writer.
    broken: Option<std::io::Error>,
    pending: BTreeMap<i64, Pending>,
    next: i64,
    closed: Option<Fault>,
}

struct Pending {
    expected: Expected,
    handler: Handler,
}

/// Messages that leave together, with nobody else's in between.
pub(super) struct Flight<'a> {
    link: &'a Link,
    out: MutexGuard<'a, Out>,
    /// Little of it is written only with what follows.
    quiet: bool,
}

/// How a connection's tasks are run.
pub(super) struct Manner<'a> {
    pub(super) name: &'a str,
    pub(super) tasks: &'a Tasks,
    /// Ends with this.
    pub(super) stop: &'a Stop,
    pub(super) occupation: &'a Arc<Occupation>,
    pub(super) call_timeout: Duration,
    pub(super) heartbeat: Duration,
    /// After how long without a call it ends; none for one that stays.
    pub(super) idle: Option<Duration>,
}

impl Link {
    /// Takes up a connection on which both sides have chosen an encoding.
    pub(super) fn start(
        dialled: Dialled,
        listener: Arc<dyn Listener>,
        manner: &Manner<'_>,
    ) -> Arc<Self> {
        let Dialled {
            reader,
            writer,
            traffic,
        } = dialled;
        let link = Arc::new(Link {
            out: Mutex::new(Out {
                queue: Output::new(),
                io: Some(writer),
                unflushed: false,
                broken: None,
                pending: BTreeMap::new(),
                next: 1,
                closed: None,
            }),
            dialect: reader.dialect(),
            listener,
            traffic,
            occupation: Arc::clone(manner.occupation),
            queued: Notify::new(),
            written: Notify::new(),
            calls: Arc::new(Semaphore::new(CALLS)),
            stop: manner.stop.child(),
            patience: manner.call_timeout,
        });
        let name = manner.name;
        let tasks = manner.tasks;
        let rhythm = Rhythm {
            heartbeat: manner.heartbeat,
            patience: manner.call_timeout,
            idle: manner.idle,
        };
        tasks.spawn(format!("reader of {name}"), Arc::clone(&link).read(reader));
        tasks.spawn(format!("writer of {name}"), Arc::clone(&link).write());
        tasks.spawn(format!("pulse of {name}"), watch(Arc::clone(&link), rhythm));
        link
    }

    /// How many calls are under way: the less, the sooner the next is answered.
    pub(super) fn load(&self) -> usize {
        CALLS.saturating_sub(self.calls.available_permits())
    }

    /// How many calls were made.
    pub(super) fn calls_made(&self) -> i64 {
        self.out.lock().next
    }

    /// Whether any reply is waited for.
    pub(super) fn is_waiting(&self) -> bool {
        !self.out.lock().pending.is_empty()
    }

    /// Why it has ended; none while it lives.
    pub(super) fn ended(&self) -> Option<Fault> {
        self.out.lock().closed.clone()
    }

    /// Told when it has ended.
    pub(super) fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Begins a flight. Blocks nobody for longer than encoding takes.
    pub(super) fn flight(&self) -> Result<Flight<'_>, Fault> {
        let out = self.out.lock();
        match &out.closed {
            Some(fault) => Err(fault.clone()),
            None => Ok(Flight {
                link: self,
                out,
                quiet: false,
            }),
        }
    }

    /// Begins a flight that may wait for what follows it at once, so that the server gets one packet
    /// and not many. Whoever does something else in between says so ([`Link::hurry`]).
    pub(super) fn quiet_flight(&self) -> Result<Flight<'_>, Fault> {
        let mut flight = self.flight()?;
        flight.quiet = true;
        Ok(flight)
    }

    /// Writes what is queued.
    pub(super) fn hurry(&self) {
        self.send(&mut self.out.lock());
    }

    /// Gives what is queued to the socket, or has the writer do it.
    fn send(&self, out: &mut Out) {
        // The writer looks into the queue again before it lays the socket down.
        if out.io.is_some() && !out.try_write(&self.traffic) {
            self.queued.notify_one();
        }
    }

    /// Asks and waits for the answer, no longer than a call may take. Dropping it drops the answer.
    pub(super) async fn call(&self, call: Call) -> Result<Reply, StorageError> {
        let expected = Expected::of(&call);
        self.call_expecting(call, expected).await
    }

    pub(super) async fn call_expecting(
        &self,
        call: Call,
        expected: Expected,
    ) -> Result<Reply, StorageError> {
        let what = what(&call);
        let answer = self.ask(call, expected).await?;
        Ok(self.within(what, answer).await?)
    }

    /// Asks, and gives where the answer will be.
    pub(super) async fn ask(&self, call: Call, expected: Expected) -> Result<Asked, StorageError> {
        let permit = self.turn().await?;
        let mut flight = self.flight()?;
        flight.ask(call, expected, permit)
    }

    /// Waits for the turn of one more call.
    pub(super) async fn turn(&self) -> Result<OwnedSemaphorePermit, Fault> {
        let mut turn = std::pin::pin!(Arc::clone(&self.calls).acquire_owned());
        let since = Instant::now();
        loop {
            let deadline = self.occupation.deadline(since, self.patience);
            match timeout_at(deadline, &mut turn).await {
                Ok(Ok(permit)) => return Ok(permit),
                Ok(Err(_)) => return Err(self.ended().unwrap_or_else(|| closed("it has ended"))),
                Err(_) if self.occupation.deadline(since, self.patience) > deadline => {}
                Err(_) => {
                    return Err(Fault::Timeout {
                        what: "the calls before this one",
                        after: since.elapsed(),
                    });
                }
            }
        }
    }

    /// Waits for an answer, no longer than a call may take: longer only while bytes of a message flow, or
    /// while the server has something large in hand.
    pub(super) async fn within(
        &self,
        what: &'static str,
        mut answer: Asked,
    ) -> Result<Reply, Fault> {
        let since = Instant::now();
        let mut deadline = since + self.patience;
        loop {
            match timeout_at(deadline, &mut answer).await {
                Ok(Ok(answer)) => return answer,
                Ok(Err(_)) => return Err(self.ended().unwrap_or_else(|| closed("it has ended"))),
                Err(_) => {
                    let unsent = self.out.lock().is_unsent();
                    let flows = self.traffic.last_progress(unsent) + self.patience;
                    let until = flows.max(self.occupation.deadline(since, self.patience));
                    if until <= Instant::now() {
                        let after = self.patience;
                        return Err(Fault::Timeout { what, after });
                    }
                    deadline = until;
                }
            }
        }
    }

    /// Waits until little is queued. Who streams calls it before each piece.
    pub(super) async fn room(&self) -> Result<(), Fault> {
        loop {
            let mut written = std::pin::pin!(self.written.notified());
            written.as_mut().enable();
            {
                let out = self.out.lock();
                if let Some(fault) = &out.closed {
                    return Err(fault.clone());
                }
                if out.queue.pending() < QUEUE {
                    return Ok(());
                }
            }
            written.await;
        }
    }

    /// Ends the connection: every outstanding call fails with this.
    pub(super) fn fail(&self, fault: Fault) {
        let pending = {
            let mut out = self.out.lock();
            if out.closed.is_some() {
                return;
            }
            out.closed = Some(fault.clone());
            out.queue = Output::new();
            std::mem::take(&mut out.pending)
        };
        self.calls.close();
        self.stop.request();
        self.written.notify_waiters();
        for pending in pending.into_values() {
            (pending.handler)(Err(fault.clone()));
        }
        self.listener.lost(&fault);
    }

    async fn read(self: Arc<Self>, mut reader: Reader<ReadHalf>) {
        // The reading may be dropped: the connection has ended then.
        let fault = crate::task::select! {
            fault = self.read_frames(&mut reader) => fault,
            // What is said of the server is said of every call that it does not answer.
            () = self.stop.requested() => {
                self.listener.why().unwrap_or_else(|| closed("it was closed"))
            }
        };
        self.fail(fault);
    }

    async fn read_frames(&self, reader: &mut Reader<ReadHalf>) -> Fault {
        loop {
            let frame = match reader.next_frame().await {
                Ok(Some(frame)) => frame,
                Ok(None) => return closed("by the server"),
                Err(ReadError::Io(error)) => return closed(&format!("by a failure: {error}")),
                Err(ReadError::Truncated) => {
                    return closed("by the server in the middle of a message");
                }
                Err(error @ ReadError::TooLarge(_)) => return Fault::Damaged(error.to_string()),
            };
            self.traffic.frame();
            let said = match self.dialect.decode_from_server(frame) {
                Ok(FromServer::Reply(reply)) => self.replied(reply),
                Ok(FromServer::Push(push)) => self.listener.pushed(push).await,
                Ok(FromServer::Heartbeat) => Ok(()),
                Err(error) => Err(Fault::Damaged(format!("the server said {error}"))),
            };
            if let Err(fault) = said {
                return fault;
            }
        }
    }

    fn replied(&self, reply: RawReply) -> Result<(), Fault> {
        let never_made = || {
            let text = "the server answered a call that was never made";
            Fault::Damaged(text.to_owned())
        };
        let MessageId::Int(id) = reply.id else {
            return Err(never_made());
        };
        let pending = {
            let mut out = self.out.lock();
            match out.pending.remove(&id) {
                Some(pending) => pending,
                // Of a vote that was given up.
                None if (1..out.next).contains(&id) => return Ok(()),
                None => return Err(never_made()),
            }
        };
        match reply.expect(pending.expected) {
            Ok(reply) => {
                (pending.handler)(Ok(reply));
                Ok(())
            }
            Err(error) => {
                let fault = Fault::Damaged(format!("the server said {error}"));
                (pending.handler)(Err(fault.clone()));
                Err(fault)
            }
        }
    }

    async fn write(self: Arc<Self>) {
        let mut io = None;
        // The writing may be dropped: the connection has ended then.
        crate::task::select! {
            error = self.write_queue(&mut io) => {
                self.fail(closed(&format!("by a failure: {error}")));
            }
            () = self.stop.requested() => {}
        }
        let Some(mut io) = io.or_else(|| self.out.lock().io.take()) else {
            return;
        };
        // A courtesy to TLS, which tells an end from a cut; nobody waits for it.
        drop(tokio::time::timeout(Duration::from_secs(1), io.shutdown()).await);
    }

    /// Writes what others could not; `hand` has the socket meanwhile.
    async fn write_queue(&self, hand: &mut Option<WriteHalf>) -> std::io::Error {
        let mut batch = Output::new();
        loop {
            {
                let mut out = self.out.lock();
                if let Some(error) = out.broken.take() {
                    return error;
                }
                std::mem::swap(&mut batch, &mut out.queue);
                let unflushed = std::mem::take(&mut out.unflushed);
                if batch.is_empty() && !unflushed {
                    if hand.is_some() {
                        out.io = hand.take();
                    }
                } else if hand.is_none() {
                    *hand = out.io.take();
                }
            }
            self.written.notify_waiters();
            let Some(io) = hand else {
                // Who queues something after the look into the queue leaves a permit here.
                self.queued.notified().await;
                continue;
            };
            if let Err(error) = write_all(io, &mut batch, &self.traffic).await {
                return error;
            }
        }
    }
}

impl Out {
    /// Whether something was not given to the socket.
    fn is_unsent(&self) -> bool {
        self.io.is_none() || !self.queue.is_empty()
    }

    /// Gives the socket what it takes now. False where something is left to the writer.
    fn try_write(&mut self, traffic: &Traffic) -> bool {
        let Some(io) = &mut self.io else {
            return false;
        };
        if self.queue.pending() > AT_ONCE {
            return false;
        }
        // The writer asks again, and is woken in its turn.
        let mut context = Context::from_waker(Waker::noop());
        let mut io = Pin::new(io);
        while !self.queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let filled = self.queue.slices(&mut slices);
            let polled = io
                .as_mut()
                .poll_write_vectored(&mut context, &slices[..filled]);
            let written = match polled {
                Poll::Ready(Ok(0)) => Err(std::io::ErrorKind::WriteZero.into()),
                Poll::Ready(written) => written,
                Poll::Pending => return false,
            };
            match written {
                Ok(written) => self.queue.advance(written),
                Err(error) => {
                    self.broken = Some(error);
                    return false;
                }
            }
            traffic.wrote();
        }
        match io.poll_flush(&mut context) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(error)) => {
                self.broken = Some(error);
                false
            }
            Poll::Pending => {
                self.unflushed = true;
                false
            }
        }
    }
}

async fn write_all(
    io: &mut (impl AsyncWrite + Unpin),
    batch: &mut Output,
    traffic: &Traffic,
) -> std::io::Result<()> {
    while !batch.is_empty() {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let filled = batch.slices(&mut slices);
        let written = io.write_vectored(&slices[..filled]).await?;
        if written == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        batch.advance(written);
        traffic.wrote();
    }
    io.flush().await
}

/// Where an answer will be.
pub(super) type Asked = oneshot::Receiver<Result<Reply, Fault>>;

impl Flight<'_> {
    /// Queues a call that is not answered.
    pub(super) fn say(&mut self, call: Call) -> Result<(), StorageError> {
        let request = Request {
            id: MessageId::Int(0),
            one_way: true,
            call,
        };
        let encoded = self
            .link
            .dialect
            .encode_request(&request, &mut self.out.queue);
        encoded.map_err(unsayable)
    }

    /// Queues a call; its answer is given to `handler`.
    pub(super) fn hand(
        &mut self,
        call: Call,
        expected: Expected,
        handler: Handler,
    ) -> Result<i64, StorageError> {
        let id = self.out.next;
        let request = Request {
            id: MessageId::Int(id),
            one_way: false,
            call,
        };
        let encoded = self
            .link
            .dialect
            .encode_request(&request, &mut self.out.queue);
        encoded.map_err(unsayable)?;
        self.out.next += 1;
        self.out.pending.insert(id, Pending { expected, handler });
        Ok(id)
    }

    /// Queues a call, and gives where its answer will be. The permit goes when the answer has come.
    pub(super) fn ask(
        &mut self,
        call: Call,
        expected: Expected,
        permit: OwnedSemaphorePermit,
    ) -> Result<Asked, StorageError> {
        let (sender, answer) = oneshot::channel();
        let handler: Handler = Box::new(move |reply| {
            drop(permit);
            // Whoever does not wait any more does not want to know.
            drop(sender.send(reply));
        });
        self.hand(call, expected, handler)?;
        Ok(answer)
    }

    /// The answer to this call will not come: the server forgets it.
    pub(super) fn forget(&mut self, id: i64) {
        self.out.pending.remove(&id);
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        if !self.quiet || self.out.queue.pending() >= QUIET {
            self.link.send(&mut self.out);
        }
    }
}

pub(super) fn closed(how: &str) -> Fault {
    Fault::Closed(how.to_owned())
}

/// A call that cannot be put into words: its content is wrong, and the connection is as it was.
fn unsayable(error: EncodeError) -> StorageError {
    match error {
        EncodeError::Data(error) => Fault::here("reading the data of a record", error).into(),
        EncodeError::Extension(_) | EncodeError::TooLarge(_) => {
            Answer::Invalid(error.to_string()).into()
        }
    }
}

/// A call in words that follow "no answer to".
fn what(call: &Call) -> &'static str {
    match call {
        Call::Register { .. } => "`register`",
        Call::GetInfo => "`get_info`",
        Call::LastTransaction => "`lastTransaction`",
        Call::GetInvalidations { .. } => "`getInvalidations`",
        Call::LoadBefore { .. } => "`loadBefore`",
        Call::LoadSerial { .. } => "`loadSerial`",
        Call::GetTid { .. } => "`getTid`",
        Call::NewOids { .. } => "`new_oids`",
        Call::History { .. } => "`history`",
        Call::RecordIternext { .. } => "`record_iternext`",
        Call::IteratorStart { .. } => "`iterator_start`",
        Call::UndoLog { .. } | Call::UndoInfo { .. } => "`undoInfo`",
        Call::SendBlob { .. } => "`sendBlob`",
        _ => "a call",
    }
}
