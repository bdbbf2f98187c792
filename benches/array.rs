//! What an array costs over two members in memory: a load that the cache answers, one that a member
//! answers, and a commit with 1, 4 and 16 clients.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use zeoraidctl::job::Rate;
use zeoraidctl::raid::{
    Array, ArrayOptions, ClusterMode, FailMode, MemberSpec, Membership, RecordError, RecordStore,
    Serving, Spool, StartPolicy,
};
use zeoraidctl::storage::memory::MemoryOpener;
use zeoraidctl::storage::{Opener, Storage, Vote};
use zeoraidctl::zodb::{Oid, Op, Tid, TxnMeta};

struct NoRecord;

impl RecordStore for NoRecord {
    fn load(&self) -> Result<Option<Membership>, RecordError> {
        Ok(None)
    }

    fn save(&self, _: &Membership) -> Result<(), RecordError> {
        Ok(())
    }
}

async fn array(cache_bytes: u64) -> (Array, Vec<MemoryOpener>) {
    let openers = ["a", "b"].map(MemoryOpener::new).to_vec();
    let members = openers.iter().map(|opener| MemberSpec {
        name: opener.describe().location,
        opener: Arc::new(opener.clone()),
        fingerprint: String::new(),
        adopted: false,
    });
    let options = ArrayOptions {
        name: "bench".into(),
        cluster_mode: ClusterMode::Single,
        start_policy: StartPolicy::InSync,
        force: false,
        min_optimal: 1,
        fail_mode: FailMode::Close,
        member_timeout: Duration::from_secs(30),
        open_timeout: Duration::from_secs(30),
        transaction_timeout: Duration::from_secs(30),
        lock_timeout: Duration::from_secs(30),
        auto_recover: true,
        recovery_rate: Rate::UNLIMITED,
        catch_up_limit: Duration::from_secs(2),
        cache_bytes,
        spool: Spool {
            folder: std::env::temp_dir(),
            memory_bytes: 1 << 20,
        },
        invalidation_queue: 100,
        shared_blobs: None,
    };
    let array = Array::start(
        options,
        members.collect(),
        Arc::new(NoRecord),
        Arc::new(|_| ()),
    );
    let array = array.await.expect("there is no record to be damaged");
    let mut serving = array.serving();
    serving
        .wait_for(|serving| *serving == Serving::Yes)
        .await
        .expect("it starts");
    (array, openers)
}

async fn commit(array: &Array, oid: u64, serial: Tid) -> Tid {
    let mut transaction = array.begin(TxnMeta::default(), None).await.expect("begin");
    let data = Bytes::from_static(&[7; 300]).into();
    let store = Op::Store {
        oid: Oid(oid),
        serial,
        data,
    };
    transaction.store(store).await.expect("store");
    match transaction.vote().await.expect("vote") {
        Vote::Ready(voted) => voted.finish().await.expect("finish"),
        Vote::Conflicts(..) => unreachable!("each client has an object of its own"),
    }
}

fn loads(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut storage_only = None;
    for (name, cache_bytes) in [("cache hit", 1 << 24), ("member hit", 0)] {
        let (array, openers) = runtime.block_on(array(cache_bytes));
        runtime.block_on(commit(&array, 1, Tid::ZERO));
        criterion.bench_function(name, |bencher| {
            bencher.iter_custom(|count| {
                runtime.block_on(async {
                    let start = Instant::now();
                    for _ in 0..count {
                        let loaded = array.load_before(Oid(1), Tid::MAX).await;
                        std::hint::black_box(loaded.is_ok());
                    }
                    start.elapsed()
                })
            });
        });
        storage_only = openers.into_iter().next();
    }
    let opener = storage_only.expect("two were made");
    let storage = runtime.block_on(opener.open()).expect("it opens");
    criterion.bench_function("the storage alone", |bencher| {
        bencher.iter_custom(|count| {
            runtime.block_on(async {
                let start = Instant::now();
                for _ in 0..count {
                    let loaded = storage.load_before(Oid(1), Tid::MAX).await;
                    std::hint::black_box(loaded.is_ok());
                }
                start.elapsed()
            })
        });
    });
}

#[expect(
    clippy::disallowed_methods,
    reason = "the clients of the benchmark end with it"
)]
fn commits(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for clients in [1_u64, 4, 16] {
        let (array, _openers) = runtime.block_on(array(1 << 24));
        let mut serials: Vec<Tid> = (0..clients).map(|_| Tid::ZERO).collect();
        criterion.bench_function(&format!("commit, {clients} clients"), |bencher| {
            bencher.iter_custom(|count| {
                runtime.block_on(async {
                    let start = Instant::now();
                    let each = count.div_ceil(clients);
                    let client = |(oid, serial): (usize, Tid)| {
                        let array = array.clone();
                        tokio::task::spawn(async move {
                            let mut serial = serial;
                            for _ in 0..each {
                                serial = commit(&array, oid as u64, serial).await;
                            }
                            serial
                        })
                    };
                    let running: Vec<_> = serials.iter().copied().enumerate().map(client).collect();
                    for (serial, client) in serials.iter_mut().zip(running) {
                        *serial = client.await.expect("it does not panic");
                    }
                    start
                        .elapsed()
                        .mul_f64(count as f64 / (each * clients) as f64)
                })
            });
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    targets = loads, commits
}
criterion_main!(benches);
