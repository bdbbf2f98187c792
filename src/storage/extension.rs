//! Comparing what transactions carry besides user and description.

use bytes::Bytes;

use crate::pickle::{self, Limits, Value};

/// Whether two extensions, pickled as in [`crate::zodb::TxnMeta::extension`], say the same.
///
/// A storage that gives its transactions out as Python values, as a ZEO server does, does not give the
/// pickle as it was written: its protocol, its memo and an empty dictionary for nothing at all are not
/// to be told any more. One that speaks msgpack has made tuples of all lists, before it kept them. What
/// cannot be read is the same where its bytes are.
#[must_use]
pub fn same_extension(one: &Bytes, other: &Bytes) -> bool {
    one == other || entries(one).is_some_and(|one| entries(other) == Some(one))
}

fn entries(extension: &Bytes) -> Option<Value> {
    if extension.is_empty() {
        return Some(Value::Dict(Vec::new()));
    }
    pickle::read(extension, Limits::TRUSTED).ok().map(tuples)
}

/// The value with tuples for all lists, as far as msgpack goes.
fn tuples(value: Value) -> Value {
    match value {
        Value::List(items) | Value::Tuple(items) => {
            Value::Tuple(items.into_iter().map(tuples).collect())
        }
        Value::Dict(items) => {
            let items = items.into_iter();
            Value::Dict(
                items
                    .map(|(key, item)| (tuples(key), tuples(item)))
                    .collect(),
            )
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_values_are_the_same_however_they_are_pickled() {
        let same = |one: &'static [u8], other: &'static [u8]| {
            same_extension(&Bytes::from_static(one), &Bytes::from_static(other))
        };
        assert!(same(b"", b"}."));
        assert!(same(b"\x80\x03}q\x00.", b""));
        assert!(same(
            b"}X\x01\x00\x00\x00aK\x01s.",
            b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01K\x01s."
        ));
        assert!(!same(
            b"}X\x01\x00\x00\x00aK\x01s.",
            b"}X\x01\x00\x00\x00aK\x02s."
        ));
        // A list in a tuple in a dictionary.
        assert!(same(
            b"}X\x01\x00\x00\x00a(](K\x01K\x02ets.",
            b"}X\x01\x00\x00\x00a((K\x01K\x02tts."
        ));
        assert!(same(b"no pickle", b"no pickle"));
        assert!(!same(b"no pickle", b""));
        assert!(!same(b"no pickle", b"none either"));
    }
}
