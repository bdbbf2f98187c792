//! Iterating over the array's transactions.

use std::sync::Arc;

use async_trait::async_trait;

use super::read::not_serving;
use super::runner::Runner;
use super::view::Reader;
use crate::storage::{History, Result, StorageError};
use crate::zodb::{HistoryTxn, TidRange};

/// An iteration that goes on with another member where one fails.
pub(super) struct ArrayHistory {
    runner: Arc<Runner>,
    /// What is still to be given.
    range: TidRange,
    open: Option<(Reader, Box<dyn History>)>,
}

impl ArrayHistory {
    /// Asks nobody yet.
    pub(super) fn new(runner: Arc<Runner>, range: TidRange) -> Self {
        ArrayHistory {
            runner,
            range,
            open: None,
        }
    }
}

#[async_trait]
impl History for ArrayHistory {
    async fn next(&mut self) -> Result<Option<HistoryTxn>> {
        loop {
            if self.range.first > self.range.last {
                return Ok(None);
            }
            let (reader, mut history) = match self.open.take() {
                Some(open) => open,
                None => open_history(&self.runner, self.range).await?,
            };
            // A large transaction of a ZEO server is many questions.
            let next = history.next();
            let storage = &*reader.storage;
            let next = self.runner.while_it_answers(storage, "an iteration", next);
            match next.await {
                Ok(Some(transaction)) => {
                    self.range.first = transaction.tid.next();
                    self.open = Some((reader, history));
                    return Ok(Some(transaction));
                }
                Err(StorageError::Fault(fault)) => {
                    self.runner.lost(reader.member, reader.generation, fault);
                }
                end => return end,
            }
        }
    }
}

async fn open_history(runner: &Arc<Runner>, range: TidRange) -> Result<(Reader, Box<dyn History>)> {
    let view = runner.view();
    let readers = view.readers.iter().filter(|_| view.serving.can_read());
    let timeout = runner.options.member_timeout;
    // INVARIANT 7: who fails is taken out, and the next is asked. The view may still name one that was
    // lost a moment ago.
    for reader in readers {
        let asked = tokio::time::timeout(timeout, reader.storage.iterate(range)).await;
        match asked.unwrap_or_else(|_| Err(runner.timeout("an iteration").into())) {
            Ok(history) => return Ok((reader.clone(), history)),
            Err(StorageError::Fault(fault)) => {
                runner.lost(reader.member, reader.generation, fault);
            }
            Err(answer) => return Err(answer),
        }
    }
    Err(not_serving(&view).into())
}
