//! What is looked for in an undo log.
//!
//! A specification is compared with what a transaction says of itself: its user, description, size,
//! time, id, and what the application put into its extension. Every storage compares here, also one
//! whose server could: the specification is a stranger's value, and a server that cannot read it hangs
//! up. Source: ZODB, `FileStorage.undoLog`, `UndoSearch`, and `UndoLogCompatible.undoInfo`.
//!
//! Python compares byte strings with texts and finds them different. Users and descriptions have been
//! byte strings since Python 3, specifications come as either: here a text is the same as its bytes in
//! UTF-8.

use super::Undoable;
use super::lines::Lines;
use crate::pickle::{self, Limits, Value};
use crate::zodb::Answer;

/// What is looked for, and what was found of it.
pub(super) struct UndoSearch {
    first: i64,
    last: i64,
    wanted: Vec<(Value, Value)>,
    /// How many that agree were met.
    number: i64,
    found: Vec<Undoable>,
    lines: Lines,
}

impl UndoSearch {
    /// See [`Storage::undo_info`](super::Storage::undo_info).
    pub(super) fn new(first: i64, last: i64, specification: &Value) -> Self {
        let last = if last < 0 {
            // So many at most, from the first on.
            first.saturating_sub(last)
        } else {
            last
        };
        let wanted = match specification {
            Value::Dict(entries) => entries.clone(),
            _ => Vec::new(),
        };
        UndoSearch {
            first,
            last,
            wanted,
            number: 0,
            found: Vec::new(),
            lines: Lines::default(),
        }
    }

    /// How many more have to be met at least; none where what was found is too much already.
    pub(super) fn missing(&self) -> usize {
        if self.lines.are_too_many() {
            return 0;
        }
        usize::try_from(self.last.saturating_sub(self.number)).unwrap_or_default()
    }

    /// Whether everything that is met counts.
    pub(super) fn takes_all(&self) -> bool {
        self.wanted.is_empty()
    }

    /// The next transaction that can be undone, from the newest on.
    pub(super) fn meet(&mut self, txn: Undoable) {
        if self.missing() > 0 && self.agrees(&txn) {
            if self.number >= self.first {
                self.lines
                    .add([&txn.user, &txn.description, &txn.extension]);
                self.found.push(txn);
            }
            self.number += 1;
        }
    }

    /// # Errors
    /// It is more than one answer may be.
    pub(super) fn found(self) -> Result<Vec<Undoable>, Answer> {
        self.lines.check()?;
        Ok(self.found)
    }

    fn agrees(&self, txn: &Undoable) -> bool {
        if self.wanted.is_empty() {
            return true;
        }
        // What cannot be read says nothing.
        let extension = if txn.extension.is_empty() {
            Value::None
        } else {
            pickle::read(&txn.extension, Limits::TRUSTED).unwrap_or(Value::None)
        };
        self.wanted.iter().all(|(key, wanted)| {
            let key = key.as_text().unwrap_or_default();
            let said = match extension.get(key) {
                Some(said) => said.clone(),
                None => said_by(txn, key),
            };
            same(wanted, &said)
        })
    }
}

fn said_by(txn: &Undoable, key: &str) -> Value {
    match key {
        "id" => Value::Bytes(crate::wire::undo_id(txn.tid).to_vec().into()),
        "time" => txn.tid.time().map_or(Value::None, |time| {
            Value::Float(time.as_microsecond() as f64 / 1e6)
        }),
        "user_name" => Value::Bytes(txn.user.clone()),
        "description" => Value::Bytes(txn.description.clone()),
        "size" => match txn.size.and_then(|size| i64::try_from(size).ok()) {
            Some(size) => Value::Int(size),
            None => Value::None,
        },
        _ => Value::None,
    }
}

/// Whether what a transaction says is what is wanted.
fn same(wanted: &Value, said: &Value) -> bool {
    if let Some(prefix) = prefix_of(wanted) {
        return said.as_text().is_some_and(|path| has_prefix(path, &prefix));
    }
    match (wanted.as_octets(), said.as_octets()) {
        (Some(wanted), Some(said)) => return wanted == said,
        (None, None) => {}
        _ => return false,
    }
    // As in Python, where `True` is 1.
    if let (Some(wanted), Some(said)) = (wanted.as_int(), said.as_int()) {
        return wanted == said;
    }
    match (wanted, said) {
        (Value::Float(wanted), Value::Int(said)) => wanted.total_cmp(&(*said as f64)).is_eq(),
        (Value::Int(wanted), Value::Float(said)) => said.total_cmp(&(*wanted as f64)).is_eq(),
        _ => wanted == said,
    }
}

/// The elements of a `ZopeUndo.Prefix`.
fn prefix_of(value: &Value) -> Option<Vec<&str>> {
    let Value::Object {
        module,
        name,
        state,
        ..
    } = value
    else {
        return None;
    };
    if (module.as_str(), name.as_str()) != ("ZopeUndo.Prefix", "Prefix") {
        return None;
    }
    let path = state.as_ref()?.get("path")?;
    path.as_items()?.iter().map(Value::as_text).collect()
}

/// Whether a path begins with these elements; a user's name after its last element does not count.
fn has_prefix(path: &str, prefix: &[&str]) -> bool {
    let mut elements: Vec<&str> = path.split('/').collect();
    if let Some(last) = elements.last_mut()
        && let Some((before, _)) = last.rsplit_once(' ')
    {
        *last = before;
    }
    elements.starts_with(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(path: &str) -> Value {
        let elements = path.split('/').map(|one| Value::Text(one.to_owned()));
        let elements: Vec<Value> = elements.collect();
        let text = |text: &str| Value::Text(text.to_owned());
        let state = Value::Dict(vec![
            (
                text("length"),
                Value::Int(i64::try_from(elements.len()).unwrap()),
            ),
            (text("path"), Value::List(elements)),
        ]);
        Value::Object {
            module: "ZopeUndo.Prefix".to_owned(),
            name: "Prefix".to_owned(),
            arguments: Vec::new(),
            state: Some(Box::new(state)),
        }
    }

    #[test]
    fn a_prefix_is_of_whole_elements_and_knows_no_user() {
        let said = |path: &'static str| Value::Bytes(path.as_bytes().into());
        assert!(same(&prefix("/a/b"), &said("/a/b/c somebody")));
        assert!(same(&prefix("/a/b"), &said("/a/b somebody")));
        assert!(same(&prefix("/a/b"), &said("/a/b")));
        assert!(!same(&prefix("/a/b"), &said("/a/bc somebody")));
        assert!(!same(&prefix("/a/b"), &said("/a somebody")));
        assert!(!same(&prefix("/a/b"), &Value::None));
    }

    #[test]
    fn a_text_is_the_same_as_its_bytes() {
        let text = Value::Text("ümlaut".to_owned());
        assert!(same(&text, &Value::Bytes("ümlaut".into())));
        assert!(!same(&text, &Value::None));
        assert!(same(&Value::Float(3.0), &Value::Int(3)));
        assert!(same(&Value::Bool(true), &Value::Int(1)));
        assert!(same(&Value::None, &Value::None));
    }

    #[test]
    fn more_than_one_answer_may_be_is_an_error() {
        let line = |number: u64| Undoable {
            tid: crate::zodb::Tid(number),
            user: bytes::Bytes::new(),
            description: bytes::Bytes::from(vec![b'x'; 60_000]),
            extension: bytes::Bytes::new(),
            size: None,
        };
        let mut search = UndoSearch::new(0, 5000, &Value::None);
        let mut met = 0;
        while search.missing() > 0 {
            met += 1;
            search.meet(line(met));
        }
        assert!(met < 1200, "{met}");
        let error = search.found().unwrap_err().to_string();
        assert!(error.contains("ask for fewer"), "{error}");
        // A page of it is none.
        let mut search = UndoSearch::new(0, 1000, &Value::None);
        (1..=1000).for_each(|number| search.meet(line(number)));
        assert_eq!(search.found().unwrap().len(), 1000);
    }
}
