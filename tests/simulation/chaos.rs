//! What goes wrong, what operators do, and how all is well again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::world::World;
use super::{excuse, network, trace};
use crate::admin::api::{RateLimit, RecoverRequest, ScrubRequest, Strategy};
use crate::raid::{ArrayState, RecoveryOutcome};

/// How long it may take until all is well, once nothing goes wrong any more.
const HEALED_AFTER: Duration = Duration::from_mins(15);

fn ms(from: u64, to: u64) -> Duration {
    Duration::from_millis(fastrand::u64(from..to))
}

impl World {
    /// Faults at random moments, for a while. Each ends by itself after a time.
    pub(super) async fn chaos(self: &Arc<Self>) {
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
        let disturbed = || {
            for host in [&one, &other]
                .into_iter()
                .filter(|host| host.starts_with('c'))
            {
                self.excuses.give(host, excuse::OF_A_NETWORK);
            }
        };
        match (fastrand::u8(..24), server) {
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
                trace::note(format!(
                    "{one} and {other} are held apart, both ways: {both}"
                ));
                disturbed();
                if both || fastrand::bool() {
                    network::block(&one, &other);
                }
                network::block(&other, &one);
                later(ms(10, 9000), network::heal);
            }
            (9, _) => {
                trace::note(format!("{one} and {other} are cut"));
                disturbed();
                network::cut(&one, &other);
            }
            (10, _) => {
                disturbed();
                let slow = fastrand::u64(50..2500);
                trace::note(format!("{one} to {other} takes {slow} ms"));
                network::slow(&one, &other, slow);
                network::slow(&other, &one, slow);
                later(ms(1000, 9000), network::heal);
            }
            (11, _) => {
                let times = fastrand::u32(10..600);
                trace::note(format!(
                    "the disk of {} is {times} times slower",
                    machine.name
                ));
                self.excuses.give(&machine.name, excuse::OF_A_DISK);
                machine.disk_slowness.store(times, Ordering::SeqCst);
                let machine = Arc::clone(machine);
                later(ms(1000, 9000), move || machine.mend());
            }
            (12, _) => {
                trace::note(format!("the disk of {} is full", machine.name));
                self.excuses.give(&machine.name, excuse::OF_A_DISK);
                machine.disk_full.store(true, Ordering::SeqCst);
                let machine = Arc::clone(machine);
                later(ms(1000, 9000), move || machine.mend());
            }
            (13, _) => {
                trace::note(format!("the next sync of {} fails", machine.name));
                self.excuses.give(&machine.name, excuse::OF_A_DISK);
                machine.sync_fails.store(true, Ordering::SeqCst);
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
            _ => self.operator(daemon),
        }
    }

    /// An operator's command, of whatever use.
    fn operator(self: &Arc<Self>, daemon: usize) {
        let Some(whole) = self.whole(daemon) else {
            return;
        };
        let members = &self.shape.members;
        let member = members[fastrand::usize(..members.len())].0.clone();
        let mut what = fastrand::u8(..8);
        if what == 5 && self.daemons() > 1 {
            // Daemons over the same members must have the same configuration.
            what = 6;
        }
        let rebuild = fastrand::u8(..4) == 0;
        let this = Arc::clone(self);
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
                    5 | 6 => {
                        trace::note(format!("reload, without {member}: {}", what == 5));
                        this.configure(daemon, (what == 5).then_some(member.as_str()));
                        let done = api.reload(false).await.map(drop);
                        if done.is_err() {
                            // Who was told that nothing would serve then does not start it so.
                            this.configure(daemon, None);
                        }
                        done
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

    /// Ends all faults, and waits until everything is well.
    pub(super) async fn heal(self: &Arc<Self>) {
        trace::note("all faults are over");
        network::heal();
        for machine in self.machines() {
            machine.mend();
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
        // One whose disk has failed refuses everything until then.
        for server in self.servers() {
            self.stop_server(&server).await;
        }
        self.supervise();
        let deadline = Instant::now() + HEALED_AFTER;
        // Whatever may be left of faults ends by itself first.
        sleep(Duration::from_secs(15)).await;
        network::heal();
        for machine in self.machines() {
            machine.mend();
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
            let next = failed.as_ref().filter(|(name, _)| *name == member.name);
            let next = next.and_then(|(_, next)| next.clone()).unwrap_or_default();
            let mut strategy = Strategy::Missing;
            if next.contains("move its Data.fs") {
                trace::note(format!("{} is emptied", member.name));
                self.must_not_be_needed(daemon, &member.name);
                self.copy_is_emptied(daemon, &member.name);
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

/// Does something after a while.
fn later(after: Duration, work: impl FnOnce() + Send + 'static) {
    drop(super::spawn(async move {
        sleep(after).await;
        work();
    }));
}
