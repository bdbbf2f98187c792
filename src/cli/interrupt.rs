//! Ctrl-C.
//!
//! A command that does nothing about it is broken off. One that does (a recovery that is watched, a
//! view that is live) claims it for a while, and gets to know each press.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use async_trait::async_trait;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Where Ctrl-C can be claimed.
pub trait Interrupts {
    /// From now on presses do not end the command but are told to the claim, until it is dropped.
    fn claim(&self) -> io::Result<Box<dyn Claim>>;
}

/// Tells of each press since it was made.
#[async_trait(?Send)]
pub trait Claim {
    /// Waits for the next press. Cancel safe: a press between two calls is not lost.
    async fn pressed(&mut self);
}

/// The real one.
#[derive(Debug, Default, Clone)]
pub(super) struct SignalInterrupts {
    claims: Rc<Cell<usize>>,
}

impl SignalInterrupts {
    /// Waits for a Ctrl-C that nobody has claimed.
    pub(super) async fn unclaimed(&self) -> io::Result<()> {
        let mut signal = interrupt()?;
        loop {
            // None only where the runtime is gone.
            if signal.recv().await.is_none() || self.claims.get() == 0 {
                return Ok(());
            }
        }
    }
}

impl Interrupts for SignalInterrupts {
    fn claim(&self) -> io::Result<Box<dyn Claim>> {
        let signal = interrupt()?;
        self.claims.set(self.claims.get() + 1);
        Ok(Box::new(SignalClaim {
            signal,
            claims: Rc::clone(&self.claims),
        }))
    }
}

struct SignalClaim {
    signal: Signal,
    claims: Rc<Cell<usize>>,
}

#[async_trait(?Send)]
impl Claim for SignalClaim {
    async fn pressed(&mut self) {
        self.signal.recv().await;
    }
}

impl Drop for SignalClaim {
    fn drop(&mut self) {
        self.claims.set(self.claims.get() - 1);
    }
}

fn interrupt() -> io::Result<Signal> {
    signal(SignalKind::interrupt())
}

#[cfg(test)]
pub(super) mod fake {
    use std::cell::RefCell;
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{Claim, Interrupts, Rc, async_trait, io};

    /// Presses Ctrl-C at these moments after it is first claimed.
    #[derive(Debug, Default, Clone)]
    pub(in crate::cli) struct Presses {
        pub(in crate::cli) after: Rc<RefCell<Vec<Duration>>>,
        begin: Rc<RefCell<Option<Instant>>>,
    }

    impl Presses {
        pub(in crate::cli) fn new(after: Vec<Duration>) -> Self {
            Presses {
                after: Rc::new(RefCell::new(after)),
                begin: Rc::default(),
            }
        }
    }

    impl Interrupts for Presses {
        fn claim(&self) -> io::Result<Box<dyn Claim>> {
            self.begin.borrow_mut().get_or_insert_with(Instant::now);
            Ok(Box::new(self.clone()))
        }
    }

    #[async_trait(?Send)]
    impl Claim for Presses {
        async fn pressed(&mut self) {
            let begin = *self.begin.borrow();
            let next = self.after.borrow().first().copied();
            let (Some(begin), Some(after)) = (begin, next) else {
                return std::future::pending().await;
            };
            tokio::time::sleep_until(begin + after).await;
            self.after.borrow_mut().remove(0);
        }
    }
}
