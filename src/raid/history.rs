//! Iterating over the array's transactions.

use std::sync::Arc;

use async_trait::async_trait;

use super::controller::Generation;
use super::read::{Doubted, is_final};
use super::runner::Runner;
use super::view::{Reader, View};
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
        const WHAT: &str = "an iteration";
        let runner = Arc::clone(&self.runner);
        let (mut asked, mut doubted) = (Vec::new(), Doubted::default());
        loop {
            if self.range.first > self.range.last {
                return Ok(None);
            }
            let (reader, opened) = if let Some((reader, history)) = self.open.take() {
                (reader, Ok(history))
            } else {
                let view = runner.view();
                let Some(reader) = unasked(&view, &asked) else {
                    return Err(runner.unanswered(doubted, &view));
                };
                let opening = reader.storage.iterate(self.range);
                let opened = runner.while_it_answers(&*reader.storage, WHAT, opening);
                (reader.clone(), opened.await)
            };
            asked.push(reader.generation);
            let next = match opened {
                Ok(mut history) => {
                    // Clients take their time, and may have many.
                    history.hold_little();
                    // A large transaction of a ZEO server is many questions.
                    let next = history.next();
                    let next = runner.while_it_answers(&*reader.storage, WHAT, next).await;
                    next.map(|next| next.map(|transaction| (transaction, history)))
                }
                Err(error) => Err(error),
            };
            match next {
                Ok(Some((transaction, history))) => {
                    runner.settle(WHAT, doubted, 1);
                    self.range.first = transaction.tid.next();
                    self.open = Some((reader, history));
                    if bug!(IterateOverLess) && transaction.tid.0.is_multiple_of(16) {
                        return self.next().await;
                    }
                    return Ok(Some(transaction));
                }
                Ok(None) => {
                    runner.settle(WHAT, doubted, 1);
                    return Ok(None);
                }
                // INVARIANT 7: the next is asked.
                Err(StorageError::Fault(fault)) => {
                    runner.failed(&reader, WHAT, fault, &mut doubted)?;
                }
                Err(StorageError::Answer(answer)) if !is_final(&answer) => {
                    doubted.refused(&reader, answer);
                }
                Err(answer) => return Err(answer),
            }
        }
    }
}

/// The view may still name one that was lost a moment ago: who was asked is not asked again.
fn unasked<'a>(view: &'a View, asked: &[Generation]) -> Option<&'a Reader> {
    let mut readers = view.readers.iter().filter(|_| view.serving.can_read());
    readers.find(|reader| !asked.contains(&reader.generation))
}
