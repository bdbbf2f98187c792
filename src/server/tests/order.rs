//! INVARIANT 6: the order in which a client hears of answers and of other clients' transactions.

use std::collections::HashMap;

use super::late::Late;
use super::*;
use crate::storage::memory::{MemoryStorage, Moment};
use crate::storage::suite::commit;
use crate::wire::LoadedRecord;

#[tokio::test]
async fn an_answer_that_was_held_up_over_a_commit_gets_its_end() {
    let storage = Late::new();
    let first = commit(&storage, &[(1, Tid::ZERO, b"old")]).await;
    let house = House::of(storage.clone());
    let mut client = house.client().await;
    storage.hold();
    let asked = client.ask(load(1)).await;
    storage.taken(1).await;
    let second = commit(&storage, &[(1, first, b"new")]).await;
    assert_eq!(client.hear().await, invalidated(second, &[1]));
    storage.release();
    let record = LoadedRecord {
        data: Bytes::from_static(b"old"),
        tid: first,
        end: Some(second),
    };
    assert_eq!(
        client.hear().await,
        Said::Reply(asked, Reply::Loaded(Some(record)))
    );
    assert_eq!(client.load(1).await.end, None);
}

#[tokio::test]
async fn an_answer_that_was_held_up_over_the_clients_own_commit_gets_its_end() {
    let storage = Late::new();
    let first = commit(
        &storage,
        &[(1, Tid::ZERO, b"old"), (2, Tid::ZERO, b"other")],
    )
    .await;
    let house = House::of(storage.clone());
    let mut client = house.client().await;
    storage.hold();
    let changed = client.ask(load(1)).await;
    let unchanged = client.ask(load(2)).await;
    storage.taken(2).await;
    let second = client.commit(1, first, b"new").await;
    storage.release();
    let mut ends = HashMap::new();
    for _ in 0..2 {
        match client.hear().await {
            Said::Reply(id, Reply::Loaded(Some(record))) => {
                ends.insert(format!("{id:?}"), record.end);
            }
            said => panic!("{said:?}"),
        }
    }
    assert_eq!(ends[&format!("{changed:?}")], Some(second));
    assert_eq!(ends[&format!("{unchanged:?}")], None);
}

#[tokio::test]
async fn what_is_due_leaves_before_a_reply() {
    let storage = MemoryStorage::new("test");
    let first = commit(&storage, &[(1, Tid::ZERO, b"old")]).await;
    let house = House::of(storage.clone());
    let mut client = house.client().await;
    let second = commit(&storage, &[(1, first, b"new")]).await;
    let asked = client.ask(Call::LastTransaction).await;
    let (before, reply) = client.hear_until(&asked).await;
    assert_eq!(before, [invalidated(second, &[1])]);
    assert_eq!(reply, Reply::Tid(second));
}

#[tokio::test]
async fn a_commit_is_told_in_its_place_and_after_the_size() {
    let storage = MemoryStorage::new("test");
    let house = House::of(storage.clone());
    let mut one = house.client().await;
    let mut other = house.client().await;
    let first = one.commit(1, Tid::ZERO, b"one").await;
    other.begin(1).await;
    other.store(1, 2, Tid::ZERO, b"other").await;
    assert_eq!(other.call(vote(1)).await, Reply::Voted(vec![]));
    let finished = other.ask(finish(1)).await;
    let (before, reply) = other.hear_until(&finished).await;
    let Reply::Tid(second) = reply else {
        panic!("{reply:?}");
    };
    assert!(second > first);
    let size = house.storage().size();
    assert_eq!(
        before,
        [Said::Push(Push::Info {
            objects: 2,
            bytes: size.bytes,
        })]
    );
    // Nothing of its own; of the other's, everything.
    assert_eq!(one.hear().await, invalidated(second, &[2]));
    assert_eq!(house.counters().commits, 2);
}

#[tokio::test]
async fn a_finish_that_waits_is_told_between_those_before_and_after_it() {
    let storage = MemoryStorage::new("test");
    let house = House::of(storage.clone());
    let mut one = house.client().await;
    one.begin(1).await;
    one.store(1, 1, Tid::ZERO, b"one").await;
    assert_eq!(one.call(vote(1)).await, Reply::Voted(vec![]));
    // It is kept and in the queues, and its future has not ended.
    let gate = storage.faults().hold(Moment::Finished);
    let finished = one.ask(finish(1)).await;
    gate.reached().await;
    storage.faults().clear();
    let second = commit(&storage, &[(2, Tid::ZERO, b"two")]).await;
    let (before, reply) = one.hear_until(&finished).await;
    assert!(matches!(before[..], [Said::Push(Push::Info { .. })]));
    assert!(matches!(reply, Reply::Tid(tid) if tid < second));
    assert_eq!(one.hear().await, invalidated(second, &[2]));
    gate.release();
    assert!(matches!(one.call(Call::Ping).await, Reply::None));
}

#[tokio::test]
async fn a_conflict_is_told_when_what_it_is_with_can_be_read() {
    let storage = Late::new();
    let first = commit(&storage, &[(1, Tid::ZERO, b"0")]).await;
    let house = House::of(storage.clone());
    let mut client = house.client().await;
    storage.cap(first);
    let second = commit(&storage, &[(1, first, b"1")]).await;
    client.begin(1).await;
    client.store(1, 1, first, b"+1").await;
    let voted = client.ask(vote(1)).await;
    // A vote that has found its conflict, and nothing is said of it.
    until("the vote waits", || house.counters().waiting == 1).await;
    assert_eq!(client.call(Call::Ping).await, Reply::None);
    storage.cap(Tid::MAX);
    let (_, reply) = client.hear_until(&voted).await;
    assert!(matches!(reply, Reply::Conflicts(_)), "{reply:?}");
    let serial = Call::LoadSerial {
        oid: Oid(1),
        serial: second,
    };
    assert_eq!(
        client.call(serial).await,
        Reply::Data(Bytes::from_static(b"1"))
    );
}

#[tokio::test]
async fn everybody_hears_of_everything_in_order_and_once() {
    const CLIENTS: u64 = 8;
    const COMMITS: usize = 25;
    let storage = MemoryStorage::new("test");
    let house = House::of(storage.clone());
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let mut client = house.client().await;
        clients.push(async move {
            let mut heard = Vec::new();
            let mut serial = Tid::ZERO;
            for _ in 0..COMMITS {
                client.begin(1).await;
                client.store(1, number, serial, b"data").await;
                let voted = client.ask(vote(1)).await;
                heard.extend(client.hear_until(&voted).await.0);
                let finished = client.ask(finish(1)).await;
                let (before, reply) = client.hear_until(&finished).await;
                heard.extend(before);
                let Reply::Tid(tid) = reply else {
                    panic!("{reply:?}");
                };
                serial = tid;
                heard.push(invalidated(tid, &[number]));
            }
            while heard.iter().filter(|said| is_invalidation(said)).count()
                < COMMITS * CLIENTS as usize
            {
                heard.push(client.hear().await);
            }
            heard
        });
    }
    let all = futures_util::future::join_all(clients).await;
    let transactions = storage_history(&storage).await;
    assert_eq!(transactions.len(), COMMITS * CLIENTS as usize);
    for heard in all {
        let tids: Vec<Tid> = heard.iter().filter_map(tid_of).collect();
        assert_eq!(tids, transactions);
    }
    assert_eq!(house.counters().active_transactions, 0);
}

#[tokio::test]
async fn between_the_registration_and_the_first_invalidation_nothing_is_missed() {
    let storage = MemoryStorage::new("test");
    let house = House::of(storage.clone());
    let committing = async {
        let mut serial = Tid::ZERO;
        for _ in 0..200 {
            serial = commit(&storage, &[(1, serial, b"data")]).await;
            tokio::task::yield_now().await;
        }
        serial
    };
    let registering = async {
        let mut clients = Vec::new();
        for _ in 0..20 {
            let mut client = house.connect(Dialect::Msgpack).await;
            let Reply::Tid(last) = client.register("main", true).await else {
                panic!("not registered");
            };
            clients.push((client, last));
        }
        clients
    };
    let (end, clients) = tokio::join!(committing, registering);
    let transactions = storage_history(&storage).await;
    for (mut client, last) in clients {
        let expected: Vec<Tid> = transactions
            .iter()
            .copied()
            .filter(|tid| *tid > last)
            .collect();
        let mut heard = Vec::new();
        while heard.last() != Some(&end) && !expected.is_empty() {
            heard.extend(tid_of(&client.hear().await));
        }
        assert_eq!(heard, expected);
    }
}

#[tokio::test]
async fn who_is_cut_off_is_disconnected() {
    let storage = MemoryStorage::new("test");
    let house = House::of(storage.clone());
    let mut client = house.client().await;
    storage.close().await;
    client.is_closed().await;
}

/// A client that keeps answers as ZEO's cache does, against a storage that answers late, with
/// everything in every order. In the end nothing that it believes to be current may be old.
#[tokio::test]
async fn a_cache_never_keeps_what_is_old_as_current() {
    for seed in 0..30 {
        let mut random = fastrand::Rng::with_seed(seed);
        let storage = Late::new();
        let mut serials = [Tid::ZERO; 4];
        for (oid, serial) in serials.iter_mut().enumerate() {
            *serial = commit(&storage, &[(oid as u64, Tid::ZERO, b"first")]).await;
        }
        let house = House::of(storage.clone());
        let mut client = house.client().await;
        let mut cache: HashMap<u64, Tid> = HashMap::new();
        let mut asked: Vec<(MessageId, u64)> = Vec::new();
        let mut taken = 0;
        for _ in 0..60 {
            match random.u8(0..6) {
                0 | 1 => {
                    let oid = random.u64(0..4);
                    asked.push((client.ask(load(oid)).await, oid));
                    taken += 1;
                    storage.taken(taken).await;
                }
                2 | 3 => {
                    let oid = random.usize(0..4);
                    serials[oid] = commit(&storage, &[(oid as u64, serials[oid], b"next")]).await;
                }
                4 => storage.hold(),
                _ => storage.release(),
            }
        }
        storage.release();
        let last = client.ask(Call::Ping).await;
        let mut pinged = false;
        while !asked.is_empty() || !pinged {
            match client.hear().await {
                Said::Reply(id, Reply::Loaded(Some(record))) => {
                    let place = asked.iter().position(|(of, _)| *of == id);
                    let (_, oid) = asked.swap_remove(place.expect("it was asked"));
                    if record.end.is_none() {
                        cache.insert(oid, record.tid);
                    }
                }
                Said::Push(Push::InvalidateTransaction { oids, .. }) => {
                    for oid in oids.iter() {
                        cache.remove(&oid.0);
                    }
                }
                Said::Reply(id, Reply::None) if id == last => pinged = true,
                said => panic!("{said:?}"),
            }
        }
        for (oid, tid) in cache {
            assert_eq!(tid, serials[oid as usize], "seed {seed}, object {oid}");
        }
    }
}

fn is_invalidation(said: &Said) -> bool {
    tid_of(said).is_some()
}

fn tid_of(said: &Said) -> Option<Tid> {
    match said {
        Said::Push(Push::InvalidateTransaction { tid, .. }) => Some(*tid),
        _ => None,
    }
}

async fn storage_history(storage: &MemoryStorage) -> Vec<Tid> {
    let mut tids = storage.tids_before(Tid::MAX, usize::MAX).await.unwrap();
    tids.reverse();
    tids
}
