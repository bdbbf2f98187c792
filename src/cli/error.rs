//! Why a command could not be done, and what can be done next.

use std::io;

use super::exit::Exit;
use super::prompt::PromptError;
use crate::admin::api::Problem;
use crate::recipe::RecipeError;

/// What went wrong, for people: what was tried, why it failed, and the next step.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error("{message}")]
    Failed {
        message: String,
        /// Each in a line of its own: mistakes of a configuration, lines of a log.
        details: Vec<String>,
        /// A command, or a sentence.
        next: Option<String>,
        exit: Exit,
    },
    /// Whoever reads our output has gone. It is no failure, and nothing more can be said.
    #[error("the output was closed")]
    OutputClosed,
    /// Ctrl-C, or no, at a question.
    #[error("broken off; nothing was changed")]
    BrokenOff,
    /// Ctrl-C while something was done, or waited for.
    #[error("interrupted")]
    Interrupted,
}

impl CliError {
    pub fn new(message: impl Into<String>) -> Self {
        CliError::Failed {
            message: message.into(),
            details: Vec::new(),
            next: None,
            exit: Exit::Failed,
        }
    }

    /// The arguments make no sense together.
    pub fn usage(message: impl Into<String>) -> Self {
        CliError::Failed {
            message: message.into(),
            details: Vec::new(),
            next: None,
            exit: Exit::Usage,
        }
    }

    /// Adds the next step.
    #[must_use]
    pub fn with_next(mut self, text: impl Into<String>) -> Self {
        if let CliError::Failed { next, .. } = &mut self {
            *next = Some(text.into());
        }
        self
    }

    /// Adds lines below the message.
    #[must_use]
    pub fn with_details(mut self, lines: impl IntoIterator<Item = String>) -> Self {
        if let CliError::Failed { details, .. } = &mut self {
            details.extend(lines);
        }
        self
    }

    /// The same, with the exit code of wrong usage.
    #[must_use]
    pub fn into_usage(mut self) -> Self {
        if let CliError::Failed { exit, .. } = &mut self {
            *exit = Exit::Usage;
        }
        self
    }

    pub fn exit(&self) -> Exit {
        match self {
            CliError::Failed { exit, .. } => *exit,
            CliError::OutputClosed => Exit::Done,
            CliError::BrokenOff | CliError::Interrupted => Exit::Failed,
        }
    }
}

impl From<Problem> for CliError {
    fn from(problem: Problem) -> Self {
        CliError::Failed {
            message: problem.detail,
            details: problem.mistakes,
            next: problem.next,
            exit: Exit::Failed,
        }
    }
}

impl From<RecipeError> for CliError {
    fn from(error: RecipeError) -> Self {
        // What the questions of a recipe ran into is an error of ours that passed through.
        let error = match error {
            RecipeError::Asking(inner) => match inner.downcast::<PromptError>() {
                Ok(prompt) => return (*prompt).into(),
                Err(inner) => RecipeError::Asking(inner),
            },
            other => other,
        };
        let next = error.next();
        CliError::Failed {
            message: error.to_string(),
            details: Vec::new(),
            next,
            exit: Exit::Failed,
        }
    }
}

impl From<PromptError> for CliError {
    fn from(error: PromptError) -> Self {
        match error {
            PromptError::BrokenOff => CliError::BrokenOff,
            PromptError::NoTerminal { .. } => CliError::usage(error.to_string()),
            PromptError::Io(_) => CliError::new(error.to_string()),
        }
    }
}

impl From<io::Error> for CliError {
    /// Of writing to the output; errors of files are given their file where they happen.
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            CliError::OutputClosed
        } else {
            CliError::new(format!("could not write the output: {error}"))
        }
    }
}
