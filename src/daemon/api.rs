//! The daemon's answers to the admin protocol.
//!
//! It answers from the first moment on: before the arrays are opened, it says that they are being
//! started. What changes something runs to its end even if whoever asked goes away.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::oneshot;

use super::jobs;
use super::logging::Logging;
use super::reload;
use super::report::{self, Surroundings};
use super::supervisor::{self, Running};
use crate::admin::api::{
    AdminApi, Analysis, ArrayDetails, BackupRequest, Configuration, EventStream, Events, Job,
    JobKind, JobState, Level, MemberDetails, PackRequest, Problem, RateLimit, RecoverRequest,
    Recovery, Reloaded, ScrubRequest, Setting, Status,
};
use crate::admin::events::EventLog;
use crate::admin::listen::TurnedAway;
use crate::config::{self, Config};
use crate::raid::{ArrayReport, RecoveryOutcome, Refused};
use crate::server::Server;
use crate::task::{Stop, Tasks};
use crate::tls::Spoken;

/// What the daemon knows. Clones are the same one.
#[derive(Clone)]
pub(super) struct Daemon(Arc<Inner>);

struct Inner {
    /// What is in force.
    config: ArcSwap<Config>,
    arrays: OnceLock<Vec<Running>>,
    server: OnceLock<Server>,
    /// How TLS is spoken at the address of the admin protocol, where it is.
    admin_tls: OnceLock<Arc<Spoken>>,
    turned_away: TurnedAway,
    events: EventLog,
    logging: Logging,
    started: Timestamp,
    /// Asked to end.
    end: Stop,
    /// One reload after the other.
    reloading: tokio::sync::Mutex<()>,
    tasks: Tasks,
}

impl Daemon {
    pub(super) fn new(config: Config, logging: Logging, tasks: Tasks) -> Self {
        Daemon(Arc::new(Inner {
            config: ArcSwap::from_pointee(config),
            arrays: OnceLock::new(),
            server: OnceLock::new(),
            admin_tls: OnceLock::new(),
            turned_away: TurnedAway::default(),
            events: EventLog::new(),
            logging,
            started: crate::clock::now(),
            end: Stop::new(),
            reloading: tokio::sync::Mutex::default(),
            tasks,
        }))
    }

    pub(super) fn config(&self) -> Arc<Config> {
        self.0.config.load_full()
    }

    pub(super) fn events(&self) -> &EventLog {
        &self.0.events
    }

    /// Requested by who asks the daemon to end.
    pub(super) fn end(&self) -> &Stop {
        &self.0.end
    }

    /// The arrays that were started; none before that.
    pub(super) fn arrays(&self) -> &[Running] {
        self.0.arrays.get().map_or(&[], Vec::as_slice)
    }

    pub(super) fn set_arrays(&self, arrays: Vec<Running>) {
        let set = self.0.arrays.set(arrays);
        debug_assert!(set.is_ok(), "arrays are started once");
    }

    pub(super) fn server(&self) -> Option<&Server> {
        self.0.server.get()
    }

    pub(super) fn set_server(&self, server: Server) {
        let set = self.0.server.set(server);
        debug_assert!(set.is_ok(), "the front end is started once");
    }

    pub(super) fn set_admin_tls(&self, tls: Arc<Spoken>) {
        let set = self.0.admin_tls.set(tls);
        debug_assert!(set.is_ok(), "the admin protocol is started once");
    }

    /// The state of everything in a line, and whether clients are served.
    pub(super) fn line(&self) -> (String, bool) {
        let reports: Vec<ArrayReport> = self.reports().collect();
        let lines = reports
            .iter()
            .map(|report| format!("{}: {}", report.name, report.line));
        let lines: Vec<String> = lines.collect();
        let ready = self.is_ready(&reports);
        (lines.join("; "), ready)
    }

    fn is_ready(&self, reports: &[ArrayReport]) -> bool {
        // One that ends serves for a moment yet, but nobody should come any more.
        !self.0.end.is_requested()
            && self.server().is_some()
            && !reports.is_empty()
            && reports.iter().all(|report| report.serving.can_read())
    }

    /// How often each limit was passed.
    fn limits_passed(&self) -> BTreeMap<String, u64> {
        let of_clients = self.server().map(Server::refusals).unwrap_or_default();
        let of_clients = of_clients.into_iter();
        let mut all: BTreeMap<String, u64> = of_clients
            .map(|(limit, count)| (limit.name().to_owned(), count))
            .collect();
        all.insert("admin_connections".to_owned(), self.0.turned_away.count());
        all
    }

    /// Connections of the admin protocol that were turned away.
    pub(super) fn turned_away(&self) -> &TurnedAway {
        &self.0.turned_away
    }

    fn reports(&self) -> impl Iterator<Item = ArrayReport> {
        self.arrays().iter().map(|running| running.array.report())
    }

    fn find(&self, name: &str) -> Result<&Running, Problem> {
        if self.0.arrays.get().is_none() {
            return Err(Problem::unavailable(
                "not-ready",
                "Not ready",
                "the daemon is starting",
            ));
        }
        let found = self
            .arrays()
            .iter()
            .find(|running| running.answers_to(name));
        found.ok_or_else(|| {
            let names: Vec<&str> = self
                .arrays()
                .iter()
                .map(|running| running.name.as_str())
                .collect();
            Problem::not_found(format!(
                "there is no array {name}; there is {}",
                names.join(", ")
            ))
        })
    }

    fn details(&self, running: &Running) -> ArrayDetails {
        let server = self.server();
        // Who asks for it by another name is among these.
        let counters = server.and_then(|server| server.counters(&running.name));
        let addresses = server.map(Server::listening).unwrap_or_default();
        let around = Surroundings {
            addresses: addresses.iter().map(ToString::to_string).collect(),
            clients: counters.map_or(0, |counters| counters.clients),
            auto_recover: self.auto_recover(running),
            one_of_many: self.arrays().len() > 1,
        };
        report::details(&running.array.report(), around)
    }

    fn auto_recover(&self, running: &Running) -> bool {
        let config = self.config();
        let array = config.array(&running.name);
        array.is_some_and(|array| array.auto_recover)
    }

    fn running_recovery(running: &Running) -> Result<Recovery, Problem> {
        let report = running.array.report();
        let recovery = report.recovery.as_ref().map(report::recovery);
        recovery.ok_or_else(|| {
            Problem::not_found(format!("no member of {} was recovered yet", running.name))
        })
    }

    /// Reads the file again and makes effective what can be.
    pub(super) async fn reload_now(&self, dry_run: bool) -> Result<Reloaded, Problem> {
        let _one_at_a_time = self.0.reloading.lock().await;
        let old = self.config();
        let (instance, file) = (old.instance.clone(), old.file.clone());
        let read = move || {
            config::load(&instance, Some(&file), &|name| std::env::var(name).ok())
                .map_err(|error| reload::problem(&error))
        };
        let read = crate::task::blocking(read).await;
        let new = read.map_err(|error| Problem::failed(error.to_string()))??;
        reload::check(&old, &new)?;
        let found = reload::compare(&old, &new);
        let mut reloaded = Reloaded {
            dry_run,
            changed: found.changed,
            needs_restart: found.needs_restart,
            warnings: new.warnings().iter().map(ToString::to_string).collect(),
            ..Reloaded::default()
        };
        // First everything is asked, so that a refusal changes nothing.
        for array in &found.members {
            let (added, removed) = self.set_members(&new, array, true)?;
            reloaded.added.extend(added);
            reloaded.removed.extend(removed);
        }
        let certificates = match self.server() {
            Some(server) => Some(server.read_certificates().await.map_err(reload::unusable)?),
            None => None,
        };
        let admin_tls = match self.0.admin_tls.get() {
            Some(tls) => Some((tls, tls.read_again().await.map_err(reload::unusable)?)),
            None => None,
        };
        if dry_run {
            return Ok(reloaded);
        }
        for array in &found.members {
            self.set_members(&new, array, false)?;
        }
        if let Some(certificates) = certificates {
            let addresses = certificates.put_in_force();
            let line = |address| format!("certificates of {address}");
            reloaded.changed.extend(addresses.into_iter().map(line));
        }
        if let Some((tls, speaks)) = admin_tls
            && tls.put_in_force(speaks)
        {
            let line = "certificates of the admin protocol";
            reloaded.changed.push(line.to_owned());
        }
        if found.log_level {
            self.0.logging.set_level(new.log.level);
        }
        self.0.config.store(Arc::new(reload::in_force(&old, &new)));
        tracing::info!(
            added = ?reloaded.added,
            removed = ?reloaded.removed,
            changed = ?reloaded.changed,
            needs_restart = ?reloaded.needs_restart,
            "configuration reloaded"
        );
        let text = "the configuration was reloaded";
        self.events().add(Level::Info, "reloaded", None, None, text);
        Ok(reloaded)
    }

    /// The names of members that came and went, with their array's.
    fn set_members(
        &self,
        new: &Config,
        name: &str,
        dry_run: bool,
    ) -> Result<(Vec<String>, Vec<String>), Problem> {
        let running = self.find(name)?;
        let array = new.array(name);
        if let Some(array) = array.filter(|_| !dry_run) {
            supervisor::make_folders(new, array);
        }
        let members = array
            .map(|array| supervisor::members(new, array))
            .unwrap_or_default();
        let changed = running.array.set_members(members, dry_run);
        let (added, removed) = changed.map_err(report::refused)?;
        let full = |members: Vec<String>| {
            let members = members.into_iter();
            members.map(|member| format!("{name}/{member}")).collect()
        };
        Ok((full(added), full(removed)))
    }

    pub(super) fn reopen_now(&self) -> Result<(), Problem> {
        self.0.logging.reopen().map_err(|error| {
            tracing::error!(%error, "could not reopen the log file");
            Problem::failed(format!("could not open the log file anew: {error}"))
        })?;
        tracing::info!("log file reopened");
        Ok(())
    }
}

#[async_trait]
impl AdminApi for Daemon {
    async fn status(&self) -> Result<Status, Problem> {
        let reports: Vec<ArrayReport> = self.reports().collect();
        let arrays = if self.0.arrays.get().is_some() {
            reports.iter().map(report::status).collect()
        } else {
            let config = self.config();
            let arrays = config.arrays.iter();
            arrays.map(|array| report::starting(&array.name)).collect()
        };
        let uptime = crate::clock::now().duration_since(self.0.started);
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started: self.0.started,
            uptime_s: u64::try_from(uptime.as_secs()).unwrap_or_default(),
            ready: self.is_ready(&reports),
            arrays,
            limits_passed: self.limits_passed(),
        })
    }

    async fn arrays(&self) -> Result<Vec<ArrayDetails>, Problem> {
        Ok(self
            .arrays()
            .iter()
            .map(|running| self.details(running))
            .collect())
    }

    async fn array(&self, array: &str) -> Result<ArrayDetails, Problem> {
        Ok(self.details(self.find(array)?))
    }

    async fn recover(
        &self,
        array: &str,
        member: &str,
        request: RecoverRequest,
    ) -> Result<Recovery, Problem> {
        let running = self.find(array)?;
        let strategy = report::to_strategy(request.strategy);
        let rate = (request.rate != RateLimit::default()).then(|| report::to_rate(request.rate));
        let asked = running.array.recover(member, strategy, rate);
        asked.map_err(report::refused)?;
        let now = running.array.report();
        Ok(match &now.recovery {
            // Before the array serves, it is one of before.
            Some(recovery) if recovery.member == member && now.serving.can_read() => {
                report::recovery(recovery)
            }
            last => report::queued(last.as_ref(), member, request.strategy),
        })
    }

    async fn recovery(&self, array: &str) -> Result<Recovery, Problem> {
        Self::running_recovery(self.find(array)?)
    }

    async fn change_recovery(&self, array: &str, rate: RateLimit) -> Result<Recovery, Problem> {
        let running = self.find(array)?;
        let changed = running.array.set_recovery_rate(report::to_rate(rate));
        changed.map_err(report::refused)?;
        Self::running_recovery(running)
    }

    async fn cancel_recovery(&self, array: &str) -> Result<Recovery, Problem> {
        let running = self.find(array)?;
        let recovery = running.array.report().recovery;
        let runs = recovery.is_some_and(|recovery| recovery.outcome == RecoveryOutcome::Running);
        if !runs {
            return Err(report::refused(Refused::NoRecovery));
        }
        let cancelled = running.array.cancel_recovery();
        cancelled.map_err(report::refused)?;
        Self::running_recovery(running)
    }

    async fn analyse(&self, array: &str, member: &str) -> Result<Analysis, Problem> {
        let running = self.find(array)?;
        let found = running.array.analyse(member).await;
        Ok(report::analysis(found.map_err(report::refused)?))
    }

    async fn disable(&self, array: &str, member: &str) -> Result<MemberDetails, Problem> {
        let running = self.find(array)?;
        let disabled = running.array.disable(member);
        disabled.map_err(report::refused)?;
        let report = running.array.report();
        let found = report.members.iter().find(|found| found.name == member);
        let found = found.ok_or_else(|| Problem::not_found(format!("{member} was removed")))?;
        Ok(report::member(found, &report, self.auto_recover(running)))
    }

    async fn pack(&self, array: &str, request: PackRequest) -> Result<Job, Problem> {
        let running = self.find(array)?;
        let to = request.to.unwrap_or_else(crate::clock::now);
        let started = running.array.start_pack(to.as_duration().as_secs_f64());
        started.map_err(report::refused)?;
        let report = running.array.pack_report();
        let job = report.map(|report| report::pack(&running.name, &report));
        job.ok_or_else(|| Problem::failed("the pack ended at once").with_next("zeoraidctl events"))
    }

    async fn back_up(&self, array: &str, request: BackupRequest) -> Result<Job, Problem> {
        // In a task: what was begun is not given up because whoever asked has gone.
        let running = self.find(array)?;
        let (array, name) = (running.array.clone(), running.name.clone());
        let (folder, rate) = (PathBuf::from(request.folder), report::to_rate(request.rate));
        let (answer, answered) = oneshot::channel();
        self.0.tasks.spawn("beginning of a backup", async move {
            let started = array.start_backup(folder, request.replace, rate).await;
            if answer.send(started).is_err() {
                tracing::debug!("who asked for the backup has gone");
            }
        });
        let started = answered
            .await
            .map_err(|_| report::refused(Refused::ShuttingDown))?;
        started.map_err(report::refused)?;
        let report = running.array.backup_report();
        let job = report.map(|report| jobs::backup(&name, &report));
        job.ok_or_else(|| {
            Problem::failed("the backup ended at once").with_next("zeoraidctl events")
        })
    }

    async fn scrub(&self, array: &str, request: ScrubRequest) -> Result<Job, Problem> {
        let running = self.find(array)?;
        let started = running.array.start_scrub(report::to_rate(request.rate));
        started.map_err(report::refused)?;
        let report = running.array.scrub_report();
        let job = report.map(|report| jobs::scrub(&running.name, &report, &running.array.report()));
        job.ok_or_else(|| Problem::failed("the scrub ended at once").with_next("zeoraidctl events"))
    }

    async fn jobs(&self) -> Result<Vec<Job>, Problem> {
        let of_array = |running: &Running| {
            let packs = running.array.pack_report();
            let packs = packs.map(|report| report::pack(&running.name, &report));
            let recoveries = running.array.report().recovery;
            let recoveries = recoveries.map(|report| report::recovery_job(&running.name, &report));
            let backups = running.array.backup_report();
            let backups = backups.map(|report| jobs::backup(&running.name, &report));
            let scrubs = running.array.scrub_report();
            let scrubs =
                scrubs.map(|report| jobs::scrub(&running.name, &report, &running.array.report()));
            let found = [packs, backups, scrubs, recoveries];
            found.into_iter().flatten()
        };
        Ok(self.arrays().iter().flat_map(of_array).collect())
    }

    async fn job(&self, id: &str) -> Result<Job, Problem> {
        let jobs = self.jobs().await?;
        let names: Vec<&str> = jobs.iter().map(|job| job.id.as_str()).collect();
        let known = match names.as_slice() {
            [] => "there was none yet".to_owned(),
            names => format!("there is {}", names.join(", ")),
        };
        let found = jobs.iter().find(|job| job.id == id).cloned();
        found.ok_or_else(|| Problem::not_found(format!("there is no job {id}; {known}")))
    }

    async fn cancel_job(&self, id: &str) -> Result<Job, Problem> {
        let job = self.job(id).await?;
        let running = self.find(&job.array)?;
        if job.state != JobState::Running {
            return Err(Problem::conflict(format!("{id} has ended")));
        }
        let cancelled = match job.kind {
            JobKind::Pack => running.array.cancel_pack(),
            JobKind::Backup => running.array.cancel_backup(),
            JobKind::Scrub => running.array.cancel_scrub(),
            JobKind::Recovery => running.array.cancel_recovery(),
        };
        cancelled.map_err(report::refused)?;
        self.job(id).await
    }

    async fn reload(&self, dry_run: bool) -> Result<Reloaded, Problem> {
        // In a task: half a reload would be worse than none.
        let (answer, answered) = oneshot::channel();
        let this = self.clone();
        self.0.tasks.spawn("reload", async move {
            let reloaded = this.reload_now(dry_run).await;
            if answer.send(reloaded).is_err() {
                tracing::debug!("who asked for the reload has gone");
            }
        });
        let answered = answered.await;
        answered.map_err(|_| report::refused(Refused::ShuttingDown))?
    }

    async fn shutdown(&self) -> Result<(), Problem> {
        self.0.end.request();
        Ok(())
    }

    async fn reopen_logs(&self) -> Result<(), Problem> {
        self.reopen_now()
    }

    async fn configuration(&self) -> Result<Configuration, Problem> {
        let config = self.config();
        let file = config.file.strip_prefix(&config.instance);
        let file = file.unwrap_or(&config.file);
        let settings = config.explain().iter().map(|setting| Setting {
            key: setting.key.clone(),
            value: setting.value.clone(),
            origin: setting.origin.to_text(file),
        });
        Ok(Configuration {
            file: config.file.display().to_string(),
            settings: settings.collect(),
        })
    }

    async fn events(&self, which: Events) -> Result<EventStream, Problem> {
        Ok(self.events().stream(which))
    }
}
