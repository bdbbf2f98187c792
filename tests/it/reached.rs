//! By which ways a member's server is reached, from the configuration to a real `runzeo`: over TLS with
//! certificates on both sides, over IPv6, over a Unix socket.

use std::fs;
use std::io::Write;

use crate::harness::Instance;
use crate::harness::certificates::self_signed;
use crate::harness::ports::free_port;
use crate::harness::python::{self, Workers};
use crate::harness::zeo_server::{ZeoServer, ZeoSetup};

/// An array of a server that is reached in this way, and a file. The server is lost and comes back while
/// clients work: the way is gone more than once.
fn serves(instance: &Instance, mut server: ZeoServer, member: &str) {
    server.start();
    let text = format!(
        "listen: {}\narrays:\n  main:\n    members:\n      zeo1: {member}\n      file1: {{file: \
         var/file1/Data.fs}}\n    member_timeout: 5s\n",
        instance.address
    );
    fs::create_dir_all(instance.path("etc")).expect("a folder for the configuration");
    fs::write(instance.config(), text).expect("writing the configuration");
    instance.run(&["check-config"]).ok();
    instance.start().ok();
    instance.wait_optimal();
    let more = &["--mix", "undo,iterate,cold", "--pause", "0.05"];
    let mut workers = Workers::start_with(&instance.address, &instance.beside(""), 2, more);
    workers.wait_for_more(4);
    server.kill9();
    instance.wait_member("zeo1", "degraded");
    workers.wait_for_more(2);
    server.start();
    instance.wait_optimal();
    workers.wait_for_more(2);
    let totals = workers.end();
    assert_eq!(totals.errors, 0, "{totals:?}");
    instance.stop().ok();
    server.stop();
    let copies = [server.data(), instance.path("var/file1/Data.fs")];
    python::verify(&copies, &workers.logs());
}

fn server_at(instance: &Instance, address: String) -> ZeoServer {
    let setup = ZeoSetup {
        clients_resolve: true,
        ..ZeoSetup::default()
    };
    ZeoServer::at(&instance.beside(""), "zeo1", address, setup)
}

#[test]
fn a_server_is_reached_through_ipv6() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        // Past the harness that hides the output of tests that pass.
        let line = b"\nSKIPPED a_server_is_reached_through_ipv6: no IPv6 here\n";
        std::io::stderr()
            .write_all(line)
            .expect("standard error takes a line");
        return;
    }
    let instance = Instance::new();
    let address = format!("[::1]:{}", free_port());
    let server = server_at(&instance, address.clone());
    serves(&instance, server, &format!("{{zeo: \"{address}\"}}"));
}

#[test]
fn a_server_is_reached_through_a_unix_socket() {
    let instance = Instance::new();
    let socket = instance.beside("zeo1.sock").display().to_string();
    let server = server_at(&instance, socket.clone());
    serves(&instance, server, &format!("{{zeo: \"unix:{socket}\"}}"));
}

#[test]
fn a_server_is_reached_over_tls_with_certificates_on_both_sides() {
    let instance = Instance::new();
    let made = |name: &str| {
        let (certificate, key) = self_signed(&instance.beside(""), name);
        (certificate.display().to_string(), key.display().to_string())
    };
    let (theirs, their_key) = made("zeo.example");
    let (ours, our_key) = made("zeoraid.example");
    let server = server_at(&instance, format!("127.0.0.1:{}", free_port()));
    server.configure(&format!(
        "  <ssl>\n    certificate {theirs}\n    key {their_key}\n    authenticate {ours}\n  </ssl>\n"
    ));
    let address = server.address();
    let member = format!(
        "{{zeo: \"{address}\", tls: {{authenticate: \"{theirs}\", certificate: \"{ours}\", key: \
         \"{our_key}\", server_name: zeo.example}}}}"
    );
    serves(&instance, server, &member);
}
