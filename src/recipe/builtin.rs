//! The recipes and templates that are in the binary: the folders `recipes/` and `templates/`.

use include_dir::{Dir, include_dir};

static RECIPES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/recipes");
static TEMPLATES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/templates");

/// The recipe that `init` takes when none is named.
pub const DEFAULT: &str = "embedded";

/// The names of the built-in recipes, sorted.
pub fn recipes() -> Vec<&'static str> {
    let mut names: Vec<_> = RECIPES
        .files()
        .filter_map(|file| file.path().to_str()?.strip_suffix(".yaml"))
        .collect();
    names.sort_unstable();
    names
}

/// The text of a built-in recipe.
pub fn recipe(name: &str) -> Option<&'static str> {
    RECIPES.get_file(format!("{name}.yaml"))?.contents_utf8()
}

/// The names of the built-in templates, sorted.
pub fn templates() -> Vec<&'static str> {
    let mut names: Vec<_> = TEMPLATES
        .files()
        .filter_map(|file| file.path().to_str())
        .collect();
    names.sort_unstable();
    names
}

/// The text of a built-in template.
pub fn template(name: &str) -> Option<&'static str> {
    TEMPLATES.get_file(name)?.contents_utf8()
}
