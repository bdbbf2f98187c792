//! Looking into a `Data.fs` from outside: whoever may read it may look, also while it is written to.
//!
//! Nothing is written and no lock is taken. What is looked at is the file up to its length at the
//! opening; a transaction that is just being written is then told as one that is not finished. The bytes
//! are read by what reads them when a file is opened ([`Scan`], [`index_file`]); here is only told what it
//! found, and where a check goes on after a mistake.
//!
//! A check reads besides what an opening believes: that each record's pointer to the one before, and to
//! the data that it shares, leads to a record of the same object; that the saved index is what the file
//! says; and that the blobs have their files. There are no checksums in the format: changed data is
//! found only by comparing copies.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::Paths;
use super::disk::{Disk, FileDisk};
use super::engine::damaged;
use super::format::{FIRST, RecordHeader, TxnHeader};
use super::index::Index;
use super::index_file::{self, Saved};
use super::origin::Origin;
use super::scan::{Scan, Stop, last_before, scan_telling};
use super::window::Window;
use crate::storage::{BlobDirectory, Fault};
use crate::zodb::{Oid, Tid, TxnStatus, is_data_fs};

/// So many mistakes are named.
const NAMED: usize = 1000;

/// A file that is looked into.
pub struct Inspection {
    paths: Paths,
    disk: FileDisk,
    len: u64,
    made_by: &'static str,
    blobs: Option<BlobDirectory>,
}

/// What is in a file.
#[derive(Debug, Clone, Default)]
pub struct Contents {
    pub transactions: u64,
    /// Of these, marked as packed.
    pub packed: u64,
    pub records: u64,
    pub objects: u64,
    pub first: Option<Tid>,
    pub last: Option<Tid>,
    /// Where what is finished ends.
    pub end: u64,
    /// Why there is more in the file, where there is.
    pub rest: Option<String>,
    pub index: IndexState,
    /// What only a check finds out.
    pub checked: Option<Checked>,
}

/// What a check finds out besides.
#[derive(Debug, Clone, Default)]
pub struct Checked {
    /// Of the records that are current, with their headers, and of all others.
    pub current_bytes: u64,
    pub old_bytes: u64,
    /// Records of blobs.
    pub blobs: u64,
    /// In the order of the file; the first thousand.
    pub mistakes: Vec<Mistake>,
    pub mistake_count: u64,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Where in the file.
    pub at: u64,
    pub what: String,
}

/// The index beside a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum IndexState {
    #[default]
    Missing,
    /// It is right; so many bytes came after it was saved.
    Valid { behind: u64 },
    /// Why it is not used when the file is opened.
    Unusable { reason: String },
}

/// A transaction, as a list has it.
#[derive(Debug, Clone)]
pub struct Listed {
    pub at: u64,
    pub tid: Tid,
    pub status: TxnStatus,
    pub user: Bytes,
    pub description: Bytes,
    pub records: u64,
    /// In the file.
    pub bytes: u64,
}

impl Inspection {
    /// Opens a file to look into it, and the folder of its blobs.
    ///
    /// # Errors
    /// [`Fault::Damaged`] where it is no `Data.fs`; what opening and reading gives.
    pub fn open(path: &Path, blobs: Option<&Path>) -> Result<Self, Fault> {
        let fault = |error| Fault::io(format!("opening {}", path.display()), error);
        let disk = FileDisk::open_to_read(path).map_err(fault)?;
        let len = disk.len().map_err(fault)?;
        let mut magic = [0; 4];
        let filled = disk.read_at(&mut magic, 0).map_err(fault)?;
        if filled < 4 || !is_data_fs(&magic) {
            let begins = magic[..filled].escape_ascii();
            let what = format_args!("not a Data.fs: it begins with \"{begins}\"");
            return Err(damaged(path, what));
        }
        let blobs = blobs.map(|folder| {
            let opened = BlobDirectory::open_to_read(folder);
            opened.map_err(|error| Fault::io(format!("opening {}", folder.display()), error))
        });
        Ok(Inspection {
            paths: Paths::of(path),
            disk,
            len,
            made_by: if magic == *b"FS21" {
                "Python 2"
            } else {
                "Python 3"
            },
            blobs: blobs.transpose()?,
        })
    }

    /// The length at the opening.
    pub fn bytes(&self) -> u64 {
        self.len
    }

    /// Which Python made it, or could have.
    pub fn made_by(&self) -> &'static str {
        self.made_by
    }

    /// The folder of blobs that was opened.
    pub fn blobs(&self) -> Option<&Path> {
        self.blobs.as_ref().map(BlobDirectory::root)
    }

    /// Reads all of it. `reached` is told how far it is.
    ///
    /// # Errors
    /// What reading gives; without `check` also what is damaged.
    pub fn read(&self, check: bool, reached: &mut dyn FnMut(u64)) -> Result<Contents, Fault> {
        let path = &self.paths.data;
        let fault = |error| Fault::io(format!("reading {}", path.display()), error);
        let (saved, mut state) = self.saved_index();
        let mut found = Contents {
            checked: check.then(Checked::default),
            ..Contents::default()
        };
        let mut index = Index::default();
        let mut scan = Scan::new(&self.disk, FIRST, self.len, Tid::ZERO);
        let mut records = Vec::new();
        found.end = FIRST;
        while scan.at < self.len {
            reached(scan.at);
            let begin = scan.at;
            let stop = match scan.transaction(&mut records) {
                Ok(header) => {
                    self.look_at(&header, &records, &mut index, &mut found)
                        .map_err(fault)?;
                    if let Some(checked) = &mut found.checked
                        && header.txn_status() == Some(TxnStatus::Undone)
                    {
                        self.check_undone(&mut scan, begin, &header, checked)
                            .map_err(fault)?;
                    }
                    found.end = scan.at;
                    if let Some(saved) = saved.as_ref().filter(|saved| saved.position == scan.at)
                        && check
                    {
                        state = compare(saved, &index, state);
                    }
                    continue;
                }
                Err(stop) => stop,
            };
            let (why, is_damage) = match stop {
                Stop::Io(error) => return Err(fault(error)),
                // What follows an unfinished transaction was never finished either.
                Stop::Unfinished(why) => {
                    found.rest = Some(why);
                    break;
                }
                Stop::Torn(why) => (why, false),
                Stop::Damaged(why) => (why, true),
            };
            let next = scan.finished_after().map_err(fault)?;
            if next.is_none() && !is_damage {
                found.rest = Some(why);
                break;
            }
            let Some(checked) = &mut found.checked else {
                return Err(damaged(path, format_args!("{why} at {begin}")));
            };
            let Some(next) = next else {
                checked.mistake(begin, why);
                break;
            };
            let what = format!("{why}; the next transaction that is whole begins at {next}");
            checked.mistake(begin, what);
            scan.at = next;
        }
        found.objects = index.len() as u64;
        found.index = match state {
            IndexState::Valid { .. } => IndexState::Valid {
                behind: found
                    .end
                    .saturating_sub(saved.map_or(FIRST, |saved| saved.position)),
            },
            state => state,
        };
        Ok(found)
    }

    fn look_at(
        &self,
        header: &TxnHeader,
        records: &[(u64, RecordHeader)],
        index: &mut Index,
        found: &mut Contents,
    ) -> io::Result<()> {
        found.transactions += 1;
        found.packed += u64::from(header.txn_status() == Some(TxnStatus::Packed));
        found.first = found.first.or(Some(header.tid));
        found.last = Some(header.tid);
        found.records += records.len() as u64;
        for (at, record) in records {
            let before = index.get(record.oid);
            if let Some(checked) = &mut found.checked {
                self.check_record(header.tid, *at, record, before, checked)?;
            }
            index.insert(record.oid, *at);
        }
        Ok(())
    }

    fn check_record(
        &self,
        tid: Tid,
        at: u64,
        record: &RecordHeader,
        before: Option<u64>,
        checked: &mut Checked,
    ) -> io::Result<()> {
        let origin = Origin {
            disk: &self.disk,
            path: &self.paths.data,
        };
        let there = |position: u64| origin.record(record.oid, position).map_err(io_of);
        checked.current_bytes += record.whole_len();
        if let Some(before) = before
            && let Some((superseded, _)) = there(before)?
        {
            checked.current_bytes -= superseded.whole_len().min(checked.current_bytes);
            checked.old_bytes += superseded.whole_len();
        }
        let (oid, previous) = (record.oid, record.previous);
        if previous != 0 && Some(previous) != before && there(previous)?.is_none() {
            let what = format!("{oid}: the record before is said to be at {previous}, and is not");
            checked.mistake(at, what);
        }
        if !check_data(&origin, at, record, checked)? {
            return Ok(());
        }
        if super::backup::is_blob(&origin, at, record).map_err(io_of)? {
            checked.blobs += 1;
            let missing = |blobs: &BlobDirectory| !blobs.file(oid, tid).is_file();
            if self.blobs.as_ref().is_some_and(missing) {
                checked.mistake(at, format!("{oid}: the blob has no file in {tid}"));
            }
        }
        Ok(())
    }

    /// What an old ZODB has undone counts for nobody, and an opening passes over it. But an iteration gives
    /// it, and a copy has it.
    fn check_undone(
        &self,
        scan: &mut Scan<'_>,
        begin: u64,
        header: &TxnHeader,
        checked: &mut Checked,
    ) -> io::Result<()> {
        let origin = Origin {
            disk: &self.disk,
            path: &self.paths.data,
        };
        let mut records = Vec::new();
        match scan.records_of(begin, header, &mut records) {
            Ok(()) => {
                for (at, record) in &records {
                    check_data(&origin, *at, record, checked)?;
                }
            }
            Err(Stop::Io(error)) => return Err(error),
            Err(Stop::Unfinished(why) | Stop::Torn(why) | Stop::Damaged(why)) => {
                let what = format!("{why} was undone long ago; who reads all transactions fails");
                checked.mistake(begin, what);
            }
        }
        Ok(())
    }

    /// The saved index, and whether an opening would believe it.
    fn saved_index(&self) -> (Option<Saved>, IndexState) {
        let unusable = |reason: String| IndexState::Unusable { reason };
        match index_file::load(&self.paths.index) {
            Ok(None) => (None, IndexState::Missing),
            Ok(Some(saved)) => match last_before(&self.disk, saved.position, &saved.index) {
                Ok(Some(_)) => (Some(saved), IndexState::Valid { behind: 0 }),
                Ok(None) => (None, unusable("it does not fit the file".to_owned())),
                Err(error) => (None, unusable(error.to_string())),
            },
            Err(error) => (None, unusable(error.to_string())),
        }
    }

    /// The last transactions, oldest first. With a good index only what came after it is read to find the
    /// end.
    ///
    /// # Errors
    /// What reading gives; what is damaged.
    pub fn last_transactions(
        &self,
        count: usize,
        reached: &mut dyn FnMut(u64),
    ) -> Result<Vec<Listed>, Fault> {
        let path = &self.paths.data;
        let fault = |error| Fault::io(format!("reading {}", path.display()), error);
        let (saved, _) = self.saved_index();
        let (mut index, from, last) = match saved {
            Some(saved) => {
                let last = last_before(&self.disk, saved.position, &saved.index);
                let last = last.map_err(fault)?.unwrap_or(Tid::ZERO);
                (saved.index, saved.position.max(FIRST), last)
            }
            None => (Index::default(), FIRST, Tid::ZERO),
        };
        let end = scan_telling(&self.disk, path, from, last, &mut index, reached)?.end;
        drop(index);
        let mut window = Window::new(&self.disk, 64 * 1024, end);
        let (mut begin, mut left) = (end, count);
        while left > 0 && begin > FIRST {
            let before = window.txn_before(begin).map_err(fault)?;
            let Some((at, _)) = before else {
                return Err(damaged(
                    path,
                    format_args!("no transaction ends at {begin}"),
                ));
            };
            begin = at;
            left -= 1;
        }
        let mut listed = Vec::new();
        let mut scan = Scan::new(&self.disk, begin, end, Tid::ZERO);
        let mut records = Vec::new();
        while scan.at < end {
            let at = scan.at;
            let header = match scan.transaction(&mut records) {
                Ok(header) => header,
                Err(Stop::Io(error)) => return Err(fault(error)),
                Err(Stop::Damaged(why) | Stop::Torn(why) | Stop::Unfinished(why)) => {
                    return Err(damaged(path, format_args!("{why} at {at}")));
                }
            };
            let [user, description] = self.texts(at, &header).map_err(fault)?;
            listed.push(Listed {
                at,
                tid: header.tid,
                status: header.txn_status().unwrap_or_default(),
                user,
                description,
                records: records.len() as u64,
                bytes: header.whole_len(),
            });
        }
        Ok(listed)
    }

    fn texts(&self, at: u64, header: &TxnHeader) -> io::Result<[Bytes; 2]> {
        let (user, description) = (usize::from(header.user), usize::from(header.description));
        let mut bytes = vec![0; user + description];
        let filled = self.disk.read_at(&mut bytes, at + TxnHeader::LEN as u64)?;
        if filled < bytes.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = Bytes::from(bytes);
        let user = bytes.split_to(user);
        Ok([user, bytes])
    }
}

impl Checked {
    fn mistake(&mut self, at: u64, what: String) {
        self.mistake_count += 1;
        if self.mistakes.len() < NAMED {
            self.mistakes.push(Mistake { at, what });
        }
    }
}

/// Whether a record has its data, or shares that of an earlier one which is there.
fn check_data(
    origin: &Origin<'_>,
    at: u64,
    record: &RecordHeader,
    checked: &mut Checked,
) -> io::Result<bool> {
    if record.data_len > 0 {
        return Ok(true);
    }
    let there = |position: u64| origin.record(record.oid, position).map_err(io_of);
    let back = there(at)?.map_or(0, |(_, back)| back);
    let good = back == 0 || (back < at && there(back)?.is_some());
    if !good {
        let oid = record.oid;
        let what = format!("{oid}: its data is said to be at {back}, and is not");
        checked.mistake(at, what);
    }
    Ok(good)
}

/// Folders in which the blobs of a file usually are.
#[must_use]
pub fn usual_blob_folder(data: &Path) -> Option<PathBuf> {
    let folder = data.parent()?;
    let usual = [
        folder.join("blobs"),
        folder.join("blobstorage"),
        // Plone's: var/filestorage/Data.fs and var/blobstorage.
        folder.join("../blobstorage"),
    ];
    usual
        .into_iter()
        .find(|folder| folder.join(".layout").is_file())
}

/// Whether the saved index is what the file says up to there.
fn compare(saved: &Saved, index: &Index, state: IndexState) -> IndexState {
    let first = Oid(0);
    if saved.index.iter_from(first).eq(index.iter_from(first)) {
        return state;
    }
    IndexState::Unusable {
        reason: "some of its positions are not those of the file; an opening would not notice: remove it"
            .to_owned(),
    }
}

fn io_of(fault: Fault) -> io::Error {
    match fault {
        Fault::Io { source, .. } => io::Error::new(source.kind(), source.to_string()),
        other => io::Error::other(other.to_string()),
    }
}
