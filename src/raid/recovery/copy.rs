//! Copying transactions from one member to another, and comparing them.

use std::time::Instant;

use super::super::view::Reader;
use super::analyse::{empty_it, is_emptied, is_packed, same, went_on};
use super::{Halt, Job, is_past};
use crate::job::Amount;
use crate::storage::{Fault, History, Storage};
use crate::zodb::{HistoryTxn, Tid, TidRange, TxnStatus};

/// A batch is written by the target at once, and made durable as a whole.
const BATCH_BYTES: u64 = 8 << 20;
const BATCH_TRANSACTIONS: u64 = 4096;
/// Where the target makes each transaction durable by itself, more of them at once gain nothing; and the
/// next batch is read while this one is written, so that the first should not be long in coming.
const BATCH_ONE_BY_ONE: u64 = 64;

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
        let history = source.storage.iterate(range);
        let mut history = self.within(history, Halt::Source).await?;
        let next = self.next_batch(source, target, &mut *history, until);
        let mut batch = next.await?;
        while let [first, ..] = &*batch
            && let Some(last) = batch.last().map(|transaction| transaction.tid)
        {
            let first = first.tid;
            let packed = batch.iter().filter(|transaction| is_packed(transaction));
            let packed = packed.map(|transaction| transaction.tid).max();
            self.packed = packed.unwrap_or_default().max(self.packed);
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
            self.still_ends_with(target, at).await?;
            // The next batch is read while this one is written.
            // MODEL: Copy
            let (written, next) = tokio::join!(
                self.restore(target, batch, amount.bytes),
                self.next_batch(source, target, &mut *history, until)
            );
            written?;
            self.nothing_came_between(target, at, first).await?;
            at = last;
            self.copied.transactions += amount.transactions;
            self.copied.bytes += amount.bytes;
            self.work.reached(at.to_string());
            self.work.did(amount);
            batch = next?;
        }
        Ok(at)
    }

    /// That the target still ends with what was copied or found last: a server takes whatever is later, and
    /// once something is copied upon what came from somebody else, an analysis does not see it any more.
    async fn still_ends_with(&self, target: &dyn Storage, at: Tid) -> Result<(), Halt> {
        if !target.capabilities().shared {
            return Ok(());
        }
        let last = self.within(target.last_tid(), Halt::Target).await?;
        if last > at {
            return Err(Halt::Overtaken(format!("it got {last} after {at}")));
        }
        Ok(())
    }

    /// That nothing came to the target before the first that was copied, after it was asked what it ends with.
    async fn nothing_came_between(
        &self,
        target: &dyn Storage,
        at: Tid,
        copied: Tid,
    ) -> Result<(), Halt> {
        if !target.capabilities().shared {
            return Ok(());
        }
        let range = TidRange {
            first: at.next(),
            last: copied,
        };
        let asked = async {
            let history = target.iterate(range).await;
            history?.next().await
        };
        match self.within(asked, Halt::Target).await? {
            Some(next) if next.tid < copied => {
                let reason = format!("it holds {}, and the array does not", next.tid);
                let next = empty_it(&self.name, target).unwrap_or_else(|| self.rebuild());
                Err(Halt::Differs { reason, next })
            }
            _ => Ok(()),
        }
    }

    async fn next_batch(
        &self,
        source: &Reader,
        target: &dyn Storage,
        history: &mut dyn History,
        until: Option<Instant>,
    ) -> Result<Vec<HistoryTxn>, Halt> {
        let most = self.batch(target, until);
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while bytes < most.bytes && (batch.len() as u64) < most.transactions {
            let next = self.within(history.next(), Halt::Source).await?;
            let Some(mut transaction) = next else { break };
            self.fetch_blobs(source, target, &mut transaction).await?;
            bytes += transaction.size();
            batch.push(transaction);
        }
        Ok(batch)
    }

    /// How much is read ahead and written at once, at most by one transaction more. Two batches are in
    /// memory at a time; records that are pieces of files count in full, although they are not.
    fn batch(&self, target: &dyn Storage, until: Option<Instant>) -> Amount {
        if until.is_some() {
            // Clients wait, and between two batches the time is looked at.
            return Amount {
                transactions: BATCH_ONE_BY_ONE,
                bytes: BATCH_BYTES / 8,
            };
        }
        let transactions = if target.capabilities().shared {
            BATCH_ONE_BY_ONE
        } else {
            BATCH_TRANSACTIONS
        };
        // Half a second's worth of the rate, so that a slow recovery goes on evenly.
        let rate = self.work.rate();
        let half = |rate: Option<u64>, most: u64| {
            rate.map_or(most, |per_second| (per_second / 2).clamp(1, most))
        };
        Amount {
            transactions: half(rate.transactions_per_second, transactions),
            bytes: half(rate.bytes_per_second, BATCH_BYTES),
        }
    }

    /// Compares everything up to `at`. From the first difference on the target is cut and copied
    /// again; what was cut is set aside.
    pub(super) async fn verify(
        &mut self,
        source: &Reader,
        target: &dyn Storage,
        at: Tid,
    ) -> Result<Tid, Halt> {
        let total = target.measure_after(Tid::ZERO);
        let total = self.within(total, Halt::Target).await?;
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
        let keep = self
            .rewind(target, (!keep.is_zero()).then_some(keep))
            .await?;
        self.copy_until_short(source, target, keep, false).await
    }

    /// What follows this transaction could not be read. Where it lies behind a network, that may have been the
    /// network: only its own operator could take it out, and is not sent to do so for nothing.
    async fn still_unreadable(
        &self,
        target: &dyn Storage,
        last: Tid,
        fault: Fault,
    ) -> Result<Option<Tid>, Halt> {
        if !target.capabilities().shared {
            return Ok(Some(last));
        }
        let again = async {
            let history = target.iterate(TidRange::after(last)).await;
            history?.next().await
        };
        match self.within(again, Halt::Target).await {
            Err(Halt::Target(Fault::Damaged(_) | Fault::Io { .. })) => Ok(Some(last)),
            Err(halt) => Err(halt),
            Ok(_) => Err(Halt::Target(fault)),
        }
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
        let ours = source.storage.iterate(range);
        let mut ours = self.within(ours, Halt::Source).await?;
        let theirs = target.iterate(range);
        let mut theirs = self.within(theirs, Halt::Target).await?;
        let mut last = Tid::ZERO;
        let (mut our_next, mut their_next) = (None, None);
        loop {
            if our_next.is_none() {
                our_next = self.within(ours.next(), Halt::Source).await?;
            }
            if their_next.is_none() {
                their_next = match self.within(theirs.next(), Halt::Target).await {
                    // What cannot be read is different.
                    Err(Halt::Target(fault @ (Fault::Damaged(_) | Fault::Io { .. }))) => {
                        return self.still_unreadable(target, last, fault).await;
                    }
                    next => next?,
                };
            }
            match (&our_next, &their_next) {
                (None, None) => return Ok(None),
                (Some(our), Some(their)) if our.tid == their.tid => {
                    if !same(our, their)? || !self.same_blobs(source, target, our, their).await? {
                        return Ok(Some(last));
                    }
                    last = our.tid;
                    let amount = Amount {
                        transactions: 1,
                        bytes: their.size(),
                    };
                    self.work.allow(amount).await?;
                    self.work.reached(last.to_string());
                    self.work.did(amount);
                    (our_next, their_next) = (None, None);
                }
                // Nothing of it is left: who lacks it lacks nothing.
                (Some(our), theirs)
                    if is_emptied(our)
                        && theirs.as_ref().is_none_or(|their| our.tid < their.tid) =>
                {
                    our_next = None;
                }
                (ours, Some(their))
                    if is_emptied(their) && ours.as_ref().is_none_or(|our| their.tid < our.tid) =>
                {
                    their_next = None;
                }
                // A transaction that packing removed from one of them: what follows in that one is
                // marked as packed.
                (Some(our), Some(their)) if our.tid < their.tid => {
                    let gone = went_on(target, our);
                    if their.meta.status != TxnStatus::Packed
                        || !self.within(gone, Halt::Target).await?
                    {
                        return Ok(Some(last));
                    }
                    our_next = None;
                }
                (Some(our), Some(their)) if our.meta.status == TxnStatus::Packed => {
                    let gone = went_on(&*source.storage, their);
                    if !self.within(gone, Halt::Source).await? {
                        return Ok(Some(last));
                    }
                    their_next = None;
                }
                _ => return Ok(Some(last)),
            }
        }
    }
}
