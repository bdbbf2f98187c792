//! A mistake in a configuration: where it is, what is wrong, and how to mend it.

use std::fmt;
use std::path::PathBuf;

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    pub file: PathBuf,
    /// Counted from 1; 0 where it is in no line (a missing key of the whole file, the environment).
    pub line: usize,
    /// Counted from 1; 0 where it is in no line.
    pub column: usize,
    /// `arrays.main: min_optimal is 3, but there are 2 members`.
    pub what: String,
    /// `at most 2`.
    pub mend: String,
}

impl Mistake {
    pub(super) fn at(
        line: usize,
        column: usize,
        what: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Mistake {
            file: PathBuf::new(),
            line,
            column,
            what: what.into(),
            mend: mend.into(),
        }
    }
}

/// `etc/zeoraid.yaml:12:5: what is wrong: how to mend it`, the form that editors jump to.
impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if self.line > 0 {
            write!(f, "{}:{}:", self.line, self.column)?;
        }
        write!(f, " {}", self.what)?;
        if !self.mend.is_empty() {
            write!(f, "; {}", self.mend)?;
        }
        Ok(())
    }
}

/// There is no configuration to work with.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("could not read {}: {source}", .path.display())]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{}", summary(.0))]
    Mistakes(Vec<Mistake>),
}

impl ConfigError {
    /// The mistakes, where there are any.
    #[must_use]
    pub fn mistakes(&self) -> &[Mistake] {
        match self {
            ConfigError::Mistakes(mistakes) => mistakes,
            ConfigError::Unreadable { .. } => &[],
        }
    }

    /// What the operator can do.
    #[must_use]
    pub fn next(&self) -> Option<String> {
        match self {
            ConfigError::Unreadable { source, .. }
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                Some("zeoraidctl init".into())
            }
            ConfigError::Unreadable { .. } => None,
            ConfigError::Mistakes(_) => Some("zeoraidctl check-config".into()),
        }
    }
}

fn summary(mistakes: &[Mistake]) -> String {
    match mistakes {
        [one] => format!("a mistake in the configuration: {one}"),
        many => {
            let mut text = format!("{} mistakes in the configuration:", many.len());
            for mistake in many {
                text.push_str("\n  ");
                text.push_str(&mistake.to_string());
            }
            text
        }
    }
}
