//! zeoraidctl: RAID-1 for ZODB.
#[macro_use]
mod bug;

pub mod admin;
pub mod cli;
pub mod clock;
pub mod config;
mod counted;
pub mod daemon;
pub mod durable;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod job;
pub mod pickle;
pub mod raid;
pub mod recipe;
mod refused;
pub mod server;
pub mod storage;
pub mod task;
pub mod tls;
pub mod wire;
pub mod zodb;

/// The deterministic simulation of whole daemons: see its first lines.
#[cfg(test)]
#[path = "../tests/simulation/mod.rs"]
#[allow(
    clippy::similar_names,
    reason = "server and served, trace and its lines: each is what it is called"
)]
mod simulation;
