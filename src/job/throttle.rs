//! A limit on how fast a job may go, which can be changed while it runs.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Duration, Instant};

use super::Amount;

/// The most a job may do in a second. None is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rate {
    pub transactions_per_second: Option<u64>,
    pub bytes_per_second: Option<u64>,
    /// Nothing at all, until that is changed.
    pub paused: bool,
}

/// Holds back whoever goes faster than the rate. Clones share it.
///
/// Time is owed, not saved: work that was done puts the next permission later by what it should have
/// taken, and a pause gives no right to a burst.
#[derive(Debug, Clone)]
pub struct Throttle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    rate: Rate,
    /// The next permission is not given before this.
    next: Instant,
}

impl Throttle {
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        let state = Mutex::new(State {
            rate,
            next: Instant::now(),
        });
        Throttle(Arc::new(Shared {
            state,
            changed: Notify::new(),
        }))
    }

    #[must_use]
    pub fn rate(&self) -> Rate {
        self.0.state.lock().rate
    }

    /// Changes the rate. Who waits under the old one is let go and counts under the new one.
    pub fn set(&self, rate: Rate) {
        let mut state = self.0.state.lock();
        state.rate = rate;
        state.next = Instant::now();
        drop(state);
        self.0.changed.notify_waiters();
    }

    /// Waits until the rate allows it, then owes the time that `amount` takes. Cancel safe: a dropped
    /// wait owes nothing.
    pub async fn take(&self, amount: Amount) {
        loop {
            let changed = self.0.changed.notified();
            let next = {
                let mut state = self.0.state.lock();
                let now = Instant::now();
                if state.rate.paused {
                    None
                } else if state.next <= now {
                    state.next = now + state.rate.time_for(amount);
                    return;
                } else {
                    Some(state.next)
                }
            };
            let due = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            // Either branch may be dropped: both only lead back to the check above.
            crate::task::select! {
                () = due => {}
                () = changed => {}
            }
        }
    }
}

impl Rate {
    pub const UNLIMITED: Rate = Rate {
        transactions_per_second: None,
        bytes_per_second: None,
        paused: false,
    };

    /// The time that an amount takes at this rate: the longer of both limits'. At most an hour, so
    /// that a limit that is far too low can still be changed.
    fn time_for(self, amount: Amount) -> Duration {
        let time = |amount: u64, limit: Option<u64>| match limit {
            Some(limit) => amount as f64 / limit.max(1) as f64,
            None => 0.0,
        };
        let seconds = time(amount.transactions, self.transactions_per_second)
            .max(time(amount.bytes, self.bytes_per_second));
        Duration::from_secs_f64(seconds.min(3600.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEBIBYTE: u64 = 1 << 20;

    fn bytes(bytes: u64) -> Amount {
        Amount {
            transactions: 1,
            bytes,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_holds_back_and_can_be_lifted() {
        let throttle = Throttle::new(Rate {
            bytes_per_second: Some(MEBIBYTE),
            ..Rate::UNLIMITED
        });
        let start = Instant::now();
        for _ in 0..5 {
            throttle.take(bytes(MEBIBYTE)).await;
        }
        assert_eq!(
            start.elapsed().as_secs(),
            4,
            "the first is free, each other waits for a second"
        );

        let waiting = throttle.clone();
        let lifted = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            throttle.set(Rate::UNLIMITED);
        };
        let start = Instant::now();
        tokio::join!(waiting.take(bytes(1)), lifted);
        assert!(start.elapsed() < Duration::from_millis(100));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_paused_waits_until_it_goes_on() {
        let throttle = Throttle::new(Rate {
            paused: true,
            ..Rate::UNLIMITED
        });
        let waiting = throttle.clone();
        let resumed = async {
            tokio::time::sleep(Duration::from_hours(5)).await;
            throttle.set(Rate::UNLIMITED);
        };
        let start = Instant::now();
        tokio::join!(waiting.take(bytes(1)), resumed);
        assert_eq!(start.elapsed(), Duration::from_hours(5));
    }
}
