//! zeoraidctl: RAID-1 for ZODB.
pub mod admin;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod durable;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod job;
pub mod pickle;
pub mod raid;
pub mod recipe;
pub mod server;
pub mod storage;
pub mod task;
pub mod tls;
pub mod wire;
pub mod zodb;
