//! `init`, run against folders.

use std::path::{Path, PathBuf};

use crate::cli::prompt::script::Answer;
use crate::cli::testing::Bench;
use crate::recipe::{Kind, Library, OptionSpec, Recipe};

/// A folder whose name does not show in what is printed.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Place(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().canonicalize().unwrap()
    }

    fn read(&self, target: &str) -> String {
        std::fs::read_to_string(self.path().join(target)).unwrap()
    }

    fn run(&self, line: &str, answers: impl IntoIterator<Item = Answer>) -> (String, String) {
        let bench = Bench::new(Vec::new()).answering(answers);
        let shown = self.run_on(&bench, line);
        (shown, bench.questions())
    }

    fn run_on(&self, bench: &Bench, line: &str) -> String {
        let path = self.path().display().to_string();
        bench
            .run(&line.replace("HERE", &path))
            .replace(&path, "HERE")
    }

    fn init(&self, more: &str) -> String {
        self.run(&format!("init HERE --yes {more}"), []).0
    }
}

#[test]
fn an_instance_is_made_and_made_again_without_a_change() {
    let place = Place::new();
    insta::assert_snapshot!(place.init(""), @r#"
    exit 0
    -- stdout
    Instance HERE, recipe embedded
      create     var/
      create     var/log/
      create     bin/zeoraidctl
      create     etc/client.py
      create     etc/zeoraid.yaml
      create     etc/zope-client.conf
    -- stderr
    note: copy1 and copy2 are on the same disk: when it fails, both are lost
    Next: HERE/bin/zeoraidctl start
    "#);
    insta::assert_snapshot!(place.init(""), @r#"
    exit 0
    -- stdout
    Instance HERE, recipe embedded: up to date
    -- stderr
    note: copy1 and copy2 are on the same disk: when it fails, both are lost
    Next: HERE/bin/zeoraidctl start
    "#);
    insta::assert_snapshot!(place.read("recipe.yaml"), @r#"
    # What this instance is made of. Change an answer here, or with
    # `zeoraidctl init --set OPTION=VALUE`, and run `zeoraidctl init` again.
    # `zeoraidctl recipe options embedded` says what can be answered.
    recipe: embedded
    answers:
      admin_address: ''
      adopt: ''
      encoding: Z5
      listen: 127.0.0.1:8100
      log_level: info
      members: 2
      name: main
    "#);
    insta::assert_snapshot!(place.run("check-config -C HERE", []).0, @r#"
    exit 0
    -- stdout
    note: copy1 and copy2 are on the same disk: when it fails, both are lost
    ✔ etc/zeoraid.yaml: no mistakes
    "#);
    let config = place.read("etc/zeoraid.yaml");
    assert!(
        config.contains("      copy2:\n        file: var/copy2/Data.fs\n"),
        "{config}"
    );
    assert!(place.path().join("var").is_dir());
}

#[test]
fn what_follows_from_another_answer_goes_on_following_it() {
    let place = Place::new();
    place.init("");
    insta::assert_snapshot!(place.init("--diff --set members=3"), @r#"
    exit 0
    -- stdout
    --- a/etc/zeoraid.yaml
    +++ b/etc/zeoraid.yaml
    @@ -81,6 +81,9 @@
           copy2:
             file: var/copy2/Data.fs
             blob_dir: var/copy2/blobs
    +      copy3:
    +        file: var/copy3/Data.fs
    +        blob_dir: var/copy3/blobs
     
         # Other names by which clients may ask for this storage. The only array answers to "1", which is
         # what clients ask for unless they are told otherwise.
    "#);
    place.init("--set members=1 --set paths=var/elsewhere.fs");
    assert!(
        place
            .read("recipe.yaml")
            .contains("paths: var/elsewhere.fs")
    );
}

#[test]
fn what_it_is_to_be_is_asked_and_shown_before_it_is_written() {
    let place = Place::new();
    let (shown, questions) = place.run(
        "init HERE",
        [
            Answer::Default,
            Answer::Default,
            Answer::Type("zodb"),
            Answer::Type("8100"),
            Answer::Type("0.0.0.0:8100"),
            Answer::Default,
            Answer::Type("3"),
            Answer::Default,
            Answer::Default,
            Answer::Select(1),
            Answer::Default,
            Answer::Confirm(true),
        ],
    );
    // Which additions there are is said by `recipe list`.
    let asked: Vec<_> = questions
        .lines()
        .filter(|line| !line.starts_with("  [ ]"))
        .collect();
    insta::assert_snapshot!(asked.join("\n"), @r#"
    What is it to be?
        classic  one daemon before ZEO servers, which keep the copies
        cooperative  several daemons, all serving, before the same ZEO servers
      > embedded  one daemon with complete copies of its own (Data.fs files)
        hot-spare  two daemons on two machines and a floating address
          (keepalived)
        single-server  a plain ZEO server replacement with one Data.fs
    And what besides?
          Nagios
    Name of the array [main]
    Where clients connect [127.0.0.1:8100]
      ! `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH` is expected
    Where clients connect [127.0.0.1:8100]
    An existing Data.fs to take over (empty for a new database)
    How many complete copies [2]
    Where the copies lie (on disks of their own, if there are) [var/copy1/Data.fs, var/copy2/Data.fs, var/copy3/Data.fs]
    Where their blobs are kept (of an existing Data.fs, where they are; empty for none) [var/copy1/blobs, var/copy2/blobs, var/copy3/blobs]
    Encoding of the protocol
      > Z5
        M5
    What is logged
        error
        warn
      > info
        debug
        trace
    Write this? [Y/n]
    "#);
    insta::assert_snapshot!(shown, @r#"
    exit 0
    -- stderr
    Clients name it as their storage. The only array of a daemon answers to `1` as well.
    HOST:PORT, [IPV6]:PORT or unix:PATH.
    It is used where it lies, as the first member; the other members are filled from it.
    Paths with commas between, as many as there are to be copies; relative ones are taken from the instance.
    Folders with commas between, one for each copy.
    Z5 is pickle, which every client of ZEO 5 and 6 speaks; M5 is msgpack, for clients that have that package.
    Instance HERE, recipe embedded
      create     var/
      create     var/log/
      create     bin/zeoraidctl
      create     etc/client.py
      create     etc/zeoraid.yaml
      create     etc/zope-client.conf
    ✔ written
    note: copy1, copy2 and copy3 are on the same disk: when it fails, all of them are lost
    Next: HERE/bin/zeoraidctl start
    "#);
    assert!(place.read("etc/zeoraid.yaml").contains("encoding: M5\n"));

    let refused = Place::new();
    let defaults = std::iter::repeat_n(Answer::Default, 10);
    let answers = defaults.chain([Answer::Confirm(false)]);
    let (shown, _) = refused.run("init HERE", answers);
    assert!(
        shown.ends_with("broken off; nothing was changed\n"),
        "{shown}"
    );
    assert_eq!(std::fs::read_dir(refused.path()).unwrap().count(), 0);
}

#[test]
fn without_a_terminal_the_flags_are_named() {
    let place = Place::new();
    insta::assert_snapshot!(place.run("init HERE", []).0, @r#"
    exit 2
    -- stderr
    error: there is no terminal to ask on ("Name of the array"); answer it with `--set name=VALUE` or `--yes`
    "#);
    insta::assert_snapshot!(place.init("--set members=none"), @r#"
    exit 1
    -- stderr
    error: `none` from `--set` is no value for the option `members`: a number from 1 to 16 is expected
    "#);
    insta::assert_snapshot!(place.init("--set colour=red"), @r#"
    exit 1
    -- stderr
    error: `--set` answers `colour`, which is no option of the recipe `embedded`; it has: name, listen, adopt, members, paths, blob_dirs, admin_address, encoding, log_level
    Next: zeoraidctl recipe options embedded
    "#);
    let unknown = place.init("--recipe clasic");
    assert!(
        unknown.starts_with(
            "exit 1\n-- stderr\nerror: there is no recipe `clasic`; there are: classic, "
        ) && unknown.ends_with("Next: zeoraidctl recipe list\n"),
        "{unknown}"
    );
    insta::assert_snapshot!(place.init("--answers HERE/none.yaml").replace(&place.path().display().to_string(), "HERE"), @r#"
    exit 1
    -- stderr
    error: could not read HERE/none.yaml: No such file or directory (os error 2)
    "#);
}

#[test]
fn a_dry_run_and_a_diff_write_nothing() {
    let place = Place::new();
    insta::assert_snapshot!(place.init("--dry-run -o json"), @r#"
    exit 0
    -- stdout
    {
      "instance": "HERE",
      "recipe": "embedded",
      "dry_run": true,
      "folders": [
        "var",
        "var/log"
      ],
      "files": [
        {
          "target": "bin/zeoraidctl",
          "action": "create",
          "changes": true
        },
        {
          "target": "etc/client.py",
          "action": "create",
          "changes": true
        },
        {
          "target": "etc/zeoraid.yaml",
          "action": "create",
          "changes": true
        },
        {
          "target": "etc/zope-client.conf",
          "action": "create",
          "changes": true
        }
      ]
    }
    "#);
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    place.init("");
    insta::assert_snapshot!(place.init("--diff --set log_level=debug"), @r#"
    exit 0
    -- stdout
    --- a/etc/zeoraid.yaml
    +++ b/etc/zeoraid.yaml
    @@ -147,7 +147,7 @@
     
     log:
       file: var/log/zeoraid.log
    -  level: info
    +  level: debug
       # format: text              # or json
       # target: auto              # this file in the background, standard error (or the journal, where that is
       #                           # it) in the foreground; or always: file, stderr, journal
    "#);
    assert!(place.read("etc/zeoraid.yaml").contains("level: info"));
}

#[test]
fn what_was_edited_by_hand_is_kept_or_asked_about() {
    let place = Place::new();
    place.init("");
    let file = place.path().join("etc/zeoraid.yaml");
    let edited = place
        .read("etc/zeoraid.yaml")
        .replace("\n# read_only", "\nread_only");
    std::fs::write(&file, &edited).unwrap();
    insta::assert_snapshot!(place.init(""), @r#"
    exit 0
    -- stdout
    Instance HERE, recipe embedded: up to date
      edited     etc/zeoraid.yaml
    -- stderr
    note: copy1 and copy2 are on the same disk: when it fails, both are lost
    Next: HERE/bin/zeoraidctl start
    "#);
    insta::assert_snapshot!(place.init("--set log_level=debug"), @r#"
    exit 0
    -- stdout
    Instance HERE, recipe embedded
      unchanged  bin/zeoraidctl
      unchanged  etc/client.py
      conflict   etc/zeoraid.yaml   kept; the new one is beside it, as .new
      unchanged  etc/zope-client.conf
    -- stderr
    note: copy1 and copy2 are on the same disk: when it fails, both are lost
    Next: HERE/bin/zeoraidctl start
    "#);
    assert_eq!(place.read("etc/zeoraid.yaml"), edited);
    assert!(place.read("etc/zeoraid.yaml.new").contains("level: debug"));

    let (shown, questions) = place.run(
        "init HERE --set log_level=warn",
        [Answer::Confirm(true), Answer::Select(2)],
    );
    insta::assert_snapshot!(questions, @r#"
    Write this? [Y/n]
    etc/zeoraid.yaml was edited by hand. And now?
      > keep it, and write the new one beside it (etc/zeoraid.yaml.new)
        keep it
        take the new one, and keep the edited one beside it
          (etc/zeoraid.yaml.old)
    "#);
    insta::assert_snapshot!(shown, @r#"
    exit 0
    -- stderr
    Instance HERE, recipe embedded
      unchanged  bin/zeoraidctl
      unchanged  etc/client.py
      conflict   etc/zeoraid.yaml
      unchanged  etc/zope-client.conf
    --- a/etc/zeoraid.yaml
    +++ b/etc/zeoraid.yaml
    @@ -24,7 +24,7 @@
     encoding: Z5
     
     # Clients may not write. (For one array alone, and as a storage that is read-only: there.)
    -read_only: false
    +# read_only: false
     
     # A client that holds the commit lock longer than this loses its connection.
     # transaction_timeout: 1m
    @@ -147,7 +147,7 @@
     
     log:
       file: var/log/zeoraid.log
    -  level: info
    +  level: warn
       # format: text              # or json
       # target: auto              # this file in the background, standard error (or the journal, where that is
       #                           # it) in the foreground; or always: file, stderr, journal
    ✔ written
    note: copy1 and copy2 are on the same disk: when it fails, both are lost
    Next: HERE/bin/zeoraidctl start
    "#);
    assert!(place.read("etc/zeoraid.yaml").contains("level: warn"));
    assert_eq!(place.read("etc/zeoraid.yaml.old"), edited);
}

#[test]
fn every_recipe_and_answer_makes_a_configuration_without_mistakes() {
    let adopted = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(adopted.path(), "FS30").unwrap();
    let adopt = format!("--set adopt={}", adopted.path().display());
    for more in [
        "--recipe single-server",
        "--set members=1",
        "--set members=16",
        "--set listen=[::1]:8100",
        "--set listen=unix:var/zeo.sock",
        "--set name=1",
        "--set encoding=M5 --set log_level=trace",
        "--set config.socket=/run/zeoraid.sock",
        &adopt,
        &format!("--recipe single-server {adopt}"),
        &format!("--set members=1 {adopt}"),
    ] {
        let place = Place::new();
        let shown = place.init(more);
        assert!(shown.starts_with("exit 0\n"), "{more}: {shown}");
        let checked = place.run("check-config -C HERE", []).0;
        assert!(checked.starts_with("exit 0\n"), "{more}: {checked}");
        if more.contains("adopt") {
            let first = format!(
                "copy1:\n        file: {}\n        adopted: true ",
                adopted.path().display()
            );
            assert!(place.read("etc/zeoraid.yaml").contains(&first), "{more}");
        }
    }
}

#[test]
fn a_path_that_is_too_long_for_a_socket_is_found_before_anything_is_written() {
    let place = Place::new();
    let deep = place.path().join("d".repeat(100));
    let shown = Bench::new(Vec::new()).run(&format!("init {} --yes", deep.display()));
    assert!(shown.starts_with("exit 1\n"), "{shown}");
    assert!(
        shown.contains("the path of a Unix socket may have")
            && shown.contains("--set config.socket="),
        "{shown}"
    );
    assert!(!Path::new(&deep).exists());
}

/// Runs a script that was just written. A process that another test is starting may have it open for
/// writing until its exec, and so long it cannot be run.
fn output_of(script: &Path, arguments: &[&str]) -> std::process::Output {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let output = std::process::Command::new(script).args(arguments).output();
        match output {
            Err(error)
                if error.kind() == std::io::ErrorKind::ExecutableFileBusy
                    && std::time::Instant::now() < deadline =>
            {
                std::thread::yield_now();
            }
            output => return output.unwrap(),
        }
    }
}

#[test]
fn the_wrapper_knows_its_folder_and_program() {
    let place = Place::new();
    place.init("");
    let wrapper = place.path().join("bin/zeoraidctl");
    // The program of this test is not zeoraidctl, but it is there and can be run.
    let shown = output_of(&wrapper, &["--list"]);
    assert!(shown.status.success(), "{shown:?}");
    std::fs::write(
        &wrapper,
        place
            .read("bin/zeoraidctl")
            .replace("program=", "program=/gone"),
    )
    .unwrap();
    let gone = output_of(&wrapper, &[]);
    let said = String::from_utf8(gone.stderr).unwrap();
    assert!(said.contains("is gone; run `zeoraidctl init"), "{said}");
}

#[test]
fn mistakes_of_a_configuration_are_shown_with_line_and_mend() {
    let place = Place::new();
    place.init("");
    let text = place
        .read("etc/zeoraid.yaml")
        .replace("encoding: Z5", "encodng: Z5")
        .replace("listen: 127.0.0.1:8100", "listen: 8100")
        .replace("level: info", "level: loud");
    std::fs::write(place.path().join("etc/zeoraid.yaml"), text).unwrap();
    insta::assert_snapshot!(place.run("check-config -C HERE", []).0, @r#"
    exit 1
    -- stdout
    etc/zeoraid.yaml:20:9: listen: `8100` is only a port
        write `127.0.0.1:8100` for clients on this machine, `0.0.0.0:8100` for all
    etc/zeoraid.yaml:24:1: the configuration knows no `encodng`
        did you mean `encoding`?
    etc/zeoraid.yaml:150:10: log.level: `loud` is not known
        one of error, warn, info, debug, trace
    3 mistakes
    "#);
    insta::assert_snapshot!(place.run("check-config -C HERE -o json", []).0, @r#"
    exit 1
    -- stdout
    {
      "file": "etc/zeoraid.yaml",
      "ok": false,
      "mistakes": [
        {
          "file": "etc/zeoraid.yaml",
          "line": 20,
          "column": 9,
          "what": "listen: `8100` is only a port",
          "mend": "write `127.0.0.1:8100` for clients on this machine, `0.0.0.0:8100` for all"
        },
        {
          "file": "etc/zeoraid.yaml",
          "line": 24,
          "column": 1,
          "what": "the configuration knows no `encodng`",
          "mend": "did you mean `encoding`?"
        },
        {
          "file": "etc/zeoraid.yaml",
          "line": 150,
          "column": 10,
          "what": "log.level: `loud` is not known",
          "mend": "one of error, warn, info, debug, trace"
        }
      ],
      "warnings": [],
      "notes": []
    }
    "#);
    insta::assert_snapshot!(place.run("show --file -C HERE", []).0, @r#"
    exit 1
    -- stderr
    error: the configuration has 3 mistakes
      etc/zeoraid.yaml:20:9: listen: `8100` is only a port; write `127.0.0.1:8100` for clients on this machine, `0.0.0.0:8100` for all
      etc/zeoraid.yaml:24:1: the configuration knows no `encodng`; did you mean `encoding`?
      etc/zeoraid.yaml:150:10: log.level: `loud` is not known; one of error, warn, info, debug, trace
    Next: zeoraidctl check-config
    "#);
    insta::assert_snapshot!(place.init("--set members=3"), @r#"
    exit 0
    -- stdout
    Instance HERE, recipe embedded
      unchanged  bin/zeoraidctl
      unchanged  etc/client.py
      conflict   etc/zeoraid.yaml   kept; the new one is beside it, as .new
      unchanged  etc/zope-client.conf
    -- stderr
    warning: etc/zeoraid.yaml was edited by hand and has mistakes:
      etc/zeoraid.yaml:20:9: listen: `8100` is only a port; write `127.0.0.1:8100` for clients on this machine, `0.0.0.0:8100` for all
      etc/zeoraid.yaml:24:1: the configuration knows no `encodng`; did you mean `encoding`?
      etc/zeoraid.yaml:150:10: log.level: `loud` is not known; one of error, warn, info, debug, trace
    Next: HERE/bin/zeoraidctl check-config
    "#);
}

#[test]
fn every_addition_goes_with_every_recipe() {
    let library = Library::built_in();
    let is_addition = |name: &String| Recipe::load(&library, name).unwrap().addition;
    let (additions, bases): (Vec<_>, Vec<_>) = library.recipes().into_iter().partition(is_addition);
    for base in &bases {
        let all = additions.join(",");
        for with in additions.iter().chain([&all]) {
            let place = Place::new();
            let names: Vec<_> = with.split(',').map(str::to_owned).collect();
            // What has no default, because nobody can know it.
            let recipe = Recipe::combined(&library, base, &names).unwrap();
            let open = recipe
                .options
                .iter()
                .filter(|o| o.default.is_none() && !o.optional);
            let answers: Vec<_> = open
                .map(|option| format!("--set {}={}", option.name, some(&recipe, option)))
                .collect();
            let answers = answers.join(" ");
            let shown = place.init(&format!("--recipe {base} --with {with} {answers}"));
            assert!(shown.starts_with("exit 0\n"), "{base} with {with}: {shown}");
            let checked = place.run("check-config -C HERE", []).0;
            assert!(
                checked.starts_with("exit 0\n"),
                "{base} with {with}: {checked}"
            );
            let again = place.run("update -C HERE --yes", []).0;
            assert!(
                again.contains(": up to date\n"),
                "{base} with {with}: {again}"
            );
            let gone = place.run("uninstall -C HERE --yes", []).0;
            assert!(
                gone.ends_with("Nothing is left.\n"),
                "{base} with {with}: {gone}"
            );
            assert_eq!(
                std::fs::read_dir(place.path()).unwrap().count(),
                0,
                "{base} with {with}"
            );
        }
    }
}

/// Something that will do for an option.
fn some(recipe: &Recipe, option: &OptionSpec) -> String {
    let one = match option.kind {
        Kind::Text | Kind::Word | Kind::Path | Kind::Paths => "x",
        Kind::Count => "1",
        Kind::Flag => "yes",
        Kind::Choice(_) => panic!("a choice has a default"),
        Kind::Address | Kind::Addresses => "192.0.2.1:700",
    };
    let count = option
        .as_many_as
        .as_deref()
        .and_then(|name| recipe.option(name));
    let count = count.and_then(|count| count.default.as_deref()?.parse().ok());
    let several: Vec<_> = (1..=count.unwrap_or(1))
        .map(|number: u16| format!("{one}{number}"))
        .collect();
    match option.kind {
        Kind::Paths | Kind::Addresses => several.join(","),
        Kind::Address => several[0].clone(),
        _ => one.to_owned(),
    }
}
