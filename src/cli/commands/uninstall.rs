//! `uninstall`: takes away what `init` wrote.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::running::Running;
use crate::cli::context::{Context, load_config};
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{Format, Paint, Screen, View, escape};
use crate::cli::place::find_made;
use crate::cli::prompt::Question;
use crate::config::MemberStorage;
use crate::recipe::uninstall::{Fate, Removal, State};

/// Remove what `init` wrote, and nothing else
///
/// Data stays where it is, and so does what was edited by hand. What runs must have been stopped.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  zeoraidctl uninstall --dry-run     what would be removed, and what is left
  zeoraidctl uninstall --yes --edited remove")]
pub struct UninstallArgs {
    /// Ask nothing
    #[arg(short, long)]
    yes: bool,

    /// What to do with files that were edited by hand
    #[arg(
        long,
        value_enum,
        value_name = "WHAT",
        default_value_t,
        hide_default_value = true
    )]
    edited: Edited,

    /// Say what would be removed, and remove nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Edited {
    /// Keep them [default]
    #[default]
    Keep,
    /// Remove them too
    Remove,
}

pub async fn run(args: &UninstallArgs, context: &Context) -> Result<Exit, CliError> {
    let instance = find_made(context)?;
    let Some(removal) = Removal::plan(&instance)? else {
        let folder = instance.display();
        return Err(CliError::new(format!(
            "nothing was written into {folder} by `init`: there is no .installed.yaml"
        )));
    };
    let running = Running::of_installed(&removal, &instance);
    if !args.dry_run {
        refuse_what_runs(&running).await?;
    }
    let also_edited = args.edited == Edited::Remove;
    let mut left = removal.leaves(&instance, also_edited).paths;
    left.extend(data_elsewhere(&running.homes, &instance));
    let mut view = UninstallView {
        instance: instance.display().to_string(),
        dry_run: true,
        files: removal
            .files
            .iter()
            .filter(|fate| fate.state != State::Gone)
            .map(|fate| FileView {
                target: fate.target.clone(),
                action: action(fate, also_edited),
            })
            .collect(),
        left,
    };
    if args.dry_run {
        context.printer.print(&view)?;
        return Ok(Exit::Done);
    }
    let asked = !args.yes;
    if asked {
        let screen = Screen {
            terminal: context.printer.stderr_is_terminal(),
            style: context.printer.error_style(),
            width: context.printer.width(),
        };
        if context.prompt.can_ask() {
            context.printer.note(view.table(&screen).trim_end());
        }
        let question = Question {
            text: "Remove this?",
            flags: &["--yes"],
        };
        if !context.prompt.confirm(question, false)? {
            return Err(CliError::BrokenOff);
        }
    }
    removal.carry_out(&instance, also_edited)?;
    if asked && context.printer.format == Format::Table {
        // It was shown before the question.
        context.printer.success("removed");
    } else {
        view.dry_run = false;
        context.printer.print(&view)?;
    }
    Ok(Exit::Done)
}

/// What runs could not be stopped any more: the commands that do it are what is removed.
async fn refuse_what_runs(running: &Running) -> Result<(), CliError> {
    let stops = running.stops().await?;
    if stops.is_empty() {
        return Ok(());
    }
    Err(
        CliError::new("what it was made for still runs, and is not taken away under it")
            .with_next(stops.join(" && ")),
    )
}

/// Files with data outside of the instance, which the daemons' configurations name.
fn data_elsewhere(homes: &[PathBuf], instance: &Path) -> Vec<String> {
    let mut paths = Vec::new();
    for config in homes.iter().filter_map(|home| load_config(home).ok()) {
        for array in config.arrays {
            for member in array.members {
                if let MemberStorage::File { file, blob_dir } = member.storage {
                    paths.push(file);
                    paths.extend(blob_dir);
                }
            }
            paths.push(array.record);
            paths.extend(array.shared_blobs.map(|shared| shared.folder));
        }
    }
    paths.retain(|path| !path.starts_with(instance) && path.exists());
    paths.sort();
    paths.dedup();
    paths
        .iter()
        .map(|path| path.display().to_string())
        .collect()
}

fn action(fate: &Fate, also_edited: bool) -> &'static str {
    match (fate.state, also_edited) {
        (State::Edited, false) => "edited: kept",
        (State::Edited, true) => "remove, though edited",
        _ => "remove",
    }
}

#[derive(Serialize)]
struct UninstallView {
    instance: String,
    /// Nothing was removed.
    dry_run: bool,
    files: Vec<FileView>,
    /// Relative to the instance, or absolute where it is elsewhere.
    left: Vec<String>,
}

#[derive(Serialize)]
struct FileView {
    target: String,
    action: &'static str,
}

impl View for UninstallView {
    fn table(&self, screen: &Screen) -> String {
        let style = screen.style;
        let instance = style.paint(Paint::Strong, &escape(&self.instance));
        let mut text = format!("Instance {instance}\n");
        for file in &self.files {
            let action = style.paint(Paint::Warning, &format!("{:<22}", file.action));
            text += &format!("  {action} {}\n", escape(&file.target));
        }
        if self.left.is_empty() {
            return text + "Nothing is left.\n";
        }
        text += "Left, and yours:\n";
        for path in &self.left {
            text += &format!("  {}\n", escape(path));
        }
        text
    }
}
