//! Brings an instance to what its recipe gives, for `init` and `update`: compares it with what is there, checks
//! the configuration that would result, shows what would be done, asks, writes. Nothing is written before
//! the last step.

use std::path::{Path, PathBuf};

use clap::Args;

use super::changes::{Changes, diff};
use super::running::Running;
use crate::cli::context::{Context, environment};
use crate::cli::error::CliError;
use crate::cli::output::{Format, Screen, View as _, escape};
use crate::cli::prompt::Question;
use crate::config;
use crate::recipe::apply::{Choice, apply, on_disk};
use crate::recipe::installed::{Installed, OwnRecipe};
use crate::recipe::options::Resolved;
use crate::recipe::plan::{Plan, Step, What};
use crate::recipe::render::{Surroundings, render};
use crate::recipe::{Library, Recipe, RecipeError};

/// What is written, and how.
#[derive(Debug, Args)]
pub(super) struct WritingArgs {
    /// What to do with files that were edited by hand and would be written differently
    #[arg(long, value_enum, value_name = "WHAT")]
    edited: Option<Edited>,

    /// Say what would be written, and write nothing
    #[arg(short = 'n', long)]
    dry_run: bool,

    /// Show what would change, line by line, and write nothing
    #[arg(long)]
    diff: bool,
}

/// What to do with an edited file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Edited {
    /// Keep it, and write the new one beside it, as .new
    Beside,
    /// Keep it
    Keep,
    /// Write the new one, and keep the edited one beside it, as .old
    Replace,
}

/// What an instance is to be.
pub(super) struct Wanted<'a> {
    pub(super) library: &'a Library,
    pub(super) recipe: &'a Recipe,
    pub(super) resolved: &'a Resolved,
    /// Absolute.
    pub(super) instance: &'a Path,
}

/// What came of it.
pub(super) struct Written {
    /// Something was written, and not only shown.
    pub(super) wrote: bool,
    /// There was something to write.
    pub(super) changes: bool,
    pub(super) running: Running,
}

/// Does it, or only shows it. `yes` asks nothing.
pub(super) fn write(
    wanted: &Wanted<'_>,
    args: &WritingArgs,
    yes: bool,
    context: &Context,
) -> Result<Written, CliError> {
    let Wanted {
        recipe, instance, ..
    } = *wanted;
    let own = OwnRecipe::from_resolved(recipe, wanted.resolved);
    let stored = OwnRecipe::load(instance)?;
    let (plan, installed) = plan(wanted)?;
    check_configuration(&plan, instance, recipe, context)?;

    let same_recipe = stored.is_some_and(|stored| stored.says_the_same(&own));
    let changes = !plan.is_empty() || !same_recipe;
    let running = Running::of(&plan, instance);
    let shown = |running| Written {
        wrote: false,
        changes,
        running,
    };
    if args.diff {
        let style = context.printer.screen().style;
        let diffs = plan.steps.iter().filter(|step| step.what.is_change());
        let text: String = diffs.map(|step| diff(step, style)).collect();
        context.printer.write(&text)?;
        return Ok(shown(running));
    }
    if args.dry_run {
        let view = Changes::new(instance, recipe, &plan, true);
        context.printer.print(&view)?;
        return Ok(shown(running));
    }
    if changes {
        let asked = !yes && context.prompt.can_ask();
        if asked {
            confirm(&Changes::new(instance, recipe, &plan, true), context)?;
        }
        let mut choose = |step: &Step| choose(args.edited, yes, step, context);
        let done = apply(instance, &plan, installed, &own, &mut choose)?;
        let mut view = Changes::new(instance, recipe, &plan, false);
        for (file, done) in view.files.iter_mut().zip(&done) {
            file.choice = done.choice.map(choice_word);
        }
        if asked && context.printer.format == Format::Table {
            // It was shown before the question.
            context.printer.success("written");
        } else {
            context.printer.print(&view)?;
        }
    } else {
        let view = Changes::new(instance, recipe, &plan, false);
        context.printer.print(&view)?;
    }
    Ok(Written {
        wrote: true,
        changes,
        running,
    })
}

fn confirm(view: &Changes, context: &Context) -> Result<(), CliError> {
    let screen = Screen {
        terminal: context.printer.stderr_is_terminal(),
        style: context.printer.error_style(),
        width: context.printer.width(),
    };
    context.printer.note(view.table(&screen).trim_end());
    let question = Question {
        text: "Write this?",
        flags: &["--yes"],
    };
    if context.prompt.confirm(question, true)? {
        Ok(())
    } else {
        Err(CliError::BrokenOff)
    }
}

fn plan(wanted: &Wanted<'_>) -> Result<(Plan, Installed), CliError> {
    let program = std::env::current_exe()
        .map_err(|error| CliError::new(format!("could not find this program's file: {error}")))?;
    let instance = wanted.instance;
    let surroundings = Surroundings {
        instance,
        program: &program,
    };
    let made = render(wanted.library, wanted.recipe, wanted.resolved, surroundings)?;
    let installed = Installed::load(instance)?;
    let plan = Plan::new(
        made,
        &installed,
        &|target| on_disk(instance, target),
        &|folder| instance.join(folder).is_dir(),
    );
    Ok((plan, installed))
}

/// The configuration that the answers make, read as the daemon would read it: a path of a socket that
/// is too long, or an answer that makes no sense together with another, is found before anything is
/// written. One that was edited by hand is the person's: it is read as well, and only warned about.
fn check_configuration(
    plan: &Plan,
    instance: &Path,
    recipe: &Recipe,
    context: &Context,
) -> Result<(), CliError> {
    for step in plan.steps.iter().filter(|step| step.what.is_wanted()) {
        if let Some(home) = home_of(&step.target, instance) {
            check_one(step, &home, recipe, context)?;
        }
    }
    Ok(())
}

/// Where a step's file is a daemon's configuration: the folder of that daemon.
pub(super) fn home_of(target: &str, instance: &Path) -> Option<PathBuf> {
    let folder = target.strip_suffix(config::FILE)?;
    if folder.is_empty() {
        return Some(instance.to_owned());
    }
    let folder = folder.strip_suffix('/')?;
    Some(instance.join(folder))
}

fn check_one(step: &Step, home: &Path, recipe: &Recipe, context: &Context) -> Result<(), CliError> {
    let file = home.join(config::FILE);
    let mistakes = |text: &[u8]| {
        let text = String::from_utf8_lossy(text);
        let parsed = config::parse(&text, &file, home, &environment);
        parsed
            .err()
            .map_or(Vec::new(), |error| error.mistakes().to_vec())
    };
    let made = mistakes(&step.new);
    if !made.is_empty() {
        let next = if made
            .iter()
            .any(|mistake| mistake.what.starts_with("admin.socket"))
        {
            "choose a shorter folder, or: --set config.socket=/run/zeoraid.sock".to_owned()
        } else {
            format!("zeoraidctl recipe options {}", recipe.name)
        };
        return Err(
            CliError::new("with these answers the configuration would make no sense")
                .with_details(made.iter().map(ToString::to_string))
                .with_next(next),
        );
    }
    if let (What::Kept | What::Edited, Some(old)) = (step.what, &step.old) {
        let found = mistakes(old);
        let found: Vec<_> = found
            .iter()
            .map(|it| escape(&it.to_string()).into_owned())
            .collect();
        if !found.is_empty() {
            context.printer.warning_with(
                &format!("{} was edited by hand and has mistakes:", step.target),
                &found,
            );
        }
    }
    Ok(())
}

fn choose(
    edited: Option<Edited>,
    yes: bool,
    step: &Step,
    context: &Context,
) -> Result<Choice, RecipeError> {
    match edited {
        Some(Edited::Beside) => return Ok(Choice::Beside),
        Some(Edited::Keep) => return Ok(Choice::Keep),
        Some(Edited::Replace) => return Ok(Choice::Replace),
        None if yes || !context.prompt.can_ask() => return Ok(Choice::Beside),
        None => {}
    }
    context
        .printer
        .note(diff(step, context.printer.error_style()).trim_end());
    let text = format!("{} was edited by hand. And now?", step.target);
    let items = [
        format!(
            "keep it, and write the new one beside it ({}.new)",
            step.target
        ),
        "keep it".to_owned(),
        format!(
            "take the new one, and keep the edited one beside it ({}.old)",
            step.target
        ),
    ];
    let question = Question {
        text: &text,
        flags: &["--edited"],
    };
    let index = context
        .prompt
        .select(question, &items, 0)
        .map_err(|error| RecipeError::Asking(Box::new(error)))?;
    Ok([Choice::Beside, Choice::Keep, Choice::Replace][index.min(2)])
}

fn choice_word(choice: Choice) -> &'static str {
    match choice {
        Choice::Beside => "kept; the new one is beside it, as .new",
        Choice::Keep => "kept",
        Choice::Replace => "replaced; the edited one is beside it, as .old",
    }
}
