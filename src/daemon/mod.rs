//! The daemon: one process that opens arrays, serves them to ZEO clients, and can be asked.
//!
//! [`run`] is its whole life. [`supervisor`] turns a configuration into arrays and listeners, and back
//! into what changed; [`api`] answers the admin protocol from them; [`report`] puts what arrays say of
//! themselves into that protocol's words. The rest is what every daemon needs: [`logging`],
//! [`journal`], [`user`], [`pid_file`], [`signals`], [`notify`], [`panics`]; [`background`] is the parent's half of `start`.

pub mod background;

mod api;
mod error;
mod jobs;
mod journal;
mod logging;
mod notify;
mod panics;
mod pid_file;
mod reload;
mod report;
mod run;
mod scrubs;
mod signals;
mod supervisor;
mod user;

pub use error::DaemonError;
pub use pid_file::is_running;
pub use run::{Start, run};

/// A daemon as the simulation of whole daemons runs it.
#[cfg(test)]
#[path = "../../tests/simulation/daemon.rs"]
pub(crate) mod simulated;

#[cfg(test)]
mod tests;
