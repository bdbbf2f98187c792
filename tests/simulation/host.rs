//! Machines, what runs on them, and how it dies.
//!
//! Everything runs in one thread on one runtime whose clock is paused: when nobody can go on, time jumps
//! to the next timer. Which process a task belongs to is known while it is polled or dropped; a task
//! belongs to the process that started it. What is woken at the same moment goes on in an order that the
//! seed chooses: tokio's own depends on chance that cannot be seeded (`tokio::sync::watch`). A process that dies does nothing any more: its tasks are
//! dropped, and what they do while they are dropped (sending, writing, starting tasks) has no effect.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;

use super::trace;
use crate::storage::file::Unsynced;

thread_local! {
    static BEGIN: Cell<Option<Instant>> = const { Cell::new(None) };
    static TURNS: RefCell<Turns> = RefCell::default();
    static NUMBER: Cell<u64> = const { Cell::new(0) };
    static LIFE: RefCell<Option<Arc<Life>>> = const { RefCell::new(None) };
}

/// Whether this thread simulates.
pub(crate) fn is_on() -> bool {
    BEGIN.get().is_some()
}

/// From now on this thread simulates, until that is dropped.
pub(super) struct On;

impl On {
    pub(super) fn begin() -> On {
        BEGIN.set(Some(Instant::now()));
        NUMBER.set(0);
        TURNS.take();
        On
    }
}

impl Drop for On {
    fn drop(&mut self) {
        BEGIN.set(None);
        LIFE.set(None);
    }
}

/// A number for what must be told from all others of its kind: the same in every run of a seed.
pub(crate) fn next_number() -> Option<u64> {
    BEGIN.get()?;
    let next = NUMBER.get() + 1;
    NUMBER.set(next);
    Some(next)
}

/// How long the simulation has run.
pub(super) fn elapsed() -> Duration {
    BEGIN.get().map_or(Duration::ZERO, |begin| begin.elapsed())
}

/// The time by the clock of the machine that asks.
pub(crate) fn now() -> Option<Timestamp> {
    let elapsed = BEGIN.get()?.elapsed();
    let offset = LIFE.with_borrow(|life| {
        let life = life.as_ref();
        life.map_or(0, |life| life.machine.clock_ms.load(Ordering::SeqCst))
    });
    // Some day, at noon.
    let epoch = Timestamp::from_second(1_790_000_000).expect("it is a time");
    Some(epoch + elapsed + SignedDuration::from_millis(offset))
}

/// A computer: what survives the death of a process.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    pub(super) name: String,
    /// How far its clock is from the true time, in milliseconds.
    pub(super) clock_ms: AtomicI64,
    /// How much slower its disk is than usual.
    pub(super) disk_slowness: AtomicU32,
    pub(super) disk_full: AtomicBool,
    /// The next syncs fail.
    pub(super) sync_fails: AtomicBool,
    /// By inode, in the order in which they were opened: inodes are others in every run.
    unsynced: Mutex<Vec<(u64, Arc<Unsynced>)>>,
}

impl Machine {
    pub(super) fn new(name: &str) -> Arc<Machine> {
        Arc::new(Machine {
            name: name.to_owned(),
            disk_slowness: AtomicU32::new(1),
            ..Machine::default()
        })
    }

    /// What is not durable of a file: it outlives who has the file open.
    pub(crate) fn unsynced_of(&self, inode: u64, make: impl FnOnce() -> Unsynced) -> Arc<Unsynced> {
        let mut unsynced = self.unsynced.lock();
        unsynced
            .retain(|(key, one)| *key == inode || !one.is_empty() || Arc::strong_count(one) > 1);
        if let Some((_, found)) = unsynced.iter().find(|(key, _)| *key == inode) {
            return Arc::clone(found);
        }
        let made = Arc::new(make());
        unsynced.push((inode, Arc::clone(&made)));
        made
    }

    /// What of a file is not durable.
    pub(super) fn unsynced(&self, inode: u64) -> Option<Arc<Unsynced>> {
        let unsynced = self.unsynced.lock();
        let found = unsynced.iter().find(|(key, _)| *key == inode);
        found.map(|(_, one)| Arc::clone(one))
    }

    /// The power goes. Gives how many writes were lost.
    pub(super) fn lose_power(&self) -> usize {
        let unsynced = std::mem::take(&mut *self.unsynced.lock());
        let lost = unsynced
            .iter()
            .map(|(_, one)| one.lose().expect("the test's disk works"));
        lost.sum()
    }

    pub(crate) fn has_room(&self) -> io::Result<()> {
        if self.disk_full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    pub(crate) fn sync_works(&self) -> io::Result<()> {
        if self.sync_fails.swap(false, Ordering::SeqCst) {
            return Err(io::Error::other("the disk does not answer"));
        }
        Ok(())
    }

    pub(super) fn mend(&self) {
        self.disk_slowness.store(1, Ordering::SeqCst);
        self.disk_full.store(false, Ordering::SeqCst);
        self.sync_fails.store(false, Ordering::SeqCst);
    }
}

/// Who wants to go on, and who may.
#[derive(Default)]
struct Turns {
    wanted: BTreeMap<u64, Waker>,
    given: BTreeSet<u64>,
    came: Arc<Notify>,
}

/// Gives turns, until it is dropped. Everybody who was woken with the first asks before it goes on.
pub(super) async fn give_turns() {
    let came = TURNS.with_borrow(|turns| Arc::clone(&turns.came));
    loop {
        came.notified().await;
        tokio::task::yield_now().await;
        let wanted = TURNS.with_borrow_mut(|turns| std::mem::take(&mut turns.wanted));
        let mut wanted: Vec<(u64, Waker)> = wanted.into_iter().collect();
        fastrand::shuffle(&mut wanted);
        for (number, waker) in wanted {
            TURNS.with_borrow_mut(|turns| turns.given.insert(number));
            waker.wake();
        }
    }
}

/// One life of a process.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) machine: Arc<Machine>,
    dead: AtomicBool,
    tasks: Mutex<Vec<AbortHandle>>,
    running: AtomicUsize,
}

impl Life {
    pub(super) fn begin(machine: &Arc<Machine>) -> Arc<Life> {
        Arc::new(Life {
            machine: Arc::clone(machine),
            dead: AtomicBool::new(false),
            tasks: Mutex::default(),
            running: AtomicUsize::new(0),
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.machine.name
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// From now on nothing that it does has any effect.
    pub(super) fn die(&self) {
        self.dead.store(true, Ordering::SeqCst);
    }

    /// Drops all its tasks, after it has died.
    pub(super) async fn clear_away(&self) {
        assert!(self.is_dead());
        for _ in 0..1000 {
            let tasks = std::mem::take(&mut *self.tasks.lock());
            for task in tasks {
                task.abort();
            }
            if self.running.load(Ordering::SeqCst) == 0 {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("a task of {} does not end", self.name());
    }

    /// Does something as this process.
    pub(super) fn enter<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> T {
        let _entered = Entered::new(self);
        work()
    }

    /// Runs a task in this process.
    pub(super) fn spawn<F>(self: &Arc<Self>, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.running.fetch_add(1, Ordering::SeqCst);
        let task = OfLife {
            number: next_number().unwrap_or_default(),
            life: Arc::clone(self),
            task: Some(Box::pin(task)),
        };
        #[expect(clippy::disallowed_methods, reason = "its owner is the life")]
        let handle = tokio::spawn(task);
        if self.is_dead() {
            handle.abort();
        } else {
            let mut tasks = self.tasks.lock();
            if tasks.len() > 256 {
                tasks.retain(|task| !task.is_finished());
            }
            tasks.push(handle.abort_handle());
        }
        handle
    }
}

struct Entered(Option<Arc<Life>>);

impl Entered {
    fn new(life: &Arc<Life>) -> Self {
        Entered(LIFE.replace(Some(Arc::clone(life))))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        LIFE.set(self.0.take());
    }
}

/// A task of a process.
struct OfLife<F> {
    number: u64,
    life: Arc<Life>,
    task: Option<Pin<Box<F>>>,
}

impl<F: Future> Future for OfLife<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let life = Arc::clone(&self.life);
        if life.is_dead() {
            return Poll::Pending;
        }
        let number = self.number;
        let has_turn = TURNS.with_borrow_mut(|turns| {
            let given = turns.given.remove(&number);
            if !given {
                turns.wanted.insert(number, context.waker().clone());
                turns.came.notify_one();
            }
            given
        });
        if !has_turn {
            return Poll::Pending;
        }
        let _entered = Entered::new(&life);
        let task = self.task.as_mut().expect("it is there until it is dropped");
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(context)));
        match polled {
            Ok(polled) => polled,
            Err(payload) => {
                let said = payload.downcast_ref::<String>().cloned();
                let said = said.or_else(|| payload.downcast_ref::<&str>().map(|&text| text.into()));
                trace::fail(format!("panic: {}", said.unwrap_or_default()));
                std::panic::resume_unwind(payload)
            }
        }
    }
}

impl<F> Drop for OfLife<F> {
    fn drop(&mut self) {
        TURNS.with_borrow_mut(|turns| {
            turns.wanted.remove(&self.number);
            turns.given.remove(&self.number);
        });
        let _entered = Entered::new(&self.life);
        drop(self.task.take());
        self.life.running.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The process that is running.
pub(crate) fn life() -> Arc<Life> {
    let life = LIFE.with_borrow(Clone::clone);
    life.expect("something runs")
}

pub(crate) fn current() -> Option<Arc<Life>> {
    LIFE.with_borrow(Clone::clone)
}

/// Starts a task of the process that is running.
pub(crate) fn spawn<F>(task: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    life().spawn(task)
}

/// Work that waits for the disk: done at once, a little later.
pub(crate) fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    spawn(async move {
        short_pause().await;
        work()
    })
}

/// Something else may happen first.
pub(crate) async fn short_pause() {
    let slowness = life().machine.disk_slowness.load(Ordering::SeqCst);
    match fastrand::u8(..16) {
        0 | 1 => {
            let most = if fastrand::u8(..8) == 0 { 100 } else { 4 };
            let most = most * u64::from(slowness);
            tokio::time::sleep(Duration::from_millis(fastrand::u64(1..=most))).await;
        }
        2..5 => tokio::task::yield_now().await,
        _ => {}
    }
}

/// As long as a disk takes.
pub(crate) async fn sync_pause() {
    let slowness = life().machine.disk_slowness.load(Ordering::SeqCst);
    let most = 6 * u64::from(slowness);
    tokio::time::sleep(Duration::from_millis(fastrand::u64(1..=most))).await;
}
