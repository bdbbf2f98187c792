//! What rendering would change in an instance. Pure: it is given what is on the disk and says what to
//! do; [`super::apply`] does it.
//!
//! For each target three contents are compared: what the recipe gives now, what was installed last
//! (its checksum), and what lies on the disk.
//!
//! | on the disk | the recipe gives | then |
//! | --- | --- | --- |
//! | nothing | a file | create |
//! | what the recipe gives | the same | unchanged |
//! | what was installed | something else | rewrite |
//! | neither (edited) | what was installed | kept: a person's edit stays |
//! | neither (edited) | something else | edited: asked, or `.new` beside it |
//! | what was installed | nothing any more | remove |
//! | neither (edited) | nothing any more | left: it is the person's now |

use super::installed::{Installed, InstalledFile, checksum};
use super::model::Process;
use super::render::{Made, Rendered};

/// What lies on the disk at a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnDisk {
    pub content: Vec<u8>,
    pub mode: u32,
}

/// What would be done, by target in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// Folders that are missing, with their modes; parents before what is in them.
    pub folders: Vec<(String, u32)>,
}

/// What would be done with one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub target: String,
    pub part: String,
    pub mode: u32,
    pub what: What,
    /// What lies there now, where that matters for a diff.
    pub old: Option<Vec<u8>>,
    /// What the recipe gives; empty where the part is gone.
    pub new: Vec<u8>,
    pub process: Option<Process>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Create,
    Rewrite,
    /// The content is right, the permissions are not.
    ChangeMode,
    Unchanged,
    /// A person edited it and the recipe gives what it gave: left alone.
    Kept,
    /// A person edited it and the recipe gives something new.
    Edited,
    /// The part is gone and the file was not edited.
    Remove,
    /// The part is gone and the file was edited: it stays and is forgotten.
    Left,
    /// The part is gone and so is the file: it is forgotten.
    Forget,
}

impl Plan {
    /// Compares what is wanted with what was installed and with what is there.
    pub fn new(
        made: Made,
        installed: &Installed,
        on_disk: &dyn Fn(&str) -> Option<OnDisk>,
        folder_exists: &dyn Fn(&str) -> bool,
    ) -> Plan {
        let mut gone = installed.files.clone();
        let mut steps: Vec<Step> = Vec::with_capacity(made.files.len());
        for wanted in made.files {
            let last = gone.remove(&wanted.target);
            let there = on_disk(&wanted.target);
            steps.push(step(wanted, last.as_ref(), there));
        }
        for (target, last) in gone {
            let there = on_disk(&target);
            let what = match &there {
                None => What::Forget,
                Some(there) if checksum(&there.content) == last.sha256 => What::Remove,
                Some(_) => What::Left,
            };
            steps.push(Step {
                target,
                part: last.part,
                mode: 0,
                what,
                old: there.map(|there| there.content),
                new: Vec::new(),
                process: last.process,
            });
        }
        steps.sort_by(|a, b| a.target.cmp(&b.target));
        let mut folders: Vec<_> = made.folders.into_iter().collect();
        folders.retain(|(folder, _)| !folder_exists(folder));
        Plan { steps, folders }
    }

    /// Whether nothing would be done.
    pub fn is_empty(&self) -> bool {
        self.folders.is_empty() && self.steps.iter().all(|step| !step.what.is_change())
    }
}

impl What {
    /// Whether the recipe gives this file, and does not leave or remove it.
    pub fn is_wanted(self) -> bool {
        !matches!(self, What::Remove | What::Left | What::Forget)
    }

    /// Whether something is written or removed.
    pub fn is_change(self) -> bool {
        !matches!(
            self,
            What::Unchanged | What::Kept | What::Left | What::Forget
        )
    }
}

fn step(wanted: Rendered, last: Option<&InstalledFile>, there: Option<OnDisk>) -> Step {
    let new = wanted.content.into_bytes();
    let new_sum = checksum(&new);
    let what = match &there {
        None => What::Create,
        Some(there) if there.content == new && there.mode == wanted.mode => What::Unchanged,
        Some(there) if there.content == new => What::ChangeMode,
        Some(there) => {
            let was_installed = last.is_some_and(|last| checksum(&there.content) == last.sha256);
            let recipe_changed = last.is_none_or(|last| last.sha256 != new_sum);
            match (was_installed, recipe_changed) {
                (true, _) => What::Rewrite,
                (false, true) => What::Edited,
                (false, false) => What::Kept,
            }
        }
    };
    Step {
        target: wanted.target,
        part: wanted.part,
        mode: wanted.mode,
        what,
        old: there.map(|there| there.content),
        new,
        process: wanted.process,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// (on the disk, installed, wanted) -> what
    fn check(there: Option<&str>, last: Option<&str>, wanted: Option<&str>, expected: What) {
        let rendered = wanted.map(|content| Rendered {
            part: "p".into(),
            target: "t".into(),
            mode: 0o644,
            content: content.into(),
            process: None,
        });
        let file = |content: &str| InstalledFile {
            part: "p".into(),
            sha256: checksum(content.as_bytes()),
            process: None,
        };
        let installed = Installed {
            files: last
                .map(|content| ("t".to_owned(), file(content)))
                .into_iter()
                .collect(),
            ..Installed::default()
        };
        let on_disk = |_: &str| {
            there.map(|content| OnDisk {
                content: content.into(),
                mode: 0o644,
            })
        };
        let made = Made {
            files: rendered.into_iter().collect(),
            folders: BTreeMap::new(),
        };
        let plan = Plan::new(made, &installed, &on_disk, &|_| true);
        assert_eq!(plan.steps.len(), 1);
        assert_eq!(
            plan.steps[0].what, expected,
            "{there:?} {last:?} {wanted:?}"
        );
        assert_eq!(plan.is_empty(), !expected.is_change());
    }

    #[test]
    fn what_a_person_edited_is_never_overwritten_silently() {
        check(None, None, Some("new"), What::Create);
        check(None, Some("old"), Some("new"), What::Create);
        check(Some("new"), None, Some("new"), What::Unchanged);
        check(Some("new"), Some("old"), Some("new"), What::Unchanged);
        check(Some("old"), Some("old"), Some("new"), What::Rewrite);
        check(Some("mine"), Some("old"), Some("old"), What::Kept);
        check(Some("mine"), Some("old"), Some("new"), What::Edited);
        check(Some("mine"), None, Some("new"), What::Edited);
        check(Some("old"), Some("old"), None, What::Remove);
        check(Some("mine"), Some("old"), None, What::Left);
        check(None, Some("old"), None, What::Forget);
    }

    #[test]
    fn permissions_are_put_right_and_missing_folders_are_made() {
        let rendered = Rendered {
            part: "p".into(),
            target: "bin/t".into(),
            mode: 0o755,
            content: "x".into(),
            process: None,
        };
        let on_disk = |_: &str| {
            Some(OnDisk {
                content: b"x".to_vec(),
                mode: 0o644,
            })
        };
        let folders = BTreeMap::from([("var".to_owned(), 0o750), ("log".to_owned(), 0o755)]);
        let made = Made {
            files: vec![rendered],
            folders,
        };
        let plan = Plan::new(made, &Installed::default(), &on_disk, &|folder| {
            folder == "log"
        });
        assert_eq!(plan.steps[0].what, What::ChangeMode);
        assert_eq!(plan.folders, [("var".to_owned(), 0o750)]);
    }
}
