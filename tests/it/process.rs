//! The daemon as a process: signals, pid file, systemd, users, logs.

use crate::harness::{Instance, until};

const PATIENCE: std::time::Duration = std::time::Duration::from_mins(1);

#[test]
fn kill_sends_signals_by_name_and_number() {
    let instance = Instance::started(&[]);
    let pid = instance.pid();
    let text = std::fs::read_to_string(instance.config()).expect("init wrote it");
    std::fs::write(
        instance.config(),
        text.replace("level: info", "level: debug"),
    )
    .expect("writing the configuration");
    instance.run(&["kill", "HUP"]).ok().says("SIGHUP was sent");
    until("the reload", PATIENCE, || {
        instance
            .run(&["show"])
            .stdout
            .lines()
            .any(|line| line.contains("log.level") && line.contains("debug"))
    });
    std::fs::rename(
        instance.path("var/log/zeoraid.log"),
        instance.path("var/log/zeoraid.log.1"),
    )
    .expect("the log can be renamed");
    instance.run(&["kill", "sigusr2"]).ok();
    until("a new log file", PATIENCE, || {
        instance.path("var/log/zeoraid.log").exists()
    });
    assert_eq!(instance.pid(), pid, "it goes on");
    instance.run(&["kill", "99"]).ended(2).says("no signal 99");
    instance.run(&["kill", "NO"]).ended(2).says("or a number");
    instance.run(&["kill"]).ok().says("SIGTERM was sent");
    until("its end", PATIENCE, || instance.pid().is_none());
    assert!(
        instance.log().contains("graceful=true"),
        "{}",
        instance.log()
    );
    instance
        .run(&["kill"])
        .ended(1)
        .says("no daemon runs; nobody was signalled");
}

#[test]
fn a_pid_that_another_program_has_now_is_not_signalled() {
    let instance = Instance::started(&[]);
    instance.kill9();
    let mut other = std::process::Command::new("sleep")
        .arg("600")
        .spawn()
        .expect("sleep is everywhere");
    std::fs::write(
        instance.path("var/zeoraid.pid"),
        format!("{}\n", other.id()),
    )
    .expect("the pid file can be written");
    instance
        .run(&["kill", "KILL"])
        .ended(1)
        .says("no daemon runs");
    assert!(
        other.try_wait().expect("it is our child").is_none(),
        "it lives"
    );
    drop(other.kill());
    drop(other.wait());
    instance.start().ok();
}
