//! Copying transactions from one member to another, and comparing them.

use std::time::Instant;

use super::super::view::Reader;
use super::analyse::same;
use super::{Halt, Job, failed, is_past};
use crate::job::Amount;
use crate::storage::{History, Storage};
use crate::zodb::{HistoryTxn, Tid, TidRange, TxnStatus};

/// A batch is written by the target at once, and made durable as a whole.
const BATCH_BYTES: u64 = 8 << 20;
const BATCH_TRANSACTIONS: usize = 4096;

impl Job {
    /// Copies the transactions of `range` and says which was the last. Ends early at `until`; then
    /// the rate does not count either, because clients wait.
    pub(super) async fn copy(
        &mut self,
        source: &Reader,
        target: &dyn Storage,
        range: TidRange,
        until: Option<Instant>,
    ) -> Result<Tid, Halt> {
        let mut at = Tid(range.first.0.saturating_sub(1));
        if range.first > range.last {
            return Ok(at);
        }
        let history = source.storage.iterate(range).await;
        let mut history = history.map_err(|error| failed("reading the source", error))?;
        let mut batch = self.next_batch(&mut *history).await?;
        while let Some(last) = batch.last().map(|transaction| transaction.tid) {
            if is_past(until) {
                break;
            }
            let amount = Amount {
                transactions: batch.len() as u64,
                bytes: batch.iter().map(HistoryTxn::size).sum(),
            };
            if until.is_none() {
                self.work.allow(amount).await?;
            } else {
                self.work.check()?;
            }
            // The next batch is read while this one is written.
            let (written, next) =
                tokio::join!(target.restore(batch), self.next_batch(&mut *history));
            written.map_err(|error| failed("writing to the target", error))?;
            at = last;
            self.work.did(amount);
            batch = next?;
        }
        Ok(at)
    }

    async fn next_batch(&self, history: &mut dyn History) -> Result<Vec<HistoryTxn>, Halt> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH_BYTES && batch.len() < BATCH_TRANSACTIONS {
            let next = history.next().await;
            let next = next.map_err(|error| failed("reading the source", error))?;
            let Some(transaction) = next else { break };
            bytes += transaction.size();
            batch.push(transaction);
        }
        Ok(batch)
    }

    /// Compares everything up to `at`. From the first difference on the target is cut and copied
    /// again; what was cut is set aside.
    pub(super) async fn verify(
        &mut self,
        source: &Reader,
        target: &dyn Storage,
        at: Tid,
    ) -> Result<Tid, Halt> {
        let total = target.measure_after(Tid::ZERO).await;
        let total = total.map_err(|error| failed("verifying", error))?;
        self.work.begin(
            "verify",
            Amount {
                transactions: total.transactions,
                bytes: total.bytes,
            },
        );
        let Some(keep) = self.first_difference(source, target, at).await? else {
            return Ok(at);
        };
        tracing::warn!(member = self.name, after = %keep, "the copy differs from the array");
        self.rewind(target, (!keep.is_zero()).then_some(keep))
            .await?;
        self.copy_until_short(source, target, keep).await
    }

    /// The last transaction before the first difference; none where there is no difference.
    async fn first_difference(
        &mut self,
        source: &Reader,
        target: &dyn Storage,
        at: Tid,
    ) -> Result<Option<Tid>, Halt> {
        let range = TidRange {
            first: Tid::ZERO,
            last: at,
        };
        let ours = source.storage.iterate(range).await;
        let mut ours = ours.map_err(|error| failed("reading the source", error))?;
        let Ok(mut theirs) = target.iterate(range).await else {
            return Ok(Some(Tid::ZERO));
        };
        let mut last = Tid::ZERO;
        let (mut our_next, mut their_next) = (None, None);
        loop {
            if our_next.is_none() {
                let next = ours.next().await;
                our_next = next.map_err(|error| failed("reading the source", error))?;
            }
            if their_next.is_none() {
                // What cannot be read is different.
                let Ok(next) = theirs.next().await else {
                    return Ok(Some(last));
                };
                their_next = next;
            }
            match (&our_next, &their_next) {
                (None, None) => return Ok(None),
                (Some(our), Some(their)) if our.tid == their.tid => {
                    let equal = same(our, their);
                    if !equal.map_err(|error| failed("verifying", error))? {
                        return Ok(Some(last));
                    }
                    last = our.tid;
                    let amount = Amount {
                        transactions: 1,
                        bytes: their.size(),
                    };
                    self.work.allow(amount).await?;
                    self.work.did(amount);
                    (our_next, their_next) = (None, None);
                }
                // A transaction that packing removed from one of them: what follows in that one is
                // marked as packed.
                (Some(our), Some(their)) if our.tid < their.tid => {
                    if their.meta.status != TxnStatus::Packed {
                        return Ok(Some(last));
                    }
                    our_next = None;
                }
                (Some(our), Some(_)) if our.meta.status == TxnStatus::Packed => their_next = None,
                _ => return Ok(Some(last)),
            }
        }
    }
}
