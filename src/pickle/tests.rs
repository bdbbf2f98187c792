//! Pickles of real Python, hostile pickles, and any bytes at all.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::recorded::{EXTENSIONS, PICKLES, recorded};
use super::*;

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn bytes(bytes: &'static [u8]) -> Value {
    Value::Bytes(Bytes::from_static(bytes))
}

fn ints(ints: &[i64]) -> Vec<Value> {
    ints.iter().copied().map(Value::Int).collect()
}

/// The value that the script has recorded in every protocol.
fn sample() -> Vec<(Value, Value)> {
    let shared = || Value::List(vec![text("shared")]);
    let big = |low: usize, last: u8| {
        let mut bytes = vec![0; low];
        bytes.push(last);
        Value::BigInt(bytes.into())
    };
    let entries = [
        ("none", Value::None),
        ("true", Value::Bool(true)),
        ("false", Value::Bool(false)),
        (
            "ints",
            Value::Tuple(ints(&[
                0,
                255,
                256,
                65535,
                65536,
                (1 << 31) - 1,
                1 << 31,
                -1,
                -(1 << 31),
                -(1 << 31) - 1,
                i64::MAX,
                i64::MIN,
            ])),
        ),
        ("big", big(8, 0x40)),
        ("negative", big(8, 0xff)),
        ("float", Value::Float(-1.5)),
        ("bytes", bytes(b"\x00\xff\n")),
        ("empty", bytes(b"")),
        ("long", bytes(&[b'x'; 300])),
        ("array", bytes(b"ab")),
        ("text", text("é\n\\€😀")),
        ("no text", text("")),
        (
            "tuples",
            Value::Tuple(
                (0..5)
                    .map(|n| Value::Tuple(ints(&[1, 2, 3, 4][..n])))
                    .collect(),
            ),
        ),
        (
            "lists",
            Value::List((0..3).map(|n| Value::List(ints(&[1, 2][..n]))).collect()),
        ),
        (
            "dicts",
            Value::List(vec![
                Value::Dict(vec![]),
                Value::Dict(vec![(Value::Int(1), Value::Int(2))]),
                Value::Dict(vec![
                    (bytes(b"k"), text("v")),
                    (text("w"), Value::List(vec![])),
                ]),
            ]),
        ),
        ("set", Value::Set(ints(&[1]))),
        (
            "frozen",
            Value::Object {
                module: "builtins".to_owned(),
                name: "frozenset".to_owned(),
                arguments: vec![Value::List(ints(&[2]))],
                state: None,
            },
        ),
        ("prefix", prefix()),
        ("shared", shared()),
        ("again", shared()),
    ];
    let entries = entries.into_iter();
    entries.map(|(name, value)| (text(name), value)).collect()
}

fn prefix() -> Value {
    Value::Object {
        module: "ZopeUndo.Prefix".to_owned(),
        name: "Prefix".to_owned(),
        arguments: vec![],
        state: Some(Box::new(Value::Dict(vec![
            (text("value"), text("/a")),
            (text("length"), Value::Int(2)),
        ]))),
    }
}

#[test]
fn every_pickler_of_python_is_understood() {
    let mut count = 0;
    for (name, pickle) in recorded(PICKLES) {
        let value = read(&pickle, Limits::STRANGER).unwrap_or_else(|why| panic!("{name}: {why}"));
        assert_eq!(value, Value::Dict(sample()), "{name}");
        count += 1;
    }
    assert_eq!(count, 20);
}

#[test]
fn the_writer_says_what_the_fast_pickler_says() {
    let (_, fast) = recorded(PICKLES)
        .find(|(name, _)| *name == "zodbpickle-fast-3")
        .expect("recorded");
    let ours = write::dumps(&Value::Dict(sample()));
    // The sample has a bytearray, which is bytes here, and is longer in Python.
    let array = [&b"cbuiltins\nbytearray\nC\x02ab\x85R"[..], b"C\x02ab"];
    let at = fast
        .windows(array[0].len())
        .position(|window| window == array[0])
        .expect("a bytearray");
    let mut expected = fast[..at].to_vec();
    expected.extend_from_slice(array[1]);
    expected.extend_from_slice(&fast[at + array[0].len()..]);
    assert_eq!(
        ours.escape_ascii().to_string(),
        expected.escape_ascii().to_string()
    );
}

#[test]
fn extensions_are_stored_as_zodb_stores_them() {
    let all: Vec<_> = recorded(EXTENSIONS).collect();
    let (pairs, rest) = all.as_chunks::<2>();
    assert!(rest.is_empty());
    for [(name, message), (_, stored)] in pairs {
        let Ok(Value::Tuple(mut message)) = read(message, Limits::STRANGER) else {
            panic!("{name} is a message");
        };
        let Some(Value::Dict(entries)) = message.pop() else {
            panic!("{name} has a dictionary");
        };
        assert_eq!(
            extension::pickled(&entries).escape_ascii().to_string(),
            stored.escape_ascii().to_string(),
            "{name}"
        );
        assert_eq!(extension::entries(stored).as_ref(), Ok(&entries), "{name}");
        let body = extension::body(stored).expect("a dictionary");
        let again = [b"\x80\x03".as_slice(), body, b"."].concat();
        assert_eq!(
            read(&again.into(), Limits::STRANGER),
            Ok(Value::Dict(entries)),
            "{name}"
        );
    }
}

#[test]
fn strings_of_python_2_are_bytes_and_text_in_an_extension() {
    // Python 2.7: pickle.dumps(('a\xff', u'\xe9', {'k': 'v'}, 2**63, True), 0), and with 2
    let expected = Value::Tuple(vec![
        bytes(b"a\xff"),
        text("é"),
        Value::Dict(vec![(bytes(b"k"), bytes(b"v"))]),
        Value::BigInt(Bytes::from_static(b"\0\0\0\0\0\0\0\x80\0")),
        Value::Bool(true),
    ]);
    for pickle in [
        &b"(S'a\\xff'\np0\nV\xe9\np1\n(dp2\nS'k'\np3\nS'v'\np4\nsL9223372036854775808L\nI01\ntp5\n."
            [..],
        b"\x80\x02(U\x02a\xffq\x00X\x02\0\0\0\xc3\xa9q\x01}q\x02U\x01kq\x03U\x01vq\x04s\
          \x8a\x09\0\0\0\0\0\0\0\x80\0\x88tq\x05.",
    ] {
        let pickle = Bytes::from_static(pickle);
        assert_eq!(read(&pickle, Limits::STRANGER), Ok(expected.clone()));
    }
    let stored = Bytes::from_static(b"}q\x01U\x09user_nameq\x02U\x05adminq\x03s.");
    assert_eq!(
        extension::entries(&stored),
        Ok(vec![(text("user_name"), text("admin"))])
    );
    // Where it is put into a message, it stays what it is.
    assert_eq!(
        extension::body(&stored),
        Ok(&b"}q\x01U\x09user_nameq\x02U\x05adminq\x03s"[..])
    );
}

#[test]
fn byte_strings_share_the_memory_of_the_pickle() {
    let pickle = Bytes::from_static(b"\x80\x03C\x03abc.");
    let Ok(Value::Bytes(bytes)) = read(&pickle, Limits::STRANGER) else {
        panic!("bytes");
    };
    assert_eq!(bytes.as_ptr(), pickle[4..].as_ptr());
}

#[test]
fn what_is_filled_after_it_was_memoized_is_whole_everywhere() {
    // l = []; [l, l], where l gets its items last
    let pickle = Bytes::from_static(b"](]q\x00h\x00K\x01ae.");
    let list = || Value::List(ints(&[1]));
    assert_eq!(
        read(&pickle, Limits::STRANGER),
        Ok(Value::List(vec![list(), list()]))
    );
}

#[test]
fn extensions_with_objects_pass_through_and_are_written_again() {
    // {'when': datetime.date(2026, 11, 20)} and an instance of a class, with state
    let stored = Bytes::from_static(
        b"\x80\x03}q\x00(X\x04\0\0\0whenq\x01cdatetime\ndate\nq\x02C\x04\x07\xea\x0b\x14q\x03\
          \x85q\x04Rq\x05X\x01\0\0\0xq\x06cmodule\nClass\nq\x07)\x81q\x08}q\tX\x01\0\0\0aq\nK\x01sbu.",
    );
    assert!(extension::body(&stored).is_ok());
    let entries = extension::entries(&stored).expect("a dictionary");
    assert_eq!(extension::pickled(&entries), stored);
    // A stranger may not say so.
    assert_eq!(
        read(&stored, Limits::STRANGER).map_err(|why| why.problem),
        Err(Problem::Global {
            module: "datetime".to_owned(),
            name: "date".to_owned()
        })
    );
    assert!(extension::of_stranger(&Value::Bytes(stored.clone())).is_err());
    // Nor is it said to a server.
    let portable = extension::portable(&stored).map_err(|why| why.problem.to_string());
    let refused = "the global `datetime.date` is not allowed".to_owned();
    assert_eq!(portable, Err(refused));
    // An ordered dictionary has items, which no value can say; it passes through all the same.
    let ordered = Bytes::from_static(
        b"\x80\x03}q\x00X\x01\0\0\0oq\x01ccollections\nOrderedDict\nq\x02)Rq\x03K\x01K\x02ss.",
    );
    assert!(extension::body(&ordered).is_ok());
    assert!(extension::entries(&ordered).is_err());
}

#[test]
fn an_extension_of_a_stranger_is_one_that_every_server_reads() {
    let dict = |key: Value, value: Value| Value::Dict(vec![(key, value)]);
    let (list, none) = (|| Value::List(vec![Value::Int(1)]), || Value::None);
    let set = |items: Vec<Value>| Value::Set(items);
    let object = |module: &str, name: &str, arguments: Vec<Value>| Value::Object {
        module: module.to_owned(),
        name: name.to_owned(),
        arguments,
        state: None,
    };
    let frozen = |items: Vec<Value>| object("builtins", "frozenset", vec![Value::List(items)]);
    let global = |module: &str, name: &str| Value::Global {
        module: module.to_owned(),
        name: name.to_owned(),
    };
    let tuple = |item: Value| Value::Tuple(vec![item]);
    let good = [
        Value::Dict(vec![]),
        dict(text("key"), list()),
        dict(text("key"), dict(tuple(Value::Int(1)), none())),
        dict(Value::Int(1), Value::Float(0.5)),
        dict(text("key"), set(vec![text("a"), frozen(vec![text("b")])])),
        dict(frozen(vec![text("b")]), none()),
    ];
    for value in good {
        let pickled =
            extension::of_stranger(&value).unwrap_or_else(|why| panic!("{value:?}: {why}"));
        let entries = extension::portable(&pickled).map(Value::Dict);
        assert_eq!(entries, Ok(value.clone()));
        let again = extension::of_stranger(&Value::Bytes(pickled.clone()));
        assert_eq!(again, Ok(pickled), "{value:?}");
    }
    let bad = [
        list(),
        Value::Int(1),
        text("text"),
        dict(list(), none()),
        dict(text("key"), dict(tuple(list()), none())),
        dict(text("key"), list_of(dict(set(vec![]), none()))),
        dict(text("key"), set(vec![list()])),
        dict(text("key"), frozen(vec![dict(text("a"), none())])),
        dict(text("key"), global("_codecs", "encode")),
        dict(text("key"), global("copyreg", "_reconstructor")),
        dict(global("builtins", "object"), none()),
        dict(text("key"), object("ZopeUndo.Prefix", "Prefix", vec![])),
    ];
    for value in bad {
        assert!(extension::of_stranger(&value).is_err(), "{value:?}");
        let pickled = Value::Bytes(write::dumps(&value));
        assert!(extension::of_stranger(&pickled).is_err(), "{value:?}");
    }
    // What is understood here and not by zodbpickle is not kept as it is.
    let newer = Value::Bytes(Bytes::from_static(b"\x80\x03}\x8c\x01a\x94K\x01s."));
    assert_eq!(
        extension::of_stranger(&newer),
        Ok(extension::pickled(&[(text("a"), Value::Int(1))]))
    );
    assert_eq!(extension::of_stranger(&Value::None), Ok(Bytes::new()));
}

/// Subclasses of `dict` may say that they are made by `dict`, and so on. Python's server makes plain ones of
/// these, and so they are here.
#[test]
fn what_is_made_by_dict_list_and_tuple_is_plain() {
    let cases: [(&[u8], Value); 8] = [
        (b"c__builtin__\ndict\n)R", Value::Dict(vec![])),
        (
            b"cbuiltins\ndict\nX\x01\0\0\0aK\x01\x86\x85\x85R",
            Value::Dict(vec![(text("a"), Value::Int(1))]),
        ),
        // From another dictionary, and from a list of lists; and with an entry set later.
        (
            b"cbuiltins\ndict\n}X\x01\0\0\0aK\x01s\x85RX\x01\0\0\0bK\x02s",
            Value::Dict(vec![(text("a"), Value::Int(1)), (text("b"), Value::Int(2))]),
        ),
        (
            b"cbuiltins\ndict\n](](K\x01K\x02ee\x85R",
            Value::Dict(vec![(Value::Int(1), Value::Int(2))]),
        ),
        (b"cbuiltins\ndict\n)\x81", Value::Dict(vec![])),
        (
            b"cbuiltins\nlist\nK\x01\x85\x85RK\x02a",
            Value::List(vec![Value::Int(1), Value::Int(2)]),
        ),
        (
            b"c__builtin__\ntuple\n](K\x01K\x02e\x85R",
            Value::Tuple(vec![Value::Int(1), Value::Int(2)]),
        ),
        (b"cbuiltins\ntuple\n)R", Value::Tuple(vec![])),
    ];
    for (pickle, expected) in cases {
        let pickle = Bytes::from([b"\x80\x03", pickle, b"."].concat());
        assert_eq!(read(&pickle, Limits::STRANGER), Ok(expected), "{pickle:?}");
    }
    for nonsense in [
        b"cbuiltins\ndict\nK\x01\x85R".as_slice(),
        b"cbuiltins\ndict\nK\x01\x85\x85R",
        b"cbuiltins\ndict\nK\x01K\x02K\x03\x87\x85\x85R",
        b"cbuiltins\nlist\nK\x01\x85R",
        b"cbuiltins\nlist\n))\x86R",
    ] {
        let pickle = Bytes::from([b"\x80\x03", nonsense, b"."].concat());
        assert!(read(&pickle, Limits::STRANGER).is_err(), "{pickle:?}");
    }
}

fn list_of(value: Value) -> Value {
    Value::List(vec![value])
}

#[test]
fn an_extension_of_a_newer_protocol_is_not_put_into_messages_as_it_is() {
    let stored = Bytes::from_static(b"\x80\x04\x95\x08\0\0\0\0\0\0\0}\x94\x8c\x01a\x94K\x01s.");
    assert_eq!(
        extension::entries(&stored),
        Ok(vec![(text("a"), Value::Int(1))])
    );
    assert!(extension::body(&stored).is_err());
}

#[test]
fn hostile_pickles_are_refused_with_the_reason() {
    let global = |module: &str, name: &str| Problem::Global {
        module: module.to_owned(),
        name: name.to_owned(),
    };
    let cases: [(&[u8], Problem); 26] = [
        (b"", Problem::Truncated),
        (b"N", Problem::Truncated),
        (b".", Problem::Stack),
        (b"N.N", Problem::Trailing(1)),
        (b"\x80\x06N.", Problem::Protocol(6)),
        (b"\xff", Problem::UnknownOpcode(0xff)),
        (b"cos\nsystem\n.", global("os", "system")),
        (b"cbuiltins\neval\n.", global("builtins", "eval")),
        (b"\x8c\x02os\x8c\x06system\x93.", global("os", "system")),
        (b"(S'ls'\nios\nsystem\n.", global("os", "system")),
        (b"(cos\nsystem\nS'ls'\no.", global("os", "system")),
        (
            b"cbuiltins\nbytes\nJ\xff\xff\xff\x7f\x85R.",
            Problem::Unsupported("bytes made of something else"),
        ),
        (
            b"c_codecs\nencode\nX\x01\0\0\0aX\x03\0\0\0rot\x86R.",
            Problem::Unsupported("encoding to something else than Latin-1"),
        ),
        (b"K\x01N\x85R.", Problem::Stack),
        (b"K\x01N\x85\x81.", Problem::Stack),
        (b"Pid\n.", Problem::Unsupported("a persistent reference")),
        (b"\x82\x01.", Problem::Unsupported("an extension code")),
        (b"\x97.", Problem::Unsupported("an out-of-band buffer")),
        (b"h\x07.", Problem::Memo(7)),
        (b"B\xff\xff\xff\xffabc.", Problem::Truncated),
        (
            b"\x8e\xff\xff\xff\xff\xff\xff\xff\xffabc.",
            Problem::Truncated,
        ),
        (b"\x8b\xff\xff\xff\xff.", Problem::NotNumber),
        (b"X\x01\0\0\0\xff.", Problem::NotText),
        (b"}(K\x01u.", Problem::Stack),
        (b"N(\x85.", Problem::Stack),
        (b"Kxe.", Problem::Stack),
    ];
    for (pickle, problem) in cases {
        let read = read(&Bytes::from_static(pickle), Limits::STRANGER);
        assert_eq!(
            read.map_err(|why| why.problem),
            Err(problem),
            "{}",
            pickle.escape_ascii()
        );
    }
}

#[test]
fn deep_pickles_are_refused() {
    let nested = |depth: usize| {
        let mut pickle = vec![b']'; depth];
        pickle.extend(vec![b'a'; depth - 1]);
        pickle.push(b'.');
        read(&pickle.into(), Limits::STRANGER)
    };
    assert!(nested(100).is_ok());
    let too_deep = nested(101).map_err(|why| why.problem);
    assert_eq!(too_deep, Err(Problem::TooDeep));
    let too_deep = nested(150_000).map_err(|why| why.problem);
    assert_eq!(too_deep, Err(Problem::TooDeep));
}

#[test]
fn what_contains_itself_is_refused() {
    for pickle in [
        &b"]q\x00h\x00a."[..],
        b"]q\x00(h\x00h\x00h\x00e.",
        b"}q\x00K\x01h\x00s.",
    ] {
        let read = read(&Bytes::from_static(pickle), Limits::STRANGER);
        let problem = read.map_err(|why| why.problem).expect_err("endless");
        assert!(matches!(problem, Problem::TooDeep | Problem::TooMany));
    }
}

#[test]
fn bombs_are_refused() {
    // Each level holds the one below nine times: nine to the thirtieth.
    let mut laughs = b"X\x03\0\0\0lolq\x000".to_vec();
    for level in 0u8..30 {
        laughs.push(b'(');
        for _ in 0..9 {
            laughs.extend_from_slice(&[b'h', level]);
        }
        laughs.extend_from_slice(&[b't', b'q', level + 1, b'0']);
    }
    laughs.extend_from_slice(&[b'h', 30, b'.']);
    // A text of 64 KiB, ten thousand times.
    let mut texts = b"X\0\0\x01\0".to_vec();
    texts.extend(vec![b'a'; 1 << 16]);
    texts.extend_from_slice(b"q\x000]q\x01(");
    texts.extend(b"h\x00".repeat(10_000));
    texts.extend_from_slice(b"e.");
    // Bytes as long, as often: they are shared, until they are written.
    let mut bytes = b"B\0\0\x01\0".to_vec();
    bytes.extend(vec![b'a'; 1 << 16]);
    bytes.extend_from_slice(b"q\x000]q\x01(");
    bytes.extend(b"h\x00".repeat(10_000));
    bytes.extend_from_slice(b"e.");
    // The same text encoded again and again.
    let mut encoded = b"c_codecs\nencode\nq\x00X\0\0\x01\0".to_vec();
    encoded.extend(vec![b'a'; 1 << 16]);
    encoded.extend_from_slice(b"X\x06\0\0\0latin1\x86q\x01");
    encoded.extend(b"h\x00h\x01R".repeat(1000));
    encoded.push(b'.');
    // Copies on the stack; the same list made a set again and again; marks.
    let copies = [&b"N"[..], &b"2".repeat(1_000_000), b"."].concat();
    let mut sets = b"cbuiltins\nset\nq\x00](".to_vec();
    sets.extend(b"N".repeat(1000));
    sets.extend_from_slice(b"e\x85q\x01");
    sets.extend(b"h\x00h\x01R".repeat(10_000));
    sets.push(b'.');
    let marks = b"(".repeat(1_000_000);
    // Two bytes for ten values, and for a hundred.
    let shared = |values: usize| {
        let values = b"N".repeat(values);
        [
            &b"("[..],
            &values,
            b"tq\x000(",
            &b"h\x00".repeat(100),
            b"t.",
        ]
        .concat()
    };
    assert!(read(&shared(10).into(), Limits::STRANGER).is_ok());
    for bomb in [
        laughs,
        texts,
        bytes,
        encoded,
        copies,
        sets,
        marks,
        shared(100),
    ] {
        let read = read(&bomb.into(), Limits::STRANGER);
        assert_eq!(read.map_err(|why| why.problem), Err(Problem::TooMany));
    }
}

#[test]
fn what_would_say_more_than_one_value_elsewhere_is_refused() {
    // Put into another pickle as it is, the first would be one value more there.
    for several in [&b"N}."[..], b"(}.", b"]N."] {
        let several = Bytes::from_static(several);
        let problem = Problem::Unsupported("a pickle of more than one value");
        let error = check(&several, Limits::TRUSTED).unwrap_err();
        assert_eq!(error.problem, problem);
        assert!(extension::body(&several).is_err());
    }
    // Written as `GLOBAL`, the rest of the name would be opcodes.
    for name in ["a\nN.", "a\r"] {
        for (module, name) in [("m", name), (name, "n")] {
            let mut pickle = b"\x80\x04".to_vec();
            for text in [module, name] {
                pickle.extend_from_slice(&[0x8c, text.len() as u8]);
                pickle.extend_from_slice(text.as_bytes());
            }
            pickle.extend_from_slice(b"\x93.");
            let error = read(&pickle.into(), Limits::TRUSTED).unwrap_err();
            let problem = Problem::Unsupported("a global with a line break in its name");
            assert_eq!(error.problem, problem);
        }
    }
}

/// Values as an application may have them.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::None),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        (-300i64..300).prop_map(Value::Int),
        (1u8..0x7f, 8usize..300).prop_map(|(last, low)| {
            let mut bytes = vec![7; low];
            bytes.push(last);
            Value::BigInt(bytes.into())
        }),
        (-1e9..1e9).prop_map(Value::Float),
        vec(any::<u8>(), 0..300).prop_map(|bytes| Value::Bytes(bytes.into())),
        ".{0,30}".prop_map(Value::Text),
        Just(Value::Global {
            module: "module".to_owned(),
            name: "Class".to_owned()
        }),
    ];
    leaf.prop_recursive(5, 60, 8, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..8).prop_map(Value::Tuple),
            vec(inner.clone(), 0..8).prop_map(Value::List),
            vec(inner.clone(), 0..4).prop_map(Value::Set),
            vec((inner.clone(), inner.clone()), 0..4).prop_map(Value::Dict),
            (vec(inner.clone(), 0..3), proptest::option::of(inner)).prop_map(
                |(arguments, state)| Value::Object {
                    module: "module".to_owned(),
                    name: "function".to_owned(),
                    arguments,
                    state: state.map(Box::new),
                }
            ),
        ]
    })
}

proptest! {
    #[test]
    fn a_value_is_read_as_it_was_written(value in value()) {
        prop_assert_eq!(read(&write::dumps(&value), Limits::TRUSTED), Ok(value));
    }

    #[test]
    fn an_extension_is_read_as_it_was_written(entries in vec((value(), value()), 0..5)) {
        let stored = extension::pickled(&entries);
        prop_assert_eq!(extension::entries(&stored), Ok(entries));
    }

    #[test]
    fn any_bytes_are_survived(bytes in vec(any::<u8>(), 0..300)) {
        drop(read(&bytes.into(), Limits::TRUSTED));
    }

    /// Opcodes are more to the point than any bytes.
    #[test]
    fn any_opcodes_are_survived(
        opcodes in vec(
            prop::sample::select(&b"(.012NI\nJKMF\x88\x89C\x00\x01qhpg)t]lae}dsu\x85\x86\x87\
                                    \x8f\x90\x91RbcoiU\x8c\x93\x94\x92\x81"[..]),
            0..200,
        ),
    ) {
        drop(read(&opcodes.into(), Limits::TRUSTED));
    }

    #[test]
    fn damaged_pickles_are_survived(which in 0usize..20, at: prop::sample::Index, byte: u8) {
        let (_, pickle) = recorded(PICKLES).nth(which).expect("there are 20");
        let mut pickle = pickle.to_vec();
        let index = at.index(pickle.len());
        pickle[index] = byte;
        drop(read(&pickle.into(), Limits::TRUSTED));
    }
}
