//! Looking at the states of a log, one after the other, and saying how to look at one again.
//!
//! `ZEORAID_CRASH_STATES` says how many of a log are looked at, `ZEORAID_SEED` which. A failure leaves a
//! file that holds log and state; with its name in `ZEORAID_CRASH_REPEAT` the same test looks at that state
//! alone, and does no work before.

use std::fmt::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::choice::{Choice, Choices};
use super::log::Log;

const STATES: &str = "ZEORAID_CRASH_STATES";
const REPEAT: &str = "ZEORAID_CRASH_REPEAT";
const SEED: &str = "ZEORAID_SEED";

/// A log, and what is to be expected of its states.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Case<S> {
    pub(crate) name: String,
    pub(crate) log: Log,
    pub(crate) story: S,
    /// The one that is to be looked at; all where there is none.
    choice: Option<Choice>,
}

/// What was looked at.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) entries: usize,
    /// Different states that a crash may leave, as far as they were enumerated.
    pub(crate) states: usize,
    pub(crate) checked: usize,
    /// Of those, how many a file system can leave that keeps the order of names.
    pub(crate) in_order: usize,
}

/// A state that is not as it should be.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One state to be looked at.
pub(crate) struct Look<'a> {
    /// Where it is.
    pub(crate) root: &'a Path,
    pub(crate) choice: &'a Choice,
    /// Which of those that are looked at.
    pub(crate) number: usize,
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}

/// How many states of a log are looked at.
pub(crate) fn most(always: usize) -> usize {
    number(STATES).map_or(always, |most| most as usize)
}

/// What repeats the choice of states.
pub(crate) fn seed() -> u64 {
    number(SEED).unwrap_or_else(|| fastrand::u64(..))
}

/// A folder for a state, in memory where there is one: nobody pulls the plug of it.
pub(crate) fn folder() -> tempfile::TempDir {
    let memory = tempfile::tempdir_in("/dev/shm");
    memory.or_else(|_| tempfile::tempdir()).expect("a folder")
}

impl<S: Clone + Serialize + DeserializeOwned> Case<S> {
    pub(crate) fn new(name: &str, log: Log, story: S) -> Self {
        Case {
            name: name.to_owned(),
            log,
            story,
            choice: None,
        }
    }

    /// The one that is to be repeated, where one is and it is of this name.
    pub(crate) fn repeated(name: &str) -> Option<Self> {
        let path = std::env::var_os(REPEAT)?;
        let text = std::fs::read_to_string(&path).expect("the file that a failure has left");
        let value: serde_json::Value =
            serde_json::from_str(&text).expect("what a failure has left");
        if value["name"] != name {
            return None;
        }
        Some(serde_json::from_value(value).expect("what a failure of this version has left"))
    }

    /// Looks at its states until one fails. `stage` as in [`Choices::of`].
    pub(crate) fn examine(
        &self,
        most: usize,
        seed: u64,
        stage: impl Fn(usize) -> u64,
        mut look: impl FnMut(&Look<'_>) -> Result<(), String>,
    ) -> Result<Counts, Failure> {
        let mut counts = Counts {
            entries: self.log.entries.len(),
            ..Counts::default()
        };
        let chosen = if let Some(choice) = &self.choice {
            vec![choice.clone()]
        } else {
            let choices = Choices::of(&self.log, seed, stage);
            counts.states = choices.all.len();
            choices.take(most, seed)
        };
        for (number, choice) in chosen.iter().enumerate() {
            let folder = folder();
            let root = std::fs::canonicalize(folder.path()).expect("the folder");
            choice.state(&self.log).make(&root);
            let one = Look {
                root: &root,
                choice,
                number,
            };
            let looked = catch_unwind(AssertUnwindSafe(|| look(&one)));
            let looked = looked.unwrap_or_else(|panic| {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.into()));
                Err(text.unwrap_or_else(|| "a panic".to_owned()))
            });
            looked.map_err(|why| self.failure(choice, &why))?;
            counts.checked += 1;
            counts.in_order += usize::from(choice.in_order);
        }
        Ok(counts)
    }

    fn failure(&self, choice: &Choice, why: &str) -> Failure {
        let left = self.leave(choice);
        let mut text = format!(
            "{}: {why}\n\nthe state: {}\n",
            self.name,
            choice.text(&self.log)
        );
        text += "\nthe log up to there:\n";
        for number in 0..choice.entries {
            writeln!(text, "  {number}: {}", self.log.line(number)).expect("a string takes all");
        }
        let left = left.display();
        write!(
            text,
            "\nto repeat it: {REPEAT}={left} cargo test --lib -- THIS_TEST\n"
        )
        .expect("a string takes all");
        Failure(text)
    }

    fn leave(&self, choice: &Choice) -> PathBuf {
        let case = Case {
            choice: Some(choice.clone()),
            ..self.clone()
        };
        let file = tempfile::Builder::new()
            .prefix(&format!("zeoraid-crash-{}-", self.name.replace(' ', "-")))
            .suffix(".json")
            .tempfile()
            .expect("a temporary file");
        let (file, path) = file.keep().expect("it stays");
        serde_json::to_writer(file, &case).expect("room for it");
        path
    }
}
