//! logrotate turns the log over while the daemon runs.

use std::process::Command;

use super::judges::judge;
use super::{embedded, read};
use crate::harness::Instance;
use crate::harness::instance::Run;

#[test]
fn the_log_is_rotated_and_goes_on() {
    let instance = embedded(&["logrotate"], &[("logrotate_keep", "2".into())]);
    let Some(program) = judge("logrotate", "a rotation of the daemon's log") else {
        return;
    };
    instance.start().ok();
    let first = instance.log();
    assert!(first.contains("serv"), "{first}");

    rotate(&program, &instance);
    assert_eq!(
        read(&instance.path("var/log/zeoraid.log.1")).lines().next(),
        first.lines().next()
    );
    instance.run(&["disable", "copy2", "--yes"]).ok();
    let second = instance.log();
    assert!(second.contains("copy2"), "{second}");
    assert!(
        !second.contains(first.lines().next().expect("a line")),
        "{second}"
    );

    // The older one is compressed only now: until then the daemon may have written into it.
    rotate(&program, &instance);
    assert!(instance.path("var/log/zeoraid.log.2.gz").exists());
    assert!(read(&instance.path("var/log/zeoraid.log.1")).contains("copy2"));

    // Without a daemon there is nobody to tell, and that is no error.
    instance.stop().ok();
    rotate(&program, &instance);
}

#[track_caller]
fn rotate(program: &Command, instance: &Instance) {
    let mut logrotate = Command::new(program.get_program());
    logrotate.envs(
        program
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    logrotate
        .args(["--force", "--state"])
        .arg(instance.beside("rotated"))
        .arg(instance.path("etc/logrotate/zeoraid.conf"));
    let run = Run::of(logrotate).ok();
    assert_eq!(run.stderr, "", "{run}");
}
