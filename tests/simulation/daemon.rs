//! A whole daemon as a process has it, without signals, log files and sockets of the system.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;

use super::api::Daemon;
use super::logging::Logging;
use super::run::{close, open};
use crate::admin::api::AdminApi;
use crate::config;
use crate::raid::{AnalysisReport, ArrayReport, PackReport, Serving};
use crate::task::Tasks;

/// Clones are the same one.
#[derive(Clone)]
pub(crate) struct Whole {
    /// Another one for each life.
    number: u64,
    daemon: Daemon,
    tasks: Tasks,
    admin: Tasks,
}

impl Whole {
    /// Reads its configuration and begins to serve, as `start` does.
    pub(crate) async fn start(instance: &Path, force: bool) -> Result<Whole, String> {
        let config = config::load(instance, None, &|_| None).map_err(|error| {
            let mistakes: Vec<String> = error.mistakes().iter().map(ToString::to_string).collect();
            format!("{error}: {mistakes:?}")
        })?;
        let tasks = Tasks::new("daemon tasks");
        let whole = Whole {
            number: crate::simulation::next_number().unwrap_or_default(),
            daemon: Daemon::new(config, Logging::none(), tasks.clone()),
            tasks,
            admin: Tasks::new("admin tasks"),
        };
        if let Err(error) = open(&whole.daemon, force, &whole.tasks).await {
            whole.close().await;
            return Err(error.to_string());
        }
        Ok(whole)
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn api(&self) -> Arc<dyn AdminApi> {
        Arc::new(self.daemon.clone())
    }

    pub(crate) fn report(&self) -> ArrayReport {
        self.daemon.arrays()[0].array.report()
    }

    /// Whether it is known from which members it goes on.
    pub(crate) fn has_started(&self) -> bool {
        self.daemon.arrays()[0].array.has_started()
    }

    pub(crate) fn serving(&self) -> watch::Receiver<Serving> {
        self.daemon.arrays()[0].array.serving()
    }

    /// The pack that runs, or ended last.
    pub(crate) fn pack(&self) -> Option<PackReport> {
        self.daemon.arrays()[0].array.pack_report()
    }

    /// How a member's history relates to the array's; none where that cannot be told now.
    pub(crate) async fn analyse(&self, member: &str) -> Option<AnalysisReport> {
        let array = self.daemon.arrays()[0].array.clone();
        array.analyse(member).await.ok()
    }

    /// Its process has died: nothing of it may keep the rest.
    pub(crate) fn died(&self) {
        if let Some(server) = self.daemon.server() {
            server.forget_admin();
        }
    }

    /// Whether all ended in time.
    pub(crate) async fn close(&self) -> bool {
        close(&self.daemon, &self.admin, &self.tasks).await
    }
}
