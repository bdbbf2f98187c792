//! `update`: renders an instance's recipe again.
//!
//! `init` without a question about what it is to be: for a new version of this program or of a recipe, and
//! for what was changed in `recipe.yaml`.

use clap::Args;

use super::recipe::library;
use super::writing::{self, Wanted, WritingArgs};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::Format;
use crate::cli::place::find_made;
use crate::recipe::Recipe;
use crate::recipe::installed::OwnRecipe;
use crate::recipe::options::{Answers, resolve};

/// Write what the instance's recipe gives now
///
/// For after a new version of zeoraidctl or of a recipe, and after `recipe.yaml` was edited. Only what has
/// changed is written; a file that was edited by hand is never overwritten silently, and data is never
/// touched.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  zeoraidctl update --diff       what would change
  zeoraidctl update --yes --edited keep")]
pub struct UpdateArgs {
    /// Ask nothing
    #[arg(short, long)]
    yes: bool,

    #[command(flatten)]
    writing: WritingArgs,
}

pub async fn run(args: &UpdateArgs, context: &Context) -> Result<Exit, CliError> {
    let instance = find_made(context)?;
    let Some(stored) = OwnRecipe::load(&instance)? else {
        let message = format!(
            "there is no recipe.yaml in {}, which says what it is made of",
            instance.display()
        );
        let next = format!("zeoraidctl init {}", instance.display());
        return Err(CliError::new(message).with_next(next));
    };
    let library = library(Some(&instance));
    let recipe = Recipe::combined(&library, &stored.recipe, &stored.with)?;
    let answers = Answers {
        stored: stored.as_answers(),
        ..Answers::default()
    };
    let resolved = resolve(&recipe, &answers, &instance, &mut |_| Ok(None))?;
    let wanted = Wanted {
        library: &library,
        recipe: &recipe,
        resolved: &resolved,
        instance: &instance,
    };
    let written = writing::write(&wanted, &args.writing, args.yes, context)?;
    if written.wrote && written.changes && context.printer.format == Format::Table {
        written.running.show_next(true, context).await;
    }
    Ok(Exit::Done)
}
