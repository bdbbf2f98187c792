//! `completions`: what a shell needs to complete this program's words.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::cli::args::Cli;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;

/// Print completions for a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  zeoraidctl completions bash > /etc/bash_completion.d/zeoraidctl
  zeoraidctl completions zsh > ~/.zfunc/_zeoraidctl")]
pub struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

pub fn run(args: &CompletionsArgs, context: &Context) -> Result<Exit, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "zeoraidctl", &mut script);
    context.printer.write_bytes(&script)?;
    Ok(Exit::Done)
}
