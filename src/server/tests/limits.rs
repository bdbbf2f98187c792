//! What a client may take, and what happens when it takes more: it is told which limit, and nobody else is.

use super::*;
use crate::server::Limit;
use crate::server::admission::{Admission, Source};
use crate::server::limits::Passed;
use crate::server::turned_away;
use crate::storage::memory::{MemoryStorage, Moment};
use crate::storage::suite::commit;
use crate::wire::WireError;

impl House {
    pub(super) fn passed(&self, limit: Limit) -> u64 {
        let mut counts = self.shared.refusals.counts();
        counts
            .find(|(other, _)| *other == limit)
            .expect("it is one")
            .1
    }

    /// Waits, also where time goes by only when nobody does anything.
    async fn until_passed(&self, limit: Limit) {
        let waiting = async {
            while self.passed(limit) == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = timeout(Duration::from_mins(2), waiting).await;
        assert!(waited.is_ok(), "{limit} was not passed");
    }
}

/// The words of an error that a limit's passing is.
#[track_caller]
fn words(reply: Reply) -> String {
    match reply {
        Reply::Error(WireError::Storage(text)) => text,
        other => panic!("no such error: {other:?}"),
    }
}

fn options(change: impl FnOnce(&mut ServerOptions)) -> ServerOptions {
    let mut options = ServerOptions::default();
    change(&mut options);
    options
}

#[tokio::test]
async fn a_record_beyond_the_limit_is_told_by_the_vote_and_the_connection_lives_on() {
    for dialect in [Dialect::Pickle, Dialect::Msgpack] {
        let limits = options(|options| options.max_frame_bytes = 1 << 20);
        let house = House::with(MemoryStorage::new("test"), limits);
        let mut client = house.connect(dialect).await;
        client.register("main", false).await;
        client.begin(1).await;
        let large: &'static [u8] = vec![b'x'; 3 << 20].leak();
        client.store(1, 1, Tid::ZERO, large).await;
        client.store(1, 2, Tid::ZERO, b"small").await;
        let text = words(client.call(vote(1)).await);
        assert!(text.contains("larger than 1MiB (limits.frame)"), "{text}");
        assert_eq!(house.passed(Limit::Frame), 1);
        client.commit(2, Tid::ZERO, b"small").await;
        assert_eq!(house.shared.memory.total(), 0);
        // Outside of a transaction there is nobody who could be told.
        client.store(1, 1, Tid::ZERO, large).await;
        client.is_closed().await;
    }
}

#[tokio::test]
async fn who_has_not_registered_has_little_to_say() {
    let house = House::of(MemoryStorage::new("test"));
    let mut client = house.connect(Dialect::Pickle).await;
    client.raw(&(100_000u32).to_be_bytes()).await;
    client.is_closed().await;
}

#[tokio::test(start_paused = true)]
async fn a_handshake_and_a_registration_have_their_time() {
    let limits = options(|options| {
        options.handshake_timeout = Duration::from_secs(3);
        options.register_timeout = Duration::from_secs(7);
    });
    let house = House::with(MemoryStorage::new("test"), limits);
    let silent = house.pipe();
    let mut unregistered = house.connect(Dialect::Pickle).await;
    let start = tokio::time::Instant::now();
    house.until_passed(Limit::Handshake).await;
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "{:?}",
        start.elapsed()
    );
    unregistered.is_closed().await;
    assert!(start.elapsed() >= Duration::from_secs(7));
    assert_eq!(house.passed(Limit::Register), 1);
    drop(silent);
}

#[tokio::test]
async fn a_transaction_that_is_too_large_is_refused_by_its_vote_and_leaves_nothing() {
    let limits = options(|options| {
        options.max_transaction_bytes = 10_000;
    });
    let folder = tempfile::tempdir().unwrap();
    let uploads = folder.path().to_owned();
    let house = House::changed(full::Full::new(), limits, |served| {
        served.with_uploads(uploads)
    });
    let files = || std::fs::read_dir(folder.path()).unwrap().count();
    let mut client = house.client().await;
    let some: &'static [u8] = vec![b'x'; 3000].leak();
    // Records alone, and a blob.
    client.begin(1).await;
    for oid in 1..=4 {
        client.store(1, oid, Tid::ZERO, some).await;
    }
    let text = words(client.call(vote(1)).await);
    assert!(
        text.contains("larger than 10000B (limits.transaction)"),
        "{text}"
    );
    client.begin(2).await;
    client.tell(Call::StoreBlobStart).await;
    for _ in 0..4 {
        let chunk = Bytes::from_static(some);
        client.tell(Call::StoreBlobChunk { chunk }).await;
    }
    let text = words(client.call(vote(2)).await);
    assert!(text.contains("limits.transaction"), "{text}");
    assert_eq!(files(), 0);
    assert_eq!(house.passed(Limit::Transaction), 2);
}

#[tokio::test]
async fn who_takes_what_there_is_for_all_refuses_nobody_who_stores_little() {
    let limits = options(|options| {
        options.max_transaction_bytes = 1 << 20;
        options.max_transactions_bytes = 1 << 20;
    });
    let house = House::with(full::Full::new(), limits);
    let (mut hog, mut other) = (house.client().await, house.client().await);
    let large: &'static [u8] = vec![b'x'; 1_045_000].leak();
    let middle: &'static [u8] = vec![b'x'; 300 << 10].leak();
    let small: &'static [u8] = vec![b'x'; 4 << 10].leak();
    hog.begin(1).await;
    hog.store(1, 1, Tid::ZERO, large).await;
    hog.call(Call::Ping).await;
    until("it to be stored", || house.counters().stores >= 1).await;
    for oid in 10..20 {
        other.commit(oid, Tid::ZERO, small).await;
    }
    assert_eq!(house.passed(Limit::Transactions), 0);
    // Who wants much more than the others is told.
    other.begin(2).await;
    other.store(2, 2, Tid::ZERO, middle).await;
    let text = words(other.call(vote(2)).await);
    assert!(text.contains("limits.transactions"), "{text}");
    assert_eq!(house.passed(Limit::Transactions), 1);
    assert_eq!(hog.call(vote(1)).await, Reply::Voted(vec![]));
    let finished = hog.call(finish(1)).await;
    assert!(matches!(finished, Reply::Tid(_)), "{finished:?}");
    // What was let go of is there again.
    other.begin(3).await;
    other.store(3, 2, Tid::ZERO, middle).await;
    assert_eq!(other.call(vote(3)).await, Reply::Voted(vec![]));
}

/// Answers that come late and are large: those for which there is no room are asked for again, when there is, and
/// all come.
#[tokio::test]
async fn large_answers_wait_for_a_client_that_reads_slowly_and_all_come() {
    let storage = late::Late::new();
    let large: &'static [u8] = vec![b'x'; 1 << 20].leak();
    for oid in 1..=20 {
        commit(&storage.storage, &[(oid, Tid::ZERO, large)]).await;
    }
    let limits = options(|options| {
        options.outbox_bytes = 7 << 19;
        options.memory_bytes = 16 << 20;
    });
    let house = House::with(storage.clone(), limits);
    let mut client = house.client().await;
    storage.hold();
    let mut asked = Vec::new();
    for oid in 1..=20 {
        asked.push(client.ask(load(oid)).await);
    }
    storage.taken(20).await;
    storage.release();
    // Nothing is read meanwhile; what is held stays within bounds.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
        let total = house.shared.memory.total();
        assert!(total <= 4 << 20, "{total}");
    }
    for _ in 1..=20 {
        let Said::Reply(id, Reply::Loaded(Some(record))) = client.hear().await else {
            panic!("not a record");
        };
        assert_eq!(record.data.len(), 1 << 20);
        asked.retain(|other| *other != id);
    }
    assert!(asked.is_empty(), "{asked:?}");
    assert_eq!(client.call(Call::Ping).await, Reply::None);
    let loads = storage.count();
    assert!(loads <= 40, "each is asked for once more at most: {loads}");
}

/// The same of other calls: their answers are let go of, too, where there is no room.
#[tokio::test]
async fn large_answers_to_other_calls_wait_nowhere_and_all_come() {
    let storage = late::Late::new();
    let large: &'static [u8] = vec![b'x'; 1 << 20].leak();
    let tid = commit(&storage.storage, &[(1, Tid::ZERO, large)]).await;
    let limits = options(|options| {
        options.outbox_bytes = 7 << 19;
        options.memory_bytes = 6 << 20;
    });
    let house = House::with(storage.clone(), limits);
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = house.client().await;
        for _ in 0..8 {
            let (oid, serial) = (Oid(1), tid);
            client.ask(Call::LoadSerial { oid, serial }).await;
        }
        clients.push(client);
    }
    // Three wait to be read by the first, and one more of each was let go of.
    storage.taken(8).await;
    for _ in 0..1000 {
        tokio::task::yield_now().await;
        let (alive, total) = (storage.alive(), house.shared.memory.total());
        assert!(alive <= 10 << 20, "{alive}");
        // What is around the records is not looked for beforehand.
        assert!(total <= (6 << 20) + 1000, "{total}");
        // Each of the six answers that wait may have been asked for by all four, who saw room for it; not all 32 calls.
        assert!(storage.count() <= 28, "{}", storage.count());
    }
    let hearing = clients.into_iter().map(|mut client| async move {
        for _ in 0..8 {
            let said = client.hear().await;
            assert!(matches!(said, Said::Reply(_, Reply::Data(_))), "{said:?}");
        }
        assert_eq!(client.call(Call::Ping).await, Reply::None);
    });
    futures_util::future::join_all(hearing).await;
}

/// An iterator goes on where it was when its answer was let go of.
#[tokio::test]
async fn large_records_of_an_iterator_wait_nowhere_and_come_in_their_order() {
    let storage = MemoryStorage::new("test");
    let large: &'static [u8] = vec![b'x'; 1 << 20].leak();
    let objects: Vec<_> = (1..=12).map(|oid| (oid, Tid::ZERO, large)).collect();
    let tid = commit(&storage, &objects).await;
    let limits = options(|options| {
        options.outbox_bytes = 7 << 19;
    });
    let house = House::with(storage, limits);
    let mut client = house.client().await;
    let (first, last) = (None, None);
    let started = client.call(Call::IteratorStart { first, last }).await;
    let Reply::Iterator(iterator) = started else {
        panic!("no iterator: {started:?}");
    };
    client.call(Call::IteratorNext { iterator }).await;
    let started = client
        .call(Call::IteratorRecordStart { iterator, tid })
        .await;
    let Reply::Iterator(iterator) = started else {
        panic!("no iterator: {started:?}");
    };
    for _ in 0..=12 {
        client.ask(Call::IteratorRecordNext { iterator }).await;
    }
    until("as much waits as may", || {
        house.shared.memory.total() > 2 << 20
    })
    .await;
    for _ in 0..1000 {
        tokio::task::yield_now().await;
        assert!(house.shared.memory.total() <= 4 << 20);
    }
    let mut heard = Vec::new();
    while let Said::Reply(_, Reply::Record(Some(record))) = client.hear().await {
        heard.push(record.oid.0);
    }
    assert_eq!(heard, (1..=12).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn where_memory_is_scarce_who_does_not_read_goes_and_others_do_not_notice() {
    let storage = MemoryStorage::new("test");
    let large: &'static [u8] = vec![b'x'; 4 << 20].leak();
    commit(&storage, &[(1, Tid::ZERO, large)]).await;
    commit(&storage, &[(2, Tid::ZERO, b"small")]).await;
    let limits = options(|options| options.memory_bytes = 8 << 20);
    let house = House::with(storage, limits);
    let mut lazy = Vec::new();
    for _ in 0..4 {
        let mut client = house.client().await;
        client.ask(load(1)).await;
        lazy.push(client);
    }
    let mut honest = house.client().await;
    let start = tokio::time::Instant::now();
    while house.passed(Limit::Memory) < 2 {
        assert_eq!(honest.load(2).await.data, Bytes::from_static(b"small"));
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(start.elapsed() < Duration::from_mins(1), "nobody goes");
    }
    assert!(house.shared.memory.total() <= 8 << 20);
    // Whoever is left is served still.
    assert_eq!(honest.load(1).await.data.len(), 4 << 20);
}

/// What others commit wakes a session again and again; it looks whether it has to go all the same.
#[tokio::test(start_paused = true)]
async fn who_does_not_read_goes_also_while_others_commit_all_the_time() {
    let storage = MemoryStorage::new("test");
    let large: &'static [u8] = vec![b'x'; 5 << 20].leak();
    commit(&storage, &[(1, Tid::ZERO, large)]).await;
    let limits = options(|options| options.memory_bytes = 8 << 20);
    let house = House::with(storage, limits);
    let mut lazy = Vec::new();
    for _ in 0..3 {
        let mut client = house.client().await;
        client.ask(load(1)).await;
        lazy.push(client);
    }
    let mut busy = house.client().await;
    let start = tokio::time::Instant::now();
    let mut serial = Tid::ZERO;
    while house.passed(Limit::Memory) < 2 {
        serial = busy.commit(2, serial, b"data").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(start.elapsed() < Duration::from_mins(1), "nobody goes");
    }
}

#[tokio::test(start_paused = true)]
async fn half_messages_are_memory_too() {
    let limits = options(|options| options.memory_bytes = 2 << 20);
    let house = House::with(MemoryStorage::new("test"), limits);
    let start = tokio::time::Instant::now();
    let mut halves = Vec::new();
    for _ in 0..3 {
        let mut client = house.client().await;
        client.raw(&(4u32 << 20).to_be_bytes()).await;
        client.raw(&vec![0x80; 900 << 10]).await;
        halves.push(client);
    }
    house.until_passed(Limit::Memory).await;
    assert!(
        start.elapsed() < Duration::from_mins(1),
        "{:?}",
        start.elapsed()
    );
    assert!(house.shared.memory.total() <= 2 << 20);
    house.client().await.commit(1, Tid::ZERO, b"data").await;
}

#[tokio::test]
async fn what_a_client_calls_itself_is_short() {
    let house = House::of(MemoryStorage::new("test"));
    let mut client = house.client().await;
    let label = "é".repeat(1 << 20);
    assert_eq!(
        client.call(Call::SetClientLabel { label }).await,
        Reply::None
    );
    // Ids that are no ids end the connection.
    let id = MessageId::Other(Value::List(vec![Value::None; 10_000]));
    client.send(id, false, Call::Ping).await;
    client.is_closed().await;
    let mut client = house.client().await;
    client
        .tell(Call::Vote {
            txn: TxnId(Value::Bytes(vec![0; 5000].into())),
        })
        .await;
    client.is_closed().await;
}

/// Calls beside loads that do not answer yet wait in a row, and are all answered.
#[tokio::test]
async fn many_calls_at_once_are_all_answered() {
    let storage = MemoryStorage::new("test");
    let tid = commit(&storage, &[(1, Tid::ZERO, b"data")]).await;
    let house = House::with(
        storage.clone(),
        options(|options| options.calls_in_flight = 50),
    );
    let mut client = house.client().await;
    let gate = storage.faults().hold(Moment::Load);
    for _ in 0..200 {
        client
            .ask(Call::LoadSerial {
                oid: Oid(1),
                serial: tid,
            })
            .await;
    }
    gate.release();
    for _ in 0..200 {
        let said = client.hear().await;
        assert!(matches!(said, Said::Reply(_, Reply::Data(_))), "{said:?}");
    }
}

#[tokio::test]
async fn who_is_turned_away_is_told_why_and_may_ask_for_the_status() {
    let house = House::of(MemoryStorage::new("test"));
    let passed = || {
        let admission = Admission::new(0, 1);
        admission
            .enter(Source::Unknown)
            .expect_err("there is no place")
    };
    let connect = |passed: Passed| {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let (read, write) = tokio::io::split(theirs);
        let shared = Arc::clone(&house.shared);
        let telling = turned_away::run(read, write, passed, "test".to_owned(), shared);
        house.shared.sessions.spawn("test", telling);
        let (read, write) = tokio::io::split(ours);
        (Reader::new(read, 1 << 20), Writer::new(write))
    };
    let (mut reader, mut writer) = connect(passed());
    let choosing = handshake::connect(&mut reader, &mut writer, Some(Dialect::Msgpack));
    choosing.await.expect("the handshake succeeds");
    let mut client = Client {
        reader,
        writer,
        next: 0,
        asked: VecDeque::new(),
    };
    let text = words(client.register("main", false).await);
    assert!(text.contains("limits.connections"), "{text}");
    client.is_closed().await;
    let (mut reader, mut writer) = connect(passed());
    let status = handshake::ask_status(&mut reader, &mut writer).await;
    let status = status.expect("it is told");
    assert!(status.starts_with(b"{\"main\""), "{status:?}");
}
