//! Variables of the environment that take the place of what the file says, for containers.

use super::Environment;
use super::read::{Entry, Node, Place, Value};

/// Each variable, and the key whose value it is. A list is separated by blanks or commas.
const VARIABLES: &[(&str, &[&str], bool)] = &[
    ("ZEORAID_LISTEN", &["listen"], true),
    ("ZEORAID_ADMIN_ADDRESS", &["admin", "address"], false),
    ("ZEORAID_ADMIN_TOKEN_FILE", &["admin", "token_file"], false),
    ("ZEORAID_LOG_LEVEL", &["log", "level"], false),
    ("ZEORAID_LOG_FORMAT", &["log", "format"], false),
];

/// Puts what the environment says into the tree. An empty variable is none.
pub(super) fn overlay(root: &mut Node, environment: Environment<'_>) {
    for (variable, path, is_list) in VARIABLES {
        let Some(text) = environment(variable).filter(|text| !text.trim().is_empty()) else {
            continue;
        };
        let place = Place::Environment(variable);
        let scalar = |text: &str| Node {
            place,
            value: Value::Scalar(text.to_owned()),
        };
        let node = if *is_list {
            let words = text.split([' ', ',', '\n', '\t']);
            let words = words.filter(|word| !word.is_empty());
            Node {
                place,
                value: Value::List(words.map(scalar).collect()),
            }
        } else {
            scalar(text.trim())
        };
        put(root, path, node);
    }
}

/// Where something on the way is not a map, the file has a mistake which `check` reports.
fn put(at: &mut Node, path: &[&str], node: Node) {
    let [key, rest @ ..] = path else {
        *at = node;
        return;
    };
    if matches!(at.value, Value::Nothing) {
        at.value = Value::Map(Vec::new());
    }
    let Value::Map(entries) = &mut at.value else {
        return;
    };
    let place = node.place;
    let index = entries.iter().position(|entry| entry.key == *key);
    let index = index.unwrap_or_else(|| {
        entries.push(Entry {
            key: (*key).to_owned(),
            place,
            node: Node {
                place,
                value: Value::Nothing,
            },
        });
        entries.len() - 1
    });
    put(&mut entries[index].node, rest, node);
}
