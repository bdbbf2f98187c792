//! The connections for reading: opened when they are first wanted, replaced when they end.
//!
//! Opening one never keeps a load waiting: until it is there the load goes over the main connection. What
//! takes long, or stays on its connection, waits for it: see [`Readers::get`].

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::link::Link;
use super::{OnOther, Way};

/// A connection that could not be opened is tried again after this, and no place opens more than two within
/// it: one that ends is replaced at once, but a server that hangs up on each is not called without a pause.
const PAUSE: Duration = Duration::from_secs(2);

pub(super) struct Readers {
    way: Way,
    places: Mutex<Vec<Place>>,
    /// One was opened, or could not be.
    settled: Notify,
}

struct Place {
    state: State,
    /// When its last connection was opened, and the one before that.
    opened: [Option<Instant>; 2],
}

enum State {
    Empty { until: Option<Instant> },
    Opening,
    Open(Arc<Link>),
}

impl Readers {
    pub(super) fn new(way: Way, count: usize) -> Arc<Self> {
        let places = (0..count).map(|_| Place {
            state: State::Empty { until: None },
            opened: [None; 2],
        });
        Arc::new(Readers {
            way,
            places: Mutex::new(places.collect()),
            settled: Notify::new(),
        })
    }

    /// As [`Self::pick`], and waits for one that is being opened, as long as a call may take; none where
    /// none can be opened.
    pub(super) async fn get(self: &Arc<Self>) -> Option<Arc<Link>> {
        let opened = async {
            loop {
                let mut settled = std::pin::pin!(self.settled.notified());
                settled.as_mut().enable();
                if let Some(link) = self.pick() {
                    return Some(link);
                }
                let is_opening = |place: &Place| matches!(place.state, State::Opening);
                if !self.places.lock().iter().any(is_opening) {
                    return None;
                }
                settled.await;
            }
        };
        timeout(self.way.options.call_timeout, opened).await.ok()?
    }

    /// The connection that is the least busy; none while none is open.
    pub(super) fn pick(self: &Arc<Self>) -> Option<Arc<Link>> {
        let mut places = self.places.lock();
        let mut best: Option<&Arc<Link>> = None;
        let mut wanted = None;
        for (at, place) in places.iter_mut().enumerate() {
            if let State::Open(link) = &place.state
                && link.ended().is_some()
            {
                let until = place.opened[1].map(|before_it| before_it + PAUSE);
                place.state = State::Empty { until };
            }
            if let State::Empty { until } = place.state
                && until.is_none_or(|until| until <= Instant::now())
            {
                wanted = wanted.or(Some(at));
            }
        }
        if let Some(at) = wanted {
            places[at].state = State::Opening;
            self.way.tasks.spawn(
                "opening a connection for reading",
                Arc::clone(self).open(at),
            );
        }
        for place in places.iter() {
            if let State::Open(link) = &place.state
                && best.is_none_or(|best| link.load() < best.load())
            {
                best = Some(link);
            }
        }
        best.cloned()
    }

    async fn open(self: Arc<Self>, at: usize) {
        let listener = Arc::new(OnOther(Arc::clone(&self.way.heard)));
        let opened = self.way.open("reading", listener).await;
        let now = Instant::now();
        {
            let place = &mut self.places.lock()[at];
            place.state = match opened {
                Ok(link) => {
                    place.opened = [Some(now), place.opened[0]];
                    State::Open(link)
                }
                Err(fault) => {
                    tracing::debug!(%fault, "no further connection for reading");
                    let until = Some(now + PAUSE);
                    State::Empty { until }
                }
            };
        }
        self.settled.notify_waiters();
    }
}
