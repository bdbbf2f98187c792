//! What an array is made of and how it behaves.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::job::Rate;
use crate::storage::Opener;

/// A member, as the configuration names it.
#[derive(Clone)]
pub struct MemberSpec {
    /// Unique in the array, and kept in the membership record.
    pub name: String,
    pub opener: Arc<dyn Opener>,
    /// Changes when anything changes that needs the member to be opened anew.
    pub fingerprint: String,
    /// It holds a database that was there before the array: until there is a membership record, what is opened
    /// for it is never a new, empty copy.
    pub adopted: bool,
}

/// How an array behaves.
#[derive(Debug, Clone)]
pub struct ArrayOptions {
    pub name: String,
    pub cluster_mode: ClusterMode,
    pub start_policy: StartPolicy,
    /// Serve from what is reachable although the start policy says no. The operator was told what may
    /// be lost.
    pub force: bool,
    /// Serve only while at least this many members are in the in-sync set.
    pub min_optimal: usize,
    pub fail_mode: FailMode,
    /// A member that does not answer a call for this long is taken out.
    pub member_timeout: Duration,
    /// Opening a member may take this long before it counts as unreachable (it goes on being tried).
    pub open_timeout: Duration,
    /// A client may hold the commit lock this long, from its vote to its finish.
    pub transaction_timeout: Duration,
    /// The vote of a member to which others write too may wait this long for its commit lock.
    pub lock_timeout: Duration,
    /// Recover a member by itself when it comes back after a lack of contact.
    pub auto_recover: bool,
    /// Unless a recovery is asked for with another.
    pub recovery_rate: Rate,
    /// How long the end of a recovery may hold up commits.
    pub catch_up_limit: Duration,
    /// Records in memory; 0 is none.
    pub cache_bytes: u64,
    pub spool: Spool,
    /// How many transactions back clients can verify their caches.
    pub invalidation_queue: usize,
    /// A folder of blobs that clients look into by themselves; none where blobs go over the protocol.
    pub shared_blobs: Option<SharedBlobs>,
}

/// A folder of blobs that is shared. Clients look there and nowhere else: blobs that are older than this
/// arrangement have to be put into it by whoever makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedBlobs {
    pub folder: PathBuf,
    /// The members' servers use the same folder: they are sent records only. Otherwise members keep
    /// blobs of their own, and the folder is for the clients.
    pub with_members: bool,
}

#[cfg(test)]
impl ArrayOptions {
    /// What the tests of arrays in memory begin with.
    pub(super) fn of_a_test(folder: &std::path::Path) -> Self {
        ArrayOptions {
            name: "main".into(),
            cluster_mode: ClusterMode::Single,
            start_policy: StartPolicy::InSync,
            force: false,
            min_optimal: 1,
            fail_mode: FailMode::Close,
            member_timeout: Duration::from_secs(5),
            open_timeout: Duration::from_secs(5),
            transaction_timeout: Duration::from_secs(10),
            lock_timeout: Duration::from_secs(10),
            auto_recover: true,
            recovery_rate: Rate::UNLIMITED,
            catch_up_limit: Duration::from_secs(2),
            cache_bytes: 1 << 20,
            spool: Spool {
                folder: folder.to_owned(),
                memory_bytes: 1 << 20,
            },
            invalidation_queue: 100,
            shared_blobs: None,
        }
    }
}

/// Where transactions wait for their vote.
#[derive(Debug, Clone)]
pub struct Spool {
    pub folder: PathBuf,
    /// What a transaction holds in memory before the rest of it goes into a temporary file.
    pub memory_bytes: usize,
}

/// Whether others write to the members too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClusterMode {
    /// This daemon is the only writer. A member that somebody else writes to is taken out.
    #[default]
    Single,
    /// Other daemons with the same members write to them as well. More than half of the members must
    /// be in sync, so that no two daemons go on with different ones.
    Coop,
}

/// What is enough to start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StartPolicy {
    /// Any reachable member of the last in-sync set. With no record yet, all members must be there.
    #[default]
    InSync,
    /// More than half of the members must be reachable; the newest last TID among them is the head.
    Majority,
    /// The newest last TID of whatever is reachable.
    Newest,
}

/// What happens when too few members remain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FailMode {
    /// Clients are disconnected and go to another address.
    #[default]
    Close,
    /// Clients may go on reading.
    ReadOnly,
}
