//! What was promised while the work was done, and so what a crash must leave.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::storage::file::FileOptions;

/// What was promised, and when: after so many entries of the log.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Story {
    /// The data file, and the folder of blobs.
    pub(super) data: PathBuf,
    pub(super) blob_dir: Option<PathBuf>,
    pub(super) keep_old: bool,
    pub(super) events: Vec<(usize, Event)>,
    /// Each transaction by its TID.
    pub(super) texts: BTreeMap<u64, String>,
    /// What the history may be changed to.
    pub(super) bases: Vec<Base>,
    /// Of each revision of a blob, what its file holds.
    pub(super) blobs: Vec<(u64, u64, String)>,
    /// The files of blobs that were taken back may stay where nobody minds them.
    pub(super) blobs_stay: bool,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum Event {
    /// Its finish was asked for.
    Finishing(u64),
    /// It has returned.
    Finished,
    /// From now on the history may be this one.
    Changes(usize),
    /// From now on it is.
    Changed(usize),
}

/// A history.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Base {
    pub(super) history: Vec<u64>,
    /// The texts of those that have another one than before.
    pub(super) texts: BTreeMap<u64, String>,
    /// What is in a file beside where this is in force.
    pub(super) aside: Vec<u64>,
    /// There is no file.
    pub(super) absent: bool,
}

/// What may be there after so many entries.
#[derive(Debug)]
pub(super) struct Expected {
    pub(super) bases: Vec<Base>,
    /// Transactions that follow, and how many of them must.
    pub(super) tail: Vec<u64>,
    pub(super) finished: usize,
}

impl Story {
    pub(super) fn stage(&self, entries: usize) -> usize {
        self.events
            .partition_point(|(position, _)| *position <= entries)
    }

    pub(super) fn at(&self, entries: usize) -> Expected {
        let mut expected = Expected {
            bases: vec![self.bases[0].clone()],
            tail: Vec::new(),
            finished: 0,
        };
        for (_, event) in &self.events[..self.stage(entries)] {
            match event {
                Event::Finishing(tid) => expected.tail.push(*tid),
                Event::Finished => expected.finished += 1,
                Event::Changes(base) => {
                    assert_eq!(
                        expected.finished,
                        expected.tail.len(),
                        "nothing is half done"
                    );
                    expected.finished = 0;
                    let tail = std::mem::take(&mut expected.tail);
                    for base in &mut expected.bases {
                        base.history.extend(&tail);
                    }
                    expected.bases.push(self.bases[*base].clone());
                }
                Event::Changed(base) => expected.bases = vec![self.bases[*base].clone()],
            }
        }
        expected
    }

    /// The text of a transaction in a history that began with this.
    pub(super) fn text<'s>(&'s self, base: &'s Base, tid: u64) -> &'s str {
        let text = base.texts.get(&tid).or_else(|| self.texts.get(&tid));
        text.expect("it was read while it was there")
    }

    pub(super) fn options(&self, root: &Path) -> FileOptions {
        FileOptions {
            blob_dir: self.blob_dir.as_ref().map(|below| root.join(below)),
            pack_keep_old: self.keep_old,
            // Saved again and again.
            save_index_every: 3000,
            ..FileOptions::default()
        }
    }
}

impl Expected {
    /// Which of the histories it is of which the transactions are these.
    pub(super) fn find(
        &self,
        is: impl Fn(&Base, usize, u64) -> bool,
        count: usize,
    ) -> Option<&Base> {
        self.bases.iter().find(|base| {
            let all = base.history.iter().chain(&self.tail).enumerate();
            let least = base.history.len() + self.finished;
            let most = base.history.len() + self.tail.len();
            !base.absent
                && (least..=most).contains(&count)
                && all.take(count).all(|(at, tid)| is(base, at, *tid))
        })
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for base in &self.bases {
            let absent = if base.absent { "nothing, not " } else { "" };
            text += &format!(
                "\nit may be {absent}{:x?} and {:x?}",
                base.history, self.tail
            );
            text += &format!(", of which {} must be there", self.finished);
        }
        text
    }
}
