//! The built-in recipes: what each of them writes is read by the program it is for, and where that can be
//! done here, used by it.

mod clients;
mod combinations;
mod fronts;
mod judges;
mod logs;
mod readers;
mod supervision;
mod watching;

use std::path::{Path, PathBuf};

use crate::harness::Instance;
use crate::harness::instance::Run;

/// What `init` is told: which recipe, what is added to it, and answers.
#[derive(Debug, Clone, Default)]
struct Order<'a> {
    recipe: &'a str,
    with: &'a [&'a str],
    set: Vec<String>,
}

impl<'a> Order<'a> {
    fn new(recipe: &'a str, with: &'a [&'a str]) -> Self {
        Order {
            recipe,
            with,
            set: Vec::new(),
        }
    }

    fn set(mut self, option: &str, value: impl std::fmt::Display) -> Self {
        self.set.push(format!("{option}={value}"));
        self
    }

    /// Makes it in this folder.
    fn run(&self, beside: &Instance, folder: &Path) -> Run {
        let mut args = vec!["init", folder.to_str().expect("a plain path"), "--yes"];
        args.extend(["--recipe", self.recipe]);
        for addition in self.with {
            args.extend(["--with", addition]);
        }
        for answer in &self.set {
            args.extend(["--set", answer]);
        }
        beside.run_bare(&args)
    }
}

/// An instance of `embedded` with these additions, at an address of its own, not started.
#[track_caller]
fn embedded(with: &[&str], set: &[(&str, String)]) -> Instance {
    let instance = Instance::new();
    let mut order = Order::new("embedded", with).set("listen", &instance.address);
    for (option, value) in set {
        order = order.set(option, value);
    }
    order.run(&instance, instance.root()).ok();
    instance
}

/// The files in this folder with this ending, sorted.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a folder can be read").path())
        .filter(|path| path.to_string_lossy().ends_with(ending))
        .collect();
    files.sort();
    files
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
