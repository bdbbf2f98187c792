//! What transactions store before they are finished: of one, of all together, and what that leaves of the disk.
//!
//! Everything that a client stores is counted, whether it waits in memory, in the array's temporary files or in
//! uploads: these come from it, and one number is enough to say when it is too much. Now and then it is looked
//! at what is free where uploads lie, which is also where the array keeps its temporary files. A transaction
//! that fits into memory is never refused for the disk.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tracing::debug;

use crate::server::ServerOptions;
use crate::server::limits::{Limit, Passed, size};

/// How much a transaction stores between two looks at the disk, in bytes.
const STEP: u64 = 16 << 20;

/// What all transactions of a server store.
#[derive(Debug)]
pub(in crate::server) struct Stored {
    most: u64,
    most_together: u64,
    keep_free: u64,
    together: AtomicU64,
}

/// What one transaction stores.
#[derive(Debug)]
pub(in crate::server) struct Storing {
    stored: Arc<Stored>,
    bytes: u64,
    looked_at: u64,
}

impl Stored {
    pub(in crate::server) fn new(options: &ServerOptions) -> Arc<Self> {
        Arc::new(Stored {
            most: options.max_transaction_bytes,
            most_together: options.max_transactions_bytes,
            keep_free: options.keep_free_bytes,
            together: AtomicU64::new(0),
        })
    }

    /// A transaction that stores nothing yet.
    pub(in crate::server) fn begin(self: &Arc<Self>) -> Storing {
        Storing {
            stored: Arc::clone(self),
            bytes: 0,
            looked_at: 0,
        }
    }
}

impl Storing {
    /// Counts more of it.
    ///
    /// # Errors
    /// Which limit is passed with it; it is counted all the same.
    pub(super) async fn add(&mut self, bytes: u64, folder: &Path) -> Result<(), Passed> {
        self.bytes += bytes;
        let together = self.stored.together.fetch_add(bytes, Relaxed) + bytes;
        let limits = &self.stored;
        if self.bytes > limits.most {
            let what = format!("the transaction is larger than {}", size(limits.most));
            return Err(Passed::new(Limit::Transaction, what));
        }
        if together > limits.most_together {
            let what = format!(
                "the transactions of all clients together are larger than {}, this one being {} bytes",
                size(limits.most_together),
                self.bytes
            );
            return Err(Passed::new(Limit::Transactions, what));
        }
        if limits.keep_free == 0 || self.bytes - self.looked_at < STEP {
            return Ok(());
        }
        self.looked_at = self.bytes;
        let at = folder.to_owned();
        let free = crate::task::blocking(move || crate::durable::free_space(&at)).await;
        match free {
            Ok(Ok(free)) if free < limits.keep_free => {
                let what = format!(
                    "there is less than {} left on the disk of {}",
                    size(limits.keep_free),
                    folder.display()
                );
                Err(Passed::new(Limit::KeepFree, what))
            }
            // Where nobody knows, writing will tell.
            unknown => {
                if !matches!(unknown, Ok(Ok(_))) {
                    debug!(folder = %folder.display(), ?unknown, "cannot see what is free");
                }
                Ok(())
            }
        }
    }

    /// Nothing of it is kept any more.
    pub(super) fn let_go(&mut self) {
        self.stored.together.fetch_sub(self.bytes, Relaxed);
        self.bytes = 0;
        self.looked_at = 0;
    }
}

impl Drop for Storing {
    fn drop(&mut self) {
        self.let_go();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(most: u64, together: u64, keep_free: u64) -> Arc<Stored> {
        Stored::new(&ServerOptions {
            max_transaction_bytes: most,
            max_transactions_bytes: together,
            keep_free_bytes: keep_free,
            ..ServerOptions::default()
        })
    }

    #[tokio::test]
    async fn each_limit_is_passed_by_one_byte_and_what_is_let_go_of_is_there_for_others() {
        let folder = tempfile::tempdir().unwrap();
        let stored = stored(1000, 1500, 0);
        let (mut one, mut other) = (stored.begin(), stored.begin());
        let limit = |added: Result<(), Passed>| added.err().map(|passed| passed.limit);
        assert_eq!(limit(one.add(1000, folder.path()).await), None);
        assert_eq!(limit(other.add(500, folder.path()).await), None);
        let passed = other.add(1, folder.path()).await.unwrap_err();
        assert_eq!(passed.limit, Limit::Transactions);
        assert!(passed.what.contains("1500B"), "{passed}");
        other.let_go();
        let passed = one.add(1, folder.path()).await.unwrap_err();
        assert_eq!(passed.limit, Limit::Transaction);
        assert!(passed.what.contains("1000B"), "{passed}");
        drop(one);
        assert_eq!(limit(other.add(1000, folder.path()).await), None);
        drop(other);
        assert_eq!(stored.together.load(Relaxed), 0);
    }

    #[tokio::test]
    async fn the_disk_is_looked_at_for_what_does_not_fit_into_memory() {
        let folder = tempfile::tempdir().unwrap();
        let stored = stored(u64::MAX, u64::MAX, u64::MAX);
        let mut storing = stored.begin();
        storing.add(STEP - 1, folder.path()).await.unwrap();
        let passed = storing.add(1, folder.path()).await.unwrap_err();
        assert_eq!(passed.limit, Limit::KeepFree);
        let text = folder.path().display().to_string();
        assert!(passed.what.contains(&text), "{passed}");
        // Nobody knows what is free where nothing is.
        let mut storing = stored.begin();
        let gone = folder.path().join("gone");
        storing.add(2 * STEP, &gone).await.unwrap();
    }
}
