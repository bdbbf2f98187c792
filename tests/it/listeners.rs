//! Where clients connect: a Unix socket, IPv6, several at once, and a port of the system's choice.

use crate::harness::Instance;
use crate::harness::ports::free_port;
use crate::harness::python;

fn visited(instance: &Instance, addresses: &[&str]) {
    for (index, address) in addresses.iter().enumerate() {
        let run = python::run("features.py", &["plain_visit", address]).ok();
        assert_eq!(run.stdout, format!("visits {}\n", index + 1), "{address}");
    }
    python::verify(&instance.given_back(), &[]);
}

#[test]
fn clients_come_through_a_unix_socket() {
    let instance = Instance::new();
    let socket = format!("unix:{}", instance.beside("zeo.sock").display());
    instance.init(&[&format!("listen={socket}")]).ok();
    instance.start().ok();
    visited(&instance, &[&socket, &socket]);
    assert!(
        !instance.beside("zeo.sock").exists(),
        "a stop takes its socket away"
    );
    // One that a killed daemon left behind is no obstacle.
    instance.start().ok();
    instance.kill9();
    assert!(instance.beside("zeo.sock").exists());
    instance.start().ok();
    python::run("features.py", &["plain_visit", &socket]).ok();
}

#[test]
fn clients_come_through_ipv6_and_through_all_at_once() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        use std::io::Write;
        let line = b"\nSKIPPED clients_come_through_ipv6_and_through_all_at_once: no IPv6 here\n";
        std::io::stderr()
            .write_all(line)
            .expect("standard error takes a line");
        return;
    }
    let six = format!("[::1]:{}", free_port());
    let instance = Instance::made(&[&format!("listen={six}")]);
    instance.start().ok();
    visited(&instance, &[&six]);

    let four = instance.address.clone();
    let socket = format!("unix:{}", instance.beside("zeo.sock").display());
    let config = std::fs::read_to_string(instance.config()).expect("init wrote it");
    let old = config
        .lines()
        .find(|line| line.starts_with("listen:"))
        .expect("a line");
    let new = format!("listen: ['{six}', '{four}', '{socket}']");
    std::fs::write(instance.config(), config.replace(old, &new)).expect("writing");
    instance.start().ok();
    let details = instance.details();
    let addresses = details["addresses"].as_array().expect("a list");
    assert_eq!(addresses.len(), 3, "{details}");
    for (address, visit) in [&six, &four, &socket].into_iter().zip(2..) {
        let run = python::run("features.py", &["plain_visit", address]).ok();
        assert_eq!(run.stdout, format!("visits {visit}\n"), "{address}");
    }
}

#[test]
fn a_port_of_the_systems_choice_is_told_in_details() {
    let instance = Instance::started(&["listen=127.0.0.1:0"]);
    let details = instance.details();
    let address = details["addresses"][0]
        .as_str()
        .expect("an address")
        .to_owned();
    assert!(!address.ends_with(":0"), "{address}");
    visited(&instance, &[&address]);
}
