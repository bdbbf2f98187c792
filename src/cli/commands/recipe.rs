//! `recipe`: what instances can be made of.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{Paint, Screen, View, escape, table};
use crate::recipe::{Kind, Library, Recipe};

/// Show the recipes that instances are made from
///
/// Those built in, those in the instance's folders `recipes` and `templates`, and those in
/// `~/.config/zeoraid`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  zeoraidctl recipe list
  zeoraidctl recipe options embedded")]
pub struct RecipeArgs {
    #[command(subcommand)]
    command: RecipeCommand,
}

#[derive(Debug, Subcommand)]
enum RecipeCommand {
    /// Show the names of the recipes
    List,
    /// Show the text of a recipe
    Show { name: String },
    /// Show what can be answered with `init --set OPTION=VALUE`
    Options { name: String },
}

pub fn run(args: RecipeArgs, context: &Context) -> Result<Exit, CliError> {
    let library = library(context.instance().ok().as_deref());
    match args.command {
        RecipeCommand::List => {
            let mut view = ListView::default();
            for name in library.recipes() {
                let (addition, description) = match Recipe::load(&library, &name) {
                    Ok(recipe) => (recipe.addition, recipe.description),
                    // One that cannot be read is listed with its mistake: it is looked for here.
                    Err(error) => (false, error.to_string()),
                };
                let list = if addition {
                    &mut view.additions
                } else {
                    &mut view.recipes
                };
                list.push(ListedRecipe { name, description });
            }
            context.printer.print(&view)?;
        }
        RecipeCommand::Show { name } => {
            let source = library.recipe(&name)?;
            context.printer.note(&format!("# {}", source.origin));
            context.printer.write(&source.text)?;
        }
        RecipeCommand::Options { name } => {
            let recipe = Recipe::load(&library, &name)?;
            let options = recipe.options.iter().map(|option| ListedOption {
                name: option.name.clone(),
                kind: option.kind.name(),
                choices: match &option.kind {
                    Kind::Choice(choices) => choices.clone(),
                    _ => Vec::new(),
                },
                default: option.default.clone(),
                prompt: option.prompt.clone(),
                help: option.help.clone(),
            });
            let options = options.collect();
            context.printer.print(&OptionsView { options })?;
        }
    }
    Ok(Exit::Done)
}

/// Where recipes are looked for.
pub(super) fn library(instance: Option<&Path>) -> Library {
    let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = config.or_else(|| {
        let home = std::env::var_os("HOME")?;
        Some(PathBuf::from(home).join(".config"))
    });
    let person = config.map(|folder| folder.join("zeoraid"));
    let folders = instance.map(Path::to_owned).into_iter().chain(person);
    Library::new(folders.collect())
}

#[derive(Default, Serialize)]
struct ListView {
    recipes: Vec<ListedRecipe>,
    additions: Vec<ListedRecipe>,
}

#[derive(Serialize)]
struct ListedRecipe {
    name: String,
    description: String,
}

impl View for ListView {
    fn table(&self, screen: &Screen) -> String {
        let list = |heads: [&str; 2], recipes: &[ListedRecipe]| {
            let rows = recipes.iter().map(|recipe| table::Row {
                cells: vec![
                    screen.style.paint(Paint::Strong, &escape(&recipe.name)),
                    escape(&recipe.description).into_owned(),
                ],
                below: Vec::new(),
            });
            table::columns(&heads, rows.collect(), None, screen.width, screen.style)
        };
        let mut text = list(["RECIPE", "WHAT IT MAKES"], &self.recipes);
        if !self.additions.is_empty() {
            text += "\n";
            text += &list(
                ["ADDITION", "WHAT IT ADDS (`init --with`)"],
                &self.additions,
            );
        }
        text
    }
}

#[derive(Serialize)]
struct OptionsView {
    options: Vec<ListedOption>,
}

#[derive(Serialize)]
struct ListedOption {
    name: String,
    kind: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    choices: Vec<String>,
    default: Option<String>,
    prompt: String,
    help: Option<String>,
}

impl View for OptionsView {
    fn table(&self, screen: &Screen) -> String {
        let rows = self.options.iter().map(|option| {
            let kind = if option.choices.is_empty() {
                option.kind.to_owned()
            } else {
                option.choices.join(", ")
            };
            let default = match option.default.as_deref() {
                None => "-",
                Some(default) if default.contains("{{") => "(from the others)",
                Some(default) => default,
            };
            let text = match &option.help {
                Some(help) => format!("{}. {help}", option.prompt),
                None => option.prompt.clone(),
            };
            let room = screen.width.saturating_sub(16).max(20);
            table::Row {
                cells: vec![
                    screen.style.paint(Paint::Strong, &escape(&option.name)),
                    escape(&kind).into_owned(),
                    escape(default).into_owned(),
                ],
                below: table::wrap(&escape(&text), room),
            }
        });
        table::columns(
            &["OPTION", "VALUES", "DEFAULT"],
            rows.collect(),
            None,
            screen.width,
            screen.style,
        )
    }
}
