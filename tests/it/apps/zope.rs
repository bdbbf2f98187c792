//! A Zope site on two Zope processes, while members come and go.

use std::time::Duration;

use crate::harness::python::{self, Script};
use crate::harness::zope::{Section, Zope};
use crate::harness::{Lab, LabSetup};

const PATIENCE: Duration = Duration::from_mins(2);

struct Visitors {
    script: Script,
    rounds: usize,
}

impl Visitors {
    fn start(url: &str, synced: &str) -> Self {
        Visitors {
            script: Script::spawn("zope_site.py", &["visit", url, synced]),
            rounds: 0,
        }
    }

    /// Waits until every editor has done so many rounds more, begun after now. A request that failed has
    /// ended the script, and is a failure here.
    #[track_caller]
    fn go_on(&mut self, more: usize) {
        let printed = self.script.printed();
        self.rounds = printed.matches("round ").count() + more + 1;
        self.script
            .wait_printed(&format!("round {}\n", self.rounds));
    }
}

#[test]
fn a_zope_site_notices_nothing_of_members_that_come_and_go() {
    let mut lab = Lab::started(LabSetup {
        files: 1,
        ..LabSetup::TWO
    });
    let address = lab.instance.address.clone();
    let beside = |name: &str| lab.instance.beside(name);
    let mut first = Zope::new(beside("zope1"), &address, Section::ZeoClient);
    let mut second = Zope::new(beside("zope2"), &address, Section::ClientStorage);
    let third = Zope::new(beside("zope3"), &address, Section::ClientStorage);
    // The first that comes makes the root of the site.
    first.start();
    second.start();

    let mut visitors = Visitors::start(&first.url(), &second.url());
    visitors.go_on(1);

    // A server dies.
    let mark = lab.mark();
    lab.servers[0].kill9();
    lab.wait_taken_out("zeo1", mark, &[""]);
    visitors.go_on(1);
    third
        .console("zope_content.py", &["publish", "one", "two"])
        .ok();
    lab.servers[0].start();
    lab.instance.wait_optimal();
    visitors.go_on(1);

    // The disk of a file is changed.
    lab.instance.run(&["disable", "file1", "--yes"]).ok();
    visitors.go_on(1);
    lab.instance.run(&["recover", "file1", "--yes"]).ok();
    lab.instance.wait_optimal();
    visitors.go_on(1);

    visitors.script.end(PATIENCE).ok();
    // The site is packed from the browser. (Editors who undo would be told that they cannot meanwhile.)
    python::run("zope_site.py", &["pack", &second.url()]).ok();
    for zope in [&first, &second] {
        assert_eq!(zope.disconnections(), Vec::<String>::new());
    }

    // What everybody did is seen by a Zope that comes only now.
    let seen = third
        .console("zope_content.py", &["look", "one", "two"])
        .ok();
    assert_eq!(seen.stdout.matches("editor-").count(), 4, "{seen}");
    lab.instance.wait_optimal();
    lab.compare_data();
}
