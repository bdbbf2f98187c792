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
limits: {connections: 10, frame: 1GiB}
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
    assert_eq!(config.listen[0].to_string(), "127.0.0.1:8100");
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
    let MemberStorage::File { file } = &array.members[0].storage;
    assert_eq!(file, Path::new("/i/var/a/Data.fs"));
}

#[test]
fn everything_can_be_said() {
    let config = read(WHOLE).unwrap();
    let listen: Vec<String> = config.listen.iter().map(Address::to_string).collect();
    assert_eq!(
        listen,
        ["127.0.0.1:8100", "unix:/i/var/zeo.sock", "[::1]:8100"]
    );
    assert_eq!(config.encoding, Encoding::M5);
    assert!(config.read_only);
    assert_eq!(config.limits.frame, 1 << 30);
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
        ("limits: 5", "limits must have keys and values"),
        (
            "limits: {conections: 5}",
            "limits knows no `conections`; did you mean `connections`?",
        ),
        ("limits: {sausage: 5}", "known are connections, frame"),
        ("listen: []", "no client could connect"),
        ("listen: localhost", "has no port; write `localhost:8100`"),
        ("listen: '::1:8100'", "brackets are missing"),
        ("listen: '[::1'", "has no port"),
        ("listen: '[::x]:1'", "no IPv6 address"),
        ("listen: 127.0.1:8100", "`127.0.1` is no host"),
        ("listen: 127.0.0.1:81000", "`81000` is no port"),
        ("listen: /run/zeo.sock", "write `unix:/run/zeo.sock`"),
        ("listen: {a: b}", "this is no address"),
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
            "arrays: {main: {members: {a: {zeo: 'h:1'}}}}",
            "not supported yet",
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

proptest::proptest! {
    #[test]
    fn any_text_is_a_configuration_or_has_mistakes(text in "[a-z:{}\\[\\], \n&*!|>'\"0-9-]{0,200}") {
        if let Err(error) = read(&text) {
            assert!(!error.mistakes().is_empty());
        }
    }
}
