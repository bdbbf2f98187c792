//! What passes through a server that is large: blobs, and transactions that are stored piece by piece.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use zeoraidctl::pickle::Value;
use zeoraidctl::wire::{Call, Expected, FromServer, MessageId, Push, Reply, Request, TxnId};
use zeoraidctl::zodb::{Oid, Tid, TxnMeta};

use crate::peer::Peer;
use crate::sides::{Side, free_address};

/// The transaction of who has one at a time. Python's ids are addresses.
const OURS: TxnId = TxnId(Value::Int(0x7f12_3456_7890));

/// The size of a blob's pieces; Python's.
const CHUNK: usize = 59_000;

/// The record of every blob.
const BLOB_RECORD: &[u8] = b"\x80\x03cZODB.blob\nBlob\nq\x00.\x80\x03N.";

impl Peer {
    /// Begins a transaction.
    pub(crate) fn begin(&mut self) -> anyhow::Result<()> {
        self.tell(Call::TpcBegin {
            txn: OURS,
            meta: TxnMeta::default(),
            tid: None,
        })
    }

    /// Stores a new object in it. Waits where much is on its way.
    pub(crate) async fn store(&mut self, oid: Oid, data: Bytes) -> anyhow::Result<()> {
        self.tell(Call::Storea {
            oid,
            serial: Tid::ZERO,
            data,
            txn: OURS,
        })?;
        self.room().await
    }

    /// Stores a new blob in it, with this content, as Python's client does.
    pub(crate) async fn store_blob(
        &mut self,
        oid: Oid,
        mut content: impl Read,
    ) -> anyhow::Result<()> {
        self.tell(Call::StoreBlobStart)?;
        loop {
            let mut chunk = vec![0; CHUNK];
            let mut filled = 0;
            while filled < CHUNK {
                match content.read(&mut chunk[filled..])? {
                    0 => break,
                    more => filled += more,
                }
            }
            if filled == 0 {
                break;
            }
            chunk.truncate(filled);
            self.tell(Call::StoreBlobChunk {
                chunk: chunk.into(),
            })?;
            self.room().await?;
        }
        self.tell(Call::StoreBlobEnd {
            oid,
            serial: Tid::ZERO,
            data: Bytes::from_static(BLOB_RECORD),
            txn: OURS,
        })
    }

    /// Votes and finishes it.
    pub(crate) async fn end(&mut self) -> anyhow::Result<Tid> {
        match self.call(Call::Vote { txn: OURS }).await? {
            Reply::Voted(resolved) if resolved.is_empty() => {}
            reply => bail!("not voted: {reply:?}"),
        }
        match self.call(Call::TpcFinish { txn: OURS }).await? {
            Reply::Tid(tid) => Ok(tid),
            reply => bail!("not finished: {reply:?}"),
        }
    }

    /// Fetches a blob into a writer; how long it is.
    pub(crate) async fn fetch_blob(
        &mut self,
        oid: Oid,
        serial: Tid,
        mut into: impl Write,
    ) -> anyhow::Result<u64> {
        self.next += 1;
        let id = MessageId::Int(self.next);
        self.writer.request(&Request {
            id: id.clone(),
            one_way: false,
            call: Call::SendBlob { oid, serial },
        })?;
        self.writer.flush().await?;
        let mut bytes = 0;
        loop {
            match self.reader.next_from_server().await? {
                Some(FromServer::Push(Push::ReceiveBlobChunk { chunk, .. })) => {
                    into.write_all(&chunk)?;
                    bytes += chunk.len() as u64;
                }
                Some(FromServer::Reply(reply)) if reply.id == id => {
                    reply.expect(Expected::None)?;
                    return Ok(bytes);
                }
                Some(_) => {}
                None => bail!("the server has closed the connection"),
            }
        }
    }

    /// Reads what the server says until it hangs up.
    pub(crate) async fn listen(mut self) {
        while let Ok(Some(_)) = self.reader.next_from_server().await {}
    }

    async fn room(&mut self) -> anyhow::Result<()> {
        if self.writer.pending() > 1 << 20 {
            self.writer.flush().await?;
        }
        Ok(())
    }
}

impl Side {
    /// The daemon before so many files, which have blobs.
    pub(crate) fn with_blobs(folder: &Path, members: usize) -> anyhow::Result<Side> {
        let instance = folder.join("instance");
        let address = free_address()?;
        let mut text = format!("listen: {address}\narrays:\n  main:\n    members:\n");
        for number in 1..=members {
            let place = format!("var/copy{number}");
            writeln!(
                text,
                "      copy{number}: {{file: {place}/Data.fs, blob_dir: {place}/blobs}}"
            )?;
        }
        fs::create_dir_all(instance.join("etc"))?;
        fs::write(instance.join("etc/zeoraid.yaml"), text)?;
        Self::foreground(&instance, address)
    }

    /// The most memory that it had in use since it was started, in bytes: `VmHWM` of `/proc`.
    pub(crate) fn peak_memory(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kib: u64 = kib.context("a line `VmHWM`")?.parse()?;
        Ok(kib * 1024)
    }
}
