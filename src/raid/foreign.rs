//! What others write to the members: hearing of it, passing it on, and making members level.
//!
//! What is to be done about it is decided in `controller/coop.rs`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::controller::{Event, Generation, MemberId, Now};
use super::recovery::{self, is_blob, same};
use super::runner::{Core, Runner, as_fault};
use super::view::View;
use crate::storage::{
    Answer, Committed, Fault, Invalidations, Result, Storage, StorageError, in_time, is_blob_record,
};
use crate::zodb::{HistoryTxn, Oid, Tid, TidRange};

/// How often a member is made level anew because somebody else was doing the same.
const TRIES: u32 = 8;
/// Of what was told of a transaction, so many objects are looked at.
const LOOKED_AT: usize = 4;
/// How often a member is asked again for a transaction that it was said to hold: a server tells of one before
/// every connection to it can read it, the more so one of several processes over one database.
const ASKED_AGAIN: u32 = 10;
const ASKED_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// And where the daemon's own disk had no room for the answer.
const HERE_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// What is copied at once.
const BATCH_BYTES: u64 = 4 << 20;
const BATCH_TRANSACTIONS: usize = 256;

/// Who could not be asked when a member was made level.
enum Broken {
    Source(Fault),
    Target(Fault),
}

impl From<recovery::Broken> for Broken {
    fn from(broken: recovery::Broken) -> Self {
        match broken {
            recovery::Broken::Source(error) => Broken::Source(as_fault(error)),
            recovery::Broken::Target(error) => Broken::Target(as_fault(error)),
        }
    }
}

impl Runner {
    /// Listens to a member for as long as it is open: to what others write to it, and to its end, which
    /// nobody else would notice while nothing is asked of it.
    pub(super) async fn watch(
        self: Arc<Self>,
        member: MemberId,
        generation: Generation,
        storage: Arc<dyn Storage>,
        mut wake: Invalidations,
    ) {
        let stop = self.tasks.stop().clone();
        loop {
            // Both may be dropped: what was heard is in the other queue, which is emptied under the lock.
            crate::task::select! {
                heard = wake.next() => match heard {
                    Ok(_) => {
                        let mut core = self.lock_core();
                        self.take_foreign(&mut core, member);
                    }
                    Err(_) => break,
                },
                () = stop.requested() => return,
            }
        }
        // At a shutdown members are closed by us, and none of them is lost.
        if stop.is_requested() || self.look(|core| core.controller.is_stopping()) {
            return;
        }
        let fault = match self
            .in_time(&*storage, "lastTransaction", storage.last_tid())
            .await
        {
            Err(fault) => fault,
            Ok(_) => Fault::Closed("it told of more transactions than could be taken in".into()),
        };
        self.lost(member, generation, fault);
    }

    /// Tells the controller what a member has told of others. Called before anything is told that the
    /// member answered later.
    pub(super) fn take_foreign(self: &Arc<Self>, core: &mut Core, member: MemberId) {
        let Some(handle) = core.members.get_mut(&member) else {
            return;
        };
        let (Some((generation, _)), Some(told)) = (&handle.storage, &mut handle.told) else {
            return;
        };
        let generation = *generation;
        let mut heard = Vec::new();
        // An end is the watcher's to notice.
        while let Ok(Some(committed)) = told.try_next() {
            // One of ours that was given up when the array started anew, and was finished all the same.
            let is_ours = committed.by.is_some();
            if !is_ours || core.controller.is_disowned(committed.tid) {
                heard.push(committed);
            } else {
                // Should it be given up after this, the start has to know how far the member is.
                core.controller
                    .has_finished(member, generation, committed.tid);
            }
        }
        for Committed { tid, oids, .. } in heard {
            let event = Event::Foreign {
                member,
                generation,
                tid,
                oids,
            };
            let (_, effects) = core.controller.apply(Now::read(), event);
            self.carry_out(core, effects);
        }
    }

    /// INVARIANT 6, as for our own: the cache, then the subscribers and the head.
    pub(super) fn acknowledge_foreign(&self, tid: Tid, oids: Arc<[Oid]>) {
        self.cache.invalidate(tid, &oids);
        let committed = Committed {
            tid,
            oids,
            by: None,
        };
        self.remember(committed.clone());
        self.publisher.publish(&committed);
        self.counters.foreign.fetch_add(1, Ordering::Relaxed);
    }

    /// Asks a member which objects a transaction wrote, where what was told of it may not be all.
    pub(super) fn inquire(
        self: &Arc<Self>,
        core: &Core,
        tid: Tid,
        member: MemberId,
        after: Tid,
        told: Option<Arc<[Oid]>>,
    ) {
        let open = core.members.get(&member).and_then(|it| it.storage.clone());
        let Some((generation, storage)) = open else {
            return;
        };
        let runner = Arc::clone(self);
        self.tasks.spawn("question for a transaction", async move {
            if let Some(told) = told
                && runner.is_whole(&*storage, tid, &told).await
            {
                runner.feed(Event::ToldWhole { tid }).ok();
                return;
            }
            let range = TidRange {
                first: after.next(),
                last: tid,
            };
            let what = "a question for the objects of a transaction";
            let (mut again, mut has_failed_here) = (0, false);
            let fault = loop {
                let asking = written_in(&*storage, range);
                match runner.while_it_answers(&*storage, what, asking).await {
                    Ok((last, oids)) if last == tid => {
                        let oids = oids.into_iter().collect();
                        runner.feed(Event::Inquired { tid, oids }).ok();
                        return;
                    }
                    Ok(_) if again < ASKED_AGAIN => {
                        again += 1;
                        tokio::time::sleep(ASKED_AGAIN_AFTER).await;
                    }
                    Ok(_) => {
                        let text = format!("does not give transaction {tid} that it told of");
                        break Fault::Damaged(text);
                    }
                    Err(error) => match as_fault(error) {
                        // The daemon's own disk, of which it says so once: nobody else asks, and there may be room soon.
                        fault @ Fault::Here { .. } => {
                            if !std::mem::replace(&mut has_failed_here, true) {
                                runner.lost(member, generation, fault);
                            }
                            tokio::time::sleep(HERE_AGAIN_AFTER).await;
                            if !runner.is_open_as(member, generation) {
                                return;
                            }
                        }
                        fault => break fault,
                    },
                }
            };
            runner.lost(member, generation, fault);
        });
    }

    fn is_open_as(&self, member: MemberId, generation: Generation) -> bool {
        self.look(|core| {
            let open = core.members.get(&member).and_then(|it| it.storage.as_ref());
            open.is_some_and(|(open, _)| *open == generation)
        })
    }

    /// Whether what was told of a transaction is all that it wrote. It may not be where the transaction was
    /// restored and has blobs: then those alone were told. So one object that is no blob says that it was
    /// not restored, and mostly the cache knows one. (What a transaction deletes a server never tells, as
    /// little to clients of its own.)
    async fn is_whole(&self, storage: &dyn Storage, tid: Tid, told: &[Oid]) -> bool {
        if !storage.capabilities().blobs
            || told
                .iter()
                .any(|oid| self.cache.is_blob(*oid) == Some(false))
        {
            return true;
        }
        for oid in told.iter().take(LOOKED_AT) {
            let record = self.in_time(storage, "loadSerial", storage.load_serial(*oid, tid));
            match record.await {
                Ok(record) if is_blob_record(&record) => {}
                Ok(_) => return true,
                // Whatever it is, the longer question finds it too.
                Err(_) => return false,
            }
        }
        false
    }

    /// Copies what some members lack from one that holds it.
    pub(super) fn level(
        self: &Arc<Self>,
        core: &Core,
        source: MemberId,
        targets: Vec<MemberId>,
        after: Tid,
        through: Tid,
    ) {
        let open = |id: MemberId| core.members.get(&id).and_then(|it| it.storage.clone());
        let Some((source_generation, from)) = open(source) else {
            return;
        };
        for target in targets {
            let Some((generation, to)) = open(target) else {
                continue;
            };
            let (runner, from) = (Arc::clone(self), Arc::clone(&from));
            self.tasks.spawn("levelling of a member", async move {
                match runner.make_level(&*from, &*to, after, through).await {
                    Ok(()) => {
                        let event = Event::Levelled {
                            member: target,
                            generation,
                            tid: through,
                        };
                        runner.feed(event).ok();
                    }
                    Err(Broken::Target(fault)) => runner.lost(target, generation, fault),
                    Err(Broken::Source(fault)) => runner.lost(source, source_generation, fault),
                }
            });
        }
    }

    async fn make_level(
        &self,
        source: &dyn Storage,
        target: &dyn Storage,
        after: Tid,
        through: Tid,
    ) -> std::result::Result<(), Broken> {
        let mut refused = 0;
        loop {
            // It may have got it meanwhile, from the other daemon or from whoever else makes it level. And
            // what it really holds counts, not what was thought of it.
            let at = self
                .in_time(target, "lastTransaction", target.last_tid())
                .await
                .map_err(Broken::Target)?;
            // A server may have finished late what was given up elsewhere, or the other daemon may have left
            // that on it alone: what comes next would hide it.
            let range = TidRange {
                first: after.next(),
                last: at.min(through),
            };
            // MODEL: Level
            self.must_be_same(source, target, range).await?;
            if at >= through {
                return Ok(());
            }
            let range = TidRange {
                first: at.next(),
                last: through,
            };
            let what = "being made level";
            let batch = self.in_time(source, what, batch(source, range)).await;
            let mut batch = batch.map_err(Broken::Source)?;
            if batch.is_empty() {
                let text =
                    format!("does not give the transactions up to {through} that it told of");
                return Err(Broken::Source(Fault::Damaged(text)));
            }
            self.add_blobs(source, target, &mut batch).await?;
            let bytes = batch.iter().map(HistoryTxn::size).sum();
            let patience = self.patience(bytes) + self.options.transaction_timeout;
            match tokio::time::timeout(patience, target.restore(batch)).await {
                Ok(Ok(())) => {}
                // Somebody else was faster.
                Ok(Err(StorageError::Answer(Answer::Invalid(_)))) if refused < TRIES => {
                    refused += 1;
                }
                Ok(Err(error)) => return Err(Broken::Target(as_fault(error))),
                Err(_) => return Err(Broken::Target(self.timeout("being made level"))),
            }
        }
    }

    /// What the target holds in `range` must be what the source holds there.
    async fn must_be_same(
        &self,
        source: &dyn Storage,
        target: &dyn Storage,
        range: TidRange,
    ) -> std::result::Result<(), Broken> {
        if range.first > range.last {
            return Ok(());
        }
        let what = "being compared";
        let ours = self.in_time(source, what, source.iterate(range)).await;
        let theirs = self.in_time(target, what, target.iterate(range)).await;
        let mut ours = ours.map_err(Broken::Source)?;
        let mut theirs = theirs.map_err(Broken::Target)?;
        loop {
            let our = self.in_time(source, what, ours.next()).await;
            let their = self.in_time(target, what, theirs.next()).await;
            let pair = (our.map_err(Broken::Source)?, their.map_err(Broken::Target)?);
            let tid = match &pair {
                (None, None) => return Ok(()),
                (Some(our), Some(their)) if our.tid == their.tid && same(our, their)? => continue,
                (Some(our), Some(their)) => our.tid.min(their.tid),
                (Some(one), None) | (None, Some(one)) => one.tid,
            };
            let text =
                format!("differs from the others in transaction {tid}, which is not acknowledged");
            return Err(Broken::Target(Fault::Damaged(text)));
        }
    }

    /// Adds the files of blobs to their records, where they do not lie in a folder that all share.
    async fn add_blobs(
        &self,
        source: &dyn Storage,
        target: &dyn Storage,
        batch: &mut [HistoryTxn],
    ) -> std::result::Result<(), Broken> {
        let both = source.capabilities().blobs && target.capabilities().blobs;
        if self.blobs.with_members() || !both {
            return Ok(());
        }
        for transaction in batch {
            let tid = transaction.tid;
            for record in &mut transaction.records {
                if !is_blob(record).map_err(Broken::Source)? {
                    continue;
                }
                let what = "a blob for a member that lacks it";
                let fetching = source.load_blob(record.oid, tid);
                record.blob = match self.while_it_answers(source, what, fetching).await {
                    Ok(blob) => Some(blob),
                    // Lost before: the copy is as good as the source without it.
                    Err(StorageError::Answer(Answer::NoSuchObject(_))) => None,
                    Err(error) => return Err(Broken::Source(as_fault(error))),
                };
            }
        }
        Ok(())
    }

    /// What a member answers within its timeout.
    pub(super) async fn in_time<T>(
        &self,
        storage: &dyn Storage,
        what: &'static str,
        call: impl Future<Output = Result<T>>,
    ) -> std::result::Result<T, Fault> {
        match in_time(storage, self.options.member_timeout, call).await {
            Some(answer) => answer.map_err(as_fault),
            None => Err(self.timeout(what)),
        }
    }

    /// The last transaction that any member of the in-sync set holds, once it is acknowledged here: a
    /// client that comes from another daemon has perhaps seen it, and refuses whoever is behind.
    ///
    /// # Errors
    /// Where the array does not serve, or the members stay apart.
    pub(super) async fn newest(self: &Arc<Self>) -> Result<Tid> {
        let view = self.view();
        if !view.serving.can_read() {
            return Err(super::read::not_serving(&view).into());
        }
        let newest = self.furthest_end(&view).await;
        // Nearly always it is: nobody subscribes for that.
        if self.publisher.head() < newest {
            let mut heads = self.publisher.subscribe();
            let reached = async {
                while self.publisher.head() < newest {
                    if heads.next().await.is_err() {
                        break;
                    }
                }
            };
            // What is left half finished is made level or dropped within that time.
            let limit = self.options.member_timeout * 2;
            drop(tokio::time::timeout(limit, reached).await);
        }
        let view = self.view();
        if !view.serving.can_read() {
            return Err(super::read::not_serving(&view).into());
        }
        // Who held it may be lost by now, and with it this.
        if view.head < newest && self.furthest_end(&view).await >= newest {
            let behind = format!(
                "its members hold {newest}, and here {} is the last that is acknowledged",
                view.head
            );
            return Err(Fault::NotServing(behind).into());
        }
        Ok(view.head)
    }

    /// The last transaction that any of these members holds. Who does not say is lost.
    async fn furthest_end(self: &Arc<Self>, view: &View) -> Tid {
        let asked = view.readers.iter().map(|reader| async {
            let storage = &*reader.storage;
            let asked = self.in_time(storage, "lastTransaction", storage.last_tid());
            match asked.await {
                Ok(last) => last,
                Err(fault) => {
                    self.lost(reader.member, reader.generation, fault);
                    Tid::ZERO
                }
            }
        });
        let ends = futures_util::future::join_all(asked).await;
        ends.into_iter().max().unwrap_or_default()
    }
}

/// The first transactions of `range`, without the files of their blobs.
async fn batch(source: &dyn Storage, range: TidRange) -> Result<Vec<HistoryTxn>> {
    let mut history = source.iterate(range).await?;
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while bytes < BATCH_BYTES && batch.len() < BATCH_TRANSACTIONS {
        let Some(transaction) = history.next().await? else {
            break;
        };
        bytes += transaction.size();
        batch.push(transaction);
    }
    Ok(batch)
}

/// The last transaction of `range`, and the objects that all of them wrote.
async fn written_in(storage: &dyn Storage, range: TidRange) -> Result<(Tid, BTreeSet<Oid>)> {
    let mut history = storage.iterate(range).await?;
    let (mut last, mut oids) = (Tid::ZERO, BTreeSet::new());
    while let Some(transaction) = history.next().await? {
        last = transaction.tid;
        oids.extend(transaction.records.iter().map(|record| record.oid));
    }
    Ok((last, oids))
}
