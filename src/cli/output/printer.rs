//! The one place that prints.

use std::cell::RefCell;
use std::io::{self, IsTerminal as _, Write};

use clap::ValueEnum;
use serde::Serialize;

use super::escape::{escape, escape_json, is_harmless};
use super::style::{Paint, Style};
use super::table::wrap;

/// How answers are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    #[default]
    Table,
    Json,
    Yaml,
}

/// Something to print: for people as a table, for programs by its `Serialize`.
pub trait View: Serialize {
    fn table(&self, screen: &Screen) -> String;
}

/// What a table is drawn on.
#[derive(Debug, Clone, Copy)]
pub struct Screen {
    pub style: Style,
    /// Whether people look at it. Elsewhere what is looked for line by line stays in one line.
    pub terminal: bool,
    pub width: usize,
}

/// One of the two outputs.
pub struct Output {
    pub writer: Box<dyn Write>,
    pub terminal: bool,
    pub style: Style,
}

/// Prints. All of the program's output goes through it.
pub struct Printer {
    stdout: RefCell<Output>,
    stderr: RefCell<Output>,
    pub format: Format,
    /// Answers and errors alone.
    pub quiet: bool,
    /// The width of a terminal that is resized is asked for each time.
    width: Option<usize>,
}

/// Where nothing says how wide the screen is.
const WIDTH: usize = 80;
/// Text is not wrapped to less than this.
const ROOM: usize = 20;

impl Printer {
    /// Prints to the standard streams. `color` is none where the terminal decides.
    pub fn standard(format: Format, quiet: bool, color: Option<bool>) -> Self {
        let dumb = is_dumb();
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let style = |terminal: bool| Style {
            color: color.unwrap_or(terminal && !dumb && !no_color),
        };
        let (out, err) = (io::stdout(), io::stderr());
        let (out_terminal, err_terminal) = (out.is_terminal(), err.is_terminal());
        let stdout = Output {
            terminal: out_terminal,
            style: style(out_terminal),
            writer: Box::new(out),
        };
        let stderr = Output {
            terminal: err_terminal,
            style: style(err_terminal),
            writer: Box::new(err),
        };
        Printer::new(stdout, stderr, format, quiet, None)
    }

    pub fn new(
        stdout: Output,
        stderr: Output,
        format: Format,
        quiet: bool,
        width: Option<usize>,
    ) -> Self {
        Printer {
            stdout: RefCell::new(stdout),
            stderr: RefCell::new(stderr),
            format,
            quiet,
            width,
        }
    }

    /// Prints an answer.
    pub fn print(&self, view: &impl View) -> io::Result<()> {
        let text = match self.format {
            Format::Table => view.table(&self.screen()),
            Format::Json => json(view)?,
            Format::Yaml => yaml(view)?,
        };
        self.write(&text)
    }

    /// What people were told on standard error, for programs.
    pub fn print_for_programs(&self, value: &impl Serialize) -> io::Result<()> {
        let text = match self.format {
            Format::Table => return Ok(()),
            Format::Json => json(value)?,
            Format::Yaml => yaml(value)?,
        };
        self.write(&text)
    }

    /// An answer as one of many in a stream: a line of JSON, or a document of YAML, so that whoever reads
    /// can tell them apart.
    pub fn streamed(&self, view: &impl View) -> io::Result<String> {
        match self.format {
            Format::Table => Ok(view.table(&self.screen())),
            Format::Json => {
                let json = serde_json::to_string(view).map_err(io::Error::other)?;
                Ok(format!("{}\n", escape_json(&json)))
            }
            Format::Yaml => Ok(format!("---\n{}", yaml(view)?)),
        }
    }

    /// Writes text to standard output as it is.
    pub fn write(&self, text: &str) -> io::Result<()> {
        self.write_bytes(text.as_bytes())
    }

    /// Writes bytes to standard output as they are.
    pub fn write_bytes(&self, bytes: &[u8]) -> io::Result<()> {
        let mut stdout = self.stdout.borrow_mut();
        stdout.writer.write_all(bytes)?;
        stdout.writer.flush()
    }

    /// Says something about the work, on standard error. One line is wrapped, several are laid out.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            self.say(text);
        }
    }

    /// `✔ copy2 is optimal`, on standard error.
    pub fn success(&self, text: &str) {
        let sign = self.error_style().paint(Paint::Good, "✔");
        self.note(&format!("{sign} {text}"));
    }

    /// `warning: …`, on standard error.
    pub fn warning(&self, text: &str) {
        self.warning_with(text, &[]);
    }

    /// A warning, and the lines that belong to it.
    pub fn warning_with(&self, text: &str, details: &[String]) {
        let word = self.error_style().paint(Paint::Warning, "warning:");
        self.say(&format!("{word} {text}"));
        for line in details {
            self.say(&format!("  {line}"));
        }
    }

    /// `error: …`, the lines that belong to it, and the next step, on standard error.
    pub fn error(&self, message: &str, details: &[String], next: Option<&str>) {
        let style = self.error_style();
        let word = style.paint(Paint::Bad, "error:");
        for line in format!("{word} {}", escape_lines(message)).lines() {
            self.say(line);
        }
        for line in details {
            self.say(&format!("  {}", escape(line)));
        }
        if let Some(next) = next {
            let word = style.paint(Paint::Strong, "Next:");
            // In one piece, to be copied.
            self.say_as_it_is(&format!(
                "{word} {}",
                style.paint(Paint::Command, &escape(next))
            ));
        }
    }

    pub fn screen(&self) -> Screen {
        let stdout = self.stdout.borrow();
        Screen {
            style: stdout.style,
            terminal: stdout.terminal,
            width: self.width(),
        }
    }

    pub fn error_style(&self) -> Style {
        self.stderr.borrow().style
    }

    pub fn stdout_is_terminal(&self) -> bool {
        self.stdout.borrow().terminal
    }

    pub fn stderr_is_terminal(&self) -> bool {
        self.stderr.borrow().terminal
    }

    /// The columns there are.
    pub fn width(&self) -> usize {
        self.width.unwrap_or_else(|| {
            let size = console::Term::stdout().size_checked();
            let size = size.or_else(|| console::Term::stderr().size_checked());
            size.map_or(WIDTH, |(_, columns)| usize::from(columns).max(20))
        })
    }

    /// The lines there are; as many as anybody wants where nothing says so.
    pub fn height(&self) -> usize {
        let size = console::Term::stdout().size_checked();
        size.map_or(usize::MAX, |(lines, _)| usize::from(lines))
    }

    /// A line on standard error. A terminal gets it between words; elsewhere a message stays a line, which
    /// can be looked for.
    fn say(&self, line: &str) {
        if !self.stderr_is_terminal() || line.contains('\n') {
            return self.say_as_it_is(line);
        }
        let text = line.trim_start_matches(' ');
        let indent = line.len() - text.len();
        let room = self.width().saturating_sub(indent + 2).max(ROOM);
        let mut before = indent;
        for line in wrap(text, room) {
            self.say_as_it_is(&format!("{:before$}{line}", ""));
            before = indent + 2;
        }
    }

    /// That nobody reads it is no reason to stop.
    fn say_as_it_is(&self, line: &str) {
        let mut stderr = self.stderr.borrow_mut();
        let written = writeln!(stderr.writer, "{line}");
        drop(written.and_then(|()| stderr.writer.flush()));
    }
}

/// Whether the terminal can only write lines.
pub fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

fn json(view: &impl Serialize) -> io::Result<String> {
    let json = serde_json::to_string_pretty(view).map_err(io::Error::other)?;
    Ok(format!("{}\n", escape_json(&json)))
}

/// Where plain YAML would hold what a terminal obeys, JSON with escapes is YAML too.
fn yaml(view: &impl Serialize) -> io::Result<String> {
    let yaml = serde_yaml::to_string(view).map_err(io::Error::other)?;
    if is_harmless(&yaml) {
        Ok(yaml)
    } else {
        json(view)
    }
}

/// Messages of ours may have several lines; everything else in them is escaped.
fn escape_lines(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(escape).collect();
    lines.join("\n")
}
