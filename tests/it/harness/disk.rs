//! A disk so small that it is full soon: a file system in memory, where that may be mounted.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounted at this folder, which is made. None where this user may not mount: then the reason is
    /// said loudly, past the harness that hides the output of tests that pass.
    pub(crate) fn mount(at: &Path, kib: u64, test: &str) -> Option<Self> {
        std::fs::create_dir_all(at).expect("a folder to mount at");
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "zeoraid-test"])
            .arg(at)
            .output();
        let why = match done {
            Ok(output) if output.status.success() => return Some(SmallDisk(at.to_owned())),
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        let line = format!("\nSKIPPED {test}: no small disk can be mounted here: {why}\n");
        std::io::stderr()
            .write_all(line.as_bytes())
            .expect("standard error takes a line");
        None
    }

    pub(crate) fn resize(&self, kib: u64) {
        let done = Command::new("mount")
            .args(["-o", &format!("remount,size={kib}k")])
            .arg(&self.0)
            .status();
        assert!(
            done.is_ok_and(|status| status.success()),
            "remounting {}",
            self.0.display()
        );
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, since a daemon of a test that failed may still hold files open for a moment.
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}
