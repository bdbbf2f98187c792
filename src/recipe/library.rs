//! Where recipes and templates are looked for: in the instance, in the person's configuration folder,
//! in the binary. The first found wins, so that a site can replace a built-in one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::builtin;
use super::error::RecipeError;

/// The recipes and templates that can be named.
#[derive(Debug, Clone, Default)]
pub struct Library {
    /// Folders with `recipes/` and `templates/` in them.
    folders: Vec<PathBuf>,
}

/// A recipe's or template's text, and where it came from, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub origin: String,
    pub text: String,
}

impl Library {
    /// What is built in alone.
    pub fn built_in() -> Self {
        Library::default()
    }

    /// What is in these folders, then what is built in.
    pub fn new(folders: Vec<PathBuf>) -> Self {
        Library { folders }
    }

    /// # Errors
    /// [`RecipeError::NotFound`] lists those that there are.
    pub fn recipe(&self, name: &str) -> Result<Source, RecipeError> {
        if let Some(source) = self.read(&format!("recipes/{name}.yaml"))? {
            return Ok(source);
        }
        let text = builtin::recipe(name).ok_or_else(|| RecipeError::NotFound {
            kind: "recipe",
            name: name.to_owned(),
            available: self.recipes(),
        })?;
        Ok(built_in(format!("recipes/{name}.yaml"), text))
    }

    /// # Errors
    /// [`RecipeError::NotFound`] lists those that there are.
    pub fn template(&self, name: &str) -> Result<Source, RecipeError> {
        if let Some(source) = self.read(&format!("templates/{name}"))? {
            return Ok(source);
        }
        let text = builtin::template(name).ok_or_else(|| RecipeError::NotFound {
            kind: "template",
            name: name.to_owned(),
            available: self.list("templates", "", &builtin::templates()),
        })?;
        Ok(built_in(format!("templates/{name}"), text))
    }

    /// The names of all recipes, sorted.
    pub fn recipes(&self) -> Vec<String> {
        self.list("recipes", ".yaml", &builtin::recipes())
    }

    fn read(&self, relative: &str) -> Result<Option<Source>, RecipeError> {
        // A name is a name: it does not lead out of the folders.
        let inside = Path::new(relative)
            .components()
            .all(|part| matches!(part, std::path::Component::Normal(_)));
        if !inside {
            return Ok(None);
        }
        for folder in &self.folders {
            let path = folder.join(relative);
            match std::fs::read_to_string(&path) {
                Ok(text) => {
                    let origin = path.display().to_string();
                    return Ok(Some(Source { origin, text }));
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                // Of another user's home, as after `su` or `sudo -u`: nothing in it is for this one. A file
                // that is there and cannot be read is a mistake.
                Err(error)
                    if error.kind() == std::io::ErrorKind::PermissionDenied
                        && std::fs::metadata(&path).is_err() => {}
                Err(error) => return Err(RecipeError::io("read", path)(error)),
            }
        }
        Ok(None)
    }

    fn list(&self, kind: &str, suffix: &str, built_in: &[&str]) -> Vec<String> {
        let mut names: BTreeSet<String> = built_in.iter().map(|name| (*name).to_owned()).collect();
        for folder in &self.folders {
            let entries = std::fs::read_dir(folder.join(kind)).into_iter().flatten();
            names.extend(entries.flatten().filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                Some(name.strip_suffix(suffix)?.to_owned())
            }));
        }
        names.into_iter().collect()
    }
}

fn built_in(origin: String, text: &str) -> Source {
    Source {
        origin: format!("{origin} (built in)"),
        text: text.to_owned(),
    }
}
