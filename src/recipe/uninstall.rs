//! Takes away what was written into an instance, and nothing else.
//!
//! 1. files that are as they were written, and `recipe.yaml` where it is; edited ones only if that is wanted,
//! 2. the folders that were made, where nothing is left in them,
//! 3. `.installed.yaml`, last: broken off in the middle, it can be done again.
//!
//! Data is never in the record, so it is never removed.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::error::RecipeError;
use super::installed::{INSTALLED, Installed, OWN_RECIPE, checksum};
use super::model::Process;

/// What would be taken away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// By target in order.
    pub files: Vec<Fate>,
    installed: Installed,
}

/// What becomes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fate {
    pub target: String,
    pub state: State,
    pub process: Option<Process>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// As it was written.
    Written,
    /// A person changed it.
    Edited,
    /// It is not there any more.
    Gone,
}

/// What is left of an instance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Left {
    /// Relative to the instance; a folder ends with `/`, and stands for all that is in it.
    pub paths: Vec<String>,
}

/// How deep the instance is looked into for what is left.
const DEPTH: usize = 2;

impl Removal {
    /// Looks at what was installed, and changes nothing. None where nothing is.
    pub fn plan(instance: &Path) -> Result<Option<Removal>, RecipeError> {
        let installed = Installed::load(instance)?;
        let mut files = Vec::new();
        let mut look = |target: String, sha256: Option<&str>, process: Option<&Process>| {
            let path = instance.join(&target);
            let state = match std::fs::read(&path) {
                Ok(content) if sha256 == Some(checksum(&content).as_str()) => State::Written,
                Ok(_) => State::Edited,
                Err(error) if error.kind() == ErrorKind::NotFound => State::Gone,
                Err(error) => return Err(RecipeError::io("read", path)(error)),
            };
            files.push(Fate {
                target,
                state,
                process: process.cloned(),
            });
            Ok(state)
        };
        for (target, file) in &installed.files {
            look(target.clone(), Some(&file.sha256), file.process.as_ref())?;
            // What was written beside a file that a person edited. What a person has made of it since is
            // not ours to judge.
            let beside = format!("{target}.new");
            let content = std::fs::read(instance.join(&beside)).ok();
            if content.is_some_and(|content| checksum(&content) == file.sha256) {
                look(beside, Some(&file.sha256), None)?;
            }
        }
        look(OWN_RECIPE.to_owned(), installed.own_recipe.as_deref(), None)?;
        if installed == Installed::default() && !instance.join(INSTALLED).exists() {
            return Ok(None);
        }
        files.sort_by(|a, b| a.target.cmp(&b.target));
        Ok(Some(Removal { files, installed }))
    }

    /// Does it.
    pub fn carry_out(&self, instance: &Path, also_edited: bool) -> Result<(), RecipeError> {
        for fate in &self.files {
            if fate.is_removed(also_edited) {
                let path = instance.join(&fate.target);
                std::fs::remove_file(&path).map_err(RecipeError::io("remove", path))?;
            }
        }
        // What is in a folder comes after it.
        for folder in self.installed.folders.iter().rev() {
            if folder != "." {
                remove_if_empty(&instance.join(folder))?;
            }
        }
        let record = instance.join(INSTALLED);
        match std::fs::remove_file(&record) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(RecipeError::io("remove", record)(error));
            }
            _ => {}
        }
        if self.installed.folders.contains(".") {
            remove_if_empty(instance)?;
        }
        Ok(())
    }

    /// What is left afterwards.
    pub fn leaves(&self, instance: &Path, also_edited: bool) -> Left {
        let mut paths = Vec::new();
        let look = Look {
            removal: self,
            instance,
            also_edited,
        };
        look.left(Path::new(""), 1, &mut paths);
        paths.sort();
        Left { paths }
    }
}

/// Looks for what is left.
struct Look<'a> {
    removal: &'a Removal,
    instance: &'a Path,
    also_edited: bool,
}

impl Look<'_> {
    /// Names what is left in a folder: down to the second level, so that it can be taken in.
    fn left(&self, folder: &Path, depth: usize, paths: &mut Vec<String>) {
        for (path, is_folder) in self.entries(folder) {
            let before = paths.len();
            if is_folder && depth < DEPTH {
                self.left(&path, depth + 1, paths);
            }
            if paths.len() == before && self.stays(&path, is_folder) {
                let end = if is_folder { "/" } else { "" };
                paths.push(format!("{}{end}", path.display()));
            }
        }
    }

    /// A folder that was not made by us stays, whatever is in it; and one with something in it.
    fn stays(&self, path: &Path, is_folder: bool) -> bool {
        let name = path.display().to_string();
        if is_folder {
            let mut entries = self.entries(path).into_iter();
            return !self.removal.installed.folders.contains(&name)
                || entries.any(|(path, is_folder)| self.stays(&path, is_folder));
        }
        let mut files = self.removal.files.iter();
        name != INSTALLED
            && !files.any(|fate| fate.target == name && fate.is_removed(self.also_edited))
    }

    /// Relative to the instance, with whether it is a folder.
    fn entries(&self, folder: &Path) -> Vec<(PathBuf, bool)> {
        let entries = std::fs::read_dir(self.instance.join(folder));
        let entries = entries.into_iter().flatten().flatten();
        let entries = entries.map(|entry| {
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            (folder.join(entry.file_name()), is_folder)
        });
        entries.collect()
    }
}

impl Fate {
    pub fn is_removed(&self, also_edited: bool) -> bool {
        match self.state {
            State::Written => true,
            State::Edited => also_edited,
            State::Gone => false,
        }
    }
}

fn remove_if_empty(folder: &Path) -> Result<(), RecipeError> {
    match std::fs::remove_dir(folder) {
        Ok(()) => Ok(()),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty | ErrorKind::NotADirectory
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(RecipeError::io("remove the folder", folder)(error)),
    }
}
