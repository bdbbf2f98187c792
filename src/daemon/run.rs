//! The daemon's whole life.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::time::Instant;

use super::api::Daemon;
use super::background::{leave_session, make_folder, make_parent};
use super::error::DaemonError;
use super::logging::Logging;
use super::notify::Notify;
use super::panics;
use super::pid_file::PidFile;
use super::signals::{Asked, Signals};
use super::{supervisor, user};
use crate::admin::api::EventStream;
use crate::admin::http::{self, Admin};
use crate::admin::listen::{Room, Socket, Tcp};
use crate::admin::{Metrics, Token};
use crate::config::Config;
use crate::raid::PACK_DONE;
use crate::task::{StillRunning, Tasks};
use crate::tls::Spoken;

/// How the daemon is started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Start {
    /// Serve from what is reachable although the start policy says no.
    pub force: bool,
    /// It was started by [`super::background::spawn`]: leave the terminal, log to the file.
    pub background: bool,
}

/// How long a part may take to end. Finishing what is in hand takes far less.
const SERVER_END: Duration = Duration::from_secs(30);
const ARRAY_END: Duration = Duration::from_secs(30);
const TASKS_END: Duration = Duration::from_secs(5);

/// Runs the daemon until it is asked to end, by a signal or over the admin protocol. Makes a runtime of
/// its own: call it where there is none.
///
/// # Errors
/// Why it could not start. What goes wrong later is logged, and no error.
pub fn run(config: Config, start: Start) -> Result<(), DaemonError> {
    if start.background {
        leave_session();
    }
    user::become_effective(&config)?;
    make_parent(&config.log.file)?;
    let logging = Logging::start(&config.log, start.background)?;
    panics::abort_on_panic();
    make_parent(&config.pid_file)?;
    let pid_file = PidFile::take(&config.pid_file)?;
    make_parent(&config.admin.socket)?;
    make_folder(&config.spool.folder)?;
    raise_file_limit(config.limits.connections);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.limits.threads)
        .enable_all()
        .thread_name("zeoraid")
        .build()
        .map_err(DaemonError::system("start threads"))?;
    let ended = runtime.block_on(live(config, start, logging));
    // Blocking work that still runs then has lost its reason.
    runtime.shutdown_timeout(TASKS_END);
    drop(pid_file);
    ended
}

/// Each client is an open file, and what a shell allows by default is soon used up.
fn raise_file_limit(connections: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    /// Members, logs, spooled transactions, the admin protocol.
    const OTHERS: u64 = 200;
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    let needed = connections as u64 + OTHERS;
    if current.is_some_and(|current| current < needed) {
        tracing::warn!(
            allowed = current,
            needed,
            "fewer open files are allowed than `limits.connections` needs; raise LimitNOFILE or `ulimit -n`"
        );
    }
}

/// Opens everything, serves, and closes everything in reverse order.
async fn live(config: Config, start: Start, logging: Logging) -> Result<(), DaemonError> {
    let mut signals = Signals::catch()?;
    let notify = Notify::new(!start.background);
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(version, pid = std::process::id(), instance = %config.instance.display(), "starting");

    let exposed = config.check_permissions();
    for warning in config.warnings().iter().chain(&exposed) {
        tracing::warn!(%warning, "in the configuration");
    }

    // First the admin protocol: from now on the daemon can be asked what it does.
    let admin = Tasks::new("admin tasks");
    let tasks = Tasks::new("daemon tasks");
    let daemon = Daemon::new(config, logging, tasks.clone());
    serve_admin(&daemon, &admin).await?;

    let opened = open(&daemon, start.force, &tasks).await;
    let started = opened.is_ok();
    if started {
        let said = daemon.clone();
        let stop = tasks.stop().clone();
        tasks.spawn("status for systemd", async move {
            crate::task::select! {
                // It may be dropped: it only says how things are.
                () = tell_status(&said, notify) => {}
                () = stop.requested() => {}
            }
        });
        notify.watch(&tasks);
        obey(&daemon, &mut signals, notify).await;
    }

    daemon.end().request();
    notify.stopping(SERVER_END + ARRAY_END + TASKS_END);
    tracing::info!("ending");
    // It may be dropped: files are safe at every moment, as they are after a crash.
    let graceful = crate::task::select! {
        graceful = close(&daemon, &admin, &tasks) => graceful,
        () = signals.end() => {
            tracing::warn!("asked to end a second time: ending at once");
            false
        }
    };
    if started {
        tracing::info!(graceful, "ended");
    }
    opened
}

pub(super) async fn serve_admin(daemon: &Daemon, tasks: &Tasks) -> Result<(), DaemonError> {
    let config = daemon.config();
    let token = config.admin.token_file.as_deref().map(Token::read);
    let token = token.transpose()?;
    let room = || Room::new(config.limits.admin_connections, daemon.turned_away());
    let socket = Socket::bind(&config.admin.socket).await?.with_room(room());
    let admin = Admin {
        api: Arc::new(daemon.clone()),
        metrics: Metrics::install(),
    };
    if let Some((host, port)) = &config.admin.address {
        let tls = match &config.admin.tls {
            Some(files) => Some(Spoken::read(files).await?),
            None => None,
        };
        if let Some(tls) = &tls {
            daemon.set_admin_tls(Arc::clone(tls));
        }
        let secure = tls.is_some();
        let tcp = Tcp::bind(host, *port, tls).await?.with_room(room());
        if let Some(address) = tcp.address() {
            tracing::info!(%address, token = token.is_some(), tls = secure, "admin protocol over TCP");
        }
        http::serve_tcp(tasks, tcp, token, admin.clone());
    }
    http::serve_socket(tasks, socket, admin);
    Ok(())
}

/// Starts the arrays, then listens for clients.
pub(super) async fn open(daemon: &Daemon, force: bool, tasks: &Tasks) -> Result<(), DaemonError> {
    let config = daemon.config();
    let mut arrays = Vec::new();
    for array in &config.arrays {
        let started = supervisor::start_array(&config, array, force, daemon.events()).await;
        match started {
            Ok(running) => arrays.push(running),
            Err(error) => {
                // Those that were started are closed as usual.
                daemon.set_arrays(arrays);
                return Err(error);
            }
        }
    }
    daemon.set_arrays(arrays);
    let said = daemon.events().follow(None);
    let server = supervisor::start_server(&config, daemon.arrays(), tasks).await?;
    server.set_admin(Arc::new(daemon.clone()));
    daemon.set_server(server);
    let (daemon, stop) = (daemon.clone(), tasks.stop().clone());
    tasks.spawn("sizes for clients", async move {
        crate::task::select! {
            // It may be dropped: clients are told again at the next commit.
            () = tell_sizes(&daemon, said) => {}
            () = stop.requested() => {}
        }
    });
    Ok(())
}

/// Tells clients how much an array holds whenever it was packed: they only hear of it where one of them asked for
/// the pack.
async fn tell_sizes(daemon: &Daemon, mut said: EventStream) {
    while let Some(Ok(event)) = said.next().await {
        if event.kind == PACK_DONE
            && let (Some(server), Some(array)) = (daemon.server(), &event.array)
        {
            server.tell_size(array);
        }
    }
}

/// Does what signals ask, until one, or the admin protocol, asks to end.
async fn obey(daemon: &Daemon, signals: &mut Signals, notify: Notify) {
    loop {
        // Both may be dropped: neither loses what has come.
        let asked = crate::task::select! {
            asked = signals.next() => asked,
            () = daemon.end().requested() => Asked::End,
        };
        match asked {
            Asked::End => return,
            Asked::Reload => {
                notify.reloading();
                if let Err(problem) = daemon.reload_now(false).await {
                    tracing::error!(why = %problem, mistakes = ?problem.mistakes, "reload refused");
                }
                notify.ready(&daemon.line().0);
            }
            Asked::Reopen => {
                // It is logged and that is all that can be done.
                daemon.reopen_now().ok();
            }
        }
    }
}

/// Tells systemd when clients are served, and from then on how the arrays are.
async fn tell_status(daemon: &Daemon, notify: Notify) {
    const EVERY: Duration = Duration::from_secs(5);
    let give_up = Instant::now() + supervisor::patience(&daemon.config());
    let mut ready = false;
    let mut last = String::new();
    let mut changes: Vec<_> = daemon
        .arrays()
        .iter()
        .map(|running| running.array.serving())
        .collect();
    loop {
        let (line, serves) = daemon.line();
        if !ready && (serves || Instant::now() >= give_up) {
            ready = true;
            notify.ready(&line);
            tracing::info!(serves, line, "started");
        } else if !ready {
            notify.still_starting(&line, EVERY * 2);
        } else if line != last {
            notify.status(&line);
        }
        last = line;
        let any = changes
            .iter_mut()
            .map(|serving| Box::pin(serving.changed()));
        // Both may be dropped: it only looks again.
        crate::task::select! {
            (heard, ..) = futures_util::future::select_all(any) => {
                // The array has ended, and says nothing more.
                if heard.is_err() { return }
            }
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// Closes everything in the reverse order of opening; true where all ended in time.
pub(super) async fn close(daemon: &Daemon, admin: &Tasks, tasks: &Tasks) -> bool {
    let mut graceful = true;
    let mut note = |ended: Result<(), StillRunning>| {
        if let Err(error) = ended {
            tracing::warn!(%error, "did not end in time");
            graceful = false;
        }
    };
    if let Some(server) = daemon.server() {
        note(server.shutdown(SERVER_END).await);
    }
    for running in daemon.arrays() {
        note(running.array.shutdown(ARRAY_END).await);
    }
    note(tasks.shutdown(TASKS_END).await);
    daemon.events().close();
    note(admin.shutdown(TASKS_END).await);
    graceful
}
