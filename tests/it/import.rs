//! `import`, from the file of a real server to clients that go on with its data.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::Instance;
use crate::harness::python::{self, Workers};
use crate::harness::zeo_server::{ZeoServer, ZeoSetup};

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/it/fixtures/zconfig")
        .join(name)
}

/// The words that are in a database, each with its blob.
fn words(address: &str, storage: &str) -> String {
    let run = python::run("imported.py", &["read", address, storage]).ok();
    run.stdout.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_zeo_server_is_followed_by_a_daemon_with_its_file_blobs_and_address() {
    let instance = Instance::new();
    let setup = ZeoSetup {
        blobs: true,
        ..ZeoSetup::default()
    };
    let mut server = ZeoServer::new(&instance.beside(""), "old", setup);
    let address = server.address();
    server.start();
    python::run("imported.py", &["write", &address, "1", "before"]).ok();

    // What it says while the server runs: that it must not.
    let config = server.data().with_file_name("zeo.conf");
    let run = instance.run(&["import", text(&config)]).ok();
    run.says(&format!(
        "Next: what is under \"To do\", then: zeoraidctl -C {} start",
        instance.root().display()
    ))
    .prints("stop the old server, and whatever starts it, before `zeoraidctl start`")
    .prints(&format!("blobs in {}", server.blobs().display()));
    server.stop();

    instance.run(&["check-config"]).ok().prints("no mistakes");
    instance.start().ok();
    instance.wait_optimal();
    assert_eq!(words(&address, "1"), "before");
    python::run("imported.py", &["write", &address, "1", "after"]).ok();
    assert_eq!(words(&address, "1"), "after before");
    instance.stop().ok();

    // And back: it is still the old server's file.
    server.start();
    assert_eq!(words(&address, "1"), "after before");
    server.stop();
}

#[test]
fn a_raid_over_two_servers_is_followed_by_a_daemon_before_them() {
    let instance = Instance::new();
    let servers: Vec<ZeoServer> = ["zeo1", "zeo2"]
        .iter()
        .map(|name| {
            let mut server = ZeoServer::new(&instance.beside(""), name, ZeoSetup::default());
            server.start();
            server
        })
        .collect();
    let members = servers.iter().enumerate().map(|(index, server)| {
        format!(
            "  <zeoclient {}>\n    server {}\n    storage 1\n    wait false\n  </zeoclient>\n",
            index + 1,
            server.address()
        )
    });
    let config = instance.beside("zeo.conf");
    let old = format!(
        "%import gocept.zeoraid\n%define listen {}\n<zeo>\n  address $listen\n</zeo>\n<raidstorage main>\n  \
         cluster-mode single\n{}</raidstorage>\n",
        instance.address,
        members.collect::<String>()
    );
    fs::write(&config, old).expect("writing the old configuration");
    instance.run(&["import", text(&config)]).ok();
    instance.start().ok();
    instance.wait_optimal();
    let details = instance.details();
    assert_eq!(details["name"], "main");
    let names: Vec<&str> = details["members"]
        .as_array()
        .expect("members are a list")
        .iter()
        .filter_map(|member| member["name"].as_str())
        .collect();
    assert_eq!(names, ["1", "2"]);
    let mut workers = Workers::start(&instance.address, &instance.beside(""), false);
    workers.wait_for_more(5);
    workers.end();
    instance.stop().ok();
    let files: Vec<PathBuf> = servers.iter().map(ZeoServer::data).collect();
    drop(servers);
    python::verify(&files, &workers.logs());
}

/// Two daemons before three servers: each part of the buildout makes an instance of its own.
#[test]
fn two_daemons_of_a_buildout_serve_the_same_servers() {
    let first = Instance::new();
    let second = Instance::new();
    let mut servers: Vec<ZeoServer> = ["zeo1", "zeo2", "zeo3"]
        .iter()
        .map(|name| ZeoServer::new(&first.beside(""), name, ZeoSetup::default()))
        .collect();
    let mut parts = String::from("[buildout]\nparts = raid1 raid2\n");
    for (name, instance) in [("raid1", &first), ("raid2", &second)] {
        parts += &format!(
            "[{name}]\nrecipe = gocept.zeoraid:server\nzeo.conf =\n    <zeo>\n    address {}\n    </zeo>\n    \
             %import gocept.zeoraid\n    ${{members:zconfig}}\n",
            instance.address
        );
    }
    parts += "[members]\nzconfig =\n    <raidstorage main>\n";
    for (index, server) in servers.iter_mut().enumerate() {
        server.start();
        parts += &format!(
            "    <zeoclient {}>\n    server {}\n    </zeoclient>\n",
            index + 1,
            server.address()
        );
    }
    parts += "    </raidstorage>\n";
    let buildout = first.beside("buildout.cfg");
    fs::write(&buildout, parts).expect("writing the buildout");

    first
        .run(&["import", text(&buildout)])
        .ended(2)
        .says("--part raid1");
    for (part, instance) in [("raid1", &first), ("raid2", &second)] {
        let run = instance
            .run(&["import", text(&buildout), "--part", part])
            .ok();
        run.prints("Array main, cluster mode coop");
        instance.start().ok();
    }
    first.wait_optimal();
    second.wait_optimal();
    let folder = first.beside("");
    let mut workers = Workers::start_with(&first.address, &folder, 2, &[]);
    workers.wait_for_more(3);
    let mut others = Workers::join(&second.address, &folder, 2, 2, &[]);
    others.wait_for_more(3);
    others.end();
    workers.end();
    first.run(&["status"]).ok().prints("optimal");
    second.run(&["status"]).ok().prints("optimal");
}

/// The whole of what is printed, for the sample with the topology of the original's.
#[test]
fn the_sample_of_a_buildout_is_shown_whole() {
    let instance = Instance::new();
    let file = fixture("buildout.cfg");
    let run = instance
        .run(&["import", text(&file), "--part", "raid1", "--dry-run"])
        .ok();
    let shown = run.stdout.replace(text(&fixture("")), "FIXTURES/");
    snapshot!(shown, @r#"
    [instance]/etc/zeoraid.yaml would be written, from [raid1] of FIXTURES/buildout.cfg
      clients connect to [address]

    Array main, cluster mode coop; answers to 1 as well
      MEMBER  TYPE  WHERE           FROM
      1       zeo   localhost:8100  buildout.cfg:14
      2       zeo   localhost:8101  buildout.cfg:19

    Other parts, for instances of their own: zeo1, zeo2, zeo3, raid2

    To do:
      buildout.cfg:13: `cluster-mode coop`, its default, of <raidstorage main>:
        other daemons may write to the same servers
          import the file of each other daemon into an instance of its own, and let
          no old one go on beside them. Where there is only one daemon,
          `--cluster-mode single`: it needs no majority of the members
      buildout.cfg:14, buildout.cfg:19: members that are ZEO servers
          look into the zeo.conf of each: no `transaction-timeout` (ZEO keeps its
          lock when that strikes), a `blob-dir` where there are blobs; and nobody
          else may write to them, the old daemon included: stop it first

    Nothing to do:
      buildout.cfg:9: there is no `transaction-timeout`: a client could hold the
        commit lock for ever
          it loses its connection after 1m now; `transaction_timeout` says another
          time
      buildout.cfg:17, buildout.cfg:22: `wait false` in <zeoclient>
          the daemon starts without a member that does not answer, where others
          suffice

    Warnings of `check-config`:
    etc/zeoraid.yaml:28:19: arrays.main.cluster_mode: with 2 members coop serves only while all of them are in sync: more than half must be
        cluster_mode: coop  # buildout.cfg:13
        use three members or more
    "#);
    assert!(!instance.root().exists(), "nothing is written");
}
