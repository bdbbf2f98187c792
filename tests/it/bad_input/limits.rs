//! Clients that take more than they may, beside honest ones: each is told which limit it has passed, and nobody else
//! notices anything.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::harness::Instance;
use crate::harness::python::{self, Workers};
use crate::harness::raw::{Raw, Reply, Say};
use crate::harness::resources::resident_kib;
use crate::harness::until_ok;

/// Where hostile clients come from; the honest ones are at 127.0.0.1.
const ELSEWHERE: &str = "127.0.0.2";

pub(super) const PATIENCE: Duration = Duration::from_mins(1);

const SOON: &str = "\
limits:
  connections: 60
  connections_by_address: 20
  handshake: 1s
  register: 2s
  frame: 1MiB
  calls: 16
  iterators: 10
  unread: 256KiB
  memory: 8MiB
  transaction: 4MiB
  transactions: 12MiB
  undos: 5
  keep_free: 0B
";

pub(super) fn started(limits: &str) -> Instance {
    let instance = Instance::made(&[]);
    start_with(&instance, limits);
    instance
}

/// Starts it with these limits; those that it has are the defaults.
pub(super) fn start_with(instance: &Instance, limits: &str) {
    let config = fs::read_to_string(instance.config()).expect("init wrote it");
    fs::write(instance.config(), format!("{config}\n{limits}")).expect("writing it");
    instance.run(&["check-config"]).ok();
    instance.start().ok();
}

/// How often a limit was passed, as Prometheus is told.
pub(super) fn passed(instance: &Instance, limit: &str) -> u64 {
    let metrics = instance.ask("/metrics");
    let name = format!("zeoraid_limits_passed_total{{limit=\"{limit}\"}} ");
    let count = metrics.lines().find_map(|line| line.strip_prefix(&name));
    count.map_or(0, |count| count.trim().parse().expect("a count"))
}

#[track_caller]
pub(super) fn wait_passed(instance: &Instance, limit: &str, times: u64) {
    until_ok(&format!("limits.{limit} to be passed"), PATIENCE, || {
        let now = passed(instance, limit);
        if now >= times {
            Ok(())
        } else {
            Err(format!("{now} times"))
        }
    });
}

pub(super) fn hostile(instance: &Instance) -> Raw {
    Raw::connect_from(ELSEWHERE, &instance.address)
        .greet()
        .register()
}

pub(super) fn begin(raw: &mut Raw, txn: i64) {
    let begin = vec![
        Say::Int(txn),
        Say::Bytes(b"hostile"),
        Say::Bytes(b""),
        Say::EmptyDict,
        Say::None,
        Say::Text(" "),
    ];
    raw.send_async("tpc_begin", begin);
}

pub(super) fn store(raw: &mut Raw, txn: i64, oid: u8, data: &[u8]) {
    let oid = [0x30, 0, 0, 0, 0, 0, 0, oid];
    let args = vec![
        Say::Bytes(&oid),
        Say::Bytes(&[0; 8]),
        Say::Bytes(data),
        Say::Int(txn),
    ];
    raw.send_async("storea", args);
}

/// Asks for the current revision of an object of these tests, and does not wait for it.
pub(super) fn ask(raw: &mut Raw, id: i64, oid: u8) {
    load(raw, id, [0x30, 0, 0, 0, 0, 0, 0, oid]);
}

pub(super) fn load(raw: &mut Raw, id: i64, oid: [u8; 8]) {
    let now = [0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    let args = vec![Say::Bytes(&oid), Say::Bytes(&now)];
    raw.send_call(id, false, "loadBefore", args);
}

#[track_caller]
pub(super) fn names(answer: &Reply, limit: &str) {
    assert!(answer.error().is_some(), "{answer:?}");
    assert!(answer.contains(&format!("limits.{limit}")), "{answer:?}");
}

#[test]
fn whoever_passes_a_limit_is_told_which_and_nobody_else_notices() {
    let instance = started(SOON);
    let pid = instance.pid().expect("a daemon runs");
    let mut workers = Workers::start(&instance.address, &instance.beside(""), false);
    workers.wait_for_more(2);
    let before = resident_kib(pid);

    // Connections: of one address, while there is room for others.
    let mut many: Vec<Raw> = (0..20).map(|_| hostile(&instance)).collect();
    let mut one_more = Raw::connect_from(ELSEWHERE, &instance.address).greet();
    let answer = one_more.call("register", vec![Say::Text("1"), Say::Bool(false)]);
    names(&answer, "connections_by_address");
    one_more.must_be_hung_up_on();
    python::run("features.py", &["plain_visit", &instance.address]).ok();
    assert_eq!(many[0].call("lastTransaction", vec![]).error(), None);
    drop(many);
    // And of all: from three addresses more.
    let mut many = Vec::new();
    let full = 'full: loop {
        for source in 3..=6 {
            let mut raw =
                Raw::connect_from(&format!("127.0.0.{source}"), &instance.address).greet();
            let answer = raw.call("register", vec![Say::Text("1"), Say::Bool(false)]);
            if answer.error().is_some() {
                break 'full answer;
            }
            many.push(raw);
        }
        assert!(many.len() <= 60, "there is no limit");
    };
    names(&full, "connections");
    drop(many);
    workers.wait_for_more(1);

    // Silence, before the encoding is chosen and before it has registered.
    let silent = Raw::connect_from(ELSEWHERE, &instance.address);
    let unregistered = Raw::connect_from(ELSEWHERE, &instance.address).greet();
    wait_passed(&instance, "handshake", 1);
    wait_passed(&instance, "register", 1);
    drop((silent, unregistered));

    // A message, iterators, transactions.
    let mut raw = hostile(&instance);
    let large = vec![7; 2 << 20];
    begin(&mut raw, 1);
    store(&mut raw, 1, 1, &large);
    names(&raw.call("vote", vec![Say::Int(1)]), "frame");
    for _ in 0..10 {
        let answer = raw.call("iterator_start", vec![Say::None, Say::None]);
        assert_eq!(answer.error(), None, "{answer:?}");
    }
    names(
        &raw.call("iterator_start", vec![Say::None, Say::None]),
        "iterators",
    );
    let part = &large[..900 << 10];
    begin(&mut raw, 2);
    for oid in 0..5 {
        store(&mut raw, 2, oid, part);
    }
    names(&raw.call("vote", vec![Say::Int(2)]), "transaction");
    begin(&mut raw, 3);
    for tid in 1..=6 {
        let tid = [0, 0, 0, 0, 0, 0, 0, tid];
        raw.send_async("undoa", vec![Say::Bytes(&tid), Say::Int(3)]);
    }
    names(&raw.call("vote", vec![Say::Int(3)]), "undos");
    drop(raw);

    // Answers that are not read.
    let mut raw = hostile(&instance);
    begin(&mut raw, 4);
    store(&mut raw, 4, 9, part);
    assert_eq!(raw.call("vote", vec![Say::Int(4)]).error(), None);
    assert_eq!(raw.call("tpc_finish", vec![Say::Int(4)]).error(), None);
    let mut lazy: Vec<Raw> = (0..15).map(|_| hostile(&instance)).collect();
    for raw in &mut lazy {
        for id in 0..60 {
            ask(raw, id, 9);
        }
    }
    wait_passed(&instance, "memory", 1);
    workers.wait_for_more(2);
    // All limits together; what that of memory does alone is in `readers`.
    let now = resident_kib(pid);
    assert!(now < before + 150 * 1024, "{now} KiB, {before} KiB before");
    drop((lazy, raw));

    workers.wait_for_more(1);
    let totals = workers.end();
    assert_eq!(totals.errors, 0, "{totals:?}");
    assert!(
        !instance.log().contains("was taken out"),
        "{}",
        instance.log()
    );
    for limit in [
        "connections",
        "frame",
        "iterators",
        "transaction",
        "undos",
        "memory",
    ] {
        let said = format!("limits.{limit}");
        assert!(
            instance.log().contains(&said),
            "{said} in\n{}",
            instance.log()
        );
    }
    instance.run(&["status"]).ok().prints("optimal");
    python::verify(&instance.given_back(), &workers.logs());
}

#[test]
fn whoever_fills_the_admin_socket_is_told_and_clients_do_not_notice() {
    let instance = started("limits: {admin_connections: 8}");
    let connect = || UnixStream::connect(instance.path("var/zeoraid.sock")).expect("it answers");
    let mut held: Vec<UnixStream> = (0..8).map(|_| connect()).collect();
    for (number, socket) in held.iter_mut().enumerate() {
        let begun = ["", "GET /v1/status", "POST /v1/shutdown HTTP/1.1\r\n"][number % 3];
        socket.write_all(begun.as_bytes()).expect("it reads");
    }
    let full = until_ok("there to be no room", PATIENCE, || {
        let run = instance.run(&["details"]);
        if run.code == 0 {
            Err(run.to_string())
        } else {
            Ok(run)
        }
    });
    assert!(full.stderr.contains("limits.admin_connections"), "{full}");
    python::run("features.py", &["plain_visit", &instance.address]).ok();
    drop(held);
    until_ok("there to be room again", PATIENCE, || {
        let run = instance.run(&["details"]);
        if run.code == 0 {
            Ok(())
        } else {
            Err(run.to_string())
        }
    });
    assert!(passed(&instance, "admin_connections") >= 1);
}
