//! What strangers may say, given to everything that reads it: the bodies of the fuzz targets.
//!
//! Compiled for tests and by `cargo fuzz` alone. A body takes any bytes at all and looks that what it is
//! for keeps its promises: no panic, an end, no task and no file that is left behind, and what is said
//! beside each check. Whoever calls it ([`Target`]) looks how much memory it held meanwhile. Time is not
//! waited for: the clock stands still, and jumps where nothing else is left to do.
//!
//! `fuzz/` has one target for each body. The ordinary tests give every file of `fuzz/corpus` and
//! `fuzz/found` to the same functions ([`replay`]); [`seeds`] makes the first corpus.

mod admin;
mod calls;
mod configuration;
mod data_fs;
mod input;
mod messages;
mod pickles;
mod recipes;
#[cfg(test)]
mod replay;
#[cfg(test)]
mod seeds;
mod servers;
mod sessions;

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::timeout;

use admin::admin;
use configuration::{config, zconfig};
use data_fs::{data_fs, index, pack};
use messages::{client, frames, server};
use pickles::pickle;
use recipes::recipe;
use servers::zeo;
use sessions::session;

/// A body, and how much it may hold.
#[derive(Debug)]
pub struct Target {
    pub name: &'static str,
    pub body: fn(&[u8]),
    /// Bytes that it may hold at once, whatever the input: buffers of a fixed size, and what the check
    /// itself needs.
    pub base: u64,
    /// For each byte of the input, so many more.
    pub each: u64,
}

const MIB: u64 = 1 << 20;

/// All of them. `each` is about twice of what was measured: a value of a pickle takes 56 bytes where the
/// pickle has one, and lives once more in what is compared.
pub const TARGETS: &[Target] = &[
    target("admin", admin, 8 * MIB, 64),
    target("client", client, MIB, 1024),
    target("config", config, MIB, 1024),
    target("data_fs", data_fs, 16 * MIB, 64),
    target("frames", frames, 3 * MIB, 16),
    target("index", index, 16 * MIB, 64),
    target("pack", pack, 32 * MIB, 64),
    target("pickle", pickle, MIB, 1024),
    target("recipe", recipe, 64 * MIB, 8192),
    target("server", server, MIB, 1024),
    target("session", session, 4 * MIB, 256),
    target("zconfig", zconfig, MIB, 1024),
    target("zeo", zeo, 4 * MIB, 256),
];

const fn target(name: &'static str, body: fn(&[u8]), base: u64, each: u64) -> Target {
    Target {
        name,
        body,
        base,
        each,
    }
}

impl Target {
    /// # Panics
    /// Where there is no such target.
    #[must_use]
    pub fn named(name: &str) -> &'static Target {
        let found = TARGETS.iter().find(|target| target.name == name);
        found.unwrap_or_else(|| panic!("there is no fuzz target {name}"))
    }

    /// How many bytes it may hold at once for an input of this length.
    #[must_use]
    pub fn memory(&self, length: usize) -> u64 {
        self.base + self.each * length as u64
    }
}

thread_local! {
    static RUNTIME: Runtime = runtime(true);
    /// For the file engine, which has threads of its own: a clock that stands still would not wait for them.
    static WITH_THREADS: Runtime = runtime(false);
    static FOLDER: tempfile::TempDir = folder();
}

fn runtime(paused: bool) -> Runtime {
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_all().start_paused(paused).build();
    runtime.expect("a runtime can be made")
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder can be made")
}

/// Runs to the end, which must come, and after which nothing may run any more.
fn run<T>(work: impl Future<Output = T>) -> T {
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let done = ends(work).await;
            let tasks = Handle::current().metrics();
            ends(async {
                while tasks.num_alive_tasks() > 0 {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            })
            .await;
            done
        })
    })
}

/// The same for what has threads of its own; that it ends is for the caller to see.
fn run_with_threads<T>(work: impl Future<Output = T>) -> T {
    WITH_THREADS.with(|runtime| runtime.block_on(work))
}

/// Waits for what must end within any limit of the house: the longest is ten minutes.
async fn ends<T>(work: impl Future<Output = T>) -> T {
    let done = timeout(Duration::from_hours(24), work).await;
    done.unwrap_or_else(|_| panic!("it does not end"))
}

/// With a folder that is empty before and after, made once for a thread.
fn in_folder<T>(work: impl FnOnce(&Path) -> T) -> T {
    FOLDER.with(|folder| {
        let done = work(folder.path());
        let entries = std::fs::read_dir(folder.path()).expect("the folder is there");
        for entry in entries.flatten() {
            let path = entry.path();
            let removed = if path.is_dir() {
                std::fs::remove_dir_all(&path)
            } else {
                std::fs::remove_file(&path)
            };
            // A thread that nobody waits for any more may have been about to remove it, too.
            if let Err(error) = removed {
                assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
            }
        }
        done
    })
}
