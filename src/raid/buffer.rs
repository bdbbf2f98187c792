//! A transaction before its vote: in memory up to a limit, then in a temporary file.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::Spool;
use crate::storage::Fault;
use crate::zodb::{Blob, Oid, Op, Payload, Tid};

/// The operations of one transaction.
pub(super) struct Buffer {
    ops: Vec<Op>,
    spool: Spool,
    file: Option<Arc<File>>,
    file_bytes: u64,
    /// The first operation whose data may be in memory.
    in_memory_from: usize,
    memory_bytes: usize,
    total_bytes: u64,
    /// The files of all blobs that were stored, also of those that conflicted: what its client stores
    /// instead is a blob still.
    files: HashMap<Oid, Blob>,
}

impl Buffer {
    pub(super) fn new(spool: Spool) -> Self {
        Buffer {
            ops: Vec::new(),
            spool,
            file: None,
            file_bytes: 0,
            in_memory_from: 0,
            memory_bytes: 0,
            total_bytes: 0,
            files: HashMap::new(),
        }
    }

    pub(super) fn ops(&self) -> &[Op] {
        &self.ops
    }

    pub(super) fn bytes(&self) -> u64 {
        self.total_bytes
    }

    /// What the transaction writes, as far as that is known before the vote; each once.
    pub(super) fn oids(&self) -> Vec<Oid> {
        let mut oids: Vec<Oid> = self.ops.iter().filter_map(Op::writes).collect();
        oids.sort_unstable();
        oids.dedup();
        oids
    }

    /// The transactions that it undoes.
    pub(super) fn undone(&self) -> Vec<Tid> {
        let undone = self.ops.iter().filter_map(|op| match op {
            Op::Undo { tid } => Some(*tid),
            _ => None,
        });
        undone.collect()
    }

    /// The files of the blobs that it stores. Of several of one object the last one counts.
    pub(super) fn blobs(&self) -> impl Iterator<Item = (Oid, Blob)> {
        self.ops.iter().filter_map(|op| match op {
            Op::StoreBlob { oid, blob, .. } => Some((*oid, blob.clone())),
            _ => None,
        })
    }

    /// Adds an operation.
    ///
    /// A ZEO client sends the record of a blob twice, once alone and once with the file. One operation
    /// is made of both, so that members hold one record.
    ///
    /// # Errors
    /// Where the temporary file cannot be written.
    pub(super) async fn push(&mut self, op: Op) -> Result<(), Fault> {
        let Some(op) = self.merge(op)? else {
            return Ok(());
        };
        self.memory_bytes += op.size();
        self.total_bytes += carried(&op);
        self.ops.push(op);
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
                for op in self.ops.iter_mut().rev() {
                    let Op::Store {
                        oid: other,
                        serial: read,
                        data: stored,
                    } = op
                    else {
                        continue;
                    };
                    if *other == oid && *read == serial && same(stored, &data)? {
                        // Its data may be in the temporary file already.
                        let data = stored.clone();
                        self.total_bytes += blob.len();
                        *op = Op::StoreBlob {
                            oid,
                            serial,
                            data,
                            blob,
                        };
                        return Ok(None);
                    }
                }
                Ok(Some(Op::StoreBlob {
                    oid,
                    serial,
                    data,
                    blob,
                }))
            }
            Op::Store { oid, serial, data } if self.files.contains_key(&oid) => {
                for op in self.ops.iter().rev() {
                    if let Op::StoreBlob {
                        oid: other,
                        serial: read,
                        data: stored,
                        ..
                    } = op
                        && *other == oid
                    {
                        let repeated = *read == serial && same(stored, &data)?;
                        let store = Op::Store { oid, serial, data };
                        return Ok((!repeated).then_some(store));
                    }
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

    /// Takes out what is stored for these objects: the client stores them again, resolved.
    pub(super) fn drop_stores(&mut self, oids: &[Oid]) {
        let dropped = |op: &Op| matches!(op, Op::Store { oid, .. } | Op::StoreBlob { oid, .. } if oids.contains(oid));
        let bytes: u64 = self.ops.iter().filter(|op| dropped(op)).map(carried).sum();
        self.total_bytes -= bytes;
        self.ops.retain(|op| !dropped(op));
        let in_memory = |op: &Op| payload(op).is_some_and(|data| data.in_memory().is_some());
        self.in_memory_from = self
            .ops
            .iter()
            .position(in_memory)
            .unwrap_or(self.ops.len());
        self.memory_bytes = self.ops[self.in_memory_from..].iter().map(Op::size).sum();
    }

    /// Moves all data that is in memory into the file.
    async fn spill(&mut self) -> Result<(), Fault> {
        let folder = self.spool.folder.clone();
        let failed = |error| {
            Fault::io(
                format!("writing a temporary file in {}", folder.display()),
                error,
            )
        };
        let file = self.file.clone();
        let start = self.file_bytes;
        let tail = self.ops.split_off(self.in_memory_from);
        let folder_there = folder.clone();
        let write = move || -> std::io::Result<(Arc<File>, u64, Vec<Op>)> {
            let file = match file {
                Some(file) => file,
                None => Arc::new(tempfile::tempfile_in(folder_there)?),
            };
            let (mut at, mut spilled) = (start, Vec::with_capacity(tail.len()));
            for op in tail {
                spilled.push(spill_one(op, &file, &mut at)?);
            }
            Ok((file, at, spilled))
        };
        let written = tokio::task::spawn_blocking(write).await;
        let (file, end, spilled) = written
            .unwrap_or_else(|ended| Err(std::io::Error::other(ended)))
            .map_err(failed)?;
        self.ops.extend(spilled);
        self.in_memory_from = self.ops.len();
        self.memory_bytes = 0;
        self.file = Some(file);
        self.file_bytes = end;
        Ok(())
    }
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

/// Blocks where one is in the temporary file; records of blobs are small.
fn same(one: &Payload, other: &Payload) -> Result<bool, Fault> {
    one.same_as(other)
        .map_err(|error| Fault::io("reading a temporary file", error))
}

fn payload(op: &Op) -> Option<&Payload> {
    match op {
        Op::Store { data, .. } | Op::StoreBlob { data, .. } => Some(data),
        Op::Restore { data, .. } => data.as_ref(),
        _ => None,
    }
}

fn spill_one(mut op: Op, file: &Arc<File>, at: &mut u64) -> std::io::Result<Op> {
    let (Op::Store { data, .. }
    | Op::StoreBlob { data, .. }
    | Op::Restore {
        data: Some(data), ..
    }) = &mut op
    else {
        return Ok(op);
    };
    if let Some(bytes) = data.in_memory() {
        file.write_all_at(bytes, *at)?;
        let len = bytes.len();
        *data = Payload::piece(Arc::clone(file), *at, len);
        *at += len as u64;
    }
    Ok(op)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::zodb::Tid;

    fn store(oid: u64, byte: u8, len: usize) -> Op {
        let data = Bytes::from(vec![byte; len]).into();
        Op::Store {
            oid: Oid(oid),
            serial: Tid::ZERO,
            data,
        }
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
        assert_eq!(buffer.oids(), (0..7).map(Oid).collect::<Vec<_>>());
        for (n, op) in buffer.ops()[..20].iter().enumerate() {
            let data = payload(op).unwrap().read().unwrap();
            assert_eq!(data, vec![n as u8; 300]);
        }
        buffer.drop_stores(&[Oid(0), Oid(3)]);
        assert_eq!(buffer.ops().len(), 21 - 6);
        assert_eq!(buffer.bytes(), 6000 - 6 * 300);
        buffer.push(store(3, 77, 2000)).await.unwrap();
        let data = payload(buffer.ops().last().unwrap())
            .unwrap()
            .read()
            .unwrap();
        assert_eq!(data, vec![77; 2000]);
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
