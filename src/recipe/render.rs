//! Templates to text.
//!
//! Handlebars in strict mode (a name that means nothing is an error, with its line) and without
//! HTML escaping. What a template sees:
//!
//! | name | what |
//! | --- | --- |
//! | `{{listen}}` … | the options of the recipe |
//! | `{{part.value}}`, `{{part.target}}` | values of this part or another; the absolute path of its file |
//! | `{{instance}}` | the instance's folder, absolute |
//! | `{{program}}` | this program's file |
//!
//! and the helpers, besides Handlebars' own (`if`, `each`, `eq`, `and`, …):
//!
//! | helper | what |
//! | --- | --- |
//! | `{{yaml v}}` | as a YAML scalar, quoted where it must be |
//! | `{{shell v}}` | as one word of a shell command |
//! | `{{python v}}` | as a Python string literal |
//! | `{{zconfig v}}` | with `$` doubled, as ZConfig wants it |
//! | `{{host a}}`, `{{port a}}` | of an address; brackets stay |
//! | `{{bare_host a}}` | the same without brackets |
//! | `{{is_socket a}}`, `{{socket a}}` | whether an address is `unix:PATH`; that path, absolute |
//! | `{{absolute p}}` | a path, relative ones taken from the instance |
//! | `{{add n m}}` | the sum |
//! | `{{sequence 'x#' 1 3}}` | `x1, x2, x3`: the text for each number, with commas between |

use std::path::Path;

use handlebars::{
    Context as HandlebarsContext, Handlebars, Helper, HelperDef, RenderContext, RenderError,
    RenderErrorReason, ScopedJson, TemplateErrorReason,
};
use serde_json::{Map, Value};

use super::error::RecipeError;
use super::library::Library;
use super::model::{Part, Place, Recipe};
use super::options::{Resolved, is_truthy};

/// Where the instance is, and what it is run with.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// Absolute.
    pub instance: &'a Path,
    pub program: &'a Path,
}

/// A part as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    pub part: String,
    /// Relative to the instance.
    pub target: String,
    pub mode: u32,
    pub content: String,
}

/// Renders every part of a recipe that is wanted.
pub fn render(
    library: &Library,
    recipe: &Recipe,
    resolved: &Resolved,
    surroundings: Surroundings<'_>,
) -> Result<Vec<Rendered>, RecipeError> {
    let wanted = |part: &&Part| {
        part.when
            .as_ref()
            .is_none_or(|when| resolved.values.get(when).is_some_and(is_truthy))
    };
    let parts: Vec<&Part> = recipe.parts.iter().filter(wanted).collect();
    let seen = context(&parts, resolved, surroundings)?;
    let rendered = parts.iter().map(|part| {
        let source = library.template(&part.template)?;
        let content = render_text(&source.text, &seen, &source.origin, None)?;
        Ok(Rendered {
            part: part.name.clone(),
            target: part.target.clone(),
            mode: part.mode,
            content,
        })
    });
    rendered.collect()
}

/// One value of a recipe that may name options.
pub(super) fn value(
    text: &str,
    values: &Map<String, Value>,
    place: &Place,
) -> Result<String, RecipeError> {
    if !text.contains("{{") {
        return Ok(text.to_owned());
    }
    render_text(text, values, &place.file, place.line)
}

/// The options, and the values of the parts. A part's value may name values of other parts, so they
/// are rendered as soon as what they name is known; what never becomes known is a mistake.
fn context(
    parts: &[&Part],
    resolved: &Resolved,
    surroundings: Surroundings<'_>,
) -> Result<Map<String, Value>, RecipeError> {
    let text = |path: &Path| Value::from(path.display().to_string());
    let mut context = resolved.values.clone();
    context.insert("instance".into(), text(surroundings.instance));
    context.insert("program".into(), text(surroundings.program));
    for part in parts {
        let target = text(&surroundings.instance.join(&part.target));
        let values = Map::from_iter([("target".to_owned(), target)]);
        context.insert(part.name.clone(), Value::Object(values));
    }

    let mut open: Vec<(&Part, &str, &str)> = Vec::new();
    for part in parts {
        for (key, template) in &part.values {
            let set = resolved.part_values.get(&format!("{}.{key}", part.name));
            open.push((part, key, set.map_or(template.as_str(), String::as_str)));
        }
    }
    while !open.is_empty() {
        let mut still_open = Vec::new();
        let mut first_error = None;
        let before = open.len();
        for (part, key, template) in open {
            match value(template, &context, &part.place) {
                Ok(text) => {
                    if let Some(Value::Object(values)) = context.get_mut(&part.name) {
                        values.insert(key.to_owned(), text.into());
                    }
                }
                Err(error) => {
                    first_error.get_or_insert(error);
                    still_open.push((part, key, template));
                }
            }
        }
        if let Some(error) = first_error
            && still_open.len() == before
        {
            return Err(error);
        }
        open = still_open;
    }
    Ok(context)
}

fn render_text(
    text: &str,
    context: &Map<String, Value>,
    file: &str,
    line: Option<usize>,
) -> Result<String, RecipeError> {
    let mut handlebars = Handlebars::new();
    handlebars.set_strict_mode(true);
    handlebars.register_escape_fn(handlebars::no_escape);
    for (name, helper) in HELPERS {
        handlebars.register_helper(name, Box::new(PureHelper(*helper)));
    }
    // In a value of a recipe, line 1 is the line of the recipe on which the value's owner begins.
    let at = |own: Option<usize>| line.or(own);
    handlebars
        .register_template_string("template", text)
        .map_err(|error| {
            let own = error.pos().map(|(line, _)| line);
            let what = match error.reason() {
                TemplateErrorReason::InvalidSyntax(_) => {
                    "a template is expected; an expression `{{…}}` or a block is not closed here"
                        .to_owned()
                }
                reason => reason.to_string(),
            };
            RecipeError::mistake(file, at(own), what)
        })?;
    handlebars.render("template", context).map_err(|error| {
        let what = match error.reason() {
            RenderErrorReason::MissingVariable(Some(name)) => {
                let known: Vec<_> = context.keys().map(String::as_str).collect();
                format!("`{name}` is unknown here; known are: {}", known.join(", "))
            }
            reason => reason.to_string(),
        };
        RecipeError::mistake(file, at(error.line_no), what)
    })
}

/// A helper that makes one value of its arguments, or says what it expected. The context is there for
/// `absolute`.
type Pure = fn(&[Value], &Value) -> Result<Value, String>;

struct PureHelper(Pure);

impl HelperDef for PureHelper {
    fn call_inner<'reg: 'rc, 'rc>(
        &self,
        helper: &Helper<'rc>,
        _: &'reg Handlebars<'reg>,
        context: &'rc HandlebarsContext,
        _: &mut RenderContext<'reg, 'rc>,
    ) -> Result<ScopedJson<'rc>, RenderError> {
        if let Some(missing) = helper
            .params()
            .iter()
            .find(|param| param.is_value_missing())
        {
            let name = missing.relative_path().cloned();
            return Err(RenderErrorReason::MissingVariable(name).into());
        }
        let values: Vec<Value> = helper.params().iter().map(|p| p.value().clone()).collect();
        let made = (self.0)(&values, context.data()).map_err(|expected| {
            RenderErrorReason::Other(format!("`{}`: {expected}", helper.name()))
        })?;
        Ok(ScopedJson::Derived(made))
    }
}

const HELPERS: &[(&str, Pure)] = &[
    ("yaml", |values, _| {
        let text = serde_yaml::to_string(one(values)?).map_err(|error| error.to_string())?;
        Ok(text.trim_end().into())
    }),
    ("shell", |values, _| {
        let text = text(values)?;
        Ok(format!("'{}'", text.replace('\'', r"'\''")).into())
    }),
    ("python", |values, _| {
        // A JSON string is a Python string.
        serde_json::to_string(&text(values)?)
            .map(Value::from)
            .map_err(|error| error.to_string())
    }),
    ("zconfig", |values, _| {
        Ok(text(values)?.replace('$', "$$").into())
    }),
    ("host", |values, _| Ok(address(&text(values)?)?.0.into())),
    ("bare_host", |values, _| {
        let text = text(values)?;
        let host = address(&text)?.0;
        Ok(host.trim_start_matches('[').trim_end_matches(']').into())
    }),
    ("port", |values, _| Ok(address(&text(values)?)?.1.into())),
    ("is_socket", |values, _| {
        Ok(text(values)?.starts_with("unix:").into())
    }),
    ("socket", |values, context| {
        let text = text(values)?;
        let path = text
            .strip_prefix("unix:")
            .ok_or_else(|| format!("an address `unix:PATH` is expected, not {text}"))?;
        Ok(absolute(path, context))
    }),
    ("absolute", |values, context| {
        Ok(absolute(&text(values)?, context))
    }),
    ("add", |values, _| match values {
        [a, b] => match (a.as_u64(), b.as_u64()) {
            (Some(a), Some(b)) => Ok((a + b).into()),
            _ => Err("two numbers are expected".into()),
        },
        _ => Err("two numbers are expected".into()),
    }),
    ("sequence", |values, _| match values {
        [Value::String(pattern), first, last] => {
            let (Some(first), Some(last)) = (first.as_u64(), last.as_u64()) else {
                return Err("a pattern and two numbers are expected".into());
            };
            let texts: Vec<_> = (first..=last)
                .map(|number| pattern.replace('#', &number.to_string()))
                .collect();
            Ok(texts.join(", ").into())
        }
        _ => Err("a pattern and two numbers are expected".into()),
    }),
];

fn one(values: &[Value]) -> Result<&Value, String> {
    match values {
        [value] => Ok(value),
        _ => Err("one value is expected".into()),
    }
}

fn text(values: &[Value]) -> Result<String, String> {
    match one(values)? {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        other => Err(format!("a text is expected, not {other}")),
    }
}

fn absolute(path: &str, context: &Value) -> Value {
    let instance = context.get("instance").and_then(Value::as_str);
    let path = Path::new(instance.unwrap_or_default()).join(path);
    path.display().to_string().into()
}

fn address(text: &str) -> Result<(&str, &str), String> {
    text.rsplit_once(':')
        .ok_or_else(|| format!("an address with a port is expected, not {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(template: &str, expected: &str) {
        let context = Map::from_iter([
            ("name".to_owned(), Value::from("it's <a> $1: #")),
            ("listen".to_owned(), "[::1]:8100".into()),
            ("members".to_owned(), 2.into()),
            ("instance".to_owned(), "/srv/zeo".into()),
        ]);
        let rendered = render_text(template, &context, "t", None);
        let rendered = rendered.unwrap_or_else(|error| error.to_string());
        assert_eq!(rendered, expected, "{template}");
    }

    #[test]
    fn helpers_write_values_as_the_reader_of_the_file_wants_them() {
        check("{{name}}", "it's <a> $1: #");
        check("{{yaml name}}", "'it''s <a> $1: #'");
        check("{{yaml 'plain'}}", "plain");
        check("{{yaml '127.0.0.1:8100'}}", "127.0.0.1:8100");
        check("{{shell name}}", r"'it'\''s <a> $1: #'");
        check("{{python name}}", "\"it's <a> $1: #\"");
        check("{{zconfig name}}", "it's <a> $$1: #");
        check(
            "{{host listen}} {{bare_host listen}} {{port listen}}",
            "[::1] ::1 8100",
        );
        check("{{#if (is_socket 'unix:a')}}yes{{/if}}", "yes");
        check(
            "{{socket 'unix:var/a'}} {{socket 'unix:/a'}}",
            "/srv/zeo/var/a /a",
        );
        check(
            "{{absolute 'var/x'}} {{absolute '/x'}}",
            "/srv/zeo/var/x /x",
        );
        check("{{add members 1}}", "3");
        check("{{sequence 'c#' 1 members}}", "c1, c2");
    }

    #[test]
    fn a_mistake_in_a_template_names_file_line_and_what_was_expected() {
        check(
            "\n\n{{nmae}}",
            "t:3: `nmae` is unknown here; known are: instance, listen, members, name",
        );
        check(
            "\n{{yaml nmae}}",
            "t:2: `nmae` is unknown here; known are: instance, listen, members, name",
        );
        check("{{add 1 'x'}}", "t:1: `add`: two numbers are expected");
        check("{{nothing 1}}", "t:1: Helper not found nothing");
        check(
            "\n{{#if name}}",
            "t:2: a template is expected; an expression `{{…}}` or a block is not closed here",
        );
    }

    #[test]
    fn values_of_parts_may_name_each_other_but_not_in_a_circle() {
        let part = |name: &str, values: &[(&str, &str)]| Part {
            name: name.into(),
            template: String::new(),
            target: format!("etc/{name}"),
            mode: 0o644,
            when: None,
            values: values
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            place: Place {
                file: "r.yaml".into(),
                line: Some(4),
            },
        };
        let surroundings = Surroundings {
            instance: Path::new("/i"),
            program: Path::new("/p"),
        };
        let one = part("one", &[("x", "{{two.y}}!")]);
        let two = part("two", &[("y", "{{one.target}}")]);
        let made = context(&[&one, &two], &Resolved::default(), surroundings).unwrap();
        assert_eq!(made["one"]["x"], "/i/etc/one!");

        let two = part("two", &[("y", "{{one.x}}")]);
        let error = context(&[&one, &two], &Resolved::default(), surroundings).unwrap_err();
        assert!(
            error.to_string().starts_with("r.yaml:4: `two.y`"),
            "{error}"
        );
    }
}
