//! `restart`: `stop` and `start`; `start` alone where nothing ran.

use clap::Args;

use super::start::{self, StartArgs};
use super::stop::{self, StopArgs};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::config::ConfigError;

/// Stop the daemon and start it again
///
/// The configuration, and the files of secrets that it names, are checked before the daemon is stopped: with
/// mistakes in it, the old one goes on.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  zeoraidctl restart
  zeoraidctl check-config && zeoraidctl restart")]
pub struct RestartArgs {
    #[command(flatten)]
    start: StartArgs,
}

pub async fn run(args: &RestartArgs, context: &Context) -> Result<Exit, CliError> {
    let config = context.config_to_start()?;
    // What a start would find only when the old one is gone.
    let mut mistakes = config.check_certificates();
    mistakes.extend(config.check_user());
    if !mistakes.is_empty() {
        return Err(CliError::from(ConfigError::Mistakes(mistakes)).into_usage());
    }
    if let Some(pid) = stop::stop(&StopArgs::default(), context).await? {
        context
            .printer
            .note(&format!("the daemon is stopped; it was pid={pid}"));
    }
    start::start(&args.start, &config.instance, context).await
}
