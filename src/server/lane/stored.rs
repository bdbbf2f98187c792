//! What transactions store before they are finished: of one, of all together, and what that leaves of the disk.
//!
//! Everything that a client stores is counted, whether it waits in memory, in the array's temporary files or in
//! uploads: these come from it, and one number is enough to say when it is too much. Now and then it is looked
//! at what is free where uploads lie, which is also where the array keeps its temporary files. A transaction
//! that fits into memory is never refused for the disk.
//!
//! A client may take as long as it likes before it votes. So that one that fills what there is for all does not
//! keep the others from committing meanwhile, no transaction is refused for what all have before it has more
//! than its share: what each has where there are as many clients as may be. All together are so at most twice
//! as much as they may be, or a little for each client where that is more.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tracing::debug;

use crate::server::ServerOptions;
use crate::server::limits::{Limit, Passed, size};
use crate::server::memory::OWN;

/// How much a transaction stores between two looks at the disk, in bytes.
const STEP: u64 = 16 << 20;

/// What all transactions of a server store.
#[derive(Debug)]
pub(in crate::server) struct Stored {
    most: u64,
    most_together: u64,
    /// So much of it is everybody's, whatever the others have.
    share: u64,
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
        let clients = (options.max_connections as u64).max(1);
        Arc::new(Stored {
            most: options.max_transaction_bytes,
            most_together: options.max_transactions_bytes,
            share: (options.max_transactions_bytes / clients).max(OWN as u64),
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
        if together > limits.most_together && self.bytes > limits.share {
            let what = format!(
                "the transactions of all clients together are larger than {}, and this one's {} bytes are more \
                 than its share of {} bytes",
                size(limits.most_together),
                self.bytes,
                limits.share
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

    fn limit(added: Result<(), Passed>) -> Option<Limit> {
        added.err().map(|passed| passed.limit)
    }

    #[tokio::test]
    async fn each_limit_is_passed_by_one_byte_and_what_is_let_go_of_is_there_for_others() {
        let folder = tempfile::tempdir().unwrap();
        let stored = stored(1000 << 10, 1500 << 10, 0);
        let (mut one, mut other) = (stored.begin(), stored.begin());
        assert_eq!(limit(one.add(1000 << 10, folder.path()).await), None);
        assert_eq!(limit(other.add(500 << 10, folder.path()).await), None);
        let passed = other.add(1, folder.path()).await.unwrap_err();
        assert_eq!(passed.limit, Limit::Transactions);
        assert!(passed.what.contains("1500KiB"), "{passed}");
        assert!(passed.what.contains("512001 bytes"), "{passed}");
        other.let_go();
        let passed = one.add(1, folder.path()).await.unwrap_err();
        assert_eq!(passed.limit, Limit::Transaction);
        assert!(passed.what.contains("1000KiB"), "{passed}");
        drop(one);
        assert_eq!(limit(other.add(1000 << 10, folder.path()).await), None);
        drop(other);
        assert_eq!(stored.together.load(Relaxed), 0);
    }

    #[tokio::test]
    async fn what_others_have_refuses_nobody_its_share() {
        const MIB: u64 = 1 << 20;
        // A share by the number of clients, and what everybody has at least.
        for (connections, share) in [(5, 4 * MIB), (4096, OWN as u64), (0, 20 * MIB)] {
            let folder = tempfile::tempdir().unwrap();
            let stored = Stored::new(&ServerOptions {
                max_connections: connections,
                max_transaction_bytes: u64::MAX,
                max_transactions_bytes: 20 * MIB,
                keep_free_bytes: 0,
                ..ServerOptions::default()
            });
            let mut large = stored.begin();
            assert_eq!(limit(large.add(20 * MIB, folder.path()).await), None);
            for _ in 0..3 {
                let mut small = stored.begin();
                assert_eq!(limit(small.add(share - 1, folder.path()).await), None);
                assert_eq!(limit(small.add(1, folder.path()).await), None);
                let passed = small.add(1, folder.path()).await;
                assert_eq!(limit(passed), Some(Limit::Transactions));
            }
            // Also who had it all first gets no more of it while others have theirs.
            let mut small = stored.begin();
            assert_eq!(limit(small.add(1, folder.path()).await), None);
            let passed = large.add(1, folder.path()).await;
            assert_eq!(limit(passed), Some(Limit::Transactions));
        }
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
