//! Reads recipes: what one extends, and what is combined with it.

use super::error::RecipeError;
use super::library::Library;
use super::model::{Kind, Need, OptionSpec, Place, Recipe};
use super::raw::{At, RawRecipe, parse, scalar_text};

impl Recipe {
    /// Reads a recipe and what it extends.
    pub fn load(library: &Library, name: &str) -> Result<Recipe, RecipeError> {
        let recipe = read(library, name)?;
        // What an addition names may be of the recipe that it will be combined with.
        if !recipe.addition {
            recipe.check(library)?;
        }
        Ok(recipe)
    }

    /// Reads a recipe and additions to it, in their order.
    pub fn combined(
        library: &Library,
        name: &str,
        additions: &[String],
    ) -> Result<Recipe, RecipeError> {
        let mut recipe = read(library, name)?;
        if recipe.addition {
            return Err(RecipeError::OnlyAnAddition {
                name: name.to_owned(),
            });
        }
        for name in additions {
            let addition = read(library, name)?;
            if !addition.addition {
                return Err(RecipeError::NoAddition {
                    name: name.clone(),
                    base: recipe.name,
                });
            }
            recipe.combine(addition)?;
        }
        recipe.check(library)?;
        Ok(recipe)
    }

    /// What both have by the same place (an addition that both extend) is there once. What only has the
    /// same name is a mistake: neither knows of the other.
    fn combine(&mut self, addition: Recipe) -> Result<(), RecipeError> {
        let taken = |kind: &str, name: &str, here: &Place, there: &Place| {
            let what = format!(
                "the {kind} `{name}` is also in {}{}, so the two cannot be combined; a name of its own \
                 is expected",
                there.file,
                there
                    .line
                    .map(|line| format!(":{line}"))
                    .unwrap_or_default()
            );
            here.mistake(what)
        };
        for option in addition.options {
            match self.option(&option.name) {
                None => self.options.push(option),
                Some(old) if old.place == option.place => {}
                Some(old) => return Err(taken("option", &option.name, &option.place, &old.place)),
            }
        }
        for part in addition.parts {
            match self.part(&part.name) {
                None => self.parts.push(part),
                Some(old) if old.place == part.place => {}
                Some(old) => return Err(taken("part", &part.name, &part.place, &old.place)),
            }
        }
        for folder in addition.folders {
            match self.folders.iter().find(|old| old.path == folder.path) {
                None => self.folders.push(folder),
                Some(old) if old.mode == folder.mode => {}
                Some(old) => return Err(taken("folder", &folder.path, &folder.place, &old.place)),
            }
        }
        for need in addition.needs {
            let known = self.option_names();
            let option = self.options.iter_mut().find(|o| o.name == need.option);
            let option = option.ok_or_else(|| {
                need.place.mistake(format!(
                    "`{}` needs an option `{}`, which `{}` does not have; it has: {known}",
                    addition.name, need.option, self.name
                ))
            })?;
            option.optional = false;
            option.ask = true;
            if option.default.as_deref().is_none_or(str::is_empty) {
                option.default = Some(need.default);
            }
            option.needed_by = Some(addition.name.clone());
        }
        self.with.push(addition.name);
        Ok(())
    }

    fn add(
        &mut self,
        library: &Library,
        name: &str,
        above: &mut Vec<String>,
        done: &mut Vec<String>,
        from: Option<&Place>,
    ) -> Result<(), RecipeError> {
        if above.iter().any(|other| other == name) {
            let from = from.cloned().unwrap_or_default();
            let way = above.join("` extends `");
            return Err(from.mistake(format!(
                "`{way}` extends `{name}`: a recipe cannot extend itself"
            )));
        }
        // Two may extend the same: it is there once, and what the first made of it stays.
        if done.iter().any(|other| other == name) {
            return Ok(());
        }
        let source = library.recipe(name).map_err(|error| match (error, from) {
            (error @ RecipeError::NotFound { .. }, Some(from)) => from.mistake(error.to_string()),
            (error, _) => error,
        })?;
        let raw: RawRecipe = parse(&source)?;
        let at = |path: &[&'static str]| At::new(&source, path);
        above.push(name.to_owned());
        for extended in raw.extends.all() {
            self.add(
                library,
                extended,
                above,
                done,
                Some(&at(&["extends"]).place()),
            )?;
        }
        above.pop();
        done.push(name.to_owned());

        self.description = raw.description;
        self.addition = raw.addition;
        for (option, default) in &raw.needs {
            let place = At::new(&source, &["needs", option]).place();
            let default = scalar_text(default)
                .ok_or_else(|| place.mistake(format!("one value for `{option}` is expected")))?;
            self.needs.push(Need {
                option: option.clone(),
                default,
                place,
            });
        }
        for (index, raw) in raw.options.into_iter().enumerate() {
            let index = index.to_string();
            let at = At::new(&source, &["options", &index]);
            let before = raw.before.clone();
            let option = raw.checked(&at)?;
            self.add_option(option, before.as_deref(), &at)?;
        }
        for (path, raw) in raw.folders {
            let at = At::new(&source, &["folders", &path]);
            self.folders.retain(|folder| folder.path != path);
            if let Some(raw) = raw {
                self.folders.push(raw.checked(path.clone(), &at)?);
            }
        }
        for (key, raw) in raw.parts {
            let at = At::new(&source, &["parts", &key]);
            let Some(raw) = raw else {
                if self.part(&key).is_none() {
                    let what = format!("there is no part `{key}` to take away");
                    return Err(at.mistake(&[], what));
                }
                self.parts.retain(|part| part.name != key);
                continue;
            };
            let part = raw.checked(key.clone(), &at)?;
            match self.parts.iter_mut().find(|old| old.name == part.name) {
                Some(old) => *old = part,
                None => self.parts.push(part),
            }
        }
        Ok(())
    }

    fn add_option(
        &mut self,
        option: OptionSpec,
        before: Option<&str>,
        at: &At<'_>,
    ) -> Result<(), RecipeError> {
        if let Some(old) = self.options.iter_mut().find(|old| old.name == option.name) {
            if old.place.file == option.place.file {
                let what = format!("the option `{}` is there twice", option.name);
                return Err(at.mistake(&[], what));
            }
            *old = option;
            return Ok(());
        }
        let position = match before {
            None => self.options.len(),
            Some(before) => {
                let position = self.options.iter().position(|other| other.name == before);
                position.ok_or_else(|| {
                    let known = self.option_names();
                    let what =
                        format!("`before: {before}` names no earlier option; they are: {known}");
                    at.mistake(&["before"], what)
                })?
            }
        };
        self.options.insert(position, option);
        Ok(())
    }

    fn option_names(&self) -> String {
        let names: Vec<_> = self.options.iter().map(|o| o.name.as_str()).collect();
        names.join(", ")
    }

    /// What can only be checked when everything is there.
    fn check(&self, library: &Library) -> Result<(), RecipeError> {
        let options = self.options.iter().map(|o| (&o.when, &o.place));
        let parts = self.parts.iter().map(|p| (&p.when, &p.place));
        let folders = self.folders.iter().map(|f| (&f.when, &f.place));
        for (when, place) in options.chain(parts).chain(folders) {
            if let Some(unknown) = when.options().find(|name| self.option(name).is_none()) {
                let known = self.option_names();
                return Err(place.mistake(format!(
                    "`when: {when}` names no option `{unknown}`; the options are: {known}"
                )));
            }
        }
        for option in &self.options {
            if let Some(count) = &option.as_many_as
                && self
                    .option(count)
                    .is_none_or(|other| other.kind != Kind::Count)
            {
                return Err(option.place.mistake(format!(
                    "`as_many_as: {count}` is expected to name an option of the kind `count`"
                )));
            }
        }
        for part in &self.parts {
            if self.option(&part.name).is_some() {
                return Err(part.place.mistake(format!(
                    "the part `{0}` has the name of an option, so `{{{{{0}}}}}` could mean both; \
                     a name of its own is expected",
                    part.name
                )));
            }
            library
                .template(&part.template)
                .map_err(|error| match error {
                    error @ RecipeError::NotFound { .. } => part.place.mistake(error.to_string()),
                    error => error,
                })?;
        }
        let parts = self.parts.iter().map(|p| (&p.each, &p.place));
        let folders = self.folders.iter().map(|f| (&f.each, &f.place));
        for (each, place) in parts.chain(folders) {
            if let Some(each) = each {
                self.source_of(each, place)?;
            }
        }
        Ok(())
    }

    /// The option that `each: NAME` repeats by in the end; none where that part is there once.
    pub(super) fn source_of(
        &self,
        name: &str,
        place: &Place,
    ) -> Result<Option<&OptionSpec>, RecipeError> {
        if let Some(option) = self.option(name) {
            if matches!(option.kind, Kind::Count | Kind::Addresses | Kind::Paths) {
                return Ok(Some(option));
            }
            return Err(place.mistake(format!(
                "`each: {name}` is expected to name a count, addresses, paths or a part, and that is a {}",
                option.kind.name()
            )));
        }
        let mut seen = vec![name];
        let mut part = self.part(name);
        while let Some(found) = part {
            let Some(each) = &found.each else {
                return Ok(None);
            };
            if let Some(option) = self.option(each) {
                return self.source_of(&option.name, &found.place);
            }
            if seen.contains(&each.as_str()) {
                let way = seen.join("` is for each of `");
                return Err(place.mistake(format!(
                    "`{way}` is for each of `{each}`: a part cannot be for each of itself"
                )));
            }
            seen.push(each);
            part = self.part(each);
        }
        let parts: Vec<_> = self.parts.iter().map(|p| p.name.as_str()).collect();
        Err(place.mistake(format!(
            "`each: {name}` names neither an option nor a part; the parts are: {}",
            parts.join(", ")
        )))
    }
}

fn read(library: &Library, name: &str) -> Result<Recipe, RecipeError> {
    let mut recipe = Recipe {
        name: name.to_owned(),
        description: String::new(),
        addition: false,
        with: Vec::new(),
        options: Vec::new(),
        folders: Vec::new(),
        parts: Vec::new(),
        needs: Vec::new(),
    };
    recipe.add(library, name, &mut Vec::new(), &mut Vec::new(), None)?;
    Ok(recipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn library(recipes: &[(&str, &str)]) -> (tempfile::TempDir, Library) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("recipes")).unwrap();
        for (name, text) in recipes {
            let path = folder.path().join(format!("recipes/{name}.yaml"));
            std::fs::write(path, text).unwrap();
        }
        std::fs::create_dir(folder.path().join("templates")).unwrap();
        std::fs::write(folder.path().join("templates/t"), "").unwrap();
        let library = Library::new(vec![folder.path().to_owned()]);
        (folder, library)
    }

    fn mistake(text: &str) -> String {
        let (folder, library) = library(&[("r", text)]);
        let error = Recipe::load(&library, "r").expect_err(text).to_string();
        error.replace(&format!("{}/", folder.path().display()), "")
    }

    #[test]
    fn every_built_in_recipe_can_be_read() {
        let library = Library::built_in();
        for name in library.recipes() {
            let recipe = Recipe::load(&library, &name).unwrap();
            assert!(!recipe.description.is_empty(), "{name}");
            for part in &recipe.parts {
                library.template(&part.template).unwrap();
            }
        }
    }

    #[test]
    fn a_recipe_adds_to_what_it_extends_and_replaces_by_name() {
        let base = "description: base\noptions:\n  - {name: a, prompt: A, default: 1}\n  - {name: b, prompt: B}\n\
            parts:\n  one: {template: t, target: one}\n  two: {template: t, target: two}\n";
        let more = "description: more\nextends: base\noptions:\n  - {name: a, prompt: A, default: 2}\n\
            parts:\n  one:\n  three: {template: t, target: three, mode: \"0755\"}\n";
        let (_folder, library) = library(&[("base", base), ("more", more)]);
        let recipe = Recipe::load(&library, "more").unwrap();
        assert_eq!(recipe.description, "more");
        let defaults: Vec<_> = recipe
            .options
            .iter()
            .map(|o| (o.name.as_str(), o.default.as_deref()))
            .collect();
        assert_eq!(defaults, [("a", Some("2")), ("b", None)]);
        let parts: Vec<_> = recipe
            .parts
            .iter()
            .map(|p| (p.name.as_str(), p.mode))
            .collect();
        assert_eq!(parts, [("two", 0o644), ("three", 0o755)]);
    }

    #[test]
    fn a_mistake_names_its_file_and_line_and_what_was_expected() {
        insta::assert_snapshot!(mistake("description: d\noptions:\n  - {name: a, prompt: A, kind: wrod}\n"),
            @"recipes/r.yaml:3: options[0].kind: unknown variant `wrod`, expected one of `text`, `word`, `count`, `flag`, `choice`, `address`, `addresses`, `path`, `paths`");
        insta::assert_snapshot!(mistake("description: d\nparts:\n  one:\n    template: t\n"), @"recipes/r.yaml:4: parts.one: missing field `target`");
        insta::assert_snapshot!(mistake("description: d\nparts:\n  one: {template: t, target: ../x}\n"), @"recipes/r.yaml:3: `target: ../x` is expected to be a path within the instance");
        insta::assert_snapshot!(mistake("description: d\nparts:\n\n  one: {template: t, target: x, mode: 644}\n"), @r#"recipes/r.yaml:4: a mode is expected to be quoted octal digits, as "0644""#);
        insta::assert_snapshot!(mistake("description: d\nextends: r\n"), @"recipes/r.yaml:2: `r` extends `r`: a recipe cannot extend itself");
        insta::assert_snapshot!(mistake("options:\n  - {name: a, prompt: A}\n  - {name: c, prompt: C, kind: choice}\n"), @"recipes/r.yaml:3: the option `c` is a choice: `choices` is expected");
        insta::assert_snapshot!(mistake("parts:\n  x: {template: t, target: x, when: y}\n"), @"recipes/r.yaml:2: `when: y` names no option; the options are:");
        insta::assert_snapshot!(mistake("extends: nothing\n"), @"there is no recipe `nothing`; there are: embedded, r, single-server");
    }
}
