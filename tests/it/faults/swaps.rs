//! A server comes back as something else while the daemon runs and clients work: it is never read from, and
//! ends as the design says.

use std::fs::{self, File};

use crate::harness::instance::PATIENCE;
use crate::harness::lab::assert_unnoticed;
use crate::harness::python::{self, Workers};
use crate::harness::{Lab, LabSetup, until_ok};

/// What has become of `zeo1` while it was away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comes {
    /// Without the end of its last transaction.
    Torn,
    /// As an older copy of itself.
    Stale,
    Empty,
    /// As another database.
    Swapped,
}

fn change(lab: &Lab, comes: Comes) {
    let server = &lab.servers[0];
    let old = lab.instance.beside("old");
    match comes {
        Comes::Torn => {
            server.save(&old);
            let size = fs::metadata(server.data()).expect("it is there").len();
            let file = File::options().write(true).open(server.data());
            let cut = file.expect("it is there").set_len(size - 100);
            cut.expect("cutting it short");
        }
        Comes::Stale => server.put(&old.join("Data.fs"), Some(&old.join("blobs"))),
        Comes::Empty => server.empty(),
        Comes::Swapped => {
            server.empty();
            let data = server.data();
            python::run("lone.py", &["make", data.to_str().expect("a plain path")]).ok();
        }
    }
}

/// It waits for its operator, who empties it, and is not read from meanwhile.
fn operator_mends(lab: &mut Lab, workers: &mut Workers) {
    let member = until_ok("the reason", PATIENCE, || {
        let member = lab.instance.member("zeo1");
        let reason = member["reason"].as_str().unwrap_or_default();
        let outlook = member["outlook"].as_str().unwrap_or_default();
        if reason.contains("shares no transaction")
            && outlook.contains("waits for `zeoraidctl recover zeo1`")
        {
            Ok(member)
        } else {
            Err(format!("{member:#}"))
        }
    });
    workers.wait_for_more(3);
    let later = lab.instance.member("zeo1");
    assert_eq!(later["state"], "degraded", "{later:#}");
    assert_eq!(later["reads"], member["reads"], "it was read from");
    lab.servers[0].stop();
    lab.servers[0].empty();
    lab.servers[0].start();
    until_ok("the recovery of an emptied member", PATIENCE, || {
        let run = lab.instance.run(&["recover", "zeo1", "--yes"]);
        (run.code == 0).then_some(()).ok_or(run)
    });
}

/// Disabled, it stays out whatever happens to it, however often it is disabled; one recovery ends that.
fn disable_twice(lab: &mut Lab, workers: &mut Workers) {
    lab.instance.run(&["disable", "zeo1", "--yes"]).ok();
    workers.wait_for_more(1);
    lab.servers[0].kill9();
    lab.instance.run(&["disable", "zeo1", "--yes"]).ok();
    lab.servers[0].start();
    workers.wait_for_more(2);
    let member = lab.instance.member("zeo1");
    assert_eq!(member["state"], "degraded", "{member:#}");
    assert_eq!(member["reason"], "disabled by an operator", "{member:#}");
    lab.instance.run(&["recover", "zeo1"]).ok();
    lab.instance.wait_optimal();
    workers.wait_for_more(1);
}

fn come_back(setup: LabSetup, as_what: &[Comes]) {
    let mut lab = Lab::started(setup);
    let mut workers = lab.workers(2);
    workers.wait_for_more(3);
    disable_twice(&mut lab, &mut workers);
    for comes in as_what.iter().copied() {
        eprintln!("{comes:?}");
        let mark = lab.mark();
        lab.servers[0].kill9();
        lab.wait_taken_out("zeo1", mark, &["closed: by "]);
        workers.wait_for_more(1);
        change(&lab, comes);
        lab.servers[0].start();
        if comes == Comes::Swapped {
            operator_mends(&mut lab, &mut workers);
        }
        // The others are recovered without anybody's doing.
        lab.instance.wait_optimal();
        workers.wait_for_more(2);
    }
    let totals = workers.end();
    assert_unnoticed(&totals);
    let found = lab.compare(&workers.logs());
    assert_eq!(found["committed"], totals.commits, "{found} {totals:?}");
}

#[test]
fn a_server_that_comes_back_as_something_else_is_never_served_from() {
    let setup = LabSetup {
        servers: 3,
        ..LabSetup::default()
    };
    let all = [Comes::Torn, Comes::Stale, Comes::Empty, Comes::Swapped];
    come_back(setup, &all);
}

#[test]
fn the_only_server_beside_a_file_comes_back_as_something_else() {
    let setup = LabSetup {
        servers: 1,
        files: 1,
        ..LabSetup::default()
    };
    come_back(setup, &[Comes::Torn, Comes::Swapped]);
}
