//! Long work: what it says of itself while it runs, how fast it may go, and how it is ended.
//!
//! A job is ordinary async code that is given a [`Work`]: it reports through it, asks it before each
//! piece of work whether it may go on (which waits where a rate limits it), and learns from it that it
//! was cancelled. Whoever started the job keeps the [`JobHandle`].

mod throttle;

use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::task::Stop;
pub use throttle::{Rate, Throttle};

/// How far a job is.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// The phase it is in, a word that the design page names: `analyse`, `copy`, `catch-up`, `verify`.
    pub phase: &'static str,
    pub done: Amount,
    /// What the whole phase is, as far as it is known. It may grow while clients commit.
    pub total: Amount,
    /// Measured over the last seconds.
    pub bytes_per_second: f64,
    pub transactions_per_second: f64,
    /// A sentence on what is being done or waited for, where the numbers do not say it.
    pub note: Option<String>,
    /// The piece that was done last, where pieces have names: a transaction's TID.
    pub reached: Option<String>,
    pub started: Instant,
}

/// An amount of work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    pub transactions: u64,
    pub bytes: u64,
}

impl Progress {
    /// The time that the phase still needs at the present rate.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        let left = self.total.bytes.saturating_sub(self.done.bytes);
        if self.bytes_per_second <= 0.0 {
            return None;
        }
        Duration::try_from_secs_f64(left as f64 / self.bytes_per_second).ok()
    }
}

/// The job was cancelled; whatever it left behind is a state that the next one continues from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cancelled")]
pub struct Cancelled;

/// What a running job has of the outside.
#[derive(Debug)]
pub struct Work {
    progress: watch::Sender<Progress>,
    throttle: Throttle,
    stop: Stop,
    speed: Speed,
}

/// What whoever started a job keeps of it. Clones watch the same job.
#[derive(Debug, Clone)]
pub struct JobHandle {
    progress: watch::Receiver<Progress>,
    throttle: Throttle,
    stop: Stop,
}

impl Work {
    /// A job that ends when `stop` or its handle says so.
    #[must_use]
    pub fn new(phase: &'static str, rate: Rate, stop: &Stop) -> (Work, JobHandle) {
        let (sender, receiver) = watch::channel(Progress::at_start(phase));
        let (throttle, stop) = (Throttle::new(rate), stop.child());
        let handle = JobHandle {
            progress: receiver,
            throttle: throttle.clone(),
            stop: stop.clone(),
        };
        (
            Work {
                progress: sender,
                throttle,
                stop,
                speed: Speed::default(),
            },
            handle,
        )
    }

    /// Begins a phase.
    pub fn begin(&mut self, phase: &'static str, total: Amount) {
        self.speed = Speed::default();
        self.progress.send_replace(Progress {
            total,
            ..Progress::at_start(phase)
        });
    }

    /// Says what the phase as a whole is, when that has changed.
    pub fn set_total(&self, total: Amount) {
        self.progress.send_modify(|progress| progress.total = total);
    }

    /// Says what is being done or waited for.
    pub fn note(&self, note: impl Into<String>) {
        let note = Some(note.into());
        self.progress.send_modify(|progress| progress.note = note);
    }

    /// Names the piece that was done last.
    pub fn reached(&self, piece: impl Into<String>) {
        let piece = Some(piece.into());
        self.progress.send_if_modified(|progress| {
            progress.reached = piece;
            // It is seen with the next change of the numbers.
            false
        });
    }

    /// Waits until the rate allows `amount` more. Cancel safe.
    ///
    /// # Errors
    /// [`Cancelled`], at once, where the job is to end.
    pub async fn allow(&self, amount: Amount) -> Result<(), Cancelled> {
        tokio::select! {
            biased;
            () = self.stop.requested() => Err(Cancelled),
            () = self.throttle.take(amount) => Ok(()),
        }
    }

    /// How fast it may go now.
    #[must_use]
    pub fn rate(&self) -> Rate {
        self.throttle.rate()
    }

    /// Counts what was done.
    pub fn did(&mut self, amount: Amount) {
        let (transactions_per_second, bytes_per_second) =
            self.speed.add(amount, crate::clock::instant());
        self.progress.send_modify(|progress| {
            progress.done.transactions += amount.transactions;
            progress.done.bytes += amount.bytes;
            // What was added meanwhile was not foreseen; it is never more than all.
            let (done, total) = (progress.done, &mut progress.total);
            total.transactions = total.transactions.max(done.transactions);
            total.bytes = total.bytes.max(done.bytes);
            progress.transactions_per_second = transactions_per_second;
            progress.bytes_per_second = bytes_per_second;
        });
    }

    /// Whether the job is to end.
    ///
    /// # Errors
    /// [`Cancelled`] where it is.
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.stop.is_requested() {
            Err(Cancelled)
        } else {
            Ok(())
        }
    }

    /// The stop that ends this job, for what it waits for itself.
    #[must_use]
    pub fn stop(&self) -> &Stop {
        &self.stop
    }
}

impl JobHandle {
    /// How far it is now.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// Waits for a change of the progress; false when the job has ended.
    pub async fn changed(&mut self) -> bool {
        self.progress.changed().await.is_ok()
    }

    /// Changes how fast it may go.
    pub fn set_rate(&self, rate: Rate) {
        self.throttle.set(rate);
    }

    #[must_use]
    pub fn rate(&self) -> Rate {
        self.throttle.rate()
    }

    /// Ends it at its next safe point.
    pub fn cancel(&self) {
        self.stop.request();
    }
}

impl Progress {
    fn at_start(phase: &'static str) -> Self {
        Progress {
            phase,
            done: Amount::default(),
            total: Amount::default(),
            bytes_per_second: 0.0,
            transactions_per_second: 0.0,
            note: None,
            reached: None,
            started: crate::clock::instant(),
        }
    }
}

/// The speed over the last few seconds: what was done after the first piece in the window, by the time
/// since that piece was done. The first piece itself tells nothing: a throttle lets it pass at once, and
/// what it took was before.
#[derive(Debug, Default)]
struct Speed {
    window: std::collections::VecDeque<(Instant, Amount)>,
    /// Of what is in the window.
    sum: Amount,
}

impl Speed {
    const WINDOW: Duration = Duration::from_secs(5);
    /// Steps closer together than this are counted as one, so that the window stays small.
    const STEP: Duration = Duration::from_millis(50);

    /// Transactions and bytes per second.
    fn add(&mut self, amount: Amount, now: Instant) -> (f64, f64) {
        self.sum.transactions += amount.transactions;
        self.sum.bytes += amount.bytes;
        match self.window.back_mut() {
            Some((at, last)) if now.duration_since(*at) < Self::STEP => {
                last.transactions += amount.transactions;
                last.bytes += amount.bytes;
            }
            _ => self.window.push_back((now, amount)),
        }
        while self.window.len() > 1
            && now.duration_since(self.window[1].0) > Self::WINDOW
            && let Some((_, old)) = self.window.pop_front()
        {
            self.sum.transactions -= old.transactions;
            self.sum.bytes -= old.bytes;
        }
        let Some((since, first)) = self.window.front() else {
            return (0.0, 0.0);
        };
        let seconds = now.duration_since(*since).as_secs_f64();
        if seconds < Self::STEP.as_secs_f64() {
            return (0.0, 0.0);
        }
        (
            (self.sum.transactions - first.transactions) as f64 / seconds,
            (self.sum.bytes - first.bytes) as f64 / seconds,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: Amount = Amount {
        transactions: 10,
        bytes: 1000,
    };

    #[test]
    fn the_speed_of_throttled_work_is_never_above_its_limit() {
        let (mut speed, start) = (Speed::default(), crate::clock::instant());
        // A second for each piece, the first at once: what a throttle at 1000 B/s lets pass.
        for second in 0..20 {
            let (_, bytes) = speed.add(PIECE, start + Duration::from_secs(second));
            let expected = if second == 0 { 0.0 } else { 1000.0 };
            assert!((bytes - expected).abs() < 1.0, "after {second} s: {bytes}");
        }
        assert!(speed.window.len() <= 7, "old steps are forgotten");
    }

    #[test]
    fn the_speed_follows_a_change_within_the_window() {
        let (mut speed, start) = (Speed::default(), crate::clock::instant());
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut last = 0.0;
        for step in 0..100 {
            (last, _) = speed.add(PIECE, at(step * 10));
        }
        assert!((900.0..1100.0).contains(&last), "{last} transactions/s");
        for step in 0..10 {
            (last, _) = speed.add(PIECE, at(2000 + step * 1000));
        }
        assert!((9.0..11.0).contains(&last), "{last} transactions/s");
    }
}
