//! Packing the shared folder of blobs.
//!
//! No member owns it, so when members have packed their records away the files stay there. Once the members
//! are packed, the array walks through the folder and removes each file whose record no member holds any
//! more. What is later than the time to which is packed, or than the head when the walk begins, stays
//! without a question: its transaction may just be on its way.

use std::ops::ControlFlow;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::raid::runner::Runner;
use crate::storage::{Answer, Fault, Result, StorageError};
use crate::zodb::Tid;

/// How many files are found before the members were asked for their records. The walk waits meanwhile.
const AHEAD: usize = 256;

impl Runner {
    /// Removes the files of what is packed away to this time, in seconds since 1970, while `may_go_on`
    /// says so. How many were removed.
    ///
    /// # Errors
    /// What reading the folder or removing a file gives, and that members do not answer; then the rest
    /// stays for the next time.
    pub(in crate::raid) async fn pack_shared_blobs(
        self: &Arc<Self>,
        time: f64,
        may_go_on: impl Fn() -> bool,
    ) -> Result<usize> {
        let Some(shared) = self.blobs.shared.clone() else {
            return Ok(0);
        };
        let last = self.view().head.min(tid_of(time));
        let folder = shared.directory.root().to_owned();
        let io = |error| Fault::io(format!("packing {}", folder.display()), error);
        let (told, mut found) = mpsc::channel(AHEAD);
        let directory = Arc::clone(&shared.directory);
        let walk = tokio::task::spawn_blocking(move || {
            directory.each_revision(|oid, tid| {
                // Nobody listens any more where the pack was cancelled.
                if tid <= last && told.blocking_send((oid, tid)).is_err() {
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            })
        });
        let mut removed = 0;
        while let Some((oid, tid)) = found.recv().await {
            if !may_go_on() {
                break;
            }
            match self.load_serial(oid, tid).await {
                Ok(_) => continue,
                Err(StorageError::Answer(Answer::NoSuchObject(_))) => {}
                Err(error) => return Err(error),
            }
            let directory = Arc::clone(&shared.directory);
            let remove = tokio::task::spawn_blocking(move || directory.remove(oid, tid));
            let done = remove.await;
            done.unwrap_or_else(|ended| Err(std::io::Error::other(ended)))
                .map_err(io)?;
            removed += 1;
        }
        drop(found);
        let walked = walk.await;
        walked
            .unwrap_or_else(|ended| Err(std::io::Error::other(ended)))
            .map_err(io)?;
        Ok(removed)
    }
}

/// The last transaction before a moment; where that is none, nothing is.
fn tid_of(time: f64) -> Tid {
    #[expect(clippy::cast_possible_truncation, reason = "it saturates")]
    let nanoseconds = (time * 1e9) as i128;
    Timestamp::from_nanosecond(nanoseconds).map_or(Tid::ZERO, Tid::from_time)
}
