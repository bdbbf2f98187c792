//! Whole files, and what comes of them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::zconfig::{Import, ImportError, Imported, NoteKind, import};
use crate::config::{ClusterMode, Config};

fn environment(name: &str) -> Option<String> {
    (name == "HOME").then(|| "/home/zope".to_owned())
}

/// A folder with old files in it; its path does not show.
struct Old(tempfile::TempDir);

impl Old {
    fn of(text: &str) -> Old {
        let old = Old(tempfile::tempdir().unwrap());
        old.add("zeo.conf", text);
        old
    }

    fn add(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text.replace("HERE", self.0.path().to_str().unwrap())).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn import_with(&self, change: impl FnOnce(&mut Import<'_>)) -> Result<Imported, ImportError> {
        let files = [self.path("zeo.conf")];
        let mut what = Import {
            files: &files,
            part: None,
            cluster_mode: None,
            base: None,
            environment: &environment,
        };
        change(&mut what);
        import(&what)
    }

    fn import(&self) -> Imported {
        self.import_with(|_| {})
            .unwrap_or_else(|error| panic!("{error:?}"))
    }

    fn shown(&self, text: &str) -> String {
        text.replace(self.0.path().to_str().unwrap(), "HERE")
    }

    /// The configuration without what stands above it.
    fn yaml(&self, imported: &Imported) -> String {
        let lines = imported
            .text
            .lines()
            .skip_while(|line| line.starts_with('#'));
        self.shown(&lines.collect::<Vec<_>>().join("\n"))
    }

    /// Each note in one line, what must be done first.
    fn notes(&self, imported: &Imported) -> String {
        let notes = imported.notes.iter().map(|note| {
            let places: Vec<String> = note.places.iter().map(ToString::to_string).collect();
            let kind = match note.kind {
                NoteKind::ToDo => "!",
                NoteKind::Known => " ",
            };
            format!("{kind} {}: {}", places.join(","), note.what)
        });
        self.shown(&notes.collect::<Vec<_>>().join("\n"))
    }

    fn mistakes(&self) -> String {
        match self.import_with(|_| {}) {
            Err(ImportError::Mistakes(mistakes)) => {
                let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
                self.shown(&lines.join("\n"))
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Read as the daemon reads it: nothing that is written may be wrong.
fn config(imported: &Imported) -> Config {
    let file = Path::new("/srv/new/etc/zeoraid.yaml");
    crate::config::parse(&imported.text, file, Path::new("/srv/new"), &environment)
        .unwrap_or_else(|error| panic!("{error}\n{}", imported.text))
}

#[test]
fn a_plain_server_becomes_an_array_of_one_file() {
    let old = Old::of(
        "%define INSTANCE HERE
<zeo>
  address 8100
  read-only true
  invalidation-queue-size 500
  invalidation-age 3600.5
  transaction-timeout 300
  msgpack yes
  monitor-address 8101
  pid-filename $INSTANCE/var/ZEO.pid
  client-conflict-resolution true
</zeo>
<filestorage 1>
  path $INSTANCE/var/Data.fs
  blob-dir $INSTANCE/var/blobs
  pack-gc false
  pack-keep-old off
  quota 10GB
</filestorage>
<eventlog>
  level debug
  <logfile>
    path $INSTANCE/log/zeo.log
    level warn
    format %(message)s
    max-size 5MB
  </logfile>
  <syslog/>
</eventlog>
<runner>
  program $INSTANCE/bin/runzeo
  user zope
  umask 0027
  backoff-limit 10
</runner>
",
    );
    old.add("var/Data.fs", "");
    let imported = old.import();
    insta::assert_snapshot!(old.yaml(&imported), @r#"
    listen:
      - 0.0.0.0:8100  # zeo.conf:3

    encoding: M5  # zeo.conf:8

    read_only: true  # zeo.conf:4

    transaction_timeout: 5m  # zeo.conf:7

    arrays:
      '1':  # zeo.conf:13
        members:
          copy1:  # zeo.conf:13
            file: HERE/var/Data.fs  # zeo.conf:14
            adopted: true  # zeo.conf:14
            blob_dir: HERE/var/blobs  # zeo.conf:15
        pack_gc: false  # zeo.conf:16
        pack_keep_old: false  # zeo.conf:17
        invalidation_queue: 500  # zeo.conf:5
        invalidation_age: 3600500ms  # zeo.conf:6

    log:
      file: HERE/log/zeo.log  # zeo.conf:23
      level: warn  # zeo.conf:24

    pid_file: HERE/var/ZEO.pid  # zeo.conf:10

    effective_user: zope  # zeo.conf:32

    umask: '027'  # zeo.conf:33
    "#);
    insta::assert_snapshot!(old.notes(&imported), @r#"
    ! zeo.conf:9: `monitor-address 8101` in <zeo>
    ! zeo.conf:14: HERE/var/Data.fs is the old server's file as long as that runs, and so is its address
    ! zeo.conf:18: `quota 10GB` in <filestorage>
    ! zeo.conf:26: `max-size 5MB` in <logfile>
    ! zeo.conf:28: <syslog> in <eventlog>
    ! zeo.conf:34: `backoff-limit 10` in <runner>
      zeo.conf:3: `address 8100` listens on every IPv4 address of this machine, as before
      zeo.conf:11: `client-conflict-resolution true`
      zeo.conf:13: <filestorage 1> is one copy
      zeo.conf:25: `format %(message)s` in <logfile>
      zeo.conf:31: `program HERE/bin/runzeo` in <runner>
      zeo.conf:32: `user zope` in <runner>
    "#);
    let config = config(&imported);
    assert_eq!(config.effective_user.as_deref(), Some("zope"));
    assert_eq!(config.umask, Some(0o027));
}

#[test]
fn a_user_and_umask_that_cannot_be_taken_over_are_said() {
    let server =
        "<zeo>\n  address 8100\n</zeo>\n<filestorage>\n  path HERE/Data.fs\n</filestorage>\n";
    let with = |keys: &str| Old::of(&format!("{server}<runner>\n{keys}</runner>\n"));
    let imported = with("  user 1001\n  umask 777\n").import();
    let notes: Vec<_> = imported
        .notes
        .iter()
        .map(|note| (note.kind, note.mend.as_str()))
        .collect();
    for mend in ["the login name", "could not use its own files"] {
        let found = notes.iter().find(|(_, said)| said.contains(mend));
        assert_eq!(
            found.map(|(kind, _)| *kind),
            Some(NoteKind::ToDo),
            "{mend}: {notes:?}"
        );
    }
    let read = config(&imported);
    assert_eq!((read.effective_user, read.umask), (None, None));

    // In the shape that Python takes as well; and where there is no user, none is made up.
    let read = config(&with("  umask 0o2\n").import());
    assert_eq!((read.effective_user, read.umask), (None, Some(0o002)));
}

#[test]
fn a_raid_becomes_an_array_of_servers() {
    let old = Old::of(
        "%import gocept.zeoraid
%import ZEO
<zeo>
  address 127.0.0.1:8200
</zeo>
<raidstorage Main>
  cluster-mode single
  fail-mode read-only
  read-only false
  blob-dir /srv/blobs
  <zeoclient 1>
    server DB1:8100
    server db1b:8100
    storage data
    wait false
    cache-size 128MB
    blob-dir /srv/cache1
    username zope
    password secret
  </zeoclient>
  <zeoclient 2>
    server [::1]:8100
    wait false
    blob-dir /srv/cache2
    shared-blob-dir on
  </zeoclient>
  <clientstorage>
    server /run/zeo.sock
    <ssl>
      certificate HERE/me.pem
      authenticate SIGNED
      server-hostname db3
      check-hostname no
    </ssl>
  </clientstorage>
  <mappingstorage cache/>
</raidstorage>
",
    );
    old.add("me.pem", "");
    let imported = old.import();
    insta::assert_snapshot!(old.yaml(&imported), @r#"
    listen:
      - 127.0.0.1:8200  # zeo.conf:4

    arrays:
      main:  # zeo.conf:6
        members:
          '1':  # zeo.conf:11
            zeo: db1:8100  # zeo.conf:12
            storage: data  # zeo.conf:14
          '2':  # zeo.conf:21
            zeo: '[::1]:8100'  # zeo.conf:22
          zeo3:  # zeo.conf:27
            zeo: unix:/run/zeo.sock  # zeo.conf:28
            tls:  # zeo.conf:29
              certificate: HERE/me.pem  # zeo.conf:30
              server_name: db3  # zeo.conf:32
              check_hostname: false  # zeo.conf:33
        cluster_mode: single  # zeo.conf:7
        fail_mode: read-only  # zeo.conf:8
        read_only: false  # zeo.conf:9
    "#);
    insta::assert_snapshot!(old.notes(&imported), @r#"
    ! zeo.conf:10: `blob-dir /srv/blobs` in <raidstorage main>
    ! zeo.conf:11,zeo.conf:21,zeo.conf:27: members that are ZEO servers
    ! zeo.conf:13: `server db1b:8100`, a further one in <zeoclient 1>
    ! zeo.conf:18: `username zope` in <zeoclient>
    ! zeo.conf:19: `password …` in <zeoclient>
    ! zeo.conf:24: `blob-dir /srv/cache2` of a member, shared with its server
    ! zeo.conf:36: <mappingstorage cache> cannot be a member
      zeo.conf:3: there is no `transaction-timeout`: a client could hold the commit lock for ever
      zeo.conf:15,zeo.conf:23: `wait false` in <zeoclient>
      zeo.conf:16: `cache-size 128MB` in <zeoclient>
      zeo.conf:17: `blob-dir /srv/cache1` of a member
    "#);
    assert!(!imported.text.contains("secret"));
    config(&imported);
}

/// The topology of the sample that the original came with: two daemons before two of three servers.
#[test]
fn each_part_of_a_buildout_is_a_server_of_its_own() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fixtures/zconfig");
    let files = [fixtures.join("buildout.cfg")];
    let imported = |part| {
        import(&Import {
            files: &files,
            part,
            cluster_mode: None,
            base: None,
            environment: &environment,
        })
    };
    let ImportError::WhichPart { parts, .. } = imported(None).unwrap_err() else {
        panic!("there are several");
    };
    assert_eq!(parts, ["zeo1", "zeo2", "zeo3", "raid1", "raid2"]);
    assert!(matches!(
        imported(Some("versions")),
        Err(ImportError::NoSuchPart { .. })
    ));

    for (part, address) in [("raid1", "127.0.0.1:8200"), ("raid2", "127.0.0.1:8201")] {
        let imported = imported(Some(part)).unwrap();
        assert_eq!(imported.listen, [address]);
        let [array] = imported.arrays.as_slice() else {
            panic!("{:?}", imported.arrays)
        };
        assert_eq!(
            (array.name.as_str(), array.cluster_mode),
            ("main", ClusterMode::Coop)
        );
        let members: Vec<(&str, &str, Option<&str>)> = array
            .members
            .iter()
            .map(|member| {
                (
                    member.name.as_str(),
                    member.at.as_str(),
                    member.storage.as_deref(),
                )
            })
            .collect();
        assert_eq!(
            members,
            [
                ("1", "localhost:8100", Some("1")),
                ("2", "localhost:8101", Some("1"))
            ]
        );
    }
    for (part, port) in [("zeo1", 8100), ("zeo2", 8101), ("zeo3", 8102)] {
        let imported = imported(Some(part)).unwrap();
        assert_eq!(imported.listen, [format!("0.0.0.0:{port}")]);
        let [array] = imported.arrays.as_slice() else {
            panic!("{:?}", imported.arrays)
        };
        let number = part.trim_start_matches("zeo");
        let path = fixtures.join(format!("parts/storage{number}/Data.fs"));
        assert_eq!(Path::new(&array.members[0].at), path);
        assert_eq!(array.name, "1");
    }
}

/// The samples of the original's pages, by their shape: how each is written, and what it is.
#[test]
fn the_samples_of_the_originals_pages_give_the_same_topology() {
    let shape = |text: &str| {
        let old = Old::of(text);
        let imported = old.import();
        config(&imported);
        let arrays = imported.arrays.iter().map(|array| {
            let members = array.members.iter();
            let members =
                members.map(|member| format!("{}={}", member.name, old.shown(&member.at)));
            format!("{} [{}]", array.name, members.collect::<Vec<_>>().join(" "))
        });
        arrays.collect::<Vec<_>>().join("; ")
    };
    // Served by Zope itself, with members that have no names.
    let zope = "%import gocept.zeoraid
<zodb>
  <raidstorage>
    blob-dir HERE/blobs
    <zeoclient>
      server localhost:8100
      storage 1
    </zeoclient>
    <zeoclient>
      server localhost:8101
      storage 1
    </zeoclient>
  </raidstorage>
</zodb>";
    assert_eq!(
        shape(zope),
        "main [zeo1=localhost:8100 zeo2=localhost:8101]"
    );
    // Without a <zeo>.
    let classic = "%import gocept.zeoraid
<raidstorage 1>
  <zeoclient 1>
    server backend1:8100
    storage 1
  </zeoclient>
  <zeoclient 2>
    server backend2:8100
    storage 1
  </zeoclient>
</raidstorage>";
    assert_eq!(shape(classic), "1 [1=backend1:8100 2=backend2:8100]");
    // A key that no schema knows, in the recipe's page.
    let recipe = "%import gocept.zeoraid
<zeo>
  address 5555
  monitor-address 8101
  transaction-timeout 300
</zeo>
<raidstorage 1>
  <zeoclient 1>
    address 8101
  </zeoclient>
</raidstorage>
<eventlog>
  <logfile>
    path STDOUT
  </logfile>
</eventlog>";
    assert_eq!(shape(recipe), "1 [1=127.0.0.1:8101]");
    // Files as members.
    let files = "%import gocept.zeoraid
<raidstorage 1>
  cluster-mode single
  <filestorage 1>
    path HERE/1.fs
  </filestorage>
  <filestorage 2>
    path HERE/2.fs
  </filestorage>
</raidstorage>";
    assert_eq!(shape(files), "1 [1=HERE/1.fs 2=HERE/2.fs]");
    // What a client is told.
    let client = "<zeoclient>
  server localhost:8200
  server localhost:8201
  storage main
</zeoclient>";
    assert_eq!(shape(client), "1 [zeo1=localhost:8200]");
}

#[test]
fn every_arrangement_of_blobs_is_kept_or_said() {
    let raid = |own: &str, first: &str| {
        Old::of(&format!(
            "<zeo>\naddress 1.2.3.4:1\n</zeo>\n<raidstorage r>\n{own}\ncluster-mode single\n<zeoclient a>\nserver a:1\n{first}\n\
             </zeoclient>\n</raidstorage>"
        ))
    };
    let old = raid(
        "blob-dir HERE\nshared-blob-dir yes",
        "blob-dir HERE\nshared-blob-dir yes",
    );
    let imported = old.import();
    let shared = config(&imported).arrays[0].shared_blobs.clone().unwrap();
    assert_eq!(shared.folder, old.0.path());
    assert_eq!(shared.with, crate::config::BlobSharing::Everything);
    assert!(!old.notes(&imported).contains("shares"));

    let old = raid("blob-dir HERE\nshared-blob-dir yes", "blob-dir /elsewhere");
    assert!(
        old.notes(&old.import())
            .contains("a does not say that it shares HERE")
    );
    let old = raid("blob-dir HERE", "blob-dir /cache\nshared-blob-dir yes");
    let imported = old.import();
    assert!(config(&imported).arrays[0].shared_blobs.is_none());
    assert!(
        old.notes(&imported)
            .contains("! zeo.conf:9: `blob-dir /cache` of a member, shared with its server")
    );

    let old = Old::of(
        "<zeo>\naddress 1.2.3.4:1\n</zeo>\n<blobstorage 1>\nblob-dir HERE/b\n<filestorage>\npath HERE/Data.fs\n</filestorage>\n</blobstorage>",
    );
    assert_eq!(
        old.shown(&old.import().arrays[0].members[0].blob_dir.clone().unwrap()),
        "HERE/b"
    );
}

#[test]
fn what_has_no_equivalent_is_said() {
    let old = Old::of(
        "%import collective.magic
instancehome /srv/zope
<zeo>
  address localhost:8100
  magic yes
  authentication-protocol digest
</zeo>
<zlibstorage main>
  <filestorage>
    path var/Data.fs
    create true
  </filestorage>
</zlibstorage>
<filestorage a/b>
  path ~/b.fs
</filestorage>
<mappingstorage temp/>
<magic/>
<zodb_db x>
  cache-size 5000
  <relstorage/>
</zodb_db>
",
    );
    let imported = old.import();
    insta::assert_snapshot!(old.yaml(&imported), @r#"
    listen:
      - localhost:8100  # zeo.conf:4

    arrays:
      main:  # zeo.conf:8
        members:
          copy1:  # zeo.conf:9
            file: HERE/var/Data.fs  # zeo.conf:10
      a-b:  # zeo.conf:14
        aliases:
          - a/b  # zeo.conf:14
        members:
          copy1:  # zeo.conf:14
            file: /home/zope/b.fs  # zeo.conf:15
    "#);
    insta::assert_snapshot!(old.notes(&imported), @r#"
    ! zeo.conf:1: `%import collective.magic`
    ! zeo.conf:5: `magic yes` in <zeo>
    ! zeo.conf:6: `authentication-protocol digest` in <zeo>
    ! zeo.conf:8: <zlibstorage main> compressed what it stored
    ! zeo.conf:10: `path var/Data.fs` is a relative path
    ! zeo.conf:10: HERE/var/Data.fs does not exist on this machine
    ! zeo.conf:11: `create true` in <filestorage>
    ! zeo.conf:15: /home/zope/b.fs does not exist on this machine
    ! zeo.conf:17: <mappingstorage temp> cannot be a member
    ! zeo.conf:18: <magic>
    ! zeo.conf:21: <relstorage> cannot be a member
      zeo.conf:2: `instancehome` outside of all sections
      zeo.conf:3: there is no `transaction-timeout`: a client could hold the commit lock for ever
      zeo.conf:3: there is no `client-conflict-resolution`: the old server resolved conflicts itself, with the classes it had
      zeo.conf:8: <zlibstorage main> is one copy
      zeo.conf:14: <filestorage a/b> is one copy
    "#);
    config(&imported);
}

#[test]
fn mistakes_are_said_all_at_once_with_their_lines() {
    let old = Old::of(
        "<zeo>
  adress 8100
  read-only perhaps
  transaction-timeout soon
</zeo>
<filestorage 1>
</filestorage>
<filestorage>
  path /a
  path /b
</filestorage>
<raidstorage r>
  cluster-mode many
  <zeoclient a>
  </zeoclient>
  <zeoclient a>
    server ::1:8100
  </zeoclient>
</raidstorage>
",
    );
    insta::assert_snapshot!(old.mistakes(), @r#"
    HERE/zeo.conf:1:1: <zeo> has no `address`; add `address 127.0.0.1:8100`: where clients connect
    HERE/zeo.conf:2:1: `adress 8100` in <zeo> is not known
    HERE/zeo.conf:3:1: read-only: `perhaps` is neither yes nor no; write true or false
    HERE/zeo.conf:4:1: transaction-timeout: `soon` is no whole number; write one like 100
    HERE/zeo.conf:6:1: <filestorage 1> has no `path`; add `path FILE`
    HERE/zeo.conf:10:1: <filestorage> has a second `path`; the first is in line 9; remove one of them
    HERE/zeo.conf:13:1: cluster-mode: `many` is not known; write single or coop
    HERE/zeo.conf:14:1: <zeoclient a> has no `server`; add `server HOST:PORT`
    HERE/zeo.conf:17:1: server: `::1:8100` has no port for ZConfig; write `[::1]:8100`
    "#);
    let old = Old::of(
        "<zeo>\n  address $host:8100\n<filestorage 1\n  path /x\n</filestorage>\n%includ x\n",
    );
    insta::assert_snapshot!(old.mistakes(), @r#"
    HERE/zeo.conf:1:1: <zeo> has no end; write `</zeo>` after what belongs to it
    HERE/zeo.conf:2:1: address: `host` is not defined; add `%define host VALUE` before it, or write `$$` for a `$`
    HERE/zeo.conf:3:1: `<filestorage 1` has no `>` at its end; write `<type>` or `<type name>`
    HERE/zeo.conf:5:1: `</filestorage>` ends nothing; `</zeo>` is expected here, for <zeo> of line 1
    HERE/zeo.conf:6:1: `%includ` is not known; known are %define, %import and %include
    "#);
    let old = Old::of("<zeo>\n  address 8100\n</zeo>\n<mappingstorage 1/>");
    insta::assert_snapshot!(old.mistakes(), @r#"
    HERE/zeo.conf:1:1: there is no storage in it that can be taken over: <mappingstorage 1> cannot be a member: it keeps nothing: it is in memory. Leave it out, or make a member of a file; a <filestorage>, <zeoclient>, <clientstorage> or <raidstorage> is expected
    "#);
    let old = Old::of(
        "[buildout]\nparts = zeo\n[zeo]\nrecipe = zc.zodbrecipes:server\nzeo.conf =\n  <zeo>\n  address ${ports:zeo}\n  </zeo>\n  path ${x\n",
    );
    insta::assert_snapshot!(old.mistakes(), @r#"
    HERE/zeo.conf:7:1: `${ports:zeo}` is not known; write the value out, or import the zeo.conf that the buildout wrote
    HERE/zeo.conf:9:1: `${x` is no `${section:option}`; for a `${name}` of ZConfig write `$${name}`
    "#);
}

#[test]
fn a_buildout_is_read_with_what_it_extends_and_refers_to() {
    let old = Old::of(
        "[buildout]
extends = base.cfg https://example.org/versions.cfg
[ports]
zeo = 127.0.0.1:${:number}
number = 9100
[zeo]
zeo.conf +=
    # after it
    <eventlog>
      level $${level}
    </eventlog>
",
    );
    old.add(
        "base.cfg",
        "[buildout]
parts = zeo
[storage]
recipe = zc.recipe.filestorage
path = var/Data.fs
[common]
recipe = zc.zodbrecipes:server
zeo.conf =
    %define level warn
    <zeo>
      address ${ports:zeo}
    </zeo>
    <filestorage 1>
      path ${storage:path}
    </filestorage>
[zeo]
<= common
zeo.conf = ${common:zeo.conf}
",
    );
    let imported = old.import();
    insta::assert_snapshot!(old.yaml(&imported), @r#"
    listen:
      - 127.0.0.1:9100  # base.cfg:18

    arrays:
      '1':  # base.cfg:18
        members:
          copy1:  # base.cfg:18
            file: HERE/var/Data.fs  # base.cfg:18

    log:
      level: warn  # zeo.conf:10
    "#);

    let old = Old::of("[zeoserver]\nrecipe = plone.recipe.zeoserver\nzeo-address = 8100\n");
    assert!(old.mistakes().contains("run the buildout first"));
    old.add(
        "parts/zeoserver/etc/zeo.conf",
        "<zeo>\n  address 127.0.0.1:8100\n</zeo>\n<filestorage 1>\n  path HERE/var/filestorage/Data.fs\n</filestorage>\n",
    );
    assert_eq!(old.import().listen, ["127.0.0.1:8100"]);
}

#[test]
fn a_person_can_say_what_no_file_says() {
    let old = Old::of(
        "<zeo>\naddress 127.0.0.1:8100\n</zeo>\n<raidstorage r>\n<zeoclient a>\nserver a:1\n</zeoclient>\n\
         <zeoclient b>\nserver run/b.sock\n</zeoclient>\n</raidstorage>",
    );
    let imported = old
        .import_with(|what| {
            what.base = Some(Path::new("/srv/old"));
            what.cluster_mode = Some(ClusterMode::Single);
        })
        .unwrap();
    assert_eq!(imported.arrays[0].cluster_mode, ClusterMode::Single);
    assert_eq!(imported.arrays[0].members[1].at, "unix:/srv/old/run/b.sock");
    assert!(
        !old.notes(&imported).contains("relative"),
        "{}",
        old.notes(&imported)
    );
    assert!(
        old.notes(&old.import())
            .contains("`server run/b.sock` is a relative path")
    );
}
