//! Questions about the history that ZEO has no call for, answered by iterating.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use super::Inner;
use super::iterate::{Headers, Iteration};
use crate::storage::{Extent, History, Result};
use crate::zodb::{Oid, Tid, TidRange};

/// How many transactions are asked for ahead.
const AHEAD: usize = 128;

/// Beyond so many the rest is estimated by time.
const COUNTED: u64 = 20_000;

/// So many transactions are read with their records; the others are taken to be as large.
const WEIGHED: u64 = 64;
const WEIGHED_BYTES: u64 = 8 << 20;

/// What a transaction and a record take in a `Data.fs` beside their texts and data, in bytes.
const TXN_BYTES: u64 = 31;
const RECORD_BYTES: u64 = 42;

/// Who missed more transactions, or more bytes, than this is not told what was in them.
const MISSED: usize = 1000;
const MISSED_BYTES: u64 = 32 << 20;

/// A second, as TIDs count.
const SECOND: u64 = (1 << 32) / 60;

/// There is no iterating backwards over ZEO. TIDs are times: what lies in the last seconds is looked at
/// first, and then in longer and longer times before them.
pub(super) async fn tids_before(inner: &Arc<Inner>, before: Tid, count: usize) -> Result<Vec<Tid>> {
    let end = Tid(before.0.saturating_sub(1)).min(inner.heard.ledger.last());
    tids_through(inner, end, count).await
}

/// The last transaction that is not later than `end`; zero where there is none.
pub(super) async fn last_through(inner: &Arc<Inner>, end: Tid) -> Result<Tid> {
    let last = tids_through(inner, end, 1).await?;
    Ok(last.first().copied().unwrap_or(Tid::ZERO))
}

async fn tids_through(inner: &Arc<Inner>, mut end: Tid, count: usize) -> Result<Vec<Tid>> {
    inner.heard.alive()?;
    let mut found: Vec<Tid> = Vec::new();
    if count == 0 || end.is_zero() {
        return Ok(found);
    }
    let mut span = 10 * SECOND;
    loop {
        let range = TidRange {
            first: Tid(end.0.saturating_sub(span)),
            last: end,
        };
        let missing = count - found.len();
        let newest = inner.over_reader(|link| async move {
            let mut headers = Headers::begin(&link, range).await?;
            let mut window = VecDeque::new();
            while let Some((tid, _)) = headers.next(AHEAD).await? {
                if window.len() == missing {
                    window.pop_front();
                }
                window.push_back(tid);
            }
            Ok(window)
        });
        found.extend(newest.await?.into_iter().rev());
        if found.len() >= count || range.first.is_zero() {
            return Ok(found);
        }
        end = Tid(range.first.0 - 1);
        span = span.saturating_mul(8);
    }
}

/// Counts, up to a limit; beyond it, and for the bytes beyond the first transactions, an estimate.
pub(super) async fn measure_after(inner: &Arc<Inner>, after: Tid) -> Result<Extent> {
    inner.heard.alive()?;
    let last = inner.heard.ledger.last();
    if after >= last {
        return Ok(Extent::default());
    }
    let range = TidRange {
        first: after.next(),
        last,
    };
    let mut weighed = Extent::default();
    let mut at = after;
    let mut bodies = Iteration::begin(inner, range).await?;
    while weighed.transactions < WEIGHED && weighed.bytes < WEIGHED_BYTES {
        let Some(txn) = bodies.next().await? else {
            return Ok(weighed);
        };
        at = txn.tid;
        weighed.transactions += 1;
        let texts = txn.meta.user.len() + txn.meta.description.len() + txn.meta.extension.len();
        weighed.bytes += txn.size() + TXN_BYTES + texts as u64;
        weighed.bytes += RECORD_BYTES * txn.records.len() as u64;
    }
    drop(bodies);
    let weighed_to = at;
    let rest = TidRange {
        first: weighed_to.next(),
        last,
    };
    let counted = inner.over_reader(|link| async move {
        let mut headers = Headers::begin(&link, rest).await?;
        let mut transactions = weighed.transactions;
        while let Some((at, _)) = headers.next(AHEAD).await? {
            transactions += 1;
            if transactions >= COUNTED {
                let (span, seen) = (last.0 - after.0, (at.0 - after.0).max(1));
                transactions = (transactions as f64 * (span as f64 / seen as f64)) as u64;
                break;
            }
        }
        Ok(transactions)
    });
    let transactions = counted.await?;
    let average = weighed.bytes as f64 / weighed.transactions as f64;
    Ok(Extent {
        transactions,
        bytes: (average * transactions as f64) as u64,
    })
}

/// The oids that were written after `since` and up to `last`; none where that is too much to read.
pub(super) async fn written_after(
    inner: &Arc<Inner>,
    since: Tid,
    last: Tid,
) -> Result<Option<Vec<Oid>>> {
    let range = TidRange {
        first: since.next(),
        last,
    };
    let mut oids = BTreeSet::new();
    let (mut transactions, mut bytes) = (0, 0);
    let mut iteration = Iteration::begin(inner, range).await?;
    while let Some(txn) = iteration.next().await? {
        transactions += 1;
        bytes += txn.size();
        if transactions > MISSED || bytes > MISSED_BYTES {
            return Ok(None);
        }
        oids.extend(txn.records.iter().map(|record| record.oid));
    }
    Ok(Some(oids.into_iter().collect()))
}
