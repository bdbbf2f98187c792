//! zeoraidctl: RAID-1 for ZODB.
pub mod job;
pub mod pickle;
pub mod storage;
pub mod task;
pub mod wire;
pub mod zodb;
