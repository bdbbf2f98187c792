//! Pickles: read within limits, written, and read again.

use bytes::Bytes;

use crate::pickle::{Limits, Strings, Value, check, extension, read, write};

/// Any bytes as a pickle, and as a transaction's extension.
pub(super) fn pickle(data: &[u8]) {
    let pickle = Bytes::copy_from_slice(data);
    for limits in [Limits::STRANGER, Limits::TRUSTED] {
        for strings in [Strings::Bytes, Strings::Text] {
            let limits = Limits { strings, ..limits };
            let Ok(value) = read(&pickle, limits) else {
                continue;
            };
            let is_dict = check(&pickle, limits).expect("what can be read can be checked");
            assert_eq!(is_dict, matches!(value, Value::Dict(_)));
            is_the_same_again(&value);
        }
    }
    as_extension(&pickle);
}

/// Written and read, it is what it was. Compared is what is written, since a NaN is not equal to itself.
fn is_the_same_again(value: &Value) {
    let written = write::dumps(value);
    let again = read(&written, Limits::TRUSTED)
        .unwrap_or_else(|error| panic!("{error}: {value:?} as {written:?}"));
    assert_eq!(write::dumps(&again), written);
    if *value == value.clone() {
        assert_eq!(&again, value);
    }
}

fn as_extension(pickled: &Bytes) {
    if let Ok(entries) = extension::entries(pickled) {
        let written = extension::pickled(&entries);
        let again = extension::entries(&written).expect("what was written can be read");
        assert_eq!(extension::pickled(&again), written);
    }
    if let Ok(body) = extension::body(pickled) {
        let outer = [b"\x80\x03K\x07", body, b"K\x08\x87."].concat();
        let outer = Bytes::from(outer);
        // Whatever cannot be said in a `Value` may stand in it, but not more or less than one value.
        assert_eq!(check(&outer, Limits::TRUSTED), Ok(false));
        if let Ok(value) = read(&outer, Limits::TRUSTED) {
            let items = value.as_items().expect("a tuple was written");
            assert_eq!((&items[0], &items[2]), (&Value::Int(7), &Value::Int(8)));
        }
    }
    if let Ok(kept) = extension::of_stranger(&Value::Bytes(pickled.clone())) {
        extension::portable(&kept).expect("what is kept of a stranger can be said to every server");
    }
}
