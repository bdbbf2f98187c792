//! `events`: what happens in the daemon, as it happens.

use clap::Args;
use futures_util::StreamExt as _;
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::admin::api::{Event, Level};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::table::wrap;
use crate::cli::output::{Format, Paint, Screen, View, escape, format};

/// Show what happens in the daemon, until Ctrl-C
///
/// State changes, recoveries, disagreements of members. With `-o json` one document in a line.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  zeoraidctl events
  zeoraidctl events --since 0 -o json")]
pub struct EventsArgs {
    /// First those after the event with this number, as far as they are remembered (0: all)
    #[arg(long, value_name = "NUMBER")]
    since: Option<u64>,
}

pub async fn run(args: &EventsArgs, context: &Context) -> Result<Exit, CliError> {
    context.until_ctrl_c(show(args, context)).await
}

async fn show(args: &EventsArgs, context: &Context) -> Result<Exit, CliError> {
    let mut events = context.api()?.events(args.since).await?;
    while let Some(event) = events.next().await {
        let event = event?;
        if let Some(array) = &context.global.array
            && event.array.as_ref().is_some_and(|other| other != array)
        {
            continue;
        }
        match context.printer.format {
            Format::Json => {
                let zone = context.clock.zone.clone();
                let line = context.printer.streamed(&EventView { event, zone })?;
                context.printer.write(&line)?;
            }
            Format::Yaml => context.printer.print(&vec_of(event, context))?,
            Format::Table => context.printer.print(&EventView {
                event,
                zone: context.clock.zone.clone(),
            })?,
        }
    }
    context.printer.note("the daemon has ended");
    Ok(Exit::Done)
}

/// In YAML a list of one, so that the stream is one list.
fn vec_of(event: Event, context: &Context) -> ListView {
    ListView([EventView {
        event,
        zone: context.clock.zone.clone(),
    }])
}

#[derive(Serialize)]
#[serde(transparent)]
struct ListView([EventView; 1]);

impl View for ListView {
    fn table(&self, screen: &Screen) -> String {
        self.0[0].table(screen)
    }
}

#[derive(Serialize)]
struct EventView {
    #[serde(flatten)]
    event: Event,
    #[serde(skip)]
    zone: TimeZone,
}

impl View for EventView {
    fn table(&self, screen: &Screen) -> String {
        let Event {
            id,
            time,
            level,
            array,
            message,
            ..
        } = &self.event;
        let (paint, word) = match level {
            Level::Info => (Paint::Good, "info"),
            Level::Warning => (Paint::Warning, "warning"),
            Level::Error => (Paint::Bad, "error"),
        };
        let word = screen.style.paint(paint, &format!("{word:<7}"));
        let of = array.as_ref().map(|array| format!("{}: ", escape(array)));
        let line = format!(
            "{id:>6}  {}  {word}  {}{}",
            format::time(*time, &self.zone),
            of.unwrap_or_default(),
            escape(message)
        );
        if screen.terminal {
            // What goes on stands below the time.
            let lines = wrap(&line, screen.width.saturating_sub(8)).join("\n        ");
            let before = line.len() - line.trim_start().len();
            return format!("{:before$}{lines}\n", "");
        }
        format!("{line}\n")
    }
}
