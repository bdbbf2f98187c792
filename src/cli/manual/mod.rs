//! The pages of section 5 of the manual: files that people write, and documents that programs read. (Those of section 1 are made of the
//! definition of the arguments; see `commands::man`.)
//!
//! What a page lists is data, which the tests compare with what the program knows.

pub(super) mod answers;
pub(super) mod config;
pub(super) mod recipe;

use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

/// A page, as it is written.
pub(super) struct Page {
    roff: Roff,
}

/// Of a file that is read: a key, what it may be, and what it means.
pub(super) struct Key {
    pub(super) name: &'static str,
    /// `[default]` at its end, where there is one.
    pub(super) values: &'static str,
    pub(super) what: &'static str,
}

impl Page {
    pub(super) fn new(name: &str, what: &str) -> Self {
        let mut roff = Roff::default();
        let version = concat!("zeoraidctl ", env!("CARGO_PKG_VERSION"));
        roff.control("TH", [name, "5", "", version, ""]);
        let mut page = Page { roff };
        page.section("NAME");
        page.text(&format!("{name} - {what}"));
        page
    }

    pub(super) fn section(&mut self, title: &str) {
        self.roff.control("SH", [title]);
    }

    /// A paragraph; what is between backticks is set off.
    pub(super) fn text(&mut self, text: &str) {
        self.roff.control("PP", []);
        self.roff.text(inlines(text));
    }

    /// What is defined, and its definition.
    pub(super) fn entry(&mut self, head: &str, values: &str, text: &str) {
        self.roff.control("TP", []);
        let mut line = vec![bold(head)];
        if !values.is_empty() {
            line.push(roman("  "));
            line.push(italic(values));
        }
        self.roff.text(line);
        self.roff.text(inlines(text));
    }

    pub(super) fn keys(&mut self, keys: &[Key]) {
        for key in keys {
            self.entry(key.name, key.values, key.what);
        }
    }

    /// Lines as they are.
    pub(super) fn example(&mut self, lines: &str) {
        self.roff.control("PP", []);
        self.roff.control("nf", []);
        self.roff.control("RS", ["4"]);
        for line in lines.trim_end().lines() {
            self.roff.text([roman(line)]);
        }
        self.roff.control("RE", []);
        self.roff.control("fi", []);
    }

    pub(super) fn finish(mut self, see_also: &[&str]) -> Vec<u8> {
        self.section("SEE ALSO");
        self.text(&see_also.join(", "));
        self.roff.render().into_bytes()
    }
}

fn inlines(text: &str) -> Vec<Inline> {
    let parts = text.split('`').enumerate();
    let parts = parts.filter(|(_, part)| !part.is_empty());
    parts
        .map(|(index, part)| {
            if index % 2 == 1 {
                bold(part)
            } else {
                roman(part)
            }
        })
        .collect()
}
