//! The ZEO front end: serves storages under names to ZEO 5 clients.
//!
//! It knows the storage trait and nothing of what is behind it; whether a storage can be served just
//! now it reads from a watched [`Serving`]. One task has one connection: it reads calls, starts them,
//! and passes on replies and invalidations ([`session`]). Three parts of a session have rules of their
//! own: what leaves in which order ([`outbox`], invariant 6), the calls of a transaction, which keep
//! their order ([`lane`]), and the others, which may overtake each other ([`reads`], [`iterators`], and the
//! blobs that are sent in pieces, [`sending`]). Who has lost a conflict comes next ([`contention`]). What
//! each method begins is in [`methods`]; TLS, where an address has it, in [`tls`].
//!
//! What a client can take is limited: its place ([`admission`]), memory ([`memory`]), what its transactions
//! store ([`lane`]). Each limit has a name ([`limits`]) that whoever passes it is told.
//!
//! It does not know of members, of the configuration, or of the admin protocol's transport; the
//! original `ZEORaid`'s extension methods are answered through [`AdminApi`](crate::admin::api::AdminApi)
//! ([`extension`]).

mod admission;
mod contention;
mod ended;
mod extension;
mod iterators;
mod lane;
mod limits;
mod listener;
mod memory;
mod methods;
mod missed;
mod options;
mod outbox;
mod packing;
mod reads;
mod sending;
mod session;
mod start;
mod stats;
#[cfg(test)]
mod tests;
mod tls;
mod turned_away;
mod welcome;

pub use limits::Limit;
pub use listener::{ListenError, Listening};
pub use options::{Listen, ListenAddress, ServerOptions};
pub use start::{Certificates, Served, Server, Serving};
pub use stats::Counters;
