//! The tests from outside: the binary, its daemon, real Python clients, terminals and raw sockets.
//!
//! One crate, so that there is one link. Each test has a folder and a port of its own; whatever it
//! starts ends with it. What a test is about stands in its name; what it stands on is in `harness`.
//!
//! They need the Python environment that `tests/run` makes.

#![expect(clippy::print_stderr, reason = "a test that fails says what it saw")]

#[macro_use]
mod tool;

mod apps;
mod bad_input;
mod crash;
mod faults;
mod harness;
mod house;
mod import;
mod inspect;
mod instances;
mod jobs;
mod large;
mod listeners;
mod main_job;
mod options;
mod packing;
mod process;
mod reached;
mod recipes;
mod screens;
mod secrets;
mod secure;
mod shell;
mod suites;
mod takeover;
mod zeo;
mod zeo_members;
