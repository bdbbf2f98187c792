//! The parser against ZConfig's own, and what comes of whole files.

mod oracle;
mod samples;
