//! The model by itself, where all states are known.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::choice::Choices;
use super::log::Log;
use super::watch::Watch;
use crate::durable::step;

/// Does something in a folder, and says what a crash may leave: the files with their contents.
fn states(before: &[(&str, &str)], work: impl Fn(&Path)) -> BTreeSet<String> {
    let folder = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(folder.path()).unwrap();
    for (name, content) in before {
        fs::write(root.join(name), content).unwrap();
    }
    let watch = Watch::begin(&root, None);
    work(&root);
    let log = watch.log();
    drop(watch);
    // What is written and read again is the same.
    let text = serde_json::to_string(&log).unwrap();
    let log: Log = serde_json::from_str(&text).unwrap();
    let choices = Choices::of(&log, 1, |_| 0);
    let found = choices.all.iter().map(|choice| {
        let made = tempfile::tempdir().unwrap();
        choice.state(&log).make(made.path());
        let mut all: Vec<String> = fs::read_dir(made.path())
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                let content = fs::read_to_string(entry.path()).unwrap_or("folder".to_owned());
                format!("{name}={content}")
            })
            .collect();
        all.sort();
        all.join(" ")
    });
    found.collect()
}

fn expect(found: &BTreeSet<String>, expected: &[&str]) {
    let expected: BTreeSet<String> = expected.iter().map(|one| (*one).to_owned()).collect();
    assert_eq!(*found, expected);
}

#[test]
fn a_file_that_is_replaced_durably_is_the_old_or_the_new() {
    let found = states(&[("a", "old")], |root| {
        crate::durable::write(&root.join("a"), b"new").unwrap();
    });
    let names = |text: &String| text.split(' ').count();
    for state in &found {
        // The temporary one is beside the old one, empty, with zeros, or whole, or is not there.
        let beside = state.find(".tmp").map(|at| &state[at..]);
        assert!(names(state) <= 2, "{state}");
        assert!(state.contains("a=old") || state == "a=new", "{state}");
        let begun = ["=", "=\0\0\0", "=new"];
        let whole = |beside: &str| begun.contains(&&beside[beside.find('=').unwrap()..]);
        assert!(
            beside
                .map(|text| text.split(' ').next().unwrap())
                .is_none_or(whole),
            "{state}"
        );
    }
    assert!(found.contains("a=old") && found.contains("a=new"));
}

#[test]
fn a_name_says_nothing_of_the_content() {
    let found = states(&[("a", "old")], |root| {
        let file = step::create_new(&root.join("b")).unwrap();
        step::write_at(&file, b"new", 0).unwrap();
        step::rename(&root.join("b"), &root.join("a")).unwrap();
    });
    expect(
        &found,
        &[
            "a=old",
            "a=old b=",
            "a=old b=\0\0\0",
            "a=old b=new",
            "a=",
            "a=\0\0\0",
            "a=new",
        ],
    );
}

#[test]
fn names_in_one_folder_come_in_any_order_and_each_in_its_own() {
    let found = states(&[], |root| {
        step::create_new(&root.join("a")).unwrap();
        step::create_new(&root.join("b")).unwrap();
        step::rename(&root.join("a"), &root.join("c")).unwrap();
    });
    expect(&found, &["", "a=", "b=", "a= b=", "c=", "b= c="]);
}

#[test]
fn what_was_synced_stays_and_what_came_after_may_not() {
    let found = states(&[("a", "....")], |root| {
        let file = step::open_or_create(&root.join("a")).unwrap();
        step::write_at(&file, b"1", 0).unwrap();
        step::sync(&file).unwrap();
        step::write_at(&file, b"2", 1).unwrap();
        step::set_len(&file, 3).unwrap();
    });
    expect(&found, &["a=....", "a=1...", "a=12..", "a=1..", "a=12."]);
}

#[test]
fn a_write_is_torn_at_sectors() {
    let long = "x".repeat(600);
    let found = states(&[], |root| {
        let file = step::create_new(&root.join("a")).unwrap();
        step::sync_folder(root).unwrap();
        step::write_at(&file, long.as_bytes(), 0).unwrap();
    });
    let lengths = found.iter().map(|state| {
        let content = &state["a=".len().min(state.len())..];
        (content.len(), content.matches('x').count())
    });
    let lengths: BTreeSet<(usize, usize)> = lengths.collect();
    for found in &lengths {
        let legal = [
            (0, 0),
            (600, 600),
            (600, 0),
            (512, 512),
            (600, 512),
            (600, 88),
        ];
        assert!(legal.contains(found), "{found:?}");
    }
    assert!(
        lengths.contains(&(600, 88)) && lengths.len() >= 5,
        "{lengths:?}"
    );
}

#[test]
fn what_is_in_a_folder_comes_and_goes_with_it() {
    let found = states(&[], |root| {
        step::make_folder(&root.join("f")).unwrap();
        step::create_new(&root.join("f/a")).unwrap();
        step::sync_folder(&root.join("f")).unwrap();
        step::rename(&root.join("f/a"), &root.join("a")).unwrap();
        step::sync_folder(root).unwrap();
    });
    // Never `a` alone: what is renamed out of a folder was in it.
    expect(&found, &["", "f=folder", "a= f=folder"]);
}
