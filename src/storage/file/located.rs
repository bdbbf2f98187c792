//! Where the transactions are that one is about to undo.
//!
//! A file has no index of them: they are found by walking along the headers. A transaction may undo many, so all are
//! looked for in one walk, and whoever asks how much they are before the vote has them looked for then, while nobody
//! waits. What was found last is kept: positions stay as they are until the file is packed or cut.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use super::disk::Disk;
use super::engine::Engine;
use super::format::{FIRST, TxnHeader};
use super::history::Walk;
use super::window::Window;
use crate::storage::{Fault, Result};
use crate::zodb::Tid;

/// What was looked for and found.
#[derive(Debug)]
pub(super) struct Located {
    /// Not held open: a file that was packed is to go.
    disk: Weak<dyn Disk>,
    rewinds: u64,
    /// The last transaction when it was looked; what came later was not found.
    last: Tid,
    /// Sorted.
    asked: Arc<[Tid]>,
    /// Where each begins, and its length.
    found: BTreeMap<Tid, (u64, u64)>,
}

impl Located {
    /// How long all of them are together. Undoing them writes less: a record that points back is as short as
    /// a record can be.
    pub(super) fn bytes(&self) -> u64 {
        self.found.values().map(|(_, len)| len).sum()
    }

    /// Where one begins in the file that `now` walks over; its end where there is no such transaction. None where
    /// that has to be looked for.
    pub(super) fn position_of(&self, now: &Walk, tid: Tid) -> Option<u64> {
        let was_asked = self.asked.binary_search(&tid).is_ok();
        (was_asked && tid <= self.last && self.is_of(now))
            .then(|| self.found.get(&tid).map_or(now.end, |(begin, _)| *begin))
    }

    fn is_of(&self, now: &Walk) -> bool {
        std::ptr::addr_eq(self.disk.as_ptr(), Arc::as_ptr(&now.disk)) && self.rewinds == now.rewinds
    }
}

impl Engine {
    /// Looks for transactions, which are sorted. Waits for the disk where they were not looked for just now.
    pub(super) fn locate(self: &Arc<Self>, asked: &Arc<[Tid]>) -> Result<Arc<Located>> {
        let walk = Walk::new(self)?;
        if let Some(located) = &*self.located.lock()
            && located.asked == *asked
            && located.is_of(&walk)
            && asked.last().is_none_or(|tid| *tid <= located.last)
        {
            return Ok(Arc::clone(located));
        }
        #[cfg(test)]
        self.searches
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let located = Arc::new(Located {
            found: walk.find_all(asked)?,
            disk: Arc::downgrade(&walk.disk),
            rewinds: walk.rewinds,
            last: walk.last,
            asked: Arc::clone(asked),
        });
        *self.located.lock() = Some(Arc::clone(&located));
        Ok(located)
    }
}

impl Walk {
    /// From whichever end is nearer in time.
    fn find_all(&self, asked: &[Tid]) -> Result<BTreeMap<Tid, (u64, u64)>, Fault> {
        let mut found = BTreeMap::new();
        let (Some(first), Some(last)) = (asked.first(), asked.last()) else {
            return Ok(found);
        };
        if self.end == FIRST {
            return Ok(found);
        }
        let mut meet = |begin, header: &TxnHeader| {
            if asked.binary_search(&header.tid).is_ok() {
                found.insert(header.tid, (begin, header.len));
            }
        };
        let mut window = Window::new(&*self.disk, 16 * 1024, self.end);
        let oldest = self.txn_at(&mut window, FIRST)?.tid;
        if last.0.saturating_sub(oldest.0) < self.last.0.saturating_sub(first.0) {
            let mut at = FIRST;
            while at < self.end {
                let header = self.txn_at(&mut window, at)?;
                if header.tid > *last {
                    break;
                }
                meet(at, &header);
                at += header.whole_len();
            }
        } else {
            for step in self.backwards() {
                let (begin, header) = step?;
                if header.tid < *first {
                    break;
                }
                meet(begin, &header);
            }
        }
        Ok(found)
    }
}
