//! What `zope` wrote, as its programs read it: each opens the database by it, writes and reads.

use super::judges::tool_script;
use super::{embedded, read};
use crate::harness::Instance;
use crate::harness::certificates::self_signed;
use crate::harness::instance::Run;
use crate::harness::ports::free_port;

/// Who reads which file.
const READERS: &[(&str, &str)] = &[
    ("zodb", "zodb.conf"),
    ("zope", "zodb_db.conf"),
    ("buildout", "plone-buildout.cfg"),
    ("cookiecutter", "instance.yaml"),
    ("environment", "zope.env"),
];

/// Each in a folder of its own, as if it were on a machine of its own.
#[track_caller]
fn client(instance: &Instance, reader: &str, file: &str) -> Run {
    let folder = instance.beside(reader);
    std::fs::create_dir_all(&folder).expect("a folder");
    let mut script = tool_script("recipe_clients.py");
    script
        .arg(reader)
        .arg(instance.path("etc/zope").join(file))
        .current_dir(&folder);
    if reader != "zodb" {
        script.arg(&folder);
    }
    Run::of(script).ok()
}

#[track_caller]
fn all_read_and_write(instance: &Instance) {
    instance.start().ok();
    for (visit, (reader, file)) in READERS.iter().enumerate() {
        let run = client(instance, reader, file);
        let expected = format!("{{\"visits\": {}, \"blob\": \"{reader}\"}}\n", visit + 1);
        assert_eq!(run.stdout, expected, "{run}");
    }
    instance.run(&["status"]).ok().prints("optimal");
}

#[test]
fn zope_and_plone_work_with_what_the_recipe_wrote() {
    all_read_and_write(&embedded(&["zope"], &[]));
}

#[test]
fn they_work_over_a_socket_and_over_ipv6() {
    let socket = [("listen", "unix:var/z e o.sock".to_owned())];
    // (Plone's buildout and container cannot have blanks in an address.)
    let instance = embedded(&["zope"], &socket);
    instance.start().ok();
    for (reader, file) in &READERS[..2] {
        client(&instance, reader, file).prints("blob");
    }
    let socket = [("listen", "unix:var/zeo.sock".to_owned())];
    all_read_and_write(&embedded(&["zope"], &socket));
    let six = [("listen", format!("[::1]:{}", free_port()))];
    all_read_and_write(&embedded(&["zope"], &six));
}

/// With an address at which nobody is, before and behind: the one that serves is found.
#[test]
fn every_daemon_has_a_line() {
    let mut set = vec![("listen", format!("127.0.0.1:{}", free_port()))];
    let (before, behind) = (free_port(), free_port());
    let servers = format!("127.0.0.1:{before}, {}, 127.0.0.1:{behind}", set[0].1);
    set.push(("zope_servers", servers));
    let instance = embedded(&["zope"], &set);
    instance.start().ok();
    for (reader, file) in &READERS[..4] {
        client(&instance, reader, file).prints("blob");
    }
}

#[test]
fn clients_work_over_tls_and_with_shared_blobs() {
    let instance = Instance::new();
    let folder = instance.beside("tls");
    std::fs::create_dir(&folder).expect("a folder");
    for name in ["localhost", "client"] {
        self_signed(&folder, name);
    }
    let blobs = instance.beside("shared");
    std::fs::create_dir(&blobs).expect("a folder");
    let at = |name: &str| folder.join(name).display().to_string();
    let address = format!("localhost:{}", free_port());
    super::Order::new("embedded", &["zope"])
        .set("listen", &address)
        .set("zope_tls", "yes")
        .set("zope_server_sync", "yes")
        .set("zope_certificate", at("client.pem"))
        .set("zope_key", at("client.key"))
        .set("zope_authority", at("localhost.pem"))
        .set("zope_blobs", "shared")
        .set("zope_blob_dir", blobs.display())
        .run(&instance, instance.root())
        .ok();
    let listen = format!(
        "listen: {{address: \"{address}\", tls: {{certificate: {0}/localhost.pem, key: {0}/localhost.key, \
         authenticate: {0}/client.pem}}}}",
        folder.display()
    );
    let config = read(&instance.config());
    let old = config.lines().find(|line| line.starts_with("listen:"));
    let config = config.replace(old.expect("a line"), &listen);
    std::fs::write(instance.config(), config).expect("writing the configuration");
    instance.configure(
        "main:",
        &format!("    shared_blob_dir: {}", blobs.display()),
    );
    instance.start().ok();

    for (reader, file) in &READERS[..2] {
        client(&instance, reader, file).prints("blob");
    }
    assert!(!instance.path("etc/zope/zope.env").exists());
    let kept = std::fs::read_dir(&blobs).expect("a folder").count();
    assert!(kept > 1, "the blobs are in the shared folder");
}
