//! How a copy's history relates to a better one's.
//!
//! Two members' histories are prefixes of each other up to what packing removed (INVARIANT 3), or
//! one has diverged. So "both hold this transaction" is true up to a point and false after it, and
//! the point is found by looking back from the target's end in growing steps, then by halving. A TID
//! alone proves nothing: the transactions themselves are compared.

use std::sync::Arc;

use super::super::report::{AnalysisReport, Finding, Refused, TxnSummary};
use super::super::runner::{Runner, as_fault};
use crate::storage::{Answer, Fault, Storage, StorageError};
use crate::zodb::{HistoryRecord, HistoryTxn, RecordData, Tid, TidRange, TxnMeta, TxnStatus};

/// How many of the transactions that only the target holds are named.
const NAMED: usize = 100;

/// What a recovery of this member would find; nothing is changed.
pub(in crate::raid) async fn analyse(
    runner: &Arc<Runner>,
    member: &str,
) -> Result<AnalysisReport, Refused> {
    let (storage, fault, opener) = runner.look(|core| {
        let id = core.controller.id_of(member)?;
        let handle = core.members.get(&id).ok_or(Refused::ShuttingDown)?;
        let storage = handle
            .storage
            .as_ref()
            .map(|(_, storage)| Arc::clone(storage));
        Ok((
            storage,
            handle.last_fault.clone(),
            Arc::clone(&handle.spec.opener),
        ))
    })?;
    let view = runner.view();
    let Some(source) = view.readers.iter().find(|reader| {
        runner.look(|core| {
            core.members
                .get(&reader.member)
                .map(|h| h.spec.name != member)
        }) == Some(true)
    }) else {
        return Err(Refused::NotServing {
            reason: "no other optimal member is open".into(),
        });
    };
    let name = runner.look(|core| {
        core.members
            .get(&source.member)
            .map(|h| h.spec.name.clone())
    });
    let report = |finding| AnalysisReport {
        member: member.to_owned(),
        source: name.clone().unwrap_or_default(),
        finding,
    };
    let refused = |fault| Refused::Member {
        member: member.to_owned(),
        fault,
    };
    // A member that is shut is opened for the time of the analysis.
    let (target, opened_here) = match (storage, fault) {
        (Some(storage), _) => (storage, false),
        (None, Some(Fault::Damaged(reason))) => return Ok(report(Finding::Damaged { reason })),
        (None, _) => {
            let opening = tokio::time::timeout(runner.options.open_timeout, opener.open()).await;
            match opening {
                Ok(Ok(storage)) => (storage, true),
                Ok(Err(Fault::Damaged(reason))) => return Ok(report(Finding::Damaged { reason })),
                Ok(Err(fault)) => return Err(refused(fault)),
                Err(_) => return Err(refused(runner.timeout("being opened"))),
            }
        }
    };
    let related = tokio::time::timeout(
        runner.options.member_timeout,
        relate(&*source.storage, &*target, view.head),
    )
    .await;
    if opened_here {
        target.close().await;
    }
    match related {
        Ok(Ok(finding)) => Ok(report(finding)),
        Ok(Err(error)) => Err(refused(as_fault(error))),
        Err(_) => Err(refused(runner.timeout("the analysis"))),
    }
}

/// How `target` relates to `source`, of which everything up to `head` is acknowledged.
pub(in crate::raid) async fn relate(
    source: &dyn Storage,
    target: &dyn Storage,
    head: Tid,
) -> Result<Finding, StorageError> {
    let last = target.last_tid().await?;
    if last.is_zero() {
        if head.is_zero() {
            return Ok(Finding::UpToDate);
        }
        return Ok(Finding::Empty {
            lacks: source.measure_after(Tid::ZERO).await?,
        });
    }
    let common = last_common(source, target).await?;
    let lacks = source.measure_after(common.unwrap_or(Tid::ZERO)).await?;
    if common == Some(last) {
        return Ok(if last >= head {
            Finding::UpToDate
        } else {
            Finding::Behind {
                common: last,
                lacks,
            }
        });
    }
    let after = common.unwrap_or(Tid::ZERO);
    let only_here_count = target.measure_after(after).await?.transactions;
    let mut only_here = Vec::new();
    let mut history = target.iterate(TidRange::after(after)).await?;
    while only_here.len() < NAMED
        && let Some(transaction) = history.next().await?
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
async fn last_common(
    source: &dyn Storage,
    target: &dyn Storage,
) -> Result<Option<Tid>, StorageError> {
    let (mut before, mut step) = (Tid::MAX, 1);
    loop {
        // Newest first.
        let tids = target.tids_before(before, step).await?;
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

async fn is_common(
    source: &dyn Storage,
    target: &dyn Storage,
    tid: Tid,
) -> Result<bool, StorageError> {
    let Some(theirs) = only(target, tid).await? else {
        return Ok(false);
    };
    match only(source, tid).await? {
        Some(ours) => same(&ours, &theirs),
        None => was_packed_away(source, &theirs).await,
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
pub(super) fn same(ours: &HistoryTxn, theirs: &HistoryTxn) -> Result<bool, StorageError> {
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
fn same_record(ours: &HistoryRecord, theirs: &HistoryRecord) -> Result<bool, StorageError> {
    if ours.oid != theirs.oid {
        return Ok(false);
    }
    match (&ours.data, &theirs.data) {
        (RecordData::Gone, RecordData::Gone) => Ok(true),
        (RecordData::Gone, _) | (_, RecordData::Gone) => Ok(false),
        (ours, theirs) => match (ours.payload(), theirs.payload()) {
            (Some(ours), Some(theirs)) => ours
                .same_as(theirs)
                .map_err(|error| Fault::io("comparing records", error).into()),
            _ => Ok(false),
        },
    }
}
