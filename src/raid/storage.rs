//! The array as a storage: what clients ask of it is asked of its members.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::Array;
use super::history::ArrayHistory;
use super::options::ClusterMode;
use super::pack;
use super::read::{LONGEST_CALL, Patience, not_serving};
use super::report::Serving;
use super::transaction::ArrayTransaction;
use crate::storage::{
    Answer, Capabilities, CurrentRecord, Description, Extent, History, Invalidations, Loaded,
    Result, Revision, SetAside, Size, Storage, StorageError, Transaction, Undoable, Value,
};
use crate::zodb::{Blob, HistoryTxn, Oid, Tid, TidRange, TxnMeta};

/// How many transactions that a member holds and that are not acknowledged are reckoned with at first.
const UNACKNOWLEDGED: usize = 8;

#[async_trait]
impl Storage for Array {
    fn describe(&self) -> Description {
        Description {
            kind: "array",
            location: self.0.options.name.clone(),
        }
    }

    fn capabilities(&self) -> Capabilities {
        let view = self.0.view();
        let all = |can: fn(Capabilities) -> bool| {
            let mut readers = view.readers.iter();
            !view.readers.is_empty() && readers.all(|one| can(one.storage.capabilities()))
        };
        Capabilities {
            pipelined: true,
            rewind: false,
            undo: all(|can| can.undo),
            // Where members' servers find the files by themselves, members are not asked for them.
            blobs: all(|can| can.blobs) || (self.0.blobs.with_members() && all(|_| true)),
            pack: all(|can| can.pack),
            backup: false,
            shared: false,
            read_only: matches!(view.serving, Serving::ReadOnly { .. }),
        }
    }

    fn size(&self) -> Size {
        self.0
            .view()
            .readers
            .first()
            .map(|reader| reader.storage.size())
            .unwrap_or_default()
    }

    async fn last_tid(&self) -> Result<Tid> {
        let view = self.0.view();
        if view.serving.can_read() {
            Ok(view.head)
        } else {
            Err(not_serving(&view).into())
        }
    }

    async fn newest_tid(&self) -> Result<Tid> {
        match self.0.options.cluster_mode {
            ClusterMode::Single => self.last_tid().await,
            ClusterMode::Coop => self.0.newest().await,
        }
    }

    async fn load_before(&self, oid: Oid, before: Tid) -> Result<Option<Loaded>> {
        self.0.load_before(oid, before).await
    }

    async fn load_serial(&self, oid: Oid, serial: Tid) -> Result<Bytes> {
        self.0.load_serial(oid, serial).await
    }

    async fn current_tid(&self, oid: Oid) -> Result<Tid> {
        let loaded = self.load_before(oid, Tid::MAX).await?;
        loaded
            .map(|loaded| loaded.tid)
            .ok_or_else(|| Answer::NoSuchObject(oid).into())
    }

    async fn new_oids(&self, count: usize, after: Oid) -> Result<Vec<Oid>> {
        self.0.new_oids(count, after).await
    }

    /// One member's answer, of which another may have packed away more or less.
    async fn history(&self, oid: Oid, count: usize) -> Result<Vec<Revision>> {
        let view = self.0.view();
        let head = view.head;
        // A member may hold revisions that are not acknowledged yet: INVARIANT 5.
        let mut spare = UNACKNOWLEDGED;
        loop {
            let asked = count.saturating_add(spare);
            let mut revisions = self
                .0
                .ask_all_with(
                    Patience::WhileItAnswers(LONGEST_CALL),
                    &view,
                    oid,
                    "history",
                    |_: &Vec<Revision>| false,
                    move |storage| Box::pin(async move { storage.history(oid, asked).await }),
                )
                .await?;
            let found = revisions.len();
            revisions.retain(|revision| revision.tid <= head);
            if revisions.len() < count && found == asked {
                spare = spare.saturating_mul(8);
                continue;
            }
            if revisions.is_empty() {
                return Err(Answer::NoSuchObject(oid).into());
            }
            revisions.truncate(count);
            if bug!(LoseARevision) && revisions.len() > 2 {
                revisions.remove(1);
            }
            return Ok(revisions);
        }
    }

    async fn load_blob(&self, oid: Oid, serial: Tid) -> Result<Blob> {
        self.0.load_blob(oid, serial).await
    }

    async fn undo_info(
        &self,
        first: i64,
        last: i64,
        specification: &Value,
    ) -> Result<Vec<Undoable>> {
        let view = self.0.view();
        if self.0.look(|core| core.controller.is_packing()) {
            return Err(pack::undo_is_disabled().into());
        }
        let number = |number: i64| usize::try_from(number).unwrap_or_default();
        let end = number(if last < 0 {
            first.saturating_sub(last)
        } else {
            last
        });
        let first = number(first);
        let mut spare = UNACKNOWLEDGED;
        loop {
            // Numbers count what is not acknowledged yet as well: INVARIANT 5.
            let asked = end.saturating_add(spare);
            let specification = specification.clone();
            let mut found = self
                .0
                .ask_for_long(&view, Oid::ROOT, "undoInfo", move |storage| {
                    let specification = specification.clone();
                    let last = i64::try_from(asked).unwrap_or(i64::MAX);
                    Box::pin(async move { storage.undo_info(0, last, &specification).await })
                })
                .await?;
            let all = found.len();
            found.retain(|undoable| undoable.tid <= view.head);
            if found.len() < end && all == asked {
                spare = spare.saturating_mul(8);
                continue;
            }
            if bug!(LoseAnUndoable) && found.len() > 2 {
                found.remove(1);
            }
            let page = found.into_iter().take(end).skip(first);
            return Ok(page.collect());
        }
    }

    async fn pack(&self, time: f64) -> Result<()> {
        pack::run(&self.0, time).await
    }

    async fn record_from(&self, from: Oid) -> Result<Option<CurrentRecord>> {
        let view = self.0.view();
        let mut from = from;
        loop {
            let record = self
                .0
                .ask(&view, from, "record_iternext", move |storage| {
                    Box::pin(async move { storage.record_from(from).await })
                })
                .await?;
            let Some(mut record) = record else {
                return Ok(None);
            };
            if record.tid <= view.head {
                return Ok(Some(record));
            }
            // Not acknowledged yet: what was current as of the head, or nothing for a new object.
            let before = match self.load_before(record.oid, view.head.next()).await {
                Err(StorageError::Answer(Answer::NoSuchObject(_))) => None,
                loaded => loaded?,
            };
            if let Some(loaded) = before {
                record.tid = loaded.tid;
                record.data = loaded.data;
                return Ok(Some(record));
            }
            let Some(next) = record.next else {
                return Ok(None);
            };
            from = next;
        }
    }

    async fn iterate(&self, range: TidRange) -> Result<Box<dyn History>> {
        let view = self.0.view();
        let range = TidRange {
            first: range.first,
            last: range.last.min(view.head),
        };
        Ok(Box::new(ArrayHistory::new(Arc::clone(&self.0), range)))
    }

    async fn tids_before(&self, before: Tid, count: usize) -> Result<Vec<Tid>> {
        let view = self.0.view();
        let before = before.min(view.head.next());
        self.0
            .ask(&view, Oid::ROOT, "the last transactions", move |storage| {
                Box::pin(async move { storage.tids_before(before, count).await })
            })
            .await
    }

    async fn measure_after(&self, after: Tid) -> Result<Extent> {
        let view = self.0.view();
        self.0
            .ask(
                &view,
                Oid::ROOT,
                "the extent of the history",
                move |storage| Box::pin(async move { storage.measure_after(after).await }),
            )
            .await
    }

    async fn measure_undone(&self, tids: Arc<[Tid]>) -> Result<Option<u64>> {
        Ok(self.0.measure_undone(tids).await)
    }

    async fn invalidations_since(&self, since: Tid) -> Result<(Tid, Option<Vec<Oid>>)> {
        let head = self.last_tid().await?;
        Ok((head, self.0.written_since(since, head)))
    }

    fn subscribe(&self) -> Invalidations {
        self.0.publisher.subscribe()
    }

    async fn begin(&self, meta: TxnMeta, tid: Option<Tid>) -> Result<Box<dyn Transaction>> {
        let view = self.0.view();
        match &view.serving {
            Serving::Yes => {}
            Serving::ReadOnly { .. } => return Err(Answer::ReadOnly.into()),
            _ => return Err(not_serving(&view).into()),
        }
        let can = self.capabilities();
        let transaction = ArrayTransaction::new(&self.0, meta, tid, can);
        Ok(Box::new(transaction))
    }

    async fn restore(&self, _: Vec<HistoryTxn>) -> Result<()> {
        Err(Answer::Unsupported("restoring whole transactions into an array").into())
    }

    async fn rewind(&self, _: Option<Tid>) -> Result<SetAside> {
        Err(Answer::Unsupported("rewinding an array").into())
    }

    async fn close(&self) {
        const PATIENCE: Duration = Duration::from_secs(30);
        if let Err(late) = self.shutdown(PATIENCE).await {
            tracing::warn!(array = self.0.options.name, "{late}");
        }
    }
}
