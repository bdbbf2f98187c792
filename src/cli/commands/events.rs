//! `events`: what has happened in the daemon, and what happens.

use std::collections::VecDeque;

use clap::Args;
use futures_util::StreamExt as _;
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::admin::api::{Event, Events, Level};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::table::wrap;
use crate::cli::output::{Format, Paint, Screen, View, escape, format};

/// Show what has happened in the daemon, and what happens
///
/// State changes, recoveries, disagreements of members: the last thousand since the daemon started, which the log has as
/// well. With `-o json` one document in a line.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  zeoraidctl events
  zeoraidctl events -n 20 -f
  zeoraidctl events --since 1764500000123 -f -o json")]
pub struct EventsArgs {
    /// How many of the last ones [default: all that are remembered]
    #[arg(short = 'n', long, value_name = "NUMBER")]
    lines: Option<usize>,

    /// Go on with what happens, until Ctrl-C
    #[arg(short, long)]
    follow: bool,

    /// Only those after the event with this number
    #[arg(long, value_name = "NUMBER")]
    since: Option<u64>,
}

pub async fn run(args: &EventsArgs, context: &Context) -> Result<Exit, CliError> {
    context.until_ctrl_c(show(args, context)).await
}

async fn show(args: &EventsArgs, context: &Context) -> Result<Exit, CliError> {
    let mut last = args.since.unwrap_or(0);
    // As many as the daemon remembers: it is a bounded log.
    let mut kept = VecDeque::new();
    let mut events = context.api()?.events(Events::Kept { after: last }).await?;
    while let Some(event) = events.next().await {
        let event = event?;
        last = event.id;
        if !is_meant(&event, context) {
            continue;
        }
        kept.push_back(event);
        if args.lines.is_some_and(|lines| kept.len() > lines) {
            kept.pop_front();
        }
    }
    if kept.is_empty() && !args.follow {
        context.printer.note("no event is remembered");
    }
    for event in kept {
        print(event, context)?;
    }
    if !args.follow {
        return Ok(Exit::Done);
    }
    let after = Some(last);
    let mut events = context.api()?.events(Events::Follow { after }).await?;
    while let Some(event) = events.next().await {
        let event = event?;
        if is_meant(&event, context) {
            print(event, context)?;
        }
    }
    context.printer.note("the daemon has ended");
    Ok(Exit::Done)
}

/// Whether it is of the array that was named, or of the daemon as a whole.
fn is_meant(event: &Event, context: &Context) -> bool {
    match (&context.global.array, &event.array) {
        (Some(named), Some(array)) => named == array,
        _ => true,
    }
}

fn print(event: Event, context: &Context) -> Result<(), CliError> {
    let zone = context.clock.zone.clone();
    let view = EventView { event, zone };
    match context.printer.format {
        Format::Json => context.printer.write(&context.printer.streamed(&view)?)?,
        Format::Yaml => context.printer.print(&ListView([view]))?,
        Format::Table => context.printer.print(&view)?,
    }
    Ok(())
}

/// In YAML a list of one, so that the stream is one list.
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
