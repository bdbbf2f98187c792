//! zeoraidctl: RAID-1 for ZODB.
pub mod admin;
pub mod config;
pub mod durable;
pub mod job;
pub mod pickle;
pub mod raid;
pub mod recipe;
pub mod server;
pub mod storage;
pub mod task;
pub mod wire;
pub mod zodb;
