//! `init`: makes an instance from a recipe, or brings one up to date.
//!
//! The steps: find the answers, render, compare with what is there, check the configuration that would
//! result, show what would be done, ask, write. Nothing is written before the last step.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use similar::TextDiff;

use super::recipe::library;
use super::start::{self, StartArgs};
use crate::cli::context::{Context, environment};
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{Format, Paint, Screen, Style, View, escape};
use crate::cli::prompt::Question;
use crate::config;
use crate::recipe::apply::{Choice, apply, on_disk};
use crate::recipe::installed::{self, Installed, OwnRecipe};
use crate::recipe::options::{Answers, Resolved, resolve};
use crate::recipe::plan::{Plan, Step, What};
use crate::recipe::render::{Surroundings, render};
use crate::recipe::{Kind, Library, OptionSpec, Recipe, RecipeError, builtin};

/// Make an instance, or bring one up to date
///
/// Asks what it is to be, shows what will be written, and writes it: the configuration, a wrapper
/// `bin/zeoraidctl`, and examples for clients. Run again it writes only what has changed; a file that
/// was edited by hand is never overwritten silently, and data is never touched.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  zeoraidctl init /srv/zodb                      asks
  zeoraidctl init /srv/zodb --yes --start        two copies, all defaults
  zeoraidctl init . --set members=3 --set listen=0.0.0.0:8100 --yes
  zeoraidctl init . --set adopt=/srv/old/Data.fs
  zeoraidctl init . --diff                       what would change")]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag that people type"
)]
pub struct InitArgs {
    /// The instance's folder [default: --instance, else this folder]
    dir: Option<PathBuf>,

    /// What to make it from; see `zeoraidctl recipe list` [default: embedded]
    #[arg(short, long, value_name = "NAME")]
    recipe: Option<String>,

    /// Answer a question; see `zeoraidctl recipe options NAME`
    #[arg(short, long = "set", value_name = "OPTION=VALUE", value_parser = parse_set)]
    set: Vec<(String, String)>,

    /// Take answers from a YAML file
    #[arg(long, value_name = "FILE")]
    answers: Option<PathBuf>,

    /// Ask nothing: take the defaults for what is not answered
    #[arg(short, long)]
    yes: bool,

    /// What to do with files that were edited by hand and would be written differently
    #[arg(long, value_enum, value_name = "WHAT")]
    edited: Option<Edited>,

    /// Start it, and show its details
    #[arg(long, conflicts_with_all = ["dry_run", "diff"])]
    start: bool,

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

pub async fn run(args: InitArgs, context: &Context) -> Result<Exit, CliError> {
    let instance = folder(&args, context)?;
    let library = library(Some(&instance));
    let stored = OwnRecipe::load(&instance)?;
    let recipe = Recipe::load(
        &library,
        &recipe_name(&args, stored.as_ref(), &library, context)?,
    )?;
    let resolved = answers(&args, stored.as_ref(), &recipe, &instance, context)?;
    let own = OwnRecipe::from_resolved(&recipe.name, &resolved);
    let (plan, installed) = plan(&library, &recipe, &resolved, &instance)?;
    check_configuration(&plan, &instance)?;

    let may_write = !args.dry_run && !args.diff;
    if args.diff {
        let style = context.printer.screen().style;
        let diffs = plan.steps.iter().filter(|step| step.what.is_change());
        let text: String = diffs.map(|step| diff(step, style)).collect();
        context.printer.write(&text)?;
        return Ok(Exit::Done);
    }
    let same_recipe = stored
        .as_ref()
        .is_some_and(|stored| stored.says_the_same(&own));
    if !may_write || (plan.is_empty() && same_recipe) {
        context
            .printer
            .print(&InitView::new(&instance, &recipe, &plan, !may_write))?;
    } else {
        if !args.yes && context.prompt.can_ask() {
            let view = InitView::new(&instance, &recipe, &plan, true);
            let screen = Screen {
                style: context.printer.error_style(),
                width: context.printer.width(),
            };
            context.printer.note(view.table(&screen).trim_end());
            let question = Question {
                text: "Write this?",
                flags: &["--yes"],
            };
            if !context.prompt.confirm(question, true)? {
                return Err(CliError::BrokenOff);
            }
        }
        let mut choose = |step: &Step| choose(&args, step, context);
        let done = apply(&instance, &plan, installed, &own, &mut choose)?;
        let mut view = InitView::new(&instance, &recipe, &plan, false);
        for (file, done) in view.files.iter_mut().zip(&done) {
            file.choice = done.choice.map(choice_word);
        }
        context.printer.print(&view)?;
    }
    if args.start {
        return start::in_instance(&StartArgs::default(), &instance, context).await;
    }
    if may_write && context.printer.format == Format::Table {
        next(&instance, context);
    }
    Ok(Exit::Done)
}

fn next(instance: &Path, context: &Context) {
    let wrapper = instance.join("bin/zeoraidctl");
    let style = context.printer.error_style();
    let word = style.paint(Paint::Strong, "Next:");
    let command = format!("{} start", wrapper.display());
    context.printer.note(&format!(
        "{word} {}",
        style.paint(Paint::Command, &escape(&command))
    ));
}

/// Absolute, and without links where it exists: it goes into files.
fn folder(args: &InitArgs, context: &Context) -> Result<PathBuf, CliError> {
    let named = args.dir.as_ref().or(context.global.instance.as_ref());
    let folder = std::path::absolute(named.map_or(Path::new("."), PathBuf::as_path))
        .map_err(|error| CliError::new(format!("could not find the folder: {error}")))?;
    if folder.exists() && !folder.is_dir() {
        return Err(CliError::new(format!(
            "{} is not a folder",
            folder.display()
        )));
    }
    Ok(std::fs::canonicalize(&folder).unwrap_or(folder))
}

fn recipe_name(
    args: &InitArgs,
    stored: Option<&OwnRecipe>,
    library: &Library,
    context: &Context,
) -> Result<String, CliError> {
    if let Some(name) = &args.recipe {
        return Ok(name.clone());
    }
    if let Some(stored) = stored {
        return Ok(stored.recipe.clone());
    }
    if args.yes || !context.prompt.can_ask() {
        return Ok(builtin::DEFAULT.to_owned());
    }
    let names = library.recipes();
    let items: Vec<String> = names
        .iter()
        .map(|name| match Recipe::load(library, name) {
            Ok(recipe) => format!("{}  {}", escape(name), escape(&recipe.description)),
            Err(error) => format!("{}  ({})", escape(name), escape(&error.to_string())),
        })
        .collect();
    let default = names
        .iter()
        .position(|name| name == builtin::DEFAULT)
        .unwrap_or(0);
    let question = Question {
        text: "What is it to be?",
        flags: &["--recipe"],
    };
    let index = context.prompt.select(question, &items, default)?;
    Ok(names
        .into_iter()
        .nth(index)
        .unwrap_or_else(|| builtin::DEFAULT.to_owned()))
}

fn answers(
    args: &InitArgs,
    stored: Option<&OwnRecipe>,
    recipe: &Recipe,
    instance: &Path,
    context: &Context,
) -> Result<Resolved, CliError> {
    let file = match &args.answers {
        Some(path) => Some((
            path.display().to_string(),
            installed::read_answers_file(path)?,
        )),
        None => None,
    };
    let answers = Answers {
        set: args.set.iter().cloned().collect::<BTreeMap<_, _>>(),
        file,
        // Another recipe's answers answer nothing here.
        stored: stored
            .filter(|stored| stored.recipe == recipe.name)
            .map(OwnRecipe::as_answers)
            .unwrap_or_default(),
    };
    let mut ask = |option: &OptionSpec, default: &str| {
        if args.yes {
            return Ok(None);
        }
        ask_option(option, default, instance, context).map(Some)
    };
    Ok(resolve(recipe, &answers, instance, &mut ask)?)
}

fn ask_option(
    option: &OptionSpec,
    default: &str,
    instance: &Path,
    context: &Context,
) -> Result<String, RecipeError> {
    let flag = format!("--set {}=VALUE", option.name);
    let question = Question {
        text: &option.prompt,
        flags: &[&flag, "--yes"],
    };
    if let Some(help) = &option.help
        && context.prompt.can_ask()
    {
        let style = context.printer.error_style();
        context
            .printer
            .note(&style.paint(Paint::Faint, &escape(help)));
    }
    let answer = match &option.kind {
        Kind::Choice(choices) => {
            let index = choices
                .iter()
                .position(|choice| choice == default)
                .unwrap_or(0);
            let answer = context.prompt.select(question, choices, index);
            answer.map(|index| choices[index].clone())
        }
        Kind::Flag => {
            let answer = context.prompt.confirm(question, default == "yes");
            answer.map(|yes| if yes { "yes" } else { "no" }.to_owned())
        }
        _ => {
            let check = |text: &str| option.check(text, instance).map(|_| ());
            context.prompt.input(question, default, &check)
        }
    };
    answer.map_err(|error| RecipeError::Asking(Box::new(error)))
}

fn plan(
    library: &Library,
    recipe: &Recipe,
    resolved: &Resolved,
    instance: &Path,
) -> Result<(Plan, Installed), CliError> {
    let program = std::env::current_exe()
        .map_err(|error| CliError::new(format!("could not find this program's file: {error}")))?;
    let surroundings = Surroundings {
        instance,
        program: &program,
    };
    let rendered = render(library, recipe, resolved, surroundings)?;
    let installed = Installed::load(instance)?;
    let plan = Plan::new(
        rendered,
        &recipe.folders,
        &installed,
        &|target| on_disk(instance, target),
        &|folder| instance.join(folder).is_dir(),
    );
    Ok((plan, installed))
}

/// The configuration that would be in force, read as the daemon would read it: a path of a socket that
/// is too long, or an answer that makes no sense together with another, is found before anything is
/// written.
fn check_configuration(plan: &Plan, instance: &Path) -> Result<(), CliError> {
    let Some(step) = plan.steps.iter().find(|step| step.target == config::FILE) else {
        return Ok(());
    };
    let text = match (step.what, &step.old) {
        // The edited one stays in force, whatever is written beside it.
        (What::Kept | What::Edited, Some(old)) => String::from_utf8_lossy(old),
        _ => String::from_utf8_lossy(&step.new),
    };
    let file = instance.join(config::FILE);
    config::parse(&text, &file, instance, &environment)?;
    Ok(())
}

fn choose(args: &InitArgs, step: &Step, context: &Context) -> Result<Choice, RecipeError> {
    match args.edited {
        Some(Edited::Beside) => return Ok(Choice::Beside),
        Some(Edited::Keep) => return Ok(Choice::Keep),
        Some(Edited::Replace) => return Ok(Choice::Replace),
        None if args.yes || !context.prompt.can_ask() => return Ok(Choice::Beside),
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

/// The unified diff of a file.
fn diff(step: &Step, style: Style) -> String {
    let old = String::from_utf8_lossy(step.old.as_deref().unwrap_or_default());
    let new = String::from_utf8_lossy(&step.new);
    if old == new {
        return String::new();
    }
    let (from, to) = match step.what {
        What::Create => ("/dev/null".to_owned(), format!("b/{}", step.target)),
        What::Remove => (format!("a/{}", step.target), "/dev/null".to_owned()),
        _ => (format!("a/{}", step.target), format!("b/{}", step.target)),
    };
    let diff = TextDiff::from_lines(old.as_ref(), new.as_ref());
    let text = diff.unified_diff().header(&from, &to).to_string();
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

#[derive(Serialize)]
struct InitView {
    instance: String,
    recipe: String,
    /// Nothing was written.
    dry_run: bool,
    folders: Vec<String>,
    files: Vec<FileView>,
}

#[derive(Serialize)]
struct FileView {
    target: String,
    action: &'static str,
    changes: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    choice: Option<&'static str>,
}

impl InitView {
    fn new(instance: &Path, recipe: &Recipe, plan: &Plan, dry_run: bool) -> Self {
        let files = plan.steps.iter().map(|step| FileView {
            target: step.target.clone(),
            action: action(step.what),
            changes: step.what.is_change(),
            choice: None,
        });
        InitView {
            instance: instance.display().to_string(),
            recipe: recipe.name.clone(),
            dry_run,
            folders: plan
                .folders
                .iter()
                .map(|(folder, _)| folder.clone())
                .collect(),
            files: files.collect(),
        }
    }
}

impl View for InitView {
    fn table(&self, screen: &Screen) -> String {
        let style = screen.style;
        let instance = style.paint(Paint::Strong, &escape(&self.instance));
        let changes = !self.folders.is_empty() || self.files.iter().any(|file| file.changes);
        let mut text = format!("Instance {instance}, recipe {}", escape(&self.recipe));
        text += if changes { "\n" } else { ": up to date\n" };
        for folder in &self.folders {
            text += &format!("  {:<10} {}/\n", "create", escape(folder));
        }
        for file in &self.files {
            if !file.changes && !changes && file.action == "unchanged" {
                continue;
            }
            let action = if file.changes {
                style.paint(Paint::Warning, &format!("{:<10}", file.action))
            } else {
                style.paint(Paint::Faint, &format!("{:<10}", file.action))
            };
            let choice = file
                .choice
                .map(|choice| format!("   {choice}"))
                .unwrap_or_default();
            text += &format!("  {action} {}{choice}\n", escape(&file.target));
        }
        text
    }
}

fn action(what: What) -> &'static str {
    match what {
        What::Create => "create",
        What::Rewrite => "rewrite",
        What::ChangeMode => "chmod",
        What::Unchanged => "unchanged",
        What::Kept => "edited",
        What::Edited => "conflict",
        What::Remove => "remove",
        What::Left => "leave",
        What::Forget => "gone",
    }
}

fn parse_set(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("OPTION=VALUE is expected".to_owned())?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}
