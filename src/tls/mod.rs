//! Certificates and keys, as the `<ssl>` sections of ZEO name them: read from files, and judged.
//!
//! [`files`] is what both ends need. [`server`] is a listening end, which shows a certificate and judges
//! those of its clients by [`clients`]. [`servers`] is a connecting end, which judges the server's. [`spoken`] keeps what a
//! listening end speaks by, and reads it again.
//!
//! It does not know of sockets, of the protocol, or of the configuration.

mod clients;
pub mod files;
mod server;
pub mod servers;
mod spoken;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use clients::why_refused;
pub use files::TlsError;
pub use server::{Authenticate, ServerTls, Speaks};
pub use spoken::Spoken;
