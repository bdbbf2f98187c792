//! How fast blobs are stored and fetched through the daemon, beside a plain copy of the same files.
//!
//! `cargo bench --bench blobs [-- --mib 32 --rounds 7 --members 1]`, `-- --quick` for three rounds.
//!
//! In each round, one after the other: `cp` of some files, the same files stored as blobs (a transaction
//! for each, durable when it is counted), and fetched into files. `cp` does not wait for the disk, so a
//! `cp` that syncs each file is shown as well: that is what a durable store has to be held against.
//! Medians are shown, with what share of `cp` they are. The page cache is warm for all.
#![expect(clippy::print_stdout, reason = "a report is printed")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

// Another benchmark's; not all of it is used here.
#[path = "compare/large.rs"]
#[expect(dead_code, reason = "see above")]
mod large;
#[path = "compare/measure.rs"]
#[expect(dead_code, reason = "see above")]
mod measure;
#[path = "compare/peer.rs"]
#[expect(dead_code, reason = "see above")]
mod peer;
#[path = "compare/sides.rs"]
#[expect(dead_code, reason = "see above")]
mod sides;

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Parser;
use zeoraidctl::zodb::{Oid, Tid};

use peer::Peer;
use sides::Side;

const MIB: u64 = 1 << 20;

#[derive(Parser)]
#[command(about = "Stores and fetches blobs through the daemon, beside cp")]
struct Options {
    /// The size of a blob in MiB.
    #[arg(long, default_value_t = 32)]
    mib: u64,
    /// Rounds; in each, four blobs.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// How many files the array has as members.
    #[arg(long, default_value_t = 1)]
    members: usize,
    /// Three rounds.
    #[arg(long)]
    quick: bool,
    /// Where everything is made; it is removed afterwards.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

const BLOBS: u64 = 4;

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run(&options))
}

async fn run(options: &Options) -> anyhow::Result<()> {
    let folder = match &options.folder {
        Some(folder) => tempfile::tempdir_in(folder)?,
        None => tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?,
    };
    let folder = folder.path();
    let bytes = options.mib * MIB;
    let sources: Vec<PathBuf> = (0..BLOBS)
        .map(|number| folder.join(format!("source{number}")))
        .collect();
    let mut random = fastrand::Rng::with_seed(1);
    for source in &sources {
        let mut file = BufWriter::new(File::create(source)?);
        for _ in 0..bytes / 8 {
            file.write_all(&random.u64(..).to_ne_bytes())?;
        }
        file.into_inner()?.sync_all()?;
    }
    let side = Side::with_blobs(folder, options.members)?;
    let mut peer = Peer::connect(side.address).await?;
    let rounds = if options.quick { 3 } else { options.rounds };
    let mut times = Times::default();
    let mut next = 0;
    for _ in 0..rounds {
        let copies = folder.join("copies");
        std::fs::create_dir(&copies)?;
        let start = Instant::now();
        for source in &sources {
            cp(source, &copies)?;
        }
        times.cp.push(start.elapsed());
        std::fs::remove_dir_all(&copies)?;

        std::fs::create_dir(&copies)?;
        let start = Instant::now();
        for source in &sources {
            cp(source, &copies)?;
            let name = source.file_name().unwrap_or_default();
            File::open(copies.join(name))?.sync_all()?;
        }
        times.cp_and_sync.push(start.elapsed());
        std::fs::remove_dir_all(&copies)?;

        let start = Instant::now();
        let mut stored: Vec<(Oid, Tid)> = Vec::new();
        for source in &sources {
            next += 1;
            peer.begin()?;
            peer.store_blob(Oid(next), File::open(source)?).await?;
            stored.push((Oid(next), peer.end().await?));
        }
        times.store.push(start.elapsed());

        std::fs::create_dir(&copies)?;
        let start = Instant::now();
        for (oid, tid) in stored {
            let target = File::create(copies.join(oid.0.to_string()))?;
            let target = BufWriter::with_capacity(1 << 20, target);
            let fetched = peer.fetch_blob(oid, tid, target).await?;
            ensure!(fetched == bytes, "{fetched} bytes came of {bytes}");
        }
        times.fetch.push(start.elapsed());
        std::fs::remove_dir_all(&copies)?;
    }
    println!(
        "blobs of {} MiB, {BLOBS} a round, {rounds} rounds, {} member(s)",
        options.mib, options.members
    );
    let per_second = |times: &mut Vec<Duration>| {
        times.sort();
        let median = times[times.len() / 2].as_secs_f64();
        (BLOBS * options.mib) as f64 / median
    };
    let cp = per_second(&mut times.cp);
    let synced = per_second(&mut times.cp_and_sync);
    let store = per_second(&mut times.store);
    let fetch = per_second(&mut times.fetch);
    println!("cp               {cp:7.0} MiB/s");
    println!("cp and sync      {synced:7.0} MiB/s");
    println!(
        "store, durable   {store:7.0} MiB/s, {:.2} of cp, {:.2} of cp and sync",
        store / cp,
        store / synced
    );
    println!(
        "fetch            {fetch:7.0} MiB/s, {:.2} of cp",
        fetch / cp
    );
    Ok(())
}

#[derive(Default)]
struct Times {
    cp: Vec<Duration>,
    cp_and_sync: Vec<Duration>,
    store: Vec<Duration>,
    fetch: Vec<Duration>,
}

fn cp(source: &Path, folder: &Path) -> anyhow::Result<()> {
    // Without sharing blocks, where the file system could: it is bytes that are compared.
    let status = Command::new("cp")
        .args(["--reflink=never", "--"])
        .args([source, folder])
        .status()?;
    ensure!(status.success(), "cp failed");
    Ok(())
}
