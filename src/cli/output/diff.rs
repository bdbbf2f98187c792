//! What would change in a file, line by line.

use std::fmt::Write as _;

use similar::TextDiff;

use super::escape;
use super::style::{Paint, Style};

/// The unified diff of two texts; nothing where they are the same. A text that is not there yet, or will not
/// be any more, has no name.
pub fn unified(
    (from, old): (Option<&str>, &str),
    (to, new): (Option<&str>, &str),
    style: Style,
) -> String {
    if old == new {
        return String::new();
    }
    let named = |side: &str, name: Option<&str>| match name {
        Some(name) => format!("{side}/{name}"),
        None => "/dev/null".to_owned(),
    };
    let diff = TextDiff::from_lines(old, new);
    let text = diff
        .unified_diff()
        .header(&named("a", from), &named("b", to))
        .to_string();
    let mut painted = String::with_capacity(text.len());
    for line in text.lines() {
        let paint = match line.as_bytes().first() {
            Some(b'+') => Some(Paint::Good),
            Some(b'-') => Some(Paint::Bad),
            Some(b'@') => Some(Paint::Faint),
            _ => None,
        };
        let line = escape(line);
        let line = match paint {
            Some(paint) => style.paint(paint, &line),
            None => line.into_owned(),
        };
        writeln!(painted, "{line}").expect("writing to a string does not fail");
    }
    painted
}
