//! A recipe as it is written, and the checks of what it says by itself.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use serde::Deserialize;
use serde_yaml::Value;

use super::calls;
use super::error::RecipeError;
use super::library::Source;
use super::model::{Folder, Kind, OptionSpec, Part, Place, Process};
use super::when::When;
use crate::config::line_of;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRecipe {
    #[serde(default)]
    pub(super) description: String,
    #[serde(default)]
    pub(super) addition: bool,
    #[serde(default)]
    pub(super) extends: OneOrMore,
    #[serde(default)]
    pub(super) needs: BTreeMap<String, Value>,
    #[serde(default)]
    pub(super) options: Vec<RawOption>,
    #[serde(default, deserialize_with = "in_order")]
    pub(super) folders: Vec<(String, Option<RawFolder>)>,
    /// In the order in which they are written; `null` takes an inherited part away.
    #[serde(default, deserialize_with = "in_order")]
    pub(super) parts: Vec<(String, Option<RawPart>)>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(untagged, expecting = "a text or a list of texts is expected")]
pub(super) enum OneOrMore {
    #[default]
    Nothing,
    One(String),
    Several(Vec<String>),
}

impl OneOrMore {
    pub(super) fn all(&self) -> &[String] {
        match self {
            OneOrMore::Nothing => &[],
            OneOrMore::One(one) => std::slice::from_ref(one),
            OneOrMore::Several(several) => several,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOption {
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
    when: OneOrMore,
    /// `no`: whoever wants it answers it unasked. (As a text: YAML's `no` is one in some versions.)
    #[serde(default)]
    ask: Option<Value>,
    /// It is asked before this one, which another recipe has.
    #[serde(default)]
    pub(super) before: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawKind {
    #[default]
    Text,
    Word,
    Count,
    Flag,
    Choice,
    Address,
    Addresses,
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
    as_many_as: Option<String>,
    #[serde(default)]
    must_exist: bool,
    #[serde(default)]
    data_fs: bool,
}

#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "a mode as \"0755\" is expected, or a mapping with `mode` and perhaps `each` and `when`"
)]
pub(super) enum RawFolder {
    More(RawRepeatedFolder),
    /// A number is here to be refused with a better message.
    Mode(ModeText),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum ModeText {
    Text(String),
    Number(u64),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRepeatedFolder {
    mode: Value,
    #[serde(default)]
    each: Option<String>,
    #[serde(default)]
    when: OneOrMore,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPart {
    template: String,
    target: String,
    #[serde(default)]
    mode: Option<Value>,
    #[serde(default)]
    when: OneOrMore,
    #[serde(default)]
    each: Option<String>,
    #[serde(default)]
    values: BTreeMap<String, Value>,
    #[serde(default)]
    process: Option<RawProcess>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProcess {
    socket: String,
    start: String,
    stop: String,
    #[serde(default)]
    address: Option<String>,
    #[serde(default)]
    data: Option<String>,
}

impl From<RawProcess> for Process {
    fn from(raw: RawProcess) -> Self {
        Process {
            socket: raw.socket,
            start: raw.start,
            stop: raw.stop,
            address: raw.address,
            data: raw.data,
        }
    }
}

/// Where something is in a recipe's text.
pub(super) struct At<'a> {
    source: &'a Source,
    path: Vec<&'a str>,
}

impl<'a> At<'a> {
    pub(super) fn new(source: &'a Source, path: &[&'a str]) -> Self {
        At {
            source,
            path: path.to_vec(),
        }
    }

    pub(super) fn place(&self) -> Place {
        self.of(&[])
    }

    /// The place of what is below, or of this where that is not written.
    fn of(&self, below: &[&str]) -> Place {
        let path = [self.path.as_slice(), below].concat();
        let line = (self.path.len()..=path.len())
            .rev()
            .find_map(|length| line_of(&self.source.text, &path[..length]));
        Place {
            file: self.source.origin.clone(),
            line,
        }
    }

    pub(super) fn mistake(&self, below: &[&str], what: impl Into<String>) -> RecipeError {
        self.of(below).mistake(what)
    }

    fn when(&self, written: &OneOrMore) -> Result<When, RecipeError> {
        When::parse(written.all()).map_err(|what| self.mistake(&["when"], what))
    }
}

impl Place {
    pub(super) fn mistake(&self, what: impl Into<String>) -> RecipeError {
        RecipeError::mistake(&self.file, self.line, what)
    }
}

impl RawOption {
    pub(super) fn checked(self, at: &At<'_>) -> Result<OptionSpec, RecipeError> {
        let name = self.name;
        if !is_word(&name) {
            let what = format!("`name: {name}` is expected to be letters, digits and `_`");
            return Err(at.mistake(&["name"], what));
        }
        if RESERVED_NAMES.contains(&name.as_str()) {
            let what =
                format!("`{name}` means something else in templates; another name is expected");
            return Err(at.mistake(&["name"], what));
        }
        if calls::names().contains(&name.as_str()) {
            let what =
                format!("`{{{{{name}}}}}` calls a helper in templates; another name is expected");
            return Err(at.mistake(&["name"], what));
        }
        let kind = match self.kind {
            RawKind::Text => Kind::Text,
            RawKind::Word => Kind::Word,
            RawKind::Count => Kind::Count,
            RawKind::Flag => Kind::Flag,
            RawKind::Choice if self.choices.is_empty() => {
                let what = format!("the option `{name}` is a choice: `choices` is expected");
                return Err(at.mistake(&[], what));
            }
            RawKind::Choice => Kind::Choice(self.choices.clone()),
            RawKind::Address => Kind::Address,
            RawKind::Addresses => Kind::Addresses,
            RawKind::Path => Kind::Path,
            RawKind::Paths => Kind::Paths,
        };
        if !matches!(kind, Kind::Choice(_)) && !self.choices.is_empty() {
            let what = format!(
                "`choices` is expected with `kind: choice` alone, not with {}",
                kind.name()
            );
            return Err(at.mistake(&["choices"], what));
        }
        if let (Some(min), Some(max)) = (self.check.min, self.check.max)
            && min > max
        {
            let what = format!("`min: {min}` is expected not to be more than `max: {max}`");
            return Err(at.mistake(&["check"], what));
        }
        let default = self.default.map(|value| {
            scalar_text(&value).ok_or_else(|| {
                let what = format!(
                    "the default of `{name}` is expected to be one value or a list of values"
                );
                at.mistake(&["default"], what)
            })
        });
        let default = default.transpose()?;
        let ask = match self.ask.as_ref().map(scalar_text) {
            None => true,
            Some(Some(text)) if text == "no" => false,
            Some(Some(text)) if text == "yes" => true,
            Some(_) => return Err(at.mistake(&["ask"], "`ask` is expected to be yes or no")),
        };
        if !ask && default.is_none() && !self.optional {
            let what =
                format!("the option `{name}` is not asked: `default` is expected, or `optional`");
            return Err(at.mistake(&["ask"], what));
        }
        Ok(OptionSpec {
            ask,
            prompt: self.prompt,
            help: self.help,
            kind,
            default,
            optional: self.optional,
            min: self.check.min,
            max: self.check.max,
            as_many_as: self.check.as_many_as,
            must_exist: self.check.must_exist,
            data_fs: self.check.data_fs,
            when: at.when(&self.when)?,
            needed_by: None,
            place: at.place(),
            name,
        })
    }
}

impl RawFolder {
    pub(super) fn checked(self, path: String, at: &At<'_>) -> Result<Folder, RecipeError> {
        if !is_inside(&path) && !path.contains("{{") {
            let what = format!("the folder `{path}` is expected to be a path within the instance");
            return Err(at.mistake(&[], what));
        }
        let (mode, each, when) = match self {
            RawFolder::More(more) => (more.mode, more.each, more.when),
            RawFolder::Mode(ModeText::Text(mode)) => (mode.into(), None, OneOrMore::Nothing),
            RawFolder::Mode(ModeText::Number(mode)) => (mode.into(), None, OneOrMore::Nothing),
        };
        Ok(Folder {
            path,
            mode: mode_bits(&mode).map_err(|what| at.mistake(&["mode"], what))?,
            when: at.when(&when)?,
            each,
            place: at.place(),
        })
    }
}

impl RawPart {
    pub(super) fn checked(self, name: String, at: &At<'_>) -> Result<Part, RecipeError> {
        if !is_word(&name) || RESERVED_NAMES.contains(&name.as_str()) {
            let what = format!(
                "the name of the part `{name}` is expected to be letters, digits and `_`, and none of: {}",
                RESERVED_NAMES.join(", ")
            );
            return Err(at.mistake(&[], what));
        }
        if !self.target.contains("{{") {
            check_target(&self.target).map_err(|what| at.mistake(&["target"], what))?;
        }
        let mode = match &self.mode {
            Some(mode) => mode_bits(mode).map_err(|what| at.mistake(&["mode"], what))?,
            None => 0o644,
        };
        let mut values = BTreeMap::new();
        for (key, value) in self.values {
            let below = ["values", key.as_str()];
            if !is_word(&key) || RESERVED_VALUES.contains(&key.as_str()) {
                let what = format!(
                    "the name of the value `{key}` is expected to be letters, digits and `_`, and none of: {}",
                    RESERVED_VALUES.join(", ")
                );
                return Err(at.mistake(&below, what));
            }
            let text = scalar_text(&value).ok_or_else(|| {
                let what = format!("the value `{name}.{key}` is expected to be one value");
                at.mistake(&below, what)
            })?;
            values.insert(key, text);
        }
        Ok(Part {
            name,
            template: self.template,
            target: self.target,
            mode,
            when: at.when(&self.when)?,
            each: self.each,
            values,
            process: self.process.map(RawProcess::into),
            place: at.place(),
        })
    }
}

/// What templates see besides options and parts.
pub(super) const RESERVED_NAMES: &[&str] = &["instance", "program", "index", "item", "this"];
/// What every part has.
const RESERVED_VALUES: &[&str] = &["target", "each", "index"];

/// A target, once it is no template any more.
pub(super) fn check_target(target: &str) -> Result<(), String> {
    if !is_inside(target) {
        return Err(format!(
            "`target: {target}` is expected to be a path within the instance"
        ));
    }
    if [super::installed::INSTALLED, super::installed::OWN_RECIPE].contains(&target) {
        return Err(format!(
            "`target: {target}` is zeoraidctl's own file; another target is expected"
        ));
    }
    Ok(())
}

fn is_inside(path: &str) -> bool {
    let normal = |part| matches!(part, Component::Normal(_));
    !path.is_empty() && !path.ends_with('/') && Path::new(path).components().all(normal)
}

fn is_word(text: &str) -> bool {
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
fn mode_bits(value: &Value) -> Result<u32, String> {
    value
        .as_str()
        .and_then(|text| u32::from_str_radix(text, 8).ok())
        .filter(|bits| *bits <= 0o777)
        .ok_or_else(|| "a mode is expected to be quoted octal digits, as \"0644\"".to_owned())
}

/// Names for a message.
pub(super) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.into_iter().collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

pub(super) fn parse<T: serde::de::DeserializeOwned>(source: &Source) -> Result<T, RecipeError> {
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
            f.write_str("a mapping by name")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(
            self,
            mut map: A,
        ) -> Result<Self::Value, A::Error> {
            let mut entries: Self::Value = Vec::new();
            while let Some(entry) = map.next_entry::<String, Option<T>>()? {
                if entries.iter().any(|(name, _)| *name == entry.0) {
                    let what = format!("`{}` is there twice", entry.0);
                    return Err(serde::de::Error::custom(what));
                }
                entries.push(entry);
            }
            Ok(entries)
        }
    }

    deserializer.deserialize_map(InOrder(std::marker::PhantomData))
}
