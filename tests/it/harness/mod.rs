//! What the tests stand on: instances made by the binary, Python programs and ZEO servers, what can go
//! wrong between them, terminals, raw sockets.
//!
//! Nothing here knows what is tested. Everything that is started is ended when its owner is dropped,
//! and every wait has a deadline that says what it waited for.

pub(crate) mod certificates;
pub(crate) mod disk;
pub(crate) mod instance;
pub(crate) mod lab;
pub(crate) mod ports;
pub(crate) mod proxy;
pub(crate) mod python;
pub(crate) mod raw;
pub(crate) mod resources;
pub(crate) mod terminal;
pub(crate) mod wait;
pub(crate) mod zeo_server;
pub(crate) mod zope;

pub(crate) use instance::Instance;
pub(crate) use lab::{Lab, LabSetup};
pub(crate) use wait::{until, until_ok};
