//! What fuzzing has collected and what it has found, once more by the ordinary tests.
//!
//! `fuzz/corpus/TARGET` reaches what there is to reach, `fuzz/found/TARGET` holds what was wrong once,
//! named after what it was.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;

use super::{TARGETS, Target};

thread_local! {
    static PANICS: Cell<usize> = const { Cell::new(0) };
}

/// Counts this thread's panics, also those that a task keeps to itself.
fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.set(PANICS.get() + 1);
            before(panic);
        }));
    });
}

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn files_of(target: &Target) -> Vec<PathBuf> {
    let folders = ["corpus", "found"].map(|kind| fuzz().join(kind).join(target.name));
    let entries = folders
        .iter()
        .flat_map(|folder| fs::read_dir(folder).into_iter().flatten());
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

pub(super) fn replay(target: &Target, data: &[u8], what: &Path) {
    count_panics();
    let before = PANICS.get();
    let held = allocation_counter::measure(|| (target.body)(data)).bytes_max;
    assert_eq!(
        PANICS.get(),
        before,
        "{}: a task has panicked",
        what.display()
    );
    let allowed = target.memory(data.len());
    assert!(
        held <= allowed,
        "{}: it held {held} bytes for {}, {allowed} are allowed",
        what.display(),
        data.len()
    );
}

fn replay_all(name: &str) {
    let target = Target::named(name);
    let files = files_of(target);
    assert!(!files.is_empty(), "fuzz/corpus/{name} is not there");
    for file in files {
        replay(target, &fs::read(&file).unwrap(), &file);
    }
}

macro_rules! replays {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                replay_all(stringify!($name));
            }
        )*

        #[test]
        fn every_target_is_replayed() {
            let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

replays! {
    admin
    client
    config
    data_fs
    frames
    index
    pack
    pickle
    recipe
    server
    session
    zconfig
    zeo
}

/// A target of `cargo fuzz` that is missing would be missed by nobody else.
#[test]
fn every_body_has_a_fuzz_target_and_a_small_corpus() {
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    let mut all = 0;
    for target in TARGETS {
        let name = target.name;
        let text = fs::read_to_string(fuzz().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(text.contains(&format!("run(\"{name}\"")), "{name}: {text}");
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        let corpus = fs::read_dir(fuzz().join("corpus").join(name)).unwrap();
        let sizes: Vec<u64> = corpus
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .collect();
        assert!(sizes.len() < 150, "{name}: {} files", sizes.len());
        all += sizes.iter().sum::<u64>();
    }
    assert!(all < 1 << 20, "the corpus has {all} bytes");
}

#[test]
#[should_panic(expected = "are allowed")]
fn too_much_memory_is_noticed() {
    let greedy = Target {
        name: "greedy",
        body: |data| drop(std::hint::black_box(vec![0u8; 2 * data.len() + 1])),
        base: 0,
        each: 2,
    };
    replay(&greedy, &[0; 1000], Path::new("greedy"));
}

#[test]
#[should_panic(expected = "a task has panicked")]
fn a_panic_in_a_task_is_noticed() {
    let quiet = Target {
        name: "quiet",
        body: |_| {
            super::run(async {
                let tasks = crate::task::Tasks::new("quiet");
                tasks.spawn("quiet", async { panic!("in a task") });
            });
        },
        base: 1 << 20,
        each: 0,
    };
    replay(&quiet, &[], Path::new("quiet"));
}
