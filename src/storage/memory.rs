//! A storage in memory: the model of the others, and a member for tests.
//!
//! Simple and obviously right before anything else. The history is a vector of whole transactions;
//! beside it is kept where the revisions of each object are. What every other storage answers is
//! compared with what this one answers.
//!
//! The data outlives the storage: a [`MemoryOpener`] gives the same data to each storage it opens,
//! as a file does. [`Faults`] makes calls fail or hang.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

use crate::storage::{
    Answer, Capabilities, Committed, CurrentRecord, Description, Extent, Fault, History,
    Invalidations, Loaded, Opener, Publisher, Result, Revision, SetAside, Size, Storage,
    StorageError, Transaction, TxnToken, Undoable, Value, pack_tid,
};
use crate::zodb::{Blob, HistoryTxn, Oid, Payload, RecordData, Tid, TidRange, TxnMeta};

mod commit;
mod faults;
mod kept;
mod pack;
mod undo;

use commit::MemoryTransaction;
pub use faults::{Faults, Gate, Moment};
use kept::Data;

/// Opens storages that all have the same data, one after the other.
#[derive(Debug, Clone)]
pub struct MemoryOpener {
    name: String,
    data: Arc<Mutex<Data>>,
    faults: Faults,
    server: bool,
    blobs: bool,
}

impl MemoryOpener {
    /// With no data yet.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        MemoryOpener {
            name: name.into(),
            data: Arc::default(),
            faults: Faults::new(),
            server: false,
            blobs: true,
        }
    }

    /// It has no place for the files of blobs.
    #[must_use]
    pub fn without_blobs(self) -> Self {
        MemoryOpener {
            blobs: false,
            ..self
        }
    }

    /// It behaves as a ZEO server does: one transaction after the other, others may write to it too, and
    /// only its operator can take something out of it.
    #[must_use]
    pub fn like_a_server(self) -> Self {
        MemoryOpener {
            server: true,
            ..self
        }
    }

    /// What happens at which moment, in this and in every storage it opens.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Every transaction that is kept, also while the storage is closed.
    #[must_use]
    pub fn transactions(&self) -> Vec<HistoryTxn> {
        self.data.lock().history.clone()
    }

    /// Changes what is kept behind the storage's back, as a bad disk or another program would.
    pub fn tamper(&self, change: impl FnOnce(&mut Vec<HistoryTxn>)) {
        let mut data = self.data.lock();
        let mut history = std::mem::take(&mut data.history);
        change(&mut history);
        *data = Data::of(history);
    }

    fn storage(&self) -> MemoryStorage {
        MemoryStorage(Arc::new(Inner {
            name: self.name.clone(),
            data: Arc::clone(&self.data),
            faults: self.faults.clone(),
            session: Mutex::default(),
            settled: Notify::new(),
            publisher: Publisher::new(),
            slot: Arc::new(Semaphore::new(1)),
            packing: AtomicBool::new(false),
            server: self.server,
            blobs: self.blobs,
        }))
    }
}

#[async_trait]
impl Opener for MemoryOpener {
    fn describe(&self) -> Description {
        describe(&self.name)
    }

    async fn open(&self) -> Result<Arc<dyn Storage>, Fault> {
        self.faults.reach(Moment::Open).await?;
        Ok(Arc::new(self.storage()))
    }

    async fn set_aside(&self) -> Result<SetAside, Fault> {
        if self.server {
            return Err(Fault::Unreachable("its operator alone can empty it".into()));
        }
        let old = std::mem::take(&mut *self.data.lock());
        Ok(SetAside {
            file: None,
            extent: extent(&old.history),
            unread: false,
        })
    }
}

fn describe(name: &str) -> Description {
    Description {
        kind: "memory",
        location: name.to_owned(),
    }
}

fn extent(transactions: &[HistoryTxn]) -> Extent {
    Extent {
        transactions: transactions.len() as u64,
        bytes: transactions.iter().map(HistoryTxn::size).sum(),
    }
}

/// A storage in memory. `Clone` shares it.
#[derive(Debug, Clone)]
pub struct MemoryStorage(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    data: Arc<Mutex<Data>>,
    faults: Faults,
    /// Locked before `data` where both are.
    session: Mutex<Session>,
    /// Told when a finish is settled.
    settled: Notify,
    publisher: Publisher,
    /// Who may write: a transaction from its vote to its finish. Fair: first come, first served.
    slot: Arc<Semaphore>,
    packing: AtomicBool,
    /// See [`MemoryOpener::like_a_server`].
    server: bool,
    blobs: bool,
}

/// What lasts from an opening to the next.
#[derive(Debug, Default)]
struct Session {
    refuses: Option<Fault>,
    /// Transactions between their finish and being kept, in the order of the finishes.
    finishing: VecDeque<Pending>,
}

#[derive(Debug)]
struct Pending {
    txn: HistoryTxn,
    token: TxnToken,
    ready: bool,
    done: oneshot::Sender<Result<Tid>>,
}

impl MemoryStorage {
    /// An empty storage that nobody will open again.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        MemoryOpener::new(name).storage()
    }

    /// What happens at which moment.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.0.faults
    }
}

impl Inner {
    fn usable(&self) -> Result<(), Fault> {
        self.session.lock().refuses.clone().map_or(Ok(()), Err)
    }

    async fn reach(&self, moment: Moment) -> Result<()> {
        self.usable()?;
        self.faults.reach(moment).await?;
        // It may have been closed meanwhile.
        self.usable()?;
        Ok(self.faults.answer(moment).map_or(Ok(()), Err)?)
    }

    /// The last TID, with those that are being finished.
    fn last_tid(&self) -> Tid {
        let session = self.session.lock();
        let finishing = session.finishing.back().map(|pending| pending.txn.tid);
        finishing.unwrap_or_else(|| self.data.lock().last)
    }

    /// Nothing is being finished any more.
    async fn settled(&self) {
        loop {
            let settled = self.settled.notified();
            if self.session.lock().finishing.is_empty() {
                return;
            }
            settled.await;
        }
    }

    /// A finish succeeded: it is kept as soon as all before it are.
    fn finish(&self, tid: Tid) {
        let mut session = self.session.lock();
        if let Some(pending) = session.finishing.iter_mut().find(|one| one.txn.tid == tid) {
            pending.ready = true;
        }
        while let Some(pending) = session.finishing.pop_front_if(|one| one.ready) {
            let oids: BTreeSet<Oid> = pending.txn.records.iter().map(|one| one.oid).collect();
            let committed = Committed {
                tid: pending.txn.tid,
                oids: oids.into_iter().collect(),
                by: Some(pending.token),
            };
            // INVARIANT 6: no load can see the transaction before it is in every queue.
            let mut data = self.data.lock();
            self.publisher.publish(&committed);
            data.append(pending.txn);
            // Whoever dropped the future does not want to know.
            drop(pending.done.send(Ok(committed.tid)));
        }
        drop(session);
        self.settled.notify_waiters();
    }

    /// Refuses everything from now on, as a file does whose state nobody knows; what was being
    /// finished is not kept.
    fn refuse(&self, fault: Fault) {
        let mut session = self.session.lock();
        for pending in session.finishing.drain(..) {
            drop(pending.done.send(Err(fault.clone().into())));
        }
        session.refuses.get_or_insert(fault);
        drop(session);
        self.publisher.cut_off();
        self.settled.notify_waiters();
    }

    /// What would be current, were all finished that is being finished: the TID, and whether there is
    /// an object.
    fn foreseen(&self, oid: Oid) -> Option<(Tid, bool)> {
        let session = self.session.lock();
        let finishing = session.finishing.iter().rev().find_map(|pending| {
            let mut records = pending.txn.records.iter().rev();
            let record = records.find(|record| record.oid == oid)?;
            Some((pending.txn.tid, record.data.payload().is_some()))
        });
        finishing.or_else(|| {
            let data = self.data.lock();
            let (tid, record) = data.current(oid)?;
            Some((tid, record.payload().is_some()))
        })
    }

    /// What a restored record holds: a back-pointer where the transaction that is pointed to has the
    /// same data for the object.
    fn restored(
        &self,
        oid: Oid,
        data: Option<Payload>,
        previous: Option<Tid>,
    ) -> Result<RecordData> {
        let there = previous.and_then(|tid| {
            let session = self.session.lock();
            let finishing = session.finishing.iter().find(|one| one.txn.tid == tid);
            let found = if let Some(pending) = finishing {
                let mut records = pending.txn.records.iter().rev();
                records.find(|one| one.oid == oid)?.data.payload().cloned()
            } else {
                let data = self.data.lock();
                data.written(oid, tid)?.data.payload().cloned()
            };
            Some((tid, found?))
        });
        match (data, there) {
            (None, Some((tid, data))) => Ok(RecordData::Back { tid, data }),
            (Some(data), Some((tid, same))) if data.same_as(&same).map_err(reading)? => {
                Ok(RecordData::Back { tid, data })
            }
            (Some(data), _) => Ok(RecordData::Data(data)),
            (None, None) => Ok(RecordData::Gone),
        }
    }
}

fn reading(error: std::io::Error) -> StorageError {
    Fault::io("reading a record's data", error).into()
}

#[async_trait]
impl Storage for MemoryStorage {
    fn describe(&self) -> Description {
        describe(&self.0.name)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            pipelined: !self.0.server,
            rewind: !self.0.server,
            undo: true,
            blobs: self.0.blobs,
            pack: true,
            backup: false,
            shared: self.0.server,
            read_only: false,
        }
    }

    fn size(&self) -> Size {
        let data = self.0.data.lock();
        Size {
            objects: data.objects.len() as u64,
            bytes: extent(&data.history).bytes,
        }
    }

    fn deadline_about(&self, _about: Oid, since: Instant, patience: Duration) -> Instant {
        let gets_on = self.0.faults.gets_on(Moment::Load);
        let since = if gets_on { Instant::now() } else { since };
        since + patience
    }

    async fn last_tid(&self) -> Result<Tid> {
        self.0.reach(Moment::Ask).await?;
        Ok(self.0.data.lock().last)
    }

    async fn load_before(&self, oid: Oid, before: Tid) -> Result<Option<Loaded>> {
        self.0.reach(Moment::Load).await?;
        let data = self.0.data.lock();
        let places = data.places(oid)?;
        let at = places.partition_point(|place| data.tid(*place) < before);
        let Some(place) = at.checked_sub(1).map(|at| places[at]) else {
            return Ok(None);
        };
        let payload = data
            .record(place)
            .payload()
            .ok_or(Answer::NoSuchObject(oid))?;
        Ok(Some(Loaded {
            data: payload.read().map_err(reading)?,
            tid: data.tid(place),
            end: places.get(at).map(|next| data.tid(*next)),
            as_of: data.last,
        }))
    }

    async fn load_serial(&self, oid: Oid, serial: Tid) -> Result<Bytes> {
        self.0.reach(Moment::Load).await?;
        let data = self.0.data.lock();
        let record = data.written(oid, serial);
        let payload = record.and_then(|record| record.data.payload());
        payload
            .ok_or(Answer::NoSuchObject(oid))?
            .read()
            .map_err(reading)
    }

    async fn current_tid(&self, oid: Oid) -> Result<Tid> {
        self.0.reach(Moment::Load).await?;
        match self.0.data.lock().current(oid) {
            Some((tid, record)) if record.payload().is_some() => Ok(tid),
            _ => Err(Answer::NoSuchObject(oid).into()),
        }
    }

    async fn new_oids(&self, count: usize, after: Oid) -> Result<Vec<Oid>> {
        self.0.reach(Moment::Ask).await?;
        let mut data = self.0.data.lock();
        let first = data.largest_oid.max(after).0;
        let last = first
            .checked_add(count as u64)
            .ok_or_else(|| Answer::Invalid("there are no object identifiers left".to_owned()))?;
        data.largest_oid = Oid(last);
        Ok((first + 1..=last).map(Oid).collect())
    }

    async fn history(&self, oid: Oid, count: usize) -> Result<Vec<Revision>> {
        self.0.reach(Moment::Load).await?;
        let data = self.0.data.lock();
        let newest_first = data.places(oid)?.iter().rev().take(count);
        let revisions = newest_first.map(|place| {
            let txn = &data.history[place.txn];
            Revision {
                tid: txn.tid,
                user: txn.meta.user.clone(),
                description: txn.meta.description.clone(),
                extension: txn.meta.extension.clone(),
                size: match data.record(*place) {
                    RecordData::Data(data) => data.len() as u64,
                    // A back-pointer has no data of its own.
                    RecordData::Back { .. } | RecordData::Gone => 0,
                },
            }
        });
        Ok(revisions.collect())
    }

    async fn record_from(&self, from: Oid) -> Result<Option<CurrentRecord>> {
        self.0.reach(Moment::Load).await?;
        let data = self.0.data.lock();
        let mut there = data.objects.range(from..).filter_map(|(oid, _)| {
            let (tid, record) = data.current(*oid)?;
            Some((*oid, tid, record.payload()?))
        });
        let Some((oid, tid, payload)) = there.next() else {
            return Ok(None);
        };
        Ok(Some(CurrentRecord {
            oid,
            tid,
            data: payload.read().map_err(reading)?,
            next: there.next().map(|(oid, ..)| oid),
        }))
    }

    async fn iterate(&self, range: TidRange) -> Result<Box<dyn History>> {
        self.0.reach(Moment::Iterate).await?;
        let data = self.0.data.lock();
        let of_range = data.history.iter().filter(|txn| range.contains(txn.tid));
        Ok(Box::new(Iteration {
            storage: Arc::clone(&self.0),
            rest: of_range.cloned().collect(),
            goes_on: false,
        }))
    }

    async fn tids_before(&self, before: Tid, count: usize) -> Result<Vec<Tid>> {
        self.0.reach(Moment::Iterate).await?;
        let data = self.0.data.lock();
        let end = data.history.partition_point(|txn| txn.tid < before);
        let newest_first = data.history[..end].iter().rev();
        Ok(newest_first.take(count).map(|txn| txn.tid).collect())
    }

    async fn load_blob(&self, oid: Oid, serial: Tid) -> Result<Blob> {
        if !self.0.blobs {
            return Err(Answer::Unsupported("blobs").into());
        }
        self.0.reach(Moment::LoadBlob).await?;
        let data = self.0.data.lock();
        let blob = data.written(oid, serial).and_then(|one| one.blob.clone());
        blob.ok_or_else(|| Answer::NoSuchObject(oid).into())
    }

    async fn undo_info(
        &self,
        first: i64,
        last: i64,
        specification: &Value,
    ) -> Result<Vec<Undoable>> {
        self.0.reach(Moment::Load).await?;
        let data = self.0.data.lock();
        undo::undo_info(&data, first, last, specification)
    }

    async fn pack(&self, time: f64) -> Result<()> {
        let stop = pack_tid(time)?;
        let _packing = Packing::new(&self.0)?;
        self.0.reach(Moment::Pack).await?;
        let _slot = slot(&self.0).await?;
        self.0.settled().await;
        let mut data = self.0.data.lock();
        let (largest_oid, last) = (data.largest_oid, data.last);
        *data = Data::of(pack::packed(&data, stop));
        // What was given out is not given out again.
        (data.largest_oid, data.last) = (largest_oid, last);
        Ok(())
    }

    async fn measure_after(&self, after: Tid) -> Result<Extent> {
        self.0.reach(Moment::Iterate).await?;
        let data = self.0.data.lock();
        Ok(extent(&data.history[data.after(after)..]))
    }

    async fn measure_undone(&self, tids: Arc<[Tid]>) -> Result<Option<u64>> {
        self.0.reach(Moment::Iterate).await?;
        let data = self.0.data.lock();
        let undone = data
            .history
            .iter()
            .filter(|txn| tids.binary_search(&txn.tid).is_ok());
        Ok(Some(undone.map(HistoryTxn::size).sum()))
    }

    async fn invalidations_since(&self, since: Tid) -> Result<(Tid, Option<Vec<Oid>>)> {
        self.0.reach(Moment::Ask).await?;
        let data = self.0.data.lock();
        let later = data.history[data.after(since)..].iter();
        let oids: BTreeSet<Oid> = later
            .flat_map(|txn| txn.records.iter().map(|record| record.oid))
            .collect();
        Ok((data.last, Some(oids.into_iter().collect())))
    }

    fn subscribe(&self) -> Invalidations {
        let invalidations = self.0.publisher.subscribe();
        if self.0.usable().is_err() {
            self.0.publisher.cut_off();
        }
        invalidations
    }

    async fn begin(&self, meta: TxnMeta, tid: Option<Tid>) -> Result<Box<dyn Transaction>> {
        self.0.reach(Moment::Begin).await?;
        if let Some(tid) = tid {
            must_be_later(tid, self.0.last_tid())?;
        }
        Ok(Box::new(MemoryTransaction {
            storage: Arc::clone(&self.0),
            token: TxnToken::new(),
            meta,
            tid,
            ops: Vec::new(),
            slot: None,
        }))
    }

    async fn restore(&self, batch: Vec<HistoryTxn>) -> Result<()> {
        let _slot = slot(&self.0).await?;
        self.0.settled().await;
        self.0.reach(Moment::Restore).await?;
        let mut last = self.0.last_tid();
        for txn in &batch {
            must_be_later(txn.tid, last)?;
            last = txn.tid;
            for record in &txn.records {
                if let Some(data) = record.data.payload() {
                    not_empty(record.oid, data)?;
                }
            }
        }
        for mut txn in batch {
            for record in &mut txn.records {
                if let RecordData::Back { tid, data } = &record.data {
                    record.data = self
                        .0
                        .restored(record.oid, Some(data.clone()), Some(*tid))?;
                }
            }
            self.0.data.lock().append(txn);
        }
        Ok(())
    }

    async fn rewind(&self, keep: Option<Tid>) -> Result<SetAside> {
        if self.0.server {
            return Err(Answer::Unsupported("cutting a server's history back").into());
        }
        let _slot = slot(&self.0).await?;
        self.0.settled().await;
        self.0.reach(Moment::Rewind).await?;
        let mut data = self.0.data.lock();
        let at = keep.map_or(0, |keep| data.after(keep));
        let mut history = std::mem::take(&mut data.history);
        let cut = history.split_off(at);
        *data = Data::of(history);
        Ok(SetAside {
            file: None,
            extent: extent(&cut),
            unread: false,
        })
    }

    async fn close(&self) {
        // A fault of closing is nobody's: it can only make it hang.
        drop(self.0.faults.reach(Moment::Close).await);
        self.0
            .refuse(Fault::Closed("the storage was closed".to_owned()));
    }
}

/// One pack at a time.
struct Packing<'a>(&'a Inner);

impl<'a> Packing<'a> {
    fn new(storage: &'a Inner) -> Result<Self, Answer> {
        if storage.packing.swap(true, Ordering::AcqRel) {
            return Err(Answer::Other {
                class: "ZODB.FileStorage.FileStorage.FileStorageError".into(),
                text: "Already packing".into(),
            });
        }
        Ok(Packing(storage))
    }
}

impl Drop for Packing<'_> {
    fn drop(&mut self) {
        self.0.packing.store(false, Ordering::Release);
    }
}

/// The place of a transaction that is voted, or of something that nothing may be voted beside.
async fn slot(storage: &Inner) -> Result<OwnedSemaphorePermit> {
    storage.usable()?;
    let slot = Arc::clone(&storage.slot).acquire_owned().await;
    let slot = slot.map_err(|_| Fault::Closed("the storage was closed".to_owned()))?;
    storage.usable()?;
    Ok(slot)
}

fn must_be_later(tid: Tid, last: Tid) -> Result<(), Answer> {
    if tid > last {
        return Ok(());
    }
    Err(Answer::Invalid(format!(
        "transaction {tid} is not later than the last one, {last}"
    )))
}

/// A `Data.fs` cannot hold an empty state: it would mean that there is no object.
fn not_empty(oid: Oid, data: &Payload) -> Result<(), Answer> {
    if data.is_empty() {
        return Err(Answer::Invalid(format!("the state of {oid} is empty")));
    }
    Ok(())
}

/// Gives the transactions of a range one by one; later ones than were there in the beginning are not
/// in it.
struct Iteration {
    storage: Arc<Inner>,
    /// As it was when it began: a pack meanwhile changes nothing of it.
    rest: VecDeque<HistoryTxn>,
    goes_on: bool,
}

#[async_trait]
impl History for Iteration {
    async fn next(&mut self) -> Result<Option<HistoryTxn>> {
        let reached = self.storage.reach(Moment::Iterate).await;
        self.goes_on = matches!(reached, Err(StorageError::Fault(Fault::Damaged(_))));
        if self.goes_on {
            // It is this one that cannot be read.
            self.rest.pop_front();
        }
        reached?;
        let mut txn = self.rest.pop_front();
        if let Some(txn) = &mut txn {
            for record in &mut txn.records {
                record.blob = None;
            }
        }
        Ok(txn)
    }

    fn goes_on(&self) -> bool {
        self.goes_on
    }

    fn hold_little(&mut self) {
        self.storage.faults.hold_little();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Vote;
    use crate::storage::suite::{Fixture, commit, storage_suite};
    use crate::zodb::Op;

    storage_suite!(async { Fixture::new(MemoryStorage::new("test")) });

    #[tokio::test]
    async fn a_pack_that_takes_the_last_transaction_away_does_not_take_its_tid_back() {
        let storage = MemoryStorage::new("test");
        let tid = commit(&storage, &[(1, Tid::ZERO, b"a")]).await;
        let later = Some(Tid(tid.0 + (1 << 40)));
        let mut txn = storage.begin(TxnMeta::default(), later).await.unwrap();
        let (oid, serial) = (Oid(1), tid);
        txn.store(Op::CheckCurrent { oid, serial }).await.unwrap();
        let Vote::Ready(voted) = txn.vote().await.unwrap() else {
            panic!("nobody else writes");
        };
        let last = voted.finish().await.unwrap();
        storage.pack(f64::from(u32::MAX)).await.unwrap();
        assert_eq!(storage.last_tid().await.unwrap(), last);
        assert!(commit(&storage, &[(1, tid, b"b")]).await > last);
    }

    #[tokio::test]
    async fn the_data_is_there_when_it_is_opened_again() {
        let opener = MemoryOpener::new("test");
        let first = opener.open().await.unwrap();
        let tid = commit(&*first, &[(1, Tid::ZERO, b"a")]).await;
        first.close().await;
        assert!(matches!(
            first.last_tid().await,
            Err(StorageError::Fault(Fault::Closed(_)))
        ));
        let second = opener.open().await.unwrap();
        assert_eq!(second.last_tid().await.unwrap(), tid);
        second.close().await;
        let aside = opener.set_aside().await.unwrap();
        assert_eq!(aside.extent.transactions, 1);
        let third = opener.open().await.unwrap();
        assert_eq!(third.last_tid().await.unwrap(), Tid::ZERO);
    }

    #[tokio::test]
    async fn what_is_told_to_fail_fails_as_often_as_told() {
        let opener = MemoryOpener::new("test");
        let fault = Fault::Unreachable("no route".to_owned());
        opener.faults().fail_once(Moment::Open, fault.clone());
        assert!(opener.open().await.is_err());
        let storage = opener.open().await.unwrap();
        opener.faults().fail_after(1, Moment::Ask, fault);
        assert!(storage.last_tid().await.is_ok());
        assert!(storage.last_tid().await.is_err());
        assert!(storage.last_tid().await.is_ok());
    }

    #[tokio::test]
    async fn a_finish_that_fails_poisons_the_storage_until_it_is_opened_again() {
        let opener = MemoryOpener::new("test");
        let storage = opener.open().await.unwrap();
        let tid = commit(&*storage, &[(1, Tid::ZERO, b"a")]).await;
        let full = Fault::DiskFull {
            what: "a test".to_owned(),
        };
        opener.faults().fail_once(Moment::Finish, full);
        let mut txn = storage.begin(TxnMeta::default(), None).await.unwrap();
        let store = Op::Store {
            oid: Oid(1),
            serial: tid,
            data: Payload::from(&b"b"[..]),
        };
        txn.store(store).await.unwrap();
        let Vote::Ready(voted) = txn.vote().await.unwrap() else {
            panic!("no conflict is possible");
        };
        assert!(voted.finish().await.is_err());
        assert!(matches!(
            storage.last_tid().await,
            Err(StorageError::Fault(Fault::Poisoned(_)))
        ));
        let again = opener.open().await.unwrap();
        assert_eq!(again.last_tid().await.unwrap(), tid);
    }

    #[tokio::test]
    async fn a_held_call_waits_for_its_gate() {
        let storage = MemoryStorage::new("test");
        let gate = storage.faults().hold(Moment::Ask);
        let held = storage.last_tid();
        let release = async {
            gate.reached().await;
            gate.release();
        };
        let (tid, ()) = tokio::join!(held, release);
        assert_eq!(tid.unwrap(), Tid::ZERO);
    }
}
