//! One task for each member: opens it, tries again, closes it.
//!
//! The task follows what the controller wants ([`Want`]). Opening never blocks anybody else; what
//! takes longer than the open timeout is reported as a failure, so that the start can go on, and is
//! waited for all the same.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::controller::MemberId;
use super::runner::Runner;
use crate::storage::{Fault, Opener, SetAside, Storage};
use crate::task::{Backoff, Stop};

/// What the controller wants of a member's task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Want {
    pub open: bool,
    /// Rises when what is open is to be closed.
    pub round: u64,
}

/// Asks for the copy to be set aside without being opened, and where to say how that went.
pub(super) type AskSetAside = oneshot::Sender<Result<SetAside, Fault>>;

/// The task's surroundings.
pub(super) struct Link {
    pub runner: Arc<Runner>,
    pub member: MemberId,
    pub opener: Arc<dyn Opener>,
    pub want: watch::Receiver<Want>,
    /// Cuts the wait for the next try short.
    pub retry: Arc<Notify>,
    pub set_aside: mpsc::Receiver<AskSetAside>,
    pub open_timeout: Duration,
    pub stop: Stop,
}

const FIRST_DELAY: Duration = Duration::from_millis(500);
const MOST_DELAY: Duration = Duration::from_secs(30);
/// How long a member that is let go may take to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);
/// Who stayed open for this long is opened again at once.
const GOOD_WHILE: Duration = Duration::from_mins(1);
/// How often it is looked whether what is open is still what lies there.
const LOOK_EVERY: Duration = Duration::from_secs(2);

impl Link {
    /// Runs until the stop, and closes what is open then.
    pub(super) async fn run(mut self) {
        let mut open: Option<(Arc<dyn Storage>, u64, Instant)> = None;
        let mut backoff = Backoff::new(FIRST_DELAY, MOST_DELAY);
        let mut held_back = false;
        loop {
            let want = *self.want.borrow_and_update();
            if let Some((storage, round, since)) = &open
                && (want.round != *round || !want.open)
            {
                close(&**storage).await;
                held_back = crate::clock::since(*since) < GOOD_WHILE;
                if !held_back {
                    backoff.reset();
                }
                open = None;
            }
            if self.stop.is_requested() {
                break;
            }
            if want.open && open.is_none() {
                if std::mem::take(&mut held_back) && !self.pause(backoff.delay()).await {
                    continue;
                }
                match self.open().await {
                    Ok(storage) if *self.want.borrow() == want => {
                        let (member, round) = (self.member, want.round);
                        let opened = Arc::clone(&storage);
                        match self.runner.member_is_open(member, round, opened).await {
                            Ok(()) => {
                                open = Some((storage, round, crate::clock::instant()));
                            }
                            // It opens and does not answer.
                            Err(fault) => {
                                close(&*storage).await;
                                self.try_later(fault, &mut backoff).await;
                            }
                        }
                    }
                    // Meanwhile something else is wanted.
                    Ok(storage) => close(&*storage).await,
                    Err(fault) => self.try_later(fault, &mut backoff).await,
                }
                continue;
            }
            // All may be dropped: they are only looked at anew.
            let looked_at = open.as_ref().map(|(storage, ..)| Arc::clone(storage));
            crate::task::select! {
                () = tokio::time::sleep(LOOK_EVERY), if looked_at.is_some() => {
                    if let Some(storage) = looked_at {
                        self.look(&storage).await;
                    }
                }
                Some(asked) = self.set_aside.recv() => self.do_set_aside(asked, open.is_some()).await,
                changed = self.want.changed() => if changed.is_err() { self.stop.request() },
                () = self.stop.requested() => {}
            }
        }
        if let Some((storage, ..)) = open {
            close(&*storage).await;
        }
    }

    async fn open(&self) -> Result<Arc<dyn Storage>, Fault> {
        let must_be_there = self.runner.must_be_there(self.member);
        let opening = async {
            if must_be_there {
                self.opener.open_what_is_there().await
            } else {
                self.opener.open().await
            }
        };
        tokio::pin!(opening);
        if let Ok(opened) = tokio::time::timeout(self.open_timeout, &mut opening).await {
            return opened;
        }
        let fault = Fault::Timeout {
            what: "being opened",
            after: self.open_timeout,
        };
        self.runner
            .member_not_open(self.member, fault, Duration::ZERO);
        crate::task::select! {
            opened = opening => opened,
            () = self.stop.requested() => Err(Fault::Closed("the daemon is shutting down".into())),
        }
    }

    /// A file that was removed, or replaced, under a daemon that has it open takes every commit and keeps
    /// none. Where the file system does not answer, reads and writes will tell.
    async fn look(&self, storage: &Arc<dyn Storage>) {
        match tokio::time::timeout(self.open_timeout, storage.in_place()).await {
            Ok(Ok(())) => self.runner.in_place(self.member),
            Ok(Err(fault)) => self.runner.displaced(self.member, storage, fault),
            Err(_) => {}
        }
    }

    async fn try_later(&mut self, fault: Fault, backoff: &mut Backoff) {
        let delay = backoff.delay();
        self.runner.member_not_open(self.member, fault, delay);
        self.pause(delay).await;
    }

    async fn do_set_aside(&self, asked: AskSetAside, is_open: bool) {
        let done = if is_open {
            Err(Fault::InUse("the member is open again".into()))
        } else {
            self.opener.set_aside().await
        };
        // Where nobody waits any more, it is set aside all the same.
        drop(asked.send(done));
    }

    /// Waits before the next try; false when something else is wanted.
    async fn pause(&mut self, delay: Duration) -> bool {
        crate::task::select! {
            () = tokio::time::sleep(delay) => true,
            () = self.retry.notified() => true,
            Some(asked) = self.set_aside.recv() => {
                self.do_set_aside(asked, false).await;
                true
            }
            _ = self.want.changed() => {
                self.want.mark_changed();
                false
            }
            () = self.stop.requested() => false,
        }
    }
}

async fn close(storage: &dyn Storage) {
    if tokio::time::timeout(CLOSE_TIMEOUT, storage.close())
        .await
        .is_err()
    {
        let location = storage.describe().location;
        tracing::warn!(location, "a member did not close in time");
    }
}
