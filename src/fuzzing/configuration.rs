//! Configurations: ours, and those of the old world.

use std::path::{Path, PathBuf};

use super::in_folder;
use crate::config::zconfig::{Import, import};
use crate::config::{ConfigError, format_duration, format_size, parse, parse_duration, parse_size};

const FILE: &str = "etc/zeoraid.yaml";

/// Any text as a configuration. What follows a zero byte is what each variable of the environment says.
pub(super) fn config(data: &[u8]) {
    let (text, variable) = match data.iter().position(|byte| *byte == 0) {
        Some(end) => (&data[..end], Some(&data[end + 1..])),
        None => (data, None),
    };
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let variable = variable.map(|value| String::from_utf8_lossy(value).into_owned());
    let environment = |_: &str| variable.clone();
    let read = parse(text, Path::new(FILE), Path::new("/srv/zeo"), &environment);
    if let Err(error) = read {
        assert!(!error.mistakes().is_empty(), "wrong without a reason");
        // As a person reads it.
        assert!(!error.to_string().is_empty());
    }
    units(text);
}

/// What a unit says is said by what it is shown as.
fn units(text: &str) {
    if let Ok(duration) = parse_duration(text) {
        let shown = format_duration(duration);
        assert_eq!(parse_duration(&shown), Ok(duration), "{shown}");
    }
    if let Ok(size) = parse_size(text) {
        let shown = format_size(size);
        assert_eq!(parse_size(&shown), Ok(size), "{shown}");
    }
}

/// Any text as a file of the old world. What comes of it is YAML, whatever stood in the values.
pub(super) fn zconfig(data: &[u8]) {
    in_folder(|folder| {
        let folder = folder.join("etc");
        std::fs::create_dir(&folder).expect("a folder can be made");
        let file: PathBuf = folder.join("zeo.conf");
        std::fs::write(&file, data).expect("a file can be written");
        for part in [None, Some("zeoserver")] {
            import_one(&file, part);
        }
    });
}

fn import_one(file: &Path, part: Option<&str>) {
    let files = [file.to_owned()];
    let environment = |name: &str| (name == "HOME").then(|| "/home/zope".to_owned());
    let imported = import(&Import {
        files: &files,
        part,
        cluster_mode: None,
        base: None,
        environment: &environment,
    });
    let Ok(imported) = imported else { return };
    let read = parse(
        &imported.text,
        Path::new(FILE),
        Path::new("/srv/zeo"),
        &|_| None,
    );
    if let Err(ConfigError::Mistakes(mistakes)) = read {
        for mistake in mistakes {
            assert!(
                !mistake.what.starts_with("this is not YAML"),
                "{}:{}: {}\n{}",
                mistake.line,
                mistake.column,
                mistake.what,
                imported.text
            );
        }
    }
}
