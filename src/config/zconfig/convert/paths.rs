//! Paths of the old server: relative to the folder it was started in, which no file names.

use std::path::{Component, Path, PathBuf};

use crate::config::Environment;
use crate::config::zconfig::Import;
use crate::config::zconfig::notes::Findings;
use crate::config::zconfig::tree::Key;

pub(super) struct Paths<'a> {
    base: PathBuf,
    /// A person said it.
    is_said: bool,
    environment: Environment<'a>,
}

impl<'a> Paths<'a> {
    pub(super) fn new(base: &Path, what: &Import<'a>) -> Self {
        let base = what.base.unwrap_or(base);
        Paths {
            base: std::path::absolute(base).unwrap_or_else(|_| base.to_owned()),
            is_said: what.base.is_some(),
            environment: what.environment,
        }
    }

    /// Absolute, and without `.` and `..`.
    pub(super) fn absolute(&self, key: &Key, found: &mut Findings) -> String {
        let home = key
            .value
            .strip_prefix("~/")
            .and_then(|rest| Some((rest, (self.environment)("HOME")?)));
        let path = match home {
            Some((rest, home)) => Path::new(&home).join(rest),
            None => PathBuf::from(&key.value),
        };
        if path.is_relative() && !self.is_said {
            found.must_do(
                &key.place,
                format!("`{} {}` is a relative path", key.name, key.value),
                format!(
                    "the old server took it from the folder it was started in, which no file says; here from {} \
                     (`--base DIR` says another)",
                    self.base.display()
                ),
            );
        }
        let mut clean = PathBuf::new();
        for part in self.base.join(path).components() {
            match part {
                Component::CurDir => {}
                Component::ParentDir => {
                    clean.pop();
                }
                part => clean.push(part),
            }
        }
        clean.display().to_string()
    }
}
