//! Files that are not as they should be: damaged, torn, of something else, in use.

use super::*;
use crate::storage::file::inspect::Inspection;
use crate::storage::suite::{begin, commit, ready, store, transactions};
use crate::storage::{Fault, StorageError};
use crate::zodb::Op;

/// A file with five transactions of one object each, closed: its bytes, and where each transaction
/// begins.
async fn five(folder: &tempfile::TempDir) -> (Vec<u8>, Vec<usize>) {
    let storage = open(folder).await;
    let mut begins = Vec::new();
    for number in 1..=5u8 {
        begins.push(storage.size().bytes as usize);
        commit(&*storage, &[(number.into(), Tid::ZERO, &[number; 300])]).await;
    }
    storage.close().await;
    (std::fs::read(data_fs(folder)).unwrap(), begins)
}

/// Puts other bytes there, without an index.
fn put(folder: &tempfile::TempDir, bytes: &[u8]) {
    std::fs::write(data_fs(folder), bytes).unwrap();
    drop(std::fs::remove_file(beside(&data_fs(folder), ".index")));
}

async fn is_damaged(folder: &tempfile::TempDir, bytes: &[u8], says: &str) {
    put(folder, bytes);
    match opener(folder).open().await {
        Err(Fault::Damaged(why)) => assert!(why.contains(says), "{why}"),
        Err(other) => panic!("not damaged: {other}"),
        Ok(_) => panic!("damage is not found"),
    }
    assert!(std::fs::read(data_fs(folder)).unwrap() == bytes);
    assert!(!beside(&data_fs(folder), ".tr0").exists());
}

async fn has(folder: &tempfile::TempDir, count: usize) {
    let storage = open(folder).await;
    let there = transactions(&*storage, TidRange::ALL).await;
    assert_eq!(there.len(), count);
    let last = there.last().map_or(Tid::ZERO, |txn| txn.tid);
    assert_eq!(storage.last_tid().await.unwrap(), last);
    storage.close().await;
}

#[tokio::test]
async fn a_file_of_something_else_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    is_damaged(&folder, b"SQLite format 3\0", "not a Data.fs").await;
    is_damaged(&folder, b"FS", "not a Data.fs").await;
    is_damaged(&folder, b"FS29", "not a Data.fs").await;
    is_damaged(&folder, &[0; 5], "not a Data.fs").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_whose_making_a_crash_cut_short_becomes_a_storage() {
    for left in [&[][..], &[0; 4]] {
        let folder = tempfile::tempdir().unwrap();
        put(&folder, left);
        let storage = open(&folder).await;
        commit(&*storage, &[(1, Tid::ZERO, b"a")]).await;
        storage.close().await;
        has(&folder, 1).await;
    }
}

#[tokio::test]
async fn an_empty_file_becomes_a_storage_and_files_of_python_2_are_read() {
    let folder = tempfile::tempdir().unwrap();
    put(&folder, b"");
    has(&folder, 0).await;
    assert_eq!(std::fs::read(data_fs(&folder)).unwrap(), b"FS30");
    let (mut bytes, _) = five(&folder).await;
    bytes[..4].copy_from_slice(b"FS21");
    put(&folder, &bytes);
    has(&folder, 5).await;
    assert_eq!(&std::fs::read(data_fs(&folder)).unwrap()[..4], b"FS21");
}

#[tokio::test]
async fn damage_before_a_finished_transaction_is_told_and_nothing_is_changed() {
    let folder = tempfile::tempdir().unwrap();
    let (bytes, begins) = five(&folder).await;
    let second = begins[1];
    for offset in [
        // a length far too large
        8,
        // a length a little wrong
        15,
        // the status
        16,
        // the length of the user's name
        18,
        // where the record says that the transaction begins
        23 + 24 + 7,
        // the tid of the record
        23 + 8,
        // the length of the data
        23 + 40,
    ] {
        let mut bytes = bytes.clone();
        bytes[second + offset] ^= 0x41;
        is_damaged(&folder, &bytes, &second.to_string()).await;
    }
    // The length at the end of a transaction.
    let mut wrong = bytes.clone();
    wrong[begins[2] - 1] ^= 1;
    is_damaged(&folder, &wrong, &second.to_string()).await;
    // A hole of zeros over a whole transaction.
    let mut hole = bytes.clone();
    hole[begins[1]..begins[2]].fill(0);
    is_damaged(&folder, &hole, &second.to_string()).await;
}

#[tokio::test]
async fn what_was_not_finished_is_cut_and_saved() {
    let folder = tempfile::tempdir().unwrap();
    let (bytes, begins) = five(&folder).await;
    let last = begins[4];
    let mut unfinished = bytes.clone();
    unfinished[last + 16] = b'c';
    let zeros = [&bytes[..last], &[0; 5000]].concat();
    let garbage = [&bytes[..], b"\x81\x02garbage"].concat();
    for (number, (torn, count)) in [
        (unfinished, 4),
        (bytes[..bytes.len() - 1].to_vec(), 4),
        (bytes[..last + 100].to_vec(), 4),
        (bytes[..last + 5].to_vec(), 4),
        (zeros, 4),
        (garbage, 5),
    ]
    .into_iter()
    .enumerate()
    {
        put(&folder, &torn);
        has(&folder, count).await;
        let cut = if count == 5 { bytes.len() } else { last };
        let kept = std::fs::read(data_fs(&folder)).unwrap();
        assert!(kept == bytes[..cut], "case {number}");
        let aside = std::fs::read(beside(&data_fs(&folder), &format!(".tr{number}"))).unwrap();
        assert!(aside == torn[cut..], "case {number}");
    }
}

#[tokio::test]
async fn what_is_made_of_a_file_is_read_by_nobody_else() {
    use std::os::unix::fs::PermissionsExt as _;

    let folder = tempfile::tempdir().unwrap();
    let (bytes, _) = five(&folder).await;
    put(&folder, &bytes[..bytes.len() - 1]);
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(data_fs(&folder), private).unwrap();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode();
    let is_private = |path: &std::path::Path| {
        assert_eq!(mode(path) & 0o777, 0o600, "{}", path.display());
    };
    let storage = open(&folder).await;
    is_private(&beside(&data_fs(&folder), ".tr0"));
    let tids = storage.tids_before(Tid::MAX, 4).await.unwrap();
    for keep in [Some(tids[1]), None] {
        let saved = storage.rewind(keep).await.unwrap();
        is_private(&saved.file.unwrap());
        is_private(&data_fs(&folder));
    }
    storage.close().await;
}

#[tokio::test]
async fn a_damaged_or_foreign_index_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let (bytes, begins) = five(&folder).await;
    let path = beside(&data_fs(&folder), ".index");
    let good = std::fs::read(&path).unwrap();
    for wrong in [
        b"".to_vec(),
        b"garbage".to_vec(),
        good[..good.len() - 5].to_vec(),
        // One position is another object's.
        {
            let mut wrong = good.clone();
            let at = wrong.len() - 8;
            wrong[at] ^= 1;
            wrong
        },
    ] {
        std::fs::write(&path, wrong).unwrap();
        has(&folder, 5).await;
        assert_eq!(std::fs::read(&path).unwrap(), good);
    }
    // An index that is older than the file is completed, one of a longer file is not used.
    std::fs::write(data_fs(&folder), &bytes[..begins[3]]).unwrap();
    has(&folder, 3).await;
    let older = std::fs::read(&path).unwrap();
    std::fs::write(data_fs(&folder), &bytes).unwrap();
    std::fs::write(&path, older).unwrap();
    has(&folder, 5).await;
    assert_eq!(std::fs::read(&path).unwrap(), good);
}

#[tokio::test]
async fn a_file_in_use_is_refused_and_can_be_opened_after_closing() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(&folder).await;
    assert!(matches!(opener(&folder).open().await, Err(Fault::InUse(_))));
    assert!(matches!(
        opener(&folder).set_aside().await,
        Err(Fault::InUse(_))
    ));
    // Also where somebody still holds it.
    first.close().await;
    let second = open(&folder).await;
    // And where it was only dropped.
    let voted = begin(&*second, vec![store(1, Tid::ZERO, b"a")]).await;
    let voted = ready(voted.vote().await.unwrap());
    let tid = voted.finish().await.unwrap();
    drop(second);
    let third = loop {
        match opener(&folder).open().await {
            Ok(storage) => break storage,
            Err(Fault::InUse(_)) => tokio::task::yield_now().await,
            Err(fault) => panic!("{fault}"),
        }
    };
    assert_eq!(third.last_tid().await.unwrap(), tid);
}

#[tokio::test]
async fn a_file_that_is_set_aside_is_kept_and_an_empty_one_takes_its_place() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(
        opener(&folder).set_aside().await.unwrap(),
        SetAside::default()
    );
    let mut files = Vec::new();
    for _ in 0..3 {
        let (bytes, _) = five(&folder).await;
        let aside = opener(&folder).set_aside().await.unwrap();
        assert_eq!(aside.extent.bytes, bytes.len() as u64);
        assert!(aside.unread, "nobody has counted what is in it");
        let file = aside.file.unwrap();
        assert!(std::fs::read(&file).unwrap() == bytes);
        assert!(beside(&file, ".index").exists());
        assert!(!files.contains(&file));
        files.push(file);
        has(&folder, 0).await;
    }
}

#[tokio::test]
async fn damage_within_a_record_is_a_fault_of_the_load() {
    let folder = tempfile::tempdir().unwrap();
    let (mut bytes, begins) = five(&folder).await;
    // The index fits, so only the last transaction is looked at when it is opened.
    bytes[begins[1] + 23 + 7] = 99;
    std::fs::write(data_fs(&folder), &bytes).unwrap();
    let storage = open(&folder).await;
    let answer = storage.load_before(Oid(2), Tid::MAX).await;
    let fault = answer.err().and_then(|error| error.fault().cloned());
    assert!(matches!(fault, Some(Fault::Damaged(_))), "{fault:?}");
    assert!(storage.load_before(Oid(1), Tid::MAX).await.is_ok());
}

#[tokio::test]
async fn damage_before_a_transaction_is_no_answer_about_it() {
    let folder = tempfile::tempdir().unwrap();
    for damaged in 0..2 {
        let (mut bytes, begins) = five(&folder).await;
        let storage = open(&folder).await;
        let mut tids = storage.tids_before(Tid::MAX, 5).await.unwrap();
        tids.reverse();
        let at = begins[damaged];
        bytes[at..at + 23].fill(0xee);
        std::fs::write(data_fs(&folder), &bytes).unwrap();
        // The second is looked for from the beginning; the last, where the first is whole, from the end.
        for wanted in [tids[1], tids[4]] {
            let undo = Op::Undo { tid: wanted };
            let undone = begin(&*storage, vec![undo]).await.vote().await;
            let found = damaged == 1 && wanted == tids[4];
            match undone {
                Ok(_) if found => {}
                Err(StorageError::Fault(Fault::Damaged(_))) if !found => {}
                other => panic!("{damaged} {wanted}: {:?}", other.err()),
            }
        }
        storage.close().await;
        std::fs::remove_file(data_fs(&folder)).unwrap();
        std::fs::remove_file(beside(&data_fs(&folder), ".index")).unwrap();
    }
}

#[tokio::test]
async fn invalidations_reach_back_as_far_as_the_queue_also_after_opening() {
    let folder = tempfile::tempdir().unwrap();
    five(&folder).await;
    let options = FileOptions {
        invalidation_queue: 2,
        ..FileOptions::default()
    };
    let storage = open_file(&data_fs(&folder), options).await;
    let tids = storage.tids_before(Tid::MAX, 5).await.unwrap();
    let since = async |tid| storage.invalidations_since(tid).await.unwrap().1;
    assert_eq!(since(tids[0]).await, Some(vec![]));
    assert_eq!(since(tids[2]).await, Some(vec![Oid(4), Oid(5)]));
    assert_eq!(since(tids[3]).await, None);
    assert_eq!(since(Tid::ZERO).await, None);
}

/// An old ZODB marked what it undid. Nobody looks into it but who reads everything.
#[tokio::test]
async fn a_check_finds_what_an_iteration_cannot_read_of_an_undone_transaction() {
    let folder = tempfile::tempdir().unwrap();
    let (mut bytes, begins) = five(&folder).await;
    bytes[begins[1] + 16] = b'u';
    let mistakes = |bytes: &[u8]| {
        put(&folder, bytes);
        let inspection = Inspection::open(&data_fs(&folder), None).unwrap();
        let found = inspection.read(true, &mut |_| {}).unwrap();
        assert_eq!(found.transactions, 5);
        found.checked.unwrap().mistakes
    };
    assert_eq!(mistakes(&bytes), []);
    has(&folder, 5).await;
    // The record is said to be of another transaction.
    bytes[begins[1] + 23 + 31] ^= 1;
    let mistakes = mistakes(&bytes);
    assert_eq!(mistakes.len(), 1);
    assert_eq!(mistakes[0].at, begins[1] as u64);
    let what = &mistakes[0].what;
    assert!(what.contains("was undone long ago"), "{what}");
    let storage = open(&folder).await;
    let mut all = storage.iterate(TidRange::ALL).await.unwrap();
    assert!(all.next().await.unwrap().is_some());
    assert!(all.next().await.is_err());
    storage.close().await;
}

/// What an iteration gives of the file, in order: a TID, or why there is none.
async fn walked(storage: &dyn Storage) -> Vec<Result<Tid, String>> {
    let mut history = storage.iterate(TidRange::ALL).await.unwrap();
    let mut found = Vec::new();
    loop {
        assert!(found.len() < 20, "it has no end: {found:?}");
        match history.next().await {
            Ok(Some(txn)) => found.push(Ok(txn.tid)),
            Ok(None) => return found,
            Err(error) => {
                found.push(Err(error.to_string()));
                if !history.goes_on() {
                    return found;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_whole_file_is_set_aside_as_it_is_also_where_it_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let (mut bytes, begins) = five(&folder).await;
    let storage = open(&folder).await;
    let mut tids = storage.tids_before(Tid::MAX, 5).await.unwrap();
    tids.reverse();
    bytes[begins[2]..begins[3]].fill(0xee);
    std::fs::write(data_fs(&folder), &bytes).unwrap();
    // A part of it would have to be copied, and nothing is changed where that cannot be.
    let refused = storage.rewind(Some(tids[0])).await;
    assert!(
        matches!(refused, Err(StorageError::Fault(Fault::Damaged(_)))),
        "{refused:?}"
    );
    assert_eq!(std::fs::read(data_fs(&folder)).unwrap(), bytes);
    let saved = storage.rewind(None).await.unwrap();
    assert_eq!((saved.extent.transactions, saved.unread), (2, true));
    assert_eq!(std::fs::read(saved.file.unwrap()).unwrap(), bytes);
    assert_eq!(storage.last_tid().await.unwrap(), Tid::ZERO);
    commit(&*storage, &[(1, Tid::ZERO, b"anew")]).await;
    storage.close().await;
    has(&folder, 1).await;
}

#[tokio::test]
async fn an_iteration_goes_on_behind_what_is_damaged() {
    use std::os::unix::fs::FileExt as _;

    let folder = tempfile::tempdir().unwrap();
    let (bytes, begins) = five(&folder).await;
    let storage = open(&folder).await;
    let file = std::fs::File::options().write(true).open(data_fs(&folder));
    let file = file.unwrap();
    let whole = walked(&*storage).await;
    let tids: Vec<Tid> = whole.iter().map(|one| *one.as_ref().unwrap()).collect();
    assert_eq!(tids.len(), 5);
    // Where, what is written there, and which transactions can be read all the same.
    let hole = vec![0; begins[3] - begins[1]];
    let cases: [(usize, &[u8], &[usize]); 8] = [
        // lengths: far too large, and a little wrong
        (begins[1] + 8, &[0x41], &[0, 2, 3, 4]),
        (begins[1] + 15, &[0x41], &[0, 2, 3, 4]),
        // the length at its end
        (begins[2] - 1, &[0x41], &[0, 2, 3, 4]),
        // the tid of the transaction, and of its record
        (begins[1], &[0x7f], &[0, 2, 3, 4]),
        (begins[1] + 23 + 8, &[0x41], &[0, 2, 3, 4]),
        // the first and the last one
        (begins[0] + 16, &[0x41], &[1, 2, 3, 4]),
        (begins[4] + 23 + 40, &[0x41], &[0, 1, 2, 3]),
        // more than one of them
        (begins[1], &hole, &[0, 3, 4]),
    ];
    for (at, wrong, left) in cases {
        file.write_all_at(wrong, at as u64).unwrap();
        let found = walked(&*storage).await;
        let read: Vec<Tid> = found.iter().filter_map(|one| one.clone().ok()).collect();
        let left: Vec<Tid> = left.iter().map(|index| tids[*index]).collect();
        assert_eq!(read, left, "{at}: {found:?}");
        let damaged = found.iter().filter(|one| one.is_err()).count();
        assert_eq!(damaged, 1, "{at}: {found:?}");
        file.write_all_at(&bytes, 0).unwrap();
    }
    assert_eq!(walked(&*storage).await, whole);
    storage.close().await;
}
