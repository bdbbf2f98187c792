//! Reading a line at a terminal: editing, history, completion.
//!
//! The history is a file in the user's state folder, so that it outlives the session and belongs to the
//! person, not to the instance. That it cannot be kept is said once, and no reason to stop.

use std::path::PathBuf;

use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::config::{BellStyle, CompletionType, Config};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;

use super::complete::{self, Completion};
use super::state::Seen;
use crate::cli::args::GlobalArgs;
use crate::cli::error::CliError;
use crate::cli::output::{Printer, Style};

/// How many lines are kept.
const HISTORY: usize = 1000;

pub(super) struct Editor {
    inner: rustyline::Editor<Helper, FileHistory>,
    style: Style,
    history: Option<PathBuf>,
    /// Why the history could not be kept.
    trouble: Option<String>,
}

/// What came of reading.
pub(super) enum Read {
    Line(String),
    /// Ctrl-C: the line is gone.
    Emptied,
    /// Ctrl-D.
    End,
}

impl Editor {
    pub(super) fn new(printer: &Printer) -> Result<Editor, CliError> {
        let failed = |error: ReadlineError| {
            CliError::new(format!("could not make a prompt of this terminal: {error}"))
        };
        let config = Config::builder()
            .max_history_size(HISTORY)
            .and_then(|builder| builder.history_ignore_dups(true))
            .map_err(failed)?
            .history_ignore_space(true)
            .completion_type(CompletionType::List)
            .bell_style(BellStyle::None)
            .build();
        let mut inner = rustyline::Editor::with_default(config).map_err(failed)?;
        inner.set_helper(Some(Helper::default()));
        let history = history_file();
        if let Some(file) = &history
            && file.exists()
        {
            // One that cannot be read is begun anew, and what is wrong comes when it is written.
            inner.load_history(file).ok();
        }
        Ok(Editor {
            inner,
            style: printer.screen().style,
            history,
            trouble: None,
        })
    }

    /// Reads a line behind what was seen.
    pub(super) fn read(&mut self, seen: &Seen, global: &GlobalArgs) -> Result<Read, CliError> {
        if let Some(helper) = self.inner.helper_mut() {
            helper.global = Some(global.clone());
        }
        let prompt = (seen.prompt(Style::PLAIN), seen.prompt(self.style));
        match self.inner.readline(&prompt) {
            Ok(line) => {
                self.keep(&line);
                Ok(Read::Line(line))
            }
            Err(ReadlineError::Interrupted) => Ok(Read::Emptied),
            Err(ReadlineError::Eof) => Ok(Read::End),
            Err(error) => Err(CliError::new(format!("could not read a line: {error}"))),
        }
    }

    /// At once, so that a session that is killed loses nothing.
    fn keep(&mut self, line: &str) {
        if !matches!(self.inner.add_history_entry(line), Ok(true)) {
            return;
        }
        let Some(file) = &self.history else {
            return;
        };
        let made = file.parent().map_or(Ok(()), make_private);
        let kept = made
            .map_err(ReadlineError::from)
            .and_then(|()| self.inner.append_history(file));
        if let Err(error) = kept {
            self.trouble = Some(format!(
                "the history could not be kept in {}: {error}",
                file.display()
            ));
        }
    }

    /// Says what could not be kept.
    pub(super) fn end(self, printer: &Printer) {
        if let Some(trouble) = self.trouble {
            printer.warning(&trouble);
        }
    }
}

/// `$XDG_STATE_HOME/zeoraidctl/history`, by default below `~/.local/state`; none for who has no home.
fn history_file() -> Option<PathBuf> {
    let absolute = |name: &str| {
        let folder = PathBuf::from(std::env::var_os(name)?);
        folder.is_absolute().then_some(folder)
    };
    let state =
        absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state.join("zeoraidctl/history"))
}

fn make_private(folder: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

#[derive(Default)]
struct Helper {
    files: FilenameCompleter,
    global: Option<GlobalArgs>,
}

impl Completer for Helper {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        context: &rustyline::Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let Some(global) = &self.global else {
            return Ok((pos, Vec::new()));
        };
        let names = |array: Option<&str>| complete::names(global, array);
        match complete::complete(&line[..pos], &names) {
            Completion::Words { start, words } => {
                let pair = |word: String| Pair {
                    // What is whole is followed by a blank.
                    replacement: format!("{word} "),
                    display: word,
                };
                Ok((start, words.into_iter().map(pair).collect()))
            }
            Completion::Files => self.files.complete(line, pos, context),
        }
    }
}

impl Hinter for Helper {
    type Hint = String;
}
impl Highlighter for Helper {}
impl Validator for Helper {}
impl rustyline::Helper for Helper {}
