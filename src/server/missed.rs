//! What a client has missed: `getInvalidations`, by which one that returns verifies its cache.
//!
//! The storage remembers what its last transactions wrote. Where that does not reach back to the client's
//! last one, and that is younger than the *invalidation age*, the transactions in between are read, as by
//! Python's server (`StorageServer.get_invalidations`). Else there is no answer, and the client drops its
//! cache.
//!
//! After a restart of the daemon all clients return at the same moment, and each of them would have the same
//! history read. Two at a time read; who has waited too long for that drops its cache.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::info;

use crate::refused::Refused;
use crate::storage::{Result, Storage};
use crate::zodb::{Oid, Tid, TidRange};

/// A client that has missed more than this many objects is better off without its cache.
const MOST: usize = 1 << 20;

/// So many clients have the history read at the same time.
const AT_ONCE: usize = 2;

/// So long a client waits for its turn; it waits 30 seconds for the whole answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reading the history of one storage for clients that missed more than it remembers.
pub(super) struct Past {
    /// How old a client's last transaction may be; none: the history is not read.
    age: Option<Duration>,
    turns: Semaphore,
    /// A client may ask as often as it likes.
    told: Refused,
}

impl Past {
    pub(super) fn new(age: Option<Duration>) -> Self {
        Past {
            age,
            turns: Semaphore::new(AT_ONCE),
            told: Refused::default(),
        }
    }
}

/// The last transaction, and what was written after `since`; none where that is too long ago.
pub(super) async fn since(
    storage: &dyn Storage,
    since: Tid,
    past: &Past,
) -> Result<Option<(Tid, Vec<Oid>)>> {
    let (last, oids) = storage.invalidations_since(since).await?;
    if last.is_zero() {
        return Ok(None);
    }
    if let Some(mut oids) = oids {
        if bug!(ForgetOneInvalidation) {
            oids.pop();
        }
        return Ok(Some((last, oids)));
    }
    if !past
        .age
        .is_some_and(|age| is_younger(since, age, crate::clock::now()))
    {
        return Ok(None);
    }
    let Ok(Ok(_turn)) = tokio::time::timeout(PATIENCE, past.turns.acquire()).await else {
        let waited_s = PATIENCE.as_secs();
        if let Some(unsaid) = past.told.tell("", "turns", Instant::now()) {
            info!(%since, waited_s, unsaid, "others have the history read; a client drops its cache");
        }
        return Ok(None);
    };
    let range = TidRange {
        first: since.next(),
        last,
    };
    let mut history = storage.iterate(range).await?;
    let mut oids = BTreeSet::new();
    while let Some(transaction) = history.next().await? {
        oids.extend(transaction.records.iter().map(|record| record.oid));
        if oids.len() > MOST {
            return Ok(None);
        }
    }
    Ok(Some((last, oids.into_iter().collect())))
}

fn is_younger(tid: Tid, age: Duration, now: Timestamp) -> bool {
    let Some(time) = tid.time() else {
        return false;
    };
    // One of the future, by a clock that was wrong, is younger than any age.
    let passed = now.duration_since(time);
    Duration::try_from(passed).map_or(true, |passed| passed < age)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::file::{FileOptions, FileStorage};
    use crate::storage::suite::commit;

    /// Where the queue of the storage reaches back to two transactions.
    #[tokio::test]
    async fn the_queue_is_asked_first_and_the_file_for_who_is_young_enough() {
        let folder = tempfile::tempdir().unwrap();
        let options = FileOptions {
            invalidation_queue: 2,
            ..FileOptions::default()
        };
        let path = folder.path().join("Data.fs");
        let storage = FileStorage::open(&path, options).await.unwrap();
        let hour = Some(Duration::from_hours(1));
        let ask = async |tid, age| since(&storage, tid, &Past::new(age)).await;
        assert_eq!(ask(Tid::ZERO, hour).await.unwrap(), None, "it is empty");

        let mut tids = Vec::new();
        for oid in 0..6 {
            tids.push(commit(&storage, &[(oid, Tid::ZERO, b"data")]).await);
        }
        let last = tids[5];
        let oids = |oids: std::ops::Range<u64>| Some((last, oids.map(Oid).collect::<Vec<_>>()));
        // What the queue knows it tells, also to who is older than the age.
        let short = Some(Duration::ZERO);
        for age in [None, short, hour] {
            assert_eq!(ask(last, age).await.unwrap(), oids(6..6));
            assert_eq!(ask(tids[3], age).await.unwrap(), oids(4..6));
        }
        for age in [None, short] {
            assert_eq!(ask(tids[0], age).await.unwrap(), None, "{age:?}");
        }
        assert_eq!(ask(tids[0], hour).await.unwrap(), oids(1..6));
        // Between two transactions, and before all of them, but not long ago.
        let between = Tid(tids[1].0 + 1);
        assert_eq!(ask(between, hour).await.unwrap(), oids(2..6));
        assert_eq!(ask(Tid(tids[0].0 - 1), hour).await.unwrap(), oids(0..6));
        let long_ago = Tid::from_time(crate::clock::now() - Duration::from_hours(2));
        assert_eq!(ask(long_ago, hour).await.unwrap(), None);
    }

    #[tokio::test]
    async fn who_gets_no_turn_drops_its_cache_and_the_next_is_answered() {
        let folder = tempfile::tempdir().unwrap();
        let options = FileOptions {
            invalidation_queue: 1,
            ..FileOptions::default()
        };
        let path = folder.path().join("Data.fs");
        let storage = FileStorage::open(&path, options).await.unwrap();
        let mut tids = Vec::new();
        for oid in 0..3 {
            tids.push(commit(&storage, &[(oid, Tid::ZERO, b"data")]).await);
        }
        let past = Past::new(Some(Duration::from_hours(1)));
        let turns = past.turns.acquire_many(AT_ONCE as u32).await.unwrap();
        tokio::time::pause();
        assert_eq!(since(&storage, tids[0], &past).await.unwrap(), None);
        tokio::time::resume();
        drop(turns);
        let told = since(&storage, tids[0], &past).await.unwrap();
        assert_eq!(told, Some((tids[2], vec![Oid(1), Oid(2)])));
    }

    #[test]
    fn the_age_is_that_of_the_clients_last_transaction() {
        let now: Timestamp = "2026-11-20T09:16:41Z".parse().unwrap();
        let before = |seconds: u64| Tid::from_time(now - Duration::from_secs(seconds));
        let age = Duration::from_mins(1);
        assert!(is_younger(before(59), age, now));
        assert!(!is_younger(before(61), age, now));
        let future = Tid::from_time(now + Duration::from_secs(5));
        assert!(is_younger(future, age, now));
        assert!(!is_younger(Tid(7), age, now));
    }
}
