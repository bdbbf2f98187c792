//! What stands before several daemons, with real ones behind it: the balancer, and what keepalived asks.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::Order;
use super::judges::judge;
use crate::harness::instance::{PATIENCE, Run, signal};
use crate::harness::ports::free_port;
use crate::harness::python::{self, Workers};
use crate::harness::{Instance, until, until_ok};

/// Two daemons before three ZEO servers, all in one instance. Stopped when dropped.
struct Pair {
    instance: Instance,
}

impl Pair {
    #[track_caller]
    fn made(recipe: &str, with: &[&str], set: &[(&str, String)]) -> Self {
        let instance = Instance::new();
        let python = python::program("python");
        let addresses = [(); 3].map(|()| format!("127.0.0.1:{}", free_port()));
        let mut order = Order::new(recipe, with)
            .set("addresses", addresses.join(", "))
            .set("zeo_python", Path::new(python.get_program()).display());
        for (option, value) in set {
            order = order.set(option, value);
        }
        order.run(&instance, instance.root()).ok();
        let pair = Pair { instance };
        for server in ["zeo1", "zeo2", "zeo3"] {
            pair.bin(server, &["start"]).ok();
        }
        pair
    }

    fn bin(&self, name: &str, args: &[&str]) -> Run {
        let mut command = Command::new(self.instance.path("bin").join(name));
        command.args(args).current_dir("/");
        Run::of(command)
    }

    fn status(&self, daemon: &str) -> Result<Value, String> {
        let run = self.bin(daemon, &["status", "-o", "json"]);
        serde_json::from_str(&run.stdout).map_err(|_| run.to_string())
    }

    fn clients(&self, daemon: &str) -> u64 {
        let run = self.bin(daemon, &["details", "-o", "json"]);
        let value: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{run}"));
        value["arrays"][0]["clients"].as_u64().expect("a count")
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // What is stopped already says so.
        for name in ["zeoraidctl", "zeoraidctl-d2", "zeo1", "zeo2", "zeo3"] {
            self.bin(name, &["stop"]);
        }
    }
}

/// Killed when dropped.
struct Front(Child);

impl Drop for Front {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn clients_behind_haproxy_go_on_at_the_other_daemon() {
    let Some(program) = judge("haproxy", "an HAProxy before two daemons") else {
        return;
    };
    let address = format!("127.0.0.1:{}", free_port());
    let listen = [(); 2].map(|()| format!("127.0.0.1:{}", free_port()));
    // The second daemon has the port after that of the first.
    let admin = loop {
        let port = free_port();
        if std::net::TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            break format!("127.0.0.1:{port}");
        }
    };
    let set = [
        ("listen", listen.join(", ")),
        ("admin_address", admin),
        ("haproxy_listen", address.clone()),
    ];
    let pair = Pair::made("cooperative", &["haproxy"], &set);
    for daemon in ["zeoraidctl", "zeoraidctl-d2"] {
        pair.bin(daemon, &["start"]).ok();
    }
    let log = File::create(pair.instance.beside("haproxy.log")).expect("a file for its log");
    let child = Command::new(program.get_program())
        .envs(
            program
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .args(["-db", "-f"])
        .arg(pair.instance.path("etc/haproxy/zeoraid.cfg"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a file can be shared"))
        .stderr(log)
        .spawn()
        .expect("haproxy starts");
    let _front = Front(child);

    let folder = pair.instance.beside("");
    let mut workers = Workers::start_with(&address, &folder, 2, &["--tolerant"]);
    workers.wait_for_more(5);
    // All of them are with the first.
    assert!(pair.clients("zeoraidctl") >= 2);
    assert_eq!(pair.clients("zeoraidctl-d2"), 0);

    let first = pair.status("zeoraidctl").expect("it answers");
    let pid = i32::try_from(first["pid"].as_i64().expect("a pid")).expect("a small one");
    signal(pid, rustix::process::Signal::KILL);
    workers.wait_for_more(5);
    assert!(pair.clients("zeoraidctl-d2") >= 2);

    // It comes back, and the second fails: they return.
    pair.bin("zeoraidctl", &["start"]).ok();
    pair.bin("zeoraidctl-d2", &["stop"]).ok();
    workers.wait_for_more(5);
    workers.end();
    assert_eq!(
        python::run("features.py", &["plain_visit", &address])
            .ok()
            .code,
        0
    );
}

#[test]
fn keepalived_is_told_whether_the_daemon_serves() {
    let address = format!("127.0.0.1:{}", free_port());
    let set = [
        ("spare_address", address.clone()),
        ("listen", address.clone()),
        ("generate_servers", "yes".to_owned()),
    ];
    let pair = Pair::made("hot-spare", &[], &set);
    let ready = |name: &str| {
        Run::of(Command::new(
            pair.instance.path("etc/keepalived").join(name),
        ))
        .code
    };
    assert_ne!(ready("ready.sh"), 0);
    pair.bin("zeoraidctl", &["start"]).ok();
    assert_eq!((ready("ready.sh"), ready("ready-d2.sh") == 0), (0, false));
    python::run("features.py", &["plain_visit", &address]).ok();

    // A member that is out is no reason to move the address.
    pair.bin("zeo3", &["stop"]).ok();
    until("zeo3 to be taken out", PATIENCE, || {
        pair.bin("zeoraidctl", &["status"]).code == 2
    });
    assert_eq!(ready("ready.sh"), 0);

    // With two out it serves no more.
    pair.bin("zeo2", &["stop"]).ok();
    until("the daemon to stop serving", PATIENCE, || {
        ready("ready.sh") != 0
    });
    for server in ["zeo2", "zeo3"] {
        pair.bin(server, &["start"]).ok();
    }
    until("it to serve again", PATIENCE, || ready("ready.sh") == 0);

    // The first machine is lost, and the second takes over.
    until_ok("an optimal array", Duration::from_mins(2), || {
        let run = pair.bin("zeoraidctl", &["status"]);
        if run.code == 0 {
            Ok(())
        } else {
            Err(run.to_string())
        }
    });
    pair.bin("zeoraidctl", &["stop"]).ok();
    pair.bin("zeoraidctl-d2", &["start"]).ok();
    assert_eq!((ready("ready.sh") == 0, ready("ready-d2.sh")), (false, 0));
    python::run("features.py", &["plain_visit", &address]).ok();
}
