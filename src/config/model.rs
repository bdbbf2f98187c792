//! What a valid configuration says. Whoever has a [`Config`] need not check anything of it again.
//!
//! Paths are absolute. Every value that the file, a default or the environment gave is also a
//! [`Setting`], for `show`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::mistake::Mistake;
use crate::tls::ServerTls;

/// The configuration of an instance.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The instance's folder.
    pub instance: PathBuf,
    /// The file that it was read from.
    pub file: PathBuf,
    /// Where ZEO clients connect. At least one, none twice.
    pub listen: Vec<Listen>,
    /// The protocol announced to clients.
    pub encoding: Encoding,
    /// Clients may not write.
    pub read_only: bool,
    /// How long a client may hold the commit lock.
    pub transaction_timeout: Duration,
    pub limits: Limits,
    pub admin: Admin,
    /// At least one, in the order of the file.
    pub arrays: Vec<ArrayConfig>,
    pub log: Log,
    pub pid_file: PathBuf,
    /// The user that the daemon becomes where root starts it.
    pub effective_user: Option<String>,
    /// What is taken away from the modes of files that the daemon makes; none is the process's own.
    pub umask: Option<u32>,
    pub spool: Spool,
    pub(super) settings: Vec<Setting>,
    pub(super) warnings: Vec<Mistake>,
}

/// Where ZEO clients connect, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    pub address: Address,
    /// Of a Unix socket's file; none is what the process's umask leaves.
    pub mode: Option<u32>,
    /// Clients must speak TLS.
    pub tls: Option<ServerTls>,
}

/// Where to listen, or to connect.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// A host name or an IP address (without brackets), and a port.
    Tcp {
        host: String,
        port: u16,
    },
    Unix(PathBuf),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    /// Pickles, which every client understands.
    #[default]
    Z5,
    /// `msgpack`.
    M5,
}

/// What one daemon takes upon itself at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Threads that serve, at least one; not counted are those that wait for disks.
    pub threads: usize,
    /// Clients at the same time.
    pub connections: usize,
    /// Of those, from one address: over a Unix socket, of one user.
    pub connections_by_address: usize,
    /// How long a client may take for TLS and for choosing an encoding.
    pub handshake: Duration,
    /// How long it may take to register after that.
    pub register: Duration,
    /// The size of one message of a client, in bytes.
    pub frame: u64,
    /// Calls of one client that are answered at the same time. The others wait.
    pub calls: usize,
    /// Iterators that one client may have open.
    pub iterators: usize,
    /// Bytes that wait for one client, before no more of its calls are taken.
    pub unread: u64,
    /// A client that reads nothing for so long, while something waits for it, is closed.
    pub unread_timeout: Duration,
    /// Bytes of messages from and to all clients, as far as they are more than a little of each.
    pub memory: u64,
    /// What one transaction may store, records and blobs, in bytes.
    pub transaction: u64,
    /// The same of all transactions together that are not finished. Beyond it only those are refused that have
    /// more than their share.
    pub transactions: u64,
    /// Transactions that one transaction undoes.
    pub undos: usize,
    /// No transaction grows where its disk would have fewer bytes left than this.
    pub keep_free: u64,
    /// Connections of the admin protocol, at its socket and at its address each.
    pub admin_connections: usize,
}

/// Where the admin protocol is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    pub socket: PathBuf,
    /// A TCP address as well.
    pub address: Option<(String, u16)>,
    /// The file with the bearer token. There is one where the address is not loopback.
    pub token_file: Option<PathBuf>,
    /// TLS is spoken at the address.
    pub tls: Option<ServerTls>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ArrayConfig {
    pub name: String,
    /// Other names by which clients may ask for this storage.
    pub aliases: Vec<String>,
    /// At least one; names and files are different.
    pub members: Vec<MemberConfig>,
    pub start_policy: StartPolicy,
    /// At least 1, at most the number of members.
    pub min_optimal: usize,
    pub cluster_mode: ClusterMode,
    pub fail_mode: FailMode,
    pub member_timeout: Duration,
    pub open_timeout: Duration,
    /// How long a vote waits for a ZEO server's commit lock that someone else holds.
    pub lock_timeout: Duration,
    pub auto_recover: bool,
    pub recovery_rate: Rate,
    pub catch_up_limit: Duration,
    /// Bytes of records in memory; 0 is no cache.
    pub cache: u64,
    /// ZEO clients may neither write nor pack. (Members are recovered all the same.)
    pub read_only: bool,
    /// How many transactions back clients can verify their caches.
    pub invalidation_queue: usize,
    /// Beyond that, clients whose last transaction is younger than this can, too.
    pub invalidation_age: Option<Duration>,
    /// How files are packed.
    pub pack: Pack,
    /// Whether ZEO clients may recover, disable and reload.
    pub zeo_admin: bool,
    /// The membership record.
    pub record: PathBuf,
    /// None where blobs go over the protocol on both sides.
    pub shared_blobs: Option<SharedBlobs>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberConfig {
    pub name: String,
    pub storage: MemberStorage,
    /// Its file is that of a database which was there before the array: a first start makes no new one.
    pub adopted: bool,
}

/// Who keeps a member's copy.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemberStorage {
    /// This daemon, in a `Data.fs`, and blobs in a folder.
    File {
        file: PathBuf,
        blob_dir: Option<PathBuf>,
    },
    /// A ZEO server.
    Zeo(ZeoServer),
}

/// A storage of a ZEO server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZeoServer {
    pub address: Address,
    /// The name by which the server knows it.
    pub storage: String,
    /// How many connections to read by; at least one.
    pub connections: usize,
    pub tls: Option<MemberTls>,
}

/// TLS to a ZEO server, as ZEO's `<ssl>` section has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberTls {
    /// Certificates (a file or a folder of them) to judge the server's by; none is the system's.
    pub authenticate: Option<PathBuf>,
    /// What this daemon shows.
    pub certificate: Option<PathBuf>,
    /// None where it is in the certificate's file.
    pub key: Option<PathBuf>,
    /// Instead of the address's host name.
    pub server_name: Option<String>,
    pub check_hostname: bool,
}

/// A folder in which blobs are shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedBlobs {
    pub folder: PathBuf,
    pub with: BlobSharing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BlobSharing {
    /// With this daemon's clients; every member keeps its own blobs.
    #[default]
    Clients,
    /// With the members' servers too; a blob is there once.
    Everything,
}

/// Who writes to the members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClusterMode {
    /// This daemon alone.
    #[default]
    Single,
    /// Other daemons with the same configuration as well.
    Coop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StartPolicy {
    #[default]
    InSync,
    Majority,
    Newest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FailMode {
    #[default]
    Close,
    ReadOnly,
}

/// How a file is packed. (A ZEO server packs as its own configuration says.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pack {
    /// What cannot be reached from the root object is removed as well.
    pub gc: bool,
    /// The file is left as it was beside, as `Data.fs.old`.
    pub keep_old: bool,
}

/// The most in a second; none is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rate {
    pub transactions: Option<u64>,
    pub bytes: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    pub target: LogTarget,
    pub file: PathBuf,
    pub level: LogLevel,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// Where the log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogTarget {
    /// The file, in the background; in the foreground standard error, or the journal where that is it.
    #[default]
    Auto,
    File,
    /// In the background there is none, and the file is meant.
    Stderr,
    Journal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Where transactions wait for their vote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spool {
    pub folder: PathBuf,
    /// Bytes of a transaction in memory, before the rest goes into a file.
    pub memory: u64,
}

/// One value in force, for `show`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// `arrays.main.min_optimal`.
    pub key: String,
    /// As it would be written in the file; a dash where there is none.
    pub value: String,
    pub origin: Origin,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A line of the configuration file, counted from 1.
    Line(usize),
    Default,
    /// A variable of the environment.
    Environment(&'static str),
}

impl Config {
    /// Every value in force and where it came from, in the order of the model. Nothing here is
    /// secret: tokens are in files of their own, and only their paths are said.
    #[must_use]
    pub fn explain(&self) -> &[Setting] {
        &self.settings
    }

    /// What is wrong with the files of certificates, keys and the token that are named, which are not looked into before they
    /// are needed: whoever asks for the status need not be allowed to read them. Blocks.
    #[must_use]
    pub fn check_certificates(&self) -> Vec<Mistake> {
        let mut mistakes = super::listen::check_certificates(self);
        mistakes.extend(super::permissions::secrets(self));
        mistakes
    }

    /// Which members' files are no `Data.fs`, and which of those that are to be taken over are not there. No start
    /// fails for them: the others may serve. Blocks.
    #[must_use]
    pub fn check_files(&self) -> Vec<Mistake> {
        super::data_file::check(self)
    }

    /// Whether the user that the daemon is to become is known here. Blocks.
    #[must_use]
    pub fn check_user(&self) -> Vec<Mistake> {
        super::permissions::user(self).into_iter().collect()
    }

    /// Which copies lie on one disk, a sentence for each array and disk. It is no mistake, and may be meant. Blocks.
    #[must_use]
    pub fn shared_disks(&self) -> Vec<String> {
        let arrays = self.arrays.iter().flat_map(|array| {
            let copies = array
                .members
                .iter()
                .filter_map(|member| match &member.storage {
                    MemberStorage::File { file, .. } => {
                        Some((member.name.as_str(), file.as_path()))
                    }
                    MemberStorage::Zeo(_) => None,
                });
            super::disks::shared(copies)
        });
        arrays.collect()
    }

    /// Where everybody on this machine could change what the daemon does or reads. Blocks.
    #[must_use]
    pub fn check_permissions(&self) -> Vec<Mistake> {
        super::permissions::exposed(self)
    }

    /// What is no mistake, but probably not meant either.
    #[must_use]
    pub fn warnings(&self) -> &[Mistake] {
        &self.warnings
    }

    /// Takes those settings of another configuration whose keys are `live`, after a reload.
    pub(crate) fn replace_settings(&mut self, new: &Config, live: impl Fn(&str) -> bool) {
        let old = std::mem::take(&mut self.settings);
        let find = |key: &str| old.iter().find(|setting| setting.key == key);
        for setting in &new.settings {
            if live(&setting.key) {
                self.settings.push(setting.clone());
            } else {
                self.settings.extend(find(&setting.key).cloned());
            }
        }
        // What the new one does not mention is in force all the same.
        let is_new = |key: &str| new.settings.iter().any(|setting| setting.key == key);
        let rest = old
            .iter()
            .filter(|old| !live(&old.key) && !is_new(&old.key));
        self.settings.extend(rest.cloned());
    }

    #[must_use]
    pub fn array(&self, name: &str) -> Option<&ArrayConfig> {
        self.arrays.iter().find(|array| array.name == name)
    }
}

impl Origin {
    /// `etc/zeoraid.yaml:12`, `default`, or `$ZEORAID_LISTEN`.
    #[must_use]
    pub fn to_text(&self, file: &std::path::Path) -> String {
        match self {
            Origin::Line(line) => format!("{}:{line}", file.display()),
            Origin::Default => "default".into(),
            Origin::Environment(name) => format!("${name}"),
        }
    }
}

/// As clients and people write it: `127.0.0.1:8100`, `[::1]:8100`, `unix:/srv/zeo.sock`.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The words of a choice, as they are written in the file.
macro_rules! words {
    ($name:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        impl $name {
            pub(super) const WORDS: &'static [(&'static str, $name)] =
                &[$(($word, $name::$variant)),+];

            /// As it is written in the file.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self {
                    $($name::$variant => $word),+
                }
            }
        }
    };
}

words!(Encoding { Z5 = "Z5", M5 = "M5" });
words!(StartPolicy {
    InSync = "in-sync",
    Majority = "majority",
    Newest = "newest"
});
words!(ClusterMode {
    Single = "single",
    Coop = "coop"
});
words!(BlobSharing {
    Clients = "clients",
    Everything = "everything"
});
words!(FailMode {
    Close = "close",
    ReadOnly = "read-only"
});
words!(LogLevel {
    Error = "error",
    Warn = "warn",
    Info = "info",
    Debug = "debug",
    Trace = "trace"
});
words!(LogTarget {
    Auto = "auto",
    File = "file",
    Stderr = "stderr",
    Journal = "journal"
});
words!(LogFormat {
    Text = "text",
    Json = "json"
});
