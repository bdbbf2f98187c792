//! Carries out a plan: writes files, each durably and by itself, and keeps the record of them.
//!
//! Running again after a crash in the middle finishes the work: what was written already is found to be
//! what the recipe gives.

use std::collections::BTreeSet;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::error::RecipeError;
use super::installed::{Installed, InstalledFile, OWN_RECIPE, OwnRecipe, checksum};
use super::plan::{OnDisk, Plan, Step, What};
use crate::durable;

/// What to do with a file that a person edited and the recipe gives anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Leave it, and write what the recipe gives beside it, as `.new`.
    Beside,
    /// Leave it.
    Keep,
    /// Write what the recipe gives; the edited file stays beside it, as `.old`.
    Replace,
}

/// What was done with one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    pub target: String,
    pub what: What,
    pub choice: Option<Choice>,
}

/// What lies in an instance at a target.
pub fn on_disk(instance: &Path, target: &str) -> Option<OnDisk> {
    let path = instance.join(target);
    let content = std::fs::read(&path).ok()?;
    let mode = std::fs::metadata(&path).ok()?.permissions().mode() & 0o777;
    Some(OnDisk { content, mode })
}

/// Carries out a plan. `choose` is asked for each file that a person edited.
pub fn apply(
    instance: &Path,
    plan: &Plan,
    mut installed: Installed,
    own: &OwnRecipe,
    choose: &mut dyn FnMut(&Step) -> Result<Choice, RecipeError>,
) -> Result<Vec<Done>, RecipeError> {
    let before = installed.clone();
    let folders = &mut installed.folders;
    make_folder(instance, ".", 0o755, folders)?;
    for (folder, mode) in &plan.folders {
        make_folder(instance, folder, *mode, folders)?;
    }
    let mut done = Vec::with_capacity(plan.steps.len());
    for step in &plan.steps {
        let choice = (step.what == What::Edited)
            .then(|| choose(step))
            .transpose()?;
        carry_out(instance, step, choice, &mut installed.folders)?;
        remember(&mut installed, step);
        done.push(Done {
            target: step.target.clone(),
            what: step.what,
            choice,
        });
    }
    if !OwnRecipe::load(instance)?.is_some_and(|there| there.says_the_same(own)) {
        let path = instance.join(OWN_RECIPE);
        let text = own.to_text()?;
        durable::write_with_mode(&path, text.as_bytes(), 0o644)
            .map_err(RecipeError::io("write", path))?;
        installed.own_recipe = Some(checksum(text.as_bytes()));
    }
    if installed != before {
        installed.save(instance)?;
    }
    Ok(done)
}

fn carry_out(
    instance: &Path,
    step: &Step,
    choice: Option<Choice>,
    folders: &mut BTreeSet<String>,
) -> Result<(), RecipeError> {
    let path = instance.join(&step.target);
    if let (Some((folder, _)), What::Create) = (step.target.rsplit_once('/'), step.what) {
        make_folder(instance, folder, 0o755, folders)?;
    }
    match (step.what, choice) {
        (What::Create | What::Rewrite, _) => write(&path, step),
        (What::Edited, Some(Choice::Beside)) => write(&beside(&path, "new"), step),
        (What::Edited, Some(Choice::Replace)) => {
            let old = beside(&path, "old");
            std::fs::rename(&path, &old).map_err(RecipeError::io("rename", &path))?;
            write(&path, step)
        }
        (What::ChangeMode, _) => {
            let permissions = std::fs::Permissions::from_mode(step.mode);
            std::fs::set_permissions(&path, permissions)
                .map_err(RecipeError::io("change the permissions of", path))
        }
        (What::Remove, _) => std::fs::remove_file(&path).map_err(RecipeError::io("remove", path)),
        (What::Edited | What::Unchanged | What::Kept | What::Left | What::Forget, _) => Ok(()),
    }
}

/// An edited file is remembered with what the recipe gives now: whatever was chosen, the choice is not
/// asked for again until the recipe gives something else.
fn remember(installed: &mut Installed, step: &Step) {
    match step.what {
        What::Remove | What::Left | What::Forget => {
            installed.files.remove(&step.target);
        }
        What::Create
        | What::Rewrite
        | What::ChangeMode
        | What::Unchanged
        | What::Kept
        | What::Edited => {
            let file = InstalledFile {
                part: step.part.clone(),
                sha256: checksum(&step.new),
                process: step.process.clone(),
            };
            installed.files.insert(step.target.clone(), file);
        }
    }
}

fn write(path: &Path, step: &Step) -> Result<(), RecipeError> {
    durable::write_with_mode(path, &step.new, step.mode).map_err(RecipeError::io("write", path))
}

/// Makes a folder and those above it, and remembers which were not there.
fn make_folder(
    instance: &Path,
    folder: &str,
    mode: u32,
    folders: &mut BTreeSet<String>,
) -> Result<(), RecipeError> {
    // Without a `.` at its end, below which nothing can be made while it is not there.
    let whole: PathBuf = instance.join(folder).components().collect();
    let missing = whole.ancestors().take_while(|path| !path.exists());
    for path in missing {
        let name = match path.strip_prefix(instance) {
            Ok(inside) if inside.as_os_str().is_empty() => ".".to_owned(),
            Ok(inside) => inside.display().to_string(),
            // What is around the instance is not its own.
            Err(_) if instance.starts_with(path) => continue,
            Err(_) => path.display().to_string(),
        };
        folders.insert(name.trim_end_matches("/.").to_owned());
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(&whole)
        .map_err(RecipeError::io("make the folder", whole))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::recipe::render::{Made, Rendered};

    struct Instance(tempfile::TempDir);

    impl Instance {
        fn new() -> Self {
            Instance(tempfile::tempdir().unwrap())
        }

        fn path(&self, target: &str) -> PathBuf {
            self.0.path().join(target)
        }

        fn read(&self, target: &str) -> String {
            std::fs::read_to_string(self.path(target)).unwrap()
        }

        /// Runs as `init` would, with these files, and says what was done.
        fn run(&self, files: &[(&str, &str)], choice: Choice) -> Vec<(String, What)> {
            let instance = self.0.path();
            let rendered = files.iter().map(|(target, content)| Rendered {
                part: "p".into(),
                target: (*target).into(),
                mode: 0o640,
                content: (*content).into(),
                process: None,
            });
            let installed = Installed::load(instance).unwrap();
            let made = Made {
                files: rendered.collect(),
                folders: BTreeMap::from([("var".to_owned(), 0o700)]),
            };
            let plan = Plan::new(
                made,
                &installed,
                &|target| on_disk(instance, target),
                &|folder| instance.join(folder).is_dir(),
            );
            let own = OwnRecipe {
                recipe: "r".into(),
                ..OwnRecipe::default()
            };
            let done = apply(instance, &plan, installed, &own, &mut |_| Ok(choice)).unwrap();
            done.into_iter()
                .map(|done| (done.target, done.what))
                .collect()
        }
    }

    fn done(pairs: &[(&str, What)]) -> Vec<(String, What)> {
        pairs
            .iter()
            .map(|(target, what)| ((*target).to_owned(), *what))
            .collect()
    }

    #[test]
    fn running_again_changes_nothing() {
        let instance = Instance::new();
        let files = [("bin/a", "a"), ("etc/b", "b")];
        let first = instance.run(&files, Choice::Beside);
        assert_eq!(
            first,
            done(&[("bin/a", What::Create), ("etc/b", What::Create)])
        );
        let times = |target: &str| {
            std::fs::metadata(instance.path(target))
                .unwrap()
                .modified()
                .unwrap()
        };
        let before = ["bin/a", "etc/b", ".installed.yaml", "recipe.yaml"].map(times);
        let second = instance.run(&files, Choice::Beside);
        assert_eq!(
            second,
            done(&[("bin/a", What::Unchanged), ("etc/b", What::Unchanged)])
        );
        assert_eq!(
            ["bin/a", "etc/b", ".installed.yaml", "recipe.yaml"].map(times),
            before
        );
        let mode = |target: &str| {
            std::fs::metadata(instance.path(target))
                .unwrap()
                .permissions()
                .mode()
                & 0o777
        };
        assert_eq!((mode("etc/b"), mode("var")), (0o640, 0o700));
    }

    #[test]
    fn an_edited_file_is_kept_and_the_new_one_laid_beside_it_once() {
        let instance = Instance::new();
        instance.run(&[("etc/b", "1")], Choice::Beside);
        std::fs::write(instance.path("etc/b"), "mine").unwrap();
        assert_eq!(
            instance.run(&[("etc/b", "1")], Choice::Beside),
            done(&[("etc/b", What::Kept)])
        );
        assert!(!instance.path("etc/b.new").exists());
        assert_eq!(
            instance.run(&[("etc/b", "2")], Choice::Beside),
            done(&[("etc/b", What::Edited)])
        );
        assert_eq!(
            (
                instance.read("etc/b").as_str(),
                instance.read("etc/b.new").as_str()
            ),
            ("mine", "2")
        );
        assert_eq!(
            instance.run(&[("etc/b", "2")], Choice::Beside),
            done(&[("etc/b", What::Kept)])
        );
        assert_eq!(
            instance.run(&[("etc/b", "3")], Choice::Replace),
            done(&[("etc/b", What::Edited)])
        );
        assert_eq!(
            (
                instance.read("etc/b").as_str(),
                instance.read("etc/b.old").as_str()
            ),
            ("3", "mine")
        );
        assert_eq!(
            instance.run(&[("etc/b", "4")], Choice::Keep),
            done(&[("etc/b", What::Rewrite)])
        );
    }

    #[test]
    fn what_is_gone_from_the_recipe_is_removed_unless_it_was_edited() {
        let instance = Instance::new();
        instance.run(&[("a", "a"), ("b", "b"), ("c", "c")], Choice::Beside);
        std::fs::write(instance.path("b"), "mine").unwrap();
        std::fs::remove_file(instance.path("c")).unwrap();
        let expected = [("a", What::Remove), ("b", What::Left), ("c", What::Forget)];
        assert_eq!(instance.run(&[], Choice::Beside), done(&expected));
        assert!(!instance.path("a").exists());
        assert_eq!(instance.read("b"), "mine");
        assert_eq!(instance.run(&[], Choice::Beside), done(&[]));
    }
}
