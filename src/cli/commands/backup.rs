//! `backup`: a consistent copy of an array in a folder, while clients go on.

use std::path::{Path, PathBuf};

use clap::Args;

use super::following::{Followed, Kind};
use super::recover::parse_rate;
use crate::admin::api::{BackupRequest, BackupResult, Job, JobKind, JobState, Problem, RateLimit};
use crate::cli::context::{Context, here};
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{escape, format};

/// Copy an array into a folder while it serves
///
/// The array as it is at the beginning: `Data.fs`, its index, and the files of blobs in `blobs`. An optimal
/// member that is a file of the daemon's is copied, the copy is read to its end, and the folder gets its
/// name when all of it is durable: what was broken off is removed, and never taken for a backup. The
/// folder is made by the daemon, on its machine and as its user. Blobs on the same disk get a second name
/// there instead of a copy; nothing writes to them again. Nothing is packed meanwhile.
///
/// ZODB opens the copy as any other `Data.fs`; `init --set adopt=DIR/Data.fs` makes an array of it. The backup runs in
/// the daemon: Ctrl-C asks whether to leave it running or to cancel it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  zeoraidctl backup /backup/monday
  zeoraidctl backup /backup/latest --replace   in the place of the one before
  zeoraidctl backup /backup/monday --rate 50MiB/s --detach
  zeoraidctl backup --attach
  zeoraidctl backup --cancel")]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag that people type"
)]
pub struct BackupArgs {
    /// A new folder, or an empty one, on the daemon's machine
    #[arg(value_name = "DIR", required_unless_present_any = ["attach", "cancel"])]
    folder: Option<PathBuf>,

    /// Replace the backup that is in the folder when the new one is complete
    #[arg(long)]
    replace: bool,

    /// Read at most so fast: 50MiB/s, or none
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    rate: Option<RateLimit>,

    /// Start it and do not wait for its end
    #[arg(short, long)]
    detach: bool,

    /// Come back to the backup that runs, or see what became of the last one
    #[arg(long, conflicts_with_all = ["folder", "replace", "rate", "detach"])]
    attach: bool,

    /// Cancel the backup that runs, and remove what there is of it
    #[arg(long, conflicts_with_all = ["folder", "replace", "rate", "detach", "attach"])]
    cancel: bool,
}

const BACKUP: Kind = Kind {
    of: JobKind::Backup,
    name: "the backup",
    command: "zeoraidctl backup",
};

pub async fn run(args: &BackupArgs, context: &Context) -> Result<Exit, CliError> {
    let api = context.api()?;
    let array = context.array(&*api).await?.name;
    let job = match &args.folder {
        Some(folder) => {
            let request = BackupRequest {
                folder: absolute(folder, context)?,
                replace: args.replace,
                rate: args.rate.unwrap_or_default(),
            };
            api.back_up(&array, request).await?
        }
        None if args.cancel => found(BACKUP.running(&*api, &array).await?, &array)?,
        None => found(BACKUP.last(&*api, &array).await?, &array)?,
    };
    if args.cancel {
        let job = api.cancel_job(&job.id).await?;
        say_cancelled(&job, context);
        context.printer.print_for_programs(&job)?;
        return Ok(Exit::Done);
    }
    if args.detach {
        context.printer.success(&format!(
            "{} is being backed up; come back with `zeoraidctl backup --attach`",
            escape(&array)
        ));
        context.printer.print_for_programs(&job)?;
        return Ok(Exit::Done);
    }
    match BACKUP.follow(&*api, job, context).await? {
        Followed::Ended(job) => summary(*job, context),
        Followed::Left => Ok(Exit::Done),
        Followed::Cancelled(job) => {
            say_cancelled(&job, context);
            Ok(Exit::Failed)
        }
    }
}

/// The folder as the daemon can find it: it does not know where we are.
fn absolute(folder: &Path, context: &Context) -> Result<String, CliError> {
    let elsewhere = context.global.admin.as_deref();
    let elsewhere = elsewhere.filter(|admin| !admin.starts_with("unix:"));
    if let (Some(admin), true) = (elsewhere, folder.is_relative()) {
        return Err(CliError::usage(format!(
            "`{}` is a folder of this machine; the backup is made on that of the daemon at {admin}",
            folder.display()
        ))
        .with_next("name the folder there from `/` on"));
    }
    let folder = if folder.is_relative() {
        here()?.join(folder)
    } else {
        folder.to_owned()
    };
    // `.` and what is like it mean nothing elsewhere; `..` may lead through a link, and is left.
    let folder: PathBuf = folder.components().collect();
    let text = folder.to_str().map(str::to_owned);
    text.ok_or_else(|| {
        CliError::usage(format!(
            "`{}` is not UTF-8, in which a folder's name is told to the daemon",
            folder.display()
        ))
    })
}

fn found(job: Option<Job>, array: &str) -> Result<Job, CliError> {
    job.ok_or_else(|| {
        CliError::from(Problem::conflict(format!("{array} is not being backed up")))
            .with_next("zeoraidctl backup DIR")
    })
}

fn say_cancelled(job: &Job, context: &Context) {
    context.printer.success(&format!(
        "the backup of {} is cancelled; what there was of it is removed",
        escape(&job.array)
    ));
}

/// `✔ main is backed up in /backup/monday, as of …`, and what is in it.
fn summary(job: Job, context: &Context) -> Result<Exit, CliError> {
    let printer = &context.printer;
    let array = escape(&job.array).into_owned();
    if let Some(done) = &job.backup {
        let folder = escape(&done.folder);
        let as_of = match done.last.as_ref().map(|last| last.time) {
            Some(Some(time)) => format!(", as of {}", format::time(time, &context.clock.zone)),
            Some(None) => String::new(),
            None => "; it is empty: nothing was ever committed".to_owned(),
        };
        printer.success(&format!("{array} is backed up in {folder}{as_of}"));
        printer.note(&format!("  {}", amounts(done)));
        if done.blobs_missing > 0 {
            printer.warning(&format!(
                "the files of {} are missing in the array, and so in the backup",
                format::counted(done.blobs_missing, "blob")
            ));
        }
    }
    let (state, problem) = (job.state, job.problem.clone());
    printer.print_for_programs(&job)?;
    match (state, problem) {
        (JobState::Done, _) => Ok(Exit::Done),
        (_, Some(problem)) => Err(problem.into()),
        (JobState::Cancelled, None) => Err(CliError::new(format!(
            "the backup of {array} was cancelled"
        ))
        .with_next("zeoraidctl backup DIR")),
        (_, None) => Err(CliError::new(format!("{array} could not be backed up"))),
    }
}

/// `1 402 transactions, 31 MiB, 200 objects; 3 blobs, 1.2 MiB`.
fn amounts(done: &BackupResult) -> String {
    let mut text = format!(
        "{}, {}, {}",
        format::counted(done.transactions, "transaction"),
        format::counted(done.objects, "object"),
        format::bytes(done.bytes),
    );
    if done.blobs > 0 {
        text += &format!(
            "; {}, {}",
            format::counted(done.blobs, "blob"),
            format::bytes(done.blob_bytes)
        );
    }
    text
}
