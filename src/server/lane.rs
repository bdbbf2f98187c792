//! The calls of a client's transaction, strictly in their order.
//!
//! `tpc_begin`, `storea` and their like, `vote`, `tpc_finish` and `tpc_abort` wait here for those
//! before them, while all other calls of the client go past. A client has one transaction at a time:
//!
//! ```text
//!          tpc_begin             vote: granted            tpc_finish
//!   Idle ------------> Open --------------------> Voted ---------------> finishing --> Idle
//!    ^                 |  ^ \____ vote: conflicts                          (the storage's future)
//!    |   tpc_abort,    |  |_____/ (stored again,    |
//!    +-- vote refused -+         voted again)       +--- tpc_abort --> Idle
//! ```
//!
//! Most of these calls are one-way: what goes wrong in them is kept and told by `vote` (the
//! transaction is poisoned). Calls that no client of sound mind sends (a second transaction, a store
//! without one) end the connection, as Python's server does, which aborts.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::Instant;

mod blobs;
mod stored;
mod upload;

pub(super) use blobs::BlobRecord;
use blobs::Blobs;
pub(super) use stored::{Stored, Storing};
pub(super) use upload::prepare as prepare_uploads;

use super::contention::{Contender, Written};
use super::ended::Ended;
use super::limits::{Limit, Passed};
use super::start::{Serving, Shared};
use super::stats::{Counted, Granted, Stats};
use crate::counted::counted;
use crate::storage::{
    BlobDirectory, Fault, Finishing, Storage, StorageError, Transaction, TxnToken, Vote, Voted,
};
use crate::wire::{MessageId, Reply, TxnId, WireError};
use crate::zodb::{Answer, Conflict, Oid, Op, Payload, Tid, TxnMeta};

/// What a call of a transaction costs in memory beside its data, roughly, in bytes.
const CALL_SIZE: usize = 128;

/// How much data is taken out of the queue in one go.
const STEP_BYTES: usize = 4 << 20;

/// How long a client is kept from hearing of a conflict with what cannot be read yet, and how often it
/// is looked whether it can be.
const CONFLICT_WAIT: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// A call of a transaction.
pub(super) struct LaneCall {
    pub(super) id: MessageId,
    pub(super) one_way: bool,
    /// Of the message that it came in, in bytes.
    pub(super) size: usize,
    pub(super) what: What,
}

/// What is asked of a transaction.
pub(super) enum What {
    Begin {
        txn: TxnId,
        meta: TxnMeta,
        tid: Option<Tid>,
    },
    Do {
        txn: TxnId,
        op: Op,
    },
    BlobStart,
    BlobChunk(Bytes),
    BlobEnd(BlobRecord),
    BlobShared(BlobRecord, String),
    /// A method that cannot be done: the transaction's vote says so.
    Refuse(&'static str, WireError),
    Vote(TxnId),
    Finish(TxnId),
    Abort(TxnId),
}

/// What the lane of a transaction wants of its session.
pub(super) enum LaneEvent {
    Reply(MessageId, Reply),
    /// A finish has begun; its future is polled by the next call of [`Lane::poll`].
    FinishBegan {
        token: TxnToken,
        id: Option<MessageId>,
    },
    Finished(Result<Tid, StorageError>),
    /// Calls have left the queue.
    Room,
    HangUp(Ended),
}

/// What the calls of a transaction need beside each other.
#[derive(Clone)]
pub(super) struct Surroundings<'a> {
    /// Where it is told and counted that the client has passed a limit.
    pub(super) shared: &'a Shared,
    pub(super) peer: String,
    pub(super) storage: &'a dyn Storage,
    pub(super) stats: Arc<Stats>,
    pub(super) serving: watch::Receiver<Serving>,
    /// The client registered to read only.
    pub(super) read_only: bool,
    /// The folder of uploads.
    pub(super) uploads: &'a Path,
    /// Where clients put the files of blobs themselves.
    pub(super) shared_blobs: Option<&'a Arc<BlobDirectory>>,
    /// The client among those that write the same objects.
    pub(super) contender: Arc<Contender>,
}

/// The calls of one client's transactions.
pub(super) struct Lane<'a> {
    around: Surroundings<'a>,
    queue: VecDeque<LaneCall>,
    queued_bytes: usize,
    state: State,
    running: Running<'a>,
    /// Since when the client has been asked to finish, or to resolve conflicts.
    client_since: Option<Instant>,
}

enum State {
    Idle,
    Open(Open),
    Voted(Ready),
}

struct Open {
    id: TxnId,
    token: TxnToken,
    work: Work,
    blobs: Box<Blobs>,
    storing: Storing,
    written: Written,
    /// What it undoes, and how much of that is counted.
    undone: BTreeSet<Tid>,
    undone_bytes: u64,
    /// The conflicts that the client was told of, to resolve them.
    told: Vec<Oid>,
    counted: Counted,
}

enum Work {
    Sound(Box<dyn Transaction>),
    /// The transaction was aborted; the vote says why.
    Poisoned(WireError),
}

struct Ready {
    id: TxnId,
    token: TxnToken,
    voted: Box<dyn Voted>,
    blobs: Box<Blobs>,
    storing: Storing,
    counted: Counted,
    granted: Granted,
}

enum Running<'a> {
    Nothing,
    Step(BoxFuture<'a, Stepped>),
    Finish {
        future: Finishing,
        /// The transaction is counted until it is finished, and its files have owners.
        _guards: (Counted, Granted, Storing, Box<Blobs>),
    },
}

/// What some calls have come to.
struct Stepped {
    state: State,
    /// The reply to the last of them, where it wants one.
    reply: Option<(MessageId, Reply)>,
    hang_up: Option<Ended>,
    /// The last was a vote that left the next move to the client.
    clients_move: bool,
}

impl<'a> Lane<'a> {
    pub(super) fn new(around: Surroundings<'a>) -> Self {
        Lane {
            around,
            queue: VecDeque::new(),
            queued_bytes: 0,
            state: State::Idle,
            running: Running::Nothing,
            client_since: None,
        }
    }

    /// Puts a call behind those that came before it.
    pub(super) fn push(&mut self, call: LaneCall) {
        self.queued_bytes += call.size();
        self.queue.push_back(call);
    }

    /// Refuses the transaction for a message that was not kept: its vote will say why.
    pub(super) fn refuse(&mut self, method: &'static str, error: WireError) {
        self.push(LaneCall {
            id: MessageId::Int(0),
            one_way: true,
            size: 0,
            what: What::Refuse(method, error),
        });
    }

    /// The size of the calls that wait, in bytes.
    pub(super) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Whether [`poll`](Self::poll) has something to do.
    pub(super) fn is_busy(&self) -> bool {
        !matches!(self.running, Running::Nothing) || !self.queue.is_empty()
    }

    /// Whether the client has begun something and not ended it.
    pub(super) fn is_in_transaction(&self) -> bool {
        self.is_busy() || !matches!(self.state, State::Idle)
    }

    /// Since when the next move of a voted transaction is the client's.
    pub(super) fn client_since(&self) -> Option<Instant> {
        self.client_since
    }

    /// Goes on until something is wanted of the session.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<LaneEvent> {
        loop {
            match &mut self.running {
                Running::Finish { future, .. } => {
                    let Poll::Ready(outcome) = future.as_mut().poll(context) else {
                        return Poll::Pending;
                    };
                    self.running = Running::Nothing;
                    if outcome.is_ok() {
                        self.around.stats.commits.fetch_add(1, Relaxed);
                    }
                    return Poll::Ready(LaneEvent::Finished(outcome));
                }
                Running::Step(future) => {
                    let Poll::Ready(stepped) = future.as_mut().poll(context) else {
                        return Poll::Pending;
                    };
                    self.running = Running::Nothing;
                    self.state = stepped.state;
                    self.client_since = stepped.clients_move.then(Instant::now);
                    if let Some(ended) = stepped.hang_up {
                        return Poll::Ready(LaneEvent::HangUp(ended));
                    }
                    // Without a reply, too, the session looks again: there is room for calls that it
                    // did not take while these waited.
                    return Poll::Ready(match stepped.reply {
                        Some((id, reply)) => LaneEvent::Reply(id, reply),
                        None => LaneEvent::Room,
                    });
                }
                Running::Nothing => {
                    let Some(call) = self.queue.pop_front() else {
                        return Poll::Pending;
                    };
                    self.queued_bytes -= call.size();
                    if let Some(event) = self.begin(call) {
                        return Poll::Ready(event);
                    }
                }
            }
        }
    }

    /// Gives up: what was not finished is aborted. A finish in hand is handed out; it must be polled
    /// to its end.
    pub(super) fn close(self) -> Option<Finishing> {
        if !matches!(self.state, State::Idle) || matches!(self.running, Running::Step(_)) {
            self.around.stats.aborts.fetch_add(1, Relaxed);
        }
        match self.running {
            Running::Finish { future, .. } => Some(future),
            _ => None,
        }
    }

    /// Begins a call, together with those behind it that can be done in one go.
    fn begin(&mut self, call: LaneCall) -> Option<LaneEvent> {
        let LaneCall {
            id, one_way, what, ..
        } = call;
        let id = (!one_way).then_some(id);
        match what {
            What::Finish(txn) => Some(self.finish(id, &txn)?),
            What::Abort(txn) => self.abort(id, &txn),
            what => {
                let mut bytes = 0;
                let mut calls = vec![(id, what)];
                // Up to the first that is answered, or that is no step.
                while bytes < STEP_BYTES && calls.last().is_some_and(|(id, _)| id.is_none()) {
                    let next = self.queue.pop_front_if(|next| {
                        !matches!(next.what, What::Finish(_) | What::Abort(_))
                    });
                    let Some(next) = next else { break };
                    self.queued_bytes -= next.size();
                    bytes += next.size();
                    calls.push(((!next.one_way).then_some(next.id), next.what));
                }
                let state = std::mem::replace(&mut self.state, State::Idle);
                self.client_since = None;
                let step = step(self.around.clone(), state, calls);
                self.running = Running::Step(Box::pin(step));
                None
            }
        }
    }

    /// `tpc_finish`. Of a transaction that is not the present one it is no error, and answers nothing.
    fn finish(&mut self, id: Option<MessageId>, txn: &TxnId) -> Option<LaneEvent> {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Voted(ready) if ready.id == *txn => {
                self.client_since = None;
                self.running = Running::Finish {
                    future: ready.voted.finish(),
                    _guards: (ready.counted, ready.granted, ready.storing, ready.blobs),
                };
                Some(LaneEvent::FinishBegan {
                    token: ready.token,
                    id,
                })
            }
            State::Open(open) if open.id == *txn => {
                // Nothing can be lost by it that the client was promised.
                self.state = State::Open(open);
                let why = "tpc_finish before a vote that was granted".to_owned();
                let error = WireError::Answer(Answer::WrongTransaction(why));
                Some(match id {
                    Some(id) => LaneEvent::Reply(id, Reply::Error(error)),
                    None => LaneEvent::HangUp(Ended::OneWay {
                        method: "tpc_finish",
                        error,
                    }),
                })
            }
            other => {
                self.state = other;
                id.map(|id| LaneEvent::Reply(id, Reply::None))
            }
        }
    }

    /// `tpc_abort`. Of a transaction that is not the present one it is no error.
    fn abort(&mut self, id: Option<MessageId>, txn: &TxnId) -> Option<LaneEvent> {
        let present = match &self.state {
            State::Idle => None,
            State::Open(open) => Some(&open.id),
            State::Voted(ready) => Some(&ready.id),
        };
        if present == Some(txn) {
            self.around.stats.aborts.fetch_add(1, Relaxed);
            self.client_since = None;
            // Dropping it aborts it.
            if let State::Open(open) = std::mem::replace(&mut self.state, State::Idle)
                && !open.told.is_empty()
            {
                // It could not resolve them, and tries again, as when it had been refused.
                self.around.contender.lost(open.told);
            }
        }
        id.map(|id| LaneEvent::Reply(id, Reply::None))
    }
}

impl LaneCall {
    fn size(&self) -> usize {
        let content = match &self.what {
            // What came in a few bytes may be long when it is written out.
            What::Begin { meta, .. } => {
                meta.user.len() + meta.description.len() + meta.extension.len()
            }
            _ => 0,
        };
        self.size.max(content) + CALL_SIZE
    }
}

/// Does some calls, of which only the last may want a reply.
async fn step(
    around: Surroundings<'_>,
    mut state: State,
    calls: Vec<(Option<MessageId>, What)>,
) -> Stepped {
    let mut stores = 0;
    let mut stepped = None;
    for (id, what) in calls {
        if let What::Do { op, .. } = &what
            && op.writes().is_some()
        {
            stores += 1;
        }
        let (method, outcome);
        let mut clients_move = false;
        (state, method, outcome) = match what {
            What::Begin { txn, meta, tid } => begin(&around, state, txn, meta, tid).await,
            What::Do { txn, op } => store(&around, state, &txn, op).await,
            What::BlobStart => blobs::start(&around, state).await,
            What::BlobChunk(chunk) => blobs::chunk(&around, state, chunk).await,
            What::BlobEnd(record) => blobs::end(&around, state, record).await,
            What::BlobShared(record, name) => blobs::shared(&around, state, record, &name).await,
            What::Refuse(method, error) => refuse(state, method, error),
            What::Vote(txn) => {
                let voted = vote(&around, state, &txn).await;
                clients_move = matches!(voted.2, Ok(Reply::Voted(_) | Reply::Conflicts(_)));
                voted
            }
            What::Finish(_) | What::Abort(_) => unreachable!("these are no steps"),
        };
        let (reply, hang_up) = match (id, outcome) {
            (_, Err(Failed::HangUp(ended))) => (None, Some(ended)),
            (Some(id), Ok(reply)) => (Some((id, reply)), None),
            (Some(id), Err(Failed::Error(error))) => (Some((id, Reply::Error(error))), None),
            (None, Err(Failed::Error(error))) => (None, Some(Ended::OneWay { method, error })),
            (None, Ok(_)) if clients_move => (None, None),
            (None, Ok(_)) => continue,
        };
        stepped = Some((reply, hang_up, clients_move));
        break;
    }
    around.stats.stores.fetch_add(stores, Relaxed);
    let (reply, hang_up, clients_move) = stepped.unwrap_or_default();
    Stepped {
        state,
        reply,
        hang_up,
        clients_move,
    }
}

/// Why a call failed: the client is told, or the connection ends.
enum Failed {
    Error(WireError),
    HangUp(Ended),
}

impl From<StorageError> for Failed {
    fn from(error: StorageError) -> Self {
        match error {
            // Its clients are better off elsewhere.
            StorageError::Fault(Fault::NotServing(why)) => Failed::HangUp(Ended::NotServing(why)),
            StorageError::Fault(fault) => Failed::Error(WireError::Storage(fault.to_string())),
            StorageError::Answer(answer) => Failed::Error(WireError::Answer(answer)),
        }
    }
}

/// The transaction's state after a call, the call's name, and what it answers.
type Outcome = (State, &'static str, Result<Reply, Failed>);

async fn begin(
    around: &Surroundings<'_>,
    state: State,
    txn: TxnId,
    meta: TxnMeta,
    tid: Option<Tid>,
) -> Outcome {
    const METHOD: &str = "tpc_begin";
    let present = match &state {
        State::Idle => None,
        State::Open(open) => Some(&open.id),
        State::Voted(ready) => Some(&ready.id),
    };
    if let Some(present) = present {
        let outcome = if *present == txn {
            Ok(Reply::None)
        } else {
            Err(wrong("a second transaction of one client"))
        };
        return (state, METHOD, outcome);
    }
    let serving = around.serving.borrow().clone();
    if let Some(why) = serving.refusal() {
        // Its clients are better off elsewhere, as if the session had noticed first.
        let ended = Ended::NotServing(why.to_owned());
        return (state, METHOD, Err(Failed::HangUp(ended)));
    }
    let begun = if around.read_only || serving != Serving::Yes {
        Err(Answer::ReadOnly.into())
    } else {
        around.storage.begin(meta, tid).await
    };
    let (token, work) = match begun {
        Ok(transaction) => (transaction.token(), Work::Sound(transaction)),
        Err(error) => match Failed::from(error) {
            // It was a one-way call: the vote says so.
            Failed::Error(error) => (TxnToken::new(), Work::Poisoned(error)),
            hang_up @ Failed::HangUp(_) => return (state, METHOD, Err(hang_up)),
        },
    };
    let open = Open {
        id: txn,
        token,
        work,
        blobs: Box::new(Blobs::new(&around.shared.removals)),
        storing: around.shared.stored.begin(),
        written: Written::default(),
        undone: BTreeSet::new(),
        undone_bytes: 0,
        told: Vec::new(),
        counted: around.stats.active.count(),
    };
    (State::Open(open), METHOD, Ok(Reply::None))
}

async fn store(around: &Surroundings<'_>, state: State, txn: &TxnId, op: Op) -> Outcome {
    let method = method(&op);
    let mut open = match state {
        State::Open(open) if open.id == *txn => open,
        state => return (state, method, Err(wrong("a call for no open transaction"))),
    };
    if let Some(oid) = op.writes() {
        open.written.add(oid);
    }
    let undos = around.shared.options.undos;
    if let (Op::Undo { .. }, Work::Sound(_)) = (&op, &open.work)
        && open.undone.len() >= undos
    {
        // Each is looked for, by members of which nobody knows how long that takes.
        let what = format!(
            "one transaction undoes more than {}",
            counted(undos as u64, "other")
        );
        let passed = Passed::new(Limit::Undos, what);
        around.shared.tell_passed(&around.peer, "", &passed);
        open.poison(WireError::Answer(Answer::Undo {
            reason: passed.to_string(),
            oid: None,
        }));
    }
    if let (Op::Undo { tid }, Work::Sound(_)) = (&op, &open.work)
        && !open.undone.insert(*tid)
    {
        // It writes all of it anew each time, and is not counted by what the call carries.
        open.poison(WireError::Answer(Answer::Undo {
            reason: "it is undone in this transaction already".into(),
            oid: None,
        }));
    }
    open.stores(around, op.size() as u64).await;
    if let Work::Sound(transaction) = &mut open.work
        && let Err(error) = transaction.store(open.blobs.complete(op)).await
    {
        match Failed::from(error) {
            Failed::Error(error) => open.work = Work::Poisoned(error),
            hang_up @ Failed::HangUp(_) => return (State::Idle, method, Err(hang_up)),
        }
    }
    (State::Open(open), method, Ok(Reply::None))
}

fn refuse(state: State, method: &'static str, error: WireError) -> Outcome {
    match state {
        State::Open(mut open) => {
            open.poison(error);
            if method == "storeBlobEnd" {
                open.blobs.end_upload();
            }
            (State::Open(open), method, Ok(Reply::None))
        }
        state => (state, method, Err(wrong("a call for no open transaction"))),
    }
}

impl Open {
    /// Counts what is to be stored. Beyond a limit the transaction is aborted, and takes no more room.
    async fn stores(&mut self, around: &Surroundings<'_>, bytes: u64) {
        let Work::Sound(_) = self.work else {
            return;
        };
        let size = bytes + CALL_SIZE as u64;
        if let Err(passed) = self.storing.add(size, around.uploads).await {
            around.shared.tell_passed(&around.peer, "", &passed);
            self.poison(WireError::Storage(passed.to_string()));
            self.blobs.let_go();
            self.storing.let_go();
        }
    }

    /// Counts what it undoes, which is no less than what undoing it writes, as far as the storage knows.
    async fn counts_undone(&mut self, around: &Surroundings<'_>) {
        let Work::Sound(_) = self.work else {
            return;
        };
        if self.undone.is_empty() {
            return;
        }
        let undone: Vec<Tid> = self.undone.iter().copied().collect();
        // Where it cannot be asked, the vote says why.
        let measured = around.storage.measure_undone(undone.into()).await;
        let bytes = measured.ok().flatten().unwrap_or(0);
        // Some of it was counted where there was a conflict.
        let more = bytes.saturating_sub(self.undone_bytes);
        self.undone_bytes += more;
        self.stores(around, more).await;
    }

    /// Aborts the transaction; its vote will say why. The first reason is the one that counts.
    fn poison(&mut self, error: WireError) {
        if let Work::Sound(_) = self.work {
            self.work = Work::Poisoned(error);
        }
    }
}

async fn vote(around: &Surroundings<'_>, state: State, txn: &TxnId) -> Outcome {
    const METHOD: &str = "vote";
    let mut open = match state {
        State::Open(open) if open.id == *txn => open,
        State::Voted(ready) if ready.id == *txn => {
            return (State::Voted(ready), METHOD, Err(wrong("it has voted")));
        }
        state => return (state, METHOD, Err(wrong("a vote for no open transaction"))),
    };
    open.counts_undone(around).await;
    let Open {
        id,
        token,
        work,
        mut blobs,
        storing,
        written,
        undone,
        undone_bytes,
        told,
        counted,
    } = open;
    let transaction = match work {
        Work::Sound(transaction) => transaction,
        Work::Poisoned(error) => {
            around.contender.done();
            return (State::Idle, METHOD, Err(Failed::Error(error)));
        }
    };
    let waiting = around.stats.waiting.count();
    // Who was told of conflicts still holds the commit lock: it is its turn.
    if told.is_empty() {
        around.contender.turn(&written).await;
    }
    let outcome = transaction.vote().await;
    if let Some(committed) = in_the_way(&outcome) {
        can_be_read(around.storage, committed).await;
    }
    drop(waiting);
    match &outcome {
        // Whether it has lost is seen by whether it aborts.
        Ok(Vote::Conflicts(..)) => {}
        Err(StorageError::Answer(Answer::Conflict(one) | Answer::ReadConflict(one))) => {
            around.contender.lost([one.oid]);
        }
        _ => around.contender.done(),
    }
    match outcome {
        Ok(Vote::Ready(voted)) => {
            let resolved = voted.resolved().to_vec();
            let ready = Ready {
                id,
                token,
                voted,
                blobs,
                storing,
                counted,
                granted: around.stats.vote_granted(),
            };
            (State::Voted(ready), METHOD, Ok(Reply::Voted(resolved)))
        }
        Ok(Vote::Conflicts(transaction, conflicts)) => {
            around.stats.conflicts.fetch_add(1, Relaxed);
            let told: Vec<Oid> = conflicts.iter().map(|conflict| conflict.oid).collect();
            match for_the_client(blobs.conflicts(conflicts)).await {
                Ok(conflicts) => {
                    let open = Open {
                        id,
                        token,
                        work: Work::Sound(transaction),
                        blobs,
                        storing,
                        written,
                        undone,
                        undone_bytes,
                        told,
                        counted,
                    };
                    let reply = Reply::Conflicts(conflicts);
                    (State::Open(open), METHOD, Ok(reply))
                }
                Err(error) => {
                    around.contender.lost(told);
                    (State::Idle, METHOD, Err(Failed::Error(error)))
                }
            }
        }
        Err(error) => {
            if let StorageError::Answer(Answer::Conflict(_) | Answer::ReadConflict(_)) = &error {
                around.stats.conflicts.fetch_add(1, Relaxed);
            }
            (State::Idle, METHOD, Err(error.into()))
        }
    }
}

/// The last transaction that a vote was in conflict with.
fn in_the_way(outcome: &Result<Vote, StorageError>) -> Option<Tid> {
    match outcome {
        Ok(Vote::Conflicts(_, conflicts)) => {
            conflicts.iter().map(|conflict| conflict.committed).max()
        }
        Err(StorageError::Answer(Answer::Conflict(one) | Answer::ReadConflict(one))) => {
            Some(one.committed)
        }
        _ => None,
    }
}

/// Waits until a transaction can be read. Where commits overlap, a vote is already in conflict with
/// one that is still being finished; the client that is told of it loads what it wrote, to resolve the
/// conflict, or to try again. Gives up after some time: that one may never be finished.
async fn can_be_read(storage: &dyn Storage, tid: Tid) {
    let start = Instant::now();
    while start.elapsed() < CONFLICT_WAIT {
        // A storage that cannot say will not answer the client either.
        if storage.last_tid().await.is_ok_and(|last| last < tid) {
            tokio::time::sleep(LOOK_AGAIN).await;
        } else {
            return;
        }
    }
}

/// Conflicts as the client resolves them: with their data, in memory.
async fn for_the_client(conflicts: Vec<Conflict>) -> Result<Vec<Conflict>, WireError> {
    let mut ready = Vec::with_capacity(conflicts.len());
    for mut conflict in conflicts {
        let Some(data) = conflict.data.take() else {
            // Nothing was stored that could be resolved.
            return Err(WireError::Answer(Answer::Conflict(conflict)));
        };
        conflict.data = Some(in_memory(data).await?.into());
        ready.push(conflict);
    }
    Ok(ready)
}

/// The whole of a payload; what has to be read from a file is read on a thread for that.
pub(super) async fn in_memory(payload: Payload) -> Result<bytes::Bytes, WireError> {
    if let Some(bytes) = payload.in_memory() {
        return Ok(bytes.clone());
    }
    let read = crate::task::blocking(move || payload.read()).await;
    match read {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(WireError::Storage(format!("reading a record: {error}"))),
        Err(error) => Err(WireError::Storage(format!("reading a record: {error}"))),
    }
}

fn wrong(why: &str) -> Failed {
    Failed::Error(WireError::Answer(Answer::WrongTransaction(why.to_owned())))
}

fn method(op: &Op) -> &'static str {
    match op {
        Op::Store { .. } => "storea",
        Op::StoreBlob { .. } => "storeBlobEnd",
        Op::Restore { .. } => "restorea",
        Op::Delete { .. } => "deleteObject",
        Op::CheckCurrent { .. } => "checkCurrentSerialInTransaction",
        Op::Undo { .. } => "undoa",
    }
}
