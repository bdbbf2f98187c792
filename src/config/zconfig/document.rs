//! The configuration that is written: YAML with the origin of each value beside it.
//!
//! No serialiser of YAML writes comments, so the few shapes that a configuration has are written here;
//! how a text must be quoted is left to one.

use super::tree::Place;

/// A value.
#[derive(Debug, Clone)]
pub(super) enum Node {
    /// Already YAML.
    Plain(String),
    Map(Vec<Entry>),
    List(Vec<Item>),
}

#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) node: Node,
    pub(super) from: Vec<Place>,
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) node: Node,
    pub(super) from: Vec<Place>,
}

impl Node {
    /// A text, quoted where it must be.
    pub(super) fn text(text: &str) -> Node {
        let yaml = serde_yaml::to_string(text).unwrap_or_default();
        let yaml = yaml.trim_end_matches('\n');
        // A text of several lines would be written as several lines.
        if yaml.contains('\n') {
            Node::Plain(serde_json::Value::from(text).to_string())
        } else {
            Node::Plain(yaml.to_owned())
        }
    }
}

/// A map that is being filled.
#[derive(Debug, Default)]
pub(super) struct Map(Vec<Entry>);

impl Map {
    pub(super) fn put(&mut self, key: &str, node: Node, from: &[Place]) {
        self.0.push(Entry {
            key: key.to_owned(),
            node,
            from: from.to_vec(),
        });
    }

    pub(super) fn text(&mut self, key: &str, value: &str, from: &Place) {
        self.put(key, Node::text(value), std::slice::from_ref(from));
    }

    /// What needs no quotes.
    pub(super) fn plain(&mut self, key: &str, value: impl ToString, from: &Place) {
        self.put(
            key,
            Node::Plain(value.to_string()),
            std::slice::from_ref(from),
        );
    }

    /// Everything of another map, after what is here.
    pub(super) fn extend(&mut self, other: Map) {
        self.0.extend(other.0);
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.0.iter().any(|entry| entry.key == key)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn node(self) -> Node {
        Node::Map(self.0)
    }
}

/// Writes where something is from.
pub(super) type Named<'n> = &'n dyn Fn(&Place) -> String;

/// The whole file: comment lines first.
pub(super) fn render(head: &[String], map: Map, named: Named<'_>) -> String {
    let mut text = String::new();
    for line in head {
        text.push_str(if line.is_empty() { "#" } else { "# " });
        text.push_str(line);
        text.push('\n');
    }
    for entry in &map.0 {
        text.push('\n');
        entry_lines(entry, 0, "", named, &mut text);
    }
    text
}

/// `before` stands in the place of the indentation where this is the first of a list's item.
fn entry_lines(entry: &Entry, indent: usize, before: &str, named: Named<'_>, text: &mut String) {
    let start = if before.is_empty() {
        " ".repeat(indent)
    } else {
        before.to_owned()
    };
    let Node::Plain(key) = Node::text(&entry.key) else {
        return;
    };
    let comment = comment(&entry.from, named);
    match &entry.node {
        Node::Plain(value) => {
            text.push_str(&format!("{start}{key}: {value}{comment}\n"));
        }
        Node::Map(entries) => {
            text.push_str(&format!("{start}{key}:{comment}\n"));
            for entry in entries {
                entry_lines(entry, indent + 2, "", named, text);
            }
        }
        Node::List(items) => {
            text.push_str(&format!("{start}{key}:{comment}\n"));
            for item in items {
                item_lines(item, indent + 2, named, text);
            }
        }
    }
}

fn item_lines(item: &Item, indent: usize, named: Named<'_>, text: &mut String) {
    let dash = format!("{}- ", " ".repeat(indent));
    match &item.node {
        Node::Plain(value) => {
            let comment = comment(&item.from, named);
            text.push_str(&format!("{dash}{value}{comment}\n"));
        }
        Node::Map(entries) => {
            for (index, entry) in entries.iter().enumerate() {
                let before = if index == 0 { dash.as_str() } else { "" };
                entry_lines(entry, indent + 2, before, named, text);
            }
        }
        // No list of lists is written.
        Node::List(_) => {}
    }
}

fn comment(from: &[Place], named: Named<'_>) -> String {
    if from.is_empty() {
        return String::new();
    }
    let places: Vec<String> = from.iter().map(|place| one_line(&named(place))).collect();
    format!("  # {}", places.join(", "))
}

/// Names of files may hold anything; a comment ends with its line, and holds what YAML may.
pub(super) fn one_line(text: &str) -> String {
    let plain = |c: char| if is_odd(c) { ' ' } else { c };
    text.chars().map(plain).collect()
}

/// What ends a line for some, or may not stand in YAML at all. Source: YAML 1.2.2, 5.1.
fn is_odd(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'
        )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_shape_is_written_with_its_origin() {
        let place = |line| Place {
            file: Path::new("zeo.conf").into(),
            line,
        };
        let mut tls = Map::default();
        tls.text("key", "etc/k: #1", &place(4));
        let mut listen = Map::default();
        listen.text("address", "[::1]:8100", &place(3));
        listen.put("tls", tls.node(), &[place(3)]);
        let items = vec![
            Item {
                node: listen.node(),
                from: vec![],
            },
            Item {
                node: Node::text("0.0.0.0:1"),
                from: vec![place(2)],
            },
        ];
        let mut map = Map::default();
        map.put("listen", Node::List(items), &[]);
        map.plain("read_only", true, &place(9));
        let mut arrays = Map::default();
        arrays.text("1", "a\nb\u{feff}\u{85}", &place(10));
        map.put("arrays", arrays.node(), &[place(10), place(11)]);
        insta::assert_snapshot!(render(&["Made.".into(), String::new()], map, &Place::to_string), @r##"
        # Made.
        #

        listen:
          - address: '[::1]:8100'  # zeo.conf:3
            tls:  # zeo.conf:3
              key: 'etc/k: #1'  # zeo.conf:4
          - 0.0.0.0:1  # zeo.conf:2

        read_only: true  # zeo.conf:9

        arrays:  # zeo.conf:10, zeo.conf:11
          '1': "a\nb\uFEFF\N"  # zeo.conf:10
        "##);
    }
}
