//! What the tests stand on: instances made by the binary, Python programs, terminals, raw sockets.
//!
//! Nothing here knows what is tested. Everything that is started is ended when its owner is dropped,
//! and every wait has a deadline that says what it waited for.

pub(crate) mod disk;
pub(crate) mod instance;
pub(crate) mod ports;
pub(crate) mod python;
pub(crate) mod raw;
pub(crate) mod terminal;
pub(crate) mod wait;

pub(crate) use instance::Instance;
pub(crate) use wait::{until, until_ok};
