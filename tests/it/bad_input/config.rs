//! Mistakes in the configuration: all at once, each with its line and how to mend it.

use std::fs;

use crate::harness::Instance;

const FIVE_MISTAKES: &str = "\
listen: 127.0.0.1:81000
encodding: Z5
admin:
  socket: var/zeoraid.sock
arrays:
  main:
    members:
      copy1: {file: var/copy1/Data.fs}
      copy2: {file: var/copy1/Data.fs}
    start_policy: sometimes
    member_timeout: 30 parsecs
";

fn broken() -> Instance {
    let instance = Instance::made(&[]);
    fs::write(instance.config(), FIVE_MISTAKES).expect("writing the configuration");
    instance
}

#[test]
fn five_mistakes_are_told_at_once_with_line_and_mend() {
    let run = broken().run(&["check-config"]).ended(1);
    snapshot!(run.stdout, @r#"
    etc/zeoraid.yaml:1:9: listen: `81000` is no port
        a number from 1 to 65535
    etc/zeoraid.yaml:2:1: the configuration knows no `encodding`
        did you mean `encoding`?
    etc/zeoraid.yaml:9:21: arrays.main.members.copy2.file: var/copy1/Data.fs is already used by arrays.main.members.copy1.file in line 8
        each needs a file of its own
    etc/zeoraid.yaml:10:19: arrays.main.start_policy: `sometimes` is not known
        one of in-sync, majority, newest
    etc/zeoraid.yaml:11:21: arrays.main.member_timeout: `30 parsecs` is no duration
        write it like 10s, 500ms, 2m, 1h
    5 mistakes
    "#);
}

#[test]
fn a_daemon_does_not_start_with_mistakes_and_says_them_all() {
    let instance = broken();
    for command in ["start", "fg", "restart"] {
        // By this code whoever looks after the daemon knows that starting it again mends nothing.
        let run = instance.run(&[command]).ended(2);
        for line in [1, 2, 9, 10, 11] {
            let part = format!("zeoraid.yaml:{line}:");
            assert!(
                run.stderr.contains(&part),
                "{command} does not tell line {line}:\n{run}"
            );
        }
        assert!(run.stderr.contains("check-config"), "{run}");
    }
    assert!(instance.pid().is_none());
}

#[test]
fn a_daemon_that_runs_refuses_to_reload_mistakes() {
    let instance = Instance::started(&[]);
    let good = fs::read_to_string(instance.config()).expect("init wrote it");
    fs::write(instance.config(), FIVE_MISTAKES).expect("writing the configuration");
    let run = instance.run(&["reload"]).ended(1);
    for line in [1, 2, 9, 10, 11] {
        assert!(
            run.stderr.contains(&format!("zeoraid.yaml:{line}:")),
            "{run}"
        );
    }
    fs::write(instance.config(), good).expect("writing the configuration");
    instance.run(&["reload"]).ok();
    instance.run(&["status"]).ok().prints("optimal");
}

#[test]
fn what_is_not_yaml_is_told_with_its_line() {
    let instance = Instance::made(&[]);
    fs::write(
        instance.config(),
        "listen: 127.0.0.1:8100\narrays: {main: [\n",
    )
    .expect("writing");
    instance
        .run(&["check-config"])
        .ended(1)
        .prints("zeoraid.yaml:");
    fs::write(instance.config(), [0xff, 0xfe, 0x00, 0x41]).expect("writing");
    let run = instance.run(&["check-config"]);
    assert_eq!(run.code, 1, "{run}");
    fs::remove_file(instance.config()).expect("it was there");
    for command in ["start", "fg", "restart"] {
        instance.run(&[command]).ended(2).says("zeoraidctl init");
    }
}

/// What is no mistake of the configuration is worth another try.
#[test]
fn a_daemon_that_cannot_start_for_another_reason_ends_otherwise() {
    let first = Instance::started(&[]);
    let second = Instance::made(&[&format!("listen={}", first.address)]);
    for command in ["start", "fg"] {
        second.run(&[command]).ended(1).says(&first.address);
    }
}
