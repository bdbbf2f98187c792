//! `import`: turns a ZConfig file of the old world into `etc/zeoraid.yaml`.
//!
//! The steps: read and understand the old file, check the configuration that it makes as the daemon
//! would, show what was understood and what was not, ask, write. Nothing is written before the last
//! step, and what it replaces stays beside it.

mod view;

use std::path::{Path, PathBuf};

use clap::Args;

use super::check_config::{MistakeView, instance_of};
use crate::cli::context::{Context, environment};
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::diff::unified;
use crate::cli::output::{Format, Paint, Screen, Style, View as _, escape};
use crate::cli::place::find_instance;
use crate::cli::prompt::Question;
use crate::config::zconfig::{Import, ImportError, Imported, import};
use crate::config::{self, ClusterMode, ConfigError};
use crate::durable;
use view::{Action, ImportView};

/// Turn an old ZConfig file into etc/zeoraid.yaml
///
/// Reads a `zeo.conf` (of ZEO's `runzeo`, or with the `<raidstorage>` of gocept.zeoraid), or a part of a
/// buildout's file that holds one. Shows what was understood, and of everything else what to do about
/// it; checks the outcome; and writes it with the origin of each value beside it. Data is not touched.
///
/// Where several daemons serve the same servers, import each one's file into an instance of its own.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  zeoraidctl import zeo.conf --dry-run              what would come of it
  zeoraidctl -C /srv/zodb import /srv/old/etc/zeo.conf
  zeoraidctl import zeo.conf zdaemon.conf           both, as one
  zeoraidctl -C /srv/raid1 import buildout.cfg --part zeoraid1
  zeoraidctl import zeo.conf --to new.yaml          beside, to look at it")]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag that people type"
)]
pub struct ImportArgs {
    /// The old file; several are read as one
    #[arg(required = true)]
    files: Vec<PathBuf>,

    /// The part of a buildout's file
    #[arg(short, long, value_name = "NAME")]
    part: Option<String>,

    /// Where to write it [default: etc/zeoraid.yaml of the instance, which need not exist]
    #[arg(short, long, value_name = "FILE")]
    to: Option<PathBuf>,

    /// What relative paths of the old server are relative to
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,

    /// Whether other daemons write to the servers too [default: as the file says]
    #[arg(long, value_enum, value_name = "MODE")]
    cluster_mode: Option<Mode>,

    /// Show what would come of it, and write nothing
    #[arg(short = 'n', long)]
    dry_run: bool,

    /// Show the configuration against what is there, line by line, and write nothing
    #[arg(long)]
    diff: bool,

    /// Do not ask before writing
    #[arg(short, long)]
    yes: bool,

    /// Replace what is there already; it stays beside, as .old
    #[arg(long)]
    replace: bool,

    /// Write it also where it has mistakes, to mend them there
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    /// This daemon alone
    Single,
    /// Other daemons as well: more than half of the servers must be in sync
    Coop,
}

/// Where it is written.
struct Target {
    instance: PathBuf,
    file: PathBuf,
    /// The file of an instance, and not one beside.
    is_instance: bool,
}

pub fn run(args: &ImportArgs, context: &Context) -> Result<Exit, CliError> {
    let target = target(args, context)?;
    let imported = read(args, context)?;
    let old = match std::fs::read(&target.file) {
        Ok(old) => Some(old),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            return Err(CliError::new(format!(
                "could not read {}: {error}",
                target.file.display()
            )));
        }
    };
    let (mistakes, warnings) = checked(&imported, &target)?;
    let is_wrong = !mistakes.is_empty();
    let action = match &old {
        None => Action::Create,
        Some(old) if old == imported.text.as_bytes() => Action::Unchanged,
        Some(_) => Action::Replace,
    };
    let mut view = ImportView::new(args, &target, &imported, action);
    view.mistakes = mistakes;
    view.warnings = warnings;
    view.quiet = context.printer.quiet;
    if args.diff {
        let style = context.printer.screen().style;
        context
            .printer
            .write(&diff(old.as_deref(), &imported.text, &target, style))?;
        return Ok(if is_wrong { Exit::Failed } else { Exit::Done });
    }
    if args.dry_run || action == Action::Unchanged || (is_wrong && !args.force) {
        context.printer.print(&view)?;
        if is_wrong && !args.force {
            let error = CliError::new(format!(
                "what comes of {} has mistakes, so it was not written",
                view.from()
            ));
            return Err(error.with_next(
                "mend them in the old file, or write it all the same and mend it there: --force",
            ));
        }
        if action == Action::Unchanged && !args.dry_run {
            next(&target, &view, context);
        }
        return Ok(Exit::Done);
    }
    let shown = ask(args, &target, &view, context)?;
    write(&target, old.as_deref(), &imported.text)?;
    view.written = true;
    if shown && context.printer.format == Format::Table {
        context
            .printer
            .success(&format!("{} is written", escape(&view.to)));
    } else {
        context.printer.print(&view)?;
    }
    if context.printer.format == Format::Table {
        next(&target, &view, context);
    }
    Ok(Exit::Done)
}

/// The instance need not exist: this makes one.
fn target(args: &ImportArgs, context: &Context) -> Result<Target, CliError> {
    let here = std::env::current_dir()
        .map_err(|error| CliError::new(format!("could not find the current folder: {error}")))?;
    if let Some(file) = &args.to {
        let file = here.join(file);
        let instance = here.join(instance_of(&file, context));
        let is_instance = file == instance.join(config::FILE);
        return Ok(Target {
            instance,
            file,
            is_instance,
        });
    }
    let named = context
        .global
        .instance
        .as_ref()
        .map(|named| here.join(named));
    let instance = named
        .or_else(|| find_instance(None, &here).ok())
        .unwrap_or(here);
    if instance.exists() && !instance.is_dir() {
        return Err(CliError::new(format!(
            "{} is not a folder",
            instance.display()
        )));
    }
    let instance = std::fs::canonicalize(&instance).unwrap_or(instance);
    Ok(Target {
        file: instance.join(config::FILE),
        instance,
        is_instance: true,
    })
}

/// Reads the old files; which part of a buildout is asked.
fn read(args: &ImportArgs, context: &Context) -> Result<Imported, CliError> {
    let mode = args.cluster_mode.map(|mode| match mode {
        Mode::Single => ClusterMode::Single,
        Mode::Coop => ClusterMode::Coop,
    });
    let mut what = Import {
        files: &args.files,
        part: args.part.as_deref(),
        cluster_mode: mode,
        base: args.base.as_deref(),
        environment: &environment,
    };
    match import(&what) {
        Err(ImportError::WhichPart { path, parts }) if context.prompt.can_ask() => {
            let text = format!("{} has several parts. Which?", path.display());
            let question = Question {
                text: &text,
                flags: &["--part"],
            };
            let index = context.prompt.select(question, &parts, 0)?;
            what.part = parts.get(index).map(String::as_str);
            import(&what).map_err(CliError::from)
        }
        other => other.map_err(CliError::from),
    }
}

impl From<ImportError> for CliError {
    fn from(error: ImportError) -> Self {
        let message = error.to_string();
        match error {
            ImportError::Mistakes(mistakes) => {
                let count = match mistakes.len() {
                    1 => "a mistake".to_owned(),
                    many => format!("{many} mistakes"),
                };
                CliError::new(format!("what is to be imported has {count}"))
                    .with_details(mistakes.iter().map(ToString::to_string))
            }
            ImportError::WhichPart { path, parts } => {
                let part = parts.first().map_or("NAME", String::as_str);
                let next = format!("zeoraidctl import {} --part {part}", path.display());
                CliError::usage(message).with_next(next)
            }
            ImportError::NoSuchPart { .. } | ImportError::NoBuildout { .. } => {
                CliError::usage(message)
            }
            ImportError::Unreadable { .. } => CliError::new(message),
        }
    }
}

/// The outcome, read as the daemon would read it.
fn checked(
    imported: &Imported,
    target: &Target,
) -> Result<(Vec<MistakeView>, Vec<MistakeView>), CliError> {
    let parsed = config::parse(&imported.text, &target.file, &target.instance, &environment);
    let (mistakes, warnings) = match parsed {
        Ok(config) => (config.check_certificates(), config.warnings().to_vec()),
        Err(ConfigError::Mistakes(mistakes)) => (mistakes, Vec::new()),
        Err(error @ ConfigError::Unreadable { .. }) => return Err(error.into()),
    };
    // The file is not there yet: the line alone would say nothing.
    let lines: Vec<&str> = imported.text.lines().collect();
    let view = |mistakes: &[config::Mistake]| {
        let views = mistakes.iter().map(|mistake| {
            let line = mistake.line.checked_sub(1).and_then(|line| lines.get(line));
            MistakeView::with_line(mistake, line.map(|line| line.trim()))
        });
        views.collect()
    };
    Ok((view(&mistakes), view(&warnings)))
}

/// Whether it was shown on the way.
fn ask(
    args: &ImportArgs,
    target: &Target,
    view: &ImportView,
    context: &Context,
) -> Result<bool, CliError> {
    let replaces = view.action == Action::Replace && !args.replace;
    if !replaces && (args.yes || args.replace || !context.prompt.can_ask()) {
        return Ok(false);
    }
    let shown = context.prompt.can_ask();
    if shown {
        let screen = Screen {
            terminal: context.printer.stderr_is_terminal(),
            style: context.printer.error_style(),
            width: context.printer.width(),
        };
        context.printer.note(view.table(&screen).trim_end());
    }
    let text = if replaces {
        format!(
            "{} is there already. Replace it? It stays beside, as .old",
            target.file.display()
        )
    } else {
        format!("Write {}?", target.file.display())
    };
    let flag = if replaces { "--replace" } else { "--yes" };
    let question = Question {
        text: &text,
        flags: &[flag],
    };
    if context.prompt.confirm(question, !replaces)? {
        Ok(shown)
    } else {
        Err(CliError::BrokenOff)
    }
}

fn write(target: &Target, old: Option<&[u8]>, text: &str) -> Result<(), CliError> {
    use std::os::unix::fs::PermissionsExt as _;

    let failed = |what: &str, path: &Path, error: &std::io::Error| {
        CliError::new(format!("could not {what} {}: {error}", path.display()))
    };
    let file = &target.file;
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)
            .map_err(|error| failed("make the folder", folder, &error))?;
    }
    let mut mode = 0o644;
    if let Some(old) = old {
        let metadata = std::fs::metadata(file).map_err(|error| failed("look at", file, &error))?;
        mode = metadata.permissions().mode() & 0o777;
        let mut beside = file.as_os_str().to_owned();
        beside.push(".old");
        let beside = PathBuf::from(beside);
        durable::write_with_mode(&beside, old, mode)
            .map_err(|error| failed("write", &beside, &error))?;
    }
    durable::write_with_mode(file, text.as_bytes(), mode)
        .map_err(|error| failed("write", file, &error))
}

/// What to type next.
fn next(target: &Target, view: &ImportView, context: &Context) {
    let style = context.printer.error_style();
    let word = style.paint(Paint::Strong, "Next:");
    let instance = target.instance.display();
    let wrapper = target.instance.join("bin/zeoraidctl");
    let command = if !target.is_instance {
        format!("zeoraidctl check-config {}", target.file.display())
    } else if wrapper.exists() {
        format!("{} start", wrapper.display())
    } else {
        format!("zeoraidctl -C {instance} start")
    };
    let command = style.paint(Paint::Command, &escape(&command));
    let first = if view.has_to_do() {
        "what is under \"To do\", then: "
    } else {
        ""
    };
    context.printer.note(&format!("{word} {first}{command}"));
}

/// The configuration against what is there.
fn diff(old: Option<&[u8]>, new: &str, target: &Target, style: Style) -> String {
    let old_text = String::from_utf8_lossy(old.unwrap_or_default());
    let name = target
        .file
        .strip_prefix(&target.instance)
        .unwrap_or(&target.file)
        .display()
        .to_string();
    let from = old.is_some().then_some(name.as_str());
    unified((from, &old_text), (Some(&name), new), style)
}

#[cfg(test)]
mod tests;
