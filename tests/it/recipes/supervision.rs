//! What starts the daemon and looks after it: supervisord for real; of systemd and containers, the commands.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::judges::tool;
use super::{Order, embedded, read};
use crate::harness::instance::{PATIENCE, Run, ZEORAIDCTL, command};
use crate::harness::{Instance, python, until, until_ok};

/// supervisord in the foreground, with what is in its folder. Ended, with its programs, when dropped.
struct Supervisor {
    folder: PathBuf,
    child: Child,
}

impl Supervisor {
    #[track_caller]
    fn start(folder: PathBuf, program: &std::path::Path) -> Self {
        fs::create_dir_all(&folder).expect("a folder");
        fs::copy(program, folder.join("zeoraid.conf")).expect("copying it");
        let text = format!(
            "[supervisord]\nnodaemon=true\nlogfile={0}/log\npidfile={0}/pid\n\
             [unix_http_server]\nfile={0}/sock\n\
             [rpcinterface:supervisor]\n\
             supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n\
             [supervisorctl]\nserverurl=unix://{0}/sock\n\
             [include]\nfiles={0}/zeoraid.conf\n",
            folder.display()
        );
        fs::write(folder.join("supervisord.conf"), text).expect("writing supervisord.conf");
        let child = tool("python")
            .args(["-m", "supervisor.supervisord", "-c"])
            .arg(folder.join("supervisord.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("supervisord starts");
        Supervisor { folder, child }
    }

    fn ctl(&self, args: &[&str]) -> Run {
        let mut ctl = tool("python");
        ctl.args(["-m", "supervisor.supervisorctl", "-c"])
            .arg(self.folder.join("supervisord.conf"))
            .args(args);
        Run::of(ctl)
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        drop(self.ctl(&["shutdown"]));
        // It stops its programs, and then ends.
        until("supervisord to end", PATIENCE, || {
            !matches!(self.child.try_wait(), Ok(None))
        });
    }
}

#[test]
fn supervisord_runs_the_daemon_and_starts_it_again() {
    let place = Instance::new();
    let folder = place.beside("a b 100%");
    Order::new("embedded", &["supervisor"])
        .set("listen", &place.address)
        .run(&place, &folder)
        .ok();
    let home = folder.to_str().expect("a plain path");
    let status = || -> Result<Value, String> {
        let run = place.run_bare(&["-C", home, "status", "-o", "json"]);
        let value: Value = serde_json::from_str(&run.stdout).map_err(|_| run.to_string())?;
        if value["ready"] == true {
            Ok(value)
        } else {
            Err(run.to_string())
        }
    };

    let program = folder.join("etc/supervisor/zeoraid.conf");
    let supervisor = Supervisor::start(place.beside("supervisor"), &program);
    let first = until_ok("the daemon that supervisord starts", PATIENCE, status);
    python::run("features.py", &["plain_visit", &place.address])
        .ok()
        .prints("visits 1");

    let pid = i32::try_from(first["pid"].as_i64().expect("a pid")).expect("a small one");
    crate::harness::instance::signal(pid, rustix::process::Signal::KILL);
    until_ok("it to be started again", PATIENCE, || {
        let now = status()?;
        if now["pid"] == first["pid"] {
            Err(now.to_string())
        } else {
            Ok(())
        }
    });
    python::run("features.py", &["plain_visit", &place.address])
        .ok()
        .prints("visits 2");
    let log = read(&folder.join("var/log/zeoraid.log"));
    assert!(log.contains("serv"), "{log}");

    supervisor.ctl(&["signal", "HUP", "zeoraid"]).ok();
    until("the configuration to be read again", PATIENCE, || {
        read(&folder.join("var/log/zeoraid.log")).contains("reload")
    });
    supervisor.ctl(&["stop", "zeoraid"]).ok();
    place.run_bare(&["-C", home, "status"]).ended(3);
    // What was ended so has lost nothing.
    supervisor.ctl(&["start", "zeoraid"]).ok();
    until_ok("the daemon to be there again", PATIENCE, status);
    python::run("features.py", &["plain_visit", &place.address])
        .ok()
        .prints("visits 3");
}

/// The commands of the unit, without systemd: each is a program and its words.
#[test]
fn the_commands_of_the_unit_work() {
    let instance = embedded(&["systemd"], &[("systemd_pack", "weekly".into())]);
    let unit = read(&instance.path("etc/systemd/zeoraid.service"));
    let pack = read(&instance.path("etc/systemd/zeoraid-pack.service"));
    let words = |unit: &str, name: &str| -> Vec<String> {
        let line = unit.lines().find_map(|line| line.strip_prefix(name));
        let line = line.unwrap_or_else(|| panic!("no {name} in {unit}"));
        let words = line
            .split_whitespace()
            .map(|word| word.trim_matches('"').to_owned());
        words.collect()
    };
    let run = |words: &[String]| {
        assert_eq!(words[0], ZEORAIDCTL);
        let mut command = command();
        command.args(&words[1..]);
        Run::of(command)
    };

    let start = words(&unit, "ExecStart=");
    assert_eq!(start.last().map(String::as_str), Some("fg"));
    let mut daemon = command()
        .args(&start[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    instance.wait_optimal();
    run(&words(&unit, "ExecReload=")).ok();
    python::run("features.py", &["plain_visit", &instance.address]).ok();
    run(&words(&pack, "ExecStart=")).ok();
    let pid = i32::try_from(daemon.id()).expect("process ids are small");
    crate::harness::instance::signal(pid, rustix::process::Signal::TERM);
    let status = until_ok("the daemon to end", PATIENCE, || match daemon.try_wait() {
        Ok(Some(status)) => Ok(status),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(status.code(), Some(0));

    // With a mistake in the configuration it is not started again and again.
    instance.configure("arrays:", "  spare: {members: nobody}");
    let code = run(&start).code;
    let never_again = words(&unit, "RestartPreventExitStatus=");
    assert!(never_again.contains(&code.to_string()), "{code}");
}

/// What Docker runs in the container, without Docker: with the environment of the compose file.
#[test]
fn the_health_check_of_the_container_tells_whether_it_serves() {
    let instance = embedded(&["container"], &[]);
    let compose: Value =
        serde_yaml::from_str(&read(&instance.path("container/compose.yaml"))).expect("YAML");
    let service = &compose["services"]["zeoraid"];
    let port = instance.address.rsplit(':').next().expect("a port");
    assert_eq!(
        service["environment"]["ZEORAID_LISTEN"],
        format!("0.0.0.0:{port}")
    );
    assert_eq!(service["ports"][0]["host_ip"], "127.0.0.1");
    let test = service["healthcheck"]["test"]
        .as_array()
        .expect("a command");
    assert_eq!(test[0], "CMD-SHELL");
    let check = || {
        let mut shell = Command::new("/bin/sh");
        let programs = PathBuf::from(ZEORAIDCTL);
        let path = std::env::join_paths([
            programs.parent().expect("it lies in a folder"),
            "/usr/bin".as_ref(),
            "/bin".as_ref(),
        ]);
        shell
            .arg("-c")
            .arg(test[1].as_str().expect("a text"))
            .env_clear()
            .env("PATH", path.expect("folders without colons"))
            .env(
                "ZEORAID_HOME",
                service["environment"]["ZEORAID_HOME"]
                    .as_str()
                    .expect("a path"),
            );
        Run::of(shell).code
    };
    assert_eq!(check(), 1);
    instance.start().ok();
    assert_eq!(check(), 0);
    // With a member out it serves.
    instance.run(&["disable", "copy2", "--yes"]).ok();
    instance.run(&["status"]).ended(2);
    assert_eq!(check(), 0);
}
