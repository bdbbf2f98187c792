//! The admin protocol: HTTP with JSON under `/v1`, the same for the tool, the page and scripts.

pub mod api;
