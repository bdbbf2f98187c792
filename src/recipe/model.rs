//! A recipe, as it is written and as it is after `extends`.
//!
//! ```yaml
//! description: one daemon with copies of its own
//! extends: base                  # or a list; what follows adds to it and replaces by name
//! options:
//!   - name: members              # asked in this order
//!     prompt: How many complete copies
//!     kind: count                # text, word, count, flag, choice, address, path, paths
//!     default: 2                 # a template may name earlier options: "{{name}}.fs"
//!     check: {min: 1, max: 9}
//! folders: {var: "0750"}         # made where missing, never removed with something in them
//! parts:
//!   config:
//!     template: zeoraid.yaml     # from templates/
//!     target: etc/zeoraid.yaml   # within the instance
//!     mode: "0644"
//!     when: members              # left out where this option is empty or no
//!     values: {socket: "{{instance}}/var/zeoraid.sock"}
//! ```
//!
//! A part's values, and its `target`, are `{{config.socket}}` and `{{config.target}}` in every template.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_yaml::Value;

use super::error::RecipeError;
use super::library::{Library, Source};
use crate::config::line_of;

/// A recipe whose `extends` is resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    pub name: String,
    pub description: String,
    /// In the order in which they are asked.
    pub options: Vec<OptionSpec>,
    /// Folders of the instance and their modes.
    pub folders: BTreeMap<String, u32>,
    pub parts: Vec<Part>,
}

/// Something that a person decides.
#[derive(Debug, Clone, PartialEq)]
pub struct OptionSpec {
    pub name: String,
    pub prompt: String,
    /// More than fits into the prompt.
    pub help: Option<String>,
    pub kind: Kind,
    /// A template over earlier options; none where it must be answered.
    pub default: Option<String>,
    /// May be empty.
    pub optional: bool,
    pub min: Option<u64>,
    pub max: Option<u64>,
    /// A path that must be an existing file.
    pub must_exist: bool,
    /// Not asked (and empty) where this option is empty or no.
    pub when: Option<String>,
    pub place: Place,
}

/// What kind of value an option has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// Letters, digits, `-`, `_`, `.`: what may be part of a name.
    Word,
    Count,
    Flag,
    Choice(Vec<String>),
    /// `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`.
    Address,
    /// Absolute, or relative to the instance.
    Path,
    /// Several, with commas between.
    Paths,
}

/// One file of the instance.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    pub name: String,
    pub template: String,
    /// Relative to the instance.
    pub target: String,
    pub mode: u32,
    pub when: Option<String>,
    pub values: BTreeMap<String, String>,
    pub place: Place,
}

/// Where something is written, for messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    pub file: String,
    pub line: Option<usize>,
}

impl OptionSpec {
    /// Whether its default is made of other answers.
    pub fn follows_others(&self) -> bool {
        self.default
            .as_ref()
            .is_some_and(|default| default.contains("{{"))
    }
}

impl Recipe {
    /// Reads a recipe and what it extends.
    pub fn load(library: &Library, name: &str) -> Result<Recipe, RecipeError> {
        let mut recipe = Recipe {
            name: name.to_owned(),
            description: String::new(),
            options: Vec::new(),
            folders: BTreeMap::new(),
            parts: Vec::new(),
        };
        recipe.add(library, name, &mut Vec::new(), None)?;
        recipe.check()?;
        Ok(recipe)
    }

    pub fn option(&self, name: &str) -> Option<&OptionSpec> {
        self.options.iter().find(|option| option.name == name)
    }

    fn add(
        &mut self,
        library: &Library,
        name: &str,
        above: &mut Vec<String>,
        from: Option<&Place>,
    ) -> Result<(), RecipeError> {
        if above.iter().any(|other| other == name) {
            let from = from.cloned().unwrap_or_default();
            let way = above.join("` extends `");
            let what = format!("`{way}` extends `{name}`: a recipe cannot extend itself");
            return Err(RecipeError::mistake(from.file, from.line, what));
        }
        let source = library.recipe(name)?;
        let raw: RawRecipe = parse(&source)?;
        let place = |path: &[&str]| Place {
            file: source.origin.clone(),
            line: line_of(&source.text, path),
        };
        above.push(name.to_owned());
        for extended in raw.extends.names() {
            self.add(library, extended, above, Some(&place(&["extends"])))?;
        }
        above.pop();

        self.description = raw.description;
        for (index, raw) in raw.options.into_iter().enumerate() {
            let option = raw.checked(place(&["options", &index.to_string()]))?;
            match self.options.iter_mut().find(|old| old.name == option.name) {
                Some(old) => *old = option,
                None => self.options.push(option),
            }
        }
        for (folder, mode) in raw.folders {
            let mode = mode_bits(&mode, &place(&["folders", &folder]))?;
            self.folders.insert(folder, mode);
        }
        for (key, raw) in raw.parts {
            let place = place(&["parts", &key]);
            let Some(raw) = raw else {
                self.parts.retain(|part| part.name != key);
                continue;
            };
            let part = raw.checked(key, place)?;
            match self.parts.iter_mut().find(|old| old.name == part.name) {
                Some(old) => *old = part,
                None => self.parts.push(part),
            }
        }
        Ok(())
    }

    /// What can only be checked when everything is there.
    fn check(&self) -> Result<(), RecipeError> {
        let wanted = self
            .options
            .iter()
            .map(|option| (&option.when, &option.place))
            .chain(self.parts.iter().map(|part| (&part.when, &part.place)));
        for (when, place) in wanted {
            if let Some(when) = when
                && self.option(when).is_none()
            {
                let known: Vec<_> = self.options.iter().map(|o| o.name.as_str()).collect();
                let what = format!(
                    "`when: {when}` names no option; the options are: {}",
                    known.join(", ")
                );
                return Err(RecipeError::mistake(&place.file, place.line, what));
            }
        }
        for part in &self.parts {
            if self.option(&part.name).is_some() {
                let what = format!(
                    "the part `{0}` has the name of an option, so `{{{{{0}}}}}` could mean both; \
                     a name of its own is expected",
                    part.name
                );
                return Err(RecipeError::mistake(
                    &part.place.file,
                    part.place.line,
                    what,
                ));
            }
        }
        Ok(())
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRecipe {
    #[serde(default)]
    description: String,
    #[serde(default)]
    extends: Extends,
    #[serde(default)]
    options: Vec<RawOption>,
    #[serde(default)]
    folders: BTreeMap<String, Value>,
    /// In the order in which they are written; `null` takes an inherited part away.
    #[serde(default, deserialize_with = "in_order")]
    parts: Vec<(String, Option<RawPart>)>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(untagged)]
enum Extends {
    #[default]
    Nothing,
    One(String),
    Several(Vec<String>),
}

impl Extends {
    fn names(&self) -> &[String] {
        match self {
            Extends::Nothing => &[],
            Extends::One(name) => std::slice::from_ref(name),
            Extends::Several(names) => names,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawOption {
    name: String,
    prompt: String,
    #[serde(default)]
    help: Option<String>,
    #[serde(default)]
    kind: RawKind,
    #[serde(default)]
    choices: Vec<String>,
    #[serde(default)]
    default: Option<Value>,
    #[serde(default)]
    optional: bool,
    #[serde(default)]
    check: RawCheck,
    #[serde(default)]
    when: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawKind {
    #[default]
    Text,
    Word,
    Count,
    Flag,
    Choice,
    Address,
    Path,
    Paths,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCheck {
    #[serde(default)]
    min: Option<u64>,
    #[serde(default)]
    max: Option<u64>,
    #[serde(default)]
    must_exist: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPart {
    template: String,
    target: String,
    #[serde(default)]
    mode: Option<Value>,
    #[serde(default)]
    when: Option<String>,
    #[serde(default)]
    values: BTreeMap<String, Value>,
}

impl RawOption {
    fn checked(self, place: Place) -> Result<OptionSpec, RecipeError> {
        let mistake = |what: String| RecipeError::mistake(&place.file, place.line, what);
        if !is_word(&self.name) {
            let what = format!(
                "`name: {}` is expected to be letters, digits and `_`",
                self.name
            );
            return Err(mistake(what));
        }
        let kind = match self.kind {
            RawKind::Text => Kind::Text,
            RawKind::Word => Kind::Word,
            RawKind::Count => Kind::Count,
            RawKind::Flag => Kind::Flag,
            RawKind::Choice if self.choices.is_empty() => {
                let what = format!(
                    "the option `{}` is a choice: `choices` is expected",
                    self.name
                );
                return Err(mistake(what));
            }
            RawKind::Choice => Kind::Choice(self.choices),
            RawKind::Address => Kind::Address,
            RawKind::Path => Kind::Path,
            RawKind::Paths => Kind::Paths,
        };
        let default = self
            .default
            .map(|value| {
                scalar_text(&value).ok_or_else(|| {
                    mistake(format!(
                        "the default of `{}` is expected to be one value or a list of values",
                        self.name
                    ))
                })
            })
            .transpose()?;
        Ok(OptionSpec {
            name: self.name,
            prompt: self.prompt,
            help: self.help,
            kind,
            default,
            optional: self.optional,
            min: self.check.min,
            max: self.check.max,
            must_exist: self.check.must_exist,
            when: self.when,
            place,
        })
    }
}

impl RawPart {
    fn checked(self, name: String, place: Place) -> Result<Part, RecipeError> {
        let mistake = |what: String| RecipeError::mistake(&place.file, place.line, what);
        let inside = std::path::Path::new(&self.target)
            .components()
            .all(|part| matches!(part, std::path::Component::Normal(_)));
        if !inside || self.target.is_empty() {
            let what = format!(
                "`target: {}` is expected to be a path within the instance",
                self.target
            );
            return Err(mistake(what));
        }
        let mode = match &self.mode {
            Some(mode) => mode_bits(mode, &place)?,
            None => 0o644,
        };
        let values = self.values.into_iter().map(|(key, value)| {
            let text = scalar_text(&value).ok_or_else(|| {
                mistake(format!(
                    "the value `{name}.{key}` is expected to be one value"
                ))
            })?;
            Ok((key, text))
        });
        let values = values.collect::<Result<_, RecipeError>>()?;
        Ok(Part {
            name,
            template: self.template,
            target: self.target,
            mode,
            when: self.when,
            values,
            place,
        })
    }
}

pub(super) fn is_word(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !text.is_empty() && text.chars().all(allowed)
}

/// One value as text; a list with commas between; none where it is a mapping.
pub(super) fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some(String::new()),
        Value::Bool(true) => Some("yes".into()),
        Value::Bool(false) => Some("no".into()),
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.clone()),
        Value::Sequence(items) => {
            let items: Option<Vec<_>> = items.iter().map(scalar_text).collect();
            Some(items?.join(", "))
        }
        Value::Mapping(_) | Value::Tagged(_) => None,
    }
}

/// `"0644"`. A number is refused: YAML reads 0644 in two ways, depending on its version.
fn mode_bits(value: &Value, place: &Place) -> Result<u32, RecipeError> {
    let bits = value
        .as_str()
        .and_then(|text| u32::from_str_radix(text, 8).ok())
        .filter(|bits| *bits <= 0o777);
    bits.ok_or_else(|| {
        let what = "a mode is expected to be quoted octal digits, as \"0644\"";
        RecipeError::mistake(&place.file, place.line, what)
    })
}

fn parse<T: serde::de::DeserializeOwned>(source: &Source) -> Result<T, RecipeError> {
    serde_yaml::from_str(&source.text).map_err(|error| {
        let line = error.location().map(|location| location.line());
        let text = error.to_string();
        // The place stands in front already.
        let what = text.split(" at line ").next().unwrap_or(&text);
        RecipeError::mistake(&source.origin, line, what)
    })
}

fn in_order<'de, D, T>(deserializer: D) -> Result<Vec<(String, Option<T>)>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct InOrder<T>(std::marker::PhantomData<T>);

    impl<'de, T: Deserialize<'de>> serde::de::Visitor<'de> for InOrder<T> {
        type Value = Vec<(String, Option<T>)>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a mapping of part names to parts")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(
            self,
            mut map: A,
        ) -> Result<Self::Value, A::Error> {
            let mut entries = Vec::new();
            while let Some(entry) = map.next_entry()? {
                entries.push(entry);
            }
            Ok(entries)
        }
    }

    deserializer.deserialize_map(InOrder(std::marker::PhantomData))
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
            @"recipes/r.yaml:3: options[0].kind: unknown variant `wrod`, expected one of `text`, `word`, `count`, `flag`, `choice`, `address`, `path`, `paths`");
        insta::assert_snapshot!(mistake("description: d\nparts:\n  one:\n    template: t\n"), @"recipes/r.yaml:4: parts.one: missing field `target`");
        insta::assert_snapshot!(mistake("description: d\nparts:\n  one: {template: t, target: ../x}\n"), @"recipes/r.yaml:3: `target: ../x` is expected to be a path within the instance");
        insta::assert_snapshot!(mistake("description: d\nparts:\n\n  one: {template: t, target: x, mode: 644}\n"), @r#"recipes/r.yaml:4: a mode is expected to be quoted octal digits, as "0644""#);
        insta::assert_snapshot!(mistake("description: d\nextends: r\n"), @"recipes/r.yaml:2: `r` extends `r`: a recipe cannot extend itself");
        insta::assert_snapshot!(mistake("options:\n  - {name: a, prompt: A}\n  - {name: c, prompt: C, kind: choice}\n"), @"recipes/r.yaml:3: the option `c` is a choice: `choices` is expected");
        insta::assert_snapshot!(mistake("parts:\n  x: {template: t, target: x, when: y}\n"), @"recipes/r.yaml:2: `when: y` names no option; the options are:");
        insta::assert_snapshot!(mistake("extends: nothing\n"), @"there is no recipe `nothing`; there are: embedded, r, single-server");
    }
}
