//! What can be said of a server and its storages, as of ZEO's: read-only ones, what is kept for clients
//! that return, how a pack goes, the encoding that is announced, several arrays in one daemon.

use std::fs;

use crate::harness::Instance;
use crate::harness::python::{self, Script};
use crate::harness::raw::Raw;
use crate::harness::zeo_server::{ZeoServer, ZeoSetup};

/// An instance with this configuration after the line that says where it listens.
fn configured(text: &str) -> Instance {
    let instance = Instance::new();
    fs::create_dir_all(instance.path("etc")).expect("a folder for the configuration");
    configure(&instance, text);
    instance
}

fn configure(instance: &Instance, text: &str) {
    let text = format!("listen: {}\n{text}", instance.address);
    fs::write(instance.config(), text).expect("writing the configuration");
    instance.run(&["check-config"]).ok();
}

#[test]
fn two_arrays_are_served_side_by_side() {
    for encoding in ["Z5", "M5"] {
        let arrays = |of_one: &str| {
            format!(
                "encoding: {encoding}\n\
                 arrays:\n\
                 \x20 one:\n\
                 \x20   aliases: [\"1\", first]\n\
                 \x20   members: {{a: {{file: var/one/a.fs}}, b: {{file: var/one/b.fs}}}}\n\
                 {of_one}\
                 \x20 two:\n\
                 \x20   members: {{a: {{file: var/two/a.fs}}, b: {{file: var/two/b.fs}}}}\n"
            )
        };
        let instance = configured(&arrays("    pack_gc: false\n    pack_keep_old: false\n"));
        instance.start().ok();
        python::run("options.py", &["two_arrays", &instance.address]).ok();
        for (file, expected) in [
            ("one/a.fs.old", false),
            ("one/b.fs.old", false),
            ("two/a.fs.old", true),
            ("two/b.fs.old", true),
        ] {
            assert_eq!(instance.path("var").join(file).exists(), expected, "{file}");
        }

        configure(&instance, &arrays("    read_only: true\n"));
        instance.run(&["restart"]).ok();
        python::run("options.py", &["one_is_read_only", &instance.address]).ok();
        let run = instance.run(&["show"]).ok();
        assert!(run.stdout.contains("arrays.one.read_only"), "{run}");
        instance.stop().ok();
        for array in ["one", "two"] {
            let files = ["a", "b"].map(|name| instance.path(&format!("var/{array}/{name}.fs")));
            python::verify(&files, &[]);
        }
    }
}

#[test]
fn clients_hear_what_an_operators_pack_leaves() {
    let instance = Instance::made(&[]);
    instance.start().ok();
    let mut client = Script::spawn("options.py", &["resized", &instance.address]);
    client.wait_printed("stored\n");
    instance.run(&["pack"]).ok();
    client.end(crate::harness::instance::PATIENCE).ok();
}

/// As against ZEO's own servers: a writable one is preferred, and taken as soon as there is one again.
#[test]
fn a_client_falls_back_to_a_read_only_server_and_comes_back() {
    let folder = Instance::new();
    let mut server = ZeoServer::new(
        &folder.beside(""),
        "zeo1",
        ZeoSetup {
            clients_resolve: true,
            ..ZeoSetup::default()
        },
    );
    server.start();
    let daemon = |read_only: bool| {
        let text = format!(
            "read_only: {read_only}\narrays:\n  main:\n    members: {{zeo1: {{zeo: \"{}\"}}}}\n    \
             cluster_mode: coop\n",
            server.address()
        );
        let instance = configured(&text);
        instance.start().ok();
        instance.wait_optimal();
        instance
    };
    let (reads, writes) = (daemon(true), daemon(false));
    let both = format!("{},{}", reads.address, writes.address);
    let mut client = Script::spawn("options.py", &["fallback", &both]);
    client.wait_printed("written\n");
    writes.stop().ok();
    client.wait_printed("reading\n");
    writes.start().ok();
    client.wait_printed("written again\n");
    client.end(crate::harness::instance::PATIENCE).ok();
}

#[test]
fn a_client_that_is_young_enough_verifies_beyond_the_queue() {
    for encoding in ["Z5", "M5"] {
        let instance = Instance::made(&[&format!("encoding={encoding}")]);
        instance.configure(
            "main:",
            "    invalidation_queue: 5\n    invalidation_age: 1h",
        );
        instance.start().ok();
        let more_than_the_queue = ["cache_verified", &instance.address, "30", "no"];
        python::run("features.py", &more_than_the_queue).ok();
        let cache = instance.beside("cache.zec");
        let cache = cache.to_str().expect("a plain path");
        // Also one that returns after a restart.
        python::run("features.py", &["cache_fill", &instance.address, cache]).ok();
        python::run("features.py", &["cache_change", &instance.address, "30"]).ok();
        instance.run(&["restart"]).ok();
        python::run("features.py", &["cache_check", &instance.address, cache]).ok();
    }
}

#[test]
fn the_encoding_of_the_configuration_is_announced_and_the_client_chooses() {
    for (encoding, other) in [("Z5", "M5"), ("M5", "Z5")] {
        let instance = Instance::started(&[&format!("encoding={encoding}")]);
        for answer in [encoding, other] {
            let mut raw = Raw::connect(&instance.address);
            let announced = raw.frame().expect("the server speaks first");
            assert_eq!(announced.as_deref(), Some(encoding.as_bytes()));
            raw.send_frame(answer.as_bytes());
            // A heartbeat in the encoding that was chosen, which is not answered.
            let heartbeat: &[u8] = match answer {
                "M5" => b"\x94\xff\0\xa6.reply\xc0",
                _ => b"(J\xff\xff\xff\xffK\0X\x06\0\0\0.replyNt.",
            };
            raw.send_frame(heartbeat);
            raw.end();
            raw.must_be_hung_up_on();
        }
        let log = instance.log();
        assert!(!log.contains("client disconnected by the server"), "{log}");
    }
}
