//! A look at, and a change to, a `Data.fs` with the file engine, to be compared with Python's.
//!
//! `data_fs dump FILE` prints a line for each transaction, `data_fs walk FILE` one for each current
//! record, `data_fs extend FILE` commits, deletes and restores, `data_fs copy FROM TO` copies all
//! transactions. The other half is `tests/it/interop/data_fs.py`.
#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};
use zeoraidctl::storage::file::{FileOptions, FileStorage};
use zeoraidctl::storage::{Storage, Vote};
use zeoraidctl::zodb::{Oid, Op, Payload, RecordData, Tid, TidRange, TxnMeta};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["dump", file] => dump(&open(file).await?).await,
        ["walk", file] => walk(&open(file).await?).await,
        ["extend", file] => extend(&open(file).await?).await,
        ["copy", from, to] => copy(&open(from).await?, &open(to).await?).await,
        _ => bail!("data_fs dump|walk|extend FILE, data_fs copy FROM TO"),
    }
}

async fn open(file: &str) -> anyhow::Result<FileStorage> {
    let started = std::time::Instant::now();
    let storage = FileStorage::open(Path::new(file), FileOptions::default()).await?;
    let size = storage.size();
    if std::env::var_os("TIMES").is_some() {
        println!("opened {size:?} in {:?}", started.elapsed());
    }
    Ok(storage)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all");
        text
    })
}

fn digest(payload: &Payload) -> anyhow::Result<String> {
    Ok(hexadecimal(&Sha256::digest(payload.read()?)[..8]))
}

async fn dump(storage: &FileStorage) -> anyhow::Result<()> {
    let mut history = storage.iterate(TidRange::ALL).await?;
    while let Some(txn) = history.next().await? {
        let mut line = format!(
            "{:016x} {:?} {} {} {}",
            txn.tid.0,
            char::from(txn.meta.status.to_byte()),
            hexadecimal(&txn.meta.user),
            hexadecimal(&txn.meta.description),
            hexadecimal(&txn.meta.extension),
        );
        for record in &txn.records {
            write!(line, " {:x}", record.oid.0)?;
            match &record.data {
                RecordData::Data(data) => write!(line, "={}", digest(data)?)?,
                RecordData::Back { tid, data } => {
                    write!(line, "@{:016x}={}", tid.0, digest(data)?)?;
                }
                RecordData::Gone => line += "=gone",
            }
        }
        println!("{line}");
    }
    storage.close().await;
    Ok(())
}

async fn walk(storage: &FileStorage) -> anyhow::Result<()> {
    let mut next = Some(Oid::ROOT);
    while let Some(from) = next {
        let Some(record) = storage.record_from(from).await? else {
            break;
        };
        let data = digest(&record.data.into())?;
        println!("{:x} {:016x} {data}", record.oid.0, record.tid.0);
        next = record.next;
    }
    storage.close().await;
    Ok(())
}

async fn extend(storage: &FileStorage) -> anyhow::Result<()> {
    let oids = storage.new_oids(3, Oid::ROOT).await?;
    let data = storage.load_before(Oid::ROOT, Tid::MAX).await?;
    let root = data.context("there is a root")?;
    let mut serial = root.tid;
    for round in 0..3 {
        let meta = TxnMeta {
            user: " someone".into(),
            description: format!("round {round} of another implementation").into(),
            ..TxnMeta::default()
        };
        let mut ops = vec![store(Oid::ROOT, serial, root.data.clone().into())];
        if round == 0 {
            for oid in &oids {
                ops.push(store(*oid, Tid::ZERO, root.data.clone().into()));
            }
        }
        if round == 2 {
            let first = storage.current_tid(oids[0]).await?;
            ops.push(Op::Delete {
                oid: oids[0],
                serial: first,
            });
        }
        serial = commit(storage, meta, ops).await?;
    }
    storage.close().await;
    Ok(())
}

fn store(oid: Oid, serial: Tid, data: Payload) -> Op {
    Op::Store { oid, serial, data }
}

async fn commit(storage: &FileStorage, meta: TxnMeta, ops: Vec<Op>) -> anyhow::Result<Tid> {
    let mut txn = storage.begin(meta, None).await?;
    for op in ops {
        txn.store(op).await?;
    }
    match txn.vote().await? {
        Vote::Ready(voted) => Ok(voted.finish().await?),
        Vote::Conflicts(_, conflicts) => bail!("conflicts: {conflicts:?}"),
    }
}

async fn copy(from: &FileStorage, to: &FileStorage) -> anyhow::Result<()> {
    let mut history = from.iterate(TidRange::ALL).await?;
    let (mut batch, mut size) = (Vec::new(), 0);
    while let Some(txn) = history.next().await? {
        size += txn.size() + 100 * txn.records.len() as u64;
        batch.push(txn);
        if size > 8 << 20 {
            to.restore(std::mem::take(&mut batch)).await?;
            size = 0;
        }
    }
    to.restore(batch).await?;
    to.close().await;
    from.close().await;
    Ok(())
}
