//! TLS between Python's clients and the daemon: who comes in, who does not and what the log says of it,
//! and new certificates while clients work.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::harness::Instance;
use crate::harness::certificates::{Authority, expired, self_signed};
use crate::harness::ports::free_port;
use crate::harness::raw::Raw;
use crate::harness::{python, until, until_ok};

/// An instance whose clients come by TLS over TCP, or without over TCP and a Unix socket. (Python's client
/// does not speak TLS over a Unix socket.)
struct Secure {
    instance: Instance,
    /// Of certificates: `server`, `client` (listed), `signed` (by a listed authority), `late` (listed, but
    /// of years ago), `stranger`.
    folder: PathBuf,
    tcp: String,
    unix: String,
}

const PATIENCE: Duration = Duration::from_secs(30);

impl Secure {
    fn made(encoding: &str) -> Secure {
        let instance = Instance::made(&[&format!("encoding={encoding}")]);
        let folder = instance.beside("tls");
        fs::create_dir_all(folder.join("clients")).expect("a folder for certificates");
        self_signed(&folder, "server");
        for (name, listed) in [("client", true), ("stranger", false)] {
            let (certificate, _) = self_signed(&folder, name);
            if listed {
                list(&folder, &certificate);
            }
        }
        list(&folder, &expired(&folder, "late").0);
        Authority::new(&folder, "authority").issue(&folder, "signed");
        list(&folder, &folder.join("authority.pem"));

        let tcp = format!("127.0.0.1:{}", free_port());
        let unix = instance.beside("zeo.sock");
        let tls = format!(
            "tls: {{certificate: {0}/server.pem, key: {0}/server.key, authenticate: {0}/clients}}",
            folder.display()
        );
        let listen = format!(
            "listen:\n  - {}\n  - {{address: \"{tcp}\", {tls}}}\n  - {{unix: {}, mode: \"0600\"}}",
            instance.address,
            unix.display()
        );
        let config = fs::read_to_string(instance.config()).expect("init wrote it");
        let old = config.lines().find(|line| line.starts_with("listen:"));
        let config = config.replace(old.expect("a line"), &listen);
        fs::write(instance.config(), config).expect("writing the configuration");
        Secure {
            folder,
            tcp,
            unix: format!("unix:{}", unix.display()),
            instance,
        }
    }

    fn started(encoding: &str) -> Secure {
        let secure = Secure::made(encoding);
        secure.instance.run(&["check-config"]).ok();
        secure.instance.start().ok();
        secure
    }

    /// As a Python client writes an address when it shows this certificate.
    fn shown(&self, name: &str, address: &str) -> String {
        format!("tls={}/{name};{address}", self.folder.display())
    }

    #[track_caller]
    fn visits(&self, name: &str) {
        let address = self.shown(name, &self.tcp);
        python::run("features.py", &["plain_visit", &address]).ok();
    }

    /// This one is refused, and for this reason, of which the log has not spoken yet. (What it has spoken of
    /// it passes over for a while.)
    #[track_caller]
    fn refuses(&self, name: &str, reason: &str) {
        let lines = || {
            let log = self.instance.log();
            let refusals = log.lines().filter(|l| l.contains("no TLS with a client"));
            refusals.filter(|l| l.contains(reason)).count()
        };
        assert_eq!(
            lines(),
            0,
            "of {reason:?} already in\n{}",
            self.instance.log()
        );
        is_refused(&self.shown(name, &self.tcp));
        until_ok(&format!("a refusal for {reason:?}"), PATIENCE, || {
            if lines() > 0 {
                Ok(())
            } else {
                Err(self.instance.log())
            }
        });
    }

    #[track_caller]
    fn log_says(&self, part: &str) {
        until_ok(&format!("the log to say {part:?}"), PATIENCE, || {
            let log = self.instance.log();
            if log.contains(part) { Ok(()) } else { Err(log) }
        });
    }
}

#[track_caller]
fn is_refused(address: &str) {
    python::run("options.py", &["refused", address]).ok();
}

fn list(folder: &Path, certificate: &Path) {
    let name = certificate.file_name().expect("a file");
    fs::copy(certificate, folder.join("clients").join(name)).expect("copying it");
}

#[test]
fn clients_that_are_known_do_everything_over_tls() {
    for encoding in ["Z5", "M5"] {
        let secure = Secure::started(encoding);
        let mode = fs::metadata(secure.instance.beside("zeo.sock")).expect("it listens");
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
        let own = secure.shown("client", &secure.tcp);
        let by_socket = secure.unix.clone();
        let signed = secure.shown("signed", &secure.tcp);
        let plain = secure.instance.address.clone();
        for (address, visit) in [&own, &by_socket, &signed, &plain].into_iter().zip(1..) {
            let run = python::run("features.py", &["plain_visit", address]).ok();
            assert_eq!(run.stdout, format!("visits {visit}\n"), "{address}");
        }
        for feature in ["large", "hammer_reads", "conflicts"] {
            python::run("features.py", &[feature, &own]).ok();
        }
        python::run("features.py", &["order", &signed, "2", "60"]).ok();
        python::run("options.py", &["ssl_section", &own]).ok();
        secure.instance.run(&["status"]).ok().prints("optimal");
        python::verify(&secure.instance.given_back(), &[]);
    }
}

#[test]
fn blobs_go_over_tls() {
    let secure = Secure::made("Z5");
    secure.instance.start().ok();
    let address = secure.shown("client", &secure.tcp);
    python::run("blob_features.py", &["blobs", &address]).ok();
    python::verify_with(&secure.instance.given_back(), &[], &["--blobs"]);
}

#[test]
fn who_is_not_known_is_refused_and_the_log_says_why() {
    let secure = Secure::started("Z5");
    let (tcp, plain) = (&secure.tcp, secure.instance.address.as_str());
    for (address, reason) in [
        (
            secure.shown("nobody", tcp),
            "it shows no certificate, and `authenticate` asks for one",
        ),
        (
            secure.shown("stranger", tcp),
            "is not listed itself in `authenticate`",
        ),
        (secure.shown("late", tcp), "its certificate has expired"),
        // One that is let in, and does not trust this server.
        (
            secure.shown("client:stranger", tcp),
            "does it take this server's certificate, and the name in it?",
        ),
        // Both mistakes about where TLS is spoken.
        (
            tcp.clone(),
            "it did not speak TLS; a client without `ssl` waits like this",
        ),
        (
            secure.shown("client", plain),
            "the other side speaks TLS, which is not spoken at this address",
        ),
    ] {
        is_refused(&address);
        secure.log_says(reason);
    }
    secure.visits("client");
    python::run("features.py", &["plain_visit", plain]).ok();
    // They tried again and again, and the log is not full of it.
    let log = secure.instance.log();
    let lines = log.matches("no TLS with a client").count();
    assert!(lines < 20, "{lines} lines:\n{log}");
}

/// Who opens connections to the address with TLS, and says nothing or nonsense.
#[test]
fn silence_and_nonsense_hold_nobody_up() {
    let secure = Secure::started("Z5");
    let connect = || TcpStream::connect(&secure.tcp).expect("it listens");
    let silent: Vec<TcpStream> = (0..50).map(|_| connect()).collect();
    let mut half = connect();
    half.write_all(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03")
        .expect("it reads");
    secure.visits("client");
    for nonsense in [
        &b"\0\0\0\x02Z5"[..],
        b"GET / HTTP/1.1\r\nHost: example\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.7\r\n",
        &[0xff; 5000],
        // A record of TLS that is none.
        b"\x16\x03\x01\x40\x01aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    ] {
        let mut stream = connect();
        stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
        stream.write_all(nonsense).expect("it reads");
        let mut said = Vec::new();
        // By an alert and an end, or by a reset, where not all was read.
        let ended = stream.read_to_end(&mut said);
        let is_timeout = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
        assert!(!ended.as_ref().is_err_and(is_timeout), "{nonsense:?}");
        assert!(said.len() < 100, "{said:?}");
    }
    secure.log_says("what it says is no TLS");
    secure.visits("signed");
    // They are still there; and the end does not wait for them.
    drop(secure.instance.stop().ok());
    drop((silent, half));
}

/// Who says nothing, stops in the middle of the handshake, or says nothing after it, has as long as
/// `limits.handshake` says: by default longer than is waited here.
#[test]
fn who_takes_too_long_for_tls_is_hung_up_on() {
    let secure = Secure::made("Z5");
    let instance = &secure.instance;
    let config = fs::read_to_string(instance.config()).expect("it was written");
    let limited = format!("{config}\nlimits: {{handshake: 4s}}\n");
    fs::write(instance.config(), limited).expect("writing the configuration");
    instance.start().ok();
    let shown = secure.shown("client", &secure.tcp);
    let mut late = python::Script::spawn("options.py", &["silent_after_tls", &shown]);
    let silent = Raw::connect(&secure.tcp);
    let mut half = Raw::connect(&secure.tcp);
    half.send(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03");
    secure.visits("client");
    silent.must_be_hung_up_on();
    half.must_be_hung_up_on();
    late.wait_printed("the server speaks");
    late.end(PATIENCE).ok().prints("it hung up");
    let passed = "zeoraid_limits_passed_total{limit=\"handshake\"} 3\n";
    let metrics = instance.ask("/metrics");
    assert!(metrics.contains(passed), "no {passed:?} in\n{metrics}");
    secure.visits("client");
}

#[test]
fn certificates_are_changed_while_clients_work() {
    let secure = Secure::started("Z5");
    let (instance, folder) = (&secure.instance, &secure.folder);
    let mut works = python::Script::spawn(
        "features.py",
        &["idle_visits", &secure.shown("client", &secure.tcp)],
    );
    works.wait_printed("ready");
    instance.run(&["reload"]).ok();

    // A new one for the server, which its key does not go with yet.
    let old = fs::read(folder.join("server.key")).expect("it is there");
    self_signed(folder, "server");
    let new = fs::read(folder.join("server.key")).expect("it is there");
    fs::write(folder.join("server.key"), old).expect("writing a key");
    let run = instance
        .run(&["reload"])
        .ended(1)
        .says("does not go with the certificate in");
    assert!(run.stderr.contains("check-config"), "{run}");
    instance
        .run(&["check-config"])
        .ended(1)
        .prints("listen.2.tls.key: the key in ");
    // The old one is in force; whoever has the new one in his list does not take it.
    secure.refuses("client", "does it take this server's certificate");
    fs::write(folder.join("server.key"), new).expect("writing a key");
    let read_again = format!("certificates of {}", secure.tcp);
    instance.run(&["reload"]).ok().prints(&read_again);
    secure.visits("client");

    // And a client less, and one more, whose authority is not known.
    fs::remove_file(folder.join("clients/client.pem")).expect("it was there");
    let (newcomer, _) = Authority::new(folder, "foreign").issue(folder, "newcomer");
    list(folder, &newcomer);
    instance.run(&["reload", "--dry-run"]).ok();
    secure.refuses("newcomer", "nor signed by one that is");
    instance.run(&["reload"]).ok().prints(&read_again);
    secure.visits("newcomer");
    secure.visits("signed");
    secure.refuses("client", "is not listed itself in `authenticate`");
    // Who is there stays.
    assert!(works.runs());
    works.end(PATIENCE).ok();
    secure.visits("newcomer");
}

#[test]
fn files_that_cannot_be_used_are_told_with_their_line() {
    let secure = Secure::made("Z5");
    let (instance, folder) = (&secure.instance, &secure.folder);
    let key = folder.join("server.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("the key is ours");
    let line = fs::read_to_string(instance.config()).expect("it was written");
    let line = line.lines().position(|line| line.contains(&secure.tcp));
    let line = line.expect("the address is there") + 1;
    let says = format!(
        "etc/zeoraid.yaml:{line}:1: listen.2.tls.key: the private key in {} is open to everybody on this \
         machine (mode 0644)",
        key.display()
    );
    let chmod = format!("`chmod o-rwx {}`", key.display());
    instance
        .run(&["check-config"])
        .ended(1)
        .prints(&says)
        .prints(&chmod);
    let run = instance.start().ended(1).says("is open to everybody");
    assert!(run.stderr.contains(&chmod), "{run}");
    until("the daemon to be gone", PATIENCE, || {
        instance.pid().is_none()
    });

    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).expect("the key is ours");
    let config = fs::read_to_string(instance.config()).expect("it was written");
    let broken = config.replace("/server.pem", "/gone.pem");
    fs::write(instance.config(), broken).expect("writing the configuration");
    let gone = format!(
        "listen.2.tls.certificate: {}/gone.pem does not exist",
        folder.display()
    );
    instance.run(&["check-config"]).ended(1).prints(&gone);
    instance.start().ended(2).says(&gone);

    fs::write(instance.config(), config).expect("writing the configuration");
    instance.start().ok();
    secure.visits("client");
}
