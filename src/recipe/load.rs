//! Reads recipes: what one extends, and what is combined with it.

use super::error::RecipeError;
use super::library::Library;
use super::model::{Kind, Need, OptionSpec, Place, Recipe};
use super::raw::{At, RawRecipe, listed, parse, scalar_text};

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
            if !raw.addition {
                return Err(place.mistake(
                    "`needs` is expected of an addition alone; any other recipe has options of its own",
                ));
            }
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
        listed(self.options.iter().map(|o| o.name.as_str()))
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
        Err(place.mistake(format!(
            "`each: {name}` names neither an option nor a part; the parts are: {}",
            listed(self.parts.iter().map(|part| part.name.as_str()))
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
    use crate::recipe::workshop::make;

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

    const BASE: &str = "options:\n  - {name: name, prompt: N, default: main}\n  \
        - {name: daemons, prompt: D, kind: count, default: 2}\n  \
        - {name: admin, prompt: A, optional: true, ask: no}\n\
        parts:\n  config: {template: t, target: 'c{{index}}', each: daemons, values: {socket: 's{{index}}'}}\n";
    const UNITS: &str = "addition: true\noptions:\n  - {name: user, prompt: U, default: '{{name}}'}\n\
        parts:\n  unit: {template: t, target: 'u{{index}}', each: config, values: {of: '{{config.socket}}'}}\n";

    #[test]
    fn an_addition_sees_what_it_is_combined_with() {
        let recipes = [("base", BASE), ("units", UNITS)];
        let made = make(&recipes, "{{user}}", "base", &["units"], &[]).unwrap();
        let targets: Vec<_> = made.files.iter().map(|file| file.target.as_str()).collect();
        assert_eq!(targets, ["c1", "c2", "u1", "u2"]);
        assert!(made.files.iter().all(|file| file.content == "main"));
        let made = make(&recipes, "", "base", &[], &[]).unwrap();
        assert_eq!(made.files.len(), 2);
    }

    #[test]
    fn what_an_addition_needs_has_a_value() {
        let needs = "addition: true\nneeds: {admin: '127.0.0.1:1'}\n";
        let recipes = [
            ("base", BASE),
            ("needs", needs),
            ("r", "addition: true\nneeds: {ports: 1}\n"),
        ];
        let admin = |with: &[&str], answers: &[(&str, &str)]| {
            make(&recipes, "{{admin}}", "base", with, answers)
                .map(|made| made.files[0].content.clone())
        };
        assert_eq!(admin(&[], &[]).unwrap(), "");
        assert_eq!(admin(&["needs"], &[]).unwrap(), "127.0.0.1:1");
        assert_eq!(admin(&["needs"], &[("admin", "h:2")]).unwrap(), "h:2");
        assert_eq!(
            admin(&["needs"], &[("admin", "")]).unwrap_err(),
            "`` from `--set` is no value for the option `admin`: a value is expected: `needs` needs it"
        );
        assert_eq!(
            admin(&["r"], &[]).unwrap_err(),
            "recipes/r.yaml:2: `r` needs an option `ports`, which `base` does not have; \
             it has: name, daemons, admin"
        );
    }

    #[test]
    fn what_has_the_same_name_in_two_recipes_cannot_be_combined() {
        let check = |recipe: &str, with: &[&str], expected: &str| {
            let option = "addition: true\noptions:\n  - {name: name, prompt: N, default: x}\n";
            let part = "addition: true\nparts:\n  config: {template: t, target: x}\n";
            let target = "addition: true\nparts:\n  x: {template: t, target: c2}\n";
            let folder = "addition: true\nfolders: {var: \"0755\"}\n";
            let other = "addition: true\nfolders: {var: \"0700\"}\n";
            let more = "addition: true\nextends: units\n";
            let recipes = [
                ("base", BASE),
                ("units", UNITS),
                ("option", option),
                ("part", part),
                ("target", target),
                ("folder", folder),
                ("other", other),
                ("more", more),
            ];
            let said = make(&recipes, "", recipe, with, &[])
                .err()
                .unwrap_or_default();
            assert_eq!(said, expected, "{recipe} {with:?}");
        };
        let own = "so the two cannot be combined; a name of its own is expected";
        let option = format!(
            "recipes/option.yaml:3: the option `name` is also in recipes/base.yaml:2, {own}"
        );
        check("base", &["option"], &option);
        let part =
            format!("recipes/part.yaml:3: the part `config` is also in recipes/base.yaml:6, {own}");
        check("base", &["part"], &part);
        let target = "recipes/target.yaml:3: `target: c2` is also that of the part `config`; \
            a target of its own is expected";
        check("base", &["target"], target);
        let folder = format!(
            "recipes/other.yaml:2: the folder `var` is also in recipes/folder.yaml:2, {own}"
        );
        check("base", &["folder", "other"], &folder);
        check("base", &["units", "more", "folder"], "");
        let alone = "`units` is an addition, and makes no instance by itself; it is combined with a recipe that does";
        check("units", &[], alone);
        let base = "`base` makes an instance by itself and is no addition, so `base` cannot be combined with it";
        check("base", &["base"], base);
    }
}
