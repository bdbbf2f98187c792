//! Tasks with owners.
//!
//! Every task of the daemon belongs to a group, has a name, and is told to stop by its group. A group
//! is ended by [`Tasks::shutdown`], which waits until a deadline and names who did not end. This is
//! the only place that spawns.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Runs what may wait for the disk beside everything else, to its end, whether or not anybody waits for
/// it. Whoever waits learns of a panic.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that gives work to threads of tokio's"
)]
pub fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    #[cfg(test)]
    if crate::simulation::is_on() {
        return crate::simulation::blocking(work);
    }
    tokio::task::spawn_blocking(work)
}

/// `tokio::select!`, of which a simulation takes the first branch that is ready, so that a seed is
/// always the same history.
#[cfg(not(test))]
macro_rules! select {
    ($($branches:tt)*) => { tokio::select! { $($branches)* } };
}

#[cfg(test)]
macro_rules! select {
    ($($branches:tt)*) => {
        if crate::simulation::is_on() {
            tokio::select! { biased; $($branches)* }
        } else {
            tokio::select! { $($branches)* }
        }
    };
}
pub(crate) use select;

/// Told to a task when it must end.
#[derive(Debug, Clone, Default)]
pub struct Stop(CancellationToken);

impl Stop {
    #[must_use]
    pub fn new() -> Self {
        Stop::default()
    }

    /// Waits until the owner says stop. Cancel safe.
    pub async fn requested(&self) {
        self.0.cancelled().await;
    }

    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Says stop, to this task and to those below it.
    pub fn request(&self) {
        self.0.cancel();
    }

    /// A stop that follows this one and can also be requested alone.
    #[must_use]
    pub fn child(&self) -> Stop {
        Stop(self.0.child_token())
    }
}

/// A group of tasks.
#[derive(Debug, Clone)]
pub struct Tasks {
    name: &'static str,
    stop: Stop,
    tracker: TaskTracker,
    running: Arc<Mutex<BTreeMap<u64, String>>>,
    next: Arc<std::sync::atomic::AtomicU64>,
}

/// Names the tasks that did not end in time.
#[derive(Debug, thiserror::Error)]
#[error("of the {group}, these did not end within {waited:?}: {}", .names.join(", "))]
pub struct StillRunning {
    group: &'static str,
    waited: Duration,
    names: Vec<String>,
}

impl Tasks {
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Tasks {
            name,
            stop: Stop::new(),
            tracker: TaskTracker::new(),
            running: Arc::default(),
            next: Arc::default(),
        }
    }

    /// The stop that every task of this group follows.
    #[must_use]
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Starts a task. It must end soon after the group's stop is requested.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where tasks are started"
    )]
    pub fn spawn<F>(&self, name: impl Into<String>, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listed = Listed::new(self, name.into());
        let task = self.tracker.track_future(async move {
            task.await;
            drop(listed);
        });
        #[cfg(test)]
        if crate::simulation::is_on() {
            drop(crate::simulation::spawn(task));
            return;
        }
        drop(tokio::spawn(task));
    }

    /// How many tasks run now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Tells every task to stop and waits for them.
    ///
    /// # Errors
    /// Names those that still run at the deadline; they are left alone.
    pub async fn shutdown(&self, deadline: Duration) -> Result<(), StillRunning> {
        self.stop.request();
        self.tracker.close();
        if tokio::time::timeout(deadline, self.tracker.wait())
            .await
            .is_ok()
        {
            return Ok(());
        }
        let names = self.running.lock().values().cloned().collect();
        Err(StillRunning {
            group: self.name,
            waited: deadline,
            names,
        })
    }
}

/// Keeps a task's name in the group's list while the task lives, also when it panics.
struct Listed {
    running: Arc<Mutex<BTreeMap<u64, String>>>,
    key: u64,
}

impl Listed {
    fn new(tasks: &Tasks, name: String) -> Self {
        let key = tasks
            .next
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        tasks.running.lock().insert(key, name);
        Listed {
            running: Arc::clone(&tasks.running),
            key,
        }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.running.lock().remove(&self.key);
    }
}

/// Growing, jittered delays between tries.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    #[must_use]
    pub fn new(first: Duration, most: Duration) -> Self {
        Backoff {
            first,
            most,
            next: first,
        }
    }

    /// The delay before the next try: doubled each time up to the most, and spread by a quarter so
    /// that many who failed together do not come back together.
    pub fn delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).min(self.most);
        delay.mul_f64(0.75 + fastrand::f64() * 0.5)
    }

    /// Starts again with the first delay, after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn shutdown_waits_for_tasks_and_names_those_that_do_not_end() {
        let tasks = Tasks::new("test tasks");
        let stop = tasks.stop().clone();
        tasks.spawn("obedient", async move { stop.requested().await });
        tasks.spawn("stubborn", std::future::pending());
        let error = tasks
            .shutdown(Duration::from_secs(1))
            .await
            .expect_err("one goes on");
        assert_eq!(
            error.to_string(),
            "of the test tasks, these did not end within 1s: stubborn"
        );
    }

    #[test]
    fn delays_grow_up_to_the_most() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        for expected in [1.0, 2.0, 4.0, 5.0, 5.0] {
            let delay = backoff.delay().as_secs_f64();
            assert!(
                (expected * 0.75..=expected * 1.25).contains(&delay),
                "{delay} for {expected}"
            );
        }
        backoff.reset();
        assert!(backoff.delay() <= Duration::from_millis(1250));
    }
}
