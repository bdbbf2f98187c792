//! Which states there are: at each entry of a log, which of what is not durable is there.
//!
//! Where there are few, all; where there are many, always those in which everything is there, nothing is,
//! and one thing alone is or is not; of the rest as many as are wanted, chosen by a seed.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use fastrand::Rng;
use serde::{Deserialize, Serialize};

use super::log::{Change, Entry, FileId, Log, Node};
use super::state::{self, Disk, Fate, State};

/// One state after so many entries.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Choice {
    pub(crate) entries: usize,
    /// Which of the pending names are there.
    names: Vec<bool>,
    /// What became of the pending changes, file by file. What is not named is lost.
    fates: BTreeMap<FileId, Vec<Fate>>,
    /// A file system that keeps the order of names can leave it.
    pub(crate) in_order: bool,
}

/// So many combinations are few.
const FEW: usize = 64;
/// So many are tried at each moment where there are more.
const SOME: usize = 12;

/// The choices of a log, no two with the same content at the same stage.
pub(crate) struct Choices {
    pub(crate) all: Vec<Choice>,
    /// How many of them are there in any case: everything was done up to an entry, or only what was durable.
    pub(crate) always: usize,
}

impl Choices {
    /// All that are looked at. `stage` tells moments apart at which different things are expected.
    pub(crate) fn of(log: &Log, seed: u64, stage: impl Fn(usize) -> u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let mut known = HashSet::new();
        let (mut always, mut others) = (Vec::new(), Vec::new());
        let mut disk = Disk::new(log);
        let mut before = None;
        loop {
            let stage = stage(disk.at);
            // A sync only makes the states fewer.
            let changed = disk.at.checked_sub(1).is_none_or(|last| {
                let last = &log.entries[last];
                matches!(last, Entry::Names { .. } | Entry::Content { .. })
            });
            if changed || before != Some(stage) {
                let found = at(log, &disk, &mut random);
                for (number, (choice, mark)) in found.into_iter().enumerate() {
                    if known.insert((mark, stage, choice.in_order)) {
                        if number < 2 {
                            always.push(choice);
                        } else {
                            others.push(choice);
                        }
                    }
                }
            }
            before = Some(stage);
            if disk.at == log.entries.len() {
                break;
            }
            disk.step();
        }
        let count = always.len();
        always.append(&mut others);
        Choices {
            all: always,
            always: count,
        }
    }

    /// As many as are wanted, and at least those that are there in any case.
    pub(crate) fn take(mut self, most: usize, seed: u64) -> Vec<Choice> {
        let mut others = self.all.split_off(self.always);
        let mut random = Rng::with_seed(seed);
        random.shuffle(&mut others);
        others.truncate(most.saturating_sub(self.all.len()));
        self.all.append(&mut others);
        self.all
    }
}

impl Choice {
    pub(crate) fn state(&self, log: &Log) -> State {
        self.on(&Disk::after(log, self.entries))
    }

    fn on(&self, disk: &Disk<'_>) -> State {
        let names = state::paths(&disk.names_with(&self.names));
        let files: BTreeSet<FileId> = names.values().copied().filter_map(file_of).collect();
        let none = Vec::new();
        let contents = files.into_iter().map(|file| {
            let fates = self.fates.get(&file).unwrap_or(&none);
            (file, disk.content_with(file, fates))
        });
        State {
            contents: contents.collect(),
            names,
        }
    }

    /// What is not as it would be had the power stayed, to be read.
    pub(crate) fn text(&self, log: &Log) -> String {
        let disk = Disk::after(log, self.entries);
        let mut text = format!("after {} entries", self.entries);
        for (entry, kept) in disk.pending.iter().zip(&self.names) {
            let what = if *kept { "there" } else { "missing" };
            text += &format!("\n  {what}: {entry}: {}", log.line(*entry));
        }
        for (file, fates) in &self.fates {
            for (entry, fate) in disk.files[file].pending.iter().zip(fates) {
                text += &format!("\n  {fate:?}: {entry}: {}", log.line(*entry));
            }
        }
        text
    }
}

fn file_of(node: Node) -> Option<FileId> {
    match node {
        Node::File(file) => Some(file),
        Node::Folder(_) => None,
    }
}

/// What can be reached with some of the pending names.
struct Reach {
    names: Vec<bool>,
    files: BTreeSet<FileId>,
    in_order: bool,
    /// The same for the same names of the same files.
    mark: u64,
}

impl Reach {
    fn of(disk: &Disk<'_>, names: &[bool]) -> Self {
        let paths = state::paths(&disk.names_with(names));
        let mut hasher = DefaultHasher::new();
        paths.hash(&mut hasher);
        let missing = names.iter().position(|kept| !kept);
        Reach {
            names: names.to_vec(),
            files: paths.values().copied().filter_map(file_of).collect(),
            in_order: missing.is_none_or(|first| {
                names[first..].iter().all(|kept| !kept) && disk.pending[first] >= disk.in_order
            }),
            mark: hasher.finish(),
        }
    }

    /// The pending changes of what is reached.
    fn pending(&self, disk: &Disk<'_>) -> Vec<usize> {
        let on_disk = self.files.iter().filter_map(|file| disk.files.get(file));
        on_disk.flat_map(|file| file.pending.clone()).collect()
    }

    /// With a fate for each pending change, and what is the same for states that are.
    fn choice(&self, disk: &Disk<'_>, mut fate: impl FnMut(usize) -> Fate) -> (Choice, u64) {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.mark);
        let mut fates = BTreeMap::new();
        for file in &self.files {
            let pending = disk.files.get(file).map_or(&[][..], |one| &one.pending);
            let all: Vec<Fate> = pending.iter().map(|entry| fate(*entry)).collect();
            hasher.write_u64(disk.content_with(*file, &all).mark);
            if !all.is_empty() {
                fates.insert(*file, all);
            }
        }
        let choice = Choice {
            entries: disk.at,
            names: self.names.clone(),
            fates,
            in_order: self.in_order,
        };
        (choice, hasher.finish())
    }
}

/// The choices at one moment: first everything, then nothing, then the others.
fn at(log: &Log, disk: &Disk<'_>, random: &mut Rng) -> Vec<(Choice, u64)> {
    let count = disk.pending.len();
    let everything = vec![true; count];
    let nothing = vec![false; count];
    let mut choices = vec![
        Reach::of(disk, &everything).choice(disk, |_| Fate::Done),
        Reach::of(disk, &nothing).choice(disk, |_| Fate::Lost),
    ];
    let mut some_names: Vec<Vec<bool>> = Vec::new();
    if count <= 6 {
        for bits in 0..1u32 << count {
            some_names.push((0..count).map(|at| bits >> at & 1 == 1).collect());
        }
    } else {
        // In the order in which they were made; each alone, and each missing alone; and any.
        for kept in 0..=count {
            some_names.push((0..count).map(|at| at < kept).collect());
        }
        for one in 0..count {
            some_names.push((0..count).map(|at| at == one).collect());
            some_names.push((0..count).map(|at| at != one).collect());
        }
        for _ in 0..SOME {
            some_names.push((0..count).map(|_| random.bool()).collect());
        }
    }
    for names in &mut some_names {
        close(log, disk, names);
    }
    let some_names: BTreeSet<Vec<bool>> = some_names.into_iter().collect();
    let few = some_names.len() <= SOME;
    for names in some_names {
        let reach = Reach::of(disk, &names);
        if few || names == everything || names == nothing {
            choices.extend(contents(log, disk, &reach, random));
            continue;
        }
        choices.push(reach.choice(disk, |_| Fate::Done));
        choices.push(reach.choice(disk, |_| Fate::Lost));
        for _ in 0..2 {
            choices.push(reach.choice(disk, |entry| {
                let mut fates = fates(state::change(log, entry), random);
                fates.swap_remove(random.usize(0..fates.len()))
            }));
        }
    }
    choices
}

/// Nothing is there without what it needs.
fn close(log: &Log, disk: &Disk<'_>, kept: &mut [bool]) {
    for later in 0..kept.len() {
        let missing = (0..later)
            .any(|at| !kept[at] && state::needs(log, disk.pending[later], disk.pending[at]));
        kept[later] &= !missing;
    }
}

/// With these names, the choices of contents.
fn contents(log: &Log, disk: &Disk<'_>, reach: &Reach, random: &mut Rng) -> Vec<(Choice, u64)> {
    let entries = reach.pending(disk);
    let options: Vec<Vec<Fate>> = entries
        .iter()
        .map(|entry| fates(state::change(log, *entry), random))
        .collect();
    let combinations = options
        .iter()
        .try_fold(1usize, |all, one| all.checked_mul(one.len()))
        .filter(|all| *all <= FEW);
    let mut chosen: Vec<Vec<Fate>> = Vec::new();
    if let Some(combinations) = combinations {
        for mut number in 0..combinations {
            let one = options.iter().map(|options| {
                let fate = options[number % options.len()].clone();
                number /= options.len();
                fate
            });
            chosen.push(one.collect());
        }
    } else {
        let count = entries.len();
        let fate = |done: bool| if done { Fate::Done } else { Fate::Lost };
        for kept in 0..=count {
            chosen.push((0..count).map(|at| fate(at < kept)).collect());
        }
        for one in 0..count {
            chosen.push((0..count).map(|at| fate(at == one)).collect());
            chosen.push((0..count).map(|at| fate(at != one)).collect());
        }
        for _ in 0..SOME {
            let one = options
                .iter()
                .map(|options| options[random.usize(0..options.len())].clone());
            chosen.push(one.collect());
        }
    }
    let choices = chosen.into_iter().map(|fates| {
        let mut fates = fates.into_iter();
        reach.choice(disk, |_| fates.next().unwrap_or(Fate::Lost))
    });
    choices.collect()
}

/// What may become of a change.
fn fates(change: &Change, random: &mut Rng) -> Vec<Fate> {
    let mut fates = vec![Fate::Done, Fate::Lost];
    let Change::Write { at, bytes } = change else {
        return fates;
    };
    let sectors = state::sectors(*at, bytes.bytes().len());
    if bytes.bytes().len() > 1 {
        // Longer, and nothing in it yet.
        let (sectors, long) = (vec![false; sectors], true);
        fates.push(Fate::Torn { sectors, long });
    }
    let torn = match sectors {
        0 | 1 => Vec::new(),
        2 => vec![vec![true, false], vec![false, true]],
        _ => {
            let first = random.usize(1..sectors);
            let beginning = (0..sectors).map(|at| at < first).collect();
            let end = (0..sectors).map(|at| at >= first).collect();
            let any = (0..sectors).map(|_| random.bool()).collect();
            vec![beginning, end, any]
        }
    };
    for sectors in torn {
        let long = random.bool();
        fates.push(Fate::Torn { sectors, long });
    }
    fates
}
