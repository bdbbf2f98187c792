//! The soak: three members of both kinds, eight clients, and a fault every five seconds, for as long as wanted. No
//! client may see an error, memory must be flat, and in the end all members have the same history.
//!
//! `tests/run --soak`; what may happen is in `strike`. At any moment a member is in sync that nothing was done to for
//! so long that the daemon has noticed everything of it; so there is always one to serve from, and whatever a client
//! sees is a mistake. The daemon itself is killed elsewhere (`coop`, `crash`): of that clients do notice.

mod jobs;
mod strike;
mod usage;

use std::collections::BTreeMap;
use std::fs;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use self::jobs::{Ended, Jobs};
use self::strike::{FILE, MEMBER_TIMEOUT, MEMBERS, Mend, Plan, Replaced, SETUP, Strike};
use self::usage::Usage;
use super::fault::Fault;
use crate::bad_input::peers::nonsense;
use crate::harness::instance::{PATIENCE, signal};
use crate::harness::python::{self, Script, Workers};
use crate::harness::raw::{Raw, Say};
use crate::harness::wait::pause;
use crate::harness::{Lab, until};

const CLIENTS: u64 = 8;
const MIX: &str = "blob,undo,iterate,cold,pack";

/// In seconds, after each commit of a client: what is written in half an hour must be copied in a few minutes.
const PAUSE: &str = "0.3";

/// Between two faults.
const EVERY: Duration = Duration::from_secs(5);

/// So long after it was mended a member may still be taken out for what was: nobody relies on it. A call is given up
/// after one and a half of the time limit (see `LONGEST_OPERATION`); the rest is for a busy machine.
const SETTLES: Duration = Duration::from_secs(MEMBER_TIMEOUT.as_secs() * 3 / 2 + 4);

/// A member that nothing is done to must be back after so long. All of a long run may have to be copied.
const BACK: Duration = Duration::from_mins(15);

/// Each client must have committed something within this time.
const GOES_ON: Duration = Duration::from_mins(2);

/// No operation of a client may take longer: after as much a client of ZEO says by itself that it is disconnected.
const LONGEST_OPERATION: Duration = Duration::from_secs(30);

struct Soak {
    lab: Lab,
    workers: Workers,
    random: fastrand::Rng,
    began: Instant,
    pid: i32,
    jobs: Jobs,
    usage: Usage,
    /// What is to be undone, and when; at most one of each member.
    mends: Vec<(Instant, usize, Mend)>,
    /// From when each member may be relied on, if it is optimal.
    settled: [Instant; 3],
    /// Since when each member is out without anybody's doing.
    out_since: [Option<Instant>; 3],
    guests: Vec<JoinHandle<()>>,
    counts: BTreeMap<&'static str, u64>,
    /// What was asked for and refused, or not brought to its end, with the reason.
    not_done: BTreeMap<String, u64>,
    asked_to_recover: u64,
    sprung: u64,
    /// When each client committed last, and how often it had.
    going: Vec<(usize, Instant)>,
    logs: u64,
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a number"))
}

#[test]
#[ignore = "takes half an hour: tests/run --soak"]
fn soaked_no_client_notices_and_all_members_are_the_same() {
    let seed = number("ZEORAID_SEED").unwrap_or_else(|| fastrand::u64(..));
    let seconds = number("ZEORAID_SOAK_SECONDS").unwrap_or(1800);
    eprintln!("ZEORAID_SEED={seed} ZEORAID_SOAK_SECONDS={seconds}");
    let mut soak = Soak::begin(fastrand::Rng::with_seed(seed));
    soak.run(Duration::from_secs(seconds));
    soak.gathers();
    soak.end(seed);
}

impl Soak {
    fn begin(random: fastrand::Rng) -> Self {
        let lab = Lab::started(SETUP);
        let folder = lab.instance.beside("");
        let more = &["--mix", MIX, "--pause", PAUSE, "--packed"];
        let mut workers = Workers::start_with(&lab.instance.address, &folder, CLIENTS, more);
        workers.wait_for_more(1);
        let now = Instant::now();
        let pid = lab.instance.pid().expect("a daemon runs");
        Soak {
            lab,
            workers,
            random,
            began: now,
            pid,
            jobs: Jobs::default(),
            usage: Usage::of(pid, now),
            mends: Vec::new(),
            settled: [now; 3],
            out_since: [None; 3],
            guests: Vec::new(),
            counts: strike::NAMES.map(|name| (name, 0)).into(),
            not_done: BTreeMap::new(),
            asked_to_recover: 0,
            sprung: 0,
            going: vec![(0, now); CLIENTS as usize],
            logs: 0,
        }
    }

    fn run(&mut self, time: Duration) {
        const LOOK_EVERY: Duration = Duration::from_secs(1);
        const SAY_EVERY: Duration = Duration::from_secs(30);
        let end = self.began + time;
        let (mut strike_at, mut look_at, mut say_at) = (self.began, self.began, self.began);
        while Instant::now() < end {
            let now = Instant::now();
            self.usage.look();
            self.mend_what_is_due(now);
            if now >= look_at {
                look_at = now + LOOK_EVERY;
                self.look();
            }
            if now >= say_at {
                say_at = now + SAY_EVERY;
                self.say();
            }
            if now >= strike_at {
                // Never two at once, where the one before took its time.
                strike_at = (strike_at + EVERY).max(Instant::now());
                self.strike();
            }
            pause();
        }
    }

    fn tell(&self, what: &str) {
        eprintln!("{:7.1}s {what}", self.began.elapsed().as_secs_f64());
    }

    /// The members, in the order of `MEMBERS`; one that is not configured now is none.
    fn members(&self) -> [Option<Value>; 3] {
        let details = self.lab.instance.details();
        assert_eq!(details["serving"], true, "it does not serve: {details:#}");
        let members = details["members"].as_array().expect("members are a list");
        MEMBERS.map(|name| {
            members
                .iter()
                .find(|member| member["name"] == name)
                .cloned()
        })
    }

    fn is_struck(&self, index: usize) -> bool {
        self.mends.iter().any(|(_, struck, _)| *struck == index)
    }

    /// Chooses until something can be done now, and does it.
    fn strike(&mut self) {
        let members = self.members();
        let now = Instant::now();
        let relied_on: Vec<usize> = (0..3)
            .filter(|index| !self.is_struck(*index) && self.settled[*index] <= now)
            .filter(|index| is_optimal(members[*index].as_ref()))
            .collect();
        loop {
            let plan = strike::plan(&mut self.random);
            let may = match (plan.strike, plan.member) {
                (Strike::Job(kind), _) => !self.jobs.runs(kind),
                (Strike::Rebuild(Replaced::OfBackup), _) if self.jobs.backup().is_none() => false,
                (_, None) => true,
                (_, Some(index)) => {
                    let is_there = is_optimal(members[index].as_ref());
                    // Who is being recovered is mostly left to it.
                    !self.is_struck(index)
                        && relied_on.iter().any(|other| *other != index)
                        && (is_there || self.random.u8(0..4) == 0)
                }
            };
            if may && self.does(plan, &members) {
                return;
            }
        }
    }

    /// Whether it was done: where the tool was refused it was not.
    fn does(&mut self, plan: Plan, members: &[Option<Value>; 3]) -> bool {
        let whom = plan.member.map_or("", |index| MEMBERS[index]);
        let name = plan.name();
        let mend = match plan.strike {
            Strike::Server(fault) => {
                self.tell(&format!("{whom}: {fault:?} for {:.1?}", plan.lasts));
                let index = plan.member.expect("a server");
                fault.strike(&mut self.lab, index);
                Some(Mend::Fault(fault))
            }
            Strike::Trap(moment, deed) => {
                self.tell(&format!("{whom}: {moment:?} {deed:?}"));
                let index = plan.member.expect("a server");
                self.lab.proxies[index].set_trap(moment, deed);
                Some(Mend::Trap)
            }
            Strike::Slow(by) => {
                self.tell(&format!("{whom}: slow by {by:.1?} for {:.1?}", plan.lasts));
                let index = plan.member.expect("a server");
                self.lab.proxies[index].slow_down(by);
                Some(Mend::Way)
            }
            Strike::Disable { verify } => {
                if !self.disable(whom) {
                    return false;
                }
                let how: &[&str] = if verify { &["--verify"] } else { &[] };
                self.tell(&format!("{whom}: disabled for {:.1?}", plan.lasts));
                Some(Mend::Recover(how))
            }
            Strike::Rebuild(replaced) => {
                if !is_optimal(members[FILE].as_ref()) || !self.disable(whom) {
                    return false;
                }
                self.tell(&format!("{whom}: disabled, will be {replaced:?}"));
                Some(Mend::Rebuild(replaced))
            }
            Strike::Remove => {
                strike::configure(&mut self.lab, plan.member);
                if !self.reload() {
                    strike::configure(&mut self.lab, None);
                    return false;
                }
                self.tell(&format!("{whom}: removed for {:.1?}", plan.lasts));
                Some(Mend::PutBack)
            }
            Strike::Job(kind) => {
                self.tell(name);
                if let Some(Ended::Not(why)) = self.jobs.start(kind, &self.lab.instance) {
                    self.not_done(kind.name(), &why);
                    return false;
                }
                None
            }
            Strike::Deaf | Strike::Asleep | Strike::Nonsense => {
                self.tell(name);
                self.guest(plan);
                None
            }
            Strike::HangUp => {
                self.tell(name);
                signal(self.pid, Signal::HUP);
                None
            }
            Strike::Reopen => {
                self.tell(name);
                self.rotate();
                None
            }
        };
        *self.counts.entry(name).or_default() += 1;
        if let (Some(mend), Some(index)) = (mend, plan.member) {
            self.mends.push((Instant::now() + plan.lasts, index, mend));
        }
        true
    }

    fn not_done(&mut self, what: &str, why: &str) {
        self.tell(&format!("{what}: not done: {why}"));
        *self.not_done.entry(what.to_owned()).or_default() += 1;
    }

    fn disable(&mut self, member: &str) -> bool {
        let run = self.lab.instance.run(&["disable", member, "--yes"]);
        if run.code == 0 {
            self.lab.instance.wait_member(member, "degraded");
            return true;
        }
        assert_eq!(run.code, 1, "{run}");
        self.not_done("disable", &run.stderr);
        false
    }

    fn reload(&mut self) -> bool {
        let run = self.lab.instance.run(&["reload"]);
        if run.code == 0 {
            return true;
        }
        assert_eq!(run.code, 1, "{run}");
        self.not_done("reload", &run.stderr);
        false
    }

    /// As `logrotate` does it.
    fn rotate(&mut self) {
        let log = self.lab.instance.path("var/log/zeoraid.log");
        self.logs += 1;
        let old = log.with_file_name(format!("zeoraid.log.{}", self.logs));
        fs::rename(&log, old).expect("there is a log");
        signal(self.pid, Signal::USR2);
        until("the log to be opened anew", PATIENCE, || log.exists());
    }

    /// Somebody who comes and goes beside the eight clients.
    fn guest(&mut self, plan: Plan) {
        let address = self.lab.instance.address.clone();
        let lasts = plan.lasts;
        let guest: Box<dyn FnOnce() + Send> = match plan.strike {
            Strike::Deaf => Box::new(move || {
                let mut deaf = Raw::registered(&address);
                for id in 0..3000 {
                    let [high, low] = u16::try_from(id % 300).expect("small").to_be_bytes();
                    let oid = [0, 0, 0, 0, 0, 0, high, low];
                    let now = [0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
                    let args = vec![Say::Bytes(&oid), Say::Bytes(&now)];
                    deaf.send_call(id, false, "loadBefore", args);
                }
                stay(lasts);
            }),
            Strike::Asleep => Box::new(move || {
                let mut asleep = Script::spawn("features.py", &["idle", &address]);
                asleep.wait_printed("ready");
                signal(asleep.pid(), Signal::STOP);
                stay(lasts);
                signal(asleep.pid(), Signal::CONT);
                asleep.end(GOES_ON).ok();
            }),
            _ => {
                let mut all = nonsense();
                let one = all.swap_remove(self.random.usize(0..all.len()));
                Box::new(move || one.is_told(&address))
            }
        };
        self.guests.push(std::thread::spawn(guest));
    }

    fn mend_what_is_due(&mut self, now: Instant) {
        let due: Vec<_> = self.mends.extract_if(.., |(at, ..)| *at <= now).collect();
        for (_, index, mend) in due {
            let again = self.mend(index, mend);
            self.settled[index] = Instant::now() + SETTLES;
            if let Some(mend) = again {
                const AGAIN: Duration = Duration::from_secs(1);
                self.mends.push((Instant::now() + AGAIN, index, mend));
            }
        }
    }

    /// Undoes it; what is refused for now is to be tried again.
    fn mend(&mut self, index: usize, mend: Mend) -> Option<Mend> {
        let name = MEMBERS[index];
        match mend {
            Mend::Fault(Fault::Killed) => {
                // Not waited for: a server that was killed reads all of its file first.
                self.lab.servers[index].launch();
                self.lab.proxies[index].mend();
                None
            }
            Mend::Fault(fault) => {
                fault.mend(&mut self.lab, index);
                None
            }
            Mend::Trap => {
                // Perhaps nobody ran into it.
                self.sprung += u64::from(self.lab.proxies[index].has_sprung());
                self.lab.proxies[index].mend();
                None
            }
            Mend::Way => {
                self.lab.proxies[index].mend();
                None
            }
            Mend::Recover(how) => {
                self.tell(&format!("{name}: recover {}", how.join(" ")));
                let mut args = vec!["recover", name, "--detach", "--yes"];
                args.extend(how);
                let run = self.lab.instance.run(&args);
                if run.code == 0 || run.stderr.contains("is being recovered, or waits for it") {
                    return None;
                }
                assert_eq!(run.code, 1, "{run}");
                self.not_done("recover", &run.stderr);
                Some(mend)
            }
            Mend::Rebuild(replaced) => {
                let data = self.lab.file(1);
                match replaced {
                    Replaced::By(damage) => damage.is_done_to(&data),
                    Replaced::OfBackup => {
                        let backup = self.jobs.backup().expect("there is one").join("Data.fs");
                        // Another file, as a restore makes it.
                        fs::remove_file(&data).expect("it is there");
                        fs::copy(backup, &data).expect("copying a Data.fs");
                    }
                }
                Some(Mend::Recover(&["--rebuild"]))
            }
            Mend::PutBack => {
                strike::configure(&mut self.lab, None);
                self.tell(&format!("{name}: put back"));
                (!self.reload()).then_some(Mend::PutBack)
            }
        }
    }

    /// That everything is as it must be, and that nothing is left lying.
    fn look(&mut self) {
        assert_eq!(
            self.lab.instance.pid(),
            Some(self.pid),
            "the daemon is gone"
        );
        self.workers.check_alive();
        for (kind, ended) in self.jobs.ended(&self.lab.instance) {
            match ended {
                Ended::Done => self.tell(&format!("{} done", kind.name())),
                Ended::Not(why) => self.not_done(kind.name(), &why),
            }
        }
        for guest in self.guests.extract_if(.., |guest| guest.is_finished()) {
            guest
                .join()
                .expect("a guest that is treated as it should be");
        }
        let members = self.members();
        for (index, member) in members.iter().enumerate() {
            self.look_after(index, member.as_ref());
        }
    }

    /// Whoever is out is recovered by the daemon, or by `recover` after a while.
    fn look_after(&mut self, index: usize, member: Option<&Value>) {
        /// Between two requests.
        const ASK_EVERY: Duration = Duration::from_secs(20);
        let Some(member) = member.filter(|_| !self.is_struck(index)) else {
            self.out_since[index] = None;
            return;
        };
        if is_optimal(Some(member)) {
            self.out_since[index] = None;
            if index == FILE {
                self.tidy();
            }
            return;
        }
        let reason = member["reason"].as_str().unwrap_or_default();
        assert!(!reason.contains("diverged"), "{member:#}");
        let now = Instant::now();
        let since = *self.out_since[index].get_or_insert(now);
        assert!(
            now < since + BACK,
            "{} is not back after {BACK:?}: {member:#}",
            MEMBERS[index]
        );
        let outlook = member["outlook"].as_str().unwrap_or_default();
        let is_in_line = outlook.contains("waits for the recovery of");
        // Nothing happens to `settled` here but that it is asked again later.
        if member["state"] == "degraded"
            && !is_in_line
            && now > self.settled[index].max(since) + ASK_EVERY
        {
            self.asked_to_recover += 1;
            self.tell(&format!("{} is asked to recover: {member}", MEMBERS[index]));
            let args = ["recover", MEMBERS[index], "--detach", "--yes"];
            let run = self.lab.instance.run(&args);
            assert!(run.code <= 1, "{run}");
            self.settled[index] = now;
        }
    }

    /// Removes what rebuilding has set aside, as an operator does who has looked at it: else the disk fills.
    fn tidy(&self) {
        let data = self.lab.file(1);
        let blobs = data.with_file_name("blobs");
        for folder in [data.parent().expect("it lies in a folder"), &blobs] {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if !name.contains("aside") && !name.contains("damaged") {
                    continue;
                }
                let path = entry.path();
                let done = if path.is_dir() {
                    fs::remove_dir_all(&path)
                } else {
                    fs::remove_file(&path)
                };
                done.unwrap_or_else(|error| panic!("removing {}: {error}", path.display()));
            }
        }
    }

    /// How it goes, and that it goes on.
    fn say(&mut self) {
        let commits = self.workers.acknowledged();
        let now = Instant::now();
        for (index, (before, (known, since))) in commits.iter().zip(&mut self.going).enumerate() {
            if *before > *known {
                (*known, *since) = (*before, now);
            }
            assert!(
                now < *since + GOES_ON,
                "client {index} has not committed since {:?}: {commits:?}",
                now - *since
            );
        }
        let states: Vec<String> = self
            .members()
            .iter()
            .zip(MEMBERS)
            .map(|(member, name)| {
                let state = member.as_ref().map(|member| &member["state"]);
                format!(
                    "{name} {}",
                    state.and_then(Value::as_str).unwrap_or("removed")
                )
            })
            .collect();
        self.tell(&format!(
            "{} commits; {}; {}",
            commits.iter().sum::<usize>(),
            states.join(", "),
            self.usage.now()
        ));
    }

    /// Nothing more happens: everybody is mended, and comes back.
    fn gathers(&mut self) {
        self.tell("no more faults");
        for (at, ..) in &mut self.mends {
            *at = Instant::now();
        }
        let end = Instant::now() + BACK * 2;
        loop {
            self.usage.look();
            self.mend_what_is_due(Instant::now());
            self.look();
            let members = self.members();
            let all = members.iter().all(|member| is_optimal(member.as_ref()));
            if all && self.mends.is_empty() && self.guests.is_empty() && self.jobs.none_runs() {
                break;
            }
            assert!(Instant::now() < end, "not all are back: {members:#?}");
            pause();
        }
        self.lab.instance.wait_optimal();
        self.workers.wait_for_more(1);
        for kind in jobs::Kind::ALL {
            self.jobs.must_do(kind, &self.lab.instance, BACK);
        }
        self.usage.look();
    }

    fn end(mut self, seed: u64) {
        let totals = self.workers.end();
        let logs = self.workers.logs();
        let found = self.lab.compare(&logs);
        let backup = self.jobs.backup().expect("it was made").join("Data.fs");
        let backup = python::run_for(
            "backup_read.py",
            &[backup.to_str().expect("a plain path")],
            BACK * 2,
        );
        let mut faults = String::new();
        for (name, count) in &self.counts {
            faults += &format!("  {count:5}  {name}\n");
        }
        eprintln!(
            "seed {seed}\n{} faults:\n{faults}{} of the traps sprung\nnot done: {:?}; `recover` was asked for {} times \
             beside\n{totals:?}\n{}\nmembers: {found}\nbackup: {}",
            self.counts.values().sum::<u64>(),
            self.sprung,
            self.not_done,
            self.asked_to_recover,
            self.usage.summary(),
            backup.stdout.trim(),
        );
        backup.ok();
        assert_eq!(totals.errors, 0, "a client noticed: {totals:?}");
        assert_eq!(found["committed"], totals.commits, "{found} {totals:?}");
        assert!(
            totals.longest_operation <= LONGEST_OPERATION,
            "a client waited too long: {totals:?}"
        );
        assert_eq!(self.usage.growth(), None);
    }
}

fn is_optimal(member: Option<&Value>) -> bool {
    member.is_some_and(|member| member["state"] == "optimal")
}

/// Waits for so long.
fn stay(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        pause();
    }
}
