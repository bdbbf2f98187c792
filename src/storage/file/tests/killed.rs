//! `kill -9` while a file is packed and eight clients commit: the old file is in force or the new one,
//! nothing that was acknowledged is lost, and Python reads what is left.
//!
//! The process that is killed is this one once more, with a variable in its environment. It packs again
//! and again, so that nearly every moment is one of packing; those that are not are killed, too, and do
//! not count.

#![expect(
    clippy::disallowed_methods,
    reason = "the process is killed with all of its tasks; the other waits for moments"
)]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use super::crash::copy_folder;
use super::oracle::{Oracle, seed};
use super::*;
use crate::storage::StorageError;
use crate::storage::suite::{BLOB_RECORD, begin, commit_ops, ready, referring, store, store_blob};

const FOLDER: &str = "ZEORAID_TEST_KILLED_IN";
const CLIENTS: u64 = 8;
const KILLS: usize = 50;
/// Of those that have a blob each.
const BLOBS: u64 = 100;
/// Objects that nobody changes.
const OTHERS: std::ops::Range<u64> = 1000..1300;
const PATIENCE: Duration = Duration::from_mins(1);

async fn open_in(folder: &Path) -> FileStorage {
    let options = FileOptions {
        blob_dir: Some(folder.join("blobs")),
        ..FileOptions::default()
    };
    open_file(&folder.join("Data.fs"), options).await
}

fn counted(client: u64, count: u64) -> Vec<u8> {
    let text = format!("count {count}. {}", "x".repeat(2000));
    referring(&[BLOBS + client], &text)
}

fn count_in(data: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(data);
    let (_, rest) = text.split_once("count ").expect("a client's object");
    let (count, _) = rest.split_once('.').expect("and its count");
    count.parse().expect("a number")
}

async fn fill(folder: &Path) {
    let storage = open_in(folder).await;
    let others: Vec<u64> = OTHERS.collect();
    let clients: Vec<u64> = (1..=CLIENTS).chain([9]).collect();
    let mut ops = vec![
        store(0, Tid::ZERO, &referring(&clients, "root")),
        store(9, Tid::ZERO, &referring(&others, "others")),
    ];
    for client in 1..=CLIENTS {
        ops.push(store(client, Tid::ZERO, &counted(client, 0)));
        ops.push(store_blob(BLOBS + client, Tid::ZERO, b"0"));
    }
    for other in OTHERS {
        let text = format!("other {other} {}", "y".repeat(4000));
        ops.push(store(other, Tid::ZERO, &referring(&[], &text)));
    }
    commit_ops(&storage, ops).await;
    storage.close().await;
}

/// Commits until the process is killed.
async fn client(storage: Arc<FileStorage>, client: u64, folder: PathBuf) {
    let mut acks = std::fs::File::options()
        .append(true)
        .create(true)
        .open(folder.join("acks"))
        .unwrap();
    let (oid, blob) = (Oid(client), Oid(BLOBS + client));
    let current = storage.load_before(oid, Tid::MAX).await.unwrap().unwrap();
    let (mut serial, mut count) = (current.tid, count_in(&current.data));
    let mut blob_serial = storage.current_tid(blob).await.unwrap();
    loop {
        count += 1;
        let mut ops = vec![store(client, serial, &counted(client, count))];
        let with_blob = count % 4 == 0;
        if with_blob {
            let content = count.to_string();
            ops.push(store_blob(blob.0, blob_serial, content.as_bytes()));
        }
        let voting = begin(&*storage, ops).await.vote().await.unwrap();
        serial = ready(voting).finish().await.unwrap();
        if with_blob {
            blob_serial = serial;
        }
        let line = format!("{client} {count}\n");
        acks.write_all(line.as_bytes()).unwrap();
    }
}

#[test]
#[ignore = "this is what the test below runs and kills"]
fn the_process_that_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        panic!("only the test below knows the folder");
    };
    let folder = PathBuf::from(folder);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let storage = Arc::new(open_in(&folder).await);
        for number in 1..=CLIENTS {
            tokio::spawn(client(Arc::clone(&storage), number, folder.clone()));
        }
        let mut packs = std::fs::File::options()
            .append(true)
            .create(true)
            .open(folder.join("packs"))
            .unwrap();
        loop {
            let now = crate::clock::now().as_millisecond() as f64 / 1000.0;
            packs.write_all(b"begin\n").unwrap();
            storage.pack(now).await.unwrap();
            packs.write_all(b"end\n").unwrap();
        }
    });
}

/// Killed when it is dropped.
struct Victim(Child);

impl Drop for Victim {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Starts it, kills it at some moment, and says whether it was packing.
fn kill(folder: &Path, random: &mut fastrand::Rng) -> bool {
    let name = concat!(module_path!(), "::the_process_that_is_killed");
    let (_, name) = name.split_once("::").expect("a path in this crate");
    let output = std::fs::File::create(folder.join("output")).unwrap();
    let packs = folder.join("packs");
    drop(std::fs::remove_file(&packs));
    let mut victim = Victim(
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--ignored", "--nocapture"])
            .env(FOLDER, folder)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap(),
    );
    let ended = |victim: &mut Victim| {
        let output = || std::fs::read_to_string(folder.join("output")).unwrap_or_default();
        assert!(
            matches!(victim.0.try_wait(), Ok(None)),
            "it ended by itself:\n{}",
            output()
        );
    };
    let deadline = Instant::now() + PATIENCE;
    while lines(&packs).is_empty() {
        ended(&mut victim);
        assert!(Instant::now() < deadline, "it does not pack");
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_micros(random.u64(0..250_000)));
    ended(&mut victim);
    drop(victim);
    lines(&packs).last().is_some_and(|line| line == "begin")
}

/// What each client was told last.
fn acknowledged(folder: &Path) -> BTreeMap<u64, u64> {
    let mut all = BTreeMap::new();
    for line in lines(&folder.join("acks")) {
        // The last may be half a line: what it was told before counts.
        if let Some((client, count)) = line.split_once(' ')
            && let (Ok(client), Ok(count)) = (client.parse(), count.parse())
        {
            all.insert(client, count);
        }
    }
    all
}

/// Python reads the copy of a folder as the kill left it.
fn python_reads(oracle: &mut Oracle, folder: &Path, acknowledged: &BTreeMap<u64, u64>) {
    oracle.must(&json!({
        "do": "open",
        "file": folder.join("Data.fs"),
        "blob_dir": folder.join("blobs"),
    }));
    for client in 1..=CLIENTS {
        let found = oracle.must(&json!({"do": "load", "oid": client}));
        let data = found["data"].as_str().expect("text");
        let bytes: Vec<u8> = (0..data.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&data[at..at + 2], 16).unwrap())
            .collect();
        check_count(acknowledged, client, count_in(&bytes), "Python");
        let blob = json!({"do": "blob", "oid": BLOBS + client});
        let content = oracle.must(&blob);
        let content = content.as_str().expect("text").to_owned();
        check_blob(client, count_in(&bytes), &content);
    }
    for other in OTHERS {
        oracle.must(&json!({"do": "load", "oid": other}));
    }
    oracle.must(&json!({"do": "close"}));
}

#[track_caller]
fn check_count(acknowledged: &BTreeMap<u64, u64>, client: u64, count: u64, who: &str) {
    let told = acknowledged.get(&client).copied().unwrap_or(0);
    // One may have been finished and not told any more.
    assert!(
        (told..=told + 1).contains(&count),
        "client {client} was told of {told}, {who} finds {count}"
    );
}

#[track_caller]
fn check_blob(client: u64, count: u64, content: &str) {
    assert_eq!(
        content,
        (count / 4 * 4).to_string(),
        "the blob of client {client} at {count}"
    );
}

async fn we_read(folder: &Path, acknowledged: &mut BTreeMap<u64, u64>) {
    let storage = open_in(folder).await;
    for client in 1..=CLIENTS {
        let found = storage.load_before(Oid(client), Tid::MAX).await;
        let count = count_in(&found.unwrap().unwrap().data);
        check_count(acknowledged, client, count, "this engine");
        // What was finished and not told is there from now on.
        acknowledged.insert(client, count);
        let blob = Oid(BLOBS + client);
        let record = storage.load_before(blob, Tid::MAX).await.unwrap().unwrap();
        assert_eq!(&record.data[..], BLOB_RECORD);
        let blob = storage.load_blob(blob, record.tid).await.unwrap();
        let content = std::fs::read_to_string(blob.path()).unwrap();
        check_blob(client, count, &content);
    }
    for other in OTHERS {
        let found = storage.load_before(Oid(other), Tid::MAX).await;
        assert!(found.unwrap().is_some(), "{other}");
    }
    let all = (CLIENTS * 2 + 2 + OTHERS.count() as u64, storage.size());
    assert_eq!(all.0, all.1.objects);
    // Garbage is not even there.
    let nothing = storage.load_before(Oid(5000), Tid::MAX).await;
    assert!(matches!(nothing, Err(StorageError::Answer(_))));
    storage.close().await;
    let mut known = vec!["Data.fs", "Data.fs.index", "Data.fs.lock", "Data.fs.old"];
    known.extend(["blobs", "blobs.old", "acks", "packs", "output"]);
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name();
        let name = name.to_str().unwrap();
        // What is cut from the end at opening is saved, as Python does it.
        let cut = name.starts_with("Data.fs.tr");
        assert!(cut || known.contains(&name), "{name} was left behind");
    }
    let mut temporary = std::fs::read_dir(folder.join("blobs/tmp")).unwrap();
    assert!(temporary.next().is_none(), "a temporary file was left");
    assert!(!folder.join("blobs/.removed").exists());
}

#[test]
fn killed_at_fifty_moments_of_packing_it_has_the_old_file_or_the_new() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("home");
    std::fs::create_dir(&home).unwrap();
    let mut random = fastrand::Rng::with_seed(seed());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(fill(&home));
    let mut oracle = Oracle::start();
    let mut told = BTreeMap::new();
    let (mut kills, mut beside) = (0, 0);
    while kills < KILLS {
        if kill(&home, &mut random) {
            kills += 1;
        } else {
            beside += 1;
            assert!(beside < 4 * KILLS, "it packs too fast to be caught");
        }
        for (client, count) in acknowledged(&home) {
            told.insert(client, count.max(told.get(&client).copied().unwrap_or(0)));
        }
        let copy = folder.path().join("copy");
        copy_folder(&home, &copy);
        python_reads(&mut oracle, &copy, &told);
        std::fs::remove_dir_all(&copy).unwrap();
        runtime.block_on(we_read(&home, &mut told));
        drop(std::fs::remove_file(home.join("acks")));
    }
    let commits: u64 = told.values().sum();
    eprintln!("{kills} kills while packing, {beside} beside it, {commits} commits");
    assert!(commits > 0);
}
