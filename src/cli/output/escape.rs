//! Text from outside, made harmless before a terminal sees it.
//!
//! Names, reasons, descriptions of transactions and lines of logs come from clients and other servers.
//! What could move the cursor, change colours or reorder what a person reads is shown as an escape
//! instead: control characters (C0, DEL, C1) and the characters that set the direction of text.

use std::borrow::Cow;

/// The text with everything that a terminal would obey written out, line ends included.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_dangerous) {
        return Cow::Borrowed(text);
    }
    let escaped = text.chars().map(|c| match c {
        '\n' => Cow::Borrowed("\\n"),
        '\t' => Cow::Borrowed("\\t"),
        '\r' => Cow::Borrowed("\\r"),
        c if is_dangerous(c) => Cow::Owned(format!("\\u{{{:x}}}", u32::from(c))),
        c => Cow::Owned(c.to_string()),
    });
    Cow::Owned(escaped.collect())
}

/// JSON with the same characters as `\uXXXX`: still the same JSON.
pub(super) fn escape_json(json: &str) -> Cow<'_, str> {
    let dangerous = |c: char| is_dangerous(c) && c != '\n';
    if !json.chars().any(dangerous) {
        return Cow::Borrowed(json);
    }
    let escaped = json.chars().map(|c| {
        if dangerous(c) {
            format!("\\u{:04x}", u32::from(c))
        } else {
            c.to_string()
        }
    });
    Cow::Owned(escaped.collect())
}

/// Whether a text of several lines holds nothing that a terminal would obey.
pub(super) fn is_harmless(text: &str) -> bool {
    !text.chars().any(|c| is_dangerous(c) && c != '\n')
}

fn is_dangerous(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}')
        || ('\u{202a}'..='\u{202e}').contains(&c)
        || ('\u{2066}'..='\u{2069}').contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_written_out() {
        for (text, expected) in [
            ("über 日本", "über 日本"),
            ("a\u{1b}[2Jb", "a\\u{1b}[2Jb"),
            ("a\u{9b}2Jb", "a\\u{9b}2Jb"),
            ("line\r\nnext\tx", "line\\r\\nnext\\tx"),
            ("a\u{202e}b", "a\\u{202e}b"),
        ] {
            assert_eq!(escape(text), expected);
        }
    }

    #[test]
    fn json_stays_the_same_json() {
        let value = serde_json::json!({"a": "x\u{1b}\u{9b}\u{202e}y\n"});
        let json = serde_json::to_string_pretty(&value).unwrap();
        let escaped = escape_json(&json);
        assert!(!escaped.contains('\u{9b}') && escaped.contains("\\u009b"));
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&escaped).unwrap(),
            value
        );
    }
}
