//! For tests: recipes in a folder of their own, rendered for `/i`.

use std::collections::BTreeMap;
use std::path::Path;

use super::options::{Answers, resolve};
use super::render::{Made, Surroundings, render};
use super::{Library, Recipe};

/// What these recipes give, one combined with others; the only template of theirs is `t`. A mistake is
/// without the folder.
pub(super) fn make(
    recipes: &[(&str, &str)],
    template: &str,
    recipe: &str,
    with: &[&str],
    answers: &[(&str, &str)],
) -> Result<Made, String> {
    let folder = tempfile::tempdir().unwrap();
    for kind in ["recipes", "templates"] {
        std::fs::create_dir(folder.path().join(kind)).unwrap();
    }
    for (name, text) in recipes {
        std::fs::write(folder.path().join(format!("recipes/{name}.yaml")), text).unwrap();
    }
    std::fs::write(folder.path().join("templates/t"), template).unwrap();
    let library = Library::new(vec![folder.path().to_owned()]);
    let instance = Path::new("/i");
    let surroundings = Surroundings {
        instance,
        program: Path::new("/p"),
    };
    let set: BTreeMap<_, _> = answers
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    let answers = Answers {
        set,
        ..Answers::default()
    };
    let with: Vec<String> = with.iter().map(|name| (*name).to_owned()).collect();
    let made = Recipe::combined(&library, recipe, &with).and_then(|recipe| {
        let resolved = resolve(&recipe, &answers, instance, &mut |_| Ok(None))?;
        render(&library, &recipe, &resolved, surroundings)
    });
    made.map_err(|error| {
        let text = error.to_string();
        text.replace(&format!("{}/", folder.path().display()), "")
    })
}
