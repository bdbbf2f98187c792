//! The tests that every storage passes.
