//! The vocabulary of ZODB, for every other room: identifiers, transactions and their records, and
//! what a healthy storage answers when it says no.
//!
//! Nothing here does IO, and nothing here knows an encoding: the pickle of a transaction's extension
//! and the data of a record are bytes that pass through.

mod answer;
mod blob;
mod data_fs;
mod ids;
mod payload;
mod time;
mod transaction;

pub use answer::{Answer, Conflict};
pub use blob::Blob;
pub use data_fs::is_data_fs;
pub use ids::{InvalidId, Oid, Tid};
pub use payload::Payload;
pub use transaction::{HistoryRecord, HistoryTxn, Op, RecordData, TidRange, TxnMeta, TxnStatus};
