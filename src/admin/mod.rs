//! The admin protocol: HTTP with JSON under `/v1`, the same for the tool, the page and scripts.
//!
//! `api` names what can be asked ([`api::AdminApi`]) and answered. The daemon implements it; `http`
//! serves whatever implements it, and `client` implements it by asking a daemon elsewhere. So commands
//! run against a fake in tests, and against the daemon in life, without a difference.

pub mod api;
pub mod client;
pub mod events;
pub mod http;
pub mod listen;

mod guard;
mod metrics;
mod openapi;
mod page;
mod secure;
mod serve;

pub use guard::{Token, TokenError};
pub use metrics::Metrics;

#[cfg(any(test, fuzzing))]
pub(crate) mod fake;
