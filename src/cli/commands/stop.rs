//! `stop`: ends the daemon, and returns when it is gone.

use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use crate::admin::api::{AdminApi as _, Problem};
use crate::admin::client::{AdminClient, ClientError};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::launch;
use crate::cli::output::format;

/// Stop the daemon
///
/// Transactions that clients have begun may end, for a few seconds; those that are being finished are
/// finished. Clients are disconnected and go to another address, where they know one. Returns when the daemon is gone.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  zeoraidctl stop
  zeoraidctl stop --timeout 5m")]
pub struct StopArgs {
    /// Wait so long for its end
    #[arg(short, long, value_name = "TIME", default_value = "1m", value_parser = crate::config::parse_duration)]
    timeout: Duration,
}

impl Default for StopArgs {
    fn default() -> Self {
        StopArgs {
            timeout: Duration::from_mins(1),
        }
    }
}

pub async fn run(args: &StopArgs, context: &Context) -> Result<Exit, CliError> {
    match stop(args, context).await? {
        Some(pid) => context
            .printer
            .success(&format!("the daemon is stopped; it was pid={pid}")),
        None => context.printer.note("no daemon runs"),
    }
    Ok(Exit::Done)
}

/// Ends it; none where none ran.
pub(super) async fn stop(args: &StopArgs, context: &Context) -> Result<Option<u32>, CliError> {
    let client = context.client()?;
    let status = match client.ping().await {
        Ok(status) => status,
        Err(ClientError::NotRunning { .. }) => return Ok(None),
        Err(error) => return Err(Problem::from(error).into()),
    };
    client.shutdown().await?;
    // Elsewhere the process cannot be seen; that it answers no more is all there is to know.
    let process = context.global.admin.is_none().then_some(status.pid);
    if wait_until_gone(&client, process, Some(args.timeout)).await? {
        return Ok(Some(status.pid));
    }
    let waited = format::duration(args.timeout.as_secs());
    Err(CliError::new(format!(
        "the daemon (pid {}) has not ended within {waited}",
        status.pid
    ))
    .with_next(format!(
        "zeoraidctl logtail, or at worst: kill {}",
        status.pid
    )))
}

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until nobody answers and the process is gone; false where it takes too long.
pub(super) async fn wait_until_gone(
    client: &AdminClient,
    process: Option<u32>,
    timeout: Option<Duration>,
) -> Result<bool, CliError> {
    let started = Instant::now();
    loop {
        let answers = match client.ping().await {
            Err(ClientError::NotRunning { .. }) => false,
            Ok(status) => process.is_none_or(|pid| pid == status.pid),
            Err(_) => true,
        };
        if !answers && !process.is_some_and(launch::is_running) {
            return Ok(true);
        }
        if timeout.is_some_and(|timeout| started.elapsed() >= timeout) {
            return Ok(false);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
