//! How much memory the daemon takes while something large passes through it.
//!
//! `cargo bench --bench memory` (some minutes), `cargo bench --bench memory -- --quick` (an eighth of
//! the sizes). Each line is a daemon of its own, with two members and a second client that listens;
//! what is shown is the most that it ever had in use (`VmHWM` of `/proc`), before and after, and how
//! long it took. With `--zeo` the members are two of Python's servers, which needs a Python with ZEO:
//! `ZEORAID_PYTHON`, or `.venv` in the repository.
#![expect(clippy::print_stdout, reason = "a report is printed")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

// Another benchmark's; not all of it is used here.
#[path = "compare/large.rs"]
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

use std::path::PathBuf;
use std::time::Instant;

use anyhow::ensure;
use bytes::Bytes;
use clap::Parser;
use zeoraidctl::zodb::{Oid, Tid};

use peer::Peer;
use sides::Side;

const MIB: u64 = 1 << 20;

/// What is expected of every line.
const EXPECTED: u64 = 200 * MIB;

#[derive(Parser)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own"
)]
#[command(about = "Measures the memory of the daemon while something large passes through it")]
struct Options {
    /// An eighth of everything.
    #[arg(long)]
    quick: bool,
    /// Members that are servers of ZEO instead of files.
    #[arg(long)]
    zeo: bool,
    /// Only lines that contain this.
    #[arg(long, default_value = "")]
    filter: String,
    /// Where the databases are made; they are removed afterwards.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Fail where more than 200 MiB are taken.
    #[arg(long)]
    check: bool,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What passes through.
#[derive(Clone, Copy)]
enum Load {
    Records { count: u64, size: usize },
    StoredBlob { bytes: u64 },
    FetchedBlob { bytes: u64 },
}

impl Load {
    fn name(self) -> String {
        match self {
            Load::Records { count, size } => format!("{count} records of {size} bytes"),
            Load::StoredBlob { bytes } => format!("blob of {} MiB, stored", bytes / MIB),
            Load::FetchedBlob { bytes } => format!("blob of {} MiB, fetched", bytes / MIB),
        }
    }
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let part = if options.quick { 8 } else { 1 };
    let loads = [
        Load::Records {
            count: 16 * 1024 / part,
            size: 64 << 10,
        },
        Load::Records {
            count: 1_000_000 / part,
            size: 200,
        },
        Load::Records {
            count: 1,
            size: (100 * MIB / part) as usize,
        },
        Load::StoredBlob {
            bytes: 2048 * MIB / part,
        },
        Load::FetchedBlob {
            bytes: 2048 * MIB / part,
        },
    ];
    let members = if options.zeo {
        "two servers"
    } else {
        "two files"
    };
    println!("peak memory of the daemon, members: {members}");
    let mut too_much = Vec::new();
    for load in loads {
        if !load.name().contains(&options.filter) {
            continue;
        }
        let peak = runtime.block_on(measure(load, &options))?;
        if peak > EXPECTED {
            too_much.push(load.name());
        }
    }
    ensure!(
        !options.check || too_much.is_empty(),
        "more than {} MiB: {}",
        EXPECTED / MIB,
        too_much.join(", ")
    );
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the task is ended below")]
async fn measure(load: Load, options: &Options) -> anyhow::Result<u64> {
    let folder = match &options.folder {
        Some(folder) => tempfile::tempdir_in(folder)?,
        None => tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?,
    };
    let side = if options.zeo {
        Side::array(folder.path(), 2, 32 * MIB)?
    } else {
        Side::with_blobs(folder.path(), 2)?
    };
    let mut peer = Peer::connect(side.address).await?;
    let listener = tokio::spawn(Peer::connect(side.address).await?.listen());
    let before = side.peak_memory()?;
    let mut random = fastrand::Rng::with_seed(1);
    let start = Instant::now();
    let mut blob = None;
    peer.begin()?;
    match load {
        Load::Records { count, size } => {
            let data = if size < 1 << 20 {
                peer::record(size, &mut random)
            } else {
                Bytes::from(vec![b'x'; size])
            };
            for oid in 1..=count {
                peer.store(Oid(oid), data.clone()).await?;
            }
        }
        Load::StoredBlob { bytes } | Load::FetchedBlob { bytes } => {
            let content = std::io::Read::take(std::io::repeat(b'b'), bytes);
            peer.store_blob(Oid(1), content).await?;
            blob = Some(bytes);
        }
    }
    let tid: Tid = peer.end().await?;
    if let (Load::FetchedBlob { .. }, Some(bytes)) = (load, blob) {
        let fetched = peer.fetch_blob(Oid(1), tid, std::io::sink()).await?;
        ensure!(fetched == bytes, "{fetched} bytes came of {bytes}");
    }
    let took = start.elapsed();
    let peak = side.peak_memory()?;
    println!(
        "{:36} {:5.0} MiB ({:3.0} before){}  {:6.1} s",
        load.name(),
        peak as f64 / MIB as f64,
        before as f64 / MIB as f64,
        if peak > EXPECTED { " TOO MUCH" } else { "" },
        took.as_secs_f64(),
    );
    listener.abort();
    Ok(peak)
}
