//! The daemon as a process: signals, pid file, systemd, users, logs.

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixDatagram;

use rustix::process::Signal;

use crate::harness::instance::{command, signal};
use crate::harness::{Instance, python, until, until_ok};

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

/// `fg` with these variables, beside which the test goes on.
fn foreground(instance: &Instance, variables: &[(&str, &str)]) -> std::process::Child {
    let mut command = command();
    command.arg("-C").arg(instance.root()).arg("fg");
    command.stdin(std::process::Stdio::null());
    let log = std::fs::File::create(instance.beside("fg.log")).expect("a file for its log");
    command.stderr(log);
    for (name, value) in variables {
        command.env(name, value);
    }
    command.spawn().expect("the program starts")
}

/// Waits until it has ended by itself; the exit code.
fn ended(child: &mut std::process::Child) -> Option<i32> {
    let status = until_ok("the daemon to end", PATIENCE, || match child.try_wait() {
        Ok(Some(status)) => Ok(status),
        Ok(None) => Err("it runs".to_owned()),
        Err(error) => Err(error.to_string()),
    });
    status.code()
}

/// What is said to systemd's socket, until something contains this.
fn hear(socket: &UnixDatagram, part: &str) -> String {
    let mut all = String::new();
    let end = std::time::Instant::now() + PATIENCE;
    while std::time::Instant::now() < end {
        let mut bytes = [0; 4096];
        if let Ok(count) = socket.recv(&mut bytes) {
            let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
            let found = text.contains(part);
            all += &text;
            all += "\n";
            if found {
                return all;
            }
        }
    }
    panic!("waited for {part:?}, heard:\n{all}");
}

#[test]
fn systemd_hears_that_it_is_ready_lives_reloads_and_ends() {
    let instance = Instance::made(&[]);
    let path = instance.beside("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket
        .set_read_timeout(Some(std::time::Duration::from_millis(200)))
        .expect("a socket can have a timeout");
    let path = path.to_str().expect("a plain path");
    let variables = [("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", "200000")];
    let mut daemon = foreground(&instance, &variables);
    let heard = hear(&socket, "READY=1");
    assert!(heard.contains("STATUS="), "{heard}");
    hear(&socket, "WATCHDOG=1");
    hear(&socket, "WATCHDOG=1");
    instance.run(&["kill", "HUP"]).ok();
    let heard = hear(&socket, "RELOADING=1");
    assert!(heard.contains("MONOTONIC_USEC="), "{heard}");
    hear(&socket, "READY=1");
    // A status that changes is told.
    instance.run(&["disable", "copy2", "--yes"]).ok();
    hear(&socket, "STATUS=main: degraded");
    // One that hangs is not said to live.
    let pid = i32::try_from(daemon.id()).expect("a pid");
    signal(pid, Signal::STOP);
    while socket.recv(&mut [0; 4096]).is_ok() {}
    assert!(socket.recv(&mut [0; 4096]).is_err(), "it is silent");
    signal(pid, Signal::CONT);
    hear(&socket, "WATCHDOG=1");
    signal(pid, Signal::TERM);
    hear(&socket, "STOPPING=1");
    assert_eq!(ended(&mut daemon), Some(0));
}

#[test]
fn the_log_goes_where_it_is_said_to() {
    let instance = Instance::made(&[]);
    // To the file, also in the foreground.
    let variables = [
        ("ZEORAID_LOG_TARGET", "file"),
        ("ZEORAID_LOG_FORMAT", "json"),
    ];
    let mut daemon = foreground(&instance, &variables);
    until("the log file", PATIENCE, || {
        instance.log().contains("\"started\"")
    });
    let log = instance.log();
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
        assert!(
            line["message"].is_string() && line["level"].is_string(),
            "{line}"
        );
    }
    instance.run(&["kill", "INT"]).ok();
    assert_eq!(ended(&mut daemon), Some(0));
    let shown = std::fs::read_to_string(instance.beside("fg.log")).expect("it was made");
    assert_eq!(shown, "", "standard error stays empty");

    if !std::path::Path::new("/run/systemd/journal/socket").exists() {
        // Where there is no journal, that is said; and by `start`, too.
        let text = std::fs::read_to_string(instance.config()).expect("init wrote it");
        let text = text.replace("level: info", "level: info\n  target: journal");
        std::fs::write(instance.config(), text).expect("writing the configuration");
        instance
            .start()
            .ended(1)
            .says("could not reach the journal at /run/systemd/journal/socket");
    }
}

/// Tests that become somebody else need root, and a user to become.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("NOT TESTED: another user can be become by root alone");
    }
    root
}

/// The instance with this at the top of its configuration.
fn with_setting(instance: &Instance, line: &str) {
    let text = std::fs::read_to_string(instance.config()).expect("init wrote it");
    std::fs::write(instance.config(), format!("{line}\n{text}"))
        .expect("writing the configuration");
}

fn owner(path: &std::path::Path) -> u32 {
    let metadata =
        std::fs::metadata(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    metadata.uid()
}

/// The ids of `nobody`, which every system has.
fn nobody() -> (u32, u32) {
    let users = std::fs::read_to_string("/etc/passwd").expect("a list of users");
    let line = users.lines().find(|line| line.starts_with("nobody:"));
    let fields: Vec<&str> = line.expect("there is nobody").split(':').collect();
    (
        fields[2].parse().expect("a number"),
        fields[3].parse().expect("a number"),
    )
}

#[test]
fn root_starts_it_as_the_effective_user() {
    if !is_root() {
        return;
    }
    let instance = Instance::made(&[]);
    with_setting(&instance, "effective_user: nobody\numask: \"027\"");
    // The folder of a test is its own; whoever runs the daemon must get there.
    let open = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    std::fs::set_permissions(instance.beside(""), open).expect("our folder");
    // What is there and root's is not taken away from root: that is said, with what helps.
    instance
        .start()
        .ended(1)
        .says("may not write into")
        .says("chown -R nobody: ");
    let (user, group) = nobody();
    for folder in ["var", "var/log"] {
        std::os::unix::fs::chown(instance.path(folder), Some(user), Some(group))
            .expect("root can give it away");
    }
    instance.start().ok();
    let pid = instance.pid().expect("it runs");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let ids = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        line.unwrap_or_default()
            .split_whitespace()
            .skip(1)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(ids("Uid:"), vec![user.to_string(); 4], "{status}");
    assert_eq!(ids("Gid:"), vec![group.to_string(); 4], "{status}");
    assert!(!ids("Groups:").contains(&"0".to_owned()), "{status}");
    for file in [
        "var/zeoraid.pid",
        "var/zeoraid.sock",
        "var/log/zeoraid.log",
        "var/copy1/Data.fs",
        "var/main.membership.json",
        "var/tmp",
    ] {
        assert_eq!(owner(&instance.path(file)), user, "{file}");
    }
    let mode = std::fs::metadata(instance.path("var/copy1/Data.fs"))
        .expect("a file")
        .mode();
    assert_eq!(mode & 0o027, 0, "{mode:o}");
    instance.run(&["status"]).ok().prints("optimal");
    instance.run(&["restart"]).ok();
    instance.stop().ok();

    let mut daemon = foreground(&instance, &[]);
    until("the daemon to serve", PATIENCE, || {
        instance.run(&["status"]).code == 0
    });
    assert_eq!(owner(&instance.path("var/zeoraid.sock")), user);
    instance.stop().ok();
    assert_eq!(ended(&mut daemon), Some(0));
}

#[test]
fn whoever_is_not_root_cannot_become_somebody_else() {
    let instance = Instance::made(&[]);
    with_setting(&instance, "effective_user: there-is-nobody");
    instance
        .start()
        .ended(1)
        .says("there is no user there-is-nobody (`effective_user`)");
    if !is_root() {
        let instance = Instance::made(&[]);
        with_setting(&instance, "effective_user: nobody");
        instance
            .start()
            .ended(1)
            .says("only root can become the user nobody");
        return;
    }
    let instance = Instance::made(&[]);
    with_setting(&instance, "effective_user: daemon");
    let open = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    std::fs::set_permissions(instance.beside(""), open).expect("our folder");
    let (user, group) = nobody();
    // The binary may lie where nobody else gets to: a copy is used. A process makes it that has ended then:
    // one that another test starts while we write would keep it from being run.
    let binary = instance.beside("zeoraidctl");
    let copied = std::process::Command::new("cp")
        .args([
            std::path::Path::new(crate::harness::instance::ZEORAIDCTL),
            &binary,
        ])
        .status();
    assert!(copied.expect("cp is there").success(), "room for a copy");
    let mut command = std::process::Command::new(&binary);
    std::os::unix::process::CommandExt::uid(&mut command, user);
    std::os::unix::process::CommandExt::gid(&mut command, group);
    command
        .arg("-C")
        .arg(instance.root())
        .arg("start")
        .current_dir("/");
    crate::harness::instance::Run::of(command)
        .ended(1)
        .says("only root can become the user daemon (`effective_user`); this is nobody")
        .says("sudo -u daemon zeoraidctl start");
}

#[test]
fn more_open_files_are_allowed_where_the_system_lets_it() {
    let instance = Instance::started(&[]);
    let pid = instance.pid().expect("it runs");
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let fields: Vec<&str> = line.expect("a limit").split_whitespace().collect();
    assert_eq!(
        fields[3], fields[4],
        "the soft limit is the hard one: {line:?}"
    );
    instance.stop().ok();
    // Too few for the connections that are configured: the log says what to raise.
    start_with_open_files(&instance, 256);
    assert!(
        instance.log().contains("raise LimitNOFILE"),
        "{}",
        instance.log()
    );
}

fn start_with_open_files(instance: &Instance, most: usize) {
    let mut command = std::process::Command::new("sh");
    let script = format!("ulimit -n {most}; exec \"$@\"");
    command.arg("-c").arg(script).arg("sh");
    command.arg(crate::harness::instance::ZEORAIDCTL);
    command.arg("-C").arg(instance.root()).arg("start");
    crate::harness::instance::Run::of(command).ok();
}

/// In one transaction, and to a member that has missed it.
#[test]
fn a_thousand_blobs_need_few_open_files() {
    let instance = Instance::started(&[]);
    instance.stop().ok();
    start_with_open_files(&instance, 256);
    instance.run(&["disable", "copy2", "--yes"]).ok();
    python::run(
        "blob_features.py",
        &["many_blobs", &instance.address, "1000"],
    )
    .ok();
    // How long that takes is the disk's to say: what cannot be copied in time while clients wait is copied before.
    instance.run(&["recover", "copy2", "--detach"]).ok();
    instance.wait_optimal();
    python::verify_with(&instance.given_back(), &[], &["--blobs"]);
}
