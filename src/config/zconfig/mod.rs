//! Configurations of the old world: ZConfig files of ZEO and of its RAID, turned into ours.
//!
//! The steps: [`parse`] reads the syntax into a tree of sections and keys, each with its place
//! ([`define`] and [`include`] are what directives do); [`convert`] reads the tree as `runzeo` would and
//! makes the text of our configuration, where every value has its origin beside it. What has no
//! equivalent becomes a [`Note`], with what to do about it. A file of a buildout is opened by
//! [`buildout`], which finds the parts that hold such texts. Nothing is asked and nothing is written
//! here.

mod buildout;
mod convert;
mod define;
mod document;
mod include;
mod notes;
mod parse;
mod reader;
mod tree;
mod values;

use std::path::{Path, PathBuf};

use super::{Environment, Mistake};
pub use convert::{ImportedArray, ImportedMember};
use include::Source;
pub use notes::{Note, NoteKind};
pub use tree::Place;

/// What is imported, and how.
pub struct Import<'a> {
    /// Read as one: a `zeo.conf`, perhaps the `zdaemon.conf` beside it.
    pub files: &'a [PathBuf],
    /// The part of a buildout's file.
    pub part: Option<&'a str>,
    /// Whether other daemons write to the members, where the file's word is not to be taken.
    pub cluster_mode: Option<super::ClusterMode>,
    /// What the old server's relative paths are relative to.
    pub base: Option<&'a Path>,
    pub environment: Environment<'a>,
}

/// The outcome.
#[derive(Debug)]
pub struct Imported {
    /// Our configuration.
    pub text: String,
    /// The part of a buildout that it is from.
    pub part: Option<String>,
    /// Other parts that could be imported.
    pub other_parts: Vec<String>,
    pub listen: Vec<String>,
    pub arrays: Vec<ImportedArray>,
    pub notes: Vec<Note>,
}

/// Why nothing is imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("could not read {}: {source}", .path.display())]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    /// A buildout has several, and none was named.
    #[error("{} has several parts with ZEO servers: {}", .path.display(), .parts.join(", "))]
    WhichPart { path: PathBuf, parts: Vec<String> },
    #[error("{} has no part {part} with a ZEO server; there are: {}", .path.display(), listed(.parts))]
    NoSuchPart {
        path: PathBuf,
        part: String,
        parts: Vec<String>,
    },
    /// The part was named, and this is no buildout.
    #[error("{} is no file of a buildout: it has no parts", .path.display())]
    NoBuildout { path: PathBuf },
    #[error("{}", crate::counted::counted(.0.len() as u64, "mistake"))]
    Mistakes(Vec<Mistake>),
}

fn listed(parts: &[String]) -> String {
    if parts.is_empty() {
        "none".to_owned()
    } else {
        parts.join(", ")
    }
}

/// Reads old files and makes our configuration of them.
///
/// # Errors
/// Where they cannot be read, and with every mistake that is in them.
pub fn import(what: &Import<'_>) -> Result<Imported, ImportError> {
    let mut trees = Vec::new();
    let mut mistakes = Vec::new();
    let (mut chosen, mut other_parts) = (None, Vec::new());
    for path in what.files {
        let source = Source::read(path).map_err(|source| ImportError::Unreadable {
            path: path.clone(),
            source,
        })?;
        let source = if buildout::is_buildout(&source) {
            match buildout::part(&source, what.part)? {
                Ok(part) => {
                    chosen = Some(part.name);
                    other_parts = part.others;
                    part.source
                }
                Err(found) => {
                    mistakes.extend(found);
                    continue;
                }
            }
        } else if what.part.is_some() && what.files.len() == 1 {
            return Err(ImportError::NoBuildout { path: path.clone() });
        } else {
            source
        };
        match parse::parse(&source, what.environment) {
            Ok(tree) => trees.push((tree, source.base)),
            Err(found) => mistakes.extend(found),
        }
    }
    if !mistakes.is_empty() {
        mistakes.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
        return Err(ImportError::Mistakes(mistakes));
    }
    let converted = convert::convert(&trees, what).map_err(ImportError::Mistakes)?;
    Ok(Imported {
        text: converted.text,
        part: chosen,
        other_parts,
        listen: converted.listen,
        arrays: converted.arrays,
        notes: converted.notes,
    })
}

#[cfg(test)]
mod tests;
