//! A member in a scrub: its history, as far as it was read, and what of it cannot be read.
//!
//! One damaged place is no reason not to look at the rest: what is behind it is read, where the storage can
//! find it, and what the other members hold meanwhile counts as what this one cannot read.

use crate::raid::report::{LeftOut, ScrubbedMember, Unreadable};
use crate::raid::runner::{Runner, as_fault};
use crate::raid::view::Reader;
use crate::storage::{Answer, Fault, History, StorageError};
use crate::zodb::{HistoryRecord, HistoryTxn, Oid, Tid, TidRange, TxnStatus};

/// In so many places a member may be unreadable before it is not read any further.
const PLACES: u64 = 1000;

pub(super) struct Lane {
    pub(super) name: String,
    pub(super) reader: Reader,
    /// None before it was opened, and after its end.
    history: Option<Box<dyn History>>,
    pub(super) next: Option<HistoryTxn>,
    /// The last transaction that it gave, and whether that was marked as packed.
    last: Tid,
    packed: bool,
    /// Something between the last one and the next one, or the end, cannot be read.
    gap: bool,
    left_out: Option<LeftOut>,
    unreadable: Option<Unreadable>,
    pub(super) contradicted: u64,
}

/// What a member says of a record that another one holds.
pub(super) enum Read {
    Same,
    Other,
    Not,
}

impl Lane {
    pub(super) fn new(name: String, reader: Reader) -> Self {
        Lane {
            name,
            reader,
            history: None,
            next: None,
            last: Tid::ZERO,
            packed: false,
            gap: false,
            left_out: None,
            unreadable: None,
            contradicted: 0,
        }
    }

    pub(super) fn report(&self) -> ScrubbedMember {
        ScrubbedMember {
            name: self.name.clone(),
            kind: self.reader.storage.describe().kind,
            left_out: self.left_out.clone(),
            unreadable: self.unreadable.clone(),
            contradicted: self.contradicted,
        }
    }

    pub(super) fn is_compared(&self) -> bool {
        self.left_out.is_none()
    }

    /// Why something of it was not compared.
    pub(super) fn trouble(&self) -> Option<&str> {
        match (&self.left_out, &self.unreadable) {
            (Some(LeftOut::Unreadable { reason, .. } | LeftOut::Lost { reason }), _) => {
                Some(reason)
            }
            (None, unreadable) => unreadable.as_ref().map(|what| what.first.as_str()),
        }
    }

    /// It is not compared any further.
    pub(super) fn fail(&mut self, error: StorageError) {
        let after = self.last;
        let left_out = match as_fault(error) {
            fault @ (Fault::Damaged(_) | Fault::Io { .. }) => LeftOut::Unreadable {
                after,
                reason: fault.to_string(),
            },
            fault => LeftOut::Lost {
                reason: fault.to_string(),
            },
        };
        let reason = match &left_out {
            LeftOut::Unreadable { reason, .. } | LeftOut::Lost { reason } => reason,
        };
        tracing::warn!(
            member = self.name,
            %after,
            reason,
            "a member is not scrubbed any further"
        );
        self.left_out = Some(left_out);
        self.next = None;
        self.history = None;
    }

    /// Notes what it cannot read in one place, and whether that was all: another fault says nothing of
    /// what it holds, and after too many nobody needs to know of more.
    pub(super) fn cannot_read(&mut self, error: StorageError) -> bool {
        let fault = as_fault(error);
        if !matches!(fault, Fault::Damaged(_) | Fault::Io { .. }) {
            self.fail(fault.into());
            return false;
        }
        let unreadable = self.unreadable.get_or_insert_with(|| Unreadable {
            places: 0,
            first: fault.to_string(),
        });
        unreadable.places += 1;
        if unreadable.places >= PLACES {
            self.fail(fault.into());
            return false;
        }
        tracing::warn!(member = self.name, after = %self.last, %fault, "a member cannot be read in one place");
        true
    }

    pub(super) async fn open(&mut self, runner: &Runner, head: Tid) {
        let storage = &*self.reader.storage;
        let range = TidRange {
            first: Tid::ZERO,
            last: head,
        };
        let opened = runner.while_it_answers(storage, "an iteration", storage.iterate(range));
        match opened.await {
            Ok(history) => self.history = Some(history),
            Err(error) => self.fail(error),
        }
    }

    /// Has its next transaction ready, where there is one.
    pub(super) async fn fill(&mut self, runner: &Runner) {
        while let (None, Some(history)) = (&self.next, &mut self.history) {
            let storage = &*self.reader.storage;
            let next = runner.while_it_answers(storage, "an iteration", history.next());
            match next.await {
                Ok(Some(next)) => self.next = Some(next),
                Ok(None) => self.history = None,
                Err(error) => {
                    let goes_on = history.goes_on();
                    if goes_on {
                        self.gap = self.cannot_read(error);
                    } else {
                        self.fail(error);
                    }
                }
            }
        }
    }

    pub(super) fn take(&mut self) -> Option<HistoryTxn> {
        let taken = self.next.take()?;
        self.last = taken.tid;
        self.packed = taken.meta.status == TxnStatus::Packed;
        self.gap = false;
        Some(taken)
    }

    /// Whether a transaction that it did not give may be in what it cannot read.
    pub(super) fn is_within_gap(&self) -> bool {
        self.gap
    }

    /// Whether what comes next here is marked as packed, or what came last where there is no more.
    pub(super) fn is_within_packed(&self) -> bool {
        match &self.next {
            Some(next) => next.meta.status == TxnStatus::Packed,
            None => self.packed,
        }
    }

    /// Whether all that it gave is marked as packed, and nothing is unreadable between that and what comes next.
    /// Whoever packs as Python does leaves the last transaction before that out as well, where nothing of it stays;
    /// by the marks alone that cannot be told from one that was lost.
    pub(super) fn is_behind_packed(&self) -> bool {
        (self.packed || self.last.is_zero()) && !self.gap
    }

    /// Whether packing can have removed a record here: there is a later one, or the object is gone.
    pub(super) async fn may_lack(&mut self, runner: &Runner, oid: Oid, tid: Tid) -> bool {
        let storage = &*self.reader.storage;
        let asked = runner.while_it_answers(storage, "getTid", storage.current_tid(oid));
        match asked.await {
            Ok(current) => current > tid,
            Err(StorageError::Answer(Answer::NoSuchObject(_))) => true,
            // A damaged place has no later revision in it.
            Err(StorageError::Fault(Fault::Damaged(_) | Fault::Io { .. })) if self.gap => false,
            Err(error) => {
                self.fail(error);
                // What nobody could ask is no difference.
                true
            }
        }
    }

    /// Asks for a record by itself: its transaction is in what cannot be read one after the other.
    pub(super) async fn read(&mut self, runner: &Runner, tid: Tid, record: &HistoryRecord) -> Read {
        let Some(theirs) = record.data.payload() else {
            // That an object is gone has no data to ask for.
            return Read::Same;
        };
        let storage = &*self.reader.storage;
        let load = storage.load_serial(record.oid, tid);
        match runner.while_it_answers(storage, "loadSerial", load).await {
            Ok(data) => match theirs.same_as(&data.into()) {
                Ok(true) => Read::Same,
                _ => Read::Other,
            },
            Err(
                StorageError::Answer(Answer::NoSuchObject(_))
                | StorageError::Fault(Fault::Damaged(_) | Fault::Io { .. }),
            ) => Read::Not,
            Err(error) => {
                self.fail(error);
                Read::Same
            }
        }
    }
}
