//! A client as ZODB's is: a cache that invalidations keep right, snapshots, optimistic transactions.
//!
//! It loads as of the last transaction that it has heard of, from its cache where it can. It moves money
//! between accounts, writes two objects together, counts (and resolves conflicts of the count itself),
//! writes and undoes an object of its own, stores blobs, packs. When its connection ends it goes to any
//! daemon and verifies its cache by what it has missed. What it sees is checked at once where it can
//! be, and all of it at the end ([`super::truth`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout, timeout_at};

use super::network::{ReadHalf, WriteHalf, connect};
use super::trace;
use super::truth::{Truth, Writes};
use super::world::{PackSeen, World};
use crate::pickle::{Value, extension};
use crate::raid::{ArrayReport, Serving};
use crate::wire::connection::{Reader, Writer};
use crate::wire::{
    Call, Expected, FromServer, MessageId, Push, Reply, Request, TxnId, WireError, handshake,
};
use crate::zodb::{Answer, Conflict, Oid, Tid, TxnMeta, TxnStatus};

mod asks;

pub(super) const ACCOUNTS: [Oid; 4] = [Oid(1), Oid(2), Oid(3), Oid(4)];
const PAIR: [Oid; 2] = [Oid(10), Oid(11)];
const COUNTER: Oid = Oid(20);
/// Whatever identifier is given out comes after this one.
const LAST_FIXED: Oid = Oid(1000);
const MONEY: i64 = 100;
/// What is in all accounts together, always.
const SUM: i64 = 4 * MONEY;
/// The record of a blob begins with its class.
const BLOB: &[u8] = b"\x80\x03cZODB.blob\nBlob\nq\x01.";
/// What an array refuses as long as it is packed, in its words.
const WHILE_PACKED: &str = "undo is disabled while the array is being packed";
/// No call takes longer, whatever happens.
const LONGEST: Duration = Duration::from_mins(2);
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Why a client could not go on.
#[derive(Debug)]
enum Trouble {
    /// The connection is gone.
    Lost(String),
    /// It has had enough of it.
    Leaves,
    Answered(WireError),
}

type Result<T> = std::result::Result<T, Trouble>;

/// What stays of a client when its process dies.
pub(super) struct Identity {
    pub(super) number: u64,
    /// Names are never used twice.
    pub(super) names: AtomicU64,
}

pub(super) struct Client {
    identity: Arc<Identity>,
    world: Arc<World>,
    cache: BTreeMap<Oid, (Tid, Bytes)>,
    /// The last transaction that it has heard of.
    last: Tid,
    /// What it can undo: the transaction, what was there before.
    undoable: Option<(Tid, Bytes)>,
    packs: bool,
    /// By object, the last transaction that it was told to have changed it.
    told: BTreeMap<Oid, Tid>,
    /// Objects of its own, whose identifiers were given to it.
    given: BTreeSet<Oid>,
    /// Those that it has deleted, or has not made.
    gone: BTreeSet<Oid>,
    /// It reads as of this, and what it stores is what it has read then.
    before: Tid,
    /// Which transaction it has asked to undo.
    undoing: Option<Tid>,
    /// What its daemon packed when it asked for what packing refuses.
    pack: PackSeen,
    /// What the next transaction depends on.
    checks: Vec<(Oid, Tid)>,
}

struct Connection {
    daemon: usize,
    reader: Reader<ReadHalf>,
    writer: Writer<WriteHalf>,
    next: i64,
    /// The last transaction that was announced on it.
    heard: Tid,
    /// What was, until the cache is verified: who went by it before that would ask the next daemon for too little.
    early: Option<Vec<(Tid, Arc<[Oid]>)>>,
    /// A blob that is being received.
    blob: Vec<u8>,
}

impl Connection {
    fn queue(&mut self, call: Call, one_way: bool) -> i64 {
        let id = self.next;
        self.next += 1;
        let request = Request {
            id: MessageId::Int(id),
            one_way,
            call,
        };
        self.writer.request(&request).expect("it can be encoded");
        id
    }

    async fn flush(&mut self) -> Result<()> {
        let flushed = timeout(LONGEST, self.writer.flush()).await;
        match flushed {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Trouble::Lost(error.to_string())),
            Err(_) => {
                trace::fail("a daemon reads nothing for two minutes");
                Err(Trouble::Lost("nothing is read".into()))
            }
        }
    }
}

fn value(data: &[u8]) -> i64 {
    let text = std::str::from_utf8(data).ok();
    let word = text.and_then(|text| text.split(' ').next());
    word.and_then(|word| word.parse().ok()).unwrap_or_default()
}

fn state(value: i64, name: &str) -> Bytes {
    format!("{value} {name}").into()
}

/// What the file of a blob holds, by its record.
pub(super) fn content_of(data: &[u8]) -> Vec<u8> {
    let name = data.strip_prefix(BLOB).unwrap_or_default();
    name.repeat(1 + name.len() * 20)
}

/// A user, and what an application says besides.
fn random_meta(name: &str) -> TxnMeta {
    let user = match fastrand::u8(..3) {
        0 => String::new(),
        1 => format!("user {}", fastrand::u8(..)),
        _ => " /user\u{e9}".repeat(fastrand::usize(1..20)),
    };
    let said = (0..fastrand::usize(..4)).map(|number| {
        let value = match fastrand::u8(..3) {
            0 => Value::Int(fastrand::i64(..)),
            1 => Value::Text(name.repeat(fastrand::usize(..9))),
            _ => Value::None,
        };
        (Value::Text(format!("said {number}")), value)
    });
    TxnMeta {
        user: user.into(),
        description: name.to_owned().into(),
        extension: extension::pickled(&said.collect::<Vec<_>>()),
        status: TxnStatus::Normal,
    }
}

impl Client {
    pub(super) fn new(identity: Arc<Identity>, world: Arc<World>, packs: bool) -> Self {
        Client {
            identity,
            world,
            cache: BTreeMap::new(),
            last: Tid::ZERO,
            undoable: None,
            packs,
            told: BTreeMap::new(),
            given: BTreeSet::new(),
            gone: BTreeSet::new(),
            before: Tid::ZERO,
            undoing: None,
            pack: PackSeen::default(),
            checks: Vec::new(),
        }
    }

    fn truth(&self) -> &Truth {
        &self.world.truth
    }

    fn who(&self) -> String {
        format!("c{}", self.identity.number)
    }

    /// Until the history is over.
    pub(super) async fn run(mut self) {
        while !self.world.is_over() {
            let daemon = fastrand::usize(..self.world.daemons());
            let connected = timeout(Duration::from_secs(30), self.connect(daemon)).await;
            let ended = match connected {
                Ok(Ok(mut connection)) => self.work(&mut connection).await,
                Ok(Err(trouble)) => Err(trouble),
                Err(_) => Err(Trouble::Lost("it takes too long".into())),
            };
            if let Err(trouble) = ended {
                let suffered = format!("{trouble:?}");
                trace::note(format!("is without d{}: {suffered}", daemon + 1));
                if !matches!(trouble, Trouble::Leaves) {
                    self.must_be_excused(daemon, &suffered).await;
                }
            }
            tokio::time::sleep(Duration::from_millis(fastrand::u64(100..2000))).await;
        }
    }

    async fn connect(&mut self, daemon: usize) -> Result<Connection> {
        let lost = |error: std::io::Error| Trouble::Lost(error.to_string());
        let address = format!("d{}:8100", daemon + 1);
        let (read, write) = connect(&address).await.map_err(lost)?;
        let mut reader = Reader::new(read, 1 << 24);
        let mut writer = Writer::new(write);
        let shaken = handshake::connect(&mut reader, &mut writer, None).await;
        shaken.map_err(|error| Trouble::Lost(error.to_string()))?;
        let mut connection = Connection {
            daemon,
            reader,
            writer,
            next: 1,
            heard: Tid::ZERO,
            early: Some(Vec::new()),
            blob: Vec::new(),
        };
        let register = Call::Register {
            storage: "1".into(),
            read_only: false,
        };
        let last = match self.call(&mut connection, register).await? {
            Reply::Tid(tid) => tid,
            other => return Err(Trouble::Lost(format!("registered: {other:?}"))),
        };
        if last < self.last {
            trace::fail(format!("d{} says {last} after {}", daemon + 1, self.last));
        }
        connection.heard = connection.heard.max(last);
        if self.last.is_zero() {
            self.cache.clear();
            self.last = last;
        } else if last > self.last {
            let since = self.last;
            let call = Call::GetInvalidations { since };
            match self.call(&mut connection, call).await? {
                Reply::Invalidations(Some((tid, oids))) => {
                    for oid in oids {
                        self.cache.remove(&oid);
                    }
                    self.last = self.last.max(tid);
                }
                Reply::Invalidations(None) => {
                    self.cache.clear();
                    self.last = self.last.max(last);
                }
                other => return Err(Trouble::Lost(format!("verified: {other:?}"))),
            }
        }
        for (tid, oids) in connection.early.take().into_iter().flatten() {
            self.is_told(tid, &oids);
        }
        trace::note(format!("is with d{} at {}", daemon + 1, self.last));
        Ok(connection)
    }

    /// Transactions, one after the other, until something ends it.
    async fn work(&mut self, connection: &mut Connection) -> Result<()> {
        while !self.world.is_over() {
            let pause = Duration::from_millis(fastrand::u64(5..400));
            self.listen(connection, pause).await?;
            if fastrand::u8(..60) == 0 {
                return Err(Trouble::Leaves);
            }
            if fastrand::u8(..100) == 0 {
                let pause = Duration::from_millis(fastrand::u64(500..9000));
                trace::note(format!("reads nothing for {} ms", pause.as_millis()));
                tokio::time::sleep(pause).await;
            }
            match self.transaction(connection).await {
                Ok(()) => {}
                Err(Trouble::Answered(error)) => self.answered(connection.daemon, &error).await,
                Err(trouble) => return Err(trouble),
            }
        }
        Ok(())
    }

    /// An error that came instead of what was asked for.
    async fn answered(&self, daemon: usize, error: &WireError) {
        trace::note(format!("is answered {error:?}"));
        // What every healthy storage says, too, where there is a reason.
        let is_usual = match error {
            WireError::Answer(Answer::Conflict(conflict) | Answer::ReadConflict(conflict)) => {
                self.must_be_later(conflict);
                true
            }
            WireError::Answer(Answer::Undo { reason, oid: None }) if reason == WHILE_PACKED => {
                self.is_packed_meanwhile(daemon)
            }
            // That it can be undone was looked at: see `transaction`.
            WireError::Answer(Answer::Undo { .. } | Answer::MultipleUndo(_)) => {
                let packed = |tid: Tid| tid <= self.truth().floor();
                self.undoing.is_some_and(packed) || self.may_have_changed(self.own())
            }
            WireError::Answer(Answer::NoSuchObject(oid)) => {
                self.before <= self.truth().floor().next() || self.may_have_changed(*oid)
            }
            _ => false,
        };
        if !is_usual {
            self.must_be_excused(daemon, &format!("{error:?}")).await;
        }
    }

    fn own(&self) -> Oid {
        Oid(100 + self.identity.number)
    }

    fn own_blob(&self) -> Oid {
        Oid(200 + self.identity.number)
    }

    fn owns(&self, oid: Oid) -> bool {
        let fixed = [self.own(), self.own_blob()];
        fixed.contains(&oid) || self.given.contains(&oid) || self.gone.contains(&oid)
    }

    /// Whether a transaction of its own, of which it does not know what became, may have changed it.
    fn may_have_changed(&self, oid: Oid) -> bool {
        self.owns(oid) && self.truth().may_have_changed(oid)
    }

    /// A conflict is with something that came after what was read; where nobody else writes, with a transaction
    /// of its own of which it was told nothing.
    fn must_be_later(&self, conflict: &Conflict) {
        let (who, oid, before) = (self.who(), conflict.oid, self.before);
        // As of a snapshot that packing has reached, objects that are there cannot be read.
        if conflict.committed < before && before > self.truth().floor().next() {
            trace::fail(format!(
                "{who} has read {oid} before {before}, and is told of a conflict with {}",
                conflict.committed
            ));
        }
        if self.owns(oid) && !self.may_have_changed(oid) {
            trace::fail(format!(
                "{who} is told of a conflict of {oid}, which nobody else writes: {conflict:?}"
            ));
        }
    }

    /// Who was told of a transaction may ask any member that serves, and the status.
    fn must_be_at_the_head(&self, daemon: usize, tid: Tid) {
        let report = self.world.whole(daemon).map(|whole| whole.report());
        // The daemon may have ended since, and its next life has not asked its members yet.
        let knows = |report: &ArrayReport| !matches!(report.serving, Serving::Starting { .. });
        if let Some(report) = report.filter(|report| knows(report) && report.head < tid) {
            trace::fail(format!(
                "d{} has acknowledged {tid}, and its status ends at {}",
                daemon + 1,
                report.head
            ));
        }
    }

    /// What it is given is not older than what it was told.
    fn must_not_be_older(&self, oid: Oid, before: Tid, tid: Option<Tid>) {
        let told = self.told.get(&oid).filter(|told| **told < before);
        if let Some(told) = told.filter(|told| tid.is_none_or(|tid| tid < **told)) {
            // Packing may have removed what was current as of an old snapshot.
            if tid.is_some() || before > self.truth().floor().next() {
                trace::fail(format!(
                    "{} is given {oid} of {tid:?} before {before}, and was told of {told}",
                    self.who()
                ));
            }
        }
    }

    /// Whether a pack has run since what is asked for was begun.
    fn is_packed_meanwhile(&self, daemon: usize) -> bool {
        let now = self.world.pack_seen(daemon);
        self.pack.runs || now.runs || now.last != self.pack.last
    }

    async fn must_be_excused(&self, daemon: usize, suffered: &str) {
        let number = self.identity.number;
        let judged = self.world.must_have_an_excuse(number, daemon, suffered);
        judged.await;
    }

    /// Hears what is said unasked, for a while.
    async fn listen(&mut self, connection: &mut Connection, pause: Duration) -> Result<()> {
        let until = Instant::now() + pause;
        while let Ok(came) = timeout_at(until, connection.reader.next_from_server()).await {
            self.came(connection, came)?;
        }
        Ok(())
    }

    fn came(
        &mut self,
        connection: &mut Connection,
        came: std::result::Result<Option<FromServer>, crate::wire::connection::ReceiveError>,
    ) -> Result<Option<crate::wire::RawReply>> {
        match came {
            Ok(Some(FromServer::Reply(reply))) => Ok(Some(reply)),
            Ok(Some(FromServer::Push(push))) => {
                self.pushed(connection, push);
                Ok(None)
            }
            Ok(Some(FromServer::Heartbeat)) => Ok(None),
            Ok(None) => Err(Trouble::Lost("the daemon ends it".into())),
            Err(error) => Err(Trouble::Lost(error.to_string())),
        }
    }

    fn pushed(&mut self, connection: &mut Connection, push: Push) {
        match push {
            Push::InvalidateTransaction { tid, oids } => {
                if tid <= connection.heard {
                    let heard = connection.heard;
                    trace::fail(format!("{} hears of {tid} after {heard}", self.who()));
                }
                connection.heard = tid;
                match &mut connection.early {
                    Some(early) => early.push((tid, oids)),
                    None => self.is_told(tid, &oids),
                }
            }
            Push::ReceiveBlobStart { .. } => connection.blob.clear(),
            Push::ReceiveBlobChunk { chunk, .. } => connection.blob.extend_from_slice(&chunk),
            Push::ReceiveBlobStop { .. } | Push::Info { .. } => {}
        }
    }

    fn is_told(&mut self, tid: Tid, oids: &[Oid]) {
        self.last = self.last.max(tid);
        for oid in oids {
            self.cache.remove(oid);
            self.told.insert(*oid, tid);
        }
    }

    async fn call(&mut self, connection: &mut Connection, call: Call) -> Result<Reply> {
        let (expected, method) = (Expected::of(&call), call.method());
        let id = MessageId::Int(connection.queue(call, false));
        connection.flush().await?;
        let longest = Instant::now() + LONGEST;
        loop {
            let until = longest.min(Instant::now() + HEARTBEAT);
            let Ok(came) = timeout_at(until, connection.reader.next_from_server()).await else {
                if until == longest {
                    trace::fail(format!("{} waits for {method} for ever", self.who()));
                    return Err(Trouble::Lost("it is not answered".into()));
                }
                connection.writer.heartbeat();
                connection.flush().await?;
                continue;
            };
            let Some(reply) = self.came(connection, came)? else {
                continue;
            };
            if reply.id != id {
                return Err(Trouble::Lost(format!("a reply to {:?}", reply.id)));
            }
            return match reply.expect(expected) {
                Ok(Reply::Error(error)) => Err(Trouble::Answered(error)),
                Ok(reply) => Ok(reply),
                Err(error) => Err(Trouble::Lost(error.to_string())),
            };
        }
    }

    /// What an object was as of a snapshot.
    async fn load(
        &mut self,
        connection: &mut Connection,
        oid: Oid,
        before: Tid,
    ) -> Result<Option<(Tid, Bytes)>> {
        let cached = self.cache.get(&oid).filter(|(tid, _)| *tid < before);
        let found = match cached.cloned() {
            Some(found) => Some(found),
            None => match self
                .call(connection, Call::LoadBefore { oid, before })
                .await
            {
                Ok(Reply::Loaded(None))
                | Err(Trouble::Answered(WireError::Answer(Answer::NoSuchObject(_)))) => None,
                Ok(Reply::Loaded(Some(loaded))) => {
                    if loaded.tid >= before || loaded.end.is_some_and(|end| end < before) {
                        let who = self.who();
                        trace::fail(format!("{who} asked for {oid} before {before}: {loaded:?}"));
                    }
                    if loaded.end.is_none() {
                        let entry = (loaded.tid, loaded.data.clone());
                        self.cache.insert(oid, entry);
                    }
                    Some((loaded.tid, loaded.data))
                }
                Ok(other) => return Err(Trouble::Lost(format!("loaded: {other:?}"))),
                Err(trouble) => return Err(trouble),
            },
        };
        let tid = found.as_ref().map(|(tid, _)| *tid);
        // It may be deleted, by a transaction of which it was told nothing.
        if tid.is_some() || !self.may_have_changed(oid) {
            self.must_not_be_older(oid, before, tid);
        }
        self.truth().saw(&self.who(), oid, before, found.clone());
        Ok(found)
    }

    async fn load_all<const N: usize>(
        &mut self,
        connection: &mut Connection,
        oids: [Oid; N],
        before: Tid,
    ) -> Result<Option<[(Tid, Bytes); N]>> {
        let mut all = Vec::new();
        for oid in oids {
            if let Some(found) = self.load(connection, oid, before).await? {
                all.push(found);
            }
        }
        Ok(<[(Tid, Bytes); N]>::try_from(all).ok())
    }

    async fn transaction(&mut self, connection: &mut Connection) -> Result<()> {
        let before = self.last.next();
        let number = self.identity.names.fetch_add(1, Ordering::SeqCst);
        let name = format!("{}-{number}", self.who());
        let own = self.own();
        self.before = before;
        self.undoing = None;
        self.checks.clear();
        let Some(accounts) = self.load_all(connection, ACCOUNTS, before).await? else {
            if before > self.truth().floor().next() && before > Tid(1) {
                // Somebody else may have begun.
                let some = self.load(connection, PAIR[0], before).await?;
                if some.is_some() {
                    trace::fail(format!("{} sees a part of the beginning", self.who()));
                }
            }
            let money = ACCOUNTS
                .iter()
                .map(|oid| (*oid, Tid::ZERO, Some(state(MONEY, &name))));
            let others = [PAIR[0], PAIR[1], COUNTER, LAST_FIXED];
            let others = others
                .iter()
                .map(|oid| (*oid, Tid::ZERO, Some(state(0, &name))));
            let all = money.chain(others).collect();
            return self.commit(connection, &name, all, None).await.map(drop);
        };
        let sum: i64 = accounts.iter().map(|(_, data)| value(data)).sum();
        if sum != SUM {
            trace::fail(format!(
                "{} sees {sum} in {accounts:?} before {before}",
                self.who()
            ));
        }
        match fastrand::u8(..24) {
            0..6 => {
                let (from, to) = (fastrand::usize(..4), fastrand::usize(..4));
                if from == to {
                    return Ok(());
                }
                let amount = fastrand::i64(1..20);
                let moved = |which: usize, by: i64| {
                    let (serial, data) = &accounts[which];
                    let data = state(value(data) + by, &name);
                    (ACCOUNTS[which], *serial, Some(data))
                };
                if fastrand::u8(..4) == 0
                    && let Some((serial, _)) = self.load(connection, COUNTER, before).await?
                {
                    self.checks.push((COUNTER, serial));
                }
                let writes = vec![moved(from, -amount), moved(to, amount)];
                self.commit(connection, &name, writes, None).await?;
            }
            6..9 => {
                let Some(pair) = self.load_all(connection, PAIR, before).await? else {
                    return Ok(());
                };
                if value(&pair[0].1) != value(&pair[1].1) {
                    trace::fail(format!("{} sees {pair:?} before {before}", self.who()));
                }
                let next = Some(state(value(&pair[0].1) + 1, &name));
                let writes = vec![
                    (PAIR[0], pair[0].0, next.clone()),
                    (PAIR[1], pair[1].0, next),
                ];
                self.commit(connection, &name, writes, None).await?;
            }
            9..12 => {
                let Some((serial, data)) = self.load(connection, COUNTER, before).await? else {
                    return Ok(());
                };
                let writes = vec![(COUNTER, serial, Some(state(value(&data) + 1, &name)))];
                self.commit(connection, &name, writes, None).await?;
            }
            12..16 => {
                let found = self.load(connection, own, before).await?;
                let undoable = self.undoable.take();
                if let (Some((tid, earlier)), Some((now, _))) = (undoable, &found)
                    && tid == *now
                    && fastrand::bool()
                {
                    return self.undo(connection, &name, own, tid, earlier).await;
                }
                let (serial, data) = found.unwrap_or_default();
                let writes = vec![(own, serial, Some(state(value(&data) + 1, &name)))];
                if let Some(tid) = self.commit(connection, &name, writes, None).await?
                    && !serial.is_zero()
                {
                    self.undoable = Some((tid, data));
                }
            }
            16..18 => self.blob(connection, &name, before).await?,
            18 if self.packs && fastrand::u8(..3) == 0 => self.pack(connection).await?,
            18 | 19 if fastrand::bool() => self.newest(connection).await?,
            20 => self.passing(connection, &name, before).await?,
            21 => self.new_object(connection, &name).await?,
            22 => self.iterate(connection).await?,
            23 => match fastrand::u8(..3) {
                0 => self.undo_info(connection).await?,
                1 => self.history(connection).await?,
                _ => self.current(connection).await?,
            },
            _ => {
                self.load_all(connection, PAIR, before).await?;
                self.load(connection, COUNTER, before).await?;
            }
        }
        Ok(())
    }

    /// Whatever is current: nothing that was not told of.
    async fn newest(&mut self, connection: &mut Connection) -> Result<()> {
        for oid in [COUNTER, ACCOUNTS[0], PAIR[0]] {
            let before = Tid::MAX;
            let call = Call::LoadBefore { oid, before };
            let told = self.told.get(&oid).copied();
            if let Reply::Loaded(Some(loaded)) = self.call(connection, call).await? {
                self.must_be_of_now(connection, oid, told, loaded.tid);
            }
        }
        Ok(())
    }

    /// What is current was not changed before the question, and not after the answer.
    fn must_be_of_now(&self, connection: &Connection, oid: Oid, told: Option<Tid>, tid: Tid) {
        let (who, heard) = (self.who(), connection.heard);
        if tid > heard {
            trace::fail(format!(
                "{who} reads {oid} of {tid}, and has heard of {heard}"
            ));
        }
        if let Some(told) = told.filter(|told| tid < *told) {
            trace::fail(format!(
                "{who} reads {oid} of {tid}, and was told of {told}"
            ));
        }
    }

    async fn blob(&mut self, connection: &mut Connection, name: &str, before: Tid) -> Result<()> {
        let oid = self.own_blob();
        let found = self.load(connection, oid, before).await?;
        if let Some((serial, data)) = &found {
            let call = Call::SendBlob {
                oid,
                serial: *serial,
            };
            let sent = self.call(connection, call).await;
            match sent {
                Ok(_) if connection.blob == content_of(data) => {}
                Ok(_) => {
                    let len = connection.blob.len();
                    trace::fail(format!("{} has another content of {len} bytes", *serial));
                }
                Err(Trouble::Answered(error)) if before <= self.truth().floor().next() => {
                    trace::note(format!("its blob is packed: {error:?}"));
                }
                Err(Trouble::Answered(error)) => {
                    trace::fail(format!(
                        "{} asks for its blob {serial}: {error:?}",
                        self.who()
                    ));
                }
                Err(trouble) => return Err(trouble),
            }
        }
        let serial = found.map_or(Tid::ZERO, |(tid, _)| tid);
        let data = Bytes::from([BLOB, name.as_bytes()].concat());
        let content = content_of(&data);
        self.commit(
            connection,
            name,
            vec![(oid, serial, Some(data))],
            Some(content),
        )
        .await?;
        Ok(())
    }

    async fn pack(&mut self, connection: &mut Connection) -> Result<()> {
        let Some(time) = self.truth().last_acknowledged().and_then(Tid::time) else {
            return Ok(());
        };
        let time = time - Duration::from_millis(fastrand::u64(..20_000));
        self.truth()
            .packs(Tid::from_time(time + Duration::from_millis(10)));
        trace::note(format!("packs to {time}"));
        let time = time.as_duration().as_secs_f64();
        self.pack = self.world.pack_seen(connection.daemon);
        let packed = self.call(connection, Call::Pack { time, wait: true }).await;
        let Err(Trouble::Answered(
            WireError::Storage(text) | WireError::Answer(Answer::Other { text, .. }),
        )) = &packed
        else {
            return packed.map(drop);
        };
        // What is packed while a member is recovered would have to be packed there, too; an operator packs and
        // compares, too; and who undoes something through another daemon is not refused for a pack of this one.
        let is_usual = text.ends_with("nothing is packed meanwhile")
            || text.ends_with("is being scrubbed")
            || text == "Already packing"
            || text.ends_with("is being packed") && self.is_packed_meanwhile(connection.daemon)
            || text.contains("was brought back by an undo meanwhile") && self.world.daemons() > 1;
        if !is_usual {
            return packed.map(drop);
        }
        trace::note(format!("does not pack: {text}"));
        Ok(())
    }

    async fn undo(
        &mut self,
        connection: &mut Connection,
        name: &str,
        oid: Oid,
        tid: Tid,
        earlier: Bytes,
    ) -> Result<()> {
        self.undoing = Some(tid);
        self.pack = self.world.pack_seen(connection.daemon);
        let txn = self.begin(connection, name);
        let undo = Call::Undoa {
            tid,
            txn: txn.clone(),
        };
        connection.queue(undo, true);
        let voted = self.call(connection, Call::Vote { txn: txn.clone() }).await;
        match voted {
            Ok(Reply::Voted(_)) => {
                let writes = Writes::from([(oid, Some(earlier))]);
                self.finish(connection, name, txn, writes).await.map(drop)
            }
            other => self.abort(connection, name, txn, other).await,
        }
    }

    fn begin(&mut self, connection: &mut Connection, name: &str) -> TxnId {
        let meta = random_meta(name);
        let checks = std::mem::take(&mut self.checks);
        self.truth().begin(name, meta.clone(), checks.clone());
        let txn = TxnId(Value::Int(connection.next));
        let begin = Call::TpcBegin {
            txn: txn.clone(),
            meta,
            tid: None,
        };
        connection.queue(begin, true);
        for (oid, serial) in checks {
            let txn = txn.clone();
            connection.queue(Call::CheckCurrent { oid, serial, txn }, true);
        }
        txn
    }

    /// Gives up a transaction that was not voted for.
    async fn abort(
        &mut self,
        connection: &mut Connection,
        name: &str,
        txn: TxnId,
        why: Result<Reply>,
    ) -> Result<()> {
        self.truth().refused(name);
        if let Err(Trouble::Lost(why)) = why {
            return Err(Trouble::Lost(why));
        }
        self.call(connection, Call::TpcAbort { txn }).await?;
        match why {
            Ok(Reply::Conflicts(conflicts)) => {
                for conflict in &conflicts {
                    self.must_be_later(conflict);
                }
                Ok(())
            }
            Ok(other) => Err(Trouble::Lost(format!("voted: {other:?}"))),
            Err(trouble) => Err(trouble),
        }
    }

    /// Stores, votes, finishes. None where somebody else was first.
    async fn commit(
        &mut self,
        connection: &mut Connection,
        name: &str,
        mut writes: Vec<(Oid, Tid, Option<Bytes>)>,
        blob: Option<Vec<u8>>,
    ) -> Result<Option<Tid>> {
        let txn = self.begin(connection, name);
        for (oid, serial, data) in &writes {
            let (oid, serial, txn) = (*oid, *serial, txn.clone());
            let Some(data) = data.clone() else {
                connection.queue(Call::DeleteObject { oid, serial, txn }, true);
                continue;
            };
            match &blob {
                None => {
                    let store = Call::Storea {
                        oid,
                        serial,
                        data,
                        txn,
                    };
                    connection.queue(store, true);
                }
                Some(content) => {
                    connection.queue(Call::StoreBlobStart, true);
                    for chunk in content.chunks(1000) {
                        let chunk = Bytes::copy_from_slice(chunk);
                        connection.queue(Call::StoreBlobChunk { chunk }, true);
                    }
                    let end = Call::StoreBlobEnd {
                        oid,
                        serial,
                        data,
                        txn,
                    };
                    connection.queue(end, true);
                }
            }
        }
        for _ in 0..4 {
            let voted = self.call(connection, Call::Vote { txn: txn.clone() }).await;
            match voted {
                Ok(Reply::Voted(_)) => {
                    let writes = writes.into_iter().map(|(oid, _, data)| (oid, data));
                    return self
                        .finish(connection, name, txn, writes.collect())
                        .await
                        .map(Some);
                }
                Ok(Reply::Conflicts(conflicts))
                    if conflicts.iter().all(|conflict| conflict.oid == COUNTER) =>
                {
                    for conflict in &conflicts {
                        self.must_be_later(conflict);
                    }
                    let serial = conflicts[0].committed;
                    let call = Call::LoadSerial {
                        oid: COUNTER,
                        serial,
                    };
                    match self.call(connection, call).await {
                        Ok(Reply::Data(data)) => {
                            let data = state(value(&data) + 1, name);
                            writes = vec![(COUNTER, serial, Some(data.clone()))];
                            let store = Call::Storea {
                                oid: COUNTER,
                                serial,
                                data,
                                txn: txn.clone(),
                            };
                            connection.queue(store, true);
                        }
                        other => {
                            return self
                                .abort(connection, name, txn, other)
                                .await
                                .map(|()| None);
                        }
                    }
                }
                other => {
                    return self
                        .abort(connection, name, txn, other)
                        .await
                        .map(|()| None);
                }
            }
        }
        let late = Ok(Reply::Conflicts(Vec::new()));
        self.abort(connection, name, txn, late).await.map(|()| None)
    }

    async fn finish(
        &mut self,
        connection: &mut Connection,
        name: &str,
        txn: TxnId,
        writes: Writes,
    ) -> Result<Tid> {
        // A client may be slow.
        if fastrand::u8(..20) == 0 {
            let pause = Duration::from_millis(fastrand::u64(1..3000));
            let listened = self.listen(connection, pause).await;
            if let Err(trouble) = listened {
                self.truth().refused(name);
                return Err(trouble);
            }
        }
        self.truth().will_write(name, writes.clone());
        match self.call(connection, Call::TpcFinish { txn }).await {
            Ok(Reply::Tid(tid)) => {
                if tid <= connection.heard {
                    trace::fail(format!(
                        "{name} is {tid}, after {} was told",
                        connection.heard
                    ));
                }
                connection.heard = tid;
                self.last = self.last.max(tid);
                self.truth().acknowledged(name, tid);
                trace::note(format!("{name} is {tid}"));
                self.world.check_acknowledged(connection.daemon, name, tid);
                self.must_be_at_the_head(connection.daemon, tid);
                for (oid, data) in writes {
                    self.told.insert(oid, tid);
                    match data {
                        Some(data) => self.cache.insert(oid, (tid, data)),
                        None => self.cache.remove(&oid),
                    };
                }
                Ok(tid)
            }
            Ok(other) => {
                trace::fail(format!("{name} is finished with {other:?}"));
                Err(Trouble::Lost("finished".into()))
            }
            Err(Trouble::Answered(error)) => {
                trace::note(format!("{name} is not known to be finished: {error:?}"));
                self.must_be_excused(connection.daemon, &format!("{error:?}"))
                    .await;
                // As Python's client, which does not know any more what is current.
                Err(Trouble::Lost("a finish failed".into()))
            }
            Err(trouble) => Err(trouble),
        }
    }
}
