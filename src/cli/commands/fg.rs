//! `fg`: runs the daemon in the foreground, for systemd, containers, and eyes.

use clap::Args;

use super::start;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::launch;
use crate::daemon::Start;

/// Run the daemon in the foreground
///
/// Logs to standard error. Tells systemd when it serves; SIGTERM and Ctrl-C end it cleanly. The exit code
/// is 2 where the configuration is missing or has mistakes, which no restart mends, and 1 for whatever
/// else it could not start or go on for.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  zeoraidctl -C /srv/zodb fg")]
#[command(visible_alias = "foreground")]
pub struct FgArgs {
    /// Serve from the members that can be reached, although the start policy says no
    #[arg(long)]
    pub(super) force: bool,

    /// Do not ask, with --force
    #[arg(short, long)]
    pub(super) yes: bool,

    /// It is `start` that runs this: log to the file, leave the terminal
    #[arg(long, hide = true)]
    pub(super) background: bool,
}

pub fn run(args: &FgArgs, context: &Context) -> Result<Exit, CliError> {
    let config = context.config_to_start()?;
    if args.force {
        start::confirm_force_in_foreground(args, context)?;
    }
    let start = Start {
        force: args.force,
        background: args.background,
    };
    launch::run(config, start)
}

/// For the prompt, which is to go on when the daemon has ended: in a process of its own.
pub(in crate::cli) async fn in_a_process(
    args: &FgArgs,
    context: &Context,
) -> Result<Exit, CliError> {
    let config = context.config_to_start()?;
    if args.force {
        start::confirm_force_in_foreground(args, context)?;
    }
    // A Ctrl-C reaches the daemon too, which ends.
    let _ctrl_c = context.interrupts.claim()?;
    let mut command = tokio::process::Command::from(launch::foreground(&config, args.force)?);
    let status = command.status().await;
    let status =
        status.map_err(|error| CliError::new(format!("could not run the daemon: {error}")))?;
    // Why it did not run, it has said itself.
    Ok(if status.success() {
        Exit::Done
    } else {
        Exit::Failed
    })
}
