//! Iterators over transactions and records.

use super::*;
use crate::storage::memory::{MemoryStorage, Moment};
use crate::storage::suite::commit;
use crate::wire::WireError;

fn start() -> Call {
    Call::IteratorStart {
        first: None,
        last: None,
    }
}

fn unknown(iterator: i64) -> Reply {
    Reply::Error(WireError::Key(Value::Int(iterator)))
}

#[tokio::test]
async fn everything_can_be_iterated() {
    let storage = MemoryStorage::new("test");
    let first = commit(&storage, &[(1, Tid::ZERO, b"a"), (2, Tid::ZERO, b"b")]).await;
    let second = commit(&storage, &[(1, first, b"c")]).await;
    let house = House::of(storage);
    let mut client = house.client().await;
    let Reply::Iterator(iterator) = client.call(start()).await else {
        panic!("no iterator");
    };
    let mut found = Vec::new();
    while let Reply::Transaction(Some((tid, _))) =
        client.call(Call::IteratorNext { iterator }).await
    {
        let Reply::Iterator(records) = client
            .call(Call::IteratorRecordStart { iterator, tid })
            .await
        else {
            panic!("no iterator over records");
        };
        while let Reply::Record(Some(record)) = client
            .call(Call::IteratorRecordNext { iterator: records })
            .await
        {
            found.push((record.tid, record.oid.0, record.data.expect("not undone")));
        }
        assert_eq!(
            client
                .call(Call::IteratorRecordNext { iterator: records })
                .await,
            unknown(records)
        );
    }
    let expected = [(first, 1, "a"), (first, 2, "b"), (second, 1, "c")];
    assert_eq!(
        found,
        expected.map(|(tid, oid, data)| (tid, oid, Bytes::from(data)))
    );
    assert_eq!(
        client.call(Call::IteratorNext { iterator }).await,
        unknown(iterator)
    );
}

#[tokio::test]
async fn calls_of_one_iterator_that_are_sent_at_once_keep_their_order() {
    let storage = MemoryStorage::new("test");
    let mut tids = vec![Tid::ZERO];
    for _ in 0..10 {
        let last = tids[tids.len() - 1];
        tids.push(commit(&storage, &[(1, last, b"a")]).await);
    }
    let house = House::of(storage);
    let mut client = house.client().await;
    let Reply::Iterator(iterator) = client.call(start()).await else {
        panic!("no iterator");
    };
    let mut asked = Vec::new();
    for _ in 0..10 {
        asked.push(client.ask(Call::IteratorNext { iterator }).await);
    }
    for (id, expected) in asked.iter().zip(&tids[1..]) {
        let reply = client.hear_until(id).await.1;
        assert!(
            matches!(&reply, Reply::Transaction(Some((tid, _))) if tid == expected),
            "{reply:?}"
        );
    }
}

#[tokio::test]
async fn iterators_are_bounded_and_collected() {
    let options = ServerOptions {
        iterators: 2,
        ..ServerOptions::default()
    };
    let house = House::with(MemoryStorage::new("test"), options);
    let mut client = house.client().await;
    assert_eq!(client.call(start()).await, Reply::Iterator(0));
    assert_eq!(client.call(start()).await, Reply::Iterator(1));
    let reply = client.call(start()).await;
    let is_it =
        |text: &str| text.contains("2 iterators are open") && text.contains("limits.iterators");
    assert!(
        matches!(&reply, Reply::Error(WireError::Storage(text)) if is_it(text)),
        "{reply:?}"
    );
    client
        .tell(Call::IteratorGc {
            iterators: vec![0, 77],
        })
        .await;
    assert_eq!(client.call(start()).await, Reply::Iterator(2));
    assert_eq!(
        client.call(Call::IteratorNext { iterator: 0 }).await,
        unknown(0)
    );
}

/// As whoever reads ahead does: the records are asked for in one breath with the transaction that they are of.
#[tokio::test]
async fn records_are_asked_for_behind_their_transaction_however_long_that_waits() {
    let storage = MemoryStorage::new("test");
    let first = commit(&storage, &[(1, Tid::ZERO, b"one")]).await;
    let second = commit(&storage, &[(1, first, b"two")]).await;
    let gate = storage.faults().hold(Moment::Load);
    let house = House::of(storage);
    let mut client = house.client().await;
    let Reply::Iterator(iterator) = client.call(start()).await else {
        panic!("no iterator");
    };
    // What keeps others waiting whose answer may be large.
    let (oid, serial) = (Oid(1), first);
    client.ask(Call::LoadSerial { oid, serial }).await;
    for tid in [first, second] {
        client.ask(Call::IteratorNext { iterator }).await;
        client
            .ask(Call::IteratorRecordStart { iterator, tid })
            .await;
    }
    assert_eq!(client.call(Call::Ping).await, Reply::None);
    gate.release();
    for _ in 0..5 {
        let Said::Reply(_, reply) = client.hear().await else {
            panic!("no answer");
        };
        assert!(!matches!(reply, Reply::Error(_)), "{reply:?}");
    }
}
