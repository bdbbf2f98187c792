//! YAML as a tree of nodes that know where they are written.
//!
//! Made from the parser's events instead of a ready map, because a map forgets: keys that are written
//! twice must all be seen, so that each can be reported with its line together with every other
//! mistake. Scalars stay texts; what they mean is decided by who reads them (`section`), which knows
//! what it expects. Anchors and aliases are refused: a configuration is written out, and what is
//! refused cannot become a bomb.

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};

use super::mistake::Mistake;

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// Where a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Both counted from 1.
    At {
        line: usize,
        column: usize,
    },
    Environment(&'static str),
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    /// Nothing, or `null`.
    Nothing,
    Scalar(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) node: Node,
}

/// Deeper than this nothing in a configuration is.
const DEEPEST: usize = 16;

/// The tree, and the mistakes in the YAML itself. An empty file is an empty map.
pub(super) fn read(text: &str) -> (Node, Vec<Mistake>) {
    let empty = Node {
        place: Place::At { line: 1, column: 1 },
        value: Value::Map(Vec::new()),
    };
    match Builder::default().build(text) {
        Ok(root) => (root.unwrap_or(empty), Vec::new()),
        Err(mistake) => (empty, vec![mistake]),
    }
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    root: Option<Node>,
}

/// A list or a map that is not at its end.
struct Open {
    place: Place,
    value: Unfinished,
}

enum Unfinished {
    List(Vec<Node>),
    Map(Vec<Entry>, Option<(String, Place)>),
}

impl Builder {
    fn build(mut self, text: &str) -> Result<Option<Node>, Mistake> {
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|error| {
                let (line, column) = numbers(error.marker());
                Mistake::at(
                    line,
                    column,
                    format!("this is not YAML: {}", error.info()),
                    "look at the indentation, and quote texts with `:` or `#` in them",
                )
            })?;
            let (line, column) = numbers(&span.start);
            let place = Place::At { line, column };
            let refuse = |what: &str, mend: &str| Err(Mistake::at(line, column, what, mend));
            match event {
                Event::SequenceStart(..) | Event::MappingStart(..)
                    if self.open.len() >= DEEPEST =>
                {
                    return refuse("this is nested too deeply", "look at the indentation");
                }
                Event::SequenceStart(..) => self.open.push(Open {
                    place,
                    value: Unfinished::List(Vec::new()),
                }),
                Event::MappingStart(..) => self.open.push(Open {
                    place,
                    value: Unfinished::Map(Vec::new(), None),
                }),
                Event::SequenceEnd | Event::MappingEnd => {
                    let open = self.open.pop().expect("the parser pairs starts and ends");
                    let value = match open.value {
                        Unfinished::List(nodes) => Value::List(nodes),
                        Unfinished::Map(entries, _) => Value::Map(entries),
                    };
                    let place = open.place;
                    self.add(Node { place, value })?;
                }
                Event::Scalar(text, style, ..) => {
                    let nothing = style == ScalarStyle::Plain
                        && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                    let value = if nothing {
                        Value::Nothing
                    } else {
                        Value::Scalar(text.into_owned())
                    };
                    self.add(Node { place, value })?;
                }
                Event::Alias(_) => {
                    return refuse("aliases (`*name`) are not supported", "write the value out");
                }
                Event::DocumentStart(_) if self.root.is_some() => {
                    return refuse("a second document begins here", "remove the line `---`");
                }
                Event::DocumentStart(_)
                | Event::DocumentEnd
                | Event::StreamStart
                | Event::StreamEnd
                | Event::Nothing => {}
            }
        }
        Ok(self.root)
    }

    fn add(&mut self, node: Node) -> Result<(), Mistake> {
        match self.open.last_mut().map(|open| &mut open.value) {
            None => self.root = Some(node),
            Some(Unfinished::List(nodes)) => nodes.push(node),
            Some(Unfinished::Map(entries, key)) => {
                if let Some((key, place)) = key.take() {
                    entries.push(Entry { key, place, node });
                } else {
                    let place = node.place;
                    let Value::Scalar(text) = node.value else {
                        let (line, column) = place.numbers();
                        let mend = "write `key: value`";
                        return Err(Mistake::at(line, column, "a key must be a word", mend));
                    };
                    *key = Some((text, place));
                }
            }
        }
        Ok(())
    }
}

impl Place {
    /// Line and column; zeros where it is in no file.
    pub(super) fn numbers(self) -> (usize, usize) {
        match self {
            Place::At { line, column } => (line, column),
            Place::Environment(_) => (0, 0),
        }
    }
}

fn numbers(marker: &Marker) -> (usize, usize) {
    (marker.line(), marker.col() + 1)
}

/// The line on which something begins: keys of maps and indexes of lists lead to it. None where the
/// text holds no such thing. For recipes, whose mistakes name their line as well.
pub(crate) fn line_of(text: &str, path: &[&str]) -> Option<usize> {
    let (mut node, _) = read(text);
    let mut line = None;
    for step in path {
        let place;
        (place, node) = match node.value {
            Value::Map(entries) => {
                let entry = entries.into_iter().find(|entry| entry.key == *step)?;
                (entry.place, entry.node)
            }
            Value::List(items) => {
                let item = items.into_iter().nth(step.parse().ok()?)?;
                (item.place, item)
            }
            Value::Nothing | Value::Scalar(_) => return None,
        };
        line = Some(place.numbers().0);
    }
    line
}
