//! Looking into a file without opening it.

use super::*;
use crate::storage::file::inspect::Inspection;
use crate::storage::suite::{commit_ops, store};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_index_it_tells_how_far_it_has_read_to_find_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let mut last = Tid::ZERO;
    for _ in 0..3 {
        last = commit_ops(&*storage, vec![store(1, last, b"data")]).await;
    }
    let path = data_fs(&folder);
    let inspection = Inspection::open(&path, None).unwrap();
    let mut reached = Vec::new();
    let listed = inspection.last_transactions(1, &mut |at| reached.push(at));
    assert_eq!(listed.unwrap()[0].tid, last);
    assert!(reached.len() > 3 && reached.is_sorted(), "{reached:?}");
    assert_eq!(reached.last(), Some(&inspection.bytes()));
    storage.close().await;

    // With one, what it covers is not read.
    let inspection = Inspection::open(&path, None).unwrap();
    let mut reached = Vec::new();
    let listed = inspection.last_transactions(1, &mut |at| reached.push(at));
    assert_eq!(listed.unwrap()[0].tid, last);
    assert_eq!(reached, [inspection.bytes()]);
}
