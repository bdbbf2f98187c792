//! `kill`: sends the daemon a signal, as `zdctl` does.

use clap::Args;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::launch::{self, Signal};

/// Send the daemon a signal
///
/// By its pid file, whose lock says that the daemon lives: a number that the system has given to another
/// program since is never signalled. TERM and INT end the daemon as `stop` does (a second one ends it at
/// once), HUP is `reload`, USR2 is `reopen`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  zeoraidctl kill            TERM
  zeoraidctl kill HUP        read the configuration again, as SIGHUP and 1
  zeoraidctl kill KILL       end it at once; files are safe, as after a crash")]
pub struct KillArgs {
    /// Its name, with or without SIG, or its number
    #[arg(default_value = "TERM", value_parser = Signal::parse)]
    signal: Signal,
}

pub fn run(args: &KillArgs, context: &Context) -> Result<Exit, CliError> {
    let config = context.config()?;
    let Some(pid) = launch::signal(&config, args.signal)? else {
        return Err(
            CliError::new("no daemon runs; nobody was signalled").with_next("zeoraidctl start")
        );
    };
    context
        .printer
        .success(&format!("{} was sent; pid={pid}", args.signal));
    Ok(Exit::Done)
}
