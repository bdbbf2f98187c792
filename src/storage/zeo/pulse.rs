//! Whether the other end is alive: what flows, and a question now and then.
//!
//! A server that was stopped, or a link that is half open, says nothing and closes nothing. So when
//! nothing has come for a while, a call is made that every server answers at once and that changes
//! nothing, `lastTransaction`. (`ping` would do, but releases before 6 hang up at a method that they do
//! not know, and a server that hangs up inside of a transaction keeps its commit lock for ever.) When
//! nothing at all has come since it was asked for as long as a call may take, the connection is dead.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

use super::link::Link;
use crate::storage::Fault;
use crate::wire::{Call, Expected};

/// When something flowed. `Clone` shares it.
#[derive(Clone)]
pub(super) struct Traffic(Arc<Times>);

struct Times {
    /// What the others count from, in milliseconds.
    start: Instant,
    read: AtomicU64,
    framed: AtomicU64,
    written: AtomicU64,
}

impl Traffic {
    pub(super) fn new() -> Self {
        Traffic(Arc::new(Times {
            start: Instant::now(),
            read: AtomicU64::new(0),
            framed: AtomicU64::new(0),
            written: AtomicU64::new(0),
        }))
    }

    /// A whole frame came.
    pub(super) fn frame(&self) {
        self.stamp(&self.0.framed);
    }

    /// Bytes were taken by the system.
    pub(super) fn wrote(&self) {
        self.stamp(&self.0.written);
    }

    /// When bytes came last.
    pub(super) fn last_read(&self) -> Instant {
        self.at(&self.0.read)
    }

    /// When a message that is under way moved last: one that is not whole yet, or, where calls are
    /// queued, one that was being sent.
    pub(super) fn last_progress(&self, unsent: bool) -> Instant {
        let (read, framed) = (self.at(&self.0.read), self.at(&self.0.framed));
        let mut last = self.0.start;
        if read > framed {
            last = read;
        }
        if unsent {
            last = last.max(self.at(&self.0.written));
        }
        last
    }

    fn stamp(&self, which: &AtomicU64) {
        let millis = u64::try_from(self.0.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        which.store(millis, Ordering::Relaxed);
    }

    fn now(&self) -> Instant {
        let millis = u64::try_from(self.0.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.start + Duration::from_millis(millis)
    }

    fn at(&self, which: &AtomicU64) -> Instant {
        self.0.start + Duration::from_millis(which.load(Ordering::Relaxed))
    }
}

/// Stamps what comes.
pub(super) struct Noting<R> {
    pub(super) io: R,
    pub(super) traffic: Traffic,
}

impl<R: AsyncRead + Unpin> AsyncRead for Noting<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_read(context, into);
        if polled.is_ready() {
            self.traffic.stamp(&self.traffic.0.read);
        }
        polled
    }
}

/// How long what may last.
pub(super) struct Rhythm {
    pub(super) heartbeat: Duration,
    /// How long a call may take.
    pub(super) patience: Duration,
    /// After how long without a call the connection ends, where it does.
    pub(super) idle: Option<Duration>,
}

/// Asks when nothing has come for long, and ends the connection when nothing comes then; also when it
/// was not used for long, where it is one of those that are opened again when they are wanted: the
/// server tells each connection of every commit.
pub(super) async fn watch(link: Arc<Link>, rhythm: Rhythm) {
    let Rhythm {
        heartbeat,
        patience,
        idle,
    } = rhythm;
    let stop = link.stop().clone();
    let busy = heartbeat.min(patience / 4);
    let mut asked: Option<Instant> = None;
    let (mut beats, mut made, mut used) = (0, 0, Instant::now());
    loop {
        let pause = (busy / 2).max(Duration::from_millis(10));
        // The waiting may be dropped.
        crate::task::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.requested() => return,
        }
        // To the millisecond, like the other times.
        let now = link.traffic.now();
        let read = link.traffic.last_read();
        if let Some(since) = asked {
            if read >= since {
                asked = None;
            } else if now >= link.occupation.deadline(since, patience) {
                link.fail(Fault::Timeout {
                    what: "a heartbeat",
                    after: now.saturating_duration_since(since),
                });
                return;
            }
            continue;
        }
        let waiting = link.is_waiting();
        let calls = link.calls_made() - beats;
        if waiting || calls != made {
            (made, used) = (calls, now);
        } else if idle.is_some_and(|idle| now.saturating_duration_since(used) >= idle) {
            link.fail(Fault::Closed("it was not used for long".to_owned()));
            return;
        }
        let due = if waiting { busy } else { heartbeat };
        if now.saturating_duration_since(read) >= due {
            let Ok(mut flight) = link.flight() else {
                return;
            };
            // Whatever is answered, something has come.
            let said = flight.hand(Call::LastTransaction, Expected::Value, Box::new(|_| {}));
            if said.is_ok() {
                beats += 1;
                asked = Some(now);
            }
        }
    }
}
