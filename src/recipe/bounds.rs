//! How much a template may be and make.
//!
//! A template is read and rendered by functions that call themselves for what is nested, and a value may
//! name another several times, which may name another: without limits a few lines overflow the stack, or
//! fill the memory. No recipe that does anything comes near these.

use std::io;

/// Blocks, and expressions in expressions, within each other.
const DEEPEST: usize = 64;

/// A value: a path, a list of addresses.
pub(super) const VALUE: usize = 64 << 10;

/// A file.
pub(super) const FILE: usize = 4 << 20;

/// All files of a recipe.
pub(super) const FILES: usize = 64 << 20;

/// The line on which a template is nested too deeply.
pub(super) fn too_deep(template: &str) -> Option<usize> {
    // Of each open block 1, and 1 for each `else` with a condition, which is another block within it.
    let mut open: Vec<usize> = Vec::new();
    let mut rest = template;
    while let Some((_, expression)) = rest.split_once("{{") {
        let expression = expression.trim_start_matches(['{', '~', '&', '*']);
        let begins = expression.trim_start();
        match begins.chars().next() {
            Some('#') => open.push(1),
            Some('^') if !begins[1..].trim_start().starts_with(['~', '}']) => open.push(1),
            Some('/') => {
                open.pop();
            }
            Some('e') if begins.starts_with("else") => {
                if let Some(innermost) = open.last_mut() {
                    *innermost += 1;
                }
            }
            _ => {}
        }
        let end = expression.find("}}").unwrap_or(expression.len());
        // What stands in quotes may count as well: it only makes the limit lower.
        let (mut inside, mut deepest) = (0_usize, 0);
        for byte in expression[..end].bytes() {
            match byte {
                b'(' | b'[' | b'{' => inside += 1,
                b')' | b']' | b'}' => inside = inside.saturating_sub(1),
                _ => {}
            }
            deepest = deepest.max(inside);
        }
        if open.iter().sum::<usize>() + deepest > DEEPEST {
            let before = template.len() - expression.len();
            return Some(template[..before].split('\n').count());
        }
        rest = expression;
    }
    None
}

/// Takes so many bytes, and refuses more.
pub(super) struct Bounded {
    pub(super) bytes: Vec<u8>,
    most: usize,
}

impl Bounded {
    pub(super) fn of(most: usize) -> Self {
        Bounded {
            bytes: Vec::new(),
            most,
        }
    }
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.most {
            let what = format!("at most {} bytes are expected to come of it", self.most);
            return Err(io::Error::other(what));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_nested_is_counted_and_what_follows_one_another_is_not() {
        let check = |template: String, expected: Option<usize>| {
            assert_eq!(too_deep(&template), expected, "{template}");
        };
        let blocks = |count: usize| "{{#if a}}\n".repeat(count) + &"{{/if}}".repeat(count);
        check(blocks(64), None);
        check(blocks(65), Some(65));
        check("{{#if a}}{{else}}{{/if}}{{^}}".repeat(100), None);
        check("{{~#if a}}".repeat(65), Some(1));
        check("{{^a}}".repeat(65), Some(1));
        let subs =
            |count: usize| format!("\n{{{{x {}a{}}}}}", "(y ".repeat(count), ")".repeat(count));
        check(subs(64), None);
        check(subs(65), Some(2));
        check("{{x (y a) [b]}}".repeat(100), None);
        check(
            format!("{{{{#if a}}}}{}", "{{else if b}}".repeat(64)),
            Some(1),
        );
        check("((((".repeat(100), None);
        check("{{".repeat(100), None);
        check("{{é".to_owned(), None);
    }
}
