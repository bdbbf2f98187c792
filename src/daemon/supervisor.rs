//! From a configuration to what runs: members, arrays, listeners. The only place in the daemon that
//! knows both sides.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::background::{make_folder, make_parent};
use super::error::DaemonError;
use crate::admin::api::Level;
use crate::admin::events::EventLog;
use crate::config::{
    self, Address, ArrayConfig, BlobSharing, Config, MemberConfig, MemberStorage, ZeoServer,
};
use crate::job::Rate;
use crate::raid::{
    self, Array, ArrayOptions, FileRecord, MemberSpec, Notice, NoticeSink, Severity,
};
use crate::server::{Listen, ListenAddress, Served, Server, ServerOptions, Serving};
use crate::storage::file::{FileOpener, FileOptions};
use crate::storage::zeo::{ZeoAddress, ZeoOpener, ZeoOptions, ZeoTls};
use crate::storage::{BlobDirectory, Opener};
use crate::task::Tasks;
use crate::tls::servers::ClientTls;
use crate::wire::Dialect;

/// An array that was started.
pub(super) struct Running {
    pub(super) name: String,
    /// Other names by which clients, and thus their questions, may call it.
    pub(super) aliases: Vec<String>,
    pub(super) array: Array,
}

impl Running {
    pub(super) fn answers_to(&self, name: &str) -> bool {
        self.name == name || self.aliases.iter().any(|alias| alias == name)
    }
}

/// Starts an array: its members are being opened when this returns.
pub(super) async fn start_array(
    config: &Config,
    array: &ArrayConfig,
    force: bool,
    events: &EventLog,
) -> Result<Running, DaemonError> {
    make_folders(config, array);
    let record = Arc::new(FileRecord::new(&array.record));
    let options = array_options(config, array, force);
    let sink = notices(events, &array.name);
    let started = Array::start(options, members(config, array), record, sink).await;
    let started = started.map_err(|source| DaemonError::Array {
        array: array.name.clone(),
        source,
    })?;
    Ok(Running {
        name: array.name.clone(),
        aliases: array.aliases.clone(),
        array: started,
    })
}

/// Listens, and serves every array under its names.
pub(super) async fn start_server(
    config: &Config,
    arrays: &[Running],
    tasks: &Tasks,
) -> Result<Server, DaemonError> {
    let mut served = Vec::new();
    for running in arrays {
        let configured = config.array(&running.name);
        let read_only = configured.is_some_and(|array| array.read_only);
        let serving = serving(running, config.read_only || read_only, tasks);
        let invalidation_age = configured.and_then(|array| array.invalidation_age);
        let zeo_admin = configured.is_some_and(|array| array.zeo_admin);
        let shared_blobs = configured.and_then(|array| array.shared_blobs.as_ref());
        let shared_blobs = match shared_blobs {
            Some(shared) => Some(open_shared_blobs(&running.name, &shared.folder).await?),
            None => None,
        };
        let storage = Arc::new(running.array.clone());
        let mut one = Served::new(&running.name, storage, serving)
            .with_zeo_admin(zeo_admin)
            .with_read_only(read_only)
            .with_invalidation_age(invalidation_age)
            .with_uploads(uploads(config, &running.name));
        if let Some(directory) = shared_blobs {
            one = one.with_shared_blobs(directory);
        }
        for alias in &running.aliases {
            served.push(one.also_as(alias));
        }
        served.push(one);
    }
    let addresses = config.listen.iter().map(listen).collect();
    Ok(Server::start(server_options(config), addresses, served).await?)
}

/// Where the blobs of an array's clients wait for the end of their transactions.
fn uploads(config: &Config, array: &str) -> PathBuf {
    config.spool.folder.join(format!("{array}.uploads"))
}

/// Where blobs lie that were fetched from ZEO servers, while somebody reads them.
fn fetched_blobs(config: &Config, array: &str) -> PathBuf {
    config.spool.folder.join(format!("{array}.fetched"))
}

async fn open_shared_blobs(array: &str, folder: &Path) -> Result<Arc<BlobDirectory>, DaemonError> {
    let path = folder.to_owned();
    let open = crate::task::blocking(move || BlobDirectory::open(path)).await;
    let opened = open.unwrap_or_else(|ended| Err(std::io::Error::other(ended)));
    let opened = opened.map_err(|source| DaemonError::SharedBlobs {
        array: array.to_owned(),
        folder: folder.to_owned(),
        source,
    })?;
    Ok(Arc::new(opened))
}

/// Makes the folders of files that are inside the instance. Outside of it a missing folder is a disk
/// that is not mounted, and an empty copy on the wrong disk helps nobody.
pub(super) fn make_folders(config: &Config, array: &ArrayConfig) {
    let files = array
        .members
        .iter()
        .filter_map(|member| match &member.storage {
            MemberStorage::File { file, .. } => Some(file),
            MemberStorage::Zeo(_) => None,
        });
    for file in files.chain([&array.record]) {
        if file.starts_with(&config.instance)
            && let Err(error) = make_parent(file)
        {
            // Opening the file fails next, and that is what counts.
            tracing::warn!(%error, "a folder is missing");
        }
    }
    let is_zeo = |member: &MemberConfig| matches!(member.storage, MemberStorage::Zeo(_));
    if array.members.iter().any(is_zeo)
        && let Err(error) = make_folder(&fetched_blobs(config, &array.name))
    {
        // Blobs of ZEO servers cannot be fetched, and all else works.
        tracing::warn!(%error, "a folder is missing");
    }
}

/// The members of an array, as the array wants to know them.
pub(super) fn members(config: &Config, array: &ArrayConfig) -> Vec<MemberSpec> {
    let specs = array.members.iter().map(|member| MemberSpec {
        name: member.name.clone(),
        opener: opener(config, array, member),
        fingerprint: fingerprint(member),
        adopted: member.adopted,
    });
    specs.collect()
}

/// Everything of a member that cannot be changed while it is open.
fn fingerprint(member: &MemberConfig) -> String {
    match &member.storage {
        MemberStorage::File { file, blob_dir } => {
            let blobs = blob_dir.as_ref().map_or(String::new(), |folder| {
                format!(" blobs {}", folder.display())
            });
            format!("file {}{blobs}", file.display())
        }
        MemberStorage::Zeo(server) => {
            let ZeoServer {
                address,
                storage,
                connections,
                tls,
            } = server;
            format!("zeo {address} storage {storage} connections {connections} tls {tls:?}")
        }
    }
}

fn opener(config: &Config, array: &ArrayConfig, member: &MemberConfig) -> Arc<dyn Opener> {
    match &member.storage {
        MemberStorage::File { file, blob_dir } => {
            let options = FileOptions {
                invalidation_queue: array.invalidation_queue,
                blob_dir: blob_dir.clone(),
                pack_gc: array.pack.gc,
                pack_keep_old: array.pack.keep_old,
                ..FileOptions::default()
            };
            Arc::new(FileOpener::new(file, options))
        }
        MemberStorage::Zeo(server) => {
            let address = match &server.address {
                Address::Tcp { host, port } => ZeoAddress::Tcp {
                    host: host.clone(),
                    port: *port,
                },
                Address::Unix(path) => ZeoAddress::Unix(path.clone()),
            };
            let defaults = ZeoOptions::new(address, &server.storage);
            let tls = server.tls.as_ref().map(|tls| ZeoTls {
                files: ClientTls {
                    authenticate: tls.authenticate.clone(),
                    certificate: tls.certificate.clone(),
                    key: tls.key.clone(),
                    check_hostname: tls.check_hostname,
                },
                server_name: tls.server_name.clone(),
            });
            let options = ZeoOptions {
                read_connections: server.connections,
                call_timeout: array.member_timeout,
                lock_timeout: array.lock_timeout,
                // Whoever does not answer is found within the time that a call may take.
                heartbeat: defaults.heartbeat.min(array.member_timeout),
                // What a client may send, a member may send back.
                max_frame_bytes: defaults.max_frame_bytes.max(bytes(config.limits.frame)),
                blob_folder: fetched_blobs(config, &array.name),
                keep_free_bytes: config.limits.keep_free,
                tls,
                ..defaults
            };
            Arc::new(ZeoOpener::new(options))
        }
    }
}

pub(super) fn rate(rate: config::Rate) -> Rate {
    Rate {
        transactions_per_second: rate.transactions,
        bytes_per_second: rate.bytes,
        paused: false,
    }
}

fn array_options(config: &Config, array: &ArrayConfig, force: bool) -> ArrayOptions {
    ArrayOptions {
        name: array.name.clone(),
        cluster_mode: match array.cluster_mode {
            config::ClusterMode::Single => raid::ClusterMode::Single,
            config::ClusterMode::Coop => raid::ClusterMode::Coop,
        },
        start_policy: match array.start_policy {
            config::StartPolicy::InSync => raid::StartPolicy::InSync,
            config::StartPolicy::Majority => raid::StartPolicy::Majority,
            config::StartPolicy::Newest => raid::StartPolicy::Newest,
        },
        force,
        min_optimal: array.min_optimal,
        fail_mode: match array.fail_mode {
            config::FailMode::Close => raid::FailMode::Close,
            config::FailMode::ReadOnly => raid::FailMode::ReadOnly,
        },
        member_timeout: array.member_timeout,
        open_timeout: array.open_timeout,
        transaction_timeout: config.transaction_timeout,
        lock_timeout: array.lock_timeout,
        auto_recover: array.auto_recover,
        recovery_rate: rate(array.recovery_rate),
        catch_up_limit: array.catch_up_limit,
        cache_bytes: array.cache,
        spool: raid::Spool {
            folder: config.spool.folder.clone(),
            memory_bytes: bytes(config.spool.memory),
        },
        invalidation_queue: array.invalidation_queue,
        shared_blobs: array.shared_blobs.as_ref().map(|shared| raid::SharedBlobs {
            folder: shared.folder.clone(),
            with_members: shared.with == BlobSharing::Everything,
        }),
    }
}

fn server_options(config: &Config) -> ServerOptions {
    let limits = &config.limits;
    ServerOptions {
        offer: match config.encoding {
            config::Encoding::Z5 => Dialect::Pickle,
            config::Encoding::M5 => Dialect::Msgpack,
        },
        max_connections: limits.connections,
        max_connections_by_address: limits.connections_by_address,
        max_frame_bytes: bytes(limits.frame),
        handshake_timeout: limits.handshake,
        register_timeout: limits.register,
        outbox_bytes: bytes(limits.unread),
        calls_in_flight: limits.calls,
        iterators: limits.iterators,
        write_timeout: limits.unread_timeout,
        memory_bytes: bytes(limits.memory),
        max_transaction_bytes: limits.transaction,
        max_transactions_bytes: limits.transactions,
        undos: limits.undos,
        keep_free_bytes: limits.keep_free,
        transaction_timeout: config.transaction_timeout,
        ..ServerOptions::default()
    }
}

fn listen(listen: &config::Listen) -> Listen {
    let address = match &listen.address {
        Address::Tcp { host, port } => ListenAddress::Tcp {
            host: host.clone(),
            port: *port,
        },
        Address::Unix(path) => ListenAddress::Unix {
            path: path.clone(),
            mode: listen.mode,
        },
    };
    Listen {
        address,
        tls: listen.tls.clone(),
    }
}

fn bytes(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

/// Whether clients can be served, in the front end's words, kept up to date by a task.
fn serving(running: &Running, read_only: bool, tasks: &Tasks) -> watch::Receiver<Serving> {
    let mut theirs = running.array.serving();
    let now = in_front_end_words(&theirs.borrow_and_update(), read_only);
    let (ours, watched) = watch::channel(now);
    let stop = tasks.stop().clone();
    tasks.spawn(format!("serving of {}", running.name), async move {
        loop {
            // Both may be dropped: the next look sees the newest value.
            crate::task::select! {
                changed = theirs.changed() => if changed.is_err() { return },
                () = stop.requested() => return,
            }
            let now = in_front_end_words(&theirs.borrow_and_update(), read_only);
            ours.send_replace(now);
        }
    });
    watched
}

fn in_front_end_words(serving: &raid::Serving, read_only: bool) -> Serving {
    match serving {
        raid::Serving::Starting { waits_for } => Serving::Starting {
            waits_for: waits_for.clone(),
        },
        raid::Serving::Yes if read_only => Serving::ReadOnly {
            reason: "the configuration says read_only".into(),
        },
        raid::Serving::Yes => Serving::Yes,
        raid::Serving::ReadOnly { reason } => Serving::ReadOnly {
            reason: reason.clone(),
        },
        raid::Serving::No { reason } => Serving::No {
            reason: reason.clone(),
        },
    }
}

/// Notices of an array become events. (The array logs them itself.)
fn notices(events: &EventLog, array: &str) -> NoticeSink {
    let (events, array) = (events.clone(), array.to_owned());
    Arc::new(move |notice: Notice| {
        let level = match notice.severity() {
            Severity::Info => Level::Info,
            Severity::Warning => Level::Warning,
            Severity::Error => Level::Error,
        };
        let text = notice.to_string();
        events.add(level, notice.kind(), Some(&array), notice.member(), text);
    })
}

/// How long the start may take before clients and systemd are told to go on without: every member had
/// its time to open, and some more.
pub(super) fn patience(config: &Config) -> Duration {
    let open = config.arrays.iter().map(|array| array.open_timeout).max();
    open.unwrap_or_default() + Duration::from_secs(5)
}
