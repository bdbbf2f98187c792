//! Transactions: from `begin` to the end of `finish`.
//!
//! 1. `store` collects what the client asks. Nothing is written.
//! 2. `vote` waits for the place at the end of the file, then the thread that writes checks the serials
//!    against what is finished and what is being finished, and writes the whole transaction with the
//!    status byte `'c'`. The thread that syncs begins at once to make that durable.
//! 3. `finish` takes the transaction's place in the history and lets the next one vote. When the data
//!    is durable, the thread that syncs writes the status byte, makes that durable too, and shows the
//!    transaction to loads and subscribers.
//!
//! So a transaction with a final status byte is whole whatever the power does: the format has no
//! checksums. Finishes that come while a sync runs share the next one, and the sync that makes their
//! status bytes durable makes the data of those behind them durable as well: under load a transaction
//! costs less than one sync.
//!
//! What is dropped before its finish is cut from the end of the file. It is always the last that is
//! there: only one can be voted and not finished.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::engine::{Engine, Foreseen, Pending, Places, Tail};
use super::format::STATUS_AT;
use super::located::Located;
use super::on_a_thread;
use super::plan::{self, Files, Plan, Ready, unreadable};
use crate::durable::step;
use crate::storage::blobs::Placed;
use crate::storage::conflicts::is_enough;
use crate::storage::{
    Answer, Committed, Fault, Finishing, Operations, Result, StorageError, Transaction, TxnToken,
    Vote, Voted, store_each,
};
use crate::zodb::{Conflict, Oid, Op, Payload, Tid, TxnMeta, TxnStatus};

/// A transaction that collects.
pub(super) struct FileTransaction {
    work: Work,
    engine: Arc<Engine>,
    /// Kept while a client resolves conflicts, so that others cannot make new ones meanwhile.
    slot: Option<OwnedSemaphorePermit>,
}

struct Work {
    token: TxnToken,
    meta: TxnMeta,
    tid: Option<Tid>,
    ops: Arc<Operations>,
    files: Files,
    /// Where those are that it undoes, as far as that was seen before others waited.
    located: Option<Arc<Located>>,
}

impl FileTransaction {
    pub(super) fn begin(engine: &Arc<Engine>, meta: TxnMeta, tid: Option<Tid>) -> Result<Self> {
        engine.usable()?;
        if let Some(tid) = tid {
            must_be_later(tid, engine.tail.lock().last)?;
        }
        let work = Work {
            token: TxnToken::new(),
            meta,
            tid,
            ops: Arc::default(),
            files: Files::new(),
            located: None,
        };
        Ok(FileTransaction {
            work,
            engine: Arc::clone(engine),
            slot: None,
        })
    }
}

#[cfg(test)]
impl FileTransaction {
    /// For who has told of the transaction before it was begun.
    pub(super) fn known_as(mut self, token: TxnToken) -> Self {
        self.work.token = token;
        self
    }
}

impl Work {
    fn make_blobs_durable(mut self, engine: &Engine) -> Result<Self> {
        plan::drop_repeated(&mut self.ops).map_err(unreadable)?;
        plan::stage(engine, &self.ops, &mut self.files)?;
        Ok(self)
    }

    fn locate_undone(mut self, engine: &Arc<Engine>) -> Result<Self> {
        let mut undone = Vec::new();
        let mut walk = self.ops.walk();
        while let Some((_, op)) = walk.next_op().map_err(unreadable)? {
            if let Op::Undo { tid } = op {
                undone.push(tid);
            }
        }
        undone.sort_unstable();
        undone.dedup();
        self.located = Some(engine.locate(&undone.into())?);
        Ok(self)
    }
}

pub(super) fn must_be_later(tid: Tid, last: Tid) -> Result<(), Answer> {
    if tid > last {
        return Ok(());
    }
    Err(Answer::Invalid(format!(
        "transaction {tid} is not later than the last one, {last}"
    )))
}

#[async_trait]
impl Transaction for FileTransaction {
    fn token(&self) -> TxnToken {
        self.work.token
    }

    async fn store(&mut self, op: Op) -> Result<()> {
        self.engine.usable()?;
        if matches!(op, Op::StoreBlob { .. }) {
            self.engine.blob_directory()?;
        }
        Arc::make_mut(&mut self.work.ops).push(op);
        Ok(())
    }

    async fn store_all(&mut self, ops: &Arc<Operations>) -> Result<()> {
        if self.work.ops.count() > 0 {
            return store_each(self, ops).await;
        }
        self.engine.usable()?;
        if ops.have_blobs() {
            self.engine.blob_directory()?;
        }
        self.work.ops = Arc::clone(ops);
        Ok(())
    }

    async fn vote(mut self: Box<Self>) -> Result<Vote> {
        let engine = Arc::clone(&self.engine);
        let mut work = self.work;
        if work.ops.have_blobs() {
            // Before others are kept waiting: it may take long.
            work = on_a_thread({
                let engine = Arc::clone(&engine);
                move || work.make_blobs_durable(&engine)
            })
            .await??;
        }
        if work.ops.undo() {
            work = on_a_thread({
                let engine = Arc::clone(&engine);
                move || work.locate_undone(&engine)
            })
            .await??;
        }
        let slot = match self.slot.take() {
            Some(slot) => slot,
            None => engine.slot().await?,
        };
        let in_hand = Arc::clone(&engine.in_hand).acquire_owned().await;
        let in_hand = in_hand.map_err(|_| StorageError::Fault(engine.refusal()))?;
        let outcome = engine.ask(move |engine| {
            engine.usable()?;
            let conflicts = drop_conflicts(engine, &mut work)?;
            if !conflicts.is_empty() {
                return Ok(Outcome::Conflicts(Box::new(work), slot, conflicts));
            }
            let written = write(engine, work)?;
            Ok(Outcome::Ready(Box::new(FileVoted {
                engine: Arc::clone(engine),
                written: Some(written),
                slot: Some(slot),
                in_hand: Some(in_hand),
            })))
        });
        match outcome.await? {
            Err(error) => Err(error),
            Ok(Outcome::Ready(voted)) => Ok(Vote::Ready(voted)),
            Ok(Outcome::Conflicts(work, slot, conflicts)) => {
                let txn = FileTransaction {
                    work: *work,
                    engine,
                    slot: Some(slot),
                };
                Ok(Vote::Conflicts(Box::new(txn), conflicts))
            }
        }
    }
}

enum Outcome {
    Ready(Box<FileVoted>),
    Conflicts(Box<Work>, OwnedSemaphorePermit, Vec<Conflict>),
}

/// What would be current, were all finished that is being finished.
pub(super) fn foreseen(engine: &Engine, oid: Oid) -> Result<Option<Foreseen>, Fault> {
    // In this order: what is taken from the tail is in the index before.
    if let Some(foreseen) = engine.tail.lock().newest(oid) {
        return Ok(Some(foreseen));
    }
    let Some(position) = engine.state.read().index.get(oid) else {
        return Ok(None);
    };
    let current = engine.current_at(oid, position)?;
    Ok(Some(Foreseen {
        position,
        tid: current.tid,
        gone: current.gone,
    }))
}

/// Where the record of that is; 0 where there is none.
pub(super) fn newest_position(engine: &Engine, oid: Oid) -> u64 {
    if let Some(foreseen) = engine.tail.lock().newest(oid) {
        return foreseen.position;
    }
    engine.state.read().index.get(oid).unwrap_or(0)
}

/// Takes out what a client may store again, resolved. Any other disagreement is the answer.
fn drop_conflicts(engine: &Engine, work: &mut Work) -> Result<Vec<Conflict>> {
    let mut conflicts = Vec::new();
    let mut bytes = 0;
    let mut dropped = Vec::new();
    let mut walk = work.ops.walk();
    while let Some((number, op)) = walk.next_op().map_err(unreadable)? {
        match op {
            Op::Store { oid, serial, data }
            | Op::StoreBlob {
                oid, serial, data, ..
            } => {
                if let Some(current) = foreseen(engine, oid)?
                    && current.tid != serial
                    && !bug!(LoseConflictCheck)
                    && !is_enough(conflicts.len(), bytes)
                {
                    bytes += data.len();
                    conflicts.push(Conflict {
                        data: Some(data),
                        ..Conflict::new(oid, current.tid, serial)
                    });
                    dropped.push(number);
                }
            }
            Op::Delete { oid, serial } => {
                let current = foreseen(engine, oid)?.ok_or(Answer::NoSuchObject(oid))?;
                if current.tid != serial {
                    return Err(Answer::Conflict(Conflict::new(oid, current.tid, serial)).into());
                }
            }
            Op::CheckCurrent { oid, serial } => {
                let current = foreseen(engine, oid)?.filter(|current| !current.gone);
                let current = current.ok_or(Answer::NoSuchObject(oid))?;
                if current.tid != serial && !bug!(LoseCurrentCheck) {
                    let conflict = Conflict::new(oid, current.tid, serial);
                    return Err(Answer::ReadConflict(conflict).into());
                }
            }
            Op::Restore { .. } | Op::Undo { .. } => (),
        }
    }
    if !dropped.is_empty() {
        for number in &dropped {
            work.files.remove(number);
        }
        Arc::make_mut(&mut work.ops).drop_ops(dropped);
    }
    Ok(conflicts)
}

/// A transaction that is written with the status of an unfinished one.
struct Written {
    token: TxnToken,
    tid: Tid,
    begin: u64,
    end: u64,
    status: TxnStatus,
    places: Arc<Places>,
    blobs: Vec<Placed>,
    undone: Vec<Oid>,
    number: u64,
}

fn write(engine: &Arc<Engine>, work: Work) -> Result<Written> {
    let (begin, last) = {
        let tail = engine.tail.lock();
        (tail.end, tail.last)
    };
    let tid = match work.tid {
        Some(tid) => tid,
        None => Tid::for_commit(crate::clock::now(), last),
    };
    must_be_later(tid, last)?;
    let status = work.meta.status;
    let disk = Arc::clone(&engine.state.read().disk);
    let plan = Plan::new(engine, &*disk, tid, &work.meta, begin, &work.ops)?;
    let plan = plan.undoing(work.located);
    let written = plan.write(&work.ops, work.files).and_then(|ready| {
        let Ready {
            end,
            places,
            blobs,
            undone,
        } = ready;
        Ok((end, places, plan::place(blobs, tid)?, undone))
    });
    let (end, places, blobs, undone) = match written {
        Ok(written) => written,
        Err(error) => {
            cut(engine, &error);
            return Err(error);
        }
    };
    let number = {
        let mut tail = engine.tail.lock();
        tail.written += 1;
        tail.written
    };
    engine.wake_syncer();
    Ok(Written {
        token: work.token,
        tid,
        begin,
        end,
        status,
        places: Arc::new(places),
        blobs,
        undone,
        number,
    })
}

/// A record without data means that there is no object.
pub(super) fn not_empty(oid: Oid, data: Payload) -> Result<Payload, Answer> {
    if data.is_empty() {
        return Err(Answer::Invalid(format!("the state of {oid} is empty")));
    }
    Ok(data)
}

/// Takes everything that is not being finished from the end of the file. Only on the thread that
/// writes.
fn cut(engine: &Engine, why: &StorageError) {
    let end = engine.tail.lock().end;
    let disk = Arc::clone(&engine.state.read().disk);
    if let Err(error) = disk.set_len(end) {
        tracing::error!(reason = %why, "unfinished transaction");
        engine.poison(&engine.fault("cutting an unfinished transaction from", error));
    }
}

/// A transaction that waits for its finish.
struct FileVoted {
    engine: Arc<Engine>,
    /// These three are there until the finish.
    written: Option<Written>,
    slot: Option<OwnedSemaphorePermit>,
    in_hand: Option<OwnedSemaphorePermit>,
}

impl Voted for FileVoted {
    fn tid(&self) -> Option<Tid> {
        self.written.as_ref().map(|written| written.tid)
    }

    fn resolved(&self) -> &[Oid] {
        self.written.as_ref().map_or(&[], |written| &written.undone)
    }

    fn finish(mut self: Box<Self>) -> Finishing {
        let engine = Arc::clone(&self.engine);
        let (done, answer) = oneshot::channel();
        {
            let mut tail = engine.tail.lock();
            if tail.stop {
                drop(tail);
                return Box::pin(async move { Err(engine.refusal().into()) });
            }
            let (Some(mut written), Some(in_hand)) = (self.written.take(), self.in_hand.take())
            else {
                unreachable!("only a finish takes them, and it takes the whole");
            };
            for blob in &mut written.blobs {
                // Where the disk fails from here on, nobody knows until the file is opened again.
                blob.entrust();
            }
            tail.end = written.end;
            tail.last = written.tid;
            tail.foresee(written.tid, &written.places);
            tail.finishing.push_back(Pending {
                tid: written.tid,
                token: written.token,
                begin: written.begin,
                end: written.end,
                status: written.status.to_byte(),
                places: written.places,
                blobs: written.blobs,
                number: written.number,
                done,
                _in_hand: in_hand,
            });
        }
        engine.wake_syncer();
        // The next one may vote.
        drop(self.slot.take());
        Box::pin(async move {
            match answer.await {
                Ok(answer) => answer,
                Err(_) => Err(engine.refusal().into()),
            }
        })
    }
}

impl Drop for FileVoted {
    fn drop(&mut self) {
        let (Some(written), slot) = (self.written.take(), self.slot.take()) else {
            return;
        };
        // Where the thread is gone, the file is closed, and closing it cuts as well.
        self.engine.run(Box::new(move |engine| {
            if engine.usable().is_ok() {
                let aborted = Fault::Closed(format!("transaction {} was aborted", written.tid));
                cut(engine, &aborted.into());
            }
            // Files of blobs are taken back. The slot is held until nothing is there any more.
            drop(written);
            drop(slot);
        }));
    }
}

/// What one sync is for.
pub(super) struct Round {
    /// What it makes final: transactions whose data is durable.
    batch: Vec<Pending>,
    /// So many votes are durable after it.
    written: u64,
}

impl Round {
    /// What is written by now, the next sync makes durable.
    pub(super) fn begin(tail: &mut Tail, file: &Path) -> Round {
        tail.syncing = true;
        let durable = if step::mistake!(file, StatusBeforeData) {
            tail.written
        } else {
            tail.durable
        };
        let ready = tail.finishing.partition_point(|one| one.number <= durable);
        Round {
            batch: tail.finishing.drain(..ready).collect(),
            written: tail.written,
        }
    }
}

impl Engine {
    /// What the thread that syncs does, until it is told to stop and nothing is left to be finished.
    pub(super) fn sync_until_stopped(self: &Arc<Self>) {
        loop {
            let mut tail = self.tail.lock();
            tail.syncing = false;
            if tail.finishing.is_empty() {
                self.settled.notify_all();
            }
            while !tail.has_to_be_synced() && !tail.stop {
                self.to_sync.wait(&mut tail);
            }
            if tail.stop && tail.finishing.is_empty() {
                return;
            }
            let round = Round::begin(&mut tail, &self.paths.data);
            drop(tail);
            let written = self.make_final(&round);
            if !self.end_round(round, written.and_then(|()| self.sync())) {
                return;
            }
        }
    }

    /// Writes the status bytes of transactions whose data is durable.
    pub(super) fn make_final(&self, round: &Round) -> Result<(), Fault> {
        let disk = Arc::clone(&self.state.read().disk);
        for pending in &round.batch {
            disk.write_at(&[pending.status], pending.begin + STATUS_AT)
                .map_err(|error| self.fault("writing", error))?;
        }
        Ok(())
    }

    /// Makes all durable that is written.
    pub(super) fn sync(&self) -> Result<(), Fault> {
        if bug!(SkipSync) || step::mistake!(&self.paths.data, FinishNotSynced) {
            return Ok(());
        }
        let disk = Arc::clone(&self.state.read().disk);
        disk.sync().map_err(|error| self.fault("syncing", error))
    }

    /// Shows what is durable now. Where it is not known to be, that was the last round.
    pub(super) fn end_round(self: &Arc<Self>, round: Round, synced: Result<(), Fault>) -> bool {
        match synced {
            Ok(()) => {
                self.tail.lock().durable = round.written;
                self.show(round.batch);
                self.save_index_when_due();
                true
            }
            Err(fault) => {
                self.poison(&fault);
                for pending in round.batch {
                    drop(pending.done.send(Err(self.refusal().into())));
                }
                self.tail.lock().syncing = false;
                self.settled.notify_all();
                false
            }
        }
    }

    /// Shows transactions that are final.
    fn show(&self, batch: Vec<Pending>) {
        if batch.is_empty() {
            return;
        }
        {
            let mut state = self.state.write();
            let mut last_oid = self.last_oid.lock();
            for pending in &batch {
                let oids: Arc<[Oid]> = pending.places.iter().map(|place| place.oid).collect();
                let committed = Committed {
                    tid: pending.tid,
                    oids: Arc::clone(&oids),
                    by: Some(pending.token),
                };
                // INVARIANT 6: in every queue before any load can see it; loads wait for the state.
                self.publisher.publish(&committed);
                for place in pending.places.iter() {
                    state.index.insert(place.oid, place.position());
                    *last_oid = (*last_oid).max(place.oid);
                }
                state.recent.push(pending.tid, oids);
                state.last = pending.tid;
                state.end = pending.end;
            }
        }
        let mut tail = self.tail.lock();
        for pending in &batch {
            tail.forget(pending.tid, &pending.places);
        }
        drop(tail);
        for pending in batch {
            for blob in pending.blobs {
                blob.keep();
            }
            // Whoever dropped the future does not want to know.
            drop(pending.done.send(Ok(pending.tid)));
        }
    }
}
