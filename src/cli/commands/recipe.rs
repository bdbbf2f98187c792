//! `recipe`: what instances can be made of.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{Format, Paint, Screen, View, escape, table};
use crate::durable;
use crate::recipe::{Kind, Library, Recipe, starter};

/// Show the recipes that instances are made from
///
/// Those built in, those in the instance's folders `recipes` and `templates`, and those in
/// `~/.config/zeoraid`. How recipes and templates are written is in zeoraid-recipe(5):
/// `zeoraidctl man zeoraid-recipe`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  zeoraidctl recipe list
  zeoraidctl recipe options classic
  zeoraidctl recipe new mine          makes recipes/mine.yaml, to begin with
  zeoraidctl man zeoraid-recipe | man -l -")]
pub struct RecipeArgs {
    #[command(subcommand)]
    command: RecipeCommand,
}

#[derive(Debug, Subcommand)]
enum RecipeCommand {
    /// Show the recipes and additions, and what each makes
    #[command(after_help = "\
Example:
  zeoraidctl recipe list")]
    List,
    /// Show the text of a recipe
    #[command(after_help = "\
Examples:
  zeoraidctl recipe show embedded
  zeoraidctl recipe show systemd > recipes/mine.yaml")]
    Show {
        /// The recipe or addition
        name: String,
    },
    /// Show what can be answered with `init --set OPTION=VALUE`
    #[command(after_help = "\
Examples:
  zeoraidctl recipe options classic
  zeoraidctl recipe options monitoring -o json")]
    Options {
        /// The recipe or addition
        name: String,
    },
    /// Make a recipe and a template to begin with
    ///
    /// In the folders `recipes` and `templates` of the instance, or, outside of one, of
    /// `~/.config/zeoraid`. They work as they are, and say in comments how to go on.
    #[command(after_help = "\
Examples:
  zeoraidctl recipe new mine          makes recipes/mine.yaml
  zeoraidctl recipe new mine --user")]
    New {
        /// What it is to be called: letters, digits, `-` and `_`
        name: String,

        /// In `~/.config/zeoraid`, also where there is an instance
        #[arg(long)]
        user: bool,
    },
}

pub fn run(args: RecipeArgs, context: &Context) -> Result<Exit, CliError> {
    let instance = context.instance().ok();
    let library = library(instance.as_deref());
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
        RecipeCommand::New { name, user } => {
            let folder = instance.filter(|_| !user).or_else(persons_folder);
            let folder = folder.ok_or_else(|| {
                CliError::new(
                    "there is no instance here, and neither $XDG_CONFIG_HOME nor $HOME is set",
                )
            })?;
            new(&name, &folder, &library, context)?;
        }
    }
    Ok(Exit::Done)
}

/// Writes a recipe and its template. Nothing that is there is overwritten, nor hidden by one of its name.
fn new(name: &str, folder: &Path, library: &Library, context: &Context) -> Result<(), CliError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || !name.chars().all(allowed) {
        return Err(CliError::usage(format!(
            "`{name}` is no name for a recipe: letters, digits, `-` and `_` are expected"
        )));
    }
    if library.recipes().iter().any(|other| other == name) {
        let origin = library.recipe(name)?.origin;
        return Err(
            CliError::new(format!("there is a recipe `{name}` already: {origin}"))
                .with_next(format!("zeoraidctl recipe show {name}")),
        );
    }
    let files = [
        (format!("recipes/{name}.yaml"), starter::recipe(name)),
        (
            format!("templates/{}", starter::template_name(name)),
            starter::TEMPLATE.to_owned(),
        ),
    ];
    let mut view = NewView::default();
    for (file, _) in &files {
        let path = folder.join(file);
        if path.exists() {
            return Err(CliError::new(format!(
                "{} is there already; nothing was written",
                path.display()
            )));
        }
    }
    for (file, text) in files {
        let path = folder.join(file);
        let failed = |error| CliError::new(format!("could not write {}: {error}", path.display()));
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        durable::write_with_mode(&path, text.as_bytes(), 0o644).map_err(failed)?;
        view.written.push(path.display().to_string());
    }
    context.printer.print(&view)?;
    if context.printer.format == Format::Table {
        let style = context.printer.error_style();
        let word = style.paint(Paint::Strong, "Next:");
        let command = format!("zeoraidctl init DIR --recipe {name}");
        let command = style.paint(Paint::Command, &command);
        context
            .printer
            .note(&format!("{word} edit them as you like, then: {command}"));
    }
    Ok(())
}

#[derive(Default, Serialize)]
struct NewView {
    written: Vec<String>,
}

impl View for NewView {
    fn table(&self, _: &Screen) -> String {
        let lines = self
            .written
            .iter()
            .map(|path| format!("{}\n", escape(path)));
        lines.collect()
    }
}

/// Where recipes are looked for.
pub(super) fn library(instance: Option<&Path>) -> Library {
    let folders = instance.map(Path::to_owned).into_iter();
    Library::new(folders.chain(persons_folder()).collect())
}

fn persons_folder() -> Option<PathBuf> {
    let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = config.or_else(|| {
        let home = std::env::var_os("HOME")?;
        Some(PathBuf::from(home).join(".config"))
    });
    config.map(|folder| folder.join("zeoraid"))
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
            let names = recipes.iter().map(|recipe| recipe.name.chars().count());
            let name = names.chain([heads[0].len()]).max().unwrap_or(0);
            let room = screen.width.saturating_sub(name + 4).max(20);
            let rows = recipes.iter().map(|recipe| {
                let mut lines = table::wrap(&escape(&recipe.description), room);
                let below = lines.split_off(1);
                let name = screen.style.paint(Paint::Strong, &escape(&recipe.name));
                lines.insert(0, name);
                table::Row {
                    cells: lines,
                    below,
                }
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
                Some(default) if default.contains("{{") => "(made from your other answers)",
                Some(default) => default,
            };
            let text = match &option.help {
                Some(help) if option.prompt.ends_with('?') => format!("{} {help}", option.prompt),
                Some(help) => format!("{}. {help}", option.prompt),
                None => option.prompt.clone(),
            };
            table::Row {
                cells: vec![
                    screen.style.paint(Paint::Strong, &escape(&option.name)),
                    escape(&kind).into_owned(),
                    escape(default).into_owned(),
                ],
                below: vec![escape(&text).into_owned()],
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::Style;

    fn screen(width: usize) -> Screen {
        Screen {
            style: Style::PLAIN,
            terminal: true,
            width,
        }
    }

    #[test]
    fn a_description_is_a_line_of_eighty_columns() {
        let library = Library::new(Vec::new());
        let mut view = ListView::default();
        for name in library.recipes() {
            let recipe = Recipe::load(&library, &name).unwrap();
            let list = if recipe.addition {
                &mut view.additions
            } else {
                &mut view.recipes
            };
            list.push(ListedRecipe {
                name,
                description: recipe.description,
            });
        }
        assert!(view.additions.len() > 5, "they were found");
        let text = view.table(&screen(80));
        for recipe in view.recipes.iter().chain(&view.additions) {
            let line = text
                .lines()
                .find(|line| line.ends_with(&recipe.description));
            let line = line.unwrap_or_else(|| panic!("{}: in two lines:\n{text}", recipe.name));
            assert!(line.chars().count() <= 80, "{line}");
        }
    }

    #[test]
    fn what_is_longer_goes_on_below() {
        let own = ListedRecipe {
            name: "own".into(),
            description: "what somebody made at home and described at length".into(),
        };
        let view = ListView {
            recipes: vec![own],
            additions: Vec::new(),
        };
        assert_eq!(
            view.table(&screen(40)),
            "  RECIPE  WHAT IT MAKES\n  own     what somebody made at home and\n          described at length\n"
        );
    }
}
