//! What is asked and answered over the admin protocol.
//!
//! The types are this edge's own shapes: rooms further in know nothing of them, and the daemon
//! converts. Server and client share them; the `OpenAPI` document is made from them. Times are UTC in
//! RFC 3339, TIDs are `0x` and sixteen digits, durations say their unit in the name.

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// What the daemon can be asked. The daemon implements it; commands and the HTTP server use it.
#[async_trait]
pub trait AdminApi: Send + Sync + 'static {
    async fn status(&self) -> Result<Status, Problem>;
    async fn arrays(&self) -> Result<Vec<ArrayDetails>, Problem>;
    async fn array(&self, array: &str) -> Result<ArrayDetails, Problem>;
    async fn recover(
        &self,
        array: &str,
        member: &str,
        request: RecoverRequest,
    ) -> Result<Recovery, Problem>;
    /// The recovery that runs, or the one that ended last; 404 where there was none.
    async fn recovery(&self, array: &str) -> Result<Recovery, Problem>;
    async fn change_recovery(&self, array: &str, rate: RateLimit) -> Result<Recovery, Problem>;
    async fn cancel_recovery(&self, array: &str) -> Result<Recovery, Problem>;
    /// What a recovery of this member would have to do, found without changing anything.
    async fn analyse(&self, array: &str, member: &str) -> Result<Analysis, Problem>;
    async fn disable(&self, array: &str, member: &str) -> Result<MemberDetails, Problem>;
    /// Begins to pack an array, one member after the other.
    async fn pack(&self, array: &str, request: PackRequest) -> Result<Job, Problem>;
    /// Begins to copy an array into a folder on the daemon's machine.
    async fn back_up(&self, array: &str, request: BackupRequest) -> Result<Job, Problem>;
    /// Begins to compare what the optimal members hold.
    async fn scrub(&self, array: &str, request: ScrubRequest) -> Result<Job, Problem>;
    /// Of every array the jobs that run, and of each kind the one that ended last.
    async fn jobs(&self) -> Result<Vec<Job>, Problem>;
    async fn job(&self, id: &str) -> Result<Job, Problem>;
    async fn cancel_job(&self, id: &str) -> Result<Job, Problem>;
    async fn reload(&self, dry_run: bool) -> Result<Reloaded, Problem>;
    async fn shutdown(&self) -> Result<(), Problem>;
    async fn reopen_logs(&self) -> Result<(), Problem>;
    /// The configuration in force: every value and where it came from; secrets hidden.
    async fn configuration(&self) -> Result<Configuration, Problem>;
    /// Events. The stream also ends when the daemon does, or after a problem; whoever reads too slowly
    /// loses events, and sees it by the gap in the ids.
    async fn events(&self, which: Events) -> Result<EventStream, Problem>;
}

/// Which events are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Events {
    /// Those that have happened, later than the one with this number, as far as the bounded log still holds
    /// them: then the stream ends.
    Kept { after: u64 },
    /// Each as it happens. With a number, first those that are later than that one, as far as they are held.
    Follow { after: Option<u64> },
}

/// A stream of events.
pub type EventStream = BoxStream<'static, Result<Event, Problem>>;

/// `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    #[schema(value_type = String)]
    pub started: Timestamp,
    pub uptime_s: u64,
    /// Whether every array serves clients.
    pub ready: bool,
    pub arrays: Vec<ArrayStatus>,
    /// How often clients, and connections of this protocol, have passed a limit since the start, by the
    /// limit's name below `limits`.
    #[serde(default)]
    pub limits_passed: BTreeMap<String, u64>,
}

/// One array's line of the status.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ArrayStatus {
    pub name: String,
    pub state: ArrayState,
    /// One line for people: `degraded: 1 of 3 members out (zeo2: connection refused, 4 min)`.
    pub line: String,
    pub serving: bool,
    /// What an operator should look at whatever the state is: what a scrub has found that is not mended, or that
    /// the last optimal member writes to a file that was removed or replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention: Option<String>,
}

/// The four words of the original.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ArrayState {
    /// All members are in the in-sync set.
    Optimal,
    /// One is being recovered.
    Recovering,
    /// Some are out.
    Degraded,
    /// Too few remain to serve.
    Failed,
}

/// Everything that `details` shows of an array.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ArrayDetails {
    pub name: String,
    #[schema(value_type = String)]
    pub uuid: uuid::Uuid,
    pub state: ArrayState,
    pub line: String,
    pub serving: bool,
    /// Where clients connect: `127.0.0.1:8100`, `unix:/srv/zeo.sock`.
    pub addresses: Vec<String>,
    /// Rises by one at every change of the in-sync set.
    pub epoch: u64,
    /// Since when it is in this state.
    #[schema(value_type = String)]
    pub since: Timestamp,
    /// The last acknowledged transaction; none in an array that does not serve yet, or is empty.
    pub head: Option<Transaction>,
    pub objects: u64,
    pub bytes: u64,
    pub clients: u64,
    /// Since the start of the daemon.
    #[serde(default)]
    pub loads: u64,
    #[serde(default)]
    pub commits: u64,
    pub loads_per_s: f64,
    pub commits_per_s: f64,
    pub commit_lock: CommitLock,
    pub members: Vec<MemberDetails>,
    /// The recovery that runs, if one does.
    pub recovery: Option<Recovery>,
    /// What the operator can do next, where there is something: a command.
    pub next: Option<String>,
    /// As in the status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention: Option<String>,
    /// The last scrub that came to its end; none where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_scrub: Option<LastScrub>,
}

/// What the last scrub found, and what is left of it. It is remembered when the daemon is started again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LastScrub {
    #[schema(value_type = String)]
    pub ended: Timestamp,
    /// Up to which transaction was compared.
    pub head: Transaction,
    pub transactions: u64,
    pub blobs: u64,
    /// How many it found. They are listed in the job, as long as the daemon runs.
    pub differences: u64,
    /// Members that were compared to the end, and those that were not.
    pub members: Vec<String>,
    pub left_out: Vec<String>,
    /// Members that more than half of the others contradict, or that cannot read what they hold.
    pub suspects: Vec<String>,
    /// Members of which as many say one thing as another.
    pub undecided: Vec<String>,
    /// Members that were made anew since.
    pub mended: Vec<String>,
    /// What can be done about those that are not mended, each a sentence or a command.
    pub advice: Vec<String>,
}

/// A transaction, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Transaction {
    /// `0x03f1c2d4a9b80011`.
    pub tid: String,
    #[schema(value_type = Option<String>)]
    pub time: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// Who holds the commit lock, and who waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CommitLock {
    pub held: bool,
    /// For how long.
    pub held_ms: Option<u64>,
    /// Transactions that wait for it.
    pub waiting: u64,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MemberDetails {
    pub name: String,
    pub state: MemberState,
    /// `file`, `zeo`, `memory`.
    pub kind: String,
    #[serde(rename = "where")]
    pub location: String,
    /// Since when it is in this state.
    #[schema(value_type = String)]
    pub since: Timestamp,
    /// Why it is not optimal.
    pub reason: Option<String>,
    /// What happens next without an operator: `next try in 8 s`, `recovers by itself`.
    pub outlook: Option<String>,
    /// What it does not hold, as far as it is known.
    pub lag: Option<Lag>,
    /// Its last transaction, where it is open.
    pub last: Option<Transaction>,
    /// The mean over the last seconds; none where nothing was asked.
    pub latency_ms: Option<f64>,
    pub reads: u64,
    pub faults: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    Optimal,
    Degraded,
    Recovering,
}

/// What a member lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Lag {
    pub transactions: u64,
    pub bytes: u64,
}

/// `POST …/members/{member}/recover`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RecoverRequest {
    #[serde(default)]
    pub strategy: Strategy,
    #[serde(flatten)]
    pub rate: RateLimit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// Copies what the member lacks.
    #[default]
    Missing,
    /// Copies what it lacks, then compares every record.
    Verify,
    /// Cuts it back to the last common transaction, or starts it afresh; what is cut is set aside.
    Rebuild,
}

/// A limit on the speed of a job. Nought is no limit; nothing at all is what the configuration says when
/// a recovery is begun, and no limit when one is changed, and for other jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    #[serde(default)]
    pub transactions_per_second: Option<u64>,
    #[serde(default)]
    pub bytes_per_second: Option<u64>,
    /// Nothing is copied until this is changed. What is copied while commits wait is never held back.
    #[serde(default)]
    pub paused: bool,
}

/// What the analysis of a member found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Analysis {
    pub member: String,
    /// The in-sync member that it was compared with.
    pub source: String,
    pub finding: Finding,
    /// One line for people: `behind by 1 402 transactions (31 MiB)`.
    pub line: String,
    /// The strategy that mends it: the sensible default.
    pub advice: Strategy,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Finding {
    UpToDate,
    Behind {
        lag: Lag,
        /// The last transaction that both hold.
        common: Transaction,
    },
    Empty {
        lag: Lag,
    },
    Diverged {
        /// The last transaction that both hold; none where they share nothing.
        common: Option<Transaction>,
        /// What the member lacks.
        lag: Lag,
        /// What only the member holds, at most the first hundred.
        only_here: Vec<Transaction>,
        only_here_count: u64,
    },
    /// It cannot be opened.
    Damaged {
        reason: String,
    },
}

/// A recovery: the one that runs, or the last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Recovery {
    /// Rises by one with each recovery of this daemon.
    pub id: u64,
    pub member: String,
    /// Where it copies from; none before the analysis has chosen.
    pub source: Option<String>,
    pub strategy: Strategy,
    pub state: RecoveryState,
    /// `queued`, `analyse`, `copy`, `catch-up`, `verify`.
    pub phase: String,
    /// A sentence on what is done or waited for.
    pub note: Option<String>,
    /// The transaction that the phase has come to.
    #[serde(default)]
    pub transaction: Option<String>,
    pub done: Lag,
    pub total: Lag,
    pub transactions_per_s: f64,
    pub bytes_per_s: f64,
    pub time_left_s: Option<u64>,
    pub rate: RateLimit,
    #[schema(value_type = String)]
    pub started: Timestamp,
    #[schema(value_type = Option<String>)]
    pub ended: Option<Timestamp>,
    /// Files in which what had to be cut was set aside.
    pub set_aside: Vec<String>,
    /// Members whose recovery waits for this one.
    pub queued: Vec<String>,
    /// Why it failed, and what can be done.
    pub problem: Option<Problem>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RecoveryState {
    Running,
    Done,
    Failed,
    Cancelled,
}

/// `POST …/pack`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PackRequest {
    /// What is not needed to read the database as it was then, or later, is removed; now, where
    /// nothing is said.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub to: Option<Timestamp>,
}

/// `POST …/backup`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackupRequest {
    /// A folder on the daemon's machine, that is not there yet or is empty: an absolute path.
    pub folder: String,
    /// A backup that is in it is replaced when this one is complete.
    #[serde(default)]
    pub replace: bool,
    #[serde(flatten)]
    pub rate: RateLimit,
}

/// `POST …/scrub`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScrubRequest {
    #[serde(flatten)]
    pub rate: RateLimit,
}

/// Long work on an array.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// `pack-main-1`: the kind, the array, and a number that rises with each of them.
    pub id: String,
    pub kind: JobKind,
    pub array: String,
    pub state: JobState,
    /// As a recovery's; `pack`; `copy`, `verify`, `blobs` of a backup; `scrub`.
    pub phase: String,
    /// A sentence on what is done or waited for.
    pub note: Option<String>,
    pub done: Lag,
    pub total: Lag,
    pub transactions_per_s: f64,
    pub bytes_per_s: f64,
    pub time_left_s: Option<u64>,
    /// The members that it is done to, in their order. A pack has `the shared blob folder` as the last one,
    /// where there is such a folder.
    pub members: Vec<JobMember>,
    #[schema(value_type = String)]
    pub started: Timestamp,
    #[schema(value_type = Option<String>)]
    pub ended: Option<Timestamp>,
    /// Why it failed, and what can be done.
    pub problem: Option<Problem>,
    /// What a backup has made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupResult>,
    /// What a scrub has found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrub: Option<ScrubResult>,
}

/// A backup that is complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackupResult {
    /// Where it is, on the daemon's machine.
    pub folder: String,
    /// The last transaction in it; none where nothing was ever committed.
    pub last: Option<Transaction>,
    pub transactions: u64,
    pub objects: u64,
    /// Of the `Data.fs`.
    pub bytes: u64,
    /// Files of blobs.
    pub blobs: u64,
    pub blob_bytes: u64,
    /// Blobs whose file is missing in the array too.
    pub blobs_missing: u64,
}

/// What a scrub has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ScrubResult {
    /// Up to which transaction was compared.
    pub head: Transaction,
    pub transactions: u64,
    pub blobs: u64,
    /// How many there are; the first hundred are listed.
    pub differences: u64,
    pub listed: Vec<ScrubDifference>,
    /// Members that more than half of the others contradict, or that cannot read what they hold.
    pub suspects: Vec<String>,
    /// What can be done, each a sentence or a command.
    pub next: Vec<String>,
}

/// Something in which members differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ScrubDifference {
    pub transaction: Transaction,
    /// None where the transaction as a whole differs.
    pub oid: Option<String>,
    pub what: ScrubWhat,
    /// Members that hold the same are in one list; the largest comes first.
    pub groups: Vec<Vec<String>>,
    /// Whether the first list is more than half of all.
    pub majority: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ScrubWhat {
    /// Some do not have the transaction.
    Missing,
    /// User, description, extension or status.
    Metadata,
    /// The record, or whether there is one.
    Record,
    /// The file of the blob, or whether there is one.
    Blob,
    /// The last list cannot read it.
    Unreadable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobKind {
    Pack,
    Backup,
    Scrub,
    Recovery,
}

/// How long work is.
pub type JobState = RecoveryState;

/// What a job does to one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobMember {
    pub name: String,
    pub state: JobMemberState,
    /// Why it was left out, or failed.
    pub reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobMemberState {
    Waiting,
    Running,
    Done,
    Skipped,
    Failed,
}

/// `POST /v1/reload`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Reloaded {
    pub dry_run: bool,
    /// `main/zeo4`: array and member.
    pub added: Vec<String>,
    pub removed: Vec<String>,
    /// Settings that took effect, as `name: old -> new`.
    pub changed: Vec<String>,
    /// Settings that differ but take effect only after a restart.
    pub needs_restart: Vec<String>,
    /// What the new configuration says that is allowed, but probably not meant.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// `GET /v1/configuration`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Configuration {
    /// The file that was read.
    pub file: String,
    pub settings: Vec<Setting>,
}

/// One value in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Setting {
    /// `arrays.main.min_optimal`.
    pub key: String,
    pub value: String,
    /// `etc/zeoraid.yaml:12`, `default`, or `$ZEORAID_LISTEN`.
    pub origin: String,
}

/// One entry of `GET /v1/events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Rises by one; `Last-Event-ID` resumes after it.
    pub id: u64,
    #[schema(value_type = String)]
    pub time: Timestamp,
    pub level: Level,
    /// A stable word: `member-degraded`, `member-optimal`, `recovery-started`, …
    pub kind: String,
    pub array: Option<String>,
    pub member: Option<String>,
    /// A sentence for people.
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Info,
    /// The array acted.
    Warning,
    /// An operator must act.
    Error,
}

/// The beginning of every problem's type.
pub const PROBLEM_TYPE: &str = "urn:zeoraid:problem:";
/// The problem that a client makes where no daemon runs.
pub const NOT_RUNNING: &str = "not-running";

/// An RFC 9457 problem document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{detail}")]
pub struct Problem {
    /// `urn:zeoraid:problem:` and a stable word.
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    pub detail: String,
    /// What the operator can do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Where there are several mistakes (a configuration): each in a line.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mistakes: Vec<String>,
}

impl Problem {
    fn new(status: u16, kind: &str, title: &str, detail: impl Into<String>) -> Self {
        Problem {
            kind: format!("{PROBLEM_TYPE}{kind}"),
            title: title.to_owned(),
            status,
            detail: detail.into(),
            next: None,
            mistakes: Vec::new(),
        }
    }

    /// 404: what is named does not exist. The detail lists what does.
    #[must_use]
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(404, "not-found", "No such thing", detail)
    }

    /// 409: it cannot be done in the present state. The detail says why.
    #[must_use]
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(409, "conflict", "Not in the present state", detail)
    }

    /// 400 and its like: the request makes no sense.
    #[must_use]
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(400, "invalid", "Invalid request", detail)
    }

    /// 422: the configuration has mistakes.
    #[must_use]
    pub fn configuration(detail: impl Into<String>, mistakes: Vec<String>) -> Self {
        let problem = Self::new(
            422,
            "configuration",
            "Mistakes in the configuration",
            detail,
        );
        Problem {
            mistakes,
            ..problem
        }
    }

    /// 500: it was tried and failed.
    #[must_use]
    pub fn failed(detail: impl Into<String>) -> Self {
        Self::new(500, "failed", "It failed", detail)
    }

    /// 401: no token, or a wrong one.
    #[must_use]
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(401, "unauthorized", "Not authorized", detail)
    }

    /// 403: not for this one.
    #[must_use]
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(403, "forbidden", "Forbidden", detail)
    }

    /// 503: the daemon, or what it needs, is not there.
    #[must_use]
    pub fn unavailable(word: &str, title: &str, detail: impl Into<String>) -> Self {
        Self::new(503, word, title, detail)
    }

    /// 504: no answer in time.
    #[must_use]
    pub fn timeout(detail: impl Into<String>) -> Self {
        Self::new(504, "timeout", "No answer in time", detail)
    }

    /// 405: that path knows other methods.
    #[must_use]
    pub fn wrong_method(detail: impl Into<String>) -> Self {
        Self::new(405, "wrong-method", "Not with this method", detail)
    }

    /// 413: the request is larger than any needs to be.
    #[must_use]
    pub fn too_large(detail: impl Into<String>) -> Self {
        Self::new(413, "too-large", "Too large", detail)
    }

    /// The stable word at the end of the type: `not-found`, `not-running`.
    #[must_use]
    pub fn word(&self) -> &str {
        self.kind
            .strip_prefix(PROBLEM_TYPE)
            .unwrap_or(self.kind.as_str())
    }

    /// Whether this says that there is no daemon: nothing listens where it should.
    #[must_use]
    pub fn is_not_running(&self) -> bool {
        self.word() == NOT_RUNNING
    }

    /// Adds what the operator can do.
    #[must_use]
    pub fn with_next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }
}
