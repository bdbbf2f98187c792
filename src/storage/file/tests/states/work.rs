//! The work whose crash states are looked at: each kind in a folder of its own, watched from the beginning.

use super::*;
use crate::durable::step;
use crate::job::{Rate, Work};
use crate::storage::suite::{BLOB_RECORD, begin, blob, ready, referring};
use crate::storage::{BackupOrder, BlobDirectory, Finishing, Voted};
use crate::task::Stop;
use crate::zodb::{HistoryRecord, Op};

/// Does something and notes what was promised.
pub(super) struct Worker {
    pub(super) root: PathBuf,
    pub(super) story: Story,
    storage: Option<FileStorage>,
    serials: BTreeMap<u64, Tid>,
    watch: Watch,
    _folder: tempfile::TempDir,
}

/// Content of this length that is nowhere else.
fn filled(number: u64, len: usize) -> Vec<u8> {
    let mut content = format!("number {number} ").into_bytes();
    content.resize(len.max(content.len()), b'a' + (number % 26) as u8);
    content
}

/// The same as a record that can be packed.
fn pickled(number: u64, len: usize) -> Vec<u8> {
    referring(&[], &String::from_utf8(filled(number, len)).unwrap())
}

impl Worker {
    fn begin(blobs: bool, mistake: Option<Mistake>, prepare: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(folder.path()).unwrap();
        prepare(&root);
        let story = Story {
            data: "Data.fs".into(),
            blob_dir: blobs.then(|| "blobs".into()),
            keep_old: true,
            bases: vec![Base::default()],
            ..Story::default()
        };
        Worker {
            watch: Watch::begin(&root, mistake),
            root,
            story,
            storage: None,
            serials: BTreeMap::new(),
            _folder: folder,
        }
    }

    async fn open(&mut self) {
        self.storage = Some(open_at(&self.story, &self.root).await.unwrap());
    }

    async fn close(&mut self) {
        self.remember().await;
        self.storage.take().unwrap().close().await;
    }

    fn storage(&self) -> &FileStorage {
        self.storage.as_ref().unwrap()
    }

    fn note(&mut self, event: Event) {
        self.story.events.push((self.watch.position(), event));
    }

    fn store(&self, oid: u64, data: &[u8]) -> Op {
        let serial = self.serials.get(&oid).copied().unwrap_or_default();
        store(oid, serial, data)
    }

    fn store_blob(&self, oid: u64, content: &str) -> Op {
        let serial = self.serials.get(&oid).copied().unwrap_or_default();
        store_blob(oid, serial, content.as_bytes())
    }

    async fn vote(&mut self, ops: Vec<Op>) -> Box<dyn Voted> {
        let mut written = Vec::new();
        let mut blobs = Vec::new();
        for op in &ops {
            match op {
                Op::Store { oid, .. } => written.push(oid.0),
                Op::StoreBlob { oid, blob, .. } => {
                    written.push(oid.0);
                    blobs.push((oid.0, std::fs::read_to_string(blob.path()).unwrap()));
                }
                _ => (),
            }
        }
        let voted = begin(self.storage(), ops).await.vote().await.unwrap();
        let voted = ready(voted);
        let tid = voted.tid().unwrap();
        self.serials
            .extend(written.into_iter().map(|oid| (oid, tid)));
        let blobs = blobs.into_iter();
        let blobs = blobs.map(|(oid, content)| (oid, tid.0, content));
        self.story.blobs.extend(blobs);
        voted
    }

    fn finish(&mut self, voted: Box<dyn Voted>) -> Finishing {
        self.note(Event::Finishing(voted.tid().unwrap().0));
        voted.finish()
    }

    async fn finished(&mut self, finishing: Finishing) {
        finishing.await.unwrap();
        self.note(Event::Finished);
    }

    async fn commit(&mut self, ops: Vec<Op>) -> Tid {
        let voted = self.vote(ops).await;
        let tid = voted.tid().unwrap();
        let finishing = self.finish(voted);
        self.finished(finishing).await;
        tid
    }

    /// Votes and gives up.
    async fn abort(&mut self, ops: Vec<Op>) {
        let before = self.serials.clone();
        drop(self.vote(ops).await);
        self.storage().0.ask(|_| ()).await.unwrap();
        self.serials = before;
    }

    /// Notes what the transactions are that are there.
    async fn remember(&mut self) -> Vec<u64> {
        let there = transactions(self.storage(), TidRange::ALL).await;
        for txn in &there {
            self.story
                .texts
                .entry(txn.tid.0)
                .or_insert_with(|| text(txn));
        }
        there.iter().map(|txn| txn.tid.0).collect()
    }

    /// The history may be another one from now on.
    fn changes(&mut self, base: Base) -> usize {
        self.story.bases.push(base);
        let number = self.story.bases.len() - 1;
        self.note(Event::Changes(number));
        number
    }

    /// Packs, and commits at those steps of it at which others can.
    async fn pack(&mut self) {
        let before = self.remember().await;
        let time = crate::clock::now().as_millisecond() as f64 / 1000.0;
        let number = self.changes(Base::default());
        let engine = Arc::clone(&self.storage().0);
        let (told, mut steps) = tokio::sync::mpsc::channel::<&'static str>(1);
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        *engine.at_step.lock() = Some(Box::new(move |step| {
            told.blocking_send(step).unwrap();
            wait.recv().unwrap();
        }));
        let storage = self.storage.take().unwrap();
        let storage = Arc::new(storage);
        let packing = {
            let storage = Arc::clone(&storage);
            async move {
                let packed = storage.pack(time).await;
                *engine.at_step.lock() = None;
                packed.unwrap();
            }
        };
        // The worker commits through the same engine.
        self.storage = Some(FileStorage(Arc::clone(&storage.0)));
        let mut committed = 0;
        let commits = async {
            while let Some(step) = steps.recv().await {
                let others_go_on = ["packed part copied", "rest copied", "others go on"];
                if others_go_on.contains(&step) {
                    committed += 1;
                    let ops = vec![self.store(1, &pickled(900 + committed, 300))];
                    self.commit(ops).await;
                }
                go_on.send(()).unwrap();
            }
        };
        futures_util::join!(packing, commits);
        assert_eq!(committed, 3, "it is packed while others commit");
        // What was there before is in the new history as packing left it.
        let last = before.last().copied().unwrap();
        let there = transactions(self.storage(), TidRange::ALL).await;
        let base = &mut self.story.bases[number];
        for txn in there.iter().filter(|txn| txn.tid.0 <= last) {
            base.history.push(txn.tid.0);
            base.texts.insert(txn.tid.0, text(txn));
        }
        assert!(base.history.len() < before.len(), "something was packed");
        self.note(Event::Changed(number));
        // The other handle has abandoned nothing: it is leaked, as the engine is closed by this one.
        std::mem::forget(storage);
    }

    async fn rewind(&mut self, keep: Option<Tid>) {
        let there = self.remember().await;
        let (history, aside): (Vec<u64>, Vec<u64>) = there
            .into_iter()
            .partition(|tid| keep.is_some_and(|keep| *tid <= keep.0));
        let number = self.changes(Base {
            history,
            aside,
            ..Base::default()
        });
        self.storage().rewind(keep).await.unwrap();
        self.note(Event::Changed(number));
        let oids: Vec<u64> = self.serials.keys().copied().collect();
        for oid in oids {
            match self.storage().current_tid(Oid(oid)).await {
                Ok(tid) => self.serials.insert(oid, tid),
                Err(_) => self.serials.remove(&oid),
            };
        }
    }

    pub(super) async fn case(mut self, name: &str) -> Case<Story> {
        if self.storage.is_some() {
            self.remember().await;
        }
        let case = Case::new(name, self.watch.log(), self.story.clone());
        drop(self.watch);
        if let Some(storage) = self.storage.take() {
            storage.close().await;
        }
        case
    }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(work)
}

/// From no file at all: commits of several sizes, several at a time, with some that are given up, one that is
/// undone, and the index saved meanwhile, at the end, and used.
pub(super) fn commits(mistake: Option<Mistake>) -> Case<Story> {
    run(async {
        let mut worker = Worker::begin(false, mistake, |_| {});
        worker.open().await;
        for round in 0..3 {
            let mut finishing = Vec::new();
            for number in 0..3 {
                let oid = round * 3 + number;
                let data = filled(oid, 100 + 500 * number as usize);
                let ops = vec![worker.store(oid, &data), worker.store(100, &data[..20])];
                if oid % 4 == 3 {
                    worker.abort(ops).await;
                    continue;
                }
                let voted = worker.vote(ops).await;
                finishing.push(worker.finish(voted));
            }
            for one in finishing {
                worker.finished(one).await;
            }
        }
        let last = worker.commit(vec![worker.store(0, b"other")]).await;
        let undone = worker.commit(vec![Op::Undo { tid: last }]).await;
        worker.serials.insert(0, undone);
        let ops = (200..206).map(|oid| worker.store(oid, &filled(oid, 1200)));
        let ops = ops.collect();
        worker.commit(ops).await;
        worker.close().await;
        worker.open().await;
        worker.commit(vec![worker.store(0, b"third")]).await;
        let _given_up = worker.vote(vec![worker.store(1, b"never")]).await;
        worker.case("commits").await
    })
}

/// Blobs: new ones, others in their place, several at once, given up, undone.
pub(super) fn blobs(mistake: Option<Mistake>) -> Case<Story> {
    run(async {
        let mut worker = Worker::begin(true, mistake, |_| {});
        worker.open().await;
        let first = "first ".repeat(150);
        worker.commit(vec![worker.store_blob(1, &first)]).await;
        let ops = vec![
            worker.store_blob(2, "two"),
            worker.store_blob(0x1_0000, "far"),
            worker.store(3, b"no blob"),
        ];
        worker.commit(ops).await;
        worker.abort(vec![worker.store_blob(2, "given up")]).await;
        let mut finishing = Vec::new();
        for number in 0..2u64 {
            let ops = vec![
                worker.store_blob(10 + number, "together"),
                worker.store(20 + number, b"beside"),
            ];
            let voted = worker.vote(ops).await;
            finishing.push(worker.finish(voted));
        }
        for one in finishing {
            worker.finished(one).await;
        }
        let second = worker.commit(vec![worker.store_blob(1, "second")]).await;
        let undone = worker.commit(vec![Op::Undo { tid: second }]).await;
        worker.story.blobs.push((1, undone.0, first));
        worker.serials.insert(1, undone);
        worker.close().await;
        worker.open().await;
        worker.commit(vec![worker.store_blob(1, "third")]).await;
        let _given_up = worker.vote(vec![worker.store_blob(2, "never")]).await;
        worker.case("blobs").await
    })
}

/// Packing, with and without keeping the old file, twice, while others commit.
pub(super) fn packing(keep_old: bool, mistake: Option<Mistake>) -> Case<Story> {
    run(async {
        let mut worker = Worker::begin(true, mistake, |_| {});
        worker.story.keep_old = keep_old;
        worker.open().await;
        let root = referring(&[1, 2, 3], "root");
        let ops = vec![
            worker.store(0, &root),
            worker.store(1, &pickled(1, 20)),
            worker.store_blob(2, "blob"),
            worker.store_blob(3, "other"),
        ];
        worker.commit(ops).await;
        for number in 0..3 {
            let ops = vec![
                worker.store(1, &pickled(number, 700)),
                worker.store_blob(2, &format!("blob {number}")),
                worker.store_blob(50 + number, "garbage"),
            ];
            worker.commit(ops).await;
        }
        for number in 0..2 {
            worker.pack().await;
            let ops = vec![
                worker.store(1, &pickled(60 + number, 200)),
                worker.store_blob(2, &format!("later {number}")),
            ];
            worker.commit(ops).await;
        }
        worker.close().await;
        worker.open().await;
        worker.commit(vec![worker.store(1, &pickled(70, 20))]).await;
        let name = if keep_old {
            "packing and keeping"
        } else {
            "packing"
        };
        worker.case(name).await
    })
}

/// Taking back the end of the history, and all of it. What comes then is as long as what was there, and
/// the last of it is of the same objects.
pub(super) fn rewind(blobs: bool, mistake: Option<Mistake>) -> Case<Story> {
    run(async {
        let mut worker = Worker::begin(blobs, mistake, |_| {});
        worker.story.blobs_stay = true;
        worker.open().await;
        let mut tids = Vec::new();
        let ops = |worker: &Worker, oid: u64, number: u64| {
            let mut ops = vec![worker.store(oid, &filled(number, 300))];
            if blobs {
                ops.push(worker.store_blob(oid + 10, &format!("blob {number}")));
            }
            ops
        };
        for number in 0..5 {
            let ops = ops(&worker, number % 2, number);
            tids.push(worker.commit(ops).await);
        }
        worker.close().await;
        worker.open().await;
        worker.rewind(Some(tids[2])).await;
        for (oid, number) in [(2, 10), (0, 11)] {
            let ops = ops(&worker, oid, number);
            worker.commit(ops).await;
        }
        worker.close().await;
        worker.open().await;
        worker.rewind(None).await;
        worker.commit(vec![worker.store(1, b"new")]).await;
        let name = if blobs {
            "taking back blobs"
        } else {
            "taking back"
        };
        worker.case(name).await
    })
}

/// A file that is not open is set aside, and another one begins.
pub(super) fn set_aside(mistake: Option<Mistake>) -> Case<Story> {
    run(async {
        let mut worker = Worker::begin(true, mistake, |_| {});
        worker.story.keep_old = false;
        worker.story.blobs_stay = true;
        worker.open().await;
        for number in 0..3 {
            let ops = vec![
                worker.store(number, &filled(number, 300)),
                worker.store_blob(9, &format!("blob {number}")),
            ];
            worker.commit(ops).await;
        }
        let aside = worker.remember().await;
        worker.close().await;
        // As a process leaves it that ended before it could remove the temporary name of a finished blob.
        let (oid, tid, _) = worker.story.blobs.last().unwrap().clone();
        let blobs = worker.root.join("blobs");
        let mark = format!("zeoraid-placing-{oid:016x}-{tid:016x}.tmp");
        let file = BlobDirectory::open_to_read(&blobs).unwrap();
        let file = file.file(Oid(oid), Tid(tid));
        step::hard_link(&file, &blobs.join("tmp").join(mark)).unwrap();
        // And as one leaves it that ended while it packed, before the new file was in force.
        let list = format!("{oid:016x}{tid:016x}\n");
        crate::durable::write(&blobs.join(".removed"), list.as_bytes()).unwrap();
        let number = worker.changes(Base {
            aside,
            ..Base::default()
        });
        let opener = FileOpener::new(
            worker.root.join("Data.fs"),
            worker.story.options(&worker.root),
        );
        opener.set_aside().await.unwrap();
        worker.note(Event::Changed(number));
        worker.serials.clear();
        worker.open().await;
        worker.commit(vec![worker.store_blob(9, "new")]).await;
        worker.case("setting aside").await
    })
}

/// Batches of another copy, with blobs, of one transaction and of several.
pub(super) fn restore(mistake: Option<Mistake>) -> Case<Story> {
    let record = |oid: u64, data: &[u8], content: Option<String>| HistoryRecord {
        oid: Oid(oid),
        data: RecordData::Data(Bytes::copy_from_slice(data).into()),
        blob: content.map(|content| blob(content.as_bytes())),
    };
    run(async {
        let mut worker = Worker::begin(true, mistake, |_| {});
        worker.open().await;
        for (number, batch) in [3u64, 1, 4, 2].into_iter().enumerate() {
            let mut history = worker.remember().await;
            let mut txns = Vec::new();
            for place in 0..batch {
                let tid = Tid((number as u64 + 1) * 100 + place);
                let mut records = vec![record(place, &filled(tid.0, 700), None)];
                if place % 2 == 0 {
                    let content = format!("blob of {tid}");
                    worker.story.blobs.push((9, tid.0, content.clone()));
                    records.push(record(9, BLOB_RECORD, Some(content)));
                }
                let txn = HistoryTxn {
                    tid,
                    meta: TxnMeta::default(),
                    records,
                };
                worker.story.texts.insert(tid.0, text(&txn));
                history.push(tid.0);
                txns.push(txn);
            }
            let number = worker.changes(Base {
                history,
                ..Base::default()
            });
            worker.storage().restore(txns).await.unwrap();
            worker.note(Event::Changed(number));
        }
        worker.serials.clear();
        worker.commit(vec![worker.store(77, b"after")]).await;
        worker.case("restoring").await
    })
}

/// Opening what a crash has left: an unfinished transaction and half of one behind the last, files that
/// were begun.
pub(super) fn cutting(mistake: Option<Mistake>) -> Case<Story> {
    let mut prepared = Story::default();
    let mut tail = Vec::new();
    let mut worker = Worker::begin(false, mistake, |root| {
        let made = run(async {
            let mut worker = Worker::begin(false, None, |_| {});
            worker.open().await;
            for number in 0..3 {
                worker
                    .commit(vec![worker.store(number, &filled(number, 400))])
                    .await;
            }
            let history = worker.remember().await;
            worker.close().await;
            std::fs::copy(
                worker.root.join("Data.fs.index"),
                root.join("Data.fs.index"),
            )
            .unwrap();
            let finished = std::fs::read(worker.root.join("Data.fs")).unwrap();
            worker.open().await;
            let ops = vec![worker.store(7, &filled(7, 900))];
            let voted = worker.vote(ops).await;
            worker.storage().0.ask(|_| ()).await.unwrap();
            let data = std::fs::read(worker.root.join("Data.fs")).unwrap();
            drop(voted);
            tail = data[finished.len()..].to_vec();
            worker.story.bases[0].history = history;
            (finished, worker.story.clone())
        });
        let (mut data, story) = made;
        data.extend_from_slice(&tail);
        data.extend_from_slice(&tail[..300]);
        std::fs::write(root.join("Data.fs"), data).unwrap();
        std::fs::write(root.join("Data.fs.pack"), b"FS30 begun").unwrap();
        std::fs::write(root.join("Data.fs.aside_tmp"), b"FS30 begun").unwrap();
        prepared = story;
    });
    worker.story.bases = prepared.bases;
    worker.story.texts = prepared.texts;
    run(async {
        worker.open().await;
        worker.commit(vec![worker.store(8, &filled(8, 900))]).await;
        worker.close().await;
        worker.open().await;
        worker.commit(vec![worker.store(8, b"last")]).await;
        worker.case("cutting").await
    })
}

/// A backup into a new folder, and another one in its place.
pub(super) fn backup(blobs: bool, mistake: Option<Mistake>) -> Case<Story> {
    run(async {
        let mut worker = Worker::begin(blobs, None, |root| {
            std::fs::create_dir(root.join("db")).unwrap();
            std::fs::create_dir(root.join("copies")).unwrap();
        });
        worker.story.data = "db/Data.fs".into();
        worker.story.blob_dir = blobs.then(|| "db/blobs".into());
        worker.open().await;
        let mut number = 0;
        let mut more = async |worker: &mut Worker| {
            for _ in 0..2 {
                number += 1;
                let mut ops = vec![worker.store(number % 2, &filled(number, 700))];
                if blobs {
                    ops.push(worker.store_blob(9, &format!("blob {number}")));
                }
                worker.commit(ops).await;
            }
        };
        more(&mut worker).await;
        // Only from here on.
        worker.watch = Watch::begin(&worker.root, mistake);
        worker.story.events.clear();
        worker.story.bases[0].absent = true;
        for replace in [false, true] {
            let history = worker.remember().await;
            let base = worker.changes(Base {
                history,
                ..Base::default()
            });
            let order = BackupOrder {
                into: worker.root.join("copies/monday"),
                replace,
                through: Tid::MAX,
                array: "main".to_owned(),
                blobs: None,
            };
            let backup = worker.storage().back_up(order).await.unwrap();
            let (work, _job) = Work::new("backup", Rate::UNLIMITED, &Stop::new());
            backup.run(work).await.unwrap();
            worker.note(Event::Changed(base));
            let events = worker.story.events.clone();
            more(&mut worker).await;
            worker.story.events = events;
        }
        worker.story.data = "copies/monday/Data.fs".into();
        worker.story.blob_dir = blobs.then(|| "copies/monday/blobs".into());
        worker.case("backup").await
    })
}
