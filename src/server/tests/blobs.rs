//! Blobs: brought by a client in chunks or by name, and sent to it.

use std::path::Path;

use super::full::Full;
use super::late::Late;
use super::*;
use crate::storage::BlobDirectory;
use crate::wire::WireError;
use crate::zodb::Answer;

/// A server whose uploads lie in a folder of its own.
struct Uploads {
    house: House,
    folder: tempfile::TempDir,
}

impl Uploads {
    fn of(storage: impl Storage) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let house = House::changed(storage, ServerOptions::default(), |served| {
            served.with_uploads(folder.path())
        });
        Uploads { house, folder }
    }

    fn files(&self) -> usize {
        std::fs::read_dir(self.folder.path()).unwrap().count()
    }
}

fn end(id: i64, oid: u64, serial: Tid, data: &'static [u8]) -> Call {
    Call::StoreBlobEnd {
        oid: Oid(oid),
        serial,
        data: Bytes::from_static(data),
        txn: txn(id),
    }
}

fn shared(id: i64, oid: u64, file: &str) -> Call {
    Call::StoreBlobShared {
        oid: Oid(oid),
        serial: Tid::ZERO,
        data: Bytes::from_static(b"record"),
        file: file.to_owned(),
        txn: txn(id),
    }
}

fn send(oid: u64, serial: Tid) -> Call {
    Call::SendBlob {
        oid: Oid(oid),
        serial,
    }
}

impl Client {
    /// Uploads as Python's client does: the record once by itself, and again with the file.
    async fn upload(&mut self, oid: u64, serial: Tid, content: &[u8]) {
        self.store(1, oid, serial, b"record").await;
        self.tell(Call::StoreBlobStart).await;
        for chunk in content.chunks(59_000) {
            let chunk = Bytes::copy_from_slice(chunk);
            self.tell(Call::StoreBlobChunk { chunk }).await;
        }
        self.tell(end(1, oid, serial, b"record")).await;
    }

    async fn finish(&mut self) -> Tid {
        match self.call(finish(1)).await {
            Reply::Tid(tid) => tid,
            other => panic!("not finished: {other:?}"),
        }
    }

    /// Fetches a blob; everything of it comes before the reply, in order.
    async fn fetch(&mut self, oid: u64, serial: Tid) -> Vec<u8> {
        let id = self.ask(send(oid, serial)).await;
        let (before, reply) = self.hear_until(&id).await;
        assert_eq!(reply, Reply::None);
        content_of(before, Oid(oid), serial)
    }
}

/// The content of a blob out of what was said of it.
fn content_of(said: Vec<Said>, oid: Oid, serial: Tid) -> Vec<u8> {
    let mut said = said.into_iter();
    let start = Push::ReceiveBlobStart { oid, serial };
    assert_eq!(said.next(), Some(Said::Push(start)));
    let mut content = Vec::new();
    for said in said.by_ref() {
        match said {
            Said::Push(Push::ReceiveBlobChunk {
                oid: of,
                serial: at,
                chunk,
            }) => {
                assert_eq!((of, at), (oid, serial));
                content.extend_from_slice(&chunk);
            }
            said => {
                let stop = Push::ReceiveBlobStop { oid, serial };
                assert_eq!(said, Said::Push(stop));
                break;
            }
        }
    }
    assert_eq!(said.next(), None);
    content
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|number| (number / 7) as u8).collect()
}

#[tokio::test]
async fn a_blob_comes_back_as_it_was_brought() {
    let uploads = Uploads::of(Full::new());
    for dialect in [Dialect::Pickle, Dialect::Msgpack] {
        let mut client = uploads.house.connect(dialect).await;
        client.register("main", false).await;
        for (oid, size) in [(1, 0), (2, 1), (3, 59_000), (4, 3_000_001)] {
            let oid = oid + 10 * dialect.version().len() as u64 * u64::from(dialect.version()[0]);
            let content = bytes(size);
            client.begin(1).await;
            client.upload(oid, Tid::ZERO, &content).await;
            assert_eq!(client.call(vote(1)).await, Reply::Voted(vec![]));
            let tid = client.finish().await;
            assert!(client.fetch(oid, tid).await == content, "{size} bytes");
            assert_eq!(client.load(oid).await.data.as_ref(), b"record");
        }
    }
}

#[tokio::test]
async fn a_client_that_sends_faster_than_the_disk_takes_is_taken_up_again() {
    let folder = tempfile::tempdir().unwrap();
    let options = ServerOptions {
        transaction_bytes: 100_000,
        ..ServerOptions::default()
    };
    let mut house = House::changed(Full::new(), options, |served| {
        served.with_uploads(folder.path())
    });
    // Everything is there before the first of it is taken.
    house.pipe = 64 << 20;
    let content = bytes(40_000_000);
    let mut client = house.client().await;
    client.begin(1).await;
    client.upload(1, Tid::ZERO, &content).await;
    assert_eq!(client.call(vote(1)).await, Reply::Voted(vec![]));
    let tid = client.finish().await;
    assert!(client.fetch(1, tid).await == content);
}

#[tokio::test]
async fn what_is_not_finished_leaves_no_file() {
    let uploads = Uploads::of(Full::new());
    let content = bytes(2_000_000);
    // Aborted before and after the vote, and half-way.
    let mut client = uploads.house.client().await;
    client.begin(1).await;
    client.upload(1, Tid::ZERO, &content).await;
    assert_eq!(client.call(abort(1)).await, Reply::None);
    assert_eq!(uploads.files(), 0);
    client.begin(1).await;
    client.upload(1, Tid::ZERO, &content).await;
    assert_eq!(client.call(vote(1)).await, Reply::Voted(vec![]));
    assert_eq!(uploads.files(), 1);
    assert_eq!(client.call(abort(1)).await, Reply::None);
    assert_eq!(uploads.files(), 0);
    client.begin(1).await;
    client.tell(Call::StoreBlobStart).await;
    assert_eq!(client.call(abort(1)).await, Reply::None);
    // Who leaves half-way, with one that is whole besides.
    client.begin(1).await;
    client.upload(1, Tid::ZERO, &content).await;
    client.tell(Call::StoreBlobStart).await;
    let chunk = Bytes::from(content);
    client.tell(Call::StoreBlobChunk { chunk }).await;
    until("two files are there", || uploads.files() == 2).await;
    client.leave().await;
    until("they are removed", || uploads.files() == 0).await;
}

#[tokio::test]
async fn one_blob_is_uploaded_at_a_time() {
    let uploads = Uploads::of(Full::new());
    let stray = Call::StoreBlobChunk {
        chunk: Bytes::from_static(b"x"),
    };
    let outside = [vec![stray.clone()], vec![Call::StoreBlobStart]];
    for calls in outside {
        let mut client = uploads.house.client().await;
        for call in calls {
            client.tell(call).await;
        }
        client.is_closed().await;
    }
    let within = [
        vec![stray],
        vec![end(1, 1, Tid::ZERO, b"record")],
        vec![Call::StoreBlobStart, Call::StoreBlobStart],
    ];
    for calls in within {
        let mut client = uploads.house.client().await;
        client.begin(1).await;
        for call in calls {
            client.tell(call).await;
        }
        client.is_closed().await;
    }
    until("nothing is left", || uploads.files() == 0).await;
}

#[tokio::test]
async fn a_folder_that_takes_nothing_is_told_by_the_vote() {
    let uploads = Uploads::of(Full::new());
    let mut client = uploads.house.client().await;
    std::fs::remove_dir(uploads.folder.path()).unwrap();
    client.begin(1).await;
    client.upload(1, Tid::ZERO, b"content").await;
    let reply = client.call(vote(1)).await;
    assert!(
        matches!(&reply, Reply::Error(WireError::Storage(text)) if text.contains("could not take a blob")),
        "{reply:?}"
    );
    std::fs::create_dir(uploads.folder.path()).unwrap();
    client.begin(1).await;
    client.upload(1, Tid::ZERO, b"content").await;
    assert_eq!(client.call(vote(1)).await, Reply::Voted(vec![]));
}

#[tokio::test]
async fn a_storage_without_blobs_says_so_in_the_vote() {
    let uploads = Uploads::of(Late::new());
    let mut client = uploads.house.client().await;
    let unsupported = Reply::Error(WireError::Answer(Answer::Other {
        class: "ZODB.POSException.Unsupported".to_owned(),
        text: "this storage does not support blobs".to_owned(),
    }));
    client.begin(1).await;
    client.upload(1, Tid::ZERO, &bytes(100_000)).await;
    assert_eq!(client.call(vote(1)).await, unsupported);
    assert_eq!(uploads.files(), 0);
    assert_eq!(client.call(send(1, Tid(1))).await, unsupported);
    client.commit(2, Tid::ZERO, b"data").await;
}

#[tokio::test]
async fn a_blob_in_conflict_is_told_once_and_keeps_its_file_unless_another_is_brought() {
    let storage = Full::new();
    let uploads = Uploads::of(storage.clone());
    let mut client = uploads.house.client().await;
    let mut serial = client.commit(1, Tid::ZERO, b"first").await;
    for another in [None, Some(b"another".as_slice())] {
        let current = client.commit(1, serial, b"others").await;
        client.begin(1).await;
        client.upload(1, serial, b"content").await;
        let Reply::Conflicts(conflicts) = client.call(vote(1)).await else {
            panic!("no conflict");
        };
        assert_eq!(conflicts.len(), 1);
        assert_eq!(
            (conflicts[0].committed, conflicts[0].read),
            (current, serial)
        );
        // The client resolves it, as Python's does, and may bring the file again.
        client.store(1, 1, current, b"resolved").await;
        if let Some(content) = another {
            client.upload(1, current, content).await;
        }
        assert_eq!(client.call(vote(1)).await, Reply::Voted(vec![]));
        serial = client.finish().await;
        let expected = another.unwrap_or(b"content");
        assert_eq!(client.fetch(1, serial).await, expected);
    }
    drop((client, uploads));
}

#[tokio::test]
async fn what_is_not_there_is_a_key_error_and_the_connection_stays() {
    let uploads = Uploads::of(Full::new());
    let mut client = uploads.house.client().await;
    let reply = client.call(send(5, Tid(5))).await;
    let missing = Reply::Error(WireError::Answer(Answer::NoSuchObject(Oid(5))));
    assert_eq!(reply, missing);
    assert_eq!(client.call(Call::Ping).await, Reply::None);
}

#[tokio::test]
async fn other_calls_are_answered_while_a_blob_is_sent_and_memory_is_bounded() {
    let storage = Full::new();
    let mut uploads = Uploads::of(storage.clone());
    uploads.house.pipe = 1 << 10;
    let content = bytes(5_000_000);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &content).unwrap();
    let blob = crate::zodb::Blob::kept(file.path()).unwrap();
    for oid in 1..=9 {
        storage
            .blobs
            .lock()
            .insert((Oid(oid), Tid(7)), blob.clone());
    }
    let mut client = uploads.house.client().await;
    let id = client.ask(send(1, Tid(7))).await;
    assert!(matches!(
        client.hear().await,
        Said::Push(Push::ReceiveBlobStart { .. })
    ));
    let pinged = client.ask(Call::Ping).await;
    let (mut before, _) = client.hear_until(&pinged).await;
    assert!(
        before.len() < 5_000_000 / 59_000,
        "the ping waited for the blob"
    );
    let (rest, reply) = client.hear_until(&id).await;
    assert_eq!(reply, Reply::None);
    before.extend(rest);
    let (oid, serial) = (Oid(1), Tid(7));
    before.insert(0, Said::Push(Push::ReceiveBlobStart { oid, serial }));
    assert!(content_of(before, oid, serial) == content);

    // Many at once, one of them twice: each is said whole, and none is mixed with itself.
    let mut ids = Vec::new();
    for oid in [1, 2, 3, 1, 4, 5, 6, 7, 8, 9] {
        ids.push(client.ask(send(oid, Tid(7))).await);
    }
    let mut open: Vec<Oid> = Vec::new();
    let mut replies = 0;
    while replies < ids.len() {
        match client.hear().await {
            Said::Push(Push::ReceiveBlobStart { oid, .. }) => {
                assert!(!open.contains(&oid), "{oid} is under way");
                open.push(oid);
                assert!(open.len() <= 4);
            }
            Said::Push(Push::ReceiveBlobStop { oid, .. }) => open.retain(|one| *one != oid),
            Said::Push(Push::ReceiveBlobChunk { oid, .. }) => assert!(open.contains(&oid)),
            Said::Reply(_, Reply::None) => replies += 1,
            said => panic!("{said:?}"),
        }
    }
}

/// A server with a directory that clients write into.
fn with_shared_blobs(storage: Full, root: &Path) -> (House, Arc<BlobDirectory>) {
    let directory = Arc::new(BlobDirectory::open(root).unwrap());
    let served = Arc::clone(&directory);
    let house = House::changed(storage, ServerOptions::default(), |one| {
        one.with_shared_blobs(served)
    });
    (house, directory)
}

/// A file in the folder of a blob, as Python's client leaves it there.
fn put(directory: &BlobDirectory, oid: u64, name: &str, content: &[u8]) -> std::path::PathBuf {
    let folder = directory.folder(Oid(oid));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

#[tokio::test]
async fn a_file_in_the_shared_folder_is_the_blob_and_is_removed_when_aborted() {
    let root = tempfile::tempdir().unwrap();
    let storage = Full::new();
    let (house, directory) = with_shared_blobs(storage.clone(), root.path());
    let mut client = house.client().await;
    let path = put(&directory, 1, "0x03abc.tmp-", b"content");
    client.begin(1).await;
    client.tell(shared(1, 1, "0x03abc.tmp-")).await;
    assert_eq!(client.call(vote(1)).await, Reply::Voted(vec![]));
    let tid = client.finish().await;
    assert_eq!(client.fetch(1, tid).await, b"content");
    storage.blobs.lock().clear();
    assert!(!path.exists(), "it goes with its last handle");

    let path = put(&directory, 2, "x.tmp", b"content");
    client.begin(1).await;
    client.tell(shared(1, 2, "x.tmp")).await;
    assert_eq!(client.call(abort(1)).await, Reply::None);
    assert!(!path.exists());

    // What is not there, and what is no file, is told by the vote.
    let outside = tempfile::NamedTempFile::new().unwrap();
    let link = directory.folder(Oid(2)).join("link.tmp");
    std::os::unix::fs::symlink(outside.path(), link).unwrap();
    for name in ["missing.tmp", "link.tmp"] {
        client.begin(1).await;
        client.tell(shared(1, 2, name)).await;
        let reply = client.call(vote(1)).await;
        assert!(
            matches!(&reply, Reply::Error(WireError::Storage(text)) if text.contains("could not take a blob")),
            "{reply:?}"
        );
    }
    assert!(outside.path().exists());
}

#[tokio::test]
async fn names_that_lead_elsewhere_and_servers_without_a_folder_end_the_connection() {
    let root = tempfile::tempdir().unwrap();
    let (house, directory) = with_shared_blobs(Full::new(), root.path());
    let path = put(&directory, 2, "x.tmp", b"content");
    for name in ["../x.tmp", "/etc/x.tmp", "0x03.blob", ""] {
        let mut client = house.client().await;
        client.begin(1).await;
        client.tell(shared(1, 1, name)).await;
        client.is_closed().await;
    }
    let house = House::of(Full::new());
    let mut client = house.client().await;
    client.begin(1).await;
    client.tell(shared(1, 2, "x.tmp")).await;
    client.is_closed().await;
    assert!(path.exists());
}

#[tokio::test]
async fn an_empty_blob_is_a_file_and_is_counted_as_one() {
    let options = ServerOptions {
        max_transaction_bytes: 20_000,
        ..ServerOptions::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let house = House::changed(Full::new(), options, |served| {
        served.with_uploads(folder.path())
    });
    let mut client = house.client().await;
    client.begin(1).await;
    for oid in 1..=5 {
        client.upload(oid, Tid::ZERO, b"").await;
    }
    let reply = client.call(vote(1)).await;
    let Reply::Error(WireError::Storage(text)) = &reply else {
        panic!("not refused: {reply:?}");
    };
    assert!(text.contains("limits.transaction"), "{text}");
    // One is less than that.
    client.begin(1).await;
    client.upload(1, Tid::ZERO, b"").await;
    assert_eq!(client.call(vote(1)).await, Reply::Voted(vec![]));
}

/// Removing many files takes long: that is left to a thread, for which nobody waits.
#[test]
fn the_files_of_many_blobs_are_removed_by_the_way() {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().max_blocking_threads(1).build();
    runtime.unwrap().block_on(async {
        let uploads = Uploads::of(Full::new());
        let mut client = uploads.house.client().await;
        let mut other = uploads.house.client().await;
        client.begin(1).await;
        for oid in 1..=40 {
            client.upload(oid, Tid::ZERO, b"x").await;
        }
        until("all are there", || uploads.files() == 40).await;
        // The last of them is stored when the next call is answered.
        until("all are stored", || uploads.house.counters().stores >= 40).await;
        let (release, held) = std::sync::mpsc::channel::<()>();
        let holding = crate::task::blocking(move || held.recv());
        assert_eq!(client.call(abort(1)).await, Reply::None);
        assert_eq!(uploads.files(), 40);
        let removals = &uploads.house.shared.removals;
        assert_eq!(removals.len(), 1, "it has an owner");
        other.commit(1, Tid::ZERO, b"served").await;
        drop(release);
        until("they are gone", || uploads.files() == 0).await;
        until("the task is gone", || removals.is_empty()).await;
        assert!(holding.await.unwrap().is_err());
    });
}
