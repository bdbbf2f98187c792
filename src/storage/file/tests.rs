//! The suite over files, and what only a file can do.

use super::*;
use crate::storage::suite::{Fixture, storage_suite};

mod crash;
mod damage;
mod model;
mod oracle;
mod packing;

storage_suite!(fixture());

async fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let options = FileOptions {
        blob_dir: Some(folder.path().join("blobs")),
        ..FileOptions::default()
    };
    let opener = FileOpener::new(data_fs(&folder), options);
    let storage = opener.open().await.unwrap();
    Fixture::keeping(storage, folder)
}

fn data_fs(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("Data.fs")
}

fn opener(folder: &tempfile::TempDir) -> FileOpener {
    FileOpener::new(data_fs(folder), FileOptions::default())
}

async fn open(folder: &tempfile::TempDir) -> Arc<dyn Storage> {
    opener(folder).open().await.unwrap()
}
