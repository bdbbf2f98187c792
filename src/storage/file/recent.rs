//! What the last transactions wrote, for clients that were away.
//!
//! When a file is opened it is made from the index alone: who asks what was written since some
//! transaction is told the objects whose newest record is later, and where that is the index knows.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use super::index::Index;
use crate::zodb::{Oid, Tid};

/// So many objects are kept at most, unless a single transaction wrote more: 8 MiB of them.
const MOST_OBJECTS: usize = 1 << 20;

/// The last transactions, with what they wrote; so many at most.
#[derive(Debug)]
pub(super) struct Recent {
    transactions: VecDeque<(Tid, Arc<[Oid]>)>,
    objects: usize,
    most: usize,
    /// Everything later than this is here.
    after: Tid,
}

impl Recent {
    /// None yet, of a history in which `after` is the last transaction.
    pub(super) fn new(most: usize, after: Tid) -> Self {
        Recent {
            transactions: VecDeque::new(),
            objects: 0,
            most,
            after,
        }
    }

    /// The last transactions of a file: the TID and the beginning of each, oldest first, and the index.
    pub(super) fn of(most: usize, after: Tid, transactions: &[(Tid, u64)], index: &Index) -> Self {
        let mut written = vec![Vec::new(); transactions.len()];
        let first = transactions.first().map_or(u64::MAX, |(_, begin)| *begin);
        for (oid, position) in index.iter_from(Oid(0)) {
            if position >= first {
                let later = transactions.partition_point(|(_, begin)| *begin <= position);
                written[later - 1].push(oid);
            }
        }
        let mut recent = Recent::new(most, after);
        for ((tid, _), oids) in transactions.iter().zip(written) {
            recent.push(*tid, oids.into());
        }
        recent
    }

    pub(super) fn most(&self) -> usize {
        self.most
    }

    pub(super) fn push(&mut self, tid: Tid, oids: Arc<[Oid]>) {
        self.objects += oids.len();
        self.transactions.push_back((tid, oids));
        let many = |all: &Self| all.objects > MOST_OBJECTS && all.transactions.len() > 1;
        while (self.transactions.len() > self.most || many(self))
            && let Some((tid, oids)) = self.transactions.pop_front()
        {
            self.objects -= oids.len();
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
    }

    #[test]
    fn the_index_of_a_file_knows_what_the_last_transactions_wrote() {
        let mut index = Index::default();
        for (oid, position) in [(1, 50), (2, 130), (3, 230), (4, 260)] {
            index.insert(Oid(oid), position);
        }
        let transactions = [(Tid(10), 100), (Tid(20), 200)];
        let recent = Recent::of(2, Tid(5), &transactions, &index);
        let since = |tid| recent.since(Tid(tid));
        assert_eq!(since(4), None);
        assert_eq!(since(5), Some(vec![Oid(2), Oid(3), Oid(4)]));
        assert_eq!(since(10), Some(vec![Oid(3), Oid(4)]));
        assert_eq!(since(20), Some(vec![]));
    }

    #[test]
    fn large_transactions_are_forgotten_sooner() {
        let mut recent = Recent::new(100, Tid(1));
        let large: Arc<[Oid]> = (0..MOST_OBJECTS as u64 / 2).map(Oid).collect();
        for tid in 2..=4 {
            recent.push(Tid(tid), Arc::clone(&large));
        }
        assert!(recent.since(Tid(1)).is_none());
        assert_eq!(
            recent.since(Tid(2)).map(|oids| oids.len()),
            Some(large.len())
        );
        let larger: Arc<[Oid]> = (0..=MOST_OBJECTS as u64).map(Oid).collect();
        recent.push(Tid(5), larger);
        assert!(recent.since(Tid(3)).is_none());
        assert_eq!(
            recent.since(Tid(4)).map(|oids| oids.len()),
            Some(MOST_OBJECTS + 1)
        );
    }
}
