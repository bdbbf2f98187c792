//! Ctrl-C.
//!
//! A command that does nothing about it is broken off. One that does (a recovery that is watched, a
//! view that is live) claims it for a while, and gets to know each press.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use async_trait::async_trait;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Tells a command that a person pressed Ctrl-C.
#[async_trait(?Send)]
pub trait Interrupts {
    /// Whoever claims it must wait for it. Held until it is dropped.
    fn claim(&self) -> Claim;

    /// Waits for the next press, from the moment this is called. Cancel safe.
    async fn next(&self) -> io::Result<()>;
}

/// As long as it lives, Ctrl-C does not end the command.
#[must_use]
pub struct Claim(Rc<Cell<usize>>);

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
            if signal.recv().await.is_none() {
                return Ok(());
            }
            if self.claims.get() == 0 {
                return Ok(());
            }
        }
    }
}

#[async_trait(?Send)]
impl Interrupts for SignalInterrupts {
    fn claim(&self) -> Claim {
        Claim::new(&self.claims)
    }

    async fn next(&self) -> io::Result<()> {
        // A listener of its own each time: presses that a prompt has dealt with are not seen again.
        interrupt()?.recv().await;
        Ok(())
    }
}

impl Claim {
    fn new(claims: &Rc<Cell<usize>>) -> Self {
        claims.set(claims.get() + 1);
        Claim(Rc::clone(claims))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

fn interrupt() -> io::Result<Signal> {
    signal(SignalKind::interrupt())
}

#[cfg(test)]
pub(super) mod fake {
    use super::{Cell, Claim, Interrupts, Rc, async_trait, io};

    /// Presses Ctrl-C after so long, each time it is waited for; never where there is no time left.
    #[derive(Debug, Default)]
    pub(in crate::cli) struct Presses {
        pub(in crate::cli) after: std::cell::RefCell<Vec<std::time::Duration>>,
        pub(in crate::cli) claims: Rc<Cell<usize>>,
    }

    #[async_trait(?Send)]
    impl Interrupts for Presses {
        fn claim(&self) -> Claim {
            Claim::new(&self.claims)
        }

        async fn next(&self) -> io::Result<()> {
            let next = self.after.borrow().first().copied();
            let Some(after) = next else {
                return std::future::pending().await;
            };
            tokio::time::sleep(after).await;
            self.after.borrow_mut().remove(0);
            Ok(())
        }
    }
}
