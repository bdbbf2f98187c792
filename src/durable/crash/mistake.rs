//! Mistakes that tests make on purpose: each leaves out or moves one step. The tests of crash states must
//! find every one of them.

use std::path::Path;

use super::watch;

/// What is done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mistake {
    /// The status byte of a transaction is written before its data is durable.
    StatusBeforeData,
    /// A finish returns before the status byte is durable.
    FinishNotSynced,
    /// A batch is restored without an unfinished transaction in front of it.
    RestoreWithoutBarrier,
    /// The packed file is put in force before it is durable.
    PackNotSynced,
    /// Transactions go on before it is durable that the packed file is in force.
    PackFolderNotSynced,
    /// The end of the history is taken back, and the index still knows of it.
    IndexKeptOverRewind,
    /// The end of the history is cut off before its copy beside is durable.
    AsideNotSynced,
    /// A blob's file gets its name before its content is durable.
    BlobNotSynced,
    /// A blob's transaction is finished before the name of its file is durable.
    BlobNameNotSynced,
    /// A backup gets its name before the data file in it is durable.
    BackupNotSynced,
    /// A small file is replaced by one that is not durable.
    SmallFileNotSynced,
    /// A small file counts as replaced before the new name is durable.
    SmallFileFolderNotSynced,
}

/// Whether it is made below this path.
pub(crate) fn is_made(path: &Path, mistake: Mistake) -> bool {
    watch::of(path).is_some_and(|watch| watch.mistake() == Some(mistake))
}
