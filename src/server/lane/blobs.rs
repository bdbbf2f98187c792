//! The calls of a transaction that bring a blob: `storeBlobStart`, `storeBlobChunk`, `storeBlobEnd`, and
//! `storeBlobShared` for a file that the client has put where both can reach it.
//!
//! A client uploads one blob at a time. What cannot be done is told by the vote, as of every one-way
//! call; the rest of the upload is then passed over. An upload belongs to its open transaction and goes
//! with it.

use std::collections::HashMap;

use bytes::Bytes;

use super::upload::{self, Upload};
use super::{Failed, Open, Outcome, State, Surroundings, Work, store, wrong};
use crate::task::Tasks;
use crate::wire::{Reply, TxnId, WireError};
use crate::zodb::{Answer, Blob, Conflict, Oid, Op, Payload, Tid};

/// The record of a blob, as the last call of an upload brings it.
pub(in crate::server) struct BlobRecord {
    pub(in crate::server) txn: TxnId,
    pub(in crate::server) oid: Oid,
    pub(in crate::server) serial: Tid,
    pub(in crate::server) data: Payload,
}

/// An upload in hand.
pub(super) enum Uploading {
    Writing(Upload),
    /// The transaction is poisoned already: nobody will ask for it.
    PassedOver,
}

/// What a blob takes of a disk beside its content, and be it empty: a file.
const FILE: u64 = 4096;

/// So many files are removed in passing; more of them by a task, since nobody else is served meanwhile.
const FEW: usize = 16;

/// The blobs of a transaction. The files that nobody has taken are removed when this is dropped: so it goes after
/// whatever else has them.
pub(super) struct Blobs {
    removals: Tasks,
    uploading: Option<Uploading>,
    /// Those that were stored, as long as a conflict can be told of them.
    stored: HashMap<Oid, Blob>,
    /// Those that were in conflict: their file is the client's last word unless it brings another.
    in_conflict: HashMap<Oid, Blob>,
    /// Those in whose place the client has stored others.
    replaced: Vec<Blob>,
}

impl Blobs {
    /// None. Many files are removed by a task of `removals`.
    pub(super) fn new(removals: &Tasks) -> Self {
        Blobs {
            removals: removals.clone(),
            uploading: None,
            stored: HashMap::new(),
            in_conflict: HashMap::new(),
            replaced: Vec::new(),
        }
    }

    /// What is told of a blob of one transaction is one conflict, although its record is stored twice.
    /// Keeps the files of those that are in conflict.
    pub(super) fn conflicts(&mut self, conflicts: Vec<Conflict>) -> Vec<Conflict> {
        let mut told: Vec<Conflict> = Vec::with_capacity(conflicts.len());
        let mut places = HashMap::new();
        for conflict in conflicts {
            let oid = conflict.oid;
            if let Some(blob) = self.stored.remove(&oid) {
                self.replaced.extend(self.in_conflict.insert(oid, blob));
            }
            // Python tells the last.
            match places.entry(oid) {
                std::collections::hash_map::Entry::Occupied(place) => told[*place.get()] = conflict,
                std::collections::hash_map::Entry::Vacant(place) => {
                    place.insert(told.len());
                    told.push(conflict);
                }
            }
        }
        // The client begins anew with whatever it uploads.
        self.uploading = None;
        told
    }

    /// The transaction is refused: what it has uploaded is of no use to anybody. The rest of an upload is
    /// passed over.
    pub(super) fn let_go(&mut self) {
        self.remove();
        if self.uploading.is_some() {
            self.uploading = Some(Uploading::PassedOver);
        }
    }

    /// Lets go of all files, of which this has the last handles by now.
    fn remove(&mut self) {
        let mut blobs = std::mem::take(&mut self.replaced);
        blobs.extend(self.stored.drain().map(|(_, blob)| blob));
        blobs.extend(self.in_conflict.drain().map(|(_, blob)| blob));
        // Where nothing runs any more nobody is kept waiting.
        if blobs.len() <= FEW || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let name = format!("{} files", blobs.len());
        self.removals.spawn(name, async move {
            // Whatever becomes of it: what is left of them goes when the daemon starts.
            drop(crate::task::blocking(move || drop(blobs)).await);
        });
    }

    /// An upload has come to an end that cannot be used.
    pub(super) fn end_upload(&mut self) {
        self.uploading = None;
    }

    /// What is to be stored for an operation of the client. Who has resolved the conflict of a blob may
    /// store its record alone: the file that it had uploaded belongs to it.
    pub(super) fn complete(&mut self, op: Op) -> Op {
        match op {
            Op::Store { oid, serial, data } => match self.in_conflict.get(&oid).cloned() {
                Some(blob) => {
                    self.replaced.extend(self.stored.insert(oid, blob.clone()));
                    Op::StoreBlob {
                        oid,
                        serial,
                        data,
                        blob,
                    }
                }
                None => Op::Store { oid, serial, data },
            },
            Op::StoreBlob { oid, ref blob, .. } => {
                self.replaced.extend(self.stored.insert(oid, blob.clone()));
                op
            }
            op => op,
        }
    }
}

impl Drop for Blobs {
    fn drop(&mut self) {
        self.remove();
    }
}

/// `storeBlobStart`.
pub(super) async fn start(around: &Surroundings<'_>, state: State) -> Outcome {
    const METHOD: &str = "storeBlobStart";
    let State::Open(mut open) = state else {
        return (state, METHOD, Err(wrong("a blob for no open transaction")));
    };
    if open.blobs.uploading.is_some() {
        let error = wrong("a second upload of one client");
        return (State::Open(open), METHOD, Err(error));
    }
    if !around.storage.capabilities().blobs {
        let unsupported = Answer::Unsupported("blobs");
        open.poison(WireError::Answer(unsupported));
    }
    open.stores(around, FILE).await;
    let uploading = match open.work {
        Work::Poisoned(_) => Uploading::PassedOver,
        Work::Sound(_) => match Upload::start(around.uploads).await {
            Ok(upload) => Uploading::Writing(upload),
            Err(error) => open.passes_over(&error),
        },
    };
    open.blobs.uploading = Some(uploading);
    (State::Open(open), METHOD, Ok(Reply::None))
}

/// `storeBlobChunk`.
pub(super) async fn chunk(around: &Surroundings<'_>, state: State, chunk: Bytes) -> Outcome {
    const METHOD: &str = "storeBlobChunk";
    let State::Open(mut open) = state else {
        return (state, METHOD, Err(wrong("a blob for no open transaction")));
    };
    open.stores(around, chunk.len() as u64).await;
    match &mut open.blobs.uploading {
        None => return (State::Open(open), METHOD, Err(wrong("no upload was begun"))),
        Some(Uploading::PassedOver) => {}
        Some(Uploading::Writing(upload)) => {
            if let Err(error) = upload.add(chunk).await {
                let passed_over = open.passes_over(&error);
                open.blobs.uploading = Some(passed_over);
            }
        }
    }
    (State::Open(open), METHOD, Ok(Reply::None))
}

/// `storeBlobEnd`.
pub(super) async fn end(around: &Surroundings<'_>, state: State, record: BlobRecord) -> Outcome {
    const METHOD: &str = "storeBlobEnd";
    let mut open = match state {
        State::Open(open) if open.id == record.txn => open,
        state => return (state, METHOD, Err(wrong("a blob for no open transaction"))),
    };
    let upload = match open.blobs.uploading.take() {
        None => return (State::Open(open), METHOD, Err(wrong("no upload was begun"))),
        Some(Uploading::PassedOver) => return (State::Open(open), METHOD, Ok(Reply::None)),
        Some(Uploading::Writing(upload)) => upload,
    };
    match upload.end().await {
        Ok(blob) => store_blob(around, State::Open(open), METHOD, record, blob).await,
        Err(error) => {
            open.passes_over(&error);
            (State::Open(open), METHOD, Ok(Reply::None))
        }
    }
}

/// `storeBlobShared`. A name that could lead elsewhere ends the connection.
pub(super) async fn shared(
    around: &Surroundings<'_>,
    state: State,
    record: BlobRecord,
    name: &str,
) -> Outcome {
    const METHOD: &str = "storeBlobShared";
    let mut open = match state {
        State::Open(open) if open.id == record.txn => open,
        state => return (state, METHOD, Err(wrong("a blob for no open transaction"))),
    };
    let Some(directory) = around.shared_blobs else {
        let none = Answer::Unsupported("a blob directory that is shared with clients");
        let failed = Failed::Error(WireError::Answer(none));
        return (State::Open(open), METHOD, Err(failed));
    };
    if !upload::is_temporary_name(name) {
        let failed = Failed::Error(WireError::Value(name.to_owned()));
        return (State::Open(open), METHOD, Err(failed));
    }
    match upload::shared(directory, record.oid, name).await {
        // Of a poisoned transaction, it is removed.
        Ok(blob) => {
            open.stores(around, blob.len().max(FILE)).await;
            store_blob(around, State::Open(open), METHOD, record, blob).await
        }
        Err(error) => {
            open.passes_over(&error);
            (State::Open(open), METHOD, Ok(Reply::None))
        }
    }
}

async fn store_blob(
    around: &Surroundings<'_>,
    state: State,
    method: &'static str,
    record: BlobRecord,
    blob: Blob,
) -> Outcome {
    let op = Op::StoreBlob {
        oid: record.oid,
        serial: record.serial,
        data: record.data,
        blob,
    };
    let (state, _, outcome) = store(around, state, &record.txn, op).await;
    (state, method, outcome)
}

impl Open {
    /// A blob cannot be taken: the vote will say why.
    fn passes_over(&mut self, error: &std::io::Error) -> Uploading {
        self.poison(WireError::Storage(format!(
            "could not take a blob: {error}"
        )));
        Uploading::PassedOver
    }
}
