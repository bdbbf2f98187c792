//! How fast a member is recovered, and how fast a large file is opened.
//!
//! `cargo bench --bench recovery [-- --mib 1024 --rounds 3]`
//!
//! In each round, one after the other on the same file: `cp` and sync of the file, the recovery of an
//! empty member from it by a running array, opening it with its index, and opening it without. Medians
//! are shown. The page cache is warm for all: what is compared is the work, not the disk's mood.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use zeoraidctl::job::Rate;
use zeoraidctl::raid::{
    Array, ArrayOptions, ArrayState, ClusterMode, FailMode, FileRecord, MemberSpec, Membership,
    RecordStore, Spool, Standing, StartPolicy,
};
use zeoraidctl::storage::Opener;
use zeoraidctl::storage::file::{FileOpener, FileOptions};
use zeoraidctl::zodb::{HistoryRecord, HistoryTxn, Oid, RecordData, Tid, TxnMeta};

const MIB: u64 = 1 << 20;
const RECORD_BYTES: usize = 4096;
const RECORDS: u64 = 10;

fn main() {
    let options = Options::from_arguments();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(run(options));
}

struct Options {
    mib: u64,
    rounds: usize,
}

impl Options {
    fn from_arguments() -> Self {
        let mut options = Options {
            mib: 1024,
            rounds: 3,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut number = || {
                let value = arguments.next().and_then(|value| value.parse().ok());
                value.unwrap_or_else(|| panic!("{argument} takes a number"))
            };
            match argument.as_str() {
                "--mib" => options.mib = number(),
                "--rounds" => options.rounds = number() as usize,
                // What `cargo bench` adds.
                "--bench" => {}
                other => panic!("unknown argument {other}: there are --mib N and --rounds N"),
            }
        }
        options
    }
}

async fn run(options: Options) {
    let folder = tempfile::Builder::new()
        .prefix("bench-recovery-")
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .expect("a folder");
    let source = folder.path().join("source.fs");
    let objects = fill(&source, options.mib * MIB).await;
    let size = std::fs::metadata(&source).expect("the file").len();
    let mib = size as f64 / MIB as f64;
    println!(
        "{mib:.0} MiB, {objects} objects of {RECORD_BYTES} bytes, {} rounds",
        options.rounds
    );

    let (mut copy, mut recovery, mut with, mut without) = (vec![], vec![], vec![], vec![]);
    for _ in 0..options.rounds {
        copy.push(copy_and_sync(&source, &folder.path().join("copy.fs")));
        recovery.push(recover(folder.path(), &source).await);
        with.push(open(&source, true).await);
        without.push(open(&source, false).await);
    }
    let row = |what: &str, times: Vec<Duration>| {
        let time = median(times);
        println!(
            "{what:<28} {:>8.3} s  {:>8.0} MiB/s",
            time.as_secs_f64(),
            mib / time.as_secs_f64()
        );
        time
    };
    let copy = row("cp and sync", copy);
    let recovery = row("recovery of an empty member", recovery);
    row("opening with the index", with);
    row("opening without the index", without);
    let ratio = copy.as_secs_f64() / recovery.as_secs_f64();
    println!("recovery runs at {ratio:.2} of the speed of cp and sync");
    std::io::stdout().flush().ok();
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Writes a file of about so many bytes, and says how many objects are in it.
async fn fill(path: &Path, bytes: u64) -> u64 {
    let storage = opener(path).open().await.expect("a new file");
    let (mut tid, mut oid, mut written) = (1 << 40, 0, 0);
    while written < bytes {
        let batch: Vec<HistoryTxn> = (0..100)
            .map(|_| {
                tid += 1;
                transaction(tid, &mut oid)
            })
            .collect();
        written += batch.iter().map(HistoryTxn::size).sum::<u64>();
        storage.restore(batch).await.expect("room on the disk");
    }
    storage.close().await;
    oid
}

fn transaction(tid: u64, oid: &mut u64) -> HistoryTxn {
    let records = (0..RECORDS).map(|_| {
        *oid += 1;
        let data: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..))
            .take(RECORD_BYTES)
            .collect();
        HistoryRecord {
            oid: Oid(*oid),
            data: RecordData::Data(Bytes::from(data).into()),
            blob: None,
        }
    });
    let meta = TxnMeta {
        user: Bytes::from_static(b" bench"),
        description: Bytes::from_static(b"a transaction of the benchmark"),
        ..TxnMeta::default()
    };
    HistoryTxn {
        tid: Tid(tid),
        meta,
        records: records.collect(),
    }
}

fn opener(path: &Path) -> FileOpener {
    FileOpener::new(path, FileOptions::default())
}

fn copy_and_sync(from: &Path, to: &Path) -> Duration {
    std::fs::remove_file(to).ok();
    let start = Instant::now();
    std::fs::copy(from, to).expect("room on the disk");
    File::open(to)
        .and_then(|file| file.sync_all())
        .expect("a sync");
    let elapsed = start.elapsed();
    std::fs::remove_file(to).expect("the copy");
    elapsed
}

async fn open(path: &Path, with_index: bool) -> Duration {
    if !with_index {
        let mut index = path.as_os_str().to_owned();
        index.push(".index");
        std::fs::remove_file(PathBuf::from(index)).expect("an index");
    }
    let start = Instant::now();
    let storage = opener(path).open().await.expect("a good file");
    let elapsed = start.elapsed();
    storage.close().await;
    elapsed
}

/// From the first byte of an empty member to its place in the in-sync set.
async fn recover(folder: &Path, source: &Path) -> Duration {
    let target = folder.join("target").join("Data.fs");
    std::fs::create_dir_all(target.parent().expect("a folder")).expect("a folder");
    let record = Arc::new(FileRecord::new(folder.join("membership.json")));
    let now = zeoraidctl::clock::now();
    let out = Standing::Out {
        reason: "new".into(),
        since: now,
        needs_operator: false,
        is_wrong: false,
        unacknowledged_tail: false,
        damaged: false,
    };
    let members = [
        ("source".to_owned(), Standing::InSync),
        ("target".to_owned(), out),
    ];
    let membership = Membership {
        array: uuid::Uuid::new_v4(),
        epoch: 1,
        head: Tid::ZERO,
        packed: Tid::ZERO,
        members: members.into(),
        time: now,
    };
    record.save(&membership).expect("a record");
    let spec = |name: &str, path: &Path| MemberSpec {
        name: name.to_owned(),
        opener: Arc::new(opener(path)),
        fingerprint: String::new(),
        adopted: false,
    };
    let members = vec![spec("source", source), spec("target", &target)];
    let array = Array::start(array_options(folder), members, record, Arc::new(|_| {}));
    let array = array.await.expect("an array");
    let mut ticks = tokio::time::interval(Duration::from_millis(2));
    let mut started = None;
    loop {
        ticks.tick().await;
        match array.report().state {
            ArrayState::Recovering if started.is_none() => started = Some(Instant::now()),
            ArrayState::Optimal => break,
            _ => {}
        }
    }
    let elapsed = started.expect("it was seen to recover").elapsed();
    array
        .shutdown(Duration::from_secs(30))
        .await
        .expect("an end");
    std::fs::remove_dir_all(target.parent().expect("a folder")).expect("the target");
    elapsed
}

fn array_options(folder: &Path) -> ArrayOptions {
    ArrayOptions {
        name: "main".into(),
        cluster_mode: ClusterMode::Single,
        start_policy: StartPolicy::InSync,
        force: false,
        min_optimal: 1,
        fail_mode: FailMode::Close,
        member_timeout: Duration::from_mins(1),
        open_timeout: Duration::from_mins(1),
        transaction_timeout: Duration::from_mins(1),
        lock_timeout: Duration::from_mins(1),
        auto_recover: true,
        recovery_rate: Rate::UNLIMITED,
        catch_up_limit: Duration::from_secs(2),
        cache_bytes: 0,
        spool: Spool {
            folder: folder.to_owned(),
            memory_bytes: 16 << 20,
        },
        invalidation_queue: 100,
        shared_blobs: None,
    }
}
