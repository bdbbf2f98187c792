//! Clients that send nonsense. They are refused, mostly by hanging up; everybody else is served as before.

use std::time::Duration;

use crate::harness::Instance;
use crate::harness::instance::signal;
use crate::harness::python::{self, Workers};
use crate::harness::raw::{Raw, Say, pickle};
use crate::harness::resources::resident_kib;

/// One kind of nonsense, told to a connection that has registered or has not.
pub(crate) struct Nonsense {
    pub(crate) name: &'static str,
    registered: bool,
    bytes: Vec<u8>,
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("frames of tests are small");
    [&length.to_be_bytes(), payload].concat()
}

fn call(name: &str, args: Vec<Say<'_>>) -> Vec<u8> {
    frame(&pickle(&Say::Tuple(vec![
        Say::Int(7),
        Say::Bool(false),
        Say::Text(name),
        Say::Tuple(args),
    ])))
}

/// A call whose arguments are these opcodes.
fn opcodes(opcodes: &[u8]) -> Vec<u8> {
    call("loadBefore", vec![Say::Opcodes(opcodes)])
}

/// Each level holds the one below twice: 2^64 values, where somebody counts them out.
fn bomb() -> Vec<u8> {
    let mut bomb = b"]q\0".to_vec();
    for level in 1..=64_u8 {
        // Drops what it was made of, which the memo keeps.
        bomb.extend([
            b'0',
            b'(',
            b'h',
            level - 1,
            b'h',
            level - 1,
            b't',
            b'q',
            level,
        ]);
    }
    bomb
}

pub(crate) fn nonsense() -> Vec<Nonsense> {
    let mut all = Vec::new();
    let mut add = |name, registered, bytes| {
        all.push(Nonsense {
            name,
            registered,
            bytes,
        });
    };
    for registered in [false, true] {
        add(
            "a frame of 4 GiB",
            registered,
            [&[0xff; 4][..], &[0; 4096]].concat(),
        );
        add(
            "a frame of 2 GiB less a byte",
            registered,
            [&[0x7f, 0xff, 0xff, 0xff][..], &[0; 64]].concat(),
        );
        add("an empty frame", registered, frame(b""));
        add("random bytes in a frame", registered, frame(&[0xa7; 1000]));
        add(
            "text in a frame",
            registered,
            frame(b"GET / HTTP/1.1\r\nHost: zeo\r\n\r\n"),
        );
        add(
            "text without a frame",
            registered,
            b"GET / HTTP/1.1\r\nHost: zeo\r\n\r\n".to_vec(),
        );
        add(
            "a method that nobody knows",
            registered,
            call("no_such_method", vec![]),
        );
        add("a private method", registered, call("__class__", vec![]));
        add("not a tuple", registered, frame(&pickle(&Say::Int(1))));
        add(
            "a tuple too short",
            registered,
            frame(&pickle(&Say::Tuple(vec![Say::Int(1)]))),
        );
        add(
            "no arguments where two are due",
            registered,
            call("loadBefore", vec![]),
        );
        add(
            "arguments of the wrong kind",
            registered,
            call("loadBefore", vec![Say::Text("x"), Say::None]),
        );
        add(
            "an oid of seven bytes",
            registered,
            call(
                "loadBefore",
                vec![Say::Bytes(b"1234567"), Say::Bytes(b"12345678")],
            ),
        );
        add(
            "brackets a million deep",
            registered,
            opcodes(&[b"(".repeat(1_000_000), b"t".repeat(1_000_000)].concat()),
        );
        add(
            "lists within lists",
            registered,
            opcodes(&b"](".repeat(500_000)),
        );
        add("a bomb of shared tuples", registered, opcodes(&bomb()));
        add(
            "a string of 2 GiB that is not there",
            registered,
            opcodes(b"T\xff\xff\xff\x7fabc"),
        );
        add(
            "bytes of 2^62 that are not there",
            registered,
            opcodes(b"\x8e\0\0\0\0\0\0\0\x40abc"),
        );
        add(
            "a long of 2^31 digits",
            registered,
            opcodes(b"\x8b\xff\xff\xff\x7f1"),
        );
        add(
            "a memo index of 2^32",
            registered,
            opcodes(b"Nr\xff\xff\xff\xff"),
        );
        add(
            "a global that would run something",
            registered,
            opcodes(b"cos\nsystem\n(X\x04\0\0\0trueulR."),
        );
        add("a persistent id", registered, opcodes(b"X\x01\0\0\0aQ"));
        add(
            "a pickle that stops in the middle",
            registered,
            frame(&pickle(&Say::Text("half"))[..5]),
        );
        add(
            "more after the pickle's end",
            registered,
            frame(&[pickle(&Say::Int(1)), vec![b'N'; 10]].concat()),
        );
    }
    add(
        "a call before register",
        false,
        call("lastTransaction", vec![]),
    );
    add(
        "a commit before register",
        false,
        call("tpc_begin", vec![Say::Int(1)]),
    );
    add(
        "register with one argument",
        false,
        call("register", vec![Say::Text("1")]),
    );
    add(
        "register twice",
        true,
        call("register", vec![Say::Text("1"), Say::Bool(false)]),
    );
    all
}

impl Nonsense {
    /// Says it; it must be refused.
    #[track_caller]
    pub(crate) fn is_told(&self, address: &str) {
        let mut raw = if self.registered {
            Raw::registered(address)
        } else {
            Raw::greeted(address)
        };
        raw.send(&self.bytes);
        // Half of something else: it is the end that tells.
        if self.name.starts_with("text without") {
            raw.end();
        }
        raw.must_be_refused();
    }
}

#[test]
fn nonsense_is_refused_and_nobody_else_notices() {
    let instance = Instance::started(&[]);
    let mut workers = Workers::start(&instance.address, &instance.beside(""), false);
    let mut witness = Raw::registered(&instance.address);
    for nonsense in nonsense() {
        let name = nonsense.name;
        eprintln!("{name} (registered: {})", nonsense.registered);
        nonsense.is_told(&instance.address);
        assert_eq!(
            witness.call("lastTransaction", vec![]).error(),
            None,
            "after {name}"
        );
    }
    workers.check_alive();
    workers.wait_for_more(2);
    let totals = workers.end();
    assert_eq!(totals.errors, 0, "{totals:?}");
    instance.run(&["status"]).ok().prints("optimal");
    python::verify(&instance.given_back(), &workers.logs());
}

#[test]
fn a_handshake_that_is_none_is_hung_up_on() {
    let instance = Instance::started(&[]);
    for hello in [
        &b"Z4"[..],
        b"Z6",
        b"X5",
        b"",
        b"Z5 and more",
        b"\x80\x03N.",
        &[0; 5000],
    ] {
        let mut raw = Raw::connect(&instance.address);
        raw.frame().expect("the server speaks first");
        raw.send_frame(hello);
        raw.must_be_hung_up_on();
    }
    for bytes in [
        &b"SSH-2.0-OpenSSH_9.7\r\n"[..],
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        &[0xff; 100],
    ] {
        let mut raw = Raw::connect(&instance.address);
        raw.send(bytes);
        raw.end();
        raw.must_be_hung_up_on();
    }
    Raw::registered(&instance.address);
}

#[test]
fn half_a_frame_holds_nobody_up() {
    let instance = Instance::started(&[]);
    // The header alone, half of it, and half of a call: each connection stays open meanwhile.
    let whole = call("lastTransaction", vec![]);
    let mut halves: Vec<Raw> = [&whole[..2], &whole[..4], &whole[..whole.len() / 2]]
        .into_iter()
        .map(|bytes| {
            let mut raw = Raw::registered(&instance.address);
            raw.send(bytes);
            raw
        })
        .collect();
    python::run("features.py", &["plain_visit", &instance.address]).ok();
    let rest = [&whole[2..], &whole[4..], &whole[whole.len() / 2..]];
    for (raw, rest) in halves.iter_mut().zip(rest) {
        raw.send(rest);
        assert_eq!(raw.reply(7).error(), None);
    }
    // And one that never says the rest.
    let mut raw = Raw::registered(&instance.address);
    raw.send(&whole[..whole.len() - 1]);
    raw.end();
    raw.must_be_hung_up_on();
    python::run("features.py", &["plain_visit", &instance.address]).ok();
}

#[test]
fn an_unknown_storage_is_an_error_and_the_next_name_may_be_right() {
    let instance = Instance::started(&[]);
    let mut raw = Raw::greeted(&instance.address);
    let answer = raw.call("register", vec![Say::Text("nope"), Say::Bool(false)]);
    assert_eq!(
        answer.error().as_deref(),
        Some("builtins.ValueError"),
        "{answer:?}"
    );
    assert!(answer.contains("nope"), "{answer:?}");
    let answer = raw.call("register", vec![Say::Text("main"), Say::Int(0)]);
    assert_eq!(answer.error(), None, "{answer:?}");
    assert_eq!(raw.call("lastTransaction", vec![]).error(), None);
}

#[test]
fn half_a_transaction_of_a_client_that_breaks_off_is_forgotten() {
    let instance = Instance::started(&[]);
    python::run("features.py", &["plain_visit", &instance.address]).ok();
    let oid = [0, 0, 0, 0, 0, 0, 0xff, 1];
    for voted in [false, true] {
        let mut raw = Raw::registered(&instance.address);
        let begin = vec![
            Say::Int(0x7f12_3456_789a),
            Say::Bytes(b"user"),
            Say::Bytes(b"broken off"),
            Say::EmptyDict,
            Say::None,
            Say::Text(" "),
        ];
        raw.send_async("tpc_begin", begin);
        let txn = || Say::Int(0x7f12_3456_789a);
        raw.send_async(
            "storea",
            vec![
                Say::Bytes(&oid),
                Say::Bytes(&[0; 8]),
                Say::Bytes(b"data"),
                txn(),
            ],
        );
        if voted {
            assert_eq!(raw.call("vote", vec![txn()]).error(), None);
        }
        raw.send(b"\0\0\x10\0 and then nothing of this");
    }
    let visits = python::run("features.py", &["plain_visit", &instance.address]).ok();
    assert_eq!(visits.stdout, "visits 2\n");
    let members = instance.given_back();
    let found = python::verify(&members, &[]);
    assert_eq!(found["transactions"], 3, "the root and two visits: {found}");
}

/// The extension of a transaction may be anything that is plain; so it may be a bomb.
#[test]
fn a_bomb_in_the_metadata_harms_nobody() {
    let instance = Instance::started(&[]);
    python::run("features.py", &["plain_visit", &instance.address]).ok();
    let pid = instance.pid().expect("a daemon runs");
    let extension = [b"}X\x01\0\0\0k", bomb().as_slice(), b"s"].concat();
    let mut raw = Raw::registered(&instance.address);
    let begin = vec![
        Say::Int(9),
        Say::Bytes(b""),
        Say::Bytes(b"a bomb"),
        Say::Opcodes(&extension),
        Say::None,
        Say::Text(" "),
    ];
    raw.send_async("tpc_begin", begin);
    raw.send_async(
        "storea",
        vec![
            Say::Bytes(&[9; 8]),
            Say::Bytes(&[0; 8]),
            Say::Bytes(b"x"),
            Say::Int(9),
        ],
    );
    raw.send_call(1, false, "vote", vec![Say::Int(9)]);
    // Refused by an error or by hanging up; what matters is that it is done with at once.
    drop(raw.frame());
    drop(raw);
    assert!(resident_kib(pid) < 500 * 1024, "{} KiB", resident_kib(pid));
    let visits = python::run("features.py", &["plain_visit", &instance.address]).ok();
    assert_eq!(visits.stdout, "visits 2\n");
    instance.run(&["status"]).ok().prints("optimal");
    python::verify(&instance.given_back(), &[]);
}

/// A client that is stopped for a while (a laptop's lid, a debugger) delays nobody.
#[test]
fn a_client_that_is_stopped_delays_nobody() {
    let instance = Instance::started(&[]);
    let mut workers = Workers::start(&instance.address, &instance.beside(""), false);
    workers.wait_for_more(2);
    let observer = python::Script::spawn("features.py", &["idle", &instance.address]);
    let mut observer = observer;
    observer.wait_printed("ready");
    signal(observer.pid(), rustix::process::Signal::STOP);
    workers.wait_for_more(20);
    signal(observer.pid(), rustix::process::Signal::CONT);
    let totals = workers.end();
    observer.end(Duration::from_mins(1)).ok();
    assert_eq!(totals.errors, 0);
    python::verify(&instance.given_back(), &workers.logs());
}
