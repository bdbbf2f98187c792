//! `start`: puts the daemon into the background, and tells the truth: it returns when it serves, or
//! says why not, with the last lines of the log.

use std::path::Path;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use clap::Args;
use futures_util::StreamExt as _;
use tokio::time::Instant;

use super::details::DetailsView;
use super::fg::FgArgs;
use super::logtail;
use crate::admin::api::{AdminApi as _, ArrayState, ArrayStatus, Events, Problem, Status};
use crate::admin::client::{AdminClient, ClientError, Target};
use crate::cli::context::{Context, load_config, load_config_to_start};
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::launch;
use crate::cli::output::{Format, Paint, escape, format};
use crate::cli::prompt::Question;
use crate::config::Config;

/// Start the daemon in the background
///
/// Returns when it serves clients, or says what it waits for and why it does not start.
#[derive(Debug, Default, Args)]
#[command(after_help = "\
Examples:
  zeoraidctl start
  zeoraidctl start --timeout 10m
  zeoraidctl start --foreground    for systemd and containers, as `fg`")]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag that people type"
)]
pub struct StartArgs {
    /// Stay in the foreground, and log to standard error
    #[arg(short, long, conflicts_with_all = ["timeout", "no_wait"])]
    pub(in crate::cli) foreground: bool,

    /// Wait so long for it to serve; it goes on in the background [default: 1m]
    #[arg(short, long, value_name = "TIME", value_parser = parse_timeout)]
    timeout: Option<Duration>,

    /// Return as soon as it answers, without waiting for members
    #[arg(long, conflicts_with = "timeout")]
    no_wait: bool,

    /// Serve from the members that can be reached, although the start policy says no
    #[arg(long)]
    force: bool,

    /// Do not ask, with --force
    #[arg(short, long)]
    yes: bool,
}

const TIMEOUT: Duration = Duration::from_mins(1);
/// A start takes less than a tenth of a second; what is longer is waited for no more finely than a
/// person can see.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A process that was killed is gone in less.
const DYING: Duration = Duration::from_secs(2);
/// How much of the log is shown.
const LOG_LINES: usize = 12;

pub async fn run(args: &StartArgs, context: &Context) -> Result<Exit, CliError> {
    let instance = context.instance().map_err(CliError::into_usage)?;
    start(args, &instance, context).await
}

/// For `init --start`: starts, and shows the details.
pub(super) async fn in_instance(
    args: &StartArgs,
    instance: &Path,
    context: &Context,
) -> Result<Exit, CliError> {
    let exit = start(args, instance, context).await?;
    if context.printer.format == Format::Table {
        let api = client(&load_config(instance)?)?;
        let view = DetailsView::new(
            api.arrays().await?,
            &context.clock,
            Some(instance.to_owned()),
        );
        context.printer.print(&view)?;
    }
    Ok(exit)
}

pub(super) async fn start(
    args: &StartArgs,
    instance: &Path,
    context: &Context,
) -> Result<Exit, CliError> {
    let config = load_config_to_start(instance)?;
    launch::check_user(&config)?;
    let client = client(&config)?.with_timeout(Duration::from_secs(5));
    match who_is_there(&client).await {
        Ok(status) => return runs_already(args, &client, &status, context).await,
        Err(ClientError::NotRunning { .. }) => {}
        Err(error) => return Err(Problem::from(error).into()),
    }
    if args.force {
        confirm_force(args, context)?;
    }
    let log = std::fs::metadata(&config.log.file).map_or(0, |log| log.len());
    let mut child = launch::spawn(&config, args.force)?;
    let status = wait_until_it_serves(args, &client, &mut child, context).await;
    let status = status.map_err(|waited| match waited {
        Waited::Ended(status) => did_not_start(status, &config, log),
        Waited::Failed(error) => error,
    })?;
    let pid = status.pid;
    let state = if status.ready {
        "serves"
    } else {
        "runs, and does not serve yet"
    };
    let listen = config.listen.iter();
    let addresses: Vec<_> = listen.map(|listen| listen.address.to_string()).collect();
    context.printer.success(&format!(
        "the daemon {state}: {}; pid={pid}",
        addresses.join(", ")
    ));
    if status.ready {
        warn_of_the_start(&client, context).await;
        warn_of_missing_copies(&status, context);
    }
    Ok(Exit::Done)
}

/// It has not been started. Nor has anything been forced: that would have been for its start.
async fn runs_already(
    args: &StartArgs,
    client: &AdminClient,
    status: &Status,
    context: &Context,
) -> Result<Exit, CliError> {
    let runs = format!("the daemon runs already; pid={}", status.pid);
    let waiting = what_is_waited_for(status);
    if waiting.is_empty() {
        context.printer.note(&runs);
        return Ok(Exit::Done);
    }
    let message = format!("{runs}, and does not serve: {waiting}");
    if args.no_wait && !args.force {
        context.printer.warning(&message);
        say_next(&what_helps(client).await, context);
        return Ok(Exit::Done);
    }
    if args.force {
        let message = format!("{message}; nothing was forced");
        let next = "zeoraidctl details, and where only that is left: zeoraidctl stop && zeoraidctl start --force";
        return Err(CliError::new(message).with_next(next));
    }
    let next = what_helps(client).await;
    Err(CliError::new(message).with_next(next))
}

/// The arrays that do not serve, and why; empty where all do.
fn what_is_waited_for(status: &Status) -> String {
    let lines = status.arrays.iter().filter(|array| !array.serving);
    let lines: Vec<_> = lines
        .map(|array| format!("{}: {}", escape(&array.name), escape(&array.line)))
        .collect();
    lines.join("; ")
}

/// How long the daemon may take to tell what has happened already.
const TELLING: Duration = Duration::from_secs(1);

/// Says what the start policy allowed at a risk. That is among the daemon's first events.
async fn warn_of_the_start(client: &AdminClient, context: &Context) {
    let told = async {
        let Ok(mut events) = client.events(Events::Kept { after: 0 }).await else {
            return;
        };
        while let Some(Ok(event)) = events.next().await {
            if event.kind == "started-without" {
                let array = event.array.as_deref().unwrap_or_default();
                let (array, message) = (escape(array), escape(&event.message));
                context.printer.warning(&format!("{array}: {message}"));
            }
        }
    };
    drop(tokio::time::timeout(TELLING, told).await);
}

/// It serves, and something is wrong all the same.
fn warn_of_missing_copies(status: &Status, context: &Context) {
    let is_degraded = |array: &&ArrayStatus| array.serving && array.state == ArrayState::Degraded;
    let mut degraded = status.arrays.iter().filter(is_degraded).peekable();
    if degraded.peek().is_none() {
        return;
    }
    for array in degraded {
        let (name, line) = (escape(&array.name), escape(&array.line));
        context.printer.warning(&format!("{name}: {line}"));
    }
    say_next("zeoraidctl details", context);
}

fn say_next(next: &str, context: &Context) {
    let style = context.printer.error_style();
    let word = style.paint(Paint::Strong, "Next:");
    let command = style.paint(Paint::Command, &escape(next));
    context.printer.note(&format!("{word} {command}"));
}

/// A daemon that was killed a moment ago resets connections until the system has closed its socket:
/// that says nothing yet, so it is asked again.
async fn who_is_there(client: &AdminClient) -> Result<Status, ClientError> {
    let deadline = Instant::now() + DYING;
    loop {
        match client.ping().await {
            Err(ClientError::Unreachable { .. }) if Instant::now() < deadline => {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            answer => return answer,
        }
    }
}

async fn wait_until_it_serves(
    args: &StartArgs,
    client: &AdminClient,
    child: &mut Child,
    context: &Context,
) -> Result<Status, Waited> {
    let timeout = args.timeout.unwrap_or(TIMEOUT);
    let started = Instant::now();
    let spinner = Spinner::new(context);
    loop {
        let answer = client.ping().await;
        // Only then: a daemon that answered and ended has ended.
        match child.try_wait() {
            Ok(None) => {}
            Ok(Some(status)) => return Err(Waited::Ended(status)),
            Err(error) => {
                let message = format!("could not find out how the daemon is: {error}");
                return Err(Waited::Failed(CliError::new(message)));
            }
        }
        let waits_for = match answer {
            Ok(status) if status.ready || args.no_wait => return Ok(status),
            Ok(status) => what_is_waited_for(&status),
            Err(ClientError::NotRunning { .. } | ClientError::Unreachable { .. }) => {
                "it opens its files".to_owned()
            }
            Err(error) => return Err(Waited::Failed(Problem::from(error).into())),
        };
        spinner.say(&waits_for);
        if started.elapsed() >= timeout {
            let waited = format::duration(timeout.as_secs());
            let message =
                format!("the daemon runs, but does not serve after {waited}: {waits_for}");
            let next = what_helps(client).await;
            return Err(Waited::Failed(CliError::new(message).with_next(next)));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The next step of the first array that does not serve, as its daemon says it in `details`.
async fn what_helps(client: &AdminClient) -> String {
    let arrays = client.arrays().await.unwrap_or_default();
    let mut waiting = arrays.into_iter().filter(|array| !array.serving);
    let next = waiting.find_map(|array| array.next);
    next.unwrap_or_else(|| "zeoraidctl details".to_owned())
}

/// Why there is nothing to wait for any more.
enum Waited {
    Ended(ExitStatus),
    Failed(CliError),
}

/// What the daemon said last is why: its own error and next step, where it came so far as to say one,
/// and what it logged before.
fn did_not_start(status: ExitStatus, config: &Config, log: u64) -> CliError {
    let mut lines = logtail::tail_since(&config.log.file, log, LOG_LINES);
    let mut said = |word: &str| {
        let at = lines.iter().rposition(|line| line.starts_with(word))?;
        lines.remove(at).strip_prefix(word).map(str::to_owned)
    };
    let next = said("Next: ").unwrap_or_else(|| "zeoraidctl logtail -n 100".to_owned());
    let why = said("error: ").unwrap_or_else(|| format!("it ended at once ({status})"));
    CliError::new(format!("the daemon did not start: {why}"))
        .with_details(lines)
        .with_next(next)
}

fn confirm_force(args: &StartArgs, context: &Context) -> Result<(), CliError> {
    context.printer.warning(
        "`--force` serves from the members that can be reached. Transactions that were acknowledged \
         while those were out are missing until the others return; what clients commit meanwhile makes \
         the others diverge: then one side of the two histories has to be cut (it is set aside in a file)",
    );
    if args.yes {
        return Ok(());
    }
    let question = Question {
        text: "Start from what is there?",
        flags: &["--yes"],
    };
    if context.prompt.type_word(question, "force")? {
        Ok(())
    } else {
        context.printer.note(
            "the daemon does not run; without --force `zeoraidctl start` waits for the members that are out",
        );
        Err(CliError::BrokenOff)
    }
}

/// The client of the instance's daemon.
pub(super) fn client(config: &Config) -> Result<AdminClient, CliError> {
    AdminClient::new(Target::Socket(config.admin.socket.clone()))
        .map_err(|error| Problem::from(error).into())
}

/// Says what is waited for, on a terminal; elsewhere the message at the end says it.
struct Spinner(Option<indicatif::ProgressBar>);

impl Spinner {
    /// Nothing flashes up for a start that is as fast as it should be.
    const AFTER: Duration = Duration::from_millis(300);

    fn new(context: &Context) -> Self {
        let shown = context.printer.stderr_is_terminal() && !context.printer.quiet;
        Spinner(shown.then(indicatif::ProgressBar::new_spinner))
    }

    fn say(&self, waits_for: &str) {
        if let Some(bar) = &self.0
            && bar.elapsed() > Self::AFTER
        {
            bar.set_message(format!("waits: {waits_for}"));
            bar.tick();
        }
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

impl StartArgs {
    /// `start --foreground` is `fg`.
    pub(in crate::cli) fn for_foreground(&self) -> FgArgs {
        FgArgs {
            force: self.force,
            yes: self.yes,
            background: false,
        }
    }
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    crate::config::parse_duration(text)
}

/// For `fg --force` as well.
pub(super) fn confirm_force_in_foreground(
    args: &FgArgs,
    context: &Context,
) -> Result<(), CliError> {
    let args = StartArgs {
        force: true,
        yes: args.yes,
        ..StartArgs::default()
    };
    confirm_force(&args, context)
}
