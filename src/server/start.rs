//! Starting and stopping the front end, and what its sessions share.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;

use super::listener::{self, ListenError, Listening};
use super::options::{Listen, ServerOptions};
use super::stats::{Counters, Stats};
use crate::admin::api::AdminApi;
use crate::storage::Storage;
use crate::task::{StillRunning, Tasks};

/// Whether a storage can be served. Whoever serves it through a [`Server`] tells by a watch channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Serving {
    /// Not yet. Registrations wait a little.
    Starting {
        waits_for: String,
    },
    Yes,
    /// Clients stay, and their transactions are refused.
    ReadOnly {
        reason: String,
    },
    /// Clients are disconnected, and go to another address if they know one.
    No {
        reason: String,
    },
}

impl Serving {
    /// Why nothing at all is served.
    pub(super) fn refusal(&self) -> Option<&str> {
        match self {
            Serving::Yes | Serving::ReadOnly { .. } => None,
            Serving::Starting { waits_for } => Some(waits_for),
            Serving::No { reason } => Some(reason),
        }
    }
}

/// A storage that is served under a name.
pub struct Served {
    pub(super) name: String,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) serving: watch::Receiver<Serving>,
    pub(super) stats: Arc<Stats>,
    pub(super) zeo_admin: bool,
}

impl Served {
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        storage: Arc<dyn Storage>,
        serving: watch::Receiver<Serving>,
    ) -> Self {
        Served {
            name: name.into(),
            storage,
            serving,
            stats: Arc::new(Stats::new()),
            zeo_admin: false,
        }
    }

    /// Whether clients may use the extension methods that change something.
    #[must_use]
    pub fn with_zeo_admin(self, zeo_admin: bool) -> Self {
        Served { zeo_admin, ..self }
    }
}

/// What all sessions of a server share.
pub(super) struct Shared {
    pub(super) options: ServerOptions,
    pub(super) served: BTreeMap<String, Served>,
    pub(super) admin: OnceLock<Arc<dyn AdminApi>>,
    pub(super) sessions: Tasks,
}

/// The running front end.
pub struct Server {
    shared: Arc<Shared>,
    listeners: Tasks,
    listening: Vec<Listening>,
}

impl Server {
    /// Listens on all `addresses` and serves.
    ///
    /// # Errors
    /// The first address that cannot be listened on; then nothing is served.
    pub async fn start(
        options: ServerOptions,
        addresses: Vec<Listen>,
        served: Vec<Served>,
    ) -> Result<Server, ListenError> {
        let mut bound = Vec::new();
        for address in &addresses {
            bound.extend(listener::bind(address).await?);
        }
        let shared = Arc::new(Shared::new(options, served));
        let listeners = Tasks::new("ZEO listeners");
        let listening = bound
            .into_iter()
            .map(|bound| bound.serve(&listeners, &shared))
            .collect();
        Ok(Server {
            shared,
            listeners,
            listening,
        })
    }

    /// Whom the extension methods `raid_status` and its like ask. Until it is set they are refused.
    /// Only the first time counts.
    pub fn set_admin(&self, admin: Arc<dyn AdminApi>) {
        let set = self.shared.admin.set(admin);
        debug_assert!(set.is_ok(), "it is set once, at the start");
    }

    /// Where it listens, with the ports that it really has.
    #[must_use]
    pub fn listening(&self) -> &[Listening] {
        &self.listening
    }

    /// The figures of the storage served as `name`.
    #[must_use]
    pub fn counters(&self, name: &str) -> Option<Counters> {
        let served = self.shared.served.get(name)?;
        Some(served.stats.counters())
    }

    /// Connections, whether registered or not.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.sessions.len()
    }

    /// Stops listening, then ends the sessions: a finish in hand is finished, all else is aborted.
    ///
    /// # Errors
    /// Names the sessions that have not ended at the deadline.
    pub async fn shutdown(&self, deadline: Duration) -> Result<(), StillRunning> {
        let start = tokio::time::Instant::now();
        self.listeners.shutdown(deadline).await?;
        let left = deadline.saturating_sub(start.elapsed());
        self.shared.sessions.shutdown(left).await
    }
}

impl Shared {
    pub(super) fn new(options: ServerOptions, served: Vec<Served>) -> Self {
        Shared {
            options,
            served: served
                .into_iter()
                .map(|served| (served.name.clone(), served))
                .collect(),
            admin: OnceLock::new(),
            sessions: Tasks::new("ZEO sessions"),
        }
    }
}
