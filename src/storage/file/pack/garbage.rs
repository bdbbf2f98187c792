//! Which records stay: those of objects that could be reached from the root at the time to which is
//! packed, and those to which a later record points back.
//!
//! Source: ZODB, `fspack.py`, `GC`. What it does is done here in the same order, because what a later
//! record points back to changes what is followed.

use std::collections::HashMap;

use super::copy::Source;
use super::must_go_on;
use crate::storage::file::format::FIRST;
use crate::storage::file::index::Index;
use crate::storage::file::references::References;
use crate::storage::{Answer, Result};
use crate::zodb::{Oid, Tid, TxnStatus};

/// What stays.
pub(super) struct Reach {
    /// Of each object that can be reached, where its record is.
    objects: Index,
    /// Records that later ones point back to.
    targets: HashMap<u64, Target>,
    /// Where the first transaction after the time begins.
    pub(super) packed_to: u64,
}

#[derive(Default)]
pub(super) struct Target {
    /// The object has another record that stays.
    beside: bool,
    /// Where it is in the new file; 0 where it is not copied yet.
    pub(super) copied_to: u64,
}

impl Reach {
    /// Whether the record of an object at a position stays.
    pub(super) fn keeps(&self, oid: Oid, position: u64) -> bool {
        match self.objects.get(oid) {
            None => false,
            Some(kept) => kept == position || self.targets.contains_key(&position),
        }
    }

    /// Where the record of an object is that stays.
    pub(super) fn object(&self, oid: Oid) -> Option<u64> {
        self.objects.get(oid)
    }

    /// Only what later records point back to is still asked for.
    pub(super) fn forget_objects(&mut self) {
        self.objects = Index::default();
    }

    pub(super) fn target(&mut self, position: u64) -> Option<&mut Target> {
        self.targets.get_mut(&position)
    }
}

/// Finds what stays. None where all up to the time was packed already.
pub(super) fn find(source: &Source, stop: Tid, collect: bool) -> Result<Option<Reach>> {
    let Some((current, packed_to)) = current_at(source, stop)? else {
        return Ok(None);
    };
    let mut finder = Finder {
        source,
        current,
        reach: Reach {
            objects: Index::default(),
            targets: HashMap::new(),
            packed_to,
        },
        references: References::default(),
        data: Vec::new(),
    };
    if collect {
        finder.follow(vec![Oid::ROOT])?;
    } else {
        finder.reach.objects = finder.current.clone();
    }
    let more = finder.pointed_back_to(collect)?;
    for position in more {
        let mut roots = Vec::new();
        finder.references_of(position, &mut roots)?;
        finder.follow(roots)?;
    }
    Ok(Some(finder.reach))
}

/// Where the records are that were current at a time, and where the first transaction after it begins.
/// None where there is nothing to be packed.
fn current_at(source: &Source, stop: Tid) -> Result<Option<(Index, u64)>> {
    let mut current = Index::default();
    let mut unpacked = false;
    let mut last = None;
    let mut window = source.window();
    let mut at = FIRST;
    while at < source.end {
        let header = source.transaction(&mut window, at)?;
        last = header.txn_status();
        if header.tid > stop {
            break;
        }
        unpacked |= last != Some(TxnStatus::Packed);
        source.records(&mut window, at, &header, |position, record, back| {
            if record.data_len > 0 || back > 0 {
                current.insert(record.oid, position);
            } else {
                current.remove(record.oid);
            }
            Ok(())
        })?;
        at += header.whole_len();
    }
    // What follows was packed to a later time, or nothing does.
    let redundant = !unpacked && last == Some(TxnStatus::Packed);
    Ok((!redundant).then_some((current, at)))
}

struct Finder<'s> {
    source: &'s Source,
    current: Index,
    reach: Reach,
    references: References,
    /// The record that is looked at.
    data: Vec<u8>,
}

impl Finder<'_> {
    /// Everything that can be reached from these objects, as of the time. Objects are taken in steps of
    /// the same distance from the roots, and in the order in which they are in the file.
    fn follow(&mut self, roots: Vec<Oid>) -> Result<()> {
        let mut next = Vec::new();
        for oid in roots {
            self.reached(oid, None, &mut next)?;
        }
        while !next.is_empty() {
            must_go_on(&self.source.engine)?;
            next.sort_unstable();
            let mut found = Vec::new();
            for position in std::mem::take(&mut next) {
                found.clear();
                let oid = self.references_of(position, &mut found)?;
                for to in &found {
                    self.reached(*to, Some(oid), &mut next)?;
                }
            }
        }
        Ok(())
    }

    fn reached(&mut self, oid: Oid, from: Option<Oid>, next: &mut Vec<u64>) -> Result<()> {
        if self.reach.objects.get(oid).is_some() {
            return Ok(());
        }
        let Some(position) = self.current.get(oid) else {
            if oid == Oid::ROOT && self.current.is_empty() {
                // To before anything was made.
                return Ok(());
            }
            let by = from.map_or_else(String::new, |by| format!(", to which {by} refers"));
            return Err(Answer::Other {
                class: "builtins.KeyError".to_owned(),
                text: format!(
                    "there is no object {oid}{by}: nothing was packed. Packing without garbage \
                     collection does not look"
                ),
            }
            .into());
        };
        self.reach.objects.insert(oid, position);
        next.push(position);
        Ok(())
    }

    /// What the record at a position refers to, or the one that it points back to; and whose it is.
    fn references_of(&mut self, position: u64, found: &mut Vec<Oid>) -> Result<Oid> {
        let oid = self.source.data(position, &mut self.data)?;
        if !self.data.is_empty() {
            let read = self.references.of(&self.data, |to| found.push(to));
            read.map_err(|problem| Answer::Other {
                class: "pickle.UnpicklingError".to_owned(),
                text: format!(
                    "the record of {oid} at {position} is no pickle: {problem}; nothing was packed"
                ),
            })?;
        }
        Ok(oid)
    }

    /// Keeps what records after the time point back to. Those among them that keep more alive.
    fn pointed_back_to(&mut self, collect: bool) -> Result<Vec<u64>> {
        let source = self.source;
        let packed_to = self.reach.packed_to;
        let reach = &mut self.reach;
        let origin = source.origin();
        let mut more = Vec::new();
        let mut window = source.window();
        let mut at = packed_to;
        while at < source.end {
            let header = source.transaction(&mut window, at)?;
            source.records(&mut window, at, &header, |_, record, back| {
                if back == 0 || back >= packed_to {
                    return Ok(());
                }
                if !collect && origin.source(record.oid, back)?.is_none() {
                    // Nothing needs to be kept to say that there is nothing.
                    return Ok(());
                }
                let target = reach.targets.entry(back).or_default();
                if reach.objects.get(record.oid).is_none() {
                    reach.objects.insert(record.oid, back);
                } else if !target.beside {
                    target.beside = true;
                    if collect {
                        more.push(back);
                    }
                }
                Ok(())
            })?;
            at += header.whole_len();
        }
        Ok(more)
    }
}
