//! Recovery: making a copy complete again while clients go on.
//!
//! 1. *analyse*: how the target's history relates to a source's ([`mod@analyse`]).
//! 2. What only the target holds is set aside, where that was asked for or was never acknowledged
//!    (INVARIANT 9).
//! 3. *copy*: transactions are copied whole and in order, within the rate ([`copy`]).
//! 4. *verify* (on request, for a rebuild, and for a copy that could not be read in one place): both
//!    histories are compared record by record, and
//!    the target is cut and copied again from the first difference. This is done before the target
//!    joins, so that a bad copy never serves.
//! 5. *catch-up*: the last part is copied under the commit lock, for at most its limit; then the
//!    target joins the in-sync set. Where clients write faster than the copy proceeds, each try
//!    delays them by the limit and shortens what is missing.
//!
//! Ended anywhere, it leaves a target that is a prefix of the source, or the same as before; the
//! next recovery goes on from there. Nothing is remembered besides the target's own history.

mod analyse;
mod blobs;
mod copy;
mod start;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};

use super::Notice;
use super::controller::{Ended, Event, Generation, MemberId};
use super::member::AskSetAside;
use super::report::Strategy;
use super::runner::{CatchUp, Core, Runner, as_fault};
use super::scrub;
use super::view::Reader;
use crate::counted::counted;
use crate::job::{Amount, Cancelled, JobHandle, Rate, Work};
use crate::storage::{Answer, Fault, RESTART_SERVER, SetAside, Storage, StorageError};
use crate::zodb::{HistoryTxn, Tid, TidRange, TxnStatus};

pub(super) use analyse::Broken;
use analyse::{Doubt, Relation, doubt, empty_it, is_common, others_than, relate_to_any};
pub(super) use analyse::{analyse, is_emptied, packed_up_to};
pub(super) use analyse::{by_object, same, same_meta, same_record};
use blobs::WithoutFile;
pub(super) use blobs::{digest, is_blob, is_packed_away};
pub(super) use start::{assemble, measure_lack};

/// The recovery that runs, or ended last.
pub(super) struct LastRecovery {
    pub id: u64,
    pub name: String,
    pub source: Option<String>,
    pub strategy: Strategy,
    pub handle: JobHandle,
    pub started: Timestamp,
    pub ended: Option<(Timestamp, Ended)>,
    /// What the operator has to do, where only that helps.
    pub next: Option<String>,
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
    let asked = strategy;
    let (work, handle) = Work::new("analyse", rate, runner.tasks.stop());
    let name = core
        .members
        .get(&member)
        .map(|handle| handle.spec.name.clone())
        .unwrap_or_default();
    let strategy = match strategy {
        // What it holds is wrong, as more than half of the copies say, whether or not it lacks anything. Where they
        // only differ, coming back after a loss of contact must not decide which of them is right.
        Strategy::Missing if scrub::is_suspect(runner, &name) => Strategy::Verify,
        strategy => strategy,
    };
    core.recoveries += 1;
    core.recovery = Some(LastRecovery {
        id: core.recoveries,
        name: name.clone(),
        source: None,
        strategy: asked,
        handle,
        started: crate::clock::now(),
        ended: None,
        next: None,
        set_aside: Vec::new(),
    });
    let job = Job {
        runner: Arc::clone(runner),
        id: core.recoveries,
        member,
        name,
        strategy,
        may_cut,
        work,
        copied: Amount::default(),
        packed: Tid::ZERO,
        missing: Amount::default(),
        without_file: WithoutFile::default(),
    };
    runner.tasks.spawn("recovery", job.run());
}

/// Why a recovery does not go on.
enum Halt {
    Cancelled,
    /// The source failed: another one may do.
    Source(Fault),
    /// The target failed: it has to be opened again.
    Target(Fault),
    /// Somebody else restores the same target: it has to be looked at again.
    Overtaken(String),
    /// It may be tried again.
    Failed(String),
    /// It may, once all members were compared.
    Undecided(String),
    /// Only an operator can help, and how, where that is known.
    Stuck {
        reason: String,
        next: Option<String>,
        /// The target holds something else than the others.
        is_wrong: bool,
    },
    /// As this, and what the target holds is known to be wrong.
    Differs {
        reason: String,
        next: String,
    },
}

impl From<Cancelled> for Halt {
    fn from(_: Cancelled) -> Self {
        Halt::Cancelled
    }
}

impl From<Broken> for Halt {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Source(error) => Halt::Source(as_fault(error)),
            Broken::Target(error) => Halt::Target(as_fault(error)),
        }
    }
}

struct Job {
    runner: Arc<Runner>,
    /// Tells this recovery from a later one.
    id: u64,
    member: MemberId,
    name: String,
    strategy: Strategy,
    may_cut: bool,
    work: Work,
    /// In all phases together.
    copied: Amount,
    /// Up to there the sources are packed.
    packed: Tid,
    /// As it was last measured.
    missing: Amount,
    without_file: WithoutFile,
}

/// Looks at a target that somebody else restores at the same time, before it is given up for now.
const TRIES: u32 = 5;
/// How many times as long as a single call an analysis may take.
const ANALYSIS: u32 = 10;
/// How long a member that is to be recovered may take to open.
const OPEN_PATIENCE: Duration = Duration::from_mins(1);
/// Rounds of copying without the lock before the lock is asked for in any case.
const ROUNDS: u32 = 8;
/// So little is always copied under the lock.
const SHORT_BYTES: u64 = 1 << 20;
const SHORT_TRANSACTIONS: u64 = 4096;
/// What can be copied under the lock from and to whoever is slowest.
const FEWEST_TRANSACTIONS: u64 = 32;
/// A call of a recovery may be many questions of its own, of which the storage judges each: how long a
/// history is, and how large a transaction, says nothing about the health of who is asked for it. This
/// is for one that hangs and does not notice.
const LONGEST_CALL: Duration = Duration::from_mins(10);

impl Job {
    async fn run(mut self) {
        let ended = match self.recover().await {
            Ok(()) => Ended::Done,
            Err(Halt::Cancelled) => Ended::Cancelled,
            Err(Halt::Source(fault)) => Ended::Failed {
                reason: format!("the source: {fault}"),
            },
            Err(Halt::Target(fault)) => Ended::Failed {
                reason: fault.to_string(),
            },
            Err(Halt::Overtaken(reason)) => Ended::Failed {
                reason: format!("somebody else writes to it: {reason}"),
            },
            Err(Halt::Failed(reason)) => Ended::Failed { reason },
            Err(Halt::Undecided(reason)) => Ended::Undecided { reason },
            Err(Halt::Stuck {
                reason,
                next,
                is_wrong,
            }) => {
                self.tell(|recovery| recovery.next = next);
                Ended::Stuck {
                    reason,
                    is_wrong,
                    differs: false,
                }
            }
            Err(Halt::Differs { reason, next }) => {
                self.tell(|recovery| recovery.next = Some(next));
                Ended::Stuck {
                    reason,
                    is_wrong: true,
                    differs: true,
                }
            }
        };
        self.tell_of_files_that_are_missing();
        let end = (crate::clock::now(), ended.clone());
        self.tell(|recovery| recovery.ended = Some(end));
        if matches!(ended, Ended::Done) {
            self.runner.notice(Notice::RecoveryDone {
                member: self.name.clone(),
                transactions: self.copied.transactions,
                bytes: self.copied.bytes,
            });
        }
        self.runner
            .feed(Event::RecoveryEnded {
                member: self.member,
                ended,
            })
            .ok();
    }

    /// Changes what is said of this recovery, unless another one has begun.
    fn tell(&self, change: impl FnOnce(&mut LastRecovery)) {
        self.runner.update(|core| {
            let recovery = core.recovery.as_mut();
            if let Some(recovery) = recovery.filter(|recovery| recovery.id == self.id) {
                change(recovery);
            }
        });
    }

    async fn recover(&mut self) -> Result<(), Halt> {
        let (generation, target) = self.open_target().await?;
        let (mut tries, mut is_kept) = (0, true);
        let mut unreadable: Vec<(Reader, Fault)> = Vec::new();
        loop {
            let source = self.choose_source(&unreadable)?;
            match self.recover_from(&source, &*target).await {
                Ok(()) => {
                    // Another source could give what they could not.
                    for (source, fault) in unreadable {
                        let (member, generation) = (source.member, source.generation);
                        self.runner.cannot_read(member, generation, fault);
                    }
                    return Ok(());
                }
                // Neither is worse than before.
                Err(
                    Halt::Source(fault @ Fault::Here { .. })
                    | Halt::Target(fault @ Fault::Here { .. }),
                ) => return Err(Halt::Failed(fault.to_string())),
                // Wherever that is found: a file may be read at both ends, and not from one to the other.
                Err(Halt::Target(Fault::Damaged(reason)))
                    if self.strategy == Strategy::Rebuild
                        && is_kept
                        && target.capabilities().rewind =>
                {
                    tracing::warn!(member = self.name, reason, "nothing of the copy is kept");
                    is_kept = false;
                    self.rewind(&*target, None).await?;
                }
                // It would fail there again and again.
                Err(Halt::Target(Fault::Damaged(reason)))
                    if self.strategy != Strategy::Rebuild && target.capabilities().rewind =>
                {
                    return Err(self.is_damaged(&reason));
                }
                Err(Halt::Target(fault)) => {
                    // Nobody else uses it, so nobody else would notice.
                    self.runner.lost(self.member, generation, fault.clone());
                    return Err(Halt::Target(fault));
                }
                // What no source can give is no reason to take them out: it would help nobody.
                Err(Halt::Source(fault @ (Fault::Damaged(_) | Fault::Io { .. }))) => {
                    tracing::warn!(member = self.name, %fault, "a recovery cannot read its source");
                    unreadable.push((source, fault));
                }
                // It may hold by now what it lacked.
                // MODEL: Overtaken
                Err(Halt::Overtaken(reason)) if tries < TRIES => {
                    tries += 1;
                    tracing::info!(member = self.name, reason, "somebody else writes to it");
                }
                Err(Halt::Source(fault)) => {
                    tracing::warn!(member = self.name, %fault, "a recovery loses its source");
                    let (member, generation) = (source.member, source.generation);
                    self.runner.lost(member, generation, fault);
                }
                ended => return ended,
            }
        }
    }

    async fn recover_from(&mut self, source: &Reader, target: &dyn Storage) -> Result<(), Halt> {
        let name = self.runner.look(|core| core.controller.name(source.member));
        self.tell(|recovery| recovery.source = Some(name.clone()));
        self.runner.notice(Notice::RecoveryStarted {
            member: self.name.clone(),
            source: name.clone(),
        });
        self.work.begin("analyse", Amount::default());
        let view = self.runner.view();
        let others = others_than(&view, source.member, self.member);
        let patience = self.runner.options.member_timeout * ANALYSIS;
        // MODEL: Analyse
        let related = relate_to_any(&*source.storage, &others, target, view.head);
        let relation = crate::task::select! {
            () = self.work.stop().requested() => return Err(Halt::Cancelled),
            related = tokio::time::timeout(patience, related) => related,
        };
        let (what, after) = ("the analysis", patience);
        let relation = match relation {
            Ok(relation) => relation,
            // However far they have gone apart, it can be made anew.
            Err(_) if self.strategy == Strategy::Rebuild && target.capabilities().rewind => {
                tracing::warn!(
                    member = self.name,
                    "{what} takes too long: nothing of the copy is kept"
                );
                Ok(Relation::Diverged { common: None })
            }
            Err(_) => return Err(Halt::Target(Fault::Timeout { what, after })),
        };
        let relation = match relation {
            Err(Broken::Target(StorageError::Fault(Fault::Damaged(reason))))
                if self.strategy == Strategy::Rebuild =>
            {
                tracing::warn!(member = self.name, reason, "nothing of the copy is kept");
                Relation::Diverged { common: None }
            }
            relation => relation?,
        };
        let mut at = self.make_prefix(&*source.storage, target, relation).await?;
        let packed = self.within(packed_up_to(&*source.storage), Halt::Source);
        self.packed = packed.await?.max(self.packed);
        let whole = at.is_zero() || self.strategy != Strategy::Missing;
        if !whole {
            self.last_files_are_whole(source, target, at).await?;
        }
        at = self.copy_until_short(source, target, at, false).await?;
        if self.strategy != Strategy::Missing {
            at = self.verify(source, target, at).await?;
        }
        self.catch_up(source, target, at).await?;
        if whole {
            scrub::mended(&self.runner, &self.name, &name);
        }
        Ok(())
    }

    /// A call that may be dropped, and is when it is cancelled or takes too long.
    async fn within<T>(
        &self,
        call: impl Future<Output = Result<T, StorageError>>,
        whose: impl FnOnce(Fault) -> Halt,
    ) -> Result<T, Halt> {
        let after = LONGEST_CALL;
        crate::task::select! {
            () = self.work.stop().requested() => Err(Halt::Cancelled),
            answer = tokio::time::timeout(after, call) => match answer {
                Ok(answer) => answer.map_err(|error| whose(as_fault(error))),
                Err(_) => Err(whose(Fault::Timeout { what: "a recovery", after })),
            },
        }
    }

    /// A call that changes the target: it goes on when it is dropped, so it is waited for also when
    /// the recovery is cancelled. It says what it carries.
    async fn change<T>(
        &self,
        bytes: u64,
        call: impl Future<Output = Result<T, StorageError>>,
    ) -> Result<T, Halt> {
        let (what, after) = ("a recovery", self.runner.patience(bytes));
        let answer = tokio::time::timeout(after, call).await;
        let answer = answer.map_err(|_| Halt::Target(Fault::Timeout { what, after }))?;
        answer.map_err(|error| Halt::Target(as_fault(error)))
    }

    /// Has the target keep a batch.
    async fn restore(
        &self,
        target: &dyn Storage,
        batch: Vec<HistoryTxn>,
        bytes: u64,
    ) -> Result<(), Halt> {
        // Each is a commit of its own where the target is a ZEO server, made durable one by one.
        let (what, after) = ("a recovery", self.runner.patience(bytes) + LONGEST_CALL);
        match tokio::time::timeout(after, target.restore(batch)).await {
            Ok(Ok(())) => Ok(()),
            // It holds something later than what it was found to end with.
            Ok(Err(StorageError::Answer(Answer::Invalid(reason)))) => Err(Halt::Overtaken(reason)),
            Ok(Err(error)) => Err(Halt::Target(as_fault(error))),
            Err(_) => Err(Halt::Target(Fault::Timeout { what, after })),
        }
    }

    /// The open target. One that is damaged is set aside where a rebuild was asked for.
    async fn open_target(&mut self) -> Result<(Generation, Arc<dyn Storage>), Halt> {
        self.work.note("waiting for the member to open");
        let patience = self.runner.options.open_timeout + OPEN_PATIENCE;
        let deadline = tokio::time::Instant::now() + patience;
        let mut links = self.runner.links();
        let (mut nudged, mut set_aside) = (false, false);
        loop {
            links.mark_unchanged();
            let (storage, fault, ask) = self
                .runner
                .update(|core| {
                    let handle = core.members.get_mut(&self.member)?;
                    if !nudged {
                        // What it failed for before may be mended by now.
                        handle.try_again();
                    }
                    let fault = handle.last_fault.clone();
                    Some((handle.storage.clone(), fault, handle.set_aside.clone()))
                })
                .ok_or_else(|| Halt::Failed("the member was removed".into()))?;
            nudged = true;
            if let Some(storage) = storage {
                return Ok(storage);
            }
            if let Some(Fault::Damaged(reason)) = &fault {
                if self.strategy != Strategy::Rebuild || set_aside {
                    return Err(self.is_damaged(reason));
                }
                set_aside = true;
                nudged = false;
                self.work.note("setting the damaged copy aside");
                self.note_set_aside(self.set_aside(ask).await?);
                continue;
            }
            let why = fault.map(|fault| fault.to_string());
            // Its operator has to do something first.
            if let Some(why) = &why
                && why.ends_with(RESTART_SERVER)
            {
                return Err(Halt::Failed(why.clone()));
            }
            if let Some(why) = &why {
                let note = format!("waiting for the member to open: {why}");
                self.work.note(note);
            }
            crate::task::select! {
                () = self.work.stop().requested() => return Err(Halt::Cancelled),
                changed = tokio::time::timeout_at(deadline, links.changed()) => {
                    if !matches!(changed, Ok(Ok(()))) {
                        let late = || "the member did not open in time".to_owned();
                        return Err(Halt::Failed(why.unwrap_or_else(late)));
                    }
                }
            }
        }
    }

    /// The member's own task does it: nobody opens the copy meanwhile.
    async fn set_aside(&self, ask: mpsc::Sender<AskSetAside>) -> Result<SetAside, Halt> {
        let (sender, answer) = oneshot::channel();
        let asked = async {
            ask.send(sender).await.ok()?;
            answer.await.ok()
        };
        let done = tokio::time::timeout(OPEN_PATIENCE, asked).await;
        let fault = match done {
            Ok(Some(Ok(saved))) => return Ok(saved),
            Ok(Some(Err(fault))) => fault,
            Ok(None) => return Err(Halt::Cancelled),
            Err(_) => Fault::Timeout {
                what: "being set aside",
                after: OPEN_PATIENCE,
            },
        };
        Err(Halt::Stuck {
            reason: format!("the damaged copy could not be set aside: {fault}"),
            next: None,
            is_wrong: true,
        })
    }

    /// The least busy of those that may be read; one that a scrub found wrong only where there is no other.
    fn choose_source(&self, unreadable: &[(Reader, Fault)]) -> Result<Reader, Halt> {
        let view = self.runner.view();
        let named = |reader: &Reader| self.runner.look(|core| core.controller.name(reader.member));
        let busy = |reader: &&Reader| {
            let outstanding = &reader.stats.outstanding;
            let outstanding = outstanding.load(std::sync::atomic::Ordering::Relaxed);
            (scrub::is_suspect(&self.runner, &named(reader)), outstanding)
        };
        let is_left = |reader: &&Reader| {
            let mut bad = unreadable.iter();
            !bad.any(|(bad, _)| bad.generation == reader.generation)
        };
        let least = view.readers.iter().filter(is_left).min_by_key(busy);
        match (least, unreadable.first()) {
            (Some(reader), _) => Ok(reader.clone()),
            (None, Some((_, fault))) => {
                Err(Halt::Failed(format!("no source can be read: {fault}")))
            }
            (None, None) => Err(Halt::Failed("no optimal member is open".into())),
        }
    }

    fn is_damaged(&self, reason: &str) -> Halt {
        Halt::Differs {
            reason: format!("it is damaged: {reason}; it has to be rebuilt"),
            next: self.rebuild(),
        }
    }

    fn rebuild(&self) -> String {
        format!("zeoraidctl recover --rebuild {}", self.name)
    }

    /// Makes the target a prefix of the source, and says where it ends.
    async fn make_prefix(
        &mut self,
        source: &dyn Storage,
        target: &dyn Storage,
        relation: Relation,
    ) -> Result<Tid, Halt> {
        let common = match relation {
            Relation::Level => return self.within(target.last_tid(), Halt::Target).await,
            Relation::Behind { common } => return Ok(common.unwrap_or(Tid::ZERO)),
            // It loses nothing that the array does not have in a later state, and that is set aside.
            Relation::Unheld { common, .. } if target.capabilities().rewind => {
                return self.rewind(target, common).await;
            }
            Relation::Unheld { last, .. } => return Ok(last),
            Relation::Diverged { common } => common,
        };
        let doubt = self.within(doubt(&self.runner, source, common), Halt::Source);
        match doubt.await? {
            Some(doubt @ Doubt::MayBeAhead(_)) => return Err(Halt::Failed(doubt.to_string())),
            Some(doubt @ Doubt::FewSay) => {
                let reason = format!("{doubt}: all members are compared again");
                return Err(Halt::Undecided(reason));
            }
            None => {}
        }
        let by_hand = empty_it(&self.name, target);
        let may_cut = self.may_cut || self.strategy == Strategy::Rebuild;
        if may_cut && by_hand.is_none() {
            let keep = self.what_may_be_kept(target, common).await?;
            return self.rewind(target, keep).await;
        }
        let since = common.map_or_else(
            || "it shares no transaction with the array".to_owned(),
            |common| format!("it diverged after {common}"),
        );
        let only_here = target.measure_after(common.unwrap_or(Tid::ZERO));
        let only_here = self.within(only_here, Halt::Target).await?.transactions;
        let only_here = counted(only_here, "transaction");
        let mend = match &by_hand {
            None => "it has to be rebuilt",
            Some(_) => "only its own operator can take them out",
        };
        Err(Halt::Stuck {
            reason: format!("{since}: {only_here} only here; {mend}"),
            next: by_hand.or_else(|| Some(self.rebuild())),
            is_wrong: true,
        })
    }

    /// How much of a copy that has diverged after `common` may stay. Where it was packed since, what it holds up to
    /// there is what was left by a state that never was the array's: objects that were changed or deleted only here
    /// are gone from it, and would be missing. Then nothing of it stays.
    async fn what_may_be_kept(
        &self,
        target: &dyn Storage,
        common: Option<Tid>,
    ) -> Result<Option<Tid>, Halt> {
        let range = TidRange::after(common.unwrap_or(Tid::ZERO));
        let first = async { target.iterate(range).await?.next().await };
        let was_packed = match self.within(first, Halt::Target).await {
            // Packing marks all that it has gone through.
            Ok(first) => first.is_some_and(|first| first.meta.status == TxnStatus::Packed),
            // It is cut, and what is before it can be read.
            Err(Halt::Target(Fault::Damaged(_))) => false,
            Err(halt) => return Err(halt),
        };
        Ok(common.filter(|_| !was_packed))
    }

    /// INVARIANT 9: what is cut is set aside first, by the storage itself. Says where the target ends then:
    /// where what has to be cut cannot be read, it is set aside as a whole, as it is.
    async fn rewind(&mut self, target: &dyn Storage, keep: Option<Tid>) -> Result<Tid, Halt> {
        if let Some(next) = empty_it(&self.name, target) {
            let since = keep.map_or_else(String::new, |keep| format!(" after {keep}"));
            return Err(Halt::Differs {
                reason: format!(
                    "it differs from the array{since}, and only its own operator can take that out"
                ),
                next,
            });
        }
        self.work.note("setting aside what only this member holds");
        // How much it is, and so how long it takes, is known only to the target.
        let much = u64::from(u32::MAX);
        // MODEL: Rewind
        let (kept, saved) = match self.change(much, target.rewind(keep)).await {
            Err(Halt::Target(Fault::Damaged(reason))) if keep.is_some() => {
                tracing::warn!(member = self.name, reason, "the whole copy is set aside");
                (None, self.change(much, target.rewind(None)).await?)
            }
            saved => (keep, saved?),
        };
        self.note_set_aside(saved);
        Ok(kept.unwrap_or(Tid::ZERO))
    }

    fn note_set_aside(&self, saved: SetAside) {
        let Some(file) = saved.file else { return };
        self.runner.notice(Notice::SetAside {
            member: self.name.clone(),
            file: file.display().to_string(),
            transactions: (!saved.unread).then_some(saved.extent.transactions),
        });
        self.tell(|recovery| recovery.set_aside.push(file));
    }

    /// Copies without the lock until what is missing can be copied within the catch-up limit. With
    /// `once` it copies in any case: what could not be copied in time under the lock, because of the
    /// files of blobs, must not be tried there again.
    async fn copy_until_short(
        &mut self,
        source: &Reader,
        target: &dyn Storage,
        mut at: Tid,
        once: bool,
    ) -> Result<Tid, Halt> {
        let before = self.copied;
        for round in 0..ROUNDS {
            at = self.end_of(source, target, at).await?;
            let head = self.runner.view().head;
            let missing = source.storage.measure_after(at);
            let missing = self.within(missing, Halt::Source).await?;
            self.missing = Amount {
                transactions: missing.transactions,
                bytes: missing.bytes,
            };
            if round == 0 {
                self.work.begin("copy", self.missing);
            } else {
                self.work.set_total(Amount {
                    transactions: self.copied.transactions - before.transactions
                        + self.missing.transactions,
                    bytes: self.copied.bytes - before.bytes + self.missing.bytes,
                });
            }
            let (bytes, transactions) = self.short();
            let short = missing.bytes <= bytes && missing.transactions <= transactions;
            if short && !(once && round == 0) {
                break;
            }
            let range = TidRange {
                first: at.next(),
                last: head,
            };
            at = self.copy(source, target, range, None).await?;
        }
        Ok(at)
    }

    /// Where the target ends by now. Another daemon that has it in its in-sync set writes to it all the time:
    /// what it was found to end with is then long past, and copying from there would be refused. And a
    /// server may finish late what it was asked for by a daemon that has died or given it up since: what the
    /// source does not hold must not be copied upon.
    async fn end_of(&self, source: &Reader, target: &dyn Storage, at: Tid) -> Result<Tid, Halt> {
        if !target.capabilities().shared {
            return Ok(at);
        }
        let last = self.within(target.last_tid(), Halt::Target).await?;
        if last <= at {
            return Ok(at);
        }
        let (what, after) = (
            "the analysis",
            self.runner.options.member_timeout * ANALYSIS,
        );
        let common = crate::task::select! {
            () = self.work.stop().requested() => return Err(Halt::Cancelled),
            common = tokio::time::timeout(after, is_common(&*source.storage, target, last)) => common,
        };
        let common = common.map_err(|_| Halt::Target(Fault::Timeout { what, after }))??;
        if common {
            Ok(last)
        } else {
            Err(Halt::Overtaken(format!(
                "it holds {last}, and its source does not"
            )))
        }
    }

    /// What can surely be copied under the lock.
    fn short(&self) -> (u64, u64) {
        let (bytes, transactions) = self
            .runner
            .look(|core| {
                let progress = core.recovery.as_ref()?.handle.progress();
                Some((progress.bytes_per_second, progress.transactions_per_second))
            })
            .unwrap_or_default();
        let half = self.runner.options.catch_up_limit.as_secs_f64() / 2.0;
        (
            ((bytes * half) as u64).max(SHORT_BYTES),
            ((transactions * half) as u64).clamp(FEWEST_TRANSACTIONS, SHORT_TRANSACTIONS),
        )
    }

    /// Whether the source does not hold the head any more: packing can remove it, where all that it
    /// wrote is garbage. Then nothing can be copied, and nothing is lacking.
    async fn was_packed(&self, source: &Reader, head: Tid) -> Result<bool, Halt> {
        let asked = async {
            let history = source.storage.iterate(TidRange::only(head)).await;
            history?.next().await
        };
        Ok(self.within(asked, Halt::Source).await?.is_none())
    }

    async fn catch_up(
        &mut self,
        source: &Reader,
        target: &dyn Storage,
        mut at: Tid,
    ) -> Result<(), Halt> {
        loop {
            self.work.begin("catch-up", self.missing);
            self.work.note("waiting for the commit lock");
            let commit = self.runner.new_commit_id();
            let mut lock = Lock {
                runner: Arc::clone(&self.runner),
                commit,
            };
            let mut told = self.runner.ask_catch_up(commit);
            let granted = crate::task::select! {
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
            at = self.end_of(source, target, at).await?;
            let rest = TidRange {
                first: at.next(),
                last: head,
            };
            self.work
                .note("clients wait while the last transactions are copied");
            if !bug!(RecoverWithoutLast) {
                at = self.copy(source, target, rest, Some(until)).await?;
            }
            let whole = bug!(RecoverWithoutLast)
                || at >= head
                || (!is_past(Some(until)) && self.was_packed(source, head).await?);
            if !whole {
                // It took too long: clients go on, and so does the copy.
                lock.release();
                at = self.copy_until_short(source, target, at, true).await?;
                continue;
            }
            self.work.note("joining the in-sync set");
            let last_tid = self.within(target.last_tid(), Halt::Target).await?;
            // It holds all that the source holds.
            let last_tid = if at < head { head } else { last_tid };
            let event = Event::TargetLevel {
                commit,
                member: self.member,
                last_tid,
                packed: self.packed,
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

/// Whether `until` has come.
fn is_past(until: Option<Instant>) -> bool {
    until.is_some_and(|until| until <= crate::clock::instant())
}
