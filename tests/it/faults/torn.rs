//! Servers whose file has lost its end, and which go on telling the TID of what they have cut.
//!
//! What they cut was acknowledged, and the others hold it. By its TID each of them looks as new as the
//! others; whichever comes first in the configuration must not be believed more for it.

use std::fs::{self, File};

use crate::harness::{Lab, LabSetup};

/// Less than any transaction, so that the last one is damaged and no other.
const TORN_BYTES: u64 = 10;

fn start_with_torn(torn: &[usize], settings: &'static str) {
    let mut lab = Lab::started(LabSetup {
        servers: 3,
        settings,
        ..LabSetup::default()
    });
    let mut logs = Vec::new();
    let mut workers = lab.workers(2);
    for index in torn {
        workers.wait_for_more(2);
        // Nothing is committed after what is cut, by which a server would find back to the truth.
        workers.end();
        logs.extend(workers.logs());
        lab.instance.stop().ok();
        lab.servers[*index].stop();
        let data = lab.servers[*index].data();
        let file = File::options().write(true).open(&data);
        let file = file.expect("opening a Data.fs");
        let len = file.metadata().expect("its length").len();
        file.set_len(len - TORN_BYTES).expect("cutting a Data.fs");
        fs::remove_file(data.with_extension("fs.index")).expect("removing an index");
        lab.servers[*index].start();
        lab.instance.start().ok();
        lab.instance.wait_optimal();
        let log = lab.instance.log();
        assert!(
            log.contains("tells a last transaction that it does not hold"),
            "the server does not lie, and this shows nothing:\n{log}"
        );
        // A worker's name is its own, for good.
        workers = lab.more_workers(logs.len() as u64);
    }
    workers.wait_for_more(2);
    workers.end();
    logs.extend(workers.logs());
    lab.compare(&logs);
}

#[test]
fn who_lost_the_last_commit_and_tells_its_tid_is_recovered() {
    start_with_torn(&[0, 2], "");
}

#[test]
fn nor_does_a_majority_take_it_for_the_newest() {
    start_with_torn(&[0], "start_policy: majority");
}
