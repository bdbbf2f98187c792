//! How many conflicts are told at once: the others come at the next vote. A client resolves all that it is
//! told of in memory.

use crate::zodb::Conflict;

/// So many conflicts are enough, and so many bytes of what is to be resolved.
const MOST: usize = 1 << 16;
const MOST_BYTES: usize = 64 << 20;

/// Whether these are told, and not more.
pub(super) const fn is_enough(count: usize, bytes: usize) -> bool {
    count >= MOST || bytes >= MOST_BYTES
}

/// Whether there may be more than these. Who lists all, as Python's server does, says no other thing then.
#[must_use]
pub fn may_be_a_part(conflicts: &[Conflict]) -> bool {
    let sizes = conflicts
        .iter()
        .filter_map(|conflict| conflict.data.as_ref());
    is_enough(conflicts.len(), sizes.map(crate::zodb::Payload::len).sum())
}
