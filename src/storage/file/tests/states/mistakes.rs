//! The tests of crash states find what they are there for: mistakes of one line, made on purpose.

use super::*;

/// So many states are looked at until the mistake has to be found.
const MOST: usize = 4000;

fn is_found(mistake: Mistake, work: impl Fn(Option<Mistake>) -> Case<Story>) {
    let case = work(Some(mistake));
    match examine(&case, MOST, None) {
        Err(failure) => {
            let text = failure.to_string();
            let why = text.lines().next().unwrap_or_default();
            eprintln!("{mistake:?} is found: {why}");
        }
        Ok((counts, _)) => panic!("{mistake:?} is not found in {} states", counts.checked),
    }
}

#[test]
fn a_status_that_is_written_before_the_data_is_durable_is_found() {
    is_found(Mistake::StatusBeforeData, work::commits);
}

#[test]
fn a_finish_that_does_not_wait_for_its_sync_is_found() {
    is_found(Mistake::FinishNotSynced, work::commits);
}

#[test]
fn a_batch_without_an_unfinished_transaction_before_it_is_found() {
    is_found(Mistake::RestoreWithoutBarrier, work::restore);
}

#[test]
fn a_packed_file_that_is_in_force_before_it_is_durable_is_found() {
    is_found(Mistake::PackNotSynced, |mistake| {
        work::packing(false, mistake)
    });
}

#[test]
fn going_on_before_the_packed_file_is_durably_in_force_is_found() {
    is_found(Mistake::PackFolderNotSynced, |mistake| {
        work::packing(false, mistake)
    });
}

#[test]
fn an_index_of_what_was_taken_back_is_found() {
    is_found(Mistake::IndexKeptOverRewind, |mistake| {
        work::rewind(false, mistake)
    });
}

#[test]
fn a_copy_of_what_is_taken_back_that_is_not_durable_is_found() {
    is_found(Mistake::AsideNotSynced, |mistake| {
        work::rewind(false, mistake)
    });
}

#[test]
fn a_blob_that_is_not_durable_is_found() {
    is_found(Mistake::BlobNotSynced, work::blobs);
}

#[test]
fn a_blob_whose_name_is_not_durable_is_found() {
    is_found(Mistake::BlobNameNotSynced, work::blobs);
}

#[test]
fn a_backup_that_has_its_name_before_it_is_durable_is_found() {
    is_found(Mistake::BackupNotSynced, |mistake| {
        work::backup(false, mistake)
    });
}
