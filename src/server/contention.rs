//! Turns at objects that many clients write at the same time.
//!
//! ZODB's clients write first and ask afterwards: whoever read an old revision is refused, loads the new one
//! and tries again. Whoever has just written has that revision already, and is back before those who have to
//! load it. So on a hot object the same few clients win again and again, and others lose hundreds of times
//! in a row (with Python's server, too), while applications give up after three. Here who has lost comes next:
//!
//! 1. A client that was refused for a conflict, or that aborted when it was told of one to resolve, gets a
//!    *place*. Places have one order, that of their clients' first losses, whatever they are about: so two
//!    clients never wait for each other.
//! 2. A vote waits until there is no place before its client's own that is about an object which it writes.
//!    (A client without a place is behind all that there are when it comes.)
//! 3. A place is given up when a vote of its client is granted, or fails otherwise, and when the client is
//!    gone. Where its client does not vote again for [`PATIENCE`], it counts no more; for one that was seen to
//!    need longer to do its work again, after twice what it needed.
//!
//! What is not contended has no places, and waits for nothing. It is about fairness only: what may be committed is
//! decided by the storage, and a vote that waited too long goes ahead as if there were no places.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::zodb::Oid;

/// How long a place is kept for a client that has been told of its conflict: for it to load what is there now,
/// to do its work again, and to vote. Whoever loses and does not try again holds up others for so long.
const PATIENCE: Duration = Duration::from_millis(250);

/// No client is waited for longer, however slow it is. Who votes again later than this has not tried again, but
/// done something else.
const LONGEST_PATIENCE: Duration = Duration::from_secs(2);

/// No vote waits longer for others' turns.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// When there are so many places, who loses gets none and competes as it can.
const PLACES: usize = 128;

/// So many objects are remembered of a place, and of what a transaction writes. What writes more is not hot, but
/// large. Every vote that waits looks through all places.
const LOST: usize = 32;
const WRITTEN: usize = 256;

/// The places of one served storage.
#[derive(Debug)]
pub(super) struct Contention {
    inner: Mutex<Inner>,
    /// Counts the changes by which somebody's turn can have come.
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    places: BTreeMap<u64, Place>,
}

#[derive(Debug)]
struct Place {
    objects: Vec<Oid>,
    /// Until when it counts; `None` while its client votes.
    until: Option<Instant>,
}

/// One client of a served storage. Its place goes with it.
#[derive(Debug)]
pub(super) struct Contender {
    contention: Arc<Contention>,
    own: Mutex<Own>,
}

#[derive(Debug)]
struct Own {
    place: Option<u64>,
    /// When it lost last, until it votes again.
    lost: Option<Instant>,
    /// How long it is waited for.
    patience: Duration,
}

/// The objects that a transaction writes, as far as they are remembered.
#[derive(Debug, Default)]
pub(super) struct Written(Vec<Oid>);

impl Written {
    pub(super) fn add(&mut self, oid: Oid) {
        if self.0.len() < WRITTEN {
            self.0.push(oid);
        }
    }
}

impl Contention {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Contention {
            inner: Mutex::default(),
            changed: watch::Sender::new(0),
        })
    }

    pub(super) fn contender(self: &Arc<Self>) -> Arc<Contender> {
        Arc::new(Contender {
            contention: Arc::clone(self),
            own: Mutex::new(Own {
                place: None,
                lost: None,
                patience: PATIENCE,
            }),
        })
    }

    /// Changes the places.
    fn with<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        change(&mut self.inner.lock())
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

impl Inner {
    /// Until when to wait for a client's turn, and `end` at most: until the first place before `own` that keeps it
    /// from it lapses. Nothing where its turn has come. `written` is sorted.
    fn wait(&self, own: u64, written: &[Oid], end: Instant) -> Option<Instant> {
        let now = Instant::now();
        let is_written = |oid: &Oid| written.binary_search(oid).is_ok();
        let before = self.places.range(..own);
        before
            .filter(|(_, place)| place.until.is_none_or(|until| until > now))
            .filter(|(_, place)| place.objects.iter().any(is_written))
            .map(|(_, place)| place.until.map_or(end, |until| until.min(end)))
            .min()
            .filter(|until| *until > now)
    }
}

impl Contender {
    /// Waits for the turn of a vote on these objects. Until it is told how the vote went
    /// ([`lost`](Self::lost), [`done`](Self::done)), the client keeps its place.
    pub(super) async fn turn(&self, written: &Written) {
        let mut objects = written.0.clone();
        objects.sort_unstable();
        let place = self.votes_again();
        let own = self.contention.with(|inner| {
            if let Some(place) = place.and_then(|place| inner.places.get_mut(&place)) {
                place.until = None;
            }
            place.unwrap_or(inner.next + 1)
        });
        let end = Instant::now() + LONGEST_WAIT;
        let mut changed = self.contention.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let wait = (self.contention).with(|inner| inner.wait(own, &objects, end));
            let Some(until) = wait else { return };
            // Whether something changed or the time has come: it looks again. The sender is never gone, as
            // `self` holds it.
            drop(timeout_at(until, changed.changed()).await);
        }
    }

    /// Notes how long it took to try again. Gives its place.
    fn votes_again(&self) -> Option<u64> {
        let mut own = self.own.lock();
        if let Some(lost) = own.lost.take() {
            let needed = lost.elapsed();
            own.patience = if needed > LONGEST_PATIENCE {
                PATIENCE
            } else {
                (needed * 2).clamp(PATIENCE, LONGEST_PATIENCE)
            };
        }
        own.place
    }

    /// The vote was refused for a conflict about these objects.
    pub(super) fn lost(&self, objects: impl IntoIterator<Item = Oid>) {
        let mut own = self.own.lock();
        let now = Instant::now();
        own.lost = Some(now);
        self.contention.with(|inner| {
            if own.place.is_none() {
                (inner.places).retain(|_, place| place.until.is_none_or(|until| until > now));
            }
            // One that has lapsed meanwhile may have been taken away.
            let number = match own.place {
                Some(number) if inner.places.contains_key(&number) => number,
                _ if inner.places.len() >= PLACES => {
                    own.place = None;
                    return;
                }
                _ => {
                    inner.next += 1;
                    inner.next
                }
            };
            own.place = Some(number);
            let place = inner.places.entry(number).or_insert(Place {
                objects: Vec::new(),
                until: None,
            });
            place.until = Some(now + own.patience);
            for oid in objects {
                if place.objects.len() < LOST && !place.objects.contains(&oid) {
                    place.objects.push(oid);
                }
            }
        });
        self.contention.tell();
    }

    /// The vote was granted, or it failed for another reason: it is the next one's turn.
    pub(super) fn done(&self) {
        if let Some(place) = self.own.lock().place.take() {
            self.contention.with(|inner| inner.places.remove(&place));
            self.contention.tell();
        }
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        self.done();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(oids: &[u64]) -> Written {
        let mut written = Written::default();
        for oid in oids {
            written.add(Oid(*oid));
        }
        written
    }

    fn lost(client: &Contender, oids: &[u64]) {
        client.lost(oids.iter().copied().map(Oid));
    }

    /// How long that vote has to wait for its turn, if nothing else happens.
    async fn wait(client: &Contender, oids: &[u64]) -> Duration {
        let start = Instant::now();
        client.turn(&written(oids)).await;
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_where_nobody_lost() {
        let contention = Contention::new();
        let (one, other) = (contention.contender(), contention.contender());
        assert_eq!(wait(&one, &[1, 2]).await, Duration::ZERO);
        assert_eq!(wait(&other, &[1, 2]).await, Duration::ZERO);
        one.done();
        lost(&one, &[1]);
        assert_eq!(wait(&other, &[2, 3]).await, Duration::ZERO);
        assert_eq!(wait(&one, &[1]).await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn who_lost_comes_before_who_won() {
        let contention = Contention::new();
        let (winner, loser) = (contention.contender(), contention.contender());
        lost(&loser, &[1]);
        let written = written(&[1]);
        let mut turn = std::pin::pin!(winner.turn(&written));
        assert!(futures_util::poll!(turn.as_mut()).is_pending());
        // It votes, and takes longer than it is waited for when it does not.
        assert_eq!(wait(&loser, &[1]).await, Duration::ZERO);
        tokio::time::advance(PATIENCE * 2).await;
        assert!(futures_util::poll!(turn.as_mut()).is_pending());
        loser.done();
        assert!(futures_util::poll!(turn.as_mut()).is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn who_lost_first_comes_first_and_keeps_its_place() {
        let contention = Contention::new();
        let clients: Vec<_> = (0..3).map(|_| contention.contender()).collect();
        for client in &clients {
            lost(client, &[1]);
        }
        // It loses again, to whatever: it is still before the others.
        clients[0].turn(&written(&[1])).await;
        lost(&clients[0], &[1]);
        let written = written(&[1]);
        let mut turns: Vec<_> = clients[1..]
            .iter()
            .map(|client| Box::pin(client.turn(&written)))
            .collect();
        assert!(futures_util::poll!(&mut turns[0]).is_pending());
        assert!(futures_util::poll!(&mut turns[1]).is_pending());
        clients[0].done();
        assert!(futures_util::poll!(&mut turns[0]).is_ready());
        assert!(futures_util::poll!(&mut turns[1]).is_pending());
        clients[1].done();
        assert!(futures_util::poll!(&mut turns[1]).is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_lapses_and_goes_with_its_client() {
        let contention = Contention::new();
        let (winner, loser) = (contention.contender(), contention.contender());
        lost(&loser, &[1]);
        assert_eq!(wait(&winner, &[1]).await, PATIENCE);
        assert_eq!(wait(&winner, &[1]).await, Duration::ZERO);
        lost(&loser, &[1]);
        drop(loser);
        assert_eq!(wait(&winner, &[1]).await, Duration::ZERO);
    }

    /// A client that needs longer than others is not waited for in vain again and again.
    #[tokio::test(start_paused = true)]
    async fn who_needs_longer_is_waited_for_longer() {
        let contention = Contention::new();
        let (winner, slow) = (contention.contender(), contention.contender());
        lost(&slow, &[1]);
        assert_eq!(wait(&winner, &[1]).await, PATIENCE);
        tokio::time::advance(PATIENCE).await;
        slow.turn(&written(&[1])).await;
        lost(&slow, &[1]);
        assert_eq!(wait(&winner, &[1]).await, PATIENCE * 4);
        // What comes much later is something else.
        tokio::time::advance(LONGEST_PATIENCE * 3).await;
        slow.turn(&written(&[1])).await;
        lost(&slow, &[1]);
        assert_eq!(wait(&winner, &[1]).await, PATIENCE);
    }

    /// Those who lose while it waits are behind it.
    #[tokio::test(start_paused = true)]
    async fn who_waits_is_not_overtaken_by_who_loses_later() {
        let contention = Contention::new();
        let clients: Vec<_> = (0..3).map(|_| contention.contender()).collect();
        lost(&clients[0], &[1]);
        let objects = written(&[1]);
        let mut turn = std::pin::pin!(clients[1].turn(&objects));
        assert!(futures_util::poll!(turn.as_mut()).is_pending());
        lost(&clients[2], &[1]);
        clients[0].done();
        assert!(futures_util::poll!(turn.as_mut()).is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn no_vote_waits_for_ever() {
        let contention = Contention::new();
        let (winner, loser) = (contention.contender(), contention.contender());
        lost(&loser, &[1]);
        // Its vote takes as long as it likes.
        loser.turn(&written(&[1])).await;
        assert_eq!(wait(&winner, &[1]).await, LONGEST_WAIT);
    }

    /// One waits for the other at one object, and would be waited for at another.
    #[tokio::test(start_paused = true)]
    async fn two_never_wait_for_each_other() {
        let contention = Contention::new();
        let (one, other) = (contention.contender(), contention.contender());
        lost(&one, &[1]);
        lost(&other, &[2]);
        lost(&one, &[2]);
        lost(&other, &[1]);
        let both = written(&[1, 2]);
        let mut second = std::pin::pin!(other.turn(&both));
        assert!(futures_util::poll!(second.as_mut()).is_pending());
        assert_eq!(wait(&one, &[1, 2]).await, Duration::ZERO);
        one.done();
        assert!(futures_util::poll!(second.as_mut()).is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_has_bounds() {
        let contention = Contention::new();
        let clients: Vec<_> = (0..PLACES + 10).map(|_| contention.contender()).collect();
        for client in &clients {
            client.lost((0..2000).map(Oid));
        }
        contention.with(|inner| {
            assert_eq!(inner.places.len(), PLACES);
            assert!(
                inner
                    .places
                    .values()
                    .all(|place| place.objects.len() <= LOST)
            );
        });
        let mut written = Written::default();
        (0..2000).for_each(|oid| written.add(Oid(oid)));
        assert_eq!(written.0.len(), WRITTEN);
        // Those that have lapsed make room.
        tokio::time::advance(PATIENCE * 2).await;
        lost(&clients[PLACES], &[1]);
        contention.with(|inner| assert_eq!(inner.places.len(), 1));
    }
}
