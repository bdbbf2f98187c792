//! What goes wrong, what operators do, and how all is well again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, sleep, timeout};

use super::start::Start;
use super::world::World;
use super::{excuse, network, trace};
use crate::admin::api::{
    Job, JobState, PackRequest, RateLimit, RecoverRequest, ScrubRequest, Strategy,
};
use crate::raid::{ArrayState, Finding, RecoveryOutcome};
use crate::zodb::Tid;

/// How long it may take until all is well, once nothing goes wrong any more.
const HEALED_AFTER: Duration = Duration::from_mins(15);

fn ms(from: u64, to: u64) -> Duration {
    Duration::from_millis(fastrand::u64(from..to))
}

impl World {
    /// Faults at random moments, for a while. Each ends by itself after a time.
    pub(super) async fn chaos(self: &Arc<Self>) {
        self.keep_copies();
        for _ in 0..fastrand::u32(6..20) {
            sleep(ms(50, 4000)).await;
            self.faults.fetch_add(1, Ordering::SeqCst);
            self.fault().await;
            if trace::failure().is_some() {
                return;
            }
        }
    }

    async fn fault(self: &Arc<Self>) {
        let daemon = fastrand::usize(..self.daemons());
        let servers = self.servers();
        let server =
            (!servers.is_empty()).then(|| servers[fastrand::usize(..servers.len())].clone());
        let pairs = self.pairs();
        let (one, other) = pairs[fastrand::usize(..pairs.len())].clone();
        let machines = self.machines();
        let machine = &machines[fastrand::usize(..machines.len())];
        let drives = self.drives();
        let drive = Arc::clone(&drives[fastrand::usize(..drives.len())]);
        let disturbed = |lasts: Duration| {
            for host in [&one, &other]
                .into_iter()
                .filter(|host| host.starts_with('c'))
            {
                self.excuses.give(host, lasts + excuse::AFTER_A_NETWORK);
            }
        };
        match (fastrand::u8(..32), server) {
            (0 | 1, _) => {
                let power = fastrand::bool();
                trace::note(format!("d{} dies, power: {power}", daemon + 1));
                self.hold_daemon(daemon, true);
                self.crash_daemon(daemon, power).await;
                let this = Arc::clone(self);
                later(ms(10, 9000), move || this.hold_daemon(daemon, false));
            }
            (2, _) => {
                trace::note(format!("d{} is restarted", daemon + 1));
                self.stop_daemon(daemon).await;
            }
            (3..6, Some(name)) => {
                let power = fastrand::bool();
                trace::note(format!("z{name} dies, power: {power}"));
                self.hold_server(&name, true);
                self.crash_server(&name, power).await;
                let this = Arc::clone(self);
                later(ms(10, 9000), move || this.hold_server(&name, false));
            }
            (6, Some(name)) => {
                trace::note(format!("z{name} is restarted"));
                self.stop_server(&name).await;
            }
            (7 | 8, _) => {
                let both = fastrand::bool();
                let lasts = ms(10, 9000);
                trace::note(format!(
                    "{one} and {other} are held apart, both ways: {both}, for {lasts:?}"
                ));
                disturbed(lasts);
                let there = both || fastrand::bool();
                if there {
                    network::block(&one, &other);
                }
                network::block(&other, &one);
                later(lasts, move || {
                    if there {
                        network::unblock(&one, &other);
                    }
                    network::unblock(&other, &one);
                });
            }
            (9, _) => {
                trace::note(format!("{one} and {other} are cut"));
                disturbed(Duration::ZERO);
                network::cut(&one, &other);
            }
            (10, _) => {
                let lasts = ms(1000, 9000);
                disturbed(lasts);
                let slow = fastrand::u64(50..2500);
                trace::note(format!("{one} to {other} takes {slow} ms, for {lasts:?}"));
                network::slow(&one, &other, slow);
                network::slow(&other, &one, slow);
                later(lasts, move || {
                    network::hasten(&one, &other, slow);
                    network::hasten(&other, &one, slow);
                });
            }
            (11, _) => {
                let times = fastrand::u32(10..600);
                trace::note(format!(
                    "the disk of {} is {times} times slower",
                    drive.name
                ));
                self.excuses.give(&drive.name, excuse::OF_A_DISK);
                drive.slowness.store(times, Ordering::SeqCst);
                later(ms(1000, 9000), move || drive.mend());
            }
            (12, _) => {
                trace::note(format!("the disk of {} is full", drive.name));
                self.excuses.give(&drive.name, excuse::OF_A_DISK);
                drive.full.store(true, Ordering::SeqCst);
                later(ms(1000, 9000), move || drive.mend());
            }
            (13, _) => {
                trace::note(format!("the next sync of {} fails", drive.name));
                self.excuses.give(&drive.name, excuse::OF_A_DISK);
                drive.sync_fails.store(true, Ordering::SeqCst);
            }
            (14, _) => {
                let most = if fastrand::bool() { 3_000 } else { 3_600_000 };
                let jump = fastrand::i64(-most..most);
                trace::note(format!("the clock of {} jumps by {jump} ms", machine.name));
                machine.clock_ms.fetch_add(jump, Ordering::SeqCst);
            }
            (15, _) => {
                let number = fastrand::usize(..self.shape.clients);
                trace::note(format!("c{} dies", number + 1));
                self.crash_client(number).await;
            }
            (16, _) => {
                let lasts = ms(200, 9000);
                let name = format!("d{}", daemon + 1);
                self.excuses.give(&name, lasts + excuse::AFTER_A_STOP);
                self.freeze(&name, lasts);
            }
            (17, Some(name)) => self.freeze(&format!("z{name}"), ms(200, 9000)),
            (18, Some(_)) if self.daemons() == 1 => self.start_with_what_is_there().await,
            (19..22, _) => self.put_copy_back(daemon).await,
            (22, _) => self.keep_copies(),
            (23, _) if self.daemons() == 1 => self.start_without_a_file().await,
            _ => self.operator(daemon),
        }
    }

    fn some_member(&self) -> String {
        let members = &self.shape.members;
        members[fastrand::usize(..members.len())].0.clone()
    }

    /// The daemon dies with some of the servers, and its operator wants to go on with the others.
    async fn start_with_what_is_there(self: &Arc<Self>) {
        let force = fastrand::bool();
        let policy = if force {
            self.shape.start_policy
        } else {
            "newest"
        };
        let power = fastrand::bool();
        trace::note(format!("d1 dies with some servers, force: {force}"));
        self.hold_daemon(0, true);
        self.crash_daemon(0, power).await;
        for server in self.servers() {
            if fastrand::bool() {
                self.hold_server(&server, true);
                self.crash_server(&server, power).await;
                let this = Arc::clone(self);
                later(ms(1000, 20_000), move || this.hold_server(&server, false));
            }
        }
        *self.next_start.lock() = Some(Start { policy, force });
        let this = Arc::clone(self);
        later(ms(10, 3000), move || this.hold_daemon(0, false));
    }

    /// The daemon dies with its machine, and starts without a file whose disk is not there then. Its operator adds
    /// it again later. Its disk was the fastest until then, so it may hold what none of the others does.
    async fn start_without_a_file(self: &Arc<Self>) {
        let files = self.shape.members.iter().filter(|(_, is_zeo)| !is_zeo);
        let files: Vec<&str> = files.map(|(name, _)| name.as_str()).collect();
        if files.is_empty() || self.shape.members.len() <= self.shape.min_optimal {
            return;
        }
        let member = files[fastrand::usize(..files.len())];
        trace::note(format!(
            "all are slow but {member}, d1 dies, and starts without it"
        ));
        let fast = [String::from("d1"), format!("d1/{member}")];
        let mut slow = self.drives();
        slow.retain(|drive| !fast.contains(&drive.name));
        for drive in &slow {
            drive.slowness.store(200, Ordering::SeqCst);
        }
        sleep(ms(200, 2000)).await;
        self.hold_daemon(0, true);
        self.crash_daemon(0, true).await;
        for drive in &slow {
            drive.mend();
        }
        self.configure(0, Some(member));
        let this = Arc::clone(self);
        later(ms(10, 3000), move || this.hold_daemon(0, false));
        let this = Arc::clone(self);
        later(ms(4000, 20_000), move || this.change_members(None));
    }

    /// An operator's command, of whatever use.
    fn operator(self: &Arc<Self>, daemon: usize) {
        let Some(whole) = self.whole(daemon) else {
            return;
        };
        let member = self.some_member();
        let members = self.shape.members.len();
        let what = fastrand::u8(..12);
        if what == 5 || what == 6 {
            // Several daemons are for three or more servers: over one, none can be added to it any more.
            let may_leave = self.daemons() == 1 || members > 2;
            let leaves = (what == 5 && may_leave).then_some(member.as_str());
            self.change_members(leaves);
            return;
        }
        let to = self.pack_time();
        if what == 8 && to.is_none() {
            return;
        }
        let rebuild = fastrand::u8(..4) == 0;
        drop(self.in_daemon(daemon, async move {
            let api = whole.api();
            let command = async {
                match what {
                    0 | 1 => {
                        trace::note(format!("disable {member}"));
                        api.disable("main", &member).await.map(drop)
                    }
                    2 | 3 => {
                        let strategy = match (rebuild, fastrand::bool()) {
                            (true, _) => Strategy::Rebuild,
                            (false, true) => Strategy::Verify,
                            (false, false) => Strategy::Missing,
                        };
                        trace::note(format!("recover {member}, {strategy:?}"));
                        let request = RecoverRequest {
                            strategy,
                            rate: RateLimit::default(),
                        };
                        api.recover("main", &member, request).await.map(drop)
                    }
                    4 => {
                        trace::note("cancel the recovery");
                        api.cancel_recovery("main").await.map(drop)
                    }
                    8 => {
                        trace::note(format!("pack to {to:?}"));
                        api.pack("main", PackRequest { to }).await.map(drop)
                    }
                    9 => {
                        let runs = |job: &Job| job.state == JobState::Running;
                        let jobs = api.jobs().await?;
                        match jobs.into_iter().find(runs) {
                            Some(job) => {
                                trace::note(format!("cancel {}", job.id));
                                api.cancel_job(&job.id).await.map(drop)
                            }
                            None => Ok(()),
                        }
                    }
                    10 => {
                        let rate = RateLimit {
                            paused: fastrand::bool(),
                            transactions_per_second: Some(fastrand::u64(1..50)),
                            bytes_per_second: None,
                        };
                        trace::note(format!("the recovery's rate: {rate:?}"));
                        api.change_recovery("main", rate).await?;
                        sleep(ms(100, 5000)).await;
                        trace::note("the recovery goes on");
                        let rate = RateLimit::default();
                        api.change_recovery("main", rate).await.map(drop)
                    }
                    _ => {
                        trace::note("scrub");
                        api.scrub("main", ScrubRequest::default()).await.map(drop)
                    }
                }
            };
            match timeout(Duration::from_mins(1), command).await {
                Ok(Ok(())) => {}
                Ok(Err(problem)) => trace::note(format!("refused: {problem}")),
                Err(_) => trace::fail(format!("command {what} is not answered")),
            }
        }));
    }

    /// To when an operator packs, where somebody packs in this history.
    fn pack_time(&self) -> Option<Timestamp> {
        if !self.shape.packs {
            return None;
        }
        let last = self.truth.last_acknowledged().and_then(Tid::time)?;
        let time = last - ms(0, 20_000);
        self.truth
            .packs(Tid::from_time(time + Duration::from_millis(10)));
        Some(time)
    }

    /// What members there are is changed in every daemon, one after the other: daemons over the same members
    /// have the same configuration. One that does not run has it when it starts. Where one is told that nothing
    /// would serve then, it is taken back in all of them.
    fn change_members(self: &Arc<Self>, without: Option<&str>) {
        trace::note(format!("reload, without {without:?}"));
        for daemon in 0..self.daemons() {
            self.configure(daemon, without);
            let Some(whole) = self.whole(daemon) else {
                continue;
            };
            let this = Arc::clone(self);
            let leaves = without.is_some();
            drop(self.in_daemon(daemon, async move {
                let api = whole.api();
                match timeout(Duration::from_mins(1), api.reload(false)).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(problem)) => {
                        trace::note(format!("refused: {problem}"));
                        if leaves {
                            this.change_members(None);
                        }
                    }
                    Err(_) => trace::fail("a reload is not answered"),
                }
            }));
        }
    }

    /// Ends all faults, and waits until everything is well.
    pub(super) async fn heal(self: &Arc<Self>) {
        trace::note("all faults are over");
        self.is_calm.store(true, Ordering::SeqCst);
        network::heal();
        for drive in self.drives() {
            drive.mend();
        }
        for daemon in 0..self.daemons() {
            self.hold_daemon(daemon, false);
            self.configure(daemon, None);
        }
        for server in self.servers() {
            self.hold_server(&server, false);
        }
        for daemon in 0..self.daemons() {
            if self.whole(daemon).is_none() {
                // It could not start with the configuration that it had, or its disk.
                self.crash_daemon(daemon, false).await;
            }
        }
        self.supervise();
        // One whose disk has failed refuses everything until then. All others come back by themselves.
        for server in self.servers() {
            if self.drive_has_failed(&server) {
                self.stop_server(&server).await;
            }
        }
        self.supervise();
        let deadline = Instant::now() + HEALED_AFTER;
        // Whatever may be left of faults ends by itself first.
        sleep(Duration::from_secs(15)).await;
        network::heal();
        for drive in self.drives() {
            drive.mend();
        }
        for daemon in 0..self.daemons() {
            // An operator may have written another one meanwhile.
            self.configure(daemon, None);
            if let Some(whole) = self.whole(daemon) {
                drop(self.in_daemon(daemon, async move {
                    if let Err(problem) = whole.api().reload(false).await {
                        trace::note(format!("reload is refused: {problem}"));
                    }
                }));
            }
        }
        loop {
            if trace::failure().is_some() {
                return;
            }
            let mut well = true;
            for daemon in 0..self.daemons() {
                well &= self.recover_all(daemon).await;
            }
            if well {
                return;
            }
            if Instant::now() > deadline {
                for daemon in 0..self.daemons() {
                    let report = self.whole(daemon).map(|whole| whole.report());
                    trace::note(format!("d{}: {report:#?}", daemon + 1));
                }
                trace::fail("it does not become well");
                return;
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// Whether a daemon's array is optimal; otherwise does what its operator would.
    async fn recover_all(self: &Arc<Self>, daemon: usize) -> bool {
        let Some(whole) = self.whole(daemon) else {
            return false;
        };
        let report = whole.report();
        if report.members.len() < self.shape.members.len() {
            let whole = whole.clone();
            drop(self.in_daemon(daemon, async move {
                drop(whole.api().reload(false).await);
            }));
            return false;
        }
        if report.state == ArrayState::Optimal {
            return true;
        }
        let failed = report
            .recovery
            .as_ref()
            .and_then(|recovery| match &recovery.outcome {
                RecoveryOutcome::Failed { next, .. } => {
                    Some((recovery.member.clone(), next.clone()))
                }
                _ => None,
            });
        for member in report.members.iter().filter(|member| member.needs_operator) {
            let next = match failed.as_ref().filter(|(name, _)| *name == member.name) {
                Some((_, next)) => next.clone(),
                // The recovery of another one has begun since, and its own is not told of any more.
                None => self.what_next(daemon, &member.name).await,
            };
            let next = next.unwrap_or_default();
            let mut strategy = Strategy::Missing;
            if next.contains("move its Data.fs") {
                trace::note(format!("{} is emptied", member.name));
                self.must_not_be_needed(daemon, &member.name);
                self.is_another_copy(daemon, &member.name);
                self.empty_server(&member.name).await;
            } else if next.contains("--rebuild") {
                self.must_not_be_needed(daemon, &member.name);
                strategy = Strategy::Rebuild;
            }
            let (whole, name) = (whole.clone(), member.name.clone());
            drop(self.in_daemon(daemon, async move {
                let rate = RateLimit::default();
                let request = RecoverRequest { strategy, rate };
                if let Err(problem) = whole.api().recover("main", &name, request).await {
                    trace::note(format!("recover {name}: {problem}"));
                }
            }));
        }
        false
    }
}

impl World {
    /// What an operator learns who asks for an analysis, as `recover --interactive` does.
    async fn what_next(&self, daemon: usize, member: &str) -> Option<String> {
        let whole = self.whole(daemon)?;
        let (told, hears) = tokio::sync::oneshot::channel();
        let name = member.to_owned();
        let asking = self.in_daemon(daemon, async move {
            told.send(whole.analyse(&name).await).ok();
        });
        drop(asking?);
        let found = timeout(Duration::from_mins(1), hears).await;
        let Ok(Ok(Some(found))) = found else {
            return None;
        };
        // It may have been recovered meanwhile.
        let members = self.whole(daemon)?.report().members;
        let found_again = members.iter().find(|found| found.name == member);
        let still = found_again.is_some_and(|found| found.needs_operator);
        let diverged = still && matches!(found.finding, Finding::Diverged { .. });
        let rebuild = || format!("zeoraidctl recover --rebuild {member}");
        diverged.then(|| found.next.unwrap_or_else(rebuild))
    }
}

/// Does something after a while.
fn later(after: Duration, work: impl FnOnce() + Send + 'static) {
    drop(super::spawn(async move {
        sleep(after).await;
        work();
    }));
}
