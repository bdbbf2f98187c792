//! Two daemons over three servers: whatever is killed, the counters are exact.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::instance::PATIENCE;
use crate::harness::python::{self, Script, Workers};
use crate::harness::{Instance, Lab, LabSetup, until, until_ok, wait};

const COOP: LabSetup = LabSetup {
    blobs: false,
    settings: "cluster_mode: coop\nlock_timeout: 15s",
    ..LabSetup::THREE
};

/// Two daemons with the same members.
fn two() -> (Lab, Instance) {
    two_with(COOP)
}

fn two_with(setup: LabSetup) -> (Lab, Instance) {
    let lab = Lab::new(setup);
    let other = Instance::new();
    lab.configure(&other, &[0, 1, 2]);
    lab.instance.start().ok();
    lab.instance.wait_optimal();
    other.start().ok();
    other.wait_optimal();
    (lab, other)
}

fn both(lab: &Lab, other: &Instance) -> String {
    format!("{},{}", lab.instance.address, other.address)
}

#[test]
fn two_daemons_write_to_the_same_servers() {
    let (lab, other) = two();
    // Half of the clients at each.
    let folder = lab.instance.beside("");
    let mut here = Workers::start_with(&lab.instance.address, &folder, 2, &["--mix", "undo,cold"]);
    let mut there = Workers::join(&other.address, &folder, 2, 2, &["--mix", "undo,cold"]);
    here.wait_for_more(10);
    there.wait_for_more(10);
    let totals = there.end();
    assert_eq!(totals.errors, 0, "{totals:?}");
    let totals = here.end();
    assert_eq!(totals.errors, 0, "{totals:?}");
    let mut logs = here.logs();
    logs.extend(there.logs());
    lab.instance.wait_optimal();
    other.wait_optimal();
    other.stop().ok();
    let mut lab = lab;
    lab.compare(&logs);
}

#[test]
fn a_client_goes_to_the_other_daemon_and_verifies_its_cache() {
    let (lab, other) = two();
    let cache = lab.instance.beside("cache.zec");
    let cache = cache.to_str().expect("a plain path");
    python::run("features.py", &["cache_fill", &lab.instance.address, cache]).ok();
    // What was cached is changed through the other daemon while the client is away.
    python::run("features.py", &["cache_change", &other.address]).ok();
    lab.instance.kill9();
    python::run("features.py", &["cache_check", &other.address, cache]).ok();
    lab.instance.start().ok();
    lab.instance.wait_optimal();
    let mut lab = lab;
    other.stop().ok();
    lab.compare(&[]);
}

/// What README says of it: its locks stay until it is gone, and the others cannot do without them.
#[test]
fn a_daemon_that_is_stopped_within_a_commit_stops_the_others_until_it_is_killed() {
    let (mut lab, other) = two_with(LabSetup {
        settings: "cluster_mode: coop\nlock_timeout: 3s",
        ..COOP
    });
    let mut holder = Script::spawn("features.py", &["vote_and_hold", &other.address]);
    holder.wait_printed("voted");
    other.freeze();
    let _waits = Script::spawn("features.py", &["plain_visit", &lab.instance.address]);
    until_ok("the locks to be given up", PATIENCE, || {
        let details = lab.instance.try_details()?;
        if details["serving"] == false {
            Ok(())
        } else {
            Err(format!("{details:#}"))
        }
    });
    other.kill9();
    lab.instance.wait_optimal();
    python::run("features.py", &["plain_visit", &lab.instance.address]).ok();
    other.start().ok();
    other.wait_optimal();
    other.stop().ok();
    lab.compare(&[]);
}

/// A start by force could serve from less than what another daemon has acknowledged since; that one more copy is
/// compared loses nothing.
#[test]
fn a_start_that_lacks_others_compares_who_was_disabled_once_it_is_recovered() {
    let mut lab = Lab::started(COOP);
    lab.instance.run(&["disable", "zeo1"]).ok();
    python::run("features.py", &["plain_visit", &lab.instance.address]).ok();
    lab.instance.stop().ok();
    lab.servers[1].kill9();
    // It waits, and goes on to wait when the tool does not any more.
    lab.instance.run(&["start", "--timeout", "2s"]).ended(1);
    lab.instance
        .run(&["details"])
        .prints("bring back zeo2, or: zeoraidctl recover zeo1");
    lab.instance
        .run(&["recover", "zeo1"])
        .ok()
        .says("may be compared with the others");
    lab.instance.wait_member("zeo1", "optimal");
    python::run("features.py", &["plain_visit", &lab.instance.address]).ok();
    lab.servers[1].start();
    lab.instance.wait_optimal();
    lab.compare(&[]);
}

/// What is killed in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    /// The first daemon.
    Here,
    /// The second.
    There,
    Server(usize),
}

use Victim::{Here, Server, There};

const ALL: [Victim; 5] = [Here, There, Server(0), Server(1), Server(2)];

fn victims(random: &mut fastrand::Rng) -> Vec<Victim> {
    let two_servers = |one: usize| vec![Server(one), Server((one + 1) % 3)];
    match random.u8(0..10) {
        0 => vec![Here, There],
        1 => two_servers(random.usize(0..3)),
        // A daemon and a server.
        2 | 3 => vec![ALL[random.usize(0..2)], ALL[random.usize(2..5)]],
        _ => vec![ALL[random.usize(0..5)]],
    }
}

/// Both daemons, and what was killed since all members were there.
struct Lot<'a> {
    other: &'a Instance,
    struck: Vec<Victim>,
    emptied: usize,
}

impl Lot<'_> {
    /// Waits until both daemons have all members.
    ///
    /// Where a server and somebody else died before the members were back, it may hold a transaction that
    /// nobody else got and no client was told of: nobody but its operator can take that out. He does it
    /// where neither daemon has it in its set. After a single death there must be nothing of the kind.
    fn gathers(&mut self, lab: &mut Lab) {
        until_ok("all members to be back", PATIENCE * 3, || {
            let seen = [lab.instance.try_details()?, self.other.try_details()?];
            let is_whole = |of: &Value| of["state"] == "optimal" && of["serving"] == true;
            if seen.iter().all(is_whole) {
                return Ok(());
            }
            for index in 0..lab.servers.len() {
                let members = seen.each_ref().map(|of| &of["members"][index]);
                let is_out = members.iter().all(|member| member["state"] != "optimal");
                let diverged = |member: &&Value| {
                    let reason = member["reason"].as_str().unwrap_or_default();
                    member["state"] == "degraded" && reason.contains("diverged")
                };
                if is_out && members.iter().any(diverged) {
                    assert!(self.struck.len() > 1, "{:?}: {seen:#?}", self.struck);
                    self.is_emptied(lab, index);
                }
            }
            Err(format!("{seen:#?}"))
        });
        self.struck.clear();
    }

    fn is_emptied(&mut self, lab: &mut Lab, index: usize) {
        self.emptied += 1;
        let server = &mut lab.servers[index];
        eprintln!("emptying {}", server.name);
        server.kill9();
        server.empty();
        server.start();
        for daemon in [&lab.instance, self.other] {
            // One may be recovering it by itself.
            daemon.run(&["recover", &server.name, "--detach"]);
        }
    }
}

/// Waits for so long: nothing is waited for but chance.
fn let_pass(milliseconds: u64) {
    let moment = Instant::now() + Duration::from_millis(milliseconds);
    while Instant::now() < moment {
        wait::pause();
    }
}

/// Kills daemons and servers in random order under a load of counters that conflict, as often as not while
/// members are being recovered from the kill before. Two of the clients keep their caches on disk, and come
/// back with them now and then. A short run; `tests/run --long` is a long one.
#[test]
fn daemons_and_servers_are_killed_at_random_and_the_counters_are_exact() {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().expect("a number"))
    };
    let seed = number("ZEORAID_SEED").unwrap_or_else(|| fastrand::u64(..));
    let seconds = number("ZEORAID_LAB_SECONDS").unwrap_or(45);
    eprintln!("ZEORAID_SEED={seed} ZEORAID_LAB_SECONDS={seconds}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut lab, other) = two();
    let folder = lab.instance.beside("");
    let addresses = both(&lab, &other);
    let cache = folder.join("{}.zec").display().to_string();
    let mut more = vec!["--mix", "undo,cold", "--pause", "0.05", "--tolerant"];
    let workers = Workers::start_with(&addresses, &folder, 2, &more);
    // Nothing is read past the cache.
    more[1] = "undo";
    more.extend(["--cache", &cache]);
    let mut workers = workers.and(Workers::join(&addresses, &folder, 2, 2, &more));
    workers.wait_for_more(3);
    let (mut rounds, mut struck_again, mut returned) = (0, 0, 0);
    let mut lot = Lot {
        other: &other,
        struck: Vec::new(),
        emptied: 0,
    };
    let end_at = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end_at {
        rounds += 1;
        let_pass(random.u64(0..1500));
        let victims = victims(&mut random);
        eprintln!("killing {victims:?}");
        // Where all were there, one may be missing.
        let served = lot.struck.is_empty() && victims.len() == 1;
        lot.struck.extend(&victims);
        for victim in &victims {
            match victim {
                Here => kill(&lab.instance),
                There => kill(&other),
                Server(index) => lab.servers[*index].kill9(),
            }
        }
        if served && random.bool() {
            let before: usize = workers.acknowledged().iter().sum();
            until("a client to go on without it", PATIENCE, || {
                workers.check_alive();
                workers.acknowledged().iter().sum::<usize>() > before
            });
        }
        let returns = random.bool().then(|| random.usize(2..4));
        if let Some(client) = returns.filter(|_| served) {
            // Its cache is verified by whoever is there.
            returned += 1;
            workers.restart(client);
        }
        for victim in &victims {
            match victim {
                Here => drop(lab.instance.run(&["start", "--no-wait"])),
                There => drop(other.run(&["start", "--no-wait"])),
                Server(index) => lab.servers[*index].start(),
            }
        }
        if random.bool() {
            struck_again += 1;
            continue;
        }
        lot.gathers(&mut lab);
        workers.wait_for_more(1);
    }
    lot.gathers(&mut lab);
    eprintln!(
        "{rounds} rounds; {struck_again} did not wait for the members; clients returned {returned} times; {} \
         servers were emptied",
        lot.emptied
    );
    workers.wait_for_more(1);
    let totals = workers.end();
    other.stop().ok();
    let found = lab.compare(&workers.logs());
    eprintln!("{totals:?} {found}");
    totals.assert_exact(&found);
}

/// One that has just been started may not have said its number yet.
fn kill(daemon: &Instance) {
    until("a daemon to kill", PATIENCE, || daemon.pid().is_some());
    daemon.kill9();
}
