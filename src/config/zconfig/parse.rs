//! The syntax of ZConfig: from lines to a tree.
//!
//! ```text
//! # a comment
//! %define NAME VALUE        used as $name, ${name}; $(VARIABLE) is the environment's, $$ is a dollar
//! %import PACKAGE           types of sections of a package
//! %include FILE             its lines, here
//! <type name>               a section; types, names and keys have no case
//!   key value               a key may stand there more than once
//! </type>
//! <type name/>              an empty section
//! ```
//!
//! What is a line and what is in it is decided as ZConfig's `cfgparser.py` does, which the tests compare
//! it with. It stops at the first mistake; here reading goes on, so that all are seen at once.

use std::path::PathBuf;

use super::define::Defines;
use super::include::{Source, resolve};
use super::tree::{Key, Place, Section, Tree};
use crate::config::{Environment, Mistake};

/// Includes deeper than this go in circles, or nobody can follow them.
const DEEPEST: usize = 16;
/// More files than this nobody includes.
const MOST_FILES: usize = 256;

/// Reads one file with everything that it includes.
///
/// # Errors
/// With every mistake in the syntax.
pub(super) fn parse(source: &Source, environment: Environment<'_>) -> Result<Tree, Vec<Mistake>> {
    let place = Place {
        file: source.file.clone(),
        line: 1,
    };
    let mut root = Section::new(String::new(), None, place);
    let mut parser = Parser {
        defines: Defines::new(environment),
        imports: Vec::new(),
        inside: vec![real(&source.file)],
        files: 1,
        mistakes: Vec::new(),
    };
    parser.file(source, &mut root);
    if parser.mistakes.is_empty() {
        Ok(Tree {
            root,
            imports: parser.imports,
        })
    } else {
        Err(parser.mistakes)
    }
}

struct Parser<'a> {
    defines: Defines<'a>,
    imports: Vec<Key>,
    /// The files that include one another, the innermost last.
    inside: Vec<PathBuf>,
    files: usize,
    mistakes: Vec<Mistake>,
}

impl Parser<'_> {
    /// A file's sections must end in it.
    fn file(&mut self, source: &Source, into: &mut Section) {
        let mut open: Vec<Section> = Vec::new();
        for line in &source.lines {
            let place = Place {
                file: line.file.clone(),
                line: line.number,
            };
            let Some(text) = &line.text else {
                self.wrong(&place, "this line is not UTF-8", "save the file as UTF-8");
                continue;
            };
            let text = text.trim_matches(is_blank);
            let first = text.chars().next();
            match first {
                None | Some('#') => {}
                Some('<') if text.starts_with("</") => {
                    self.section_end(&text[2..], &place, &mut open, into);
                }
                Some('<') => self.section_start(&text[1..], place, &mut open, into),
                Some('%') => {
                    let section = open.last_mut().unwrap_or(into);
                    self.directive(&text[1..], source, &place, section);
                }
                Some(_) => {
                    let section = open.last_mut().unwrap_or(into);
                    self.key(text, place, section);
                }
            }
        }
        while let Some(section) = open.pop() {
            self.not_closed(&section);
            open.last_mut().unwrap_or(into).sections.push(section);
        }
    }

    fn section_start(
        &mut self,
        rest: &str,
        place: Place,
        open: &mut Vec<Section>,
        into: &mut Section,
    ) {
        let Some(inner) = rest.strip_suffix('>') else {
            self.wrong(
                &place,
                format!("`<{rest}` has no `>` at its end"),
                "write `<type>` or `<type name>`",
            );
            return;
        };
        let (inner, is_empty) = match inner.strip_suffix('/') {
            Some(inner) => (inner, true),
            None => (inner, false),
        };
        let inner = inner.trim_end_matches(is_blank);
        let header = header(inner);
        if header.is_none() {
            self.wrong(
                &place,
                format!("`<{inner}>` is no beginning of a section"),
                "write `<type>` or `<type name>`, without brackets or further words",
            );
        }
        // Opened all the same where it is wrong: its end is not a second mistake.
        let (kind, name) = header.unwrap_or_else(|| {
            let words = inner.split(is_blank).find(|word| !word.is_empty());
            (words.unwrap_or_default(), None)
        });
        let section = Section::new(kind.to_lowercase(), name.map(str::to_lowercase), place);
        if is_empty {
            open.last_mut().unwrap_or(into).sections.push(section);
        } else {
            open.push(section);
        }
    }

    fn section_end(
        &mut self,
        rest: &str,
        place: &Place,
        open: &mut Vec<Section>,
        into: &mut Section,
    ) {
        let Some(kind) = rest.strip_suffix('>') else {
            self.wrong(
                place,
                format!("`</{rest}` has no `>` at its end"),
                "write `</type>`",
            );
            return;
        };
        let kind = kind.trim_end_matches(is_blank).to_lowercase();
        let Some(depth) = open.iter().rposition(|section| section.kind == kind) else {
            let mend = match open.last() {
                Some(section) => {
                    format!(
                        "`</{}>` is expected here, for {} of line {}",
                        section.kind,
                        section.title(),
                        section.place.line
                    )
                }
                None => "no section is open here: remove it".to_owned(),
            };
            self.wrong(place, format!("`</{kind}>` ends nothing"), mend);
            return;
        };
        while open.len() > depth {
            let Some(section) = open.pop() else { return };
            if open.len() > depth {
                self.not_closed(&section);
            }
            open.last_mut().unwrap_or(into).sections.push(section);
        }
    }

    fn not_closed(&mut self, section: &Section) {
        self.wrong(
            &section.place,
            format!("{} has no end", section.title()),
            format!("write `</{}>` after what belongs to it", section.kind),
        );
    }

    fn key(&mut self, text: &str, place: Place, section: &mut Section) {
        let Some((name, value)) = key_and_value(text) else {
            self.wrong(
                &place,
                format!("`{text}` is neither a key with its value nor a section"),
                "write `key value`, `<type>`, `</type>`, `%directive` or `# comment`",
            );
            return;
        };
        match self.defines.replace(value) {
            Ok(value) => section.keys.push(Key {
                name: name.to_lowercase(),
                value,
                place,
            }),
            Err((what, mend)) => self.wrong(&place, format!("{name}: {what}"), mend),
        }
    }

    fn directive(&mut self, rest: &str, source: &Source, place: &Place, section: &mut Section) {
        let known = "known are %define, %import and %include";
        let Some((name, argument)) = key_and_value(rest) else {
            self.wrong(place, "a `%` without a directive", known);
            return;
        };
        if !matches!(name, "define" | "import" | "include") {
            self.wrong(place, format!("`%{name}` is not known"), known);
            return;
        }
        if argument.is_empty() {
            let expected = match name {
                "define" => "write `%define NAME VALUE`",
                "import" => "write `%import PACKAGE`",
                _ => "write `%include FILE`",
            };
            self.wrong(place, format!("`%{name}` of what?"), expected);
            return;
        }
        let done = match name {
            "define" => {
                let end = argument.find(is_blank).unwrap_or(argument.len());
                let (name, value) = argument.split_at(end);
                self.defines
                    .define(name, value.trim_start_matches(is_blank))
            }
            "import" => self.defines.replace(argument).map(|package| {
                if !self.imports.iter().any(|import| import.value == package) {
                    self.imports.push(Key {
                        name: "import".into(),
                        value: package,
                        place: place.clone(),
                    });
                }
            }),
            _ => match self.defines.replace(argument) {
                Ok(file) => {
                    self.include(&file, source, place, section);
                    Ok(())
                }
                Err(wrong) => Err(wrong),
            },
        };
        if let Err((what, mend)) = done {
            self.wrong(place, format!("%{name}: {what}"), mend);
        }
    }

    fn include(&mut self, name: &str, source: &Source, place: &Place, section: &mut Section) {
        let path = match resolve(&source.folder, name) {
            Ok(path) => path,
            Err((what, mend)) => {
                self.wrong(place, format!("%include: {what}"), mend);
                return;
            }
        };
        let shown = path.display();
        let identity = real(&path);
        if self.inside.contains(&identity) {
            self.wrong(
                place,
                format!("%include: {shown} includes itself in the end"),
                "remove one of the includes",
            );
            return;
        }
        if self.inside.len() >= DEEPEST || self.files >= MOST_FILES {
            self.wrong(
                place,
                format!("%include: {shown} is one file too many, or too deep (at most {MOST_FILES} files, {DEEPEST} deep)"),
                "include less",
            );
            return;
        }
        match Source::read(&path) {
            Ok(included) => {
                self.files += 1;
                self.inside.push(identity);
                self.file(&included, section);
                self.inside.pop();
            }
            Err(error) => self.wrong(
                place,
                format!("%include: could not read {shown}: {error}"),
                "a name is taken from the folder of the file that includes",
            ),
        }
    }

    fn wrong(&mut self, place: &Place, what: impl Into<String>, mend: impl Into<String>) {
        let mut mistake = Mistake::at(place.line, 1, what, mend);
        mistake.file = place.file.to_path_buf();
        self.mistakes.push(mistake);
    }
}

/// `type` or `type name`, of neither blanks nor round brackets.
fn header(text: &str) -> Option<(&str, Option<&str>)> {
    let (kind, rest) = text.split_at(text.find(ends_word).unwrap_or(text.len()));
    if kind.is_empty() {
        return None;
    }
    let name = rest.trim_start_matches(is_blank);
    if name.is_empty() {
        return Some((kind, None));
    }
    let is_apart = name.len() < rest.len();
    (is_apart && !name.contains(ends_word)).then_some((kind, Some(name)))
}

/// A word, and the rest, which may be nothing. A round bracket ends the word without a blank.
fn key_and_value(text: &str) -> Option<(&str, &str)> {
    let (key, rest) = text.split_at(text.find(ends_word).unwrap_or(text.len()));
    (!key.is_empty()).then(|| (key, rest.trim_start_matches(is_blank)))
}

fn ends_word(c: char) -> bool {
    is_blank(c) || matches!(c, '(' | ')')
}

/// What Python takes for white space: Unicode's, and four separators of ASCII.
fn is_blank(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// A file's own name, whatever leads to it.
fn real(path: &std::path::Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}
