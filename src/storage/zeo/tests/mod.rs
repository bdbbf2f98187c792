//! Tests with Python's server (`python`), with a peer that says what a test tells it to (`scripted`), and of
//! which servers' certificates are taken (`tls`).

mod python;
mod scripted;
mod server;
mod tls;
