//! `inspect`: looks into a `Data.fs`, with no daemon.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use tokio::sync::oneshot;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::table::{Row, columns, wrap};
use crate::cli::output::{Paint, Screen, View, escape, format};
use crate::cli::progress::{self, Step};
use crate::storage::file::inspect::{
    Checked, Contents, IndexState, Inspection, Listed, usual_blob_folder,
};
use crate::zodb::{Tid, TxnStatus};

/// Look into a Data.fs, without a daemon
///
/// Says what is in it, how it ends, and whether the index beside it is good. Nothing is written and no
/// lock is taken: it may be done while a daemon or Python has the file open, and is about the file as
/// long as it is at the beginning.
///
/// --check reads all of it: lengths, headers, the order of transactions, the pointers between records,
/// the index, and the files of blobs. The exit code is 1 where there is a mistake. The format has no
/// checksums: data that was changed in place is found by `scrub`, which compares copies.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  zeoraidctl inspect var/copy1/Data.fs
  zeoraidctl inspect Data.fs --transactions      the last 20
  zeoraidctl inspect Data.fs --transactions 500 -o json
  zeoraidctl inspect Data.fs --check --blobs /srv/plone/var/blobstorage")]
pub struct InspectArgs {
    /// The Data.fs
    file: PathBuf,

    /// List the last transactions
    #[arg(short, long, value_name = "N", num_args = 0..=1, default_missing_value = "20")]
    transactions: Option<usize>,

    /// Read everything, and say of each mistake where it is
    #[arg(long, conflicts_with = "transactions")]
    check: bool,

    /// The folder of its blobs [default: `blobs` or `blobstorage` beside it]
    #[arg(long, value_name = "DIR")]
    blobs: Option<PathBuf>,
}

pub async fn run(args: InspectArgs, context: &Context) -> Result<Exit, CliError> {
    let path = args.file.clone();
    let blobs = args.blobs.or_else(|| usual_blob_folder(&path));
    let opened = Inspection::open(&path, blobs.as_deref());
    let inspection = Arc::new(opened.map_err(|error| could_not(&path, &error, args.check))?);
    let zone = context.clock.zone.clone();
    if let Some(count) = args.transactions {
        // Without an index the whole file is read, to find where it ends.
        let listed = read(&inspection, "read", &path, context, move |file, reached| {
            file.last_transactions(count, reached)
        });
        let listed = listed
            .await?
            .map_err(|error| could_not(&path, &error, false))?;
        let transactions = listed.into_iter().map(TransactionView::from).collect();
        context
            .printer
            .print(&TransactionsView { zone, transactions })?;
        return Ok(Exit::Done);
    }
    let (check, phase) = (args.check, if args.check { "check" } else { "read" });
    let found = read(&inspection, phase, &path, context, move |file, reached| {
        file.read(check, reached)
    });
    let found = found
        .await?
        .map_err(|error| could_not(&path, &error, check))?;
    let view = FileView::of(&path, &inspection, found, zone);
    let exit = match &view.check {
        Some(check) if check.mistake_count > 0 => Exit::Failed,
        _ => Exit::Done,
    };
    context.printer.print(&view)?;
    Ok(exit)
}

fn could_not(path: &Path, error: &dyn std::fmt::Display, checked: bool) -> CliError {
    let failed = CliError::new(format!("could not look into {}: {error}", path.display()));
    // Where it begins as a Data.fs, a check says more.
    let text = error.to_string();
    if !checked && text.starts_with("damaged") && !text.contains("not a Data.fs") {
        let path = path.display();
        return failed.with_next(format!("zeoraidctl inspect {path} --check"));
    }
    failed
}

/// Does what waits for the disk on a thread of its own: after Ctrl-C nobody waits for its end.
async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, CliError> {
    let (done, answer) = oneshot::channel();
    let thread = std::thread::Builder::new().name("inspect".to_owned());
    let started = thread.spawn(move || drop(done.send(work())));
    started.map_err(|error| CliError::new(format!("could not start a thread: {error}")))?;
    let ended = |_| CliError::new("the thread that reads has ended");
    answer.await.map_err(ended)
}

/// Tells how far it is, in bytes.
type Reached<'a> = &'a mut dyn FnMut(u64);

/// Reads it on a thread, with a bar.
async fn read<T: Send + 'static>(
    inspection: &Arc<Inspection>,
    phase: &str,
    path: &Path,
    context: &Context,
    work: impl FnOnce(&Inspection, Reached<'_>) -> T + Send + 'static,
) -> Result<T, CliError> {
    /// What is read sooner needs no bar.
    const LOOK_EVERY: Duration = Duration::from_millis(200);
    let reached = Arc::new(AtomicU64::new(0));
    let (file, at) = (Arc::clone(inspection), Arc::clone(&reached));
    let mut reading = std::pin::pin!(on_a_thread(move || {
        work(&file, &mut |position| at.store(position, Ordering::Relaxed))
    }));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut display = progress::display(&context.printer, "");
    let found = loop {
        // Either may be dropped: the thread goes on, and a sleep holds nothing.
        tokio::select! {
            found = &mut reading => break found,
            () = tokio::time::sleep(LOOK_EVERY) => {
                let done = reached.load(Ordering::Relaxed);
                display.show(&Step::of_bytes(&name, phase, done, inspection.bytes()));
            }
        }
    };
    display.end(false);
    found
}

#[derive(Serialize)]
struct FileView {
    #[serde(skip)]
    zone: TimeZone,
    file: String,
    bytes: u64,
    made_by: &'static str,
    transactions: u64,
    packed_transactions: u64,
    records: u64,
    objects: u64,
    first: Option<Moment>,
    last: Option<Moment>,
    end: EndView,
    index: IndexView,
    blobs: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    check: Option<CheckView>,
}

/// A transaction and its time.
#[derive(Serialize)]
struct Moment {
    tid: String,
    time: Option<Timestamp>,
}

impl From<Tid> for Moment {
    fn from(tid: Tid) -> Self {
        Moment {
            tid: tid.to_string(),
            time: tid.time(),
        }
    }
}

#[derive(Serialize)]
struct EndView {
    /// Where what is finished ends.
    position: u64,
    /// Behind it.
    bytes: u64,
    /// What that is.
    reason: Option<String>,
}

#[derive(Serialize)]
struct IndexView {
    /// `missing`, `valid`, `unusable`.
    state: &'static str,
    /// How much came after it was saved.
    behind_bytes: Option<u64>,
    reason: Option<String>,
}

#[derive(Serialize)]
struct CheckView {
    current_bytes: u64,
    old_bytes: u64,
    blob_records: u64,
    mistake_count: u64,
    mistakes: Vec<MistakeView>,
}

#[derive(Serialize)]
struct MistakeView {
    position: u64,
    what: String,
}

impl From<Checked> for CheckView {
    fn from(checked: Checked) -> Self {
        let mistakes = checked.mistakes.into_iter();
        let mistake = |one: crate::storage::file::inspect::Mistake| MistakeView {
            position: one.at,
            what: one.what,
        };
        CheckView {
            current_bytes: checked.current_bytes,
            old_bytes: checked.old_bytes,
            blob_records: checked.blobs,
            mistake_count: checked.mistake_count,
            mistakes: mistakes.map(mistake).collect(),
        }
    }
}

impl FileView {
    fn of(path: &Path, inspection: &Inspection, found: Contents, zone: TimeZone) -> Self {
        let (state, behind_bytes, reason) = match found.index {
            IndexState::Missing => ("missing", None, None),
            IndexState::Valid { behind } => ("valid", Some(behind), None),
            IndexState::Unusable { reason } => ("unusable", None, Some(reason)),
        };
        FileView {
            zone,
            file: path.display().to_string(),
            bytes: inspection.bytes(),
            made_by: inspection.made_by(),
            transactions: found.transactions,
            packed_transactions: found.packed,
            records: found.records,
            objects: found.objects,
            first: found.first.map(Moment::from),
            last: found.last.map(Moment::from),
            end: EndView {
                position: found.end,
                bytes: inspection.bytes().saturating_sub(found.end),
                reason: found.rest,
            },
            index: IndexView {
                state,
                behind_bytes,
                reason,
            },
            blobs: inspection.blobs().map(|path| path.display().to_string()),
            check: found.checked.map(CheckView::from),
        }
    }

    fn moment(&self, moment: Option<&Moment>) -> String {
        let Some(moment) = moment else {
            return "-".to_owned();
        };
        match moment.time {
            Some(time) => format!("{}  {}", moment.tid, format::time(time, &self.zone)),
            None => moment.tid.clone(),
        }
    }

    fn index(&self) -> String {
        let index = &self.index;
        match (index.state, index.behind_bytes, &index.reason) {
            ("valid", Some(behind), _) if behind > 0 => format!(
                "valid; {} came after it was saved, and are read at the opening",
                format::bytes(behind)
            ),
            (state, _, Some(reason)) => format!("{state}: {}", escape(reason)),
            ("missing", ..) => "missing: the whole file is read at the opening".to_owned(),
            (state, ..) => state.to_owned(),
        }
    }

    fn end(&self) -> String {
        let Some(reason) = &self.end.reason else {
            return match self.end.bytes {
                0 => "complete".to_owned(),
                _ => format!("cannot be read from {} on", self.end.position),
            };
        };
        format!(
            "{} behind the last finished transaction, from {} on: {}. It is being written now, or was left \
             by a crash; an opening sets it aside",
            format::bytes(self.end.bytes),
            self.end.position,
            escape(reason)
        )
    }
}

impl View for FileView {
    fn table(&self, screen: &Screen) -> String {
        let packed = match self.packed_transactions {
            0 => String::new(),
            some => format!(" ({} packed)", format::count(some)),
        };
        let contents = format!(
            "{}{packed}, {}, {}",
            format::counted(self.transactions, "transaction"),
            format::counted(self.records, "record"),
            format::counted(self.objects, "object"),
        );
        let size = match self.bytes {
            few @ 0..1024 => format::bytes(few),
            many => format!("{} ({} bytes)", format::bytes(many), format::count(many)),
        };
        let size = format!("{size}, of {}", self.made_by);
        let blobs = match &self.blobs {
            Some(folder) => escape(folder).into_owned(),
            None => "no folder of blobs is beside it".to_owned(),
        };
        let mut lines = vec![
            ("size", size),
            ("holds", contents),
            ("first", self.moment(self.first.as_ref())),
            ("last", self.moment(self.last.as_ref())),
            ("end", self.end()),
            ("index", self.index()),
            ("blobs", blobs),
        ];
        if let Some(check) = &self.check {
            let records = format!(
                "{} current, {} old",
                format::bytes(check.current_bytes),
                format::bytes(check.old_bytes)
            );
            lines.push(("records", records));
        }
        let mut text = format!(
            "{}\n",
            screen.style.paint(Paint::Strong, &escape(&self.file))
        );
        for (name, value) in lines {
            let wrapped = wrap(&value, screen.width.saturating_sub(11));
            text += &format!("  {name:<9}{}\n", wrapped.join("\n           "));
        }
        let Some(check) = &self.check else {
            return text;
        };
        if check.mistake_count == 0 {
            text += &format!("{} no mistakes\n", screen.style.paint(Paint::Good, "✔"));
            return text;
        }
        let mistakes = format::counted(check.mistake_count, "mistake");
        text += &format!("{} {mistakes}\n", screen.style.paint(Paint::Bad, "✖"));
        for mistake in &check.mistakes {
            let mistake = format!("at {}: {}", mistake.position, escape(&mistake.what));
            let lines = wrap(&mistake, screen.width.saturating_sub(4));
            text += &format!("  {}\n", lines.join("\n    "));
        }
        let more = check.mistake_count - check.mistakes.len() as u64;
        if more > 0 {
            text += &format!("  and {} more\n", format::count(more));
        }
        text
    }
}

#[derive(Serialize)]
#[serde(transparent)]
struct TransactionsView {
    #[serde(skip)]
    zone: TimeZone,
    transactions: Vec<TransactionView>,
}

#[derive(Serialize)]
struct TransactionView {
    position: u64,
    tid: String,
    time: Option<Timestamp>,
    status: &'static str,
    user: String,
    description: String,
    records: u64,
    bytes: u64,
}

impl From<Listed> for TransactionView {
    fn from(listed: Listed) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        TransactionView {
            position: listed.at,
            tid: listed.tid.to_string(),
            time: listed.tid.time(),
            status: match listed.status {
                TxnStatus::Normal => "normal",
                TxnStatus::Undone => "undone",
                TxnStatus::Packed => "packed",
            },
            user: text(&listed.user),
            description: text(&listed.description),
            records: listed.records,
            bytes: listed.bytes,
        }
    }
}

impl View for TransactionsView {
    fn table(&self, screen: &Screen) -> String {
        if self.transactions.is_empty() {
            return "no transaction\n".to_owned();
        }
        let row = |one: &TransactionView| {
            let said = match (one.user.as_str(), one.description.as_str()) {
                ("", said) | (said, "") => escape(said).into_owned(),
                (user, said) => format!("{}: {}", escape(user), escape(said)),
            };
            let packed = match one.status {
                "normal" => "",
                other => other,
            };
            Row {
                cells: vec![
                    one.tid.clone(),
                    one.time
                        .map_or_else(|| "-".to_owned(), |time| format::time(time, &self.zone)),
                    format::count(one.records),
                    format::bytes(one.bytes),
                    packed.to_owned(),
                ],
                below: if said.is_empty() {
                    Vec::new()
                } else {
                    vec![said]
                },
            }
        };
        let rows = self.transactions.iter().map(row).collect();
        let headings = ["TRANSACTION", "TIME", "RECORDS", "SIZE", ""];
        columns(&headings, rows, [1, 3, 2], screen.width, screen.style)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;
    use std::time::Instant;

    use super::*;
    use crate::cli::testing::Bench;

    const PATIENCE: Duration = Duration::from_mins(1);

    #[test]
    fn whoever_waits_sees_how_far_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("Data.fs");
        let mut file = b"FS21".to_vec();
        file.resize(200, 0);
        std::fs::write(&path, file).unwrap();
        let line = format!("inspect {} --transactions", path.display());
        let shown = Bench::new(Vec::new()).run_as(&line, async |_, context, shown| {
            let inspection = Arc::new(Inspection::open(&path, None).unwrap());
            let until = Instant::now() + PATIENCE;
            let (seen, is_seen) = sync_channel(1);
            // What is read is half read until that was shown.
            let reading = read(&inspection, "read", &path, context, move |_, reached| {
                reached(100);
                is_seen.recv_timeout(PATIENCE).ok();
            });
            let watching = async {
                while !shown.text().contains("Data.fs: read 50 %") && Instant::now() < until {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                seen.send(()).ok();
            };
            let (read, ()) = tokio::join!(reading, watching);
            read.map(|()| Exit::Done)
        });
        assert!(
            shown.contains("Data.fs: read 50 %, 100 B of 200 B"),
            "{shown}"
        );
    }
}
