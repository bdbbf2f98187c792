//! How a copy's history relates to a better one's.
//!
//! Two members' histories are prefixes of each other up to what packing removed (INVARIANT 3), or
//! one has diverged. So "both hold this transaction" is true up to a point and false after it, and
//! the point is found by looking back from the target's end in growing steps, then by halving. A TID
//! alone proves nothing: the transactions themselves are compared.

use std::sync::Arc;

use super::super::controller::{Link, MemberId};
use super::super::report::{AnalysisReport, Finding, Refused, TxnSummary};
use super::super::runner::{Runner, as_fault};
use crate::storage::{Answer, Fault, Storage, StorageError};
use crate::zodb::{HistoryRecord, HistoryTxn, RecordData, Tid, TidRange, TxnMeta, TxnStatus};

/// How many of the transactions that only the target holds are named.
const NAMED: usize = 100;

/// Which of the two could not be asked.
#[derive(Debug)]
pub(in crate::raid) enum Broken {
    Source(StorageError),
    Target(StorageError),
}

/// Says of every error whose it is.
trait Of<T> {
    fn of_source(self) -> Result<T, Broken>;
    fn of_target(self) -> Result<T, Broken>;
}

impl<T> Of<T> for Result<T, StorageError> {
    fn of_source(self) -> Result<T, Broken> {
        self.map_err(Broken::Source)
    }

    fn of_target(self) -> Result<T, Broken> {
        self.map_err(Broken::Target)
    }
}

/// What a recovery of this member would find; nothing is changed.
pub(in crate::raid) async fn analyse(
    runner: &Arc<Runner>,
    member: &str,
) -> Result<AnalysisReport, Refused> {
    let id = runner.look(|core| core.controller.id_of(member))?;
    let view = runner.view();
    let source = view.readers.iter().find(|reader| reader.member != id);
    let Some(source) = source else {
        return Err(Refused::NotServing {
            reason: "no other optimal member is open".into(),
        });
    };
    let name = runner.look(|core| core.controller.name(source.member));
    let report = |finding| AnalysisReport {
        member: member.to_owned(),
        source: name.clone(),
        finding,
    };
    let refused = |member: &str, fault| Refused::Member {
        member: member.to_owned(),
        fault,
    };
    let (target, opened_here) = match open(runner, id).await {
        Ok(opened) => opened,
        Err(Fault::Damaged(reason)) => return Ok(report(Finding::Damaged { reason })),
        Err(fault) => return Err(refused(member, fault)),
    };
    let patience = runner.options.member_timeout * super::ANALYSIS;
    let related = relate(&*source.storage, &*target, view.head);
    let related = tokio::time::timeout(patience, related).await;
    if opened_here {
        target.close().await;
    }
    match related {
        Ok(Ok(finding)) => Ok(report(finding)),
        Ok(Err(Broken::Target(error))) => Err(refused(member, as_fault(error))),
        Ok(Err(Broken::Source(error))) => Err(refused(&name, as_fault(error))),
        Err(_) => {
            let (what, after) = ("the analysis", patience);
            Err(refused(member, Fault::Timeout { what, after }))
        }
    }
}

/// The open member. Its own task is the only one that opens it; but who is shut has nobody who would,
/// and is opened for the time of the analysis: then the answer's second part is true.
async fn open(runner: &Arc<Runner>, id: MemberId) -> Result<(Arc<dyn Storage>, bool), Fault> {
    let limit = runner.options.open_timeout;
    let late = || Fault::Timeout {
        what: "being opened",
        after: limit,
    };
    let gone = || Fault::Closed("it was removed".into());
    let deadline = tokio::time::Instant::now() + limit;
    let mut links = runner.links();
    links.mark_unchanged();
    let mut nudged = false;
    loop {
        let (storage, opener, fault, shut) = runner
            .update(|core| {
                let shut = core.controller.members.get(&id)?.link == Link::Shut;
                let handle = core.members.get_mut(&id)?;
                if !nudged {
                    handle.try_again();
                }
                let storage = handle.storage.clone().map(|(_, storage)| storage);
                let (opener, fault) = (Arc::clone(&handle.spec.opener), handle.last_fault.clone());
                Some((storage, opener, fault, shut))
            })
            .ok_or_else(gone)?;
        nudged = true;
        if let Some(storage) = storage {
            return Ok((storage, false));
        }
        if shut {
            let opening = tokio::time::timeout_at(deadline, opener.open()).await;
            return opening.map_err(|_| late())?.map(|storage| (storage, true));
        }
        if let Some(fault) = fault {
            return Err(fault);
        }
        let changed = tokio::time::timeout_at(deadline, links.changed()).await;
        if !matches!(changed, Ok(Ok(()))) {
            return Err(late());
        }
    }
}

/// How `target` relates to `source`, of which everything up to `head` is acknowledged.
pub(in crate::raid) async fn relate(
    source: &dyn Storage,
    target: &dyn Storage,
    head: Tid,
) -> Result<Finding, Broken> {
    let last = target.last_tid().await.of_target()?;
    if last.is_zero() && head.is_zero() {
        return Ok(Finding::UpToDate);
    }
    let common = if last.is_zero() {
        None
    } else {
        last_common(source, target).await?
    };
    if common == Some(last) && last >= head {
        return Ok(Finding::UpToDate);
    }
    let after = common.unwrap_or(Tid::ZERO);
    let lacks = source.measure_after(after).await.of_source()?;
    // The last TID proves nothing: it may be that of a transaction which was cut at opening.
    let only_here_count = if common == Some(last) || last.is_zero() {
        0
    } else {
        target.measure_after(after).await.of_target()?.transactions
    };
    if only_here_count == 0 {
        return Ok(match common {
            Some(common) => Finding::Behind { common, lacks },
            None => Finding::Empty { lacks },
        });
    }
    let mut only_here = Vec::new();
    let mut history = target.iterate(TidRange::after(after)).await.of_target()?;
    while only_here.len() < NAMED
        && let Some(transaction) = history.next().await.of_target()?
    {
        only_here.push(summary(&transaction));
    }
    Ok(Finding::Diverged {
        common,
        lacks,
        only_here,
        only_here_count,
    })
}

fn summary(transaction: &HistoryTxn) -> TxnSummary {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    TxnSummary {
        tid: transaction.tid,
        user: text(&transaction.meta.user),
        description: text(&transaction.meta.description),
    }
}

/// The last transaction that both hold.
async fn last_common(source: &dyn Storage, target: &dyn Storage) -> Result<Option<Tid>, Broken> {
    let (mut before, mut step) = (Tid::MAX, 1);
    loop {
        // Newest first.
        let tids = target.tids_before(before, step).await.of_target()?;
        let Some(oldest) = tids.last().copied() else {
            return Ok(None);
        };
        if is_common(source, target, oldest).await? {
            // Everything from `low` on is common, everything before it is not.
            let (mut high, mut low) = (0, tids.len() - 1);
            while high < low {
                let middle = usize::midpoint(high, low);
                if is_common(source, target, tids[middle]).await? {
                    low = middle;
                } else {
                    high = middle + 1;
                }
            }
            return Ok(Some(tids[low]));
        }
        before = oldest;
        step = (step * 16).min(4096);
    }
}

async fn is_common(source: &dyn Storage, target: &dyn Storage, tid: Tid) -> Result<bool, Broken> {
    let Some(theirs) = only(target, tid).await.of_target()? else {
        return Ok(false);
    };
    match only(source, tid).await.of_source()? {
        Some(ours) => same(&ours, &theirs),
        None => was_packed_away(source, &theirs).await.of_source(),
    }
}

async fn only(storage: &dyn Storage, tid: Tid) -> Result<Option<HistoryTxn>, StorageError> {
    storage.iterate(TidRange::only(tid)).await?.next().await
}

/// Whether packing can have removed this transaction from the source: then every object in it has
/// a later revision there, or is gone.
async fn was_packed_away(
    source: &dyn Storage,
    transaction: &HistoryTxn,
) -> Result<bool, StorageError> {
    let next = source
        .iterate(TidRange::after(transaction.tid))
        .await?
        .next()
        .await?;
    if next.is_none_or(|next| next.meta.status != TxnStatus::Packed) {
        return Ok(false);
    }
    for record in &transaction.records {
        match source.current_tid(record.oid).await {
            Ok(tid) if tid > transaction.tid => {}
            Ok(_) => return Ok(false),
            Err(StorageError::Answer(Answer::NoSuchObject(_))) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Whether two members hold the same transaction. Packing marks a transaction and takes records out
/// of it; what both still hold must be the same.
///
/// Blocks for records that are pieces of files; they are rare and large.
pub(super) fn same(ours: &HistoryTxn, theirs: &HistoryTxn) -> Result<bool, Broken> {
    let packed = [ours, theirs]
        .iter()
        .any(|txn| txn.meta.status == TxnStatus::Packed);
    let meta = |txn: &HistoryTxn| TxnMeta {
        status: if packed {
            TxnStatus::Packed
        } else {
            txn.meta.status
        },
        ..txn.meta.clone()
    };
    if ours.tid != theirs.tid || meta(ours) != meta(theirs) {
        return Ok(false);
    }
    if !packed {
        if ours.records.len() != theirs.records.len() {
            return Ok(false);
        }
        for (ours, theirs) in ours.records.iter().zip(&theirs.records) {
            if !same_record(ours, theirs)? {
                return Ok(false);
            }
        }
        return Ok(true);
    }
    for ours in &ours.records {
        if let Some(theirs) = theirs.records.iter().find(|theirs| theirs.oid == ours.oid)
            && !same_record(ours, theirs)?
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A back-pointer and the data it points to are the same record: packing turns one into the other.
fn same_record(ours: &HistoryRecord, theirs: &HistoryRecord) -> Result<bool, Broken> {
    if ours.oid != theirs.oid {
        return Ok(false);
    }
    match (&ours.data, &theirs.data) {
        (RecordData::Gone, RecordData::Gone) => Ok(true),
        (RecordData::Gone, _) | (_, RecordData::Gone) => Ok(false),
        (ours, theirs) => match (ours.payload(), theirs.payload()) {
            (Some(ours), Some(theirs)) => ours
                .same_as(theirs)
                // Whose file it was is not told; a recovery goes on with the same source.
                .map_err(|error| Broken::Target(Fault::io("comparing records", error).into())),
            _ => Ok(false),
        },
    }
}
