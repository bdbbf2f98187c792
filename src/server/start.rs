//! Starting and stopping the front end, and what its sessions share.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;
use tracing::warn;

use super::contention::Contention;
use super::lane::prepare_uploads;
use super::listener::{self, ListenError, Listening};
use super::options::{Listen, ServerOptions};
use super::packing::Packing;
use super::stats::{Counters, Stats};
use crate::admin::api::AdminApi;
use crate::storage::{BlobDirectory, Storage};
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
#[derive(Clone)]
pub struct Served {
    pub(super) name: String,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) serving: watch::Receiver<Serving>,
    pub(super) stats: Arc<Stats>,
    pub(super) zeo_admin: bool,
    /// The folder of uploads, where one was set.
    uploads: Option<PathBuf>,
    pub(super) shared_blobs: Option<Arc<BlobDirectory>>,
    pub(super) packing: Arc<Packing>,
    pub(super) contention: Arc<Contention>,
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
            uploads: None,
            shared_blobs: None,
            packing: Packing::new(),
            contention: Contention::new(),
        }
    }

    /// The same storage under another name: what is counted, packed and contended is one.
    #[must_use]
    pub fn also_as(&self, name: impl Into<String>) -> Self {
        Served {
            name: name.into(),
            ..self.clone()
        }
    }

    /// Where blobs lie that clients upload, until their transaction ends: best on the disk on which they
    /// are kept. The folder is made when the server starts, and uploads of an earlier one are removed
    /// from it; so nobody else may upload into it. The default is the system's folder for temporary
    /// files.
    #[must_use]
    pub fn with_uploads(self, folder: impl Into<PathBuf>) -> Self {
        Served {
            uploads: Some(folder.into()),
            ..self
        }
    }

    /// The blob directory that clients write into themselves (`shared_blob_dir` of Python's client),
    /// which is the one that the storage keeps its blobs in. Without one, `storeBlobShared` is refused.
    #[must_use]
    pub fn with_shared_blobs(self, directory: Arc<BlobDirectory>) -> Self {
        Served {
            shared_blobs: Some(directory),
            ..self
        }
    }

    /// Whether clients may use the extension methods that change something.
    #[must_use]
    pub fn with_zeo_admin(self, zeo_admin: bool) -> Self {
        Served { zeo_admin, ..self }
    }

    /// The folder of uploads.
    pub(super) fn uploads(&self) -> PathBuf {
        self.uploads.clone().unwrap_or_else(std::env::temp_dir)
    }
}

/// What all sessions of a server share.
pub(super) struct Shared {
    pub(super) options: ServerOptions,
    pub(super) served: BTreeMap<String, Served>,
    pub(super) admin: OnceLock<Arc<dyn AdminApi>>,
    pub(super) sessions: Tasks,
    /// Packs that clients have asked for.
    pub(super) packs: Tasks,
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
        for uploads in served.iter().filter_map(|served| served.uploads.clone()) {
            let folder = uploads.clone();
            let prepared = tokio::task::spawn_blocking(move || prepare_uploads(&folder)).await;
            if let Err(error) = prepared.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
                // Whoever stores a blob will be told; all else works.
                let folder = uploads.display();
                warn!(%folder, %error, "could not prepare the folder of uploads");
            }
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

    /// Tells every client of the storage served as `name` how much it holds now: after a pack that no
    /// ZEO client has asked for.
    pub fn tell_size(&self, name: &str) {
        if let Some(served) = self.shared.served.get(name) {
            served.packing.tell_size();
        }
    }

    /// Connections, whether registered or not.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.sessions.len()
    }

    /// Stops listening, then ends the sessions: a finish in hand is finished, all else is aborted. Packs
    /// that clients have asked for are left to the storage.
    ///
    /// # Errors
    /// Names what has not ended at the deadline.
    pub async fn shutdown(&self, deadline: Duration) -> Result<(), StillRunning> {
        let start = tokio::time::Instant::now();
        self.listeners.shutdown(deadline).await?;
        let left = deadline.saturating_sub(start.elapsed());
        self.shared.sessions.shutdown(left).await?;
        let left = deadline.saturating_sub(start.elapsed());
        self.shared.packs.shutdown(left).await
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
            packs: Tasks::new("packs of ZEO clients"),
        }
    }
}
