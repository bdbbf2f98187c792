//! How fast a file is packed, side by side with Python's `FileStorage.pack`.
//!
//! `cargo bench --bench pack` (1 GiB, three rounds, some minutes), `-- --quick` (128 MiB, one round).
//!
//! A file is made with 20 % garbage: old revisions, and objects that nothing refers to. In each round
//! both pack a copy of it to the same moment, one after the other, durably; medians are shown, and the
//! two packed files must be the same, byte by byte. It needs a Python with ZODB: `ZEORAID_PYTHON`, or
//! `.venv` in the repository.
#![expect(clippy::print_stdout, reason = "a report is printed")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

// Another benchmark's; not all of it is used here.
#[path = "compare/measure.rs"]
#[expect(dead_code, reason = "see above")]
mod measure;
#[path = "compare/sides.rs"]
#[expect(dead_code, reason = "see above")]
mod sides;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use clap::Parser;
use jiff::Timestamp;
use zeoraidctl::storage::Storage as _;
use zeoraidctl::storage::file::{FileOptions, FileStorage};
use zeoraidctl::zodb::{HistoryRecord, HistoryTxn, Oid, RecordData, Tid, TxnMeta};

const MIB: u64 = 1 << 20;

/// Of an object's record.
const RECORD: usize = 1024;
/// Of a transaction.
const RECORDS: u64 = 20;
/// How many objects another one refers to.
const REFERENCES: u64 = 16;

#[derive(Parser)]
#[command(about = "Packs a file, side by side with Python's FileStorage")]
struct Options {
    /// The size of the file in MiB.
    #[arg(long, default_value_t = 1024)]
    mib: u64,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// 128 MiB, one round.
    #[arg(long)]
    quick: bool,
    /// Only this engine.
    #[arg(long)]
    only_ours: bool,
    /// Where everything is made; it is removed afterwards.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Packs a file, and says how long it took: opening it does not count.
const PYTHON: &str = r"
import sys, time
from ZODB.FileStorage import FileStorage
from ZODB.serialize import referencesf
storage = FileStorage(sys.argv[1])
began = time.monotonic()
storage.pack(float(sys.argv[2]), referencesf)
print(time.monotonic() - began)
storage.close()
";

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(run(&options))
}

async fn run(options: &Options) -> anyhow::Result<()> {
    let (mib, rounds) = if options.quick {
        (128, 1)
    } else {
        (options.mib, options.rounds)
    };
    let folder = match &options.folder {
        Some(folder) => tempfile::tempdir_in(folder)?,
        None => tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?,
    };
    let folder = folder.path();
    let source = folder.join("Data.fs");
    let last = fill(&source, mib * MIB).await?;
    let size = std::fs::metadata(&source)?.len() as f64 / MIB as f64;
    let time = last.time().context("a date")?.as_second() as f64 + 1.0;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let mut packed = 0.0;
    for round in 0..rounds {
        let there = |name: &str| -> anyhow::Result<PathBuf> {
            let folder = folder.join(format!("{name}{round}"));
            std::fs::create_dir(&folder)?;
            for suffix in ["", ".index"] {
                let name = format!("Data.fs{suffix}");
                std::fs::copy(folder.with_file_name(&name), folder.join(&name))?;
            }
            let copy = folder.join("Data.fs");
            // What is being written of the copy is not the packing's to wait for.
            std::fs::File::open(&copy)?.sync_all()?;
            Ok(copy)
        };
        let copy = there("ours")?;
        let storage = FileStorage::open(&copy, FileOptions::default()).await?;
        let start = Instant::now();
        storage.pack(time).await?;
        ours.push(start.elapsed().as_secs_f64());
        storage.close().await;
        packed = std::fs::metadata(&copy)?.len() as f64 / MIB as f64;
        if !options.only_ours {
            let copy = there("theirs")?;
            let output = Command::new(sides::python()?)
                .args(["-c", PYTHON])
                .args([copy.as_os_str(), time.to_string().as_ref()])
                .output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "Python failed:\n{said}");
            let seconds = String::from_utf8_lossy(&output.stdout);
            theirs.push(seconds.trim().parse()?);
            let same = same(&folder.join(format!("ours{round}/Data.fs")), &copy)?;
            ensure!(same, "the packed files differ");
        }
        for name in ["ours", "theirs"] {
            let folder = folder.join(format!("{name}{round}"));
            if folder.exists() {
                std::fs::remove_dir_all(folder)?;
            }
        }
    }
    println!("{size:.0} MiB, {packed:.0} MiB when packed, {rounds} round(s)");
    let ours = median(ours);
    println!("this engine  {ours:7.2} s  {:6.0} MiB/s", size / ours);
    if !theirs.is_empty() {
        let theirs = median(theirs);
        println!("FileStorage  {theirs:7.2} s  {:6.0} MiB/s", size / theirs);
        println!("{:.1} times as fast, and the same file", theirs / ours);
    }
    Ok(())
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn same(one: &Path, other: &Path) -> anyhow::Result<bool> {
    Ok(Command::new("cmp")
        .args(["-s", "--"])
        .args([one, other])
        .status()?
        .success())
}

/// A record as ZODB writes it, which refers to these objects.
fn record(references: impl Iterator<Item = u64>, random: &mut fastrand::Rng) -> Bytes {
    let mut data = b"\x80\x03cpersistent\nPersistent\nq\x00.\x80\x03](".to_vec();
    for oid in references {
        data.extend_from_slice(b"C\x08");
        data.extend_from_slice(&oid.to_be_bytes());
        data.extend_from_slice(b"h\x00\x86Q");
    }
    let rest = RECORD.saturating_sub(data.len() + 7);
    data.push(b'B');
    data.extend_from_slice(&u32::try_from(rest).expect("it is small").to_le_bytes());
    data.extend((0..rest).map(|_| random.u8(..)));
    data.extend_from_slice(b"e.");
    data.into()
}

/// A tree of objects, then changes to a part of them, and objects in between that nothing refers to. A
/// tenth of the file is revisions that are changed later, and a tenth is garbage.
async fn fill(path: &Path, bytes: u64) -> anyhow::Result<Tid> {
    let records = bytes / (RECORD as u64 + 60);
    let objects = records * 8 / 10;
    let garbage = records / 10;
    let changed = records - objects - garbage;
    let mut random = fastrand::Rng::with_seed(1);
    let storage = FileStorage::open(path, FileOptions::default()).await?;
    let mut writer = Writer {
        storage: &storage,
        // Long enough ago that all of it can be packed.
        seconds: zeoraidctl::clock::now().as_second() - 100_000_000,
        last: Tid::ZERO,
        records: Vec::new(),
        batch: Vec::new(),
        bytes: 0,
    };
    let refers_to = |oid: u64| {
        let first = oid * REFERENCES + 1;
        first.min(objects)..(first + REFERENCES).min(objects)
    };
    for oid in 0..objects {
        writer.add(oid, record(refers_to(oid), &mut random)).await?;
        if oid % 8 == 0 && oid / 8 < garbage {
            let lost = objects + oid / 8;
            writer.add(lost, record(0..2, &mut random)).await?;
        }
    }
    for _ in 0..changed {
        let oid = random.u64(0..objects);
        writer.add(oid, record(refers_to(oid), &mut random)).await?;
    }
    writer.flush().await?;
    let last = writer.last;
    storage.close().await;
    Ok(last)
}

struct Writer<'s> {
    storage: &'s FileStorage,
    seconds: i64,
    last: Tid,
    records: Vec<HistoryRecord>,
    batch: Vec<HistoryTxn>,
    bytes: u64,
}

impl Writer<'_> {
    async fn add(&mut self, oid: u64, data: Bytes) -> anyhow::Result<()> {
        self.bytes += data.len() as u64;
        self.records.push(HistoryRecord {
            oid: Oid(oid),
            blob: None,
            data: RecordData::Data(data.into()),
        });
        if self.records.len() as u64 >= RECORDS {
            self.end();
        }
        if self.bytes > 8 * MIB {
            self.flush().await?;
        }
        Ok(())
    }

    fn end(&mut self) {
        self.seconds += 1;
        let time = Timestamp::from_second(self.seconds).expect("a date");
        self.last = Tid::from_time(time);
        self.batch.push(HistoryTxn {
            tid: self.last,
            meta: TxnMeta::default(),
            records: std::mem::take(&mut self.records),
        });
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        if !self.records.is_empty() {
            self.end();
        }
        self.bytes = 0;
        self.storage
            .restore(std::mem::take(&mut self.batch))
            .await?;
        Ok(())
    }
}
