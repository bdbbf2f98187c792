//! What a client asks besides loading and storing: iterators, histories, the undo log, new identifiers.
//!
//! What cannot be judged at once is a [`Claim`], which is compared with the history that is left.

use super::{ACCOUNTS, COUNTER, PAIR, trace};
use super::{
    Bytes, Call, Client, Connection, LAST_FIXED, Reply, Result, Tid, Trouble, state, value,
};
use crate::pickle::Value;
use crate::simulation::truth::{Claim, Records};
use crate::zodb::{TxnMeta, TxnStatus};

/// An iteration gives up after so many.
const MOST: usize = 40;

fn lost(asked: &Call, reply: &Reply) -> Trouble {
    Trouble::Lost(format!("{} is answered {reply:?}", asked.method()))
}

impl Client {
    /// Changes or deletes an object whose identifier was given to it.
    pub(super) async fn passing(
        &mut self,
        connection: &mut Connection,
        name: &str,
        before: Tid,
    ) -> Result<()> {
        let Some(oid) = self.given.last().copied() else {
            return Ok(());
        };
        // A transaction that stored it may not have come to anything.
        let Some((serial, data)) = self.load(connection, oid, before).await? else {
            self.given.remove(&oid);
            self.gone.insert(oid);
            return Ok(());
        };
        // Packing takes an object that is gone, and a copy that was away meanwhile does not hear that it was
        // deleted: it has the object still, where the others have it no more.
        let stays = self.packs || fastrand::bool();
        let data = stays.then(|| state(value(&data) + 1, name));
        let is_deleted = data.is_none();
        let done = self.commit(connection, name, vec![(oid, serial, data)], None);
        if done.await?.is_some() && is_deleted {
            self.given.remove(&oid);
            self.gone.insert(oid);
        }
        Ok(())
    }

    /// Asks for identifiers, and makes an object with one of them.
    pub(super) async fn new_object(
        &mut self,
        connection: &mut Connection,
        name: &str,
    ) -> Result<()> {
        let count = fastrand::usize(1..4);
        let call = Call::NewOids { count };
        let from = self.world.oids_from(connection.daemon);
        let oids = match self.call(connection, call.clone()).await? {
            Reply::Oids(oids) if !oids.is_empty() => oids,
            other => return Err(lost(&call, &other)),
        };
        if let Some(oid) = oids.iter().find(|oid| **oid <= LAST_FIXED) {
            trace::fail(format!("{} is given {oid}", self.who()));
        }
        let Some(whole) = self.world.whole(connection.daemon) else {
            return Ok(());
        };
        let still = self.world.oids_from(connection.daemon);
        let from = from.filter(|from| still.as_ref() == Some(from));
        let lives = |life| self.world.lives(life);
        let fresh = self.truth().gave(whole.number(), &oids, from, lives);
        // Where one was given before, by who has ended or lost its server, another client may use it.
        if fresh.is_empty() {
            return Ok(());
        }
        let oid = fresh[fastrand::usize(..fresh.len())];
        self.given.insert(oid);
        let writes = vec![(oid, Tid::ZERO, Some(state(1, name)))];
        self.commit(connection, name, writes, None).await?;
        Ok(())
    }

    /// Walks over a part of the history with all records.
    pub(super) async fn iterate(&mut self, connection: &mut Connection) -> Result<()> {
        let heard = connection.heard;
        // About as far back as a minute.
        let back = fastrand::u64(..1 << 32);
        let first = Tid(heard.0.saturating_sub(back));
        let to_the_end = fastrand::bool();
        let last = (!to_the_end).then(|| Tid(first.0 + fastrand::u64(..1 << 32)));
        let call = Call::IteratorStart {
            first: Some(first),
            last,
        };
        let iterator = match self.call(connection, call.clone()).await? {
            Reply::Iterator(iterator) => iterator,
            other => return Err(lost(&call, &other)),
        };
        let mut found: Vec<(Tid, TxnMeta, Records)> = Vec::new();
        let mut ended = false;
        while found.len() < MOST {
            let call = Call::IteratorNext { iterator };
            let (tid, meta) = match self.call(connection, call.clone()).await? {
                Reply::Transaction(Some(transaction)) => transaction,
                Reply::Transaction(None) => {
                    ended = true;
                    break;
                }
                other => return Err(lost(&call, &other)),
            };
            let after = found.last().map_or(Tid::ZERO, |(tid, ..)| *tid);
            if tid <= after || tid < first || last.is_some_and(|last| tid > last) {
                let who = self.who();
                trace::fail(format!(
                    "{who} iterates from {first} to {last:?}, and is given {tid} after {after}"
                ));
            }
            let records = self.records(connection, iterator, tid).await?;
            found.push((tid, meta, records));
        }
        if !ended {
            let iterators = vec![iterator];
            self.call(connection, Call::IteratorGc { iterators })
                .await?;
        }
        let given = found.last().map(|(tid, ..)| *tid);
        if ended && last.is_none_or(|last| last >= heard) && heard > self.truth().floor() {
            // It was told of that one before.
            if heard >= first && given.is_none_or(|given| given < heard) {
                let who = self.who();
                trace::fail(format!(
                    "{who} iterates to {given:?}, and had heard of {heard}"
                ));
            }
        }
        // Without an end it is known to be complete as far as it went.
        let upto = match (ended, last) {
            (true, Some(last)) => last.min(given.unwrap_or_default().max(heard)),
            _ => given.unwrap_or_default(),
        };
        let claim = Claim::Iterated {
            first,
            last: upto,
            found,
        };
        self.truth().claims(&self.who(), claim);
        Ok(())
    }

    async fn records(
        &mut self,
        connection: &mut Connection,
        iterator: i64,
        tid: Tid,
    ) -> Result<Records> {
        let call = Call::IteratorRecordStart { iterator, tid };
        let iterator = match self.call(connection, call.clone()).await? {
            Reply::Iterator(iterator) => iterator,
            other => return Err(lost(&call, &other)),
        };
        let mut records = Records::new();
        loop {
            let call = Call::IteratorRecordNext { iterator };
            match self.call(connection, call.clone()).await? {
                Reply::Record(Some(record)) => records.push((record.oid, record.data)),
                Reply::Record(None) => break,
                other => return Err(lost(&call, &other)),
            }
        }
        records.sort();
        Ok(records)
    }

    /// The undo log.
    pub(super) async fn undo_info(&mut self, connection: &mut Connection) -> Result<()> {
        let heard = connection.heard;
        self.pack = self.world.pack_seen(connection.daemon);
        let call = Call::UndoInfo {
            first: 0,
            last: -fastrand::i64(1..30),
            specification: Value::None,
        };
        let lines = match self.call(connection, call.clone()).await? {
            Reply::UndoLog(lines) => lines,
            other => return Err(lost(&call, &other)),
        };
        let found = lines.into_iter().map(|line| {
            let meta = told(line.user, line.description, line.extension);
            (line.tid, meta)
        });
        let found: Vec<(Tid, TxnMeta)> = found.collect();
        self.must_reach(heard, &found, "the undo log");
        self.truth().claims(&self.who(), Claim::Undoable(found));
        Ok(())
    }

    /// Revisions of an object that many write.
    pub(super) async fn history(&mut self, connection: &mut Connection) -> Result<()> {
        let oid = [COUNTER, ACCOUNTS[1], PAIR[1]][fastrand::usize(..3)];
        let heard = self.told.get(&oid).copied().unwrap_or_default();
        let count = fastrand::usize(1..20);
        let call = Call::History { oid, count };
        let lines = match self.call(connection, call.clone()).await? {
            Reply::History(lines) => lines,
            other => return Err(lost(&call, &other)),
        };
        let found = lines.into_iter().map(|line| {
            let meta = told(line.user, line.description, line.extension);
            (line.tid, meta)
        });
        let found: Vec<(Tid, TxnMeta)> = found.collect();
        self.must_reach(heard, &found, "the history of an object");
        self.truth()
            .claims(&self.who(), Claim::Revisions(oid, found));
        Ok(())
    }

    /// What it had heard of before it asked is among what it is told.
    fn must_reach(&self, heard: Tid, found: &[(Tid, TxnMeta)], what: &str) {
        let newest = found.first().map_or(Tid::ZERO, |(tid, _)| *tid);
        if newest < heard && heard > self.truth().floor() {
            let who = self.who();
            trace::fail(format!(
                "{what} as {who} is told it ends at {newest}, and it had heard of {heard}"
            ));
        }
    }

    /// `getTid`.
    pub(super) async fn current(&mut self, connection: &mut Connection) -> Result<()> {
        let oid = [COUNTER, ACCOUNTS[2], PAIR[0]][fastrand::usize(..3)];
        let before = self.told.get(&oid).copied();
        let call = Call::GetTid { oid };
        match self.call(connection, call.clone()).await? {
            Reply::Tid(tid) => {
                self.must_be_of_now(connection, oid, before, tid);
                Ok(())
            }
            other => Err(lost(&call, &other)),
        }
    }
}

fn told(user: Bytes, description: Bytes, extension: Bytes) -> TxnMeta {
    TxnMeta {
        user,
        description,
        extension,
        status: TxnStatus::Normal,
    }
}
