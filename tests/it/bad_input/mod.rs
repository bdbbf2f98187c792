//! What goes wrong outside: clients that send nonsense, damaged files, mistakes in the configuration,
//! somebody else at the port or the files, a full disk. Each ends in a clear message, and nothing is lost.

mod config;
mod disk_full;
mod files;
mod limits;
pub(crate) mod peers;
mod places;
mod readers;
mod stored;
