//! Reads everything that additions wrote into an instance, each file by its program.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::judges::{judge, tool, tool_script};
use super::{files, read};
use crate::harness::instance::{Run, ZEORAIDCTL};

/// All of them. `work` is a folder for what a reader needs around the file.
#[track_caller]
pub(super) fn read_everything(instance: &Path, homes: &[&str], work: &Path) {
    units(&instance.join("etc/systemd"), homes.len());
    supervisor(&instance.join("etc/supervisor"), instance, homes);
    container(&instance.join("container"), homes.len());
    prometheus(&instance.join("etc/monitoring"));
    dashboard(&instance.join("etc/monitoring/grafana-dashboard.json"));
    nagios(&instance.join("etc/monitoring/nagios.cfg"), work);
    logrotate(
        &instance.join("etc/logrotate/zeoraid.conf"),
        homes.len(),
        work,
    );
    haproxy(&instance.join("etc/haproxy/zeoraid.cfg"), homes.len(), work);
    for file in files(&instance.join("etc/keepalived"), ".conf") {
        keepalived(&file);
    }
}

#[track_caller]
fn units(folder: &Path, daemons: usize) {
    let services = files(folder, ".service");
    let timers = files(folder, ".timer");
    assert_eq!(
        services.len(),
        daemons + timers.len(),
        "{}",
        folder.display()
    );
    if let Some(mut analyze) = judge("systemd-analyze", "units of the recipe systemd") {
        // It looks at units of the machine as well: of interest is what it says of ours.
        analyze
            .args(["verify", "--man=no"])
            .args(&services)
            .args(&timers);
        let run = Run::of(analyze).ok();
        let ours: Vec<&str> = run
            .stderr
            .lines()
            .filter(|line| line.contains("zeoraid"))
            .collect();
        assert!(ours.is_empty(), "{run}");
    }
    if let Some(mut sysusers) = judge("systemd-sysusers", "sysusers.conf of the recipe systemd") {
        sysusers.arg("--dry-run").arg(folder.join("sysusers.conf"));
        let run = Run::of(sysusers).ok();
        assert_eq!(run.stderr.matches("sysusers.conf:").count(), 0, "{run}");
    }
}

/// supervisord's own reader says which command each program is.
#[track_caller]
fn supervisor(folder: &Path, instance: &Path, homes: &[&str]) {
    let programs = files(folder, ".conf");
    assert_eq!(programs.len(), homes.len(), "{}", folder.display());
    let mut read = tool_script("read_supervisor.py");
    read.args(&programs);
    let run = Run::of(read).ok();
    let found: Value = serde_json::from_str(&run.stdout).expect("it prints JSON");
    let mut commands: Vec<&Value> = found.as_object().expect("programs").values().collect();
    commands.sort_by_key(|command| command["arguments"][2].to_string());
    let mut homes: Vec<String> = homes
        .iter()
        .map(|home| instance.join(home).display().to_string())
        .map(|home| home.trim_end_matches('/').to_owned())
        .collect();
    homes.sort();
    for (command, home) in commands.iter().zip(&homes) {
        let expected = serde_json::json!([ZEORAIDCTL, "-C", home, "fg"]);
        assert_eq!(command["arguments"], expected, "{found}");
        let log = Path::new(home).join("var/log/zeoraid.log");
        assert_eq!(
            command["log"],
            log.to_str().expect("a plain path"),
            "{found}"
        );
    }
}

#[track_caller]
fn container(folder: &Path, daemons: usize) {
    let mut lint = tool("hadolint");
    lint.arg("--no-color").arg(folder.join("Dockerfile"));
    assert_eq!(Run::of(lint).ok().stdout, "");

    let compose = folder.join("compose.yaml");
    let mut schema = tool("python");
    schema.args([
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.compose-spec",
    ]);
    schema.arg(&compose);
    Run::of(schema).ok();
    let value: Value = serde_yaml::from_str(&read(&compose)).expect("it is YAML");
    let services = value["services"].as_object().expect("services");
    assert_eq!(services.len(), daemons, "{value:#}");
    for service in services.values() {
        // A mount that is there twice is refused by Docker, and by no schema.
        let volumes = service["volumes"].as_array().expect("volumes");
        let mut targets: Vec<&str> = volumes
            .iter()
            .filter_map(|v| v["target"].as_str())
            .collect();
        targets.sort_unstable();
        let all = targets.len();
        targets.dedup();
        assert_eq!((all, targets.len()), (volumes.len(), all), "{service:#}");
    }
}

#[track_caller]
fn prometheus(folder: &Path) {
    for (what, file) in [("config", "prometheus.yml"), ("rules", "zeoraid.rules.yml")] {
        let Some(mut promtool) = judge("promtool", "files of the recipe monitoring for Prometheus")
        else {
            return;
        };
        promtool.args(["check", what]).arg(folder.join(file));
        Run::of(promtool).ok().prints("SUCCESS");
    }
}

/// Panels do not overlap, each asks something, and of the data source that is chosen at the top.
#[track_caller]
fn dashboard(file: &Path) {
    let value: Value = serde_json::from_str(&read(file)).expect("it is JSON");
    let panels = value["panels"].as_array().expect("panels");
    assert!(panels.len() > 10, "{}", panels.len());
    let mut taken = std::collections::BTreeSet::new();
    for panel in panels {
        let place = |name: &str| panel["gridPos"][name].as_u64().expect("a number");
        assert!(place("x") + place("w") <= 24, "{panel:#}");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(taken.insert((x, y)), "it covers another: {panel:#}");
            }
        }
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{panel:#}");
        for target in panel["targets"].as_array().expect("targets") {
            assert!(target["expr"].is_string(), "{panel:#}");
            let legend = target["legendFormat"].as_str().expect("a legend");
            assert!(legend.contains("{{") && !legend.contains('\\'), "{panel:#}");
        }
    }
}

#[track_caller]
fn nagios(file: &Path, work: &Path) {
    let Some(mut nagios) = judge("nagios4", "nagios.cfg of the recipe monitoring") else {
        return;
    };
    let objects = work.join("objects.cfg");
    let around = "define host {\n host_name zodb\n address 127.0.0.1\n max_check_attempts 1\n \
                  check_period 24x7\n notification_period 24x7\n notification_interval 0\n \
                  contact_groups admins\n}\n\
                  define timeperiod {\n timeperiod_name 24x7\n alias always\n monday 00:00-24:00\n}\n\
                  define contact {\n contact_name somebody\n host_notification_period 24x7\n \
                  service_notification_period 24x7\n host_notification_commands none\n \
                  service_notification_commands none\n}\n\
                  define command {\n command_name none\n command_line /bin/true\n}\n\
                  define contactgroup {\n contactgroup_name admins\n alias admins\n members somebody\n}\n";
    fs::write(&objects, around).expect("writing objects");
    // It wants no blanks in the name.
    let copy = work.join("zeoraid.cfg");
    fs::copy(file, &copy).expect("copying it");
    let main = work.join("nagios.cfg");
    let text = format!(
        "log_file={0}/nagios.log\ncfg_file={1}\ncfg_file={2}\nobject_cache_file={0}/objects.cache\n\
         check_result_path={0}\ntemp_path={0}\nnagios_user={3}\nnagios_group={4}\n\
         illegal_macro_output_chars=`~$&|\n",
        work.display(),
        objects.display(),
        copy.display(),
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    fs::write(&main, text).expect("writing nagios.cfg");
    nagios.arg("-v").arg(&main);
    Run::of(nagios)
        .ok()
        .prints("Total Warnings: 0")
        .prints("Total Errors:   0");
}

#[track_caller]
fn logrotate(file: &Path, daemons: usize, work: &Path) {
    let Some(mut logrotate) = judge("logrotate", "the configuration of the recipe logrotate")
    else {
        return;
    };
    logrotate
        .arg("-d")
        .arg(file)
        .arg("-s")
        .arg(work.join("rotated"));
    let run = Run::of(logrotate).ok();
    assert_eq!(
        run.stderr.matches("rotating pattern: ").count(),
        daemons,
        "{run}"
    );
    assert!(!run.stderr.contains("error:"), "{run}");
}

/// As it is read beside what Debian's own file has.
#[track_caller]
fn haproxy(file: &Path, daemons: usize, work: &Path) {
    let servers = read(file);
    let servers = servers
        .lines()
        .filter(|line| line.trim().starts_with("server "));
    let backups = servers
        .clone()
        .filter(|line| line.ends_with(" backup"))
        .count();
    assert_eq!((servers.count(), backups), (daemons, daemons - 1));
    let Some(mut haproxy) = judge("haproxy", "the configuration of the recipe haproxy") else {
        return;
    };
    let main = work.join("haproxy.cfg");
    let text = "global\n log 127.0.0.1:514 local0\ndefaults\n log global\n mode http\n option httplog\n \
                timeout connect 5s\n timeout client 50s\n timeout server 50s\n balance roundrobin\n";
    fs::write(&main, text).expect("writing haproxy.cfg");
    haproxy.arg("-c").arg("-f").arg(&main).arg("-f").arg(file);
    let run = Run::of(haproxy).ok();
    assert!(!run.stderr.contains("[WARNING]"), "{run}");
}

/// In a namespace of its own, where that can be had: 2.2.7 (Debian 12) ends itself with SIGTERM in the check
/// of a file with scripts, unless its parent's process id is 0.
#[track_caller]
pub(super) fn keepalived(file: &Path) {
    let Some(direct) = judge("keepalived", "the configuration of the recipe hot-spare") else {
        return;
    };
    let test = |mut command: Command| {
        command.args(["--config-test", "--use-file"]).arg(file);
        Run::of(command)
    };
    let run = if rustix::process::geteuid().is_root() {
        let mut own = Command::new("unshare");
        own.args(["--pid", "--fork"]).arg(direct.get_program());
        own.envs(
            direct
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        test(own)
    } else {
        test(direct)
    };
    assert!(run.code == 0 && run.stderr.is_empty(), "{run}");
}
