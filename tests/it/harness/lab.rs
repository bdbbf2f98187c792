//! A laboratory for faults: a daemon before ZEO servers, a proxy before each server, and file members
//! where they are wanted.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::instance::PATIENCE;
use super::proxy::Proxy;
use super::python::{self, Python, Totals, Workers};
use super::zeo_server::{ZeoServer, ZeoSetup};
use super::{Instance, until_ok};

/// What a laboratory has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LabSetup {
    pub(crate) servers: usize,
    pub(crate) files: usize,
    /// Configured before the servers: small databases are read from the first member.
    pub(crate) files_first: bool,
    /// What the servers run on.
    pub(crate) python: Python,
    /// How many of the servers announce `M5`, the last ones; the others and the daemon announce `Z5`.
    pub(crate) msgpack: usize,
    pub(crate) blobs: bool,
    /// Settings of the array, each a line.
    pub(crate) settings: &'static str,
}

impl LabSetup {
    /// Two servers that keep blobs.
    pub(crate) const TWO: Self = LabSetup {
        servers: 2,
        files: 0,
        files_first: false,
        python: Python::Zeo6,
        msgpack: 0,
        blobs: true,
        settings: "",
    };
    pub(crate) const THREE: Self = LabSetup {
        servers: 3,
        ..Self::TWO
    };

    /// How the server with this index is set up.
    pub(crate) fn server(&self, index: usize) -> ZeoSetup {
        ZeoSetup {
            python: self.python,
            msgpack: index + self.msgpack >= self.servers,
            clients_resolve: self.files > 0,
            blobs: self.blobs,
            blobs_are_shared: self.settings.contains("everything"),
        }
    }
}

impl Default for LabSetup {
    fn default() -> Self {
        Self::TWO
    }
}

/// A member that does not answer is given this long.
pub(crate) const MEMBER_TIMEOUT: Duration = Duration::from_secs(2);

/// No operation of a client may take longer, in an array with faults. A call is given up when the member's
/// timeout has passed; where only silence tells, that begins with a heartbeat, which is sent after a quarter of
/// it, and looked after every eighth. The rest, two seconds, is for two cores that the daemon, Python's servers
/// and Python's clients share with whatever else runs: the longest of all was 2.1 s where nothing did, 2.3 s
/// beside four busy loops, and 3.5 s, of which no member's timeout was a part, with fourteen processes in line.
pub(crate) const LONGEST_OPERATION: Duration =
    Duration::from_millis(1500 * MEMBER_TIMEOUT.as_secs() + 2000);

/// In seconds, after each commit of a client: what is lost is measured in commits, and has to be copied by
/// Python servers that share two cores with everything else.
const PAUSE: &str = "0.05";

pub(crate) struct Lab {
    pub(crate) instance: Instance,
    /// `zeo1`, `zeo2`, …
    pub(crate) servers: Vec<ZeoServer>,
    /// One before each server.
    pub(crate) proxies: Vec<Proxy>,
    pub(crate) setup: LabSetup,
}

impl Lab {
    /// Everything is set up, the servers run, the daemon does not.
    pub(crate) fn new(setup: LabSetup) -> Self {
        Self::on(Instance::new(), setup)
    }

    /// The same, in a folder in which something was prepared.
    pub(crate) fn on(instance: Instance, setup: LabSetup) -> Self {
        let folder = instance.beside("");
        let mut servers: Vec<ZeoServer> = (0..setup.servers)
            .map(|index| {
                let name = format!("zeo{}", index + 1);
                ZeoServer::new(&folder, &name, setup.server(index))
            })
            .collect();
        // Servers that share a folder of blobs clean it up when they start, and trip over each other.
        let one_by_one = setup.settings.contains("everything");
        for server in &mut servers {
            server.launch();
            if one_by_one {
                server.wait_listening();
            }
        }
        for server in &mut servers {
            server.wait_listening();
        }
        let proxies = servers
            .iter()
            .map(|server| Proxy::before(&server.address()))
            .collect();
        let lab = Lab {
            instance,
            servers,
            proxies,
            setup,
        };
        let names: Vec<usize> = (0..setup.servers).collect();
        lab.configure(&lab.instance, &names);
        lab
    }

    /// The same, and the daemon serves with all members.
    pub(crate) fn started(setup: LabSetup) -> Self {
        let lab = Self::new(setup);
        lab.instance.start().ok();
        lab.instance.wait_optimal();
        lab
    }

    /// Writes the configuration of a daemon over these servers (by their index) and all files.
    pub(crate) fn configure(&self, instance: &Instance, servers: &[usize]) {
        let mut members = String::new();
        let mut files = String::new();
        for index in servers {
            let (server, proxy) = (&self.servers[*index], &self.proxies[*index]);
            members += &format!("      {}: {{zeo: \"{}\"}}\n", server.name, proxy.address());
        }
        for number in 1..=self.setup.files {
            let blobs = if self.setup.blobs {
                format!(", blob_dir: var/file{number}/blobs")
            } else {
                String::new()
            };
            files += &format!("      file{number}: {{file: var/file{number}/Data.fs{blobs}}}\n");
        }
        if self.setup.files_first {
            members.insert_str(0, &files);
        } else {
            members += &files;
        }
        let mut settings = String::new();
        for line in self.setup.settings.lines() {
            settings += &format!("    {}\n", line.trim());
        }
        for (key, value) in [
            ("member_timeout", MEMBER_TIMEOUT),
            ("open_timeout", PATIENCE / 6),
        ] {
            if !settings.contains(key) {
                settings += &format!("    {key}: {}s\n", value.as_secs());
            }
        }
        let text = format!(
            "listen: {}\narrays:\n  main:\n    members:\n{members}{settings}",
            instance.address
        );
        fs::create_dir_all(instance.path("etc")).expect("a folder for the configuration");
        fs::write(instance.config(), text).expect("writing the configuration");
    }

    /// Where the members keep their data, servers first.
    pub(crate) fn copies(&self) -> Vec<PathBuf> {
        let servers = self.servers.iter().map(ZeoServer::data);
        let files = (1..=self.setup.files).map(|number| self.file(number));
        servers.chain(files).collect()
    }

    /// The `Data.fs` of `file1`, `file2`, …
    pub(crate) fn file(&self, number: usize) -> PathBuf {
        self.instance.path(&format!("var/file{number}/Data.fs"))
    }

    /// Clients that do everything a client does.
    pub(crate) fn workers(&self, count: u64) -> Workers {
        let mix = if self.setup.blobs {
            "blob,undo,iterate,cold"
        } else {
            "undo,iterate,cold"
        };
        self.workers_of(count, mix)
    }

    /// Clients that do this besides committing.
    pub(crate) fn workers_of(&self, count: u64, mix: &str) -> Workers {
        let address = &self.instance.address;
        let more = &["--mix", mix, "--pause", PAUSE];
        Workers::start_with(address, &self.instance.beside(""), count, more)
    }

    /// Another, where there are so many already.
    pub(crate) fn more_workers(&self, first: u64) -> Workers {
        let address = &self.instance.address;
        let more = &["--mix", "undo,iterate,cold", "--pause", PAUSE];
        Workers::join(address, &self.instance.beside(""), first, 1, more)
    }

    /// Clients that do everything, with these arguments more.
    pub(crate) fn workers_with(&self, count: u64, more: &[&str]) -> Workers {
        let mut all = vec!["--mix", "undo,iterate,cold", "--pause", PAUSE];
        all.extend(more);
        let address = &self.instance.address;
        Workers::start_with(address, &self.instance.beside(""), count, &all)
    }

    /// Asks for the recovery of a member that would be recovered by itself later.
    pub(crate) fn hurry(&self, member: &str) {
        until_ok("the recovery to be asked for", PATIENCE, || {
            let run = self.instance.run(&["recover", member, "--detach"]);
            let state = self.instance.member(member)["state"].clone();
            if run.code == 0 || state != "degraded" {
                Ok(())
            } else {
                Err(run.to_string())
            }
        });
    }

    /// Where the log ends now: what is logged after it is what happened since.
    pub(crate) fn mark(&self) -> usize {
        self.instance.log().len()
    }

    /// Waits until the log says that the member was taken out since the mark, for one of these reasons. The
    /// log keeps what it was taken out for; `details` shows why it cannot be opened again.
    #[track_caller]
    pub(crate) fn wait_taken_out(&self, member: &str, since: usize, reasons: &[&str]) {
        let words = format!("{member} was taken out (membership no. ");
        let said = until_ok(&format!("{member} to be taken out"), PATIENCE, || {
            let log = self.instance.log();
            let line = log[since..].lines().find(|line| line.contains(&words));
            line.map(str::to_owned).ok_or("it was not")
        });
        assert!(
            reasons.iter().any(|reason| said.contains(reason)),
            "{member} was taken out, but not for any of {reasons:?}: {said}"
        );
    }

    pub(crate) fn faults(&self, member: &str) -> u64 {
        self.instance.member(member)["faults"].as_u64().unwrap_or(0)
    }

    /// Ends the clients, none of which may have noticed anything, then everything else; then all members
    /// must be the same, and hold what the clients were told.
    #[track_caller]
    pub(crate) fn finish(mut self, mut workers: Workers) -> Value {
        self.instance.wait_optimal();
        let totals = workers.end();
        assert_unnoticed(&totals);
        let found = self.compare(&workers.logs());
        assert_eq!(found["committed"], totals.commits, "{found} {totals:?}");
        found
    }

    /// The same of clients that may have noticed.
    #[track_caller]
    pub(crate) fn finish_tolerant(mut self, mut workers: Workers) -> Value {
        self.instance.wait_optimal();
        let totals = workers.end();
        let found = self.compare(&workers.logs());
        totals.assert_exact(&found);
        found
    }

    /// Ends everything; then every object must be the same in all members, whatever each has kept of
    /// the past.
    #[track_caller]
    pub(crate) fn compare_current(&mut self) -> Value {
        self.compare_with(&[], &["--current"])
    }

    /// Ends everything; then all members must hold the same data in all transactions, by a back-pointer or
    /// not.
    #[track_caller]
    pub(crate) fn compare_data(&mut self) -> Value {
        self.compare_with(&[], &["--no-pointers"])
    }

    /// Ends everything; then all members must hold the same records in all transactions, in whatever order: a
    /// server is sent a transaction's blobs after its other records.
    #[track_caller]
    pub(crate) fn compare_in_any_order(&mut self) -> Value {
        self.compare_with(&[], &["--any-order"])
    }

    /// Ends everything; then all members must be the same.
    #[track_caller]
    pub(crate) fn compare(&mut self, logs: &[PathBuf]) -> Value {
        self.compare_with(logs, &[])
    }

    #[track_caller]
    fn compare_with(&mut self, logs: &[PathBuf], more: &[&str]) -> Value {
        self.instance.stop().ok();
        for server in &mut self.servers {
            server.stop();
        }
        for server in &self.servers {
            // Where the comparison looks for them.
            let beside = server.data().with_file_name("blobs");
            if self.setup.blobs && !beside.exists() {
                std::os::unix::fs::symlink(server.blobs(), beside).expect("a link");
            }
        }
        let mut more = more.to_vec();
        if self.setup.blobs {
            more.push("--blobs");
        }
        // Files keep an extension as their client pickled it; servers pickle it anew, each in the same way
        // where they were told the same.
        let alike = [0, self.setup.servers].contains(&self.setup.msgpack);
        if self.setup.files == 0 && alike {
            more.push("--extension-bytes");
        }
        python::verify_with(&self.copies(), logs, &more)
    }
}

#[track_caller]
pub(crate) fn assert_unnoticed(totals: &Totals) {
    eprintln!("{totals:?}");
    assert_eq!(totals.errors, 0, "a client noticed: {totals:?}");
    assert!(
        totals.longest_operation <= LONGEST_OPERATION,
        "a client waited too long: {totals:?}"
    );
}
