//! `shell`: the prompt.

use clap::Args;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::shell;

/// Type commands at a prompt
///
/// What `zeoraidctl` without a command does at a terminal. Every command can be typed, with its options;
/// global options that the prompt was begun with hold for each of them, and a line of global options alone
/// (`--array main`) sets them from there on. Tab completes, the arrow keys bring back earlier lines, Ctrl-C
/// empties the line, Ctrl-D or `quit` ends.
///
/// Where standard input is no terminal, lines are read from it, and the first that fails ends it: what
/// follows may rely on it. The exit code is the last line's. Lines that begin with # are comments.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  zeoraidctl                        the same
  zeoraidctl -C /srv/zodb shell
  echo details | zeoraidctl shell   commands from a pipe or a file")]
pub struct ShellArgs {}

pub fn run(_: &ShellArgs, context: &Context) -> Result<Exit, CliError> {
    shell::run(context)
}
