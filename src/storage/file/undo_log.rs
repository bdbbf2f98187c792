//! The list of transactions that can be undone.
//!
//! Newest first, down to the first that was packed. A specification is compared with what a transaction
//! says of itself: its user, description, size, time, id, and what the application put into its
//! extension. Source: ZODB, `FileStorage.undoLog`, `UndoSearch`, and `UndoLogCompatible.undoInfo`.
//!
//! Python compares byte strings with texts and finds them different. Users and descriptions have been
//! byte strings since Python 3, specifications come as either: here a text is the same as its bytes in
//! UTF-8.

use super::history::Walk;
use crate::pickle::{self, Limits, Value};
use crate::storage::{Fault, Undoable};
use crate::zodb::TxnStatus;

/// As in [`super::undo`]: nothing is looked for before here.
const FIRST_FOUND: u64 = 39;

/// What is looked for.
pub(super) struct Search {
    first: i64,
    last: i64,
    wanted: Vec<(Value, Value)>,
}

impl Search {
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
        Search {
            first,
            last,
            wanted,
        }
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

impl Walk {
    /// The transactions that can be undone. Waits for the disk.
    pub(super) fn undo_info(&self, search: Search) -> Result<Vec<Undoable>, Fault> {
        let mut found = Vec::new();
        let mut number: i64 = 0;
        if search.last <= 0 || self.end < FIRST_FOUND {
            return Ok(found);
        }
        for step in self.backwards() {
            let (begin, header) = step?;
            match header.txn_status() {
                Some(TxnStatus::Packed) => break,
                Some(TxnStatus::Normal) => {
                    let [user, description, extension] = self.texts(begin, &header)?;
                    let txn = Undoable {
                        tid: header.tid,
                        user,
                        description,
                        extension,
                        size: Some(header.len),
                    };
                    if search.agrees(&txn) {
                        if number >= search.first {
                            found.push(txn);
                        }
                        number += 1;
                    }
                }
                _ => {}
            }
            if number >= search.last || begin < FIRST_FOUND {
                break;
            }
        }
        Ok(found)
    }
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
        assert!(same(&Value::None, &Value::None));
    }
}
