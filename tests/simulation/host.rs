//! Machines, what runs on them, and how it dies.
//!
//! Everything runs in one thread on one runtime whose clock is paused: when nobody can go on, time jumps
//! to the next timer. Which process a task belongs to is known while it is polled or dropped; a task
//! belongs to the process that started it. What is woken at the same moment goes on in an order that the
//! seed chooses: tokio's own depends on chance that cannot be seeded (`tokio::sync::watch`). A process that dies does nothing any more: its tasks are
//! dropped, and what they do while they are dropped (sending, writing, starting tasks) has no effect. One that is
//! stopped (SIGSTOP) does nothing for a while: its timers pass, and what is sent to it waits.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;

use super::drive::Drive;
use super::trace;

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
#[derive(Debug)]
pub(crate) struct Machine {
    pub(super) name: String,
    /// How far its clock is from the true time, in milliseconds.
    pub(super) clock_ms: AtomicI64,
    /// Where everything is that has no other disk.
    pub(super) drive: Arc<Drive>,
    /// Folders with a disk of their own.
    mounted: Vec<(PathBuf, Arc<Drive>)>,
}

impl Machine {
    pub(super) fn new(name: &str) -> Arc<Machine> {
        Machine::with_disks(name, Vec::new())
    }

    /// With a disk for each of these folders, by name.
    pub(super) fn with_disks(name: &str, folders: Vec<(String, PathBuf)>) -> Arc<Machine> {
        let mounted = folders.into_iter().map(|(of, folder)| {
            let drive = Drive::new(format!("{name}/{of}"));
            (folder, drive)
        });
        Arc::new(Machine {
            name: name.to_owned(),
            clock_ms: AtomicI64::new(0),
            drive: Drive::new(name.to_owned()),
            mounted: mounted.collect(),
        })
    }

    /// The disk that a file is on.
    pub(crate) fn drive_of(&self, path: &Path) -> Arc<Drive> {
        let mut mounted = self.mounted.iter();
        let found = mounted.find(|(folder, _)| path.starts_with(folder));
        Arc::clone(found.map_or(&self.drive, |(_, drive)| drive))
    }

    pub(super) fn drives(&self) -> impl Iterator<Item = &Arc<Drive>> {
        let mounted = self.mounted.iter().map(|(_, drive)| drive);
        std::iter::once(&self.drive).chain(mounted)
    }

    /// The power goes. Gives how many writes were lost.
    pub(super) fn lose_power(&self) -> usize {
        self.drives().map(|drive| drive.lose_power()).sum()
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
    /// Who would go on, while it is stopped.
    stopped: Mutex<Option<BTreeMap<u64, Waker>>>,
    tasks: Mutex<Vec<AbortHandle>>,
    running: AtomicUsize,
}

impl Life {
    pub(super) fn begin(machine: &Arc<Machine>) -> Arc<Life> {
        Arc::new(Life {
            machine: Arc::clone(machine),
            dead: AtomicBool::new(false),
            stopped: Mutex::new(None),
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

    /// From now on it does nothing, until it goes on. What others send to it waits.
    pub(super) fn stop(&self) {
        self.stopped.lock().get_or_insert_default();
    }

    pub(super) fn go_on(&self) {
        let waiting = self.stopped.lock().take().unwrap_or_default();
        for waker in waiting.into_values() {
            waker.wake();
        }
    }

    /// Whether a task has to wait until it goes on.
    fn holds_back(&self, task: u64, waker: &Waker) -> bool {
        let mut stopped = self.stopped.lock();
        if let Some(waiting) = &mut *stopped {
            waiting.insert(task, waker.clone());
        }
        stopped.is_some()
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
        if life.holds_back(number, context.waker()) {
            return Poll::Pending;
        }
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
    life().machine.drive.short_pause().await;
}

/// As long as the machine's own disk takes.
pub(crate) async fn sync_pause() {
    life().machine.drive.sync_pause().await;
}
