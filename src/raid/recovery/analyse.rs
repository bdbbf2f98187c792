//! How a copy's history relates to a better one's.
//!
//! Two members' histories are prefixes of each other up to what packing removed (INVARIANT 3), or
//! one has diverged. So "both hold this transaction" is true up to a point and false after it, and
//! the point is found by looking back from the target's end in growing steps, then by halving. A TID
//! alone proves nothing: the transactions themselves are compared.
//!
//! What packing removed from the source looks like what was never committed, where its objects were changed
//! since. So only what both hold proves that all before it is common; whatever the target holds after
//! that is looked at one by one, and counts as packed away where all of it can have been. A copy that can
//! be cut is cut there nevertheless, and gets what the source holds.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::super::controller::{Link, MemberId};
use super::super::options::ClusterMode;
use super::super::report::{AnalysisReport, Finding, Refused, TxnSummary};
use super::super::runner::{Runner, as_fault};
use super::super::view::View;
use crate::storage::{Answer, Fault, History, Storage, StorageError, same_extension};
use crate::zodb::{HistoryRecord, HistoryTxn, Oid, RecordData, Tid, TidRange, TxnStatus};

/// How many of the transactions that only the target holds are named.
const NAMED: usize = 100;
/// How often a copy that its own task is about to close is tried, and one that seems to have diverged.
const AGAIN: Duration = Duration::from_millis(50);
/// What has come to one member should have come to the other within it.
const MOMENT: Duration = Duration::from_millis(500);
/// How often what others write is waited for.
const LOOKS: u32 = 8;

/// How a copy's history relates to a better one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::raid) enum Relation {
    Level,
    /// It ends with `common`; none where it is empty.
    Behind {
        common: Option<Tid>,
    },
    /// It ends with `last`. What it holds after `common`, the last that both hold, may have been packed away
    /// from the better one, or was never committed: nobody can tell.
    Unheld {
        common: Option<Tid>,
        last: Tid,
    },
    /// It holds what the better one does not.
    Diverged {
        common: Option<Tid>,
    },
}

/// What a target holds after the last transaction that both hold.
enum Rest {
    Nothing,
    /// All of it may have been packed away from the source; the last.
    Unheld(Tid),
    /// The first that packing is no reason for.
    Own(Tid),
}

/// Why nobody can say yet that it is the target that is wrong, where the two have diverged. Whoever had its operator
/// empty it then would have a good copy thrown away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    /// All that the source holds, up to this transaction, the target holds too. Another daemon may be ahead of
    /// this one with the target: what it holds beyond the source is acknowledged here soon, or stands against the
    /// next transaction.
    MayBeAhead(Tid),
    /// Less than a majority says what was acknowledged.
    FewSay,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Doubt::MayBeAhead(last) => write!(
                f,
                "it holds transactions after {last} that are not acknowledged here; waiting for the others to have \
                 them too, or for a later one"
            ),
            Doubt::FewSay => {
                f.write_str("it has diverged, and less than a majority says who is right")
            }
        }
    }
}

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
    let doubted = crate::raid::scrub::is_doubted(runner, member);
    let report = |finding, next| AnalysisReport {
        member: member.to_owned(),
        source: name.clone(),
        finding,
        next,
        doubted,
    };
    let refused = |member: &str, fault| Refused::Member {
        member: member.to_owned(),
        fault,
    };
    let (target, opened_here) = match open(runner, id).await {
        Ok(opened) => opened,
        Err(Fault::Damaged(reason)) => return Ok(report(Finding::Damaged { reason }, None)),
        Err(fault) => return Err(refused(member, fault)),
    };
    let patience = runner.options.member_timeout * super::ANALYSIS;
    let found = async {
        let others = others_than(&view, source.member, id);
        let finding = find(&*source.storage, &others, &*target, view.head).await?;
        let doubt = match &finding {
            Finding::Diverged { common, .. } => {
                doubt(runner, &*source.storage, *common).await.of_source()?
            }
            _ => None,
        };
        Ok((finding, doubt))
    };
    let found = tokio::time::timeout(patience, found).await;
    let emptied = empty_it(member, &*target);
    if opened_here {
        target.close().await;
    }
    match found {
        Ok(Ok((_, Some(doubt)))) => Err(Refused::Undecided {
            member: member.to_owned(),
            reason: doubt.to_string(),
        }),
        Ok(Ok((finding, None))) => {
            note_lack(runner, id, &finding);
            let stuck = matches!(finding, Finding::Diverged { .. });
            Ok(report(finding, emptied.filter(|_| stuck)))
        }
        Ok(Err(Broken::Target(error))) => match as_fault(error) {
            Fault::Damaged(reason) => Ok(report(Finding::Damaged { reason }, None)),
            fault => Err(refused(member, fault)),
        },
        Ok(Err(Broken::Source(error))) => Err(refused(&name, as_fault(error))),
        Err(_) => {
            let (what, after) = ("the analysis", patience);
            Err(refused(member, Fault::Timeout { what, after }))
        }
    }
}

/// Whether it is settled that `target`, which diverged after `common`, is the one that is wrong.
pub(super) async fn doubt(
    runner: &Runner,
    source: &dyn Storage,
    common: Option<Tid>,
) -> Result<Option<Doubt>, StorageError> {
    if runner.options.cluster_mode == ClusterMode::Coop {
        let last = source.last_tid().await?;
        if common.unwrap_or(Tid::ZERO) == last {
            return Ok(Some(Doubt::MayBeAhead(last)));
        }
    }
    let few_say = runner.look(|core| core.controller.may_be_wrong());
    Ok(few_say.then_some(Doubt::FewSay))
}

/// What the operator of a member has to do who alone can take something out of it; none where the array
/// can.
pub(super) fn empty_it(member: &str, target: &dyn Storage) -> Option<String> {
    if target.capabilities().rewind {
        return None;
    }
    let description = target.describe();
    Some(match description.kind {
        "zeo" => format!(
            "stop the server at {}, move its Data.fs, Data.fs.index and blobs away, start it again, \
             then: zeoraidctl recover {member}",
            description.location
        ),
        _ => format!(
            "empty the {} storage {}, then: zeoraidctl recover {member}",
            description.kind, description.location
        ),
    })
}

/// Reports show from now on what the member lacks; commits add to it.
fn note_lack(runner: &Runner, id: MemberId, finding: &Finding) {
    let lacks = match finding {
        Finding::Behind { lacks, .. }
        | Finding::Empty { lacks }
        | Finding::Diverged { lacks, .. } => *lacks,
        Finding::UpToDate | Finding::Damaged { .. } => return,
    };
    runner.update(|core| {
        let member = core.controller.members.get_mut(&id);
        if let Some(member) = member.filter(|member| member.out().is_some()) {
            member.lacks = Some(lacks);
        }
    });
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
            match opening.map_err(|_| late())? {
                // Its own task may still be closing it, after it was disabled.
                Err(Fault::InUse(_)) if tokio::time::Instant::now() + AGAIN < deadline => {
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
                answer => return answer.map(|storage| (storage, true)),
            }
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
///
/// Another daemon that writes to both finishes a transaction on both at the same time, and may be seen when
/// it has come to the target alone. So nobody has diverged whose next transaction the source holds a
/// moment later.
pub(in crate::raid) async fn relate(
    source: &dyn Storage,
    target: &dyn Storage,
    head: Tid,
) -> Result<Relation, Broken> {
    let mut looks = 1;
    loop {
        let last = target.last_tid().await.of_target()?;
        if last.is_zero() {
            return Ok(if head.is_zero() {
                Relation::Level
            } else {
                Relation::Behind { common: None }
            });
        }
        let (common, rest) = compare(source, target, last).await?;
        let is_level = last >= head;
        let own = match rest {
            Rest::Nothing if common == Some(last) && is_level => return Ok(Relation::Level),
            // The last TID proves nothing: it may be that of a transaction which was cut at opening.
            Rest::Nothing if common.is_none() && head.is_zero() => return Ok(Relation::Level),
            Rest::Nothing => return Ok(Relation::Behind { common }),
            // It ends with what was acknowledged last.
            Rest::Unheld(end) if end == last && is_level => return Ok(Relation::Level),
            Rest::Unheld(last) => return Ok(Relation::Unheld { common, last }),
            Rest::Own(own) => own,
        };
        if is_settled(source, target, own).await? {
            return Ok(Relation::Diverged { common });
        }
        if looks == LOOKS {
            // Whoever goes on from there is told by the target that it is further.
            return Ok(Relation::Behind { common });
        }
        looks += 1;
    }
}

/// As [`relate`]. Where that leaves open what the target holds after the last transaction that both hold, because the
/// source is packed there, one of the others may know, who is not. For a target that can be cut it makes no
/// difference: it is cut there, and loses nothing.
pub(super) async fn relate_to_any(
    source: &dyn Storage,
    others: &[Arc<dyn Storage>],
    target: &dyn Storage,
    head: Tid,
) -> Result<Relation, Broken> {
    let relation = relate(source, target, head).await?;
    if !matches!(relation, Relation::Unheld { .. }) || target.capabilities().rewind {
        return Ok(relation);
    }
    for other in others {
        match relate(&**other, target, head).await {
            Ok(Relation::Unheld { .. }) | Err(Broken::Source(_)) => {}
            told => return told,
        }
    }
    Ok(relation)
}

/// Those that may be read but for these two, one of which is being recovered from the other.
pub(super) fn others_than(
    view: &View,
    source: MemberId,
    target: MemberId,
) -> Vec<Arc<dyn Storage>> {
    let readers = view.readers.iter();
    let others = readers.filter(|it| it.member != source && it.member != target);
    others.map(|it| Arc::clone(&it.storage)).collect()
}

/// Whether what the target holds as this transaction stays on it alone.
async fn is_settled(source: &dyn Storage, target: &dyn Storage, tid: Tid) -> Result<bool, Broken> {
    let Some(theirs) = only(target, tid).await.of_target()? else {
        return Ok(false);
    };
    let until = tokio::time::Instant::now() + MOMENT;
    loop {
        if let Some(ours) = only(source, tid).await.of_source()?
            && same(&ours, &theirs)?
        {
            return Ok(false);
        }
        if tokio::time::Instant::now() >= until {
            return Ok(true);
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// The last transaction that both hold, and what the target, whose last TID is `last`, holds after it.
async fn compare(
    source: &dyn Storage,
    target: &dyn Storage,
    last: Tid,
) -> Result<(Option<Tid>, Rest), Broken> {
    // Mostly it ends with what the source holds too, and that is the only question.
    if is_held(source, target, last).await? {
        return Ok((Some(last), Rest::Nothing));
    }
    let found = newest_that(Property::HeldBy(source), target).await?;
    let common = last_held(source, target, found).await?;
    Ok((common, rest_after(source, target, common).await?))
}

/// A history beside one that is walked along.
struct Beside {
    history: Box<dyn History>,
    next: Option<HistoryTxn>,
}

impl Beside {
    async fn open(storage: &dyn Storage, after: Option<Tid>) -> Result<Self, StorageError> {
        let range = TidRange::after(after.unwrap_or(Tid::ZERO));
        let mut history = storage.iterate(range).await?;
        let next = history.next().await?;
        Ok(Beside { history, next })
    }

    /// The first from there on. To be asked in order.
    async fn from(&mut self, tid: Tid) -> Result<Option<&HistoryTxn>, StorageError> {
        while self.next.as_ref().is_some_and(|next| next.tid < tid) {
            self.next = self.history.next().await?;
        }
        Ok(self.next.as_ref())
    }
}

/// The last that both hold, after one that they do.
async fn last_held(
    source: &dyn Storage,
    target: &dyn Storage,
    found: Option<Tid>,
) -> Result<Option<Tid>, Broken> {
    let mut last = found;
    let range = TidRange::after(found.unwrap_or(Tid::ZERO));
    let mut own = target.iterate(range).await.of_target()?;
    let mut beside = Beside::open(source, found).await.of_source()?;
    while let Some(theirs) = own.next().await.of_target()? {
        match beside.from(theirs.tid).await.of_source()? {
            Some(ours) if ours.tid > theirs.tid => {}
            Some(ours) if same(ours, &theirs)? => last = Some(theirs.tid),
            _ => break,
        }
    }
    Ok(last)
}

/// What the target holds after the last transaction that both hold.
async fn rest_after(
    source: &dyn Storage,
    target: &dyn Storage,
    common: Option<Tid>,
) -> Result<Rest, Broken> {
    let mut rest = Rest::Nothing;
    let range = TidRange::after(common.unwrap_or(Tid::ZERO));
    let mut own = target.iterate(range).await.of_target()?;
    let mut beside = Beside::open(source, common).await.of_source()?;
    while let Some(theirs) = own.next().await.of_target()? {
        let is_explained = match beside.from(theirs.tid).await.of_source()? {
            // It came to the source meanwhile.
            Some(ours) if ours.tid == theirs.tid => same(ours, &theirs)?,
            _ if is_emptied(&theirs) => left_it_out(source, theirs.tid).await.of_source()?,
            Some(ours) if is_packed(ours) => {
                went_on(source, &theirs).await.of_source()?
                    && !would_stay(source, target, &theirs).await?
            }
            _ => false,
        };
        if !is_explained {
            return Ok(Rest::Own(theirs.tid));
        }
        rest = Rest::Unheld(theirs.tid);
    }
    Ok(rest)
}

/// How `target` relates to `source`, and how much that is.
async fn find(
    source: &dyn Storage,
    others: &[Arc<dyn Storage>],
    target: &dyn Storage,
    head: Tid,
) -> Result<Finding, Broken> {
    let lacks = async |common: Option<Tid>| {
        let after = common.unwrap_or(Tid::ZERO);
        source.measure_after(after).await.of_source()
    };
    let behind = async |common: Option<Tid>| {
        let lacks = lacks(common).await?;
        Ok(match common {
            Some(common) => Finding::Behind { common, lacks },
            None => Finding::Empty { lacks },
        })
    };
    let common = match relate_to_any(source, others, target, head).await? {
        Relation::Level => return Ok(Finding::UpToDate),
        Relation::Behind { common } => return behind(common).await,
        Relation::Unheld { common, .. } if target.capabilities().rewind => {
            return behind(common).await;
        }
        Relation::Unheld { last, .. } => return behind(Some(last)).await,
        Relation::Diverged { common } => common,
    };
    let after = common.unwrap_or(Tid::ZERO);
    let only_here_count = target.measure_after(after).await.of_target()?.transactions;
    let mut only_here = Vec::new();
    let mut history = target.iterate(TidRange::after(after)).await.of_target()?;
    while only_here.len() < NAMED
        && let Some(transaction) = history.next().await.of_target()?
    {
        only_here.push(summary(&transaction));
    }
    Ok(Finding::Diverged {
        common,
        lacks: lacks(common).await?,
        only_here_count: only_here_count.max(only_here.len() as u64),
        only_here,
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

/// What is true of a storage's transactions up to one of them, and of none after it. Where the source is packed that is
/// so of [`Property::HeldBy`] only within what is left of it: one that has it is found then, and [`last_held`] goes on
/// from there.
enum Property<'a> {
    /// The source holds it too.
    HeldBy(&'a dyn Storage),
    /// Packing has gone through it.
    Packed,
}

impl Property<'_> {
    async fn is_of(&self, storage: &dyn Storage, tid: Tid) -> Result<bool, Broken> {
        match self {
            Property::HeldBy(source) => is_held(*source, storage, tid).await,
            Property::Packed => {
                let transaction = only(storage, tid).await.of_target()?;
                // One that is gone was packed away just now.
                Ok(transaction.as_ref().is_none_or(is_packed))
            }
        }
    }
}

/// The newest with this property, looked for from the end of the storage in growing steps; none where there is
/// none.
async fn newest_that(property: Property<'_>, storage: &dyn Storage) -> Result<Option<Tid>, Broken> {
    let (mut before, mut step) = (Tid::MAX, 16);
    loop {
        // Newest first.
        let tids = storage.tids_before(before, step).await.of_target()?;
        let Some(oldest) = tids.last().copied() else {
            return Ok(None);
        };
        if property.is_of(storage, oldest).await? {
            // `low` has it, and what comes just before `high`, where there is something, has not.
            let (mut high, mut low) = (0, tids.len() - 1);
            while high < low {
                let middle = usize::midpoint(high, low);
                if property.is_of(storage, tids[middle]).await? {
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

/// Whether both hold this transaction.
async fn is_held(source: &dyn Storage, target: &dyn Storage, tid: Tid) -> Result<bool, Broken> {
    let Some(theirs) = only(target, tid).await.of_target()? else {
        return Ok(false);
    };
    match only(source, tid).await.of_source()? {
        Some(ours) => same(&ours, &theirs),
        None => Ok(false),
    }
}

/// Whether the target holds this transaction, and the source holds it or may have packed it away.
pub(super) async fn is_common(
    source: &dyn Storage,
    target: &dyn Storage,
    tid: Tid,
) -> Result<bool, Broken> {
    let Some(theirs) = only(target, tid).await.of_target()? else {
        return Ok(false);
    };
    match only(source, tid).await.of_source()? {
        Some(ours) => same(&ours, &theirs),
        None if is_emptied(&theirs) => left_it_out(source, tid).await.of_source(),
        None => Ok(was_packed_away(source, &theirs).await.of_source()?
            && !would_stay(source, target, &theirs).await?),
    }
}

/// The last transaction that packing has gone through, which marks all up to its time; zero where there is none.
pub(in crate::raid) async fn packed_up_to(storage: &dyn Storage) -> Result<Tid, StorageError> {
    let first = storage.iterate(TidRange::ALL).await?.next().await?;
    if !first.as_ref().is_some_and(is_packed) {
        return Ok(Tid::ZERO);
    }
    let newest = newest_that(Property::Packed, storage).await;
    newest
        .map(Option::unwrap_or_default)
        .map_err(|(Broken::Source(error) | Broken::Target(error))| error)
}

async fn only(storage: &dyn Storage, tid: Tid) -> Result<Option<HistoryTxn>, StorageError> {
    storage.iterate(TidRange::only(tid)).await?.next().await
}

/// Whether packing can have removed this transaction from the source: then what follows is packed, and every
/// object in it has a later revision there, or is gone.
pub(super) async fn was_packed_away(
    source: &dyn Storage,
    transaction: &HistoryTxn,
) -> Result<bool, StorageError> {
    let next = source
        .iterate(TidRange::after(transaction.tid))
        .await?
        .next()
        .await?;
    Ok(next.is_some_and(|next| is_packed(&next)) && went_on(source, transaction).await?)
}

/// Whether every object that was written has a later revision here, or is gone.
pub(super) async fn went_on(
    storage: &dyn Storage,
    transaction: &HistoryTxn,
) -> Result<bool, StorageError> {
    for record in &transaction.records {
        match storage.current_tid(record.oid).await {
            Ok(tid) if tid > transaction.tid => {}
            Ok(_) => return Ok(false),
            Err(StorageError::Answer(Answer::NoSuchObject(_))) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Whether the target would keep an object that the source does not know. Garbage that packing has removed looks
/// like an object that was never committed; where nothing can be taken out of the target, it is taken for that:
/// the array may give its identifier to another object, and would be refused by this copy.
async fn would_stay(
    source: &dyn Storage,
    target: &dyn Storage,
    transaction: &HistoryTxn,
) -> Result<bool, Broken> {
    if target.capabilities().rewind {
        return Ok(false);
    }
    for record in &transaction.records {
        let ours = source.current_tid(record.oid).await;
        if !matches!(ours, Err(StorageError::Answer(Answer::NoSuchObject(_)))) {
            ours.of_source()?;
            continue;
        }
        match target.current_tid(record.oid).await {
            Ok(_) => return Ok(true),
            Err(StorageError::Answer(Answer::NoSuchObject(_))) => {}
            Err(error) => return Err(Broken::Target(error)),
        }
    }
    Ok(false)
}

/// Whether two members hold the same transaction. Packing marks a transaction and takes records out
/// of it; what both still hold must be the same.
///
/// What no reader can tell apart does not count: how an extension is pickled; the order of records; and
/// of several records of one object all but the last, which is the only one that can be loaded (a ZEO
/// server keeps the record of a blob twice).
///
/// Blocks for records that are pieces of files; they are rare and large.
pub(in crate::raid) fn same(ours: &HistoryTxn, theirs: &HistoryTxn) -> Result<bool, Broken> {
    let packed = is_packed(ours) || is_packed(theirs);
    if ours.tid != theirs.tid || !same_meta(ours, theirs) {
        return Ok(false);
    }
    let (ours, theirs) = (by_object(ours), by_object(theirs));
    if !packed && !ours.keys().eq(theirs.keys()) {
        return Ok(false);
    }
    for (oid, ours) in &ours {
        if let Some(theirs) = theirs.get(oid)
            && !same_record(ours, theirs)?
        {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(super) fn is_packed(transaction: &HistoryTxn) -> bool {
    transaction.meta.status == TxnStatus::Packed
}

/// Whether nothing that a transaction wrote is left. A `Data.fs` that the array packs keeps that much of the last one
/// that is packed, so that it ends where it did; Python's servers do not. Who lacks it lacks nothing that anybody
/// could read.
pub(in crate::raid) fn is_emptied(transaction: &HistoryTxn) -> bool {
    is_packed(transaction) && transaction.records.is_empty()
}

/// Whether a storage that does not hold what is emptied elsewhere was there when it was committed: it has gone on
/// since, or says that it ends with it.
async fn left_it_out(storage: &dyn Storage, emptied: Tid) -> Result<bool, StorageError> {
    Ok(storage.last_tid().await? >= emptied)
}

/// Whether what comes next in `storage` after this transaction is what the other one holds, too.
pub(super) async fn goes_on_as(
    other: &dyn Storage,
    storage: &dyn Storage,
    after: Tid,
) -> Result<bool, StorageError> {
    let next = storage
        .iterate(TidRange::after(after))
        .await?
        .next()
        .await?;
    let Some(next) = next else {
        return Ok(false);
    };
    let Some(theirs) = only(other, next.tid).await? else {
        return Ok(false);
    };
    same(&theirs, &next).map_err(|(Broken::Source(error) | Broken::Target(error))| error)
}

/// Whether two copies of a transaction say the same of it.
pub(in crate::raid) fn same_meta(ours: &HistoryTxn, theirs: &HistoryTxn) -> bool {
    let packed = is_packed(ours) || is_packed(theirs);
    let (ours, theirs) = (&ours.meta, &theirs.meta);
    (ours.status == theirs.status || packed)
        && ours.user == theirs.user
        && ours.description == theirs.description
        && same_extension(&ours.extension, &theirs.extension)
}

/// The record of each object that counts.
pub(in crate::raid) fn by_object(transaction: &HistoryTxn) -> BTreeMap<Oid, &HistoryRecord> {
    let records = transaction.records.iter();
    records.map(|record| (record.oid, record)).collect()
}

/// A back-pointer and the data it points to are the same record: packing turns one into the other.
pub(in crate::raid) fn same_record(
    ours: &HistoryRecord,
    theirs: &HistoryRecord,
) -> Result<bool, Broken> {
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
