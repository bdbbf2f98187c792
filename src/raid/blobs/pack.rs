//! Packing the shared folder of blobs.
//!
//! No member owns it, so when members have packed their records away the files stay there. Once every
//! member of the array is packed, it walks through the folder and removes each file whose record none of
//! them holds any more. What is later than the time to which is packed, or than the head when the walk
//! begins, stays without a question: its transaction may just be on its way.
//!
//! A file that is removed wrongly is lost, and one that stays wrongly is in nobody's way: in doubt it stays.
//! - A member that is out, or was not packed, may come back with a history that names the file: there is no
//!   walk without it, and a walk ends where one is lost.
//! - A member says that it has no such record, and has it: packing keeps a record for an undo that points
//!   to it, but not the chain from newer ones by which `loadSerial` goes. Undoing what came after needs its
//!   file. So before files are removed, the transactions are iterated over.
//!
//! Nothing is undone meanwhile, and what no member has cannot be pointed to: a file that is in nobody's
//! history stays so.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;

use super::Shared;
use crate::raid::controller::MemberId;
use crate::raid::read::{Doubted, Patience};
use crate::raid::runner::Runner;
use crate::raid::view::Reader;
use crate::storage::{Answer, Fault, StorageError, pack_tid};
use crate::zodb::{Oid, Tid, TidRange};

/// How many files are found before the members were asked for their records. The walk waits meanwhile.
const AHEAD: usize = 256;
/// About so many files members are asked at the same time.
const ASKED_AT_ONCE: usize = 32;
/// So many files seem to be needed no more before transactions are iterated over. Many are written by the
/// same.
const GONE_AT_ONCE: usize = 16_384;

/// Why the shared folder was not packed, or not all of it.
#[derive(Debug, thiserror::Error)]
pub(in crate::raid) enum NotPacked {
    #[error("{0} is out, and may come back with what was packed away")]
    Out(String),
    #[error("{0} was not packed")]
    Unpacked(String),
    #[error("cancelled")]
    Cancelled,
    #[error("{0} was lost meanwhile")]
    Lost(String),
    #[error("{member}: {error}")]
    Member { member: String, error: StorageError },
    #[error(transparent)]
    Folder(Fault),
}

impl Runner {
    /// Removes the files of what is packed away to this time, in seconds since 1970, while `may_go_on`
    /// says so. `packed` are the members that were packed to it. How many files were removed.
    ///
    /// # Errors
    /// [`NotPacked`]; then the rest stays for the next time.
    pub(in crate::raid) async fn pack_shared_blobs(
        self: &Arc<Self>,
        time: f64,
        packed: &[MemberId],
        may_go_on: impl Fn() -> bool,
    ) -> Result<usize, NotPacked> {
        let Some(shared) = self.blobs.shared.clone() else {
            return Ok(0);
        };
        let last = self.view().head.min(pack_tid(time).unwrap_or(Tid::ZERO));
        let readers = self.all_packed(packed)?;
        let (told, found) = mpsc::channel(AHEAD);
        let directory = Arc::clone(&shared.directory);
        let walk = crate::task::blocking(move || {
            directory.each_revision(|oid, tid| {
                // Nobody listens any more where the pack has ended.
                if tid <= last && told.blocking_send((oid, tid)).is_err() {
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            })
        });
        let removed = Walk {
            runner: self,
            shared: &shared,
            readers,
            packed,
            may_go_on,
        }
        .run(found)
        .await;
        let walked = walk.await;
        let removed = removed?;
        walked
            .unwrap_or_else(|ended| Err(std::io::Error::other(ended)))
            .map_err(|error| in_folder(&shared, error))?;
        Ok(removed)
    }

    /// All members of the array, where all can be read and are packed.
    fn all_packed(&self, packed: &[MemberId]) -> Result<Vec<Reader>, NotPacked> {
        let configured: Vec<(MemberId, String)> = self.look(|core| {
            let members = core.controller.members.keys();
            let named = members.map(|id| (*id, core.controller.name(*id)));
            named.collect()
        });
        let view = self.view();
        let mut readers = Vec::with_capacity(configured.len());
        for (id, name) in configured {
            let mut all = view.readers.iter().filter(|_| view.serving.can_read());
            let Some(reader) = all.find(|reader| reader.member == id) else {
                return Err(NotPacked::Out(name));
            };
            if !packed.contains(&id) {
                return Err(NotPacked::Unpacked(name));
            }
            readers.push(reader.clone());
        }
        Ok(readers)
    }
}

struct Walk<'a, F> {
    runner: &'a Arc<Runner>,
    shared: &'a Shared,
    /// Every member of the array, as it was open when the walk began.
    readers: Vec<Reader>,
    packed: &'a [MemberId],
    may_go_on: F,
}

impl<F: Fn() -> bool> Walk<'_, F> {
    async fn run(&self, mut found: mpsc::Receiver<(Oid, Tid)>) -> Result<usize, NotPacked> {
        let mut asking = FuturesUnordered::new();
        let mut gone: BTreeMap<Tid, BTreeSet<Oid>> = BTreeMap::new();
        let (mut count, mut removed, mut is_open) = (0, 0, true);
        loop {
            self.check()?;
            let more = is_open && count < GONE_AT_ONCE && asking.len() < ASKED_AT_ONCE;
            crate::task::select! {
                next = found.recv(), if more => match next {
                    Some((oid, tid)) => asking.push(self.seems_gone(oid, tid)),
                    None => is_open = false,
                },
                Some(answer) = asking.next() => if let Some((oid, tid)) = answer? {
                    gone.entry(tid).or_default().insert(oid);
                    count += 1;
                },
                else => {
                    // Nobody is being asked now: who is would not be listened to meanwhile.
                    removed += self.remove(std::mem::take(&mut gone)).await?;
                    count = 0;
                    if !is_open {
                        return Ok(removed);
                    }
                }
            }
        }
    }

    fn check(&self) -> Result<(), NotPacked> {
        (self.may_go_on)().then_some(()).ok_or(NotPacked::Cancelled)
    }

    /// The revision, where every member says that it has no such record.
    async fn seems_gone(&self, oid: Oid, tid: Tid) -> Result<Option<(Oid, Tid)>, NotPacked> {
        // Most are still there, and the first answer ends it: each member is asked first for some.
        #[expect(clippy::cast_possible_truncation, reason = "any will do")]
        let first = oid.0 as usize % self.readers.len().max(1);
        let (before, from) = self.readers.split_at(first);
        for reader in from.iter().chain(before) {
            let answer = self
                .runner
                .ask_one(
                    Patience::ForACall,
                    reader,
                    oid,
                    "loadSerial",
                    &|storage: Arc<dyn crate::storage::Storage>| {
                        Box::pin(async move { storage.load_serial(oid, tid).await })
                    },
                )
                .await;
            match answer {
                Ok(_) => return Ok(None),
                Err(StorageError::Answer(Answer::NoSuchObject(_))) => {}
                Err(error) => return Err(self.failed(reader, error)),
            }
        }
        Ok(Some((oid, tid)))
    }

    /// Removes those of these files that are in no member's history.
    async fn remove(&self, gone: BTreeMap<Tid, BTreeSet<Oid>>) -> Result<usize, NotPacked> {
        let mut removed = 0;
        for (tid, mut oids) in gone {
            self.check()?;
            for reader in &self.readers {
                self.retain_unwritten(reader, tid, &mut oids).await?;
                if oids.is_empty() {
                    break;
                }
            }
            if oids.is_empty() {
                continue;
            }
            self.still_whole()?;
            removed += oids.len();
            let directory = Arc::clone(&self.shared.directory);
            let remove = move || {
                let mut oids = oids.into_iter();
                oids.try_for_each(|oid| directory.remove_among_others(oid, tid))
            };
            let done = crate::task::blocking(remove).await;
            done.unwrap_or_else(|ended| Err(std::io::Error::other(ended)))
                .map_err(|error| in_folder(self.shared, error))?;
        }
        Ok(removed)
    }

    /// Strikes those objects out that have a record in this transaction of a member.
    async fn retain_unwritten(
        &self,
        reader: &Reader,
        tid: Tid,
        oids: &mut BTreeSet<Oid>,
    ) -> Result<(), NotPacked> {
        const WHAT: &str = "an iteration";
        let (runner, storage) = (self.runner, &*reader.storage);
        let failed = |error| self.failed(reader, error);
        let opening = storage.iterate(TidRange::only(tid));
        let opened = runner.while_it_answers(storage, WHAT, opening).await;
        let mut history = opened.map_err(failed)?;
        loop {
            let next = runner.while_it_answers(storage, WHAT, history.next()).await;
            let Some(transaction) = next.map_err(failed)? else {
                return Ok(());
            };
            if transaction.tid != tid {
                continue;
            }
            for record in &transaction.records {
                oids.remove(&record.oid);
            }
        }
    }

    /// Whether every member that was asked is still there as it was, and no other has come.
    fn still_whole(&self) -> Result<(), NotPacked> {
        let now = self.runner.all_packed(self.packed)?;
        let same = |reader: &Reader| {
            let mut now = now.iter();
            now.any(|now| (now.member, now.generation) == (reader.member, reader.generation))
        };
        match self.readers.iter().find(|reader| !same(reader)) {
            Some(lost) => Err(NotPacked::Lost(self.name(lost))),
            None => Ok(()),
        }
    }

    /// A member gave no answer by which one can go. It is looked after as for any other call; what it
    /// could not read is held against it when somebody asks for it whom another member can answer.
    fn failed(&self, reader: &Reader, error: StorageError) -> NotPacked {
        let member = self.name(reader);
        if let StorageError::Fault(fault) = &error {
            let mut doubted = Doubted::default();
            let what = "packing the shared folder of blobs";
            // What it returns is the fault, which is told in any case.
            self.runner
                .failed(reader, what, fault.clone(), &mut doubted)
                .ok();
        }
        NotPacked::Member { member, error }
    }

    fn name(&self, reader: &Reader) -> String {
        let name = |id| self.runner.look(|core| core.controller.name(id));
        name(reader.member)
    }
}

fn in_folder(shared: &Shared, error: std::io::Error) -> NotPacked {
    let folder = shared.directory.root().display();
    NotPacked::Folder(Fault::io(format!("packing {folder}"), error))
}
