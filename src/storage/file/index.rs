//! Where the current record of each object is: about six bytes for each object.
//!
//! Oids are given out one after the other, so most pages of 1024 neighbouring oids are full: such a
//! page is an array of six-byte positions. A page with few objects (the first of a new range, what
//! packing left) is a sorted vector of eight-byte entries, suffix and position in one number. A page
//! turns from the second into the first where that is smaller.
//!
//! Positions are below 2^48, and none is 0: that is the file's magic number.

use std::collections::BTreeMap;

use crate::storage::file::format::LARGEST_FILE;
use crate::zodb::Oid;

const PAGE_BITS: u32 = 10;
const PAGE: usize = 1 << PAGE_BITS;
/// From here on an array is smaller than a vector.
const DENSE_FROM: usize = PAGE * 6 / 8;

/// A map from oids to positions.
#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    pages: BTreeMap<u64, Page>,
    len: usize,
}

#[derive(Debug, Clone)]
enum Page {
    /// Suffix in the high 16 bits, position in the low 48; sorted.
    Sparse(Vec<u64>),
    /// 0 is none.
    Dense(Box<[[u8; 6]; PAGE]>),
}

impl Index {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn get(&self, oid: Oid) -> Option<u64> {
        let (page, suffix) = split(oid);
        self.pages.get(&page)?.get(suffix)
    }

    /// Sets the position of an object, which must not be 0.
    pub(super) fn insert(&mut self, oid: Oid, position: u64) {
        assert!(
            position > 0 && position < LARGEST_FILE,
            "position {position} is not in a file"
        );
        let (page, suffix) = split(oid);
        let page = self.pages.entry(page).or_insert(Page::Sparse(Vec::new()));
        if page.insert(suffix, position) {
            self.len += 1;
        }
    }

    pub(super) fn remove(&mut self, oid: Oid) {
        let (number, suffix) = split(oid);
        let Some(page) = self.pages.get_mut(&number) else {
            return;
        };
        if page.remove(suffix) {
            self.len -= 1;
        }
        if page.next(0).is_none() {
            self.pages.remove(&number);
        }
    }

    pub(super) fn last_oid(&self) -> Option<Oid> {
        let (page, last) = self.pages.last_key_value()?;
        let suffix = (0..PAGE).rev().find(|suffix| last.get(*suffix).is_some())?;
        Some(join(*page, suffix))
    }

    /// Every object from `from` on, in the order of the oids.
    pub(super) fn iter_from(&self, from: Oid) -> impl Iterator<Item = (Oid, u64)> {
        let (first, suffix) = split(from);
        self.pages.range(first..).flat_map(move |(number, page)| {
            let from = if *number == first { suffix } else { 0 };
            page.iter_from(from)
                .map(move |(suffix, position)| (join(*number, suffix), position))
        })
    }

    /// What it takes in memory, without the allocator's own share.
    pub(super) fn memory(&self) -> usize {
        let pages = self.pages.values().map(|page| match page {
            Page::Sparse(entries) => entries.capacity() * 8,
            Page::Dense(_) => PAGE * 6,
        });
        pages.sum::<usize>() + self.pages.len() * (size_of::<u64>() + size_of::<Page>())
    }
}

/// Makes an index of objects that come in order, a page at a time.
#[derive(Debug, Default)]
pub(super) struct Builder {
    index: Index,
    page: u64,
    entries: Vec<u64>,
}

impl Builder {
    /// Adds an object. Whether it came in order; it is not added where not.
    pub(super) fn push(&mut self, oid: Oid, position: u64) -> bool {
        let (page, suffix) = split(oid);
        if page != self.page {
            if page < self.page {
                return false;
            }
            self.end_page();
            self.page = page;
        }
        if self
            .entries
            .last()
            .is_some_and(|last| suffix_of(*last) >= suffix)
        {
            return false;
        }
        self.entries.push(entry(suffix, position));
        true
    }

    pub(super) fn finish(mut self) -> Index {
        self.end_page();
        self.index
    }

    fn end_page(&mut self) {
        if self.entries.is_empty() {
            return;
        }
        let page = if self.entries.len() >= DENSE_FROM {
            Page::dense(&self.entries)
        } else {
            Page::Sparse(self.entries.as_slice().into())
        };
        self.index.len += self.entries.len();
        self.index.pages.insert(self.page, page);
        self.entries.clear();
    }
}

fn split(oid: Oid) -> (u64, usize) {
    (oid.0 >> PAGE_BITS, (oid.0 as usize) & (PAGE - 1))
}

fn join(page: u64, suffix: usize) -> Oid {
    Oid(page << PAGE_BITS | suffix as u64)
}

fn entry(suffix: usize, position: u64) -> u64 {
    (suffix as u64) << 48 | position
}

fn position_of(entry: u64) -> u64 {
    entry & (LARGEST_FILE - 1)
}

fn suffix_of(entry: u64) -> usize {
    (entry >> 48) as usize
}

fn six(position: u64) -> [u8; 6] {
    let [_, _, six @ ..] = position.to_be_bytes();
    six
}

fn eight(six: [u8; 6]) -> Option<u64> {
    let mut bytes = [0; 8];
    bytes[2..].copy_from_slice(&six);
    let position = u64::from_be_bytes(bytes);
    (position != 0).then_some(position)
}

impl Page {
    fn dense(entries: &[u64]) -> Self {
        let mut positions = Box::new([[0; 6]; PAGE]);
        for one in entries {
            positions[suffix_of(*one)] = six(position_of(*one));
        }
        Page::Dense(positions)
    }

    fn get(&self, suffix: usize) -> Option<u64> {
        match self {
            Page::Sparse(entries) => {
                let at = entries.binary_search_by_key(&suffix, |one| suffix_of(*one));
                at.ok().map(|at| position_of(entries[at]))
            }
            Page::Dense(positions) => eight(positions[suffix]),
        }
    }

    /// Whether the object is new.
    fn insert(&mut self, suffix: usize, position: u64) -> bool {
        match self {
            Page::Sparse(entries) => {
                let new = match entries.binary_search_by_key(&suffix, |one| suffix_of(*one)) {
                    Ok(at) => {
                        entries[at] = entry(suffix, position);
                        false
                    }
                    Err(at) => {
                        if entries.len() == entries.capacity() {
                            // A quarter more: doubling would waste what this is made to save.
                            entries.reserve_exact(entries.len() / 4 + 4);
                        }
                        entries.insert(at, entry(suffix, position));
                        true
                    }
                };
                if entries.len() >= DENSE_FROM {
                    *self = Page::dense(entries);
                }
                new
            }
            Page::Dense(positions) => {
                let old = std::mem::replace(&mut positions[suffix], six(position));
                eight(old).is_none()
            }
        }
    }

    /// Whether there was one.
    fn remove(&mut self, suffix: usize) -> bool {
        match self {
            Page::Sparse(entries) => {
                match entries.binary_search_by_key(&suffix, |one| suffix_of(*one)) {
                    Ok(at) => {
                        entries.remove(at);
                        true
                    }
                    Err(_) => false,
                }
            }
            Page::Dense(positions) => eight(std::mem::take(&mut positions[suffix])).is_some(),
        }
    }

    fn next(&self, from: usize) -> Option<(usize, u64)> {
        match self {
            Page::Sparse(entries) => {
                let at = entries.partition_point(|one| suffix_of(*one) < from);
                let one = *entries.get(at)?;
                Some((suffix_of(one), position_of(one)))
            }
            Page::Dense(positions) => {
                let rest = positions.iter().enumerate().skip(from);
                let mut there = rest.filter_map(|(suffix, six)| Some((suffix, eight(*six)?)));
                there.next()
            }
        }
    }

    fn iter_from(&self, from: usize) -> impl Iterator<Item = (usize, u64)> {
        let mut next = self.next(from);
        std::iter::from_fn(move || {
            let given = next?;
            next = self.next(given.0 + 1);
            Some(given)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u64, u64),
        Remove(u64),
        Walk(u64),
    }

    fn oid() -> impl Strategy<Value = u64> {
        prop_oneof![
            8 => 0..3000u64,
            1 => any::<u64>(),
            1 => (u64::MAX - 2000)..=u64::MAX,
        ]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            20 => (oid(), 1..LARGEST_FILE).prop_map(|(oid, at)| Step::Insert(oid, at)),
            2 => oid().prop_map(Step::Remove),
            1 => oid().prop_map(Step::Walk),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn it_is_a_sorted_map(steps in prop::collection::vec(step(), 1..4000)) {
            let mut index = Index::default();
            let mut model = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Insert(oid, at) => {
                        index.insert(Oid(oid), at);
                        model.insert(oid, at);
                        prop_assert_eq!(index.get(Oid(oid)), Some(at));
                    }
                    Step::Remove(oid) => {
                        index.remove(Oid(oid));
                        model.remove(&oid);
                        prop_assert_eq!(index.get(Oid(oid)), None);
                    }
                    Step::Walk(oid) => {
                        let first = index.iter_from(Oid(oid)).next().map(|(oid, at)| (oid.0, at));
                        let expected = model.range(oid..).next().map(|(oid, at)| (*oid, *at));
                        prop_assert_eq!(first, expected);
                    }
                }
                prop_assert_eq!(index.len(), model.len());
            }
            let all: Vec<(u64, u64)> = index.iter_from(Oid(0)).map(|(oid, at)| (oid.0, at)).collect();
            prop_assert_eq!(all, model.iter().map(|(oid, at)| (*oid, *at)).collect::<Vec<_>>());
            prop_assert_eq!(index.last_oid().map(|oid| oid.0), model.keys().last().copied());
            prop_assert_eq!(index.is_empty(), model.is_empty());
            let mut builder = Builder::default();
            for (oid, at) in index.iter_from(Oid(0)) {
                prop_assert!(builder.push(oid, at));
                prop_assert!(!builder.push(oid, at));
            }
            let built = builder.finish();
            prop_assert_eq!(built.len(), index.len());
            prop_assert!(built.iter_from(Oid(0)).eq(index.iter_from(Oid(0))));
        }
    }

    #[test]
    fn a_dense_index_takes_six_bytes_for_each_object() {
        let mut index = Index::default();
        for oid in 0..1_000_000 {
            index.insert(Oid(oid), 4 + oid * 100);
        }
        let each = index.memory() * 100 / index.len();
        assert!(each < 610, "{each} hundredths of a byte");
        for oid in 2_000_000..3_000_000 {
            index.insert(Oid(oid * 10), 4 + oid * 100);
        }
        let each = index.memory() * 100 / index.len();
        assert!(each < 1000, "{each} hundredths of a byte");
    }
}
