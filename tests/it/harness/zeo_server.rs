//! A ZEO server as others run it: Python's `runzeo` over a `FileStorage`, in a process of its own.

use std::fs::{self, File};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::instance::signal;
use super::ports::free_port;
use super::python::{self, Python};
use super::until_ok;
use super::wait::pause;

/// How a server is set up.
#[derive(Debug, Clone, Copy, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a setting of its own"
)]
pub(crate) struct ZeoSetup {
    pub(crate) python: Python,
    /// Announces `M5`, else `Z5`.
    pub(crate) msgpack: bool,
    /// Leaves conflicts to its clients, as it must beside files.
    pub(crate) clients_resolve: bool,
    pub(crate) blobs: bool,
    /// In the folder `shared` beside all servers, and not in one of its own.
    pub(crate) blobs_are_shared: bool,
}

/// Killed when dropped. Its data stays in its folder.
pub(crate) struct ZeoServer {
    pub(crate) name: String,
    folder: PathBuf,
    blobs: PathBuf,
    address: String,
    python: Python,
    child: Option<Child>,
}

const PATIENCE: Duration = Duration::from_mins(1);

/// Python ends on SIGTERM by an exception, raised in whatever it does just then. Where that is the end of
/// a connection, ZEO takes it for the connection's fault, and the server goes on until it is told again.
const TERM_AGAIN: Duration = Duration::from_secs(5);

impl ZeoServer {
    /// Set up in a folder of its own, which is made; not started.
    pub(crate) fn new(folder: &Path, name: &str, setup: ZeoSetup) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        Self::at(folder, name, address, setup)
    }

    /// The same, which listens there: `HOST:PORT`, `[IPV6]:PORT`, or a path.
    pub(crate) fn at(folder: &Path, name: &str, address: String, setup: ZeoSetup) -> Self {
        let blobs = if setup.blobs_are_shared {
            folder.join("shared")
        } else {
            folder.join(name).join("blobs")
        };
        let folder = folder.join(name);
        fs::create_dir_all(&folder).expect("a folder for the server");
        let server = ZeoServer {
            name: name.to_owned(),
            folder,
            blobs,
            address,
            python: setup.python,
            child: None,
        };
        server.set_up(setup);
        server
    }

    /// Writes its `zeo.conf`.
    pub(crate) fn set_up(&self, setup: ZeoSetup) {
        let blobs = if setup.blobs {
            fs::create_dir_all(self.blobs()).expect("a folder for blobs");
            format!("  blob-dir {}\n", self.blobs().display())
        } else {
            String::new()
        };
        let text = format!(
            "<zeo>\n  address {}\n  msgpack {}\n  client-conflict-resolution {}\n</zeo>\n\
             <filestorage 1>\n  path {}\n{blobs}</filestorage>\n",
            self.address(),
            setup.msgpack,
            setup.clients_resolve,
            self.data().display()
        );
        fs::write(self.config(), text).expect("writing zeo.conf");
    }

    fn config(&self) -> PathBuf {
        self.folder.join("zeo.conf")
    }

    /// Puts lines into the section `<zeo>` of its `zeo.conf`; they count when it is started.
    pub(crate) fn configure(&self, lines: &str) {
        let text = fs::read_to_string(self.config()).expect("it was written");
        let text = text.replacen("</zeo>", &format!("{lines}</zeo>"), 1);
        fs::write(self.config(), text).expect("writing zeo.conf");
    }

    pub(crate) fn address(&self) -> String {
        self.address.clone()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("Data.fs")
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.blobs.clone()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Starts it and returns at once.
    pub(crate) fn launch(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("log"))
            .expect("a file for the log");
        let child = python::program_with(self.python, "runzeo")
            .arg("-C")
            .arg(self.config())
            .env("PYTHONFAULTHANDLER", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .spawn()
            .expect("runzeo starts");
        self.child = Some(child);
    }

    #[track_caller]
    pub(crate) fn start(&mut self) {
        self.launch();
        self.wait_listening();
    }

    #[track_caller]
    pub(crate) fn wait_listening(&mut self) {
        let address = self.address();
        until_ok(&format!("{} to listen", self.name), PATIENCE, || {
            let child = self.child.as_mut().expect("it was launched");
            if let Ok(Some(status)) = child.try_wait() {
                panic!("{} ended ({status}):\n{}", self.name, self.log());
            }
            if address.starts_with('/') {
                UnixStream::connect(&address).map(drop)
            } else {
                TcpStream::connect(&address).map(drop)
            }
        });
    }

    fn pid(&self) -> Option<i32> {
        let child = self.child.as_ref()?;
        Some(i32::try_from(child.id()).expect("process ids are small"))
    }

    fn tell(&self, what: Signal) {
        signal(self.pid().expect("it runs"), what);
    }

    /// `kill -9`.
    pub(crate) fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// Stopped with SIGSTOP: it accepts and never answers.
    pub(crate) fn freeze(&self) {
        self.tell(Signal::STOP);
    }

    pub(crate) fn thaw(&self) {
        self.tell(Signal::CONT);
    }

    /// Ends it as its operator does.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        if self.child.is_none() {
            return;
        }
        self.tell(Signal::CONT);
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            self.tell(Signal::TERM);
            if self.ended_within(TERM_AGAIN) {
                return;
            }
        }
        // What its threads do goes to its log (see `launch`).
        self.tell(Signal::ABORT);
        self.ended_within(PATIENCE);
        panic!("{} does not end:\n{}", self.name, self.log());
    }

    fn ended_within(&mut self, time: Duration) -> bool {
        let end = Instant::now() + time;
        let child = self.child.as_mut().expect("it runs");
        while !matches!(child.try_wait(), Ok(Some(_))) {
            if Instant::now() >= end {
                return false;
            }
            pause();
        }
        self.child = None;
        true
    }

    /// Removes everything that it holds. It must not run.
    pub(crate) fn empty(&self) {
        assert!(self.child.is_none(), "{} runs", self.name);
        for entry in fs::read_dir(&self.folder).expect("its folder is there") {
            let path = entry.expect("it can be read").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("Data.fs") {
                fs::remove_file(&path).expect("removing a file");
            }
        }
        if self.blobs().exists() {
            fs::remove_dir_all(self.blobs()).expect("removing blobs");
            fs::create_dir_all(self.blobs()).expect("a folder for blobs");
        }
    }

    /// Puts another's data in the place of its own. It must not run.
    pub(crate) fn put(&self, data: &Path, blobs: Option<&Path>) {
        self.empty();
        fs::copy(data, self.data()).expect("copying a Data.fs");
        if let Some(blobs) = blobs {
            copy_all(blobs, &self.blobs());
        }
    }

    /// Copies what it holds as it is on the disk now.
    pub(crate) fn save(&self, to: &Path) {
        fs::create_dir_all(to).expect("a folder");
        if self.data().exists() {
            fs::copy(self.data(), to.join("Data.fs")).expect("copying a Data.fs");
        }
        if self.blobs().exists() {
            copy_all(&self.blobs(), &to.join("blobs"));
        }
    }
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder that is there") {
        let entry = entry.expect("it can be read");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_all(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copying a file");
        }
    }
}

impl Drop for ZeoServer {
    fn drop(&mut self) {
        if self.pid().is_some() {
            self.tell(Signal::CONT);
        }
        self.kill9();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(15)..];
            eprintln!("the end of the log of {}:\n{}", self.name, tail.join("\n"));
        }
    }
}
