//! A buildout's file: sections of options, as `zc.buildout` reads them.
//!
//! ```text
//! [section]
//! option = value
//!     more of the value, indented
//! option += more
//! option -= less
//! <= other          the options of another section
//! ```
//!
//! `extends` of `[buildout]` names files that are read before; those that cannot be read here (addresses
//! in the net) are remembered, for who misses something.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::Mistake;
use crate::config::zconfig::include::{Line, Source};

/// An option's lines, each with its place.
#[derive(Debug, Clone)]
pub(super) struct Value {
    pub(super) lines: Vec<Line>,
}

#[derive(Debug, Default)]
pub(super) struct Ini {
    /// In the order in which they are first named.
    pub(super) sections: Vec<(String, Vec<(String, Value)>)>,
    /// What `extends` named and could not be read.
    pub(super) unread: Vec<String>,
}

/// Files that extend one another deeper than this go in circles.
const DEEPEST: usize = 16;

impl Value {
    /// The value as one text.
    pub(super) fn text(&self) -> String {
        let lines: Vec<&str> = self
            .lines
            .iter()
            .map(|line| line.text.as_deref().unwrap_or(""))
            .collect();
        lines.join("\n").trim().to_owned()
    }
}

impl Ini {
    /// Reads a file and what it extends.
    pub(super) fn read(source: &Source) -> (Ini, Vec<Mistake>) {
        let mut ini = Ini::default();
        let mut mistakes = Vec::new();
        ini.add(source, &mut vec![source.file.to_path_buf()], &mut mistakes);
        (ini, mistakes)
    }

    pub(super) fn option(&self, section: &str, option: &str) -> Option<&Value> {
        self.own_option(section, option, 0)
    }

    /// Of the section itself, else of those that it takes options from.
    fn own_option(&self, section: &str, option: &str, depth: usize) -> Option<&Value> {
        let (_, options) = self.sections.iter().find(|(name, _)| name == section)?;
        let find = |wanted: &str| {
            options
                .iter()
                .find(|(name, _)| name == wanted)
                .map(|(_, value)| value)
        };
        if let Some(value) = find(option) {
            return Some(value);
        }
        let from = find("<").filter(|_| depth < DEEPEST)?.text();
        from.split_whitespace()
            .rev()
            .find_map(|from| self.own_option(from, option, depth + 1))
    }

    fn add(&mut self, source: &Source, inside: &mut Vec<PathBuf>, mistakes: &mut Vec<Mistake>) {
        let own = sections(source, mistakes);
        let extends = own.iter().find(|(name, _)| name == "buildout");
        let extends =
            extends.and_then(|(_, options)| options.iter().find(|(name, ..)| name == "extends"));
        if let Some((_, _, value)) = extends {
            for name in value.text().split_whitespace() {
                self.extend(name, &source.folder, inside, mistakes);
            }
        }
        for (name, options) in own {
            let index = self.sections.iter().position(|(known, _)| *known == name);
            let index = index.unwrap_or_else(|| {
                self.sections.push((name.clone(), Vec::new()));
                self.sections.len() - 1
            });
            for (option, operation, value) in options {
                set(&mut self.sections[index].1, &option, operation, value);
            }
        }
    }

    fn extend(
        &mut self,
        name: &str,
        folder: &Path,
        inside: &mut Vec<PathBuf>,
        mistakes: &mut Vec<Mistake>,
    ) {
        let path = folder.join(name);
        let readable = !name.contains("://") && inside.len() < DEEPEST && !inside.contains(&path);
        let source = readable.then(|| Source::read(&path).ok()).flatten();
        let Some(source) = source else {
            self.unread.push(name.to_owned());
            return;
        };
        inside.push(path);
        self.add(&source, inside, mistakes);
        inside.pop();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Set,
    Add,
    Remove,
}

type Options = Vec<(String, Operation, Value)>;

fn set(options: &mut Vec<(String, Value)>, name: &str, operation: Operation, value: Value) {
    let Some((_, known)) = options.iter_mut().find(|(known, _)| known == name) else {
        if operation != Operation::Remove {
            options.push((name.to_owned(), value));
        }
        return;
    };
    match operation {
        Operation::Set => *known = value,
        Operation::Add => known.lines.extend(value.lines),
        Operation::Remove => {
            let gone = |line: &Line| {
                value
                    .lines
                    .iter()
                    .any(|other| trimmed(other) == trimmed(line))
            };
            known.lines.retain(|line| !gone(line));
        }
    }
}

fn trimmed(line: &Line) -> &str {
    line.text.as_deref().unwrap_or("").trim()
}

/// One file alone.
fn sections(source: &Source, mistakes: &mut Vec<Mistake>) -> Vec<(String, Options)> {
    let mut sections: Vec<(String, Options)> = Vec::new();
    for line in &source.lines {
        let mut wrong = |what: String, mend: &str| {
            let mut mistake = Mistake::at(line.number, 1, what, mend);
            mistake.file = line.file.to_path_buf();
            mistakes.push(mistake);
        };
        let Some(text) = &line.text else {
            wrong("this line is not UTF-8".into(), "save the file as UTF-8");
            continue;
        };
        let stripped = text.trim();
        if text.starts_with(['#', ';']) || (stripped.is_empty()) {
            continue;
        }
        let part = |text: &str| Line {
            file: Arc::clone(&line.file),
            number: line.number,
            text: Some(text.to_owned()),
        };
        if text.starts_with(char::is_whitespace) {
            let open = sections
                .last_mut()
                .and_then(|(_, options)| options.last_mut());
            match open {
                Some((_, _, value)) => value.lines.push(part(stripped)),
                None => wrong(
                    format!("`{stripped}` belongs to no option"),
                    "write `[section]` and `option = value`",
                ),
            }
            continue;
        }
        if let Some(header) = stripped.strip_prefix('[') {
            match header.split_once(']') {
                // After a colon stands for which machines the section is.
                Some((name, _)) => {
                    let name = name.split(':').next().unwrap_or_default().trim();
                    sections.push((name.to_owned(), Vec::new()));
                }
                None => wrong(format!("`{stripped}` has no `]`"), "write `[section]`"),
            }
            continue;
        }
        let (option, value) = stripped.split_once('=').unwrap_or((stripped, ""));
        let (name, operation) = match option.trim_end() {
            name if name.ends_with('+') => (name.trim_end_matches('+'), Operation::Add),
            name if name.ends_with('-') => (name.trim_end_matches('-'), Operation::Remove),
            name => (name, Operation::Set),
        };
        let is_option = stripped.contains('=')
            && !name.trim().contains(char::is_whitespace)
            && !name.trim().is_empty();
        match sections.last_mut() {
            Some((_, options)) if is_option => {
                let lines = if value.trim().is_empty() {
                    Vec::new()
                } else {
                    vec![part(value.trim())]
                };
                options.push((name.trim().to_owned(), operation, Value { lines }));
            }
            _ => wrong(
                format!("`{stripped}` is no option of a section"),
                "write `option = value`, below `[section]`",
            ),
        }
    }
    sections
}
