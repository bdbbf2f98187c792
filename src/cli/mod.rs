//! The command line: what an administrator types and reads.
//!
//! A command is a file under [`commands`]: its arguments, and `run(args, &Context)`. It asks the daemon
//! through [`AdminApi`](crate::admin::api::AdminApi), people through [`prompt::Prompt`], and prints
//! through [`output::Printer`]; so it runs in tests against a fake daemon, a script and buffers.
//! [`context`] alone knows where the daemon is; the room knows no storage, no array and no wire.

pub mod args;
pub mod commands;
pub mod context;
mod error;
mod exit;
mod interrupt;
mod keys;
mod launch;
mod manual;
pub mod output;
mod place;
mod progress;
pub mod prompt;
#[cfg(test)]
mod screens;
mod shell;
#[cfg(test)]
mod testing;

use std::ffi::OsString;
use std::process::ExitCode;

use args::{Cli, Command};
use context::Context;
pub use error::CliError;
pub use exit::Exit;

/// The whole program: parses what was typed, runs it, and gives the exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::parse_words(arguments, None) {
        Ok(cli) => cli,
        Err(error) => return said(&error).into(),
    };
    let Cli { global, command } = cli;
    let context = Context::standard(global);
    let command = match command {
        Some(command) => command,
        None if shell::is_possible(&context) => Command::Shell(commands::shell::ShellArgs {}),
        None => {
            return Cli::nothing_typed()
                .map_or(Exit::Usage, |error| said(&error))
                .into();
        }
    };
    let ended = run(command, &context);
    finish(ended, &context).into()
}

/// Prints what the parser has to say. Help and version come this way as well, with code 0.
fn said(error: &clap::Error) -> Exit {
    // Nobody may be reading.
    drop(error.print());
    if error.exit_code() == 0 {
        Exit::Done
    } else {
        Exit::Usage
    }
}

/// Says what went wrong.
fn finish(ended: Result<Exit, CliError>, context: &Context) -> Exit {
    let error = match ended {
        Ok(exit) => return exit,
        Err(error) => error,
    };
    let message = error.to_string();
    match &error {
        CliError::OutputClosed => {}
        CliError::BrokenOff | CliError::Interrupted => context.printer.note(&message),
        CliError::Failed { details, next, .. } => {
            context.printer.error(&message, details, next.as_deref());
        }
    }
    error.exit()
}

fn run(command: Command, context: &Context) -> Result<Exit, CliError> {
    // The daemon makes a runtime of its own, with threads.
    let command = match command {
        Command::Fg(args) => return commands::fg::run(&args, context),
        Command::Start(args) if args.foreground => {
            return commands::fg::run(&args.for_foreground(), context);
        }
        // Each of its lines makes its own.
        Command::Shell(args) => return commands::shell::run(&args, context),
        other => other,
    };
    in_runtime(dispatch(command, context), context)
}

/// Does it, unless it is broken off.
fn in_runtime(
    command: impl Future<Output = Result<Exit, CliError>>,
    context: &Context,
) -> Result<Exit, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::new(format!("could not start: {error}")))?;
    runtime.block_on(async {
        let unclaimed = context.unclaimed_interrupt();
        // Both may be dropped: a command that must not be broken off claims Ctrl-C.
        tokio::select! {
            ended = command => ended,
            () = unclaimed => Err(CliError::Interrupted),
        }
    })
}

async fn dispatch(command: Command, context: &Context) -> Result<Exit, CliError> {
    match command {
        Command::Init(args) => commands::init::run(args, context).await,
        Command::Update(args) => commands::update::run(&args, context).await,
        Command::Uninstall(args) => commands::uninstall::run(&args, context).await,
        Command::Recipe(args) => commands::recipe::run(args, context),
        Command::Start(args) => commands::start::run(&args, context).await,
        Command::Fg(args) => commands::fg::run(&args, context),
        Command::Stop(args) => commands::stop::run(&args, context).await,
        Command::Restart(args) => commands::restart::run(&args, context).await,
        Command::Kill(args) => commands::kill::run(&args, context),
        Command::Wait(args) => commands::wait::run(&args, context).await,
        Command::Reload(args) => commands::reload::run(&args, context).await,
        Command::Reopen(args) => commands::reopen::run(&args, context).await,
        Command::Status(args) => commands::status::run(&args, context).await,
        Command::Details(args) => commands::details::run(&args, context).await,
        Command::Recover(args) => commands::recover::run(args, context).await,
        Command::Disable(args) => commands::disable::run(&args, context).await,
        Command::Pack(args) => commands::pack::run(&args, context).await,
        Command::Scrub(args) => commands::scrub::run(&args, context).await,
        Command::Backup(args) => commands::backup::run(&args, context).await,
        Command::Events(args) => commands::events::run(&args, context).await,
        Command::Logtail(args) => commands::logtail::run(&args, context).await,
        Command::Show(args) => commands::show::run(&args, context).await,
        Command::Inspect(args) => commands::inspect::run(args, context).await,
        Command::CheckConfig(args) => commands::check_config::run(&args, context),
        Command::Import(args) => commands::import::run(&args, context),
        Command::Shell(args) => commands::shell::run(&args, context),
        Command::Completions(args) => commands::completions::run(&args, context),
        Command::Man(args) => commands::man::run(&args, context),
    }
}
