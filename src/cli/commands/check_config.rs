//! `check-config`: every mistake of a configuration at once.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::cli::context::{Context, environment};
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::table::wrap;
use crate::cli::output::{Paint, Screen, View, escape, format};
use crate::config::{self, ConfigError, Mistake};

/// Check the configuration: every mistake at once
///
/// Each with its file, line and column, and how to mend it. The exit code is 0 where there is none.
/// What is allowed, but probably not meant, is said as well. Certificates and keys of addresses with TLS are
/// looked into, and whether others can read what is secret, or change what the daemon does; and of members' files
/// whether each begins as a Data.fs does.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  zeoraidctl check-config
  zeoraidctl check-config /srv/zodb/etc/zeoraid.yaml")]
pub struct CheckConfigArgs {
    /// The file [default: the instance's etc/zeoraid.yaml]
    file: Option<PathBuf>,
}

pub fn run(args: &CheckConfigArgs, context: &Context) -> Result<Exit, CliError> {
    let (instance, file) = match &args.file {
        None => (context.instance()?, None),
        Some(file) => (instance_of(file, context), Some(file.as_path())),
    };
    let mut notes = Vec::new();
    let (mistakes, warnings) = match config::load(&instance, file, &environment) {
        Ok(config) => {
            let mut warnings = config.warnings().to_vec();
            warnings.extend(config.check_permissions());
            let mut mistakes = config.check_certificates();
            mistakes.extend(config.check_user());
            mistakes.extend(config.check_files());
            notes = config.shared_disks();
            (mistakes, warnings)
        }
        Err(ConfigError::Mistakes(mistakes)) => (mistakes, Vec::new()),
        // An instance that is not there can be made; a file that was named cannot.
        Err(error @ ConfigError::Unreadable { .. }) if file.is_some() => {
            return Err(CliError::new(error.to_string()));
        }
        Err(error @ ConfigError::Unreadable { .. }) => return Err(error.into()),
    };
    let shown = file.map_or_else(
        || config::FILE.to_owned(),
        |file| file.display().to_string(),
    );
    let view = CheckView {
        file: shown,
        ok: mistakes.is_empty(),
        mistakes: mistakes.iter().map(MistakeView::from).collect(),
        warnings: warnings.iter().map(MistakeView::from).collect(),
        notes,
    };
    context.printer.print(&view)?;
    Ok(if view.ok { Exit::Done } else { Exit::Failed })
}

/// What relative paths in a file are relative to: the instance that was named, else the folder that
/// the file's `etc` is in.
pub(super) fn instance_of(file: &Path, context: &Context) -> PathBuf {
    if let Some(instance) = &context.global.instance {
        return instance.clone();
    }
    let folder = file.parent().unwrap_or(Path::new(""));
    let instance = if folder.ends_with("etc") {
        folder.parent().unwrap_or(folder)
    } else {
        folder
    };
    if instance.as_os_str().is_empty() {
        PathBuf::from(".")
    } else {
        instance.to_owned()
    }
}

#[derive(Serialize)]
struct CheckView {
    file: String,
    ok: bool,
    mistakes: Vec<MistakeView>,
    /// Found only where there are no mistakes.
    warnings: Vec<MistakeView>,
    /// What is right, and good to know.
    notes: Vec<String>,
}

#[derive(Serialize)]
pub(super) struct MistakeView {
    file: String,
    /// None where it is in no line.
    line: Option<usize>,
    column: Option<usize>,
    what: String,
    mend: String,
    /// The line itself, where the file is not there yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

impl From<&Mistake> for MistakeView {
    fn from(mistake: &Mistake) -> Self {
        MistakeView {
            file: mistake.file.display().to_string(),
            line: (mistake.line > 0).then_some(mistake.line),
            column: (mistake.column > 0).then_some(mistake.column),
            what: mistake.what.clone(),
            mend: mistake.mend.clone(),
            text: None,
        }
    }
}

impl View for CheckView {
    fn table(&self, screen: &Screen) -> String {
        let style = screen.style;
        let all = if self.ok {
            &self.warnings
        } else {
            &self.mistakes
        };
        let mut text: String = all.iter().map(|found| found.lines(screen)).collect();
        for note in &self.notes {
            let note = format!("note: {}", escape(note));
            let lines = if screen.terminal {
                wrap(&note, screen.width.saturating_sub(2)).join("\n  ")
            } else {
                note
            };
            text += &format!("{lines}\n");
        }
        if self.ok {
            let good = style.paint(Paint::Good, "✔");
            text += &format!("{good} {}: no mistakes", escape(&self.file));
            if !self.warnings.is_empty() {
                let count = format::counted(self.warnings.len() as u64, "warning");
                text += &format!(", {}", style.paint(Paint::Warning, &count));
            }
            return text + "\n";
        }
        let count = format::counted(self.mistakes.len() as u64, "mistake");
        text + &format!("{}\n", style.paint(Paint::Bad, &count))
    }
}

impl MistakeView {
    /// Of a file that is not there yet.
    pub(super) fn with_line(mistake: &Mistake, line: Option<&str>) -> Self {
        MistakeView {
            text: line.map(str::to_owned),
            ..MistakeView::from(mistake)
        }
    }

    pub(super) fn lines(&self, screen: &Screen) -> String {
        let style = screen.style;
        let mut place = escape(&self.file).into_owned();
        if let (Some(line), Some(column)) = (self.line, self.column) {
            place += &format!(":{line}:{column}");
        }
        let place = style.paint(Paint::Strong, &place);
        let mut text = format!("{place}: {}", escape(&self.what));
        if screen.terminal {
            text = wrap(&text, screen.width.saturating_sub(2)).join("\n  ");
        }
        text.push('\n');
        if let Some(line) = &self.text {
            text += &format!("    {}\n", style.paint(Paint::Faint, &escape(line)));
        }
        if !self.mend.is_empty() {
            for line in wrap(&escape(&self.mend), screen.width.saturating_sub(4)) {
                text += &format!("    {}\n", style.paint(Paint::Command, &line));
            }
        }
        text
    }
}
