//! Starting and stopping the front end, and what its sessions share.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::admission::Admission;
use super::contention::Contention;
use super::lane::{Stored, prepare_uploads};
use super::limits::{Limit, Passed, Refusals};
use super::listener::{self, ListenError, Listening};
use super::memory::Memory;
use super::missed::Past;
use super::options::{Listen, ServerOptions};
use super::packing::Packing;
use super::stats::{Counters, Stats};
use crate::admin::api::AdminApi;
use crate::refused::Refused;
use crate::storage::{BlobDirectory, Storage};
use crate::task::{StillRunning, Tasks};
use crate::tls::{Speaks, Spoken, TlsError};

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
    /// Nobody may write to it, nor pack it.
    pub(super) read_only: bool,
    pub(super) past: Arc<Past>,
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
            read_only: false,
            past: Arc::new(Past::new(None)),
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

    /// As a storage that was opened for reading only: clients may neither write to it nor pack it. (A
    /// server that is read-only may be packed; that is [`Serving::ReadOnly`].)
    #[must_use]
    pub fn with_read_only(self, read_only: bool) -> Self {
        Served { read_only, ..self }
    }

    /// A client whose last transaction is younger than this is told what it has missed although the
    /// storage does not remember it: the transactions are read again. Without it, it is not.
    #[must_use]
    pub fn with_invalidation_age(self, invalidation_age: Option<Duration>) -> Self {
        Served {
            past: Arc::new(Past::new(invalidation_age)),
            ..self
        }
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
    /// Whoever answers it owns the server: let go of when that ends, or both would stay for ever.
    pub(super) admin: Mutex<Option<Arc<dyn AdminApi>>>,
    pub(super) sessions: Tasks,
    pub(super) admission: Arc<Admission>,
    pub(super) memory: Arc<Memory>,
    pub(super) stored: Arc<Stored>,
    pub(super) refusals: Refusals,
    pub(super) refused: Refused,
    /// Packs that clients have asked for.
    pub(super) packs: Tasks,
    /// Removing files that nobody wants any more.
    pub(super) removals: Tasks,
}

/// The running front end.
pub struct Server {
    shared: Arc<Shared>,
    listeners: Tasks,
    listening: Vec<Listening>,
    /// Of the addresses with TLS.
    tls: Vec<(String, Arc<Spoken>)>,
}

/// Certificates that were read again, and are not in force yet.
#[must_use]
pub struct Certificates(Vec<(String, Arc<Spoken>, Speaks)>);

impl Certificates {
    /// Puts them in force, for clients that connect from now on. Gives the addresses for which something
    /// is new.
    pub fn put_in_force(self) -> Vec<String> {
        let new = self
            .0
            .into_iter()
            .filter_map(|(address, tls, speaks)| tls.put_in_force(speaks).then_some(address));
        new.collect()
    }
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
        let (mut bound, mut all_tls) = (Vec::new(), Vec::new());
        for Listen { address, tls } in &addresses {
            let tls = match tls {
                Some(files) => Some(Spoken::read(files).await.map_err(of(address))?),
                None => None,
            };
            let of_address = listener::bind(address).await?;
            bound.extend(of_address.into_iter().map(|bound| (bound, tls.clone())));
            all_tls.extend(tls.map(|tls| (address.to_string(), tls)));
        }
        for uploads in served.iter().filter_map(|served| served.uploads.clone()) {
            let folder = uploads.clone();
            let prepared = crate::task::blocking(move || prepare_uploads(&folder)).await;
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
            .map(|(bound, tls)| bound.serve(tls, &listeners, &shared))
            .collect();
        Ok(Server {
            shared,
            listeners,
            listening,
            tls: all_tls,
        })
    }

    /// Whom the extension methods `raid_status` and its like ask. Until it is set they are refused.
    pub fn set_admin(&self, admin: Arc<dyn AdminApi>) {
        *self.shared.admin.lock() = Some(admin);
    }

    /// From now on the extension methods are refused.
    pub fn forget_admin(&self) {
        *self.shared.admin.lock() = None;
    }

    /// Where it listens, with the ports that it really has.
    #[must_use]
    pub fn listening(&self) -> &[Listening] {
        &self.listening
    }

    /// Reads the certificates of all addresses with TLS again.
    ///
    /// # Errors
    /// The first that cannot be used; what is in force stays.
    pub async fn read_certificates(&self) -> Result<Certificates, ListenError> {
        let mut read = Vec::new();
        for (address, tls) in &self.tls {
            let speaks = tls.read_again().await.map_err(of(address))?;
            read.push((address.clone(), Arc::clone(tls), speaks));
        }
        Ok(Certificates(read))
    }

    /// Serves a connection that has come on no address.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn serve<S>(&self, stream: S, peer: &str)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let (read, write) = tokio::io::split(stream);
        let shared = Arc::clone(&self.shared);
        let since = tokio::time::Instant::now();
        let session = super::session::run(read, write, peer.to_owned(), since, shared);
        self.shared
            .sessions
            .spawn("a session without an address", session);
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
        self.shared.admission.len()
    }

    /// How often clients have passed each limit.
    #[must_use]
    pub fn refusals(&self) -> Vec<(Limit, u64)> {
        self.shared.refusals.counts().collect()
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
        let ended = self.shared.sessions.shutdown(left).await;
        self.forget_admin();
        ended?;
        let left = deadline.saturating_sub(start.elapsed());
        self.shared.packs.shutdown(left).await?;
        let left = deadline.saturating_sub(start.elapsed());
        self.shared.removals.shutdown(left).await
    }
}

fn of(address: &impl ToString) -> impl FnOnce(TlsError) -> ListenError {
    let address = address.to_string();
    move |source| ListenError::Tls { address, source }
}

impl Shared {
    pub(super) fn new(options: ServerOptions, served: Vec<Served>) -> Self {
        let (most, by_address) = (options.max_connections, options.max_connections_by_address);
        Shared {
            admission: Admission::new(most, by_address),
            memory: Memory::new(options.memory_bytes),
            stored: Stored::new(&options),
            refusals: Refusals::default(),
            options,
            served: served
                .into_iter()
                .map(|served| (served.name.clone(), served))
                .collect(),
            admin: Mutex::new(None),
            sessions: Tasks::new("ZEO sessions"),
            refused: Refused::default(),
            packs: Tasks::new("packs of ZEO clients"),
            removals: Tasks::new("files of blobs that were not stored"),
        }
    }

    /// Counts that a client has passed a limit, and says so, once in a while for each host.
    pub(super) fn tell_passed(&self, peer: &str, label: &str, passed: &Passed) {
        self.refusals.count(passed.limit);
        let (limit, what) = (passed.limit, &passed.what);
        if let Some(unsaid) = self.refused.tell(peer, limit.name(), Instant::now()) {
            warn!(%peer, %label, %limit, what, unsaid, "a client has passed a limit");
        } else {
            debug!(%peer, %label, %limit, what, "a client has passed a limit");
        }
    }

    /// Says what a registered client has done, once in a while for each host and `kind`: it may do it again at once.
    pub(super) fn tell_deed(&self, peer: &str, kind: &str, tell: impl FnOnce(u64)) {
        if let Some(unsaid) = self.refused.tell(peer, kind, Instant::now()) {
            tell(unsaid);
        }
    }

    /// Says that somebody speaks what is not spoken here, once in a while for each host and kind: what it said
    /// may be something else each time.
    pub(super) fn tell_stranger(&self, peer: &str, kind: &str, reason: &str) {
        if let Some(unsaid) = self.refused.tell(peer, kind, Instant::now()) {
            warn!(%peer, reason, unsaid, "who connected is no client of ZEO 5 or 6");
        } else {
            debug!(%peer, reason, "who connected is no client of ZEO 5 or 6");
        }
    }
}
