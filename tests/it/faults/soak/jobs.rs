//! Long work that is asked for in the midst of faults: its end is judged when it comes.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Instance, until_ok};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Scrub,
    Pack,
    Backup,
}

impl Kind {
    pub(super) const ALL: [Kind; 3] = [Kind::Scrub, Kind::Pack, Kind::Backup];

    /// The name of the command, which is also that of the job.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Scrub => "scrub",
            Kind::Pack => "pack",
            Kind::Backup => "backup",
        }
    }

    fn command(self, folder: &str) -> Vec<&str> {
        match self {
            Kind::Scrub => vec!["scrub"],
            // To a moment before the array was: all is looked at and nothing removed, so that histories can
            // be compared however many members were there.
            Kind::Pack => vec!["pack", "--days", "1"],
            Kind::Backup => vec!["backup", folder, "--replace"],
        }
    }
}

/// How one ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    Done,
    /// Not begun, or not brought to its end, for this reason.
    Not(String),
}

/// The jobs under way.
#[derive(Default)]
pub(super) struct Jobs {
    running: Vec<(Kind, String)>,
    backup: Option<PathBuf>,
}

impl Jobs {
    pub(super) fn runs(&self, kind: Kind) -> bool {
        self.running.iter().any(|(running, _)| *running == kind)
    }

    pub(super) fn none_runs(&self) -> bool {
        self.running.is_empty()
    }

    /// The folder of the last backup that was complete.
    pub(super) fn backup(&self) -> Option<&PathBuf> {
        self.backup.as_ref()
    }

    /// Asks for it. A refusal is an answer: it must say why.
    #[track_caller]
    pub(super) fn start(&mut self, kind: Kind, instance: &Instance) -> Option<Ended> {
        let folder = instance.beside("backup").display().to_string();
        let mut args = kind.command(&folder);
        args.extend(["--detach", "-o", "json"]);
        let run = instance.run(&args);
        if run.code == 0 {
            let job: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{run}"));
            let id = job["id"].as_str().expect("a job has an id");
            self.running.push((kind, id.to_owned()));
            return None;
        }
        assert_eq!(run.code, 1, "{run}");
        assert!(!run.stderr.trim().is_empty(), "{run}");
        Some(Ended::Not(first_line(&run.stderr)))
    }

    /// Those that have ended since, and how.
    #[track_caller]
    pub(super) fn ended(&mut self, instance: &Instance) -> Vec<(Kind, Ended)> {
        if self.running.is_empty() {
            return Vec::new();
        }
        let jobs = all(instance);
        let mut ended = Vec::new();
        let mut running = Vec::new();
        for (kind, id) in self.running.drain(..) {
            let Some(job) = jobs.iter().find(|job| job["id"] == id) else {
                // Of each kind the last is remembered, and clients pack, too.
                assert_eq!(kind, Kind::Pack, "{id} is forgotten: {jobs:#?}");
                let later = jobs.iter().any(|job| job["kind"] == kind.name());
                assert!(later, "{id} is forgotten: {jobs:#?}");
                ended.push((kind, Ended::Not("a client has packed since".into())));
                continue;
            };
            if job["state"] == "running" {
                running.push((kind, id));
                continue;
            }
            if kind == Kind::Backup && job["state"] == "done" {
                let folder = job["backup"]["folder"].as_str().expect("it has a place");
                self.backup = Some(folder.into());
            }
            ended.push((kind, judge(kind, job)));
        }
        self.running = running;
        ended
    }

    /// In an array that is optimal and left alone it must be done.
    #[track_caller]
    pub(super) fn must_do(&mut self, kind: Kind, instance: &Instance, deadline: Duration) {
        // Asked again where something else is under way, as a pack that a client has asked for.
        until_ok(
            &format!("{} to begin", kind.name()),
            deadline,
            || match self.start(kind, instance) {
                None => Ok(()),
                Some(why) => Err(format!("{why:?}")),
            },
        );
        let ended = until_ok(&format!("the end of {}", kind.name()), deadline, || {
            let ended = self.ended(instance);
            let it = ended.into_iter().find(|(ended, _)| *ended == kind);
            it.ok_or("it runs")
        });
        assert_eq!(ended.1, Ended::Done, "{kind:?}");
    }
}

fn all(instance: &Instance) -> Vec<Value> {
    let answer = instance.ask("/v1/jobs");
    let (_, body) = answer.split_once("\r\n\r\n").expect("an answer");
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

/// A member that is lost meanwhile is left out; what the others hold must be the same all the same.
#[track_caller]
fn judge(kind: Kind, job: &Value) -> Ended {
    if kind == Kind::Scrub && !job["scrub"].is_null() {
        assert_eq!(job["scrub"]["differences"], 0, "members differ: {job:#}");
    }
    let left_out = job["members"].as_array().into_iter().flatten();
    let left_out: Vec<String> = left_out
        .filter(|member| member["state"] != "done")
        .map(|member| format!("{}: {}", member["name"], member["reason"]))
        .collect();
    if job["state"] == "done" && left_out.is_empty() {
        return Ended::Done;
    }
    let problem = job["problem"]["detail"].as_str().unwrap_or_default();
    Ended::Not(format!("{problem} {}", left_out.join(", ")))
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}
