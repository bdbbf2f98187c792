//! The same with Python clients, each a process of its own. They are slower than any server; what is
//! to be seen here is what an application sees.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::ensure;
use futures_util::future::try_join_all;
use tokio::process::Command;

use crate::sides::{Side, python};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/compare/clients.py");

/// How many objects each client loads, unless something else is said.
pub(crate) const OBJECTS: usize = 500;

/// Stores what is loaded, in a fresh database with a root: several clients at once would conflict over it.
pub(crate) async fn prepare(side: &Side, objects: usize) -> anyhow::Result<()> {
    one(side, "root", objects, Duration::ZERO).await?;
    Ok(())
}

/// Runs clients at the same time; gives how long each of their operations took.
pub(crate) async fn run(
    side: &Side,
    what: &str,
    clients: usize,
    objects: usize,
    time: Duration,
) -> anyhow::Result<Vec<u32>> {
    let running = (0..clients).map(|_| one(side, what, objects, time));
    Ok(try_join_all(running).await?.concat())
}

async fn one(side: &Side, what: &str, objects: usize, time: Duration) -> anyhow::Result<Vec<u32>> {
    let output = Command::new(python()?)
        .arg(Path::new(SCRIPT))
        .arg(side.address.to_string())
        .arg(what)
        .arg(time.as_secs_f64().to_string())
        .arg(objects.to_string())
        .stdin(Stdio::null())
        .output()
        .await?;
    ensure!(
        output.status.success(),
        "a Python client failed against {}:\n{}",
        side.name,
        String::from_utf8_lossy(&output.stderr)
    );
    let seconds: Vec<f64> = serde_json::from_slice(&output.stdout)?;
    let nanoseconds = seconds
        .into_iter()
        .map(|seconds| Duration::from_secs_f64(seconds).as_nanos());
    Ok(nanoseconds
        .map(|nanoseconds| u32::try_from(nanoseconds).unwrap_or(u32::MAX))
        .collect())
}
