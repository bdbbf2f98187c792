//! The two servers that are compared, each a process of its own with a folder of its own.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// The program that is compared.
const PROGRAM: &str = env!("CARGO_BIN_EXE_zeoraidctl");

/// A server that runs. It is killed when it is dropped.
pub(crate) struct Side {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    pub(crate) child: Child,
    /// Its members, where they are servers.
    behind: Vec<Side>,
}

impl Drop for Side {
    fn drop(&mut self) {
        // It may have gone by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Side {
    /// Python's server with its file storage, which syncs each commit.
    pub(crate) fn runzeo(folder: &Path) -> anyhow::Result<Side> {
        Self::runzeo_in(&folder.join("runzeo"))
    }

    /// The same, in this folder.
    pub(crate) fn runzeo_in(folder: &Path) -> anyhow::Result<Side> {
        fs::create_dir_all(folder)?;
        let address = free_address()?;
        let conf = format!(
            "<zeo>\n  address {address}\n</zeo>\n<filestorage 1>\n  path Data.fs\n  \
             blob-dir blobs\n</filestorage>\n"
        );
        fs::write(folder.join("zeo.conf"), conf)?;
        let child = Command::new(python()?)
            .args(["-c", "from ZEO.runzeo import main; main()"])
            .args(["-C", "zeo.conf"])
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.join("log"))?)
            .spawn()
            .context("could not start runzeo")?;
        let side = Side {
            name: "runzeo",
            address,
            child,
            behind: Vec::new(),
        };
        side.when_it_listens(folder)
    }

    /// The daemon, from an instance that `init` makes: an array of two files.
    pub(crate) fn daemon(folder: &Path) -> anyhow::Result<Side> {
        let instance = folder.join("instance");
        let address = free_address()?;
        let made = Command::new(PROGRAM)
            .arg("init")
            .arg(&instance)
            .args(["--yes", "--set", &format!("listen={address}")])
            .stdin(Stdio::null())
            .output()?;
        ensure!(
            made.status.success(),
            "could not make an instance: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        Self::foreground(&instance, address)
    }

    pub(crate) fn foreground(instance: &Path, address: SocketAddr) -> anyhow::Result<Side> {
        let child = Command::new(PROGRAM)
            .arg("--instance")
            .arg(instance)
            .arg("fg")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(instance.join("log"))?)
            .spawn()
            .context("could not start the daemon")?;
        let side = Side {
            name: "zeoraidctl",
            address,
            child,
            behind: Vec::new(),
        };
        side.when_it_listens(instance)
    }

    /// The daemon before so many `runzeo`, with a cache of so many bytes.
    pub(crate) fn array(folder: &Path, members: usize, cache: u64) -> anyhow::Result<Side> {
        let instance = folder.join(format!("array{members}"));
        let behind = (1..=members).map(|number| {
            let folder = instance.join(format!("zeo{number}"));
            Self::runzeo_in(&folder)
        });
        let behind: Vec<Side> = behind.collect::<anyhow::Result<_>>()?;
        let address = free_address()?;
        let mut text = format!("listen: {address}\narrays:\n  main:\n    cache: {cache}\n");
        text += "    members:\n";
        for (number, member) in behind.iter().enumerate() {
            writeln!(
                text,
                "      zeo{}: {{zeo: \"{}\"}}",
                number + 1,
                member.address
            )?;
        }
        fs::create_dir_all(instance.join("etc"))?;
        fs::write(instance.join("etc/zeoraid.yaml"), text)?;
        let mut side = Self::foreground(&instance, address)?;
        side.behind = behind;
        Ok(side)
    }

    /// This server without a daemon, over one storage.
    pub(crate) fn bare(folder: &Path, storage: &str) -> anyhow::Result<Side> {
        let folder = folder.join("bare");
        fs::create_dir_all(&folder)?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["serve", "--storage", storage])
            .current_dir(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(folder.join("log"))?)
            .spawn()
            .context("could not start the server")?;
        let stdout = child.stdout.take().context("it has an output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim().parse();
        let address = address.with_context(|| failed(&folder, "the server did not start"))?;
        Ok(Side {
            name: "zeoraidctl",
            address,
            child,
            behind: Vec::new(),
        })
    }

    /// The time that processors have spent on it and its members.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let mut all = cpu_of(self.child.id())?;
        for member in &self.behind {
            all += member.cpu()?;
        }
        Ok(all)
    }

    fn when_it_listens(mut self, folder: &Path) -> anyhow::Result<Side> {
        let start = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!(failed(
                    folder,
                    &format!("{} ended with {status}", self.name)
                ));
            }
            ensure!(start.elapsed() < PATIENCE, "{} does not listen", self.name);
            #[expect(
                clippy::disallowed_methods,
                reason = "a process cannot be waited for otherwise"
            )]
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(self)
    }
}

/// The Python that has ZEO: `ZEORAID_PYTHON`, or the repository's own environment.
pub(crate) fn python() -> anyhow::Result<PathBuf> {
    if let Some(python) = std::env::var_os("ZEORAID_PYTHON") {
        return Ok(python.into());
    }
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
    ensure!(
        python.exists(),
        "no Python with ZEO: set ZEORAID_PYTHON to one, or make {} (`python3 -m venv .venv && \
         .venv/bin/pip install ZEO`)",
        python.display()
    );
    Ok(python)
}

/// The time that processors have spent on a process: `/proc/PID/stat`, in hundredths of a second.
pub(crate) fn cpu_of(pid: u32) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(") ").context("a name in parentheses")?;
    let mut fields = fields.split(' ').skip(11);
    let mut ticks = || -> anyhow::Result<u64> { Ok(fields.next().context("times")?.parse()?) };
    Ok(Duration::from_millis(10 * (ticks()? + ticks()?)))
}

pub(crate) fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?)
}

fn failed(folder: &Path, what: &str) -> String {
    let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
    format!("{what}; it says:\n{log}")
}
