//! zeoraidctl: RAID-1 for ZODB.
pub mod job;
pub mod storage;
pub mod task;
pub mod zodb;
