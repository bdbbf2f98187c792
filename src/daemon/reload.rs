//! What a new configuration changes in a running daemon.
//!
//! Members and the log level take effect, and certificates are read again; everything else is named as
//! waiting for a restart. What is in force afterwards is the old configuration with only that changed, so that `show` tells the truth.

use crate::admin::api::Problem;
use crate::config::{Config, ConfigError, Setting};
use crate::counted::counted;

/// The differences between what is in force and what the file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Differences {
    /// The arrays whose members differ.
    pub(super) members: Vec<String>,
    pub(super) log_level: bool,
    /// `log.level: info -> debug`.
    pub(super) changed: Vec<String>,
    /// What takes effect only after a restart.
    pub(super) needs_restart: Vec<String>,
}

/// Whether a setting takes effect without a restart.
fn is_live(key: &str) -> bool {
    key == "log.level" || is_member(key)
}

fn is_member(key: &str) -> bool {
    let mut parts = key.splitn(4, '.');
    parts.next() == Some("arrays") && parts.nth(1) == Some("members")
}

/// Compares value by value.
pub(super) fn compare(old: &Config, new: &Config) -> Differences {
    let mut found = Differences::default();
    for array in &new.arrays {
        match old.array(&array.name) {
            None => found
                .needs_restart
                .push(format!("arrays.{}: added", array.name)),
            Some(before) if before.members != array.members => {
                found.members.push(array.name.clone());
            }
            Some(_) => {}
        }
    }
    for array in &old.arrays {
        if new.array(&array.name).is_none() {
            let line = format!("arrays.{}: removed", array.name);
            found.needs_restart.push(line);
        }
    }
    for setting in new.explain() {
        let Some(before) = find(old, &setting.key) else {
            continue;
        };
        if before.value == setting.value || is_member(&setting.key) {
            continue;
        }
        let line = format!("{}: {} -> {}", setting.key, before.value, setting.value);
        if setting.key == "log.level" {
            found.log_level = true;
            found.changed.push(line);
        } else {
            found.needs_restart.push(line);
        }
    }
    found
}

/// What is in force after a reload.
pub(super) fn in_force(old: &Config, new: &Config) -> Config {
    let mut config = old.clone();
    config.log.level = new.log.level;
    for array in &mut config.arrays {
        if let Some(new) = new.array(&array.name) {
            array.members.clone_from(&new.members);
        }
    }
    config.replace_settings(new, |key| {
        let array = key.split('.').nth(1).unwrap_or_default();
        let is_in_both = old.array(array).is_some() && new.array(array).is_some();
        is_live(key) && (!is_member(key) || is_in_both)
    });
    config
}

/// A configuration that would stop an array from serving at once is refused: what is in force of it
/// until the restart must fit the new members.
pub(super) fn check(old: &Config, new: &Config) -> Result<(), Problem> {
    for array in &new.arrays {
        let Some(before) = old.array(&array.name) else {
            continue;
        };
        if array.members.len() < before.min_optimal {
            let detail = format!(
                "array {} needs {} until the daemon is restarted, and would have {}",
                array.name,
                counted(before.min_optimal as u64, "optimal member"),
                array.members.len()
            );
            return Err(Problem::conflict(detail).with_next("zeoraidctl restart"));
        }
    }
    Ok(())
}

/// Mistakes in the configuration, for who asked for a reload.
pub(super) fn problem(error: &ConfigError) -> Problem {
    let mistakes: Vec<String> = error.mistakes().iter().map(ToString::to_string).collect();
    let detail = match mistakes.len() {
        0 => error.to_string(),
        1 => "there is a mistake in the configuration; nothing was changed".into(),
        many => format!("there are {many} mistakes in the configuration; nothing was changed"),
    };
    let problem = Problem::configuration(detail, mistakes);
    match error.next() {
        Some(next) => problem.with_next(next),
        None => problem,
    }
}

/// Certificates that cannot be used, for who asked for a reload.
pub(super) fn unusable(error: impl std::fmt::Display) -> Problem {
    let detail = format!("{error}; nothing was changed, and the certificates in force stay");
    Problem::failed(detail).with_next("zeoraidctl check-config")
}

fn find<'c>(config: &'c Config, key: &str) -> Option<&'c Setting> {
    config.explain().iter().find(|setting| setting.key == key)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config;

    fn read(text: &str) -> Config {
        config::parse(text, Path::new("/i/etc/x.yaml"), Path::new("/i"), &|_| None).unwrap()
    }

    const OLD: &str = "arrays: {main: {members: {a: {file: a.fs}, b: {file: b.fs}}}}";

    #[test]
    fn members_and_the_log_level_take_effect_and_the_rest_is_named() {
        let old = read(OLD);
        let new = read(
            "listen: 127.0.0.1:8200\nlog: {level: debug}\n\
             arrays: {main: {members: {a: {file: a.fs}, c: {file: c.fs}}, cache: 1MiB}, \
             two: {members: {x: {file: x.fs}}}}",
        );
        let found = compare(&old, &new);
        assert_eq!(found.members, ["main"]);
        assert_eq!(found.changed, ["log.level: info -> debug"]);
        assert_eq!(
            found.needs_restart,
            [
                "arrays.two: added",
                "listen: 127.0.0.1:8100 -> 127.0.0.1:8200",
                "arrays.main.aliases: 1 -> -",
                "arrays.main.cache: 64MiB -> 1MiB",
            ]
        );
        let now = in_force(&old, &new);
        let names: Vec<_> = now.arrays[0]
            .members
            .iter()
            .map(|m| m.name.as_str())
            .collect();
        assert_eq!(names, ["a", "c"]);
        let value = |key: &str| find(&now, key).map(|setting| setting.value.clone());
        assert_eq!(value("arrays.main.members.c.file").as_deref(), Some("c.fs"));
        assert_eq!(value("arrays.main.members.b.file"), None);
        assert_eq!(value("log.level").as_deref(), Some("debug"));
        assert_eq!(value("listen").as_deref(), Some("127.0.0.1:8100"));
        assert_eq!(value("arrays.two.members.x.file"), None);
        assert_eq!(
            compare(&now, &new).members,
            Vec::<String>::new(),
            "a second time finds nothing"
        );
    }

    #[test]
    fn the_same_file_changes_nothing() {
        assert_eq!(compare(&read(OLD), &read(OLD)), Differences::default());
    }

    #[test]
    fn fewer_members_than_are_needed_until_the_restart_are_refused() {
        let old =
            read("arrays: {m: {members: {a: {file: a.fs}, b: {file: b.fs}}, min_optimal: 2}}");
        let new = read("arrays: {m: {members: {a: {file: a.fs}}, min_optimal: 1}}");
        let problem = check(&old, &new).unwrap_err();
        assert_eq!(problem.status, 409);
        assert!(check(&new, &old).is_ok());
    }
}
