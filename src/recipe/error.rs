//! What can be wrong with a recipe, a template, an answer, or the folder they are rendered into.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why an instance could not be made from a recipe.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    #[error("there is no {kind} `{name}`; there are: {}", .available.join(", "))]
    NotFound {
        kind: &'static str,
        name: String,
        available: Vec<String>,
    },
    /// A recipe or template that makes no sense, with the place and what was expected there.
    #[error("{0}")]
    Mistake(Mistake),
    #[error("`{value}` from {origin} is no value for the option `{option}`: {expected}")]
    Answer {
        option: String,
        value: String,
        origin: String,
        expected: String,
    },
    #[error("{origin} answers `{option}`, which is no option of the recipe `{recipe}`; it has: {}", .known.join(", "))]
    UnknownOption {
        option: String,
        origin: String,
        recipe: String,
        known: Vec<String>,
    },
    #[error(
        "`{option}` has no default and was not answered{}",
        .needed_by.as_ref().map(|addition| format!(", and `{addition}` needs it")).unwrap_or_default()
    )]
    Unanswered {
        option: String,
        needed_by: Option<String>,
    },
    #[error(
        "`{name}` is an addition, and makes no instance by itself; it is combined with a recipe that does"
    )]
    OnlyAnAddition { name: String },
    #[error(
        "`{name}` makes an instance by itself and is no addition, so `{base}` cannot be combined with it"
    )]
    NoAddition { name: String, base: String },
    #[error("could not {what} {}: {source}", .path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// Whoever asks the questions could not, or the person broke off.
    #[error(transparent)]
    Asking(#[from] Box<dyn std::error::Error + Send + Sync>),
}

/// A mistake in a file that people write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    pub file: String,
    pub line: Option<usize>,
    pub what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file, self.what),
            None => write!(f, "{}: {}", self.file, self.what),
        }
    }
}

impl RecipeError {
    pub(crate) fn mistake(
        file: impl Into<String>,
        line: Option<usize>,
        what: impl Into<String>,
    ) -> Self {
        RecipeError::Mistake(Mistake {
            file: file.into(),
            line,
            what: what.into(),
        })
    }

    pub(crate) fn io(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> RecipeError {
        let path = path.into();
        move |source| RecipeError::Io { what, path, source }
    }

    /// What the operator can do.
    pub fn next(&self) -> Option<String> {
        match self {
            RecipeError::NotFound { kind: "recipe", .. } | RecipeError::NoAddition { .. } => {
                Some("zeoraidctl recipe list".into())
            }
            RecipeError::Unanswered { option, .. } => {
                Some(format!("zeoraidctl init --set {option}=VALUE"))
            }
            RecipeError::UnknownOption { recipe, .. } => {
                Some(format!("zeoraidctl recipe options {recipe}"))
            }
            RecipeError::OnlyAnAddition { name } => Some(format!("zeoraidctl init --with {name}")),
            _ => None,
        }
    }
}
