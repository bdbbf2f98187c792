//! Whole configurations: what they become, and what is said of those that are wrong.

use super::*;
use std::time::Duration;

fn read_with(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let ask = |name: &str| {
        let found = environment.iter().find(|(variable, _)| *variable == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    parse(
        text,
        Path::new("/i/etc/zeoraid.yaml"),
        Path::new("/i"),
        &ask,
    )
}

fn read(text: &str) -> Result<Config, ConfigError> {
    read_with(text, &[])
}

/// The mistakes, as they are shown.
fn mistakes(text: &str) -> Vec<String> {
    let error = read(text).expect_err(text);
    error.mistakes().iter().map(Mistake::to_string).collect()
}

const SMALL: &str = "arrays: {main: {members: {a: {file: var/a/Data.fs}}}}";

const WHOLE: &str = r#"
listen: [127.0.0.1:8100, "unix:var/zeo.sock", "[::1]:8100"]
encoding: M5
read_only: yes
transaction_timeout: 90s
limits: {connections: 10, frame: 1GiB, threads: 3, unread_timeout: 20s, keep_free: 0B, transaction: 1TB}
admin:
  socket: /run/zeoraid.sock
  address: 127.0.0.1:8101
  token_file:
arrays:
  main:
    members:
      a: {file: var/a/Data.fs}
      b: {file: /disk/b/Data.fs}
    start_policy: majority
    min_optimal: 2
    fail_mode: read-only
    member_timeout: 500ms
    open_timeout: 2m
    auto_recover: false
    recovery_rate: {transactions: 1000, bytes: 50MB}
    catch_up_limit: 1.5s
    cache: 0
    invalidation_queue: 5
    zeo_admin: true
    record: var/record.json
  "1":
    members: {only: {file: var/1.fs}}
log: {file: log/daemon.log, level: debug, format: json}
pid_file: daemon.pid
spool: {folder: tmp, memory: 1MiB}
"#;

#[test]
fn a_small_configuration_is_completed_by_defaults() {
    let config = read(SMALL).unwrap();
    assert_eq!(config.listen[0].address.to_string(), "127.0.0.1:8100");
    assert_eq!(config.encoding, Encoding::Z5);
    assert_eq!(config.admin.socket, Path::new("/i/var/zeoraid.sock"));
    assert_eq!(config.pid_file, Path::new("/i/var/zeoraid.pid"));
    let [array] = config.arrays.as_slice() else {
        panic!("one array")
    };
    assert_eq!(array.aliases, ["1"], "what ZEO's clients ask for");
    assert_eq!(array.start_policy, StartPolicy::InSync);
    assert_eq!(array.min_optimal, 1);
    assert_eq!(array.member_timeout, Duration::from_secs(30));
    assert_eq!(array.recovery_rate, Rate::default());
    assert_eq!(array.record, Path::new("/i/var/main.membership.json"));
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    assert_eq!(config.limits.threads, processors);
    let MemberStorage::File { file, blob_dir } = &array.members[0].storage else {
        panic!("a file")
    };
    assert_eq!(file, Path::new("/i/var/a/Data.fs"));
    assert_eq!(*blob_dir, None);
    assert_eq!(array.cluster_mode, ClusterMode::Single);
    assert_eq!(array.lock_timeout, Duration::from_secs(30));
    assert_eq!(array.shared_blobs, None);
    assert!(config.warnings().is_empty());
}

#[test]
fn everything_can_be_said() {
    let config = read(WHOLE).unwrap();
    let listen: Vec<String> = config
        .listen
        .iter()
        .map(|listen| listen.address.to_string())
        .collect();
    assert_eq!(
        listen,
        ["127.0.0.1:8100", "unix:/i/var/zeo.sock", "[::1]:8100"]
    );
    assert_eq!(config.encoding, Encoding::M5);
    assert!(config.read_only);
    assert_eq!(config.limits.frame, 1 << 30);
    assert_eq!(config.limits.threads, 3);
    assert_eq!(config.limits.unread_timeout, Duration::from_secs(20));
    assert_eq!(config.limits.keep_free, 0);
    assert_eq!(config.limits.transaction, 1_000_000_000_000);
    assert_eq!(config.admin.address, Some(("127.0.0.1".into(), 8101)));
    let main = config.array("main").unwrap();
    assert!(
        main.aliases.is_empty(),
        "there is another array, and it is called 1"
    );
    assert_eq!(main.start_policy, StartPolicy::Majority);
    assert_eq!(main.fail_mode, FailMode::ReadOnly);
    assert_eq!(main.member_timeout, Duration::from_millis(500));
    assert_eq!(main.catch_up_limit, Duration::from_millis(1500));
    assert_eq!(main.recovery_rate.transactions, Some(1000));
    assert_eq!(main.recovery_rate.bytes, Some(50_000_000));
    assert_eq!(main.cache, 0);
    assert!(main.zeo_admin);
    assert_eq!(config.log.level, LogLevel::Debug);
    assert_eq!(config.spool.folder, Path::new("/i/tmp"));
}

#[test]
fn every_value_says_where_it_came_from() {
    let config = read_with(WHOLE, &[("ZEORAID_LOG_LEVEL", "trace")]).unwrap();
    let of = |key: &str| {
        let setting = config.explain().iter().find(|setting| setting.key == key);
        let setting = setting.unwrap_or_else(|| panic!("no {key}"));
        (setting.value.as_str(), setting.origin.clone())
    };
    assert_eq!(of("encoding"), ("M5", Origin::Line(3)));
    assert_eq!(
        of("arrays.main.member_timeout"),
        ("500ms", Origin::Line(19))
    );
    assert_eq!(
        of("arrays.main.recovery_rate.bytes"),
        ("50MB", Origin::Line(22))
    );
    assert_eq!(
        of("arrays.main.members.a.file"),
        ("var/a/Data.fs", Origin::Line(14))
    );
    assert_eq!(of("arrays.1.min_optimal"), ("1", Origin::Default));
    assert_eq!(of("admin.token_file"), ("-", Origin::Default));
    assert_eq!(
        of("log.level"),
        ("trace", Origin::Environment("ZEORAID_LOG_LEVEL"))
    );
    assert_eq!(
        of("listen"),
        (
            "127.0.0.1:8100, unix:var/zeo.sock, [::1]:8100",
            Origin::Line(2)
        )
    );
    let keys: std::collections::BTreeSet<_> = config.explain().iter().map(|s| &s.key).collect();
    assert_eq!(keys.len(), config.explain().len(), "each once");
}

#[test]
fn the_environment_comes_before_the_file() {
    let environment = [
        ("ZEORAID_LISTEN", "0.0.0.0:8200, [::]:8200"),
        ("ZEORAID_ADMIN_ADDRESS", " "),
    ];
    let config = read_with(SMALL, &environment).unwrap();
    assert_eq!(config.listen.len(), 2);
    assert_eq!(config.admin.address, None, "an empty variable is none");
    let error = read_with(SMALL, &[("ZEORAID_LISTEN", "8200")]).unwrap_err();
    assert_eq!(
        error.mistakes()[0].to_string(),
        "etc/zeoraid.yaml: $ZEORAID_LISTEN: listen: `8200` is only a port; write `127.0.0.1:8200` \
         for clients on this machine, `0.0.0.0:8200` for all"
    );
}

#[test]
fn five_mistakes_are_said_at_once_each_with_its_line_and_its_mend() {
    let found = mistakes(
        "listen: 8100\n\
         encodig: Z5\n\
         arrays:\n\
         \x20 main:\n\
         \x20   members:\n\
         \x20     a: {file: var/a/Data.fs}\n\
         \x20     b: {file: var/./a/Data.fs}\n\
         \x20   min_optimal: 3\n\
         \x20   member_timeout: 30\n",
    );
    assert_eq!(
        found,
        [
            "etc/zeoraid.yaml:1:9: listen: `8100` is only a port; write `127.0.0.1:8100` for clients \
             on this machine, `0.0.0.0:8100` for all",
            "etc/zeoraid.yaml:2:1: the configuration knows no `encodig`; did you mean `encoding`?",
            "etc/zeoraid.yaml:7:17: arrays.main.members.b.file: var/a/Data.fs is already used by \
             arrays.main.members.a.file in line 6; each needs a file of its own",
            "etc/zeoraid.yaml:8:18: arrays.main.min_optimal is 3, but there are 2 members; at most 2, \
             or add members",
            "etc/zeoraid.yaml:9:21: arrays.main.member_timeout: `30` has no unit; write 30s, or ms, m, h, d",
        ]
    );
}

/// One mistake, and a part of what is said of it.
#[track_caller]
fn check(text: &str, expected: &str) {
    let text = if text.contains("arrays") {
        text.to_owned()
    } else {
        format!("{text}\n{SMALL}")
    };
    let found = mistakes(&text);
    assert_eq!(found.len(), 1, "{text}\n{found:#?}");
    assert!(found[0].contains(expected), "{}\nnot: {expected}", found[0]);
}

#[test]
fn each_kind_of_mistake_has_its_words() {
    for (text, expected) in [
        ("a: [", ":2:1: this is not YAML"),
        ("a: &x 1\nb: *x", "aliases"),
        (
            "read_only: maybe",
            "neither true nor false; write `true` or `false`",
        ),
        ("encoding: z5", "did you mean `Z5`? one of Z5, M5"),
        ("encoding: [Z5]", "must be one value; write `encoding: Z5`"),
        (
            "encoding: Z5\nencoding: M5",
            ":2:1: `encoding` is there twice, first in line 1",
        ),
        ("transaction_timeout: 0s", "too short; at least 1s"),
        ("transaction_timeout: soon", "no duration"),
        ("limits: {frame: 1kB}", "too small; at least 1MiB"),
        ("limits: {connections: many}", "not a whole number"),
        ("limits: {threads: 0}", "too small; at least 1"),
        ("limits: {handshake: 30}", "has no unit"),
        ("limits: {iterators: 1}", "too small; at least 2"),
        (
            "limits: {frame: 2GiB}",
            "limits.memory is 1GiB, and one message may be 2GiB long; at least as much as `limits.frame`",
        ),
        (
            "limits: {transactions: 1GiB}",
            "limits.transactions is 1GiB, and one transaction may be 256GiB large",
        ),
        ("limits: 5", "limits must have keys and values"),
        (
            "limits: {conections: 5}",
            "limits knows no `conections`; did you mean `connections`?",
        ),
        (
            "limits: {sausage: 5}",
            "known are admin_connections, calls, connections, connections_by_address, frame, handshake",
        ),
        ("listen: []", "no client could connect"),
        ("listen: localhost", "has no port; write `localhost:8100`"),
        ("listen: '::1:8100'", "brackets are missing"),
        ("listen: '[::1'", "has no port"),
        ("listen: '[::x]:1'", "no IPv6 address"),
        ("listen: 127.0.1:8100", "`127.0.1` is no host"),
        ("listen: 127.0.0.1:81000", "`81000` is no port"),
        ("listen: /run/zeo.sock", "write `unix:/run/zeo.sock`"),
        ("listen: [[127.0.0.1:1]]", "this is no address"),
        (
            "listen: {mode: 0660}",
            "listen.1 has no address; write `{address: 127.0.0.1:8100",
        ),
        ("listen: [127.0.0.1:1, 127.0.0.1:1]", "there twice"),
        (
            "listen: [127.0.0.1:1, 0.0.0.0:1]",
            "collides with 127.0.0.1:1",
        ),
        (
            "listen: 127.0.0.1:1\nadmin: {address: 127.0.0.1:1}",
            "admin.address: 127.0.0.1:1 is there twice",
        ),
        (
            "admin: {address: 0.0.0.0:8101}",
            "can be reached from elsewhere, and there is no token_file",
        ),
        ("pid_file: ''", "the path is empty"),
        ("pid_file: var/zeoraid.sock", "already used by admin.socket"),
        (
            "log: {level: verbose}",
            "one of error, warn, info, debug, trace",
        ),
        ("arrays:", "there are no arrays"),
        ("arrays: {}", "there are no arrays"),
        ("arrays: [main]", "arrays must have keys and values"),
        ("arrays: {main: {}}", "arrays.main has no members"),
        (
            "arrays: {main: {members: {}}}",
            "arrays.main has no members",
        ),
        (
            "arrays: {main: {members: {a: {}}}}",
            "members.a does not say where its data is",
        ),
        (
            "arrays: {main: {members: {a: var/a.fs}}}",
            "members.a must have keys and values",
        ),
        (
            "arrays: {main: {members: {a: {file: a.fs, fil: b}}}}",
            "knows no `fil`; did you mean `file`?",
        ),
        (
            "arrays: {main: {members: {a/b: {file: a.fs}}}}",
            "`a/b` cannot be the name of a member",
        ),
        (
            "arrays: {../x: {members: {a: {file: a.fs}}}}",
            "cannot be the name of an array",
        ),
        (
            "arrays: {m: {members: {a: {file: a.fs}}, recovery_rate: {bytes: 0}}}",
            "0 would stop it",
        ),
        (
            "arrays: {m: {members: {a: {file: a.fs}}, min_optimal: 0}}",
            "at least 1",
        ),
        (
            "arrays: {m: {members: {a: {file: a.fs}, a: {file: b.fs}}}}",
            "`a` is there twice",
        ),
        (
            "arrays: {m: {aliases: [n], members: {a: {file: a.fs}}}, n: {members: {a: {file: b.fs}}}}",
            "already a name of the array n",
        ),
        (
            "arrays: {m: {members: {a: {file: a.fs}}, record: a.fs}}",
            "already used by arrays.m.members.a.file",
        ),
        (
            "arrays: {m: {members: {a: {file: a.fs}}}, n: {members: {a: {file: a.fs}}}}",
            "already used by arrays.m",
        ),
    ] {
        check(text, expected);
    }
}

#[test]
fn two_names_of_one_file_are_one_file() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("Data.fs"), "").unwrap();
    std::os::unix::fs::symlink("Data.fs", folder.path().join("link.fs")).unwrap();
    let text = "arrays: {m: {members: {a: {file: Data.fs}, b: {file: link.fs}}}}";
    let error = parse(text, Path::new("x.yaml"), folder.path(), &|_| None).unwrap_err();
    assert!(
        error.to_string().contains("link.fs is already used by"),
        "{error}"
    );
}

#[test]
fn no_file_names_the_command_that_makes_one() {
    let folder = tempfile::tempdir().unwrap();
    let error = load(folder.path(), None, &|_| None).unwrap_err();
    assert!(matches!(error, ConfigError::Unreadable { .. }), "{error}");
    assert_eq!(error.next().as_deref(), Some("zeoraidctl init"));
}

#[test]
fn what_is_not_text_is_refused_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.yaml");
    std::fs::write(&file, b"listen: 1\nencoding: \xff").unwrap();
    let error = load(folder.path(), Some(&file), &|_| None).unwrap_err();
    assert_eq!(error.mistakes()[0].line, 2);
}

const SERVERS: &str = r#"
listen: 127.0.0.1:8100
arrays:
  main:
    members:
      zeo1: {zeo: "db1.example.org:8100"}
      zeo2: {zeo: "[fd00::2]:8100", storage: main, connections: 4}
      zeo3:
        zeo: unix:/run/zeo3.sock
        tls: {server_name: db3, check_hostname: no}
    cluster_mode: coop
    lock_timeout: 20s
"#;

#[test]
fn members_can_be_zeo_servers() {
    let config = read(SERVERS).unwrap();
    let array = &config.arrays[0];
    let servers: Vec<_> = array
        .members
        .iter()
        .map(|member| match &member.storage {
            MemberStorage::Zeo(server) => server,
            other @ MemberStorage::File { .. } => panic!("{other:?}"),
        })
        .collect();
    let places: Vec<String> = servers
        .iter()
        .map(|server| server.address.to_string())
        .collect();
    assert_eq!(
        places,
        [
            "db1.example.org:8100",
            "[fd00::2]:8100",
            "unix:/run/zeo3.sock"
        ]
    );
    assert_eq!(
        (servers[0].storage.as_str(), servers[0].connections),
        ("1", 2)
    );
    assert_eq!(
        (servers[1].storage.as_str(), servers[1].connections),
        ("main", 4)
    );
    assert_eq!(servers[0].tls, None);
    let tls = servers[2].tls.as_ref().unwrap();
    assert_eq!(
        (tls.server_name.as_deref(), tls.check_hostname),
        (Some("db3"), false)
    );
    assert_eq!(array.cluster_mode, ClusterMode::Coop);
    assert_eq!(array.lock_timeout, Duration::from_secs(20));
    assert_eq!(config.warnings(), [], "nothing to say of this");
    assert_eq!(config.limits.threads, 1, "no file is read here");
    let value = |key: &str| {
        let found = config.explain().iter().find(|setting| setting.key == key);
        found.map(|setting| setting.value.clone())
    };
    assert_eq!(
        value("arrays.main.members.zeo1.zeo").as_deref(),
        Some("db1.example.org:8100")
    );
    assert_eq!(
        value("arrays.main.members.zeo3.tls.server_name").as_deref(),
        Some("db3")
    );
}

#[test]
fn others_may_hold_the_lock_of_a_member_as_long_as_their_clients_may() {
    let text = SERVERS.replace("    lock_timeout: 20s\n", "    member_timeout: 5s\n");
    let config = read(&text).unwrap();
    assert_eq!(config.arrays[0].lock_timeout, Duration::from_secs(65));
    let alone = text.replace("coop", "single");
    let config = read(&alone).unwrap();
    assert_eq!(config.arrays[0].lock_timeout, Duration::from_secs(5));
}

#[test]
fn each_mistake_with_zeo_servers_has_its_words() {
    for (text, expected) in [
        ("{a: {zeo: 'h'}}", "a.zeo: `h` has no port; write `h:8100`"),
        ("{a: {zeo: '8100'}}", "only a port"),
        (
            "{a: {zeo: '0.0.0.0:8200'}}",
            "nobody can connect to it; write 127.0.0.1:8200",
        ),
        ("{a: {zeo: 'h:0'}}", "0 is no port to connect to"),
        ("{a: {zeo: 'unix:'}}", "`unix:` without a path"),
        (
            "{a: {zeo: 'h:1', file: a.fs}}",
            "both a file and a ZEO server",
        ),
        ("{a: {zeo: 'h:1', storage: ''}}", "a.storage: it is empty"),
        (
            "{a: {zeo: 'h:1', conections: 2}}",
            "did you mean `connections`?",
        ),
        ("{a: {zeo: 'h:1', connections: 0}}", "at least 1"),
        (
            "{a: {zeo: 'h:1', blob_dir: b}}",
            "keeps its blobs itself; remove it, and set `blob-dir`",
        ),
        (
            "{a: {file: a.fs, storage: '1'}}",
            "a.storage is for ZEO servers, and this is a file",
        ),
        ("{a: {file: a.fs, tls: {}}}", "a.tls is for ZEO servers"),
        (
            "{a: {zeo: 'h:1'}, b: {zeo: 'H:1'}}",
            "is already a member, arrays.m.members.a.zeo in line 1",
        ),
        (
            "{a: {zeo: 'localhost:1'}, b: {zeo: '127.0.0.1:1', storage: '1'}}",
            "already a member",
        ),
        (
            "{a: {zeo: '127.0.0.1:8100'}}",
            "this daemon's own address (listen): it would wait for itself",
        ),
        (
            "{a: {zeo: 'h:1', tls: {key: /dev/null}}}",
            "tls.key: a key without a certificate",
        ),
        (
            "{a: {zeo: 'h:1', tls: {authenticate: no.pem}}}",
            "no.pem does not exist",
        ),
        (
            "{a: {zeo: 'h:1', tls: yes}}",
            "tls must have keys and values",
        ),
        (
            "{a: {zeo: 'h:1', tls: {verify: yes}}}",
            "tls knows no `verify`",
        ),
        (
            "{a: {zeo: 'unix:/z', tls: {}}}",
            "over a Unix socket there is no host name to check",
        ),
        (
            "{a: {zeo: 'h:1'}}, cluster_mode: both",
            "one of single, coop",
        ),
        ("{a: {zeo: 'h:1'}}, lock_timeout: 5", "has no unit"),
        (
            "{a: {zeo: 'h:1'}, b: {zeo: 'i:1'}, c: {file: c.fs}}, cluster_mode: coop",
            "members.c: a file belongs to one daemon, and in cluster_mode coop in line 1 several write",
        ),
    ] {
        check(&format!("arrays: {{m: {{members: {text}}}}}"), expected);
    }
}

#[test]
fn mixtures_that_would_lose_blobs_are_refused_with_the_reason() {
    for (text, expected) in [
        (
            "{a: {file: a.fs, blob_dir: a}, b: {file: b.fs}}",
            "b has no blob_dir, and a in line 1 has one: what is recovered from b would have lost its blobs",
        ),
        (
            "{a: {file: a.fs, blob_dir: blobs}, b: {file: b.fs, blob_dir: blobs/b}}",
            "blobs of one would overwrite the other's; each needs a folder of its own",
        ),
        (
            "{a: {file: a.fs, blob_dir: blobs}}, shared_blob_dir: blobs",
            "blobs is the folder of arrays.m.members.a.blob_dir",
        ),
        (
            "{a: {file: a.fs}}, shared_blob_dir: /no/such/place",
            "/no/such/place does not exist; is it mounted?",
        ),
        (
            "{a: {file: a.fs}}, shared_blob_dir: blobs",
            "a has no blob_dir: what clients put into",
        ),
        (
            "{a: {zeo: 'h:1'}}, shared_blob_dir: /dev/null",
            "/dev/null is no folder",
        ),
        (
            "{a: {zeo: 'h:1'}}, blobs_shared_with: everything",
            "blobs_shared_with says with whom, and no shared_blob_dir says what",
        ),
        (
            "{a: {zeo: 'h:1'}}, shared_blob_dir: b, blobs_shared_with: all",
            "one of clients, everything",
        ),
        (
            "{a: {zeo: 'h:1'}, b: {file: b.fs, blob_dir: b}}, shared_blob_dir: /tmp, blobs_shared_with: everything",
            "members.b.blob_dir (b) would stay without blobs",
        ),
    ] {
        let text = format!("arrays: {{m: {{members: {text}}}}}");
        let found = mistakes(&text);
        assert!(
            found.iter().any(|mistake| mistake.contains(expected)),
            "{text}\n{found:#?}\nnot: {expected}"
        );
    }
    let good = read("arrays: {m: {members: {a: {zeo: 'h:1'}}, shared_blob_dir: blobs}}").unwrap();
    let shared = good.arrays[0].shared_blobs.as_ref().unwrap();
    assert_eq!(
        (shared.folder.as_path(), shared.with),
        (Path::new("/i/blobs"), BlobSharing::Clients)
    );
}

#[test]
fn a_token_that_leaves_the_machine_in_the_clear_is_a_warning() {
    let warnings = |admin: &str| {
        let text = format!(
            "admin: {{{admin}}}\narrays: {{m: {{members: {{a: {{file: a, blob_dir: b}}}}}}}}"
        );
        let config = read(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let warnings = config.warnings().iter().map(ToString::to_string);
        warnings.collect::<Vec<_>>()
    };
    let here = "address: '127.0.0.1:8101', token_file: t";
    assert_eq!(warnings(here), Vec::<String>::new());
    assert_eq!(
        warnings("address: '0.0.0.0:8101', token_file: t"),
        [
            "etc/zeoraid.yaml:1:18: admin.address: 0.0.0.0 can be reached from elsewhere, and without `tls` \
          the token goes over the network in the clear; add `tls`, or use 127.0.0.1"
        ]
    );
}

#[test]
fn what_is_allowed_but_probably_not_meant_is_a_warning() {
    for (text, expected) in [
        (
            "{a: {zeo: 'h:1'}, b: {zeo: 'i:1'}}, cluster_mode: coop",
            "with 2 members coop serves only while all of them are in sync",
        ),
        (
            "{a: {zeo: 'h:1'}, b: {zeo: 'i:1'}, c: {zeo: 'j:1'}}, cluster_mode: coop, start_policy: newest",
            "may start from a copy that another daemon has taken out",
        ),
        (
            "{a: {zeo: 'h:1'}, b: {file: b.fs, blob_dir: b}}",
            "a is beside a file (b in line 1), where clients resolve conflicts: that server must leave it \
             to them as well; set `client-conflict-resolution true` in its zeo.conf",
        ),
        (
            "{a: {zeo: 'h:1'}, b: {file: b.fs}}",
            "b has no blob_dir: the array takes no blobs",
        ),
        (
            "{a: {zeo: 'h:1'}, b: {zeo: 'h:1', storage: two}}",
            "where it fails, both are gone",
        ),
        (
            "{a: {zeo: '198.51.100.7:1'}}",
            "is a public address, and there is no `tls`",
        ),
        (
            "{a: {zeo: 'h:1'}}, shared_blob_dir: /tmp, blobs_shared_with: everything",
            "each blob is there once; the array does not protect it",
        ),
    ] {
        let text = format!("arrays: {{m: {{members: {text}}}}}");
        let config = read(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let found: Vec<String> = config.warnings().iter().map(ToString::to_string).collect();
        assert!(
            found.iter().any(|warning| warning.contains(expected)),
            "{text}\n{found:#?}\nnot: {expected}"
        );
        assert!(found[0].starts_with("etc/zeoraid.yaml:1:"), "{found:?}");
    }
}

proptest::proptest! {
    #[test]
    fn any_text_is_a_configuration_or_has_mistakes(text in "[a-z:{}\\[\\], \n&*!|>'\"0-9-]{0,200}") {
        if let Err(error) = read(&text) {
            assert!(!error.mistakes().is_empty());
        }
    }
}

/// A folder with an instance's certificates, where an address has TLS.
fn secured() -> (tempfile::TempDir, String) {
    use crate::tls::testing::{Flaw, Made, put};
    let folder = tempfile::tempdir().unwrap();
    let etc = folder.path().join("etc");
    std::fs::create_dir(&etc).unwrap();
    let made = Made::by_openssl("zeo", Flaw::None);
    put(&etc, "server.pem", &made.certificate);
    put(&etc, "server.key", &made.key);
    put(&etc, "clients.pem", &made.certificate);
    let text = format!(
        "listen:\n\
         - 127.0.0.1:8100\n\
         - address: '[::1]:8101'\n\
         \x20 tls:\n\
         \x20   certificate: etc/server.pem\n\
         \x20   key: etc/server.key\n\
         \x20   authenticate: etc/clients.pem\n\
         - {{unix: var/zeo.sock, mode: 0660}}\n\
         - {{address: \"unix:var/open.sock\", mode: \"777\"}}\n\
         {SMALL}\n"
    );
    (folder, text)
}

fn read_in(folder: &Path, text: &str) -> Result<Config, ConfigError> {
    parse(text, &folder.join("etc/zeoraid.yaml"), folder, &|_| None)
}

#[test]
fn addresses_have_modes_and_tls_of_their_own() {
    let (folder, text) = secured();
    let config = read_in(folder.path(), &text).unwrap();
    let modes: Vec<Option<u32>> = config.listen.iter().map(|listen| listen.mode).collect();
    assert_eq!(modes, [None, None, Some(0o660), Some(0o777)]);
    let at = |name: &str| folder.path().join("etc").join(name);
    let tls = crate::tls::ServerTls {
        certificate: at("server.pem"),
        key: Some(at("server.key")),
        authenticate: crate::tls::Authenticate::Listed(at("clients.pem")),
    };
    let found: Vec<_> = config
        .listen
        .iter()
        .map(|listen| listen.tls.clone())
        .collect();
    assert_eq!(found, [None, Some(tls), None, None]);
    let of = |key: &str| {
        let setting = config.explain().iter().find(|setting| setting.key == key);
        let setting = setting.unwrap_or_else(|| panic!("no {key}"));
        (setting.value.as_str(), setting.origin.clone())
    };
    assert_eq!(
        of("listen").0,
        "127.0.0.1:8100, [::1]:8101 (TLS), unix:var/zeo.sock (mode 0660), unix:var/open.sock (mode 0777)"
    );
    assert_eq!(of("listen.2.tls.key"), ("etc/server.key", Origin::Line(6)));
    assert_eq!(config.check_certificates(), []);
    assert_eq!(config.warnings(), []);
}

#[test]
fn each_mistake_with_a_listener_has_its_words() {
    let (folder, _) = secured();
    let tls = "certificate: etc/server.pem, key: etc/server.key, authenticate: etc/clients.pem";
    for (listen, expected) in [
        (
            "{address: 127.0.0.1:1, unix: var/x.sock}",
            "listen.1 has both `address` and `unix`",
        ),
        (
            "{address: localhost}",
            "listen.1.address: `localhost` has no port",
        ),
        (
            "{address: 127.0.0.1:1, mode: 0600}",
            "listen.1.mode is for the file of a Unix socket",
        ),
        ("{unix: x.sock, mode: rw}", "`rw` is no mode; octal digits"),
        ("{unix: x.sock, mode: 0888}", "`0888` is no mode"),
        ("{unix: x.sock, mode: 4755}", "`4755` is no mode"),
        (
            "{unix: x.sock, mode: 0066}",
            "the owner himself could not connect",
        ),
        (
            "{unix: x.sock, modus: 0600}",
            "knows no `modus`; did you mean `mode`?",
        ),
        (
            "{address: 127.0.0.1:1, tls: }",
            "listen.1.tls: nothing is said of it",
        ),
        (
            "{address: 127.0.0.1:1, tls: yes}",
            "listen.1.tls must have keys and values",
        ),
        (
            "{address: 127.0.0.1:1, tls: {certificate: etc/server.pem}}",
            "listen.1.tls.authenticate is missing; add `authenticate`: a file with clients' certificates",
        ),
        (
            "{address: 127.0.0.1:1, tls: {authenticate: etc/clients.pem}}",
            "listen.1.tls.certificate is missing",
        ),
        (
            "{address: 127.0.0.1:1, tls: {certificate: etc/server.pem, authenticate: etc/gone.pem}}",
            "listen.1.tls.authenticate: etc/gone.pem does not exist",
        ),
        ("[127.0.0.1:1, {address: 127.0.0.1:1}]", "is there twice"),
    ] {
        let text = format!("listen: {listen}\n{SMALL}\n");
        let error = read_in(folder.path(), &text).expect_err(&text);
        let found: Vec<String> = error.mistakes().iter().map(Mistake::to_string).collect();
        assert_eq!(found.len(), 1, "{text}\n{found:#?}");
        assert!(found[0].contains(expected), "{}\nnot: {expected}", found[0]);
        assert!(found[0].starts_with("etc/zeoraid.yaml:1:"), "{}", found[0]);
    }
    for python in ["password-function", "password_function"] {
        let text =
            format!("listen: {{address: 127.0.0.1:1, tls: {{{tls}, {python}: a.b}}}}\n{SMALL}");
        let error = read_in(folder.path(), &text).unwrap_err().to_string();
        assert!(
            error.contains("functions of Python cannot be called here"),
            "{error}"
        );
    }
    let text = format!("listen: {{address: 127.0.0.1:1, tls: {{{tls}}}}}\n{SMALL}");
    let signed = text.replace("authenticate: etc/clients.pem", "authenticate: SIGNED");
    let config = read_in(folder.path(), &signed).unwrap();
    let warning = config.warnings()[0].to_string();
    assert!(
        warning.contains("any authority that the system trusts"),
        "{warning}"
    );

    let unix = text.replace("address: 127.0.0.1:1", "unix: zeo.sock");
    let config = read_in(folder.path(), &unix).unwrap();
    let warning = config.warnings()[0].to_string();
    assert!(
        warning.contains("does not speak TLS over a Unix socket"),
        "{warning}"
    );

    // What is in the files is looked at when it is asked for, and told with the line.
    std::fs::write(folder.path().join("etc/clients.pem"), "nobody").unwrap();
    let config = read_in(folder.path(), &text).unwrap();
    let mistakes = config.check_certificates();
    let mistakes: Vec<String> = mistakes.iter().map(Mistake::to_string).collect();
    assert_eq!(mistakes.len(), 1);
    assert!(
        mistakes[0].starts_with(
            "etc/zeoraid.yaml:1:1: listen.1.tls.authenticate: there is no certificate in "
        ),
        "{mistakes:?}"
    );
}

#[test]
fn the_environment_does_not_take_tls_away() {
    let (folder, text) = secured();
    let ask = |name: &str| (name == "ZEORAID_LISTEN").then(|| "0.0.0.0:8100".to_owned());
    let file = folder.path().join("etc/zeoraid.yaml");
    let error = parse(&text, &file, folder.path(), &ask).unwrap_err();
    assert_eq!(
        error.mistakes()[0].to_string(),
        "etc/zeoraid.yaml:5:5: $ZEORAID_LISTEN would take the place of addresses with `tls`, and has none; \
         unset ZEORAID_LISTEN, or remove `tls` here"
    );
    parse(SMALL, &file, folder.path(), &ask).unwrap();
}

#[test]
fn arrays_have_options_of_their_own() {
    let text = "arrays:\n  one:\n    members: {a: {file: a.fs}}\n    read_only: true\n    invalidation_age: 1d\n\
                \x20   pack_gc: false\n    pack_keep_old: false\n  two:\n    members: {b: {file: b.fs}}\n";
    let config = read(text).unwrap();
    let [one, two] = config.arrays.as_slice() else {
        panic!("two arrays")
    };
    assert!(one.read_only && !two.read_only && !config.read_only);
    let day = Duration::from_hours(24);
    assert_eq!(
        (one.invalidation_age, two.invalidation_age),
        (Some(day), None)
    );
    let pack = |gc, keep_old| Pack { gc, keep_old };
    assert_eq!((one.pack, two.pack), (pack(false, false), pack(true, true)));
    check(
        "arrays: {m: {members: {a: {file: a.fs}}, client_conflict_resolution: false}}",
        "conflicts are always left to the clients",
    );
    check(
        "arrays: {m: {members: {a: {file: a.fs}}, invalidation_age: 5}}",
        "`5` has no unit",
    );
}

#[test]
fn what_is_no_data_fs_and_what_should_be_taken_over_and_is_away_is_told_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    put("old", b"FS21and more");
    put("new", b"FS30");
    put("empty", b"");
    put("torn", b"\0\0");
    put("picture", b"\x89PNG....");
    put("short", b"FS");
    std::fs::create_dir(folder.path().join("folder")).unwrap();
    let told = |members: &str| {
        let text = format!("arrays:\n  m:\n    members:\n      {members}\n");
        let config = read_in(folder.path(), &text).unwrap();
        let mistakes = config.check_files();
        mistakes.iter().map(Mistake::to_string).collect::<Vec<_>>()
    };
    for fine in ["old", "new", "empty", "torn", "nothing", "no/folder"] {
        assert_eq!(
            told(&format!("a: {{file: {fine}}}")),
            Vec::<String>::new(),
            "{fine}"
        );
    }
    let rebuild = "of one that is damaged: zeoraidctl recover --rebuild a";
    for (file, what) in [
        ("picture", r#"is not a Data.fs: it begins with "\x89PNG""#),
        ("short", r#"is not a Data.fs: it begins with "FS""#),
        ("folder", "is not a file"),
    ] {
        let expected = format!(
            "etc/zeoraid.yaml:4:1: arrays.m.members.a.file: {file} {what}; the path of a Data.fs; {rebuild}"
        );
        assert_eq!(told(&format!("a: {{file: {file}}}")), [expected]);
    }
    let adopted = |file: &str| told(&format!("a: {{file: {file}, adopted: true}}"));
    assert_eq!(adopted("old"), Vec::<String>::new());
    assert_eq!(
        adopted("nothing"),
        [
            "etc/zeoraid.yaml:4:1: arrays.m.members.a.file: nothing is not there; the path of the Data.fs to take over; \
          for a new one remove `adopted`"
        ]
    );
    // Once it has served, the record says whether it must be there.
    std::fs::create_dir(folder.path().join("var")).unwrap();
    put("var/m.membership.json", b"{}");
    assert_eq!(adopted("nothing"), Vec::<String>::new());
    check(
        "arrays: {m: {members: {a: {zeo: 'h:1', adopted: true}}}}",
        "adopted is for files, and this is a ZEO server",
    );
}
