//! Real Python with released ZODB, for tests that compare with it.
//!
//! The interpreter is `$ZEORAID_PYTHON`, or that of the environment which `tests/run` makes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The interpreter, quiet and leaving no files behind.
pub(crate) fn python() -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = match std::env::var_os("ZEORAID_PYTHON") {
        Some(python) => PathBuf::from(python),
        None => root.join(".venv/bin/python"),
    };
    assert!(
        python.exists(),
        "this test needs Python with ZODB, and there is no {}; make it with:\n\n    \
         tests/run --python\n",
        python.display()
    );
    let mut command = Command::new(python);
    command
        .env("TZ", "UTC")
        .env("PYTHONWARNINGS", "ignore")
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// Runs a few lines of Python with these arguments and returns what they printed.
#[track_caller]
pub(crate) fn run(lines: &str, arguments: &[&str]) -> String {
    let output = python()
        .arg("-c")
        .arg(lines)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("Python can be run");
    assert!(
        output.status.success(),
        "Python failed:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("it prints text")
}
