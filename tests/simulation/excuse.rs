//! What a client may blame an error or a lost connection on.
//!
//! A failure of a member is not a failure of the client (invariant 7). So a client that is answered with an
//! error, or whose connection ends, must have a reason of another kind: its daemon does not run or is stopped,
//! or its array has too few members left; the daemon's own disk, which takes the membership record, fails; or the
//! network between the two is disturbed. Servers, the disks of members (a file's, too) and the network to them
//! are no reasons.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::trace;
use super::world::World;
use crate::raid::Serving;

/// How often it is looked at whether a daemon serves.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a client may suffer from a daemon that does not serve: it may have waited for something.
const AFTER_AN_OUTAGE: Duration = Duration::from_secs(15);
/// From a disk: it is mended within nine seconds, what was waiting for it goes on after it.
pub(super) const OF_A_DISK: Duration = Duration::from_secs(40);
/// From a network, once it is well again: each side hears of it at its next attempt to say something, and
/// says something every ten seconds.
pub(super) const AFTER_A_NETWORK: Duration = Duration::from_secs(20);

/// From a daemon that was stopped, once it goes on: what it waited for meanwhile has passed its time.
pub(super) const AFTER_A_STOP: Duration = Duration::from_secs(20);

/// By host, until when.
#[derive(Default)]
pub(super) struct Excuses(Mutex<BTreeMap<String, Instant>>);

impl Excuses {
    pub(super) fn give(&self, host: &str, lasts: Duration) {
        let until = Instant::now() + lasts;
        let mut all = self.0.lock();
        let before = all.entry(host.to_owned()).or_insert(until);
        *before = (*before).max(until);
    }

    pub(super) fn has(&self, host: &str) -> bool {
        let all = self.0.lock();
        all.get(host).is_some_and(|until| *until >= Instant::now())
    }
}

impl World {
    /// Notes which daemons do not serve, as long as the history goes on.
    pub(super) async fn note_outages(self: Arc<Self>) {
        while !self.is_over() {
            for daemon in 0..self.daemons() {
                if self.ends(daemon) || !self.serves(daemon) {
                    self.note_outage(daemon);
                }
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Between two looks clients may have been sent away.
    pub(super) async fn note_short_outages(
        &self,
        daemon: usize,
        mut serving: watch::Receiver<Serving>,
    ) {
        while !self.is_over() {
            if *serving.borrow_and_update() != Serving::Yes {
                self.note_outage(daemon);
            }
            if serving.changed().await.is_err() {
                return;
            }
        }
    }

    pub(super) fn note_outage(&self, daemon: usize) {
        let name = format!("d{}", daemon + 1);
        self.excuses.give(&name, AFTER_AN_OUTAGE);
    }

    pub(super) fn serves(&self, daemon: usize) -> bool {
        let whole = self.whole(daemon);
        whole.is_some_and(|whole| whole.report().serving == Serving::Yes)
    }

    /// A client has had to suffer what it should not.
    pub(super) async fn must_have_an_excuse(&self, client: u64, daemon: usize, suffered: &str) {
        let hosts = [format!("c{client}"), format!("d{}", daemon + 1)];
        let excused = || self.is_over() || hosts.iter().any(|host| self.excuses.has(host));
        if !excused() {
            // It may have been told before whoever looks has seen it.
            sleep(LOOK_EVERY * 2).await;
        }
        if !excused() {
            trace::fail(format!(
                "c{client} suffers while d{} serves and nothing is wrong between them: {suffered}",
                daemon + 1
            ));
        }
    }
}
