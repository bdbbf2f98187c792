//! What the tool prints where there is no terminal: each output whole, as a snapshot, with times, TIDs,
//! ports and rates filtered.

use crate::harness::Instance;
use crate::harness::python::{self, Workers};
use crate::harness::terminal::{CTRL_C, Terminal};

/// What is different each time.
pub(crate) fn filtered() -> Vec<(&'static str, &'static str)> {
    vec![
        (r"0x[0-9a-f]{16}", "[tid]"),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?( UTC)?", "[time]"),
        (r"\d\d:\d\d:\d\d", "[time]"),
        (r"\d\d:\d\d \([^)]*\)", "[since]"),
        (r"127\.0\.0\.1:\d+", "[address]"),
        (r"pid=\d+", "pid=[pid]"),
        (r"/\S*/zr\w+/i", "[instance]"),
        // A dash where nothing was asked lately.
        (r"Data\.fs +(-|[\d.]+ (s|ms|µs)) +", "Data.fs  [latency]  "),
        (r"\d+(\.\d+)? (ms|µs|us)", "[latency]"),
        (r"\d+(\.\d+)? (B|KiB|MiB)", "[bytes]"),
        (r"\d+ (s|min) (left|ago)", "[duration]"),
        (r"[\d ]+ transactions", " [n] transactions"),
        (r"[\d.]+ (loads|commits)/s", "[n] $1/s"),
        (r"\d+ clients?\b", "[n] clients"),
        (r"\d+ objects?\b", "[n] objects"),
        // As wide as the path of the instance.
        (r"WHERE +LATENCY", "WHERE  LATENCY"),
        (r"\d+ tx\b", "[n] tx"),
        // How often a recovery that short is looked at is a matter of luck.
        (r"(?m)^copy\d: .*\n", ""),
        (r"'(main_\w+)'=[\d.]+", "'$1'=[n]"),
        (r" +\n", "\n"),
    ]
}

macro_rules! snapshot {
    ($value:expr, @$snapshot:literal) => {
        insta::with_settings!({ filters => $crate::tool::filtered() }, {
            insta::assert_snapshot!($value, @$snapshot);
        });
    };
}

#[test]
fn init_start_and_details_of_a_new_array() {
    let instance = Instance::new();
    let root = instance.root().to_str().expect("a plain path").to_owned();
    let listen = format!("listen={}", instance.address);
    let run = instance
        .run_bare(&["init", &root, "--yes", "--start", "--set", &listen])
        .ok();
    snapshot!(run.stdout, @r#"
    Instance [instance], recipe embedded
      create     var/
      create     var/log/
      create     bin/zeoraidctl
      create     etc/client.py
      create     etc/zeoraid.yaml
      create     etc/zope-client.conf
    Array main  ● optimal   serving [address]   since [since]
      no transaction yet   [n] objects   [bytes]
      [n] clients   [n] loads/s   [n] commits/s   commit lock free   membership no. 1

      MEMBER  STATE      TYPE  WHERE  LATENCY  LAG
      copy1   ● optimal  file  var/copy1/Data.fs  [latency]  -
      copy2   ● optimal  file  var/copy2/Data.fs  [latency]  -

    Note: copy1 and copy2 are on the same disk: when it fails, both are lost.
    "#);
    snapshot!(run.stderr, @"✔ the daemon serves: [address]; pid=[pid]");
    snapshot!(instance.run(&["status"]).ok().stdout, @"optimal");
    snapshot!(instance.run(&["check-config"]).ok().stdout, @r#"
    note: copy1 and copy2 are on the same disk: when it fails, both are lost
    ✔ etc/zeoraid.yaml: no mistakes
    "#);
    snapshot!(instance.run(&["stop"]).ok().to_string(), @r#"
    exit code 0
    --- stdout
    --- stderr
    ✔ the daemon is stopped; it was pid=[pid]
    ---
    "#);
}

#[test]
fn status_and_details_of_a_degraded_array() {
    let instance = Instance::started(&[]);
    let mut workers = Workers::start(&instance.address, &instance.beside(""), false);
    workers.wait_for_more(2);
    snapshot!(instance.run(&["disable", "copy2", "--yes"]).ok().to_string(), @r#"
    exit code 0
    --- stdout
    --- stderr
    ✔ copy2 is out; bring it back with `zeoraidctl recover copy2`
    ---
    "#);
    workers.wait_for_more(2);
    workers.end();
    snapshot!(instance.run(&["status"]).ended(2).to_string(), @r#"
    exit code 2
    --- stdout
    degraded: 1 of 2 members out (copy2: disabled by an operator)
    --- stderr
    ---
    "#);
    snapshot!(instance.run(&["status", "--nagios"]).ended(2).stdout, @"ZEORAID CRITICAL - degraded: 1 of 2 members out (copy2: disabled by an operator) | 'main_optimal_members'=[n];;2:;0;2 'main_lag_transactions'=[n];;;0 'main_clients'=[n];;;0 'main_loads_per_s'=[n];;;0 'main_commits_per_s'=[n];;;0 'main_commits_waiting'=[n];;;0");
    snapshot!(instance.run(&["details"]).ended(2).stdout, @r#"
    Array main  ● degraded   serving [address]   since [since]
      head [tid]  [time]   [n] objects   [bytes]
      [n] clients   [n] loads/s   [n] commits/s   commit lock free   membership no. 2
      Clients work on. copy1 alone holds every transaction: until another member is
      recovered, losing it loses data.

      MEMBER  STATE       TYPE  WHERE  LATENCY  LAG
      copy1   ● optimal   file  var/copy1/Data.fs  [latency]  -
      copy2   ✖ degraded  file  var/copy2/Data.fs  [latency]  [n] tx, [bytes]
              out since [since]: disabled by an operator; waits for `zeoraidctl
              recover copy2`

    Note: copy1 and copy2 are on the same disk: when it fails, both are lost.

    Next: zeoraidctl recover --interactive
    "#);
    snapshot!(instance.run(&["recover", "--verify"]).ok().to_string(), @r#"
    exit code 0
    --- stdout
    --- stderr
    ✔ copy2 is optimal. The array is optimal.
    ---
    "#);
    snapshot!(instance.run(&["recover"]).ok().to_string(), @r#"
    exit code 0
    --- stdout
    --- stderr
    ✔ every member of main is optimal
    ---
    "#);
    snapshot!(instance.run(&["recover", "copy9"]).ended(1).to_string(), @r#"
    exit code 1
    --- stdout
    --- stderr
    error: there is no member copy9; main has: copy1, copy2
    Next: zeoraidctl details
    ---
    "#);
}

#[test]
fn without_a_daemon_each_command_says_which_one_starts_it() {
    let instance = Instance::made(&[]);
    snapshot!(instance.run(&["status"]).ended(3).to_string(), @r#"
exit code 3
--- stdout
unknown: no daemon runs: unix:[instance]/var/zeoraid.sock: there is no such socket
Next: zeoraidctl start
--- stderr
---
"#);
    snapshot!(instance.run(&["details"]).ended(3).to_string(), @r#"
    exit code 3
    --- stdout
    --- stderr
    error: no daemon runs: unix:[instance]/var/zeoraid.sock: there is no such socket
    Next: zeoraidctl start
    ---
    "#);
    snapshot!(instance.run(&["recover", "copy2"]).ended(1).to_string(), @r#"
    exit code 1
    --- stdout
    --- stderr
    error: no daemon runs: unix:[instance]/var/zeoraid.sock: there is no such socket
    Next: zeoraidctl start
    ---
    "#);
    snapshot!(instance.run(&["stop"]).to_string(), @r#"
    exit code 0
    --- stdout
    --- stderr
    no daemon runs
    ---
    "#);
}

#[test]
fn without_a_terminal_a_question_names_the_flag_that_answers_it() {
    let instance = Instance::started(&[]);
    let run = instance.run(&["disable", "copy2"]).ended(2);
    assert!(run.stderr.contains("--yes"), "{run}");
    assert_eq!(instance.member("copy2")["state"], "optimal");
    instance.run(&["disable", "copy2", "--yes"]).ok();
    // The last one is refused whatever is said.
    let run = instance.run(&["disable", "copy1", "--yes"]).ended(1);
    assert!(run.stderr.contains("last optimal member"), "{run}");
    python::run("features.py", &["plain_visit", &instance.address]).ok();
}

#[test]
fn json_and_yaml_say_what_the_table_says() {
    let instance = Instance::started(&[]);
    let json = instance.run(&["details", "-o", "json"]).ok().stdout;
    let yaml = instance.run(&["details", "-o", "yaml"]).ok().stdout;
    let json: serde_json::Value = serde_json::from_str(&json).expect("it is JSON");
    let yaml: serde_json::Value = serde_yaml::from_str(&yaml).expect("it is YAML");
    for value in [&json, &yaml] {
        assert_eq!(value["arrays"][0]["members"][1]["name"], "copy2");
        assert_eq!(value["arrays"][0]["state"], "optimal");
    }
    let status = instance.run(&["status", "-o", "json"]).ok().stdout;
    let status: serde_json::Value = serde_json::from_str(&status).expect("it is JSON");
    assert_eq!(status["pid"].as_i64(), instance.pid().map(i64::from));
}

#[test]
fn a_reload_adds_a_member_and_takes_it_away_while_clients_work() {
    let instance = Instance::started(&[]);
    let mut workers = Workers::start(&instance.address, &instance.beside(""), false);
    workers.wait_for_more(3);
    let before = std::fs::read_to_string(instance.config()).expect("init wrote it");
    instance.configure(
        "members:",
        "      copy3: {file: var/copy3/Data.fs, blob_dir: var/copy3/blobs}",
    );
    instance.run(&["reload"]).ok();
    instance.member("copy3");
    workers.wait_for_more(3);
    // It was never out for a reason: it is filled without being asked to.
    instance.wait_optimal();
    workers.wait_for_more(3);
    std::fs::write(instance.config(), before).expect("writing the configuration");
    instance.run(&["reload"]).ok();
    let details = instance.details();
    assert_eq!(
        details["members"].as_array().map(Vec::len),
        Some(2),
        "{details}"
    );
    workers.wait_for_more(3);
    assert_eq!(workers.end().errors, 0);
    python::verify(&instance.given_back(), &workers.logs());
}

#[test]
fn the_log_the_events_and_the_configuration_are_shown() {
    let instance = Instance::started(&[]);
    instance.run(&["disable", "copy2", "--yes"]).ok();
    instance.run(&["recover", "copy2"]).ok();
    let log = instance.run(&["logtail"]).ok().stdout;
    assert!(log.contains("copy2"), "{log}");
    let happened = instance.run(&["events"]).ok().stdout;
    let taken_out = happened
        .find("copy2 was taken out")
        .expect("it is remembered");
    assert!(
        happened[taken_out..].contains("copy2 is optimal"),
        "{happened}"
    );
    let mut events = Terminal::run(&instance, 120, &["events", "-f"]);
    events.wait("copy2 is optimal");
    instance.run(&["disable", "copy1", "--yes"]).ok();
    events.wait("copy1 was taken out");
    events.press(CTRL_C);
    events.end();
    let shown = instance.run(&["show"]).ok().stdout;
    assert!(
        shown.contains("arrays.main.min_optimal") && shown.contains("default"),
        "{shown}"
    );
    assert!(shown.contains("etc/zeoraid.yaml:"), "{shown}");
}
