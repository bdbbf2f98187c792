//! Every state of the disk that a crash may leave, at every step of everything that the engine does.
//!
//! Work is done in a folder that is watched ([`crate::durable::crash`], which also says what a crash may
//! leave), and with it is noted what was promised when: a [`Story`]. Then the states are made, and each
//! must be this:
//!
//! 1. It is opened, without anybody's help.
//! 2. Every transaction whose finish had returned is there, whole and with its blobs; then perhaps some
//!    whose finish had begun, in their order; nothing else, and nothing that was given up.
//! 3. Where the history is changed (packing, taking back, restoring), it is the old one or the new one.
//!    What is set aside is in a file beside before it is gone from here.
//! 4. What the index says is what the history says, with the index that was found and after saving it.
//! 5. No file is left that belongs to nothing. (Where the file system does not keep the order of names, one
//!    of an aborted blob may be.)
//! 6. A transaction can be committed, and after opening again everything is there.
//! 7. A crash while it is opened changes nothing of this; tried for some of the states.
//! 8. Python's `FileStorage` reads the same history and blobs, or, where it cannot open what a crash left
//!    at the end of the file, says so; tried for some.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::json;

use super::oracle::{self, Oracle};
use super::*;
use crate::durable::crash::choice::Choices;
use crate::durable::crash::examine::{self, Case, Counts, Failure, Look};
use crate::durable::crash::mistake::Mistake;
use crate::durable::crash::watch::Watch;
use crate::storage::suite::{commit_ops, store, store_blob, text, transactions};
use crate::storage::{StorageError, is_blob_record};
use crate::zodb::RecordData;

mod mistakes;
mod python;
mod story;
mod work;

use python::python_looks;
use story::{Base, Event, Expected, Story};

/// So many states of each kind of work are looked at always.
const STATES: usize = 120;
/// Of how many one is opened by Python, too, and of how many one is crashed while it is opened.
const PYTHON_EVERY: usize = 16;
const AGAIN_EVERY: usize = 20;
/// So many states of an opening are looked at.
const AGAIN: usize = 12;

/// Gives the temporary files of this process names as another one's: it is not the one that crashed.
fn disown(story: &Story, root: &Path) {
    let Some(blob_dir) = &story.blob_dir else {
        return;
    };
    let Ok(entries) = std::fs::read_dir(root.join(blob_dir).join("tmp")) else {
        return;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if let Some((mark, rest)) = name
            .strip_prefix("zeoraid-")
            .and_then(|rest| rest.split_at_checked(16))
            && !mark.contains('-')
        {
            let other = path.with_file_name(format!("zeoraid-{:016x}{rest}", 0));
            std::fs::rename(&path, other).unwrap();
        }
    }
}

async fn open_at(story: &Story, root: &Path) -> Result<FileStorage, String> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        match FileStorage::open(&root.join(&story.data), story.options(root)).await {
            // A process that another test starts at this moment has the lock too, until it is another
            // program.
            Err(Fault::InUse(_)) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            opened => return opened.map_err(|fault| format!("it is not opened: {fault}")),
        }
    }
}

/// Nothing is there that could be opened, and nothing has to be.
fn is_absent(story: &Story, root: &Path, expected: &Expected) -> Result<bool, String> {
    let data = root.join(&story.data);
    if !story.bases[0].absent || data.parent().unwrap().exists() {
        return Ok(false);
    }
    if expected.bases.iter().any(|base| base.absent) {
        return Ok(true);
    }
    Err(format!("{} is gone", data.display()))
}

/// What was found by opening a state.
struct Found {
    history: Vec<HistoryTxn>,
    texts: Vec<String>,
}

async fn read(storage: &FileStorage) -> Result<Found, String> {
    let history = transactions(storage, TidRange::ALL).await;
    let texts = history.iter().map(text).collect();
    let mut current = BTreeMap::new();
    for txn in &history {
        for record in &txn.records {
            let data = record.data.payload().map(|data| data.read().unwrap());
            current.insert(record.oid, (txn.tid, data));
        }
    }
    let last = history.last().map_or(Tid::ZERO, |txn| txn.tid);
    let told = storage.last_tid().await.unwrap();
    if told != last {
        return Err(format!(
            "the last transaction is {last}, and it says {told}"
        ));
    }
    let objects = storage.size().objects;
    if objects != current.len() as u64 {
        let count = current.len();
        return Err(format!(
            "the index has {objects} objects, and there are {count}"
        ));
    }
    for (oid, (tid, data)) in &current {
        let loaded = match storage.load_before(*oid, Tid::MAX).await {
            Ok(Some(loaded)) => Some((loaded.tid, loaded.data)),
            Ok(None) | Err(StorageError::Answer(Answer::NoSuchObject(_))) => None,
            Err(error) => return Err(format!("{oid} is not loaded: {error}")),
        };
        let expected = data.clone().map(|data| (*tid, data));
        if loaded != expected {
            return Err(format!(
                "{oid} is loaded as {loaded:?}, and its newest record is {expected:?}"
            ));
        }
    }
    Ok(Found { history, texts })
}

/// The blobs of a history have their files.
async fn read_blobs(story: &Story, storage: &FileStorage, found: &Found) -> Result<(), String> {
    for (oid, tid, content) in &story.blobs {
        let mut there = found.history.iter().filter(|txn| txn.tid.0 == *tid);
        if !there.any(|txn| txn.records.iter().any(|one| one.oid.0 == *oid)) {
            continue;
        }
        let blob = storage.load_blob(Oid(*oid), Tid(*tid)).await;
        let blob = blob.map_err(|error| format!("the blob of {oid} in {tid:x}: {error}"))?;
        let there = std::fs::read_to_string(blob.path()).unwrap();
        if there != *content {
            return Err(format!(
                "the blob of {oid} in {tid:x} is {there:?} instead of {content:?}"
            ));
        }
    }
    Ok(())
}

/// Nothing is left in the folders that belongs to nothing.
fn look_for_leftovers(story: &Story, root: &Path, found: &Found) -> Result<(), String> {
    let data = root.join(&story.data);
    let name = data.file_name().unwrap().to_str().unwrap();
    for entry in std::fs::read_dir(data.parent().unwrap()).unwrap() {
        let other = entry.unwrap().file_name().into_string().unwrap();
        let Some(suffix) = other.strip_prefix(name) else {
            continue;
        };
        let known = [
            "",
            ".index",
            ".lock",
            ".old",
            ".aside_tmp",
            ".index.index_tmp",
        ]
        .contains(&suffix)
            || suffix.starts_with(".tr")
            || suffix.starts_with(".aside-");
        if !known {
            return Err(format!("{other} was left behind"));
        }
    }
    let Some(blob_dir) = &story.blob_dir else {
        return Ok(());
    };
    let blob_dir = root.join(blob_dir);
    let left = |what: &str| Err(format!("{what} was left in the folder of blobs"));
    if std::fs::read_dir(blob_dir.join("tmp")).unwrap().count() > 0 {
        return left("a temporary file");
    }
    if blob_dir.join(".removed").exists() {
        return left("a list of what is removed");
    }
    let mut wanted = BTreeSet::new();
    for txn in &found.history {
        for record in &txn.records {
            let data = record.data.payload().map(|data| data.read().unwrap());
            if data.is_some_and(|data| is_blob_record(&data)) {
                wanted.insert((record.oid, txn.tid));
            }
        }
    }
    for file in oracle::blobs(&blob_dir).keys() {
        let (oid, tid) = oracle::blob_name(file);
        let once = || {
            let mut all = story.blobs.iter();
            all.any(|(one, in_txn, _)| (*one, *in_txn) == (oid.0, tid.0))
        };
        let may_stay = story.blobs_stay && once();
        if !wanted.contains(&(oid, tid)) && !may_stay {
            return left(&format!("the file of a blob of no transaction: {file}"));
        }
    }
    Ok(())
}

/// What was set aside is in one of the files beside, and its blobs somewhere.
async fn look_aside(story: &Story, root: &Path, base: &Base) -> Result<(), String> {
    if base.aside.is_empty() {
        return Ok(());
    }
    let wanted: Vec<&String> = base.aside.iter().map(|tid| &story.texts[tid]).collect();
    let mut seen = Vec::new();
    let beside = root.join(&story.data);
    let beside = beside.parent().unwrap();
    for entry in std::fs::read_dir(beside).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let is_data = name.starts_with("Data.fs.aside-");
        if !is_data || name.contains(".index") || name.contains(".lock") {
            continue;
        }
        // In a folder of its own, so that nothing is left beside.
        let copy = examine::folder();
        std::fs::copy(beside.join(&name), data_fs(&copy)).unwrap();
        let storage = FileStorage::open(&data_fs(&copy), FileOptions::default()).await;
        let storage = storage.map_err(|fault| format!("{name} is not opened: {fault}"))?;
        let found = read(&storage).await?;
        storage.close().await;
        if found.texts.iter().eq(wanted.iter().copied()) {
            let mut files = BTreeMap::new();
            for entry in std::fs::read_dir(root).unwrap() {
                let path = entry.unwrap().path();
                if path.to_str().unwrap().contains("blobs") && path.is_dir() {
                    files.extend(oracle::blobs(&path));
                }
            }
            for (oid, tid, content) in &story.blobs {
                let is = |(name, bytes): (&String, &Vec<u8>)| {
                    oracle::blob_name(name) == (Oid(*oid), Tid(*tid)) && bytes == content.as_bytes()
                };
                if base.aside.contains(tid) && !files.iter().any(is) {
                    return Err(format!("the blob of {oid} in {tid:x} was not set aside"));
                }
            }
            return Ok(());
        }
        seen.push((name, found.texts));
    }
    Err(format!("what was taken back is not beside: {seen:#?}"))
}

/// Looks at one state, as the module says.
async fn look(story: &Story, look: &Look<'_>, expected: &Expected) -> Result<(), String> {
    let root = look.root;
    let storage = open_at(story, root).await?;
    let found = read(&storage).await?;
    let is = |base: &Base, at: usize, tid| story.text(base, tid) == found.texts[at];
    let base = expected.find(is, found.texts.len()).ok_or_else(|| {
        let (there, expected) = (&found.texts, expected.text());
        format!("the history is none of those that may be:\n{there:#?}{expected}")
    })?;
    read_blobs(story, &storage, &found).await?;
    if look.choice.in_order {
        look_for_leftovers(story, root, &found)?;
    }
    look_aside(story, root, base).await?;
    // It goes on.
    let mut ops = vec![store(5000, Tid::ZERO, b"new")];
    if story.blob_dir.is_some() {
        ops.push(store_blob(5001, Tid::ZERO, b"new"));
    }
    let tid = commit_ops(&storage, ops).await;
    storage.close().await;
    let storage = open_at(story, root).await?;
    let again = read(&storage).await?;
    if again.texts[..again.texts.len() - 1] != found.texts {
        return Err("opened again it has another history".to_owned());
    }
    if again.history.last().map(|txn| txn.tid) != Some(tid) {
        return Err("what was committed after the crash is not there".to_owned());
    }
    read_blobs(story, &storage, &again).await?;
    storage.close().await;
    Ok(())
}

/// Crashes while a state is opened.
async fn look_again(
    story: &Story,
    one: &Look<'_>,
    expected: &Expected,
    counts: &mut Totals,
) -> Result<(), String> {
    disown(story, one.root);
    let log = {
        let watch = Watch::begin(one.root, None);
        let storage = open_at(story, one.root).await?;
        let log = watch.log();
        storage.close().await;
        log
    };
    let seed = one.choice.entries as u64;
    for choice in Choices::of(&log, seed, |_| 0).take(AGAIN, seed) {
        let folder = examine::folder();
        let root = std::fs::canonicalize(folder.path()).unwrap();
        choice.state(&log).make(&root);
        let in_order = choice.in_order && one.choice.in_order;
        let choice_text = || {
            let lines: Vec<String> = (0..choice.entries).map(|number| log.line(number)).collect();
            let lines = lines.join("\n  ");
            format!("while it was opened, {}\n  {lines}", choice.text(&log))
        };
        let mut again = choice.clone();
        again.in_order = in_order;
        let state = Look {
            root: &root,
            choice: &again,
            number: one.number,
        };
        disown(story, &root);
        let _watch = Watch::begin(&root, None);
        let looked = look(story, &state, expected).await;
        looked.map_err(|why| format!("{why}\n({})", choice_text()))?;
        counts.again += 1;
    }
    Ok(())
}

/// What was looked at, beside the states themselves.
#[derive(Debug, Default)]
struct Totals {
    again: usize,
    python: usize,
    python_refuses: usize,
}

/// Looks at the states of some work.
fn examine(
    case: &Case<Story>,
    most: usize,
    mut python: Option<&mut Oracle>,
) -> Result<(Counts, Totals), Failure> {
    let seed = examine::seed();
    let story = &case.story;
    let mut totals = Totals::default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let stage = |entries| story.stage(entries) as u64;
    let counts = case.examine(most, seed, stage, |one| {
        let expected = story.at(one.choice.entries);
        if is_absent(story, one.root, &expected)? {
            return Ok(());
        }
        if let Some(python) = &mut python
            && one.number % PYTHON_EVERY == 0
        {
            if python_looks(story, one, &expected, python)? {
                totals.python += 1;
            } else {
                totals.python_refuses += 1;
            }
        }
        if one.number % AGAIN_EVERY == 1 {
            let copy = examine::folder();
            let root = std::fs::canonicalize(copy.path()).unwrap().join("copy");
            super::crash::copy_folder(one.root, &root);
            let copied = Look {
                root: &root,
                ..*one
            };
            runtime.block_on(look_again(story, &copied, &expected, &mut totals))?;
        }
        disown(story, one.root);
        let _watch = Watch::begin(one.root, None);
        runtime.block_on(look(story, one, &expected))
    });
    counts.map(|counts| (counts, totals))
}

/// Does some work, and looks at all that a crash may leave of it.
fn check(name: &str, work: impl FnOnce(Option<Mistake>) -> Case<Story>) {
    let repeated = Case::repeated(name);
    let is_repeated = repeated.is_some();
    let case = repeated.unwrap_or_else(|| work(None));
    let began = std::time::Instant::now();
    let mut python = Oracle::start();
    let most = examine::most(STATES);
    let (counts, totals) =
        examine(&case, most, Some(&mut python)).unwrap_or_else(|failure| panic!("{failure}"));
    eprintln!(
        "crash states of {name}: {} steps, {} states, {} checked ({} in order), \
         {} of crashes while opening, Python: {} read, {} refused; {} ms",
        counts.entries,
        counts.states,
        counts.checked,
        counts.in_order,
        totals.again,
        totals.python,
        totals.python_refuses,
        began.elapsed().as_millis(),
    );
    if is_repeated {
        return;
    }
    // It is not nothing that was looked at: a watch that records no steps finds no mistake either.
    assert!(counts.entries >= 20 && counts.states >= 100, "{counts:?}");
    assert!(counts.checked >= most.min(counts.states), "{counts:?}");
    assert!(2 * counts.in_order >= counts.checked, "{counts:?}");
    if most >= STATES {
        assert!(totals.again * AGAIN_EVERY >= counts.checked, "{totals:?}");
        assert!(
            2 * totals.python * PYTHON_EVERY >= counts.checked,
            "{totals:?}"
        );
    }
}

#[test]
fn of_commits() {
    check("commits", work::commits);
}

#[test]
fn of_blobs() {
    check("blobs", work::blobs);
}

#[test]
fn of_packing() {
    check("packing", |mistake| work::packing(false, mistake));
}

#[test]
fn of_packing_and_keeping_the_old_file() {
    check("packing and keeping", |mistake| {
        work::packing(true, mistake)
    });
}

#[test]
fn of_taking_back() {
    check("taking back", |mistake| work::rewind(false, mistake));
}

#[test]
fn of_taking_back_blobs() {
    check("taking back blobs", |mistake| work::rewind(true, mistake));
}

#[test]
fn of_setting_aside() {
    check("setting aside", work::set_aside);
}

#[test]
fn of_restoring() {
    check("restoring", work::restore);
}

#[test]
fn of_cutting_what_was_not_finished() {
    check("cutting", work::cutting);
}

#[test]
fn of_a_backup() {
    check("backup", |mistake| work::backup(true, mistake));
}
