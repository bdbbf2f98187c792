//! Commands that read an instance's files: the configuration, the log, a `Data.fs`.

use super::*;

/// A folder whose name does not show.
struct Place(tempfile::TempDir);

impl Place {
    fn new(files: &[(&str, &[u8])]) -> Self {
        let place = Place(tempfile::tempdir().unwrap());
        for (name, bytes) in files {
            let path = place.0.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        place
    }

    fn run(&self, bench: &Bench, lines: &[&str]) -> String {
        let path = self.0.path().canonicalize().unwrap();
        let path = path.to_str().unwrap();
        let lines: Vec<String> = lines
            .iter()
            .map(|line| line.replace("HERE", path))
            .collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        session(bench, &lines).replace(path, "HERE")
    }
}

const GOOD: &str = "\
listen: 127.0.0.1:8100
arrays:
  main:
    members:
      copy1: {file: var/copy1/Data.fs}
      zeo2: {zeo: 'db2.example.org:8100'}
";

const WRONG: &str = "\
lisen: 127.0.0.1:8100
arrays:
  main:
    min_optimal: 7
    members:
      copy1: {file: var/copy1/Data.fs}
      copy2: {file: var/copy1/Data.fs}
";

const LOG: &str = "2026-11-20T09:12:07Z  WARN copy2 was taken out: connection refused\n\
                   2026-11-20T09:12:08Z  INFO serving\n";

#[test]
fn a_configuration_is_checked_and_shown() {
    let place = Place::new(&[
        ("good/etc/zeoraid.yaml", GOOD.as_bytes()),
        ("wrong/etc/zeoraid.yaml", WRONG.as_bytes()),
    ]);
    let shown = place.run(
        &Bench::new(optimal()),
        &[
            "check-config -C HERE/good",
            "check-config -C HERE/good -o json",
            "check-config -C HERE/wrong",
            "check-config -C HERE/wrong -o json",
            "check-config HERE/nowhere.yaml",
            "show -C HERE/wrong --file",
            "show -C HERE/good --file arrays.main.members",
            "show -C HERE/good --file arrays.main.members -o json",
        ],
    );
    let mut terminal = Bench::new(optimal());
    terminal.terminal = true;
    let shown =
        shown + "# at a terminal\n" + &place.run(&terminal, &["check-config -C HERE/wrong"]);
    let mut narrow = Bench::new(optimal());
    narrow.width = 40;
    let show = "show -C HERE/good --file arrays.main.members";
    let shown = shown + "# 40 columns\n" + &place.run(&narrow, &[show]);
    insta::assert_snapshot!("configuration", shown);
}

#[test]
fn without_a_daemon_what_is_about_the_process_says_so() {
    let journal = format!("{GOOD}log: {{target: journal}}\n");
    let place = Place::new(&[
        ("good/etc/zeoraid.yaml", GOOD.as_bytes()),
        ("good/var/log/zeoraid.log", LOG.as_bytes()),
        ("young/etc/zeoraid.yaml", GOOD.as_bytes()),
        ("journal/etc/zeoraid.yaml", journal.as_bytes()),
        ("wrong/etc/zeoraid.yaml", WRONG.as_bytes()),
    ]);
    let shown = place.run(
        &Bench::new(optimal()),
        &[
            "kill -C HERE/good",
            "kill -C HERE/good NOTHING",
            "wait -C HERE/good",
            "wait -C HERE/good -o json",
            "stop -C HERE/good",
            "stop -C HERE/good -o json",
            "start -C HERE/wrong",
            "restart -C HERE/wrong",
            "start -C HERE/nowhere",
            "logtail -C HERE/good",
            "logtail -C HERE/good -n 1",
            "logtail -C HERE/young",
            "logtail -C HERE/journal",
            "logtail --admin http://db.example.org:8101",
        ],
    );
    insta::assert_snapshot!("process", shown);
}

/// A transaction of a `Data.fs` with one new object.
fn committed(position: u64, tid: u64, description: &str) -> Vec<u8> {
    let (user, data) = (b"admin", b"cmodule\nname\n.}.");
    let head = 23 + user.len() + description.len();
    let length = (head + 42 + data.len()) as u64;
    let mut bytes = tid.to_be_bytes().to_vec();
    bytes.extend(length.to_be_bytes());
    bytes.push(b' ');
    bytes.extend((user.len() as u16).to_be_bytes());
    bytes.extend((description.len() as u16).to_be_bytes());
    bytes.extend(0_u16.to_be_bytes());
    bytes.extend(user);
    bytes.extend(description.as_bytes());
    for number in [tid, tid, 0, position] {
        bytes.extend(number.to_be_bytes());
    }
    bytes.extend(0_u16.to_be_bytes());
    bytes.extend((data.len() as u64).to_be_bytes());
    bytes.extend(data);
    bytes.extend(length.to_be_bytes());
    bytes
}

fn data_fs() -> Vec<u8> {
    let mut bytes = b"FS21".to_vec();
    let long = "/Plone/news/2026/november/a-page-with-a-name-that-goes-on/edit, the text of it";
    for (number, description) in ["initial database creation", long, ""].iter().enumerate() {
        let tid = 0x040d_23c8_1c00_0000 + (number as u64) * 0x0100_0000;
        bytes.extend(committed(bytes.len() as u64, tid, description));
    }
    bytes
}

#[test]
fn a_file_is_looked_into() {
    let good = data_fs();
    let mut half = good.clone();
    half.extend(&good[4..60]);
    let mut damaged = good.clone();
    // The pointer of the last record to its transaction.
    let at = damaged.len() - 8 - 16 - 10 - 8 + 7;
    damaged[at] ^= 1;
    let place = Place::new(&[
        ("good.fs", &good),
        ("half.fs", &half),
        ("damaged.fs", &damaged),
        ("empty.fs", b"FS21"),
        ("other.fs", b"PK\x03\x04 something else"),
    ]);
    let bench = Bench::new(Vec::new());
    // How often it is looked meanwhile is a matter of luck: quietly.
    let shown = place.run(
        &bench,
        &[
            "inspect -q HERE/good.fs",
            "inspect -q HERE/good.fs -o json",
            "inspect -q HERE/good.fs --check",
            "inspect -q HERE/good.fs --transactions",
            "inspect -q HERE/good.fs --transactions 1 -o json",
            "inspect -q HERE/half.fs",
            "inspect -q HERE/damaged.fs --check",
            "inspect -q HERE/damaged.fs --check -o json",
            "inspect -q HERE/empty.fs",
            "inspect -q HERE/empty.fs --transactions",
            "inspect -q HERE/other.fs",
            "inspect -q HERE/nowhere.fs",
        ],
    );
    let mut narrow = Bench::new(Vec::new());
    narrow.width = 40;
    let lines = ["inspect -q HERE/half.fs", "inspect -q HERE/half.fs -t 2"];
    let shown = shown + "# 40 columns\n" + &place.run(&narrow, &lines);
    insta::assert_snapshot!("inspect", shown);
}

#[test]
fn the_rest_that_prints() {
    let mut terminal = Bench::new(optimal());
    terminal.terminal = true;
    terminal.width = 60;
    let bench = Bench::new(optimal());
    let commands = [
        "recipe list",
        "recipe list -o json",
        "recipe options single-server",
        "recipe options single-server -o json",
        "show -o json",
        "events",
        "events -f",
        "events -n 1",
        "events --since 8",
        "events -o json",
        "events -o yaml",
        "reload -o json",
        "reopen",
        "disable copy2 --yes -o json",
        "disable copy9 --yes",
    ];
    let shown = session(&bench, &commands)
        + "# a terminal of 60 columns\n"
        + &session(&terminal, &["events", "recipe list"]);
    insta::assert_snapshot!("the-rest", shown);
}
