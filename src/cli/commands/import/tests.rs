//! `import` on a bench.

use std::path::PathBuf;

use crate::cli::prompt::script::Answer;
use crate::cli::testing::Bench;

/// A folder with an old file in it, whose name does not show.
struct Place(tempfile::TempDir);

impl Place {
    fn new(text: &str) -> Self {
        let place = Place(tempfile::tempdir().unwrap());
        std::fs::write(place.path().join("zeo.conf"), text).unwrap();
        place
    }

    fn path(&self) -> PathBuf {
        self.0.path().canonicalize().unwrap()
    }

    fn read(&self, target: &str) -> String {
        std::fs::read_to_string(self.path().join(target)).unwrap()
    }

    fn run(&self, line: &str, answers: impl IntoIterator<Item = Answer>) -> String {
        let bench = Bench::new(Vec::new()).answering(answers);
        let path = self.path().display().to_string();
        let shown = bench.run(&line.replace("HERE", &path));
        shown.replace(&path, "HERE") + &bench.questions().replace(&path, "HERE")
    }
}

const RAID: &str = "%import gocept.zeoraid
<zeo>
  address 127.0.0.1:8200
  transaction-timeout 60
  monitor-address 8201
</zeo>
<raidstorage main>
  cluster-mode single
  <zeoclient 1>
    server db1:8100
    wait false
  </zeoclient>
  <zeoclient 2>
    server db2:8100
    wait false
  </zeoclient>
</raidstorage>
";

#[test]
fn quietly_only_what_needs_somebody_is_said() {
    let place = Place::new(RAID);
    insta::assert_snapshot!(place.run("import -q HERE/zeo.conf -C HERE/new --yes", []), @r#"
    exit 0
    -- stdout
    To do:
      zeo.conf:5: `monitor-address 8201` in <zeo>
          there is no monitor port: ask `zeoraidctl status` (also for Nagios), or
          set `admin.address` and let Prometheus read /metrics there
      zeo.conf:9, zeo.conf:13: members that are ZEO servers
          look into the zeo.conf of each: no `transaction-timeout` (ZEO keeps its
          lock when that strikes), a `blob-dir` where there are blobs; and nobody
          else may write to them, the old daemon included: stop it first
    "#);
    assert!(place.read("new/etc/zeoraid.yaml").contains("db2:8100"));
    let again = place.run("import HERE/zeo.conf -C HERE/other --yes", []);
    assert!(again.contains("Nothing to do:"), "{again}");
}

#[test]
fn what_was_understood_is_shown_and_written() {
    let place = Place::new(RAID);
    insta::assert_snapshot!(place.run("import HERE/zeo.conf -C HERE/new --dry-run", []), @r#"
    exit 0
    -- stdout
    HERE/new/etc/zeoraid.yaml would be written, from HERE/zeo.conf
      clients connect to 127.0.0.1:8200

    Array main, cluster mode single; answers to 1 as well
      MEMBER  TYPE  WHERE     FROM
      1       zeo   db1:8100  zeo.conf:9
      2       zeo   db2:8100  zeo.conf:13

    To do:
      zeo.conf:5: `monitor-address 8201` in <zeo>
          there is no monitor port: ask `zeoraidctl status` (also for Nagios), or
          set `admin.address` and let Prometheus read /metrics there
      zeo.conf:9, zeo.conf:13: members that are ZEO servers
          look into the zeo.conf of each: no `transaction-timeout` (ZEO keeps its
          lock when that strikes), a `blob-dir` where there are blobs; and nobody
          else may write to them, the old daemon included: stop it first

    Nothing to do:
      zeo.conf:11, zeo.conf:15: `wait false` in <zeoclient>
          the daemon starts without a member that does not answer, where others
          suffice
    "#);
    assert!(!place.path().join("new").exists());
    insta::assert_snapshot!(place.run("import HERE/zeo.conf -C HERE/new --diff", []), @r#"
    exit 0
    -- stdout
    --- /dev/null
    +++ b/etc/zeoraid.yaml
    @@ -0,0 +1,26 @@
    +# Made by `zeoraidctl import` from HERE/zeo.conf.
    +# Behind each value is where it came from; what is not here is the default, and `zeoraidctl show`
    +# lists everything.
    +#
    +# What was not carried over, or has to be looked at:
    +# - zeo.conf:5: `monitor-address 8201` in <zeo>
    +#     there is no monitor port: ask `zeoraidctl status` (also for Nagios), or set `admin.address` and
    +#     let Prometheus read /metrics there
    +# - zeo.conf:9, zeo.conf:13: members that are ZEO servers
    +#     look into the zeo.conf of each: no `transaction-timeout` (ZEO keeps its lock when that strikes),
    +#     a `blob-dir` where there are blobs; and nobody else may write to them, the old daemon included:
    +#     stop it first
    +
    +listen:
    +  - 127.0.0.1:8200  # zeo.conf:3
    +
    +transaction_timeout: 1m  # zeo.conf:4
    +
    +arrays:
    +  main:  # zeo.conf:7
    +    members:
    +      '1':  # zeo.conf:9
    +        zeo: db1:8100  # zeo.conf:10
    +      '2':  # zeo.conf:13
    +        zeo: db2:8100  # zeo.conf:14
    +    cluster_mode: single  # zeo.conf:8
    "#);
    insta::assert_snapshot!(place.run("import HERE/zeo.conf -C HERE/new --quiet -o json", []), @r##"
    exit 0
    -- stdout
    {
      "files": [
        "HERE/zeo.conf"
      ],
      "to": "HERE/new/etc/zeoraid.yaml",
      "action": "create",
      "written": true,
      "listen": [
        "127.0.0.1:8200"
      ],
      "arrays": [
        {
          "name": "main",
          "aliases": [
            "1"
          ],
          "cluster_mode": "single",
          "members": [
            {
              "name": "1",
              "type": "zeo",
              "where": "db1:8100",
              "storage": "1",
              "from": "zeo.conf:9"
            },
            {
              "name": "2",
              "type": "zeo",
              "where": "db2:8100",
              "storage": "1",
              "from": "zeo.conf:13"
            }
          ]
        }
      ],
      "notes": [
        {
          "kind": "to-do",
          "places": [
            "zeo.conf:5"
          ],
          "what": "`monitor-address 8201` in <zeo>",
          "mend": "there is no monitor port: ask `zeoraidctl status` (also for Nagios), or set `admin.address` and let Prometheus read /metrics there"
        },
        {
          "kind": "to-do",
          "places": [
            "zeo.conf:9",
            "zeo.conf:13"
          ],
          "what": "members that are ZEO servers",
          "mend": "look into the zeo.conf of each: no `transaction-timeout` (ZEO keeps its lock when that strikes), a `blob-dir` where there are blobs; and nobody else may write to them, the old daemon included: stop it first"
        },
        {
          "kind": "known",
          "places": [
            "zeo.conf:11",
            "zeo.conf:15"
          ],
          "what": "`wait false` in <zeoclient>",
          "mend": "the daemon starts without a member that does not answer, where others suffice"
        }
      ],
      "mistakes": [],
      "warnings": [],
      "configuration": "# Made by `zeoraidctl import` from HERE/zeo.conf.\n# Behind each value is where it came from; what is not here is the default, and `zeoraidctl show`\n# lists everything.\n#\n# What was not carried over, or has to be looked at:\n# - zeo.conf:5: `monitor-address 8201` in <zeo>\n#     there is no monitor port: ask `zeoraidctl status` (also for Nagios), or set `admin.address` and\n#     let Prometheus read /metrics there\n# - zeo.conf:9, zeo.conf:13: members that are ZEO servers\n#     look into the zeo.conf of each: no `transaction-timeout` (ZEO keeps its lock when that strikes),\n#     a `blob-dir` where there are blobs; and nobody else may write to them, the old daemon included:\n#     stop it first\n\nlisten:\n  - 127.0.0.1:8200  # zeo.conf:3\n\ntransaction_timeout: 1m  # zeo.conf:4\n\narrays:\n  main:  # zeo.conf:7\n    members:\n      '1':  # zeo.conf:9\n        zeo: db1:8100  # zeo.conf:10\n      '2':  # zeo.conf:13\n        zeo: db2:8100  # zeo.conf:14\n    cluster_mode: single  # zeo.conf:8\n"
    }
    "##);
    insta::assert_snapshot!(place.run("import HERE/zeo.conf -C HERE/new", []), @r#"
    exit 0
    -- stdout
    HERE/new/etc/zeoraid.yaml: up to date with HERE/zeo.conf
      clients connect to 127.0.0.1:8200

    Array main, cluster mode single; answers to 1 as well
      MEMBER  TYPE  WHERE     FROM
      1       zeo   db1:8100  zeo.conf:9
      2       zeo   db2:8100  zeo.conf:13

    To do:
      zeo.conf:5: `monitor-address 8201` in <zeo>
          there is no monitor port: ask `zeoraidctl status` (also for Nagios), or
          set `admin.address` and let Prometheus read /metrics there
      zeo.conf:9, zeo.conf:13: members that are ZEO servers
          look into the zeo.conf of each: no `transaction-timeout` (ZEO keeps its
          lock when that strikes), a `blob-dir` where there are blobs; and nobody
          else may write to them, the old daemon included: stop it first

    Nothing to do:
      zeo.conf:11, zeo.conf:15: `wait false` in <zeoclient>
          the daemon starts without a member that does not answer, where others
          suffice
    -- stderr
    Next: what is under "To do", then: zeoraidctl -C HERE/new start
    "#);
    insta::assert_snapshot!(place.run("check-config -C HERE/new", []), @r#"
    exit 0
    -- stdout
    ✔ etc/zeoraid.yaml: no mistakes
    "#);
}

#[test]
fn what_is_there_is_replaced_only_when_a_person_says_so() {
    let place = Place::new(RAID);
    place.run("import HERE/zeo.conf -C HERE/new", []);
    let ours = place.read("new/etc/zeoraid.yaml");
    std::fs::write(place.path().join("new/etc/zeoraid.yaml"), "mine").unwrap();
    insta::assert_snapshot!(place.run("import HERE/zeo.conf -C HERE/new --yes -q", []), @r#"
    exit 2
    -- stderr
    error: there is no terminal to ask on ("HERE/new/etc/zeoraid.yaml is there already. Replace it? It stays beside, as .old"); answer it with `--replace`
    HERE/new/etc/zeoraid.yaml is there already. Replace it? It stays beside, as .old [y/N]
    "#);
    let refused = place.run(
        "import HERE/zeo.conf -C HERE/new",
        [Answer::Confirm(false), Answer::Default],
    );
    assert!(
        refused.contains("broken off; nothing was changed"),
        "{refused}"
    );
    assert!(
        refused.ends_with("Replace it? It stays beside, as .old [y/N]"),
        "{refused}"
    );
    assert_eq!(place.read("new/etc/zeoraid.yaml"), "mine");
    assert!(!place.path().join("new/etc/zeoraid.yaml.old").exists());
    place.run("import HERE/zeo.conf -C HERE/new --replace", []);
    assert_eq!(place.read("new/etc/zeoraid.yaml"), ours);
    assert_eq!(place.read("new/etc/zeoraid.yaml.old"), "mine");
    let again = place.run("import HERE/zeo.conf -C HERE/new", []);
    assert!(
        again.contains("HERE/new/etc/zeoraid.yaml: up to date with HERE/zeo.conf"),
        "{again}"
    );
}

#[test]
fn at_a_terminal_it_is_shown_before_the_question() {
    let place = Place::new(RAID);
    let shown = place.run(
        "import HERE/zeo.conf --to HERE/x.yaml",
        [Answer::Confirm(true), Answer::Default],
    );
    assert!(
        shown.starts_with("exit 0\n-- stderr\nHERE/x.yaml would be written, from HERE/zeo.conf\n"),
        "{shown}"
    );
    assert!(
        shown.ends_with("✔ HERE/x.yaml is written\nNext: what is under \"To do\", then: zeoraidctl check-config HERE/x.yaml\nWrite HERE/x.yaml? [Y/n]"),
        "{shown}"
    );
}

#[test]
fn what_would_be_wrong_is_not_written_unless_it_is_forced() {
    let tls = RAID.replace(
        "</zeo>",
        "<ssl>\ncertificate HERE/none.pem\nauthenticate SIGNED\npassword-function a.b\n</ssl>\n</zeo>",
    );
    let place = Place::new(&tls.replace("HERE/", "/nowhere/"));
    insta::assert_snapshot!(place.run("import HERE/zeo.conf -C HERE/new -o yaml -q", []).lines().last().unwrap(), @r#"
    Next: mend them in the old file, or write it all the same and mend it there: --force
    "#);
    let shown = place.run("import HERE/zeo.conf -C HERE/new", []);
    insta::assert_snapshot!(shown.split_once("\nMistakes:").unwrap().1, @r#"
    etc/zeoraid.yaml:20:20: listen.1.tls.certificate: /nowhere/none.pem does not exist
        certificate: /nowhere/none.pem  # zeo.conf:7
        a file in PEM form
    -- stderr
    error: what comes of HERE/zeo.conf has mistakes, so it was not written
    Next: mend them in the old file, or write it all the same and mend it there: --force
    "#);
    assert!(!place.path().join("new").exists());
    let forced = place.run("import HERE/zeo.conf -C HERE/new --force", []);
    assert!(forced.starts_with("exit 0\n"), "{forced}");
    assert!(place.path().join("new/etc/zeoraid.yaml").exists());
}

#[test]
fn a_part_of_a_buildout_is_chosen_by_a_flag_or_a_person() {
    let server = |name: &str, port: u16| {
        format!(
            "[{name}]\nrecipe = zc.zodbrecipes:server\nzeo.conf =\n  <zeo>\n    address 127.0.0.1:{port}\n  </zeo>\n  \
             <zeoclient 1>\n    server db1:8100\n  </zeoclient>\n"
        )
    };
    let place = Place::new(&format!(
        "[buildout]\nparts = a b\n{}{}",
        server("a", 1),
        server("b", 2)
    ));
    insta::assert_snapshot!(place.run("import HERE/zeo.conf --to HERE/x.yaml", []), @r#"
    exit 2
    -- stderr
    error: HERE/zeo.conf has several parts with ZEO servers: a, b
    Next: zeoraidctl import HERE/zeo.conf --part a
    "#);
    insta::assert_snapshot!(place.run("import HERE/zeo.conf --to HERE/x.yaml --part c", []), @r#"
    exit 2
    -- stderr
    error: HERE/zeo.conf has no part c with a ZEO server; there are: a, b
    "#);
    let chosen = place.run(
        "import HERE/zeo.conf --to HERE/x.yaml",
        [Answer::Select(1), Answer::Confirm(true), Answer::Default],
    );
    assert!(
        chosen.contains("from [b] of HERE/zeo.conf\n  clients connect to 127.0.0.1:2\n"),
        "{chosen}"
    );
    assert!(
        chosen.contains("Other parts, for instances of their own: a\n"),
        "{chosen}"
    );

    let plain = Place::new(RAID);
    insta::assert_snapshot!(plain.run("import HERE/zeo.conf --part c --to HERE/x.yaml", []), @r#"
    exit 2
    -- stderr
    error: HERE/zeo.conf is no file of a buildout: it has no parts
    "#);
    insta::assert_snapshot!(plain.run("import HERE/none.conf --to HERE/x.yaml", []), @r#"
    exit 1
    -- stderr
    error: could not read HERE/none.conf: No such file or directory (os error 2)
    "#);
    let broken = Place::new("<zeo>\naddress\n</zeo>\n<filestorage>");
    insta::assert_snapshot!(broken.run("import HERE/zeo.conf --to HERE/x.yaml", []), @r#"
    exit 1
    -- stderr
    error: what is to be imported has a mistake
      HERE/zeo.conf:4:1: <filestorage> has no end; write `</filestorage>` after what belongs to it
    "#);
}

/// A first start must not make an empty one in its place, should its disk be away then.
#[test]
fn a_file_that_is_there_is_waited_for_and_one_that_is_not_is_to_be_done() {
    let place = Place::new(
        "<zeo>\n  address 8100\n</zeo>\n<filestorage 1>\n  path Data.fs\n</filestorage>\n",
    );
    let import = "import HERE/zeo.conf -C HERE/new --yes";
    let shown = place.run(import, []);
    assert!(shown.contains("does not exist on this machine"), "{shown}");
    assert!(!place.read("new/etc/zeoraid.yaml").contains("adopted"));
    std::fs::write(place.path().join("Data.fs"), "FS30").unwrap();
    let shown = place.run(&import.replace("new", "again"), []);
    assert!(shown.contains("stop the old server"), "{shown}");
    assert!(
        place
            .read("again/etc/zeoraid.yaml")
            .contains("adopted: true")
    );
}
