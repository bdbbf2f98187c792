//! Everything there is in a history: machines, daemons, ZEO servers, members, clients.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::client::{Client, Identity};
use super::drive::Drive;
use super::events::Heard;
use super::excuse::Excuses;
use super::held::EverHeld;
use super::host::{Life, Machine};
use super::server::{self, data_fs};
use super::start::Start;
use super::truth::Truth;
use super::{network, trace};
use crate::daemon::simulated::Whole;
use crate::raid::{FileRecord, MemberState, RecordStore as _};
use crate::server::{Server, Serving};
use crate::storage::Storage;
use crate::wire::Dialect;
use crate::zodb::Tid;

/// What a history is made of.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub(super) daemons: usize,
    /// By name; true for a ZEO server, a file of the daemon otherwise.
    pub(super) members: Vec<(String, bool)>,
    pub(super) clients: usize,
    pub(super) packs: bool,
    /// The clients' encoding is pickles.
    pub(super) pickles: bool,
    pub(super) start_policy: &'static str,
    pub(super) min_optimal: usize,
    pub(super) fail_mode: &'static str,
    pub(super) cache: &'static str,
}

impl Shape {
    pub(super) fn random() -> Shape {
        let count = if fastrand::u8(..3) == 0 { 2 } else { 3 };
        let kind = fastrand::u8(..10);
        let daemons = if kind < 3 { 2 } else { 1 };
        let is_zeo = |number: usize| match kind {
            0..6 => true,
            6..9 => false,
            _ => number.is_multiple_of(2),
        };
        let names = ["a", "b", "c"].iter().take(count).enumerate();
        let majority = fastrand::u8(..4) == 0;
        Shape {
            daemons,
            members: names
                .map(|(number, name)| ((*name).to_owned(), is_zeo(number)))
                .collect(),
            clients: fastrand::usize(2..=4),
            packs: fastrand::u8(..3) == 0,
            pickles: fastrand::bool(),
            start_policy: if majority { "majority" } else { "in-sync" },
            min_optimal: if majority { 2 } else { 1 },
            fail_mode: if fastrand::bool() {
                "close"
            } else {
                "read-only"
            },
            cache: if fastrand::bool() { "64KiB" } else { "0" },
        }
    }
}

/// A process on a machine, which is started again and again.
struct Process<T> {
    machine: Arc<Machine>,
    folder: PathBuf,
    life: Mutex<Option<Arc<Life>>>,
    /// How many lives it has had.
    begun: AtomicUsize,
    /// What runs, when it does.
    running: Arc<Mutex<Option<T>>>,
    /// It was ended, and should stay so for now.
    held: AtomicBool,
    /// It is being ended in good order.
    ends: AtomicBool,
}

/// What runs in a process.
trait Program {
    /// It has died.
    fn died(&self) {}
}

impl Program for Whole {
    fn died(&self) {
        Whole::died(self);
    }
}

impl Program for ServerRunning {}
impl Program for () {}

impl<T: Program> Process<T> {
    fn new(name: &str, folder: PathBuf) -> Self {
        Process::on(Machine::new(name), folder)
    }

    fn on(machine: Arc<Machine>, folder: PathBuf) -> Self {
        std::fs::create_dir_all(&folder).expect("a folder");
        Process {
            machine,
            folder,
            life: Mutex::new(None),
            begun: AtomicUsize::new(0),
            running: Arc::default(),
            held: AtomicBool::new(false),
            ends: AtomicBool::new(false),
        }
    }

    fn life(&self) -> Option<Arc<Life>> {
        self.life.lock().clone()
    }

    fn begin(&self) -> Arc<Life> {
        let life = Life::begin(&self.machine);
        *self.life.lock() = Some(Arc::clone(&life));
        self.begun.fetch_add(1, Ordering::SeqCst);
        life
    }

    /// Ends it where it stands; `power` takes the machine with it. Whether there was something to end.
    async fn crash(&self, power: bool) -> bool {
        let Some(life) = self.life.lock().take() else {
            return false;
        };
        self.ends.store(false, Ordering::SeqCst);
        life.die();
        if power {
            network::darken(&self.machine.name);
        } else {
            network::close_of_dead();
        }
        let running = self.running.lock().take();
        life.enter(|| {
            if let Some(running) = &running {
                running.died();
            }
            drop(running);
        });
        life.clear_away().await;
        for drive in self.machine.drives() {
            drive.is_left();
        }
        if power {
            let lost = self.machine.lose_power();
            trace::note(format!("{} lost {lost} writes", self.machine.name));
        }
        true
    }
}

/// Which pack a daemon began last, none yet where that is 0, and whether it goes on.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PackSeen {
    pub(super) last: u64,
    pub(super) runs: bool,
}

/// What a ZEO server keeps while it runs.
pub(super) struct ServerRunning {
    server: Server,
    _serving: watch::Sender<Serving>,
    storage: Arc<dyn Storage>,
}

pub(super) struct World {
    pub(super) shape: Shape,
    pub(super) truth: Truth,
    pub(super) excuses: Excuses,
    pub(super) ever_held: EverHeld,
    /// Of a start that may lose something: what operators have moved away before it is known what is lost.
    pub(super) moved_away: Mutex<BTreeSet<Tid>>,
    pub(super) heard: Heard,
    daemons: Vec<Process<Whole>>,
    servers: BTreeMap<String, Process<ServerRunning>>,
    clients: Vec<(Arc<Identity>, Process<()>)>,
    over: AtomicBool,
    pub(super) faults: AtomicUsize,
    index: Mutex<BTreeMap<PathBuf, Scanned>>,
    /// A copy is being emptied by its operator.
    pub(super) emptying: AtomicBool,
    /// Of each daemon: the policy that it has, and the member that it is without.
    configured: Mutex<Vec<(&'static str, Option<String>)>>,
    /// How the next start is to be.
    pub(super) next_start: Mutex<Option<Start>>,
    /// Nothing goes wrong any more.
    pub(super) is_calm: AtomicBool,
    /// How many starts there are under way that clients must not see.
    pub(super) clients_wait: AtomicUsize,
}

/// The transactions of a file, as far as it was read.
#[derive(Default)]
struct Scanned {
    inode: u64,
    upto: u64,
    last: Option<(Tid, u64)>,
    places: BTreeMap<Tid, (u64, u64)>,
}

impl Scanned {
    /// Reads what was added since the last time; all of it where it is another file, or was cut.
    fn scan(&mut self, path: &Path) -> std::io::Result<()> {
        let data = std::fs::read(path)?;
        let inode = std::fs::metadata(path)?.ino();
        let number = |at: u64| {
            let at = at as usize;
            data.get(at..at + 8)
                .map(|bytes| u64::from_be_bytes(bytes.try_into().expect("eight")))
        };
        let stands = self.last.is_none_or(|(tid, begin)| {
            // A copy that was cut may have got another one of the same TID there, of another length.
            let end = number(begin + 8).map(|len| begin + len + 8);
            number(begin) == Some(tid.0) && end == Some(self.upto) && self.upto <= data.len() as u64
        });
        if inode != self.inode || !stands {
            *self = Scanned {
                inode,
                upto: 4,
                ..Scanned::default()
            };
        }
        while let (Some(tid), Some(len)) = (number(self.upto), number(self.upto + 8)) {
            let begin = self.upto;
            let end = begin + len + 8;
            if data[begin as usize + 16] == b'c' || end > data.len() as u64 {
                break;
            }
            self.places.insert(Tid(tid), (begin, end));
            self.last = Some((Tid(tid), begin));
            self.upto = end;
        }
        Ok(())
    }
}

impl World {
    pub(super) fn new(folder: &Path, shape: Shape) -> Arc<World> {
        let daemons = (1..=shape.daemons).map(|number| {
            let name = format!("d{number}");
            let folder = folder.join(&name);
            let files = shape.members.iter().filter(|(_, is_zeo)| !is_zeo);
            let disks = files.map(|(member, _)| {
                let of = folder.join(format!("var/{member}"));
                (member.clone(), of)
            });
            let machine = Machine::with_disks(&name, disks.collect());
            Process::on(machine, folder)
        });
        let servers = shape.members.iter().filter(|(_, is_zeo)| *is_zeo);
        let servers = servers.map(|(name, _)| {
            let folder = folder.join(format!("z{name}"));
            std::fs::create_dir_all(folder.join("blobs")).expect("a folder");
            (name.clone(), Process::new(&format!("z{name}"), folder))
        });
        let clients = (1..=shape.clients as u64).map(|number| {
            let identity = Identity {
                number,
                names: 0.into(),
            };
            let name = format!("c{number}");
            (Arc::new(identity), Process::new(&name, folder.join(&name)))
        });
        let world = World {
            daemons: daemons.collect(),
            servers: servers.collect(),
            clients: clients.collect(),
            truth: Truth::default(),
            excuses: Excuses::default(),
            ever_held: EverHeld::default(),
            moved_away: Mutex::default(),
            heard: Heard::default(),
            over: AtomicBool::new(false),
            faults: AtomicUsize::new(0),
            index: Mutex::default(),
            emptying: AtomicBool::new(false),
            configured: Mutex::new(vec![(shape.start_policy, None); shape.daemons]),
            next_start: Mutex::new(None),
            is_calm: AtomicBool::new(false),
            clients_wait: AtomicUsize::new(0),
            shape,
        };
        for daemon in &world.daemons {
            for (name, is_zeo) in &world.shape.members {
                if !is_zeo {
                    let blobs = daemon.folder.join(format!("var/{name}/blobs"));
                    std::fs::create_dir_all(blobs).expect("a folder");
                }
            }
            std::fs::create_dir_all(daemon.folder.join("etc")).expect("a folder");
            std::fs::create_dir_all(daemon.folder.join("var/tmp")).expect("a folder");
        }
        for daemon in 0..world.daemons.len() {
            world.configure(daemon, None);
        }
        Arc::new(world)
    }

    pub(super) fn daemons(&self) -> usize {
        self.daemons.len()
    }

    pub(super) fn servers(&self) -> Vec<String> {
        self.servers.keys().cloned().collect()
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    pub(super) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    pub(super) fn machines(&self) -> Vec<Arc<Machine>> {
        let daemons = self.daemons.iter().map(|one| &one.machine);
        let servers = self.servers.values().map(|one| &one.machine);
        daemons.chain(servers).cloned().collect()
    }

    /// Every disk: that of each daemon and server, and that of each file member.
    pub(super) fn drives(&self) -> Vec<Arc<Drive>> {
        let machines = self.machines();
        let all = machines.iter().flat_map(|machine| machine.drives());
        all.cloned().collect()
    }

    /// Whether a sync has failed under a server that runs.
    pub(super) fn drive_has_failed(&self, server: &str) -> bool {
        self.servers[server].machine.drive.has_failed()
    }

    /// Every host that has something to say to another.
    pub(super) fn pairs(&self) -> Vec<(String, String)> {
        let mut pairs = Vec::new();
        for daemon in &self.daemons {
            let name = &daemon.machine.name;
            for server in self.servers.values() {
                pairs.push((name.clone(), server.machine.name.clone()));
            }
            for (_, client) in &self.clients {
                pairs.push((client.machine.name.clone(), name.clone()));
            }
        }
        pairs
    }

    /// Whether a member is out of the configuration.
    pub(super) fn lacks_a_member(&self, number: usize) -> bool {
        self.configured.lock()[number].1.is_some()
    }

    /// Changes what members a daemon's configuration has.
    pub(super) fn configure(&self, number: usize, without: Option<&str>) {
        self.configured.lock()[number].1 = without.map(str::to_owned);
        self.write_configuration(number);
    }

    fn write_configuration(&self, number: usize) {
        let (policy, without) = self.configured.lock()[number].clone();
        let without = without.as_deref();
        let shape = &self.shape;
        let members: Vec<String> = shape
            .members
            .iter()
            .filter(|(name, _)| Some(name.as_str()) != without)
            .map(|(name, is_zeo)| {
                if *is_zeo {
                    format!("      {name}: {{zeo: \"z{name}:8100\"}}\n")
                } else {
                    format!(
                        "      {name}: {{file: var/{name}/Data.fs, blob_dir: var/{name}/blobs}}\n"
                    )
                }
            })
            .collect();
        let cluster_mode = if shape.daemons > 1 { "coop" } else { "single" };
        let encoding = if shape.pickles { "Z5" } else { "M5" };
        let least = shape.min_optimal;
        let (fail_mode, cache) = (shape.fail_mode, shape.cache);
        let min_optimal = if shape.daemons > 1 {
            String::new()
        } else {
            format!("    min_optimal: {least}\n")
        };
        let text = format!(
            "listen: \"d{}:8100\"\nencoding: {encoding}\ntransaction_timeout: 10s\n\
             limits: {{threads: 1}}\narrays:\n  main:\n    members:\n{}\
             \x20   cluster_mode: {cluster_mode}\n    start_policy: {policy}\n{min_optimal}\
             \x20   fail_mode: {fail_mode}\n    member_timeout: 3s\n    open_timeout: 3s\n\
             \x20   lock_timeout: 5s\n    cache: {cache}\n    invalidation_queue: 50\n\
             \x20   pack_gc: false\n    pack_keep_old: false\n",
            number + 1,
            members.concat()
        );
        let file = self.daemons[number].folder.join(crate::config::FILE);
        std::fs::write(file, text).expect("a configuration");
    }

    /// Starts a daemon where it does not run.
    pub(super) fn start_daemon(self: &Arc<Self>, number: usize) {
        let process = &self.daemons[number];
        if process.life().is_some() || process.held.load(Ordering::SeqCst) {
            return;
        }
        let start = self.choose_start();
        self.configured.lock()[number].0 = start.policy;
        self.write_configuration(number);
        let life = process.begin();
        network::light(&process.machine.name);
        if self.is_risky(start) {
            self.clients_wait.fetch_add(1, Ordering::SeqCst);
            drop(super::spawn(
                Arc::clone(self).start_at_risk(number, life, start),
            ));
        } else {
            self.run_daemon(number, &life, start);
        }
    }

    /// Begins to run a daemon in its process.
    pub(super) fn run_daemon(self: &Arc<Self>, number: usize, life: &Arc<Life>, start: Start) {
        let world = Arc::clone(self);
        let process = &self.daemons[number];
        let (folder, running) = (process.folder.clone(), Arc::clone(&process.running));
        drop(life.spawn(async move {
            trace::note(format!("starts, {start:?}"));
            match Whole::start(&folder, start.force).await {
                Ok(whole) => {
                    let serving = whole.serving();
                    *running.lock() = Some(whole);
                    world.note_short_outages(number, serving).await;
                }
                Err(why) => trace::note(format!("cannot start: {why}")),
            }
        }));
    }

    pub(super) fn start_server(self: &Arc<Self>, name: &str) {
        let process = &self.servers[name];
        if process.life().is_some() || process.held.load(Ordering::SeqCst) {
            return;
        }
        let life = process.begin();
        network::light(&process.machine.name);
        let (folder, running) = (process.folder.clone(), Arc::clone(&process.running));
        let host = process.machine.name.clone();
        let offer = if name == "b" {
            Dialect::Msgpack
        } else {
            Dialect::Pickle
        };
        drop(life.spawn(async move {
            trace::note("starts");
            match server::start(folder, &host, offer).await {
                Ok((server, serving, storage)) => {
                    *running.lock() = Some(ServerRunning {
                        server,
                        _serving: serving,
                        storage,
                    });
                }
                Err(why) => trace::note(format!("cannot start: {why}")),
            }
        }));
    }

    pub(super) fn start_client(self: &Arc<Self>, number: usize) {
        let (identity, process) = &self.clients[number];
        if process.life().is_some() || self.clients_wait.load(Ordering::SeqCst) > 0 {
            return;
        }
        let life = process.begin();
        let client = Client::new(Arc::clone(identity), Arc::clone(self), self.shape.packs);
        drop(life.spawn(client.run()));
    }

    /// Starts again what does not run and is not held down, as a supervisor does.
    pub(super) fn supervise(self: &Arc<Self>) {
        for server in self.servers.keys() {
            self.start_server(server);
        }
        for number in 0..self.daemons.len() {
            self.start_daemon(number);
        }
        for number in 0..self.clients.len() {
            self.start_client(number);
        }
    }

    pub(super) fn hold_daemon(&self, number: usize, held: bool) {
        self.daemons[number].held.store(held, Ordering::SeqCst);
    }

    pub(super) fn hold_server(&self, name: &str, held: bool) {
        self.servers[name].held.store(held, Ordering::SeqCst);
    }

    pub(super) async fn crash_daemon(&self, number: usize, power: bool) {
        // It may be up again before anybody has looked.
        self.note_outage(number);
        self.daemons[number].crash(power).await;
        self.look_at_copies();
    }

    pub(super) async fn crash_server(&self, name: &str, power: bool) {
        self.servers[name].crash(power).await;
        self.look_at_copies();
    }

    pub(super) async fn crash_client(&self, number: usize) {
        self.clients[number].1.crash(false).await;
    }

    pub(super) fn whole(&self, number: usize) -> Option<Whole> {
        self.daemons[number].running.lock().clone()
    }

    /// Whether a daemon is being ended in good order: it lets nobody in any more.
    pub(super) fn ends(&self, number: usize) -> bool {
        self.daemons[number].ends.load(Ordering::SeqCst)
    }

    /// Stops a process where it stands for a while, as SIGSTOP does; its machine goes on.
    pub(super) fn freeze(&self, name: &str, lasts: Duration) {
        let server = name.strip_prefix('z').map(|name| &self.servers[name].life);
        let mut daemons = self.daemons.iter();
        let life = server.or_else(|| {
            let found = daemons.find(|daemon| daemon.machine.name == name);
            found.map(|daemon| &daemon.life)
        });
        let Some(life) = life.and_then(|life| life.lock().clone()) else {
            return;
        };
        trace::note(format!("{name} is stopped for {lasts:?}"));
        life.stop();
        drop(super::spawn(async move {
            tokio::time::sleep(lasts).await;
            life.go_on();
        }));
    }

    /// Whom a daemon asks for new identifiers, and which of its lives that server has.
    pub(super) fn oids_from(&self, daemon: usize) -> Option<(String, usize)> {
        let members = self.whole(daemon)?.report().members.into_iter();
        let readable = members.filter(|member| member.state == MemberState::Optimal);
        let first = readable.map(|member| member.name).min()?;
        let begun = self.servers.get(&first).map(|server| &server.begun);
        let life = begun.map_or(0, |begun| begun.load(Ordering::SeqCst));
        Some((first, life))
    }

    /// Whether a life of a daemon lasts.
    pub(super) fn lives(&self, life: u64) -> bool {
        let mut all = (0..self.daemons()).filter_map(|number| self.whole(number));
        all.any(|whole| whole.number() == life)
    }

    /// What a daemon packs.
    pub(super) fn pack_seen(&self, daemon: usize) -> PackSeen {
        let pack = self.whole(daemon).and_then(|whole| whole.pack());
        pack.map_or_else(PackSeen::default, |pack| PackSeen {
            last: pack.id,
            runs: pack.ended.is_none(),
        })
    }

    /// Does something in a daemon's process.
    pub(super) fn in_daemon<F>(&self, number: usize, work: F) -> Option<tokio::task::JoinHandle<()>>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let life = self.daemons[number].life()?;
        Some(life.spawn(work))
    }

    /// Ends a daemon as an operator does, and waits for it.
    pub(super) async fn stop_daemon(self: &Arc<Self>, number: usize) {
        if let Some(whole) = self.whole(number) {
            let process = &self.daemons[number];
            process
                .ends
                .store(process.life().is_some(), Ordering::SeqCst);
            let host = self.daemons[number].machine.name.clone();
            let this = Arc::clone(self);
            let (ended, waits) = tokio::sync::oneshot::channel();
            let closing = self.in_daemon(number, async move {
                let graceful = whole.close().await;
                trace::note(format!("ended, graceful: {graceful}"));
                if !graceful && !this.excuses.has(&host) {
                    trace::fail("it was asked to end, and something had to be left undone");
                }
                ended.send(()).ok();
            });
            if closing.is_some()
                && tokio::time::timeout(Duration::from_mins(3), waits)
                    .await
                    .is_err()
            {
                trace::fail(format!("d{} does not end", number + 1));
            }
        }
        self.crash_daemon(number, false).await;
    }

    pub(super) async fn stop_server(&self, name: &str) {
        let process = &self.servers[name];
        let running = process.running.lock().take();
        if let (Some(life), Some(running)) = (process.life(), running) {
            let closing = life.spawn(async move {
                drop(running.server.shutdown(Duration::from_secs(10)).await);
                running.storage.close().await;
            });
            drop(tokio::time::timeout(Duration::from_mins(1), closing).await);
        }
        self.crash_server(name, false).await;
    }

    /// What the operator of a server does with a copy that cannot be recovered.
    pub(super) async fn empty_server(self: &Arc<Self>, name: &str) {
        self.emptying.store(true, Ordering::SeqCst);
        self.stop_server(name).await;
        let folder = &self.servers[name].folder;
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                std::fs::remove_dir_all(&path).expect("it can be removed");
            } else {
                std::fs::remove_file(&path).expect("it can be removed");
            }
        }
        std::fs::create_dir_all(folder.join("blobs")).expect("a folder");
        self.start_server(name);
        let this = Arc::clone(self);
        // What was acknowledged just before is heard of meanwhile.
        drop(super::spawn(async move {
            tokio::time::sleep(Duration::from_secs(5)).await;
            this.emptying.store(false, Ordering::SeqCst);
        }));
    }

    /// Where a member's data is, as this daemon sees it.
    pub(super) fn store(&self, daemon: usize, member: &str) -> Option<(PathBuf, Arc<Drive>)> {
        let (_, is_zeo) = self.shape.members.iter().find(|(name, _)| name == member)?;
        let process = &self.daemons[daemon];
        if *is_zeo {
            let server = &self.servers[member];
            Some((data_fs(&server.folder), Arc::clone(&server.machine.drive)))
        } else {
            let path = data_fs(&process.folder.join(format!("var/{member}")));
            let drive = process.machine.drive_of(&path);
            Some((path, drive))
        }
    }

    /// A daemon's membership record.
    pub(super) fn record(&self, daemon: usize) -> PathBuf {
        self.daemons[daemon].folder.join("var/main.membership.json")
    }

    /// The transactions that a file holds, durably or not.
    pub(super) fn tids(&self, path: &Path) -> std::io::Result<BTreeSet<Tid>> {
        let mut index = self.index.lock();
        let scanned = index.entry(path.to_owned()).or_default();
        scanned.scan(path)?;
        Ok(scanned.places.keys().copied().collect())
    }

    /// Whether a member has a transaction where no loss of power takes it from.
    fn holds(&self, path: &Path, drive: &Drive, tid: Tid) -> std::io::Result<bool> {
        let mut index = self.index.lock();
        let scanned = index.entry(path.to_owned()).or_default();
        scanned.scan(path)?;
        let Some((begin, end)) = scanned.places.get(&tid) else {
            return Ok(false);
        };
        let unsynced = drive.unsynced(scanned.inode);
        Ok(unsynced.is_none_or(|unsynced| !unsynced.touches(*begin, *end)))
    }

    /// A client has been told: whoever may serve next must have it, durably.
    pub(super) fn check_acknowledged(&self, daemon: usize, name: &str, tid: Tid) {
        // One that is told of late may be packed away by then.
        if self.emptying.load(Ordering::SeqCst) || tid <= self.truth.floor() {
            return;
        }
        let file = self.record(daemon);
        let mut must: Vec<(String, &str)> = Vec::new();
        match FileRecord::new(file).load() {
            Ok(Some(record)) => {
                must.extend(record.in_sync().map(|name| (name.to_owned(), "the record")));
            }
            Ok(None) => trace::fail(format!("{name} is acknowledged without a record")),
            Err(error) => trace::fail(format!("the record cannot be read: {error}")),
        }
        if let Some(whole) = self.whole(daemon) {
            for member in whole.report().members {
                if member.state == MemberState::Optimal {
                    must.push((member.name, "the status"));
                }
            }
        }
        for (member, says) in must {
            let Some((path, drive)) = self.store(daemon, &member) else {
                continue;
            };
            let holds = self.holds(&path, &drive, tid);
            if !matches!(holds, Ok(true)) {
                trace::fail(format!(
                    "d{} has acknowledged {name} as {tid}; {says} has {member} in sync, which lacks it ({holds:?})",
                    daemon + 1
                ));
            }
        }
    }

    /// Ends whatever still runs.
    pub(super) async fn clear_away(&self) {
        for (_, client) in &self.clients {
            client.crash(false).await;
        }
        for daemon in &self.daemons {
            daemon.crash(false).await;
        }
        for server in self.servers.values() {
            server.crash(false).await;
        }
    }
}
