//! Side by side with Python's `runzeo`: both servers run at the same time, rounds alternate between
//! them, and medians are shown. Commits are durable on both sides.
//!
//! `cargo bench --bench compare` (all of it, some minutes), `cargo bench --bench compare -- --quick`.
//! It needs a Python with ZEO: `ZEORAID_PYTHON`, or `.venv` in the repository.
#![expect(clippy::print_stdout, reason = "a report is printed")]
#![expect(clippy::print_stderr, reason = "who waits is told how far it is")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

mod commits;
mod loads;
mod measure;
mod members;
mod peer;
mod python;
mod report;
mod serve;
mod sides;
mod zeo_recovery;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use measure::{Figures, Round};
use report::{Line, Report};
use sides::Side;

#[derive(Parser)]
#[command(about = "Compares this server with Python's runzeo, in one run")]
struct Options {
    #[command(subcommand)]
    command: Option<Command>,
    /// Short rounds, and few: the figures are rough.
    #[arg(long)]
    quick: bool,
    /// Only these (may be repeated).
    #[arg(long)]
    only: Vec<Part>,
    /// Only lines that contain this (may be repeated; one is enough).
    #[arg(long)]
    filter: Vec<String>,
    /// Rounds for each server.
    #[arg(long)]
    rounds: Option<usize>,
    /// The length of a round in seconds.
    #[arg(long)]
    seconds: Option<f64>,
    /// What is compared with runzeo.
    #[arg(long, default_value = "daemon")]
    ours: Ours,
    /// Where the databases are made; they are removed afterwards. Commits are as fast as this disk.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Where the figures go as JSON.
    #[arg(long, default_value = "target/compare.json")]
    json: PathBuf,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Serves one storage without a daemon around it, until its standard input ends.
    Serve(serve::Options),
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Loads,
    Commits,
    Python,
    /// Arrays of one, two and three `runzeo`.
    ZeoMembers,
    /// Recovery between two `runzeo`.
    ZeoRecovery,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Ours {
    /// The daemon with an array of two files.
    Daemon,
    /// The front end over a storage in memory: what the protocol costs.
    BareMemory,
    /// The front end over one file.
    BareFile,
}

impl Ours {
    fn start(self, folder: &std::path::Path) -> anyhow::Result<Side> {
        match self {
            Ours::Daemon => Side::daemon(folder),
            Ours::BareMemory => Side::bare(folder, "memory"),
            Ours::BareFile => Side::bare(folder, "file"),
        }
    }
}

/// How much is measured.
struct Plan {
    folder: PathBuf,
    parts: Vec<Part>,
    filter: Vec<String>,
    rounds: usize,
    time: Duration,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if let Some(Command::Serve(options)) = options.command {
        return serve::run(options);
    }
    // One thread for the generator leaves the rest of the machine to the server.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(compare(options))
}

async fn compare(options: Options) -> anyhow::Result<()> {
    let (rounds, seconds) = if options.quick { (3, 0.5) } else { (5, 2.0) };
    let folder = match &options.folder {
        Some(folder) => tempfile::tempdir_in(folder)?,
        None => tempfile::tempdir()?,
    };
    let plan = Plan {
        folder: folder.path().to_owned(),
        parts: options.only,
        filter: options.filter,
        rounds: options.rounds.unwrap_or(rounds),
        time: Duration::from_secs_f64(options.seconds.unwrap_or(seconds)),
    };
    let runzeo = Side::runzeo(folder.path())?;
    let ours = options.ours.start(folder.path())?;
    let mut report = Report {
        version: env!("CARGO_PKG_VERSION"),
        ours: format!("{:?}", options.ours),
        processors: std::thread::available_parallelism()?.get(),
        rounds: plan.rounds,
        seconds_per_round: plan.time.as_secs_f64(),
        lines: Vec::new(),
    };
    measure_all(&plan, &runzeo, &ours, &mut report).await?;
    println!("{}", report.table());
    if let Some(parent) = options.json.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(&options.json, serde_json::to_vec_pretty(&report)?)?;
    println!("\nas JSON: {}", options.json.display());
    Ok(())
}

impl Plan {
    fn wanted(&self, part: Part) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }

    fn asked(&self, what: &str) -> bool {
        self.filter.is_empty() || self.filter.iter().any(|filter| what.contains(filter))
    }
}

impl Report {
    fn add(&mut self, what: String, theirs: Figures, ours: Figures) {
        let line = Line::new(what, theirs, ours);
        eprintln!("{}", line.short());
        self.lines.push(line);
    }
}

async fn measure_all(
    plan: &Plan,
    runzeo: &Side,
    ours: &Side,
    report: &mut Report,
) -> anyhow::Result<()> {
    if plan.wanted(Part::Loads) {
        for (size, count, shown) in [
            (300, 10_000, "300 B"),
            (4096, 4000, "4 KiB"),
            (65_536, 400, "64 KiB"),
        ] {
            let at_runzeo = loads::Objects::store(runzeo.address, count, size).await?;
            let at_ours = loads::Objects::store(ours.address, count, size).await?;
            for (connections, in_flight) in [(1, 1), (4, 16)] {
                let what = format!("loads of {shown}, {connections} x {in_flight} in flight");
                if !plan.asked(&what) {
                    continue;
                }
                let (theirs, ours) = alternate(plan, runzeo, ours, async |side: &Side| {
                    let objects = if std::ptr::eq(side, runzeo) {
                        &at_runzeo
                    } else {
                        &at_ours
                    };
                    loads::load(side.address, objects, connections, in_flight, plan.time).await
                })
                .await?;
                report.add(what, theirs, ours);
            }
        }
    }
    if plan.wanted(Part::Commits) {
        for objects in [1, 10, 100] {
            for connections in [1, 4, 16] {
                let what = format!("commits of {objects}, {connections} connections");
                if !plan.asked(&what) {
                    continue;
                }
                let (theirs, ours) = alternate(plan, runzeo, ours, async |side: &Side| {
                    commits::commit(side.address, objects, connections, plan.time).await
                })
                .await?;
                report.add(what, theirs, ours);
            }
        }
    }
    if plan.wanted(Part::Python) {
        python::prepare(runzeo, python::OBJECTS).await?;
        python::prepare(ours, python::OBJECTS).await?;
        for (part, clients) in [("loads", 1), ("loads", 4), ("commits", 1), ("commits", 4)] {
            let what = format!("{part} by {clients} Python clients");
            if !plan.asked(&what) {
                continue;
            }
            let (theirs, ours) =
                alternate_for(plan, Some(plan.time), runzeo, ours, async |side: &Side| {
                    python::run(side, part, clients, python::OBJECTS, plan.time).await
                })
                .await?;
            report.add(what, theirs, ours);
        }
    }
    if plan.wanted(Part::ZeoMembers) {
        members::measure(plan, runzeo, report).await?;
    }
    if plan.wanted(Part::ZeoRecovery) {
        zeo_recovery::measure(plan, report).await?;
    }
    Ok(())
}

/// Rounds at one server and at the other, by turns.
async fn alternate(
    plan: &Plan,
    runzeo: &Side,
    ours: &Side,
    round: impl AsyncFn(&Side) -> anyhow::Result<Vec<u32>>,
) -> anyhow::Result<(Figures, Figures)> {
    alternate_for(plan, None, runzeo, ours, round).await
}

/// The same, where it is known how long the operations of a round take, without what is around them.
async fn alternate_for(
    plan: &Plan,
    time: Option<Duration>,
    runzeo: &Side,
    ours: &Side,
    round: impl AsyncFn(&Side) -> anyhow::Result<Vec<u32>>,
) -> anyhow::Result<(Figures, Figures)> {
    let (mut theirs, mut mine) = (Vec::new(), Vec::new());
    for number in 0..plan.rounds {
        let turns: [&Side; 2] = if number % 2 == 0 {
            [runzeo, ours]
        } else {
            [ours, runzeo]
        };
        for side in turns {
            let mut measured = Round::of(side, round(side)).await?;
            measured.took = time.unwrap_or(measured.took);
            if std::ptr::eq(side, runzeo) {
                theirs.push(measured);
            } else {
                mine.push(measured);
            }
        }
    }
    Ok((Figures::of(theirs), Figures::of(mine)))
}
