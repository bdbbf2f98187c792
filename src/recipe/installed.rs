//! `.installed.yaml`: what was written into an instance, with checksums; and `recipe.yaml`: what it is
//! made of.
//!
//! The first is this program's, the second is the person's: it may be edited and versioned, and `init`
//! rewrites it only when an answer has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::error::RecipeError;
use super::model::{Process, Recipe};
use super::options::{self, Origin, Resolved};
use crate::durable;

/// The name of the record in the instance.
pub const INSTALLED: &str = ".installed.yaml";
/// The name of the instance's own recipe.
pub const OWN_RECIPE: &str = "recipe.yaml";

/// What was written into an instance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Installed {
    /// By target, relative to the instance.
    pub files: BTreeMap<String, InstalledFile>,
    /// The folders that were made: absolute, or relative to the instance, which is `.` itself.
    pub folders: BTreeSet<String>,
    /// The checksum of `recipe.yaml` as it was written.
    pub own_recipe: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstalledFile {
    pub part: String,
    /// Of what was written.
    pub sha256: String,
    /// A process that runs by the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
}

/// The record as it lies on the disk. A new version is a new variant, and `load` converts the old.
#[derive(Serialize, Deserialize)]
#[serde(tag = "version")]
enum Kept {
    /// Did not know which folders were made.
    #[serde(rename = "1")]
    V1 {
        files: BTreeMap<String, InstalledFile>,
    },
    #[serde(rename = "2")]
    V2 {
        files: BTreeMap<String, InstalledFile>,
        #[serde(default)]
        folders: BTreeSet<String>,
        #[serde(default)]
        own_recipe: Option<String>,
    },
}

impl Installed {
    /// The record of an instance; empty where there is none.
    pub fn load(instance: &Path) -> Result<Installed, RecipeError> {
        let path = instance.join(INSTALLED);
        let Some(text) = read(&path)? else {
            return Ok(Installed::default());
        };
        let kept = serde_yaml::from_str(&text).map_err(|error| {
            let line = error.location().map(|location| location.line());
            let what = format!(
                "{error}; this file is written by zeoraidctl. Move it away, and `init` takes every file \
                 that it would write differently for edited"
            );
            RecipeError::mistake(path.display().to_string(), line, what)
        })?;
        Ok(match kept {
            Kept::V1 { files } => Installed {
                files,
                ..Installed::default()
            },
            Kept::V2 {
                files,
                folders,
                own_recipe,
            } => Installed {
                files,
                folders,
                own_recipe,
            },
        })
    }

    /// Keeps the record; returns when it is durable.
    pub fn save(&self, instance: &Path) -> Result<(), RecipeError> {
        let path = instance.join(INSTALLED);
        let kept = Kept::V2 {
            files: self.files.clone(),
            folders: self.folders.clone(),
            own_recipe: self.own_recipe.clone(),
        };
        let text = serde_yaml::to_string(&kept)
            .map_err(|error| RecipeError::mistake(INSTALLED, None, error.to_string()))?;
        let text = format!(
            "# Written by zeoraidctl: what `init` wrote, with checksums. Leave it alone.\n{text}"
        );
        durable::write_with_mode(&path, text.as_bytes(), 0o644)
            .map_err(RecipeError::io("write", path))
    }
}

/// The instance's own recipe.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnRecipe {
    pub recipe: String,
    /// The additions to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub with: Vec<String>,
    #[serde(default)]
    pub answers: BTreeMap<String, serde_yaml::Value>,
}

impl OwnRecipe {
    /// What the instance is made of; none where `init` never ran in it.
    pub fn load(instance: &Path) -> Result<Option<OwnRecipe>, RecipeError> {
        let path = instance.join(OWN_RECIPE);
        let Some(text) = read(&path)? else {
            return Ok(None);
        };
        serde_yaml::from_str(&text).map(Some).map_err(|error| {
            let line = error.location().map(|location| location.line());
            RecipeError::mistake(path.display().to_string(), line, error.to_string())
        })
    }

    /// What is stored, as answers.
    pub fn as_answers(&self) -> BTreeMap<String, String> {
        let entries = self.answers.iter();
        entries
            .filter_map(|(key, value)| Some((key.clone(), super::raw::scalar_text(value)?)))
            .collect()
    }

    /// What to store. Defaults are stored as well, so that a later version's other default does not
    /// change an instance that runs; but not those that follow from other answers, which go on
    /// following them.
    pub fn from_resolved(recipe: &Recipe, resolved: &Resolved) -> OwnRecipe {
        let follows = |key: &str| {
            let option = recipe.option(key);
            option.is_some_and(|option| recipe.follows_others(option))
        };
        let answers = resolved.answers.iter().filter(|(key, answered)| {
            !(answered.origin == Origin::Default && follows(key.as_str()))
        });
        let answers = answers.map(|(key, answered)| (key.clone(), answered.text.trim().to_owned()));
        let parts = resolved.part_values.clone();
        OwnRecipe {
            recipe: recipe.name.clone(),
            with: recipe.with.clone(),
            answers: answers
                .chain(parts)
                .map(|(key, text)| (key, plain(text)))
                .collect(),
        }
    }

    /// The text of `recipe.yaml`.
    pub fn to_text(&self) -> Result<String, RecipeError> {
        let body = serde_yaml::to_string(self)
            .map_err(|error| RecipeError::mistake(OWN_RECIPE, None, error.to_string()))?;
        Ok(format!(
            "# What this instance is made of. Change an answer here, or with\n\
             # `zeoraidctl init --set OPTION=VALUE`, and run `zeoraidctl init` again.\n\
             # `zeoraidctl recipe options {}` says what can be answered.\n{body}",
            self.recipe
        ))
    }

    /// Whether both say the same.
    pub fn says_the_same(&self, other: &OwnRecipe) -> bool {
        self.recipe == other.recipe
            && self.with == other.with
            && self.as_answers() == other.as_answers()
    }
}

/// Numbers as numbers, for the eyes.
fn plain(text: String) -> serde_yaml::Value {
    match text.parse::<u64>() {
        Ok(number) if number.to_string() == text => number.into(),
        _ => text.into(),
    }
}

/// The checksum of a file's content.
pub fn checksum(content: &[u8]) -> String {
    use std::fmt::Write as _;

    Sha256::digest(content)
        .iter()
        .fold(String::with_capacity(64), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a string does not fail");
            text
        })
}

/// The answers of a file that a person named.
pub fn read_answers_file(path: &Path) -> Result<BTreeMap<String, String>, RecipeError> {
    let text = std::fs::read_to_string(path).map_err(RecipeError::io("read", path))?;
    options::read_answers(&path.display().to_string(), &text)
}

fn read(path: &Path) -> Result<Option<String>, RecipeError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(RecipeError::io("read", path)(error)),
    }
}
