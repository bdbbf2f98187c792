//! Comparing the members at the start.

use std::sync::Arc;
use std::time::Duration;

use super::analyse::{Broken, Relation, goes_on_as, is_emptied, relate, was_packed_away};
use crate::counted::counted;
use crate::raid::controller::{Compared, MemberId};
use crate::raid::runner::{Runner, as_fault};
use crate::storage::{Committed, Fault, Storage, StorageError};
use crate::zodb::{Tid, TidRange};

/// Compares members at the start: the first is the newest, and its last transaction is given too, as of
/// which the others were compared. Also fills the queue that clients verify their caches with.
pub(in crate::raid) async fn assemble(
    runner: &Arc<Runner>,
    mut members: Vec<(MemberId, Arc<dyn Storage>)>,
) -> (Vec<(MemberId, Compared)>, Option<Tid>) {
    let swapped = match set_swapped_aside(runner, &mut members).await {
        Ok(swapped) => swapped,
        Err((id, fault)) => return (vec![(id, Compared::Unknown(fault.to_string()))], None),
    };
    let mut promoted = 0;
    let (mut found, head) = loop {
        let Some(newest_id) = members.first().map(|(id, _)| *id) else {
            return (Vec::new(), None);
        };
        match compare(runner, &members).await {
            Ok(Comparison::Whole(found, head)) => break (found, head),
            Ok(Comparison::Behind(newest)) if promoted < PROMOTIONS => {
                promoted += 1;
                members[..=newest].rotate_right(1);
            }
            Ok(Comparison::Behind(_)) => {
                let why = "others go on while they are compared".to_owned();
                return (vec![(newest_id, Compared::Unknown(why))], None);
            }
            Err(fault) => {
                return (
                    vec![(newest_id, Compared::Unknown(fault.to_string()))],
                    None,
                );
            }
        }
    };
    found.extend(swapped);
    (found, Some(head))
}

/// How often another one may turn out to be the newest.
const PROMOTIONS: u32 = 4;

enum Comparison {
    Whole(Vec<(MemberId, Compared)>, Tid),
    /// This one holds all that the first one holds, and more: a server may finish late what a daemon asked
    /// it for that has died since, after it was opened here.
    Behind(usize),
}

/// Compares with the first. Fails where that cannot be asked.
async fn compare(
    runner: &Arc<Runner>,
    members: &[(MemberId, Arc<dyn Storage>)],
) -> Result<Comparison, Fault> {
    // Many questions each, which the storages judge one by one.
    let limit = super::LONGEST_CALL;
    let (newest_id, newest) = &members[0];
    let head = within(limit, newest.last_tid()).await?;
    let recent = last_transactions(&**newest, runner.options.invalidation_queue);
    runner.set_recent(within(limit, recent).await?);
    let mut found = vec![(*newest_id, Compared::Level)];
    for (index, (id, storage)) in members.iter().enumerate().skip(1) {
        let related = tokio::time::timeout(limit, relate(&**newest, &**storage, head)).await;
        let related = match related {
            Ok(Err(Broken::Source(error))) => return Err(as_fault(error)),
            Ok(Err(Broken::Target(error))) => Err(as_fault(error)),
            Ok(Ok(relation)) => Ok(relation),
            Err(_) => Err(too_long()),
        };
        let compared = match related {
            Ok(Relation::Behind { .. } | Relation::Unheld { .. }) => Compared::Behind,
            Ok(Relation::Level) => Compared::Level,
            Ok(Relation::Diverged { common }) if common.unwrap_or(Tid::ZERO) == head => {
                return Ok(Comparison::Behind(index));
            }
            Ok(Relation::Diverged { common }) => {
                let since = common.map_or_else(
                    || "shares no transaction with the newest copy".to_owned(),
                    |common| format!("diverged after {common}"),
                );
                let after = common.unwrap_or(Tid::ZERO);
                let own = within(limit, storage.measure_after(after)).await;
                let count = own.map_or_else(
                    |_| "some transactions".into(),
                    |own| counted(own.transactions, "transaction"),
                );
                let reason = format!("{since}; {count} only here");
                Compared::Diverged { reason }
            }
            Err(fault) => Compared::Unknown(fault.to_string()),
        };
        found.push((*id, compared));
    }
    Ok(Comparison::Whole(found, head))
}

/// Takes out of the comparison who does not hold a transaction that was acknowledged while another
/// member does: it was restored from a backup and written to since, or is another database. Its last TID
/// may be the newest of all, and proves nothing.
async fn set_swapped_aside(
    runner: &Runner,
    members: &mut Vec<(MemberId, Arc<dyn Storage>)>,
) -> Result<Vec<(MemberId, Compared)>, (MemberId, Fault)> {
    let known = runner.look(|core| core.controller.acknowledged());
    if known.is_zero() {
        return Ok(Vec::new());
    }
    let mut held = None;
    let mut suspects = Vec::new();
    for (id, storage) in &*members {
        let asked = async {
            let mut history = storage.iterate(TidRange::only(known)).await?;
            Ok((storage.last_tid().await?, history.next().await?))
        };
        match within(super::LONGEST_CALL, asked).await {
            Ok((_, Some(transaction))) => held = Some((Arc::clone(storage), transaction)),
            // Who ends before it is only behind, or lost its tail.
            Ok((last, None)) if last > known => suspects.push((*id, Arc::clone(storage))),
            Ok(_) => {}
            Err(fault) => return Err((*id, fault)),
        }
    }
    let Some((holder, held)) = held else {
        return Ok(Vec::new());
    };
    let mut swapped = Vec::new();
    for (id, storage) in suspects {
        // Who was packed since may have lost it rightly. Where nothing of it is left, what is marked as packed
        // may end before it; but then the array went on after it with both.
        let packed = async {
            Ok(was_packed_away(&*storage, &held).await?
                || (is_emptied(&held) && goes_on_as(&*holder, &*storage, known).await?))
        };
        let packed = within(super::LONGEST_CALL, packed).await;
        if packed.map_err(|fault| (id, fault))? {
            continue;
        }
        let reason = format!(
            "it is not a copy of this array: it goes on after {known}, which was acknowledged, and does not \
             hold it"
        );
        swapped.push((id, Compared::Swapped { reason }));
        members.retain(|(other, _)| *other != id);
    }
    Ok(swapped)
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, StorageError>>,
) -> Result<T, Fault> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map_err(as_fault),
        Err(_) => Err(too_long()),
    }
}

fn too_long() -> Fault {
    Fault::Timeout {
        what: "the comparison at the start",
        after: super::LONGEST_CALL,
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
    let limit = super::LONGEST_CALL;
    let measured = within(limit, reader.storage.measure_after(last)).await;
    let Ok(lacks) = measured else { return };
    runner.update(|core| {
        let member = core.controller.members.get_mut(&id);
        if let Some(member) = member.filter(|member| member.out().is_some()) {
            member.lacks.get_or_insert(lacks);
        }
    });
}
