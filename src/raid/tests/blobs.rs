//! Blobs: committed, read, shared, recovered.

use std::io::Write;
use std::os::unix::fs::FileExt;

use super::*;
use crate::raid::blobs::Blobs;
use crate::storage::file::{FileOpener, FileOptions};
use crate::storage::{Answer, BlobDirectory, Capabilities, Description, StorageError};
use crate::zodb::Blob;

const RECORD: &[u8] = b"\x80\x03cZODB.blob\nBlob\nq\x01.\x80\x03N.";

pub(super) fn blob(folder: &TempDir, text: &str) -> Blob {
    let mut file = tempfile::NamedTempFile::new_in(folder.path()).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    Blob::temporary(file.into_temp_path()).unwrap()
}

fn content(blob: &Blob) -> String {
    let mut content = vec![0; blob.len() as usize];
    blob.open().unwrap().read_exact_at(&mut content, 0).unwrap();
    String::from_utf8(content).unwrap()
}

/// As a ZEO client does it: the record, and the record again with the file.
pub(super) fn both(oid: u64, serial: Tid, blob: Blob) -> Vec<Op> {
    let (oid, data) = (Oid(oid), crate::zodb::Payload::from(RECORD));
    let record = data.clone();
    let store = Op::Store {
        oid,
        serial,
        data: record,
    };
    let store_blob = Op::StoreBlob {
        oid,
        serial,
        data,
        blob,
    };
    vec![store, store_blob]
}

pub(super) async fn commit_blob(rig: &Rig, oid: u64, serial: Tid, text: &str) -> Tid {
    let ops = both(oid, serial, blob(&rig.folder, text));
    commit_ops(&rig.array, ops).await.unwrap()
}

async fn read(rig: &Rig, oid: u64, serial: Tid) -> String {
    content(&rig.array.load_blob(Oid(oid), serial).await.unwrap())
}

/// The files that a member holds, with their transactions.
fn held(member: &MemoryOpener) -> Vec<(Tid, String)> {
    let transactions = member.transactions();
    let files = transactions.iter().flat_map(|txn| {
        let blobs = txn.records.iter().filter_map(|record| record.blob.as_ref());
        blobs.map(|blob| (txn.tid, content(blob)))
    });
    files.collect()
}

fn shared(with_members: bool) -> impl FnOnce(&mut ArrayOptions) {
    move |options| {
        let folder = options.spool.folder.join("shared");
        options.shared_blobs = Some(SharedBlobs {
            folder,
            with_members,
        });
    }
}

fn folder(rig: &Rig) -> BlobDirectory {
    BlobDirectory::open(rig.folder.path().join("shared")).unwrap()
}

#[tokio::test]
async fn members_hold_a_blob_once_and_any_of_them_gives_it() {
    let rig = Rig::new().await;
    assert!(rig.array.capabilities().blobs);
    let first = commit_blob(&rig, 1, Tid::ZERO, "one").await;
    let second = commit_blob(&rig, 1, first, "two").await;
    for member in &rig.members {
        assert_eq!(
            held(member),
            [(first, "one".into()), (second, "two".into())]
        );
        assert_eq!(member.transactions()[0].records.len(), 1);
    }
    for (member, serial, text) in [(0, first, "one"), (1, second, "two")] {
        let closed = Fault::Closed("test".into());
        rig.members[member].faults().fail(Moment::LoadBlob, closed);
        assert_eq!(read(&rig, 1, serial).await, text);
    }
    rig.same_histories();
    let missing = rig.array.load_blob(Oid(1), second.next()).await;
    assert!(missing.unwrap_err().to_string().contains("no object"));
}

#[tokio::test]
async fn a_blob_that_one_member_does_not_have_is_asked_of_the_others() {
    let rig = Rig::new().await;
    let tid = commit_blob(&rig, 1, Tid::ZERO, "one").await;
    for member in &rig.members[..2] {
        member.tamper(|history| history[0].records[0].blob = None);
    }
    assert_eq!(read(&rig, 1, tid).await, "one");
    assert_eq!(rig.array.report().state, ArrayState::Optimal);
}

#[tokio::test]
async fn who_asks_for_the_same_blob_waits_for_the_same_and_may_leave() {
    let rig = Rig::new().await;
    let tid = commit_blob(&rig, 1, Tid::ZERO, "one").await;
    let gates: Vec<_> = rig
        .members
        .iter()
        .map(|m| m.faults().hold(Moment::LoadBlob))
        .collect();
    let mut leaves = Box::pin(rig.array.load_blob(Oid(1), tid));
    assert!(futures_util::poll!(&mut leaves).is_pending());
    let loads = async { tokio::join!(read(&rig, 1, tid), read(&rig, 1, tid)) };
    let others = async {
        // The one who fetches leaves, and another goes on.
        drop(leaves);
        drop(gates);
    };
    let ((one, two), ()) = tokio::join!(loads, others);
    assert_eq!((one.as_str(), two.as_str()), ("one", "one"));
    for member in &rig.members {
        let closed = Fault::Closed("test".into());
        member.faults().fail(Moment::LoadBlob, closed);
    }
    assert_eq!(read(&rig, 1, tid).await, "one", "it was kept");
}

#[tokio::test]
async fn a_blob_that_takes_long_is_waited_for_while_its_member_answers() {
    let rig = Rig::with(|options| options.member_timeout = Duration::from_millis(50)).await;
    let tid = commit_blob(&rig, 1, Tid::ZERO, "one").await;
    let gates: Vec<_> = rig
        .members
        .iter()
        .map(|m| m.faults().hold(Moment::LoadBlob))
        .collect();
    let released = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(gates);
    };
    let (text, ()) = tokio::join!(read(&rig, 1, tid), released);
    assert_eq!(text, "one");
    assert_eq!(rig.array.report().state, ArrayState::Optimal);
}

#[tokio::test]
async fn without_blobs_in_every_member_there_are_none() {
    let rig = Rig::of(MemoryOpener::without_blobs, |_| {}).await;
    assert!(!rig.array.capabilities().blobs);
    let ops = both(1, Tid::ZERO, blob(&rig.folder, "one"));
    let refused = commit_ops(&rig.array, ops).await.unwrap_err();
    assert_eq!(refused.to_string(), "this storage does not support blobs");
    assert_eq!(rig.array.report().state, ArrayState::Optimal);
}

#[tokio::test]
async fn a_shared_folder_has_the_file_before_the_finish_and_not_after_an_abort() {
    for with_members in [false, true] {
        let rig = Rig::with(shared(with_members)).await;
        let mut transaction = rig.array.begin(TxnMeta::default(), None).await.unwrap();
        for op in both(1, Tid::ZERO, blob(&rig.folder, "one")) {
            transaction.store(op).await.unwrap();
        }
        let Vote::Ready(voted) = transaction.vote().await.unwrap() else {
            panic!("a conflict")
        };
        let tid = voted.tid().unwrap();
        let found = folder(&rig).find(Oid(1), tid).unwrap().unwrap();
        assert_eq!(content(&found), "one");
        drop(voted);
        let gone = async {
            while folder(&rig).find(Oid(1), tid).unwrap().is_some() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), gone)
            .await
            .unwrap();
        let tid = commit_blob(&rig, 1, Tid::ZERO, "two").await;
        assert!(folder(&rig).find(Oid(1), tid).unwrap().is_some());
        let loaded = rig.array.load_blob(Oid(1), tid).await.unwrap();
        assert!(loaded.path().starts_with(rig.folder.path().join("shared")));
        let theirs = held(&rig.members[0]);
        assert_eq!(theirs.len(), usize::from(!with_members), "{theirs:?}");
        rig.same_histories();
    }
}

/// How many files are ready to be placed in the shared folder, or were.
fn staged(rig: &Rig) -> usize {
    std::fs::read_dir(folder(rig).tmp()).unwrap().count()
}

#[tokio::test]
async fn what_a_client_has_resolved_is_in_the_shared_folder_and_not_what_conflicted() {
    for with_members in [false, true] {
        let rig = Rig::with(shared(with_members)).await;
        let first = commit_blob(&rig, 1, Tid::ZERO, "one").await;
        let mut transaction = rig.array.begin(TxnMeta::default(), None).await.unwrap();
        let mut ops = both(1, Tid::ZERO, blob(&rig.folder, "in conflict"));
        ops.extend(both(2, Tid::ZERO, blob(&rig.folder, "other")));
        for op in ops {
            transaction.store(op).await.unwrap();
        }
        let Vote::Conflicts(mut transaction, conflicts) = transaction.vote().await.unwrap() else {
            panic!("no conflict")
        };
        assert_eq!(conflicts.len(), 1);
        for op in both(1, first, blob(&rig.folder, "resolved")) {
            transaction.store(op).await.unwrap();
        }
        let Vote::Ready(voted) = transaction.vote().await.unwrap() else {
            panic!("another conflict")
        };
        // What nobody else is sent is not copied.
        let ready = if with_members { 0 } else { 2 };
        let unlinked = async {
            while staged(&rig) != ready {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let unlinked = tokio::time::timeout(Duration::from_secs(10), unlinked).await;
        assert!(unlinked.is_ok(), "{} are ready", staged(&rig));
        let tid = voted.finish().await.unwrap();
        for (oid, text) in [(1, "resolved"), (2, "other")] {
            let found = folder(&rig).find(Oid(oid), tid).unwrap().unwrap();
            assert_eq!(content(&found), text);
            assert_eq!(read(&rig, oid, tid).await, text);
        }
        rig.same_histories();
    }
}

#[tokio::test]
async fn of_two_files_of_one_object_the_last_is_in_the_shared_folder_and_given_by_members() {
    for with_members in [false, true] {
        let rig = Rig::with(shared(with_members)).await;
        let mut ops = both(1, Tid::ZERO, blob(&rig.folder, "first"));
        ops.extend(both(1, Tid::ZERO, blob(&rig.folder, "last")));
        let tid = commit_ops(&rig.array, ops).await.unwrap();
        let found = folder(&rig).find(Oid(1), tid).unwrap().unwrap();
        assert_eq!(content(&found), "last");
        if !with_members {
            for member in &rig.members {
                assert_eq!(held(member).last().unwrap().1, "last");
            }
        }
        rig.same_histories();
    }
}

#[tokio::test]
async fn an_undone_blob_is_in_the_shared_folder_as_well() {
    let rig = Rig::with(shared(false)).await;
    let first = commit_blob(&rig, 1, Tid::ZERO, "one").await;
    let second = commit_blob(&rig, 1, first, "two").await;
    let third = commit_blob(&rig, 1, second, "three").await;
    let undo = vec![Op::Undo { tid: third }, Op::Undo { tid: second }];
    let undone = commit_ops(&rig.array, undo).await.unwrap();
    let found = folder(&rig).find(Oid(1), undone).unwrap().unwrap();
    assert_eq!(content(&found), "one");
    let undo = vec![Op::Undo { tid: undone }];
    let again = commit_ops(&rig.array, undo).await.unwrap();
    assert_eq!(
        content(&folder(&rig).find(Oid(1), again).unwrap().unwrap()),
        "three"
    );
    assert_eq!(held(&rig.members[0]).last().unwrap().1, "three");
}

#[tokio::test]
async fn what_is_packed_away_leaves_the_shared_folder_too() {
    for with_members in [false, true] {
        let rig = Rig::with(shared(with_members)).await;
        let first = commit_blob(&rig, 1, Tid::ZERO, "one").await;
        let second = commit_blob(&rig, 1, first, "two").await;
        let other = commit_blob(&rig, 2, Tid::ZERO, "other").await;
        // Of a transaction that is on its way, or whose finish failed: no record names it.
        let (late, lost) = (Tid::MAX, Tid(first.0 - 1));
        let directory = folder(&rig);
        for tid in [late, lost] {
            directory
                .place(Oid(1), tid, &blob(&rig.folder, "?"))
                .unwrap();
        }
        let there = |oid, tid| directory.find(Oid(oid), tid).unwrap().is_some();

        // To a time at which there was only the first.
        rig.array.pack(first.seconds()).await.unwrap();
        assert!(there(1, first) && there(1, second) && there(2, other) && there(1, late));
        rig.array.pack(4e9).await.unwrap();
        assert!(!there(1, first) && !there(1, lost));
        assert!(there(1, second) && there(2, other) && there(1, late));
        assert!(rig.array.load_blob(Oid(1), first).await.is_err());
        assert_eq!(read(&rig, 1, second).await, "two");
        assert!(rig.array.report().state == ArrayState::Optimal);
    }
}

/// Three revisions of a blob; packing to now leaves the last.
async fn three_revisions(rig: &Rig) -> [Tid; 3] {
    let first = commit_blob(rig, 1, Tid::ZERO, "one").await;
    let second = commit_blob(rig, 1, first, "two").await;
    [first, second, commit_blob(rig, 1, second, "three").await]
}

fn there(rig: &Rig, tids: [Tid; 3]) -> [bool; 3] {
    let directory = folder(rig);
    tids.map(|tid| directory.find(Oid(1), tid).unwrap().is_some())
}

/// Packs, and says what became of the shared folder.
async fn pack_folder(rig: &Rig) -> PackOutcome {
    rig.array.pack(4e9).await.unwrap();
    let report = rig.array.pack_report().unwrap();
    let outcome = report.shared_blobs.unwrap();
    let heard = rig.notices.lock().last().unwrap().to_string();
    let told = heard.contains("the shared blob folder: ");
    assert_eq!(told, outcome != PackOutcome::Done, "{heard}");
    outcome
}

#[tokio::test]
async fn a_file_stays_whose_record_only_an_iteration_shows() {
    let rig = Rig::with(shared(true)).await;
    let tids = three_revisions(&rig).await;
    // As a FileStorage answers for what it keeps for an undo only.
    for member in &rig.members {
        let faults = member.faults();
        faults.refuse(Moment::Load, Answer::NoSuchObject(Oid(1)));
    }
    assert_eq!(pack_folder(&rig).await, PackOutcome::Done);
    assert_eq!(there(&rig, tids), [false, false, true]);
}

#[tokio::test]
async fn what_an_undo_points_to_keeps_its_file_in_real_files() {
    let place = tempfile::tempdir().unwrap();
    let mut options = options(&place);
    shared(false)(&mut options);
    let member = |name: &&str| {
        let of_member = place.path().join(name);
        std::fs::create_dir(&of_member).unwrap();
        let options = FileOptions {
            blob_dir: Some(of_member.join("blobs")),
            pack_gc: false,
            ..FileOptions::default()
        };
        MemberSpec {
            name: (*name).to_owned(),
            opener: Arc::new(FileOpener::new(of_member.join("Data.fs"), options)),
            fingerprint: String::new(),
            adopted: false,
        }
    };
    let members = NAMES[..2].iter().map(member).collect();
    let record = Arc::new(FileRecord::new(place.path().join("membership.json")));
    let array = Array::start(options, members, record, Arc::new(|_| {}))
        .await
        .unwrap();
    let serves = async {
        while array.report().serving != Serving::Yes {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), serves)
        .await
        .unwrap();
    let commit = async |serial, text| {
        let ops = both(1, serial, blob(&place, text));
        commit_ops(&array, ops).await.unwrap()
    };
    let undo = async |tid| {
        let undo = vec![Op::Undo { tid }];
        commit_ops(&array, undo).await.unwrap()
    };
    let zero = commit(Tid::ZERO, "zero").await;
    let first = commit(zero, "one").await;
    let second = commit(first, "two").await;
    let third = undo(second).await;
    let fourth = commit(third, "four").await;
    // A number of seconds is not exact: just after it, and before the next.
    array.pack(second.seconds() + 1e-6).await.unwrap();

    let report = array.pack_report().unwrap();
    assert_eq!(report.shared_blobs, Some(PackOutcome::Done));
    // It is there, for the undo, and is not found by its serial any more.
    assert!(array.load_serial(Oid(1), first).await.is_err());
    let directory = BlobDirectory::open(place.path().join("shared")).unwrap();
    let there = [zero, first, second, third, fourth]
        .map(|tid| directory.find(Oid(1), tid).unwrap().is_some());
    assert_eq!(there, [false, true, true, true, true]);
    let undone = undo(fourth).await;
    let file = array.load_blob(Oid(1), undone).await.unwrap();
    assert_eq!(content(&file), "one");
    array.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_file_is_needed_as_long_as_one_member_has_its_record() {
    let rig = Rig::with(shared(true)).await;
    let tids = three_revisions(&rig).await;
    let before = rig.members[2].transactions();
    rig.array.pack(4e9).await.unwrap();
    assert_eq!(there(&rig, tids), [false, false, true]);
    let rest = folder(&rig);
    for tid in &tids[..2] {
        let again = blob(&rig.folder, "again");
        rest.place(Oid(1), *tid, &again).unwrap();
    }
    // One keeps more of the past, and does not find it by its serial.
    let gate = rig.members[2].faults().hold(Moment::Load);
    rig.array.start_pack(4e9).unwrap();
    gate.reached().await;
    rig.members[2].tamper(|history| *history = before[1..].to_vec());
    let faults = rig.members[2].faults();
    faults.refuse(Moment::Load, Answer::NoSuchObject(Oid(1)));
    gate.release();
    rig.until("the pack has ended", |_| {
        let report = rig.array.pack_report();
        report.is_some_and(|pack| pack.ended.is_some())
    })
    .await;
    assert_eq!(there(&rig, tids), [false, true, true]);
}

#[tokio::test]
async fn the_shared_folder_is_not_packed_without_every_member() {
    let rig = Rig::with(shared(true)).await;
    let tids = three_revisions(&rig).await;
    rig.array.disable("c").unwrap();
    let outcome = pack_folder(&rig).await;
    assert!(
        matches!(&outcome, PackOutcome::Skipped(why) if why.starts_with("c is out")),
        "{outcome:?}"
    );
    rig.array.recover("c", Strategy::Missing, None).unwrap();
    rig.optimal().await;
    let what = "test".to_owned();
    let full = Fault::DiskFull { what };
    rig.members[1].faults().fail_once(Moment::Pack, full);
    let outcome = pack_folder(&rig).await;
    assert_eq!(outcome, PackOutcome::Skipped("b was not packed".into()));
    assert_eq!(there(&rig, tids), [true; 3]);
    // The next one does it.
    assert_eq!(pack_folder(&rig).await, PackOutcome::Done);
    assert_eq!(there(&rig, tids), [false, false, true]);
}

#[tokio::test]
async fn a_member_that_is_lost_while_the_shared_folder_is_packed_ends_it() {
    for moment in [Moment::Load, Moment::Iterate] {
        let rig = Rig::with(|options| {
            shared(true)(options);
            options.auto_recover = false;
        })
        .await;
        let tids = three_revisions(&rig).await;
        let lost = Fault::Closed("cable cut".into());
        rig.members[1].faults().fail(moment, lost);
        let outcome = pack_folder(&rig).await;
        assert!(
            matches!(&outcome, PackOutcome::Failed(why) if why.contains("b: ") && why.contains("cable cut")),
            "{outcome:?}"
        );
        assert_eq!(there(&rig, tids), [true; 3]);
        assert_eq!(rig.member("b").state, MemberState::Degraded);
    }
}

#[tokio::test]
async fn who_goes_out_before_a_file_is_removed_keeps_it() {
    let rig = Rig::with(shared(true)).await;
    let tids = three_revisions(&rig).await;
    let gate = rig.members[2].faults().hold(Moment::Iterate);
    rig.array.start_pack(4e9).unwrap();
    gate.reached().await;
    // It has been asked already.
    rig.array.disable("a").unwrap();
    gate.release();
    rig.until("the pack has ended", |_| {
        let report = rig.array.pack_report();
        report.is_some_and(|pack| pack.ended.is_some())
    })
    .await;
    assert_eq!(there(&rig, tids), [true; 3]);
    let outcome = rig.array.pack_report().unwrap().shared_blobs.unwrap();
    assert!(
        matches!(&outcome, PackOutcome::Skipped(why) if why.starts_with("a is out")),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn packing_the_shared_folder_can_be_cancelled_and_that_is_said() {
    let rig = Rig::with(shared(true)).await;
    let tids = three_revisions(&rig).await;
    let gate = rig.members[0].faults().hold(Moment::Iterate);
    rig.array.start_pack(4e9).unwrap();
    gate.reached().await;
    rig.array.cancel_pack().unwrap();
    gate.release();
    rig.until("the pack has ended", |_| {
        let report = rig.array.pack_report();
        report.is_some_and(|pack| pack.ended.is_some())
    })
    .await;
    let report = rig.array.pack_report().unwrap();
    assert!(report.cancelled);
    let cancelled = PackOutcome::Skipped("cancelled".into());
    assert_eq!(report.shared_blobs, Some(cancelled));
    // At most what was being asked for is removed after that.
    assert!(there(&rig, tids)[..2].contains(&true));
}

#[tokio::test]
async fn a_blob_that_was_fetched_and_packed_away_is_given_no_more() {
    let rig = Rig::new().await;
    let first = commit_blob(&rig, 1, Tid::ZERO, "one").await;
    let second = commit_blob(&rig, 1, first, "two").await;
    assert_eq!(read(&rig, 1, first).await, "one");
    // One that is on its way while members are packed.
    let gate = rig.members[0].faults().hold(Moment::Pack);
    rig.array.start_pack(4e9).unwrap();
    gate.reached().await;
    assert_eq!(read(&rig, 1, first).await, "one");
    gate.release();
    rig.until("the pack has ended", |_| {
        let report = rig.array.pack_report();
        report.is_some_and(|pack| pack.ended.is_some())
    })
    .await;
    let gone = rig.array.load_blob(Oid(1), first).await;
    assert!(matches!(
        gone,
        Err(StorageError::Answer(Answer::NoSuchObject(Oid(1))))
    ));
    assert_eq!(read(&rig, 1, second).await, "two");
}

#[tokio::test]
async fn a_folder_that_cannot_be_opened_is_told_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(&folder);
    std::fs::write(folder.path().join("file"), "").unwrap();
    options.shared_blobs = Some(SharedBlobs {
        folder: folder.path().join("file"),
        with_members: false,
    });
    let record = Arc::new(FileRecord::new(folder.path().join("membership.json")));
    let started = Array::start(options, Vec::new(), record, Arc::new(|_| {})).await;
    let Err(error) = started else {
        panic!("it starts")
    };
    assert!(
        error.to_string().contains("the folder of shared blobs"),
        "{error}"
    );
}

#[test]
fn a_file_member_with_blobs_of_its_own_does_not_fit_a_folder_of_all() {
    let folder = tempfile::tempdir().unwrap();
    let open = |with_members| {
        let folder = folder.path().join("shared");
        Blobs::open(Some(&SharedBlobs {
            folder,
            with_members,
        }))
        .unwrap()
    };
    let description = |kind| Description {
        kind,
        location: "Data.fs".into(),
    };
    let can = |blobs| Capabilities {
        pipelined: true,
        rewind: true,
        undo: true,
        blobs,
        pack: true,
        backup: false,
        shared: false,
        read_only: false,
    };
    let all = open(true);
    let reason = all
        .misfit(&description("file"), can(true))
        .unwrap()
        .to_string();
    assert!(
        reason.contains("blobs would be missing from its copy"),
        "{reason}"
    );
    assert!(all.misfit(&description("file"), can(false)).is_none());
    assert!(all.misfit(&description("zeo"), can(true)).is_none());
    assert!(
        open(false)
            .misfit(&description("file"), can(true))
            .is_none()
    );
}

#[tokio::test]
async fn a_recovery_copies_the_files_of_blobs() {
    let rig = Rig::new().await;
    let mut serial = commit_blob(&rig, 1, Tid::ZERO, "0").await;
    rig.array.disable("c").unwrap();
    for n in 1..20 {
        serial = commit_blob(&rig, 1, serial, &n.to_string()).await;
        commit_blob(&rig, 100 + n, Tid::ZERO, "other").await;
    }
    let undo = vec![Op::Undo { tid: serial }];
    commit_ops(&rig.array, undo).await.unwrap();
    rig.array.recover("c", Strategy::Verify, None).unwrap();
    rig.optimal().await;
    assert_eq!(held(&rig.members[2]), held(&rig.members[0]));
    assert_eq!(held(&rig.members[2]).last().unwrap().1, "18");
    rig.same_histories();
}

#[tokio::test]
async fn a_blob_that_differs_or_is_missing_is_found_and_mended() {
    for spoiled in [None, Some("twa"), Some("two and more")] {
        let rig = Rig::new().await;
        let first = commit_blob(&rig, 1, Tid::ZERO, "one").await;
        commit_blob(&rig, 1, first, "two").await;
        rig.array.disable("c").unwrap();
        let spoiled = spoiled.map(|text| blob(&rig.folder, text));
        rig.members[2].tamper(|history| history[1].records[0].blob = spoiled);
        rig.array.recover("c", Strategy::Verify, None).unwrap();
        rig.optimal().await;
        assert_eq!(held(&rig.members[2]), held(&rig.members[0]));
    }
}

#[tokio::test]
async fn a_blob_that_the_array_has_lost_is_no_reason_to_fail_but_is_said() {
    let rig = Rig::new().await;
    let first = commit_blob(&rig, 1, Tid::ZERO, "one").await;
    rig.array.disable("c").unwrap();
    commit_blob(&rig, 1, first, "two").await;
    for member in &rig.members[..2] {
        member.tamper(|history| history[1].records[0].blob = None);
    }
    rig.array.recover("c", Strategy::Verify, None).unwrap();
    rig.optimal().await;
    rig.same_histories();
    assert_eq!(rig.heard("blobs-missing"), 1);
}

#[tokio::test]
async fn a_file_that_another_daemon_packs_away_during_a_recovery_is_not_lost() {
    let rig = Rig::new().await;
    rig.array.disable("b").unwrap();
    rig.array.disable("c").unwrap();
    let first = commit_blob(&rig, 1, Tid::ZERO, "one").await;
    let second = commit_blob(&rig, 1, first, "two").await;
    let gate = rig.members[0].faults().hold(Moment::LoadBlob);
    rig.array.recover("c", Strategy::Missing, None).unwrap();
    gate.reached().await;
    let storage = Arc::clone(&rig.array.0.view().readers[0].storage);
    storage.pack(4e9).await.unwrap();
    gate.release();
    rig.until("c is back", |_| {
        rig.member("c").state == MemberState::Optimal
    })
    .await;
    assert_eq!(rig.heard("blobs-missing"), 0);
    assert!(held(&rig.members[2]).contains(&(second, "two".to_owned())));
}

#[tokio::test]
async fn a_copy_without_a_place_for_blobs_is_not_taken_for_one() {
    let mut rig = Rig::new().await;
    let first = commit(&rig.array, 1, Tid::ZERO, "one").await.unwrap();
    rig.array.disable("c").unwrap();
    commit_blob(&rig, 2, Tid::ZERO, "two").await;
    commit(&rig.array, 1, first, "three").await.unwrap();
    rig.array.shutdown(Duration::from_secs(5)).await.unwrap();
    let poor = rig.members[2].clone().without_blobs();
    rig.members[2] = poor;
    (rig.array, rig.notices) = start(options(&rig.folder), &rig.members, &rig.folder).await;
    rig.until("it serves", |report| report.serving == Serving::Yes)
        .await;
    rig.array.recover("c", Strategy::Missing, None).unwrap();
    rig.until("it says why not", |report| {
        let failed = report.recovery.as_ref().map(|recovery| &recovery.outcome);
        matches!(failed, Some(RecoveryOutcome::Failed { reason, next: Some(next) })
            if reason.contains("has no place to keep them") && next.contains("blob directory"))
    })
    .await;
    assert!(rig.member("c").needs_operator);
}

#[tokio::test]
async fn where_everything_shares_the_folder_a_recovery_copies_records_only() {
    let rig = Rig::with(shared(true)).await;
    rig.array.disable("c").unwrap();
    let tid = commit_blob(&rig, 1, Tid::ZERO, "one").await;
    rig.array.recover("c", Strategy::Verify, None).unwrap();
    rig.optimal().await;
    rig.same_histories();
    assert!(held(&rig.members[2]).is_empty());
    assert_eq!(read(&rig, 1, tid).await, "one");
}
