//! Recovery between two `runzeo`, and what the same Python server takes in when it is fed flat out.
//!
//! "Theirs" is a feeder that knows the history by heart and waits for nothing: no server can take in
//! more. "Ours" is first the restoring alone, of the same history from memory, and then a whole recovery
//! by a running array, which reads from another `runzeo`.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use zeoraidctl::job::Rate;
use zeoraidctl::raid::{
    Array, ArrayOptions, ArrayState, ClusterMode, FailMode, FileRecord, MemberSpec, Membership,
    RecordStore, Spool, Standing, StartPolicy,
};
use zeoraidctl::storage::Opener;
use zeoraidctl::storage::zeo::{ZeoAddress, ZeoOpener, ZeoOptions};
use zeoraidctl::zodb::{HistoryRecord, HistoryTxn, Oid, RecordData, Tid, TxnMeta};

use super::Plan;
use super::measure::{Figures, Round, since};
use super::peer::{Peer, record};
use super::report::Report;
use super::sides::Side;

/// Transactions that `Storage::restore` is given at once, at most; as a recovery does.
const BATCH: usize = 1000;

pub(crate) async fn measure(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    // The last as an application writes: how many records a transaction has is known only at its end.
    for (records, size) in [(1..=1, 300), (10..=10, 2048), (1..=13, 500)] {
        let (least, most) = (*records.start(), *records.end());
        let of = if least == most {
            least.to_string()
        } else {
            format!("{least} to {most}")
        };
        let restoring = format!("restoring transactions of {of} x {size} B");
        let recovering = format!("recovering transactions of {of} x {size} B");
        if !plan.asked(&restoring) && !plan.asked(&recovering) {
            continue;
        }
        // About as long as a round, at a few thousand transactions a second.
        let count = (plan.time.as_secs_f64() * 3000.0) as usize / most.min(2);
        let history = history(count, records, size);
        let source = Server::new(plan)?;
        fed(&source.side, &history).await?;
        let (mut fed_at, mut restored, mut recovered) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..plan.rounds {
            let target = Server::new(plan)?;
            fed_at.push(Round::of(&target.side, fed(&target.side, &history)).await?);
            let target = Server::new(plan)?;
            restored.push(Round::of(&target.side, restore(&target.side, &history)).await?);
            let target = Server::new(plan)?;
            let before = target.side.cpu()?;
            let took = recover(&plan.folder, &source.side, &target.side).await?;
            recovered.push(Round {
                latencies: vec![0; history.len()],
                took,
                server_cpu: target.side.cpu()?.saturating_sub(before),
                client_cpu: Duration::ZERO,
            });
        }
        let fed_at = Figures::of(fed_at);
        report.add(restoring, fed_at.clone(), Figures::of(restored));
        report.add(recovering, fed_at, Figures::of(recovered));
    }
    Ok(())
}

/// A `runzeo` with a folder of its own, which goes with it.
struct Server {
    side: Side,
    _folder: tempfile::TempDir,
}

impl Server {
    fn new(plan: &Plan) -> anyhow::Result<Server> {
        let folder = tempfile::tempdir_in(&plan.folder)?;
        Ok(Server {
            side: Side::runzeo_in(folder.path())?,
            _folder: folder,
        })
    }
}

fn history(count: usize, records: RangeInclusive<usize>, size: usize) -> Vec<HistoryTxn> {
    let mut random = fastrand::Rng::with_seed(size as u64);
    let mut number_of = fastrand::Rng::with_seed(size as u64);
    let mut oid = 0;
    let mut transaction = |number: usize| HistoryTxn {
        tid: Tid((1 << 57) + number as u64),
        meta: TxnMeta {
            user: Bytes::from_static(b"bench"),
            description: Bytes::from_static(b"/bench/recovery"),
            ..TxnMeta::default()
        },
        records: (0..number_of.usize(records.clone()))
            .map(|_| {
                oid += 1;
                HistoryRecord {
                    oid: Oid(oid),
                    data: RecordData::Data(record(size, &mut random).into()),
                    blob: None,
                }
            })
            .collect(),
    };
    (0..count).map(&mut transaction).collect()
}

async fn fed(side: &Side, history: &[HistoryTxn]) -> anyhow::Result<Vec<u32>> {
    Peer::connect(side.address).await?.feed(history).await
}

/// Gives how long the batches took, as if each transaction had taken as long as its batch.
async fn restore(side: &Side, history: &[HistoryTxn]) -> anyhow::Result<Vec<u32>> {
    let storage = opener(side).open().await?;
    let mut latencies = Vec::new();
    for batch in history.chunks(BATCH) {
        let start = Instant::now();
        storage.restore(batch.to_vec()).await?;
        latencies.extend(std::iter::repeat_n(since(start), batch.len()));
    }
    storage.close().await;
    Ok(latencies)
}

fn opener(side: &Side) -> ZeoOpener {
    let address = ZeoAddress::Tcp {
        host: side.address.ip().to_string(),
        port: side.address.port(),
    };
    ZeoOpener::new(ZeoOptions::new(address, "1"))
}

/// From the start of the recovery to the member's place in the in-sync set.
async fn recover(folder: &Path, source: &Side, target: &Side) -> anyhow::Result<Duration> {
    let folder = tempfile::tempdir_in(folder)?;
    let members = vec![spec("source", source), spec("target", target)];
    // As in the daemon: one thread, where all members are ZEO servers.
    let recovering = zeoraidctl::task::blocking(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        runtime.block_on(recover_by_array(folder.path(), members))
    });
    recovering.await?
}

fn spec(name: &str, side: &Side) -> MemberSpec {
    MemberSpec {
        name: name.to_owned(),
        opener: Arc::new(opener(side)),
        fingerprint: String::new(),
        adopted: false,
    }
}

async fn recover_by_array(folder: &Path, members: Vec<MemberSpec>) -> anyhow::Result<Duration> {
    let record = Arc::new(FileRecord::new(folder.join("membership.json")));
    let time = zeoraidctl::clock::now();
    let out = Standing::Out {
        reason: "new".into(),
        since: time,
        needs_operator: false,
        is_wrong: false,
        unacknowledged_tail: false,
        damaged: false,
    };
    let standings = [
        ("source".to_owned(), Standing::InSync),
        ("target".to_owned(), out),
    ];
    record.save(&Membership {
        array: uuid::Uuid::new_v4(),
        epoch: 1,
        head: Tid::ZERO,
        packed: Tid::ZERO,
        members: standings.into(),
        time,
    })?;
    let options = array_options(folder);
    let array = Array::start(options, members, record, Arc::new(|_| {})).await?;
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
    let took = started.context("it was seen to recover")?.elapsed();
    array.shutdown(Duration::from_secs(30)).await?;
    Ok(took)
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
