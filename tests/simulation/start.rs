//! How a daemon is started: under which policy, by force or not, and what may be lost by it.
//!
//! With `newest`, by force, or with `majority` where less than a majority may acknowledge, what was
//! acknowledged may be lost: where everybody who is there lacks it and somebody who holds it is away. So
//! clients are ended before such a start, as an operator has to do, and begin afresh after it. Nothing
//! else may be lost, and what is lost must still lie with somebody.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::sleep;

use super::host::Life;
use super::trace;
use super::world::World;
use crate::daemon::simulated::Whole;
use crate::raid::MemberState;
use crate::zodb::Tid;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) policy: &'static str,
    pub(super) force: bool,
}

impl World {
    /// What an operator has in mind for the next start, or anything, as long as there is chaos.
    pub(super) fn choose_start(&self) -> Start {
        let usual = Start {
            policy: self.shape.start_policy,
            force: false,
        };
        let wish = self.next_start.lock().take();
        if self.daemons() > 1 || self.is_calm.load(Ordering::SeqCst) {
            return usual;
        }
        let policy = match fastrand::u8(..12) {
            0 | 1 => "in-sync",
            2 | 3 => "majority",
            4 => "newest",
            _ => usual.policy,
        };
        let force = fastrand::u8(..12) == 0;
        wish.unwrap_or(Start { policy, force })
    }

    /// Whether it may lose something that was acknowledged.
    pub(super) fn is_risky(&self, start: Start) -> bool {
        let majority = self.shape.members.len() / 2 + 1;
        // Of those that are left a majority may be there without whoever acknowledged.
        let lacks_one = self.lacks_a_member(0);
        start.force
            || start.policy == "newest"
            || (start.policy == "majority" && (self.shape.min_optimal < majority || lacks_one))
    }

    /// Whether there is such a start of which it is not known yet what it loses.
    pub(super) fn is_starting_at_risk(&self) -> bool {
        self.clients_wait.load(Ordering::SeqCst) > 0
    }

    /// Starts a daemon without clients, and sees what it has lost once it is known from what it goes on: also where
    /// too few members do to serve, since the next start may go on from there.
    pub(super) async fn start_at_risk(
        self: Arc<Self>,
        number: usize,
        life: Arc<Life>,
        start: Start,
    ) {
        for client in 0..self.shape.clients {
            self.crash_client(client).await;
        }
        self.run_daemon(number, &life, start);
        let mut seen = None;
        loop {
            // Once more after its end: it may have come to know while it was ended.
            let is_last = life.is_dead() || self.is_over();
            seen = self.whole(number).or(seen);
            if let Some(whole) = seen.as_ref().filter(|whole| whole.has_started()) {
                self.see_what_is_lost(whole, number, start);
                break;
            }
            if is_last {
                break;
            }
            sleep(Duration::from_millis(2)).await;
        }
        self.clients_wait.fetch_sub(1, Ordering::SeqCst);
    }

    fn see_what_is_lost(&self, whole: &Whole, number: usize, start: Start) {
        let mut held: Vec<(String, bool, BTreeSet<Tid>)> = Vec::new();
        let members = whole.report().members;
        for (name, _) in &self.shape.members {
            // Who was compared at the start has one of these. Who is not configured was away.
            let mut found = members.iter().filter(|member| member.name == *name);
            let was_there = found.any(|member| {
                member.state == MemberState::Optimal
                    || member.reason.as_deref() == Some("behind at the start")
            });
            let tids = self.store(number, name);
            let tids = tids.and_then(|(path, _)| self.tids(&path).ok());
            held.push((name.clone(), was_there, tids.unwrap_or_default()));
        }
        let optimal = members.into_iter();
        let mut optimal = optimal.filter(|member| member.state == MemberState::Optimal);
        let Some(first) = optimal.next() else {
            return;
        };
        let of_first = held.iter().find(|(name, _, _)| *name == first.name);
        let Some((_, _, base)) = of_first else {
            return;
        };
        let known = self.truth.known(base.last().copied().unwrap_or_default());
        let lost: BTreeSet<Tid> = known.difference(base).copied().collect();
        let Some(from) = lost.first() else {
            return;
        };
        trace::note(format!("{start:?} loses {} from {from} on", lost.len()));
        for (name, was_there, tids) in &held {
            if *was_there && let Some(tid) = tids.intersection(&lost).next() {
                trace::fail(format!(
                    "{start:?} starts from {} without {tid}, which {name} holds and was there",
                    first.name
                ));
            }
        }
        // Others may have packed what comes before.
        for tid in lost.range(self.truth.floor().next()..) {
            let is_held = held.iter().any(|(_, _, tids)| tids.contains(tid));
            if !is_held && !self.moved_away.lock().contains(tid) {
                trace::fail(format!("{tid} is lost, and nobody holds it"));
            }
        }
        self.truth.forget(&lost);
    }
}
