//! Reads one map of the configuration, key by key, into values of the right type.
//!
//! Every value asked for becomes a [`Setting`], whatever it came from. What is wrong is noted and
//! read as the default, so that reading goes on and finds the other mistakes. What was never asked
//! for is unknown, and reported when the section ends.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::mistake::Mistake;
use super::model::{Origin, Setting};
use super::read::{Entry, Node, Place, Value};
use super::units::{format_duration, format_size, parse_duration, parse_size};

/// What was found while reading.
pub(super) struct Findings {
    pub(super) instance: PathBuf,
    pub(super) mistakes: Vec<Mistake>,
    pub(super) warnings: Vec<Mistake>,
    pub(super) settings: Vec<Setting>,
}

/// A map that is being read.
pub(super) struct Section<'a> {
    /// `arrays.main`, or nothing at the top.
    name: String,
    place: Place,
    entries: Vec<&'a Entry>,
    asked: Vec<&'static str>,
    /// It is no map at all, which was said.
    broken: bool,
}

impl Findings {
    pub(super) fn mistake(
        &mut self,
        place: Place,
        what: impl Into<String>,
        mend: impl Into<String>,
    ) {
        let (line, column) = place.numbers();
        let mut what = what.into();
        if let Place::Environment(variable) = place {
            what = format!("${variable}: {what}");
        }
        self.mistakes.push(Mistake::at(line, column, what, mend));
    }

    /// Something that is no mistake, but probably not meant.
    pub(super) fn warning(
        &mut self,
        place: Place,
        what: impl Into<String>,
        mend: impl Into<String>,
    ) {
        let (line, column) = place.numbers();
        self.warnings.push(Mistake::at(line, column, what, mend));
    }

    pub(super) fn setting(
        &mut self,
        key: impl Into<String>,
        value: impl Into<String>,
        origin: Origin,
    ) {
        self.settings.push(Setting {
            key: key.into(),
            value: value.into(),
            origin,
        });
    }
}

impl<'a> Section<'a> {
    /// Reads `node` as a map. Something else is a mistake, and read as an empty one.
    pub(super) fn new(
        name: impl Into<String>,
        node: Option<&'a Node>,
        found: &mut Findings,
    ) -> Self {
        let name = name.into();
        let place = node.map_or(Place::At { line: 0, column: 0 }, |node| node.place);
        let mut entries: Vec<&Entry> = Vec::new();
        let mut broken = false;
        match node.map(|node| &node.value) {
            None | Some(Value::Nothing) => {}
            Some(Value::Map(all)) => {
                for entry in all {
                    if let Some(first) = entries.iter().find(|other| other.key == entry.key) {
                        let (line, _) = first.place.numbers();
                        found.mistake(
                            entry.place,
                            format!("`{}` is there twice, first in line {line}", entry.key),
                            "remove one of them",
                        );
                    } else {
                        entries.push(entry);
                    }
                }
            }
            Some(_) => {
                broken = true;
                found.mistake(
                    place,
                    format!("{} must have keys and values", subject(&name)),
                    "write `key: value` lines, indented",
                );
            }
        }
        Section {
            name,
            place,
            entries,
            asked: Vec::new(),
            broken,
        }
    }

    /// The entries of a map whose keys are names that the operator chose.
    pub(super) fn named(self) -> Vec<&'a Entry> {
        self.entries
    }

    /// Whether something else stands where a map should; that was said.
    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// `arrays.main.cache`.
    pub(super) fn key(&self, key: &str) -> String {
        if self.name.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.name)
        }
    }

    /// The node of a key, whatever it is. Nothing written is none.
    pub(super) fn node(&mut self, key: &'static str) -> Option<&'a Node> {
        self.asked.push(key);
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        match entry.node.value {
            Value::Nothing => None,
            _ => Some(&entry.node),
        }
    }

    /// Where a key is written, also where nothing is written after it.
    pub(super) fn written(&self, key: &str) -> Option<Place> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        Some(entry.place)
    }

    pub(super) fn section(&mut self, key: &'static str, found: &mut Findings) -> Section<'a> {
        let node = self.node(key);
        Section::new(self.key(key), node, found)
    }

    /// A value of any kind: `parse` gives it or says what is wrong, `show` writes it as in the file.
    fn value<T>(
        &mut self,
        key: &'static str,
        default: T,
        parse: impl FnOnce(&str) -> Result<T, String>,
        show: impl FnOnce(&T) -> String,
        found: &mut Findings,
    ) -> T {
        let node = self.node(key);
        let full = self.key(key);
        let Some(node) = node else {
            found.setting(full, show(&default), Origin::Default);
            return default;
        };
        let Value::Scalar(text) = &node.value else {
            found.mistake(
                node.place,
                format!("{full} must be one value"),
                format!("write `{key}: {}`", show(&default)),
            );
            return default;
        };
        match parse(text) {
            Ok(value) => {
                found.setting(full, show(&value), origin(node.place));
                value
            }
            Err(what) => {
                let (what, mend) = what.split_once("; ").unwrap_or((&what, ""));
                found.mistake(node.place, format!("{full}: {what}"), mend);
                default
            }
        }
    }

    pub(super) fn duration(
        &mut self,
        key: &'static str,
        default: Duration,
        at_least: Duration,
        found: &mut Findings,
    ) -> Duration {
        let parse = |text: &str| {
            let value = parse_duration(text)?;
            if value < at_least {
                let least = format_duration(at_least);
                return Err(format!("`{text}` is too short; at least {least}"));
            }
            Ok(value)
        };
        self.value(key, default, parse, |value| format_duration(*value), found)
    }

    pub(super) fn size(
        &mut self,
        key: &'static str,
        default: u64,
        at_least: u64,
        found: &mut Findings,
    ) -> u64 {
        let parse = |text: &str| {
            let value = parse_size(text)?;
            if value < at_least {
                let least = format_size(at_least);
                return Err(format!("`{text}` is too small; at least {least}"));
            }
            Ok(value)
        };
        self.value(key, default, parse, |value| format_size(*value), found)
    }

    /// A size in each second; nothing, or `none`, is no limit.
    pub(super) fn rate(
        &mut self,
        key: &'static str,
        of: impl Fn(&str) -> Result<u64, String>,
        show: impl Fn(u64) -> String,
        found: &mut Findings,
    ) -> Option<u64> {
        let parse = |text: &str| match text {
            "none" => Ok(None),
            text => match of(text)? {
                0 => Err("0 would stop it; a number, or `none` for no limit".to_owned()),
                value => Ok(Some(value)),
            },
        };
        let show = |value: &Option<u64>| value.map_or("none".to_owned(), &show);
        self.value(key, None, parse, show, found)
    }

    pub(super) fn count(
        &mut self,
        key: &'static str,
        default: usize,
        at_least: usize,
        found: &mut Findings,
    ) -> usize {
        let parse = |text: &str| {
            let value = parse_count(text)?;
            usize::try_from(value)
                .ok()
                .filter(|value| *value >= at_least)
                .ok_or_else(|| format!("`{text}` is too small; at least {at_least}"))
        };
        self.value(key, default, parse, usize::to_string, found)
    }

    pub(super) fn flag(&mut self, key: &'static str, default: bool, found: &mut Findings) -> bool {
        let parse = |text: &str| match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" => Ok(true),
            "false" | "no" | "off" => Ok(false),
            _ => Err(format!(
                "`{text}` is neither true nor false; write `true` or `false`"
            )),
        };
        self.value(key, default, parse, bool::to_string, found)
    }

    pub(super) fn choice<T: Copy + Default + PartialEq>(
        &mut self,
        key: &'static str,
        words: &'static [(&'static str, T)],
        found: &mut Findings,
    ) -> T {
        let parse = |text: &str| {
            let chosen = words.iter().find(|(word, _)| *word == text);
            chosen.map(|(_, value)| *value).ok_or_else(|| {
                let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                let meant = nearest(text, &all)
                    .map_or(String::new(), |word| format!("did you mean `{word}`? "));
                format!("`{text}` is not known; {meant}one of {}", all.join(", "))
            })
        };
        let show = |value: &T| {
            let word = words.iter().find(|(_, other)| other == value);
            word.map_or(String::new(), |(word, _)| (*word).to_owned())
        };
        self.value(key, T::default(), parse, show, found)
    }

    pub(super) fn path(
        &mut self,
        key: &'static str,
        default: &str,
        found: &mut Findings,
    ) -> (PathBuf, Place) {
        let path = self.optional_path(key, Some(default), found);
        path.unwrap_or_else(|| (resolve(&found.instance, default), self.place))
    }

    pub(super) fn optional_path(
        &mut self,
        key: &'static str,
        default: Option<&str>,
        found: &mut Findings,
    ) -> Option<(PathBuf, Place)> {
        let place = self.node(key).map_or(self.place, |node| node.place);
        let instance = found.instance.clone();
        let default = default.map(|text| resolve(&instance, text));
        let parse = |text: &str| match text {
            "" => Err("the path is empty; a path, relative to the instance's folder".to_owned()),
            text => Ok(Some(resolve(&instance, text))),
        };
        let show = |path: &Option<PathBuf>| {
            let text = path.as_ref().map(|path| shown(&instance, path));
            text.unwrap_or_else(|| "-".into())
        };
        let path = self.value(key, default, parse, show, found);
        path.map(|path| (path, place))
    }

    /// A text that is not empty.
    pub(super) fn text(
        &mut self,
        key: &'static str,
        default: &str,
        found: &mut Findings,
    ) -> String {
        let parse = |text: &str| match text {
            "" => Err("it is empty; write a name".to_owned()),
            text => Ok(text.to_owned()),
        };
        self.value(key, default.to_owned(), parse, String::clone, found)
    }

    /// A text that `parse` understands; none where nothing is written.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
        show: impl FnOnce(&T) -> String,
        found: &mut Findings,
    ) -> Option<(T, Place)> {
        let place = self.node(key).map_or(self.place, |node| node.place);
        let show = |value: &Option<T>| value.as_ref().map_or("-".to_owned(), show);
        let value = self.value(key, None, |text| parse(text).map(Some), show, found);
        value.map(|value| (value, place))
    }

    /// Reports every key that nobody asked for.
    pub(super) fn end(self, found: &mut Findings) {
        for entry in self.entries {
            if self.asked.contains(&entry.key.as_str()) {
                continue;
            }
            let mend = nearest(&entry.key, &self.asked).map_or_else(
                || {
                    let mut known = self.asked.clone();
                    known.sort_unstable();
                    known.dedup();
                    format!("known are {}", known.join(", "))
                },
                |word| format!("did you mean `{word}`?"),
            );
            let of = subject(&self.name);
            found.mistake(entry.place, format!("{of} knows no `{}`", entry.key), mend);
        }
    }
}

/// A path as it is in the file, made absolute. Lexical: what does not exist yet has no other.
pub(super) fn resolve(instance: &Path, text: &str) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in instance.join(text).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                clean.pop();
            }
            part => clean.push(part),
        }
    }
    clean
}

/// A path as `show` prints it: relative to the instance where it is below it.
pub(super) fn shown(instance: &Path, path: &Path) -> String {
    let short = path.strip_prefix(instance).unwrap_or(path);
    short.display().to_string()
}

pub(super) fn parse_count(text: &str) -> Result<u64, String> {
    let digits = text.replace('_', "");
    digits
        .parse()
        .map_err(|_| format!("`{text}` is not a whole number; a number like 100"))
}

pub(super) fn origin(place: Place) -> Origin {
    match place {
        Place::At { line, .. } => Origin::Line(line),
        Place::Environment(variable) => Origin::Environment(variable),
    }
}

fn subject(name: &str) -> &str {
    if name.is_empty() {
        "the configuration"
    } else {
        name
    }
}

/// The word that was probably meant: at most a third of its letters apart.
fn nearest<'w>(text: &str, words: &[&'w str]) -> Option<&'w str> {
    let text = text.to_lowercase().replace('-', "_");
    let distance = |word: &&str| apart(&text, &word.to_lowercase().replace('-', "_"));
    let best = words.iter().min_by_key(|word| distance(word))?;
    (distance(best) <= best.len().div_ceil(3)).then_some(*best)
}

/// How many letters must be added, removed or changed (Levenshtein).
fn apart(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let change = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}
