//! `wait`: until the daemon ends.

use clap::Args;

use super::stop::wait_until_gone;
use crate::admin::client::ClientError;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;

/// Wait until the daemon ends
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  zeoraidctl kill TERM && zeoraidctl wait")]
pub struct WaitArgs {}

pub async fn run(_: &WaitArgs, context: &Context) -> Result<Exit, CliError> {
    context.until_ctrl_c(wait(context)).await
}

async fn wait(context: &Context) -> Result<Exit, CliError> {
    let client = context.client()?;
    match client.ping().await {
        Ok(status) => {
            let process = context.global.admin.is_none().then_some(status.pid);
            wait_until_gone(&client, process, None).await?;
            context.printer.note("the daemon has ended");
        }
        Err(ClientError::NotRunning { .. }) => context.printer.note("no daemon runs"),
        Err(error) => return Err(crate::admin::api::Problem::from(error).into()),
    }
    Ok(Exit::Done)
}
