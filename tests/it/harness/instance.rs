//! An instance of its own for each test: a folder made by `zeoraidctl init`, and its daemon.

use std::fs;
use std::io::{Read, Seek, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::ports::free_port;
use super::{until, until_ok};

/// The binary under test.
pub(crate) const ZEORAIDCTL: &str = env!("CARGO_BIN_EXE_zeoraidctl");

/// Long enough for a busy machine with two cores; nothing waits that long when it works.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// For a command of the tool. `start` waits for a minute itself.
const COMMAND_PATIENCE: Duration = Duration::from_secs(150);

/// A folder and its daemon. Dropping it kills the daemon and removes the folder; a test that failed
/// shows the end of the log, and keeps the folder where `ZEORAID_KEEP` is set.
pub(crate) struct Instance {
    folder: Option<TempDir>,
    root: PathBuf,
    /// As given to `init`, and as clients write it.
    pub(crate) address: String,
}

/// How the binary ended.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Instance {
    /// A folder, and nothing in it yet. Its path is short, since a socket's path must be.
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("zr")
            .tempdir()
            .expect("a folder for the instance");
        let root = folder
            .path()
            .canonicalize()
            .expect("the folder was just made");
        let root = root.join("i");
        Instance {
            folder: Some(folder),
            root,
            address: format!("127.0.0.1:{}", free_port()),
        }
    }

    /// Made by `init --yes` with these settings (`recipe=NAME` chooses the recipe), not started.
    pub(crate) fn made(settings: &[&str]) -> Self {
        let instance = Self::new();
        instance.init(settings).ok();
        instance
    }

    /// Made and started with `init --yes --start`.
    pub(crate) fn started(settings: &[&str]) -> Self {
        let instance = Self::new();
        let mut args = instance.init_args(settings);
        args.push("--start".into());
        instance.run_bare(&args).ok();
        instance
    }

    pub(crate) fn init(&self, settings: &[&str]) -> Run {
        self.run_bare(&self.init_args(settings))
    }

    fn init_args(&self, settings: &[&str]) -> Vec<String> {
        let mut args: Vec<String> = vec![
            "init".into(),
            self.root.display().to_string(),
            "--yes".into(),
        ];
        if !settings
            .iter()
            .any(|setting| setting.starts_with("listen="))
        {
            args.extend(["--set".into(), format!("listen={}", self.address)]);
        }
        for setting in settings {
            match setting.strip_prefix("recipe=") {
                Some(recipe) => args.extend(["--recipe".into(), recipe.to_owned()]),
                None => args.extend(["--set".into(), (*setting).to_owned()]),
            }
        }
        args
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The folder around the instance, for whatever a test needs beside it.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.root.parent().expect("it lies in a folder").join(name)
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// The `Data.fs` of `copy1`, `copy2`, …, as `init` places them.
    pub(crate) fn copy(&self, number: usize) -> PathBuf {
        self.path(&format!("var/copy{number}/Data.fs"))
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.path("etc/zeoraid.yaml")
    }

    /// Puts lines into the configuration, right after this line (without its indentation).
    #[track_caller]
    pub(crate) fn configure(&self, after: &str, lines: &str) {
        let text = fs::read_to_string(self.config()).expect("init wrote it");
        let found = text.lines().position(|line| line.trim() == after);
        let at = found.unwrap_or_else(|| panic!("no line `{after}` in:\n{text}"));
        let mut all: Vec<&str> = text.lines().collect();
        all.insert(at + 1, lines);
        fs::write(self.config(), all.join("\n") + "\n").expect("writing the configuration");
    }

    /// A command of the tool, about this instance, without a terminal.
    pub(crate) fn run(&self, args: &[&str]) -> Run {
        let mut all = vec!["-C", self.root.to_str().expect("a plain path")];
        all.extend(args);
        self.run_bare(&all)
    }

    pub(crate) fn run_bare<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Run {
        let mut command = command();
        command.args(args).current_dir(self.beside(""));
        Run::of(command)
    }

    pub(crate) fn start(&self) -> Run {
        self.run(&["start"])
    }

    pub(crate) fn stop(&self) -> Run {
        self.run(&["stop"])
    }

    /// What the admin protocol answers on its socket, with the head of the answer.
    pub(crate) fn ask(&self, path: &str) -> String {
        let socket = UnixStream::connect(self.path("var/zeoraid.sock"));
        let mut socket = socket.expect("it answers");
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        socket
            .read_to_string(&mut answer)
            .expect("it answers with text");
        answer
    }

    /// What `details -o json` says of the only array.
    pub(crate) fn details(&self) -> Value {
        self.try_details().unwrap_or_else(|why| panic!("{why}"))
    }

    pub(crate) fn try_details(&self) -> Result<Value, String> {
        let run = self.run(&["details", "-o", "json"]);
        let value: Value = serde_json::from_str(&run.stdout).map_err(|_| run.to_string())?;
        let array = value["arrays"][0].clone();
        if array.is_null() {
            return Err(run.to_string());
        }
        Ok(array)
    }

    pub(crate) fn member(&self, name: &str) -> Value {
        let details = self.details();
        let members = details["members"].as_array().expect("members are a list");
        let found = members.iter().find(|member| member["name"] == name);
        found
            .unwrap_or_else(|| panic!("no member {name}: {details}"))
            .clone()
    }

    #[track_caller]
    pub(crate) fn wait_optimal(&self) {
        until_ok("an optimal array", PATIENCE, || {
            let details = self.try_details()?;
            if details["state"] == "optimal" && details["serving"] == true {
                Ok(())
            } else {
                Err(format!("{details:#}"))
            }
        });
    }

    #[track_caller]
    pub(crate) fn wait_member(&self, name: &str, state: &str) -> Value {
        until_ok(&format!("{name} to be {state}"), PATIENCE, || {
            let member = self.member(name);
            if member["state"] == state {
                Ok(member)
            } else {
                Err(format!("{member:#}"))
            }
        })
    }

    /// The daemon's process, where one runs.
    pub(crate) fn pid(&self) -> Option<i32> {
        let text = fs::read_to_string(self.path("var/zeoraid.pid")).ok()?;
        let pid: i32 = text.trim().parse().ok()?;
        // A number in a file proves nothing: it must be our binary.
        let name = fs::read_link(format!("/proc/{pid}/exe"));
        match name {
            Ok(exe) => {
                let ours = Path::new(ZEORAIDCTL)
                    .canonicalize()
                    .expect("the binary is there");
                (exe == ours).then_some(pid)
            }
            // Where there is no /proc, the number has to do.
            Err(_) if !Path::new("/proc/self").exists() => Some(pid),
            Err(_) => None,
        }
    }

    /// `kill -9`, and waits until the process is gone.
    #[track_caller]
    pub(crate) fn kill9(&self) {
        let pid = self.pid().expect("a daemon runs");
        signal(pid, rustix::process::Signal::KILL);
        until("the killed daemon to be gone", PATIENCE, || {
            self.pid().is_none()
        });
    }

    /// Stopped with SIGSTOP: its connections stay, and nobody answers.
    pub(crate) fn freeze(&self) {
        signal(
            self.pid().expect("a daemon runs"),
            rustix::process::Signal::STOP,
        );
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("var/log/zeoraid.log")).unwrap_or_default()
    }

    /// Stops it, and hands back the members' files.
    #[track_caller]
    pub(crate) fn given_back(&self) -> Vec<PathBuf> {
        let details = self.details();
        let members = details["members"].as_array().expect("members are a list");
        let files = members
            .iter()
            .map(|member| {
                self.root
                    .join(member["where"].as_str().expect("a file has a place"))
            })
            .collect();
        self.stop().ok();
        files
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            signal(pid, rustix::process::Signal::KILL);
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(60)..];
            eprintln!("the end of {}:", self.path("var/log/zeoraid.log").display());
            eprintln!("{}", tail.join("\n"));
            if std::env::var_os("ZEORAID_KEEP").is_some()
                && let Some(folder) = self.folder.take()
            {
                eprintln!("kept: {}", folder.keep().display());
            }
        }
    }
}

impl Run {
    /// Runs it to its end, with nothing on standard input. One that does not end is a failure.
    #[track_caller]
    pub(crate) fn of(mut command: Command) -> Self {
        // Into files: a daemon that it starts in the background may keep them open.
        let file = || tempfile::tempfile().expect("a file for the output");
        let (stdout, stderr) = (file(), file());
        let share = |file: &fs::File| file.try_clone().expect("a file can be shared");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(share(&stdout))
            .stderr(share(&stderr))
            .spawn()
            .expect("the program starts");
        let read = |mut file: &fs::File| {
            let mut bytes = Vec::new();
            file.rewind().expect("a file can be rewound");
            file.read_to_end(&mut bytes).expect("a file can be read");
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let end = Instant::now() + COMMAND_PATIENCE;
        let status = loop {
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                break status;
            }
            if Instant::now() >= end {
                drop(child.kill());
                drop(child.wait());
                panic!(
                    "{command:?} does not end:\n{}{}",
                    read(&stdout),
                    read(&stderr)
                );
            }
            super::wait::pause();
        };
        Run {
            code: status.code().unwrap_or(-1),
            stdout: read(&stdout),
            stderr: read(&stderr),
        }
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        self.ended(0)
    }

    #[track_caller]
    pub(crate) fn ended(self, code: i32) -> Self {
        assert!(
            self.code == code,
            "ended with {}, not {code}:\n{self}",
            self.code
        );
        self
    }

    /// That the message (standard error) says this.
    #[track_caller]
    pub(crate) fn says(self, part: &str) -> Self {
        assert!(self.stderr.contains(part), "does not say {part:?}:\n{self}");
        self
    }

    #[track_caller]
    pub(crate) fn prints(self, part: &str) -> Self {
        assert!(
            self.stdout.contains(part),
            "does not print {part:?}:\n{self}"
        );
        self
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Run {
            code,
            stdout,
            stderr,
        } = self;
        write!(
            f,
            "exit code {code}\n--- stdout\n{stdout}--- stderr\n{stderr}---"
        )
    }
}

/// The binary with an environment in which output is the same everywhere.
pub(crate) fn command() -> Command {
    let mut command = Command::new(ZEORAIDCTL);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ZEORAID_") {
            command.env_remove(name);
        }
    }
    for name in [
        "NO_COLOR",
        "CLICOLOR",
        "CLICOLOR_FORCE",
        "COLUMNS",
        "RUST_LOG",
        "NOTIFY_SOCKET",
    ] {
        command.env_remove(name);
    }
    command
        .env("TZ", "UTC")
        .env("LANG", "C.UTF-8")
        .env("TERM", "xterm-256color");
    command
}

pub(crate) fn signal(pid: i32, signal: rustix::process::Signal) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        // It may be gone already.
        _ = rustix::process::kill_process(pid, signal);
    }
}
