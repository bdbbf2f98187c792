//! Making a storage in memory fail, or hang, for the tests of who uses it.
//!
//! What is set here belongs to the data, not to one opening of it: a member that is closed and opened
//! again still fails until the test says otherwise.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::storage::{Answer, Fault};

/// A moment at which a storage in memory can be told to fail or to hang.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Moment {
    Open,
    /// Every load: `load_before`, `load_serial`, `current_tid`, `history`, `record_from`, `undo_info`.
    Load,
    /// `last_tid`, `invalidations_since`, `new_oids`.
    Ask,
    Begin,
    Vote,
    /// A finish, before it has any effect: the transaction is not kept.
    Finish,
    /// A finish, after its effect: the transaction is kept and nobody is told.
    Finished,
    /// Each transaction of an iteration; `tids_before` and `measure_after`.
    Iterate,
    Restore,
    Rewind,
    LoadBlob,
    /// A pack, before it has any effect.
    Pack,
    Close,
}

/// What happens at which moment. `Clone` shares it.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<HashMap<Moment, Script>>>);

#[derive(Debug, Clone, Default)]
struct Script {
    /// Fails this many more calls, after letting `skip` of them through; none for all of them.
    fail: Option<(Fault, Option<usize>)>,
    skip: usize,
    gate: Option<watch::Receiver<bool>>,
    /// What every call is answered, where none fails.
    answer: Option<Answer>,
    /// Calls that hang get on.
    gets_on: bool,
    /// How many iterations were told to hold little.
    held_little: usize,
}

/// Calls that reach the moment wait until this is released or dropped.
#[derive(Debug)]
#[must_use = "dropping the gate releases it"]
pub struct Gate(watch::Sender<bool>);

impl Gate {
    /// Lets everyone through who waits, and who comes.
    pub fn release(self) {}

    /// Waits until somebody waits at the gate.
    pub async fn reached(&self) {
        // Two receivers: the one that is kept for who comes, and the copy of who waits.
        while self.0.receiver_count() < 2 {
            tokio::task::yield_now().await;
        }
    }
}

impl Faults {
    #[must_use]
    pub fn new() -> Self {
        Faults::default()
    }

    /// Every call fails from now on.
    pub fn fail(&self, moment: Moment, fault: Fault) {
        self.0.lock().entry(moment).or_default().fail = Some((fault, None));
    }

    /// Every call is answered so from now on; not at [`Moment::Open`].
    pub fn refuse(&self, moment: Moment, answer: Answer) {
        self.0.lock().entry(moment).or_default().answer = Some(answer);
    }

    /// The answer that every call gets.
    pub(super) fn answer(&self, moment: Moment) -> Option<Answer> {
        self.0.lock().get(&moment)?.answer.clone()
    }

    /// The next call fails, and only that.
    pub fn fail_once(&self, moment: Moment, fault: Fault) {
        self.0.lock().entry(moment).or_default().fail = Some((fault, Some(1)));
    }

    /// One call fails after `skip` that do not.
    pub fn fail_after(&self, skip: usize, moment: Moment, fault: Fault) {
        let mut scripts = self.0.lock();
        let script = scripts.entry(moment).or_default();
        script.fail = Some((fault, Some(1)));
        script.skip = skip;
    }

    /// Calls hang until the gate is released.
    pub fn hold(&self, moment: Moment) -> Gate {
        let (sender, receiver) = watch::channel(false);
        self.0.lock().entry(moment).or_default().gate = Some(receiver);
        Gate(sender)
    }

    /// Whether calls that hang are known to get on, as those that look far back in a file do.
    pub fn get_on(&self, moment: Moment, gets_on: bool) {
        self.0.lock().entry(moment).or_default().gets_on = gets_on;
    }

    pub(super) fn gets_on(&self, moment: Moment) -> bool {
        self.0
            .lock()
            .get(&moment)
            .is_some_and(|script| script.gets_on)
    }

    /// How many iterations were told to hold little.
    #[must_use]
    pub fn held_little(&self) -> usize {
        let scripts = self.0.lock();
        let script = scripts.get(&Moment::Iterate);
        script.map_or(0, |script| script.held_little)
    }

    pub(super) fn hold_little(&self) {
        self.0
            .lock()
            .entry(Moment::Iterate)
            .or_default()
            .held_little += 1;
    }

    /// Nothing fails and nothing hangs any more; who waits at a gate still waits for it.
    pub fn clear(&self) {
        self.0.lock().clear();
    }

    /// What a call does when it reaches a moment: waits at the gate, then fails where it is told to.
    pub(super) async fn reach(&self, moment: Moment) -> Result<(), Fault> {
        let gate = self
            .0
            .lock()
            .get(&moment)
            .and_then(|script| script.gate.clone());
        if let Some(mut gate) = gate {
            // Never true: the error of the dropped sender is what opens it.
            drop(gate.wait_for(|open| *open).await);
        }
        self.0
            .lock()
            .get_mut(&moment)
            .and_then(Script::next_failure)
            .map_or(Ok(()), Err)
    }
}

impl Script {
    fn next_failure(&mut self) -> Option<Fault> {
        self.fail.as_ref()?;
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        match self.fail.take()? {
            (fault, None) => {
                self.fail = Some((fault.clone(), None));
                Some(fault)
            }
            (fault, Some(0 | 1)) => Some(fault),
            (fault, Some(more)) => {
                self.fail = Some((fault.clone(), Some(more - 1)));
                Some(fault)
            }
        }
    }
}
