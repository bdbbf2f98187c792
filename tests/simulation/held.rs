//! What lies in the copies' files, looked at from outside while all goes on.
//!
//! - Whoever is in sync, by the report of a daemon that serves, holds the same transactions up to the head,
//!   durably (invariants 1 and 3); of a daemon that writes alone these are all that were acknowledged. At the end
//!   alone this would say little: by then what diverged was recovered.
//! - What a copy has once held durably it holds still, or a file that was set aside from it does, unless packing may
//!   have removed it (invariant 9). Where an operator puts another copy in its place, that begins anew.
//! - Before an operator empties or rebuilds a copy, what it holds and was acknowledged is held by others, too.
//!
//! Source of the format: ZODB `FileStorage/format.py`, `TxnHeader`.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use super::drive::Drive;
use super::trace;
use super::world::World;
use crate::raid::{MemberState, Serving};
use crate::zodb::Tid;

/// The lengths of user, description and extension, and these.
type Head = Vec<u8>;

const MAGIC: u64 = 4;
const HEADER: usize = 23;

/// The transactions of a file, and where each begins and ends.
#[derive(Default)]
struct Found {
    inode: u64,
    transactions: BTreeMap<Tid, (Head, u64, u64)>,
    /// As far as it can be read.
    end: u64,
}

/// What each copy has held durably.
#[derive(Default)]
pub(super) struct EverHeld(Mutex<BTreeMap<PathBuf, BTreeMap<Tid, Head>>>);

impl EverHeld {
    /// It is emptied, or another file is in its place.
    fn forget(&self, path: &Path) {
        self.0.lock().remove(path);
    }
}

/// Reads a file, as far as it holds transactions that are finished. One that is not there is empty.
fn read(path: &Path) -> Found {
    let mut found = Found::default();
    let (Ok(data), Ok(metadata)) = (std::fs::read(path), std::fs::metadata(path)) else {
        return found;
    };
    found.inode = metadata.ino();
    let len_of_all = data.len() as u64;
    found.end = MAGIC.min(len_of_all);
    loop {
        let rest = &data[found.end as usize..];
        if rest.len() < HEADER {
            return found;
        }
        let number = |at: usize| u64::from_be_bytes(rest[at..at + 8].try_into().expect("eight"));
        let len = |at: usize| usize::from(u16::from_be_bytes([rest[at], rest[at + 1]]));
        let head = 17..HEADER + len(17) + len(19) + len(21);
        let (begin, len_of_one) = (found.end, number(8));
        // A torn write may have left no more of it than its identifier.
        let is_finished = matches!(rest[16], b' ' | b'u' | b'p');
        let is_whole =
            head.end as u64 <= len_of_one && len_of_one <= (len_of_all - begin).saturating_sub(8);
        if !is_finished || !is_whole || number(len_of_one as usize) != len_of_one {
            return found;
        }
        let end = begin + len_of_one + 8;
        let entry = (rest[head].to_vec(), begin, end);
        found.transactions.insert(Tid(number(0)), entry);
        found.end = end;
    }
}

impl Found {
    /// What no loss of power takes away. What comes after something that is lost is cut with it, when the file is
    /// opened.
    fn durable(&self, drive: &Drive) -> BTreeMap<Tid, Head> {
        let unsynced = drive.unsynced(self.inode);
        let is_durable = |begin: u64, end: u64| {
            let unsynced = unsynced.as_ref();
            unsynced.is_none_or(|unsynced| !unsynced.touches(begin, end))
        };
        let in_order = self.transactions.iter();
        let durable = in_order.take_while(|(_, (_, begin, end))| is_durable(*begin, *end));
        durable
            .map(|(tid, (head, ..))| (*tid, head.clone()))
            .collect()
    }
}

fn in_words(tids: &[Tid]) -> String {
    let first: Vec<String> = tids.iter().take(5).map(ToString::to_string).collect();
    format!("{} ({} in all)", first.join(", "), tids.len())
}

impl World {
    /// Looks at all copies as they are now.
    pub(super) fn look_at_copies(&self) {
        if self.emptying.load(Ordering::SeqCst) {
            return;
        }
        let floor = self.truth.floor();
        let names = self.shape.members.iter().map(|(name, _)| name.clone());
        let mut durable: BTreeMap<String, BTreeMap<Tid, Head>> = BTreeMap::new();
        for name in names {
            if let Some((path, drive)) = self.store(0, &name) {
                let held = read(&path).durable(&drive);
                self.must_be_kept(&name, &path, &held, floor);
                durable.insert(name, held);
            }
        }
        for daemon in 0..self.daemons() {
            self.must_be_the_same(daemon, &durable, floor);
        }
    }

    /// INVARIANT 9.
    fn must_be_kept(&self, name: &str, path: &Path, held: &BTreeMap<Tid, Head>, floor: Tid) {
        let mut all = self.ever_held.0.lock();
        let ever = all.entry(path.to_owned()).or_default();
        ever.retain(|tid, _| *tid > floor);
        let gone = ever
            .iter()
            .filter(|(tid, head)| held.get(tid) != Some(head));
        let gone: Vec<(Tid, Head)> = gone.map(|(tid, head)| (*tid, head.clone())).collect();
        if !gone.is_empty() {
            let aside = set_aside_from(path);
            let is_lost = |tid: &Tid, head: &Head| {
                let mut kept = aside.iter();
                !kept.any(|found| found.get(tid).is_some_and(|(kept, ..)| kept == head))
            };
            let lost = gone.iter().filter(|(tid, head)| is_lost(tid, head));
            let lost: Vec<Tid> = lost.map(|(tid, _)| *tid).collect();
            if !lost.is_empty() {
                trace::fail(format!(
                    "{name} held {} durably, and neither it nor what was set aside from it does now",
                    in_words(&lost)
                ));
            }
        }
        ever.extend(held.iter().map(|(tid, head)| (*tid, head.clone())));
    }

    /// INVARIANTS 1 and 3.
    fn must_be_the_same(
        &self,
        daemon: usize,
        durable: &BTreeMap<String, BTreeMap<Tid, Head>>,
        floor: Tid,
    ) {
        let Some(report) = self.whole(daemon).map(|whole| whole.report()) else {
            return;
        };
        if report.serving != Serving::Yes {
            return;
        }
        let in_sync = report.members.iter();
        let in_sync = in_sync.filter(|member| member.state == MemberState::Optimal);
        let held: Vec<(&str, Vec<(&Tid, &Head)>)> = in_sync
            .filter_map(|member| {
                let held = durable.get(&member.name)?;
                // What may be packed can be later than all that there is.
                let held = held.range(floor.next()..);
                let held = held.take_while(|(tid, _)| **tid <= report.head);
                Some((member.name.as_str(), held.collect()))
            })
            .collect();
        let Some(((first, ours), others)) = held.split_first() else {
            return;
        };
        for (name, theirs) in others {
            if ours != theirs {
                let differs = |one: &[(&Tid, &Head)], other: &[(&Tid, &Head)]| -> Vec<Tid> {
                    let differs = one.iter().filter(|entry| !other.contains(entry));
                    differs.map(|(tid, _)| **tid).collect()
                };
                trace::fail(format!(
                    "d{} has {first} and {name} in sync up to {}: {first} alone holds {}, {name} alone {}",
                    daemon + 1,
                    report.head,
                    in_words(&differs(ours, theirs)),
                    in_words(&differs(theirs, ours)),
                ));
            }
        }
        if self.daemons() == 1 && !self.is_starting_at_risk() {
            let ours: BTreeSet<&Tid> = ours.iter().map(|(tid, _)| *tid).collect();
            let lacks = self.truth.acknowledged_after(floor).into_iter();
            let lacks = lacks.filter(|tid| !ours.contains(tid));
            let lacks: Vec<Tid> = lacks.collect();
            if !lacks.is_empty() {
                trace::fail(format!(
                    "d1 serves up to {} from {first}, which lacks {}: all were acknowledged",
                    report.head,
                    in_words(&lacks)
                ));
            }
        }
    }

    /// An operator is about to empty a copy, or has it rebuilt: nothing that was acknowledged may be in it alone.
    pub(super) fn must_not_be_needed(&self, daemon: usize, name: &str) {
        let floor = self.truth.floor();
        let Some((path, _)) = self.store(daemon, name) else {
            return;
        };
        let held = read(&path).transactions;
        if self.is_starting_at_risk() {
            // It may be what the start is going to lose, and lies then where its operator has moved it.
            self.moved_away.lock().extend(held.keys());
            return;
        }
        let report = self.whole(daemon).map(|whole| whole.report());
        let is_in_sync = |other: &str| {
            let members = report.iter().flat_map(|report| &report.members);
            let mut in_sync = members.filter(|member| member.state == MemberState::Optimal);
            in_sync.any(|member| member.name == other)
        };
        // Of two daemons one may not have heard yet of what the other has acknowledged.
        let others = self
            .shape
            .members
            .iter()
            .filter(|(other, _)| other != name && (self.daemons() > 1 || is_in_sync(other)));
        let others: Vec<BTreeMap<Tid, Head>> = others
            .filter_map(|(other, _)| self.store(daemon, other))
            .map(|(path, drive)| read(&path).durable(&drive))
            .collect();
        let only_here = self.truth.acknowledged_after(floor).into_iter();
        let only_here = only_here.filter(|tid| {
            held.contains_key(tid) && !others.iter().any(|other| other.contains_key(tid))
        });
        let only_here: Vec<Tid> = only_here.collect();
        if !only_here.is_empty() {
            trace::fail(format!(
                "{name} is to be emptied, and only it holds {}, which were acknowledged",
                in_words(&only_here)
            ));
        }
        trace::note(format!(
            "{name} holds {} transactions, none of them is needed",
            held.len()
        ));
    }

    /// Its operator has emptied a copy, or has put another one in its place: what it held is no matter any more.
    pub(super) fn is_another_copy(&self, daemon: usize, name: &str) {
        if let Some((path, _)) = self.store(daemon, name) {
            self.ever_held.forget(&path);
        }
    }
}

/// The transactions in every file that was set aside from a data file, as far as each can be read.
fn set_aside_from(path: &Path) -> Vec<BTreeMap<Tid, (Head, u64, u64)>> {
    let folder = path.parent().expect("a file is in a folder");
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let prefix = format!("{name}.aside-");
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let files = files.filter(|file| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&prefix) && !name.ends_with(".index")
    });
    files.map(|file| read(&file).transactions).collect()
}
