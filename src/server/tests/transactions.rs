//! The calls of a transaction: their order, their answers, and how they end.

use super::*;
use crate::server::contention::{Contention, Written};
use crate::server::ended::Ended;
use crate::server::lane::{Lane, LaneCall, LaneEvent, Surroundings, What};
use crate::server::stats::Stats;
use crate::storage::Fault;
use crate::storage::memory::{MemoryStorage, Moment};
use crate::storage::suite::commit;
use crate::wire::WireError;
use crate::zodb::Answer;

#[tokio::test]
async fn a_conflict_is_resolved_by_the_client_and_voted_again() {
    let storage = MemoryStorage::new("test");
    let first = commit(&storage, &[(1, Tid::ZERO, b"0"), (2, Tid::ZERO, b"x")]).await;
    let second = commit(&storage, &[(1, first, b"1")]).await;
    let house = House::of(storage.clone());
    let mut client = house.client().await;
    client.begin(7).await;
    client.store(7, 1, first, b"+1").await;
    client.store(7, 2, first, b"y").await;
    let Reply::Conflicts(conflicts) = client.call(vote(7)).await else {
        panic!("no conflict");
    };
    assert_eq!(conflicts.len(), 1);
    let conflict = &conflicts[0];
    assert_eq!(
        (conflict.oid, conflict.committed, conflict.read),
        (Oid(1), second, first)
    );
    let data = conflict.data.as_ref().expect("it was stored").read();
    assert_eq!(data.unwrap().as_ref(), b"+1");
    client.store(7, 1, second, b"2").await;
    assert_eq!(client.call(vote(7)).await, Reply::Voted(vec![]));
    let Reply::Tid(third) = client.call(finish(7)).await else {
        panic!("not finished");
    };
    assert_eq!(client.load(1).await.data.as_ref(), b"2");
    assert_eq!(client.load(2).await.tid, third);
    assert_eq!(house.counters().conflicts, 1);
}

/// Whoever has won knows what is there now, and would always be back first.
#[tokio::test]
async fn who_has_lost_a_conflict_comes_before_who_has_won() {
    let storage = MemoryStorage::new("test");
    let first = commit(&storage, &[(1, Tid::ZERO, b"0")]).await;
    let house = House::of(storage.clone());
    let mut winner = house.client().await;
    let mut loser = house.client().await;
    let Reply::Tid(second) = commit_by(&mut winner, 1, first).await else {
        panic!("not finished");
    };
    loser.begin(2).await;
    loser.store(2, 1, first, b"lost").await;
    let reply = loser.call(vote(2)).await;
    assert!(matches!(reply, Reply::Conflicts(_)), "{reply:?}");
    // It is none that can be resolved.
    assert_eq!(loser.call(abort(2)).await, Reply::None);

    winner.begin(3).await;
    winner.store(3, 1, second, b"won again").await;
    let waiting = winner.ask(vote(3)).await;
    until("the winner waits", || house.counters().waiting == 1).await;
    let Reply::Tid(third) = commit_by(&mut loser, 4, second).await else {
        panic!("not finished");
    };
    let reply = winner.hear_until(&waiting).await.1;
    let Reply::Conflicts(conflicts) = reply else {
        panic!("{reply:?}");
    };
    assert_eq!(conflicts[0].committed, third);
    // Nobody else tries: it is nobody else's turn.
    assert_eq!(winner.call(abort(3)).await, Reply::None);
    assert!(matches!(
        commit_by(&mut winner, 5, third).await,
        Reply::Tid(_)
    ));
}

/// Writes object 1, and says what was answered to `tpc_finish`.
async fn commit_by(client: &mut Client, number: i64, serial: Tid) -> Reply {
    client.begin(number).await;
    client.store(number, 1, serial, b"data").await;
    assert_eq!(client.call(vote(number)).await, Reply::Voted(vec![]));
    client.call(finish(number)).await
}

#[tokio::test]
async fn an_object_that_was_only_read_is_checked() {
    let storage = MemoryStorage::new("test");
    let first = commit(&storage, &[(1, Tid::ZERO, b"0")]).await;
    commit(&storage, &[(1, first, b"1")]).await;
    let house = House::of(storage.clone());
    let mut client = house.client().await;
    client.begin(7).await;
    client
        .tell(Call::CheckCurrent {
            oid: Oid(1),
            serial: first,
            txn: txn(7),
        })
        .await;
    let reply = client.call(vote(7)).await;
    assert!(
        matches!(
            reply,
            Reply::Error(WireError::Answer(Answer::ReadConflict(_)))
        ),
        "{reply:?}"
    );
    // It is aborted already; that it is aborted again is no error.
    assert_eq!(client.call(abort(7)).await, Reply::None);
    client.commit(2, Tid::ZERO, b"data").await;
}

#[tokio::test]
async fn while_a_vote_waits_other_calls_are_answered() {
    let storage = MemoryStorage::new("test");
    commit(&storage, &[(1, Tid::ZERO, b"data")]).await;
    let house = House::of(storage.clone());
    let mut holder = house.client().await;
    let mut waiter = house.client().await;
    holder.begin(1).await;
    assert_eq!(holder.call(vote(1)).await, Reply::Voted(vec![]));
    waiter.begin(2).await;
    let voted = waiter.ask(vote(2)).await;
    until("a vote waits", || house.counters().waiting == 1).await;
    assert_eq!(waiter.load(1).await.data.as_ref(), b"data");
    let Reply::ServerStatus(status) = waiter.call(Call::ServerStatus).await else {
        panic!("no status");
    };
    assert_eq!((status.waiting, status.active_txns), (1, 2));
    assert!(status.lock_time.is_some());
    assert_eq!(holder.call(abort(1)).await, Reply::None);
    assert_eq!(waiter.hear_until(&voted).await.1, Reply::Voted(vec![]));
    assert_eq!(house.counters().aborts, 1);
}

#[tokio::test]
async fn who_leaves_between_vote_and_finish_has_aborted() {
    let storage = MemoryStorage::new("test");
    let house = House::of(storage.clone());
    let mut client = house.client().await;
    client.begin(1).await;
    client.store(1, 1, Tid::ZERO, b"never").await;
    assert_eq!(client.call(vote(1)).await, Reply::Voted(vec![]));
    client.leave().await;
    let mut other = house.client().await;
    other.commit(2, Tid::ZERO, b"data").await;
    let reply = other.call(load(1)).await;
    assert_eq!(
        reply,
        Reply::Error(WireError::Answer(Answer::NoSuchObject(Oid(1))))
    );
    assert_eq!(house.counters().aborts, 1);
}

#[tokio::test]
async fn who_leaves_while_the_vote_waits_is_out_of_the_queue() {
    let storage = MemoryStorage::new("test");
    let house = House::of(storage.clone());
    let mut holder = house.client().await;
    holder.begin(1).await;
    assert_eq!(holder.call(vote(1)).await, Reply::Voted(vec![]));
    let mut waiter = house.client().await;
    waiter.begin(2).await;
    waiter.ask(vote(2)).await;
    until("a vote waits", || house.counters().waiting == 1).await;
    waiter.leave().await;
    until("nobody waits", || house.counters().waiting == 0).await;
    assert!(matches!(holder.call(finish(1)).await, Reply::Tid(_)));
    house.client().await.commit(2, Tid::ZERO, b"data").await;
}

#[tokio::test]
async fn a_finish_in_hand_is_finished_although_its_client_leaves() {
    let storage = MemoryStorage::new("test");
    let house = House::of(storage.clone());
    let mut client = house.client().await;
    client.begin(1).await;
    client.store(1, 1, Tid::ZERO, b"kept").await;
    assert_eq!(client.call(vote(1)).await, Reply::Voted(vec![]));
    let gate = storage.faults().hold(Moment::Finish);
    client.ask(finish(1)).await;
    gate.reached().await;
    client.leave().await;
    until("the client is gone", || house.shared.sessions.len() == 1).await;
    gate.release();
    until("it is finished", || house.counters().commits == 1).await;
    assert_eq!(house.client().await.load(1).await.data.as_ref(), b"kept");
}

#[tokio::test]
async fn a_stopping_server_finishes_what_is_in_hand_and_tells_it() {
    let storage = MemoryStorage::new("test");
    let house = House::of(storage.clone());
    let mut idle = house.client().await;
    let mut client = house.client().await;
    client.begin(1).await;
    client.store(1, 1, Tid::ZERO, b"kept").await;
    assert_eq!(client.call(vote(1)).await, Reply::Voted(vec![]));
    let gate = storage.faults().hold(Moment::Finish);
    let finished = client.ask(finish(1)).await;
    gate.reached().await;
    let stopping = house.shared.sessions.shutdown(PATIENCE);
    let releasing = async {
        idle.is_closed().await;
        gate.release();
        let reply = client.hear_until(&finished).await.1;
        assert!(matches!(reply, Reply::Tid(_)), "{reply:?}");
        client.is_closed().await;
    };
    let (stopped, ()) = tokio::join!(stopping, releasing);
    stopped.expect("all sessions have ended");
}

#[tokio::test]
async fn a_stopping_server_waits_for_transactions_that_were_begun() {
    let house = House::of(MemoryStorage::new("test"));
    let mut idle = house.client().await;
    let mut client = house.client().await;
    client.begin(1).await;
    client.store(1, 1, Tid::ZERO, b"kept").await;
    until("the transaction is begun", || {
        house.counters().active_transactions == 1
    })
    .await;
    let stopping = house.shared.sessions.shutdown(PATIENCE);
    let committing = async {
        idle.is_closed().await;
        assert_eq!(client.call(vote(1)).await, Reply::Voted(vec![]));
        let reply = client.call(finish(1)).await;
        assert!(matches!(reply, Reply::Tid(_)), "{reply:?}");
        client.is_closed().await;
    };
    let (stopped, ()) = tokio::join!(stopping, committing);
    stopped.expect("all sessions have ended");
    assert_eq!(house.counters().commits, 1);
}

#[tokio::test(start_paused = true)]
async fn a_stopping_server_does_not_wait_for_ever() {
    let house = House::of(MemoryStorage::new("test"));
    let mut client = house.client().await;
    client.begin(1).await;
    client.store(1, 1, Tid::ZERO, b"never").await;
    assert_eq!(client.call(vote(1)).await, Reply::Voted(vec![]));
    let stopping = house.shared.sessions.shutdown(PATIENCE);
    let (stopped, ()) = tokio::join!(stopping, client.is_closed());
    stopped.expect("all sessions have ended");
    assert_eq!(house.counters().commits, 0);
}

#[tokio::test(start_paused = true)]
async fn who_holds_a_vote_too_long_is_disconnected_and_aborted() {
    let storage = MemoryStorage::new("test");
    let house = House::of(storage.clone());
    let mut client = house.client().await;
    client.begin(1).await;
    client.store(1, 1, Tid::ZERO, b"never").await;
    assert_eq!(client.call(vote(1)).await, Reply::Voted(vec![]));
    let mut other = house.client().await;
    other.begin(2).await;
    let voted = other.ask(vote(2)).await;
    let start = tokio::time::Instant::now();
    // The test's own patience is in paused time, too.
    tokio::time::advance(Duration::from_secs(55)).await;
    client.is_closed().await;
    assert!(start.elapsed() >= Duration::from_mins(1));
    assert_eq!(other.hear_until(&voted).await.1, Reply::Voted(vec![]));
}

#[tokio::test]
async fn calls_for_another_transaction_are_told_apart() {
    let house = House::of(MemoryStorage::new("test"));
    let mut client = house.client().await;
    assert_eq!(client.call(finish(3)).await, Reply::None);
    assert_eq!(client.call(abort(3)).await, Reply::None);
    let reply = client.call(vote(3)).await;
    assert!(
        matches!(
            reply,
            Reply::Error(WireError::Answer(Answer::WrongTransaction(_)))
        ),
        "{reply:?}"
    );
    // The same once more is passed over.
    client.begin(4).await;
    client.store(4, 1, Tid::ZERO, b"data").await;
    client.begin(4).await;
    assert_eq!(client.call(vote(4)).await, Reply::Voted(vec![]));
    assert!(matches!(client.call(finish(4)).await, Reply::Tid(_)));
    client.load(1).await;
}

#[tokio::test]
async fn a_second_transaction_of_one_client_ends_the_connection() {
    let house = House::of(MemoryStorage::new("test"));
    let mut client = house.client().await;
    client.begin(1).await;
    client.begin(2).await;
    client.is_closed().await;
    let mut client = house.client().await;
    client.store(1, 1, Tid::ZERO, b"stray").await;
    client.is_closed().await;
}

#[tokio::test]
async fn a_storage_that_fails_in_a_transaction_is_told_by_the_vote() {
    let storage = MemoryStorage::new("test");
    let house = House::of(storage.clone());
    let mut client = house.client().await;
    let fault = Fault::Unreachable("no route".to_owned());
    for moment in [Moment::Begin, Moment::Vote] {
        storage.faults().fail_once(moment, fault.clone());
        client.begin(1).await;
        client.store(1, 1, Tid::ZERO, b"data").await;
        let reply = client.call(vote(1)).await;
        assert_eq!(reply, Reply::Error(WireError::Storage("no route".into())));
    }
    client.commit(1, Tid::ZERO, b"data").await;
}

#[tokio::test]
async fn who_may_only_read_cannot_write() {
    let storage = MemoryStorage::new("test");
    commit(&storage, &[(1, Tid::ZERO, b"data")]).await;
    let house = House::of(storage.clone());
    let mut client = house.connect(Dialect::Pickle).await;
    assert!(matches!(client.register("main", true).await, Reply::Tid(_)));
    let read_only = Reply::Error(WireError::Answer(Answer::ReadOnly));
    assert_eq!(client.call(Call::NewOids { count: 1 }).await, read_only);
    client.begin(1).await;
    assert_eq!(client.call(vote(1)).await, read_only);
    client.load(1).await;
}

#[tokio::test]
async fn an_array_that_becomes_read_only_keeps_its_clients_and_refuses_their_commits() {
    let storage = MemoryStorage::new("test");
    commit(&storage, &[(1, Tid::ZERO, b"data")]).await;
    let house = House::of(storage.clone());
    let mut client = house.client().await;
    house.serving.send_replace(Serving::ReadOnly {
        reason: "too few members".to_owned(),
    });
    let read_only = Reply::Error(WireError::Answer(Answer::ReadOnly));
    client.begin(1).await;
    assert_eq!(client.call(vote(1)).await, read_only);
    client.load(1).await;
    // A client with a read-only fallback asks again on the same connection.
    let mut fallback = house.connect(Dialect::Pickle).await;
    assert_eq!(fallback.register("main", false).await, read_only);
    assert!(matches!(
        fallback.register("main", true).await,
        Reply::Tid(_)
    ));
    house.serving.send_replace(Serving::Yes);
    client.commit(2, Tid::ZERO, b"data").await;
}

#[tokio::test]
async fn who_begins_where_nothing_is_served_is_sent_elsewhere_and_not_told_to_read_only() {
    let no = Serving::No {
        reason: "no members".to_owned(),
    };
    let starting = Serving::Starting {
        waits_for: "its members".to_owned(),
    };
    for serving in [no, starting] {
        let storage = MemoryStorage::new("test");
        let shared = Shared::new(ServerOptions::default(), Vec::new());
        let mut lane = Lane::new(Surroundings {
            shared: &shared,
            peer: String::new(),
            storage: &storage,
            stats: Arc::new(Stats::new()),
            serving: watch::channel(serving).1,
            read_only: false,
            uploads: std::path::Path::new("none"),
            shared_blobs: None,
            contender: Contention::new().contender(),
        });
        lane.push(LaneCall {
            id: MessageId::Int(0),
            one_way: true,
            size: 0,
            what: What::Begin {
                txn: txn(1),
                meta: TxnMeta::default(),
                tid: None,
            },
        });
        let event = std::future::poll_fn(|context| lane.poll(context)).await;
        assert!(matches!(event, LaneEvent::HangUp(Ended::NotServing(_))));
    }
}

/// What such a client lost before is no reason for others to wait: it has failed for another reason.
#[tokio::test(start_paused = true)]
async fn who_is_told_at_its_vote_what_went_wrong_gives_its_place_up() {
    let storage = MemoryStorage::new("test");
    let contention = Contention::new();
    let shared = Shared::new(ServerOptions::default(), Vec::new());
    let loser = contention.contender();
    let mut lane = Lane::new(Surroundings {
        shared: &shared,
        peer: String::new(),
        storage: &storage,
        stats: Arc::new(Stats::new()),
        serving: watch::channel(Serving::Yes).1,
        read_only: false,
        uploads: std::path::Path::new("none"),
        shared_blobs: None,
        contender: Arc::clone(&loser),
    });
    loser.lost([Oid(1)]);
    let begin = What::Begin {
        txn: txn(1),
        meta: TxnMeta::default(),
        tid: None,
    };
    let why = WireError::Storage("it makes no sense".to_owned());
    let calls = [
        begin,
        What::Refuse("storea", why.clone()),
        What::Vote(txn(1)),
    ];
    for (number, what) in (0..).zip(calls) {
        lane.push(LaneCall {
            id: MessageId::Int(number),
            one_way: number < 2,
            size: 0,
            what,
        });
    }
    let told = loop {
        match std::future::poll_fn(|context| lane.poll(context)).await {
            LaneEvent::Room => {}
            LaneEvent::Reply(_, reply) => break reply,
            _ => panic!("it ended otherwise"),
        }
    };
    assert_eq!(told, Reply::Error(why));
    let start = tokio::time::Instant::now();
    let mut written = Written::default();
    written.add(Oid(1));
    contention.contender().turn(&written).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn a_restored_transaction_keeps_its_tid() {
    let storage = MemoryStorage::new("test");
    let house = House::of(storage.clone());
    let mut client = house.client().await;
    let tid = Tid(0x0400_0000_0000_0000);
    client
        .tell(Call::TpcBegin {
            txn: txn(1),
            meta: TxnMeta::default(),
            tid: Some(tid),
        })
        .await;
    client
        .tell(Call::Restorea {
            oid: Oid(1),
            serial: tid,
            data: Some(Bytes::from_static(b"data")),
            previous: None,
            txn: txn(1),
        })
        .await;
    assert_eq!(client.call(vote(1)).await, Reply::Voted(vec![]));
    assert_eq!(client.call(finish(1)).await, Reply::Tid(tid));
    assert_eq!(client.load(1).await.tid, tid);
    assert_eq!(house.counters().stores, 1);
}
