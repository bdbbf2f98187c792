//! Files of blobs whose records are packed away.
//!
//! While the records are looked at, what goes is listed in `.removed` in the folder of blobs, as Python
//! does it: an oid and a TID in hexadecimal for a revision. (Python also lists an oid alone, for an object
//! that is garbage, and removes all its files: also those of revisions which are later than the time
//! to which is packed and stay.)
//! When the new file is in force, the files are removed, or moved beside into `blobs.old` where the old
//! data file is kept, to which then all other files get a second name. A list that a crash has left is
//! worked off when the file is opened: nothing is removed that there is a record of.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};

use super::copy::{Dropped, Source, tid_at};
use super::garbage::Reach;
use super::must_go_on;
use crate::durable::step::{self, Writing};
use crate::storage::file::engine::Engine;
use crate::storage::{BlobDirectory, Fault, Result, is_blob_record};
use crate::zodb::{Oid, Tid};

const LIST: &str = ".removed";
/// The blob's class is named in its first bytes.
const BLOB_RECORD: usize = 512;

/// The list on its way; nothing where there are no blobs.
pub(super) struct Removed(Option<BufWriter<Writing>>);

impl Removed {
    pub(super) fn begin(engine: &Engine) -> Result<Self, Fault> {
        let Some(blobs) = &engine.blobs else {
            return Ok(Removed(None));
        };
        let file = step::create(&blobs.root().join(LIST));
        let file = file.map_err(|error| fault(blobs, "listing what goes of", error))?;
        Ok(Removed(Some(BufWriter::new(Writing::new(file)))))
    }

    /// Whether records that go have to be looked at.
    pub(super) fn is_wanted(&self) -> bool {
        self.0.is_some()
    }

    /// Lists a record's file, where it is that of a blob.
    pub(super) fn look_at(
        &mut self,
        source: &Source,
        reach: &Reach,
        tid: Tid,
        dropped: &Dropped,
    ) -> Result<(), Fault> {
        let (Some(list), Some(blobs)) = (&mut self.0, &source.engine.blobs) else {
            return Ok(());
        };
        let mut first = [0; BLOB_RECORD];
        let len = dropped.data_len.min(BLOB_RECORD as u64) as usize;
        let read = source.disk.read_at(&mut first[..len], dropped.data_at);
        let read = read.map_err(|error| source.engine.fault("reading", error))?;
        if !is_blob_record(&first[..read]) {
            return Ok(());
        }
        let oid = dropped.oid;
        let kept = reach.object(oid);
        if let Some(kept) = kept
            && tid_at(source, oid, kept)? == Some(tid)
        {
            // The same revision twice in one transaction (ZEO clients do that): one of them stays.
            return Ok(());
        }
        let written = writeln!(list, "{:016x}{:016x}", oid.0, tid.0);
        written.map_err(|error| fault(blobs, "listing what goes of", error))
    }

    /// Makes the list durable.
    pub(super) fn finish(self, engine: &Engine) -> Result<(), Fault> {
        let (Some(list), Some(blobs)) = (self.0, &engine.blobs) else {
            return Ok(());
        };
        let synced = list
            .into_inner()
            .map_err(std::io::IntoInnerError::into_error);
        let synced = synced.and_then(|list| step::sync_all(list.file()));
        synced.map_err(|error| fault(blobs, "listing what goes of", error))
    }
}

fn fault(blobs: &BlobDirectory, what: &str, error: std::io::Error) -> Fault {
    Fault::io(format!("{what} {}", blobs.root().display()), error)
}

/// Removes what the last packing kept.
pub(super) fn remove_old(engine: &Engine) -> Result<(), Fault> {
    let Some(blobs) = &engine.blobs else {
        return Ok(());
    };
    let removed = blobs.remove_old();
    removed.map_err(|error| fault(blobs, "removing what was kept of", error))
}

/// Nothing was packed, or it is the list of a file that is not in force any more.
pub(in crate::storage::file) fn forget_list(engine: &Engine) -> Result<(), Fault> {
    let Some(blobs) = &engine.blobs else {
        return Ok(());
    };
    match step::remove_file(&blobs.root().join(LIST)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(fault(blobs, "listing what goes of", error))
        }
        _ => Ok(()),
    }
}

/// Removes the files that are listed, where nothing is left that they belong to. After packing, where
/// the old data file is kept, all files are: of an interrupted one only where something goes.
pub(in crate::storage::file) fn remove_listed(engine: &Engine, packed: bool) -> Result<()> {
    let Some(blobs) = &engine.blobs else {
        return Ok(());
    };
    let io = |error| fault(blobs, "removing packed files from", error);
    let list = blobs.root().join(LIST);
    let file = match File::open(&list) {
        Ok(file) => BufReader::new(file),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io(error).into()),
    };
    let mut keep = None;
    if packed && engine.options.pack_keep_old {
        keep = Some(blobs.begin_old().map_err(io)?);
    }
    for line in file.lines() {
        must_go_on(engine)?;
        // Whatever else stands there is none of ours, and the end of the last line may be missing.
        let line = parse(&line.map_err(io)?);
        let Some((oid, tid)) = line else {
            continue;
        };
        let there = match tid {
            None => engine.has_object(oid),
            Some(tid) => engine.has_revision(oid, tid)?,
        };
        if there {
            continue;
        }
        if engine.options.pack_keep_old && keep.is_none() {
            keep = Some(blobs.begin_old().map_err(io)?);
        }
        let retired = match tid {
            None => blobs.retire_object(oid, keep.as_deref()),
            Some(tid) => blobs.retire(oid, tid, keep.as_deref()),
        };
        retired.map_err(io)?;
    }
    if let Some(keep) = &keep {
        blobs.share_with_old(keep).map_err(io)?;
    }
    step::remove_file(&list).map_err(io)?;
    Ok(())
}

fn parse(line: &str) -> Option<(Oid, Option<Tid>)> {
    let number = |digits: &str| u64::from_str_radix(digits, 16).ok();
    match line.len() {
        16 => Some((Oid(number(line)?), None)),
        32 => {
            let (oid, tid) = line.split_at_checked(16)?;
            Some((Oid(number(oid)?), Some(Tid(number(tid)?))))
        }
        _ => None,
    }
}
