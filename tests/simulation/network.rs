//! A network between simulated hosts: latency, streams that take only so much, and everything that can
//! happen to them.
//!
//! A stream is two pipes. What is written arrives in order, after a while, in pieces of any size; a pipe
//! takes a window's worth and then makes its writer wait. Between two hosts either direction can be
//! *blocked* (what was sent is kept and arrives later, as TCP does it) or slow, and all their streams can
//! be *cut* (both ends are told). A host that loses its power leaves half-open streams: the other end
//! learns of it when the host is up again and it says something, as TCP does it too.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, Sleep};

use super::host::{self, Life};

/// How much may be under way in one direction, in bytes.
const WINDOW: usize = 64 << 10;

type Stream = (ReadHalf, WriteHalf, String);

#[derive(Default)]
struct Network {
    doors: BTreeMap<String, (Weak<Life>, mpsc::Sender<Stream>)>,
    streams: Vec<Weak<Pipes>>,
    /// How many things block a direction.
    blocked: BTreeMap<(String, String), usize>,
    /// What a direction takes in addition, in milliseconds: the most of these.
    slow: BTreeMap<(String, String), Vec<u64>>,
    /// Machines without power.
    dark: BTreeSet<String>,
    changed: Option<Arc<Notify>>,
    next: u64,
}

thread_local! {
    static NETWORK: RefCell<Network> = RefCell::default();
}

pub(super) fn begin() {
    NETWORK.set(Network {
        changed: Some(Arc::default()),
        ..Network::default()
    });
}

/// Two pipes.
struct Pipes {
    /// From the one who called to the other, and back.
    pipes: [Arc<Pipe>; 2],
}

struct Pipe {
    from: Arc<Life>,
    to: Arc<Life>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    under_way: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    /// Nothing arrives before this.
    last: Option<Instant>,
    /// The writer has ended it; it is heard then.
    ended: Option<Instant>,
    reset: bool,
    /// Nobody reads it any more.
    unread: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl State {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()]
            .into_iter()
            .flatten()
        {
            waker.wake();
        }
    }
}

impl Pipe {
    fn new(from: &Arc<Life>, to: &Arc<Life>) -> Arc<Pipe> {
        Arc::new(Pipe {
            from: Arc::clone(from),
            to: Arc::clone(to),
            state: Mutex::default(),
        })
    }

    fn is_blocked(&self) -> bool {
        is_blocked(self.from.name(), self.to.name())
    }

    fn delay(&self) -> Duration {
        delay(self.from.name(), self.to.name())
    }

    fn reset(&self) {
        let mut state = self.state.lock();
        state.reset = true;
        state.under_way.clear();
        state.wake();
    }

    fn end(&self) {
        let delay = self.delay();
        let mut state = self.state.lock();
        let at = state
            .last
            .unwrap_or_else(Instant::now)
            .max(Instant::now() + delay);
        state.ended.get_or_insert(at);
        state.wake();
    }
}

fn is_blocked(from: &str, to: &str) -> bool {
    NETWORK.with_borrow(|network| {
        network
            .blocked
            .contains_key(&(from.to_owned(), to.to_owned()))
            || network.dark.contains(from)
            || network.dark.contains(to)
    })
}

fn delay(from: &str, to: &str) -> Duration {
    let slow = NETWORK.with_borrow(|network| {
        let slow = network.slow.get(&(from.to_owned(), to.to_owned()));
        slow.and_then(|slow| slow.iter().max().copied())
            .unwrap_or(0)
    });
    let jitter = match fastrand::u8(..20) {
        0 => fastrand::u64(1000..20_000),
        1..6 => fastrand::u64(200..2000),
        _ => fastrand::u64(20..200),
    };
    Duration::from_micros(jitter) + Duration::from_millis(slow)
}

/// Where connections to an address arrive.
pub(crate) struct Door(mpsc::Receiver<Stream>);

impl Door {
    /// The next connection: what comes, where to write, and who it is.
    pub(crate) async fn accept(&mut self) -> Stream {
        match self.0.recv().await {
            Some(stream) => stream,
            None => std::future::pending().await,
        }
    }
}

/// Listens at an address.
pub(crate) fn listen(address: &str) -> Door {
    let (sender, receiver) = mpsc::channel(64);
    let life = Arc::downgrade(&host::life());
    NETWORK.with_borrow_mut(|network| {
        network.doors.insert(address.to_owned(), (life, sender));
    });
    Door(receiver)
}

/// Connects to an address, `host:port`.
pub(crate) async fn connect(address: &str) -> io::Result<(ReadHalf, WriteHalf)> {
    let life = host::life();
    let to = address.split(':').next().unwrap_or_default().to_owned();
    let from = life.name().to_owned();
    for (from, to) in [(&from, &to), (&to, &from)] {
        tokio::time::sleep(delay(from, to)).await;
        loop {
            let changed = NETWORK.with_borrow(|network| network.changed.clone());
            let changed = changed.expect("there is a network");
            let mut changed = std::pin::pin!(changed.notified());
            changed.as_mut().enable();
            if !is_blocked(from, to) {
                break;
            }
            changed.await;
        }
    }
    let door = NETWORK.with_borrow(|network| network.doors.get(address).cloned());
    let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
    let (listener, door) = door.ok_or_else(refused)?;
    let listener = listener.upgrade().filter(|life| !life.is_dead());
    let listener = listener.ok_or_else(refused)?;
    let pipes = Arc::new(Pipes {
        pipes: [Pipe::new(&life, &listener), Pipe::new(&listener, &life)],
    });
    let number = NETWORK.with_borrow_mut(|network| {
        network.streams.retain(|stream| stream.strong_count() > 0);
        network.streams.push(Arc::downgrade(&pipes));
        network.next += 1;
        network.next
    });
    let [there, back] = &pipes.pipes;
    let theirs = (
        ReadHalf::new(there, &pipes),
        WriteHalf::new(back, &pipes),
        format!("{from}#{number}"),
    );
    let ours = (ReadHalf::new(back, &pipes), WriteHalf::new(there, &pipes));
    door.try_send(theirs).map_err(|_| refused())?;
    Ok(ours)
}

pub(crate) struct ReadHalf {
    pipe: Arc<Pipe>,
    sleep: Option<Pin<Box<Sleep>>>,
    _pipes: Arc<Pipes>,
}

pub(crate) struct WriteHalf {
    pipe: Arc<Pipe>,
    _pipes: Arc<Pipes>,
}

impl ReadHalf {
    fn new(pipe: &Arc<Pipe>, pipes: &Arc<Pipes>) -> Self {
        ReadHalf {
            pipe: Arc::clone(pipe),
            sleep: None,
            _pipes: Arc::clone(pipes),
        }
    }
}

impl WriteHalf {
    fn new(pipe: &Arc<Pipe>, pipes: &Arc<Pipes>) -> Self {
        WriteHalf {
            pipe: Arc::clone(pipe),
            _pipes: Arc::clone(pipes),
        }
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let blocked = this.pipe.is_blocked();
        let mut state = this.pipe.state.lock();
        loop {
            if state.reset {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            state.reader = Some(context.waker().clone());
            if blocked {
                return Poll::Pending;
            }
            let now = Instant::now();
            let next = state.under_way.front().map(|(at, _)| *at).or(state.ended);
            let Some(at) = next else {
                return Poll::Pending;
            };
            if at > now {
                let mut sleep = Box::pin(tokio::time::sleep_until(at));
                let slept = sleep.as_mut().poll(context);
                this.sleep = Some(sleep);
                if slept.is_pending() {
                    return Poll::Pending;
                }
                continue;
            }
            let Some((_, piece)) = state.under_way.front_mut() else {
                return Poll::Ready(Ok(()));
            };
            let len = piece.len().min(into.remaining());
            into.put_slice(&piece[..len]);
            piece.advance(len);
            if piece.is_empty() {
                state.under_way.pop_front();
            }
            state.bytes -= len;
            if let Some(writer) = state.writer.take() {
                writer.wake();
            }
            return Poll::Ready(Ok(()));
        }
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let delay = self.pipe.delay();
        if self.pipe.from.is_dead() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let mut state = self.pipe.state.lock();
        if state.reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if state.unread || state.ended.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = WINDOW.saturating_sub(state.bytes);
        if room == 0 {
            state.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let len = bytes.len().min(room);
        let mut rest = Bytes::copy_from_slice(&bytes[..len]);
        let mut at = Instant::now() + delay;
        if let Some(last) = state.last {
            at = at.max(last);
        }
        // A packet is not a message.
        if len > 1 && fastrand::u8(..8) == 0 {
            let first = rest.split_to(fastrand::usize(1..len));
            state.under_way.push_back((at, first));
            at += Duration::from_millis(1);
        }
        state.under_way.push_back((at, rest));
        state.last = Some(at);
        state.bytes += len;
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.pipe.from.is_dead() {
            self.pipe.end();
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for WriteHalf {
    fn drop(&mut self) {
        // Of the dead the network takes care.
        if !self.pipe.from.is_dead() && host::is_on() {
            self.pipe.end();
        }
    }
}

impl Drop for ReadHalf {
    fn drop(&mut self) {
        if !self.pipe.to.is_dead() && host::is_on() {
            let mut state = self.pipe.state.lock();
            state.unread = true;
            state.wake();
        }
    }
}

fn streams() -> Vec<Arc<Pipes>> {
    NETWORK.with_borrow(|network| network.streams.iter().filter_map(Weak::upgrade).collect())
}

/// The system closes what a dead process had open.
pub(super) fn close_of_dead() {
    for stream in streams() {
        for pipe in &stream.pipes {
            if pipe.from.is_dead() || pipe.to.is_dead() {
                // What it has sent arrives first, or is lost.
                if pipe.from.is_dead() && fastrand::bool() {
                    pipe.end();
                } else {
                    pipe.reset();
                }
            }
        }
    }
}

/// A machine without power says nothing, and nothing reaches it.
pub(super) fn darken(machine: &str) {
    NETWORK.with_borrow_mut(|network| network.dark.insert(machine.to_owned()));
}

/// It is up again: what others had open to it is answered with a reset.
pub(super) fn light(machine: &str) {
    NETWORK.with_borrow_mut(|network| network.dark.remove(machine));
    close_of_dead();
    wake_all();
}

fn wake_all() {
    for stream in streams() {
        for pipe in &stream.pipes {
            pipe.state.lock().wake();
        }
    }
    let changed = NETWORK.with_borrow(|network| network.changed.clone());
    if let Some(changed) = changed {
        changed.notify_waiters();
    }
}

/// From now on nothing arrives in this direction, until that is ended as often as it was begun.
pub(super) fn block(from: &str, to: &str) {
    NETWORK.with_borrow_mut(|network| {
        let pair = (from.to_owned(), to.to_owned());
        *network.blocked.entry(pair).or_default() += 1;
    });
}

/// Ends a block of this direction; others stay.
pub(super) fn unblock(from: &str, to: &str) {
    NETWORK.with_borrow_mut(|network| {
        let pair = (from.to_owned(), to.to_owned());
        if let Some(count) = network.blocked.get_mut(&pair) {
            *count -= 1;
            if *count == 0 {
                network.blocked.remove(&pair);
            }
        }
    });
    wake_all();
}

pub(super) fn slow(from: &str, to: &str, ms: u64) {
    NETWORK.with_borrow_mut(|network| {
        let pair = (from.to_owned(), to.to_owned());
        network.slow.entry(pair).or_default().push(ms);
    });
}

/// Ends what made this direction slow by so much.
pub(super) fn hasten(from: &str, to: &str, ms: u64) {
    NETWORK.with_borrow_mut(|network| {
        let pair = (from.to_owned(), to.to_owned());
        if let Some(slow) = network.slow.get_mut(&pair)
            && let Some(at) = slow.iter().position(|one| *one == ms)
        {
            slow.remove(at);
        }
    });
}

/// Everything arrives again, as fast as it can.
pub(super) fn heal() {
    NETWORK.with_borrow_mut(|network| {
        network.blocked.clear();
        network.slow.clear();
    });
    wake_all();
}

/// Ends every stream between two hosts; both are told.
pub(super) fn cut(one: &str, other: &str) {
    for stream in streams() {
        let [pipe, _] = &stream.pipes;
        let ends = [pipe.from.name(), pipe.to.name()];
        if ends == [one, other] || ends == [other, one] {
            for pipe in &stream.pipes {
                pipe.reset();
            }
        }
    }
}
