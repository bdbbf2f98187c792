//! A ZEO server of ZEO as it is released, in a process of its own.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::storage::zeo::{ZeoAddress, ZeoOptions};

/// Killed when dropped.
pub(super) struct Server {
    child: Child,
    address: ZeoAddress,
    folder: Arc<TempDir>,
}

pub(super) fn interpreter() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = match std::env::var_os("ZEORAID_PYTHON") {
        Some(python) => PathBuf::from(python),
        None => root.join(".venv/bin/python"),
    };
    assert!(
        python.exists(),
        "these tests need Python with ZODB and ZEO, and there is no {}; make it with:\n\n    \
         tests/run --python\n",
        python.display()
    );
    python
}

impl Server {
    /// Over a new `Data.fs`, listening at loopback. `more` are options of `zeo_server.py`.
    pub(super) fn start(more: Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::start_in(folder, json!(["127.0.0.1", 0]), more)
    }

    /// Killed at once, and another over the same `Data.fs`.
    pub(super) fn killed_and_started(self) -> Self {
        let folder = Arc::clone(&self.folder);
        drop(self);
        Self::start_in(folder, json!(["127.0.0.1", 0]), json!({}))
    }

    pub(super) fn start_in(folder: impl Into<Arc<TempDir>>, address: Value, more: Value) -> Self {
        let folder = folder.into();
        let mut options = json!({
            "file": folder.path().join("Data.fs"),
            "address": address,
        });
        for (name, value) in more.as_object().unwrap() {
            options[name] = value.clone();
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/zeo_server.py");
        let mut child = Command::new(interpreter())
            .arg("-Wignore")
            .arg(script)
            .arg(options.to_string())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("TZ", "UTC")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python starts");
        let mut line = String::new();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        said.read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).expect("the server says where it listens");
        let address = match &options["address"] {
            Value::String(path) => ZeoAddress::Unix(path.into()),
            address => ZeoAddress::Tcp {
                host: address[0].as_str().unwrap().to_owned(),
                port: said["port"].as_u64().unwrap().try_into().unwrap(),
            },
        };
        Server {
            child,
            address,
            folder,
        }
    }

    pub(super) fn options(&self) -> ZeoOptions {
        ZeoOptions {
            blob_folder: self.folder.path().to_owned(),
            ..ZeoOptions::new(self.address.clone(), "1")
        }
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().expect("it was ours");
        self.child.wait().expect("it was ours");
    }
}
