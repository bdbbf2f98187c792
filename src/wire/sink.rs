//! What the shapes of messages are written to, whatever the dialect.
//!
//! A container is told its length at both ends: msgpack needs it first, pickle last.

use bytes::Bytes;

use super::output::FrameOverflow;
use crate::pickle::{PickleError, Value};
use crate::zodb::{Oid, Tid};

/// Why a message could not be written.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    #[error("a transaction's extension cannot be sent: {0}")]
    Extension(#[from] PickleError),
    #[error("the data of a record could not be read: {0}")]
    Data(#[from] std::io::Error),
    #[error(transparent)]
    TooLarge(#[from] FrameOverflow),
}

/// Takes values in the order in which they are said.
pub(super) trait Sink {
    fn none(&mut self);
    fn bool(&mut self, bool: bool);
    fn int(&mut self, int: i64);
    fn big_int(&mut self, bytes: &[u8]);
    fn float(&mut self, float: f64);
    fn bytes(&mut self, bytes: &[u8]);
    /// Bytes that need not be copied.
    fn shared(&mut self, bytes: &Bytes);
    fn eight(&mut self, eight: [u8; 8]);
    fn text(&mut self, text: &str);

    fn tuple(&mut self, items: usize);
    fn tuple_end(&mut self, items: usize);
    fn list(&mut self, items: usize);
    fn list_end(&mut self, items: usize);
    fn dict(&mut self, entries: usize);
    fn dict_end(&mut self, entries: usize);

    /// Any value.
    fn value(&mut self, value: &Value);

    /// A dictionary: the entries of a pickled extension, then entries with these names, which must
    /// follow before [`Sink::extended_end`]. They win where the extension has them too.
    fn extended(&mut self, pickled: &Bytes, names: &[&str]) -> Result<(), EncodeError>;
    fn extended_end(&mut self, names: &[&str]);

    /// An `UndoError` as an item of something else.
    fn undo_error(&mut self, reason: &str, oid: Option<Oid>);

    fn oid(&mut self, oid: Oid) {
        self.eight(oid.to_bytes());
    }

    fn tid(&mut self, tid: Tid) {
        self.eight(tid.to_bytes());
    }

    fn some_oid(&mut self, oid: Option<Oid>) {
        match oid {
            Some(oid) => self.oid(oid),
            None => self.none(),
        }
    }

    fn some_tid(&mut self, tid: Option<Tid>) {
        match tid {
            Some(tid) => self.tid(tid),
            None => self.none(),
        }
    }

    /// A count, which in no real life is beyond 63 bits.
    fn count(&mut self, count: u64) {
        self.int(i64::try_from(count).unwrap_or(i64::MAX));
    }

    fn oids(&mut self, oids: &[Oid]) {
        self.list(oids.len());
        for oid in oids {
            self.oid(*oid);
        }
        self.list_end(oids.len());
    }
}
