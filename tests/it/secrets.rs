//! Nothing secret is in what a run leaves behind or prints, and what must be a secret is asked to be one.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::harness::certificates::self_signed;
use crate::harness::instance::Run;
use crate::harness::ports::free_port;
use crate::harness::{Instance, python, until};

const TOKEN: &str = "planted-3c9a5f71e2-token-of-some-length";
const WRONG: &str = "mistyped-8d0b6e42f9-token-of-some-length";

fn private(path: &Path, content: &str) {
    fs::write(path, content).expect("writing it");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("it is ours");
}

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.is_symlink() {
            files_below(&path, found);
        } else if path.is_file() {
            found.push(path);
        }
    }
}

fn contains(bytes: &[u8], secret: &str) -> bool {
    bytes
        .windows(secret.len())
        .any(|part| part == secret.as_bytes())
}

#[test]
fn no_secret_is_in_what_a_run_leaves_behind_or_prints() {
    let instance = Instance::made(&["log_level=trace"]);
    let port = free_port();
    let (tls, url) = (instance.beside("tls"), format!("http://127.0.0.1:{port}"));
    fs::create_dir_all(&tls).expect("a folder");
    let (certificate, key) = self_signed(&tls, "server");
    let of_key = fs::read_to_string(&key).expect("a key");
    let of_key = of_key.lines().nth(1).expect("the key itself").to_owned();
    private(&instance.path("etc/token"), &format!("{TOKEN}\n"));
    let wrong = instance.beside("wrong-token");
    private(&wrong, WRONG);
    instance.configure(
        "admin:",
        &format!("  address: 127.0.0.1:{port}\n  token_file: etc/token"),
    );
    let config = fs::read_to_string(instance.config()).expect("init wrote it");
    let old = config
        .lines()
        .find(|line| line.starts_with("listen:"))
        .expect("a line");
    let listen = format!(
        "listen:\n  - {}\n  - address: 127.0.0.1:{}\n    tls: {{certificate: {c}, key: {}, authenticate: {c}}}",
        instance.address,
        free_port(),
        key.display(),
        c = certificate.display(),
    );
    fs::write(instance.config(), config.replace(old, &listen)).expect("writing it");

    let mut printed: Vec<Run> = Vec::new();
    printed.push(instance.run(&["check-config"]).ok());
    printed.push(instance.run(&["-v", "start"]).ok());
    python::run("features.py", &["plain_visit", &instance.address]).ok();
    let token = instance.path("etc/token");
    let token = token.to_str().expect("a plain path");
    let wrong = wrong.to_str().expect("a plain path");
    let over_tcp = |token: &[&str], rest: &[&str]| {
        let mut all = vec!["--admin", url.as_str()];
        all.extend(token);
        all.extend(rest);
        instance.run_bare(&all)
    };
    printed.push(over_tcp(&["--token-file", token], &["-v", "details"]).ok());
    printed.push(over_tcp(&["--token-file", token], &["-v", "details", "-o", "json"]).ok());
    for (token, command) in [
        (vec!["--token-file", wrong], "details"),
        (vec!["--token-file", wrong], "reload"),
        (vec![], "details"),
    ] {
        let refused = over_tcp(&token, &["-v", command]);
        assert_ne!(refused.code, 0, "{refused}");
        printed.push(refused);
    }
    for command in [
        &["show"][..],
        &["show", "-o", "json"],
        &["details", "-o", "yaml"],
        &["reload"],
        &["logtail"],
        &["no-such-command"],
    ] {
        printed.push(instance.run(command));
    }
    let pid = instance.pid().expect("a daemon runs");
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    instance.stop().ok();

    let secrets = [TOKEN, WRONG, of_key.as_str()];
    for secret in secrets {
        assert!(!contains(&command, secret), "in the command line");
        for run in &printed {
            let all = run.to_string();
            assert!(!contains(all.as_bytes(), secret), "{secret} in {run}");
        }
    }
    let mut files = Vec::new();
    files_below(&instance.beside(""), &mut files);
    assert!(files.len() > 10, "{files:?}");
    for path in files {
        let bytes = fs::read(&path).expect("it can be read");
        let mode = fs::metadata(&path)
            .expect("it is there")
            .permissions()
            .mode();
        for secret in secrets {
            if contains(&bytes, secret) {
                let is_its = [token, wrong, key.to_str().expect("a plain path")]
                    .contains(&path.to_str().expect("a plain path"));
                assert!(is_its, "{secret} in {}", path.display());
                assert_eq!(mode & 0o077, 0, "{}", path.display());
            }
        }
    }
    assert!(
        instance.log().contains("admin request refused"),
        "it was logged"
    );
}

/// Who has no token writes no log full; and a restart looks before it stops what serves.
#[test]
fn refused_requests_are_logged_once_in_a_while_and_a_restart_looks_first() {
    let instance = Instance::made(&[]);
    let port = free_port();
    private(&instance.path("etc/token"), &format!("{TOKEN}\n"));
    instance.configure(
        "admin:",
        &format!("  address: 127.0.0.1:{port}\n  token_file: etc/token"),
    );
    instance.start().ok();
    let wrong = instance.beside("wrong-token");
    private(&wrong, WRONG);
    let (url, wrong) = (
        format!("http://127.0.0.1:{port}"),
        wrong.display().to_string(),
    );
    for _ in 0..5 {
        let run = instance.run(&["--admin", &url, "--token-file", &wrong, "status"]);
        assert!(run.stdout.contains("the token is wrong"), "{run}");
    }
    let log = instance.log();
    assert_eq!(log.matches("admin request refused").count(), 1, "{log}");

    let pid = instance.pid();
    private(&instance.path("etc/token"), "abcde\n");
    instance.run(&["check-config"]).ended(1);
    instance.run(&["restart"]).ended(2).says("is too short");
    assert_eq!(instance.pid(), pid, "it serves on");
    assert_eq!(instance.details()["serving"], true);
}

#[test]
fn what_must_be_a_secret_is_asked_to_be_one_before_it_is_used() {
    let instance = Instance::made(&[]);
    let port = free_port();
    private(&instance.path("etc/token"), TOKEN);
    instance.configure(
        "admin:",
        &format!("  address: 127.0.0.1:{port}\n  token_file: etc/token"),
    );
    instance.run(&["check-config"]).ok();
    let open = |path: &str, mode| {
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(instance.path(path), mode).expect("it is ours");
    };
    open("etc/token", 0o644);
    instance
        .run(&["check-config"])
        .ended(1)
        .prints("etc/token can be read by others (mode 0644)")
        .prints("chmod 600 etc/token");
    instance
        .run(&["start"])
        .ended(1)
        .says("can be read by others");
    assert_eq!(instance.pid(), None);
    open("etc/token", 0o600);
    // Where everybody can write, it starts, and says so.
    open("etc/zeoraid.yaml", 0o666);
    open("var", 0o777);
    instance
        .run(&["check-config"])
        .ok()
        .prints("everybody on this machine can write to etc/zeoraid.yaml")
        .prints("can put other files into var");
    instance.start().ok();
    until("the log to say so", Duration::from_secs(20), || {
        let log = instance.log();
        log.contains("can write to etc/zeoraid.yaml") && log.contains("put other files into var")
    });
    let mode = |path: &str| {
        let found = fs::metadata(instance.path(path)).expect("it is there");
        found.permissions().mode() & 0o777
    };
    assert_eq!(mode("var/zeoraid.sock"), 0o660);
    assert_eq!(mode("var/main.membership.json") & 0o077, 0);
}
