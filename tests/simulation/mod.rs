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
//! - `cargo test --lib simulation` runs some seeds;
//! - `SEED=7 cargo test --lib simulation::one` runs that one history, with `TRACE=1` said as it happens;
//! - `tests/run --simulate 3600` goes on for an hour, from `SEED=` on.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

mod bug;
mod chaos;
mod client;
mod copies;
mod events;
mod excuse;
mod host;
mod judge;
mod network;
mod scrub;
mod server;
mod trace;
mod truth;
mod world;

pub(crate) use bug::{Bug, is_made};
pub(crate) use host::{
    Life, Machine, blocking, current, is_on, life, next_number, now, short_pause, spawn, sync_pause,
};
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
            "{}\nSEED={seed}: {failure}\nagain: SEED={seed} cargo test --lib simulation::one",
            trace::tail(&outcome.trace)
        );
    }
}

#[test]
fn one_history() {
    let seed = given("SEED").unwrap_or(1);
    must_hold(seed, &history(seed));
}

#[test]
fn a_seed_is_always_the_same_history() {
    for seed in [1, 2, 3] {
        let (first, second) = (history(seed), history(seed));
        for (one, other) in first.trace.iter().zip(&second.trace) {
            assert_eq!(one, other, "SEED={seed}");
        }
        assert_eq!(first.trace.len(), second.trace.len(), "SEED={seed}");
    }
}

#[test]
fn promises_are_kept_whatever_happens() {
    let first = given("SEED").unwrap_or(100);
    let count = given("HISTORIES").unwrap_or(20);
    let (mut acknowledged, mut faults) = (0, 0);
    for seed in first..first + count {
        let outcome = history(seed);
        must_hold(seed, &outcome);
        acknowledged += outcome.acknowledged;
        faults += outcome.faults;
    }
    eprintln!("{count} histories, {faults} faults, {acknowledged} transactions");
    assert!(acknowledged > 20 * count as usize, "only {acknowledged}");
}

#[test]
#[ignore = "it takes as long as it is told: tests/run --simulate"]
fn long() {
    let first = given("SEED").unwrap_or(1_000_000);
    let seconds = given("ZEORAID_SIMULATION_SECONDS").unwrap_or(60);
    let begun = std::time::Instant::now();
    let (mut histories, mut faults, mut acknowledged, mut loads) = (0, 0, 0, 0);
    let mut simulated = Duration::ZERO;
    let mut failed = Vec::new();
    while begun.elapsed() < Duration::from_secs(seconds) {
        let seed = first + histories;
        let outcome = history(seed);
        if let Some(failure) = &outcome.failure {
            eprintln!("SEED={seed}: {failure}");
            failed.push(seed);
        }
        histories += 1;
        faults += outcome.faults;
        acknowledged += outcome.acknowledged;
        loads += outcome.loads;
        simulated += outcome.simulated;
    }
    eprintln!(
        "{histories} histories in {:?} ({simulated:?} simulated), {faults} faults, {acknowledged} \
         transactions, {loads} loads checked; failed: {failed:?}",
        begun.elapsed()
    );
    assert!(failed.is_empty(), "SEED={}", failed[0]);
}
