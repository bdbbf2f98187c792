//! The file engine: loads, commits, opening, copying. Every commit is durable when it is counted.
//!
//! `cargo bench --bench file`; a part of it by name: `cargo bench --bench file -- load`.
#![allow(missing_docs, reason = "criterion's macros")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::Runtime;
use zeoraidctl::storage::file::{FileOptions, FileStorage};
use zeoraidctl::storage::{Storage, Vote};
use zeoraidctl::zodb::{
    HistoryRecord, HistoryTxn, Oid, Op, Payload, RecordData, Tid, TidRange, TxnMeta,
};

const TRANSACTIONS: u64 = 200;
const RECORDS: u64 = 100;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

fn open(runtime: &Runtime, path: &Path) -> FileStorage {
    let opened = FileStorage::open(path, FileOptions::default());
    runtime.block_on(opened).expect("the file is opened")
}

/// Transactions of 100 records each.
fn history(first: u64, transactions: u64, size: usize) -> Vec<HistoryTxn> {
    let data: Payload = Bytes::from(vec![b'x'; size]).into();
    let txn = |number: u64| HistoryTxn {
        tid: Tid(number + 1),
        meta: TxnMeta::default(),
        records: (0..RECORDS)
            .map(|record| HistoryRecord {
                oid: Oid(number * RECORDS + record),
                blob: None,
                data: RecordData::Data(data.clone()),
            })
            .collect(),
    };
    (first..first + transactions).map(txn).collect()
}

fn filled(runtime: &Runtime, path: &Path, size: usize) -> FileStorage {
    let storage = open(runtime, path);
    let step = (8_000_000 / (size as u64 * RECORDS)).clamp(1, TRANSACTIONS);
    for first in (0..TRANSACTIONS).step_by(step as usize) {
        let batch = history(first, step.min(TRANSACTIONS - first), size);
        runtime.block_on(storage.restore(batch)).expect("a batch");
    }
    storage
}

fn load(criterion: &mut Criterion) {
    let runtime = runtime();
    let mut group = criterion.benchmark_group("load");
    for size in [300, 4096, 65_536] {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = filled(&runtime, &folder.path().join("Data.fs"), size);
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            let mut random = fastrand::Rng::with_seed(1);
            let _entered = runtime.enter();
            bencher.iter(|| {
                let oid = Oid(random.u64(0..TRANSACTIONS * RECORDS));
                let load = storage.load_before(oid, Tid::MAX);
                futures_executor(load).expect("a record")
            });
        });
    }
    group.finish();
}

/// A load of what is in memory is ready at once.
fn futures_executor<T>(future: impl Future<Output = T>) -> T {
    use futures_util::FutureExt;
    future.now_or_never().expect("nothing had to be waited for")
}

async fn commit(storage: &dyn Storage, oid: Oid, serial: Tid, data: Payload) -> Tid {
    let begun = storage.begin(TxnMeta::default(), None).await;
    let mut txn = begun.expect("a transaction");
    let stored = txn.store(Op::Store { oid, serial, data }).await;
    stored.expect("nothing is checked yet");
    match txn.vote().await.expect("a vote") {
        Vote::Ready(voted) => voted.finish().await.expect("a finish"),
        Vote::Conflicts(..) => panic!("everybody has an object of his own"),
    }
}

fn commits(criterion: &mut Criterion) {
    let runtime = runtime();
    let mut group = criterion.benchmark_group("commit");
    for clients in [1u64, 4, 16] {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = Arc::new(open(&runtime, &folder.path().join("Data.fs")));
        group.throughput(Throughput::Elements(clients));
        let mut serials = vec![Tid::ZERO; clients as usize];
        group.bench_function(BenchmarkId::from_parameter(clients), |bencher| {
            bencher.iter(|| {
                let committing = serials.iter().enumerate().map(|(client, serial)| {
                    let (storage, serial) = (Arc::clone(&storage), *serial);
                    let data = Bytes::from_static(&[b'x'; 300]).into();
                    runtime.spawn(async move {
                        commit(&*storage, Oid(client as u64), serial, data).await
                    })
                });
                let committing: Vec<_> = committing.collect();
                serials = committing
                    .into_iter()
                    .map(|one| runtime.block_on(one).expect("a commit"))
                    .collect();
            });
        });
    }
    group.finish();
}

fn opening(criterion: &mut Criterion) {
    let runtime = runtime();
    let mut group = criterion.benchmark_group("open");
    for size in [300, 4096] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("Data.fs");
        let storage = filled(&runtime, &path, size);
        let bytes = storage.size().bytes;
        runtime.block_on(storage.close());
        group.throughput(Throughput::Bytes(bytes));
        for with_index in [false, true] {
            let name = if with_index { "index" } else { "scan" };
            group.bench_function(BenchmarkId::new(name, size), |bencher| {
                bencher.iter(|| {
                    if !with_index {
                        std::fs::remove_file(folder.path().join("Data.fs.index"))
                            .expect("closing has saved it");
                    }
                    let storage = open(&runtime, &path);
                    runtime.block_on(storage.close());
                });
            });
        }
    }
    group.finish();
}

fn copying(criterion: &mut Criterion) {
    let runtime = runtime();
    let mut group = criterion.benchmark_group("copy");
    group.measurement_time(Duration::from_secs(10));
    for size in [300, 4096, 65_536] {
        let folder = tempfile::tempdir().expect("a folder");
        let source = filled(&runtime, &folder.path().join("Data.fs"), size);
        group.throughput(Throughput::Bytes(source.size().bytes));
        group.bench_function(BenchmarkId::new("iterate", size), |bencher| {
            bencher.iter(|| runtime.block_on(walk(&source)));
        });
        group.bench_function(BenchmarkId::new("restore", size), |bencher| {
            bencher.iter(|| {
                let folder = tempfile::tempdir().expect("a folder");
                let target = open(&runtime, &folder.path().join("Data.fs"));
                runtime.block_on(copy(&source, &target));
            });
        });
        group.bench_function(BenchmarkId::new("cp and sync", size), |bencher| {
            bencher.iter(|| {
                let target = folder.path().join("copy");
                std::fs::copy(folder.path().join("Data.fs"), &target).expect("a copy");
                let target = std::fs::File::open(&target).expect("the copy");
                target.sync_all().expect("a sync");
            });
        });
    }
    group.finish();
}

async fn walk(source: &FileStorage) -> usize {
    let mut history = source.iterate(TidRange::ALL).await.expect("an iteration");
    let mut records = 0;
    while let Some(txn) = history.next().await.expect("a transaction") {
        records += txn.records.len();
    }
    records
}

async fn copy(source: &FileStorage, target: &FileStorage) {
    let mut history = source.iterate(TidRange::ALL).await.expect("an iteration");
    let (mut batch, mut size) = (Vec::new(), 0);
    while let Some(txn) = history.next().await.expect("a transaction") {
        size += txn.size();
        batch.push(txn);
        if size > 8 << 20 {
            let whole = std::mem::take(&mut batch);
            target.restore(whole).await.expect("a batch");
            size = 0;
        }
    }
    target.restore(batch).await.expect("a batch");
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(4));
    targets = load, commits, opening, copying
}
criterion_main!(benches);
