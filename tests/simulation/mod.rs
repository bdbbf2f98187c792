//! Deterministic simulation of everything: clients, one or two daemons, their members (files, ZEO
//! servers, or both), the network and the disks, in one thread, from one seed.
//!
//! A seed chooses the shape of the array and what everybody does; faults come at random moments: whatever
//! runs dies, machines lose their power and what was not synced, connections are held, delayed and cut,
//! disks are slow, full or broken, clocks jump, operators give commands. Checked all the while: what
//! clients see ([`client`]), and that whoever may serve next holds what was acknowledged
//! ([`world`]). When the faults are over all has to be well again within a bound; then the members' histories must
//! be equal, and agree with all that clients were told and have seen ([`truth`]).
//!
//! - `cargo test --lib simulation` runs some seeds that are always the same, for about two minutes; with `SEED=` and
//!   `HISTORIES=` it runs so many from there;
//! - `SEED=7 cargo test --lib simulation::one` runs that one history, with `TRACE=1` said as it happens;
//! - `tests/run --simulate 3600` goes on for an hour, from one by chance, which it says, or from `SEED=` on;
//! - `tests/run --bugs` makes mistakes on purpose, and sees that each is found ([`bug`]).

use std::io::Write as _;
use std::num::NonZero;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::time::sleep;

mod bug;
mod chaos;
mod client;
mod copies;
mod drive;
mod events;
mod excuse;
mod held;
mod host;
mod judge;
mod network;
mod scrub;
mod server;
mod start;
mod trace;
mod truth;
mod world;

pub(crate) use bug::{Bug, is_made};
pub(crate) use drive::Drive;
pub(crate) use host::{Life, blocking, current, is_on, life, next_number, now, spawn, sync_pause};
pub(crate) use network::{Door, connect, listen};

use host::On;
use world::{Shape, World};

/// What came of a history.
#[derive(Debug)]
struct Outcome {
    failure: Option<String>,
    trace: Vec<String>,
    acknowledged: usize,
    loads: usize,
    faults: usize,
    simulated: Duration,
}

/// Runs the history of a seed, on a thread of its own.
fn history(seed: u64) -> Outcome {
    history_with(seed, None)
}

/// The same, with a mistake in the product.
fn history_with(seed: u64, bug: Option<Bug>) -> Outcome {
    let thread = std::thread::Builder::new().name(format!("seed {seed}"));
    let running = thread.spawn(move || {
        fastrand::seed(seed);
        bug::make(bug);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let folder = tempfile::tempdir().expect("a folder");
        let log = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::INFO)
            .without_time()
            .with_ansi(false)
            .with_writer(|| trace::Log)
            .finish();
        let outcome =
            tracing::subscriber::with_default(log, || runtime.block_on(live(folder.path())));
        drop(runtime);
        outcome
    });
    running.expect("a thread").join().expect("a history ends")
}

async fn live(folder: &std::path::Path) -> Outcome {
    let on = On::begin();
    network::begin();
    trace::begin(folder);
    let shape = Shape::random();
    trace::note(format!("{shape:?}"));
    let world = World::new(folder, shape);
    #[expect(clippy::disallowed_methods, reason = "it ends with this function")]
    let turns = tokio::spawn(host::give_turns());
    let observer = host::Life::begin(&host::Machine::new("-"));
    let told = Arc::clone(&world);
    let life = observer.spawn(async move {
        let world = told;
        world.supervise();
        drop(spawn(Arc::clone(&world).note_outages()));
        drop(spawn(Arc::clone(&world).look_on()));
        let this = Arc::clone(&world);
        drop(spawn(async move {
            while !this.is_over() {
                sleep(Duration::from_millis(500)).await;
                this.supervise();
            }
        }));
        sleep(Duration::from_secs(3)).await;
        world.chaos().await;
        if trace::failure().is_none() {
            world.heal().await;
        }
        if trace::failure().is_none() {
            world.scrub_all().await;
        }
        if trace::failure().is_none() {
            sleep(Duration::from_secs(5)).await;
        }
        world.end();
        if trace::failure().is_none() {
            world.judge().await;
        }
    });
    if life.await.is_err() {
        trace::fail("the history did not end");
    }
    let simulated = host::elapsed();
    let (acknowledged, loads) = world.truth.counts();
    world.clear_away().await;
    observer.die();
    observer.clear_away().await;
    turns.abort();
    drop(on);
    Outcome {
        failure: trace::failure(),
        trace: trace::take(),
        acknowledged,
        loads,
        faults: world.faults.load(std::sync::atomic::Ordering::SeqCst),
        simulated,
    }
}

fn given(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Fails with all that helps to understand why.
fn must_hold(seed: u64, outcome: &Outcome) {
    if let Some(failure) = &outcome.failure {
        panic!(
            "{}\nSEED={seed}: {failure}\nagain: {}",
            trace::tail(&outcome.trace),
            again(seed)
        );
    }
}

fn again(seed: u64) -> String {
    format!("SEED={seed} cargo test --lib simulation::one")
}

/// Where histories begin that nobody has chosen. It is said at once, also where a test's output is kept.
fn by_chance() -> u64 {
    let first = fastrand::u64(1_000_000..1_000_000_000);
    // Nobody may listen.
    drop(writeln!(
        std::io::stderr(),
        "histories from SEED={first} on"
    ));
    first
}

/// What came of many.
#[derive(Debug, Default)]
struct Totals {
    histories: u64,
    acknowledged: usize,
    loads: usize,
    faults: usize,
    simulated: Duration,
    failed: Vec<(u64, Outcome)>,
}

/// Runs the histories of these seeds, as many at the same time as there are processors, as long as `goes_on`
/// says so. Each is as it is alone.
fn many(
    seeds: impl Iterator<Item = u64> + Send,
    goes_on: impl Fn(&Totals) -> bool + Sync,
) -> Totals {
    let seeds = Mutex::new(seeds);
    let totals = Mutex::new(Totals::default());
    let next = || {
        let is_over = !goes_on(&totals.lock());
        if is_over { None } else { seeds.lock().next() }
    };
    let work = || {
        while let Some(seed) = next() {
            let outcome = history(seed);
            let mut totals = totals.lock();
            totals.histories += 1;
            totals.acknowledged += outcome.acknowledged;
            totals.loads += outcome.loads;
            totals.faults += outcome.faults;
            totals.simulated += outcome.simulated;
            if let Some(failure) = &outcome.failure {
                eprintln!("SEED={seed}: {failure}\nagain: {}", again(seed));
                totals.failed.push((seed, outcome));
            }
        }
    };
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..processors {
            scope.spawn(work);
        }
    });
    totals.into_inner()
}

impl Totals {
    /// None has failed, and they have done something.
    fn must_hold(&self) {
        let Totals {
            histories,
            acknowledged,
            loads,
            faults,
            simulated,
            failed,
        } = self;
        eprintln!(
            "{histories} histories ({simulated:?} simulated), {faults} faults, {acknowledged} transactions, {loads} \
             loads checked, {} failed",
            failed.len()
        );
        // Others are said as they fail.
        if let Some((seed, outcome)) = failed.first() {
            must_hold(*seed, outcome);
        }
        assert!(*acknowledged as u64 > 20 * histories, "only {acknowledged}");
    }
}

#[test]
fn one_history() {
    let seed = given("SEED").unwrap_or(1);
    must_hold(seed, &history(seed));
}

#[test]
fn a_seed_is_always_the_same_history() {
    let first = given("SEED").unwrap_or(1);
    for seed in first..first + given("HISTORIES").unwrap_or(3) {
        let (first, second) = (history(seed), history(seed));
        for (one, other) in first.trace.iter().zip(&second.trace) {
            assert_eq!(one, other, "SEED={seed}");
        }
        assert_eq!(first.trace.len(), second.trace.len(), "SEED={seed}");
    }
}

/// The seeds of the short run: always the same, so that whoever changes something else learns nothing new by it.
/// About two minutes on two processors that have nothing else to do.
const SHORT: Range<u64> = 100..180;

#[test]
fn promises_are_kept_whatever_happens() {
    let first = given("SEED").unwrap_or(SHORT.start);
    let alone = given("SEED").map(|_| 20);
    let count = given("HISTORIES")
        .or(alone)
        .unwrap_or(SHORT.end - SHORT.start);
    many(first..first + count, |totals| totals.failed.is_empty()).must_hold();
}

#[test]
#[ignore = "it takes as long as it is told: tests/run --simulate"]
fn long() {
    let first = given("SEED").unwrap_or_else(by_chance);
    let lasts = Duration::from_secs(given("ZEORAID_SIMULATION_SECONDS").unwrap_or(60));
    let begun = Instant::now();
    many(first.., |_| begun.elapsed() < lasts).must_hold();
}
