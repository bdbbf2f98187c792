//! The configuration: from a YAML file to a [`Config`] that cannot be wrong.
//!
//! Three steps. `read` parses the text into nodes that know their line; `check` reads the nodes into
//! the model and collects every mistake on the way, so that one run shows all of them; [`model`] is
//! what comes out, with the origin of every value. Only `daemon::supervisor` and `cli::context` read a
//! `Config`; the other rooms take small option structs of their own.

pub mod model;
pub mod zconfig;

mod address;
mod check;
mod claims;
pub(crate) mod data_file;
pub mod disks;
mod environment;
mod listen;
mod members;
mod mistake;
mod permissions;
mod read;
mod section;
mod together;
mod units;

use std::path::{Path, PathBuf};

pub use mistake::{ConfigError, Mistake};
pub use model::{
    Address, Admin, ArrayConfig, BlobSharing, ClusterMode, Config, Encoding, FailMode, Limits,
    Listen, Log, LogFormat, LogLevel, LogTarget, MemberConfig, MemberStorage, MemberTls, Origin,
    Pack, Rate, Setting, SharedBlobs, Spool, StartPolicy, ZeoServer,
};
pub(crate) use read::line_of;
pub use units::{format_duration, format_size, parse_duration, parse_size};

/// Where the configuration lies in an instance.
pub const FILE: &str = "etc/zeoraid.yaml";

/// Asks for a variable of the environment. Tests give their own.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads the configuration of an instance: `file`, or `etc/zeoraid.yaml` in the instance's folder.
/// Relative paths in it are relative to the instance's folder.
///
/// # Errors
/// Where the file cannot be read, and with every mistake that is in it.
pub fn load(
    instance: &Path,
    file: Option<&Path>,
    environment: Environment<'_>,
) -> Result<Config, ConfigError> {
    let file = file.map_or_else(|| instance.join(FILE), Path::to_owned);
    let text = std::fs::read(&file).map_err(|source| ConfigError::Unreadable {
        path: file.clone(),
        source,
    })?;
    let text = String::from_utf8(text).map_err(|error| not_utf8(&file, &error))?;
    parse(&text, &file, instance, environment)
}

/// Reads a configuration from its text; `file` is its name in messages.
///
/// # Errors
/// With every mistake that is in it.
pub fn parse(
    text: &str,
    file: &Path,
    instance: &Path,
    environment: Environment<'_>,
) -> Result<Config, ConfigError> {
    let instance = std::path::absolute(instance).unwrap_or_else(|_| instance.to_owned());
    let shown = shown(&instance, file);
    let (mut root, mut mistakes) = read::read(text);
    if mistakes.is_empty() {
        let replaced = environment::overlay(&mut root, environment);
        match check::check(&root, &instance, file) {
            Ok(_) if !replaced.is_empty() => mistakes = replaced,
            Ok(mut config) => {
                for warning in &mut config.warnings {
                    warning.file.clone_from(&shown);
                }
                return Ok(config);
            }
            Err(found) => {
                mistakes = replaced;
                mistakes.extend(found);
            }
        }
    }
    for mistake in &mut mistakes {
        mistake.file.clone_from(&shown);
    }
    Err(ConfigError::Mistakes(mistakes))
}

/// The name of the configuration's file in messages.
fn shown(instance: &Path, file: &Path) -> PathBuf {
    file.strip_prefix(instance).unwrap_or(file).to_owned()
}

fn not_utf8(file: &Path, error: &std::string::FromUtf8Error) -> ConfigError {
    let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
    let line = before.split(|byte| *byte == b'\n').count();
    let mut mistake = Mistake::at(line, 1, "the file is not UTF-8 here", "save it as UTF-8");
    file.clone_into(&mut mistake.file);
    ConfigError::Mistakes(vec![mistake])
}

#[cfg(test)]
mod tests;
