//! Identifiers of objects: giving new ones, and keeping that there are some left.
//!
//! Members give what follows the highest that they hold or have given, as Python's storages do. So whoever stores an
//! object under the last identifier that there is ends the giving for everybody, for good; Python's storages let
//! him. Here identifiers are free up to [`FREE`], whoever chose them: an import from another database keeps its own.
//! Beyond that they must be near what was given, so that a commit can use up a little of them and not all. This is decided
//! once for all members, before they are asked: they would not agree.

use std::sync::Arc;

use super::runner::Runner;
use crate::storage::{Answer, Result, StorageError};
use crate::zodb::Oid;

/// Up to here every identifier may be stored. As many again follow that are no negative numbers to applications
/// which keep them as signed.
const FREE: u64 = 1 << 62;

/// Beyond it, this far from the highest that was given.
const NEAR: u64 = 1 << 32;

impl Runner {
    /// `count` identifiers that were never given out nor stored.
    pub(super) async fn new_oids(self: &Arc<Self>, count: usize, after: Oid) -> Result<Vec<Oid>> {
        // Members count by themselves; what one gave out, no other may give out after a failure.
        let mut floor = self.oid_floor.lock().await;
        let after = after.max(*floor);
        let view = self.view_of_first();
        let oids = self
            .ask(&view, after, "new_oids", move |storage| {
                Box::pin(async move { storage.new_oids(count, after).await })
            })
            .await?;
        *floor = oids.iter().copied().max().unwrap_or(*floor).max(*floor);
        Ok(oids)
    }

    /// Whether a client may store this.
    ///
    /// # Errors
    /// It is too far from what was given.
    pub(super) async fn may_be_stored(self: &Arc<Self>, oid: Oid) -> Result<()> {
        let is_near = |given: Oid| oid.0 <= given.0.saturating_add(NEAR);
        if oid.0 <= FREE || is_near(*self.oid_floor.lock().await) {
            return Ok(());
        }
        // One is used up by this; who stores that far is rare.
        match self.new_oids(1, Oid::ROOT).await {
            Ok(given) if given.iter().copied().any(is_near) => Ok(()),
            // There are none left that this could use up.
            Err(StorageError::Answer(_)) => Ok(()),
            Ok(_) => {
                let text = format!(
                    "the object {oid} is too far from all that were given: nobody would get new ones after it"
                );
                Err(Answer::Invalid(text).into())
            }
            Err(fault) => Err(fault),
        }
    }
}
