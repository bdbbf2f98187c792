//! What clients did and were told, and whether the history that is left agrees with it.
//!
//! Every transaction has a name, which is its description, and every state that it writes has that name in
//! it. So at the end each transaction of the history is known by name: what was acknowledged is there
//! once, under the TID that was told; what was refused is not there; what nobody knows is there at most
//! once. Then every load that any client ever made, from its cache or from a daemon, must have given
//! what was current as of its snapshot in this one history.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use parking_lot::Mutex;

use super::client::content_of;
use super::trace;
use crate::zodb::{Oid, Tid, TxnMeta};

/// How a transaction ended, for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    UnderWay,
    /// It cannot have been committed.
    Refused,
    /// Nobody answered its finish.
    Unknown,
    Acknowledged(Tid),
}

#[derive(Debug, Clone)]
pub(super) struct Done {
    meta: TxnMeta,
    /// None where it deletes an object.
    writes: Writes,
    /// What had to be current.
    checks: Vec<(Oid, Tid)>,
    outcome: Outcome,
}

pub(super) type Writes = BTreeMap<Oid, Option<Bytes>>;

/// What a client was told of many transactions, as one answer or in pieces.
#[derive(Debug, Clone)]
pub(super) enum Claim {
    /// All from the first to the last one, both included.
    Iterated {
        first: Tid,
        last: Tid,
        found: Vec<(Tid, TxnMeta, Records)>,
    },
    /// The newest that can be undone, the newest first.
    Undoable(Vec<(Tid, TxnMeta)>),
    /// The newest revisions of an object, the newest first.
    Revisions(Oid, Vec<(Tid, TxnMeta)>),
}

pub(super) type Records = Vec<(Oid, Option<Bytes>)>;

/// Where identifiers came from until now. A server gives none twice while it lives, and two of them do: also of two
/// daemons none is given twice until somebody asks another one.
#[derive(Default, PartialEq, Eq)]
enum OidsFrom {
    #[default]
    Nobody,
    One(String, usize),
    Several,
}

impl OidsFrom {
    fn add(&mut self, from: Option<(String, usize)>) {
        let from = from.map_or(OidsFrom::Several, |(server, life)| {
            OidsFrom::One(server, life)
        });
        if *self == OidsFrom::Nobody {
            *self = from;
        } else if *self != from {
            *self = OidsFrom::Several;
        }
    }
}

/// What a client saw.
#[derive(Debug, Clone)]
struct Seen {
    who: String,
    oid: Oid,
    before: Tid,
    /// The transaction and the state; none where there was no object.
    found: Option<(Tid, Bytes)>,
}

#[derive(Default)]
pub(super) struct Truth(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    done: BTreeMap<String, Done>,
    seen: Vec<Seen>,
    claims: Vec<(String, Claim)>,
    /// Object identifiers that were given out, and by which life of a daemon.
    given: BTreeMap<Oid, u64>,
    oids_from: OidsFrom,
    /// Up to there somebody asked to pack.
    floor: Tid,
    by_tid: BTreeMap<Tid, String>,
}

/// A transaction of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) meta: TxnMeta,
    pub(super) records: Records,
    /// The files of its blobs.
    pub(super) blobs: BTreeMap<Oid, Vec<u8>>,
}

impl Kept {
    /// Its description.
    fn name(&self) -> String {
        String::from_utf8_lossy(&self.meta.description).into_owned()
    }
}

pub(super) type History = BTreeMap<Tid, Kept>;

impl Truth {
    pub(super) fn begin(&self, name: &str, meta: TxnMeta, checks: Vec<(Oid, Tid)>) {
        let done = Done {
            meta,
            writes: BTreeMap::new(),
            checks,
            outcome: Outcome::UnderWay,
        };
        let before = self.0.lock().done.insert(name.to_owned(), done);
        assert!(before.is_none(), "{name} is used twice");
    }

    /// What it is going to write, which must be said before its finish is asked for.
    pub(super) fn will_write(&self, name: &str, writes: Writes) {
        let mut inner = self.0.lock();
        let done = inner.done.get_mut(name).expect("it was begun");
        done.writes = writes;
        done.outcome = Outcome::Unknown;
    }

    pub(super) fn refused(&self, name: &str) {
        let mut inner = self.0.lock();
        inner.done.get_mut(name).expect("it was begun").outcome = Outcome::Refused;
    }

    pub(super) fn acknowledged(&self, name: &str, tid: Tid) {
        let mut inner = self.0.lock();
        inner.done.get_mut(name).expect("it was begun").outcome = Outcome::Acknowledged(tid);
        if let Some(other) = inner.by_tid.insert(tid, name.to_owned()) {
            trace::fail(format!("{tid} was given to {other} and to {name}"));
        }
    }

    pub(super) fn saw(&self, who: &str, oid: Oid, before: Tid, found: Option<(Tid, Bytes)>) {
        let who = who.to_owned();
        self.0.lock().seen.push(Seen {
            who,
            oid,
            before,
            found,
        });
    }

    pub(super) fn claims(&self, who: &str, claim: Claim) {
        self.0.lock().claims.push((who.to_owned(), claim));
    }

    /// A daemon has given out object identifiers, from this life of a server, where that is sure. `lives` tells of each
    /// life of a daemon whether it lasts. Gives those that nobody was ever given before.
    pub(super) fn gave(
        &self,
        life: u64,
        oids: &[Oid],
        from: Option<(String, usize)>,
        lives: impl Fn(u64) -> bool,
    ) -> Vec<Oid> {
        let mut inner = self.0.lock();
        inner.oids_from.add(from);
        let from_one = matches!(inner.oids_from, OidsFrom::One(..));
        let mut fresh = Vec::new();
        for oid in oids {
            let before = inner.given.insert(*oid, life);
            if before.is_none() {
                fresh.push(*oid);
            }
            if let Some(before) = before.filter(|before| lives(*before)) {
                let same = before == life;
                if !same && !from_one {
                    continue;
                }
                trace::fail(format!("{oid} is given twice, by the same daemon: {same}"));
            }
            let acknowledged = |done: &&Done| matches!(done.outcome, Outcome::Acknowledged(_));
            let mut done = inner.done.values().filter(acknowledged);
            if done.any(|done| done.writes.contains_key(oid)) {
                trace::fail(format!("{oid} is given, and there is such an object"));
            }
        }
        fresh
    }

    /// Whether a transaction that writes this object may have been committed, or be so any moment.
    pub(super) fn may_have_changed(&self, oid: Oid) -> bool {
        let inner = self.0.lock();
        let mut unknown = inner.done.values();
        unknown.any(|done| done.outcome == Outcome::Unknown && done.writes.contains_key(&oid))
    }

    pub(super) fn packs(&self, to: Tid) {
        let mut inner = self.0.lock();
        inner.floor = inner.floor.max(to);
    }

    pub(super) fn floor(&self) -> Tid {
        self.0.lock().floor
    }

    pub(super) fn last_acknowledged(&self) -> Option<Tid> {
        self.0.lock().by_tid.keys().next_back().copied()
    }

    /// What was acknowledged, and what was seen or told of: later than what may be packed, or than the last
    /// transaction of a copy, which has not packed it then.
    pub(super) fn known(&self, last: Tid) -> BTreeSet<Tid> {
        let inner = self.0.lock();
        let seen = inner.seen.iter().filter_map(|seen| seen.found.as_ref());
        let seen = seen.map(|(tid, _)| *tid);
        let claimed = inner.claims.iter().flat_map(|(_, claim)| claim.tids());
        let known = inner.by_tid.keys().copied().chain(seen).chain(claimed);
        known
            .filter(|tid| *tid > inner.floor || *tid > last)
            .collect()
    }

    /// These are lost, as an operator has risked it. Nobody who has seen them goes on; they may come back,
    /// with who holds them.
    pub(super) fn forget(&self, lost: &BTreeSet<Tid>) {
        let Some(first) = lost.first() else { return };
        let mut inner = self.0.lock();
        for done in inner.done.values_mut() {
            if matches!(done.outcome, Outcome::Acknowledged(tid) if lost.contains(&tid)) {
                done.outcome = Outcome::Unknown;
            }
        }
        inner.by_tid.retain(|tid, _| !lost.contains(tid));
        inner.seen.retain(|seen| seen.before <= *first);
        for (_, claim) in &mut inner.claims {
            claim.end_before(*first);
        }
    }

    /// What clients were told of as committed.
    pub(super) fn acknowledged_after(&self, floor: Tid) -> Vec<Tid> {
        let inner = self.0.lock();
        let after = inner.by_tid.range(floor.next()..);
        after.map(|(tid, _)| *tid).collect()
    }

    pub(super) fn counts(&self) -> (usize, usize) {
        let inner = self.0.lock();
        (inner.by_tid.len(), inner.seen.len())
    }

    /// Compares everything with the history that is left, of which these are in every copy.
    pub(super) fn judge(&self, history: &History, everywhere: &BTreeSet<Tid>) {
        let inner = self.0.lock();
        let mut there: BTreeMap<&str, Tid> = BTreeMap::new();
        // What each object was, from when on.
        let mut states: BTreeMap<Oid, BTreeMap<Tid, Option<Bytes>>> = BTreeMap::new();
        for (tid, kept) in history {
            let name = kept.name();
            let Some((name, done)) = inner.done.get_key_value(&name) else {
                trace::fail(format!("{tid} is {name:?}, which nobody wrote"));
                continue;
            };
            if let Some(other) = there.insert(name, *tid) {
                trace::fail(format!("{name} is there as {other} and as {tid}"));
            }
            match done.outcome {
                Outcome::Acknowledged(told) if told != *tid => {
                    trace::fail(format!("{name} is {tid}, and its client was told {told}"));
                }
                Outcome::Refused => {
                    trace::fail(format!("{name} was refused and is there as {tid}"));
                }
                Outcome::UnderWay => {
                    trace::fail(format!("{name} was never finished and is there as {tid}"));
                }
                Outcome::Acknowledged(_) | Outcome::Unknown => {}
            }
            let records: BTreeMap<Oid, Option<Bytes>> = kept.records.iter().cloned().collect();
            let said = &done.writes;
            let whole = if *tid > inner.floor {
                records == *said && kept.meta == done.meta
            } else {
                records
                    .iter()
                    .all(|(oid, data)| said.get(oid) == Some(data))
            };
            if !whole {
                let (is, was) = (&kept.meta, &done.meta);
                trace::fail(format!(
                    "{name} as {tid} has {is:?} {records:?} and not {was:?} {said:?}"
                ));
            }
            for (oid, content) in &kept.blobs {
                let data = said.get(oid).and_then(Option::as_ref);
                if data.map(|data| content_of(data)).as_ref() != Some(content) {
                    let len = content.len();
                    trace::fail(format!(
                        "{name} as {tid} has another blob of {oid}, of {len} bytes"
                    ));
                }
            }
        }
        for (name, done) in &inner.done {
            let Outcome::Acknowledged(tid) = done.outcome else {
                // What nobody knows and packing has removed can only be seen. So it is with what only some copies
                // hold: packing has removed it from the others, or they never had it, and nobody can tell.
                let counts = |tid: &&Tid| {
                    **tid > inner.floor || everywhere.contains(*tid) || inner.has_seen(**tid, done)
                };
                if let Some(tid) = there.get(name.as_str()).filter(counts) {
                    for (oid, data) in &done.writes {
                        states.entry(*oid).or_default().insert(*tid, data.clone());
                    }
                }
                continue;
            };
            if tid > inner.floor && !there.contains_key(name.as_str()) {
                trace::fail(format!("{name} was acknowledged as {tid} and is lost"));
            }
            for (oid, data) in &done.writes {
                states.entry(*oid).or_default().insert(tid, data.clone());
            }
        }
        let unknown: BTreeSet<(Oid, &Bytes)> = inner
            .done
            .values()
            .filter(|done| done.outcome == Outcome::Unknown)
            .flat_map(|done| &done.writes)
            .filter_map(|(oid, data)| Some((*oid, data.as_ref()?)))
            .collect();
        for seen in &inner.seen {
            if let Some((tid, data)) = &seen.found
                && *tid <= inner.floor
                && unknown.contains(&(seen.oid, data))
            {
                let of_object = states.entry(seen.oid).or_default();
                of_object.entry(*tid).or_insert_with(|| Some(data.clone()));
            }
        }
        for seen in &inner.seen {
            let of_object = states.get(&seen.oid);
            let current = of_object.and_then(|states| states.range(..seen.before).next_back());
            let current = current.and_then(|(tid, data)| Some((*tid, data.clone()?)));
            // Packing may have removed what was current as of an old snapshot.
            let packed = seen.before <= inner.floor.next();
            if current != seen.found && !(packed && seen.found.is_none()) {
                trace::fail(format!(
                    "{} saw {} before {} as {:?}, and it was {current:?}",
                    seen.who, seen.oid, seen.before, seen.found
                ));
                return;
            }
        }
        for (name, done) in &inner.done {
            let Some(tid) = there.get(name.as_str()).filter(|tid| **tid > inner.floor) else {
                continue;
            };
            for (oid, serial) in &done.checks {
                let of_object = states.get(oid);
                let current = of_object.and_then(|states| states.range(..tid).next_back());
                if current.map(|(tid, _)| tid) != Some(serial) {
                    trace::fail(format!(
                        "{name} as {tid} depends on {oid} of {serial}, and there was {current:?}"
                    ));
                }
            }
        }
        for (who, claim) in &inner.claims {
            if let Err(why) = claim.agrees_with(history, inner.floor) {
                trace::fail(format!("{who} was told otherwise than it is: {why}"));
            }
        }
    }
}

impl Inner {
    /// Whether somebody has seen something that this transaction wrote.
    fn has_seen(&self, tid: Tid, done: &Done) -> bool {
        self.seen.iter().any(|seen| {
            let wrote = done.writes.get(&seen.oid).and_then(Option::as_ref);
            let found = seen.found.as_ref();
            found.is_some_and(|(found, data)| *found == tid && wrote == Some(data))
        })
    }
}

impl Claim {
    fn tids(&self) -> Vec<Tid> {
        match self {
            Claim::Iterated { found, .. } => found.iter().map(|(tid, ..)| *tid).collect(),
            Claim::Undoable(found) | Claim::Revisions(_, found) => {
                found.iter().map(|(tid, _)| *tid).collect()
            }
        }
    }

    /// What came from there on is lost, and anything else may come in its place: it says nothing of that.
    fn end_before(&mut self, lost: Tid) {
        match self {
            Claim::Iterated { last, found, .. } => {
                found.retain(|(tid, ..)| *tid < lost);
                if *last >= lost {
                    *last = found.last().map_or(Tid::ZERO, |(tid, ..)| *tid);
                }
            }
            Claim::Undoable(found) | Claim::Revisions(_, found) => {
                found.retain(|(tid, _)| *tid < lost);
            }
        }
    }

    /// Of what packing may have removed, nothing is known any more.
    fn agrees_with(&self, history: &History, floor: Tid) -> Result<(), String> {
        let known = floor.next();
        match self {
            Claim::Iterated { first, last, found } => {
                let first = known.max(*first);
                let found = found.iter().filter(|(tid, ..)| *tid > floor);
                let found: BTreeMap<Tid, (&TxnMeta, &Records)> = found
                    .map(|(tid, meta, records)| (*tid, (meta, records)))
                    .collect();
                if first > *last {
                    return Ok(());
                }
                let there = history.range(first..=*last);
                let there: BTreeMap<Tid, (&TxnMeta, &Records)> = there
                    .map(|(tid, kept)| (*tid, (&kept.meta, &kept.records)))
                    .collect();
                let all: BTreeSet<&Tid> = there.keys().chain(found.keys()).collect();
                for tid in all {
                    let (one, other) = (there.get(tid), found.get(tid));
                    if one != other {
                        return Err(format!(
                            "from {first} to {last}, {tid} is {one:?}, and it was {other:?}"
                        ));
                    }
                }
                Ok(())
            }
            Claim::Undoable(found) => newest_are(history, known, found, |_| true),
            Claim::Revisions(oid, found) => {
                let is_written = |kept: &Kept| kept.records.iter().any(|(other, _)| other == oid);
                newest_are(history, known, found, is_written).map_err(|why| format!("{oid}: {why}"))
            }
        }
    }
}

/// Whether these were the newest of those that count, when the first of them was the last.
fn newest_are(
    history: &History,
    known: Tid,
    found: &[(Tid, TxnMeta)],
    counts: impl Fn(&Kept) -> bool,
) -> Result<(), String> {
    let found: Vec<_> = found.iter().filter(|(tid, _)| *tid >= known).collect();
    let Some((newest, _)) = found.first() else {
        return Ok(());
    };
    let there = history.range(known..=*newest).rev();
    let there = there.filter(|(_, kept)| counts(kept));
    let there: Vec<(Tid, TxnMeta)> = there
        .take(found.len())
        .map(|(tid, kept)| (*tid, kept.meta.clone()))
        .collect();
    if there.iter().collect::<Vec<_>>() != found {
        return Err(format!("the newest are {there:?}, and were {found:?}"));
    }
    Ok(())
}
