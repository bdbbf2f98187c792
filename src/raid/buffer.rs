//! A transaction before its vote: in memory up to a limit, then in temporary files.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::Spool;
use crate::storage::{Fault, Operations};
use crate::zodb::{Blob, Oid, Op, Payload, Tid};

/// What an operation takes in memory beside its data, roughly, in bytes.
const OVERHEAD: usize = 128;

/// All transactions of an array together may have so many times in memory what one may; beyond it, those that
/// have more than one such part of that move it into their files.
const TOGETHER: usize = 16;

/// What all transactions of an array have in memory, in bytes.
#[derive(Debug, Clone, Default)]
pub(super) struct InMemory(Arc<AtomicUsize>);

/// The part of one of them.
struct Part {
    all: InMemory,
    bytes: usize,
}

impl Part {
    fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.all.0.fetch_add(bytes, Relaxed);
    }

    fn clear(&mut self) {
        self.all.0.fetch_sub(self.bytes, Relaxed);
        self.bytes = 0;
    }

    /// Whether it is more than it may be where one may have `most`.
    fn is_too_much(&self, most: usize) -> bool {
        self.bytes > most
            || (self.bytes > most / TOGETHER
                && self.all.0.load(Relaxed) > most.saturating_mul(TOGETHER))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The operations of one transaction.
pub(super) struct Buffer {
    /// Those who vote on it have it too.
    ops: Arc<Operations>,
    spool: Spool,
    in_memory: Part,
    total_bytes: u64,
    /// The objects that are blobs.
    blobs: HashMap<Oid, BlobOps>,
}

/// What is stored of one blob. A client sends all files at the end, after any number of records: which
/// record belongs to a file is not to be looked for among them.
#[derive(Default)]
struct BlobOps {
    /// The number of the last record that came without its file.
    record: Option<u64>,
    /// The number of the last one with it.
    with_file: Option<u64>,
    /// The last file, also where it conflicted: what its client stores instead is a blob still.
    file: Option<Blob>,
}

impl Buffer {
    pub(super) fn new(spool: Spool, all: InMemory) -> Self {
        Buffer {
            ops: Arc::default(),
            spool,
            in_memory: Part { all, bytes: 0 },
            total_bytes: 0,
            blobs: HashMap::new(),
        }
    }

    pub(super) fn ops(&self) -> &Arc<Operations> {
        &self.ops
    }

    pub(super) fn bytes(&self) -> u64 {
        self.total_bytes
    }

    /// What the transaction writes, as far as that is known before the vote; each once.
    ///
    /// # Errors
    /// Where a temporary file cannot be read.
    pub(super) async fn oids(&self) -> Result<Vec<Oid>, Fault> {
        let mut oids = Vec::with_capacity(usize::try_from(self.ops.count()).unwrap_or(0));
        self.each(|op| oids.extend(op.writes())).await?;
        oids.sort_unstable();
        oids.dedup();
        Ok(oids)
    }

    /// The transactions that it undoes.
    ///
    /// # Errors
    /// As for [`oids`](Self::oids).
    pub(super) async fn undone(&self) -> Result<Vec<Tid>, Fault> {
        let mut undone = Vec::new();
        if self.ops.undo() {
            self.each(|op| {
                if let Op::Undo { tid } = op {
                    undone.push(tid);
                }
            })
            .await?;
        }
        Ok(undone)
    }

    /// The files of the blobs that it stores. Of several of one object the last one counts.
    ///
    /// # Errors
    /// As for [`oids`](Self::oids).
    pub(super) async fn blobs(&self) -> Result<Vec<(Oid, Blob)>, Fault> {
        let mut blobs = Vec::new();
        if self.ops.have_blobs() {
            self.each(|op| {
                if let Op::StoreBlob { oid, blob, .. } = op {
                    blobs.push((oid, blob));
                }
            })
            .await?;
        }
        Ok(blobs)
    }

    async fn each(&self, mut visit: impl FnMut(Op)) -> Result<(), Fault> {
        let mut from = 0;
        while from < self.ops.count() {
            let (some, next) = self.ops.some(from).await?;
            for (_, op) in some {
                visit(op);
            }
            from = next;
        }
        Ok(())
    }

    /// Adds an operation.
    ///
    /// A ZEO client sends the record of a blob twice, once alone and once with the file. One operation
    /// is made of both, so that members hold one record.
    ///
    /// # Errors
    /// Where the temporary files cannot be written.
    pub(super) async fn push(&mut self, op: Op) -> Result<(), Fault> {
        let Some(op) = self.merge(op)? else {
            return Ok(());
        };
        self.in_memory.add(op.size() + OVERHEAD);
        self.total_bytes += carried(&op);
        let number = self.ops.count();
        match &op {
            Op::StoreBlob { oid, .. } => {
                self.blobs.entry(*oid).or_default().with_file = Some(number);
            }
            Op::Store { oid, data, .. } if is_blob_record(data) => {
                self.blobs.entry(*oid).or_default().record = Some(number);
            }
            _ => {}
        }
        Arc::make_mut(&mut self.ops).push(op);
        if self.in_memory.is_too_much(self.spool.memory_bytes) {
            self.spill().await
        } else {
            Ok(())
        }
    }

    /// Joins the record of a blob with its file. What is left to be added is returned.
    fn merge(&mut self, op: Op) -> Result<Option<Op>, Fault> {
        match op {
            Op::StoreBlob {
                oid,
                serial,
                data,
                blob,
            } => {
                let record = self.record_of(oid, serial, &data).map_err(spool_fault)?;
                let known = self.blobs.entry(oid).or_default();
                known.file = Some(blob.clone());
                let Some(number) = record else {
                    return Ok(Some(Op::StoreBlob {
                        oid,
                        serial,
                        data,
                        blob,
                    }));
                };
                known.record = None;
                known.with_file = Some(number);
                self.total_bytes += blob.len();
                let added = Arc::make_mut(&mut self.ops).add_blob(number, blob);
                added.map_err(spool_fault)?;
                Ok(None)
            }
            Op::Store { oid, serial, data } => {
                let known = self.blobs.get(&oid);
                let Some((known, blob)) =
                    known.and_then(|known| Some((known, known.file.clone()?)))
                else {
                    return Ok(Some(Op::Store { oid, serial, data }));
                };
                let with_file = known.with_file.map(|number| self.ops.get(number));
                if let Some(Op::StoreBlob {
                    serial: read,
                    data: stored,
                    ..
                }) = with_file.transpose().map_err(spool_fault)?.flatten()
                {
                    let same = stored.same_as(&data).map_err(spool_fault)?;
                    let store = Op::Store { oid, serial, data };
                    return Ok((read != serial || !same).then_some(store));
                }
                // The blob conflicted, and this is the record that its client resolved it to.
                Ok(Some(Op::StoreBlob {
                    oid,
                    serial,
                    data,
                    blob,
                }))
            }
            op => Ok(Some(op)),
        }
    }

    /// The number of the record that this file belongs to. Reads one record where it is in a file.
    fn record_of(&self, oid: Oid, serial: Tid, data: &Payload) -> io::Result<Option<u64>> {
        let is_it = |op: &Op| {
            let Op::Store {
                oid: other,
                serial: read,
                data: stored,
            } = op
            else {
                return Ok(false);
            };
            Ok(*other == oid && *read == serial && stored.same_as(data)?)
        };
        if !is_blob_record(data) {
            // Of a class of the application's own, say. It is looked for as far as that keeps nobody waiting;
            // beyond, it is stored twice, as by Python's server.
            let found = self.ops.rfind_in_memory(is_it)?;
            return Ok(found.map(|(number, _)| number));
        }
        let Some(number) = self.blobs.get(&oid).and_then(|known| known.record) else {
            return Ok(None);
        };
        let op = self.ops.get(number)?;
        Ok(match op {
            Some(op) if is_it(&op)? => Some(number),
            _ => None,
        })
    }

    /// Takes out what is stored for these objects: the client stores them again, resolved.
    ///
    /// # Errors
    /// Where a temporary file cannot be read.
    pub(super) async fn drop_stores(&mut self, oids: &[Oid]) -> Result<(), Fault> {
        let oids: HashSet<Oid> = oids.iter().copied().collect();
        let mut ops = Arc::clone(&self.ops);
        let work = move || -> io::Result<_> {
            let (mut dropped, mut bytes) = (Vec::new(), 0);
            let mut walk = ops.walk();
            while let Some((number, op)) = walk.next_op()? {
                if let Op::Store { oid, .. } | Op::StoreBlob { oid, .. } = &op
                    && oids.contains(oid)
                {
                    bytes += carried(&op);
                    dropped.push(number);
                }
            }
            Arc::make_mut(&mut ops).drop_ops(dropped);
            Ok((ops, bytes))
        };
        let done = crate::task::blocking(work).await;
        let done = done.unwrap_or_else(|ended| Err(io::Error::other(ended)));
        let (ops, bytes) = done.map_err(spool_fault)?;
        self.ops = ops;
        self.total_bytes -= bytes;
        Ok(())
    }

    /// Moves all that is in memory into the files.
    async fn spill(&mut self) -> Result<(), Fault> {
        let folder = self.spool.folder.clone();
        let mut ops = std::mem::take(&mut self.ops);
        let write = move || {
            let spooled = Arc::make_mut(&mut ops).spool(&folder);
            spooled.map(|()| ops).map_err(|error| {
                let what = format!("writing a temporary file in {}", folder.display());
                Fault::io(what, error)
            })
        };
        let written = crate::task::blocking(write).await;
        self.ops = written.unwrap_or_else(|ended| Err(spool_fault(io::Error::other(ended))))?;
        self.in_memory.clear();
        Ok(())
    }
}

/// Whether this is the record of a blob; those are in memory until they are spooled.
fn is_blob_record(data: &Payload) -> bool {
    data.in_memory()
        .is_some_and(|bytes| crate::storage::is_blob_record(bytes))
}

fn spool_fault(error: io::Error) -> Fault {
    Fault::io("reading or writing a temporary file", error)
}

/// What an operation is for whoever has to take it: its record, and the file of a blob, which is on the
/// disk already and takes no memory.
fn carried(op: &Op) -> u64 {
    let file = match op {
        Op::StoreBlob { blob, .. } => blob.len(),
        _ => 0,
    };
    op.size() as u64 + file
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::storage::suite;

    fn store(oid: u64, byte: u8, len: usize) -> Op {
        let data = Bytes::from(vec![byte; len]).into();
        Op::Store {
            oid: Oid(oid),
            serial: Tid::ZERO,
            data,
        }
    }

    fn stored(buffer: &Buffer) -> Vec<(Oid, Vec<u8>)> {
        let (mut stored, mut walk) = (Vec::new(), buffer.ops().walk());
        while let Some((_, op)) = walk.next_op().unwrap() {
            if let Op::Store { oid, data, .. } = op {
                stored.push((oid, data.read().unwrap().to_vec()));
            }
        }
        stored
    }

    #[tokio::test]
    async fn what_is_too_much_for_memory_waits_in_a_file_and_is_the_same_there() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool {
            folder: folder.path().to_owned(),
            memory_bytes: 1000,
        };
        let mut buffer = Buffer::new(spool, InMemory::default());
        for n in 0..20u8 {
            buffer.push(store(u64::from(n % 7), n, 300)).await.unwrap();
            assert!(buffer.in_memory.bytes <= 1000);
        }
        buffer
            .push(Op::CheckCurrent {
                oid: Oid(9),
                serial: Tid(1),
            })
            .await
            .unwrap();
        assert_eq!(buffer.bytes(), 6000);
        let oids = buffer.oids().await.unwrap();
        assert_eq!(oids, (0..7).map(Oid).collect::<Vec<_>>());
        for (n, (_, data)) in stored(&buffer).into_iter().enumerate() {
            assert_eq!(data, vec![n as u8; 300]);
        }
        buffer.drop_stores(&[Oid(0), Oid(3)]).await.unwrap();
        let left = stored(&buffer);
        assert_eq!(left.len(), 20 - 6);
        assert!(left.iter().all(|(oid, _)| ![Oid(0), Oid(3)].contains(oid)));
        assert_eq!(buffer.bytes(), 6000 - 6 * 300);
        buffer.push(store(3, 77, 2000)).await.unwrap();
        let last = stored(&buffer).pop().unwrap();
        assert_eq!(last, (Oid(3), vec![77; 2000]));
    }

    #[tokio::test]
    async fn many_that_are_open_take_no_more_memory_than_some_and_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool {
            folder: folder.path().to_owned(),
            memory_bytes: 16_000,
        };
        let all = InMemory::default();
        let mut buffers = Vec::new();
        for n in 0..100u8 {
            let mut buffer = Buffer::new(spool.clone(), all.clone());
            for oid in 0..20 {
                buffer.push(store(oid, n, 500)).await.unwrap();
            }
            buffers.push(buffer);
        }
        // Each by itself would have 12 560.
        let most = 16_000 * TOGETHER + 100 * 2 * 1000;
        let now = all.0.load(Relaxed);
        assert!(now <= most, "{now}");
        for (n, buffer) in buffers.iter().enumerate() {
            let stored = stored(buffer);
            assert_eq!(stored.len(), 20);
            assert!(stored.iter().all(|(_, data)| *data == vec![n as u8; 500]));
        }
        drop(buffers);
        assert_eq!(all.0.load(Relaxed), 0);
    }

    /// As Python's client does it: all records, and then all files.
    #[tokio::test]
    async fn files_find_their_records_in_memory_and_in_the_spool_and_keep_them_through_a_conflict()
    {
        const BLOBS: u64 = 60;
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool {
            folder: folder.path().to_owned(),
            memory_bytes: 5000,
        };
        let record: Payload = Bytes::from_static(suite::BLOB_RECORD).into();
        let other: Payload =
            Bytes::from_static(b"\x80\x03cZODB.blob\nBlob\nq\x00.\x80\x03J....").into();
        let put = |oid: u64, data: &Payload| Op::Store {
            oid: Oid(oid),
            serial: Tid::ZERO,
            data: data.clone(),
        };
        let file = |oid: u64, data: &Payload| Op::StoreBlob {
            oid: Oid(oid),
            serial: Tid::ZERO,
            data: data.clone(),
            blob: suite::blob(b"content"),
        };
        let mut buffer = Buffer::new(spool, InMemory::default());
        for oid in 0..BLOBS {
            buffer.push(put(oid, &record)).await.unwrap();
            buffer.push(store(1000 + oid, 1, 50)).await.unwrap();
        }
        for oid in 0..BLOBS {
            buffer.push(file(oid, &record)).await.unwrap();
        }
        assert_eq!(buffer.ops().count(), BLOBS * 2, "nothing is there twice");
        assert_eq!(buffer.blobs().await.unwrap().len() as u64, BLOBS);
        assert_eq!(stored(&buffer).len() as u64, BLOBS);
        // The record again, after its file: nothing new.
        buffer.push(put(3, &record)).await.unwrap();
        assert_eq!(buffer.ops().count(), BLOBS * 2);
        // In conflict: what is stored instead, as it is or changed, is a blob still.
        buffer.drop_stores(&[Oid(3), Oid(BLOBS - 1)]).await.unwrap();
        assert_eq!(buffer.blobs().await.unwrap().len() as u64, BLOBS - 2);
        buffer.push(put(3, &other)).await.unwrap();
        buffer.push(file(BLOBS - 1, &other)).await.unwrap();
        assert_eq!(buffer.blobs().await.unwrap().len() as u64, BLOBS);
        // A file for another record than the one that is there belongs to no record.
        buffer.push(put(2000, &record)).await.unwrap();
        buffer.push(file(2000, &other)).await.unwrap();
        assert_eq!(buffer.blobs().await.unwrap().len() as u64, BLOBS + 1);
        assert_eq!(stored(&buffer).len() as u64, BLOBS + 1);
    }

    #[tokio::test]
    async fn a_folder_that_is_not_there_is_a_fault_that_names_it() {
        let spool = Spool {
            folder: "/nonexistent/spool".into(),
            memory_bytes: 10,
        };
        let error = Buffer::new(spool, InMemory::default())
            .push(store(1, 1, 100))
            .await
            .expect_err("no folder");
        assert!(error.to_string().contains("/nonexistent/spool"), "{error}");
    }
}
