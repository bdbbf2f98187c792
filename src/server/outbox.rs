//! What leaves to one client, and in which order: the one place that decides it.
//!
//! INVARIANT 6 in three rules:
//!
//! 1. Before a reply leaves, the invalidations that are due leave. A transaction comes out of the queue
//!    at the moment from which on the storage answers as of it ([`Invalidations`]); so emptying the
//!    queue before each reply is enough, and nobody who was told of a transaction is given what was
//!    before it.
//! 2. An answer without end ("this is current") never follows a later invalidation of its object: a
//!    client would keep it as current for ever (ZEO `docs/ordering.rst`, scenario 2). Where that
//!    would happen the answer is given that end. What was sent is remembered for it ([`Order`]).
//! 3. The client's own commit has its place among the invalidations. Instead of an invalidation it
//!    gets `info` and the reply to its `tpc_finish`, when its transaction comes out of the queue:
//!    Python's client fails when the last TID that it hears of goes back.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::storage::{Committed, CutOff, Invalidations, Loaded, Storage, TxnToken};
use crate::wire::connection::Writer;
use crate::wire::{LoadedRecord, MessageId, Push, Reply};
use crate::zodb::{Oid, Tid};

/// How many transactions are remembered after their invalidation was sent, and how many oids.
const REMEMBERED: usize = 1024;
const REMEMBERED_OIDS: usize = 64 << 10;

/// The order of what leaves to one registered client.
pub(super) struct Outbox<'a, W> {
    writer: Writer<W>,
    invalidations: Invalidations,
    storage: &'a dyn Storage,
    order: Order,
    own: Option<Own>,
}

/// The client's transaction that is being finished.
struct Own {
    token: TxnToken,
    /// The call of `tpc_finish`; none where no reply is wanted.
    id: Option<MessageId>,
}

/// The answer is older than what is remembered: it must be asked for again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooOld;

/// What became of an answer to a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    Yes,
    AskAgain,
}

impl<'a, W> Outbox<'a, W> {
    /// An outbox for a client that was told `last` when it registered; `invalidations` must have been
    /// subscribed before that was asked.
    pub(super) fn new(
        writer: Writer<W>,
        invalidations: Invalidations,
        storage: &'a dyn Storage,
        last: Tid,
    ) -> Self {
        Outbox {
            writer,
            invalidations,
            storage,
            order: Order::new(last),
            own: None,
        }
    }

    /// Passes on the transactions that are due, in their order.
    pub(super) fn pass_on(&mut self) -> Result<(), CutOff> {
        while let Some(next) = self.invalidations.try_next()? {
            self.admit(next);
        }
        Ok(())
    }

    /// Takes a transaction that came out of the queue.
    pub(super) fn came(&mut self, committed: Committed) -> Result<(), CutOff> {
        self.admit(committed);
        self.pass_on()
    }

    fn admit(&mut self, committed: Committed) {
        let is_new = self.order.is_new(committed.tid);
        if bug!(ReorderInvalidations)
            && let Ok(Some(next)) = self.invalidations.try_next()
        {
            self.admit(next);
        }
        let Committed { tid, oids, by } = committed;
        let own = self.own.take_if(|own| Some(own.token) == by);
        if let Some(own) = own {
            self.order.note(tid, oids);
            self.finished(own, tid);
        } else if is_new && !(bug!(LoseInvalidations) && tid.0.is_multiple_of(4)) {
            let push = Push::InvalidateTransaction {
                tid,
                oids: Arc::clone(&oids),
            };
            self.writer.push(&push);
            self.order.note(tid, oids);
        }
    }

    fn finished(&mut self, own: Own, tid: Tid) {
        self.size();
        if let Some(id) = own.id {
            self.writer.reply(&id, &Reply::Tid(tid));
        }
    }

    /// Tells how much the storage holds.
    pub(super) fn size(&mut self) {
        let size = self.storage.size();
        self.writer.push(&Push::Info {
            objects: size.objects,
            bytes: size.bytes,
        });
    }

    /// Queues a piece of a blob, which belongs to no transaction's order.
    pub(super) fn push(&mut self, push: &Push) {
        self.writer.push(push);
    }

    /// Queues a reply, after the invalidations that are due.
    pub(super) fn reply(&mut self, id: &MessageId, reply: &Reply) -> Result<(), CutOff> {
        self.pass_on()?;
        self.writer.reply(id, reply);
        Ok(())
    }

    /// Queues the answer to a load, after the invalidations that are due, unless it has to be asked
    /// for again.
    pub(super) fn loaded(
        &mut self,
        id: &MessageId,
        oid: Oid,
        loaded: Option<&Loaded>,
    ) -> Result<Sent, CutOff> {
        self.pass_on()?;
        let record = match loaded {
            None => None,
            Some(loaded) => match self.order.end(oid, loaded) {
                Err(TooOld) => return Ok(Sent::AskAgain),
                Ok(end) => Some(LoadedRecord {
                    data: loaded.data.clone(),
                    tid: loaded.tid,
                    end,
                }),
            },
        };
        self.writer.reply(id, &Reply::Loaded(record));
        Ok(Sent::Yes)
    }

    /// The client's transaction `token` is being finished: its reply takes its place in the order.
    pub(super) fn finishing(&mut self, token: TxnToken, id: Option<MessageId>) {
        self.own = Some(Own { token, id });
    }

    /// The finish has ended and its transaction must have come out of the queue. Where the storage
    /// did not say whose it was, the reply leaves now.
    pub(super) fn finish_ended(&mut self, tid: Tid) -> Result<(), CutOff> {
        self.pass_on()?;
        if let Some(own) = self.own.take() {
            self.order.note(tid, Arc::new([]));
            self.finished(own, tid);
        }
        Ok(())
    }

    /// The finish has failed: `reply` says why.
    pub(super) fn finish_failed(&mut self, reply: &Reply) -> Result<(), CutOff> {
        match self.own.take() {
            Some(Own { id: Some(id), .. }) => self.reply(&id, reply),
            _ => Ok(()),
        }
    }

    /// Bytes that wait to be written.
    pub(super) fn pending(&self) -> usize {
        self.writer.pending()
    }

    /// The two ends that can be waited for at the same time.
    pub(super) fn ends(&mut self) -> (&mut Writer<W>, &mut Invalidations) {
        (&mut self.writer, &mut self.invalidations)
    }
}

/// What a client was told of finished transactions, as far back as answers may be in flight.
///
/// An answer says as of which transaction it is. Only transactions later than that can change its end;
/// so most answers are judged by one comparison, and the others by the few last entries. Where the
/// memory does not reach back far enough, the answer is asked for again: that one will be newer.
#[derive(Debug)]
struct Order {
    /// The last transaction that the client knows of.
    sent: Tid,
    recent: VecDeque<(Tid, Arc<[Oid]>)>,
    recent_oids: usize,
    /// The last transaction that is not remembered any more.
    forgotten: Tid,
}

impl Order {
    fn new(last: Tid) -> Self {
        Order {
            sent: last,
            recent: VecDeque::new(),
            recent_oids: 0,
            // An answer as of a transaction before the registration would be missing everything that
            // the client was told by its last TID alone.
            forgotten: last,
        }
    }

    fn is_new(&self, tid: Tid) -> bool {
        tid > self.sent
    }

    fn note(&mut self, tid: Tid, oids: Arc<[Oid]>) {
        debug_assert!(
            tid > self.sent || bug!(ReorderInvalidations),
            "queues are in TID order"
        );
        self.sent = self.sent.max(tid);
        self.recent_oids += oids.len();
        self.recent.push_back((tid, oids));
        while self.recent.len() > REMEMBERED || self.recent_oids > REMEMBERED_OIDS {
            let Some((tid, oids)) = self.recent.pop_front() else {
                break;
            };
            self.recent_oids -= oids.len();
            self.forgotten = tid;
        }
    }

    /// The end that an answer must leave with.
    fn end(&self, oid: Oid, loaded: &Loaded) -> Result<Option<Tid>, TooOld> {
        if loaded.end.is_some() || loaded.as_of >= self.sent {
            return Ok(loaded.end);
        }
        if loaded.as_of < self.forgotten {
            return Err(TooOld);
        }
        let later = self
            .recent
            .iter()
            .rev()
            .take_while(|(tid, _)| *tid > loaded.as_of);
        let first = later
            .filter(|(tid, oids)| *tid > loaded.tid && oids.contains(&oid))
            .last();
        Ok(first.map(|(tid, _)| *tid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn loaded(tid: u64, end: Option<u64>, as_of: u64) -> Loaded {
        Loaded {
            data: Bytes::new(),
            tid: Tid(tid),
            end: end.map(Tid),
            as_of: Tid(as_of),
        }
    }

    fn order(start: u64, sent: &[(u64, &[u64])]) -> Order {
        let mut order = Order::new(Tid(start));
        for (tid, oids) in sent {
            order.note(Tid(*tid), oids.iter().copied().map(Oid).collect());
        }
        order
    }

    #[test]
    fn an_open_answer_gets_the_end_that_the_client_was_told() {
        let order = order(10, &[(11, &[1]), (12, &[2]), (13, &[1, 2])]);
        let check = |oid: u64, answer: Loaded, expected: Result<Option<u64>, TooOld>| {
            assert_eq!(
                order.end(Oid(oid), &answer),
                expected.map(|end| end.map(Tid)),
                "{oid} {answer:?}"
            );
        };
        check(1, loaded(5, None, 13), Ok(None));
        check(1, loaded(5, None, 12), Ok(Some(13)));
        check(1, loaded(5, None, 10), Ok(Some(11)));
        check(2, loaded(5, None, 10), Ok(Some(12)));
        check(3, loaded(5, None, 10), Ok(None));
        check(1, loaded(5, Some(7), 10), Ok(Some(7)));
        check(1, loaded(5, None, 9), Err(TooOld));
        // Newer than what was sent: the invalidation follows.
        check(1, loaded(14, None, 14), Ok(None));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut order = Order::new(Tid(0));
        for tid in 1..=3 * REMEMBERED as u64 {
            order.note(Tid(tid), Arc::new([Oid(tid)]));
        }
        assert_eq!(order.recent.len(), REMEMBERED);
        let many: Arc<[Oid]> = (0..=REMEMBERED_OIDS as u64).map(Oid).collect();
        order.note(Tid(1 << 20), many);
        assert!(order.recent.is_empty());
        assert_eq!(order.end(Oid(9), &loaded(1, None, 50)), Err(TooOld));
        assert_eq!(order.end(Oid(9), &loaded(1, None, 1 << 20)), Ok(None));
    }

    proptest! {
        /// Against the plain definition: the first invalidation of the object that the answer did not
        /// know.
        #[test]
        fn no_open_answer_follows_a_later_invalidation(
            sent in proptest::collection::vec(proptest::collection::vec(0u64..6, 0..4), 0..30),
            oid in 0u64..6,
            as_of in 0u64..32,
        ) {
            let mut order = Order::new(Tid(0));
            for (number, oids) in sent.iter().enumerate() {
                order.note(Tid(number as u64 + 1), oids.iter().copied().map(Oid).collect());
            }
            let as_of = as_of.min(sent.len() as u64);
            let current = (1..=as_of).rev().find(|tid| sent[*tid as usize - 1].contains(&oid)).unwrap_or(0);
            let expected = (as_of + 1..=sent.len() as u64).find(|tid| sent[*tid as usize - 1].contains(&oid));
            let end = order.end(Oid(oid), &loaded(current, None, as_of));
            prop_assert_eq!(end, Ok(expected.map(Tid)));
        }
    }
}
