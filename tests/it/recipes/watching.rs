//! What `monitoring` wrote, used: a Prometheus scrapes a daemon while a member is brought back, and is asked
//! what the dashboard asks; the alerts are tried with made-up figures; the commands for Nagios are run.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::judges::judge;
use super::{embedded, read};
use crate::harness::instance::{Run, ZEORAIDCTL};
use crate::harness::ports::free_port;
use crate::harness::{Instance, python, until_ok};

/// Prometheus takes some seconds on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// With an admin address, and a Prometheus that asks every second.
fn watched() -> (Instance, String) {
    let admin = format!("127.0.0.1:{}", free_port());
    let set = [
        ("admin_address", admin.clone()),
        ("monitoring_interval", "1s".to_owned()),
    ];
    (embedded(&["monitoring"], &set), admin)
}

/// The names of the figures that are served now.
fn served(admin: &str) -> BTreeSet<String> {
    let mut stream = TcpStream::connect(admin).expect("the daemon answers");
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("it answers");
    let lines = text.lines().filter(|line| line.starts_with("zeoraid_"));
    lines
        .filter_map(|line| line.split(['{', ' ']).next())
        .map(str::to_owned)
        .collect()
}

#[track_caller]
fn ask(args: &[&str]) -> Value {
    let run = python::run("watch.py", args).ok();
    serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run}"))
}

/// Killed when dropped.
struct Prometheus(Child);

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Whose copy2 is being filled, slowly.
#[track_caller]
fn recovering() -> (Instance, String) {
    let (instance, admin) = watched();
    instance.configure("main:", "    recovery_rate: {transactions: 2}");
    instance.start().ok();
    python::run("watch.py", &["fill", &instance.address, "3"]).ok();
    instance.run(&["disable", "copy2", "--yes"]).ok();
    python::run("watch.py", &["fill", &instance.address, "300"]).ok();
    instance
        .run(&["recover", "copy2", "--yes", "--detach"])
        .ok();
    until_ok("a recovery that copies", PATIENCE, || {
        let details = instance.details();
        if details["recovery"]["done"]["bytes"].as_u64() > Some(0) {
            Ok(())
        } else {
            Err(details.to_string())
        }
    });
    (instance, admin)
}

#[test]
fn dashboard_and_alerts_ask_for_figures_that_there_are() {
    let (instance, admin) = recovering();
    let folder = instance.path("etc/monitoring");
    let dashboard = folder.join("grafana-dashboard.json");
    let rules = folder.join("zeoraid.rules.yml");
    let path = |path: &Path| path.to_str().expect("a plain path").to_owned();
    let asked = ask(&["names", &path(&dashboard), &path(&rules)]);
    let asked: Vec<&str> = asked
        .as_array()
        .expect("names")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert!(asked.len() > 12, "{asked:?}");
    // Some are there a moment later: the time left of a recovery, for one.
    until_ok("every figure that is asked for", PATIENCE, || {
        let served = served(&admin);
        let unknown: Vec<_> = asked
            .iter()
            .filter(|name| !served.contains(**name))
            .collect();
        if unknown.is_empty() {
            Ok(())
        } else {
            Err(format!("{unknown:?} are not in {served:?}"))
        }
    });
}

#[test]
fn prometheus_scrapes_it_and_answers_the_dashboard() {
    let (instance, _admin) = recovering();
    let Some(program) = judge("prometheus", "a Prometheus that scrapes the daemon") else {
        return;
    };
    let folder = instance.path("etc/monitoring");
    let log = instance.beside("prometheus.log");
    let port = free_port();
    let child = Command::new(program.get_program())
        .envs(
            program
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .arg(format!(
            "--config.file={}",
            folder.join("prometheus.yml").display()
        ))
        .arg(format!(
            "--storage.tsdb.path={}",
            instance.beside("figures").display()
        ))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log).expect("a file for its log"))
        .spawn()
        .expect("prometheus starts");
    let mut prometheus = Prometheus(child);
    let url = format!("http://127.0.0.1:{port}");
    until_ok("Prometheus to scrape the daemon", PATIENCE, || {
        assert!(
            matches!(prometheus.0.try_wait(), Ok(None)),
            "{}",
            read(&log)
        );
        let run = python::run("watch.py", &["up", &url]);
        if run.code == 0 && run.stdout == "1\n" {
            Ok(())
        } else {
            Err(run.to_string())
        }
    });

    // Rates need two scrapes.
    let dashboard = folder.join("grafana-dashboard.json");
    let dashboard = dashboard.to_str().expect("a plain path");
    until_ok(
        "an answer to every query of the dashboard",
        PATIENCE,
        || {
            let found = ask(&["queries", &url, dashboard]);
            let found = found.as_object().expect("queries");
            let silent: Vec<_> = found.iter().filter(|(_, count)| **count == 0).collect();
            assert!(found.len() > 15, "{found:?}");
            if silent.is_empty() {
                Ok(())
            } else {
                Err(format!("{silent:?}"))
            }
        },
    );
    let rules = until_ok("the alert of the last copy", PATIENCE, || {
        let rules = ask(&["rules", &url]);
        if rules["ZeoraidLastCopy"]["state"] == "pending" {
            Ok(rules)
        } else {
            Err(rules.to_string())
        }
    });
    assert_eq!(
        rules["ZeoraidLastCopy"]["labels"][0]["array"], "main",
        "{rules:#}"
    );
    for quiet in ["ZeoraidDown", "ZeoraidNotServing"] {
        assert_eq!(rules[quiet]["state"], "inactive", "{rules:#}");
    }
}

/// When each alert is raised, and when not: by promtool, with figures over an hour.
#[test]
fn alerts_are_raised_when_they_should_be() {
    let (instance, _) = watched();
    let Some(mut promtool) = judge("promtool", "when the alerts are raised") else {
        return;
    };
    let tests = include_str!("alerts.yml");
    let rules = instance.path("etc/monitoring/zeoraid.rules.yml");
    let file = instance.beside("alerts.yml");
    let rules = rules.to_str().expect("a plain path");
    fs::write(&file, tests.replace("RULES", rules)).expect("writing the tests");
    promtool.args(["test", "rules"]).arg(&file);
    Run::of(promtool).ok().prints("SUCCESS");

    // Each alert is tried.
    for line in read(Path::new(rules)).lines() {
        if let Some(alert) = line.trim().strip_prefix("- alert: ") {
            assert!(tests.contains(&format!("alertname: {alert}")), "{alert}");
        }
    }
}

#[test]
fn the_commands_for_nagios_say_how_it_is() {
    let (instance, admin) = watched();
    let shell = |line: &str| {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", line]);
        Run::of(shell)
    };
    let find = |file: &str, before: &str| -> String {
        let text = read(&instance.path("etc/monitoring").join(file));
        let line = text
            .lines()
            .find_map(|line| line.trim().strip_prefix(before));
        line.unwrap_or_else(|| panic!("no {before} in {text}"))
            .trim()
            .to_owned()
    };
    let nrpe = find("nrpe.cfg", "command[check_zeoraid]=");
    let check = find("nagios.cfg", "check_command");
    let argument = check.split_once('!').expect("an argument").1;
    assert_eq!(argument, admin);
    let nagios = find("nagios.cfg", "command_line").replace("$ARG1$", argument);
    assert!(nagios.contains(ZEORAIDCTL), "{nagios}");

    for line in [&nrpe, &nagios] {
        shell(line).ended(3).prints("ZEORAID UNKNOWN");
    }
    instance.start().ok();
    for line in [&nrpe, &nagios] {
        shell(line)
            .ok()
            .prints("ZEORAID OK - optimal | 'main_optimal_members'=2;");
    }
    instance.run(&["disable", "copy2", "--yes"]).ok();
    for line in [&nrpe, &nagios] {
        shell(line).ended(2).prints("ZEORAID CRITICAL");
    }
}
