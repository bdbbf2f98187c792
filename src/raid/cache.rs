//! Current records in memory.
//!
//! Only current revisions are kept, one for each object: old ones are rarely asked for, and a key
//! of oid alone answers "the current one" without asking a member which that is.
//!
//! INVARIANT 6. An entry says "current as of T". It may be used as long as nothing after T has
//! changed the object. That is told by a table of stamps: objects share a stamp by a hash of their
//! oid, and a commit writes its TID into the stamps of the objects it changed *before* the new head
//! is published. An entry whose stamp is later than its T is not used, whether it was put in before
//! or after. So there is no race to lose between a load that fills the cache and a commit that
//! empties it; two objects that share a stamp cost a miss and nothing else.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::storage::{Loaded, is_blob_record};
use crate::zodb::{Oid, Tid};

/// See the module's page.
pub(super) struct RecordCache {
    entries: Option<Cache<Oid, Entry, ByBytes>>,
    stamps: Box<[AtomicU64]>,
    /// No entry from before this head is used: at that moment the array began to serve (again), and
    /// what had changed until then was not stamped.
    floor: AtomicU64,
    largest: usize,
}

#[derive(Clone)]
struct Entry {
    data: Bytes,
    tid: Tid,
    as_of: Tid,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Oid, Entry> for ByBytes {
    fn weight(&self, _: &Oid, entry: &Entry) -> u64 {
        // The record, and about as much as the cache itself needs for it.
        entry.data.len() as u64 + 128
    }
}

impl RecordCache {
    const STAMPS: usize = 1 << 16;
    /// Records up to this size are copied when they are kept.
    const COPIED: usize = 2048;

    /// A cache of at most so many bytes; 0 is none.
    pub(super) fn new(bytes: u64) -> Self {
        let average = 1024;
        let entries = (bytes > 0).then(|| {
            let items = usize::try_from(bytes / average)
                .unwrap_or(usize::MAX)
                .max(16);
            Cache::with_weighter(items, bytes, ByBytes)
        });
        let stamps = if bytes > 0 { Self::STAMPS } else { 1 };
        RecordCache {
            entries,
            floor: AtomicU64::new(0),
            stamps: (0..stamps).map(|_| AtomicU64::new(0)).collect(),
            // One record must not push out everything else.
            largest: usize::try_from(bytes / 16).unwrap_or(usize::MAX),
        }
    }

    /// The revision of `oid` just before `before`, which is at most `head + 1`, where it is here.
    pub(super) fn get(&self, oid: Oid, before: Tid, head: Tid) -> Option<Loaded> {
        let entry = self.entries.as_ref()?.get(&oid)?;
        let changed = self.stamp(oid).load(Ordering::Acquire);
        if changed.max(self.floor.load(Ordering::Acquire)) > entry.as_of.0 || entry.tid >= before {
            return None;
        }
        Some(Loaded {
            data: entry.data,
            tid: entry.tid,
            end: None,
            as_of: head,
        })
    }

    /// Whether an object is a blob, where any revision of it is here: it is one for good.
    pub(super) fn is_blob(&self, oid: Oid) -> Option<bool> {
        let entry = self.entries.as_ref()?.get(&oid)?;
        Some(is_blob_record(&entry.data))
    }

    /// Keeps an answer, where it is of use.
    pub(super) fn put(&self, oid: Oid, loaded: &Loaded) {
        let Some(entries) = &self.entries else { return };
        if loaded.end.is_none()
            && loaded.data.len() <= self.largest
            && self.stamp(oid).load(Ordering::Acquire) <= loaded.as_of.0
        {
            // A small record may be a slice of a larger buffer, which would be kept with it.
            let data = if loaded.data.len() <= Self::COPIED {
                Bytes::copy_from_slice(&loaded.data)
            } else {
                loaded.data.clone()
            };
            let (tid, as_of) = (loaded.tid, loaded.as_of);
            entries.insert(oid, Entry { data, tid, as_of });
        }
    }

    /// Objects were changed by `tid`. To be called before the head becomes `tid`.
    pub(super) fn invalidate(&self, tid: Tid, oids: &[Oid]) {
        if self.entries.is_some() {
            for oid in oids {
                self.stamp(*oid).fetch_max(tid.0, Ordering::Release);
            }
        }
    }

    /// The array serves (again) from this head on: nobody knows what has changed until then. What a
    /// late answer of before puts in is not used either.
    pub(super) fn start_from(&self, head: Tid) {
        self.floor.fetch_max(head.0, Ordering::Release);
        if let Some(entries) = &self.entries {
            entries.clear();
        }
    }

    fn stamp(&self, oid: Oid) -> &AtomicU64 {
        // Fibonacci hashing: neighbours, which are often changed together, get stamps of their own.
        let hash = oid.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
        &self.stamps[hash as usize % self.stamps.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(tid: u64, as_of: u64) -> Loaded {
        Loaded {
            data: Bytes::from_static(b"state"),
            tid: Tid(tid),
            end: None,
            as_of: Tid(as_of),
        }
    }

    #[test]
    fn an_entry_serves_until_its_object_changes_and_only_for_what_it_covers() {
        let cache = RecordCache::new(1 << 20);
        cache.put(Oid(1), &loaded(5, 7));
        assert_eq!(cache.get(Oid(1), Tid(8), Tid(7)), Some(loaded(5, 7)));
        assert_eq!(
            cache.get(Oid(1), Tid(10), Tid(9)),
            Some(loaded(5, 9)),
            "current still"
        );
        assert_eq!(cache.get(Oid(1), Tid(6), Tid(9)), Some(loaded(5, 9)));
        assert_eq!(
            cache.get(Oid(1), Tid(5), Tid(9)),
            None,
            "an older revision was asked for"
        );
        cache.invalidate(Tid(10), &[Oid(1)]);
        assert_eq!(cache.get(Oid(1), Tid(10), Tid(9)), None);
    }

    #[test]
    fn an_answer_that_was_on_its_way_while_its_object_changed_is_not_used() {
        let cache = RecordCache::new(1 << 20);
        let late = loaded(5, 7);
        cache.invalidate(Tid(8), &[Oid(1)]);
        cache.put(Oid(1), &late);
        assert_eq!(cache.get(Oid(1), Tid(9), Tid(8)), None);
        cache.put(Oid(1), &loaded(8, 8));
        assert_eq!(cache.get(Oid(1), Tid(9), Tid(8)), Some(loaded(8, 8)));
    }

    #[test]
    fn nothing_from_before_an_absence_is_used_however_late_it_comes() {
        let cache = RecordCache::new(1 << 20);
        cache.put(Oid(1), &loaded(5, 7));
        cache.start_from(Tid(8));
        cache.put(Oid(2), &loaded(5, 7));
        for oid in [1, 2] {
            assert_eq!(cache.get(Oid(oid), Tid(9), Tid(8)), None);
        }
        cache.put(Oid(1), &loaded(5, 8));
        assert_eq!(cache.get(Oid(1), Tid(9), Tid(8)), Some(loaded(5, 8)));
    }

    #[test]
    fn no_bytes_is_no_cache() {
        let cache = RecordCache::new(0);
        cache.put(Oid(1), &loaded(5, 7));
        assert_eq!(cache.get(Oid(1), Tid(8), Tid(7)), None);
    }
}
