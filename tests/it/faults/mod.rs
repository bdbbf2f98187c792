//! What members that are ZEO servers can do wrong, with real servers and real clients: in every case no
//! client sees an error or waits longer than a member's timeout, and afterwards all members are the same.

mod blobs;
mod caches;
mod coop;
mod disk;
mod fault;
mod files;
mod gone;
mod held;
mod idle;
mod lock;
mod members;
mod packing;
mod policies;
mod recovery;
mod soak;
mod stages;
mod swaps;
mod torn;
mod undo;
