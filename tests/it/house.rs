//! The house: which room uses which, and what every file begins with. Reads the source, runs nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Which rooms a room may use, besides itself. `storage` is the trait: its implementations are rooms of
/// their own (`storage::file`), which only who makes members may enter.
const DOORS: &[(&str, &[&str])] = &[
    ("zodb", &["counted"]),
    ("counted", &[]),
    ("pickle", &[]),
    ("task", &[]),
    ("clock", &[]),
    ("bug", &[]),
    ("refused", &[]),
    ("durable", &[]),
    ("tls", &["task"]),
    ("job", &["task", "clock"]),
    ("wire", &["zodb", "pickle"]),
    (
        "storage",
        &[
            "zodb",
            "pickle",
            "wire",
            "job",
            "task",
            "clock",
            "tls",
            "durable",
            "storage::file",
            "storage::memory",
            "storage::zeo",
        ],
    ),
    (
        "raid",
        &[
            "zodb", "storage", "job", "task", "clock", "durable", "counted",
        ],
    ),
    // The plan has no door from `server` to `pickle`: the extension of a transaction is a pickle of the
    // application's, and what it may be is decided where transactions begin.
    (
        "server",
        &[
            "zodb",
            "wire",
            "storage",
            "admin::api",
            "task",
            "clock",
            "tls",
            "pickle",
            "refused",
            "counted",
            // What is left of a disk.
            "durable",
        ],
    ),
    // The plan has no door from `config` to `tls`: what a listener's files are is said there once.
    ("config", &["zodb", "tls", "counted"]),
    ("recipe", &["zodb", "config", "durable"]),
    // The plan has no door from `admin` to `tls`: `https://` at both ends.
    (
        "admin",
        &["zodb", "job", "task", "clock", "tls", "refused", "counted"],
    ),
    (
        "daemon",
        &[
            "zodb",
            "pickle",
            "task",
            "clock",
            "job",
            "durable",
            "wire",
            "storage",
            "storage::file",
            "storage::memory",
            "storage::zeo",
            "raid",
            "server",
            "tls",
            "admin",
            "config",
            "counted",
        ],
    ),
    (
        "cli",
        &[
            "admin", "config", "recipe", "job", "zodb", "durable", "clock", "counted",
        ],
    ),
];

/// Single doors: this file alone may use that.
const SIDE_DOORS: &[(&str, &str)] = &[
    ("cli/commands/fg.rs", "daemon"),
    ("cli/launch.rs", "daemon"),
    ("cli/commands/inspect.rs", "storage::file"),
];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The lines of a file that are no test, and the names of modules that are only for tests.
fn without_tests(text: &str) -> (Vec<&str>, Vec<String>) {
    let mut lines = Vec::new();
    let mut test_modules = Vec::new();
    let mut all = text.lines().peekable();
    while let Some(line) = all.next() {
        let only_tests = ["#[cfg(test)]", "#[cfg(any(test, fuzzing))]"];
        if !only_tests.contains(&line.trim()) {
            lines.push(line);
            continue;
        }
        // Other attributes may stand between.
        while all.peek().is_some_and(|next| next.trim().starts_with("#[")) {
            all.next();
        }
        let Some(item) = all.next() else { break };
        let indent = item.len() - item.trim_start().len();
        if let Some(name) = item.trim().strip_suffix(';') {
            if let Some((_, name)) = name.split_once("mod ") {
                test_modules.push(name.to_owned());
            }
        } else if item.trim_end().ends_with('{') {
            // To the bracket that closes it, which rustfmt puts below its beginning.
            let closing = format!("{}}}", " ".repeat(indent));
            for line in all.by_ref() {
                if line == closing {
                    break;
                }
            }
        }
    }
    (lines, test_modules)
}

/// Every file with its lines, test code left out.
fn rooms() -> Vec<(String, Vec<String>)> {
    let root = source();
    let mut only_tests = BTreeSet::new();
    let mut files = Vec::new();
    for path in files_below(&root) {
        let text = fs::read_to_string(&path).expect("source is text");
        let (lines, modules) = without_tests(&text);
        let folder = match path.file_stem().and_then(|stem| stem.to_str()) {
            Some("mod" | "lib" | "main") => path.parent().expect("in a folder").to_owned(),
            _ => path.with_extension(""),
        };
        for module in modules {
            only_tests.insert(folder.join(module));
        }
        let lines = lines.into_iter().map(str::to_owned).collect();
        files.push((path, lines));
    }
    files
        .into_iter()
        .filter(|(path, _): &(PathBuf, Vec<String>)| {
            !path
                .with_extension("")
                .ancestors()
                .any(|above| only_tests.contains(above))
        })
        .map(|(path, lines)| {
            let path = path.strip_prefix(&root).expect("below src");
            (path.display().to_string(), lines)
        })
        .collect()
}

fn room_of(file: &str) -> &str {
    let first = file.split('/').next().unwrap_or(file);
    first.strip_suffix(".rs").unwrap_or(first)
}

/// The rooms that a line uses, with the inner room where that is one of its own.
fn used(line: &str) -> Vec<String> {
    let code = line.split("//").next().unwrap_or_default();
    code.split("crate::")
        .skip(1)
        .map(|rest| {
            let path: Vec<&str> = rest.splitn(3, "::").collect();
            let word = |text: &str| -> String {
                text.chars()
                    .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                    .collect()
            };
            let room = word(path[0]);
            let inner = path.get(1).map(|text| word(text)).unwrap_or_default();
            match (room.as_str(), inner.as_str()) {
                ("storage", "file" | "memory" | "zeo") | ("admin", "api") => {
                    format!("{room}::{inner}")
                }
                _ => room,
            }
        })
        .filter(|room| !room.is_empty())
        .collect()
}

#[test]
fn rooms_use_only_the_doors_they_have() {
    let mut wrong = Vec::new();
    for (file, lines) in rooms() {
        let room = room_of(&file);
        if matches!(room, "lib" | "main") {
            continue;
        }
        let Some((_, doors)) = DOORS.iter().find(|(name, _)| *name == room) else {
            wrong.push(format!(
                "src/{file}: a room without doors: name it in tests/it/house.rs"
            ));
            continue;
        };
        for (number, line) in lines.iter().enumerate() {
            for other in used(line) {
                let outer = other.split("::").next().unwrap_or_default();
                let whole_room =
                    doors.contains(&outer) && (outer != "storage" || other == "storage");
                let open = outer == room
                    || doors.contains(&other.as_str())
                    || whole_room
                    || SIDE_DOORS.contains(&(file.as_str(), outer))
                    || SIDE_DOORS.contains(&(file.as_str(), other.as_str()));
                if !open {
                    wrong.push(format!(
                        "src/{file} (about line {}): {room} may not use {other}",
                        number + 1
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_begins_with_what_it_is() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let benches = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches");
    let mut wrong = Vec::new();
    for folder in [source(), tests, benches] {
        for path in files_below(&folder) {
            let text = fs::read_to_string(&path).expect("source is text");
            if !text.starts_with("//! ") {
                wrong.push(path.display().to_string());
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "these do not begin with `//!`:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn nothing_is_unwrapped_outside_of_tests() {
    let mut wrong = Vec::new();
    for (file, lines) in rooms() {
        for line in lines {
            let code = line.split("//").next().unwrap_or_default();
            if code.contains(".unwrap()")
                || code.contains("todo!(")
                || code.contains("unimplemented!(")
            {
                wrong.push(format!("src/{file}: {}", line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Names that say nothing about what is inside.
#[test]
fn no_file_is_a_drawer_for_odds_and_ends() {
    let drawers = [
        "util", "utils", "misc", "helpers", "manager", "common", "data",
    ];
    let wrong: Vec<String> = files_below(&source())
        .into_iter()
        .filter(|path| {
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            stem.is_some_and(|stem| drawers.contains(&stem))
        })
        .map(|path| path.display().to_string())
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
