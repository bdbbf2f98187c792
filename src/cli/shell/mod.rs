//! The prompt: commands, one a line, with history and completion; and the same lines from a pipe.
//!
//! A line is what would follow `zeoraidctl` in a shell, and goes through the same parser. Each runs with a
//! context of its own, made of the session's global options and the line's. At a terminal an error ends the
//! line and not the session; a script ends at the first.

mod complete;
mod edit;
mod state;

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};

use clap::CommandFactory as _;

use super::args::{Cli, Command, GlobalArgs};
use super::commands;
use super::context::Context;
use super::error::CliError;
use super::exit::Exit;
use edit::{Editor, Read};

/// Whether there is somebody to prompt.
pub(super) fn is_possible(context: &Context) -> bool {
    io::stdin().is_terminal() && context.printer.stdout_is_terminal()
}

/// Reads lines and runs them until they end.
pub(super) fn run(context: &Context) -> Result<Exit, CliError> {
    let mut session = Session {
        global: context.global.clone(),
    };
    if is_possible(context) {
        session.at_terminal(context)
    } else {
        session.script(io::stdin().lines(), context)
    }
}

/// What holds from line to line.
struct Session {
    global: GlobalArgs,
}

/// What became of a line.
enum Line {
    /// There was nothing in it to run.
    Nothing,
    Quit,
    Ran {
        exit: Exit,
        failed: bool,
    },
}

impl Line {
    fn failed(exit: Exit) -> Line {
        Line::Ran { exit, failed: true }
    }

    fn done(exit: Exit) -> Line {
        Line::Ran {
            exit,
            failed: false,
        }
    }
}

impl Session {
    fn at_terminal(&mut self, context: &Context) -> Result<Exit, CliError> {
        let mut editor = Editor::new(&context.printer)?;
        loop {
            let seen = state::look(&self.global);
            match editor.read(&seen, &self.global)? {
                Read::End => break,
                Read::Emptied => {}
                Read::Line(line) => {
                    if let Line::Quit = self.line(&line) {
                        break;
                    }
                }
            }
        }
        editor.end(&context.printer);
        Ok(Exit::Done)
    }

    fn script(
        &mut self,
        lines: impl Iterator<Item = io::Result<String>>,
        context: &Context,
    ) -> Result<Exit, CliError> {
        let mut last = Exit::Done;
        for (index, line) in lines.enumerate() {
            let line = line
                .map_err(|error| CliError::new(format!("could not read the commands: {error}")))?;
            match self.line(&line) {
                Line::Nothing => {}
                Line::Quit => break,
                Line::Ran { exit, failed } => {
                    last = exit;
                    if failed {
                        let number = index + 1;
                        context.printer.warning(&format!(
                            "ended at line {number}, which failed; what follows it was not done"
                        ));
                        break;
                    }
                }
            }
        }
        Ok(last)
    }

    /// Runs a line, and says what went wrong.
    fn line(&mut self, line: &str) -> Line {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return Line::Nothing;
        }
        let Ok(words) = shell_words::split(line) else {
            let context = Context::standard(self.global.clone());
            let error = CliError::usage("a quotation mark is not closed");
            return Line::failed(super::finish(Err(error), &context));
        };
        match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["quit" | "exit"] => return Line::Quit,
            ["help" | "?"] => return self.help(),
            _ => {}
        }
        let program = std::iter::once("zeoraidctl".to_owned());
        let words = program.chain(words).map(OsString::from);
        let Cli { global, command } = match Cli::parse_words(words, Some(&self.global)) {
            Ok(cli) => cli,
            Err(error) => {
                let exit = super::said(&error);
                return Line::Ran {
                    exit,
                    failed: exit != Exit::Done,
                };
            }
        };
        let context = Context::standard(global);
        let ended = match command {
            None => {
                self.global = context.global;
                return Line::Nothing;
            }
            Some(Command::Shell(_)) => {
                context.printer.note("this is the prompt already");
                return Line::Nothing;
            }
            // The daemon ends with its process, and this one is to go on.
            Some(Command::Fg(args)) => {
                super::in_runtime(commands::fg::in_a_process(&args, &context), &context)
            }
            Some(Command::Start(args)) if args.foreground => {
                let args = args.for_foreground();
                super::in_runtime(commands::fg::in_a_process(&args, &context), &context)
            }
            Some(command) => super::run(command, &context),
        };
        match ended {
            Ok(exit) => {
                let failed = matches!(exit, Exit::Failed | Exit::Usage);
                Line::Ran { exit, failed }
            }
            // That the reader has gone away ends a script quietly.
            Err(CliError::OutputClosed) => Line::Quit,
            Err(error) => Line::failed(super::finish(Err(error), &context)),
        }
    }

    /// Every command with what it does, in a line each.
    fn help(&self) -> Line {
        let context = Context::standard(self.global.clone());
        let command = Cli::command();
        let own = [
            ("help COMMAND", "Say more about a command"),
            ("quit", "Leave the prompt (or Ctrl-D)"),
        ];
        let commands = command
            .get_subcommands()
            .filter(|command| !command.is_hide_set() && command.get_name() != "shell")
            .map(|command| {
                let about = command.get_about().map(ToString::to_string);
                (command.get_name().to_owned(), about.unwrap_or_default())
            });
        let own = own.map(|(name, about)| (name.to_owned(), about.to_owned()));
        let mut text = String::new();
        for (name, about) in commands.chain(own) {
            text += &format!("  {name:<13} {about}\n");
        }
        match context.printer.write(&text) {
            Ok(()) => Line::done(Exit::Done),
            Err(error) => Line::failed(super::finish(Err(error.into()), &context)),
        }
    }
}
