//! The parser, side by side with Python's ZConfig: the same tree, or both refuse.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::config::zconfig::include::Source;
use crate::config::zconfig::parse::parse;
use crate::config::zconfig::tree::{Section, Tree};
use crate::storage::python;

/// A variable of the environment that both have.
const VARIABLE: (&str, &str) = ("ZR_Old", "/srv/$old");

fn environment(name: &str) -> Option<String> {
    (name == VARIABLE.0).then(|| VARIABLE.1.to_owned())
}

/// A process of Python that reads what it is given.
struct Oracle {
    folder: tempfile::TempDir,
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Oracle {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/zconfig_oracle.py");
        let mut child = python::python()
            .arg(script)
            .arg(folder.path())
            .env(VARIABLE.0, VARIABLE.1)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Oracle {
            stdin: child.stdin.take().unwrap(),
            stdout: BufReader::new(child.stdout.take().unwrap()),
            folder,
            child,
        }
    }

    /// What Python says.
    fn ask(&mut self, files: &BTreeMap<String, String>) -> Value {
        let case = json!({"files": files, "main": "zeo.conf"});
        writeln!(self.stdin, "{case}").unwrap();
        self.stdin.flush().unwrap();
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// What we say of the same.
    fn ours(&self, files: &BTreeMap<String, String>) -> Result<Value, String> {
        let folder = self.folder.path().canonicalize().unwrap();
        for (name, text) in files {
            fs::write(folder.join(name), text).unwrap();
        }
        let source = Source::read(&folder.join("zeo.conf")).unwrap();
        match parse(&source, &environment) {
            Ok(tree) => Ok(told(&tree)),
            Err(mistakes) => {
                let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
                Err(lines.join("\n"))
            }
        }
    }

    fn compare(&mut self, files: &BTreeMap<String, String>) -> Result<(), String> {
        let theirs = self.ask(files);
        match self.ours(files) {
            Ok(ours) if ours == theirs => Ok(()),
            Err(_) if theirs["error"].is_string() => Ok(()),
            ours => Err(format!("{files:#?}\nours: {ours:#?}\ntheirs: {theirs:#}")),
        }
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn told(tree: &Tree) -> Value {
    let imports: Vec<&str> = tree
        .imports
        .iter()
        .map(|import| import.value.as_str())
        .collect();
    json!({"tree": told_section(&tree.root), "imports": imports})
}

fn told_section(section: &Section) -> Value {
    let keys = section.keys.iter().map(|key| {
        let file = key.place.file.file_name().unwrap().to_str().unwrap();
        json!([key.name, key.value, file, key.place.line])
    });
    let sections: Vec<Value> = section.sections.iter().map(told_section).collect();
    json!([
        section.kind,
        section.name,
        keys.collect::<Vec<_>>(),
        sections
    ])
}

fn only(text: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("zeo.conf".to_owned(), text.to_owned())])
}

#[test]
fn what_is_well_formed_and_what_is_not_is_the_same() {
    let mut oracle = Oracle::start();
    let mut refused = 0;
    for text in [
        // Well formed.
        "",
        "# only a comment",
        "<zeo>\n  address 8100\n</zeo>\n<filestorage 1>\n  path /Data.fs\n</filestorage>\n",
        "<ZEO>\nAddress 8100\n</Zeo>",
        "<zeo/>\n<filestorage 1/>\n<FileStorage Main />",
        "<a / >\n</a>",
        "<a>\n  <b c>\n    <d/>\n  </b>\n  k\n</a >",
        "key   value with  blanks   \r\nkey\tother\r\n",
        "key(value)\nkey )\nk(",
        "key# no comment\n  # a comment\nkey value # of the value",
        "%define a 1\n%define B $a/$a\nk $b ${A}x $$a $(ZR_Old)",
        "%define empty\nk $empty.",
        "%define a 1\n%define A 1",
        "%import ZEO\n%import ZEO\n%define p gocept.zeoraid\n%import $p",
        "k ünïcödé\n<Ä Ö>\n</ä>",
        "k\u{a0}v\nk\u{1c}v\nk\u{2003}v",
        "server a:1\nserver b:2\nserver",
        "> x\n>",
        "<a b.c-d>\n</a>",
        "%define a $(ZR_Old)\nk $a",
        // Not.
        "<",
        "<>",
        "</",
        "</>",
        "<a",
        "<a b c>\n</a>",
        "< a>\n</a>",
        "<a(b)>\n</a>",
        "<a>",
        "<a>\n</b>",
        "<a>\n</ a>",
        "</a>",
        "<a>\n<b>\n</a>",
        "(key) value",
        "%",
        "%unknown x",
        "%DEFINE a b",
        "%define",
        "%include",
        "%import",
        "%define 1a x",
        "%define a-b x",
        "%define a 1\n%define a 2",
        "%define a 1\n%define b $a\n%define b $a",
        "k $nothing",
        "k $",
        "k $ x",
        "k ${a",
        "k ${}",
        "k $(a}",
        "k $(ZR_OLD)",
        "%define a $b",
        "%include nothing.conf",
        "%include $nothing",
    ] {
        oracle.compare(&only(text)).unwrap();
        refused += usize::from(oracle.ours(&only(text)).is_err());
    }
    assert_eq!(refused, 34);
}

#[test]
fn included_files_are_part_of_the_section_and_share_definitions() {
    let mut oracle = Oracle::start();
    let files = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        let pairs = pairs.iter();
        pairs
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect()
    };
    for case in [
        files(&[
            (
                "zeo.conf",
                "%define v /var\n<zeo>\n%include inner.conf\n</zeo>\nk $w",
            ),
            (
                "inner.conf",
                "address $v/zeo.sock\n%define w 2\n<ssl>\n key k\n</ssl>",
            ),
        ]),
        // A section must end in the file in which it begins.
        files(&[
            ("zeo.conf", "<zeo>\n%include inner.conf"),
            ("inner.conf", "</zeo>"),
        ]),
        files(&[
            ("zeo.conf", "%include inner.conf\n</zeo>"),
            ("inner.conf", "<zeo>"),
        ]),
        files(&[
            ("zeo.conf", "%define n inner\n%include $n.conf"),
            ("inner.conf", "k v"),
        ]),
        files(&[("zeo.conf", "%include a%20b.conf"), ("a b.conf", "k v")]),
        files(&[
            ("zeo.conf", "%include inner.conf\n%include inner.conf"),
            ("inner.conf", "k v"),
        ]),
        files(&[
            ("zeo.conf", "%include inner.conf"),
            ("inner.conf", "%include zeo.conf"),
        ]),
        files(&[("zeo.conf", "%include inner.conf#x"), ("inner.conf", "")]),
    ] {
        oracle.compare(&case).unwrap();
    }
    // A file that includes itself is said by us, where ZConfig goes on until it has no stack.
    let circle = files(&[("zeo.conf", "%include zeo.conf")]);
    assert!(
        oracle
            .ours(&circle)
            .unwrap_err()
            .contains("includes itself")
    );
}

/// Lines that are mostly right, of all kinds, so that many make whole trees.
fn line() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("zeo".to_owned()),
        Just("ZEO".to_owned()),
        Just("a".to_owned()),
        Just("b1".to_owned()),
        "[a-zA-Z_$<>/%#(){} ü\\t-]{0,6}",
    ];
    let value = prop_oneof![
        "[a-z0-9:/ ]{0,8}",
        Just("$a".to_owned()),
        Just("x${A}y$$".to_owned()),
        Just("$(ZR_Old)".to_owned()),
        "[$a-zA-Z(){} _]{0,8}",
    ];
    (0..12_u8, word.clone(), word, value, "[ \\t]{0,2}").prop_map(
        |(kind, one, two, value, indent)| {
            let text = match kind {
                0 | 1 => format!("<{one}>"),
                2 => format!("<{one} {two}>"),
                3 => format!("<{one}/>"),
                4..=6 => format!("</{one}>"),
                7 => format!("%define {one} {value}"),
                8 => format!("%import {value}"),
                9 => format!("# {value}"),
                10 => format!("{one}{value}"),
                _ => format!("{one} {value}"),
            };
            format!("{indent}{text}")
        },
    )
}

/// Sections that end, so that not all is refused.
fn block() -> impl Strategy<Value = Vec<String>> {
    let leaf = line().prop_map(|line| vec![line]);
    leaf.prop_recursive(3, 24, 4, |inner| {
        (
            "[a-zA-Z]{1,3}( [a-z1]{1,2})?",
            prop::collection::vec(inner, 0..4),
        )
            .prop_map(|(header, inner)| {
                let kind = header.split(' ').next().unwrap_or_default().to_uppercase();
                let mut lines = vec![format!("<{header}>")];
                lines.extend(inner.into_iter().flatten());
                lines.push(format!("</{kind}>"));
                lines
            })
    })
}

#[test]
fn random_files_are_read_alike() {
    let cases = std::env::var("ZEORAID_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok());
    let oracle = RefCell::new(Oracle::start());
    let config = ProptestConfig {
        cases: cases.unwrap_or(400),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let right = RefCell::new(0);
    proptest!(config, |(blocks in prop::collection::vec(block(), 0..5))| {
        let text = format!("%define a 1\n{}", blocks.concat().join("\n"));
        let files = only(&text);
        let mut oracle = oracle.borrow_mut();
        let compared = oracle.compare(&files);
        prop_assert!(compared.is_ok(), "{}", compared.unwrap_err());
        *right.borrow_mut() += usize::from(oracle.ours(&files).is_ok());
    });
    assert!(*right.borrow() > 20, "hardly anything was well formed");
}

proptest! {
    #[test]
    fn no_file_is_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("zeo.conf");
        fs::write(&path, &bytes).unwrap();
        drop(parse(&Source::read(&path).unwrap(), &environment));
    }
}
