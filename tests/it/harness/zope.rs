//! A Zope: the instance that `mkwsgiinstance` makes, served by `runwsgi`, in a process of its own.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use super::instance::Run;
use super::ports::free_port;
use super::python::{self, Python};
use super::until_ok;

/// Zope takes some seconds to start where it has a processor of its own.
const PATIENCE: Duration = Duration::from_mins(2);

/// How `zope.conf` says where the database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    /// `<zeoclient>`, which ZODB brings.
    ZeoClient,
    /// `<clientstorage>`, after `%import ZEO`: it knows more settings, of which `server-sync` is on here.
    ClientStorage,
}

/// Killed when dropped.
pub(crate) struct Zope {
    folder: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl Zope {
    /// Makes the instance in this folder. Its database is the array at this address.
    #[track_caller]
    pub(crate) fn new(folder: PathBuf, address: &str, section: Section) -> Self {
        let mut make = python::program_with(Python::Tools, "mkwsgiinstance");
        make.arg("-d").arg(&folder).args(["-u", "admin:secret"]);
        Run::of(make).ok();
        let zope = Zope {
            folder,
            port: free_port(),
            child: None,
        };
        let (begin, end) = match section {
            Section::ZeoClient => ("<zeoclient>", "</zeoclient>"),
            Section::ClientStorage => (
                "%import ZEO\n<clientstorage>\nserver-sync on",
                "</clientstorage>",
            ),
        };
        let storage = format!(
            "{begin}\nserver {address}\nstorage main\nblob-dir $INSTANCE/var/blobs\n{end}\nmount-point /\n"
        );
        zope.edit("zope.conf", |text| {
            let (head, rest) = text.split_once("<zodb_db main>").expect("a database");
            let (_, tail) = rest.split_once("</zodb_db>").expect("an end");
            format!("{head}<zodb_db main>\n{storage}</zodb_db>{tail}")
        });
        let port = format!("port = {}", zope.port);
        zope.edit("zope.ini", |text| text.replace("port = 8080", &port));
        zope
    }

    fn edit(&self, name: &str, change: impl FnOnce(String) -> String) {
        let path = self.folder.join("etc").join(name);
        let text = fs::read_to_string(&path).expect("mkwsgiinstance wrote it");
        fs::write(path, change(text)).expect("writing a configuration");
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Starts it, and waits until it takes requests.
    #[track_caller]
    pub(crate) fn start(&mut self) {
        let log = File::create(self.log_path()).expect("a file for the log");
        let child = python::program_with(Python::Tools, "runwsgi")
            .arg(self.folder.join("etc/zope.ini"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .spawn()
            .expect("runwsgi starts");
        let child = self.child.insert(child);
        let address = ("127.0.0.1", self.port);
        let log = self.folder.join("log");
        until_ok("Zope to listen", PATIENCE, || {
            if let Ok(Some(status)) = child.try_wait() {
                let log = fs::read_to_string(&log).unwrap_or_default();
                panic!("Zope ended ({status}):\n{log}");
            }
            TcpStream::connect(address).map(drop)
        });
    }

    /// Runs a script of `tests/python` in the console of this instance: a Zope without a server.
    #[track_caller]
    pub(crate) fn console(&self, script: &str, args: &[&str]) -> Run {
        let mut command = python::program_with(Python::Tools, "zconsole");
        let script = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/python")
            .join(script);
        command
            .arg("run")
            .arg(self.folder.join("etc/zope.conf"))
            .arg(script)
            .args(args);
        Run::of(command)
    }

    /// What the log says of clients that lost their database. A request that waited for one is not an error.
    pub(crate) fn disconnections(&self) -> Vec<String> {
        let log = self.log();
        let lines = log
            .lines()
            .filter(|line| line.contains("Disconnected") || line.contains("Traceback"));
        lines.map(str::to_owned).collect()
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl Drop for Zope {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(30)..];
            eprintln!(
                "the end of the log of {}:\n{}",
                self.folder.display(),
                tail.join("\n")
            );
        }
    }
}
