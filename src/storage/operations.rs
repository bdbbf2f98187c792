//! What a client asks in one transaction: in memory, and beyond a limit in temporary files.
//!
//! A transaction may have a million small records; an [`Op`] for each, in every member, would be far
//! more than what they hold. So whoever collects moves them into two files, and all who take part read
//! them from there, one after the other:
//!
//! ```text
//! entries   48 bytes for each operation
//!            0  which it is                                  1
//!            4  which of the blobs belongs to it             4
//!            8  oid                                          8
//!           16  serial; of an undo, the transaction          8
//!           24  the earlier transaction of a restored one    8
//!           32  where its data is                            8
//!           40  the length of its data                       8
//! data      the data of all of them, one after the other
//! ```
//!
//! Nobody else reads these files, and they have no names: numbers are as the processor has them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::Fault;
use crate::zodb::{Blob, Oid, Op, Payload, Tid};

const ENTRY: usize = 48;
/// So many entries are read and written at once.
const ENTRIES: usize = 4096;
/// So much data is.
const DATA: usize = 256 << 10;
/// Data up to this length is read together with its neighbours'.
const SMALL: usize = 16 << 10;
/// There is none.
const NONE: u64 = u64::MAX;

/// What a storage has to do with each beside taking its data in, as the bytes that would take it as long.
const EACH: u64 = 128;
/// The same for an undo, which is looked for in its history, one after the other by Python's server.
const UNDO: u64 = 256 << 10;

/// How long a storage may take over an operation, as the bytes that would take it as long. Of an undo that is without
/// what it undoes.
#[must_use]
pub fn effort(op: &Op) -> u64 {
    let undo = if matches!(op, Op::Undo { .. }) {
        UNDO
    } else {
        0
    };
    op.size() as u64 + EACH + undo
}

/// The operations of one transaction in their order. Each has a number, which it keeps.
#[derive(Debug, Clone, Default)]
pub struct Operations {
    spooled: Option<Spooled>,
    memory: Vec<Op>,
    /// The numbers of those that do not count any more.
    dropped: BTreeSet<u64>,
    /// How many of them have a blob, and how many are undos, dropped or not.
    blobs: usize,
    undos: usize,
    without_files: bool,
}

/// The first operations, which are in files.
#[derive(Debug, Clone)]
struct Spooled {
    entries: Arc<File>,
    data: Arc<File>,
    count: u64,
    data_len: u64,
    blobs: Vec<Blob>,
}

impl Operations {
    #[must_use]
    pub fn new() -> Self {
        Operations::default()
    }

    /// Adds one, in memory.
    pub fn push(&mut self, op: Op) {
        self.blobs += usize::from(matches!(op, Op::StoreBlob { .. }));
        self.undos += usize::from(matches!(op, Op::Undo { .. }));
        self.memory.push(op);
    }

    /// How many there are, with those that were dropped: the number of the next one.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.in_files() + self.memory.len() as u64
    }

    /// Whether some of them bring files of blobs along.
    #[must_use]
    pub fn have_blobs(&self) -> bool {
        self.blobs > 0 && !self.without_files
    }

    /// Whether some of them undo others' transactions.
    #[must_use]
    pub fn undo(&self) -> bool {
        self.undos > 0
    }

    /// As [`effort`], of all of them beside their data.
    #[must_use]
    pub fn effort(&self) -> u64 {
        self.count() * EACH + self.undos as u64 * UNDO
    }

    /// The same without the files of blobs: for whoever finds them by himself.
    #[must_use]
    pub fn without_files(&self) -> Self {
        Operations {
            without_files: true,
            ..self.clone()
        }
    }

    /// Takes these out.
    pub fn drop_ops(&mut self, numbers: impl IntoIterator<Item = u64>) {
        self.dropped.extend(numbers);
    }

    /// Reads them one after the other.
    #[must_use]
    pub fn walk(&self) -> Walk<'_> {
        self.walk_from(0)
    }

    /// The same from a number on.
    #[must_use]
    pub fn walk_from(&self, number: u64) -> Walk<'_> {
        Walk {
            ops: self,
            next: number,
            end: self.count(),
            with_data: false,
            entries: Vec::new(),
            entries_from: 0,
            data: Bytes::new(),
            data_from: 0,
        }
    }

    /// Some from a number on with their numbers, and the number to go on with; with their data in memory
    /// where it is small.
    ///
    /// # Errors
    /// [`Fault::Here`] where the files cannot be read.
    pub async fn some(self: &Arc<Self>, from: u64) -> Result<(Vec<(u64, Op)>, u64), Fault> {
        let failed = |error| Fault::here("reading a temporary file", error);
        if self.spooled.is_none() {
            return self.read_some(from).map_err(failed);
        }
        let ops = Arc::clone(self);
        let read = crate::task::blocking(move || ops.read_some(from)).await;
        read.unwrap_or_else(|ended| Err(io::Error::other(ended)))
            .map_err(failed)
    }

    fn read_some(&self, from: u64) -> io::Result<(Vec<(u64, Op)>, u64)> {
        let mut walk = self.walk_from(from).with_data();
        let (mut ops, mut bytes) = (Vec::new(), 0);
        while ops.len() < ENTRIES && bytes < DATA {
            let Some((number, op)) = walk.next_op()? else {
                break;
            };
            bytes += op.size();
            ops.push((number, op));
        }
        Ok((ops, walk.next))
    }

    /// The one with this number; none where it was dropped. Blocks where it is in a file.
    ///
    /// # Errors
    /// What reading the files gives.
    pub fn get(&self, number: u64) -> io::Result<Option<Op>> {
        let mut walk = self.walk_from(number);
        walk.end = walk.end.min(number + 1);
        Ok(walk.next_op()?.map(|(_, op)| op))
    }

    /// The last one in memory that satisfies a condition, and its number; dropped ones do not count.
    ///
    /// # Errors
    /// What the condition gives.
    pub fn rfind_in_memory(
        &self,
        wanted: impl Fn(&Op) -> io::Result<bool>,
    ) -> io::Result<Option<(u64, Op)>> {
        let first = self.in_files();
        for (index, op) in self.memory.iter().enumerate().rev() {
            let number = first + index as u64;
            if !self.dropped.contains(&number) && wanted(op)? {
                return Ok(Some((number, op.clone())));
            }
        }
        Ok(None)
    }

    /// Gives the record with this number, which was one without, the file of a blob.
    ///
    /// # Errors
    /// What reading or writing the files gives.
    pub fn add_blob(&mut self, number: u64, blob: Blob) -> io::Result<()> {
        self.blobs += 1;
        let first = self.in_files();
        if number >= first {
            let op = &mut self.memory[(number - first) as usize];
            if let Op::Store { oid, serial, data } = op {
                *op = Op::StoreBlob {
                    oid: *oid,
                    serial: *serial,
                    data: data.clone(),
                    blob,
                };
            }
            return Ok(());
        }
        let Some(spooled) = &mut self.spooled else {
            return Ok(());
        };
        let mut bytes = [0; ENTRY];
        spooled
            .entries
            .read_exact_at(&mut bytes, number * ENTRY as u64)?;
        let mut entry = Entry::decode(&bytes);
        entry.kind = Kind::StoreBlob;
        entry.blob = spooled.blobs.len() as u32;
        spooled.blobs.push(blob);
        let mut bytes = Vec::with_capacity(ENTRY);
        entry.encode(&mut bytes);
        spooled.entries.write_all_at(&bytes, number * ENTRY as u64)
    }

    /// Moves all that are in memory into files, which are made in `folder`. Blocks.
    ///
    /// # Errors
    /// What making or writing the files gives. Nothing is lost then.
    pub fn spool(&mut self, folder: &Path) -> io::Result<()> {
        let mut spooled = match self.spooled.take() {
            Some(spooled) => spooled,
            None => Spooled {
                entries: Arc::new(tempfile::tempfile_in(folder)?),
                data: Arc::new(tempfile::tempfile_in(folder)?),
                count: 0,
                data_len: 0,
                blobs: Vec::new(),
            },
        };
        let written = spooled.append(&self.memory);
        self.spooled = Some(spooled);
        written?;
        self.memory = Vec::new();
        Ok(())
    }

    fn in_files(&self) -> u64 {
        self.spooled.as_ref().map_or(0, |spooled| spooled.count)
    }
}

impl Spooled {
    fn append(&mut self, ops: &[Op]) -> io::Result<()> {
        let (mut entries, mut data) = (Vec::new(), Vec::new());
        let (mut at, mut blobs) = (self.data_len, Vec::new());
        let mut data_at = at;
        for op in ops {
            let mut entry = Entry::of(op);
            if let Some(payload) = payload(op) {
                entry.data_at = at;
                entry.len = payload.len() as u64;
                at += entry.len;
                match payload.in_memory() {
                    Some(bytes) if bytes.len() >= DATA => {
                        self.data.write_all_at(&data, data_at)?;
                        self.data.write_all_at(bytes, entry.data_at)?;
                        data.clear();
                        data_at = at;
                    }
                    Some(bytes) => data.extend_from_slice(bytes),
                    None => copy(payload, &mut data)?,
                }
                if data.len() >= DATA {
                    self.data.write_all_at(&data, data_at)?;
                    data.clear();
                    data_at = at;
                }
            }
            if let Op::StoreBlob { blob, .. } = op {
                entry.blob = (self.blobs.len() + blobs.len()) as u32;
                blobs.push(blob.clone());
            }
            entry.encode(&mut entries);
        }
        self.data.write_all_at(&data, data_at)?;
        self.entries
            .write_all_at(&entries, self.count * ENTRY as u64)?;
        // From here on they are there.
        self.count += ops.len() as u64;
        self.data_len = at;
        self.blobs.extend(blobs);
        Ok(())
    }
}

/// Data that is a piece of some other file.
fn copy(payload: &Payload, into: &mut Vec<u8>) -> io::Result<()> {
    let from = into.len();
    into.resize(from + payload.len(), 0);
    payload.read_at(0, &mut into[from..])
}

fn payload(op: &Op) -> Option<&Payload> {
    match op {
        Op::Store { data, .. } | Op::StoreBlob { data, .. } => Some(data),
        Op::Restore { data, .. } => data.as_ref(),
        _ => None,
    }
}

/// Operations, one after the other.
pub struct Walk<'o> {
    ops: &'o Operations,
    next: u64,
    end: u64,
    with_data: bool,
    entries: Vec<u8>,
    /// The number of the first of `entries`.
    entries_from: u64,
    data: Bytes,
    /// Where `data` is.
    data_from: u64,
}

impl Walk<'_> {
    /// Small data is read at once, together with its neighbours'; otherwise it stays where it is until
    /// it is asked for. Who keeps what he gets would keep the neighbours' too.
    #[must_use]
    pub fn with_data(mut self) -> Self {
        self.with_data = true;
        self
    }

    /// The next one, and its number. Blocks where it is in a file.
    ///
    /// # Errors
    /// What reading the files gives.
    pub fn next_op(&mut self) -> io::Result<Option<(u64, Op)>> {
        while self.next < self.end {
            let number = self.next;
            self.next += 1;
            if self.ops.dropped.contains(&number) {
                continue;
            }
            let first = self.ops.in_files();
            let op = match &self.ops.spooled {
                Some(spooled) if number < first => self.read(spooled, number)?,
                _ => self.ops.memory[(number - first) as usize].clone(),
            };
            let op = match op {
                Op::StoreBlob {
                    oid, serial, data, ..
                } if self.ops.without_files => Op::Store { oid, serial, data },
                op => op,
            };
            return Ok(Some((number, op)));
        }
        Ok(None)
    }

    fn read(&mut self, spooled: &Spooled, number: u64) -> io::Result<Op> {
        let there = self.entries_from..self.entries_from + (self.entries.len() / ENTRY) as u64;
        if !there.contains(&number) {
            let count = (self.end.min(spooled.count) - number).min(ENTRIES as u64) as usize;
            self.entries.resize(count * ENTRY, 0);
            spooled
                .entries
                .read_exact_at(&mut self.entries, number * ENTRY as u64)?;
            self.entries_from = number;
        }
        let at = (number - self.entries_from) as usize * ENTRY;
        let bytes = self.entries[at..].first_chunk();
        let entry = Entry::decode(bytes.expect("whole entries are read"));
        let data = (entry.len != NONE)
            .then(|| self.data(spooled, entry.data_at, entry.len as usize))
            .transpose()?;
        Ok(entry.op(data, &spooled.blobs))
    }

    fn data(&mut self, spooled: &Spooled, at: u64, len: usize) -> io::Result<Payload> {
        if !self.with_data || len > SMALL {
            return Ok(Payload::piece(Arc::clone(&spooled.data), at, len));
        }
        let there = self.data_from..=self.data_from + self.data.len() as u64;
        if !there.contains(&at) || !there.contains(&(at + len as u64)) {
            let step = (spooled.data_len - at).min(DATA as u64) as usize;
            let mut bytes = vec![0; step];
            spooled.data.read_exact_at(&mut bytes, at)?;
            self.data = bytes.into();
            self.data_from = at;
        }
        let from = (at - self.data_from) as usize;
        Ok(self.data.slice(from..from + len).into())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Store,
    Restore,
    StoreBlob,
    Delete,
    CheckCurrent,
    Undo,
}

/// An operation in a file.
#[derive(Debug, Clone, Copy)]
struct Entry {
    kind: Kind,
    blob: u32,
    oid: Oid,
    serial: Tid,
    previous: u64,
    data_at: u64,
    len: u64,
}

impl Entry {
    fn of(op: &Op) -> Self {
        let (kind, oid, serial, previous) = match op {
            Op::Store { oid, serial, .. } => (Kind::Store, *oid, *serial, None),
            Op::StoreBlob { oid, serial, .. } => (Kind::StoreBlob, *oid, *serial, None),
            Op::Restore {
                oid,
                serial,
                previous,
                ..
            } => (Kind::Restore, *oid, *serial, *previous),
            Op::Delete { oid, serial } => (Kind::Delete, *oid, *serial, None),
            Op::CheckCurrent { oid, serial } => (Kind::CheckCurrent, *oid, *serial, None),
            Op::Undo { tid } => (Kind::Undo, Oid(0), *tid, None),
        };
        Entry {
            kind,
            blob: 0,
            oid,
            serial,
            previous: previous.map_or(NONE, |tid| tid.0),
            data_at: 0,
            len: NONE,
        }
    }

    fn op(self, data: Option<Payload>, blobs: &[Blob]) -> Op {
        let Entry { oid, serial, .. } = self;
        let some = |data: Option<Payload>| data.unwrap_or_else(|| Bytes::new().into());
        match self.kind {
            Kind::Store => Op::Store {
                oid,
                serial,
                data: some(data),
            },
            Kind::StoreBlob => match blobs.get(self.blob as usize).cloned() {
                Some(blob) => Op::StoreBlob {
                    oid,
                    serial,
                    data: some(data),
                    blob,
                },
                // The file was added after this copy was given away.
                None => Op::Store {
                    oid,
                    serial,
                    data: some(data),
                },
            },
            Kind::Restore => Op::Restore {
                oid,
                serial,
                data,
                previous: (self.previous != NONE).then_some(Tid(self.previous)),
            },
            Kind::Delete => Op::Delete { oid, serial },
            Kind::CheckCurrent => Op::CheckCurrent { oid, serial },
            Kind::Undo => Op::Undo { tid: serial },
        }
    }

    fn encode(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&[self.kind as u8, 0, 0, 0]);
        into.extend_from_slice(&self.blob.to_ne_bytes());
        for number in [
            self.oid.0,
            self.serial.0,
            self.previous,
            self.data_at,
            self.len,
        ] {
            into.extend_from_slice(&number.to_ne_bytes());
        }
    }

    fn decode(bytes: &[u8; ENTRY]) -> Self {
        let number = |at: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[at..at + 8]);
            u64::from_ne_bytes(number)
        };
        let mut blob = [0; 4];
        blob.copy_from_slice(&bytes[4..8]);
        Entry {
            kind: match bytes[0] {
                0 => Kind::Store,
                1 => Kind::Restore,
                2 => Kind::StoreBlob,
                3 => Kind::Delete,
                4 => Kind::CheckCurrent,
                _ => Kind::Undo,
            },
            blob: u32::from_ne_bytes(blob),
            oid: Oid(number(8)),
            serial: Tid(number(16)),
            previous: number(24),
            data_at: number(32),
            len: number(40),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn op() -> impl Strategy<Value = Op> {
        let data = (
            any::<u8>(),
            prop_oneof![9 => 0..300usize, 1 => 10_000..600_000usize],
        )
            .prop_map(|(byte, len)| Payload::from(Bytes::from(vec![byte; len])));
        (0..6u8, any::<(u64, u64, Option<u32>)>(), data).prop_map(
            |(kind, (oid, serial, previous), data)| {
                let (oid, serial) = (Oid(oid), Tid(serial));
                let previous = previous.map(|tid| Tid(u64::from(tid)));
                match kind {
                    0 => Op::Store { oid, serial, data },
                    1 => Op::Restore {
                        oid,
                        serial,
                        data: Some(data),
                        previous,
                    },
                    2 => Op::Restore {
                        oid,
                        serial,
                        data: None,
                        previous,
                    },
                    3 => Op::Delete { oid, serial },
                    4 => Op::CheckCurrent { oid, serial },
                    _ => Op::Undo { tid: serial },
                }
            },
        )
    }

    /// What tells an operation from all others.
    fn plain(op: &Op) -> String {
        let data = payload(op).map(|data| data.read().unwrap());
        let mut text = format!("{op:?}");
        if let Some(at) = text.find("Payload(") {
            let end = at + text[at..].find(')').unwrap();
            text.replace_range(at..=end, "");
        }
        format!("{text} {data:?}")
    }

    fn all(ops: &Operations, with_data: bool) -> Vec<(u64, String)> {
        let mut walk = ops.walk();
        walk.with_data = with_data;
        let mut found = Vec::new();
        while let Some((number, op)) = walk.next_op().unwrap() {
            found.push((number, plain(&op)));
        }
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]
        #[test]
        fn what_is_in_files_is_what_was_asked(
            batches in prop::collection::vec(prop::collection::vec(op(), 0..30), 1..4),
            dropped in prop::collection::btree_set(0..90u64, 0..10),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let (mut spooled, mut kept) = (Operations::new(), Operations::new());
            let last = batches.len() - 1;
            for (index, batch) in batches.into_iter().enumerate() {
                for op in batch {
                    spooled.push(op.clone());
                    kept.push(op);
                }
                if index != last || index == 0 {
                    spooled.spool(folder.path()).unwrap();
                }
            }
            spooled.drop_ops(dropped.clone());
            kept.drop_ops(dropped);
            prop_assert_eq!(spooled.count(), kept.count());
            prop_assert_eq!(spooled.undo(), kept.undo());
            for with_data in [false, true] {
                prop_assert_eq!(all(&spooled, with_data), all(&kept, with_data));
            }
            let mut together = Vec::new();
            let mut from = 0;
            while from < spooled.count() {
                let (some, next) = spooled.read_some(from).unwrap();
                prop_assert!(next > from);
                together.extend(some.iter().map(|(number, op)| (*number, plain(op))));
                from = next;
            }
            prop_assert_eq!(together, all(&kept, false));
            let each = |ops: &Operations| {
                let get = |number| ops.get(number).unwrap().map(|op| plain(&op));
                (0..ops.count() + 2).map(get).collect::<Vec<_>>()
            };
            prop_assert_eq!(each(&spooled), each(&kept));
            let delete = |op: &Op| Ok(matches!(op, Op::Delete { .. }));
            let last = kept.rfind_in_memory(delete).unwrap();
            let expected = all(&kept, false).into_iter().rfind(|(_, op)| op.starts_with("Delete"));
            prop_assert_eq!(last.map(|(number, op)| (number, plain(&op))), expected);
        }
    }

    #[test]
    fn a_blob_is_added_to_a_record_wherever_that_is() {
        let folder = tempfile::tempdir().unwrap();
        let mut ops = Operations::new();
        let store = |oid| Op::Store {
            oid: Oid(oid),
            serial: Tid(7),
            data: Bytes::from(vec![b'r'; 40]).into(),
        };
        let blob = |content: &[u8]| {
            let mut file = tempfile::NamedTempFile::new_in(&folder).unwrap();
            file.write_all(content).unwrap();
            Blob::temporary(file.into_temp_path()).unwrap()
        };
        for oid in 0..5 {
            ops.push(store(oid));
        }
        ops.spool(folder.path()).unwrap();
        ops.push(store(5));
        assert!(!ops.have_blobs());
        for number in [5, 1, 3] {
            ops.add_blob(number, blob(format!("blob {number}").as_bytes()))
                .unwrap();
        }
        assert!(ops.have_blobs() && !ops.without_files().have_blobs());
        let mut walk = ops.walk();
        while let Some((number, op)) = walk.next_op().unwrap() {
            match op {
                Op::StoreBlob {
                    oid, serial, blob, ..
                } => {
                    assert!([1, 3, 5].contains(&number));
                    assert_eq!((oid, serial), (Oid(number), Tid(7)));
                    let content = std::fs::read(blob.path()).unwrap();
                    assert_eq!(content, format!("blob {number}").as_bytes());
                }
                other => {
                    assert!(![1, 3, 5].contains(&number));
                    assert_eq!(plain(&other), plain(&store(number)));
                }
            }
        }
        assert_eq!(all(&ops.without_files(), false).len(), 6);
        assert!(ops.without_files().walk().next_op().unwrap().is_some());
        assert!(matches!(ops.get(3).unwrap(), Some(Op::StoreBlob { .. })));
        assert!(matches!(ops.get(4).unwrap(), Some(Op::Store { .. })));
    }

    #[test]
    fn without_a_folder_nothing_is_lost() {
        let mut ops = Operations::new();
        ops.push(Op::Undo { tid: Tid(1) });
        ops.spool(Path::new("/nonexistent/folder")).unwrap_err();
        assert_eq!(ops.count(), 1);
        assert!(ops.undo());
        assert_eq!(all(&ops, false).len(), 1);
    }
}
