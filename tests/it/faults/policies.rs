//! From what an array starts that has no membership record: what each policy says is enough, and what it
//! warns of.

use std::fs;

use serde_json::Value;

use crate::harness::instance::{PATIENCE, Run};
use crate::harness::python;
use crate::harness::{Lab, LabSetup, until_ok};

/// What the first start without a record finds.
struct Found {
    run: Run,
    details: Value,
}

impl Found {
    /// It does not start, and says whom it waits for.
    #[track_caller]
    fn waits_for(&self, members: &[&str]) {
        assert_ne!(self.run.code, 0, "{}", self.run);
        assert_eq!(self.details["serving"], false, "{:#}", self.details);
        let line = self.details["line"].as_str().unwrap_or_default();
        for member in members {
            assert!(line.contains(member), "{member} is not in: {line}");
        }
    }

    /// It serves, and warns of those whose transactions may be missing, where the policy goes on without them.
    #[track_caller]
    fn serves(&self, warned_of: Option<(&str, &str)>) {
        assert_eq!(self.run.code, 0, "{}", self.run);
        let said = &self.run.stderr;
        if let Some((policy, members)) = warned_of {
            let words = format!(
                "warning: main: started by the policy `{policy}` without {members}: transactions that \
                 only they hold are missing"
            );
            assert!(said.contains(&words), "{}", self.run);
            return;
        }
        // That a member is out is said whatever the policy.
        for warning in said.lines().filter(|line| line.starts_with("warning")) {
            let is_out = warning.starts_with("warning: main: degraded: 1 of 3 members out");
            assert!(is_out, "{}", self.run);
        }
    }
}

/// Starts anew under this policy, and as if for the first time.
fn start(lab: &Lab, policy: &str, starts: bool) -> Found {
    let instance = &lab.instance;
    if instance.pid().is_some() {
        instance.stop().ok();
    }
    let record = instance.path("var/main.membership.json");
    if record.exists() {
        fs::remove_file(record).expect("removing the record");
    }
    lab.configure(instance, &[0, 1, 2]);
    let lines = format!("    start_policy: {policy}");
    instance.configure("main:", &lines);
    // Whoever starts does so at once, but for two busy cores; who waits would do so for ever.
    let patience = if starts { "1m" } else { "3s" };
    let run = instance.run(&["start", "--timeout", patience]);
    Found {
        run,
        details: instance.details(),
    }
}

fn visits(lab: &Lab) -> String {
    let run = python::run("features.py", &["visited", &lab.instance.address]);
    run.ok().stdout
}

#[test]
fn without_a_record_each_policy_starts_from_what_it_says_is_enough() {
    let mut lab = Lab::new(LabSetup {
        servers: 3,
        ..LabSetup::default()
    });
    // Nothing here is to be level by a recovery that nobody waits for.
    lab.setup.settings = "auto_recover: false";
    lab.configure(&lab.instance, &[0, 1, 2]);
    lab.instance.start().ok();
    lab.instance.wait_optimal();
    let visit = |lab: &Lab| {
        python::run("features.py", &["plain_visit", &lab.instance.address]).ok();
    };
    visit(&lab);
    lab.servers[2].kill9();
    lab.instance.wait_member("zeo3", "degraded");
    visit(&lab);
    assert_eq!(visits(&lab), "visits 2\n");
    lab.instance.stop().ok();
    lab.servers[0].stop();
    lab.servers[1].stop();

    // One of three, and it lacks something.
    lab.servers[2].start();
    start(&lab, "in-sync", false).waits_for(&["zeo1", "zeo2"]);
    start(&lab, "majority", false).waits_for(&["zeo1", "zeo2"]);
    let found = start(&lab, "newest", true);
    found.serves(Some(("newest", "zeo1, zeo2")));
    assert_eq!(visits(&lab), "visits 1\n", "what is there is old");
    let events = lab.instance.log();
    assert!(
        events.contains("started by the policy `newest` without zeo1, zeo2"),
        "it is in the log too"
    );

    // Two of three: what is newer wins.
    lab.servers[0].start();
    start(&lab, "in-sync", false).waits_for(&["zeo2"]);
    let found = start(&lab, "majority", true);
    found.serves(Some(("majority", "zeo2")));
    assert_eq!(visits(&lab), "visits 2\n");
    let member = lab.instance.member("zeo3");
    assert_eq!(member["reason"], "behind at the start", "{member:#}");
    start(&lab, "newest", true).serves(Some(("newest", "zeo2")));
    assert_eq!(visits(&lab), "visits 2\n");

    // All of them.
    lab.servers[1].start();
    for policy in ["majority", "newest", "in-sync"] {
        start(&lab, policy, true).serves(None);
        assert_eq!(visits(&lab), "visits 2\n");
        let member = lab.instance.member("zeo3");
        assert_eq!(member["reason"], "behind at the start", "{member:#}");
    }
    lab.instance.run(&["recover", "zeo3"]).ok();
    lab.instance.wait_optimal();
    visit(&lab);
    lab.compare(&[]);
}

/// The risk of which `newest` warns: what the others hold comes back as a divergence, and is not lost.
#[test]
fn what_newest_left_behind_is_diverged_and_waits_for_an_operator() {
    let mut lab = Lab::new(LabSetup {
        servers: 2,
        settings: "start_policy: newest",
        ..LabSetup::default()
    });
    lab.instance.start().ok();
    lab.instance.wait_optimal();
    let visit = |lab: &Lab| {
        python::run("features.py", &["plain_visit", &lab.instance.address]).ok();
    };
    visit(&lab);
    lab.servers[1].kill9();
    lab.instance.wait_member("zeo2", "degraded");
    visit(&lab);
    lab.instance.stop().ok();
    lab.servers[0].stop();
    let newer = fs::read(lab.servers[0].data()).expect("it is there");
    let record = lab.instance.path("var/main.membership.json");
    fs::remove_file(record).expect("removing the record");

    lab.servers[1].start();
    lab.instance.start().ok().says("without zeo1");
    visit(&lab);
    assert_eq!(
        visits(&lab),
        "visits 2\n",
        "the second visit was made twice"
    );
    lab.servers[0].start();
    let member = until_ok("the divergence", PATIENCE, || {
        let member = lab.instance.member("zeo1");
        let reason = member["reason"].as_str().unwrap_or_default();
        let outlook = member["outlook"].as_str().unwrap_or_default();
        if reason.contains("diverged") && outlook.contains("waits for `zeoraidctl recover") {
            Ok(member)
        } else {
            Err(format!("{member:#}"))
        }
    });
    assert_eq!(member["state"], "degraded", "{member:#}");
    lab.instance.stop().ok();
    lab.servers[0].stop();
    let kept = fs::read(lab.servers[0].data()).expect("it is there");
    assert!(kept == newer, "nothing is thrown away");
}
