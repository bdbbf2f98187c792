//! What is in a ZConfig file: sections and keys, each with the file and the line where it stands.
//!
//! Types of sections, their names and names of keys are in lower case, as ZConfig compares them. What
//! they mean is not known here.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Where something stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub file: Arc<Path>,
    /// Counted from 1.
    pub line: usize,
}

/// `<filestorage 1>` and what is in it.
#[derive(Debug, Clone)]
pub(super) struct Section {
    pub(super) kind: String,
    pub(super) name: Option<String>,
    pub(super) place: Place,
    /// In the order in which they stand; the same name may be there more than once.
    pub(super) keys: Vec<Key>,
    pub(super) sections: Vec<Section>,
}

/// `path /srv/Data.fs`.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) name: String,
    /// With everything put in that it refers to.
    pub(super) value: String,
    pub(super) place: Place,
}

/// A whole file, with everything that it includes.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    /// Of no type: what stands outside of all sections.
    pub(super) root: Section,
    /// The packages named by `%import`, each once.
    pub(super) imports: Vec<Key>,
}

impl Section {
    pub(super) fn new(kind: String, name: Option<String>, place: Place) -> Self {
        Section {
            kind,
            name,
            place,
            keys: Vec::new(),
            sections: Vec::new(),
        }
    }

    /// `<filestorage 1>`, for messages.
    pub(super) fn title(&self) -> String {
        match (&self.kind, &self.name) {
            (kind, _) if kind.is_empty() => "the file".to_owned(),
            (kind, Some(name)) => format!("<{kind} {name}>"),
            (kind, None) => format!("<{kind}>"),
        }
    }
}

impl Place {
    /// Named as in a folder, where it is below it.
    pub(super) fn within(&self, folder: &Path) -> Place {
        Place {
            file: self.file.strip_prefix(folder).unwrap_or(&self.file).into(),
            line: self.line,
        }
    }
}

/// `zeo.conf:12`.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}
