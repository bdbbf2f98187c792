//! Reads a section of the old file key by key, and says what nobody asked for.

use super::notes::Findings;
use super::tree::{Key, Place, Section};

pub(super) struct Reader<'a> {
    pub(super) section: &'a Section,
    asked: Vec<&'static str>,
    asked_sections: Vec<&'static str>,
}

/// What is said of a key that is not carried over: its name, whether something must be done, and what.
pub(super) type Left = (&'static str, Fate, &'static str);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    ToDo,
    Known,
}

impl<'a> Reader<'a> {
    pub(super) fn new(section: &'a Section) -> Self {
        Reader {
            section,
            asked: Vec::new(),
            asked_sections: Vec::new(),
        }
    }

    /// A key that may be there once. Without a value it is as if it were not there.
    pub(super) fn one(&mut self, name: &'static str, found: &mut Findings) -> Option<&'a Key> {
        let all = self.all(name);
        if let [first, second, ..] = all.as_slice() {
            let line = first.place.line;
            found.mistake(
                &second.place,
                format!(
                    "{} has a second `{name}`; the first is in line {line}",
                    self.section.title()
                ),
                "remove one of them",
            );
        }
        all.first().copied().filter(|key| !key.value.is_empty())
    }

    /// A key that may be there more than once.
    pub(super) fn all(&mut self, name: &'static str) -> Vec<&'a Key> {
        self.asked.push(name);
        let keys = self.section.keys.iter();
        keys.filter(|key| key.name == name).collect()
    }

    /// A key's value, as one of ZConfig's types.
    pub(super) fn value<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&str) -> Result<T, String>,
        found: &mut Findings,
    ) -> Option<(T, &'a Place)> {
        let key = self.one(name, found)?;
        match read(&key.value) {
            Ok(value) => Some((value, &key.place)),
            Err(what) => {
                let (what, mend) = what.split_once("; ").unwrap_or((&what, ""));
                found.mistake(&key.place, format!("{name}: {what}"), mend);
                None
            }
        }
    }

    /// The sections of a type.
    pub(super) fn sections(&mut self, kind: &'static str) -> Vec<&'a Section> {
        self.asked_sections.push(kind);
        let sections = self.section.sections.iter();
        sections.filter(|section| section.kind == kind).collect()
    }

    /// The only section of a type.
    pub(super) fn one_section(
        &mut self,
        kind: &'static str,
        found: &mut Findings,
    ) -> Option<&'a Section> {
        let all = self.sections(kind);
        if let [first, second, ..] = all.as_slice() {
            let line = first.place.line;
            found.mistake(
                &second.place,
                format!("a second {}; the first is in line {line}", second.title()),
                "remove one of them",
            );
        }
        all.first().copied()
    }

    /// A key as it is named in notes. No password is.
    fn said(&self, key: &Key) -> String {
        let value = if key.name.contains("passw") {
            "…"
        } else {
            &key.value
        };
        format!("`{} {value}` in <{}>", key.name, self.section.kind)
    }

    /// Says of keys that are known and have no place here what becomes of them.
    pub(super) fn left(&mut self, all: &[Left], found: &mut Findings) {
        for (name, fate, why) in all {
            for key in self.all(name) {
                let what = self.said(key);
                match fate {
                    Fate::ToDo => found.must_do(&key.place, what, *why),
                    Fate::Known => found.known(&key.place, what, *why),
                }
            }
        }
    }

    /// Says of every key that was not asked for that it is not known. What the sections are, somebody else
    /// knows.
    pub(super) fn end_of_keys(self, found: &mut Findings) {
        for key in &self.section.keys {
            if !self.asked.contains(&key.name.as_str()) {
                found.unknown(&key.place, self.said(key));
            }
        }
    }

    /// Says of everything that was not asked for that it is not known.
    pub(super) fn end(self, found: &mut Findings) {
        for section in &self.section.sections {
            if !self.asked_sections.contains(&section.kind.as_str()) {
                found.unknown(
                    &section.place,
                    format!("{} in <{}>", section.title(), self.section.kind),
                );
            }
        }
        self.end_of_keys(found);
    }
}
