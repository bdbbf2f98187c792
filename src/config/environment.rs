//! Variables of the environment that take the place of what the file says, for containers.

use super::Environment;
use super::mistake::Mistake;
use super::read::{Entry, Node, Place, Value};

/// Each variable, and the key whose value it is. A list is separated by blanks or commas.
const VARIABLES: &[(&str, &[&str], bool)] = &[
    ("ZEORAID_LISTEN", &["listen"], true),
    ("ZEORAID_ADMIN_ADDRESS", &["admin", "address"], false),
    ("ZEORAID_ADMIN_TOKEN_FILE", &["admin", "token_file"], false),
    ("ZEORAID_LOG_LEVEL", &["log", "level"], false),
    ("ZEORAID_LOG_TARGET", &["log", "target"], false),
    ("ZEORAID_LOG_FORMAT", &["log", "format"], false),
];

/// Puts what the environment says into the tree. An empty variable is none. What must not be replaced
/// like that is a mistake.
pub(super) fn overlay(root: &mut Node, environment: Environment<'_>) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
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
        if let Some((line, column)) = tls_below(root, path) {
            mistakes.push(Mistake::at(
                line,
                column,
                format!("${variable} would take the place of addresses with `tls`, and has none"),
                format!("unset {variable}, or remove `tls` here"),
            ));
        }
        put(root, path, node);
    }
    mistakes
}

/// Where `tls` is said in the list at a path.
fn tls_below(root: &Node, path: &[&str]) -> Option<(usize, usize)> {
    let find = |node: &Node, key: &str| -> Option<Node> {
        let Value::Map(entries) = &node.value else {
            return None;
        };
        let found = entries.iter().find(|entry| entry.key == key);
        found.map(|entry| entry.node.clone())
    };
    let node = path
        .iter()
        .try_fold(root.clone(), |node, key| find(&node, key))?;
    let items = match &node.value {
        Value::List(items) => items.as_slice(),
        _ => std::slice::from_ref(&node),
    };
    let tls = items.iter().find_map(|item| find(item, "tls"))?;
    Some(tls.place.numbers())
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
