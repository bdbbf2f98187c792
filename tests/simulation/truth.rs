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

use super::trace;
use crate::zodb::{Oid, Tid};

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
    pub(super) writes: BTreeMap<Oid, Bytes>,
    pub(super) outcome: Outcome,
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
    /// Up to there somebody asked to pack.
    floor: Tid,
    by_tid: BTreeMap<Tid, String>,
}

/// A transaction of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) name: String,
    pub(super) records: Vec<(Oid, Option<Bytes>)>,
}

pub(super) type History = BTreeMap<Tid, Kept>;

impl Truth {
    pub(super) fn begin(&self, name: &str) {
        let done = Done {
            writes: BTreeMap::new(),
            outcome: Outcome::UnderWay,
        };
        let before = self.0.lock().done.insert(name.to_owned(), done);
        assert!(before.is_none(), "{name} is used twice");
    }

    /// What it is going to write, which must be said before its finish is asked for.
    pub(super) fn will_write(&self, name: &str, writes: BTreeMap<Oid, Bytes>) {
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

    /// Later than what may be packed: what was acknowledged, and what was seen.
    pub(super) fn known(&self) -> BTreeSet<Tid> {
        let inner = self.0.lock();
        let seen = inner.seen.iter().filter_map(|seen| seen.found.as_ref());
        let seen = seen.map(|(tid, _)| *tid);
        let known = inner.by_tid.keys().copied().chain(seen);
        known.filter(|tid| *tid > inner.floor).collect()
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
    }

    pub(super) fn counts(&self) -> (usize, usize) {
        let inner = self.0.lock();
        (inner.by_tid.len(), inner.seen.len())
    }

    /// Compares everything with the history that is left.
    pub(super) fn judge(&self, history: &History) {
        let inner = self.0.lock();
        let mut there: BTreeMap<&str, Tid> = BTreeMap::new();
        // What each object was, from when on.
        let mut states: BTreeMap<Oid, BTreeMap<Tid, Option<Bytes>>> = BTreeMap::new();
        for (tid, kept) in history {
            let Some(done) = inner.done.get(&kept.name) else {
                trace::fail(format!("{tid} is {:?}, which nobody wrote", kept.name));
                continue;
            };
            if let Some(other) = there.insert(&kept.name, *tid) {
                trace::fail(format!("{} is there as {other} and as {tid}", kept.name));
            }
            match done.outcome {
                Outcome::Acknowledged(told) if told != *tid => {
                    trace::fail(format!(
                        "{} is {tid}, and its client was told {told}",
                        kept.name
                    ));
                }
                Outcome::Refused => {
                    trace::fail(format!("{} was refused and is there as {tid}", kept.name));
                }
                Outcome::UnderWay => {
                    trace::fail(format!(
                        "{} was never finished and is there as {tid}",
                        kept.name
                    ));
                }
                Outcome::Acknowledged(_) | Outcome::Unknown => {}
            }
            let records: BTreeMap<Oid, Option<Bytes>> = kept.records.iter().cloned().collect();
            let said: BTreeMap<Oid, Option<Bytes>> = done
                .writes
                .iter()
                .map(|(oid, data)| (*oid, Some(data.clone())))
                .collect();
            let whole = if *tid > inner.floor {
                records == said
            } else {
                records
                    .iter()
                    .all(|(oid, data)| said.get(oid) == Some(data))
            };
            if !whole {
                trace::fail(format!(
                    "{} as {tid} has {records:?} and not {said:?}",
                    kept.name
                ));
            }
        }
        for (name, done) in &inner.done {
            let Outcome::Acknowledged(tid) = done.outcome else {
                // What nobody knows and packing has removed can only be seen.
                if let Some(tid) = there.get(name.as_str()) {
                    for (oid, data) in &done.writes {
                        states
                            .entry(*oid)
                            .or_default()
                            .insert(*tid, Some(data.clone()));
                    }
                }
                continue;
            };
            if tid > inner.floor && !there.contains_key(name.as_str()) {
                trace::fail(format!("{name} was acknowledged as {tid} and is lost"));
            }
            for (oid, data) in &done.writes {
                states
                    .entry(*oid)
                    .or_default()
                    .insert(tid, Some(data.clone()));
            }
        }
        let unknown: BTreeSet<(Oid, &Bytes)> = inner
            .done
            .values()
            .filter(|done| done.outcome == Outcome::Unknown)
            .flat_map(|done| done.writes.iter().map(|(oid, data)| (*oid, data)))
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
    }
}
