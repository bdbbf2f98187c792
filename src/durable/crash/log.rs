//! What was done to a folder, step by step.
//!
//! A log can be written to a file and read again, so that a failure is repeated without doing the work
//! again, which threads do in another order each time.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hasher as _};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A file, whatever its names are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct FileId(pub(crate) u32);

/// A folder. The first is the one that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct FolderId(pub(crate) u32);

impl FolderId {
    pub(crate) const ROOT: FolderId = FolderId(0);
}

/// What a name leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Node {
    File(FileId),
    Folder(FolderId),
}

/// A name in a folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Name {
    pub(crate) folder: FolderId,
    pub(crate) name: String,
}

pub(crate) type Names = BTreeMap<Name, Node>;

/// Bytes that are shared, and hexadecimal in a file.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct Content {
    bytes: Arc<Vec<u8>>,
    /// The same for those that are.
    pub(super) mark: u64,
}

impl Content {
    pub(crate) fn of(bytes: Vec<u8>) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(&bytes);
        Content {
            mark: hasher.finish(),
            bytes: bytes.into(),
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

impl From<Content> for String {
    fn from(content: Content) -> String {
        let digits = |byte: &u8| {
            let digit = |four: u8| char::from_digit(u32::from(four), 16).expect("four bits");
            [digit(byte >> 4), digit(byte & 15)]
        };
        content.bytes.iter().flat_map(digits).collect()
    }
}

impl TryFrom<String> for Content {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bytes = (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16));
        Ok(Content::of(bytes.collect::<Result<_, _>>()?))
    }
}

/// A change of a file's content.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Change {
    Write { at: u64, bytes: Content },
    SetLen(u64),
}

/// What a sync makes durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Synced {
    File(FileId),
    Folder(FolderId),
    Everything,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Entry {
    /// All of these at one moment: what the names lead to from then on.
    Names {
        what: String,
        set: Vec<(Name, Option<Node>)>,
    },
    Content {
        file: FileId,
        change: Change,
    },
    SyncBegins {
        what: Synced,
    },
    /// The one that began at that entry has returned.
    SyncEnds {
        begun: usize,
    },
}

/// A folder, and all that was done to it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Log {
    #[serde(with = "as_pairs")]
    pub(crate) names: Names,
    pub(crate) contents: BTreeMap<FileId, Content>,
    pub(crate) entries: Vec<Entry>,
    /// Under which name a file was seen first.
    pub(crate) called: BTreeMap<FileId, String>,
}

/// JSON has no keys but text.
mod as_pairs {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use super::{Name, Names, Node};

    pub(super) fn serialize<S: Serializer>(names: &Names, to: S) -> Result<S::Ok, S::Error> {
        names.iter().collect::<Vec<_>>().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Names, D::Error> {
        let pairs = Vec::<(Name, Node)>::deserialize(from)?;
        Ok(pairs.into_iter().collect())
    }
}

impl Log {
    fn called(&self, file: FileId) -> &str {
        self.called.get(&file).map_or("?", String::as_str)
    }

    /// One entry, to be read.
    pub(crate) fn line(&self, number: usize) -> String {
        match &self.entries[number] {
            Entry::Names { what, .. } => what.clone(),
            Entry::Content { file, change } => match change {
                Change::Write { at, bytes } => {
                    let start = bytes.bytes[..bytes.bytes.len().min(24)].escape_ascii();
                    let len = bytes.bytes.len();
                    format!("write {} at {at}, {len} bytes: {start}", self.called(*file))
                }
                Change::SetLen(len) => format!("set length {} to {len}", self.called(*file)),
            },
            Entry::SyncBegins { what } => format!("sync {}", self.synced(*what)),
            Entry::SyncEnds { begun } => match &self.entries[*begun] {
                Entry::SyncBegins { what } => {
                    format!("synced {} (begun at {begun})", self.synced(*what))
                }
                _ => "synced what was never begun".to_owned(),
            },
        }
    }

    fn synced(&self, what: Synced) -> String {
        match what {
            Synced::File(file) => self.called(file).to_owned(),
            Synced::Folder(folder) => format!("folder {}", folder.0),
            Synced::Everything => "the disk".to_owned(),
        }
    }
}
