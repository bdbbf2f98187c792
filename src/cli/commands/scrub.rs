//! `scrub`: compares what the members hold, while clients go on.

use clap::Args;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::following::{Followed, Kind};
use super::recover::parse_rate;
use crate::admin::api::{
    Job, JobKind, JobMemberState, JobState, Problem, RateLimit, ScrubDifference, ScrubRequest,
    ScrubResult, ScrubWhat,
};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::table::{Row, columns, wrap};
use crate::cli::output::{Paint, Screen, View, escape, format};

/// Compare what the members hold
///
/// Every transaction of every optimal member, up to the last one at the beginning: what it says of
/// itself, its objects, their data, and the files of blobs. Clients go on; nothing is changed, and nobody
/// is taken out. What packing removed from some is no difference. The scrub runs in the daemon: Ctrl-C asks
/// whether to leave it running or to cancel it. Nothing is packed meanwhile.
///
/// What one member cannot read does not end it: it goes on behind that, and says which transaction and
/// object it is. `details` and `status` tell of what the last scrub found until a later one finds nothing,
/// or the member that was wrong is recovered with --rebuild or --verify.
///
/// The exit code is 1 where members differ, or one could not be read as a whole.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  zeoraidctl scrub
  zeoraidctl scrub --rate 20MiB/s --detach
  zeoraidctl scrub --attach
  zeoraidctl scrub --cancel")]
pub struct ScrubArgs {
    /// Compare at most so much: 50MiB/s, 1000tx/s, both with a comma between, or none
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    rate: Option<RateLimit>,

    /// Start it and do not wait for its end
    #[arg(short, long)]
    detach: bool,

    /// Come back to the scrub that runs, or see what the last one found
    #[arg(long, conflicts_with_all = ["rate", "detach"])]
    attach: bool,

    /// Cancel the scrub that runs
    #[arg(long, conflicts_with_all = ["rate", "detach", "attach"])]
    cancel: bool,
}

const SCRUB: Kind = Kind {
    of: JobKind::Scrub,
    name: "the scrub",
    command: "zeoraidctl scrub",
};

pub async fn run(args: &ScrubArgs, context: &Context) -> Result<Exit, CliError> {
    let api = context.api()?;
    let array = context.array(&*api).await?.name;
    let job = if args.cancel {
        found(SCRUB.running(&*api, &array).await?, &array)?
    } else if args.attach {
        found(SCRUB.last(&*api, &array).await?, &array)?
    } else {
        let rate = args.rate.unwrap_or_default();
        api.scrub(&array, ScrubRequest { rate }).await?
    };
    if args.cancel {
        let job = api.cancel_job(&job.id).await?;
        say_cancelled(&job, context);
        context.printer.print_for_programs(&job)?;
        return Ok(Exit::Done);
    }
    if args.detach {
        context.printer.success(&format!(
            "{} is being scrubbed; come back with `zeoraidctl scrub --attach`",
            escape(&array)
        ));
        context.printer.print_for_programs(&job)?;
        return Ok(Exit::Done);
    }
    match SCRUB.follow(&*api, job, context).await? {
        Followed::Ended(job) => summary(*job, context),
        Followed::Left => Ok(Exit::Done),
        Followed::Cancelled(job) => {
            say_cancelled(&job, context);
            Ok(Exit::Failed)
        }
    }
}

fn found(job: Option<Job>, array: &str) -> Result<Job, CliError> {
    job.ok_or_else(|| {
        CliError::from(Problem::conflict(format!("{array} is not being scrubbed")))
            .with_next("zeoraidctl scrub")
    })
}

fn say_cancelled(job: &Job, context: &Context) {
    context
        .printer
        .success(&format!("the scrub of {} is cancelled", escape(&job.array)));
}

fn summary(job: Job, context: &Context) -> Result<Exit, CliError> {
    let printer = &context.printer;
    let array = escape(&job.array).into_owned();
    let Some(found) = &job.scrub else {
        printer.print_for_programs(&job)?;
        return Err(match (job.state, job.problem) {
            (_, Some(problem)) => problem.into(),
            (JobState::Cancelled, None) => {
                CliError::new(format!("the scrub of {array} was cancelled"))
                    .with_next("zeoraidctl scrub")
            }
            (_, None) => CliError::new(format!("{array} could not be scrubbed")),
        });
    };
    let whole = |state| state == JobMemberState::Done;
    let all_read = job.members.iter().all(|member| whole(member.state));
    let exit = if found.differences == 0 && all_read {
        Exit::Done
    } else {
        Exit::Failed
    };
    printer.print(&ScrubbedView {
        zone: context.clock.zone.clone(),
        job,
    })?;
    Ok(exit)
}

#[derive(Serialize)]
#[serde(transparent)]
struct ScrubbedView {
    #[serde(skip)]
    zone: TimeZone,
    job: Job,
}

impl View for ScrubbedView {
    fn table(&self, screen: &Screen) -> String {
        let Some(found) = &self.job.scrub else {
            return String::new();
        };
        let style = screen.style;
        let names = self.job.members.iter().map(|member| escape(&member.name));
        let names: Vec<_> = names.collect();
        let left_out = self.job.members.iter();
        let left_out = left_out.filter(|member| member.state != JobMemberState::Done);
        let left_out: Vec<_> = left_out.map(|member| escape(&member.name)).collect();
        let (sign, verdict) = match found.differences {
            0 if !left_out.is_empty() => (
                style.paint(Paint::Bad, "✖"),
                format!(
                    "no differences, but not read as a whole: {}",
                    left_out.join(", ")
                ),
            ),
            0 => (style.paint(Paint::Good, "✔"), "no differences".to_owned()),
            many => (
                style.paint(Paint::Bad, "✖"),
                format::counted(many, "difference"),
            ),
        };
        let mut text = format!("{sign} {}: {verdict}\n", names.join(", "));
        for line in wrap(&self.compared(found), screen.width.saturating_sub(2)) {
            text += &format!("  {line}\n");
        }
        for member in &self.job.members {
            if let Some(reason) = &member.reason {
                let line = format!("{}: {}", escape(&member.name), escape(reason));
                for line in wrap(&line, screen.width.saturating_sub(2)) {
                    text += &format!("  {line}\n");
                }
            }
        }
        if !found.listed.is_empty() {
            let rows = found.listed.iter().map(|one| self.row(one)).collect();
            let headings = ["TRANSACTION", "OBJECT", "WHAT", "WHO HOLDS THE SAME"];
            text.push('\n');
            text += &columns(&headings, rows, [3, 1], screen.width, style);
            let more = found.differences - found.listed.len() as u64;
            if more > 0 {
                text += &format!("  and {} more\n", format::count(more));
            }
        }
        if !found.next.is_empty() {
            text.push('\n');
        }
        for next in &found.next {
            let word = style.paint(Paint::Strong, "Next:");
            let lines = wrap(&escape(next), screen.width.saturating_sub(6));
            text += &format!("{word} {}\n", lines.join("\n      "));
        }
        text
    }
}

impl ScrubbedView {
    /// `1 402 transactions and 3 blobs compared, up to …`.
    fn compared(&self, found: &ScrubResult) -> String {
        let blobs = match found.blobs {
            0 => String::new(),
            many => format!(" and {}", format::counted(many, "blob")),
        };
        let up_to = match found.head.time {
            Some(time) if found.transactions > 0 => {
                format!(", up to {}", format::time(time, &self.zone))
            }
            _ => String::new(),
        };
        let transactions = format::counted(found.transactions, "transaction");
        format!("{transactions}{blobs} compared{up_to}")
    }

    fn row(&self, one: &ScrubDifference) -> Row {
        let what = match one.what {
            ScrubWhat::Missing => "missing",
            ScrubWhat::Metadata => "metadata",
            ScrubWhat::Record => "record",
            ScrubWhat::Blob => "blob",
            ScrubWhat::Unreadable => "unreadable",
        };
        let groups = one.groups.iter().map(|group| {
            let names: Vec<_> = group.iter().map(|name| escape(name)).collect();
            names.join(", ")
        });
        let groups: Vec<String> = groups.collect();
        let below = one
            .transaction
            .time
            .map(|time| format::time(time, &self.zone));
        Row {
            cells: vec![
                escape(&one.transaction.tid).into_owned(),
                one.oid.as_deref().map_or("-".into(), escape).into_owned(),
                what.to_owned(),
                groups.join(" | "),
            ],
            below: below.into_iter().collect(),
        }
    }
}
