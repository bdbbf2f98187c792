//! Recovery: making a copy complete again while clients go on.
//!
//! 1. *analyse*: how the target's history relates to a source's ([`analyse`]).
//! 2. What only the target holds is set aside, where that was asked for or was never acknowledged
//!    (INVARIANT 9).
//! 3. *copy*: transactions are copied whole and in order, within the rate ([`copy`]).
//! 4. *verify* (on request, and after a rebuild): both histories are compared record by record, and
//!    the target is cut and copied again from the first difference. This is done before the target
//!    joins, so that a bad copy never serves.
//! 5. *catch-up*: the last part is copied under the commit lock, for at most its limit; then the
//!    target joins the in-sync set. Where clients write faster than the copy proceeds, each try
//!    delays them by the limit and shortens what is missing.
//!
//! Ended anywhere, it leaves a target that is a prefix of the source, or the same as before; the
//! next recovery goes on from there. Nothing is remembered besides the target's own history.

mod analyse;
mod copy;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::Notice;
use super::controller::{Compared, Ended, Event, MemberId};
use super::report::{Finding, Strategy};
use super::runner::{CatchUp, Core, Runner, as_fault};
use super::view::Reader;
use crate::job::{Amount, Cancelled, JobHandle, Rate, Work};
use crate::storage::{Committed, Fault, Storage, StorageError};
use crate::zodb::{Tid, TidRange};

pub(super) use analyse::{analyse, relate};

/// The recovery that runs, or ended last.
pub(super) struct LastRecovery {
    pub id: u64,
    pub name: String,
    pub source: Option<String>,
    pub strategy: Strategy,
    pub handle: JobHandle,
    pub started: Timestamp,
    pub ended: Option<(Timestamp, Ended)>,
    pub set_aside: Vec<PathBuf>,
}

/// Starts a recovery as a task.
pub(super) fn start(
    runner: &Arc<Runner>,
    core: &mut Core,
    member: MemberId,
    strategy: Strategy,
    rate: Option<Rate>,
    may_cut: bool,
) {
    let rate = rate.unwrap_or(runner.options.recovery_rate);
    let (work, handle) = Work::new("analyse", rate, runner.tasks.stop());
    let name = core
        .members
        .get(&member)
        .map(|handle| handle.spec.name.clone())
        .unwrap_or_default();
    core.recoveries += 1;
    core.recovery = Some(LastRecovery {
        id: core.recoveries,
        name: name.clone(),
        source: None,
        strategy,
        handle,
        started: Timestamp::now(),
        ended: None,
        set_aside: Vec::new(),
    });
    let job = Job {
        runner: Arc::clone(runner),
        member,
        name,
        strategy,
        may_cut,
        work,
    };
    runner.tasks.spawn("recovery", job.run());
}

/// Why a recovery does not go on.
enum Halt {
    Cancelled,
    /// It may be tried again.
    Failed(String),
    /// Only an operator can help.
    Stuck(String),
}

impl From<Cancelled> for Halt {
    fn from(_: Cancelled) -> Self {
        Halt::Cancelled
    }
}

struct Job {
    runner: Arc<Runner>,
    member: MemberId,
    name: String,
    strategy: Strategy,
    may_cut: bool,
    work: Work,
}

/// How long a member that is to be recovered may take to open.
const OPEN_PATIENCE: Duration = Duration::from_mins(1);
/// Rounds of copying without the lock before the lock is asked for in any case.
const ROUNDS: u32 = 8;
/// So little is always copied under the lock.
const SHORT_BYTES: u64 = 1 << 20;

impl Job {
    async fn run(mut self) {
        let ended = match self.recover().await {
            Ok(()) => Ended::Done,
            Err(Halt::Cancelled) => Ended::Cancelled,
            Err(Halt::Failed(reason)) => Ended::Failed { reason },
            Err(Halt::Stuck(reason)) => Ended::Stuck { reason },
        };
        let end = (Timestamp::now(), ended.clone());
        self.runner.update(|core| {
            if let Some(recovery) = &mut core.recovery {
                recovery.ended = Some(end);
            }
        });
        if matches!(ended, Ended::Done) {
            let done = self.copied();
            self.runner.notice(Notice::RecoveryDone {
                member: self.name.clone(),
                transactions: done.transactions,
                bytes: done.bytes,
            });
        }
        self.runner
            .feed(Event::RecoveryEnded {
                member: self.member,
                ended,
            })
            .ok();
    }

    fn copied(&self) -> Amount {
        self.runner
            .look(|core| {
                core.recovery
                    .as_ref()
                    .map(|recovery| recovery.handle.progress().done)
            })
            .unwrap_or_default()
    }

    async fn recover(&mut self) -> Result<(), Halt> {
        let target = self.open_target().await?;
        let source = self.choose_source()?;
        let source_name = self.runner.look(|core| {
            core.members
                .get(&source.member)
                .map(|handle| handle.spec.name.clone())
        });
        let source_name = source_name.unwrap_or_default();
        self.runner.update(|core| {
            if let Some(recovery) = &mut core.recovery {
                recovery.source = Some(source_name.clone());
            }
        });
        let member = self.name.clone();
        self.runner.notice(Notice::RecoveryStarted {
            member,
            source: source_name,
        });

        let head = self.runner.view().head;
        let finding = relate(&*source.storage, &*target, head).await;
        let finding = finding.map_err(|error| failed("the analysis", error))?;
        let rebuild = matches!(finding, Finding::Diverged { .. });
        let mut at = self.make_prefix(&*target, finding).await?;
        at = self.copy_until_short(&source, &*target, at).await?;
        if self.strategy == Strategy::Verify || rebuild {
            at = self.verify(&source, &*target, at).await?;
        }
        self.catch_up(&source, &*target, at).await
    }

    /// The open target. One that is damaged is set aside where a rebuild was asked for.
    async fn open_target(&mut self) -> Result<Arc<dyn Storage>, Halt> {
        self.work.note("waiting for the member to open");
        let deadline = tokio::time::Instant::now() + OPEN_PATIENCE;
        let mut links = self.runner.links();
        let mut set_aside = false;
        loop {
            links.mark_unchanged();
            let (storage, fault, opener, retry) = self
                .runner
                .look(|core| {
                    let handle = core.members.get(&self.member)?;
                    let storage = handle
                        .storage
                        .as_ref()
                        .map(|(_, storage)| Arc::clone(storage));
                    let opener = Arc::clone(&handle.spec.opener);
                    Some((
                        storage,
                        handle.last_fault.clone(),
                        opener,
                        Arc::clone(&handle.retry),
                    ))
                })
                .ok_or_else(|| Halt::Stuck("the member was removed".into()))?;
            if let Some(storage) = storage {
                return Ok(storage);
            }
            if let Some(Fault::Damaged(reason)) = fault {
                if self.strategy != Strategy::Rebuild {
                    return Err(Halt::Stuck(format!(
                        "it is damaged: {reason}; it has to be rebuilt"
                    )));
                }
                if !set_aside {
                    set_aside = true;
                    let saved = opener.set_aside().await.map_err(|fault| {
                        Halt::Stuck(format!("the damaged copy could not be set aside: {fault}"))
                    })?;
                    self.note_set_aside(saved);
                }
                retry.notify_one();
            }
            tokio::select! {
                () = self.work.stop().requested() => return Err(Halt::Cancelled),
                changed = tokio::time::timeout_at(deadline, links.changed()) => {
                    if !matches!(changed, Ok(Ok(()))) {
                        return Err(Halt::Failed("the member did not open in time".into()));
                    }
                }
            }
        }
    }

    fn choose_source(&self) -> Result<Reader, Halt> {
        let view = self.runner.view();
        let least = view.readers.iter().min_by_key(|reader| {
            reader
                .stats
                .outstanding
                .load(std::sync::atomic::Ordering::Relaxed)
        });
        least
            .cloned()
            .ok_or_else(|| Halt::Failed("no optimal member is open".into()))
    }

    /// Makes the target a prefix of the source, and says where it ends.
    async fn make_prefix(&mut self, target: &dyn Storage, finding: Finding) -> Result<Tid, Halt> {
        match finding {
            Finding::UpToDate => {
                let last = target.last_tid().await;
                last.map_err(|error| failed("the analysis", error))
            }
            Finding::Behind { common, .. } => Ok(common),
            Finding::Empty { .. } => Ok(Tid::ZERO),
            Finding::Diverged {
                common,
                only_here_count,
                ..
            } => {
                let may_cut = self.may_cut || self.strategy == Strategy::Rebuild;
                if !may_cut {
                    let since = common.map_or_else(
                        || "it shares no transaction with the array".to_owned(),
                        |common| format!("it diverged after {common}"),
                    );
                    return Err(Halt::Stuck(format!(
                        "{since}: {only_here_count} transactions are only here; it has to be rebuilt"
                    )));
                }
                self.rewind(target, common).await?;
                Ok(common.unwrap_or(Tid::ZERO))
            }
            Finding::Damaged { reason } => Err(Halt::Stuck(reason)),
        }
    }

    /// INVARIANT 9: what is cut is set aside first, by the storage itself.
    async fn rewind(&mut self, target: &dyn Storage, keep: Option<Tid>) -> Result<(), Halt> {
        if !target.capabilities().rewind {
            return Err(Halt::Stuck(
                "what only this member holds can be removed by its own operator alone".into(),
            ));
        }
        self.work.note("setting aside what only this member holds");
        let saved = target.rewind(keep).await;
        let saved = saved.map_err(|error| failed("setting aside its tail", error))?;
        self.note_set_aside(saved);
        Ok(())
    }

    fn note_set_aside(&self, saved: crate::storage::SetAside) {
        let Some(file) = saved.file else { return };
        self.runner.notice(Notice::SetAside {
            member: self.name.clone(),
            file: file.display().to_string(),
            transactions: saved.extent.transactions,
        });
        self.runner.update(|core| {
            if let Some(recovery) = &mut core.recovery {
                recovery.set_aside.push(file);
            }
        });
    }

    /// Copies without the lock until what is missing can be copied within the catch-up limit.
    async fn copy_until_short(
        &mut self,
        source: &Reader,
        target: &dyn Storage,
        mut at: Tid,
    ) -> Result<Tid, Halt> {
        for round in 0..ROUNDS {
            let head = self.runner.view().head;
            let missing = source.storage.measure_after(at).await;
            let missing = missing.map_err(|error| failed("measuring what is missing", error))?;
            let total = Amount {
                transactions: missing.transactions,
                bytes: missing.bytes,
            };
            if round == 0 {
                self.work.begin("copy", total);
            } else {
                let done = self.copied();
                self.work.set_total(Amount {
                    transactions: done.transactions + total.transactions,
                    bytes: done.bytes + total.bytes,
                });
            }
            if missing.bytes <= self.short_bytes() {
                break;
            }
            at = self
                .copy(
                    source,
                    target,
                    TidRange {
                        first: at.next(),
                        last: head,
                    },
                    None,
                )
                .await?;
        }
        Ok(at)
    }

    /// What can surely be copied under the lock.
    fn short_bytes(&self) -> u64 {
        let speed = self
            .runner
            .look(|core| {
                core.recovery
                    .as_ref()
                    .map(|r| r.handle.progress().bytes_per_second)
            })
            .unwrap_or_default();
        let half = self.runner.options.catch_up_limit.as_secs_f64() / 2.0;
        ((speed * half) as u64).max(SHORT_BYTES)
    }

    async fn catch_up(
        &mut self,
        source: &Reader,
        target: &dyn Storage,
        mut at: Tid,
    ) -> Result<(), Halt> {
        loop {
            self.work.note("waiting for the commit lock");
            let commit = self.runner.new_commit_id();
            let mut lock = Lock {
                runner: Arc::clone(&self.runner),
                commit,
            };
            let mut told = self.runner.ask_catch_up(commit);
            let granted = tokio::select! {
                () = self.work.stop().requested() => return Err(Halt::Cancelled),
                granted = told.recv() => granted,
            };
            let (head, until) = match granted {
                Some(CatchUp::Granted { head, until }) => (head, until),
                Some(CatchUp::Refused { reason }) => return Err(Halt::Failed(reason)),
                Some(CatchUp::Joined) | None => {
                    return Err(Halt::Failed("the commit lock was not to be had".into()));
                }
            };
            let rest = TidRange {
                first: at.next(),
                last: head,
            };
            at = self.copy(source, target, rest, Some(until)).await?;
            if at < head {
                // It took too long: clients go on, and so does the copy.
                lock.release();
                at = self.copy_until_short(source, target, at).await?;
                continue;
            }
            self.work.note("joining the in-sync set");
            let last = target.last_tid().await;
            let last_tid = last.map_err(|error| failed("lastTransaction", error))?;
            let event = Event::TargetLevel {
                commit,
                member: self.member,
                last_tid,
            };
            self.runner.feed(event).ok();
            // The record decides; it is being written and will be told of either way.
            return match told.recv().await {
                Some(CatchUp::Joined) => Ok(()),
                Some(CatchUp::Refused { reason }) => Err(Halt::Failed(reason)),
                Some(CatchUp::Granted { .. }) | None => {
                    Err(Halt::Failed("the target was not let in".into()))
                }
            };
        }
    }
}

fn failed(what: &str, error: StorageError) -> Halt {
    Halt::Failed(format!("{what}: {}", as_fault(error)))
}

/// Gives the commit lock back, whatever way the recovery ends.
struct Lock {
    runner: Arc<Runner>,
    commit: super::controller::CommitId,
}

impl Lock {
    fn release(&mut self) {
        self.runner
            .feed(Event::CatchUpEnded {
                commit: self.commit,
            })
            .ok();
        self.runner.forget_catch_up(self.commit);
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.release();
    }
}

/// Compares members at the start: the first is the newest. Also fills the queue that clients verify
/// their caches with.
pub(super) async fn assemble(
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
        let compared = match within(limit, runner, relate(&*newest, &*storage, head)).await {
            Ok(Finding::Behind { .. } | Finding::Empty { .. }) if head > Tid::ZERO => {
                Compared::Behind
            }
            Ok(Finding::UpToDate | Finding::Behind { .. } | Finding::Empty { .. }) => {
                Compared::Level
            }
            Ok(Finding::Diverged {
                common,
                only_here_count,
                ..
            }) => {
                let since = common.map_or_else(
                    || "shares no transaction with the newest copy".to_owned(),
                    |common| format!("diverged after {common}"),
                );
                let reason = format!("{since}; {only_here_count} transactions are only here");
                Compared::Diverged { reason }
            }
            Ok(Finding::Damaged { reason }) => Compared::Unknown(reason),
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

/// Whether `until` has come.
fn is_past(until: Option<Instant>) -> bool {
    until.is_some_and(|until| until <= Instant::now())
}
