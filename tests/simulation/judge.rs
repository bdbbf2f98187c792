//! The end: what members hold is compared with each other and with what clients know.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::server::options;
use super::trace;
use super::truth::{History, Kept};
use super::world::World;
use crate::storage::file::FileStorage;
use crate::storage::{Answer, Fault, Storage as _, StorageError, is_blob_record};
use crate::zodb::{Oid, Tid, TidRange};

/// What a copy holds.
struct Held {
    history: History,
    /// Every object as it is, and the file that belongs to it.
    current: BTreeMap<Oid, (Tid, Bytes, Option<Vec<u8>>)>,
}

impl World {
    /// Ends everything in good order, then compares.
    pub(super) async fn judge(self: &Arc<Self>) {
        for daemon in 0..self.daemons() {
            if let Some(whole) = self.whole(daemon) {
                for member in whole.report().members {
                    trace::note(format!(
                        "d{}: {} is {:?}",
                        daemon + 1,
                        member.name,
                        member.state
                    ));
                }
            }
        }
        for daemon in 0..self.daemons() {
            self.hold_daemon(daemon, true);
            self.stop_daemon(daemon).await;
        }
        for server in self.servers() {
            self.hold_server(&server, true);
            self.stop_server(&server).await;
        }
        let floor = self.truth.floor();
        let mut all: Vec<(String, Held)> = Vec::new();
        for (name, _) in self.shape.members.clone() {
            let Some((path, _)) = self.store(0, &name) else {
                continue;
            };
            match held(&path, floor).await {
                Ok(held) => all.push((name, held)),
                Err(error) => trace::fail(format!("{name} cannot be read: {error}")),
            }
        }
        let Some((first, truth)) = all.first() else {
            return;
        };
        for (name, held) in &all[1..] {
            let ours = truth.history.range(floor.next()..);
            let theirs = held.history.range(floor.next()..);
            for (one, other) in ours.zip(theirs) {
                if one != other {
                    trace::fail(format!("{first} has {one:?}, {name} has {other:?}"));
                    return;
                }
            }
            let count = |held: &Held| held.history.range(floor.next()..).count();
            if count(truth) != count(held) {
                let (ours, theirs) = (count(truth), count(held));
                trace::fail(format!(
                    "{first} has {ours} transactions, {name} has {theirs}"
                ));
            }
            for (oid, state) in &truth.current {
                if held.current.get(oid) != Some(state) {
                    let other = held.current.get(oid);
                    trace::fail(format!(
                        "{oid} is {state:?} in {first} and {other:?} in {name}"
                    ));
                }
            }
            for (oid, state) in &held.current {
                if !truth.current.contains_key(oid) {
                    trace::fail(format!("{oid} is {state:?} in {name}, and not in {first}"));
                }
            }
        }
        let is_everywhere =
            |tid: &&Tid| all.iter().all(|(_, held)| held.history.contains_key(*tid));
        let everywhere = truth.history.keys().filter(is_everywhere).copied();
        self.truth.judge(&truth.history, &everywhere.collect());
    }
}

/// All that a copy holds, of which everything up to `floor` may have been packed away elsewhere.
async fn held(path: &Path, floor: Tid) -> Result<Held, StorageError> {
    let folder = path.parent().expect("a file is in a folder");
    let mut tries = 0;
    let storage = loop {
        match FileStorage::open(path, options(folder)).await {
            Ok(storage) => break storage,
            Err(Fault::InUse(_)) if tries < 20 => {
                tries += 1;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(fault) => return Err(fault.into()),
        }
    };
    let mut history = History::new();
    let mut walk = storage.iterate(TidRange::ALL).await?;
    while let Some(txn) = walk.next().await? {
        let mut records = Vec::new();
        let mut blobs = BTreeMap::new();
        for record in &txn.records {
            let data = match record.data.payload() {
                Some(payload) => Some(
                    payload
                        .read()
                        .map_err(|error| Fault::io("reading", error))?,
                ),
                None => None,
            };
            if data.as_ref().is_some_and(|data| is_blob_record(data)) {
                match content(&storage, record.oid, txn.tid).await {
                    // It was copied before its source was packed, and the file could not be any more.
                    Err(StorageError::Answer(Answer::NoSuchObject(_)))
                        if txn.tid <= floor
                            && is_superseded(&storage, record.oid, txn.tid).await? => {}
                    content => drop(blobs.insert(record.oid, content?)),
                }
            }
            records.push((record.oid, data));
        }
        records.sort();
        let kept = Kept {
            meta: txn.meta,
            records,
            blobs,
        };
        history.insert(txn.tid, kept);
    }
    let mut current = BTreeMap::new();
    let mut next = Some(Oid(0));
    while let Some(from) = next {
        let Some(record) = storage.record_from(from).await? else {
            break;
        };
        let mut file = None;
        if is_blob_record(&record.data) {
            file = Some(content(&storage, record.oid, record.tid).await?);
        }
        current.insert(record.oid, (record.tid, record.data, file));
        next = record.next;
    }
    storage.close().await;
    Ok(Held { history, current })
}

/// Whether there is a later revision, or the object is gone.
async fn is_superseded(storage: &FileStorage, oid: Oid, tid: Tid) -> Result<bool, StorageError> {
    match storage.current_tid(oid).await {
        Ok(current) => Ok(current > tid),
        Err(StorageError::Answer(Answer::NoSuchObject(_))) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Of a blob's file.
async fn content(storage: &FileStorage, oid: Oid, tid: Tid) -> Result<Vec<u8>, StorageError> {
    let blob = storage.load_blob(oid, tid).await?;
    let mut content = vec![0; blob.len() as usize];
    let read = blob
        .open()
        .and_then(|file| file.read_exact_at(&mut content, 0));
    read.map_err(|error| Fault::io("reading a blob", error))?;
    Ok(content)
}
