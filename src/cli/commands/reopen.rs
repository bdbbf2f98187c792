//! `reopen`: opens the log file anew, after a rotation.

use clap::Args;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;

/// Open the log file anew, after a rotation
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mv var/log/zeoraid.log var/log/zeoraid.log.1 && zeoraidctl reopen")]
#[command(visible_alias = "logreopen")]
pub struct ReopenArgs {}

pub async fn run(_: &ReopenArgs, context: &Context) -> Result<Exit, CliError> {
    context.api()?.reopen_logs().await?;
    context.printer.success("the log file was opened anew");
    Ok(Exit::Done)
}
