//! The files of blobs in a recovery: fetched from a source, and compared.
//!
//! An iteration gives the records of blobs without their files. These are fetched one transaction after
//! the other, a few at a time, and lie on the disk until the batch is written; they count towards its
//! size. Where members' servers share one folder with the array, the files are there already.

use std::os::unix::fs::FileExt;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::super::Notice;
use super::super::view::Reader;
use super::{Halt, Job, empty_it};
use crate::raid::runner::as_fault;
use crate::storage::{Answer, Fault, Result as Stored, Storage, StorageError, is_blob_record};
use crate::zodb::{Blob, HistoryRecord, HistoryTxn, Oid, Tid, TidRange};

/// Files that are fetched at the same time.
const AT_ONCE: usize = 4;
/// What a record has to be looked at to tell whether it is that of a blob.
const BEGINNING: usize = 256;
/// Sending one file may take this long while the member answers otherwise.
const LONGEST_FETCH: Duration = Duration::from_hours(1);
/// How far back the files of a server's last blobs are compared before what it lacks is copied: in so many of
/// its transactions, and no further where that was so much.
const LAST_TRANSACTIONS: usize = 256;
const LAST_BYTES: u64 = 32 << 20;

/// Blobs that were copied without their files, because nobody has them any more.
#[derive(Debug, Default)]
pub(super) struct WithoutFile(Mutex<Option<(u64, Oid)>>);

impl Job {
    /// Adds the files to a transaction's records of blobs.
    pub(super) async fn fetch_blobs(
        &self,
        source: &Reader,
        target: &dyn Storage,
        transaction: &mut HistoryTxn,
    ) -> Result<(), Halt> {
        if self.runner.blobs.with_members() {
            return Ok(());
        }
        let tid = transaction.tid;
        let mut blobs = Vec::new();
        for record in &mut transaction.records {
            if is_blob(record).map_err(Halt::Source)? {
                blobs.push(record);
            }
        }
        if blobs.is_empty() {
            return Ok(());
        }
        if !target.capabilities().blobs {
            let Some(source) = self
                .sources(source)
                .find(|one| one.storage.capabilities().blobs)
            else {
                // Nobody in the array has files of blobs.
                return Ok(());
            };
            return Err(self.cannot_take_blobs(&source, target, tid));
        }
        let mut fetching: FuturesUnordered<BoxFuture<'_, Result<(), Halt>>> =
            FuturesUnordered::new();
        for record in blobs {
            if fetching.len() == AT_ONCE
                && let Some(fetched) = fetching.next().await
            {
                fetched?;
            }
            fetching.push(Box::pin(self.fetch_into(source, record, tid)));
        }
        while let Some(fetched) = fetching.next().await {
            fetched?;
        }
        Ok(())
    }

    async fn fetch_into(
        &self,
        source: &Reader,
        record: &mut HistoryRecord,
        tid: Tid,
    ) -> Result<(), Halt> {
        let found = self.fetch_blob(source, record.oid, tid).await?;
        record.blob = found.map(Blob::closed);
        // This daemon packs nothing while it recovers a member; another one may.
        let packed = is_packed_away(&*source.storage, record.oid, tid);
        if record.blob.is_none() && !self.within(packed, Halt::Source).await? {
            let mut without = self.without_file.0.lock();
            without.get_or_insert((0, record.oid)).0 += 1;
        }
        Ok(())
    }

    fn cannot_take_blobs(&self, source: &Reader, target: &dyn Storage, tid: Tid) -> Halt {
        let source = self.runner.look(|core| core.controller.name(source.member));
        let (name, target) = (&self.name, target.describe());
        let next = match target.kind {
            "zeo" => format!(
                "give the server at {} a blob directory (`blob-dir` of its storage), start it again, \
                 then: zeoraidctl recover {name}",
                target.location
            ),
            _ => format!(
                "give {name} a blob directory in etc/zeoraid.yaml, then: zeoraidctl reload, and: \
                 zeoraidctl recover {name}"
            ),
        };
        Halt::Stuck {
            reason: format!(
                "transaction {tid} of {source} has blobs, and it has no place to keep them"
            ),
            next: Some(next),
            is_wrong: false,
        }
    }

    /// The source first, then the other members that may be read.
    fn sources(&self, source: &Reader) -> impl Iterator<Item = Reader> {
        let first = source.generation;
        let others = self.runner.view();
        let others = others.readers.iter().filter(|one| one.generation != first);
        let others: Vec<_> = others.cloned().collect();
        std::iter::once(source.clone()).chain(others)
    }

    /// The file of a blob, from the source or from another member that has it. None has it where it was
    /// lost before: the copy is as good as the source without it.
    async fn fetch_blob(&self, source: &Reader, oid: Oid, tid: Tid) -> Result<Option<Blob>, Halt> {
        for (number, reader) in self.sources(source).enumerate() {
            match self.ask_blob(&*reader.storage, oid, tid).await? {
                Ok(blob) => return Ok(Some(blob)),
                // Whether the member has it is not known then.
                Err(StorageError::Fault(fault @ Fault::Here { .. })) => {
                    return Err(Halt::Source(fault));
                }
                Err(StorageError::Fault(fault)) if number == 0 => return Err(Halt::Source(fault)),
                // It does not have it. Who is no source of this recovery is looked after by others.
                Err(_) => {}
            }
        }
        Ok(None)
    }

    /// Asks a member for a file, and waits while it answers otherwise.
    async fn ask_blob(
        &self,
        storage: &dyn Storage,
        oid: Oid,
        tid: Tid,
    ) -> Result<Stored<Blob>, Halt> {
        let what = "sendBlob";
        let asked = self
            .runner
            .while_it_answers(storage, what, storage.load_blob(oid, tid));
        crate::task::select! {
            () = self.work.stop().requested() => Err(Halt::Cancelled),
            answer = tokio::time::timeout(LONGEST_FETCH, asked) => Ok(answer.unwrap_or_else(|_| {
                let after = LONGEST_FETCH;
                Err(Fault::Timeout { what, after }.into())
            })),
        }
    }

    /// Whether both hold the same files for the blobs of a transaction: size and SHA-256. A file that
    /// the array itself has lost is not held against the target.
    pub(super) async fn same_blobs(
        &self,
        source: &Reader,
        target: &dyn Storage,
        ours: &HistoryTxn,
        theirs: &HistoryTxn,
    ) -> Result<bool, Halt> {
        if self.runner.blobs.with_members() {
            return Ok(true);
        }
        for record in &theirs.records {
            let held = ours.records.iter().any(|ours| ours.oid == record.oid);
            if !held || !is_blob(record).map_err(Halt::Target)? {
                continue;
            }
            let same = self.same_file(source, target, record.oid, theirs.tid);
            if same.await?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// How long the file of a blob is, which both hold alike; none where the target's is another one, or
    /// lost.
    async fn same_file(
        &self,
        source: &Reader,
        target: &dyn Storage,
        oid: Oid,
        tid: Tid,
    ) -> Result<Option<u64>, Halt> {
        let Some(ours) = self.fetch_blob(source, oid, tid).await? else {
            return Ok(Some(0));
        };
        let theirs = match self.ask_blob(target, oid, tid).await? {
            Ok(theirs) => theirs,
            Err(StorageError::Answer(Answer::NoSuchObject(_) | Answer::Unsupported(_))) => {
                return Ok(None);
            }
            Err(error) => return Err(Halt::Target(as_fault(error))),
        };
        let length = ours.len();
        if length != theirs.len() {
            return Ok(None);
        }
        let (ours, theirs) = tokio::join!(digest(ours), digest(theirs));
        let same = ours.map_err(Halt::Source)? == theirs.map_err(Halt::Target)?;
        Ok(same.then_some(length))
    }

    /// Compares the files of the last blobs that a server has kept, newest first.
    ///
    /// ZODB makes no file of a blob durable, and ZEO's server does not look how much of a piece the system has
    /// written: a server whose machine went down or whose disk was full may hold the record of a blob, and a part
    /// of its file or none, and say that all is well. What a member keeps that the array writes to itself, it
    /// keeps whole or not at all.
    pub(super) async fn last_files_are_whole(
        &self,
        source: &Reader,
        target: &dyn Storage,
        at: Tid,
    ) -> Result<(), Halt> {
        let can = target.capabilities();
        if !can.shared || !can.blobs || self.runner.blobs.with_members() {
            return Ok(());
        }
        let last = target.tids_before(at.next(), LAST_TRANSACTIONS);
        let Some(first) = self.within(last, Halt::Target).await?.pop() else {
            return Ok(());
        };
        let range = TidRange { first, last: at };
        let mut history = self.within(target.iterate(range), Halt::Target).await?;
        let mut blobs = Vec::new();
        while let Some(transaction) = self.within(history.next(), Halt::Target).await? {
            for record in &transaction.records {
                if is_blob(record).map_err(Halt::Target)? {
                    blobs.push((transaction.tid, record.oid));
                }
            }
        }
        drop(history);
        let mut bytes = 0;
        while bytes < LAST_BYTES
            && let Some((tid, oid)) = blobs.pop()
        {
            let Some(same) = self.same_file(source, target, oid, tid).await? else {
                return Err(self.file_is_not_whole(target, oid, tid));
            };
            bytes += same;
        }
        Ok(())
    }

    fn file_is_not_whole(&self, target: &dyn Storage, oid: Oid, tid: Tid) -> Halt {
        Halt::Differs {
            reason: format!(
                "it differs from the array in the file of blob {oid} of transaction {tid} (a server may lose part \
                 of a file when its disk is full or its machine goes down)"
            ),
            next: empty_it(&self.name, target).unwrap_or_else(|| self.rebuild()),
        }
    }

    pub(super) fn tell_of_files_that_are_missing(&self) {
        if let Some((count, first)) = self.without_file.0.lock().take() {
            self.runner.notice(Notice::BlobsMissing {
                member: self.name.clone(),
                count,
                first: first.to_string(),
            });
        }
    }
}

/// Whether a record is that of a blob. Blocks for a record that is a piece of a file.
pub(in crate::raid) fn is_blob(record: &HistoryRecord) -> Result<bool, Fault> {
    let Some(data) = record.data.payload() else {
        return Ok(false);
    };
    let mut beginning = vec![0; data.len().min(BEGINNING)];
    data.read_at(0, &mut beginning)
        .map_err(|error| Fault::io("reading a record", error))?;
    Ok(is_blob_record(&beginning))
}

/// Whether packing has removed the record of a blob since it was read: its file goes with it. Another daemon packs
/// the members one after the other, and the operator of a server may pack it.
pub(in crate::raid) async fn is_packed_away(
    storage: &dyn Storage,
    oid: Oid,
    tid: Tid,
) -> Stored<bool> {
    match storage.load_serial(oid, tid).await {
        Ok(_) => Ok(false),
        Err(StorageError::Answer(Answer::NoSuchObject(_))) => Ok(true),
        Err(error) => Err(error),
    }
}

/// The digest of a file's content.
pub(in crate::raid) async fn digest(blob: Blob) -> Result<[u8; 32], Fault> {
    let (path, ours) = (blob.path().to_owned(), blob.is_temporary());
    let read = move || -> std::io::Result<[u8; 32]> {
        let (mut digest, mut piece) = (Sha256::new(), vec![0; 1 << 20]);
        let (file, mut at) = (blob.open()?, 0);
        while at < blob.len() {
            let some = file.read_at(&mut piece, at)?;
            if some == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            digest.update(&piece[..some]);
            at += some as u64;
        }
        Ok(digest.finalize().into())
    };
    let read = crate::task::blocking(read).await;
    read.unwrap_or_else(|ended| Err(std::io::Error::other(ended)))
        .map_err(|error| {
            let what = format!("reading {}", path.display());
            // What was fetched lies on a disk of the daemon, anything else on one of the member.
            if ours {
                Fault::here(what, error)
            } else {
                Fault::io(what, error)
            }
        })
}
