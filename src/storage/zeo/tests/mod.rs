//! Tests with Python's server (`python`), and with a peer that says what a test tells it to (`scripted`).

mod python;
mod scripted;
mod server;
