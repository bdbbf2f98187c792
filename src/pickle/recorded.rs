//! What real Python has said, for tests: `tests/it/fixtures/wire/record.py` records it.

use bytes::Bytes;

pub(crate) const PICKLES: &str = include_str!("../../tests/it/fixtures/wire/pickles.txt");
pub(crate) const EXTENSIONS: &str = include_str!("../../tests/it/fixtures/wire/extensions.txt");
pub(crate) const REQUESTS: &str = include_str!("../../tests/it/fixtures/wire/requests.txt");
pub(crate) const REPLIES: &str = include_str!("../../tests/it/fixtures/wire/replies.txt");

/// The names and bytes of a recording.
pub(crate) fn recorded(text: &'static str) -> impl Iterator<Item = (&'static str, Bytes)> {
    text.lines().map(|line| {
        let (name, digits) = line.split_once(' ').expect("a name and bytes");
        let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
        assert!(rest.is_empty(), "an odd digit in {name}");
        let byte = |pair: &[u8; 2]| {
            let pair = std::str::from_utf8(pair).expect("digits");
            u8::from_str_radix(pair, 16).expect("digits")
        };
        (name, pairs.iter().map(byte).collect())
    })
}
