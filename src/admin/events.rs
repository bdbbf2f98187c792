//! The daemon's events: the last thousand, numbered, and streams that follow them.
//!
//! A stream has no queue of its own. It remembers the number of the last event that it gave and reads
//! on in the shared log when a watched number says that there is more. So any number of slow readers
//! costs nothing, and whoever falls behind by more than the log holds sees a gap in the numbers.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::future;
use futures_util::stream::{self, StreamExt as _};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::api::{Event, EventStream, Events, Level};

/// The log. Clones are the same one.
#[derive(Debug, Clone)]
pub struct EventLog(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    kept: Mutex<VecDeque<Event>>,
    /// The number of the last event, and whether there will be more.
    last: watch::Sender<(u64, bool)>,
    capacity: usize,
}

impl EventLog {
    pub const CAPACITY: usize = 1000;

    /// An empty log. The numbers begin at the present time in milliseconds, so that they go on rising
    /// from one life of the daemon to the next, and who resumes after a restart misses nothing of the
    /// new life.
    #[must_use]
    pub fn new() -> Self {
        let first = u64::try_from(crate::clock::now().as_millisecond()).unwrap_or(0);
        Self::starting_at(first, Self::CAPACITY)
    }

    fn starting_at(first: u64, capacity: usize) -> Self {
        EventLog(Arc::new(Shared {
            kept: Mutex::new(VecDeque::with_capacity(capacity)),
            last: watch::Sender::new((first, true)),
            capacity,
        }))
    }

    /// Adds an event and wakes every stream.
    pub fn add(
        &self,
        level: Level,
        kind: &str,
        array: Option<&str>,
        member: Option<&str>,
        message: impl Into<String>,
    ) {
        let mut kept = self.0.kept.lock();
        let id = self.0.last.borrow().0 + 1;
        if kept.len() == self.0.capacity {
            kept.pop_front();
        }
        kept.push_back(Event {
            id,
            time: crate::clock::now(),
            level,
            kind: kind.to_owned(),
            array: array.map(str::to_owned),
            member: member.map(str::to_owned),
            message: message.into(),
        });
        // Under the lock, so that the number never runs ahead of another thread's event.
        self.0.last.send_modify(|last| last.0 = id);
    }

    /// Ends every stream once it has given what is there.
    pub fn close(&self) {
        self.0.last.send_modify(|last| last.1 = false);
    }

    #[must_use]
    pub fn stream(&self, which: Events) -> EventStream {
        match which {
            Events::Kept { after } => self.kept(after),
            Events::Follow { after } => self.follow(after),
        }
    }

    /// The events after the number `after` as far as they are kept, and none that comes from now on.
    fn kept(&self, after: u64) -> EventStream {
        let (last, _) = *self.0.last.borrow();
        let state = (Arc::clone(&self.0), after);
        stream::unfold(state, move |(shared, position)| {
            let next = shared.next_after(position);
            let next = next.filter(|event| event.id <= last);
            future::ready(next.map(|event| {
                let position = event.id;
                (Ok(event), (shared, position))
            }))
        })
        .boxed()
    }

    /// The events after the number `after` as far as they are kept, or only new ones; then each as it
    /// happens.
    #[must_use]
    pub fn follow(&self, after: Option<u64>) -> EventStream {
        let mut watched = self.0.last.subscribe();
        let position = after.unwrap_or_else(|| watched.borrow_and_update().0);
        watched.mark_changed();
        let state = (Arc::clone(&self.0), watched, position);
        stream::unfold(state, |(shared, mut watched, position)| async move {
            loop {
                watched.changed().await.ok()?;
                let (_, open) = *watched.borrow_and_update();
                let next = shared.next_after(position);
                if let Some(event) = next {
                    // There may be more at once: look again without waiting.
                    watched.mark_changed();
                    let position = event.id;
                    return Some((Ok(event), (shared, watched, position)));
                }
                if !open {
                    return None;
                }
            }
        })
        .boxed()
    }
}

impl Default for EventLog {
    fn default() -> Self {
        EventLog::new()
    }
}

impl Shared {
    fn next_after(&self, position: u64) -> Option<Event> {
        let kept = self.kept.lock();
        let index = kept.partition_point(|event| event.id <= position);
        kept.get(index).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(log: &EventLog, message: &str) {
        log.add(Level::Info, "test", None, None, message);
    }

    async fn next(stream: &mut EventStream) -> (u64, String) {
        let event = stream.next().await.unwrap().unwrap();
        (event.id, event.message)
    }

    #[tokio::test]
    async fn a_stream_gives_what_happens_after_it_began_and_ends_with_the_log() {
        let log = EventLog::starting_at(0, 10);
        add(&log, "before");
        let mut stream = log.follow(None);
        add(&log, "one");
        add(&log, "two");
        assert_eq!(next(&mut stream).await, (2, "one".into()));
        assert_eq!(next(&mut stream).await, (3, "two".into()));
        log.close();
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn who_resumes_gets_what_was_missed_and_sees_what_is_gone_by_the_gap() {
        let log = EventLog::starting_at(100, 3);
        for message in ["a", "b", "c", "d", "e"] {
            add(&log, message);
        }
        let mut stream = log.follow(Some(103));
        assert_eq!(next(&mut stream).await, (104, "d".into()));
        assert_eq!(next(&mut stream).await, (105, "e".into()));
        let mut stream = log.follow(Some(7));
        assert_eq!(next(&mut stream).await, (103, "c".into()));
    }

    #[tokio::test]
    async fn what_is_kept_ends_with_what_had_happened_when_it_was_asked_for() {
        let log = EventLog::starting_at(100, 3);
        for message in ["a", "b", "c", "d"] {
            add(&log, message);
        }
        let mut all = log.stream(Events::Kept { after: 0 });
        let mut one = log.stream(Events::Kept { after: 103 });
        let mut none = log.stream(Events::Kept { after: 104 });
        add(&log, "e");
        for expected in [(103, "c"), (104, "d")] {
            let (id, message) = next(&mut all).await;
            assert_eq!((id, message.as_str()), expected);
        }
        assert_eq!(next(&mut one).await, (104, "d".into()));
        for stream in [&mut all, &mut one, &mut none] {
            assert!(stream.next().await.is_none());
        }
    }
}
