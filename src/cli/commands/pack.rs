//! `pack`: removes old revisions and what nothing refers to, from one member after the other.

use clap::Args;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, civil};

use super::following::{Followed, Kind};
use crate::admin::api::{AdminApi, Job, JobKind, JobMemberState, JobState, PackRequest, Problem};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::escape;

/// Remove old revisions and unreachable objects
///
/// From one member after the other, while clients go on: at every moment the others answer at full
/// speed. Nothing is undone meanwhile, and no member is recovered. Members that are out are not packed.
/// The pack runs in the daemon: Ctrl-C asks whether to leave it running, or to cancel it, which lets the
/// member that is being packed finish and leaves the others out.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  zeoraidctl pack                      to now: no undo is possible afterwards
  zeoraidctl pack --days 7             keep what a week of undoing needs
  zeoraidctl pack --to 2026-11-01      keep what is needed from that day on
  zeoraidctl pack --cancel")]
pub struct PackArgs {
    /// Keep what is needed to read the database as it was so many days ago, or later
    #[arg(short, long, value_name = "N", value_parser = parse_days)]
    days: Option<f64>,

    /// Keep what is needed to read it as it was then, or later: 2026-11-01, or with a time
    #[arg(long, value_name = "DATE", conflicts_with = "days")]
    to: Option<String>,

    /// Start it and do not wait for its end
    #[arg(long)]
    detach: bool,

    /// Come back to the pack that runs
    #[arg(long, conflicts_with_all = ["days", "to", "detach"])]
    attach: bool,

    /// Cancel the pack that runs
    #[arg(long, conflicts_with_all = ["days", "to", "detach", "attach"])]
    cancel: bool,
}

pub async fn run(args: &PackArgs, context: &Context) -> Result<Exit, CliError> {
    let api = context.api()?;
    let array = context.array(&*api).await?.name;
    if args.cancel {
        let job = running(&*api, &array).await?;
        return cancel(&*api, &job, context).await;
    }
    let job = if args.attach {
        running(&*api, &array).await?
    } else {
        let to = args.time((context.clock.now)(), &context.clock.zone)?;
        api.pack(&array, PackRequest { to }).await?
    };
    if args.detach {
        context.printer.success(&format!(
            "{} is being packed; come back with `zeoraidctl pack --attach`",
            escape(&array)
        ));
        context.printer.print_for_programs(&job)?;
        return Ok(Exit::Done);
    }
    match PACK.follow(&*api, job, context).await? {
        Followed::Ended(job) => summary(*job, context),
        Followed::Left => Ok(Exit::Done),
        Followed::Cancelled(job) => {
            say_cancelled(&job, context);
            Ok(Exit::Failed)
        }
    }
}

const PACK: Kind = Kind {
    of: JobKind::Pack,
    name: "the pack",
    command: "zeoraidctl pack",
};

async fn running(api: &dyn AdminApi, array: &str) -> Result<Job, CliError> {
    let found = PACK.running(api, array).await?;
    found.ok_or_else(|| {
        CliError::from(Problem::conflict(format!("{array} is not being packed")))
            .with_next("zeoraidctl pack")
    })
}

async fn cancel(api: &dyn AdminApi, job: &Job, context: &Context) -> Result<Exit, CliError> {
    let job = api.cancel_job(&job.id).await?;
    say_cancelled(&job, context);
    context.printer.print_for_programs(&job)?;
    Ok(Exit::Done)
}

fn say_cancelled(job: &Job, context: &Context) {
    context.printer.success(&format!(
        "the pack of {} ends after the member that is being packed",
        escape(&job.array)
    ));
}

/// `✔ main is packed: zeo1, zeo2`, and who was left out, with the reason.
fn summary(job: Job, context: &Context) -> Result<Exit, CliError> {
    let printer = &context.printer;
    let array = escape(&job.array).into_owned();
    let packed: Vec<_> = job
        .members
        .iter()
        .filter(|member| member.state == JobMemberState::Done)
        .map(|member| escape(&member.name))
        .collect();
    if !packed.is_empty() {
        printer.success(&format!("{array} is packed: {}", packed.join(", ")));
    }
    let mut left_out = false;
    for member in &job.members {
        if member.state == JobMemberState::Done {
            continue;
        }
        left_out = true;
        // Where none was packed, the problem names each with its reason.
        if job.problem.is_some() {
            continue;
        }
        let reason = member.reason.as_deref().unwrap_or("the pack was cancelled");
        printer.warning(&format!(
            "{} was not packed: {}",
            escape(&member.name),
            escape(reason)
        ));
    }
    let problem = job.problem.clone();
    let state = job.state;
    printer.print_for_programs(&job)?;
    match (state, problem) {
        (JobState::Done, _) if !left_out => Ok(Exit::Done),
        (JobState::Done | JobState::Running, _) => Ok(Exit::Failed),
        (JobState::Cancelled, _) => {
            Err(CliError::new(format!("the pack of {array} was cancelled"))
                .with_next("zeoraidctl pack"))
        }
        (JobState::Failed, Some(problem)) => Err(problem.into()),
        (JobState::Failed, None) => Err(CliError::new(format!("{array} could not be packed"))),
    }
}

impl PackArgs {
    /// None is the daemon's now.
    fn time(&self, now: Timestamp, zone: &TimeZone) -> Result<Option<Timestamp>, CliError> {
        if let Some(days) = self.days {
            let back = SignedDuration::try_from_secs_f64(days * 86_400.0).ok();
            let to = back.and_then(|back| now.checked_sub(back).ok());
            return to
                .map(Some)
                .ok_or_else(|| CliError::usage(format!("{days} days ago is before all time")));
        }
        let Some(text) = &self.to else {
            return Ok(None);
        };
        let to = parse_time(text, zone).ok_or_else(|| {
            CliError::usage(format!(
                "`{text}` is no date; write it like 2026-11-01, 2026-11-01T04:30 or 2026-11-01T04:30:00Z"
            ))
        })?;
        if to > now {
            return Err(CliError::usage(format!("{text} is still to come")));
        }
        Ok(Some(to))
    }
}

/// A moment with its zone, or a day or a moment as clocks here show it.
fn parse_time(text: &str, zone: &TimeZone) -> Option<Timestamp> {
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Some(moment);
    }
    let local = text.parse::<civil::DateTime>().ok()?;
    zone.to_ambiguous_timestamp(local).compatible().ok()
}

fn parse_days(text: &str) -> Result<f64, String> {
    let days = text.parse::<f64>().ok();
    days.filter(|days| days.is_finite() && *days >= 0.0)
        .ok_or_else(|| "a number of days is expected, like 7 or 0.5".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_number_of_days_or_a_date() {
        let now: Timestamp = "2026-11-20T12:00:00Z".parse().unwrap();
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        let check = |days: Option<f64>, to: Option<&str>, expected: &str| {
            let args = PackArgs {
                days,
                to: to.map(str::to_owned),
                detach: false,
                attach: false,
                cancel: false,
            };
            let found = match args.time(now, &zone) {
                Ok(Some(time)) => time.to_string(),
                Ok(None) => "now".to_owned(),
                Err(error) => error.to_string(),
            };
            assert!(found.contains(expected), "{days:?} {to:?}: {found}");
        };
        check(None, None, "now");
        check(Some(0.5), None, "2026-11-20T00:00:00Z");
        check(Some(1e12), None, "before all time");
        check(None, Some("2026-11-01"), "2026-10-31T23:00:00Z");
        check(None, Some("2026-11-01T04:30"), "2026-11-01T03:30:00Z");
        check(None, Some("2026-11-01T04:30:00Z"), "2026-11-01T04:30:00Z");
        check(None, Some("2027-01-01"), "still to come");
        check(None, Some("yesterday"), "no date");
        assert!(parse_days("-1").is_err() && parse_days("week").is_err());
    }
}
