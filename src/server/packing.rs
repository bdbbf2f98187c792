//! Packing, as a ZEO client asks for it.
//!
//! A pack takes long, and goes on when the client that asked for it is gone; so it is a task of the
//! server's. One at a time: a client that asks meanwhile is told so, as by Python's storages. When it
//! has ended, every client is told how much the storage holds now.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::start::{Served, Shared};
use crate::refused::Refused;
use crate::storage::{Result, StorageError};
use crate::zodb::Answer;

/// The packs of one served storage, and who is told of its size.
#[derive(Debug)]
pub(super) struct Packing {
    is_packed: AtomicBool,
    /// Counts the moments at which the clients are to be told the size.
    resized: watch::Sender<u64>,
    /// Whoever asks may do so again at once, for nothing again.
    failures: Refused,
}

impl Packing {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Packing {
            is_packed: AtomicBool::new(false),
            resized: watch::Sender::new(0),
            failures: Refused::default(),
        })
    }

    /// Changes when the client is to be told how much the storage holds.
    pub(super) fn resized(&self) -> watch::Receiver<u64> {
        self.resized.subscribe()
    }

    /// Every client is to be told.
    pub(super) fn tell_size(&self) {
        self.resized.send_modify(|count| *count += 1);
    }
}

/// Begins to pack; the answer comes when it has ended, and by then all clients were told.
pub(super) fn start(
    shared: &Shared,
    served: &Served,
    time: f64,
    (peer, label): (&str, &str),
) -> oneshot::Receiver<Result<()>> {
    let (answer, answered) = oneshot::channel();
    let packing = Arc::clone(&served.packing);
    if packing.is_packed.swap(true, Ordering::AcqRel) {
        let error = Answer::Other {
            class: "ZODB.FileStorage.FileStorage.FileStorageError".to_owned(),
            text: "Already packing".to_owned(),
        };
        shared.tell_deed(peer, "second pack", |unsaid| {
            let storage = &served.name;
            warn!(%storage, %peer, %label, unsaid, "a client asked for a pack while there is one");
        });
        // Who does not wait has dropped the other end.
        drop(answer.send(Err(error.into())));
        return answered;
    }
    let storage = Arc::clone(&served.storage);
    let name = served.name.clone();
    let stop = shared.packs.stop().clone();
    // Those that come one after the other, too: there is not always something to do.
    let mut is_told = false;
    shared.tell_deed(peer, "pack", |unsaid| {
        is_told = true;
        info!(storage = %name, %peer, %label, unsaid, "a client asked for a pack");
    });
    shared.packs.spawn(format!("pack of {name}"), async move {
        let packed = crate::task::select! {
            packed = storage.pack(time) => packed,
            // Whatever it has come to, the storage knows how to go on; it is being closed as well.
            () = stop.requested() => Err(stopping()),
        };
        packing.is_packed.store(false, Ordering::Release);
        match &packed {
            Ok(()) if is_told => info!(storage = %name, bytes = storage.size().bytes, "packed"),
            Ok(()) => debug!(storage = %name, "packed"),
            // Also where it was not said that it was asked for: there is something to be mended.
            Err(error) => {
                if let Some(unsaid) = packing.failures.tell("", "pack", Instant::now()) {
                    warn!(storage = %name, %error, unsaid, "could not pack");
                } else {
                    debug!(storage = %name, %error, "could not pack");
                }
            }
        }
        packing.tell_size();
        drop(answer.send(packed));
    });
    answered
}

/// What a waiting client is told when the pack ended without an answer.
pub(super) fn stopping() -> StorageError {
    Answer::Other {
        class: "ZODB.POSException.StorageError".to_owned(),
        text: "the server stops".to_owned(),
    }
    .into()
}
