//! What a ZODB client may rely on besides commits and loads: `features.py`, `blob_features.py` and
//! `undo_features.py`, one function for each.

use crate::harness::Instance;
use crate::harness::python;

/// Runs one feature against an array of two.
fn feature(name: &str) {
    feature_with(name, &[], "", "");
}

/// With arguments, and with lines put into the configuration after another.
fn feature_with(name: &str, args: &[&str], after: &str, lines: &str) {
    feature_of("features.py", name, args, after, lines);
}

fn feature_of(script: &str, name: &str, args: &[&str], after: &str, lines: &str) {
    for encoding in ["Z5", "M5"] {
        let instance = Instance::made(&[&format!("encoding={encoding}")]);
        if !lines.is_empty() {
            instance.configure(after, lines);
        }
        instance.start().ok();
        let mut all = vec![name, instance.address.as_str()];
        all.extend(args);
        python::run(script, &all).ok();
        // Whatever a client did, both copies are the same.
        instance.run(&["status"]).ok().prints("optimal");
        python::verify(&instance.given_back(), &[]);
    }
}

macro_rules! features {
    ($script:literal: $($test:ident = $name:literal;)*) => {
        $(
            #[test]
            fn $test() {
                feature_of($script, $name, &[], "", "");
            }
        )*
    };
}

features! {
    "features.py":
    the_history_of_an_object_is_told = "history";
    transactions_are_iterated_whole_and_in_part = "iteration";
    every_record_is_walked_with_record_iternext = "record_iternext";
    old_revisions_are_loaded = "revisions";
    a_read_only_client_sees_and_does_not_write = "read_only";
    read_current_fails_where_it_was_changed = "read_current";
    read_current_counts_beside_resolved_conflicts = "read_current_beside_conflicts";
    conflicts_are_resolved_or_told_in_full = "conflicts";
    commits_are_seen_in_order_by_other_processes = "order";
    metadata_comes_back_as_given = "metadata";
    records_and_transactions_may_be_large = "large";
    leaving_after_the_vote_is_an_abort = "vote_then_leave";
    who_waits_for_the_commit_lock_is_served_meanwhile = "waiting_client_is_served";
    small_talk_is_answered = "small_talk";
    every_snapshot_is_one_moment = "hammer_reads";
}

/// Runs one feature against an array of two that keep blobs, with a cache for each client, and with a
/// directory that clients share with the daemon.
fn blob_feature(script: &str, name: &str, shared: bool) {
    for encoding in ["Z5", "M5"] {
        let instance = Instance::made(&[&format!("encoding={encoding}")]);
        let folder = instance.beside("shared-blobs");
        let folder = folder.to_str().expect("a plain path");
        let mut args = vec![name, instance.address.as_str()];
        if shared {
            std::fs::create_dir(folder).expect("a folder that is shared");
            instance.configure("main:", &format!("    shared_blob_dir: {folder}"));
            args.push(folder);
        }
        instance.start().ok();
        python::run(script, &args).ok();
        instance.run(&["status"]).ok().prints("optimal");
        python::verify_with(&instance.given_back(), &[], &["--blobs"]);
    }
}

macro_rules! blob_features {
    ($($test:ident = $script:literal $name:literal $shared:literal;)*) => {
        $(
            #[test]
            fn $test() {
                blob_feature($script, $name, $shared);
            }
        )*
    };
}

blob_features! {
    blobs_of_all_sizes_come_back = "blob_features.py" "blobs" false;
    aborted_blobs_leave_nothing = "blob_features.py" "blob_aborts" false;
    half_an_upload_goes_with_its_transaction = "blob_features.py" "half_uploads" false;
    calls_are_answered_while_blobs_are_sent = "blob_features.py" "blobs_beside_loads" false;
    blobs_are_in_conflict_or_go_with_what_is_resolved = "blob_features.py" "blob_conflicts" false;
    undo_brings_back_the_file_of_a_blob = "blob_features.py" "blob_undo" false;
    blobs_in_a_shared_directory_are_found_there = "blob_features.py" "blobs" true;
    aborted_blobs_leave_nothing_in_a_shared_directory = "blob_features.py" "blob_aborts" true;
    shared_blobs_are_in_conflict_or_go_with_what_is_resolved = "blob_features.py" "blob_conflicts" true;
    undo_brings_back_the_file_in_a_shared_directory = "blob_features.py" "blob_undo" true;
    a_pack_keeps_what_is_current_and_reached = "undo_features.py" "pack" false;
}

features! {
    "undo_features.py":
    changes_undos_and_creations_are_undone = "undo";
    an_undo_is_in_conflict_with_what_came_between = "undo_conflicts";
    the_undo_log_is_told_in_pages_and_filtered = "undo_log";
    objects_are_deleted = "delete_object";
    given_tids_are_kept = "given_tids";
    the_extension_methods_tell_and_change_nothing = "raid_methods";
}

#[test]
fn the_extension_methods_change_what_they_may() {
    feature_of(
        "undo_features.py",
        "raid_methods",
        &["yes"],
        "main:",
        "    zeo_admin: true\n    recovery_rate: {transactions: 20}",
    );
}

#[test]
fn a_client_that_returns_verifies_its_cache() {
    feature("cache_verified");
}

#[test]
fn a_client_that_missed_too_much_drops_its_cache() {
    feature_with(
        "cache_verified",
        &["30", "yes"],
        "main:",
        "    invalidation_queue: 5",
    );
}

#[test]
fn a_client_verifies_its_cache_across_a_restart() {
    let instance = Instance::started(&[]);
    let cache = instance.beside("cache.zec");
    let cache = cache.to_str().expect("a plain path");
    python::run("features.py", &["cache_fill", &instance.address, cache]).ok();
    instance.run(&["restart"]).ok();
    python::run("features.py", &["cache_change", &instance.address]).ok();
    instance.kill9();
    instance.start().ok();
    python::run("features.py", &["cache_check", &instance.address, cache]).ok();
}

#[test]
fn who_hangs_with_the_commit_lock_loses_its_connection() {
    let listen = "transaction_timeout: 1s";
    feature_with(
        "transaction_timeout",
        &[],
        "# transaction_timeout: 1m",
        listen,
    );
}

#[test]
fn a_read_only_server_serves_who_only_reads() {
    let instance = Instance::started(&[]);
    python::run("features.py", &["plain_visit", &instance.address]).ok();
    instance.configure("# read_only: false", "read_only: true");
    instance.run(&["restart"]).ok();
    python::run("features.py", &["read_only_server", &instance.address]).ok();
}

#[test]
fn oids_are_not_given_twice_across_restarts() {
    let instance = Instance::started(&[]);
    let mut highest = String::new();
    for _ in 0..3 {
        let run = python::run("features.py", &["new_oids", &instance.address]).ok();
        let oid = run.stdout.trim().to_owned();
        assert!(oid > highest || highest.is_empty(), "{oid} after {highest}");
        // What nobody stored may be given again after a restart; what was stored may not.
        highest = python::run("features.py", &["stored_oid", &instance.address])
            .ok()
            .stdout;
        highest = highest.trim().to_owned();
        instance.run(&["restart"]).ok();
    }
}
