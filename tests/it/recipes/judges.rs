//! The programs that read what recipes write.
//!
//! They are looked for on `$PATH`, where Debian has those of administrators, and in `.programs`, into which
//! `tests/run` unpacks what the machine does not have. A test without its program passes, and says so past
//! the test harness and into a file that `tests/run` prints at the end; with `ZEORAID_PROGRAMS=required` it
//! fails.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::python::{self, Python};

/// A program of the machine, with this for what cannot be checked without it.
pub(super) fn judge(name: &str, what: &str) -> Option<Command> {
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join(".programs");
    let own = ["usr/bin", "usr/sbin", "bin", "sbin"].map(|folder| programs.join(folder));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .chain(own)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file());
    let Some(file) = found else {
        missing(name, what);
        return None;
    };
    let mut command = Command::new(&file);
    command.env("LC_ALL", "C.UTF-8").env("SYSTEMD_COLORS", "0");
    if file.starts_with(&programs) {
        command.env("LD_LIBRARY_PATH", libraries(&programs));
    }
    Some(command)
}

/// A program of the Python environment with the tools, which is always there.
pub(super) fn tool(name: &str) -> Command {
    python::program_with(Python::Tools, name)
}

/// A script of `tests/python`, run with the Python that has the tools.
pub(super) fn tool_script(name: &str) -> Command {
    let mut command = tool("python");
    command.env("PYTHONDONTWRITEBYTECODE", "1").arg(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/python")
            .join(name),
    );
    command
}

fn libraries(programs: &Path) -> std::ffi::OsString {
    let mut folders = Vec::new();
    for lib in ["usr/lib", "lib"] {
        let Ok(entries) = fs::read_dir(programs.join(lib)) else {
            continue;
        };
        for folder in entries.flatten().map(|entry| entry.path()) {
            if folder.to_string_lossy().ends_with("-linux-gnu") {
                folders.push(folder.join("systemd"));
                folders.push(folder);
            }
        }
    }
    std::env::join_paths(folders).expect("folders without colons")
}

fn missing(name: &str, what: &str) {
    let line = format!("not checked: {what} ({name} is not installed)\n");
    assert!(
        std::env::var_os("ZEORAID_PROGRAMS").is_none_or(|value| value != "required"),
        "{line}`tests/run --programs` fetches it on Debian"
    );
    // Not by `eprint!`, which a test that passes keeps to itself.
    drop(std::io::stderr().write_all(line.as_bytes()));
    let list = Path::new(env!("CARGO_TARGET_TMPDIR")).join("not-checked");
    let file = fs::OpenOptions::new().create(true).append(true).open(&list);
    let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
    written.unwrap_or_else(|error| panic!("{}: {error}", list.display()));
}
