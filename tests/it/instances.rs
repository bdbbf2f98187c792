//! Instances from their first `init` to `uninstall`: with ZEO servers that `init` sets up, with several daemons,
//! unattended, and with recipes of one's own.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::instance::Run;
use crate::harness::ports::free_port;
use crate::harness::{Instance, python};

/// An instance with ZEO servers of its own. Whatever it started is stopped when it is dropped.
struct WithServers {
    instance: Instance,
    servers: usize,
}

impl WithServers {
    /// Made and started by `init` alone.
    fn started(recipe: &str, daemons: usize, servers: usize) -> Self {
        let addresses = |count: usize| {
            let addresses: Vec<_> = (0..count)
                .map(|_| format!("127.0.0.1:{}", free_port()))
                .collect();
            addresses.join(", ")
        };
        let made = WithServers {
            instance: Instance::new(),
            servers,
        };
        let mut args = vec![
            "init".to_owned(),
            made.instance.root().display().to_string(),
        ];
        args.extend(["--yes", "--start", "--recipe"].map(str::to_owned));
        args.push(recipe.to_owned());
        let python = PathBuf::from(python::program("python").get_program());
        for setting in [
            format!("servers={servers}"),
            format!("listen={}", addresses(daemons)),
            format!("addresses={}", addresses(servers)),
            format!("zeo_python={}", python.display()),
        ] {
            args.extend(["--set".to_owned(), setting]);
        }
        made.instance.run_bare(&args).ok();
        made
    }

    /// A command that `init` wrote.
    fn bin(&self, name: &str, args: &[&str]) -> Run {
        let mut command = Command::new(self.instance.path("bin").join(name));
        command.args(args).current_dir("/");
        Run::of(command)
    }

    /// The generated client, which counts its visits.
    #[track_caller]
    fn visit(&self) -> String {
        let mut client = python::program("python");
        client.arg(self.instance.path("etc/client.py"));
        Run::of(client).ok().stdout
    }

    /// The `<zeoclient>` of the snippet for Zope, read and opened by ZODB itself.
    #[track_caller]
    fn visits_through_the_snippet_for_zope(&self) -> String {
        let mut client = python::program("python");
        client.args([
            "-c",
            "import re, sys, ZODB.config\n\
             text = open(sys.argv[1]).read()\n\
             section = re.search('<zeoclient>.*?</zeoclient>', text, re.S).group()\n\
             db = ZODB.config.databaseFromString('<zodb>\\n%s\\n</zodb>' % section)\n\
             with db.transaction() as connection:\n    print(connection.root()['visits'])\n\
             db.close()",
        ]);
        client.arg(self.instance.path("etc/zope-client.conf"));
        Run::of(client).ok().stdout
    }

    fn servers(&self) -> impl Iterator<Item = String> {
        (1..=self.servers).map(|number| format!("zeo{number}"))
    }

    /// Everything is stopped, taken away, and nothing but what running made is left.
    #[track_caller]
    fn taken_away(&self, daemons: &[&str]) {
        let root = self.instance.root();
        let refused = self.bin("zeoraidctl", &["uninstall", "--yes"]).ended(1);
        refused.says("still runs").says("bin/zeo1 stop");
        assert!(self.instance.config().exists());
        for daemon in daemons {
            self.bin(daemon, &["stop"]).ok();
        }
        for server in self.servers() {
            self.bin(&server, &["stop"]).ok();
        }
        let shown = self.bin("zeoraidctl", &["uninstall", "--dry-run"]).ok();
        shown.prints("  var/zeo1/\n").prints("bin/zeo1\n");
        assert!(self.instance.config().exists(), "a dry run removes nothing");
        self.bin("zeoraidctl", &["uninstall", "--yes"]).ok();
        let left: BTreeSet<_> = files_below(root).into_iter().collect();
        let made_by_running = |path: &str| path.starts_with("var/") || path.starts_with("d2/var/");
        let written: Vec<_> = left.iter().filter(|path| !made_by_running(path)).collect();
        assert!(written.is_empty(), "{written:?}");
        for server in self.servers() {
            assert!(left.contains(&format!("var/{server}/Data.fs")), "{left:?}");
        }
        assert!(!root.join("bin").exists() && !root.join("etc").exists());
    }
}

impl Drop for WithServers {
    fn drop(&mut self) {
        // What is stopped already says so; what is removed cannot be run.
        let stop = |path: PathBuf| Command::new(path).arg("stop").output();
        for name in ["zeoraidctl", "zeoraidctl-d2"] {
            drop(stop(self.instance.path("bin").join(name)));
        }
        for server in self.servers() {
            drop(stop(self.instance.path("bin").join(server)));
        }
    }
}

/// Relative to the folder.
fn files_below(folder: &Path) -> Vec<String> {
    fn look(folder: &Path, root: &Path, files: &mut Vec<String>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                look(&path, root, files);
            } else {
                let path = path.strip_prefix(root).expect("it is below");
                files.push(path.display().to_string());
            }
        }
    }
    let mut files = Vec::new();
    look(folder, folder, &mut files);
    files.sort();
    files
}

#[test]
fn a_daemon_and_its_zeo_servers_are_made_used_and_taken_away() {
    let made = WithServers::started("classic", 1, 2);
    made.instance.wait_optimal();
    assert_eq!(made.visit(), "visits: 1\n");
    made.bin("zeo1", &["status"]).ok().prints("program running");

    // A server is lost, and comes back.
    made.bin("zeo2", &["stop"]).ok();
    assert_eq!(made.visit(), "visits: 2\n");
    made.instance.wait_member("zeo2", "degraded");
    made.bin("zeo2", &["start"]).ok();
    made.instance.wait_optimal();
    assert_eq!(made.visits_through_the_snippet_for_zope(), "2\n");

    // Nothing has to be written again, and nothing that runs is started again.
    made.bin("zeoraidctl", &["update", "--yes"])
        .ok()
        .prints(": up to date");
    let root = made.instance.root().display().to_string();
    let again = made.instance.run_bare(&["init", &root, "--yes", "--start"]);
    let again = again.ok().prints(": up to date");
    assert!(!again.stderr.contains("bin/zeo1"), "{again}");
    made.taken_away(&["zeoraidctl"]);
}

#[test]
fn several_daemons_are_made_used_and_taken_away() {
    let made = WithServers::started("cooperative", 2, 3);
    made.instance.wait_optimal();
    assert_eq!(made.visit(), "visits: 1\n");
    made.bin("zeoraidctl-d2", &["status"])
        .ok()
        .prints("optimal");

    // Clients know both daemons, whichever is lost.
    made.bin("zeoraidctl", &["stop"]).ok();
    assert_eq!(made.visit(), "visits: 2\n");
    made.bin("zeoraidctl", &["start"]).ok();
    made.bin("zeoraidctl-d2", &["stop"]).ok();
    assert_eq!(made.visit(), "visits: 3\n");
    assert_eq!(made.visits_through_the_snippet_for_zope(), "3\n");
    made.bin("zeoraidctl-d2", &["start"]).ok();

    // The commands of the second daemon, too, know what it is made of.
    made.bin("zeoraidctl-d2", &["update", "--yes"])
        .ok()
        .prints(": up to date");
    made.taken_away(&["zeoraidctl", "zeoraidctl-d2"]);
}

#[test]
fn servers_on_other_machines_get_no_files() {
    let instance = Instance::made(&[
        "recipe=classic",
        "generate_servers=no",
        "servers=3",
        "addresses=db1.example.org:8100, db2.example.org:8100, unix:/run/zeo3.sock",
        "storage=main",
    ]);
    assert_eq!(
        files_below(instance.root()),
        [
            ".installed.yaml",
            "bin/zeoraidctl",
            "etc/client.py",
            "etc/zeoraid.yaml",
            "etc/zope-client.conf",
            "recipe.yaml"
        ]
    );
    let config = fs::read_to_string(instance.config()).expect("init wrote it");
    let members =
        "    members:\n      zeo1:\n        zeo: db1.example.org:8100\n        storage: main\n";
    assert!(config.contains(members), "{config}");
    assert!(
        config.contains("        zeo: unix:/run/zeo3.sock\n"),
        "{config}"
    );
    instance.run(&["check-config"]).ok();
}

#[test]
fn what_a_server_lacks_is_said_before_it_is_started() {
    let instance = Instance::made(&["recipe=classic", "zeo_python=/bin/false"]);
    let mut start = Command::new(instance.path("bin/zeo1"));
    start.arg("start");
    let said = Run::of(start).ended(1);
    said.says("zeo1: /bin/false cannot be used")
        .says("--set zeo_python=");
}

/// Another program has the port of a server: that is said by `init`, and `start` of that server is no success.
#[test]
fn a_server_whose_port_is_taken_is_not_said_to_run() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").expect("listening");
    let taken = holder.local_addr().expect("it listens").to_string();
    let free = format!("127.0.0.1:{}", free_port());
    let instance = Instance::new();
    let python = PathBuf::from(python::program("python").get_program());
    let root = instance.root().display().to_string();
    let settings = [
        format!("addresses={taken},{free}"),
        format!("listen=127.0.0.1:{}", free_port()),
        format!("zeo_python={}", python.display()),
    ];
    let mut args = vec!["init", root.as_str(), "--yes", "--recipe", "classic"];
    for setting in &settings {
        args.extend(["--set", setting]);
    }
    let made = instance.run_bare(&args).ok();
    let warning = format!(
        "warning: another program listens at {taken}, so `{root}/bin/zeo1 start` would fail"
    );
    assert!(!made.stderr.contains(&free), "{made}");
    made.says(&warning).says("--set addresses=");

    let server = |name: &str, word: &str| {
        let mut command = Command::new(instance.path("bin").join(name));
        command.arg(word);
        Run::of(command)
    };
    let refused = server("zeo1", "start").ended(1);
    refused.says(&format!(
        "zeo1: it was not started: another program answers at {taken}"
    ));
    // Somebody answers there, and it is not this server.
    server("zeo1", "listens").ended(1);
    drop(holder);
    server("zeo1", "start").ok();
    server("zeo1", "listens").ok();
    server("zeo1", "start").ok().prints("already running");
    server("zeo1", "stop").ok();
    // It ends by its own fault: that is told with what it said.
    fs::write(
        instance.path("etc/zeo2.conf"),
        "<zeo>\n  address oh dear\n</zeo>\n",
    )
    .expect("writing");
    server("zeo2", "start")
        .ended(1)
        .says("zeo2: it did not start, because of a mistake in")
        .says("oh dear");
}

#[test]
fn an_instance_is_made_unattended_changed_and_taken_away() {
    let instance = Instance::new();
    let root = instance.root().display().to_string();
    let answers = instance.beside("answers.yaml");
    let text = format!("name: zodb\nmembers: 3\nlisten: {}\n", instance.address);
    fs::write(&answers, text).expect("writing answers");
    let answers = answers.display().to_string();
    let init = |more: &[&str]| {
        let args = [&["init", &root, "--yes", "--answers", &answers], more].concat();
        instance.run_bare(&args)
    };
    init(&["--dry-run"])
        .ok()
        .prints("create     etc/zeoraid.yaml");
    init(&["--diff"]).ok().prints("+  zodb:");
    assert!(!instance.root().exists());
    init(&[]).ok();
    let written = files_below(instance.root());
    let read = |target: &str| fs::read_to_string(instance.path(target)).expect("it is there");
    assert!(read("etc/zeoraid.yaml").contains("copy3:"));

    // Again, it is left alone; what is edited is kept; and what `recipe.yaml` says anew is written.
    let times = || {
        let time =
            |file: &String| fs::metadata(instance.path(file)).and_then(|file| file.modified());
        written
            .iter()
            .map(time)
            .collect::<Result<Vec<_>, _>>()
            .expect("files have times")
    };
    let before = times();
    init(&[]).ok().prints(": up to date");
    instance
        .run(&["update", "--yes"])
        .ok()
        .prints(": up to date");
    assert_eq!(times(), before);
    fs::write(instance.path("etc/client.py"), "mine\n").expect("writing a file");
    let recipe = read("recipe.yaml").replace("members: 3", "members: 2");
    fs::write(instance.path("recipe.yaml"), recipe).expect("writing a file");
    instance
        .run(&["update", "--diff"])
        .ok()
        .prints("-      copy3:");
    instance
        .run(&["update", "--yes"])
        .ok()
        .prints("rewrite    etc/zeoraid.yaml");
    assert!(!read("etc/zeoraid.yaml").contains("copy3:"));
    assert_eq!(read("etc/client.py"), "mine\n");

    instance.start().ok();
    instance.run(&["uninstall", "--yes"]).ended(1).says("stop");
    instance.stop().ok();
    // The recipe was edited by hand as well.
    instance.run(&["uninstall"]).ended(2).says("--yes");
    let shown = instance.run(&["uninstall", "--yes"]).ok();
    let shown = shown.prints("edited: kept           etc/client.py\n");
    let left = files_below(instance.root());
    let kept: Vec<_> = left
        .iter()
        .filter(|path| !path.starts_with("var/"))
        .collect();
    assert_eq!(kept, ["etc/client.py", "recipe.yaml"], "{shown}");
    assert!(left.contains(&"var/copy1/Data.fs".to_owned()), "{left:?}");

    // What it is made of is known again; so everything can be made anew, and taken away.
    init(&["--set", "members=2", "--edited", "replace"]).ok();
    instance
        .run(&["uninstall", "--yes", "--edited", "remove"])
        .ok();
    let left = files_below(instance.root());
    let kept: Vec<_> = left
        .iter()
        .filter(|path| !path.starts_with("var/"))
        .collect();
    assert_eq!(kept, ["etc/client.py.old"]);
}

#[test]
fn recipes_and_templates_of_ones_own_stand_beside_the_built_in_ones() {
    let instance = Instance::new();
    let write = |path: &str, text: &str| {
        let path = instance.path(path);
        fs::create_dir_all(path.parent().expect("it is in a folder")).expect("a folder");
        fs::write(path, text).expect("writing a file");
    };
    let ours = "description: as we have it\nextends: embedded\n\
        options:\n  - {name: members, prompt: How many, kind: count, default: 3}\n\
        parts:\n  zope:\n  motd: {template: motd, target: etc/motd}\n";
    write("recipes/ours.yaml", ours);
    write("templates/motd", "{{name}} at {{listen}}\n");
    let more = "description: a note\naddition: true\n\
        parts:\n  note: {template: motd, target: 'etc/note{{config.suffix}}', each: config}\n";
    write("recipes/note.yaml", more);
    let root = instance.root().display().to_string();
    instance.init(&["recipe=ours"]).ok();
    let note = instance.path("etc/note");
    assert_eq!(
        fs::read_to_string(instance.path("etc/motd")).expect("it is written"),
        format!("main at {}\n", instance.address)
    );
    assert!(!instance.path("etc/zope-client.conf").exists());
    assert!(!note.exists());
    let list = instance.run(&["recipe", "list"]).ok();
    list.prints("ours").prints("as we have it").prints("a note");

    // Added, kept, taken away.
    instance
        .run_bare(&["init", &root, "--yes", "--with", "note"])
        .ok()
        .prints("ours with note");
    assert!(note.exists());
    instance
        .run(&["update", "--yes"])
        .ok()
        .prints(": up to date");
    instance
        .run_bare(&["init", &root, "--yes"])
        .ok()
        .prints(": up to date");
    let recipe = fs::read_to_string(instance.path("recipe.yaml")).expect("it is written");
    assert!(recipe.contains("recipe: ours\nwith:\n- note\n"), "{recipe}");
    instance
        .run_bare(&["init", &root, "--yes", "--without", "note"])
        .ok();
    assert!(!note.exists());
    let said = instance
        .run_bare(&["init", &root, "--yes", "--without", "note"])
        .ended(2);
    said.says("it is no addition of this instance");
    instance
        .run_bare(&["init", &root, "--recipe", "note"])
        .ended(1)
        .says("is an addition");

    // A mistake is found before anything is written.
    write("templates/motd", "\n{{nmae}}\n");
    let said = instance.run(&["update", "--yes"]).ended(1);
    said.says("templates/motd:2: `nmae` is unknown here");
    instance.run(&["uninstall", "--yes"]).ok();
    assert_eq!(
        files_below(instance.root()),
        ["recipes/note.yaml", "recipes/ours.yaml", "templates/motd"]
    );
}

#[test]
fn what_recipe_new_makes_works_as_it_is() {
    let instance = Instance::made(&[]);
    let said = instance.run(&["recipe", "new", "mine"]).ok();
    said.prints("recipes/mine.yaml\n")
        .prints("templates/mine.txt\n")
        .says("--recipe mine");
    instance
        .run(&["recipe", "new", "mine"])
        .ended(1)
        .says("there is a recipe `mine` already");
    instance
        .run(&["recipe", "new", "embedded"])
        .ended(1)
        .says("(built in)");
    instance
        .run(&["recipe", "new", "../x"])
        .ended(2)
        .says("no name for a recipe");
    instance
        .run(&["recipe", "options", "mine"])
        .ok()
        .prints("contact");
    instance
        .run(&["recipe", "show", "mine"])
        .ok()
        .prints("extends: embedded");

    // It is what another instance can be made of, from the folder of the person.
    let home = instance.beside("home");
    let of_person = |args: &[&str]| {
        let mut command = crate::harness::instance::command();
        command.args(args).current_dir(instance.beside(""));
        command.env("XDG_CONFIG_HOME", &home);
        Run::of(command)
    };
    of_person(&["recipe", "new", "theirs"])
        .ok()
        .prints("home/zeoraid/recipes/theirs.yaml");
    let other = instance.beside("other");
    let other_name = other.display().to_string();
    let contact = "contact=the people downstairs";
    let listen = format!("listen=127.0.0.1:{}", free_port());
    let init = ["init", &other_name, "--yes", "--recipe", "theirs"];
    of_person(&[&init[..], &["--set", contact, "--set", &listen]].concat()).ok();
    let text = fs::read_to_string(other.join("etc/theirs.txt")).expect("it is written");
    assert!(
        text.starts_with("This is main, with 3 copies, served at 127.0.0.1:"),
        "{text}"
    );
    assert!(
        text.contains("ask the people downstairs about it.\n  copy 1: "),
        "{text}"
    );
    of_person(&["-C", &other_name, "recipe", "new", "more", "--user"]).ok();
    assert!(home.join("zeoraid/templates/more.txt").exists());
}
