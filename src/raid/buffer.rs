//! A transaction before its vote: in memory up to a limit, then in temporary files.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

use super::Spool;
use crate::storage::{Fault, Operations};
use crate::zodb::{Blob, Oid, Op, Tid};

/// What an operation takes in memory beside its data, roughly, in bytes.
const OVERHEAD: usize = 128;

/// The operations of one transaction.
pub(super) struct Buffer {
    /// Those who vote on it have it too.
    ops: Arc<Operations>,
    spool: Spool,
    memory_bytes: usize,
    total_bytes: u64,
    /// The files of all blobs that were stored, also of those that conflicted: what its client stores
    /// instead is a blob still.
    files: HashMap<Oid, Blob>,
}

impl Buffer {
    pub(super) fn new(spool: Spool) -> Self {
        Buffer {
            ops: Arc::default(),
            spool,
            memory_bytes: 0,
            total_bytes: 0,
            files: HashMap::new(),
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
        self.memory_bytes += op.size() + OVERHEAD;
        self.total_bytes += carried(&op);
        Arc::make_mut(&mut self.ops).push(op);
        if self.memory_bytes > self.spool.memory_bytes {
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
                self.files.insert(oid, blob.clone());
                // Mostly the last one. The file of a blob takes longer than looking through all.
                let record = self.last(|op| {
                    let Op::Store {
                        oid: other,
                        serial: read,
                        data: stored,
                    } = op
                    else {
                        return Ok(false);
                    };
                    Ok(*other == oid && *read == serial && stored.same_as(&data)?)
                })?;
                if let Some((number, _)) = record {
                    self.total_bytes += blob.len();
                    let added = Arc::make_mut(&mut self.ops).add_blob(number, blob);
                    added.map_err(spool_fault)?;
                    return Ok(None);
                }
                Ok(Some(Op::StoreBlob {
                    oid,
                    serial,
                    data,
                    blob,
                }))
            }
            Op::Store { oid, serial, data } if self.files.contains_key(&oid) => {
                let with_file = self.last(|op| {
                    Ok(matches!(op, Op::StoreBlob { oid: other, .. } if *other == oid))
                })?;
                if let Some((
                    _,
                    Op::StoreBlob {
                        serial: read,
                        data: stored,
                        ..
                    },
                )) = with_file
                {
                    let same = stored.same_as(&data).map_err(spool_fault)?;
                    let store = Op::Store { oid, serial, data };
                    return Ok((read != serial || !same).then_some(store));
                }
                // The blob conflicted, and this is the record that its client resolved it to.
                let blob = self.files[&oid].clone();
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

    /// The last operation of which this is true. Blocks where it is in a file; of blobs only.
    fn last(
        &self,
        mut wanted: impl FnMut(&Op) -> io::Result<bool>,
    ) -> Result<Option<(u64, Op)>, Fault> {
        let mut failed = None;
        let found = self.ops.rfind(|op| match wanted(op) {
            Ok(is) => is,
            Err(error) => {
                failed = Some(error);
                false
            }
        });
        match failed {
            Some(error) => Err(spool_fault(error)),
            None => found.map_err(spool_fault),
        }
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
        let done = tokio::task::spawn_blocking(work).await;
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
        let written = tokio::task::spawn_blocking(write).await;
        self.ops = written.unwrap_or_else(|ended| Err(spool_fault(io::Error::other(ended))))?;
        self.memory_bytes = 0;
        Ok(())
    }
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
        let mut buffer = Buffer::new(spool);
        for n in 0..20u8 {
            buffer.push(store(u64::from(n % 7), n, 300)).await.unwrap();
            assert!(buffer.memory_bytes <= 1000);
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
    async fn a_folder_that_is_not_there_is_a_fault_that_names_it() {
        let spool = Spool {
            folder: "/nonexistent/spool".into(),
            memory_bytes: 10,
        };
        let error = Buffer::new(spool)
            .push(store(1, 1, 100))
            .await
            .expect_err("no folder");
        assert!(error.to_string().contains("/nonexistent/spool"), "{error}");
    }
}
