//! Which value each option has, and who said so.
//!
//! In order: `--set`, the answers file, the instance's own `recipe.yaml`, a question, the default.
//! Every value is checked by its kind, whoever gave it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde_json::{Map, Value};

use super::error::RecipeError;
use super::model::{Kind, OptionSpec, Recipe};
use super::raw::scalar_text;
use super::render;
use crate::config::data_file::{self, Found};

/// What was answered before anybody is asked. Keys are options, or `part.value`.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    /// `--set`.
    pub set: BTreeMap<String, String>,
    /// `--answers FILE`, with the file's name.
    pub file: Option<(String, BTreeMap<String, String>)>,
    /// The instance's own `recipe.yaml`.
    pub stored: BTreeMap<String, String>,
}

/// Asks a person for an option; returns the answer, or none to take the default.
pub type Ask<'a> = dyn FnMut(Asked<'_>) -> Result<Option<String>, RecipeError> + 'a;

/// What a person is asked for.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    pub option: &'a OptionSpec,
    pub default: &'a str,
    /// Says why an answer will not do.
    pub check: &'a dyn Fn(&str) -> Result<(), String>,
}

/// The values of all options.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Resolved {
    /// For the templates.
    pub values: Map<String, Value>,
    /// As they were answered, for `recipe.yaml` and for people.
    pub answers: BTreeMap<String, Answered>,
    /// `part.value` that were set.
    pub part_values: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    pub text: String,
    pub origin: Origin,
}

/// Who gave a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Set,
    File(String),
    Stored,
    Asked,
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Set => f.write_str("`--set`"),
            Origin::File(file) => write!(f, "`{file}`"),
            Origin::Stored => f.write_str("`recipe.yaml`"),
            Origin::Asked => f.write_str("the prompt"),
            Origin::Default => f.write_str("the default"),
        }
    }
}

/// Finds the value of every option. `instance` is what relative paths are relative to.
pub fn resolve(
    recipe: &Recipe,
    answers: &Answers,
    instance: &Path,
    ask: &mut Ask<'_>,
) -> Result<Resolved, RecipeError> {
    let mut resolved = Resolved {
        part_values: answers.part_values(recipe)?,
        ..Resolved::default()
    };
    for option in &recipe.options {
        if !option.when.is_met(&resolved.values) {
            // Templates are strict: a value that is not wanted is empty, not missing.
            resolved
                .values
                .insert(option.name.clone(), option.kind.empty());
            continue;
        }
        let default = match &option.default {
            Some(default) => Some(render::value(default, &resolved.values, &option.place)?),
            None => None,
        };
        // What was left empty before an addition needed it is no answer any more.
        let given = answers.given(&option.name).filter(|(text, origin)| {
            !(option.needed_by.is_some() && *origin == Origin::Stored && text.trim().is_empty())
        });
        let (text, origin) = match given {
            Some(given) => given,
            None => match option.ask(default.as_deref(), instance, &resolved.values, ask)? {
                // Who takes what is offered has decided nothing: it goes on following other answers.
                Some(text) if Some(&text) == default.as_ref() => (text, Origin::Default),
                Some(text) => (text, Origin::Asked),
                None => match default {
                    Some(default) => (default, Origin::Default),
                    None if option.optional => (String::new(), Origin::Default),
                    None => {
                        return Err(RecipeError::Unanswered {
                            option: option.name.clone(),
                            needed_by: option.needed_by.clone(),
                        });
                    }
                },
            },
        };
        let value = option
            .check_among(&text, instance, &resolved.values)
            .map_err(|expected| match origin {
                Origin::Default => option.place.mistake(format!(
                    "the default of `{}` is `{text}`: {expected}",
                    option.name
                )),
                _ => RecipeError::Answer {
                    option: option.name.clone(),
                    value: text.clone(),
                    origin: origin.to_string(),
                    expected,
                },
            })?;
        resolved.values.insert(option.name.clone(), value);
        let answered = Answered { text, origin };
        resolved.answers.insert(option.name.clone(), answered);
    }
    Ok(resolved)
}

impl Answers {
    fn given(&self, name: &str) -> Option<(String, Origin)> {
        if let Some(text) = self.set.get(name) {
            return Some((text.clone(), Origin::Set));
        }
        if let Some((file, answers)) = &self.file
            && let Some(text) = answers.get(name)
        {
            return Some((text.clone(), Origin::File(file.clone())));
        }
        self.stored
            .get(name)
            .map(|text| (text.clone(), Origin::Stored))
    }

    /// `part.value`, the nearest origin winning. Names that mean nothing are refused here, but not
    /// those that are stored: the recipe may have changed since.
    fn part_values(&self, recipe: &Recipe) -> Result<BTreeMap<String, String>, RecipeError> {
        let mut values = BTreeMap::new();
        let stored = self.stored.iter().map(|entry| (entry, None));
        let file = self.file.iter().flat_map(|(file, answers)| {
            let origin = format!("`{file}`");
            answers
                .iter()
                .map(move |entry| (entry, Some(origin.clone())))
        });
        let set = self
            .set
            .iter()
            .map(|entry| (entry, Some("`--set`".to_owned())));
        for ((key, text), origin) in stored.chain(file).chain(set) {
            let of_part = key.split_once('.').is_some_and(|(part, value)| {
                let part = recipe.parts.iter().find(|other| other.name == part);
                part.is_some_and(|part| part.values.contains_key(value))
            });
            if of_part {
                values.insert(key.clone(), text.clone());
            } else if recipe.option(key).is_none()
                && let Some(origin) = origin
            {
                return Err(RecipeError::UnknownOption {
                    option: key.clone(),
                    origin,
                    recipe: recipe.name.clone(),
                    known: recipe.options.iter().map(|o| o.name.clone()).collect(),
                });
            }
        }
        Ok(values)
    }
}

/// Reads answers: a mapping of options to values, or an instance's `recipe.yaml` (under `answers`).
pub fn read_answers(file: &str, text: &str) -> Result<BTreeMap<String, String>, RecipeError> {
    let mistake = |line, what: String| RecipeError::mistake(file, line, what);
    let value: serde_yaml::Value = serde_yaml::from_str(text).map_err(|error| {
        let line = error.location().map(|location| location.line());
        mistake(line, error.to_string())
    })?;
    let mapping = match &value {
        serde_yaml::Value::Null => return Ok(BTreeMap::new()),
        serde_yaml::Value::Mapping(mapping) => match mapping.get("answers") {
            Some(serde_yaml::Value::Mapping(answers)) => answers,
            _ => mapping,
        },
        _ => {
            return Err(mistake(
                None,
                "a mapping of options to values is expected".into(),
            ));
        }
    };
    let entries = mapping.iter().map(|(key, value)| {
        let key = key.as_str().unwrap_or_default().to_owned();
        let text = scalar_text(value).ok_or_else(|| {
            mistake(
                None,
                format!("`{key}` is expected to be one value or a list of values"),
            )
        })?;
        Ok((key, text))
    });
    entries.collect()
}

impl OptionSpec {
    /// Asks for it, unless there is nothing to ask.
    fn ask(
        &self,
        default: Option<&str>,
        instance: &Path,
        earlier: &Map<String, Value>,
        ask: &mut Ask<'_>,
    ) -> Result<Option<String>, RecipeError> {
        if !self.ask || self.has_one_answer() {
            return Ok(None);
        }
        ask(Asked {
            option: self,
            default: default.unwrap_or_default(),
            check: &|text| self.check_among(text, instance, earlier).map(|_| ()),
        })
    }

    /// Whether there is nothing to ask.
    pub fn has_one_answer(&self) -> bool {
        self.kind == Kind::Count && self.min.is_some() && self.min == self.max
    }

    /// The value that a text is, where it must go with earlier answers, or what was expected instead.
    pub fn check_among(
        &self,
        text: &str,
        instance: &Path,
        earlier: &Map<String, Value>,
    ) -> Result<Value, String> {
        let value = self.check(text, instance)?;
        if let (Some(count), Value::Array(items)) = (&self.as_many_as, &value)
            && let Some(wanted) = earlier.get(count).and_then(Value::as_u64)
            // Of what may be empty, none is enough.
            && !(self.optional && items.is_empty())
            && items.len() as u64 != wanted
        {
            return Err(format!(
                "as many as `{count}` says are expected, with commas between: {wanted}, and not {}",
                items.len()
            ));
        }
        Ok(value)
    }

    /// The value that a text is, or what was expected instead.
    pub fn check(&self, text: &str, instance: &Path) -> Result<Value, String> {
        let text = text.trim();
        if text.is_empty() {
            return if self.optional {
                Ok(self.kind.empty())
            } else {
                Err(match &self.needed_by {
                    Some(addition) => format!("a value is expected: `{addition}` needs it"),
                    None => "a value is expected".into(),
                })
            };
        }
        match &self.kind {
            Kind::Text => Ok(text.into()),
            Kind::Word => {
                let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
                if text.chars().all(allowed) {
                    Ok(text.into())
                } else {
                    Err("letters, digits, `-`, `_` and `.` are expected".into())
                }
            }
            Kind::Count => self.check_count(text),
            Kind::Flag => match text.to_ascii_lowercase().as_str() {
                "yes" | "y" | "true" | "on" => Ok(true.into()),
                "no" | "n" | "false" | "off" => Ok(false.into()),
                _ => Err("`yes` or `no` is expected".into()),
            },
            Kind::Choice(choices) if choices.iter().any(|choice| choice == text) => Ok(text.into()),
            Kind::Choice(choices) => {
                Err(format!("one of these is expected: {}", choices.join(", ")))
            }
            Kind::Address => check_address(text),
            Kind::Path => self.check_path(text, instance),
            Kind::Addresses => self.check_each(text, check_address),
            Kind::Paths => self.check_each(text, |path| self.check_path(path, instance)),
        }
    }

    /// Several values with commas between, none of them twice.
    fn check_each(
        &self,
        text: &str,
        check: impl Fn(&str) -> Result<Value, String>,
    ) -> Result<Value, String> {
        let texts: Vec<_> = text.split(',').map(str::trim).collect();
        if let Some(max) = self.max
            && texts.len() as u64 > max
        {
            return Err(format!("at most {max} of them is expected"));
        }
        let mut seen = std::collections::BTreeSet::new();
        if let Some(twice) = texts.iter().find(|text| !seen.insert(**text)) {
            return Err(format!("`{twice}` is named twice; each is expected once"));
        }
        let values = texts.into_iter().map(check);
        values.collect::<Result<Vec<_>, _>>().map(Value::Array)
    }

    fn check_count(&self, text: &str) -> Result<Value, String> {
        let (min, max) = (self.min.unwrap_or(0), self.max.unwrap_or(u64::MAX));
        match text.parse::<u64>() {
            Ok(count) if (min..=max).contains(&count) => Ok(count.into()),
            _ if max == u64::MAX => Err(format!("a number from {min} up is expected")),
            _ => Err(format!("a number from {min} to {max} is expected")),
        }
    }

    fn check_path(&self, text: &str, instance: &Path) -> Result<Value, String> {
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err("a path is expected".into());
        }
        if self.must_exist {
            let path = instance.join(text);
            match std::fs::metadata(&path) {
                Ok(found) if found.is_file() => {}
                Ok(_) => return Err(format!("{} is not a file", path.display())),
                Err(error) => return Err(format!("{}: {error}", path.display())),
            }
        }
        if self.data_fs {
            let path = instance.join(text);
            let why = match data_file::look(&path) {
                Found::DataFs => return Ok(text.into()),
                Found::Nothing => "is not there".to_owned(),
                Found::Empty => {
                    "holds nothing; a new database needs no file to begin with".to_owned()
                }
                Found::Unreadable => "cannot be read".to_owned(),
                Found::Other(why) => why,
            };
            return Err(format!("{} {why}", path.display()));
        }
        Ok(text.into())
    }
}

impl Kind {
    /// The word that a recipe says.
    pub fn name(&self) -> &'static str {
        match self {
            Kind::Text => "text",
            Kind::Word => "word",
            Kind::Count => "count",
            Kind::Flag => "flag",
            Kind::Choice(_) => "choice",
            Kind::Address => "address",
            Kind::Addresses => "addresses",
            Kind::Path => "path",
            Kind::Paths => "paths",
        }
    }

    fn empty(&self) -> Value {
        match self {
            Kind::Count => 0.into(),
            Kind::Flag => false.into(),
            Kind::Addresses | Kind::Paths => Value::Array(Vec::new()),
            _ => "".into(),
        }
    }
}

fn check_address(text: &str) -> Result<Value, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return if path.is_empty() {
            Err("a path is expected after `unix:`".into())
        } else {
            Ok(text.into())
        };
    }
    let expected = "`HOST:PORT`, `[IPV6]:PORT` or `unix:PATH` is expected";
    let (host, port) = text.rsplit_once(':').ok_or(expected)?;
    let bare_ipv6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    let odd = |c: char| c.is_whitespace() || c.is_control() || c == '/';
    if host.is_empty() || bare_ipv6 || host.chars().any(odd) {
        return Err(expected.into());
    }
    match port.parse::<u16>() {
        Ok(_) => Ok(text.into()),
        Err(_) => Err("a port from 1 to 65535 is expected after the `:`".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Library;

    fn embedded() -> Recipe {
        Recipe::load(&Library::built_in(), "embedded").unwrap()
    }

    #[expect(clippy::unnecessary_wraps, reason = "it has to look like who asks")]
    fn nobody(_: Asked<'_>) -> Result<Option<String>, RecipeError> {
        Ok(None)
    }

    fn answers(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pairs = pairs.iter();
        pairs
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn set_wins_over_the_file_over_what_is_stored_over_the_prompt_over_the_default() {
        let mut given = Answers {
            set: answers(&[("listen", "127.0.0.1:1")]),
            file: Some((
                "a.yaml".into(),
                answers(&[("listen", "127.0.0.1:2"), ("name", "file")]),
            )),
            stored: answers(&[("name", "stored"), ("members", "3"), ("gone", "x")]),
        };
        let mut asked = |Asked {
                             option, default, ..
                         }: Asked<'_>| {
            assert!(!default.is_empty() || option.optional, "{}", option.name);
            Ok((option.name == "encoding").then(|| "M5".to_owned()))
        };
        let resolved = resolve(&embedded(), &given, Path::new("/i"), &mut asked).unwrap();
        let told = |name: &str| {
            let answered = &resolved.answers[name];
            format!("{} from {}", answered.text, answered.origin)
        };
        assert_eq!(told("listen"), "127.0.0.1:1 from `--set`");
        assert_eq!(told("name"), "file from `a.yaml`");
        assert_eq!(told("members"), "3 from `recipe.yaml`");
        assert_eq!(told("encoding"), "M5 from the prompt");
        assert_eq!(told("log_level"), "info from the default");
        assert_eq!(
            resolved.values["paths"].as_array().map(Vec::len),
            Some(3),
            "a default follows earlier answers"
        );

        given.set.insert("lisen".into(), "x".into());
        let error = resolve(&embedded(), &given, Path::new("/i"), &mut nobody).unwrap_err();
        assert!(
            error.to_string().starts_with("`--set` answers `lisen`"),
            "{error}"
        );
    }

    #[test]
    fn an_answer_is_checked_by_its_kind_whoever_gave_it() {
        let check = |pairs: &[(&str, &str)]| {
            let given = Answers {
                set: answers(pairs),
                ..Answers::default()
            };
            resolve(&embedded(), &given, Path::new("/i"), &mut nobody)
                .map(|_| ())
                .map_err(|error| error.to_string())
        };
        for good in ["[::1]:8100", "db.example.org:1", "unix:var/zeo.sock"] {
            check(&[("listen", good)]).unwrap();
        }
        for (name, bad) in [
            ("listen", "8100"),
            ("listen", "::1:8100"),
            ("listen", ":8100"),
            ("listen", "/run/zeo.sock"),
            ("listen", "localhost:65536"),
            ("members", "0"),
            ("members", "two"),
            ("name", "a b"),
            ("name", ""),
            ("encoding", "xml"),
            ("paths", "var/a.fs, var/a.fs"),
            ("adopt", "/does/not/exist"),
        ] {
            let error = check(&[(name, bad)]).expect_err(bad);
            assert!(error.contains(name) && error.contains("`--set`"), "{error}");
        }
    }

    #[test]
    fn only_a_data_fs_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let check = |bytes: &[u8]| {
            std::fs::write(folder.path().join("a"), bytes).unwrap();
            let given = Answers {
                set: answers(&[("adopt", "a")]),
                ..Answers::default()
            };
            let resolved = resolve(&embedded(), &given, folder.path(), &mut nobody);
            resolved.map(|_| ()).map_err(|error| error.to_string())
        };
        check(b"FS21...").unwrap();
        check(b"FS30...").unwrap();
        for (bytes, why) in [
            (
                b"" as &[u8],
                "holds nothing; a new database needs no file to begin with",
            ),
            (
                b"PK\x03\x04",
                r#"is not a Data.fs: it begins with "PK\x03\x04""#,
            ),
        ] {
            let error = check(bytes).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn answers_are_read_from_a_mapping_or_from_a_recipe_of_an_instance() {
        let read = |text| read_answers("a.yaml", text);
        assert_eq!(
            read("name: x\nmembers: 3\n").unwrap(),
            answers(&[("name", "x"), ("members", "3")])
        );
        assert_eq!(
            read("recipe: r\nanswers: {paths: [a, b]}\n").unwrap(),
            answers(&[("paths", "a, b")])
        );
        assert_eq!(read("").unwrap(), answers(&[]));
        assert!(read("- a").is_err());
        assert!(read("a: {b: c}").is_err());
    }
}
