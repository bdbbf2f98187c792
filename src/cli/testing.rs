//! A fake daemon and a bench to run commands on: arguments in, exit code and screens out.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::rc::Rc;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use parking_lot::Mutex;

use super::args::{Cli, Command};
use super::context::{Clock, Context};
use super::error::CliError;
use super::exit::Exit;
use super::interrupt::fake::Presses;
use super::output::{Output, Printer, Style};
use super::prompt::script::{Answer, Script};
use crate::admin::api::{
    AdminApi, Analysis, ArrayDetails, ArrayState, ArrayStatus, BackupRequest, CommitLock,
    Configuration, Event, EventStream, Events, Finding, Job, Lag, Level, MemberDetails,
    MemberState, PackRequest, Problem, RateLimit, RecoverRequest, Recovery, RecoveryState,
    Reloaded, ScrubRequest, Setting, Status, Strategy, Transaction,
};

/// The moment of every test.
pub(super) const NOW: &str = "2026-11-20T09:16:41Z";

pub(super) fn at(time: &str) -> Timestamp {
    format!("2026-11-20T{time}Z").parse().unwrap()
}

/// A daemon with what it is told to have.
#[derive(Default)]
pub(super) struct FakeDaemon {
    pub(super) arrays: Mutex<Vec<ArrayDetails>>,
    pub(super) analyses: Mutex<BTreeMap<String, Analysis>>,
    /// What each look at the recovery sees, in order; the last stays. With each, how the array is then.
    pub(super) recoveries: Mutex<VecDeque<(Recovery, Option<ArrayDetails>)>>,
    /// What each look at the job sees, in order; the last stays.
    pub(super) jobs: Mutex<VecDeque<Job>>,
    pub(super) reloaded: Mutex<Reloaded>,
    /// What every request is answered with instead.
    pub(super) problem: Mutex<Option<Problem>>,
    pub(super) asked: Mutex<Vec<String>>,
}

impl FakeDaemon {
    fn ask(&self, what: impl Into<String>) -> Result<(), Problem> {
        self.asked.lock().push(what.into());
        match &*self.problem.lock() {
            Some(problem) => Err(problem.clone()),
            None => Ok(()),
        }
    }

    fn find(&self, name: &str) -> Result<ArrayDetails, Problem> {
        let arrays = self.arrays.lock();
        let found = arrays.iter().find(|array| array.name == name);
        found
            .cloned()
            .ok_or_else(|| Problem::not_found(format!("there is no array {name}; there is main")))
    }

    fn next_job(&self) -> Result<Job, Problem> {
        let mut jobs = self.jobs.lock();
        let next = if jobs.len() > 1 {
            jobs.pop_front()
        } else {
            jobs.front().cloned()
        };
        next.ok_or_else(|| Problem::not_found("there is no such job"))
    }

    fn look(&self) -> Option<Recovery> {
        let mut recoveries = self.recoveries.lock();
        let (recovery, after) = if recoveries.len() > 1 {
            recoveries.pop_front()?
        } else {
            recoveries.front().cloned()?
        };
        if let Some(after) = after {
            *self.arrays.lock() = vec![after];
        }
        Some(recovery)
    }
}

#[async_trait]
impl AdminApi for FakeDaemon {
    async fn status(&self) -> Result<Status, Problem> {
        self.ask("status")?;
        let arrays = self.arrays.lock();
        Ok(Status {
            version: "0.1.0".into(),
            pid: 4711,
            started: at("08:00:00"),
            uptime_s: 4601,
            ready: arrays.iter().all(|array| array.serving),
            limits_passed: std::collections::BTreeMap::new(),
            arrays: arrays
                .iter()
                .map(|array| ArrayStatus {
                    name: array.name.clone(),
                    state: array.state,
                    line: array.line.clone(),
                    serving: array.serving,
                    attention: array.attention.clone(),
                })
                .collect(),
        })
    }

    async fn arrays(&self) -> Result<Vec<ArrayDetails>, Problem> {
        self.ask("arrays")?;
        Ok(self.arrays.lock().clone())
    }

    async fn array(&self, array: &str) -> Result<ArrayDetails, Problem> {
        self.ask(format!("array {array}"))?;
        self.find(array)
    }

    async fn recover(
        &self,
        array: &str,
        member: &str,
        request: RecoverRequest,
    ) -> Result<Recovery, Problem> {
        let RateLimit {
            transactions_per_second,
            bytes_per_second,
            paused: _,
        } = request.rate;
        self.ask(format!(
            "recover {array}/{member} {:?} {transactions_per_second:?} {bytes_per_second:?}",
            request.strategy
        ))?;
        Ok(recovery(member, "queued"))
    }

    async fn recovery(&self, array: &str) -> Result<Recovery, Problem> {
        self.ask(format!("recovery {array}"))?;
        self.look()
            .ok_or_else(|| Problem::not_found("there was no recovery"))
    }

    async fn change_recovery(&self, array: &str, rate: RateLimit) -> Result<Recovery, Problem> {
        self.ask(format!("change {array} {rate:?}"))?;
        self.look()
            .ok_or_else(|| Problem::conflict("no recovery runs"))
    }

    async fn cancel_recovery(&self, array: &str) -> Result<Recovery, Problem> {
        self.ask(format!("cancel {array}"))?;
        self.look()
            .ok_or_else(|| Problem::conflict("no recovery runs").with_next("zeoraidctl details"))
    }

    async fn analyse(&self, array: &str, member: &str) -> Result<Analysis, Problem> {
        self.ask(format!("analyse {array}/{member}"))?;
        let analyses = self.analyses.lock();
        analyses
            .get(member)
            .cloned()
            .ok_or_else(|| Problem::failed(format!("{member} could not be opened")))
    }

    async fn disable(&self, array: &str, member: &str) -> Result<MemberDetails, Problem> {
        self.ask(format!("disable {array}/{member}"))?;
        let array = self.find(array)?;
        let optimal = |other: &&MemberDetails| other.state == MemberState::Optimal;
        if array.members.iter().filter(optimal).count() < 2 {
            let detail = format!("{member} is the last optimal member of main");
            return Err(Problem::conflict(detail)
                .with_next("recover another member first: zeoraidctl recover --interactive"));
        }
        let found = array.members.into_iter().find(|other| other.name == member);
        let found = found.map(|member| out(&member.name, "disabled by an operator"));
        found.ok_or_else(|| Problem::not_found(format!("there is no member {member}")))
    }

    async fn pack(&self, array: &str, request: PackRequest) -> Result<Job, Problem> {
        let to = request.to.map(|to| to.to_string());
        self.ask(format!("pack {array} {}", to.as_deref().unwrap_or("now")))?;
        self.next_job()
    }

    async fn back_up(&self, array: &str, request: BackupRequest) -> Result<Job, Problem> {
        let BackupRequest {
            folder,
            replace,
            rate,
        } = request;
        let rate = rate.bytes_per_second;
        self.ask(format!("back up {array} {folder} {replace} {rate:?}"))?;
        self.next_job()
    }

    async fn scrub(&self, array: &str, request: ScrubRequest) -> Result<Job, Problem> {
        let rate = request.rate.bytes_per_second;
        self.ask(format!("scrub {array} {rate:?}"))?;
        self.next_job()
    }

    async fn jobs(&self) -> Result<Vec<Job>, Problem> {
        self.ask("jobs")?;
        Ok(self.jobs.lock().iter().take(1).cloned().collect())
    }

    async fn job(&self, id: &str) -> Result<Job, Problem> {
        self.ask(format!("job {id}"))?;
        self.next_job()
    }

    async fn cancel_job(&self, id: &str) -> Result<Job, Problem> {
        self.ask(format!("cancel {id}"))?;
        self.next_job()
    }

    async fn reload(&self, dry_run: bool) -> Result<Reloaded, Problem> {
        self.ask(format!("reload {dry_run}"))?;
        let reloaded = self.reloaded.lock().clone();
        Ok(Reloaded {
            dry_run,
            ..reloaded
        })
    }

    async fn shutdown(&self) -> Result<(), Problem> {
        self.ask("shutdown")
    }

    async fn reopen_logs(&self) -> Result<(), Problem> {
        self.ask("reopen")
    }

    async fn configuration(&self) -> Result<Configuration, Problem> {
        self.ask("configuration")?;
        let setting = |key: &str, value: &str, origin: &str| Setting {
            key: key.into(),
            value: value.into(),
            origin: origin.into(),
        };
        Ok(Configuration {
            file: "/srv/zodb/etc/zeoraid.yaml".into(),
            settings: vec![
                setting("listen", "127.0.0.1:8100", "etc/zeoraid.yaml:13"),
                setting("encoding", "Z5", "default"),
                setting("log.level", "debug", "$ZEORAID_LOG_LEVEL"),
            ],
        })
    }

    async fn events(&self, which: Events) -> Result<EventStream, Problem> {
        self.ask(format!("events {which:?}"))?;
        let event = |id, level, message: &str| Event {
            id,
            time: at("09:12:07"),
            level,
            kind: "member-degraded".into(),
            array: Some("main".into()),
            member: Some("copy2".into()),
            message: message.into(),
        };
        let events = [
            event(7, Level::Warning, "copy2 was taken out: connection refused"),
            event(8, Level::Info, "copy2 is back\u{1b}[2J"),
        ];
        let (Events::Kept { after } | Events::Follow { after: Some(after) }) = which else {
            return Ok(futures_util::stream::iter([]).boxed());
        };
        let events = events.into_iter().filter(move |event| event.id > after);
        Ok(futures_util::stream::iter(events.map(Ok)).boxed())
    }
}

/// Runs commands.
pub(super) struct Bench {
    pub(super) daemon: Arc<FakeDaemon>,
    pub(super) script: Rc<Script>,
    pub(super) presses: Vec<std::time::Duration>,
    pub(super) width: usize,
    /// Whether the outputs are terminals.
    pub(super) terminal: bool,
    pub(super) color: bool,
    /// Standard output takes no more than this.
    pub(super) takes: Option<usize>,
}

impl Bench {
    pub(super) fn new(arrays: Vec<ArrayDetails>) -> Self {
        let daemon = FakeDaemon::default();
        *daemon.arrays.lock() = arrays;
        Bench {
            daemon: Arc::new(daemon),
            script: Rc::default(),
            presses: Vec::new(),
            width: 80,
            terminal: false,
            color: false,
            takes: None,
        }
    }

    pub(super) fn answering(mut self, answers: impl IntoIterator<Item = Answer>) -> Self {
        self.script = Rc::new(Script::new(answers));
        self
    }

    /// Runs a command and shows its exit code and both outputs, as a person would see them.
    pub(super) fn run(&self, line: &str) -> String {
        self.run_as(line, async |command, context, _| {
            super::dispatch(command, context).await
        })
    }

    /// The same of something else than the whole command, which can look at standard error meanwhile.
    pub(super) fn run_as(
        &self,
        line: &str,
        run: impl AsyncFnOnce(Command, &Context, &Buffer) -> Result<Exit, CliError>,
    ) -> String {
        let words = line.split_whitespace();
        let cli = match Cli::parse_words(
            std::iter::once("zeoraidctl").chain(words).map(Into::into),
            None,
        ) {
            Ok(cli) => cli,
            Err(error) => return format!("exit {}\n{error}", error.exit_code()),
        };
        let (out, err) = (Buffer::taking(self.takes), Buffer::taking(None));
        let output = |buffer: &Buffer| Output {
            writer: Box::new(buffer.clone()),
            terminal: self.terminal,
            style: Style { color: self.color },
        };
        let (format, quiet) = (cli.global.output, cli.global.quiet);
        let printer = Printer::new(output(&out), output(&err), format, quiet, Some(self.width));
        let presses = Presses::new(self.presses.clone());
        let clock = Clock {
            now: || NOW.parse().unwrap(),
            zone: TimeZone::UTC,
        };
        let api: Arc<dyn AdminApi> = Arc::<FakeDaemon>::clone(&self.daemon);
        let context = Context::given(
            cli.global,
            printer,
            Box::new(Rc::clone(&self.script)),
            Box::new(presses),
            clock,
            Some(api),
        );
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let ended = runtime.block_on(run(cli.command.expect("a command"), &context, &err));
        let code = super::finish(ended, &context).code();
        let mut shown = format!("exit {code}\n");
        for (name, text) in [("stdout", out.text()), ("stderr", err.text())] {
            if !text.is_empty() {
                shown += &format!("-- {name}\n{text}");
            }
        }
        shown
    }

    /// What the daemon was asked to do, questions about its state left out.
    pub(super) fn asked(&self) -> Vec<String> {
        let asked = self.daemon.asked.lock();
        let looks = ["status", "arrays", "array ", "recovery "];
        let is_look = |what: &&String| looks.iter().any(|look| what.starts_with(look));
        asked
            .iter()
            .filter(|what| !is_look(what))
            .cloned()
            .collect()
    }

    /// What the person was asked.
    pub(super) fn questions(&self) -> String {
        self.script.asked.borrow().join("\n")
    }
}

#[derive(Clone)]
pub(super) struct Buffer {
    bytes: Rc<RefCell<Vec<u8>>>,
    takes: Option<usize>,
}

impl Buffer {
    fn taking(takes: Option<usize>) -> Self {
        Buffer {
            bytes: Rc::default(),
            takes,
        }
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8(self.bytes.borrow().clone()).unwrap()
    }
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut all = self.bytes.borrow_mut();
        if self
            .takes
            .is_some_and(|takes| all.len() + bytes.len() > takes)
        {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        all.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn member(name: &str) -> MemberDetails {
    MemberDetails {
        name: name.into(),
        state: MemberState::Optimal,
        kind: "file".into(),
        location: format!("var/{name}/Data.fs"),
        since: at("08:00:00"),
        reason: None,
        outlook: None,
        lag: None,
        last: Some(transaction("0x040d23ccb0000000", "09:16:41")),
        latency_ms: Some(0.42),
        reads: 12,
        faults: 0,
    }
}

pub(super) fn out(name: &str, reason: &str) -> MemberDetails {
    MemberDetails {
        state: MemberState::Degraded,
        since: at("09:12:07"),
        reason: Some(reason.into()),
        lag: Some(Lag {
            transactions: 1402,
            bytes: 31 << 20,
        }),
        last: Some(transaction("0x040d23c81c000000", "09:12:06")),
        latency_ms: None,
        faults: 1,
        ..member(name)
    }
}

pub(super) fn transaction(tid: &str, time: &str) -> Transaction {
    Transaction {
        tid: tid.into(),
        time: Some(at(time)),
        user: None,
        description: None,
    }
}

/// An array of these members; what is out makes it degraded, what is being recovered recovering.
pub(super) fn array(members: Vec<MemberDetails>) -> ArrayDetails {
    let not_optimal = |member: &&MemberDetails| member.state != MemberState::Optimal;
    let count = members.len();
    let out: Vec<&MemberDetails> = members.iter().filter(not_optimal).collect();
    let recovering = out
        .iter()
        .any(|member| member.state == MemberState::Recovering);
    let (state, line) = match (out.as_slice(), recovering) {
        ([], _) => (ArrayState::Optimal, "optimal".to_owned()),
        ([one, ..], false) => {
            let reason = one.reason.as_deref().unwrap_or_default();
            let line = format!(
                "degraded: {} of {count} members out ({}: {reason}, 4 min)",
                out.len(),
                one.name
            );
            (ArrayState::Degraded, line)
        }
        ([one, ..], true) => (ArrayState::Recovering, format!("recovering: {}", one.name)),
    };
    let next =
        (state == ArrayState::Degraded).then(|| "zeoraidctl recover --interactive".to_owned());
    ArrayDetails {
        name: "main".into(),
        uuid: uuid::Uuid::from_u128(7),
        state,
        line,
        serving: true,
        addresses: vec!["127.0.0.1:8100".into()],
        epoch: 7,
        since: at("09:12:07"),
        head: Some(transaction("0x040d23ccb0000000", "09:16:41")),
        objects: 1_204_311,
        bytes: 9_019_431_321,
        clients: 14,
        loads: 1000,
        commits: 100,
        loads_per_s: 212.0,
        commits_per_s: 9.2,
        commit_lock: CommitLock {
            held: false,
            held_ms: None,
            waiting: 0,
        },
        members,
        recovery: None,
        next,
        attention: None,
        last_scrub: None,
    }
}

pub(super) fn recovery(member: &str, phase: &str) -> Recovery {
    Recovery {
        id: 3,
        member: member.into(),
        source: Some("copy1".into()),
        strategy: Strategy::Missing,
        state: RecoveryState::Running,
        phase: phase.into(),
        note: None,
        transaction: None,
        done: Lag {
            transactions: 0,
            bytes: 0,
        },
        total: Lag {
            transactions: 0,
            bytes: 0,
        },
        transactions_per_s: 0.0,
        bytes_per_s: 0.0,
        time_left_s: None,
        rate: RateLimit::default(),
        started: at("09:16:00"),
        ended: None,
        set_aside: Vec::new(),
        queued: Vec::new(),
        problem: None,
    }
}

/// One in the middle of copying.
pub(super) fn copying(member: &str) -> Recovery {
    Recovery {
        done: Lag {
            transactions: 953,
            bytes: 21 << 20,
        },
        total: Lag {
            transactions: 1402,
            bytes: 31 << 20,
        },
        bytes_per_s: 25.0 * 1_048_576.0,
        time_left_s: Some(1),
        ..recovery(member, "copy")
    }
}

pub(super) fn behind(member: &str) -> Analysis {
    Analysis {
        member: member.into(),
        source: "copy1".into(),
        finding: Finding::Behind {
            lag: Lag {
                transactions: 1402,
                bytes: 31 << 20,
            },
            common: transaction("0x040d23c81c000000", "09:12:06"),
        },
        line: "behind by 1 402 transactions (31 MiB)".into(),
        advice: Strategy::Missing,
    }
}

pub(super) fn diverged(member: &str) -> Analysis {
    let only_here = Transaction {
        user: Some("/acl admin".into()),
        description: Some("/front-page/edit\u{1b}[31m".into()),
        ..transaction("0x040d23c820000000", "09:12:07")
    };
    Analysis {
        member: member.into(),
        source: "copy1".into(),
        finding: Finding::Diverged {
            common: Some(transaction("0x040d23c81c000000", "09:12:06")),
            lag: Lag {
                transactions: 12,
                bytes: 4096,
            },
            only_here: vec![only_here],
            only_here_count: 3,
        },
        line: "diverged at 2026-11-20 09:12:06 UTC".into(),
        advice: Strategy::Rebuild,
    }
}
