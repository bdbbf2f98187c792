//! Blobs of an array: fetched from members, and kept in a folder that clients share where one is set.
//!
//! Three arrangements. *Over the protocol*: members keep blobs, and the array fetches a file from one of
//! them when a client asks; what was fetched is kept for a while. *Shared with clients*: members keep
//! blobs, and so does a folder that clients look into by themselves, so a file has to be there before
//! anybody is told of its transaction. *Shared by everything*: the folder is also that of the members'
//! servers; they are sent records only, and the array puts the file in its place.
//!
//! A file is made ready in the folder before the votes, since that may take long, and gets its name
//! between the votes, when its TID is known, and the finish. An abort removes it. After a finish that
//! failed it stays: nobody knows whether the transaction comes true, and a file that no
//! record names harms nobody.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use tokio::sync::OnceCell;

use super::options::SharedBlobs;
use super::read::{Patience, not_serving};
use super::runner::Runner;
use crate::storage::{
    Answer, BlobDirectory, Capabilities, Description, Fault, Result, StorageError, is_blob_record,
};
use crate::zodb::{Blob, Oid, Tid};

/// Fetched files that are kept, in bytes on the disk.
const KEPT_BYTES: u64 = 256 << 20;
/// Fetching one file from a member that answers otherwise may take this long.
const LONGEST_FETCH: Duration = Duration::from_hours(1);

mod pack;

pub(super) use pack::NotPacked;

type Key = (Oid, Tid);

/// The array's side of its blobs.
pub(super) struct Blobs {
    shared: Option<Shared>,
    /// Files that members sent. Those that members keep on this machine are not among them.
    fetched: Cache<Key, Blob, ByBytes>,
    /// How often members were packed: what was asked for before is not kept after.
    packed: Mutex<u64>,
    /// Who asks for a file that is on its way waits for it. An entry goes with the last who waits.
    fetching: Mutex<HashMap<Key, Arc<OnceCell<Blob>>>>,
}

#[derive(Clone)]
struct Shared {
    directory: Arc<BlobDirectory>,
    with_members: bool,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Key, Blob> for ByBytes {
    fn weight(&self, _: &Key, blob: &Blob) -> u64 {
        // An empty file takes room too.
        blob.len().max(4096)
    }
}

impl Blobs {
    /// Opens the shared folder, where there is one. Blocks.
    ///
    /// # Errors
    /// What opening it gives.
    pub(super) fn open(shared: Option<&SharedBlobs>) -> std::io::Result<Self> {
        let open = |shared: &SharedBlobs| {
            Ok::<_, std::io::Error>(Shared {
                directory: Arc::new(BlobDirectory::open(&shared.folder)?),
                with_members: shared.with_members,
            })
        };
        Ok(Blobs {
            shared: shared.map(open).transpose()?,
            fetched: Cache::with_weighter(1024, KEPT_BYTES, ByBytes),
            packed: Mutex::new(0),
            fetching: Mutex::default(),
        })
    }

    /// Whether there is a folder that files have to be placed in.
    pub(super) fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    /// Whether members' servers find the files in the shared folder, and are sent records only.
    pub(super) fn with_members(&self) -> bool {
        self.shared
            .as_ref()
            .is_some_and(|shared| shared.with_members)
    }

    /// The folder in which members' servers find the files, where they keep none of their own.
    pub(super) fn of_members(&self) -> Option<Arc<BlobDirectory>> {
        let shared = self.shared.as_ref().filter(|shared| shared.with_members)?;
        Some(Arc::clone(&shared.directory))
    }

    /// Why a member cannot be in an array with these blobs.
    pub(super) fn misfit(&self, member: &Description, capabilities: Capabilities) -> Option<Fault> {
        let shared = self.shared.as_ref().filter(|shared| shared.with_members)?;
        // It would be sent records without their files, and be a copy without blobs.
        (member.kind == "file" && capabilities.blobs).then(|| {
            Fault::Unreachable(format!(
                "it keeps blobs in a folder of its own, while those of the array are in {} for all \
                 members: blobs would be missing from its copy. Remove its blob folder from the \
                 configuration, or do not share the array's with members",
                shared.directory.root().display()
            ))
        })
    }

    /// Keeps a file that was asked for when members had been packed so often.
    fn keep(&self, key: Key, blob: &Blob, packed: u64) {
        let now = self.packed.lock();
        if *now == packed {
            self.fetched.insert(key, blob.clone());
        }
    }

    /// Members were packed: what they have not any more is not given any more.
    pub(super) fn forget_fetched(&self) {
        let mut packed = self.packed.lock();
        *packed += 1;
        self.fetched.clear();
    }

    async fn shared_file(&self, oid: Oid, serial: Tid) -> Option<Blob> {
        let directory = Arc::clone(&self.shared.as_ref()?.directory);
        let find = move || directory.find(oid, serial);
        let found = crate::task::blocking(find).await;
        match found.unwrap_or_else(|ended| Err(std::io::Error::other(ended))) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%oid, %serial, %error, "a shared blob cannot be read; members are asked");
                None
            }
        }
    }

    /// Makes files ready to be placed: durable copies on the disk of the shared folder. What members are
    /// not sent is nobody else's, and is linked instead of copied where it is on that disk already. They are
    /// given back in the same order.
    ///
    /// # Errors
    /// What copying gives.
    pub(super) async fn stage(&self, blobs: Vec<(Oid, Blob)>) -> Result<Vec<(Oid, Blob)>, Fault> {
        let Some(shared) = self.shared.clone().filter(|_| !blobs.is_empty()) else {
            return Ok(blobs);
        };
        let folder = shared.directory.tmp().to_owned();
        let stage = move || -> std::io::Result<Vec<(Oid, Blob)>> {
            let disk = std::fs::metadata(shared.directory.tmp())?.dev();
            let mut staged = Vec::with_capacity(blobs.len());
            for (oid, blob) in blobs {
                let ours = shared.with_members
                    && blob.is_temporary()
                    && blob.open()?.metadata()?.dev() == disk;
                let blob = if ours {
                    blob
                } else {
                    let (file, path) = shared.directory.temporary()?;
                    copy(&blob, &file)?;
                    file.sync_all()?;
                    // Another daemon that opens the folder removes what it takes for leftovers.
                    Blob::lent(path)?
                };
                staged.push((oid, blob));
            }
            Ok(staged)
        };
        let staged = crate::task::blocking(stage).await;
        staged
            .unwrap_or_else(|ended| Err(std::io::Error::other(ended)))
            .map_err(|error| Fault::io(format!("writing a blob in {}", folder.display()), error))
    }

    /// Puts files into the shared folder under this TID.
    ///
    /// # Errors
    /// What placing one gives; then none is left there.
    pub(super) async fn place(&self, tid: Tid, files: Vec<(Oid, Blob)>) -> Result<Placed, Fault> {
        let mut placed = Placed {
            shared: self.shared.clone(),
            tid,
            files: Vec::new(),
        };
        let Some(shared) = self.shared.clone().filter(|_| !files.is_empty()) else {
            return Ok(placed);
        };
        placed.files.clone_from(&files);
        let folder = shared.directory.root().to_owned();
        let place = move || {
            let mut files = files.iter();
            files.try_for_each(|(oid, blob)| shared.directory.place(*oid, tid, blob))
        };
        let done = crate::task::blocking(place).await;
        done.unwrap_or_else(|ended| Err(std::io::Error::other(ended)))
            .map_err(|error| Fault::io(format!("placing a blob in {}", folder.display()), error))?;
        Ok(placed)
    }
}

fn copy(blob: &Blob, to: &File) -> std::io::Result<()> {
    let (file, mut piece, mut at) = (blob.open()?, vec![0; 1 << 20], 0);
    while at < blob.len() {
        let some = file.read_at(&mut piece, at)?;
        if some == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        to.write_all_at(&piece[..some], at)?;
        at += some as u64;
    }
    Ok(())
}

/// Files that were placed for a transaction which is not finished. Dropping this removes them.
pub(super) struct Placed {
    shared: Option<Shared>,
    tid: Tid,
    files: Vec<(Oid, Blob)>,
}

impl Placed {
    /// The finish was asked for: the files stay, whatever comes of it.
    pub(super) fn keep(mut self) -> Kept {
        Kept {
            shared: self.shared.take(),
            tid: self.tid,
            files: std::mem::take(&mut self.files),
        }
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        let (tid, files) = (self.tid, std::mem::take(&mut self.files));
        let Some(shared) = self.shared.take().filter(|_| !files.is_empty()) else {
            return;
        };
        let remove = move || {
            for (oid, _) in files {
                if let Err(error) = shared.directory.remove_among_others(oid, tid) {
                    tracing::warn!(%oid, %tid, %error, "the blob of an aborted transaction stays");
                }
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(_) => drop(crate::task::blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// Files of a transaction that was asked to finish.
pub(super) struct Kept {
    shared: Option<Shared>,
    tid: Tid,
    files: Vec<(Oid, Blob)>,
}

impl Kept {
    /// A member's server that was lost in the transaction may have removed what it took for its own
    /// file: what is missing is placed again.
    pub(super) async fn make_sure(self) {
        let Kept { shared, tid, files } = self;
        let shared = shared.filter(|shared| shared.with_members && !files.is_empty());
        let Some(shared) = shared else { return };
        let look = move || {
            for (oid, blob) in files {
                let found = shared.directory.find(oid, tid);
                let placed = match found {
                    Ok(Some(_)) => Ok(()),
                    _ => shared.directory.place(oid, tid, &blob),
                };
                if let Err(error) = placed {
                    tracing::error!(%oid, %tid, %error, "a committed blob is missing from the shared folder");
                }
            }
        };
        if let Err(ended) = crate::task::blocking(look).await {
            tracing::error!(%tid, %ended, "committed blobs were not looked for");
        }
    }
}

impl Runner {
    /// The file of a blob: from the shared folder, from what was fetched lately, or from a member. Who
    /// asks for the same at the same time waits for the same.
    pub(super) async fn load_blob(self: &Arc<Self>, oid: Oid, serial: Tid) -> Result<Blob> {
        let view = self.view();
        if !view.serving.can_read() {
            return Err(not_serving(&view).into());
        }
        // INVARIANT 5: nothing past the head.
        if serial > view.head {
            return Err(Answer::NoSuchObject(oid).into());
        }
        if let Some(blob) = self.blobs.shared_file(oid, serial).await {
            return Ok(blob);
        }
        let key = (oid, serial);
        if let Some(blob) = self.blobs.fetched.get(&key) {
            return Ok(blob);
        }
        let waiting = Waiting::new(&self.blobs, key);
        let fetch = || async {
            let packed = *self.blobs.packed.lock();
            let blob = self
                .ask_all_with(
                    Patience::WhileItAnswers(LONGEST_FETCH),
                    &view,
                    oid,
                    "sendBlob",
                    |_: &Blob| false,
                    move |storage| Box::pin(async move { storage.load_blob(oid, serial).await }),
                )
                .await?;
            if blob.is_temporary() {
                self.blobs.keep(key, &blob, packed);
            }
            Ok(blob)
        };
        // Where the one who fetches leaves, the next who waits goes on in its place.
        waiting.cell.get_or_try_init(fetch).await.cloned()
    }

    /// What undoing these transactions makes the blobs among `oids` be, in files: what each was before
    /// the first of the transactions that wrote it.
    pub(super) async fn undone_blobs(
        self: &Arc<Self>,
        undone: &[Tid],
        oids: &[Oid],
    ) -> Result<Vec<(Oid, Blob)>> {
        let mut undone = undone.to_vec();
        undone.sort_unstable();
        let mut files = Vec::new();
        for oid in oids {
            for tid in &undone {
                let before = self.as_of(*oid, *tid).await?;
                let after = self.as_of(*oid, tid.next()).await?;
                let revision = |loaded: &Option<crate::storage::Loaded>| {
                    loaded.as_ref().map(|loaded| loaded.tid)
                };
                if revision(&before) == revision(&after) {
                    continue;
                }
                if let Some(before) = before.filter(|before| is_blob_record(&before.data)) {
                    files.push((*oid, self.load_blob(*oid, before.tid).await?));
                }
                break;
            }
        }
        Ok(files)
    }

    async fn as_of(
        self: &Arc<Self>,
        oid: Oid,
        before: Tid,
    ) -> Result<Option<crate::storage::Loaded>> {
        match self.load_before(oid, before).await {
            Err(StorageError::Answer(Answer::NoSuchObject(_))) => Ok(None),
            answer => answer,
        }
    }
}

/// Somebody who waits for a file that is being fetched.
struct Waiting<'a> {
    blobs: &'a Blobs,
    key: Key,
    cell: Arc<OnceCell<Blob>>,
}

impl<'a> Waiting<'a> {
    fn new(blobs: &'a Blobs, key: Key) -> Self {
        let cell = Arc::clone(blobs.fetching.lock().entry(key).or_default());
        Waiting { blobs, key, cell }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut fetching = self.blobs.fetching.lock();
        // The table's and this one: nobody else waits. New ones come under the same lock.
        if Arc::strong_count(&self.cell) <= 2 {
            fetching.remove(&self.key);
        }
    }
}

/// Why the shared folder of blobs cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the folder of shared blobs, {}, cannot be used: {source}", .folder.display())]
pub struct SharedBlobsError {
    pub folder: PathBuf,
    pub source: std::io::Error,
}
