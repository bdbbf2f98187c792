//! `kill -9`, again and again, under load: nothing acknowledged is lost, and no one has to do anything.

use std::time::{Duration, Instant};

use crate::harness::python::{self, Workers};
use crate::harness::{Instance, Lab, LabSetup, until, wait};

/// Kills the daemon at twenty moments chosen by chance, each time starting it again.
fn kill_twenty_times(instance: &Instance, workers: &mut Workers) {
    let seed = match std::env::var("ZEORAID_SEED") {
        Ok(seed) => seed.parse().expect("ZEORAID_SEED is a number"),
        Err(_) => fastrand::u64(..),
    };
    eprintln!("ZEORAID_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    workers.wait_for_more(3);
    for round in 1..=20 {
        // From the moment the clients are at work again, anything from at once to half a second.
        let before: usize = workers.acknowledged().iter().sum();
        until("a client to commit again", Duration::from_mins(1), || {
            workers.check_alive();
            workers.acknowledged().iter().sum::<usize>() > before
        });
        let moment = Instant::now() + Duration::from_micros(random.u64(0..500_000));
        while Instant::now() < moment {
            if moment - Instant::now() > Duration::from_millis(25) {
                wait::pause();
            } else {
                std::hint::spin_loop();
            }
        }
        instance.kill9();
        let run = instance.start();
        assert_eq!(run.code, 0, "round {round}: {run}");
    }
    workers.wait_for_more(3);
    instance.wait_optimal();
}

#[test]
fn killed_twenty_times_under_load_it_keeps_every_acknowledged_commit() {
    let instance = Instance::started(&[]);
    let mut workers = Workers::start(&instance.address, &instance.beside(""), true);
    kill_twenty_times(&instance, &mut workers);
    let totals = workers.end();
    let found = python::verify(&instance.given_back(), &workers.logs());
    totals.assert_exact(&found);
}

/// The servers have no part in it, but each may hold a transaction that the other lacks.
#[test]
fn killed_twenty_times_before_servers_it_keeps_every_acknowledged_commit() {
    let lab = Lab::started(LabSetup::TWO);
    let mut workers = lab.workers_with(3, &["--tolerant"]);
    kill_twenty_times(&lab.instance, &mut workers);
    lab.finish_tolerant(workers);
}

/// The same where the daemon dies while a member is being recovered: the next start goes on with it.
#[test]
fn killed_while_recovering_it_recovers_after_the_start() {
    let instance = Instance::started(&[]);
    let mut workers = Workers::start(&instance.address, &instance.beside(""), true);
    workers.wait_for_more(10);
    instance.run(&["disable", "copy2", "--yes"]).ok();
    python::run("features.py", &["bulk", &instance.address]).ok();
    workers.wait_for_more(3);
    instance
        .run(&["recover", "copy2", "--rate", "512KiB/s", "--detach"])
        .ok();
    instance.wait_member("copy2", "recovering");
    instance.kill9();
    instance.start().ok();
    workers.wait_for_more(3);
    // It was an operator who took it out and asked for it back: asking again must be enough.
    instance.run(&["recover", "copy2"]).ok();
    instance.wait_optimal();
    workers.end();
    python::verify(&instance.given_back(), &workers.logs());
}

/// A stop is graceful: clients that go on see a lost connection at most, and nothing in doubt is lost.
#[test]
fn stopped_and_restarted_under_load_it_loses_nothing() {
    let instance = Instance::started(&[]);
    let mut workers = Workers::start(&instance.address, &instance.beside(""), true);
    for _ in 0..3 {
        workers.wait_for_more(3);
        instance.run(&["restart"]).ok();
        instance.run(&["status"]).ok().prints("optimal");
    }
    workers.wait_for_more(3);
    workers.end();
    python::verify(&instance.given_back(), &workers.logs());
}
