//! Random histories, done to a file and to the model: every answer must be the same.

use proptest::prelude::*;

use super::*;
use crate::storage::memory::MemoryStorage;
use crate::storage::suite::{payload, text, transactions};
use crate::storage::{StorageError, Transaction, Vote};
use crate::zodb::{HistoryRecord, HistoryTxn, Op, RecordData, TxnStatus};

#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<Change>),
    Abort(Vec<Change>),
    Restore(Vec<Vec<Change>>),
    Rewind(usize),
    Reopen,
    NewOids(usize),
}

#[derive(Debug, Clone)]
enum Change {
    /// The revision that was read: so many transactions before the current one.
    Store {
        oid: u64,
        stale: usize,
        len: usize,
    },
    Delete {
        oid: u64,
    },
    Check {
        oid: u64,
        stale: usize,
    },
    /// As in the transaction so many before.
    Back {
        oid: u64,
        before: usize,
        keep: bool,
    },
    Gone {
        oid: u64,
    },
}

fn change() -> impl Strategy<Value = Change> {
    let oid = 0..6u64;
    prop_oneof![
        8 => (oid.clone(), 0..8usize, 1..3000usize).prop_map(|(oid, stale, len)| Change::Store {
            oid,
            // Mostly the current one.
            stale: stale.saturating_sub(6),
            len,
        }),
        1 => oid.clone().prop_map(|oid| Change::Delete { oid }),
        1 => (oid.clone(), 0..2usize).prop_map(|(oid, stale)| Change::Check { oid, stale }),
        3 => (oid.clone(), 0..5usize, any::<bool>()).prop_map(|(oid, before, keep)| Change::Back { oid, before, keep }),
        1 => oid.prop_map(|oid| Change::Gone { oid }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let changes = || prop::collection::vec(change(), 0..4);
    prop_oneof![
        10 => changes().prop_map(Step::Commit),
        2 => changes().prop_map(Step::Abort),
        4 => prop::collection::vec(changes(), 1..4).prop_map(Step::Restore),
        1 => (0..5usize).prop_map(Step::Rewind),
        2 => Just(Step::Reopen),
        1 => (0..5usize).prop_map(Step::NewOids),
    ]
}

/// What was done, as far as the next steps depend on it.
struct World {
    model: MemoryStorage,
    file: Arc<dyn Storage>,
    folder: tempfile::TempDir,
    clock: u64,
    random: u8,
}

impl World {
    async fn tids(&self) -> Vec<Tid> {
        self.model.tids_before(Tid::MAX, 1000).await.unwrap()
    }

    fn data(&mut self, len: usize) -> Vec<u8> {
        self.random = self.random.wrapping_add(1);
        vec![self.random; len]
    }

    async fn serial(&self, oid: u64, stale: usize) -> Tid {
        let history = self.model.history(Oid(oid), 100).await.unwrap_or_default();
        history.get(stale).map_or(Tid::ZERO, |one| one.tid)
    }

    async fn ops(&mut self, changes: &[Change], tid: Tid) -> Vec<Op> {
        let mut ops = Vec::new();
        for change in changes {
            ops.push(match *change {
                Change::Store { oid, stale, len } => Op::Store {
                    oid: Oid(oid),
                    serial: self.serial(oid, stale).await,
                    data: payload(&self.data(len)),
                },
                Change::Delete { oid } => Op::Delete {
                    oid: Oid(oid),
                    serial: self.serial(oid, 0).await,
                },
                Change::Check { oid, stale } => Op::CheckCurrent {
                    oid: Oid(oid),
                    serial: self.serial(oid, stale).await,
                },
                Change::Back { oid, before, keep } => {
                    let (previous, data) = self.back(oid, before, keep).await;
                    Op::Restore {
                        oid: Oid(oid),
                        serial: tid,
                        data: Some(payload(&data)),
                        previous: Some(previous),
                    }
                }
                Change::Gone { oid } => Op::Restore {
                    oid: Oid(oid),
                    serial: tid,
                    data: None,
                    previous: None,
                },
            });
        }
        ops
    }

    async fn back(&mut self, oid: u64, before: usize, keep: bool) -> (Tid, Vec<u8>) {
        let tids = self.tids().await;
        let previous = tids.get(before).copied().unwrap_or(Tid(1));
        let there = self.model.load_serial(Oid(oid), previous).await;
        match there {
            Ok(data) if keep => (previous, data.to_vec()),
            _ => (previous, self.data(50)),
        }
    }

    async fn records(&mut self, changes: &[Change]) -> Vec<HistoryRecord> {
        let mut records = Vec::new();
        for change in changes {
            let (oid, data) = match *change {
                Change::Store { oid, len, .. } => (oid, RecordData::Data(payload(&self.data(len)))),
                Change::Back { oid, before, keep } => {
                    let (tid, data) = self.back(oid, before, keep).await;
                    let data = payload(&data);
                    (oid, RecordData::Back { tid, data })
                }
                Change::Delete { oid } | Change::Gone { oid } => (oid, RecordData::Gone),
                Change::Check { .. } => continue,
            };
            records.push(HistoryRecord {
                oid: Oid(oid),
                data,
                blob: None,
            });
        }
        records
    }

    async fn step(&mut self, step: &Step) {
        self.clock += 0x1_0000;
        let tid = Tid(self.clock);
        match step {
            Step::Commit(changes) | Step::Abort(changes) => {
                let keep = matches!(step, Step::Commit(_));
                let ops = self.ops(changes, tid).await;
                let model = transact(&self.model, tid, ops.clone(), keep).await;
                let file = transact(&*self.file, tid, ops, keep).await;
                assert_eq!(file, model);
            }
            Step::Restore(batch) => {
                let mut transactions = Vec::new();
                for (number, changes) in batch.iter().enumerate() {
                    let mut meta = TxnMeta {
                        description: format!("restored {number}").into(),
                        ..TxnMeta::default()
                    };
                    if number == 1 {
                        meta.status = TxnStatus::Packed;
                    }
                    transactions.push(HistoryTxn {
                        tid: Tid(tid.0 + number as u64),
                        meta,
                        records: self.records(changes).await,
                    });
                }
                self.model.restore(transactions.clone()).await.unwrap();
                self.file.restore(transactions).await.unwrap();
            }
            Step::Rewind(back) => {
                let tids = self.tids().await;
                let keep = tids.get(*back).copied();
                let model = self.model.rewind(keep).await.unwrap();
                let file = self.file.rewind(keep).await.unwrap();
                assert_eq!(file.extent.transactions, model.extent.transactions);
                if let Some(path) = file.file {
                    let aside = FileOpener::new(path, FileOptions::default());
                    let aside = aside.open().await.unwrap();
                    let there = transactions(&*aside, TidRange::ALL).await.len() as u64;
                    assert_eq!(there, model.extent.transactions);
                    aside.close().await;
                }
            }
            Step::Reopen => {
                self.file.close().await;
                self.file = open(&self.folder).await;
            }
            Step::NewOids(count) => {
                let given = self.file.new_oids(*count, Oid(0)).await.unwrap();
                assert_eq!(given.len(), *count);
                assert!(given.iter().all(|oid| oid.0 > 5 || *oid > Oid(0)));
            }
        }
    }

    /// Asks both everything.
    async fn compare(&self) {
        let (model, file) = (&self.model, &*self.file);
        let tids = self.tids().await;
        assert_eq!(
            file.last_tid().await.unwrap(),
            model.last_tid().await.unwrap()
        );
        assert_eq!(file.tids_before(Tid::MAX, 1000).await.unwrap(), tids);
        assert_eq!(file.size().objects, model.size().objects);
        let texts = async |storage: &dyn Storage, range| -> Vec<String> {
            transactions(storage, range)
                .await
                .iter()
                .map(text)
                .collect()
        };
        let all = TidRange::ALL;
        assert_eq!(texts(file, all).await, texts(model, all).await);
        for tid in tids.iter().copied().chain([Tid(1), Tid(u64::MAX - 1)]) {
            for tid in [tid, tid.next()] {
                let range = TidRange::after(tid);
                assert_eq!(texts(file, range).await, texts(model, range).await);
                let (a, b) = (
                    file.measure_after(tid).await,
                    model.measure_after(tid).await,
                );
                assert_eq!(a.unwrap().transactions, b.unwrap().transactions);
                let (a, b) = (
                    file.invalidations_since(tid).await,
                    model.invalidations_since(tid).await,
                );
                assert_eq!(a.unwrap(), b.unwrap());
                for oid in (0..8).map(Oid) {
                    let (a, b) = (
                        file.load_before(oid, tid).await,
                        model.load_before(oid, tid).await,
                    );
                    assert_eq!(said(a), said(b));
                    let (a, b) = (
                        file.load_serial(oid, tid).await,
                        model.load_serial(oid, tid).await,
                    );
                    assert_eq!(said(a), said(b));
                }
            }
        }
        for oid in (0..8).map(Oid) {
            let (a, b) = (file.current_tid(oid).await, model.current_tid(oid).await);
            assert_eq!(said(a), said(b));
            let (a, b) = (file.history(oid, 100).await, model.history(oid, 100).await);
            assert_eq!(said(a), said(b));
            let (a, b) = (file.record_from(oid).await, model.record_from(oid).await);
            let plain = |one: Option<CurrentRecord>| one.map(|one| (one.oid, one.tid, one.data));
            assert_eq!(plain(a.unwrap()), plain(b.unwrap()));
        }
    }
}

fn said<T>(answer: Result<T>) -> Result<T, Answer> {
    match answer {
        Ok(answer) => Ok(answer),
        Err(StorageError::Answer(answer)) => Err(answer),
        Err(StorageError::Fault(fault)) => panic!("unexpected fault: {fault}"),
    }
}

/// What came of it, as text.
async fn transact(storage: &dyn Storage, tid: Tid, ops: Vec<Op>, keep: bool) -> String {
    let mut txn: Box<dyn Transaction> = storage.begin(TxnMeta::default(), Some(tid)).await.unwrap();
    for op in ops {
        txn.store(op).await.unwrap();
    }
    match said(txn.vote().await) {
        Ok(Vote::Ready(voted)) if keep => format!("{:?}", voted.finish().await.unwrap()),
        Ok(Vote::Ready(_)) => "dropped".to_owned(),
        Ok(Vote::Conflicts(_, conflicts)) => format!("{conflicts:?}"),
        Err(answer) => format!("{answer:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 400, ..ProptestConfig::default() })]
    #[test]
    fn a_file_answers_as_the_model_does(steps in prop::collection::vec(step(), 1..20)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let mut world = World {
                model: MemoryStorage::new("model"),
                file: open(&folder).await,
                folder,
                clock: 0x0400_0000_0000_0000,
                random: 0,
            };
            for step in &steps {
                world.step(step).await;
            }
            world.compare().await;
            world.step(&Step::Reopen).await;
            world.compare().await;
        });
    }
}
