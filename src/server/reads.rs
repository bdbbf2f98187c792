//! The calls that read: each is a future of its own, and their replies may overtake each other.

use std::future::Future;
use std::pin::Pin;

use std::task::{Context, Poll};

use futures_util::future::BoxFuture;

use super::ended::Ended;
use super::extension;
use super::iterators::Made;
use super::limits::Passed;
use super::missed;
use super::packing;
use super::sending::BlobKey;
use super::start::{Served, Shared};
use crate::pickle::Value;
use crate::storage::{Fault, Loaded, Revision, Storage, StorageError, Undoable};
use crate::wire::{Call, HistoryLine, Info, MessageId, Reply, UndoLine, WireError};
use crate::zodb::{Answer, Blob, Oid, Tid};

/// How many oids a client gets at once, at most: what Python's server gives.
const OIDS_AT_ONCE: usize = 100;

/// How many lines of a history, and of an undo log, a client gets at once, at most: no reply may take
/// all memory.
const LINES_AT_ONCE: usize = 100_000;
const LOG_AT_ONCE: i64 = 100_000;
/// And how far back it begins, at most.
const LOG_AT_MOST: i64 = 200_000;

/// A call that is being answered.
pub(super) struct Read<'a> {
    /// Taken when it is answered.
    pub(super) about: Option<About>,
    pub(super) work: Work<'a>,
}

/// Whom to answer, and whether.
pub(super) struct About {
    pub(super) id: MessageId,
    pub(super) one_way: bool,
    pub(super) method: &'static str,
}

pub(super) enum Work<'a> {
    Load(Load<'a>),
    Other(BoxFuture<'a, Done>),
    Large(Large<'a>),
}

/// A call whose answer may be as large as a record, or larger. Where there is no room for it, it is asked again.
pub(super) struct Large<'a> {
    /// Taken when it is answered.
    call: Option<Call>,
    future: BoxFuture<'a, Done>,
}

/// A load: the outbox needs to know which object it is of.
pub(super) struct Load<'a> {
    pub(super) oid: Oid,
    pub(super) before: Tid,
    /// How often it was asked.
    pub(super) tries: u32,
    pub(super) future: BoxFuture<'a, Result<Option<Loaded>, StorageError>>,
}

/// What a load has come to.
pub(super) struct LoadDone {
    pub(super) oid: Oid,
    pub(super) before: Tid,
    pub(super) tries: u32,
    pub(super) outcome: Result<Option<Loaded>, StorageError>,
}

/// What a call has come to.
pub(super) enum Done {
    Reply(Reply),
    /// An iterator that is to be given an id.
    Iterator(Made),
    /// An iterator has come to its end, with this reply.
    IteratorEnded(i64, Reply),
    /// A blob that is to be sent, or why it cannot be.
    Blob(BlobKey, Result<Blob, StorageError>),
    /// A pack has ended well.
    Packed,
    /// The client has passed a limit.
    Passed(Passed),
    HangUp(Ended),
}

/// An answered call.
pub(super) enum Answered {
    Load(LoadDone),
    Other(Done),
    Large(Call, Done),
}

impl<'a> Load<'a> {
    pub(super) fn ask(storage: &'a dyn Storage, oid: Oid, before: Tid, tries: u32) -> Self {
        Load {
            oid,
            before,
            tries,
            future: storage.load_before(oid, before),
        }
    }

    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<LoadDone> {
        let (oid, before, tries) = (self.oid, self.before, self.tries);
        let outcome = self.future.as_mut().poll(context);
        outcome.map(|outcome| LoadDone {
            oid,
            before,
            tries,
            outcome,
        })
    }
}

impl<'a> Large<'a> {
    pub(super) fn new(call: Call, future: BoxFuture<'a, Done>) -> Self {
        let call = Some(call);
        Large { call, future }
    }

    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<(Call, Done)> {
        self.future.as_mut().poll(context).map(|done| {
            let call = self.call.take().expect("a call is answered once");
            (call, done)
        })
    }
}

impl Future for Read<'_> {
    type Output = (About, Answered);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answered = match &mut self.work {
            Work::Load(load) => load.poll(context).map(Answered::Load),
            Work::Other(future) => future.as_mut().poll(context).map(Answered::Other),
            Work::Large(large) => {
                let answer = large.poll(context);
                answer.map(|(call, done)| Answered::Large(call, done))
            }
        };
        answered.map(|answered| {
            let about = self.about.take().expect("a call is answered once");
            (about, answered)
        })
    }
}

/// The answer to a call that failed.
pub(super) fn error(failed: StorageError) -> Done {
    match failed {
        // Its clients are better off elsewhere.
        StorageError::Fault(Fault::NotServing(why)) => Done::HangUp(Ended::NotServing(why)),
        StorageError::Fault(fault) => {
            Done::Reply(Reply::Error(WireError::Storage(fault.to_string())))
        }
        StorageError::Answer(answer) => Done::Reply(Reply::Error(WireError::Answer(answer))),
    }
}

/// Begins a call that only reads, is of no iterator, and has to be asked of the storage.
pub(super) fn ask<'a>(shared: &'a Shared, served: &'a Served, call: Call) -> BoxFuture<'a, Done> {
    let storage = &*served.storage;
    match call {
        Call::LastTransaction => reply(async { Ok(Reply::Tid(storage.newest_tid().await?)) }),
        Call::GetInvalidations { since } => reply(async move {
            let missed = missed::since(storage, since, &served.past).await?;
            Ok(Reply::Invalidations(missed))
        }),
        Call::LoadSerial { oid, serial } => {
            reply(async move { Ok(Reply::Data(storage.load_serial(oid, serial).await?)) })
        }
        Call::GetTid { oid } => {
            reply(async move { Ok(Reply::Tid(storage.current_tid(oid).await?)) })
        }
        Call::NewOids { count } => reply(async move {
            let oids = storage.new_oids(count.clamp(1, OIDS_AT_ONCE), Oid::ROOT);
            Ok(Reply::Oids(oids.await?))
        }),
        Call::History { oid, count } => reply(async move {
            let revisions = storage.history(oid, count.min(LINES_AT_ONCE)).await?;
            Ok(Reply::History(revisions.into_iter().map(line).collect()))
        }),
        Call::RecordIternext { next } => reply(async move {
            let record = storage.record_from(next.unwrap_or(Oid::ROOT)).await?;
            Ok(match record {
                Some(record) => Reply::CurrentRecord {
                    oid: record.oid,
                    tid: record.tid,
                    data: record.data,
                    next: record.next,
                },
                // What Python's file storage says of its index.
                None => Reply::Error(WireError::Value("no key satisfies the conditions".into())),
            })
        }),
        Call::UndoLog { first, last } => reply(undo_log(storage, first, last, Value::None)),
        Call::UndoInfo {
            first,
            last,
            specification,
        } => reply(undo_log(storage, first, last, specification)),
        Call::ServerStatus => reply(async {
            let last = storage.last_tid().await?;
            Ok(Reply::ServerStatus(served.stats.status(last)))
        }),
        Call::Raid { method, arguments } => Box::pin(async move {
            let admin = shared.admin.lock().clone();
            let admin = admin.as_deref();
            let may_change = served.zeo_admin;
            Done::Reply(extension::answer(admin, may_change, &served.name, method, arguments).await)
        }),
        _ => unreachable!("the session answers all others itself"),
    }
}

/// `sendBlob`, as far as the storage has to do with it.
pub(super) fn load_blob(storage: &dyn Storage, key: BlobKey) -> BoxFuture<'_, Done> {
    Box::pin(async move { Done::Blob(key, storage.load_blob(key.oid, key.serial).await) })
}

/// `pack`: begun at once, and waited for where the client waits.
pub(super) fn pack(
    shared: &Shared,
    served: &Served,
    who: (&str, &str),
    time: f64,
    wait: bool,
) -> BoxFuture<'static, Done> {
    let answered = packing::start(shared, served, time, who);
    Box::pin(async move {
        if !wait {
            return Done::Reply(Reply::None);
        }
        match answered.await.unwrap_or_else(|_| Err(packing::stopping())) {
            Ok(()) => Done::Packed,
            Err(failed) => error(failed),
        }
    })
}

async fn undo_log(
    storage: &dyn Storage,
    first: i64,
    last: i64,
    specification: Value,
) -> Result<Reply, StorageError> {
    if !storage.capabilities().undo {
        // What a storage without undo answers: Python's server does the same.
        return Ok(Reply::Value(Value::Tuple(Vec::new())));
    }
    let first = first.max(0);
    if first > LOG_AT_MOST {
        // All that is newer is looked at, and kept, to find it.
        let text = format!("an undo log goes back {LOG_AT_MOST} transactions at most");
        return Err(Answer::Invalid(text).into());
    }
    let last = if last < 0 {
        last.max(-LOG_AT_ONCE)
    } else {
        last.min(first.saturating_add(LOG_AT_ONCE))
    };
    let log = storage.undo_info(first, last, &specification).await?;
    Ok(Reply::UndoLog(log.into_iter().map(undo_line).collect()))
}

/// What `get_info` says. Interfaces are those that Python's client looks for, and only what is true.
pub(super) fn info(served: &Served) -> Info {
    let size = served.storage.size();
    let can = served.storage.capabilities();
    let interfaces = [
        (true, "IStorage"),
        (true, "IStorageRestoreable"),
        (true, "IStorageIteration"),
        (true, "IStorageCurrentRecordIteration"),
        // `deleteObject`.
        (true, "IExternalGC"),
        (can.undo, "IStorageUndoable"),
        (can.blobs, "IBlobStorage"),
    ];
    let interfaces = interfaces.into_iter().filter(|(can, _)| *can);
    Info {
        name: served.name.clone(),
        objects: size.objects,
        bytes: size.bytes,
        supports_undo: can.undo,
        supports_record_iternext: true,
        interfaces: interfaces
            .map(|(_, name)| ("ZODB.interfaces", name))
            .collect(),
    }
}

/// The arguments of a call make no sense.
pub(super) fn malformed(method: &str, why: &str) -> WireError {
    WireError::Type(format!("{method}: {why}"))
}

fn reply<'a>(
    call: impl Future<Output = Result<Reply, StorageError>> + Send + 'a,
) -> BoxFuture<'a, Done> {
    Box::pin(async move {
        match call.await {
            Ok(reply) => Done::Reply(reply),
            Err(failed) => error(failed),
        }
    })
}

fn undo_line(undoable: Undoable) -> UndoLine {
    UndoLine {
        tid: undoable.tid,
        time: undoable.tid.seconds(),
        user: undoable.user,
        description: undoable.description,
        extension: undoable.extension,
        size: undoable.size,
    }
}

fn line(revision: Revision) -> HistoryLine {
    HistoryLine {
        tid: revision.tid,
        user: revision.user,
        description: revision.description,
        extension: revision.extension,
        size: revision.size,
    }
}
