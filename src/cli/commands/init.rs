//! `init`: makes an instance from a recipe, or brings one up to date.
//!
//! Here the answers are found; [`super::writing`] does the rest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;

use super::recipe::library;
use super::writing::{self, Wanted, WritingArgs};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{Format, Paint, escape};
use crate::cli::prompt::Question;
use crate::recipe::installed::{self, OwnRecipe};
use crate::recipe::options::{Answers, Asked, Resolved, resolve};
use crate::recipe::{Kind, Library, Recipe, RecipeError, builtin};

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
  zeoraidctl init . --recipe classic --with systemd,monitoring
  zeoraidctl init . --diff                       what would change")]
pub struct InitArgs {
    /// The instance's folder [default: --instance, else this folder]
    dir: Option<PathBuf>,

    /// What to make it from; see `zeoraidctl recipe list` [default: embedded]
    #[arg(short, long, value_name = "NAME")]
    recipe: Option<String>,

    /// Add this to it; see `zeoraidctl recipe list`
    #[arg(short, long, value_name = "NAME", value_delimiter = ',')]
    with: Vec<String>,

    /// Take that away again
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    without: Vec<String>,

    /// Answer a question; see `zeoraidctl recipe options NAME`
    #[arg(short, long = "set", value_name = "OPTION=VALUE", value_parser = parse_set)]
    set: Vec<(String, String)>,

    /// Take answers from a YAML file
    #[arg(long, value_name = "FILE")]
    answers: Option<PathBuf>,

    /// Ask nothing: take the defaults for what is not answered
    #[arg(short, long)]
    yes: bool,

    #[command(flatten)]
    writing: WritingArgs,

    /// Start it, and show its details
    #[arg(long, conflicts_with_all = ["dry_run", "diff"])]
    start: bool,
}

pub async fn run(args: InitArgs, context: &Context) -> Result<Exit, CliError> {
    let instance = folder(&args, context)?;
    let library = library(Some(&instance));
    let stored = OwnRecipe::load(&instance)?;
    let name = recipe_name(&args, stored.as_ref(), &library, context)?;
    let with = additions(&args, stored.as_ref(), &library, context)?;
    let recipe = Recipe::combined(&library, &name, &with)?;
    let resolved = answers(&args, stored.as_ref(), &recipe, &instance, context)?;
    let wanted = Wanted {
        library: &library,
        recipe: &recipe,
        resolved: &resolved,
        instance: &instance,
    };
    let written = writing::write(&wanted, &args.writing, args.yes, context)?;
    if args.start {
        return written.running.start(context).await;
    }
    if written.wrote && context.printer.format == Format::Table {
        written.running.show_next(written.changes, context).await;
    }
    Ok(Exit::Done)
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
    let names = names(library, false);
    let items = described(&names, library);
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

/// The additions: those that were chosen before, and what is said now.
fn additions(
    args: &InitArgs,
    stored: Option<&OwnRecipe>,
    library: &Library,
    context: &Context,
) -> Result<Vec<String>, CliError> {
    let mut with = stored.map(|stored| stored.with.clone()).unwrap_or_default();
    let is_new = stored.is_none() && args.recipe.is_none();
    if is_new && args.with.is_empty() && !args.yes && context.prompt.can_ask() {
        let names = names(library, true);
        let items = described(&names, library);
        let items: Vec<_> = items.into_iter().map(|item| (item, false)).collect();
        let question = Question {
            text: "And what besides?",
            flags: &["--with"],
        };
        if !items.is_empty() {
            let chosen = context.prompt.multi_select(question, &items)?;
            with.extend(
                chosen
                    .into_iter()
                    .filter_map(|index| names.get(index).cloned()),
            );
        }
    }
    for name in args.with.iter().filter(|name| !name.is_empty()) {
        if !with.contains(name) {
            with.push(name.clone());
        }
    }
    for name in &args.without {
        if !with.contains(name) {
            let there = if with.is_empty() {
                "there is none".to_owned()
            } else {
                format!("there are: {}", with.join(", "))
            };
            return Err(CliError::usage(format!(
                "`--without {name}`: it is no addition of this instance; {there}"
            )));
        }
        with.retain(|other| other != name);
    }
    Ok(with)
}

/// The recipes that make an instance, or the additions. One that cannot be read could be either, and is
/// no addition.
fn names(library: &Library, additions: bool) -> Vec<String> {
    let mut names = library.recipes();
    names.retain(|name| {
        Recipe::load(library, name).is_ok_and(|recipe| recipe.addition) == additions
    });
    names
}

fn described(names: &[String], library: &Library) -> Vec<String> {
    let described = names.iter().map(|name| match Recipe::load(library, name) {
        Ok(recipe) => format!("{}  {}", escape(name), escape(&recipe.description)),
        Err(error) => format!("{}  ({})", escape(name), escape(&error.to_string())),
    });
    described.collect()
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
    let is_stored = !answers.stored.is_empty();
    let with = stored.map(|stored| stored.with.clone()).unwrap_or_default();
    let mut ask = |asked: Asked<'_>| {
        // What was left to follow other answers was answered once: it is not asked again.
        let was_left = is_stored && recipe.with == with && recipe.follows_others(asked.option);
        if args.yes || was_left {
            return Ok(None);
        }
        ask_option(asked, context).map(Some)
    };
    Ok(resolve(recipe, &answers, instance, &mut ask)?)
}

fn ask_option(asked: Asked<'_>, context: &Context) -> Result<String, RecipeError> {
    let Asked {
        option, default, ..
    } = asked;
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
        _ => context.prompt.input(question, default, asked.check),
    };
    answer.map_err(|error| RecipeError::Asking(Box::new(error)))
}

fn parse_set(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("OPTION=VALUE is expected".to_owned())?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

#[cfg(test)]
mod tests;
