//! Real Python with released ZODB and ZEO: the scripts of `tests/python`.
//!
//! The interpreter is `$ZEORAID_PYTHON`, or that of the environment which `tests/run` makes; for servers of
//! ZEO 5, `$ZEORAID_PYTHON_ZEO5`, and for Zope, `$ZEORAID_PYTHON_TOOLS`, or those of the other environments.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::instance::Run;
use super::wait::until_ok;

/// For one script that does one thing.
const PATIENCE: Duration = Duration::from_mins(4);

/// For reading and comparing all that long runs have written.
const READING: Duration = Duration::from_mins(20);

/// Which releases of ZODB and ZEO: those of `requirements.txt`, or of `requirements-zeo5.txt`; or the former
/// with what `requirements-tools.txt` has besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Python {
    #[default]
    Zeo6,
    Zeo5,
    Tools,
}

fn interpreter(python: Python) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (variable, folder) = match python {
        Python::Zeo6 => ("ZEORAID_PYTHON", ".venv"),
        Python::Zeo5 => ("ZEORAID_PYTHON_ZEO5", ".venv-zeo5"),
        Python::Tools => ("ZEORAID_PYTHON_TOOLS", ".venv-tools"),
    };
    let python = match std::env::var_os(variable) {
        Some(python) => PathBuf::from(python),
        None => root.join(folder).join("bin/python"),
    };
    assert!(
        python.exists(),
        "these tests need Python with ZODB and ZEO, and there is no {}; make it with:\n\n    \
         tests/run --python\n",
        python.display()
    );
    python
}

/// A program of that environment: `repozo`, `zeo-nagios`.
pub(crate) fn program(name: &str) -> Command {
    program_with(Python::Zeo6, name)
}

pub(crate) fn program_with(python: Python, name: &str) -> Command {
    let mut command = Command::new(interpreter(python).with_file_name(name));
    command.env("TZ", "UTC").env("PYTHONWARNINGS", "ignore");
    command
}

fn script_command(name: &str, args: &[&str]) -> Command {
    let mut command = program("python");
    command
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .arg(
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/python")
                .join(name),
        )
        .args(args);
    command
}

/// Runs a script to its end.
#[track_caller]
pub(crate) fn run(name: &str, args: &[&str]) -> Run {
    run_for(name, args, PATIENCE)
}

/// The same, of one that may take so long.
#[track_caller]
pub(crate) fn run_for(name: &str, args: &[&str], deadline: Duration) -> Run {
    Script::spawn(name, args).end(deadline)
}

/// A script that runs. Killed when dropped.
pub(crate) struct Script {
    what: String,
    child: Child,
    stdout: tempfile::NamedTempFile,
    stderr: tempfile::NamedTempFile,
}

impl Script {
    pub(crate) fn spawn(name: &str, args: &[&str]) -> Self {
        // Into files, so that a script never waits for somebody to read.
        let stdout = tempfile::NamedTempFile::new().expect("a file for the output");
        let stderr = tempfile::NamedTempFile::new().expect("a file for the errors");
        let child = script_command(name, args)
            .stdin(Stdio::piped())
            .stdout(stdout.reopen().expect("the file was just made"))
            .stderr(stderr.reopen().expect("the file was just made"))
            .spawn()
            .expect("python starts");
        Script {
            what: format!("{name} {}", args.join(" ")),
            child,
            stdout,
            stderr,
        }
    }

    /// Gives it a line to read.
    pub(crate) fn tell(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().expect("it was not asked to end");
        writeln!(stdin, "{line}").expect("it reads");
    }

    /// Closes its standard input, which tells it to come to an end.
    pub(crate) fn ask_to_end(&mut self) {
        self.child.stdin = None;
    }

    pub(crate) fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("process ids are small")
    }

    /// What it printed up to now.
    pub(crate) fn printed(&self) -> String {
        read(self.stdout.path())
    }

    fn ended(&self) -> String {
        format!("{} ended:\n{}", self.what, read(self.stderr.path()))
    }

    /// Waits until it has printed this.
    #[track_caller]
    pub(crate) fn wait_printed(&mut self, part: &str) {
        let what = format!("`{}` to print {part:?}", self.what);
        until_ok(&what, PATIENCE, || {
            if self.printed().contains(part) {
                return Ok(());
            }
            let errors = read(self.stderr.path());
            assert!(
                self.runs() || self.printed().contains(part),
                "{} ended:\n{errors}",
                self.what
            );
            Err(format!("{}{errors}", self.printed()))
        });
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn end(&mut self, deadline: Duration) -> Run {
        self.ask_to_end();
        let what = format!("the end of `{}`", self.what);
        let status = until_ok(&what, deadline, || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err(format!("{}{}", self.printed(), read(self.stderr.path()))),
            Err(error) => panic!("{what}: {error}"),
        });
        Run {
            code: status.code().unwrap_or(-1),
            stdout: self.printed(),
            stderr: read(self.stderr.path()),
        }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // It may have ended already; then both are errors that say so.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A client that does what it is told, step by step: `talk.py`.
pub(crate) struct Talk {
    script: Script,
    told: usize,
}

/// How something went that a [`Talk`] was told.
#[derive(Debug)]
pub(crate) struct Done {
    /// `ok`, or the name of an exception.
    pub(crate) outcome: String,
    pub(crate) took: Duration,
}

impl Talk {
    /// Connects. A call without a connection fails after this long.
    #[track_caller]
    pub(crate) fn start(address: &str, wait: Duration) -> Self {
        let wait = wait.as_secs_f64().to_string();
        let mut script = Script::spawn("talk.py", &[address, &wait]);
        script.wait_printed("ready");
        Talk { script, told: 0 }
    }

    /// Does it, and waits until it is done.
    #[track_caller]
    pub(crate) fn ask(&mut self, what: &str) -> Done {
        self.told += 1;
        self.script.tell(what);
        let begin = format!("{} {what} ", self.told);
        let deadline = PATIENCE;
        let rest = until_ok(&format!("`{what}` to be done"), deadline, || {
            let printed = self.script.printed();
            let mut lines = printed
                .split_inclusive('\n')
                .filter(|line| line.ends_with('\n'));
            let line = lines.find_map(|line| line.strip_prefix(&begin));
            assert!(
                line.is_some() || self.script.runs(),
                "{}",
                self.script.ended()
            );
            line.map(str::to_owned).ok_or(printed)
        });
        let (outcome, seconds) = rest.trim().split_once(' ').expect("two words");
        Done {
            outcome: outcome.to_owned(),
            took: Duration::from_secs_f64(seconds.parse().expect("seconds")),
        }
    }

    /// The same, and it must go well.
    #[track_caller]
    pub(crate) fn does(&mut self, what: &str) -> Duration {
        let done = self.ask(what);
        assert_eq!(
            done.outcome,
            "ok",
            "{what}: {}",
            read(self.script.stderr.path())
        );
        done.took
    }

    #[track_caller]
    pub(crate) fn end(mut self) {
        self.script.end(PATIENCE).ok();
    }
}

fn read(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = File::open(path) {
        drop(file.read_to_end(&mut bytes));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Clients that commit and read until they are told to end: `worker.py`.
pub(crate) struct Workers(Vec<Worker>);

struct Worker {
    script: Script,
    args: Vec<String>,
    log: PathBuf,
}

impl Worker {
    fn start(args: Vec<String>, log: PathBuf) -> Self {
        let all: Vec<&str> = args.iter().map(String::as_str).collect();
        Worker {
            script: Script::spawn("worker.py", &all),
            args,
            log,
        }
    }

    #[track_caller]
    fn end(&mut self) {
        self.script.end(PATIENCE).ok();
    }
}

impl Workers {
    /// Lays the ground and starts four.
    pub(crate) fn start(address: &str, folder: &Path, tolerant: bool) -> Self {
        let more: &[&str] = if tolerant { &["--tolerant"] } else { &[] };
        Self::start_with(address, folder, 4, more)
    }

    /// Lays the ground and starts so many, with these arguments more.
    pub(crate) fn start_with(address: &str, folder: &Path, count: u64, more: &[&str]) -> Self {
        let ground = count.max(4).to_string();
        run("worker.py", &["setup", address, "--workers", &ground]).ok();
        Self::join(address, folder, 0, count, more)
    }

    /// Starts so many more, where the ground is laid, the first of them with this number. `{}` in an
    /// argument is the worker's name.
    pub(crate) fn join(
        address: &str,
        folder: &Path,
        first: u64,
        count: u64,
        more: &[&str],
    ) -> Self {
        let seed = fastrand::u32(..);
        eprintln!("workers: seed {seed}");
        let workers = (first..first + count).map(|number| {
            let log = folder.join(format!("w{number}.log"));
            let name = format!("w{number}");
            let seed = format!("{}", u64::from(seed) + number);
            let mut args = vec!["run", address, "--name", &name, "--seed", &seed, "--log"];
            args.push(log.to_str().expect("a plain path"));
            args.extend(more);
            let args = args.iter().map(|arg| arg.replace("{}", &name)).collect();
            Worker::start(args, log)
        });
        Workers(workers.collect())
    }

    /// These and those.
    pub(crate) fn and(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }

    /// Ends one and starts it again, with what it has on disk.
    #[track_caller]
    pub(crate) fn restart(&mut self, index: usize) {
        let worker = &mut self.0[index];
        worker.end();
        *worker = Worker::start(worker.args.clone(), worker.log.clone());
    }

    pub(crate) fn logs(&self) -> Vec<PathBuf> {
        self.0.iter().map(|worker| worker.log.clone()).collect()
    }

    /// How many commits each was told are done.
    pub(crate) fn acknowledged(&self) -> Vec<usize> {
        let count = |worker: &Worker| read(&worker.log).matches("\"ack\"").count();
        self.0.iter().map(count).collect()
    }

    /// Waits until every one has committed so many times more. A worker that ended is a failure.
    #[track_caller]
    pub(crate) fn wait_for_more(&mut self, more: usize) {
        let before = self.acknowledged();
        until_ok("the clients to go on committing", PATIENCE, || {
            self.check_alive();
            let now = self.acknowledged();
            let mut each = before.iter().zip(&now);
            if each.all(|(before, now)| *now >= before + more) {
                return Ok(());
            }
            let last = |worker: &Worker| {
                let log = read(&worker.log);
                log.lines().last().unwrap_or_default().to_owned()
            };
            let last: Vec<String> = self.0.iter().map(last).collect();
            Err(format!("{before:?} were {now:?}: {last:#?}"))
        });
    }

    #[track_caller]
    pub(crate) fn check_alive(&mut self) {
        for Worker { script, log, .. } in &mut self.0 {
            let errors = read(script.stderr.path());
            assert!(
                script.runs(),
                "{} ended:\n{errors}\n{}",
                script.what,
                end_of(&read(log))
            );
        }
    }

    /// Ends them all; none may have failed. Adds up what they say.
    #[track_caller]
    pub(crate) fn end(&mut self) -> Totals {
        for worker in &mut self.0 {
            worker.script.ask_to_end();
        }
        let mut totals = Totals::default();
        for worker in &mut self.0 {
            worker.end();
            let text = read(&worker.log);
            let lines = text
                .lines()
                .map(|line| -> Value { serde_json::from_str(line).expect("lines of JSON") });
            let lines: Vec<Value> = lines.collect();
            let last = lines.last().expect("a worker says how it ended");
            assert_eq!(last["kind"], "end", "{last}");
            // One for each time that it was started.
            for end in lines.iter().filter(|line| line["kind"] == "end") {
                let number = |name: &str| end[name].as_u64().expect("a count");
                totals.commits += number("commits");
                totals.conflicts += number("conflicts");
                totals.resolved += number("resolved");
                totals.refused += number("refused");
                totals.errors += number("errors");
                let time = |name: &str| Duration::from_millis(number(name));
                let longest = totals.longest_operation.max(time("longest_operation_ms"));
                totals.longest_operation = longest;
                totals.longest_commit = totals.longest_commit.max(time("longest_commit_ms"));
            }
        }
        totals
    }
}

/// What workers did, together.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) commits: u64,
    pub(crate) conflicts: u64,
    pub(crate) resolved: u64,
    /// What an array that is being packed does not do, where the workers were told of packs.
    pub(crate) refused: u64,
    pub(crate) errors: u64,
    /// For one thing that a client asked of the daemon: a load, a vote, a finish, …
    pub(crate) longest_operation: Duration,
    /// For a commit, from its beginning until it was acknowledged, however often it was tried.
    pub(crate) longest_commit: Duration,
}

impl Totals {
    /// That the members hold what was acknowledged, what was found after its acknowledgement was lost, and
    /// nothing else.
    #[track_caller]
    pub(crate) fn assert_exact(&self, found: &Value) {
        let number = |name: &str| found[name].as_u64().unwrap_or(0);
        assert_eq!(number("acknowledged"), self.commits, "{found} {self:?}");
        let known = self.commits + number("found");
        assert_eq!(number("committed"), known, "{found} {self:?}");
    }
}

/// Its last lines: of a long one, what it said last is what counts.
fn end_of(log: &str) -> String {
    const LINES: usize = 50;
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

/// Python's `FileStorage` reads the members, compares them, and finds what the workers were told.
#[track_caller]
pub(crate) fn verify(members: &[PathBuf], logs: &[PathBuf]) -> Value {
    verify_with(members, logs, &[])
}

#[track_caller]
pub(crate) fn verify_with(members: &[PathBuf], logs: &[PathBuf], more: &[&str]) -> Value {
    let mut args: Vec<&str> = more.to_vec();
    for log in logs {
        args.extend(["--log", log.to_str().expect("a plain path")]);
    }
    args.extend(
        members
            .iter()
            .map(|member| member.to_str().expect("a plain path")),
    );
    let run = run_for("verify.py", &args, READING).ok();
    serde_json::from_str(&run.stdout).expect("it prints JSON")
}
