//! Comparing the members at the start.

use std::sync::Arc;
use std::time::Duration;

use super::analyse::{Broken, Relation, relate};
use crate::raid::controller::{Compared, MemberId};
use crate::raid::runner::{Runner, as_fault};
use crate::storage::{Committed, Fault, Storage, StorageError};
use crate::zodb::{Tid, TidRange};

/// Compares members at the start: the first is the newest. Also fills the queue that clients verify
/// their caches with.
pub(in crate::raid) async fn assemble(
    runner: &Arc<Runner>,
    members: Vec<(MemberId, Arc<dyn Storage>)>,
) -> Vec<(MemberId, Compared)> {
    let Some((newest_id, newest)) = members.first().cloned() else {
        return Vec::new();
    };
    let limit = runner.options.member_timeout;
    let head = match within(limit, runner, newest.last_tid()).await {
        Ok(head) => head,
        Err(fault) => return vec![(newest_id, Compared::Unknown(fault.to_string()))],
    };
    match within(
        limit,
        runner,
        last_transactions(&*newest, runner.options.invalidation_queue),
    )
    .await
    {
        Ok(recent) => runner.set_recent(recent),
        Err(fault) => return vec![(newest_id, Compared::Unknown(fault.to_string()))],
    }
    let mut found = vec![(newest_id, Compared::Level)];
    for (id, storage) in members.into_iter().skip(1) {
        let related = tokio::time::timeout(limit, relate(&*newest, &*storage, head)).await;
        let related = match related {
            Ok(Err(Broken::Source(error))) => {
                return vec![(newest_id, Compared::Unknown(as_fault(error).to_string()))];
            }
            Ok(Err(Broken::Target(error))) => Err(as_fault(error)),
            Ok(Ok(relation)) => Ok(relation),
            Err(_) => Err(runner.timeout("the comparison at the start")),
        };
        let compared = match related {
            Ok(Relation::Behind { .. }) => Compared::Behind,
            Ok(Relation::Level) => Compared::Level,
            Ok(Relation::Diverged { common }) => {
                let since = common.map_or_else(
                    || "shares no transaction with the newest copy".to_owned(),
                    |common| format!("diverged after {common}"),
                );
                let after = common.unwrap_or(Tid::ZERO);
                let own = within(limit, runner, storage.measure_after(after)).await;
                let count = own.map_or_else(|_| "some".into(), |own| own.transactions.to_string());
                let reason = format!("{since}; {count} transactions are only here");
                Compared::Diverged { reason }
            }
            Err(fault) => Compared::Unknown(fault.to_string()),
        };
        found.push((id, compared));
    }
    found
}

async fn within<T>(
    limit: Duration,
    runner: &Runner,
    call: impl Future<Output = Result<T, StorageError>>,
) -> Result<T, Fault> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map_err(as_fault),
        Err(_) => Err(runner.timeout("the comparison at the start")),
    }
}

/// The last transactions, oldest first, for the queue of invalidations.
async fn last_transactions(
    storage: &dyn Storage,
    count: usize,
) -> Result<Vec<Committed>, StorageError> {
    let tids = storage.tids_before(Tid::MAX, count).await?;
    let Some(first) = tids.last().copied() else {
        return Ok(Vec::new());
    };
    let mut history = storage
        .iterate(TidRange {
            first,
            last: Tid::MAX,
        })
        .await?;
    let mut transactions = Vec::with_capacity(tids.len());
    while let Some(transaction) = history.next().await? {
        let oids = transaction
            .records
            .iter()
            .map(|record| record.oid)
            .collect();
        transactions.push(Committed {
            tid: transaction.tid,
            oids,
            by: None,
        });
    }
    Ok(transactions)
}

/// Finds out how much a member lacks that is out since before the daemon started: its last TID is known,
/// and a member that may be read says how much comes after it. An analysis knows better.
pub(in crate::raid) async fn measure_lack(runner: Arc<Runner>, id: MemberId, last: Tid) {
    let view = runner.view();
    let Some(reader) = view.readers.iter().find(|reader| reader.member != id) else {
        return;
    };
    let limit = runner.options.member_timeout;
    let measured = within(limit, &runner, reader.storage.measure_after(last)).await;
    let Ok(lacks) = measured else { return };
    runner.update(|core| {
        let member = core.controller.members.get_mut(&id);
        if let Some(member) = member.filter(|member| member.out().is_some()) {
            member.lacks.get_or_insert(lacks);
        }
    });
}
