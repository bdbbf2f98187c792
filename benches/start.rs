//! How long people and scripts wait for the tool: `--help`, `status`, and `start` until clients are served.
//!
//! `cargo bench --bench start [-- --objects 1000000 --rounds 20]`
//!
//! An instance is made by `init`; its two members are files with so many objects and valid indexes, as a daemon
//! leaves them that was stopped. Each figure is the whole process, from its start to its end; medians and the
//! slowest are shown. `start` returns when the daemon serves. The page cache is warm.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use clap::Parser;
use zeoraidctl::storage::Opener as _;
use zeoraidctl::storage::file::{FileOpener, FileOptions};
use zeoraidctl::zodb::{HistoryRecord, HistoryTxn, Oid, RecordData, Tid, TxnMeta};

const BINARY: &str = env!("CARGO_BIN_EXE_zeoraidctl");
const MIB: u64 = 1 << 20;

#[derive(Parser)]
#[command(about = "Measures how long people and scripts wait for the tool")]
struct Options {
    #[arg(long, default_value_t = 1_000_000)]
    objects: u64,
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let folder = tempfile::Builder::new()
        .prefix("bench-start-")
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let instance = folder.path().join("i");
    let size = std::fs::metadata(BINARY)?.len() as f64 / MIB as f64;
    println!("the binary: {size:.1} MiB");

    let socket = format!("listen=unix:{}", folder.path().join("zeo").display());
    let place = instance.to_str().context("a plain path")?;
    tool(&["init", place, "--yes", "--set", &socket])?;
    let copies = ["copy1", "copy2"].map(|name| instance.join("var").join(name).join("Data.fs"));
    for copy in &copies {
        std::fs::create_dir_all(copy.parent().context("in a folder")?)?;
    }
    tokio::runtime::Runtime::new()?.block_on(fill(&copies[0], options.objects))?;
    for suffix in ["", ".index"] {
        let name = |copy: &Path| {
            let mut name = copy.as_os_str().to_owned();
            name.push(suffix);
            name
        };
        std::fs::copy(name(&copies[0]), name(&copies[1]))?;
    }
    // Once for the membership record, and whatever else a first start does.
    tool(&["-C", place, "start"])?;
    let size = std::fs::metadata(&copies[0])?.len() / MIB;
    println!(
        "{} objects, {size} MiB in each of two members",
        options.objects
    );

    row("--help", options.rounds, || tool(&["--help"]))?;
    row("status", options.rounds, || tool(&["-C", place, "status"]))?;
    let (mut stopped, mut started) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        stopped.push(tool(&["-C", place, "stop"])?);
        started.push(tool(&["-C", place, "start"])?);
    }
    show("stop", stopped);
    show("start, until it serves", started);
    tool(&["-C", place, "stop"])?;
    Ok(())
}

/// Runs the tool to its end.
fn tool(args: &[&str]) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    let mut command = Command::new(BINARY);
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    // A daemon in the background must not keep a pipe of ours open.
    let status = command.stderr(Stdio::null()).status()?;
    ensure!(status.success(), "{args:?} ended with {status}");
    Ok(begin.elapsed())
}

fn row(
    what: &str,
    rounds: usize,
    mut run: impl FnMut() -> anyhow::Result<Duration>,
) -> anyhow::Result<()> {
    let times: anyhow::Result<Vec<Duration>> = (0..rounds).map(|_| run()).collect();
    show(what, times?);
    Ok(())
}

fn show(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let ms = |time: &Duration| time.as_secs_f64() * 1000.0;
    let median = times.get(times.len() / 2).map_or(0.0, ms);
    let worst = times.last().map_or(0.0, ms);
    println!("{what:<24} {median:>7.1} ms   at most {worst:>7.1} ms");
}

/// Writes a file of so many small objects, and its index.
async fn fill(path: &Path, objects: u64) -> anyhow::Result<()> {
    const RECORDS: u64 = 100;
    let opener = FileOpener::new(path, FileOptions::default());
    let storage = opener.open().await?;
    // In the year 2000 or so: no transaction is from the future.
    let (mut tid, mut oid) = (0x0330_0000_0000_0000, 0);
    while oid < objects {
        let batch = (0..50).map(|_| {
            tid += 1 << 32;
            let records = (0..RECORDS).map(|_| {
                oid += 1;
                HistoryRecord {
                    oid: Oid(oid),
                    data: RecordData::Data(Bytes::from_static(&[b'x'; 200]).into()),
                    blob: None,
                }
            });
            HistoryTxn {
                tid: Tid(tid),
                meta: TxnMeta::default(),
                records: records.collect(),
            }
        });
        let batch: Vec<HistoryTxn> = batch.collect();
        storage.restore(batch).await?;
    }
    storage.close().await;
    Ok(())
}
