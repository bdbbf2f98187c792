//! What the last transactions wrote, for clients that were away.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use crate::zodb::{Oid, Tid};

/// The last transactions, with what they wrote; so many at most.
#[derive(Debug)]
pub(super) struct Recent {
    transactions: VecDeque<(Tid, Arc<[Oid]>)>,
    most: usize,
    /// Everything later than this is here.
    after: Tid,
}

impl Recent {
    /// None yet, of a history in which `after` is the last transaction.
    pub(super) fn new(most: usize, after: Tid) -> Self {
        Recent {
            transactions: VecDeque::new(),
            most,
            after,
        }
    }

    pub(super) fn most(&self) -> usize {
        self.most
    }

    pub(super) fn push(&mut self, tid: Tid, oids: Arc<[Oid]>) {
        self.transactions.push_back((tid, oids));
        if self.transactions.len() > self.most
            && let Some((tid, _)) = self.transactions.pop_front()
        {
            self.after = tid;
        }
    }

    /// What was written after `since`; none where that is too long ago.
    pub(super) fn since(&self, since: Tid) -> Option<Vec<Oid>> {
        if since < self.after {
            return None;
        }
        let first = self.transactions.partition_point(|(tid, _)| *tid <= since);
        let later = self.transactions.range(first..);
        let oids: BTreeSet<Oid> = later.flat_map(|(_, oids)| oids.iter().copied()).collect();
        Some(oids.into_iter().collect())
    }

    /// Forgets what is later than `last`, which was taken back.
    pub(super) fn rewind(&mut self, last: Tid) {
        let kept = self.transactions.partition_point(|(tid, _)| *tid <= last);
        self.transactions.truncate(kept);
        self.after = self.after.min(last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reaches_back_as_far_as_it_remembers() {
        let mut recent = Recent::new(2, Tid::ZERO);
        let oids = |oids: &[u64]| oids.iter().copied().map(Oid).collect::<Vec<_>>();
        assert_eq!(recent.since(Tid::ZERO), Some(vec![]));
        for number in 1..=2 {
            recent.push(Tid(number * 10), oids(&[number, 7]).into());
        }
        assert_eq!(recent.since(Tid::ZERO), Some(oids(&[1, 2, 7])));
        recent.push(Tid(30), oids(&[3]).into());
        assert_eq!(recent.since(Tid(9)), None);
        assert_eq!(recent.since(Tid(10)), Some(oids(&[2, 3, 7])));
        assert_eq!(recent.since(Tid(25)), Some(oids(&[3])));
        assert_eq!(recent.since(Tid(30)), Some(vec![]));
        recent.rewind(Tid(20));
        assert_eq!(recent.since(Tid(10)), Some(oids(&[2, 7])));
        recent.rewind(Tid(5));
        assert_eq!(recent.since(Tid(5)), Some(vec![]));
    }
}
