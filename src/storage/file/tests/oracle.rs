//! Random histories, done to a file and to Python's `FileStorage`: the files must be the same, byte by
//! byte, and so must the answers and the files of blobs. Only of the last packed transaction we keep more.
//!
//! `ZEORAID_CASES=5000` runs more of them than the few hundred that run always. The seed is printed, and
//! `ZEORAID_SEED` repeats it; a failure is shrunk and printed.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::{Value as Json, json};

use super::super::format::{FIRST, RecordHeader, TxnHeader};
use super::*;
use crate::storage::suite::payload;
use crate::storage::{StorageError, Vote, python};
use crate::zodb::{Op, TxnStatus};

/// A running `tests/python/oracle.py`.
pub(super) struct Oracle {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Oracle {
    pub(super) fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/oracle.py");
        let mut child = python::python()
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python can be run");
        let requests = child.stdin.take().expect("it is a pipe");
        let answers = BufReader::new(child.stdout.take().expect("it is a pipe"));
        Oracle {
            child,
            requests,
            answers,
        }
    }

    /// Asks for something: what came of it, or the error.
    pub(super) fn ask(&mut self, request: &Json) -> Result<Json, Json> {
        writeln!(self.requests, "{request}").expect("the oracle listens");
        let mut line = String::new();
        self.answers
            .read_line(&mut line)
            .expect("the oracle answers");
        let mut answer: Json = serde_json::from_str(&line).expect("the oracle answers in JSON");
        match answer.get_mut("error") {
            Some(error) => Err(error.take()),
            None => Ok(answer["ok"].take()),
        }
    }

    #[track_caller]
    pub(super) fn must(&mut self, request: &Json) -> Json {
        let answer = self.ask(request);
        answer.unwrap_or_else(|error| panic!("the oracle cannot do {request}: {error}"))
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").unwrap();
    }
    text
}

#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<Change>),
    Reopen {
        index: bool,
    },
    /// Each goes on with what the other made.
    Swap,
    /// To after the transaction so many before the last.
    Pack(usize),
    /// Ends after the transaction so many before the last.
    Rewind(usize),
    UndoInfo {
        first: i64,
        last: i64,
        user: Option<u8>,
    },
    /// Voted and given up.
    Abort(Vec<Change>),
    /// A transaction with these texts and this status.
    Texts {
        oid: u64,
        user: Text,
        description: Text,
        extension: Text,
        status: u8,
    },
    /// Everything that is asked about an object, as of the transaction so many before the last.
    Look {
        oid: u64,
        back: usize,
    },
}

/// Metadata of a transaction: 65535 bytes are the most that the format has room for.
#[derive(Debug, Clone, Copy)]
enum Text {
    None,
    Short(u8),
    Longest,
    TooLong,
}

impl Text {
    fn bytes(self) -> Vec<u8> {
        match self {
            Text::None => Vec::new(),
            Text::Short(byte) => vec![b'a' + byte; 3 + usize::from(byte)],
            Text::Longest => vec![b'l'; 65_535],
            Text::TooLong => vec![b't'; 65_536],
        }
    }

    /// As an extension: a pickled dictionary.
    fn pickle(self) -> Vec<u8> {
        let text = self.bytes();
        if text.is_empty() {
            return text;
        }
        // Around the text there are 14 bytes.
        let text = &text[..text.len().saturating_sub(14).max(1)];
        let mut pickle = b"\x80\x03}X\x01\0\0\0kX".to_vec();
        pickle.extend_from_slice(&u32::try_from(text.len()).unwrap().to_le_bytes());
        pickle.extend_from_slice(text);
        pickle.extend_from_slice(b"s.");
        pickle
    }
}

fn text_of_a_transaction() -> impl Strategy<Value = Text> {
    prop_oneof![
        3 => Just(Text::None),
        6 => (0..3u8).prop_map(Text::Short),
        1 => Just(Text::Longest),
        1 => Just(Text::TooLong),
    ]
}

#[derive(Debug, Clone)]
enum Change {
    Store {
        oid: u64,
        stale: bool,
        state: State,
    },
    Blob {
        oid: u64,
        stale: bool,
        twice: bool,
    },
    Delete {
        oid: u64,
        stale: bool,
    },
    /// What Python calls `readCurrent`.
    Check {
        oid: u64,
        stale: bool,
    },
    /// The transaction so many before the last.
    Undo(usize),
    Restore {
        oid: u64,
        state: State,
        back: Option<usize>,
    },
    Gone {
        oid: u64,
    },
}

/// What an object holds: few different ones, so that the same come again.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) references: Vec<(u64, Reference)>,
    pub(super) text: u8,
    pub(super) len: usize,
}

/// The ways to refer to an object.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reference {
    Plain,
    WithClass,
    Weak,
    WeakOld,
    Elsewhere,
    ElsewhereWithClass,
    /// As text in protocol 0.
    Old,
}

const OBJECTS: u64 = 6;

fn state() -> impl Strategy<Value = State> {
    let reference = prop_oneof![
        6 => Just(Reference::WithClass),
        3 => Just(Reference::Plain),
        1 => Just(Reference::Weak),
        1 => Just(Reference::WeakOld),
        1 => Just(Reference::Elsewhere),
        1 => Just(Reference::ElsewhereWithClass),
        1 => Just(Reference::Old),
    ];
    let referred = prop_oneof![3 => 0..=OBJECTS, 1 => 100..100 + OBJECTS];
    let references = prop::collection::vec((referred, reference), 0..4);
    let len = prop_oneof![4 => 1..40usize, 1 => 60_000..80_000usize];
    (references, 0..3u8, len).prop_map(|(references, text, len)| State {
        references,
        text,
        len,
    })
}

/// All objects, each with a way from the root, so that there is something to be packed.
fn everything() -> Vec<Change> {
    let object = |oid| Change::Store {
        oid,
        stale: false,
        state: State {
            references: vec![
                (oid + 1, Reference::WithClass),
                (100 + oid, Reference::Plain),
            ],
            text: 0,
            len: 10,
        },
    };
    let last = Change::Store {
        oid: OBJECTS,
        stale: false,
        state: State {
            references: Vec::new(),
            text: 0,
            len: 10,
        },
    };
    let blob = |oid| Change::Blob {
        oid: 100 + oid,
        stale: false,
        twice: false,
    };
    let objects = (0..OBJECTS).map(object).chain([last]);
    objects.chain((0..OBJECTS).map(blob)).collect()
}

fn change() -> impl Strategy<Value = Change> {
    let oid = prop_oneof![4 => 0..OBJECTS, 1 => 200..203u64];
    // Mostly nothing that others refer to: then nothing can be packed.
    let going = prop_oneof![1 => 0..OBJECTS, 6 => 200..203u64];
    let stale = prop::bool::weighted(0.05);
    prop_oneof![
        8 => (oid.clone(), stale, state())
            .prop_map(|(oid, stale, state)| Change::Store { oid, stale, state }),
        3 => (0..OBJECTS, stale, any::<bool>())
            .prop_map(|(oid, stale, twice)| Change::Blob { oid: 100 + oid, stale, twice }),
        1 => (going.clone(), stale).prop_map(|(oid, stale)| Change::Delete { oid, stale }),
        2 => (oid.clone(), stale).prop_map(|(oid, stale)| Change::Check { oid, stale }),
        6 => (0..6usize).prop_map(Change::Undo),
        1 => (oid, state(), prop::option::of(0..5usize))
            .prop_map(|(oid, state, back)| Change::Restore { oid, state, back }),
        1 => going.prop_map(|oid| Change::Gone { oid }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        14 => prop::collection::vec(change(), 0..4).prop_map(Step::Commit),
        1 => any::<bool>().prop_map(|index| Step::Reopen { index }),
        1 => Just(Step::Swap),
        3 => (0..8usize).prop_map(Step::Pack),
        1 => (1..4usize).prop_map(Step::Rewind),
        1 => (0..4i64, -6..6i64, prop::option::of(0..3u8))
            .prop_map(|(first, last, user)| Step::UndoInfo { first, last, user }),
        2 => prop::collection::vec(change(), 0..4).prop_map(Step::Abort),
        2 => (
            0..OBJECTS,
            text_of_a_transaction(),
            text_of_a_transaction(),
            text_of_a_transaction(),
            // (What Python makes of a transaction with `u` is another thing once it is reopened.)
            prop_oneof![8 => Just(b' '), 1 => Just(b'p')],
        )
            .prop_map(|(oid, user, description, extension, status)| Step::Texts {
                oid,
                user,
                description,
                extension,
                status,
            }),
        4 => (prop_oneof![4 => 0..OBJECTS, 2 => 100..100 + OBJECTS, 2 => 200..203u64], 0..6usize)
            .prop_map(|(oid, back)| Step::Look { oid, back }),
    ]
}

/// A record as ZODB writes it: the class and the state.
pub(super) fn record(state: &State) -> Vec<u8> {
    let mut data = b"\x80\x03cpersistent\nPersistent\nq\x00.\x80\x03](".to_vec();
    for (oid, reference) in &state.references {
        let oid = oid.to_be_bytes();
        let mut bytes = |before: &[u8], after: &[u8]| {
            data.extend_from_slice(before);
            data.extend_from_slice(b"C\x08");
            data.extend_from_slice(&oid);
            data.extend_from_slice(after);
        };
        match reference {
            Reference::Plain => bytes(b"", b"Q"),
            Reference::WithClass => bytes(b"(", b"cpersistent\nPersistent\nq\x01tQ"),
            Reference::Weak => bytes(b"](X\x01\0\0\0w", b"\x85eQ"),
            Reference::WeakOld => bytes(b"]", b"aQ"),
            Reference::Elsewhere => bytes(b"](X\x01\0\0\0n(X\x05\0\0\0other", b"teQ"),
            Reference::ElsewhereWithClass => bytes(
                b"](X\x01\0\0\0m(X\x05\0\0\0other",
                b"cpersistent\nPersistent\nq\x01teQ",
            ),
            // Not a text of eight characters below 0x80 unless it is one.
            Reference::Old => {
                data.extend_from_slice(b"X\x08\0\0\0");
                data.extend_from_slice(&oid);
                data.push(b'Q');
            }
        }
    }
    data.extend_from_slice(b"B");
    data.extend_from_slice(&u32::try_from(state.len).unwrap().to_le_bytes());
    data.extend(std::iter::repeat_n(state.text, state.len));
    data.extend_from_slice(b"e.");
    data
}

const BLOB_RECORD: &[u8] = b"\x80\x03cZODB.blob\nBlob\nq\x00.\x80\x03N.";

/// Both storages.
struct World<'o> {
    oracle: &'o mut Oracle,
    folder: tempfile::TempDir,
    file: Arc<dyn Storage>,
    /// Its own clock: seconds apart, so that packing can be told a time between.
    seconds: i64,
    count: u64,
    /// How many packings made the file smaller.
    packed: usize,
    /// Packing collects garbage.
    gc: bool,
    /// Python could not do what we could.
    parted: bool,
}

impl<'o> World<'o> {
    async fn new(oracle: &'o mut Oracle, gc: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for side in ["ours", "theirs"] {
            std::fs::create_dir(folder.path().join(side)).unwrap();
        }
        let file = Self::open(&folder, gc).await;
        let mut world = World {
            oracle,
            folder,
            file,
            seconds: 1_700_000_000,
            count: 0,
            packed: 0,
            gc,
            parted: false,
        };
        world.open_theirs(true);
        world
    }

    async fn open(folder: &tempfile::TempDir, gc: bool) -> Arc<dyn Storage> {
        let ours = folder.path().join("ours");
        let options = FileOptions {
            blob_dir: Some(ours.join("blobs")),
            pack_gc: gc,
            ..FileOptions::default()
        };
        let opener = FileOpener::new(ours.join("Data.fs"), options);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        loop {
            match opener.open().await {
                // A process that another test starts at this moment has the lock too, until it is another
                // program.
                Err(Fault::InUse(_)) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                other => return other.unwrap(),
            }
        }
    }

    fn open_theirs(&mut self, index: bool) {
        // Python stumbles over the index of a file that has transactions and no objects, its own too.
        let index = index && self.file.size().objects > 0;
        let theirs = self.folder.path().join("theirs");
        self.oracle.must(&json!({
            "do": "open",
            "file": theirs.join("Data.fs"),
            "blob_dir": theirs.join("blobs"),
            "index": index,
            "gc": self.gc,
        }));
    }

    async fn tids(&self) -> Vec<Tid> {
        self.file.tids_before(Tid::MAX, 1000).await.unwrap()
    }

    async fn serial(&self, oid: u64, stale: bool) -> Tid {
        let history = self.file.history(Oid(oid), 2).await.unwrap_or_default();
        let there = history.get(usize::from(stale));
        there.map_or(Tid::ZERO, |one| one.tid)
    }

    async fn ops(&mut self, changes: &[Change], tid: Tid) -> (Vec<Op>, Vec<Json>) {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let tids = self.tids().await;
        let mut blobs = std::collections::BTreeSet::new();
        for change in changes {
            if let Change::Blob { oid, .. } = change
                && !blobs.insert(*oid)
            {
                // Of two records of a blob that are the same we keep one.
                continue;
            }
            match change {
                Change::Store { oid, stale, state } => {
                    let serial = self.serial(*oid, *stale).await;
                    let data = record(state);
                    theirs.push(json!(["store", oid, serial.0, hex(&data)]));
                    ours.push(Op::Store {
                        oid: Oid(*oid),
                        serial,
                        data: payload(&data),
                    });
                }
                Change::Blob { oid, stale, twice } => {
                    let serial = self.serial(*oid, *stale).await;
                    self.count += 1;
                    let content = format!("content {}", self.count).into_bytes();
                    theirs.push(json!([
                        "blob",
                        oid,
                        serial.0,
                        hex(BLOB_RECORD),
                        hex(&content)
                    ]));
                    if *twice {
                        // As a ZEO client does it. Python keeps both records, we keep one.
                        ours.push(Op::Store {
                            oid: Oid(*oid),
                            serial,
                            data: payload(BLOB_RECORD),
                        });
                    }
                    let mut file = tempfile::NamedTempFile::new_in(&self.folder).unwrap();
                    file.write_all(&content).unwrap();
                    ours.push(Op::StoreBlob {
                        oid: Oid(*oid),
                        serial,
                        data: payload(BLOB_RECORD),
                        blob: Blob::temporary(file.into_temp_path()).unwrap(),
                    });
                }
                Change::Check { oid, stale } => {
                    let serial = self.serial(*oid, *stale).await;
                    theirs.push(json!(["check", oid, serial.0]));
                    ours.push(Op::CheckCurrent {
                        oid: Oid(*oid),
                        serial,
                    });
                }
                Change::Delete { oid, stale } => {
                    let serial = self.serial(*oid, *stale).await;
                    theirs.push(json!(["delete", oid, serial.0]));
                    ours.push(Op::Delete {
                        oid: Oid(*oid),
                        serial,
                    });
                }
                Change::Undo(back) => {
                    let tid = tids.get(*back).copied().unwrap_or(Tid(5));
                    theirs.push(json!(["undo", tid.0]));
                    ours.push(Op::Undo { tid });
                }
                Change::Restore { oid, state, back } => {
                    let previous = back.and_then(|back| tids.get(back).copied());
                    let there = match previous {
                        Some(previous) => self.file.load_serial(Oid(*oid), previous).await.ok(),
                        None => None,
                    };
                    // Python trusts a pointer to a record that says that there is no object.
                    let previous = previous.filter(|_| there.is_some());
                    let data = there.map_or_else(|| record(state), |there| there.to_vec());
                    let prev = previous.map(|previous| previous.0);
                    theirs.push(json!(["restore", oid, tid.0, hex(&data), prev]));
                    ours.push(Op::Restore {
                        oid: Oid(*oid),
                        serial: tid,
                        data: Some(payload(&data)),
                        previous,
                    });
                }
                Change::Gone { oid } => {
                    theirs.push(json!(["restore", oid, tid.0, null, null]));
                    ours.push(Op::Restore {
                        oid: Oid(*oid),
                        serial: tid,
                        data: None,
                        previous: None,
                    });
                }
            }
        }
        (ours, theirs)
    }

    fn time(&mut self) -> Tid {
        self.seconds += 10;
        Tid::from_time(jiff::Timestamp::from_second(self.seconds).unwrap())
    }

    /// Does the same to both, to its end or to its vote.
    async fn transaction(&mut self, changes: &[Change], meta: TxnMeta, finish: bool) {
        let tid = self.time();
        let (ours, theirs) = self.ops(changes, tid).await;
        let request = json!({
            "do": if finish { "commit" } else { "abort" },
            "tid": tid.0,
            "ops": theirs,
            "user": hex(&meta.user),
            "description": hex(&meta.description),
            "extension": hex(&meta.extension),
            "status": char::from(meta.status.to_byte()).to_string(),
        });
        let ours = commit(&*self.file, tid, meta, ours, finish).await;
        let theirs = self.oracle.ask(&request);
        match (&ours, &theirs) {
            (Err(ours), Err(theirs)) if changes.len() == 1 && ours[0] != "other" => {
                assert_eq!(ours, theirs);
            }
            // Which of several is said depends on what is looked at first.
            (Err(_), Err(_)) => {}
            _ => assert_eq!(ours, theirs),
        }
    }

    /// Asks both everything about an object.
    async fn look(&mut self, oid: u64, back: usize) {
        let tids = self.tids().await;
        let Some(tid) = tids.get(back).or(tids.last()).copied() else {
            return;
        };
        let id = Oid(oid);
        let mut differences = Vec::new();
        let mut compare = |what: &str, ours: Json, theirs: Result<Json, Json>| {
            let theirs = theirs.unwrap_or_else(|error| json!({"error": error[0]}));
            if ours != theirs {
                differences.push(format!("{what} of {oid} at {tid}: {ours} is not {theirs}"));
            }
        };
        for before in [tid, tid.next(), Tid::MAX] {
            let ours = said(self.file.load_before(id, before).await).map(|loaded| {
                loaded.map_or(Json::Null, |loaded| {
                    let end = loaded.end.map(|end| end.0);
                    json!([hex(&loaded.data), loaded.tid.0, end])
                })
            });
            let asked =
                json!({"do": "load_before", "oid": oid, "before": before.0.min(i64::MAX as u64)});
            compare(
                "load_before",
                ours.unwrap_or_else(|no| no),
                self.oracle.ask(&asked),
            );
        }
        let ours = said(self.file.load_serial(id, tid).await).map(|data| json!(hex(&data)));
        let asked = json!({"do": "load_serial", "oid": oid, "serial": tid.0});
        compare(
            "load_serial",
            ours.unwrap_or_else(|no| no),
            self.oracle.ask(&asked),
        );
        let ours = said(self.file.current_tid(id).await).map(|tid| json!(tid.0));
        let asked = json!({"do": "get_tid", "oid": oid});
        compare(
            "get_tid",
            ours.unwrap_or_else(|no| no),
            self.oracle.ask(&asked),
        );
        let ours = said(self.file.history(id, back + 1).await).map(|history| {
            let lines = history
                .iter()
                .map(|one| json!([one.tid.0, hex(&one.user), hex(&one.description), one.size]));
            lines.collect()
        });
        let asked = json!({"do": "history", "oid": oid, "count": back + 1});
        compare(
            "history",
            ours.unwrap_or_else(|no| no),
            self.oracle.ask(&asked),
        );
        let last = tids.first().copied().unwrap_or(Tid::ZERO);
        let range = TidRange { first: tid, last };
        let ours = crate::storage::suite::transactions(&*self.file, range).await;
        let ours: Vec<u64> = ours.iter().map(|txn| txn.tid.0).collect();
        let asked = json!({"do": "between", "first": tid.0, "last": last.0});
        compare("between", json!(ours), self.oracle.ask(&asked));
        let ours = self.file.record_from(id).await.unwrap();
        let ours = ours.map(|record| json!([record.oid.0, record.tid.0, hex(&record.data)]));
        let asked = json!({"do": "next_record", "oid": oid});
        match self.oracle.ask(&asked) {
            // Python's walk ends with an error at an object that is gone, where ours goes on.
            Err(error) if error[0] == "unknown" => {}
            Err(_) => compare("next_record", json!(ours), Ok(Json::Null)),
            Ok(theirs) => {
                // The object to go on with is left out: that one may be gone, too.
                let theirs = json!(theirs.as_array().unwrap()[..3]);
                compare("next_record", json!(ours), Ok(theirs));
            }
        }
        let ours = self.file.last_tid().await.unwrap();
        compare(
            "last",
            json!(ours.0),
            self.oracle.ask(&json!({"do": "last"})),
        );
        assert!(differences.is_empty(), "{differences:#?}");
    }

    async fn step(&mut self, step: &Step) {
        match step {
            Step::Commit(changes) => {
                let meta = TxnMeta {
                    user: vec![b'a' + self.count as u8 % 3].into(),
                    description: "something".into(),
                    ..TxnMeta::default()
                };
                self.transaction(changes, meta, true).await;
            }
            Step::Abort(changes) => {
                self.transaction(changes, TxnMeta::default(), false).await;
            }
            Step::Texts {
                oid,
                user,
                description,
                extension,
                status,
            } => {
                let meta = TxnMeta {
                    user: user.bytes().into(),
                    description: description.bytes().into(),
                    extension: extension.pickle().into(),
                    status: TxnStatus::from_byte(*status).unwrap(),
                };
                let change = Change::Store {
                    oid: *oid,
                    stale: false,
                    state: State {
                        references: vec![(100 + *oid, Reference::Plain)],
                        text: 1,
                        len: 5,
                    },
                };
                self.transaction(&[change], meta, true).await;
            }
            Step::Look { oid, back } => self.look(*oid, *back).await,
            Step::Reopen { index } => {
                self.file.close().await;
                let saved = self.folder.path().join("ours/Data.fs.index");
                if !index && saved.exists() {
                    std::fs::remove_file(saved).unwrap();
                }
                self.file = Self::open(&self.folder, self.gc).await;
                self.open_theirs(*index);
            }
            Step::Pack(back) => {
                let tids = self.tids().await;
                let to = tids
                    .get(*back)
                    .or(tids.last())
                    .copied()
                    .unwrap_or(Tid(1 << 60));
                let time = to.time().unwrap().as_second() as f64 + 5.0;
                let ours = self.file.pack(time).await;
                let theirs = self.oracle.ask(&json!({"do": "pack", "time": time}));
                match (&ours, &theirs) {
                    (Ok(()), Ok(_)) => {
                        let ours = self.folder.path().join("ours/Data.fs.old");
                        let theirs = self.folder.path().join("theirs/Data.fs.old");
                        assert_eq!(ours.exists(), theirs.exists());
                        if ours.exists() {
                            self.packed += 1;
                            assert!(std::fs::read(ours).unwrap() == std::fs::read(theirs).unwrap());
                            let kept = |side| blobs(&self.folder.path().join(side));
                            assert_eq!(kept("ours/blobs.old"), kept("theirs/blobs.old"));
                        }
                        self.give_back_blobs().await;
                        self.give_back_the_last_packed(time);
                    }
                    (Err(StorageError::Answer(_)), Err(_)) => {}
                    // Without collecting garbage it cannot keep what later records point back to.
                    (Ok(()), Err(_)) if !self.gc => self.parted = true,
                    _ => panic!("{ours:?} is not {theirs:?}"),
                }
            }
            Step::Rewind(back) => {
                let tids = self.tids().await;
                let Some(keep) = tids.get(*back).copied() else {
                    return;
                };
                self.file.rewind(Some(keep)).await.unwrap();
                // The oracle goes on with what is left.
                self.oracle.must(&json!({"do": "close"}));
                let theirs = self.folder.path().join("theirs");
                let mut options = std::fs::File::options();
                let file = options.write(true).open(theirs.join("Data.fs"));
                file.unwrap().set_len(self.file.size().bytes).unwrap();
                for name in blobs(&theirs.join("blobs")).keys() {
                    if blob_name(name).1 > keep {
                        std::fs::remove_file(theirs.join("blobs").join(name)).unwrap();
                    }
                }
                self.open_theirs(false);
            }
            Step::Swap => {
                self.file.close().await;
                self.oracle.must(&json!({"do": "close"}));
                let path = |name| self.folder.path().join(name);
                let rename = |from, to| std::fs::rename(path(from), path(to)).unwrap();
                rename("ours", "between");
                rename("theirs", "ours");
                rename("between", "theirs");
                self.file = Self::open(&self.folder, self.gc).await;
                self.open_theirs(true);
            }
            Step::UndoInfo { first, last, user } => {
                let user = user.map(|user| vec![b'a' + user]);
                let (specification, pickled) = match user {
                    None => (Value::None, "N.".to_owned()),
                    Some(user) => {
                        let pickled = format!("}}U\x09user_nameC\x01{}s.", user[0] as char);
                        let user = Value::Bytes(user.into());
                        let key = Value::Text("user_name".to_owned());
                        (Value::Dict(vec![(key, user)]), pickled)
                    }
                };
                let ours = self.file.undo_info(*first, *last, &specification).await;
                let ours: Vec<u64> = ours.unwrap().iter().map(|one| one.tid.0).collect();
                let theirs = self.oracle.must(&json!({
                    "do": "undo_info",
                    "first": first,
                    "last": last,
                    "specification": hex(pickled.as_bytes()),
                }));
                assert_eq!(json!(ours), theirs);
            }
        }
    }

    /// Whether both read the same in it.
    async fn compare_reading(&mut self) {
        let theirs = self.oracle.must(&json!({"do": "iterate"}));
        let mut ours = Vec::new();
        for txn in crate::storage::suite::transactions(&*self.file, TidRange::ALL).await {
            let mut records = Vec::new();
            for record in &txn.records {
                let data = record.data.payload().map(|data| hex(&data.read().unwrap()));
                let back = match &record.data {
                    crate::zodb::RecordData::Back { tid, .. } => Some(tid.0),
                    _ => None,
                };
                records.push(json!([record.oid.0, data, back]));
            }
            let status = char::from(txn.meta.status.to_byte()).to_string();
            ours.push(json!([txn.tid.0, status, records]));
        }
        assert_eq!(ours.len(), theirs.as_array().unwrap().len());
        for (ours, theirs) in ours.iter().zip(theirs.as_array().unwrap()) {
            let (ours, theirs) = (plain(ours), plain(theirs));
            assert_eq!(ours, theirs);
        }
    }

    /// Python removes all files of an object that was garbage, also those of later revisions, whose
    /// records stay. It gets them back.
    async fn give_back_blobs(&self) {
        let (ours, theirs) = ("ours/blobs", "theirs/blobs");
        let of = |side| blobs(&self.folder.path().join(side));
        let there = of(theirs);
        for (name, content) in of(ours) {
            if !there.contains_key(&name) {
                let (oid, tid) = blob_name(&name);
                self.file.load_blob(oid, tid).await.unwrap();
                let path = self.folder.path().join(theirs).join(&name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, content).unwrap();
            }
        }
    }

    /// Of the last packed transaction we keep the header where nothing that it wrote stays, and Python does
    /// not. That is all that may differ; and it gets the header back.
    fn give_back_the_last_packed(&mut self, time: f64) {
        let path = |name| self.folder.path().join(name);
        let mut ours = std::fs::read(path("ours/Data.fs")).unwrap();
        ours.truncate(self.file.size().bytes as usize);
        let theirs = std::fs::read(path("theirs/Data.fs")).unwrap();
        if ours == theirs {
            return;
        }
        assert!(without_the_last_packed(&ours, time) == theirs);
        self.oracle.must(&json!({"do": "close"}));
        std::fs::write(path("theirs/Data.fs"), ours).unwrap();
        self.open_theirs(false);
    }

    /// Whether both have the same.
    async fn compare(&mut self) {
        let read = |name| std::fs::read(self.folder.path().join(name)).unwrap();
        let size = self.file.size().bytes as usize;
        let ours = read("ours/Data.fs");
        let theirs = read("theirs/Data.fs");
        if ours[..size] != theirs[..] {
            let at = ours.iter().zip(&theirs).position(|(a, b)| a != b);
            panic!(
                "the files differ at {at:?}: {size} bytes, {} are Python's",
                theirs.len()
            );
        }
        let index = self.oracle.must(&json!({"do": "index"}));
        assert_eq!(
            index.as_array().unwrap().len() as u64,
            self.file.size().objects
        );
        let theirs = blobs(&self.folder.path().join("theirs/blobs"));
        // What was aborted is taken back on another thread.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(2);
        loop {
            let ours = blobs(&self.folder.path().join("ours/blobs"));
            if ours == theirs {
                break;
            }
            assert!(
                std::time::Instant::now() < deadline,
                "{ours:?} are not {theirs:?}"
            );
            tokio::task::yield_now().await;
        }
        for name in theirs.keys() {
            let (oid, tid) = blob_name(name);
            let blob = self.file.load_blob(oid, tid).await.unwrap();
            assert_eq!(std::fs::read(blob.path()).unwrap(), theirs[name]);
        }
    }
}

/// What a file packed up to a time, in seconds, would be without its last packed transaction, which has nothing but
/// its header. (Later ones may be marked as packed, too: some bring that status with them.)
fn without_the_last_packed(file: &[u8], time: f64) -> Vec<u8> {
    let header = |at: usize| TxnHeader::decode(file[at..].first_chunk().unwrap());
    let mut at = FIRST as usize;
    let mut last = None;
    let is_packed = |header: TxnHeader| header.tid.time().unwrap().as_second() as f64 <= time;
    while at < file.len() && is_packed(header(at)) {
        last = Some(at);
        at += header(at).whole_len() as usize;
    }
    let last = last.expect("something is packed");
    assert_eq!(header(last).txn_status(), Some(TxnStatus::Packed));
    assert_eq!(header(last).len, header(last).head_len(), "it has records");
    let (next, len) = (at, (at - last) as u64);
    let mut without = file[..last].to_vec();
    while at < file.len() {
        let mut txn = file[at..at + header(at).whole_len() as usize].to_vec();
        let mut record = header(at).head_len() as usize;
        let end = header(at).len as usize;
        while record < end {
            let there = RecordHeader::decode(txn[record..].first_chunk().unwrap()).unwrap();
            let mut numbers = vec![record + 16, record + 24];
            numbers.extend((there.data_len == 0).then_some(record + RecordHeader::LEN));
            for number in numbers {
                let bytes = &mut txn[number..number + 8];
                let to = u64::from_be_bytes(bytes.try_into().unwrap());
                if to >= next as u64 {
                    bytes.copy_from_slice(&(to - len).to_be_bytes());
                }
            }
            record += there.whole_len() as usize;
        }
        without.extend(&txn);
        at += txn.len();
    }
    without
}

/// A transaction without what a record that says that there is no object points to: that is Python's
/// alone.
fn plain(txn: &Json) -> Json {
    let mut txn = txn.clone();
    for record in txn[2].as_array_mut().unwrap() {
        if record[1].is_null() {
            record[2] = Json::Null;
        }
    }
    txn
}

/// What came of a transaction, as the oracle says it.
async fn commit(
    storage: &dyn Storage,
    tid: Tid,
    meta: TxnMeta,
    ops: Vec<Op>,
    finish: bool,
) -> Result<Json, Json> {
    let mut txn = storage.begin(meta, Some(tid)).await.unwrap();
    for op in ops {
        txn.store(op).await.unwrap();
    }
    match txn.vote().await {
        Ok(Vote::Ready(voted)) => {
            let undone: Vec<u64> = voted.resolved().iter().map(|oid| oid.0).collect();
            if finish {
                voted.finish().await.unwrap();
            }
            Ok(json!(undone))
        }
        Ok(Vote::Conflicts(_, conflicts)) => Err(json!(["conflict", conflicts[0].oid.0])),
        Err(StorageError::Answer(answer)) => Err(match answer {
            Answer::Undo { reason, .. } => json!(["undo", reason]),
            Answer::MultipleUndo(reasons) => {
                let reasons: Vec<Json> = reasons
                    .iter()
                    .map(|(oid, reason)| json!([oid.0, reason]))
                    .collect();
                json!(["undo", reasons])
            }
            Answer::Conflict(conflict) => json!(["conflict", conflict.oid.0]),
            Answer::ReadConflict(conflict) => json!(["read conflict", conflict.oid.0]),
            Answer::NoSuchObject(oid) => json!(["unknown", oid.0]),
            other => json!(["other", other.to_string()]),
        }),
        Err(StorageError::Fault(fault)) => panic!("unexpected fault: {fault}"),
    }
}

/// The files of a folder of blobs by their names below it.
pub(super) fn blobs(root: &Path) -> BTreeMap<String, Vec<u8>> {
    fn collect(folder: &Path, root: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
        // A folder may go while it is looked at.
        let Ok(entries) = std::fs::read_dir(folder) else {
            return;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, root, found);
            } else if path.extension().is_some_and(|one| one == "blob")
                && let Ok(content) = std::fs::read(&path)
            {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap();
                found.insert(name.to_owned(), content);
            }
        }
    }
    let mut found = BTreeMap::new();
    collect(root, root, &mut found);
    found
}

pub(super) fn blob_name(name: &str) -> (Oid, Tid) {
    let (folder, file) = name.rsplit_once('/').unwrap();
    let oid = folder.replace("0x", "").replace('/', "");
    let tid = file.strip_prefix("0x").unwrap().strip_suffix(".blob");
    let number = |digits| u64::from_str_radix(digits, 16).unwrap();
    (Oid(number(&oid)), Tid(number(tid.unwrap())))
}

/// What a storage said, or the kind of its answer.
fn said<T>(answer: crate::storage::Result<T>) -> Result<T, Json> {
    answer.map_err(|error| match error {
        StorageError::Answer(Answer::NoSuchObject(_)) => json!({"error": "unknown"}),
        other => json!({"error": other.to_string()}),
    })
}

fn cases(always: u32) -> u32 {
    match std::env::var("ZEORAID_CASES") {
        Ok(cases) => cases.parse().expect("ZEORAID_CASES is a number"),
        Err(_) => always,
    }
}

/// What repeats a run; printed.
pub(super) fn seed() -> u64 {
    let seed = match std::env::var("ZEORAID_SEED") {
        Ok(seed) => seed.parse().expect("ZEORAID_SEED is a number"),
        Err(_) => fastrand::u64(..),
    };
    eprintln!("ZEORAID_SEED={seed}");
    seed
}

#[test]
fn a_file_is_what_python_makes_of_the_same_history() {
    let oracle = std::cell::RefCell::new(Oracle::start());
    let packed = std::cell::Cell::new(0);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .unwrap();
    let config = ProptestConfig {
        cases: cases(200),
        max_shrink_iters: 300,
        rng_seed: RngSeed::Fixed(seed()),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config.clone(), |(steps in prop::collection::vec(step(), 1..16), gc in prop::bool::weighted(0.8))| {
        let mut oracle = oracle.borrow_mut();
        runtime.block_on(async {
            let mut world = World::new(&mut oracle, gc).await;
            world.step(&Step::Commit(everything())).await;
            // At the end all objects are there again, so that at least one packing is not refused.
            let end = [Step::Commit(everything()), Step::Pack(0)];
            for step in steps.iter().chain(&end) {
                world.step(step).await;
                if world.parted {
                    break;
                }
                world.compare().await;
            }
            if !world.parted {
                world.compare_reading().await;
            }
            world.file.close().await;
            packed.set(packed.get() + world.packed);
        });
    });
    let all = config.cases as usize;
    assert!(
        packed.get() >= all / 2,
        "{} packings in {all} histories",
        packed.get()
    );
}

/// A large state that is pointed back to from both sides of the time: it is there twice afterwards.
#[test]
fn a_packed_file_may_be_longer_as_with_python() {
    let mut oracle = Oracle::start();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    let store = |len| Change::Store {
        oid: 0,
        stale: false,
        state: State {
            references: vec![(1, Reference::Plain), (100, Reference::Plain)],
            text: 1,
            len,
        },
    };
    let again = Change::Restore {
        oid: 0,
        state: State {
            references: Vec::new(),
            text: 0,
            len: 1,
        },
        back: Some(3),
    };
    runtime.block_on(async {
        let mut world = World::new(&mut oracle, true).await;
        for changes in [
            everything(),
            vec![store(60_000)],
            vec![store(10)],
            vec![Change::Undo(0)],
            Vec::new(),
            vec![again],
        ] {
            world.step(&Step::Commit(changes)).await;
            world.compare().await;
        }
        let before = world.file.size().bytes;
        world.step(&Step::Pack(1)).await;
        world.compare().await;
        world.compare_reading().await;
        assert_eq!(world.packed, 1);
        assert!(world.file.size().bytes > before + 50_000);
        world.step(&Step::Commit(vec![store(20)])).await;
        world.step(&Step::Reopen { index: false }).await;
        world.compare().await;
        world.file.close().await;
    });
}

/// Python reads the file, writes to it and packs it.
#[test]
fn the_last_packed_transaction_keeps_its_header() {
    let mut oracle = Oracle::start();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    let garbage = |text| Change::Store {
        oid: 200,
        stale: false,
        state: State {
            references: Vec::new(),
            text,
            len: 50,
        },
    };
    let change = |text| Change::Store {
        oid: 1,
        stale: false,
        state: State {
            references: vec![(2, Reference::Plain)],
            text,
            len: 5,
        },
    };
    runtime.block_on(async {
        let mut world = World::new(&mut oracle, true).await;
        for changes in [everything(), vec![change(0)], vec![garbage(1)]] {
            world.step(&Step::Commit(changes)).await;
        }
        let last = world.tids().await[0];
        let is_there = async |world: &World<'_>| {
            let there = crate::storage::suite::transactions(&*world.file, TidRange::only(last));
            let there = there.await;
            there.iter().all(|txn| {
                assert_eq!(txn.meta.status, TxnStatus::Packed);
                txn.records.is_empty()
            }) && !there.is_empty()
        };
        world.step(&Step::Pack(0)).await;
        assert!(is_there(&world).await);
        for index in [true, false] {
            world.compare().await;
            world.compare_reading().await;
            world.step(&Step::Reopen { index }).await;
            assert_eq!(world.file.last_tid().await.unwrap(), last);
        }
        // There is nothing more to be packed, and then something is.
        let size = world.file.size();
        world.step(&Step::Pack(0)).await;
        assert_eq!(world.file.size(), size);
        for text in 2..4 {
            world.step(&Step::Commit(vec![change(text)])).await;
        }
        world.compare().await;
        world.step(&Step::Pack(1)).await;
        assert!(!is_there(&world).await);
        world.compare().await;
        world.compare_reading().await;
        world.file.close().await;
    });
}

#[test]
fn references_are_those_that_python_finds() {
    let oracle = std::cell::RefCell::new(Oracle::start());
    let config = ProptestConfig {
        cases: cases(300),
        rng_seed: RngSeed::Fixed(seed()),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(state in state(), oids in prop::collection::vec(any::<u64>(), 0..5))| {
        let mut state = state;
        state.references.extend(oids.into_iter().map(|oid| (oid, Reference::WithClass)));
        let record = record(&state);
        let mut ours = Vec::new();
        let mut references = super::super::references::References::default();
        references.of(&record, |oid| ours.push(oid.0)).unwrap();
        let request = json!({"do": "references", "data": hex(&record)});
        prop_assert_eq!(json!(ours), oracle.borrow_mut().must(&request));
    });
}

/// What the pickler writes that ZODB uses.
#[test]
fn references_of_real_records_are_found() {
    let lines = r"
import sys, pickle, io
import zodbpickle
import zodbpickle.pickle
from persistent.mapping import PersistentMapping
from ZODB.serialize import referencesf

def p64(number):
    return zodbpickle.binary(number.to_bytes(8, 'big'))

class Plain:
    pass

class Linked:
    def __init__(self, reference):
        self.reference = reference

def state():
    links = [Linked((p64(number * 0x0101), PersistentMapping)) for number in range(1, 4)]
    links += [Linked(p64(9)), Linked(['w', (p64(5),)]), Linked(['m', ('other', p64(6), Plain)])]
    links.append(links[0])
    values = {'list': links, 'float': 1.5, 'long': 1 << 80, 'text': 'ü', 'none': None, 'set': {1, 2},
              'deep': ((1, (2, 3, 4, 5)), b'bytes' * 100, frozenset((True, False)))}
    return values

out = io.BytesIO()
pickler = zodbpickle.pickle.Pickler(out, 3)
pickler.persistent_id = lambda one: getattr(one, 'reference', None) if isinstance(one, Linked) else None
for one in PersistentMapping, state():
    pickler.dump(one)
record = out.getvalue()
print(record.hex(), *(int.from_bytes(oid, 'big') for oid in referencesf(record)))
";
    let printed = python::run(lines, &[]);
    let (record, found) = printed.trim().split_once(' ').unwrap();
    let bytes: Vec<u8> = (0..record.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&record[at..at + 2], 16).unwrap())
        .collect();
    let mut ours = Vec::new();
    let mut references = super::super::references::References::default();
    references
        .of(&bytes, |oid| ours.push(oid.0.to_string()))
        .unwrap();
    assert_eq!(ours.join(" "), found);
}
