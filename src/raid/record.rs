//! The membership record: which members hold every acknowledged transaction.
//!
//! It is what makes a restart safe (INVARIANT 4), so it is durable before anything relies on it
//! (INVARIANT 2). It lives behind a trait: in a local file for now; a coordination service or the
//! members themselves can keep it as well.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::scrub::Scrubbed;
use crate::zodb::Tid;

/// Which members hold every acknowledged transaction, and why the others do not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    pub array: Uuid,
    pub epoch: u64,
    pub members: BTreeMap<String, Standing>,
    /// The last acknowledged transaction when this was written. A copy that ends before it is not
    /// what it was: every member of the in-sync set held it.
    pub head: Tid,
    /// What packing had taken from the source of a recovery, up to there, is not on the member that was recovered: of
    /// an object that was changed several times up to this transaction it may hold older states and lack later ones.
    pub packed: Tid,
    pub time: Timestamp,
}

/// How a configured member stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    InSync,
    Out {
        reason: String,
        since: Timestamp,
        needs_operator: bool,
        /// What it holds is not what the others hold, or may not be.
        is_wrong: bool,
        /// It left the in-sync set while it may have held more than was acknowledged, and the others went on from
        /// all that was: what only it holds may be set aside by a recovery.
        unacknowledged_tail: bool,
        /// Something that it holds could not be read: its next recovery compares everything.
        damaged: bool,
    },
}

impl Membership {
    /// Whether two records differ in nothing but their time.
    #[must_use]
    pub fn says_the_same(&self, other: &Membership) -> bool {
        let said = |record: &Membership| (record.array, record.epoch, record.head, record.packed);
        said(self) == said(other) && self.members == other.members
    }

    /// The names of the members in the in-sync set.
    pub fn in_sync(&self) -> impl Iterator<Item = &str> {
        self.members
            .iter()
            .filter(|(_, standing)| **standing == Standing::InSync)
            .map(|(name, _)| name.as_str())
    }
}

/// Keeps the membership record.
pub trait RecordStore: Send + Sync + 'static {
    /// The record; none where none was ever written. Blocks.
    fn load(&self) -> Result<Option<Membership>, RecordError>;

    /// Returns when the record is durable. Blocks.
    fn save(&self, membership: &Membership) -> Result<(), RecordError>;

    /// What the last scrub found; none where that was never kept. Blocks. A store that does not keep it
    /// forgets it with the daemon.
    fn load_scrubbed(&self) -> std::io::Result<Option<Scrubbed>> {
        Ok(None)
    }

    /// Returns when it is durable. Blocks.
    fn save_scrubbed(&self, _scrubbed: &Scrubbed) -> std::io::Result<()> {
        Ok(())
    }
}

/// The membership record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("could not {what} the membership record {}: {source}", .path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("reading the membership record was interrupted: {0}")]
    Interrupted(String),
    #[error(
        "the membership record {} makes no sense: {why}; it was not written by this program, or was damaged. \
         To start without it, move it away: then every member has to be there and to agree",
        .path.display()
    )]
    Damaged { path: PathBuf, why: String },
}

impl RecordError {
    pub(super) fn interrupted(why: &dyn std::fmt::Display) -> Self {
        RecordError::Interrupted(why.to_string())
    }
}

/// The membership record in a file: written beside, synced, renamed, and the folder synced.
#[derive(Debug)]
pub struct FileRecord {
    path: PathBuf,
}

impl FileRecord {
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        FileRecord { path: path.into() }
    }

    /// `main.membership.scrub.json` beside `main.membership.json`.
    fn scrubbed(&self) -> PathBuf {
        self.path.with_extension("scrub.json")
    }

    fn error(&self, what: &'static str) -> impl FnOnce(std::io::Error) -> RecordError {
        let path = self.path.clone();
        move |source| RecordError::Io { what, path, source }
    }
}

impl RecordStore for FileRecord {
    fn load(&self) -> Result<Option<Membership>, RecordError> {
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.error("read")(error)),
        };
        let damaged = |why: String| RecordError::Damaged {
            path: self.path.clone(),
            why,
        };
        let kept: Kept = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        let Kept::V1(kept) = kept;
        Ok(Some(kept.into()))
    }

    fn save(&self, membership: &Membership) -> Result<(), RecordError> {
        let kept = Kept::V1(membership.clone().into());
        let mut text =
            serde_json::to_vec_pretty(&kept).map_err(|error| self.error("write")(error.into()))?;
        text.push(b'\n');
        crate::durable::write(&self.path, &text).map_err(self.error("write"))
    }

    fn load_scrubbed(&self) -> std::io::Result<Option<Scrubbed>> {
        Scrubbed::load(&self.scrubbed())
    }

    fn save_scrubbed(&self, scrubbed: &Scrubbed) -> std::io::Result<()> {
        scrubbed.clone().save(&self.scrubbed())
    }
}

/// The record as it lies on the disk. A new version is a new variant, and `load` converts the old.
#[derive(Serialize, Deserialize)]
#[serde(tag = "version")]
enum Kept {
    #[serde(rename = "1")]
    V1(KeptV1),
}

#[derive(Serialize, Deserialize)]
struct KeptV1 {
    array: Uuid,
    epoch: u64,
    time: Timestamp,
    /// As a number; 0 where the record is older than this field.
    #[serde(default)]
    head: u64,
    #[serde(default)]
    packed: u64,
    members: BTreeMap<String, KeptStanding>,
}

/// A record that does not say it.
fn nobody_knows() -> bool {
    true
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
enum KeptStanding {
    InSync,
    Out {
        reason: String,
        since: Timestamp,
        needs_operator: bool,
        #[serde(default = "nobody_knows")]
        is_wrong: bool,
        #[serde(default)]
        unacknowledged_tail: bool,
        #[serde(default)]
        damaged: bool,
    },
}

impl From<Membership> for KeptV1 {
    fn from(membership: Membership) -> Self {
        let Membership {
            array,
            epoch,
            members,
            head,
            packed,
            time,
        } = membership;
        let members = members.into_iter().map(|(name, standing)| {
            let kept = match standing {
                Standing::InSync => KeptStanding::InSync,
                Standing::Out {
                    reason,
                    since,
                    needs_operator,
                    is_wrong,
                    unacknowledged_tail,
                    damaged,
                } => KeptStanding::Out {
                    reason,
                    since,
                    needs_operator,
                    is_wrong,
                    unacknowledged_tail,
                    damaged,
                },
            };
            (name, kept)
        });
        KeptV1 {
            array,
            epoch,
            time,
            head: head.0,
            packed: packed.0,
            members: members.collect(),
        }
    }
}

impl From<KeptV1> for Membership {
    fn from(kept: KeptV1) -> Self {
        let members = kept.members.into_iter().map(|(name, kept)| {
            let standing = match kept {
                KeptStanding::InSync => Standing::InSync,
                KeptStanding::Out {
                    reason,
                    since,
                    needs_operator,
                    is_wrong,
                    unacknowledged_tail,
                    damaged,
                } => Standing::Out {
                    reason,
                    since,
                    needs_operator,
                    is_wrong,
                    unacknowledged_tail,
                    damaged,
                },
            };
            (name, standing)
        });
        Membership {
            array: kept.array,
            epoch: kept.epoch,
            time: kept.time,
            head: Tid(kept.head),
            packed: Tid(kept.packed),
            members: members.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::crash::examine::{self, Case, Counts, Failure};
    use crate::durable::crash::mistake::Mistake;
    use crate::durable::crash::watch::Watch;

    fn membership() -> Membership {
        let out = Standing::Out {
            reason: "no answer".into(),
            since: Timestamp::UNIX_EPOCH,
            needs_operator: true,
            is_wrong: true,
            unacknowledged_tail: false,
            damaged: true,
        };
        Membership {
            array: Uuid::from_u128(7),
            epoch: 3,
            members: BTreeMap::from([("a".into(), Standing::InSync), ("b".into(), out)]),
            head: Tid(77),
            packed: Tid(70),
            time: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn what_was_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let record = FileRecord::new(folder.path().join("membership.json"));
        assert_eq!(record.load().unwrap(), None);
        record.save(&membership()).unwrap();
        record
            .save(&Membership {
                epoch: 4,
                ..membership()
            })
            .unwrap();
        let loaded = record.load().unwrap().unwrap();
        assert_eq!(
            loaded,
            Membership {
                epoch: 4,
                ..membership()
            }
        );
        assert_eq!(loaded.in_sync().collect::<Vec<_>>(), ["a"]);
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            1,
            "nothing is left beside"
        );
    }

    /// Saves a few, and looks at what crashes may leave.
    fn crash_states(mistake: Option<Mistake>) -> Result<Counts, Failure> {
        let name = "membership record";
        let case = Case::repeated(name).unwrap_or_else(|| {
            let folder = tempfile::tempdir().unwrap();
            let record = FileRecord::new(folder.path().join("membership.json"));
            let watch = Watch::begin(folder.path(), mistake);
            let mut saved = Vec::new();
            for epoch in 1..4 {
                let begun = watch.position();
                let membership = Membership {
                    epoch,
                    ..membership()
                };
                record.save(&membership).unwrap();
                saved.push((begun, watch.position()));
            }
            Case::new(name, watch.log(), saved)
        });
        let stage = |entries: usize| {
            let done = |(_, done): &&(usize, usize)| *done <= entries;
            case.story.iter().filter(done).count() as u64
        };
        case.examine(examine::most(400), examine::seed(), stage, |one| {
            let record = FileRecord::new(one.root.join("membership.json"));
            let loaded = record.load().map_err(|error| error.to_string())?;
            let epoch = loaded.map_or(0, |membership| membership.epoch);
            let saved = stage(one.choice.entries);
            let begun = case.story.iter();
            let begun = begun.filter(|(begun, _)| *begun <= one.choice.entries);
            if !(saved..=begun.count() as u64).contains(&epoch) {
                return Err(format!("epoch {epoch}, and {saved} was saved"));
            }
            let next = Membership {
                epoch: 9,
                ..membership()
            };
            record.save(&next).map_err(|error| error.to_string())?;
            let again = record.load().map_err(|error| error.to_string())?;
            assert_eq!(again, Some(next));
            Ok(())
        })
    }

    #[test]
    fn a_crash_leaves_the_record_that_was_saved_or_the_one_that_is_being_saved() {
        let counts = crash_states(None).unwrap_or_else(|failure| panic!("{failure}"));
        eprintln!(
            "crash states of the membership record: {} steps, {} states, {} checked",
            counts.entries, counts.states, counts.checked
        );
        assert!(counts.checked > 10);
    }

    #[test]
    fn a_record_that_is_not_durable_is_found() {
        for mistake in [
            Mistake::SmallFileNotSynced,
            Mistake::SmallFileFolderNotSynced,
        ] {
            assert!(crash_states(Some(mistake)).is_err(), "{mistake:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_not_taken_for_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("membership.json");
        for text in [
            "",
            "{}",
            "{\"version\": \"2\"}",
            "{\"version\": \"1\", \"epoch\": -1}",
        ] {
            std::fs::write(&path, text).unwrap();
            let error = FileRecord::new(&path).load().expect_err(text);
            assert!(matches!(error, RecordError::Damaged { .. }), "{error}");
        }
    }
}
